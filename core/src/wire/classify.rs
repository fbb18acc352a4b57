//! What a guest frame is: link and network layer first, then the transport.
//!
//! Two steps, because a fragment has no transport header until its datagram is whole: [`network`]
//! reads a frame down to the IP payload, [`transport`] reads that payload, from the frame or from
//! a reassembled datagram alike. Both check every length, checksum and address that later code
//! relies on, and return a [`Drop`] for anything else.
//!
//! Not done: IPv4 options are skipped, not obeyed (a gateway of one hop has no route to record).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::ops::Range;

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    Icmpv6Packet, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket,
};

use super::advert;
use super::checksum::Sum;
use super::complaint::Complaint;
use super::dhcpv6::SERVERS;
use super::extensions::{self, Chain};
use crate::contract::{Drop, Link, Offload, TransportChecksum};
use crate::limits::{DHCP_PORT, DHCPV6_PORT, ETHERNET_HEADER_BYTES};

/// IP protocol numbers (IANA "Assigned Internet Protocol Numbers").
pub(crate) mod protocol {
    pub(crate) const HOP_BY_HOP: u8 = 0;
    pub(crate) const ICMP: u8 = 1;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const ROUTING: u8 = 43;
    pub(crate) const FRAGMENT: u8 = 44;
    pub(crate) const ICMPV6: u8 = 58;
    pub(crate) const NO_NEXT_HEADER: u8 = 59;
    pub(crate) const DESTINATION_OPTIONS: u8 = 60;
}

/// Who is on the link: what [`network`] needs to know to judge addresses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) guest_mac: [u8; 6],
    pub(crate) gateway_mac: [u8; 6],
    pub(crate) guest_ipv4: Ipv4Addr,
    pub(crate) guest_ipv6: Ipv6Addr,
    pub(crate) gateway_ipv4: Ipv4Addr,
    pub(crate) gateway_ipv6: Ipv6Addr,
    pub(crate) mtu: u16,
    /// The guest is told its addresses, and may ask for them.
    pub(crate) autoconf: bool,
}

impl Ends {
    /// The ends of `link`.
    pub(crate) const fn of(link: &Link, autoconf: bool) -> Self {
        Self {
            guest_mac: link.guest_mac,
            gateway_mac: link.gateway_mac,
            guest_ipv4: link.guest_ipv4,
            guest_ipv6: link.guest_ipv6,
            gateway_ipv4: link.gateway_ipv4,
            gateway_ipv6: link.gateway_ipv6,
            mtu: link.mtu,
            autoconf,
        }
    }
}

/// A frame down to its network layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Network {
    /// An ARP request for `target` (RFC 826).
    Arp { sender: Ipv4Addr, target: Ipv4Addr },
    /// An IP packet from the guest.
    Ip(Ip),
}

/// An IP packet from the guest, judged; ranges are offsets in the frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ip {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) hop_limit: u8,
    pub(crate) payload: Range<usize>,
    pub(crate) fragment: Option<Fragment>,
}

/// Where a fragment's payload belongs (RFC 791 3.2, RFC 8200 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) ident: u32,
    pub(crate) offset: usize,
    pub(crate) more: bool,
}

/// What an IP payload carries; ranges are offsets in that payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp(Segment),
    Udp {
        guest_port: u16,
        outside_port: u16,
        payload: Range<usize>,
    },
    /// An echo request: the whole message is the payload.
    Echo {
        ident: u16,
    },
    /// An ICMP error.
    Error(Complaint),
    /// A neighbour solicitation (RFC 4861 4.3).
    NeighborSolicit {
        target: Ipv6Addr,
    },
    /// A router solicitation (RFC 4861 4.1).
    RouterSolicit,
}

/// The header of a TCP segment, and its length in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) guest_port: u16,
    pub(crate) outside_port: u16,
    pub(crate) seq: u32,
    pub(crate) ack: Option<u32>,
    pub(crate) syn: bool,
    pub(crate) fin: bool,
    pub(crate) rst: bool,
    pub(crate) window: u16,
    pub(crate) header_len: usize,
    pub(crate) payload_len: usize,
}

/// Reads `frame` down to its IP payload.
///
/// # Errors
/// Why the frame goes no further.
///
/// # Cost
/// Constant; touches the headers only.
pub(crate) fn network(frame: &[u8], offload: Offload, ends: &Ends) -> Result<Network, Drop> {
    let ethernet = EthernetFrame::new_checked(frame).map_err(|_| Drop::Truncated)?;
    if ethernet.src_addr() != EthernetAddress(ends.guest_mac) {
        return Err(Drop::SourceMac);
    }
    let to = ethernet.dst_addr();
    if to != EthernetAddress(ends.gateway_mac) && !to.is_broadcast() && !to.is_multicast() {
        return Err(Drop::DestinationMac);
    }
    let ip = match ethernet.ethertype() {
        EthernetProtocol::Arp => return arp(ethernet.payload(), ends),
        EthernetProtocol::Ipv4 => ipv4(ethernet.payload(), ends)?,
        EthernetProtocol::Ipv6 => ipv6(ethernet.payload(), ends)?,
        EthernetProtocol::Unknown(_) => return Err(Drop::Unsupported),
    };
    if offload.segment_bytes == 0 && ip.payload.end > usize::from(ends.mtu) + ETHERNET_HEADER_BYTES
    {
        return Err(Drop::TooLong);
    }
    Ok(Network::Ip(ip))
}

fn arp(payload: &[u8], ends: &Ends) -> Result<Network, Drop> {
    let packet = ArpPacket::new_checked(payload).map_err(|_| Drop::Truncated)?;
    match ArpRepr::parse(&packet).map_err(|_| Drop::Malformed)? {
        ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        } => {
            if source_hardware_addr != EthernetAddress(ends.guest_mac) {
                return Err(Drop::SourceMac);
            }
            if source_protocol_addr != ends.guest_ipv4 && !source_protocol_addr.is_unspecified() {
                return Err(Drop::SourceAddress);
            }
            Ok(Network::Arp { sender: source_protocol_addr, target: target_protocol_addr })
        }
        ArpRepr::EthernetIpv4 { .. } => Err(Drop::Unsupported),
        _ => Err(Drop::Malformed),
    }
}

fn ipv4(packet: &[u8], ends: &Ends) -> Result<Ip, Drop> {
    let ip = Ipv4Packet::new_checked(packet).map_err(|_| Drop::Truncated)?;
    let header_len = usize::from(ip.header_len());
    if ip.version() != 4 || header_len < 20 {
        return Err(Drop::Malformed);
    }
    if !Sum::of(packet.get(..header_len).ok_or(Drop::Truncated)?).is_valid() {
        return Err(Drop::Checksum);
    }
    let destination = ip.dst_addr();
    let fragmented = ip.more_frags() || ip.frag_offset() != 0;
    match judge_v4(&ip, ends) {
        Err(_) if !fragmented && asks_dhcp(&ip, ends) => {}
        judged => judged?,
    }
    Ok(Ip {
        source: IpAddr::V4(ip.src_addr()),
        destination: IpAddr::V4(destination),
        protocol: u8::from(ip.next_header()),
        hop_limit: ip.hop_limit(),
        payload: ETHERNET_HEADER_BYTES + header_len
            ..ETHERNET_HEADER_BYTES + usize::from(ip.total_len()),
        fragment: fragmented.then(|| Fragment {
            ident: u32::from(ip.ident()),
            offset: usize::from(ip.frag_offset()),
            more: ip.more_frags(),
        }),
    })
}

pub(super) fn judge_v4(ip: &Ipv4Packet<&[u8]>, ends: &Ends) -> Result<(), Drop> {
    if ip.src_addr() != ends.guest_ipv4 {
        return Err(Drop::SourceAddress);
    }
    let destination = ip.dst_addr();
    let on_link = destination.to_bits() & !3 == ends.guest_ipv4.to_bits() & !3;
    if !may_be_named_v4(destination) || (on_link && destination != ends.gateway_ipv4) {
        return Err(Drop::DestinationAddress);
    }
    Ok(())
}

/// Whether `ip`, which has no right addresses, comes from a guest that asks for them: it may have
/// none yet, or one of another network (RFC 2131 4.1, 4.3.2). The engine gives this to nobody else.
#[cold]
fn asks_dhcp(ip: &Ipv4Packet<&[u8]>, ends: &Ends) -> bool {
    const SERVER_PORT: [u8; 2] = DHCP_PORT.to_be_bytes();
    ends.autoconf
        && u8::from(ip.next_header()) == protocol::UDP
        && (ip.dst_addr().is_broadcast() || ip.dst_addr() == ends.gateway_ipv4)
        && ip.payload().get(2..4) == Some(&SERVER_PORT)
}

/// The same (RFC 8415 14 and 18.2): `transport` is from a link-local address to all servers.
#[cold]
fn asks_dhcpv6(ip: &Ipv6Packet<&[u8]>, protocol: u8, transport: &[u8], ends: &Ends) -> bool {
    const SERVER_PORT: [u8; 2] = DHCPV6_PORT.to_be_bytes();
    ends.autoconf
        && protocol == protocol::UDP
        && ip.src_addr().is_unicast_link_local()
        && ip.dst_addr() == SERVERS
        && transport.get(2..4) == Some(&SERVER_PORT)
}

/// Whether a guest may name `address`: not "this network", loopback, multicast, reserved or
/// broadcast (RFC 6890 2.2.2). 0.0.0.0 and 127/8 must never come near the host's own loopback.
fn may_be_named_v4(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first != 0 && first != 127 && first < 224
}

fn may_be_named_v6(address: Ipv6Addr) -> bool {
    !address.is_unspecified()
        && !address.is_loopback()
        && !address.is_multicast()
        && address.to_ipv4_mapped().is_none()
}

fn ipv6(packet: &[u8], ends: &Ends) -> Result<Ip, Drop> {
    let ip = Ipv6Packet::new_checked(packet).map_err(|_| Drop::Truncated)?;
    if ip.version() != 6 {
        return Err(Drop::Malformed);
    }
    let end = ip.total_len();
    let first = (u8::from(ip.next_header()), ip.header_len());
    let packet = packet.get(..end).ok_or(Drop::Truncated)?;
    let Chain { protocol, at, fragment, .. } = extensions::walk(packet, first)?;
    // Neighbour discovery never comes in fragments (RFC 6980 5).
    let discovers = fragment.is_none() && matches!(packet.get(at), Some(133..=137));
    let neighbor_discovery = discovers && protocol == protocol::ICMPV6 && ip.hop_limit() == 255;
    let transport = packet.get(at..end).unwrap_or(&[]);
    match judge_v6(&ip, neighbor_discovery, ends) {
        Err(_) if fragment.is_none() && asks_dhcpv6(&ip, protocol, transport, ends) => {}
        judged => judged?,
    }
    Ok(Ip {
        source: IpAddr::V6(ip.src_addr()),
        destination: IpAddr::V6(ip.dst_addr()),
        protocol,
        hop_limit: ip.hop_limit(),
        payload: ETHERNET_HEADER_BYTES + at..ETHERNET_HEADER_BYTES + end,
        fragment,
    })
}

/// Neighbour discovery may come from link-local and unspecified sources and go to multicast
/// groups; everything else is between the guest's address and a unicast one.
pub(super) fn judge_v6(
    ip: &Ipv6Packet<&[u8]>,
    neighbor_discovery: bool,
    ends: &Ends,
) -> Result<(), Drop> {
    let (source, destination) = (ip.src_addr(), ip.dst_addr());
    let local = source.is_unicast_link_local() || source.is_unspecified();
    if source != ends.guest_ipv6 && !(neighbor_discovery && local) {
        return Err(Drop::SourceAddress);
    }
    let group = neighbor_discovery && destination.is_multicast();
    let on_link = destination.to_bits() >> 64 == ends.guest_ipv6.to_bits() >> 64;
    let nobody = on_link && destination != ends.gateway_ipv6 && !neighbor_discovery;
    if !group && (!may_be_named_v6(destination) || nobody) {
        return Err(Drop::DestinationAddress);
    }
    Ok(())
}

/// Reads the payload of `ip`.
///
/// # Errors
/// Why the packet goes no further.
///
/// # Cost
/// One pass over the payload for its checksum, unless `checksum` says that it is vouched for.
pub(crate) fn transport(
    ip: &Ip,
    payload: &[u8],
    checksum: TransportChecksum,
) -> Result<Transport, Drop> {
    let sum_is_wrong = |covered: &[u8]| match checksum {
        TransportChecksum::Vouched | TransportChecksum::Partial => false,
        TransportChecksum::Complete => !Sum::of(covered)
            .pseudo(&(ip.source, ip.destination), ip.protocol, covered.len())
            .is_valid(),
    };
    match (ip.protocol, ip.source) {
        (protocol::TCP, _) => {
            let segment = tcp(payload)?;
            if sum_is_wrong(payload) { Err(Drop::Checksum) } else { Ok(Transport::Tcp(segment)) }
        }
        (protocol::UDP, _) => {
            let udp = UdpPacket::new_checked(payload).map_err(|_| Drop::Truncated)?;
            let len = usize::from(udp.len());
            let covered = payload.get(..len).filter(|c| c.len() >= 8).ok_or(Drop::Malformed)?;
            // No checksum: allowed by RFC 768, forbidden by RFC 8200 8.1.
            let unsummed = udp.checksum() == 0 && checksum == TransportChecksum::Complete;
            let forbidden = unsummed && ip.source.is_ipv6();
            if forbidden || (!unsummed && sum_is_wrong(covered)) {
                return Err(Drop::Checksum);
            }
            if udp.dst_port() == 0 {
                return Err(Drop::Port);
            }
            Ok(Transport::Udp {
                guest_port: udp.src_port(),
                outside_port: udp.dst_port(),
                payload: 8..len,
            })
        }
        (protocol::ICMP, IpAddr::V4(_)) => {
            if !Sum::of(payload).is_valid() {
                return Err(Drop::Checksum);
            }
            Complaint::of(ip, payload)
                .map_or_else(|| echo(payload, 8), |error| error.map(Transport::Error))
        }
        (protocol::ICMPV6, IpAddr::V6(_)) => {
            if sum_is_wrong(payload) {
                Err(Drop::Checksum)
            } else {
                icmpv6(ip, payload)
            }
        }
        _ => Err(Drop::Unsupported),
    }
}

fn tcp(payload: &[u8]) -> Result<Segment, Drop> {
    let packet = TcpPacket::new_checked(payload).map_err(|_| Drop::Truncated)?;
    if packet.src_port() == 0 || packet.dst_port() == 0 {
        return Err(Drop::Port);
    }
    // Flags that exclude each other (RFC 9293 3.10.7).
    if u8::from(packet.syn()) + u8::from(packet.fin()) + u8::from(packet.rst()) > 1 {
        return Err(Drop::Malformed);
    }
    let header_len = usize::from(packet.header_len());
    Ok(Segment {
        guest_port: packet.src_port(),
        outside_port: packet.dst_port(),
        // The sequence number types of smoltcp wrap an i32.
        seq: packet.seq_number().0.cast_unsigned(),
        ack: packet.ack().then(|| packet.ack_number().0.cast_unsigned()),
        syn: packet.syn(),
        fin: packet.fin(),
        rst: packet.rst(),
        window: packet.window_len(),
        header_len,
        payload_len: payload.len().checked_sub(header_len).ok_or(Drop::Truncated)?,
    })
}

/// An echo request whose type is `request`: type, code, checksum, identifier, sequence (RFC 792).
fn echo(message: &[u8], request: u8) -> Result<Transport, Drop> {
    match message {
        [kind, 0, _, _, a, b, _, _, ..] if *kind == request => {
            Ok(Transport::Echo { ident: u16::from_be_bytes([*a, *b]) })
        }
        [_, _, _, _, _, _, _, _, ..] => Err(Drop::Unsupported),
        _ => Err(Drop::Truncated),
    }
}

fn icmpv6(ip: &Ip, message: &[u8]) -> Result<Transport, Drop> {
    const ECHO_REQUEST: u8 = 128;
    const ROUTER_SOLICIT: u8 = 133;
    const NEIGHBOR_SOLICIT: u8 = 135;
    match message.first() {
        Some(&ROUTER_SOLICIT) if ip.hop_limit == 255 => {
            let IpAddr::V6(source) = ip.source else { return Err(Drop::Malformed) };
            advert::check_solicit(source, message)?;
            Ok(Transport::RouterSolicit)
        }
        Some(&NEIGHBOR_SOLICIT) if ip.hop_limit == 255 => {
            let packet = Icmpv6Packet::new_checked(message).map_err(|_| Drop::Truncated)?;
            let (IpAddr::V6(source), Some(options)) = (ip.source, message.get(24..)) else {
                return Err(Drop::Malformed);
            };
            if packet.msg_code() != 0 {
                return Err(Drop::Malformed);
            }
            advert::check_options(source, options)?;
            Ok(Transport::NeighborSolicit { target: packet.target_addr() })
        }
        Some(&ECHO_REQUEST) if matches!(ip.destination, IpAddr::V6(d) if !d.is_multicast()) => {
            echo(message, ECHO_REQUEST)
        }
        Some(_) => Complaint::of(ip, message)
            .map_or(Err(Drop::Unsupported), |error| error.map(Transport::Error)),
        None => Err(Drop::Truncated),
    }
}
