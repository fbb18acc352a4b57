//! What the sender of a packet that was dropped is told of it: a header that is not understood.
//!
//! Looked for apart, once a packet is dropped, so that one that is not pays nothing for it.

use core::net::IpAddr;

use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol, Ipv4Packet, Ipv6Packet};

use super::classify::{self, Ends, protocol};
use super::extensions::{self, Chain, code};
use super::reply::Fault;
use crate::limits::IP_PACKET_BYTES_MAX;

/// An ICMP error that is due.
pub(crate) struct Problem<'p> {
    pub(crate) fault: Fault,
    pub(crate) ends: (IpAddr, IpAddr),
    pub(crate) packet: &'p [u8],
}

/// What is to be said of `frame`, which was dropped; `None`: nothing, as of what is not from the
/// guest, or not for an address that it may name, on the link and above it (RFC 1122 3.2.2,
/// RFC 4443 2.4 e).
#[cold]
pub(crate) fn of<'f>(frame: &'f [u8], ends: &Ends) -> Option<Problem<'f>> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    if ethernet.dst_addr() != EthernetAddress(ends.gateway_mac) {
        return None;
    }
    match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => in_ipv4(ethernet.payload(), ends),
        EthernetProtocol::Ipv6 => in_ipv6(ethernet.payload(), ends),
        EthernetProtocol::Arp | EthernetProtocol::Unknown(_) => None,
    }
}

/// A protocol that is not served (RFC 792, RFC 1122 3.2.2.1).
fn in_ipv4<'p>(packet: &'p [u8], ends: &Ends) -> Option<Problem<'p>> {
    let ip = Ipv4Packet::new_checked(packet).ok()?;
    classify::judge_v4(&ip, ends).ok()?;
    let is_piece = ip.more_frags() || ip.frag_offset() != 0;
    let served = [protocol::ICMP, protocol::TCP, protocol::UDP];
    if ip.version() != 4 || is_piece || served.contains(&u8::from(ip.next_header())) {
        return None;
    }
    Some(Problem {
        fault: Fault::Protocol,
        ends: (ip.src_addr().into(), ip.dst_addr().into()),
        packet: packet.get(..usize::from(ip.total_len()))?,
    })
}

/// An option, a routing header, a next header or a piece that is not understood (RFC 4443 3.4).
fn in_ipv6<'p>(packet: &'p [u8], ends: &Ends) -> Option<Problem<'p>> {
    let ip = Ipv6Packet::new_checked(packet).ok()?;
    classify::judge_v6(&ip, false, ends).ok()?;
    let packet = packet.get(..ip.total_len())?;
    let first = (u8::from(ip.next_header()), ip.header_len());
    let (code, pointer) = match extensions::walk(packet, first) {
        Err(halt) => halt.problem?,
        Ok(chain) if chain.fragment.is_some() => piece(&chain, packet.len())?,
        Ok(chain) => carried(&chain)?,
    };
    Some(Problem {
        fault: Fault::Parameter { code, pointer: u32::try_from(pointer).ok()? },
        ends: (ip.src_addr().into(), ip.dst_addr().into()),
        packet,
    })
}

/// A piece whose length is no multiple of eight where it must be, or that ends beyond 64 KiB
/// (RFC 8200 4.5); one that overlaps is dropped in silence.
fn piece(chain: &Chain, end: usize) -> Option<(u8, usize)> {
    const PAYLOAD_LENGTH_AT: usize = 4;
    let (piece, len) = (chain.fragment?, end - chain.at);
    if piece.more && !len.is_multiple_of(8) {
        return Some((code::ERRONEOUS_FIELD, PAYLOAD_LENGTH_AT));
    }
    // The offset is two bytes into the header before.
    let offset_at = chain.at - 8 + 2;
    (piece.offset + len > IP_PACKET_BYTES_MAX).then_some((code::ERRONEOUS_FIELD, offset_at))
}

/// A protocol that is not served. Where nothing follows, nothing is missed (RFC 8200 4.7); where
/// more headers follow than are walked, they are known.
fn carried(chain: &Chain) -> Option<(u8, usize)> {
    let is_known = matches!(
        chain.protocol,
        protocol::TCP
            | protocol::UDP
            | protocol::ICMPV6
            | protocol::NO_NEXT_HEADER
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::DESTINATION_OPTIONS
    );
    (!is_known).then_some((code::UNRECOGNIZED_NEXT_HEADER, chain.named_at))
}
