//! Policy: what no rule allows is refused in the way that its protocol understands.

use sim::Room;
use sim::frame::{self, OUTSIDES, flag, gateway};
use sim::guest::Script;
use sluicegate_core::{Drop, Permission};

use crate::{Error, answer, assert_error_about, at, everybody, only};

#[test]
fn a_denied_connection_is_reset() {
    for outside in everybody() {
        let mut room = Room::with(|c| c.policy.default_egress = Permission::Deny);
        let mut world = room.world();
        let script = Script::new(at(outside, 80), 40_000);
        let syn = frame::tcp(script.to, &script.syn());
        assert_eq!(world.dropped(&syn), Some(Drop::Denied));
        let seen = only(&mut world);
        let reset = seen.tcp().unwrap();
        assert_eq!((reset.ends, reset.flags), (answer(outside), flag::RST | flag::ACK));
        assert_eq!(reset.ack, script.next.wrapping_add(1));
        assert_eq!((world.peers.log.len(), world.wait().0), (0, None));
    }
}

#[test]
fn a_denied_datagram_is_administratively_prohibited() {
    for outside in everybody() {
        let mut room = Room::with(|c| c.policy.default_egress = Permission::Deny);
        let mut world = room.world();
        let request = frame::udp(1000, at(outside, 7), b"ask");
        assert_eq!(world.dropped(&request), Some(Drop::Denied));
        let error = Error::PROHIBITED.of(outside);
        let icmp = assert_error_about(&only(&mut world), error, &request);
        assert_eq!(icmp.ends, answer(gateway(outside)));
        assert_eq!((world.peers.log.len(), world.wait().0), (0, None));
    }
}

#[test]
fn a_denied_ping_is_administratively_prohibited_and_the_gateway_still_answers() {
    for outside in OUTSIDES {
        let mut room = Room::with(|c| c.policy.default_egress = Permission::Deny);
        let mut world = room.world();
        let request = frame::echo(outside, 7, 1, b"data");
        assert_eq!(world.dropped(&request), Some(Drop::Denied));
        assert_error_about(&only(&mut world), Error::PROHIBITED.of(outside), &request);
        world.send(&frame::echo(gateway(outside), 7, 1, b"data"));
        assert_eq!(only(&mut world).icmp().unwrap().body, b"data");
    }
}

#[test]
fn a_denied_datagram_in_fragments_is_refused_when_it_is_whole() {
    for outside in OUTSIDES {
        let mut room = Room::with(|c| c.policy.default_egress = Permission::Deny);
        let mut world = room.world();
        let request = frame::udp(1000, at(outside, 7), &[1; 2000]);
        let pieces = frame::fragments(&request, 1, 1000);
        let reasons: Vec<_> = pieces.iter().map(|piece| world.dropped(piece)).collect();
        assert_eq!(reasons, [None, None, Some(Drop::Denied)]);
        assert_error_about(&only(&mut world), Error::PROHIBITED.of(outside), &request);
    }
}
