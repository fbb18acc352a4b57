//! A capture of the guest's link, as pcapng (draft-ietf-opsawg-pcapng).
//!
//! Owns the ring that the engine writes to, and the way from its records to blocks; must not know
//! who reads. A frame of the guest's that went no further says why in its comment, which is known
//! only after answers to it were sent: so a frame waits, with what follows it, until the next of
//! the guest's or the turn's end. Whoever reads too slowly loses frames, which the next one's
//! comment tells; the guest never waits.

use core::task::{Context, Poll, Waker};
use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use pcap_parser::{
    EnhancedPacketBlock, InterfaceDescriptionBlock, Linktype, OptionCode, PcapNGOption,
    SectionHeaderBlock, ToVec,
};
use sluicegate_core::{Captured, CapturedKind, Drop as DropReason, FrameRing, Instant, limits};

use crate::rings::{RingConsumer, RingProducer};

/// Bytes of frames that a reader may be behind.
const RING_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of blocks that are handed out at a time, about.
const CHUNK_BYTES: usize = 256 * 1024;
/// The option that says which way a packet went (`epb_flags`).
const FLAGS: OptionCode = OptionCode(2);
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// What both ends share.
#[derive(Default)]
struct Ends {
    is_over: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

/// The driver's end: when it goes, so does the capture.
pub(crate) struct CaptureEnd {
    ends: Arc<Ends>,
    reader: Weak<()>,
}

impl CaptureEnd {
    /// Whether somebody still reads.
    pub(crate) fn is_read(&self) -> bool {
        self.reader.strong_count() > 0
    }
}

impl Drop for CaptureEnd {
    fn drop(&mut self) {
        self.ends.is_over.store(true, Ordering::Release);
        let waker = self.ends.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A capture of the guest's link while it is made: pcapng, from its first byte on, in pieces of
/// whole blocks. It ends with this value, with the network, or when another is begun.
///
/// A packet is what crosses the link: segments that the guest's card takes in one piece are one,
/// and their checksums may be left to the other side.
pub struct Capture {
    frames: RingConsumer,
    ends: Arc<Ends>,
    _reader: Arc<()>,
    /// What the engine's time is by the clock on the wall.
    began: SystemTime,
    /// Packets whose fate is not known yet, and their bytes.
    waiting: Vec<Packet>,
    waiting_bytes: usize,
    /// Blocks that are ready.
    blocks: Vec<u8>,
}

struct Packet {
    at: Instant,
    is_from_guest: bool,
    frame: Vec<u8>,
    len: usize,
    lost: u32,
    dropped: Option<DropReason>,
}

impl Capture {
    /// A capture, what the engine is to write to, and what the driver is to keep. `wall` is the
    /// time of the day when the engine's clock says `now`.
    pub(crate) fn begin(now: Instant, wall: SystemTime) -> (Self, RingProducer, CaptureEnd) {
        let ring = Arc::new(FrameRing::new(vec![0; RING_BYTES].into()));
        let (producer, frames) = FrameRing::split(ring);
        let ends = Arc::<Ends>::default();
        let reader = Arc::new(());
        let end = CaptureEnd { ends: Arc::clone(&ends), reader: Arc::downgrade(&reader) };
        let began = wall.checked_sub(Duration::from_micros(now.as_micros()));
        let capture = Self {
            frames,
            ends,
            _reader: reader,
            began: began.unwrap_or(SystemTime::UNIX_EPOCH),
            waiting: vec![],
            waiting_bytes: 0,
            blocks: head(),
        };
        (capture, producer, end)
    }

    /// The next piece, once there is one; `None`: the capture is over. It may be dropped at any
    /// time: nothing is lost by that.
    pub fn next_piece(&mut self) -> impl Future<Output = Option<Vec<u8>>> + Send + '_ {
        core::future::poll_fn(|context| self.poll(context))
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        *self.ends.waker.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(context.waker().clone());
        loop {
            // Before the look at the ring: what was written before the end is there by then.
            let is_over = self.ends.is_over.load(Ordering::Acquire);
            self.take();
            if is_over {
                self.let_go();
            }
            if !self.blocks.is_empty() {
                return Poll::Ready(Some(core::mem::take(&mut self.blocks)));
            }
            if is_over {
                return Poll::Ready(None);
            }
            match self.frames.poll_ready(context) {
                Poll::Ready(()) => {}
                Poll::Pending if self.ends.is_over.load(Ordering::Acquire) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Reads what is there, a piece's worth.
    fn take(&mut self) {
        while self.blocks.len() < CHUNK_BYTES
            && let Some(record) = self.frames.read()
        {
            let Some(captured) = Captured::read(self.frames.bytes(&record)) else { continue };
            let packet = |is_from_guest| Packet {
                at: captured.at,
                is_from_guest,
                frame: captured.frame.to_vec(),
                len: captured.len,
                lost: captured.lost,
                dropped: None,
            };
            match captured.kind {
                CapturedKind::FromGuest => {
                    let packet = packet(true);
                    self.let_go();
                    self.keep(packet);
                }
                CapturedKind::ToGuest => {
                    let packet = packet(false);
                    self.keep(packet);
                }
                CapturedKind::Dropped(reason) => {
                    // The guest's is the first that waits.
                    let first = self.waiting.first_mut().filter(|packet| packet.is_from_guest);
                    if let Some(packet) = first {
                        packet.dropped = Some(reason);
                    }
                }
                CapturedKind::TurnEnd => self.let_go(),
            }
        }
        self.frames.release();
    }

    /// Lets `packet` wait. A turn whose end there was no room for is not waited for for ever.
    fn keep(&mut self, packet: Packet) {
        self.waiting_bytes += packet.frame.len();
        self.waiting.push(packet);
        if self.waiting_bytes >= CHUNK_BYTES {
            self.let_go();
        }
    }

    /// What waits is said all of.
    fn let_go(&mut self) {
        self.waiting_bytes = 0;
        for packet in self.waiting.drain(..) {
            self.blocks.extend(block(&packet, self.began));
        }
    }
}

/// The blocks that a capture begins with: of Ethernet, in microseconds.
fn head() -> Vec<u8> {
    let program =
        option(OptionCode::ShbUserAppl, concat!("sluicegate ", env!("CARGO_PKG_VERSION")));
    let mut section = SectionHeaderBlock {
        block_type: 0,
        block_len1: 0,
        bom: 0,
        major_version: 1,
        minor_version: 0,
        section_len: -1,
        options: vec![program],
        block_len2: 0,
    };
    let mut interface = InterfaceDescriptionBlock {
        block_type: 0,
        block_len1: 0,
        linktype: Linktype::ETHERNET,
        reserved: 0,
        snaplen: u32::try_from(limits::FRAME_BYTES_MAX).unwrap_or(0),
        options: vec![],
        block_len2: 0,
        if_tsresol: 6,
        if_tsoffset: 0,
    };
    let section = section.to_vec().expect(WRITES);
    [section, interface.to_vec().expect(WRITES)].concat()
}

/// Why a block can always be written.
const WRITES: &str = "because a vector takes what is written to it";

fn option<'t>(code: OptionCode, text: impl Into<Cow<'t, str>>) -> PcapNGOption<'t> {
    let value = match text.into() {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    };
    // Ours are short.
    PcapNGOption { code, len: u16::try_from(value.len()).unwrap_or(0), value }
}

#[allow(clippy::cast_possible_truncation, reason = "halves of the time; frames are below 2^17")]
fn block(packet: &Packet, began: SystemTime) -> Vec<u8> {
    let time = began + Duration::from_micros(packet.at.as_micros());
    let time = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let flags = if packet.is_from_guest { INBOUND } else { OUTBOUND };
    let flags = flags.to_le_bytes();
    let mut options = vec![PcapNGOption { code: FLAGS, len: 4, value: Cow::Borrowed(&flags) }];
    if let Some(reason) = packet.dropped {
        options.push(option(OptionCode::Comment, format!("dropped: {}", reason.name())));
    }
    if packet.lost > 0 {
        let text = format!("records before this that are missing: {}", packet.lost);
        options.push(option(OptionCode::Comment, text));
    }
    let mut block = EnhancedPacketBlock {
        block_type: 0,
        block_len1: 0,
        if_id: 0,
        ts_high: (micros >> 32) as u32,
        ts_low: micros as u32,
        caplen: packet.frame.len() as u32,
        origlen: packet.len as u32,
        data: &packet.frame,
        options,
        block_len2: 0,
    };
    block.to_vec().expect(WRITES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use sluicegate_core::Offload;

    /// A frame of `len` bytes for the guest, as the engine writes it down.
    fn to_guest(len: u32) -> Vec<u8> {
        let at = 1000_u64.to_le_bytes();
        let head = [&at[..], &len.to_le_bytes(), &0_u32.to_le_bytes(), &[1, 0, 0, 0, 0, 0, 0, 0]];
        let record = [head.concat(), vec![7; len as usize]].concat();
        let read = Captured::read(&record).unwrap();
        assert_eq!((read.kind, read.len), (CapturedKind::ToGuest, len as usize));
        record
    }

    #[test]
    fn what_waits_for_a_turns_end_that_was_lost_is_handed_out_all_the_same() {
        let (mut capture, mut ring, _end) = Capture::begin(Instant::ZERO, Clock::time_of_day());
        let mut context = Context::from_waker(Waker::noop());
        let (record, mut written, mut handed_out) = (to_guest(1000), 0, 0);
        for _ in 0..20 {
            for _ in 0..2000 {
                assert!(ring.push(&record, Offload::NONE));
                written += 1000;
            }
            ring.flush();
            while let Poll::Ready(piece) = capture.poll(&mut context) {
                let piece = piece.unwrap();
                assert!(piece.len() < 3 * CHUNK_BYTES, "a piece of {}", piece.len());
                handed_out += piece.len();
            }
            assert!(capture.waiting_bytes < CHUNK_BYTES);
            assert!(handed_out + CHUNK_BYTES > written, "{handed_out} of {written}");
        }
    }
}
