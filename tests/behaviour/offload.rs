//! Offload records: what a front end vouches for is believed, what contradicts the bytes is not.

use sim::frame::{self, OUTSIDES};
use sim::guest::Script;
use sim::{Pattern, Room};
use sluicegate_core::{Offload, TransportChecksum};

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
            let offload = Offload { segment_bytes: 0, checksum };
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
        let offload = Offload { segment_bytes: 1400, checksum: TransportChecksum::Vouched };
        assert!(world.push_offloaded(&segment, offload));
        world.run();
        Pattern::new(1).check(&world.stream().received);
        assert_eq!(world.stream().received.len(), 60_000);
    }
}
