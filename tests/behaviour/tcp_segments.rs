//! TCP segments: as long as the guest takes them, and read whatever else is in their headers.

use sim::frame::{self, OUTSIDES, Segment, flag};
use sim::guest::Script;
use sim::{Pattern, Room, World};
use sluicegate_core::Drop;

use crate::at;

/// An option of a SYN: the largest segment.
fn mss(value: u16) -> Vec<u8> {
    [&[2, 4], &value.to_be_bytes()[..]].concat()
}

/// Opens a connection whose SYN has `options`.
fn open(world: &mut World<'_>, outside: core::net::IpAddr, options: Vec<u8>) -> Script {
    let mut script = Script::new(at(outside, 80), 40_000);
    let syn = Segment { options, ..script.syn() };
    world.send(&frame::tcp(script.to, &syn));
    script.establish(world);
    script
}

/// The longest payload of segments to a guest that said `options`.
fn longest(outside: core::net::IpAddr, options: Vec<u8>) -> usize {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = open(&mut world, outside, options);
    script.window = 60_000;
    let mut sent = Pattern::new(1);
    world.give(&sent.take(100_000));
    for _ in 0..200 {
        script.read(&mut world);
        world.advance(100);
    }
    Pattern::new(1).check(&script.received);
    assert_eq!(script.received.len(), 100_000);
    script.seen.iter().map(|segment| segment.payload.len()).max().unwrap_or(0)
}

#[test]
fn no_segment_is_longer_than_the_guest_said() {
    for outside in OUTSIDES {
        let headers = if outside.is_ipv4() { 40 } else { 60 };
        for said in [536, 1000, 1220, 1459] {
            let bound = usize::from(said).min(1500 - headers);
            assert_eq!(longest(outside, mss(said)), bound, "MSS {said}");
        }
    }
}

#[test]
fn no_segment_is_longer_than_a_frame_whatever_the_guest_said() {
    for outside in OUTSIDES {
        let headers = if outside.is_ipv4() { 40 } else { 60 };
        for said in [1461, 9000, u16::MAX] {
            assert_eq!(longest(outside, mss(said)), 1500 - headers, "MSS {said}");
        }
    }
}

#[test]
fn a_guest_that_says_nothing_gets_the_default_of_its_family() {
    let [v4, v6] = OUTSIDES;
    for options in [vec![], mss(0), vec![1, 1, 1, 1]] {
        assert_eq!(longest(v4, options.clone()), 536);
        assert_eq!(longest(v6, options), 1220);
    }
}

#[test]
fn a_tiny_segment_size_is_raised_to_what_carries_something() {
    for outside in OUTSIDES {
        for said in [1, 8, 47] {
            assert_eq!(longest(outside, mss(said)), 48, "as Linux has it");
        }
    }
}

#[test]
fn a_guest_without_scaling_is_never_sent_more_than_its_window() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::new(at(outside, 80), 40_000);
        script.window = 5000;
        let syn = Segment { options: mss(1460), window: 5000, ..script.syn() };
        world.send(&frame::tcp(script.to, &syn));
        script.establish(&mut world);
        let syn_ack = script.seen.iter().find(|s| s.has(flag::SYN)).unwrap();
        assert_eq!(syn_ack.option(3), None, "no scale, since the guest has none");
        script.acknowledges = false;
        world.give(&[1; 60_000]);
        script.read(&mut world);
        assert_eq!(script.received.len(), 5000);
    }
}

#[test]
fn the_syn_ack_offers_what_the_link_takes() {
    for (mtu, receive) in [(1500, 1514), (9000, 9014), (65_520, 1514), (1280, 1514)] {
        for outside in OUTSIDES {
            let mut room = Room::with(|c| {
                c.link.mtu = mtu;
                c.link.receive_frame_bytes = receive;
            });
            let mut world = room.world();
            let script = Script::connect(&mut world, at(outside, 80), 40_000);
            let headers = if outside.is_ipv4() { 40 } else { 60 };
            let syn_ack = script.seen.iter().find(|s| s.has(flag::SYN)).unwrap();
            assert_eq!(syn_ack.option(2).unwrap(), (mtu - headers).to_be_bytes());
            assert!(syn_ack.option(4).is_some(), "SACK, since the guest has it");
        }
    }
}

#[test]
fn a_wide_link_to_a_guest_with_small_buffers_gets_small_frames() {
    for outside in OUTSIDES {
        let mut room = Room::with(|c| c.link.mtu = 65_520);
        let mut world = room.world();
        let mut script = open(&mut world, outside, mss(65_480));
        // Long ones come from the guest,
        let mut sent = Pattern::new(1);
        let payload = sent.take(60_000);
        let segment = script.segment(0, &payload);
        script.next = script.next.wrapping_add(60_000);
        world.send(&frame::tcp(script.to, &segment));
        Pattern::new(1).check(&world.stream().received);
        assert_eq!(world.stream().received.len(), 60_000);
        // and short ones go to it: the oracle looks at each.
        world.give(&sent.take(60_000));
        world.inbox.iter().for_each(|seen| assert!(seen.len <= 1514));
        script.read(&mut world);
        assert_eq!(script.received.len(), 60_000);
    }
}

#[test]
fn a_guest_with_large_buffers_gets_large_frames() {
    let mut room = Room::with(|c| {
        c.link.mtu = 9000;
        c.link.receive_frame_bytes = 9014;
    });
    let mut world = room.world();
    let mut script = open(&mut world, OUTSIDES[0], [mss(8960), vec![3, 3, 7, 0]].concat());
    world.give(&[3; 40_000]);
    script.read(&mut world);
    assert_eq!(script.seen.iter().map(|s| s.payload.len()).max(), Some(8960));
}

#[test]
fn options_that_make_no_sense_do_not_stop_a_connection() {
    for options in [
        vec![2, 0, 5, 0xb4],  // length 0
        vec![2, 1, 5, 0xb4],  // length 1
        vec![2, 40, 5, 0xb4], // beyond the header
        vec![2, 3, 5, 0],     // an MSS of three bytes
        vec![3, 2, 0, 0],     // a scale without a value
        vec![3, 3, 255, 0],   // a scale of 255
        vec![254, 0, 0, 0],   // unknown, length 0
        vec![254, 4, 0, 0],   // unknown
        vec![8, 2, 0, 0],     // a timestamp without values
        vec![5, 3, 0, 0],     // SACK of one byte
        vec![1, 1, 1, 2],     // cut off after the kind
        vec![0, 2, 4, 9],     // garbage after the end
    ] {
        for outside in OUTSIDES {
            let mut room = Room::plain();
            let mut world = room.world();
            let mut script = open(&mut world, outside, options.clone());
            script.send(&mut world, b"hello");
            assert_eq!(world.stream().received, b"hello", "{options:?}");
            world.give(b"good day");
            script.read(&mut world);
            assert_eq!(script.received, b"good day", "{options:?}");
        }
    }
}

#[test]
fn a_segment_with_options_that_make_no_sense_is_counted_or_read() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(OUTSIDES[0], 80), 40_000);
    for options in [vec![254, 0, 0, 0], vec![5, 1, 0, 0], vec![8, 200, 0, 0]] {
        let before = world.stream().received.len();
        let segment = Segment { options, ..script.segment(0, b"data") };
        let dropped = world.dropped(&frame::tcp(script.to, &segment));
        if world.stream().received.len() == before {
            assert_eq!(dropped, Some(Drop::Malformed));
        } else {
            assert_eq!(dropped, None);
            script.next = script.next.wrapping_add(4);
        }
        script.read(&mut world);
    }
    script.send(&mut world, b"end");
    assert!(world.stream().received.ends_with(b"end"));
}

#[test]
fn flags_that_exclude_each_other_are_malformed() {
    let mut room = Room::plain();
    let mut world = room.world();
    let script = Script::connect(&mut world, at(OUTSIDES[0], 80), 40_000);
    for flags in [
        flag::SYN | flag::FIN,
        flag::SYN | flag::RST,
        flag::FIN | flag::RST,
        flag::SYN | flag::FIN | flag::RST,
    ] {
        let segment = Segment { flags, ..script.segment(0, &[]) };
        let known = frame::tcp(script.to, &segment);
        assert_eq!(world.dropped(&known), Some(Drop::Malformed), "{flags:#x}");
        let unknown = frame::tcp(at(OUTSIDES[0], 81), &segment);
        assert_eq!(world.dropped(&unknown), Some(Drop::Malformed), "{flags:#x}");
    }
    assert_eq!((world.inbox(), world.peers.streams.len()), (vec![], 1));
}

#[test]
fn urgent_bytes_are_delivered_in_line() {
    for urgent in [0, 1, 3, 5, 6, u16::MAX] {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(OUTSIDES[0], 80), 40_000);
        let segment = Segment { urgent, ..script.segment(flag::URG, b"hello") };
        script.next = script.next.wrapping_add(5);
        world.send(&frame::tcp(script.to, &segment));
        script.send(&mut world, b" world");
        assert_eq!(world.stream().received, b"hello world");
    }
}

#[test]
fn a_segment_behind_ip_options_or_extension_headers_is_a_segment() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        for _ in 0..3 {
            let mut frame = frame::tcp(script.to, &script.segment(0, b"hello"));
            script.next = script.next.wrapping_add(5);
            if outside.is_ipv4() {
                frame::add_ipv4_options(&mut frame, &[1, 1, 1, 0, 0, 0, 0, 0]);
            } else {
                frame::extend(&mut frame, frame::protocol::DESTINATION_OPTIONS);
                frame::extend(&mut frame, frame::protocol::HOP_BY_HOP);
            }
            assert_eq!(world.dropped(&frame), None);
        }
        assert_eq!(world.stream().received, b"hellohellohello");
    }
}

#[test]
fn a_segment_in_fragments_is_a_segment() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::new(at(outside, 80), 40_000);
        let syn = frame::tcp(script.to, &script.syn());
        frame::fragments(&syn, 1, 8).iter().for_each(|piece| world.send(piece));
        script.establish(&mut world);
        let data = Pattern::new(1).take(1000);
        let whole = frame::tcp(script.to, &script.segment(0, &data));
        script.next = script.next.wrapping_add(1000);
        frame::fragments(&whole, 2, 400).iter().rev().for_each(|piece| world.send(piece));
        script.read(&mut world);
        assert_eq!((&world.stream().received, script.acked), (&data, script.next));
    }
}

#[test]
fn a_link_of_the_longest_packets_gets_long_segments() {
    for outside in OUTSIDES {
        let mut room = Room::with(|config| {
            config.link.mtu = 65_520;
            config.link.receive_frame_bytes = 65_534;
            config.tcp_send_bytes = 1 << 20;
        });
        let mut world = room.world();
        let mut script = Script::new(at(outside, 80), 40_000);
        let mut syn = script.syn();
        syn.options[2..4].copy_from_slice(&65_460u16.to_be_bytes());
        world.send(&frame::tcp(script.to, &syn));
        script.establish(&mut world);
        script.window = 60_000;
        script.say(&mut world, 0, &[]);
        world.give(&Pattern::new(1).take(600_000));
        script.read(&mut world);
        Pattern::new(1).check(&script.received);
        assert_eq!(script.received.len(), 600_000);
        let longest = script.seen.iter().map(|tcp| tcp.payload.len()).max();
        assert!(longest > Some(65_000), "{longest:?} bytes in one segment");
    }
}
