//! One guest's network, as a VMM author holds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mio::Poll;
use sluicegate_core::FrameRing;
#[cfg(feature = "krun")]
use sluicegate_core::limits;

use crate::adapter::GuestLink;
#[cfg(feature = "krun")]
use crate::adapter::krun::{Doorbell, KrunBackend};
use crate::clock::Clock;
use crate::config::{DnsConfig, NetworkConfig};
use crate::control::{ControlHandle, Desk, name_servers};
use crate::driver::pool::DriverPool;
use crate::driver::{Driver, EngineEnds, FrontEnd, Running, WAKE, WorkerLink};
use crate::error::Error;
use crate::events::{Audience, Events, Speaker};
use crate::flow::dial::Dialler;
use crate::flow::ports::PublishedPort;
use crate::flow::relay::Mailbox;
use crate::flow::tls::{ReadyList, Tls};
use crate::intercept::{Forge, Reporter};
use crate::metrics::{MetricsHandle, Published};
use crate::outbound::Outbound;
use crate::rings::{RingConsumer, RingProducer, Rings};
use crate::service::certs::NewFiles;
use crate::service::dns::{ResolverParts, Server};
use crate::service::proxy::Proxy;
use crate::service::secrets::{SecretsHandle, Vault};
use crate::snapshot::NameSnapshot;
use crate::termination::TerminationHandle;
use crate::wake::DriverWake;

mod gate;
mod restore;
mod trust;

pub use gate::ActivationHandle;
use gate::{Gate, Waiting};

/// What frames are longer than the packets that an MTU bounds.
const ETHERNET_HEADER_BYTES: u32 = 14;

/// The host side of one guest's network card.
///
/// Made from a configuration and a slot, which is the guest's number among those of the host and
/// gives it its addresses. A VMM takes the backend, starts the network, and boots the guest with
/// the MAC address and the environment from here; `shutdown`, or dropping it, ends it.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use sluicegate_host::{NetworkConfig, SmoltcpNetwork};
///
/// let runtime = tokio::runtime::Runtime::new()?;
/// let config = NetworkConfig::from_json(r#"{"policy": {"default_egress": "allow"}}"#)?;
/// let mut network = SmoltcpNetwork::try_new(config, 7)?;
/// # #[cfg(feature = "krun")]
/// let backend = network.try_take_backend()?; // for the VM's builder; or `attach_link`
/// network.try_start(runtime.handle().clone())?;
/// assert_eq!(network.guest_mac(), [0x02, 0x6d, 0x73, 0, 7, 2]);
/// for (name, value) in network.guest_env_vars() {
///     println!("{name}={value}"); // what the guest is booted with
/// }
/// network.shutdown()?;
/// # Ok(())
/// # }
/// ```
pub struct SmoltcpNetwork {
    config: sluicegate_core::Config,
    addresses: sluicegate_core::addr::Addresses,
    rings: Arc<Rings>,
    dns: DnsConfig,
    desk: Arc<Desk>,
    published: Arc<Published>,
    audience: Arc<Audience>,
    clock: Clock,
    wake: Arc<DriverWake>,
    stop: Arc<AtomicBool>,
    /// What the driver is made of, until it is started.
    parts: Option<(Poll, EngineEnds)>,
    /// The guest's ends of the rings, until somebody takes them.
    guest_ends: Option<(RingProducer, RingConsumer)>,
    worker: WorkerLink,
    link: Option<FrontEnd>,
    receive_frame_bytes_is_set: bool,
    driver: Option<Running>,
    termination: TerminationHandle,
    trust_host_cas: bool,
    vault: Arc<Vault>,
    forge: Arc<Forge>,
    proxy: Option<Arc<Proxy>>,
    outbound: Outbound,
    /// What holds it back when it is started, if anything.
    gate: Option<Arc<Gate>>,
    /// Names that the guest has resolved before.
    known_names: Vec<NameSnapshot>,
}

impl SmoltcpNetwork {
    /// A network for the guest in `slot`.
    ///
    /// # Panics
    /// If `slot` is above 65535 or the configuration is out of range; [`try_new`](Self::try_new)
    /// returns that as an error.
    #[must_use]
    pub fn new(config: NetworkConfig, slot: u64) -> Self {
        match Self::try_new(config, slot) {
            Ok(network) => network,
            Err(error) => panic!("{error}"),
        }
    }

    /// A network for the guest in `slot`, 0 to 65535.
    ///
    /// Where TLS is intercepted it reads this host's trust store and the files of `tls`, and writes
    /// those of `tls.intercept_ca` where neither is there.
    ///
    /// # Errors
    /// A slot or a field out of range; secrets without `tls.enabled`; a variable of a secret or of
    /// the proxy's password that is not in this process's environment; an authority's file that
    /// can't be read, made or used; or no descriptors or randomness to be had.
    pub fn try_new(config: NetworkConfig, slot: u64) -> Result<Self, Error> {
        let (network, files) = Self::make(config, slot)?;
        files.keep();
        Ok(network)
    }

    /// The same, and the files that were made for it.
    fn make(config: NetworkConfig, slot: u64) -> Result<(Self, NewFiles), Error> {
        let mut seed = [0; 16];
        getrandom::fill(&mut seed)
            .map_err(|error| Error::machine("reading randomness")(error.into()))?;
        let core = config.to_core(slot, seed)?;
        let addresses = config.addresses(slot)?;
        let audience = Arc::<Audience>::default();
        let published = Arc::<Published>::default();
        let termination = TerminationHandle::default();
        let vault = Arc::new(Vault::new(config.secrets.clone())?);
        let clock = Clock::new();
        let outbound = Outbound::new(&config.outbound);
        let proxy = config.outbound_proxy.clone().map(Proxy::new).transpose()?;
        let proxy = proxy.map(|proxy| Arc::new(proxy.asked_from(outbound.clone())));
        let told = (Arc::clone(&audience), Arc::clone(&published));
        let reporter = Reporter::new(told.0, clock, termination.clone(), told.1);
        let forge = Forge::new((Arc::clone(&vault), proxy.clone()), reporter);
        let forge = Arc::new(forge.calling_from(outbound.clone()));
        let (interceptor, files) = forge.make(&config.tls, &config.http)?;
        forge.set(interceptor);
        let rings = Arc::new(Rings::new());
        let poll = Poll::new().map_err(Error::machine("opening a poll"))?;
        let waker = mio::Waker::new(poll.registry(), WAKE)
            .map_err(Error::machine("opening the driver's waker"))?;
        let wake = DriverWake::new(waker);
        let (guest_producer, mut from_guest) = FrameRing::split(Arc::clone(&rings.from_guest));
        let (mut to_guest, guest_consumer) = FrameRing::split(Arc::clone(&rings.to_guest));
        from_guest.register(&wake.waker());
        to_guest.register(&wake.waker());
        let worker = WorkerLink {
            #[cfg(feature = "krun")]
            doorbell: Arc::new(
                Doorbell::new(clock).map_err(Error::machine("opening the guest's doorbell"))?,
            ),
        };
        let told =
            (Arc::clone(&audience), MetricsHandle::new(Arc::clone(&rings), Arc::clone(&published)));
        let receive_frame_bytes_is_set = config.receive_frame_bytes().is_some();
        let (dns, trust_host_cas) = (config.dns.clone(), config.trust_host_cas);
        let kept = (Arc::clone(&vault), Arc::clone(&forge));
        let desk = Desk::new((config, slot), (clock, Arc::clone(&wake)), kept, told);
        let network = Self {
            config: core,
            dns,
            desk: Arc::new(desk),
            addresses,
            rings,
            published,
            audience,
            clock,
            wake,
            stop: Arc::new(AtomicBool::new(false)),
            parts: Some((poll, EngineEnds { from_guest, to_guest })),
            guest_ends: Some((guest_producer, guest_consumer)),
            worker,
            link: None,
            receive_frame_bytes_is_set,
            driver: None,
            termination,
            trust_host_cas,
            vault,
            forge,
            proxy,
            outbound,
            gate: None,
            known_names: vec![],
        };
        Ok((network, files))
    }

    /// The backend for msb_krun's virtio-net device.
    ///
    /// # Panics
    /// If it was taken before; [`try_take_backend`](Self::try_take_backend) returns that as an
    /// error.
    #[cfg(feature = "krun")]
    #[must_use]
    pub fn take_backend(&mut self) -> Box<dyn msb_krun::backends::net::NetBackend + Send> {
        match self.try_take_backend() {
            Ok(backend) => backend,
            Err(error) => panic!("{error}"),
        }
    }

    /// The backend for msb_krun's virtio-net device; there is one. It may be taken before or after
    /// [`start`](Self::start).
    ///
    /// # Errors
    /// [`Error::BackendTaken`] the second time, or after [`attach_link`](Self::attach_link); and a
    /// configuration that allows frames longer than the device's guests take.
    #[cfg(feature = "krun")]
    pub fn try_take_backend(
        &mut self,
    ) -> Result<Box<dyn msb_krun::backends::net::NetBackend + Send>, Error> {
        let bound = self.config.link.receive_frame_bytes;
        if bound > limits::RECEIVE_FRAME_BYTES_DEFAULT {
            // One byte over the guest's buffer ends the device's receive path for good.
            let expected = "at most 1514 behind msb_krun, whose guests post no longer buffers";
            let field = "interface.receive_frame_bytes";
            return Err(sluicegate_core::ConfigError::new(field, bound, expected).into());
        }
        let ends = self.guest_ends.take().ok_or(Error::BackendTaken)?;
        Ok(Box::new(KrunBackend::new(
            ends,
            bound,
            Arc::clone(&self.worker.doorbell),
            Arc::clone(&self.published),
            self.wake.waker(),
        )))
    }

    /// Lets the driver serve `link` itself, in place of a backend; to be called before
    /// [`start`](Self::start).
    ///
    /// A link takes frames as long as its MTU allows, unless the configuration says otherwise.
    ///
    /// # Errors
    /// [`Error::BackendTaken`] if the guest's end was taken before, and [`Error::AlreadyStarted`].
    pub fn attach_link(&mut self, link: Box<dyn GuestLink>) -> Result<(), Error> {
        if self.parts.is_none() {
            return Err(Error::AlreadyStarted);
        }
        let (from_guest, to_guest) = self.guest_ends.take().ok_or(Error::BackendTaken)?;
        if !self.receive_frame_bytes_is_set {
            self.config.link.receive_frame_bytes =
                u32::from(self.config.link.mtu) + ETHERNET_HEADER_BYTES;
        }
        self.link = Some(FrontEnd::Link { link, from_guest, to_guest });
        Ok(())
    }

    /// Starts the driver's thread. `runtime` is where work that has to wait for others is done
    /// (names, TLS), so its IO and time must be enabled, and something must drive it; plain flows
    /// never touch it. Names of name servers are asked of this host's resolver, on this thread.
    ///
    /// # Panics
    /// If it was started before, or the system has no threads to give;
    /// [`try_start`](Self::try_start) returns that as an error.
    pub fn start(&mut self, runtime: tokio::runtime::Handle) {
        if let Err(error) = self.try_start(runtime) {
            panic!("{error}");
        }
    }

    /// Starts the driver's thread; it is ready for the guest when this returns. Names of name
    /// servers are asked of this host's resolver, on this thread.
    ///
    /// # Errors
    /// [`Error::AlreadyStarted`], an address or interface of `outbound` that this host has not, a
    /// name server that its resolver does not know, a port that can't be published: after the last
    /// three it may be tried again. No thread or memory to be had, or a configuration that does not
    /// fit the link.
    pub fn try_start(&mut self, runtime: tokio::runtime::Handle) -> Result<(), Error> {
        self.start_by(runtime, Running::alone)
    }

    /// Starts the driver on a thread of `pool`, which it shares with others; all else is as with
    /// [`try_start`](Self::try_start), also that this host's resolver is asked on this thread,
    /// and `outbound` tried on it: a pool in another network namespace may have what this has not.
    ///
    /// # Errors
    /// Those of [`try_start`](Self::try_start).
    pub fn try_start_on(
        &mut self,
        pool: &DriverPool,
        runtime: tokio::runtime::Handle,
    ) -> Result<(), Error> {
        self.start_by(runtime, |driver| pool.start(driver))
    }

    /// Lets `start` start the driver, and the driver begin, unless something holds it back.
    fn start_by(
        &mut self,
        runtime: tokio::runtime::Handle,
        start: impl FnOnce(Box<Driver>) -> Result<Running, Error>,
    ) -> Result<(), Error> {
        if self.parts.is_none() {
            return Err(Error::AlreadyStarted);
        }
        // Whatever may fail comes before anything is taken, so that a start may be repeated.
        self.outbound.try_out()?;
        let servers = name_servers(&self.dns)?;
        let gate = self.gate.clone().filter(|gate| !gate.is_open());
        // On this thread: whoever starts a network decides in which namespace it listens.
        let bound = if gate.is_some() { None } else { Some(self.desk.bind_ports()?) };
        let (driver, waiting) = self.driver(runtime, servers)?;
        self.driver = Some(start(driver)?);
        match (bound, gate) {
            // If the driver ends before, that has its reason.
            (Some(bound), _) => waiting.begin(bound).or_else(|_| self.wait()),
            (None, Some(gate)) => gate.hold(waiting),
            (None, None) => Ok(()),
        }
    }

    /// The driver, and what it waits for.
    fn driver(
        &mut self,
        runtime: tokio::runtime::Handle,
        servers: Vec<Server>,
    ) -> Result<(Box<Driver>, Waiting), Error> {
        let (poll, ends) = self.parts.take().ok_or(Error::AlreadyStarted)?;
        let front = self.link.take().unwrap_or_else(|| FrontEnd::Worker(self.worker.clone()));
        let (begin, listeners) = std::sync::mpsc::sync_channel(1);
        let (tell, has_begun) = std::sync::mpsc::sync_channel(1);
        let (orders, taken) = self.desk.furnish(&self.config);
        let driver = Driver {
            config: self.config.clone(),
            clock: self.clock,
            poll,
            ends,
            front,
            published: Arc::clone(&self.published),
            stop: Arc::clone(&self.stop),
            speaker: Speaker(Arc::clone(&self.audience)),
            begin: listeners,
            has_begun: tell,
            known_names: core::mem::take(&mut self.known_names),
            orders: taken,
            tls: Tls {
                interceptor: self.forge.interceptor(),
                runtime: runtime.clone(),
                ready: ReadyList::new(Arc::clone(&self.wake)),
            },
            outbound: self.outbound.clone(),
            dialler: self.proxy.as_ref().map(|proxy| Dialler {
                proxy: Arc::clone(proxy),
                runtime: runtime.clone(),
                wake: Arc::clone(&self.wake),
                done: Arc::default(),
                mailbox: Mailbox::new(Arc::clone(&self.wake), Arc::clone(&self.published)),
            }),
            names: ResolverParts {
                runtime,
                wake: Arc::clone(&self.wake),
                clock: self.clock,
                published: Arc::clone(&self.published),
                servers,
                outbound: self.outbound.clone(),
                timeout: Duration::from_millis(self.dns.query_timeout_ms),
            },
        };
        let (desk, wake) = (Arc::clone(&self.desk), Arc::clone(&self.wake));
        Ok((Box::new(driver), Waiting { desk, wake, begin, has_begun, orders }))
    }

    /// Lets [`start`](Self::start) do all but read frames and publish ports; the handle that this
    /// returns lets it do those, once. To be called before `start`.
    #[must_use]
    pub fn defer_activation(&mut self) -> ActivationHandle {
        ActivationHandle(Arc::clone(self.gate.get_or_insert_with(Gate::shut)))
    }

    /// The ports that are published, once the network was started: where this host really listens.
    #[must_use]
    pub fn published_ports(&self) -> Vec<PublishedPort> {
        self.desk.ports()
    }

    /// Waits until the driver ends by itself: when its link is gone, or it failed.
    ///
    /// # Errors
    /// Why it ended.
    pub fn wait(&mut self) -> Result<(), Error> {
        self.driver.take().map_or(Ok(()), Running::wait)
    }

    /// Whether the driver runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.driver.as_ref().is_some_and(|driver| !driver.is_over())
    }

    /// Ends the network: stops and joins the driver, and closes every socket: the driver's own
    /// before this returns, those of its tasks (queries, a proxy, TLS) when their runtime next runs
    /// them. Harmless if it never ran, or has ended.
    ///
    /// # Errors
    /// What the driver failed of, if it had.
    pub fn shutdown(&mut self) -> Result<(), Error> {
        self.stop.store(true, Ordering::Release);
        self.wake.ring();
        if let Some(gate) = &self.gate {
            gate.give_up();
        }
        // Also where nothing was ever started.
        let ended = self.wait();
        self.audience.close();
        ended
    }

    /// The guest's MAC address.
    #[must_use]
    pub fn guest_mac(&self) -> [u8; 6] {
        self.config.link.guest_mac
    }

    /// All addresses of the guest's link.
    #[must_use]
    pub fn addresses(&self) -> &sluicegate_core::addr::Addresses {
        &self.addresses
    }

    /// What the guest's agent reads: `MSB_NET`, `MSB_NET_IPV4`, `MSB_NET_IPV6`, then the secrets'
    /// variables with their placeholders, in this order. No value of a secret is among them.
    #[must_use]
    pub fn guest_env_vars(&self) -> Vec<(String, String)> {
        let own = self.addresses.environment();
        let own = own.iter().map(|(name, value)| ((*name).to_owned(), value.to_string()));
        let mut variables: Vec<_> = own.collect();
        variables.extend(self.vault.environment());
        variables
    }

    /// Where the network is changed and asked while it runs. If this is called before
    /// [`start`](Self::start), the names that addresses are resolved by are kept (some MiB at
    /// most), so that rules by name may come to a policy without, and flows are listed with their
    /// names.
    #[must_use]
    pub fn control_handle(&mut self) -> ControlHandle {
        self.config.keeps_names = true;
        ControlHandle(Arc::clone(&self.desk))
    }

    /// Where secrets are changed while the network runs.
    #[must_use]
    pub fn secrets_handle(&self) -> SecretsHandle {
        SecretsHandle(Arc::clone(&self.vault))
    }

    /// Where a VMM says how the guest is ended.
    #[must_use]
    pub fn termination_handle(&self) -> TerminationHandle {
        self.termination.clone()
    }

    /// Subscribes to what the network tells of from now on ([`NetworkEvent`](crate::NetworkEvent);
    /// of very many a second some are counted only). There may be several subscriptions, before
    /// and after [`start`](Self::start). Who reads slowly loses the oldest, and never holds the
    /// guest up.
    #[must_use]
    pub fn events(&self) -> Events {
        self.audience.subscribe()
    }

    /// Where the counters are read.
    #[must_use]
    pub fn metrics_handle(&self) -> MetricsHandle {
        MetricsHandle::new(Arc::clone(&self.rings), Arc::clone(&self.published))
    }
}

impl Drop for SmoltcpNetwork {
    fn drop(&mut self) {
        if let Err(error) = self.shutdown() {
            tracing::warn!(%error, "a network ended with an error");
        }
    }
}

#[cfg(test)]
mod tests;
