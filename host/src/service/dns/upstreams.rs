//! Which name server is asked, and when the next one is.
//!
//! Servers are asked in their order, those that have failed lately after all others. A server that
//! says nothing is overtaken by the next while it may still answer; one that can't be reached is
//! left at once. The first answer counts, whatever it says.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use sluicegate_core::Instant;

use super::exchange;
use super::host_servers::HostServers;
use super::ports::Ports;
use super::secure::Secure;
use crate::clock::Clock;
use crate::outbound::Outbound;

/// The next server is asked as well when the last one has said nothing for so long.
const OVERTAKE_AFTER: Duration = Duration::from_millis(500);
/// A server that failed is asked after the others for so long.
const SHUN_MS: u64 = 30_000;

/// A name server.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// How it is asked where nobody else can read it; `None`: in the clear.
    pub(crate) secure: Option<Arc<Secure>>,
}

/// The name servers of a network.
pub(super) struct Upstreams {
    configured: Vec<Server>,
    host: Mutex<HostServers>,
    /// Servers that have failed, and until when they are shunned.
    shunned: Mutex<HashMap<SocketAddr, Instant>>,
    ports: Ports,
    clock: Clock,
}

impl Upstreams {
    /// Those of `configured`, or where it is empty the host's.
    pub(super) fn new(configured: Vec<Server>, clock: Clock, outbound: Outbound) -> Self {
        Self {
            configured,
            host: Mutex::new(HostServers::new()),
            shunned: Mutex::default(),
            ports: Ports::new(outbound),
            clock,
        }
    }

    /// What one of them answers to `query`; `None`: none does, in time.
    pub(super) async fn resolve(&self, query: &[u8], timeout: Duration) -> Option<Vec<u8>> {
        tokio::time::timeout(timeout, self.race(query)).await.ok().flatten()
    }

    async fn race(&self, query: &[u8]) -> Option<Vec<u8>> {
        let mut rest = self.in_order().into_iter();
        let mut asked = FuturesUnordered::new();
        let mut silent = Vec::new();
        loop {
            if let Some(server) = rest.next() {
                let Server { address, secure } = server;
                silent.push(address);
                asked.push(async move {
                    (address, exchange::ask(address, secure.as_deref(), &self.ports, query).await)
                });
            }
            match tokio::time::timeout(OVERTAKE_AFTER, asked.next()).await {
                Ok(Some((server, Ok(answer)))) => {
                    self.shunned().remove(&server);
                    return Some(answer);
                }
                Ok(Some((server, Err(error)))) => {
                    tracing::debug!(%server, %error, "a name server failed");
                    silent.retain(|other| *other != server);
                    self.shun(&[server]);
                }
                Ok(None) => return None,
                Err(_) => self.shun(&silent),
            }
        }
    }

    /// All servers, those that are shunned last.
    fn in_order(&self) -> Vec<Server> {
        let mut servers = self.configured.clone();
        if servers.is_empty() {
            let mut host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
            let plain = |address: &SocketAddr| Server { address: *address, secure: None };
            servers.extend(host.now().iter().map(plain));
        }
        let now = self.clock.now();
        let mut shunned = self.shunned();
        shunned.retain(|_, until| *until > now);
        servers.sort_by_key(|server| shunned.contains_key(&server.address));
        servers
    }

    fn shun(&self, servers: &[SocketAddr]) {
        let until = self.clock.now().plus_millis(SHUN_MS);
        self.shunned().extend(servers.iter().map(|server| (*server, until)));
    }

    fn shunned(&self) -> std::sync::MutexGuard<'_, HashMap<SocketAddr, Instant>> {
        self.shunned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
