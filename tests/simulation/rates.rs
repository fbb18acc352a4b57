//! Rates: token buckets for bytes and for frames, each way, which may change in the middle. A model
//! that knows only when each bucket would be full again says what may pass.
//!
//! What the guest sends waits in its ring, and is heard by every model when the engine takes it.
//! Of what it is sent, data waits; answers that are owed at once (resets, errors, ARP, pings of the
//! gateway, acknowledgements) pass and are paid. Nothing is lost by it.

use std::collections::VecDeque;

use sim::core::{Bucket, Config, Instant, Rate, WaitReason};
use sim::frame::gateway;
use sim::{Dice, Message, Seen, World};

/// Tokens of a bucket at most, and what it gains in a millisecond: so much that a run has an end.
const BYTES_MAX: u64 = 20_000;
const BYTES_PER_MS: (u64, u64) = (200, 4000);
const FRAMES_MAX: u64 = 50;
const FRAMES_PER_MS: (u64, u64) = (1, 10);

/// What limits each direction in one stretch of a run: what the guest sends, and what it is sent.
pub(crate) type Limits = [Option<Rate>; 2];

/// What limits a run with `count` stretches: mostly nothing.
pub(crate) fn plan(count: usize, dice: &mut Dice) -> Vec<Limits> {
    let mut all = vec![[None; 2]; count];
    for way in 0..2 {
        if !dice.one_of(250) {
            continue;
        }
        let mut limit = some(dice);
        for limits in &mut all {
            limits[way] = limit;
            limit = match dice.below(4) {
                0 | 1 => limit,
                2 => None,
                _ => some(dice),
            };
        }
    }
    all
}

fn some(dice: &mut Dice) -> Option<Rate> {
    let bucket = |most: u64, (low, high): (u64, u64), dice: &mut Dice| {
        let (per_ms, wish) = (dice.between(low, high), dice.between(1, most));
        // It gains at least what was meant, as times are whole.
        let refill_ms = (wish / per_ms).max(1);
        let one_time_burst = if dice.one_of(300) { dice.below(5 * most) } else { 0 };
        Bucket { size: refill_ms * per_ms, refill_ms, one_time_burst }
    };
    let mut rate = Rate::default();
    while rate == Rate::default() {
        rate.bandwidth = dice.one_of(600).then(|| bucket(BYTES_MAX, BYTES_PER_MS, dice));
        rate.ops = dice.one_of(400).then(|| bucket(FRAMES_MAX, FRAMES_PER_MS, dice));
    }
    Some(rate)
}

/// A bucket, which would be full again at some time: in parts of a microsecond, of which a token
/// takes as many as the refill time has microseconds.
#[derive(Debug)]
struct Level {
    bucket: Bucket,
    burst: u64,
    full_at: u128,
}

impl Level {
    fn new(bucket: Bucket) -> Self {
        Self { bucket, burst: bucket.one_time_burst, full_at: 0 }
    }

    fn refill_us(&self) -> u128 {
        u128::from(self.bucket.refill_ms) * 1000
    }

    fn take(&mut self, now: Instant, tokens: u64) {
        let from_burst = tokens.min(self.burst);
        self.burst -= from_burst;
        let now = u128::from(now.as_micros()) * u128::from(self.bucket.size);
        self.full_at = self.full_at.max(now) + u128::from(tokens - from_burst) * self.refill_us();
    }

    /// When there is a token, or a part of one.
    fn opens_at(&self) -> Instant {
        let size = u128::from(self.bucket.size);
        let is_empty_at = self.full_at.saturating_sub(self.refill_us() * size);
        let us = if self.burst > 0 || self.full_at < self.refill_us() * size {
            0
        } else {
            is_empty_at / size + 1
        };
        Instant::from_micros(us as u64)
    }
}

/// What may pass in one direction.
#[derive(Debug, Default)]
struct Way {
    rate: Option<Rate>,
    bytes: Option<Level>,
    frames: Option<Level>,
    /// It was closed when something wanted to pass.
    has_waited: bool,
}

impl Way {
    /// `rate` holds from now on; one that is the same goes on.
    fn change(&mut self, rate: Option<Rate>) {
        if self.rate != rate {
            let level = |bucket: Option<Bucket>| bucket.map(Level::new);
            self.bytes = level(rate.and_then(|rate| rate.bandwidth));
            self.frames = level(rate.and_then(|rate| rate.ops));
            self.rate = rate;
        }
    }

    fn opens_at(&self) -> Instant {
        let levels = self.bytes.iter().chain(&self.frames);
        levels.map(Level::opens_at).max().unwrap_or(Instant::ZERO)
    }

    fn take(&mut self, now: Instant, bytes: usize, frames: usize) {
        self.bytes.iter_mut().for_each(|level| level.take(now, bytes as u64));
        self.frames.iter_mut().for_each(|level| level.take(now, frames as u64));
    }
}

/// The model of both directions.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    from_guest: Way,
    to_guest: Way,
    /// Frames of the guest in the ring.
    waiting: VecDeque<Vec<u8>>,
    /// How many the engine has taken.
    taken: u64,
    /// Records for the guest that were looked at, and their frames.
    looked: (usize, usize),
    /// The guest took nothing until there was no room.
    has_filled: bool,
}

impl Rates {
    pub(crate) fn new([from_guest, to_guest]: Limits) -> Self {
        let mut rates = Self::default();
        rates.from_guest.change(from_guest);
        rates.to_guest.change(to_guest);
        rates
    }

    /// What `config` says holds from now on; what passed before was looked at.
    pub(crate) fn change(&mut self, config: &Config) {
        self.from_guest.change(config.from_guest_rate);
        self.to_guest.change(config.to_guest_rate);
    }

    /// The guest's `frame` is in the ring.
    pub(crate) fn pushed(&mut self, frame: Vec<u8>) {
        self.waiting.push_back(frame);
    }

    /// Whether a frame of the guest is in the ring.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The frames that the engine has taken, each of which it might.
    pub(crate) fn heard(&mut self, now: Instant, world: &World<'_>) -> Vec<Vec<u8>> {
        let taken = world.counters().frames_from_guest;
        let count = core::mem::replace(&mut self.taken, taken);
        let heard: Vec<Vec<u8>> = self.waiting.drain(..(taken - count) as usize).collect();
        for frame in &heard {
            let opens_at = self.from_guest.opens_at();
            assert!(opens_at <= now, "taken at {now:?}, before {opens_at:?}: {self:?}");
            self.from_guest.take(now, frame.len(), 1);
        }
        heard
    }

    /// Looks at what the guest was sent since it was last looked at.
    pub(crate) fn look(&mut self, now: Instant, world: &World<'_>) {
        assert_eq!(self.taken, world.counters().frames_from_guest, "taken behind the models");
        let (records, frames) = &mut self.looked;
        for count in &world.records[*records..] {
            let record = &world.inbox[*frames..*frames + count];
            let opens_at = self.to_guest.opens_at();
            let may = opens_at <= now || !record.iter().any(waits);
            assert!(may, "sent at {now:?}, before {opens_at:?}: {record:?}");
            let bytes = record.iter().map(|seen| seen.len).sum();
            self.to_guest.take(now, bytes, *count);
            *frames += count;
        }
        *records = world.records.len();
    }

    /// Whether data for the guest waits.
    pub(crate) fn is_closed(&self, now: Instant) -> bool {
        self.to_guest.opens_at() > now
    }

    /// What the guest was sent goes to it.
    pub(crate) fn sent(&mut self) {
        self.looked = (0, 0);
    }

    /// The engine has done at `now` what it can: nothing waits that may pass, and it will wake in
    /// time for what may not.
    pub(crate) fn check(&mut self, now: Instant, world: &World<'_>) {
        let (until, why) = world.wait();
        let opens_at = self.from_guest.opens_at();
        let is_closed = opens_at > now;
        assert!(is_closed || self.waiting.is_empty(), "{} wait at {now:?}", self.waiting.len());
        self.from_guest.has_waited |= !self.waiting.is_empty();
        let opens_at = [opens_at, self.to_guest.opens_at()].into_iter().filter(|at| *at > now);
        if let Some(first) = opens_at.min() {
            let in_time = until.is_some_and(|until| until <= first.plus_micros(1));
            assert!(in_time, "it opens at {first:?}, and {why:?} until {until:?}");
        }
        self.to_guest.has_waited |= self.to_guest.opens_at() > now;
        self.has_filled |= world.stalled && why == WaitReason::GuestRingFull;
    }

    /// What has waited, in a few words.
    pub(crate) fn stories(&self, is_beside_caps: bool) -> impl Iterator<Item = &'static str> {
        let (from_guest, to_guest) = (self.from_guest.has_waited, self.to_guest.has_waited);
        let all = [
            (from_guest, "what the guest sends waits"),
            (to_guest, "what the guest is sent waits"),
            (from_guest && is_beside_caps, "what the guest sends waits, beside caps"),
            (to_guest && is_beside_caps, "what the guest is sent waits, beside caps"),
            (self.has_filled, "the ring of a guest that stalls is full"),
            (self.has_filled && to_guest, "the ring of a guest that stalls is full, beside a rate"),
        ];
        all.into_iter().filter(|(is_so, _)| *is_so).map(|(_, story)| story)
    }
}

/// Whether `seen` waits where the guest is sent no more for now.
fn waits(seen: &Seen) -> bool {
    match &seen.message {
        Message::Tcp(segment) => !segment.payload.is_empty(),
        Message::Udp { .. } => true,
        Message::Icmp(icmp) => matches!(icmp.kind, 0 | 129) && icmp.ends.0 != gateway(icmp.ends.0),
        // The first of an answer in pieces waits, and the others follow it.
        Message::Piece(piece) => piece.offset == 0 && piece.ends.0 != gateway(piece.ends.0),
        Message::Arp { .. } => false,
    }
}
