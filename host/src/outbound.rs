//! Sockets that go on outside, from where of this host the configuration says.
//!
//! Owns what each of them is tied to before it is connected, whoever needs it: flows, a proxy, name
//! servers, intercepted connections. Must not know why it is opened. What can't be tied is not
//! opened: nothing ever leaves from another address or interface than was said. What goes to this
//! host's loopback is tied to nothing, as it does not leave.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use crate::config::OutboundConfig;
use crate::error::Error;

/// From where connections go on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outbound(Arc<OutboundConfig>);

impl Outbound {
    pub(crate) fn new(config: &OutboundConfig) -> Self {
        Self(Arc::new(config.clone()))
    }

    /// Tries whether this host has what the configuration names.
    ///
    /// # Errors
    /// The first field that it has not.
    pub(crate) fn try_out(&self) -> Result<(), Error> {
        let v4 = (Ipv4Addr::UNSPECIFIED, 0).into();
        let failed = |field, value: String| move |source| Error::Outbound { field, value, source };
        if let Some(device) = &self.0.device {
            let tied = open(v4, Type::DGRAM, None).and_then(|socket| self.tie_to_device(&socket));
            tied.map_err(failed("outbound.device", device.clone()))?;
        }
        for (field, any) in [
            ("outbound.ipv4_address", v4),
            ("outbound.ipv6_address", (Ipv6Addr::UNSPECIFIED, 0).into()),
        ] {
            if let Some(source) = self.source(any) {
                let tied = open(any, Type::DGRAM, None)
                    .and_then(|socket| socket.bind(&SocketAddr::new(source, 0).into()));
                tied.map_err(failed(field, source.to_string()))?;
            }
        }
        Ok(())
    }

    /// A non-blocking socket that is to be connected to `to`.
    ///
    /// # Errors
    /// None is to be had, or it can't be tied: the address or the interface is gone.
    ///
    /// # Cost
    /// A system call, and one or two for each thing that it is tied to.
    pub(crate) fn socket(
        &self,
        to: SocketAddr,
        kind: Type,
        protocol: Option<Protocol>,
    ) -> io::Result<Socket> {
        let socket = open(to, kind, protocol)?;
        if to.ip().is_loopback() {
            return Ok(socket);
        }
        self.tie_to_device(&socket)?;
        if let Some(source) = self.source(to) {
            // The port is picked when it connects: else an address would have as many connections
            // as it has ports, wherever they go (ip(7)).
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        Ok(socket)
    }

    /// Connects to `to`. Needs the runtime.
    ///
    /// # Errors
    /// Those of [`socket`](Self::socket), and of the connect.
    pub(crate) async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.socket(to, Type::STREAM, None)?;
        TcpSocket::from_std_stream(socket.into()).connect(to).await
    }

    fn tie_to_device(&self, socket: &Socket) -> io::Result<()> {
        let device = self.0.device.as_ref();
        device.map_or(Ok(()), |device| socket.bind_device(Some(device.as_bytes())))
    }

    /// The address that is said for the family of `to`.
    fn source(&self, to: SocketAddr) -> Option<IpAddr> {
        match to {
            SocketAddr::V4(_) => self.0.ipv4_address.map(IpAddr::V4),
            SocketAddr::V6(_) => self.0.ipv6_address.map(IpAddr::V6),
        }
    }
}

fn open(to: SocketAddr, kind: Type, protocol: Option<Protocol>) -> io::Result<Socket> {
    Socket::new(Domain::for_address(to), kind.nonblocking(), protocol)
}
