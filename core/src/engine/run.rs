//! In-order segments of one flow that come in a row reach smoltcp as one.
//!
//! A guest without segmentation offload sends a burst of its stream as dozens of frames. Each costs
//! smoltcp as much as the first, whatever it carries; so their payloads are put together, as long
//! as one follows the other, and smoltcp sees one long segment with the newest acknowledgement and
//! window. A run ends with the next segment that does not continue it, and with the frames of a
//! turn, so nothing waits.

#![allow(clippy::cast_possible_truncation, reason = "a run fits one IP packet, below 2^16")]

use smoltcp::wire::{TcpPacket, TcpSeqNumber};

use super::Engine;
use super::ingress::{Packet, Source, trim};
use crate::contract::{FlowId, Instant};
use crate::limits::{IP_PACKET_BYTES_MAX, RUN_SEGMENT_BYTES_MAX};
use crate::store::flows::FlowKey;
use crate::store::ring::RingHandle;
use crate::wire::classify::{Segment, protocol};
use crate::wire::reply::{self, HOP_LIMIT};

/// Bytes of a TCP header without options.
const TCP_HEADER_BYTES: usize = 20;
/// Bytes before a run's payload: the headers of the packet that it becomes.
const HEADERS_BYTES_MAX: usize = 40 + TCP_HEADER_BYTES;
/// Payload bytes of the longest run.
const RUN_BYTES_MAX: usize = IP_PACKET_BYTES_MAX - HEADERS_BYTES_MAX;

/// A row of segments, put together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    flow: FlowId,
    key: FlowKey,
    /// The first segment, with the length of all, and what the last said of the other direction.
    segment: Segment,
}

/// Whether `segment` is data and nothing else, and not too long for a copy.
fn is_plain(segment: &Segment) -> bool {
    !(segment.syn || segment.fin || segment.rst)
        && segment.ack.is_some()
        && (1..=RUN_SEGMENT_BYTES_MAX).contains(&segment.payload_len)
}

impl<R: RingHandle> Engine<'_, R> {
    /// Puts `segment` of `packet`, of the flow with `key`, behind the run, if it continues that.
    ///
    /// # Cost
    /// Constant, and one copy of the payload.
    pub(super) fn extends_run(
        &mut self,
        key: &FlowKey,
        packet: &Packet,
        segment: &Segment,
    ) -> bool {
        let Some(mut run) = self.run else { return false };
        let known = &mut run.segment;
        let end = known.seq.wrapping_add(known.payload_len as u32);
        let continues = segment.seq == end
            && is_plain(segment)
            && known.payload_len + segment.payload_len <= RUN_BYTES_MAX
            && run.key == *key;
        if !continues || !self.copy_to_run(packet, segment, known.payload_len) {
            return false;
        }
        known.payload_len += segment.payload_len;
        (known.ack, known.window) = (segment.ack, segment.window);
        self.run = Some(run);
        true
    }

    /// Begins a run with `segment` of `packet`, of the flow in `slot`, if it may be the first and
    /// there are frames that might continue it.
    pub(super) fn begins_run(&mut self, slot: u32, packet: &Packet, segment: &Segment) -> bool {
        if self.from_guest.is_empty() || !is_plain(segment) || !self.tcp.is_open(slot) {
            return false;
        }
        if !self.copy_to_run(packet, segment, 0) {
            return false;
        }
        let Some(key) = self.flows.key(slot) else { return false };
        let segment = Segment { header_len: TCP_HEADER_BYTES, ..*segment };
        self.run = Some(Run { flow: self.flows.id(slot), key, segment });
        true
    }

    /// Copies the payload of `segment` to the run's `offset`; false: it is not in a frame.
    fn copy_to_run(&mut self, packet: &Packet, segment: &Segment, offset: usize) -> bool {
        let Source::Ring(record) = packet.source else { return false };
        let start = packet.at.start + segment.header_len;
        let payload = self.from_guest.bytes(&record).get(start..start + segment.payload_len);
        let at = HEADERS_BYTES_MAX + offset;
        match (payload, self.run_bytes.get_mut(at..at + segment.payload_len)) {
            (Some(payload), Some(to)) => to.copy_from_slice(payload),
            (None, _) | (_, None) => return false,
        }
        true
    }

    /// Gives the run to its flow, if there is one and the flow still lives.
    pub(super) fn end_run(&mut self, now: Instant) {
        let Some(Run { flow, key, segment }) = self.run.take() else { return };
        let Some(slot) = self.flows.slot(flow).filter(|slot| self.tcp.is_open(*slot)) else {
            return;
        };
        let guest = self.guest(key.outside);
        let fit = self.tcp.fit(slot, &segment);
        let ip_len = if guest.is_ipv4() { 20 } else { 40 };
        let start = HEADERS_BYTES_MAX - TCP_HEADER_BYTES - ip_len;
        let len = TCP_HEADER_BYTES + segment.payload_len;
        let Some(packet) = self.run_bytes.get_mut(start..start + ip_len + len) else { return };
        reply::ip_header((guest, key.outside), protocol::TCP, len, HOP_LIMIT, packet);
        write_tcp_header(&segment, packet.get_mut(ip_len..).unwrap_or(&mut []));
        let Ok((packet, end)) = trim((guest, key.outside), &segment, fit, packet) else { return };
        self.tcp.ingress(now, (slot, &segment, end), packet, &mut self.out);
        self.flows.needs_attention(slot);
        self.flows.needs_egress(slot);
    }
}

/// Writes the header of `segment`, which has no options; nobody looks at its checksum.
fn write_tcp_header(segment: &Segment, out: &mut [u8]) {
    out.get_mut(..TCP_HEADER_BYTES).unwrap_or(&mut []).fill(0);
    let mut tcp = TcpPacket::new_unchecked(out);
    tcp.set_src_port(segment.guest_port);
    tcp.set_dst_port(segment.outside_port);
    tcp.set_seq_number(TcpSeqNumber(segment.seq.cast_signed()));
    tcp.set_ack_number(TcpSeqNumber(segment.ack.unwrap_or(0).cast_signed()));
    tcp.set_header_len(TCP_HEADER_BYTES as u8);
    tcp.set_ack(true);
    tcp.set_window_len(segment.window);
}
