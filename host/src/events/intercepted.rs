//! What there was to tell of an intercepted connection.

use core::fmt;
use std::net::SocketAddr;
use std::time::SystemTime;

/// Something on an intercepted connection, TLS or HTTP in the clear, that went no further.
///
/// Shown in words: `refused 100.96.0.2:4711 -> 93.184.216.34:443 evil.test: the placeholder of
/// API_KEY in a header`. No value of a secret is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Intercepted {
    /// When.
    pub time: SystemTime,
    /// The guest's end.
    pub guest: SocketAddr,
    /// The server, as the guest addressed it.
    pub destination: SocketAddr,
    /// The name that the guest said in its handshake, or as the Host in the clear.
    pub name: Option<String>,
    /// What it was.
    pub incident: Incident,
    /// How many before this one were too many to be told.
    pub left_out: u64,
}

/// Bytes of a text of somebody else's in an event; what it has more is left out.
pub const EVENT_TEXT_BYTES_MAX: usize = 256;

/// What went no further. A text in it that the guest or a server chose has
/// [`EVENT_TEXT_BYTES_MAX`] at most.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Incident {
    /// A request with the placeholder of a secret that this server may not have.
    Secret {
        /// The secret's variable; `None`: a body that can't be looked into.
        env_var: Option<String>,
        /// Where in the request it was: `header`, `query`, `body` and so on.
        place: &'static str,
    },
    /// A request for another server than the handshake's.
    Authority {
        /// Whom it was for.
        said: String,
    },
    /// The server did not prove its name, did not end its handshake, or said in a WebSocket what
    /// can't be looked into.
    Server {
        /// Why.
        problem: String,
    },
}

impl Incident {
    /// The name used in logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Secret { .. } => "secret",
            Self::Authority { .. } => "authority",
            Self::Server { .. } => "server",
        }
    }

    /// The same, with what somebody else said cut to a length that fills nobody's log.
    pub(crate) fn shortened(mut self) -> Self {
        match &mut self {
            Self::Authority { said: text } | Self::Server { problem: text } => {
                if text.len() > EVENT_TEXT_BYTES_MAX {
                    const MARK: &str = "...";
                    text.truncate(text.floor_char_boundary(EVENT_TEXT_BYTES_MAX - MARK.len()));
                    text.push_str(MARK);
                    // It may wait in many queues.
                    text.shrink_to_fit();
                }
            }
            Self::Secret { .. } => {}
        }
        self
    }
}

impl fmt::Display for Incident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret { env_var: Some(env_var), place } => {
                write!(f, "the placeholder of {env_var} in its {place}")
            }
            Self::Secret { env_var: None, place } => {
                write!(f, "an {place} in which a placeholder could hide")
            }
            Self::Authority { said } => write!(f, "a request for {said:?}"),
            Self::Server { problem } => write!(f, "the server failed: {problem}"),
        }
    }
}

impl fmt::Display for Intercepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused tcp {} -> {}", self.guest, self.destination)?;
        if let Some(name) = &self.name {
            write!(f, " {name}")?;
        }
        write!(f, ": {}", self.incident)?;
        match self.left_out {
            0 => Ok(()),
            count => write!(f, "; {count} before it are left out"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_else_said_is_cut_and_what_is_short_is_not() {
        let short = |said: String| {
            let Incident::Authority { said } = (Incident::Authority { said }).shortened() else {
                unreachable!("it stays what it was");
            };
            said
        };
        assert_eq!(short("a".repeat(256)), "a".repeat(256));
        assert_eq!(short("a".repeat(200_000)), "a".repeat(253) + "...");
        // In the middle of a letter nothing is cut.
        assert_eq!(short("ä".repeat(200)), "ä".repeat(126) + "...");
        let problem = "no\u{e9}".repeat(100);
        let Incident::Server { problem } = (Incident::Server { problem }).shortened() else {
            unreachable!("it stays what it was");
        };
        assert!(problem.len() <= EVENT_TEXT_BYTES_MAX && problem.ends_with("..."), "{problem}");
        assert!(problem.capacity() < 1024, "the rest takes no memory either");
    }
}
