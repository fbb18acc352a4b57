//! ICMP errors of the guest's: a call that it refuses by one ends at once, what is open goes on,
//! and nothing is believed of what is not on its way.

use sim::frame::{self, ETHERNET, OUTSIDES, flag, icmp_error, protocol};
use sim::guest::Script;
use sim::{End, Pattern, Room, World};
use sluicegate_core::{Drop, Protocol, WaitReason};

use crate::at;
use crate::policy_rules::ip;
use crate::published::{PEERS, Server, come, inbound};

/// Types and codes of errors that end a call, in either family (RFC 9293 3.9.2.2, RFC 1812
/// 5.2.7.1, RFC 4443 3.1).
const HARD: [&[(u8, u8)]; 2] =
    [&[(3, 2), (3, 3), (3, 9), (3, 10), (3, 13)], &[(1, 1), (1, 4), (1, 5), (1, 6)]];
/// And some that end nothing.
const SOFT: [&[(u8, u8)]; 2] = [
    &[(3, 0), (3, 1), (3, 5), (3, 12), (3, 200), (11, 0), (11, 1), (12, 0)],
    &[(1, 0), (1, 2), (1, 3), (1, 200), (2, 1), (3, 0), (3, 1), (4, 0), (4, 1), (4, 2)],
];
/// Port unreachable.
const CLOSED: [(u8, u8); 2] = [(3, 3), (1, 4)];

/// 0 for IPv4, 1 for IPv6.
fn family(address: &str) -> usize {
    usize::from(ip(address).is_ipv6())
}

/// The frame of the SYN that calls the guest, and its end of the connection.
fn called(world: &mut World<'_>, peer: &str) -> (Vec<u8>, Server) {
    come(world, peer).expect("because policy allows it");
    let syn = world.raw.last().expect("because a call begins with a SYN").clone();
    let (server, _) = Server::called(world);
    (syn, server)
}

/// The first frame that the guest got since the inbox was last looked at, which is empty now.
fn first_raw(world: &mut World<'_>) -> Vec<u8> {
    let first = world.raw.first().expect("because a frame came").clone();
    world.inbox();
    first
}

/// Sends `error`, and sees that nothing follows.
fn is_vain(world: &mut World<'_>, error: &[u8]) {
    assert_eq!(world.dropped(error), Some(Drop::IcmpError));
    assert_eq!(world.inbox(), vec![], "an error has no answer");
}

#[test]
fn a_call_that_the_guest_refuses_by_icmp_is_reset_outside_at_once() {
    for peer in PEERS {
        for said in HARD[family(peer)] {
            let mut room = Room::plain();
            let mut world = room.world();
            let (syn, mut server) = called(&mut world, peer);
            assert_eq!(world.dropped(&icmp_error(*said, 0, &syn)), None, "{said:?}");
            assert!(world.peers.streams.is_empty());
            assert_eq!(world.peers.ended[0].end, Some(End::Reset));
            assert_eq!(world.wait().0, None, "nothing is left to wait for");
            assert_eq!(world.inbox(), vec![], "nor to be said");
            let counters = world.counters();
            assert_eq!((counters.tcp_reset, counters.icmp_errors_heeded), (1, 1));
            // It is over for the guest as well.
            is_vain(&mut world, &icmp_error(*said, 0, &syn));
            server.answer(&mut world);
            assert!(server.reset);
        }
    }
}

#[test]
fn a_call_survives_what_may_pass_and_the_guest_can_still_answer() {
    for peer in PEERS {
        let mut room = Room::plain();
        let mut world = room.world();
        let (syn, mut server) = called(&mut world, peer);
        for said in SOFT[family(peer)] {
            is_vain(&mut world, &icmp_error(*said, 0, &syn));
        }
        // A SYN can not be made shorter.
        is_vain(&mut world, &icmp_error([(3, 4), (2, 0)][family(peer)], 1280, &syn));
        server.answer(&mut world);
        world.give(b"welcome");
        server.read(&mut world);
        assert_eq!((&server.received[..], server.reset), (&b"welcome"[..], false));
    }
}

#[test]
fn the_second_syn_of_a_call_is_as_good_as_the_first() {
    for peer in PEERS {
        let mut room = Room::plain();
        let mut world = room.world();
        let (syn, _) = called(&mut world, peer);
        world.advance(1500);
        assert_eq!(world.raw.len(), 1, "it is repeated");
        let again = first_raw(&mut world);
        assert_eq!(again, syn);
        world.send(&icmp_error(CLOSED[family(peer)], 0, &again));
        assert!(world.peers.streams.is_empty());
    }
}

#[test]
fn no_icmp_error_ends_a_connection_that_is_open() {
    for peer in PEERS {
        let mut room = Room::plain();
        let mut world = room.world();
        let (_, mut server) = called(&mut world, peer);
        server.answer(&mut world);
        world.inbox();
        world.give(b"hello");
        let on_its_way = first_raw(&mut world);
        for said in HARD[family(peer)].iter().chain(SOFT[family(peer)]) {
            is_vain(&mut world, &icmp_error(*said, 0, &on_its_way));
        }
        world.give(b" again");
        world.advance(1500);
        server.read(&mut world);
        server.say(&mut world, flag::PSH, b"here");
        assert_eq!(server.received, b"hello again");
        assert_eq!(world.stream().received, b"here");
    }
    // One of the guest's own, half open and then open.
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::new(at(outside, 80), 40_000);
        world.send(&frame::tcp(script.to, &script.syn()));
        world.accept();
        let syn_ack = first_raw(&mut world);
        let hard = CLOSED[usize::from(outside.is_ipv6())];
        is_vain(&mut world, &icmp_error(hard, 0, &syn_ack));
        world.advance(1500);
        script.establish(&mut world);
        world.inbox();
        world.give(b"hello");
        let on_its_way = first_raw(&mut world);
        is_vain(&mut world, &icmp_error(hard, 0, &on_its_way));
        world.advance(10_000);
        script.read(&mut world);
        assert_eq!((&script.received[..], script.reset), (&b"hello"[..], false));
    }
}

/// Changes of a packet that is quoted which make it another: where in it, and to what each byte
/// there is changed.
fn strangers(v4: bool) -> Vec<(&'static str, usize)> {
    let (header, addresses) = if v4 { (20, 12..20) } else { (40, 8..40) };
    let mut all = vec![("version", 0), ("protocol", if v4 { 9 } else { 6 })];
    if v4 {
        all.push(("place of a fragment", 7));
    }
    all.extend(addresses.map(|at| ("address", at)));
    all.extend((0..4).map(|at| ("port", header + at)));
    all.extend((4..8).map(|at| ("sequence number", header + at)));
    all
}

#[test]
fn an_error_about_what_is_not_on_its_way_is_nobodys() {
    for peer in PEERS {
        let mut room = Room::plain();
        let mut world = room.world();
        let (syn, _) = called(&mut world, peer);
        let hard = CLOSED[family(peer)];
        let quote = ETHERNET + if syn[ETHERNET] >> 4 == 4 { 28 } else { 48 };
        for (what, at) in strangers(ip(peer).is_ipv4()) {
            // The low half of the first byte is no part of the version.
            for bit in [0x80, 0x10, if at == 0 { 0x20 } else { 1 }] {
                let mut error = icmp_error(hard, 0, &syn);
                error[quote + at] ^= bit;
                frame::mend(&mut error);
                assert_eq!(world.dropped(&error), Some(Drop::IcmpError), "{what}, byte {at}");
            }
        }
        // The error itself comes from, and goes to, who the packet is between.
        let whole = icmp_error(hard, 0, &syn);
        let other = frame::ip(OUTSIDES[family(peer)], icmp(peer), &whole[quote - 8..]);
        is_vain(&mut world, &other);
        // It is whole as far as the sequence number.
        let needed = if ip(peer).is_ipv4() { 20 } else { 40 } + 8;
        for len in 4..8 + needed {
            let message = &whole[quote - 8..][..len];
            let short = frame::ip(crate::gateway(ip(peer)), icmp(peer), message);
            let reason = world.dropped(&short);
            assert_eq!(reason, Some(Drop::Truncated), "{len} bytes");
        }
        assert_eq!((world.inbox(), world.peers.streams.len()), (vec![], 1));
        let message = &whole[quote - 8..][..8 + needed];
        world.send(&frame::ip(crate::gateway(ip(peer)), icmp(peer), message));
        assert!(world.peers.streams.is_empty(), "eight bytes are enough");
    }
}

fn icmp(peer: &str) -> u8 {
    if ip(peer).is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 }
}

#[test]
fn a_wrong_checksum_is_no_error() {
    for peer in PEERS {
        let mut room = Room::plain();
        let mut world = room.world();
        let (syn, _) = called(&mut world, peer);
        let mut error = icmp_error(CLOSED[family(peer)], 0, &syn);
        *error.last_mut().expect("because it has bytes") ^= 1;
        assert_eq!(world.dropped(&error), Some(Drop::Checksum));
        assert_eq!(world.peers.streams.len(), 1);
    }
}

#[test]
fn an_error_about_one_call_harms_no_other() {
    for peer in PEERS {
        let mut room = Room::plain();
        let mut world = room.world();
        let calls: Vec<_> = (0..3).map(|_| called(&mut world, peer)).collect();
        world.send(&icmp_error(CLOSED[family(peer)], 0, &calls[1].0));
        assert_eq!((world.peers.streams.len(), world.peers.ended.len()), (2, 1));
        let resets = calls.into_iter().map(|(_, mut server)| {
            server.answer(&mut world);
            server.reset
        });
        assert_eq!(resets.collect::<Vec<_>>(), [false, true, false]);
    }
}

#[test]
fn a_call_that_was_given_up_is_not_told_of_twice() {
    // The reset for the guest waits for room in the ring, in which a connection fills all.
    for peer in PEERS {
        let mut room = Room::with(|c| c.tcp_send_bytes = 1 << 20).with_rings(1 << 18);
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(OUTSIDES[0], 80), 40_000);
        script.window = 60_000;
        script.say(&mut world, 0, &[]);
        let first = world.stream().id;
        let (syn, _) = called(&mut world, peer);
        world.stalled = true;
        world.peers.streams.get_mut(&first.index).expect("open").to_give.extend(vec![1; 600_000]);
        world.run();
        let call = *world.peers.streams.keys().find(|index| **index != first.index).expect("open");
        let now = world.now();
        world.peers.reset(call, &mut world.engine, now);
        world.run();
        assert_eq!(world.wait().1, WaitReason::GuestRingFull);
        assert_eq!(
            world.dropped(&icmp_error(CLOSED[family(peer)], 0, &syn)),
            Some(Drop::IcmpError)
        );
        assert_eq!(world.counters().tcp_reset, 1);
    }
}

#[test]
fn what_is_too_long_for_a_link_behind_the_guest_comes_again_in_shorter_segments() {
    for (outside, said, headers) in [(OUTSIDES[0], (3, 4), 40), (OUTSIDES[1], (2, 0), 60)] {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        world.inbox();
        world.give(&Pattern::new(1).take(60_000));
        let lost = world.raw[0].clone();
        let lens = |world: &World<'_>| -> Vec<usize> {
            world.inbox.iter().map(|seen| seen.tcp().expect("a segment").payload.len()).collect()
        };
        assert_eq!(lens(&world).iter().max(), Some(&(1500 - headers)));
        world.inbox();
        // Too much to be news, too little to be true, and what says nothing.
        for mtu in [1500, 9000, if outside.is_ipv4() { 67 } else { 1279 }, 0] {
            is_vain(&mut world, &icmp_error(said, mtu, &lost));
        }
        for mtu in [1400, 1280] {
            assert_eq!(world.dropped(&icmp_error(said, mtu, &lost)), None);
            let again = lens(&world);
            assert_eq!(again.first(), Some(&(mtu as usize - headers)), "at once");
            assert!(again.iter().all(|len| *len <= mtu as usize - headers), "{again:?}");
            world.inbox();
            is_vain(&mut world, &icmp_error(said, mtu, &lost));
        }
        assert_eq!(world.counters().icmp_errors_heeded, 2);
        // All of it arrives, and what comes later is as short.
        while script.received.len() < 60_000 {
            world.advance(1000);
            script.read(&mut world);
        }
        script.acknowledges = false;
        world.give(&[7; 5000]);
        assert_eq!(lens(&world).iter().max(), Some(&(1280 - headers)));
        assert_eq!(world.inbox.iter().filter(|seen| seen.tcp().is_some()).count(), 5);
        script.read(&mut world);
        Pattern::new(1).check(&script.received[..60_000]);
        // It is about what was acknowledged meanwhile.
        is_vain(&mut world, &icmp_error(said, 1280, &lost));
    }
}

#[test]
fn no_segment_becomes_shorter_than_any_guest_may_ask_for() {
    let mut room = Room::plain();
    let mut world = room.world();
    let script = Script::connect(&mut world, at(OUTSIDES[0], 80), 40_000);
    world.inbox();
    world.give(&[1; 3000]);
    let lost = first_raw(&mut world);
    world.send(&icmp_error((3, 4), 68, &lost));
    let first = world.inbox[0].tcp().expect("a segment").clone();
    assert_eq!((first.payload.len(), first.ports.1), (48, script.port));
}

/// A datagram from `peer` to port 53 of the guest, whose frame is returned.
fn asked(world: &mut World<'_>, peer: &str) -> (Vec<u8>, sluicegate_core::FlowId) {
    let now = world.now();
    let flow = world.engine.open_inbound(now, &inbound(Protocol::Udp, peer, 53));
    let flow = flow.expect("because policy allows it");
    world.peers.came_without_connection(flow);
    world.engine.deliver(now, flow, b"ask");
    world.run();
    (first_raw(world), flow)
}

#[test]
fn a_datagram_from_outside_that_the_guest_refuses_leaves_no_flow() {
    for peer in PEERS {
        for said in HARD[family(peer)] {
            let mut room = Room::plain();
            let mut world = room.world();
            let (frame, flow) = asked(&mut world, peer);
            let (_, other) = asked(&mut world, peer);
            for said in SOFT[family(peer)] {
                is_vain(&mut world, &icmp_error(*said, 0, &frame));
            }
            is_vain(&mut world, &icmp_error([(3, 4), (2, 0)][family(peer)], 1280, &frame));
            assert!(world.engine.is_live(flow));
            assert_eq!(world.dropped(&icmp_error(*said, 0, &frame)), None);
            assert_eq!(world.inbox(), vec![], "an error has no answer");
            assert!(!world.engine.is_live(flow) && world.engine.is_live(other));
            is_vain(&mut world, &icmp_error(*said, 0, &frame));
            // Whoever asks again is asked anew, from another port.
            let (again, _) = asked(&mut world, peer);
            assert_ne!(again, frame);
            assert_eq!(world.engine.flow_counts(), [0, 2, 0]);
        }
    }
}

#[test]
fn a_datagram_flow_of_the_guests_own_outlives_what_it_says_of_answers() {
    // RFC 4787 REQ-10.
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        world.send(&frame::udp(1000, at(outside, 7), b"ask"));
        let index = world.datagram();
        world.deliver(index, b"answer");
        let frame = first_raw(&mut world);
        for said in HARD[usize::from(outside.is_ipv6())] {
            is_vain(&mut world, &icmp_error(*said, 0, &frame));
        }
        world.deliver(index, b"another");
        assert_eq!(world.inbox().len(), 1);
    }
}

#[test]
fn a_flood_of_errors_changes_nothing_and_has_no_answer() {
    let mut room = Room::plain();
    let mut world = room.world();
    let (syn, mut server) = called(&mut world, PEERS[0]);
    let own = server.to.port();
    let mut error = icmp_error(CLOSED[0], 0, &syn);
    let port = ETHERNET + 28 + 20;
    for number in 0..60_000_u16 {
        error[port..port + 2].copy_from_slice(&number.to_be_bytes());
        frame::mend(&mut error);
        if number != own {
            is_vain(&mut world, &error);
        }
    }
    server.answer(&mut world);
    assert!(!server.reset);
}
