//! Whether a segment was of any use.
//!
//! smoltcp does not say what becomes of a segment. That something came of it shows in its queues
//! and its state, and mostly something does; of the others it is told apart here what they are, so
//! that each that is dropped is counted. Acceptability is RFC 9293 3.10.7.4, first: what is not
//! acceptable is answered, by smoltcp, and dropped.
//!
//! A segment that is acceptable, but says nothing new, is no drop: a repeated acknowledgement asks
//! for what was lost (RFC 5681 3.2), a keepalive for an answer (RFC 9293 3.8.4). What waits beyond
//! a gap is kept, and may have been there before.

use smoltcp::socket::tcp::State;
use smoltcp::wire::{TcpPacket, TcpSeqNumber};

use super::{Segment, Tcp, TcpSlot};
use crate::contract::{Drop, Instant};
use crate::stack::device::Emitter;
use crate::store::ring::RingHandle;
use crate::wire::segment::Headers;

/// What a segment that is of use changes, unless it is beyond a gap, or says something of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) unacknowledged: usize,
    received: usize,
    pub(super) state: State,
}

impl TcpSlot<'_> {
    /// The newest acknowledgement, and the window beside it, if `ack` is older.
    pub(super) fn newer_than(&self, ack: u32) -> Option<(u32, u16)> {
        self.acked.filter(|(known, _)| known.wrapping_sub(ack).cast_signed() > 0)
    }
}

impl<'a> Tcp<'a> {
    /// How far the flow in `slot` is.
    #[inline]
    pub(super) fn progress(&mut self, slot: u32) -> Progress {
        match self.socket(slot) {
            Some(socket) => Progress {
                unacknowledged: socket.send_queue(),
                received: socket.recv_queue(),
                state: socket.state(),
            },
            None => Progress { unacknowledged: 0, received: 0, state: State::Closed },
        }
    }

    /// Judges `segment` of the flow in `slot`, which smoltcp has just seen as `packet`, and which
    /// has changed nothing that shows. Apart, as few are so.
    ///
    /// # Errors
    /// It was of no use.
    ///
    /// # Cost
    /// Constant, and where its acknowledgement was overtaken a copy of the payload.
    #[cold]
    #[inline(never)]
    pub(super) fn judge_use<R: RingHandle>(
        &mut self,
        now: Instant,
        (slot, segment, known): (u32, &Segment, Progress),
        packet: &mut [u8],
        out: &mut Emitter<'a, R>,
    ) -> Result<(), Drop> {
        let Progress { received, state, .. } = known;
        if matches!(state, State::Closed | State::Listen) {
            return Err(Drop::Redundant);
        }
        let free = self.receive_bytes - received;
        let ack = segment.ack.ok_or(Drop::NoAck)?;
        let flow = self.slot(slot);
        if state == State::SynReceived && flow.sent != Some(ack) {
            // smoltcp has answered with a reset (RFC 9293 3.10.7.4, fifth).
            return Err(Drop::Doubtful);
        }
        let expected = flow.expected(free);
        place(flow, segment, expected)?;
        let overtaken = flow.newer_than(ack);
        if segment.payload_len == 0 && !segment.fin {
            return overtaken.map_or(Ok(()), |_| Err(Drop::Duplicate));
        }
        if is_probe(segment, expected) || flow.shape.has_answered && segment.payload_len > 0 {
            // Asked, and answered; or kept until what is missing before it comes.
            return Ok(());
        }
        let Some(headers) = Headers::of(packet) else { return Err(Drop::Truncated) };
        let mut tcp = TcpPacket::new_unchecked(headers.transport_mut(packet));
        if let Some((ack, window)) = overtaken {
            // Its bytes count all the same (RFC 9293 3.10.7.4, fifth); smoltcp is strict.
            tcp.set_ack_number(TcpSeqNumber(ack.cast_signed()));
            tcp.set_window_len(window);
            self.feed(now, slot, packet, out);
            if self.progress(slot) != known || self.slot(slot).shape.has_answered {
                return Ok(());
            }
        }
        if segment.payload_len > 0 {
            // One more gap than smoltcp bears, of which it says nothing; it acknowledges what is
            // old (SHLD-31).
            let len = u32::try_from(packet.len() - headers.len).unwrap_or(0);
            let mut tcp = TcpPacket::new_unchecked(headers.transport_mut(packet));
            tcp.set_seq_number(TcpSeqNumber(expected.wrapping_sub(len).cast_signed()));
            self.feed(now, slot, packet, out);
        }
        Err(Drop::Early)
    }
}

/// Whether `segment` is a keepalive, or a probe of our window: the byte before the `expected` one,
/// or none there.
fn is_probe(segment: &Segment, expected: u32) -> bool {
    segment.seq == expected.wrapping_sub(1) && segment.payload_len <= 1 && !segment.fin
}

/// Where `segment` lies beside the window of `flow`, whose next byte is the `expected` one.
///
/// # Errors
/// Wholly before it, beyond it, or behind the guest's FIN.
fn place(flow: &TcpSlot<'_>, segment: &Segment, expected: u32) -> Result<(), Drop> {
    let behind = |seq: u32| i64::from(seq.wrapping_sub(expected).cast_signed());
    let ahead = behind(segment.seq);
    let len = segment.payload_len as i64 + i64::from(segment.fin);
    let room = behind(flow.limit()).max(0);
    if ahead + len <= 0 && !is_probe(segment, expected) && (len > 0 || ahead < 0) {
        return Err(Drop::Duplicate);
    }
    if flow.guest_finished && len > 0 && ahead + len > 0 {
        return Err(Drop::Redundant);
    }
    // Of what begins with old bytes the new ones count.
    let (news, least) = if len > 0 { (ahead.max(0), 0) } else { (ahead, 1) };
    if news >= room.max(least) && !is_probe(segment, expected) {
        return Err(Drop::OutOfWindow);
    }
    Ok(())
}
