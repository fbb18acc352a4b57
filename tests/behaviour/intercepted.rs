//! TLS at a port where it is intercepted: the hello is judged before anybody is connected to, and
//! is the host's to answer, whole and under the name that was judged.

use sim::frame;
use sim::guest::Script;
use sim::{Did, Room, World, tls};
use sluicegate_core::{
    By, DenialReason, DenyFormat, DenyPage, Drop, FlowId, Permission, Policy, Refusal, limits,
};

use crate::at;
use crate::inspection::bind;
use crate::policy_rules::{ip, push};

fn room<'a>(default: Permission, lines: &[&str]) -> Room<'a> {
    Room::with(|config| {
        config.policy = Policy::new(default, Permission::Deny);
        lines.iter().for_each(|line| push(&mut config.policy, line));
        config.intercepted_ports = [443, 8443].as_slice().try_into().expect("because it is short");
    })
}

/// What the host was told of the first interception: name, whether there is another that is
/// hidden, whether it is denied.
fn told(world: &World<'_>) -> Option<(Option<String>, bool, bool)> {
    world.peers.log.iter().find_map(|did| {
        let Did::Intercept { name, is_veiled, is_denied, .. } = did else { return None };
        Some((name.clone(), *is_veiled, *is_denied))
    })
}

fn is_connected(world: &World<'_>) -> bool {
    world.peers.log.iter().any(|did| matches!(did, Did::Connect { .. }))
}

/// A connection to port `port` of an outside address on which `bytes` were said.
fn said<'w>(world: &mut World<'w>, port: u16, bytes: &[u8]) -> Script {
    let to = at(ip("1.1.1.1"), port);
    let mut script = Script::new(to, 40_000);
    world.send(&frame::tcp(to, &script.syn()));
    script.establish(world);
    assert!(world.peers.log.iter().all(|did| !matches!(did, Did::Connect { .. })), "nobody yet");
    script.send(world, bytes);
    script
}

fn some(name: &str) -> Option<String> {
    Some(name.to_owned())
}

#[test]
fn a_hello_is_the_hosts_whole_and_by_its_name() {
    for (what, bytes, expected) in [
        ("a name", tls::hello("Good.test."), Some((some("good.test"), false, false))),
        ("no name", tls::hello_without_name(), Some((None, false, false))),
        ("an address", tls::hello("1.1.1.1"), Some((None, false, false))),
        (
            "a name beside an encrypted hello",
            tls::with_extension(0xfe0d, &[0; 200]),
            Some((some("good.test"), true, false)),
        ),
        (
            "in records of a byte",
            tls::in_records(&tls::long_hello("good.test", 0), 1),
            Some((some("good.test"), false, false)),
        ),
        ("one that can't be read", tls::lying(), Some((None, false, false))),
    ] {
        for port in [443, 8443] {
            let mut room = room(Permission::Allow, &[]);
            let mut world = room.world();
            said(&mut world, port, &bytes);
            assert_eq!(told(&world), expected, "{what}");
            assert_eq!(world.stream().received, bytes, "{what}: all of it is handed on");
        }
    }
}

#[test]
fn what_is_no_tls_and_what_is_elsewhere_goes_its_way() {
    for bytes in [&b"SSH-2.0-x\r\n"[..], b"GET / HTTP/1.1\r\nHost: good.test\r\n\r\n"] {
        let mut open = room(Permission::Allow, &[]);
        let mut world = open.world();
        said(&mut world, 443, bytes);
        assert!(told(&world).is_none() && is_connected(&world));
        assert_eq!(world.stream().received, bytes);
    }
    let mut open = room(Permission::Allow, &[]);
    let mut world = open.world();
    let to = at(ip("1.1.1.1"), 80);
    let mut script = Script::new(to, 40_000);
    world.send(&frame::tcp(to, &script.syn()));
    assert!(is_connected(&world), "elsewhere the host connects first");
    script.establish(&mut world);
    script.send(&mut world, &tls::hello("good.test"));
    assert!(told(&world).is_none());
}

#[test]
fn policy_is_asked_before_the_host_hears_of_it() {
    let by_name = ["allow any all good.test"];
    for (what, bytes, passes) in [
        ("the name", tls::hello("good.test"), true),
        ("another", tls::hello("evil.test"), false),
        ("none", tls::hello_without_name(), false),
        // Who ends the handshake is who is spoken to.
        ("the name beside an encrypted hello", tls::with_extension(0xfe0d, &[0; 9]), true),
    ] {
        let mut room = room(Permission::Deny, &by_name);
        let mut world = room.world();
        bind(&mut world, "good.test", ip("1.1.1.1"));
        let script = said(&mut world, 443, &bytes);
        assert_eq!(told(&world).is_some(), passes, "{what}");
        assert_eq!(script.reset, !passes, "{what}");
    }
    let mut denying = room(Permission::Allow, &["deny any all good.test"]);
    let mut world = denying.world();
    let script = said(&mut world, 443, &tls::with_extension(0xfe0d, &[0; 9]));
    assert!(script.reset && told(&world).is_none(), "a denied name is denied, veiled or not");
}

#[test]
fn a_denial_by_default_is_the_hosts_to_tell_in_tls() {
    let mut room = Room::with(|config| {
        config.policy = Policy::new(Permission::Deny, Permission::Deny);
        push(&mut config.policy, "deny tcp all 9.9.9.9/32");
        config.intercepted_ports = [443].as_slice().try_into().expect("because it is short");
        config.deny_page = Some(DenyPage {
            format: DenyFormat::Json,
            message: "no".try_into().expect("because it is short"),
        });
    });
    let mut world = room.world();
    said(&mut world, 443, &tls::hello("evil.test"));
    assert_eq!(told(&world), Some((some("evil.test"), false, true)));
    assert_eq!(world.denials.len(), 1);
    assert_eq!((world.denials[0].by, world.denials[0].reason), (By::Default, DenialReason::Policy));
    // By a rule it is refused at once.
    let to = at(ip("9.9.9.9"), 443);
    world.send(&frame::tcp(to, &Script::new(to, 40_001).syn()));
    assert_eq!(world.counters().dropped(Drop::Denied), 1);
}

#[test]
fn whoever_is_silent_at_such_a_port_gets_to_nobody() {
    for strict in [true, false] {
        for bytes in [&b""[..], &tls::hello("good.test")[..40]] {
            let mut room = Room::with(|config| {
                config.strict = strict;
                config.intercepted_ports =
                    [443].as_slice().try_into().expect("because it is short");
            });
            let mut world = room.world();
            let mut script = said(&mut world, 443, bytes);
            assert!(!script.reset);
            world.advance(limits::TCP_LOOK_MS_MAX + 1);
            script.read(&mut world);
            assert!(script.reset, "a hello that comes later would be nobody's");
            assert!(told(&world).is_none() && !is_connected(&world));
            assert_eq!(world.denials[0].reason, DenialReason::NameUnknown);
        }
    }
}

#[test]
fn a_server_that_cannot_be_reached_resets_what_was_accepted() {
    let mut room = room(Permission::Allow, &[]);
    let mut world = room.world();
    world.peers.answer = sim::Answer::Refuse(Refusal::Refused);
    let script = said(&mut world, 443, &tls::hello("good.test"));
    assert!(script.reset);
    let flow = world.peers.log.iter().find_map(|did| {
        let Did::Intercept { flow, .. } = did else { return None };
        Some(*flow)
    });
    assert!(!world.engine.is_live(flow.unwrap_or(FlowId { index: 0, generation: 0 })));
}

#[test]
fn quic_is_refused_there_as_by_a_closed_port() {
    for (refuses, port, is_refused) in
        [(true, 443, true), (true, 8443, true), (true, 4433, false), (false, 443, false)]
    {
        let mut room = Room::with(|config| {
            config.intercepted_ports =
                [443, 8443].as_slice().try_into().expect("because it is short");
            config.refuses_quic = refuses;
        });
        let mut world = room.world();
        let datagram = frame::udp(1000, at(ip("1.1.1.1"), port), b"quic");
        world.send(&datagram);
        assert_eq!(world.counters().dropped(Drop::Denied), u64::from(is_refused), "{port}");
        if is_refused {
            // Port unreachable (RFC 792).
            crate::assert_error_about(&crate::only(&mut world), (3, 3), &datagram);
            assert_eq!(world.denials[0].reason, DenialReason::Quic);
        }
    }
}

/// As [`room`], and what is said in the clear is the host's to relay.
fn relaying<'a>(default: Permission, lines: &[&str]) -> Room<'a> {
    Room::with(|config| {
        config.policy = Policy::new(default, Permission::Deny);
        lines.iter().for_each(|line| push(&mut config.policy, line));
        config.intercepted_ports = [443].as_slice().try_into().expect("because it is short");
        config.relays_http = true;
    })
}

/// Whose first request says its authority.
const HTTP_2: &[u8] =
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x0b\x01\x04\0\0\0\x01\x41\x09good.test";

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: Good.test\r\n\r\n";

#[test]
fn what_is_said_in_the_clear_is_the_hosts_where_it_relays() {
    for port in [80, 443] {
        for (what, bytes, name) in [
            ("a request", REQUEST, some("good.test")),
            ("two hosts", b"GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n", None),
            ("HTTP/2", HTTP_2, some("good.test")),
            ("no HTTP", b"SSH-2.0-x\r\n", None),
        ] {
            let mut room = relaying(Permission::Allow, &[]);
            let mut world = room.world();
            said(&mut world, port, bytes);
            assert_eq!(told(&world), Some((name, false, false)), "{what} at {port}");
            assert_eq!(world.stream().received, bytes, "{what} at {port}");
        }
    }
    // A handshake is no business of whoever does not end it; and elsewhere the host connects first.
    let mut room = relaying(Permission::Allow, &[]);
    let mut world = room.world();
    said(&mut world, 80, &tls::hello("good.test"));
    assert!(told(&world).is_none() && is_connected(&world));
    let mut room = relaying(Permission::Allow, &[]);
    let mut world = room.world();
    let to = at(ip("1.1.1.1"), 8080);
    world.send(&frame::tcp(to, &Script::new(to, 40_000).syn()));
    assert!(is_connected(&world));
}

#[test]
fn a_request_in_the_clear_is_judged_before_the_host_hears_of_it() {
    for (host, passes) in [("good.test", true), ("evil.test", false)] {
        let mut room = relaying(Permission::Deny, &["allow any all good.test"]);
        let mut world = room.world();
        bind(&mut world, "good.test", ip("1.1.1.1"));
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let script = said(&mut world, 80, request.as_bytes());
        assert_eq!(told(&world).is_some(), passes, "{host}");
        assert_eq!(script.reset, !passes, "{host}");
    }
    // Half a request may yet be anybody's.
    let mut room = relaying(Permission::Allow, &[]);
    let mut world = room.world();
    let mut script = said(&mut world, 80, &REQUEST[..20]);
    world.advance(limits::TCP_LOOK_MS_MAX + 1);
    script.read(&mut world);
    assert!(script.reset && told(&world).is_none() && !is_connected(&world));
}

#[test]
fn names_over_tls_are_the_hosts_whoever_they_are_asked_of() {
    // Policy is asked about each name, and not about the address.
    for default in [Permission::Allow, Permission::Deny] {
        for (what, bytes, expected) in [
            ("a hello", tls::hello("dns.test"), Some((some("dns.test"), false, false))),
            ("no name", tls::hello_without_name(), Some((None, false, false))),
            ("in the clear", b"\0\x05hello".to_vec(), None),
            ("HTTP", REQUEST.to_vec(), None),
        ] {
            let mut room = room(default, &[]);
            let mut world = room.world();
            let mut script = said(&mut world, 853, &bytes);
            assert_eq!(told(&world), expected, "{what}");
            assert!(!is_connected(&world), "{what}: nobody else is asked");
            let asks = world.peers.log.iter().any(|did| {
                matches!(did, Did::Intercept { to: sluicegate_core::Outside::Names(_), .. })
            });
            assert_eq!(asks, expected.is_some(), "{what}");
            // What may yet be a hello has its time.
            world.advance(limits::TCP_LOOK_MS_MAX + 1);
            script.read(&mut world);
            assert_eq!(script.reset, expected.is_none(), "{what}");
            let reasons: Vec<_> = world.denials.iter().map(|denial| denial.reason).collect();
            let is_denied = expected.is_none().then_some(DenialReason::OtherNames);
            assert_eq!(reasons, Vec::from_iter(is_denied), "{what}");
        }
    }
}
