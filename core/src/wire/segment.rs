//! Frames that are not finished: a TCP segment or UDP datagrams longer than a frame, and transport
//! checksums that stand for the pseudo-header only.
//!
//! The engine makes them, since one pass through smoltcp then moves up to 64 KiB ([`Headers`]). A
//! front end whose guest takes them passes them on; for other guests it cuts them while it copies
//! the bytes that it has to copy anyway ([`Cut`]).
//!
//! An unfinished frame has an Ethernet, an IP and a TCP or UDP header without IP options or
//! extension headers, and [`Offload::header_bytes`] is the length of them all.

#![allow(clippy::cast_possible_truncation, reason = "offsets in a packet are below 2^16")]

use core::net::IpAddr;
use core::ops::Range;

use smoltcp::wire::{Ipv4Packet, Ipv6Packet, TcpPacket, TcpSeqNumber, UdpPacket};

use super::checksum::Sum;
use super::classify::protocol;
use crate::contract::{Offload, TransportChecksum};
use crate::limits::ETHERNET_HEADER_BYTES;

/// Bytes of the longest headers of an unfinished frame: Ethernet, IPv6, TCP with all options.
pub const PIECE_HEADER_BYTES_MAX: usize = ETHERNET_HEADER_BYTES + 40 + 60;

/// Bytes of the headers that each piece of `frame` has, which came from the guest; where it is not
/// plain what they are, the fewest that there can be.
pub(crate) fn header_bytes(frame: &[u8]) -> u16 {
    const LEAST: usize = 20 + 8;
    let packet = frame.get(ETHERNET_HEADER_BYTES..).unwrap_or(&[]);
    let len = Headers::of(packet).map_or(LEAST, |headers| headers.len);
    (ETHERNET_HEADER_BYTES + len) as u16
}

/// The headers of one IP packet with a TCP segment or a UDP datagram: where its parts are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Headers {
    ends: (IpAddr, IpAddr),
    protocol: u8,
    /// Bytes of the IP header.
    pub(crate) ip_len: usize,
    /// Bytes of IP and transport header.
    pub(crate) len: usize,
}

impl Headers {
    /// Reads the headers of `packet`, of which the payload may be missing; `None`: it is neither
    /// TCP nor UDP in IPv4 or IPv6.
    pub(crate) fn of(packet: &[u8]) -> Option<Self> {
        let (ends, protocol, ip_len) = if packet.first()? >> 4 == 4 {
            let ip = Ipv4Packet::new_unchecked(packet.get(..20)?);
            let ends = (ip.src_addr().into(), ip.dst_addr().into());
            (ends, ip.next_header().into(), usize::from(ip.header_len()))
        } else {
            let ip = Ipv6Packet::new_unchecked(packet.get(..40)?);
            ((ip.src_addr().into(), ip.dst_addr().into()), ip.next_header().into(), 40)
        };
        let transport = packet.get(ip_len..)?;
        let transport_len = match protocol {
            protocol::TCP => {
                usize::from(TcpPacket::new_unchecked(transport.get(..20)?).header_len())
            }
            protocol::UDP => 8,
            _ => return None,
        };
        let len = ip_len + transport_len;
        (transport_len >= 8 && len <= packet.len()).then_some(Self { ends, protocol, ip_len, len })
    }

    /// The sequence number of the TCP segment in `packet`, whose headers these are.
    pub(crate) fn seq(&self, packet: &[u8]) -> u32 {
        let segment = packet.get(self.ip_len..).unwrap_or(&[]);
        TcpPacket::new_unchecked(segment).seq_number().0.cast_unsigned()
    }

    /// The packet's transport header, and what follows it.
    pub(crate) fn transport_mut<'p>(&self, packet: &'p mut [u8]) -> &'p mut [u8] {
        packet.get_mut(self.ip_len..).unwrap_or(&mut [])
    }

    /// How many sequence numbers the segment's flags take: one for a SYN, one for a FIN.
    pub(crate) fn controls(&self, packet: &[u8]) -> u32 {
        let segment = TcpPacket::new_unchecked(packet.get(self.ip_len..).unwrap_or(&[]));
        u32::from(segment.syn()) + u32::from(segment.fin())
    }

    /// Clears what only the last segment of several says: FIN and PSH.
    pub(crate) fn clear_end_flags(&self, packet: &mut [u8]) {
        let mut tcp = TcpPacket::new_unchecked(self.transport_mut(packet));
        tcp.set_fin(false);
        tcp.set_psh(false);
    }

    /// Writes the lengths, and the IP header's checksum, of a packet of `len` bytes that begins
    /// with `headers`.
    fn set_len(&self, headers: &mut [u8], len: usize) {
        match self.ends.0 {
            IpAddr::V4(_) => {
                Ipv4Packet::new_unchecked(&mut *headers).set_total_len(len as u16);
                finish_ipv4_header(headers);
            }
            IpAddr::V6(_) => {
                let payload_len = (len - self.ip_len) as u16;
                Ipv6Packet::new_unchecked(&mut *headers).set_payload_len(payload_len);
            }
        }
        if self.protocol == protocol::UDP {
            let transport = self.transport_mut(headers);
            UdpPacket::new_unchecked(transport).set_len((len - self.ip_len) as u16);
        }
    }

    fn set_checksum(&self, headers: &mut [u8], sum: u16) {
        let transport = self.transport_mut(headers);
        match self.protocol {
            protocol::TCP => TcpPacket::new_unchecked(transport).set_checksum(sum),
            _ => UdpPacket::new_unchecked(transport).set_checksum(sum),
        }
    }

    /// Writes the lengths and checksums of a packet of `len` bytes that begins with `headers`, and
    /// whose payload adds up to `payload`.
    fn finish(&self, headers: &mut [u8], len: usize, payload: Sum) {
        self.set_len(headers, len);
        self.set_checksum(headers, 0);
        let transport = headers.get(self.ip_len..self.len).unwrap_or(&[]);
        // Transport headers have even lengths, so the payload's sum can be added as it is.
        let sum = payload.add(transport).pseudo(&self.ends, self.protocol, len - self.ip_len);
        let sum = u16::from_be_bytes(sum.finish());
        // Zero means "none" to UDP, so a sum of zero is sent as its other form (RFC 768).
        let sum = if sum == 0 && self.protocol == protocol::UDP { 0xffff } else { sum };
        self.set_checksum(headers, sum);
    }

    /// Finishes `packet`, whose payload is in place.
    pub(crate) fn finish_in_place(&self, packet: &mut [u8]) {
        let payload = Sum::of(packet.get(self.len..).unwrap_or(&[]));
        self.finish(packet, packet.len(), payload);
    }

    /// Makes `packet`, whose payload is in place, one whose checksum is still to be completed: its
    /// field holds the sum of the pseudo-header (virtio 1.2, 5.1.6.2).
    ///
    /// # Cost
    /// Constant.
    pub(crate) fn leave_partial(&self, packet: &mut [u8]) {
        let len = packet.len();
        self.set_len(packet, len);
        let sum = Sum::default().pseudo(&self.ends, self.protocol, len - self.ip_len).finish();
        self.set_checksum(packet, !u16::from_be_bytes(sum));
    }
}

/// Makes finished frames of one frame of the ring, one after the other, for a guest that takes no
/// others. It holds no bytes: a front end can stop between two frames and go on later.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    offload: Offload,
    /// Bytes of the frame in the ring.
    len: usize,
    /// Bytes of it that earlier frames had; its headers count once.
    taken: usize,
}

/// One finished frame: headers of its own, and a payload that stays where it is.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'f> {
    headers: [u8; PIECE_HEADER_BYTES_MAX],
    header_len: usize,
    /// What follows the headers.
    pub payload: &'f [u8],
}

impl Piece<'_> {
    /// The frame's first bytes: its headers, or nothing where the payload is all of it.
    #[must_use]
    pub fn headers(&self) -> &[u8] {
        self.headers.get(..self.header_len).unwrap_or(&[])
    }
}

impl Cut {
    /// Cuts a frame of `len` bytes that came with `offload`.
    #[must_use]
    pub const fn new(len: usize, offload: Offload) -> Self {
        Self { offload, len, taken: 0 }
    }

    /// Bytes of the next frame; `None`: there are no more.
    ///
    /// # Cost
    /// Constant.
    #[must_use]
    pub fn next_len(&self) -> Option<usize> {
        if self.taken > 0 && self.taken >= self.len || self.taken > self.len {
            return None;
        }
        let range = self.range();
        Some(if self.is_finished() { range.len() } else { self.header_len() + range.len() })
    }

    /// The next frame, as parts; `frame` is the one that is cut. `None`: there are no more.
    ///
    /// # Cost
    /// A pass over the payload for its checksum; no copy of it.
    pub fn next<'f>(&mut self, frame: &'f [u8]) -> Option<Piece<'f>> {
        self.next_len()?;
        let range = self.range();
        let payload = frame.get(range.clone())?;
        let mut piece = Piece { headers: [0; PIECE_HEADER_BYTES_MAX], header_len: 0, payload };
        if !self.is_finished() {
            piece.header_len = self.header_len();
            let headers = piece.headers.get_mut(..piece.header_len)?;
            headers.copy_from_slice(frame.get(..piece.header_len)?);
            self.finish(headers, &range, Sum::of(payload));
        }
        self.taken = range.end.max(1);
        Some(piece)
    }

    /// Writes the next frame to the start of `out` and returns its length; `frame` is the one that
    /// is cut. `None`: there are no more, or `out` is shorter than [`next_len`](Self::next_len).
    ///
    /// # Cost
    /// One copy, and the checksum over bytes that are in the cache.
    pub fn next_into(&mut self, frame: &[u8], out: &mut [u8]) -> Option<usize> {
        let len = self.next_len()?;
        let out = out.get_mut(..len)?;
        let range = self.range();
        let payload = frame.get(range.clone())?;
        let (headers, body) = out.split_at_mut(len - range.len());
        if headers.is_empty() {
            body.copy_from_slice(payload);
        } else {
            headers.copy_from_slice(frame.get(..headers.len())?);
            body.copy_from_slice(payload);
            self.finish(headers, &range, Sum::of(body));
        }
        self.taken = range.end.max(1);
        Some(len)
    }

    /// Whether the frame is what a guest takes.
    fn is_finished(&self) -> bool {
        self.offload.header_bytes == 0
            || (self.offload.segment_bytes == 0
                && self.offload.checksum != TransportChecksum::Partial)
    }

    fn header_len(&self) -> usize {
        usize::from(self.offload.header_bytes).min(self.len)
    }

    /// Where in the frame the payload of the next one lies.
    fn range(&self) -> Range<usize> {
        if self.is_finished() {
            return 0..self.len;
        }
        let start = self.taken.max(self.header_len());
        let step = match self.offload.segment_bytes {
            0 => self.len,
            bytes => usize::from(bytes),
        };
        start..self.len.min(start + step)
    }

    /// Makes of `headers`, which are the whole frame's, those of the frame whose payload is
    /// `range`.
    fn finish(&self, headers: &mut [u8], range: &Range<usize>, payload: Sum) {
        let packet = headers.get_mut(ETHERNET_HEADER_BYTES..).unwrap_or(&mut []);
        let Some(parts) = Headers::of(packet) else { return };
        if parts.protocol == protocol::TCP {
            let offset = (range.start - self.header_len()) as i32;
            let segment = packet.get_mut(parts.ip_len..).unwrap_or(&mut []);
            let mut tcp = TcpPacket::new_unchecked(segment);
            tcp.set_seq_number(TcpSeqNumber(tcp.seq_number().0.wrapping_add(offset)));
            if range.end < self.len {
                parts.clear_end_flags(packet);
            }
        }
        parts.finish(packet, packet.len() + range.len(), payload);
    }
}

/// Writes the checksum of the 20-byte IPv4 header at the start of `packet`.
pub(crate) fn finish_ipv4_header(packet: &mut [u8]) {
    Ipv4Packet::new_unchecked(&mut *packet).set_checksum(0);
    let sum = Sum::of(packet.get(..20).unwrap_or(&[])).finish();
    Ipv4Packet::new_unchecked(packet).set_checksum(u16::from_be_bytes(sum));
}

/// Replaces the maximum segment size that a SYN-ACK offers (RFC 9293 3.7.1).
pub(crate) fn set_offered_mss(packet: &mut [u8], ip_len: usize, mss: u16) {
    let Some(segment) = packet.get_mut(ip_len..) else { return };
    let mut tcp = TcpPacket::new_unchecked(segment);
    // smoltcp writes this option first: kind 2, length 4, value.
    if let [2, 4, high, low, ..] = tcp.options_mut() {
        [*high, *low] = mss.to_be_bytes();
    }
}
