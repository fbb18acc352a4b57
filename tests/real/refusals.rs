//! What a guest is told when the outside would not have it: the error that a program on the host
//! itself would see.

use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use rustix::io::Errno;
use serde_json::json;

use crate::guest::{Guest, Setup, open_config};
use crate::namespace::Namespace;
use crate::needs;
use crate::servers::{self, Family, RefusingPort};
use crate::waiting::{AT_ONCE, PATIENCE, timed};

/// The error of a connection to `to`, as one on this thread's network sees it.
fn error(to: SocketAddr) -> Errno {
    let error = TcpStream::connect_timeout(&to, PATIENCE).unwrap_err();
    Errno::from_io_error(&error).unwrap_or_else(|| panic!("{to}: {error}"))
}

/// A namespace that has an engine, in place of this host: routes of every kind.
fn host() -> Namespace {
    let host = Namespace::new();
    // One link to nobody, so that there are routes at all. Nobody answers ARP or NDP on it.
    host.ip("link add link0 type veth peer name link1");
    host.ip("link set link0 up");
    host.ip("link set link1 up");
    host.ip("address add 192.0.2.1/24 dev link0");
    host.ip("address add 2001:db8:1::1/64 dev link0 nodad");
    for kind in ["unreachable", "prohibit"] {
        let number = if kind == "prohibit" { 2 } else { 1 };
        host.ip(&format!("route add {kind} 198.51.100.{number}"));
        host.ip(&format!("route add {kind} 2001:db8:2::{number}"));
    }
    host
}

#[test]
fn a_port_where_nobody_listens_refuses_at_once() {
    if !needs::are_met(&[]) {
        return;
    }
    let guest = Guest::online();
    let refusing = RefusingPort::new();
    for family in Family::BOTH {
        let to = (guest.gateway(family), refusing.port());
        let (result, took) = timed(|| guest.try_connect(to));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused, "{family:?}");
        assert!(took < AT_ONCE, "{took:?}");
    }
}

#[test]
fn curl_and_nc_say_that_a_connection_is_refused() {
    if !needs::are_met(&["curl", "nc"]) {
        return;
    }
    let guest = Guest::online();
    let refusing = RefusingPort::new();
    let gateway = guest.gateway(Family::V4).to_string();
    let mut curl = guest.command("curl");
    let finished =
        crate::process::run(curl.args(["-sS", &format!("{gateway}:{}", refusing.port())]));
    assert_eq!(finished.code, 7, "{finished:?}");
    let mut nc = guest.command("nc");
    let gateway = guest.gateway(Family::V6).to_string();
    let finished = crate::process::run(nc.args(["-v", &gateway, &refusing.port().to_string()]));
    assert!(finished.errors.contains("Connection refused"), "{finished:?}");
}

#[test]
fn a_server_on_the_other_family_s_loopback_is_found() {
    if !needs::are_met(&[]) {
        return;
    }
    let guest = Guest::online();
    for family in Family::BOTH {
        let listener = servers::listener(family.other());
        let port = listener.local_addr().unwrap().port();
        let stream = guest.connect(family, port);
        let served = servers::accept(&listener);
        drop(stream);
        assert_eq!(std::io::copy(&mut &served, &mut std::io::sink()).unwrap(), 0);
    }
}

#[test]
fn a_destination_without_a_route_gives_the_error_that_the_host_itself_would_see() {
    if !needs::are_met(&[]) {
        return;
    }
    let host = host();
    let guest = Guest::with(&Setup { host: Some(&host), ..Setup::default() });
    for (to, expected) in [
        ("203.0.113.1:80", Errno::NETUNREACH),
        ("198.51.100.1:80", Errno::HOSTUNREACH),
        ("[2001:db8:3::1]:80", Errno::NETUNREACH),
        ("[2001:db8:2::1]:80", Errno::HOSTUNREACH),
        ("[2001:db8:2::2]:80", Errno::ACCESS),
    ] {
        let to: SocketAddr = to.parse().unwrap();
        assert_eq!(host.inside(|| error(to)), expected, "natively, {to}");
        let (seen, took) = timed(|| guest.namespace().inside(|| error(to)));
        assert_eq!(seen, expected, "{to}");
        assert!(took < AT_ONCE, "{to}: {took:?}");
    }
    // No ICMP message becomes EACCES over IPv4: Linux makes this of "administratively prohibited".
    let to: SocketAddr = "198.51.100.2:80".parse().unwrap();
    assert_eq!(host.inside(|| error(to)), Errno::ACCESS);
    assert_eq!(guest.namespace().inside(|| error(to)), Errno::HOSTUNREACH);
}

#[test]
fn a_neighbour_of_the_host_that_is_not_there_is_an_unreachable_host() {
    if !needs::are_met(&[]) {
        return;
    }
    let host = host();
    let guest = Guest::with(&Setup { host: Some(&host), ..Setup::default() });
    // The kernel gives up on ARP and NDP after three seconds, both at a time here.
    std::thread::scope(|scope| {
        for to in ["192.0.2.9:80", "[2001:db8:1::9]:80"] {
            let guest = &guest;
            scope.spawn(move || {
                let to: SocketAddr = to.parse().unwrap();
                assert_eq!(guest.namespace().inside(|| error(to)), Errno::HOSTUNREACH, "{to}");
            });
        }
    });
}

#[test]
fn a_destination_that_is_silent_is_an_unreachable_host_after_30_seconds() {
    if !needs::are_met(&[]) {
        return;
    }
    let host = host();
    // A neighbour that the kernel believes in, so that it sends and nobody answers.
    host.ip("neigh add 192.0.2.8 lladdr 02:00:00:00:00:08 dev link0 nud permanent");
    host.ip("neigh add 2001:db8:1::8 lladdr 02:00:00:00:00:08 dev link0 nud permanent");
    let guest = Guest::with(&Setup { host: Some(&host), ..Setup::default() });
    std::thread::scope(|scope| {
        for to in ["192.0.2.8:80", "[2001:db8:1::8]:80"] {
            let guest = &guest;
            scope.spawn(move || {
                let to: SocketAddr = to.parse().unwrap();
                let connect = || TcpStream::connect_timeout(&to, 2 * PATIENCE);
                let (result, took) = timed(|| guest.namespace().inside(connect));
                let error = Errno::from_io_error(&result.unwrap_err());
                assert_eq!(error, Some(Errno::HOSTUNREACH), "{to}");
                assert!((30..35).contains(&took.as_secs()), "{to}: {took:?}");
            });
        }
    });
}

#[test]
fn a_listener_outside_of_the_loopback_is_reached_by_its_address() {
    if !needs::are_met(&[]) {
        return;
    }
    let host = host();
    let guest = Guest::with(&Setup { host: Some(&host), ..Setup::default() });
    for address in ["192.0.2.1:0", "[2001:db8:1::1]:0"] {
        let listener = host.inside(|| TcpListener::bind(address).unwrap());
        let to = listener.local_addr().unwrap();
        let port = servers::echo(listener);
        assert_eq!(port, to.port());
        guest.try_connect(to).unwrap();
        let echo = servers::echo_datagrams(host.inside(|| UdpSocket::bind(to).unwrap()));
        let socket = guest.datagrams((to.ip(), echo));
        socket.send(b"hello").unwrap();
        let mut bytes = [0; 16];
        assert_eq!(socket.recv(&mut bytes).unwrap(), 5);
    }
}

#[test]
fn a_datagram_to_a_port_that_nobody_has_is_refused() {
    if !needs::are_met(&[]) {
        return;
    }
    let guest = Guest::online();
    for family in Family::BOTH {
        // One that is connected elsewhere keeps the port, and takes nothing from the guest.
        let deaf = servers::datagrams(family);
        deaf.connect(deaf.local_addr().unwrap()).unwrap();
        let socket = guest.datagrams((guest.gateway(family), deaf.local_addr().unwrap().port()));
        socket.send(b"hello").unwrap();
        let refused = socket.recv(&mut [0; 16]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{family:?}");
    }
}

#[test]
fn a_datagram_without_a_route_is_unreachable() {
    if !needs::are_met(&[]) {
        return;
    }
    let host = host();
    let guest = Guest::with(&Setup { host: Some(&host), ..Setup::default() });
    for (to, expected) in [
        ("203.0.113.1:54", Errno::NETUNREACH),
        ("198.51.100.1:54", Errno::HOSTUNREACH),
        ("[2001:db8:3::1]:54", Errno::NETUNREACH),
        ("[2001:db8:2::1]:54", Errno::HOSTUNREACH),
    ] {
        let socket = guest.datagrams(to.parse::<SocketAddr>().unwrap());
        socket.send(b"hello").unwrap();
        let error = socket.recv(&mut [0; 16]).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(expected), "{to}: {error}");
    }
}

#[test]
fn without_a_configuration_this_host_refuses_at_once() {
    if !needs::are_met(&[]) {
        return;
    }
    let guest = Guest::with(&Setup { config: None, ..Setup::default() });
    everything_is_refused(&guest);
}

#[test]
fn a_policy_that_does_not_say_allow_denies() {
    if !needs::are_met(&[]) {
        return;
    }
    let mut config = open_config(json!({}));
    config["policy"] = json!({ "default_ingress": "allow" });
    everything_is_refused(&Guest::with(&Setup { config: Some(config), ..Setup::default() }));
}

fn everything_is_refused(guest: &Guest) {
    for (family, denied) in [(Family::V4, Errno::HOSTUNREACH), (Family::V6, Errno::ACCESS)] {
        let listener = servers::listener(family);
        let to = (guest.gateway(family), listener.local_addr().unwrap().port());
        let (result, took) = timed(|| guest.try_connect(to));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused, "{family:?}");
        assert!(took < AT_ONCE, "{took:?}");
        let server = servers::datagrams(family);
        let to = (guest.gateway(family), server.local_addr().unwrap().port());
        let socket = guest.datagrams(to);
        socket.send(b"hello").unwrap();
        let error = socket.recv(&mut [0; 16]).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(denied), "{family:?}: {error}");
        listener.set_nonblocking(true).unwrap();
        server.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(server.recv(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
    let to = SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 81));
    assert_eq!(guest.try_connect(to).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}
