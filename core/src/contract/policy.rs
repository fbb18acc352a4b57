//! A policy as data: rules in their order, and what holds where none matches.
//!
//! Owns how a rule is said, checked once and kept; must not know what it means for a flow, which is
//! `rule/policy`. Rules are given and read as views that borrow ([`Rule`]), and kept in parts of
//! fixed size: so a policy is one value without pointers, of which nothing is lent, and whoever
//! holds one replaces it as a whole.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::ops::RangeInclusive;

use super::ConfigError;
use crate::limits::{
    DOMAIN_BYTES_MAX, POLICY_NAME_BYTES_MAX, POLICY_PORT_RANGES_MAX, POLICY_RULES_MAX,
};

const FIELD: &str = "policy.rules";
/// Bytes between two dots of a name (RFC 1035 2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// What a rule, or the lack of one, does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Permission {
    /// The flow may go ahead.
    Allow,
    /// It is refused.
    #[default]
    Deny,
}

/// Who opens a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Direction {
    /// The guest.
    Egress,
    /// A peer outside, to a published port of the guest.
    Ingress,
}

impl Direction {
    /// The name used in configurations and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        }
    }
}

/// What a rule may be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[allow(missing_docs, reason = "IANA describes them")]
#[repr(u8)]
pub enum Protocol {
    Tcp,
    Udp,
    Icmpv4,
    Icmpv6,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Udp, Self::Icmpv4, Self::Icmpv6];

    /// The name in configurations.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmpv4 => "icmpv4",
            Self::Icmpv6 => "icmpv6",
        }
    }

    /// Whether its flows have ports.
    #[must_use]
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp)
    }
}

/// A set of protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Protocols(u8);

impl Protocols {
    /// Every protocol.
    pub const ALL: Self = Self(0b1111);

    /// Those of `list`; all of them where it is empty, as a configuration means it.
    #[must_use]
    pub fn of(list: &[Protocol]) -> Self {
        let set = list.iter().fold(0, |set, protocol| set | 1 << *protocol as u8);
        if set == 0 { Self::ALL } else { Self(set) }
    }

    /// Whether `protocol` is among them.
    #[must_use]
    pub const fn contains(self, protocol: Protocol) -> bool {
        self.0 & 1 << protocol as u8 != 0
    }
}

/// Ports from `start` to `end`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct PortRange {
    /// The first.
    pub start: u16,
    /// The last, not below the first.
    pub end: u16,
}

impl PortRange {
    /// `port` alone.
    #[must_use]
    pub const fn single(port: u16) -> Self {
        Self { start: port, end: port }
    }

    /// The same, to ask whether it contains a port.
    #[must_use]
    pub const fn range(self) -> RangeInclusive<u16> {
        self.start..=self.end
    }
}

/// Addresses that have something in common; which ones is said in `rule/place`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Group {
    /// The public Internet, and nothing of this host.
    Public,
    /// Private, shared and unique local addresses.
    Private,
    /// Loopback addresses, which are never the host's: no guest reaches that by them.
    Loopback,
    /// Link-local addresses.
    LinkLocal,
    /// Where clouds tell a machine its secrets.
    Metadata,
    /// Multicast addresses.
    Multicast,
    /// The gateway's own addresses, behind which is this host's loopback.
    Host,
}

impl Group {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Public,
        Self::Private,
        Self::Loopback,
        Self::LinkLocal,
        Self::Metadata,
        Self::Multicast,
        Self::Host,
    ];

    /// The name in configurations.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Loopback => "loopback",
            Self::LinkLocal => "link_local",
            Self::Metadata => "metadata",
            Self::Multicast => "multicast",
            Self::Host => "host",
        }
    }
}

/// A network: an address, whose host bits say nothing, and the bits that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix_bits: u8,
}

impl Cidr {
    /// The network of `address` with `prefix_bits` bits; `None`: more than an address has.
    #[must_use]
    pub const fn new(address: IpAddr, prefix_bits: u8) -> Option<Self> {
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        if prefix_bits > bits_max { None } else { Some(Self { address, prefix_bits }) }
    }

    /// A network of a constant table, whose length is right.
    pub(crate) const fn v4(octets: [u8; 4], prefix_bits: u8) -> Self {
        assert!(prefix_bits <= 32);
        let [a, b, c, d] = octets;
        Self { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix_bits }
    }

    /// A network of a constant table, whose length is right.
    pub(crate) const fn v6(head: [u16; 4], tail: [u16; 4], prefix_bits: u8) -> Self {
        assert!(prefix_bits <= 128);
        let ([a, b, c, d], [e, f, g, h]) = (head, tail);
        Self { address: IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)), prefix_bits }
    }

    /// Whether `address` is in it. The families share no address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = u32::from(self.prefix_bits);
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differ = network.to_bits() ^ address.to_bits();
                differ.checked_shr(32 - bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differ = network.to_bits() ^ address.to_bits();
                differ.checked_shr(128 - bits).unwrap_or(0) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl core::fmt::Display for Cidr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

/// The other end of a flow, as a rule names it: where the guest's flows go, and who comes to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Destination<'r> {
    /// Everybody.
    Any,
    /// Addresses of a network.
    Cidr(Cidr),
    /// A name: lower case, without a dot at either end.
    Domain(&'r str),
    /// A name, and every name below it.
    DomainSuffix(&'r str),
    /// Addresses of a group.
    Group(Group),
}

/// One rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rule<'r> {
    /// The direction that it is about; `None`: either.
    pub direction: Option<Direction>,
    /// The other end.
    pub destination: Destination<'r>,
    /// The protocols that it is about.
    pub protocols: Protocols,
    /// The ports that it is about, those of the side that did not open the flow; empty: all. A rule
    /// with ports is about no protocol without them.
    pub ports: &'r [PortRange],
    /// What it does.
    pub action: Permission,
    /// Whether a flow that it allows by name must say that name
    /// ([`strict`](super::Config::strict)); `None`: as all do. A tenant's rules are strict.
    pub strict: Option<bool>,
}

/// Whose word a policy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Profile {
    /// That of whoever runs this host: it is all that holds.
    #[default]
    SingleTenant,
    /// A tenant's: what it allows, the platform must allow as well (`rule/platform`).
    MultiTenant,
}

/// Rules, of which the first that matches decides, and what holds where none does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// Whose word it is.
    pub profile: Profile,
    /// For flows that the guest opens.
    pub default_egress: Permission,
    /// For flows to published ports of the guest.
    pub default_ingress: Permission,
    rules: heapless::Vec<Kept, POLICY_RULES_MAX>,
    ports: heapless::Vec<PortRange, POLICY_PORT_RANGES_MAX>,
    names: heapless::String<POLICY_NAME_BYTES_MAX>,
}

/// A rule whose lists are elsewhere in its policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kept {
    direction: Option<Direction>,
    protocols: Protocols,
    action: Permission,
    strict: Option<bool>,
    destination: KeptDestination,
    ports: Span,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeptDestination {
    Any,
    Cidr(Cidr),
    Domain(Span),
    DomainSuffix(Span),
    Group(Group),
}

/// A piece of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    at: u16,
    len: u16,
}

impl Span {
    #[allow(clippy::cast_possible_truncation, reason = "limits.rs keeps the lists below 2^16")]
    const fn new(at: usize, len: usize) -> Self {
        Self { at: at as u16, len: len as u16 }
    }

    fn range(self) -> core::ops::Range<usize> {
        usize::from(self.at)..usize::from(self.at) + usize::from(self.len)
    }
}

impl Policy {
    /// One without rules.
    #[must_use]
    pub const fn new(default_egress: Permission, default_ingress: Permission) -> Self {
        Self {
            profile: Profile::SingleTenant,
            default_egress,
            default_ingress,
            rules: heapless::Vec::new(),
            ports: heapless::Vec::new(),
            names: heapless::String::new(),
        }
    }

    /// Adds `rule` as the last.
    ///
    /// # Errors
    /// A range of ports that ends before it starts, a name that is none or not in lower case,
    /// `strict` where no name allows, or more than there is room for. The policy is as it was then.
    pub fn push(&mut self, rule: &Rule<'_>) -> Result<(), ConfigError> {
        if let Some(range) = rule.ports.iter().find(|range| range.start > range.end) {
            let value = format_args!("{}-{}", range.start, range.end);
            return Err(ConfigError::new(FIELD, value, "a range of ports from low to high"));
        }
        let name = match rule.destination {
            Destination::Domain(name) | Destination::DomainSuffix(name) => name,
            Destination::Any | Destination::Cidr(_) | Destination::Group(_) => "",
        };
        let is_named =
            matches!(rule.destination, Destination::Domain(_) | Destination::DomainSuffix(_));
        if is_named && let Err(expected) = check_name(name) {
            return Err(ConfigError::new(FIELD, name, expected));
        }
        if rule.strict.is_some() && !(is_named && rule.action == Permission::Allow) {
            let expected = "for any rule but one by name that allows";
            return Err(ConfigError::new(FIELD, "strict", expected));
        }
        self.check_room(rule.ports.len(), name.len())?;
        let (ports_at, name_at) = (self.ports.len(), self.names.len());
        let name = Span::new(name_at, name.len());
        let kept = Kept {
            direction: rule.direction,
            protocols: rule.protocols,
            action: rule.action,
            strict: rule.strict,
            destination: match rule.destination {
                Destination::Any => KeptDestination::Any,
                Destination::Cidr(cidr) => KeptDestination::Cidr(cidr),
                Destination::Domain(_) => KeptDestination::Domain(name),
                Destination::DomainSuffix(_) => KeptDestination::DomainSuffix(name),
                Destination::Group(group) => KeptDestination::Group(group),
            },
            ports: Span::new(ports_at, rule.ports.len()),
        };
        self.keep(kept, rule);
        Ok(())
    }

    fn check_room(&self, ports: usize, name_bytes: usize) -> Result<(), ConfigError> {
        if self.rules.is_full() {
            let expected = "within the 512 rules of a policy";
            return Err(ConfigError::new(FIELD, self.rules.len() + 1, expected));
        }
        if ports > POLICY_PORT_RANGES_MAX - self.ports.len() {
            let expected = "within the 1024 ranges of ports of a policy";
            return Err(ConfigError::new(FIELD, self.ports.len() + ports, expected));
        }
        if name_bytes > POLICY_NAME_BYTES_MAX - self.names.len() {
            let expected = "within the 16384 bytes of names of a policy";
            return Err(ConfigError::new(FIELD, self.names.len() + name_bytes, expected));
        }
        Ok(())
    }

    fn keep(&mut self, kept: Kept, rule: &Rule<'_>) {
        const ROOM: &str = "because there was room";
        match rule.destination {
            Destination::Domain(name) | Destination::DomainSuffix(name) => {
                self.names.push_str(name).expect(ROOM);
            }
            Destination::Any | Destination::Cidr(_) | Destination::Group(_) => {}
        }
        self.ports.extend_from_slice(rule.ports).expect(ROOM);
        self.rules.push(kept).expect(ROOM);
    }

    /// The rules, in their order.
    pub fn rules(&self) -> impl ExactSizeIterator<Item = Rule<'_>> {
        self.rules.iter().map(|kept| Rule {
            direction: kept.direction,
            destination: match kept.destination {
                KeptDestination::Any => Destination::Any,
                KeptDestination::Cidr(cidr) => Destination::Cidr(cidr),
                KeptDestination::Domain(name) => Destination::Domain(self.name(name)),
                KeptDestination::DomainSuffix(name) => Destination::DomainSuffix(self.name(name)),
                KeptDestination::Group(group) => Destination::Group(group),
            },
            protocols: kept.protocols,
            ports: self.ports.get(kept.ports.range()).unwrap_or(&[]),
            action: kept.action,
            strict: kept.strict.filter(|_| self.profile == Profile::SingleTenant),
        })
    }

    fn name(&self, name: Span) -> &str {
        self.names.get(name.range()).unwrap_or("")
    }

    /// What holds in `direction` where no rule matches.
    #[must_use]
    pub const fn default_of(&self, direction: Direction) -> Permission {
        match direction {
            Direction::Egress => self.default_egress,
            Direction::Ingress => self.default_ingress,
        }
    }
}

/// Whether `name` is one of a host, or of a service (RFC 1035 2.3.4, RFC 2782), in the only form
/// that is compared; else what it is not. No host has another, so a rule with one is a mistake, and
/// one that denies would be none.
fn check_name(name: &str) -> Result<(), &'static str> {
    let is_label = |label: &str| {
        let may = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
        (1..=LABEL_BYTES_MAX).contains(&label.len()) && label.bytes().all(may)
    };
    if name.starts_with("*.") {
        Err("a name: a name and all below it are a domain_suffix, without `*.`")
    } else if name.parse::<IpAddr>().is_ok() {
        Err("a name: an address is a cidr")
    } else if name.len() <= DOMAIN_BYTES_MAX && name.split('.').all(is_label) {
        Ok(())
    } else {
        Err("a name: labels of a-z, 0-9, - and _ (others as xn--), and nothing before or behind")
    }
}
