//! Who is on the link: everybody but the guest is the gateway.

use std::net::IpAddr;
use std::process::Command;

use crate::guest::Guest;
use crate::needs;
use crate::process;
use crate::servers::Family;
use crate::waiting::until;

/// What `ip` says inside of `guest`; `arguments` are split at blanks.
fn ip(guest: &Guest, arguments: &str) -> String {
    let mut ip = Command::new("ip");
    let name = guest.namespace().name();
    process::succeed(ip.args(["-n", name]).args(arguments.split_whitespace()))
}

#[test]
fn every_address_of_the_link_but_the_guest_s_own_is_at_the_gateway_s_mac() {
    if !needs::are_met(&["ping"]) {
        return;
    }
    let guest = Guest::online();
    let [high, low] = guest.slot().to_be_bytes();
    let mac = format!("lladdr 02:6d:73:{high:02x}:{low:02x}:01");
    let IpAddr::V6(gateway) = guest.gateway(Family::V6) else { unreachable!() };
    let stranger = IpAddr::from(std::net::Ipv6Addr::from_bits(gateway.to_bits() + 98));
    for address in [guest.gateway(Family::V4), gateway.into(), stranger] {
        let mut ping = guest.command("ping");
        // Whether it is answered is not asked here, but it makes the kernel look for the neighbour.
        process::run(ping.args(["-c", "1", "-W", "1", &address.to_string()]));
        let known = ip(&guest, &format!("neigh show {address} dev eth0"));
        assert!(known.contains(&mac), "{address}: {known}");
    }
}

#[test]
fn the_guest_s_own_address_passes_duplicate_detection_and_the_gateway_s_fails_it() {
    if !needs::are_met(&[]) {
        return;
    }
    let guest = Guest::online();
    let own = guest.address(Family::V6);
    let state = |address: IpAddr| {
        until(&format!("duplicate detection of {address}"), || {
            let shown = ip(&guest, &format!("-6 -o address show dev eth0 to {address}"));
            shown.contains("dadfailed") || (shown.contains("eth0") && !shown.contains("tentative"))
        });
        ip(&guest, &format!("-6 -o address show dev eth0 to {address}"))
    };
    // It was added without detection.
    ip(&guest, &format!("-6 address delete {own}/64 dev eth0"));
    ip(&guest, &format!("-6 address add {own}/64 dev eth0"));
    assert!(!state(own).contains("dadfailed"));
    let gateway = guest.gateway(Family::V6);
    ip(&guest, &format!("-6 address add {gateway}/64 dev eth0"));
    assert!(state(gateway).contains("dadfailed"));
}
