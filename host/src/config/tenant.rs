//! A tenant's configuration on a platform that does not trust it.
//!
//! Owns what a tenant may decide of its network; must not know what the platform allows (the
//! core's `rule/platform`). As in microsandbox-network, but that two things more are not a tenant's
//! to say: to have as many flows as can be, and where NAT64 is (with a prefix in the platform's
//! private network, its machines would count as public ones).

use sluicegate_core::Profile;

use super::{
    DnsConfig, InterceptCaConfig, InterfaceConfig, NetworkConfig, SecretsConfig, TlsConfig,
};

/// TCP flows, and UDP flows either way, of a tenant who asks for no number.
const TENANT_FLOWS_DEFAULT: u32 = 1024;

/// Fields that a tenant has no say on, by where they are in a file; `ports` are the platform's.
const DROPPED: [&str; 10] = [
    "/interface",
    "/dns",
    "/strict",
    "/trust_host_cas",
    "/secrets",
    "/outbound_proxy",
    "/nat64_prefixes",
    "/tls/upstream_ca_cert",
    "/tls/scoped_upstream_ca_cert",
    "/tls/intercept_ca",
];

impl NetworkConfig {
    /// Where in a file the fields are that this configuration has not from there, whatever the file
    /// says, as JSON pointers: of a tenant those that [`for_tenant`](Self::for_tenant) drops.
    #[must_use]
    pub fn dropped(&self) -> &'static [&'static str] {
        match self.profile {
            Profile::SingleTenant => &[],
            Profile::MultiTenant => &DROPPED,
        }
    }

    /// The same as a tenant may have it. Whoever runs the platform calls this with what the tenant
    /// wrote, and may change the result, whose fields are the platform's own then.
    ///
    /// - What the tenant's policy allows, the platform must allow too: the public Internet, and the
    ///   gateway's port 53.
    /// - `interface` and `nat64_prefixes` are dropped: addresses follow from the slot. So is `dns`:
    ///   the platform's name servers are asked, and rebinding is looked at.
    /// - Of `tls` the files are dropped, as they are this host's; and so are `secrets`, which are
    ///   held against a tenant, not by one.
    /// - There are 1024 TCP flows, 1024 UDP flows and as many of those from outside, where the
    ///   tenant says no other number; `0`, as many as can be, is none.
    #[must_use]
    pub fn for_tenant(self) -> Self {
        // All fields, so that a new one is decided on here.
        let Self {
            enabled,
            interface: _,
            max_connections,
            max_udp_connections,
            max_icmp_connections,
            max_buffered_bytes,
            ports: _,
            max_inbound_tcp_connections,
            max_inbound_udp_connections,
            tcp_accept_queue_size,
            policy,
            dns: _,
            strict: _,
            http,
            tls,
            trust_host_cas: _,
            secrets: _,
            outbound_proxy: _,
            nat64_prefixes: _,
            rate_limiter,
            profile: _,
            identity,
        } = self;
        let asked = |flows: Option<u32>| flows.filter(|flows| *flows > 0);
        Self {
            enabled,
            interface: InterfaceConfig::default(),
            max_connections: asked(max_connections).or(Some(TENANT_FLOWS_DEFAULT)),
            max_udp_connections: asked(max_udp_connections).or(Some(TENANT_FLOWS_DEFAULT)),
            max_icmp_connections: asked(max_icmp_connections),
            max_buffered_bytes,
            ports: vec![],
            max_inbound_tcp_connections,
            max_inbound_udp_connections: asked(max_inbound_udp_connections)
                .or(Some(TENANT_FLOWS_DEFAULT)),
            tcp_accept_queue_size,
            policy,
            dns: DnsConfig::default(),
            strict: true,
            http,
            tls: TlsConfig {
                // Paths of this host are not a tenant's to read.
                upstream_ca_cert: vec![],
                scoped_upstream_ca_cert: vec![],
                intercept_ca: InterceptCaConfig::default(),
                ..tls
            },
            trust_host_cas: false,
            secrets: SecretsConfig::default(),
            outbound_proxy: None,
            nat64_prefixes: vec![],
            rate_limiter,
            profile: Profile::MultiTenant,
            identity,
        }
    }

    /// Whose word this is.
    #[must_use]
    pub const fn profile(&self) -> Profile {
        self.profile
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluicegate_core::{Permission, limits};

    fn of_tenant(json: &str) -> NetworkConfig {
        NetworkConfig::from_json(json).unwrap().for_tenant()
    }

    #[test]
    fn a_tenant_decides_its_policy_and_numbers_of_flows_and_no_more() {
        let written = r#"{
            "interface": {"mac": "02:00:00:00:00:09", "mtu": 9000, "ipv4_address": "10.0.0.2",
                "ipv6_pool": "fd00::/48", "receive_frame_bytes": 9014},
            "max_connections": 7, "max_udp_connections": 0, "max_icmp_connections": 0,
            "max_inbound_udp_connections": 0,
            "policy": {"default_egress": "allow"}, "nat64_prefixes": ["fd00:64::/96"],
            "dns": {"nameservers": ["10.0.0.53"], "rebind_protection": false}}"#;
        assert_eq!(of_tenant(written).dns, DnsConfig::default());
        let core = of_tenant(written).to_core(3, [0; 16]).unwrap();
        assert!(core.rebind_protection);
        let untouched = NetworkConfig::default().to_core(3, [0; 16]).unwrap();
        assert_eq!(core.link, untouched.link);
        assert_eq!(core.nat64_prefixes, [""; 0].map(|_| core.link.guest_ipv6));
        let flows = (core.tcp_flows_max, core.udp_flows_max, core.icmp_flows_max);
        assert_eq!(flows, (7, 1024, limits::ICMP_FLOWS_DEFAULT));
        assert_eq!(core.inbound_udp_flows_max, 1024);
        assert_eq!(core.policy.default_egress, Permission::Allow);
        assert_eq!(core.policy.profile, Profile::MultiTenant);
        let core = of_tenant("{}").to_core(3, [0; 16]).unwrap();
        assert_eq!((core.tcp_flows_max, core.udp_flows_max), (1024, 1024));
    }

    #[test]
    fn nobody_becomes_or_ceases_to_be_a_tenant_by_what_a_file_says() {
        let file = NetworkConfig::from_json("{}").unwrap();
        assert_eq!(file.profile(), Profile::SingleTenant);
        assert_eq!(file.to_core(0, [0; 16]).unwrap().policy.profile, Profile::SingleTenant);
        assert!(NetworkConfig::from_json(r#"{"profile": "single_tenant"}"#).is_err());
        let policy = r#"{"policy": {"profile": "single_tenant"}}"#;
        assert!(NetworkConfig::from_json(policy).is_err());
    }

    #[test]
    fn the_platform_may_change_what_it_made_of_a_tenants_word() {
        let mut config = of_tenant(r#"{"interface": {"mtu": 9000}}"#);
        config.interface.mtu = Some(1400);
        assert_eq!(config.to_core(0, [0; 16]).unwrap().link.mtu, 1400);
    }
}
