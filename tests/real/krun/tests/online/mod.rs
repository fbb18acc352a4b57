//! A guest with a TCP/IP stack behind the real device, the whole product between it and servers on
//! this host's loopback, and transfers either way that know what they should be.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use sluicegate_host::{NetworkConfig, SmoltcpNetwork};
use sluicegate_tests_krun::frame::mix;
use sluicegate_tests_krun::{Card, Device, Stack, now};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp;

/// Bytes of each transfer.
pub(crate) const TRANSFER_BYTES: usize = 16 << 20;
/// Each step takes this long at most.
pub(crate) const STEP_MAX: Duration = Duration::from_secs(15);
/// The gateway's addresses.
pub(crate) const GATEWAYS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(100, 96, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd42, 0x6d73, 0x62, 0, 0, 0, 0, 1)),
];
/// The guest's, with the prefixes of its networks.
pub(crate) const GUESTS: [(IpAddr, u8); 2] = [
    (IpAddr::V4(Ipv4Addr::new(100, 96, 0, 2)), 30),
    (IpAddr::V6(Ipv6Addr::new(0xfd42, 0x6d73, 0x62, 0, 0, 0, 0, 2)), 64),
];
/// Where the guest comes out that speaks to its gateway.
pub(crate) const LOOPBACKS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// The byte at `position` of every transfer.
fn byte(position: usize) -> u8 {
    mix(position as u64 / 8).to_le_bytes()[position % 8]
}

/// `len` bytes of every transfer from `start` on.
pub(crate) fn bytes(start: usize, len: usize) -> Vec<u8> {
    (start..start + len).map(byte).collect()
}

/// A guest that is online, and the network that it is online by.
pub(crate) struct Guest {
    /// The guest itself.
    pub(crate) stack: Stack,
    /// Its card's device.
    pub(crate) device: Device,
    /// What is under test.
    pub(crate) network: SmoltcpNetwork,
    /// Where names are resolved.
    pub(crate) _runtime: tokio::runtime::Runtime,
}

impl Guest {
    /// A guest in slot 0 whose link takes packets of up to `mtu` bytes.
    pub(crate) fn online(mtu: u16) -> Self {
        let config = format!(
            r#"{{"interface": {{"mtu": {mtu}}}, "policy": {{"default_egress": "allow"}}}}"#
        );
        Self::with(NetworkConfig::from_json(&config).expect("a configuration"))
    }

    /// A guest in slot 0 whose network is as `config` says.
    pub(crate) fn with(config: NetworkConfig) -> Self {
        let mut network = SmoltcpNetwork::new(config, 0);
        let device = Device::new(network.take_backend());
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().expect("a runtime");
        network.start(runtime.handle().clone());
        let card = Card::new(device.guest(), network.addresses().mtu);
        let stack = Stack::new(card, network.guest_mac(), &GUESTS);
        Self { stack, device, network, _runtime: runtime }
    }

    /// Lets the guest's stack run until `done` says so.
    pub(crate) fn run<T>(
        &mut self,
        what: &str,
        mut done: impl FnMut(&mut SocketSet<'_>) -> Option<T>,
    ) -> T {
        self.stack.run(what, STEP_MAX, |_, sockets| done(sockets))
    }

    /// Connects to `to`.
    pub(crate) fn connect(&mut self, to: SocketAddr) -> SocketHandle {
        let handle = self.stack.open(to, 40_000 + to.port() % 10_000, 1 << 18);
        self.stack.connect(handle, STEP_MAX);
        handle
    }

    /// Fetches a transfer from a server at `loopback`, gives it one, and closes.
    pub(crate) fn fetch_and_give(&mut self, gateway: IpAddr, loopback: IpAddr) {
        let listener = TcpListener::bind((loopback, 0)).expect("loopback");
        let port = listener.local_addr().expect("bound").port();
        let server = thread::spawn(move || serve(&listener));
        let handle = self.connect((gateway, port).into());
        let (mut taken, start) = (0, now());
        self.run("fetching", |sockets| {
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
        self.run("giving", |sockets| {
            let socket = sockets.get_mut::<tcp::Socket>(handle);
            while given < TRANSFER_BYTES && socket.can_send() {
                let len = (TRANSFER_BYTES - given).min(1 << 15);
                given += socket.send_slice(&bytes(given, len)).expect("open");
            }
            (given == TRANSFER_BYTES && socket.send_queue() == 0).then(|| socket.close())
        });
        println!("{gateway}: gave {TRANSFER_BYTES} bytes, {} Mbit/s", megabits(start));
        self.run("closing", |sockets| {
            let state = sockets.get::<tcp::Socket>(handle).state();
            matches!(state, tcp::State::TimeWait | tcp::State::Closed).then_some(())
        });
        assert_eq!(server.join().expect("the server is content"), TRANSFER_BYTES);
        self.stack.sockets.remove(handle);
    }

    /// Waits until the device has every frame that the guest sent.
    pub(crate) fn settle(&mut self) {
        let start = now();
        while self.stack.card.sender.queue.in_flight() != 0 {
            self.stack.card.sender.reclaim();
            assert!(start.elapsed() < STEP_MAX, "the device keeps the guest's last frames");
        }
    }

    /// Ends it all, when every frame that the guest sent was accepted, and counted without its
    /// virtio header.
    pub(crate) fn end(mut self) {
        self.settle();
        let metrics = self.network.metrics_handle();
        assert_eq!(metrics.tx_bytes(), self.stack.card.sent.bytes);
        for (name, count) in metrics.counters() {
            if name.starts_with("adapter_") {
                assert_eq!(count, 0, "{name}");
            }
        }
        self.device.quiesce();
        self.network.shutdown().expect("the driver was content");
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
