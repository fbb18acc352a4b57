//! The frame ring: one producer, one consumer, Ethernet frames of any length in lent bytes.
//!
//! Owns the bytes, the two positions in them, and the two flags that let either end sleep. Must not
//! know what a frame holds, who the ends are, or how they sleep: it sees of that no more than a
//! [`Waker`](core::task::Waker).
//!
//! # Theory of operation
//! Positions are free-running counters of bytes; a position modulo the capacity (a power of two) is
//! an offset. `head..tail` holds records: a header of 16 bytes, the frame, padding to 16 bytes. No
//! record wraps, so that every frame is one slice: where the way to the end is too short, a header
//! that says "skip" sends the reader to the start. The capacity is at least twice the largest
//! record, so an empty ring takes any frame wherever it stands. Positions start one lap before they
//! overflow, so that no ring lives long without it and none is surprised by it late.
//!
//! The producer writes `tail` only, the consumer `head` only, and each keeps its own copy of the
//! other's, read again only where the copy says full or empty. The bytes of `head..tail` are the
//! consumer's, all others the producer's; storing a position (Release) hands bytes over, loading it
//! (Acquire) takes them.
//!
//! An end that wants to sleep sets its flag, then looks once more at the other's position; the
//! other stores its position, then looks at the flag. A SeqCst fence stands between the two steps
//! on both sides, so at least one of them sees the other (Dekker's pattern), and no wake is lost.
//! Whoever takes the flag down is the one who wakes: once per sleep.

#![allow(
    unsafe_code,
    reason = "both ends work on one block of bytes at a time, in disjoint ranges that the \
              borrow checker cannot see"
)]

mod bell;
mod consumer;
mod producer;
#[cfg(not(loom))]
mod sync;
#[cfg(loom)]
#[path = "ring/sync_loom.rs"]
mod sync;

use core::cell::UnsafeCell;
use core::ops::Deref;
use core::ptr::NonNull;

use stable_deref_trait::CloneStableDeref;

pub use self::consumer::{Consumer, Record};
pub use self::producer::Producer;

use self::bell::{ASLEEP, AWAKE, Bell};
use self::sync::{AtomicBool, AtomicU64, AtomicUsize, Guards, Ordering};
use crate::contract::{Offload, TransportChecksum};
use crate::limits::FRAME_BYTES_MAX;

/// Bytes of a record's header, and what records are padded to.
const HEADER_BYTES: usize = 16;
/// The length of a header that stands for no frame: go on at the start.
const SKIP: u32 = u32::MAX;

/// The position at which a ring starts: a lap before they overflow, and a multiple of the capacity.
const fn first_position(capacity: usize) -> usize {
    0_usize.wrapping_sub(capacity)
}

/// Bytes that a frame of `len` bytes takes.
const fn record_bytes(len: usize) -> usize {
    HEADER_BYTES + len.next_multiple_of(HEADER_BYTES)
}

/// Storage that a ring can own: `Box<[u8]>`, `Vec<u8>` or a memory map on a host, `&'static mut
/// [u8]` or `[u8; N]` in firmware. The ring borrows it once, mutably, for the life of its ends.
pub trait RingBytes: AsMut<[u8]> {}

impl<B: AsMut<[u8]>> RingBytes for B {}

/// A way to hold a ring that both ends share: `&FrameRing<B>`, or `Arc<FrameRing<B>>` where the
/// program has an allocator (and turns on the feature `alloc` of `stable_deref_trait`).
///
/// Any handle whose clones lead to one ring that stays in place while one of them lives.
pub trait RingHandle:
    CloneStableDeref + Deref<Target = FrameRing<<Self as RingHandle>::Bytes>>
{
    /// The ring's storage.
    type Bytes: RingBytes;
}

impl<R, B> RingHandle for R
where
    R: CloneStableDeref + Deref<Target = FrameRing<B>>,
    B: RingBytes,
{
    type Bytes = B;
}

/// A line of its own, two cache lines wide since processors fetch them in pairs.
#[repr(align(128))]
struct Line<T>(T);

/// What the producer writes.
struct Produced {
    tail: AtomicUsize,
    bytes: AtomicU64,
    frames: AtomicU64,
    /// Frames as they lie here, whatever the guest sees of them.
    records: AtomicU64,
}

/// What the consumer writes.
struct Consumed {
    head: AtomicUsize,
    records: AtomicU64,
}

/// A single-producer, single-consumer ring of Ethernet frames. See the module's theory.
pub struct FrameRing<B> {
    produced: Line<Produced>,
    consumed: Line<Consumed>,
    /// Set while the consumer sleeps.
    consumer: Line<Bell>,
    /// Set while the producer waits for room, to the position where its record would end.
    producer: Line<Bell>,
    is_split: AtomicBool,
    frame_bytes_max: usize,
    capacity: usize,
    guards: Guards,
    bytes: UnsafeCell<B>,
}

// SAFETY: the only field that is not Sync is `bytes`, which is touched through a shared reference
// once only, by the one call of `split` that finds `is_split` unset; from there its bytes are the
// ends', each in its own range. `B: Send` since that call may come from any thread.
unsafe impl<B: Send> Sync for FrameRing<B> {}

impl<B: RingBytes> FrameRing<B> {
    /// A ring of frames of up to [`FRAME_BYTES_MAX`] bytes, empty, its consumer asleep.
    ///
    /// # Panics
    /// Unless `bytes` holds a power of two of bytes, 262,144 at least.
    pub fn new(bytes: B) -> Self {
        Self::with_frame_max(bytes, FRAME_BYTES_MAX)
    }

    /// A ring of frames of up to `frame_bytes_max` bytes, empty, its consumer asleep: the first
    /// [`Producer::flush`] of a frame wakes.
    ///
    /// # Panics
    /// Unless `frame_bytes_max` is at most [`FRAME_BYTES_MAX`], and `bytes` holds a power of two of
    /// bytes, twice the longest frame with its header and padding at least.
    pub fn with_frame_max(mut bytes: B, frame_bytes_max: usize) -> Self {
        let capacity = bytes.as_mut().len();
        assert!(
            frame_bytes_max <= FRAME_BYTES_MAX,
            "no link has frames of {frame_bytes_max} bytes"
        );
        assert!(
            capacity.is_power_of_two() && capacity >= 2 * record_bytes(frame_bytes_max),
            "a ring of {capacity} bytes for frames of {frame_bytes_max} bytes"
        );
        Self {
            produced: Line(Produced {
                tail: AtomicUsize::new(first_position(capacity)),
                bytes: AtomicU64::new(0),
                frames: AtomicU64::new(0),
                records: AtomicU64::new(0),
            }),
            consumed: Line(Consumed {
                head: AtomicUsize::new(first_position(capacity)),
                records: AtomicU64::new(0),
            }),
            consumer: Line(Bell::new(ASLEEP)),
            producer: Line(Bell::new(AWAKE)),
            is_split: AtomicBool::new(false),
            frame_bytes_max,
            capacity,
            guards: Guards::new(capacity / HEADER_BYTES),
            bytes: UnsafeCell::new(bytes),
        }
    }

    /// The two ends of `ring`, which may go to different threads.
    ///
    /// # Panics
    /// When the ring was split before: each end exists once in the life of a ring.
    pub fn split<R: RingHandle<Bytes = B>>(ring: R) -> (Producer<R>, Consumer<R>) {
        assert!(
            !ring.is_split.swap(true, Ordering::Relaxed),
            "a ring has one producer and one consumer"
        );
        let capacity = ring.capacity;
        // SAFETY: `is_split` lets one call through, and nothing else touches `bytes` before the
        // ring is dropped or moved. That is after both ends are gone: each holds a clone of `ring`,
        // and `CloneStableDeref` promises that the ring stays in place until the last has gone. So
        // this borrow may last as long as the ends do.
        let lent: &mut [u8] = unsafe { &mut *ring.bytes.get() }.as_mut();
        assert_eq!(lent.len(), capacity, "the ring's storage has changed its size");
        let area = Area { base: NonNull::from(lent).cast(), capacity };
        (Producer::new(ring.clone(), area), Consumer::new(ring, area))
    }
}

impl<B> FrameRing<B> {
    /// Ethernet bytes of all frames committed so far, as a guest without offloads sees them: each
    /// segment with its headers. Readable from any thread.
    pub fn bytes_accepted(&self) -> u64 {
        self.produced.0.bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the ring.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes of the ring, and frames of any length, that wait for the consumer or that it holds;
    /// with frames go their headers and padding. Readable from any thread, and a moment old.
    pub fn waiting(&self) -> (usize, u64) {
        // The consumer's first: what it gives back meanwhile makes it more, and never less than 0.
        let head = self.consumed.0.head.load(Ordering::Acquire);
        let released = self.consumed.0.records.load(Ordering::Relaxed);
        let tail = self.produced.0.tail.load(Ordering::Acquire);
        let committed = self.produced.0.records.load(Ordering::Relaxed);
        (tail.wrapping_sub(head).min(self.capacity), committed.saturating_sub(released))
    }

    /// Frames committed so far, counted likewise. Readable from any thread.
    pub fn frames_accepted(&self) -> u64 {
        self.produced.0.frames.load(Ordering::Relaxed)
    }
}

/// The ring's bytes as an end sees them: by position.
#[derive(Clone, Copy)]
struct Area {
    base: NonNull<u8>,
    capacity: usize,
}

impl Area {
    const fn offset(self, position: usize) -> usize {
        position & (self.capacity - 1)
    }

    /// Bytes from `position` to the end of the storage; never 0.
    const fn rest(self, position: usize) -> usize {
        self.capacity - self.offset(position)
    }

    /// Where `position` is in memory: in bounds, since the offset is below the capacity.
    const fn at(self, position: usize) -> *mut u8 {
        self.base.as_ptr().wrapping_add(self.offset(position))
    }

    /// Writes the header at `position`.
    ///
    /// # Safety
    /// `position` is a multiple of 16, and its 16 bytes are the caller's alone.
    unsafe fn write_header(self, position: usize, len: u32, offload: Offload) {
        let checksum = match offload.checksum {
            TransportChecksum::Complete => 0,
            TransportChecksum::Vouched => 1,
            TransportChecksum::Partial => 2,
        };
        let low = u64::from(len) | u64::from(offload.segment_bytes) << 32 | checksum << 48;
        let high = u64::from(offload.header_bytes);
        // SAFETY: in bounds as a multiple of 16 below a power of two of 32 or more; the caller's
        // alone, as it promises. The storage need not be aligned.
        unsafe { self.at(position).cast::<[u64; 2]>().write_unaligned([low, high]) }
    }

    /// The header at `position`.
    ///
    /// # Safety
    /// `position` is where the producer wrote a header, and nobody writes there now.
    #[allow(clippy::cast_possible_truncation, reason = "takes the fields of the word apart")]
    unsafe fn read_header(self, position: usize) -> (u32, Offload) {
        // SAFETY: in bounds as above; not written to, as the caller promises.
        let [low, high] = unsafe { self.at(position).cast::<[u64; 2]>().read_unaligned() };
        let checksum = match (low >> 48) as u16 {
            0 => TransportChecksum::Complete,
            1 => TransportChecksum::Vouched,
            code => {
                debug_assert_eq!(code, 2, "no header holds this code");
                TransportChecksum::Partial
            }
        };
        let (segment_bytes, header_bytes) = ((low >> 32) as u16, high as u16);
        (low as u32, Offload { segment_bytes, header_bytes, checksum })
    }
}
