//! Datagrams that go on through a SOCKS5 proxy: a task holds the association of each flow, and the
//! driver gives it datagrams and takes those that come back.
//!
//! Bounded in bytes, not in datagrams, which the guest makes as long as it likes: so many of a flow
//! wait each way, and so many of all. What is too much is dropped, as a network may, and counted.
//! A task ends with its flow, and a flow with its association.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use sluicegate_core::{DatagramKind, Event, FlowId, Instant, Outside, Refusal};
use tokio::io::AsyncReadExt;
use tokio::net::UdpSocket;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::dial::Task;
use super::row::{Association, datagrams};
use super::{Flow, Flows, HostEngine, Slot, dial, socket};
use crate::metrics::Published;
use crate::service::proxy::{Proxy, Target};
use crate::wake::DriverWake;

/// Bytes of one flow's datagrams that may wait, each way.
const FLOW_BYTES_MAX: usize = 256 * 1024;
/// Bytes of all flows' datagrams that may wait, each way.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// What a datagram that waits takes beside its bytes, about.
const ENTRY_BYTES: usize = 128;
/// Bytes of the longest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_535;
/// Datagrams that one turn takes of those that came back.
const TURN_DATAGRAMS_MAX: usize = 256;

/// A flow whose datagrams a task sends.
pub(super) struct RelayFlow {
    out: mpsc::UnboundedSender<Parcel>,
    room: Room,
    _task: Task,
}

/// A datagram that waits, and the room that it has meanwhile.
struct Parcel {
    datagram: Vec<u8>,
    _room: [OwnedSemaphorePermit; 2],
}

/// How much more of a flow may wait one way.
struct Room {
    /// Of the flow, and of all.
    bytes: [Arc<Semaphore>; 2],
    published: Arc<Published>,
}

impl Room {
    /// `datagram` as it waits; `None`: there is no room, which is counted.
    fn parcel(&self, datagram: &[u8]) -> Option<Parcel> {
        let taken = self.take(datagram.len() + ENTRY_BYTES);
        if taken.is_none() {
            self.published.relay_full.fetch_add(1, Ordering::Relaxed);
        }
        Some(Parcel { _room: taken?, datagram: datagram.to_vec() })
    }

    /// Counts a datagram that got lost otherwise.
    fn lost(&self) {
        self.published.relay_lost.fetch_add(1, Ordering::Relaxed);
    }

    fn take(&self, bytes: usize) -> Option<[OwnedSemaphorePermit; 2]> {
        let bytes = u32::try_from(bytes).ok()?;
        let [flow, all] = &self.bytes;
        let of_flow = Arc::clone(flow).try_acquire_many_owned(bytes).ok()?;
        Some([of_flow, Arc::clone(all).try_acquire_many_owned(bytes).ok()?])
    }
}

/// What comes of a task: a datagram, or why it has ended.
type Came = (FlowId, io::Result<Parcel>);

/// What the tasks and the driver have in common: where tasks put what comes, and how much may wait.
#[derive(Clone)]
pub(crate) struct Mailbox {
    came: Arc<Mutex<VecDeque<Came>>>,
    /// Where a datagram is received; each is then kept in its own length.
    space: Arc<Mutex<Box<[u8]>>>,
    /// Bytes that may still wait, of all flows: from the guest, and to it.
    from_guest: Arc<Semaphore>,
    to_guest: Arc<Semaphore>,
    published: Arc<Published>,
    wake: Arc<DriverWake>,
}

impl Mailbox {
    pub(crate) fn new(wake: Arc<DriverWake>, published: Arc<Published>) -> Self {
        Self {
            came: Arc::default(),
            space: Arc::new(Mutex::new(vec![0; DATAGRAM_BYTES_MAX].into())),
            from_guest: Arc::new(Semaphore::new(BYTES_MAX)),
            to_guest: Arc::new(Semaphore::new(BYTES_MAX)),
            published,
            wake,
        }
    }

    /// Room for a flow of which nothing waits: from the guest, and to it.
    fn rooms(&self) -> [Room; 2] {
        [&self.from_guest, &self.to_guest].map(|all| Room {
            bytes: [Arc::new(Semaphore::new(FLOW_BYTES_MAX)), Arc::clone(all)],
            published: Arc::clone(&self.published),
        })
    }

    fn put(&self, flow: FlowId, what: io::Result<Parcel>) {
        self.came.lock().unwrap_or_else(PoisonError::into_inner).push_back((flow, what));
        self.wake.ring();
    }

    fn take(&self) -> Option<Came> {
        self.came.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn put_back(&self, came: Came) {
        self.came.lock().unwrap_or_else(PoisonError::into_inner).push_front(came);
    }

    /// What `relay`, which is readable, has of `target`; `None`: nothing that counts.
    fn received(
        &self,
        relay: &UdpSocket,
        target: &Target,
        room: &Room,
    ) -> io::Result<Option<Parcel>> {
        let mut space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        match relay.try_recv(&mut space) {
            Ok(len) => {
                let datagram = space.get(..len).and_then(|all| target.unwrap(all));
                if datagram.is_none() {
                    room.lost();
                }
                Ok(datagram.and_then(|datagram| room.parcel(datagram)))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

async fn serve(
    (proxy, target): (Arc<Proxy>, Target),
    mut out: mpsc::UnboundedReceiver<Parcel>,
    (mailbox, room): (&Mailbox, Room),
    flow: FlowId,
) -> io::Result<()> {
    let (mut control, relay) = proxy.associate().await?;
    loop {
        let mut word = [0];
        tokio::select! {
            parcel = out.recv() => {
                let Some(parcel) = parcel else { return Ok(()) };
                // One that the network does not take is lost, as ever.
                if relay.send(&target.wrap(&parcel.datagram)).await.is_err() {
                    room.lost();
                }
            }
            readable = relay.readable() => {
                readable?;
                if let Some(parcel) = mailbox.received(&relay, &target, &room)? {
                    mailbox.put(flow, Ok(parcel));
                }
            }
            // The association lasts as long as this connection (RFC 1928 7).
            read = control.read(&mut word) => {
                if read? == 0 {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
            }
        }
    }
}

impl Flows {
    /// Whether datagrams of `flow` to `to` go through the proxy; `None`: that is not decided yet,
    /// as its first has not left.
    pub(super) fn is_relayed(
        &self,
        (flow, kind): (FlowId, DatagramKind),
        to: Outside,
    ) -> Option<bool> {
        let may_be = kind == DatagramKind::Udp && dial::remote(to).is_some();
        if !may_be || self.dialler.is_none() {
            return Some(false);
        }
        match self.slots.get(flow.index as usize) {
            Some(Some(slot)) if slot.id == flow => Some(matches!(slot.flow, Flow::Relay(_))),
            Some(_) | None => None,
        }
    }

    /// Sends the first datagram, or row, of `flow`, and decides the way of all; returns what
    /// failed, as [`gather`](Self::gather) does.
    pub(super) fn send_first(
        &mut self,
        (engine, now): (&HostEngine<'_>, Instant),
        (flow, to): (FlowId, Outside),
        (payload, segment_bytes): (&[u8], u16),
    ) -> [Option<Event>; 2] {
        let Some((dialler, address)) = self.dialler.as_ref().zip(dial::remote(to)) else {
            return [None, None];
        };
        let target = dialler.target((engine, now), flow, address);
        if let Some(target) = target {
            if !dialler.proxy.takes_datagrams() {
                // What connections go through a proxy for must not leave beside it.
                let refusal = Refusal::Forbidden;
                return [None, Some(Event::DatagramFailed { flow, refusal })];
            }
            // Those that wait may be of the flow that had this one's place.
            let earlier = self.send_gathered().err();
            self.begin_relay(flow, target);
            self.relay(flow, payload, segment_bytes);
            return [earlier, None];
        }
        let from = Association { flow, kind: DatagramKind::Udp, to, is_relayed: false };
        self.gather(from, payload, segment_bytes)
    }

    /// Begins a task for the datagrams of `flow` to `target`.
    pub(super) fn begin_relay(&mut self, flow: FlowId, target: Target) {
        let Some(dialler) = &self.dialler else { return };
        // Its room bounds it.
        let (out, from_driver) = mpsc::unbounded_channel();
        let way = (Arc::clone(&dialler.proxy), target);
        let mailbox = dialler.mailbox.clone();
        let [room, back] = mailbox.rooms();
        let task = dialler.runtime.spawn(async move {
            if let Err(error) = serve(way, from_driver, (&mailbox, back), flow).await {
                mailbox.put(flow, Err(error));
            }
        });
        let task = Task(task.abort_handle());
        self.insert(flow, Flow::Relay(RelayFlow { out, room, _task: task }));
    }

    /// Hands a datagram, or a row of them, to the task of `flow`; without one they are lost, and do
    /// not leave in another way.
    pub(super) fn relay(&mut self, flow: FlowId, payload: &[u8], segment_bytes: u16) {
        let relay = match self.slots.get(flow.index as usize) {
            Some(Some(Slot { id, flow: Flow::Relay(relay), .. })) if *id == flow => Some(relay),
            Some(_) | None => None,
        };
        for datagram in datagrams(payload, segment_bytes) {
            let Some(relay) = relay else {
                self.published.relay_lost.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            // A task that has ended says so itself.
            if let Some(parcel) = relay.room.parcel(datagram)
                && relay.out.send(parcel).is_err()
            {
                relay.room.lost();
            }
        }
    }

    /// Gives the guest what came back. False: there is no room for more of it.
    pub(super) fn serve_relays(&mut self, engine: &mut HostEngine<'_>, now: Instant) -> bool {
        for _ in 0..TURN_DATAGRAMS_MAX {
            let Some((flow, what)) = self.dialler.as_ref().and_then(|d| d.mailbox.take()) else {
                return true;
            };
            match what {
                Ok(_) if !engine.can_deliver(now) => {
                    if let Some(dialler) = &self.dialler {
                        dialler.mailbox.put_back((flow, what));
                    }
                    return false;
                }
                Ok(parcel) => engine.deliver(now, flow, &parcel.datagram),
                Err(error) => {
                    let refusal = socket::refusal(&error);
                    self.count(refusal);
                    // The next datagram begins a new association.
                    self.close(flow);
                    engine.handle(now, Event::DatagramFailed { flow, refusal });
                }
            }
        }
        // There may be more: others have their turn first.
        if let Some(dialler) = &self.dialler {
            dialler.wake.ring();
        }
        true
    }
}
