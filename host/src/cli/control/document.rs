//! The configuration that holds, as it is shown: what was written, without the values of secrets.

use serde_json::{Map, Value, json};
use sluicegate_host::NetworkConfig;

use crate::cli::failure::Failure;

#[derive(Clone)]
/// A configuration as JSON, and the number of the change that led to it.
pub(in crate::cli) struct Document {
    pub(super) text: Value,
    pub(super) version: u64,
}

impl Document {
    /// What the network begins with: `text` as it was written, with the policy and the ports that
    /// `config` has, in which the command line had its say.
    pub(in crate::cli) fn first(text: &str, config: &NetworkConfig) -> Result<Self, Failure> {
        let mut text: Value = serde_json::from_str(text)?;
        let members = members(&mut text);
        members.insert("policy".to_owned(), serde_json::to_value(&config.policy)?);
        members.insert("ports".to_owned(), serde_json::to_value(&config.ports)?);
        Ok(Self { text: without_values(text), version: 1 })
    }

    /// `text`, which holds since change `version`.
    pub(super) fn new(text: Value, version: u64) -> Self {
        Self { text: without_values(text), version }
    }
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
}
