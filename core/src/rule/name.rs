//! What a policy says of names: whether one may be resolved, and where its answers may lead.
//!
//! Owns what rules mean where there is a name and no address yet; must not know messages, nor who
//! asks. What it means for a flow is `rule/policy`.
//!
//! **Questions.** A query goes to the gateway whatever address it was sent to, so rules for `any`
//! and for the group `host` are about it as about any flow to port 53. Rules by name are about the
//! name alone: their protocols and ports say which flows to it may be, and a flow begins with a
//! name. Rules for networks and other groups are about addresses, of which there are none yet. The
//! first rule that matches decides, then the default.
//!
//! **Answers.** A name outside must not lead to where only a name inside should: an answer with an
//! address that is not `public` is rebinding, unless the policy says of that very address that it
//! may be reached. Only a rule by network or group that has no ports says so, not the default, nor
//! a rule for `any`, which do not mean it; and no tenant's, since the platform allows what is
//! `public` only.

use core::net::IpAddr;

use super::place::{Place, Site};
use super::policy::{By, Decision, Verdict, is_below};
use crate::contract::{Destination, Direction, Group, Permission, Policy, Profile, Protocol, Rule};
use crate::limits::DNS_PORT;

/// May this name be resolved?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameQuestion<'q> {
    /// What the query came over: TCP or UDP.
    pub protocol: Protocol,
    /// The name, in lower case, without a dot at either end; empty: the root.
    pub name: &'q str,
}

/// Answers `question` by `policy`. It is never to wait: the name is there.
///
/// # Cost
/// One pass over the rules up to the one that decides.
#[must_use]
pub fn evaluate_name(policy: &Policy, question: &NameQuestion<'_>) -> Verdict {
    let decided = (0..).zip(policy.rules()).find(|(_, rule)| {
        let is_about = match rule.destination {
            Destination::Any | Destination::Group(Group::Host) => {
                let has_port = |port| rule.ports.iter().any(|range| range.range().contains(&port));
                rule.protocols.contains(question.protocol)
                    && (rule.ports.is_empty() || has_port(DNS_PORT))
            }
            Destination::Domain(name) => question.name == name,
            Destination::DomainSuffix(suffix) => is_below(question.name, suffix),
            Destination::Cidr(_) | Destination::Group(_) => false,
        };
        is_about && rule.direction != Some(Direction::Ingress)
    });
    let (action, by) = match decided {
        Some((index, rule)) => (rule.action, By::Rule(index)),
        None => (policy.default_of(Direction::Egress), By::Default),
    };
    let decision = match action {
        Permission::Allow => Decision::Allow,
        Permission::Deny => Decision::Deny,
    };
    Verdict { decision, by }
}

/// Whether `policy` has rules by name, so that names of addresses count.
pub(crate) fn has_names(policy: &Policy) -> bool {
    let is_named = |rule: Rule<'_>| {
        matches!(rule.destination, Destination::Domain(_) | Destination::DomainSuffix(_))
    };
    policy.rules().any(is_named)
}

/// Whether some rule of `policy` is about `name`: of others it need not be known where they lead.
pub(crate) fn is_named(policy: &Policy, name: &str) -> bool {
    policy.rules().any(|rule| is_about_name(&rule, name))
}

/// Whether the rule of `policy` that `by` means is about `name`.
pub(crate) fn is_by(policy: &Policy, by: By, name: &str) -> bool {
    let By::Rule(index) = by else { return false };
    policy.rules().nth(index.into()).is_some_and(|rule| is_about_name(&rule, name))
}

fn is_about_name(rule: &Rule<'_>, name: &str) -> bool {
    match rule.destination {
        Destination::Domain(domain) => name == domain,
        Destination::DomainSuffix(suffix) => is_below(name, suffix),
        Destination::Any | Destination::Cidr(_) | Destination::Group(_) => false,
    }
}

/// Whether an answer from outside may lead to `address`, at `site`.
#[must_use]
pub fn may_be_answer(policy: &Policy, site: &Site<'_>, address: IpAddr) -> bool {
    let place = site.place(address);
    let is_meant = |protocol| is_meant(policy, &place, protocol);
    place.is_in_group(Group::Public, Permission::Allow)
        || policy.profile == Profile::SingleTenant
            && [Protocol::Tcp, Protocol::Udp].into_iter().any(is_meant)
}

/// Whether the first rule that speaks of `place` itself allows it.
fn is_meant(policy: &Policy, place: &Place, protocol: Protocol) -> bool {
    let mut rules = policy.rules().filter(|rule| {
        rule.direction != Some(Direction::Ingress)
            && rule.protocols.contains(protocol)
            && rule.ports.is_empty()
    });
    let first = rules.find(|rule| match rule.destination {
        Destination::Group(group) => place.is_in_group(group, rule.action),
        Destination::Cidr(network) => place.is_in_network(&network, rule.action),
        Destination::Any | Destination::Domain(_) | Destination::DomainSuffix(_) => false,
    });
    first.is_some_and(|rule| rule.action == Permission::Allow)
}
