//! What the guest says of a packet that it was sent: an ICMP error, read down to the ends of the
//! packet that it quotes.
//!
//! Whether that packet was ever sent is not known here: of the quote it is checked that it is one
//! from where the error goes to where the error is from, and whole as far as its ends are.
//!
//! RFC 792, RFC 4443 3. Not done: a quote behind an IPv6 fragment header, and one that is not the
//! first piece of its datagram, is of nothing that is known.

use core::net::IpAddr;

use smoltcp::wire::{Ipv4Packet, Ipv6Packet};

use super::classify::{Ip, protocol};
use crate::contract::Drop;

/// A link takes so much in any case (RFC 791 3.1, RFC 8200 5): who says less says nothing.
const LINK_BYTES_MIN: [u32; 2] = [68, 1280];

/// What became of the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It may yet arrive if it comes again, as far as its sender can know (RFC 1122 3.2.2.1, RFC
    /// 9293 3.9.2.2: a soft error).
    Lost,
    /// It will not, nor will another: its port is closed, its protocol not known, or somebody
    /// forbids it (a hard error).
    Refused,
    /// It was longer than the `mtu` bytes that a link behind the guest takes.
    TooBig { mtu: u32 },
}

/// An ICMP error of the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Complaint {
    pub(crate) fate: Fate,
    /// TCP or UDP.
    pub(crate) protocol: u8,
    pub(crate) outside_port: u16,
    pub(crate) guest_port: u16,
    /// The sequence number that the packet began with, if it was a segment.
    pub(crate) seq: u32,
}

impl Complaint {
    /// Reads `message`, the payload of `ip`; `None`: it is no error, or one that nobody may send
    /// any more (RFC 6633).
    ///
    /// # Errors
    /// `Truncated`: it ends before the ends of what it quotes; `IcmpError`: it is about no packet
    /// of a flow's.
    ///
    /// # Cost
    /// Constant.
    pub(crate) fn of(ip: &Ip, message: &[u8]) -> Option<Result<Self, Drop>> {
        let (kind, code) = (*message.first()?, *message.get(1)?);
        let v4 = ip.source.is_ipv4();
        is_error(v4, kind).then(|| {
            let (head, quoted) = message.split_first_chunk::<8>().ok_or(Drop::Truncated)?;
            let (protocol, transport) = quote(ip, quoted)?;
            let &[o0, o1, g0, g1, seq @ ..] =
                transport.first_chunk::<8>().ok_or(Drop::Truncated)?;
            Ok(Self {
                fate: fate(v4, (kind, code), *head),
                protocol,
                outside_port: u16::from_be_bytes([o0, o1]),
                guest_port: u16::from_be_bytes([g0, g1]),
                seq: u32::from_be_bytes(seq),
            })
        })
    }
}

/// Destination unreachable, packet too big, time exceeded and parameter problem.
fn is_error(v4: bool, kind: u8) -> bool {
    if v4 { matches!(kind, 3 | 11 | 12) } else { matches!(kind, 1..=4) }
}

/// What a message of `kind` and `code`, whose first bytes are `head`, says.
fn fate(v4: bool, (kind, code): (u8, u8), head: [u8; 8]) -> Fate {
    let [_, _, _, _, m0, m1, m2, m3] = head;
    // In IPv4 it is the low half (RFC 1191 4).
    let mtu = u32::from_be_bytes(if v4 { [0, 0, m2, m3] } else { [m0, m1, m2, m3] });
    let [v4_min, v6_min] = LINK_BYTES_MIN;
    match (v4, kind, code) {
        (true, 3, 4) if mtu >= v4_min => Fate::TooBig { mtu },
        (false, 2, 0) if mtu >= v6_min => Fate::TooBig { mtu },
        // Protocol, port, and who prohibits it (RFC 1812 5.2.7.1).
        (true, 3, 2 | 3 | 9 | 10 | 13) => Fate::Refused,
        // Prohibited, port, and two that say more closely who prohibits it (RFC 4443 3.1).
        (false, 1, 1 | 4 | 5 | 6) => Fate::Refused,
        _ => Fate::Lost,
    }
}

/// The protocol and the transport of `quoted`, a packet that must have gone where `ip` is from.
fn quote<'q>(ip: &Ip, quoted: &'q [u8]) -> Result<(u8, &'q [u8]), Drop> {
    let is_v4 = ip.source.is_ipv4();
    // With so many bytes, each field of the fixed header is there.
    if quoted.len() < if is_v4 { 20 } else { 40 } {
        return Err(Drop::Truncated);
    }
    let (ends, protocol, header, is_first): ((IpAddr, IpAddr), _, _, _) = if is_v4 {
        let packet = Ipv4Packet::new_unchecked(quoted);
        let ends = (packet.src_addr().into(), packet.dst_addr().into());
        let is_first = packet.version() == 4 && packet.frag_offset() == 0;
        (ends, packet.next_header(), usize::from(packet.header_len()), is_first)
    } else {
        let packet = Ipv6Packet::new_unchecked(quoted);
        let ends = (packet.src_addr().into(), packet.dst_addr().into());
        (ends, packet.next_header(), packet.header_len(), packet.version() == 6)
    };
    let protocol = u8::from(protocol);
    // What is sent here has no options.
    let is_plain = is_first && header == if is_v4 { 20 } else { 40 };
    if !is_plain
        || ends != (ip.destination, ip.source)
        || !matches!(protocol, protocol::TCP | protocol::UDP)
    {
        return Err(Drop::IcmpError);
    }
    Ok((protocol, quoted.get(header..).unwrap_or(&[])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_says_what_its_rfc_says() {
        let fates = |v4: bool, kind: u8, codes: core::ops::RangeInclusive<u8>| {
            let head = [kind, 0, 0, 0, 0, 0, 5, 100];
            let is =
                move |of: Fate| codes.clone().filter(move |c| fate(v4, (kind, *c), head) == of);
            (is(Fate::Refused), is(Fate::TooBig { mtu: 1380 }))
        };
        let codes = |v4, kind| {
            let (refused, big) = fates(v4, kind, 0..=255);
            (heapless_list(refused), heapless_list(big))
        };
        assert_eq!(codes(true, 3), (heapless_list([2, 3, 9, 10, 13]), heapless_list([4])));
        assert_eq!(codes(false, 1), (heapless_list([1, 4, 5, 6]), heapless_list([])));
        assert_eq!(codes(false, 2), (heapless_list([]), heapless_list([0])));
        for (v4, kind) in [(true, 11), (true, 12), (false, 3), (false, 4)] {
            assert_eq!(codes(v4, kind), (heapless_list([]), heapless_list([])));
        }
    }

    fn heapless_list(codes: impl IntoIterator<Item = u8>) -> heapless::Vec<u8, 8> {
        codes.into_iter().collect()
    }
}
