//! `rate_limiter`: how much may pass each way.

use serde::Deserialize;
use sluicegate_core::{Bucket, Rate};

use crate::error::LoadError;

/// Limits of the guest's traffic; what is `None` is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimiterConfig {
    /// What the guest sends.
    pub egress: Option<RateConfig>,
    /// What it is sent.
    pub ingress: Option<RateConfig>,
}

/// Limits of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateConfig {
    /// Ethernet bytes.
    pub bandwidth: Option<BucketConfig>,
    /// Ethernet frames.
    pub ops: Option<BucketConfig>,
}

/// A token bucket: full at first, and filled again, evenly, in each refill time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketConfig {
    /// Bytes or frames that it holds.
    pub size: u64,
    /// Milliseconds in which it gains that many.
    pub refill_time_ms: u64,
    /// Bytes or frames on top at the start, which never come back.
    #[serde(default, deserialize_with = "burst")]
    pub one_time_burst: u64,
}

/// The peer's configurations say `null` for none.
fn burst<'de, D: serde::Deserializer<'de>>(value: D) -> Result<u64, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or(0))
}

impl RateLimiterConfig {
    /// Refuses a limiter that limits nothing: whoever wrote it meant something else.
    pub(super) fn check(self) -> Result<Self, LoadError> {
        let empty = |rate: &RateConfig| rate.bandwidth.is_none() && rate.ops.is_none();
        let field = match (&self.egress, &self.ingress) {
            (None, None) => "rate_limiter",
            (Some(rate), _) if empty(rate) => "rate_limiter.egress",
            (_, Some(rate)) if empty(rate) => "rate_limiter.ingress",
            _ => return Ok(self),
        };
        Err(LoadError::Nothing { field })
    }
}

impl RateConfig {
    /// As the engine has it, which checks the ranges.
    pub(super) fn to_core(self) -> Rate {
        Rate {
            bandwidth: self.bandwidth.map(BucketConfig::to_core),
            ops: self.ops.map(BucketConfig::to_core),
        }
    }
}

impl BucketConfig {
    fn to_core(self) -> Bucket {
        let Self { size, refill_time_ms, one_time_burst } = self;
        Bucket { size, refill_ms: refill_time_ms, one_time_burst }
    }
}

#[cfg(test)]
mod tests {
    use crate::NetworkConfig;

    fn load(limiter: &str) -> Result<sluicegate_core::Config, String> {
        let json = format!(r#"{{"rate_limiter": {limiter}}}"#);
        let config = NetworkConfig::from_json(&json).map_err(|error| error.to_string())?;
        config.to_core(0, [0; 16]).map_err(|error| error.to_string())
    }

    #[test]
    fn egress_is_what_the_guest_sends_and_ingress_what_it_is_sent() {
        let config = load(
            r#"{"egress": {"bandwidth": {"size": 125000, "refill_time_ms": 1000}},
                "ingress": {"ops": {"size": 10, "refill_time_ms": 5, "one_time_burst": 7}}}"#,
        )
        .unwrap();
        let sent = config.from_guest_rate.unwrap();
        assert_eq!((sent.bandwidth.unwrap().size, sent.ops), (125_000, None));
        let received = config.to_guest_rate.unwrap();
        assert_eq!((received.bandwidth, received.ops.unwrap().one_time_burst), (None, 7));
        assert!(load("null").unwrap().from_guest_rate.is_none());
    }

    #[test]
    fn what_limits_nothing_or_is_out_of_range_is_refused_by_name() {
        for (limiter, expected) in [
            ("{}", "rate_limiter: it limits nothing"),
            (r#"{"egress": {}}"#, "rate_limiter.egress: it limits nothing"),
            (r#"{"ingress": {"bandwidth": null}}"#, "rate_limiter.ingress: it limits nothing"),
            (
                r#"{"egress": {"bandwidth": {"size": 0, "refill_time_ms": 1}}}"#,
                "rate_limiter.egress.bandwidth.size: 0 is not between 1 and 2^50",
            ),
            (
                r#"{"ingress": {"ops": {"size": 1, "refill_time_ms": 0}}}"#,
                "rate_limiter.ingress.*.refill_time_ms: 0 is not between 1 and 86400000",
            ),
            (r#"{"egress": {"ops": {"size": 1}}}"#, "refill_time_ms"),
            (r#"{"egress": {"ops": {"size": -1, "refill_time_ms": 1}}}"#, "size"),
        ] {
            let error = load(limiter).expect_err(limiter);
            assert!(error.contains(expected), "{limiter}: {error}");
        }
    }
}
