//! What an address is: the groups that it is in, and the IPv4 address that it stands for.
//!
//! Owns the tables of addresses; must not know rules. A rule that allows and one that denies read
//! an address differently where its nature is not plain, so that no rule allows more than its words
//! promise, and none denies less than they do.
//!
//! **To allow**, an address is in one group or in none; the first line that holds counts:
//!
//! 1. the gateway's two addresses, as they are: `host`;
//! 2. what stands for an IPv4 address is what that one is: v4-mapped (RFC 4291 2.5.5.2) and behind
//!    NAT64 (RFC 6052 2.1: the well-known prefix and configured ones);
//! 3. `metadata`: the addresses of [`METADATA`];
//! 4. `loopback`, `private`, `link_local`, `multicast`: the networks of their names;
//! 5. none: the addresses of [`SPECIAL_V4`] and [`SPECIAL_V6`], what is not global unicast at all,
//!    and this host's own addresses, on which its services listen;
//! 6. `public`: the rest.
//!
//! **To deny**, it is in that group, and besides
//!
//! - in the group that it would be in if lines 3 and 5 knew 169.254.169.254 only, which is how
//!   microsandbox-network sees it: `private` denies 100.100.100.200 as well, `link_local`
//!   169.254.170.2, and `public` all that is in no other group;
//! - in the groups of the IPv4 address that is within a 6to4 address (RFC 3056): whoever answers
//!   there is not that address, so this allows nothing, but a relay may pass it on.
//!
//! So whatever a policy lets out here, it lets out there, but for the addresses that `metadata` has
//! gained, which are what a rule for that group means.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::contract::{Cidr, Group, Permission};

/// Where clouds tell a machine who it is, credentials included: AWS, Google, Azure and most others;
/// AWS for containers, and for those of EKS; Alibaba; Azure's host agent; Oracle's first
/// generation; AWS over IPv6, and EKS; Google over IPv6.
const METADATA: [Cidr; 9] = [
    Cidr::v4([169, 254, 169, 254], 32),
    Cidr::v4([169, 254, 170, 2], 32),
    Cidr::v4([169, 254, 170, 23], 32),
    Cidr::v4([100, 100, 100, 200], 32),
    Cidr::v4([168, 63, 129, 16], 32),
    Cidr::v4([192, 0, 0, 192], 32),
    Cidr::v6([0xfd00, 0xec2, 0, 0], [0, 0, 0, 0x254], 128),
    Cidr::v6([0xfd00, 0xec2, 0, 0], [0, 0, 0, 0x23], 128),
    Cidr::v6([0xfd20, 0xce, 0, 0], [0, 0, 0, 0x254], 128),
];

/// Private (RFC 1918), shared (RFC 6598) and unique local addresses (RFC 4193).
const PRIVATE: [Cidr; 5] = [
    Cidr::v4([10, 0, 0, 0], 8),
    Cidr::v4([172, 16, 0, 0], 12),
    Cidr::v4([192, 168, 0, 0], 16),
    Cidr::v4([100, 64, 0, 0], 10),
    Cidr::v6([0xfc00, 0, 0, 0], [0; 4], 7),
];

/// The one address of those that microsandbox-network knows.
const METADATA_FIRST: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// The special-purpose addresses of IPv4 that are in no group: RFC 6890 2.2.2, and what its
/// registry has gained since. Those that are globally reachable are among them: nobody's server is
/// there.
const SPECIAL_V4: [Cidr; 11] = [
    Cidr::v4([0, 0, 0, 0], 8),       // "this network", RFC 791 3.2
    Cidr::v4([192, 0, 0, 0], 24),    // IETF protocol assignments, RFC 6890 2.1
    Cidr::v4([192, 0, 2, 0], 24),    // documentation, RFC 5737
    Cidr::v4([192, 31, 196, 0], 24), // AS112, RFC 7535
    Cidr::v4([192, 52, 193, 0], 24), // AMT relays, RFC 7450
    Cidr::v4([192, 88, 99, 0], 24),  // 6to4 relays, RFC 7526
    Cidr::v4([192, 175, 48, 0], 24), // AS112, RFC 7534
    Cidr::v4([198, 18, 0, 0], 15),   // benchmarks, RFC 2544
    Cidr::v4([198, 51, 100, 0], 24), // documentation, RFC 5737
    Cidr::v4([203, 0, 113, 0], 24),  // documentation, RFC 5737
    Cidr::v4([240, 0, 0, 0], 4),     // reserved and limited broadcast, RFC 1112 4, RFC 919 7
];

/// What IANA gives out as global unicast (RFC 3587 3). Beyond it are, of RFC 6890 2.2.3 and its
/// registry: ::/128 and ::1/128, v4-mapped and v4-compatible addresses, 64:ff9b::/96,
/// 64:ff9b:1::/48 (RFC 8215), 100::/64 (RFC 6666), 5f00::/16 (RFC 9602), fc00::/7, fe80::/10.
const GLOBAL_UNICAST_V6: Cidr = Cidr::v6([0x2000, 0, 0, 0], [0; 4], 3);

/// The special-purpose addresses of IPv6 within global unicast: RFC 6890 2.2.3 and its registry.
const SPECIAL_V6: [Cidr; 5] = [
    Cidr::v6([0x2001, 0, 0, 0], [0; 4], 23), // IETF assignments: Teredo, benchmarks, ORCHID, AMT
    Cidr::v6([0x2001, 0xdb8, 0, 0], [0; 4], 32), // documentation, RFC 3849
    Cidr::v6([0x2002, 0, 0, 0], [0; 4], 16), // 6to4, RFC 3056
    Cidr::v6([0x2620, 0x4f, 0x8000, 0], [0; 4], 48), // AS112, RFC 7534
    Cidr::v6([0x3fff, 0, 0, 0], [0; 4], 20), // documentation, RFC 9637
];

/// The well-known prefix of NAT64 (RFC 6052 2.1).
const NAT64_WELL_KNOWN: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);

/// What is known of the place where a policy is asked; lent for a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site<'s> {
    /// The gateway's addresses.
    pub gateways: [IpAddr; 2],
    /// This host's own addresses; those that would not be `public` anyway may be left out. `None`:
    /// they are not known, so any address may be one, and to allow none is `public`.
    pub own: Option<&'s [IpAddr]>,
    /// NAT64 prefixes of 96 bits, beside the well-known one.
    pub nat64: &'s [Ipv6Addr],
}

impl Site<'_> {
    /// What `address` is here.
    ///
    /// # Cost
    /// Some twenty comparisons, and one for each of this host's addresses.
    #[must_use]
    pub fn place(&self, address: IpAddr) -> Place {
        let (translated, tunnelled) = match address {
            IpAddr::V4(_) => (None, None),
            IpAddr::V6(v6) => (self.translated(v6), tunnelled(v6)),
        };
        if self.gateways.contains(&address) {
            let host = Some(Group::Host);
            return Place { address, translated, tunnelled, to_allow: host, to_deny: [host; 4] };
        }
        let itself = translated.map_or(address, IpAddr::V4);
        let to_allow = self.strictly(itself);
        let within = tunnelled.map(IpAddr::V4);
        let to_deny = [
            to_allow,
            by_network(itself),
            within.and_then(|v4| self.strictly(v4)),
            within.and_then(by_network),
        ];
        Place { address, translated, tunnelled, to_allow, to_deny }
    }

    /// Whether `address` is one of this host's own, or stands for one; they are known.
    #[must_use]
    pub fn is_own(&self, address: IpAddr) -> bool {
        let itself = match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(v6) => self.translated(v6).map_or(address, IpAddr::V4),
        };
        self.own.is_some_and(|own| own.contains(&itself))
    }

    /// Lines 3 to 6 of the module.
    fn strictly(&self, address: IpAddr) -> Option<Group> {
        let is_in = |table: &[Cidr]| table.iter().any(|network| network.contains(address));
        if is_in(&METADATA) {
            return Some(Group::Metadata);
        }
        let is_special = match address {
            IpAddr::V4(_) => is_in(&SPECIAL_V4),
            IpAddr::V6(_) => !GLOBAL_UNICAST_V6.contains(address) || is_in(&SPECIAL_V6),
        };
        let is_own = || self.own.is_none_or(|own| own.contains(&address));
        let is_nobodys = || is_special || is_own();
        by_network(address).filter(|group| *group != Group::Public || !is_nobodys())
    }

    /// The IPv4 address that a translator makes of `address`.
    fn translated(&self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        let (network, v4) = (address.to_bits() >> 32, low_32(address.to_bits()));
        let mut prefixes = self.nat64.iter().chain([&NAT64_WELL_KNOWN]);
        let is_nat64 = prefixes.any(|prefix| prefix.to_bits() >> 32 == network);
        address.to_ipv4_mapped().or(is_nat64.then_some(v4))
    }
}

/// The group of `address` by its network alone, as microsandbox-network has it.
fn by_network(address: IpAddr) -> Option<Group> {
    let is_link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if address.is_unspecified() {
        None
    } else if address == METADATA_FIRST {
        Some(Group::Metadata)
    } else if address.is_loopback() {
        Some(Group::Loopback)
    } else if PRIVATE.iter().any(|network| network.contains(address)) {
        Some(Group::Private)
    } else if is_link_local {
        Some(Group::LinkLocal)
    } else if address.is_multicast() {
        Some(Group::Multicast)
    } else {
        Some(Group::Public)
    }
}

/// The IPv4 address within a 6to4 address (RFC 3056 2: 2002:V4ADDR::/48).
fn tunnelled(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [first, ..] = address.segments();
    (first == 0x2002).then(|| low_32(address.to_bits() >> 80))
}

fn low_32(bits: u128) -> Ipv4Addr {
    #[allow(clippy::cast_possible_truncation, reason = "the rest is not asked for")]
    Ipv4Addr::from_bits(bits as u32)
}

/// What an address is, for rules of either kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    address: IpAddr,
    translated: Option<Ipv4Addr>,
    tunnelled: Option<Ipv4Addr>,
    to_allow: Option<Group>,
    to_deny: [Option<Group>; 4],
}

impl Place {
    /// The one group that a rule which allows finds the address in, if any.
    #[must_use]
    pub const fn group(&self) -> Option<Group> {
        self.to_allow
    }

    /// Whether a rule for `group` that does `action` is about the address.
    #[must_use]
    pub fn is_in_group(&self, group: Group, action: Permission) -> bool {
        match action {
            Permission::Allow => self.to_allow == Some(group),
            Permission::Deny => self.to_deny.contains(&Some(group)),
        }
    }

    /// Whether a rule for `network` that does `action` is about the address.
    #[must_use]
    pub fn is_in_network(&self, network: &Cidr, action: Permission) -> bool {
        let has = |v4: Option<Ipv4Addr>| v4.is_some_and(|v4| network.contains(v4.into()));
        network.contains(self.address)
            || has(self.translated)
            || (action == Permission::Deny && has(self.tunnelled))
    }
}
