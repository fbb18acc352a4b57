//! A host that does at once what it is asked, and as little as that takes.

use sluicegate_core::{Engine, Event, FlowId, Instant};

use super::{Fact, Host};
use crate::world::Ring;

/// Accepts every connect, takes every byte, finishes when the guest does.
#[derive(Debug, Default)]
pub struct Prompt {
    /// Bytes of the answer to whatever the guest sends on a connection; the bytes themselves are
    /// left as they lie, since writing them is the kernel's work.
    pub answer_bytes: usize,
    /// The newest flow.
    pub flow: Option<FlowId>,
    /// Bytes of the guest that were taken.
    pub taken: u64,
    /// Datagrams of the guest.
    pub datagrams: u64,
    /// Flows that have ended.
    pub ended: u64,
}

impl Prompt {
    /// The newest flow.
    ///
    /// # Panics
    /// If there was none yet.
    #[must_use]
    pub fn newest(&self) -> FlowId {
        self.flow.expect("because the guest has opened a flow")
    }
}

impl Host for Prompt {
    fn answer(&mut self, engine: &mut Engine<'_, Ring>, now: Instant, fact: Fact) {
        match fact {
            Fact::Connect(flow, _) => {
                self.flow = Some(flow);
                engine.handle(now, Event::Connected { flow });
            }
            Fact::Send(flow) => {
                while let Some(len) = engine.take_from_guest(now, flow, <[u8]>::len) {
                    self.taken += len as u64;
                }
                if self.answer_bytes > 0 {
                    engine.give_to_guest(flow, |space| space.len().min(self.answer_bytes));
                }
            }
            Fact::Finish(flow) => engine.handle(now, Event::OutsideFinished { flow }),
            Fact::Datagram(flow, _) => {
                self.flow = Some(flow);
                self.datagrams += 1;
            }
            Fact::Ended(_) => self.ended += 1,
            Fact::Receive(_) => {}
        }
    }
}
