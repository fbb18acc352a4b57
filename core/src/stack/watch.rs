//! What looks at each frame for the guest: the pace, where that is limited, and a capture. Mostly
//! neither is there, and then one look at a field says so.

use super::capture::Capture;
use crate::contract::{Instant, Offload};
use crate::store::pace::Pace;
use crate::store::ring::RingHandle;

/// Who looks, if anybody.
pub(crate) struct Watch<R: RingHandle> {
    pace: Option<Pace>,
    pub(crate) capture: Option<Capture<R>>,
    /// One of them is there.
    is_on: bool,
}

impl<R: RingHandle> Watch<R> {
    pub(super) const OFF: Self = Self { pace: None, capture: None, is_on: false };

    /// Sends no faster than `pace` has it from now on.
    pub(crate) fn set_pace(&mut self, pace: Option<Pace>) {
        self.pace = pace;
        self.is_on = self.pace.is_some() || self.capture.is_some();
    }

    pub(crate) fn set_capture(&mut self, capture: Option<Capture<R>>) {
        self.capture = capture;
        self.is_on = self.pace.is_some() || self.capture.is_some();
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// It is `now`: the pace has gained since.
    #[inline(never)]
    pub(super) fn refill(&mut self, now: Instant) {
        if let Some(pace) = &mut self.pace {
            pace.refill(now);
        }
        if let Some(capture) = &mut self.capture {
            capture.set_now(now);
        }
    }

    /// `frame` goes to the guest.
    #[inline(never)]
    pub(super) fn frame(&mut self, frame: &[u8], offload: Offload) {
        if let Some(capture) = &mut self.capture {
            capture.note_to_guest(frame);
        }
        if let Some(pace) = &mut self.pace {
            pace.take_frame(frame.len(), offload);
        }
    }

    /// When the next packet may be emitted, where that is limited.
    pub(super) fn opens_at(&self) -> Option<Instant> {
        self.pace.as_ref().map(Pace::opens_at)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_on && self.pace.as_ref().is_some_and(|pace| !pace.is_open())
    }

    /// Nothing more comes for now. Returns how much a capture had no room for.
    pub(super) fn end_turn(&mut self) -> u64 {
        self.capture.as_mut().map_or(0, Capture::end_turn)
    }
}
