//! The host of a replay: a socket of each flow, all of which behave alike.

use std::collections::BTreeMap;
use std::fmt::Write;

use sluicegate_core::{
    Action, DatagramKind, Event, FlowId, Instant, Outside as To, QueryStep, Refusal, limits,
};

use crate::flow::HostEngine;

/// Bytes that an echo may owe the guest, a flow.
const OWED_BYTES_MAX: usize = 64 * 1024;

/// How the outside behaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Manner {
    /// It accepts every connection, hears everything and says nothing.
    #[default]
    Accept,
    /// It accepts, and says back what it hears; it ends when the guest does.
    Echo,
    /// It accepts, and ends at once; it hears what the guest still says.
    End,
    /// It refuses connections and datagrams.
    Refuse,
    /// Connections get no answer.
    Silent,
}

/// What is to be done for an action, once the engine is free again.
pub(super) enum Task {
    Connect(FlowId),
    Take(FlowId),
    Give(FlowId),
    Finish(FlowId),
    Forget(FlowId),
    Answer { flow: FlowId, is_name: bool, payload: Vec<u8>, segment_bytes: u16 },
}

/// All sockets.
pub(super) struct Outside {
    manner: Manner,
    /// What is owed to the guest on each connection, and whether it has finished.
    owed: BTreeMap<u32, (Vec<u8>, bool)>,
}

impl Outside {
    pub(super) fn new(manner: Manner) -> Self {
        Self { manner, owed: BTreeMap::new() }
    }

    /// Tells of `action` in `text`, and what it asks for.
    pub(super) fn note(&mut self, action: &Action<'_>, text: &mut String) -> Option<Task> {
        let (line, task) = match *action {
            Action::Connect { flow, to } => {
                (format!("connect {} to {}", name(flow), place(to)), Task::Connect(flow))
            }
            Action::Intercept { flow, to, name: said, is_veiled, is_denied, .. } => {
                let said = said.unwrap_or("-");
                let veiled = if is_veiled { ", veiled" } else { "" };
                let denied = if is_denied { ", denied" } else { "" };
                let at = place(to);
                let line = format!("intercept {} to {at} for {said}{veiled}{denied}", name(flow));
                (line, Task::Connect(flow))
            }
            Action::Send { flow } => return Some(Task::Take(flow)),
            Action::Receive { flow } => return Some(Task::Give(flow)),
            Action::Finish { flow } => (format!("finish {}", name(flow)), Task::Finish(flow)),
            Action::Reset { flow } => (format!("reset {}", name(flow)), Task::Forget(flow)),
            Action::Close { flow } => (format!("close {}", name(flow)), Task::Forget(flow)),
            Action::SendDatagram { flow, kind, to, payload, segment_bytes } => {
                let kind = match kind {
                    DatagramKind::Udp => "datagram",
                    DatagramKind::Echo => "ping",
                };
                let len = payload.len();
                let line = format!("{kind} {} to {}, {len} bytes", name(flow), place(to));
                let (is_name, payload) = (matches!(to, To::Names(_)), payload.to_vec());
                (line, Task::Answer { flow, is_name, payload, segment_bytes })
            }
            Action::Denied { ref denial, name } => {
                let name = name.map(|name| format!(" {name}")).unwrap_or_default();
                let (to, reason) = (denial.destination, denial.reason.name());
                let protocol = denial.protocol.name();
                let _ = writeln!(text, "denied {protocol} to {to}{name}, {reason}");
                return None;
            }
            Action::Unused { .. } | Action::Wait { .. } => return None,
        };
        let _ = writeln!(text, "{line}");
        Some(task)
    }

    /// Does it.
    pub(super) fn perform(
        &mut self,
        task: Task,
        engine: &mut HostEngine<'_>,
        now: Instant,
        text: &mut String,
    ) {
        match task {
            Task::Connect(flow) => match self.manner {
                Manner::Accept | Manner::Echo => {
                    self.owed.insert(flow.index, (vec![], false));
                    engine.handle(now, Event::Connected { flow });
                }
                Manner::End => {
                    self.owed.insert(flow.index, (vec![], true));
                    engine.handle(now, Event::Connected { flow });
                    self.give(flow, engine, now);
                }
                Manner::Refuse => {
                    engine.handle(now, Event::ConnectFailed { flow, refusal: Refusal::Refused });
                }
                Manner::Silent => {}
            },
            Task::Take(flow) => self.take(flow, engine, now, text),
            Task::Give(flow) => self.give(flow, engine, now),
            Task::Finish(flow) => {
                if let Some((_, has_finished)) = self.owed.get_mut(&flow.index) {
                    *has_finished = self.manner == Manner::Echo;
                }
                self.give(flow, engine, now);
            }
            Task::Forget(flow) => {
                self.owed.remove(&flow.index);
            }
            Task::Answer { flow, is_name, payload, segment_bytes } => {
                if is_name {
                    ask(flow, &payload, engine, now, text);
                } else {
                    self.answer(flow, &payload, segment_bytes, (engine, now));
                }
            }
        }
    }

    fn take(&mut self, flow: FlowId, engine: &mut HostEngine<'_>, now: Instant, text: &mut String) {
        let Some((owed, _)) = self.owed.get_mut(&flow.index) else { return };
        let mut total = 0;
        loop {
            let room = if self.manner == Manner::Echo {
                OWED_BYTES_MAX.saturating_sub(owed.len())
            } else {
                usize::MAX
            };
            if room == 0 {
                break;
            }
            let taken = engine.take_from_guest(now, flow, |bytes| {
                let len = bytes.len().min(room);
                if self.manner == Manner::Echo {
                    owed.extend_from_slice(bytes.get(..len).unwrap_or(&[]));
                }
                len
            });
            match taken {
                Some(len) => total += len,
                None => break,
            }
        }
        let _ = writeln!(text, "took {total} bytes of {}", name(flow));
        self.give(flow, engine, now);
    }

    /// Gives the guest what it is owed, and then the end.
    fn give(&mut self, flow: FlowId, engine: &mut HostEngine<'_>, now: Instant) {
        let Some((owed, has_finished)) = self.owed.get_mut(&flow.index) else { return };
        while !owed.is_empty() {
            let given = engine.give_to_guest(flow, |space| {
                let len = owed.len().min(space.len());
                if let Some((to, from)) = space.get_mut(..len).zip(owed.get(..len)) {
                    to.copy_from_slice(from);
                }
                owed.drain(..len);
                len
            });
            if given.is_none() {
                return;
            }
        }
        if core::mem::take(has_finished) {
            engine.handle(now, Event::OutsideFinished { flow });
        }
    }

    fn answer(
        &self,
        flow: FlowId,
        payload: &[u8],
        segment_bytes: u16,
        (engine, now): (&mut HostEngine<'_>, Instant),
    ) {
        match self.manner {
            Manner::Echo if engine.can_deliver(now) => {
                engine.deliver_row(now, flow, payload, segment_bytes);
            }
            Manner::Refuse => {
                engine.handle(now, Event::DatagramFailed { flow, refusal: Refusal::Refused });
            }
            Manner::Echo | Manner::Accept | Manner::End | Manner::Silent => {}
        }
    }
}

/// Shows the engine a query, to which no name server has an answer.
fn ask(flow: FlowId, query: &[u8], engine: &mut HostEngine<'_>, now: Instant, text: &mut String) {
    let mut out = vec![0; limits::DNS_MESSAGE_BYTES_MAX];
    let len = match engine.judge_query(now, (flow, query), &mut out) {
        QueryStep::Ignore => {
            let _ = writeln!(text, "query {}: no answer", name(flow));
            return;
        }
        QueryStep::Reply(len) => {
            let _ = writeln!(text, "query {}: answered here", name(flow));
            len
        }
        QueryStep::Ask(len) => {
            let _ = writeln!(text, "query {}: asked with {len} bytes, in vain", name(flow));
            engine.judge_answer(now, (flow, query), None, &mut out)
        }
    };
    engine.deliver(now, flow, out.get(..len).unwrap_or(&[]));
}

fn name(flow: FlowId) -> String {
    format!("flow {}", flow.index)
}

fn place(to: To) -> String {
    match to {
        To::HostLoopback(at) => format!("this host, port {}", at.port()),
        To::Remote(at) => at.to_string(),
        To::Names(at) => format!("names at {at}"),
    }
}
