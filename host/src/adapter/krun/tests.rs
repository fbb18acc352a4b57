//! The backend alone, called as the device calls it.

use sluicegate_core::FrameRing;
use sluicegate_core::limits::FRAME_BYTES_MAX;

use super::*;

const BOUND: usize = 1514;
/// The device's own buffer.
const SPACE: usize = 65_562;

#[derive(Default)]
struct Woken(AtomicU64);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        count(&self.0);
    }
}

/// A backend, what its worker would call it with, and all that is on the other side.
struct Link {
    backend: KrunBackend,
    space: Vec<u8>,
    doorbell: Arc<Doorbell>,
    published: Arc<Published>,
    woken: Arc<Woken>,
    clock: Clock,
    from_guest: RingConsumer,
    to_guest: RingProducer,
}

impl Link {
    fn new() -> Self {
        let ring = || Arc::new(FrameRing::new(vec![0; 1 << 18].into()));
        let (guest_producer, from_guest) = FrameRing::split(ring());
        let (to_guest, guest_consumer) = FrameRing::split(ring());
        let (clock, published) = (Clock::new(), Arc::<Published>::default());
        let woken = Arc::<Woken>::default();
        let doorbell = Arc::new(Doorbell::new(clock).unwrap());
        let backend = KrunBackend::new(
            (guest_producer, guest_consumer),
            1514,
            Arc::clone(&doorbell),
            Arc::clone(&published),
            Waker::from(Arc::clone(&woken)),
        );
        let space = vec![0xaa; SPACE];
        Self { backend, space, doorbell, published, woken, clock, from_guest, to_guest }
    }

    fn push(&mut self, frames: usize) {
        for _ in 0..frames {
            assert!(self.to_guest.push(&[5; 60], Offload::NONE));
        }
        self.to_guest.flush();
    }

    /// The length that the worker gets.
    fn read(&mut self) -> Option<usize> {
        self.backend.read_frame(&mut self.space).ok()
    }

    fn write(&mut self, bytes: &[u8]) {
        self.space[..bytes.len()].copy_from_slice(bytes);
        let taken = self.backend.write_frame(HEADER.len(), &mut self.space[..bytes.len()]);
        assert!(taken.is_ok(), "a frame of {} bytes was refused", bytes.len());
    }

    fn end_pass(&mut self) {
        assert!(self.backend.try_finish_write(HEADER.len(), &[]).is_ok());
    }

    /// Rings since the last call.
    fn rings(&self) -> u64 {
        let mut count = [0; 8];
        let read = rustix::io::read(&self.doorbell.event, &mut count);
        read.map_or(0, |_| u64::from_ne_bytes(count))
    }

    fn drops(&self) -> [u64; 3] {
        let AdapterDrops { ring_full, short, too_long, .. } = &self.published.adapter_drops;
        [ring_full, short, too_long].map(|counter| counter.load(Ordering::Relaxed))
    }

    fn woken(&self) -> u64 {
        self.woken.0.load(Ordering::Relaxed)
    }

    fn now_us(&self) -> u64 {
        self.clock.now().as_micros()
    }

    fn let_pass(&self, micros: u64) {
        let end = self.now_us() + micros;
        while self.now_us() <= end {
            thread::yield_now();
        }
    }
}

#[test]
fn a_frame_for_the_guest_follows_a_header_that_promises_nothing() {
    let mut link = Link::new();
    assert!(link.to_guest.push(&[7; 60], Offload::NONE));
    assert_eq!(link.read(), Some(72));
    assert_eq!(link.space[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(link.space[12..72], [7; 60]);
    assert_eq!(link.space[72..], [0xaa; SPACE - 72]);
    assert_eq!(link.read(), None);
}

#[test]
fn no_frame_above_the_bound_leaves() {
    let mut link = Link::new();
    for len in [BOUND + 1, BOUND, FRAME_BYTES_MAX, 0] {
        assert!(link.to_guest.push(&vec![1; len], Offload::NONE));
    }
    assert_eq!(link.read(), Some(12 + BOUND));
    assert_eq!(link.read(), Some(12));
    assert_eq!(link.read(), None);
    assert_eq!(link.drops(), [0, 0, 2]);
}

#[test]
fn a_frame_that_the_space_does_not_take_is_dropped() {
    let mut link = Link::new();
    link.push(1);
    link.space.truncate(71);
    assert_eq!(link.read(), None);
    assert_eq!(link.drops(), [0, 0, 1]);
}

#[test]
fn every_length_of_a_chain_is_accepted_or_counted() {
    let mut link = Link::new();
    for len in (0..40).chain([1000, 1526, SPACE - 2, SPACE - 1, SPACE]) {
        let before = link.drops();
        link.write(&vec![3; len]);
        match link.from_guest.read() {
            Some(record) => assert_eq!(record.len(), len - 12),
            None if len <= 12 => assert_eq!(link.drops()[1], before[1] + 1),
            None => assert_eq!((len, link.drops()[2]), (SPACE, before[2] + 1)),
        }
        link.from_guest.release();
    }
    assert_eq!(link.drops(), [0, 13, 1]);
}

#[test]
fn what_the_guest_writes_into_the_header_means_nothing() {
    let mut link = Link::new();
    link.write(&[0xff; 72]);
    let record = link.from_guest.read().unwrap();
    assert_eq!(record.offload, Offload::NONE);
    assert_eq!(link.from_guest.bytes(&record), [0xff; 60]);
}

#[test]
fn a_driver_that_sleeps_is_woken_once_for_a_burst() {
    let mut link = Link::new();
    let driver = Waker::from(Arc::clone(&link.woken));
    link.from_guest.register(&driver);
    assert!(link.from_guest.sleep());
    for _ in 0..10 {
        link.write(&[0; 72]);
    }
    assert_eq!(link.woken(), 1);
}

#[test]
fn the_doorbell_rings_once_for_each_time_that_the_ring_was_left_empty() {
    let mut link = Link::new();
    for _ in 0..3 {
        for _ in 0..5 {
            link.push(1);
        }
        assert_eq!(link.rings(), 1);
        for _ in 0..5 {
            assert_eq!(link.read(), Some(72));
        }
        assert_eq!(link.read(), None);
        link.end_pass();
        assert_eq!(link.rings(), 0);
    }
}

#[test]
fn a_pass_has_an_end_and_rings_for_the_rest() {
    let mut link = Link::new();
    link.push(150);
    let mut passes = Vec::new();
    while link.rings() != 0 {
        passes.push(core::iter::from_fn(|| link.read()).count());
        link.end_pass();
    }
    assert_eq!(passes, [64, 64, 22]);
}

#[test]
fn a_pass_that_takes_just_as_many_as_it_may_leaves_the_ring_asleep() {
    let mut link = Link::new();
    link.push(64);
    assert_eq!(core::iter::from_fn(|| link.read()).count(), 64);
    link.end_pass();
    assert_eq!(link.rings(), 1);
    link.push(1);
    assert_eq!(link.rings(), 1);
}

#[test]
fn frames_are_given_back_to_the_ring_while_more_come() {
    let mut link = Link::new();
    // The ring holds 170 of these.
    for number in 0..1000u32 {
        assert!(link.to_guest.push(&[0; 1514], Offload::NONE), "no room for {number}");
        link.to_guest.flush();
        assert_eq!(link.read().or_else(|| link.read()), Some(1526));
    }
}

#[test]
fn a_frame_taken_without_a_doorbell_rings_one_to_learn_what_becomes_of_it() {
    let mut link = Link::new();
    // Committed, not flushed: a pass that the guest asked for finds it.
    assert!(link.to_guest.push(&[0; 60], Offload::NONE));
    assert_eq!(link.rings(), 0);
    assert_eq!(link.read(), Some(72));
    assert_eq!(link.rings(), 1);
}

#[test]
fn a_full_ring_is_waited_for_and_once_in_vain_no_more() {
    let mut link = Link::new();
    let frame = [0; 1526];
    let start_us = link.now_us();
    while link.drops() == [0; 3] {
        link.write(&frame);
    }
    assert!(link.now_us() - start_us >= PATIENCE_US_MAX, "dropped too early");
    let start_us = link.now_us();
    for _ in 0..1000 {
        link.write(&frame);
    }
    assert!(link.now_us() - start_us < 10 * PATIENCE_US_MAX, "waits for nobody");
    assert_eq!(link.drops(), [1001, 0, 0]);
    // A driver that is back finds all that was accepted, and the room is used at once.
    while link.from_guest.read().is_some() {}
    link.from_guest.release();
    link.write(&frame);
    assert!(link.from_guest.read().is_some());
    assert_eq!(link.backend.patience_us, PATIENCE_US_MAX);
}

#[test]
fn a_frame_that_waits_goes_as_soon_as_there_is_room() {
    let mut link = Link::new();
    let frame = [0; 1526];
    let mut from_guest = core::mem::replace(&mut link.from_guest, Link::new().from_guest);
    link.backend.patience_us = 100 * PATIENCE_US_MAX;
    let (start_us, written) = (link.now_us(), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            // Full once no more of them are written for two milliseconds.
            let (clock, mut known, mut since_us) = (Clock::new(), 0, 0);
            while known < 160 || clock.now().as_micros() - since_us < 2000 {
                let now = written.load(Ordering::Relaxed);
                if now != known {
                    (known, since_us) = (now, clock.now().as_micros());
                }
                thread::yield_now();
            }
            while from_guest.read().is_some() {}
            from_guest.release();
        });
        for _ in 0..200 {
            link.write(&frame);
            count(&written);
        }
    });
    assert_eq!(link.drops(), [0; 3]);
    assert!(link.now_us() - start_us < 50 * PATIENCE_US_MAX, "slept on");
}

#[test]
fn patience_is_less_each_time_that_it_was_in_vain_and_comes_back() {
    let mut link = Link::new();
    let mut patience = Vec::new();
    for _ in 0..8 {
        link.backend.patience_us = 0;
        link.end_pass();
        patience.push(link.backend.patience_us);
    }
    assert_eq!(patience, [25_000, 12_500, 6250, 3125, 1562, 1000, 1000, 1000]);
    for _ in 0..6 {
        link.end_pass();
    }
    assert_eq!(link.backend.patience_us, PATIENCE_US_MAX);
}

#[test]
fn a_frame_without_a_buffer_is_parked_and_tried_again_ever_more_seldom() {
    let mut link = Link::new();
    link.push(2);
    assert_eq!(link.rings(), 1);
    assert_eq!(link.read(), Some(72));
    assert_eq!(link.doorbell.recheck(), None);
    link.end_pass();
    link.end_pass();
    assert_eq!(link.woken(), 1, "the driver hears of it once");
    let mut waits_us = Vec::new();
    for _ in 0..6 {
        let due_us = link.doorbell.ring_us.load(Ordering::Relaxed);
        let before_us = link.now_us();
        let wait = link.doorbell.recheck().unwrap();
        let (rings, after_us) = (link.rings(), link.now_us());
        assert!(rings == 1 || before_us < due_us, "rings when it is due");
        assert!(rings == 0 || after_us >= due_us, "and not before");
        waits_us.push(u64::try_from(wait.as_micros()).unwrap());
        link.let_pass(*waits_us.last().unwrap());
        link.end_pass();
    }
    assert!(waits_us[0] <= PARKED_US_MIN, "{waits_us:?}");
    assert!(waits_us[5] >= 16 * PARKED_US_MIN, "{waits_us:?}");
    assert!(waits_us.iter().all(|wait| *wait <= PARKED_US_MAX), "{waits_us:?}");
    // Buffers are back: the worker asks for the next one.
    assert_eq!(link.read(), Some(72));
    assert_eq!(link.doorbell.recheck(), None);
    assert_eq!(link.read(), None);
    link.end_pass();
    assert_eq!((link.doorbell.recheck(), link.woken()), (None, 1));
}

#[test]
fn a_frame_of_the_guest_rings_for_a_parked_one_once_a_pass() {
    let mut link = Link::new();
    link.push(2);
    assert_eq!(link.read(), Some(72));
    link.end_pass();
    assert_eq!(link.rings(), 1);
    for _ in 0..2 {
        link.write(&[0; 72]);
        link.write(&[0; 72]);
        assert_eq!(link.rings(), 1);
        link.end_pass();
    }
}

#[test]
fn a_stopped_worker_keeps_nobody_awake_and_is_rung_when_it_starts() {
    let mut link = Link::new();
    link.push(2);
    assert_eq!(link.read(), Some(72));
    link.end_pass();
    assert!(link.doorbell.recheck().is_some());
    link.backend.quiesce();
    assert_eq!(link.doorbell.recheck(), None);
    link.rings();
    link.backend.resume();
    assert_eq!(link.rings(), 1);
    // Still no buffer.
    link.end_pass();
    assert!(link.doorbell.recheck().is_some());
    drop(link.backend);
    assert_eq!(link.doorbell.recheck(), None);
}
