//! What a guest knows of its network, written down, so that another network can take its place.
//!
//! Owns the form and its checks. It has what the guest would notice: the link's addresses, where
//! published ports really are, which names lead to which addresses, and the certificate of the
//! authority that it trusts where TLS is intercepted, without its key. It has no secret, no policy,
//! and no connection: whoever restores says what is allowed, and what the guest or a peer says on
//! an old connection is answered with a reset, as of any connection that nobody knows (RFC 9293
//! 3.10.7.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sluicegate_core::addr::{Addresses, Mac};
use sluicegate_core::{ConfigError, limits};

use crate::config::{Identity, NetworkConfig, PORTS_MAX, PortConfig, PortProtocol, read_json};
use crate::error::{Error, LoadError};

/// The form that is written, and the only one that is read.
const VERSION: u32 = 1;
/// Bytes of the longest snapshot.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// The identity of a guest's network
/// ([`ControlHandle::snapshot`](crate::ControlHandle::snapshot)).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    version: u32,
    interface: InterfaceSnapshot,
    ports: Vec<PortSnapshot>,
    names: Vec<NameSnapshot>,
    /// The certificate of the authority that intercepts TLS, if any does, as PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca_cert: Option<String>,
}

/// Both ends of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct InterfaceSnapshot {
    #[serde(serialize_with = "write_mac", deserialize_with = "read_mac")]
    guest_mac: [u8; 6],
    #[serde(serialize_with = "write_mac", deserialize_with = "read_mac")]
    gateway_mac: [u8; 6],
    guest_ipv4: Ipv4Addr,
    gateway_ipv4: Ipv4Addr,
    guest_ipv6: Ipv6Addr,
    gateway_ipv6: Ipv6Addr,
    mtu: u16,
    receive_frame_bytes: u32,
}

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PortSnapshot {
    protocol: PortProtocol,
    host_bind: IpAddr,
    /// The port that this host really listens at.
    host_port: u16,
    guest_port: u16,
}

impl PortSnapshot {
    /// `port`, which this host listens for at `host_port`.
    pub(crate) fn new(port: &PortConfig, host_port: u16) -> Self {
        let PortConfig { protocol, host_bind, guest_port, .. } = *port;
        Self { protocol, host_bind, host_port, guest_port }
    }

    /// `port` where it was, if this is one that it may be: one that may be anywhere.
    pub(crate) fn place(&self, port: &PortConfig) -> Option<PortConfig> {
        let is_any = port.host_port == 0 && *self == Self::new(port, self.host_port);
        is_any.then_some(PortConfig { host_port: self.host_port, ..*port })
    }
}

/// A name that leads to an address.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NameSnapshot {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    /// For so much longer.
    pub(crate) seconds: u32,
}

/// What is read first: the rest may be unknown to this version.
#[derive(Deserialize)]
struct Head {
    version: Option<u32>,
}

impl Snapshot {
    /// That of a network with these ends of its link, an authority, `ports`, and `names`.
    pub(crate) fn new(
        (identity, ca_cert): (&Identity, Option<String>),
        ports: Vec<PortSnapshot>,
        names: Vec<NameSnapshot>,
    ) -> Self {
        let a = identity.addresses;
        let interface = InterfaceSnapshot {
            guest_mac: a.guest_mac,
            gateway_mac: a.gateway_mac,
            guest_ipv4: a.guest_ipv4,
            gateway_ipv4: a.gateway_ipv4,
            guest_ipv6: a.guest_ipv6,
            gateway_ipv6: a.gateway_ipv6,
            mtu: a.mtu,
            receive_frame_bytes: identity.receive_frame_bytes,
        };
        Self { version: VERSION, interface, ports, names, ca_cert }
    }

    /// It as JSON. Nothing in it is a secret.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings and numbers are always written.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Reads what [`to_json`](Self::to_json) wrote, and checks all of it.
    ///
    /// # Errors
    /// Another version, what is not JSON, unknown or of another type, and what no network can have
    /// been; each with its field.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        let head: Head = read_json(text)?;
        let version = head.version.unwrap_or(0);
        if version != VERSION {
            let expected = "1, the only version that is known here";
            return Err(ConfigError::new("version", version, expected).into());
        }
        let snapshot: Self = read_json(text)?;
        snapshot.check()?;
        Ok(snapshot)
    }

    /// Reads `path`.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json), or if the file can't be read or is longer than 16 MiB.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        use std::io::Read;
        let unread = |source| LoadError::Read { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(unread)?;
        let mut text = String::new();
        file.take(BYTES_MAX as u64 + 1).read_to_string(&mut text).map_err(unread)?;
        if text.len() > BYTES_MAX {
            return Err(LoadError::LongSnapshot { path: path.to_owned() }.into());
        }
        Self::from_json(&text).map_err(|error| {
            if let Error::Load(error) = error { error.of(path).into() } else { error }
        })
    }

    /// The link.
    pub(crate) fn identity(&self) -> Identity {
        let i = self.interface;
        let addresses = Addresses {
            guest_mac: i.guest_mac,
            gateway_mac: i.gateway_mac,
            guest_ipv4: i.guest_ipv4,
            gateway_ipv4: i.gateway_ipv4,
            guest_ipv6: i.guest_ipv6,
            gateway_ipv6: i.gateway_ipv6,
            mtu: i.mtu,
        };
        Identity { addresses, receive_frame_bytes: i.receive_frame_bytes }
    }

    /// `config` for the guest of this, its published ports, and the names that it may go on with.
    ///
    /// # Errors
    /// An address that `config` says itself, and that is another.
    pub(crate) fn apply(
        self,
        config: NetworkConfig,
    ) -> Result<(NetworkConfig, Vec<PortSnapshot>, Vec<NameSnapshot>), ConfigError> {
        Ok((config.with_identity(self.identity())?, self.ports, self.names))
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.identity().addresses.check().map_err(|error| {
            let field = match error.field {
                "interface.mac" => "interface.guest_mac",
                "interface.ipv4_address" => "interface.guest_ipv4",
                "interface.ipv6_address" => "interface.guest_ipv6",
                "gateway_mac" => "interface.gateway_mac",
                "gateway_ipv4" => "interface.gateway_ipv4",
                "gateway_ipv6" => "interface.gateway_ipv6",
                other => other,
            };
            ConfigError { field, ..error }
        })?;
        let bound = self.interface.receive_frame_bytes;
        let range = limits::RECEIVE_FRAME_BYTES_MIN..=limits::RECEIVE_FRAME_BYTES_MAX;
        if !range.contains(&bound) {
            let expected = "between 1294 and 65549";
            return Err(ConfigError::new("interface.receive_frame_bytes", bound, expected));
        }
        if self.ports.len() > PORTS_MAX {
            return Err(ConfigError::new("ports", self.ports.len(), "at most 1024"));
        }
        if let Some(port) = self.ports.iter().find(|port| port.host_port == 0) {
            let expected = "below ports that are all known (host_port 0)";
            return Err(ConfigError::new("ports[].guest_port", port.guest_port, expected));
        }
        if self.names.len() > limits::BINDINGS_MAX as usize {
            return Err(ConfigError::new("names", self.names.len(), "at most 16384"));
        }
        for name in &self.names {
            let is_letter = |byte: u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase();
            let is_name = (1..=limits::DOMAIN_BYTES_MAX).contains(&name.name.len());
            if !is_name || !name.name.bytes().all(is_letter) {
                let expected = "a name in lower case, of at most 253 bytes";
                return Err(ConfigError::new("names[].name", &name.name, expected));
            }
            if !(1..=limits::BINDING_SECONDS_MAX).contains(&name.seconds) {
                let expected = "between 1 and 3600";
                return Err(ConfigError::new("names[].seconds", name.seconds, expected));
            }
        }
        Ok(())
    }
}

fn write_mac<S: Serializer>(mac: &[u8; 6], to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&Mac(*mac))
}

fn read_mac<'de, D: Deserializer<'de>>(json: D) -> Result<[u8; 6], D::Error> {
    let text = String::deserialize(json)?;
    let expected = "six pairs of hex digits with colons between, as 02:6d:73:00:00:02";
    let mac: Result<Mac, _> = text.parse();
    mac.map(|mac| mac.0)
        .map_err(|_| serde::de::Error::custom(format_args!("{text:?} is not {expected}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let addresses = NetworkConfig::default().addresses(7).unwrap();
        let ports = vec![PortSnapshot::new(&"0:80".parse().unwrap(), 40_123)];
        let address = "1.1.1.1".parse().unwrap();
        let names = vec![NameSnapshot { name: "a.test".to_owned(), address, seconds: 9 }];
        Snapshot::new((&Identity { addresses, receive_frame_bytes: 1514 }, None), ports, names)
    }

    #[test]
    fn what_is_written_is_read_as_it_was() {
        let text = snapshot().to_json();
        assert!(text.contains("\"gateway_mac\": \"02:6d:73:00:07:01\""), "{text}");
        assert_eq!(Snapshot::from_json(&text).unwrap(), snapshot());
    }

    #[test]
    fn what_no_network_was_is_refused_with_its_field() {
        for (from, to, expected) in [
            ("\"version\": 1", "\"version\": 2", "version: 2 is not 1"),
            ("\"version\": 1,", "", "version: 0 is not 1"),
            ("\"mtu\": 1500", "\"mtu\": 1500, \"secret\": 1", "unknown field `secret`"),
            ("\"mtu\": 1500", "\"mtu\": 1", "interface.mtu: 1 is not"),
            ("00:07:01", "00:07", "interface.gateway_mac: \"02:6d:73:00:07\" is not"),
            ("00:07:01", "00:07:02", "interface.guest_mac: 02:6d:73:00:07:02"),
            ("02:6d:73:00:07:01", "03:6d:73:00:07:01", "interface.gateway_mac: 03:"),
            ("100.96.0.30", "100.96.0.31", "interface.guest_ipv4: 100.96.0.31"),
            ("100.96.0.29", "100.96.0.28", "interface.gateway_ipv4: 100.96.0.28"),
            ("62:7::1", "62:8::1", "interface.gateway_ipv6: fd42:6d73:62:8::1"),
            (": 1514", ": 1", "interface.receive_frame_bytes: 1 is not"),
            (": 40123", ": 0", "ports[].guest_port: 80"),
            ("a.test", "A.test", "names[].name: A.test is not"),
            ("a.test", "", "names[].name:  is not"),
            ("\"seconds\": 9", "\"seconds\": 0", "names[].seconds: 0 is not"),
        ] {
            let text = snapshot().to_json();
            assert!(text.contains(from), "{from} in {text}");
            let error = Snapshot::from_json(&text.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(expected), "{to}: {error}");
        }
    }

    #[test]
    fn there_is_an_end_to_it() {
        let of = |count: usize| {
            let mut long = snapshot();
            long.names = vec![long.names[0].clone(); count];
            Snapshot::from_json(&long.to_json()).map_err(|error| error.to_string())
        };
        assert!(of(16_384).is_ok());
        let error = of(16_385).unwrap_err();
        assert!(error.contains("names: 16385 is not at most 16384"), "{error}");
        // The longest that there may be is one that is read.
        let mut long = snapshot();
        let name = NameSnapshot {
            name: "\"".repeat(253),
            address: "2600:1111:2222:3333:4444:5555:6666:7777".parse().unwrap(),
            seconds: 3600,
        };
        long.names = vec![name; 16_384];
        long.ports = vec![long.ports[0]; PORTS_MAX];
        assert!(long.to_json().len() <= BYTES_MAX, "{}", long.to_json().len());
    }

    #[test]
    fn what_a_configuration_says_itself_must_be_what_the_guest_knows() {
        for (interface, expected) in [
            (r#"{"mac": "02:6d:73:00:07:02", "mtu": 1500, "ipv4_address": "100.96.0.30"}"#, None),
            (r#"{"mac": "02:00:00:00:00:09"}"#, Some("interface.mac: 02:00:00:00:00:09 is not")),
            (r#"{"mtu": 9000}"#, Some("interface.mtu: 9000 is not that of the snapshot")),
            (r#"{"ipv6_address": "fd00::2"}"#, Some("interface.ipv6_address: fd00::2 is not")),
            (r#"{"receive_frame_bytes": 9014}"#, Some("interface.receive_frame_bytes: 9014")),
        ] {
            let text = format!(r#"{{"interface": {interface}}}"#);
            let applied = snapshot().apply(NetworkConfig::from_json(&text).unwrap());
            let error = applied.as_ref().err().map(ToString::to_string);
            match (&applied, expected) {
                (Ok((config, ..)), None) => {
                    // Whatever the slot is.
                    let link = config.to_core(3, [0; 16]).unwrap().link;
                    assert_eq!(link.gateway_mac, [2, 0x6d, 0x73, 0, 7, 1]);
                }
                (Err(_), Some(expected)) => assert!(error.unwrap().contains(expected)),
                (_, _) => panic!("{interface}: {error:?}"),
            }
        }
    }

    #[test]
    fn a_port_that_may_be_anywhere_is_where_it_was_and_any_other_is_where_it_is_said() {
        let was = snapshot().ports[0];
        let place = |text: &str| was.place(&text.parse().unwrap()).map(|port| port.host_port);
        assert_eq!(place("0:80"), Some(40_123));
        for other in ["8080:80", "0:81", "0:80/udp", "0.0.0.0:0:80"] {
            assert_eq!(place(other), None, "{other}");
        }
    }
}
