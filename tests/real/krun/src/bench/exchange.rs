//! Little at a time: round trips of a byte, and connections of one request.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp;

use super::outside::{self, Outside, REQUEST_BYTES};
use super::times::Times;
use super::{Bench, STEP_MAX, WARM_UP, next_port};
use crate::now;

const BUFFER_BYTES: usize = 4096;

/// Prints the time of a byte there and back, over one connection.
pub(super) fn round_trips(bench: &mut Bench) {
    let server = Outside::start(1, outside::echo);
    let (to, port) = (bench.to(server.port), bench.next_port());
    let handle = bench.stack.open(to, port, BUFFER_BYTES);
    bench.stack.connect(handle, STEP_MAX);
    let mut trips = Vec::with_capacity(1 << 20);
    let (mut wall, mut times) = (Duration::ZERO, Times::default());
    for longest in [WARM_UP, bench.duration] {
        trips.clear();
        let earlier = Times::now();
        let start = now();
        let mut sent = None;
        bench.stack.run("round trips", longest + STEP_MAX, |_, sockets| {
            let socket = sockets.get_mut::<tcp::Socket>(handle);
            if let Some(sent) = sent {
                if !socket.can_recv() {
                    assert!(socket.may_recv(), "the stream ended");
                    return None;
                }
                socket.recv(|piece| (piece.len(), ())).expect("open");
                trips.push(now() - sent);
            }
            socket.send_slice(&[1]).expect("open");
            sent = Some(now());
            (start.elapsed() >= longest).then_some(())
        });
        // The last answer is no part of the next phase.
        bench.stack.run("the last answer", STEP_MAX, |_, sockets| {
            let socket = sockets.get_mut::<tcp::Socket>(handle);
            socket.can_recv().then(|| socket.recv(|piece| (piece.len(), ())).expect("open"))
        });
        (wall, times) = (start.elapsed(), Times::now().since(&earlier));
    }
    bench.stack.close(handle);
    server.stop();
    println!(
        "{:18} {}; {}",
        "round trips",
        percentiles(&mut trips),
        each(&times, trips.len(), wall)
    );
}

/// The middle of `durations`, and what one in a hundred exceeds.
fn percentiles(durations: &mut [Duration]) -> String {
    durations.sort_unstable();
    let micros = |percent: usize| {
        let index = durations.len().saturating_sub(1) * percent / 100;
        durations.get(index).map_or(f64::NAN, |duration| duration.as_secs_f64() * 1e6)
    };
    format!("p50 {:.1} us, p99 {:.1} us", micros(50), micros(99))
}

/// Whose processor time one of `count` took.
fn each(times: &Times, count: usize, wall: Duration) -> String {
    let micros = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
    format!(
        "CPU us each: worker {:.1}, engine {:.1}, guest {:.1}, outside {:.1}; elsewhere \
         {:.2}",
        micros(times.worker),
        micros(times.engine),
        micros(times.guest),
        micros(times.outside),
        times.elsewhere(wall),
    )
}

/// What a client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Connected,
    Answered,
    Closed,
}

/// One of the guest's clients, which connects again and again.
struct Client {
    handle: SocketHandle,
    wait: Wait,
    /// When it began to connect.
    start: Instant,
}

impl Client {
    /// Goes on as far as it can; true: a connection has come to its end.
    fn step(&mut self, socket: &mut tcp::Socket<'_>) -> bool {
        match self.wait {
            Wait::Connected => {
                assert!(socket.is_open(), "the connection was refused");
                if socket.may_send() {
                    socket.send_slice(&[1; REQUEST_BYTES]).expect("open");
                    self.wait = Wait::Answered;
                }
            }
            Wait::Answered => {
                // The server has closed, so the stream ends with the answer.
                if socket.state() == tcp::State::CloseWait {
                    let len = socket.recv(|piece| (piece.len(), piece.len())).expect("an answer");
                    assert_eq!(len, REQUEST_BYTES, "the answer");
                    socket.close();
                    self.wait = Wait::Closed;
                }
                assert!(socket.is_open(), "the connection was reset");
            }
            Wait::Closed => return !socket.is_open(),
        }
        false
    }

    fn reconnect(
        &mut self,
        socket: &mut tcp::Socket<'_>,
        interface: &mut Interface,
        (to, port): (SocketAddr, u16),
    ) {
        socket.connect(interface.context(), to, port).expect("a closed socket");
        self.wait = Wait::Connected;
        self.start = now();
    }
}

/// Prints how many connections of one request a second `clients` at a time make.
pub(super) fn connections(bench: &mut Bench, clients: usize) {
    let server = Outside::start(clients, outside::answer);
    let to = bench.to(server.port);
    let mut all: Vec<Client> = (0..clients)
        .map(|_| {
            let port = bench.next_port();
            let handle = bench.stack.open(to, port, BUFFER_BYTES);
            // The end of a stream shall be acknowledged at once.
            bench.stack.sockets.get_mut::<tcp::Socket>(handle).set_ack_delay(None);
            Client { handle, wait: Wait::Connected, start: now() }
        })
        .collect();
    let (mut took, mut wall, mut times) = (Vec::new(), Duration::ZERO, Times::default());
    for longest in [WARM_UP, bench.duration] {
        let (start, earlier) = (now(), Times::now());
        took.clear();
        let port = &mut bench.port;
        let mut step = |interface: &mut Interface, sockets: &mut SocketSet<'_>| {
            for client in &mut all {
                let socket = sockets.get_mut::<tcp::Socket>(client.handle);
                if client.step(socket) {
                    took.push(client.start.elapsed());
                    client.reconnect(socket, interface, (to, next_port(port)));
                }
            }
            (start.elapsed() >= longest).then_some(())
        };
        bench.stack.run("connections", longest + STEP_MAX, &mut step);
        (wall, times) = (start.elapsed(), Times::now().since(&earlier));
    }
    for client in all {
        bench.stack.close(client.handle);
    }
    server.stop();
    println!(
        "{:18} {:.0} a second, {}; {}",
        format!("{clients} clients"),
        took.len() as f64 / wall.as_secs_f64(),
        percentiles(&mut took),
        each(&times, took.len(), wall),
    );
}
