//! Offload records: what a front end vouches for is believed, what contradicts the bytes is not.

use sim::frame::{self, OUTSIDES};
use sim::guest::Script;
use sim::{Message, Pattern, Room, World, reassemble};
use sluicegate_core::{Drop, Offload, TransportChecksum};

use crate::at;

#[test]
fn a_checksum_that_is_vouched_for_or_partial_is_not_verified() {
    for checksum in [TransportChecksum::Vouched, TransportChecksum::Partial] {
        for outside in OUTSIDES {
            let mut room = Room::plain();
            let mut world = room.world();
            let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
            let mut segment = frame::tcp(script.to, &script.segment(0, b"hello"));
            let sum = segment.len() - 5 - 4;
            segment[sum] ^= 0x55;
            let offload = Offload { checksum, ..Offload::NONE };
            assert!(world.push_offloaded(&segment, offload));
            world.run();
            assert_eq!(world.stream().received, b"hello");
            script.next = script.next.wrapping_add(5);
            let mut datagram = frame::udp(1000, at(outside, 53), b"ask");
            let sum = datagram.len() - 3 - 2;
            datagram[sum] ^= 0x55;
            assert!(world.push_offloaded(&datagram, offload));
            world.run();
            assert_eq!(world.peers.datagrams[&world.datagram()].sent, [b"ask"]);
        }
    }
}

#[test]
fn a_frame_to_be_segmented_may_be_longer_than_the_mtu() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let script = Script::connect(&mut world, at(outside, 80), 40_000);
        let data = Pattern::new(1).take(60_000);
        let segment = frame::tcp(script.to, &script.segment(0, &data));
        let checksum = TransportChecksum::Vouched;
        let offload = Offload { segment_bytes: 1400, checksum, ..Offload::NONE };
        assert!(world.push_offloaded(&segment, offload));
        world.run();
        Pattern::new(1).check(&world.stream().received);
        assert_eq!(world.stream().received.len(), 60_000);
    }
}

#[test]
fn a_row_of_datagrams_leaves_in_one_action_with_the_bytes_of_each() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let data = Pattern::new(3).take(2500);
        let row = frame::udp(1000, at(outside, 443), &data);
        let checksum = TransportChecksum::Partial;
        let offload = Offload { segment_bytes: 1000, checksum, ..Offload::NONE };
        assert!(world.push_offloaded(&row, offload));
        world.run();
        let sent = &world.peers.datagrams[&world.datagram()].sent;
        let lens: Vec<usize> = sent.iter().map(Vec::len).collect();
        assert_eq!((lens, sent.concat()), (vec![1000, 1000, 500], data));
    }
}

#[test]
fn a_row_of_more_datagrams_than_linux_makes_is_refused() {
    let mut room = Room::plain();
    let mut world = room.world();
    let row = frame::udp(1000, at(OUTSIDES[0], 443), &[7; 20 * 128 + 1]);
    let offload =
        Offload { segment_bytes: 20, checksum: TransportChecksum::Partial, ..Offload::NONE };
    assert!(world.push_offloaded(&row, offload));
    world.run();
    assert_eq!(world.counters().dropped(Drop::Offload), 1);
    assert!(world.peers.datagrams.is_empty());
}

#[test]
fn a_row_of_datagrams_for_the_guest_is_as_many_datagrams_whatever_its_link_takes() {
    for (mtu, segment_bytes) in [(1500, 1200), (1500, 1473), (9000, 1473)] {
        for outside in OUTSIDES {
            let mut room = Room::with(|config| {
                config.link.mtu = mtu;
                config.link.receive_frame_bytes = u32::from(mtu) + 14;
            });
            let mut world = room.world();
            world.send(&frame::udp(1000, at(outside, 443), b"ask"));
            let data = Pattern::new(4).take(usize::from(segment_bytes) * 3 + 100);
            let index = world.datagram();
            world.deliver_row(index, &data, segment_bytes);
            let expected: Vec<&[u8]> = data.chunks(segment_bytes.into()).collect();
            let came = datagrams(&mut world);
            assert_eq!(came, expected, "{mtu} {segment_bytes} {outside}");
        }
    }
}

#[test]
fn a_row_of_as_many_datagrams_as_linux_makes_leaves() {
    let mut room = Room::plain();
    let mut world = room.world();
    let row = frame::udp(1000, at(OUTSIDES[0], 443), &[7; 20 * 128]);
    let offload =
        Offload { segment_bytes: 20, checksum: TransportChecksum::Partial, ..Offload::NONE };
    assert!(world.push_offloaded(&row, offload));
    world.run();
    assert_eq!(world.peers.datagrams[&world.datagram()].sent, vec![vec![7; 20]; 128]);
}

#[test]
fn a_row_for_the_guest_that_no_packet_holds_is_several() {
    // More bytes than a packet has; more datagrams than every Linux takes; the most of both.
    for (len, segment_bytes) in [(65_527, 1400), (1300, 10), (65_000, 500), (65_527, 65_000)] {
        for outside in OUTSIDES {
            let mut room = Room::with(|config| {
                config.link.mtu = 65_520;
                config.link.receive_frame_bytes = 65_534;
            });
            let mut world = room.world();
            world.send(&frame::udp(1000, at(outside, 443), b"ask"));
            let data = Pattern::new(5).take(len);
            let index = world.datagram();
            assert_eq!(world.deliver_row(index, &data, segment_bytes), 1);
            let expected: Vec<&[u8]> = data.chunks(segment_bytes.into()).collect();
            assert_eq!(datagrams(&mut world), expected, "{len} {segment_bytes} {outside}");
        }
    }
}

#[test]
fn a_row_that_a_full_ring_takes_a_part_of_goes_on_later_without_loss() {
    for (segment_bytes, goes_whole) in [(1200, true), (1473, false)] {
        let mut room = Room::plain().with_rings(1 << 18);
        let mut world = room.world();
        world.send(&frame::udp(1000, at(OUTSIDES[0], 443), b"ask"));
        let index = world.datagram();
        world.stalled = true;
        let data = Pattern::new(6).take(usize::from(segment_bytes) * 43);
        let pieces: Vec<usize> =
            (0..20).map(|_| world.deliver_row(index, &data, segment_bytes)).collect();
        assert_eq!(pieces.iter().all(|&pieces| pieces == 1), goes_whole, "{pieces:?}");
        world.stalled = false;
        world.run();
        assert_eq!(world.counters().dropped(Drop::AnswerLost), 0);
        let expected = data.chunks(segment_bytes.into()).cycle().take(20 * 43);
        assert!(datagrams(&mut world).iter().eq(expected), "all of them, in order");
    }
}

/// The payloads of the datagrams for the guest, put together where they came in two fragments.
fn datagrams(world: &mut World<'_>) -> Vec<Vec<u8>> {
    let inbox = world.inbox();
    let mut frames = inbox.iter();
    let mut found = vec![];
    while let Some(seen) = frames.next() {
        let message = match seen.piece() {
            Some(first) => {
                let second = frames.next().and_then(sim::Seen::piece).expect("because it is one");
                reassemble(&[first.clone(), second.clone()]).expect("because both have come")
            }
            None => seen.message.clone(),
        };
        let Message::Udp { payload, .. } = message else { panic!("{message:?} is no datagram") };
        found.push(payload);
    }
    found
}
