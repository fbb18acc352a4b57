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
/// Room for frames that take more than a slot, each in pieces.
const LONG_SLOTS_START: u64 = 0x60_0000;
const LONG_SLOTS: u64 = 64;
const LONG_SLOT_BYTES: u64 = 0x2_0000;
const PIECE_BYTES: usize = 0x8000;
const LONG_PIECES: usize = 3;
/// The longest frame with its header: an IP packet of 65535 bytes.
const FRAME_SPACE: usize = HEADER_BYTES + 14 + 65_535;
/// Memory for chains that the test makes itself, up to the end of the guest's memory.
const SCRATCH: u64 = 0x100_0000;

/// The guest's transmit half.
pub struct Sender {
    memory: GuestMemoryMmap,
    /// Its queue, to post other chains than a driver would.
    pub queue: Virtqueue,
    /// Where frames are made, behind a header that stays empty.
    frame: Vec<u8>,
    /// Slots for long frames that are free.
    long_slots: Vec<u64>,
    /// The long slot of each chain that has one, by head.
    long_slot_of: Vec<Option<u64>>,
}

impl Sender {
    pub(crate) fn new(memory: GuestMemoryMmap, queue: Virtqueue) -> Self {
        let chains = queue.free();
        Self {
            memory,
            queue,
            frame: vec![0; FRAME_SPACE],
            long_slots: (0..LONG_SLOTS)
                .map(|slot| LONG_SLOTS_START + LONG_SLOT_BYTES * slot)
                .collect(),
            long_slot_of: vec![None; chains],
        }
    }

    /// Posts a frame behind an empty header; false: the queue is full.
    pub fn send(&mut self, frame: &[u8]) -> bool {
        self.send_with(frame.len(), |space| space.copy_from_slice(frame)).is_some()
    }

    /// Posts a frame of `len` bytes that `make` writes, over what an older frame left there;
    /// `None`, and nothing made: the queue is full.
    pub fn send_with<R>(&mut self, len: usize, make: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        let head = self.queue.next_head()?;
        let bytes = HEADER_BYTES + len;
        let is_long = bytes as u64 > SLOT_BYTES;
        if is_long && !self.has_room() {
            return None;
        }
        let result = make(&mut self.frame[HEADER_BYTES..bytes]);
        if is_long {
            self.post_long(head, bytes);
        } else {
            let address = TRANSMIT_SLOTS + SLOT_BYTES * u64::from(head);
            self.memory.write_slice(&self.frame[..bytes], GuestAddress(address)).expect("memory");
            let len = u32::try_from(bytes).expect("a slot");
            let buffer = Buffer { address, len, is_writable: false };
            self.queue.post(&[buffer]).expect("there is a free descriptor");
        }
        Some(result)
    }

    /// Posts the `bytes` that were made in pieces, as a stack does whose buffers are not in one.
    fn post_long(&mut self, head: u16, bytes: usize) {
        let slot = self.long_slots.pop().expect("there is room");
        self.long_slot_of[usize::from(head)] = Some(slot);
        let frame = &self.frame[..bytes];
        self.memory.write_slice(frame, GuestAddress(slot)).expect("memory");
        let mut pieces = [Buffer { address: slot, len: 0, is_writable: false }; LONG_PIECES];
        let mut count = 0;
        for (piece, bytes) in pieces.iter_mut().zip(frame.chunks(PIECE_BYTES)) {
            piece.address = slot + (PIECE_BYTES * count) as u64;
            piece.len = u32::try_from(bytes.len()).expect("a piece");
            count += 1;
        }
        self.queue.post(&pieces[..count]).expect("there is room");
    }

    /// Whether a frame of any length can be sent.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.queue.free() >= LONG_PIECES && !self.long_slots.is_empty()
    }

    /// Puts `bytes` at `offset` into the scratch memory; where that is.
    pub fn scratch(&mut self, offset: u64, bytes: &[u8]) -> u64 {
        self.memory.write_slice(bytes, GuestAddress(SCRATCH + offset)).expect("memory");
        SCRATCH + offset
    }

    /// Takes back the frames that the device has read; how many.
    pub fn reclaim(&mut self) -> usize {
        let mut count = 0;
        while let Some((head, _)) = self.queue.take_used() {
            self.long_slots.extend(self.long_slot_of[usize::from(head)].take());
            count += 1;
        }
        count
    }
}

/// The guest's receive half.
pub struct Receiver {
    memory: GuestMemoryMmap,
    pub(crate) queue: Virtqueue,
    frame: Vec<u8>,
    /// Takes a header that counts no buffers, as Linux does without mergeable buffers.
    pub is_lenient: bool,
}

impl Receiver {
    pub(crate) fn new(memory: GuestMemoryMmap, queue: Virtqueue) -> Self {
        Self { memory, queue, frame: vec![0; RECEIVE_BYTES as usize], is_lenient: false }
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
        let space = &mut self.frame[..len];
        let address = GuestAddress(RECEIVE_SLOTS + SLOT_BYTES * u64::from(head));
        self.memory.read_slice(space, address).expect("memory");
        let (header, frame) = space.split_at(HEADER_BYTES);
        let says_nothing = self.is_lenient && header == [0; HEADER_BYTES];
        assert!(
            says_nothing || header == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0],
            "the virtio header is {header:?}"
        );
        Some(frame)
    }
}
