//! Whether guest and outside take turns on a flow: one says something, and waits for the other.
//!
//! Whoever does so notices every microsecond between; whoever sends a stream notices none.

use crate::limits;

/// What is known of the turns that guest and outside take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turns {
    /// So many times the guest spoke once, and was answered before it spoke again.
    in_row: u8,
    /// The outside has said something since the guest did.
    is_answered: bool,
}

impl Turns {
    pub(crate) const NONE: Self = Self { in_row: 0, is_answered: false };

    /// The guest has said something.
    pub(crate) fn guest_spoke(&mut self) {
        self.in_row = if self.is_answered { self.in_row.saturating_add(1) } else { 0 };
        self.is_answered = false;
    }

    /// The outside has said something.
    pub(crate) fn outside_spoke(&mut self) {
        self.is_answered = true;
    }

    /// Whether they have taken turns for a while.
    pub(crate) fn are_taken(&self) -> bool {
        self.in_row >= limits::TURNS_MIN
    }
}
