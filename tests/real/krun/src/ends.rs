//! What the driver has of a backend: the other ends of its rings, its doorbell, its counters.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Wake, Waker};
use std::time::Duration;

use msb_krun::backends::net::NetBackend;
use sluicegate_core::FrameRing;

use crate::clock::Clock;
use crate::krun::{Doorbell, KrunBackend};
use crate::metrics::Published;
use crate::now;
use crate::rings::{HeapRing, RingConsumer, RingProducer, Rings};

/// Wakes the driver, as a mio waker does: a wake before the sleep ends it at once.
#[derive(Default)]
struct Alarm {
    is_rung: Mutex<bool>,
    rung: Condvar,
    rings: AtomicU64,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.rings.fetch_add(1, Ordering::Relaxed);
        *self.is_rung.lock().expect("nobody panics with it") = true;
        self.rung.notify_one();
    }
}

/// Frames that the backend dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// No room in time.
    pub ring_full: u64,
    /// No frame behind the header, or not even that.
    pub short: u64,
    /// Longer than a ring or a buffer takes.
    pub too_long: u64,
}

/// The driver's half of a backend.
pub struct DriverEnds {
    /// What the guest sent.
    pub from_guest: RingConsumer,
    /// What it is to get.
    pub to_guest: RingProducer,
    rings: Arc<Rings>,
    doorbell: Arc<Doorbell>,
    published: Arc<Published>,
    alarm: Arc<Alarm>,
    /// Times that the driver rang for a parked frame or looked whether it should.
    pub rechecks: u64,
}

/// A backend for a guest whose buffers take 1514 bytes, and the driver's half of it; the rings
/// between them take `ring_bytes` each.
#[must_use]
pub fn ends(ring_bytes: usize) -> (Box<dyn NetBackend + Send>, DriverEnds) {
    let ring = || Arc::new(FrameRing::new(vec![0; ring_bytes].into()));
    let rings = Arc::new(Rings { from_guest: ring(), to_guest: ring() });
    let published = Arc::<Published>::default();
    let alarm = Arc::<Alarm>::default();
    let driver = Waker::from(Arc::clone(&alarm));
    let (guest_producer, mut from_guest) = HeapRing::split(Arc::clone(&rings.from_guest));
    let (mut to_guest, guest_consumer) = FrameRing::split(Arc::clone(&rings.to_guest));
    from_guest.register(&driver);
    to_guest.register(&driver);
    let guest = (guest_producer, guest_consumer);
    let doorbell = Arc::new(Doorbell::new(Clock::new()).expect("an eventfd"));
    let backend =
        KrunBackend::new(guest, 1514, Arc::clone(&doorbell), Arc::clone(&published), driver);
    let driver =
        DriverEnds { from_guest, to_guest, rings, doorbell, published, alarm, rechecks: 0 };
    (Box::new(backend), driver)
}

impl DriverEnds {
    /// Sleeps as the driver's loop does, until it is woken; false: it was not, for so long.
    pub fn sleep(&mut self, longest: Duration) -> bool {
        let end = now() + longest;
        let mut is_woken = !self.from_guest.sleep();
        while !is_woken && now() < end {
            let mut timeout = end.saturating_duration_since(now());
            if let Some(limit) = self.doorbell.recheck() {
                self.rechecks += 1;
                timeout = timeout.min(limit);
            }
            let is_rung = self.alarm.is_rung.lock().expect("nobody panics with it");
            let waited = self.alarm.rung.wait_timeout_while(is_rung, timeout, |is_rung| !*is_rung);
            let (mut is_rung, _) = waited.expect("nobody panics with it");
            is_woken = std::mem::take(&mut *is_rung);
        }
        self.from_guest.awake();
        is_woken
    }

    /// Times that the driver was woken.
    #[must_use]
    pub fn wakes(&self) -> u64 {
        self.alarm.rings.load(Ordering::Relaxed)
    }

    /// Frames that the guest has sent and the backend accepted.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.rings.from_guest.frames_accepted()
    }

    /// Bytes that the guest has sent and the backend accepted.
    #[must_use]
    pub fn bytes_accepted(&self) -> u64 {
        self.rings.from_guest.bytes_accepted()
    }

    /// Frames that the backend dropped.
    #[must_use]
    pub fn losses(&self) -> Losses {
        let drops = &self.published.adapter_drops;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Losses {
            ring_full: read(&drops.ring_full),
            short: read(&drops.short),
            too_long: read(&drops.too_long),
        }
    }
}
