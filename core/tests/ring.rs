//! The frame ring as its two ends see it: against a model, across threads, and misused.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "this is a test, its functions too")]

use core::panic::AssertUnwindSafe;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::collections::VecDeque;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::task::Wake;
use std::thread::{self, Thread};

use sluicegate_core::TransportChecksum;
use sluicegate_core::limits::FRAME_BYTES_MAX;
use sluicegate_core::{Consumer, FrameRing, Offload, Producer, Record, RingHandle};

type Ring = Arc<FrameRing<Box<[u8]>>>;
type Ends = (Producer<Ring>, Consumer<Ring>);

const HEADER_BYTES: usize = 16;

fn ends(capacity: usize, frame_bytes_max: usize) -> Ends {
    let bytes = vec![0xA5; capacity].into_boxed_slice();
    FrameRing::split(Arc::new(FrameRing::with_frame_max(bytes, frame_bytes_max)))
}

/// Xorshift64*: all the randomness that a test needs.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number in `0..=last`.
    fn up_to(&mut self, last: usize) -> usize {
        usize::try_from(self.next() % (last as u64 + 1)).unwrap()
    }

    fn offload(&mut self) -> Offload {
        let checksum =
            [TransportChecksum::Complete, TransportChecksum::Vouched, TransportChecksum::Partial]
                [self.up_to(2)];
        let segment_bytes = u16::try_from(self.up_to(0xFFFF)).unwrap();
        Offload { segment_bytes, header_bytes: segment_bytes / 3, checksum }
    }
}

/// A frame that tells its number and length in every byte.
fn fill(frame: &mut [u8], number: u64) {
    let mut word = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ frame.len() as u64;
    for chunk in frame.chunks_mut(8) {
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        word = word.wrapping_add(0x0101_0101_0101_0101);
    }
}

fn frame(len: usize, number: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fill(&mut bytes, number);
    bytes
}

#[derive(Default)]
struct WakeCount(AtomicUsize);

impl WakeCount {
    fn taken(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

impl Wake for WakeCount {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn counting() -> (Arc<WakeCount>, Waker) {
    let count = Arc::new(WakeCount::default());
    (Arc::clone(&count), Waker::from(count))
}

/// A thread that sleeps until its waker is called, and for no other reason.
struct Sleeper {
    thread: Thread,
    is_woken: AtomicBool,
}

impl Sleeper {
    fn this_thread() -> (Arc<Self>, Waker) {
        let thread = thread::current();
        let sleeper = Arc::new(Self { thread, is_woken: AtomicBool::new(false) });
        (Arc::clone(&sleeper), Waker::from(sleeper))
    }

    fn sleep(&self) {
        for _ in 0..1000 {
            if self.is_woken.swap(false, Ordering::SeqCst) {
                return;
            }
            thread::park_timeout(Duration::from_millis(60));
        }
        panic!("a lost wake");
    }
}

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        self.is_woken.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

/// The message of the panic that `f` must end in.
fn panic_of<T>(f: impl FnOnce() -> T) -> String {
    let payload = catch_unwind(AssertUnwindSafe(f)).err().expect("it panics");
    match payload.downcast::<String>() {
        Ok(message) => *message,
        Err(payload) => payload.downcast::<&str>().unwrap().to_string(),
    }
}

/// What a ring should hold, beside the ring.
struct Model {
    ends: Ends,
    capacity: usize,
    frame_bytes_max: usize,
    /// Committed and not read.
    waiting: VecDeque<(Vec<u8>, Offload)>,
    /// Read and not released.
    held: Vec<(Record, Vec<u8>)>,
    number: u64,
}

impl Model {
    fn new(capacity: usize, frame_bytes_max: usize) -> Self {
        Self {
            ends: ends(capacity, frame_bytes_max),
            capacity,
            frame_bytes_max,
            waiting: VecDeque::new(),
            held: Vec::new(),
            number: 0,
        }
    }

    fn step(&mut self, random: &mut Random) {
        match random.up_to(9) {
            0..=3 => self.put(random),
            4..=6 => self.take(),
            7 => self.change(random),
            8 => self.release(),
            _ => self.look(random),
        }
        for (record, bytes) in &self.held {
            assert_eq!(self.ends.1.bytes(record), bytes);
        }
    }

    fn put(&mut self, random: &mut Random) {
        let len_max = random.up_to(self.frame_bytes_max + 1);
        let room = self.ends.0.room();
        let Some(space) = self.ends.0.reserve(len_max) else {
            assert!(len_max > room || len_max == 0, "{len_max} refused with room for {room}");
            return;
        };
        assert!(len_max <= room, "{len_max} taken with room for {room}");
        assert_eq!(space.len(), len_max);
        let len = if random.up_to(1) == 0 { len_max } else { random.up_to(len_max) };
        space.fill(0x5A);
        fill(&mut space[..len], self.number);
        let offload = random.offload();
        self.ends.0.commit(len, offload);
        self.waiting.push_back((frame(len, self.number), offload));
        self.number += 1;
    }

    fn take(&mut self) {
        let record = self.ends.1.read();
        let expected = self.waiting.pop_front();
        assert_eq!(record.is_some(), expected.is_some());
        if let (Some(record), Some((bytes, offload))) = (record, expected) {
            assert_eq!((record.len(), record.offload), (bytes.len(), offload));
            self.held.push((record, bytes));
        }
    }

    fn change(&mut self, random: &mut Random) {
        if self.held.is_empty() {
            return;
        }
        let last = self.held.len() - 1;
        let (record, bytes) = &mut self.held[random.up_to(last)];
        fill(bytes, !self.number);
        fill(self.ends.1.bytes_mut(record), !self.number);
    }

    fn release(&mut self) {
        self.ends.1.release();
        self.held.clear();
    }

    fn look(&mut self, random: &mut Random) {
        assert_eq!(self.ends.1.is_empty(), self.waiting.is_empty());
        assert_eq!(self.ends.1.sleep(), self.waiting.is_empty());
        let len = random.up_to(self.frame_bytes_max);
        let waits = self.ends.0.wait_for_room(len);
        assert_eq!(waits, self.ends.0.reserve(len).is_none());
        if self.waiting.is_empty() && self.held.is_empty() {
            assert_eq!(self.ends.0.room(), self.frame_bytes_max, "an empty ring takes any frame");
            assert!(!self.ends.0.wait_for_room(self.frame_bytes_max));
        }
        let inside = self.waiting.len() + self.held.len();
        assert!(inside * HEADER_BYTES <= self.capacity);
    }
}

#[test]
fn any_order_of_calls_does_what_a_queue_of_frames_does() {
    for (seed, (capacity, frame_bytes_max)) in
        [(32, 0), (64, 1), (64, 16), (128, 48), (256, 100), (1024, 80), (4096, 1514)]
            .into_iter()
            .enumerate()
    {
        let mut random = Random(0x5EED + seed as u64);
        let mut model = Model::new(capacity, frame_bytes_max);
        for _ in 0..20_000 {
            model.step(&mut random);
        }
        assert!(model.number > 1000, "most steps did something");
    }
}

#[test]
fn the_counters_count_ethernet_bytes_and_frames_when_they_are_committed() {
    let ring = FrameRing::with_frame_max(vec![0; 256], 64);
    let (mut producer, _consumer) = FrameRing::split(&ring);
    assert!(producer.push(&[1; 60], Offload::NONE));
    assert!(producer.reserve(40).is_some());
    assert_eq!((ring.bytes_accepted(), ring.frames_accepted()), (60, 1));
    producer.commit(20, Offload::NONE);
    assert_eq!((ring.bytes_accepted(), ring.frames_accepted()), (80, 2));
    while producer.push(&[2; 64], Offload::NONE) {}
    assert_eq!((ring.bytes_accepted(), ring.frames_accepted()), (144, 3));
}

#[test]
fn what_waits_is_what_was_committed_and_not_released() {
    let ring = FrameRing::with_frame_max(vec![0; 256], 64);
    let (mut producer, mut consumer) = FrameRing::split(&ring);
    assert_eq!((ring.capacity(), ring.waiting()), (256, (0, 0)));
    let cut = Offload { segment_bytes: 10, header_bytes: 20, ..Offload::NONE };
    assert!(producer.push(&[1; 60], cut), "several of the guest's, and one here");
    assert!(producer.reserve(40).is_some());
    assert_eq!(ring.waiting(), (80, 1));
    producer.commit(20, Offload::NONE);
    assert_eq!(ring.waiting(), (128, 2));
    assert!(consumer.read().is_some());
    assert_eq!(ring.waiting(), (128, 2), "it is still held");
    consumer.release();
    assert_eq!(ring.waiting(), (48, 1));
    // Also around the end, where the rest is skipped.
    for _ in 0..9 {
        assert!(producer.push(&[2; 64], Offload::NONE));
        while consumer.read().is_some() {}
        consumer.release();
        assert_eq!(ring.waiting(), (0, 0));
    }
}

#[test]
fn a_frame_of_every_length_passes_at_every_residue_of_the_end() {
    const CAPACITY: usize = 512;
    const LEN_MAX: usize = 100;
    for lap_bytes in (0..CAPACITY).step_by(HEADER_BYTES) {
        for len in 0..=LEN_MAX {
            let mut ends = ends(CAPACITY, LEN_MAX);
            advance(&mut ends, lap_bytes);
            let (mut producer, mut consumer) = ends;
            let offload = Offload {
                segment_bytes: 1460,
                header_bytes: 54,
                checksum: TransportChecksum::Partial,
            };
            for number in 0..3 {
                assert!(producer.push(&frame(len, number), offload), "{len} at {lap_bytes}");
            }
            for number in 0..3 {
                let record = consumer.read().unwrap();
                assert_eq!(record.offload, offload);
                assert_eq!(consumer.bytes(&record), frame(len, number), "{len} at {lap_bytes}");
            }
            assert!(consumer.read().is_none());
        }
    }
}

#[test]
fn the_last_byte_of_the_capacity_is_used() {
    let (mut producer, mut consumer) = ends(256, 48);
    for lap in 0..3 {
        for number in 0..4 {
            assert_eq!(producer.room(), 48);
            assert!(producer.push(&frame(48, lap + number), Offload::NONE));
        }
        assert_eq!(producer.room(), 0);
        assert!(producer.reserve(0).is_none(), "not even a header fits");
        for number in 0..4 {
            let record = consumer.read().unwrap();
            assert_eq!(consumer.bytes(&record), frame(48, lap + number));
        }
        assert!(producer.reserve(0).is_none(), "what is read is not free yet");
        consumer.release();
    }
}

#[test]
fn the_longest_frame_passes_through_the_smallest_ring_at_every_turn() {
    let (mut producer, mut consumer) = FrameRing::split(Arc::new(FrameRing::new(vec![0; 1 << 18])));
    assert_eq!(producer.frame_bytes_max(), FRAME_BYTES_MAX);
    for number in 0..50 {
        assert!(producer.push(&frame(FRAME_BYTES_MAX, number), Offload::NONE));
        assert!(producer.push(&frame(1000, number), Offload::NONE));
        for len in [FRAME_BYTES_MAX, 1000] {
            let record = consumer.read().unwrap();
            assert!(consumer.bytes(&record) == frame(len, number), "{len} bytes at {number}");
        }
        consumer.release();
    }
    assert!(producer.reserve(FRAME_BYTES_MAX + 1).is_none(), "longer than any frame");
}

#[test]
fn the_first_flush_of_a_frame_wakes_and_no_other_until_the_consumer_sleeps_again() {
    let (mut producer, mut consumer) = ends(1024, 64);
    let (wakes, waker) = counting();
    consumer.register(&waker);
    producer.flush();
    assert_eq!(wakes.taken(), 0, "nothing was committed");
    assert!(producer.push(b"one", Offload::NONE));
    assert_eq!(wakes.taken(), 0, "not flushed yet");
    producer.flush();
    assert_eq!(wakes.taken(), 1);
    assert!(producer.push(b"two", Offload::NONE));
    producer.flush();
    assert_eq!(wakes.taken(), 0, "the consumer is awake");
    assert!(!consumer.sleep(), "frames are there");
    assert!(producer.push(b"three", Offload::NONE));
    producer.flush();
    assert_eq!(wakes.taken(), 0, "the consumer did not go to sleep");
    while consumer.read().is_some() {}
    assert!(consumer.sleep());
    assert!(producer.push(b"four", Offload::NONE));
    producer.flush();
    assert_eq!(wakes.taken(), 1, "the waker stays registered");
    while consumer.read().is_some() {}
    assert!(consumer.sleep());
    consumer.awake();
    assert!(producer.push(b"five", Offload::NONE));
    producer.flush();
    assert_eq!(wakes.taken(), 0, "the consumer took its word back");
}

#[test]
fn a_task_that_polls_is_woken_when_a_frame_is_flushed() {
    let (mut producer, mut consumer) = ends(1024, 64);
    let ((wakes, waker), (other_wakes, other)) = (counting(), counting());
    let mut task = Context::from_waker(&waker);
    assert_eq!(consumer.poll_ready(&mut task), Poll::Pending);
    assert_eq!(consumer.poll_ready(&mut Context::from_waker(&other)), Poll::Pending);
    assert!(producer.push(b"one", Offload::NONE));
    producer.flush();
    assert_eq!((wakes.taken(), other_wakes.taken()), (0, 1), "the last one to poll is woken");
    assert_eq!(consumer.poll_ready(&mut task), Poll::Ready(()));
    assert!(consumer.read().is_some());
    assert_eq!(consumer.poll_ready(&mut task), Poll::Pending);
    assert!(producer.push(b"two", Offload::NONE));
    producer.flush();
    assert_eq!((wakes.taken(), other_wakes.taken()), (1, 0));
}

#[test]
fn a_waiting_producer_is_woken_once_and_only_when_its_frame_fits() {
    let (mut producer, mut consumer) = ends(512, 200);
    let (wakes, waker) = counting();
    producer.register(&waker);
    while producer.push(&[7; 16], Offload::NONE) {}
    assert!(producer.wait_for_room(112));
    for released in 1..=3 {
        assert!(consumer.read().is_some());
        consumer.release();
        assert_eq!(wakes.taken(), 0, "{released} * 32 bytes are less than 128");
    }
    assert!(consumer.read().is_some());
    consumer.release();
    assert_eq!(wakes.taken(), 1);
    assert!(consumer.read().is_some());
    consumer.release();
    assert_eq!(wakes.taken(), 0, "it no longer waits");
    assert!(!producer.wait_for_room(112), "it fits now");
    assert!(producer.push(&[8; 112], Offload::NONE));
}

#[test]
fn a_producer_that_waits_for_room_flushes_first() {
    let (mut producer, mut consumer) = ends(64, 16);
    let (wakes, waker) = counting();
    consumer.register(&waker);
    while producer.push(&[0; 16], Offload::NONE) {}
    assert!(producer.wait_for_room(16));
    assert_eq!(wakes.taken(), 1, "or both would sleep");
}

fn tag(number: u64) -> Offload {
    Offload { segment_bytes: u16::try_from(number % 60_000).unwrap(), ..Offload::NONE }
}

/// Sends `frames` frames of up to `len_max` bytes, sleeping whenever there is no room.
fn produce<R: RingHandle>(mut producer: Producer<R>, frames: u64, len_max: usize) -> u64 {
    let (sleeper, waker) = Sleeper::this_thread();
    producer.register(&waker);
    let mut random = Random(1);
    let mut sleeps = 0;
    for number in 0..frames {
        let len = random.up_to(len_max);
        while producer.reserve(len).map(|space| fill(space, number)).is_none() {
            if producer.wait_for_room(len) {
                sleeper.sleep();
                sleeps += 1;
            }
        }
        producer.commit(len, tag(number));
        if random.up_to(20) == 0 {
            producer.flush();
        }
    }
    producer.flush();
    sleeps
}

/// Checks the frames of [`produce`], sleeping whenever there is none.
fn consume<R: RingHandle>(mut consumer: Consumer<R>, frames: u64, len_max: usize) -> u64 {
    let (sleeper, waker) = Sleeper::this_thread();
    consumer.register(&waker);
    let (mut lens, mut turns) = (Random(1), Random(2));
    let mut expected = vec![0; len_max];
    let mut sleeps = 0;
    for number in 0..frames {
        let len = lens.up_to(len_max);
        lens.up_to(20);
        let record = loop {
            if let Some(record) = consumer.read() {
                break record;
            }
            consumer.release();
            if consumer.sleep() {
                sleeper.sleep();
                sleeps += 1;
            }
        };
        fill(&mut expected[..len], number);
        assert_eq!((record.len(), record.offload), (len, tag(number)));
        assert!(consumer.bytes_mut(&record) == &expected[..len], "frame {number}");
        consumer.bytes_mut(&record).fill(0xEE);
        if turns.up_to(10) == 0 {
            consumer.release();
        }
    }
    assert!(consumer.read().is_none());
    sleeps
}

fn stress(capacity: usize, len_max: usize, frames: u64) {
    let bytes = vec![0; capacity].into_boxed_slice();
    let ring = Arc::new(FrameRing::with_frame_max(bytes, len_max));
    let (producer, consumer) = FrameRing::split(Arc::clone(&ring));
    let producing = thread::spawn(move || produce(producer, frames, len_max));
    let waits = consume(consumer, frames, len_max);
    let sleeps = producing.join().unwrap();
    assert_eq!(ring.frames_accepted(), frames);
    assert!(waits > 0 && sleeps > 0, "both have slept: {waits} and {sleeps} times");
}

#[test]
fn a_million_frames_of_mixed_length_cross_two_threads_that_sleep() {
    stress(16 * 1024, 1514, 700_000);
    stress(128, 40, 290_000);
    stress(1 << 18, FRAME_BYTES_MAX, 10_000);
}

#[test]
fn the_ends_of_a_borrowed_ring_work_in_scoped_threads() {
    let mut bytes = [0; 1024];
    let ring = FrameRing::with_frame_max(&mut bytes[..], 100);
    let (producer, consumer) = FrameRing::split(&ring);
    thread::scope(|scope| {
        scope.spawn(|| produce(producer, 10_000, 100));
        consume(consumer, 10_000, 100);
    });
    assert_eq!(ring.frames_accepted(), 10_000);
}

#[test]
fn the_ends_keep_the_ring_alive() {
    let (mut producer, mut consumer) = ends(64, 16);
    assert!(producer.push(b"kept", Offload::NONE));
    drop(producer);
    let record = consumer.read().unwrap();
    assert_eq!(consumer.bytes(&record), b"kept");
}

#[test]
fn a_ring_is_split_once() {
    let ring = FrameRing::with_frame_max([0; 64], 16);
    drop(FrameRing::split(&ring));
    let message = panic_of(|| FrameRing::split(&ring));
    assert!(message.contains("one producer and one consumer"), "{message}");
}

#[test]
fn storage_of_a_wrong_size_is_refused() {
    for (bytes, frame_bytes_max) in [(0, 0), (16, 0), (48, 1), (63, 1), (96, 16), (32, 16)] {
        let message = panic_of(|| FrameRing::with_frame_max(vec![0; bytes], frame_bytes_max));
        assert!(message.starts_with("a ring of"), "{message}");
    }
    panic_of(|| FrameRing::with_frame_max(vec![0; 1 << 20], FRAME_BYTES_MAX + 1));
    panic_of(|| FrameRing::new(vec![0; 1 << 17]));
}

/// Storage that is another size each time it is looked at.
struct Fickle([u8; 128], usize);

impl AsMut<[u8]> for Fickle {
    fn as_mut(&mut self) -> &mut [u8] {
        self.1 /= 2;
        &mut self.0[..self.1]
    }
}

#[test]
fn storage_that_changes_its_size_is_refused() {
    let ring = FrameRing::with_frame_max(Fickle([0; 128], 256), 16);
    let message = panic_of(|| FrameRing::split(&ring));
    assert!(message.contains("changed its size"), "{message}");
}

#[test]
fn a_commit_without_or_beyond_its_reservation_panics() {
    let (mut producer, _consumer) = ends(1024, 100);
    panic_of(|| producer.commit(0, Offload::NONE));
    assert!(producer.reserve(10).is_some());
    panic_of(|| producer.commit(11, Offload::NONE));
    assert!(producer.reserve(10).is_some());
    producer.commit(10, Offload::NONE);
    panic_of(|| producer.commit(10, Offload::NONE));
    assert!(producer.reserve(10).is_some());
    assert!(producer.reserve(101).is_none());
    panic_of(|| producer.commit(10, Offload::NONE));
    panic_of(|| producer.wait_for_room(101));
}

#[test]
fn a_frame_is_out_of_reach_once_released() {
    let (mut producer, mut consumer) = ends(256, 48);
    for number in 0..4 {
        assert!(producer.push(&frame(48, number), Offload::NONE));
    }
    let first = consumer.read().unwrap();
    let second = consumer.read().unwrap();
    consumer.release();
    let third = consumer.read().unwrap();
    for record in [first, second] {
        let message = panic_of(|| consumer.bytes(&record).len());
        assert_eq!(message, "the frame is not held");
        panic_of(|| consumer.bytes_mut(&record).len());
    }
    assert_eq!(consumer.bytes(&third), frame(48, 2));
}

#[test]
fn a_record_of_another_ring_reaches_nothing_beyond_what_is_held() {
    let (mut producer, mut consumer) = ends(256, 100);
    let (mut other_producer, mut other_consumer) = ends(256, 100);
    assert!(other_producer.push(&[1; 100], Offload::NONE));
    let foreign = other_consumer.read().unwrap();
    panic_of(|| consumer.bytes(&foreign).len());
    for _ in 0..2 {
        assert!(producer.push(&[2; 16], Offload::NONE));
    }
    assert!(consumer.read().is_some());
    panic_of(|| consumer.bytes(&foreign).len());
    assert!(consumer.read().is_some());
    panic_of(|| consumer.bytes(&foreign).len());
    while consumer.read().is_some() || producer.push(&[2; 16], Offload::NONE) {}
    assert_eq!(consumer.bytes(&foreign).len(), 100, "a stretch of bytes that the consumer holds");
}

/// Passes empty frames until the next record starts `bytes` after the first.
fn advance((producer, consumer): &mut Ends, bytes: usize) {
    for _ in 0..bytes / HEADER_BYTES {
        assert!(producer.push(&[], Offload::NONE));
        assert!(consumer.read().is_some());
        consumer.release();
    }
}

#[test]
fn a_record_of_a_larger_ring_does_not_reach_beyond_the_end_of_the_storage() {
    let (mut small, mut large) = (ends(256, 100), ends(512, 100));
    // Both stand 64 bytes before a multiple of 256: an end of the small ring only.
    advance(&mut small, 512 - 64);
    advance(&mut large, 768 - 64);
    assert!(large.0.push(&[1; 100], Offload::NONE));
    let across = large.1.read().unwrap();
    for _ in 0..4 {
        assert!(small.0.push(&[2; 16], Offload::NONE));
        assert!(small.1.read().is_some());
    }
    panic_of(|| small.1.bytes(&across).len());
}
