//! A program that speaks HTTP at port 80, where no rule matches, reads why it gets nothing.

use sim::frame::{self, OUTSIDES, flag};
use sim::guest::Script;
use sim::{Room, World};
use sluicegate_core::{By, DenialReason, DenyFormat, DenyPage, Drop, Permission, Policy, limits};

use crate::at;
use crate::policy_rules::{ip, push};

fn page() -> DenyPage {
    DenyPage { format: DenyFormat::Json, message: "No.".try_into().expect("because it is short") }
}

fn room<'a>(default: Permission, lines: &[&str]) -> Room<'a> {
    Room::with(|config| {
        config.deny_page = Some(page());
        config.policy = Policy::new(default, Permission::Deny);
        lines.iter().for_each(|line| push(&mut config.policy, line));
    })
}

/// What a connection to port 80 of 1.1.1.1 reads that says `request`, and how it ends.
fn ask(world: &mut World<'_>, request: &[u8]) -> Script {
    let mut script = Script::connect(world, at(ip("1.1.1.1"), 80), 40_000);
    script.say(world, 0, request);
    script
}

fn body(script: &Script) -> &str {
    let text = core::str::from_utf8(&script.received).expect("text");
    text.split_once("\r\n\r\n").expect("a head").1
}

#[test]
fn a_request_is_answered_with_403_and_the_name_and_the_connection_ends() {
    for outside in OUTSIDES {
        let mut room = room(Permission::Deny, &[]);
        let mut world = room.world();
        let mut script = Script::connect(&mut world, at(outside, 80), 40_000);
        // In two segments, so that the first is no whole head.
        script.say(&mut world, 0, b"GET / HTTP/1.1\r\nHost: a.te");
        assert!(script.received.is_empty());
        script.say(&mut world, 0, b"st\r\n\r\n");
        let text = core::str::from_utf8(&script.received).expect("text").to_owned();
        assert!(text.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{text}");
        for line in ["application/json", "Connection: close", "no-store", "Content-Length: 66"] {
            assert!(text.contains(line), "{line}: {text}");
        }
        let expected = r#"{"code":"network_policy_denied","message":"No.","domain":"a.test"}"#;
        assert_eq!(body(&script), expected);
        assert!(script.finished && !script.reset);
        script.finish(&mut world);
        world.advance(limits::TCP_TIME_WAIT_MS + 1);
        assert_eq!(world.wait().0, None, "nothing of it is left");
        assert_eq!(world.peers.log.iter().filter(|did| !is_memory(did)).count(), 0);
        assert_eq!(world.denials.len(), 1);
        let (denial, name) = (&world.denials[0], &world.denied_names[0]);
        assert_eq!((denial.by, denial.reason), (By::Default, DenialReason::Policy));
        assert_eq!(name.as_deref(), Some("a.test"));
    }
}

fn is_memory(did: &sim::Did) -> bool {
    matches!(did, sim::Did::Unused { .. })
}

#[test]
fn a_request_without_a_name_has_none_in_its_answer_and_head_has_no_body() {
    let mut room = room(Permission::Deny, &[]);
    let mut world = room.world();
    let script = ask(&mut world, b"GET / HTTP/1.0\r\n\r\n");
    assert!(body(&script).ends_with(r#""domain":null}"#));
    let script = ask_again(&mut world, b"HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(body(&script), "");
    assert!(script.received.windows(18).any(|text| text == b"Content-Length: 66"));
}

fn ask_again(world: &mut World<'_>, request: &[u8]) -> Script {
    let mut script = Script::connect(world, at(ip("1.1.1.1"), 80), 40_001);
    script.say(world, 0, request);
    script
}

#[test]
fn a_name_that_no_rule_allows_is_answered_where_others_at_the_address_are_allowed() {
    let mut room = room(Permission::Deny, &["allow any all good.test"]);
    let mut world = room.world();
    let script = ask(&mut world, b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n");
    assert!(body(&script).contains("evil.test"));
}

#[test]
fn rules_other_ports_other_protocols_and_other_bytes_are_refused_as_ever() {
    // A rule.
    let mut deny = room(Permission::Deny, &["deny any all any"]);
    let mut world = deny.world();
    let script = Script::new(at(ip("1.1.1.1"), 80), 40_000);
    assert_eq!(world.dropped(&frame::tcp(script.to, &script.syn())), Some(Drop::Denied));
    // Another port.
    let mut other = room(Permission::Deny, &[]);
    let mut world = other.world();
    let script = Script::new(at(ip("1.1.1.1"), 443), 40_000);
    assert_eq!(world.dropped(&frame::tcp(script.to, &script.syn())), Some(Drop::Denied));
    // A datagram.
    let reason = world.dropped(&frame::udp(1000, at(ip("1.1.1.1"), 80), b"hello"));
    assert_eq!(reason, Some(Drop::Denied));
    // What is no request, or is one that two servers would read differently.
    for bytes in [
        &b"SSH-2.0-x\r\n"[..],
        &sim::tls::hello("a.test"),
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ] {
        let mut odd = room(Permission::Deny, &[]);
        let mut world = odd.world();
        let script = ask(&mut world, bytes);
        let is_request = bytes.starts_with(b"GET");
        assert_eq!((script.reset, script.received.is_empty()), (!is_request, !is_request));
        assert_eq!(world.denials.len(), 1);
    }
}

#[test]
fn who_never_asks_is_reset_after_five_seconds_and_a_long_head_at_once() {
    let mut silent = room(Permission::Deny, &[]);
    let mut world = silent.world();
    let mut script = Script::connect(&mut world, at(ip("1.1.1.1"), 80), 40_000);
    world.advance(limits::TCP_LOOK_MS_MAX + 1);
    script.read(&mut world);
    assert!(script.reset && script.received.is_empty());
    assert_eq!(world.wait().0, None);
    let mut long = room(Permission::Deny, &[]);
    let mut world = long.world();
    let mut script = Script::connect(&mut world, at(ip("1.1.1.1"), 80), 40_000);
    let head = [&b"GET / HTTP/1.1\r\nX: "[..], &[b'a'; 20_000]].concat();
    script.send(&mut world, &head);
    assert!(script.reset);
}

#[test]
fn what_follows_the_request_is_ignored_and_a_guest_that_stays_is_reset_in_time() {
    let mut room = room(Permission::Deny, &[]);
    let mut world = room.world();
    let mut script =
        ask(&mut world, b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9\r\n\r\n");
    assert!(body(&script).contains("a.test"));
    let mut sent = 0;
    while sent < 300_000 {
        script.send(&mut world, &[1; 10_000]);
        sent += 10_000;
    }
    assert!(!script.reset, "its bytes are taken");
    world.advance(limits::TCP_IDLE_MS_MAX.min(limits::TCP_FIN_WAIT_2_MS_MAX) + 1000);
    script.read(&mut world);
    assert!(script.reset);
    assert!(world.inbox().iter().all(|seen| !seen.tcp().is_some_and(|t| t.has(flag::SYN))));
}

#[test]
fn without_the_page_port_80_is_refused_like_any_other() {
    let mut room = Room::with(|c| c.policy = Policy::new(Permission::Deny, Permission::Deny));
    let mut world = room.world();
    let script = Script::new(at(ip("1.1.1.1"), 80), 40_000);
    assert_eq!(world.dropped(&frame::tcp(script.to, &script.syn())), Some(Drop::Denied));
}
