//! What travels beside a frame in a ring: the meaning of `virtio_net_hdr` (virtio 1.2, 5.1.6).

/// How far a frame is finished: its segmentation and the state of its transport checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Offload {
    /// Payload bytes of each TCP segment that the frame is to be cut into; 0: one segment.
    pub segment_bytes: u16,
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
    pub const NONE: Self = Self { segment_bytes: 0, checksum: TransportChecksum::Complete };
}
