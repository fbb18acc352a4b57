//! The driver allocates nothing for a frame or a byte: the whole product under an allocator that
//! counts what the driver's thread asks of it, while tens of thousands of frames go each way.

#![allow(unsafe_code, reason = "an allocator is unsafe to write")]

use core::cell::Cell;
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::alloc::{GlobalAlloc, Layout, System};

use online::{GATEWAYS, Guest, LOOPBACKS, TRANSFER_BYTES};
use sluicegate_tests_krun::alone;

#[allow(dead_code, reason = "this test needs a part of it")]
mod online;

/// What opening and closing a connection may ask for.
const CONNECTION_MAX: u64 = 16;

/// The thread whose calls are counted; 0: none.
static COUNTED: AtomicI32 = AtomicI32::new(0);
static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// This thread's number, once it was asked for.
    static THREAD: Cell<i32> = const { Cell::new(0) };
}

/// The system's allocator, and a count of what one thread asks of it.
struct Counting;

fn note() {
    let counted = COUNTED.load(Ordering::Relaxed);
    if counted == 0 {
        return;
    }
    if THREAD.get() == 0 {
        THREAD.set(rustix::thread::gettid().as_raw_nonzero().get());
    }
    if THREAD.get() == counted {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: as the caller promises.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The number of the driver's thread, by its name.
fn driver() -> i32 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs").flatten();
    let named = tasks.filter(|task| {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        name.trim() == "sluicegate"
    });
    let numbers: Vec<i32> = named
        .map(|task| task.file_name().to_string_lossy().parse().expect("a thread is a number"))
        .collect();
    assert_eq!(numbers.len(), 1, "one driver runs");
    numbers[0]
}

#[test]
fn the_allocator_counts_the_thread_that_it_is_told_and_no_other() {
    let _turn = alone();
    COUNTED.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
    let before = COUNT.load(Ordering::Relaxed);
    std::thread::spawn(|| vec![0; 1000].len()).join().expect("it ends");
    let between = COUNT.load(Ordering::Relaxed);
    assert_eq!(core::hint::black_box(vec![0_u8; 1000]).len(), 1000);
    COUNTED.store(0, Ordering::Relaxed);
    assert_eq!(COUNT.load(Ordering::Relaxed), between + 1);
    assert!(between > before, "starting a thread asks for memory here");
}

#[test]
fn the_driver_allocates_for_connections_and_not_for_frames() {
    let _turn = alone();
    let mut guest = Guest::online(1500);
    // Whatever is made once is made now.
    guest.fetch_and_give(GATEWAYS[0], LOOPBACKS[0]);
    let before = COUNT.load(Ordering::Relaxed);
    COUNTED.store(driver(), Ordering::Relaxed);
    for (gateway, loopback) in GATEWAYS.into_iter().zip(LOOPBACKS) {
        guest.fetch_and_give(gateway, loopback);
    }
    COUNTED.store(0, Ordering::Relaxed);
    let count = COUNT.load(Ordering::Relaxed) - before;
    let frames = 4 * TRANSFER_BYTES / 1460;
    assert!(count <= 2 * CONNECTION_MAX, "{count} allocations for some {frames} frames");
    guest.end();
}
