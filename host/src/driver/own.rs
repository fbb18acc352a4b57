//! Keeps the engine's list of this host's own addresses as it is.
//!
//! Owns when the list is read and what follows from a change; must not know how the kernel tells
//! (`service/addresses`). **Fail closed**: while the list cannot be had, the engine holds it for
//! unknown, and lets nothing out by a rule for the group `public`; it is tried again every second.
//! It is watched whatever policy says, as a policy that comes later may speak of the public
//! Internet, and flows are judged by it from the same moment on.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use sluicegate_core::{
    Config, Destination, Group, Instant, Permission, Policy, Profile, Site, limits,
};

use crate::flow::{Flows, HostEngine};
use crate::service::addresses::Watch;

/// Between two attempts to read a list that cannot be had.
const RETRY_MS: u64 = 1000;

/// The watch over the list.
pub(super) struct OwnAddresses {
    registry: Registry,
    token: Token,
    state: State,
}

enum State {
    /// The list is known; the socket may have news.
    Watched { watch: Watch, has_news: bool },
    /// It is not known.
    Lost { retry_at: Instant },
}

impl OwnAddresses {
    /// Begins, and puts the list as it is into `config`. News will come under `token`, and are told
    /// by [`update`](Self::update), which is due before anything is judged.
    ///
    /// # Errors
    /// The list can't be had, or has more addresses than an engine is told of, and the policy of
    /// `config` depends on it. Where that does not, the list is unknown to begin with.
    pub(super) fn start(config: &mut Config, registry: Registry, token: Token) -> io::Result<Self> {
        let state = State::Lost { retry_at: Instant::ZERO };
        let mut own = Self { registry, token, state };
        let begun = own.watch().and_then(|watch| {
            let list: Vec<IpAddr> = watch.addresses().into_iter().collect();
            let max = limits::OWN_ADDRESSES_MAX;
            let many = |_| io::Error::other(format!("it has more than {max} public ones"));
            Ok((list.as_slice().try_into().map_err(many)?, watch))
        });
        match begun {
            Ok((list, watch)) => {
                config.own_addresses = list;
                own.state = State::Watched { watch, has_news: false };
            }
            Err(error) if depends_on_own(&config.policy) => return Err(error),
            Err(_) => {}
        }
        Ok(own)
    }

    fn watch(&self) -> io::Result<Watch> {
        let watch = Watch::start(is_public)?;
        let fd = watch.as_fd().as_raw_fd();
        self.registry.register(&mut SourceFd(&fd), self.token, Interest::READABLE)?;
        Ok(watch)
    }

    /// Notes that the kernel has something to say.
    pub(super) fn ready(&mut self) {
        match &mut self.state {
            State::Watched { has_news, .. } => *has_news = true,
            State::Lost { .. } => {}
        }
    }

    /// How long the loop may sleep.
    pub(super) fn patience(&self, now: Instant) -> Option<Duration> {
        match &self.state {
            State::Lost { retry_at } => {
                let micros = retry_at.as_micros().saturating_sub(now.as_micros());
                Some(Duration::from_micros(micros))
            }
            State::Watched { .. } => None,
        }
    }

    /// Tells the engine of what has changed; to be called between two turns.
    ///
    /// # Cost
    /// Nothing, unless there are news.
    pub(super) fn update(&mut self, engine: &mut HostEngine<'_>, flows: &mut Flows, now: Instant) {
        let known = match &mut self.state {
            State::Watched { watch, has_news } if *has_news => {
                *has_news = false;
                watch.update().map(|changed| changed.then(|| watch.addresses()))
            }
            State::Lost { retry_at } if *retry_at <= now => self.watch().map(|watch| {
                let list = watch.addresses();
                // What comes from now on makes the socket readable.
                self.state = State::Watched { watch, has_news: false };
                Some(list)
            }),
            State::Watched { .. } | State::Lost { .. } => return,
        };
        match known {
            Ok(None) => {}
            Ok(Some(list)) => {
                let list: Vec<IpAddr> = list.into_iter().collect();
                complain_of_many(list.len());
                engine.replace_own_addresses(now, Some(&list));
                flows.close_ended(engine);
            }
            Err(error) => {
                if !matches!(self.state, State::Lost { .. }) {
                    let reach = "guests reach nothing public until they are";
                    tracing::warn!(%error, "this host's own addresses are not known; {reach}");
                }
                self.state = State::Lost { retry_at: now.plus_millis(RETRY_MS) };
                engine.replace_own_addresses(now, None);
            }
        }
    }
}

/// Whether `policy` speaks of the public Internet, or of names, which may lead anywhere.
fn depends_on_own(policy: &Policy) -> bool {
    let may_be_own = |destination| match destination {
        Destination::Group(group) => group == Group::Public,
        Destination::Domain(_) | Destination::DomainSuffix(_) => true,
        Destination::Any | Destination::Cidr(_) => false,
    };
    policy.profile == Profile::MultiTenant
        || policy.rules().any(|rule| may_be_own(rule.destination))
}

fn complain_of_many(count: usize) {
    if count > limits::OWN_ADDRESSES_MAX {
        let reach = "guests reach nothing public while it has";
        tracing::warn!(count, "this host has too many public addresses to tell apart; {reach}");
    } else {
        tracing::debug!(count, "this host's public addresses have changed");
    }
}

/// Whether `address` would be public if it were not this host's.
fn is_public(address: IpAddr) -> bool {
    // Which are the gateways does not matter: an address of this host is not one.
    let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let site = Site { gateways: [nobody; 2], own: Some(&[]), nat64: &[] };
    site.place(address).is_in_group(Group::Public, Permission::Allow)
}
