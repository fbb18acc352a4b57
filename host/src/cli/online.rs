//! A network while it runs. Owns its start and end as a sub-command sees them, with the runtime
//! beside it. Must not know namespaces.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use rustix::process::{Resource, Rlimit};
use sluicegate_host::adapter::GuestLink;
use sluicegate_host::{FrameBudget, MetricsHandle, RingConsumer, RingProducer, SmoltcpNetwork};
use tokio::runtime::Runtime;

use super::failure::{Failure, warn};
use super::link::Described;

/// A running network.
pub(super) struct Online {
    network: SmoltcpNetwork,
    /// Ends after the network does.
    _runtime: Runtime,
}

impl Online {
    /// Serves `link` with `network`; calls `at_end` when that ends, by itself or by
    /// [`Online::stop`].
    pub(super) fn start(
        Described { mut network, control, .. }: Described,
        link: impl GuestLink + 'static,
        at_end: impl FnMut() + Send + 'static,
    ) -> Result<Self, Failure> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        allow_descriptors();
        network.attach_link(Box::new(Watched { link, at_end }))?;
        network.try_start(runtime.handle().clone())?;
        tell_ports(&network);
        if let Some((socket, desk)) = control {
            socket.serve(runtime.handle(), desk)?;
        }
        Ok(Self { network, _runtime: runtime })
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
fn allow_descriptors() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of descriptors stays as it is");
    }
}

/// A link that tells of its end: the driver lets go of it when it ends, for whatever reason.
struct Watched<L, F: FnMut()> {
    link: L,
    at_end: F,
}

impl<L, F: FnMut()> Drop for Watched<L, F> {
    fn drop(&mut self) {
        (self.at_end)();
    }
}

impl<L: GuestLink, F: FnMut() + Send> GuestLink for Watched<L, F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }

    fn receive(&mut self, from_guest: &mut RingProducer, budget: FrameBudget) -> io::Result<bool> {
        self.link.receive(from_guest, budget)
    }

    fn send(&mut self, to_guest: &mut RingConsumer) -> io::Result<bool> {
        self.link.send(to_guest)
    }
}
