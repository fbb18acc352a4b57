//! The frame ring under loom, which tries every order of the two ends' steps and every value that
//! the memory model lets them see. To be run with `RUSTFLAGS="--cfg loom"`, in release.
#![cfg(loom)]
#![allow(clippy::unwrap_used, reason = "this is a test, its functions too")]

use core::future::poll_fn;
use core::task::Poll;
use std::sync::Arc;

use loom::future::block_on;
use loom::thread;
use sluicegate_core::{Consumer, FrameRing, Offload, Producer};

type Ring = Arc<FrameRing<Box<[u8]>>>;

/// Two records of 32 bytes fill this ring.
const LEN: usize = 16;
const CAPACITY: usize = 64;

fn ends(capacity: usize, frame_bytes_max: usize) -> (Producer<Ring>, Consumer<Ring>) {
    let bytes = vec![0; capacity].into_boxed_slice();
    FrameRing::split(Arc::new(FrameRing::with_frame_max(bytes, frame_bytes_max)))
}

fn push(producer: &mut Producer<Ring>, number: u8, len: usize) {
    producer.reserve(len).expect("it fits").fill(number);
    producer.commit(len, Offload { segment_bytes: number.into(), ..Offload::NONE });
}

/// Sleeps until a frame of `len` bytes fits.
fn wait_for_room(producer: &mut Producer<Ring>, len: usize) {
    block_on(poll_fn(|task| {
        producer.register(task.waker());
        if producer.wait_for_room(len) { Poll::Pending } else { Poll::Ready(()) }
    }));
}

/// Sleeps until there is a frame.
fn wait_for_frame(consumer: &mut Consumer<Ring>) {
    block_on(poll_fn(|task| consumer.poll_ready(task)));
}

/// Takes the next frame, which must be there, and scribbles over it.
fn take(consumer: &mut Consumer<Ring>, number: u8, len: usize) {
    let record = consumer.read().expect("a frame is there");
    assert_eq!(record.offload.segment_bytes, number.into());
    assert_eq!(consumer.bytes(&record), vec![number; len]);
    consumer.bytes_mut(&record).fill(0xEE);
}

/// Tries everything: for the smallest of the models.
fn every_order(model: impl Fn() + Send + Sync + 'static) {
    loom::model::Builder::new().check(model);
}

/// Tries every order in which an end is interrupted three times at most, beside its own waits:
/// everything would take many minutes a model.
fn three_interruptions(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

#[test]
fn frames_arrive_in_order_and_whole_across_the_end() {
    three_interruptions(|| {
        // Records of 48 bytes: the third does not fit behind the second, and is skipped to.
        let (mut producer, mut consumer) = ends(128, 32);
        let producing = thread::spawn(move || {
            for number in 1..=4 {
                while producer.room() < 32 {
                    thread::yield_now();
                }
                push(&mut producer, number, 32);
            }
        });
        for number in 1..=4 {
            while consumer.is_empty() {
                thread::yield_now();
            }
            take(&mut consumer, number, 32);
            consumer.release();
        }
        producing.join().unwrap();
    });
}

#[test]
fn a_sleeping_consumer_is_woken() {
    every_order(|| {
        let (mut producer, mut consumer) = ends(CAPACITY, LEN);
        let producing = thread::spawn(move || {
            push(&mut producer, 1, LEN);
            producer.flush();
        });
        wait_for_frame(&mut consumer);
        take(&mut consumer, 1, LEN);
        producing.join().unwrap();
    });
}

#[test]
fn a_consumer_that_sleeps_again_is_woken_again() {
    three_interruptions(|| {
        let (mut producer, mut consumer) = ends(128, LEN);
        let producing = thread::spawn(move || {
            for number in 1..=3 {
                push(&mut producer, number, LEN);
                producer.flush();
            }
        });
        for number in 1..=3 {
            wait_for_frame(&mut consumer);
            take(&mut consumer, number, LEN);
        }
        producing.join().unwrap();
    });
}

#[test]
fn a_consumer_that_took_its_sleep_back_is_woken_when_it_sleeps_again() {
    every_order(|| {
        let (mut producer, mut consumer) = ends(CAPACITY, LEN);
        let producing = thread::spawn(move || {
            push(&mut producer, 1, LEN);
            producer.flush();
        });
        let _ = consumer.sleep();
        consumer.awake();
        wait_for_frame(&mut consumer);
        take(&mut consumer, 1, LEN);
        producing.join().unwrap();
    });
}

#[test]
fn a_waiting_producer_is_woken_by_the_release_that_makes_its_frame_fit() {
    every_order(|| {
        let (mut producer, mut consumer) = ends(CAPACITY, LEN);
        push(&mut producer, 1, 0);
        push(&mut producer, 2, 0);
        push(&mut producer, 3, LEN);
        let consuming = thread::spawn(move || {
            for number in 1..=2 {
                take(&mut consumer, number, 0);
                consumer.release();
            }
            consumer
        });
        wait_for_room(&mut producer, LEN);
        push(&mut producer, 4, LEN);
        let mut consumer = consuming.join().unwrap();
        take(&mut consumer, 3, LEN);
        take(&mut consumer, 4, LEN);
    });
}

#[test]
fn a_producer_that_waits_again_is_woken_again() {
    three_interruptions(|| {
        let (mut producer, mut consumer) = ends(CAPACITY, LEN);
        push(&mut producer, 1, 0);
        push(&mut producer, 2, 0);
        push(&mut producer, 3, LEN);
        let consuming = thread::spawn(move || {
            for (number, len) in [(1, 0), (2, 0), (3, LEN)] {
                take(&mut consumer, number, len);
                consumer.release();
            }
        });
        for number in 4..=5 {
            wait_for_room(&mut producer, LEN);
            push(&mut producer, number, LEN);
        }
        consuming.join().unwrap();
    });
}

#[test]
fn two_ends_that_both_sleep_never_sleep_together() {
    three_interruptions(|| {
        let (mut producer, mut consumer) = ends(CAPACITY, LEN);
        let producing = thread::spawn(move || {
            for number in 1..=3 {
                wait_for_room(&mut producer, LEN);
                push(&mut producer, number, LEN);
            }
            producer.flush();
        });
        for number in 1..=3 {
            wait_for_frame(&mut consumer);
            take(&mut consumer, number, LEN);
            consumer.release();
        }
        producing.join().unwrap();
    });
}
