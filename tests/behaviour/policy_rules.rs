//! Rules: which flow of the guest they let out, asked as frames through the engine.
//!
//! Rules are written as a line of text: action, direction, protocols, destination, ports; and in
//! front `strict` or `lax`, where a rule says that.

#![allow(clippy::unwrap_used, reason = "this is a test, its functions too")]

use core::net::IpAddr;

use sim::frame::{self, flag};
use sim::guest::Script;
use sim::{Did, Room, World, default_config};
use sluicegate_core::{
    Cidr, Config, Destination, Direction, Drop, Group, Outside, Permission, Policy, PortRange,
    Protocol, Protocols, Rule,
};

use crate::{Error, assert_error_about, at};

/// Adds the rule that `line` says.
pub(crate) fn push(policy: &mut Policy, line: &str) {
    let mut words: Vec<&str> = line.split(' ').collect();
    let strict = match words[0] {
        "strict" | "lax" => Some(words.remove(0) == "strict"),
        _ => None,
    };
    let &[action, direction, protocols, destination, ref ports @ ..] = &words[..] else {
        panic!("{line}: five words");
    };
    let protocols: Vec<Protocol> = protocols
        .split(',')
        .filter(|name| *name != "all")
        .map(|name| match name {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "icmpv4" => Protocol::Icmpv4,
            "icmpv6" => Protocol::Icmpv6,
            other => panic!("{other}: no protocol"),
        })
        .collect();
    let ports: Vec<PortRange> = ports
        .iter()
        .map(|ends| {
            let (start, end) = ends.split_once('-').unwrap_or((ends, ends));
            PortRange { start: start.parse().unwrap(), end: end.parse().unwrap() }
        })
        .collect();
    let rule = Rule {
        direction: match direction {
            "egress" => Some(Direction::Egress),
            "ingress" => Some(Direction::Ingress),
            _ => None,
        },
        destination: destination_of(destination),
        protocols: Protocols::of(&protocols),
        ports: &ports,
        action: permission(action),
        strict,
    };
    policy.push(&rule).unwrap();
}

fn destination_of(word: &str) -> Destination<'_> {
    if word == "any" {
        return Destination::Any;
    }
    if let Some(group) = Group::ALL.into_iter().find(|group| group.name() == word) {
        return Destination::Group(group);
    }
    if let Some((address, bits)) = word.split_once('/') {
        return Destination::Cidr(Cidr::new(ip(address), bits.parse().unwrap()).unwrap());
    }
    match word.strip_prefix("*.") {
        Some(suffix) => Destination::DomainSuffix(suffix),
        None => Destination::Domain(word),
    }
}

fn permission(word: &str) -> Permission {
    if word == "allow" { Permission::Allow } else { Permission::Deny }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What holds of the host's own addresses and of NAT64 in these tests, with room for many flows.
pub(crate) fn config_of(default: &str, lines: &[&str]) -> Config {
    let mut config = default_config();
    config.policy = Policy::new(permission(default), Permission::Allow);
    for line in lines {
        push(&mut config.policy, line);
    }
    for own in ["45.0.0.1", "2600::1"] {
        config.own_addresses.push(ip(own)).unwrap();
    }
    let IpAddr::V6(prefix) = ip("2001:db8:64::") else { unreachable!() };
    config.nat64_prefixes.push(prefix).unwrap();
    (config.tcp_flows_max, config.udp_flows_max, config.icmp_flows_max) = (512, 512, 512);
    config.tcp_receive_bytes = 4096;
    config.tcp_send_bytes = 4096;
    config
}

/// The packets that open a flow of each protocol to `outside`: to `port` where there are ports.
pub(crate) fn openings(outside: IpAddr, port: u16) -> [(&'static str, Vec<u8>); 3] {
    let script = Script::new(at(outside, port), 40_000);
    let icmp = if outside.is_ipv4() { "icmpv4" } else { "icmpv6" };
    [
        ("tcp", frame::tcp(script.to, &script.syn())),
        ("udp", frame::udp(1000, at(outside, port), b"ask")),
        (icmp, frame::echo(outside, 7, 1, b"ask")),
    ]
}

/// Where the flow that `opening` opens goes; `None`: it is denied, and the guest is told so.
fn way(world: &mut World<'_>, protocol: &str, opening: &[u8], outside: IpAddr) -> Option<Outside> {
    let known = world.peers.log.len();
    let reason = world.dropped(opening);
    let way = world.peers.log[known..].iter().find_map(|did| match did {
        Did::Connect { to, .. } | Did::Intercept { to, .. } | Did::SendDatagram { to, .. } => {
            Some(*to)
        }
        Did::Send { .. }
        | Did::Finish { .. }
        | Did::Receive { .. }
        | Did::Reset { .. }
        | Did::Close { .. }
        | Did::Unused { .. } => None,
    });
    let inbox = world.inbox();
    if way.is_some() {
        assert_eq!(reason, None, "{protocol} to {outside}");
        return way;
    }
    assert_eq!(reason, Some(Drop::Denied), "{protocol} to {outside}");
    assert_eq!(inbox.len(), 1, "{protocol} to {outside}: the guest is told at once");
    match inbox[0].tcp() {
        Some(reset) => assert_eq!(reset.flags, flag::RST | flag::ACK),
        None => {
            assert_error_about(&inbox[0], Error::PROHIBITED.of(outside), opening);
        }
    }
    None
}

/// Those of `destinations` (a protocol and an address with a port) that a guest reaches.
fn reached<'d>(default: &str, lines: &[&str], destinations: &[&'d str]) -> Vec<&'d str> {
    let mut room = Room::new(config_of(default, lines));
    let mut world = room.world();
    let mut reached = vec![];
    for destination in destinations {
        let (protocol, end) = destination.split_once(' ').unwrap();
        let end: core::net::SocketAddr = end.parse().unwrap();
        let openings = openings(end.ip(), end.port());
        let (_, opening) = openings.iter().find(|(name, _)| *name == protocol).unwrap();
        if way(&mut world, protocol, opening, end.ip()).is_some() {
            reached.push(*destination);
        }
    }
    reached
}

/// An address that a guest may name, the group that a rule which allows finds it in, and those that
/// one which denies finds it in besides.
const IN_GROUPS: [(&str, &str, &str); 69] = [
    ("1.1.1.1", "public", ""),
    ("100.63.255.255", "public", ""),
    ("100.128.0.1", "public", ""),
    ("172.32.0.1", "public", ""),
    ("168.63.129.15", "public", ""),
    ("198.20.0.1", "public", ""),
    ("223.255.255.255", "public", ""),
    ("2600::2", "public", ""),
    ("2001:200::1", "public", ""),
    ("64:ff9b::1.1.1.1", "public", ""),
    ("2001:db8:64::1.1.1.1", "public", ""),
    ("10.0.0.1", "private", ""),
    ("172.16.0.1", "private", ""),
    ("172.31.255.255", "private", ""),
    ("192.168.1.1", "private", ""),
    ("100.64.0.1", "private", ""),
    ("100.127.255.255", "private", ""),
    ("fc00::1", "private", ""),
    ("fdff::1", "private", ""),
    ("64:ff9b::10.0.0.1", "private", ""),
    ("2001:db8:64::10.0.0.1", "private", ""),
    ("64:ff9b::100.96.0.1", "private", ""),
    ("169.254.1.1", "link_local", ""),
    ("169.254.169.253", "link_local", ""),
    ("fe80::1", "link_local", ""),
    ("64:ff9b::169.254.1.1", "link_local", ""),
    ("64:ff9b::127.0.0.1", "loopback", ""),
    ("64:ff9b::224.0.0.1", "multicast", ""),
    ("100.96.0.1", "host", ""),
    ("fd42:6d73:62::1", "host", ""),
    ("169.254.169.254", "metadata", ""),
    ("64:ff9b::169.254.169.254", "metadata", ""),
    ("2001:db8:64::169.254.169.254", "metadata", ""),
    ("100.100.100.200", "metadata", "private"),
    ("64:ff9b::100.100.100.200", "metadata", "private"),
    ("168.63.129.16", "metadata", "public"),
    ("64:ff9b::168.63.129.16", "metadata", "public"),
    ("192.0.0.192", "metadata", "public"),
    ("64:ff9b::192.0.0.192", "metadata", "public"),
    ("fd00:ec2::254", "metadata", "private"),
    ("fd00:ec2::23", "metadata", "private"),
    ("fd20:ce::254", "metadata", "private"),
    ("fd20:ce::253", "private", ""),
    ("169.254.170.2", "metadata", "link_local"),
    ("64:ff9b::169.254.170.2", "metadata", "link_local"),
    ("169.254.170.23", "metadata", "link_local"),
    ("2002:a9fe:aa17::1", "", "metadata link_local public"),
    ("169.254.170.3", "link_local", ""),
    ("2002:a9fe:a9fe::1", "", "metadata public"),
    ("2002:6464:64c8::", "", "metadata private public"),
    ("2002:a83f:8110:1::", "", "metadata public"),
    ("2002:c000:c0::", "", "metadata public"),
    ("2002:a00:1::1", "", "private public"),
    ("2002:7f00:1::1", "", "loopback public"),
    ("2002:101:101::1", "", "public"),
    ("2002:2d00:1::1", "", "public"),
    ("45.0.0.1", "", "public"),
    ("2600::1", "", "public"),
    ("64:ff9b::45.0.0.1", "", "public"),
    ("192.0.0.1", "", "public"),
    ("192.0.2.1", "", "public"),
    ("198.18.0.1", "", "public"),
    ("203.0.113.7", "", "public"),
    ("192.88.99.1", "", "public"),
    ("64:ff9b::0.0.0.0", "", ""),
    ("64:ff9b:1::1", "", "public"),
    ("2001:db8::1", "", "public"),
    ("3fff::1", "", "public"),
    ("100::1", "", "public"),
];

#[test]
fn an_address_is_reached_by_the_rule_for_its_group_and_by_no_other() {
    for group in Group::ALL.map(Group::name) {
        let rule = format!("allow egress all {group}");
        let mut room = Room::new(config_of("deny", &[&rule]));
        let mut world = room.world();
        for (text, belongs, _) in IN_GROUPS {
            for (protocol, opening) in openings(ip(text), 443) {
                // The gateway answers pings itself.
                if belongs == "host" && protocol.starts_with("icmp") {
                    continue;
                }
                let way = way(&mut world, protocol, &opening, ip(text));
                let why = format!("{protocol} to {text}, which is {belongs:?}, by {rule}");
                assert_eq!(way.is_some(), belongs == group, "{why}");
            }
        }
    }
}

#[test]
fn what_is_denied_by_its_group_is_denied_in_every_form_over_a_default_that_allows() {
    for group in Group::ALL.map(Group::name) {
        let rule = format!("deny egress all {group}");
        let mut room = Room::new(config_of("allow", &[&rule]));
        let mut world = room.world();
        for (text, belongs, besides) in IN_GROUPS {
            let [(protocol, opening), ..] = openings(ip(text), 443);
            let way = way(&mut world, protocol, &opening, ip(text));
            let is_denied = belongs == group || besides.split(' ').any(|name| name == group);
            assert_eq!(way.is_none(), is_denied, "{text} by {rule}");
        }
    }
}

#[test]
fn only_the_gateway_leads_to_the_hosts_loopback() {
    let mut room = Room::new(config_of("allow", &[]));
    let mut world = room.world();
    for (text, belongs, _) in IN_GROUPS {
        let [(_, syn), (_, datagram), _] = openings(ip(text), 80);
        for (protocol, opening) in [("tcp", syn), ("udp", datagram)] {
            let to = at(ip(text), 80);
            let expected =
                if belongs == "host" { Outside::HostLoopback(to) } else { Outside::Remote(to) };
            assert_eq!(way(&mut world, protocol, &opening, ip(text)), Some(expected), "{text}");
        }
    }
}

#[test]
fn an_address_that_means_this_host_goes_nowhere_whatever_policy_says() {
    let mut room = Room::new(config_of("allow", &["allow any all any", "allow any all loopback"]));
    let mut world = room.world();
    for text in [
        "0.0.0.0",
        "0.0.0.1",
        "0.255.255.255",
        "127.0.0.1",
        "127.0.0.53",
        "127.255.255.255",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:0.0.0.0",
        "::ffff:169.254.169.254",
        "::ffff:1.1.1.1",
        "ff02::1",
    ] {
        for (protocol, opening) in openings(ip(text), 80) {
            let reason = world.dropped(&opening);
            assert_eq!(reason, Some(Drop::DestinationAddress), "{protocol} to {text}");
        }
    }
    assert_eq!((world.inbox(), world.peers.log.len()), (vec![], 0));
}

#[test]
fn the_first_rule_that_matches_decides_and_then_the_default() {
    let all = ["tcp 10.0.0.1:80", "tcp 10.1.0.1:80", "tcp 1.1.1.1:80"];
    for (default, lines, expected) in [
        ("deny", &["allow any all 10.0.0.0/16", "deny any all 10.0.0.0/8"][..], &all[..1]),
        ("deny", &["deny any all 10.0.0.0/8", "allow any all 10.0.0.0/16"], &[]),
        ("allow", &["deny any all 10.0.0.0/8", "allow any all 10.0.0.0/16"], &all[2..]),
        ("deny", &["deny any all 10.0.0.0/16", "allow any all any"], &all[1..]),
        ("deny", &["allow any all private", "deny any all any"], &all[..2]),
        ("allow", &["deny any all any", "allow any all any"], &[]),
        ("deny", &[], &[]),
        ("allow", &[], &all),
    ] {
        assert_eq!(reached(default, lines, &all), expected, "{default} {lines:?}");
    }
}

#[test]
fn ports_are_matched_from_the_first_to_the_last_of_each_range() {
    let lines = ["allow any all public 80 443-445"];
    let destinations =
        [1, 79, 80, 81, 442, 443, 444, 445, 446, 65_535].map(|port| format!("tcp 1.1.1.1:{port}"));
    let destinations: Vec<&str> = destinations.iter().map(String::as_str).collect();
    let expected = [2, 5, 6, 7].map(|index| destinations[index]);
    assert_eq!(reached("deny", &lines, &destinations), expected);
    // The guest's own port says nothing.
    assert_eq!(reached("deny", &["allow any all any 40000"], &["tcp 1.1.1.1:80"]), [""; 0]);
}

#[test]
fn a_rule_is_about_its_protocols_and_with_ports_never_about_ping() {
    let all = ["tcp 1.1.1.1:80", "udp 1.1.1.1:80", "icmpv4 1.1.1.1:0", "icmpv6 [2600::2]:0"];
    for (line, expected) in [
        ("allow egress tcp any", &all[..1]),
        ("allow egress udp any", &all[1..2]),
        ("allow egress icmpv4 any", &all[2..3]),
        ("allow egress icmpv6 any", &all[3..]),
        ("allow egress tcp,udp,icmpv6 any", &[all[0], all[1], all[3]]),
        ("allow egress all any", &all),
        ("allow egress all any 0-65535", &all[..2]),
        ("allow egress icmpv4 any 0-65535", &[]),
    ] {
        assert_eq!(reached("deny", &[line], &all), expected, "{line}");
    }
}

#[test]
fn a_rule_for_ingress_says_nothing_of_what_the_guest_opens() {
    for (line, expected) in [
        ("allow ingress all any", &[][..]),
        ("allow egress all any", &["tcp 1.1.1.1:80"]),
        ("allow any all any", &["tcp 1.1.1.1:80"]),
    ] {
        assert_eq!(reached("deny", &[line], &["tcp 1.1.1.1:80"]), expected, "{line}");
    }
}

#[test]
fn a_network_is_matched_by_what_stands_for_an_address_in_it() {
    let forms = [
        "tcp 10.1.2.3:80",
        "tcp [64:ff9b::10.1.2.3]:80",
        "tcp [2001:db8:64::10.1.2.3]:80",
        "tcp [2002:a01:203::1]:80",
    ];
    // A tunnel's end is not the address within, so only a denial looks there.
    assert_eq!(reached("deny", &["allow any all 10.1.0.0/16"], &forms), forms[..3]);
    assert_eq!(reached("allow", &["deny any all 10.1.2.3/32"], &forms), [""; 0]);
    assert_eq!(reached("deny", &["allow any all 64:ff9b::/96"], &forms), forms[1..2]);
    assert_eq!(reached("deny", &["allow any all ::/0"], &forms), forms[1..]);
    assert_eq!(reached("deny", &["allow any all 0.0.0.0/0"], &["tcp [2600::2]:80"]), [""; 0]);
}

#[test]
fn the_default_of_the_host_reaches_the_internet_and_the_gateways_name_server_alone() {
    let lines = ["allow egress udp,tcp host 53", "allow egress all public"];
    let all = [
        "udp 100.96.0.1:53",
        "tcp 100.96.0.1:53",
        "udp [fd42:6d73:62::1]:53",
        "tcp 1.1.1.1:22",
        "udp [2600::2]:53",
        "icmpv4 1.1.1.1:0",
        "tcp 100.96.0.1:80",
        "udp 100.96.0.1:54",
        "tcp [fd42:6d73:62::1]:22",
        "udp 10.0.0.1:54",
        "tcp 169.254.169.254:80",
        "tcp 45.0.0.1:22",
    ];
    assert_eq!(reached("deny", &lines, &all), all[..6]);
    let mut room = Room::new(config_of("deny", &lines));
    let mut world = room.world();
    for gateway in ["100.96.0.1", "fd42:6d73:62::1"] {
        world.send(&frame::echo(ip(gateway), 7, 1, b"data"));
        assert_eq!(crate::only(&mut world).icmp().unwrap().body, b"data", "it answers pings");
    }
}

#[test]
fn an_address_of_which_no_name_is_known_matches_no_rule_by_name() {
    let flows = ["tcp 1.1.1.1:80", "udp 1.1.1.1:80"];
    for (default, line, expected) in [
        ("deny", "allow any all name.test", &[][..]),
        ("deny", "allow any all *.name.test", &[]),
        // TCP could say the denied name later; nobody hears it yet.
        ("allow", "deny any all name.test", &flows),
        ("allow", "deny any all *.name.test", &flows),
        ("allow", "allow any all name.test", &flows),
    ] {
        assert_eq!(reached(default, &[line], &flows), expected, "{default} {line}");
    }
}
