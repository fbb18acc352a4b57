//! How long something took, in buckets that others may read while it is counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of the buckets, in microseconds; one more has what is longer.
const BOUNDS_US: [u64; 14] = [
    100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000,
    2_500_000, 10_000_000,
];

/// Counts of times. Without a lock: a reader may see one that is counted and not summed up yet.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// What a histogram had counted.
pub(crate) struct Counted {
    /// The upper bound of each bucket, in seconds, and how many are in it.
    pub(crate) buckets: Vec<(f64, u64)>,
    pub(crate) count: u64,
    pub(crate) sum_s: f64,
}

impl Histogram {
    /// Counts something that took `time`.
    pub(crate) fn note(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Counted {
        let bounds = BOUNDS_US.iter().map(|us| Duration::from_micros(*us).as_secs_f64());
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<_> = bounds.chain([f64::INFINITY]).zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum_s = Duration::from_micros(self.sum_us.load(Ordering::Relaxed)).as_secs_f64();
        Counted { buckets, count, sum_s }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_bucket_of_its_bound_or_the_next_above() {
        let histogram = Histogram::default();
        for us in [0, 100, 101, 10_000_000, 10_000_001] {
            histogram.note(Duration::from_micros(us));
        }
        let counted = histogram.read();
        let filled: Vec<_> = counted.buckets.iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [&(0.0001, 2), &(0.00025, 1), &(10.0, 1), &(f64::INFINITY, 1)]);
        assert_eq!((counted.count, counted.sum_s), (5, 20.000_202));
    }
}
