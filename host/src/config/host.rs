//! Patterns of host names, as `bypass`, `scoped_*` and `allowed_hosts` have them.
//!
//! As text: `example.com` is that name, `*.example.com` that name and all below it, `*` any. As
//! JSON they may also be written `{"exact": "example.com"}`, `{"wildcard": "*.example.com"}` and
//! `"any"`.

use core::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use sluicegate_core::limits::DOMAIN_BYTES_MAX;

/// Which names are meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This name; in lower case, without a dot at its end.
    Exact(String),
    /// This name and those below it; written with `*.` before it.
    Wildcard(String),
    /// Every name, and what has none.
    Any,
}

impl HostPattern {
    /// Whether `name`, in lower case and without a dot at its end, is meant.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact == name,
            Self::Wildcard(apex) => {
                let below = name.strip_suffix(apex.as_str());
                below.is_some_and(|below| below.is_empty() || below.ends_with('.'))
            }
        }
    }

    /// How narrow it is: of two that match, the greater says more.
    #[must_use]
    pub fn rank(&self) -> (u8, usize) {
        match self {
            Self::Any => (0, 0),
            Self::Wildcard(apex) => (1, apex.len()),
            Self::Exact(_) => (2, 0),
        }
    }
}

/// What is expected where a pattern is not one.
pub(super) const EXPECTED: &str = "a host name, `*.` and a name, or `*`";

impl FromStr for HostPattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "*" || text == "any" {
            return Ok(Self::Any);
        }
        match text.strip_prefix("*.") {
            Some(apex) => name(apex).map(Self::Wildcard),
            None => name(text).map(Self::Exact),
        }
        .ok_or(EXPECTED)
    }
}

/// `text` as names are compared, if it is one (or an IP address, which has no name).
fn name(text: &str) -> Option<String> {
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Some(text.to_ascii_lowercase());
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let mut labels = name.split('.');
    let fits = name.len() <= DOMAIN_BYTES_MAX
        && labels.all(|label| (1..=63).contains(&label.len()) && label.bytes().all(is_of_name));
    fits.then_some(name)
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(apex) => write!(f, "*.{apex}"),
        }
    }
}

/// How a file writes a pattern. (The names in capitals are those of microsandbox-network 0.5.)
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a host name, `*.` and a name, `*`, or `any`")]
enum Form {
    Text(String),
    Object(Object),
}

#[derive(Deserialize)]
enum Object {
    #[serde(rename = "exact", alias = "Exact")]
    Exact(String),
    #[serde(rename = "wildcard", alias = "Wildcard")]
    Wildcard(String),
}

impl<'de> Deserialize<'de> for HostPattern {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        let (text, pattern) = match Form::deserialize(json)? {
            Form::Text(text) if text == "Any" => (text, Ok(Self::Any)),
            Form::Text(text) => {
                let pattern = text.parse();
                (text, pattern)
            }
            // Who says which of them it is means no other, wider one.
            Form::Object(Object::Exact(text)) => {
                let pattern = name(&text).map(Self::Exact);
                (text, pattern.ok_or("a host name; `*.` and a name is a `wildcard`, `*` is `any`"))
            }
            Form::Object(Object::Wildcard(text)) => {
                let pattern = text.strip_prefix("*.").and_then(name).map(Self::Wildcard);
                (text, pattern.ok_or("`*.` and a host name"))
            }
        };
        pattern.map_err(|expected| {
            serde::de::Error::custom(format_args!("{text:?} is not {expected}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_wildcard_is_the_name_and_those_below_it() {
        let wildcard = pattern("*.Example.com");
        for (name, expected) in [
            ("example.com", true),
            ("a.example.com", true),
            ("a.b.example.com", true),
            ("badexample.com", false),
            ("example.com.evil", false),
            ("com", false),
        ] {
            assert_eq!(wildcard.matches(name), expected, "{name}");
        }
        assert!(pattern("Example.com.").matches("example.com"));
        assert!(!pattern("example.com").matches("a.example.com"));
        assert!(pattern("*").matches("whatever"));
    }

    #[test]
    fn the_narrower_of_two_has_the_higher_rank() {
        let mut all = ["a.b.c", "*", "*.b.c", "*.c"].map(pattern);
        all.sort_by_key(HostPattern::rank);
        assert_eq!(all.map(|p| p.to_string()), ["*", "*.c", "*.b.c", "a.b.c"]);
    }

    #[test]
    fn every_form_of_the_peer_loads() {
        let json = r#"["a.test", "*.a.test", "*", "any", "Any", {"exact": "a.test"},
            {"wildcard": "*.a.test"}, {"Exact": "a.test"}, {"Wildcard": "*.a.test"}]"#;
        let all: Vec<HostPattern> = serde_json::from_str(json).unwrap();
        let text: Vec<String> = all.iter().map(ToString::to_string).collect();
        let expected =
            ["a.test", "*.a.test", "*", "*", "*", "a.test", "*.a.test", "a.test", "*.a.test"];
        assert_eq!(text, expected);
        for (wrong, expected) in [
            (r#""a b""#, "is not a host name, `*.` and a name, or `*`"),
            (r#""""#, "is not a host name"),
            (r#""*.*.a""#, "is not a host name"),
            (r#""a..b""#, "is not a host name"),
            (r#"{"exact": "/"}"#, "is not a host name"),
            (r#"{"exact": "*"}"#, "is not a host name; `*.` and a name is a `wildcard`"),
            (r#"{"exact": "*.a.test"}"#, "is not a host name"),
            (r#"{"wildcard": "*"}"#, "is not `*.` and a host name"),
            (r#"{"wildcard": "a.test"}"#, "is not `*.` and a host name"),
        ] {
            let error = serde_json::from_str::<HostPattern>(wrong).unwrap_err().to_string();
            assert!(error.contains(expected), "{wrong}: {error}");
        }
        // A word that stands for all is a name like any other where it is said to be one.
        let any: HostPattern = serde_json::from_str(r#"{"exact": "any"}"#).unwrap();
        assert_eq!(any, HostPattern::Exact("any".to_owned()));
    }
}
