//! The end of a ring that puts frames in: reserve, commit, flush, wait for room.

use core::slice;
use core::task::Waker;

use super::bell::ASLEEP;
use super::sync::Ordering;
use super::{Area, HEADER_BYTES, Produced, RingHandle, SKIP, first_position, record_bytes};
use crate::contract::Offload;

/// A frame's place that `reserve` gave and `commit` has yet to take.
struct Reserved {
    /// The position of the record's header.
    start: usize,
    /// Bytes of the longest frame that fits.
    len: usize,
}

/// The end that puts frames in.
pub struct Producer<R> {
    ring: R,
    area: Area,
    frame_bytes_max: usize,
    tail: usize,
    /// The consumer's position when last looked at.
    head: usize,
    reserved: Option<Reserved>,
    /// No frame was committed since the consumer was last looked after.
    is_flushed: bool,
    waker: Option<Waker>,
}

// SAFETY: an end owns its ranges of the bytes as a `&mut [u8]` would; the handle says for itself.
unsafe impl<R: RingHandle + Send> Send for Producer<R> {}

impl<R: RingHandle> Producer<R> {
    pub(super) fn new(ring: R, area: Area) -> Self {
        let frame_bytes_max = ring.frame_bytes_max;
        let start = first_position(area.capacity);
        Self {
            ring,
            area,
            frame_bytes_max,
            tail: start,
            head: start,
            reserved: None,
            is_flushed: true,
            waker: None,
        }
    }

    /// The longest frame that this ring ever takes, in bytes.
    pub fn frame_bytes_max(&self) -> usize {
        self.frame_bytes_max
    }

    /// Space for one frame of up to `len_max` bytes: exactly that many, contents unspecified. It is
    /// the producer's until the next `reserve`; [`commit`](Self::commit) makes a frame of it.
    ///
    /// `None`: does not fit now, or never (longer than [`frame_bytes_max`](Self::frame_bytes_max)).
    ///
    /// # Cost
    /// No atomic access while the last known position of the consumer leaves room; else one load.
    pub fn reserve(&mut self, len_max: usize) -> Option<&mut [u8]> {
        self.reserved = None;
        if len_max > self.frame_bytes_max {
            return None;
        }
        let (start, end) = self.place(len_max);
        if !self.fits(end) && !self.fits_now(end) {
            return None;
        }
        self.reserved = Some(Reserved { start, len: len_max });
        self.ring.guards.write(self.area.offset(start), record_bytes(len_max));
        // SAFETY: `place` keeps the record below the end of the storage, and `fits` says that
        // `tail..end`, with these bytes in it, is the producer's: the consumer reads below `tail`
        // only. The storage is initialised. `&mut self` is borrowed as long as the slice lives.
        Some(unsafe { slice::from_raw_parts_mut(self.area.at(start).add(HEADER_BYTES), len_max) })
    }

    /// The first `len` bytes of the last reservation, as far as it goes; none without one.
    pub fn reserved(&self, len: usize) -> &[u8] {
        let Some(Reserved { start, len: len_max }) = &self.reserved else { return &[] };
        let len = len.min(*len_max);
        self.ring.guards.read(self.area.offset(*start), record_bytes(len));
        // SAFETY: as in `reserve`, which has found these bytes to be the producer's, initialised;
        // whoever has them mutably from there borrows `self`, and so is gone by now.
        unsafe { slice::from_raw_parts(self.area.at(*start).add(HEADER_BYTES), len) }
    }

    /// Publishes the first `len` bytes of the last reservation as one frame.
    ///
    /// # Panics
    /// When nothing is reserved, or less than `len`: a bug of the caller.
    ///
    /// # Cost
    /// Stores only, no fence: the consumer is woken by [`flush`](Self::flush).
    pub fn commit(&mut self, len: usize, offload: Offload) {
        let Some(Reserved { start, len: len_max }) = self.reserved.take() else {
            panic!("a commit follows a reservation");
        };
        assert!(len <= len_max, "{len} bytes committed of {len_max} reserved");
        #[allow(clippy::cast_possible_truncation, reason = "at most FRAME_BYTES_MAX")]
        let header_len = len as u32;
        // SAFETY: `tail` and `start` are multiples of 16, and both headers lie in what `reserve`
        // found to be the producer's: `tail..end` of a record that starts at `start`.
        unsafe {
            if start != self.tail {
                self.ring.guards.write(self.area.offset(self.tail), HEADER_BYTES);
                self.area.write_header(self.tail, SKIP, Offload::NONE);
            }
            self.ring.guards.write(self.area.offset(start), record_bytes(len));
            self.area.write_header(start, header_len, offload);
        }
        self.tail = start.wrapping_add(record_bytes(len));
        self.is_flushed = false;
        let Produced { tail, bytes, frames, records } = &self.ring.produced.0;
        let (pieces, on_the_link) = match offload.segment_bytes {
            0 => (1, u64::from(header_len)),
            _ => {
                let pieces = offload.frames(len) as u64;
                let repeated = (pieces - 1) * u64::from(offload.header_bytes);
                (pieces, u64::from(header_len) + repeated)
            }
        };
        bytes.store(bytes.load(Ordering::Relaxed) + on_the_link, Ordering::Relaxed);
        frames.store(frames.load(Ordering::Relaxed) + pieces, Ordering::Relaxed);
        records.store(records.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        tail.store(self.tail, Ordering::Release);
    }

    /// Copies `frame` into the ring; false: does not fit now, or never.
    ///
    /// # Cost
    /// One copy, and what [`reserve`](Self::reserve) and [`commit`](Self::commit) cost.
    #[must_use = "tells whether the frame was taken"]
    pub fn push(&mut self, frame: &[u8], offload: Offload) -> bool {
        let Some(space) = self.reserve(frame.len()) else {
            return false;
        };
        space.copy_from_slice(frame);
        self.commit(frame.len(), offload);
        true
    }

    /// The longest frame that [`reserve`](Self::reserve) takes now, in bytes; 0: none but an empty
    /// one at best.
    ///
    /// # Cost
    /// As `reserve`, looking at the consumer's position only where less than the longest fits.
    pub fn room(&mut self) -> usize {
        let known = self.room_known();
        if known == self.frame_bytes_max {
            return known;
        }
        self.head = self.ring.consumed.0.head.load(Ordering::Acquire);
        self.room_known()
    }

    /// Wakes the consumer if it sleeps and frames were committed. To be called once per batch: what
    /// is not flushed is found by a consumer that is awake, and by no other.
    ///
    /// # Cost
    /// Nothing without a new frame; one fence and one relaxed load while the consumer is awake.
    pub fn flush(&mut self) {
        if self.is_flushed {
            return;
        }
        self.is_flushed = true;
        self.ring.consumer.0.ring_if(|_| true);
    }

    /// Says that the producer waits until a frame of `len` bytes fits. True: the consumer's
    /// [`release`](super::Consumer::release) that makes room for it wakes, once. False: it fits
    /// now. What was committed is flushed first, since only an awake consumer makes room.
    ///
    /// The producer may stop waiting whenever it likes; at worst it is woken for nothing.
    ///
    /// # Panics
    /// When `len` is above [`frame_bytes_max`](Self::frame_bytes_max): the wait would never end.
    #[must_use = "tells whether to sleep"]
    pub fn wait_for_room(&mut self, len: usize) -> bool {
        assert!(len <= self.frame_bytes_max, "no ring of these takes {len} bytes");
        self.flush();
        let (_, end) = self.place(len);
        if self.fits_now(end) {
            return false;
        }
        // Positions are multiples of 16: the lowest bit is free to tell "waits" from "awake".
        self.ring.producer.0.sleep(end | ASLEEP);
        let sleeps = !self.fits_now(end);
        if !sleeps {
            self.ring.producer.0.awake();
        }
        sleeps
    }

    /// Who is woken when there is room. Stays registered until another is. Register before
    /// [`wait_for_room`](Self::wait_for_room), not after.
    pub fn register(&mut self, waker: &Waker) {
        self.ring.producer.0.register(&mut self.waker, waker);
    }

    /// Where the record of a frame of `len` bytes would start and end.
    fn place(&self, len: usize) -> (usize, usize) {
        let bytes = record_bytes(len);
        let rest = self.area.rest(self.tail);
        let start = if bytes <= rest { self.tail } else { self.tail.wrapping_add(rest) };
        (start, start.wrapping_add(bytes))
    }

    fn fits(&self, end: usize) -> bool {
        end.wrapping_sub(self.head) <= self.area.capacity
    }

    fn fits_now(&mut self, end: usize) -> bool {
        self.head = self.ring.consumed.0.head.load(Ordering::Acquire);
        self.fits(end)
    }

    /// The longest frame that fits if the consumer is where it was last seen.
    fn room_known(&self) -> usize {
        let free = self.area.capacity - self.tail.wrapping_sub(self.head);
        let rest = self.area.rest(self.tail);
        let record = if free <= rest { free } else { rest.max(free - rest) };
        record.saturating_sub(HEADER_BYTES).min(self.frame_bytes_max)
    }
}
