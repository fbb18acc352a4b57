//! Measures what the backend adds to the device's own price, each way, in bursts and in streams.
//!
//! `cargo run --release -p sluicegate-tests-krun --example throughput`, on an idle machine. Wall
//! time is what the guest or the driver sees for each frame; cpu is the worker's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use sluicegate_core::Offload;
use sluicegate_tests_krun::bench::worker_time;
use sluicegate_tests_krun::{Device, DriverEnds, Interrupt, Receiver, Sender, ends, now};

const RING_BYTES: usize = sluicegate_core::limits::RING_BYTES_DEFAULT;
const SERIES: usize = 5;
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// What one series took.
struct Price {
    frames: u64,
    wall: Duration,
    cpu: Duration,
    lost: u64,
}

/// Prints the best series: the least disturbed one.
fn print(name: &str, len: usize, prices: &[Price]) {
    let Some(price) = prices.iter().min_by_key(|price| price.wall) else { return };
    let nanos = |time: Duration| time.as_nanos() / u128::from(price.frames);
    let rate = 1e3 / nanos(price.wall) as f64;
    println!(
        "{name:28} {len:5} B: {:6} ns wall, {:6} ns cpu, {rate:5.2} M frames/s, {:5.1} Gbit/s, \
         {:4.1}% lost",
        nanos(price.wall),
        nanos(price.cpu),
        rate * len as f64 * 8.0 / 1000.0,
        100.0 * price.lost as f64 / price.frames as f64,
    );
}

/// The guest sends bursts and sleeps until each was taken; the driver takes them as they come.
fn from_guest(len: usize, burst: u64, bursts: u64) -> Price {
    let (backend, mut driver) = ends(RING_BYTES);
    let device = Device::new(backend);
    let (mut sender, _receiver, interrupt) = device.guest();
    let frames = burst * bursts;
    let taker = thread::spawn(move || {
        let mut seen = 0;
        while seen + driver.losses().ring_full < frames {
            match driver.from_guest.read() {
                Some(record) => seen += u64::from(driver.from_guest.bytes(&record)[0] == 1),
                None => {
                    driver.from_guest.release();
                    driver.sleep(Duration::from_millis(10));
                }
            }
            if seen % 64 == 0 {
                driver.from_guest.release();
            }
        }
        driver
    });
    let frame = vec![1; len];
    let (start, cpu) = (now(), worker_time());
    for _ in 0..bursts {
        for _ in 0..burst {
            assert!(sender.send(&frame), "the queue takes a burst");
        }
        sender.queue.kick();
        settle(&mut sender, &interrupt);
    }
    let (wall, cpu) = (start.elapsed(), worker_time() - cpu);
    let driver = taker.join().expect("the driver is content");
    Price { frames, wall, cpu, lost: driver.losses().ring_full }
}

fn settle(sender: &mut Sender, interrupt: &Interrupt) {
    while sender.queue.in_flight() != 0 {
        if sender.reclaim() == 0 && sender.queue.enable_interrupt(sender.queue.in_flight()) {
            assert!(interrupt.wait(SLEEP_MAX), "the device is silent");
        }
    }
}

/// The guest keeps the queue busy.
fn from_guest_stream(len: usize, frames: u64) -> Price {
    let (backend, driver) = ends(RING_BYTES);
    let device = Device::new(backend);
    let (mut sender, _receiver, _interrupt) = device.guest();
    let taker = thread::spawn(move || take(driver, frames));
    let frame = vec![1; len];
    let (start, cpu, mut sent) = (now(), worker_time(), 0);
    while sent < frames {
        for _ in 0..32 {
            sent += u64::from(sent < frames && sender.send(&frame));
        }
        sender.queue.kick();
        sender.reclaim();
    }
    while sender.queue.in_flight() != 0 {
        sender.reclaim();
    }
    let (wall, cpu) = (start.elapsed(), worker_time() - cpu);
    let driver = taker.join().expect("the driver is content");
    Price { frames, wall, cpu, lost: driver.losses().ring_full }
}

fn take(mut driver: DriverEnds, frames: u64) -> DriverEnds {
    let mut seen = 0;
    while seen + driver.losses().ring_full < frames {
        let taken = std::iter::from_fn(|| driver.from_guest.read()).take(64).count();
        driver.from_guest.release();
        seen += taken as u64;
        if taken == 0 {
            driver.sleep(Duration::from_millis(10));
        }
    }
    driver
}

/// The driver gives bursts; the guest sleeps until it has each, and refills.
fn to_guest(len: usize, burst: u64, bursts: u64) -> Price {
    let (backend, mut driver) = ends(2 * RING_BYTES);
    let device = Device::new(backend);
    let (_sender, mut receiver, interrupt) = device.guest();
    receiver.refill();
    let frame = vec![1; len];
    let (start, cpu) = (now(), worker_time());
    for _ in 0..bursts {
        for _ in 0..burst {
            assert!(driver.to_guest.push(&frame, Offload::NONE), "the ring takes a burst");
        }
        driver.to_guest.flush();
        let mut seen = 0;
        while seen < burst {
            seen += take_all(&mut receiver);
            if seen < burst && !receiver.is_ready() {
                assert!(interrupt.wait(SLEEP_MAX), "the device is silent");
            }
        }
    }
    Price { frames: burst * bursts, wall: start.elapsed(), cpu: worker_time() - cpu, lost: 0 }
}

fn take_all(receiver: &mut Receiver) -> u64 {
    let mut seen = 0;
    while receiver.receive().is_some() {
        seen += 1;
    }
    receiver.refill();
    seen
}

/// The driver keeps the ring full, the guest polls.
fn to_guest_stream(len: usize, frames: u64) -> Price {
    let (backend, mut driver) = ends(RING_BYTES);
    let device = Device::new(backend);
    let (_sender, mut receiver, _interrupt) = device.guest();
    receiver.refill();
    let is_over = Arc::new(AtomicBool::new(false));
    let is_taken = Arc::clone(&is_over);
    let giver = thread::spawn(move || {
        let frame = vec![1; len];
        let mut given = 0;
        while given < frames {
            while given < frames && driver.to_guest.push(&frame, Offload::NONE) {
                given += 1;
            }
            if given < frames && driver.to_guest.wait_for_room(len) {
                driver.sleep(SLEEP_MAX);
            }
        }
        driver.to_guest.flush();
        // The guest may have no buffer for the last of them.
        while !is_taken.load(Ordering::Relaxed) {
            driver.sleep(Duration::from_millis(1));
        }
    });
    let (start, cpu, mut seen) = (now(), worker_time(), 0);
    while seen < frames {
        seen += take_all(&mut receiver);
    }
    let (wall, cpu) = (start.elapsed(), worker_time() - cpu);
    is_over.store(true, Ordering::Relaxed);
    giver.join().expect("the driver is content");
    Price { frames, wall, cpu, lost: 0 }
}

fn main() {
    let series = |one: &dyn Fn() -> Price| (0..SERIES).map(|_| one()).collect::<Vec<_>>();
    for len in [64, 1514] {
        for (burst, bursts) in [(1000, 300), (32, 3000), (1, 20_000)] {
            let name = format!("from_guest, burst {burst}");
            print(&name, len, &series(&|| from_guest(len, burst, bursts)));
        }
        print("from_guest, stream", len, &series(&|| from_guest_stream(len, 1_000_000)));
        for (burst, bursts) in [(1000, 300), (32, 3000), (1, 20_000)] {
            let name = format!("to_guest, burst {burst}");
            print(&name, len, &series(&|| to_guest(len, burst, bursts)));
        }
        print("to_guest, stream", len, &series(&|| to_guest_stream(len, 1_000_000)));
    }
}
