//! Capacities: what happens when tables are full, and that nothing grows.

use core::net::IpAddr;

use sim::frame::{self, OUTSIDE_V4, OUTSIDES, Segment, flag, gateway};
use sim::guest::Script;
use sim::{Answer, Did, Room, World};
use sluicegate_core::{Drop, FlowId};

use crate::{Error, answer, assert_error_about, at, only};

#[test]
fn a_syn_at_the_cap_is_reset_and_the_others_live() {
    for outside in OUTSIDES {
        let mut room = Room::with(|c| c.tcp_flows_max = 3);
        let mut world = room.world();
        let mut scripts: Vec<Script> =
            (0..3).map(|i| Script::connect(&mut world, at(outside, 80), 40_000 + i)).collect();
        let mut extra = Script::new(at(outside, 80), 50_000);
        let syn = frame::tcp(extra.to, &extra.syn());
        assert_eq!(world.dropped(&syn), Some(Drop::FlowsFull));
        extra.read(&mut world);
        let reset = extra.seen.last().unwrap();
        assert_eq!((reset.flags, reset.ends), (flag::RST | flag::ACK, answer(outside)));
        for script in &mut scripts {
            script.send(&mut world, b"still here");
        }
        assert!(world.peers.streams.values().all(|s| s.received == b"still here"));
        // A place that is free again is taken.
        let segment = Segment { flags: flag::RST | flag::ACK, ..scripts[1].segment(0, &[]) };
        world.send(&frame::tcp(scripts[1].to, &segment));
        extra.reset = false;
        extra.open(&mut world);
    }
}

#[test]
fn connections_that_have_ended_make_room_whoever_is_oldest() {
    let mut room = Room::with(|c| c.tcp_flows_max = 3);
    let mut world = room.world();
    let mut old = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    let oldest = world.stream().id.index;
    for round in 0..20 {
        for i in 0..2u16 {
            let mut script =
                Script::connect(&mut world, at(OUTSIDE_V4, 80), 41_000 + i + round * 2);
            let index = *world.peers.streams.keys().find(|k| **k != oldest).unwrap();
            world.peers.stream(index).finishes = true;
            world.run();
            script.read(&mut world);
            script.finish(&mut world);
            assert_eq!(world.peers.streams.len(), 1, "it is in TIME-WAIT now");
        }
    }
    old.send(&mut world, b"still here");
    assert_eq!(world.stream().received, b"still here");
}

#[test]
fn a_syn_flood_is_bounded() {
    for answer in [Answer::Accept, Answer::Silence] {
        let mut room = Room::with(|c| {
            c.tcp_flows_max = 64;
            c.tcp_receive_bytes = 4096;
            c.tcp_send_bytes = 4096;
        });
        let mut world = room.world();
        world.peers.answer = answer;
        let mut frames = frame::tcp(at(OUTSIDE_V4, 80), &Script::new(at(OUTSIDE_V4, 80), 1).syn());
        for number in 0..100_000u32 {
            // Another destination, another port, another sequence each time.
            frames[30..34].copy_from_slice(&(0x0b00_0000 + number).to_be_bytes());
            frames[34..36].copy_from_slice(&((number % 65_535 + 1) as u16).to_be_bytes());
            frames[38..42].copy_from_slice(&number.wrapping_mul(0x9e37_79b9).to_be_bytes());
            frame::mend(&mut frames);
            world.send(&frames);
            world.inbox.clear();
            world.raw.clear();
            if number % 1000 == 0 {
                world.peers.log.clear();
            }
        }
        assert_eq!(world.peers.streams.len(), 64);
        let counters = world.counters();
        assert_eq!(counters.tcp_opened + counters.dropped(Drop::FlowsFull), 100_000);
        world.advance(31_000);
        assert_eq!((world.peers.streams.len(), world.wait().0), (0, None), "and it passes");
        let mut script = Script::new(at(OUTSIDE_V4, 80), 40_000);
        world.inbox.clear();
        world.peers.answer = Answer::Accept;
        script.open(&mut world);
    }
}

fn ids(world: &World<'_>) -> Vec<FlowId> {
    world.peers.datagrams.values().map(|flow| flow.id).collect()
}

#[test]
fn at_the_cap_the_udp_flow_that_was_used_least_recently_goes() {
    let mut room = Room::with(|c| c.udp_flows_max = 4);
    let mut world = room.world();
    let send = |world: &mut World<'_>, port: u16| {
        world.send(&frame::udp(port, at(OUTSIDE_V4, 7), &port.to_be_bytes()));
        world.advance(10);
    };
    (1..=4).for_each(|port| send(&mut world, port));
    let before = ids(&world);
    send(&mut world, 1); // used by the guest,
    world.deliver(before[1].index, b"answer"); // used by the outside
    send(&mut world, 5); // takes the place of port 3
    let after = ids(&world);
    assert_eq!((after.len(), world.counters().udp_evicted), (4, 1));
    let gone: Vec<_> = before.iter().filter(|id| !after.contains(id)).collect();
    assert_eq!(gone, [&before[2]]);
    assert_eq!(world.peers.closed.len(), 1, "the host can tell");
    send(&mut world, 3); // takes the place of port 4
    assert!(!ids(&world).contains(&before[3]));
}

#[test]
fn a_flood_of_udp_ports_is_bounded() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        for port in 1..=20_000 {
            world.send(&frame::udp(port, at(outside, 7), b"x"));
            world.peers.log.clear();
        }
        assert_eq!(world.peers.datagrams.len(), 16);
        assert_eq!(world.counters().udp_evicted, 20_000 - 16);
        world.advance(61_000);
        assert_eq!((world.peers.datagrams.len(), world.wait().0), (0, None));
    }
}

#[test]
fn an_echo_flow_at_the_cap_is_refused_and_the_gateway_still_answers() {
    for outside in OUTSIDES {
        let mut room = Room::with(|c| c.icmp_flows_max = 2);
        let mut world = room.world();
        world.send(&frame::echo(outside, 1, 1, b"data"));
        world.send(&frame::echo(outside, 2, 1, b"data"));
        let third = frame::echo(outside, 3, 1, b"data");
        assert_eq!(world.dropped(&third), Some(Drop::FlowsFull));
        assert_error_about(&only(&mut world), Error::HOST_UNREACHABLE.of(outside), &third);
        world.send(&frame::echo(gateway(outside), 3, 1, b"data"));
        assert_eq!(only(&mut world).icmp().unwrap().body, b"data");
        // Those that are there go on.
        assert_eq!(world.dropped(&frame::echo(outside, 1, 2, b"data")), None);
    }
}

#[test]
fn each_protocol_has_a_cap_of_its_own() {
    let mut room = Room::with(|c| {
        (c.tcp_flows_max, c.udp_flows_max, c.icmp_flows_max) = (1, 1, 1);
    });
    let mut world = room.world();
    world.send(&frame::udp(1, at(OUTSIDE_V4, 7), b"x"));
    world.send(&frame::echo(OUTSIDE_V4, 1, 1, b"x"));
    let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    script.send(&mut world, b"hello");
    let indices: Vec<u32> = world.peers.datagrams.values().map(|flow| flow.id.index).collect();
    assert_eq!((world.stream().id.index, indices), (0, vec![1, 2]), "dense, in this order");
    let sends = |d: &&Did| matches!(d, Did::SendDatagram { .. });
    assert_eq!(world.peers.log.iter().filter(sends).count(), 2);
}

#[test]
fn generations_tell_the_uses_of_a_slot_apart() {
    let mut room = Room::with(|c| c.tcp_flows_max = 1);
    let mut world = room.world();
    world.peers.answer = Answer::Refuse(sluicegate_core::Refusal::Refused);
    let outside: IpAddr = OUTSIDE_V4;
    for port in 1..=100 {
        let script = Script::new(at(outside, 80), port);
        world.send(&frame::tcp(script.to, &script.syn()));
    }
    let mut names: Vec<FlowId> = world.peers.ended.iter().map(|stream| stream.id).collect();
    names.dedup();
    assert_eq!(names.len(), 100);
}
