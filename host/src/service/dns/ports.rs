//! The ports that queries go out of, each a socket that is connected to its name server.
//!
//! The kernel picks each port; whoever can't read it from the wire can't guess it, and no two
//! queries have the same at a time (RFC 5452 9.2). A port whose query was answered serves a few
//! more, one after the other, as making one costs as much as asking; then another is picked.
//!
//! Bounded: so many wait for another query, each for so long.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use socket2::Type;
use tokio::net::UdpSocket;
use tokio::time::{Instant, interval_at};

use crate::outbound::Outbound;

/// Queries that go out of one port.
const USES_MAX: u32 = 16;
/// Ports that wait for another query.
const IDLE_MAX: usize = 64;
/// How long one does.
const IDLE_TIME: Duration = Duration::from_secs(1);

/// One port.
pub(super) struct Port {
    pub(super) socket: UdpSocket,
    server: SocketAddr,
    uses: u32,
    since: Instant,
}

impl Port {
    /// One that was not used before. Needs the runtime.
    fn new(server: SocketAddr, outbound: &Outbound) -> io::Result<Self> {
        let socket = outbound.socket(server, Type::DGRAM, None)?;
        socket.connect(&server.into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        Ok(Self { socket, server, uses: 0, since: Instant::now() })
    }
}

#[derive(Default)]
struct Idle {
    ports: Vec<Port>,
    /// A task looks after those that wait for too long.
    is_swept: bool,
}

/// The ports that wait for another query, and from where new ones go out.
#[derive(Default)]
pub(super) struct Ports {
    idle: Arc<Mutex<Idle>>,
    outbound: Outbound,
}

impl Ports {
    /// Those that go out from `outbound`.
    pub(super) fn new(outbound: Outbound) -> Self {
        Self { idle: Arc::default(), outbound }
    }

    /// From where they go out.
    pub(super) fn outbound(&self) -> &Outbound {
        &self.outbound
    }

    /// A new one that leads to `server`. Needs the runtime.
    pub(super) fn open(&self, server: SocketAddr) -> io::Result<Port> {
        Port::new(server, &self.outbound)
    }

    /// One that leads to `server`.
    pub(super) fn take(&self, server: SocketAddr) -> Option<Port> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let at = idle.ports.iter().rposition(|port| port.server == server)?;
        Some(idle.ports.swap_remove(at))
    }

    /// Keeps `port`, whose query was answered, for another. Needs the runtime.
    pub(super) fn keep(&self, port: Port) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let uses = port.uses + 1;
        if uses >= USES_MAX || idle.ports.len() >= IDLE_MAX {
            return;
        }
        idle.ports.push(Port { uses, since: Instant::now(), ..port });
        if !std::mem::replace(&mut idle.is_swept, true) {
            tokio::spawn(sweep(Arc::downgrade(&self.idle)));
        }
    }
}

/// Closes ports that wait for too long, until none is left.
async fn sweep(idle: Weak<Mutex<Idle>>) {
    let mut ticks = interval_at(Instant::now() + IDLE_TIME, IDLE_TIME);
    loop {
        ticks.tick().await;
        let Some(idle) = idle.upgrade() else { return };
        let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.ports.retain(|port| port.since.elapsed() < IDLE_TIME);
        if idle.ports.is_empty() {
            idle.is_swept = false;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn server() -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    async fn closed(ports: &Ports) {
        let mut ticks = interval_at(Instant::now(), IDLE_TIME / 50);
        let is_closed = async {
            while !ports.idle.lock().unwrap().ports.is_empty() {
                ticks.tick().await;
            }
        };
        tokio::time::timeout(10 * IDLE_TIME, is_closed).await.expect("all to be closed");
    }

    #[tokio::test]
    async fn a_port_serves_a_few_queries_of_its_server_and_is_closed_when_it_is_idle() {
        let (_first, at) = server().await;
        let (_other, elsewhere) = server().await;
        let ports = Ports::default();
        let mut port = ports.open(at).unwrap();
        let number = port.socket.local_addr().unwrap();
        for _ in 1..USES_MAX {
            ports.keep(port);
            assert!(ports.take(elsewhere).is_none(), "it leads to one server");
            port = ports.take(at).unwrap();
            assert_eq!(port.socket.local_addr().unwrap(), number);
            assert!(ports.take(at).is_none(), "nobody else has it meanwhile");
        }
        ports.keep(port);
        assert!(ports.take(at).is_none(), "it has served as many as it may");

        for _ in 0..=IDLE_MAX {
            ports.keep(ports.open(at).unwrap());
        }
        assert_eq!(ports.idle.lock().unwrap().ports.len(), IDLE_MAX);
        closed(&ports).await;
        ports.keep(ports.open(at).unwrap());
        closed(&ports).await;
    }
}
