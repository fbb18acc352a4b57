//! What the guest sends in pieces: put together whatever their order, given up where they lie.

use core::net::IpAddr;

use sim::frame::{self, ETHERNET, OUTSIDE_V4, OUTSIDE_V6, OUTSIDES, protocol};
use sim::guest::Script;
use sim::{Dice, Message, Pattern, Room, World};
use sluicegate_core::Drop;

use crate::{Error, at};

/// The payload of the datagram that the host was told to send last.
fn sent(world: &mut World<'_>) -> Vec<u8> {
    let index = world.datagram();
    world.peers.datagrams[&index].sent.last().cloned().expect("because it was told to")
}

fn longest(outside: IpAddr) -> usize {
    if outside.is_ipv4() { 65_507 } else { 65_527 }
}

#[test]
fn pieces_in_any_order_become_one_datagram() {
    let mut dice = Dice::new(5);
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        for (ident, len, cut) in
            [(1, 1993, 1448), (2, 9000, 1000), (3, 100, 8), (4, 65_507, 1448), (5, 0, 8)]
        {
            let data = Pattern::new(ident).take(len);
            let whole = frame::udp(1000, at(outside, 53), &data);
            let mut pieces = frame::fragments(&whole, ident as u32, cut);
            // At most sixteen separate stretches are remembered: shuffle within reach.
            for window in pieces.chunks_mut(12) {
                for at in (1..window.len()).rev() {
                    window.swap(at, dice.below(at as u64 + 1) as usize);
                }
            }
            for piece in &pieces {
                assert_eq!(world.dropped(piece), None, "datagram {ident}");
            }
            assert_eq!(sent(&mut world), data);
        }
        assert_eq!(world.counters().udp_opened, 1);
    }
}

#[test]
fn the_longest_datagram_of_either_family_arrives() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let data = Pattern::new(9).take(longest(outside));
        // Too long for the length field of one packet in front of it all; the pieces are not.
        let mut datagram = frame::udp_header(1000, 53, &data);
        let addresses = match (frame::guest(outside), outside) {
            (IpAddr::V4(a), IpAddr::V4(b)) => [a.octets(), b.octets()].concat(),
            (IpAddr::V6(a), IpAddr::V6(b)) => [a.octets(), b.octets()].concat(),
            _ => unreachable!("one family"),
        };
        frame::mend_transport(&addresses, protocol::UDP, &mut datagram);
        let head = frame::ip(outside, protocol::UDP, &[]);
        let last = (datagram.len() - 1) / 1448;
        for (index, chunk) in datagram.chunks(1448).enumerate() {
            let piece = frame::fragment(&head, 77, (index * 1448, index < last), chunk);
            assert_eq!(world.dropped(&piece), None, "piece {index}");
        }
        assert!(sent(&mut world) == data, "65,507 bytes and more are what they were");
    }
}

#[test]
fn datagrams_that_come_interleaved_are_kept_apart() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let datas: Vec<Vec<u8>> = (0..4).map(|key| Pattern::new(key).take(4000)).collect();
        let cut = |(ident, data): (usize, &Vec<u8>)| {
            frame::fragments(&frame::udp(1000, at(outside, 53), data), ident as u32, 1000)
        };
        let all: Vec<_> = datas.iter().enumerate().map(cut).collect();
        for round in 0..all[0].len() {
            all.iter().for_each(|pieces| world.send(&pieces[round]));
        }
        let index = world.datagram();
        assert_eq!(world.peers.datagrams[&index].sent, datas);
    }
}

#[test]
fn extension_headers_before_and_after_the_cut_are_walked() {
    let data = Pattern::new(1).take(3000);
    for kinds in [
        vec![protocol::DESTINATION_OPTIONS],
        vec![protocol::HOP_BY_HOP],
        vec![protocol::DESTINATION_OPTIONS, protocol::DESTINATION_OPTIONS],
        vec![protocol::DESTINATION_OPTIONS, protocol::HOP_BY_HOP],
    ] {
        // All of them within what is cut,
        let mut room = Room::plain();
        let mut world = room.world();
        let mut whole = frame::udp(1000, at(OUTSIDE_V6, 53), &data);
        kinds.iter().for_each(|&kind| frame::extend(&mut whole, kind));
        for piece in frame::fragments(&whole, 7, 1000) {
            assert_eq!(world.dropped(&piece), None, "{kinds:?}");
        }
        assert_eq!(sent(&mut world), data, "{kinds:?} within");
        // all of them before it,
        let whole = frame::udp(1000, at(OUTSIDE_V6, 53), &data);
        for mut piece in frame::fragments(&whole, 8, 1000) {
            kinds.iter().for_each(|&kind| frame::extend(&mut piece, kind));
            assert_eq!(world.dropped(&piece), None, "{kinds:?}");
        }
        assert_eq!(sent(&mut world), data, "{kinds:?} before");
        // and no cut at all.
        let mut whole = frame::udp(1000, at(OUTSIDE_V6, 53), b"short");
        kinds.iter().for_each(|&kind| frame::extend(&mut whole, kind));
        assert_eq!(world.dropped(&whole), None, "{kinds:?}");
        assert_eq!(sent(&mut world), b"short");
    }
}

#[test]
fn a_fragment_that_is_the_whole_is_a_datagram() {
    // RFC 6946: an atomic fragment.
    let mut room = Room::plain();
    let mut world = room.world();
    let mut whole = frame::udp(1000, at(OUTSIDE_V6, 53), b"atom");
    frame::extend(&mut whole, protocol::DESTINATION_OPTIONS);
    let pieces = frame::fragments(&whole, 7, 1000);
    assert_eq!(pieces.len(), 1);
    assert_eq!(world.dropped(&pieces[0]), None);
    assert_eq!(sent(&mut world), b"atom");
}

#[test]
fn too_many_extension_headers_are_unsupported() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut whole = frame::udp(1000, at(OUTSIDE_V6, 53), b"deep");
    for _ in 0..9 {
        frame::extend(&mut whole, protocol::DESTINATION_OPTIONS);
    }
    assert_eq!(world.dropped(&whole), Some(Drop::Unsupported));
}

#[test]
fn an_extension_header_cut_short_is_truncated() {
    let mut room = Room::plain();
    let mut world = room.world();
    let mut whole = frame::udp(1000, at(OUTSIDE_V6, 53), b"data");
    frame::extend(&mut whole, protocol::HOP_BY_HOP);
    whole[ETHERNET + 41] = 200; // its length, in eights
    assert_eq!(world.dropped(&whole), Some(Drop::Truncated));
    for len in 0..8 {
        let mut cut = whole[..ETHERNET + 40 + len].to_vec();
        cut[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&(len as u16).to_be_bytes());
        assert_eq!(world.dropped(&cut), Some(Drop::Truncated), "{len}");
        cut[ETHERNET + 6] = protocol::FRAGMENT;
        assert_eq!(world.dropped(&cut), Some(Drop::Truncated), "a fragment header of {len}");
    }
}

#[test]
fn pieces_that_overlap_discard_the_whole() {
    for outside in OUTSIDES {
        for overlap in [(0, 16), (8, 8), (0, 8), (16, 24)] {
            let mut room = Room::plain();
            let mut world = room.world();
            let whole = frame::udp(1000, at(outside, 53), &[1; 40]);
            let bytes = whole[whole.len() - 48..].to_vec();
            let mut piece = |offset: usize, end: usize| {
                let more = end < bytes.len();
                let chunk = &bytes[offset..end];
                world.dropped(&frame::fragment(&whole, 9, (offset, more), chunk))
            };
            assert_eq!(piece(0, 24), None);
            assert_eq!(piece(overlap.0, overlap.1.max(overlap.0 + 8)), Some(Drop::Fragment));
            assert_eq!(piece(24, 48), Some(Drop::Fragment), "late pieces found no new set");
            assert_eq!(world.peers.log, vec![]);
        }
    }
}

const MINUTE_MS: u64 = 60_000;
const NOT_WHOLE: Error = Error { v4: (11, 1), v6: (3, 1) };

#[test]
fn a_datagram_must_be_whole_within_a_minute() {
    for outside in OUTSIDES {
        for (wait, arrives) in [(MINUTE_MS - 100, true), (MINUTE_MS + 100, false)] {
            let mut room = Room::plain();
            let mut world = room.world();
            let whole = frame::udp(1000, at(outside, 53), &[1; 2000]);
            let pieces = frame::fragments(&whole, 9, 1000);
            world.send(&pieces[0]);
            world.send(&pieces[1]);
            world.advance(wait);
            world.send(&pieces[2]);
            assert_eq!(world.peers.log.len(), usize::from(arrives), "after {wait} ms");
        }
    }
}

/// Checks that `seen` is the time exceeded about the datagram whose first piece is `piece`: with as
/// much of that as fits.
fn assert_not_whole(seen: &sim::Seen, outside: IpAddr, piece: &[u8]) {
    let icmp = crate::assert_error_about(seen, NOT_WHOLE.of(outside), piece);
    let quoted_max = if outside.is_ipv4() { 548 } else { 1232 };
    let packet = &piece[ETHERNET..];
    assert_eq!(icmp.body.len(), packet.len().min(quoted_max));
    // Of the rest no more changes than what the way may: the time to live, and the header's sum.
    let (mut quote, mut sent) = (icmp.body, packet[..packet.len().min(quoted_max)].to_vec());
    for bytes in [&mut quote, &mut sent] {
        let changed = if outside.is_ipv4() { 8..12 } else { 7..8 };
        bytes[changed].fill(0);
    }
    assert!(quote == sent, "{quote:02x?} is {sent:02x?}");
}

#[test]
fn who_sent_a_first_piece_hears_after_a_minute_that_the_rest_did_not_come() {
    for outside in OUTSIDES {
        for first in [0, 1] {
            let mut room = Room::plain();
            let mut world = room.world();
            let whole = frame::udp(1000, at(outside, 53), &[1; 3000]);
            let pieces = frame::fragments(&whole, 9, 1400);
            world.send(&pieces[first]);
            world.send(&pieces[1 - first]);
            world.advance(MINUTE_MS - 100);
            assert_eq!(world.inbox(), vec![]);
            world.advance(200);
            assert_not_whole(&crate::only(&mut world), outside, &pieces[0]);
            world.advance(2 * MINUTE_MS);
            assert_eq!(world.inbox(), vec![], "once");
        }
    }
}

#[test]
fn nothing_is_said_of_a_datagram_without_its_first_piece_nor_of_what_was_spoilt_or_became_whole() {
    for outside in OUTSIDES {
        let whole = frame::udp(1000, at(outside, 53), &[1; 2000]);
        let pieces = frame::fragments(&whole, 9, 1000);
        let again = frame::fragment(&whole, 9, (8, true), &[2; 16]);
        for sent in [&pieces[1..], &[pieces[0].clone(), again][..], &pieces[..]] {
            let mut room = Room::plain();
            let mut world = room.world();
            sent.iter().for_each(|piece| world.send(piece));
            world.advance(2 * MINUTE_MS);
            assert_eq!(world.inbox(), vec![], "{} pieces", sent.len());
        }
    }
}

#[test]
fn each_of_many_that_are_late_is_told_and_what_gave_way_is_not() {
    let sets = sim::default_config().fragment_sets;
    let mut room = Room::plain();
    let mut world = room.world();
    let first = |ident: u32| {
        let outside = OUTSIDES[ident as usize % 2];
        let whole = frame::udp(ident as u16, at(outside, 53), &[1; 2000]);
        (outside, frame::fragments(&whole, ident, 1000).swap_remove(0))
    };
    for ident in 0..sets + 4 {
        world.send(&first(ident).1);
        world.advance(100);
    }
    world.advance(MINUTE_MS - 100 * u64::from(sets) - 50);
    assert_eq!(world.inbox(), vec![]);
    for ident in 4..sets + 4 {
        world.advance(100);
        let (outside, piece) = first(ident);
        assert_not_whole(&crate::only(&mut world), outside, &piece);
    }
    world.advance(MINUTE_MS);
    assert_eq!(world.inbox(), vec![]);
    let counted = world.counters();
    assert_eq!((counted.pieces_full, counted.pieces_late), (4, u64::from(sets)));
}

/// The cap on what is under reassembly is for that alone.
#[test]
fn a_flood_of_pieces_takes_no_place_of_other_traffic_and_each_that_gives_way_is_counted() {
    let sets = u64::from(sim::default_config().fragment_sets);
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        world.send(&frame::udp(2000, at(outside, 7), b"first"));
        let index = world.datagram();
        let whole = frame::udp(1000, at(outside, 53), &[1; 2000]);
        for ident in 0..1000 {
            world.send(&frame::fragments(&whole, ident, 1000)[0]);
            if ident % 10 == 0 {
                script.send(&mut world, &[ident as u8; 100]);
                world.send(&frame::udp(2000, at(outside, 7), &[ident as u8; 100]));
                world.deliver(index, &[ident as u8; 100]);
            }
        }
        let all: Vec<u8> = (0..100).flat_map(|tenth| [(tenth * 10) as u8; 100]).collect();
        assert_eq!(world.stream().received, all);
        let sent = world.peers.datagrams[&index].sent.clone();
        assert_eq!(sent[0], b"first");
        assert_eq!(sent[1..].concat(), all);
        let is_answer = |seen: &&sim::Seen| matches!(seen.message, Message::Udp { .. });
        assert_eq!(world.inbox().iter().filter(is_answer).count(), 100);
        let counted = world.counters();
        assert_eq!((counted.pieces_full, counted.pieces_late), (1000 - sets, 0));
        // In a minute they are all forgotten, and others have their places.
        world.advance(MINUTE_MS + 100);
        assert_eq!(world.counters().pieces_late, sets);
        for ident in 0..sets as u32 {
            world.send(&frame::fragments(&whole, 5000 + ident, 1000)[0]);
        }
        assert_eq!(world.counters().pieces_full, 1000 - sets);
    }
}

#[test]
fn a_flood_of_first_pieces_is_bounded_and_ends_with_them() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let whole = frame::udp(1000, at(outside, 53), &[1; 2000]);
        for ident in 0..10_000 {
            world.send(&frame::fragments(&whole, ident, 1000)[0]);
        }
        let pieces = frame::fragments(&whole, 70_000, 1000);
        pieces.iter().for_each(|piece| world.send(piece));
        assert_eq!(sent(&mut world), [1; 2000], "the newest gets its place");
    }
}

#[test]
fn pieces_that_no_datagram_can_have_are_refused() {
    let whole = frame::udp(1000, at(OUTSIDE_V4, 53), &[1; 40]);
    for (offset, more, len) in
        [(0, true, 7), (8, true, 1), (65_528, false, 8), (65_528, false, 1000), (0, true, 0)]
    {
        let mut room = Room::plain();
        let mut world = room.world();
        let piece = frame::fragment(&whole, 9, (offset, more), &vec![1; len]);
        assert_eq!(world.dropped(&piece), Some(Drop::Fragment), "{offset} {len}");
    }
}

#[test]
fn a_whole_whose_checksum_is_wrong_is_dropped_once() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut whole = frame::udp(1000, at(outside, 53), &[1; 2000]);
        let end = whole.len() - 1;
        whole[end] ^= 1;
        let pieces = frame::fragments(&whole, 9, 1000);
        let reasons: Vec<_> = pieces.iter().map(|piece| world.dropped(piece)).collect();
        assert_eq!(reasons, [None, None, Some(Drop::Checksum)]);
    }
}

#[test]
fn neighbour_discovery_in_fragments_is_not_answered() {
    // RFC 6980 5.
    let mut room = Room::plain();
    let mut world = room.world();
    let link = sim::default_config().link;
    let whole = frame::solicit(link.guest_ipv6, link.gateway_ipv6);
    frame::fragments(&whole, 9, 16).iter().for_each(|piece| world.send(piece));
    assert_eq!(world.inbox(), vec![]);
}
