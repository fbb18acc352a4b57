//! `http`: what a guest reads in place of a server that it may not reach.

use serde::Deserialize;
use sluicegate_core::{ConfigError, DenyFormat, DenyPage};

/// What the JSON says where the user says nothing.
const NETWORK_MESSAGE: &str = "Request blocked by network policy.";
/// What it says of a secret.
const SECRET_MESSAGE: &str = "Request blocked by secret policy.";
/// Bytes of the longest message.
const MESSAGE_MAX: usize = 256;
/// What the text says likewise.
const TEXT: &str = "Access to {host} is blocked by the network policy of this sandbox.\n";

/// How denials are told to programs that speak HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Whether a request at port 80 that no rule matches is answered with status 403; otherwise the
    /// connection is refused.
    pub deny_response: bool,
    /// How the answer is written.
    pub deny_response_format: DenyResponseFormat,
    /// The text, in which `{host}` is the name that was asked for.
    pub deny_message: Option<String>,
    /// The message of the JSON.
    pub network_deny_message: Option<String>,
    /// The message of the JSON where a secret was to go where it may not.
    pub secret_deny_message: Option<String>,
}

/// How a denial is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DenyResponseFormat {
    /// `{"code": ..., "message": ..., "domain": ...}`.
    #[default]
    Json,
    /// Plain text.
    Text,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            deny_response: true,
            deny_response_format: DenyResponseFormat::Json,
            deny_message: None,
            network_deny_message: None,
            secret_deny_message: None,
        }
    }
}

impl HttpConfig {
    /// The page that the engine answers with.
    pub(super) fn to_core(&self) -> Result<Option<DenyPage>, ConfigError> {
        for (field, message) in [
            ("http.deny_message", &self.deny_message),
            ("http.network_deny_message", &self.network_deny_message),
            ("http.secret_deny_message", &self.secret_deny_message),
        ] {
            if let Some(len) = message.as_ref().map(String::len).filter(|len| *len > MESSAGE_MAX) {
                return Err(ConfigError::new(field, len, "at most 256 bytes"));
            }
        }
        if !self.deny_response {
            return Ok(None);
        }
        let (format, message) = match self.deny_response_format {
            DenyResponseFormat::Json => (DenyFormat::Json, self.network_message()),
            DenyResponseFormat::Text => (DenyFormat::Text, self.text()),
        };
        let too_long = |_| ConfigError::new("http", message.len(), "at most 256 bytes");
        Ok(Some(DenyPage { format, message: message.try_into().map_err(too_long)? }))
    }

    /// The message of the JSON where policy denies a host.
    pub(crate) fn network_message(&self) -> &str {
        self.network_deny_message.as_deref().unwrap_or(NETWORK_MESSAGE)
    }

    /// The message of the JSON where a secret was to go where it may not.
    pub(crate) fn secret_message(&self) -> &str {
        self.secret_deny_message.as_deref().unwrap_or(SECRET_MESSAGE)
    }

    /// The text, in which `{host}` is the name.
    pub(crate) fn text(&self) -> &str {
        self.deny_message.as_deref().unwrap_or(TEXT)
    }
}

#[cfg(test)]
mod tests {
    use crate::NetworkConfig;

    fn load(http: &str) -> Result<sluicegate_core::Config, String> {
        let config = NetworkConfig::from_json(&format!(r#"{{"http": {http}}}"#));
        config.map_err(|e| e.to_string())?.to_core(0, [0; 16]).map_err(|e| e.to_string())
    }

    #[test]
    fn denials_are_told_in_json_unless_it_is_said_otherwise() {
        let page = load("{}").unwrap().deny_page.unwrap();
        assert_eq!(page.message, "Request blocked by network policy.");
        let page = load(r#"{"deny_response_format": "text", "deny_message": "no {host}"}"#);
        assert_eq!(page.unwrap().deny_page.unwrap().message, "no {host}");
        assert_eq!(load(r#"{"deny_response": false}"#).unwrap().deny_page, None);
    }

    #[test]
    fn a_message_that_is_too_long_is_refused_by_name() {
        let long = format!(r#"{{"network_deny_message": "{}"}}"#, "a".repeat(257));
        let error = load(&long).unwrap_err();
        assert!(error.contains("http.network_deny_message: 257 is not at most 256"), "{error}");
        assert!(load(r#"{"deny_response_format": "xml"}"#).unwrap_err().contains("xml"));
    }
}
