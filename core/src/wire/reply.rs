//! The packets that the gateway composes itself: ARP and NDP answers, resets, ICMP errors.
//!
//! Each function writes one whole packet (ARP or IP, checksums included) to the start of `out` and
//! returns its length. `out` has at least [`REPLY_BYTES_MAX`] bytes.

#![allow(clippy::cast_possible_truncation, reason = "lengths of packets are below 2^16")]

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, Icmpv6Packet, Icmpv6Repr, IpProtocol,
    IpRepr, NdiscNeighborFlags, NdiscRepr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
    TcpTimestampRepr, UdpPacket,
};

use super::checksum::Sum;
use super::classify::{Segment, protocol};
use super::segment::{Headers, finish_ipv4_header};
use crate::contract::Refusal;

/// The longest packet composed here whose length is not given.
pub(crate) const REPLY_BYTES_MAX: usize = 128;

/// What is known of a refused packet that is here no longer, for its ICMP error: its ends, and the
/// first eight bytes of its transport.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quote {
    pub(crate) guest: IpAddr,
    pub(crate) outside: IpAddr,
    pub(crate) protocol: u8,
    /// Bytes of the whole transport part.
    pub(crate) len: usize,
    pub(crate) head: [u8; 8],
}

impl Quote {
    /// Bytes of [`write`](Self::write).
    pub(crate) const fn bytes(&self) -> usize {
        ip_header_len(self.guest) + self.head.len()
    }

    /// Writes the packet as far as it is known.
    pub(crate) fn write(&self, out: &mut [u8]) {
        let ends = (self.guest, self.outside);
        let at = ip_header(ends, self.protocol, self.len, HOP_LIMIT, out);
        if let Some(head) = out.get_mut(at..at + self.head.len()) {
            head.copy_from_slice(&self.head);
        }
    }
}

/// An ARP reply that `target` is at the gateway's MAC (RFC 826).
pub(crate) fn arp(
    gateway_mac: [u8; 6],
    guest_mac: [u8; 6],
    sender: Ipv4Addr,
    target: Ipv4Addr,
    out: &mut [u8],
) -> usize {
    let repr = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(gateway_mac),
        source_protocol_addr: target,
        target_hardware_addr: EthernetAddress(guest_mac),
        target_protocol_addr: sender,
    };
    repr.emit(&mut ArpPacket::new_unchecked(out));
    repr.buffer_len()
}

/// A neighbour advertisement for `target`, from `target` itself: smoltcp guests file it under its
/// source address. An unspecified `solicitor` checks for duplicates, and is answered by multicast
/// (RFC 4861 7.2.4).
pub(crate) fn neighbor_advert(
    gateway_mac: [u8; 6],
    solicitor: Ipv6Addr,
    target: Ipv6Addr,
    out: &mut [u8],
) -> usize {
    let solicited = !solicitor.is_unspecified();
    let to = if solicited { solicitor } else { Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1) };
    let mut flags = NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE;
    flags.set(NdiscNeighborFlags::SOLICITED, solicited);
    let repr = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
        flags,
        target_addr: target,
        lladdr: Some(EthernetAddress(gateway_mac).into()),
    });
    let len = repr.buffer_len();
    let at = ip_header((target.into(), to.into()), protocol::ICMPV6, len, 255, out);
    if let Some(message) = out.get_mut(at..at + len) {
        // The message's checksum is written here; smoltcp knows both addresses.
        repr.emit(
            &target,
            &to,
            &mut Icmpv6Packet::new_unchecked(message),
            &ChecksumCapabilities::default(),
        );
    }
    at + len
}

/// The reset that answers `segment`, which belongs to no flow (RFC 9293 3.10.7.1).
pub(crate) fn reset(guest: IpAddr, outside: IpAddr, segment: &Segment, out: &mut [u8]) -> usize {
    let counted = segment.payload_len + usize::from(segment.syn) + usize::from(segment.fin);
    // Sequence numbers wrap; the types of smoltcp hold an i32. A length is below 2^16.
    let after = segment.seq.wrapping_add(counted as u32).cast_signed();
    let repr = TcpRepr {
        control: TcpControl::Rst,
        seq_number: TcpSeqNumber(segment.ack.unwrap_or(0).cast_signed()),
        ack_number: segment.ack.is_none().then_some(TcpSeqNumber(after)),
        ..bare(segment.outside_port, segment.guest_port)
    };
    tcp(outside, guest, &repr, out)
}

/// A segment from one port to another that says nothing yet.
pub(crate) const fn bare(from: u16, to: u16) -> TcpRepr<'static> {
    TcpRepr {
        src_port: from,
        dst_port: to,
        control: TcpControl::None,
        seq_number: TcpSeqNumber(0),
        ack_number: None,
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None, None, None],
        timestamp: None::<TcpTimestampRepr>,
        payload: &[],
    }
}

/// Writes the whole packet of a TCP segment; returns its length.
pub(crate) fn tcp(from: IpAddr, to: IpAddr, repr: &TcpRepr<'_>, out: &mut [u8]) -> usize {
    let len = repr.buffer_len();
    let at = ip_header((from, to), protocol::TCP, len, HOP_LIMIT, out);
    if let Some(segment) = out.get_mut(at..at + len) {
        repr.emit(
            &mut TcpPacket::new_unchecked(segment),
            &from.into(),
            &to.into(),
            &ChecksumCapabilities::ignored(),
        );
    }
    if let Some(packet) = out.get_mut(..at + len)
        && let Some(headers) = Headers::of(packet)
    {
        headers.finish_in_place(packet);
    }
    at + len
}

/// Bytes of the headers of [`udp`], at most.
pub(crate) const UDP_HEADERS_BYTES_MAX: usize = 40 + 8;

/// Writes the whole packet of a UDP datagram with `payload`; returns its length.
pub(crate) fn udp(
    ends: (IpAddr, IpAddr),
    ports: (u16, u16),
    payload: &[u8],
    out: &mut [u8],
) -> usize {
    let len = 8 + payload.len();
    let at = ip_header(ends, protocol::UDP, len, HOP_LIMIT, out);
    let Some((head, body)) = out.get_mut(at..at + len).and_then(|d| d.split_at_mut_checked(8))
    else {
        return 0;
    };
    let mut udp = UdpPacket::new_unchecked(head);
    udp.set_src_port(ports.0);
    udp.set_dst_port(ports.1);
    body.copy_from_slice(payload);
    if let Some(packet) = out.get_mut(..at + len)
        && let Some(headers) = Headers::of(packet)
    {
        headers.finish_in_place(packet);
    }
    at + len
}

/// Time to live of what the gateway sends (RFC 1700).
pub(crate) const HOP_LIMIT: u8 = 64;

/// Bytes of an IP header without options or extensions, in the family of `address`.
pub(crate) const fn ip_header_len(address: IpAddr) -> usize {
    if address.is_ipv4() { 20 } else { 40 }
}

/// Writes an IP header for `len` bytes of `protocol`; returns its own length. The checksum of an
/// IPv4 header is in place.
pub(crate) fn ip_header(
    ends: (IpAddr, IpAddr),
    protocol: u8,
    len: usize,
    hop_limit: u8,
    out: &mut [u8],
) -> usize {
    let mut repr =
        IpRepr::new(ends.0.into(), ends.1.into(), IpProtocol::from(protocol), len, hop_limit);
    repr.set_payload_len(len);
    repr.emit(&mut *out, &ChecksumCapabilities::ignored());
    if ends.0.is_ipv4() {
        finish_ipv4_header(out);
    }
    repr.header_len()
}

/// What an ICMP error says.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// The packet is not wanted, or not taken.
    Refused(Refusal),
    /// It was the first piece of a datagram that was not whole in time.
    NotWhole,
    /// It is of a protocol that is not served, in IPv4.
    Protocol,
    /// A byte of it is not understood, in IPv6.
    Parameter { code: u8, pointer: u32 },
}

impl Fault {
    /// Type, code, and the four bytes behind the checksum (RFC 792, RFC 1191 4, RFC 1812 5.2.7.1;
    /// RFC 4443 3.1 to 3.4).
    fn numbers(self, v4: bool) -> (u8, u8, u32) {
        // In IPv4, and in IPv6; each of the last two is of one of them.
        let (in_v4, in_v6) = match self {
            Self::Refused(refusal) => match refusal {
                Refusal::Refused => ((3, 3, 0), (1, 4, 0)),
                Refusal::NetUnreachable => ((3, 0, 0), (1, 0, 0)),
                Refusal::HostUnreachable | Refusal::TimedOut | Refusal::Exhausted => {
                    ((3, 1, 0), (1, 3, 0))
                }
                Refusal::Forbidden => ((3, 13, 0), (1, 1, 0)),
                Refusal::Expired => ((11, 0, 0), (3, 0, 0)),
                Refusal::TooBig { mtu } => ((3, 4, mtu.min(0xffff)), (2, 0, mtu)),
            },
            Self::NotWhole => ((11, 1, 0), (3, 1, 0)),
            Self::Protocol => return (3, 2, 0),
            Self::Parameter { code, pointer } => return (4, code, pointer),
        };
        if v4 { in_v4 } else { in_v6 }
    }
}

/// Bytes of the packet that an ICMP error to `guest` is about which it may quote, so that it is no
/// longer than what every link takes (RFC 1812 4.3.2.3, RFC 4443 2.4 c).
pub(crate) const fn quoted_bytes_max(guest: IpAddr) -> usize {
    let packet = if guest.is_ipv4() { 576 } else { 1280 };
    packet - ip_header_len(guest) - ICMP_ERROR_HEADER_BYTES
}

/// Bytes of an ICMP error before the quoted packet.
pub(crate) const ICMP_ERROR_HEADER_BYTES: usize = 8;

/// Writes the ICMP error about `fault` around the quoted packet, which is at the end of `out`
/// already; it is as long as `out` is.
pub(crate) fn icmp_error(ends: (IpAddr, IpAddr), fault: Fault, out: &mut [u8]) {
    let v4 = ends.0.is_ipv4();
    let (kind, code, word) = fault.numbers(v4);
    let number = if v4 { protocol::ICMP } else { protocol::ICMPV6 };
    let len = out.len() - ip_header_len(ends.0);
    let at = ip_header(ends, number, len, HOP_LIMIT, out);
    let Some(message) = out.get_mut(at..) else { return };
    if let [k, c, s1, s2, w1, w2, w3, w4, ..] = message {
        [*k, *c, *s1, *s2] = [kind, code, 0, 0];
        [*w1, *w2, *w3, *w4] = word.to_be_bytes();
    }
    let sum = Sum::of(message);
    let sum = if v4 { sum } else { sum.pseudo(&ends, number, len) }.finish();
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&sum);
    }
}
