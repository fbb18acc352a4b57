//! Changing and asking a network while it runs.
//!
//! Owns what may be asked for, how a new configuration is prepared and applied as a whole, and the
//! way of both to the driver and back; must not know who asks ([`ControlHandle`] is what they
//! hold). Whatever has to wait for others (names of name servers, sockets of ports, values of
//! secrets) is done on the thread of who asks. The driver then does what is left between two
//! turns: it takes all of it, or the engine refuses it and nothing has changed.
//!
//! Bounded: so many orders wait, one configuration is prepared at a time, and who asks waits five
//! seconds at most for the driver to begin (`orders`).

use std::io::{self, ErrorKind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sluicegate_core::Config;

use crate::capture::Capture;
use crate::clock::Clock;
use crate::config::{Identity, NetworkConfig, PortConfig, buffers};
use crate::error::Error;
use crate::events::{Audience, Events};
use crate::flow::ports::{Listener, PortChange, PublishedPort};
use crate::intercept::Forge;
use crate::metrics::MetricsHandle;
use crate::service::certs::NewFiles;
use crate::service::secrets::Vault;
use crate::snapshot::{PortSnapshot, Snapshot};
use crate::wake::DriverWake;

mod orders;
mod row;
mod servers;

use orders::{Change, Given, Order};
pub(crate) use orders::{Inbox, Slip};
pub use row::FlowRow;
pub(crate) use servers::name_servers;

/// Orders that may wait for the driver.
const ORDERS_MAX: usize = 64;
/// How long a driver may take to begin.
const PATIENCE: Duration = Duration::from_secs(5);

/// A port that is published, and its place among them.
#[derive(Debug, Clone, Copy)]
struct Published {
    config: PortConfig,
    place: usize,
    port: PublishedPort,
}

impl Published {
    /// Whether it is where `port` is to be, wherever in the guest that leads.
    fn is_where(&self, port: &PortConfig) -> bool {
        let PortConfig { host_port, protocol, host_bind, .. } = *port;
        let own = &self.config;
        host_port != 0
            && (own.host_port, own.protocol, own.host_bind) == (host_port, protocol, host_bind)
    }
}

/// What holds now.
struct Current {
    version: u64,
    /// Without the values of secrets.
    config: NetworkConfig,
    ports: Vec<Published>,
    /// Where ports were in the network whose place this one takes.
    earlier_ports: Vec<PortSnapshot>,
    begun: Begun,
}

/// What the start has decided, for as long as the network runs.
#[derive(Debug, Clone, Copy, Default)]
struct Begun {
    /// The bound that a front end has set, where the configuration has none.
    receive_frame_bytes: u32,
    /// What `max_buffered_bytes` gave each of as many connections as there were to be.
    tcp_receive_bytes: usize,
    tcp_send_bytes: usize,
}

impl Begun {
    const fn of(core: &Config) -> Self {
        Self {
            receive_frame_bytes: core.link.receive_frame_bytes,
            tcp_receive_bytes: core.tcp_receive_bytes,
            tcp_send_bytes: core.tcp_send_bytes,
        }
    }

    const fn hold(self, core: &mut Config) {
        core.link.receive_frame_bytes = self.receive_frame_bytes;
        core.tcp_receive_bytes = self.tcp_receive_bytes;
        core.tcp_send_bytes = self.tcp_send_bytes;
    }
}

/// The way to a driver.
pub(crate) struct Orders(SyncSender<Arc<Slip>>);

/// Where orders are given.
pub(crate) struct Desk {
    slot: u64,
    clock: Clock,
    wake: Arc<DriverWake>,
    vault: Arc<Vault>,
    forge: Arc<Forge>,
    audience: Arc<Audience>,
    metrics: MetricsHandle,
    current: Mutex<Current>,
    /// Held by who replaces the configuration.
    changes: Mutex<()>,
    /// The way to the driver, while it runs.
    orders: Mutex<Option<SyncSender<Arc<Slip>>>>,
}

impl Desk {
    /// The desk of the network in `slot`, which begins with `config`.
    pub(crate) fn new(
        (config, slot): (NetworkConfig, u64),
        (clock, wake): (Clock, Arc<DriverWake>),
        (vault, forge): (Arc<Vault>, Arc<Forge>),
        (audience, metrics): (Arc<Audience>, MetricsHandle),
    ) -> Self {
        let current = Current {
            version: 1,
            config: config.without_values(),
            ports: vec![],
            earlier_ports: vec![],
            begun: Begun::default(),
        };
        Self {
            slot,
            clock,
            wake,
            vault,
            forge,
            audience,
            metrics,
            current: Mutex::new(current),
            changes: Mutex::default(),
            orders: Mutex::default(),
        }
    }

    /// Where the driver that begins with `core` takes orders, and what is to be
    /// [opened](Self::open) so that they can be given.
    pub(crate) fn furnish(&self, core: &Config) -> (Orders, Receiver<Arc<Slip>>) {
        let (give, take) = sync_channel(ORDERS_MAX);
        self.current().begun = Begun::of(core);
        (Orders(give), take)
    }

    /// Lets orders be given to the driver. Not before it has the ports that it begins with: a
    /// change of them would be one of none.
    pub(crate) fn open(&self, orders: &Orders) {
        *lock(&self.orders) = Some(orders.0.clone());
    }

    /// Ports that may be anywhere are to be where those of `earlier` were.
    pub(crate) fn expect_ports(&self, earlier: Vec<PortSnapshot>) {
        self.current().earlier_ports = earlier;
    }

    /// Binds the ports that the network begins with.
    ///
    /// # Errors
    /// One can't be published; it is named.
    pub(crate) fn bind_ports(&self) -> Result<Vec<(usize, Listener)>, Error> {
        let mut current = self.current();
        let earlier = current.earlier_ports.clone();
        let (change, ports) = prepare_ports(&[], &current.config, earlier)?;
        current.ports = ports;
        Ok(change.new)
    }

    /// The ports that are published now.
    pub(crate) fn ports(&self) -> Vec<PublishedPort> {
        self.current().ports.iter().map(|published| published.port).collect()
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        lock(&self.current)
    }

    /// What the driver answers to the order that `order` makes; `patience` is for the driver to
    /// begin.
    fn ask<T>(
        &self,
        patience: Duration,
        order: impl FnOnce(SyncSender<T>) -> Order,
    ) -> Result<T, Error> {
        let orders = lock(&self.orders).clone().ok_or(Error::NotRunning)?;
        let given = Given::new(&orders, order)?;
        self.wake.ring();
        given.answer(patience)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Changes and asks a network while it runs, from any thread; each call waits until the driver has
/// done it, five seconds at most for it to begin. What it has not begun by then
/// ([`Error::Busy`]) is taken back, and is not done later either. Clones are the same handle.
#[derive(Clone)]
pub struct ControlHandle(pub(crate) Arc<Desk>);

impl ControlHandle {
    /// What holds now, and the number of changes that led to it, from 1. The values of secrets are
    /// not in it.
    #[must_use]
    pub fn config(&self) -> (NetworkConfig, u64) {
        let current = self.0.current();
        (current.config.clone(), current.version)
    }

    /// Lets `config` hold from now on: all of it, or, where this fails, nothing of it. Flows that
    /// it forbids are reset, whoever opened them, and those that it allows do not notice. Returns
    /// the number of this change.
    ///
    /// `policy`, `strict`, `http`, `dns`, `tls`, `ports`, `max_inbound_tcp_connections`,
    /// `rate_limiter`, `secrets` and `nat64_prefixes` may change; `tcp_accept_queue_size` is that
    /// of ports that are new. A published port that is in both stays open, also where it leads to
    /// another port of the guest from now on. A secret without a value
    /// (and without a source) keeps the value that the secret of that variable has.
    ///
    /// `max_connections`, `max_udp_connections`, `max_inbound_udp_connections` and
    /// `max_icmp_connections` may be lowered, and raised again up to what they were at the start,
    /// for which memory was laid out. What `max_buffered_bytes` gave each connection stays; it may
    /// be any number within which as many connections as `max_connections` then says have that.
    /// Connections and pings that are too many go on, and new ones are refused until there are
    /// fewer; of UDP flows those that were used least recently end at once.
    ///
    /// `tls` and `http` count for connections that are new. One that is intercepted stays so, under
    /// what it began with; one that is not is not from its middle on. QUIC that is refused now
    /// ends, and so do names over TLS where nothing is intercepted any more. The authority stays
    /// where `tls.intercept_ca` is as before, as the guest trusts it, also while `tls.enabled` is
    /// false meanwhile; another is read, or made, as at the start, and files that were made go
    /// again where the change is refused. Files are read where `tls` or `http` has changed.
    ///
    /// Name servers by name are looked up, so it may wait for them; call it where that does no
    /// harm.
    ///
    /// # Errors
    /// A field that is out of range, or that can't change; a port that can't be published; a value
    /// that is not to be had; [`Error::Conflict`] where another change than number `expected` led
    /// to what holds now; [`Error::NotRunning`]; [`Error::Busy`].
    pub fn replace(&self, config: NetworkConfig, expected: Option<u64>) -> Result<u64, Error> {
        self.replace_within(PATIENCE, config, expected)
    }

    /// The same with `patience` for the driver to begin.
    pub(crate) fn replace_within(
        &self,
        patience: Duration,
        config: NetworkConfig,
        expected: Option<u64>,
    ) -> Result<u64, Error> {
        let desk = &self.0;
        let _one_at_a_time = lock(&desk.changes);
        if lock(&desk.orders).is_none() {
            return Err(Error::NotRunning);
        }
        let (now, version, old_ports, begun) = {
            let current = desk.current();
            let ports = current.ports.clone();
            (current.config.clone(), current.version, ports, current.begun)
        };
        if let Some(expected) = expected.filter(|expected| *expected != version) {
            return Err(Error::Conflict { expected, current: version });
        }
        now.check_fixed(&config)?;
        let config = config.for_guest_of(&now);
        let mut core = config.to_core(desk.slot, [0; 16])?;
        begun.hold(&mut core);
        buffers::check(config.max_buffered_bytes, &core)?;
        let names = if now.dns == config.dns {
            None
        } else {
            let timeout = Duration::from_millis(config.dns.query_timeout_ms);
            Some((name_servers(&config.dns)?, timeout))
        };
        let (ports, published) = prepare_ports(&old_ports, &config, vec![])?;
        // It may write files of an authority that is new; they go if this fails yet.
        let made = if now.tls == config.tls && now.http == config.http {
            None
        } else {
            Some(desk.forge.make(&config.tls, &config.http)?)
        };
        let (interceptor, files) = made.unzip();
        // Nobody else changes a secret meanwhile: it would be lost. Last, as whoever takes one back
        // is not to wait for name servers.
        let held = desk.vault.hold();
        let secrets = held.prepare(config.secrets.clone())?;
        let config = config.without_values();
        let (vault, forge) = (Arc::clone(&desk.vault), Arc::clone(&desk.forge));
        let change = Change { core, ports, names, vault, secrets, forge, interceptor };
        let change = Box::new(change);
        desk.ask(patience, |answer| Order::Replace(change, answer))??;
        files.into_iter().for_each(NewFiles::keep);
        let mut current = desk.current();
        current.version += 1;
        (current.config, current.ports) = (config, published);
        Ok(current.version)
    }

    /// Every flow that there is.
    ///
    /// # Errors
    /// [`Error::NotRunning`]; [`Error::Busy`].
    pub fn flows(&self) -> Result<Vec<FlowRow>, Error> {
        self.0.ask(PATIENCE, Order::Flows)
    }

    /// What the guest knows of this network between two turns, so that another can take its place
    /// ([`SmoltcpNetwork::try_restore`](crate::SmoltcpNetwork::try_restore)).
    ///
    /// # Errors
    /// [`Error::NotRunning`]; [`Error::Busy`].
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        let desk = &self.0;
        let names = desk.ask(PATIENCE, Order::Names)?;
        let current = desk.current();
        let identity = Identity {
            addresses: current.config.addresses(desk.slot)?,
            receive_frame_bytes: current.begun.receive_frame_bytes,
        };
        let port = |known: &Published| PortSnapshot::new(&known.config, known.port.host.port());
        let ports = current.ports.iter().map(port).collect();
        Ok(Snapshot::new((&identity, desk.forge.authority_pem()), ports, names))
    }

    /// Ends the flow with this [number](FlowRow::id): both sides see a reset, or of datagrams that
    /// they are not wanted. False: there is none (any more).
    ///
    /// # Errors
    /// [`Error::NotRunning`]; [`Error::Busy`].
    pub fn end_flow(&self, id: u64) -> Result<bool, Error> {
        self.0.ask(PATIENCE, |answer| Order::End(row::flow_id(id), answer))
    }

    /// Captures every frame of the guest's link from now on. There is one capture at a time: that
    /// before it ends.
    ///
    /// # Errors
    /// [`Error::NotRunning`]; [`Error::Busy`].
    pub fn capture(&self) -> Result<Capture, Error> {
        let (capture, ring, end) = Capture::begin(self.0.clock.now(), Clock::time_of_day());
        self.0.ask(PATIENCE, |answer| Order::Capture(ring, end, answer))?;
        Ok(capture)
    }

    /// A subscription to what the network tells of from now on, as
    /// [`SmoltcpNetwork::events`](crate::SmoltcpNetwork::events).
    #[must_use]
    pub fn events(&self) -> Events {
        self.0.audience.subscribe()
    }

    /// Measures what only a look at every flow, or every rule, tells, for
    /// [`MetricsHandle::buffered_bytes`](crate::MetricsHandle::buffered_bytes) and
    /// [`MetricsHandle::rule_hits`](crate::MetricsHandle::rule_hits); what else there is to read
    /// needs no such thing.
    ///
    /// # Errors
    /// [`Error::NotRunning`]; [`Error::Busy`].
    pub fn measure(&self) -> Result<(), Error> {
        let published = Arc::clone(&self.0.metrics.published);
        self.0.ask(PATIENCE, |answer| Order::Measure(published, answer))
    }

    /// Where the counters are read.
    #[must_use]
    pub fn metrics(&self) -> MetricsHandle {
        self.0.metrics.clone()
    }

    /// The ports that are published now: where this host really listens.
    #[must_use]
    pub fn published_ports(&self) -> Vec<PublishedPort> {
        self.0.ports()
    }
}

/// What becomes of the ports `old` where `config` holds; those that may be anywhere are to be where
/// `earlier` ones were.
fn prepare_ports(
    old: &[Published],
    config: &NetworkConfig,
    mut earlier: Vec<PortSnapshot>,
) -> Result<(PortChange, Vec<Published>), Error> {
    let mut change = PortChange::default();
    let mut left = old.to_vec();
    let stay = |port: &PortConfig| take(&mut left, |known| known.config == *port);
    let stay: Vec<_> = config.ports.iter().map(stay).collect();
    let mut published: Vec<Published> = vec![];
    for (port, stays) in config.ports.iter().zip(stay) {
        if let Some(known) = stays {
            published.push(known);
            continue;
        }
        // Whoever comes there meanwhile finds either, and never nobody.
        if let Some(mut known) = take(&mut left, |known| known.is_where(port)) {
            change.led.push((known.place, port.guest_port, port.proxy_protocol));
            (known.config, known.port.guest_port) = (*port, port.guest_port);
            published.push(known);
            continue;
        }
        // Those that go have their places until the driver lets go of them.
        let is_taken = |place: &usize| {
            let mut known = old.iter().chain(&published);
            known.any(|known| known.place == *place)
        };
        let place = (0..).find(|place| !is_taken(place)).unwrap_or(0);
        let known = take_place(&mut earlier, port);
        let listener = Listener::bind(&known.unwrap_or(*port), config.tcp_accept_queue_size)
            .map_err(|error| explain(error, port, old))?;
        published.push(Published { config: *port, place, port: listener.port });
        change.new.push((place, listener));
    }
    change.gone = left.iter().map(|known| known.place).collect();
    Ok((change, published))
}

/// Takes the first of `from` that is as `is` says.
fn take(from: &mut Vec<Published>, is: impl FnMut(&Published) -> bool) -> Option<Published> {
    let index = from.iter().position(is)?;
    Some(from.swap_remove(index))
}

/// Where `port` is to be again, as one of `earlier` was; that is taken.
fn take_place(earlier: &mut Vec<PortSnapshot>, port: &PortConfig) -> Option<PortConfig> {
    let mut known = earlier.iter().enumerate();
    let (index, at) = known.find_map(|(index, known)| Some((index, known.place(port)?)))?;
    earlier.swap_remove(index);
    Some(at)
}

/// Why `port` can't be published, where it is one of `old` that has its place.
fn explain(error: Error, port: &PortConfig, old: &[Published]) -> Error {
    let mut old = old.iter().map(|known| known.port);
    let own = old.find(|own| {
        let is_same = own.host.is_ipv4() == port.host_bind.is_ipv4();
        let is_any = own.host.ip().is_unspecified() || port.host_bind.is_unspecified();
        own.protocol == port.protocol.into()
            && own.host.port() == port.host_port
            && is_same
            && is_any
    });
    match (error, own) {
        (Error::Publish { port, source }, Some(own)) if source.kind() == ErrorKind::AddrInUse => {
            let text = format!("this network has {} there, which is to go first", own.host);
            Error::Publish { port, source: io::Error::new(source.kind(), text) }
        }
        (error, _) => error,
    }
}
