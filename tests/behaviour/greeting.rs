//! A client of HTTP/2 by prior knowledge may say no name before its server has spoken (RFC 9113
//! 3.4). Where a name that leads there is allowed, the host connects to let the server speak, and
//! hears nothing of the guest before the name was said, and judged.

use sim::guest::Script;
use sim::{Answer, Did, Room, World};
use sluicegate_core::{
    Beginning, By, Config, DenialReason, DenyFormat, DenyPage, FlowState, Permission, Policy,
    Refusal, limits,
};

use crate::at;
use crate::inspection::{BY_NAME, bind, field, is_connected, room};
use crate::policy_rules::{ip, push};
use crate::reload;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0];
const ACK: &[u8] = &[0, 0, 0, 4, 1, 0, 0, 0, 0];
/// Settings that change nothing.
const WELCOME: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const WINDOW_UPDATE: &[u8] = &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 1, 0, 0];

fn greeting() -> Vec<u8> {
    [PREFACE, SETTINGS, WINDOW_UPDATE].concat()
}

/// What a client says once it has heard its server: a request for `name`.
fn request(name: &str) -> Vec<u8> {
    let head = [&[0x82, 0x86, 0x84][..], &field(1, "", name)].concat();
    [ACK, &[0, 0, head.len() as u8, 1, 5, 0, 0, 0, 1], &head].concat()
}

/// A connection to the address of good.test, on which `bytes` were said.
fn said(world: &mut World<'_>, bytes: &[u8]) -> Script {
    bind(world, "good.test", ip("1.1.1.1"));
    said_to(world, 50_051, bytes)
}

/// The same to `port` of that address, to which no name leads.
fn said_to(world: &mut World<'_>, port: u16, bytes: &[u8]) -> Script {
    let mut script = Script::connect(world, at(ip("1.1.1.1"), port), 40_000);
    script.say(world, 0, bytes);
    assert!(!is_connected(world) && !script.reset, "whom it is for is not known yet");
    script
}

fn is_reset_outside(world: &World<'_>) -> bool {
    world.peers.log.iter().any(|did| matches!(did, Did::Reset { .. }))
}

#[test]
fn the_server_speaks_first_and_hears_nothing_before_the_name_is_judged() {
    for (name, passes) in [("good.test", true), ("evil.test", false)] {
        for greeting in [greeting(), [PREFACE, SETTINGS].concat()] {
            let mut room = room(BY_NAME.0, BY_NAME.1);
            let mut world = room.world();
            let mut script = said(&mut world, &greeting);
            world.advance(limits::TCP_GREETING_MS - 1);
            assert!(!is_connected(&world), "more may come");
            world.advance(1);
            assert!(is_connected(&world));
            world.give(&[SETTINGS, ACK].concat());
            script.read(&mut world);
            assert_eq!(script.received, [SETTINGS, ACK].concat());
            assert!(world.stream().received.is_empty(), "nothing before the name");
            let request = request(name);
            script.say(&mut world, 0, &request[..20]);
            assert!(world.stream().received.is_empty() && !script.reset);
            script.say(&mut world, 0, &request[20..]);
            assert_eq!(script.reset, !passes);
            if passes {
                assert_eq!(world.stream().received, [greeting, request].concat());
                assert!(world.denials.is_empty());
                continue;
            }
            let ended = &world.peers.ended[0];
            assert!(ended.received.is_empty() && is_reset_outside(&world), "{ended:?}");
            assert_eq!(world.denials.len(), 1);
            assert_eq!(world.denials[0].reason, DenialReason::Policy);
            assert_eq!(world.denied_names[0].as_deref(), Some("evil.test"));
        }
    }
}

#[test]
fn who_goes_on_in_time_is_judged_before_anybody_is_connected_to() {
    for (name, passes) in [("good.test", true), ("evil.test", false)] {
        let mut room = room(BY_NAME.0, BY_NAME.1);
        let mut world = room.world();
        let mut script = said(&mut world, &[PREFACE, SETTINGS].concat());
        // Each frame has its time.
        world.advance(limits::TCP_GREETING_MS - 1);
        script.say(&mut world, 0, WINDOW_UPDATE);
        world.advance(limits::TCP_GREETING_MS - 1);
        script.say(&mut world, 0, &request(name));
        assert_eq!((is_connected(&world), script.reset), (passes, !passes));
    }
}

#[test]
fn the_name_may_be_said_while_the_host_connects() {
    for (name, refusal, passes) in [
        ("good.test", None, true),
        ("evil.test", None, false),
        ("good.test", Some(Refusal::Refused), false),
    ] {
        let mut room = room(BY_NAME.0, BY_NAME.1);
        let mut world = room.world();
        world.peers.answer = Answer::Silence;
        let mut script = said(&mut world, &greeting());
        world.advance(limits::TCP_GREETING_MS);
        let is_connecting = |world: &World<'_>| {
            world.engine.flows().any(|flow| flow.state == FlowState::Connecting)
        };
        assert!(is_connecting(&world));
        script.say(&mut world, 0, &request(name));
        if name == "evil.test" {
            assert!(script.reset && is_reset_outside(&world));
            continue;
        }
        assert!(world.stream().received.is_empty() && !script.reset);
        match refusal {
            Some(refusal) => world.refuse(refusal),
            None => world.accept(),
        }
        script.read(&mut world);
        assert_eq!(script.reset, !passes);
        if passes {
            assert_eq!(world.stream().received, [greeting(), request(name)].concat());
        }
    }
}

#[test]
fn a_server_that_is_not_there_and_a_guest_that_says_no_name_are_given_up() {
    for answer in [Answer::Refuse(Refusal::Refused), Answer::Silence, Answer::Accept] {
        let mut room = room(BY_NAME.0, BY_NAME.1);
        let mut world = room.world();
        world.peers.answer = answer;
        let mut script = said(&mut world, &greeting());
        world.advance(limits::TCP_GREETING_MS);
        let ms = match answer {
            Answer::Refuse(_) => 0,
            Answer::Silence => limits::TCP_CONNECT_MS_MAX,
            Answer::Accept => limits::TCP_LOOK_MS_MAX,
        };
        world.advance(ms.saturating_sub(1));
        script.read(&mut world);
        assert_eq!(script.reset, ms == 0, "{answer:?}: it has its time");
        world.advance(1);
        script.read(&mut world);
        assert!(script.reset && world.peers.streams.is_empty(), "{answer:?}");
        let stream = &world.peers.ended[0];
        assert!(stream.received.is_empty(), "{answer:?}");
        let reasons: Vec<_> = world.denials.iter().map(|denial| denial.reason).collect();
        let is_denied = answer == Answer::Accept;
        assert_eq!(reasons, Vec::from_iter(is_denied.then_some(DenialReason::NameUnknown)));
    }
}

#[test]
fn what_is_no_greeting_has_its_five_seconds_and_nobody_is_connected_to() {
    let whole = greeting();
    let also = |more: &[u8]| [&whole, more].concat();
    for (what, bytes) in [
        ("half a preface", &PREFACE[..10]),
        ("a preface alone", PREFACE),
        ("half of the settings", &whole[..PREFACE.len() + 12]),
        ("settings that want as much as a header", &whole[..PREFACE.len() + 6]),
        ("another frame first", &[PREFACE, WINDOW_UPDATE, SETTINGS].concat()),
        ("half a frame behind them", &also(&WINDOW_UPDATE[..11])),
        ("the first byte of one", &also(&[0])),
        ("half of a request of HTTP/1", b"GET / HTTP/1.1\r\nHost: g"),
    ] {
        let mut room = room(BY_NAME.0, BY_NAME.1);
        let mut world = room.world();
        let mut script = said(&mut world, bytes);
        world.advance(limits::TCP_LOOK_MS_MAX - 1);
        script.read(&mut world);
        assert!(!script.reset, "{what}");
        world.advance(1);
        script.read(&mut world);
        assert!(script.reset && !is_connected(&world), "{what}");
    }
    // However often more of them comes.
    let mut room = room(BY_NAME.0, BY_NAME.1);
    let mut world = room.world();
    let mut script = said(&mut world, &[PREFACE, SETTINGS].concat());
    let mut ms = 0;
    while !script.reset && ms < 2 * limits::TCP_LOOK_MS_MAX {
        world.advance(limits::TCP_GREETING_MS / 2);
        ms += limits::TCP_GREETING_MS / 2;
        script.say(&mut world, 0, WINDOW_UPDATE);
    }
    assert!(!is_connected(&world) && ms == limits::TCP_LOOK_MS_MAX, "{ms}");
}

#[test]
fn a_byte_that_comes_alone_behind_a_greeting_is_waited_for_and_then_judged() {
    let mut room = room(BY_NAME.0, BY_NAME.1);
    let mut world = room.world();
    let mut script = said(&mut world, &greeting());
    let request = request("good.test");
    script.say(&mut world, 0, &request[..1]);
    world.advance(limits::TCP_GREETING_MS * 2);
    assert!(!is_connected(&world));
    script.say(&mut world, 0, &request[1..]);
    assert_eq!(world.stream().received, [greeting(), request].concat());
}

#[test]
fn an_address_that_leads_to_a_denied_name_too_is_not_connected_to() {
    let lines = ["allow any all evil.test", BY_NAME.1[0], BY_NAME.1[1]];
    let mut room = reload::room("deny", &lines);
    let mut world = room.world();
    bind(&mut world, "evil.test", ip("1.1.1.1"));
    let lines = ["deny tcp all evil.test", BY_NAME.1[0], BY_NAME.1[1]];
    reload::reload(&mut world, "deny", &lines);
    let mut script = said(&mut world, &greeting());
    world.advance(limits::TCP_LOOK_MS_MAX - 1);
    script.read(&mut world);
    assert!(!is_connected(&world) && !script.reset);
    script.say(&mut world, 0, &request("good.test"));
    assert_eq!(world.stream().received, [greeting(), request("good.test")].concat());
}

/// A room where TLS ends here at port 443.
fn intercepting<'a>(default: Permission, lines: &[&str], relays: bool) -> Room<'a> {
    Room::with(|config| self::relays(config, default, lines, relays))
}

fn relays(config: &mut Config, default: Permission, lines: &[&str], relays: bool) {
    config.policy = Policy::new(default, Permission::Deny);
    lines.iter().for_each(|line| push(&mut config.policy, line));
    config.intercepted_ports = [443].as_slice().try_into().expect("because it is one");
    (config.relays_http, config.keeps_names) = (relays, relays);
}

/// The same from now on.
fn relay(world: &mut World<'_>, default: Permission, lines: &[&str], is_relayed: bool) {
    let mut config = sim::default_config();
    relays(&mut config, default, lines, is_relayed);
    world.replace_config(&config).expect("because it asks for no more than there is");
}

#[test]
fn where_tls_is_intercepted_it_is_no_hello_and_so_the_server_may_speak() {
    let denies: &[&str] = &["deny any all evil.test"];
    for (lines, name, passes) in
        [(&[][..], "evil.test", true), (denies, "good.test", true), (denies, "evil.test", false)]
    {
        let mut room = intercepting(Permission::Allow, lines, false);
        let mut world = room.world();
        let mut script = said_to(&mut world, 443, &greeting());
        world.advance(limits::TCP_GREETING_MS);
        assert!(is_connected(&world));
        world.give(SETTINGS);
        script.read(&mut world);
        assert_eq!(script.received, SETTINGS);
        script.say(&mut world, 0, &request(name));
        assert_eq!(script.reset, !passes, "{name} under {lines:?}");
        let stream = world.peers.streams.values().next().or(world.peers.ended.first());
        let expected = if passes { [greeting(), request(name)].concat() } else { vec![] };
        assert_eq!(stream.map(|stream| &stream.received), Some(&expected));
    }
}

#[test]
fn where_the_host_relays_or_names_are_asked_nobody_is_connected_to_without_a_name() {
    for port in [443, 80, 853] {
        let mut room = intercepting(Permission::Allow, &[], true);
        let mut world = room.world();
        let mut script = said_to(&mut world, port, &greeting());
        script.say(&mut world, 0, ACK);
        world.advance(limits::TCP_LOOK_MS_MAX - 1);
        script.read(&mut world);
        assert_eq!(script.received, if port == 853 { &[][..] } else { WELCOME }, "port {port}");
        assert!(!script.reset, "port {port}: it has its time");
        world.advance(1);
        script.read(&mut world);
        assert!(script.reset && world.peers.streams.is_empty(), "port {port}");
        assert!(told(&world).is_none() && !is_connected(&world), "port {port}");
        let [denial] = &world.denials[..] else { panic!("{:?}", world.denials) };
        let is_of_names = port == 853;
        let reason = if is_of_names { DenialReason::OtherNames } else { DenialReason::NameUnknown };
        assert_eq!(denial.reason, reason, "port {port}");
    }
}

/// Of whom the host was told to relay, and how it begins.
fn told<'w>(world: &'w World<'_>) -> Option<(Option<&'w str>, Beginning)> {
    world.peers.log.iter().find_map(|did| {
        let Did::Intercept { name, begins, .. } = did else { return None };
        Some((name.as_deref(), *begins))
    })
}

#[test]
fn where_the_host_relays_the_guest_is_welcomed_at_once_and_judged_by_what_it_then_says() {
    for (default, lines) in [
        (Permission::Deny, &["allow any all good.test"][..]),
        (Permission::Allow, &["deny any all evil.test"]),
    ] {
        for (port, name, passes) in
            [(80, "good.test", true), (443, "good.test", true), (80, "evil.test", false)]
        {
            let mut room = intercepting(default, lines, true);
            let mut world = room.world();
            bind(&mut world, "good.test", ip("1.1.1.1"));
            let mut script = said_to(&mut world, port, &greeting());
            assert_eq!(script.received, WELCOME);
            let request = request(name);
            // The acknowledgement, a part of the head, and the rest of it.
            for part in [&request[..9], &request[9..20], &request[20..]] {
                assert!(told(&world).is_none() && !is_connected(&world) && !script.reset);
                script.say(&mut world, 0, part);
            }
            assert_eq!(script.reset, !passes);
            assert_eq!(script.received, WELCOME, "once");
            let expected = passes.then_some((Some(name), Beginning::Welcomed));
            assert_eq!(told(&world), expected);
            if passes {
                assert_eq!(world.stream().received, [greeting(), request].concat());
                assert!(world.denials.is_empty());
            } else {
                assert!(told(&world).is_none() && !is_connected(&world));
                assert_eq!(world.denials[0].reason, DenialReason::Policy);
                assert_eq!(world.denied_names[0].as_deref(), Some("evil.test"));
            }
        }
    }
}

#[test]
fn who_asks_at_once_is_not_welcomed() {
    let mut room = intercepting(Permission::Allow, &[], true);
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(ip("1.1.1.1"), 80), 40_000);
    script.say(&mut world, 0, &[greeting(), request("good.test")].concat());
    assert_eq!(told(&world), Some((Some("good.test"), Beginning::Clear)));
    assert!(script.received.is_empty());
}

#[test]
fn who_has_not_greeted_in_full_or_asks_in_http_1_is_not_welcomed() {
    let greeted = greeting();
    let half_settings = &greeted[..greeted.len() - 1];
    for begun in [b"GET / HTTP/1.1\r\nHo".as_slice(), &PREFACE[..20], half_settings] {
        let mut room = intercepting(Permission::Allow, &[], true);
        let mut world = room.world();
        let mut script = said_to(&mut world, 80, begun);
        world.advance(2 * limits::TCP_GREETING_MS);
        script.read(&mut world);
        assert!(script.received.is_empty(), "{begun:?}");
        assert!(told(&world).is_none() && !is_connected(&world), "{begun:?}");
    }
}

#[test]
fn nobody_is_welcomed_where_a_denied_name_leads_too() {
    // One name that leads there may be said, and another may not.
    for (default, lines) in [
        (Permission::Deny, &["deny any all evil.test", "allow any all good.test"][..]),
        (Permission::Allow, &["deny any all evil.test"]),
    ] {
        let mut room =
            intercepting(Permission::Deny, &[BY_NAME.1[0], "allow any all public"], true);
        let mut world = room.world();
        for name in ["good.test", "evil.test"] {
            bind(&mut world, name, ip("1.1.1.1"));
        }
        relay(&mut world, default, lines, true);
        let mut script = said_to(&mut world, 80, &greeting());
        world.advance(limits::TCP_LOOK_MS_MAX - 1);
        script.read(&mut world);
        assert!(!script.reset, "it may yet say a name");
        world.advance(1);
        script.read(&mut world);
        assert!(script.reset && script.received.is_empty(), "{lines:?}");
        assert!(told(&world).is_none() && !is_connected(&world), "{lines:?}");
    }
}

#[test]
fn who_was_welcomed_is_relayed_or_reset_whatever_the_configuration_becomes() {
    for is_relayed in [true, false] {
        let mut room = intercepting(Permission::Allow, &[], true);
        let mut world = room.world();
        let mut script = said_to(&mut world, 80, &greeting());
        assert_eq!(script.received, WELCOME);
        relay(&mut world, Permission::Allow, &[], is_relayed);
        world.advance(2 * limits::TCP_GREETING_MS);
        assert!(!is_connected(&world), "its acknowledgement is no server's");
        script.say(&mut world, 0, &request("good.test"));
        assert_eq!(script.reset, !is_relayed);
        let expected = is_relayed.then_some((Some("good.test"), Beginning::Welcomed));
        assert_eq!(told(&world), expected);
        assert!(!is_connected(&world));
    }
}

#[test]
fn who_only_waits_for_a_page_that_denies_is_refused_as_soon_as_there_can_be_none() {
    let mut room = Room::with(|config| {
        config.policy = Policy::new(Permission::Deny, Permission::Deny);
        push(&mut config.policy, BY_NAME.1[0]);
        let message = "no".try_into().expect("because it is short");
        config.deny_page = Some(DenyPage { format: DenyFormat::Json, message });
    });
    let mut world = room.world();
    let mut script = Script::connect(&mut world, at(ip("1.1.1.1"), 80), 40_000);
    script.say(&mut world, 0, &greeting());
    world.advance(limits::TCP_GREETING_MS - 1);
    script.read(&mut world);
    assert!(!script.reset, "it may yet say a name, to be told of");
    world.advance(1);
    script.read(&mut world);
    assert!(script.reset && !is_connected(&world));
    let denial = &world.denials[0];
    assert_eq!((denial.by, denial.reason), (By::Default, DenialReason::Policy));
}
