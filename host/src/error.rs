//! What can go wrong for an embedder, by blame.

use std::io;
use std::path::{Path, PathBuf};

use sluicegate_core::ConfigError;

/// Why a network could not be made, started or kept running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A port can't be published.
    #[error("port {port} can't be published{}: {source}", hint(source))]
    Publish {
        /// The address and port of this host.
        port: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// This host has not what the configuration says that connections go on from.
    #[error("configuration: {field}: {value} can't be used{}: {source}", hint(source))]
    Outbound {
        /// The field, dotted from the top.
        field: &'static str,
        /// What it says.
        value: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A field of the configuration is out of its range; the text names field, value and limit.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// The authority for intercepted TLS, or one that servers are believed by.
    #[error("tls: {0}")]
    Authority(#[from] AuthorityError),
    /// A configuration could not be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The slot is not one of 0 to 65535.
    #[error("slot {0} is not between 0 and 65535")]
    Slot(u64),
    /// The backend was taken before; a network has one guest.
    #[error("the backend of this network was already taken")]
    BackendTaken,
    /// The network was started before, or has been shut down.
    #[error("the network was already started")]
    AlreadyStarted,
    /// The network was not started yet, or has ended: nobody is there to be asked.
    #[error("the network does not run")]
    NotRunning,
    /// The network's driver did not answer in time, or too much was asked of it at once.
    #[error("the network's driver is busy; ask again")]
    Busy,
    /// Somebody else has changed the configuration meanwhile.
    #[error("the configuration is number {current} by now, not {expected}; read it again")]
    Conflict {
        /// The change that was expected to be the last.
        expected: u64,
        /// The last.
        current: u64,
    },
    /// The machine refused something that the network can't do without.
    #[error("{doing}: {source}")]
    Machine {
        /// What was tried, as "opening the TAP interface".
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The driver's thread died of a bug; the other networks of the process are not concerned.
    #[error("the network's driver stopped on a bug: {0}")]
    Bug(String),
}

impl Error {
    /// Whether the network ended because its guest's link has no other end any more: the machine
    /// behind it has ended, which is no failure of this host.
    #[must_use]
    pub fn is_guest_gone(&self) -> bool {
        matches!(self, Self::Machine { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// `Machine` for `doing`, to be used with `map_err`.
    pub(crate) fn machine(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Machine { doing, source }
    }
}

/// Why a configuration could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file can't be read.
    #[error("{path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is longer than any configuration.
    #[error("{path}: longer than 1 MiB", path = path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// The file is longer than any snapshot.
    #[error("{path}: longer than 16 MiB", path = path.display())]
    LongSnapshot {
        /// The file.
        path: PathBuf,
    },
    /// Not JSON, or a field that is unknown or of another type.
    #[error("{}", in_words(field, problem))]
    Json {
        /// The field, dotted from the top; `.` or `?` where it is none.
        field: String,
        /// What is wrong with it, with line and column.
        problem: serde_json::Error,
    },
    /// What a file says is no configuration, or no snapshot.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<LoadError>,
    },
    /// A field that is unknown, and like a known one.
    #[error("{field}: unknown field at line {line} column {column}; did you mean `{nearest}`?")]
    Unknown {
        /// The field, dotted from the top.
        field: String,
        /// The known field's own name.
        nearest: String,
        /// The line of the text, from 1.
        line: usize,
        /// The column of the line, from 1.
        column: usize,
    },
    /// A section that says nothing.
    #[error("{field}: it limits nothing; leave it out, or say what it limits")]
    Nothing {
        /// The section, dotted from the top.
        field: &'static str,
    },
}

impl LoadError {
    /// It, as said of the text of `path`.
    #[must_use]
    pub fn of(self, path: &Path) -> Self {
        Self::File { path: path.to_owned(), source: Box::new(self) }
    }
}

/// `problem` of `field`.
fn in_words(field: &str, problem: &serde_json::Error) -> String {
    let text = in_json(&problem.to_string());
    match field {
        "." | "?" if problem.is_data() => text,
        "." | "?" => format!("this is not JSON: {text}"),
        _ => format!("{field}: {text}"),
    }
}

/// The `problem` that serde tells, without Rust's names for what it expected.
fn in_json(problem: &str) -> String {
    let split = problem.rsplit_once(", expected ");
    let Some((before, (expected, after))) =
        split.and_then(|(before, rest)| Some((before, rest.split_once(" at line ")?)))
    else {
        return problem.to_owned();
    };
    let words = match expected {
        "u8" => "a number from 0 to 255",
        "u16" => "a number from 0 to 65535",
        "u32" => "a number from 0 to 4294967295",
        "u64" | "usize" => "a number from 0 on",
        "a sequence" => "a list",
        other if other.starts_with("struct ") => "an object, as {}",
        other => other,
    };
    format!("{before}, expected {words} at line {after}")
}

/// What may be the way out where a port can't be had.
fn hint(error: &io::Error) -> &'static str {
    let kind = error.kind();
    if kind == io::ErrorKind::PermissionDenied {
        " (below 1024 it takes root, CAP_NET_BIND_SERVICE or net.ipv4.ip_unprivileged_port_start)"
    } else if kind == io::ErrorKind::AddrNotAvailable {
        " (this host has no such address)"
    } else {
        ""
    }
}

/// What is wrong with an authority.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// A file can't be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// One file of two is there.
    #[error(
        "{} is there and {} is not; give both, or neither to have them made",
        there.display(), missing.display()
    )]
    Half {
        /// The file that is there.
        there: PathBuf,
        /// The other.
        missing: PathBuf,
    },
    /// A file is not what it should be.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// No key could be made, or nothing be signed.
    #[error("making certificates: {0}")]
    Signing(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NetworkConfig;

    #[test]
    fn what_is_no_configuration_is_said_in_words_of_json_with_its_place() {
        for (text, said) in [
            ("", "this is not JSON: EOF while parsing a value at line 1 column 0"),
            ("{} {}", "this is not JSON: trailing characters at line 1 column 4"),
            ("5", "invalid type: integer `5`, expected an object, as {} at line 1 column 1"),
            (
                r#"{"interface": {"mtu": 99999}}"#,
                "interface.mtu: invalid value: integer `99999`, expected a number from 0 to 65535 \
                 at line 1 column 27",
            ),
            (
                r#"{"policy": {"rules": {}}}"#,
                "policy.rules: invalid type: map, expected a list at line 1 column 21",
            ),
        ] {
            let error = NetworkConfig::from_json(text).unwrap_err();
            assert_eq!(error.to_string(), said);
            let path = Path::new("net.json");
            assert_eq!(error.of(path).to_string(), format!("net.json: {said}"));
        }
    }

    #[test]
    fn a_port_that_can_not_be_had_says_why_once_and_what_helps() {
        let said = |kind: io::ErrorKind| {
            let source = io::Error::new(kind, "the system's word");
            let port = std::net::SocketAddr::from(([127, 0, 0, 1], 80));
            Error::Publish { port, source }.to_string()
        };
        assert_eq!(
            said(io::ErrorKind::AddrInUse),
            "port 127.0.0.1:80 can't be published: the system's word"
        );
        let denied = said(io::ErrorKind::PermissionDenied);
        assert!(denied.contains("root") && denied.ends_with("): the system's word"), "{denied}");
    }
}
