//! Policy: every question about random rules is answered as a naive model answers it.
//!
//! The model shares no line with the engine: it knows addresses as text, compares bit by bit, and
//! finds out what a name could change by trying every name.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "this is a test, its functions too")]

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use sluicegate_core::{
    By, Cidr, Decision, Destination, Direction, Group, Names, Permission, Policy, PortRange,
    Profile, Protocol, Protocols, Question, Rule, Said, Site, evaluate, limits,
};

/// Addresses at the edges of what is told apart, in the forms that stand for one.
const ADDRESSES: [&str; 57] = [
    "0.0.0.0",
    "0.255.255.255",
    "1.0.0.0",
    "8.8.8.8",
    "9.255.255.255",
    "10.0.0.0",
    "10.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.64.0.0",
    "100.96.0.1",
    "100.96.0.2",
    "100.100.100.200",
    "100.127.255.255",
    "100.128.0.0",
    "127.0.0.1",
    "128.0.0.0",
    "168.63.129.16",
    "168.63.129.17",
    "169.253.255.255",
    "169.254.0.0",
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "169.255.0.0",
    "172.15.255.255",
    "172.16.0.0",
    "172.31.255.255",
    "172.32.0.0",
    "192.0.0.192",
    "192.0.0.1",
    "192.0.2.1",
    "192.168.0.0",
    "192.169.0.0",
    "198.18.0.0",
    "198.20.0.0",
    "203.0.113.9",
    "223.255.255.255",
    "224.0.0.1",
    "240.0.0.0",
    "255.255.255.255",
    "45.0.0.1",
    "::",
    "::1",
    "64:ff9b:1::1",
    "2001:200::1",
    "2001:db8::1",
    "2600::1",
    "2600::2",
    "3fff::1",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "fd20:ce::254",
    "fd42:6d73:62::1",
    "fe80::1",
    "ff02::1",
    "4000::",
];
const NAMES: [&str; 5] = ["a.test", "b.test", "x.a.test", "xa.test", "test"];
const NAT64: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x64, 0, 0, 0, 0, 0);

fn site() -> Site<'static> {
    const OWN: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(45, 0, 0, 1)),
        IpAddr::V6(Ipv6Addr::new(0x2600, 0, 0, 0, 0, 0, 0, 1)),
    ];
    let gateways = [ip("100.96.0.1"), ip("fd42:6d73:62::1")];
    Site { gateways, own: Some(&OWN), nat64: &[NAT64] }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A rule that owns its parts.
#[derive(Debug, Clone)]
struct Owned {
    direction: Option<Direction>,
    destination: Destination<'static>,
    protocols: Vec<Protocol>,
    ports: Vec<PortRange>,
    action: Permission,
}

mod model {
    use super::*;

    /// Networks and their groups, the first that fits counts; `-` is none.
    const GROUPS: &str = "
        169.254.169.254/32 metadata, 100.100.100.200/32 metadata, 168.63.129.16/32 metadata,
        192.0.0.192/32 metadata, 169.254.170.2/32 metadata, 169.254.170.23/32 metadata,
        fd00:ec2::254/128 metadata, fd00:ec2::23/128 metadata, fd20:ce::254/128 metadata,
        127.0.0.0/8 loopback, ::1/128 loopback,
        10.0.0.0/8 private, 172.16.0.0/12 private, 192.168.0.0/16 private, 100.64.0.0/10 private,
        fc00::/7 private, 169.254.0.0/16 link_local, fe80::/10 link_local, 224.0.0.0/4 multicast,
        ff00::/8 multicast, 0.0.0.0/8 -, 192.0.0.0/24 -, 192.0.2.0/24 -, 192.31.196.0/24 -,
        192.52.193.0/24 -, 192.88.99.0/24 -, 192.175.48.0/24 -, 198.18.0.0/15 -, 198.51.100.0/24 -,
        203.0.113.0/24 -, 240.0.0.0/4 -, 45.0.0.1/32 -, 2001::/23 -, 2001:db8::/32 -, 2002::/16 -,
        2620:4f:8000::/48 -, 3fff::/20 -, 2600::1/128 -, 2000::/3 public, ::/0 -, 0.0.0.0/0 public";

    /// The same for microsandbox-network.
    const PEER_GROUPS: &str = "
        0.0.0.0/32 -, ::/128 -, 169.254.169.254/32 metadata, 127.0.0.0/8 loopback, ::1/128 loopback,
        10.0.0.0/8 private, 172.16.0.0/12 private, 192.168.0.0/16 private, 100.64.0.0/10 private,
        fc00::/7 private, 169.254.0.0/16 link_local, fe80::/10 link_local, 224.0.0.0/4 multicast,
        ff00::/8 multicast, 0.0.0.0/0 public, ::/0 public";

    fn bits(address: IpAddr) -> String {
        match address {
            IpAddr::V4(v4) => format!("4:{:032b}", v4.to_bits()),
            IpAddr::V6(v6) => format!("6:{:0128b}", v6.to_bits()),
        }
    }

    fn is_in(network: &str, address: IpAddr) -> bool {
        let (base, len) = network.split_once('/').unwrap();
        let len = 2 + len.parse::<usize>().unwrap();
        bits(ip(base))[..len] == *bits(address).get(..len).unwrap_or_default()
    }

    /// The IPv4 addresses that a translator and a tunnel make of `address`.
    fn within(address: IpAddr) -> (Option<IpAddr>, Option<IpAddr>) {
        let text = bits(address);
        let at = |at: usize| {
            let bits = u32::from_str_radix(&text[at..at + 32], 2).unwrap();
            Some(IpAddr::V4(Ipv4Addr::from_bits(bits)))
        };
        let low = ["::ffff:0:0/96", "64:ff9b::/96", "2001:db8:64::/96"];
        if is_in("2002::/16", address) {
            (None, at(2 + 16))
        } else if low.iter().any(|network| is_in(network, address)) {
            (at(2 + 96), None)
        } else {
            (None, None)
        }
    }

    fn named_by(table: &str, subject: IpAddr) -> &str {
        let mut rows = table.split(',').map(|row| row.trim().split_once(' ').unwrap());
        rows.find(|(network, _)| is_in(network, subject)).unwrap().1
    }

    /// The groups that a rule with `action` finds `address` in.
    pub(super) fn groups(address: IpAddr, action: Permission) -> Vec<&'static str> {
        if [ip("100.96.0.1"), ip("fd42:6d73:62::1")].contains(&address) {
            return vec!["host"];
        }
        let (translated, tunnelled) = within(address);
        let itself = translated.unwrap_or(address);
        let mut groups = vec![named_by(GROUPS, itself)];
        if action == Permission::Deny {
            groups.extend(
                [Some(itself), tunnelled].into_iter().flatten().flat_map(|subject| {
                    [named_by(GROUPS, subject), named_by(PEER_GROUPS, subject)]
                }),
            );
        }
        groups
    }

    /// Whether the peer has `address` in the destination of `rule`.
    fn is_there_for_the_peer(rule: &Owned, address: IpAddr) -> bool {
        let (translated, _) = within(address);
        match rule.destination {
            Destination::Group(Group::Host) => groups(address, Permission::Allow) == ["host"],
            Destination::Group(group) => {
                let itself = translated.unwrap_or(address);
                let is_host = groups(address, Permission::Allow) == ["host"];
                !is_host && named_by(PEER_GROUPS, itself) == group.name()
            }
            Destination::Cidr(network) => [Some(address), translated]
                .into_iter()
                .flatten()
                .any(|address| is_in(&network.to_string(), address)),
            Destination::Any | Destination::Domain(_) | Destination::DomainSuffix(_) => true,
        }
    }

    fn fits(destination: Destination<'_>, said: &str) -> bool {
        match destination {
            Destination::Domain(name) => said == name,
            Destination::DomainSuffix(name) => format!(".{said}").ends_with(&format!(".{name}")),
            Destination::Any | Destination::Cidr(_) | Destination::Group(_) => false,
        }
    }

    /// Whether `rule` matches where all is known: `said` is the name, if one was said.
    fn matches(
        rule: &Owned,
        question: &Question<'_>,
        (said, strict): (Option<&str>, bool),
    ) -> bool {
        let bound = question.names.bound;
        let bound_fits = || bound.iter().any(|name| fits(rule.destination, name));
        let there = match (rule.destination, said, rule.action) {
            (Destination::Any, _, _) => true,
            (Destination::Group(group), _, action) => {
                groups(question.address, action).contains(&group.name())
            }
            (Destination::Cidr(network), _, action) => {
                let (translated, tunnelled) = within(question.address);
                let tunnelled = tunnelled.filter(|_| action == Permission::Deny);
                [Some(question.address), translated, tunnelled]
                    .into_iter()
                    .flatten()
                    .any(|address| is_in(&network.to_string(), address))
            }
            (destination, Some(name), Permission::Allow) => {
                fits(destination, name) && bound.contains(&name)
            }
            (destination, Some(name), Permission::Deny) => fits(destination, name),
            (_, None, Permission::Allow) => !strict && bound_fits(),
            (_, None, Permission::Deny) => bound_fits(),
        };
        there && is_about(rule, question)
    }

    fn is_about(rule: &Owned, question: &Question<'_>) -> bool {
        let icmp = [Protocol::Icmpv4, Protocol::Icmpv6].contains(&question.protocol);
        let in_ports =
            || rule.ports.iter().any(|r| r.start <= question.port && question.port <= r.end);
        (rule.direction.is_none() || rule.direction == Some(question.direction))
            && (rule.protocols.is_empty() || rule.protocols.contains(&question.protocol))
            && (rule.ports.is_empty() || (!icmp && in_ports()))
    }

    /// The peer's verdict on rules without names.
    pub(super) fn of_the_peer(
        rules: &[Owned],
        default: Permission,
        question: &Question<'_>,
    ) -> Permission {
        let first = rules
            .iter()
            .find(|rule| is_there_for_the_peer(rule, question.address) && is_about(rule, question));
        first.map_or(default, |rule| rule.action)
    }

    /// The verdict where all is known.
    pub(super) fn known(
        rules: &[Owned],
        defaults: (Permission, Permission),
        question: &Question<'_>,
        said: (Option<&str>, bool),
    ) -> (Permission, Option<usize>) {
        let default = if question.direction == Direction::Egress { defaults.0 } else { defaults.1 };
        let first = rules.iter().position(|rule| matches(rule, question, said));
        (first.map_or(default, |index| rules[index].action), first)
    }
}

fn addresses() -> impl Strategy<Value = IpAddr> {
    let plain = prop_oneof![
        8 => select(&ADDRESSES[..]).prop_map(ip),
        1 => any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).into()),
        1 => any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits).into()),
    ];
    (plain, 0..8_u8).prop_map(|(address, form)| disguise(address, form))
}

/// `address` in one of the forms that stand for an IPv4 address, if it is one.
fn disguise(address: IpAddr, form: u8) -> IpAddr {
    let IpAddr::V4(v4) = address else { return address };
    let low = u128::from(v4.to_bits());
    let bits = match form {
        0 => 0xffff_0000_0000 | low,
        1 => 0x0064_ff9b << 96 | low,
        2 => NAT64.to_bits() | low,
        3 => 0x2002 << 112 | low << 80 | 1,
        _ => return address,
    };
    Ipv6Addr::from_bits(bits).into()
}

fn destinations() -> impl Strategy<Value = Destination<'static>> {
    let network = (addresses(), 0..=128_u8).prop_filter_map("too long", |(address, bits)| {
        Cidr::new(address, bits.min(if address.is_ipv4() { 32 } else { 128 }))
    });
    prop_oneof![
        1 => Just(Destination::Any),
        4 => select(&Group::ALL[..]).prop_map(Destination::Group),
        2 => network.prop_map(Destination::Cidr),
        2 => select(&NAMES[..]).prop_map(Destination::Domain),
        2 => select(&NAMES[..]).prop_map(Destination::DomainSuffix),
    ]
}

fn actions() -> impl Strategy<Value = Permission> {
    select(&[Permission::Allow, Permission::Deny][..])
}

fn rules() -> impl Strategy<Value = Owned> {
    let direction = select(&[None, Some(Direction::Egress), Some(Direction::Ingress)][..]);
    let protocols = subsequence(&Protocol::ALL[..], 0..=4);
    let range =
        (0..9_u16, 0..4_u16).prop_map(|(start, more)| PortRange { start, end: start + more });
    let ports = proptest::collection::vec(range, 0..3);
    (direction, destinations(), protocols, ports, actions()).prop_map(
        |(direction, destination, protocols, ports, action)| Owned {
            direction,
            destination,
            protocols,
            ports,
            action,
        },
    )
}

fn policy_of(
    rules: &[Owned],
    (default_egress, default_ingress): (Permission, Permission),
) -> Policy {
    let mut policy = Policy::new(default_egress, default_ingress);
    for rule in rules {
        let protocols = Protocols::of(&rule.protocols);
        policy
            .push(&Rule {
                direction: rule.direction,
                destination: rule.destination,
                protocols,
                ports: &rule.ports,
                action: rule.action,
                strict: None,
            })
            .unwrap();
    }
    policy
}

type Case =
    (Vec<Owned>, (Permission, Permission), (Direction, Protocol, IpAddr, u16), Vec<&'static str>);

fn cases() -> impl Strategy<Value = Case> {
    let question = (
        select(&[Direction::Egress, Direction::Egress, Direction::Ingress][..]),
        select(&Protocol::ALL[..]),
        addresses(),
        0..12_u16,
    );
    (
        proptest::collection::vec(rules(), 0..8),
        (actions(), actions()),
        question,
        subsequence(&NAMES[..], 0..3),
    )
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn decision(action: Permission) -> Decision {
    match action {
        Permission::Allow => Decision::Allow,
        Permission::Deny => Decision::Deny,
    }
}

proptest! {
    #![proptest_config(config(10_000))]

    #[test]
    fn an_address_is_in_the_groups_that_the_model_says(address in addresses()) {
        let place = site().place(address);
        for action in [Permission::Allow, Permission::Deny] {
            let expected = model::groups(address, action);
            for group in Group::ALL {
                let found = place.is_in_group(group, action);
                prop_assert_eq!(found, expected.contains(&group.name()), "{:?}", group);
            }
            let count = Group::ALL.into_iter().filter(|g| place.is_in_group(*g, action)).count();
            prop_assert!(count <= 1 || action == Permission::Deny);
        }
    }

    #[test]
    fn nothing_is_allowed_that_the_peer_denies(case in cases()) {
        let (mut rules, defaults, (_, protocol, address, port), _) = case;
        let named = |rule: &Owned| {
            matches!(rule.destination, Destination::Domain(_) | Destination::DomainSuffix(_))
        };
        // The one thing that a permission here has more of.
        let gained = |rule: &Owned| {
            let metadata = matches!(rule.destination, Destination::Group(Group::Metadata));
            metadata && rule.action == Permission::Allow
        };
        rules.retain(|rule| !named(rule) && !gained(rule));
        let names = Names { bound: &[], said: Said::Never };
        let question = Question { direction: Direction::Egress, protocol, address, port, names };
        let verdict = evaluate(&policy_of(&rules, defaults), &site(), &question);
        if verdict.decision == Decision::Allow {
            let peer = model::of_the_peer(&rules, defaults.0, &question);
            prop_assert_eq!(peer, Permission::Allow);
        }
    }

    #[test]
    fn a_tenant_is_allowed_what_both_policies_allow(case in cases(), name in select(&NAMES[..])) {
        let (rules, defaults, (direction, protocol, address, port), bound) = case;
        let own = policy_of(&rules, defaults);
        let mut tenants = own.clone();
        tenants.profile = Profile::MultiTenant;
        let port = if port == 0 { 53 } else { port };
        let withheld = Said::Withheld { strict: true };
        for said in [Said::Name(name), withheld, Said::Never, Said::Awaited] {
            let names = Names { bound: &bound, said };
            let question = Question { direction, protocol, address, port, names };
            let alone = evaluate(&own, &site(), &question);
            let both = evaluate(&tenants, &site(), &question);
            let place = site().place(address);
            let is_name_server = place.group() == Some(Group::Host) && port == 53;
            let platform = direction == Direction::Ingress
                || place.group() == Some(Group::Public)
                || (is_name_server && protocol.has_ports());
            if platform || alone.decision == Decision::Deny {
                prop_assert_eq!(both, alone);
            } else {
                prop_assert_eq!((both.decision, both.by), (Decision::Deny, By::Platform));
            }
        }
    }

    #[test]
    fn the_verdict_is_that_of_the_model(case in cases(), name in select(&NAMES[..])) {
        let (rules, defaults, (direction, protocol, address, port), bound) = case;
        let policy = policy_of(&rules, defaults);
        let ask = |said| {
            let names = Names { bound: &bound, said };
            let question = Question { direction, protocol, address, port, names };
            (evaluate(&policy, &site(), &question), question)
        };
        // Where all is known, there is one answer, and a rule or a default to blame.
        for (said, known) in [
            (Said::Name(name), (Some(name), true)),
            (Said::Withheld { strict: true }, (None, true)),
            (Said::Never, (None, false)),
        ] {
            let (verdict, question) = ask(said);
            let (action, by) = model::known(&rules, defaults, &question, known);
            prop_assert_eq!(verdict.decision, decision(action));
            let index = |by| if let By::Rule(index) = by { Some(usize::from(index)) } else { None };
            prop_assert_eq!(index(verdict.by), by);
        }
        // Where a name may come, a verdict holds whatever comes, and nobody waits but for a rule
        // with a name that would have it otherwise.
        let (verdict, question) = ask(Said::Awaited);
        let mut after = NAMES.map(Some).to_vec();
        after.extend([Some("other.example"), None]);
        for said in after {
            let (action, _) = model::known(&rules, defaults, &question, (said, true));
            if verdict.decision != Decision::WaitForName {
                prop_assert_eq!(verdict.decision, decision(action), "after {:?}", said);
            }
        }
        if verdict.decision == Decision::WaitForName {
            let By::Rule(index) = verdict.by else { panic!("nobody waits for a default") };
            let rule = &rules[usize::from(index)];
            let named = matches!(
                rule.destination,
                Destination::Domain(_) | Destination::DomainSuffix(_)
            );
            prop_assert!(named);
            prop_assert!(rule.action == Permission::Deny || !bound.is_empty());
        }
    }
}

fn named(destination: Destination<'static>, action: Permission) -> Owned {
    Owned { direction: None, destination, protocols: vec![], ports: vec![], action }
}

/// What is decided about a SYN to 8.8.8.8 while no name was said.
fn at_syn(rules: &[Owned], default: Permission, bound: &[&str]) -> (Decision, By) {
    let question = Question {
        direction: Direction::Egress,
        protocol: Protocol::Tcp,
        address: ip("8.8.8.8"),
        port: 443,
        names: Names { bound, said: Said::Awaited },
    };
    let verdict = evaluate(&policy_of(rules, (default, default)), &site(), &question);
    (verdict.decision, verdict.by)
}

#[test]
fn a_name_is_waited_for_only_where_it_could_change_the_verdict() {
    use Permission::{Allow, Deny};
    let allow = named(Destination::Domain("a.test"), Allow);
    let deny = named(Destination::DomainSuffix("a.test"), Deny);
    let public = named(Destination::Group(Group::Public), Allow);
    let wait = |rule| (Decision::WaitForName, By::Rule(rule));
    for (rules, default, bound, expected) in [
        // An allow by name: of no use where the name does not lead, and needless before another.
        (vec![&allow], Deny, &[][..], (Decision::Deny, By::Default)),
        (vec![&allow], Deny, &["b.test"], (Decision::Deny, By::Default)),
        (vec![&allow], Deny, &["a.test"], wait(0)),
        (vec![&allow, &public], Deny, &["a.test"], (Decision::Allow, By::Rule(1))),
        (vec![&allow], Allow, &["a.test"], (Decision::Allow, By::Default)),
        // A deny by name: any name may be said anywhere, but a denial needs none.
        (vec![&deny], Deny, &[], (Decision::Deny, By::Default)),
        (vec![&deny], Allow, &[], wait(0)),
        (vec![&deny, &public], Deny, &["b.test"], wait(0)),
        (vec![&public, &deny], Deny, &["x.a.test"], (Decision::Allow, By::Rule(0))),
        // Both: the one that would have it otherwise is waited for.
        (vec![&deny, &allow], Deny, &["a.test"], wait(1)),
        (vec![&allow, &deny], Deny, &[], (Decision::Deny, By::Default)),
    ] {
        let rules: Vec<Owned> = rules.into_iter().cloned().collect();
        assert_eq!(at_syn(&rules, default, bound), expected, "{rules:?} {default:?} {bound:?}");
    }
}

#[test]
fn where_the_hosts_own_addresses_are_unknown_no_address_is_public_to_allow() {
    let unknown = Site { own: None, ..site() };
    for address in ADDRESSES.map(ip) {
        let (place, known) = (unknown.place(address), site().place(address));
        for group in Group::ALL {
            let is_in = place.is_in_group(group, Permission::Allow);
            let was_in = known.is_in_group(group, Permission::Allow);
            assert_eq!(is_in, was_in && group != Group::Public, "{address} {group:?}");
            let is_in = place.is_in_group(group, Permission::Deny);
            assert_eq!(is_in, known.is_in_group(group, Permission::Deny), "{address} {group:?}");
        }
    }
}

#[test]
fn a_policy_takes_as_much_as_its_limits_say_and_stays_whole_beyond() {
    let ports = [PortRange::single(1), PortRange::single(2), PortRange::single(3)];
    let rule = |destination, ports| Rule {
        direction: None,
        destination,
        protocols: Protocols::ALL,
        ports,
        action: Permission::Allow,
        strict: None,
    };
    let fill = |rule: Rule<'_>| {
        let mut policy = Policy::default();
        let pushed = (0..).take_while(|_| policy.push(&rule).is_ok()).count();
        assert_eq!(policy.rules().len(), pushed);
        assert!(policy.rules().all(|kept| kept == rule));
        (pushed, policy.push(&rule).unwrap_err().to_string())
    };
    let (pushed, error) = fill(rule(Destination::Any, &[]));
    assert_eq!(pushed, limits::POLICY_RULES_MAX);
    assert_eq!(error, "policy.rules: 513 is not within the 512 rules of a policy");
    let (pushed, error) = fill(rule(Destination::Any, &ports));
    assert_eq!(pushed, limits::POLICY_PORT_RANGES_MAX / 3);
    assert_eq!(error, "policy.rules: 1026 is not within the 1024 ranges of ports of a policy");
    let name = ["abcdefghi"; 10].join(".");
    let (pushed, error) = fill(rule(Destination::Domain(&name), &[]));
    assert_eq!(pushed, limits::POLICY_NAME_BYTES_MAX / 99);
    assert_eq!(error, "policy.rules: 16434 is not within the 16384 bytes of names of a policy");
}

#[test]
fn what_would_match_nothing_is_no_rule() {
    let mut policy = Policy::default();
    let long = "a".repeat(64);
    let longer = ["abcdefgh"; 29].join(".");
    for name in [
        "",
        ".",
        "a..b",
        ".a.test",
        "a.test.",
        "A.test",
        "a b.test",
        &long,
        &longer,
        "*.a.test",
        "1.1.1.1",
        "2001:db8::1",
        "https://a.test",
        "a.test:443",
        "a.test/",
        "me@a.test",
        "\u{fc}.test",
    ] {
        for destination in [Destination::Domain(name), Destination::DomainSuffix(name)] {
            let rule = Rule {
                direction: None,
                destination,
                protocols: Protocols::ALL,
                ports: &[],
                action: Permission::Deny,
                strict: None,
            };
            let error = policy.push(&rule).unwrap_err().to_string();
            assert!(error.contains("is not a name: "), "{name}: {error}");
            let hint = match name {
                "*.a.test" => "domain_suffix",
                "1.1.1.1" | "2001:db8::1" => "cidr",
                _ => "a-z",
            };
            assert!(error.contains(hint), "{name}: {error}");
        }
    }
    // Whether a name must be said, where none allows.
    for (destination, action) in [
        (Destination::Any, Permission::Allow),
        (Destination::Group(Group::Public), Permission::Allow),
        (Destination::Domain("a.test"), Permission::Deny),
    ] {
        let (protocols, strict) = (Protocols::ALL, Some(false));
        let rule = Rule { direction: None, destination, protocols, ports: &[], action, strict };
        let error = policy.push(&rule).unwrap_err().to_string();
        assert_eq!(error, "policy.rules: strict is not for any rule but one by name that allows");
    }
    let ports = [PortRange { start: 9, end: 3 }];
    let rule = Rule {
        direction: None,
        destination: Destination::Any,
        protocols: Protocols::ALL,
        ports: &ports,
        action: Permission::Deny,
        strict: None,
    };
    let error = policy.push(&rule).unwrap_err().to_string();
    assert_eq!(error, "policy.rules: 9-3 is not a range of ports from low to high");
    assert_eq!(policy.rules().len(), 0);
    assert_eq!((Cidr::new(ip("::"), 129), Cidr::new(ip("0.0.0.0"), 33)), (None, None));
}
