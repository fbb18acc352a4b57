//! The only reading of the clocks: the monotonic one, and that on the wall.

use sluicegate_core::Instant;

/// A monotonic clock whose origin is its making.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// A clock that starts at zero.
    #[allow(clippy::disallowed_methods, reason = "this is the one reader")]
    pub(crate) fn new() -> Self {
        Self { origin: std::time::Instant::now() }
    }

    /// The time since the clock was made.
    #[allow(clippy::disallowed_methods, reason = "this is the one reader")]
    pub(crate) fn now(&self) -> Instant {
        let micros = std::time::Instant::now().duration_since(self.origin).as_micros();
        // 64 bits of microseconds last half a million years.
        Instant::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    /// The time of day, for people to read.
    pub(crate) fn time_of_day() -> std::time::SystemTime {
        std::time::SystemTime::now()
    }
}
