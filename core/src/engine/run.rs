//! In-order segments of one flow that come in a row reach smoltcp as one.
//!
//! A guest without segmentation offload sends a burst of its stream as dozens of frames, and
//! answers ours with dozens of acknowledgements. Each costs smoltcp as much as the first,
//! whatever it carries; so their payloads are put together, as long as one follows the other,
//! and smoltcp sees one long segment with the newest acknowledgement and window. An
//! acknowledgement without data is only left out where it is overtaken by a newer one:
//! repetitions are counted (RFC 5681 3.2). All of a run is of use: it begins with what is expected
//! next, and ends before the window does; what is not in order is fed by itself, and acknowledged
//! (RFC 5681 4.2). A run ends with the next segment that does not continue it, and with the frames
//! of a turn, so nothing waits.

#![allow(clippy::cast_possible_truncation, reason = "a run fits one IP packet, below 2^16")]

use smoltcp::wire::{TcpPacket, TcpSeqNumber};

use super::Engine;
use super::ingress::{Packet, Source, trim};
use crate::contract::{Drop, FlowId, Instant};
use crate::limits::{IP_PACKET_BYTES_MAX, RUN_SEGMENT_BYTES_MAX};
use crate::stack::tcp::Acceptable;
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
pub(super) struct Run {
    flow: FlowId,
    key: FlowKey,
    /// The first segment, with the length of all, and what the last said of the other direction.
    segment: Segment,
    /// How many they are.
    frames: u64,
    /// Payload bytes that it may have at most.
    bytes_max: usize,
    /// Which acknowledgements are believed of it: nothing is sent while there is a run.
    acceptable: Acceptable,
    /// The packet of the first, as long as it is the only one: its bytes are still in the ring.
    only: Option<Packet>,
}

/// Whether `segment` is data or an acknowledgement and nothing else, and not too long for a copy.
fn is_plain(segment: &Segment) -> bool {
    !(segment.syn || segment.fin || segment.rst)
        && segment.ack.is_some()
        && segment.payload_len <= RUN_SEGMENT_BYTES_MAX
}

/// Whether `segment` says more than `known` did: it has data, or acknowledges more; and nothing
/// older.
fn is_news(segment: &Segment, known: &Segment) -> bool {
    let Some((ack, known)) = segment.ack.zip(known.ack) else { return false };
    let least = i32::from(segment.payload_len == 0);
    ack.wrapping_sub(known).cast_signed() >= least
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
        let Some(run) = &self.run else { return false };
        let known = run.segment;
        let end = known.seq.wrapping_add(known.payload_len as u32);
        let continues = segment.seq == end
            && is_plain(segment)
            && is_news(segment, &known)
            && known.payload_len + segment.payload_len <= run.bytes_max
            && segment.ack.is_some_and(|ack| run.acceptable.contains(ack))
            && run.key == *key;
        if !continues {
            return false;
        }
        let first = self.run.as_mut().and_then(|run| run.only.take());
        if let Some(first) = first {
            self.copy_to_run(&first, &known, 0);
        }
        self.copy_to_run(packet, segment, known.payload_len);
        if let Some(run) = &mut self.run {
            run.frames += 1;
            run.segment.payload_len += segment.payload_len;
            (run.segment.ack, run.segment.window) = (segment.ack, segment.window);
        }
        true
    }

    /// Begins a run with `segment` of `packet`, of the flow in `slot`, if it may be the first and
    /// there are frames that might continue it.
    pub(super) fn begins_run(&mut self, slot: u32, packet: &Packet, segment: &Segment) -> bool {
        let in_ring = matches!(packet.source, Source::Ring(_));
        if !in_ring || self.from_guest.is_empty() || !is_plain(segment) {
            return false;
        }
        let Some((acceptable, room)) = self.tcp.in_order(slot, segment) else { return false };
        let Some(key) = self.flows.key(slot) else { return false };
        let (flow, only) = (self.flows.id(slot), Some(packet.clone()));
        let bytes_max = room.min(RUN_BYTES_MAX);
        self.run =
            Some(Run { flow, key, segment: *segment, frames: 1, bytes_max, acceptable, only });
        true
    }

    /// Copies the payload of `segment`, which is in the ring, to the run's `offset`.
    fn copy_to_run(&mut self, packet: &Packet, segment: &Segment, offset: usize) {
        let Source::Ring(record) = packet.source else { return };
        let start = packet.at.start + segment.header_len;
        let payload = self.from_guest.bytes(&record).get(start..start + segment.payload_len);
        let at = HEADERS_BYTES_MAX + offset;
        if let Some(payload) = payload
            && let Some(to) = self.run_bytes.get_mut(at..at + payload.len())
        {
            to.copy_from_slice(payload);
        }
    }

    /// Gives the run to its flow, if there is one and the flow still lives.
    #[inline]
    pub(super) fn end_run(&mut self, now: Instant) {
        if self.run.is_some() {
            self.finish_run(now);
        }
    }

    #[inline(never)]
    fn finish_run(&mut self, now: Instant) {
        let Some(Run { flow, key, segment, frames, only, .. }) = self.run.take() else { return };
        let slot = self.flows.slot(flow).filter(|slot| self.tcp.is_open(*slot));
        let fed = match (slot, only) {
            (Some(slot), Some(packet)) => self.feed(now, slot, &packet, &segment),
            (Some(slot), None) => self.feed_run(now, slot, &key, &segment),
            (None, _) => Err(Drop::Redundant),
        };
        if let Err(reason) = fed {
            self.out.counters.count_drops(reason, frames);
        }
    }

    /// The flow in `slot` has got a segment.
    pub(super) fn fed(&mut self, now: Instant, slot: u32) {
        self.flows.needs_attention(slot);
        self.flows.needs_egress(slot);
        if self.tcp.takes_turns(slot) {
            self.guest_waits(now);
        }
    }

    /// Gives the flow in `slot` the bytes that were put together.
    fn feed_run(
        &mut self,
        now: Instant,
        slot: u32,
        key: &FlowKey,
        segment: &Segment,
    ) -> Result<(), Drop> {
        let segment = Segment { header_len: TCP_HEADER_BYTES, ..*segment };
        let ends = (self.guest(key.outside), key.outside);
        let fit = self.tcp.fit(slot, &segment);
        let ip_len = reply::ip_header_len(ends.0);
        let start = HEADERS_BYTES_MAX - TCP_HEADER_BYTES - ip_len;
        let len = TCP_HEADER_BYTES + segment.payload_len;
        let packet = self.run_bytes.get_mut(start..start + ip_len + len).ok_or(Drop::Truncated)?;
        reply::ip_header(ends, protocol::TCP, len, HOP_LIMIT, packet);
        write_tcp_header(&segment, packet.get_mut(ip_len..).unwrap_or(&mut []));
        let (packet, end) = trim(ends, &segment, fit, packet)?;
        let verdict = self.tcp.ingress(now, (slot, &segment, end), packet, &mut self.out);
        self.fed(now, slot);
        verdict
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
