//! Router advertisements: on solicitation, and every half an hour.

use core::net::{IpAddr, Ipv6Addr};

use sim::frame::{ETHERNET, protocol};
use sim::{Icmp, Seen, default_config};
use sluicegate_core::Drop;

use super::{GATEWAY, LINK_LOCAL, room, room_with, to_all};
use crate::only;

const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const HALF_AN_HOUR_MS: u64 = 1_800_000;

/// A router solicitation from `source`.
pub(super) fn solicit(source: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![133, 0, 0, 0, 0, 0, 0, 0];
    if !source.is_unspecified() {
        message.extend([1, 1]);
        message.extend(default_config().link.guest_mac);
    }
    frame_of((source, ALL_ROUTERS), &message)
}

/// A frame of neighbour discovery with `message`.
pub(super) fn frame_of(ends: (Ipv6Addr, Ipv6Addr), message: &[u8]) -> Vec<u8> {
    let mut frame = to_all((ends.0.into(), ends.1.into()), protocol::ICMPV6, message);
    frame[ETHERNET + 7] = 255;
    frame
}

/// The options of an advertisement, each with its first two bytes.
fn options(advert: &Icmp) -> Vec<&[u8]> {
    let (mut rest, mut found) = (&advert.body[8..], vec![]);
    while !rest.is_empty() {
        let (option, tail) = rest.split_at(usize::from(rest[1]) * 8);
        found.push(option);
        rest = tail;
    }
    found
}

/// Checks that `seen` is an advertisement for `to`; returns it.
fn advert(seen: &Seen, to: Ipv6Addr) -> Icmp {
    let icmp = seen.icmp().expect("because it is ICMPv6").clone();
    assert_eq!((icmp.kind, icmp.code, icmp.hop_limit), (134, 0, 255));
    assert_eq!(icmp.ends, (IpAddr::from(GATEWAY), IpAddr::from(to)));
    icmp
}

#[test]
fn a_solicitation_is_answered_with_all_that_a_stock_guest_needs() {
    let mut room = room_with(Some("guests.example"));
    let mut world = room.world();
    world.send(&solicit(LINK_LOCAL));
    let advert = advert(&only(&mut world), LINK_LOCAL);
    let [high, low] = 9000u16.to_be_bytes();
    assert_eq!(advert.rest, [64, 0xc0, high, low], "hop limit, managed and other, lifetime");
    assert_eq!(advert.body[..8], [0; 8], "no word on reachability");
    let link = default_config().link;
    let prefix: Ipv6Addr = "fd42:6d73:62::".parse().unwrap();
    let day = 86_400u32;
    let expected = [
        [&[1, 1][..], &link.gateway_mac].concat(),
        [&[5, 1, 0, 0][..], &1500u32.to_be_bytes()].concat(),
        // On the link, and no addresses of the guest's own making.
        [
            &[3, 4, 64, 0x80][..],
            &(30 * day).to_be_bytes(),
            &(30 * day).to_be_bytes(),
            &[0; 4],
            &prefix.octets(),
        ]
        .concat(),
        [&[25, 3, 0, 0][..], &9000u32.to_be_bytes(), &link.gateway_ipv6.octets()].concat(),
        [&[31, 3, 0, 0][..], &9000u32.to_be_bytes(), b"\x06guests\x07example\0"].concat(),
    ];
    assert_eq!(options(&advert), expected.iter().map(Vec::as_slice).collect::<Vec<_>>());
}

#[test]
fn search_domains_of_every_length_are_padded_to_whole_units() {
    for len in (1..=253).filter(|len| len % 2 == 1) {
        let search = "a.".repeat(len / 2) + "a";
        let mut room = room_with(Some(&search));
        let mut world = room.world();
        world.send(&solicit(LINK_LOCAL));
        let advert = advert(&only(&mut world), LINK_LOCAL);
        let options = options(&advert);
        let option = options[4];
        assert_eq!(option.len(), (8 + len + 2).next_multiple_of(8));
        assert!(option[8 + len + 1..].iter().all(|byte| *byte == 0), "{option:?}");
    }
}

#[test]
fn who_has_no_address_yet_is_answered_with_all_others() {
    let mut room = room();
    let mut world = room.world();
    world.send(&solicit(Ipv6Addr::UNSPECIFIED));
    let advert = advert(&only(&mut world), ALL_NODES);
    assert_eq!(options(&advert).len(), 4, "without a search domain");
}

#[test]
fn the_guests_own_address_and_the_gateways_will_do_as_well() {
    let link = default_config().link;
    for to in [ALL_ROUTERS, GATEWAY, link.gateway_ipv6] {
        let mut room = room();
        let mut world = room.world();
        world.send(&frame_of((link.guest_ipv6, to), &[133, 0, 0, 0, 0, 0, 0, 0]));
        advert(&only(&mut world), link.guest_ipv6);
    }
}

#[test]
fn there_is_an_advertisement_every_half_an_hour_and_no_other_wakeup() {
    let mut room = room();
    let mut world = room.world();
    world.run();
    assert_eq!(world.wait().0, Some(world.now().plus_millis(HALF_AN_HOUR_MS)));
    world.advance(HALF_AN_HOUR_MS - 1);
    assert_eq!(world.inbox(), vec![]);
    for _ in 0..3 {
        world.advance(1);
        advert(&only(&mut world), ALL_NODES);
        world.advance(HALF_AN_HOUR_MS - 1);
        assert_eq!(world.inbox(), vec![]);
    }
    world.send(&solicit(LINK_LOCAL));
    world.inbox();
    world.advance(HALF_AN_HOUR_MS - 1);
    assert_eq!(world.inbox(), vec![], "an answer counts as one");
    world.advance(1);
    advert(&only(&mut world), ALL_NODES);
}

#[test]
fn a_flood_of_solicitations_has_few_answers_and_nobody_is_forgotten() {
    let mut room = room();
    let mut world = room.world();
    let nobody = Ipv6Addr::UNSPECIFIED;
    world.send(&solicit(LINK_LOCAL));
    advert(&only(&mut world), LINK_LOCAL);
    for source in [LINK_LOCAL, nobody, LINK_LOCAL] {
        for _ in 0..1000 {
            assert_eq!(world.dropped(&solicit(source)), None);
        }
        world.advance(2999);
        assert_eq!(world.inbox(), vec![]);
        world.advance(1);
        advert(&only(&mut world), ALL_NODES);
    }
    world.advance(HALF_AN_HOUR_MS - 1);
    assert_eq!(world.inbox(), vec![]);
    assert_eq!(world.counters().router_advertisements, 4);
}

#[test]
fn who_asks_a_moment_after_another_is_answered_at_once_and_all_are_told_seldom() {
    let mut room = room();
    let mut world = room.world();
    let nobody = Ipv6Addr::UNSPECIFIED;
    world.send(&solicit(nobody));
    advert(&only(&mut world), ALL_NODES);
    for _ in 0..40 {
        world.advance(249);
        world.send(&solicit(LINK_LOCAL));
        assert_eq!(world.inbox(), vec![], "too soon");
        world.advance(1);
        world.send(&solicit(LINK_LOCAL));
        advert(&only(&mut world), LINK_LOCAL);
        world.send(&solicit(nobody));
        assert_eq!(world.inbox(), vec![], "not for all so soon");
    }
    world.advance(2999);
    assert_eq!(world.inbox(), vec![]);
    world.advance(1);
    advert(&only(&mut world), ALL_NODES);
}

#[test]
fn only_a_neighbour_solicits_and_only_in_whole_messages() {
    let mut room = room();
    let mut world = room.world();
    let head = [133, 0, 0, 0, 0, 0, 0, 0];
    let with = |option: &[u8]| [&head[..], option].concat();
    let mut far = solicit(LINK_LOCAL);
    far[ETHERNET + 7] = 254;
    assert_eq!(world.dropped(&far), Some(Drop::SourceAddress));
    let outside: Ipv6Addr = "2001:db8::7".parse().unwrap();
    let unspecified = Ipv6Addr::UNSPECIFIED;
    for (from, to, message, reason) in [
        (LINK_LOCAL, ALL_ROUTERS, with(&[1, 0]), Drop::Malformed),
        (LINK_LOCAL, ALL_ROUTERS, with(&[1, 0, 0, 0, 0, 0, 0, 0]), Drop::Malformed),
        (LINK_LOCAL, ALL_ROUTERS, with(&[1, 2, 0, 0, 0, 0, 0, 0]), Drop::Malformed),
        (LINK_LOCAL, ALL_ROUTERS, with(&[9]), Drop::Malformed),
        (LINK_LOCAL, ALL_ROUTERS, head[..7].to_vec(), Drop::Truncated),
        (unspecified, ALL_ROUTERS, with(&[1, 1, 2, 0, 0, 0, 0, 2]), Drop::Malformed),
        (LINK_LOCAL, ALL_ROUTERS, vec![133, 1, 0, 0, 0, 0, 0, 0], Drop::Malformed),
        (LINK_LOCAL, outside, head.to_vec(), Drop::DestinationAddress),
        (outside, ALL_ROUTERS, head.to_vec(), Drop::SourceAddress),
    ] {
        let frame = frame_of((from, to), &message);
        assert_eq!(world.dropped(&frame), Some(reason), "{from} to {to}: {message:?}");
    }
    assert_eq!(world.inbox(), vec![]);
}

#[test]
fn nobody_else_may_have_the_gateways_link_local_address() {
    let mut room = room();
    let mut world = room.world();
    world.send(&sim::frame::solicit(Ipv6Addr::UNSPECIFIED, GATEWAY));
    assert_eq!(only(&mut world).icmp().map(|icmp| icmp.kind), Some(136));
}
