//! A guest that is saved and restored: its memory, its stack and its queues go on, over a device
//! and a network that are others.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use online::{GATEWAYS, Guest, STEP_MAX};
use sim::dns;
use sluicegate_host::{NetworkConfig, SmoltcpNetwork, Snapshot};
use sluicegate_tests_krun::{Tally, alone};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::{IpAddress, IpEndpoint};

#[allow(dead_code, reason = "nothing is transferred here")]
mod online;

const NAME: &str = "box.test";
/// The guest's port that is published.
const GUEST_PORT: u16 = 7100;

/// A name server that says where the guest's gateway is, whatever it is asked; its port, and how
/// often it was asked.
fn name_server() -> (u16, Arc<AtomicU32>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
    let port = socket.local_addr().expect("bound").port();
    let asked = Arc::<AtomicU32>::default();
    let count = Arc::clone(&asked);
    thread::spawn(move || {
        let mut bytes = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut bytes) {
            count.fetch_add(1, Ordering::Relaxed);
            let record = dns::address(&dns::QUESTION, 600, GATEWAYS[0]);
            let _ = socket.send_to(&dns::answer(&bytes[..len], &[record]), from);
        }
    });
    (port, asked)
}

/// What may be reached is what [`NAME`] leads to, and [`GUEST_PORT`] from outside.
fn config(names: u16) -> NetworkConfig {
    let text = format!(
        r#"{{"strict": false,
            "dns": {{"nameservers": ["127.0.0.1:{names}"], "rebind_protection": false}},
            "ports": [{{"host_port": 0, "guest_port": {GUEST_PORT}}}],
            "policy": {{"default_ingress": "allow", "rules": [{{"direction": "egress",
                "destination": {{"domain": "{NAME}"}}, "action": "allow"}}]}}}}"#
    );
    NetworkConfig::from_json(&text).expect("a configuration")
}

/// `guest` saved and restored: over another network, which would have another slot and has
/// `config`, and another device. Nobody finds its ports before it can hear.
fn restored(mut guest: Guest, config: NetworkConfig) -> Guest {
    guest.settle();
    let Guest { mut stack, mut device, mut network, _runtime: runtime } = guest;
    device.quiesce();
    let snapshot = network.snapshot().expect("it runs").to_json();
    network.shutdown().expect("the driver was content");
    let snapshot = Snapshot::from_json(&snapshot).expect("what was written is read");
    let mut network = SmoltcpNetwork::try_restore(config, 9, snapshot).expect("it fits");
    let activation = network.defer_activation();
    let mut next = device.restored(network.take_backend());
    network.start(runtime.handle().clone());
    assert!(network.published_ports().is_empty(), "the guest is not there yet");
    next.rewire(&mut stack.card.sender, &mut stack.card.receiver);
    next.resume();
    activation.activate().expect("the ports are free");
    // What the network counts begins anew.
    stack.card.sent = Tally::default();
    Guest { stack, device: next, network, _runtime: runtime }
}

/// Asks the gateway for [`NAME`], as a resolver does.
fn resolve(guest: &mut Guest) {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 4], vec![0; 4096]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(5000).expect("a fresh socket");
    let gateway = IpEndpoint::new(IpAddress::from(GATEWAYS[0]), 53);
    socket.send_slice(&dns::query(NAME, dns::kind::A), gateway).expect("room for it");
    let handle = guest.stack.sockets.add(socket);
    guest.run("an answer", |sockets| {
        let (answer, _) = sockets.get_mut::<udp::Socket>(handle).recv().ok()?;
        let IpAddr::V4(expected) = GATEWAYS[0] else { panic!("of IPv4") };
        assert!(answer.ends_with(&expected.octets()), "{answer:?}");
        Some(())
    });
    guest.stack.sockets.remove(handle);
}

/// A socket that listens at [`GUEST_PORT`].
fn listen(guest: &mut Guest) -> SocketHandle {
    let buffer = || tcp::SocketBuffer::new(vec![0; 4096]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.listen(GUEST_PORT).expect("a fresh socket");
    guest.stack.sockets.add(socket)
}

/// Somebody comes to the published port, and is answered by the socket of `handle`.
fn come(guest: &mut Guest, handle: SocketHandle) -> TcpStream {
    let host = guest.network.published_ports()[0].host;
    let mut caller = TcpStream::connect(host).expect("it is published");
    caller.set_read_timeout(Some(STEP_MAX)).expect("a timeout");
    caller.write_all(b"hello").expect("it is open");
    let is_heard = guest.run("who came", |sockets| {
        let socket = sockets.get_mut::<tcp::Socket>(handle);
        socket.can_recv().then(|| socket.recv(|bytes| (bytes.len(), bytes == b"hello")))
    });
    assert_eq!(is_heard, Ok(true));
    // So that the guest owes nobody an acknowledgement.
    let sockets = &mut guest.stack.sockets;
    sockets.get_mut::<tcp::Socket>(handle).send_slice(b"hello").expect("it is open");
    guest.run("its acknowledgement", |sockets| {
        (sockets.get_mut::<tcp::Socket>(handle).send_queue() == 0).then_some(())
    });
    caller.read_exact(&mut [0; 5]).expect("an answer");
    caller
}

/// What the guest says next on the connection of `handle` is answered with a reset at once.
fn is_reset(guest: &mut Guest, handle: SocketHandle) -> bool {
    let sockets = &mut guest.stack.sockets;
    sockets.get_mut::<tcp::Socket>(handle).send_slice(b"still there?").expect("it is open");
    let sent = guest.stack.card.sent.frames;
    guest.stack.round(STEP_MAX);
    assert_eq!(guest.stack.card.sent.frames, sent + 1, "the guest has said it once");
    guest.stack.sockets.get::<tcp::Socket>(handle).state() == tcp::State::Closed
}

#[test]
fn a_guest_that_was_saved_goes_on_behind_another_device_and_network() {
    let _turn = alone();
    let (names, asked) = name_server();
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
    let to: SocketAddr = (GATEWAYS[0], server.local_addr().expect("bound").port()).into();
    let mut guest = Guest::with(config(names));
    resolve(&mut guest);
    let out = guest.connect(to);
    let (mut kept, _) = server.accept().expect("the guest has connected");
    let inside = listen(&mut guest);
    let mut caller = come(&mut guest, inside);
    let ports = guest.network.published_ports();
    let before = *guest.network.addresses();

    let mut guest = restored(guest, config(names));
    // Whoever was outside has seen the end.
    for stream in [&mut kept, &mut caller] {
        assert!(!matches!(stream.read(&mut [0; 1]), Ok(1..)));
    }
    assert_eq!(*guest.network.addresses(), before);
    assert_eq!(guest.network.published_ports(), ports);
    assert!(is_reset(&mut guest, out) && is_reset(&mut guest, inside));
    guest.stack.sockets.remove(out);
    guest.stack.sockets.remove(inside);
    // Where the name led, and from outside, and nobody had to ask.
    let out = guest.stack.open(to, 30_000, 4096);
    guest.stack.connect(out, STEP_MAX);
    let inside = listen(&mut guest);
    come(&mut guest, inside);
    assert_eq!(asked.load(Ordering::Relaxed), 1, "the name stays known");
    guest.end();
}
