//! What of a segment may be a stranger's: one that names the ends of a connection, and guesses its
//! numbers (RFC 5961).
//!
//! A reset is believed at exactly the next sequence number (3.2), a SYN on an open connection never
//! (4.2), an acknowledgement only of what was sent, and of no more before that than a window (5.2).
//! What is doubted goes no further; unless it is a reset from outside the window, it is answered by
//! an ACK that says where the connection is. Whoever has the other end, and meant it, says it again
//! with the right numbers: a guest that has restarted answers with a reset that is exact.
//!
//! Challenges are limited for each flow by itself (7). A limit that flows share is a channel: it
//! tells whoever uses it up on a flow of their own whether somebody else's was challenged
//! (CVE-2016-5696). What all flows of a guest may cost together is bounded without one: a challenge
//! is never longer than the frame that asked for it, and there are two a second and flow.
//!
//! Not done: while the host connects there is nothing to challenge from, so a reset that is not
//! exact is dropped; while our SYN-ACK is on its way, a SYN in the window does not begin anew (RFC
//! 9293 3.10.7.4 lets it): it is challenged like any other.

use core::net::{IpAddr, SocketAddr};

use smoltcp::socket::tcp::State;
use smoltcp::wire::{TcpRepr, TcpSeqNumber};

use super::fit::free;
use super::{Phase, Segment, Syn, Tcp, TcpSlot};
use crate::contract::{Drop, Instant};
use crate::limits;
use crate::stack::device::Emitter;
use crate::store::ring::RingHandle;
use crate::wire::reply;

/// The acknowledgements that are believed: from SND.UNA - MAX.SND.WND to SND.NXT, both included
/// (RFC 5961 5.2).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Acceptable {
    start: u32,
    span: u32,
}

impl Acceptable {
    /// Any: before the handshake's end, smoltcp takes the one that is right.
    const ALL: Self = Self { start: 0, span: u32::MAX };

    /// Whether `ack` is one of them.
    pub(crate) fn contains(self, ack: u32) -> bool {
        ack.wrapping_sub(self.start) <= self.span
    }
}

impl TcpSlot<'_> {
    pub(super) fn acceptable(&self) -> Acceptable {
        let Some(((oldest, _), sent)) = self.acked.zip(self.sent) else { return Acceptable::ALL };
        let start = oldest.wrapping_sub(self.window_max);
        Acceptable { start, span: sent.wrapping_sub(start) }
    }
}

impl Syn {
    /// Whether a reset with sequence number `seq` is of the connection that this SYN opens.
    pub(crate) fn is_reset_by(&self, seq: u32) -> bool {
        seq == self.seq.wrapping_add(1)
    }
}

impl<'a> Tcp<'a> {
    /// Whether `segment` of the flow in `slot` may go on to smoltcp; `ends` are the guest's address
    /// and the outside's.
    ///
    /// # Errors
    /// It is doubted, and was challenged if that is due.
    ///
    /// # Cost
    /// Constant.
    #[inline]
    pub(crate) fn believe<R: RingHandle>(
        &mut self,
        now: Instant,
        (slot, segment): (u32, &Segment),
        ends: (IpAddr, IpAddr),
        out: &mut Emitter<'a, R>,
    ) -> Result<(), Drop> {
        let flow = self.slot(slot);
        let is_plain = !segment.rst && !segment.syn;
        if is_plain && segment.ack.is_none_or(|ack| flow.acceptable().contains(ack)) {
            if segment.fin && segment.payload_len == 0 {
                self.answer_early_end(now, (slot, segment), ends, out);
            }
            return Ok(());
        }
        self.doubt(now, (slot, segment), ends, out)
    }

    /// Acknowledges a FIN without bytes before which some are missing, as any segment that is out
    /// of order is (RFC 9293 3.10.7.4, SHLD-31): smoltcp sees nothing in it. Limited as challenges
    /// are.
    #[cold]
    #[inline(never)]
    fn answer_early_end<R: RingHandle>(
        &mut self,
        now: Instant,
        (slot, segment): (u32, &Segment),
        ends: (IpAddr, IpAddr),
        out: &mut Emitter<'a, R>,
    ) {
        let Some(free) = self.socket(slot).map(|socket| free(socket)) else { return };
        let expected = self.slot(slot).expected(free);
        // At the right edge and beyond it, smoltcp answers.
        if (1..free).contains(&(segment.seq.wrapping_sub(expected) as usize)) {
            self.challenge(now, (slot, expected), sockets(segment, ends), out);
        }
    }

    /// Judges a segment that is a reset or a SYN, or acknowledges what it should not. Apart, as few
    /// are.
    #[cold]
    #[inline(never)]
    fn doubt<R: RingHandle>(
        &mut self,
        now: Instant,
        (slot, segment): (u32, &Segment),
        ends: (IpAddr, IpAddr),
        out: &mut Emitter<'a, R>,
    ) -> Result<(), Drop> {
        let is_open = matches!(self.slot(slot).phase, Phase::Open | Phase::Lingering);
        let Some((state, free)) =
            self.socket(slot).filter(|_| is_open).map(|socket| (socket.state(), free(socket)))
        else {
            return Err(Drop::Redundant);
        };
        if matches!(state, State::Closed | State::Listen) {
            // It was reset just now, and its end is yet to be told.
            return Err(Drop::Redundant);
        }
        let expected = self.slot(slot).expected(free);
        if segment.rst {
            let ahead = segment.seq.wrapping_sub(expected) as usize;
            if ahead == 0 {
                return Ok(());
            }
            if ahead >= free {
                return Err(Drop::Doubtful);
            }
        }
        self.challenge(now, (slot, expected), sockets(segment, ends), out);
        Err(Drop::Doubtful)
    }

    /// Says where the connection is, if that was not said just now: smoltcp does so to whoever
    /// repeats a byte that was taken long ago, and changes nothing for it.
    #[cold]
    fn challenge<R: RingHandle>(
        &mut self,
        now: Instant,
        (slot, expected): (u32, u32),
        ends: (SocketAddr, SocketAddr),
        out: &mut Emitter<'a, R>,
    ) {
        let flow = self.slot(slot);
        let Some(ack) = flow.acked.map(|(ack, _)| ack).or(flow.sent) else { return };
        let again = flow.challenged.map(|at| at.plus_millis(limits::TCP_CHALLENGE_MS));
        if again.is_some_and(|again| now < again) {
            return;
        }
        flow.challenged = Some(now);
        let old = TcpRepr {
            seq_number: TcpSeqNumber(expected.wrapping_sub(1).cast_signed()),
            ack_number: Some(TcpSeqNumber(ack.cast_signed())),
            payload: &[0],
            ..reply::bare(ends.0.port(), ends.1.port())
        };
        self.feed_segment(now, slot, (ends, &old), out);
    }
}

/// The guest's end of a segment from the first of `ends` to the second, and the outside's.
fn sockets(segment: &Segment, ends: (IpAddr, IpAddr)) -> (SocketAddr, SocketAddr) {
    let (guest, outside) = ends;
    (SocketAddr::new(guest, segment.guest_port), SocketAddr::new(outside, segment.outside_port))
}
