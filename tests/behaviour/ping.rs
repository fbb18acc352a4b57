//! Echo: the gateway answers for itself, everybody else is asked by the host's ping sockets.

use sim::frame::{self, OUTSIDE_V4, OUTSIDES, gateway};
use sim::{Message, Pattern, Room, reassemble};
use sluicegate_core::{DatagramKind, Outside, Refusal};

use crate::{Error, answer, assert_error_about, at, icmp_number, only};

/// The echo reply that a ping socket gives: the host's identifier instead of the guest's.
fn reply(request: &[u8], ident: u16) -> Vec<u8> {
    let mut message = request.to_vec();
    message[0] = if request[0] == 8 { 0 } else { 129 };
    message[4..6].copy_from_slice(&ident.to_be_bytes());
    message
}

#[test]
fn the_gateway_answers_ping_itself() {
    for outside in OUTSIDES {
        let gateway = gateway(outside);
        let mut room = Room::plain();
        let mut world = room.world();
        for len in [0, 1, 56, 1400] {
            let data = Pattern::new(1).take(len);
            world.send(&frame::echo(gateway, 0xbeef, 3, &data));
            let seen = only(&mut world);
            let icmp = seen.icmp().unwrap();
            let kind = if outside.is_ipv4() { 0 } else { 129 };
            assert_eq!((icmp.ends, icmp.kind, icmp.code), (answer(gateway), kind, 0));
            assert_eq!((icmp.rest, &icmp.body), ([0xbe, 0xef, 0, 3], &data));
        }
        assert_eq!(world.peers.log, vec![], "the host has nothing to do with it");
    }
}

#[test]
fn a_ping_that_the_guest_fragments_comes_back_in_fragments() {
    for outside in OUTSIDES {
        let gateway = gateway(outside);
        let mut room = Room::plain();
        let mut world = room.world();
        let data = Pattern::new(1).take(4000);
        for piece in frame::fragments(&frame::echo(gateway, 5, 6, &data), 99, 1000) {
            assert_eq!(world.dropped(&piece), None);
        }
        let inbox = world.inbox();
        let pieces: Vec<_> = inbox.iter().filter_map(sim::Seen::piece).cloned().collect();
        assert_eq!(pieces.len(), inbox.len(), "all of them fragments");
        let Message::Icmp(icmp) = reassemble(&pieces).unwrap() else { panic!("ICMP") };
        assert_eq!((icmp.rest, icmp.body), ([0, 5, 0, 6], data));
    }
}

#[test]
fn a_ping_to_the_outside_comes_back_with_the_guests_own_identifier() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        for number in 1..=3 {
            let request = frame::echo(outside, 0x1234, number, b"data");
            world.send(&request);
            let index = world.datagram();
            let flow = &world.peers.datagrams[&index];
            assert_eq!((flow.kind, flow.to), (DatagramKind::Echo, Outside::Remote(at(outside, 0))));
            let message = flow.sent.last().unwrap().clone();
            assert_eq!(message, request[request.len() - 12..], "the whole message");
            world.deliver(index, &reply(&message, 0x7777));
            let seen = only(&mut world);
            let icmp = seen.icmp().unwrap();
            assert_eq!((icmp.ends, icmp.code), (answer(outside), 0));
            assert_eq!(icmp.rest, [0x12, 0x34, 0, number as u8]);
            assert_eq!(icmp.body, b"data");
        }
    }
}

#[test]
fn pings_with_different_identifiers_or_destinations_are_different_flows() {
    let mut room = Room::plain();
    let mut world = room.world();
    for (outside, ident) in [(OUTSIDES[0], 1), (OUTSIDES[0], 2), (OUTSIDES[1], 1)] {
        world.send(&frame::echo(outside, ident, 1, &[]));
    }
    assert_eq!(world.peers.datagrams.len(), 3);
}

#[test]
fn a_ping_that_the_host_forbids_is_administratively_prohibited() {
    for (refusal, error) in [
        (Refusal::Forbidden, Error::PROHIBITED),
        (Refusal::HostUnreachable, Error::HOST_UNREACHABLE),
        (Refusal::NetUnreachable, Error::NET_UNREACHABLE),
    ] {
        for outside in OUTSIDES {
            let mut room = Room::plain();
            let mut world = room.world();
            let request = frame::echo(outside, 7, 1, b"data");
            world.send(&request);
            let index = world.datagram();
            world.fail_datagram(index, refusal);
            let icmp = assert_error_about(&only(&mut world), error.of(outside), &request);
            assert_eq!(icmp.ends, answer(gateway(outside)), "the gateway says so");
        }
    }
}

#[test]
fn a_short_or_foreign_echo_message_from_the_host_harms_nobody() {
    let mut room = Room::plain();
    let mut world = room.world();
    world.send(&frame::echo(OUTSIDE_V4, 7, 1, b"data"));
    let index = world.datagram();
    for len in 0..8 {
        world.deliver(index, &vec![0; len]);
    }
    assert_eq!(world.inbox(), vec![]);
}

#[test]
fn an_echo_flow_ends_after_a_minute_without_a_message() {
    let mut room = Room::plain();
    let mut world = room.world();
    world.send(&frame::echo(OUTSIDE_V4, 7, 1, b"data"));
    world.advance(59_990);
    let index = world.datagram();
    world.deliver(index, &[0, 0, 0, 0, 0, 0, 0, 1]);
    world.advance(59_990);
    assert_eq!(world.peers.datagrams.len(), 1, "an answer keeps it");
    world.advance(20);
    assert_eq!((world.peers.datagrams.len(), world.peers.closed.len()), (0, 1));
    assert_eq!(world.wait().0, None, "and nothing is left to wait for");
}

#[test]
fn other_icmp_messages_of_the_guest_are_dropped() {
    let mut room = Room::plain();
    let mut world = room.world();
    for outside in OUTSIDES {
        // Errors are read: `complaints` has them.
        let errors: &[u8] = if outside.is_ipv4() { &[3, 11, 12] } else { &[1, 2, 3, 4] };
        let read = |kind: &u8| [8, 128, 135].contains(kind) || errors.contains(kind);
        for kind in (0..=255).filter(|kind| !read(kind)) {
            let message = [kind, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0];
            let frame = frame::ip(outside, icmp_number(outside), &message);
            let reason = world.dropped(&frame);
            assert_eq!(reason, Some(sluicegate_core::Drop::Unsupported), "type {kind}");
        }
    }
    assert_eq!((world.inbox(), world.peers.log.len()), (vec![], 0));
}
