//! Names under policy: every question about random rules is answered as a naive model answers it.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "this is a test, its functions too")]

use core::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use sluicegate_core::{
    By, Cidr, Decision, Destination, Direction, Group, NameQuestion, Permission, Policy, PortRange,
    Profile, Protocol, Protocols, Rule, Site, evaluate_name, may_be_answer,
};

const NAMES: [&str; 6] = ["", "a.test", "b.a.test", "ba.test", "test", "c.example"];

/// Addresses, and what a rule must be about to let names lead there; the first needs none.
const ADDRESSES: [(&str, &str, &str); 6] = [
    ("8.8.8.8", "public", ""),
    ("2600::8", "public", ""),
    ("10.1.2.3", "private", "10.0.0.0/8"),
    ("64:ff9b::a01:203", "private", "10.0.0.0/8"),
    ("100.96.0.1", "host", "100.64.0.0/10"),
    ("192.0.2.1", "", "192.0.2.0/24"),
];

/// A rule in words: direction, destination, protocols, ports, action.
type Words = (&'static str, &'static str, Vec<Protocol>, Option<(u16, u16)>, bool);

fn rules() -> impl Strategy<Value = Vec<Words>> {
    let destinations = [
        "any",
        "host",
        "private",
        "public",
        "10.0.0.0/8",
        "192.0.2.0/24",
        "100.64.0.0/10",
        "a.test",
        "*.a.test",
        "*.test",
        "c.example",
    ];
    let rule = (
        select(&["egress", "any", "ingress"][..]),
        select(destinations.to_vec()),
        subsequence(&Protocol::ALL[..], 0..=4),
        proptest::option::of((50_u16..55).prop_flat_map(|start| (Just(start), start..56))),
        any::<bool>(),
    );
    proptest::collection::vec(rule, 0..6)
}

fn destination(text: &'static str) -> Destination<'static> {
    if let Some((address, bits)) = text.split_once('/') {
        return Destination::Cidr(
            Cidr::new(address.parse().unwrap(), bits.parse().unwrap()).unwrap(),
        );
    }
    match text.strip_prefix("*.") {
        Some(suffix) => Destination::DomainSuffix(suffix),
        None if text == "any" => Destination::Any,
        None => match Group::ALL.into_iter().find(|group| group.name() == text) {
            Some(group) => Destination::Group(group),
            None => Destination::Domain(text),
        },
    }
}

fn action(allow: bool) -> Permission {
    if allow { Permission::Allow } else { Permission::Deny }
}

fn policy_of(rules: &[Words], default: bool) -> Policy {
    let mut policy = Policy::new(action(default), Permission::Deny);
    for (direction, to, protocols, ports, allow) in rules {
        let ports = ports.map(|(start, end)| PortRange { start, end });
        let rule = Rule {
            direction: match *direction {
                "egress" => Some(Direction::Egress),
                "ingress" => Some(Direction::Ingress),
                _ => None,
            },
            destination: destination(to),
            protocols: Protocols::of(protocols),
            ports: ports.as_slice(),
            action: action(*allow),
            strict: None,
        };
        policy.push(&rule).unwrap();
    }
    policy
}

fn is_over(protocols: &[Protocol], protocol: Protocol) -> bool {
    protocols.is_empty() || protocols.contains(&protocol)
}

fn site() -> Site<'static> {
    let gateways = ["100.96.0.1", "fd42:6d73:62::1"].map(|text| text.parse().unwrap());
    Site { gateways, own: Some(&[]), nat64: &[] }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 10_000, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn a_query_is_judged_as_the_model_judges_it(
        rules in rules(),
        default: bool,
        name in select(&NAMES[..]),
        protocol in select(&[Protocol::Udp, Protocol::Tcp][..]),
    ) {
        let first = rules.iter().position(|(direction, to, protocols, ports, _)| {
            let by_flow = is_over(protocols, protocol)
                && ports.is_none_or(|(start, end)| start <= 53 && end >= 53);
            let is_about = match *to {
                "any" | "host" => by_flow,
                "*.a.test" => name == "a.test" || name == "b.a.test",
                "*.test" => name == "test" || name.ends_with(".test"),
                _ => name == *to,
            };
            is_about && *direction != "ingress"
        });
        let allowed = first.map_or(default, |index| rules[index].4);
        let verdict = evaluate_name(&policy_of(&rules, default), &NameQuestion { protocol, name });
        let expected = if allowed { Decision::Allow } else { Decision::Deny };
        let by = first.map_or(By::Default, |index| By::Rule(u16::try_from(index).unwrap()));
        prop_assert_eq!((verdict.decision, verdict.by), (expected, by));
    }

    #[test]
    fn an_answer_leads_where_the_model_lets_it(
        rules in rules(),
        default: bool,
        (address, group, network) in select(&ADDRESSES[..]),
    ) {
        let by = |protocol| {
            let first = rules.iter().find(|(direction, to, protocols, ports, allow)| {
                // A denial of the public Internet is about what is special of it as well.
                let is_denied_too = group.is_empty() && !allow && *to == "public";
                (*to == group || *to == network || is_denied_too)
                    && *direction != "ingress"
                    && ports.is_none()
                    && is_over(protocols, protocol)
            });
            first.is_some_and(|rule| rule.4)
        };
        let expected = group == "public" || by(Protocol::Tcp) || by(Protocol::Udp);
        let address: IpAddr = address.parse().unwrap();
        let mut policy = policy_of(&rules, default);
        prop_assert_eq!(may_be_answer(&policy, &site(), address), expected);
        // No rule of a tenant brings the platform's guests to where the public is not.
        policy.profile = Profile::MultiTenant;
        prop_assert_eq!(may_be_answer(&policy, &site(), address), group == "public");
    }
}
