//! `secrets`: credentials that the guest uses and never has.
//!
//! Owns how they are written and where their values come from; must not know how they are put into
//! requests. No value is in any text that this file makes.

mod written;

use core::fmt;

use serde::{Deserialize, Deserializer};
use sluicegate_core::ConfigError;
use zeroize::Zeroizing;

use super::host::HostPattern;

/// Secrets of one network.
const SECRETS_MAX: usize = 64;
/// Bytes of the longest placeholder.
const PLACEHOLDER_BYTES_MAX: usize = 1024;
/// Bytes of the longest value.
const VALUE_BYTES_MAX: usize = 64 * 1024;

/// Which credentials the gateway holds for the guest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "written::Secrets")]
pub struct SecretsConfig {
    /// The credentials.
    pub secrets: Vec<SecretConfig>,
    /// What happens where a placeholder is on its way to somebody who may not have its value.
    pub violation_action: ViolationAction,
    /// Servers that may be sent placeholders, unchanged.
    pub passthrough_hosts: Option<Vec<HostPattern>>,
    /// Whether a value that a server sends back becomes its placeholder again.
    pub redact_responses: bool,
}

impl Default for SecretsConfig {
    fn default() -> Self {
        Self {
            secrets: vec![],
            violation_action: ViolationAction::default(),
            passthrough_hosts: None,
            redact_responses: true,
        }
    }
}

/// One credential.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "written::Secret")]
pub struct SecretConfig {
    /// The guest's environment variable, whose value is the placeholder.
    pub env_var: String,
    /// The value itself.
    pub value: SecretValue,
    /// Where the value is instead.
    pub source: Option<SecretSource>,
    /// What the guest has in the value's place; `$MSB_` and the variable's name where it is not
    /// said.
    pub placeholder: Option<String>,
    /// Who may be sent the value.
    pub allowed_hosts: Vec<HostPattern>,
    /// Where in a request the placeholder becomes the value.
    pub substitution: SubstitutionConfig,
    /// Servers that may be sent the placeholder, unchanged.
    pub passthrough_hosts: Vec<HostPattern>,
    /// What a violation leads to, in place of what `secrets` says.
    pub violation_action: Option<ViolationAction>,
    /// Whether the server must have proven its name. Without it one that `tls` does not verify may
    /// have the value, and so may requests in the clear.
    pub require_tls_identity: bool,
}

/// A credential's value: wiped when it goes, and never shown.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct SecretValue(Zeroizing<String>);

impl SecretValue {
    /// `value`, which the caller should not keep.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The value, for who puts it into requests.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<'de> Deserialize<'de> for SecretValue {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        // What serde says of another type would quote it.
        let text = String::deserialize(json)
            .map_err(|_| serde::de::Error::custom("a value must be a string"))?;
        Ok(Self::new(text))
    }
}

/// Where a value is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SecretSource {
    /// In a variable of the gateway's own environment.
    Env {
        /// Its name.
        var: String,
    },
}

/// Where in a request a placeholder becomes the value.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SubstitutionConfig {
    /// In the values of header fields, in Basic credentials, and in gRPC's binary metadata.
    pub headers: bool,
    /// In those of these names only; empty: in all.
    pub header_fields: Vec<String>,
    /// In the target's query.
    pub query: bool,
    /// In the body.
    pub body: bool,
}

impl Default for SubstitutionConfig {
    fn default() -> Self {
        Self { headers: true, header_fields: vec![], query: false, body: false }
    }
}

/// What follows where a placeholder is on its way to somebody who may not have its value. The
/// request goes no further in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ViolationAction {
    /// Nothing more.
    Block,
    /// It is told as an event.
    #[default]
    BlockAndLog,
    /// That, and the guest is ended ([`TerminationHandle`](crate::TerminationHandle)).
    BlockAndTerminate,
}

impl SecretConfig {
    /// A credential for `host` only, in header fields.
    #[must_use]
    pub fn new(env_var: &str, value: SecretValue, host: HostPattern) -> Self {
        Self {
            env_var: env_var.to_owned(),
            value,
            source: None,
            placeholder: None,
            allowed_hosts: vec![host],
            substitution: SubstitutionConfig::default(),
            passthrough_hosts: vec![],
            violation_action: None,
            require_tls_identity: true,
        }
    }

    /// What the guest has in the value's place.
    #[must_use]
    pub fn placeholder(&self) -> String {
        self.placeholder.clone().unwrap_or_else(|| format!("$MSB_{}", self.env_var))
    }

    fn check(&self) -> Result<(), ConfigError> {
        let name = &self.env_var;
        if name.is_empty() || name.contains(['=', '\0']) {
            let expected = "the name of a variable: not empty, without `=` and NUL";
            return Err(ConfigError::new("secrets.secrets[].env_var", name, expected));
        }
        // From here on the variable says which of the secrets is meant.
        let wrong = |field, expected| Err(ConfigError::new(field, name, expected));
        if self.allowed_hosts.is_empty() {
            let expected = "a secret that somebody may have; name at least one host";
            return wrong("secrets.secrets[].allowed_hosts", expected);
        }
        let places = &self.substitution;
        if !(places.headers || places.query || places.body) {
            let expected = "a secret with a place to go to: headers, query or body";
            return wrong("secrets.secrets[].substitution", expected);
        }
        if !places.headers && !places.header_fields.is_empty() {
            let expected = "a secret whose header_fields are of use without headers";
            return wrong("secrets.secrets[].substitution.header_fields", expected);
        }
        let is_field = |field: &String| field.parse::<hyper::header::HeaderName>().is_ok();
        if let Some(field) = places.header_fields.iter().find(|field| !is_field(field)) {
            let expected = "the name of a header field (RFC 9110 5.1)";
            let where_ = "secrets.secrets[].substitution.header_fields";
            return Err(ConfigError::new(where_, field, expected));
        }
        let placeholder = self.placeholder();
        let fits = (1..=PLACEHOLDER_BYTES_MAX).contains(&placeholder.len());
        if !fits || placeholder.contains(['\0', '\r', '\n']) {
            let expected = "a secret whose placeholder has 1 to 1024 bytes, without NUL, CR and LF";
            return wrong("secrets.secrets[].placeholder", expected);
        }
        if self.source.is_some() && !self.value.reveal().is_empty() {
            let expected = "a secret with one of value and source";
            return wrong("secrets.secrets[].source", expected);
        }
        Ok(())
    }

    /// The same with its value in it, wherever that was.
    fn resolve(self) -> Result<Self, ConfigError> {
        let name = self.env_var.clone();
        let value = match &self.source {
            None => self.value,
            Some(SecretSource::Env { var }) => {
                let value = std::env::var(var).map_err(|_| {
                    let expected = "a variable of this process's environment";
                    ConfigError::new("secrets.secrets[].source.var", var, expected)
                })?;
                SecretValue::new(value)
            }
        };
        check_value(&name, value.reveal(), self.substitution.headers)?;
        Ok(Self { value, source: None, ..self })
    }
}

/// Whether `value` can be the value of the secret `name`, which may go into headers.
pub(crate) fn check_value(name: &str, value: &str, headers: bool) -> Result<(), ConfigError> {
    let field = "secrets.secrets[].value";
    if value.is_empty() || value.len() > VALUE_BYTES_MAX {
        let expected = "a secret whose value has 1 to 65536 bytes";
        return Err(ConfigError::new(field, name, expected));
    }
    if headers && hyper::header::HeaderValue::from_bytes(value.as_bytes()).is_err() {
        let expected = "a secret whose value may stand in a header: without control characters";
        return Err(ConfigError::new(field, name, expected));
    }
    Ok(())
}

impl SecretsConfig {
    /// Whether there is one that may go to its servers in the clear.
    pub(super) fn go_in_the_clear(&self) -> bool {
        self.secrets.iter().any(|secret| !secret.require_tls_identity)
    }

    /// Checks every field but the values.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.secrets.len() > SECRETS_MAX {
            let count = self.secrets.len();
            return Err(ConfigError::new("secrets.secrets", count, "at most 64 secrets"));
        }
        let mut names = std::collections::BTreeSet::new();
        for secret in &self.secrets {
            secret.check()?;
            let name = &secret.env_var;
            if !names.insert(name) {
                let field = "secrets.secrets[].env_var";
                return Err(ConfigError::new(field, name, "the name of one secret only"));
            }
        }
        Ok(())
    }

    /// The same with every value in it, which are checked as well, wherever they were.
    pub(crate) fn resolve(self) -> Result<Self, ConfigError> {
        self.check()?;
        let secrets = self.secrets.into_iter().map(SecretConfig::resolve);
        Ok(Self { secrets: secrets.collect::<Result<_, _>>()?, ..self })
    }
}
