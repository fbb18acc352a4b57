//! A network while it runs. Owns its start and end as a sub-command sees them, with the runtime
//! beside it. Must not know namespaces.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use rustix::process::{Resource, Rlimit};
use sluicegate_host::adapter::{GuestLink, LostFrames};
use sluicegate_host::{FrameBudget, MetricsHandle, RingConsumer, RingProducer, SmoltcpNetwork};
use tokio::runtime::Runtime;

use super::failure::{Failure, warn};
use super::link::Described;
use super::signals::Occurrence;

/// How long a call of the system that was begun for the network (the resolver's) may keep the
/// command from ending.
const FAREWELL_MAX: Duration = Duration::from_millis(50);

/// A running network.
pub(super) struct Online {
    network: SmoltcpNetwork,
    /// Ends after the network does.
    _runtime: Background,
}

/// A runtime that ends whatever is still called there.
struct Background(Option<Runtime>);

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_timeout(FAREWELL_MAX);
        }
    }
}

impl Online {
    /// Serves `link` with `network`; tells `to` when that ends, by itself or by [`Online::stop`],
    /// and when the network wants the guest to end.
    pub(super) fn start(
        Described { mut network, control, .. }: Described,
        link: impl GuestLink + 'static,
        to: Sender<Occurrence>,
    ) -> Result<Self, Failure> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        allow_descriptors();
        let terminate = to.clone();
        network.termination_handle().set_hook(Arc::new(move || {
            let _ = terminate.send(Occurrence::GuestMustEnd);
        }));
        network.attach_link(Box::new(Watched { link, to }))?;
        network.try_start(runtime.handle().clone())?;
        tell_ports(&network);
        if let Some((socket, desk)) = control {
            socket.serve(runtime.handle(), desk)?;
        }
        Ok(Self { network, _runtime: Background(Some(runtime)) })
    }

    /// Where the first published port is reached.
    pub(super) fn published_port(&self) -> Option<SocketAddr> {
        self.network.published_ports().first().copied().map(|port| port.host)
    }

    /// The network's counters.
    pub(super) fn metrics(&self) -> MetricsHandle {
        self.network.metrics_handle()
    }

    /// Ends the network, and with it the link. An error is why it had ended before.
    pub(super) fn stop(mut self) -> Result<(), Failure> {
        Ok(self.network.shutdown()?)
    }
}

/// Says on the standard error what of the guest is reached where: a port may be any that was free.
pub(super) fn tell_ports(network: &SmoltcpNetwork) {
    for port in network.published_ports() {
        let (host, guest, protocol) = (port.host, port.guest_port, port.protocol.name());
        warn(&format!("published {host} -> port {guest}/{protocol} of the guest"));
    }
}

/// Lets this process have as many descriptors as it may: each flow takes one, and the usual soft
/// limit of 1024 is kept low for programs that use select(2).
pub(super) fn allow_descriptors() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of descriptors stays as it is");
    }
}

/// A link that tells of its end: the driver lets go of it when it ends, for whatever reason.
struct Watched<L> {
    link: L,
    to: Sender<Occurrence>,
}

impl<L> Drop for Watched<L> {
    fn drop(&mut self) {
        // Nobody listens any more after a signal, or when the command has ended.
        let _ = self.to.send(Occurrence::NetworkEnded);
    }
}

impl<L: GuestLink> GuestLink for Watched<L> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }

    fn receive(&mut self, from_guest: &mut RingProducer, budget: FrameBudget) -> io::Result<bool> {
        self.link.receive(from_guest, budget)
    }

    fn send(&mut self, to_guest: &mut RingConsumer) -> io::Result<bool> {
        self.link.send(to_guest)
    }

    fn lost_frames(&self) -> LostFrames {
        self.link.lost_frames()
    }
}
