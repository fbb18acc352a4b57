//! What the platform allows, where a policy is a tenant's.
//!
//! Owns a policy that nobody configures: the public Internet, and the gateway's name server. It is
//! asked beside the tenant's, which can take away from it and add nothing. It has no names, so its
//! answer is never to wait.

use crate::contract::{
    Destination, Direction, Group, Permission, PortRange, Protocol, Protocols, Rule,
};

/// The port of name servers.
const DNS_PORT: u16 = 53;

/// The rules of the platform, after which egress is denied and ingress allowed.
pub(super) fn rules() -> [Rule<'static>; 2] {
    const NAMES: [PortRange; 1] = [PortRange::single(DNS_PORT)];
    let allow = |group, protocols, ports| Rule {
        direction: Some(Direction::Egress),
        destination: Destination::Group(group),
        protocols,
        ports,
        action: Permission::Allow,
        strict: None,
    };
    [
        allow(Group::Host, Protocols::of(&[Protocol::Udp, Protocol::Tcp]), &NAMES),
        allow(Group::Public, Protocols::ALL, &[]),
    ]
}

/// What holds where no rule matches.
pub(super) const fn default_of(direction: Direction) -> Permission {
    match direction {
        Direction::Egress => Permission::Deny,
        Direction::Ingress => Permission::Allow,
    }
}
