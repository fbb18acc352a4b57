//! A guest with a TCP/IP stack behind the real device, and the whole product between it and servers
//! on this host's loopback.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sluicegate_host::{NetworkConfig, SmoltcpNetwork};
use sluicegate_tests_krun::frame::mix;
use sluicegate_tests_krun::{Device, Interrupt, Receiver, Sender, alone, now};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, IpEndpoint};

/// Bytes of each transfer.
const TRANSFER_BYTES: usize = 16 << 20;
/// Each step takes this long at most.
const STEP_MAX: Duration = Duration::from_secs(15);
const GATEWAYS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(100, 96, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd42, 0x6d73, 0x62, 0, 0, 0, 0, 1)),
];
const GUESTS: [(IpAddr, u8); 2] = [
    (IpAddr::V4(Ipv4Addr::new(100, 96, 0, 2)), 30),
    (IpAddr::V6(Ipv6Addr::new(0xfd42, 0x6d73, 0x62, 0, 0, 0, 0, 2)), 64),
];
const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// The byte at `position` of every transfer.
fn byte(position: usize) -> u8 {
    mix(position as u64 / 8).to_le_bytes()[position % 8]
}

fn bytes(start: usize, len: usize) -> Vec<u8> {
    (start..start + len).map(byte).collect()
}

/// The guest's card, as its stack sees it.
struct Card {
    sender: Sender,
    receiver: Receiver,
    sent_bytes: Arc<AtomicU64>,
}

struct Received(Vec<u8>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Sending<'a>(&'a mut Sender, &'a AtomicU64);

impl phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        assert!(self.0.send(&frame), "there is room");
        self.1.fetch_add(len as u64, Ordering::Relaxed);
        result
    }
}

impl phy::Device for Card {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received, Sending<'_>)> {
        self.sender.reclaim();
        if self.sender.queue.free() == 0 {
            return None;
        }
        let frame = self.receiver.receive()?.to_vec();
        Some((Received(frame), Sending(&mut self.sender, &self.sent_bytes)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Sending<'_>> {
        self.sender.reclaim();
        let has_room = self.sender.queue.free() != 0;
        has_room.then_some(Sending(&mut self.sender, &self.sent_bytes))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// A guest that is online, and the network that it is online by.
struct Guest {
    interface: Interface,
    sockets: SocketSet<'static>,
    card: Card,
    interrupt: Interrupt,
    start: Instant,
    device: Device,
    network: SmoltcpNetwork,
    _runtime: tokio::runtime::Runtime,
}

impl Guest {
    fn online() -> Self {
        let config = r#"{"policy": {"default_egress": "allow"}}"#;
        let config = NetworkConfig::from_json(config).expect("a configuration");
        let mut network = SmoltcpNetwork::new(config, 0);
        let device = Device::new(network.take_backend());
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        network.start(runtime.handle().clone());
        let (sender, mut receiver, interrupt) = device.guest();
        receiver.refill();
        let mut card = Card { sender, receiver, sent_bytes: Arc::default() };
        let mac = EthernetAddress(network.guest_mac());
        let mut interface =
            Interface::new(Config::new(mac.into()), &mut card, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            for (address, prefix) in GUESTS {
                addresses.push(IpCidr::new(address.into(), prefix)).expect("room for two");
            }
        });
        let sockets = SocketSet::new(Vec::new());
        let start = now();
        Self { interface, sockets, card, interrupt, start, device, network, _runtime: runtime }
    }

    /// Lets the guest's stack run until `done` says so.
    fn run<T>(&mut self, what: &str, mut done: impl FnMut(&mut SocketSet<'_>) -> Option<T>) -> T {
        let start = now();
        loop {
            let micros = i64::try_from(self.start.elapsed().as_micros()).expect("a short test");
            let time = smoltcp::time::Instant::from_micros(micros);
            self.interface.poll(time, &mut self.card, &mut self.sockets);
            self.card.sender.queue.kick();
            self.card.receiver.refill();
            if let Some(result) = done(&mut self.sockets) {
                return result;
            }
            assert!(start.elapsed() < STEP_MAX, "{what} takes too long");
            let delay = self.interface.poll_delay(time, &self.sockets);
            let delay = delay.map_or(100_000, |delay| delay.total_micros().min(100_000));
            if !self.card.receiver.is_ready() && delay != 0 {
                self.interrupt.wait(Duration::from_micros(delay));
            }
        }
    }

    fn connect(&mut self, to: SocketAddr) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 1 << 18]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        let port = 40_000 + to.port() % 10_000;
        let to = IpEndpoint::from(to);
        socket.connect(self.interface.context(), to, port).expect("a fresh socket");
        let handle = self.sockets.add(socket);
        self.run("connecting", |sockets| {
            sockets.get::<tcp::Socket>(handle).may_send().then_some(())
        });
        handle
    }
}

/// Sends a transfer, then takes one until the end, and says how many bytes came in order.
fn serve(listener: &TcpListener) -> usize {
    let (mut stream, _) = listener.accept().expect("the guest connects");
    stream.set_read_timeout(Some(STEP_MAX)).expect("a timeout");
    stream.set_write_timeout(Some(STEP_MAX)).expect("a timeout");
    stream.write_all(&bytes(0, TRANSFER_BYTES)).expect("the guest takes it");
    read_all(&mut stream)
}

fn read_all(stream: &mut TcpStream) -> usize {
    let mut taken = 0;
    let mut piece = vec![0; 1 << 16];
    loop {
        let len = stream.read(&mut piece).expect("the guest gives it");
        if len == 0 {
            return taken;
        }
        assert!(piece[..len] == bytes(taken, len), "corrupted after {taken} bytes");
        taken += len;
    }
}

fn megabits(start: Instant) -> u128 {
    TRANSFER_BYTES as u128 * 8 / start.elapsed().as_micros().max(1)
}

#[test]
fn a_guest_fetches_and_gives_over_tcp() {
    let _turn = alone();
    let mut guest = Guest::online();
    let environment = guest.network.guest_env_vars();
    assert_eq!(environment[1].1, "addr=100.96.0.2/30,gw=100.96.0.1,dns=100.96.0.1");
    for (gateway, loopback) in GATEWAYS.into_iter().zip(LOOPBACKS) {
        let listener = TcpListener::bind((loopback, 0)).expect("loopback");
        let port = listener.local_addr().expect("bound").port();
        let server = thread::spawn(move || serve(&listener));
        let handle = guest.connect((gateway, port).into());
        let (mut taken, start) = (0, now());
        guest.run("fetching", |sockets| {
            let socket = sockets.get_mut::<tcp::Socket>(handle);
            while socket.can_recv() {
                let take = |piece: &mut [u8]| (piece.len(), piece == bytes(taken, piece.len()));
                let before = socket.recv_queue();
                assert!(socket.recv(take).expect("open"), "corrupted after {taken} bytes");
                taken += before - socket.recv_queue();
            }
            (taken == TRANSFER_BYTES).then_some(())
        });
        println!("{gateway}: fetched {TRANSFER_BYTES} bytes, {} Mbit/s", megabits(start));
        let (mut given, start) = (0, now());
        guest.run("giving", |sockets| {
            let socket = sockets.get_mut::<tcp::Socket>(handle);
            while given < TRANSFER_BYTES && socket.can_send() {
                let len = (TRANSFER_BYTES - given).min(1 << 15);
                given += socket.send_slice(&bytes(given, len)).expect("open");
            }
            (given == TRANSFER_BYTES && socket.send_queue() == 0).then(|| socket.close())
        });
        println!("{gateway}: gave {TRANSFER_BYTES} bytes, {} Mbit/s", megabits(start));
        guest.run("closing", |sockets| {
            let state = sockets.get::<tcp::Socket>(handle).state();
            matches!(state, tcp::State::TimeWait | tcp::State::Closed).then_some(())
        });
        assert_eq!(server.join().expect("the server is content"), TRANSFER_BYTES);
        guest.sockets.remove(handle);
    }
    // Every frame that the guest sent was accepted, and counted without its virtio header.
    let start = now();
    while guest.card.sender.queue.in_flight() != 0 {
        guest.card.sender.reclaim();
        assert!(start.elapsed() < STEP_MAX, "the device keeps the guest's last frames");
    }
    let metrics = guest.network.metrics_handle();
    assert_eq!(metrics.tx_bytes(), guest.card.sent_bytes.load(Ordering::Relaxed));
    for (name, count) in metrics.counters() {
        if name.starts_with("adapter_") {
            assert_eq!(count, 0, "{name}");
        }
    }
    guest.device.quiesce();
    guest.network.shutdown().expect("the driver was content");
}

#[test]
fn a_guest_gets_its_datagrams_back_from_an_echo() {
    let _turn = alone();
    let mut guest = Guest::online();
    for (gateway, loopback) in GATEWAYS.into_iter().zip(LOOPBACKS) {
        let echo = UdpSocket::bind((loopback, 0)).expect("loopback");
        echo.set_read_timeout(Some(STEP_MAX)).expect("a timeout");
        let port = echo.local_addr().expect("bound").port();
        let server = thread::spawn(move || {
            let mut datagram = [0; 2048];
            loop {
                let (len, from) = echo.recv_from(&mut datagram).expect("the guest sends");
                echo.send_to(&datagram[..len], from).expect("loopback");
                if len == 1 {
                    return;
                }
            }
        });
        let buffer =
            || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 4], vec![0; 1 << 14]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(5000).expect("a fresh socket");
        let handle = guest.sockets.add(socket);
        // The last is the longest of either family that needs no fragments; 1 ends the server.
        let lens = (2..1452).step_by(29).chain([1452, 1]);
        let start = now();
        for len in lens.clone() {
            let to = IpEndpoint::new(IpAddress::from(gateway), port);
            let datagram = bytes(len, len);
            let socket = guest.sockets.get_mut::<udp::Socket>(handle);
            socket.send_slice(&datagram, to).expect("room for it");
            guest.run("an echo", |sockets| {
                let socket = sockets.get_mut::<udp::Socket>(handle);
                let (echo, from) = socket.recv().ok()?;
                assert_eq!(from.endpoint, to);
                assert!(echo == datagram, "a datagram of {len} bytes came back as another");
                Some(())
            });
        }
        println!("{gateway}: {} echoes in {:?}", lens.count(), start.elapsed());
        server.join().expect("the server is content");
        guest.sockets.remove(handle);
    }
    guest.device.quiesce();
    guest.network.shutdown().expect("the driver was content");
}
