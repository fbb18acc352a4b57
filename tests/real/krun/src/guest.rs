//! The two directions of a guest's network driver.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::queue::{Buffer, Virtqueue};

/// Bytes of a virtio-net header.
pub(crate) const HEADER_BYTES: usize = 12;
/// What Linux posts for reception without mergeable buffers: the header and 1518 bytes.
const RECEIVE_BYTES: u32 = 1530;
/// Linux refills when more buffers than this are missing: half of a budget of 64.
const REFILL_AT: usize = 32;
const SLOT_BYTES: u64 = 2048;
const RECEIVE_SLOTS: u64 = 0x10_0000;
const TRANSMIT_SLOTS: u64 = 0x40_0000;
/// Memory for chains that the test makes itself, up to the end of the guest's memory.
const SCRATCH: u64 = 0x100_0000;

/// The guest's transmit half.
pub struct Sender {
    memory: GuestMemoryMmap,
    /// Its queue, to post other chains than a driver would.
    pub queue: Virtqueue,
}

impl Sender {
    pub(crate) fn new(memory: GuestMemoryMmap, queue: Virtqueue) -> Self {
        Self { memory, queue }
    }

    /// Posts a frame of up to 2036 bytes behind an empty header; false: the queue is full.
    pub fn send(&mut self, frame: &[u8]) -> bool {
        let Some(head) = self.queue.next_head() else {
            return false;
        };
        let address = TRANSMIT_SLOTS + SLOT_BYTES * u64::from(head);
        let len = u32::try_from(HEADER_BYTES + frame.len()).expect("a frame");
        assert!(u64::from(len) <= SLOT_BYTES, "one slot");
        let space = GuestAddress(address + HEADER_BYTES as u64);
        self.memory.write_slice(&[0; HEADER_BYTES], GuestAddress(address)).expect("memory");
        self.memory.write_slice(frame, space).expect("memory");
        self.queue.post(&[Buffer { address, len, is_writable: false }]).is_some()
    }

    /// Puts `bytes` at `offset` into the scratch memory; where that is.
    pub fn scratch(&mut self, offset: u64, bytes: &[u8]) -> u64 {
        self.memory.write_slice(bytes, GuestAddress(SCRATCH + offset)).expect("memory");
        SCRATCH + offset
    }

    /// Takes back the frames that the device has read; how many.
    pub fn reclaim(&mut self) -> usize {
        std::iter::from_fn(|| self.queue.take_used()).count()
    }
}

/// The guest's receive half.
pub struct Receiver {
    memory: GuestMemoryMmap,
    queue: Virtqueue,
    frame: Vec<u8>,
}

impl Receiver {
    pub(crate) fn new(memory: GuestMemoryMmap, queue: Virtqueue) -> Self {
        Self { memory, queue, frame: Vec::with_capacity(RECEIVE_BYTES as usize) }
    }

    /// Posts up to `buffers` buffers, without telling the device.
    pub fn post(&mut self, buffers: usize) {
        for _ in 0..buffers {
            let Some(head) = self.queue.next_head() else {
                return;
            };
            let address = RECEIVE_SLOTS + SLOT_BYTES * u64::from(head);
            let buffer = Buffer { address, len: RECEIVE_BYTES, is_writable: true };
            self.queue.post(&[buffer]).expect("there is a free descriptor");
        }
    }

    /// Tells the device of new buffers if it wants to know.
    pub fn kick(&mut self) {
        self.queue.kick();
    }

    /// Refills as Linux does after a round of reception: all, if many are missing.
    pub fn refill(&mut self) {
        if self.queue.free() > REFILL_AT {
            self.post(self.queue.free());
            self.queue.kick();
        }
    }

    /// Whether there is a frame.
    pub fn is_ready(&mut self) -> bool {
        self.queue.has_used()
    }

    /// The next frame, if there is one.
    ///
    /// # Panics
    /// When the device returns a buffer without one, or a header that promises what was not
    /// negotiated: one buffer, nothing else, is what it has to say.
    pub fn receive(&mut self) -> Option<&[u8]> {
        let (head, len) = self.queue.take_used()?;
        let len = len as usize;
        assert!(len >= HEADER_BYTES, "a buffer came back with {len} bytes");
        self.frame.resize(len, 0);
        let address = GuestAddress(RECEIVE_SLOTS + SLOT_BYTES * u64::from(head));
        self.memory.read_slice(&mut self.frame, address).expect("memory");
        let (header, frame) = self.frame.split_at(HEADER_BYTES);
        assert_eq!(header, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], "the virtio header");
        Some(frame)
    }
}
