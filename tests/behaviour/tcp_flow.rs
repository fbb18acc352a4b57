//! TCP, the middle: buffers fill and drain, memory is bounded, and a slow reader stalls only
//! itself.

use sim::frame::{self, OUTSIDES, Segment};
use sim::guest::Script;
use sim::{Dice, Pattern, Room, World};

use crate::at;

const BUFFER: usize = 64 * 1024;

#[test]
fn bytes_go_both_ways_unharmed() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        let (mut up, mut up_seen) = (Pattern::new(1), Pattern::new(1));
        let (mut down, mut down_seen) = (Pattern::new(2), Pattern::new(2));
        let mut dice = Dice::new(7);
        for _ in 0..300 {
            script.send(&mut world, &up.take(dice.between(1, 20_000) as usize));
            up_seen.check(&core::mem::take(&mut world.stream().received));
            world.give(&down.take(dice.between(1, 20_000) as usize));
            script.read(&mut world);
            down_seen.check(&core::mem::take(&mut script.received));
        }
        assert_eq!((up.len(), down.len()), (up_seen.len(), down_seen.len()));
    }
}

#[test]
fn segments_out_of_order_are_put_in_order() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDES[0], 80), 40_000);
    let mut dice = Dice::new(11);
    let (mut sent, mut seen) = (Pattern::new(1), Pattern::new(1));
    for _ in 0..50 {
        let mut frames = vec![];
        for _ in 0..20 {
            let payload = sent.take(dice.between(1, 1460) as usize);
            frames.push(frame::tcp(script.to, &script.segment(0, &payload)));
            script.next = script.next.wrapping_add(payload.len() as u32);
        }
        while !frames.is_empty() {
            let at = dice.below(frames.len() as u64) as usize;
            let frame = frames.swap_remove(at);
            world.send(&frame);
            if dice.one_of(300) {
                world.send(&frame);
            }
        }
        seen.check(&core::mem::take(&mut world.stream().received));
        script.read(&mut world);
        assert_eq!(script.acked, script.next);
    }
    assert_eq!(sent.len(), seen.len());
}

/// Sends what fits into the window that the engine offers, as an honest guest would.
fn fill(world: &mut World<'_>, script: &mut Script, sent: &mut Pattern) -> usize {
    let mut total = 0;
    loop {
        let last = script.seen.last().expect("because the connection is open");
        // The window of a SYN-ACK is not scaled (RFC 7323 2.2).
        let shift = if last.has(frame::flag::SYN) { 0 } else { syn_ack_shift(script) };
        let edge = script.acked.wrapping_add(u32::from(last.window) << shift);
        let room = edge.wrapping_sub(script.next).cast_signed().max(0) as usize;
        if room == 0 {
            return total;
        }
        let bytes = sent.take(room.min(1440));
        total += bytes.len();
        script.send(world, &bytes);
    }
}

fn syn_ack_shift(script: &Script) -> u32 {
    let syn_ack = script.seen.iter().find(|s| s.has(frame::flag::SYN)).expect("a SYN-ACK");
    syn_ack.option(3).map_or(0, |shift| u32::from(shift[0]))
}

#[test]
fn a_slow_outside_fills_one_buffer_and_no_more() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        world.peers.room = 0;
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        let (mut sent, mut seen) = (Pattern::new(1), Pattern::new(1));
        let held = fill(&mut world, &mut script, &mut sent);
        assert!((BUFFER - 1440..=BUFFER).contains(&held), "{held} bytes are held");
        assert_eq!(script.seen.last().unwrap().window, 0, "the window is closed");
        // It opens once somebody reads.
        world.stream().room = usize::MAX;
        world.run();
        script.read(&mut world);
        assert!(script.seen.last().unwrap().window > 0, "the guest is told");
        fill_some(&mut world, &mut script, &mut sent);
        seen.check(&world.stream().received);
        assert_eq!(seen.len(), sent.len());
    }
}

fn fill_some(world: &mut World<'_>, script: &mut Script, sent: &mut Pattern) {
    for _ in 0..100 {
        script.send(world, &sent.take(1460));
    }
}

#[test]
fn a_slow_guest_fills_one_buffer_and_no_more() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        script.window = 0;
        script.say(&mut world, 0, b"x");
        let (mut sent, mut seen) = (Pattern::new(1), Pattern::new(1));
        world.give(&sent.take(1_000_000));
        let given = world.stream().given;
        assert_eq!(given, BUFFER as u64, "the rest stays outside");
        // Probed for a quarter of an hour, and alive, since the guest answers.
        for _ in 0..90 {
            world.advance(10_000);
            script.read(&mut world);
        }
        assert!(!script.reset);
        script.window = 512;
        script.say(&mut world, 0, &[]);
        for _ in 0..100 {
            script.read(&mut world);
            world.advance(10);
        }
        seen.check(&script.received);
        assert_eq!(seen.len(), sent.len());
    }
}

#[test]
fn both_sides_write_without_reading_and_neither_waits_for_ever() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        world.peers.room = 0;
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        script.acknowledges = false;
        script.window = 16;
        let (mut up, mut up_seen) = (Pattern::new(1), Pattern::new(1));
        let (mut down, mut down_seen) = (Pattern::new(2), Pattern::new(2));
        world.give(&down.take(500_000));
        fill(&mut world, &mut script, &mut up);
        world.advance(20_000);
        let held = world.stream().given - script.received.len() as u64;
        assert!(held <= BUFFER as u64, "{held} bytes are held");
        // Both read again.
        script.acknowledges = true;
        script.window = 512;
        world.stream().room = usize::MAX;
        world.run();
        script.say(&mut world, 0, &[]);
        for _ in 0..200 {
            world.advance(500);
            script.read(&mut world);
        }
        up_seen.check(&world.stream().received);
        down_seen.check(&script.received);
        assert_eq!((up_seen.len(), down_seen.len()), (up.len(), down.len()));
    }
}

#[test]
fn a_stalled_flow_stalls_no_other_in_either_direction() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut stalled = Script::connect(&mut world, at(OUTSIDES[0], 80), 40_000);
    stalled.acknowledges = false;
    world.stream().room = 0;
    let index = world.stream().id.index;
    world.peers.streams.get_mut(&index).unwrap().to_give.extend(vec![1; 1_000_000]);
    stalled.send(&mut world, &[2; 30_000]);
    world.run();
    world.inbox();
    let mut lively = Script::connect(&mut world, at(OUTSIDES[1], 80), 40_001);
    let other = *world.peers.streams.keys().find(|i| **i != index).unwrap();
    let (mut up, mut up_seen) = (Pattern::new(1), Pattern::new(1));
    let (mut down, mut down_seen) = (Pattern::new(2), Pattern::new(2));
    for _ in 0..100 {
        lively.send(&mut world, &up.take(10_000));
        let stream = world.peers.stream(other);
        up_seen.check(&core::mem::take(&mut stream.received));
        stream.to_give.extend(down.take(10_000));
        world.run();
        lively.read(&mut world);
        down_seen.check(&core::mem::take(&mut lively.received));
    }
    assert_eq!((up.len(), down.len()), (up_seen.len(), down_seen.len()));
}

#[test]
fn one_flow_with_much_to_say_lets_others_speak_in_the_same_turn() {
    let mut room = Room::with(|c| c.tcp_send_bytes = 1 << 20).with_rings(1 << 20);
    let mut world = room.world();
    let loud = Script::connect(&mut world, at(OUTSIDES[0], 80), 40_000);
    let index = world.stream().id.index;
    let mut quiet = Script::connect(&mut world, at(OUTSIDES[0], 81), 40_001);
    let other = *world.peers.streams.keys().find(|i| **i != index).unwrap();
    world.stalled = true;
    world.peers.stream(index).to_give.extend(vec![1; 4_000_000]);
    world.peers.stream(other).to_give.extend(b"me too");
    world.run();
    // The guest takes what is there, and never acknowledges the loud one.
    world.stalled = false;
    world.run();
    assert!(loud.port != quiet.port);
    quiet.read(&mut world);
    assert_eq!(quiet.received, b"me too");
}

#[test]
fn a_window_that_shrinks_harms_nobody() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDES[0], 80), 40_000);
    script.acknowledges = false;
    let (mut sent, mut seen) = (Pattern::new(1), Pattern::new(1));
    world.give(&sent.take(200_000));
    // 50 KiB are under way; now the guest takes back all but a little of the window.
    for window in [100, 1, 0, 3, 0] {
        script.window = window;
        world.send(&frame::tcp(script.to, &script.segment(0, &[])));
        world.advance(1500);
    }
    script.window = 512;
    script.acknowledges = true;
    script.say(&mut world, 0, &[]);
    for _ in 0..100 {
        world.advance(500);
        script.read(&mut world);
    }
    seen.check(&script.received);
    assert_eq!(seen.len(), sent.len());
}

#[test]
fn a_guest_that_overruns_the_window_is_cut_off_at_the_buffer() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        world.peers.room = 0;
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        let mut sent = Pattern::new(1);
        // Twice the buffer in one batch, before the first acknowledgement can come back.
        for _ in 0..90 {
            let payload = sent.take(1440);
            let segment = script.segment(0, &payload);
            script.next = script.next.wrapping_add(1440);
            assert!(world.push(&frame::tcp(script.to, &segment)));
        }
        world.run();
        // And far ahead of everything, as far as the header's window seems to reach.
        for far in [65_536, 70_000, 100_000, 131_000, 1 << 20] {
            let seq = script.next.wrapping_add(far);
            let segment = Segment { seq, ..script.segment(0, &[0xee; 1000]) };
            world.send(&frame::tcp(script.to, &segment));
        }
        world.stream().room = usize::MAX;
        world.run();
        Pattern::new(1).check(&world.stream().received);
        assert!(world.stream().received.len() <= BUFFER);
    }
}

#[test]
fn the_first_window_after_the_handshake_ends_where_the_buffer_does() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        world.peers.room = 0;
        let mut script = Script::new(at(outside, 80), 40_000);
        world.send(&frame::tcp(script.to, &script.syn()));
        script.establish(&mut world);
        // Far enough to lie beyond the buffer, and within the SYN-ACK's window if that is scaled
        // as it must not be.
        for far in [65_536, 80_000, 120_000] {
            let seq = script.next.wrapping_add(far);
            let segment = Segment { seq, ..script.segment(0, &[0xee; 1000]) };
            world.send(&frame::tcp(script.to, &segment));
        }
        let mut sent = Pattern::new(1);
        for _ in 0..100 {
            let payload = sent.take(1440);
            let segment = script.segment(0, &payload);
            script.next = script.next.wrapping_add(1440);
            assert!(world.push(&frame::tcp(script.to, &segment)));
        }
        world.run();
        world.stream().room = usize::MAX;
        world.run();
        Pattern::new(1).check(&world.stream().received);
        assert_eq!(world.stream().received.len(), BUFFER);
    }
}

#[test]
fn a_window_that_closes_on_lost_bytes_and_opens_a_little_goes_on() {
    for wait in [0, 500, 3000, 20_000] {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(OUTSIDES[0], 80), 40_000);
        let (mut sent, mut seen) = (Pattern::new(1), Pattern::new(1));
        world.give(&sent.take(50_000));
        world.inbox(); // lost
        // The first of them arrives, and there is no place for more.
        seen.check(&Pattern::new(1).take(1460));
        script.expected = script.expected.wrapping_add(1460);
        script.window = 0;
        world.send(&frame::tcp(script.to, &script.segment(0, &[])));
        world.advance(wait);
        world.inbox();
        script.window = 16; // 2048 bytes, less than what is under way
        script.say(&mut world, 0, &[]);
        for _ in 0..100 {
            world.advance(500);
            script.read(&mut world);
        }
        seen.check(&script.received);
        assert_eq!((seen.len(), script.reset), (sent.len(), false), "after {wait} ms");
    }
}

#[test]
fn nothing_is_sent_beyond_the_guests_window_not_even_again() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::new(at(outside, 80), 40_000);
        script.window = 40; // 5120 bytes
        script.open(&mut world);
        let edge = script.expected.wrapping_add(5120);
        world.stream().to_give.extend([1; 30_000]);
        world.finish();
        // The first segment is lost; the others say so.
        let same = frame::tcp(script.to, &script.segment(0, &[]));
        (0..6).for_each(|_| world.send(&same));
        world.advance(5000);
        let mut seen = 0;
        for segment in world.inbox().iter().filter_map(|seen| seen.tcp()) {
            let beyond = segment.end().wrapping_sub(edge).cast_signed();
            assert!(beyond <= 0, "{beyond} bytes beyond the window");
            seen += segment.payload.len();
        }
        assert!(seen > 2 * 5120, "it is sent again");
    }
}

#[test]
fn an_acknowledgement_beside_an_old_sequence_number_counts_in_the_end() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDES[0], 80), 40_000);
    script.acknowledges = false;
    let (mut sent, mut seen) = (Pattern::new(1), Pattern::new(1));
    world.give(&sent.take(100_000));
    script.read(&mut world);
    assert_eq!(script.received.len(), BUFFER);
    // A guest that has gone back to repeat something may say so with an old number, which makes
    // the segment unacceptable (RFC 9293 3.10.7.4).
    let old = script.next.wrapping_sub(1);
    let segment = Segment { seq: old, ..script.segment(0, &[]) };
    world.send(&frame::tcp(script.to, &segment));
    for _ in 0..10 {
        world.advance(1000);
        script.read(&mut world);
    }
    seen.check(&script.received);
    assert_eq!(seen.len(), sent.len());
}
