//! Flows that somebody outside opens: the guest sees the gateway, policy sees the peer, and both
//! sides end as ever.

use core::net::SocketAddr;

use sim::frame::Segment;
use sim::frame::{self, flag, gateway, guest};
use sim::{Message, Pattern, Room, Tcp, World};
use sluicegate_core::{
    By, Direction, Drop, FlowId, Inbound, Outside, Permission, Policy, Protocol, Refusal, limits,
};

use crate::policy_rules::{ip, push};
use crate::{at, only};

pub(crate) const PEERS: [&str; 2] = ["203.0.113.9", "2001:db8::9"];

pub(crate) fn inbound(protocol: Protocol, peer: &str, guest_port: u16) -> Inbound {
    let peer = at(ip(peer), 5000);
    Inbound { protocol, peer, guest_port, is_ipv6: peer.is_ipv6() }
}

/// The guest's end of a connection that came to it.
pub(crate) struct Server {
    pub(crate) to: SocketAddr,
    port: u16,
    next: u32,
    expected: u32,
    pub(crate) received: Vec<u8>,
    finished: bool,
    pub(crate) reset: bool,
}

impl Server {
    /// The SYN that came, unanswered.
    pub(crate) fn called(world: &mut World<'_>) -> (Self, Tcp) {
        let seen = only(world);
        let syn = seen.tcp().expect("a segment").clone();
        assert_eq!(syn.flags & (flag::SYN | flag::ACK), flag::SYN, "{syn:?}");
        let server = Self {
            to: at(syn.ends.0, syn.ports.0),
            port: syn.ports.1,
            next: 0xffff_ff00,
            expected: syn.seq.wrapping_add(1),
            received: vec![],
            finished: false,
            reset: false,
        };
        (server, syn)
    }

    fn segment(&self, flags: u8, payload: &[u8]) -> Segment {
        Segment {
            port: self.port,
            seq: self.next,
            ack: self.expected,
            flags,
            window: 512,
            payload: payload.to_vec(),
            ..Segment::default()
        }
    }

    pub(crate) fn say(&mut self, world: &mut World<'_>, flags: u8, payload: &[u8]) {
        let segment = self.segment(flags | flag::ACK, payload);
        self.next = self.next.wrapping_add(payload.len() as u32 + u32::from(flags & 3 != 0));
        world.send(&frame::tcp(self.to, &segment));
        self.read(world);
    }

    /// Answers the SYN as Linux does.
    pub(crate) fn answer(&mut self, world: &mut World<'_>) {
        let mut segment = self.segment(flag::SYN | flag::ACK, &[]);
        segment.window = 65_535;
        segment.options = vec![2, 4, 0x05, 0xb4, 1, 3, 3, 7, 1, 1, 4, 2];
        self.next = self.next.wrapping_add(1);
        world.send(&frame::tcp(self.to, &segment));
        self.read(world);
    }

    pub(crate) fn read(&mut self, world: &mut World<'_>) {
        loop {
            let mut news = false;
            for seen in world.inbox() {
                let segment = seen.tcp().expect("a segment");
                self.reset |= segment.flags & flag::RST != 0;
                if segment.seq == self.expected && !segment.payload.is_empty() {
                    self.received.extend(&segment.payload);
                    self.expected = self.expected.wrapping_add(segment.payload.len() as u32);
                    news = true;
                }
                let end = segment.seq.wrapping_add(segment.payload.len() as u32);
                if segment.flags & flag::FIN != 0 && end == self.expected && !self.finished {
                    self.finished = true;
                    self.expected = self.expected.wrapping_add(1);
                    news = true;
                }
            }
            if !news {
                return;
            }
            let ack = self.segment(flag::ACK, &[]);
            world.send(&frame::tcp(self.to, &ack));
        }
    }
}

/// Somebody comes from `peer` to port 80.
pub(crate) fn come(world: &mut World<'_>, peer: &str) -> Result<FlowId, Refusal> {
    let now = world.now();
    let inbound = inbound(Protocol::Tcp, peer, 80);
    let flow = world.engine.open_inbound(now, &inbound);
    if let Ok(flow) = flow {
        world.peers.came(flow, inbound.peer);
    }
    world.run();
    flow
}

#[test]
fn the_guest_sees_the_gateway_and_bytes_go_both_ways_until_both_have_finished() {
    for peer in PEERS {
        let mut room = Room::plain();
        let mut world = room.world();
        come(&mut world, peer).unwrap();
        let (mut server, syn) = Server::called(&mut world);
        let (from, to) = syn.ends;
        assert_eq!((from, to, syn.ports.1), (gateway(ip(peer)), guest(ip(peer)), 80));
        assert!(limits::GATEWAY_PORTS.contains(&syn.ports.0));
        let mss = syn.option(2).unwrap();
        let expected = if from.is_ipv4() { 1460_u16 } else { 1440 };
        assert_eq!(mss, expected.to_be_bytes());
        world.give(&Pattern::new(1).take(100_000));
        assert!(world.inbox().is_empty(), "nothing before the guest has answered");
        server.answer(&mut world);
        Pattern::new(1).check(&server.received);
        assert_eq!(server.received.len(), 100_000);
        let mut sent = Pattern::new(2);
        for _ in 0..100 {
            server.say(&mut world, flag::PSH, &sent.take(1400));
        }
        Pattern::new(2).check(&world.stream().received);
        assert_eq!(world.stream().received.len(), 140_000);
        world.finish();
        server.read(&mut world);
        assert!(server.finished && !server.reset);
        server.say(&mut world, flag::FIN, &[]);
        world.advance(limits::TCP_TIME_WAIT_MS + 1);
        assert!(world.peers.streams.is_empty());
        assert_eq!(world.counters().inbound_opened, 1);
    }
}

#[test]
fn every_segment_of_a_connection_has_the_ends_of_its_first() {
    for peer in PEERS {
        let mut room = Room::plain();
        let mut world = room.world();
        come(&mut world, peer).unwrap();
        let (mut server, syn) = Server::called(&mut world);
        assert_eq!(syn.ends, (gateway(ip(peer)), guest(ip(peer))));
        // The SYN again, acknowledgements, bytes once and again, a probe, the outside's end.
        world.advance(1100);
        let mut seen = world.inbox();
        server.answer(&mut world);
        world.give(b"hello");
        for _ in 0..3 {
            world.advance(2000);
        }
        seen.extend(world.inbox());
        server.expected = server.expected.wrapping_add(5);
        server.say(&mut world, flag::PSH, b"hello yourself");
        world.finish();
        world.advance(3000);
        seen.extend(world.inbox());
        world.reset();
        seen.extend(world.inbox());
        let segments: Vec<&Tcp> = seen.iter().filter_map(|seen| seen.tcp()).collect();
        for flags in [flag::SYN, flag::PSH, flag::FIN, flag::RST] {
            assert!(segments.iter().any(|tcp| tcp.has(flags)), "{flags:#x} of {segments:?}");
        }
        for segment in segments {
            assert_eq!((segment.ends, segment.ports), (syn.ends, syn.ports));
        }
    }
}

#[test]
fn a_peer_that_finishes_before_the_guest_has_answered_is_answered_all_the_same() {
    for peer in PEERS {
        let mut room = Room::plain();
        let mut world = room.world();
        come(&mut world, peer).unwrap();
        let (mut server, _) = Server::called(&mut world);
        world.finish();
        assert!(world.inbox().is_empty(), "nothing before the guest has answered");
        server.answer(&mut world);
        assert!(server.finished && !server.reset);
        server.say(&mut world, flag::PSH, b"welcome");
        server.say(&mut world, flag::FIN, &[]);
        world.advance(limits::TCP_TIME_WAIT_MS + 1);
        assert_eq!(
            (world.peers.ended[0].end, &world.peers.ended[0].received[..]),
            (Some(sim::End::Close), &b"welcome"[..])
        );
    }
}

#[test]
fn a_port_where_the_guest_does_not_listen_is_a_reset_outside_too() {
    for peer in PEERS {
        let mut room = Room::plain();
        let mut world = room.world();
        come(&mut world, peer).unwrap();
        let (server, _) = Server::called(&mut world);
        let mut reset = server.segment(flag::RST | flag::ACK, &[]);
        reset.seq = 0;
        world.send(&frame::tcp(server.to, &reset));
        assert!(world.peers.streams.is_empty(), "it is told");
        assert_eq!(world.wait().0, None, "and nothing is left");
        // A reset that answers something else does nothing.
        come(&mut world, peer).unwrap();
        let (server, _) = Server::called(&mut world);
        let mut reset = server.segment(flag::RST | flag::ACK, &[]);
        reset.ack = reset.ack.wrapping_add(7);
        world.send(&frame::tcp(server.to, &reset));
        assert_eq!(world.peers.streams.len(), 1);
    }
}

#[test]
fn a_guest_that_does_not_answer_is_asked_again_and_given_up() {
    let mut room = Room::plain();
    let mut world = room.world();
    come(&mut world, PEERS[0]).unwrap();
    world.inbox();
    world.advance(5000);
    assert!(!world.inbox().is_empty(), "the SYN is repeated");
    world.advance(limits::TCP_HALF_OPEN_MS_MAX);
    assert!(world.peers.streams.is_empty());
}

#[test]
fn a_peer_that_resets_before_or_after_the_answer_resets_the_guest() {
    for answered in [false, true] {
        let mut room = Room::plain();
        let mut world = room.world();
        come(&mut world, PEERS[0]).unwrap();
        let (mut server, _) = Server::called(&mut world);
        if answered {
            server.answer(&mut world);
        }
        world.reset();
        server.read(&mut world);
        assert!(server.reset || !answered);
        if !answered {
            // The guest's late answer belongs to nothing.
            server.answer(&mut world);
            assert!(server.reset);
        }
        assert_eq!(world.wait().0, None);
    }
}

#[test]
fn ingress_rules_see_the_peer_and_the_guests_port() {
    let mut room = Room::with(|config| {
        config.policy = Policy::new(Permission::Allow, Permission::Deny);
        push(&mut config.policy, "allow ingress tcp 203.0.113.0/24 80");
    });
    let mut world = room.world();
    assert!(come(&mut world, "203.0.113.9").is_ok());
    world.inbox();
    assert_eq!(come(&mut world, "203.0.114.9"), Err(Refusal::Forbidden));
    let now = world.now();
    let other = inbound(Protocol::Tcp, "203.0.113.9", 81);
    assert_eq!(world.engine.open_inbound(now, &other), Err(Refusal::Forbidden));
    let udp = inbound(Protocol::Udp, "203.0.113.9", 80);
    assert_eq!(world.engine.open_inbound(now, &udp), Err(Refusal::Forbidden));
    world.run();
    assert!(world.inbox().is_empty(), "the guest hears nothing of it");
    let first = world.denials[0];
    assert_eq!((first.direction, first.by), (Direction::Ingress, By::Default));
    assert_eq!((first.guest_port, first.destination), (80, at(ip("203.0.114.9"), 5000)));
}

#[test]
fn as_many_come_as_may_and_the_guests_own_flows_are_not_among_them() {
    let mut room = Room::with(|config| config.inbound_tcp_flows_max = 2);
    let mut world = room.world();
    let own = sim::guest::Script::connect(&mut world, at(ip("1.1.1.1"), 80), 40_000);
    assert!(!own.reset);
    assert!(come(&mut world, PEERS[0]).is_ok() && come(&mut world, PEERS[0]).is_ok());
    assert_eq!(come(&mut world, PEERS[0]), Err(Refusal::Exhausted));
    world.inbox();
    // They end, and others may come.
    world.advance(limits::TCP_HALF_OPEN_MS_MAX + 1);
    assert!(come(&mut world, PEERS[0]).is_ok());
}

/// The port of the gateway's that the first who comes has, which follows from the seed.
fn first_port() -> u16 {
    let mut room = Room::plain();
    let mut world = room.world();
    come(&mut world, PEERS[0]).expect("because everybody may come");
    Server::called(&mut world).0.to.port()
}

#[test]
fn a_port_that_the_guest_uses_towards_the_gateway_is_not_taken_again() {
    let mut room = Room::plain();
    let mut world = room.world();
    // The guest connects from port 80 to the gateway's first port for those from outside.
    let to = at(gateway(ip(PEERS[0])), first_port());
    let own = sim::guest::Script::connect(&mut world, to, 80);
    assert!(!own.reset);
    world.peers.streams.clear();
    come(&mut world, PEERS[0]).unwrap();
    let (server, _) = Server::called(&mut world);
    assert_eq!(server.to.port(), to.port() + 1);
}

#[test]
fn datagrams_come_and_are_answered_as_long_as_there_are_some() {
    for peer in PEERS {
        let mut room = Room::plain();
        let mut world = room.world();
        let now = world.now();
        let flow = world.engine.open_inbound(now, &inbound(Protocol::Udp, peer, 53)).unwrap();
        world.engine.deliver(now, flow, b"ask");
        world.run();
        let Message::Udp { ends, ports, payload } = only(&mut world).message else {
            panic!("a datagram")
        };
        assert_eq!((ends, ports.1), ((gateway(ip(peer)), guest(ip(peer))), 53));
        assert_eq!(payload, b"ask");
        let from = at(ends.0, ports.0);
        world.send(&frame::udp(53, from, b"answer"));
        let index = world.datagram();
        assert_eq!(world.peers.datagrams[&index].sent, [b"answer"]);
        assert_eq!(world.peers.datagrams[&index].to, Outside::HostLoopback(from));
        assert_eq!(world.peers.datagrams[&index].id, flow);
        // Longer than a frame: in fragments.
        world.engine.deliver(now, flow, &[7; 3000]);
        world.run();
        assert!(world.inbox().len() > 2);
        world.advance(limits::UDP_IDLE_MS_MAX + 1);
        assert!(!world.engine.is_live(flow));
    }
}

/// A datagram from the peer `number` to port 53.
fn ask(world: &mut World<'_>, number: u32) -> FlowId {
    let address = core::net::Ipv4Addr::from_bits(0xcb00_7100 + number / 60_000);
    let peer = at(address.into(), 1 + (number % 60_000) as u16);
    let asked = Inbound { protocol: Protocol::Udp, peer, guest_port: 53, is_ipv6: false };
    let now = world.now();
    let flow = world.engine.open_inbound(now, &asked).expect("because another makes room");
    world.engine.deliver(now, flow, &number.to_be_bytes());
    world.run();
    flow
}

/// Who the guest hears from, by port, and what.
fn heard(world: &mut World<'_>) -> Vec<(u16, Vec<u8>)> {
    let datagrams = world.inbox().into_iter().map(|seen| {
        let Message::Udp { ports, payload, .. } = seen.message else { panic!("a datagram") };
        (ports.0, payload)
    });
    datagrams.collect()
}

#[test]
fn an_army_of_peers_ends_no_flow_of_the_guests_and_the_guest_ends_none_of_theirs() {
    let mut room = Room::with(|config| {
        (config.udp_flows_max, config.inbound_udp_flows_max) = (4, 3);
    });
    let mut world = room.world();
    let send = |world: &mut World<'_>, port: u16| {
        world.send(&frame::udp(port, at(ip("1.1.1.1"), 7), &port.to_be_bytes()));
    };
    (1..=4).for_each(|port| send(&mut world, port));
    let own: Vec<FlowId> = world.peers.datagrams.values().map(|flow| flow.id).collect();
    for number in 0..20_000 {
        ask(&mut world, number);
        world.inbox.clear();
        world.raw.clear();
    }
    assert_eq!(world.engine.flow_counts()[1], 4 + 3);
    for flow in &own {
        world.deliver(flow.index, b"answer");
    }
    assert_eq!(heard(&mut world).len(), own.len(), "each of the guest's goes on");
    // Among themselves, whoever was heard least recently makes room.
    let peers = [200_000, 200_001, 200_002].map(|number| ask(&mut world, number));
    let ports: Vec<u16> = heard(&mut world).iter().map(|(port, _)| *port).collect();
    world.send(&frame::udp(53, at(gateway(ip(PEERS[0])), ports[0]), b"answer"));
    let last = ask(&mut world, 200_003);
    let is_live = peers.map(|flow| world.engine.is_live(flow));
    assert_eq!(is_live, [true, false, true]);
    // The guest's army meets its own bound.
    for port in 1000..10_000 {
        send(&mut world, port);
        world.peers.log.clear();
    }
    assert_eq!(world.engine.flow_counts()[1], 4 + 3);
    for flow in [peers[0], peers[2], last] {
        let now = world.now();
        assert!(world.engine.is_live(flow));
        world.engine.deliver(now, flow, b"still here");
    }
    world.run();
    assert_eq!(heard(&mut world).iter().filter(|(_, text)| text == b"still here").count(), 3);
    world.send(&frame::udp(53, at(gateway(ip(PEERS[0])), ports[2]), b"an answer"));
    assert_eq!(world.peers.datagrams[&peers[2].index].sent.last().unwrap(), b"an answer");
}

#[test]
fn an_army_that_has_all_of_the_gateways_ports_keeps_nobody_out() {
    let ports = limits::GATEWAY_PORTS;
    let count = u32::from(ports.end() - ports.start());
    let mut room = Room::with(|config| config.inbound_udp_flows_max = count + 100);
    let mut world = room.world();
    // The first port is one that the guest uses itself.
    let to = at(gateway(ip(PEERS[0])), first_port());
    world.send(&frame::udp(53, to, b"own"));
    let own = world.peers.datagrams[&world.datagram()].id;
    let army: Vec<FlowId> = (0..count).map(|number| ask(&mut world, number)).collect();
    assert_eq!(world.counters().udp_evicted, 0);
    world.advance(1000);
    let now = world.now();
    world.engine.deliver(now, army[0], b"again");
    // Of those who have the next ports whoever was heard of least recently gives way.
    let late = ask(&mut world, count);
    let is_live = [own, army[0], army[1], army[2], late].map(|flow| world.engine.is_live(flow));
    assert_eq!(is_live, [true, true, false, true, true]);
    (1..1000).for_each(|number| {
        ask(&mut world, count + number);
    });
    assert_eq!(world.counters().udp_evicted, 1000);
    assert_eq!(world.engine.flow_counts()[1], count + 1);
    assert!(world.engine.is_live(own));
}

#[test]
fn what_answers_no_call_is_dropped_while_one_is_made() {
    let mut room = Room::plain();
    let mut world = room.world();
    come(&mut world, PEERS[0]).unwrap();
    let (server, _) = Server::called(&mut world);
    for flags in [flag::ACK, flag::FIN | flag::ACK, flag::SYN] {
        let odd = server.segment(flags, b"");
        assert_eq!(world.dropped(&frame::tcp(server.to, &odd)), Some(Drop::Redundant));
    }
    // Of another SYN than ours: what is no reset is answered by one (RFC 9293 3.10.7.3).
    for (flags, resets) in [(flag::SYN | flag::ACK, 1), (flag::RST | flag::ACK, 0)] {
        let wrong = server.segment(flags, b"");
        let wrong = Segment { flags, ack: wrong.ack.wrapping_sub(1), ..wrong };
        assert_eq!(world.dropped(&frame::tcp(server.to, &wrong)), Some(Drop::Doubtful));
        let seen = world.inbox();
        let is_reset = |tcp: &&Tcp| tcp.has(flag::RST) && tcp.seq == wrong.ack;
        assert_eq!(seen.iter().filter_map(|seen| seen.tcp()).filter(is_reset).count(), resets);
    }
    assert_eq!(world.peers.streams.len(), 1);
}

#[test]
fn a_guest_that_calls_the_same_end_at_the_same_time_shares_one_connection() {
    // RFC 9293 3.5, figure 8: the SYNs cross, and each side takes the other's for the answer.
    for peer in PEERS {
        let mut room = Room::plain();
        let mut world = room.world();
        come(&mut world, peer).unwrap();
        let (mut server, _) = Server::called(&mut world);
        let mut crossing = server.segment(flag::SYN, b"");
        crossing.ack = 0;
        world.send(&frame::tcp(server.to, &crossing));
        assert_eq!(world.inbox(), vec![], "no reset, and no connection beside it");
        // Our SYN has reached it meanwhile.
        server.answer(&mut world);
        server.say(&mut world, flag::PSH, b"hello");
        assert_eq!(world.stream().received, b"hello");
        world.give(b"welcome");
        server.read(&mut world);
        assert_eq!((&server.received[..], server.reset), (&b"welcome"[..], false));
        assert_eq!((world.counters().tcp_opened, world.counters().inbound_opened), (0, 1));
    }
}
