//! Measures the whole path, from a guest's stack through the device's real worker and a backend to
//! sockets on this host: what it carries, and whose processor time that takes.
//!
//! The guest is the calling thread. It does not verify what it receives, and nobody writes or reads
//! its payload, so that as little of the machine as can be goes to it; it sleeps when it has
//! nothing to do, as a guest does. The servers are plain blocking sockets on loopback, which the
//! guest reaches at its gateway's address. Each line ends with how many processors were busy with
//! something else: a line with more than a few hundredths of that is to be measured again.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use msb_krun::backends::net::NetBackend;

use crate::{Card, Device, Stack};

mod bulk;
mod exchange;
mod limit;
mod outside;
mod times;

use bulk::Way;
pub use times::worker_time;
use times::{Rate, Times};

/// Whatever is waited for comes within this, or the run is over.
const STEP_MAX: Duration = Duration::from_secs(10);
/// Each scenario runs for so long before it is measured.
const WARM_UP: Duration = Duration::from_millis(300);
const MTU: u16 = 1500;
/// The guest sends from these ports, in turn.
const PORTS: std::ops::Range<u16> = 10_000..60_000;

/// What is to be measured.
pub struct Path {
    /// The guest's address and its network's prefix.
    pub guest: (Ipv4Addr, u8),
    /// Where the guest reaches this host's loopback.
    pub gateway: Ipv4Addr,
    /// The guest's MAC address.
    pub mac: [u8; 6],
    /// What is between them.
    pub backend: Box<dyn NetBackend + Send>,
}

/// How long each scenario is measured: the program's first argument in seconds, or 3 seconds.
///
/// # Panics
/// When that is no number.
#[must_use]
pub fn duration() -> Duration {
    let seconds = std::env::args().nth(1).map_or(3, |text| text.parse().expect("seconds"));
    Duration::from_secs(seconds)
}

/// A guest that is online, for one scenario after the other.
struct Bench {
    stack: Stack,
    gateway: IpAddr,
    duration: Duration,
    port: u16,
}

impl Bench {
    fn to(&self, port: u16) -> SocketAddr {
        (self.gateway, port).into()
    }

    /// A port that no connection had for a long time.
    fn next_port(&mut self) -> u16 {
        next_port(&mut self.port)
    }
}

fn next_port(port: &mut u16) -> u16 {
    *port = if *port + 1 < PORTS.end { *port + 1 } else { PORTS.start };
    *port
}

/// Runs every scenario for `duration` and prints what came of each.
///
/// # Panics
/// When the path does not carry what it should.
pub fn run(path: Path, duration: Duration) {
    let Path { guest: (address, prefix), gateway, mac, backend } = path;
    let limits = [Way::Up, Way::Down].map(|way| {
        let rate = limit::measure(way, duration);
        print(&format!("{way}, worker alone"), &rate, None);
        rate
    });
    let device = Device::new(backend);
    let mut card = Card::new(device.guest(), MTU);
    card.trust();
    card.receiver.is_lenient = true;
    let stack = Stack::new(card, mac, &[(address.into(), prefix)]);
    let mut bench = Bench { stack, gateway: gateway.into(), duration, port: PORTS.start };
    for (way, limit) in [Way::Up, Way::Down].into_iter().zip(&limits) {
        for streams in [1, 4] {
            let rate = bulk::measure(&mut bench, way, streams);
            print(&format!("{way}, {streams} streams"), &rate, Some(limit));
        }
    }
    exchange::round_trips(&mut bench);
    for clients in [1, 16] {
        exchange::connections(&mut bench, clients);
    }
}

/// Prints a rate, and how it compares to that of the worker alone.
fn print(name: &str, rate: &Rate, limit: Option<&Rate>) {
    let gigabits = rate.gigabits();
    let share = limit.map_or(String::new(), |limit| {
        format!(", {:.0} % of the worker alone", 100.0 * gigabits / limit.gigabits())
    });
    let per_gigabyte = |time: Duration| time.as_secs_f64() * 1e9 / rate.bytes as f64;
    let Times { worker, engine, guest, outside, .. } = rate.times;
    let elsewhere = rate.times.elsewhere(rate.wall);
    println!(
        "{name:18} {gigabits:6.2} Gbit/s; CPU seconds a GB: worker {:.2}, engine {:.2}, guest \
         {:.2}, outside {:.2}{share}; elsewhere {elsewhere:.2}",
        per_gigabyte(worker),
        per_gigabyte(engine),
        per_gigabyte(guest),
        per_gigabyte(outside),
    );
}
