//! What runs on both ends of a connection: it sends what it has, reads what comes, at its own pace,
//! and knows how it must end.

use core::net::SocketAddr;

use sim::core::{Instant, Refusal};
use sim::{Dice, Pattern};

use super::callers::Call;
use super::lines::{self, Line};
use super::names::Names;
use super::words::Words;

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Both sides finish.
    Close,
    /// The outside resets in the middle.
    OutsideReset,
    /// The outside finishes, and resets instead of reading on.
    FinishThenReset,
    /// The guest resets in the middle.
    GuestReset,
    /// The host's connect fails.
    Refused(Refusal),
    /// The outside resets what is not connected yet.
    ResetEarly,
    /// Nobody ever answers the connect.
    Unanswered,
    /// The outside reads no more, for ever, and the guest finishes.
    Stuck,
    /// The guest refuses who calls it: nobody listens.
    NotListening,
    /// The guest never answers who calls it.
    Deaf,
}

/// How policy has denied a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// It was ended, which had begun.
    Ended,
    /// The guest was refused, or will be.
    Refused {
        /// It was refused already, as it was meant to be.
        before: bool,
    },
}

/// All that a host's connect may fail with.
pub(crate) const REFUSALS: [Refusal; 8] = [
    Refusal::Refused,
    Refusal::HostUnreachable,
    Refusal::NetUnreachable,
    Refusal::TimedOut,
    Refusal::Forbidden,
    Refusal::TooBig { mtu: 1400 },
    Refusal::Expired,
    Refusal::Exhausted,
];

/// The port outside of the first connection; each has its own.
pub(crate) const OUTSIDE: u16 = 1000;
/// The number of the connection whose other end is `to`.
pub(crate) fn number(to: SocketAddr) -> u16 {
    if lines::is_line(to.port()) { lines::number(to.ip()) } else { to.port() - OUTSIDE }
}

/// Bytes of the guest that fit the least buffer of an engine, so that it can finish while nobody
/// reads.
const STUCK_BYTES_MAX: u64 = 2000;
/// How long a guest may say no more in its first words: longer than the engine waits.
const HESITATION_MS_MAX: u64 = 8000;
/// When a connection of the guest begins at the latest.
const START_MS_MAX: u64 = 3000;
/// How long a host may take to answer a connect.
const ANSWER_MS_MAX: u64 = 20_000;
/// How long a host may take no byte: less than what the engine gives a finished direction.
const PAUSE_MS_MAX: u64 = 20_000;

/// One direction of a connection.
#[derive(Debug)]
pub(crate) struct Way {
    /// Bytes to go in all.
    len: u64,
    /// What they begin with, how much of that was written, and how much arrived.
    head: Vec<u8>,
    head_written: usize,
    head_arrived: usize,
    /// What was written behind that.
    written: Pattern,
    /// What arrived behind that.
    arrived: Pattern,
    /// How many bytes the reader takes at a time; it pauses between.
    pub(crate) gulp: u64,
    /// Reads per thousand steps.
    pub(crate) appetite: u64,
    /// How many bytes the writer has at a time.
    pub(crate) spurt: u64,
}

impl Way {
    fn new(key: u64, dice: &mut Dice) -> Self {
        let len = match dice.below(4) {
            0 => 0,
            1 => dice.below(2000),
            2 => dice.below(30_000),
            _ => dice.below(200_000),
        };
        // A few bytes at a time, where that has an end.
        let few = |dice: &mut Dice| (len < 3000 && dice.one_of(150)).then(|| dice.between(1, 40));
        let gulp = if dice.one_of(300) { dice.between(1000, 8000) } else { 1 << 20 };
        Self {
            len,
            head: vec![],
            head_written: 0,
            head_arrived: 0,
            written: Pattern::new(key),
            arrived: Pattern::new(key),
            gulp: few(dice).unwrap_or(gulp),
            appetite: if dice.one_of(300) { 300 } else { 1000 },
            spurt: few(dice).unwrap_or(40_000),
        }
    }

    /// The next bytes to write, if up to `room` are wanted.
    pub(crate) fn write(&mut self, room: usize) -> Vec<u8> {
        let left = self.len - self.written_len();
        let len = left.min(room as u64) as usize;
        let rest = &self.head[self.head_written..];
        let mut bytes = rest[..len.min(rest.len())].to_vec();
        self.head_written += bytes.len();
        bytes.extend(self.written.take(len - bytes.len()));
        bytes
    }

    /// Checks that `bytes` are what comes next.
    pub(crate) fn check(&mut self, bytes: &[u8]) {
        let rest = &self.head[self.head_arrived..];
        let (head, tail) = bytes.split_at(bytes.len().min(rest.len()));
        assert!(rest.starts_with(head), "first words that were not said: {head:?}");
        self.head_arrived += head.len();
        self.arrived.check(tail);
    }

    /// Lets it begin with `head`.
    fn begin_with(&mut self, head: Vec<u8>) {
        self.len += head.len() as u64;
        self.head = head;
    }

    fn written_len(&self) -> u64 {
        self.head_written as u64 + self.written.len()
    }

    fn arrived_len(&self) -> u64 {
        self.head_arrived as u64 + self.arrived.len()
    }

    pub(crate) fn is_written(&self) -> bool {
        self.written_len() == self.len
    }

    pub(crate) fn has_arrived(&self) -> bool {
        self.arrived_len() == self.len
    }
}

/// The guest says no more for a while.
#[derive(Debug)]
struct Hesitation {
    /// After so many bytes.
    after: u64,
    ms: u64,
    until: Option<Instant>,
}

impl Hesitation {
    /// How many bytes it says at `now`, after `said`.
    fn room(&mut self, now: Instant, said: u64) -> u64 {
        if said < self.after {
            return self.after - said;
        }
        let until = *self.until.get_or_insert(now.plus_millis(self.ms));
        if now < until { 0 } else { u64::MAX }
    }
}

/// Both ends of one connection.
#[derive(Debug)]
pub(crate) struct App {
    /// The other end, which the guest calls, or by which it is called.
    pub(crate) to: SocketAddr,
    /// The outside calls.
    pub(crate) call: Option<Call>,
    /// What is asked and answered, where it is names.
    pub(crate) line: Option<Line>,
    /// What the guest says first, where that matters.
    pub(crate) words: Option<Words>,
    pub(crate) up: Way,
    pub(crate) down: Way,
    pub(crate) ending: Ending,
    /// Bytes after which a reset comes, of both directions together.
    pub(crate) reset_after: u64,
    /// How long the outside takes to answer the connect.
    pub(crate) answer_ms: u64,
    /// The outside takes nothing for so long once it has this many bytes.
    pub(crate) pause: (u64, u64),
    paused_until: Option<Instant>,
    hesitation: Option<Hesitation>,
    /// The guest waits for the outside's end before it finishes.
    pub(crate) guest_last: bool,
    /// The outside waits for the guest's end before it finishes.
    pub(crate) outside_last: bool,
    /// When the guest begins, in milliseconds from the start.
    pub(crate) start_ms: u64,
    /// Policy has denied it.
    pub(crate) denied: Option<Denied>,
    /// There was no place for it, which is how it was denied.
    pub(crate) is_crowded: bool,
    /// It was refused and asked once more, or the other way round: how it ends is not known.
    pub(crate) is_muddled: bool,
    /// The guest has reset, or was told that the connection is no more.
    pub(crate) was_reset: bool,
}

impl App {
    pub(crate) fn new(index: u16, dice: &mut Dice) -> Self {
        let outside = sim::frame::OUTSIDES[dice.below(2) as usize];
        // No protocol that anybody knows begins so, and may be one in which a name is said.
        let mut key = dice.draw();
        while Pattern::new(key).take(1)[0] < 0x80 {
            key = dice.draw();
        }
        let (mut up, down) = (Way::new(key, dice), Way::new(key ^ 1, dice));
        let total = up.len + down.len;
        let ending = match dice.below(20) {
            0 | 1 if total > 100 => Ending::OutsideReset,
            2 if total > 100 => Ending::FinishThenReset,
            3 | 4 if total > 100 => Ending::GuestReset,
            5..8 => Ending::Refused(REFUSALS[dice.below(8) as usize]),
            8 => Ending::ResetEarly,
            9 => Ending::Unanswered,
            10 => Ending::Stuck,
            _ => Ending::Close,
        };
        if ending == Ending::Stuck {
            up.len = up.len.clamp(1, STUCK_BYTES_MAX);
        }
        let order = dice.below(3);
        let rarely = |dice: &mut Dice, ms| if dice.one_of(50) { dice.below(ms) } else { 0 };
        Self {
            to: SocketAddr::new(outside, OUTSIDE + index),
            call: None,
            line: None,
            words: None,
            reset_after: dice.below(total / 2 + 1),
            answer_ms: rarely(dice, ANSWER_MS_MAX),
            pause: (dice.below(up.len + 1), rarely(dice, PAUSE_MS_MAX)),
            paused_until: None,
            hesitation: None,
            up,
            down,
            ending,
            guest_last: order == 1,
            outside_last: order == 2,
            start_ms: if dice.one_of(300) { dice.below(START_MS_MAX) } else { 0 },
            denied: None,
            is_crowded: false,
            is_muddled: false,
            was_reset: false,
        }
    }

    /// The same for a connection from outside.
    pub(crate) fn called(index: u16, dice: &mut Dice) -> Self {
        let app = Self::new(index, dice);
        let (call, to) = Call::new(index, dice);
        let ending = match app.ending {
            Ending::Refused(_) => Ending::NotListening,
            Ending::Unanswered => Ending::Deaf,
            Ending::Close
            | Ending::OutsideReset
            | Ending::FinishThenReset
            | Ending::GuestReset
            | Ending::ResetEarly
            | Ending::Stuck
            | Ending::NotListening
            | Ending::Deaf => app.ending,
        };
        Self { to, call: Some(call), ending, start_ms: 0, ..app }
    }

    /// The same for one that may turn on what the guest says first; where it goes is decided when
    /// it begins.
    pub(crate) fn speaker(index: u16, dice: &mut Dice) -> Self {
        let mut app = Self::new(index, dice);
        let words = Words::new(dice);
        app.up.begin_with(words.bytes.clone());
        app.start_ms = dice.between(1, START_MS_MAX);
        app.hesitation = dice.one_of(300).then(|| {
            let after = dice.below(words.bytes.len() as u64);
            Hesitation { after, ms: dice.below(HESITATION_MS_MAX), until: None }
        });
        Self { words: Some(words), ending: Ending::Close, ..app }
    }

    /// A connection on which names are asked.
    pub(crate) fn line(index: u16, dice: &mut Dice) -> Self {
        let mut app = Self::new(index, dice);
        (app.up.len, app.down.len) = (0, 0);
        (app.guest_last, app.outside_last) = (false, true);
        let to = lines::server(index, dice);
        let line = Some(Line::new(to, dice));
        let start_ms = dice.between(1, START_MS_MAX);
        Self { to, line, ending: Ending::Close, start_ms, ..app }
    }

    /// The guest asks all that it has to ask.
    pub(crate) fn ask(&mut self, names: &mut Names) {
        if let Some(line) = &mut self.line {
            self.up.begin_with(line.ask(names));
        }
    }

    /// The guest reads `bytes`.
    pub(crate) fn hear(&mut self, bytes: &[u8], names: &Names) {
        match &mut self.line {
            Some(line) => line.hear(bytes, names),
            None => self.down.check(bytes),
        }
    }

    /// Whether it is not to be known how it ends.
    pub(crate) fn is_muddled(&self) -> bool {
        self.is_muddled || self.words.as_ref().is_some_and(|words| words.is_muddled)
    }

    /// How it went, in a few words.
    pub(crate) fn story(&self) -> String {
        match (&self.call, &self.words, &self.line, self.denied) {
            (Some(call), ..) => call.story(),
            (_, Some(words), ..) => words.story(),
            (.., Some(line), _) => line.story().to_owned(),
            (.., Some(denied)) => format!("the guest calls, and is {denied:?}"),
            _ => "the guest calls".to_owned(),
        }
    }

    /// The guest's next bytes at `now`, if up to `room` are wanted.
    pub(crate) fn say(&mut self, now: Instant, room: usize) -> Vec<u8> {
        let said = self.up.written_len();
        let says = self.hesitation.as_mut().map_or(u64::MAX, |one| one.room(now, said));
        self.up.write(room.min(usize::try_from(says).unwrap_or(usize::MAX)))
    }

    /// Takes what reached the outside.
    pub(crate) fn arrive(&mut self, bytes: &[u8]) {
        let may = self.words.as_ref().is_none_or(|words| words.may_pass().1);
        assert!(may || bytes.is_empty(), "{bytes:?} before a verdict: {:?}", self.words);
        self.up.check(bytes);
    }

    /// Whether it is a line that the host does not have yet, in TLS.
    pub(crate) fn has_held_line(&self) -> bool {
        self.line.as_ref().is_some_and(Line::is_held)
    }

    /// Whether the guest has yet to answer who calls it.
    pub(crate) fn rings(&self) -> bool {
        self.call.as_ref().is_some_and(Call::rings)
    }

    /// Whether a reset is due.
    pub(crate) fn is_at_reset(&self) -> bool {
        self.up.arrived_len() + self.down.arrived_len() >= self.reset_after
    }

    /// Whether the guest finishes once it has sent everything.
    pub(crate) fn guest_finishes(&self, has_heard_end: bool) -> bool {
        match self.ending {
            Ending::Close => !self.guest_last || has_heard_end,
            Ending::Stuck => true,
            Ending::OutsideReset
            | Ending::FinishThenReset
            | Ending::GuestReset
            | Ending::Refused(_)
            | Ending::ResetEarly
            | Ending::Unanswered
            | Ending::NotListening
            | Ending::Deaf => false,
        }
    }

    /// Whether the outside finishes once it has given everything.
    pub(crate) fn outside_finishes(&self, has_heard_end: bool) -> bool {
        match self.ending {
            Ending::Close => !self.outside_last || has_heard_end,
            Ending::FinishThenReset => true,
            Ending::OutsideReset
            | Ending::GuestReset
            | Ending::Refused(_)
            | Ending::ResetEarly
            | Ending::Unanswered
            | Ending::Stuck
            | Ending::NotListening
            | Ending::Deaf => false,
        }
    }

    /// Whether the outside takes bytes at `now`, whatever its appetite.
    pub(crate) fn outside_takes(&mut self, now: Instant) -> bool {
        if self.ending == Ending::Stuck {
            return false;
        }
        let (after, ms) = self.pause;
        if ms > 0 && self.paused_until.is_none() && self.up.arrived_len() >= after {
            self.paused_until = Some(now.plus_millis(ms));
        }
        self.paused_until.is_none_or(|until| until <= now)
    }
}
