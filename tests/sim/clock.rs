//! The one clock of a world: it moves when it is told to, and never back.

use sluicegate_core::Instant;

/// Virtual time.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    now: Instant,
}

impl Clock {
    /// A clock that starts some time after the engine's origin, so that "0" is never "now".
    #[must_use]
    pub fn new() -> Self {
        Self { now: Instant::from_millis(1_000_003) }
    }

    /// The present.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Moves on to `at`; a time that has passed leaves the clock as it is.
    pub fn move_to(&mut self, at: Instant) {
        self.now = self.now.max(at);
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
