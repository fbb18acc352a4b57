//! What runs on both ends of a connection: it sends what it has, reads what comes, at its own pace,
//! and knows how it must end.

use core::net::SocketAddr;

use sim::{Dice, Pattern};

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Both sides finish.
    Close,
    /// The outside resets in the middle.
    OutsideReset,
    /// The guest resets in the middle.
    GuestReset,
    /// The outside refuses.
    Refused,
}

/// One direction of a connection.
#[derive(Debug)]
pub(crate) struct Way {
    /// Bytes to go in all.
    pub(crate) len: u64,
    /// What was written.
    pub(crate) written: Pattern,
    /// What arrived.
    pub(crate) arrived: Pattern,
    /// How many bytes the reader takes at a time; it pauses between.
    pub(crate) gulp: u64,
    /// Reads per thousand steps.
    pub(crate) appetite: u64,
}

impl Way {
    fn new(key: u64, dice: &mut Dice) -> Self {
        let len = match dice.below(4) {
            0 => 0,
            1 => dice.below(2000),
            2 => dice.below(30_000),
            _ => dice.below(200_000),
        };
        Self {
            len,
            written: Pattern::new(key),
            arrived: Pattern::new(key),
            gulp: if dice.one_of(300) { dice.between(1000, 8000) } else { 1 << 20 },
            appetite: if dice.one_of(300) { 300 } else { 1000 },
        }
    }

    /// The next bytes to write, if up to `room` are wanted.
    pub(crate) fn write(&mut self, room: usize) -> Vec<u8> {
        let left = self.len - self.written.len();
        self.written.take(left.min(room as u64) as usize)
    }

    pub(crate) fn is_written(&self) -> bool {
        self.written.len() == self.len
    }

    pub(crate) fn has_arrived(&self) -> bool {
        self.arrived.len() == self.len
    }
}

/// Both ends of one connection.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) to: SocketAddr,
    pub(crate) up: Way,
    pub(crate) down: Way,
    pub(crate) ending: Ending,
    /// Bytes after which a reset comes, of both directions together.
    pub(crate) reset_after: u64,
    /// The guest waits for the outside's end before it finishes.
    pub(crate) guest_last: bool,
    /// The outside waits for the guest's end before it finishes.
    pub(crate) outside_last: bool,
    /// The guest has reset, or seen a reset.
    pub(crate) was_reset: bool,
}

impl App {
    pub(crate) fn new(index: u16, dice: &mut Dice) -> Self {
        let outside = sim::frame::OUTSIDES[dice.below(2) as usize];
        let key = dice.draw();
        let (up, down) = (Way::new(key, dice), Way::new(key ^ 1, dice));
        let total = up.len + down.len;
        let ending = match dice.below(10) {
            0 if total > 100 => Ending::OutsideReset,
            1 if total > 100 => Ending::GuestReset,
            2 => Ending::Refused,
            _ => Ending::Close,
        };
        let order = dice.below(3);
        Self {
            to: SocketAddr::new(outside, 1000 + index),
            up,
            down,
            ending,
            reset_after: dice.below(total / 2 + 1),
            guest_last: order == 1,
            outside_last: order == 2,
            was_reset: false,
        }
    }

    /// Whether a reset is due.
    pub(crate) fn is_at_reset(&self) -> bool {
        self.up.arrived.len() + self.down.arrived.len() >= self.reset_after
    }
}
