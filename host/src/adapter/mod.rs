//! Front ends: how frames come from a guest and get to it.

use std::io;
use std::os::fd::BorrowedFd;

use sluicegate_core::FrameBudget;

use crate::rings::{RingConsumer, RingProducer};

pub mod datagram;
#[cfg(feature = "krun")]
pub(crate) mod krun;
pub mod socket;
pub mod stream;
pub mod tap;
mod vnet;

/// A guest link that the driver thread serves itself, between a pollable descriptor and the rings.
pub trait GuestLink: Send {
    /// The descriptor that becomes readable when the guest has sent; the driver watches it for
    /// edges.
    fn as_fd(&self) -> BorrowedFd<'_>;

    /// Moves frames from the guest into `from_guest`, as many as `budget` has. `Ok(true)`: more may
    /// wait, as the budget is spent or the ring is full; `Ok(false)`: the descriptor will tell.
    ///
    /// # Errors
    /// Only what ends the link: the network ends with it.
    fn receive(&mut self, from_guest: &mut RingProducer, budget: FrameBudget) -> io::Result<bool>;

    /// Moves the frames of `to_guest` to the guest, releasing as it goes. `Ok(true)`: the link
    /// takes no more for now, and the descriptor will tell when it does.
    ///
    /// # Errors
    /// Only what ends the link: the network ends with it.
    fn send(&mut self, to_guest: &mut RingConsumer) -> io::Result<bool>;

    /// Frames to the guest that have been lost here so far, as the link had no room for them.
    fn dropped_frames(&self) -> u64 {
        0
    }
}
