//! Names: what a guest may ask, what it gets to hear, and where it may go for it.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use sim::dns::{self, QUESTION, address, answer, code, edns, extended, kind, query, record};
use sim::frame::{self, OUTSIDES, flag, gateway};
use sim::guest::Script;
use sim::{Answer, Did, Message, Room, World};
use sluicegate_core::{
    By, DenialReason, Drop, FlowId, Outside, Permission, Policy, QueryStep, Refusal,
};

use crate::policy_rules::push;
use crate::{Error, assert_error_about, at, everybody, only};

const NAME_ERROR: u8 = 3;
const SERVER_FAILURE: u8 = 2;
const BLOCKED: Option<u16> = Some(15);

/// Addresses of the public Internet.
const PUBLIC_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1));
const PUBLIC: [IpAddr; 2] = [PUBLIC_V4, IpAddr::V6(Ipv6Addr::new(0x2600, 0, 0, 0, 0, 0, 0, 2))];

/// A flow on which names are asked over TCP.
const STREAM: FlowId = FlowId { index: 0, generation: 1 };

fn ip(text: &str) -> IpAddr {
    text.parse().expect("because a test writes addresses")
}

/// A room under a policy that denies but for `lines`, where what is bound to an address is enough
/// to reach it: what the guest says there is the subject of `inspection`.
fn room<'a>(lines: &[&str]) -> Room<'a> {
    Room::with(|config| {
        config.strict = false;
        config.policy = Policy::new(Permission::Deny, Permission::Deny);
        lines.iter().for_each(|line| push(&mut config.policy, line));
    })
}

/// The guest opens a flow to ask on, over UDP.
fn flow(world: &mut World<'_>) -> FlowId {
    world.send(&frame::udp(1000, at(PUBLIC_V4, 53), b"ask"));
    world.peers.datagrams[&world.datagram()].id
}

/// What is to be done with `query`.
fn judge(world: &mut World<'_>, flow: FlowId, query: &[u8]) -> (QueryStep, Vec<u8>) {
    let mut out = vec![0; 2000];
    let now = world.now();
    let step = world.engine.judge_query(now, (flow, query), &mut out);
    let (QueryStep::Ask(len) | QueryStep::Reply(len)) = step else { return (step, vec![]) };
    out.truncate(len);
    (step, out)
}

/// The reply to `query`, which nobody else is asked.
fn reply(world: &mut World<'_>, flow: FlowId, query: &[u8]) -> Vec<u8> {
    let (step, out) = judge(world, flow, query);
    assert!(matches!(step, QueryStep::Reply(_)), "{step:?} to {query:?}");
    out
}

fn is_asked(world: &mut World<'_>, flow: FlowId, name: &str) -> bool {
    match judge(world, flow, &query(name, kind::A)) {
        (QueryStep::Ask(_), _) => true,
        (QueryStep::Reply(_), out) => {
            assert_eq!(code(&out), NAME_ERROR, "{name}");
            false
        }
        (QueryStep::Ignore, _) => panic!("{name} is ignored"),
    }
}

/// What the guest gets to hear of `answer` to its `query`.
fn hear(world: &mut World<'_>, flow: FlowId, query: &[u8], answer: Option<&[u8]>) -> Vec<u8> {
    let mut out = vec![0; 65_535];
    let now = world.now();
    let len = world.engine.judge_answer(now, (flow, query), answer, &mut out);
    out.truncate(len);
    out
}

/// Whether a connection to `to` is let out, on which no name is said.
fn reaches(world: &mut World<'_>, to: SocketAddr) -> bool {
    world.peers.answer = Answer::Refuse(Refusal::Refused);
    let mut script = Script::new(to, 40_000);
    let known = world.peers.log.len();
    let reason = world.dropped(&frame::tcp(to, &script.syn()));
    let connects = |did: &Did| matches!(did, Did::Connect { .. });
    let is_heard = reason.is_none() && !world.peers.log[known..].iter().any(connects);
    if is_heard {
        script.establish(world);
        script.say(world, 0, b"no name\n");
        assert!(script.reset, "it is denied, or refused");
    }
    let is_out = world.peers.log[known..].iter().any(connects);
    assert_eq!(reason, (!is_out && !is_heard).then_some(Drop::Denied));
    world.inbox();
    is_out
}

#[test]
fn queries_to_any_address_go_to_the_gateway_whatever_policy_says_of_addresses() {
    for outside in everybody() {
        let mut room = room(&[]);
        let mut world = room.world();
        let to = at(outside, 53);
        world.send(&frame::udp(1000, to, b"ask"));
        let index = world.datagram();
        assert_eq!(world.peers.datagrams[&index].to, Outside::Names(to));
        world.deliver(index, b"answer");
        let Message::Udp { ends, payload, .. } = only(&mut world).message else { panic!("UDP") };
        assert_eq!((ends, payload), (crate::answer(outside), b"answer".to_vec()));
        world.send(&frame::tcp(to, &Script::new(to, 40_000).syn()));
        assert_eq!(world.stream().to, Outside::Names(to));
    }
}

#[test]
fn flows_for_names_that_were_answered_push_out_no_others() {
    let mut room = Room::plain();
    let mut world = room.world();
    let other = at(PUBLIC_V4, 7);
    world.send(&frame::udp(1000, other, b"hello"));
    let index = world.datagram();
    for port in 2000..2100 {
        world.send(&frame::udp(port, at(PUBLIC_V4, 53), b"ask"));
        let last = match world.peers.log.last() {
            Some(Did::SendDatagram { flow, .. }) => flow.index,
            did => panic!("{did:?}"),
        };
        world.deliver(last, b"answer");
        world.inbox();
    }
    assert_eq!(world.peers.datagrams[&index].to, Outside::Remote(other), "it is there still");
}

#[test]
fn names_are_asked_of_nobody_where_they_can_not_be_judged() {
    for outside in everybody() {
        let mut room = Room::plain();
        let mut world = room.world();
        for port in [853, 5353, 5355, 137] {
            let request = frame::udp(1000, at(outside, port), b"ask");
            assert_eq!(world.dropped(&request), Some(Drop::Denied), "{port}");
            assert_error_about(&only(&mut world), Error::PROHIBITED.of(outside), &request);
        }
        let to = at(outside, 853);
        let syn = frame::tcp(to, &Script::new(to, 40_000).syn());
        assert_eq!(world.dropped(&syn), Some(Drop::Denied));
        assert_eq!(only(&mut world).tcp().unwrap().flags, flag::RST | flag::ACK);
        assert_eq!(world.peers.log.len(), 0);
    }
}

#[test]
fn a_query_is_asked_if_a_rule_for_its_name_or_for_everybody_allows_it() {
    for (lines, asked) in [
        (&["allow egress tcp a.test 443"][..], &["a.test", "A.tEsT"][..]),
        (&["allow egress tcp *.a.test"], &["a.test", "A.tEsT", "b.a.test"]),
        (&["deny any all b.a.test", "allow any all *.a.test"], &["a.test", "A.tEsT"]),
        (&["allow egress udp,tcp host 53"], &["a.test", "A.tEsT", "b.a.test", "ba.test", ""]),
        (
            &["allow egress udp host 53", "deny any all any"],
            &["a.test", "A.tEsT", "b.a.test", "ba.test", ""],
        ),
        (&["allow egress udp any 1-53"], &["a.test", "A.tEsT", "b.a.test", "ba.test", ""]),
        (&["allow egress tcp host 53"], &[]),
        (&["allow egress all host 54"], &[]),
        (&["allow ingress all a.test"], &[]),
        (&["allow egress all public", "allow egress all 0.0.0.0/0"], &[]),
        (&[], &[]),
    ] {
        let mut room = room(lines);
        let mut world = room.world();
        let flow = flow(&mut world);
        let all = ["a.test", "A.tEsT", "b.a.test", "ba.test", ""];
        let by_rule: Vec<_> =
            all.into_iter().filter(|name| is_asked(&mut world, flow, name)).collect();
        assert_eq!(by_rule, asked, "{lines:?}");
    }
}

#[test]
fn what_goes_upstream_is_the_question_and_what_concerns_more_than_one_hop() {
    let mut room = Room::plain();
    let mut world = room.world();
    let flow = flow(&mut world);
    let mut plain = query("wWw.Example.TEST", 0xff00);
    plain[3] |= 0x30; // AD and CD
    let mut expected = plain.clone();
    expected[..2].fill(0);
    assert_eq!(judge(&mut world, flow, &plain).1, expected);
    for dnssec in [false, true] {
        let mut expected = query("a.test", kind::A);
        expected[..2].fill(0);
        expected[11] = 1;
        expected.extend([0, 0, 41, 1232_u16.to_be_bytes()[0], 1232_u16.to_be_bytes()[1], 0, 0]);
        expected.extend([if dnssec { 0x80 } else { 0 }, 0, 0, 0]);
        let asked = edns(query("a.test", kind::A), 4096, dnssec);
        assert_eq!(judge(&mut world, flow, &asked).1, expected);
    }
}

#[test]
fn a_denied_name_does_not_exist_and_edns_says_why() {
    let mut room = room(&[]);
    let mut world = room.world();
    let flow = flow(&mut world);
    let plain = query("A.test", kind::TXT);
    let denied = reply(&mut world, flow, &plain);
    assert_eq!(denied[..12], [0x12, 0x34, 0x81, 0x83, 0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(denied[12..], plain[12..]);
    let denied = reply(&mut world, flow, &edns(plain.clone(), 1232, true));
    assert_eq!((code(&denied), extended(&denied), denied[11]), (NAME_ERROR, BLOCKED, 1));
}

#[test]
fn an_edns_version_that_is_not_0_is_bad_and_asks_nobody() {
    let mut room = Room::plain();
    let mut world = room.world();
    let flow = flow(&mut world);
    for (version, dnssec) in [(1, false), (255, true)] {
        let plain = query("a.test", kind::A);
        let mut asked = edns(plain.clone(), 4096, dnssec);
        asked[plain.len() + 6] = version;
        let mut expected = answer(&plain, &[]);
        expected[11] = 1;
        // The upper bits of BADVERS, which is 16; the version that is known; no options.
        expected.extend([0, 0, 41, 4, 208, 1, 0, if dnssec { 0x80 } else { 0 }, 0, 0, 0]);
        assert_eq!(reply(&mut world, flow, &asked), expected);
    }
    let asked = edns(query("a.test", kind::A), 4096, false);
    assert!(matches!(judge(&mut world, flow, &asked).0, QueryStep::Ask(_)));
}

#[test]
fn the_gateways_own_name_leads_to_the_gateway() {
    let mut room = Room::plain();
    let mut world = room.world();
    let flow = flow(&mut world);
    for name in ["host.microsandbox.internal", "Host.Sluicegate.INTERNAL"] {
        for (outside, kind) in OUTSIDES.into_iter().zip([kind::A, kind::AAAA]) {
            let asked = query(name, kind);
            let mut expected = answer(&asked, &[address(&QUESTION, 60, gateway(outside))]);
            expected[2] |= 4; // authoritative
            assert_eq!(reply(&mut world, flow, &asked), expected);
        }
        let other = reply(&mut world, flow, &query(name, kind::TXT));
        assert_eq!((code(&other), other[7]), (0, 0), "no record, and no error");
    }
}

#[test]
fn what_is_no_question_is_answered_as_such_or_not_at_all() {
    let mut room = Room::plain();
    let mut world = room.world();
    let flow = flow(&mut world);
    let good = query("a.test", kind::A);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        bytes
    };
    for ignored in [vec![], vec![0; 11], with(&|q| q[2] |= 0x80)] {
        assert_eq!(judge(&mut world, flow, &ignored).0, QueryStep::Ignore);
    }
    for (wrong, expected) in [
        (with(&|q| q[5] = 0), 1),
        (with(&|q| q[5] = 2), 1),
        (with(&|q| q.truncate(20)), 1),
        (with(&|q| q[11] = 1), 1),
        (with(&|q| q[12] = 64), 1),
        // Names that point to the header, to themselves, and forward.
        (with(&|q| drop(q.splice(12..20, [0xc0, 0]))), 1),
        (with(&|q| drop(q.splice(12..20, [0xc0, 12]))), 1),
        (with(&|q| drop(q.splice(12..20, [1, b'a', 0xc0, 20]))), 1),
        (with(&|q| q[2] |= 0x28), 4),
        (query("a.test", kind::AXFR), 5),
    ] {
        let out = reply(&mut world, flow, &wrong);
        assert_eq!((code(&out), &out[..2]), (expected, &[0x12, 0x34][..]), "{wrong:?}");
    }
}

#[test]
fn an_answer_reaches_the_guest_as_it_is_under_its_own_number_and_letters() {
    let mut room = Room::plain();
    let mut world = room.world();
    let flow = flow(&mut world);
    let asked = query("wWw.A.test", 0xff00);
    let mut said = answer(&asked, &[record(&QUESTION, 0xff00, 7, b"any bytes")]);
    said[3] |= 0x20; // AD
    let expected = said.clone();
    said[..2].copy_from_slice(&[9, 9]);
    said[12..22].make_ascii_lowercase();
    assert_eq!(hear(&mut world, flow, &asked, Some(&said)), expected);
}

#[test]
fn an_answer_is_cut_to_what_the_guest_takes_in_a_datagram() {
    let mut room = Room::plain();
    let mut world = room.world();
    let flow = flow(&mut world);
    let plain = query("a.test", kind::TXT);
    for (asked, limit) in [
        (plain.clone(), 512),
        (edns(plain.clone(), 100, false), 512),
        (edns(plain.clone(), 1000, false), 1000),
        (edns(plain.clone(), 4096, false), 1232),
    ] {
        for (len, is_cut) in [(limit, false), (limit + 1, true)] {
            let data = vec![7; len - plain.len() - 12];
            let said = answer(&plain, &[record(&QUESTION, kind::TXT, 7, &data)]);
            assert_eq!(said.len(), len);
            let heard = hear(&mut world, flow, &asked, Some(&said));
            assert_eq!(heard[2] & 2 != 0, is_cut, "{len} of {limit}");
            assert_eq!(heard.len() == len, !is_cut);
            assert_eq!(hear(&mut world, STREAM, &asked, Some(&said)), said, "TCP takes all");
        }
    }
}

#[test]
fn an_answer_that_the_guest_has_no_record_of_leads_nowhere_yet() {
    let mut room = room(&["allow egress all a.test"]);
    let mut world = room.world();
    let flow = flow(&mut world);
    let asked = query("a.test", kind::A);
    let filler = record(&QUESTION, kind::TXT, 60, &[7; 600]);
    // One that would be rebinding, and one that binds.
    for (last, heard_over_tcp) in [(ip("10.0.0.1"), NAME_ERROR), (PUBLIC_V4, 0)] {
        let said = answer(&asked, &[filler.clone(), address(&QUESTION, 60, last)]);
        let heard = hear(&mut world, flow, &asked, Some(&said));
        assert_eq!((code(&heard), heard[2] & 2, &heard[6..12]), (0, 2, &[0; 6][..]), "{last}");
        world.run();
        assert!(world.denials.is_empty() && !reaches(&mut world, at(last, 443)), "{last}");
        world.denials.clear();
        assert_eq!(code(&hear(&mut world, STREAM, &asked, Some(&said))), heard_over_tcp);
        assert_eq!(reaches(&mut world, at(last, 443)), last == PUBLIC_V4);
        world.denials.clear();
    }
    // Nor is one to another question cut.
    let other = answer(&query("b.test", kind::A), &[filler]);
    assert_eq!(code(&hear(&mut world, flow, &asked, Some(&other))), SERVER_FAILURE);
}

#[test]
fn an_answer_has_so_many_records_and_addresses_and_no_more() {
    let mut room = Room::plain();
    let mut world = room.world();
    let asked = query("a.test", kind::HTTPS);
    let hints = |count: usize| {
        let mut data = vec![0, 1, 0, 0, 4];
        data.extend((4 * count as u16).to_be_bytes());
        data.extend([1; 4].repeat(count));
        record(&QUESTION, kind::HTTPS, 7, &data)
    };
    let text = record(&QUESTION, kind::TXT, 7, b"x");
    for (count, is_taken) in [(1024, true), (1025, false)] {
        for records in [vec![text.clone(); count], vec![hints(count)]] {
            let said = answer(&asked, &records);
            let heard = hear(&mut world, STREAM, &asked, Some(&said));
            assert_eq!(heard == said, is_taken, "{count}");
            assert_eq!(code(&heard), if is_taken { 0 } else { SERVER_FAILURE }, "{count}");
        }
    }
}

#[test]
fn no_answer_and_a_malformed_one_are_server_failures() {
    let mut room = Room::plain();
    let mut world = room.world();
    let flow = flow(&mut world);
    let asked = edns(query("a.test", kind::A), 1232, false);
    let plain = query("a.test", kind::A);
    let loops = record(&[0xc0, plain.len() as u8], kind::A, 7, &[1, 1, 1, 1]);
    let hops = answer(&plain, &[record(&QUESTION, kind::A, 7, &[1, 1, 1])]);
    let mut short = answer(&plain, &[address(&QUESTION, 7, PUBLIC_V4)]);
    short.pop();
    for (said, why) in [
        (None, Some(22)),
        (Some(answer(&plain, &[loops])), Some(0)),
        (Some(hops), Some(0)),
        (Some(short), Some(0)),
        (Some(answer(&query("b.test", kind::A), &[])), Some(0)),
        (Some(answer(&query("a.test", kind::AAAA), &[])), Some(0)),
        (Some(vec![]), Some(0)),
    ] {
        let heard = hear(&mut world, flow, &asked, said.as_deref());
        assert_eq!((code(&heard), extended(&heard)), (SERVER_FAILURE, why), "{said:?}");
    }
}

#[test]
fn an_answer_that_leads_to_no_public_address_is_rebinding() {
    let asked = query("a.test", kind::A);
    let [public, public_v6] = PUBLIC;
    let hint = |key: u8, octets: &[u8]| {
        let mut data = vec![0, 1, 0, 0, key, 0, octets.len() as u8];
        data.extend(octets);
        record(&QUESTION, kind::HTTPS, 7, &data)
    };
    let mut private: Vec<_> = [
        "10.0.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "fd00::1",
        "::1",
        "::ffff:10.0.0.1",
        "64:ff9b::10.0.0.1",
        "2002:a00:1::1",
        "fe80::1",
        "100.96.0.1",
        "192.0.2.1",
        "240.0.0.1",
        "ff02::1",
    ]
    .map(|text| address(&QUESTION, 7, ip(text)))
    .into();
    private.push(hint(4, &[10, 0, 0, 1]));
    private.push(hint(6, &[0; 16]));
    for protection in [true, false] {
        let mut room = Room::with(|config| config.rebind_protection = protection);
        let mut world = room.world();
        let flow = flow(&mut world);
        for record in &private {
            for said in [
                answer(&asked, &[address(&QUESTION, 7, public), record.clone()]),
                // The same in the additional section.
                {
                    let mut said = answer(&asked, core::slice::from_ref(record));
                    (said[7], said[11]) = (0, 1);
                    said
                },
            ] {
                let heard = hear(&mut world, flow, &asked, Some(&said));
                if protection {
                    assert_eq!((code(&heard), heard[7]), (NAME_ERROR, 0), "{record:?}");
                } else {
                    assert_eq!(heard, said);
                }
            }
        }
        for harmless in [address(&QUESTION, 7, public_v6), hint(4, &[1, 1, 1, 1])] {
            let said = answer(&asked, &[harmless]);
            assert_eq!(hear(&mut world, flow, &asked, Some(&said)), said);
        }
    }
}

#[test]
fn a_rule_that_means_an_address_lets_names_lead_there() {
    let asked = query("a.test", kind::A);
    let said = answer(&asked, &[address(&QUESTION, 7, ip("10.1.0.1"))]);
    for (lines, is_let) in [
        (&["allow egress all 10.1.0.0/16"][..], true),
        (&["allow any udp private"], true),
        (&["deny any all 10.1.0.1/32", "allow any all private"], false),
        (&["allow egress all any"], false),
        (&["allow egress tcp 10.1.0.0/16 443"], false),
        (&["allow ingress all private"], false),
        (&["allow egress icmpv4 private"], false),
        (&["allow egress all a.test"], false),
        (&["allow egress all 10.2.0.0/16"], false),
    ] {
        let mut room = room(lines);
        let mut world = room.world();
        let flow = flow(&mut world);
        let heard = hear(&mut world, flow, &asked, Some(&said));
        assert_eq!(code(&heard) == 0, is_let, "{lines:?}");
    }
}

#[test]
fn a_rule_by_name_holds_where_the_name_was_said_to_lead_as_long_as_it_was_said() {
    let [v4, v6] = PUBLIC;
    for (outside, kind) in [(v4, kind::A), (v6, kind::AAAA)] {
        let mut room = room(&["allow egress tcp *.a.test 443"]);
        let mut world = room.world();
        let flow = flow(&mut world);
        assert!(!reaches(&mut world, at(outside, 443)), "nothing was said yet");
        let asked = query("www.A.test", kind);
        let said = answer(&asked, &[address(&QUESTION, 5, outside)]);
        hear(&mut world, flow, &asked, Some(&said));
        assert!(reaches(&mut world, at(outside, 443)));
        assert!(!reaches(&mut world, at(outside, 80)), "the rule has a port");
        world.advance(4999);
        assert!(reaches(&mut world, at(outside, 443)));
        world.advance(1);
        assert!(!reaches(&mut world, at(outside, 443)), "its time is up");
    }
}

#[test]
fn other_names_other_owners_failures_and_rebinding_answers_bind_nothing() {
    let mut room = room(&["allow egress all a.test", "deny egress all any"]);
    let mut world = room.world();
    let flow = flow(&mut world);
    let to = at(PUBLIC_V4, 443);
    let asked = query("a.test", kind::A);
    let other = query("b.test", kind::A);
    let public = |owner: &[u8]| address(owner, 60, PUBLIC_V4);
    let private = address(&QUESTION, 60, ip("10.0.0.1"));
    let mut additional = answer(&asked, &[public(&QUESTION)]);
    (additional[7], additional[11]) = (0, 1);
    let failed = |code: u8| {
        let mut said = answer(&asked, &[public(&QUESTION)]);
        said[3] |= code;
        said
    };
    for (query, said) in [
        (&other, answer(&other, &[public(&QUESTION)])),
        (&asked, answer(&asked, &[public(&dns::name("b.test"))])),
        (&other, answer(&other, &[public(&dns::name("a.test"))])),
        (&asked, answer(&asked, &[public(&QUESTION), private])),
        (&asked, additional),
        (&asked, failed(NAME_ERROR)),
        (&asked, failed(SERVER_FAILURE)),
    ] {
        hear(&mut world, flow, query, Some(&said));
        assert!(!reaches(&mut world, to), "{said:?}");
    }
    hear(&mut world, flow, &asked, Some(&answer(&asked, &[public(&QUESTION)])));
    assert!(reaches(&mut world, to));
}

#[test]
fn what_one_network_knew_of_names_another_goes_on_with_if_an_answer_might_say_it() {
    let lines = ["allow egress all a.test", "deny egress all any"];
    let (to, public) = (at(PUBLIC_V4, 443), PUBLIC_V4);
    let mut first = room(&lines);
    let mut world = first.world();
    let flow = flow(&mut world);
    let asked = query("a.test", kind::A);
    let said = answer(&asked, &[address(&QUESTION, 60, public)]);
    hear(&mut world, flow, &asked, Some(&said));
    world.advance(49_500);
    let now = world.now();
    let known: Vec<_> = world.engine.bindings(now).collect();
    assert_eq!(known, [(public, "a.test", 11)], "rounded up");
    let mut second = room(&lines);
    let mut world = second.world();
    assert!(!reaches(&mut world, to));
    let now = world.now();
    for (name, address) in [("b.test", public), ("a.test", ip("10.0.0.1"))] {
        assert!(!world.engine.bind_name(now, name, (address, 11)), "{name} {address}");
    }
    assert!(world.engine.bind_name(now, "a.test", (public, 11)));
    assert!(reaches(&mut world, to) && !reaches(&mut world, at(ip("10.0.0.1"), 443)));
    world.advance(11_000);
    assert!(!reaches(&mut world, to), "its time is up");
}

#[test]
fn a_name_leads_through_others_to_its_addresses_and_not_for_longer_than_they_do() {
    let mut room = room(&["allow egress all a.test"]);
    let mut world = room.world();
    let flow = flow(&mut world);
    let asked = query("a.test", kind::A);
    let alias = |from: u32, to: u32, ttl: u32| {
        let owner = if from == 0 { QUESTION.to_vec() } else { dns::name(&format!("n{from}.b")) };
        record(&owner, kind::CNAME, ttl, &dns::name(&format!("n{to}.b")))
    };
    let end = |number: u32, last| address(&dns::name(&format!("n{number}.b")), 60, last);
    // In whatever order; the least time on the way counts.
    let said = answer(&asked, &[end(2, PUBLIC_V4), alias(1, 2, 9), alias(0, 1, 50)]);
    hear(&mut world, flow, &asked, Some(&said));
    world.advance(8999);
    assert!(reaches(&mut world, at(PUBLIC_V4, 443)));
    world.advance(1);
    assert!(!reaches(&mut world, at(PUBLIC_V4, 443)));
    // Through as many as may be, of which the last leads back, and the first comes last.
    let mut records: Vec<_> = (1..16).map(|n| alias(n, n + 1, 60)).collect();
    records.extend([alias(16, 1, 60), end(16, PUBLIC_V4), alias(0, 1, 9)]);
    hear(&mut world, STREAM, &asked, Some(&answer(&asked, &records)));
    assert!(reaches(&mut world, at(PUBLIC_V4, 443)));
    world.advance(9000);
    // Round in circles, and along a way without an end.
    for count in [2_u32, 1000] {
        let mut records: Vec<_> = (0..count).map(|n| alias(n, n + 1, 60)).collect();
        if count == 2 {
            records.push(alias(2, 1, 60));
        } else {
            records.push(end(count, PUBLIC_V4));
        }
        let said = answer(&asked, &records);
        assert_eq!(hear(&mut world, STREAM, &asked, Some(&said)), said);
        assert!(!reaches(&mut world, at(PUBLIC_V4, 443)), "{count}");
    }
}

#[test]
fn a_time_of_nothing_is_a_second_and_one_of_years_an_hour() {
    // One with its first bit set is nothing (RFC 2181 8).
    for (ttl, seconds) in [(0, 1), (u32::MAX >> 1, 3600), (1 << 31, 1), (u32::MAX, 1)] {
        let mut room = room(&["allow egress all a.test"]);
        let mut world = room.world();
        let flow = flow(&mut world);
        let asked = query("a.test", kind::A);
        let said = answer(&asked, &[address(&QUESTION, ttl, PUBLIC_V4)]);
        hear(&mut world, flow, &asked, Some(&said));
        world.advance(seconds * 1000 - 1);
        assert!(reaches(&mut world, at(PUBLIC_V4, 443)));
        world.advance(1);
        assert!(!reaches(&mut world, at(PUBLIC_V4, 443)));
    }
}

#[test]
fn a_denied_name_denies_its_addresses_over_a_default_that_allows() {
    let mut room = Room::with(|config| {
        config.strict = false;
        push(&mut config.policy, "allow egress tcp a.test 80");
        push(&mut config.policy, "deny egress all a.test");
    });
    let mut world = room.world();
    let flow = flow(&mut world);
    let asked = query("a.test", kind::A);
    assert!(reaches(&mut world, at(PUBLIC_V4, 443)));
    let said = answer(&asked, &[address(&QUESTION, 60, PUBLIC_V4)]);
    hear(&mut world, flow, &asked, Some(&said));
    assert!(reaches(&mut world, at(PUBLIC_V4, 80)));
    assert!(!reaches(&mut world, at(PUBLIC_V4, 443)));
}

#[test]
fn a_name_that_is_denied_and_one_that_leads_inside_are_told() {
    let mut room = room(&["allow egress all *.a.test"]);
    let mut world = room.world();
    let flow = flow(&mut world);
    assert!(!is_asked(&mut world, flow, "b.test"));
    world.run();
    let asked = query("x.a.test", kind::A);
    let inside = answer(&asked, &[address(&QUESTION, 60, ip("10.0.0.1"))]);
    hear(&mut world, flow, &asked, Some(&inside));
    world.run();
    let told: Vec<_> = world.denials.iter().map(|d| (d.by, d.reason, d.destination)).collect();
    let to = at(PUBLIC_V4, 53);
    assert_eq!(
        told,
        [(By::Default, DenialReason::Policy, to), (By::Gateway, DenialReason::Rebinding, to)]
    );
    let names: Vec<_> = world.denied_names.iter().flatten().collect();
    assert_eq!(names, ["b.test", "x.a.test"]);
    // Of many between two turns one is told, and the others are counted.
    for _ in 0..10 {
        assert!(!is_asked(&mut world, flow, "b.test"));
    }
    world.run();
    assert_eq!((world.denials.len(), world.counters().denials_left_out), (3, 9));
}
