//! How a flow's socket hears the guest: its packets as they came, and segments that are made here
//! in its place, where smoltcp would not do by itself what one makes it do.

use core::net::SocketAddr;

use smoltcp::wire::TcpRepr;

use super::{Tcp, smol};
use crate::contract::Instant;
use crate::stack::device::{Emitter, Port};
use crate::store::ring::RingHandle;
use crate::wire::reply;

impl<'a> Tcp<'a> {
    /// Gives one packet of the guest to the flow's socket.
    ///
    /// # Cost
    /// One copy of the payload into the receive buffer.
    pub(super) fn feed<R: RingHandle>(
        &mut self,
        now: Instant,
        slot: u32,
        packet: &mut [u8],
        out: &mut Emitter<'a, R>,
    ) {
        let flow = &mut self.slots[slot];
        flow.shape.has_answered = false;
        let mut port = Port { packet: Some(packet), out, shape: &mut flow.shape };
        if let Some(set) = &mut flow.set {
            self.iface.poll_ingress_single(smol(now), &mut port, set);
        }
    }

    /// Gives the flow's socket the segment `repr` as if it came from the guest; `ends` are the
    /// guest's and the outside's.
    pub(super) fn feed_segment<R: RingHandle>(
        &mut self,
        now: Instant,
        slot: u32,
        ((guest, outside), repr): ((SocketAddr, SocketAddr), &TcpRepr<'_>),
        out: &mut Emitter<'a, R>,
    ) {
        let mut packet = [0; reply::REPLY_BYTES_MAX];
        let len = reply::tcp(guest.ip(), outside.ip(), repr, &mut packet);
        self.feed(now, slot, packet.get_mut(..len).unwrap_or(&mut []), out);
    }
}
