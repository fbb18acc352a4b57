//! System calls that fail as a host's may (strace injects it): what they cost, and that they cost
//! nobody else anything.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::guest::{Guest, Setup, open_config, sluicegate};
use crate::needs;
use crate::process::{self, Process};
use crate::servers::{self, Family};
use crate::tls::Scratch;
use crate::waiting::{PATIENCE, timed, until};

/// Every call of some kind of an engine, of which some fail.
struct Faults {
    tracer: Process,
    report: PathBuf,
}

impl Faults {
    /// From now on calls of `name` fail with `errno`: those that `when` says, counted from here.
    fn inject(guest: &Guest, name: &str, errno: &str, when: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let report = format!("sluicegate-failing-{}-{number}", std::process::id());
        let report = std::env::temp_dir().join(report);
        let mut tracer = Command::new("strace");
        tracer.args(["-f", "-e", &format!("trace={name}"), "-o"]).arg(&report);
        tracer.args(["-e", &format!("inject={name}:error={errno}:when={when}")]);
        let tracer = Process::start(tracer.args(["-p", &guest.engine().id().to_string()]));
        until("calls fail", || tracer.errors().contains("attached"));
        Self { tracer, report }
    }

    /// How many calls there were, and how many of them failed because they were to.
    fn end(self) -> (usize, usize) {
        self.tracer.signal(Signal::INT);
        self.tracer.finish();
        let text = std::fs::read_to_string(&self.report).unwrap();
        std::fs::remove_file(&self.report).unwrap();
        let of = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        (of("= "), of("(INJECTED)"))
    }
}

/// A guest whose engine is asked what it has counted.
struct Counted {
    guest: Guest,
    control: PathBuf,
    _scratch: Scratch,
}

impl Counted {
    fn with(config: Value) -> Self {
        let scratch = Scratch::new("faults");
        let control = scratch.0.join("control");
        let (config, told) = (Some(config), Some(control.clone()));
        let guest = Guest::with(&Setup { config, control: told, ..Setup::default() });
        Self { guest, control, _scratch: scratch }
    }

    /// What it has counted as `name`.
    fn count(&self, name: &str) -> u64 {
        let mut ctl = sluicegate();
        let ctl = ctl.args(["ctl", "metrics"]).env("SLUICEGATE_CONTROL", &self.control);
        let text = process::succeed(ctl);
        let name = format!("sluicegate_{name}_total ");
        let value = text.lines().find_map(|line| line.strip_prefix(&name));
        value.unwrap().parse().unwrap()
    }
}

/// Where the one port of `guest` is published.
fn published(guest: &Guest) -> SocketAddr {
    let mut place = None;
    until("the port is told", || {
        let errors = guest.engine().errors();
        let told = errors.lines().find_map(|line| line.strip_prefix("sluicegate: published "));
        place = told.and_then(|told| told.split(" -> ").next()?.parse().ok());
        place.is_some()
    });
    place.unwrap()
}

/// Whether what is written to `stream` comes back.
fn echoes(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"echo")?;
    let mut heard = [0; 4];
    stream.read_exact(&mut heard)?;
    assert_eq!(&heard, b"echo");
    Ok(())
}

#[test]
fn a_listener_outlives_whatever_accept_says_and_does_not_spin() {
    if !needs::are_met(&["strace"]) {
        return;
    }
    const GUEST_PORT: u16 = 7000;
    let config = json!({
        "ports": [{ "host_port": 0, "guest_port": GUEST_PORT, "protocol": "tcp" }],
        "policy": { "default_egress": "allow", "default_ingress": "allow" },
    });
    let setup = Setup { config: Some(config), verbose: true, ..Setup::default() };
    let guest = Guest::with(&setup);
    let address = guest.address(Family::V4);
    let inside = guest.namespace().inside(|| TcpListener::bind((address, GUEST_PORT)).unwrap());
    servers::echo(inside);
    let place = published(&guest);
    let complaints = || guest.engine().errors().matches("a published port can't accept").count();
    for errno in ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ECONNABORTED", "EINTR", "EPERM"] {
        let before = complaints();
        let faults = Faults::inject(&guest, "accept4", errno, "1..3");
        let mut outside = TcpStream::connect(place).unwrap();
        outside.set_read_timeout(Some(PATIENCE)).unwrap();
        echoes(&mut outside).unwrap_or_else(|error| panic!("{errno}: {error}"));
        let (calls, failed) = faults.end();
        assert_eq!(failed, 3, "{errno}");
        // One took the connection, and one or two found no other.
        assert!((4..=6).contains(&calls), "{errno}: {calls} calls");
        // Who was not there any more is nothing to tell of, and the rest is told once.
        let is_told = !matches!(errno, "ECONNABORTED" | "EINTR");
        assert_eq!(complaints() - before, usize::from(is_told), "{errno}");
    }
}

#[test]
fn a_socket_that_the_host_would_not_open_is_one_flow_refused_and_no_other() {
    if !needs::are_met(&["strace"]) {
        return;
    }
    let counted = Counted::with(open_config(json!({})));
    let guest = &counted.guest;
    let exhausted = || counted.count("host_exhausted");
    let port = servers::echo(servers::listener(Family::V4));
    let to = (guest.gateway(Family::V4), port);
    let mut before = guest.connect(Family::V4, port);
    for (name, errno) in [
        ("socket", "EMFILE"),
        ("socket", "ENFILE"),
        ("socket", "ENOBUFS"),
        ("socket", "ENOMEM"),
        ("connect", "ENOBUFS"),
        ("connect", "ENOMEM"),
        ("connect", "EAGAIN"),
    ] {
        let before_it = exhausted();
        let faults = Faults::inject(guest, name, errno, "1");
        let refused = guest.try_connect(to).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{name} {errno}");
        assert_eq!(exhausted(), before_it + 1, "{name} {errno}");
        echoes(&mut before).unwrap();
        echoes(&mut guest.connect(Family::V4, port)).unwrap();
        let (_, failed) = faults.end();
        assert_eq!(failed, 1, "{name} {errno}");
    }
}

#[test]
fn a_datagram_for_which_there_is_no_socket_is_unreachable_and_the_next_goes() {
    if !needs::are_met(&["strace"]) {
        return;
    }
    let guest = Guest::online();
    let port = servers::echo_datagrams(servers::datagrams(Family::V4));
    let to = (guest.gateway(Family::V4), port);
    for errno in ["EMFILE", "ENOBUFS", "ENOMEM"] {
        let faults = Faults::inject(&guest, "socket", errno, "1");
        let socket = guest.datagrams(to);
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send(b"lost").unwrap();
        let error = socket.recv(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::HostUnreachable, "{errno}");
        socket.send(b"goes").unwrap();
        let mut heard = [0; 8];
        let len = socket.recv(&mut heard).unwrap();
        assert_eq!(&heard[..len], b"goes");
        let (_, failed) = faults.end();
        assert_eq!(failed, 1, "{errno}");
    }
}

#[test]
fn a_datagram_that_the_host_has_no_room_for_is_lost_alone_and_counted() {
    if !needs::are_met(&["strace"]) {
        return;
    }
    let counted = Counted::with(open_config(json!({})));
    let guest = &counted.guest;
    let port = servers::echo_datagrams(servers::datagrams(Family::V4));
    let socket = guest.datagrams((guest.gateway(Family::V4), port));
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    for (number, errno) in ["EAGAIN", "ENOBUFS"].into_iter().enumerate() {
        let faults = Faults::inject(guest, "sendto", errno, "1");
        socket.send(b"lost").unwrap();
        // What is longer is in no row with it.
        socket.send(b"goes on").unwrap();
        let mut heard = [0; 8];
        let len = socket.recv(&mut heard).unwrap();
        assert_eq!(&heard[..len], b"goes on", "{errno}: nothing is said of the other");
        let (_, failed) = faults.end();
        assert_eq!(failed, 1, "{errno}");
        assert_eq!(counted.count("socket_full"), number as u64 + 1, "{errno}");
    }
}

#[test]
fn a_published_port_that_can_not_be_read_rests_and_goes_on() {
    if !needs::are_met(&["strace"]) {
        return;
    }
    const GUEST_PORT: u16 = 7000;
    const FAILURES: u32 = 10;
    let counted = Counted::with(json!({
        "ports": [{ "host_port": 0, "guest_port": GUEST_PORT, "protocol": "udp" }],
        "policy": { "default_egress": "allow", "default_ingress": "allow" },
    }));
    let guest = &counted.guest;
    let inside = (guest.address(Family::V4), GUEST_PORT);
    let inside = guest.namespace().inside(|| UdpSocket::bind(inside).unwrap());
    servers::echo_datagrams(inside);
    let outside = servers::datagrams(Family::V4);
    outside.connect(published(guest)).unwrap();
    let faults = Faults::inject(guest, "recvmsg", "ENOMEM", &format!("1..{FAILURES}"));
    let (_, took) = timed(|| {
        outside.send(b"ask").unwrap();
        outside.recv(&mut [0; 8]).unwrap();
    });
    // Each time it rests for 100 ms; without that, all would have been in one turn.
    assert!(took >= Duration::from_millis(100) * (FAILURES - 1), "{took:?}");
    assert_eq!(counted.count("host_exhausted"), u64::from(FAILURES));
    assert_eq!(faults.end().1, FAILURES as usize);
}

#[test]
fn a_guest_whose_engine_has_died_has_no_other_way_out() {
    if !needs::are_met(&["ip"]) {
        return;
    }
    let guest = Guest::online();
    let mut ways = vec![];
    for family in Family::BOTH {
        let outside = servers::datagrams(family);
        let port = outside.local_addr().unwrap().port();
        let socket = guest.datagrams((guest.gateway(family), port));
        let listener = servers::listener(family);
        let stream = guest.connect(family, listener.local_addr().unwrap().port());
        socket.send(b"before").unwrap();
        outside.recv_from(&mut [0; 16]).unwrap();
        ways.push((family, outside, socket, listener, stream));
    }
    let (engine, namespace) = guest.into_parts();
    engine.signal(Signal::KILL);
    engine.finish();
    // Its card goes with the process, as that has the only descriptor of it.
    let links = process::succeed(namespace.command("ip").args(["-o", "link"]));
    assert!(links.contains(": lo:") && links.lines().count() == 1, "{links}");
    for (family, outside, socket, listener, mut stream) in ways {
        let unreachable = |error: std::io::Error| {
            let kind = error.kind();
            assert!(
                matches!(kind, ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable),
                "{family:?}: {error}"
            );
        };
        let to = listener.local_addr().unwrap().port();
        let gateway = socket.peer_addr().unwrap().ip();
        let again = namespace.inside(|| TcpStream::connect((gateway, to)));
        unreachable(again.unwrap_err());
        socket.send(b"after").map_or_else(unreachable, |_| panic!("{family:?} goes on"));
        // What a kernel keeps for a connection that is open goes nowhere.
        let _ = stream.write_all(b"after");
        outside.set_nonblocking(true).unwrap();
        let heard = outside.recv_from(&mut [0; 16]);
        assert_eq!(heard.unwrap_err().kind(), ErrorKind::WouldBlock, "{family:?}");
        // The connection that there was ended with the engine, and has brought nothing since.
        let mut heard = vec![];
        let ended = servers::accept(&listener).read_to_end(&mut heard);
        assert!(heard.is_empty(), "{family:?}: {ended:?} after {heard:?}");
    }
}
