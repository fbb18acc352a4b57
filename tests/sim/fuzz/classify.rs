//! One frame of the guest, to the engine and to another reader of frames (etherparse): what the
//! engine takes for the beginning of a connection or for a datagram is one to the other, too, for
//! the same address and with the same bytes; and a plain one that the other reads is not dropped.

use core::net::{IpAddr, SocketAddr};

use etherparse::{NetSlice, SlicedPacket, TcpSlice, TransportSlice, UdpSlice};
use sluicegate_core::{DatagramKind, Drop, Link, Outside};

use crate::frame::{self, ETHERNET, OUTSIDES, protocol};
use crate::{Did, Room, default_config};

/// What a frame asks of the outside.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Connection(SocketAddr),
    Datagram(SocketAddr, Vec<u8>),
    /// The whole message.
    Echo(IpAddr, Vec<u8>),
}

/// What the other reader says of a frame.
struct Reading {
    asked: Asked,
    /// Nothing about it is odd, so that no engine may refuse it.
    is_plain: bool,
}

/// The first byte says whether checksums are mended, and the frame follows.
///
/// # Panics
/// If the two readers differ, or the engine breaks a rule.
pub fn classify(data: &[u8]) {
    let Some((mends, bytes)) = data.split_first() else { return };
    let mut bytes = bytes.get(..bytes.len().min(1600)).unwrap_or(&[]).to_vec();
    let is_ip = bytes.get(ETHERNET).is_some_and(|byte| matches!(byte, 0x45..=0x4f | 0x60));
    if mends & 1 == 1 && is_ip && bytes.len() >= ETHERNET + 60 {
        frame::mend(&mut bytes);
    }
    let link = default_config().link;
    let mut room = Room::plain();
    let mut world = room.world();
    let dropped = world.dropped(&bytes);
    let asked = world.peers.log.iter().find_map(asked);
    let read = read(&bytes, &link);
    match (&asked, &read) {
        (Some(asked), read) => {
            let read = read.as_ref().map(|read| &read.asked);
            assert_eq!(Some(asked), read, "what the engine takes for something");
        }
        // Names over UDP at port 853 are denied, which is no matter of reading.
        (None, Some(Reading { is_plain: true, asked })) if dropped != Some(Drop::Denied) => {
            panic!("{asked:?} is dropped as {dropped:?}")
        }
        (None, _) => {}
    }
}

/// What the engine asks of the outside.
fn asked(did: &Did) -> Option<Asked> {
    let address = |to: &Outside| match to {
        // Where the frame went is not told: any address may be asked for names.
        Outside::HostLoopback(to) | Outside::Remote(to) | Outside::Names(to) => *to,
    };
    match did {
        Did::Connect { to, .. } => Some(Asked::Connection(address(to))),
        Did::SendDatagram { to, payload, kind, .. } => Some(match kind {
            DatagramKind::Udp => Asked::Datagram(address(to), payload.clone()),
            DatagramKind::Echo => Asked::Echo(address(to).ip(), payload.clone()),
        }),
        Did::Intercept { .. }
        | Did::Send { .. }
        | Did::Finish { .. }
        | Did::Receive { .. }
        | Did::Reset { .. }
        | Did::Close { .. }
        | Did::Unused { .. } => None,
    }
}

/// A whole IP packet, as etherparse reads it.
struct Packet<'p> {
    source: IpAddr,
    destination: IpAddr,
    payload: &'p [u8],
    /// It has options, headers before the transport's, or no hop left.
    is_odd: bool,
}

fn network<'p>(net: &NetSlice<'p>) -> Option<Packet<'p>> {
    match net {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            // Not by etherparse's own sum, which leaves the reserved flag out.
            let is_summed = frame::checksum(&[], 0, header.slice()) == 0;
            let packet = Packet {
                source: header.source_addr().into(),
                destination: header.destination_addr().into(),
                payload: ip.payload().payload,
                is_odd: !header.options().is_empty()
                    || !ip.extensions().is_empty()
                    || header.ttl() < 2,
            };
            (is_summed && !ip.is_payload_fragmented()).then_some(packet)
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            let packet = Packet {
                source: header.source_addr().into(),
                destination: header.destination_addr().into(),
                payload: ip.payload().payload,
                is_odd: !ip.extensions().is_empty() || header.hop_limit() < 2,
            };
            // A length of 0 is a jumbogram's to etherparse (RFC 2675), and there are none here.
            (header.payload_length() > 0 && !ip.is_payload_fragmented()).then_some(packet)
        }
        NetSlice::Arp(_) => None,
    }
}

/// What `bytes` ask for, as etherparse reads them.
fn read(bytes: &[u8], link: &Link) -> Option<Reading> {
    let sliced = SlicedPacket::from_ethernet(bytes).ok()?;
    let packet = network(sliced.net.as_ref()?)?;
    let is_of_guest = bytes.get(6..12)? == link.guest_mac
        && [link.guest_ipv4.into(), link.guest_ipv6.into()].contains(&packet.source);
    let is_plain = bytes.get(..6)? == link.gateway_mac
        && OUTSIDES.contains(&packet.destination)
        && !packet.is_odd
        && sliced.link_exts.is_empty()
        && bytes.len() <= ETHERNET + usize::from(link.mtu);
    let asked = match sliced.transport? {
        TransportSlice::Tcp(tcp) => connection(&packet, &tcp),
        TransportSlice::Udp(udp) => datagram(&packet, &udp),
        TransportSlice::Icmpv4(message) => {
            echo(&packet, 8, message.slice(), frame::checksum(&[], 0, message.slice()) == 0)
        }
        TransportSlice::Icmpv6(message) => {
            let is_summed = is_summed(&packet, protocol::ICMPV6, message.slice());
            echo(&packet, 128, message.slice(), is_summed)
        }
        TransportSlice::Igmp(_) => None,
    };
    Some(Reading { asked: asked.filter(|_| is_of_guest)?, is_plain })
}

fn connection(packet: &Packet<'_>, tcp: &TcpSlice<'_>) -> Option<Asked> {
    let opens = tcp.syn() && !tcp.ack() && !tcp.rst() && !tcp.fin();
    let to = SocketAddr::new(packet.destination, tcp.destination_port());
    let has_ports = tcp.source_port() != 0 && to.port() != 0;
    let is_good = opens && has_ports && is_summed(packet, protocol::TCP, packet.payload);
    is_good.then_some(Asked::Connection(to))
}

fn datagram(packet: &Packet<'_>, udp: &UdpSlice<'_>) -> Option<Asked> {
    let to = SocketAddr::new(packet.destination, udp.destination_port());
    let is_summed = match udp.checksum() {
        0 => to.is_ipv4(),
        _ => is_summed(packet, protocol::UDP, udp.slice()),
    };
    // A length of 0 is etherparse's sign of a jumbogram, too.
    let is_good = udp.length() >= 8 && to.port() != 0 && is_summed;
    is_good.then(|| Asked::Datagram(to, udp.payload().to_vec()))
}

fn echo(packet: &Packet<'_>, request: u8, message: &[u8], is_summed: bool) -> Option<Asked> {
    let is_good = message.starts_with(&[request, 0]) && message.len() >= 8 && is_summed;
    is_good.then(|| Asked::Echo(packet.destination, message.to_vec()))
}

/// Whether `covered` has its right checksum.
fn is_summed(packet: &Packet<'_>, number: u8, covered: &[u8]) -> bool {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let addresses = [octets(packet.source), octets(packet.destination)].concat();
    frame::checksum(&addresses, number, covered) == 0
}
