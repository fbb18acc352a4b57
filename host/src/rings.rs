//! The two rings between a front end and an engine, on the host's heap.

use std::sync::Arc;

use sluicegate_core::{Consumer, FrameRing, Producer, limits};

/// A ring of frames on the heap.
pub type HeapRing = FrameRing<Box<[u8]>>;
/// The writing end of such a ring.
pub type RingProducer = Producer<Arc<HeapRing>>;
/// The reading end of such a ring.
pub type RingConsumer = Consumer<Arc<HeapRing>>;

/// Both rings of a network.
pub(crate) struct Rings {
    pub(crate) from_guest: Arc<HeapRing>,
    pub(crate) to_guest: Arc<HeapRing>,
}

impl Rings {
    pub(crate) fn new() -> Self {
        // Zeroed memory from the allocator is not touched until frames are.
        let ring = || Arc::new(FrameRing::new(vec![0; limits::RING_BYTES_DEFAULT].into()));
        Self { from_guest: ring(), to_guest: ring() }
    }
}
