//! `outbound`: from which address and interface of this host connections go on.
//!
//! Owns how it is written, and what can be said of it without looking at this host; what it means
//! for a socket is `outbound.rs`.

use core::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Deserialize;
use sluicegate_core::ConfigError;

/// Bytes of the longest name of an interface (IFNAMSIZ, without its end).
const DEVICE_BYTES_MAX: usize = 15;

/// From where of this host what goes on for a guest leaves; what is not said is as this host's
/// routes have it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutboundConfig {
    /// The source of what goes on over IPv4: an address that this host has.
    pub ipv4_address: Option<Ipv4Addr>,
    /// The same over IPv6.
    pub ipv6_address: Option<Ipv6Addr>,
    /// The network interface, by its name (`SO_BINDTODEVICE`): nothing leaves by another.
    pub device: Option<String>,
}

impl OutboundConfig {
    /// Checks what the types let through.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let expected = "an address of this host that others can answer";
        if let Some(address) = self.ipv4_address
            && (address.is_unspecified()
                || address.is_loopback()
                || address.is_multicast()
                || address.is_broadcast())
        {
            return Err(ConfigError::new("outbound.ipv4_address", address, expected));
        }
        if let Some(address) = self.ipv6_address
            && (address.is_unspecified()
                || address.is_loopback()
                || address.is_multicast()
                || address.is_unicast_link_local()
                || address.to_ipv4_mapped().is_some())
        {
            return Err(ConfigError::new("outbound.ipv6_address", address, expected));
        }
        if let Some(device) = &self.device {
            let fits = (1..=DEVICE_BYTES_MAX).contains(&device.len());
            if !fits || !device.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/') {
                let expected = "the name of an interface: 1 to 15 visible characters but /";
                return Err(ConfigError::new(
                    "outbound.device",
                    format_args!("{device:?}"),
                    expected,
                ));
            }
        }
        Ok(())
    }

    /// Says `word` as well: an address, or else the name of an interface.
    pub fn say(&mut self, word: &str) {
        match word.parse() {
            Ok(IpAddr::V4(address)) => self.ipv4_address = Some(address),
            Ok(IpAddr::V6(address)) => self.ipv6_address = Some(address),
            Err(_) => self.device = Some(word.to_owned()),
        }
    }

    /// Whether it says anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// In words: `from 192.0.2.20, from 2001:db8::20, by eth1`; nothing where it says nothing.
impl fmt::Display for OutboundConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            self.ipv4_address.map(|address| format!("from {address}")),
            self.ipv6_address.map(|address| format!("from {address}")),
            self.device.as_ref().map(|device| format!("by {device}")),
        ];
        f.write_str(&words.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use crate::NetworkConfig;

    fn load(outbound: &str) -> Result<String, String> {
        let text = format!(r#"{{"outbound": {outbound}}}"#);
        let config = NetworkConfig::from_json(&text).map_err(|error| error.to_string())?;
        config.to_core(0, [0; 16]).map_err(|error| error.to_string())?;
        Ok(config.outbound.to_string())
    }

    #[test]
    fn what_can_be_a_source_loads_and_is_shown_in_words() {
        assert_eq!(load("{}").unwrap(), "");
        let all = r#"{"ipv4_address": "192.0.2.20", "ipv6_address": "2001:db8::20",
            "device": "eth0.100"}"#;
        assert_eq!(load(all).unwrap(), "from 192.0.2.20, from 2001:db8::20, by eth0.100");
        assert_eq!(load(r#"{"device": "a-name-of-15-by"}"#).unwrap(), "by a-name-of-15-by");
    }

    #[test]
    fn what_can_not_is_named_with_its_field() {
        for address in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"] {
            let error = load(&format!(r#"{{"ipv4_address": "{address}"}}"#)).unwrap_err();
            let named =
                format!("configuration: outbound.ipv4_address: {address} is not an address");
            assert!(error.starts_with(&named), "{error}");
        }
        for address in ["::", "::1", "ff02::1", "fe80::1", "::ffff:192.0.2.1"] {
            let error = load(&format!(r#"{{"ipv6_address": "{address}"}}"#)).unwrap_err();
            let named =
                format!("configuration: outbound.ipv6_address: {address} is not an address");
            assert!(error.starts_with(&named), "{error}");
        }
        for device in ["", "a/b", "a b", "a\\u0000", "sixteen-bytes-ab", "\\u00fc"] {
            let error = load(&format!(r#"{{"device": "{device}"}}"#)).unwrap_err();
            assert!(error.starts_with("configuration: outbound.device: \""), "{device}: {error}");
        }
        let error = load(r#"{"ipv4_address": "2001:db8::1"}"#).unwrap_err();
        assert!(error.starts_with("outbound.ipv4_address: "), "{error}");
        let error = load(r#"{"address": "192.0.2.1"}"#).unwrap_err();
        assert!(error.contains("unknown field"), "{error}");
    }
}
