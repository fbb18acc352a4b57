//! Very many short flows of both families: what the engine holds afterwards is what it held soon
//! after the start. `SLUICEGATE_SOAK_S=600` lets it take ten minutes.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::guest::{Guest, Setup, open_config};
use crate::held;
use crate::needs;
use crate::servers::{self, Family};
use crate::waiting::{PATIENCE, now, until};

use serde_json::json;

/// How long it takes where nobody says otherwise.
const SECONDS_DEFAULT: u64 = 60;
/// Threads that open flows of each kind, TCP and UDP, in each family.
const THREADS: usize = 2;
/// Servers of each family that connections go to by turns.
const SERVERS: usize = 16;
/// UDP flows at a time: each is one descriptor, and as many are left when nobody speaks any more.
const UDP_FLOWS_MAX: usize = 128;
/// What the memory may vary by, in KiB: buffers of flows are given back in their own time.
const RSS_SLACK_KIB: u64 = 4096;

/// What the engine's process holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    rss_kib: u64,
    descriptors: usize,
    threads: usize,
}

fn held(guest: &Guest) -> Held {
    let process = guest.engine().id();
    Held {
        rss_kib: held::resident_bytes(process) as u64 / 1024,
        descriptors: held::descriptors(process),
        threads: held::threads(process),
    }
}

fn connect_and_close(to: SocketAddr) {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"ask").unwrap();
    stream.read_exact(&mut [0; 3]).unwrap();
}

/// A datagram may be lost where flows make room for each other: that is no flow less.
fn ask_and_forget(to: SocketAddr) {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket.send_to(b"ask", to).unwrap();
    let _ = socket.recv(&mut [0; 8]);
}

#[test]
fn a_multitude_of_short_flows_leaves_nothing_behind() {
    if !needs::are_met(&[]) {
        return;
    }
    let seconds = std::env::var("SLUICEGATE_SOAK_S").ok().and_then(|text| text.parse().ok());
    let length = Duration::from_secs(seconds.unwrap_or(SECONDS_DEFAULT));
    let config = Some(open_config(json!({ "max_udp_connections": UDP_FLOWS_MAX })));
    let guest = Guest::with(&Setup { config, ..Setup::default() });
    let before = held(&guest);
    // The guest's kernel keeps the ends of a connection from being used again for a minute.
    guest.namespace().set("ipv4/ip_local_port_range", "1024 65535");
    let ends = Family::BOTH.map(|family| {
        let at = |port| SocketAddr::new(guest.gateway(family), port);
        let tcp = [(); SERVERS].map(|()| at(servers::echo(servers::listener(family))));
        (tcp, at(servers::echo_datagrams(servers::datagrams(family))), AtomicU64::new(0))
    });
    let is_over = AtomicBool::new(false);
    let flows = || ends.iter().map(|(.., flows)| flows.load(Ordering::Relaxed)).sum::<u64>();
    let (mut warm, began) = (None, now());
    std::thread::scope(|scope| {
        let each = (0..2 * THREADS).flat_map(|number| ends.iter().map(move |end| (number, end)));
        for (number, end) in each {
            let (guest, is_over) = (&guest, &is_over);
            let (tcp, udp, flows) = end;
            scope.spawn(move || {
                guest.namespace().inside(|| {
                    for to in tcp.iter().cycle() {
                        if is_over.load(Ordering::Relaxed) {
                            return;
                        }
                        if number % 2 == 0 {
                            connect_and_close(*to)
                        } else {
                            ask_and_forget(*udp)
                        }
                        flows.fetch_add(1, Ordering::Relaxed);
                    }
                });
            });
        }
        until("a third of the time is over", || began.elapsed() > (length / 3).min(PATIENCE / 2));
        warm = Some((held(&guest), flows()));
        // What is waited for is time itself.
        std::thread::sleep(length.saturating_sub(began.elapsed()));
        is_over.store(true, Ordering::Relaxed);
    });
    let each = ends.each_ref().map(|(.., flows)| flows.load(Ordering::Relaxed));
    let flows = flows();
    let (warm, flows_then) = warm.unwrap();
    // The last connections have a second in TIME-WAIT.
    let may_stay = before.descriptors + UDP_FLOWS_MAX;
    until("the sockets of connections are closed", || held(&guest).descriptors <= may_stay + 4);
    let after = held(&guest);
    println!("{flows} flows in {length:?}: {before:?}, then {warm:?}, then {after:?}");
    assert!(flows > 2 * flows_then, "{flows_then} and then {flows}");
    assert!(each.iter().all(|flows| *flows > 1000), "{each:?}");
    assert_eq!(after.threads, warm.threads);
    assert!(after.rss_kib <= warm.rss_kib + RSS_SLACK_KIB, "{warm:?} and then {after:?}");
}
