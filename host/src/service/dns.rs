//! Asks name servers what a guest wants to know.
//!
//! Owns the tasks that wait for them, on the embedder's runtime, and the queue on which answers
//! come back to the driver's thread. A query is a message that the engine let through; what comes
//! back is one that answers it, byte for byte, or nothing. Must not know guests or flows, nor what
//! a name may be.
//!
//! Bounded: so many queries are under way at a time, each for so long, and each has exactly one
//! result, whatever becomes of its task. Tasks end with the resolver, and so do their sockets.

mod cache;
mod exchange;
mod host_servers;
mod ports;
mod secure;
mod upstreams;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::metrics::{Published, since};
use crate::outbound::Outbound;
use crate::wake::DriverWake;
use upstreams::Upstreams;

pub(crate) use cache::Cache;
pub(crate) use secure::Secure;
pub(crate) use upstreams::Server;

/// Queries of one network that may be under way.
const IN_FLIGHT_MAX: usize = 512;

/// What a resolver is made of.
#[derive(Clone)]
pub(crate) struct ResolverParts {
    /// Where its tasks run; its IO and time are enabled.
    pub(crate) runtime: Handle,
    /// Whom to wake when an answer is there.
    pub(crate) wake: Arc<DriverWake>,
    pub(crate) clock: Clock,
    /// Where it is counted how long they take.
    pub(crate) published: Arc<Published>,
    /// The name servers; empty: the host's own.
    pub(crate) servers: Vec<Server>,
    /// From where they are asked.
    pub(crate) outbound: Outbound,
    /// How long a query may take.
    pub(crate) timeout: Duration,
}

/// What became of a query.
pub(crate) struct Answered {
    /// The number that the query came with.
    pub(crate) ticket: u32,
    /// `None`: nobody answered.
    pub(crate) answer: Option<Vec<u8>>,
}

/// Asks for one network.
pub(crate) struct Resolver {
    runtime: Handle,
    wake: Arc<DriverWake>,
    clock: Clock,
    published: Arc<Published>,
    timeout: Duration,
    outbound: Outbound,
    upstreams: Arc<Upstreams>,
    in_flight: usize,
    tasks: JoinSet<()>,
    answers: Receiver<Answered>,
    to_answers: SyncSender<Answered>,
}

impl Resolver {
    pub(crate) fn new(parts: ResolverParts) -> Self {
        let (to_answers, answers) = sync_channel(IN_FLIGHT_MAX);
        Self {
            runtime: parts.runtime,
            wake: parts.wake,
            clock: parts.clock,
            published: parts.published,
            timeout: parts.timeout,
            upstreams: Arc::new(Upstreams::new(parts.servers, parts.clock, parts.outbound.clone())),
            outbound: parts.outbound,
            in_flight: 0,
            tasks: JoinSet::new(),
            answers,
            to_answers,
        }
    }

    /// Asks `servers` from now on, each query for `timeout` at most.
    pub(crate) fn replace_servers(&mut self, servers: Vec<Server>, timeout: Duration) {
        self.upstreams = Arc::new(Upstreams::new(servers, self.clock, self.outbound.clone()));
        self.timeout = timeout;
    }

    /// Asks `query`, whose number is replaced; the result will have `ticket`. False: too many are
    /// under way, and it is not asked.
    pub(crate) fn ask(&mut self, ticket: u32, query: Vec<u8>) -> bool {
        if self.in_flight >= IN_FLIGHT_MAX {
            return false;
        }
        self.in_flight += 1;
        let due = Due {
            answered: Some(Answered { ticket, answer: None }),
            to: self.to_answers.clone(),
            wake: Arc::clone(&self.wake),
        };
        let (upstreams, timeout) = (Arc::clone(&self.upstreams), self.timeout);
        let (clock, published) = (self.clock, Arc::clone(&self.published));
        // Those that have ended are not kept.
        while self.tasks.try_join_next().is_some() {}
        let resolve = async move {
            let began = clock.now();
            let answer = upstreams.resolve(&query, timeout).await;
            if answer.is_some() {
                published.times.names.note(since(began, clock.now()));
            }
            due.settle(ticket, answer);
        };
        self.tasks.spawn_on(resolve, &self.runtime);
        true
    }

    /// The next result.
    pub(crate) fn answered(&mut self) -> Option<Answered> {
        let answered = self.answers.try_recv().ok()?;
        self.in_flight -= 1;
        Some(answered)
    }
}

/// The result of a task, which is handed over however the task ends.
struct Due {
    answered: Option<Answered>,
    to: SyncSender<Answered>,
    wake: Arc<DriverWake>,
}

impl Due {
    fn settle(mut self, ticket: u32, answer: Option<Vec<u8>>) {
        self.answered = Some(Answered { ticket, answer });
    }
}

impl Drop for Due {
    fn drop(&mut self) {
        if let Some(answered) = self.answered.take() {
            // There is room for every query under way; and without a receiver nobody asks.
            let _ = self.to.try_send(answered);
            self.wake.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use super::*;

    /// Everything here is on loopback: what takes longer is not there.
    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn a_query_under_way_has_no_socket_when_the_resolver_is_gone() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let poll = mio::Poll::new().unwrap();
        let mut resolver = Resolver::new(ResolverParts {
            runtime: runtime.handle().clone(),
            wake: DriverWake::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap()),
            clock: Clock::new(),
            published: Arc::default(),
            servers: vec![Server { address: server.local_addr().unwrap(), secure: None }],
            outbound: Outbound::default(),
            timeout: 6 * PATIENCE,
        });
        let query = [&[0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x01a\0", &[0, 1, 0, 1]].concat();
        assert!(resolver.ask(1, query));
        let (_, port) = server.recv_from(&mut [0; 100]).unwrap();
        let is_open = || UdpSocket::bind(port).is_err();
        assert!(is_open(), "it waits for its answer");
        drop(resolver);
        let clock = Clock::new();
        let end = clock.now().plus_millis(PATIENCE.as_secs() * 1000);
        while is_open() {
            assert!(clock.now() < end, "it is still open");
            std::thread::yield_now();
        }
    }
}
