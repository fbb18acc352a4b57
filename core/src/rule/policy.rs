//! Whether a flow may be: one function, which everybody asks.
//!
//! Owns what rules mean; must not know who asks, nor remember what it said. A SYN, a datagram, a
//! ping and a peer at a published port are the same question with other facts, and so will be a
//! name that a guest says. A name that it resolves has no address yet: `rule/name`.
//!
//! **Order.** Rules are looked at in their order. One matches if its direction, its protocols, its
//! ports and its destination all do; the first that matches decides, and where none does, the
//! default of the direction. An empty list of protocols or ports of a rule is all of them, but a
//! rule with ports matches no protocol without (ICMP). No rule, and no list of rules, ever allows
//! by being empty.
//!
//! **Addresses.** `any` is every address. Which addresses a network and a group are about, and that
//! a denial is about more of them than a permission, is in `rule/place`.
//!
//! **Names.** An address by itself has none. Two things are known of names: to which addresses the
//! resolver of the guest's gateway said that they lead ([`Names::bound`]), which is to be trusted,
//! and what the guest says to the server ([`Names::said`]), which is not. So a name that is allowed
//! must have been said *and* lead there, and of a name that is denied either is enough:
//!
//! | what was said | allow by name matches | deny by name matches |
//! |---|---|---|
//! | a name | it fits, and is bound | it fits |
//! | nothing, where a name is said (`Withheld`) | never | a bound name fits |
//! | nothing, as nobody says names there (`Never`) | a bound name fits | a bound name fits |
//! | nothing yet (`Awaited`) | perhaps, if a bound name fits; else never | perhaps |
//!
//! **Waiting.** Where a rule matches perhaps, what comes after it is looked at as well. If all that
//! could decide agree, that is the verdict, and nobody waits for a name that changes nothing: a
//! deny by name over a default that denies, an allow by name before one that allows. Else the
//! verdict is to wait for the name, by the first rule that could change it. So an allow by name
//! without a bound name matches nothing, and is never waited for; and a verdict that is not to wait
//! stays what it is whatever is said afterwards. Who cannot wait must deny.
//!
//! **Tenants.** Where the policy is a tenant's ([`Profile::MultiTenant`]), the platform's
//! (`rule/platform`) is asked as well, and both must allow. What the tenant denies is blamed on the
//! tenant; what the platform denies is denied at once, whatever name could still be said.

use core::net::IpAddr;

use super::place::{Place, Site};
use super::platform;
pub(crate) use crate::contract::By;
use crate::contract::{Destination, Direction, Permission, Policy, Profile, Protocol, Rule};

/// May this flow be?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question<'q> {
    /// Who opens it.
    pub direction: Direction,
    /// Its protocol.
    pub protocol: Protocol,
    /// The other end: the destination of the guest's flows, the peer of those to it.
    pub address: IpAddr,
    /// The port of the side that does not open it; without meaning where there are no ports.
    pub port: u16,
    /// What names are known.
    pub names: Names<'q>,
}

/// What is known of the names of an address. All names are in lower case, without a dot at either
/// end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names<'q> {
    /// Those that the resolver said lead there.
    pub bound: &'q [&'q str],
    /// What the guest says to the server.
    pub said: Said<'q>,
}

/// What the guest says to the server of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said<'q> {
    /// Nothing yet; it may come.
    Awaited,
    /// Nothing that can be read, though the protocol lets it: what a name leads to is enough where
    /// that need not be `strict`, and the rule says nothing else.
    Withheld {
        /// Whether it is where the rule does not say.
        strict: bool,
    },
    /// Nothing: names are not said there (UDP, ping, published ports).
    Never,
    /// This one.
    Name(&'q str),
}

/// The answer to a [`Question`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Verdict {
    /// What is to be done.
    pub decision: Decision,
    /// What decided it.
    pub by: By,
}

/// What is to be done with a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Decision {
    /// It may go ahead.
    Allow,
    /// It is refused.
    Deny,
    /// A name that may still be said decides.
    WaitForName,
}

/// Whether a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Match {
    Yes,
    No,
    /// If a name is said that fits.
    Perhaps,
}

/// Answers `question` by `policy`, at `site`.
///
/// # Cost
/// One pass over the rules up to the one that decides, a few comparisons each.
#[must_use]
pub fn evaluate(policy: &Policy, site: &Site<'_>, question: &Question<'_>) -> Verdict {
    let place = site.place(question.address);
    let default = policy.default_of(question.direction);
    let verdict = decide(policy.rules(), default, &place, question);
    match (policy.profile, verdict.decision) {
        (Profile::SingleTenant, _) | (Profile::MultiTenant, Decision::Deny) => verdict,
        (Profile::MultiTenant, Decision::Allow | Decision::WaitForName) => {
            let default = platform::default_of(question.direction);
            let platforms = decide(platform::rules().into_iter(), default, &place, question);
            match platforms.decision {
                Decision::Allow => verdict,
                Decision::Deny | Decision::WaitForName => {
                    Verdict { decision: Decision::Deny, by: By::Platform }
                }
            }
        }
    }
}

/// What `rules` say to `question`, whose address is at `place`, and else `default`.
fn decide<'r>(
    rules: impl Iterator<Item = Rule<'r>>,
    default: Permission,
    place: &Place,
    question: &Question<'_>,
) -> Verdict {
    let mut perhaps = Perhaps::default();
    for (index, rule) in (0..).zip(rules) {
        if !is_about(&rule, question) {
            continue;
        }
        match matches(&rule, place, &question.names) {
            Match::No => {}
            Match::Perhaps => perhaps.note(rule.action, index),
            Match::Yes => return perhaps.settle(rule.action, By::Rule(index)),
        }
    }
    perhaps.settle(default, By::Default)
}

/// The first rule of either kind that matches perhaps.
#[derive(Default)]
struct Perhaps {
    allow: Option<u16>,
    deny: Option<u16>,
}

impl Perhaps {
    fn note(&mut self, action: Permission, index: u16) {
        let first = match action {
            Permission::Allow => &mut self.allow,
            Permission::Deny => &mut self.deny,
        };
        first.get_or_insert(index);
    }

    /// The verdict, where `by` would have it that `action` is done unless a name is said.
    fn settle(&self, action: Permission, by: By) -> Verdict {
        let (decision, otherwise) = match action {
            Permission::Allow => (Decision::Allow, self.deny),
            Permission::Deny => (Decision::Deny, self.allow),
        };
        match otherwise {
            Some(rule) => Verdict { decision: Decision::WaitForName, by: By::Rule(rule) },
            None => Verdict { decision, by },
        }
    }
}

/// Whether `rule` is about flows such as that of `question`, wherever they go.
fn is_about(rule: &Rule<'_>, question: &Question<'_>) -> bool {
    let has_port = || {
        let ports = question.protocol.has_ports();
        ports && rule.ports.iter().any(|range| range.range().contains(&question.port))
    };
    rule.direction.is_none_or(|direction| direction == question.direction)
        && rule.protocols.contains(question.protocol)
        && (rule.ports.is_empty() || has_port())
}

/// Whether the destination of `rule` is `place`, or one of `names`.
fn matches(rule: &Rule<'_>, place: &Place, names: &Names<'_>) -> Match {
    let holds = match rule.destination {
        Destination::Any => true,
        Destination::Group(group) => place.is_in_group(group, rule.action),
        Destination::Cidr(network) => place.is_in_network(&network, rule.action),
        Destination::Domain(name) => return by_name(rule, names, |said| said == name),
        Destination::DomainSuffix(suffix) => {
            return by_name(rule, names, |said| is_below(said, suffix));
        }
    };
    if holds { Match::Yes } else { Match::No }
}

/// Whether `rule`, which is by name, matches, if names that fit are those which `fits` says: the
/// table of the module.
fn by_name(rule: &Rule<'_>, names: &Names<'_>, fits: impl Fn(&str) -> bool) -> Match {
    let is_bound = |name: &str| names.bound.contains(&name);
    let one_fits = || names.bound.iter().any(|name| fits(name));
    let holds = match (names.said, rule.action) {
        (Said::Name(name), Permission::Allow) => fits(name) && is_bound(name),
        (Said::Name(name), Permission::Deny) => fits(name),
        (Said::Withheld { strict }, Permission::Allow) => {
            !rule.strict.unwrap_or(strict) && one_fits()
        }
        (Said::Withheld { .. }, Permission::Deny) | (Said::Never, _) => one_fits(),
        (Said::Awaited, Permission::Allow) if one_fits() => return Match::Perhaps,
        (Said::Awaited, Permission::Allow) => false,
        (Said::Awaited, Permission::Deny) => return Match::Perhaps,
    };
    if holds { Match::Yes } else { Match::No }
}

/// Whether `name` is `suffix` or a name below it, by whole labels.
pub(super) fn is_below(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
