//! A guest in memory, as a link that the driver serves itself: it runs on the driver's own thread,
//! so that what is measured is the driver and not a thread switch to a guest.
//!
//! One eventfd calls the driver when there is something to say. It is never read: each write is an
//! edge. What came in one batch is acknowledged in one segment, as a guest does that coalesces.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use sim::core::{FrameBudget, Offload};
use sim::load::{Heading, Lean};
use sluicegate_host::adapter::GuestLink;
use sluicegate_host::{RingConsumer, RingProducer};

/// The port of the guest's first connection.
const PORT_FIRST: u16 = 1024;
/// Connections that may be half-open at a time: fewer than any listener's backlog.
const OPENING_MAX: usize = 64;
/// Payload bytes of a full segment.
pub(crate) const SEGMENT_BYTES: u16 = 1460;

/// What the guest is to do next. All but the first and the last are about the newest connection.
pub(crate) enum Job {
    /// Open a connection to each of these.
    Open(VecDeque<SocketAddr>),
    /// Send so many bytes; whoever gets them knows when it is done.
    Up(u64),
    /// Get so many bytes.
    Down(u64),
    /// Send a byte and wait for one, so many times.
    RoundTrips(usize),
    /// Send on the oldest connection whatever it takes, for good, beside all else.
    Flood,
}

/// A job is done; of round trips, how long each took.
pub(crate) type Report = Vec<Duration>;

/// What calls the driver.
#[derive(Clone)]
pub(crate) struct Bell(Arc<OwnedFd>);

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        use rustix::event::EventfdFlags;
        let fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(fd)))
    }

    pub(crate) fn ring(&self) {
        let written = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
        written.expect("because 64 bits are far from full");
    }
}

pub(crate) struct Guest {
    bell: Bell,
    jobs: Receiver<Job>,
    reports: Sender<Report>,
    flows: Vec<Lean>,
    /// Connections to open, and how many have not been answered yet.
    to_open: VecDeque<SocketAddr>,
    opening: usize,
    /// Flows that owe an acknowledgement.
    owing: VecDeque<usize>,
    /// Bytes to send.
    up: u64,
    /// Bytes to get; `None`: nothing is waited for.
    down: Option<u64>,
    /// Round trips to begin, and when the running one began.
    trips: usize,
    began: Option<Instant>,
    took: Report,
    /// The oldest connection sends whatever it takes.
    floods: bool,
}

#[allow(clippy::disallowed_methods, reason = "a guest has a clock of its own")]
fn now() -> Instant {
    Instant::now()
}

impl Guest {
    pub(crate) fn new(bell: Bell, jobs: Receiver<Job>, reports: Sender<Report>) -> Self {
        Self {
            bell,
            jobs,
            reports,
            flows: vec![],
            to_open: VecDeque::new(),
            opening: 0,
            owing: VecDeque::new(),
            up: 0,
            down: None,
            trips: 0,
            began: None,
            took: vec![],
            floods: false,
        }
    }

    fn begin(&mut self, job: Job) {
        match job {
            Job::Open(ends) => self.to_open = ends,
            Job::Up(bytes) => self.up = bytes,
            Job::Down(bytes) => self.down = Some(bytes),
            Job::Flood => self.floods = true,
            Job::RoundTrips(count) => {
                self.trips = count;
                self.took = Vec::with_capacity(count);
            }
        }
    }

    fn report(&mut self) {
        // Whoever asked may have given up.
        let _ = self.reports.send(core::mem::take(&mut self.took));
    }

    /// Whether [`speak`](Self::speak) has something to say.
    fn has_news(&self) -> bool {
        let may_send = |flow: &Lean| flow.room() > 0;
        (!self.to_open.is_empty() && self.opening < OPENING_MAX)
            || !self.owing.is_empty()
            || (self.up > 0 && self.flows.last().is_some_and(may_send))
            || (self.trips > 0 && self.began.is_none())
            || (self.floods && self.flows.first().is_some_and(may_send))
    }

    /// Says one thing; `None`: the ring is full.
    fn speak(&mut self, ring: &mut RingProducer) -> Option<()> {
        if let Some(index) = self.owing.front() {
            let flow = &mut self.flows[*index];
            segment(flow, 0, ring)?;
            self.owing.pop_front();
        } else if let Some(to) = self.to_open.front().filter(|_| self.opening < OPENING_MAX) {
            let number = u16::try_from(self.flows.len()).expect("because ports are below 2^16");
            let flow = Lean::new(*to, PORT_FIRST + number);
            let syn = flow.syn(SEGMENT_BYTES);
            ring.push(&syn, Offload::NONE).then_some(())?;
            self.flows.push(flow);
            self.to_open.pop_front();
            self.opening += 1;
        } else if let [oldest, ..] = &mut self.flows[..] {
            if self.trips > 0 && self.began.is_none() {
                let newest = self.flows.last_mut().expect("because there is an oldest");
                segment(newest, 1, ring)?;
                self.trips -= 1;
                self.began = Some(now());
            } else if self.floods {
                segment(oldest, usize::from(SEGMENT_BYTES).min(oldest.room()), ring)?;
            } else if let Some(flow) = self.flows.last_mut() {
                let left = usize::try_from(self.up).unwrap_or(usize::MAX);
                let payload = usize::from(SEGMENT_BYTES).min(left).min(flow.room());
                segment(flow, payload, ring)?;
                self.up -= payload as u64;
            }
        }
        Some(())
    }

    fn hear(&mut self, frame: &[u8]) {
        let Some(heading) = Heading::of(frame) else { return };
        let index = usize::from(heading.port - PORT_FIRST);
        let flow = &mut self.flows[index];
        let was_connected = flow.connected;
        flow.read(&heading);
        assert!(!flow.reset, "connection {index} was reset");
        if flow.connected && !was_connected {
            self.owing.push_back(index);
            self.opening -= 1;
            if self.opening == 0 && self.to_open.is_empty() {
                self.report();
            }
            return;
        }
        if heading.payload == 0 {
            return;
        }
        if let Some(began) = self.began.take() {
            self.took.push(now() - began);
            if self.trips > 0 {
                return; // the next byte acknowledges this one
            }
            self.report();
        }
        if self.owing.back() != Some(&index) {
            self.owing.push_back(index);
        }
        if let Some(left) = self.down {
            let left = left.saturating_sub(heading.payload as u64);
            self.down = (left > 0).then_some(left);
            if left == 0 {
                self.report();
            }
        }
    }
}

/// Sends a segment; `None`: the ring is full.
fn segment(flow: &mut Lean, payload: usize, ring: &mut RingProducer) -> Option<()> {
    let space = ring.reserve(flow.frame_bytes(payload))?;
    let len = flow.write(0, payload, space);
    ring.commit(len, Offload::NONE);
    Some(())
}

impl GuestLink for Guest {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.0.as_fd()
    }

    fn receive(
        &mut self,
        from_guest: &mut RingProducer,
        mut budget: FrameBudget,
    ) -> io::Result<bool> {
        while let Ok(job) = self.jobs.try_recv() {
            self.begin(job);
        }
        while !budget.is_spent() {
            if !self.has_news() {
                return Ok(false);
            }
            if self.speak(from_guest).is_none() {
                return Ok(true);
            }
            budget.take(SEGMENT_BYTES.into());
        }
        Ok(true)
    }

    fn send(&mut self, to_guest: &mut RingConsumer) -> io::Result<bool> {
        while let Some(record) = to_guest.read() {
            self.hear(to_guest.bytes(&record));
        }
        to_guest.release();
        if self.has_news() {
            self.bell.ring();
        }
        Ok(false)
    }
}
