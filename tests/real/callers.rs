//! Published ports, called from other machines by programs that anybody has.

use std::process::{Command, Stdio};

use serde_json::json;

use crate::guest::Guest;
use crate::namespace::Namespace;
use crate::needs;
use crate::policy::Outside;
use crate::process::{self, Process};
use crate::waiting::until;

const PORT: u16 = 7000;
const BULK_PORT: u16 = 5201;

/// Where the guest's ports are published, as socat has addresses.
const PLACES: [&str; 4] = [
    "TCP:11.0.0.1:7000",
    "TCP6:[2600:0:0:11::1]:7000",
    "UDP:11.0.0.1:7000",
    "UDP6:[2600:0:0:11::1]:7000",
];

/// What comes back at `place` to who says `word` in `namespace`.
fn said_back(namespace: &Namespace, place: &str, word: &str) -> String {
    let mut socat = namespace.command("socat");
    // It waits so long for an answer behind the end of what it says.
    socat.args(["-t", "5", "-", place]);
    let mut process = Process::start(socat.stdin(Stdio::piped()));
    std::io::Write::write_all(&mut process.take_input(), word.as_bytes()).unwrap();
    process.finish().output
}

/// Servers in `guest`: they say back what they hear, and measure.
fn serve(guest: &Guest) -> Vec<Process> {
    let socat = |address: &str| {
        let mut socat = guest.command("socat");
        Process::start(socat.args([&format!("{address}:{PORT},ipv6-v6only=0,fork"), "EXEC:cat"]))
    };
    let mut iperf3 = guest.command("iperf3");
    let servers = vec![
        socat("TCP6-LISTEN"),
        socat("UDP6-RECVFROM"),
        Process::start(iperf3.args(["-s", "-p", &BULK_PORT.to_string()])),
    ];
    until("they are there", || {
        let heard = process::succeed(guest.command("ss").args(["-ltunH"]));
        let at = |kind: &str, port: u16| {
            let end = format!(":{port} ");
            heard.lines().any(|line| line.starts_with(kind) && line.contains(&end))
        };
        at("tcp", PORT) && at("udp", PORT) && at("tcp", BULK_PORT)
    });
    servers
}

#[test]
fn a_neighbour_reaches_the_guest_over_both_families_and_one_that_policy_denies_does_not() {
    if !needs::are_met(&["socat", "iperf3", "ss"]) {
        return;
    }
    let outside = Outside::new();
    // Another machine, beside the first.
    let stranger = Namespace::new();
    let name = stranger.name();
    outside.host.ip(&format!("link add link1 type veth peer name link1 netns {name}"));
    for (namespace, number) in [(&outside.host, 1), (&stranger, 2)] {
        namespace.ip(&format!("address add 12.0.0.{number}/24 dev link1"));
        namespace.ip(&format!("address add 2600:0:0:12::{number}/64 dev link1 nodad"));
        namespace.ip("link set link1 up");
    }
    stranger.ip("route add 11.0.0.0/24 via 12.0.0.1");
    stranger.ip("-6 route add 2600:0:0:11::/64 via 2600:0:0:12::1");
    let port = |bind: &str, protocol: &str, number: u16| {
        let mut port = json!({ "host_port": number, "guest_port": number });
        (port["host_bind"], port["protocol"]) = (bind.into(), protocol.into());
        port
    };
    let allow = |network: &str| {
        let mut rule = json!({ "direction": "ingress", "action": "allow" });
        rule["destination"] = json!({ "cidr": network });
        rule
    };
    let guest = outside.guest(Some(json!({
        "policy": {
            "default_egress": "deny", "default_ingress": "deny",
            "rules": [allow("11.0.0.2/32"), allow("2600:0:0:11::2/128")],
        },
        "ports": [
            port("11.0.0.1", "tcp", PORT), port("2600:0:0:11::1", "tcp", PORT),
            port("11.0.0.1", "udp", PORT), port("2600:0:0:11::1", "udp", PORT),
            port("11.0.0.1", "tcp", BULK_PORT),
        ],
    })));
    let _servers = serve(&guest);
    for place in PLACES {
        assert_eq!(said_back(&outside.neighbour, place, "hello\n"), "hello\n", "{place}");
        assert_eq!(said_back(&stranger, place, "hello\n"), "", "{place}");
    }
    for direction in [&[][..], &["-R"]] {
        let mut iperf3 = outside.neighbour.command("iperf3");
        iperf3.args(["-c", "11.0.0.1", "-p", &BULK_PORT.to_string(), "-n", "20M"]);
        let told = process::run(iperf3.args(direction));
        assert!(told.code == 0 && told.output.contains("receiver"), "{direction:?}: {told:?}");
    }
    // Nobody else has the ports: the engine has, on the addresses that were said.
    let ss: &mut Command = &mut outside.host.command("ss");
    let heard = process::succeed(ss.args(["-ltunH"]));
    for place in ["11.0.0.1:7000", "[2600:0:0:11::1]:7000", "11.0.0.1:5201"] {
        assert!(heard.contains(&format!("{place} ")), "{place}: {heard}");
    }
    assert!(!heard.contains("0.0.0.0:7000 ") && !heard.contains("12.0.0.1:"), "{heard}");
}
