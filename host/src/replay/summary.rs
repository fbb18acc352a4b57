//! A frame in a line, as tcpdump would put it.

use std::net::{IpAddr, Ipv4Addr};

use etherparse::{
    ArpPacketSlice, Ethernet2HeaderSlice, Ipv6ExtensionSlice, NetSlice, SlicedPacket, TcpSlice,
    TransportSlice,
};

/// What `frame` is, and how long.
pub(super) fn summary(frame: &[u8]) -> String {
    let text = match SlicedPacket::from_ethernet(frame) {
        Ok(packet) => match packet.net {
            Some(NetSlice::Arp(arp)) => of_arp(&arp),
            Some(NetSlice::Ipv4(ip)) => {
                let header = ip.header();
                let ends = (header.source_addr().into(), header.destination_addr().into());
                let offset = usize::from(header.fragments_offset().value()) * 8;
                let more = header.more_fragments();
                let payload = ip.payload();
                let protocol = payload.ip_number.0;
                if offset > 0 || more {
                    fragment(ends, protocol, (offset, payload.payload.len(), more))
                } else {
                    of_transport(ends, protocol, packet.transport.as_ref())
                }
            }
            Some(NetSlice::Ipv6(ip)) => {
                let header = ip.header();
                let ends = (header.source_addr().into(), header.destination_addr().into());
                let payload = ip.payload();
                let protocol = payload.ip_number.0;
                if payload.fragmented {
                    let (offset, more) =
                        ip.extensions().clone().into_iter().find_map(cut_at).unwrap_or((0, false));
                    fragment(ends, protocol, (offset, payload.payload.len(), more))
                } else {
                    of_transport(ends, protocol, packet.transport.as_ref())
                }
            }
            None => of_ethernet(frame),
        },
        Err(error) => {
            let text = format!("what is no packet ({error})");
            text.chars().take(120).collect()
        }
    };
    format!("{text} ({} bytes)", frame.len())
}

/// Where the piece whose fragment header this is belongs, and whether more follow.
fn cut_at(header: Ipv6ExtensionSlice<'_>) -> Option<(usize, bool)> {
    match header {
        Ipv6ExtensionSlice::Fragment(cut) => {
            Some((usize::from(cut.fragment_offset().value()) * 8, cut.more_fragments()))
        }
        Ipv6ExtensionSlice::HopByHop(_)
        | Ipv6ExtensionSlice::Routing(_)
        | Ipv6ExtensionSlice::DestinationOptions(_)
        | Ipv6ExtensionSlice::Authentication(_) => None,
    }
}

fn of_ethernet(frame: &[u8]) -> String {
    match Ethernet2HeaderSlice::from_slice(frame) {
        Ok(header) => format!("ethertype {:04x}", header.ether_type().0),
        Err(_) => "no frame".to_owned(),
    }
}

fn of_arp(arp: &ArpPacketSlice<'_>) -> String {
    let address = |bytes: &[u8]| {
        <[u8; 4]>::try_from(bytes)
            .map_or_else(|_| "?".to_owned(), |b| Ipv4Addr::from(b).to_string())
    };
    let (sender, target) =
        (address(arp.sender_protocol_addr()), address(arp.target_protocol_addr()));
    match arp.operation().0 {
        1 => format!("arp who has {target}, tell {sender}"),
        2 => format!("arp {sender} is here, to {target}"),
        other => format!("arp operation {other}"),
    }
}

fn fragment(
    (from, to): (IpAddr, IpAddr),
    protocol: u8,
    (offset, len, more): (usize, usize, bool),
) -> String {
    let more = if more { "+" } else { "" };
    format!("{from} > {to} fragment of protocol {protocol}, {len} at {offset}{more}")
}

fn of_transport(
    (from, to): (IpAddr, IpAddr),
    protocol: u8,
    transport: Option<&TransportSlice<'_>>,
) -> String {
    let ports = |source: u16, destination: u16| {
        let from = std::net::SocketAddr::new(from, source);
        format!("{from} > {}", std::net::SocketAddr::new(to, destination))
    };
    match transport {
        Some(TransportSlice::Tcp(tcp)) => {
            format!("tcp {} {}", ports(tcp.source_port(), tcp.destination_port()), of_tcp(tcp))
        }
        Some(TransportSlice::Udp(udp)) => {
            let len = udp.payload().len();
            format!("udp {} len {len}", ports(udp.source_port(), udp.destination_port()))
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            format!("icmp {from} > {to} type {} code {}", icmp.type_u8(), icmp.code_u8())
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            format!("icmp6 {from} > {to} type {} code {}", icmp.type_u8(), icmp.code_u8())
        }
        Some(TransportSlice::Igmp(_)) | None => format!("{from} > {to} protocol {protocol}"),
    }
}

fn of_tcp(tcp: &TcpSlice<'_>) -> String {
    let flags: String = [
        (tcp.syn(), 'S'),
        (tcp.fin(), 'F'),
        (tcp.rst(), 'R'),
        (tcp.psh(), 'P'),
        (tcp.ack(), 'A'),
        (tcp.urg(), 'U'),
        (tcp.ece(), 'E'),
        (tcp.cwr(), 'W'),
    ]
    .iter()
    .filter_map(|(is_set, letter)| is_set.then_some(*letter))
    .collect();
    let flags = if flags.is_empty() { "none".to_owned() } else { flags };
    let mut text = format!("{flags} seq {}", tcp.sequence_number());
    if tcp.ack() {
        text += &format!(" ack {}", tcp.acknowledgment_number());
    }
    text + &format!(" win {} len {}", tcp.window_size(), tcp.payload().len())
}
