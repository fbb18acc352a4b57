//! A network takes the place of another, under a guest that goes on.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::guest::{ConfigFile, Guest, Setup, free_slot, sluicegate};
use crate::names::{A, query, record};
use crate::namespace::Namespace;
use crate::needs;
use crate::process::{self, Process};
use crate::servers::{self, Family, accept};
use crate::tls::Scratch;
use crate::waiting::{AT_ONCE, PATIENCE, timed};

/// The guest's port that is published.
const GUEST_PORT: u16 = 7100;

/// What a name server is asked and says.
#[derive(Default)]
struct Names {
    /// How often it was asked.
    asked: AtomicU32,
    /// Where every name leads.
    address: AtomicU32,
}

/// A name server, and its port.
fn name_server() -> (u16, Arc<Names>) {
    let names = Arc::<Names>::default();
    let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    let (port, known) = (socket.local_addr().unwrap().port(), Arc::clone(&names));
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok((len, from)) = socket.recv_from(&mut bytes) {
            known.asked.fetch_add(1, Ordering::Relaxed);
            let address = known.address.load(Ordering::Relaxed).to_be_bytes();
            let _ = socket.send_to(&record(&bytes[..len], &[0xc0, 12], 1, &address), from);
        }
    });
    (port, names)
}

/// What may be reached is `box.test` alone, and port [`GUEST_PORT`] from outside.
fn config(names: u16) -> Value {
    json!({
        "strict": false,
        "dns": { "nameservers": [format!("127.0.0.1:{names}")], "rebind_protection": false },
        "ports": [{ "host_port": 0, "guest_port": GUEST_PORT }],
        "policy": { "default_ingress": "allow", "rules": [
            { "direction": "egress", "destination": { "domain": "box.test" }, "action": "allow" }]}
    })
}

fn ctl(socket: &Path, what: &str) -> String {
    let mut command = sluicegate();
    process::succeed(command.arg("ctl").arg("--control").arg(socket).arg(what))
}

/// `sluicegate attach` to `namespace`, with another slot than any before.
fn attach(namespace: &Namespace, config: &ConfigFile, restore: Option<&Path>) -> Command {
    let mut command = sluicegate();
    command.args(["attach", "--netns", namespace.name(), "--slot", &free_slot().to_string()]);
    command.arg("--config").arg(config.path());
    if let Some(snapshot) = restore {
        command.arg("--restore").arg(snapshot);
    }
    command
}

/// Whether what the guest says next on `stream` is answered by a reset, at once.
fn is_reset(stream: &mut TcpStream) -> bool {
    let (heard, took) = timed(|| {
        stream.write_all(b"still there?")?;
        stream.read(&mut [0; 1])
    });
    assert!(took < AT_ONCE, "{took:?}");
    heard.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

/// A guest with a name that it resolved and two connections, one each way.
struct Before {
    guest: Guest,
    socket: PathBuf,
    names: (u16, Arc<Names>),
    server: u16,
    streams: [TcpStream; 2],
    scratch: Scratch,
}

impl Before {
    fn new() -> Self {
        let scratch = Scratch::new("snapshot");
        let socket = scratch.0.join("control");
        let server = servers::echo(servers::listener(Family::V4));
        let (port, names) = name_server();
        let setup =
            Setup { config: Some(config(port)), control: Some(socket.clone()), ..Setup::default() };
        let guest = Guest::with(&setup);
        let gateway = guest.gateway(Family::V4);
        let IpAddr::V4(address) = gateway else { panic!("of IPv4") };
        names.address.store(address.to_bits(), Ordering::Relaxed);
        let resolver = guest.datagrams((gateway, 53));
        resolver.send(&query(7, "box.test", A)).unwrap();
        assert!(resolver.recv(&mut [0; 512]).unwrap() > 40, "an address");
        let mut out = guest.connect(Family::V4, server);
        out.write_all(b"echo").unwrap();
        out.read_exact(&mut [0; 4]).unwrap();
        let address = guest.address(Family::V4);
        let inside =
            guest.namespace().inside(|| std::net::TcpListener::bind((address, GUEST_PORT)));
        let inside = inside.unwrap();
        let ports: Value = serde_json::from_str(&ctl(&socket, "ports")).unwrap();
        let host = ports["ports"][0]["host"].as_str().unwrap();
        let caller = TcpStream::connect(host).unwrap();
        let streams = [out, accept(&inside)];
        // It lives as long as the test, as a peer would.
        std::mem::forget(caller);
        Self { guest, socket, names: (port, names), server, streams, scratch }
    }
}

#[test]
fn another_network_takes_the_place_and_connections_of_old_are_reset_at_once() {
    if !needs::are_met(&[]) {
        return;
    }
    let Before { guest, socket, names: (names, told), server, mut streams, scratch } =
        Before::new();
    let gateway = guest.gateway(Family::V4);
    let text = ctl(&socket, "snapshot");
    let snapshot: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(snapshot["names"][0]["name"], "box.test", "{text}");
    let ports = ctl(&socket, "ports");
    let (first, namespace) = guest.into_parts();
    first.signal(Signal::TERM);
    assert_eq!(first.finish().code, 0);
    for stream in &streams {
        stream.set_nonblocking(true).unwrap();
        let waits = stream.peek(&mut [0; 1]).unwrap_err();
        assert_eq!(waits.kind(), ErrorKind::WouldBlock, "the guest has heard of nothing");
        stream.set_nonblocking(false).unwrap();
    }
    let file = scratch.0.join("snapshot.json");
    std::fs::write(&file, &text).unwrap();
    let config = ConfigFile::new(&config(names));
    let mut second = attach(&namespace, &config, Some(&file));
    let mut second = Process::start(second.arg("--control").arg(&socket));
    second.wait_for("ready\n");
    // As in the cache of a guest that has not noticed.
    let mac = snapshot["interface"]["gateway_mac"].as_str().unwrap();
    namespace.ip(&format!("neigh replace {gateway} lladdr {mac} dev eth0 nud permanent"));
    for stream in &mut streams {
        assert!(is_reset(stream), "{:?}", stream.local_addr());
    }
    assert_eq!(ctl(&socket, "ports"), ports);
    let again: Value = serde_json::from_str(&ctl(&socket, "snapshot")).unwrap();
    assert_eq!(again["interface"], snapshot["interface"]);
    let to = (gateway, server).into();
    namespace.inside(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
    assert_eq!(told.asked.load(Ordering::Relaxed), 1, "nobody had to ask again");
    // A change finds the link as it is, whatever the slot.
    let mut put = sluicegate();
    put.arg("ctl").arg("--control").arg(&socket).arg("put").arg(config.path());
    process::succeed(&mut put);
}

#[test]
fn a_snapshot_that_does_not_fit_is_refused_and_says_what_does_not() {
    if !needs::are_met(&[]) {
        return;
    }
    let Before { guest, socket, names: (names, _), scratch, .. } = Before::new();
    let text = ctl(&socket, "snapshot");
    let snapshot: Value = serde_json::from_str(&text).unwrap();
    let (first, namespace) = guest.into_parts();
    first.signal(Signal::TERM);
    assert_eq!(first.finish().code, 0);
    let port = snapshot["ports"][0]["host_port"].as_u64().unwrap();
    let taken = std::net::TcpListener::bind(("127.0.0.1", u16::try_from(port).unwrap())).unwrap();
    let file = scratch.0.join("snapshot.json");
    let refused = |config: &Value, text: &str| {
        std::fs::write(&file, text).unwrap();
        let config = ConfigFile::new(config);
        let ended = process::run(&mut attach(&namespace, &config, Some(&file)));
        assert_eq!(ended.code, 1, "{ended:?}");
        ended.errors
    };
    let errors = refused(&config(names), &text);
    assert!(errors.contains(&format!("port 127.0.0.1:{port} can't be published")), "{errors}");
    drop(taken);
    let mut other = config(names);
    other["interface"] = json!({ "mac": "02:00:00:00:00:09" });
    let errors = refused(&other, &text);
    assert!(errors.contains("interface.mac: 02:00:00:00:00:09 is not that of"), "{errors}");
    let errors = refused(&config(names), &text.replace("\"version\": 1", "\"version\": 9"));
    assert!(errors.contains("version: 9 is not 1"), "{errors}");
    let errors = refused(&config(names), &text[..text.len() / 2]);
    assert!(errors.contains("--restore"), "{errors}");
}
