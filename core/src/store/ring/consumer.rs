//! The end of a ring that takes frames out: read ahead, release, sleep.

use core::slice;
use core::task::{Context, Poll, Waker};

use super::bell::ASLEEP;
use super::sync::Ordering;
use super::{Area, Consumed, HEADER_BYTES, RingHandle, SKIP, first_position, record_bytes};
use crate::contract::Offload;

/// A frame that was read and not yet released: where it is, and what came with it.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Record {
    /// The position of the record's header.
    start: usize,
    len: usize,
    /// What travels beside the frame.
    pub offload: Offload,
}

impl Record {
    /// The frame's length in bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a frame is not a collection")]
    pub fn len(&self) -> usize {
        self.len
    }
}

/// The end that takes frames out: reads ahead as far as it likes, then releases all of it.
pub struct Consumer<R> {
    ring: R,
    area: Area,
    /// Everything below is the producer's again.
    head: usize,
    /// Everything below is read.
    cursor: usize,
    /// Frames that were read so far.
    records: u64,
    /// The producer's position when last looked at.
    tail: usize,
    waker: Option<Waker>,
}

// SAFETY: an end owns its ranges of the bytes as a `&mut [u8]` would; the handle says for itself.
unsafe impl<R: RingHandle + Send> Send for Consumer<R> {}

impl<R: RingHandle> Consumer<R> {
    pub(super) const fn new(ring: R, area: Area) -> Self {
        let start = first_position(area.capacity);
        Self { ring, area, head: start, cursor: start, records: 0, tail: start, waker: None }
    }

    /// The next frame, if there is one. It stays where it is until [`release`](Self::release).
    ///
    /// # Cost
    /// No atomic access while frames are known to be there; else one load.
    pub fn read(&mut self) -> Option<Record> {
        if self.is_empty() {
            return None;
        }
        let (mut len, mut offload) = self.header();
        if len == SKIP {
            // A skip is published together with the record that follows it.
            self.cursor = self.cursor.wrapping_add(self.area.rest(self.cursor));
            (len, offload) = self.header();
        }
        debug_assert_ne!(len, SKIP, "a skip leads to a frame");
        let record = Record { start: self.cursor, len: len as usize, offload };
        self.cursor = self.cursor.wrapping_add(record_bytes(record.len));
        self.records += 1;
        Some(record)
    }

    /// The bytes of a frame that was read and not released.
    ///
    /// # Panics
    /// When it was released, or is none of this ring's: a bug of the caller.
    pub fn bytes(&self, record: &Record) -> &[u8] {
        let frame = self.frame(record);
        self.ring.guards.read(self.area.offset(record.start), record_bytes(record.len));
        // SAFETY: `frame` has checked that the range is initialised memory of this ring which is
        // this consumer's; `&self` keeps `bytes_mut` and `release` away as long as it lives.
        unsafe { slice::from_raw_parts(frame, record.len) }
    }

    /// The same, to be changed in place.
    ///
    /// # Panics
    /// As [`bytes`](Self::bytes).
    pub fn bytes_mut(&mut self, record: &Record) -> &mut [u8] {
        let frame = self.frame(record);
        self.ring.guards.write(self.area.offset(record.start), record_bytes(record.len));
        // SAFETY: as in `bytes`; `&mut self` keeps every other borrow of the range away. Headers
        // that might lie in the range (of a record of another ring) were read and are not needed.
        unsafe { slice::from_raw_parts_mut(frame, record.len) }
    }

    /// Gives back every frame read so far, and wakes the producer if it waits and its frame fits.
    ///
    /// # Cost
    /// Nothing where nothing was read; else one store, one fence and one relaxed load.
    pub fn release(&mut self) {
        if self.head == self.cursor {
            return;
        }
        self.ring.guards.read_all(self.area, self.head, self.cursor);
        self.head = self.cursor;
        let Consumed { head, records } = &self.ring.consumed.0;
        records.store(self.records, Ordering::Relaxed);
        head.store(self.head, Ordering::Release);
        let (head, capacity) = (self.head, self.area.capacity);
        self.ring.producer.0.ring_if(|flag| (flag & !ASLEEP).wrapping_sub(head) <= capacity);
    }

    /// Whether there is no further frame to read now.
    pub fn is_empty(&mut self) -> bool {
        self.cursor == self.tail && self.is_empty_now()
    }

    /// Says that the consumer sleeps until there is a frame to read. True: the producer's
    /// [`flush`](super::Producer::flush) wakes, once. False: a frame is there, do not sleep.
    ///
    /// Nothing is released: a consumer that holds frames asleep may be what the producer waits for.
    #[must_use = "tells whether to sleep"]
    pub fn sleep(&mut self) -> bool {
        self.ring.consumer.0.sleep(ASLEEP);
        let sleeps = self.is_empty_now();
        if !sleeps {
            self.ring.consumer.0.awake();
        }
        sleeps
    }

    /// Says that the consumer is awake for a reason of its own, which spares the producer a wake.
    pub fn awake(&mut self) {
        self.ring.consumer.0.awake();
    }

    /// Who is woken when there are frames. Stays registered until another is. Register before
    /// [`sleep`](Self::sleep), not after.
    pub fn register(&mut self, waker: &Waker) {
        self.ring.consumer.0.register(&mut self.waker, waker);
    }

    /// Ready when there is a frame to read; else the task's waker is registered and the ring told
    /// that the consumer sleeps.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_empty() {
            self.awake();
            return Poll::Ready(());
        }
        self.register(cx.waker());
        if self.sleep() { Poll::Pending } else { Poll::Ready(()) }
    }

    fn is_empty_now(&mut self) -> bool {
        self.tail = self.ring.produced.0.tail.load(Ordering::Acquire);
        self.cursor == self.tail
    }

    /// The header at the cursor, which is below `tail`.
    fn header(&self) -> (u32, Offload) {
        self.ring.guards.read(self.area.offset(self.cursor), HEADER_BYTES);
        // SAFETY: the cursor goes from record to record, and below `tail` nobody writes but this
        // consumer, into frames that it has read.
        unsafe { self.area.read_header(self.cursor) }
    }

    /// Where `record`'s frame is: checked to be one stretch of what is read and not released, so
    /// that no record, however old or of whichever ring, leads to bytes of the producer's.
    fn frame(&self, record: &Record) -> *mut u8 {
        let (start, bytes) = (record.start.wrapping_sub(self.head), record_bytes(record.len));
        let held = self.cursor.wrapping_sub(self.head);
        let is_held = start <= held && bytes <= held - start;
        assert!(is_held && bytes <= self.area.rest(record.start), "the frame is not held");
        self.area.at(record.start).wrapping_add(HEADER_BYTES)
    }
}
