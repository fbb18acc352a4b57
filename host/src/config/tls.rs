//! `tls`: at which ports TLS ends at the gateway, for whom it does not, and whom the gateway
//! trusts.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};
use sluicegate_core::{ConfigError, limits};

use super::host::HostPattern;

/// An authority's file is at most this long.
const PEM_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Certificates that are kept where nothing is configured.
const CAPACITY_DEFAULT: usize = 1000;

/// How TLS is intercepted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// Whether it is at all. The guest must trust the gateway's authority then
    /// ([`ca_cert_pem`](crate::SmoltcpNetwork::ca_cert_pem)).
    pub enabled: bool,
    /// The TCP ports at which it is.
    pub intercepted_ports: Vec<u16>,
    /// Servers whose handshakes pass untouched, by the name that the guest says; where that is not
    /// known to lead to the server's address they do not.
    pub bypass: Vec<HostPattern>,
    /// Whether servers must prove their names.
    pub verify_upstream: bool,
    /// Whether QUIC at the intercepted ports is refused, so that clients take TCP.
    pub block_quic_on_intercept: bool,
    /// Files of authorities (PEM) that are trusted beside this host's.
    pub upstream_ca_cert: Vec<PathBuf>,
    /// The same, for some servers only.
    #[serde(alias = "scoped_upstream_ca_certs")]
    pub scoped_upstream_ca_cert: Vec<ScopedCaConfig>,
    /// Exceptions from `verify_upstream`; the narrowest pattern decides.
    pub scoped_verify_upstream: Vec<ScopedVerifyConfig>,
    /// The authority that signs in the servers' place; without one it is made, in memory.
    #[serde(alias = "ca")]
    pub intercept_ca: InterceptCaConfig,
    /// The certificates that were made.
    pub cache: LeafCacheConfig,
}

/// An authority for some servers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScopedCaConfig {
    /// The servers.
    pub pattern: HostPattern,
    /// The authority's file, PEM.
    pub path: PathBuf,
}

/// Whether some servers must prove their names.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScopedVerifyConfig {
    /// The servers.
    pub pattern: HostPattern,
    /// Whether they must.
    pub verify: bool,
}

/// Where the authority is that signs in the servers' place: both files, or none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InterceptCaConfig {
    /// Its certificate, PEM. If neither file is there, they are made.
    pub cert_path: Option<PathBuf>,
    /// Its key, PEM.
    pub key_path: Option<PathBuf>,
}

/// How many certificates are kept, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LeafCacheConfig {
    /// Certificates; a file's 0 is the default.
    #[serde(deserialize_with = "capacity")]
    pub capacity: usize,
    /// Hours that each is valid.
    pub validity_hours: u64,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            intercepted_ports: vec![limits::HTTPS_PORT],
            bypass: vec![],
            verify_upstream: true,
            block_quic_on_intercept: true,
            upstream_ca_cert: vec![],
            scoped_upstream_ca_cert: vec![],
            scoped_verify_upstream: vec![],
            intercept_ca: InterceptCaConfig::default(),
            cache: LeafCacheConfig::default(),
        }
    }
}

impl Default for LeafCacheConfig {
    fn default() -> Self {
        Self { capacity: CAPACITY_DEFAULT, validity_hours: 24 }
    }
}

/// As the peer reads it, to whom 0 is its default.
fn capacity<'de, D: Deserializer<'de>>(json: D) -> Result<usize, D::Error> {
    let written = usize::deserialize(json)?;
    Ok(if written == 0 { CAPACITY_DEFAULT } else { written })
}

impl TlsConfig {
    /// Checks every range.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |field, value: u64, expected| Err(ConfigError::new(field, value, expected));
        match &self.intercept_ca {
            InterceptCaConfig { cert_path: Some(_), key_path: Some(_) }
            | InterceptCaConfig { cert_path: None, key_path: None } => {}
            InterceptCaConfig { cert_path: Some(path), key_path: None } => {
                let expected = "of use without tls.intercept_ca.key_path";
                return Err(ConfigError::new(
                    "tls.intercept_ca.cert_path",
                    path.display(),
                    expected,
                ));
            }
            InterceptCaConfig { cert_path: None, key_path: Some(path) } => {
                let expected = "of use without tls.intercept_ca.cert_path";
                return Err(ConfigError::new(
                    "tls.intercept_ca.key_path",
                    path.display(),
                    expected,
                ));
            }
        }
        if !(1..=100_000).contains(&self.cache.capacity) {
            let value = self.cache.capacity as u64;
            return wrong("tls.cache.capacity", value, "between 1 and 100000");
        }
        let hours = self.cache.validity_hours;
        if !(1..=8760).contains(&hours) {
            return wrong("tls.cache.validity_hours", hours, "between 1 and 8760 (a year)");
        }
        if self.bypass.contains(&HostPattern::Any) {
            let expected = "a host name, or `*.` and a name: without `tls.enabled` nothing is \
                intercepted";
            return Err(ConfigError::new("tls.bypass", "*", expected));
        }
        let verified = self.scoped_verify_upstream.iter().map(|scoped| &scoped.pattern);
        let trusted = self.scoped_upstream_ca_cert.iter().map(|scoped| &scoped.pattern);
        if verified.chain(trusted).any(|host| *host == HostPattern::Any) {
            let expected = "a host name, or `*.` and a name: for all servers there are \
                `tls.verify_upstream` and `tls.upstream_ca_cert`";
            return Err(ConfigError::new("tls.scoped_*", "*", expected));
        }
        let is_taken = |port: &u16| [0, limits::DNS_PORT].contains(port);
        if let Some(port) = self.intercepted_ports.iter().find(|port| is_taken(port)) {
            let expected = "a port at which TLS is spoken";
            return wrong("tls.intercepted_ports", u64::from(*port), expected);
        }
        Ok(())
    }

    /// The ports at which the engine lets the host answer.
    pub(super) fn ports<P: for<'p> TryFrom<&'p [u16]>>(&self) -> Result<P, ConfigError> {
        let ports = if self.enabled { self.intercepted_ports.as_slice() } else { &[] };
        let too_many =
            || ConfigError::new("tls.intercepted_ports", ports.len(), "at most 16 ports");
        P::try_from(ports).map_err(|_| too_many())
    }
}

/// The text of the file at `path`.
///
/// # Errors
/// It can't be read, or is longer than an authority's file can be.
pub(crate) fn read_pem(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut pem = Vec::new();
    std::fs::File::open(path)?.take(PEM_BYTES_MAX + 1).read_to_end(&mut pem)?;
    if pem.len() as u64 > PEM_BYTES_MAX {
        return Err(std::io::Error::other("it is longer than 4 MiB"));
    }
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use crate::config::NetworkConfig;

    #[test]
    fn a_cache_of_none_is_the_default_as_with_the_peer() {
        let text = r#"{"tls": {"cache": {"capacity": 0}}}"#;
        assert_eq!(NetworkConfig::from_json(text).unwrap(), NetworkConfig::default());
    }

    #[test]
    fn a_pattern_of_some_servers_is_not_one_of_all() {
        let scoped = |more: &str| format!(r#"[{{"pattern": "any", {more}}}]"#);
        for (field, value, way_out) in [
            ("bypass", r#"["a.test", "*"]"#.to_owned(), "tls.enabled"),
            ("scoped_verify_upstream", scoped(r#""verify": false"#), "tls.verify_upstream"),
            ("scoped_upstream_ca_cert", scoped(r#""path": "/a.pem""#), "tls.upstream_ca_cert"),
        ] {
            let text = format!(r#"{{"tls": {{"enabled": true, "{field}": {value}}}}}"#);
            let config = NetworkConfig::from_json(&text).unwrap();
            let error = config.to_core(0, [0; 16]).unwrap_err().to_string();
            assert!(error.contains("* is not a host name") && error.contains(way_out), "{error}");
        }
    }
}
