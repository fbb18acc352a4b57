//! The host's own addresses: how they come and go, and what becomes of flows to them.

use core::net::IpAddr;

use sim::frame::{self, flag};
use sim::guest::Script;
use sim::{Room, World};
use sluicegate_core::{Drop, FlowId, limits};

use crate::policy_rules::{config_of, ip, openings};
use crate::{Error, assert_error_about, at, only};

const PUBLIC_ONLY: [&str; 1] = ["allow egress all public"];

fn room<'a>() -> Room<'a> {
    let mut config = config_of("deny", &PUBLIC_ONLY);
    config.own_addresses.clear();
    Room::new(config)
}

fn learn(world: &mut World<'_>, own: Option<&[IpAddr]>) {
    let now = world.now();
    world.engine.replace_own_addresses(now, own);
    // As the host does with what has ended.
    world.peers.streams.retain(|_, stream| world.engine.is_live(stream.id));
    world.peers.datagrams.retain(|_, flow| world.engine.is_live(flow.id));
    world.run();
}

/// Whether a new flow to `address` is denied.
fn is_denied(world: &mut World<'_>, address: &str, port: u16) -> bool {
    let denied = world.dropped(&frame::udp(port, at(ip(address), 443), b"ask"));
    world.inbox();
    denied == Some(Drop::Denied)
}

#[test]
fn an_address_stops_being_public_while_it_is_the_hosts_own() {
    let mut room = room();
    let mut world = room.world();
    let forms = ["1.1.1.1", "64:ff9b::1.1.1.1", "2600::2"];
    for form in forms {
        assert!(!is_denied(&mut world, form, 1), "{form}");
    }
    learn(&mut world, Some(&[ip("1.1.1.1"), ip("2600::2")]));
    for form in forms {
        assert!(is_denied(&mut world, form, 2), "{form}");
    }
    assert!(!is_denied(&mut world, "1.1.1.2", 2));
    learn(&mut world, Some(&[]));
    for form in forms {
        assert!(!is_denied(&mut world, form, 3), "{form}");
    }
}

#[test]
fn while_they_are_unknown_or_too_many_nothing_is_public() {
    let many: Vec<IpAddr> =
        (0..=limits::OWN_ADDRESSES_MAX).map(|i| ip(&format!("2600::{:x}", i + 16))).collect();
    for unknown in [None, Some(&many[..])] {
        let mut room = room();
        let mut world = room.world();
        learn(&mut world, unknown);
        for address in ["1.1.1.1", "2600::2", "64:ff9b::1.1.1.1"] {
            assert!(is_denied(&mut world, address, 1), "{address}");
        }
        learn(&mut world, Some(&many[1..]));
        assert!(!is_denied(&mut world, "1.1.1.1", 2), "as many as there is room for");
        assert!(is_denied(&mut world, "2600::11", 2));
    }
}

#[test]
fn a_flow_ends_when_its_other_end_becomes_the_host() {
    for outside in ["1.1.1.1", "2600::2"] {
        let mut room = room();
        let mut world = room.world();
        let outside = ip(outside);
        let [_, (_, datagram), (_, ping)] = openings(outside, 80);
        let open = Script::new(at(outside, 80), 40_000);
        world.send(&frame::tcp(open.to, &open.syn()));
        world.accept();
        let id: FlowId = world.stream().id;
        let connecting = Script::new(at(outside, 80), 40_001);
        world.send(&frame::tcp(connecting.to, &connecting.syn()));
        for opening in [&datagram, &ping] {
            world.send(opening);
        }
        world.inbox();
        let elsewhere = frame::udp(1, at(ip("1.0.0.1"), 443), b"ask");
        world.send(&elsewhere);
        learn(&mut world, Some(&[outside]));
        let inbox = world.inbox();
        let resets: Vec<u16> = inbox
            .iter()
            .filter_map(|seen| seen.tcp())
            .filter(|segment| segment.flags & flag::RST != 0)
            .map(|segment| segment.ports.1)
            .collect();
        let mut ports = resets.clone();
        ports.sort_unstable();
        assert_eq!(ports, [40_000, 40_001], "{inbox:?}");
        let errors: Vec<_> = inbox.iter().filter(|seen| seen.icmp().is_some()).collect();
        let [first, second] = errors[..] else { panic!("one for each: {inbox:?}") };
        assert_error_about(first, Error::PROHIBITED.of(outside), &datagram);
        assert_error_about(second, Error::PROHIBITED.of(outside), &ping);
        assert!(!world.engine.is_live(id));
        assert_eq!(world.peers.datagrams.len(), 1, "that elsewhere goes on");
        assert_eq!(world.peers.streams.len(), 0);
        // The next datagram is a new flow, which is denied.
        assert_eq!(world.dropped(&datagram), Some(Drop::Denied));
        assert_error_about(&only(&mut world), Error::PROHIBITED.of(outside), &datagram);
    }
}

#[test]
fn a_flow_that_policy_allows_to_the_host_stays_when_its_end_becomes_the_host() {
    let mut room = Room::new(config_of("deny", &["allow egress all 1.1.1.1/32"]));
    let mut world = room.world();
    for (_, opening) in openings(ip("1.1.1.1"), 80) {
        world.send(&opening);
    }
    world.inbox();
    learn(&mut world, Some(&[ip("1.1.1.1")]));
    assert_eq!((world.inbox(), world.peers.datagrams.len()), (vec![], 2));
    world.accept();
}
