//! TCP, the acknowledgements: at once, but for a segment whose answer is expected to carry one.

use core::net::IpAddr;

use sim::frame::OUTSIDES;
use sim::guest::Script;
use sim::{Room, World};
use sluicegate_core::limits::{TCP_ACK_DELAY_MS, TURNS_MIN};

use crate::at;

/// Has guest and outside take turns until an acknowledgement would wait for the next answer.
fn take_turns(world: &mut World<'_>, script: &mut Script) {
    script.acknowledges = false;
    for turn in 0..TURNS_MIN {
        script.say(world, 0, b"question");
        assert_eq!(script.acked, script.next, "turn {turn}: at once, as nothing is known yet");
        world.give(b"answer");
        script.read(world);
    }
}

/// What each test does with a connection on which turns were taken.
fn with_turns(test: impl Fn(&mut World<'_>, &mut Script)) {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        take_turns(&mut world, &mut script);
        test(&mut world, &mut script);
    }
}

/// Bytes that a segment of the guest carries at most.
fn segment_bytes(outside: IpAddr) -> usize {
    if outside.is_ipv4() { 1460 } else { 1440 }
}

#[test]
fn where_turns_are_taken_the_answer_carries_the_acknowledgement() {
    with_turns(|world, script| {
        for _ in 0..10 {
            let seen = script.seen.len();
            script.say(world, 0, b"question");
            assert_eq!(script.seen.len(), seen, "it waits");
            world.advance(TCP_ACK_DELAY_MS - 1);
            world.give(b"answer");
            script.read(world);
            assert_eq!(script.seen.len(), seen + 1, "one frame says both");
            assert_eq!(script.acked, script.next);
        }
        assert_eq!(world.stream().received.len(), 8 * (10 + usize::from(TURNS_MIN)));
    });
}

#[test]
fn an_answer_that_does_not_come_is_waited_for_once() {
    with_turns(|world, script| {
        let seen = script.seen.len();
        script.say(world, 0, b"question");
        world.advance(TCP_ACK_DELAY_MS - 1);
        script.read(world);
        assert_eq!(script.seen.len(), seen, "it waits");
        world.advance(1);
        script.read(world);
        assert_eq!((script.seen.len(), script.acked), (seen + 1, script.next), "and no longer");
        world.give(b"late");
        script.read(world);
        script.say(world, 0, b"question");
        assert_eq!(script.acked, script.next, "who answers late is not waited for");
    });
}

#[test]
fn a_second_segment_and_a_full_one_wait_for_nobody() {
    with_turns(|world, script| {
        script.say(world, 0, b"first half, ");
        assert_ne!(script.acked, script.next);
        script.say(world, 0, b"second half");
        assert_eq!(script.acked, script.next);
        take_turns(world, script);
        let full = vec![0; segment_bytes(script.to.ip())];
        script.say(world, 0, &full);
        assert_eq!(script.acked, script.next);
    });
}

#[test]
fn an_end_is_acknowledged_at_once() {
    with_turns(|world, script| {
        script.say(world, 1, b"the last question");
        assert_eq!(script.acked, script.next);
    });
}
