//! What there was to tell of an intercepted connection.

use core::fmt;
use std::net::SocketAddr;
use std::time::SystemTime;

/// Something on an intercepted TLS connection that went no further.
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
    /// The name that the guest said in its handshake.
    pub name: Option<String>,
    /// What it was.
    pub incident: Incident,
    /// How many before this one were too many to be told.
    pub left_out: u64,
}

/// What went no further.
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
    /// The server did not prove its name, or did not end its handshake.
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
            Self::Server { problem } => write!(f, "the server's handshake failed: {problem}"),
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
