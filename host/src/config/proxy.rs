//! `outbound_proxy`: through whom the guest's connections go on.
//!
//! Owns how it is written, which is how microsandbox-network writes it, and two fields more; must
//! not know how a proxy is spoken to.

use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use sluicegate_core::{Cidr, ConfigError};

use super::host::HostPattern;
use super::secrets::SecretSource;

/// Bytes of the longest user, password and user id (RFC 1929 2).
pub(crate) const CREDENTIAL_BYTES_MAX: usize = 255;
/// Places that may be reached without the proxy.
const EXCEPTIONS_MAX: usize = 256;

/// Through whom connections go on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyConfig {
    /// What it speaks.
    pub protocol: ProxyProtocol,
    /// Where it is.
    pub address: SocketAddr,
    /// Who asks, as SOCKS4 has it.
    #[serde(default)]
    pub user_id: Option<String>,
    /// Who asks, as the others have it.
    #[serde(default)]
    pub credentials: Option<ProxyCredentials>,
    /// Places that are reached without it.
    #[serde(default)]
    pub no_proxy: Vec<ProxyException>,
    /// Whether it is told the names that rules by name allowed, where one is known for sure, so
    /// that it resolves them itself; else always addresses.
    #[serde(default = "yes")]
    pub send_names: bool,
}

fn yes() -> bool {
    true
}

/// What a proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocol {
    /// HTTP's CONNECT (RFC 9110 9.3.6).
    HttpConnect,
    /// SOCKS version 4, which knows addresses of IPv4 only.
    Socks4,
    /// SOCKS version 5 (RFC 1928).
    Socks5,
}

/// A user and where its password is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyCredentials {
    /// The user.
    pub username: String,
    /// The password.
    pub password: SecretSource,
}

/// A place that is reached without the proxy: `10.0.0.0/8`, `192.0.2.1`, `example.com`,
/// `*.example.com`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyException {
    /// Addresses.
    Network(Cidr),
    /// Names.
    Host(HostPattern),
}

impl FromStr for ProxyException {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = "a network, an address, a host name, or `*.` and a name";
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let Ok(address) = address.parse::<std::net::IpAddr>() else {
            return text.parse().map(Self::Host).map_err(|_| expected);
        };
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(all), str::parse).map_err(|_| expected)?;
        Cidr::new(address, bits).map(Self::Network).ok_or(expected)
    }
}

impl<'de> Deserialize<'de> for ProxyException {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        let text = String::deserialize(json)?;
        text.parse()
            .map_err(|expected| serde::de::Error::custom(format!("{text:?} is not {expected}")))
    }
}

impl ProxyConfig {
    /// A proxy at `address` that asks for nothing.
    #[must_use]
    pub fn new(protocol: ProxyProtocol, address: SocketAddr) -> Self {
        Self {
            protocol,
            address,
            user_id: None,
            credentials: None,
            no_proxy: vec![],
            send_names: true,
        }
    }

    /// Checks what the types let through.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |field, value: &str, expected| Err(ConfigError::new(field, value, expected));
        let is_socks4 = self.protocol == ProxyProtocol::Socks4;
        if self.address.port() == 0 {
            return wrong("outbound_proxy.address", "port 0", "an address and a port");
        }
        if self.no_proxy.len() > EXCEPTIONS_MAX {
            let count = self.no_proxy.len().to_string();
            return wrong("outbound_proxy.no_proxy", &count, "at most 256 places");
        }
        let fits = |text: &str| (1..=CREDENTIAL_BYTES_MAX).contains(&text.len());
        if let Some(id) = &self.user_id {
            let expected = "with socks4 only, 1 to 255 bytes without NUL";
            if !is_socks4 || !fits(id) || id.contains('\0') {
                return wrong("outbound_proxy.user_id", id, expected);
            }
        }
        let Some(credentials) = &self.credentials else { return Ok(()) };
        let user = &credentials.username;
        if is_socks4 {
            let expected = "left out with socks4, which knows a user_id only";
            return wrong("outbound_proxy.credentials", "a user", expected);
        }
        let is_basic = self.protocol == ProxyProtocol::HttpConnect;
        if !fits(user) || is_basic && (user.contains(':') || user.contains(char::is_control)) {
            let expected = "1 to 255 bytes, with http_connect without `:` and control characters";
            return wrong("outbound_proxy.credentials.username", user, expected);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NetworkConfig;

    fn load(proxy: &str) -> Result<ProxyConfig, String> {
        let text = format!(r#"{{"outbound_proxy": {proxy}}}"#);
        let config = NetworkConfig::from_json(&text).map_err(|error| error.to_string())?;
        config.to_core(0, [0; 16]).map_err(|error| error.to_string())?;
        config.outbound_proxy.ok_or_else(|| "none".to_owned())
    }

    #[test]
    fn what_the_peer_writes_loads() {
        let at = "127.0.0.1:1080".parse().unwrap();
        let plain = load(r#"{"protocol": "socks5", "address": "127.0.0.1:1080"}"#).unwrap();
        assert_eq!(plain, ProxyConfig::new(ProxyProtocol::Socks5, at));
        let socks4 = r#"{"protocol": "socks4", "address": "127.0.0.1:1080", "user_id": "sandbox"}"#;
        assert_eq!(load(socks4).unwrap().user_id.as_deref(), Some("sandbox"));
        let http = r#"{"protocol": "http_connect", "address": "[::1]:3128", "credentials":
            {"username": "sandbox", "password": {"kind": "env", "var": "PASSWORD"}},
            "no_proxy": ["10.0.0.0/8", "::1", "*.internal.test", "one.test"],
            "send_names": false}"#;
        let http = load(http).unwrap();
        assert_eq!(http.credentials.unwrap().username, "sandbox");
        assert_eq!((http.no_proxy.len(), http.send_names), (4, false));
        assert_eq!(load("null").unwrap_err(), "none");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let credentials = r#""credentials": {"username": "a:b", "password":
            {"kind": "env", "var": "P"}}"#;
        for (proxy, expected) in [
            (r#"{"protocol": "socks6", "address": "1.1.1.1:1"}"#.to_owned(), "unknown variant"),
            (r#"{"protocol": "socks5", "address": "proxy:1080"}"#.to_owned(), "address"),
            (r#"{"protocol": "socks5", "address": "1.1.1.1:0"}"#.to_owned(), "port 0"),
            (
                r#"{"protocol": "socks5", "address": "1.1.1.1:1", "user_id": "x"}"#.to_owned(),
                "outbound_proxy.user_id",
            ),
            (
                format!(r#"{{"protocol": "socks4", "address": "1.1.1.1:1", {credentials}}}"#),
                "left out with socks4",
            ),
            (
                format!(r#"{{"protocol": "http_connect", "address": "1.1.1.1:1", {credentials}}}"#),
                "outbound_proxy.credentials.username: a:b",
            ),
            (
                r#"{"protocol": "socks5", "address": "1.1.1.1:1", "no_proxy": ["10.0.0.0/99"]}"#
                    .to_owned(),
                "is not a network",
            ),
        ] {
            let error = load(&proxy).unwrap_err();
            assert!(error.contains(expected), "{proxy}: {error}");
        }
    }
}
