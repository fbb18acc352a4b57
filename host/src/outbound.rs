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
        if to.ip().to_canonical().is_loopback() {
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

    /// The address that is said for the family of `to`, as its socket has it: an IPv4 address may
    /// be written as one of IPv6 (RFC 4291 2.5.5.2).
    fn source(&self, to: SocketAddr) -> Option<IpAddr> {
        let v4 = self.0.ipv4_address;
        match (to.ip(), to.ip().to_canonical()) {
            (IpAddr::V4(_), _) => v4.map(IpAddr::V4),
            (IpAddr::V6(_), IpAddr::V4(_)) => v4.map(|v4| v4.to_ipv6_mapped().into()),
            (IpAddr::V6(_), IpAddr::V6(_)) => self.0.ipv6_address.map(IpAddr::V6),
        }
    }
}

fn open(to: SocketAddr, kind: Type, protocol: Option<Protocol>) -> io::Result<Socket> {
    Socket::new(Domain::for_address(to), kind.nonblocking(), protocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_that_is_written_as_one_of_ipv6_is_gone_on_to_from_the_same() {
        let ipv4_address = Some("192.0.2.20".parse().unwrap());
        let outbound = Outbound::new(&OutboundConfig { ipv4_address, ..Default::default() });
        for (to, source) in [
            ("192.0.2.1:53", Some("192.0.2.20")),
            ("[::ffff:192.0.2.1]:53", Some("::ffff:192.0.2.20")),
            ("[2001:db8::1]:53", None),
        ] {
            let source = source.map(|text| text.parse().unwrap());
            assert_eq!(outbound.source(to.parse().unwrap()), source, "{to}");
        }
        // This host has no such address: tied to it, none is opened.
        let open = |to: &str| outbound.socket(to.parse().unwrap(), Type::DGRAM, None);
        assert!(open("[::ffff:192.0.2.1]:53").is_err());
        assert!(open("[::ffff:127.0.0.1]:53").is_ok(), "which is this host's loopback");
    }
}
