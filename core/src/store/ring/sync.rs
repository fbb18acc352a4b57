//! What a ring is built on: atomics, and the slot for a waker.

use core::hint::spin_loop;
pub(super) use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use core::task::Waker;

use embassy_sync::blocking_mutex::raw::RawMutex;
use embassy_sync::waitqueue::GenericAtomicWaker;

use super::Area;

/// Who is to be woken.
pub(super) struct WakerSlot(GenericAtomicWaker<Spin>);

impl WakerSlot {
    pub(super) const fn new() -> Self {
        Self(GenericAtomicWaker::new(Spin(AtomicBool::new(false))))
    }

    pub(super) fn register(&self, waker: &Waker) {
        self.0.register(waker);
    }

    pub(super) fn wake(&self) {
        self.0.wake();
    }
}

/// A lock that spins. Two meet here only where an end registers a new waker while the other
/// wakes it.
struct Spin(AtomicBool);

// SAFETY: the flag lets one in at a time; taking it acquires what the last one released.
unsafe impl RawMutex for Spin {
    #[allow(clippy::declare_interior_mutable_const, reason = "the trait wants it")]
    const INIT: Self = Self(AtomicBool::new(false));

    fn lock<R>(&self, f: impl FnOnce() -> R) -> R {
        while self.0.swap(true, Ordering::Acquire) {
            spin_loop();
        }
        let _unlock = Unlock(&self.0);
        f()
    }
}

/// Unlocks when a waker panics, too.
struct Unlock<'a>(&'a AtomicBool);

impl Drop for Unlock<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// What loom is told; nothing here.
pub(super) struct Guards;

impl Guards {
    pub(super) const fn new(_: usize) -> Self {
        Self
    }
    pub(super) const fn read(&self, _offset: usize, _bytes: usize) {}
    pub(super) const fn write(&self, _offset: usize, _bytes: usize) {}
    pub(super) const fn read_all(&self, _: Area, _from: usize, _to: usize) {}
}
