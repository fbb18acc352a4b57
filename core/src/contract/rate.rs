//! How much may pass in one direction.

use super::ConfigError;
use crate::limits;

/// A token bucket: full at the start, and filled again evenly, as much as it holds in each refill
/// time. `size` in `refill_ms` is the lasting rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// Tokens (bytes, or frames) that it holds.
    pub size: u64,
    /// Milliseconds in which it gains that many.
    pub refill_ms: u64,
    /// Tokens on top at the start, which never come back.
    pub one_time_burst: u64,
}

/// Limits of one direction. A frame passes while every bucket has a token left; what it takes
/// beyond that is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate {
    /// Ethernet bytes, as the guest's card counts them.
    pub bandwidth: Option<Bucket>,
    /// Ethernet frames, likewise.
    pub ops: Option<Bucket>,
}

impl Rate {
    /// Checks the buckets of `field`'s direction.
    pub(super) fn check(&self, field: &RateFields) -> Result<(), ConfigError> {
        let [bandwidth, ops, refill] = field;
        for (field, bucket) in [(bandwidth, &self.bandwidth), (ops, &self.ops)] {
            let Some(bucket) = bucket else { continue };
            let (size, burst) = (bucket.size, bucket.one_time_burst);
            let wrong = if size == 0 { Some(0) } else { Some(size.max(burst)) };
            if let Some(wrong) = wrong.filter(|n| !(1..=limits::BUCKET_TOKENS_MAX).contains(n)) {
                return Err(ConfigError::new(field, wrong, "between 1 and 2^50"));
            }
            if !(1..=limits::BUCKET_REFILL_MS_MAX).contains(&bucket.refill_ms) {
                return Err(ConfigError::new(refill, bucket.refill_ms, "between 1 and 86400000"));
            }
        }
        Ok(())
    }
}

/// How a configuration calls the sizes of both buckets, and their refill times.
pub(super) type RateFields = [&'static str; 3];
