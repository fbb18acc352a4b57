//! What a flow waits for, and how long.
//!
//! smoltcp repeats what the guest does not acknowledge, with gaps: no timer runs after a probed
//! window has opened by less than what is under way, nor after the third repetition of an
//! acknowledgement while only a FIN is under way; a probe is empty, and so without an answer, where
//! all bytes are under way; and its timer stays backed off after an acknowledgement (RFC 6298 5.3).
//! So a flow that makes no progress is nudged besides: after [`limits::TCP_NUDGE_MS`], then twice
//! that, and so on.

use core::net::SocketAddr;

use smoltcp::socket::tcp::State;
use smoltcp::wire::{EthernetProtocol, TcpControl, TcpRepr, TcpSeqNumber};

use super::fit::free;
use super::{Held, Phase, Tcp, TcpSlot, smol};
use crate::contract::Instant;
use crate::limits;
use crate::stack::device::Emitter;
use crate::store::ring::RingHandle;
use crate::wire::reply;

/// The interval between nudges doubles this often.
const NUDGES_DOUBLED_MAX: u8 = 5;

impl TcpSlot<'_> {
    /// When the guest is to be nudged, if it still owes an acknowledgement then.
    fn nudge_at(&self) -> Option<Instant> {
        let ms = limits::TCP_NUDGE_MS << self.nudges.min(NUDGES_DOUBLED_MAX);
        Some(self.nudged.or(self.owed)?.plus_millis(ms))
    }
}

impl<'a> Tcp<'a> {
    /// When the flow next needs attention by itself.
    pub(crate) fn deadline(&mut self, now: Instant, slot: u32) -> Option<Instant> {
        let own = self.patience(now, slot);
        let socket = self.socket_deadline(now, slot);
        let flow = self.slot(slot);
        [own, socket, flow.nudge_at(), flow.silent_at()].into_iter().flatten().min()
    }

    /// Whether both sides have finished and the host has yet to take bytes of the guest: smoltcp
    /// forgets them when its TIME-WAIT ends, so that has to last.
    pub(super) fn keeps_waiting(&mut self, slot: u32) -> bool {
        let flow = self.slot(slot);
        flow.guest_finished
            && flow.outside_finished
            && self
                .socket(slot)
                .is_some_and(|socket| socket.state() == State::TimeWait && socket.recv_queue() > 0)
    }

    /// When smoltcp next wants to send.
    fn socket_deadline(&mut self, now: Instant, slot: u32) -> Option<Instant> {
        if let Some(at) = self.slots[slot].ack_delay.ack_at() {
            return Some(at);
        }
        if self.keeps_waiting(slot) {
            return None;
        }
        let flow = &mut self.slots[slot];
        let set =
            flow.set.as_ref().filter(|_| matches!(flow.phase, Phase::Open | Phase::Lingering))?;
        let at = self.iface.poll_at(smol(now), set)?;
        // In the past: smoltcp would like to send, and could not. Not before the next tick.
        let at = Instant::from_micros(u64::try_from(at.total_micros()).unwrap_or(0));
        Some(at.max(now.plus_millis(1)))
    }

    /// Whether the guest owes an acknowledgement of bytes or of our FIN.
    fn is_owed(&mut self, slot: u32) -> bool {
        let is_open = self.is_open(slot);
        self.socket(slot).filter(|_| is_open).is_some_and(|socket| match socket.state() {
            State::FinWait1 | State::Closing | State::LastAck => true,
            State::Established | State::CloseWait => socket.send_queue() > 0,
            State::Closed
            | State::Listen
            | State::SynSent
            | State::SynReceived
            | State::FinWait2
            | State::TimeWait => false,
        })
    }

    /// Repeats what the guest has not acknowledged, if it is time for that. `ends` are the guest's
    /// and the outside's.
    pub(crate) fn nudge<R: RingHandle>(
        &mut self,
        now: Instant,
        slot: u32,
        (guest, outside): (SocketAddr, SocketAddr),
        out: &mut Emitter<'a, R>,
    ) {
        let (queue, free) =
            self.socket(slot).map_or((0, 0), |socket| (socket.send_queue(), free(socket)));
        let flow = self.slot(slot);
        if flow.nudge_at().is_none_or(|at| at > now) {
            return;
        }
        flow.nudged = Some(now);
        flow.nudges = flow.nudges.saturating_add(1);
        let next = flow.expected(free);
        let expected = TcpSeqNumber(next.cast_signed());
        let Some((acked, window)) = flow.acked else { return };
        let acked = TcpSeqNumber(acked.cast_signed());
        let to_guest = TcpRepr {
            seq_number: acked,
            ack_number: Some(expected),
            window_len: flow.shape.window.field(next, free, out.window_bytes_max()),
            ..reply::bare(outside.port(), guest.port())
        };
        let repr = match (queue, window) {
            // All bytes are acknowledged: the FIN follows them.
            (0, _) => {
                flow.sent = Some((acked + 1).0.cast_unsigned());
                TcpRepr { control: TcpControl::Fin, ..to_guest }
            }
            // An old sequence number asks for an answer, as Linux does (RFC 9293 3.8.6.1).
            (_, 0) => TcpRepr { seq_number: acked - 1, ..to_guest },
            (_, _) => {
                self.repeat(now, slot, (guest, outside), out);
                return;
            }
        };
        let v4 = guest.is_ipv4();
        let kind = if v4 { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 };
        out.reply(kind, |packet| reply::tcp(outside.ip(), guest.ip(), &repr, packet));
    }

    /// Makes smoltcp send the oldest segment again that the guest has not acknowledged: three
    /// repetitions of an acknowledgement do (RFC 5681 3.2). It counts anew after a change of the
    /// window, and the change back.
    pub(super) fn repeat<R: RingHandle>(
        &mut self,
        now: Instant,
        slot: u32,
        ends: (SocketAddr, SocketAddr),
        out: &mut Emitter<'a, R>,
    ) {
        let Some(free) = self.socket(slot).map(|socket| free(socket)) else { return };
        let flow = self.slot(slot);
        // A closed window is asked whether it has opened, and repetitions say nothing to it.
        let Some((acked, window)) = flow.acked.filter(|(_, window)| *window > 0) else { return };
        let again = TcpRepr {
            seq_number: TcpSeqNumber(flow.expected(free).cast_signed()),
            ack_number: Some(TcpSeqNumber(acked.cast_signed())),
            ..reply::bare(ends.0.port(), ends.1.port())
        };
        let other = window.wrapping_add(1).max(1);
        for window_len in [other, window, window, window, window] {
            self.feed_segment(now, slot, (ends, &TcpRepr { window_len, ..again }), out);
        }
    }

    /// Until when the flow may stay as it is.
    pub(crate) fn patience(&mut self, now: Instant, slot: u32) -> Option<Instant> {
        let (state, unsent, untaken) = self.socket(slot).map_or((State::Closed, 0, 0), |socket| {
            (socket.state(), socket.send_queue(), socket.recv_queue())
        });
        let is_owed = self.is_owed(slot);
        let flow = self.slot(slot);
        if is_owed {
            flow.owed = flow.owed.or(Some(now));
        } else {
            (flow.owed, flow.nudged, flow.nudges) = (None, None, 0);
        }
        let until = match flow.phase {
            Phase::Free | Phase::Resetting => return None,
            Phase::Connecting(_) => flow.since.plus_millis(limits::TCP_CONNECT_MS_MAX),
            Phase::Lingering => flow.since.plus_millis(limits::TCP_TIME_WAIT_MS),
            Phase::Open => match state {
                State::SynReceived | State::Listen | State::SynSent => {
                    flow.since.plus_millis(limits::TCP_HALF_OPEN_MS_MAX)
                }
                State::FinWait2 => flow.heard.plus_millis(limits::TCP_FIN_WAIT_2_MS_MAX),
                State::CloseWait if flow.outside_finished => {
                    flow.progress.plus_millis(limits::TCP_DRAIN_MS_MAX)
                }
                State::FinWait1 | State::Closing | State::LastAck => {
                    flow.progress.plus_millis(limits::TCP_DRAIN_MS_MAX)
                }
                _ if flow.guest_finished && untaken > 0 => {
                    flow.progress.plus_millis(limits::TCP_DRAIN_MS_MAX)
                }
                State::Established | State::CloseWait if unsent > 0 => {
                    // However long it was silent before, the guest has its time to answer.
                    let since = flow.owed.unwrap_or(flow.heard).max(flow.heard);
                    since.plus_millis(limits::TCP_UNANSWERED_MS_MAX)
                }
                State::Established | State::CloseWait | State::TimeWait | State::Closed => {
                    let silence = limits::TCP_IDLE_MS_MAX + limits::TCP_UNANSWERED_MS_MAX;
                    flow.heard.plus_millis(silence)
                }
            },
        };
        let is_open = matches!(flow.phase, Phase::Open);
        let look = flow.look_until().filter(|_| is_open).unwrap_or(until);
        Some(until.min(look))
    }

    /// Whether the guest has had its time to say whom the flow is for.
    pub(crate) fn is_done_looking(&mut self, now: Instant, slot: u32) -> bool {
        let flow = self.slot(slot);
        matches!(flow.look.held, Held::Unknown | Held::Dialled)
            && flow.look_until().is_some_and(|until| until <= now)
    }

    /// Whether the flow's patience has run out at `now`.
    pub(crate) fn is_overdue(&mut self, now: Instant, slot: u32) -> bool {
        self.patience(now, slot).is_some_and(|until| until <= now)
    }
}
