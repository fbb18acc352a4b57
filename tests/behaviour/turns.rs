//! Turns: how much one does, and that it is less where somebody waits for its end.

use sim::frame::{self, OUTSIDE_V4, OUTSIDES, flag};
use sim::guest::Script;
use sim::{Message, Pattern, Room, World};
use sluicegate_core::limits::{
    FRAME_BYTES_MAX, TURN_FLOW_BYTES_MAX, TURN_FLOW_BYTES_SHORT_MAX, TURN_FRAME_BYTES_SHORT_MAX,
    TURN_FRAMES_MAX, TURN_FRAMES_SHORT_MAX, TURN_SHORT_MS, TURN_WINDOW_BYTES_SHORT_MAX, TURNS_MIN,
};
use sluicegate_core::{Action, Offload, WaitReason};

use crate::at;

/// How often there have to be turns before they are short: the first row of them has no answer
/// before it.
const EXCHANGES_MIN: u8 = TURNS_MIN + 1;

fn is_short(world: &World<'_>) -> bool {
    match world.engine.turn_max().flow_bytes {
        TURN_FLOW_BYTES_SHORT_MAX => true,
        TURN_FLOW_BYTES_MAX => false,
        other => panic!("a turn of {other} bytes"),
    }
}

/// Frames that the next turn takes of as many as fit, each with `payload_len` bytes.
fn frames_of_a_turn(world: &mut World<'_>, payload_len: usize) -> u64 {
    // Nobody is there: what becomes of them does not matter.
    let frame = frame::udp(1000, at(OUTSIDE_V4, 0), &vec![0; payload_len]);
    while world.push(&frame) {}
    let before = world.counters().frames_from_guest;
    let now = world.now();
    let wait = world.engine.poll(now);
    assert_eq!(wait, Action::Wait { until: Some(now), why: WaitReason::Budget });
    world.counters().frames_from_guest - before
}

#[test]
fn a_turn_has_a_budget_and_comes_back_for_the_rest() {
    let longest = FRAME_BYTES_MAX - 100;
    for (shares, frames) in [(false, TURN_FRAMES_MAX), (true, TURN_FRAMES_SHORT_MAX)] {
        let mut room = Room::plain().with_rings(1 << 20);
        let mut world = room.world();
        if shares {
            world.engine.share_thread();
        }
        assert_eq!(frames_of_a_turn(&mut world, 1), u64::from(frames));
        world.run();
        let taken = world.counters().frames_from_guest;
        assert!(taken > u64::from(2 * frames), "the rest comes after it: {taken}");
    }
    let mut room = Room::plain().with_rings(1 << 20);
    let mut world = room.world();
    world.engine.share_thread();
    let frames = frames_of_a_turn(&mut world, longest);
    assert_eq!(frames, (TURN_FRAME_BYTES_SHORT_MAX / longest + 1) as u64);
}

#[test]
fn turns_are_short_for_a_while_after_guest_and_outside_took_them() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        for _ in 0..EXCHANGES_MIN {
            assert!(!is_short(&world));
            script.say(&mut world, 0, b"question");
            world.give(b"answer");
            script.read(&mut world);
        }
        assert!(is_short(&world));
        world.advance(TURN_SHORT_MS - 1);
        assert!(is_short(&world), "they may go on");
        world.advance(1);
        world.run();
        assert!(!is_short(&world), "they do not");
    }
}

#[test]
fn turns_are_short_for_datagrams_and_pings_that_wait_for_their_answers() {
    type Ask = fn(std::net::IpAddr) -> Vec<u8>;
    let asks: [Ask; 2] = [
        |outside| frame::udp(1000, at(outside, 7), b"question"),
        |outside| frame::echo(outside, 1, 1, b"question"),
    ];
    for (outside, ask) in OUTSIDES.into_iter().flat_map(|outside| asks.map(|ask| (outside, ask))) {
        let mut room = Room::plain();
        let mut world = room.world();
        for _ in 0..EXCHANGES_MIN {
            assert!(!is_short(&world));
            world.send(&ask(outside));
            let index = world.datagram();
            let asked = world.peers.datagrams[&index].sent.last().expect("because it was sent");
            let answer = asked.clone();
            world.deliver(index, &answer);
        }
        assert!(is_short(&world));
    }
}

#[test]
fn who_sends_a_stream_either_way_has_long_turns() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
    for _ in 0..2 * EXCHANGES_MIN {
        script.send(&mut world, &Pattern::new(0).take(8000));
        assert!(!is_short(&world), "up");
    }
    for _ in 0..2 * EXCHANGES_MIN {
        world.give(&Pattern::new(0).take(8000));
        script.read(&mut world);
        assert!(!is_short(&world), "down");
    }
    // One of datagrams, in which acknowledgements come back now and then.
    for number in 0..20 * u32::from(EXCHANGES_MIN) {
        world.send(&frame::udp(1000, at(OUTSIDE_V4, 443), b"part of a stream"));
        if number % 2 == 0 {
            let index = world.datagram();
            world.deliver(index, b"acknowledgement");
        }
        assert!(!is_short(&world), "datagrams");
    }
}

#[test]
fn an_answer_waits_for_one_packet_of_a_loud_flow_and_not_for_all_of_them() {
    for waits in [true, false] {
        let mut room = Room::with(|c| c.tcp_send_bytes = 1 << 19).with_rings(1 << 20);
        let mut world = room.world();
        let mut loud = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
        let (loud_index, loud_port) = (world.stream().id.index, loud.port);
        loud.window = 4096;
        loud.say(&mut world, 0, b"all of it");
        let mut quiet = Script::connect(&mut world, at(OUTSIDE_V4, 81), 40_001);
        let quiet_index = *world.peers.streams.keys().find(|i| **i != loud_index).unwrap();
        for _ in 0..EXCHANGES_MIN * u8::from(waits) {
            quiet.say(&mut world, 0, b"question");
            world.peers.stream(quiet_index).to_give.extend(b"answer");
            world.run();
            quiet.read(&mut world);
        }
        assert_eq!(is_short(&world), waits);
        world.inbox();
        world.peers.stream(loud_index).to_give.extend(vec![1; 300_000]);
        world.peers.stream(quiet_index).to_give.extend(b"the answer");
        world.run();
        let mut before = 0;
        for seen in world.inbox() {
            let Message::Tcp(segment) = seen.message else { panic!("TCP") };
            if segment.ports.1 != loud_port {
                break;
            }
            before += segment.payload.len();
        }
        assert_eq!(before <= 1 << 16, waits, "{before} bytes before the answer");
        world.run();
    }
}

/// What the guest was told last of how much more it may send, in bytes, and the right edge of it.
fn window(script: &Script) -> (u32, u32) {
    let syn_ack = script.seen.iter().find(|segment| segment.has(flag::SYN)).expect("it came");
    let shift = syn_ack.option(3).expect("because the guest offered to shift windows")[0];
    let last = script.seen.last().expect("because it came");
    let bytes = u32::from(last.window) << shift;
    (bytes, last.ack.wrapping_add(bytes))
}

#[test]
fn the_guest_has_less_of_a_loud_flow_on_its_way_while_it_waits_for_an_answer() {
    const ROOM_BYTES: u32 = 1 << 19;
    /// What is told where nobody waits: what came last may still be in the buffer.
    const WIDE: std::ops::RangeInclusive<u32> = ROOM_BYTES - 11 * 1460..=ROOM_BYTES;
    const NARROW: std::ops::RangeInclusive<u32> =
        TURN_WINDOW_BYTES_SHORT_MAX..=TURN_WINDOW_BYTES_SHORT_MAX;
    // Where the guest leaves rows of segments to its link, its queue is short in any case.
    for has_rows in [false, true] {
        let mut room = Room::with(|c| c.tcp_receive_bytes = ROOM_BYTES as usize);
        let mut world = room.world();
        let mut loud = Script::connect(&mut world, at(OUTSIDE_V4, 80), 40_000);
        loud.send(&mut world, &[0; 1460]);
        assert!(WIDE.contains(&window(&loud).0));
        let mut quiet = Script::connect(&mut world, at(OUTSIDE_V4, 81), 40_001);
        if has_rows {
            let segment = quiet.segment(flag::PSH, &[0; 2000]);
            let cut = Offload { segment_bytes: 1460, ..Offload::NONE };
            assert!(world.push_offloaded(&frame::tcp(quiet.to, &segment), cut));
            quiet.next = quiet.next.wrapping_add(2000);
            world.run();
        }
        let quiet_index = *world.peers.streams.keys().last().expect("because it is open");
        let mut ask = |world: &mut World<'_>| {
            for _ in 0..EXCHANGES_MIN {
                quiet.say(world, 0, b"question");
                world.peers.stream(quiet_index).to_give.extend(b"answer");
                world.run();
                quiet.read(world);
            }
        };
        ask(&mut world);
        assert!(is_short(&world));
        let (mut least, mut edge) = window(&loud);
        for _ in 0..ROOM_BYTES / (10 * 1460) {
            loud.send(&mut world, &[1; 10 * 1460]);
            let (bytes, next_edge) = window(&loud);
            // A field has no room for what is less than its unit.
            let back = edge.wrapping_sub(next_edge).cast_signed();
            assert!(back < 16, "the right edge goes back by {back}");
            (least, edge) = (least.min(bytes), next_edge);
        }
        let expected = if has_rows { WIDE } else { NARROW };
        assert!(expected.contains(&least), "{least} bytes, rows: {has_rows}");
        world.advance(TURN_SHORT_MS);
        world.run();
        assert!(!is_short(&world));
        loud.send(&mut world, &[2; 1460]);
        assert!(WIDE.contains(&window(&loud).0), "nobody waits any more");
    }
}
