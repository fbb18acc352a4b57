//! What the guest is told of our window: how much more of a flow it may send.
//!
//! That is what the receive buffer has room for, or less, where the guest should not have so much
//! on its way. The right edge of what it was told of never goes back (RFC 9293 3.8.6, SHLD-14),
//! other than by what the shift of a window's field leaves out.

use smoltcp::wire::TcpPacket;

use crate::wire::segment::Headers;

/// The window of one flow, as the guest knows it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Window {
    /// By how much its fields are shifted (RFC 7323 2.2).
    shift: u8,
    /// The sequence number behind all that the guest was told it may send. The window of a SYN is
    /// not scaled, and never larger than what a flow may have in any case.
    edge: Option<u32>,
}

impl Window {
    pub(crate) const NONE: Self = Self::new(0);

    pub(crate) const fn new(shift: u8) -> Self {
        Self { shift, edge: None }
    }

    /// The field of a segment that acknowledges up to `ack`, where `free` bytes of the buffer are
    /// and the guest is to have no more than `bytes_max` on their way.
    pub(crate) fn field(&mut self, ack: u32, free: usize, bytes_max: u32) -> u16 {
        self.narrow(ack, u16::try_from(free >> self.shift).unwrap_or(u16::MAX), bytes_max)
    }

    /// Mends the field of the TCP segment in `packet`, with headers `headers`, that says all that
    /// the buffer has room for.
    #[inline]
    pub(crate) fn tell(&mut self, headers: &Headers, packet: &mut [u8], bytes_max: u32) {
        let mut tcp = TcpPacket::new_unchecked(headers.transport_mut(packet));
        if tcp.syn() || !tcp.ack() {
            return;
        }
        let field = tcp.window_len();
        let narrowed = self.narrow(tcp.ack_number().0.cast_unsigned(), field, bytes_max);
        if narrowed != field {
            tcp.set_window_len(narrowed);
        }
    }

    fn narrow(&mut self, ack: u32, field: u16, bytes_max: u32) -> u16 {
        let told = self.edge.map_or(0, |edge| edge.wrapping_sub(ack).cast_signed());
        let bytes = u32::try_from(told).unwrap_or(0).max(bytes_max);
        let most = u16::try_from(bytes.div_ceil(1 << self.shift)).unwrap_or(u16::MAX);
        let field = field.min(most);
        self.edge = Some(ack.wrapping_add(u32::from(field) << self.shift));
        field
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_narrows_as_bytes_come_and_widens_at_once() {
        let mut window = Window::new(4);
        assert_eq!(window.field(1000, 512 * 1024, u32::MAX), 512 * 64);
        // The edge stays where it is until as much has come as is less allowed.
        assert_eq!(window.field(1000, 512 * 1024, 64 * 1024), 512 * 64);
        let ack = 1000 + 448 * 1024 - 16;
        assert_eq!(window.field(ack, 512 * 1024, 64 * 1024), 64 * 64 + 1);
        assert_eq!(window.field(ack + 5, 512 * 1024, 64 * 1024), 64 * 64 + 1, "never back");
        assert_eq!(window.field(ack + 500, 512 * 1024, 64 * 1024), 64 * 64);
        assert_eq!(window.field(ack + 500, 512 * 1024, u32::MAX), 512 * 64);
    }

    #[test]
    fn a_window_is_never_wider_than_the_buffers_room() {
        let mut window = Window::new(0);
        assert_eq!(window.field(u32::MAX - 10, 70_000, u32::MAX), u16::MAX);
        assert_eq!(window.field(u32::MAX - 10, 100, 64 * 1024), 100);
        assert_eq!(window.field(20, 0, 64 * 1024), 0);
    }
}
