//! How names are resolved, as the user wants it.
//!
//! Owns the bounds of waiting; must not know how servers are asked, nor their forms
//! (`nameserver`).

use std::path::PathBuf;

use serde::Deserialize;
use sluicegate_core::ConfigError;

use super::nameserver::NameServer;

/// Name servers that may be configured.
const SERVERS_MAX: usize = 8;
/// The longest that a guest may be kept waiting, in milliseconds.
const TIMEOUT_MS_MAX: u64 = 60_000;

/// How names are resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsConfig {
    /// Whether names outside may lead to public addresses only, but for those of which a rule by
    /// network or group says that they may be reached.
    pub rebind_protection: bool,
    /// Who is asked, in this order; empty: this host's own name servers.
    pub nameservers: Vec<NameServer>,
    /// Files of authorities (PEM) that servers over TLS and HTTPS are believed by, beside this
    /// host's.
    pub upstream_ca_cert: Vec<PathBuf>,
    /// How long a query may take, in milliseconds.
    pub query_timeout_ms: u64,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            rebind_protection: true,
            nameservers: vec![],
            upstream_ca_cert: vec![],
            query_timeout_ms: 5000,
        }
    }
}

impl DnsConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.nameservers.len() > SERVERS_MAX {
            let count = self.nameservers.len();
            return Err(ConfigError::new("dns.nameservers", count, "at most 8 servers"));
        }
        if !(1..=TIMEOUT_MS_MAX).contains(&self.query_timeout_ms) {
            let expected = "between 1 and 60000";
            return Err(ConfigError::new("dns.query_timeout_ms", self.query_timeout_ms, expected));
        }
        Ok(())
    }
}

/// The same as it is written.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct DnsFile {
    rebind_protection: Option<bool>,
    nameservers: Option<Vec<NameServer>>,
    upstream_ca_cert: Option<Vec<PathBuf>>,
    query_timeout_ms: Option<u64>,
}

impl From<DnsFile> for DnsConfig {
    fn from(file: DnsFile) -> Self {
        let default = Self::default();
        Self {
            rebind_protection: file.rebind_protection.unwrap_or(default.rebind_protection),
            nameservers: file.nameservers.unwrap_or_default(),
            upstream_ca_cert: file.upstream_ca_cert.unwrap_or_default(),
            query_timeout_ms: file.query_timeout_ms.unwrap_or(default.query_timeout_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::NetworkConfig;

    fn load(dns: &str) -> Result<NetworkConfig, String> {
        NetworkConfig::from_json(&format!(r#"{{"dns": {dns}}}"#)).map_err(|error| error.to_string())
    }

    #[test]
    fn servers_have_port_53_unless_it_is_said() {
        let text = r#"{"nameservers": ["192.0.2.1", "192.0.2.1:5353", "2001:db8::1",
            "[2001:db8::1]:54"], "query_timeout_ms": 100, "rebind_protection": false}"#;
        let dns = load(text).unwrap().dns;
        let servers: Vec<_> = dns.nameservers.iter().map(ToString::to_string).collect();
        let expected = ["192.0.2.1:53", "192.0.2.1:5353", "[2001:db8::1]:53", "[2001:db8::1]:54"];
        assert_eq!(servers, expected);
        assert_eq!((dns.query_timeout_ms, dns.rebind_protection), (100, false));
    }

    #[test]
    fn null_is_the_default() {
        let nothing =
            r#"{"nameservers": null, "query_timeout_ms": null, "rebind_protection": null}"#;
        assert_eq!(load(nothing).unwrap(), NetworkConfig::default());
    }

    #[test]
    fn what_is_no_server_or_no_time_is_refused() {
        for wrong in ["quic://dns.example", "192.0.2.300", "192.0.2.1:", ""] {
            let error = load(&format!(r#"{{"nameservers": ["{wrong}"]}}"#)).unwrap_err();
            assert!(error.starts_with("dns.nameservers[0]: "), "{error}");
        }
        for (dns, expected) in [
            (r#"{"query_timeout_ms": 0}"#, "dns.query_timeout_ms: 0 is not between 1 and 60000"),
            (
                r#"{"nameservers": ["::1","::1","::1","::1","::1","::1","::1","::1","::1"]}"#,
                "dns.nameservers: 9 is not at most 8 servers",
            ),
        ] {
            let error = load(dns).unwrap().to_core(0, [0; 16]).unwrap_err().to_string();
            assert!(error.ends_with(expected), "{error}");
        }
    }
}
