//! What a guest may reach and who may reach it, as an embedder writes it.
//!
//! Owns the default, the words in which rules are shown, and the way into the core's form; must not
//! know JSON (`config/rules.rs`) nor what a rule means for a flow (the core's `rule`).

use core::fmt;

use sluicegate_core::{
    Cidr, ConfigError, Destination, Direction, Group, Permission, Policy, PortRange, Protocol,
    Protocols, Rule,
};

/// The port of name servers.
const DNS_PORT: u16 = 53;

/// What the guest may reach, and who may reach it: the first rule that matches decides, then the
/// default of the direction.
///
/// The default lets the guest reach the public Internet and the gateway's name server, and peers
/// the ports that the guest publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyConfig {
    /// Flows that the guest opens and no rule matches.
    pub default_egress: Permission,
    /// Flows to the guest's published ports, of which there are none yet, that no rule matches.
    pub default_ingress: Permission,
    /// The rules, in their order.
    pub rules: Vec<RuleConfig>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleConfig {
    /// The direction that it is about; `None`: either.
    pub direction: Option<Direction>,
    /// The other end.
    pub destination: DestinationConfig,
    /// The protocols that it is about; empty: all.
    pub protocols: Vec<Protocol>,
    /// The ports that it is about; empty: all. A rule with ports is not about pings.
    pub ports: Vec<PortRange>,
    /// What it does.
    pub action: Permission,
    /// Whether a flow that it allows by name must say that name, as
    /// [`strict`](super::NetworkConfig::strict) has it for all; `None`: as all do. False is for
    /// protocols in which no name is said, as SSH: that the name leads to the address is then
    /// enough. A tenant's rules are strict.
    pub strict: Option<bool>,
}

/// The other end of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DestinationConfig {
    /// Everybody.
    Any,
    /// The addresses of a network.
    Cidr(Cidr),
    /// The addresses of a group.
    Group(Group),
    /// A name, in lower case, without a dot at either end.
    Domain(String),
    /// A name, written as that, and all names below it.
    DomainSuffix(String),
}

impl Default for PolicyConfig {
    fn default() -> Self {
        let allow = |group, protocols, ports| RuleConfig {
            direction: Some(Direction::Egress),
            destination: DestinationConfig::Group(group),
            protocols,
            ports,
            action: Permission::Allow,
            strict: None,
        };
        let names = vec![Protocol::Udp, Protocol::Tcp];
        Self {
            default_egress: Permission::Deny,
            default_ingress: Permission::Allow,
            rules: vec![
                allow(Group::Host, names, vec![PortRange::single(DNS_PORT)]),
                allow(Group::Public, vec![], vec![]),
            ],
        }
    }
}

impl PolicyConfig {
    /// One without rules.
    #[must_use]
    pub fn without_rules(default_egress: Permission, default_ingress: Permission) -> Self {
        Self { default_egress, default_ingress, rules: vec![] }
    }

    /// The same for the engine.
    pub(super) fn to_core(&self) -> Result<Policy, ConfigError> {
        let mut policy = Policy::new(self.default_egress, self.default_ingress);
        for rule in &self.rules {
            policy.push(&rule.view())?;
        }
        Ok(policy)
    }
}

impl RuleConfig {
    fn view(&self) -> Rule<'_> {
        Rule {
            direction: self.direction,
            destination: match &self.destination {
                DestinationConfig::Any => Destination::Any,
                DestinationConfig::Cidr(network) => Destination::Cidr(*network),
                DestinationConfig::Group(group) => Destination::Group(*group),
                DestinationConfig::Domain(name) => Destination::Domain(name),
                DestinationConfig::DomainSuffix(name) => Destination::DomainSuffix(name),
            },
            protocols: Protocols::of(&self.protocols),
            ports: &self.ports,
            action: self.action,
            strict: self.strict,
        }
    }
}

/// In words, as "allow udp, tcp to host, port 53".
impl fmt::Display for RuleConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = match self.action {
            Permission::Allow => "allow",
            Permission::Deny => "deny",
        };
        let protocols: Vec<_> = self.protocols.iter().map(|protocol| protocol.name()).collect();
        let protocols =
            if protocols.is_empty() { "everything".to_owned() } else { protocols.join(", ") };
        let way = match self.direction {
            Some(Direction::Egress) => "to",
            Some(Direction::Ingress) => "from",
            None => "to and from",
        };
        write!(f, "{action} {protocols} {way} ")?;
        match &self.destination {
            DestinationConfig::Any => f.write_str("any")?,
            DestinationConfig::Cidr(network) => write!(f, "{network}")?,
            DestinationConfig::Group(group) => f.write_str(group.name())?,
            DestinationConfig::Domain(name) => f.write_str(name)?,
            DestinationConfig::DomainSuffix(name) => write!(f, "{name} and names below")?,
        }
        for (index, range) in self.ports.iter().enumerate() {
            f.write_str(if index == 0 { ", port " } else { ", " })?;
            write!(f, "{}", range.start)?;
            if range.end != range.start {
                write!(f, "-{}", range.end)?;
            }
        }
        match self.strict {
            None => Ok(()),
            Some(true) => f.write_str(", strict"),
            Some(false) => f.write_str(", not strict"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_shown_in_words() {
        let shown: Vec<_> = PolicyConfig::default().rules.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["allow udp, tcp to host, port 53", "allow everything to public"]);
        let network = Cidr::new("10.0.0.0".parse().unwrap(), 8).unwrap();
        let rule = RuleConfig {
            direction: None,
            destination: DestinationConfig::Cidr(network),
            protocols: vec![Protocol::Icmpv6],
            ports: vec![PortRange::single(1), PortRange { start: 3, end: 9 }],
            action: Permission::Deny,
            strict: None,
        };
        assert_eq!(rule.to_string(), "deny icmpv6 to and from 10.0.0.0/8, port 1, 3-9");
        let rule = RuleConfig { direction: Some(Direction::Ingress), ..rule };
        assert!(rule.to_string().contains(" from 10.0.0.0/8"));
    }

    #[test]
    fn an_embedders_rules_are_checked_too() {
        let mut policy = PolicyConfig::default();
        policy.rules[1].ports = vec![PortRange { start: 9, end: 8 }];
        let error = policy.to_core().unwrap_err().to_string();
        assert_eq!(error, "policy.rules: 9-8 is not a range of ports from low to high");
        policy.rules = vec![PolicyConfig::default().rules[1].clone(); 513];
        let error = policy.to_core().unwrap_err().to_string();
        assert_eq!(error, "policy.rules: 513 is not within the 512 rules of a policy");
    }
}
