//! Published ports: who comes to them, and the sockets that they come by.
//!
//! Owns the listeners and which flow is which peer's; must not know what policy says of a peer. A
//! listener outlives every error: where this host is out of descriptors or memory it rests for a
//! moment and goes on. Peers of a UDP port share its socket, and are told apart by their address;
//! as many are remembered as there may be UDP flows.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::Ordering;

use bytes::Bytes;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use sluicegate_core::{Event, FlowId, Inbound, Instant, Protocol, Refusal};
use socket2::{Domain, SockRef, Socket, Type};

use super::caller::{self, Caller};
use super::row::datagrams;
use super::tcp::TcpFlow;
use super::who::who_came;
use super::{Flow, Flows, HostEngine, socket};
use crate::config::PortConfig;
use crate::error::Error;

/// Connections, or datagrams, that one turn takes of one port.
const TURN_ACCEPTS_MAX: usize = 64;
/// How long a listener rests that can't accept.
const REST_MS: u64 = 100;
/// Bytes of the longest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// A port that is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedPort {
    /// Where this host listens; the port is the one that it really is.
    pub host: SocketAddr,
    /// The guest's port.
    pub guest_port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// A socket that listens, before its driver runs.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) port: PublishedPort,
    /// Connections begin with who came.
    says_who: bool,
    door: Door,
}

#[derive(Debug)]
enum Door {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl AsRawFd for Door {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tcp(listener) => listener.as_raw_fd(),
            Self::Udp(socket) => socket.as_raw_fd(),
        }
    }
}

impl Listener {
    /// Listens as `port` says, on behalf of up to `queue` connections that wait.
    ///
    /// # Errors
    /// The port is in use, or not this user's to have; it is named.
    pub(crate) fn bind(port: &PortConfig, queue: u32) -> Result<Self, Error> {
        let open = || -> io::Result<Self> {
            let protocol = Protocol::from(port.protocol);
            let is_tcp = protocol == Protocol::Tcp;
            let kind = if is_tcp { Type::STREAM } else { Type::DGRAM };
            let socket =
                Socket::new(Domain::for_address(port.host()), kind.nonblocking().cloexec(), None)?;
            if port.host_bind.is_ipv6() {
                // Who wants IPv4 as well says so: the guest's end is of one family.
                socket.set_only_v6(true)?;
            }
            if is_tcp {
                socket.set_reuse_address(true)?;
            }
            socket.bind(&port.host().into())?;
            let host = socket.local_addr()?.as_socket().unwrap_or(port.host());
            let door = if is_tcp {
                socket.listen(i32::try_from(queue).unwrap_or(i32::MAX))?;
                Door::Tcp(socket.into())
            } else {
                caller::watch(&socket, port.host_bind)?;
                Door::Udp(socket.into())
            };
            let published = PublishedPort { host, guest_port: port.guest_port, protocol };
            Ok(Self { port: published, says_who: port.proxy_protocol, door })
        };
        open().map_err(|source| Error::Publish { port: port.host(), source })
    }
}

/// Which of the published ports go, and which come.
#[derive(Default)]
pub(crate) struct PortChange {
    /// The places of those that go.
    pub(crate) gone: Vec<usize>,
    /// Those that come, each with the place that it keeps.
    pub(crate) new: Vec<(usize, Listener)>,
    /// The places of those that lead elsewhere from now on: to which port of the guest, and whether
    /// their connections begin with who came.
    pub(crate) led: Vec<(usize, u16, bool)>,
}

/// Whether somebody may be at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watch {
    /// Nobody, before the poll says so.
    Quiet,
    /// Somebody may be.
    Ready,
    /// Whoever is there waits until then.
    Rests(Instant),
}

/// A peer of the UDP port with this index.
type Peer = (usize, Caller);

/// The published ports of a network.
pub(crate) struct Ports {
    /// Each at the place that it keeps.
    listeners: Vec<Option<Listener>>,
    /// The token of the first place.
    first_token: usize,
    /// What is known of each.
    watches: Vec<Watch>,
    /// The flow of each UDP peer.
    flows: HashMap<Peer, FlowId>,
    /// Whose the UDP flow in each slot of the engine is, or was: one that gives way to another does
    /// so without a word, and then its slot has another's.
    peers: HashMap<u32, (FlowId, Peer)>,
    space: Box<[u8]>,
}

impl Ports {
    /// Watches `listeners`, each at its place, with tokens from `first_token` on.
    pub(crate) fn new(
        listeners: Vec<(usize, Listener)>,
        registry: &Registry,
        first_token: usize,
    ) -> io::Result<Self> {
        let mut ports = Self {
            watches: vec![],
            space: Box::default(),
            listeners: vec![],
            first_token,
            flows: HashMap::new(),
            peers: HashMap::new(),
        };
        ports.watch(&listeners, registry)?;
        listeners.into_iter().for_each(|(place, listener)| ports.put(place, listener));
        Ok(ports)
    }

    /// Watches `listeners`, all or none of them.
    fn watch(&self, listeners: &[(usize, Listener)], registry: &Registry) -> io::Result<()> {
        for (count, (place, listener)) in listeners.iter().enumerate() {
            let (fd, token) = (listener.door.as_raw_fd(), Token(self.first_token + place));
            let watched = registry.register(&mut SourceFd(&fd), token, Interest::READABLE);
            if let Err(error) = watched {
                unwatch(listeners.iter().take(count).map(|(_, listener)| listener), registry);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Lets `listener`, which is watched, have `place`.
    fn put(&mut self, place: usize, listener: Listener) {
        if self.listeners.len() <= place {
            self.listeners.resize_with(place + 1, || None);
            self.watches.resize(place + 1, Watch::Quiet);
        }
        if self.space.is_empty() {
            self.space = vec![0; DATAGRAM_BYTES_MAX].into();
        }
        self.listeners[place] = Some(listener);
        self.watches[place] = Watch::Ready;
    }

    /// Closes the listener at `place`.
    fn take_away(&mut self, place: usize, registry: &Registry) {
        if let Some(listener) = self.listeners.get_mut(place).and_then(Option::take) {
            unwatch([&listener].into_iter(), registry);
        }
        if let Some(watch) = self.watches.get_mut(place) {
            *watch = Watch::Quiet;
        }
    }

    /// Lets the listener at `place` lead to `guest_port`.
    fn lead(&mut self, place: usize, guest_port: u16, says_who: bool) {
        if let Some(listener) = self.listeners.get_mut(place).and_then(Option::as_mut) {
            (listener.port.guest_port, listener.says_who) = (guest_port, says_who);
        }
    }

    /// The flows that the listener at `place` alone can answer.
    fn flows_of(&self, place: usize) -> Vec<FlowId> {
        let of_it = |(flow, (own, _)): &(FlowId, Peer)| (*own == place).then_some(*flow);
        self.peers.values().filter_map(of_it).collect()
    }

    fn listener(&self, place: usize) -> Option<&Listener> {
        self.listeners.get(place)?.as_ref()
    }

    pub(super) fn note(&mut self, index: usize) {
        if let Some(watch) = self.watches.get_mut(index).filter(|watch| **watch == Watch::Quiet) {
            *watch = Watch::Ready;
        }
    }

    /// Whether somebody may wait who can be served at once.
    pub(super) fn is_busy(&self) -> bool {
        self.watches.contains(&Watch::Ready)
    }

    /// When a listener that rests goes on.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let rests = |watch: &Watch| match watch {
            Watch::Rests(until) => Some(*until),
            Watch::Quiet | Watch::Ready => None,
        };
        self.watches.iter().filter_map(rests).min()
    }

    /// The guest's answer to a peer of a UDP port: how many datagrams of it had no room, and how
    /// many the host would not have. `None`: the flow is none of these.
    pub(super) fn answer(
        &self,
        flow: FlowId,
        payload: &[u8],
        segment_bytes: u16,
    ) -> Option<(u64, u64)> {
        let (_, (index, peer)) = self.peers.get(&flow.index).filter(|(own, _)| *own == flow)?;
        let Door::Udp(socket) = &self.listener(*index)?.door else { return None };
        let (mut full, mut refused) = (0, 0);
        for one in datagrams(payload, segment_bytes) {
            // A full socket drops it, as the network may; and so may whoever is gone.
            match caller::answer(socket, one, peer) {
                Ok(_) => {}
                Err(error) if socket::is_full(&error) => full += 1,
                Err(_) => refused += 1,
            }
        }
        Some((full, refused))
    }

    pub(super) fn forget(&mut self, flow: FlowId) {
        if self.peers.get(&flow.index).is_some_and(|(own, _)| *own == flow) {
            self.forget_slot(flow.index);
        }
    }

    fn forget_slot(&mut self, index: u32) {
        if let Some((flow, peer)) = self.peers.remove(&index)
            && self.flows.get(&peer) == Some(&flow)
        {
            self.flows.remove(&peer);
        }
    }

    fn remember(&mut self, flow: FlowId, peer: Peer) {
        self.forget_slot(flow.index);
        self.peers.insert(flow.index, (flow, peer));
        self.flows.insert(peer, flow);
    }
}

/// Watches `listeners` no longer.
fn unwatch<'l>(listeners: impl Iterator<Item = &'l Listener>, registry: &Registry) {
    for listener in listeners {
        // It fails only where it is not watched.
        let _ = registry.deregister(&mut SourceFd(&listener.door.as_raw_fd()));
    }
}

impl Flows {
    /// Answers a peer of a UDP port, as [`Ports::answer`] does; false: the flow is none of these.
    pub(super) fn answer_caller(&self, flow: FlowId, payload: &[u8], segment_bytes: u16) -> bool {
        let answered = self.ports.answer(flow, payload, segment_bytes);
        let (full, refused) = answered.unwrap_or_default();
        self.published.socket_full.fetch_add(full, Ordering::Relaxed);
        self.published.answers_refused.fetch_add(refused, Ordering::Relaxed);
        answered.is_some()
    }

    /// Watches the listeners that are new in `change`, which may yet be refused.
    pub(crate) fn watch_ports(&self, change: &PortChange) -> io::Result<()> {
        self.ports.watch(&change.new, &self.registry)
    }

    /// Watches them no longer: it was refused.
    pub(crate) fn unwatch_ports(&self, change: &PortChange) {
        unwatch(change.new.iter().map(|(_, listener)| listener), &self.registry);
    }

    /// Lets the ports be as `change` has them, whose new ones are watched. Connections stay open;
    /// what a UDP port that goes, or leads elsewhere, has to answer ends.
    pub(crate) fn replace_ports(
        &mut self,
        (engine, now): (&mut HostEngine<'_>, Instant),
        change: PortChange,
    ) {
        for place in &change.gone {
            self.ports.take_away(*place, &self.registry);
        }
        for (place, guest_port, says_who) in &change.led {
            self.ports.lead(*place, *guest_port, *says_who);
        }
        for place in change.gone.iter().chain(change.led.iter().map(|(place, ..)| place)) {
            for flow in self.ports.flows_of(*place) {
                engine.end(now, flow);
                self.ports.forget(flow);
            }
        }
        change.new.into_iter().for_each(|(place, listener)| self.ports.put(place, listener));
    }

    /// Lets in who waits at the published ports, each port within its budget. False: there is no
    /// room for more on the way to the guest.
    pub(super) fn serve_ports(&mut self, engine: &mut HostEngine<'_>, now: Instant) -> bool {
        let mut has_room = true;
        for index in 0..self.ports.listeners.len() {
            match self.ports.watches[index] {
                Watch::Quiet => continue,
                Watch::Rests(until) if until > now => continue,
                Watch::Rests(_) | Watch::Ready => {}
            }
            let Some(listener) = self.ports.listener(index) else { continue };
            self.ports.watches[index] = match listener.door {
                Door::Tcp(_) => self.accept(engine, now, index),
                Door::Udp(_) => {
                    has_room &= engine.can_deliver(now);
                    self.take_datagrams(engine, now, index)
                }
            };
        }
        has_room
    }

    /// Accepts at the port `index`.
    fn accept(&mut self, engine: &mut HostEngine<'_>, now: Instant, index: usize) -> Watch {
        for _ in 0..TURN_ACCEPTS_MAX {
            let Some(Listener { port, says_who, door: Door::Tcp(listener) }) =
                self.ports.listener(index)
            else {
                return Watch::Quiet;
            };
            let (port, says_who) = (*port, *says_who);
            let (stream, peer) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Watch::Quiet,
                // Whoever waited has gone.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                    ) =>
                {
                    continue;
                }
                Err(error) => {
                    let guest_port = port.guest_port;
                    self.count(socket::refusal(&error));
                    // Once for as long as it lasts: who comes is to fill nobody's log.
                    if !matches!(self.ports.watches.get(index), Some(Watch::Rests(_))) {
                        tracing::warn!(%error, guest_port, "a published port can't accept");
                    }
                    return Watch::Rests(now.plus_millis(REST_MS));
                }
            };
            self.welcome(engine, now, (stream, peer), (&port, says_who));
        }
        Watch::Ready
    }

    /// Opens a flow to the guest for a connection that was accepted, or resets it.
    fn welcome(
        &mut self,
        engine: &mut HostEngine<'_>,
        now: Instant,
        (stream, peer): (TcpStream, SocketAddr),
        (port, says_who): (&PublishedPort, bool),
    ) {
        let ours = stream.local_addr().unwrap_or(port.host);
        let early = if says_who { who_came(peer, ours) } else { Bytes::new() };
        let Ok(flow) = engine.open_inbound(now, &inbound(port, peer)) else {
            // Nobody is there for it, which a reset says (RFC 9293 3.10.7.1).
            let _ = SockRef::from(&stream).set_linger(Some(core::time::Duration::ZERO));
            return;
        };
        match TcpFlow::accepted(flow, stream, &self.registry) {
            Ok(tcp) => self.insert(flow, Flow::Tcp(tcp.with_early(early))),
            Err(error) => {
                self.count(socket::refusal(&error));
                tracing::warn!(%error, "a connection that was accepted can't be watched");
                engine.handle(now, Event::OutsideReset { flow });
            }
        }
    }

    /// Takes datagrams of the port `index` in, as far as there is room for them.
    fn take_datagrams(&mut self, engine: &mut HostEngine<'_>, now: Instant, index: usize) -> Watch {
        for _ in 0..TURN_ACCEPTS_MAX {
            if !engine.can_deliver(now) {
                return Watch::Ready;
            }
            let ports = &mut self.ports;
            let Some(Listener { port, door: Door::Udp(socket), .. }) =
                ports.listeners.get(index).and_then(Option::as_ref)
            else {
                return Watch::Quiet;
            };
            let port = *port;
            let (len, caller) = match caller::receive(socket, &mut ports.space) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Watch::Quiet,
                // It tells of the machine, and would do so again at once.
                Err(error) if socket::refusal(&error) == Refusal::Exhausted => {
                    self.count(Refusal::Exhausted);
                    return Watch::Rests(now.plus_millis(REST_MS));
                }
                // What became of an earlier answer.
                Err(_) => continue,
            };
            let known =
                ports.flows.get(&(index, caller)).copied().filter(|flow| engine.is_live(*flow));
            let flow = match known {
                Some(flow) => flow,
                None => {
                    let Ok(flow) = engine.open_inbound(now, &inbound(&port, caller.peer)) else {
                        continue;
                    };
                    ports.remember(flow, (index, caller));
                    flow
                }
            };
            engine.deliver(now, flow, self.ports.space.get(..len).unwrap_or(&[]));
        }
        Watch::Ready
    }
}

/// An address of IPv4 in disguise is what it is.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn inbound(port: &PublishedPort, peer: SocketAddr) -> Inbound {
    Inbound {
        protocol: port.protocol,
        peer: canonical(peer),
        guest_port: port.guest_port,
        is_ipv6: port.host.is_ipv6(),
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    fn peer(number: u16) -> Peer {
        (0, Caller::of(SocketAddr::from(([203, 0, 113, 1], number))))
    }

    #[test]
    fn no_more_peers_are_remembered_than_there_are_flows() {
        let poll = mio::Poll::new().unwrap();
        let mut ports = Ports::new(vec![], poll.registry(), 0).unwrap();
        // Each takes the slot of another, which was told to nobody.
        for number in 0..10_000_u16 {
            let flow = FlowId { index: u32::from(number % 16), generation: number.into() };
            ports.remember(flow, peer(number));
            assert_eq!(ports.flows.get(&peer(number)), Some(&flow));
        }
        assert_eq!((ports.flows.len(), ports.peers.len()), (16, 16));
        // A peer that comes again by another flow is not forgotten with the first.
        let [first, second] = [16, 17].map(|index| FlowId { index, generation: 1 });
        ports.remember(first, peer(0));
        ports.remember(second, peer(0));
        ports.forget(first);
        assert_eq!(ports.flows.get(&peer(0)), Some(&second));
        assert_eq!(ports.answer(first, b"late", 0), None);
    }

    #[test]
    fn an_answer_that_does_not_leave_is_counted_by_why() {
        let (mut flows, _poll) = crate::flow::tests::flows();
        let port: PortConfig = "127.0.0.1:0:53/udp".parse().unwrap();
        flows.ports.put(0, Listener::bind(&port, 1).unwrap());
        let [there, nowhere] = [0, 1].map(|index| FlowId { index, generation: 1 });
        let caller = UdpSocket::bind("127.0.0.1:0").unwrap();
        flows.ports.remember(there, (0, Caller::of(caller.local_addr().unwrap())));
        // Nobody is at port 0.
        flows.ports.remember(nowhere, peer(0));
        let refused = |flows: &Flows| flows.published.answers_refused.load(Ordering::Relaxed);
        assert!(flows.answer_caller(there, &[7; 250], 100));
        assert_eq!(refused(&flows), 0);
        let lens = [(); 3].map(|()| caller.recv(&mut [0; 200]).unwrap());
        assert_eq!(lens, [100, 100, 50]);
        assert!(flows.answer_caller(nowhere, &[7; 250], 100));
        assert_eq!(refused(&flows), 3, "each of the row");
        assert!(!flows.answer_caller(FlowId { index: 2, generation: 1 }, b"", 0));
        for (errno, is_it) in [(Errno::AGAIN, true), (Errno::NOBUFS, true), (Errno::INVAL, false)] {
            assert_eq!(socket::is_full(&errno.into()), is_it, "{errno}");
        }
    }
}
