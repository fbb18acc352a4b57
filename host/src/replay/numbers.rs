//! Sequence numbers: a captured guest acknowledges what another server has sent, which counted from
//! a number of its own (RFC 9293 3.4.1). Here its acknowledgements are moved to where ours counts
//! from, and so are the numbers of segments that its ICMP errors quote.
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
const SEQ_AT: usize = 4;
const ACK_AT: usize = 8;
const CHECKSUM_AT: usize = 16;
/// And in an ICMP message (RFC 792, RFC 4443 2.1).
const ICMP_CHECKSUM_AT: usize = 2;
const QUOTE_AT: usize = 8;

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
        let Some(Number { key, at, checksum_at, is_ack }) = number(frame) else { return moved };
        let Some(first) = self.0.get_mut(&key) else { return moved };
        let (Some(&old), Some(&sum)) = (
            frame.get(at..).and_then(|rest| rest.first_chunk()),
            frame.get(checksum_at..).and_then(|rest| rest.first_chunk::<2>()),
        ) else {
            return moved;
        };
        let old = u32::from_be_bytes(old);
        if is_ack {
            first.captured.get_or_insert(old.wrapping_sub(1));
        }
        let (Some(captured), Some(ours)) = (first.captured, first.ours) else { return moved };
        let new = old.wrapping_sub(captured).wrapping_add(ours);
        // RFC 1624 3: HC' = ~(~HC + ~m + m').
        let sum = Sum16BitWords::new()
            .add_2bytes(sum.map(|byte| !byte))
            .add_4bytes((!old).to_be_bytes())
            .add_4bytes(new.to_be_bytes())
            .ones_complement()
            .to_be();
        moved[at..at + 4].copy_from_slice(&new.to_be_bytes());
        moved[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
        moved
    }
}

/// A number of the guest's that counts what the other end has sent.
struct Number {
    key: Key,
    /// Where it is in its frame, and where the checksum over it is.
    at: usize,
    checksum_at: usize,
    /// It is an acknowledgement, and not that of a segment that is quoted.
    is_ack: bool,
}

/// The number in `frame`, if it has one.
fn number(frame: &[u8]) -> Option<Number> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (_, outside) = ends(&packet.net?)?;
    let place = |slice: &[u8]| slice.as_ptr().addr() - frame.as_ptr().addr();
    match packet.transport? {
        TransportSlice::Tcp(tcp) => tcp.ack().then(|| Number {
            key: (tcp.source_port(), outside, tcp.destination_port()),
            at: place(tcp.slice()) + ACK_AT,
            checksum_at: place(tcp.slice()) + CHECKSUM_AT,
            is_ack: true,
        }),
        TransportSlice::Icmpv4(icmp) => quoted(icmp.slice(), outside, place(icmp.slice())),
        TransportSlice::Icmpv6(icmp) => quoted(icmp.slice(), outside, place(icmp.slice())),
        TransportSlice::Udp(_) | TransportSlice::Igmp(_) => None,
    }
}

/// The number of the segment that `message` quotes, an ICMP error about what `outside` had sent,
/// which is at `place` in its frame.
fn quoted(message: &[u8], outside: IpAddr, place: usize) -> Option<Number> {
    const TCP: u8 = 6;
    let (errors, protocol_at, header_bytes): (&[u8], _, _) =
        if outside.is_ipv4() { (&[3, 11, 12], 9, 20) } else { (&[1, 2, 3, 4], 6, 40) };
    let quote = message.get(QUOTE_AT..)?;
    if !errors.contains(message.first()?) || *quote.get(protocol_at)? != TCP {
        return None;
    }
    let &[o0, o1, g0, g1] = quote.get(header_bytes..)?.first_chunk()?;
    Some(Number {
        key: (u16::from_be_bytes([g0, g1]), outside, u16::from_be_bytes([o0, o1])),
        at: place + QUOTE_AT + header_bytes + SEQ_AT,
        checksum_at: place + ICMP_CHECKSUM_AT,
        is_ack: false,
    })
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
    fn what_an_error_quotes_is_moved_and_its_checksum_stays_right() {
        let lost = frame("", 5021, Some(1), true);
        let error = |seq: u32| {
            let mut quote = lost[14..].to_vec();
            quote[24..28].copy_from_slice(&seq.to_be_bytes());
            let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([1; 4], [9; 4], 64);
            let mut out = vec![];
            builder.icmpv4_raw(3, 3, [0; 4]).write(&mut out, &quote).unwrap();
            out
        };
        let mut numbers = Numbers::default();
        assert_eq!(numbers.moved(&error(5021)), error(5021), "nobody knows from where it counts");
        numbers.captured(&frame("S", 5000, Some(1), true));
        numbers.ours(&frame("S", 0xffff_fff0, Some(1), true));
        assert_eq!(numbers.moved(&error(5021)), error(5));
        let short = &error(5021)[..14 + 20 + 8 + 20 + 7];
        assert_eq!(numbers.moved(short), short, "a quote without a number");
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
