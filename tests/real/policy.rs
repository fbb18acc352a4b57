//! Policy among real programs: what curl gets where it may go, and where it may not.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use serde_json::{Value, json};

use crate::guest::{Guest, Setup};
use crate::namespace::Namespace;
use crate::needs;
use crate::process;
use crate::servers;
use crate::waiting::{self, AT_ONCE, timed};

/// A host with an engine, and a neighbour outside. Both have addresses that are public elsewhere,
/// and nothing leaves the two namespaces.
pub(crate) struct Outside {
    pub(crate) host: Namespace,
    pub(crate) neighbour: Namespace,
}

const HOSTS: [&str; 2] = ["11.0.0.1", "[2600:0:0:11::1]"];
const NEIGHBOURS: [&str; 2] = ["11.0.0.2", "[2600:0:0:11::2]"];

impl Outside {
    pub(crate) fn new() -> Self {
        let (host, neighbour) = (Namespace::new(), Namespace::new());
        let name = neighbour.name();
        host.ip(&format!("link add link0 type veth peer name link0 netns {name}"));
        for (namespace, number) in [(&host, 1), (&neighbour, 2)] {
            namespace.ip(&format!("address add 11.0.0.{number}/24 dev link0"));
            namespace.ip(&format!("address add 2600:0:0:11::{number}/64 dev link0 nodad"));
            namespace.ip("link set link0 up");
        }
        Self { host, neighbour }
    }

    pub(crate) fn guest(&self, config: Option<Value>) -> Guest {
        Guest::with(&Setup { host: Some(&self.host), config, ..Setup::default() })
    }
}

/// An HTTP server at `address` of `namespace`, on a free port.
pub(crate) fn serve(namespace: &Namespace, address: &str) -> SocketAddr {
    let listener = namespace.inside(|| TcpListener::bind(format!("{address}:0")).unwrap());
    let end = listener.local_addr().unwrap();
    servers::http(listener);
    end
}

/// curl's exit code for what `end` serves.
pub(crate) fn fetch(guest: &Guest, end: SocketAddr) -> i32 {
    let mut curl = guest.command("curl");
    let url = format!("http://{end}/1000");
    process::run(curl.args(["-sSf", "-o", "/dev/null", "-m", "20", &url])).code
}

/// What Linux makes of ICMP administratively prohibited (EHOSTUNREACH), and of ICMPv6 (EACCES).
const PROHIBITED: [i32; 2] = [113, 13];

/// curl's exit code for a connection that is refused.
const REFUSED: i32 = 7;

fn assert_refused(guest: &Guest, end: SocketAddr) {
    let (code, took) = timed(|| fetch(guest, end));
    assert_eq!(code, REFUSED, "{end}");
    assert!(took < AT_ONCE, "{end}: {took:?}");
}

#[test]
fn an_allowed_port_is_reached_and_a_denied_one_refuses_at_once() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let outside = Outside::new();
    let rule = |network: &str, port: u16| {
        json!({
            "direction": "egress", "action": "allow", "destination": { "cidr": network },
            "protocols": ["tcp"], "ports": [{ "start": port, "end": port }]
        })
    };
    let [allowed, denied] =
        [0, 1].map(|_| NEIGHBOURS.map(|address| serve(&outside.neighbour, address)));
    let rules =
        json!([rule("11.0.0.2/32", allowed[0].port()), rule("2600::/16", allowed[1].port())]);
    let guest = outside.guest(Some(json!({ "policy": { "rules": rules } })));
    for (allowed, denied) in allowed.into_iter().zip(denied) {
        assert_eq!(fetch(&guest, allowed), 0, "{allowed}");
        assert_refused(&guest, denied);
        // The host itself reaches it.
        outside.host.inside(|| std::net::TcpStream::connect(denied)).unwrap();
    }
}

#[test]
fn by_default_the_internet_is_reached_and_this_host_is_not() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let outside = Outside::new();
    let guest = outside.guest(None);
    for address in NEIGHBOURS {
        assert_eq!(fetch(&guest, serve(&outside.neighbour, address)), 0, "{address}");
    }
    for address in HOSTS {
        assert_refused(&guest, serve(&outside.host, address));
    }
    // Neither its loopback, behind the gateway, nor a private network.
    for address in ["127.0.0.1", "[::1]"] {
        let port = serve(&outside.host, address).port();
        for family in servers::Family::BOTH {
            assert_refused(&guest, SocketAddr::new(guest.gateway(family), port));
        }
    }
    for private in ["10.0.0.1:81", "169.254.169.254:81", "[fd00:ec2::254]:81"] {
        assert_refused(&guest, private.parse().unwrap());
    }
}

/// Says back every datagram to `address` of `namespace`, at `port`; 0: at a free one. Returns that.
fn echo(namespace: &Namespace, address: &str, port: u16) -> u16 {
    let bind = || UdpSocket::bind(format!("{address}:{port}")).unwrap();
    servers::echo_datagrams(namespace.inside(bind))
}

#[test]
fn an_address_that_the_host_gains_is_denied_at_once_and_reached_again_when_it_is_gone() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let outside = Outside::new();
    let guest = outside.guest(None);
    let addresses = [("11.0.0.9", "24"), ("[2600:0:0:11::9]", "64 nodad")];
    for ((address, bits), prohibited) in addresses.into_iter().zip(PROHIBITED) {
        let plain = address.trim_matches(['[', ']']);
        let assign = |namespace: &Namespace, action: &str| {
            namespace.ip(&format!("address {action} {plain}/{bits} dev link0"));
        };
        // Elsewhere it is a public address like others.
        assign(&outside.neighbour, "add");
        let elsewhere = serve(&outside.neighbour, address);
        assert_eq!(fetch(&guest, elsewhere), 0, "{address}");
        let port = echo(&outside.neighbour, address, 0);
        let socket = guest.datagrams(SocketAddr::new(elsewhere.ip(), port));
        socket.send(b"elsewhere").unwrap();
        assert_eq!(socket.recv(&mut [0; 16]).unwrap(), 9);
        // It moves to this host, with a server at the same port.
        assign(&outside.neighbour, "del");
        assign(&outside.host, "add");
        let here = serve(&outside.host, address);
        outside.host.inside(|| std::net::TcpStream::connect(here)).unwrap();
        assert_refused(&guest, here);
        echo(&outside.host, address, port);
        // The flow that was open has ended: first comes word of that, then of the next datagram.
        for attempt in ["the open flow", "a new one"] {
            let sent = socket.send(b"here");
            let got = sent.and_then(|_| socket.recv(&mut [0; 16]));
            let kind = got.unwrap_err().raw_os_error();
            assert_eq!(kind, Some(prohibited), "{address} {attempt}");
        }
        // And away again.
        assign(&outside.host, "del");
        assign(&outside.neighbour, "add");
        assert_eq!(fetch(&guest, serve(&outside.neighbour, address)), 0, "{address}");
        assign(&outside.neighbour, "del");
    }
}

/// Gives `namespace` so many public addresses (`add`), or takes them away (`del`).
pub(crate) fn addresses(namespace: &Namespace, count: u32, action: &str) {
    let change = format!("s/.*/address {action} 2600:0:0:12::&\\/128 dev lo/");
    let script = format!("seq {count} | sed '{change}' | ip -batch -");
    process::succeed(namespace.command("sh").args(["-c", &script]));
}

#[test]
fn a_host_with_more_addresses_than_are_kept_apart_lets_nothing_public_out_until_it_has_less() {
    if !needs::are_met(&["curl", "sh", "seq", "sed"]) {
        return;
    }
    let outside = Outside::new();
    let guest = outside.guest(None);
    let end = serve(&outside.neighbour, NEIGHBOURS[0]);
    assert_eq!(fetch(&guest, end), 0);
    // Too many for the engine, and too many to be listed at all.
    for (count, reason) in [(257, "too many public addresses"), (4200, "are not known")] {
        addresses(&outside.host, count, "add");
        assert_refused(&guest, end);
        waiting::until(reason, || guest.engine().errors().contains(reason));
        addresses(&outside.host, count, "del");
        // A list that was given up is read again within a second.
        waiting::until("it has few addresses again", || fetch(&guest, end) == 0);
    }
}

#[test]
fn a_program_that_speaks_http_reads_why_it_gets_nothing() {
    if !needs::are_met(&["curl"]) {
        return;
    }
    let guest = Guest::with(&Setup { config: Some(json!({})), ..Setup::default() });
    for (host, address) in [("secret.test", "10.0.0.1"), ("secret.test", "[fd00:ec2::254]")] {
        let mut curl = guest.command("curl");
        curl.args(["-sS", "-m", "20", "-w", " %{http_code} %{content_type}"]);
        curl.args(["-H", &format!("Host: {host}"), &format!("http://{address}/")]);
        let said = process::run(&mut curl);
        assert_eq!(
            (said.code, said.output.as_str()),
            (
                0,
                "{\"code\":\"network_policy_denied\",\
                 \"message\":\"Request blocked by network policy.\",\
                 \"domain\":\"secret.test\"} 403 application/json"
            ),
            "{said:?}"
        );
    }
}
