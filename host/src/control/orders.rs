//! Orders to the driver: how they are given, taken back, begun and obeyed.
//!
//! An order lies on a slip, from which it is taken once: by the driver, which obeys it, or by who
//! gave it and has lost patience. So one that was given up is never obeyed, with what it holds (the
//! sockets of ports) gone at once; and whoever gave one that was begun waits for the answer, as
//! long as the driver takes for a turn or until it has died.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use sluicegate_core::{Config, ConfigError, FlowId, Instant};

use super::lock;
use super::row::{self, FlowRow};
use crate::capture::CaptureEnd;
use crate::clock::Clock;
use crate::error::Error;
use crate::flow::ports::PortChange;
use crate::flow::{Flows, HostEngine};
use crate::intercept::{Forge, Interceptor};
use crate::metrics::Published;
use crate::rings::RingProducer;
use crate::service::dns::Server;
use crate::service::secrets::{Snapshot as Values, Vault};
use crate::snapshot::NameSnapshot;

/// Orders that one turn of the driver obeys.
const TURN_ORDERS_MAX: usize = 8;

/// What the driver is asked for, and where the answer goes.
pub(super) enum Order {
    Replace(Box<Change>, SyncSender<Result<(), Error>>),
    Flows(SyncSender<Vec<FlowRow>>),
    Names(SyncSender<Vec<NameSnapshot>>),
    Measure(Arc<Published>, SyncSender<()>),
    End(FlowId, SyncSender<bool>),
    Capture(RingProducer, CaptureEnd, SyncSender<()>),
}

/// A new configuration, prepared.
pub(super) struct Change {
    pub(super) core: Config,
    pub(super) ports: PortChange,
    /// The name servers, if they are others, and their time.
    pub(super) names: Option<(Vec<Server>, Duration)>,
    pub(super) vault: Arc<Vault>,
    pub(super) secrets: Arc<Values>,
    /// Who ends TLS, if that is another, and where that is kept.
    pub(super) forge: Arc<Forge>,
    pub(super) interceptor: Option<Option<Arc<Interceptor>>>,
}

/// Where an order lies until somebody takes it.
pub(crate) struct Slip(Mutex<Option<Order>>);

impl Slip {
    fn take(&self) -> Option<Order> {
        lock(&self.0).take()
    }
}

/// An order that was given. Its slip is the driver's: where that dies the order goes with it, and
/// who gave it hears of it at once.
pub(super) struct Given<T> {
    slip: Weak<Slip>,
    answered: Receiver<T>,
}

impl<T> Given<T> {
    /// Gives the driver behind `orders` the order that `order` makes.
    ///
    /// # Errors
    /// [`Error::Busy`]: so many wait; [`Error::NotRunning`].
    pub(super) fn new(
        orders: &SyncSender<Arc<Slip>>,
        order: impl FnOnce(SyncSender<T>) -> Order,
    ) -> Result<Self, Error> {
        let (answer, answered) = sync_channel(1);
        let slip = Arc::new(Slip(Mutex::new(Some(order(answer)))));
        let given = Self { slip: Arc::downgrade(&slip), answered };
        match orders.try_send(slip) {
            Ok(()) => Ok(given),
            Err(TrySendError::Full(_)) => Err(Error::Busy),
            Err(TrySendError::Disconnected(_)) => Err(Error::NotRunning),
        }
    }

    /// What the driver answers.
    ///
    /// # Errors
    /// [`Error::Busy`]: it has not begun within `patience`, and never will; [`Error::NotRunning`].
    pub(super) fn answer(self, patience: Duration) -> Result<T, Error> {
        match self.answered.recv_timeout(patience) {
            Ok(answer) => return Ok(answer),
            Err(RecvTimeoutError::Disconnected) => return Err(Error::NotRunning),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if self.slip.upgrade().and_then(|slip| slip.take()).is_some() {
            return Err(Error::Busy);
        }
        self.answered.recv().map_err(|_| Error::NotRunning)
    }
}

/// The driver's end: takes orders, and obeys them.
pub(crate) struct Inbox {
    orders: Receiver<Arc<Slip>>,
    clock: Clock,
    /// The capture that is made.
    capture: Option<CaptureEnd>,
}

impl Inbox {
    pub(crate) fn new(orders: Receiver<Arc<Slip>>, clock: Clock) -> Self {
        Self { orders, clock, capture: None }
    }

    /// Obeys what was ordered meanwhile. True: more may wait.
    ///
    /// # Cost
    /// A look at a queue where nothing was.
    pub(crate) fn obey(
        &mut self,
        engine: &mut HostEngine<'_>,
        flows: &mut Flows,
        now: Instant,
    ) -> bool {
        if self.capture.take_if(|capture| !capture.is_read()).is_some() {
            engine.capture(now, None);
        }
        for _ in 0..TURN_ORDERS_MAX {
            let Ok(slip) = self.orders.try_recv() else { return false };
            // Who gave it may have taken it back.
            let Some(order) = slip.take() else { continue };
            match order {
                Order::Replace(change, answer) => {
                    let _ = answer.send(change.apply(engine, flows, now));
                }
                Order::Flows(answer) => {
                    let _ = answer.send(row::rows(engine, self.clock));
                }
                Order::Names(answer) => {
                    let named = |(address, name, seconds): (_, &str, _)| NameSnapshot {
                        name: name.to_owned(),
                        address,
                        seconds,
                    };
                    let _ = answer.send(engine.bindings(now).map(named).collect());
                }
                Order::Measure(published, answer) => {
                    published.publish_buffered(engine.buffered());
                    published.publish_hits(engine.hits());
                    let _ = answer.send(());
                }
                Order::End(flow, answer) => {
                    let has_ended = engine.end(now, flow);
                    flows.close_ended(engine);
                    let _ = answer.send(has_ended);
                }
                Order::Capture(ring, end, answer) => {
                    engine.capture(now, Some(ring));
                    self.capture = Some(end);
                    let _ = answer.send(());
                }
            }
        }
        true
    }
}

impl Change {
    fn apply(
        self,
        engine: &mut HostEngine<'_>,
        flows: &mut Flows,
        now: Instant,
    ) -> Result<(), Error> {
        let Self { core, ports, names, vault, secrets, forge, interceptor } = self;
        flows.watch_ports(&ports).map_err(Error::machine("watching the published ports"))?;
        if let Err(refused) = engine.replace_config(now, &core) {
            flows.unwatch_ports(&ports);
            return Err(ConfigError::into(refused));
        }
        flows.replace_ports((engine, now), ports);
        if let Some((servers, timeout)) = names {
            flows.replace_name_servers(servers, timeout);
        }
        vault.set(secrets);
        if let Some(interceptor) = interceptor {
            flows.replace_interceptor(interceptor.clone());
            forge.set(interceptor);
        }
        flows.close_ended(engine);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Queue = Receiver<Arc<Slip>>;

    /// An order to end a flow, and where the driver takes it.
    fn given() -> (Given<bool>, Queue) {
        let (give, take) = sync_channel(1);
        let flow = FlowId { index: 1, generation: 1 };
        (Given::new(&give, |answer| Order::End(flow, answer)).unwrap(), take)
    }

    /// What the driver finds on `slip`.
    fn begun(slip: &Slip) -> Option<SyncSender<bool>> {
        let Order::End(_, answer) = slip.take()? else { panic!("another order") };
        Some(answer)
    }

    #[test]
    fn an_order_that_was_given_up_is_not_there_for_the_driver() {
        let (given, queue) = given();
        assert!(matches!(given.answer(Duration::ZERO), Err(Error::Busy)));
        assert!(begun(&queue.recv().unwrap()).is_none());
    }

    #[test]
    fn an_order_that_was_begun_is_answered_to_who_has_no_patience_left() {
        let (given, queue) = given();
        let slip = queue.recv().unwrap();
        let answer = begun(&slip).unwrap();
        std::thread::scope(|scope| {
            let looks = lock(&slip.0);
            let asks = scope.spawn(|| given.answer(Duration::ZERO));
            // It comes to the slip when it has lost patience.
            while Arc::strong_count(&slip) < 2 {
                std::thread::yield_now();
            }
            drop(looks);
            answer.send(true).unwrap();
            assert!(asks.join().unwrap().unwrap());
        });
    }

    #[test]
    fn whoever_is_first_has_the_order_and_both_know_who_that_is() {
        for _ in 0..1000 {
            let (given, queue) = given();
            std::thread::scope(|scope| {
                let asks = scope.spawn(|| given.answer(Duration::ZERO));
                let is_begun = match begun(&queue.recv().unwrap()) {
                    Some(answer) => answer.send(true).is_ok(),
                    None => false,
                };
                assert_eq!(asks.join().unwrap().is_ok(), is_begun);
            });
        }
    }

    #[test]
    fn a_driver_that_dies_takes_its_orders_along_and_who_gave_them_hears_at_once() {
        // Before it has begun, and after.
        let (waiting, queue) = given();
        drop(queue);
        assert!(matches!(waiting.answer(Duration::MAX), Err(Error::NotRunning)));
        let (waiting, queue) = given();
        drop(begun(&queue.recv().unwrap()).unwrap());
        assert!(matches!(waiting.answer(Duration::ZERO), Err(Error::NotRunning)));
    }
}
