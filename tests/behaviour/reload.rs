//! A configuration is replaced while flows are open: what it forbids ends, what it allows does not
//! notice, and what can't change is refused as a whole. And the list of flows, which tells what
//! each is, and by what it is allowed.

use core::net::SocketAddr;

use sim::frame::{self, flag};
use sim::guest::Script;
use sim::{Did, Message, Room, World, tls};
use sluicegate_core::{
    Bucket, By, Config, Direction, FlowId, FlowState, Inbound, Permission, Policy, Protocol, Rate,
};

use crate::inspection::bind;
use crate::policy_rules::{config_of, ip, push};
use crate::{Error, assert_error_about, at, only};

/// What any flow is listed as: protocol, other end, name, state, and what allows it.
type Listed = (Protocol, SocketAddr, Option<String>, FlowState, By);

pub(crate) fn room<'a>(default: &str, lines: &[&str]) -> Room<'a> {
    Room::new(Config { keeps_names: true, ..config_of(default, lines) })
}

/// Lets `lines` over `default` hold, as the host does it.
pub(crate) fn reload(world: &mut World<'_>, default: &str, lines: &[&str]) {
    world.replace_config(&config_of(default, lines)).expect("because only the policy is another");
}

/// All flows but those on which names are asked.
fn listed(world: &World<'_>) -> Vec<Listed> {
    let flows = world.engine.flows().filter(|flow| flow.outside.port() != 53);
    flows.map(|f| (f.protocol, f.outside, f.name.map(str::to_owned), f.state, f.by)).collect()
}

/// Whether bytes of `script` still reach the outside.
fn passes(world: &mut World<'_>, script: &mut Script) -> bool {
    script.send(world, b"more");
    !script.reset && world.stream().received.ends_with(b"more")
}

#[test]
fn what_is_forbidden_is_reset_and_what_is_allowed_goes_on() {
    let mut room = room("allow", &[]);
    let mut world = room.world();
    let mut stays = Script::connect(&mut world, at(ip("1.1.1.1"), 80), 40_000);
    world.peers.log.clear();
    let [mut goes, to] = [(); 2].map(|()| Script::new(at(ip("1.1.1.2"), 80), 40_001));
    let waiting = Script::new(at(ip("1.1.1.2"), 81), 40_002);
    let datagrams = ["1.1.1.1", "1.1.1.2"].map(|a| frame::udp(1, at(ip(a), 443), b"ask"));
    goes.open(&mut world);
    datagrams.iter().for_each(|datagram| world.send(datagram));
    let id = world.peers.streams.values().map(|s| s.id).max_by_key(|id| id.index).unwrap();
    world.inbox();
    reload(&mut world, "deny", &["allow egress all 1.1.1.1/32"]);
    let inbox = world.inbox();
    let resets: Vec<u16> = inbox
        .iter()
        .filter_map(|seen| seen.tcp())
        .map(|segment| {
            assert!(segment.has(flag::RST), "{segment:?}");
            segment.ports.1
        })
        .collect();
    assert_eq!(resets, [to.port]);
    let errors: Vec<_> = inbox.iter().filter(|seen| seen.icmp().is_some()).collect();
    let [error] = errors[..] else { panic!("one for the datagram that went there: {inbox:?}") };
    assert_error_about(error, Error::PROHIBITED.of(ip("1.1.1.2")), &datagrams[1]);
    assert!(!world.engine.is_live(id), "the host closes its socket");
    assert!(passes(&mut world, &mut stays));
    assert_eq!(world.peers.datagrams.len(), 1);
    // And what is new is judged by what holds now.
    world.send(&frame::tcp(waiting.to, &waiting.syn()));
    assert!(only(&mut world).tcp().is_some_and(|segment| segment.has(flag::RST)));
}

#[test]
fn a_verdict_is_a_hit_of_the_rule_that_decided_and_rules_that_are_others_begin_anew() {
    let lines = [
        "deny egress tcp 1.1.1.2/32",
        "allow egress all 1.1.1.1/32",
        "allow ingress all 203.0.113.9/32",
    ];
    let mut room = room("deny", &lines);
    let mut world = room.world();
    let _open = Script::connect(&mut world, at(ip("1.1.1.1"), 80), 40_000);
    // Datagrams of one flow are one verdict.
    for _ in 0..3 {
        world.send(&frame::udp(1, at(ip("1.1.1.1"), 443), b"ask"));
    }
    for (port, address) in [(40_001, "1.1.1.2"), (40_002, "1.1.1.2"), (40_003, "1.1.1.3")] {
        let script = Script::new(at(ip(address), 80), port);
        world.send(&frame::tcp(script.to, &script.syn()));
    }
    let (now, peer) = (world.clock.now(), at(ip("203.0.113.9"), 5000));
    let inbound = Inbound { protocol: Protocol::Udp, peer, guest_port: 7, is_ipv6: false };
    world.engine.open_inbound(now, &inbound).expect("because it is allowed");
    let hits = |world: &World<'_>| world.engine.hits().collect::<Vec<_>>();
    let expected = [
        (By::Rule(0), 2),
        (By::Rule(1), 2),
        (By::Rule(2), 1),
        (By::Default, 1),
        (By::Platform, 0),
        (By::Gateway, 0),
    ];
    assert_eq!(hits(&world), expected);
    let counters = world.engine.counters();
    let verdicts: u64 = counters.allowed.iter().chain(&counters.denied).sum();
    assert_eq!(verdicts, expected.iter().map(|(_, hits)| hits).sum());
    // What is judged anew by a change is no verdict more.
    reload(&mut world, "deny", &lines);
    assert_eq!(hits(&world), expected);
    reload(&mut world, "deny", &lines[1..]);
    let none = [By::Rule(0), By::Rule(1), By::Default, By::Platform, By::Gateway];
    assert_eq!(hits(&world), none.map(|by| (by, 0)));
}

#[test]
fn a_connection_that_the_host_has_yet_to_make_is_refused() {
    let mut room = room("allow", &[]);
    let mut world = room.world();
    world.peers.answer = sim::Answer::Silence;
    let script = Script::new(at(ip("1.1.1.1"), 80), 40_000);
    world.send(&frame::tcp(script.to, &script.syn()));
    let listed = listed(&world);
    assert_eq!(listed, [(Protocol::Tcp, script.to, None, FlowState::Connecting, By::Default)]);
    reload(&mut world, "deny", &[]);
    let reset = only(&mut world);
    let reset = reset.tcp().expect("a segment");
    assert!(reset.has(flag::RST | flag::ACK));
    assert_eq!(reset.ack, script.next.wrapping_add(1), "it answers the SYN");
    assert_eq!(world.engine.flows().count(), 0);
}

/// A connection to 1.1.1.1:443 that said `good.test`, under a policy that allows that name.
fn said_good<'a>(world: &mut World<'a>) -> Script {
    bind(world, "good.test", ip("1.1.1.1"));
    let mut script = Script::new(at(ip("1.1.1.1"), 443), 40_000);
    script.open(world);
    script.send(world, &tls::hello("good.test"));
    assert!(!script.reset && world.stream().received == tls::hello("good.test"));
    script
}

const BY_NAME: [&str; 2] = ["allow any all host", "allow any all good.test"];

#[test]
fn what_was_allowed_by_the_name_it_said_stays_after_the_name_was_forgotten() {
    let mut room = room("deny", &BY_NAME);
    let mut world = room.world();
    let mut script = said_good(&mut world);
    let expected =
        (Protocol::Tcp, script.to, Some("good.test".to_owned()), FlowState::Open, By::Rule(1));
    assert_eq!(listed(&world), std::slice::from_ref(&expected));
    world.advance(2 * 60 * 60 * 1000);
    let now = world.now();
    assert!(!world.engine.is_bound(now, ip("1.1.1.1"), "good.test"), "its time is over");
    script.read(&mut world);
    reload(&mut world, "deny", &["allow any all other.test", BY_NAME[0], BY_NAME[1]]);
    assert!(passes(&mut world, &mut script));
    let (protocol, to, name, state, _) = expected;
    assert_eq!(listed(&world), [(protocol, to, name, state, By::Rule(2))], "by its rule of now");
    reload(&mut world, "deny", &["allow any all host", "allow any all other.test"]);
    script.read(&mut world);
    assert!(script.reset);
    assert_eq!(listed(&world), []);
}

#[test]
fn what_had_no_need_to_say_a_name_ends_where_it_would_need_to_now() {
    for strict in [true, false] {
        let mut room = room("allow", &[]);
        let mut world = room.world();
        bind(&mut world, "good.test", ip("1.1.1.1"));
        let mut script = Script::connect(&mut world, at(ip("1.1.1.1"), 443), 40_000);
        script.send(&mut world, &tls::hello("good.test"));
        let named = Some("good.test".to_owned());
        assert_eq!(listed(&world)[0].2, named, "known by the name that was resolved");
        let config = Config { strict, ..config_of("deny", &BY_NAME) };
        world.replace_config(&config).unwrap();
        script.read(&mut world);
        // Without `strict` the names of its address are enough.
        assert_eq!(script.reset, strict);
    }
}

#[test]
fn a_name_that_is_denied_now_ends_what_said_it_and_what_leads_there() {
    let deny = ["deny any all good.test"];
    let mut room = room("deny", &BY_NAME);
    let mut world = room.world();
    let mut script = said_good(&mut world);
    let ask = frame::udp(1, at(ip("1.1.1.1"), 4433), b"ask");
    world.send(&ask);
    assert_eq!(listed(&world).len(), 2);
    world.inbox();
    reload(&mut world, "allow", &deny);
    script.read(&mut world);
    assert!(script.reset);
    assert_eq!(listed(&world), []);
}

#[test]
fn who_has_yet_to_speak_is_judged_when_it_speaks_by_what_holds_then() {
    for (lines, passes) in [(&BY_NAME[..], false), (&["allow any all evil.test"][..], true)] {
        let mut room = room("deny", &BY_NAME);
        let mut world = room.world();
        for name in ["good.test", "evil.test"] {
            bind(&mut world, name, ip("1.1.1.1"));
        }
        let mut script = Script::new(at(ip("1.1.1.1"), 443), 40_000);
        script.open(&mut world);
        assert_eq!(listed(&world)[0].3, FlowState::Hearing);
        reload(&mut world, "deny", lines);
        script.send(&mut world, &tls::hello("evil.test"));
        assert_eq!(!script.reset, passes, "{lines:?}");
    }
}

#[test]
fn who_came_from_outside_is_judged_by_who_it_is() {
    let mut room = room("allow", &["allow ingress all any"]);
    let mut world = room.world();
    let peers = ["203.0.113.9", "203.0.113.10"].map(|peer| at(ip(peer), 5000));
    let flows: Vec<FlowId> = peers
        .iter()
        .map(|peer| {
            let now = world.now();
            let inbound =
                Inbound { protocol: Protocol::Udp, peer: *peer, guest_port: 53, is_ipv6: false };
            world.engine.open_inbound(now, &inbound).expect("because it is allowed")
        })
        .collect();
    let known: Vec<_> = world.engine.flows().map(|f| (f.id, f.direction, f.peer)).collect();
    let expected: Vec<_> =
        flows.iter().zip(peers).map(|(id, peer)| (*id, Direction::Ingress, Some(peer))).collect();
    assert_eq!(known, expected);
    let one = ["allow ingress all 203.0.113.10/32", "deny ingress all any"];
    reload(&mut world, "allow", &one);
    assert_eq!(flows.iter().map(|id| world.engine.is_live(*id)).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn who_came_by_datagram_ends_and_the_guest_hears_only_of_what_it_answered() {
    for answers in [false, true] {
        let mut room = room("allow", &["allow ingress all any"]);
        let mut world = room.world();
        let (peer, now) = (at(ip("203.0.113.9"), 5000), world.now());
        let inbound = Inbound { protocol: Protocol::Udp, peer, guest_port: 53, is_ipv6: false };
        let flow = world.engine.open_inbound(now, &inbound).expect("because it is allowed");
        world.engine.deliver(now, flow, b"ask");
        world.run();
        let Message::Udp { ends, ports, .. } = only(&mut world).message else { panic!("asked") };
        let answer = frame::udp(ports.1, at(ends.0, ports.0), b"answer");
        if answers {
            world.send(&answer);
        }
        reload(&mut world, "allow", &["deny ingress all any"]);
        assert!(!world.engine.is_live(flow));
        if answers {
            assert_error_about(&only(&mut world), Error::PROHIBITED.of(ends.0), &answer);
        }
        assert!(world.inbox().is_empty(), "it can not be told of what it has not sent");
    }
}

#[test]
fn a_name_is_sure_where_it_was_said_and_leads_there_or_where_it_is_the_only_one() {
    let mut room = room("allow", &["deny any all bad.test"]);
    let mut world = room.world();
    let to = at(ip("1.1.1.1"), 443);
    let sure = |world: &World<'_>| {
        let (now, flow) = (world.now(), world.engine.flows().find(|flow| flow.outside == to));
        world.engine.sure_name(now, flow.unwrap().id).map(str::to_owned)
    };
    let meant = |world: &World<'_>| -> Vec<String> {
        let (now, flow) = (world.now(), world.engine.flows().find(|flow| flow.outside == to));
        world.engine.names_meant(now, flow.unwrap().id).map(str::to_owned).collect()
    };
    let mut first = Script::new(to, 40_000);
    first.open(&mut world);
    assert_eq!(sure(&world), None, "nobody has resolved any");
    bind(&mut world, "good.test", ip("1.1.1.1"));
    assert_eq!(sure(&world).as_deref(), Some("good.test"), "the only one");
    bind(&mut world, "other.test", ip("1.1.1.1"));
    assert_eq!(sure(&world), None, "one of two");
    assert_eq!(meant(&world), ["good.test", "other.test"]);
    first.send(&mut world, &tls::hello("other.test"));
    assert_eq!(sure(&world).as_deref(), Some("other.test"), "it was said");
    assert_eq!(meant(&world), ["other.test"]);
    first.say(&mut world, flag::RST, &[]);
    let mut second = Script::new(to, 40_001);
    second.open(&mut world);
    second.send(&mut world, &tls::hello("elsewhere.test"));
    assert_eq!(sure(&world), None, "it was said, and does not lead there");
    assert_eq!(meant(&world), Vec::<String>::new());
}

#[test]
fn others_may_look_for_where_a_name_leads_only_if_a_rule_about_it_allowed_the_flow() {
    let to = at(ip("1.1.1.1"), 443);
    for (default, rules, is_by_name) in [
        ("deny", &["allow egress all *.test"][..], true),
        ("deny", &["deny egress all bad.test", "allow egress all good.test"], true),
        ("deny", &["allow egress all public", "allow egress all good.test"], false),
        ("deny", &["allow egress all any", "deny egress all bad.test"], false),
        ("allow", &["deny egress all private", "deny egress all bad.test"], false),
    ] {
        let mut room = room(default, rules);
        let mut world = room.world();
        bind(&mut world, "good.test", ip("1.1.1.1"));
        let mut script = Script::new(to, 40_000);
        script.open(&mut world);
        script.send(&mut world, &tls::hello("good.test"));
        let id = world.engine.flows().find(|flow| flow.outside == to).unwrap().id;
        assert_eq!(world.engine.sure_name(world.now(), id), Some("good.test"), "{rules:?}");
        assert_eq!(world.engine.is_allowed_by_name(id, "good.test"), is_by_name, "{rules:?}");
        assert!(!world.engine.is_allowed_by_name(id, "bad.test") || rules.len() == 1, "{rules:?}");
    }
}

/// Lets everything pass, and TLS end here where `is_intercepted`.
fn intercepting(is_intercepted: bool) -> Config {
    let mut config = config_of("allow", &[]);
    config.intercepted_ports.extend(is_intercepted.then_some(443));
    config
}

fn is_intercepted(world: &World<'_>) -> bool {
    world.peers.log.iter().any(|did| matches!(did, Did::Intercept { .. }))
}

#[test]
fn tls_is_intercepted_from_now_on_or_no_longer_for_who_has_yet_to_say_hello() {
    for begins in [false, true] {
        let mut room = Room::new(intercepting(!begins));
        let mut world = room.world();
        let to = at(ip("1.1.1.1"), 443);
        let hello = tls::hello("good.test");
        let mut open = Script::connect(&mut world, to, 40_000);
        open.send(&mut world, &hello);
        assert_eq!(is_intercepted(&world), !begins);
        let mut silent = Script::connect(&mut world, to, 40_001);
        let quic = frame::udp(9, to, b"initial");
        world.send(&quic);
        assert_eq!(world.peers.datagrams.len(), usize::from(begins), "QUIC");
        world.peers.log.clear();
        world.inbox();
        world.replace_config(&intercepting(begins)).unwrap();
        assert_eq!(world.peers.datagrams.len(), 0, "QUIC ends where it would be refused");
        if begins {
            // As by a closed port, before and after, so that clients take TCP at once.
            let refused = Error::PORT_UNREACHABLE.of(to.ip());
            assert_error_about(&only(&mut world), refused, &quic);
            world.send(&quic);
            assert_error_about(&only(&mut world), refused, &quic);
        }
        // What is open is as it was, and so is who was connected to the server already.
        open.send(&mut world, b"more");
        silent.send(&mut world, &hello);
        assert!(!open.reset && !silent.reset && !is_intercepted(&world));
        assert!(world.peers.streams.values().any(|s| s.received.ends_with(b"more")));
        assert!(world.peers.streams.values().any(|s| s.received == hello));
        let mut new = Script::connect(&mut world, to, 40_002);
        new.send(&mut world, &hello);
        assert_eq!(is_intercepted(&world), begins);
    }
}

#[test]
fn names_over_tls_end_where_tls_is_no_longer_intercepted() {
    let mut room = Room::new(intercepting(true));
    let mut world = room.world();
    let to = at(ip("1.1.1.1"), 853);
    let mut silent = Script::connect(&mut world, to, 40_000);
    let mut asks = Script::connect(&mut world, to, 40_001);
    asks.send(&mut world, &tls::hello("dns.test"));
    let mut config = intercepting(true);
    config.intercepted_ports.push(8443).unwrap();
    world.replace_config(&config).unwrap();
    [&mut silent, &mut asks].into_iter().for_each(|script| script.read(&mut world));
    assert!(!silent.reset && !asks.reset, "they are still answered");
    world.peers.log.clear();
    world.replace_config(&intercepting(false)).unwrap();
    world.advance(10_000);
    [&mut silent, &mut asks].into_iter().for_each(|script| script.read(&mut world));
    assert!(silent.reset && asks.reset && !is_intercepted(&world));
    assert_eq!(world.engine.flow_counts()[0], 0);
}

#[test]
fn what_can_not_change_is_refused_and_nothing_has_changed() {
    let mut room = Room::new(config_of("allow", &[]));
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(ip("1.1.1.1"), 80), 40_000);
    let deny = || Config {
        policy: Policy::new(Permission::Deny, Permission::Deny),
        ..config_of("deny", &[])
    };
    type Change = fn(&mut Config);
    let cases: [(&str, Change); 4] = [
        ("interface", |config| config.link.mtu = 9000),
        ("max_connections", |config| config.tcp_flows_max += 1),
        ("fragment_sets", |config| config.fragment_sets = 0),
        ("policy.rules", |config| push(&mut config.policy, "allow any all good.test")),
    ];
    for (field, change) in cases {
        let mut config = deny();
        change(&mut config);
        let error = world.replace_config(&config).unwrap_err();
        assert_eq!(error.field, field);
        assert!(passes(&mut world, &mut script), "{field}: nothing has changed");
    }
    world.replace_config(&deny()).unwrap();
    script.read(&mut world);
    assert!(script.reset);
}

#[test]
fn a_rate_that_stays_goes_on_and_a_new_one_holds_at_once() {
    let slow = |bytes| {
        Some(Rate {
            bandwidth: Some(Bucket { size: bytes, refill_ms: 1000, one_time_burst: 0 }),
            ops: None,
        })
    };
    let config = |bytes| Config { to_guest_rate: slow(bytes), ..config_of("allow", &[]) };
    let mut room = Room::new(config(1_000_000));
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(ip("1.1.1.1"), 80), 40_000);
    let came = |world: &mut World<'_>, script: &mut Script| {
        let before = script.received.len();
        world.give(&[7; 20_000]);
        script.read(world);
        script.received.len() - before
    };
    assert_eq!(came(&mut world, &mut script), 20_000);
    world.replace_config(&config(1000)).unwrap();
    let few = came(&mut world, &mut script);
    assert!(few < 20_000, "{few} bytes at once");
    // The same again gives no new bucket.
    world.replace_config(&config(1000)).unwrap();
    world.run();
    script.read(&mut world);
    assert_eq!(came(&mut world, &mut script), 0);
    world.replace_config(&Config { to_guest_rate: None, ..config(1) }).unwrap();
    world.run();
    script.read(&mut world);
    assert_eq!(script.received.len(), 3 * 20_000);
}

#[test]
fn a_flow_ends_when_somebody_asks_for_it_and_its_bytes_are_counted() {
    let mut room = room("allow", &[]);
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(ip("1.1.1.1"), 80), 40_000);
    script.send(&mut world, &[1; 3000]);
    world.give(&[2; 300]);
    script.read(&mut world);
    world.send(&frame::udp(9, at(ip("1.1.1.1"), 99), b"ask"));
    world.deliver(world.datagram(), b"answer");
    let counted: Vec<_> =
        world.engine.flows().map(|f| (f.id, f.from_guest_bytes, f.to_guest_bytes)).collect();
    let [(tcp, 3000, 300), (udp, 3, 6)] = counted[..] else { panic!("{counted:?}") };
    world.inbox();
    for id in [tcp, udp] {
        let now = world.now();
        assert!(world.engine.end(now, id));
        assert!(!world.engine.is_live(id));
        let now = world.now();
        assert!(!world.engine.end(now, id), "once");
    }
    world.close_ended();
    script.read(&mut world);
    assert!(script.reset);
    assert_eq!(world.engine.flows().count(), 0);
}
