//! What the engine promises on the wire: one file per promise, a sentence a test.
//!
//! The guest is a script or a bare frame, the outside does as the test says, and time is virtual.

#![allow(clippy::cast_possible_truncation, reason = "tests cut small numbers of their own")]

mod addresses;
mod autoconf;
mod caps;
mod capture;
mod complaints;
mod denials;
mod drops;
mod fragments;
mod greeting;
mod guesses;
mod header_problems;
mod hop_limit;
mod http_denied;
mod inspection;
mod intercepted;
mod loss;
mod lowered;
mod memory;
mod names;
mod offload;
mod one_verdict;
mod own_addresses;
mod ping;
mod policy;
mod policy_rules;
mod published;
mod rates;
mod reload;
mod ring_full;
mod tcp_close;
mod tcp_doubt;
mod tcp_flow;
mod tcp_open;
mod tcp_reset;
mod tcp_runs;
mod tcp_segments;
mod tcp_timers;
mod tcp_turns;
mod tcp_use;
mod turns;
mod udp;

use core::net::{IpAddr, SocketAddr};

use sim::frame::{ETHERNET, gateway, guest, protocol};
use sim::{Icmp, Seen, World};

/// An outside end.
fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

/// The one frame that came.
fn only(world: &mut World<'_>) -> Seen {
    let mut inbox = world.inbox();
    assert_eq!(inbox.len(), 1, "one frame: {inbox:?}");
    inbox.remove(0)
}

/// Checks that `seen` is an ICMP error of `kind` and `code` which the sender of `frame` would
/// match to it: from the gateway or the destination, quoting its addresses, protocol and first
/// eight bytes of transport. Linux wants exactly these. Returns the error.
fn assert_error_about(seen: &Seen, (kind, code): (u8, u8), frame: &[u8]) -> Icmp {
    let icmp = seen.icmp().expect("an ICMP message").clone();
    assert_eq!((icmp.kind, icmp.code), (kind, code));
    let v4 = frame[ETHERNET] >> 4 == 4;
    let header = if v4 { 20 } else { 40 };
    let addresses = if v4 { 12..20 } else { 8..40 };
    let next = if v4 { 9 } else { 6 };
    let packet = &frame[ETHERNET..];
    assert!(icmp.body.len() >= header + 8, "the quote has the ports: {icmp:?}");
    assert_eq!(icmp.body[0] >> 4, packet[0] >> 4, "the quoted version");
    assert_eq!(icmp.body[addresses.clone()], packet[addresses], "the quoted addresses");
    assert_eq!(icmp.body[next], packet[next], "the quoted protocol");
    assert_eq!(icmp.body[header..header + 8], packet[header..header + 8], "the quoted ports");
    if v4 {
        assert_eq!(sim::frame::checksum(&[], 0, &icmp.body[..20]), 0, "the quoted header's sum");
        assert_eq!(icmp.body[2..4], packet[2..4], "the quoted length");
    }
    icmp
}

/// Type and code of an ICMP error, in IPv4 and in IPv6.
struct Error {
    v4: (u8, u8),
    v6: (u8, u8),
}

impl Error {
    const NET_UNREACHABLE: Self = Self { v4: (3, 0), v6: (1, 0) };
    const HOST_UNREACHABLE: Self = Self { v4: (3, 1), v6: (1, 3) };
    const PORT_UNREACHABLE: Self = Self { v4: (3, 3), v6: (1, 4) };
    const PROHIBITED: Self = Self { v4: (3, 13), v6: (1, 1) };
    const TOO_BIG: Self = Self { v4: (3, 4), v6: (2, 0) };

    fn of(&self, outside: IpAddr) -> (u8, u8) {
        if outside.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// The ICMP protocol of a family.
fn icmp_number(outside: IpAddr) -> u8 {
    if outside.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 }
}

/// Addresses of the outside and of the gateway, in either family.
fn everybody() -> [IpAddr; 4] {
    let [v4, v6] = sim::frame::OUTSIDES;
    [v4, v6, gateway(v4), gateway(v6)]
}

/// Source and destination of an answer from `outside`.
fn answer(outside: IpAddr) -> (IpAddr, IpAddr) {
    (outside, guest(outside))
}
