//! Denials: what is told of a flow that policy refused, and of a guest that has very many refused.

use core::net::SocketAddr;

use sim::Room;
use sim::frame::{self, OUTSIDE_V4, gateway};
use sluicegate_core::{
    By, Denial, DenialReason, Direction, Drop, Group, Permission, Profile, Protocol, limits,
};

use crate::at;
use crate::policy_rules::{config_of, ip, openings};

fn denial(protocol: Protocol, guest_port: u16, destination: SocketAddr) -> Denial {
    Denial {
        direction: Direction::Egress,
        protocol,
        guest_port,
        destination,
        group: None,
        by: By::Default,
        reason: DenialReason::Policy,
        left_out: 0,
    }
}

/// The denials of a flow of each protocol to port 80 of `outside`.
fn told(default: &str, lines: &[&str], profile: Profile, outside: &str) -> Vec<Denial> {
    let mut config = config_of(default, lines);
    config.policy.profile = profile;
    let mut room = Room::new(config);
    let mut world = room.world();
    for (_, opening) in openings(ip(outside), 80) {
        world.send(&opening);
    }
    world.denials.clone()
}

#[test]
fn a_denial_says_which_flow_and_what_denied_it() {
    let single = Profile::SingleTenant;
    for (lines, outside, group, by) in [
        (&[][..], "1.1.1.1", Some(Group::Public), By::Default),
        (
            &["allow any all private", "deny any all metadata"],
            "169.254.169.254",
            Some(Group::Metadata),
            By::Rule(1),
        ),
        (&["allow any all private"], "2600::2", Some(Group::Public), By::Default),
        (&["deny any all any"], "45.0.0.1", None, By::Rule(0)),
    ] {
        let address = ip(outside);
        let icmp = if address.is_ipv4() { Protocol::Icmpv4 } else { Protocol::Icmpv6 };
        let expected = [
            denial(Protocol::Tcp, 40_000, at(address, 80)),
            denial(Protocol::Udp, 1000, at(address, 80)),
            denial(icmp, 7, at(address, 0)),
        ]
        .map(|denial| Denial { group, by, ..denial });
        assert_eq!(told("deny", lines, single, outside), expected, "{lines:?} {outside}");
    }
}

#[test]
fn what_is_allowed_or_dropped_for_another_reason_is_no_denial() {
    let mut room = Room::new(config_of("allow", &[]));
    let mut world = room.world();
    for (_, opening) in openings(OUTSIDE_V4, 80) {
        assert_eq!(world.dropped(&opening), None);
    }
    for (_, opening) in openings(ip("127.0.0.1"), 80) {
        assert_eq!(world.dropped(&opening), Some(Drop::DestinationAddress));
    }
    assert_eq!(world.denials, []);
}

#[test]
fn names_that_are_asked_where_nobody_judges_them_are_denied_by_the_gateway() {
    let mut room = Room::new(config_of("allow", &[]));
    let mut world = room.world();
    world.send(&frame::udp(1000, at(OUTSIDE_V4, 853), b"ask"));
    let [only] = world.denials[..] else { panic!("{:?}", world.denials) };
    assert_eq!((only.by, only.reason), (By::Gateway, DenialReason::OtherNames));
}

#[test]
fn a_flood_of_denials_is_told_within_a_budget_and_the_rest_is_counted() {
    let mut room = Room::with(|c| c.policy.default_egress = Permission::Deny);
    let mut world = room.world();
    let budget = limits::DENIALS_PER_SECOND_MAX as usize;
    let knock = |world: &mut sim::World<'_>, times: u16| {
        for port in 1..=times {
            world.send(&frame::udp(port, at(OUTSIDE_V4, 443), b"ask"));
        }
        core::mem::take(&mut world.denials)
    };
    let told = knock(&mut world, 1000);
    assert_eq!(told.len(), budget);
    assert!(told.iter().all(|denial| denial.left_out == 0));
    assert_eq!(world.counters().denials_left_out, 1000 - budget as u64);
    assert_eq!(world.counters().dropped(Drop::Denied), 1000, "each is refused and counted");
    // What was left out is said with the next.
    world.advance(1000);
    let told = knock(&mut world, 2);
    let left_out: Vec<u64> = told.iter().map(|denial| denial.left_out).collect();
    assert_eq!(left_out, [1000 - budget as u64, 0]);
}

#[test]
fn the_guest_is_told_of_a_bounded_number_of_denied_datagrams_a_second() {
    for outside in frame::OUTSIDES {
        let mut room = Room::with(|c| c.policy.default_egress = Permission::Deny);
        let mut world = room.world();
        let budget = limits::ICMP_ERRORS_PER_SECOND_MAX as usize;
        let request = frame::udp(1000, at(outside, 443), b"ask");
        for _ in 0..budget + 100 {
            world.send(&request);
        }
        assert_eq!(world.inbox().len(), budget);
        world.advance(1000);
        world.send(&request);
        let error = crate::Error::PROHIBITED.of(outside);
        crate::assert_error_about(&crate::only(&mut world), error, &request);
    }
}

#[test]
fn a_tenant_reaches_what_the_platform_allows_and_no_more_whatever_its_policy_says() {
    let flows = [
        ("1.1.1.1", true),
        ("2600::2", true),
        ("10.0.0.1", false),
        ("169.254.169.254", false),
        ("45.0.0.1", false),
        ("2002:101:101::1", false),
        ("64:ff9b::10.0.0.1", false),
    ];
    for (outside, is_reached) in flows {
        let told = told("allow", &["allow any all any"], Profile::MultiTenant, outside);
        assert_eq!(told.is_empty(), is_reached, "{outside}: {told:?}");
        assert!(told.iter().all(|denial| denial.by == By::Platform), "{told:?}");
    }
    // The gateway answers names and pings, and stands for nothing else of this host.
    let gateway = gateway(OUTSIDE_V4).to_string();
    let told = told("allow", &[], Profile::MultiTenant, &gateway);
    assert_eq!(told.len(), 2, "TCP and UDP port 80");
    let mut config = config_of("allow", &[]);
    config.policy.profile = Profile::MultiTenant;
    let mut room = Room::new(config);
    let mut world = room.world();
    assert_eq!(world.dropped(&frame::udp(1000, at(ip(&gateway), 53), b"ask")), None);
}

#[test]
fn what_a_tenant_denies_stays_denied_and_is_blamed_on_its_own_rule() {
    let lines = ["deny any all 1.1.1.1/32", "deny any all private"];
    for (outside, by) in [("1.1.1.1", By::Rule(0)), ("10.0.0.1", By::Rule(1))] {
        let told = told("allow", &lines, Profile::MultiTenant, outside);
        assert_eq!(told.len(), 3);
        assert!(told.iter().all(|denial| denial.by == by), "{outside}: {told:?}");
    }
}
