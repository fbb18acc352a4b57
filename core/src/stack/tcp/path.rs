//! What the guest says of segments that did not arrive: which of its ICMP errors are believed, and
//! what a path behind the guest takes.
//!
//! An error is believed about what is on its way and nothing else (RFC 5927 4.1): a segment that
//! was sent, and that the guest has not acknowledged. Path MTUs: RFC 1191, RFC 8201. Not done: a
//! path that takes more again is not looked for (RFC 1191 6.3); the connection keeps what it has.

use core::net::SocketAddr;

use super::Tcp;
use super::syn::MSS_MIN;
use crate::contract::Instant;
use crate::stack::device::Emitter;
use crate::store::ring::RingHandle;

impl<'a> Tcp<'a> {
    /// Whether a segment that begins with `seq` was sent on the flow in `slot`, and the guest has
    /// not acknowledged all of it.
    pub(crate) fn is_on_its_way(&self, slot: u32, seq: u32) -> bool {
        let Some(flow) = self.slots.used(slot) else { return false };
        let Some(end) = flow.sent else { return false };
        // Before the guest has acknowledged anything, our SYN is all that there is.
        let oldest = flow.acked.map_or(end.wrapping_sub(1), |(acked, _)| acked);
        seq.wrapping_sub(oldest) < end.wrapping_sub(oldest)
    }

    /// Lets no packet of the flow be longer than `mtu`, and sends what was too long again (RFC
    /// 1191 6.4, RFC 8201 5.4). False: none is, and nothing follows. `ends` are the guest's and the
    /// outside's.
    pub(crate) fn narrow<R: RingHandle>(
        &mut self,
        now: Instant,
        (slot, mtu): (u32, u32),
        ends: (SocketAddr, SocketAddr),
        out: &mut Emitter<'a, R>,
    ) -> bool {
        let headers = if ends.0.is_ipv4() { 40 } else { 60 };
        let bytes = u16::try_from(mtu.saturating_sub(headers)).unwrap_or(u16::MAX).max(MSS_MIN);
        let shape = &mut self.slot(slot).shape;
        if bytes >= shape.segment_bytes {
            return false;
        }
        shape.segment_bytes = bytes;
        self.repeat(now, slot, ends, out);
        true
    }
}
