//! The same for the model checker, which sees the bytes as one guard per 16 of them.

extern crate std;

use core::task::Waker;
use std::boxed::Box;

use loom::cell::UnsafeCell;
use loom::sync::Mutex;
pub(super) use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

use super::{Area, HEADER_BYTES};

pub(super) struct WakerSlot(Mutex<Option<Waker>>);

impl WakerSlot {
    pub(super) fn new() -> Self {
        Self(Mutex::new(None))
    }

    pub(super) fn register(&self, waker: &Waker) {
        *self.0.lock().expect("because no test panics here") = Some(waker.clone());
    }

    pub(super) fn wake(&self) {
        let waker = self.0.lock().expect("because no test panics here").clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

pub(super) struct Guards(Box<[UnsafeCell<()>]>);

impl Guards {
    pub(super) fn new(granules: usize) -> Self {
        Self((0..granules).map(|_| UnsafeCell::new(())).collect())
    }

    fn of(&self, offset: usize, bytes: usize) -> &[UnsafeCell<()>] {
        &self.0[offset / HEADER_BYTES..(offset + bytes) / HEADER_BYTES]
    }

    pub(super) fn read(&self, offset: usize, bytes: usize) {
        self.of(offset, bytes).iter().for_each(|guard| guard.with(|_| ()));
    }

    pub(super) fn write(&self, offset: usize, bytes: usize) {
        self.of(offset, bytes).iter().for_each(|guard| guard.with_mut(|_| ()));
    }

    /// Everything between two positions.
    pub(super) fn read_all(&self, area: Area, from: usize, to: usize) {
        let mut at = from;
        while at != to {
            self.read(area.offset(at), HEADER_BYTES);
            at = at.wrapping_add(HEADER_BYTES);
        }
    }
}
