//! When an acknowledgement waits for the answer that can carry it (RFC 9293 3.8.6.3).
//!
//! At once is the rule: a guest with Nagle's algorithm holds back the rest of what it says until it
//! is acknowledged (RFC 1122 4.2.3.4). Where guest and outside have taken turns for a while, one
//! segment each, the next answer is expected soon, and a frame of its own for the acknowledgement
//! is saved. It waits for one segment, shorter than a full one, and for
//! [`limits::TCP_ACK_DELAY_MS`]; whoever was waited for in vain has to take turns anew.

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, State};

use super::{TcpSlot, limits};
use crate::contract::Instant;

/// What is known of the turns that guest and outside take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turns {
    /// So many segments of the guest were each answered before the next.
    in_row: u8,
    /// The outside has said something since the guest's last data.
    is_answered: bool,
    /// Until when the acknowledgement of the guest's last segment waits.
    ack_at: Option<Instant>,
}

impl Turns {
    pub(super) const NONE: Self = Self { in_row: 0, is_answered: false, ack_at: None };

    /// A segment of the guest came with `payload_len` bytes, where a full one has `segment_bytes`.
    pub(super) fn guest_spoke(&mut self, now: Instant, payload_len: usize, segment_bytes: u16) {
        if payload_len == 0 {
            return;
        }
        self.in_row = if self.is_answered { self.in_row.saturating_add(1) } else { 0 };
        self.is_answered = false;
        let is_short = payload_len < usize::from(segment_bytes);
        let waits = is_short && self.in_row >= limits::TCP_TURNS_MIN;
        self.ack_at = waits.then(|| now.plus_millis(limits::TCP_ACK_DELAY_MS));
    }

    /// There is data of the outside.
    pub(super) fn outside_spoke(&mut self) {
        self.is_answered = true;
    }

    /// Until when the acknowledgement waits, if it does.
    pub(super) fn ack_at(&self) -> Option<Instant> {
        self.ack_at
    }
}

impl TcpSlot<'_> {
    /// Whether there is nothing to be sent but an acknowledgement that waits.
    pub(super) fn awaits_answer(&mut self, now: Instant) -> bool {
        let (Some(at), Some(set)) = (self.turns.ack_at, &self.set) else { return false };
        let socket = set.get::<Socket<'_>>(SocketHandle::default());
        let has_more = socket.state() != State::Established || socket.send_queue() > 0;
        if !has_more && at > now {
            return true;
        }
        if !has_more {
            self.turns.in_row = 0;
        }
        self.turns.ack_at = None;
        false
    }
}
