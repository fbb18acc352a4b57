//! Secrets: what the guest has in their place, who may have them, and where.
//!
//! A guest holds a *placeholder*; the gateway puts the *value* in its place on the way to a server
//! that may have it, and the placeholder in the value's on the way back. A placeholder that is on
//! its way to anybody else is a *violation*: what carries it goes no further.
//!
//! Owns all of that as rules over heads, bodies and bytes; must not know connections or tasks. Only
//! this folder sees values: they are wiped when they go, are shown by no `Debug`, and leave it in
//! requests to servers that are allowed them, and in nothing else. (What is wiped is what this
//! folder holds. A request on its way lies in buffers of hyper, rustls and the kernel.)
//!
//! Bounded: of what streams by, so much is held as could still become the longest placeholder,
//! encoded at its longest; where one placeholder begins another, the longer one counts. Of a
//! response it is as much as the longest value may take (`values`).

mod body;
mod codec;
mod coding;
pub(crate) mod digest;
mod head;
mod mask;
mod messages;
mod pattern;
mod redact;
mod stream;
mod values;
mod vault;
mod websocket;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use hyper::HeaderMap;
use hyper::header::HeaderName;
use zeroize::Zeroizing;

use crate::config::HostPattern;
use crate::config::secrets::{SecretConfig, SecretsConfig};

pub(crate) use crate::config::ViolationAction;
pub(crate) use body::BodyFilter;
pub(crate) use messages::are_asked_for as messages_are_asked_for;
use pattern::Patterns;
pub(crate) use stream::StreamScan;
use values::Values;
pub use vault::SecretsHandle;
pub(crate) use vault::Vault;

/// Values shorter than this are not looked for in responses: they would be found everywhere.
const REDACTED_BYTES_MIN: usize = 8;

/// Secrets that are kept when others have taken their place, for what may still come back of them:
/// as many as there may be, so that all of them may be changed at once.
const EARLIER_MAX: usize = 64;

/// One secret.
#[derive(PartialEq, Eq)]
struct Secret {
    env_var: String,
    value: Zeroizing<Vec<u8>>,
    placeholder: String,
    allowed: Vec<HostPattern>,
    passthrough: Vec<HostPattern>,
    action: ViolationAction,
    requires_tls: bool,
    in_headers: bool,
    /// Empty: all.
    fields: Vec<HeaderName>,
    in_query: bool,
    in_body: bool,
}

/// All secrets as they are at one time.
pub(crate) struct Snapshot {
    /// As they were configured; changed for the next snapshot.
    config: SecretsConfig,
    secrets: Vec<Arc<Secret>>,
    /// Those that were changed or removed, the last of them first: servers still have their values.
    earlier: Vec<Arc<Secret>>,
    /// The placeholders, in the order of the secrets.
    placeholders: Patterns,
    /// Of each secret the first that has its placeholder.
    first: Vec<usize>,
    /// What is looked for in responses: of the secrets, and of the earlier ones behind them.
    values: Values,
    /// Others have taken their place, and are there.
    is_old: AtomicBool,
    current: Weak<Current>,
}

/// Where the secrets are as they are now.
type Current = RwLock<Arc<Snapshot>>;

fn read(current: &Current) -> Arc<Snapshot> {
    Arc::clone(&current.read().unwrap_or_else(PoisonError::into_inner))
}

impl Snapshot {
    /// What `config` says, behind the snapshot `before`.
    fn new(config: SecretsConfig, before: Option<&Self>, current: Weak<Current>) -> Self {
        let old = before.map_or(&[][..], |before| &before.secrets);
        let secrets = config.secrets.iter().map(|secret| {
            let secret = Secret::new(secret, &config);
            let same = old.iter().find(|old| ***old == secret);
            same.map_or_else(|| Arc::new(secret), Arc::clone)
        });
        let secrets: Vec<_> = secrets.collect();
        let mut earlier: Vec<Arc<Secret>> = vec![];
        for old in old.iter().chain(before.iter().flat_map(|before| &before.earlier)) {
            let is_known = secrets.iter().chain(&earlier).any(|known| known == old);
            if !is_known && earlier.len() < EARLIER_MAX {
                earlier.push(Arc::clone(old));
            }
        }
        let first = secrets.iter().map(|secret| {
            let has = |other: &Arc<Secret>| other.placeholder == secret.placeholder;
            secrets.iter().position(has).unwrap_or(0)
        });
        let first = first.collect();
        let texts = secrets.iter().map(|secret| secret.placeholder.clone().into_bytes());
        let placeholders = Patterns::new(texts.collect());
        let redacted = secrets.iter().chain(&earlier).enumerate().filter(|(_, secret)| {
            config.redact_responses && secret.value.len() >= REDACTED_BYTES_MIN
        });
        let values = Values::new(redacted.map(|(index, secret)| (index, secret.value.as_slice())));
        let is_old = AtomicBool::new(false);
        Self { config, secrets, earlier, placeholders, first, values, is_old, current }
    }

    /// Whether there is no secret.
    pub(crate) fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }

    /// The secrets as they are now; `None`: these are they, or there are none any more.
    fn newer(&self) -> Option<Arc<Self>> {
        let is_old = self.is_old.load(Ordering::Acquire);
        is_old.then(|| self.current.upgrade()).flatten().map(|current| read(&current))
    }

    /// Whose value was found that is looked for as `index`.
    fn owner(&self, index: usize) -> Option<&Secret> {
        self.secrets.iter().chain(&self.earlier).nth(index).map(|secret| &**secret)
    }

    /// Whether a request that may have `secret` may have it still.
    fn still_gives(&self, secret: &Arc<Secret>) -> bool {
        self.secrets.iter().any(|now| Arc::ptr_eq(now, secret) || now.gives_what(secret))
    }
}

#[cfg(test)]
impl Snapshot {
    /// What the secrets are, in their order.
    pub(crate) fn values_for_test(&self) -> Vec<String> {
        let text = |secret: &Arc<Secret>| String::from_utf8_lossy(&secret.value).into_owned();
        self.secrets.iter().map(text).collect()
    }
}

impl Secret {
    fn new(secret: &SecretConfig, all: &SecretsConfig) -> Self {
        let places = &secret.substitution;
        let mut passthrough = secret.passthrough_hosts.clone();
        // Whoever says what a violation leads to does not want it passed over.
        if secret.violation_action.is_none() {
            passthrough.extend(all.passthrough_hosts.iter().flatten().cloned());
        }
        Self {
            env_var: secret.env_var.clone(),
            value: Zeroizing::new(secret.value.reveal().as_bytes().to_vec()),
            placeholder: secret.placeholder(),
            allowed: secret.allowed_hosts.clone(),
            passthrough,
            action: secret.violation_action.unwrap_or(all.violation_action),
            requires_tls: secret.require_tls_identity,
            in_headers: places.headers,
            // They were checked when they were configured.
            fields: places.header_fields.iter().filter_map(|field| field.parse().ok()).collect(),
            in_query: places.query,
            in_body: places.body,
        }
    }

    /// Whether it puts what `other` does in the place of the same, for the same.
    fn gives_what(&self, other: &Self) -> bool {
        let terms = |secret: &Self| (secret.in_body, secret.requires_tls);
        self.placeholder == other.placeholder
            && terms(self) == terms(other)
            && self.allowed == other.allowed
            && self.value == other.value
    }

    fn stand(&self, peer: &Peer<'_>) -> Stand {
        let is = |pattern: &HostPattern| match pattern {
            HostPattern::Any => true,
            HostPattern::Exact(_) | HostPattern::Wildcard(_) => {
                peer.is_bound && peer.name.is_some_and(|name| pattern.matches(name))
            }
        };
        let is_proven = peer.is_tls_verified || !self.requires_tls;
        if is_proven && self.allowed.iter().any(is) {
            return Stand::Allowed;
        }
        // A name in the clear is anybody's.
        let name = peer.name.filter(|_| peer.is_tls_verified || peer.is_bound);
        let is_passed = |pattern: &HostPattern| pattern.matches(name.unwrap_or(""));
        if self.passthrough.iter().any(is_passed) { Stand::Passed } else { Stand::Forbidden }
    }
}

/// Who a request is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer<'a> {
    /// The name of the handshake; in lower case.
    pub(crate) name: Option<&'a str>,
    /// The server has proven that the name is its own.
    pub(crate) is_tls_verified: bool,
    /// The gateway has told the guest that the name leads to the server's address.
    pub(crate) is_bound: bool,
}

/// What becomes of one secret's placeholder on the way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// The peer may have the value.
    Allowed,
    /// It may have the placeholder.
    Passed,
    /// Neither.
    Forbidden,
    /// It might have had the value, which has changed since: it may have neither any more.
    Outlived,
}

impl Stand {
    /// Whether a placeholder must not pass.
    fn is_forbidden(self) -> bool {
        matches!(self, Self::Forbidden | Self::Outlived)
    }
}

/// A placeholder, or what could hide one, was on its way to somebody who may not have its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The secret's variable; `None`: it can't be told, as nobody here can read what it is in.
    pub(crate) env_var: Option<String>,
    /// Where it was.
    pub(crate) place: &'static str,
    /// What follows.
    pub(crate) action: ViolationAction,
}

impl Violation {
    /// What can't be looked into may hide anything.
    pub(crate) fn unreadable() -> Self {
        Self { env_var: None, place: "encoded body", action: ViolationAction::BlockAndLog }
    }

    /// What would be too long with its values.
    pub(crate) fn too_long(place: &'static str) -> Self {
        Self { env_var: None, place, action: ViolationAction::BlockAndLog }
    }
}

/// What one request to one peer may carry.
pub(crate) struct Scope {
    snapshot: Arc<Snapshot>,
    /// In the order of the secrets.
    stands: Vec<Stand>,
    /// The peer may have a secret, or might have had one: what it says is looked at.
    redacts: bool,
}

impl Snapshot {
    /// What a request to `peer` may carry.
    pub(crate) fn scope(self: &Arc<Self>, peer: &Peer<'_>) -> Arc<Scope> {
        let stands = self.secrets.iter().map(|secret| secret.stand(peer)).collect();
        let mut all = self.secrets.iter().chain(&self.earlier);
        let redacts =
            !self.values.is_empty() && all.any(|secret| secret.stand(peer) == Stand::Allowed);
        Arc::new(Scope { snapshot: Arc::clone(self), stands, redacts })
    }
}

impl Scope {
    /// Whether there is nothing to look for.
    pub(crate) fn is_empty(&self) -> bool {
        self.stands.is_empty() && !self.redacts
    }

    /// Whether responses are looked at.
    pub(crate) fn redacts(&self) -> bool {
        self.redacts
    }

    /// What a stream that is not HTTP is looked at with.
    pub(crate) fn stream(self: &Arc<Self>) -> StreamScan {
        StreamScan::of_what_leaves_at_once(Arc::clone(self), "stream")
    }

    /// The same for one in the clear, of any length: what is there as it is, and no more.
    pub(crate) fn plain_stream(self: &Arc<Self>) -> StreamScan {
        StreamScan::of_what_is_as_it_is(Arc::clone(self), "stream")
    }

    /// The same for a body in which no length may change: whose value is longer or shorter than its
    /// placeholder has no place there.
    fn of_fixed_lengths(self: &Arc<Self>) -> Arc<Self> {
        self.with_stands(|secret, stand| {
            let changes = secret.in_body && secret.value.len() != secret.placeholder.len();
            if stand == Stand::Allowed && changes { Stand::Forbidden } else { stand }
        })
    }

    /// The same once secrets have changed: nobody may have those any more; `None`: none of them
    /// has.
    fn of_old(self: &Arc<Self>) -> Option<Arc<Self>> {
        if !self.snapshot.is_old.load(Ordering::Acquire) {
            return None;
        }
        let now = self.snapshot.newer();
        let new = self.with_stands(|secret, stand| {
            let is_given = || now.as_ref().is_some_and(|now| now.still_gives(secret));
            let is_over = stand == Stand::Allowed && secret.in_body && !is_given();
            if is_over { Stand::Outlived } else { stand }
        });
        (new.stands != self.stands).then_some(new)
    }

    fn with_stands(&self, stand: impl Fn(&Arc<Secret>, Stand) -> Stand) -> Arc<Self> {
        let stands = self.snapshot.secrets.iter().zip(&self.stands);
        let stands = stands.map(|(secret, old)| stand(secret, *old)).collect();
        Arc::new(Self { snapshot: Arc::clone(&self.snapshot), stands, redacts: self.redacts })
    }

    /// Those that have the placeholder of secret `index`, which may be several, each for servers of
    /// its own.
    fn alike(&self, index: usize) -> impl Iterator<Item = (&Arc<Secret>, Stand)> {
        let all = self.snapshot.secrets.iter().zip(&self.stands).zip(&self.snapshot.first);
        let first = self.snapshot.first.get(index);
        all.filter(move |(_, its)| first == Some(*its)).map(|((secret, stand), _)| (secret, *stand))
    }

    /// Whose the placeholder of secret `index` is here: of those that have it, the first that this
    /// peer may have; where it may have none, and one forbids it, that one.
    fn meant(&self, index: usize) -> Option<(&Arc<Secret>, Stand)> {
        self.alike(index).min_by_key(|(_, stand)| match stand {
            Stand::Allowed => 0,
            Stand::Outlived => 1,
            Stand::Forbidden => 2,
            Stand::Passed => 3,
        })
    }

    fn stand(&self, index: usize) -> Stand {
        self.meant(index).map_or(Stand::Forbidden, |(_, stand)| stand)
    }

    /// Whether there is a placeholder that must not pass.
    pub(crate) fn forbids(&self) -> bool {
        let is_forbidden = |index: usize| self.stand(index).is_forbidden();
        self.stands.iter().any(|stand| stand.is_forbidden())
            && (0..self.stands.len()).any(is_forbidden)
    }

    /// The violation of secret `index`'s placeholder in `place`.
    fn violation(&self, index: usize, place: &'static str) -> Violation {
        let (secret, stand) = self.meant(index).unzip();
        let mut action = secret.map_or(ViolationAction::BlockAndLog, |secret| secret.action);
        // Whoever changed the secret is to blame for it, so that ends no guest.
        if stand == Some(Stand::Outlived) && action == ViolationAction::BlockAndTerminate {
            action = ViolationAction::BlockAndLog;
        }
        Violation { env_var: secret.map(|secret| secret.env_var.clone()), place, action }
    }

    /// Looks at trailers, which never carry a value.
    pub(crate) fn trailers(&self, trailers: &HeaderMap) -> Result<(), Violation> {
        trailers.iter().try_for_each(|(name, value)| self.look_at_field(name, value.as_bytes()))
    }
}
