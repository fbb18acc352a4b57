//! TCP, the waits: each has an end, and none ends a connection that is well.

use sim::frame::{self, OUTSIDE_V4, OUTSIDES};
use sim::guest::Script;
use sim::{End, Room, World};

use crate::at;

const HOUR_MS: u64 = 3600 * 1000;

/// The connection was given up: the guest is reset, and the host.
fn assert_given_up(world: &mut World<'_>, script: &mut Script) {
    script.read(world);
    assert!(script.reset, "the guest is told");
    assert_eq!(world.peers.ended.len(), 1);
    assert_eq!(world.peers.ended[0].end, Some(End::Reset), "the host is told");
    assert_eq!(world.wait().0, None, "nothing is left");
}

#[test]
fn a_half_open_connection_ends_after_10_seconds() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::new(at(outside, 80), 40_000);
        world.send(&frame::tcp(script.to, &script.syn()));
        script.acknowledges = false;
        world.advance(9_900);
        script.read(&mut world);
        assert_eq!((world.peers.ended.len(), script.reset), (0, false));
        world.advance(200);
        assert_given_up(&mut world, &mut script);
    }
}

#[test]
fn an_idle_connection_is_probed_after_two_hours_and_lives_if_the_guest_answers() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    for _ in 0..5 {
        let seen = script.seen.len();
        world.advance(2 * HOUR_MS - 5000);
        script.read(&mut world);
        assert_eq!(script.seen.len(), seen, "silence");
        world.advance(10_000);
        script.read(&mut world);
        assert!(script.seen.len() > seen, "a probe, and an answer");
    }
    script.send(&mut world, b"still here");
    assert_eq!(world.stream().received, b"still here");
}

#[test]
fn an_idle_connection_whose_guest_is_gone_ends() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    script.acknowledges = false;
    world.advance(2 * HOUR_MS + 119_000);
    assert_eq!(world.peers.ended.len(), 0);
    world.advance(10_000);
    assert_given_up(&mut world, &mut script);
}

#[test]
fn a_connection_that_was_idle_for_an_hour_takes_bytes_from_either_side() {
    for from_outside in [false, true] {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
        world.advance(HOUR_MS);
        if from_outside {
            world.give(b"hello");
            // The guest needs a moment to answer.
            world.advance(500);
            script.read(&mut world);
            assert_eq!((&script.received[..], script.reset), (&b"hello"[..], false));
        } else {
            script.send(&mut world, b"hello");
            world.advance(500);
            assert_eq!(world.stream().received, b"hello");
        }
        world.advance(10_000);
        assert_eq!(world.peers.ended.len(), 0);
    }
}

#[test]
fn bytes_that_a_guest_never_acknowledges_are_given_up_after_two_minutes() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    script.acknowledges = false;
    world.advance(HOUR_MS);
    world.give(b"hello");
    world.advance(119_000);
    assert_eq!(world.peers.ended.len(), 0, "tried again and again");
    assert!(world.inbox.len() > 4);
    world.advance(2_000);
    assert_given_up(&mut world, &mut script);
}

#[test]
fn a_guest_that_leaves_its_side_open_in_silence_for_a_minute_is_reset() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    world.advance(HOUR_MS);
    world.finish();
    script.read(&mut world);
    world.advance(59_000);
    script.send(&mut world, b"a word");
    world.advance(59_000);
    assert_eq!((world.peers.ended.len(), script.reset), (0, false), "a word begins it anew");
    world.advance(2_000);
    assert_given_up(&mut world, &mut script);
}

#[test]
fn a_fin_that_a_guest_never_acknowledges_is_given_up_after_30_seconds() {
    for guest_first in [false, true] {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
        if guest_first {
            script.finish(&mut world);
        }
        world.advance(HOUR_MS);
        script.acknowledges = false;
        world.finish();
        world.advance(29_500);
        assert_eq!(world.peers.ended.len(), 0);
        world.advance(1000);
        assert_given_up(&mut world, &mut script);
    }
}

#[test]
fn an_outside_that_never_takes_the_last_bytes_is_given_up_after_30_seconds() {
    let mut room = Room::plain();
    let mut world = room.world();
    world.peers.room = 0;
    let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    // However long it was idle before, the time runs from the end.
    world.advance(HOUR_MS);
    script.send(&mut world, b"last words");
    script.finish(&mut world);
    world.advance(29_000);
    assert_eq!(world.peers.ended.len(), 0);
    world.advance(2_000);
    assert_given_up(&mut world, &mut script);
}

#[test]
fn an_outside_that_takes_the_last_bytes_slowly_is_waited_for() {
    let mut room = Room::plain();
    let mut world = room.world();
    world.peers.room = 0;
    let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    script.send(&mut world, &[1; 20_000]);
    script.finish(&mut world);
    for _ in 0..20 {
        world.advance(29_000);
        world.stream().room = 1000;
        world.run();
    }
    assert!(world.stream().guest_finished && !script.reset);
}

#[test]
fn a_slow_guest_is_waited_for_while_it_acknowledges() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    script.window = 8; // 1024 bytes
    script.say(&mut world, 0, &[]);
    script.acknowledges = false;
    world.stream().to_give.extend(vec![1; 20_000]);
    world.finish();
    for _ in 0..25 {
        script.read(&mut world);
        world.advance(25_000);
        world.send(&frame::tcp(script.to, &script.segment(0, &[])));
    }
    script.acknowledges = true;
    script.read(&mut world);
    assert_eq!((script.received.len(), script.reset), (20_000, false));
}

#[test]
fn a_connection_in_order_leaves_its_slot_within_seconds() {
    let mut room = Room::with(|c| c.tcp_flows_max = 1);
    let mut world = room.world();
    for outside_first in [true, false] {
        let port = 40_000 + u16::from(outside_first);
        let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), port);
        script.finish_both(&mut world, outside_first);
        world.advance(2_000);
        assert_eq!(world.wait().0, None);
    }
}

#[test]
fn nothing_is_due_where_nothing_is_open() {
    let mut room = Room::plain();
    let mut world = room.world();
    world.run();
    assert_eq!(world.wait(), (None, sluicegate_core::WaitReason::Idle));
    world.advance(HOUR_MS);
    assert_eq!(world.wait(), (None, sluicegate_core::WaitReason::Idle));
}

#[test]
fn an_idle_connection_wakes_the_engine_a_handful_of_times_an_hour() {
    let mut room = Room::plain();
    let mut world = room.world();
    let _script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    let end = world.now().plus_millis(HOUR_MS);
    let mut wakes = 0;
    while let Some(until) = world.wait().0.filter(|until| *until <= end) {
        world.clock.move_to(until);
        world.run();
        wakes += 1;
    }
    assert!(wakes <= 10, "{wakes} wakes");
}

#[test]
fn a_guest_that_takes_nothing_is_asked_ever_more_rarely() {
    for answers in [true, false] {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
        script.window = 0;
        script.say(&mut world, 0, &[]);
        script.acknowledges = answers;
        world.give(&[1; 10_000]);
        let end = world.now().plus_millis(HOUR_MS);
        let mut wakes = 0;
        while let Some(until) = world.wait().0.filter(|until| *until <= end) {
            world.clock.move_to(until);
            world.run();
            script.read(&mut world);
            wakes += 1;
        }
        assert!(wakes < 400, "{wakes} wakes in an hour");
        assert_eq!(script.reset, !answers, "who answers is waited for");
    }
}
