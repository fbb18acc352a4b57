//! Who calls the guest from outside, at ports that are published: connections, which are answered,
//! refused, or not answered at all, and datagrams, which come back as the guest makes them.
//!
//! A model says of each call what the engine has heard of the guest, and so how it must stand: no
//! byte for the guest before it has answered, an end at once where it refuses, an end in time where
//! it says nothing. To the guest all of them are the gateway.

use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeMap;

use sim::core::{
    Engine, FlowId, Inbound, Instant, PortRange, Protocol, Refusal, RingHandle, limits,
};
use sim::frame::flag::{ACK, RST, SYN};
use sim::frame::{gateway, guest};
use sim::guest::Guest;
use sim::{Datagrams, Dice, End, Message, Pattern, Seen, Stream, Tcp, World};
use smoltcp::iface::SocketHandle;

use super::app::OUTSIDE;
use super::datagrams::DatagramFlows;
use super::policies::Rules;
use super::signs::timer_at;

/// The guest's first port for connections; each call has its own.
pub(crate) const PUBLISHED: u16 = 3000;
/// The guest's port for datagrams.
const PUBLISHED_UDP: u16 = 3900;
pub(crate) const PORTS: [PortRange; 1] = [PortRange { start: PUBLISHED, end: PUBLISHED_UDP }];
/// Where those come from who may, if policy does not change, and who may not.
pub(crate) const MAY: [&str; 2] = ["198.51.100.9", "2001:db8:5::9"];
const MAY_NOT: [&str; 2] = ["198.51.101.9", "2001:db8:6::9"];
/// When somebody calls at the latest.
const AT_MS_MAX: u64 = 2000;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("because it is one")
}

/// Whether `port` is one of the guest's that is called.
pub(crate) fn is_published(port: u16) -> bool {
    (PUBLISHED..=PUBLISHED_UDP).contains(&port)
}

/// The port outside of who calls the guest's `port`.
pub(crate) fn outside_port(port: u16) -> u16 {
    port - PUBLISHED + OUTSIDE
}

/// How far a call is, by what the engine has heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is still to be made.
    Due,
    /// Policy forbids it.
    Forbidden,
    /// The guest has yet to answer.
    Rings { since: Instant },
    /// The guest has refused it.
    Refused,
    /// The guest has answered.
    Answered,
    /// The guest has not answered in time.
    GivenUp,
    /// Policy forbids it since it was made. Whether the guest had answered.
    Expelled { was_answered: bool },
}

/// A connection from outside.
#[derive(Debug)]
pub(crate) struct Call {
    /// When it is made, after the start.
    at_ms: u64,
    guest_port: u16,
    is_ipv6: bool,
    state: State,
    flow: Option<FlowId>,
    /// The gateway's port, and the sequence number of its SYN.
    syn: Option<(u16, u32)>,
    /// The guest was reset before it answered.
    is_reset: bool,
}

impl Call {
    /// The call of number `index`, and who makes it.
    pub(crate) fn new(index: u16, dice: &mut Dice) -> (Self, SocketAddr) {
        let peers = if dice.one_of(900) { MAY } else { MAY_NOT };
        let call = Self {
            at_ms: dice.below(AT_MS_MAX),
            guest_port: PUBLISHED + index,
            is_ipv6: dice.one_of(500),
            state: State::Due,
            flow: None,
            syn: None,
            is_reset: false,
        };
        (call, SocketAddr::new(ip(peers[dice.below(2) as usize]), OUTSIDE + index))
    }

    /// Whether it is time to make it.
    pub(crate) fn is_due(&self, now: Instant, began: Instant) -> bool {
        self.state == State::Due && now >= began.plus_millis(self.at_ms)
    }

    /// Whether it is still to be made.
    pub(crate) fn is_to_be_made(&self) -> bool {
        self.state == State::Due
    }

    /// Makes the call of `peer` if it is time; returns its flow. Where it `has_place` not, it is
    /// refused, and comes again.
    pub(crate) fn make<R: RingHandle>(
        &mut self,
        (now, began): (Instant, Instant),
        (peer, may, has_place): (SocketAddr, bool, bool),
        engine: &mut Engine<'_, R>,
    ) -> Option<FlowId> {
        if !self.is_due(now, began) {
            return None;
        }
        let (guest_port, is_ipv6) = (self.guest_port, self.is_ipv6);
        let inbound = Inbound { protocol: Protocol::Tcp, peer, guest_port, is_ipv6 };
        let opened = engine.open_inbound(now, &inbound);
        if may && !has_place {
            assert_eq!(opened, Err(Refusal::Exhausted), "{peer} is one too many");
        } else if may {
            self.state = State::Rings { since: now };
            self.flow = Some(opened.expect("because it may come"));
        } else {
            assert_eq!(opened, Err(Refusal::Forbidden), "{peer} may not come");
            self.state = State::Forbidden;
        }
        self.flow
    }

    /// Whether nothing is to be expected of it any more, whatever it was meant for.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, State::Forbidden | State::GivenUp | State::Expelled { .. })
    }

    /// Policy forbids it from now on.
    pub(crate) fn expel(&mut self) {
        self.state = State::Expelled { was_answered: self.state == State::Answered };
    }

    /// Whether policy forbids it since the guest has answered.
    pub(crate) fn is_expelled(&self) -> bool {
        self.state == State::Expelled { was_answered: true }
    }

    pub(crate) fn is_forbidden(&self) -> bool {
        self.state == State::Forbidden
    }

    /// Whether the guest has yet to say anything.
    pub(crate) fn rings(&self) -> bool {
        matches!(self.state, State::Rings { .. })
    }

    /// How it went, in a few words.
    pub(crate) fn story(&self) -> String {
        if self.rings() {
            return "the outside calls, and goes".to_owned();
        }
        format!("the outside calls, and is {:?}", self.state)
    }

    /// Takes note of `segment`, for the guest's port of this call.
    pub(crate) fn note(&mut self, segment: &Tcp) {
        let family = if self.is_ipv6 { ip(MAY[1]) } else { ip(MAY[0]) };
        assert_eq!(segment.ends, (gateway(family), guest(family)), "the gateway calls");
        assert!(limits::GATEWAY_PORTS.contains(&segment.ports.0), "{segment:?}");
        assert_ne!(self.state, State::Forbidden, "the guest hears of who may not come");
        if self.syn.is_none() && segment.has(RST) {
            self.is_reset = true; // it has ended before the guest was called
            return;
        }
        let is_first = self.syn.is_none();
        let (port, seq) = *self.syn.get_or_insert((segment.ports.0, segment.seq));
        assert!(!is_first || segment.flags == SYN, "{segment:?} comes first");
        assert_eq!(segment.ports.0, port, "a call has one port");
        if segment.has(SYN) {
            assert_eq!((segment.flags, segment.seq), (SYN, seq), "a call has one SYN");
        } else if self.rings() {
            assert!(segment.has(RST), "{segment:?} before the guest has answered");
            self.is_reset = true;
        }
    }

    /// The engine is about to hear `segment` of the guest, whole.
    pub(crate) fn hear(&mut self, segment: &Tcp) {
        let Some((port, seq)) = self.syn else { return };
        let is_answer = segment.ports == (self.guest_port, port)
            && segment.has(ACK)
            && segment.ack == seq.wrapping_add(1);
        if !is_answer || !self.rings() {
            return;
        }
        if segment.has(RST) {
            self.state = State::Refused;
        } else if segment.has(SYN) {
            self.state = State::Answered;
        }
    }

    /// The engine has done at `now` what it had to do; the host's socket is `stream`.
    pub(crate) fn check(&mut self, now: Instant, stream: &Stream) {
        assert_eq!(self.flow, Some(stream.id));
        let is_meant = match (self.state, stream.end) {
            (State::Rings { since }, end) => {
                assert_eq!(stream.given, 0, "bytes before the guest has answered");
                let limit = timer_at(since, limits::TCP_HALF_OPEN_MS_MAX);
                match end {
                    None => now < limit && !self.is_reset,
                    Some(End::Outside) => true,
                    Some(End::Reset) => {
                        self.state = State::GivenUp;
                        now >= limit
                    }
                    Some(End::Close) => false,
                }
            }
            (State::Refused, end) => matches!(end, Some(End::Reset | End::Outside)),
            (State::Answered | State::GivenUp | State::Expelled { .. }, _) => true,
            (State::Due | State::Forbidden, _) => false,
        };
        assert!(is_meant, "{self:?} at {now:?}: {:?}", stream.end);
    }
}

/// What the guest makes of a datagram.
fn answer_to(data: &[u8]) -> Vec<u8> {
    data.iter().map(|byte| !byte).collect()
}

/// Somebody outside who sends datagrams.
#[derive(Debug)]
struct Writer {
    peer: SocketAddr,
    is_ipv6: bool,
    left: u64,
    flow: Option<FlowId>,
    sent: Vec<Vec<u8>>,
    answered: usize,
    /// A flow of its has ended, on which an answer may have been under way: by policy, or it gave
    /// way.
    is_cut: bool,
}

impl Writer {
    /// Opens a flow, if `rules` allow that.
    fn open<R: RingHandle>(
        &self,
        now: Instant,
        rules: &Rules,
        engine: &mut Engine<'_, R>,
    ) -> Option<FlowId> {
        let (peer, is_ipv6) = (self.peer, self.is_ipv6);
        let (protocol, guest_port) = (Protocol::Udp, PUBLISHED_UDP);
        let opened = engine.open_inbound(now, &Inbound { protocol, peer, guest_port, is_ipv6 });
        if !rules.may_come(peer.ip()) {
            assert_eq!(opened, Err(Refusal::Forbidden), "{peer} may not come");
            return None;
        }
        Some(opened.expect("because it may come"))
    }

    fn is_done(&self, flows: &DatagramFlows) -> bool {
        let is_cut = self.is_cut || self.flow.is_some_and(|flow| flows.has_given_way(flow));
        self.left == 0 && (is_cut || self.answered == self.sent.len())
    }
}

/// All who send datagrams to the guest, and the guest's server.
pub(crate) struct Writers {
    dice: Dice,
    socket: SocketHandle,
    all: Vec<Writer>,
    /// By the gateway's port: whose datagrams come from there.
    ports: BTreeMap<u16, usize>,
}

impl Writers {
    pub(crate) fn new(guest: &mut Guest, mut dice: Dice) -> Self {
        let writer = |index: u16, dice: &mut Dice| Writer {
            peer: SocketAddr::new(ip(MAY[dice.below(2) as usize]), 5000 + index),
            is_ipv6: dice.one_of(500),
            left: dice.below(10),
            flow: None,
            sent: vec![],
            answered: 0,
            is_cut: false,
        };
        let count = dice.below(5) as u16;
        Self {
            socket: guest.bind_to(PUBLISHED_UDP),
            all: (0..count).map(|index| writer(index, &mut dice)).collect(),
            ports: BTreeMap::new(),
            dice,
        }
    }

    /// Sends a datagram now and then; each flow that has ended is opened anew.
    pub(crate) fn write(
        &mut self,
        world: &mut World<'_>,
        rules: &Rules,
        flows: &mut DatagramFlows,
    ) {
        let (now, engine, peers) = (world.now(), &mut world.engine, &mut world.peers);
        for writer in self.all.iter_mut().filter(|writer| writer.left > 0) {
            if !self.dice.one_of(30) || !engine.can_deliver(now) {
                continue;
            }
            writer.left -= 1;
            let live = writer.flow.filter(|flow| engine.is_live(*flow));
            writer.is_cut |= writer.flow.is_some_and(|flow| flows.has_given_way(flow));
            let Some(flow) = live.or_else(|| writer.open(now, rules, engine)) else { continue };
            if live.is_none() {
                peers.came_without_connection(flow);
                flows.came(now, flow, (writer.peer, PUBLISHED_UDP));
            }
            writer.flow = Some(flow);
            let len = self.dice.between(1, 1200) as usize;
            let data = Pattern::new(self.dice.draw()).take(len);
            engine.deliver(now, flow, &data);
            flows.delivered(now, flow);
            writer.sent.push(data);
        }
    }

    /// `rules` hold from now on.
    pub(crate) fn change<R: RingHandle>(&mut self, rules: &Rules, engine: &Engine<'_, R>) {
        for writer in &mut self.all {
            let is_live = writer.flow.is_some_and(|flow| engine.is_live(flow));
            let may = rules.may_come(writer.peer.ip());
            assert!(may || !is_live, "{} may come no more", writer.peer);
            writer.is_cut |= !may;
        }
    }

    /// Takes note of a frame for the guest.
    pub(crate) fn note(&mut self, seen: &Seen) {
        let Message::Udp { ends, ports: (from, PUBLISHED_UDP), payload } = &seen.message else {
            return;
        };
        let is_its = |writer: &Writer| writer.sent.contains(payload);
        let index = self.all.iter().position(is_its);
        let index = index.unwrap_or_else(|| panic!("a datagram that nobody sent: {seen:?}"));
        assert_eq!(ends.0, gateway(ends.0), "the gateway sends");
        assert_eq!(ends.0.is_ipv6(), self.all[index].is_ipv6);
        assert!(limits::GATEWAY_PORTS.contains(from));
        let known = *self.ports.entry(*from).or_insert(index);
        assert_eq!(known, index, "a port of the gateway stands for one peer");
    }

    /// The guest's server answers.
    pub(crate) fn serve(&mut self, guest: &mut Guest) {
        let socket = guest.udp(self.socket);
        while let Ok((data, from)) = socket.recv() {
            let (answer, to) = (answer_to(data), from.endpoint);
            // Where there is no place for it, it is lost.
            let _ = socket.send_slice(&answer, to);
        }
    }

    /// Takes the answers that came on `socket`; false: it is nobody's here.
    pub(crate) fn take(&mut self, socket: &mut Datagrams) -> bool {
        let its = self.all.iter_mut().find(|writer| writer.flow == Some(socket.id));
        let Some(writer) = its else { return false };
        for data in socket.sent.drain(..) {
            let is_answer = writer.sent.iter().any(|sent| answer_to(sent) == data);
            assert!(is_answer, "{} is answered what it did not ask", writer.peer);
            writer.answered += 1;
        }
        true
    }

    /// Whether every datagram was sent, and answered.
    pub(crate) fn are_done(&self, flows: &DatagramFlows) -> bool {
        self.all.iter().all(|writer| writer.is_done(flows))
    }
}
