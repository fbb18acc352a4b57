//! The flag and the waker with which one end of a ring sleeps and the other wakes it.

use core::task::Waker;

use super::sync::{AtomicUsize, Ordering, WakerSlot, fence};

/// A [`Bell`] whose owner is awake.
pub(super) const AWAKE: usize = 0;
/// The bit of a [`Bell`] that is set while its owner sleeps.
pub(super) const ASLEEP: usize = 1;

/// How one end (the owner) sleeps and the other wakes it.
pub(super) struct Bell {
    flag: AtomicUsize,
    waker: WakerSlot,
}

impl Bell {
    pub(super) fn new(flag: usize) -> Self {
        Self { flag: AtomicUsize::new(flag), waker: WakerSlot::new() }
    }

    /// Owner: sleeps as of now, `flag` says for what. To be followed by a look at the other's
    /// position.
    pub(super) fn sleep(&self, flag: usize) {
        self.flag.store(flag, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Owner: does not sleep. Reads first, to leave the line alone where nothing changes.
    pub(super) fn awake(&self) {
        if self.flag.load(Ordering::Relaxed) != AWAKE {
            self.flag.store(AWAKE, Ordering::Relaxed);
        }
    }

    /// Owner: who is woken. `last` is the owner's copy of who is registered: a task that registers
    /// itself again must not wait for the slot, since on one core it may have interrupted the very
    /// `wake` that holds it.
    pub(super) fn register(&self, last: &mut Option<Waker>, waker: &Waker) {
        if last.as_ref().is_some_and(|last| last.will_wake(waker)) {
            return;
        }
        self.waker.register(waker);
        *last = Some(waker.clone());
    }

    /// The other, after it has stored its position: wakes the owner if it sleeps and `is_due`.
    pub(super) fn ring_if(&self, is_due: impl FnOnce(usize) -> bool) {
        fence(Ordering::SeqCst);
        let flag = self.flag.load(Ordering::Relaxed);
        if flag == AWAKE || !is_due(flag) {
            return;
        }
        // An owner that has changed its mind meanwhile has seen the stored position, or will.
        let (relaxed, awake) = (Ordering::Relaxed, AWAKE);
        if self.flag.compare_exchange(flag, awake, relaxed, relaxed).is_ok() {
            self.waker.wake();
        }
    }
}
