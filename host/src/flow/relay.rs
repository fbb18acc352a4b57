//! Datagrams that go on through a SOCKS5 proxy: a task holds the association of each flow, and the
//! driver gives it datagrams and takes those that come back.
//!
//! Bounded: so many datagrams wait for a task, and so many of all tasks for the driver; what is too
//! many is dropped, as a network may. A task ends with its flow, and a flow with its association.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use sluicegate_core::{Event, FlowId, Instant, Refusal};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::dial::Task;
use super::row::Association;
use super::{Flow, Flows, HostEngine, socket};
use crate::service::proxy::{Proxy, Target};
use crate::wake::DriverWake;

/// Datagrams that may wait for the task of one flow.
const OUT_MAX: usize = 64;
/// Datagrams that may wait for the driver, of all flows.
const IN_MAX: usize = 1024;
/// Bytes of the longest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// A flow whose datagrams a task sends.
pub(super) struct RelayFlow {
    out: mpsc::Sender<Vec<u8>>,
    _task: Task,
}

/// What comes of a task: a datagram, or why it has ended.
type Came = (FlowId, io::Result<Vec<u8>>);

/// Where tasks put what comes.
#[derive(Clone)]
pub(crate) struct Mailbox {
    came: Arc<Mutex<VecDeque<Came>>>,
    wake: Arc<DriverWake>,
}

impl Mailbox {
    pub(crate) fn new(wake: Arc<DriverWake>) -> Self {
        Self { came: Arc::default(), wake }
    }

    fn put(&self, flow: FlowId, what: io::Result<Vec<u8>>) {
        let mut came = self.came.lock().unwrap_or_else(PoisonError::into_inner);
        // An end is never too much: each task has one.
        if came.len() < IN_MAX || what.is_err() {
            came.push_back((flow, what));
        }
        drop(came);
        self.wake.ring();
    }

    fn take(&self) -> Option<Came> {
        self.came.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn put_back(&self, came: Came) {
        self.came.lock().unwrap_or_else(PoisonError::into_inner).push_front(came);
    }
}

async fn serve(
    proxy: Arc<Proxy>,
    target: Target,
    mut out: mpsc::Receiver<Vec<u8>>,
    mailbox: &Mailbox,
    flow: FlowId,
) -> io::Result<()> {
    let (mut control, relay) = proxy.associate().await?;
    let mut space = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let mut word = [0];
        tokio::select! {
            datagram = out.recv() => {
                let Some(datagram) = datagram else { return Ok(()) };
                // One that the network does not take is lost, as ever.
                let _ = relay.send(&target.wrap(&datagram)).await;
            }
            received = relay.recv(&mut space) => {
                let datagram = space.get(..received?).and_then(|all| target.unwrap(all));
                if let Some(datagram) = datagram {
                    mailbox.put(flow, Ok(datagram.to_vec()));
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
    /// Hands a datagram, or a row of them, to the task of their flow.
    pub(super) fn relay(
        &mut self,
        from: Association,
        target: &Target,
        (payload, segment_bytes): (&[u8], u16),
    ) {
        let flow = from.flow;
        let is_known = matches!(
            self.slots.get(flow.index as usize),
            Some(Some(slot)) if slot.id == flow && matches!(slot.flow, Flow::Relay(_))
        );
        if !is_known {
            let Some(dialler) = &self.dialler else { return };
            let (out, from_driver) = mpsc::channel(OUT_MAX);
            let (proxy, target) = (Arc::clone(&dialler.proxy), target.clone());
            let mailbox = dialler.mailbox.clone();
            let task = dialler.runtime.spawn(async move {
                if let Err(error) = serve(proxy, target, from_driver, &mailbox, flow).await {
                    mailbox.put(flow, Err(error));
                }
            });
            let task = Task(task.abort_handle());
            self.insert(flow, Flow::Relay(RelayFlow { out, _task: task }));
        }
        let step = if segment_bytes == 0 { payload.len().max(1) } else { segment_bytes.into() };
        let Some(Some(slot)) = self.slots.get(flow.index as usize) else { return };
        let Flow::Relay(relay) = &slot.flow else { return };
        if payload.is_empty() {
            let _ = relay.out.try_send(vec![]);
        }
        for datagram in payload.chunks(step) {
            // Too many wait: the network is full.
            let _ = relay.out.try_send(datagram.to_vec());
        }
    }

    /// Gives the guest what came back. False: there is no room for more of it.
    pub(super) fn serve_relays(&mut self, engine: &mut HostEngine<'_>, now: Instant) -> bool {
        while let Some(dialler) = &self.dialler
            && let Some((flow, what)) = dialler.mailbox.take()
        {
            match what {
                Ok(_) if !engine.can_deliver(now) => {
                    dialler.mailbox.put_back((flow, what));
                    return false;
                }
                Ok(datagram) => engine.deliver(now, flow, &datagram),
                Err(error) => {
                    let refusal = socket::refusal(&error);
                    self.count(refusal);
                    // The next datagram begins a new association.
                    self.close(flow);
                    engine.handle(now, Event::DatagramFailed { flow, refusal });
                }
            }
        }
        true
    }

    /// How a datagram of `from` goes on, where it does not go straight; `Err`: it must not.
    pub(super) fn detour(&self, from: &Association) -> Result<Option<Target>, Refusal> {
        let is_udp = from.kind == sluicegate_core::DatagramKind::Udp;
        let address = super::dial::remote(from.to).filter(|_| is_udp);
        let Some((dialler, address)) = self.dialler.as_ref().zip(address) else { return Ok(None) };
        match dialler.proxy.target(address, None) {
            None => Ok(None),
            Some(target) if dialler.proxy.takes_datagrams() => Ok(Some(target)),
            // What connections go through a proxy for must not leave beside it.
            Some(_) => Err(Refusal::Forbidden),
        }
    }
}
