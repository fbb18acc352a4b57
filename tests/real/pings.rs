//! Echo requests, from ping(8).

use crate::guest::{Guest, Setup};
use crate::namespace::Namespace;
use crate::needs;
use crate::process::{self, Finished};
use crate::servers::Family;

fn ping(guest: &Guest, to: &str, arguments: &[&str]) -> Finished {
    let mut ping = guest.command("ping");
    process::run(ping.args(["-c", "3", "-i", "0.2", "-W", "5"]).args(arguments).arg(to))
}

fn assert_answered(finished: &Finished) {
    assert!(finished.output.contains(" 3 received, 0% packet loss"), "{finished:?}");
    assert!(!finished.output.contains("DUP"), "{finished:?}");
}

const OUTSIDE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// A namespace that has an engine, in place of this host, with an address that is not the loopback.
fn host() -> Namespace {
    let host = Namespace::new();
    host.ip("link add link0 type veth peer name link1");
    host.ip("link set link0 up");
    host.ip("link set link1 up");
    host.ip("address add 192.0.2.1/24 dev link0");
    host.ip("address add 2001:db8::1/64 dev link0 nodad");
    host
}

#[test]
fn the_gateway_answers_pings_of_every_size() {
    if !needs::are_met(&["ping"]) {
        return;
    }
    let guest = Guest::online();
    for family in Family::BOTH {
        let gateway = guest.gateway(family).to_string();
        for size in ["0", "56", "1400", "20000"] {
            assert_answered(&ping(&guest, &gateway, &["-s", size]));
        }
    }
}

#[test]
fn the_outside_answers_pings_where_the_host_allows_ping_sockets() {
    if !needs::are_met(&["ping"]) {
        return;
    }
    let host = host();
    host.set("ipv4/ping_group_range", "0 2147483647");
    let guest = Guest::with(&Setup { host: Some(&host), ..Setup::default() });
    for to in OUTSIDE {
        for size in ["0", "56", "1400", "20000"] {
            assert_answered(&ping(&guest, to, &["-s", size]));
        }
    }
    assert_eq!(guest.engine().errors(), "");
}

#[test]
fn where_the_host_forbids_ping_sockets_the_guest_is_told_and_the_operator_once() {
    if !needs::are_met(&["ping"]) {
        return;
    }
    let host = host();
    // What a new namespace has: no group may.
    host.set("ipv4/ping_group_range", "1 0");
    let guest = Guest::with(&Setup { host: Some(&host), ..Setup::default() });
    for (to, said) in OUTSIDE.into_iter().zip(["Packet filtered", "Administratively prohibited"]) {
        let finished = ping(&guest, to, &[]);
        assert_eq!(finished.code, 1, "{finished:?}");
        assert!(finished.output.contains(said), "{finished:?}");
    }
    let errors = guest.engine().errors();
    assert_eq!(errors.matches("ping_group_range").count(), 1, "{errors}");
    for family in Family::BOTH {
        assert_answered(&ping(&guest, &guest.gateway(family).to_string(), &[]));
    }
}

#[test]
fn a_ping_to_where_no_route_leads_is_unreachable() {
    if !needs::are_met(&["ping"]) {
        return;
    }
    let host = host();
    host.set("ipv4/ping_group_range", "0 2147483647");
    let guest = Guest::with(&Setup { host: Some(&host), ..Setup::default() });
    for (to, said) in
        [("198.51.100.1", "Destination Net Unreachable"), ("2001:db8:9::1", "No route")]
    {
        let finished = ping(&guest, to, &[]);
        assert_eq!(finished.code, 1, "{finished:?}");
        assert!(finished.output.contains(said), "{finished:?}");
    }
}
