//! The configuration that holds, as it is shown: what was written, without the values of secrets.

use serde_json::{Map, Value, json};
use sluicegate_host::NetworkConfig;

use crate::cli::failure::Failure;

/// A configuration as JSON, and the number of the change that led to it.
#[derive(Clone)]
pub(in crate::cli) struct Document {
    pub(super) text: Value,
    pub(super) version: u64,
}

impl Document {
    /// What the network begins with: `text` as `config` has it.
    pub(in crate::cli) fn first(text: &str, config: &NetworkConfig) -> Result<Self, Failure> {
        Ok(Self::new(applied(serde_json::from_str(text)?, config)?, 1))
    }

    /// `text`, which is [`applied`] and holds since change `version`.
    pub(super) fn new(text: Value, version: u64) -> Self {
        Self { text, version }
    }
}

/// `text` as it was written, without the values of secrets, and with what holds of it as `config`
/// has it, in which the command line and the profile had their say.
pub(super) fn applied(mut text: Value, config: &NetworkConfig) -> serde_json::Result<Value> {
    for field in config.dropped() {
        let (parent, name) = match field.rsplit_once('.') {
            Some((parent, name)) => (text.get_mut(parent), name),
            None => (Some(&mut text), field),
        };
        if let Some(parent) = parent.and_then(Value::as_object_mut) {
            parent.remove(name);
        }
    }
    let members = members(&mut text);
    members.insert("policy".to_owned(), serde_json::to_value(&config.policy)?);
    members.insert("ports".to_owned(), serde_json::to_value(&config.ports)?);
    for (name, number) in [
        ("max_connections", config.max_connections),
        ("max_udp_connections", config.max_udp_connections),
        ("max_icmp_connections", config.max_icmp_connections),
        ("max_inbound_udp_connections", config.max_inbound_udp_connections),
    ] {
        match number {
            Some(number) => members.insert(name.to_owned(), number.into()),
            None => members.remove(name),
        };
    }
    Ok(without_values(text))
}

fn members(text: &mut Value) -> &mut Map<String, Value> {
    if !text.is_object() {
        *text = json!({});
    }
    text.as_object_mut().expect("because it is made one")
}

/// A secret that is written back without a value keeps the one that it has.
fn without_values(mut text: Value) -> Value {
    let secrets = text.pointer_mut("/secrets/secrets").and_then(Value::as_array_mut);
    for secret in secrets.into_iter().flatten().filter_map(Value::as_object_mut) {
        secret.remove("value");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_not_shown_and_the_rest_is_as_it_was_written() {
        let text = r#"{"strict": false, "secrets": {"secrets": [
            {"env_var": "A", "value": "hunter2", "allowed_hosts": ["a.test"]},
            {"env_var": "B", "source": {"kind": "env", "var": "X"},
                "allowed_hosts": ["b.test"]}]}}"#;
        let config = NetworkConfig::from_json(text).unwrap();
        let shown = Document::first(text, &config).unwrap().text;
        assert!(!shown.to_string().contains("hunter2"));
        let again = NetworkConfig::from_json(&shown.to_string()).unwrap();
        assert_eq!((again.policy, again.strict), (config.policy, false));
        assert_eq!(again.secrets.secrets[1], config.secrets.secrets[1]);
        assert_eq!(again.secrets.secrets[0].allowed_hosts, config.secrets.secrets[0].allowed_hosts);
    }
    #[test]
    fn a_tenant_is_shown_what_holds_of_what_it_wrote() {
        let text = r#"{"interface": {"mtu": 9000}, "strict": false, "max_connections": 0,
            "dns": {"nameservers": ["10.0.0.53"]}, "trust_host_cas": true,
            "nat64_prefixes": ["fd00:64::/96"], "secrets": {"secrets": []},
            "ports": [{"host_port": 1, "guest_port": 2}], "http": {"deny_response": true},
            "outbound_proxy": {"protocol": "socks5", "address": "10.0.0.1:1080"},
            "outbound": {"device": "eth0"},
            "tls": {"enabled": true, "upstream_ca_cert": ["/a"], "scoped_upstream_ca_cert": [],
                "intercept_ca": {}}}"#;
        let config = NetworkConfig::from_json(text).unwrap().for_tenant();
        let shown = Document::first(text, &config).unwrap().text;
        let policy = serde_json::to_value(&config.policy).unwrap();
        let expected = json!({ "http": {"deny_response": true}, "max_connections": 1024,
            "max_udp_connections": 1024, "max_inbound_udp_connections": 1024, "policy": policy,
            "ports": [], "tls": {"enabled": true} });
        assert_eq!(shown, expected);
        let again = NetworkConfig::from_json(&shown.to_string()).unwrap().for_tenant();
        assert_eq!(again, config, "nothing else holds");
    }
}
