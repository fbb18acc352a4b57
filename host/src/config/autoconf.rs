//! Whether a guest is told its addresses when it asks, as the user wants it.
//!
//! Owns the two forms: a switch (`true`), or a switch with what is told beside the addresses. Must
//! not know who asks, or how.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use sluicegate_core::{Autoconf, ConfigError, limits};

/// Answers to DHCP, DHCPv6 and router solicitations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AutoconfConfig {
    /// Whether there are any; `None`: if the front end serves guests that need them.
    pub enabled: Option<bool>,
    /// For how long an address is leased, in seconds.
    pub lease_s: Option<u32>,
    /// The domain that the guest looks for short names in.
    pub search: Option<String>,
}

impl AutoconfConfig {
    /// The same for the engine.
    pub(super) fn to_core(&self) -> Result<Option<Autoconf>, ConfigError> {
        let search = self.search.as_deref().map(|search| {
            let expected = "a domain of 253 bytes at most";
            let too_long = |_| ConfigError::new("interface.autoconf.search", search, expected);
            search.try_into().map_err(too_long)
        });
        let autoconf = Autoconf {
            lease_s: self.lease_s.unwrap_or(limits::LEASE_S_DEFAULT),
            search: search.transpose()?,
        };
        // Also if it is off: what is wrong is wrong before somebody turns it on.
        autoconf.check()?;
        Ok(self.enabled.unwrap_or(false).then_some(autoconf))
    }
}

/// The longer form as it is written.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Terms {
    enabled: Option<bool>,
    lease_s: Option<u32>,
    search: Option<String>,
}

impl<'de> Deserialize<'de> for AutoconfConfig {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(Form)
    }
}

struct Form;

impl<'de> Visitor<'de> for Form {
    type Value = AutoconfConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "true, false, or {\"enabled\": true, \"lease_s\": 3600, \"search\": \"a.example\"}",
        )
    }

    fn visit_unit<E>(self) -> Result<AutoconfConfig, E> {
        Ok(AutoconfConfig::default())
    }

    fn visit_bool<E>(self, enabled: bool) -> Result<AutoconfConfig, E> {
        Ok(AutoconfConfig { enabled: Some(enabled), ..AutoconfConfig::default() })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AutoconfConfig, A::Error> {
        let Terms { enabled, lease_s, search } =
            Terms::deserialize(MapAccessDeserializer::new(map))?;
        Ok(AutoconfConfig { enabled, lease_s, search })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NetworkConfig;

    fn core(autoconf: &str) -> Result<Option<Autoconf>, String> {
        let text = format!(r#"{{"interface": {{"autoconf": {autoconf}}}}}"#);
        let config = NetworkConfig::from_json(&text).map_err(|error| error.to_string())?;
        let core = config.to_core(0, [0; 16]).map_err(|error| error.to_string())?;
        Ok(core.autoconf)
    }

    #[test]
    fn it_is_off_until_somebody_turns_it_on() {
        for off in ["false", "null", "{}", r#"{"enabled": false}"#, r#"{"lease_s": 60}"#] {
            assert_eq!(core(off), Ok(None), "{off}");
        }
        for on in ["true", r#"{"enabled": true}"#] {
            assert_eq!(core(on), Ok(Some(Autoconf::default())), "{on}");
        }
        let all = r#"{"enabled": true, "lease_s": 60, "search": "guests.example"}"#;
        let search = Some("guests.example".try_into().unwrap());
        assert_eq!(core(all), Ok(Some(Autoconf { lease_s: 60, search })));
    }

    #[test]
    fn what_is_wrong_is_refused_by_name_also_where_it_is_off() {
        let long = format!(r#"{{"search": "{}"}}"#, "a.".repeat(127));
        for (text, expected) in [
            (r#"{"lease_s": 9}"#, "interface.autoconf.lease_s: 9 is not between"),
            (r#"{"search": "a b"}"#, "interface.autoconf.search: a b is not a domain"),
            (&long, "interface.autoconf.search: a.a."),
            (r#""on""#, "interface.autoconf: invalid type: string \"on\", expected true, false"),
            (r#"{"lease": 60}"#, "did you mean `lease_s`?"),
            (r#"{"lease_s": -1}"#, "interface.autoconf.lease_s"),
        ] {
            let error = core(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_tenant_does_not_decide_it() {
        let text = r#"{"interface": {"autoconf": true}}"#;
        let config = NetworkConfig::from_json(text).unwrap().for_tenant();
        assert_eq!(config.interface.autoconf, AutoconfConfig::default());
    }
}
