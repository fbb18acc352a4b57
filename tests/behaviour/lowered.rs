//! Limits that are changed while flows are open: who is new meets them as ever, who is there stays
//! where that is no datagram's flow, and there is never more than memory was lent for.

use sim::frame::{self, OUTSIDE_V4, flag};
use sim::guest::Script;
use sim::{Message, Pattern, Room, Seen, World};
use sluicegate_core::{Config, Drop, FlowId, Inbound, Protocol, Refusal};

use crate::policy_rules::config_of;
use crate::{Error, assert_error_about, at, only};

/// What allows everything, with so many flows of TCP, UDP and echo, datagrams in pieces, and UDP
/// flows from outside.
fn limited([tcp, udp, echo, pieces, inbound_udp]: [u32; 5]) -> Config {
    Config {
        tcp_flows_max: tcp,
        udp_flows_max: udp,
        icmp_flows_max: echo,
        fragment_sets: pieces,
        inbound_udp_flows_max: inbound_udp,
        ..config_of("allow", &[])
    }
}

const ROOM: [u32; 5] = [4, 4, 2, 4, 4];

fn limit(world: &mut World<'_>, limits: [u32; 5]) {
    world.replace_config(&limited(limits)).expect("because there is memory for it");
}

fn syn(world: &mut World<'_>, port: u16) -> Option<Drop> {
    let script = Script::new(at(OUTSIDE_V4, 80), port);
    world.dropped(&frame::tcp(script.to, &script.syn()))
}

fn connect(world: &mut World<'_>, port: u16) -> Script {
    Script::connect(world, at(OUTSIDE_V4, 80), port)
}

/// Ends the connection at once.
fn reset(world: &mut World<'_>, script: &mut Script) {
    script.say(world, flag::RST, &[]);
}

fn assert_passes(world: &mut World<'_>, script: &mut Script, bytes: &[u8]) {
    script.send(world, bytes);
    assert!(!script.reset && world.peers.streams.values().any(|s| s.received.ends_with(bytes)));
}

#[test]
fn connections_that_are_too_many_stay_and_new_ones_wait_until_there_are_fewer() {
    let mut room = Room::new(limited(ROOM));
    let mut world = room.world();
    let mut scripts: Vec<Script> = (0..3).map(|i| connect(&mut world, 40_000 + i)).collect();
    limit(&mut world, [2, 4, 2, 4, 4]);
    for (script, bytes) in scripts.iter_mut().zip([b"one", b"two", b"six"]) {
        assert_passes(&mut world, script, bytes);
    }
    world.inbox();
    for (expected, left) in [(Some(Drop::FlowsFull), 3), (Some(Drop::FlowsFull), 2), (None, 2)] {
        assert_eq!(syn(&mut world, 50_000), expected);
        assert_eq!(world.peers.streams.len(), left);
        let answer = only(&mut world);
        let answer = answer.tcp().expect("a segment");
        assert_eq!(answer.has(flag::RST), expected.is_some(), "as at any limit");
        if expected.is_some() {
            reset(&mut world, &mut scripts.pop().expect("one that is left"));
        }
    }
    assert_passes(&mut world, &mut scripts[0], b"more");
}

#[test]
fn as_many_that_only_linger_make_room_as_are_too_many() {
    let mut room = Room::new(limited(ROOM));
    let mut world = room.world();
    let mut scripts: Vec<Script> = (0..4).map(|i| connect(&mut world, 40_000 + i)).collect();
    limit(&mut world, [2, 4, 2, 4, 4]);
    for script in scripts[1..].iter_mut().rev() {
        let index = *world.peers.streams.keys().next_back().expect("one that is open");
        world.peers.stream(index).finishes = true;
        world.run();
        script.read(&mut world);
        script.finish(&mut world);
    }
    assert_eq!((world.peers.streams.len(), world.engine.flow_counts()[0]), (1, 4), "TIME-WAIT");
    connect(&mut world, 50_000);
    assert_eq!(world.engine.flow_counts()[0], 2);
    assert_eq!(syn(&mut world, 50_001), Some(Drop::FlowsFull), "the others are open");
}

#[test]
fn a_limit_is_raised_again_as_far_as_it_was_at_the_start_and_no_further() {
    let mut room = Room::new(limited(ROOM));
    let mut world = room.world();
    limit(&mut world, [1, 1, 1, 1, 4]);
    let mut script = connect(&mut world, 40_000);
    assert_eq!(syn(&mut world, 50_000), Some(Drop::FlowsFull));
    for (field, at) in [
        "max_connections",
        "max_udp_connections",
        "max_icmp_connections",
        "fragment_sets",
        "max_inbound_udp_connections",
    ]
    .into_iter()
    .zip(0..)
    {
        // All that is asked for with it is refused, too.
        let mut limits = ROOM;
        limits[at] += 1;
        let error = world.replace_config(&limited(limits)).unwrap_err();
        let text = error.to_string();
        let number = format!("{} ({} at the start)", ROOM[at] + 1, ROOM[at]);
        assert!(error.field == field && text.contains(&number), "{text}");
        assert!(text.contains("start with the most that it is ever to be"), "{text}");
        assert_eq!(syn(&mut world, 50_000), Some(Drop::FlowsFull), "nothing has changed");
    }
    limit(&mut world, ROOM);
    for port in 50_001..50_004 {
        connect(&mut world, port);
    }
    assert_eq!(syn(&mut world, 50_004), Some(Drop::FlowsFull));
    assert_passes(&mut world, &mut script, b"still here");
}

#[test]
fn of_datagrams_those_flows_go_at_once_that_were_used_least_recently() {
    let mut room = Room::new(limited(ROOM));
    let mut world = room.world();
    let send = |world: &mut World<'_>, port: u16| {
        world.send(&frame::udp(port, at(OUTSIDE_V4, 7), &port.to_be_bytes()));
        world.advance(10);
    };
    let ids = |world: &World<'_>| -> Vec<FlowId> {
        world.peers.datagrams.values().map(|flow| flow.id).collect()
    };
    let assert_quoted = |world: &mut World<'_>, id: &FlowId, port: u16| {
        world.fail_datagram(id.index, Refusal::Refused);
        let asked = frame::udp(port, at(OUTSIDE_V4, 7), &port.to_be_bytes());
        assert_error_about(&only(world), Error::PORT_UNREACHABLE.of(OUTSIDE_V4), &asked);
    };
    (1..=4).for_each(|port| send(&mut world, port));
    let before = ids(&world);
    send(&mut world, 1); // 2 and 3 are the oldest now
    world.inbox();
    limit(&mut world, [1, 2, 2, 4, 4]);
    assert_eq!(ids(&world), [before[0], before[3]]);
    assert_eq!((world.counters().udp_evicted, world.inbox()), (2, vec![]), "as at the limit");
    world.deliver(before[3].index, b"answer");
    world.deliver(before[0].index, b"answer");
    let answers = world.inbox();
    let to = |seen: &Seen| {
        let Message::Udp { ports, .. } = &seen.message else { panic!("a datagram: {seen:?}") };
        ports.1
    };
    assert_eq!(answers.iter().map(to).collect::<Vec<_>>(), [4, 1]);
    assert_quoted(&mut world, &before[0], 1);
    send(&mut world, 1);
    send(&mut world, 2); // takes the place of port 4
    let after = ids(&world);
    assert_eq!((after.len(), world.counters().udp_evicted), (2, 3));
    assert!(!after.contains(&before[3]));
    let new = after.iter().find(|id| **id != before[0]).expect("one");
    assert_quoted(&mut world, new, 2);
    limit(&mut world, ROOM);
    (11..=14).for_each(|port| send(&mut world, port));
    assert_eq!((world.engine.flow_counts()[1], world.counters().udp_evicted), (4, 5));
}

#[test]
fn of_peers_of_published_ports_those_go_at_once_that_were_used_least_recently() {
    let mut room = Room::new(limited(ROOM));
    let mut world = room.world();
    let open = |world: &mut World<'_>, port: u16| {
        let now = world.now();
        let peer = at(OUTSIDE_V4, port);
        let inbound = Inbound { protocol: Protocol::Udp, peer, guest_port: 53, is_ipv6: false };
        world.advance(10);
        world.engine.open_inbound(now, &inbound).expect("because the oldest makes room")
    };
    let live = |world: &World<'_>, flows: &[FlowId]| -> Vec<bool> {
        flows.iter().map(|flow| world.engine.is_live(*flow)).collect()
    };
    world.send(&frame::udp(1, at(OUTSIDE_V4, 7), b"own"));
    let own = world.peers.datagrams.values().map(|flow| flow.id).collect::<Vec<_>>();
    let mut flows: Vec<FlowId> = (1..=4).map(|port| open(&mut world, port)).collect();
    let now = world.now();
    world.engine.deliver(now, flows[0], b"more");
    limit(&mut world, [4, 4, 2, 4, 2]);
    assert_eq!(live(&world, &flows), [true, false, false, true]);
    flows.push(open(&mut world, 5));
    assert_eq!(live(&world, &flows), [true, false, false, false, true]);
    assert_eq!(live(&world, &own), [true]);
    limit(&mut world, ROOM);
    flows.extend([6, 7].map(|port| open(&mut world, port)));
    assert_eq!(live(&world, &flows), [true, false, false, false, true, true, true]);
}

#[test]
fn pings_that_are_too_many_go_on_and_new_ones_are_refused() {
    let mut room = Room::new(limited(ROOM));
    let mut world = room.world();
    let ask = |ident| frame::echo(OUTSIDE_V4, ident, 1, b"data");
    world.send(&ask(1));
    world.send(&ask(2));
    limit(&mut world, [1, 4, 1, 4, 4]);
    world.inbox();
    assert_eq!([1, 2].map(|ident| world.dropped(&ask(ident))), [None, None]);
    assert_eq!(world.dropped(&ask(3)), Some(Drop::FlowsFull));
    assert_error_about(&only(&mut world), Error::HOST_UNREACHABLE.of(OUTSIDE_V4), &ask(3));
    world.advance(61_000);
    assert_eq!([3, 4].map(|ident| world.dropped(&ask(ident))), [None, Some(Drop::FlowsFull)]);
}

#[test]
fn a_datagram_that_is_begun_becomes_whole_and_new_ones_share_what_is_left() {
    let mut room = Room::new(limited(ROOM));
    let mut world = room.world();
    let cut = |ident: u32| {
        let data = Pattern::new(ident.into()).take(1500);
        frame::fragments(&frame::udp(ident as u16, at(OUTSIDE_V4, 7), &data), ident, 1000)
    };
    let send = |world: &mut World<'_>, piece: &[u8]| {
        world.send(piece);
        world.advance(1);
    };
    let whole = |world: &World<'_>| world.engine.flow_counts()[1];
    let begun = [1, 2, 3, 4].map(cut);
    begun.iter().for_each(|pieces| send(&mut world, &pieces[0]));
    limit(&mut world, [4, 4, 2, 1, 4]);
    // The place of the first is that of all who are new.
    let new = [5, 6].map(cut);
    new.iter().for_each(|pieces| send(&mut world, &pieces[0]));
    begun[1..].iter().for_each(|pieces| send(&mut world, &pieces[1]));
    assert_eq!(whole(&world), 3);
    send(&mut world, &new[1][1]);
    assert_eq!(whole(&world), 4, "the last that came has it");
    limit(&mut world, ROOM);
    let more = [7, 8, 9, 10].map(cut);
    more.iter().for_each(|pieces| send(&mut world, &pieces[0]));
    more.iter().for_each(|pieces| send(&mut world, &pieces[1]));
    assert_eq!(world.counters().udp_opened, 8, "each has a place again");
}

#[test]
fn who_comes_from_outside_meets_the_limit_of_all_connections_too() {
    let mut room = Room::new(limited(ROOM));
    let mut world = room.world();
    let open = |world: &mut World<'_>, port: u16| {
        let peer = at(OUTSIDE_V4, port);
        let now = world.now();
        let inbound = Inbound { protocol: Protocol::Tcp, peer, guest_port: 80, is_ipv6: false };
        world.engine.open_inbound(now, &inbound)
    };
    let flows = [1, 2].map(|port| open(&mut world, port).expect("because there is room"));
    limit(&mut world, [1, 4, 2, 4, 4]);
    assert_eq!(open(&mut world, 3), Err(Refusal::Exhausted));
    assert!(flows.iter().all(|flow| world.engine.is_live(*flow)));
    let now = world.now();
    assert!(world.engine.end(now, flows[1]) && !world.engine.is_live(flows[1]));
    world.close_ended();
    limit(&mut world, [3, 4, 2, 4, 4]);
    open(&mut world, 3).expect("because there is room again");
}
