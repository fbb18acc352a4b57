//! Published ports: real clients outside reach servers in the guest.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;

use serde_json::{Value, json};
use sluicegate_host::NetworkConfig;
use socket2::SockRef;

use crate::guest::{Guest, Setup, free_slot, sluicegate};
use crate::namespace::Namespace;
use crate::needs;
use crate::process;
use crate::servers::{self, Family};
use crate::waiting::{PATIENCE, until};

const GUEST_PORT: u16 = 7000;

/// A guest whose port 7000 is published as each of `ports`.
fn guest(ports: &[Value], descriptors: Option<u32>) -> Guest {
    limited_guest(ports, descriptors, json!({}))
}

/// The same with the limits of `config`.
fn limited_guest(ports: &[Value], descriptors: Option<u32>, mut config: Value) -> Guest {
    config["policy"] = json!({ "default_egress": "allow", "default_ingress": "allow" });
    config["ports"] = json!(ports);
    let guest = Guest::with(&Setup { config: Some(config), descriptors, ..Setup::default() });
    let count = |port: &Value| port["count"].as_u64().unwrap_or(1);
    let all = ports.iter().map(count).sum::<u64>();
    // It is told before the guest is ready, but on the other output.
    until("the ports are told", || published(&guest).len() as u64 == all);
    guest
}

fn any(protocol: &str, bind: &str) -> Value {
    json!({ "host_port": 0, "guest_port": GUEST_PORT, "protocol": protocol, "host_bind": bind })
}

/// Where the ports of `guest` are published, in their order.
fn published(guest: &Guest) -> Vec<SocketAddr> {
    let told = |line: &str| Some(line.strip_prefix("sluicegate: published ")?.to_owned());
    let errors = guest.engine().errors();
    let lines = errors.lines().filter_map(told);
    lines.map(|line| line.split(" -> ").next().unwrap().parse().unwrap()).collect()
}

/// A listener in `guest`, at all its addresses.
fn listener(guest: &Guest, family: Family) -> TcpListener {
    let address = guest.address(family);
    let listener = guest.namespace().inside(|| TcpListener::bind((address, GUEST_PORT)).unwrap());
    // Of an accept, too.
    SockRef::from(&listener).set_read_timeout(Some(PATIENCE)).unwrap();
    listener
}

#[test]
fn curl_outside_fetches_from_a_server_in_the_guest_over_both_families() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let guest = guest(&[any("tcp", "127.0.0.1"), any("tcp", "::1")], None);
    let places = published(&guest);
    assert_eq!(places.len(), 2, "{}", guest.engine().errors());
    for (place, family) in places.into_iter().zip([Family::V4, Family::V6]) {
        servers::http(listener(&guest, family));
        for bytes in [1000, 20_000_000] {
            let mut curl = Command::new("curl");
            curl.args(["-sSf", "-m", "60", "-o", "/dev/null", "-w", "%{size_download}"]);
            let said = process::run(curl.arg(format!("http://{place}/{bytes}")));
            assert_eq!((said.code, said.output), (0, bytes.to_string()), "{}", said.errors);
        }
    }
}

#[test]
fn the_guest_sees_the_gateway_and_both_ends_finish_by_themselves() {
    if !needs::are_met(&[]) {
        return;
    }
    let guest = guest(&[any("tcp", "127.0.0.1")], None);
    let inside = listener(&guest, Family::V4);
    let mut outside = TcpStream::connect(published(&guest)[0]).unwrap();
    outside.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut stream, from) = inside.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(from.ip(), guest.gateway(Family::V4));
    outside.write_all(b"to the guest").unwrap();
    outside.shutdown(std::net::Shutdown::Write).unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "to the guest");
    // Half of it is still open.
    stream.write_all(b"to the outside").unwrap();
    drop(stream);
    heard.clear();
    outside.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "to the outside");
}

#[test]
fn a_port_where_the_guest_does_not_listen_resets_who_came() {
    if !needs::are_met(&[]) {
        return;
    }
    let guest = guest(&[any("tcp", "127.0.0.1")], None);
    let mut outside = TcpStream::connect(published(&guest)[0]).unwrap();
    outside.set_read_timeout(Some(PATIENCE)).unwrap();
    let error = outside.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    // As soon as it listens, all is well.
    let inside = listener(&guest, Family::V4);
    let _outside = TcpStream::connect(published(&guest)[0]).unwrap();
    inside.accept().unwrap();
}

#[test]
fn as_many_wait_to_be_accepted_as_the_configuration_says() {
    if !needs::are_met(&["ss"]) {
        return;
    }
    let limits = json!({ "tcp_accept_queue_size": 7 });
    let guest = limited_guest(&[any("tcp", "127.0.0.1"), any("tcp", "::1")], None, limits);
    for port in published(&guest) {
        let mut ss = Command::new("ss");
        let shown = process::succeed(ss.args(["-Hltn", "sport", &format!("= :{}", port.port())]));
        let queue = shown.split_whitespace().nth(2);
        assert_eq!(queue, Some("7"), "{port}: {shown}");
    }
}

/// Lets the firewall of `guest` refuse all who come to its port by ICMP, or nobody.
fn reject(guest: &Guest, rejects: bool) {
    let rules = "flush ruleset
        table inet door { chain input { type filter hook input priority 0;
        meta l4proto { tcp, udp } th dport 7000 reject with icmpx type port-unreachable;
        }; }";
    let rules = if rejects { rules } else { "flush ruleset" };
    process::succeed(guest.command("nft").arg(rules));
}

#[test]
fn whom_the_guests_firewall_rejects_is_reset_before_the_call_is_given_up() {
    if !needs::are_met(&["nft"]) {
        return;
    }
    let ports = [any("tcp", "127.0.0.1"), any("tcp", "::1"), any("udp", "127.0.0.1")];
    let allow = json!({ "default_egress": "allow", "default_ingress": "allow" });
    let config = json!({ "policy": allow, "ports": ports });
    let guest = Guest::embedded_with(NetworkConfig::from_json(&config.to_string()).unwrap());
    let places = guest.network(|network| network.published_ports());
    let place = |index: usize| places[index].host;
    reject(&guest, true);
    let heeded = || guest.counter("icmp_errors_heeded");
    for index in 0..2 {
        let mut outside = TcpStream::connect(place(index)).unwrap();
        outside.set_read_timeout(Some(PATIENCE)).unwrap();
        let error = outside.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        // A guest that says nothing resets nobody before ten seconds: this one was heard.
        until("the guest's word is heard", || heeded() == index as u64 + 1);
    }
    let peer = servers::datagrams(Family::V4);
    peer.connect(place(2)).unwrap();
    peer.send(b"ask").unwrap();
    until("its word about a datagram too", || heeded() == 3);
    // As soon as it lets them in, all is well.
    reject(&guest, false);
    for (index, family) in [Family::V4, Family::V6].into_iter().enumerate() {
        let inside = listener(&guest, family);
        let _outside = TcpStream::connect(place(index)).unwrap();
        inside.accept().unwrap();
    }
    let address = guest.address(Family::V4);
    servers::echo_datagrams(
        guest.namespace().inside(|| UdpSocket::bind((address, GUEST_PORT)).unwrap()),
    );
    peer.send(b"ask again").unwrap();
    assert_eq!(peer.recv(&mut [0; 16]).unwrap(), 9);
}

#[test]
fn datagrams_come_and_each_peer_has_its_own_answers() {
    if !needs::are_met(&[]) {
        return;
    }
    let guest = guest(&[any("udp", "127.0.0.1")], None);
    let address = guest.address(Family::V4);
    let inside = guest.namespace().inside(|| UdpSocket::bind((address, GUEST_PORT)).unwrap());
    servers::echo_datagrams(inside);
    let place = published(&guest)[0];
    let peers: Vec<UdpSocket> = (0..20_u8)
        .map(|_| {
            let peer = servers::datagrams(Family::V4);
            peer.connect(place).unwrap();
            peer
        })
        .collect();
    let hear = |peer: &UdpSocket, number: usize, len: usize| {
        let mut heard = [0; 10_000];
        let received = peer.recv(&mut heard).unwrap_or_else(|e| panic!("{len} {number} {e}"));
        assert!(heard[..received] == vec![u8::try_from(number).unwrap(); len], "{number}");
    };
    // One by one: the guest's own buffer does not hold all of them.
    for (number, peer) in peers.iter().enumerate() {
        peer.send(&vec![u8::try_from(number).unwrap(); 9000]).unwrap();
        hear(peer, number, 9000);
    }
    for len in [1_usize, 1200] {
        for (number, peer) in peers.iter().enumerate() {
            peer.send(&vec![u8::try_from(number).unwrap(); len]).unwrap();
        }
        for (number, peer) in peers.iter().enumerate() {
            hear(peer, number, len);
        }
    }
}

#[test]
fn a_crowd_of_peers_and_the_guests_own_datagrams_do_not_push_each_other_out() {
    if !needs::are_met(&[]) {
        return;
    }
    let limits = json!({ "max_udp_connections": 2, "max_inbound_udp_connections": 3 });
    let guest = limited_guest(&[any("udp", "127.0.0.1")], None, limits);
    let address = guest.address(Family::V4);
    let inside = guest.namespace().inside(|| UdpSocket::bind((address, GUEST_PORT))).unwrap();
    // Says at which port of the gateway it sees who asks: another for each flow.
    std::thread::spawn(move || {
        while let Ok((_, from)) = inside.recv_from(&mut [0; 8]) {
            let _ = inside.send_to(&from.port().to_be_bytes(), from);
        }
    });
    let place = published(&guest)[0];
    let server = servers::datagrams(Family::V4);
    let outside = (guest.gateway(Family::V4), server.local_addr().unwrap().port());
    let hear = || server.recv_from(&mut [0; 8]).unwrap().1;
    let own = [(); 2].map(|()| guest.datagrams(outside));
    let places = own.each_ref().map(|socket| {
        socket.send(b"ask").unwrap();
        hear()
    });
    let ask = |peer: &UdpSocket| {
        let mut port = [0; 2];
        peer.send(b"ask").unwrap();
        assert_eq!(peer.recv(&mut port).unwrap(), 2);
        port
    };
    let come = |_| {
        let peer = servers::datagrams(Family::V4);
        peer.connect(place).unwrap();
        (ask(&peer), peer)
    };
    let peers: Vec<_> = (0..50).map(come).collect();
    for (socket, place) in own.iter().zip(places) {
        server.send_to(b"answer", place).unwrap();
        assert_eq!(socket.recv(&mut [0; 8]).unwrap(), 6, "each has the socket that it had");
    }
    for _ in 0..50 {
        guest.datagrams(outside).send(b"ask").unwrap();
        hear();
    }
    for (port, peer) in &peers[47..] {
        assert_eq!(ask(peer), *port, "the last that came are who they were");
    }
    assert_ne!(ask(&peers[0].1), peers[0].0, "the first comes anew");
}

#[test]
fn a_listener_outlives_a_lack_of_descriptors() {
    if !needs::are_met(&["prlimit"]) {
        return;
    }
    let guest = guest(&[any("tcp", "127.0.0.1")], Some(48));
    servers::echo(listener(&guest, Family::V4));
    let place = published(&guest)[0];
    let exchange = |mut stream: &TcpStream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut heard = [0; 5];
        stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut heard)).is_ok()
    };
    // The kernel takes them all; the engine has no descriptors for the last.
    let mut open: Vec<_> = (0..80).map(|_| TcpStream::connect(place).unwrap()).collect();
    assert!(exchange(&open[0]));
    until("the listener rests", || guest.engine().errors().contains("can't accept"));
    assert!(exchange(&open[0]), "others go on");
    let last = open.pop().unwrap();
    drop(open);
    assert!(exchange(&last), "it was only late");
}

#[test]
fn a_port_that_is_in_use_fails_the_start_and_is_named() {
    if !needs::are_met(&[]) {
        return;
    }
    let namespace = Namespace::new();
    let taken = servers::listener(Family::V4);
    let port = taken.local_addr().unwrap().port();
    let mut attach = sluicegate();
    attach.args(["attach", "--netns", namespace.name(), "--slot", &free_slot().to_string()]);
    let said = process::run(attach.args(["--publish", &format!("{port}:80")]));
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.errors.contains(&format!("port 127.0.0.1:{port} can't be published")), "{said:?}");
    let said = process::run(sluicegate().args(["run", "-p", "80", "--", "true"]));
    assert!(said.errors.contains("8080:80"), "{said:?}");
}

#[test]
fn ingress_rules_are_about_the_peer_itself() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let rule = json!({ "direction": "ingress", "action": "allow", "protocols": ["tcp"],
        "destination": { "cidr": "127.0.0.2/32" } });
    let config = json!({ "ports": [any("tcp", "127.0.0.1")],
        "policy": { "default_egress": "allow", "default_ingress": "deny", "rules": [rule] } });
    let guest = Guest::with(&Setup { config: Some(config), ..Setup::default() });
    servers::http(listener(&guest, Family::V4));
    let place = published(&guest)[0];
    // Reset while it connects, or as soon as it has.
    for (from, codes) in [("127.0.0.2", &[0][..]), ("127.0.0.1", &[7, 56])] {
        let from: IpAddr = from.parse().unwrap();
        let mut curl = Command::new("curl");
        curl.args(["-sSf", "-m", "20", "-o", "/dev/null", "--interface", &from.to_string()]);
        let said = process::run(curl.arg(format!("http://{place}/10")));
        assert!(codes.contains(&said.code), "{said:?}");
    }
}

#[test]
fn a_range_is_published_and_a_connection_may_begin_with_who_came() {
    if !needs::are_met(&[]) {
        return;
    }
    let range = json!({ "host_port": 0, "guest_port": GUEST_PORT - 1, "count": 2,
        "host_bind": "0.0.0.0", "proxy_protocol": true });
    let guest = guest(&[range, any("tcp", "::1")], None);
    let places = published(&guest);
    assert_eq!(places.len(), 3, "{}", guest.engine().errors());
    let inside = listener(&guest, Family::V4);
    let port = places[1].port();
    let mut outside = TcpStream::connect(("127.0.0.1", port)).unwrap();
    outside.write_all(b"and more").unwrap();
    let (mut stream, _) = inside.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut heard = [0; 36];
    stream.read_exact(&mut heard).unwrap();
    let from = outside.local_addr().unwrap().port().to_be_bytes();
    let head = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01";
    assert_eq!(heard, [&head[..], &from, &port.to_be_bytes(), b"and more"].concat()[..]);
    // The other port does not say it.
    let plain = listener(&guest, Family::V6);
    let mut outside = TcpStream::connect(places[2]).unwrap();
    outside.write_all(b"only this").unwrap();
    drop(outside);
    let mut heard = Vec::new();
    plain.accept().unwrap().0.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"only this");
}

#[test]
fn an_answer_leaves_from_the_address_that_was_called() {
    if !needs::are_met(&[]) {
        return;
    }
    let guest = guest(&[any("udp", "0.0.0.0"), any("udp", "::")], None);
    let places = published(&guest);
    for family in [Family::V4, Family::V6] {
        let address = guest.address(family);
        let inside = guest.namespace().inside(|| UdpSocket::bind((address, GUEST_PORT)).unwrap());
        servers::echo_datagrams(inside);
    }
    // Each is an address of this host's, and the route to the peer prefers another.
    let called = [("127.0.0.2", 0), ("127.0.0.3", 0), ("::1", 1)];
    let peers = [servers::datagrams(Family::V4), servers::datagrams(Family::V6)];
    for (address, index) in called {
        let to = SocketAddr::new(address.parse().unwrap(), places[index].port());
        let peer = &peers[index];
        peer.send_to(b"ask", to).unwrap();
        let (len, from) = peer.recv_from(&mut [0; 16]).unwrap();
        assert_eq!((len, from), (3, to));
    }
}
