//! TCP, the end in order: each direction ends by itself, and nothing that came before is lost.

use sim::frame::{self, OUTSIDE_V4, OUTSIDES, Segment, flag};
use sim::guest::Script;
use sim::{Did, End, Pattern, Room};
use sluicegate_core::Event;

use crate::at;

#[test]
fn the_guest_finishes_and_the_outside_goes_on_talking() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        script.say(&mut world, flag::FIN, b"request");
        let stream = world.stream();
        assert_eq!((&stream.received[..], stream.guest_finished), (&b"request"[..], true));
        let (mut sent, mut expected) = (Pattern::new(1), Pattern::new(1));
        for _ in 0..20 {
            world.advance(25_000);
            world.give(&sent.take(10_000));
            script.read(&mut world);
        }
        expected.check(&script.received);
        assert_eq!((expected.len(), script.finished), (200_000, false));
        world.finish();
        script.read(&mut world);
        assert!(script.finished && !script.reset);
        assert_eq!(world.peers.ended[0].end, Some(End::Close));
    }
}

#[test]
fn the_outside_finishes_and_the_guest_goes_on_talking() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        world.stream().to_give.extend(b"hello");
        world.finish();
        script.read(&mut world);
        assert_eq!((&script.received[..], script.finished), (&b"hello"[..], true));
        let (mut sent, mut expected) = (Pattern::new(2), Pattern::new(2));
        for _ in 0..20 {
            world.advance(25_000);
            script.send(&mut world, &sent.take(10_000));
        }
        expected.check(&world.stream().received);
        assert_eq!(expected.len(), 200_000);
        script.finish(&mut world);
        assert_eq!(world.peers.ended[0].end, Some(End::Close));
        assert!(!script.reset);
    }
}

#[test]
fn an_outside_that_has_finished_may_read_as_slowly_as_it_likes() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        world.stream().room = 0;
        world.finish();
        script.read(&mut world);
        let (mut sent, mut expected) = (Pattern::new(3), Pattern::new(3));
        script.send(&mut world, &sent.take(4000));
        script.finish(&mut world);
        // Longer than any TIME-WAIT, less than what ends a flow that makes no progress.
        for _ in 0..4 {
            world.advance(25_000);
            world.stream().room = 1000;
            world.run();
        }
        let stream = &world.peers.ended[0];
        expected.check(&stream.received);
        assert_eq!((expected.len(), stream.end), (4000, Some(End::Close)));
        assert!(script.finished && !script.reset);
    }
}

#[test]
fn bytes_before_a_fin_arrive_before_the_end_from_the_guest() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        world.peers.room = 0;
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        let (mut sent, mut expected) = (Pattern::new(3), Pattern::new(3));
        script.send(&mut world, &sent.take(40_000));
        script.say(&mut world, flag::FIN, &sent.take(1000));
        assert!(!world.stream().guest_finished, "not while bytes wait");
        for _ in 0..41 {
            world.advance(5_000);
            assert!(!world.stream().guest_finished, "not while bytes wait");
            world.stream().room = 1000;
            world.run();
        }
        assert!(world.stream().guest_finished);
        expected.check(&world.stream().received);
        assert_eq!(expected.len(), 41_000);
    }
}

#[test]
fn bytes_before_the_end_arrive_before_the_fin_at_the_guest() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        script.acknowledges = false;
        let (mut sent, mut expected) = (Pattern::new(4), Pattern::new(4));
        world.stream().to_give.extend(sent.take(60_000));
        world.finish();
        script.acknowledges = true;
        script.read(&mut world);
        expected.check(&script.received);
        assert_eq!((expected.len(), script.finished), (60_000, true));
    }
}

#[test]
fn both_sides_may_finish_at_once() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        let fin = frame::tcp(script.to, &script.segment(flag::FIN, &[]));
        world.finish();
        // Sent before the guest saw the other FIN.
        script.next = script.next.wrapping_add(1);
        world.send(&fin);
        script.read(&mut world);
        assert!(script.finished && !script.reset);
        assert_eq!(script.acked, script.next, "the guest's FIN is acknowledged");
        assert_eq!(world.peers.ended[0].end, Some(End::Close));
    }
}

#[test]
fn whoever_finishes_first_both_ends_are_told_once() {
    for outside_first in [false, true] {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
        let flow = world.stream().id;
        script.finish_both(&mut world, outside_first);
        world.advance(60_000);
        let ends = [Did::Finish { flow }, Did::Close { flow }];
        assert_eq!(world.peers.log[world.peers.log.len() - 2..], ends);
        assert_eq!((script.finished, script.reset), (true, false));
        let fins = script.seen.iter().filter(|s| s.has(flag::FIN)).count();
        assert_eq!((fins, world.wait().0), (1, None), "and nothing is left");
        assert_eq!(world.inbox(), vec![]);
    }
}

#[test]
fn a_repeated_fin_is_acknowledged_again_after_the_end() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    world.finish();
    script.read(&mut world);
    let fin = frame::tcp(script.to, &script.segment(flag::FIN, &[]));
    script.finish(&mut world);
    let acknowledged = script.seen.len();
    world.advance(200);
    world.send(&fin);
    script.read(&mut world);
    assert!(script.seen.len() > acknowledged && !script.reset, "as TIME-WAIT is for");
    assert_eq!(script.acked, script.next);
}

#[test]
fn a_port_may_be_used_again_at_once_after_either_kind_of_end() {
    for outside_first in [false, true] {
        for outside in OUTSIDES {
            let mut room = Room::plain();
            let mut world = room.world();
            for round in 0..50u32 {
                let mut script = Script::new(at(outside, 80), 40_000);
                script.next = script.next.wrapping_add(round * 100_000);
                script.open(&mut world);
                script.finish_both(&mut world, outside_first);
                assert_eq!(world.peers.ended.len(), round as usize + 1);
                assert!(script.finished && !script.reset);
            }
        }
    }
}

#[test]
fn events_of_an_ended_flow_are_ignored() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    let flow = world.stream().id;
    world.finish();
    script.read(&mut world);
    script.finish(&mut world);
    assert_eq!(world.peers.ended[0].end, Some(End::Close));
    for wait in [0, 2000] {
        world.advance(wait);
        let now = world.now();
        for event in [
            Event::Connected { flow },
            Event::OutsideFinished { flow },
            Event::OutsideReset { flow },
            Event::ConnectFailed { flow, refusal: sluicegate_core::Refusal::Refused },
            Event::DatagramFailed { flow, refusal: sluicegate_core::Refusal::Refused },
        ] {
            world.engine.handle(now, event);
        }
        assert_eq!(world.engine.take_from_guest(now, flow, |_| 0), None);
        assert_eq!(world.engine.give_to_guest(flow, |_| 0), None);
        world.engine.deliver(now, flow, b"data");
        world.run();
        assert_eq!(world.inbox(), vec![], "after {wait} ms");
    }
}

#[test]
fn the_end_of_the_guests_bytes_waits_for_the_ones_that_are_missing() {
    let mut room = Room::plain();
    let mut world = room.world();
    let script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    let first = script.segment(0, b"first ");
    let last = Segment { seq: script.next.wrapping_add(6), ..script.segment(flag::FIN, b"last") };
    let last = frame::tcp(script.to, &last);
    world.send(&last);
    assert!(!world.stream().guest_finished);
    world.send(&frame::tcp(script.to, &first));
    // The FIN came before its turn; the guest repeats the segment, whose bytes are known by now.
    world.send(&last);
    let stream = world.stream();
    assert_eq!((&stream.received[..], stream.guest_finished), (&b"first last"[..], true));
}

#[test]
fn a_fin_that_is_lost_is_repeated_even_if_the_guest_repeats_itself() {
    for guest_first in [false, true] {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
        if guest_first {
            script.finish(&mut world);
        }
        world.finish();
        world.inbox(); // lost
        let same = frame::tcp(script.to, &script.segment(0, &[]));
        (0..5).for_each(|_| world.send(&same));
        world.advance(5000);
        script.read(&mut world);
        assert!(script.finished && !script.reset);
        let fin = script.seen.last().unwrap();
        assert_eq!((fin.ack, fin.window > 100), (script.next, true), "{fin:?}");
    }
}

#[test]
fn the_last_bytes_follow_the_guests_window_at_once() {
    for guest_first in [false, true] {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
        script.window = 16; // 2048 bytes
        script.say(&mut world, 0, &[]);
        if guest_first {
            script.finish(&mut world);
        }
        let (mut sent, mut seen) = (Pattern::new(1), Pattern::new(1));
        script.acknowledges = false;
        world.stream().to_give.extend(sent.take(20_000));
        world.finish();
        while !script.finished {
            script.read(&mut world);
            // Full, and a while later empty again.
            script.window = 0;
            world.send(&frame::tcp(script.to, &script.segment(0, &[])));
            world.advance(50);
            script.window = 16;
            let before = script.seen.len();
            world.send(&frame::tcp(script.to, &script.segment(0, &[])));
            script.read(&mut world);
            assert!(script.seen.len() > before, "at once: {} bytes", script.received.len());
        }
        seen.check(&script.received);
        assert_eq!((seen.len(), script.reset), (sent.len(), false));
    }
}
