//! What the guest's SYN says, kept until the host is connected.

use core::net::IpAddr;

use smoltcp::wire::TcpPacket;

use super::Segment;

/// Segment size of a guest that names none (RFC 9293 3.7.1).
const MSS_DEFAULT: [u16; 2] = [536, 1220];
/// The smallest segment size that is believed, as in Linux (`TCP_MIN_SND_MSS`).
pub(super) const MSS_MIN: u16 = 48;

/// What the guest's SYN said.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Syn {
    pub(super) seq: u32,
    pub(super) window: u16,
    pub(super) mss: u16,
    pub(super) scale: Option<u8>,
    pub(super) sack: bool,
}

impl Syn {
    /// Reads the options of the SYN at the start of `packet`.
    pub(crate) fn of(guest: IpAddr, segment: &Segment, packet: &[u8]) -> Self {
        let [v4, v6] = MSS_DEFAULT;
        let default = if guest.is_ipv4() { v4 } else { v6 };
        let options = TcpPacket::new_checked(packet).ok().and_then(|p| p.options_summary().ok());
        let mss = options.and_then(|o| o.max_segment_size).filter(|mss| *mss != 0);
        Self {
            seq: segment.seq,
            window: segment.window,
            mss: mss.unwrap_or(default).max(MSS_MIN),
            scale: options.and_then(|o| o.window_scale).map(|s| s.min(14)),
            sack: options.is_some_and(|o| o.sack_permitted),
        }
    }

    pub(crate) fn seq(&self) -> u32 {
        self.seq
    }
}

/// By how much smoltcp shifts the window of a buffer of `bytes` bytes.
#[allow(clippy::cast_possible_truncation, reason = "buffers are at most 2^30")]
pub(super) fn window_shift(bytes: usize) -> u8 {
    (usize::BITS - bytes.leading_zeros()).saturating_sub(16) as u8
}
