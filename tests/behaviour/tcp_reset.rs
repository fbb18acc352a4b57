//! TCP, the end out of order: a reset on one side is a reset on the other, never a clean end.

use sim::frame::{self, OUTSIDES, Segment, flag};
use sim::guest::Script;
use sim::{Answer, End, Room, World};
use sluicegate_core::{Drop, Permission, Policy};

use crate::at;

/// Resets the connection from the guest's side.
fn reset(world: &mut World<'_>, script: &Script) {
    let segment = Segment { flags: flag::RST | flag::ACK, ..script.segment(0, &[]) };
    world.send(&frame::tcp(script.to, &segment));
}

fn assert_reset_by_guest(world: &World<'_>) {
    assert_eq!(world.peers.ended.len(), 1);
    let stream = &world.peers.ended[0];
    assert_eq!((stream.end, stream.guest_finished), (Some(End::Reset), false), "no clean end");
    assert_eq!(world.wait().0, None, "nothing is left");
}

#[test]
fn a_reset_of_the_guest_resets_the_outside() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        script.send(&mut world, b"hello");
        reset(&mut world, &script);
        assert_reset_by_guest(&world);
        assert_eq!(world.inbox(), vec![], "no answer to a reset");
        assert_eq!(world.counters().tcp_reset, 1);
    }
}

/// So a guest that was restored learns at once that its connections are gone.
#[test]
fn a_segment_of_a_connection_that_nobody_knows_is_reset_whatever_policy_says() {
    // To the gateway go also answers to those who came to a published port.
    for to in OUTSIDES.into_iter().chain(OUTSIDES.map(frame::gateway)) {
        for (flags, len) in [(flag::ACK, 0), (flag::PSH, 9), (flag::FIN, 0), (flag::SYN, 0)] {
            let mut room = Room::with(|config| {
                config.policy = Policy::new(Permission::Deny, Permission::Deny);
            });
            let mut world = room.world();
            let mut script = Script::new(at(to, 50_000), 7100);
            script.expected = 77;
            let segment = script.segment(flags, &[1; 9][..len]);
            let reason = world.dropped(&frame::tcp(script.to, &segment));
            assert_eq!(reason, Some(Drop::NoFlow));
            script.read(&mut world);
            let reset = script.seen.last().unwrap();
            // RFC 9293 3.10.7.1: at the number that the segment acknowledges.
            assert_eq!((reset.flags, reset.seq), (flag::RST, 77), "{to} {flags}");
        }
    }
}

#[test]
fn a_reset_of_the_guest_with_bytes_on_their_way_resets_the_outside() {
    let mut room = Room::plain();
    let mut world = room.world();
    world.peers.room = 0;
    let mut script = Script::connect(&mut world, at(OUTSIDES[0], 80), 40_000);
    script.acknowledges = false;
    script.send(&mut world, b"hello");
    world.give(&[7; 10_000]);
    script.read(&mut world);
    reset(&mut world, &script);
    assert_reset_by_guest(&world);
}

#[test]
fn a_reset_of_the_guest_after_the_outside_has_finished_resets_the_outside() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDES[0], 80), 40_000);
    world.finish();
    script.read(&mut world);
    reset(&mut world, &script);
    assert_reset_by_guest(&world);
}

#[test]
fn a_reset_of_the_outside_resets_the_guest() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        script.send(&mut world, b"hello");
        world.reset();
        script.read(&mut world);
        assert!(script.reset && !script.finished);
        let last = script.seen.last().unwrap();
        assert_eq!((last.seq, last.ack), (script.expected, script.next), "where the guest is");
        assert_eq!(world.wait().0, None, "nothing is left");
        assert_eq!(world.counters().tcp_reset, 1);
    }
}

#[test]
fn a_reset_of_the_outside_while_the_guest_does_not_read_resets_the_guest() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        script.acknowledges = false;
        world.give(&[7; 100_000]);
        script.read(&mut world);
        world.advance(3000);
        world.reset();
        script.acknowledges = true;
        script.read(&mut world);
        world.advance(100);
        script.read(&mut world);
        assert!(script.reset && !script.finished, "{:?}", script.seen.last());
    }
}

#[test]
fn a_reset_of_the_outside_after_the_guest_has_finished_resets_the_guest() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDES[0], 80), 40_000);
    script.finish(&mut world);
    world.reset();
    script.read(&mut world);
    assert!(script.reset && !script.finished);
}

#[test]
fn a_reset_of_the_outside_before_it_was_connected_refuses_the_guest() {
    let mut room = Room::plain();
    let mut world = room.world();
    world.peers.answer = Answer::Silence;
    let mut script = Script::new(at(OUTSIDES[0], 80), 40_000);
    world.send(&frame::tcp(script.to, &script.syn()));
    world.reset();
    script.read(&mut world);
    assert!(script.reset);
    world.advance(60_000);
    assert_eq!(world.wait().0, None, "nothing is left");
    // And the slot is as good as new.
    world.peers.answer = Answer::Accept;
    let mut script = Script::connect(&mut world, at(OUTSIDES[0], 80), 40_001);
    script.send(&mut world, b"hello");
    assert_eq!(world.stream().received, b"hello");
}

/// Its text is for people (RFC 9293 3.5.3): its number decides, and needs no room (3.10.7.4).
#[test]
fn a_reset_with_a_text_is_believed_with_room_for_it_or_without() {
    let full = |world: &mut World<'_>, script: &mut Script| {
        world.stream().room = 0;
        for _ in 0..4 {
            script.send(world, &[7; 1024]);
        }
        let window = script.seen.last().unwrap().window;
        assert_eq!((script.acked, window), (script.next, 0), "the window is closed");
    };
    type Before<'f> = &'f dyn Fn(&mut World<'_>, &mut Script);
    let before: [(&str, Before<'_>); 3] = [
        ("room", &|_, _| {}),
        ("no room", &full),
        ("the guest's end", &|world, script| script.finish(world)),
    ];
    for ((what, before), outside) in before.iter().flat_map(|case| OUTSIDES.map(|to| (case, to))) {
        let mut room = Room::with(|config| config.tcp_receive_bytes = 4096);
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        before(&mut world, &mut script);
        let text = Segment { flags: flag::RST, ..script.segment(0, b"out of memory") };
        let elsewhere = Segment { seq: text.seq.wrapping_sub(1), ..text.clone() };
        assert_eq!(world.dropped(&frame::tcp(script.to, &elsewhere)), Some(Drop::Doubtful));
        assert_eq!(world.peers.ended.len(), 0, "{what}: not by a number that is near");
        assert_eq!(world.dropped(&frame::tcp(script.to, &text)), None, "{what}");
        let ends: Vec<_> = world.peers.ended.iter().map(|stream| stream.end).collect();
        assert_eq!(ends, [Some(End::Reset)], "{what}");
        assert!(!world.peers.ended[0].received.ends_with(b"memory"), "{what}: it is no data");
        assert_eq!(world.inbox(), vec![], "{what}: no answer to a reset");
    }
}

#[test]
fn a_reset_from_elsewhere_in_the_sequence_is_not_believed() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDES[0], 80), 40_000);
    for distance in [1_000_000u32, 1 << 31, 0xffff_0000, u32::MAX] {
        let seq = script.next.wrapping_add(distance);
        let segment = Segment { flags: flag::RST, seq, ..script.segment(0, &[]) };
        world.send(&frame::tcp(script.to, &segment));
    }
    script.send(&mut world, b"still here");
    assert_eq!(world.stream().received, b"still here");
}

#[test]
fn a_repeated_syn_on_a_live_connection_changes_nothing() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::new(at(OUTSIDES[0], 80), 40_000);
    let syn = frame::tcp(script.to, &script.syn());
    script.open(&mut world);
    script.send(&mut world, b"one ");
    assert_eq!(world.dropped(&syn), Some(sluicegate_core::Drop::Doubtful));
    script.send(&mut world, b"two");
    assert_eq!(world.stream().received, b"one two");
}
