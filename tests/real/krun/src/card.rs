//! The guest's card as a TCP/IP stack sees it: smoltcp's device over both queues.
//!
//! Owns when the device is told of frames, and when those that it has read are taken back. Nothing
//! is allocated for a frame.

use std::time::Duration;

use smoltcp::phy::{self, ChecksumCapabilities, DeviceCapabilities, Medium};

use crate::device::Interrupt;
use crate::guest::{Receiver, Sender};

const ETHERNET_HEADER_BYTES: usize = 14;
/// Frames after which the device is told, so that it works while the stack makes more.
const UNTOLD_MAX: u16 = 32;
/// With fewer free descriptors than this, those of frames that were read are taken back. Until
/// then the device's index is left alone: each look at it costs the worker a cache miss.
const RECLAIM_AT: usize = 512;

/// Frames of one direction.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// How many.
    pub frames: u64,
    /// Their bytes, without virtio headers.
    pub bytes: u64,
    /// Bytes of the longest.
    pub longest: usize,
}

impl Tally {
    fn count(&mut self, len: usize) {
        self.frames += 1;
        self.bytes += len as u64;
        self.longest = self.longest.max(len);
    }
}

/// The guest's card.
pub struct Card {
    /// Its transmit half.
    pub sender: Sender,
    /// Its receive half.
    pub receiver: Receiver,
    /// What it sent.
    pub sent: Tally,
    /// What it received.
    pub received: Tally,
    interrupt: Interrupt,
    mtu: usize,
    checksums: ChecksumCapabilities,
}

impl Card {
    /// The card over a device's halves, for packets of up to `mtu` bytes; its receive queue is
    /// filled here.
    #[must_use]
    pub fn new((sender, mut receiver, interrupt): (Sender, Receiver, Interrupt), mtu: u16) -> Self {
        receiver.refill();
        Self {
            sender,
            receiver,
            sent: Tally::default(),
            received: Tally::default(),
            interrupt,
            mtu: mtu.into(),
            checksums: ChecksumCapabilities::default(),
        }
    }

    /// Leaves the checksums of received frames unread, which a stack in a benchmark may.
    pub fn trust(&mut self) {
        self.checksums.ipv4 = phy::Checksum::Tx;
        self.checksums.tcp = phy::Checksum::Tx;
        self.checksums.udp = phy::Checksum::Tx;
    }

    /// Tells the device of what was sent, and of buffers for what is to come.
    pub fn kick(&mut self) {
        self.sender.queue.kick();
        self.receiver.refill();
    }

    /// Tells the device of what was sent, if that is a good deal.
    pub fn kick_often(&mut self) {
        kick_often(&mut self.sender);
    }

    /// Waits for a frame as long as `longest`; without room, as no frame is received then either,
    /// for that.
    pub fn wait(&mut self, longest: Duration) {
        if !self.has_room() {
            self.wait_for_room(longest);
        } else if !self.receiver.is_ready() {
            self.interrupt.wait(longest);
        }
    }

    /// Waits for room to send as long as `longest`, or less.
    pub fn wait_for_room(&mut self, longest: Duration) {
        // As Linux does, which wants a good part of the queue back at once.
        let in_flight = self.sender.queue.in_flight();
        let is_asked = self.sender.queue.enable_interrupt(in_flight - in_flight / 4);
        if is_asked && !self.has_room() {
            self.interrupt.wait(longest);
        }
    }

    /// Whether a frame can be sent.
    pub fn has_room(&mut self) -> bool {
        if self.sender.queue.free() < RECLAIM_AT || !self.sender.has_room() {
            self.sender.reclaim();
        }
        self.sender.has_room()
    }
}

fn kick_often(sender: &mut Sender) {
    if sender.queue.untold() >= UNTOLD_MAX {
        sender.queue.kick();
    }
}

/// A frame that was received.
pub struct Received<'a>(&'a [u8]);

impl phy::RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Room for a frame.
pub struct Sending<'a> {
    sender: &'a mut Sender,
    sent: &'a mut Tally,
}

impl phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.sent.count(len);
        let result = self.sender.send_with(len, f).expect("there is room");
        kick_often(self.sender);
        result
    }
}

impl phy::Device for Card {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received<'_>, Sending<'_>)> {
        if !self.has_room() {
            return None;
        }
        let frame = self.receiver.receive()?;
        self.received.count(frame.len());
        Some((Received(frame), Sending { sender: &mut self.sender, sent: &mut self.sent }))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Sending<'_>> {
        self.has_room().then_some(Sending { sender: &mut self.sender, sent: &mut self.sent })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + ETHERNET_HEADER_BYTES;
        capabilities.checksum = self.checksums.clone();
        capabilities
    }
}
