//! `ports`: what of the guest is reached from outside.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Deserializer, Serialize};
use sluicegate_core::{ConfigError, Protocol};

/// Ports that may be published.
pub(crate) const PORTS_MAX: usize = 1024;
/// Connections that wait to be accepted where nothing is configured.
pub(super) const ACCEPT_QUEUE_DEFAULT: u32 = 1024;

/// A port of the guest that is reached at a port of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PortConfig {
    /// The port of this host; 0: any that is free (`SmoltcpNetwork::published_ports` tells).
    pub host_port: u16,
    /// The port of the guest.
    pub guest_port: u16,
    /// TCP or UDP.
    #[serde(default)]
    pub protocol: PortProtocol,
    /// The address of this host; of IPv6, the guest is reached at its IPv6 address.
    #[serde(default = "loopback")]
    pub host_bind: IpAddr,
    /// Whether a connection begins with who came, by the PROXY protocol (version 2), as the guest
    /// sees its gateway only. TCP.
    #[serde(default)]
    pub proxy_protocol: bool,
}

/// Ports as they are written: one, or as many in a row as `count` says, on both sides.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PortsFile {
    host_port: u16,
    guest_port: u16,
    #[serde(default)]
    protocol: PortProtocol,
    #[serde(default = "loopback")]
    host_bind: IpAddr,
    #[serde(default)]
    proxy_protocol: bool,
    #[serde(default = "one")]
    count: u16,
}

const fn one() -> u16 {
    1
}

impl PortsFile {
    fn expand(&self) -> Result<Vec<PortConfig>, String> {
        let first = PortConfig {
            host_port: self.host_port,
            guest_port: self.guest_port,
            protocol: self.protocol,
            host_bind: self.host_bind,
            proxy_protocol: self.proxy_protocol,
        };
        first.in_a_row(self.count)
    }
}

/// Reads the list of a file, whose ranges become single ports.
pub(super) fn read<'de, D: Deserializer<'de>>(json: D) -> Result<Vec<PortConfig>, D::Error> {
    let written = Vec::<PortsFile>::deserialize(json)?;
    let expanded: Result<Vec<_>, String> = written.iter().map(PortsFile::expand).collect();
    Ok(expanded.map_err(serde::de::Error::custom)?.concat())
}

/// Ports as a command line says them: one, or a range on both sides, as `8000-8009:80-89`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortList(pub Vec<PortConfig>);

impl std::str::FromStr for PortList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ends = text.split('/').next().unwrap_or(text);
        let Some((host, guest)) = ends.rsplit_once(':') else {
            return text.parse().map(|port| Self(vec![port]));
        };
        let Some((first, last)) = guest.split_once('-') else {
            return text.parse().map(|port| Self(vec![port]));
        };
        let rest = text.strip_prefix(ends).unwrap_or("");
        let (bind, host_ports) = match host.rsplit_once(':') {
            Some((bind, ports)) => (format!("{bind}:"), ports),
            None => (String::new(), host),
        };
        let (host_first, host_last) = host_ports.split_once('-').unwrap_or((host_ports, "0"));
        let number = |text: &str| {
            text.parse::<u16>().map_err(|_| format!("{text:?} is no port, 0 to 65535"))
        };
        let (first, last) = (number(first)?, number(last)?);
        let (host_first, host_last) = (number(host_first)?, number(host_last)?);
        let count = last.checked_sub(first).filter(|_| {
            host_first == 0 || host_last.checked_sub(host_first) == last.checked_sub(first)
        });
        let count = count.ok_or_else(|| {
            format!("{text:?} has ranges of different lengths; say 8000-8009:80-89, or 0:80-89")
        })?;
        let one: PortConfig = format!("{bind}{host_first}:{first}{rest}").parse()?;
        // As many as there are ports are more than may be published.
        one.in_a_row(count.saturating_add(1)).map(Self)
    }
}

/// The protocol of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PortProtocol {
    /// TCP.
    #[default]
    #[serde(alias = "Tcp")]
    Tcp,
    /// UDP.
    #[serde(alias = "Udp")]
    Udp,
}

impl From<PortProtocol> for Protocol {
    fn from(protocol: PortProtocol) -> Self {
        match protocol {
            PortProtocol::Tcp => Self::Tcp,
            PortProtocol::Udp => Self::Udp,
        }
    }
}

const fn loopback() -> IpAddr {
    IpAddr::V4(Ipv4Addr::LOCALHOST)
}

impl PortConfig {
    /// This and those that follow it, `count` in all.
    fn in_a_row(self, count: u16) -> Result<Vec<Self>, String> {
        let out_of_range = || format!("count {count} is 0, or leads beyond port 65535");
        if count == 0 {
            return Err(out_of_range());
        }
        let port = |first: u16, offset: u16| first.checked_add(offset).ok_or_else(out_of_range);
        let of = |offset: u16| {
            // Any that is free is that for each.
            let host_port = if self.host_port == 0 { 0 } else { port(self.host_port, offset)? };
            Ok(Self { host_port, guest_port: port(self.guest_port, offset)?, ..self })
        };
        (0..count).map(of).collect()
    }

    /// Where this host listens.
    #[must_use]
    pub fn host(&self) -> SocketAddr {
        SocketAddr::new(self.host_bind, self.host_port)
    }
}

/// A port that is published, as it is said on a command line: `[BIND:]HOST:GUEST[/tcp|/udp]`, where
/// an IPv6 address is in brackets.
impl std::str::FromStr for PortConfig {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| {
            format!(
                "{what}; a published port is [BIND:]HOST:GUEST[/udp], as 8080:80 or [::1]:53:53/udp"
            )
        };
        let (ports, protocol) = match text.rsplit_once('/') {
            None => (text, PortProtocol::Tcp),
            Some((ports, "tcp")) => (ports, PortProtocol::Tcp),
            Some((ports, "udp")) => (ports, PortProtocol::Udp),
            Some((_, other)) => return Err(wrong(&format!("{other:?} is no protocol"))),
        };
        let (host, guest) = ports.rsplit_once(':').ok_or_else(|| wrong("two ports are needed"))?;
        let (bind, host) = match host.rsplit_once(':') {
            Some((bind, host)) => (Some(bind), host),
            None => (None, host),
        };
        let port = |port: &str| {
            port.parse().map_err(|_| wrong(&format!("{port:?} is no port, 0 to 65535")))
        };
        let address = |bind: &str| {
            let bare = bind.strip_prefix('[').and_then(|bind| bind.strip_suffix(']'));
            let address = bare.unwrap_or(bind).parse::<IpAddr>();
            address.map_err(|_| wrong(&format!("{bind:?} is no address")))
        };
        Ok(Self {
            host_port: port(host)?,
            guest_port: port(guest)?,
            protocol,
            host_bind: bind.map(address).transpose()?.unwrap_or_else(loopback),
            proxy_protocol: false,
        })
    }
}

/// Checks what the types let through.
pub(super) fn check(ports: &[PortConfig], queue: u32) -> Result<(), ConfigError> {
    if ports.len() > PORTS_MAX {
        return Err(ConfigError::new("ports", ports.len(), "at most 1024"));
    }
    if ports.iter().any(|port| port.guest_port == 0) {
        return Err(ConfigError::new("ports[].guest_port", 0, "between 1 and 65535"));
    }
    let is_udp = |port: &&PortConfig| port.protocol == PortProtocol::Udp;
    if let Some(port) = ports.iter().filter(is_udp).find(|port| port.proxy_protocol) {
        let expected = "left out for UDP";
        return Err(ConfigError::new("ports[].proxy_protocol", port.guest_port, expected));
    }
    let mut hosts = HashSet::new();
    let mut is_own =
        |port: &PortConfig| port.host_port == 0 || hosts.insert((port.host(), port.protocol));
    if let Some(port) = ports.iter().find(|port| !is_own(port)) {
        let expected = "a port of its own: it is published twice";
        return Err(ConfigError::new("ports[].host_port", port.host(), expected));
    }
    if queue == 0 || queue > i32::MAX.cast_unsigned() {
        let expected = "between 1 and 2147483647";
        return Err(ConfigError::new("tcp_accept_queue_size", queue, expected));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NetworkConfig;

    #[test]
    fn the_peers_old_words_for_protocols_load() {
        for (word, protocol) in [("Tcp", PortProtocol::Tcp), ("Udp", PortProtocol::Udp)] {
            let port = format!(r#"{{"host_port": 1, "guest_port": 1, "protocol": "{word}"}}"#);
            let text = format!(r#"{{"ports": [{port}]}}"#);
            let config = crate::NetworkConfig::from_json(&text).unwrap();
            assert_eq!(config.ports[0].protocol, protocol);
        }
    }

    #[test]
    fn a_port_is_tcp_at_loopback_unless_it_is_said() {
        let json = r#"{"ports": [{"host_port": 8080, "guest_port": 80},
            {"host_port": 0, "guest_port": 53, "protocol": "udp", "host_bind": "::"}]}"#;
        let ports = NetworkConfig::from_json(json).unwrap().ports;
        assert_eq!(ports[0], "8080:80".parse().unwrap());
        assert_eq!(ports[1], "[::]:0:53/udp".parse().unwrap());
        assert_eq!(ports[0].host().to_string(), "127.0.0.1:8080");
        assert_eq!(
            "0.0.0.0:1:2/tcp".parse::<PortConfig>().unwrap().host_bind.to_string(),
            "0.0.0.0"
        );
    }

    #[test]
    fn a_range_is_as_many_single_ports() {
        let json = r#"{"ports": [{"host_port": 8000, "guest_port": 80, "count": 3,
            "proxy_protocol": true}, {"host_port": 0, "guest_port": 1, "count": 2}]}"#;
        let ports = NetworkConfig::from_json(json).unwrap().ports;
        let ends: Vec<_> = ports.iter().map(|port| (port.host_port, port.guest_port)).collect();
        assert_eq!(ends, [(8000, 80), (8001, 81), (8002, 82), (0, 1), (0, 2)]);
        assert_eq!(ports.iter().filter(|port| port.proxy_protocol).count(), 3);
        let said = |text: &str| text.parse::<PortList>().map(|list| list.0);
        let without = |port: &PortConfig| PortConfig { proxy_protocol: false, ..*port };
        let expected: Vec<_> = ports[..3].iter().map(without).collect();
        assert_eq!(said("8000-8002:80-82").unwrap(), expected);
        assert_eq!(said("0:1-2").unwrap(), &ports[3..]);
        let v6 = said("[::1]:53-54:53-54/udp").unwrap();
        assert_eq!(v6[1], "[::1]:54:54/udp".parse().unwrap());
        assert_eq!(said("8080:80").unwrap(), ["8080:80".parse().unwrap()]);
        for wrong in ["8000-8003:80-82", "8000:80-82", "82-80:82-80", "1-2:x-3"] {
            assert!(said(wrong).is_err(), "{wrong}");
        }
        for (json, expected) in [
            (r#"{"ports": [{"host_port": 65535, "guest_port": 1, "count": 2}]}"#, "count 2"),
            (r#"{"ports": [{"host_port": 1, "guest_port": 1, "count": 0}]}"#, "count 0"),
        ] {
            let error = NetworkConfig::from_json(json).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let udp = r#"{"ports": [{"host_port": 1, "guest_port": 1, "protocol": "udp",
            "proxy_protocol": true}]}"#;
        let error = NetworkConfig::from_json(udp).unwrap().to_core(0, [0; 16]).unwrap_err();
        assert!(error.to_string().contains("ports[].proxy_protocol"), "{error}");
    }

    #[test]
    fn what_is_no_port_is_refused_with_the_way_out() {
        for (text, expected) in [
            ("80", "two ports"),
            ("80:x", "\"x\" is no port"),
            ("70000:80", "\"70000\" is no port"),
            ("80:80/sctp", "\"sctp\" is no protocol"),
            ("here:80:80", "\"here\" is no address"),
        ] {
            let error = text.parse::<PortConfig>().unwrap_err();
            assert!(error.contains(expected) && error.contains("8080:80"), "{error}");
        }
        let zero = r#"{"ports": [{"host_port": 1, "guest_port": 0}]}"#;
        let error = NetworkConfig::from_json(zero).unwrap().to_core(0, [0; 16]).unwrap_err();
        assert!(error.to_string().contains("ports[].guest_port: 0"), "{error}");
        let twice = |second: &str| {
            let first = r#"{"host_port": 81, "guest_port": 1}"#;
            let second = format!(r#"{{"host_port": {second}, "guest_port": 2}}"#);
            let json = format!(r#"{{"ports": [{first}, {second}]}}"#);
            NetworkConfig::from_json(&json).unwrap().to_core(0, [0; 16]).map_err(|e| e.to_string())
        };
        let said =
            "ports[].host_port: 127.0.0.1:81 is not a port of its own: it is published twice";
        assert!(twice("81").unwrap_err().contains(said));
        for other in ["82", r#"81, "protocol": "udp""#, r#"81, "host_bind": "127.0.0.2""#] {
            assert!(twice(other).is_ok(), "{other}");
        }
        let queue = r#"{"tcp_accept_queue_size": 0}"#;
        assert!(NetworkConfig::from_json(queue).unwrap().to_core(0, [0; 16]).is_err());
    }
}
