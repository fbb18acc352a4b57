//! Time as the engine sees it: what the host's one clock says, nothing read here.

/// A point in time, in microseconds since an origin that the host chose (its start, say).
///
/// Never goes back within one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Instant {
    micros: u64,
}

impl Instant {
    /// The origin.
    pub const ZERO: Self = Self { micros: 0 };

    /// `micros` microseconds after the origin.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self { micros }
    }

    /// `millis` milliseconds after the origin.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self { micros: millis * 1000 }
    }

    /// Microseconds since the origin.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.micros
    }

    /// Whole milliseconds since the origin, rounded down.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.micros / 1000
    }

    /// This point and `micros` microseconds; saturates at the end of time.
    #[must_use]
    pub const fn plus_micros(self, micros: u64) -> Self {
        Self { micros: self.micros.saturating_add(micros) }
    }

    /// This point and `millis` milliseconds; saturates at the end of time.
    #[must_use]
    pub const fn plus_millis(self, millis: u64) -> Self {
        Self { micros: self.micros.saturating_add(millis.saturating_mul(1000)) }
    }
}
