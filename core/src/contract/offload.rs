//! What travels beside a frame in a ring: the meaning of `virtio_net_hdr` (virtio 1.2, 5.1.6).

/// How far a frame is finished: its segmentation and the state of its transport checksum.
///
/// A front end whose guest takes unfinished frames passes the record on as the guest's card would
/// say it; for other guests it finishes them ([`Cut`](crate::Cut)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Offload {
    /// Payload bytes of each TCP segment or UDP datagram that the frame is to be cut into; 0: it is
    /// one.
    pub segment_bytes: u16,
    /// Bytes of Ethernet, IP and transport header, which each piece repeats; 0 where the frame is
    /// finished, or comes from the guest: nothing that the guest says of it is used.
    pub header_bytes: u16,
    /// What the transport checksum field holds.
    pub checksum: TransportChecksum,
}

/// The state of a frame's TCP or UDP checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum TransportChecksum {
    /// It is in the frame, to be verified by whoever reads it.
    #[default]
    Complete,
    /// The sender vouches for the bytes; the field may hold anything.
    Vouched,
    /// The field holds the pseudo-header's sum only; the reader completes it.
    Partial,
}

impl Offload {
    /// A plain frame: one segment, checksums in place.
    pub const NONE: Self =
        Self { segment_bytes: 0, header_bytes: 0, checksum: TransportChecksum::Complete };

    /// How many frames of a guest without offloads a frame of `len` bytes is; 1 where it is not
    /// known how long its headers are.
    #[must_use]
    pub fn frames(&self, len: usize) -> usize {
        let payload = len.saturating_sub(usize::from(self.header_bytes));
        match (self.header_bytes, usize::from(self.segment_bytes)) {
            (0, _) | (_, 0) => 1,
            (_, bytes) => payload.div_ceil(bytes).max(1),
        }
    }
}
