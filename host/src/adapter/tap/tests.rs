//! The TAP adapter over one end of a socket pair that keeps frames apart.

use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use sluicegate_core::FrameRing;

use super::*;

/// A link whose device is one end of a socket pair that keeps frames apart, and the other end.
fn tap(mtu: u16) -> (Tap, OwnedFd) {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (device, guest) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    (Tap::from_device(device, mtu), guest)
}

fn ring(bytes: usize) -> (RingProducer, RingConsumer) {
    FrameRing::split(Arc::new(FrameRing::with_frame_max(vec![0; bytes].into(), 2000)))
}

fn frame(number: usize) -> Vec<u8> {
    (0..60 + number % 1000).map(|at| (at + number).to_le_bytes()[0]).collect()
}

/// The guest sends `frame`.
fn put(guest: &OwnedFd, frame: &[u8]) {
    let parts = [&[0; VNET_HEADER_BYTES], frame].map(IoSlice::new);
    rustix::io::writev(guest, &parts).unwrap();
}

/// The next frame that the guest got, and the header before it.
fn got(guest: &OwnedFd) -> Option<([u8; VNET_HEADER_BYTES], Vec<u8>)> {
    let mut bytes = vec![0; VNET_HEADER_BYTES + FRAME_BYTES_MAX];
    let len = rustix::io::read(guest, &mut bytes).ok()?;
    let (header, frame) = bytes[..len].split_first_chunk().unwrap();
    Some((*header, frame.to_vec()))
}

/// An unfinished TCP segment, `payload` bytes long, from port 80 to port 1000, and its record.
fn long_segment(payload: usize) -> (Vec<u8>, Offload) {
    let mut frame = vec![0; 54 + payload];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&u16::try_from(40 + payload).unwrap().to_be_bytes());
    (frame[22], frame[23]) = (64, 6);
    frame[26..34].copy_from_slice(&[100, 96, 0, 1, 100, 96, 0, 2]);
    frame[34..38].copy_from_slice(&[0, 80, 0x03, 0xe8]);
    (frame[46], frame[47]) = (0x50, 0x18);
    for (at, byte) in frame[54..].iter_mut().enumerate() {
        *byte = (at % 251).to_le_bytes()[0];
    }
    let checksum = sluicegate_core::TransportChecksum::Partial;
    (frame, Offload { segment_bytes: 1460, header_bytes: 54, checksum })
}

/// The sum of the 16-bit words of `bytes`; an intact checksum makes it 0xffff.
fn sum(bytes: &[u8], start: u32) -> u32 {
    let words = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)));
    let sum = words.fold(start, |sum, word| sum + word);
    (sum & 0xffff) + (sum >> 16)
}

#[test]
fn a_long_segment_goes_as_finished_frames_without_offload() {
    let (mut tap, guest) = tap(1500);
    let (mut producer, mut consumer) =
        FrameRing::split(Arc::new(FrameRing::new(vec![0; 1 << 18].into())));
    let (segment, offload) = long_segment(5000);
    assert!(producer.push(&segment, offload));
    assert!(!tap.send(&mut consumer).unwrap());
    let mut payload = vec![];
    for expected in [1460, 1460, 1460, 620] {
        let (header, frame) = got(&guest).unwrap();
        assert_eq!((header, frame.len()), ([0; 10], 54 + expected));
        assert_eq!(sum(&frame[14..34], 0), 0xffff, "the IP header's checksum");
        let pseudo = sum(&frame[26..34], 6 + 20 + u32::try_from(expected).unwrap());
        assert_eq!(sum(&frame[34..], pseudo), 0xffff, "the segment's checksum");
        let seq = u32::from_be_bytes(frame[38..42].try_into().unwrap());
        assert_eq!(seq as usize, payload.len());
        assert_eq!(frame[47] & 8 != 0, expected == 620, "PSH is the last one's");
        payload.extend_from_slice(&frame[54..]);
    }
    assert_eq!(payload, segment[54..]);
    assert!(got(&guest).is_none());
}

#[test]
fn a_long_segment_goes_as_it_is_with_offload() {
    let (mut tap, guest) = tap(1500);
    tap.offload = TapOffload::TcpAndUdp;
    let (mut producer, mut consumer) =
        FrameRing::split(Arc::new(FrameRing::new(vec![0; 1 << 18].into())));
    let (segment, offload) = long_segment(5000);
    assert!(producer.push(&segment, offload));
    assert!(!tap.send(&mut consumer).unwrap());
    let (header, frame) = got(&guest).unwrap();
    assert_eq!(vnet::read(&header).unwrap(), Offload { header_bytes: 0, ..offload });
    assert_eq!(frame, segment);
}

#[test]
fn a_frame_whose_header_says_what_was_never_offered_is_no_frame() {
    let (mut tap, guest) = tap(1500);
    let (mut producer, mut consumer) = ring(65_536);
    let mut strange = [0; VNET_HEADER_BYTES + 60];
    strange[1] = 3;
    rustix::io::write(&guest, &strange).unwrap();
    rustix::io::write(&guest, &strange[..5]).unwrap();
    put(&guest, &frame(1));
    tap.receive(&mut producer, FrameBudget::new(10, usize::MAX)).unwrap();
    assert_eq!(take(&mut consumer).unwrap(), frame(1));
    assert!(take(&mut consumer).is_none());
}

fn take(ring: &mut RingConsumer) -> Option<Vec<u8>> {
    let record = ring.read()?;
    let bytes = ring.bytes(&record).to_vec();
    ring.release();
    Some(bytes)
}

#[test]
fn frames_of_the_guest_come_whole_and_in_order_up_to_the_budget() {
    let (mut tap, guest) = tap(1500);
    let (mut producer, mut consumer) = ring(65_536);
    for number in 0..5 {
        put(&guest, &frame(number));
    }
    assert!(
        tap.receive(&mut producer, FrameBudget::new(3, usize::MAX)).unwrap(),
        "the budget is spent"
    );
    assert!(!tap.receive(&mut producer, FrameBudget::new(3, usize::MAX)).unwrap(), "all are there");
    for number in 0..5 {
        assert_eq!(take(&mut consumer), Some(frame(number)));
    }
    assert_eq!(take(&mut consumer), None);
}

#[test]
fn a_full_ring_leaves_frames_where_they_are() {
    let (mut tap, guest) = tap(1500);
    let (mut producer, mut consumer) = ring(4096);
    for number in 0..20 {
        put(&guest, &frame(number));
    }
    let mut seen = 0;
    loop {
        let more = tap.receive(&mut producer, FrameBudget::new(100, usize::MAX)).unwrap();
        while let Some(bytes) = take(&mut consumer) {
            assert_eq!(bytes, frame(seen));
            seen += 1;
        }
        if !more {
            break;
        }
    }
    assert_eq!(seen, 20);
}

#[test]
fn a_frame_beyond_the_mtu_shows_itself() {
    let (mut tap, guest) = tap(1500);
    let (mut producer, mut consumer) = ring(65_536);
    put(&guest, &[7; 1514]);
    put(&guest, &[7; 1800]);
    tap.receive(&mut producer, FrameBudget::new(10, usize::MAX)).unwrap();
    assert_eq!(take(&mut consumer).unwrap().len(), 1514);
    assert_eq!(take(&mut consumer).unwrap().len(), 1515, "one more than the link allows");
}

#[test]
fn a_link_that_takes_no_more_gets_the_rest_later_in_order() {
    let (mut tap, guest) = tap(1500);
    let (mut producer, mut consumer) = ring(65_536);
    let (mut sent, mut seen, mut refusals) = (0, 0, 0);
    while seen < 2000 {
        while sent < 2000 && producer.push(&frame(sent), Offload::NONE) {
            sent += 1;
        }
        refusals += usize::from(tap.send(&mut consumer).unwrap());
        while let Some((_, bytes)) = got(&guest) {
            assert_eq!(bytes, frame(seen), "frame {seen}");
            seen += 1;
        }
    }
    assert!(refusals > 0, "the pair never filled up, so this tested nothing");
    assert!(consumer.is_empty());
    assert_eq!(tap.lost_frames(), LostFrames::default());
}

#[test]
fn a_frame_that_the_kernel_refuses_is_dropped_and_counted() {
    let (mut tap, guest) = tap(1500);
    // The kernel doubles it; a longer message never fits: EMSGSIZE.
    rustix::net::sockopt::set_socket_send_buffer_size(&tap.device, 4608).unwrap();
    let ring = FrameRing::with_frame_max(vec![0; 65_536].into(), 20_000);
    let (mut producer, mut consumer) = FrameRing::split(Arc::new(ring));
    assert!(producer.push(&[1; 20_000], Offload::NONE));
    assert!(producer.push(&frame(1), Offload::NONE));
    assert!(!tap.send(&mut consumer).unwrap());
    let (_, first) = got(&guest).unwrap();
    assert_eq!(first, frame(1), "the next frame is not held up");
    assert_eq!(tap.lost_frames().link_full, 1);
}

#[test]
fn a_frame_of_which_nonsense_is_said_is_dropped_and_counted_and_takes_of_the_budget() {
    let (mut tap, guest) = tap(1500);
    let mut nonsense = [0; VNET_HEADER_BYTES];
    nonsense[1] = 3; // UDP fragmentation, which was never offered
    for _ in 0..3 {
        rustix::io::writev(&guest, &[IoSlice::new(&nonsense), IoSlice::new(&frame(1))]).unwrap();
    }
    rustix::io::write(&guest, &[0; VNET_HEADER_BYTES - 1]).unwrap();
    put(&guest, &frame(2));
    let (mut producer, mut consumer) = ring(65_536);
    assert!(tap.receive(&mut producer, FrameBudget::new(3, usize::MAX)).unwrap(), "more waits");
    assert!(consumer.read().is_none());
    assert!(!tap.receive(&mut producer, FrameBudget::new(3, usize::MAX)).unwrap());
    let record = consumer.read().unwrap();
    assert_eq!(consumer.bytes(&record), frame(2));
    assert_eq!(tap.lost_frames(), LostFrames { short: 4, ..LostFrames::default() });
}

#[test]
fn a_link_that_is_gone_is_an_error() {
    let (mut tap, guest) = tap(1500);
    drop(guest);
    let (mut producer, mut consumer) = ring(65_536);
    assert!(producer.push(&frame(1), Offload::NONE));
    assert!(tap.send(&mut consumer).is_err());
}

#[test]
fn names_that_the_kernel_would_refuse_or_expand_are_refused() {
    for name in ["", ".", "..", "eth%d", "a/b", "a:b", "a b", "ü", "sixteen-letters-"] {
        assert!(check_name(name).is_err(), "{name:?}");
    }
    for name in ["eth0", "e", "fifteen-letters"] {
        assert!(check_name(name).is_ok(), "{name:?}");
    }
}
