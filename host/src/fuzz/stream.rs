//! Frames over a stream, cut anywhere: the same come, and a length that no frame has ends it.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sluicegate_core::limits::{ETHERNET_HEADER_BYTES, FRAME_BYTES_MAX};
use sluicegate_core::{FrameBudget, FrameRing, Offload, limits};

use super::pieces;
use crate::adapter::GuestLink;
use crate::adapter::stream::StreamLink;
use crate::rings::HeapRing;

/// Bytes of one piece: less than a socket holds, so that nobody waits.
const PIECE_BYTES_MAX: usize = 32 * 1024;
/// Bytes that are cut as a story says; those behind are cut coarsely, which is enough to fill a
/// link's buffers and go round in them.
const CUT_BYTES_MAX: usize = 8 * 1024;
/// Bytes of one story.
const STORY_BYTES_MAX: usize = 512 * 1024;

/// The frames in `bytes`, and whether a length ends them that none has.
fn parse(mut bytes: &[u8]) -> (Vec<&[u8]>, bool) {
    let mut frames = vec![];
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let len = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if !(ETHERNET_HEADER_BYTES..=FRAME_BYTES_MAX).contains(&len) {
            return (frames, true);
        }
        let Some((frame, rest)) = rest.split_at_checked(len) else { break };
        frames.push(frame);
        bytes = rest;
    }
    (frames, false)
}

/// The first byte says how the rest is cut, the second how often all of it is said; what comes of
/// it goes back.
///
/// # Panics
/// If other frames come than were sent, or go than were given.
pub fn stream(data: &[u8]) {
    let Some((&[cuts, times], bytes)) = data.split_first_chunk::<2>() else { return };
    let times = (STORY_BYTES_MAX / bytes.len().max(1)).clamp(1, 1 + 16 * usize::from(times));
    let bytes = bytes.repeat(times);
    let (expected, is_offence) = parse(&bytes);
    // A machine without descriptors says nothing of frames.
    let Ok((ours, mut theirs)) = UnixStream::pair() else { return };
    let Ok(mut link) = StreamLink::connected(ours) else { return };
    let ring =
        || FrameRing::split(Arc::new(HeapRing::new(vec![0; limits::RING_BYTES_DEFAULT].into())));
    let ((mut give, mut take), (mut give_back, mut take_back)) = (ring(), ring());
    let mut came: Vec<Vec<u8>> = vec![];
    let mut has_ended = false;
    let (fine, coarse) = bytes.split_at(bytes.len().min(CUT_BYTES_MAX));
    for piece in pieces(cuts, fine).chain(coarse.chunks(PIECE_BYTES_MAX)) {
        if theirs.write_all(piece).is_err() {
            break;
        }
        // So few at a time that there is often more.
        loop {
            let more =
                link.receive(&mut give, FrameBudget::new(1 + u32::from(cuts) % 8, usize::MAX));
            while let Some(record) = take.read() {
                came.push(take.bytes(&record).to_vec());
                take.release();
            }
            has_ended |= more.is_err();
            if !more.unwrap_or(false) {
                break;
            }
        }
    }
    assert!(came == expected, "{} frames of {} came", came.len(), expected.len());
    let offenders = link.counts().offenders.load(Ordering::Relaxed);
    assert_eq!((offenders, has_ended), (u64::from(is_offence), is_offence), "an offence ends it");
    if is_offence || theirs.set_nonblocking(true).is_err() {
        return;
    }
    let (mut back, mut expected_back) = (vec![], vec![]);
    for frame in expected {
        assert!(give_back.push(frame, Offload::NONE), "an empty ring has room");
        give_back.flush();
        expected_back.extend(u32::try_from(frame.len()).unwrap_or(0).to_be_bytes());
        expected_back.extend_from_slice(frame);
        let mut piece = [0; 4096];
        loop {
            let is_blocked = link.send(&mut take_back).unwrap_or(false);
            match theirs.read(&mut piece) {
                Ok(len) => back.extend_from_slice(piece.get(..len).unwrap_or(&[])),
                Err(error) if error.kind() == ErrorKind::WouldBlock && !is_blocked => break,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
    }
    assert!(back == expected_back, "frames go as they were given");
}
