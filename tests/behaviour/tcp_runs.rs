//! Segments that come in one turn: put together or not, the outside gets the stream as it was.

use sim::frame::{self, OUTSIDE_V4, OUTSIDES, flag};
use sim::guest::Script;
use sim::{Pattern, Room, World};
use sluicegate_core::Drop;

use crate::at;

/// Bytes of a segment here.
const SEGMENT: usize = 1000;

/// The frames of a stream of `count` segments, from where `script` is.
fn stream(script: &Script, count: usize) -> Vec<Vec<u8>> {
    let data = Pattern::new(5).take(count * SEGMENT);
    let frame = |(number, bytes): (usize, &[u8])| {
        let mut segment = script.segment(0, bytes);
        segment.seq = segment.seq.wrapping_add((number * SEGMENT) as u32);
        frame::tcp(script.to, &segment)
    };
    data.chunks(SEGMENT).enumerate().map(frame).collect()
}

/// Puts all of `frames` into the ring, then lets everything happen.
fn burst<'f>(world: &mut World<'_>, frames: impl IntoIterator<Item = &'f Vec<u8>>) {
    frames.into_iter().for_each(|frame| assert!(world.push(frame)));
    world.run();
}

#[test]
fn a_burst_arrives_whole_and_one_acknowledgement_answers_it() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let script = Script::connect(&mut world, at(outside, 80), 40_000);
        world.inbox();
        burst(&mut world, &stream(&script, 40));
        Pattern::new(5).check(&world.stream().received);
        assert_eq!(world.stream().received.len(), 40 * SEGMENT);
        let acks: Vec<u32> =
            world.inbox().iter().filter_map(|f| f.tcp().map(|tcp| tcp.ack)).collect();
        assert_eq!(acks.last(), Some(&script.next.wrapping_add(40 * SEGMENT as u32)));
        assert!(acks.len() <= 2, "{} acknowledgements", acks.len());
    }
}

#[test]
fn a_gap_in_a_burst_is_closed_by_the_segment_that_was_lost() {
    for lost in [0, 1, 7, 18] {
        let mut room = Room::plain();
        let mut world = room.world();
        let script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
        let frames = stream(&script, 20);
        let others = frames.iter().enumerate().filter(|(number, _)| *number != lost);
        burst(&mut world, others.map(|(_, frame)| frame));
        assert_eq!(world.stream().received.len(), lost * SEGMENT);
        world.send(&frames[lost]);
        Pattern::new(5).check(&world.stream().received);
        assert_eq!(world.stream().received.len(), 20 * SEGMENT);
    }
}

#[test]
fn a_segment_that_was_damaged_is_dropped_from_the_middle_of_a_burst() {
    let mut room = Room::plain();
    let mut world = room.world();
    let script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    let mut frames = stream(&script, 10);
    let whole = frames[4].clone();
    *frames[4].last_mut().expect("because it has a payload") ^= 1;
    burst(&mut world, &frames);
    assert_eq!(world.counters().dropped(Drop::Checksum), 1);
    assert_eq!(world.stream().received.len(), 4 * SEGMENT);
    world.send(&whole);
    Pattern::new(5).check(&world.stream().received);
    assert_eq!(world.stream().received.len(), 10 * SEGMENT);
}

#[test]
fn repetitions_and_overlaps_in_a_burst_add_nothing() {
    let mut room = Room::plain();
    let mut world = room.world();
    let script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    let frames = stream(&script, 6);
    let mut overlap = script.segment(0, &Pattern::new(5).take(6 * SEGMENT)[1500..3500]);
    overlap.seq = overlap.seq.wrapping_add(1500);
    let overlap = frame::tcp(script.to, &overlap);
    let order = [&frames[0], &frames[1], &frames[1], &overlap, &frames[2], &frames[3], &frames[0]];
    burst(&mut world, order.into_iter().chain([&frames[4], &frames[5]]));
    Pattern::new(5).check(&world.stream().received);
    assert_eq!(world.stream().received.len(), 6 * SEGMENT);
}

#[test]
fn connections_whose_bursts_are_mixed_get_their_own_bytes() {
    let mut room = Room::plain();
    let mut world = room.world();
    let one = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    let first = world.stream().id.index;
    let other = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_001);
    let (ours, theirs) = (stream(&one, 12), stream(&other, 12));
    for (pair, (a, b)) in ours.iter().zip(&theirs).enumerate() {
        // In pieces of one, two and three.
        let frames = if pair % 3 == 0 { [a, b] } else { [b, a] };
        frames.iter().for_each(|frame| assert!(world.push(frame)));
    }
    world.run();
    for (index, stream) in &world.peers.streams {
        Pattern::new(5).check(&stream.received);
        assert_eq!(stream.received.len(), 12 * SEGMENT, "{index} {first}");
    }
    assert_eq!(world.peers.streams.len(), 2);
}

#[test]
fn an_end_behind_a_burst_comes_after_its_bytes() {
    for end in [flag::FIN, flag::RST] {
        let mut room = Room::plain();
        let mut world = room.world();
        let script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
        let mut last = script.segment(end, &[]);
        last.seq = last.seq.wrapping_add(8 * SEGMENT as u32);
        let mut frames = stream(&script, 8);
        frames.push(frame::tcp(script.to, &last));
        burst(&mut world, &frames);
        let ended = world.peers.ended.first();
        let stream = ended.or_else(|| world.peers.streams.values().next());
        let stream = stream.expect("because it was there");
        assert_eq!(stream.guest_finished, end == flag::FIN);
        assert_eq!(stream.end.is_some(), end == flag::RST);
        if end == flag::FIN {
            Pattern::new(5).check(&stream.received);
            assert_eq!(stream.received.len(), 8 * SEGMENT);
        }
    }
}

#[test]
fn a_burst_beyond_the_window_is_taken_up_to_it() {
    let mut room = Room::plain();
    let mut world = room.world();
    world.peers.room = 0;
    let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    world.inbox();
    burst(&mut world, &stream(&script, 70));
    let window = 64 * 1024;
    let acked = world.inbox().iter().filter_map(|f| f.tcp().map(|tcp| tcp.ack)).next_back();
    assert_eq!(acked, Some(script.next.wrapping_add(window)), "what the buffer holds, and no more");
    world.stream().room = usize::MAX;
    world.run();
    script.next = script.next.wrapping_add(window);
    let rest = Pattern::new(5).take(70 * SEGMENT).split_off(window as usize);
    rest.chunks(SEGMENT).for_each(|bytes| script.send(&mut world, bytes));
    Pattern::new(5).check(&world.stream().received);
    assert_eq!(world.stream().received.len(), 70 * SEGMENT);
}

#[test]
fn a_burst_of_acknowledgements_counts_as_the_last_of_them() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    script.acknowledges = false;
    world.give(&Pattern::new(6).take(60_000));
    script.read(&mut world);
    assert_eq!(script.received.len(), 60_000);
    let first = script.expected.wrapping_sub(60_000);
    let ack = |number: u32| {
        let mut segment = script.segment(0, &[]);
        segment.ack = first.wrapping_add(number * 1460);
        frame::tcp(script.to, &segment)
    };
    burst(&mut world, &(1..=40).map(ack).collect::<Vec<_>>());
    // What is left is repeated in time, and nothing of what was acknowledged.
    world.advance(3000);
    script.seen.clear();
    script.read(&mut world);
    let again: Vec<u32> = script.seen.iter().map(|tcp| tcp.seq.wrapping_sub(first)).collect();
    assert!(!again.is_empty() && again.iter().all(|at| *at >= 40 * 1460), "{again:?}");
}

#[test]
fn repeated_acknowledgements_in_one_burst_still_ask_for_the_lost_segment() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    script.acknowledges = false;
    world.give(&Pattern::new(6).take(30_000));
    script.read(&mut world);
    let first = script.expected.wrapping_sub(30_000);
    let mut repeated = script.segment(0, &[]);
    repeated.ack = first.wrapping_add(1460);
    script.seen.clear();
    // The first acknowledges, three more say that the second segment has not come.
    burst(&mut world, &vec![frame::tcp(script.to, &repeated); 4]);
    script.read(&mut world);
    let again: Vec<u32> = script.seen.iter().map(|tcp| tcp.seq.wrapping_sub(first)).collect();
    assert_eq!(again.first(), Some(&1460), "at once, without a timer");
}
