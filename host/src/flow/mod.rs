//! The host's side of flows: one socket each, non-blocking, watched for edges.
//!
//! A byte of a connection goes between the socket and the engine's own buffer, in one system call
//! and without a stop between. What a socket would not take or give is tried again when its edge
//! comes, or when the engine says that there is room.

mod caller;
mod clear;
mod datagram;
pub(crate) mod dial;
mod names;
pub(crate) mod ports;
pub(crate) mod relay;
mod row;
mod socket;
mod tcp;
pub(crate) mod tls;
mod who;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mio::{Registry, Token};
use sluicegate_core::{Action, Denial, Engine, Event, FlowId, Instant, Outside, Refusal};

use crate::clock::Clock;
use crate::events::{Denied, NetworkEvent, Speaker};
use crate::memory::Pages;
use crate::metrics::{Published, since};
use crate::outbound::Outbound;
use crate::rings::HeapRing;
use crate::service::dns::{Resolver, Server};
use datagram::DatagramFlow;
use dial::{Dialler, Task};
use names::{NameStream, Names};
use ports::Ports;
use relay::RelayFlow;
use row::{Association, Inbox, Outbox};
use socket::Opener;
use tcp::TcpFlow;
use tls::{Said, Tls, TlsFlow};

/// The engine as the host holds it.
pub(crate) type HostEngine<'a> = Engine<'a, Arc<HeapRing>>;

/// Flows that one turn serves before frames have their turn again.
const TURN_FLOWS_MAX: usize = 256;

/// The socket of one flow.
enum Flow {
    Tcp(TcpFlow),
    Datagram(DatagramFlow),
    Names(NameStream),
    Tls(Box<TlsFlow>),
    Relay(RelayFlow),
    Dial { _task: Task },
}

struct Slot {
    id: FlowId,
    flow: Flow,
    /// In the queue of flows to be served.
    is_queued: bool,
}

/// What became of a flow that was served.
enum Served {
    /// It waits for an edge or an action.
    Waits,
    /// Its budget is spent: it goes to the end of the queue.
    Again,
    /// The ring to the guest is full: it is served when there is room.
    NoRoom,
    /// The outside has spoken first, on a connection of which that tells what it is.
    Spoken,
    /// It is over for the host; the engine knows.
    Ended,
}

/// All sockets of a network, by the index of their flow.
pub(crate) struct Flows {
    slots: Vec<Option<Slot>>,
    queue: VecDeque<u32>,
    registry: Registry,
    /// From where flows go on.
    outbound: Outbound,
    /// Where datagrams of the guest are gathered before they are sent.
    outbox: Outbox,
    /// Where datagrams are received before the engine frames them.
    inbox: Inbox,
    published: Arc<Published>,
    speaker: Speaker,
    /// The memory of the engine's buffers.
    pages: Pages,
    /// Answers what the guest asks of names.
    names: Names,
    /// What of the guest is reached from outside.
    ports: Ports,
    /// Ends TLS, where anybody does.
    tls: Tls,
    /// Makes connections through a proxy, if there is one.
    dialler: Option<Dialler>,
    ping_warned: bool,
    /// The ring to the guest was full for the flow at the front.
    is_stalled: bool,
}

impl Flows {
    pub(crate) fn new(
        registry: Registry,
        published: Arc<Published>,
        pages: Pages,
        (speaker, resolver, ports): (Speaker, Resolver, Ports),
        (tls, dialler, outbound): (Tls, Option<Dialler>, Outbound),
    ) -> Self {
        Self {
            pages,
            slots: Vec::new(),
            queue: VecDeque::new(),
            registry,
            outbound,
            outbox: Outbox::new(),
            inbox: Inbox::new(),
            names: Names::new(resolver, Arc::clone(&published)),
            published,
            speaker,
            ports,
            tls,
            dialler,
            ping_warned: false,
            is_stalled: false,
        }
    }

    /// Whether flows wait to be served, and can be. To be asked last before the loop sleeps: those
    /// that found no room are to be woken when there is some, but whoever found it since, in the
    /// same turn, has called that off.
    pub(crate) fn is_busy(&mut self, engine: &mut HostEngine<'_>, now: Instant) -> bool {
        if (self.is_stalled || self.names.is_stalled()) && engine.can_deliver(now) {
            return true;
        }
        let is_busy = self.names.is_busy() || self.ports.is_busy();
        !self.is_stalled && (!self.queue.is_empty() || is_busy)
    }

    /// Asks the engine what to do until it has nothing more; returns when there will be more.
    pub(crate) fn perform_all(
        &mut self,
        engine: &mut HostEngine<'_>,
        now: Instant,
    ) -> Option<Instant> {
        loop {
            match engine.poll(now) {
                Action::Wait { until, .. } => {
                    let others = [self.names.deadline(), self.ports.deadline()];
                    let until = until.into_iter().chain(others.into_iter().flatten()).min();
                    let Err(failed) = self.send_gathered() else { return until };
                    engine.handle(now, failed);
                    // What the guest is told of it leaves with the next turn.
                    return Some(now);
                }
                Action::Connect { flow, to: Outside::Names(_) } => {
                    self.accept_names(engine, now, flow);
                }
                Action::Connect { flow, to } => self.connect(engine, now, flow, to),
                Action::Intercept { flow, to, guest_port, begins, name, is_veiled, is_denied } => {
                    let name = name.map(str::to_owned);
                    let said = Said { to, guest_port, begins, name, is_veiled, is_denied };
                    self.intercept(engine, now, flow, &said);
                }
                Action::Send { flow } => {
                    self.hear_guest(engine, now, flow);
                    self.with_tcp(flow, |tcp| tcp.send(engine, now));
                    self.send_tls(engine, now, flow);
                    self.listen_to_names(engine, now, flow);
                }
                Action::Finish { flow } => self.finish(flow),
                Action::Receive { flow } => self.enqueue(flow.index),
                Action::Reset { flow } => self.reset(flow),
                Action::Close { flow } => {
                    // Datagrams that wait may be its last.
                    if let Err(failed) = self.send_gathered() {
                        engine.handle(now, failed);
                    }
                    self.with_tls(flow, TlsFlow::close);
                    self.vacate(engine, now, flow);
                    self.close(flow);
                }
                Action::Denied { denial, name } => {
                    let name = name.map(str::to_owned);
                    self.tell(engine.guest(denial.destination.ip()), denial, name.as_deref());
                }
                Action::Unused { bytes, is_ended } => self.pages.give_back(bytes, is_ended),
                Action::SendDatagram {
                    flow,
                    to: Outside::Names(_),
                    payload,
                    segment_bytes,
                    ..
                } => {
                    // The engine, which judges them, does not lend its own bytes to itself.
                    let copy = payload.to_vec();
                    self.hear_names(engine, now, (flow, &copy, segment_bytes));
                }
                Action::SendDatagram {
                    flow,
                    to: Outside::HostLoopback(_),
                    payload,
                    segment_bytes,
                    ..
                } if self.answer_caller(flow, payload, segment_bytes) => {}
                Action::SendDatagram { flow, kind, to, payload, segment_bytes } => {
                    let failed = if let Some(is_relayed) = self.is_relayed((flow, kind), to) {
                        let from = Association { flow, kind, to, is_relayed };
                        self.gather(from, payload, segment_bytes)
                    } else {
                        // The engine, who knows names, does not lend its bytes meanwhile.
                        let copy = payload.to_vec();
                        self.send_first((engine, now), (flow, to), (&copy, segment_bytes))
                    };
                    failed.into_iter().flatten().for_each(|failed| engine.handle(now, failed));
                }
            }
        }
    }

    /// Tells who wants to know of a denial.
    fn tell(&self, guest: IpAddr, denial: Denial, name: Option<&str>) {
        self.speaker.0.tell(|| {
            NetworkEvent::Denied(Denied::new((denial, name), guest, Clock::time_of_day()))
        });
    }

    /// Notes that the socket of the flow in slot `index` has something for us.
    pub(crate) fn ready(&mut self, index: usize, event: &mio::event::Event) {
        let Some(Some(slot)) = self.slots.get_mut(index) else { return };
        if let Flow::Tcp(tcp) = &mut slot.flow {
            tcp.note(event);
        }
        let index = slot.id.index;
        self.enqueue(index);
    }

    /// Notes that somebody may be at the published port `index`.
    pub(crate) fn port_ready(&mut self, index: usize) {
        self.ports.note(index);
    }

    fn enqueue(&mut self, index: u32) {
        if let Some(Some(slot)) = self.slots.get_mut(index as usize)
            && !slot.is_queued
        {
            slot.is_queued = true;
            self.queue.push_back(index);
        }
    }

    /// Serves the flows that have something, each within its budget.
    pub(crate) fn serve(&mut self, engine: &mut HostEngine<'_>, now: Instant) {
        self.serve_names(engine, now);
        self.serve_pipes();
        self.serve_dials(engine, now);
        let has_room = self.serve_relays(engine, now) & self.serve_ports(engine, now);
        // The flow at the front may have datagrams that there was no room for.
        self.is_stalled = !self.inbox.deliver(engine, now) || !has_room;
        if self.is_stalled {
            return;
        }
        for _ in 0..self.queue.len().min(TURN_FLOWS_MAX) {
            let Some(index) = self.queue.pop_front() else { return };
            let Some(Some(slot)) = self.slots.get_mut(index as usize) else { continue };
            slot.is_queued = false;
            let id = slot.id;
            let served = match &mut slot.flow {
                Flow::Tcp(tcp) => {
                    let opener = Opener { registry: &self.registry, outbound: &self.outbound };
                    let served = tcp.serve(engine, now, opener);
                    if let Some(dialled) = tcp.take_dialled() {
                        self.published.times.connect.note(since(dialled, now));
                    }
                    served
                }
                Flow::Datagram(flow) => flow.serve(engine, now, &mut self.inbox),
                Flow::Names(stream) => stream.serve((engine, now), &mut self.names),
                Flow::Tls(tls) => tls.serve((engine, now), &mut self.names),
                Flow::Relay(_) | Flow::Dial { .. } => Served::Waits,
            };
            match served {
                Served::Waits => {}
                Served::Again => self.enqueue(index),
                Served::NoRoom => {
                    // Its turn comes with the next wake, which the ring's consumer gives.
                    self.enqueue(index);
                    self.is_stalled = true;
                    return;
                }
                Served::Spoken => {
                    self.hear_outside(engine, now, id);
                    self.enqueue(index);
                }
                Served::Ended => self.close(id),
            }
        }
    }

    fn slot(&mut self, flow: FlowId) -> Option<&mut Slot> {
        self.slots.get_mut(flow.index as usize)?.as_mut().filter(|slot| slot.id == flow)
    }

    fn with_tcp(
        &mut self,
        flow: FlowId,
        act: impl FnOnce(&mut TcpFlow) -> Result<(), tcp::Failed>,
    ) {
        if let Some(Slot { flow: Flow::Tcp(tcp), .. }) = self.slot(flow)
            && act(tcp).is_err()
        {
            // The flow says so itself when it is served.
            self.enqueue(flow.index);
        }
    }

    fn reset(&mut self, flow: FlowId) {
        self.with_tcp(flow, |tcp| {
            tcp.reset_on_close();
            Ok(())
        });
        self.close(flow);
    }

    fn send_tls(&mut self, engine: &mut HostEngine<'_>, now: Instant, flow: FlowId) {
        if self.with_tls(flow, |tls| tls.send(engine, now)) == Some(false) {
            // The flow says so itself when it is served.
            self.enqueue(flow.index);
        }
    }

    fn with_tls<T>(&mut self, flow: FlowId, act: impl FnOnce(&mut TlsFlow) -> T) -> Option<T> {
        match self.slot(flow)? {
            Slot { flow: Flow::Tls(tls), .. } => Some(act(tls)),
            Slot { .. } => None,
        }
    }

    /// The guest has finished, and all of what it said was taken.
    fn finish(&mut self, flow: FlowId) {
        self.with_tls(flow, TlsFlow::finish);
        self.with_tcp(flow, |tcp| {
            tcp.finish();
            Ok(())
        });
        if let Some(stream) = self.name_stream(flow) {
            stream.finish();
            self.enqueue(flow.index);
        }
    }

    fn opener(&self) -> Opener<'_> {
        Opener { registry: &self.registry, outbound: &self.outbound }
    }

    /// Takes a datagram or a row in, to be sent with those that follow, or sends it at once.
    /// Returns what failed: of those that were waiting, and of these.
    fn gather(
        &mut self,
        from: Association,
        payload: &[u8],
        segment_bytes: u16,
    ) -> [Option<Event>; 2] {
        if self.outbox.add(from, payload, segment_bytes) {
            return [None, None];
        }
        let earlier = self.send_gathered().err();
        if self.outbox.begin(from, payload, segment_bytes) {
            return [earlier, None];
        }
        [earlier, self.send_datagrams(from, payload, segment_bytes).err()]
    }

    /// Sends what was gathered.
    fn send_gathered(&mut self) -> Result<(), Event> {
        let mut outbox = core::mem::take(&mut self.outbox);
        let sent = match outbox.take() {
            Some((from, payload, segment_bytes)) => {
                self.send_datagrams(from, payload, segment_bytes)
            }
            None => Ok(()),
        };
        self.outbox = outbox;
        sent
    }

    /// Sends a datagram or a row on the socket of `from`, which is opened if these are its first.
    fn send_datagrams(
        &mut self,
        from: Association,
        payload: &[u8],
        segment_bytes: u16,
    ) -> Result<(), Event> {
        let Association { flow, kind, to, is_relayed } = from;
        if is_relayed {
            self.relay(flow, payload, segment_bytes);
            return Ok(());
        }
        let failed = |refusal| Event::DatagramFailed { flow, refusal };
        let known = matches!(self.slots.get(flow.index as usize), Some(Some(s)) if s.id == flow);
        if !known {
            let (address, _) = socket::addresses(to);
            let opened = DatagramFlow::open(flow, kind, address, self.opener())
                .inspect_err(|refusal| self.complain(kind, *refusal))
                .map_err(failed)?;
            self.insert(flow, Flow::Datagram(opened));
        }
        match self.slots.get_mut(flow.index as usize) {
            Some(Some(Slot { flow: Flow::Datagram(datagram), .. })) => {
                let sent = datagram.send(payload, segment_bytes);
                self.published.socket_full.fetch_add(datagram.take_lost(), Ordering::Relaxed);
                sent.map_err(failed)
            }
            Some(_) | None => Ok(()),
        }
    }

    fn complain(&mut self, kind: sluicegate_core::DatagramKind, refusal: Refusal) {
        self.count(refusal);
        let is_ping = kind == sluicegate_core::DatagramKind::Echo && refusal == Refusal::Forbidden;
        if is_ping && !core::mem::replace(&mut self.ping_warned, true) {
            tracing::warn!(
                "this host forbids ping sockets, so guests can't ping the outside; \
                 net.ipv4.ping_group_range decides who may"
            );
        }
    }

    fn count(&self, refusal: Refusal) {
        if refusal == Refusal::Exhausted {
            self.published.host_exhausted.fetch_add(1, Ordering::Relaxed);
            tracing::debug!("a flow was refused: this host is out of descriptors, ports or memory");
        }
    }

    /// Puts a flow into its slot; one of an earlier generation there is over, and is closed.
    fn insert(&mut self, id: FlowId, flow: Flow) {
        let index = id.index as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        if let Some(slot) = self.slots.get_mut(index) {
            let is_queued = slot.as_ref().is_some_and(|old| old.is_queued);
            *slot = Some(Slot { id, flow, is_queued });
        }
    }

    /// Asks other name servers from now on.
    pub(crate) fn replace_name_servers(&mut self, servers: Vec<Server>, timeout: Duration) {
        self.names.replace_servers(servers, timeout);
    }

    /// Closes the sockets of flows that the engine ended without an action.
    pub(crate) fn close_ended(&mut self, engine: &HostEngine<'_>) {
        for slot in &mut self.slots {
            if let Some(ended) = slot.take_if(|slot| !engine.is_live(slot.id))
                && let Flow::Tcp(mut tcp) = ended.flow
            {
                tcp.reset_on_close();
            }
        }
    }

    fn close(&mut self, flow: FlowId) {
        self.ports.forget(flow);
        // Dropping a socket takes it off the poll as well.
        if let Some(slot) = self.slots.get_mut(flow.index as usize)
            && slot.as_ref().is_some_and(|s| s.id == flow)
        {
            *slot = None;
        }
    }
}

/// The token of a flow's socket.
fn token(flow: FlowId) -> Token {
    Token(flow.index as usize)
}

#[cfg(test)]
mod tests;
