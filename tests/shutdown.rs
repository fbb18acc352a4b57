//! The end of a network while everything that can be in flight is.
//!
//! A process of its own, so that nothing else is counted.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
#![allow(dead_code, reason = "of tests/real/, a part")]

#[path = "real/guest.rs"]
mod guest;
#[path = "real/held.rs"]
mod held;
#[path = "real/namespace.rs"]
mod namespace;
#[path = "real/needs.rs"]
mod needs;
#[path = "real/pattern.rs"]
mod pattern;
#[path = "real/process.rs"]
mod process;
#[path = "real/servers.rs"]
mod servers;
#[path = "real/tls/site.rs"]
mod site;
#[path = "real/waiting.rs"]
mod waiting;

use std::any::Any;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::json;
use sluicegate_host::NetworkConfig;

use guest::{Guest, open_config};
use process::Process;
use servers::{Family, accept};
use site::{GOOD, Site};
use waiting::{PATIENCE, now, timed};

/// What an embedder is promised.
const SHUTDOWN_MAX: Duration = Duration::from_millis(100);
/// By when tasks have ended: long before any timer of theirs would end them.
const TASKS_MAX: Duration = Duration::from_secs(5);
/// Long enough for a name server, a proxy and a handshake to be waited for all the time.
const QUERY_MS: u64 = 60_000;
const GUEST_PORT: u16 = 7000;
/// Where only a proxy leads.
const REMOTE: Ipv4Addr = Ipv4Addr::new(11, 0, 0, 5);

/// Everybody outside. They were there before the network, and are there after it.
struct Outside {
    echo: u16,
    echo_datagrams: u16,
    site: Site,
    /// They hear, and say nothing.
    silent: TcpListener,
    proxy: TcpListener,
    names: UdpSocket,
}

impl Outside {
    fn new() -> Self {
        Self {
            echo: servers::echo(servers::listener(Family::V4)),
            echo_datagrams: servers::echo_datagrams(servers::datagrams(Family::V4)),
            site: Site::new(&["h2"]),
            silent: servers::listener(Family::V4),
            proxy: servers::listener(Family::V4),
            names: servers::datagrams(Family::V4),
        }
    }

    /// A guest whose network has them, and goes out through a proxy of `protocol`.
    fn guest(&self, protocol: &str) -> Guest {
        let port = |of: &TcpListener| of.local_addr().unwrap().port();
        let mut config = open_config(json!({
            "tls": {
                "enabled": true,
                "intercepted_ports": [self.site.port, port(&self.silent)],
                "upstream_ca_cert": [self.site.authority()],
            },
            "outbound_proxy": {
                "protocol": protocol, "address": format!("127.0.0.1:{}", port(&self.proxy)),
            },
            "dns": {
                "nameservers": [self.names.local_addr().unwrap().to_string()],
                "query_timeout_ms": QUERY_MS,
            },
            "ports": [{ "host_port": 0, "guest_port": GUEST_PORT }],
        }));
        config["policy"]["default_ingress"] = json!("allow");
        Guest::embedded_with(NetworkConfig::from_json(&config.to_string()).unwrap())
    }

    /// Lets `guest` have something of everything in flight; returns what its other ends hold.
    fn engage(&self, guest: &Guest, protocol: &str) -> Vec<Box<dyn Any>> {
        let gateway = guest.gateway(Family::V4);
        let mut held: Vec<Box<dyn Any>> = Vec::new();
        held.push(Box::new(guest.network(|network| network.control_handle().capture()).unwrap()));
        let mut stream = guest.connect(Family::V4, self.echo);
        echoes(&mut stream);
        let datagrams = guest.datagrams((gateway, self.echo_datagrams));
        datagrams.send(b"ask").unwrap();
        datagrams.recv(&mut [0; 16]).unwrap();
        // A stream of HTTP/2 that goes on, and a server that does not end its handshake.
        let curl = |url: String, port: u16| {
            let mut curl = guest.command("curl");
            let resolve = format!("{GOOD}:{port}:{gateway}");
            Process::start(curl.args(["-sSkN", "-m", "90", "--resolve", &resolve, &url]))
        };
        let mut events = curl(self.site.url(GOOD, "/events"), self.site.port);
        events.wait_for("event 1");
        let port = self.silent.local_addr().unwrap().port();
        let handshake = curl(format!("https://{GOOD}:{port}/"), port);
        held.extend([Box::new(hears(&self.silent)) as Box<dyn Any>, Box::new(handshake)]);
        // A proxy that takes the connection and does not answer; one of SOCKS5 is asked to take
        // datagrams, too.
        held.push(Box::new(curl(format!("http://{REMOTE}/"), 80)));
        held.push(Box::new(hears(&self.proxy)));
        if protocol == "socks5" {
            let proxied = guest.datagrams((REMOTE, 9));
            proxied.send(b"ask").unwrap();
            held.extend([Box::new(hears(&self.proxy)) as Box<dyn Any>, Box::new(proxied)]);
        }
        let query = [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1][..]].concat();
        let asker = guest.datagrams((gateway, 53));
        asker.send(&query).unwrap();
        self.names.recv_from(&mut [0; 512]).unwrap();
        // Somebody outside.
        let inside = (guest.address(Family::V4), GUEST_PORT);
        let listener = guest.namespace().inside(|| TcpListener::bind(inside).unwrap());
        let published = guest.network(|network| network.published_ports()[0].host);
        let mut caller = TcpStream::connect(published).unwrap();
        caller.write_all(b"called").unwrap();
        let mut called = accept(&listener);
        called.read_exact(&mut [0; 6]).unwrap();
        held.extend([Box::new(stream) as Box<dyn Any>, Box::new(datagrams), Box::new(events)]);
        held.extend([Box::new(asker) as Box<dyn Any>, Box::new((caller, called, listener))]);
        held
    }
}

fn echoes(stream: &mut TcpStream) {
    stream.write_all(b"echo").unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
}

/// Who calls `listener` and says something.
fn hears(listener: &TcpListener) -> TcpStream {
    let mut stream = accept(listener);
    stream.read_exact(&mut [0]).unwrap();
    stream
}

/// Looks until `is_so`; false: it is not, after `patience`.
fn within(patience: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let end = now() + patience;
    while !is_so() {
        if now() > end {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

#[test]
fn a_network_ends_at_once_and_leaves_nothing_whatever_is_in_flight() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let outside = Outside::new();
    let own = std::process::id();
    let mut fastest = PATIENCE;
    for protocol in ["socks5", "http_connect", "socks4"] {
        let before = (held::threads(own), held::descriptors(own));
        let guest = outside.guest(protocol);
        let idle = guest.tasks();
        let others = outside.engage(&guest, protocol);
        let busy = guest.tasks();
        let metrics = guest.network(|network| network.metrics_handle());
        assert!(metrics.flow_counts().iter().any(|(_, count)| *count > 0), "{protocol}");
        assert!(busy >= idle + 4, "{protocol}: {busy} tasks, and {idle} at first");
        let (ended, took) = timed(|| guest.network(|network| network.shutdown()));
        ended.unwrap();
        assert!(metrics.flow_counts().iter().all(|(_, count)| *count == 0), "{protocol}");
        println!("{protocol}: {took:?}");
        fastest = fastest.min(took);
        assert!(
            within(TASKS_MAX, || guest.tasks() == 0),
            "{protocol}: {} tasks of {busy} are left",
            guest.tasks()
        );
        drop((others, guest, metrics));
        let counts = || (held::threads(own), held::descriptors(own));
        let is_as_before = within(TASKS_MAX, || counts() == before);
        assert!(is_as_before, "{protocol}: threads and descriptors {:?}, {before:?}", counts());
    }
    // Of three: a machine that does something else meanwhile decides nothing.
    assert!(fastest < SHUTDOWN_MAX, "{fastest:?}");
}
