//! One record of a capture of the guest's link, as it lies in the ring that the engine writes it
//! to ([`Engine::capture`](crate::Engine::capture)).
//!
//! ```text
//! 0        8     12     16     17       24
//! | micros | len | lost | kind | unused | as many bytes of the frame as are kept |
//! ```
//! Numbers are little-endian.

use super::{Drop, Instant};

/// Bytes before those of the frame.
pub(crate) const HEADER_BYTES: usize = 24;

const FROM_GUEST: u8 = 0;
const TO_GUEST: u8 = 1;
const TURN_END: u8 = 2;
/// The first of as many kinds as there are reasons for drops.
const DROPPED: u8 = 64;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CapturedKind {
    /// A frame of the guest, before anything was done with it.
    FromGuest,
    /// A frame for the guest, as it goes into the ring to it.
    ToGuest,
    /// No frame: the last one of the guest's went no further.
    Dropped(Drop),
    /// No frame: nothing more is said of those before.
    TurnEnd,
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Captured<'r> {
    /// When the engine had it.
    pub at: Instant,
    /// What it is.
    pub kind: CapturedKind,
    /// Bytes of the whole frame.
    pub len: usize,
    /// The frame, from its beginning; all but the longest are whole.
    pub frame: &'r [u8],
    /// Records before this one that there was no room for.
    pub lost: u32,
}

impl<'r> Captured<'r> {
    /// Reads a record; `None`: it is none.
    #[must_use]
    pub fn read(record: &'r [u8]) -> Option<Self> {
        let (header, frame) = record.split_first_chunk::<HEADER_BYTES>()?;
        let (at, rest) = header.split_first_chunk::<8>()?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (lost, rest) = rest.split_first_chunk::<4>()?;
        let kind = match *rest.first()? {
            FROM_GUEST => CapturedKind::FromGuest,
            TO_GUEST => CapturedKind::ToGuest,
            TURN_END => CapturedKind::TurnEnd,
            other => {
                let reason = other.checked_sub(DROPPED)?;
                CapturedKind::Dropped(*Drop::ALL.get(usize::from(reason))?)
            }
        };
        Some(Self {
            at: Instant::from_micros(u64::from_le_bytes(*at)),
            kind,
            len: u32::from_le_bytes(*len) as usize,
            frame,
            lost: u32::from_le_bytes(*lost),
        })
    }

    /// The header of this record.
    #[allow(clippy::cast_possible_truncation, reason = "frames are below 2^17")]
    pub(crate) fn header(&self) -> [u8; HEADER_BYTES] {
        let kind = match self.kind {
            CapturedKind::FromGuest => FROM_GUEST,
            CapturedKind::ToGuest => TO_GUEST,
            CapturedKind::TurnEnd => TURN_END,
            CapturedKind::Dropped(reason) => DROPPED + reason as u8,
        };
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&self.at.as_micros().to_le_bytes());
        header[8..12].copy_from_slice(&(self.len as u32).to_le_bytes());
        header[12..16].copy_from_slice(&self.lost.to_le_bytes());
        header[16] = kind;
        header
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    #[test]
    fn every_kind_is_read_as_it_was_written() {
        let drops = Drop::ALL.into_iter().map(CapturedKind::Dropped);
        let others = [CapturedKind::FromGuest, CapturedKind::ToGuest, CapturedKind::TurnEnd];
        for kind in drops.chain(others) {
            let at = Instant::from_micros(0x0102_0304_0506);
            let captured = Captured { at, kind, len: 70_000, frame: b"frame", lost: 9 };
            let record: Vec<u8> = captured.header().into_iter().chain(*b"frame").collect();
            assert_eq!(Captured::read(&record), Some(captured));
        }
        let mut none = Captured {
            at: Instant::ZERO,
            kind: CapturedKind::TurnEnd,
            len: 0,
            frame: b"",
            lost: 0,
        }
        .header();
        none[16] = u8::MAX;
        assert_eq!(Captured::read(&none), None);
        assert_eq!(Captured::read(&none[..23]), None);
    }
}
