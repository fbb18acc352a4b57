//! Time to live and hop limit: what is to go on needs another hop, what ends here does not.

use core::net::IpAddr;

use sim::Room;
use sim::frame::{self, ETHERNET, OUTSIDES, gateway};
use sim::guest::Script;
use sluicegate_core::Drop;

use crate::{Error, assert_error_about, at, only};

/// `frame` with this time to live.
fn lived(mut frame: Vec<u8>, hops: u8) -> Vec<u8> {
    let is_v4 = frame[ETHERNET] >> 4 == 4;
    frame[ETHERNET + if is_v4 { 8 } else { 7 }] = hops;
    frame::mend_ip(&mut frame);
    frame
}

const TIME_EXCEEDED: Error = Error { v4: (11, 0), v6: (3, 0) };

/// A datagram and a ping to `outside`.
fn datagrams(outside: IpAddr) -> [Vec<u8>; 2] {
    [frame::udp(5353, at(outside, 7), b"word"), frame::echo(outside, 7, 1, b"ping")]
}

#[test]
fn a_datagram_that_may_go_no_further_is_time_exceeded_and_opens_nothing() {
    for outside in OUTSIDES {
        for frame in datagrams(outside) {
            for hops in [0, 1] {
                let mut room = Room::plain();
                let mut world = room.world();
                let frame = lived(frame.clone(), hops);
                assert_eq!(world.dropped(&frame), Some(Drop::HopLimit), "{hops} hops");
                assert_error_about(&only(&mut world), TIME_EXCEEDED.of(outside), &frame);
                assert!(world.peers.datagrams.is_empty());
            }
            let mut room = Room::plain();
            let mut world = room.world();
            assert_eq!(world.dropped(&lived(frame, 2)), None);
            assert_eq!(world.peers.datagrams.len(), 1);
        }
    }
}

#[test]
fn a_datagram_for_the_gateway_needs_no_other_hop() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        for (number, frame) in datagrams(gateway(outside)).into_iter().enumerate() {
            assert_eq!(world.dropped(&lived(frame, 1)), None);
            let answers = world.inbox();
            assert_eq!(answers.len(), number, "a ping is answered at once");
        }
        assert_eq!(world.peers.datagrams.len(), 1);
        world.send(&lived(frame::udp(5354, at(outside, 53), b"no question"), 1));
        let kind = TIME_EXCEEDED.of(outside).0;
        let is_error = |seen: &sim::Seen| seen.icmp().is_some_and(|icmp| icmp.kind == kind);
        assert!(!world.inbox().iter().any(is_error), "names end here, whomever they are asked of");
    }
}

#[test]
fn a_connection_ends_at_the_gateway_whatever_its_segments_say() {
    for outside in OUTSIDES {
        let mut room = Room::plain();
        let mut world = room.world();
        let mut script = Script::new(at(outside, 80), 40_000);
        world.send(&lived(frame::tcp(script.to, &script.syn()), 1));
        script.establish(&mut world);
        let segment = script.segment(0, b"hello");
        world.send(&lived(frame::tcp(script.to, &segment), 1));
        assert_eq!(world.stream().received, b"hello");
    }
}
