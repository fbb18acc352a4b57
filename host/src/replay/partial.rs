//! Frames whose checksum a card was to fill: captured in a guest, they hold the sum of the
//! pseudo-header only (RFC 9293 3.1, RFC 768), as the kernel leaves it to the card.

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;
use etherparse::{SlicedPacket, TransportSlice};

use super::ends::ends;

/// Whether the checksum of `frame` was left to a card.
pub(super) fn is_partial(frame: &[u8]) -> bool {
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else { return false };
    let Some((from, to)) = packet.net.as_ref().and_then(ends) else { return false };
    let (protocol, len, sum) = match packet.transport {
        Some(TransportSlice::Tcp(tcp)) => (6_u16, tcp.slice().len(), tcp.checksum()),
        Some(TransportSlice::Udp(udp)) => (17, udp.slice().len(), udp.checksum()),
        Some(TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_))
        | None => return false,
    };
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let pseudo = Sum16BitWords::new()
        .add_slice(&octets(from))
        .add_slice(&octets(to))
        .add_2bytes(protocol.to_be_bytes())
        .add_8bytes((len as u64).to_be_bytes());
    !pseudo.ones_complement().to_be() == sum
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    #[test]
    fn the_sum_of_the_pseudo_header_alone_is_told_from_a_whole_one() {
        let mut whole = vec![];
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([1, 2, 3, 4], [5, 6, 7, 8], 64);
        builder.udp(1000, 53).write(&mut whole, b"words").unwrap();
        assert!(!is_partial(&whole));
        let pseudo = 0x0102 + 0x0304 + 0x0506 + 0x0708 + 17 + 13_u16;
        whole[40..42].copy_from_slice(&pseudo.to_be_bytes());
        assert!(is_partial(&whole));
        assert!(!is_partial(&whole[..20]));
    }
}
