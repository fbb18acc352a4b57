//! `secrets` as they are written: by the names of today, or by those of microsandbox-network 0.5.
//!
//! Owns what each name of then means now, and that nothing is said by both; must not know what is a
//! sound secret.

use serde::{Deserialize, Deserializer};

use super::super::host::HostPattern;
use super::{
    SecretConfig, SecretSource, SecretValue, SecretsConfig, SubstitutionConfig, ViolationAction,
};

/// All secrets.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Secrets {
    #[serde(default)]
    secrets: Said<Vec<SecretConfig>>,
    #[serde(default)]
    entries: Said<Vec<SecretConfig>>,
    #[serde(default)]
    violation_action: Said<Action>,
    #[serde(default)]
    on_violation: Said<Action>,
    #[serde(default)]
    passthrough_hosts: Said<Option<Vec<HostPattern>>>,
    #[serde(default)]
    redact_responses: Said<bool>,
}

/// One of them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Secret {
    env_var: String,
    #[serde(default)]
    value: SecretValue,
    #[serde(default)]
    source: Option<SecretSource>,
    #[serde(default)]
    placeholder: Option<String>,
    #[serde(default)]
    allowed_hosts: Vec<HostPattern>,
    #[serde(default)]
    substitution: Said<SubstitutionConfig>,
    #[serde(default)]
    injection: Said<Injection>,
    #[serde(default)]
    passthrough_hosts: Said<Vec<HostPattern>>,
    #[serde(default)]
    violation_action: Said<Option<Action>>,
    #[serde(default)]
    on_violation: Said<Option<Action>>,
    #[serde(default)]
    require_tls_identity: Said<bool>,
}

/// What is said of a field, if it is there: `null` is there, too.
struct Said<T>(Option<T>);

/// Where a placeholder became a value in 0.5.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Injection {
    #[serde(default)]
    headers: Said<bool>,
    /// In Basic credentials, which today are among the headers.
    #[serde(default)]
    basic_auth: Said<bool>,
    #[serde(default)]
    query_params: Said<bool>,
    #[serde(default)]
    query: Said<bool>,
    #[serde(default)]
    body: Said<bool>,
}

/// What a violation leads to, or to whom it is none.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Action {
    #[serde(alias = "Block")]
    Block,
    #[serde(alias = "BlockAndLog", alias = "block_and_log")]
    BlockAndLog,
    #[serde(alias = "BlockAndTerminate", alias = "block_and_terminate")]
    BlockAndTerminate,
    #[serde(alias = "Passthrough")]
    Passthrough(Vec<HostPattern>),
}

impl<T> Default for Said<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Said<T> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        T::deserialize(json).map(|said| Self(Some(said)))
    }
}

impl<T> Said<T> {
    /// What is said under this name or under another one.
    fn or(self, names: [&str; 2], other: Self) -> Result<Option<T>, String> {
        match (self.0, other.0) {
            (Some(_), Some(_)) => {
                let [new, old] = names;
                Err(format!("`{new}` and `{old}`, which say the same: leave one out"))
            }
            (new, old) => Ok(new.or(old)),
        }
    }
}

impl Action {
    /// As it is said today.
    fn now(self) -> (Option<ViolationAction>, Option<Vec<HostPattern>>) {
        match self {
            Self::Block => (Some(ViolationAction::Block), None),
            Self::BlockAndLog => (Some(ViolationAction::BlockAndLog), None),
            Self::BlockAndTerminate => (Some(ViolationAction::BlockAndTerminate), None),
            Self::Passthrough(hosts) => (None, Some(hosts)),
        }
    }
}

/// What a violation leads to, and to whom it is none, of what is said of both.
fn policy<T>(
    action: Option<Action>,
    hosts: Said<T>,
    of_list: impl FnOnce(Vec<HostPattern>) -> T,
) -> Result<(Option<ViolationAction>, Option<T>), String> {
    let (action, passed) = action.map_or((None, None), Action::now);
    let names = ["passthrough_hosts", "passthrough"];
    Ok((action, hosts.or(names, Said(passed.map(of_list)))?))
}

impl TryFrom<Secrets> for SecretsConfig {
    type Error = String;

    fn try_from(said: Secrets) -> Result<Self, String> {
        let action = said.violation_action.or(ACTIONS, said.on_violation)?;
        let (action, passed) = policy(action, said.passthrough_hosts, Some)?;
        let default = Self::default();
        Ok(Self {
            secrets: said.secrets.or(["secrets", "entries"], said.entries)?.unwrap_or_default(),
            violation_action: action.unwrap_or_default(),
            passthrough_hosts: passed.flatten(),
            redact_responses: said.redact_responses.0.unwrap_or(default.redact_responses),
        })
    }
}

const ACTIONS: [&str; 2] = ["violation_action", "on_violation"];

impl TryFrom<Secret> for SecretConfig {
    type Error = String;

    fn try_from(said: Secret) -> Result<Self, String> {
        let injection = said.injection.0.map(SubstitutionConfig::try_from).transpose()?;
        let places = said.substitution.or(["substitution", "injection"], Said(injection))?;
        let action = said.violation_action.or(ACTIONS, said.on_violation)?.flatten();
        let (action, passed) = policy(action, said.passthrough_hosts, |hosts| hosts)?;
        Ok(Self {
            env_var: said.env_var,
            value: said.value,
            source: said.source,
            placeholder: said.placeholder,
            allowed_hosts: said.allowed_hosts,
            substitution: places.unwrap_or_default(),
            passthrough_hosts: passed.unwrap_or_default(),
            violation_action: action,
            require_tls_identity: said.require_tls_identity.0.unwrap_or(true),
        })
    }
}

impl TryFrom<Injection> for SubstitutionConfig {
    type Error = String;

    fn try_from(said: Injection) -> Result<Self, String> {
        let [headers, basic] = [said.headers, said.basic_auth].map(|said| said.0.unwrap_or(true));
        Ok(Self {
            headers: headers || basic,
            // There were no names of fields then: it was all of them.
            header_fields: vec![],
            query: said.query.or(["query", "query_params"], said.query_params)?.unwrap_or(false),
            body: said.body.0.unwrap_or(false),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(text: &str) -> Result<SecretsConfig, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    fn secret(fields: &str) -> Result<SecretConfig, String> {
        secrets(&format!(r#"{{"secrets": [{{"env_var": "A"{fields}}}]}}"#))
            .map(|mut all| all.secrets.remove(0))
    }

    #[test]
    fn where_a_value_went_then_is_where_it_goes_now() {
        let places = |headers, query, body| SubstitutionConfig {
            headers,
            query,
            body,
            header_fields: vec![],
        };
        for (fields, expected) in [
            ("", places(true, false, false)),
            (r#", "injection": {}"#, places(true, false, false)),
            (r#", "injection": {"headers": false}"#, places(true, false, false)),
            (r#", "injection": {"basic_auth": false}"#, places(true, false, false)),
            (
                r#", "injection": {"headers": false, "basic_auth": false, "body": true}"#,
                places(false, false, true),
            ),
            (r#", "injection": {"query_params": true}"#, places(true, true, false)),
            (r#", "injection": {"query": true}"#, places(true, true, false)),
        ] {
            assert_eq!(secret(fields).unwrap().substitution, expected, "{fields}");
        }
    }

    #[test]
    fn what_followed_then_follows_now() {
        let hosts = || vec!["other.test".parse().unwrap()];
        for (fields, action, passed) in [
            (r#", "on_violation": null"#, None, vec![]),
            (r#", "on_violation": "BlockAndLog""#, Some(ViolationAction::BlockAndLog), vec![]),
            (r#", "on_violation": {"Passthrough": ["other.test"]}"#, None, hosts()),
            (r#", "violation_action": {"passthrough": ["other.test"]}"#, None, hosts()),
            (
                r#", "on_violation": "block", "passthrough_hosts": ["other.test"]"#,
                Some(ViolationAction::Block),
                hosts(),
            ),
        ] {
            let secret = secret(fields).unwrap();
            assert_eq!(secret.violation_action, action, "{fields}");
            assert_eq!(secret.passthrough_hosts, passed, "{fields}");
        }
        let all = secrets(r#"{"entries": [{"env_var": "A"}], "on_violation": "block"}"#).unwrap();
        assert_eq!((all.secrets.len(), all.violation_action), (1, ViolationAction::Block));
        let all = secrets(r#"{"on_violation": {"passthrough": ["other.test"]}}"#).unwrap();
        assert_eq!(all.passthrough_hosts, Some(hosts()));
        assert_eq!(all.violation_action, ViolationAction::BlockAndLog);
    }

    #[test]
    fn what_is_said_by_both_names_is_refused_by_them() {
        let of_one = |fields: &str| secret(fields).map(|_| ());
        let of_all = |fields: &str| secrets(fields).map(|_| ());
        for (said, names) in [
            (of_one(r#", "injection": {}, "substitution": {}"#), ["substitution", "injection"]),
            (of_one(r#", "on_violation": null, "violation_action": null"#), ACTIONS),
            (
                of_one(r#", "on_violation": {"passthrough": []}, "passthrough_hosts": []"#),
                ["passthrough_hosts", "passthrough"],
            ),
            (
                of_one(r#", "injection": {"query": true, "query_params": true}"#),
                ["query", "query_params"],
            ),
            (of_all(r#"{"secrets": [], "entries": []}"#), ["secrets", "entries"]),
            (of_all(r#"{"on_violation": "block", "violation_action": "block"}"#), ACTIONS),
            (of_all(r#"{"violation_action": null}"#), ["expected value", "column 22"]),
        ] {
            let error = said.unwrap_err();
            assert!(names.iter().all(|name| error.contains(name)), "{names:?}: {error}");
        }
    }
}
