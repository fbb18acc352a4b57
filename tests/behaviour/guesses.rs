//! Numbers that an outsider would have to guess: each follows from the seed of its network, and
//! tells nothing of the next, or of another network's.
//!
//! The seed is drawn from the system for each network. Those towards name servers are the host's
//! (`host/src/service/dns`), and those of its sockets are the kernel's.

use core::net::SocketAddr;
use std::collections::{BTreeMap, BTreeSet};

use sim::frame::{self, ETHERNET, OUTSIDE_V4, flag, protocol};
use sim::guest::Script;
use sim::{Message, Room, World};
use sluicegate_core::{Protocol, limits};

use crate::at;
use crate::published::{PEERS, inbound};

const DRAWS: usize = 10_000;

fn seed(number: u32) -> [u8; 16] {
    let mut seed = *b"another seed 000";
    seed[..4].copy_from_slice(&number.to_le_bytes());
    seed
}

/// The numbers that `draw` finds, of a network whose seed is `number`.
fn drawn<T>(number: u32, mut draw: impl FnMut(&mut World<'_>, usize) -> T) -> Vec<T> {
    let mut room = Room::with(|config| config.seed = seed(number));
    let mut world = room.world();
    (0..DRAWS)
        .map(|at| {
            let number = draw(&mut world, at);
            world.inbox();
            world.peers.log.clear();
            world.peers.ended.clear();
            number
        })
        .collect()
}

/// Each bit of `numbers` is set as often as not: of so many, 50 % give or take five times as much
/// as chance has it.
fn assert_even(numbers: &[u32], what: &str) {
    for bit in 0..32 {
        let set = numbers.iter().filter(|number| *number >> bit & 1 == 1).count();
        assert!(set.abs_diff(DRAWS / 2) < 250, "{what}: bit {bit} is set {set} times");
    }
}

/// The number that the answer to a SYN begins with.
fn sequence(world: &mut World<'_>, at: usize) -> u32 {
    let to = SocketAddr::new(OUTSIDE_V4, 80);
    let script = Script::new(to, 1024 + at as u16);
    world.send(&frame::tcp(to, &script.syn()));
    let answer = world.inbox().pop().and_then(|seen| seen.tcp().cloned()).expect("a SYN-ACK");
    assert_eq!(answer.flags & (flag::SYN | flag::ACK), flag::SYN | flag::ACK);
    let reset = frame::Segment { ack: 0, flags: flag::RST, ..script.segment(flag::RST, b"") };
    let reset = frame::Segment { seq: answer.ack, ..reset };
    world.send(&frame::tcp(to, &reset));
    answer.seq
}

#[test]
fn no_sequence_number_tells_the_next_or_that_of_another_network() {
    let [one, other] = [1, 2].map(|number| drawn(number, sequence));
    let differences: Vec<u32> = one.windows(2).map(|two| two[1].wrapping_sub(two[0])).collect();
    let across: Vec<u32> = one.iter().zip(&other).map(|(a, b)| a ^ b).collect();
    for (numbers, what) in [(&one, "a number"), (&differences, "a step"), (&across, "two networks")]
    {
        // Of ten thousand out of 2^32 hardly any two are the same.
        let distinct = numbers.iter().collect::<BTreeSet<_>>().len();
        assert!(numbers.len() - distinct < 5, "{what}: {distinct} are distinct");
        assert_even(numbers, what);
    }
    assert_eq!(one, drawn(1, sequence), "the seed decides, and nothing else");
}

/// The gateway's port of who comes.
fn port(world: &mut World<'_>, _: usize) -> u16 {
    let now = world.now();
    let flow = world.engine.open_inbound(now, &inbound(Protocol::Udp, PEERS[0], 53));
    let flow = flow.expect("because everybody may come");
    world.engine.deliver(now, flow, b"ask");
    world.run();
    match world.inbox().pop().map(|seen| seen.message) {
        Some(Message::Udp { ports, .. }) => ports.0,
        other => panic!("a datagram: {other:?}"),
    }
}

#[test]
fn where_the_gateways_ports_begin_is_drawn_and_none_comes_again_before_all_have_been() {
    let (first, last) = limits::GATEWAY_PORTS.into_inner();
    let ports = drawn(1, port);
    assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), DRAWS, "none comes twice");
    for two in ports.windows(2) {
        assert_eq!(two[1], if two[0] == last { first } else { two[0] + 1 });
    }
    // Of a thousand networks hardly any two begin at the same of the 16,384, nor near the first.
    let begins = (0..1000).map(|number| {
        let mut room = Room::with(|config| config.seed = seed(number));
        port(&mut room.world(), 0)
    });
    let mut quarters = BTreeMap::new();
    let mut distinct = BTreeSet::new();
    for begin in begins {
        assert!((first..=last).contains(&begin));
        distinct.insert(begin);
        *quarters.entry((begin - first) / 4096).or_insert(0) += 1;
    }
    assert!(distinct.len() > 930, "{} are distinct", distinct.len());
    assert!(quarters.len() == 4 && quarters.values().all(|count| (180..320).contains(count)));
}

#[test]
fn a_packet_that_is_whole_has_no_number_that_could_be_counted() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut packets = 0;
    for number in 0..100 {
        world.send(&frame::echo(frame::gateway(OUTSIDE_V4), 7, number, b"ping"));
        world.send(&frame::udp(4000, at(OUTSIDE_V4, 9), b"out"));
        let index = world.datagram();
        world.deliver(index, b"back");
        let script = Script::new(at(OUTSIDE_V4, 80), 40_000 + number);
        world.send(&frame::tcp(script.to, &script.segment(flag::ACK, b"of nothing")));
        for frame in world.raw.drain(..) {
            assert_eq!(frame[ETHERNET] >> 4, 4);
            // RFC 6864 4.1: one that may not be cut needs none.
            assert_eq!(frame[ETHERNET + 4..ETHERNET + 6], [0, 0], "{frame:02x?}");
            let kind = frame[ETHERNET + 9];
            assert!([protocol::TCP, protocol::UDP, protocol::ICMP].contains(&kind));
            packets += 1;
        }
        world.inbox();
    }
    assert_eq!(packets, 300);
}
