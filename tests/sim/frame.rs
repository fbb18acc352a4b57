//! Guest frames, byte by byte.
//!
//! Each function makes a frame that is right in every field; a test that wants a wrong one changes
//! bytes afterwards, and mends the checksums with [`mend`] where they are not the point.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::default_config;

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// An address outside.
pub const OUTSIDE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));
/// An address outside.
pub const OUTSIDE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7));
/// Both of them: most promises are the same in either family.
pub const OUTSIDES: [IpAddr; 2] = [OUTSIDE_V4, OUTSIDE_V6];

/// TCP flags, as in the header.
pub mod flag {
    #![allow(missing_docs, reason = "RFC 9293 3.1 describes them")]
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const PSH: u8 = 8;
    pub const ACK: u8 = 16;
    pub const URG: u8 = 32;
}

/// IP protocol numbers.
pub mod protocol {
    #![allow(missing_docs, reason = "IANA describes them")]
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const FRAGMENT: u8 = 44;
    pub const ICMPV6: u8 = 58;
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// The guest's address in the family of `peer`.
#[must_use]
pub fn guest(peer: IpAddr) -> IpAddr {
    let link = default_config().link;
    if peer.is_ipv4() { link.guest_ipv4.into() } else { link.guest_ipv6.into() }
}

/// The gateway's address in the family of `peer`.
#[must_use]
pub fn gateway(peer: IpAddr) -> IpAddr {
    let link = default_config().link;
    if peer.is_ipv4() { link.gateway_ipv4.into() } else { link.gateway_ipv6.into() }
}

/// The fields of a TCP segment from the guest.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "RFC 9293 3.1 describes them")]
pub struct Segment {
    pub port: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub urgent: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

/// A frame with `segment` to `to`.
#[must_use]
pub fn tcp(to: SocketAddr, segment: &Segment) -> Vec<u8> {
    let mut options = segment.options.clone();
    options.resize(options.len().next_multiple_of(4), 0);
    let mut out = Vec::new();
    out.extend(segment.port.to_be_bytes());
    out.extend(to.port().to_be_bytes());
    out.extend(segment.seq.to_be_bytes());
    out.extend(segment.ack.to_be_bytes());
    out.push((((20 + options.len()) / 4) << 4) as u8);
    out.push(segment.flags);
    out.extend(segment.window.to_be_bytes());
    out.extend([0, 0]);
    out.extend(segment.urgent.to_be_bytes());
    out.extend(options);
    out.extend(&segment.payload);
    ip(to.ip(), protocol::TCP, &out)
}

/// A frame with a UDP datagram from port `from` to `to`.
#[must_use]
pub fn udp(from: u16, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    ip(to.ip(), protocol::UDP, &udp_header(from, to.port(), payload))
}

/// A UDP datagram without its checksum.
#[must_use]
pub fn udp_header(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(from.to_be_bytes());
    out.extend(to.to_be_bytes());
    out.extend(((payload.len() + 8) as u16).to_be_bytes());
    out.extend([0, 0]);
    out.extend(payload);
    out
}

/// A frame with an echo request.
#[must_use]
pub fn echo(to: IpAddr, ident: u16, number: u16, payload: &[u8]) -> Vec<u8> {
    let (kind, protocol) = if to.is_ipv4() { (8, protocol::ICMP) } else { (128, protocol::ICMPV6) };
    let mut out = vec![kind, 0, 0, 0];
    out.extend(ident.to_be_bytes());
    out.extend(number.to_be_bytes());
    out.extend(payload);
    ip(to, protocol, &out)
}

/// The guest's ICMP error of type and code `said` about `frame`, which it got; `word` follows the
/// checksum. As much of the packet is quoted as may be (RFC 1812 4.3.2.3, RFC 4443 3).
#[must_use]
pub fn icmp_error(said: (u8, u8), word: u32, frame: &[u8]) -> Vec<u8> {
    let quoted = &frame[ETHERNET..];
    let (to, number, len): (IpAddr, _, _) = if quoted[0] >> 4 == 4 {
        let source: [u8; 4] = quoted[12..16].try_into().expect("because it has a header");
        (source.into(), protocol::ICMP, 548)
    } else {
        let source: [u8; 16] = quoted[8..24].try_into().expect("because it has a header");
        (source.into(), protocol::ICMPV6, 1232)
    };
    let mut out = vec![said.0, said.1, 0, 0];
    out.extend(word.to_be_bytes());
    out.extend(&quoted[..quoted.len().min(len)]);
    ip(to, number, &out)
}

/// A frame with `transport` in one IP packet from the guest to `to`, all checksums in place.
#[must_use]
pub fn ip(to: IpAddr, protocol: u8, transport: &[u8]) -> Vec<u8> {
    packet((guest(to), to), protocol, transport)
}

/// The same, from any address.
#[must_use]
pub fn packet(ends: (IpAddr, IpAddr), protocol: u8, transport: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match ends {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.extend([0x45, 0]);
            out.extend(((20 + transport.len()) as u16).to_be_bytes());
            out.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            out.extend(from.octets());
            out.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            out.extend([0x60, 0, 0, 0]);
            out.extend((transport.len() as u16).to_be_bytes());
            out.extend([protocol, 64]);
            out.extend(from.octets());
            out.extend(to.octets());
        }
        _ => panic!("both ends of a packet are of one family"),
    }
    out.extend(transport);
    let mut frame = ethernet(if ends.0.is_ipv4() { 0x0800 } else { 0x86dd }, &out);
    mend(&mut frame);
    frame
}

/// A frame from the guest to the gateway's MAC.
#[must_use]
pub fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    let link = default_config().link;
    let mut out = Vec::new();
    out.extend(link.gateway_mac);
    out.extend(link.guest_mac);
    out.extend(kind.to_be_bytes());
    out.extend(payload);
    out
}

/// An ARP request for `target` (RFC 826), to everybody.
#[must_use]
pub fn arp_request(sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let link = default_config().link;
    let mut out = vec![0, 1, 8, 0, 6, 4, 0, 1];
    out.extend(link.guest_mac);
    out.extend(sender.octets());
    out.extend([0; 6]);
    out.extend(target.octets());
    let mut frame = ethernet(0x0806, &out);
    frame[..6].fill(0xff);
    frame
}

/// A neighbour solicitation for `target` (RFC 4861 4.3) from `source`, to the target's group.
#[must_use]
pub fn solicit(source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let link = default_config().link;
    let low = target.octets();
    let mut group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0).octets();
    group[13..].copy_from_slice(&low[13..]);
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    if !source.is_unspecified() {
        message.extend([1, 1]);
        message.extend(link.guest_mac);
    }
    let to = Ipv6Addr::from(group);
    let mut frame = packet((source.into(), to.into()), protocol::ICMPV6, &message);
    frame[..6].copy_from_slice(&[0x33, 0x33, group[12], group[13], group[14], group[15]]);
    frame[ETHERNET + 7] = 255;
    frame
}

/// Cuts the packet of `frame` into fragments whose payloads are `len` bytes long (a multiple of
/// 8), the last one shorter. In IPv6, extension headers of `frame` are part of what is cut.
#[must_use]
pub fn fragments(frame: &[u8], ident: u32, len: usize) -> Vec<Vec<u8>> {
    let v4 = frame[ETHERNET] >> 4 == 4;
    let header = ETHERNET + if v4 { 20 } else { 40 };
    let chunks = frame[header..].chunks(len);
    let last = chunks.len() - 1;
    let cut = |(at, chunk): (usize, &[u8])| fragment(frame, ident, (at * len, at < last), chunk);
    chunks.enumerate().map(cut).collect()
}

/// One fragment of the packet of `frame`: `chunk` at `offset`, with more to follow or not.
#[must_use]
pub fn fragment(frame: &[u8], ident: u32, (offset, more): (usize, bool), chunk: &[u8]) -> Vec<u8> {
    let v4 = frame[ETHERNET] >> 4 == 4;
    let mut out = frame[..ETHERNET + if v4 { 20 } else { 40 }].to_vec();
    if v4 {
        let word = (offset / 8) as u16 | u16::from(more) << 13;
        out[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&((20 + chunk.len()) as u16).to_be_bytes());
        out[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&(ident as u16).to_be_bytes());
        out[ETHERNET + 6..ETHERNET + 8].copy_from_slice(&word.to_be_bytes());
    } else {
        let word = offset as u16 & !7 | u16::from(more);
        out[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&((8 + chunk.len()) as u16).to_be_bytes());
        let next = core::mem::replace(&mut out[ETHERNET + 6], protocol::FRAGMENT);
        out.extend([next, 0]);
        out.extend(word.to_be_bytes());
        out.extend(ident.to_be_bytes());
    }
    out.extend(chunk);
    mend_ip(&mut out);
    out
}

/// Puts an IPv6 extension header of `kind` with eight bytes in front of the packet's payload: for a
/// header that the guest may send anywhere (hop-by-hop and destination options are padding).
pub fn extend(frame: &mut Vec<u8>, kind: u8) {
    let at = ETHERNET + 40;
    let next = core::mem::replace(&mut frame[ETHERNET + 6], kind);
    frame.splice(at..at, [next, 0, 1, 4, 0, 0, 0, 0]);
    let len = (frame.len() - at) as u16;
    frame[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&len.to_be_bytes());
}

/// Puts IPv4 options into the packet's header; their length is a multiple of 4.
pub fn add_ipv4_options(frame: &mut Vec<u8>, options: &[u8]) {
    frame.splice(ETHERNET + 20..ETHERNET + 20, options.iter().copied());
    frame[ETHERNET] += (options.len() / 4) as u8;
    let len = (frame.len() - ETHERNET) as u16;
    frame[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&len.to_be_bytes());
    mend_ip(frame);
}

/// Writes the checksums of the IP header and of the transport, as the headers (IPv4 options
/// included) say where they are. IPv6 extension headers are not walked.
pub fn mend(frame: &mut [u8]) {
    mend_ip(frame);
    let v4 = frame[ETHERNET] >> 4 == 4;
    let header = if v4 { usize::from(frame[ETHERNET] & 15) * 4 } else { 40 };
    let number = if v4 { frame[ETHERNET + 9] } else { frame[ETHERNET + 6] };
    let (head, transport) = frame.split_at_mut(ETHERNET + header);
    let addresses = if v4 { &head[ETHERNET + 12..ETHERNET + 20] } else { &head[ETHERNET + 8..] };
    mend_transport(addresses, number, transport);
}

/// Writes the checksum of `transport`, whose IP addresses are `addresses`, if it has one.
pub fn mend_transport(addresses: &[u8], number: u8, transport: &mut [u8]) {
    let at = match number {
        protocol::TCP => 16,
        protocol::UDP => 6,
        protocol::ICMP | protocol::ICMPV6 => 2,
        _ => return,
    };
    if transport.len() < at + 2 {
        return;
    }
    transport[at..at + 2].fill(0);
    let addresses = if number == protocol::ICMP { &[][..] } else { addresses };
    let sum = match checksum(addresses, number, transport) {
        0 if number == protocol::UDP => 0xffff,
        sum => sum,
    };
    transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Writes the checksum of an IPv4 header; IPv6 has none.
pub fn mend_ip(frame: &mut [u8]) {
    if frame[ETHERNET] >> 4 == 4 {
        let end = ETHERNET + usize::from(frame[ETHERNET] & 15) * 4;
        frame[ETHERNET + 10..ETHERNET + 12].fill(0);
        let sum = checksum(&[], 0, &frame[ETHERNET..end]);
        frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// The Internet checksum of `data` and, unless `addresses` is empty, of their pseudo-header, most
/// significant byte first; 0 where `data` holds its own right checksum. The slow and plain way.
#[must_use]
pub fn checksum(addresses: &[u8], number: u8, data: &[u8]) -> u16 {
    let mut sum: u64 = 0;
    let mut add = |bytes: &[u8]| {
        for pair in bytes.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
    };
    if !addresses.is_empty() {
        add(addresses);
        add(&(data.len() as u32).to_be_bytes());
        add(&[0, number]);
    }
    add(data);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
