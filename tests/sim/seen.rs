//! Frames for the guest, read as a strict guest would: anything that is not right is an error.
//!
//! An implementation of its own, so that it shares no mistake with the engine's.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::frame::{ETHERNET, checksum, flag, protocol};

/// A frame for the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its Ethernet destination.
    pub to_mac: [u8; 6],
    /// Its Ethernet source.
    pub from_mac: [u8; 6],
    /// Bytes in all, the Ethernet header included.
    pub len: usize,
    /// What it carries.
    pub message: Message,
}

/// What a frame carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// An ARP reply: `sender` is at `mac`.
    Arp {
        /// Who answers.
        sender: Ipv4Addr,
        /// Where it is.
        mac: [u8; 6],
        /// Who had asked.
        target: Ipv4Addr,
    },
    /// A TCP segment.
    Tcp(Tcp),
    /// A UDP datagram.
    Udp {
        /// Source and destination address.
        ends: (IpAddr, IpAddr),
        /// Source and destination port.
        ports: (u16, u16),
        /// What follows the header.
        payload: Vec<u8>,
    },
    /// An ICMP or ICMPv6 message.
    Icmp(Icmp),
    /// A fragment.
    Piece(Piece),
}

/// A TCP segment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "RFC 9293 3.1 describes the fields")]
pub struct Tcp {
    pub ends: (IpAddr, IpAddr),
    pub ports: (u16, u16),
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Tcp {
    /// Whether all of `flags` are set.
    #[must_use]
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// The value of the option of `kind`, if it is there.
    #[must_use]
    pub fn option(&self, kind: u8) -> Option<&[u8]> {
        let mut rest = &self.options[..];
        loop {
            match rest {
                [] | [0, ..] => return None,
                [1, tail @ ..] => rest = tail,
                [found, len, ..] => {
                    let (option, tail) = rest.split_at(usize::from(*len));
                    if *found == kind {
                        return Some(&option[2..]);
                    }
                    rest = tail;
                }
                [_] => return None,
            }
        }
    }

    /// The sequence number after this segment.
    #[must_use]
    pub fn end(&self) -> u32 {
        let flags = u32::from(self.has(flag::SYN)) + u32::from(self.has(flag::FIN));
        self.seq.wrapping_add(self.payload.len() as u32 + flags)
    }
}

/// An ICMP or ICMPv6 message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Icmp {
    /// Source and destination address.
    pub ends: (IpAddr, IpAddr),
    /// Its type.
    pub kind: u8,
    /// Its code.
    pub code: u8,
    /// The four bytes after the checksum.
    pub rest: [u8; 4],
    /// What follows those.
    pub body: Vec<u8>,
    /// The hop limit of its packet.
    pub hop_limit: u8,
}

/// A fragment of an IP packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Source and destination address.
    pub ends: (IpAddr, IpAddr),
    /// The protocol of the whole.
    pub protocol: u8,
    /// Which whole it belongs to.
    pub ident: u32,
    /// Where in it.
    pub offset: usize,
    /// Whether others follow.
    pub more: bool,
    /// Its bytes.
    pub payload: Vec<u8>,
}

impl Seen {
    /// Reads `frame`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(frame: &[u8]) -> Result<Self, String> {
        let header: &[u8; ETHERNET] = frame.first_chunk().ok_or("shorter than Ethernet")?;
        let packet = &frame[ETHERNET..];
        let message = match u16::from_be_bytes([header[12], header[13]]) {
            0x0806 => arp(packet)?,
            0x0800 => ipv4(packet)?,
            0x86dd => ipv6(packet)?,
            kind => return Err(format!("EtherType {kind:#06x}")),
        };
        let mac = |at: usize| core::array::from_fn(|i| header[at + i]);
        Ok(Self { to_mac: mac(0), from_mac: mac(6), len: frame.len(), message })
    }

    /// The TCP segment, if it is one.
    #[must_use]
    pub fn tcp(&self) -> Option<&Tcp> {
        if let Message::Tcp(segment) = &self.message { Some(segment) } else { None }
    }

    /// The fragment, if it is one.
    #[must_use]
    pub fn piece(&self) -> Option<&Piece> {
        if let Message::Piece(piece) = &self.message { Some(piece) } else { None }
    }

    /// The ICMP message, if it is one.
    #[must_use]
    pub fn icmp(&self) -> Option<&Icmp> {
        if let Message::Icmp(message) = &self.message { Some(message) } else { None }
    }
}

fn check(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

fn arp(packet: &[u8]) -> Result<Message, String> {
    check(packet.len() == 28, "an ARP packet of another length than 28")?;
    check(packet[..8] == [0, 1, 8, 0, 6, 4, 0, 2], "not an ARP reply for Ethernet and IPv4")?;
    let address = |at: usize| Ipv4Addr::from(core::array::from_fn::<u8, 4, _>(|i| packet[at + i]));
    let mac = core::array::from_fn(|i| packet[8 + i]);
    Ok(Message::Arp { sender: address(14), mac, target: address(24) })
}

fn ipv4(packet: &[u8]) -> Result<Message, String> {
    check(packet.len() >= 20, "shorter than an IPv4 header")?;
    check(packet[0] == 0x45, "not IPv4 without options")?;
    check(usize::from(word(packet, 2)) == packet.len(), "the total length is not the frame's")?;
    check(checksum(&[], 0, &packet[..20]) == 0, "the IPv4 header's checksum is wrong")?;
    check(packet[8] > 0, "a time to live of zero")?;
    let address = |at: usize| Ipv4Addr::from(core::array::from_fn::<u8, 4, _>(|i| packet[at + i]));
    let ends = (address(12).into(), address(16).into());
    let flags = word(packet, 6);
    let (offset, more) = (usize::from(flags & 0x1fff) * 8, flags & 0x2000 != 0);
    check(flags & 0x8000 == 0, "the reserved flag of IPv4 is set")?;
    if offset > 0 || more {
        check(flags & 0x4000 == 0, "a fragment that must not be fragmented")?;
        let ident = u32::from(word(packet, 4));
        return piece(Piece {
            ends,
            protocol: packet[9],
            ident,
            offset,
            more,
            payload: packet[20..].to_vec(),
        });
    }
    transport(ends, packet[9], packet[8], &packet[20..])
}

fn ipv6(packet: &[u8]) -> Result<Message, String> {
    check(packet.len() >= 40, "shorter than an IPv6 header")?;
    check(packet[0] >> 4 == 6, "not IPv6")?;
    check(usize::from(word(packet, 4)) + 40 == packet.len(), "the length is not the frame's")?;
    check(packet[7] > 0, "a hop limit of zero")?;
    let address = |at: usize| Ipv6Addr::from(core::array::from_fn::<u8, 16, _>(|i| packet[at + i]));
    let ends = (address(8).into(), address(24).into());
    if packet[6] == protocol::FRAGMENT {
        check(packet.len() >= 48, "shorter than a fragment header")?;
        let ident = u32::from(word(packet, 44)) << 16 | u32::from(word(packet, 46));
        let flags = word(packet, 42);
        return piece(Piece {
            ends,
            protocol: packet[40],
            ident,
            offset: usize::from(flags & !7),
            more: flags & 1 != 0,
            payload: packet[48..].to_vec(),
        });
    }
    transport(ends, packet[6], packet[7], &packet[40..])
}

fn piece(piece: Piece) -> Result<Message, String> {
    check(!piece.payload.is_empty(), "an empty fragment")?;
    check(
        !piece.more || piece.payload.len().is_multiple_of(8),
        "a fragment that ends between octets",
    )?;
    check(piece.offset + piece.payload.len() <= 65_535, "a fragment beyond 64 KiB")?;
    Ok(Message::Piece(piece))
}

fn transport(
    ends: (IpAddr, IpAddr),
    number: u8,
    hop_limit: u8,
    bytes: &[u8],
) -> Result<Message, String> {
    let addresses = match (number, ends) {
        (protocol::ICMP, _) => vec![],
        (_, (IpAddr::V4(a), IpAddr::V4(b))) => [a.octets(), b.octets()].concat(),
        (_, (IpAddr::V6(a), IpAddr::V6(b))) => [a.octets(), b.octets()].concat(),
        (_, (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_))) => vec![],
    };
    check(checksum(&addresses, number, bytes) == 0, "the transport's checksum is wrong")?;
    match (number, ends.0.is_ipv4()) {
        (protocol::TCP, _) => tcp(ends, bytes),
        (protocol::UDP, _) => {
            check(bytes.len() >= 8, "shorter than a UDP header")?;
            check(usize::from(word(bytes, 4)) == bytes.len(), "the UDP length is wrong")?;
            check(word(bytes, 6) != 0, "a UDP datagram without a checksum")?;
            let ports = (word(bytes, 0), word(bytes, 2));
            Ok(Message::Udp { ends, ports, payload: bytes[8..].to_vec() })
        }
        (protocol::ICMP, true) | (protocol::ICMPV6, false) => {
            check(bytes.len() >= 8, "shorter than an ICMP header")?;
            Ok(Message::Icmp(Icmp {
                ends,
                kind: bytes[0],
                code: bytes[1],
                rest: core::array::from_fn(|i| bytes[4 + i]),
                body: bytes[8..].to_vec(),
                hop_limit,
            }))
        }
        _ => Err(format!("IP protocol {number}")),
    }
}

fn tcp(ends: (IpAddr, IpAddr), bytes: &[u8]) -> Result<Message, String> {
    check(bytes.len() >= 20, "shorter than a TCP header")?;
    let header = usize::from(bytes[12] >> 4) * 4;
    check((20..=bytes.len()).contains(&header), "the TCP data offset is wrong")?;
    let mut rest = &bytes[20..header];
    while let [kind, tail @ ..] = rest {
        rest = match (kind, tail) {
            (0, _) => &[],
            (1, _) => tail,
            (_, [len, ..]) if (2..=rest.len()).contains(&usize::from(*len)) => {
                &rest[usize::from(*len)..]
            }
            _ => return Err("a TCP option's length is wrong".into()),
        };
    }
    let flags = bytes[13];
    let exclusive = [flag::SYN, flag::FIN, flag::RST].iter().filter(|&&f| flags & f != 0).count();
    check(exclusive <= 1, "more than one of SYN, FIN and RST")?;
    check(flags & (flag::RST | flag::ACK | flag::SYN) != 0, "neither RST nor ACK nor SYN")?;
    let long = |at: usize| u32::from(word(bytes, at)) << 16 | u32::from(word(bytes, at + 2));
    Ok(Message::Tcp(Tcp {
        ends,
        ports: (word(bytes, 0), word(bytes, 2)),
        seq: long(4),
        ack: long(8),
        flags,
        window: word(bytes, 14),
        options: bytes[20..header].to_vec(),
        payload: bytes[header..].to_vec(),
    }))
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Puts pieces of one packet together, in any order, and reads it.
///
/// # Errors
/// What is wrong: of several packets, a hole, an overlap, no end, or its transport.
pub fn reassemble(pieces: &[Piece]) -> Result<Message, String> {
    let mut pieces: Vec<&Piece> = pieces.iter().collect();
    pieces.sort_by_key(|piece| piece.offset);
    let (first, last) = (pieces.first().ok_or("no pieces")?, pieces.last().ok_or("no pieces")?);
    let mut bytes = Vec::new();
    for piece in &pieces {
        check((piece.ident, piece.ends) == (first.ident, first.ends), "of several packets")?;
        check(piece.offset == bytes.len(), "a hole or an overlap")?;
        check(piece.more == (piece != last), "the end is not at the end")?;
        bytes.extend(&piece.payload);
    }
    transport(first.ends, first.protocol, 64, &bytes)
}
