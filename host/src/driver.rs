//! The loop: takes frames and readiness in, lets the engine decide, does what it says, sleeps.
//!
//! One thread runs it, alone or among others ([`pool`]). A byte of a plain flow crosses one thread
//! boundary at most, that between a VMM's worker and this loop; a link that the loop serves itself
//! has none.
//!
//! It is a future for one reason: what an engine is lent lives beside it, on the stack of whoever
//! polls the one and on the heap of whoever keeps the other, and there is no other safe way to have
//! both. It waits for nothing but its [`Seat`].

mod own;
pub(crate) mod pool;
mod running;
mod seat;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Poll, Registry, Token};
use sluicegate_core::{Config, Engine, Instant, MemoryLen};

use crate::adapter::GuestLink;
use crate::clock::Clock;
use crate::control::{Inbox, Slip};
use crate::error::Error;
use crate::events::Speaker;
use crate::flow::dial::Dialler;
use crate::flow::ports::{Listener, Ports};
use crate::flow::tls::Tls;
use crate::flow::{Flows, HostEngine};
use crate::memory::{Pages, Storage, map};
use crate::metrics::Published;
use crate::outbound::Outbound;
use crate::rings::{RingConsumer, RingProducer};
use crate::service::dns::{Resolver, ResolverParts};
use crate::snapshot::NameSnapshot;
use own::OwnAddresses;
pub(crate) use running::Running;
use seat::Seat;

/// The token of [`DriverWake`](crate::wake::DriverWake).
pub(crate) const WAKE: Token = Token(usize::MAX);
const LINK: Token = Token(usize::MAX - 1);
const OWN_ADDRESSES: Token = Token(usize::MAX - 2);
/// The token of the first published port; flows have lower ones.
const PORTS: usize = usize::MAX - 4096;

/// The ports that a driver begins with.
pub(crate) type Listeners = Vec<(usize, Listener)>;

/// The ends of the rings that belong to the engine.
pub(crate) struct EngineEnds {
    pub(crate) from_guest: RingConsumer,
    pub(crate) to_guest: RingProducer,
}

/// Who serves the other ends of the rings.
pub(crate) enum FrontEnd {
    /// A VMM's own thread, through the backend that it took.
    Worker(WorkerLink),
    /// This loop.
    Link { link: Box<dyn GuestLink>, from_guest: RingProducer, to_guest: RingConsumer },
}

/// What the loop must know of a front end that another thread serves.
#[derive(Clone)]
pub(crate) struct WorkerLink {
    /// What calls the worker.
    #[cfg(feature = "krun")]
    pub(crate) doorbell: Arc<crate::adapter::krun::Doorbell>,
}

impl WorkerLink {
    /// Rings the worker again where it left a frame lying; returns how long the loop may sleep.
    fn recheck(&self) -> Option<Duration> {
        #[cfg(feature = "krun")]
        return self.doorbell.recheck();
        #[cfg(not(feature = "krun"))]
        None
    }
}

/// All that a driver is made of.
pub(crate) struct Driver {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) poll: Poll,
    pub(crate) ends: EngineEnds,
    pub(crate) front: FrontEnd,
    pub(crate) published: Arc<Published>,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) speaker: Speaker,
    pub(crate) names: ResolverParts,
    /// Where its ports come from; it begins once they have.
    pub(crate) begin: Receiver<Listeners>,
    /// Told once nothing but the machine can go wrong any more.
    pub(crate) has_begun: SyncSender<()>,
    /// Names that the guest has resolved before.
    pub(crate) known_names: Vec<NameSnapshot>,
    pub(crate) orders: Receiver<Arc<Slip>>,
    pub(crate) tls: Tls,
    pub(crate) dialler: Option<Dialler>,
    pub(crate) outbound: Outbound,
}

impl Driver {
    /// Runs until it is stopped, or its link ends.
    ///
    /// # Errors
    /// What the machine refused, or a configuration that the engine refuses.
    async fn run(self: Box<Self>, mut seat: Seat) -> Result<(), Error> {
        // What is long is not moved: a thread keeps what its stack once took.
        let mut driver = self;
        let Some(listeners) = driver.listeners(&mut seat).await? else { return Ok(()) };
        // On this thread: it opens the sockets, so its host is the one that counts.
        let (for_own, for_flows) = (driver.registry()?, driver.registry()?);
        let mut own = OwnAddresses::start(&mut driver.config, for_own, OWN_ADDRESSES)
            .map_err(Error::machine("asking for this host's own addresses"))?;
        let len = MemoryLen::of(&driver.config);
        let mut buffers = map(len.buffers)?;
        let pages = Pages::of(&mut buffers);
        let mut fragment_bytes = map(len.fragment_bytes)?;
        let mut storage = Storage::new(&len);
        let memory = storage.lend(&mut buffers, &mut fragment_bytes);
        let now = driver.clock.now();
        let EngineEnds { from_guest, to_guest } = driver.ends;
        let mut engine = Engine::new(&driver.config, memory, from_guest, to_guest, now)?;
        if seat.is_shared() {
            engine.share_thread();
        }
        let resolver = Resolver::new(driver.names);
        let ports = Ports::new(listeners, &for_flows, PORTS)
            .map_err(Error::machine("watching the published ports"))?;
        let said = (driver.speaker, resolver, ports);
        let ways = (driver.tls, driver.dialler, driver.outbound);
        let mut flows = Flows::new(for_flows, Arc::clone(&driver.published), pages, said, ways);
        own.update(&mut engine, &mut flows, now);
        for known in &driver.known_names {
            engine.bind_name(now, &known.name, (known.address, known.seconds));
        }
        // Whoever started it waits for this, or is gone.
        let _ = driver.has_begun.send(());
        let mut turns = Loop {
            engine,
            flows,
            own,
            inbox: Inbox::new(driver.orders, driver.clock),
            is_ordered: false,
            front: driver.front,
            poll: driver.poll,
            clock: driver.clock,
            published: driver.published,
            stop: driver.stop,
            link_is_ready: true,
        };
        turns.run(&mut seat).await
    }

    /// Waits for the ports to begin with; `None`: it is stopped before.
    async fn listeners(&mut self, seat: &mut Seat) -> Result<Option<Listeners>, Error> {
        while !self.stop.load(Ordering::Acquire) {
            match self.begin.try_recv() {
                Ok(listeners) => return Ok(Some(listeners)),
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => {
                    seat.wait(&mut self.poll, None).await?;
                }
            }
        }
        Ok(None)
    }

    fn registry(&self) -> Result<Registry, Error> {
        self.poll.registry().try_clone().map_err(Error::machine("duplicating the poll"))
    }
}

struct Loop<'a> {
    engine: HostEngine<'a>,
    flows: Flows,
    own: OwnAddresses,
    inbox: Inbox,
    /// More orders may wait than one turn obeys.
    is_ordered: bool,
    front: FrontEnd,
    poll: Poll,
    clock: Clock,
    published: Arc<Published>,
    stop: Arc<AtomicBool>,
    /// The link may have more frames than were taken.
    link_is_ready: bool,
}

/// However it ends, with it go its flows.
impl Drop for Loop<'_> {
    fn drop(&mut self) {
        self.published.publish(self.engine.counters(), [0; 3]);
    }
}

impl Loop<'_> {
    async fn run(&mut self, seat: &mut Seat) -> Result<(), Error> {
        if let FrontEnd::Link { link, .. } = &self.front {
            let fd = std::os::fd::AsRawFd::as_raw_fd(&link.as_fd());
            self.poll
                .registry()
                .register(&mut SourceFd(&fd), LINK, Interest::READABLE | Interest::WRITABLE)
                .map_err(Error::machine("watching the guest's link"))?;
        }
        while !self.stop.load(Ordering::Acquire) {
            self.published.driver_turns.fetch_add(1, Ordering::Relaxed);
            let now = self.clock.now();
            self.own.update(&mut self.engine, &mut self.flows, now);
            self.is_ordered = self.inbox.obey(&mut self.engine, &mut self.flows, now);
            self.receive(now)?;
            self.flows.serve(&mut self.engine, now);
            let until = self.flows.perform_all(&mut self.engine, now);
            self.send()?;
            self.publish();
            let timeout = self.timeout(until);
            let events = seat.wait(&mut self.poll, timeout).await?;
            if matches!(self.front, FrontEnd::Worker(_)) {
                self.engine.from_guest().awake();
            }
            for event in events {
                match event.token() {
                    WAKE => {}
                    OWN_ADDRESSES => self.own.ready(),
                    LINK => self.link_is_ready |= event.is_readable() || event.is_error(),
                    Token(index) if index >= PORTS => self.flows.port_ready(index - PORTS),
                    Token(index) => self.flows.ready(index, event),
                }
            }
        }
        Ok(())
    }

    /// Lets others see what there is, and was.
    fn publish(&self) {
        self.published.publish(self.engine.counters(), self.engine.flow_counts());
        if let FrontEnd::Link { link, .. } = &self.front {
            let lost = link.lost_frames();
            let drops = &self.published.adapter_drops;
            for (to, from) in [
                (&drops.link_full, lost.link_full),
                (&drops.short, lost.short),
                (&drops.too_long, lost.too_long),
            ] {
                to.store(from, Ordering::Relaxed);
            }
        }
    }

    /// Takes frames from a link that is ours to serve.
    fn receive(&mut self, now: Instant) -> Result<(), Error> {
        if let FrontEnd::Link { link, from_guest, .. } = &mut self.front
            && self.link_is_ready
            && !self.engine.is_paced(now)
        {
            self.link_is_ready = link
                .receive(from_guest, self.engine.turn_max().frames)
                .map_err(Error::machine("reading the guest's link"))?;
        }
        Ok(())
    }

    /// Gives frames to a link that is ours to serve.
    fn send(&mut self) -> Result<(), Error> {
        if let FrontEnd::Link { link, to_guest, .. } = &mut self.front {
            link.send(to_guest).map_err(Error::machine("writing the guest's link"))?;
        }
        Ok(())
    }

    /// How long to sleep, if there is no event before.
    fn timeout(&mut self, until: Option<Instant>) -> Option<Duration> {
        let now = self.clock.now();
        let mut timeout = until
            .map(|until| Duration::from_micros(until.as_micros().saturating_sub(now.as_micros())));
        // While the guest has sent as much as it may, its frames wait where they are.
        let is_paced = self.engine.is_paced(now);
        match &self.front {
            FrontEnd::Link { .. } if self.link_is_ready && !is_paced => {
                timeout = Some(Duration::ZERO);
            }
            FrontEnd::Link { .. } => {}
            FrontEnd::Worker(worker) => {
                if !is_paced && !self.engine.from_guest().sleep() {
                    timeout = Some(Duration::ZERO);
                } else if let Some(limit) = worker.recheck() {
                    timeout = Some(timeout.map_or(limit, |t| t.min(limit)));
                }
            }
        }
        if let Some(limit) = self.own.patience(now) {
            timeout = Some(timeout.map_or(limit, |t| t.min(limit)));
        }
        if self.is_ordered || self.flows.is_busy(&mut self.engine, now) {
            timeout = Some(Duration::ZERO);
        }
        timeout
    }
}
