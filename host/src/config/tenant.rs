//! A tenant's configuration on a platform that does not trust it.
//!
//! Owns what a tenant may decide of its network; must not know what the platform allows (the
//! core's `rule/platform`). As in microsandbox-network, but that more is not a tenant's to say
//! here: to have as many flows as can be; `strict`; `secrets`; the files of `tls`, and how long a
//! query may take; and where NAT64 is (with a prefix in the platform's private network, its
//! machines would count as public ones).

use sluicegate_core::Profile;

use super::{
    DnsConfig, InterceptCaConfig, InterfaceConfig, NetworkConfig, OutboundConfig, SecretsConfig,
    TlsConfig,
};

/// TCP flows, and UDP flows either way, of a tenant who asks for no number.
const TENANT_FLOWS_DEFAULT: u32 = 1024;

/// A field as a file has it; whether that is not looked at, or only some of what it may say; and
/// whether what was written and what holds differ there, where a number that is not written is a
/// tenant's to leave out.
type Field = (&'static str, Say, fn(&NetworkConfig, &NetworkConfig) -> bool);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Say {
    None,
    Some,
}

/// What a tenant may not say; `ports` are the platform's.
const NOT_A_TENANTS: [Field; 17] = [
    ("interface", Say::None, |a, b| a.interface != b.interface),
    ("max_connections", Say::Some, |a, _| a.max_connections == Some(0)),
    ("max_udp_connections", Say::Some, |a, _| a.max_udp_connections == Some(0)),
    ("max_icmp_connections", Say::Some, |a, _| a.max_icmp_connections == Some(0)),
    ("max_inbound_udp_connections", Say::Some, |a, _| a.max_inbound_udp_connections == Some(0)),
    ("ports", Say::Some, |a, b| a.ports != b.ports),
    ("policy.rules[].strict", Say::Some, |a, _| {
        a.policy.rules.iter().any(|rule| rule.strict == Some(false))
    }),
    ("dns", Say::None, |a, b| a.dns != b.dns),
    ("strict", Say::None, |a, b| a.strict != b.strict),
    ("tls.upstream_ca_cert", Say::None, |a, b| a.tls.upstream_ca_cert != b.tls.upstream_ca_cert),
    ("tls.scoped_upstream_ca_cert", Say::None, |a, b| {
        a.tls.scoped_upstream_ca_cert != b.tls.scoped_upstream_ca_cert
    }),
    ("tls.intercept_ca", Say::None, |a, b| a.tls.intercept_ca != b.tls.intercept_ca),
    ("trust_host_cas", Say::None, |a, b| a.trust_host_cas != b.trust_host_cas),
    ("secrets", Say::None, |a, b| a.secrets != b.secrets),
    ("outbound_proxy", Say::None, |a, b| a.outbound_proxy != b.outbound_proxy),
    ("outbound", Say::None, |a, b| a.outbound != b.outbound),
    ("nat64_prefixes", Say::None, |a, b| a.nat64_prefixes != b.nat64_prefixes),
];

impl NetworkConfig {
    /// The fields that this configuration has not from its file, whatever that says, with a dot
    /// before what is within another: of a tenant those that [`for_tenant`](Self::for_tenant)
    /// drops.
    pub fn dropped(&self) -> impl Iterator<Item = &'static str> {
        let is_tenants = self.profile == Profile::MultiTenant;
        let dropped = NOT_A_TENANTS.into_iter().filter(|(_, say, _)| *say == Say::None);
        dropped.filter(move |_| is_tenants).map(|(field, ..)| field)
    }

    /// The same as a tenant may have it. Whoever runs the platform calls this with what the tenant
    /// wrote, and may change the result, whose fields are the platform's own then.
    ///
    /// - What the tenant's policy allows, the platform must allow too: the public Internet, and the
    ///   gateway's port 53.
    /// - `interface` and `nat64_prefixes` are dropped: addresses follow from the slot. So is `dns`:
    ///   the platform's name servers are asked, and rebinding is looked at.
    /// - `ports`, `outbound_proxy` and `outbound` are dropped, as they are places of this host and
    ///   its network.
    /// - `strict` is true, of all and of each rule.
    /// - Of `tls` the files are dropped, as they are this host's (`intercept_ca`,
    ///   `upstream_ca_cert`, `scoped_upstream_ca_cert`); `trust_host_cas` is false; and `secrets`
    ///   are dropped, which are held against a tenant, not by one.
    /// - There are 1024 TCP flows, 1024 UDP flows and as many of those from outside, where the
    ///   tenant says no other number; `0`, as many as can be, is none.
    ///
    /// What of that was written otherwise is logged as a warning, and is what
    /// [`not_a_tenants`](Self::not_a_tenants) says of the configuration before.
    #[must_use]
    pub fn for_tenant(self) -> Self {
        let kept = self.clone().tenants_part();
        let dropped = self.differing(&kept);
        if !dropped.is_empty() {
            tracing::warn!(fields = dropped.join(", "), "not a tenant's to say, and not so");
        }
        kept
    }

    /// The fields that were written and that [`for_tenant`](Self::for_tenant) makes otherwise, as a
    /// file has them.
    #[must_use]
    pub fn not_a_tenants(&self) -> Vec<&'static str> {
        self.differing(&self.clone().tenants_part())
    }

    fn tenants_part(self) -> Self {
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
            outbound: _,
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
            outbound: OutboundConfig::default(),
            nat64_prefixes: vec![],
            rate_limiter,
            profile: Profile::MultiTenant,
            identity,
        }
    }

    /// What a tenant may not say, and `self` says otherwise than the `kept` part of it.
    fn differing(&self, kept: &Self) -> Vec<&'static str> {
        let differing = NOT_A_TENANTS.into_iter().filter(|(_, _, differs)| differs(self, kept));
        differing.map(|(field, ..)| field).collect()
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

    /// Every field that a tenant may write, written.
    const ALL: &str = r#"{
        "enabled": true, "interface": {"mtu": 9000}, "max_connections": 0, "max_udp_connections": 0,
        "max_icmp_connections": 0, "max_buffered_bytes": 1073741824,
        "ports": [{"host_port": 8080, "guest_port": 80}], "max_inbound_tcp_connections": 0,
        "max_inbound_udp_connections": 0, "tcp_accept_queue_size": 7, "policy": {"rules": [
            {"direction": "egress", "destination": {"domain": "a.test"}, "action": "allow",
                "strict": false}]},
        "dns": {"query_timeout_ms": 7}, "strict": false, "http": {"deny_response": false},
        "tls": {"enabled": true, "intercepted_ports": [8443], "upstream_ca_cert": ["a"],
            "scoped_upstream_ca_cert": [{"pattern": "a.test", "path": "a"}],
            "intercept_ca": {"cert_path": "a", "key_path": "b"}},
        "trust_host_cas": true, "secrets": {"secrets": [
            {"env_var": "A", "value": "v", "allowed_hosts": ["a.test"]}]},
        "outbound_proxy": {"protocol": "socks5", "address": "192.0.2.1:1080"},
        "outbound": {"ipv4_address": "192.0.2.20"},
        "nat64_prefixes": ["fd00:64::/96"],
        "rate_limiter": {"egress": {"ops": {"size": 1, "refill_time_ms": 1}}}}"#;

    #[test]
    fn what_of_a_tenants_word_does_not_hold_is_told_field_by_field() {
        let written = NetworkConfig::from_json(ALL).unwrap();
        assert_eq!(
            written.not_a_tenants(),
            [
                "interface",
                "max_connections",
                "max_udp_connections",
                "max_icmp_connections",
                "max_inbound_udp_connections",
                "ports",
                "policy.rules[].strict",
                "dns",
                "strict",
                "tls.upstream_ca_cert",
                "tls.scoped_upstream_ca_cert",
                "tls.intercept_ca",
                "trust_host_cas",
                "secrets",
                "outbound_proxy",
                "outbound",
                "nat64_prefixes",
            ]
        );
        // And what is not told holds: the file with those fields left out is the same.
        let json: serde_json::Value = serde_json::from_str(ALL).unwrap();
        let mut kept = json.clone();
        for field in written.not_a_tenants() {
            match field.split_once('.') {
                Some(("tls", file)) => drop(kept["tls"].as_object_mut().unwrap().remove(file)),
                Some(_) => {
                    let rule = kept["policy"]["rules"][0].as_object_mut().unwrap();
                    rule.remove("strict");
                }
                None => drop(kept.as_object_mut().unwrap().remove(field)),
            }
        }
        let kept = NetworkConfig::from_json(&kept.to_string()).unwrap();
        assert_eq!(kept.not_a_tenants(), [""; 0]);
        let (mut kept, mut written) = (kept.for_tenant(), written.for_tenant());
        kept.policy.rules.clear();
        written.policy.rules.clear();
        assert_eq!(kept, written);
        assert_eq!(written.max_buffered_bytes, Some(1 << 30));
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
