//! Policy among real programs: what curl gets where it may go, and where it may not.

use std::net::{SocketAddr, TcpListener};

use serde_json::{Value, json};

use crate::guest::{Guest, Setup};
use crate::namespace::Namespace;
use crate::needs;
use crate::process;
use crate::servers;
use crate::waiting::{AT_ONCE, timed};

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
    for private in ["10.0.0.1:80", "169.254.169.254:80", "[fd00:ec2::254]:80"] {
        assert_refused(&guest, private.parse().unwrap());
    }
}
