//! One UDP or echo association with the outside: a socket of its own, connected to the destination,
//! so that the kernel delivers nothing that did not come from there.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use sluicegate_core::{DatagramKind, Event, FlowId, Instant, Refusal};
use socket2::{Protocol, Socket, Type};

use super::{HostEngine, Served, socket, token};

/// Datagrams that one flow may deliver in one turn.
const TURN_DATAGRAMS_MAX: usize = 64;

pub(super) struct DatagramFlow {
    id: FlowId,
    socket: Socket,
}

impl DatagramFlow {
    /// Opens a socket to `address`.
    ///
    /// # Errors
    /// What the guest is told.
    pub(super) fn open(
        id: FlowId,
        kind: DatagramKind,
        address: SocketAddr,
        registry: &Registry,
    ) -> Result<Self, Refusal> {
        let protocol = match kind {
            DatagramKind::Udp => None,
            DatagramKind::Echo if address.is_ipv4() => Some(Protocol::ICMPV4),
            DatagramKind::Echo => Some(Protocol::ICMPV6),
        };
        let opened = || {
            let socket = socket::open(address, Type::DGRAM, protocol)?;
            socket.connect(&address.into())?;
            let fd = socket.as_raw_fd();
            registry.register(&mut SourceFd(&fd), token(id), Interest::READABLE)?;
            Ok(socket)
        };
        let socket = opened().map_err(|error: io::Error| socket::refusal(&error))?;
        Ok(Self { id, socket })
    }

    /// Sends one datagram. A full socket drops it, as the network may.
    ///
    /// # Errors
    /// What the guest is told of this datagram, or of an earlier one.
    pub(super) fn send(&mut self, payload: &[u8]) -> Result<(), Refusal> {
        let first = self.send_once(payload);
        if first == Err(Refusal::Refused) {
            // The kernel reports an earlier datagram's fate in place of sending this one.
            let _ = self.send_once(payload);
        }
        first
    }

    fn send_once(&self, payload: &[u8]) -> Result<(), Refusal> {
        loop {
            let error = match self.socket.send(payload) {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
                Some(rustix::io::Errno::INTR) => {}
                Some(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS) => return Ok(()),
                Some(rustix::io::Errno::MSGSIZE) => {
                    return Err(Refusal::TooBig { mtu: self.path_mtu() });
                }
                Some(_) | None => return Err(socket::refusal(&error)),
            }
        }
    }

    /// What the kernel knows of the path, in bytes of IP packet.
    fn path_mtu(&self) -> u32 {
        let known = rustix::net::sockopt::ipv6_mtu(&self.socket)
            .or_else(|_| rustix::net::sockopt::ip_mtu(&self.socket));
        // The least that any path takes (RFC 8200 5), where the kernel does not say.
        known.unwrap_or(1280)
    }

    /// Delivers what has come back, within the flow's budget.
    pub(super) fn serve(
        &mut self,
        engine: &mut HostEngine<'_>,
        now: Instant,
        buffer: &mut [u8],
    ) -> Served {
        for _ in 0..TURN_DATAGRAMS_MAX {
            if !engine.can_deliver() {
                return Served::NoRoom;
            }
            match rustix::net::recv(&self.socket, &mut *buffer, rustix::net::RecvFlags::empty()) {
                Ok((len, _)) => {
                    engine.deliver(now, self.id, buffer.get(..len).unwrap_or(&[]));
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    let error = io::Error::from(errno);
                    if error.kind() == ErrorKind::WouldBlock {
                        return Served::Waits;
                    }
                    let refusal = socket::refusal(&error);
                    engine.handle(now, Event::DatagramFailed { flow: self.id, refusal });
                }
            }
        }
        Served::Again
    }
}
