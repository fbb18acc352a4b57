//! A datagram for the guest in parts, whole and in fragments.

#![allow(clippy::cast_possible_truncation, reason = "offsets and lengths are below 2^16")]

use core::net::IpAddr;

use smoltcp::wire::Ipv4Packet;

use crate::wire::checksum::Sum;
use crate::wire::classify::protocol;
use crate::wire::reply::{self, HOP_LIMIT};
use crate::wire::segment::finish_ipv4_header;

/// A datagram's transport: eight bytes of header, and what follows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts<'p> {
    pub(crate) head: [u8; 8],
    pub(crate) payload: &'p [u8],
    /// Bytes of payload of each datagram, where they are several; 0: they are one.
    pub(crate) segment_bytes: u16,
}

impl Parts<'_> {
    /// Bytes in all.
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    /// Bytes of each datagram, the last maybe excepted.
    pub(super) fn piece_len(&self) -> usize {
        match usize::from(self.segment_bytes) {
            0 => self.len(),
            bytes => self.head.len() + bytes.min(self.payload.len()),
        }
    }

    /// Writes the checksum of a UDP datagram, whose field is zero so far.
    pub(super) fn complete_udp(&mut self, ends: (IpAddr, IpAddr)) {
        let sum = self.checksum(Some(ends), protocol::UDP);
        // Zero means "none", so a sum of zero is sent as its other form (RFC 768).
        self.head[6..8].copy_from_slice(if sum == [0, 0] { &[0xff, 0xff] } else { &sum });
    }

    /// The Internet checksum of both and of the pseudo-header of `ends`, if any.
    pub(crate) fn checksum(&self, ends: Option<(IpAddr, IpAddr)>, number: u8) -> [u8; 2] {
        let sum = Sum::of(&self.head).add(self.payload);
        ends.map_or(sum, |ends| sum.pseudo(&ends, number, self.len())).finish()
    }

    /// Copies what starts at `offset` until `out` is full.
    pub(super) fn copy(&self, offset: usize, out: &mut [u8]) {
        let head = self.head.get(offset..).unwrap_or(&[]);
        let head = head.get(..out.len()).unwrap_or(head);
        let (to_head, to_payload) = out.split_at_mut(head.len());
        to_head.copy_from_slice(head);
        let from = offset.saturating_sub(self.head.len());
        if let Some(rest) = self.payload.get(from..from + to_payload.len()) {
            to_payload.copy_from_slice(rest);
        }
    }
}

/// One fragment of a datagram.
pub(super) struct Piece {
    pub(super) offset: usize,
    pub(super) len: usize,
    pub(super) more: bool,
    pub(super) ident: u32,
}

impl Piece {
    /// Bytes of the headers before a piece in the family of `address`: in IPv6 the fragment header
    /// among them.
    pub(super) const fn headers_len(address: IpAddr) -> usize {
        if address.is_ipv4() { 20 } else { 48 }
    }

    pub(super) fn write(
        &self,
        ends: (IpAddr, IpAddr),
        number: u8,
        parts: &Parts<'_>,
        out: &mut [u8],
    ) {
        // Offsets are below 2^16.
        let offset = self.offset as u16;
        let at = if ends.0.is_ipv4() {
            let at = reply::ip_header(ends, number, self.len, HOP_LIMIT, out);
            let mut ip = Ipv4Packet::new_unchecked(&mut *out);
            ip.set_dont_frag(false);
            // The low half of the counter.
            ip.set_ident(self.ident as u16);
            ip.set_frag_offset(offset);
            ip.set_more_frags(self.more);
            finish_ipv4_header(out);
            at
        } else {
            let at = reply::ip_header(ends, protocol::FRAGMENT, self.len + 8, HOP_LIMIT, out);
            let word = (offset & !7) | u16::from(self.more);
            if let Some([next, reserved, o1, o2, ident @ ..]) = out.get_mut(at..at + 8) {
                (*next, *reserved) = (number, 0);
                [*o1, *o2] = word.to_be_bytes();
                ident.copy_from_slice(&self.ident.to_be_bytes());
            }
            at + 8
        };
        parts.copy(self.offset, out.get_mut(at..).unwrap_or(&mut []));
    }
}
