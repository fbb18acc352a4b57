//! How fast frames may pass in one direction: token buckets for bytes and for frames.
//!
//! Owns the arithmetic of a bucket; must not know which way the frames go. A bucket holds up to
//! `size` tokens and gains that many in each refill time, evenly; it starts full, with a one-time
//! burst on top that never comes back. While there is any token a frame may pass, however long: the
//! bucket then owes the rest, so the rate holds on average and no frame is too long to pass at all.
//! What passes unasked (answers to ARP, for one) is paid as well.

use crate::contract::{Bucket, Instant, Offload, Rate};

/// Tokens in parts of one: a bucket gains `size` parts a microsecond, and a token has as many parts
/// as the refill time has microseconds. So nothing is ever rounded.
#[derive(Debug, Clone, Copy)]
struct Level {
    parts: i128,
    parts_max: i128,
    gain_per_us: i128,
    parts_per_token: i128,
    /// Tokens of the one-time burst that are left.
    burst: u64,
}

impl Level {
    fn full(bucket: &Bucket) -> Self {
        let parts_per_token = i128::from(bucket.refill_ms) * 1000;
        let parts_max = i128::from(bucket.size) * parts_per_token;
        Self {
            parts: parts_max,
            parts_max,
            gain_per_us: i128::from(bucket.size),
            parts_per_token,
            burst: bucket.one_time_burst,
        }
    }

    fn refill(&mut self, elapsed_us: u64) {
        let gain = self.gain_per_us.saturating_mul(elapsed_us.into());
        self.parts = self.parts.saturating_add(gain).min(self.parts_max);
    }

    fn take(&mut self, tokens: u64) {
        let from_burst = tokens.min(self.burst);
        self.burst -= from_burst;
        self.parts -= i128::from(tokens - from_burst) * self.parts_per_token;
    }

    /// How long until there is a token, or most of one.
    fn wait_us(&self) -> u64 {
        if self.burst > 0 || self.parts > 0 {
            return 0;
        }
        u64::try_from((1 - self.parts).div_euclid(self.gain_per_us) + 1).unwrap_or(u64::MAX)
    }
}

/// The buckets of one direction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    bytes: Option<Level>,
    frames: Option<Level>,
    /// When they were last refilled.
    at: Instant,
}

impl Pace {
    /// Full buckets as `rate` has them.
    pub(crate) fn new(rate: &Rate, now: Instant) -> Self {
        Self {
            bytes: rate.bandwidth.as_ref().map(Level::full),
            frames: rate.ops.as_ref().map(Level::full),
            at: now,
        }
    }

    fn levels(&mut self) -> impl Iterator<Item = &mut Level> {
        self.bytes.iter_mut().chain(&mut self.frames)
    }

    /// Adds what was gained since the last time.
    pub(crate) fn refill(&mut self, now: Instant) {
        let elapsed_us = now.as_micros().saturating_sub(self.at.as_micros());
        self.at = now;
        self.levels().for_each(|level| level.refill(elapsed_us));
    }

    fn take(&mut self, bytes: usize, frames: usize) {
        if let Some(level) = &mut self.bytes {
            level.take(bytes as u64);
        }
        if let Some(level) = &mut self.frames {
            level.take(frames as u64);
        }
    }

    /// Pays for a frame of `len` bytes: for all that it is to be cut into, each with its headers.
    pub(crate) fn take_frame(&mut self, len: usize, offload: Offload) {
        let frames = offload.frames(len);
        self.take(len + (frames - 1) * usize::from(offload.header_bytes), frames);
    }

    /// Whether a frame may pass.
    pub(crate) fn is_open(&self) -> bool {
        self.opens_at() <= self.at
    }

    /// When a frame may pass, if nothing does before.
    pub(crate) fn opens_at(&self) -> Instant {
        let waits = self.bytes.iter().chain(&self.frames).map(Level::wait_us);
        self.at.plus_micros(waits.max().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;

    fn bytes(size: u64, refill_ms: u64, one_time_burst: u64) -> Rate {
        Rate { bandwidth: Some(Bucket { size, refill_ms, one_time_burst }), ops: None }
    }

    fn at(us: u64) -> Instant {
        Instant::ZERO.plus_micros(us)
    }

    #[test]
    fn a_bucket_owes_what_a_frame_takes_beyond_it_and_opens_when_that_is_paid() {
        let mut pace = Pace::new(&bytes(1000, 1000, 0), at(0)); // a byte a millisecond
        pace.take(1500, 1);
        assert!(!pace.is_open());
        let opens = pace.opens_at();
        assert!((at(500_000)..=at(500_002)).contains(&opens), "{opens:?}");
        pace.refill(at(499_999));
        assert!(!pace.is_open());
        pace.refill(opens);
        assert!(pace.is_open());
    }

    #[test]
    fn what_passes_unasked_is_owed_on_top() {
        let mut pace = Pace::new(&bytes(1000, 1000, 0), at(0));
        pace.take(1500, 1);
        pace.take(100, 1);
        let opens = pace.opens_at();
        assert!((at(600_000)..=at(600_002)).contains(&opens), "{opens:?}");
    }

    #[test]
    fn a_burst_is_used_up_first_and_never_comes_back() {
        let mut pace = Pace::new(&bytes(100, 1, 500), at(0));
        pace.take(500, 1);
        pace.take(100, 1);
        assert!(!pace.is_open());
        pace.refill(at(3_600_000_000));
        pace.take(100, 1);
        assert!(!pace.is_open());
    }

    #[test]
    fn both_buckets_must_have_a_token() {
        let ops = Some(Bucket { size: 2, refill_ms: 1000, one_time_burst: 0 });
        let mut pace = Pace::new(&Rate { ops, ..bytes(1_000_000, 1, 0) }, at(0));
        pace.take(1, 2);
        assert!(!pace.is_open());
        assert!(pace.opens_at() <= at(2), "any part of a token opens it");
    }

    #[test]
    fn the_largest_bucket_after_the_longest_time_does_not_overflow() {
        let most = limits::BUCKET_TOKENS_MAX;
        let mut pace = Pace::new(&bytes(most, limits::BUCKET_REFILL_MS_MAX, most), at(0));
        pace.take(usize::MAX, 1);
        pace.refill(at(u64::MAX));
        assert!(pace.is_open());
    }
}
