//! A guest online by the real driver, with servers on this host's loopback: what is measured end to
//! end. Three threads: the driver's (with the guest in it), the server's, and the one that measures
//! and sleeps meanwhile.

mod guest;
mod server;

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use sim::frame::{OUTSIDE_V4, gateway};
use sluicegate_host::{DriverPool, NetworkConfig, SmoltcpNetwork};

use guest::{Bell, Guest, Job, Report};
use server::{Idle, Task};

#[allow(unused_imports, reason = "one of the benches needs it")]
pub(crate) use guest::SEGMENT_BYTES;

/// Nothing that is waited for takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Idle connections to one port: fewer than a host has ports of its own.
const IDLE_PER_PORT: usize = 10_000;

/// A guest, and what it talks to.
pub(crate) struct Online {
    network: SmoltcpNetwork,
    bell: Bell,
    jobs: Sender<Job>,
    reports: Receiver<Report>,
    tasks: Sender<Task>,
    done: Receiver<()>,
    _servers: Vec<Idle>,
    _runtime: tokio::runtime::Runtime,
}

impl Online {
    /// A guest with one connection to a server, beside `idle` others.
    ///
    /// # Panics
    /// If this host does not let it.
    #[allow(dead_code, reason = "one of the benches needs it")]
    pub(crate) fn beside(idle: usize) -> Self {
        let (mut ends, mut servers) = (vec![], vec![]);
        for start in (0..idle).step_by(IDLE_PER_PORT) {
            let server = Idle::new().expect("because there are ports");
            ends.extend(vec![server.port; IDLE_PER_PORT.min(idle - start)]);
            servers.push(server);
        }
        Self { _servers: servers, ..Self::connected(ends, None) }
    }

    /// A guest with one connection to a server, on a thread of its own or of `pool`; one that is
    /// greedy has another beside it, on which it sends whatever that takes.
    ///
    /// # Panics
    /// If this host does not let it.
    #[allow(dead_code, reason = "one of the benches needs it")]
    pub(crate) fn on(pool: Option<&DriverPool>, is_greedy: bool) -> Self {
        let sink = is_greedy.then(|| server::sink().expect("because there are ports"));
        let online = Self::connected(sink.into_iter().collect(), pool);
        if is_greedy {
            online.ask(Job::Flood);
        }
        online
    }

    /// A guest with connections to `ends`, and then one to a server that does as it is told.
    fn connected(mut ends: Vec<u16>, pool: Option<&DriverPool>) -> Self {
        let config = r#"{"policy": {"default_egress": "allow"}, "max_connections": 0}"#;
        let config = NetworkConfig::from_json(config).expect("because it is valid");
        let mut network = SmoltcpNetwork::new(config, 0);
        let bell = Bell::new().expect("because there are descriptors");
        let (jobs, for_guest) = channel();
        let (from_guest, reports) = channel();
        let guest = Guest::new(bell.clone(), for_guest, from_guest);
        network.attach_link(Box::new(guest)).expect("because nobody has taken it");
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.expect("because there are descriptors");
        match pool {
            None => network.start(runtime.handle().clone()),
            Some(pool) => network
                .try_start_on(pool, runtime.handle().clone())
                .expect("because there is memory"),
        }
        let (tasks, for_server) = channel();
        let (from_server, done) = channel();
        let port = server::obedient(for_server, from_server).expect("because there are ports");
        ends.push(port);
        let online =
            Self { network, bell, jobs, reports, tasks, done, _servers: vec![], _runtime: runtime };
        let ends = ends.into_iter().map(|port| SocketAddr::new(gateway(OUTSIDE_V4), port));
        online.ask(Job::Open(ends.collect()));
        online.report();
        online
    }

    /// Bytes of Ethernet that the guest has sent.
    #[allow(dead_code, reason = "one of the benches needs it")]
    pub(crate) fn bytes_from_guest(&self) -> u64 {
        self.network.metrics_handle().tx_bytes()
    }

    fn ask(&self, job: Job) {
        self.jobs.send(job).expect("because the guest lives as long as the network");
        self.bell.ring();
    }

    fn tell(&self, task: Task) {
        self.tasks.send(task).expect("because the server waits for tasks");
    }

    fn report(&self) -> Report {
        let running = self.network.is_running();
        let report = self.reports.recv_timeout(PATIENCE);
        report.unwrap_or_else(|error| panic!("the guest: {error} (driver runs: {running})"))
    }

    fn served(&self) {
        self.done.recv_timeout(PATIENCE).expect("because the server is in time");
    }

    /// Moves `bytes` bytes from the guest to the server.
    #[allow(dead_code, reason = "one of the benches needs it")]
    pub(crate) fn up(&self, bytes: u64) {
        self.tell(Task::Take(bytes));
        self.ask(Job::Up(bytes));
        self.served();
    }

    /// Moves `bytes` bytes from the server to the guest.
    #[allow(dead_code, reason = "one of the benches needs it")]
    pub(crate) fn down(&self, bytes: u64) {
        self.ask(Job::Down(bytes));
        self.tell(Task::Give(bytes));
        self.report();
        self.served();
    }

    /// Sends a byte to and fro, `count` times; returns how long each time took, in order.
    pub(crate) fn round_trips(&self, count: usize) -> Report {
        self.tell(Task::Echo(count as u64));
        self.ask(Job::RoundTrips(count));
        let report = self.report();
        self.served();
        report
    }
}
