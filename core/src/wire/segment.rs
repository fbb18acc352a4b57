//! Cuts a TCP super-segment into segments that fit a frame.
//!
//! smoltcp is told of a huge MTU, so that one pass through it moves up to 64 KiB; here that one
//! packet becomes many, each with its own length, sequence number, flags and checksums.

#![allow(clippy::cast_possible_truncation, reason = "offsets in a packet are below 2^16")]

use core::net::IpAddr;

use smoltcp::wire::{Ipv4Packet, Ipv6Packet, TcpPacket, TcpSeqNumber};

use super::checksum::Sum;
use super::classify::protocol;

/// One IP packet with a TCP segment, as smoltcp wrote it: where its parts are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Super {
    ends: (IpAddr, IpAddr),
    /// Bytes of the IP header.
    pub(crate) ip_len: usize,
    /// Bytes of IP and TCP header.
    pub(crate) headers_len: usize,
}

impl Super {
    /// Reads the headers of `packet`; `None` if it is not a TCP segment in IPv4 or IPv6.
    pub(crate) fn of(packet: &[u8]) -> Option<Self> {
        let (ends, ip_len) = match packet.first()? >> 4 {
            4 => {
                let ip = Ipv4Packet::new_checked(packet).ok()?;
                ((ip.src_addr().into(), ip.dst_addr().into()), usize::from(ip.header_len()))
            }
            _ => {
                let ip = Ipv6Packet::new_checked(packet).ok()?;
                ((ip.src_addr().into(), ip.dst_addr().into()), ip.header_len())
            }
        };
        let tcp = TcpPacket::new_checked(packet.get(ip_len..)?).ok()?;
        Some(Self { ends, ip_len, headers_len: ip_len + usize::from(tcp.header_len()) })
    }

    /// The sequence number of `packet`, whose headers were read.
    pub(crate) fn seq(&self, packet: &[u8]) -> u32 {
        let segment = packet.get(self.ip_len..).unwrap_or(&[]);
        TcpPacket::new_unchecked(segment).seq_number().0.cast_unsigned()
    }

    /// Makes `frame` the segment of `packet` whose payload is `offset..end`, checksums and all.
    /// `frame` holds exactly the headers and that many bytes.
    ///
    /// # Cost
    /// One copy of the payload, and one pass for the checksum over bytes that are in the cache.
    pub(crate) fn cut(&self, packet: &[u8], offset: usize, end: usize, frame: &mut [u8]) {
        let (Some(headers), Some(payload)) = (
            packet.get(..self.headers_len),
            packet.get(self.headers_len + offset..self.headers_len + end),
        ) else {
            return;
        };
        let Some((to_headers, to_payload)) = frame.split_at_mut_checked(self.headers_len) else {
            return;
        };
        to_headers.copy_from_slice(headers);
        to_payload.copy_from_slice(payload);
        let last = self.headers_len + end == packet.len();
        let mut tcp =
            TcpPacket::new_unchecked(to_headers.get_mut(self.ip_len..).unwrap_or(&mut []));
        // Offsets are below 2^16.
        tcp.set_seq_number(TcpSeqNumber(tcp.seq_number().0.wrapping_add(offset as i32)));
        if !last {
            tcp.set_fin(false);
            tcp.set_psh(false);
        }
        self.finish(frame);
    }

    /// Writes the lengths and checksums of a segment whose bytes are in place.
    pub(crate) fn finish(&self, frame: &mut [u8]) {
        let len = frame.len();
        match self.ends.0 {
            IpAddr::V4(_) => {
                let mut ip = Ipv4Packet::new_unchecked(&mut *frame);
                ip.set_total_len(u16::try_from(len).unwrap_or(u16::MAX));
                finish_ipv4_header(frame);
            }
            IpAddr::V6(_) => {
                let mut ip = Ipv6Packet::new_unchecked(&mut *frame);
                ip.set_payload_len(u16::try_from(len - self.ip_len).unwrap_or(u16::MAX));
            }
        }
        let Some(segment) = frame.get_mut(self.ip_len..) else { return };
        let mut tcp = TcpPacket::new_unchecked(&mut *segment);
        tcp.set_checksum(0);
        let sum = Sum::of(segment).pseudo(&self.ends, protocol::TCP, segment.len()).finish();
        TcpPacket::new_unchecked(segment).set_checksum(u16::from_be_bytes(sum));
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
