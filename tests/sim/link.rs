//! A link that is worse than any real one: frames are lost, doubled, reordered, delayed, damaged.
//!
//! All of it is decided by dice. A damaged frame keeps its length and its Ethernet header, and a
//! single flipped bit is what the checksums above are sure to notice; ARP has none, and is spared.

use std::collections::BTreeMap;

use sluicegate_core::Instant;

use crate::Dice;

/// How bad a link is: chances out of a thousand, times in microseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// A frame is lost.
    pub loss: u64,
    /// A frame comes twice.
    pub double: u64,
    /// One bit of a frame is flipped.
    pub damage: u64,
    /// A frame is held back for up to `late_us_max` more, so that others overtake it.
    pub late: u64,
    /// Every frame takes this long.
    pub delay_us: u64,
    /// How long a frame is held back at most.
    pub late_us_max: u64,
}

/// One direction of a link.
#[derive(Debug)]
pub struct Link {
    weather: Weather,
    dice: Dice,
    /// By time of arrival, then in order of sending.
    under_way: BTreeMap<(Instant, u64), Vec<u8>>,
    sent: u64,
    /// Frames that were damaged.
    pub damaged: u64,
}

impl Link {
    /// A link under `weather`.
    #[must_use]
    pub fn new(weather: Weather, dice: Dice) -> Self {
        Self { weather, dice, under_way: BTreeMap::new(), sent: 0, damaged: 0 }
    }

    /// Sends a frame at `now`.
    pub fn send(&mut self, now: Instant, frame: Vec<u8>) {
        if self.dice.one_of(self.weather.loss) {
            return;
        }
        if self.dice.one_of(self.weather.double) {
            self.put(now, frame.clone());
        }
        self.put(now, frame);
    }

    fn put(&mut self, now: Instant, mut frame: Vec<u8>) {
        let is_arp = frame.get(12..14) == Some(&[0x08, 0x06]);
        if frame.len() > 14 && !is_arp && self.dice.one_of(self.weather.damage) {
            let at = self.dice.between(14, frame.len() as u64 - 1) as usize;
            frame[at] ^= 1 << self.dice.below(8);
            self.damaged += 1;
        }
        let mut delay = self.weather.delay_us;
        if self.dice.one_of(self.weather.late) {
            delay += self.dice.below(self.weather.late_us_max + 1);
        }
        let at = Instant::from_micros(now.as_micros() + delay);
        self.sent += 1;
        self.under_way.insert((at, self.sent), frame);
    }

    /// When the next frame arrives.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.under_way.keys().next().map(|(at, _)| *at)
    }

    /// The next frame that has arrived at `now`.
    pub fn receive(&mut self, now: Instant) -> Option<Vec<u8>> {
        let first = self.under_way.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(first.remove())
    }
}
