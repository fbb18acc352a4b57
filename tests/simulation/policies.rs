//! What policy says, in each stretch of a run, and a plain reading of it: which connections are
//! denied, which names are allowed, who may come.

use core::net::IpAddr;
use std::collections::BTreeSet;

use sim::Dice;
use sim::core::{
    Cidr, Config, Destination, Direction, Group, Permission, Policy, PortRange, Protocol,
    Protocols, Rule,
};

use super::app::OUTSIDE;
use super::callers::{MAY, PORTS};
use super::lie;

/// Names below `wide.test` are allowed but for this one, in most policies.
const NOT_WIDE: &str = "denied.wide.test";
/// Changes of policy in a run at most, and when they come at the latest.
const CHANGES_MAX: u64 = 3;
const CHANGE_MS_MAX: u64 = 3000;

/// A policy, as far as one differs from another.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// Connections of the guest that are denied, by number.
    pub(crate) denied: BTreeSet<u16>,
    /// Whether `good.test`, what is below `wide.test`, and `short.test` are allowed.
    names: [bool; 3],
    /// Whether [`NOT_WIDE`] is denied.
    denies_one: bool,
    /// Who may come, of [`MAY`].
    callers: [bool; 2],
    /// [`NOT_WIDE`] is denied before networks are allowed: it must not be said there either.
    is_name_first: bool,
    /// What is allowed by its name must say it.
    pub(crate) is_strict: bool,
}

impl Rules {
    /// What holds at first.
    fn first(is_name_first: bool, is_strict: bool) -> Self {
        Self {
            denied: BTreeSet::new(),
            names: [true; 3],
            denies_one: true,
            callers: [true; 2],
            is_name_first,
            is_strict,
        }
    }

    /// Another policy, that denies `denied`.
    fn another(&self, denied: BTreeSet<u16>, dice: &mut Dice) -> Self {
        Self {
            denied,
            names: [(); 3].map(|()| dice.one_of(700)),
            denies_one: dice.one_of(700),
            callers: [(); 2].map(|()| dice.one_of(700)),
            ..*self
        }
    }

    /// Writes them into `config`.
    pub(crate) fn configure(&self, config: &mut Config) {
        config.strict = self.is_strict;
        config.policy = Policy::new(Permission::Deny, Permission::Deny);
        let mut push = |rule: Rule<'_>| config.policy.push(&rule).expect("because it is a rule");
        let rule = |destination, ports, action| Rule {
            direction: Some(Direction::Egress),
            destination,
            protocols: Protocols::ALL,
            ports,
            action,
            strict: None,
        };
        let port = |number: &u16| PortRange { start: OUTSIDE + number, end: OUTSIDE + number };
        let ports: Vec<PortRange> = self.denied.iter().map(port).collect();
        if !ports.is_empty() {
            let protocols = Protocols::of(&[Protocol::Tcp]);
            let deny = rule(Destination::Any, &ports, Permission::Deny);
            push(Rule { protocols, ..deny });
        }
        let deny_one = rule(Destination::Domain(NOT_WIDE), &[], Permission::Deny);
        if self.denies_one && self.is_name_first {
            push(deny_one);
        }
        let networks = [("10.1.0.0", 16), ("203.0.113.7", 32), ("2001:db8::7", 128)];
        for (network, bits) in networks {
            push(rule(cidr(network, bits), &[], Permission::Allow));
        }
        let echo = [PortRange { start: 7, end: 7 }];
        push(rule(Destination::Group(Group::Host), &echo, Permission::Allow));
        if self.denies_one && !self.is_name_first {
            push(deny_one);
        }
        let names = [
            Destination::Domain("good.test"),
            Destination::DomainSuffix("wide.test"),
            Destination::Domain("short.test"),
        ];
        for (name, _) in names.into_iter().zip(self.names).filter(|(_, is_allowed)| *is_allowed) {
            push(rule(name, &[], Permission::Allow));
        }
        for ((peer, bits), _) in MAY.iter().zip([24, 64]).zip(self.callers).filter(|(_, may)| *may)
        {
            let ingress = rule(cidr(peer, bits), &PORTS, Permission::Allow);
            push(Rule { direction: Some(Direction::Ingress), ..ingress });
        }
    }

    /// Whether `name` may be asked for.
    pub(crate) fn allows_name(&self, name: &str) -> bool {
        let [good, wide, short] = self.names;
        match name {
            "good.test" => good,
            "short.test" => short,
            NOT_WIDE => wide && !self.denies_one,
            _ => wide && (name == "wide.test" || name.ends_with(".wide.test")),
        }
    }

    /// Whether a datagram may go to `address`, to which `names` lead.
    pub(crate) fn allows_datagram(&self, address: IpAddr, names: &[&str]) -> bool {
        let is_denied = self.denies_one && names.contains(&NOT_WIDE);
        let is_allowed = names.iter().any(|name| self.allows_name(name));
        lie::is_meant(address) || (is_allowed && !is_denied)
    }

    /// Whether a connection may be made to `address`, to which `names` lead, on which the guest has
    /// `said` a name, or none.
    pub(crate) fn allows_connection(
        &self,
        address: IpAddr,
        names: &[&str],
        said: Option<&str>,
    ) -> bool {
        let is_denied =
            self.denies_one && said.map_or(names.contains(&NOT_WIDE), |said| said == NOT_WIDE);
        let is_allowed = match said {
            Some(said) => names.contains(&said) && self.allows_name(said),
            None => !self.is_strict && names.iter().any(|name| self.allows_name(name)),
        };
        if lie::is_meant(address) {
            return !is_denied || !self.is_name_first;
        }
        is_allowed && !is_denied
    }

    /// Whether `peer` may come.
    pub(crate) fn may_come(&self, peer: IpAddr) -> bool {
        let mut peers = MAY.iter().zip(self.callers);
        peers.any(|(may, is_open)| is_open && may.parse() == Ok(peer))
    }
}

fn cidr(network: &str, bits: u8) -> Destination<'static> {
    let address: IpAddr = network.parse().expect("because it is an address");
    Destination::Cidr(Cidr::new(address, bits).expect("because it has so many bits"))
}

/// The policies of a run whose connections begin after `starts` milliseconds: from when each holds.
///
/// What was denied when it began, or since, stays so: whether a guest would yet be connected whose
/// refusal was lost is not to be known.
pub(crate) fn plan(starts: &[u64], dice: &mut Dice) -> Vec<(u64, Rules)> {
    let count = if dice.one_of(500) { dice.between(1, CHANGES_MAX) } else { 0 };
    let mut times: Vec<u64> = (0..count).map(|_| dice.between(1, CHANGE_MS_MAX)).collect();
    times.sort_unstable();
    times.dedup();
    // Where names change, one that is denied may lead to where the applications' servers are.
    let is_name_first = times.is_empty() && dice.one_of(400);
    let first = Rules::first(is_name_first, dice.one_of(600));
    let mut all = vec![(0, first.clone())];
    let mut denied = BTreeSet::new();
    for (index, at) in times.iter().enumerate() {
        let until = times.get(index + 1).copied().unwrap_or(u64::MAX);
        let has_begun = |number: &u16| starts[usize::from(*number)] <= *at;
        denied.retain(has_begun);
        for (number, start) in (0..).zip(starts) {
            // It matters to nobody, to who begins, or to who is there.
            let chance = if *start > until { 500 } else { 200 };
            if dice.one_of(chance) {
                denied.insert(number);
            }
        }
        all.push((*at, first.another(denied.clone(), dice)));
    }
    all
}
