//! Long traffic through the real device: order, contents, losses, wakes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sluicegate_core::Offload;
use sluicegate_tests_krun::frame::{make, mix, mixed_len, number};
use sluicegate_tests_krun::{
    Device, DriverEnds, Interrupt, Losses, Receiver, Sender, alone, ends, now,
};

/// Frames each way of the long test.
const FRAMES: u64 = 1_000_000;
/// Nothing at all may happen for this long; on a busy machine a thread may wait that long to run.
const STANDSTILL_MAX: Duration = Duration::from_secs(5);
/// A sleep that ends by itself after this long looks whether it should have been woken.
const NAP: Duration = Duration::from_millis(200);
/// Bytes of each ring: the fewest that they take, so that they are full often.
const RING_BYTES: usize = 1 << 18;
/// When a ring counts as full: hardly more than a frame would fit.
const FULL_BYTES: u64 = RING_BYTES as u64 - 6 * 1024;
/// Longer than any frame waits for room: the patience of the backend and a little.
const TOO_LONG: Duration = Duration::from_millis(55);
/// Frames that fit into such a ring, however long they are.
const WINDOW_FRAMES: u64 = 128;

/// A guest that sends and receives as much as it can, frame after frame.
struct Guest {
    sender: Sender,
    receiver: Receiver,
    interrupt: Interrupt,
    sent: u64,
    received: u64,
    /// Frames that the driver has received; where set, the guest goes ahead no further than a ring
    /// can hold.
    delivered: Option<Arc<AtomicU64>>,
    frame: Vec<u8>,
    progress: Instant,
}

impl Guest {
    fn new(device: &Device) -> Self {
        let (sender, receiver, interrupt) = device.guest();
        Self {
            sender,
            receiver,
            interrupt,
            sent: 0,
            received: 0,
            delivered: None,
            frame: Vec::new(),
            progress: now(),
        }
    }

    /// Frames that may be sent now.
    fn window(&self) -> u64 {
        self.delivered.as_ref().map_or(u64::MAX, |delivered| {
            delivered.load(Ordering::Relaxed) + WINDOW_FRAMES - self.sent
        })
    }

    /// One round as a processor's: some frames each way; whether there was anything to do.
    fn turn(&mut self, frames: u64) -> bool {
        let before = (self.sent, self.received);
        for _ in 0..64.min(frames - self.sent).min(self.window()) {
            make(&mut self.frame, self.sent, mixed_len(self.sent));
            if !self.sender.send(&self.frame) {
                break;
            }
            self.sent += 1;
        }
        self.sender.queue.kick();
        let reclaimed = self.sender.reclaim();
        for _ in 0..64 {
            let Some(frame) = self.receiver.receive() else {
                break;
            };
            assert_eq!(number(frame), self.received, "a frame to the guest is out of order");
            self.received += 1;
        }
        self.receiver.refill();
        reclaimed != 0 || before != (self.sent, self.received)
    }

    /// Sleeps until the device interrupts.
    fn sleep(&mut self) {
        if self.window() == 0 {
            return thread::yield_now();
        }
        let waits_for = self.sender.queue.in_flight() / 4 * 3;
        let may_sleep = waits_for == 0 || self.sender.queue.enable_interrupt(waits_for);
        if !may_sleep || self.receiver.is_ready() || self.interrupt.wait(NAP) {
            return;
        }
        assert!(!self.receiver.is_ready(), "the guest was not interrupted");
    }

    fn run(&mut self, frames: u64) {
        let (start, mut report) = (now(), frames / 4);
        self.progress = start;
        while self.sent < frames || self.received < frames || self.sender.queue.in_flight() != 0 {
            if self.turn(frames) {
                self.progress = now();
            } else {
                self.sleep();
            }
            if self.sent.min(self.received) >= report {
                println!("{report} frames each way after {:?}", start.elapsed());
                report += frames / 4;
            }
            assert!(
                self.progress.elapsed() < STANDSTILL_MAX,
                "stands still after {} sent, {} of them not taken, {} received",
                self.sent,
                self.sender.queue.in_flight(),
                self.received,
            );
        }
    }
}

/// A driver that fills and empties the rings.
struct Driver {
    ends: DriverEnds,
    received: u64,
    received_bytes: u64,
    /// The next frame that may come.
    next: u64,
    pushed: u64,
    frame: Vec<u8>,
    from_guest_full: Duration,
    to_guest_full: Duration,
    /// Since when the ring to the guest is full.
    full_since: Option<Instant>,
    /// Lets the ring from the guest run full.
    is_holding: bool,
    holds: u64,
    delivered: Arc<AtomicU64>,
    /// The guest has all its frames.
    is_over: Arc<AtomicBool>,
    naps: u64,
}

impl Driver {
    fn new(ends: DriverEnds, is_holding: bool) -> Self {
        Self {
            ends,
            received: 0,
            received_bytes: 0,
            next: 0,
            pushed: 0,
            frame: Vec::new(),
            from_guest_full: Duration::ZERO,
            to_guest_full: Duration::ZERO,
            full_since: None,
            is_holding,
            holds: 0,
            delivered: Arc::default(),
            is_over: Arc::default(),
            naps: 0,
        }
    }

    /// Takes up to `frames_max` frames of the guest.
    fn drain(&mut self, frames_max: u64) -> u64 {
        let mut taken = 0;
        while taken < frames_max {
            let Some(record) = self.ends.from_guest.read() else {
                break;
            };
            let frame = self.ends.from_guest.bytes(&record);
            let number = number(frame);
            assert!(number >= self.next, "frame {number} of the guest is out of order");
            self.next = number + 1;
            self.received_bytes += frame.len() as u64;
            taken += 1;
        }
        self.ends.from_guest.release();
        self.received += taken;
        self.delivered.store(self.received, Ordering::Relaxed);
        taken
    }

    /// Gives the guest frames until the ring is full.
    fn fill(&mut self, frames: u64) {
        while self.pushed < frames {
            make(&mut self.frame, self.pushed, mixed_len(self.pushed));
            if !self.ends.to_guest.push(&self.frame, Offload::NONE) {
                self.full_since.get_or_insert_with(now);
                break;
            }
            self.to_guest_full += self.full_since.take().map_or(Duration::ZERO, |t| t.elapsed());
            self.pushed += 1;
        }
        self.ends.to_guest.flush();
    }

    /// Whether the ring has no room for a long frame. Records are 16 to 31 bytes longer than their
    /// frames, and up to one is lost at the ring's end.
    fn is_from_guest_full(&self) -> bool {
        let frames = self.ends.accepted() - self.received;
        let bytes = self.ends.bytes_accepted() - self.received_bytes;
        bytes + 23 * frames >= FULL_BYTES
    }

    /// Does nothing until the ring from the guest is full, and then for as long as it was not since
    /// `last`: so it is full half the time. Now and then for longer than a frame waits for room.
    fn hold(&mut self, last: Instant, frames: u64) {
        while !self.is_from_guest_full() && last.elapsed() < STANDSTILL_MAX {
            if self.ends.accepted() + self.ends.losses().ring_full == frames {
                return;
            }
            thread::yield_now();
        }
        let full = now();
        let mut longest = full.duration_since(last).min(Duration::from_millis(3));
        self.holds += 1;
        if self.holds % 500 == 5 {
            longest = TOO_LONG;
        }
        while self.is_from_guest_full() && full.elapsed() < longest {
            thread::yield_now();
        }
        self.from_guest_full += full.elapsed();
    }

    /// Sleeps until there is a frame, or room for one; a nap that ends by itself must be right to.
    fn sleep(&mut self, frames: u64) {
        let len = mixed_len(self.pushed);
        let is_full = self.pushed < frames && self.ends.to_guest.wait_for_room(len);
        if self.pushed < frames && !is_full {
            return;
        }
        if !self.ends.sleep(NAP) {
            self.naps += 1;
            assert!(self.ends.from_guest.is_empty(), "no wake for a frame of the guest");
            let is_room = self.pushed < frames && !self.ends.to_guest.wait_for_room(len);
            assert!(!is_room, "no wake for room");
        }
    }

    fn run(mut self, frames: u64) -> Self {
        let (mut progress, mut drained) = ((now(), 0), now());
        loop {
            let lost = self.ends.losses().ring_full;
            if self.received + lost == frames && self.pushed == frames {
                break;
            }
            let done = self.received + lost + self.pushed;
            if done != progress.1 {
                progress = (now(), done);
            }
            let still = progress.0.elapsed();
            assert!(still < STANDSTILL_MAX, "stands still after {done} frames");
            self.fill(frames);
            if self.is_holding && self.received + lost < frames {
                self.hold(drained, frames);
                drained = now();
            }
            for _ in 0..8 {
                if self.drain(256) == 0 {
                    break;
                }
                self.fill(frames);
            }
            self.sleep(frames);
        }
        // The guest may have no buffer for the last of them.
        while !self.is_over.load(Ordering::Relaxed) {
            self.ends.sleep(Duration::from_millis(20));
        }
        self
    }
}

#[test]
fn a_million_frames_each_way_arrive_whole_and_in_order_or_are_counted() {
    let _turn = alone();
    let (backend, driver_ends) = ends(RING_BYTES);
    let device = Device::new(backend);
    let mut guest = Guest::new(&device);
    guest.receiver.refill();
    let start = now();
    let driver = Driver::new(driver_ends, true);
    let is_over = Arc::clone(&driver.is_over);
    let driver = thread::spawn(|| driver.run(FRAMES));
    guest.run(FRAMES);
    is_over.store(true, Ordering::Relaxed);
    let driver = driver.join().expect("the driver is content");
    let elapsed = start.elapsed();
    let losses = driver.ends.losses();
    let share = |time: Duration| 100 * time.as_millis() / elapsed.as_millis();
    println!(
        "{FRAMES} frames each way in {elapsed:?}: from_guest full {}% of the time, to_guest {}%, \
         {losses:?}, {} wakes of the driver, {} naps, {} rechecks",
        share(driver.from_guest_full),
        share(driver.to_guest_full),
        driver.ends.wakes(),
        driver.naps,
        driver.ends.rechecks,
    );
    assert!(driver.from_guest_full > elapsed / 20, "the ring from the guest was hardly full");
    assert!(driver.to_guest_full > elapsed / 20, "the ring to the guest was hardly full");
    assert_ne!(losses.ring_full, 0, "nothing was lost, so nothing is known of losses");
    assert_eq!(driver.received + losses.ring_full, FRAMES, "every loss is counted");
    assert_eq!((losses.short, losses.too_long), (0, 0));
    assert_eq!(driver.pushed, FRAMES, "nothing to the guest is lost");
    assert_eq!(guest.received, FRAMES);
}

#[test]
fn the_worker_stops_and_starts_again_amid_traffic_and_nothing_is_lost() {
    let _turn = alone();
    const FRAMES: u64 = 200_000;
    let (backend, driver_ends) = ends(RING_BYTES);
    let mut device = Device::new(backend);
    let mut guest = Guest::new(&device);
    guest.receiver.refill();
    let driver = Driver::new(driver_ends, false);
    guest.delivered = Some(Arc::clone(&driver.delivered));
    let is_over = Arc::clone(&driver.is_over);
    let driver = thread::spawn(|| driver.run(FRAMES));
    let guest = thread::spawn(move || {
        guest.run(FRAMES);
        guest
    });
    let mut stops = 0;
    while !guest.is_finished() {
        thread::sleep(Duration::from_micros(mix(stops) % 5000));
        device.quiesce();
        thread::sleep(Duration::from_micros(mix(stops) % 1700));
        device.resume();
        stops += 1;
    }
    let guest = guest.join().expect("the guest is content");
    is_over.store(true, Ordering::Relaxed);
    let driver = driver.join().expect("the driver is content");
    println!("{FRAMES} frames each way, {stops} stops, {} naps", driver.naps);
    assert!(stops > 10, "stopped {stops} times only");
    assert_eq!((guest.received, driver.received), (FRAMES, FRAMES));
    assert_eq!(driver.ends.losses(), Losses::default());
}

#[test]
fn a_lone_frame_is_never_left_lying_in_either_direction() {
    let _turn = alone();
    const ROUNDS: u64 = 50_000;
    let (backend, mut driver) = ends(RING_BYTES);
    let device = Device::new(backend);
    let mut guest = Guest::new(&device);
    guest.receiver.refill();
    let start = now();
    let echo = thread::spawn(move || {
        for round in 0..ROUNDS {
            let record = loop {
                match driver.from_guest.read() {
                    Some(record) => break record,
                    None => {
                        let is_woken = driver.sleep(STANDSTILL_MAX);
                        assert!(is_woken, "no wake for the guest's frame {round}");
                    }
                }
            };
            let frame = driver.from_guest.bytes(&record);
            assert!(driver.to_guest.push(frame, Offload::NONE));
            driver.from_guest.release();
            driver.to_guest.flush();
        }
        driver
    });
    for round in 0..ROUNDS {
        make(&mut guest.frame, round, mixed_len(round));
        assert!(guest.sender.send(&guest.frame));
        guest.sender.queue.kick();
        while !guest.receiver.is_ready() {
            assert!(guest.interrupt.wait(STANDSTILL_MAX), "no interrupt for frame {round}");
        }
        assert_eq!(number(guest.receiver.receive().expect("it is ready")), round);
        guest.sender.reclaim();
        guest.receiver.refill();
    }
    let elapsed = start.elapsed();
    let driver = echo.join().expect("the driver is content");
    println!("{ROUNDS} round trips, each {:?}; {} wakes", elapsed / 50_000, driver.wakes());
    assert_eq!(driver.rechecks, 0, "no frame was parked");
}
