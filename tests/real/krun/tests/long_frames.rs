//! A link of the longest packets to a guest that takes none of them: what it sends is as long as
//! the link allows, what it gets is cut to the buffers that it has.

use std::net::{IpAddr, UdpSocket};
use std::thread;

use online::{GATEWAYS, GUESTS, Guest, LOOPBACKS, STEP_MAX, bytes};
use sluicegate_core::addr::{Addresses, Overrides};
use sluicegate_tests_krun::{alone, now};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, IpRepr, Ipv4Packet,
    Ipv6Packet, UdpPacket, UdpRepr,
};

mod online;

/// The longest link.
const MTU: u16 = 65_520;
/// What the guest's buffers take, in Ethernet bytes.
const RECEIVE_BYTES: usize = 1514;
const ETHERNET_HEADER_BYTES: usize = 14;
const DATAGRAM_BYTES: usize = 9000;
const GUEST_PORT: u16 = 5000;

#[test]
fn long_frames_are_taken_and_none_longer_than_its_buffers_comes_back() {
    let _turn = alone();
    let mut guest = Guest::online(MTU);
    for (gateway, loopback) in GATEWAYS.into_iter().zip(LOOPBACKS) {
        guest.fetch_and_give(gateway, loopback);
    }
    let card = &guest.stack.card;
    let (sent, received) = (card.sent.longest, card.received.longest);
    assert_eq!(sent, usize::from(MTU) + ETHERNET_HEADER_BYTES, "its longest frame is the link's");
    assert_eq!(received, RECEIVE_BYTES, "full segments, and no more");
    guest.end();
}

#[test]
fn a_long_datagram_goes_out_whole_and_comes_back_in_fragments() {
    let _turn = alone();
    let mut guest = Guest::online(MTU);
    for ((gateway, loopback), (address, _)) in GATEWAYS.into_iter().zip(LOOPBACKS).zip(GUESTS) {
        let echo = UdpSocket::bind((loopback, 0)).expect("loopback");
        echo.set_read_timeout(Some(STEP_MAX)).expect("a timeout");
        let port = echo.local_addr().expect("bound").port();
        let server = thread::spawn(move || {
            let mut datagram = vec![0; 1 << 16];
            let (len, from) = echo.recv_from(&mut datagram).expect("the guest sends");
            echo.send_to(&datagram[..len], from).expect("loopback");
            len
        });
        let data = bytes(0, DATAGRAM_BYTES);
        let frame = udp_frame((address, gateway), port, &data);
        assert!(guest.stack.card.sender.send(&frame), "the queue takes it");
        guest.stack.card.sent.bytes += frame.len() as u64;
        guest.stack.card.kick();
        let datagram = reassembled(&mut guest, gateway);
        assert_eq!(server.join().expect("the server is content"), DATAGRAM_BYTES);
        let datagram = UdpPacket::new_checked(&datagram[..]).expect("a whole datagram");
        assert_eq!((datagram.src_port(), datagram.dst_port()), (port, GUEST_PORT));
        assert!(datagram.verify_checksum(&gateway.into(), &address.into()), "its checksum");
        assert!(datagram.payload() == data, "the datagram came back as another");
    }
    guest.end();
}

/// A frame from the guest to `port` of its gateway.
fn udp_frame((guest, gateway): (IpAddr, IpAddr), port: u16, data: &[u8]) -> Vec<u8> {
    let checksums = ChecksumCapabilities::default();
    let udp = UdpRepr { src_port: GUEST_PORT, dst_port: port };
    let len = udp.header_len() + data.len();
    let ip = IpRepr::new(guest.into(), gateway.into(), IpProtocol::Udp, len, 64);
    let start = ETHERNET_HEADER_BYTES + ip.header_len();
    let mut frame = vec![0; start + len];
    let addresses = Addresses::of_slot(0, &Overrides::default()).expect("defaults");
    let ethertype = if guest.is_ipv4() { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 };
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress(addresses.guest_mac),
        dst_addr: EthernetAddress(addresses.gateway_mac),
        ethertype,
    };
    ethernet.emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
    ip.emit(&mut frame[ETHERNET_HEADER_BYTES..], &checksums);
    let mut packet = UdpPacket::new_unchecked(&mut frame[start..]);
    let (from, to) = (guest.into(), gateway.into());
    udp.emit(&mut packet, &from, &to, data.len(), |out| out.copy_from_slice(data), &checksums);
    frame
}

/// What the fragments from `gateway` say together.
fn reassembled(guest: &mut Guest, gateway: IpAddr) -> Vec<u8> {
    let card = &mut guest.stack.card;
    let (start, mut datagram, mut is_last, mut count) = (now(), Vec::new(), false, 0);
    while !is_last {
        assert!(start.elapsed() < STEP_MAX, "fragments after {count} are missing");
        card.wait(STEP_MAX);
        while let Some(frame) = card.receiver.receive() {
            assert!(frame.len() <= RECEIVE_BYTES, "a frame of {} bytes", frame.len());
            if let Some((offset, more, data)) = fragment(frame, gateway) {
                assert_eq!(offset, datagram.len(), "fragments come in order");
                datagram.extend_from_slice(data);
                is_last = !more;
                count += 1;
            }
        }
        card.kick();
    }
    assert_eq!(count, datagram.len().div_ceil(RECEIVE_BYTES - 54), "each as long as can be");
    datagram
}

/// Where a fragment from `gateway` belongs, whether more follow, and what is in it.
fn fragment(frame: &[u8], gateway: IpAddr) -> Option<(usize, bool, &[u8])> {
    let packet = &frame[ETHERNET_HEADER_BYTES..];
    if gateway.is_ipv4() {
        let packet = Ipv4Packet::new_checked(packet).ok()?;
        let is_ours = packet.next_header() == IpProtocol::Udp && packet.src_addr() == gateway;
        assert!(!is_ours || packet.verify_checksum(), "the header's checksum");
        is_ours.then(|| (packet.frag_offset().into(), packet.more_frags(), packet.payload()))
    } else {
        let packet = Ipv6Packet::new_checked(packet).ok()?;
        if packet.next_header() != IpProtocol::Ipv6Frag || packet.src_addr() != gateway {
            return None;
        }
        // RFC 8200 4.5.
        let (header, data) = packet.payload().split_at(8);
        assert_eq!(header[0], 17, "UDP is in it");
        let offset = u16::from_be_bytes([header[2], header[3]]);
        Some((usize::from(offset & !7), offset & 1 == 1, data))
    }
}
