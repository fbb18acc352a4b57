//! What passes on the guest's link, written down for who wants to see it.
//!
//! Owns the ring that it is written to; must not know what a frame says. A record that there is no
//! room for is counted, and nobody waits.

use crate::contract::{Captured, CapturedKind, Drop, HEADER_BYTES, Instant, Offload};
use crate::store::ring::{Producer, RingHandle};

/// Where frames are written down.
pub(crate) struct Capture<R: RingHandle> {
    ring: Producer<R>,
    now: Instant,
    lost: u32,
    /// The same since the last turn's end.
    lost_this_turn: u64,
    /// Something was written since the last turn's end.
    has_news: bool,
}

impl<R: RingHandle> Capture<R> {
    pub(crate) fn new(ring: Producer<R>, now: Instant) -> Self {
        Self { ring, now, lost: 0, lost_this_turn: 0, has_news: false }
    }

    pub(super) fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    /// A frame of the guest's has come.
    pub(crate) fn note_from_guest(&mut self, frame: &[u8]) {
        self.write(CapturedKind::FromGuest, frame);
    }

    /// It goes no further.
    pub(crate) fn note_dropped(&mut self, reason: Drop) {
        self.write(CapturedKind::Dropped(reason), &[]);
    }

    pub(super) fn note_to_guest(&mut self, frame: &[u8]) {
        self.write(CapturedKind::ToGuest, frame);
    }

    /// Whoever reads may go on. Returns how many records there was no room for.
    pub(super) fn end_turn(&mut self) -> u64 {
        if core::mem::take(&mut self.has_news) {
            self.write(CapturedKind::TurnEnd, &[]);
            self.has_news = false;
            self.ring.flush();
        }
        core::mem::take(&mut self.lost_this_turn)
    }

    fn write(&mut self, kind: CapturedKind, frame: &[u8]) {
        let kept = frame.len().min(self.ring.frame_bytes_max() - HEADER_BYTES);
        let captured =
            Captured { at: self.now, kind, len: frame.len(), frame: &[], lost: self.lost };
        let place = self.ring.reserve(HEADER_BYTES + kept);
        let Some((header, rest)) = place.and_then(|place| place.split_first_chunk_mut()) else {
            self.lost = self.lost.saturating_add(1);
            self.lost_this_turn += 1;
            return;
        };
        *header = captured.header();
        rest.copy_from_slice(frame.get(..kept).unwrap_or(&[]));
        self.ring.commit(HEADER_BYTES + kept, Offload::NONE);
        self.lost = 0;
        self.has_news = true;
    }
}
