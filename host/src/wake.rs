//! How others wake the driver: a ring's waker over the driver's own descriptor.

use std::sync::Arc;
use std::task::{Wake, Waker};

/// Wakes a driver that sleeps in its poll.
pub(crate) struct DriverWake(mio::Waker);

impl DriverWake {
    pub(crate) fn new(waker: mio::Waker) -> Arc<Self> {
        Arc::new(Self(waker))
    }

    /// Wakes the driver, or keeps it from sleeping next time.
    pub(crate) fn ring(&self) {
        // It fails only where the descriptor is gone, and then there is nobody to wake.
        let _ = self.0.wake();
    }

    pub(crate) fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }
}

impl Wake for DriverWake {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}
