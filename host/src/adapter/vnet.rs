//! `struct virtio_net_hdr`: how far a frame is finished, as Linux and virtio say it.
//!
//! Owns the ten bytes that precede each frame on a descriptor with `IFF_VNET_HDR`, in the machine's
//! byte order (virtio 1.2, 5.1.6, in its legacy form), and what they mean as an [`Offload`]. Must
//! not know where frames go.

use rustix::io::Errno;
use sluicegate_core::limits::ETHERNET_HEADER_BYTES;
use sluicegate_core::{Offload, TransportChecksum};

/// Bytes of the header.
pub(super) const VNET_HEADER_BYTES: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const CHECKSUM_IS_VALID: u8 = 2;

const NO_SEGMENTS: u8 = 0;
const TCP_V4: u8 = 1;
const TCP_V6: u8 = 4;
const UDP: u8 = 5;
/// Goes with one of the kinds above: the segments report congestion (RFC 3168 6.1.2).
const CONGESTION: u8 = 0x80;

const PROTOCOL_UDP: u8 = 17;
/// Where the checksum is in a TCP and in a UDP header.
const CHECKSUM_AT: [u8; 2] = [16, 6];

/// What `header` says of the frame behind it.
///
/// # Errors
/// It asks for something that was never offered: such a frame is not to be understood.
pub(super) fn read(header: &[u8; VNET_HEADER_BYTES]) -> Result<Offload, Errno> {
    let [flags, kind, _, _, size_0, size_1, ..] = *header;
    let segment_bytes = match kind & !CONGESTION {
        NO_SEGMENTS => 0,
        TCP_V4 | TCP_V6 | UDP => u16::from_ne_bytes([size_0, size_1]),
        _ => return Err(Errno::PROTO),
    };
    let checksum = if flags & NEEDS_CHECKSUM != 0 {
        TransportChecksum::Partial
    } else if flags & CHECKSUM_IS_VALID != 0 {
        TransportChecksum::Vouched
    } else {
        TransportChecksum::Complete
    };
    Ok(Offload { segment_bytes, header_bytes: 0, checksum })
}

/// The header for `frame`, which goes as it is and came out of a ring with `offload`.
pub(super) fn write(frame: &[u8], offload: Offload) -> [u8; VNET_HEADER_BYTES] {
    let mut header = [0; VNET_HEADER_BYTES];
    if offload.checksum != TransportChecksum::Partial {
        return header;
    }
    let is_v4 = frame.get(12) == Some(&0x08);
    let ip_len = if is_v4 { 20 } else { 40 };
    let is_udp = is_udp(frame);
    let [tcp_at, udp_at] = CHECKSUM_AT;
    header[0] = NEEDS_CHECKSUM;
    if offload.segment_bytes > 0 {
        header[1] = match (is_udp, is_v4) {
            (true, _) => UDP,
            (false, true) => TCP_V4,
            (false, false) => TCP_V6,
        };
        header[2..4].copy_from_slice(&offload.header_bytes.to_ne_bytes());
        header[4..6].copy_from_slice(&offload.segment_bytes.to_ne_bytes());
    }
    let start = u16::try_from(ETHERNET_HEADER_BYTES + ip_len).unwrap_or(0);
    header[6..8].copy_from_slice(&start.to_ne_bytes());
    header[8..10].copy_from_slice(&u16::from(if is_udp { udp_at } else { tcp_at }).to_ne_bytes());
    header
}

/// Whether `frame`, which is to be cut, holds UDP datagrams.
pub(super) fn is_udp(frame: &[u8]) -> bool {
    let protocol_at = if frame.get(12) == Some(&0x08) { 23 } else { 20 };
    frame.get(protocol_at) == Some(&PROTOCOL_UDP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_the_same() {
        let mut frame = [0u8; 1514];
        for (kind, protocol_at) in [([0x08, 0x00], 23), ([0x86, 0xdd], 20)] {
            frame[12..14].copy_from_slice(&kind);
            for protocol in [6, PROTOCOL_UDP] {
                frame[protocol_at] = protocol;
                for segment_bytes in [0, 1400] {
                    let checksum = TransportChecksum::Partial;
                    let offload = Offload { segment_bytes, header_bytes: 54, checksum };
                    let read = read(&write(&frame, offload)).unwrap();
                    assert_eq!(read, Offload { header_bytes: 0, ..offload });
                }
            }
        }
        assert_eq!(read(&write(&frame, Offload::NONE)), Ok(Offload::NONE));
    }

    #[test]
    fn a_kind_that_was_never_offered_is_refused() {
        let mut header = [0; VNET_HEADER_BYTES];
        header[1] = 3; // UDP fragmentation
        assert_eq!(read(&header), Err(Errno::PROTO));
    }
}
