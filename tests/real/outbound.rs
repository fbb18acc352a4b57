//! From which address and interface of this host connections go on.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use serde_json::{Value, json};

use crate::guest::{Guest, Setup, open_config, sluicegate};
use crate::names::{self, NameServer, SERVER};
use crate::needs;
use crate::policy::Outside;
use crate::process::{self, Process};
use crate::servers::{self, Family};
use crate::tls::{self, Scratch};
use crate::waiting::{PATIENCE, until};

/// The addresses of the host that connections are to go on from.
const SAID: [&str; 2] = ["11.0.0.3", "2600:0:0:11::3"];
const NEIGHBOURS: [&str; 2] = ["11.0.0.2", "2600:0:0:11::2"];

/// A host with a second address of each family, and a neighbour that can answer nobody but those:
/// what left from the host's first address would have no answer.
fn outside() -> Outside {
    let outside = Outside::new();
    for (address, bits) in SAID.into_iter().zip([24, 64]) {
        outside.host.ip(&format!("address add {address}/{bits} dev link0 nodad"));
    }
    outside.neighbour.ip("route add blackhole 11.0.0.1/32");
    outside.neighbour.ip("-6 route add blackhole 2600:0:0:11::1/128");
    outside
}

fn said() -> Value {
    json!({ "ipv4_address": SAID[0], "ipv6_address": SAID[1] })
}

/// A server of the neighbour at `address` that says who calls, over TCP and, at the same port, to
/// whoever sends a datagram.
fn teller(outside: &Outside, address: &str) -> SocketAddr {
    let address: IpAddr = address.parse().unwrap();
    let (listener, socket) = outside.neighbour.inside(|| {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let socket = UdpSocket::bind(listener.local_addr().unwrap()).unwrap();
        (listener, socket)
    });
    let end = listener.local_addr().unwrap();
    servers::serve(listener, |mut stream| {
        let peer = stream.peer_addr().unwrap().ip().to_string();
        let _ = stream.write_all(peer.as_bytes());
    });
    std::thread::spawn(move || {
        while let Ok((_, peer)) = socket.recv_from(&mut [0; 16]) {
            let _ = socket.send_to(peer.ip().to_string().as_bytes(), peer);
        }
    });
    end
}

/// Who calls `end` for `guest`, over TCP.
fn caller(guest: &Guest, end: SocketAddr) -> std::io::Result<String> {
    let mut said = String::new();
    guest.try_connect(end)?.read_to_string(&mut said)?;
    Ok(said)
}

#[test]
fn every_kind_of_connection_goes_on_from_the_addresses_that_were_said() {
    if !needs::are_met(&["ping", "dig", "knotd", "curl", "openssl"]) {
        return;
    }
    let outside = outside();
    outside.host.set("ipv4/ping_group_range", "0 2147483647");
    let _names = NameServer::start(&outside.neighbour);
    let guest = outside.guest(Some(open_config(json!({
        "outbound": said(),
        "dns": { "nameservers": [SERVER] },
        "tls": { "enabled": true, "verify_upstream": false }
    }))));
    for (neighbour, said) in NEIGHBOURS.into_iter().zip(SAID) {
        let end = teller(&outside, neighbour);
        assert_eq!(caller(&guest, end).unwrap(), said);
        let socket = guest.datagrams(end);
        socket.send(b"who?").unwrap();
        let mut heard = [0; 64];
        let len = socket.recv(&mut heard).unwrap();
        assert_eq!(std::str::from_utf8(&heard[..len]).unwrap(), said, "a datagram");
        let mut ping = guest.command("ping");
        process::succeed(ping.args(["-c", "1", "-W", "5", neighbour]));
    }
    for how in ["+notcp", "+tcp"] {
        let answer = names::ask(&guest, &format!("www.example.test A {how} +short"));
        assert_eq!(answer.trim(), SERVER, "{how}");
    }
    // One that is cut is asked again over TCP.
    let answer = names::ask(&guest, "longest.example.test TXT +tcp +short");
    assert_eq!(answer.lines().count(), 300);
    let scratch = Scratch::new("outbound");
    let (_, chain, key) = tls::files(tls::Flaw::None);
    let [cert_file, key_file] = ["cert", "key"].map(|name| scratch.0.join(name));
    std::fs::write(&cert_file, chain).unwrap();
    std::fs::write(&key_file, key).unwrap();
    let mut server = outside.neighbour.command("openssl");
    server.args(["s_server", "-accept", "11.0.0.2:443", "-www", "-quiet"]);
    let _server = Process::start(server.arg("-cert").arg(cert_file).arg("-key").arg(key_file));
    let port: SocketAddr = (NEIGHBOURS[0].parse::<IpAddr>().unwrap(), 443).into();
    until("the server listens", || {
        outside.neighbour.inside(|| std::net::TcpStream::connect_timeout(&port, PATIENCE).is_ok())
    });
    let mut curl = guest.command("curl");
    curl.args(["-sSk", "-o", "/dev/null", "-m", "20", "-w", "%{http_code}"]);
    assert_eq!(process::succeed(curl.arg("https://11.0.0.2/")), "200");
    // This host's own loopback is where it was.
    for family in Family::BOTH {
        let port = outside.host.inside(|| servers::echo(servers::listener(family)));
        let mut stream = guest.connect(family, port);
        stream.write_all(b"ask").unwrap();
        stream.read_exact(&mut [0; 3]).unwrap();
    }
}

#[test]
fn a_proxy_is_asked_from_the_address_that_was_said() {
    if !needs::are_met(&["microsocks"]) {
        return;
    }
    let outside = outside();
    let mut proxy = outside.neighbour.command("microsocks");
    let _proxy = Process::start(proxy.args(["-i", NEIGHBOURS[0], "-p", "1080"]));
    let at: SocketAddr = format!("{}:1080", NEIGHBOURS[0]).parse().unwrap();
    until("the proxy listens", || {
        outside.neighbour.inside(|| std::net::TcpStream::connect_timeout(&at, PATIENCE).is_ok())
    });
    let guest = outside.guest(Some(open_config(json!({
        "outbound": said(),
        "outbound_proxy": { "protocol": "socks5", "address": at }
    }))));
    // Who calls the server is the proxy, which could not have answered anybody else.
    let end = teller(&outside, NEIGHBOURS[0]);
    assert_eq!(caller(&guest, end).unwrap(), NEIGHBOURS[0]);
}

#[test]
fn nothing_leaves_from_elsewhere_when_the_address_is_gone() {
    if !needs::are_met(&[]) {
        return;
    }
    // A neighbour that would answer the host's first address, too.
    let outside = Outside::new();
    outside.host.ip("address add 11.0.0.3/24 dev link0");
    let outbound = json!({ "outbound": { "ipv4_address": SAID[0] } });
    let guest = outside.guest(Some(open_config(outbound)));
    let [end, v6] = NEIGHBOURS.map(|neighbour| teller(&outside, neighbour));
    assert_eq!(caller(&guest, end).unwrap(), SAID[0]);
    outside.host.ip("address del 11.0.0.3/24 dev link0");
    let error = caller(&guest, end).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{error}");
    let socket = guest.datagrams(end);
    socket.send(b"who?").unwrap();
    let error = socket.recv(&mut [0; 64]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{error}");
    // Of the other family nothing was said.
    assert_eq!(caller(&guest, v6).unwrap(), "2600:0:0:11::1");
    outside.host.ip("address add 11.0.0.3/24 dev link0");
    assert_eq!(caller(&guest, end).unwrap(), SAID[0]);
}

#[test]
fn nothing_leaves_by_another_interface_than_was_said() {
    if !needs::are_met(&[]) {
        return;
    }
    let outside = Outside::new();
    // One that is not up: whatever is to leave by it fails at once.
    outside.host.ip("link add link1 type veth peer name link2");
    let ends = NEIGHBOURS.map(|neighbour| teller(&outside, neighbour));
    let by = |device: &str| {
        outside.guest(Some(open_config(json!({ "outbound": { "device": device } }))))
    };
    let guest = by("link0");
    for (end, host) in ends.into_iter().zip(["11.0.0.1", "2600:0:0:11::1"]) {
        assert_eq!(caller(&guest, end).unwrap(), host);
    }
    let other = by("link1");
    for end in ends {
        let error = caller(&other, end).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{end}: {error}");
    }
    // This host's own loopback does not leave, and nothing leaves by one that is gone.
    let port = outside.host.inside(|| servers::echo(servers::listener(Family::V4)));
    other.connect(Family::V4, port);
    outside.host.ip("link del link1");
    let error = caller(&other, ends[0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{error}");
}

#[test]
fn where_a_tenant_goes_on_from_is_said_by_who_runs_it() {
    if !needs::are_met(&[]) {
        return;
    }
    let outside = outside();
    let config = Some(json!({ "outbound": { "ipv4_address": "11.0.0.1" } }));
    let words = ["--profile", "multi-tenant", "--outbound", SAID[0], "--outbound", SAID[1]];
    let setup = Setup { config, host: Some(&outside.host), words: &words, ..Setup::default() };
    let guest = Guest::with(&setup);
    for (neighbour, said) in NEIGHBOURS.into_iter().zip(SAID) {
        assert_eq!(caller(&guest, teller(&outside, neighbour)).unwrap(), said);
    }
}

#[test]
fn what_this_host_has_not_fails_the_start_and_is_named() {
    if !needs::are_met(&["true"]) {
        return;
    }
    let outside = outside();
    let run = |words: &[&str]| {
        let mut command = outside.host.command(sluicegate().get_program().to_str().unwrap());
        process::run(command.args(["run", "--egress", "allow"]).args(words).args(["--", "true"]))
    };
    for (word, named) in [
        ("11.0.0.9", "outbound.ipv4_address: 11.0.0.9 can't be used (this host has no such"),
        ("2600::9", "outbound.ipv6_address: 2600::9 can't be used (this host has no such"),
        ("link9", "outbound.device: link9 can't be used: No such device"),
        ("127.0.0.1", "outbound.ipv4_address: 127.0.0.1 is not an address of this host that"),
    ] {
        let failed = run(&["--outbound", word]);
        assert_eq!(failed.code, 125, "{word}: {failed:?}");
        assert!(failed.errors.contains(named), "{word}: {failed:?}");
    }
    let started = run(&["--outbound", SAID[0], "--outbound", SAID[1], "--outbound", "link0"]);
    assert_eq!(started.code, 0, "{started:?}");
}
