//! Threads that many drivers share.
//!
//! Owns which thread a network goes to, and whose turn it is there; must not know what a turn is.
//! The poll of each network is a descriptor in the poll of its thread, so that one system call
//! finds who has something, and those that sleep until a time are in its order: a thousand that
//! have nothing to do cost nothing. Who has something queues up, has one turn, which the driver
//! bounds itself, and queues up again if there is more. Between two turns the thread looks who else
//! has come: **one that has something to do waits for one turn at most of each of the others.**
//!
//! A network that dies of a bug dies alone, since each turn is caught.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll as Polled, Waker};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use sluicegate_core::Instant;

use super::running::{Outcome, bug};
use super::seat::{EVENTS_MAX, Patience, Seat};
use super::{Driver, Running, WAKE};
use crate::clock::Clock;
use crate::error::Error;
use crate::wake::DriverWake;

/// Threads that serve many networks, by turns; clones are the same pool.
///
/// A network that is started on it ([`try_start_on`](crate::SmoltcpNetwork::try_start_on)) goes to
/// the thread that has the fewest, and stays there. The threads end with the last network on them,
/// once the pool itself has been dropped. They open the sockets of all its networks, so **those
/// are in the network namespace of whoever made the pool**; only ports are published, as ever, in
/// that of whoever starts the network. A network that has something to do waits for one turn at
/// most of each of the others on its thread, and one that dies of a bug dies alone.
///
/// # Cost
/// A turn takes one system call more than on a thread of its own, and a network no stack.
///
/// ```
/// use std::num::NonZeroUsize;
/// use sluicegate_host::{DriverPool, NetworkConfig, SmoltcpNetwork};
///
/// let runtime = tokio::runtime::Runtime::new()?;
/// let pool = DriverPool::new(NonZeroUsize::MIN)?;
/// let mut networks = vec![];
/// for slot in 0..3 {
///     let mut network = SmoltcpNetwork::try_new(NetworkConfig::default(), slot)?;
///     network.try_start_on(&pool, runtime.handle().clone())?;
///     networks.push(network);
/// }
/// for network in &mut networks {
///     network.shutdown()?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct DriverPool(Arc<Pool>);

struct Pool {
    threads: Vec<Thread>,
    /// Held by who looks for the thread with the fewest.
    placing: Mutex<()>,
}

/// A thread, as its pool knows it.
struct Thread {
    /// `None`: nobody comes any more.
    newcomers: Option<Sender<Newcomer>>,
    wake: Arc<DriverWake>,
    /// Networks that it has.
    networks: Arc<AtomicUsize>,
}

/// A driver that comes to a thread, and whom to tell how it ended.
struct Newcomer {
    driver: Box<Driver>,
    end: End,
}

/// What is told when a network has ended.
struct End {
    outcome: SyncSender<Outcome>,
    is_over: Arc<AtomicBool>,
    networks: Arc<AtomicUsize>,
}

impl DriverPool {
    /// A pool of so many threads; more than this host has processors to spare are of no use.
    ///
    /// # Errors
    /// No threads or descriptors to be had.
    pub fn new(threads: NonZeroUsize) -> Result<Self, Error> {
        let threads = (0..threads.get()).map(|_| Thread::start()).collect::<Result<_, _>>()?;
        Ok(Self(Arc::new(Pool { threads, placing: Mutex::default() })))
    }

    /// Gives `driver` to the thread that has the fewest.
    ///
    /// # Errors
    /// That thread died of a bug.
    pub(crate) fn start(&self, driver: Box<Driver>) -> Result<Running, Error> {
        let _one_at_a_time = self.0.placing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut threads = self.0.threads.iter();
        let thread = threads.by_ref().min_by_key(|thread| thread.networks.load(Ordering::Relaxed));
        let thread = thread.expect("because a pool has at least one");
        let (outcome, to_come) = sync_channel(1);
        let is_over = Arc::<AtomicBool>::default();
        let networks = Arc::clone(&thread.networks);
        networks.fetch_add(1, Ordering::Relaxed);
        let end = End { outcome, is_over: Arc::clone(&is_over), networks };
        let sent = thread.newcomers.as_ref().map(|way| way.send(Newcomer { driver, end }));
        if !matches!(sent, Some(Ok(()))) {
            return Err(Error::Bug("a thread of the pool has ended".to_owned()));
        }
        thread.wake.ring();
        Ok(Running::Pooled(to_come, is_over))
    }
}

impl Thread {
    fn start() -> Result<Self, Error> {
        let poll = Poll::new().map_err(Error::machine("opening a poll"))?;
        let wake = mio::Waker::new(poll.registry(), WAKE)
            .map_err(Error::machine("opening the waker of a pool's thread"))?;
        let wake = DriverWake::new(wake);
        let (give, newcomers) = channel();
        // Its table is made there: what it runs can't be sent.
        let ways = (newcomers, Arc::clone(&wake));
        let run = move || Table::new(poll, ways).run();
        std::thread::Builder::new()
            .name("sluicegate-pool".to_owned())
            .spawn(run)
            .map_err(Error::machine("starting a pool's thread"))?;
        Ok(Self { newcomers: Some(give), wake, networks: Arc::default() })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.newcomers = None;
        self.wake.ring();
    }
}

impl End {
    fn tell(self, outcome: Outcome) {
        let told = self.outcome.clone();
        drop(self);
        // Whoever would wait may be gone.
        let _ = told.send(outcome);
    }
}

/// A network that nobody tells of any more is over as well: its thread has died, or it never came
/// to it.
impl Drop for End {
    fn drop(&mut self) {
        self.networks.fetch_sub(1, Ordering::Relaxed);
        self.is_over.store(true, Ordering::Release);
    }
}

/// A driver that runs.
type Run = Pin<Box<dyn Future<Output = Outcome>>>;

/// A network that sits at a table.
struct Member {
    run: Run,
    patience: Patience,
    end: End,
    /// Where it is among the deadlines.
    deadline: Option<Instant>,
    is_queued: bool,
}

/// The networks of one thread, by numbers that are never used twice.
struct Table {
    poll: Poll,
    clock: Clock,
    newcomers: Receiver<Newcomer>,
    /// A waker that is closed takes its last call with it, which is that nobody comes any more.
    _wake: Arc<DriverWake>,
    members: HashMap<usize, Member>,
    next: usize,
    /// Who has something to do.
    queue: VecDeque<usize>,
    /// Who has had a turn, and has more to do.
    again: Option<usize>,
    deadlines: BTreeSet<(Instant, usize)>,
    /// Somebody may still come.
    is_open: bool,
}

impl Table {
    fn new(poll: Poll, (newcomers, wake): (Receiver<Newcomer>, Arc<DriverWake>)) -> Self {
        Self {
            poll,
            clock: Clock::new(),
            newcomers,
            _wake: wake,
            members: HashMap::new(),
            next: 0,
            queue: VecDeque::new(),
            again: None,
            deadlines: BTreeSet::new(),
            is_open: true,
        }
    }

    /// Runs until nobody is there and nobody may come.
    ///
    /// # Panics
    /// If the system's own poll fails, which only a bug could make it do.
    fn run(&mut self) {
        let mut events = Events::with_capacity(EVENTS_MAX);
        while self.is_open || !self.members.is_empty() {
            match self.poll.poll(&mut events, self.timeout()) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                done => done.expect("because its descriptor and its memory are ours"),
            }
            for event in &events {
                match event.token() {
                    WAKE => self.welcome(),
                    Token(number) => self.enqueue(number),
                }
            }
            self.enqueue_due();
            // Behind those that came during its turn.
            if let Some(number) = self.again.take() {
                self.enqueue(number);
            }
            if let Some(number) = self.queue.pop_front() {
                self.turn(number);
            }
        }
    }

    /// How long nobody has anything to do.
    fn timeout(&self) -> Option<Duration> {
        if self.again.is_some() || !self.queue.is_empty() {
            return Some(Duration::ZERO);
        }
        let (until, _) = self.deadlines.first()?;
        let micros = until.as_micros().saturating_sub(self.clock.now().as_micros());
        Some(Duration::from_micros(micros))
    }

    fn welcome(&mut self) {
        loop {
            match self.newcomers.try_recv() {
                Ok(newcomer) => self.add(newcomer),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.is_open = false;
                    return;
                }
            }
        }
    }

    fn add(&mut self, Newcomer { driver, end }: Newcomer) {
        let fd = driver.poll.as_raw_fd();
        self.seat(fd, end, |seat| Box::pin(driver.run(seat)));
    }

    /// Gives what `run` makes of a seat its first turn soon; `fd` is its poll's.
    fn seat(&mut self, fd: RawFd, end: End, run: impl FnOnce(Seat) -> Run) {
        let number = self.next;
        self.next += 1;
        // It leaves this poll by being closed, and all its duplicates with it.
        let mut source = SourceFd(&fd);
        let watched = self.poll.registry().register(&mut source, Token(number), Interest::READABLE);
        if let Err(error) = watched {
            drop(run);
            return end.tell(Err(Error::machine("watching a network's poll")(error)));
        }
        let patience = Patience::default();
        let run = run(Seat::pooled(Rc::clone(&patience)));
        let member = Member { run, patience, end, deadline: None, is_queued: false };
        self.members.insert(number, member);
        self.enqueue(number);
    }

    fn enqueue(&mut self, number: usize) {
        // One that has ended may have had an event before.
        if let Some(member) = self.members.get_mut(&number)
            && !core::mem::replace(&mut member.is_queued, true)
        {
            self.queue.push_back(number);
        }
    }

    /// Enqueues those whose time has come.
    fn enqueue_due(&mut self) {
        if self.deadlines.is_empty() {
            return;
        }
        let now = self.clock.now();
        while let Some((until, number)) = self.deadlines.first().copied()
            && until <= now
        {
            self.deadlines.pop_first();
            if let Some(member) = self.members.get_mut(&number) {
                member.deadline = None;
            }
            self.enqueue(number);
        }
    }

    /// Gives the network of this number a turn.
    fn turn(&mut self, number: usize) {
        let Some(member) = self.members.get_mut(&number) else { return };
        member.is_queued = false;
        if let Some(until) = member.deadline.take() {
            self.deadlines.remove(&(until, number));
        }
        let run = member.run.as_mut();
        // What it leaves broken is its own, and is dropped.
        let turned =
            catch_unwind(AssertUnwindSafe(|| run.poll(&mut Context::from_waker(Waker::noop()))));
        let outcome = match turned {
            Ok(Polled::Pending) => {
                match member.patience.get() {
                    Some(Duration::ZERO) => self.again = Some(number),
                    Some(timeout) => {
                        let micros = u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX);
                        let until = self.clock.now().plus_micros(micros);
                        member.deadline = Some(until);
                        self.deadlines.insert((until, number));
                    }
                    None => {}
                }
                return;
            }
            Ok(Polled::Ready(outcome)) => outcome,
            Err(panic) => Err(bug(&*panic)),
        };
        if let Some(Member { run, end, .. }) = self.members.remove(&number) {
            // It holds nothing when its end is told.
            drop(run);
            end.tell(outcome);
        }
    }
}

#[cfg(test)]
mod tests;
