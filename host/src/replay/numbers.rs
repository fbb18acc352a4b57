//! Sequence numbers: a captured guest acknowledges what another server has sent, which counted from
//! a number of its own (RFC 9293 3.4.1). Here its acknowledgements are moved to where ours counts
//! from.
//!
//! The other server's number is that of its SYN-ACK, if the capture has it, and else follows from
//! the guest's first acknowledgement. Checksums are mended by what was changed (RFC 1624), so that
//! one that was wrong stays so.

use std::collections::HashMap;
use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;
use etherparse::{SlicedPacket, TcpSlice, TransportSlice};

use super::ends::ends;

/// Connections of one capture.
const FLOWS_MAX: usize = 65_536;
/// Where in a TCP header things are (RFC 9293 3.1).
const ACK_AT: usize = 8;
const CHECKSUM_AT: usize = 16;

/// The guest's port, and the other end.
type Key = (u16, IpAddr, u16);

/// The first numbers of the connections so far.
#[derive(Default)]
pub(super) struct Numbers(HashMap<Key, First>);

#[derive(Default)]
struct First {
    captured: Option<u32>,
    ours: Option<u32>,
}

impl Numbers {
    /// Notes a frame of the capture's own gateway.
    pub(super) fn captured(&mut self, frame: &[u8]) {
        if let Some((key, first)) = syn_ack(frame)
            && self.0.len() < FLOWS_MAX
        {
            self.0.entry(key).or_default().captured = Some(first);
        }
    }

    /// Notes a frame of ours.
    pub(super) fn ours(&mut self, frame: &[u8]) {
        if let Some((key, first)) = syn_ack(frame)
            && self.0.len() < FLOWS_MAX
        {
            self.0.entry(key).or_default().ours = Some(first);
        }
    }

    /// `frame`, of the guest, with the acknowledgement that it would have had here.
    pub(super) fn moved(&mut self, frame: &[u8]) -> Vec<u8> {
        let mut moved = frame.to_vec();
        let Some((ends, tcp)) = tcp(frame) else { return moved };
        let at = tcp.slice().as_ptr().addr() - frame.as_ptr().addr();
        let key = (tcp.source_port(), ends.1, tcp.destination_port());
        let Some(first) = self.0.get_mut(&key).filter(|_| tcp.ack()) else { return moved };
        let ack = tcp.acknowledgment_number();
        let captured = *first.captured.get_or_insert(ack.wrapping_sub(1));
        let Some(ours) = first.ours else { return moved };
        let new = ack.wrapping_sub(captured).wrapping_add(ours);
        // RFC 1624 3: HC' = ~(~HC + ~m + m').
        let sum = Sum16BitWords::new()
            .add_2bytes((!tcp.checksum()).to_be_bytes())
            .add_4bytes((!ack).to_be_bytes())
            .add_4bytes(new.to_be_bytes())
            .ones_complement()
            .to_be();
        if let Some(field) = moved.get_mut(at + ACK_AT..at + ACK_AT + 4) {
            field.copy_from_slice(&new.to_be_bytes());
        }
        if let Some(field) = moved.get_mut(at + CHECKSUM_AT..at + CHECKSUM_AT + 2) {
            field.copy_from_slice(&sum.to_be_bytes());
        }
        moved
    }
}

/// The segment in `frame`, and its ends.
fn tcp(frame: &[u8]) -> Option<((IpAddr, IpAddr), TcpSlice<'_>)> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let ends = ends(&packet.net?)?;
    match packet.transport? {
        TransportSlice::Tcp(tcp) => Some((ends, tcp)),
        TransportSlice::Udp(_)
        | TransportSlice::Icmpv4(_)
        | TransportSlice::Icmpv6(_)
        | TransportSlice::Igmp(_) => None,
    }
}

/// The connection that a SYN-ACK to the guest is of, and where it counts from.
fn syn_ack(frame: &[u8]) -> Option<(Key, u32)> {
    let ((outside, _), tcp) = tcp(frame)?;
    let key = (tcp.destination_port(), outside, tcp.source_port());
    (tcp.syn() && tcp.ack()).then_some((key, tcp.sequence_number()))
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn frame(flags: &str, seq: u32, ack: Option<u32>, to_guest: bool) -> Vec<u8> {
        let (from, to) = if to_guest { ([9, 9, 9, 9], [1; 4]) } else { ([1; 4], [9, 9, 9, 9]) };
        let (source, destination) = if to_guest { (80, 4000) } else { (4000, 80) };
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from, to, 64);
        let mut builder = builder.tcp(source, destination, seq, 1000);
        if flags.contains('S') {
            builder = builder.syn();
        }
        if let Some(ack) = ack {
            builder = builder.ack(ack);
        }
        let mut out = vec![];
        builder.write(&mut out, b"abc").unwrap();
        out
    }

    #[test]
    fn acknowledgements_are_moved_and_checksums_stay_as_right_as_they_were() {
        for knows in [true, false] {
            let mut numbers = Numbers::default();
            if knows {
                numbers.captured(&frame("S", 5000, Some(1), true));
            }
            numbers.ours(&frame("S", 0xffff_fff0, Some(1), true));
            for (ack, expected) in [(5001, 0xffff_fff1), (5021, 5)] {
                let moved = numbers.moved(&frame("", 1, Some(ack), false));
                let mut right = frame("", 1, Some(expected), false);
                assert_eq!(moved, right, "{knows} {ack}");
                let mut wrong = frame("", 1, Some(ack), false);
                wrong[50] ^= 1;
                right[50] ^= 1;
                assert_eq!(numbers.moved(&wrong), right, "a wrong checksum stays wrong");
            }
        }
    }
}
