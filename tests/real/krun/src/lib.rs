//! msb_krun's own virtio-net device in this process, with its worker thread and no hypervisor: what
//! a guest's driver does to the device is done here; under test is the product's backend.
//!
//! Owns the guest's half of the device ([`Device`], [`Sender`], [`Receiver`], modelled on Linux's
//! `virtio_ring.c` and `virtio_net.c`) and the driver's half of the backend ([`DriverEnds`]). The
//! backend's source is compiled in from `host/src`, since the product has no public name for it.
//!
//! On top of it: a guest's card and TCP/IP stack ([`Card`], [`Stack`]), and what measures the whole
//! path from there to sockets on this host, behind any backend ([`mod@bench`]).
//!
//! Not in it: a processor, so no exits. x86-64 only, for the interrupt chip.
#![cfg(target_arch = "x86_64")]

pub mod bench;
mod card;
mod device;
mod ends;
pub mod frame;
mod guest;
mod queue;
mod stack;

// The product's files, of which the tests use a part.
#[allow(dead_code, reason = "the tests need a part of it")]
#[path = "../../../../host/src/clock.rs"]
mod clock;
#[allow(dead_code, unreachable_pub, reason = "the tests need a part of it")]
#[path = "../../../../host/src/histogram.rs"]
mod histogram;
#[path = "../../../../host/src/adapter/krun.rs"]
mod krun;
#[allow(dead_code, unreachable_pub, reason = "the tests need a part of it")]
#[path = "../../../../host/src/metrics.rs"]
mod metrics;
#[allow(dead_code, unreachable_pub, reason = "the tests need a part of it")]
#[path = "../../../../host/src/rings.rs"]
mod rings;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub use card::{Card, Tally};
pub use device::{Device, Interrupt};
pub use ends::{DriverEnds, Losses, ends};
pub use guest::{Receiver, Sender};
pub use queue::{Buffer, Virtqueue};
pub use rings::{HeapRing, RingConsumer, RingProducer};
pub use stack::Stack;

/// One test at a time: they measure waits, and a machine with two cores has none to spare.
pub fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time of the day, so to speak.
#[allow(clippy::disallowed_methods, reason = "tests measure the real thing in real time")]
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}
