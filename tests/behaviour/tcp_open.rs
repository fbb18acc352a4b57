//! TCP, the beginning: the guest's SYN is answered by what the outside says, never before.

use sim::frame::{self, OUTSIDE_V4, OUTSIDES, Segment, flag, gateway};
use sim::guest::Script;
use sim::{Answer, Did, End, Room, World};
use sluicegate_core::{Drop, Event, Outside, Refusal};

use crate::{Error, answer, assert_error_about, at, everybody, only};

/// Sends the SYN of a connection that the outside has yet to answer.
fn knock(world: &mut World<'_>, script: &Script) -> Vec<u8> {
    world.peers.answer = Answer::Silence;
    let syn = frame::tcp(script.to, &script.syn());
    assert_eq!(world.dropped(&syn), None);
    syn
}

#[test]
fn a_syn_asks_the_host_to_connect_to_what_the_guest_named() {
    for outside in everybody() {
        let mut room = Room::plain();
        let mut world = room.world();
        let to = at(outside, 443);
        knock(&mut world, &Script::new(to, 40_000));
        let expected = if outside == gateway(outside) {
            Outside::HostLoopback(to)
        } else {
            Outside::Remote(to)
        };
        assert_eq!(world.stream().to, expected);
    }
}

#[test]
fn the_syn_is_answered_once_the_outside_has_accepted_and_not_before() {
    for outside in everybody() {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::new(at(outside, 80), 40_000);
        knock(&mut world, &script);
        world.advance(29_000);
        assert_eq!(world.inbox(), vec![]);
        world.accept();
        script.establish(&mut world);
        script.send(&mut world, b"hello");
        assert_eq!(world.stream().received, b"hello");
        world.give(b"good day");
        script.read(&mut world);
        assert_eq!(script.received, b"good day");
    }
}

#[test]
fn a_refused_connection_is_reset_with_an_acknowledgement_of_the_syn() {
    for refusal in [Refusal::Refused, Refusal::Exhausted, Refusal::TooBig { mtu: 1280 }] {
        for outside in everybody() {
            let mut room = Room::plain();
            let mut world = room.world();
            world.peers.answer = Answer::Refuse(refusal);
            let script = Script::new(at(outside, 80), 40_000);
            world.send(&frame::tcp(script.to, &script.syn()));
            let seen = only(&mut world);
            let reset = seen.tcp().expect("a segment");
            assert_eq!((reset.ends, reset.ports), (answer(outside), (80, 40_000)));
            assert_eq!(reset.flags, flag::RST | flag::ACK);
            assert_eq!((reset.seq, reset.ack), (0, script.next.wrapping_add(1)));
            assert_eq!(world.counters().tcp_refused, 1);
            assert_eq!(world.wait().0, None, "nothing is left of it");
        }
    }
}

#[test]
fn an_unreachable_destination_is_said_in_icmp_that_quotes_the_syn() {
    for (refusal, error) in [
        (Refusal::HostUnreachable, Error::HOST_UNREACHABLE),
        (Refusal::NetUnreachable, Error::NET_UNREACHABLE),
        (Refusal::TimedOut, Error::HOST_UNREACHABLE),
        (Refusal::Forbidden, Error::PROHIBITED),
    ] {
        for outside in OUTSIDES {
            let mut room = Room::plain();
            let mut world = room.world();
            let script = Script::new(at(outside, 80), 40_000);
            let mut syn = knock(&mut world, &script);
            world.refuse(refusal);
            // The quote is of a SYN without options: its length says so.
            if outside.is_ipv4() {
                syn[frame::ETHERNET + 3] = 40;
            }
            let icmp = assert_error_about(&only(&mut world), error.of(outside), &syn);
            assert_eq!(icmp.ends, answer(gateway(outside)));
        }
    }
}

#[test]
fn a_connect_without_an_answer_is_silent_for_30_seconds_and_then_host_unreachable() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let script = Script::new(at(outside, 80), 40_000);
        let mut syn = knock(&mut world, &script);
        for _ in 0..29 {
            world.advance(1000);
            assert_eq!(world.dropped(&syn), Some(Drop::Redundant), "the guest tries again");
        }
        assert_eq!(world.inbox(), vec![]);
        assert_eq!(world.peers.log.len(), 1, "the host is asked once");
        world.advance(1001);
        if outside.is_ipv4() {
            syn[frame::ETHERNET + 3] = 40;
        }
        let error = Error::HOST_UNREACHABLE.of(outside);
        assert_error_about(&only(&mut world), error, &syn);
        assert_eq!(world.peers.ended[0].end, Some(End::Reset), "the host gives its socket up");
        assert_eq!(world.wait().0, None);
    }
}

#[test]
fn a_guest_that_gives_up_before_the_answer_ends_the_attempt() {
    let mut room = Room::plain();
    let mut world = room.world();
    let script = Script::new(at(OUTSIDE_V4, 80), 40_000);
    knock(&mut world, &script);
    let flow = world.stream().id;
    let seq = script.next.wrapping_add(1);
    let reset = Segment { port: 40_000, seq, flags: flag::RST, ..Segment::default() };
    world.send(&frame::tcp(script.to, &reset));
    assert_eq!(world.peers.log.last(), Some(&Did::Reset { flow }));
    let now = world.now();
    world.engine.handle(now, Event::Connected { flow });
    world.run();
    assert_eq!(world.inbox(), vec![], "a late success is ignored");
}

#[test]
fn a_guest_that_resets_after_the_syn_ack_ends_the_connection() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let script = Script::new(at(outside, 80), 40_000);
        world.send(&frame::tcp(script.to, &script.syn()));
        let seq = script.next.wrapping_add(1);
        let reset = Segment { port: 40_000, seq, flags: flag::RST, ..Segment::default() };
        world.send(&frame::tcp(script.to, &reset));
        assert_eq!(world.peers.ended.len(), 1, "at once, not when a timer finds out");
        assert_eq!(world.peers.ended[0].end, Some(End::Reset));
        assert_eq!(world.wait().0, None);
        world.inbox();
        // That was of the connection, and not of what takes connections.
        let mut again = Script::connect(&mut world, script.to, 40_000);
        again.send(&mut world, b"once more");
        assert_eq!(world.stream().received, b"once more");
    }
}

#[test]
fn a_new_connection_to_the_same_end_harms_none_in_whatever_state() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let to = at(outside, 80);
        let mut open = Script::connect(&mut world, to, 40_000);
        let mut half_open = Script::new(to, 40_001);
        world.send(&frame::tcp(to, &half_open.syn()));
        let syn_ack = world.inbox();
        let mut connecting = Script::new(to, 40_002);
        knock(&mut world, &connecting);
        let last = *world.peers.streams.keys().max().expect("because there are three");
        world.peers.answer = Answer::Accept;
        let mut newest = Script::connect(&mut world, to, 40_003);
        newest.send(&mut world, b"newest");
        open.send(&mut world, b"open");
        world.inbox.extend(syn_ack);
        half_open.establish(&mut world);
        half_open.send(&mut world, b"half open");
        let now = world.now();
        world.peers.accept(last, &mut world.engine, now);
        world.run();
        connecting.establish(&mut world);
        connecting.send(&mut world, b"connecting");
        let received = world.peers.streams.values().map(|stream| &stream.received[..]);
        let expected = [&b"open"[..], b"half open", b"connecting", b"newest"];
        assert_eq!(received.collect::<Vec<_>>(), expected);
        assert_eq!(world.peers.ended.len(), 0);
    }
}

#[test]
fn a_lost_syn_ack_is_sent_again() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::new(at(OUTSIDE_V4, 80), 40_000);
    world.send(&frame::tcp(script.to, &script.syn()));
    let first = only(&mut world);
    world.advance(1100);
    assert_eq!(only(&mut world), first);
    world.send(&frame::tcp(script.to, &script.syn()));
    world.advance(2100);
    script.establish(&mut world);
    script.send(&mut world, b"hello");
    assert_eq!(world.stream().received, b"hello");
}

#[test]
fn what_the_outside_says_before_the_guest_has_answered_is_kept_for_it() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::new(at(outside, 25), 40_000);
        world.send(&frame::tcp(script.to, &script.syn()));
        world.give(b"220 welcome");
        script.establish(&mut world);
        assert_eq!(script.received, b"220 welcome");
    }
}

#[test]
fn an_outside_that_finishes_before_the_guest_has_answered_finishes_in_order() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::new(at(outside, 25), 40_000);
        world.send(&frame::tcp(script.to, &script.syn()));
        world.finish();
        script.establish(&mut world);
        script.read(&mut world);
        assert!(script.finished && !script.reset, "a FIN, after the SYN: {:?}", script.seen);
        script.send(&mut world, b"still talking");
        assert_eq!(world.stream().received, b"still talking");
        script.finish(&mut world);
        assert_eq!(world.peers.ended[0].end, Some(End::Close));
    }
}

#[test]
fn an_outside_that_resets_before_the_guest_has_answered_resets_the_guest() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::new(at(outside, 25), 40_000);
        world.send(&frame::tcp(script.to, &script.syn()));
        world.reset();
        script.read(&mut world);
        assert!(script.reset);
        let last = script.seen.last().unwrap();
        assert_eq!((last.flags, last.ack), (flag::RST | flag::ACK, script.next.wrapping_add(1)));
    }
}

#[test]
fn data_with_the_syn_is_not_lost() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::new(at(OUTSIDE_V4, 80), 40_000);
    let syn = Segment { payload: b"early".to_vec(), ..script.syn() };
    world.send(&frame::tcp(script.to, &syn));
    script.establish(&mut world);
    // Not acknowledged with the SYN, so the guest sends it again.
    script.send(&mut world, b"early");
    assert_eq!(world.stream().received, b"early");
}

#[test]
fn a_new_attempt_from_the_same_port_replaces_the_one_that_waits() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::new(at(OUTSIDE_V4, 80), 40_000);
    knock(&mut world, &script);
    // The guest has given up without a word, as it may, and begins anew.
    script.next = 0x1234_5678;
    world.send(&frame::tcp(script.to, &script.syn()));
    world.accept();
    script.establish(&mut world);
    script.send(&mut world, b"hello");
    assert_eq!(world.stream().received, b"hello");
}

#[test]
fn a_segment_of_no_connection_is_reset_and_a_reset_is_not() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let stray = Segment {
            port: 40_000,
            seq: 1000,
            ack: 77,
            flags: flag::ACK,
            payload: b"lost".to_vec(),
            ..Segment::default()
        };
        assert_eq!(world.dropped(&frame::tcp(at(outside, 80), &stray)), Some(Drop::NoFlow));
        let seen = only(&mut world);
        let reset = seen.tcp().unwrap();
        assert_eq!((reset.flags, reset.seq), (flag::RST, 77));
        let no_ack = Segment { flags: flag::FIN, ..stray.clone() };
        assert_eq!(world.dropped(&frame::tcp(at(outside, 80), &no_ack)), Some(Drop::NoFlow));
        let seen = only(&mut world);
        let reset = seen.tcp().unwrap();
        assert_eq!((reset.flags, reset.seq, reset.ack), (flag::RST | flag::ACK, 0, 1005));
        let stray = Segment { flags: flag::RST, ..stray };
        assert_eq!(world.dropped(&frame::tcp(at(outside, 80), &stray)), Some(Drop::NoFlow));
        assert_eq!(world.inbox(), vec![]);
    }
}
