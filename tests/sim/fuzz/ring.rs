//! A ring between two ends that do anything in any order, against a queue.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use sluicegate_core::{Consumer, FrameRing, Offload, Producer, Record, TransportChecksum};

use super::Bytes;
use crate::world::Ring;

/// Bytes of a record's header, and what its length is rounded up to.
const HEADER_BYTES: usize = 16;

/// Counts how often it is woken.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Bell {
    fn rings(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Both ends of a ring, and what should be in it.
struct Ends {
    producer: Producer<Ring>,
    consumer: Consumer<Ring>,
    ring: Ring,
    capacity: usize,
    frame_max: usize,
    /// Committed, and not read yet.
    unread: VecDeque<(Vec<u8>, Offload)>,
    /// Read, and not released yet.
    held: Vec<(Record, Vec<u8>)>,
    reserved: Option<usize>,
    /// What the rings of the two bells should be.
    rings: (usize, usize),
    bells: (Arc<Bell>, Arc<Bell>),
    /// The consumer sleeps; something was committed since the last flush.
    sleeps: bool,
    is_unflushed: bool,
    /// The length that the producer waits for room for.
    waits_for: Option<usize>,
    /// Bytes and frames that were accepted.
    accepted: (u64, u64),
    stamp: u8,
}

impl Ends {
    fn new(size: u8) -> Self {
        let capacity = 64 << (size % 8);
        let frame_max = capacity / 2 - HEADER_BYTES - usize::from(size / 8) % HEADER_BYTES;
        let ring = Arc::new(FrameRing::with_frame_max(vec![0; capacity], frame_max));
        let (mut producer, mut consumer) = FrameRing::split(Arc::clone(&ring));
        let bells = (Arc::<Bell>::default(), Arc::<Bell>::default());
        consumer.register(&Waker::from(Arc::clone(&bells.0)));
        producer.register(&Waker::from(Arc::clone(&bells.1)));
        Self {
            producer,
            consumer,
            ring,
            capacity,
            frame_max,
            unread: VecDeque::new(),
            held: vec![],
            reserved: None,
            rings: (0, 0),
            bells,
            // It begins asleep.
            sleeps: true,
            is_unflushed: false,
            waits_for: None,
            accepted: (0, 0),
            stamp: 0,
        }
    }

    fn step(&mut self, story: &mut Bytes<'_>) -> Option<()> {
        match story.one()? {
            0..60 => {
                let len = story.number()? % (self.frame_max + 2);
                self.reserve(len);
            }
            60..120 => self.commit(story.one()?, story.one()?),
            120..170 => self.read(),
            170..195 => self.release(),
            195..205 => self.flush(),
            205..215 => {
                assert_eq!(self.consumer.sleep(), self.unread.is_empty(), "sleeps beside a frame");
                self.sleeps = self.unread.is_empty();
            }
            215..220 => {
                self.consumer.awake();
                self.sleeps = false;
            }
            220..240 => {
                let len = story.number()? % (self.frame_max + 1);
                self.wait(len);
            }
            240.. => self.change(story.one()?),
        }
        Some(())
    }

    fn reserve(&mut self, len: usize) {
        let room = self.producer.room();
        assert!(room <= self.frame_max);
        let space = self.producer.reserve(len);
        let is_empty = self.unread.is_empty() && self.held.is_empty();
        // No room at all may still be room for a frame of no bytes.
        assert!(space.is_some() == (len <= room) || len == 0, "{len} bytes where {room} fit");
        assert!(space.is_some() || len > self.frame_max || !is_empty, "an empty ring has room");
        self.reserved = space.is_some().then_some(len);
        if let Some(space) = space {
            assert_eq!(space.len(), len);
            self.stamp = self.stamp.wrapping_add(1);
            space.fill(self.stamp);
        }
    }

    fn commit(&mut self, less: u8, offload: u8) {
        let Some(reserved) = self.reserved.take() else { return };
        let len = reserved - usize::from(less) * reserved / 512;
        let header_bytes = u16::from(offload & 15).min(len as u16);
        let checksum = match offload & 48 {
            0 => TransportChecksum::Complete,
            16 => TransportChecksum::Vouched,
            _ => TransportChecksum::Partial,
        };
        let segment_bytes = u16::from(offload >> 6) * 7;
        let offload = Offload { segment_bytes, header_bytes, checksum };
        assert_eq!(self.producer.reserved(len), vec![self.stamp; len]);
        self.producer.commit(len, offload);
        let frames = match (header_bytes, segment_bytes) {
            (0, _) | (_, 0) => 1,
            (header, bytes) => (len - usize::from(header)).div_ceil(bytes.into()).max(1),
        };
        self.accepted.0 += (len + (frames - 1) * usize::from(header_bytes)) as u64;
        self.accepted.1 += frames as u64;
        self.unread.push_back((vec![self.stamp; len], offload));
        self.is_unflushed = true;
        // Its place has moved.
        self.waits_for = None;
        let in_it = self.unread.iter().map(|(frame, _)| frame.len());
        let in_it = in_it.chain(self.held.iter().map(|(_, frame)| frame.len()));
        let bytes: usize = in_it.map(|len| HEADER_BYTES + len.next_multiple_of(HEADER_BYTES)).sum();
        assert!(bytes <= self.capacity, "{bytes} bytes in a ring of {}", self.capacity);
    }

    fn read(&mut self) {
        let expected = self.unread.pop_front();
        let record = self.consumer.read();
        assert_eq!(record.map(|record| record.offload), expected.as_ref().map(|(_, o)| *o));
        if let Some((record, (frame, _))) = record.zip(expected) {
            assert_eq!(record.len(), frame.len());
            self.held.push((record, frame));
        }
    }

    fn release(&mut self) {
        self.consumer.release();
        self.held.clear();
        if let Some(len) = self.waits_for {
            if self.bells.1.rings() > self.rings.1 {
                self.rings.1 += 1;
                self.waits_for = None;
                assert!(self.producer.room() >= len, "woken for room that is not there");
            } else {
                assert!(
                    len == 0 || self.producer.room() < len,
                    "there is room, and nobody was woken"
                );
            }
        }
    }

    fn flush(&mut self) {
        self.producer.flush();
        if core::mem::take(&mut self.is_unflushed) && core::mem::take(&mut self.sleeps) {
            self.rings.0 += 1;
        }
    }

    fn wait(&mut self, len: usize) {
        let waits = self.producer.wait_for_room(len);
        if core::mem::take(&mut self.is_unflushed) && core::mem::take(&mut self.sleeps) {
            self.rings.0 += 1;
        }
        assert!(len == 0 || waits == (self.producer.room() < len), "waits for {len} bytes");
        self.waits_for = waits.then_some(len);
    }

    /// The consumer writes into what it holds.
    fn change(&mut self, byte: u8) {
        let at = usize::from(byte) % self.held.len().max(1);
        if let Some((record, frame)) = self.held.get_mut(at) {
            self.consumer.bytes_mut(record).fill(byte);
            frame.fill(byte);
        }
    }

    fn check(&mut self) {
        for (record, frame) in &self.held {
            assert!(self.consumer.bytes(record) == frame, "what is held has changed");
        }
        assert_eq!(self.consumer.is_empty(), self.unread.is_empty());
        assert_eq!(self.bells.0.rings(), self.rings.0, "the consumer is woken once, if asleep");
        if self.waits_for.is_none() {
            // A wait that was given up may be met late, once.
            self.rings.1 = self.bells.1.rings();
        }
        assert_eq!(self.bells.1.rings(), self.rings.1, "the producer is woken for room only");
        let accepted = (self.ring.bytes_accepted(), self.ring.frames_accepted());
        assert_eq!(accepted, self.accepted);
    }
}

/// Whatever two ends do: frames come out as they went in, in order, and nobody sleeps on them.
///
/// # Panics
/// If the ring and a queue differ.
pub fn ring(data: &[u8]) {
    let mut story = Bytes(data);
    let Some(size) = story.one() else { return };
    let mut ends = Ends::new(size);
    while ends.step(&mut story).is_some() {
        ends.check();
    }
    while !ends.unread.is_empty() {
        ends.read();
        ends.check();
    }
    ends.release();
}
