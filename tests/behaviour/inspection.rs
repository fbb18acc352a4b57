//! What a guest says to a server takes part in the verdict: a name that is allowed must be said,
//! and lead there; of one that is denied, either is enough. Whoever says nothing that matters waits
//! for nobody.

use core::net::{IpAddr, SocketAddr};

use sim::dns::{address, answer, kind, query};
use sim::frame::{self, flag};
use sim::guest::Script;
use sim::{Answer, Did, Room, World, tls};
use sluicegate_core::{
    By, DenialReason, Drop, Permission, Policy, Profile, QueryStep, Refusal, limits,
};

use crate::at;
use crate::policy_rules::{ip, push};

/// Addresses that the name is bound to.
const BOUND: [&str; 2] = ["1.1.1.1", "2600::2"];

/// A room whose policy has `default` and `lines`.
pub(crate) fn room<'a>(default: Permission, lines: &[&str]) -> Room<'a> {
    Room::with(|config| {
        config.policy = Policy::new(default, Permission::Deny);
        lines.iter().for_each(|line| push(&mut config.policy, line));
    })
}

/// The gateway tells the guest that `name` leads to `to`.
pub(crate) fn bind(world: &mut World<'_>, name: &str, to: IpAddr) {
    world.send(&frame::udp(1000, at(ip("9.9.9.9"), 53), b"ask"));
    let flow = world.peers.datagrams[&world.datagram()].id;
    let kind = if to.is_ipv4() { kind::A } else { kind::AAAA };
    let query = query(name, kind);
    let mut out = vec![0; 2000];
    let now = world.now();
    let step = world.engine.judge_query(now, (flow, &query), &mut out);
    assert!(matches!(step, QueryStep::Ask(_)));
    let answer = answer(&query, &[address(&sim::dns::QUESTION, 3600, to)]);
    let now = world.now();
    assert!(world.engine.judge_answer(now, (flow, &query), Some(&answer), &mut out) > 0);
    assert!(world.engine.is_bound(now, to, name), "{name} leads to {to}");
}

/// Whether the host was told to connect.
pub(crate) fn is_connected(world: &World<'_>) -> bool {
    world.peers.log.iter().any(|did| matches!(did, Did::Connect { .. }))
}

/// What becomes of a connection to `to` on which `bytes` are said: they reach the outside, or not.
fn passes(world: &mut World<'_>, to: SocketAddr, bytes: &[u8]) -> bool {
    let mut script = Script::new(to, 40_000);
    world.send(&frame::tcp(to, &script.syn()));
    if world.counters().dropped(Drop::Denied) > 0 {
        return false;
    }
    script.establish(world);
    script.send(world, bytes);
    if script.reset {
        assert!(!is_connected(world) || world.peers.streams.is_empty(), "it ended outside too");
        assert!(world.peers.ended.iter().all(|stream| stream.received.is_empty()), "nothing left");
        return false;
    }
    assert_eq!(world.stream().received, bytes, "all of it is handed on, as it was");
    true
}

/// As [`passes`], in a new world where `good.test` leads to `to`.
fn passes_under(
    (default, lines): (Permission, &[&str]),
    to: SocketAddr,
    bytes: &[u8],
) -> (bool, Vec<(By, DenialReason, Option<String>)>) {
    let mut room = room(default, lines);
    let mut world = room.world();
    if lines.iter().any(|line| line.starts_with("allow")) {
        bind(&mut world, "good.test", to.ip());
    }
    let passes = passes(&mut world, to, bytes);
    let names = world.denied_names.clone();
    let told = world.denials.iter().zip(names).map(|(d, name)| (d.by, d.reason, name));
    (passes, told.collect())
}

fn http(host: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// A request with a first line that is odd.
fn odd(line: &str, host: &str) -> Vec<u8> {
    format!("{line}Host: {host}\r\n\r\n").into_bytes()
}

/// The first bytes of HTTP/2 by prior knowledge, whose first head has `fields` (RFC 7541), behind
/// settings.
fn http2(fields: &[u8]) -> Vec<u8> {
    http2_in(4, fields)
}

fn http2_in(flags: u8, head: &[u8]) -> Vec<u8> {
    let settings: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0];
    let header =
        [0, 0, u8::try_from(head.len()).expect("because it is short"), 1, flags, 0, 0, 0, 1];
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", settings, &header, head].concat()
}

/// A field whose name has `index` in the static table, or is `name`.
pub(crate) fn field(index: u8, name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        [&[u8::try_from(text.len()).expect("because it is short")], text.as_bytes()].concat()
    };
    let name = if index == 0 { text(name) } else { vec![] };
    [vec![0x40 | index], name, text(value)].concat()
}

/// The authority "good.test:80" in Huffman's code (RFC 7541 B).
const GOOD_CODED: &[u8] = &[0x41, 0x89, 0x98, 0xe7, 0x91, 0x74, 0x95, 0x09, 0xb8, 0xf0, 0x3f];

#[test]
fn http_2_by_prior_knowledge_says_its_name_as_http_1_does() {
    let good = field(1, "", "good.test:80");
    let also = |more: Vec<u8>| http2(&[good.clone(), more].concat());
    let evil = "evil.test";
    let table: &[(&str, Vec<u8>, bool)] = &[
        ("the authority", http2(&good), true),
        ("behind other fields", http2(&[&[0x20, 0x82, 0x86, 0x84][..], &good].concat()), true),
        (
            "padded, with a priority",
            {
                let head = [&[3, 0, 0, 0, 0, 9][..], &good, &[0; 3]].concat();
                http2_in(0x2c, &head)
            },
            true,
        ),
        ("in Huffman's code", http2(GOOD_CODED), true),
        ("as a field of its own", http2(&field(0, ":authority", "GOOD.test")), true),
        ("as Host", http2(&field(38, "", "good.test")), true),
        ("another", http2(&field(1, "", evil)), false),
        ("another in Host", also(field(0, "host", evil)), false),
        ("two", also(good.clone()), false),
        ("a user before it", http2(&field(1, "", "good.test@evil.test")), false),
        ("none", http2(&[0x82, 0x86, 0x84]), false),
        ("an entry that is not there", also(vec![0xbe]), false),
        ("a head that goes on", http2_in(0, &good), false),
        ("a field that is cut", http2(&good[..good.len() - 1]), false),
        ("data of no stream", [&http2(&good)[..39], &[0, 0, 0, 0, 0, 0, 0, 0, 1]].concat(), false),
        ("a frame without end", [&http2(&good)[..39], &[255; 9]].concat(), false),
    ];
    for (what, bytes, expected) in table {
        let (passes, told) = passes_under(BY_NAME, at(ip("1.1.1.1"), 8080), bytes);
        assert_eq!(passes, *expected, "{what}: {told:?}");
    }
    let denies = (Permission::Allow, &["deny any all evil.test"][..]);
    for (what, bytes, expected) in [
        ("another", http2(&good), true),
        ("the name", http2(&field(1, "", evil)), false),
        ("where it can't be read", http2_in(0, &field(1, "", evil)), false),
    ] {
        let (passes, _) = passes_under(denies, at(ip("1.1.1.1"), 9443), &bytes);
        assert_eq!(passes, expected, "{what}");
    }
}

pub(crate) const BY_NAME: (Permission, &[&str]) =
    (Permission::Deny, &["allow any all host", "allow any all good.test"]);

#[test]
fn a_name_that_is_allowed_must_be_said_and_lead_there() {
    let good = tls::hello("good.test");
    let table: &[(&str, Vec<u8>, bool)] = &[
        ("the name", good.clone(), true),
        ("in capitals, with a dot", tls::hello("GOOD.test."), true),
        ("another name: domain fronting", tls::hello("evil.test"), false),
        ("a name below it", tls::hello("a.good.test"), false),
        ("no name", tls::hello_without_name(), false),
        ("an address", tls::hello("1.1.1.1"), false),
        ("a name beside an encrypted hello", tls::with_extension(0xfe0d, &[0; 200]), false),
        ("two names", tls::with_extension(0, &tls::server_name("evil.test")), false),
        ("what is no name", tls::hello("good.test\0.evil.test"), false),
        ("the name to HTTP", http("good.test"), true),
        ("with a port", http("good.test:8080"), true),
        ("another to HTTP", http("evil.test"), false),
        ("in an absolute target", b"GET http://good.test/ HTTP/1.1\r\n\r\n".to_vec(), true),
        (
            "another in the target than in Host",
            b"GET http://evil.test/ HTTP/1.1\r\nHost: good.test\r\n\r\n".to_vec(),
            false,
        ),
        (
            "two Hosts",
            b"GET / HTTP/1.1\r\nHost: good.test\r\nHost: evil.test\r\n\r\n".to_vec(),
            false,
        ),
        ("a folded line", b"GET / HTTP/1.1\r\nHost: good.test\r\n x\r\n\r\n".to_vec(), false),
        ("bare line feeds", b"GET / HTTP/1.1\r\nHost: good.test\nX: y\r\n\r\n".to_vec(), false),
        ("a method in small letters", odd("get / HTTP/1.1\r\n", "good.test"), true),
        ("a method of somebody's own", odd("A_B / HTTP/1.1\r\n", "good.test"), true),
        ("a first line with a bare line feed", odd("GET / HTTP/1.1\n", "good.test"), false),
        ("tabs between its words", odd("GET\t/\tHTTP/1.1\r\n", "good.test"), false),
        ("a blank before it", odd(" GET / HTTP/1.1\r\n", "good.test"), false),
        ("another version", odd("GET / HTTP/1.10\r\n", "good.test"), false),
        ("a user before the name", http("good.test@evil.test"), false),
        ("a user and its word", http("good.test:80@evil.test"), false),
        ("no Host", b"GET / HTTP/1.1\r\n\r\n".to_vec(), false),
        ("an empty Host", http(""), false),
        ("a proxy to elsewhere", b"CONNECT evil.test:443 HTTP/1.1\r\n\r\n".to_vec(), false),
        ("after four empty lines", [b"\r\n".repeat(4), http("good.test")].concat(), true),
        ("after many", [b"\r\n".repeat(5), http("good.test")].concat(), false),
        ("another protocol", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), false),
        ("another, like HTTP at first", b"EHLO good.test\r\n".to_vec(), false),
        ("a hello that lies about its length", tls::lying(), false),
    ];
    for (what, bytes, expected) in table {
        for outside in BOUND {
            for port in [443, 8443, 80] {
                let (passes, told) = passes_under(BY_NAME, at(ip(outside), port), bytes);
                assert_eq!(passes, *expected, "{what} to {outside}, port {port}");
                assert_eq!(told.len(), usize::from(!passes), "{what}: {told:?}");
            }
        }
    }
    // The address by itself is nothing, whatever name is said there.
    let (passes, told) = {
        let mut room = room(BY_NAME.0, BY_NAME.1);
        let mut world = room.world();
        (passes(&mut world, at(ip("1.1.1.1"), 443), &good), world.denials.len())
    };
    assert_eq!((passes, told), (false, 1), "a forged name to an address that no name leads to");
}

#[test]
fn a_denial_tells_the_name_that_was_said_and_why() {
    let to = at(ip("1.1.1.1"), 443);
    let (_, told) = passes_under(BY_NAME, to, &tls::hello("evil.test"));
    assert_eq!(told, [(By::Default, DenialReason::Policy, Some("evil.test".to_owned()))]);
    let (_, told) = passes_under(BY_NAME, to, &tls::hello_without_name());
    assert_eq!(told, [(By::Default, DenialReason::NameUnknown, None)]);
    let denies = (Permission::Allow, &["deny any all *.evil.test"][..]);
    let (_, told) = passes_under(denies, to, &tls::hello("a.evil.test"));
    assert_eq!(told, [(By::Rule(0), DenialReason::Policy, Some("a.evil.test".to_owned()))]);
}

#[test]
fn a_name_that_is_denied_must_not_be_said_anywhere_and_all_else_passes() {
    let denies = (Permission::Allow, &["deny any all evil.test"][..]);
    let table: &[(&str, Vec<u8>, bool)] = &[
        ("the name", tls::hello("evil.test"), false),
        ("the name to HTTP", http("evil.test"), false),
        ("two Hosts", b"GET / HTTP/1.1\r\nHost: a.test\r\nHost: evil.test\r\n\r\n".to_vec(), false),
        ("the name after many empty lines", [b"\n".repeat(9), http("evil.test")].concat(), false),
        ("a method in small letters", odd("get / HTTP/1.1\r\n", "evil.test"), false),
        ("a method of 80 letters", odd(&format!("{} / HTTP/1.1\r\n", "A".repeat(80)), "x"), false),
        ("a first line with a bare line feed", odd("GET / HTTP/1.1\n", "evil.test"), false),
        ("tabs between its words", odd("GET\t/\tHTTP/1.1\r\n", "evil.test"), false),
        ("a blank before it", odd(" GET / HTTP/1.1\r\n", "evil.test"), false),
        ("another version", odd("GET / http/1.10 \r\n", "evil.test"), false),
        ("a line without end", vec![b'A'; 16 * 1024], false),
        ("another", tls::hello("good.test"), true),
        ("another in small letters", odd("get / HTTP/1.1\r\n", "good.test"), true),
        ("no name", tls::hello_without_name(), true),
        ("another protocol", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), true),
        ("a line of another protocol", b"a1 LOGIN x y\r\n".to_vec(), true),
        ("bytes that are nothing", vec![0, 1, 2, 3], true),
        ("bytes behind a word", b"AMQP\0\0\x09\x01".to_vec(), true),
        ("a name like it", tls::hello("notevil.test"), true),
    ];
    for (what, bytes, expected) in table {
        for outside in BOUND {
            let (passes, _) = passes_under(denies, at(ip(outside), 9443), bytes);
            assert_eq!(passes, *expected, "{what}");
        }
    }
}

#[test]
fn where_a_name_changes_nothing_the_host_connects_before_the_guest_is_answered() {
    for (default, lines) in [
        (Permission::Allow, &["allow any all good.test"][..]),
        (Permission::Deny, &["allow any all public", "allow any all good.test"]),
        (Permission::Allow, &["deny any all evil.test"]),
    ] {
        let mut room = room(default, lines);
        let mut world = room.world();
        world.peers.answer = Answer::Refuse(Refusal::Refused);
        let script = Script::new(at(ip("1.1.1.1"), 22), 40_000);
        world.send(&frame::tcp(script.to, &script.syn()));
        assert!(world.inbox()[0].tcp().unwrap().has(flag::RST), "refused as the outside did");
    }
}

#[test]
fn the_outside_may_speak_first_where_a_denied_name_is_listened_for() {
    let mut room = room(Permission::Allow, &["deny any all evil.test"]);
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(ip("1.1.1.1"), 25), 40_000);
    world.give(b"220 mail.test\r\n");
    script.read(&mut world);
    assert_eq!(script.received, b"220 mail.test\r\n");
    script.say(&mut world, 0, b"EHLO a.test\r\n");
    assert_eq!(world.stream().received, b"EHLO a.test\r\n", "nothing waits for more");
    world.finish();
    script.read(&mut world);
    assert!(script.finished);
}

#[test]
fn a_hello_may_come_in_any_pieces() {
    for (records, segment) in [(usize::MAX, 1), (1, 1460), (1, 1), (7, 100), (16_000, 1460)] {
        for name in ["good.test", "evil.test"] {
            let mut room = room(BY_NAME.0, BY_NAME.1);
            let mut world = room.world();
            let to = at(ip("1.1.1.1"), 443);
            bind(&mut world, "good.test", to.ip());
            let mut script = Script::connect(&mut world, to, 40_000);
            // With keys for an exchange that quantum computers do not break, and then some.
            let bytes = tls::in_records(&tls::long_hello(name, 3000), records);
            for chunk in bytes.chunks(segment) {
                assert!(!is_connected(&world), "before all of the hello is there");
                script.say(&mut world, 0, chunk);
            }
            assert_eq!(
                (is_connected(&world), script.reset),
                (name == "good.test", name == "evil.test")
            );
            if name == "good.test" {
                assert_eq!(world.stream().received, bytes);
            }
        }
    }
}

#[test]
fn a_hello_of_64_kib_is_read_and_a_longer_one_is_not() {
    for (padding, expected) in [(65_000, true), (66_000, false)] {
        let mut room = Room::with(|config| {
            config.tcp_receive_bytes = 1 << 17;
            config.policy = Policy::new(BY_NAME.0, Permission::Deny);
            BY_NAME.1.iter().for_each(|line| push(&mut config.policy, line));
        });
        let mut world = room.world();
        let to = at(ip("1.1.1.1"), 443);
        bind(&mut world, "good.test", to.ip());
        let hello = tls::in_records(&tls::long_hello("good.test", padding), 16_384);
        assert_eq!(passes(&mut world, to, &hello), expected, "{padding}");
    }
}

#[test]
fn a_hello_that_no_buffer_holds_is_denied() {
    let mut room = room(BY_NAME.0, BY_NAME.1); // whose buffers have 64 KiB
    let mut world = room.world();
    let to = at(ip("1.1.1.1"), 443);
    bind(&mut world, "good.test", to.ip());
    let hello = tls::in_records(&tls::long_hello("good.test", 60_000), 1);
    let mut script = Script::connect(&mut world, to, 40_000);
    let mut chunks = hello.chunks(1460);
    let sent = chunks.by_ref().take_while(|chunk| {
        script.say(&mut world, 0, chunk);
        !script.reset
    });
    assert!(sent.count() * 1460 < 64 * 1024, "as soon as it is plain");
    assert!(script.reset && !is_connected(&world));
}

#[test]
fn who_says_nothing_has_five_seconds() {
    for (default, lines, is_denied) in
        [(BY_NAME.0, BY_NAME.1, true), (Permission::Allow, &["deny any all evil.test"][..], false)]
    {
        let mut room = room(default, lines);
        let mut world = room.world();
        let to = at(ip("1.1.1.1"), 443);
        if is_denied {
            bind(&mut world, "good.test", to.ip());
        }
        let mut script = Script::connect(&mut world, to, 40_000);
        let half = &tls::hello("evil.test")[..50];
        script.say(&mut world, 0, half);
        world.advance(limits::TCP_LOOK_MS_MAX - 1);
        script.read(&mut world);
        assert!(!script.reset, "it still has time");
        world.advance(2);
        script.read(&mut world);
        assert_eq!(script.reset, is_denied);
        if is_denied {
            assert_eq!(world.denials[0].reason, DenialReason::NameUnknown);
            assert!(!is_connected(&world));
        } else {
            assert_eq!(world.stream().received, half, "half of a hello is nobody's name");
        }
    }
}

#[test]
fn a_guest_that_ends_or_resets_what_nobody_knows_of_is_forgotten() {
    for flags in [flag::RST, flag::FIN] {
        let mut room = room(BY_NAME.0, BY_NAME.1);
        let mut world = room.world();
        let to = at(ip("1.1.1.1"), 443);
        bind(&mut world, "good.test", to.ip());
        for _ in 0..40 {
            // More often than there are slots.
            let mut script = Script::connect(&mut world, to, 40_000);
            script.say(&mut world, 0, &tls::hello("good.test")[..20]);
            script.say(&mut world, flags, &[]);
            world.advance(10);
        }
        assert!(!is_connected(&world));
        assert_eq!(world.counters().dropped(Drop::FlowsFull), 0);
        let expected = if flags == flag::FIN { 40 } else { 0 };
        assert_eq!(world.denials.len(), expected, "an end without a name is denied");
    }
}

#[test]
fn a_connect_that_fails_after_the_name_was_said_is_a_reset() {
    for refusal in [Refusal::Refused, Refusal::HostUnreachable, Refusal::TimedOut] {
        let mut room = room(BY_NAME.0, BY_NAME.1);
        let mut world = room.world();
        let to = at(ip("1.1.1.1"), 443);
        bind(&mut world, "good.test", to.ip());
        world.peers.answer = Answer::Silence;
        let mut script = Script::connect(&mut world, to, 40_000);
        let hello = tls::hello("good.test");
        script.say(&mut world, 0, &hello);
        assert!(is_connected(&world) && world.stream().received.is_empty());
        world.advance(limits::TCP_LOOK_MS_MAX * 2);
        assert!(!script.reset, "the connect has its own time");
        world.refuse(refusal);
        script.read(&mut world);
        assert!(script.reset);
    }
}

#[test]
fn a_connect_that_never_ends_after_the_name_was_said_is_given_up() {
    let mut room = room(BY_NAME.0, BY_NAME.1);
    let mut world = room.world();
    let to = at(ip("1.1.1.1"), 443);
    bind(&mut world, "good.test", to.ip());
    world.peers.answer = Answer::Silence;
    let mut script = Script::connect(&mut world, to, 40_000);
    script.say(&mut world, 0, &tls::hello("good.test"));
    world.advance(limits::TCP_CONNECT_MS_MAX + 1);
    script.read(&mut world);
    assert!(script.reset && world.peers.streams.is_empty());
}

#[test]
fn what_is_said_waits_for_the_connect_and_arrives_in_order() {
    let mut room = room(BY_NAME.0, BY_NAME.1);
    let mut world = room.world();
    let to = at(ip("1.1.1.1"), 443);
    bind(&mut world, "good.test", to.ip());
    world.peers.answer = Answer::Silence;
    let mut script = Script::connect(&mut world, to, 40_000);
    let hello = tls::hello("good.test");
    script.say(&mut world, 0, &hello);
    script.say(&mut world, 0, b"more");
    script.finish(&mut world);
    world.accept();
    let received = world.stream().received.clone();
    assert_eq!(received, [hello.as_slice(), b"more"].concat());
    assert!(world.stream().guest_finished);
}

#[test]
fn without_strictness_what_says_no_name_is_judged_by_its_address() {
    for (bytes, expected) in [
        (tls::hello_without_name(), true),
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), true),
        (tls::hello("good.test"), true),
        (tls::hello("evil.test"), false),
        (http("evil.test"), false),
    ] {
        let mut room = Room::with(|config| {
            config.strict = false;
            config.policy = Policy::new(BY_NAME.0, Permission::Deny);
            BY_NAME.1.iter().for_each(|line| push(&mut config.policy, line));
        });
        let mut world = room.world();
        bind(&mut world, "good.test", ip("1.1.1.1"));
        assert_eq!(passes(&mut world, at(ip("1.1.1.1"), 443), &bytes), expected);
    }
}

#[test]
fn a_rule_says_for_itself_whether_a_name_that_leads_there_is_enough() {
    let ssh: &[u8] = b"SSH-2.0-OpenSSH_9.2\r\n";
    for (rule, strict, is_tenants, expected) in [
        ("allow egress tcp good.test", true, false, false),
        ("lax allow egress tcp good.test", true, false, true),
        ("lax allow egress tcp *.test", true, false, true),
        ("strict allow egress tcp good.test", false, false, false),
        ("allow egress tcp good.test", false, false, true),
        // What a tenant says of it does not count.
        ("lax allow egress tcp good.test", true, true, false),
    ] {
        for (said, expected) in [
            (ssh.to_vec(), expected),
            // A name that is said is to be the right one, whatever the rule.
            (tls::hello("good.test"), true),
            (tls::hello("evil.com"), false),
        ] {
            // Of the two it is the rule that allows which counts.
            let lines = [rule, "lax allow egress tcp other.test"];
            let mut room = Room::with(|config| {
                config.strict = strict;
                config.policy = Policy::new(Permission::Deny, Permission::Deny);
                lines.iter().for_each(|line| push(&mut config.policy, line));
                if is_tenants {
                    config.policy.profile = Profile::MultiTenant;
                }
            });
            let mut world = room.world();
            bind(&mut world, "good.test", ip("1.1.1.1"));
            let passes = passes(&mut world, at(ip("1.1.1.1"), 443), &said);
            assert_eq!(passes, expected, "{rule}, {strict}: {said:?}");
        }
    }
}

#[test]
fn a_datagram_says_no_name_and_at_the_port_of_quic_that_is_not_enough() {
    for (strict, port, expected) in
        [(true, 443, false), (true, 123, true), (false, 443, true), (false, 123, true)]
    {
        let mut room = Room::with(|config| {
            config.strict = strict;
            config.policy = Policy::new(BY_NAME.0, Permission::Deny);
            BY_NAME.1.iter().for_each(|line| push(&mut config.policy, line));
        });
        let mut world = room.world();
        bind(&mut world, "good.test", ip("1.1.1.1"));
        let reason = world.dropped(&frame::udp(2000, at(ip("1.1.1.1"), port), b"hello"));
        assert_eq!(reason, (!expected).then_some(Drop::Denied), "strict {strict}, port {port}");
    }
}
