//! One question, one answer: a name that is asked, said in TLS, said in HTTP, and judged by the
//! policy itself has one verdict, whatever the rules are.

use core::net::{IpAddr, Ipv4Addr};

use sim::dns::{address, answer, code, kind, query};
use sim::frame;
use sim::guest::Script;
use sim::{Dice, Room, World, tls};
use sluicegate_core::{
    Decision, Direction, Drop, Names, Permission, Policy, Protocol, QueryStep, Question, Said,
    Site, evaluate, limits,
};

use crate::at;
use crate::policy_rules::{ip, push};

const NAMES: [&str; 6] = ["a.test", "b.test", "x.a.test", "y.x.a.test", "xa.test", "a.other"];
const DESTINATIONS: [&str; 8] =
    ["a.test", "b.test", "x.a.test", "*.a.test", "*.test", "*.x.a.test", "xa.test", "*.other"];
const ROUNDS: usize = 150;
const NAME_ERROR: u8 = 3;

/// Rules by name alone: those by address say nothing of a name that is only asked.
fn rules(dice: &mut Dice) -> Vec<String> {
    let rule = |dice: &mut Dice| {
        let action = if dice.one_of(500) { "allow" } else { "deny" };
        let at = dice.below(DESTINATIONS.len() as u64) as usize;
        format!("{action} egress all {}", DESTINATIONS[at])
    };
    (0..dice.below(5)).map(|_| rule(dice)).collect()
}

/// Whether the name may be asked; if so, it leads to `to` from then on.
fn is_asked(world: &mut World<'_>, name: &str, to: IpAddr) -> bool {
    if world.peers.datagrams.is_empty() {
        world.send(&frame::udp(1000, at(ip("9.9.9.9"), 53), b"ask"));
    }
    let flow = world.peers.datagrams[&world.datagram()].id;
    let query = query(name, kind::A);
    let mut out = vec![0; 2000];
    let now = world.now();
    match world.engine.judge_query(now, (flow, &query), &mut out) {
        QueryStep::Ask(_) => {}
        QueryStep::Reply(_) => {
            assert_eq!(code(&out), NAME_ERROR);
            return false;
        }
        QueryStep::Ignore => panic!("{name} is ignored"),
    }
    let answer = answer(&query, &[address(&sim::dns::QUESTION, 3600, to)]);
    let now = world.now();
    assert!(world.engine.judge_answer(now, (flow, &query), Some(&answer), &mut out) > 0);
    true
}

/// Whether what is said on a connection to `to` reaches the outside.
fn passes(world: &mut World<'_>, to: IpAddr, port: u16, bytes: &[u8]) -> bool {
    let before = world.counters().dropped(Drop::Denied);
    let mut script = Script::new(at(to, port), 40_000);
    world.send(&frame::tcp(script.to, &script.syn()));
    if world.counters().dropped(Drop::Denied) > before {
        world.inbox();
        return false;
    }
    script.establish(world);
    script.say(world, 0, bytes);
    if script.reset {
        return false;
    }
    let passed = world.stream().received == bytes;
    world.reset();
    script.read(world);
    passed
}

#[test]
fn a_name_has_one_verdict_however_it_comes() {
    let mut dice = Dice::new(4);
    let (mut allowed, mut denied) = (0, 0);
    for round in 0..ROUNDS {
        let default = if dice.one_of(500) { Permission::Allow } else { Permission::Deny };
        let lines = rules(&mut dice);
        let mut room = Room::with(|config| {
            config.policy = Policy::new(default, Permission::Deny);
            lines.iter().for_each(|line| push(&mut config.policy, line));
        });
        let policy = room.policy().clone();
        let mut world = room.world();
        for (number, name) in NAMES.iter().enumerate() {
            let to = IpAddr::V4(Ipv4Addr::new(1, 1, 1, number as u8));
            let asked = is_asked(&mut world, name, to);
            let by_tls = passes(&mut world, to, limits::HTTPS_PORT, &tls::hello(name));
            let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n");
            let by_http = passes(&mut world, to, 8080, request.as_bytes());
            let bound = [*name];
            let question = Question {
                direction: Direction::Egress,
                protocol: Protocol::Tcp,
                address: to,
                port: 443,
                names: Names { bound: if asked { &bound } else { &[] }, said: Said::Name(name) },
            };
            let link = sim::default_config().link;
            let gateways = [link.gateway_ipv4.into(), link.gateway_ipv6.into()];
            let site = Site { gateways, own: Some(&[]), nat64: &[] };
            let by_policy = evaluate(&policy, &site, &question).decision == Decision::Allow;
            assert_eq!(
                [by_tls, by_http, by_policy],
                [asked; 3],
                "round {round}: {name} under {default:?} and {lines:?}"
            );
            if asked { allowed += 1 } else { denied += 1 }
        }
    }
    assert!(allowed > ROUNDS && denied > ROUNDS, "{allowed} allowed, {denied} denied");
}
