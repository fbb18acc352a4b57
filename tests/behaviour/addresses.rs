//! ARP and neighbour discovery: the gateway's MAC stands for every address but the guest's own.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sim::frame::{self, ETHERNET};
use sim::{Message, Room, Seen, default_config};
use sluicegate_core::Drop;

use crate::only;

fn assert_arp_answer(seen: &Seen, sender: Ipv4Addr, target: Ipv4Addr) {
    let mac = default_config().link.gateway_mac;
    assert_eq!(seen.message, Message::Arp { sender, mac, target });
}

/// A neighbour advertisement for `target`; returns its destination and flags.
fn assert_advert(seen: &Seen, target: Ipv6Addr) -> (IpAddr, u8) {
    let icmp = seen.icmp().expect("an ICMPv6 message");
    assert_eq!((icmp.kind, icmp.code, icmp.hop_limit), (136, 0, 255));
    assert_eq!(icmp.ends.0, IpAddr::V6(target), "from the target itself");
    assert_eq!(icmp.body[..16], target.octets());
    assert_eq!(icmp.body[16..18], [2, 1], "with the target's link-layer address");
    assert_eq!(icmp.body[18..24], default_config().link.gateway_mac);
    (icmp.ends.1, icmp.rest[0])
}

#[test]
fn arp_for_the_gateway_and_for_anyone_else_is_answered_with_the_gateways_mac() {
    let mut room = Room::plain();
    let mut world = room.world();
    let link = default_config().link;
    let others = [[100, 96, 0, 3], [100, 96, 0, 77], [8, 8, 8, 8], [10, 0, 0, 1]];
    for target in others.map(Ipv4Addr::from).into_iter().chain([link.gateway_ipv4]) {
        world.send(&frame::arp_request(link.guest_ipv4, target));
        assert_arp_answer(&only(&mut world), target, link.guest_ipv4);
    }
}

#[test]
fn arp_to_the_gateways_mac_is_answered_too() {
    let mut room = Room::plain();
    let mut world = room.world();
    let link = default_config().link;
    let mut request = frame::arp_request(link.guest_ipv4, link.gateway_ipv4);
    request[..6].copy_from_slice(&link.gateway_mac);
    world.send(&request);
    assert_arp_answer(&only(&mut world), link.gateway_ipv4, link.guest_ipv4);
}

#[test]
fn nobody_claims_the_guests_ipv4_address_so_duplicate_detection_passes() {
    let mut room = Room::plain();
    let mut world = room.world();
    let own = default_config().link.guest_ipv4;
    for sender in [Ipv4Addr::UNSPECIFIED, own] {
        assert_eq!(world.dropped(&frame::arp_request(sender, own)), None);
        assert_eq!(world.inbox(), vec![]);
    }
}

#[test]
fn an_arp_probe_for_the_gateways_address_finds_it_taken() {
    let mut room = Room::plain();
    let mut world = room.world();
    let gateway = default_config().link.gateway_ipv4;
    world.send(&frame::arp_request(Ipv4Addr::UNSPECIFIED, gateway));
    assert_arp_answer(&only(&mut world), gateway, Ipv4Addr::UNSPECIFIED);
}

#[test]
fn a_solicitation_for_anyone_is_answered_from_the_target_itself() {
    let mut room = Room::plain();
    let mut world = room.world();
    let link = default_config().link;
    let own = link.guest_ipv6;
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let neighbour = Ipv6Addr::new(0xfd42, 0x6d73, 0x62, 0, 0, 0, 0, 0x99);
    for target in [link.gateway_ipv6, link_local, neighbour] {
        world.send(&frame::solicit(own, target));
        let (to, flags) = assert_advert(&only(&mut world), target);
        assert_eq!(to, IpAddr::V6(own));
        assert_eq!(flags, 0xe0, "router, solicited, override");
    }
}

#[test]
fn a_solicitation_from_a_link_local_address_is_answered_to_it() {
    let mut room = Room::plain();
    let mut world = room.world();
    let own = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0x6d, 0x73ff, 2);
    let target = default_config().link.gateway_ipv6;
    world.send(&frame::solicit(own, target));
    assert_eq!(assert_advert(&only(&mut world), target).0, IpAddr::V6(own));
}

#[test]
fn nobody_claims_the_guests_ipv6_addresses_so_duplicate_detection_passes() {
    let mut room = Room::plain();
    let mut world = room.world();
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0x6d, 0x73ff, 2);
    for own in [default_config().link.guest_ipv6, link_local] {
        assert_eq!(world.dropped(&frame::solicit(Ipv6Addr::UNSPECIFIED, own)), None);
        assert_eq!(world.inbox(), vec![]);
    }
    let own = default_config().link.guest_ipv6;
    assert_eq!(world.dropped(&frame::solicit(own, own)), None);
    assert_eq!(world.inbox(), vec![]);
}

#[test]
fn duplicate_detection_for_the_gateways_address_finds_it_taken() {
    let mut room = Room::plain();
    let mut world = room.world();
    let target = default_config().link.gateway_ipv6;
    world.send(&frame::solicit(Ipv6Addr::UNSPECIFIED, target));
    let (to, flags) = assert_advert(&only(&mut world), target);
    assert_eq!(to, IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)), "to all nodes");
    assert_eq!(flags, 0xa0, "not solicited");
}

#[test]
fn only_a_neighbour_discovers_neighbours() {
    let mut room = Room::plain();
    let mut world = room.world();
    let link = default_config().link;
    let mut far = frame::solicit(link.guest_ipv6, link.gateway_ipv6);
    far[ETHERNET + 7] = 64;
    assert!(world.dropped(&far).is_some(), "a hop limit below 255 has been routed");
    let mut multicast = frame::solicit(link.guest_ipv6, link.gateway_ipv6);
    multicast[ETHERNET + 48] = 0xff;
    frame::mend(&mut multicast);
    multicast[ETHERNET + 7] = 255;
    assert_eq!(world.dropped(&multicast), Some(Drop::Malformed), "nobody has a group's address");
    assert_eq!(world.inbox(), vec![]);
}

#[test]
fn arp_that_is_spoofed_or_malformed_is_dropped_by_reason() {
    let mut room = Room::plain();
    let mut world = room.world();
    let link = default_config().link;
    let good = frame::arp_request(link.guest_ipv4, link.gateway_ipv4);
    let mut with = |at: usize, value: u8| {
        let mut frame = good.clone();
        frame[at] = value;
        world.dropped(&frame)
    };
    assert_eq!(with(ETHERNET + 13, 9), Some(Drop::SourceMac), "another sender MAC");
    assert_eq!(with(ETHERNET + 17, 9), Some(Drop::SourceAddress), "another sender address");
    assert_eq!(with(ETHERNET + 7, 2), Some(Drop::Unsupported), "a reply");
    assert_eq!(with(ETHERNET + 1, 6), Some(Drop::Malformed), "not Ethernet");
    for len in ETHERNET..good.len() {
        assert_eq!(world.dropped(&good[..len]), Some(Drop::Truncated), "{len}");
    }
    assert_eq!(world.inbox(), vec![]);
}

#[test]
fn an_echo_request_is_not_mistaken_for_neighbour_discovery() {
    let mut room = Room::plain();
    let mut world = room.world();
    let link_local = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2));
    let gateway = IpAddr::V6(default_config().link.gateway_ipv6);
    let outside = sim::frame::OUTSIDE_V6;
    let neighbour = "fd42:6d73:62::99".parse().unwrap();
    let message = [128, 0, 0, 0, 0, 7, 0, 1];
    let own = frame::guest(outside);
    let unspecified = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    for (from, to, reason) in [
        (link_local, outside, Drop::SourceAddress),
        (link_local, gateway, Drop::SourceAddress),
        (unspecified, gateway, Drop::SourceAddress),
        (own, neighbour, Drop::DestinationAddress),
    ] {
        let mut spoofed = frame::packet((from, to), frame::protocol::ICMPV6, &message);
        spoofed[ETHERNET + 7] = 255;
        assert_eq!(world.dropped(&spoofed), Some(reason), "{from} to {to}");
    }
    assert_eq!((world.inbox(), world.peers.log.len()), (vec![], 0));
}
