//! A guest that knows nothing asks: DHCP, DHCPv6 and router solicitations are answered by the
//! gateway, with the one address of each family that the guest can have.

mod adverts;
mod dhcp;
mod dhcpv6;
mod hostile;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sim::frame::{self, ETHERNET};
use sim::{Message, Room, Seen, default_config};
use sluicegate_core::{Autoconf, Drop};

/// The guest's link-local address.
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0x6d, 0x73ff, 2);
/// The gateway's (MAC 02:6d:73:00:00:01).
const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x6d, 0x73ff, 0xfe00, 1);
/// The lease of these tests, in seconds.
const LEASE_S: u32 = 3600;

/// A room whose guest is told.
fn room<'a>() -> Room<'a> {
    room_with(None)
}

/// The same, with a search domain.
fn room_with<'a>(search: Option<&str>) -> Room<'a> {
    let search = search.map(|search| search.try_into().expect("because it is short"));
    Room::with(|config| config.autoconf = Some(Autoconf { lease_s: LEASE_S, search }))
}

/// A frame with `transport` from `from` to `to`, a group or everybody.
fn to_all(ends: (IpAddr, IpAddr), protocol: u8, transport: &[u8]) -> Vec<u8> {
    let mut frame = frame::packet(ends, protocol, transport);
    match ends.1 {
        IpAddr::V4(_) => frame[..6].fill(0xff),
        IpAddr::V6(group) => {
            frame[..2].fill(0x33);
            frame[2..6].copy_from_slice(&group.octets()[12..]);
        }
    }
    frame
}

/// The payload of the UDP datagram `seen`, its ends and ports.
fn datagram(seen: &Seen) -> (&[u8], (IpAddr, IpAddr), (u16, u16)) {
    let Message::Udp { ends, ports, payload } = &seen.message else {
        panic!("not a datagram: {seen:?}");
    };
    (payload, *ends, *ports)
}

#[test]
fn where_it_is_off_nobody_answers_and_drops_are_as_ever() {
    let mut room = Room::plain();
    let mut world = room.world();
    let discover = dhcp::Ask::discover().frame();
    assert_eq!(world.dropped(&discover), Some(Drop::SourceAddress));
    let solicit = dhcpv6::Ask::solicit().frame();
    assert_eq!(world.dropped(&solicit), Some(Drop::SourceAddress));
    assert_eq!(world.dropped(&adverts::solicit(LINK_LOCAL)), Some(Drop::Unsupported));
    world.advance(10_000_000);
    assert_eq!((world.inbox(), world.peers.log.len()), (vec![], 0));
    assert_eq!(world.wait().0, None, "and nothing is ever due");
}

#[test]
fn no_other_traffic_gets_through_with_a_strange_address() {
    let mut room = room();
    let mut world = room.world();
    let link = default_config().link;
    let stranger: IpAddr = Ipv4Addr::new(192, 168, 1, 5).into();
    let nobody: IpAddr = Ipv4Addr::UNSPECIFIED.into();
    let everybody: IpAddr = Ipv4Addr::BROADCAST.into();
    let outside = frame::OUTSIDE_V4;
    let own: IpAddr = link.guest_ipv4.into();
    let local: IpAddr = LINK_LOCAL.into();
    let servers: IpAddr = dhcpv6::SERVERS.into();
    let group: IpAddr = "ff02::fb".parse().unwrap();
    let all_nodes: IpAddr = "ff02::1".parse().unwrap();
    let gateway: IpAddr = link.gateway_ipv6.into();
    let (source, destination) = (Drop::SourceAddress, Drop::DestinationAddress);
    for (from, to, port, reason) in [
        (nobody, outside, 67, source),
        (stranger, outside, 67, source),
        (nobody, everybody, 68, source),
        (nobody, everybody, 53, source),
        (own, everybody, 53, destination),
        (own, everybody, 547, destination),
        (own, Ipv4Addr::new(100, 96, 0, 3).into(), 67, destination),
        (local, gateway, 547, source),
        (local, servers, 53, source),
        (local, servers, 67, source),
        (local, group, 5353, source),
        (local, all_nodes, 547, source),
        (local, frame::OUTSIDE_V6, 547, source),
        (Ipv6Addr::UNSPECIFIED.into(), servers, 547, source),
        (frame::OUTSIDE_V6, servers, 547, source),
        (link.guest_ipv6.into(), servers, 547, destination),
    ] {
        let text = if from.is_ipv4() {
            dhcp::Ask::discover().text()
        } else {
            dhcpv6::Ask::solicit().text()
        };
        let datagram = frame::udp_header(68, port, &text);
        let frame = to_all((from, to), frame::protocol::UDP, &datagram);
        assert_eq!(world.dropped(&frame), Some(reason), "{from} to {to} port {port}");
        let mut tcp = vec![0; 20];
        tcp[2..4].copy_from_slice(&port.to_be_bytes());
        (tcp[12], tcp[13]) = (0x50, frame::flag::SYN);
        let frame = to_all((from, to), frame::protocol::TCP, &tcp);
        assert_eq!(world.dropped(&frame), Some(reason), "TCP {from} to {to} port {port}");
    }
    assert_eq!((world.inbox(), world.peers.log.len()), (vec![], 0));
}

#[test]
fn a_server_s_port_at_any_other_address_is_a_flow_like_any_other() {
    let mut room = room();
    let mut world = room.world();
    for (outside, port) in [(frame::OUTSIDE_V4, 67), (frame::OUTSIDE_V6, 547)] {
        world.send(&frame::udp(68, crate::at(outside, port), b"hello"));
    }
    assert_eq!(world.peers.datagrams.len(), 2);
}

#[test]
fn a_question_in_fragments_is_not_one() {
    let mut room = room();
    let mut world = room.world();
    for frame in [dhcp::Ask::discover().frame(), dhcpv6::Ask::solicit().frame()] {
        for piece in frame::fragments(&frame, 7, 16) {
            assert_eq!(world.dropped(&piece), Some(Drop::SourceAddress));
        }
    }
    assert_eq!(world.inbox(), vec![]);
}

#[test]
fn a_full_ring_loses_the_answer_and_says_so() {
    let mut room = room();
    let mut world = room.world();
    world.stalled = true;
    let discover = dhcp::Ask::discover().frame();
    let mut sent = 0;
    while world.counters().dropped(Drop::AnswerLost) == 0 {
        world.send(&discover);
        sent += 1;
        assert!(sent < 10_000, "the ring is never full");
    }
    let counted = world.counters();
    assert_eq!(counted.dhcp_answered + counted.dropped(Drop::AnswerLost), sent);
    // What is shorter may still have room.
    for _ in 0..100 {
        world.send(&dhcpv6::Ask::solicit().frame());
    }
    let counted = world.counters();
    assert!(counted.dropped(Drop::AnswerLost) > 10);
    let answers = counted.dhcp_answered + counted.dhcpv6_answered;
    assert_eq!(answers + counted.dropped(Drop::AnswerLost), sent + 100);
    world.stalled = false;
    world.run();
    assert_eq!(world.inbox().len() as u64, answers, "what is counted as answered has come");
    world.send(&discover);
    assert_eq!(world.inbox().len(), 1, "and it goes on");
}

#[test]
fn a_policy_that_denies_everything_changes_nothing() {
    use sluicegate_core::{Permission, Policy};
    let mut room = Room::with(|config| {
        config.autoconf = Some(Autoconf::default());
        config.policy = Policy::new(Permission::Deny, Permission::Deny);
    });
    let mut world = room.world();
    world.send(&dhcp::Ask::discover().frame());
    world.send(&dhcpv6::Ask::solicit().frame());
    world.send(&adverts::solicit(LINK_LOCAL));
    assert_eq!((world.inbox().len(), world.denials.len()), (3, 0));
}

#[test]
fn an_answer_of_any_kind_is_counted() {
    let mut room = room();
    let mut world = room.world();
    world.send(&dhcp::Ask::discover().frame());
    world.send(&dhcpv6::Ask::solicit().frame());
    world.send(&adverts::solicit(LINK_LOCAL));
    let counted = world.counters();
    let answers = (counted.dhcp_answered, counted.dhcpv6_answered, counted.router_advertisements);
    assert_eq!(answers, (1, 1, 1));
    assert_eq!(world.inbox().iter().filter(|seen| seen.len > ETHERNET).count(), 3);
}
