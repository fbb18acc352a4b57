//! What works without an engine: a ring alone, and the cutting of its frames at the far end.

use core::net::SocketAddr;
use std::sync::Arc;

use sluicegate_core::{Cut, FrameRing, Offload, TransportChecksum};

use super::scenario::{BATCH, BULK_BYTES, Scenario, Work};
use crate::frame::{self, OUTSIDE_V4};
use crate::world::Ring;

/// A ring alone, both of whose ends are at hand.
pub(super) struct RingLoop {
    producer: sluicegate_core::Producer<Ring>,
    consumer: sluicegate_core::Consumer<Ring>,
    frame: Vec<u8>,
}

impl RingLoop {
    pub(super) fn new(len: usize) -> Self {
        let (producer, mut consumer) =
            FrameRing::split(Arc::new(FrameRing::new(vec![0; 512 * 1024])));
        consumer.awake();
        Self { producer, consumer, frame: vec![7; len] }
    }
}

impl Scenario for RingLoop {
    fn is_bulk(&self) -> bool {
        true
    }

    fn run(&mut self) -> Work {
        for _ in 0..BATCH {
            assert!(self.producer.push(&self.frame, Offload::NONE), "the ring is empty");
            self.producer.flush();
            let record = self.consumer.read().expect("because a frame was pushed");
            std::hint::black_box(self.consumer.bytes(&record));
            self.consumer.release();
        }
        Work::of(BATCH, self.frame.len())
    }
}

/// A front end cuts the longest frame into those that its guest takes.
pub(super) struct Cutting {
    frame: Vec<u8>,
    offload: Offload,
    out: Vec<u8>,
}

impl Cutting {
    pub(super) fn new(segment: usize) -> Self {
        let payload = vec![7; BULK_BYTES / segment * segment];
        let sent = frame::Segment { payload, ..frame::Segment::default() };
        let frame = frame::tcp(SocketAddr::new(OUTSIDE_V4, 80), &sent);
        let header = frame.len() - sent.payload.len();
        let checksum = TransportChecksum::Partial;
        let (segment_bytes, header_bytes) = (segment as u16, header as u16);
        let offload = Offload { segment_bytes, header_bytes, checksum };
        Self { frame, offload, out: vec![0; segment + header] }
    }
}

impl Scenario for Cutting {
    fn is_bulk(&self) -> bool {
        true
    }

    fn run(&mut self) -> Work {
        let mut cut = Cut::new(self.frame.len(), self.offload);
        let mut frames = 0;
        while cut.next_into(&self.frame, &mut self.out).is_some() {
            frames += 1;
        }
        assert_eq!(frames, self.offload.frames(self.frame.len()), "the whole frame was cut");
        Work::of(frames, usize::from(self.offload.segment_bytes))
    }
}
