//! UDP and echo flows: datagrams pass through, one host socket a flow.
//!
//! RFC 768, RFC 792, RFC 4443 4; RFC 4787 and RFC 5508 for how a gateway keeps them.

#![allow(clippy::cast_possible_truncation, reason = "datagrams are below 2^16")]

use core::net::IpAddr;

use crate::contract::{DatagramKind, Instant};
use crate::limits;
use crate::store::flows::FlowKey;
use crate::store::slots::Slot;
use crate::wire::classify::protocol;
use crate::wire::reply::Quote;

use super::device::Parts;
use super::turns::Turns;

/// One UDP or echo flow.
#[derive(Debug, Clone, Copy)]
pub struct DatagramSlot {
    used: Instant,
    /// What the last datagram of the guest began with, to be quoted in errors.
    head: [u8; 8],
    len: u16,
    turns: Turns,
}

impl Slot for DatagramSlot {
    const FREE: Self = Self { used: Instant::ZERO, head: [0; 8], len: 0, turns: Turns::NONE };
}

impl DatagramSlot {
    /// Notes a datagram of the guest, whose transport is `transport`.
    pub(crate) fn sent(&mut self, now: Instant, transport: &[u8]) {
        self.used = now;
        if let Some(head) = transport.first_chunk::<8>() {
            self.head = *head;
        }
        // A transport part is below 2^16.
        self.len = transport.len() as u16;
        self.turns.guest_spoke();
    }

    /// Notes a datagram for the guest.
    pub(crate) fn received(&mut self, now: Instant) {
        self.used = now;
        self.turns.outside_spoke();
    }

    /// Whether guest and outside take turns.
    pub(crate) fn takes_turns(&self) -> bool {
        self.turns.are_taken()
    }

    /// When the flow ends unless something passes.
    pub(crate) fn deadline(&self, kind: DatagramKind) -> Instant {
        self.used.plus_millis(match kind {
            DatagramKind::Udp => limits::UDP_IDLE_MS_MAX,
            DatagramKind::Echo => limits::ICMP_IDLE_MS_MAX,
        })
    }

    /// The guest's last datagram, as an ICMP error quotes it. `None`: it has sent none, on a flow
    /// that somebody outside opened, and there is nothing that an error could be about.
    pub(crate) fn quote(&self, guest: IpAddr, key: &FlowKey, kind: DatagramKind) -> Option<Quote> {
        let quote = Quote {
            guest,
            outside: key.outside,
            protocol: number(kind, guest),
            len: usize::from(self.len),
            head: self.head,
        };
        (self.len > 0).then_some(quote)
    }
}

/// The IP protocol number of `kind` in the family of `address`.
pub(crate) fn number(kind: DatagramKind, address: IpAddr) -> u8 {
    match (kind, address) {
        (DatagramKind::Udp, _) => protocol::UDP,
        (DatagramKind::Echo, IpAddr::V4(_)) => protocol::ICMP,
        (DatagramKind::Echo, IpAddr::V6(_)) => protocol::ICMPV6,
    }
}

/// The UDP datagram from the outside end of `key` to the guest (RFC 768), or several of
/// `segment_bytes` bytes of payload each (the last may be shorter); its checksum is the emitter's
/// work.
pub(crate) fn udp<'p>(key: &FlowKey, payload: &'p [u8], segment_bytes: u16) -> Parts<'p> {
    let mut head = [0; 8];
    // A payload for a guest is at most 65,507 bytes.
    let len = (payload.len() + 8) as u16;
    head[0..2].copy_from_slice(&key.outside_port.to_be_bytes());
    head[2..4].copy_from_slice(&key.guest_port.to_be_bytes());
    head[4..6].copy_from_slice(&len.to_be_bytes());
    Parts { head, payload, segment_bytes }
}

/// The echo reply to the guest whose data and sequence number are those of `message`, an echo
/// message of either direction; `None` if it is too short.
pub(crate) fn echo_reply<'p>(guest: IpAddr, key: &FlowKey, message: &'p [u8]) -> Option<Parts<'p>> {
    let (&[_, _, _, _, _, _, seq_high, seq_low], payload) = message.split_first_chunk::<8>()?;
    let [id_high, id_low] = key.guest_port.to_be_bytes();
    let v4 = guest.is_ipv4();
    let kind = if v4 { 0 } else { 129 };
    let head = [kind, 0, 0, 0, id_high, id_low, seq_high, seq_low];
    let mut parts = Parts { head, payload, segment_bytes: 0 };
    let sum = parts.checksum((!v4).then_some((key.outside, guest)), protocol::ICMPV6);
    parts.head[2..4].copy_from_slice(&sum);
    Some(parts)
}
