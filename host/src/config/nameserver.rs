//! Name servers as they are written.
//!
//! `192.0.2.1`, `192.0.2.1:53`, `[2001:db8::1]:53` and `dns.example:53` are asked in the clear;
//! `tls://dns.example` over TLS (RFC 7858), `https://dns.example/dns-query` over HTTPS (RFC 8484).
//! Behind `#` stands the name that the server must prove, where that is not the one before it.

use core::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use sluicegate_core::limits::{DNS_PORT, HTTPS_PORT};

/// The port of names over TLS (RFC 7858 3.1).
const TLS_PORT: u16 = 853;
/// Where a server of names over HTTPS is asked, if nothing is said (RFC 8484 has it so in its
/// examples).
const PATH: &str = "/dns-query";
/// Addresses of one name that are asked.
const ADDRESSES_MAX: usize = 4;

/// A name server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameServer {
    /// How it is asked.
    pub channel: NameChannel,
    /// Its address, or a name that leads to it.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// How a name server is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameChannel {
    /// By datagrams, and over TCP what they can't carry.
    Plain,
    /// Over TLS.
    Tls {
        /// The name that the server must prove, or its address.
        name: String,
    },
    /// Over HTTPS.
    Https {
        /// The name that the server must prove, or its address.
        name: String,
        /// The path that is asked, from its `/` on.
        path: String,
    },
}

impl From<SocketAddr> for NameServer {
    fn from(at: SocketAddr) -> Self {
        Self { channel: NameChannel::Plain, host: at.ip().to_string(), port: at.port() }
    }
}

impl NameServer {
    /// The addresses where it is; of a name, those that this host's resolver knows now.
    ///
    /// # Errors
    /// The name leads nowhere.
    pub(crate) fn addresses(&self) -> std::io::Result<Vec<SocketAddr>> {
        let found = (self.host.as_str(), self.port).to_socket_addrs()?;
        Ok(found.take(ADDRESSES_MAX).collect())
    }
}

impl FromStr for NameServer {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = "a name server, as 192.0.2.1, [2001:db8::1]:53, dns.example:53, \
                        tls://dns.example or https://dns.example/dns-query";
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let (rest, name) = match rest.split_once('#') {
            Some((rest, name)) if !scheme.is_empty() => (rest, Some(name.to_owned())),
            Some(_) => return Err(expected),
            None => (rest, None),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) if scheme == "https" => rest.split_at(at),
            Some(_) => return Err(expected),
            None => (rest, PATH),
        };
        let port = match scheme {
            "" => DNS_PORT,
            "tls" => TLS_PORT,
            "https" => HTTPS_PORT,
            _ => return Err(expected),
        };
        let (host, port) = split(authority, port).ok_or(expected)?;
        let name = name.unwrap_or_else(|| host.clone());
        if rustls::pki_types::ServerName::try_from(name.as_str()).is_err() {
            return Err(expected);
        }
        let channel = match scheme {
            "tls" => NameChannel::Tls { name },
            "https" if path.parse::<hyper::http::uri::PathAndQuery>().is_err() => {
                return Err(expected);
            }
            "https" => NameChannel::Https { name, path: path.to_owned() },
            _ => NameChannel::Plain,
        };
        Ok(Self { channel, host, port })
    }
}

/// Host and port of `authority`, which may be an IPv6 address without brackets.
fn split(authority: &str, default: u16) -> Option<(String, u16)> {
    if let Ok(address) = authority.parse::<IpAddr>() {
        return Some((address.to_string(), default));
    }
    if let Ok(at) = authority.parse::<SocketAddr>() {
        return (at.port() > 0).then(|| (at.ip().to_string(), at.port()));
    }
    if let Some(address) = authority.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<IpAddr>().ok().map(|address| (address.to_string(), default));
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0)?),
        None => (authority, default),
    };
    let is_name = !host.is_empty()
        && rustls::pki_types::DnsName::try_from(host).is_ok()
        // What looks like an address and is none is a slip.
        && !host.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    is_name.then(|| (host.to_ascii_lowercase(), port))
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = match self.host.parse::<IpAddr>() {
            Ok(address) => SocketAddr::new(address, self.port).to_string(),
            Err(_) => format!("{}:{}", self.host, self.port),
        };
        let proven = |name: &str| {
            if name == self.host { String::new() } else { format!("#{name}") }
        };
        match &self.channel {
            NameChannel::Plain => f.write_str(&at),
            NameChannel::Tls { name } => write!(f, "tls://{at}{}", proven(name)),
            NameChannel::Https { name, path } => write!(f, "https://{at}{path}{}", proven(name)),
        }
    }
}

impl<'de> Deserialize<'de> for NameServer {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        let text = String::deserialize(json)?;
        let parsed = text.parse::<Self>();
        parsed.map_err(|expected| {
            serde::de::Error::custom(format_args!("{text:?} is not {expected}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_shown() {
        for (text, shown) in [
            ("192.0.2.1", "192.0.2.1:53"),
            ("192.0.2.1:5353", "192.0.2.1:5353"),
            ("2001:db8::1", "[2001:db8::1]:53"),
            ("[2001:db8::1]:54", "[2001:db8::1]:54"),
            ("DNS.example", "dns.example:53"),
            ("dns.example:54", "dns.example:54"),
            ("tls://192.0.2.1", "tls://192.0.2.1:853"),
            ("tls://[2001:db8::1]:8853#dns.example", "tls://[2001:db8::1]:8853#dns.example"),
            ("tls://dns.example", "tls://dns.example:853"),
            ("https://dns.example", "https://dns.example:443/dns-query"),
            ("https://dns.example:8443/q?x=y", "https://dns.example:8443/q?x=y"),
            ("https://192.0.2.1/q#dns.example", "https://192.0.2.1:443/q#dns.example"),
        ] {
            assert_eq!(text.parse::<NameServer>().unwrap().to_string(), shown, "{text}");
        }
        for wrong in [
            "",
            "192.0.2.1:",
            "192.0.2.1:0",
            "192.0.2.300",
            "192.0.2.1/x",
            "192.0.2.1#name",
            "tls://",
            "tls://dns.example/path",
            "tls://dns.example#",
            "quic://dns.example",
            "https://dns.example/a b",
            "a b",
            "[::1",
        ] {
            assert!(wrong.parse::<NameServer>().is_err(), "{wrong}");
        }
    }
}
