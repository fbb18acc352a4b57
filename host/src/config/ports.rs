//! `ports`: what of the guest is reached from outside.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use sluicegate_core::{ConfigError, Protocol};

/// Ports that may be published.
const PORTS_MAX: usize = 1024;
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
}

/// The protocol of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PortProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
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
        let queue = r#"{"tcp_accept_queue_size": 0}"#;
        assert!(NetworkConfig::from_json(queue).unwrap().to_core(0, [0; 16]).is_err());
    }
}
