//! One split virtqueue as a guest's driver drives it (virtio 1.2, 2.7), with event indices.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use msb_krun::backends::net::EventFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const DESCRIPTOR_NEXT: u16 = 1;
const DESCRIPTOR_WRITE: u16 = 2;
const DESCRIPTOR_BYTES: u64 = 16;
/// Bytes before the entries of the available and of the used ring.
const RING_HEADER_BYTES: u64 = 4;
const USED_BYTES: u64 = 8;

/// One descriptor of a chain: a stretch of the guest's memory, or of what it says is that.
#[derive(Debug, Clone, Copy)]
pub struct Buffer {
    /// The guest's physical address.
    pub address: u64,
    /// Its length in bytes.
    pub len: u32,
    /// Whether the device is to write it.
    pub is_writable: bool,
}

/// Where a queue is in the guest's memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
}

impl Place {
    pub(crate) const fn at(base: u64, size: u16) -> Self {
        let available = base + DESCRIPTOR_BYTES * size as u64;
        let available_bytes = RING_HEADER_BYTES + 2 * size as u64 + 2;
        Self {
            descriptors: base,
            available,
            used: (available + available_bytes).next_multiple_of(4096),
        }
    }
}

/// The guest's side of a queue.
pub struct Virtqueue {
    memory: GuestMemoryMmap,
    place: Place,
    size: u16,
    kick: Arc<EventFd>,
    /// Descriptors in no chain.
    free: Vec<u16>,
    /// The chains that the device has, by head.
    chains: Vec<Vec<u16>>,
    available: u16,
    /// Chains since the last kick.
    added: u16,
    used_seen: u16,
    used: u16,
    /// Times the device was told.
    pub kicks: u64,
}

impl Virtqueue {
    pub(crate) fn new(
        memory: GuestMemoryMmap,
        place: Place,
        size: u16,
        kick: Arc<EventFd>,
    ) -> Self {
        Self {
            memory,
            place,
            size,
            kick,
            free: (0..size).rev().collect(),
            chains: vec![Vec::new(); usize::from(size)],
            available: 0,
            added: 0,
            used_seen: 0,
            used: 0,
            kicks: 0,
        }
    }

    /// Tells another device of new chains from now on, which knows the queue as it is.
    pub(crate) fn rewire(&mut self, kick: Arc<EventFd>) {
        self.kick = kick;
    }

    /// Descriptors that are free.
    #[must_use]
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Chains that the device has.
    #[must_use]
    pub fn in_flight(&self) -> u16 {
        self.available.wrapping_sub(self.used_seen)
    }

    /// Chains that the device was not told of yet.
    #[must_use]
    pub fn untold(&self) -> u16 {
        self.added
    }

    /// The head of the next chain.
    pub(crate) fn next_head(&self) -> Option<u16> {
        self.free.last().copied()
    }

    /// Makes a chain available to the device; its head, or `None` without enough descriptors.
    pub fn post(&mut self, chain: &[Buffer]) -> Option<u16> {
        if chain.is_empty() || chain.len() > self.free.len() {
            return None;
        }
        let head = self.next_head()?;
        // The list of the head's last chain serves again: nothing is allocated for a frame.
        let mut indices = std::mem::take(&mut self.chains[usize::from(head)]);
        let first = self.free.len() - chain.len();
        indices.extend(self.free.drain(first..).rev());
        for (position, buffer) in chain.iter().enumerate() {
            self.write_descriptor(indices[position], buffer, indices.get(position + 1).copied());
        }
        self.chains[usize::from(head)] = indices;
        let entry = u64::from(self.available % self.size);
        let address = self.place.available + RING_HEADER_BYTES + 2 * entry;
        self.memory.store(head, GuestAddress(address), Ordering::Relaxed).expect("the ring");
        self.available = self.available.wrapping_add(1);
        self.added = self.added.wrapping_add(1);
        let index = GuestAddress(self.place.available + 2);
        self.memory.store(self.available, index, Ordering::Release).expect("the ring");
        Some(head)
    }

    fn write_descriptor(&self, index: u16, buffer: &Buffer, next: Option<u16>) {
        let next_flag = if next.is_some() { DESCRIPTOR_NEXT } else { 0 };
        let write_flag = if buffer.is_writable { DESCRIPTOR_WRITE } else { 0 };
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&buffer.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&buffer.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&(next_flag | write_flag).to_le_bytes());
        bytes[14..].copy_from_slice(&next.unwrap_or(0).to_le_bytes());
        let address = self.place.descriptors + DESCRIPTOR_BYTES * u64::from(index);
        self.memory.write_slice(&bytes, GuestAddress(address)).expect("the table");
    }

    /// Tells the device of new chains, if it wants to be told (2.7.10).
    pub fn kick(&mut self) {
        fence(Ordering::SeqCst);
        let address = self.place.used + RING_HEADER_BYTES + USED_BYTES * u64::from(self.size);
        let event: u16 =
            self.memory.load(GuestAddress(address), Ordering::Relaxed).expect("the ring");
        let old = self.available.wrapping_sub(self.added);
        self.added = 0;
        if self.available.wrapping_sub(event).wrapping_sub(1) < self.available.wrapping_sub(old) {
            self.kicks += 1;
            self.kick.write(1).expect("an eventfd takes it");
        }
    }

    /// Whether the device has returned a chain.
    pub fn has_used(&mut self) -> bool {
        if self.used == self.used_seen {
            let index = GuestAddress(self.place.used + 2);
            self.used = self.memory.load(index, Ordering::Acquire).expect("the ring");
        }
        self.used != self.used_seen
    }

    /// The next chain that the device has returned: its head, and the bytes written into it.
    pub fn take_used(&mut self) -> Option<(u16, u32)> {
        if !self.has_used() {
            return None;
        }
        let entry = u64::from(self.used_seen % self.size);
        let address = GuestAddress(self.place.used + RING_HEADER_BYTES + USED_BYTES * entry);
        let element: u64 = self.memory.read_obj(address).expect("the ring");
        self.used_seen = self.used_seen.wrapping_add(1);
        let head = u16::try_from(element & 0xffff_ffff).expect("a head is an index");
        let len = u32::try_from(element >> 32).expect("half of it");
        let chain = &mut self.chains[usize::from(head)];
        assert!(!chain.is_empty(), "the device returned a chain that it did not have");
        self.free.extend(chain.drain(..).rev());
        Some((head, len))
    }

    /// Asks for an interrupt once `chains` more have been returned than were seen. False: that is
    /// so already.
    pub fn enable_interrupt(&mut self, chains: u16) -> bool {
        let event = self.used_seen.wrapping_add(chains.saturating_sub(1));
        let address = self.place.available + RING_HEADER_BYTES + 2 * u64::from(self.size);
        self.memory.store(event, GuestAddress(address), Ordering::Relaxed).expect("the ring");
        fence(Ordering::SeqCst);
        let index = GuestAddress(self.place.used + 2);
        self.used = self.memory.load(index, Ordering::Acquire).expect("the ring");
        self.used.wrapping_sub(self.used_seen) < chains.max(1)
    }
}
