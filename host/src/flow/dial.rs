//! Connections that are made through a proxy: a task asks it, and the socket comes back when it
//! leads where the guest wants.
//!
//! Owns the flow while it waits; what it is afterwards is `flow/tcp.rs`. A task ends with its flow.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use sluicegate_core::{Event, FlowId, Instant, Outside};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::relay::Mailbox;
use super::tcp::TcpFlow;
use super::{Flow, Flows, HostEngine, socket};
use crate::service::proxy::{Proxy, Target};
use crate::wake::DriverWake;

/// The task of a flow, which ends with the value.
pub(super) struct Task(pub(super) AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        // It has ended where this is no news.
        self.0.abort();
    }
}

/// What became of a dial.
type Dialled = io::Result<(TcpStream, Bytes)>;

/// Who makes connections through a proxy.
pub(crate) struct Dialler {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) runtime: Handle,
    pub(crate) wake: Arc<DriverWake>,
    /// What has come of the tasks, which the driver has yet to take.
    pub(crate) done: Arc<Mutex<Vec<(FlowId, Dialled)>>>,
    /// Where datagrams come back.
    pub(crate) mailbox: Mailbox,
}

impl Dialler {
    /// How `flow` goes on to `address`; `None`: without a proxy.
    pub(super) fn target(
        &self,
        (engine, now): (&HostEngine<'_>, Instant),
        flow: FlowId,
        address: SocketAddr,
    ) -> Option<Target> {
        if self.proxy.excepts(address.ip(), engine.names_meant(now, flow)) {
            return None;
        }
        let name = engine.sure_name(now, flow);
        Some(self.proxy.target(address, name.filter(|name| engine.is_allowed_by_name(flow, name))))
    }
}

impl Flows {
    /// Begins to connect `flow` through the proxy; false: it goes without one.
    pub(super) fn dial(
        &mut self,
        engine: &HostEngine<'_>,
        now: Instant,
        flow: FlowId,
        to: Outside,
    ) -> bool {
        let Some(dialler) = &self.dialler else { return false };
        let Outside::Remote(address) = to else { return false };
        let Some(target) = dialler.target((engine, now), flow, address) else { return false };
        let (proxy, done) = (Arc::clone(&dialler.proxy), Arc::clone(&dialler.done));
        let wake = Arc::clone(&dialler.wake);
        let task = dialler.runtime.spawn(async move {
            let dialled = proxy.dial(&target).await;
            done.lock().unwrap_or_else(PoisonError::into_inner).push((flow, dialled));
            wake.ring();
        });
        self.insert(flow, Flow::Dial { _task: Task(task.abort_handle()) });
        true
    }

    /// Takes the connections that were made.
    pub(super) fn serve_dials(&mut self, engine: &mut HostEngine<'_>, now: Instant) {
        let Some(dialler) = &self.dialler else { return };
        let done =
            core::mem::take(&mut *dialler.done.lock().unwrap_or_else(PoisonError::into_inner));
        for (flow, dialled) in done {
            // The guest may have given it up meanwhile.
            let is_awaited = matches!(
                self.slots.get(flow.index as usize),
                Some(Some(slot)) if slot.id == flow && matches!(slot.flow, Flow::Dial { .. })
            );
            if is_awaited {
                self.conclude_dial(engine, now, (flow, dialled));
            }
        }
    }

    fn conclude_dial(
        &mut self,
        engine: &mut HostEngine<'_>,
        now: Instant,
        (flow, dialled): (FlowId, Dialled),
    ) {
        let made = dialled.and_then(|(stream, early)| {
            let stream = stream.into_std()?;
            Ok(TcpFlow::accepted(flow, stream, &self.registry)?.with_early(early))
        });
        match made {
            Ok(tcp) => {
                self.insert(flow, Flow::Tcp(tcp.with_look(self.look())));
                engine.handle(now, Event::Connected { flow });
                self.enqueue(flow.index);
            }
            Err(error) => {
                let refusal = socket::refusal(&error);
                self.count(refusal);
                self.close(flow);
                engine.handle(now, Event::ConnectFailed { flow, refusal });
            }
        }
    }
}

/// The address of `to`, where it is not this host.
pub(super) fn remote(to: Outside) -> Option<SocketAddr> {
    match to {
        Outside::Remote(address) => Some(address),
        Outside::HostLoopback(_) | Outside::Names(_) => None,
    }
}
