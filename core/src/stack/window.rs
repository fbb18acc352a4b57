//! What the guest is told of our window: how much more of a flow it may send.
//!
//! That is what the receive buffer has room for, or less, where the guest should not have so much
//! on its way. The right edge of what it was told of never goes back (RFC 9293 3.8.6, SHLD-14),
//! other than by what the shift of a window's field leaves out. Nor does it go on by less than is
//! worth a segment while the window is less than that: whoever offers crumbs is sent crumbs (the
//! silly window syndrome, RFC 9293 3.8.6.2.2, MUST-39).

use smoltcp::wire::TcpPacket;

use crate::wire::segment::Headers;

/// The window of one flow, as the guest knows it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Window {
    /// By how much its fields are shifted (RFC 7323 2.2).
    shift: u8,
    /// A window is no less than this, unless it was more and is being filled.
    worth_bytes: u16,
    /// Something was told. The window of a SYN is not scaled, and never larger than what a flow may
    /// have in any case.
    is_told: bool,
    /// The field that was told last.
    field: u16,
    /// The sequence number behind all that the guest was told it may send.
    edge: u32,
    /// The sequence number behind all that smoltcp takes: what its last packet had room for,
    /// whatever of that the guest was told.
    offered: u32,
}

impl Window {
    pub(crate) const NONE: Self =
        Self { shift: 0, worth_bytes: 0, is_told: false, field: 0, edge: 0, offered: 0 };

    /// The window of a buffer of `buffer_bytes` bytes, in fields shifted by `shift`, for a guest
    /// whose segments have up to `segment_bytes`.
    pub(crate) fn new(shift: u8, buffer_bytes: usize, segment_bytes: u16) -> Self {
        let half = u16::try_from(buffer_bytes / 2).unwrap_or(u16::MAX);
        Self { shift, worth_bytes: segment_bytes.min(half), ..Self::NONE }
    }

    /// smoltcp says that it takes what `field` has room for behind `ack`.
    #[inline]
    pub(crate) fn offer(&mut self, ack: u32, field: u16) {
        self.offered = ack.wrapping_add(u32::from(field) << self.shift);
    }

    /// The sequence number behind all that smoltcp takes.
    pub(crate) fn offered(&self) -> u32 {
        self.offered
    }

    /// The field of a segment that acknowledges up to `ack`, where `free` bytes of the buffer are
    /// and the guest is to have no more than `bytes_max` on their way.
    pub(crate) fn field(&mut self, ack: u32, free: usize, bytes_max: u32) -> u16 {
        self.narrow(ack, u16::try_from(free >> self.shift).unwrap_or(u16::MAX), bytes_max).0
    }

    /// Mends the field of the TCP segment in `packet`, with headers `headers`, that says all that
    /// the buffer has room for. False: as it is mended, it tells the guest what it was told before.
    #[inline]
    pub(crate) fn tell(&mut self, headers: &Headers, packet: &mut [u8], bytes_max: u32) -> bool {
        let mut tcp = TcpPacket::new_unchecked(headers.transport_mut(packet));
        if !tcp.ack() {
            return true;
        }
        let (ack, field) = (tcp.ack_number().0.cast_unsigned(), tcp.window_len());
        self.offer(ack, field);
        if tcp.syn() {
            return true;
        }
        let (narrowed, is_news) = self.narrow(ack, field, bytes_max);
        if narrowed != field {
            tcp.set_window_len(narrowed);
        }
        is_news
    }

    /// The field, and whether the guest was not told of it and of `ack` before.
    #[inline]
    fn narrow(&mut self, ack: u32, field: u16, bytes_max: u32) -> (u16, bool) {
        let told = if self.is_told { self.edge.wrapping_sub(ack).cast_signed().max(0) } else { 0 };
        let told = told.cast_unsigned();
        let most = told.max(bytes_max).div_ceil(1 << self.shift);
        let field = u16::try_from(most).unwrap_or(u16::MAX).min(field);
        if u32::from(field) << self.shift < u32::from(self.worth_bytes) {
            return self.withhold(ack, field, told);
        }
        self.note(ack, field);
        (field, true)
    }

    fn note(&mut self, ack: u32, field: u16) {
        (self.is_told, self.field) = (true, field);
        self.edge = ack.wrapping_add(u32::from(field) << self.shift);
    }

    /// The same, where `field` is not worth telling of: nothing beyond the `told` bytes is, which
    /// may be sent in any case. Apart, as windows are rarely so small.
    #[cold]
    fn withhold(&mut self, ack: u32, field: u16, told: u32) -> (u16, bool) {
        let is_crumb = self.is_told && u32::from(field) << self.shift > told;
        let known = u16::try_from(told.div_ceil(1 << self.shift)).unwrap_or(u16::MAX);
        let field = if is_crumb { field.min(known) } else { field };
        let acked = self.edge.wrapping_sub(u32::from(self.field) << self.shift);
        self.note(ack, field);
        (field, !is_crumb || acked != ack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_narrows_as_bytes_come_and_widens_at_once() {
        let mut window = Window::new(4, 512 * 1024, 1460);
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
    fn a_window_that_is_closed_opens_by_a_segment_or_not_at_all() {
        for (shift, buffer_bytes, worth) in [(0, 64 * 1024, 1460), (3, 2048, 1024)] {
            let mut window = Window::new(shift, buffer_bytes, 1460);
            let mut tell =
                |ack: u32, free: usize| u32::from(window.field(ack, free, u32::MAX)) << shift;
            assert_eq!(tell(1000, 2000), 2000);
            // It is filled but for some, and no more than was told may be sent.
            assert_eq!(tell(2904, 96), 96);
            assert_eq!(tell(2904, worth - 8), 96);
            assert_eq!(tell(3000, 0), 0);
            for free in (8..worth).step_by(8) {
                assert_eq!(tell(3000, free), 0, "{free}");
            }
            let enough = worth.next_multiple_of(8);
            assert_eq!(tell(3000, enough), u32::try_from(enough).unwrap_or(0));
        }
    }

    #[test]
    fn a_window_is_never_wider_than_the_buffers_room() {
        let mut window = Window::new(0, 64 * 1024, 0);
        assert_eq!(window.field(u32::MAX - 10, 70_000, u32::MAX), u16::MAX);
        assert_eq!(window.field(u32::MAX - 10, 100, 64 * 1024), 100);
        assert_eq!(window.field(20, 0, 64 * 1024), 0);
    }
}
