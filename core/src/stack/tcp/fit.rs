//! What of a segment smoltcp may see.
//!
//! smoltcp scales the window of its SYN-ACK as it does later ones, which it must not (RFC 7323
//! 2.2), and so takes bytes beyond its buffer until it has sent an acknowledgement; it takes bytes
//! beyond a FIN; it takes a FIN behind bytes of the same segment that it cuts off at its window's
//! edge; it overlooks a FIN whose bytes have all come before; and a reset with a text (RFC
//! 9293 3.10.7.4) it judges as if the text were data.

use smoltcp::iface::SocketHandle;

use super::{Acceptable, Phase, Segment, Socket, Tcp, TcpSlot};

/// A segment as smoltcp is to see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fit {
    pub(crate) seq: u32,
    /// Bytes of payload that remain, from its start.
    pub(crate) len: usize,
    pub(crate) fin: bool,
}

/// Bytes of the receive buffer that hold nothing.
pub(super) fn free(socket: &Socket<'_>) -> usize {
    socket.recv_capacity() - socket.recv_queue()
}

impl TcpSlot<'_> {
    /// The sequence number that the guest is to send next, where `free` bytes of the receive buffer
    /// are.
    #[allow(clippy::cast_possible_truncation, reason = "a buffer is at most 2^30")]
    pub(super) fn expected(&self, free: usize) -> u32 {
        let before_edge = if self.guest_finished { u32::MAX } else { free as u32 };
        self.edge.wrapping_sub(before_edge)
    }

    /// The sequence number behind the last byte that smoltcp takes now: it may have offered less
    /// than it has room for, be it by what the shift of a window's field leaves out.
    pub(super) fn limit(&self) -> u32 {
        let offered = self.shape.window.offered();
        if offered.wrapping_sub(self.edge).cast_signed() < 0 { offered } else { self.edge }
    }
}

impl Tcp<'_> {
    /// Which acknowledgements of the flow in `slot` are believed, until it sends, and how many
    /// bytes it takes from the sequence number of `segment` on; `None`: not that one, as it is not
    /// what the guest is to say next, or says nothing new.
    ///
    /// # Cost
    /// Constant.
    pub(crate) fn in_order(&mut self, slot: u32, segment: &Segment) -> Option<(Acceptable, usize)> {
        let flow = self.slots.used_mut(slot).filter(|flow| matches!(flow.phase, Phase::Open))?;
        let ack = segment.ack?;
        let newer = flow.acked.map_or(1, |(known, _)| ack.wrapping_sub(known).cast_signed());
        if newer < i32::from(segment.payload_len == 0) {
            return None;
        }
        let socket = flow.set.as_ref()?.get::<Socket<'_>>(SocketHandle::default());
        let acceptable = flow.acceptable();
        let is_next = segment.seq == flow.expected(free(socket)) && acceptable.contains(ack);
        let room = flow.limit().wrapping_sub(segment.seq).cast_signed();
        let room = usize::try_from(room).unwrap_or(0);
        (is_next && segment.payload_len <= room).then_some((acceptable, room))
    }

    /// What smoltcp may see of a segment; `None`: all of it.
    ///
    /// # Cost
    /// Constant.
    #[allow(clippy::cast_possible_truncation, reason = "payloads are below 2^16")]
    pub(crate) fn fit(&mut self, slot: u32, segment: &Segment) -> Option<Fit> {
        if segment.payload_len == 0 {
            return None;
        }
        let free = self.socket(slot).map(|socket| free(socket))?;
        let flow = self.slot(slot);
        if segment.rst {
            // It is believed by its number alone, also where there is no room for data.
            return Some(Fit { seq: segment.seq, len: 0, fin: false });
        }
        // Payloads are below 2^16, buffers at most 2^30: distances fit 31 bits.
        let end = segment.seq.wrapping_add(segment.payload_len as u32);
        let expected = flow.expected(free);
        let limit = flow.limit();
        if end.wrapping_sub(limit).cast_signed() <= 0 {
            let overlooked = segment.fin && !flow.guest_finished && end == expected;
            return overlooked.then_some(Fit { seq: end, len: 0, fin: true });
        }
        let room = limit.wrapping_sub(segment.seq).cast_signed();
        Some(match usize::try_from(room) {
            Ok(room @ 1..) => Fit { seq: segment.seq, len: room, fin: false },
            // Nothing is left. One old byte asks for the acknowledgement that a probe of a closed
            // window is due.
            Ok(0) | Err(_) => Fit { seq: expected.wrapping_sub(1), len: 1, fin: false },
        })
    }
}
