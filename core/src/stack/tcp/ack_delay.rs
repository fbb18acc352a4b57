//! When an acknowledgement waits for the answer that can carry it (RFC 9293 3.8.6.3).
//!
//! At once is the rule: a guest with Nagle's algorithm holds back the rest of what it says until it
//! is acknowledged (RFC 1122 4.2.3.4). Where guest and outside have taken turns for a while, one
//! segment each, the next answer is expected soon, and a frame of its own for the acknowledgement
//! is saved. It waits for one segment, shorter than a full one, and for
//! [`limits::TCP_ACK_DELAY_MS`]; whoever was waited for in vain has to take turns anew.

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, State};

use super::{Tcp, TcpSlot, limits};
use crate::contract::Instant;
use crate::stack::turns::Turns;

/// Whose turn it was, and whether an acknowledgement waits for an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct AckDelay {
    turns: Turns,
    /// Until when the acknowledgement of the guest's last segment waits.
    ack_at: Option<Instant>,
}

impl AckDelay {
    pub(super) const NONE: Self = Self { turns: Turns::NONE, ack_at: None };

    /// A segment of the guest came with `payload_len` bytes, where a full one has `segment_bytes`.
    pub(super) fn guest_spoke(&mut self, now: Instant, payload_len: usize, segment_bytes: u16) {
        if payload_len == 0 {
            return;
        }
        self.turns.guest_spoke();
        let waits = payload_len < usize::from(segment_bytes) && self.turns.are_taken();
        self.ack_at = waits.then(|| now.plus_millis(limits::TCP_ACK_DELAY_MS));
    }

    /// There is data of the outside.
    pub(super) fn outside_spoke(&mut self) {
        self.turns.outside_spoke();
    }

    /// Until when the acknowledgement waits, if it does.
    pub(super) fn ack_at(&self) -> Option<Instant> {
        self.ack_at
    }
}

impl Tcp<'_> {
    /// Whether guest and outside take turns on the flow in `slot`.
    pub(crate) fn takes_turns(&self, slot: u32) -> bool {
        self.slots[slot].ack_delay.turns.are_taken()
    }
}

impl TcpSlot<'_> {
    /// Whether there is nothing to be sent but an acknowledgement that waits.
    pub(super) fn awaits_answer(&mut self, now: Instant) -> bool {
        let (Some(at), Some(set)) = (self.ack_delay.ack_at, &self.set) else { return false };
        let socket = set.get::<Socket<'_>>(SocketHandle::default());
        let has_more = socket.state() != State::Established || socket.send_queue() > 0;
        if !has_more && at > now {
            return true;
        }
        if !has_more {
            self.ack_delay.turns = Turns::NONE;
        }
        self.ack_delay.ack_at = None;
        false
    }
}
