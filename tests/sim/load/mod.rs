//! The engine with no more around it than it takes to keep it busy: what allocations, instructions
//! and nanoseconds are counted on.
//!
//! Owns a rig (an engine and its rings on a clock that is set by hand), the least of a guest
//! ([`Lean`]), and the named scenarios that are measured. Unlike [`World`](crate::World) it checks
//! no rules and keeps no log, so that what is measured is the engine. Nothing here allocates once
//! it is made.

mod lean;
mod parts;
mod prompt;
pub mod scenario;

use std::sync::Arc;

use sluicegate_core::{
    Action, Consumer, Engine, FlowId, FrameRing, Instant, Link, Offload, Outside, Producer,
    WaitReason,
};

use crate::Room;

pub use lean::{Heading, Lean};
pub use prompt::Prompt;

pub use crate::world::Ring;

/// What an action says, without what it lends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// The guest wants a connection.
    Connect(FlowId, Outside),
    /// Bytes of the guest wait to be taken.
    Send(FlowId),
    /// There is room again for bytes to the guest.
    Receive(FlowId),
    /// The guest has finished.
    Finish(FlowId),
    /// The guest sent a datagram with so many bytes of payload.
    Datagram(FlowId, usize),
    /// The flow has ended.
    Ended(FlowId),
}

/// Stands where the driver stands, and answers at once.
pub trait Host {
    /// Does what an action asked.
    fn answer(&mut self, engine: &mut Engine<'_, Ring>, now: Instant, fact: Fact);
}

/// An engine, the guest's ends of its rings, and its clock.
pub struct Rig<'a> {
    /// The engine itself.
    pub engine: Engine<'a, Ring>,
    /// What the guest sends.
    pub from_guest: Producer<Ring>,
    /// What the guest gets.
    pub to_guest: Consumer<Ring>,
    /// The present.
    pub now: Instant,
    /// What the engine was told of the link.
    pub link: Link,
}

impl<'a> Rig<'a> {
    /// An engine in `room`.
    ///
    /// # Panics
    /// If the room's configuration is out of range.
    pub fn new(room: &'a mut Room<'a>) -> Self {
        let (config, bytes) = (room.config.clone(), room.ring_bytes);
        let ring = || FrameRing::split(Arc::new(FrameRing::new(vec![0; bytes])));
        let ((from_guest, engine_in), (engine_out, to_guest)) = (ring(), ring());
        let now = Instant::from_millis(1);
        let engine = Engine::new(&config, room.lend(), engine_in, engine_out, now);
        let engine = engine.expect("because the configuration of a rig is valid");
        Self { engine, from_guest, to_guest, now, link: config.link }
    }

    /// Lets `micros` microseconds pass.
    pub fn pass(&mut self, micros: u64) {
        self.now = Instant::from_micros(self.now.as_micros() + micros);
    }

    /// Sends a frame, without telling the engine.
    ///
    /// # Panics
    /// If the ring is full.
    pub fn push(&mut self, frame: &[u8]) {
        assert!(self.from_guest.push(frame, Offload::NONE), "the ring from the guest has room");
    }

    /// Sends a frame of at most `len_max` bytes that `write` writes, without telling the engine;
    /// `write` returns how long it is.
    ///
    /// # Panics
    /// If the ring is full.
    pub fn compose(&mut self, len_max: usize, write: impl FnOnce(&mut [u8]) -> usize) {
        let space = self.from_guest.reserve(len_max);
        let len = write(space.expect("because the ring from the guest has room"));
        self.from_guest.commit(len, Offload::NONE);
    }

    /// Lets everything happen that can happen now.
    pub fn turn(&mut self, host: &mut impl Host) {
        loop {
            let fact = match self.engine.poll(self.now) {
                Action::Connect { flow, to } | Action::Intercept { flow, to, .. } => {
                    Fact::Connect(flow, to)
                }
                Action::Send { flow } => Fact::Send(flow),
                Action::Receive { flow } => Fact::Receive(flow),
                Action::Finish { flow } => Fact::Finish(flow),
                Action::SendDatagram { flow, payload, .. } => Fact::Datagram(flow, payload.len()),
                Action::Reset { flow } | Action::Close { flow } => Fact::Ended(flow),
                Action::Denied { .. } | Action::Unused { .. } => continue,
                Action::Wait { why: WaitReason::Budget, .. } => continue,
                Action::Wait { .. } => return,
            };
            host.answer(&mut self.engine, self.now, fact);
        }
    }

    /// Takes what has come for the guest; `see` looks at each frame.
    pub fn collect(&mut self, mut see: impl FnMut(&[u8])) {
        while let Some(record) = self.to_guest.read() {
            see(self.to_guest.bytes(&record));
        }
        self.to_guest.release();
    }
}
