//! What a network tells of while it runs, and who listens.
//!
//! Owns the way from the driver to subscribers; must not know what leads to an event. A subscriber
//! has a queue of its own, of fixed length: what it does not take in time pushes the oldest out,
//! and is counted. So whoever reads slowly, or not at all, loses events, and never holds the driver
//! up. Nothing here is touched but by an event, and of those the engine tells a bounded number a
//! second.

use core::fmt;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use sluicegate_core::{By, DenialReason, Direction, Group, Protocol};

mod intercepted;

pub use intercepted::{EVENT_TEXT_BYTES_MAX, Incident, Intercepted};

/// Events that a subscriber may be behind.
pub const EVENTS_BEHIND_MAX: usize = 1024;

/// Something that an operator may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetworkEvent {
    /// Policy denied a flow of the guest, a name that it asked for, or who came from outside.
    Denied(Denied),
    /// Something on an intercepted connection went no further.
    Intercepted(Intercepted),
}

/// What policy denied: a flow that the guest opened, a name that it asked for, or a caller at a
/// published port.
///
/// Shown in words: `denied tcp 100.96.0.2:4711 -> 169.254.169.254:80 (metadata) by rule 3`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Denied {
    /// When.
    pub time: SystemTime,
    /// Who wanted to open it: the guest (`Egress`), or somebody outside.
    pub direction: Direction,
    /// The protocol.
    pub protocol: Protocol,
    /// The guest's end; of a ping the port is its identifier.
    pub guest: SocketAddr,
    /// Where it would have gone, or who wanted to come; of a ping the port is 0.
    pub destination: SocketAddr,
    /// What the destination is, as far as it is in a group.
    pub group: Option<Group>,
    /// The name that the guest said to the server, where that was read, or asked the gateway for.
    pub name: Option<String>,
    /// What denied it; a rule by its index, from 0, as `sluicegate check` shows them.
    pub by: By,
    /// Why.
    pub reason: DenialReason,
    /// Denials before this one that were too many to be told.
    pub left_out: u64,
}

impl Denied {
    /// What is told of `denial`, of a flow of `guest`.
    pub(crate) fn new(
        (denial, name): (sluicegate_core::Denial, Option<&str>),
        guest: IpAddr,
        time: SystemTime,
    ) -> Self {
        Self {
            time,
            direction: denial.direction,
            protocol: denial.protocol,
            guest: SocketAddr::new(guest, denial.guest_port),
            destination: denial.destination,
            group: denial.group,
            name: name.map(str::to_owned),
            by: denial.by,
            reason: denial.reason,
            left_out: denial.left_out,
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "denied {} ", self.protocol.name())?;
        if self.direction == Direction::Ingress {
            write!(f, "{} -> {}", self.destination, self.guest)?;
        } else if self.protocol.has_ports() {
            write!(f, "{} -> {}", self.guest, self.destination)?;
        } else {
            write!(f, "{} -> {}", self.guest.ip(), self.destination.ip())?;
        }
        if let Some(name) = &self.name {
            write!(f, " {name}")?;
        }
        if let Some(group) = self.group {
            write!(f, " ({})", group.name())?;
        }
        write!(f, " by {}", self.by)?;
        match self.reason {
            DenialReason::Policy => {}
            DenialReason::NameUnknown => f.write_str(", as its name is not known")?,
            DenialReason::Rebinding => f.write_str(", as the name leads inside")?,
            DenialReason::Quic => f.write_str(", as QUIC is not intercepted")?,
            DenialReason::OtherNames => f.write_str(", as names are asked at port 53 only")?,
        }
        match self.left_out {
            0 => Ok(()),
            count => write!(f, "; {count} before it are left out"),
        }
    }
}

/// A subscription to a network's events, from when it was made.
///
/// Take events from any thread: with [`Iterator::next`], which blocks,
/// [`try_next`](Self::try_next), [`next_timeout`](Self::next_timeout), or, in any asynchronous
/// runtime, [`next_async`](Self::next_async). After the network has ended, what is left comes,
/// then `None`.
#[derive(Debug)]
pub struct Events {
    feed: Arc<Feed>,
}

/// One subscriber's queue.
#[derive(Debug, Default)]
struct Feed {
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<NetworkEvent>,
    lost: u64,
    is_over: bool,
    waker: Option<Waker>,
}

impl Feed {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the queue, and calls who waits for that.
    fn change(&self, change: impl FnOnce(&mut Queue)) {
        let mut queue = self.lock();
        change(&mut queue);
        let waker = queue.waker.take();
        drop(queue);
        self.more.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Events {
    /// The next event, if there is one now.
    pub fn try_next(&mut self) -> Option<NetworkEvent> {
        self.feed.lock().events.pop_front()
    }

    /// The next event; waits for one for `patience` at most. `None` comes early where the network
    /// has ended ([`is_over`](Self::is_over)).
    pub fn next_timeout(&mut self, patience: Duration) -> Option<NetworkEvent> {
        let waits = |queue: &mut Queue| queue.events.is_empty() && !queue.is_over;
        let waited = self.feed.more.wait_timeout_while(self.feed.lock(), patience, waits);
        waited.unwrap_or_else(PoisonError::into_inner).0.events.pop_front()
    }

    /// The next event, once there is one; `None`: the network has ended. Needs no runtime of a
    /// certain kind, and may be dropped at any time: no event is lost by that.
    pub fn next_async(&mut self) -> impl Future<Output = Option<NetworkEvent>> + Send + '_ {
        Next { feed: &self.feed }
    }

    /// How many events this subscription has lost, because it was too far behind.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.feed.lock().lost
    }

    /// Whether the network has ended, and every event was taken.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let queue = self.feed.lock();
        queue.is_over && queue.events.is_empty()
    }
}

/// Blocks until there is an event; ends with the network.
impl Iterator for Events {
    type Item = NetworkEvent;

    fn next(&mut self) -> Option<NetworkEvent> {
        let waits = |queue: &mut Queue| queue.events.is_empty() && !queue.is_over;
        let waited = self.feed.more.wait_while(self.feed.lock(), waits);
        waited.unwrap_or_else(PoisonError::into_inner).events.pop_front()
    }
}

struct Next<'e> {
    feed: &'e Feed,
}

impl Future for Next<'_> {
    type Output = Option<NetworkEvent>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut queue = self.feed.lock();
        match queue.events.pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None if queue.is_over => Poll::Ready(None),
            None => {
                queue.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Who listens to a network.
#[derive(Debug, Default)]
pub(crate) struct Audience {
    feeds: Mutex<Feeds>,
}

#[derive(Debug, Default)]
struct Feeds {
    /// Whoever dropped its subscription is gone.
    present: Vec<Weak<Feed>>,
    is_over: bool,
}

impl Audience {
    /// One more subscription; to a network that has ended it is over at once.
    pub(crate) fn subscribe(&self) -> Events {
        let feed = Arc::new(Feed::default());
        let mut feeds = self.lock();
        feeds.present.retain(|feed| feed.strong_count() > 0);
        feeds.present.push(Arc::downgrade(&feed));
        feed.lock().is_over = feeds.is_over;
        Events { feed }
    }

    /// Tells everybody of what `event` makes, if there is anybody.
    ///
    /// # Cost
    /// A lock, and a copy for each subscriber. It waits for nobody.
    pub(crate) fn tell(&self, event: impl FnOnce() -> NetworkEvent) {
        let feeds = self.lock();
        let mut present = feeds.present.iter().filter_map(Weak::upgrade).peekable();
        if present.peek().is_none() {
            return;
        }
        let event = event();
        for feed in present {
            feed.change(|queue| {
                if queue.events.len() >= EVENTS_BEHIND_MAX {
                    queue.events.pop_front();
                    queue.lost += 1;
                }
                queue.events.push_back(event.clone());
            });
        }
    }

    /// Tells everybody that no event comes any more.
    pub(crate) fn close(&self) {
        let mut feeds = self.lock();
        feeds.is_over = true;
        for feed in feeds.present.drain(..).filter_map(|feed| feed.upgrade()) {
            feed.change(|queue| queue.is_over = true);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Feeds> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The driver's end: when it goes, the events are over.
#[derive(Debug)]
pub(crate) struct Speaker(pub(crate) Arc<Audience>);

impl Drop for Speaker {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(guest_port: u16) -> NetworkEvent {
        let denial = sluicegate_core::Denial {
            direction: Direction::Egress,
            protocol: Protocol::Tcp,
            guest_port,
            destination: "169.254.169.254:80".parse().unwrap(),
            group: Some(Group::Metadata),
            by: By::Rule(3),
            reason: DenialReason::Policy,
            left_out: 0,
        };
        let guest = "100.96.0.2".parse().unwrap();
        NetworkEvent::Denied(Denied::new((denial, None), guest, SystemTime::UNIX_EPOCH))
    }

    #[test]
    fn every_subscriber_has_every_event_in_order() {
        let audience = Audience::default();
        let [mut one, mut other] = [audience.subscribe(), audience.subscribe()];
        for port in 1..=3 {
            audience.tell(|| denied(port));
        }
        assert_eq!(one.next(), Some(denied(1)));
        let mut late = audience.subscribe();
        audience.close();
        assert_eq!(one.collect::<Vec<_>>(), [denied(2), denied(3)]);
        assert_eq!(other.try_next(), Some(denied(1)));
        assert!(!other.is_over() && late.is_over());
        assert_eq!(late.next_timeout(Duration::from_secs(60)), None);
        assert!(audience.subscribe().is_over(), "a network that has ended says nothing");
    }

    #[test]
    fn who_is_too_far_behind_loses_the_oldest_and_is_told_how_many() {
        let audience = Audience::default();
        let [mut slow, mut quick] = [audience.subscribe(), audience.subscribe()];
        let told = u16::try_from(EVENTS_BEHIND_MAX).unwrap() + 10;
        for port in 1..=told {
            audience.tell(|| denied(port));
            assert_eq!(quick.try_next(), Some(denied(port)));
        }
        assert_eq!((slow.lost(), quick.lost()), (10, 0));
        assert_eq!(slow.next(), Some(denied(11)));
        assert_eq!(core::iter::from_fn(|| slow.try_next()).count(), EVENTS_BEHIND_MAX - 1);
    }

    #[test]
    fn nothing_is_made_where_nobody_listens() {
        let audience = Audience::default();
        audience.tell(|| unreachable!("nobody listens"));
        drop(audience.subscribe());
        audience.tell(|| unreachable!("nobody listens any more"));
    }

    #[test]
    fn whoever_waits_is_called_with_and_without_a_runtime() {
        let audience = Arc::new(Audience::default());
        let mut events = audience.subscribe();
        let reader = std::thread::spawn(move || {
            let blocking = events.next();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            (blocking, runtime.block_on(events.next_async()), runtime.block_on(events.next_async()))
        });
        audience.tell(|| denied(1));
        audience.tell(|| denied(2));
        audience.close();
        assert_eq!(reader.join().unwrap(), (Some(denied(1)), Some(denied(2)), None));
    }

    #[test]
    fn a_future_that_waits_is_woken_by_the_next_event() {
        struct Called(std::sync::atomic::AtomicBool);
        impl std::task::Wake for Called {
            fn wake(self: Arc<Self>) {
                self.0.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let audience = Audience::default();
        let mut events = audience.subscribe();
        let called = Arc::new(Called(false.into()));
        let waker = Waker::from(Arc::clone(&called));
        let mut context = Context::from_waker(&waker);
        let mut next = core::pin::pin!(events.next_async());
        assert_eq!(next.as_mut().poll(&mut context), Poll::Pending);
        audience.tell(|| denied(1));
        assert!(called.0.load(std::sync::atomic::Ordering::Relaxed));
        assert_eq!(next.as_mut().poll(&mut context), Poll::Ready(Some(denied(1))));
    }

    #[test]
    fn a_denial_is_shown_in_one_line() {
        let NetworkEvent::Denied(mut shown) = denied(4711) else { unreachable!() };
        assert_eq!(
            shown.to_string(),
            "denied tcp 100.96.0.2:4711 -> 169.254.169.254:80 (metadata) by rule 3"
        );
        shown.protocol = Protocol::Icmpv4;
        shown.group = None;
        shown.by = By::Default;
        shown.left_out = 9;
        assert_eq!(
            shown.to_string(),
            "denied icmpv4 100.96.0.2 -> 169.254.169.254 by default; 9 before it are left out"
        );
        shown.by = By::Platform;
        shown.reason = DenialReason::NameUnknown;
        shown.left_out = 0;
        shown.name = Some("name.test".to_owned());
        assert_eq!(
            shown.to_string(),
            "denied icmpv4 100.96.0.2 -> 169.254.169.254 name.test by the platform, as its name is \
             not known"
        );
    }
}
