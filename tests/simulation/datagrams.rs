//! Datagram flows: which there are, of those that the guest opened and of those that came from
//! outside. A model knows of each when something passed last, either way, and so which gives way
//! where there is no place: the one that was used least recently, of its own kind alone; but first
//! of all who asked for a name and has its answer. Who is silent for a minute goes, and nobody
//! else.
//!
//! What the host is asked to send is what the guest sent, in order, on one flow for each two ends.

use core::net::SocketAddr;

use sim::core::limits::{DNS_PORT, UDP_IDLE_MS_MAX};
use sim::core::{Config, DatagramKind, Direction, FlowId, Instant, Protocol};
use sim::{Did, Message, Seen, World};

use super::caps::Places;
use super::run::address;
use super::signs::timer_at;

/// A flow: its ends, of which the other is the peer where it came from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ends {
    guest_port: u16,
    outside: SocketAddr,
}

/// A flow of which the engine should know.
#[derive(Debug)]
struct Flow {
    id: FlowId,
    ends: Ends,
    used: Instant,
}

/// Flows that share places, in the order in which they give way.
#[derive(Debug)]
struct Share {
    max: usize,
    flows: Vec<Flow>,
}

impl Share {
    fn new(max: u32) -> Self {
        Self { max: max as usize, flows: vec![] }
    }

    /// Where `id` is.
    fn position(&self, id: FlowId) -> Option<usize> {
        self.flows.iter().position(|flow| flow.id == id)
    }

    /// Something passes on the flow at `at`, which gives way last from now on, or first.
    fn pass(&mut self, now: Instant, at: usize, is_first: bool) {
        let flow = self.flows.remove(at);
        let to = if is_first { 0 } else { self.flows.len() };
        self.flows.insert(to, Flow { used: now, ..flow });
    }

    /// Lets those go that are too many where `more` are to come; returns them.
    fn make_room(&mut self, more: usize) -> Vec<FlowId> {
        let too_many = (self.flows.len() + more).saturating_sub(self.max);
        self.flows.drain(..too_many).map(|flow| flow.id).collect()
    }

    fn forget_silent(&mut self, now: Instant) {
        self.flows.retain(|flow| now < timer_at(flow.used, UDP_IDLE_MS_MAX));
    }
}

/// The model.
#[derive(Debug)]
pub(crate) struct DatagramFlows {
    guest: Share,
    outside: Share,
    /// Those that have given way, of which nobody was told.
    evicted: Vec<FlowId>,
    /// How many of them by a new flow of the guest's, by one from outside, and by a lower cap.
    counts: [u64; 3],
}

impl DatagramFlows {
    pub(crate) fn new(places: Places) -> Self {
        let (guest, outside) = (Share::new(places.udp), Share::new(places.inbound_udp));
        Self { guest, outside, evicted: vec![], counts: [0; 3] }
    }

    /// Who has given way by now.
    pub(crate) fn has_given_way(&self, id: FlowId) -> bool {
        self.evicted.contains(&id)
    }

    /// The engine has taken `frames`, and then `did` what it had to.
    pub(crate) fn heard(
        &mut self,
        now: Instant,
        (frames, did): (&[Vec<u8>], &[Did]),
        world: &World<'_>,
    ) {
        self.guest.forget_silent(now);
        self.outside.forget_silent(now);
        let mut frames = frames.iter().filter_map(|frame| datagram(frame));
        for did in did {
            let Did::SendDatagram { flow, kind: DatagramKind::Udp, to, payload, .. } = did else {
                continue;
            };
            let to = address(*to);
            let port = frames.find_map(|(port, there, bytes)| {
                (there == to && bytes == *payload).then_some(port)
            });
            let port = port.unwrap_or_else(|| panic!("{to} is sent what the guest did not send"));
            self.sent(now, *flow, Ends { guest_port: port, outside: to });
        }
        self.check(world);
    }

    /// The guest's datagram goes out on the flow `id`.
    fn sent(&mut self, now: Instant, id: FlowId, ends: Ends) {
        if let Some(at) = self.outside.position(id) {
            return self.outside.pass(now, at, false);
        }
        if let Some(at) = self.guest.flows.iter().position(|flow| flow.ends == ends) {
            assert_eq!(self.guest.flows[at].id, id, "{ends:?} have one flow");
            return self.guest.pass(now, at, false);
        }
        let evicted = self.guest.make_room(1);
        self.counts[0] += evicted.len() as u64;
        self.evicted.extend(evicted);
        self.guest.flows.push(Flow { id, ends, used: now });
    }

    /// `peer` has opened the flow `id` to the guest's port.
    pub(crate) fn came(&mut self, now: Instant, id: FlowId, (peer, guest_port): (SocketAddr, u16)) {
        let evicted = self.outside.make_room(1);
        self.counts[1] += evicted.len() as u64;
        self.evicted.extend(evicted);
        self.outside.flows.push(Flow { id, ends: Ends { guest_port, outside: peer }, used: now });
    }

    /// A datagram goes to the guest on the flow `id`, if there is one.
    pub(crate) fn delivered(&mut self, now: Instant, id: FlowId) {
        if let Some(at) = self.outside.position(id) {
            self.outside.pass(now, at, false);
        } else if let Some(at) = self.guest.position(id) {
            let is_for_names = self.guest.flows[at].ends.outside.port() == DNS_PORT;
            self.guest.pass(now, at, is_for_names);
        }
    }

    /// What `config` says holds from now on: who is one too many goes at once, behind those that
    /// policy has ended, which `may` not be there.
    pub(crate) fn change(
        &mut self,
        config: &Config,
        (may, may_come): (impl Fn(SocketAddr) -> bool, impl Fn(SocketAddr) -> bool),
        world: &World<'_>,
    ) {
        let engine = &world.engine;
        self.guest.max = config.udp_flows_max as usize;
        self.outside.max = config.inbound_udp_flows_max as usize;
        self.guest.flows.retain(|flow| engine.is_live(flow.id) || may(flow.ends.outside));
        self.outside.flows.retain(|flow| engine.is_live(flow.id) || may_come(flow.ends.outside));
        let mut evicted = self.guest.make_room(0);
        evicted.extend(self.outside.make_room(0));
        self.counts[2] += evicted.len() as u64;
        self.evicted.extend(evicted);
        self.check(world);
    }

    /// The engine has these flows and no others.
    fn check(&self, world: &World<'_>) {
        let mut count = 0;
        for flow in world.engine.flows().filter(|flow| flow.protocol == Protocol::Udp) {
            let share = match flow.direction {
                Direction::Egress => &self.guest,
                Direction::Ingress => &self.outside,
            };
            let outside = flow.peer.unwrap_or(flow.outside);
            let ends = Ends { guest_port: flow.guest.port(), outside };
            let is_it = |known: &Flow| known.id == flow.id && known.ends == ends;
            assert!(share.flows.iter().any(is_it), "{flow:?} is there: {self:?}");
            count += 1;
        }
        let known = self.guest.flows.len() + self.outside.flows.len();
        assert_eq!(count, known, "flows that are there: {self:?}");
    }

    /// What gave way, in a few words, and how often.
    pub(crate) fn stories(&self) -> [(&'static str, u64); 3] {
        let [guest, outside, lowered] = self.counts;
        [
            ("a datagram flow gives way", guest),
            ("a datagram flow from outside gives way", outside),
            ("a datagram flow goes with its place", lowered),
        ]
    }
}

/// The guest's port, where it sends, and what: the datagram in `frame`, if that is one.
fn datagram(frame: &[u8]) -> Option<(u16, SocketAddr, Vec<u8>)> {
    match Seen::read(frame).ok()?.message {
        Message::Udp { ends, ports, payload } => {
            Some((ports.0, SocketAddr::new(ends.1, ports.1), payload))
        }
        Message::Arp { .. } | Message::Tcp(_) | Message::Icmp(_) | Message::Piece(_) => None,
    }
}
