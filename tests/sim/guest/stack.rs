//! A guest with a whole stack of its own: smoltcp over Ethernet, with ARP and neighbour discovery.

use core::net::{IpAddr, SocketAddr};
use std::collections::VecDeque;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::{Duration, Instant as SmolInstant};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};

use sluicegate_core::{Instant, Link};

/// A network card: frames that came, frames that go.
#[derive(Debug)]
pub struct Port {
    /// Frames that have arrived.
    pub arrived: VecDeque<Vec<u8>>,
    /// Frames that leave.
    pub leaving: VecDeque<Vec<u8>>,
    mtu: usize,
}

/// A guest.
pub struct Guest {
    /// Its network card.
    pub port: Port,
    interface: Interface,
    sockets: SocketSet<'static>,
    next_port: u16,
}

impl Guest {
    /// A guest that is set up for `link`.
    ///
    /// # Panics
    /// Never: its tables are large enough for what it is told.
    #[must_use]
    pub fn new(link: &Link, seed: u64, now: Instant) -> Self {
        let mut port = Port {
            arrived: VecDeque::new(),
            leaving: VecDeque::new(),
            mtu: usize::from(link.mtu) + 14,
        };
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(link.guest_mac)));
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut port, smol(now));
        interface.update_ip_addrs(|addresses| {
            for cidr in
                [IpCidr::new(link.guest_ipv4.into(), 30), IpCidr::new(link.guest_ipv6.into(), 64)]
            {
                addresses.push(cidr).expect("because two addresses fit");
            }
        });
        let routes = interface.routes_mut();
        routes.add_default_ipv4_route(link.gateway_ipv4).expect("because two routes fit");
        routes.add_default_ipv6_route(link.gateway_ipv6).expect("because two routes fit");
        let sockets = SocketSet::new(vec![]);
        Self { port, interface, sockets, next_port: 40_000 + (seed % 20_000) as u16 }
    }

    /// Begins a connection to `to`, with buffers of `bytes` each way.
    ///
    /// # Panics
    /// Never: each has a port of its own.
    pub fn connect(&mut self, to: SocketAddr, bytes: usize) -> SocketHandle {
        let mut socket = tcp_socket(bytes);
        self.next_port += 1;
        let local = self.next_port;
        let context = self.interface.context();
        socket.connect(context, to, local).expect("because the socket is new and the ends valid");
        self.sockets.add(socket)
    }

    /// Waits for a connection to `port`, with buffers of `bytes` each way.
    ///
    /// # Panics
    /// If `port` is 0.
    pub fn listen(&mut self, port: u16, bytes: usize) -> SocketHandle {
        let mut socket = tcp_socket(bytes);
        socket.listen(port).expect("because the socket is new and the port is one");
        self.sockets.add(socket)
    }

    /// The TCP socket of `handle`.
    pub fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Opens a UDP socket.
    ///
    /// # Panics
    /// Never: each has a port of its own.
    pub fn bind(&mut self) -> SocketHandle {
        self.next_port += 1;
        self.bind_to(self.next_port)
    }

    /// Opens a UDP socket at `port`.
    ///
    /// # Panics
    /// If `port` is 0.
    pub fn bind_to(&mut self, port: u16) -> SocketHandle {
        let buffer =
            || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 16], vec![0; 16 * 1500]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).expect("because the socket is new");
        self.sockets.add(socket)
    }

    /// The UDP socket of `handle`.
    pub fn udp(&mut self, handle: SocketHandle) -> &mut udp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Takes in what has arrived, and puts out what is due.
    pub fn poll(&mut self, now: Instant) {
        self.interface.poll(smol(now), &mut self.port, &mut self.sockets);
    }

    /// When the guest next has something to do by itself.
    pub fn next(&mut self, now: Instant) -> Option<Instant> {
        let at = self.interface.poll_at(smol(now), &self.sockets)?;
        Some(Instant::from_micros(at.total_micros().max(0).cast_unsigned()))
    }

    /// The guest's address in the family of `peer`.
    #[must_use]
    pub fn address(&self, peer: IpAddr) -> IpAddr {
        crate::frame::guest(peer)
    }
}

fn tcp_socket(bytes: usize) -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; bytes]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.set_ack_delay(Some(Duration::from_millis(10)));
    socket
}

fn smol(now: Instant) -> SmolInstant {
    SmolInstant::from_micros(now.as_micros().cast_signed())
}

impl phy::Device for Port {
    type RxToken<'t> = Arrived;
    type TxToken<'t> = Leaving<'t>;

    fn receive(&mut self, _: SmolInstant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let frame = self.arrived.pop_front()?;
        Some((Arrived(frame), Leaving(&mut self.leaving)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Self::TxToken<'_>> {
        Some(Leaving(&mut self.leaving))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

/// A frame that has arrived.
pub struct Arrived(Vec<u8>);

impl phy::RxToken for Arrived {
    fn consume<T, F: FnOnce(&[u8]) -> T>(self, f: F) -> T {
        f(&self.0)
    }
}

/// Room for a frame that leaves.
pub struct Leaving<'t>(&'t mut VecDeque<Vec<u8>>);

impl phy::TxToken for Leaving<'_> {
    fn consume<T, F: FnOnce(&mut [u8]) -> T>(self, len: usize, f: F) -> T {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}
