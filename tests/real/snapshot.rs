//! A network takes the place of another, under a guest that goes on.

use std::ffi::OsStr;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::card::Card;
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

/// `sluicegate serve` at `socket`, with `more` arguments.
fn serve(socket: &Path, config: &ConfigFile, more: &[&OsStr]) -> Process {
    let mut command = sluicegate();
    command.arg("serve").arg("--socket").arg(socket).arg("--config").arg(config.path());
    let mut engine = Process::start(command.args(more));
    engine.wait_for("ready\n");
    engine
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
    /// One of a network behind a TAP.
    fn new() -> Self {
        let (scratch, names) = (Scratch::new("snapshot"), name_server());
        let socket = scratch.0.join("control");
        let config = Some(config(names.0));
        let setup = Setup { config, control: Some(socket.clone()), ..Setup::default() };
        Self::of(Guest::with(&setup), socket, names, scratch)
    }

    /// One of a network behind a socket, and its card.
    fn served() -> (Self, Card) {
        let (scratch, names) = (Scratch::new("snapshot"), name_server());
        let [socket, card] = ["control", "card"].map(|name| scratch.0.join(name));
        let (namespace, slot) = (Namespace::new(), free_slot());
        namespace.set("ipv6/conf/default/router_solicitations", "0");
        let more = ["--control".as_ref(), socket.as_os_str(), "--slot".as_ref()];
        let number = slot.to_string();
        let more = [&more[..], &[number.as_ref()]].concat();
        let engine = serve(&card, &ConfigFile::new(&config(names.0)), &more);
        let mut plug = Card::new(&namespace, slot);
        plug.connect(&card);
        let guest = Guest::served(engine, namespace, slot);
        (Self::of(guest, socket, names, scratch), plug)
    }

    fn of(guest: Guest, socket: PathBuf, names: (u16, Arc<Names>), scratch: Scratch) -> Self {
        let server = servers::echo(servers::listener(Family::V4));
        let gateway = guest.gateway(Family::V4);
        let IpAddr::V4(address) = gateway else { panic!("of IPv4") };
        names.1.address.store(address.to_bits(), Ordering::Relaxed);
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
        Self { guest, socket, names, server, streams, scratch }
    }

    /// Writes down what the guest knows, and ends its network, of which the guest hears nothing.
    fn end(self) -> Ended {
        let Self { guest, socket, names: (names, told), server, streams, scratch } = self;
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
        let to = (gateway, server).into();
        Ended { namespace, to, socket, config, told, streams, snapshot, ports, file, scratch }
    }
}

/// A guest whose network has gone.
struct Ended {
    namespace: Namespace,
    /// A server that the guest reaches by the name that it resolved.
    to: SocketAddr,
    socket: PathBuf,
    config: ConfigFile,
    told: Arc<Names>,
    streams: [TcpStream; 2],
    snapshot: Value,
    ports: String,
    file: PathBuf,
    scratch: Scratch,
}

impl Ended {
    /// The gateway's MAC address, as the guest has it in its cache.
    fn gateway_mac(&self) -> &str {
        self.snapshot["interface"]["gateway_mac"].as_str().unwrap()
    }

    /// What the guest's kernel says of its gateway.
    fn neighbour(&self) -> String {
        let show = ["-n", self.namespace.name(), "neigh", "show", "dev", "eth0"];
        process::succeed(Command::new("ip").args(show).arg(self.to.ip().to_string()))
    }

    /// The guest goes on with what it knew, and what it knew is true.
    fn goes_on(&mut self) {
        for stream in &mut self.streams {
            assert!(is_reset(stream), "{:?}", stream.local_addr());
        }
        assert_eq!(ctl(&self.socket, "ports"), self.ports);
        let again: Value = serde_json::from_str(&ctl(&self.socket, "snapshot")).unwrap();
        assert_eq!(again["interface"], self.snapshot["interface"]);
        let to = self.to;
        self.namespace.inside(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
        assert_eq!(self.told.asked.load(Ordering::Relaxed), 1, "nobody had to ask again");
        // A change finds the link as it is, whatever the slot.
        let mut put = sluicegate();
        put.arg("ctl").arg("--control").arg(&self.socket).arg("put").arg(self.config.path());
        process::succeed(&mut put);
    }
}

#[test]
fn another_network_takes_the_place_and_connections_of_old_are_reset_at_once() {
    if !needs::are_met(&[]) {
        return;
    }
    let mut ended = Before::new().end();
    let mut second = attach(&ended.namespace, &ended.config, Some(&ended.file));
    let mut second = Process::start(second.arg("--control").arg(&ended.socket));
    second.wait_for("ready\n");
    // As in the cache of a guest that has not noticed.
    let (gateway, mac) = (ended.to.ip(), ended.gateway_mac());
    ended.namespace.ip(&format!("neigh replace {gateway} lladdr {mac} dev eth0 nud permanent"));
    ended.goes_on();
}

#[test]
fn a_machine_whose_card_is_a_socket_finds_another_network_there_and_goes_on() {
    if !needs::are_met(&["python3"]) {
        return;
    }
    let (before, mut card) = Before::served();
    let mut ended = before.end();
    card.is_alone();
    let slot = free_slot().to_string();
    let more = ["--slot".as_ref(), slot.as_ref(), "--restore".as_ref(), ended.file.as_os_str()];
    let more = [&more[..], &["--control".as_ref(), ended.socket.as_os_str()]].concat();
    let path = ended.scratch.0.join("card");
    let _second = serve(&path, &ended.config, &more);
    card.connect(&path);
    let known = ended.neighbour();
    assert!(known.contains(ended.gateway_mac()), "{known}");
    ended.goes_on();
    // Who asks is told the same.
    ended.namespace.ip("neigh flush all");
    let to = ended.to;
    ended.namespace.inside(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
    let known = ended.neighbour();
    assert!(known.contains(ended.gateway_mac()), "{known}");
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
