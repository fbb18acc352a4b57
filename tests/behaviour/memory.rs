//! Memory goes back: a flow that moved much says which bytes of its buffers hold nothing, when it
//! ends or falls silent, and never of bytes that somebody still waits for.

use core::ops::Range;

use sim::frame::{self, OUTSIDE_V4, OUTSIDES, flag};
use sim::guest::Script;
use sim::{Did, Pattern, Room, World};

use crate::at;

/// Bytes of each buffer of a flow here.
const BUFFER: usize = 64 * 1024;

/// What was given back, and whether the flow had ended.
fn given_back(world: &World<'_>) -> Vec<(Range<usize>, bool)> {
    let unused = |did: &Did| match did {
        Did::Unused { bytes, is_ended } => Some((bytes.clone(), *is_ended)),
        Did::Connect { .. }
        | Did::Intercept { .. }
        | Did::Send { .. }
        | Did::Finish { .. }
        | Did::Receive { .. }
        | Did::Reset { .. }
        | Did::Close { .. }
        | Did::SendDatagram { .. } => None,
    };
    world.peers.log.iter().filter_map(unused).collect()
}

/// Moves `bytes` bytes to the guest, which takes them all.
fn move_down(world: &mut World<'_>, script: &mut Script, bytes: usize) {
    world.give(&Pattern::new(9).take(bytes));
    script.read(world);
    world.run();
}

#[test]
fn a_flow_that_moved_much_gives_both_buffers_back_when_it_ends_and_one_that_did_not_keeps_them() {
    for outside in OUTSIDES {
        for (bytes, expected) in [(200_000, vec![(0..2 * BUFFER, true)]), (5000, vec![])] {
            let mut room = Room::plain();
            let mut world = room.world();
            let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
            move_down(&mut world, &mut script, bytes);
            world.send(&frame::tcp(script.to, &script.segment(flag::RST, &[])));
            world.run();
            assert!(world.peers.streams.is_empty(), "the flow has ended");
            assert_eq!(given_back(&world), expected, "{outside} {bytes}");
        }
    }
}

#[test]
fn a_silent_flow_gives_back_what_is_empty_and_goes_on_afterwards() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    move_down(&mut world, &mut script, 200_000);
    world.advance(1900);
    assert_eq!(given_back(&world), [], "not while the guest may go on");
    world.advance(1200);
    assert_eq!(given_back(&world), [(0..2 * BUFFER, false)]);
    world.advance(60_000);
    assert_eq!(given_back(&world).len(), 1, "said once");
    script.received.clear();
    move_down(&mut world, &mut script, 100_000);
    Pattern::new(9).check(&script.received);
    assert_eq!(script.received.len(), 100_000);
}

#[test]
fn bytes_beyond_a_gap_are_not_given_back() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    move_down(&mut world, &mut script, 200_000);
    let (first, second) = (script.segment(0, &[1; 1000]), {
        let mut later = script.segment(0, &[2; 1000]);
        later.seq = later.seq.wrapping_add(1000);
        later
    });
    world.send(&frame::tcp(script.to, &second));
    world.advance(5000);
    assert_eq!(given_back(&world), [(BUFFER..2 * BUFFER, false)], "the send buffer alone");
    world.send(&frame::tcp(script.to, &first));
    assert_eq!(world.stream().received, [[1; 1000], [2; 1000]].concat());
}

#[test]
fn bytes_that_the_outside_has_not_taken_or_the_guest_not_acknowledged_are_not_given_back() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    move_down(&mut world, &mut script, 200_000);
    world.stream().room = 0;
    script.send(&mut world, &[3; 1000]);
    world.give(&[4; 1000]); // never acknowledged
    world.advance(3000);
    assert_eq!(given_back(&world), []);
    world.stream().room = 1000;
    world.run();
    assert_eq!(world.stream().received, [3; 1000]);
}

#[test]
fn what_waits_in_buffers_is_told_each_way_and_gone_with_its_flow() {
    let mut room = Room::plain();
    let mut world = room.world();
    assert_eq!(world.engine.buffered(), [0, 0]);
    let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    let index = world.stream().id.index;
    let mut other = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_001);
    for stream in world.peers.streams.values_mut() {
        stream.room = 0;
    }
    script.send(&mut world, &[3; 1000]);
    other.send(&mut world, &[3; 500]);
    assert_eq!(world.engine.buffered(), [1500, 0]);
    script.acknowledges = false;
    other.acknowledges = false;
    world.peers.stream(index).to_give.extend([4; 700]);
    world.run();
    assert_eq!(world.engine.buffered(), [1500, 700]);
    world.send(&frame::tcp(script.to, &script.segment(flag::RST, &[])));
    world.run();
    assert_eq!(world.engine.buffered(), [500, 0]);
}
