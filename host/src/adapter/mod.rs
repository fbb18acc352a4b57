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
///
/// A frame from the guest is written into space that is [reserved], and [committed] with what the
/// guest left undone in it: [`Offload::NONE`] of a whole one. A frame to the guest may have 64 KiB
/// whatever the MTU, its checksums partial; [`Cut`] makes frames of it that any guest takes. It
/// stays in the ring until it is [released], so whoever can't send all of it keeps its [`Record`],
/// and the [`Cut`], for the next call. Waking and waiting are the driver's: `flush`,
/// `wait_for_room`, `sleep`, `awake` and `register` of the rings are not to be called.
///
/// ```
/// use std::io::{self, ErrorKind::WouldBlock};
/// use std::os::{fd::{AsFd, BorrowedFd}, unix::net::UnixDatagram};
///
/// use sluicegate_host::adapter::GuestLink;
/// use sluicegate_host::core::limits::FRAME_BYTES_MAX;
/// use sluicegate_host::core::{Cut, Offload, Record};
/// use sluicegate_host::{FrameBudget, RingConsumer, RingProducer};
///
/// /// A frame a datagram, on a socket that does not block.
/// struct Datagrams {
///     socket: UnixDatagram,
///     unsent: Option<(Record, Cut)>,
/// }
///
/// impl GuestLink for Datagrams {
///     fn as_fd(&self) -> BorrowedFd<'_> {
///         self.socket.as_fd()
///     }
///
///     fn receive(
///         &mut self,
///         ring: &mut RingProducer,
///         mut budget: FrameBudget,
///     ) -> io::Result<bool> {
///         while !budget.is_spent() {
///             let Some(space) = ring.reserve(FRAME_BYTES_MAX) else { return Ok(true) };
///             let bytes = match self.socket.recv(space) {
///                 Err(error) if error.kind() == WouldBlock => return Ok(false),
///                 received => received?,
///             };
///             ring.commit(bytes, Offload::NONE);
///             budget.take(bytes);
///         }
///         Ok(true)
///     }
///
///     fn send(&mut self, ring: &mut RingConsumer) -> io::Result<bool> {
///         let mut frame = vec![0; FRAME_BYTES_MAX];
///         let next = |ring: &mut RingConsumer| {
///             ring.read().map(|record| (record, Cut::new(record.len(), record.offload)))
///         };
///         while let Some((record, mut cut)) = self.unsent.take().or_else(|| next(ring)) {
///             let mut ahead = cut;
///             while let Some(bytes) = ahead.next_into(ring.bytes(&record), &mut frame) {
///                 match self.socket.send(&frame[..bytes]) {
///                     Err(error) if error.kind() == WouldBlock => {
///                         self.unsent = Some((record, cut));
///                         return Ok(true);
///                     }
///                     sent => sent?,
///                 };
///                 cut = ahead;
///             }
///             ring.release();
///         }
///         Ok(false)
///     }
/// }
/// ```
///
/// [reserved]: sluicegate_core::Producer::reserve
/// [committed]: sluicegate_core::Producer::commit
/// [released]: sluicegate_core::Consumer::release
/// [`Offload::NONE`]: sluicegate_core::Offload::NONE
/// [`Cut`]: sluicegate_core::Cut
/// [`Record`]: sluicegate_core::Record
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

    /// Frames that have been lost here so far.
    fn lost_frames(&self) -> LostFrames {
        LostFrames::default()
    }
}

/// Frames that a link has lost, by why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LostFrames {
    /// To the guest: the link had no room for them, or nobody was there.
    pub link_full: u64,
    /// From the guest: shorter than a frame can be, or what was said of one made no sense.
    pub short: u64,
    /// From the guest: longer than any frame.
    pub too_long: u64,
}
