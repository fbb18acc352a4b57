//! msb_krun's virtio-net device as a guest's front end.
//!
//! Owns what the device's worker thread calls (the backend) and what makes it call (the doorbell).
//! Must not know the engine, or what a frame holds.
//!
//! # Theory of operation
//! The worker serves both directions on one thread. It takes frames for the guest ([`read_frame`]
//! until there is none) when the doorbell rings or the guest has posted buffers, and hands over the
//! guest's frames ([`write_frame`]) as long as there are any. What the rules of this file protect
//! is a worker that has no way out of three situations:
//!
//! * A frame longer than the guest's buffer blocks the guest's receive queue for ever, so no frame
//!   above the bound leaves here.
//! * A refused frame makes the worker try again without end, deaf to all else, and a failed one
//!   leaks its descriptor. So every frame is accepted. Where the ring is full, it waits, and the
//!   guest's own queue fills up, which slows the guest down. A wait in vain ends in a counted drop.
//! * Where the guest has no buffer left, the worker keeps the frame it holds and asks no more; that
//!   the guest has posted new buffers, it may never hear. Each doorbell ends in a call of
//!   [`try_finish_write`]: a frame that was handed over before, with no further [`read_frame`],
//!   is *parked*. Then the driver rings again from time to time, and the guest's own frames ring
//!   too. For this, every pass that takes a frame has a doorbell's pass after it or is one itself.
//!
//! The doorbell is an eventfd that nobody reads: the worker watches it for edges, and each write is
//! one. The ring to the guest wakes it, once for each time that the ring was left empty.
//!
//! The virtio header says nothing here. No offload was negotiated, so its flags and segment size
//! mean nothing, whatever the guest writes there; it can only spoil its own frames.
//!
//! [`read_frame`]: NetBackend::read_frame
//! [`write_frame`]: NetBackend::write_frame
//! [`try_finish_write`]: NetBackend::try_finish_write

use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::task::Waker;
use core::time::Duration;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::task::Wake;
use std::thread::{self, Thread};

use msb_krun::backends::net::{NetBackend, ReadError, WriteError};
use rustix::event::{EventfdFlags, eventfd};
use sluicegate_core::{Cut, Offload, Record};

use crate::clock::Clock;
use crate::metrics::{AdapterDrops, Published};
use crate::rings::{RingConsumer, RingProducer};

/// What precedes a frame for the guest (virtio 1.2, 5.1.6.1): no flags, no segmentation, and one
/// buffer, which 5.1.6.4.1 demands where mergeable buffers were not negotiated.
const HEADER: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];

/// Frames that the guest is handed before its own are looked at again. The doorbell's price, about
/// a microsecond, is small beside this many frames, and they take the worker about 50 us.
const PASS_FRAMES_MAX: u32 = 64;

/// How long frames of the guest may wait for room in the ring, all together, before the worker has
/// looked after the other direction. The queue of a guest that waits for acknowledgements ends, and
/// with it the worker's loop, so the windows of a hundred connections shall pass without a loss: a
/// loss costs far more than the wait (24 uploads: 2 to 4 Gbit/s with this, 0.06 with 2 ms). It is a
/// quarter of Linux's shortest retransmission timeout.
const PATIENCE_US_MAX: u64 = 50_000;
/// A guest that sends on regardless has no such end: then frames are dropped, since only a worker
/// that outruns the guest gets out of its loop. Each time, patience is half of the last, down to
/// this, so that the guest receives at some hundred megabits while it floods; and twice the last
/// where it sufficed.
const PATIENCE_US_MIN: u64 = 1000;
/// How much of a wait is spent looking: about as long as the driver takes for a batch, or a sleep
/// and a wake would take.
const LOOK_US_MAX: u64 = 50;
/// Looks at the ring between two looks at the clock.
const LOOKS: u32 = 16;

/// When a parked frame is tried again first: as soon as the driver's timer can.
const PARKED_US_MIN: u64 = 1000;
/// The longest time between two tries. Each costs the worker some 35 us, so a guest that never
/// posts another buffer costs less than a thousandth of a core.
const PARKED_US_MAX: u64 = 100_000;

/// What calls the worker. The driver and the worker share it.
pub(crate) struct Doorbell {
    event: OwnedFd,
    clock: Clock,
    /// It was rung, and the worker has not finished the pass yet. May be false too early, which
    /// costs a pass, never true for nothing.
    is_pending: AtomicBool,
    /// Since when a frame is parked, in microseconds of the clock; 0: none is.
    parked_us: AtomicU64,
    /// When the driver shall ring for it.
    ring_us: AtomicU64,
}

impl Doorbell {
    /// A doorbell that was never rung.
    ///
    /// # Errors
    /// No descriptor to be had.
    pub(crate) fn new(clock: Clock) -> io::Result<Self> {
        Ok(Self {
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            clock,
            is_pending: AtomicBool::new(false),
            parked_us: AtomicU64::new(0),
            ring_us: AtomicU64::new(0),
        })
    }

    fn ring(&self) {
        self.is_pending.store(true, Ordering::Release);
        // Fails with EAGAIN only, at the 2^64th ring: then it has rung already.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    fn ring_once(&self) {
        if !self.is_pending.load(Ordering::Relaxed) {
            self.ring();
        }
    }

    /// To be called by the driver before it sleeps: how long it may, at most, since a frame lies
    /// with the worker that only a ring gets on its way. The time between rings doubles, from 1 ms
    /// to 100 ms: a guest that comes back is found after twice its absence, and one that never does
    /// costs ten wakes a second. The driver's waker tells when a frame was parked while it sleeps.
    ///
    /// # Cost
    /// One load while nothing is parked.
    pub(crate) fn recheck(&self) -> Option<Duration> {
        let parked_us = self.parked_us.load(Ordering::Acquire);
        if parked_us == 0 {
            return None;
        }
        let now_us = self.clock.now().as_micros();
        let mut ring_us = self.ring_us.load(Ordering::Relaxed);
        if ring_us <= now_us {
            self.ring();
            let age_us = now_us.saturating_sub(parked_us);
            ring_us = now_us + age_us.clamp(PARKED_US_MIN, PARKED_US_MAX);
            self.ring_us.store(ring_us, Ordering::Relaxed);
        }
        Some(Duration::from_micros(ring_us - now_us))
    }

    fn park(&self) {
        let now_us = self.clock.now().as_micros().max(1);
        self.ring_us.store(now_us + PARKED_US_MIN, Ordering::Relaxed);
        self.parked_us.store(now_us, Ordering::Release);
    }

    fn unpark(&self) {
        self.parked_us.store(0, Ordering::Relaxed);
    }
}

impl Wake for Doorbell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

/// The guest's ends of the two rings, as the device's worker sees them.
pub(crate) struct KrunBackend {
    from_guest: RingProducer,
    to_guest: RingConsumer,
    doorbell: Arc<Doorbell>,
    published: Arc<Published>,
    clock: Clock,
    driver: Waker,
    frame_bytes_max: usize,
    /// The frame of `to_guest` that is being handed over, and what of it is left.
    cut: Option<(Record, Cut)>,
    /// Frames handed over in this pass.
    taken: u32,
    /// `to_guest` was found empty, and nothing taken since: its next frame rings.
    is_asleep: bool,
    /// The last `read_frame` handed over a frame.
    is_frame_out: bool,
    is_parked: bool,
    /// How long frames from the guest may still wait for room.
    patience_us: u64,
    /// What it was when the worker last came by.
    patience_us_max: u64,
}

impl KrunBackend {
    /// The backend over `ends`, the guest's: its frames go into one, those for it come out of the
    /// other. `frame_bytes_max` is the longest frame that the guest's receive buffers take, in
    /// Ethernet bytes; `driver` wakes whoever serves the other ends, and rings the doorbell.
    pub(crate) fn new(
        ends: (RingProducer, RingConsumer),
        frame_bytes_max: u32,
        doorbell: Arc<Doorbell>,
        published: Arc<Published>,
        driver: Waker,
    ) -> Self {
        let (from_guest, mut to_guest) = ends;
        to_guest.register(&Waker::from(Arc::clone(&doorbell)));
        Self {
            from_guest,
            to_guest,
            clock: doorbell.clock,
            doorbell,
            published,
            driver,
            frame_bytes_max: usize::try_from(frame_bytes_max).unwrap_or(usize::MAX),
            cut: None,
            taken: 0,
            is_asleep: true,
            is_frame_out: false,
            is_parked: false,
            patience_us: PATIENCE_US_MAX,
            patience_us_max: PATIENCE_US_MAX,
        }
    }

    fn drops(&self) -> &AdapterDrops {
        &self.published.adapter_drops
    }

    /// Writes header and next frame into `space` and returns their length; `None`: there is none,
    /// or none that the guest's buffers take.
    fn hand_over(&mut self, space: &mut [u8]) -> Option<usize> {
        let (record, cut) = self.cut.as_mut()?;
        let room = self.frame_bytes_max.min(space.len().saturating_sub(HEADER.len()));
        let Some(len) = cut.next_len().filter(|len| *len <= room) else {
            if cut.next_len().is_some() {
                count(&self.published.adapter_drops.too_long);
            }
            self.cut = None;
            return None;
        };
        let (header, frame) = space.split_at_mut(HEADER.len());
        header.copy_from_slice(&HEADER);
        cut.next_into(self.to_guest.bytes(record), frame)?;
        if cut.next_len().is_none() {
            // A long frame's room is given back at once: the engine makes the next meanwhile.
            let is_long = record.offload.segment_bytes > 0;
            self.cut = None;
            if is_long {
                self.to_guest.release();
            }
        }
        Some(HEADER.len() + len)
    }

    /// Whether `to_guest` is empty; then its next frame rings.
    fn falls_asleep(&mut self) -> bool {
        self.to_guest.release();
        self.is_asleep = self.to_guest.sleep();
        self.is_asleep
    }

    /// Puts a frame of the guest into the ring, or counts why not.
    fn accept(&mut self, frame: &[u8]) {
        if frame.is_empty() {
            count(&self.drops().short);
        } else if frame.len() > self.from_guest.frame_bytes_max() {
            count(&self.drops().too_long);
        } else if self.from_guest.push(frame, Offload::NONE) {
            // There is room, and nobody waits for the worker: waiting was worth it, or not needed.
            if !self.doorbell.is_pending.load(Ordering::Relaxed) {
                self.patience_us = self.patience_us_max;
            }
        } else if !self.push_in_time(frame) {
            count(&self.drops().ring_full);
        }
    }

    /// Waits for room for a frame, as long as patience lasts.
    fn push_in_time(&mut self, frame: &[u8]) -> bool {
        if self.patience_us == 0 {
            return false;
        }
        let start_us = self.clock.now().as_micros();
        loop {
            let is_pushed = (0..LOOKS).any(|_| {
                spin_loop();
                self.from_guest.push(frame, Offload::NONE)
            });
            let waited_us = self.clock.now().as_micros() - start_us;
            let left_us = self.patience_us.saturating_sub(waited_us);
            if is_pushed || left_us == 0 {
                self.patience_us = left_us;
                return is_pushed;
            }
            if waited_us < LOOK_US_MAX {
                thread::yield_now();
            } else {
                self.sleep_for_room(frame.len(), Duration::from_micros(left_us));
            }
        }
    }

    fn renew_patience(&mut self) {
        let last_us = self.patience_us_max;
        self.patience_us_max = match self.patience_us {
            0 => (last_us / 2).max(PATIENCE_US_MIN),
            _ => (last_us * 2).min(PATIENCE_US_MAX),
        };
        self.patience_us = self.patience_us_max;
    }

    fn sleep_for_room(&mut self, len: usize, longest: Duration) {
        self.from_guest.register(&Waker::from(Arc::new(Unpark(thread::current()))));
        if self.from_guest.wait_for_room(len) {
            thread::park_timeout(longest);
        }
    }
}

/// Wakes a worker that waits for room.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl NetBackend for KrunBackend {
    /// The next frame for the guest, with its header; never more than 12 bytes and the bound.
    fn read_frame(&mut self, buf: &mut [u8]) -> Result<usize, ReadError> {
        self.is_frame_out = false;
        if self.is_parked {
            self.is_parked = false;
            self.doorbell.unpark();
        }
        while self.taken < PASS_FRAMES_MAX {
            if self.cut.is_none() {
                let Some(record) = self.to_guest.read() else {
                    if self.falls_asleep() {
                        break;
                    }
                    continue;
                };
                self.cut = Some((record, Cut::new(record.len(), record.offload)));
                self.is_asleep = false;
            }
            self.taken += 1;
            if let Some(bytes) = self.hand_over(buf) {
                self.is_frame_out = true;
                // The pass that tells whether the guest had a buffer for it.
                self.doorbell.ring_once();
                return Ok(bytes);
            }
        }
        self.taken = 0;
        if self.cut.is_some() || (!self.is_asleep && !self.falls_asleep()) {
            self.doorbell.ring_once();
        }
        Err(ReadError::NothingRead)
    }

    /// Takes a frame of the guest: whatever it is, and always.
    fn write_frame(&mut self, hdr_len: usize, buf: &mut [u8]) -> Result<(), WriteError> {
        // Shorter than its header: what the device makes of a broken chain of descriptors.
        self.accept(buf.get(hdr_len..).unwrap_or(&[]));
        // Nothing tells the end of a burst, so each frame is flushed: a fence if the driver is up.
        self.from_guest.flush();
        if self.is_parked {
            self.doorbell.ring_once();
        }
        Ok(())
    }

    fn has_unfinished_write(&self) -> bool {
        false
    }

    /// Called at the end of each doorbell's pass (and when the worker starts), so this is where is
    /// known what became of it.
    fn try_finish_write(&mut self, _hdr_len: usize, _buf: &[u8]) -> Result<(), WriteError> {
        self.doorbell.is_pending.store(false, Ordering::Relaxed);
        self.renew_patience();
        self.taken = 0;
        if self.is_frame_out {
            if self.cut.is_none() {
                self.to_guest.release();
            }
            if !self.is_parked {
                self.is_parked = true;
                self.doorbell.park();
                self.driver.wake_by_ref();
            }
        } else if !self.is_asleep {
            self.doorbell.ring();
        }
        Ok(())
    }

    /// The worker has stopped. Nothing writes the guest's memory from here, so there is nothing to
    /// stop: the rings go on, and the frames of either direction stay where they are. A parked
    /// frame is no reason to wake anybody meanwhile.
    fn quiesce(&mut self) {
        self.is_parked = false;
        self.doorbell.unpark();
    }

    /// The worker is about to start again. It may have lost a ring while it stopped.
    fn resume(&mut self) {
        self.doorbell.ring();
    }

    fn supports_quiesce(&self) -> bool {
        true
    }

    fn raw_socket_fd(&self) -> RawFd {
        self.doorbell.event.as_raw_fd()
    }
}

impl Drop for KrunBackend {
    /// Nobody will take a parked frame any more.
    fn drop(&mut self) {
        self.doorbell.unpark();
    }
}

// By its path, as another package has this file by its own.
#[cfg(test)]
#[path = "krun/tests.rs"]
mod tests;
