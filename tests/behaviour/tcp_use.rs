//! Segments of an open connection from which nothing follows: each is counted as a drop, by what it
//! is, and answered where that is due (RFC 9293 3.10.7.4); what is of any use is no drop.

use sim::frame::{self, OUTSIDE_V4, OUTSIDES, Segment, flag};
use sim::guest::Script;
use sim::{Pattern, Room, World};
use sluicegate_core::{Action, Drop};

use crate::at;

/// Sends `segment`; returns why it was dropped, if it was, and the acknowledgements that came.
fn said(world: &mut World<'_>, script: &Script, segment: &Segment) -> (Option<Drop>, Vec<u32>) {
    world.inbox.clear();
    let dropped = world.dropped(&frame::tcp(script.to, segment));
    let seen = world.inbox();
    (dropped, seen.iter().filter_map(|seen| seen.tcp()).map(|tcp| tcp.ack).collect())
}

/// Frames that were dropped so far.
fn drops(world: &World<'_>) -> u64 {
    world.counters().drops.iter().sum()
}

/// A segment `ahead` bytes ahead of the next.
fn ahead(script: &Script, ahead: i32, flags: u8, payload: &[u8]) -> Segment {
    let seq = script.next.wrapping_add_signed(ahead);
    Segment { seq, ..script.segment(flags, payload) }
}

#[test]
fn a_segment_of_no_use_is_counted_by_what_it_is_and_answered() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        script.send(&mut world, b"hello");
        let next = script.next;
        let bare = Segment { flags: 0, ack: 0, ..script.segment(0, b"data") };
        assert_eq!(said(&mut world, &script, &bare), (Some(Drop::NoAck), vec![]));
        let window = 64 * 1024;
        for (distance, flags, payload, reason) in [
            (-5, 0, &b"hello"[..], Drop::Duplicate),
            (-4, 0, b"el", Drop::Duplicate),
            (-2, 0, b"", Drop::Duplicate),
            (i32::MIN, 0, b"data", Drop::Duplicate),
            (window, 0, b"data", Drop::OutOfWindow),
            (window, 0, b"", Drop::OutOfWindow),
            (window, flag::FIN, b"", Drop::OutOfWindow),
            (i32::MAX, 0, b"data", Drop::OutOfWindow),
            (100, flag::FIN, b"", Drop::Early),
        ] {
            world.advance(2000);
            let segment = ahead(&script, distance, flags, payload);
            let answered = said(&mut world, &script, &segment);
            assert_eq!(answered, (Some(reason), vec![next]), "{distance}, {payload:?}");
        }
        assert_eq!(world.stream().received, b"hello");
        script.send(&mut world, b" again");
        assert_eq!(world.stream().received, b"hello again");
    }
}

#[test]
fn what_says_nothing_new_but_is_meant_to_is_no_drop() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    script.send(&mut world, b"hello");
    let next = script.next;
    // Keepalives, and probes of our window (RFC 9293 3.8.4, 3.8.6.1).
    for payload in [&b""[..], b"o"] {
        world.advance(2000);
        let probe = ahead(&script, -1, 0, payload);
        assert_eq!(said(&mut world, &script, &probe), (None, vec![next]), "{payload:?}");
    }
    // A repeated acknowledgement, and another window.
    let mut again = script.segment(0, &[]);
    assert_eq!(said(&mut world, &script, &again), (None, vec![]));
    again.window -= 1;
    assert_eq!(said(&mut world, &script, &again), (None, vec![]));
    // Bytes that wait for others, and those.
    assert_eq!(said(&mut world, &script, &ahead(&script, 2, 0, b"cd")), (None, vec![next]));
    assert_eq!(said(&mut world, &script, &ahead(&script, -2, 0, b"loab")).0, None, "partly old");
    assert_eq!(world.stream().received, b"helloabcd");
}

#[test]
fn what_comes_behind_the_guests_end_is_counted() {
    for outside_first in [false, true] {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
        script.send(&mut world, b"hello");
        if outside_first {
            world.finish();
            script.read(&mut world);
        }
        script.finish(&mut world);
        let end = script.next;
        for (distance, flags, payload, reason) in [
            (-1, flag::FIN, &b""[..], Drop::Duplicate),
            (-6, flag::FIN, b"hello", Drop::Duplicate),
            (0, 0, b"more", Drop::Redundant),
            (-1, 0, b"more", Drop::Redundant),
            (0, flag::FIN, b"", Drop::Redundant),
        ] {
            let segment = ahead(&script, distance, flags, payload);
            let (dropped, acks) = said(&mut world, &script, &segment);
            assert_eq!(dropped, Some(reason), "{distance}, {payload:?}");
            assert!(acks.iter().all(|ack| *ack == end), "{acks:?}");
            world.advance(if outside_first { 100 } else { 2000 });
        }
    }
}

#[test]
fn a_full_buffer_takes_no_byte_and_each_that_comes_is_counted() {
    let mut room = Room::plain();
    let mut world = room.world();
    world.peers.room = 0;
    let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    script.send(&mut world, &[7; 64 * 1024]);
    for _ in 0..3 {
        let beyond = script.segment(0, b"x");
        let answer = said(&mut world, &script, &beyond);
        assert_eq!(answer, (Some(Drop::OutOfWindow), vec![script.next]));
        // One that has come, and one beyond.
        let mut across = script.segment(0, b"ox");
        across.seq = across.seq.wrapping_sub(1);
        let answer = said(&mut world, &script, &across);
        assert_eq!(answer, (Some(Drop::OutOfWindow), vec![script.next]));
    }
    // An acknowledgement is still of use.
    assert_eq!(said(&mut world, &script, &script.segment(0, &[])).0, None);
}

#[test]
fn each_segment_of_a_burst_that_is_of_no_use_is_counted() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    let start = script.clone();
    let mut data = Pattern::new(3);
    script.send(&mut world, &data.take(10 * 1460));
    script.seen.clear();
    // The guest repeats all of it at once, with one segment that is new.
    let mut burst = start;
    burst.expected = script.expected;
    let mut again = Pattern::new(3);
    for _ in 0..11 {
        let segment = burst.segment(0, &again.take(1460));
        burst.next = burst.next.wrapping_add(1460);
        assert!(world.push(&frame::tcp(burst.to, &segment)));
    }
    world.run();
    assert_eq!(world.counters().dropped(Drop::Duplicate), 10);
    assert_eq!(world.stream().received.len(), 11 * 1460);
    Pattern::new(3).check(&world.stream().received);
}

#[test]
fn a_burst_beyond_the_window_is_counted_by_the_segment() {
    let mut room = Room::plain();
    let mut world = room.world();
    world.peers.room = 0;
    let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    // 64 KiB are 65 segments and a part of one; four more are wholly beyond.
    for _ in 0..70 {
        let segment = script.segment(0, &[7; 1000]);
        script.next = script.next.wrapping_add(1000);
        assert!(world.push(&frame::tcp(script.to, &segment)));
    }
    world.run();
    assert_eq!(world.counters().dropped(Drop::OutOfWindow), 4);
}

#[test]
fn a_stream_with_more_gaps_than_are_kept_is_counted_acknowledged_and_whole_at_last() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let script = Script::connect(&mut world, at(outside, 80), 40_000);
        let data = Pattern::new(4).take(100 * 10);
        let piece = |number: i32| {
            let at = number as usize * 10;
            ahead(&script, number * 10, 0, &data[at..at + 10])
        };
        // Every other piece, none of which touches another.
        let (mut kept, mut early) = (0, 0);
        for number in (1..100).step_by(2) {
            let (dropped, acks) = said(&mut world, &script, &piece(number));
            assert_eq!(acks, [script.next], "{number}: where we are (RFC 5681 4.2)");
            match dropped {
                None => kept += 1,
                Some(Drop::Early) => early += 1,
                Some(other) => panic!("{number}: {other:?}"),
            }
        }
        assert!(kept >= 16 && early > 0, "{kept} kept, {early} dropped");
        for number in 0..100 {
            world.send(&frame::tcp(script.to, &piece(number)));
        }
        assert_eq!(world.stream().received, data);
    }
}

#[test]
fn bytes_whose_acknowledgement_was_overtaken_are_taken_and_it_takes_nothing_back() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        world.give(&[7; 3000]);
        script.acknowledges = false;
        script.read(&mut world);
        let first = script.expected.wrapping_sub(3000);
        world.send(&frame::tcp(script.to, &script.segment(0, &[])));
        let old = |segment: Segment| Segment { ack: first, window: 1, ..segment };
        // One that waits for another, then that, then an end.
        let gap = said(&mut world, &script, &old(ahead(&script, 3, 0, b"def")));
        assert_eq!(gap, (None, vec![script.next]));
        assert_eq!(said(&mut world, &script, &old(script.segment(0, b"abc"))).0, None);
        assert_eq!(world.stream().received, b"abcdef");
        let end = old(ahead(&script, 6, flag::FIN, b""));
        assert_eq!(said(&mut world, &script, &end).0, None);
        assert!(world.stream().guest_finished);
        // Alone it says nothing.
        let bare = old(ahead(&script, 7, 0, b""));
        assert_eq!(said(&mut world, &script, &bare), (Some(Drop::Duplicate), vec![]));
        // The window beside it counts for nothing: bytes still come, and none again.
        world.give(&[8; 3000]);
        script.read(&mut world);
        assert_eq!(script.received.len(), 6000);
    }
}

#[test]
fn an_end_behind_bytes_that_find_no_room_comes_with_them_and_not_before() {
    for outside in OUTSIDES {
        // The window's field is in units of 16 bytes: what is offered is rounded down.
        let mut room = Room::with(|config| config.tcp_receive_bytes = 512 * 1024);
        let mut world = room.world();
        world.peers.room = 0;
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        // The guest is offered all of the buffer, and then, behind ten bytes, 6 less.
        world.give(b"x");
        script.read(&mut world);
        script.send(&mut world, &[1; 10]);
        let size = 512 * 1024;
        let mut left = size - 10;
        while left > 1000 {
            script.send(&mut world, &[1; 1000]);
            left -= 1000;
        }
        let start = script.next;
        script.say(&mut world, flag::FIN, &vec![1; left]);
        world.stream().room = usize::MAX;
        world.run();
        assert!(world.stream().received.len() == size || !world.stream().guest_finished);
        // As far as it was not taken, the guest says it again.
        script.next = start;
        script.say(&mut world, flag::FIN, &vec![1; left]);
        assert_eq!(world.stream().received.len(), size);
        assert!(world.stream().guest_finished);
    }
}

#[test]
fn a_wrong_answer_to_our_syn_ack_is_reset_and_counted() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::new(at(outside, 80), 40_000);
        world.send(&frame::tcp(script.to, &script.syn()));
        let seen = world.inbox();
        let syn_ack = seen[0].tcp().expect("the SYN is answered");
        script.next = syn_ack.ack;
        let wrong = Segment { ack: syn_ack.seq, ..script.segment(0, b"") };
        let dropped = world.dropped(&frame::tcp(script.to, &wrong));
        assert_eq!(dropped, Some(Drop::Doubtful));
        let seen = world.inbox();
        assert!(seen[0].tcp().is_some_and(|tcp| tcp.has(flag::RST) && tcp.seq == syn_ack.seq));
        script.expected = syn_ack.seq.wrapping_add(1);
        let right = script.segment(0, b"data");
        assert_eq!(world.dropped(&frame::tcp(script.to, &right)), None);
        assert_eq!(world.stream().received, b"data");
    }
}

#[test]
fn an_older_acknowledgement_within_a_burst_takes_nothing_back() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    world.give(&[7; 3000]);
    script.acknowledges = false;
    script.read(&mut world);
    for (number, behind) in [1500, 0, 3000].into_iter().enumerate() {
        let segment = ahead(&script, number as i32 * 4, 0, b"data");
        let segment = Segment { ack: script.expected.wrapping_sub(behind), ..segment };
        assert!(world.push(&frame::tcp(script.to, &segment)));
    }
    world.run();
    assert_eq!(world.stream().received, b"datadatadata");
    assert_eq!(drops(&world), 0);
    // What the newest of them acknowledges is not repeated.
    script.read(&mut world);
    script.seen.clear();
    world.advance(5000);
    script.read(&mut world);
    assert!(script.seen.iter().all(|tcp| tcp.payload.is_empty()), "{:?}", script.seen);
}

#[test]
fn a_burst_for_a_connection_that_ends_meanwhile_is_counted() {
    let mut room = Room::plain();
    let mut world = room.world();
    let script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    let flow = world.stream().id;
    for number in 0..3 {
        let segment = ahead(&script, number * 4, 0, b"data");
        assert!(world.push(&frame::tcp(script.to, &segment)));
    }
    // The host hears of a datagram before those frames are all done, and then of a reset.
    assert!(world.push(&frame::udp(1000, at(OUTSIDE_V4, 53), b"data")));
    let now = world.now();
    while !matches!(world.engine.poll(now), Action::SendDatagram { .. }) {}
    world.peers.reset(flow.index, &mut world.engine, now);
    world.run();
    assert_eq!(world.counters().dropped(Drop::Redundant), 3);
}
