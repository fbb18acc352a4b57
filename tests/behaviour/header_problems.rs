//! Headers that are not understood: the guest is told which byte, or nothing where that is asked.

use sim::frame::{self, ETHERNET, OUTSIDE_V4, OUTSIDE_V6, OUTSIDES, protocol};
use sim::{Icmp, Room, Seen};
use sluicegate_core::Drop;

use crate::{at, only};

const PROTOCOL_UNREACHABLE: (u8, u8) = (3, 2);
const PARAMETER_PROBLEM: u8 = 4;
const ROUTING: u8 = 43;
const NO_NEXT_HEADER: u8 = 59;

/// What became of `frame`: why it was dropped, and what the guest was told.
fn told(frame: &[u8]) -> (Option<Drop>, Vec<Seen>) {
    let mut room = Room::plain();
    let mut world = room.world();
    let dropped = world.dropped(frame);
    (dropped, world.inbox())
}

/// A datagram behind an extension header of `kind` with these bytes.
fn behind(kind: u8, body: [u8; 6]) -> Vec<u8> {
    let mut frame = frame::udp(1000, at(OUTSIDE_V6, 53), b"data");
    frame::extend(&mut frame, kind);
    frame[ETHERNET + 42..ETHERNET + 48].copy_from_slice(&body);
    frame
}

/// Checks that `frame` is dropped for `reason`, and answered by a parameter problem with `code`
/// about the byte at `pointer`, from the gateway, with the packet as it was sent.
fn assert_problem(frame: &[u8], reason: Drop, (code, pointer): (u8, u32)) {
    let mut room = Room::plain();
    let mut world = room.world();
    assert_eq!(world.dropped(frame), Some(reason));
    let Icmp { ends, kind, code: said, rest, body, .. } =
        only(&mut world).icmp().expect("an error").clone();
    assert_eq!(ends, (frame::gateway(OUTSIDE_V6), frame::guest(OUTSIDE_V6)));
    assert_eq!((kind, said, u32::from_be_bytes(rest)), (PARAMETER_PROBLEM, code, pointer));
    assert!(body == frame[ETHERNET..], "{body:02x?} is {frame:02x?}");
}

#[test]
fn an_option_says_itself_what_becomes_of_a_packet_whose_reader_does_not_know_it() {
    for kind in [protocol::HOP_BY_HOP, protocol::DESTINATION_OPTIONS] {
        // Behind a byte of padding, so that the pointer must count.
        let frame = |option: u8| behind(kind, [0, option, 2, 1, 1, 0]);
        assert_eq!(told(&frame(0x1e)), (None, vec![]), "passed over");
        assert_eq!(told(&frame(0x5e)), (Some(Drop::Unsupported), vec![]), "dropped in silence");
        assert_problem(&frame(0x9e), Drop::Unsupported, (2, 43));
        assert_problem(&frame(0xde), Drop::Unsupported, (2, 43));
    }
}

#[test]
fn an_option_that_ends_behind_its_header_is_a_problem_at_its_length() {
    for len in [3, 200] {
        let frame = behind(protocol::DESTINATION_OPTIONS, [1, 0, 0x1e, len, 0, 0]);
        assert_problem(&frame, Drop::Malformed, (0, 45));
    }
    let fits = behind(protocol::DESTINATION_OPTIONS, [1, 0, 0x1e, 2, 0, 0]);
    assert_eq!(told(&fits), (None, vec![]));
    let cut = behind(protocol::DESTINATION_OPTIONS, [1, 3, 0, 0, 0, 0x1e]);
    assert_problem(&cut, Drop::Malformed, (0, 48));
}

#[test]
fn a_routing_header_matters_if_segments_are_left() {
    for kind in [0, 3, 4, 253] {
        assert_eq!(told(&behind(ROUTING, [kind, 0, 0, 0, 0, 0])), (None, vec![]));
        let left = behind(ROUTING, [kind, 1, 0, 0, 0, 0]);
        assert_problem(&left, Drop::Unsupported, (0, 42));
    }
}

#[test]
fn a_next_header_that_is_not_served_is_a_problem_where_it_is_said() {
    for number in [4, 41, 50, 51, 132, 253] {
        let mut frame = frame::ip(OUTSIDE_V6, number, &[0; 16]);
        assert_problem(&frame, Drop::Unsupported, (1, 6));
        frame::extend(&mut frame, protocol::DESTINATION_OPTIONS);
        assert_problem(&frame, Drop::Unsupported, (1, 40));
        frame::extend(&mut frame, protocol::HOP_BY_HOP);
        assert_problem(&frame, Drop::Unsupported, (1, 48));
    }
    let mut late = behind(protocol::HOP_BY_HOP, [1, 4, 0, 0, 0, 0]);
    frame::extend(&mut late, protocol::DESTINATION_OPTIONS);
    assert_problem(&late, Drop::Malformed, (1, 40));
}

#[test]
fn a_protocol_that_is_not_served_is_unreachable_in_ipv4() {
    for number in [2, 4, 41, 47, 50, 132, 253] {
        let frame = frame::ip(OUTSIDE_V4, number, &[7; 16]);
        let (dropped, told) = told(&frame);
        assert_eq!(dropped, Some(Drop::Unsupported));
        let [seen] = &told[..] else { panic!("one frame: {told:?}") };
        crate::assert_error_about(seen, PROTOCOL_UNREACHABLE, &frame);
    }
}

#[test]
fn a_piece_that_no_datagram_can_have_is_a_problem_at_its_length_or_offset() {
    let whole = frame::udp(1000, at(OUTSIDE_V6, 53), &[1; 40]);
    let odd = frame::fragment(&whole, 9, (0, true), &[1; 9]);
    assert_problem(&odd, Drop::Fragment, (0, 4));
    let beyond = frame::fragment(&whole, 9, (65_528, false), &[1; 8]);
    assert_problem(&beyond, Drop::Fragment, (0, 42));
}

#[test]
fn no_problem_is_told_of_what_nobody_may_be_told_of() {
    let [v4, v6] = OUTSIDES.map(|outside| frame::ip(outside, 132, &[0; 16]));
    let mut quiet = vec![
        frame::ip(OUTSIDE_V6, NO_NEXT_HEADER, &[0; 16]),
        // Errors and answers, which are served as little.
        frame::ip(OUTSIDE_V4, protocol::ICMP, &[3, 1, 0xfc, 0xfe, 0, 0, 0, 0]),
    ];
    let mut unreachable = frame::ip(OUTSIDE_V6, protocol::ICMPV6, &[1, 4, 0, 0, 0, 0, 0, 0]);
    frame::mend(&mut unreachable);
    quiet.push(unreachable);
    let mut deep = frame::udp(1000, at(OUTSIDE_V6, 53), b"deep");
    (0..9).for_each(|_| frame::extend(&mut deep, protocol::DESTINATION_OPTIONS));
    quiet.push(deep);
    for outside in OUTSIDES {
        // In pieces, of which the last is not what it completes.
        let whole = frame::ip(outside, 132, &[0; 64]);
        let mut room = Room::plain();
        let mut world = room.world();
        let pieces = frame::fragments(&whole, 9, 32);
        let reasons: Vec<_> = pieces.iter().map(|piece| world.dropped(piece)).collect();
        assert_eq!(reasons, [None, Some(Drop::Unsupported)]);
        assert_eq!(world.inbox(), vec![]);
    }
    let option = behind(protocol::DESTINATION_OPTIONS, [0x9e, 0, 1, 2, 0, 0]);
    for frame in [v4, v6, option] {
        // To a group or to everybody on the link, and from or to an address that cannot be.
        let is_v4 = frame[ETHERNET] >> 4 == 4;
        let [source, destination] = if is_v4 { [15, 16] } else { [23, 24] };
        let changes: [(usize, u8); 4] =
            [(0, 0x33), (0, 0xff), (ETHERNET + source, 99), (ETHERNET + destination, 0xff)];
        for (at, byte) in changes {
            let mut other = frame.clone();
            other[at] = byte;
            if byte == 0xff && at == 0 {
                other[..6].fill(0xff);
            }
            frame::mend_ip(&mut other);
            quiet.push(other);
        }
    }
    for frame in quiet {
        let (dropped, told) = told(&frame);
        assert_eq!((dropped.is_some(), told), (true, vec![]), "{frame:02x?}");
    }
}

#[test]
fn problems_are_limited_as_other_errors_are() {
    let mut room = Room::plain();
    let mut world = room.world();
    let frame = frame::ip(OUTSIDE_V6, 132, &[0; 16]);
    let max = sluicegate_core::limits::ICMP_ERRORS_PER_SECOND_MAX as usize;
    let mut count = 0;
    for _ in 0..max + 100 {
        world.send(&frame);
        count += world.inbox().len();
    }
    assert_eq!(count, max);
}
