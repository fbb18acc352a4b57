//! The configuration as it is written: every name that microsandbox-network knows, and every one is
//! served.
//!
//! Owns what may be said; must not know what the fields mean. An unknown or a repeated member is
//! refused in every object, so that no value hides another.

use std::net::Ipv6Addr;

use serde::Deserialize;
use sluicegate_core::Profile;

use super::dns::DnsFile;
use super::ports::ACCEPT_QUEUE_DEFAULT;
use super::rules::{PolicyFile, nat64};
use super::{
    HttpConfig, InterfaceConfig, NetworkConfig, OutboundConfig, PolicyConfig, PortConfig,
    ProxyConfig, RateLimiterConfig, SecretsConfig, TlsConfig,
};
use crate::error::LoadError;

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    #[serde(default = "enabled")]
    enabled: bool,
    interface: InterfaceConfig,
    #[serde(alias = "max_tcp_connections")]
    max_connections: Option<u32>,
    max_udp_connections: Option<u32>,
    max_icmp_connections: Option<u32>,
    max_buffered_bytes: Option<u64>,
    #[serde(deserialize_with = "super::ports::read")]
    ports: Vec<PortConfig>,
    max_inbound_tcp_connections: Option<u32>,
    max_inbound_udp_connections: Option<u32>,
    tcp_accept_queue_size: Option<u32>,
    policy: Option<PolicyFile>,
    #[serde(deserialize_with = "nat64")]
    nat64_prefixes: Vec<Ipv6Addr>,
    dns: Option<DnsFile>,
    strict: Option<bool>,
    http: Option<HttpConfig>,
    rate_limiter: Option<RateLimiterConfig>,
    tls: Option<TlsConfig>,
    secrets: Option<SecretsConfig>,
    trust_host_cas: Option<bool>,
    outbound_proxy: Option<ProxyConfig>,
    outbound: OutboundConfig,
}

/// A file that says nothing of it wants a network.
fn enabled() -> bool {
    true
}

impl File {
    /// The configuration.
    pub(super) fn check(self) -> Result<NetworkConfig, LoadError> {
        Ok(NetworkConfig {
            enabled: self.enabled,
            interface: self.interface,
            max_connections: self.max_connections,
            max_udp_connections: self.max_udp_connections,
            max_icmp_connections: self.max_icmp_connections,
            max_buffered_bytes: self.max_buffered_bytes,
            ports: self.ports,
            max_inbound_tcp_connections: self.max_inbound_tcp_connections,
            max_inbound_udp_connections: self.max_inbound_udp_connections,
            tcp_accept_queue_size: self.tcp_accept_queue_size.unwrap_or(ACCEPT_QUEUE_DEFAULT),
            policy: match self.policy {
                Some(policy) => policy.into_policy(),
                None => PolicyConfig::default(),
            },
            dns: self.dns.unwrap_or_default().into(),
            nat64_prefixes: self.nat64_prefixes,
            strict: self.strict.unwrap_or(true),
            http: self.http.unwrap_or_default(),
            tls: self.tls.unwrap_or_default(),
            trust_host_cas: self.trust_host_cas.unwrap_or(false),
            secrets: self.secrets.unwrap_or_default(),
            outbound_proxy: self.outbound_proxy,
            outbound: self.outbound,
            rate_limiter: self.rate_limiter.map(RateLimiterConfig::check).transpose()?,
            profile: Profile::SingleTenant,
            identity: None,
        })
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn load(text: &str) -> Result<NetworkConfig, String> {
        NetworkConfig::from_json(text).map_err(|error| error.to_string())
    }

    /// What microsandbox-network 0.7.13 writes of its default with every section made, and the
    /// members that it leaves out when they are unset.
    const PEER: &str = r#"{
        "enabled": true,
        "interface": {"mac": [2, 0, 0, 0, 0, 9], "mtu": null, "ipv4_address": null,
            "ipv4_pool": "10.0.0.0/8", "ipv6_address": null, "ipv6_pool": null},
        "ports": [],
        "dns": {"rebind_protection": true, "nameservers": [], "query_timeout_ms": 5000},
        "tls": {"enabled": false, "intercepted_ports": [443], "bypass": [],
            "verify_upstream": true, "block_quic_on_intercept": true, "upstream_ca_cert": [],
            "scoped_upstream_ca_cert": [], "scoped_verify_upstream": [],
            "intercept_ca": {"cert_path": null, "key_path": null},
            "cache": {"capacity": 1000, "validity_hours": 24}},
        "strict": true,
        "secrets": {"secrets": [], "violation_action": "block-and-log", "passthrough_hosts": null},
        "max_connections": null, "max_inbound_tcp_connections": null, "max_udp_connections": null,
        "tcp_accept_queue_size": 1024, "rate_limiter": null, "nat64_prefixes": ["64:ff9b::/96"],
        "trust_host_cas": false,
        "http": {"deny_response": true, "deny_response_format": "json", "deny_message": null,
            "network_deny_message": null, "secret_deny_message": null},
        "outbound_proxy": null}"#;

    #[test]
    fn the_peers_defaults_written_out_load_as_the_default() {
        let config = load(PEER).unwrap();
        let interface = InterfaceConfig {
            mac: Some([2, 0, 0, 0, 0, 9]),
            ipv4_pool: Some(("10.0.0.0".parse().unwrap(), 8)),
            ..InterfaceConfig::default()
        };
        assert_eq!(config, NetworkConfig { interface, ..NetworkConfig::default() });
    }

    #[test]
    fn nothing_hides_in_an_object_that_is_not_served() {
        for (text, expected) in [
            (r#"{"tls": {"bypas": []}}"#, "tls.bypas: unknown field"),
            (r#"{"tls": {"zzz": null}}"#, "tls.zzz: unknown field `zzz`"),
            (r#"{"dns": false}"#, "dns: invalid type"),
            (r#"{"policy": {"rules": {}}}"#, "policy.rules: invalid type: map"),
            (r#"{"tls": {"enabled": true, "enabled": false}}"#, "duplicate field `enabled`"),
            (r#"{"secrets": {"secrets": [], "secrets": []}}"#, "duplicate field `secrets`"),
            (r#"{"secrets": {"secrets": [{"env_var": "A", "valeu": "v"}]}}"#, "valeu"),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
