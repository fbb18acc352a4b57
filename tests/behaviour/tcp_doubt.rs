//! TCP, what a stranger might say who names the ends of a connection and guesses its numbers
//! (RFC 5961): it ends nothing, and whoever has the other end is asked.

use sim::frame::{self, OUTSIDES, Segment, flag};
use sim::guest::Script;
use sim::{Answer, Did, End, Room, World};
use sluicegate_core::Drop;

use crate::at;

/// The challenges that came since this was last asked: plain acknowledgements.
fn challenges(world: &mut World<'_>) -> Vec<(u32, u32)> {
    let seen = world.inbox();
    let segments = seen.iter().filter_map(|seen| seen.tcp());
    let bare = segments.filter(|tcp| tcp.flags == flag::ACK && tcp.payload.is_empty());
    bare.map(|tcp| (tcp.seq, tcp.ack)).collect()
}

/// A segment of `script` at `seq`, as the stranger has it.
fn guess(script: &Script, seq: u32, flags: u8) -> Vec<u8> {
    let segment = Segment { flags, seq, ..script.segment(0, &[]) };
    frame::tcp(script.to, &segment)
}

/// Bytes of the whole window, as `Room::plain` has it.
fn window() -> u32 {
    64 * 1024
}

fn assert_alive(world: &mut World<'_>, script: &mut Script) {
    let before = world.stream().received.len();
    script.send(world, b"still here");
    assert_eq!(world.stream().received[before..], *b"still here");
}

#[test]
fn a_reset_in_the_window_and_not_at_its_left_edge_is_challenged() {
    for outside in OUTSIDES {
        for flags in [flag::RST, flag::RST | flag::ACK] {
            let mut room = Room::plain();
            let last = window() - 1;
            let mut world = room.world();
            let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
            script.send(&mut world, b"hello");
            for distance in [1, 2, 1460, last] {
                let reset = guess(&script, script.next.wrapping_add(distance), flags);
                assert_eq!(world.dropped(&reset), Some(Drop::Doubtful), "{distance} ahead");
                assert_eq!(challenges(&mut world), [(script.expected, script.next)]);
                world.advance(500);
            }
            assert_alive(&mut world, &mut script);
        }
    }
}

#[test]
fn a_reset_outside_the_window_is_dropped_without_a_word() {
    let mut room = Room::plain();
    let behind = window();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDES[0], 80), 40_000);
    script.send(&mut world, b"hello");
    for distance in [behind, behind + 1, 1 << 30, 1 << 31, u32::MAX - 4, u32::MAX] {
        let reset = guess(&script, script.next.wrapping_add(distance), flag::RST);
        assert_eq!(world.dropped(&reset), Some(Drop::Doubtful), "{distance} ahead");
        assert_eq!(world.inbox(), vec![]);
    }
    assert_alive(&mut world, &mut script);
}

#[test]
fn the_left_edge_counts_what_came_and_the_host_has_not_taken() {
    let mut room = Room::plain();
    let mut world = room.world();
    world.peers.room = 0;
    let mut script = Script::connect(&mut world, at(OUTSIDES[0], 80), 40_000);
    let before = script.next;
    script.send(&mut world, &[7; 5000]);
    let early = guess(&script, before, flag::RST);
    assert_eq!(world.dropped(&early), Some(Drop::Doubtful), "that place is long past");
    assert_eq!(world.peers.ended.len(), 0);
    world.send(&guess(&script, script.next, flag::RST));
    assert_eq!(world.peers.ended[0].end, Some(End::Reset));
}

#[test]
fn the_left_edge_counts_what_came_in_the_same_burst() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDES[0], 80), 40_000);
    for _ in 0..3 {
        let segment = script.segment(flag::PSH, &[7; 1000]);
        script.next = script.next.wrapping_add(1000);
        assert!(world.push(&frame::tcp(script.to, &segment)));
    }
    world.send(&guess(&script, script.next, flag::RST));
    assert_eq!(world.peers.ended[0].end, Some(End::Reset));
}

#[test]
fn a_guest_whose_last_bytes_were_lost_resets_with_the_challenges_number() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDES[0], 80), 40_000);
    script.send(&mut world, b"hello");
    let lost = 3000;
    world.send(&guess(&script, script.next.wrapping_add(lost), flag::RST));
    let (_, asked) = challenges(&mut world)[0];
    // What has no connection answers an acknowledgement by a reset of its number.
    world.send(&guess(&script, asked, flag::RST));
    assert_eq!(world.peers.ended[0].end, Some(End::Reset));
    assert_eq!(world.wait().0, None, "nothing is left");
}

#[test]
fn a_reset_after_the_guests_end_is_believed_behind_that() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDES[0], 80), 40_000);
    script.send(&mut world, b"hello");
    script.finish(&mut world);
    let at_fin = guess(&script, script.next.wrapping_sub(1), flag::RST);
    assert_eq!(world.dropped(&at_fin), Some(Drop::Doubtful));
    assert_eq!(world.peers.ended.len(), 0);
    world.send(&guess(&script, script.next, flag::RST));
    assert_eq!(world.peers.ended[0].end, Some(End::Reset));
}

#[test]
fn a_reset_while_the_host_connects_is_believed_behind_the_syn_alone() {
    let mut room = Room::plain();
    let mut world = room.world();
    world.peers.answer = Answer::Silence;
    let mut script = Script::new(at(OUTSIDES[0], 80), 40_000);
    world.send(&frame::tcp(script.to, &script.syn()));
    for distance in [0, 2, 1000, u32::MAX] {
        let reset = guess(&script, script.next.wrapping_add(distance), flag::RST);
        assert_eq!(world.dropped(&reset), Some(Drop::Doubtful), "{distance} ahead");
    }
    assert_eq!(world.peers.ended.len(), 0);
    world.accept();
    script.establish(&mut world);
    assert_alive(&mut world, &mut script);
}

#[test]
fn a_syn_on_an_open_connection_is_challenged_whatever_its_number() {
    for outside in OUTSIDES {
        for flags in [flag::SYN, flag::SYN | flag::ACK] {
            let mut room = Room::plain();
            let mut world = room.world();
            let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
            script.send(&mut world, b"hello");
            // That of the SYN that opened it, the next, one in the window, and one far from it.
            for distance in [u32::MAX - 5, 0, 1000, 1 << 31] {
                let syn = guess(&script, script.next.wrapping_add(distance), flags);
                assert_eq!(world.dropped(&syn), Some(Drop::Doubtful), "{distance} ahead");
                assert_eq!(challenges(&mut world), [(script.expected, script.next)]);
                world.advance(500);
            }
            assert_alive(&mut world, &mut script);
            assert_eq!(world.counters().tcp_reset, 0);
        }
    }
}

#[test]
fn a_syn_before_the_handshakes_end_is_challenged() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::new(at(OUTSIDES[0], 80), 40_000);
    world.send(&frame::tcp(script.to, &script.syn()));
    let first = world.raw[0].clone();
    let other = guess(&script, 0x7777_0000, flag::SYN);
    assert_eq!(world.dropped(&other), Some(Drop::Doubtful));
    let seen = world.inbox();
    let [syn_ack, challenge] = [seen[0].tcp().unwrap(), seen[1].tcp().unwrap()];
    assert_eq!((challenge.seq, challenge.ack), (syn_ack.end(), syn_ack.ack));
    world.advance(1100);
    assert_eq!(world.raw[0], first, "the SYN-ACK comes again");
    script.establish(&mut world);
    assert_alive(&mut world, &mut script);
}

#[test]
fn an_acknowledgement_of_what_was_not_sent_is_challenged_with_its_bytes() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        world.give(b"good day");
        script.read(&mut world);
        for distance in [1, 2, 1000, 1 << 30, 1 << 31] {
            let mut segment = script.segment(flag::PSH, b"evil");
            segment.ack = script.expected.wrapping_add(distance);
            let dropped = world.dropped(&frame::tcp(script.to, &segment));
            assert_eq!(dropped, Some(Drop::Doubtful), "{distance} ahead");
            assert_eq!(challenges(&mut world), [(script.expected, script.next)]);
            world.advance(500);
        }
        assert_alive(&mut world, &mut script);
        assert_eq!(world.stream().received, b"still here");
    }
}

#[test]
fn an_acknowledgement_of_what_was_not_sent_is_challenged_within_a_burst_and_spares_the_others() {
    for place in 0..4 {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(OUTSIDES[0], 80), 40_000);
        for number in 0..4 {
            let mut segment = script.segment(flag::PSH, b"word");
            if number == place {
                segment.ack = script.expected.wrapping_add(1);
                assert!(world.push(&frame::tcp(script.to, &segment)));
                segment.ack = script.expected;
            }
            script.next = script.next.wrapping_add(4);
            assert!(world.push(&frame::tcp(script.to, &segment)));
        }
        world.run();
        assert_eq!(world.counters().dropped(Drop::Doubtful), 1, "the one at {place}");
        assert_eq!(world.stream().received, b"wordwordwordword");
    }
}

#[test]
fn an_acknowledgement_of_what_waits_to_be_sent_is_challenged() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDES[0], 80), 40_000);
    // The window is 512 x 128 bytes: the rest of these waits.
    script.acknowledges = false;
    world.give(&[7; 100_000]);
    script.read(&mut world);
    let window = u32::from(script.window) << 7;
    let mut segment = script.segment(0, &[]);
    let sent = script.expected;
    assert!(script.received.len() as u32 == window, "{} bytes", script.received.len());
    segment.ack = sent.wrapping_add(1);
    let dropped = world.dropped(&frame::tcp(script.to, &segment));
    assert_eq!(dropped, Some(Drop::Doubtful));
    assert_eq!(challenges(&mut world).len(), 1);
    script.acknowledges = true;
    script.say(&mut world, 0, &[]);
    assert_eq!(script.received, [7; 100_000], "none was skipped");
}

#[test]
fn an_acknowledgement_older_than_a_window_is_challenged_and_a_younger_one_is_not() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDES[0], 80), 40_000);
    let window = u32::from(script.window) << 7;
    world.give(&vec![7; 3 * window as usize]);
    script.read(&mut world);
    assert_eq!(script.received.len() as u32, 3 * window);
    for (distance, expected) in [
        (1, Some(Drop::Duplicate)),
        (window, Some(Drop::Duplicate)),
        (window + 1, Some(Drop::Doubtful)),
        (1 << 30, Some(Drop::Doubtful)),
        ((1 << 31) - 1, Some(Drop::Doubtful)),
    ] {
        world.advance(500);
        let mut segment = script.segment(0, &[]);
        segment.ack = script.expected.wrapping_sub(distance);
        let dropped = world.dropped(&frame::tcp(script.to, &segment));
        assert_eq!(dropped, expected, "{distance} behind");
        let challenged = usize::from(expected == Some(Drop::Doubtful));
        assert_eq!(challenges(&mut world).len(), challenged, "{distance} behind");
    }
    assert_alive(&mut world, &mut script);
}

#[test]
fn a_flow_is_challenged_twice_a_second_at_most_and_no_flow_for_another() {
    let mut room = Room::plain();
    let mut world = room.world();
    let first = Script::connect(&mut world, at(OUTSIDES[0], 80), 40_000);
    let second = Script::connect(&mut world, at(OUTSIDES[0], 80), 40_001);
    let seq = first.next.wrapping_add(100);
    let mut answers = 0;
    for _ in 0..100 {
        world.send(&guess(&first, seq, flag::RST));
        world.send(&guess(&first, seq, flag::SYN));
        answers += challenges(&mut world).len();
        world.advance(10);
    }
    assert_eq!(answers, 2, "of 200 in a second");
    world.send(&guess(&first, seq, flag::RST));
    assert_eq!(challenges(&mut world).len(), 1);
    world.send(&guess(&second, second.next.wrapping_add(100), flag::RST));
    assert_eq!(challenges(&mut world).len(), 1, "the other flow has all of its own");
}

#[test]
fn a_guest_that_has_restarted_gets_through_from_the_same_port() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDES[0], 80), 40_000);
    script.send(&mut world, b"before");
    let mut script = Script::new(at(OUTSIDES[0], 80), 40_000);
    script.next = 0x7777_0000;
    let syn = frame::tcp(script.to, &script.syn());
    world.send(&syn);
    // It does not know of the old connection, and answers the challenge by a reset.
    let (_, asked) = challenges(&mut world)[0];
    world.send(&guess(&script, asked, flag::RST));
    assert_eq!(world.peers.ended.len(), 1);
    assert_eq!(world.peers.ended[0].end, Some(End::Reset));
    world.send(&syn);
    script.establish(&mut world);
    script.send(&mut world, b"after");
    assert_eq!(world.stream().received, b"after");
    let connects = |did: &&Did| matches!(did, Did::Connect { .. });
    assert_eq!(world.peers.log.iter().filter(connects).count(), 2);
}

#[test]
fn a_bare_fin_that_is_early_is_acknowledged_twice_a_second_at_most() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        script.send(&mut world, b"hello");
        let here = (script.expected, script.next);
        // From one missing byte to as many as the window has.
        for ahead in [1, 1460, window() - 1, window()] {
            let early = guess(&script, script.next.wrapping_add(ahead), flag::FIN | flag::ACK);
            world.send(&early);
            assert_eq!(challenges(&mut world), [here], "{ahead} ahead");
            world.send(&early);
            assert_eq!(challenges(&mut world), [], "{ahead} ahead, at once again");
            world.advance(500);
        }
        assert_alive(&mut world, &mut script);
        script.finish(&mut world);
        assert!(world.stream().guest_finished, "the FIN that comes in its place counts");
    }
}
