//! Frames over a stream, as its two ends cut them.

#![allow(clippy::cast_possible_truncation, reason = "bytes that only have to differ")]

use super::*;
use crate::rings::HeapRing;
use sluicegate_core::{FrameRing, limits};

fn ring() -> (RingProducer, RingConsumer) {
    FrameRing::split(Arc::new(HeapRing::new(vec![0; limits::RING_BYTES_DEFAULT].into())))
}

fn framed(frame: &[u8]) -> Vec<u8> {
    [&u32::try_from(frame.len()).unwrap().to_be_bytes()[..], frame].concat()
}

fn frames(ring: &mut RingConsumer) -> Vec<Vec<u8>> {
    let mut frames = vec![];
    while let Some(record) = ring.read() {
        frames.push(ring.bytes(&record).to_vec());
        ring.release();
    }
    frames
}

#[test]
fn frames_come_in_whatever_pieces_they_are_written() {
    let sent: Vec<Vec<u8>> =
        [14, 60, 1514, FRAME_BYTES_MAX, 15].iter().map(|len| vec![*len as u8; *len]).collect();
    let bytes: Vec<u8> = sent.iter().flat_map(|frame| framed(frame)).collect();
    for piece in [1, 3, 1000, 4096, usize::MAX] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut link = StreamLink::connected(ours).unwrap();
        let (mut producer, mut consumer) = ring();
        let mut seen = vec![];
        for chunk in bytes.chunks(piece.min(bytes.len())) {
            let mut rest = chunk;
            while !rest.is_empty() {
                let len = (&theirs).write(rest).unwrap().min(rest.len());
                rest = &rest[len..];
                while link.receive(&mut producer, FrameBudget::new(2, usize::MAX)).unwrap() {}
            }
        }
        seen.extend(frames(&mut consumer));
        assert_eq!(seen.len(), sent.len(), "{piece}");
        assert!(seen == sent, "{piece}");
    }
}

#[test]
fn a_length_that_no_frame_has_ends_its_peer() {
    for length in [0_u32, 13, 65_550, u32::MAX] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut link = StreamLink::connected(ours).unwrap();
        let (mut producer, mut consumer) = ring();
        (&theirs).write_all(&framed(&[1; 20])).unwrap();
        (&theirs).write_all(&length.to_be_bytes()).unwrap();
        let error = link.receive(&mut producer, FrameBudget::new(10, usize::MAX)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        assert_eq!(frames(&mut consumer), [vec![1; 20]], "what came before it counts");
        assert_eq!(link.counts().offenders.load(Ordering::Relaxed), 1);
        assert_eq!((&theirs).read(&mut [0; 8]).unwrap(), 0, "it is closed");
    }
}

#[test]
fn a_full_ring_leaves_frames_where_they_are() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut link = StreamLink::connected(ours).unwrap();
    let (mut producer, mut consumer) = ring();
    let writer = std::thread::spawn(move || {
        for number in 0..200_u8 {
            (&theirs).write_all(&framed(&[number; 30_000])).unwrap();
        }
        theirs
    });
    let mut seen = 0;
    while seen < 200 {
        link.receive(&mut producer, FrameBudget::new(1000, usize::MAX)).unwrap();
        for frame in frames(&mut consumer) {
            assert_eq!(frame, vec![u8::try_from(seen).unwrap(); 30_000]);
            seen += 1;
        }
    }
    drop(writer.join().unwrap());
}

#[test]
fn a_peer_that_reads_slowly_gets_every_frame_and_nothing_is_cut_short() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut link = StreamLink::connected(ours).unwrap();
    let (mut producer, mut consumer) = ring();
    let reader = std::thread::spawn(move || {
        for number in 0..300_u32 {
            let mut length = [0; 4];
            (&theirs).read_exact(&mut length).unwrap();
            let mut frame = vec![0; u32::from_be_bytes(length) as usize];
            (&theirs).read_exact(&mut frame).unwrap();
            let len = 14 + (number * 97 % 3000) as usize;
            assert!(frame == vec![number as u8; len], "frame {number}");
        }
    });
    let mut number = 0_u32;
    while number < 300 || link.send(&mut consumer).unwrap() {
        let frame = vec![number as u8; 14 + (number * 97 % 3000) as usize];
        if number < 300 && producer.push(&frame, Offload::NONE) {
            number += 1;
        }
        link.look().unwrap();
        link.send(&mut consumer).unwrap();
    }
    reader.join().unwrap();
}

#[test]
fn frames_for_nobody_are_dropped_and_counted() {
    let folder = std::env::temp_dir().join(format!("sluicegate-stream-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("socket");
    let mut link = StreamLink::listen(&path).unwrap();
    let (mut producer, mut consumer) = ring();
    assert!(producer.push(&[1; 60], Offload::NONE));
    assert!(!link.send(&mut consumer).unwrap());
    assert_eq!(link.counts().dropped.load(Ordering::Relaxed), 1);
    drop(link);
    assert!(!path.exists());
    std::fs::remove_dir(&folder).unwrap();
}
