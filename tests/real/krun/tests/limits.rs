//! What a guest or a burst may do to the device without the backend giving way.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sluicegate_core::Offload;
use sluicegate_core::limits::FRAME_BYTES_MAX;
use sluicegate_tests_krun::frame::{is, make, mix, number};
use sluicegate_tests_krun::{
    Buffer, Device, DriverEnds, Interrupt, Losses, Receiver, Sender, alone, ends, now,
};

const RING_BYTES: usize = sluicegate_core::limits::RING_BYTES_DEFAULT;
/// Whatever is to happen happens within this time, however busy the machine.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Bytes of the device's own frame buffer: longer chains are cut to it.
const DEVICE_BYTES: usize = 65_562;
const HEADER_BYTES: usize = 12;

/// A guest and a driver in one thread, taking turns.
struct Pair {
    sender: Sender,
    receiver: Receiver,
    interrupt: Interrupt,
    driver: DriverEnds,
    device: Device,
}

impl Pair {
    fn new() -> Self {
        let (backend, driver) = ends(RING_BYTES);
        let device = Device::new(backend);
        let (sender, receiver, interrupt) = device.guest();
        Self { sender, receiver, interrupt, driver, device }
    }

    /// Waits until the device has given back all that the guest sent.
    fn settle(&mut self) {
        self.sender.queue.kick();
        let start = now();
        loop {
            self.sender.reclaim();
            let in_flight = self.sender.queue.in_flight();
            if in_flight == 0 {
                return;
            }
            assert!(start.elapsed() < WAIT_MAX, "{in_flight} chains did not come back");
            if self.sender.queue.enable_interrupt(in_flight) {
                self.interrupt.wait(Duration::from_millis(100));
            }
        }
    }

    /// Waits for a frame to the guest; `None`: there was none in time.
    fn receive_within(&mut self, longest: Duration) -> Option<u64> {
        let start = now();
        while !self.receiver.is_ready() {
            let left = longest.checked_sub(start.elapsed())?;
            self.interrupt.wait(left.min(Duration::from_millis(20)));
        }
        self.receiver.receive().map(number)
    }

    /// Gives the guest the frames `numbers`.
    fn push(&mut self, numbers: std::ops::Range<u64>) {
        let mut frame = Vec::new();
        for number in numbers {
            make(&mut frame, number, 1514);
            assert!(self.driver.to_guest.push(&frame, Offload::NONE));
        }
        self.driver.to_guest.flush();
    }

    /// The driver takes the next frame of the guest, which is frame `number` of `len` bytes.
    fn expect(&mut self, number: u64, len: usize) {
        let record = self.driver.from_guest.read().expect("the frame was accepted");
        let frame = self.driver.from_guest.bytes(&record);
        assert_eq!(frame.len(), len, "the frame's length");
        assert!(is(frame, number), "the frame of {len} bytes is another");
        self.driver.from_guest.release();
    }
}

/// A chain of `pieces` descriptors over `len` bytes at `address`, cut where chance wants.
fn cut(address: u64, len: usize, pieces: u64) -> Vec<Buffer> {
    let mut ends: Vec<usize> = (1..pieces)
        .map(|piece| usize::try_from(mix(address + piece) % (len as u64 + 1)).expect("a length"))
        .collect();
    ends.extend([0, len]);
    ends.sort_unstable();
    let piece = |pair: &[usize]| Buffer {
        address: address + pair[0] as u64,
        len: u32::try_from(pair[1] - pair[0]).expect("a length"),
        is_writable: false,
    };
    ends.windows(2).map(piece).collect()
}

#[test]
fn chains_of_every_length_are_taken_or_counted() {
    let _turn = alone();
    let mut pair = Pair::new();
    let mut lens: Vec<usize> = (0..4200).chain((4200..DEVICE_BYTES).step_by(53)).collect();
    lens.extend(DEVICE_BYTES - 40..=DEVICE_BYTES);
    lens.extend([DEVICE_BYTES + 1, 70_000, 100_000]);
    let (mut bytes, mut expected) = (Vec::new(), Losses::default());
    // As many as the ring takes, whatever their length.
    for (batch, lens) in lens.chunks(8).enumerate() {
        for (slot, len) in (0u64..).zip(lens) {
            make(&mut bytes, slot, len.saturating_sub(HEADER_BYTES));
            // The header's contents are the guest's affair.
            bytes.splice(..0, std::iter::repeat_n(0xff, HEADER_BYTES.min(*len)));
            let address = pair.sender.scratch(slot << 17, &bytes);
            let pieces = [1, 2, 3, 72][batch % 4];
            pair.sender.queue.post(&cut(address, *len, pieces)).expect("room for it");
        }
        pair.settle();
        for (slot, len) in (0u64..).zip(lens) {
            match len.checked_sub(HEADER_BYTES) {
                None | Some(0) => expected.short += 1,
                Some(len) if len > FRAME_BYTES_MAX => expected.too_long += 1,
                Some(len) => pair.expect(slot, len),
            }
        }
        assert_eq!(pair.driver.losses(), expected, "after chains of {lens:?} bytes");
    }
    println!("{} lengths: {expected:?}", lens.len());
}

#[test]
fn chains_that_are_nonsense_are_counted_and_do_no_harm() {
    let _turn = alone();
    let mut pair = Pair::new();
    let mut bytes = Vec::new();
    make(&mut bytes, 7, 100 - HEADER_BYTES);
    bytes.splice(..0, [0; HEADER_BYTES]);
    let address = pair.sender.scratch(0, &bytes);
    let good = Buffer { address, len: 100, is_writable: false };
    let writable = Buffer { is_writable: true, ..good };
    let empty = Buffer { len: 0, ..good };
    let outside = Buffer { address: 32 << 20, ..good };
    let across = Buffer { address: (32 << 20) - 50, ..good };
    let last = Buffer { address: u64::MAX - 50, ..good };
    let huge = Buffer { len: u32::MAX, ..good };
    let nonsense: [&[Buffer]; 11] = [
        &[writable],
        &[good, writable],
        &[writable, good],
        &[empty],
        &[empty, empty, empty],
        &[outside],
        &[good, outside],
        &[across],
        &[last],
        &[Buffer { len: 11, ..good }],
        &[Buffer { len: 12, ..good }],
    ];
    for (count, chain) in (1..).zip(nonsense) {
        pair.sender.queue.post(chain).expect("room for it");
        pair.settle();
        let expected = Losses { short: count, ..Losses::default() };
        assert_eq!(pair.driver.losses(), expected, "after {chain:?}");
        assert!(pair.driver.from_guest.is_empty(), "nothing came of {chain:?}");
        pair.sender.queue.post(&[empty, good, empty]).expect("room for it");
        pair.settle();
        pair.expect(7, 88);
    }
    // The device cuts it to its own buffer, one byte more than the longest frame.
    pair.sender.queue.post(&[huge]).expect("room for it");
    pair.settle();
    assert_eq!(pair.driver.losses(), Losses { short: 11, too_long: 1, ring_full: 0 });
}

#[test]
fn no_frame_is_longer_than_the_guests_buffers() {
    let _turn = alone();
    let mut pair = Pair::new();
    pair.receiver.refill();
    let mut frame = Vec::new();
    for (number, len) in [1515, 1514, 1516, 9000, FRAME_BYTES_MAX, 1514, 1519].iter().enumerate() {
        make(&mut frame, number as u64, *len);
        assert!(pair.driver.to_guest.push(&frame, Offload::NONE));
    }
    pair.driver.to_guest.flush();
    assert_eq!(pair.receive_within(WAIT_MAX), Some(1));
    assert_eq!(pair.receive_within(WAIT_MAX), Some(5));
    // The last of them is behind these; so this one tells that it is gone.
    pair.push(7..8);
    assert_eq!(pair.receive_within(WAIT_MAX), Some(7));
    assert_eq!(pair.driver.losses(), Losses { too_long: 5, ..Losses::default() });
}

#[test]
fn a_dry_receive_queue_is_found_again_after_a_silent_refill() {
    let _turn = alone();
    let mut pair = Pair::new();
    pair.receiver.post(8);
    pair.receiver.kick();
    pair.push(0..40);
    let mut next = 0;
    for absent_ms in [0, 5, 50, 400] {
        for _ in 0..8 {
            // A driver sleeps meanwhile, as it does with nothing else to do.
            let start = now();
            while !pair.receiver.is_ready() {
                assert!(start.elapsed() < WAIT_MAX, "frame {next} is left lying");
                pair.driver.sleep(Duration::from_millis(10));
            }
            assert_eq!(pair.receiver.receive().map(number), Some(next));
            next += 1;
        }
        let dry = now();
        while dry.elapsed() < Duration::from_millis(absent_ms) {
            pair.driver.sleep(Duration::from_millis(absent_ms) - dry.elapsed());
        }
        pair.receiver.post(8);
        let refilled = now();
        while !pair.receiver.is_ready() {
            assert!(refilled.elapsed() < WAIT_MAX, "the refill is not noticed");
            pair.driver.sleep(Duration::from_millis(1));
        }
        println!("after {absent_ms} ms of absence: {:?}", refilled.elapsed());
        let usual = Duration::from_millis(absent_ms.min(100) + 500);
        assert!(refilled.elapsed() < usual, "noticed late");
    }
}

#[test]
fn a_guest_that_never_refills_costs_ten_wakes_a_second_and_none_after_it_did() {
    let _turn = alone();
    let mut pair = Pair::new();
    pair.receiver.post(1);
    pair.receiver.kick();
    pair.push(0..3);
    let start = now();
    while start.elapsed() < Duration::from_secs(2) {
        pair.driver.sleep(Duration::from_secs(2) - start.elapsed());
    }
    println!("{} looks in 2 s, {} wakes", pair.driver.rechecks, pair.driver.wakes());
    // 1, 2, 4, .. 64 ms, then every 100 ms; the guess for each sleep is one look.
    assert!((10..=40).contains(&pair.driver.rechecks), "{} looks", pair.driver.rechecks);
    assert_eq!(pair.receive_within(WAIT_MAX), Some(0));
    pair.receiver.post(10);
    while !pair.receiver.is_ready() {
        assert!(start.elapsed() < 2 * WAIT_MAX, "the refill is not noticed");
        pair.driver.sleep(Duration::from_millis(10));
    }
    for number in 1..3 {
        assert_eq!(pair.receive_within(WAIT_MAX), Some(number));
    }
    pair.driver.sleep(Duration::from_millis(200));
    let (rechecks, wakes) = (pair.driver.rechecks, pair.driver.wakes());
    assert!(!pair.driver.sleep(Duration::from_millis(500)), "an idle driver sleeps");
    assert_eq!((pair.driver.rechecks, pair.driver.wakes()), (rechecks, wakes));
}

#[test]
fn a_frame_of_the_guest_gets_a_parked_one_on_its_way() {
    let _turn = alone();
    let mut pair = Pair::new();
    pair.receiver.post(1);
    pair.receiver.kick();
    pair.push(0..2);
    assert_eq!(pair.receive_within(WAIT_MAX), Some(0));
    let start = now();
    while pair.driver.wakes() == 0 {
        assert!(start.elapsed() < WAIT_MAX, "the driver is not told of a parked frame");
        thread::yield_now();
    }
    // Nobody asks the doorbell here, so only the guest's own frames can do it.
    pair.receiver.post(1);
    assert_eq!(pair.receive_within(Duration::from_millis(100)), None, "who rang?");
    assert!(pair.sender.send(&[0; 60]));
    pair.settle();
    assert_eq!(pair.receive_within(WAIT_MAX), Some(1));
}

/// Times that the threads of the name have been put to sleep and woken.
fn context_switches(name: &str) -> u64 {
    let tasks = fs::read_dir("/proc/self/task").expect("procfs").flatten();
    tasks
        .filter(|task| {
            let comm = fs::read_to_string(task.path().join("comm"));
            comm.is_ok_and(|comm| comm.trim() == name)
        })
        .filter_map(|task| {
            let status = fs::read_to_string(task.path().join("status")).ok()?;
            let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"))?;
            line.split_whitespace().last()?.parse::<u64>().ok()
        })
        .sum()
}

#[test]
fn an_idle_link_wakes_nobody() {
    let _turn = alone();
    let mut pair = Pair::new();
    pair.receiver.refill();
    for round in 0..100 {
        assert!(pair.sender.send(&[0; 60]));
        pair.settle();
        pair.push(round..round + 1);
        assert_eq!(pair.receive_within(WAIT_MAX), Some(round));
        pair.receiver.refill();
        while pair.driver.from_guest.read().is_some() {}
        pair.driver.from_guest.release();
    }
    // The last doorbell's pass is still to end, and the alarm of the last frame to be heard.
    while pair.driver.sleep(Duration::from_millis(200)) {}
    pair.interrupt.wait(Duration::ZERO);
    let before = (context_switches("virtio-net work"), pair.driver.wakes());
    assert_ne!(before.0, 0, "the worker is found by its name");
    assert!(!pair.driver.sleep(Duration::from_secs(1)), "an idle driver sleeps");
    assert!(!pair.interrupt.wait(Duration::ZERO), "an idle guest is left alone");
    assert_eq!((context_switches("virtio-net work"), pair.driver.wakes()), before);
}

/// Lets the guest send as fast as it can until `is_over`; returns how many frames.
fn flood(mut sender: Sender, is_over: &AtomicBool) -> u64 {
    let mut sent = 0;
    let frame = [0x55; 1514];
    while !is_over.load(Ordering::Relaxed) {
        for _ in 0..32 {
            if !sender.send(&frame) {
                break;
            }
            sent += 1;
        }
        sender.queue.kick();
        sender.reclaim();
    }
    sent
}

/// A driver that takes 20 us for each frame of the guest, and sends the guest one each 2 ms, whose
/// number is its time in microseconds since `start`.
fn slow_driver(mut driver: DriverEnds, start: Instant, is_over: &AtomicBool) -> DriverEnds {
    let mut frame = Vec::new();
    let mut last = start;
    while !is_over.load(Ordering::Relaxed) {
        for _ in 0..64 {
            if driver.from_guest.read().is_none() {
                break;
            }
            let taken = now();
            while taken.elapsed() < Duration::from_micros(20) {
                std::hint::spin_loop();
            }
        }
        driver.from_guest.release();
        if last.elapsed() >= Duration::from_millis(2) {
            last = now();
            let micros = u64::try_from(start.elapsed().as_micros()).expect("a short test");
            make(&mut frame, micros, 60);
            assert!(driver.to_guest.push(&frame, Offload::NONE), "the guest is starved");
            driver.to_guest.flush();
        }
        if driver.from_guest.is_empty() {
            driver.sleep(Duration::from_millis(2));
        }
    }
    driver
}

#[test]
fn a_flood_from_the_guest_does_not_keep_its_own_frames_from_it() {
    let _turn = alone();
    /// The flood goes on until so many frames got through against it. A machine with other work
    /// takes longer; one on which none ever does has failed.
    const FRAMES: usize = 500;
    const FLOOD_MAX: Duration = Duration::from_secs(60);
    let Pair { sender, mut receiver, interrupt, driver, device } = Pair::new();
    receiver.refill();
    let (start, is_over) = (now(), AtomicBool::new(false));
    let mut delays = Vec::new();
    let (sent, driver) = thread::scope(|scope| {
        let flood = scope.spawn(|| flood(sender, &is_over));
        let driver = scope.spawn(|| slow_driver(driver, start, &is_over));
        while delays.len() < FRAMES && start.elapsed() < FLOOD_MAX {
            interrupt.wait(Duration::from_millis(20));
            while let Some(frame) = receiver.receive() {
                let sent = Duration::from_micros(number(frame));
                delays.push(start.elapsed().saturating_sub(sent));
            }
            receiver.refill();
        }
        is_over.store(true, Ordering::Relaxed);
        (flood.join().expect("the flood ends"), driver.join().expect("the driver is content"))
    });
    drop(device);
    delays.sort_unstable();
    let delay = |percent: usize| delays.get(delays.len() * percent / 100).copied();
    println!(
        "{sent} frames sent, {} accepted, {:?}; {} received, delays: median {:?}, 90 % {:?}, \
         longest {:?}",
        driver.accepted(),
        driver.losses(),
        delays.len(),
        delay(50),
        delay(90),
        delays.last(),
    );
    assert!(delays.len() >= FRAMES, "the guest got {} frames in {FLOOD_MAX:?}", delays.len());
}
