//! What smoltcp and the guest may have of each other's on one TCP flow.

use smoltcp::wire::TcpPacket;

use crate::stack::window::Window;
use crate::wire::segment::Headers;

/// What the guest takes of one TCP flow.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Shape {
    /// Payload bytes of a segment.
    pub(crate) segment_bytes: u16,
    /// The sequence number behind the last byte that the guest's window ever took, once it is
    /// known.
    pub(crate) reach: Option<u32>,
    /// What it is told of our window.
    pub(crate) window: Window,
    /// smoltcp has answered what it was given last.
    pub(crate) has_answered: bool,
}

impl Shape {
    /// Notes what smoltcp takes from now on, as it says in `packet`, which the guest does not get.
    #[cold]
    pub(super) fn note_offer(&mut self, headers: &Headers, packet: &[u8]) {
        let tcp = TcpPacket::new_unchecked(packet.get(headers.ip_len..).unwrap_or(&[]));
        if tcp.ack() {
            self.window.offer(tcp.ack_number().0.cast_unsigned(), tcp.window_len());
        }
    }

    /// How many of the `len` bytes from sequence number `seq` on are within reach: smoltcp repeats
    /// a lost segment with what follows up to its segment size, which is far beyond the guest's,
    /// window or not. A probe of one byte is meant to be beyond.
    pub(super) fn within(self, seq: u32, len: usize) -> usize {
        let Some(reach) = self.reach.filter(|_| len > 1) else { return len };
        usize::try_from(reach.wrapping_sub(seq).cast_signed()).unwrap_or(0).min(len)
    }
}
