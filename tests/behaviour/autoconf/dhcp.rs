//! DHCP for IPv4: every message of a client, in every state.

use std::collections::BTreeMap;

use core::net::{IpAddr, Ipv4Addr};

use sim::frame::{self, protocol};
use sim::{Seen, default_config};
use sluicegate_core::Drop;

use super::{LEASE_S, datagram, room, room_with, to_all};
use crate::only;

/// Message types (RFC 2132 9.6).
pub(super) mod kind {
    pub(in super::super) const DISCOVER: u8 = 1;
    pub(in super::super) const OFFER: u8 = 2;
    pub(in super::super) const REQUEST: u8 = 3;
    pub(in super::super) const DECLINE: u8 = 4;
    pub(in super::super) const ACK: u8 = 5;
    pub(in super::super) const NAK: u8 = 6;
    pub(in super::super) const RELEASE: u8 = 7;
    pub(in super::super) const INFORM: u8 = 8;
}

/// The guest's own address, and one that is not.
const OWN: [u8; 4] = [100, 96, 0, 2];
const OTHER: [u8; 4] = [192, 168, 1, 5];
const GATEWAY: [u8; 4] = [100, 96, 0, 1];
const NONE: [u8; 4] = [0; 4];

/// What a client asks.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) kind: u8,
    client: [u8; 4],
    broadcast: bool,
    /// Options beside the type.
    pub(super) options: Vec<(u8, Vec<u8>)>,
    source: [u8; 4],
    destination: [u8; 4],
}

impl Ask {
    pub(super) fn new(kind: u8) -> Self {
        Self {
            kind,
            client: NONE,
            broadcast: false,
            options: vec![],
            source: NONE,
            destination: [255; 4],
        }
    }

    pub(super) fn discover() -> Self {
        Self::new(kind::DISCOVER)
    }

    pub(super) fn with(mut self, option: u8, data: &[u8]) -> Self {
        self.options.push((option, data.to_vec()));
        self
    }

    /// It has the address `client`, and sends from it to `destination`.
    fn from(mut self, client: [u8; 4], destination: [u8; 4]) -> Self {
        (self.client, self.source, self.destination) = (client, client, destination);
        self
    }

    /// The message.
    pub(super) fn text(&self) -> Vec<u8> {
        let mut out = vec![1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef, 0, 3];
        out.extend([if self.broadcast { 0x80 } else { 0 }, 0]);
        out.extend(self.client);
        out.extend([0; 12]);
        out.extend(default_config().link.guest_mac);
        out.resize(236, 0);
        out.extend([99, 130, 83, 99, 53, 1, self.kind]);
        for (option, data) in &self.options {
            out.extend([*option, data.len() as u8]);
            out.extend(data);
        }
        out.push(255);
        out
    }

    pub(super) fn frame(&self) -> Vec<u8> {
        frame_of(&self.text(), self.source, self.destination)
    }
}

/// A frame with the message `text`.
pub(super) fn frame_of(text: &[u8], source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    let ends = (Ipv4Addr::from(source).into(), Ipv4Addr::from(destination).into());
    to_all(ends, protocol::UDP, &frame::udp_header(68, 67, text))
}

/// An answer.
#[derive(Debug)]
struct Told {
    to: IpAddr,
    kind: u8,
    flags: [u8; 2],
    client: [u8; 4],
    yours: [u8; 4],
    options: BTreeMap<u8, Vec<u8>>,
    /// The options in their order.
    order: Vec<u8>,
}

impl Told {
    fn read(seen: &Seen) -> Self {
        let (text, ends, ports) = datagram(seen);
        assert_eq!((ends.0, ports), (default_config().link.gateway_ipv4.into(), (67, 68)));
        assert!((300..=548).contains(&text.len()), "{} bytes", text.len());
        assert_eq!(text[..8], [2, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef], "a reply to this");
        assert_eq!(text[20..28], [0; 8], "no next server, no relay");
        assert_eq!(text[28..34], default_config().link.guest_mac);
        assert_eq!(text[34..236], [0; 202], "nothing in what is not used");
        assert_eq!(text[236..240], [99, 130, 83, 99]);
        let four = |at: usize| core::array::from_fn(|i| text[at + i]);
        let (mut options, mut order, mut rest) = (BTreeMap::new(), vec![], &text[240..]);
        while let [option, len, tail @ ..] = rest
            && *option != 255
        {
            let (data, tail) = tail.split_at(usize::from(*len));
            assert!(options.insert(*option, data.to_vec()).is_none(), "{option} comes twice");
            order.push(*option);
            rest = tail;
        }
        assert_eq!(rest[0], 255, "it has an end");
        assert!(rest[1..].iter().all(|byte| *byte == 0), "and zeros after it");
        Self {
            to: ends.1,
            kind: options[&53][0],
            flags: [text[10], text[11]],
            client: four(12),
            yours: four(16),
            options,
            order,
        }
    }

    fn assert_lease(&self) {
        assert_eq!(self.yours, OWN);
        let seconds = |option: u8| {
            let data = self.options[&option].first_chunk().expect("because it is a time");
            u32::from_be_bytes(*data)
        };
        let (lease, renew, rebind) = (seconds(51), seconds(58), seconds(59));
        assert_eq!((lease, renew, rebind), (LEASE_S, LEASE_S / 2, LEASE_S / 8 * 7));
        assert_eq!(self.options[&54], GATEWAY);
    }

    fn assert_parameters(&self) {
        assert_eq!(self.options[&1], [255, 255, 255, 252]);
        assert_eq!((&self.options[&3][..], &self.options[&6][..]), (&GATEWAY[..], &GATEWAY[..]));
        assert_eq!(self.options[&26], 1500u16.to_be_bytes());
        let at = |option| self.order.iter().position(|o| *o == option);
        assert!(at(1) < at(3), "the mask comes before the router");
    }
}

/// What `ask` is answered in a world of its own.
fn answer(ask: &Ask) -> Result<Option<Told>, Drop> {
    let mut room = room();
    let mut world = room.world();
    if let Some(reason) = world.dropped(&ask.frame()) {
        assert_eq!(world.inbox(), vec![], "what is dropped has no answer");
        return Err(reason);
    }
    assert_eq!(world.peers.log, vec![], "the host has nothing to do with it");
    let inbox = world.inbox();
    assert!(inbox.len() <= 1, "one answer at most: {inbox:?}");
    Ok(inbox.first().map(Told::read))
}

fn told(ask: &Ask) -> Told {
    answer(ask).expect("because it is asked well").expect("because there is an answer")
}

#[test]
fn a_discover_is_offered_the_guests_address_and_all_that_belongs_to_it() {
    let offer = told(&Ask::discover());
    assert_eq!((offer.kind, offer.client), (kind::OFFER, NONE));
    assert_eq!(offer.to, IpAddr::from(OWN), "it can take what comes to its address to be");
    offer.assert_lease();
    offer.assert_parameters();
    assert_eq!(offer.order, [53, 54, 51, 58, 59, 1, 3, 6, 26], "and nothing else");
}

#[test]
fn a_discover_with_rapid_commit_is_leased_the_address_at_once() {
    let lease = told(&Ask::discover().with(80, &[]));
    assert_eq!((lease.kind, &lease.options[&80][..]), (kind::ACK, &[][..]));
    lease.assert_lease();
    assert!(!told(&Ask::new(kind::REQUEST).with(50, &OWN).with(80, &[])).options.contains_key(&80));
}

#[test]
fn a_client_that_cannot_take_what_is_not_broadcast_is_answered_by_broadcast() {
    let mut ask = Ask::discover();
    ask.broadcast = true;
    let offer = told(&ask);
    assert_eq!((offer.to, offer.flags), (IpAddr::from([255; 4]), [0x80, 0]));
    assert_eq!(told(&Ask::discover()).flags, [0, 0]);
    let mut renewal = Ask::new(kind::REQUEST).from(OWN, GATEWAY);
    renewal.broadcast = true;
    assert_eq!(told(&renewal).to, IpAddr::from(OWN), "who has an address needs none");
}

#[test]
fn a_request_is_answered_by_the_state_that_its_client_is_in() {
    let request = || Ask::new(kind::REQUEST);
    let everybody = [255; 4];
    for (state, ask, expected) in [
        ("SELECTING", request().with(54, &GATEWAY).with(50, &OWN), Ok(kind::ACK)),
        ("SELECTING", request().with(54, &GATEWAY).with(50, &OTHER), Ok(kind::NAK)),
        ("SELECTING", request().with(54, &OTHER).with(50, &OWN), Err(Drop::OtherServer)),
        ("SELECTING", request().with(54, &GATEWAY), Err(Drop::Malformed)),
        ("INIT-REBOOT", request().with(50, &OWN), Ok(kind::ACK)),
        ("INIT-REBOOT", request().with(50, &OTHER), Ok(kind::NAK)),
        ("INIT-REBOOT", request().with(50, &GATEWAY), Ok(kind::NAK)),
        ("RENEWING", request().from(OWN, GATEWAY), Ok(kind::ACK)),
        ("RENEWING", request().from(OTHER, GATEWAY), Ok(kind::NAK)),
        ("REBINDING", request().from(OWN, everybody), Ok(kind::ACK)),
        ("REBINDING", request().from(OTHER, everybody), Ok(kind::NAK)),
        ("none", request(), Err(Drop::Malformed)),
        ("two", request().from(OTHER, everybody).with(50, &OWN), Ok(kind::NAK)),
    ] {
        let answered = answer(&ask);
        let kind = answered.as_ref().map(|told| told.as_ref().map(|told| told.kind));
        assert_eq!(kind, expected.as_ref().map(|kind| Some(*kind)), "{state}");
        let Ok(Some(told)) = answered else { continue };
        assert_eq!(told.options[&54], GATEWAY, "{state}");
        if told.kind == kind::ACK {
            told.assert_lease();
            told.assert_parameters();
            assert_eq!((told.client, told.to), (ask.client, IpAddr::from(OWN)), "{state}");
        } else {
            assert_eq!((told.yours, told.client), (NONE, NONE), "{state}");
            assert_eq!(told.to, IpAddr::from(everybody), "{state}");
            assert_eq!(told.order, [53, 54], "{state}");
        }
    }
}

#[test]
fn an_inform_is_told_what_belongs_to_its_address_and_leased_nothing() {
    for destination in [GATEWAY, [255; 4]] {
        let ack = told(&Ask::new(kind::INFORM).from(OWN, destination));
        assert_eq!((ack.kind, ack.yours, ack.client), (kind::ACK, NONE, OWN));
        assert_eq!(ack.to, IpAddr::from(OWN));
        ack.assert_parameters();
        assert_eq!(ack.order, [53, 54, 1, 3, 6, 26]);
    }
    let stranger = Ask::new(kind::INFORM).from(OTHER, [255; 4]);
    assert_eq!(answer(&stranger).map(|_| ()), Err(Drop::SourceAddress));
}

#[test]
fn who_gives_an_address_up_or_finds_it_taken_is_heard_and_can_have_it_again() {
    let mut room = room();
    let mut world = room.world();
    let decline = Ask::new(kind::DECLINE).with(54, &GATEWAY).with(50, &OWN);
    let release = Ask::new(kind::RELEASE).with(54, &GATEWAY).from(OWN, GATEWAY);
    for (count, ask) in [(1, decline), (2, release)] {
        assert_eq!(world.dropped(&ask.frame()), None);
        assert_eq!(world.inbox(), vec![], "there is no answer to it");
        assert_eq!(world.counters().leases_given_up, count);
        world.send(&Ask::discover().frame());
        Told::read(&only(&mut world)).assert_lease();
    }
    for kind in [kind::DECLINE, kind::RELEASE] {
        let ask = Ask::new(kind).with(54, &OTHER).with(50, &OWN);
        assert_eq!(world.dropped(&ask.frame()), Some(Drop::OtherServer));
    }
    assert_eq!(world.counters().leases_given_up, 2);
}

#[test]
fn what_is_not_asked_for_is_not_told() {
    for (wanted, expected) in [
        (&[1, 3, 6, 15, 26, 119][..], &[1, 3, 6, 26, 15, 119][..]),
        (&[6], &[6]),
        (&[26, 3, 1], &[1, 3, 26]),
        (&[119, 121, 42, 255, 0], &[119]),
        (&[7], &[]),
    ] {
        let mut room = room_with(Some("guests.example"));
        let mut world = room.world();
        world.send(&Ask::discover().with(55, wanted).frame());
        let offer = Told::read(&only(&mut world));
        assert_eq!(offer.order[..5], [53, 54, 51, 58, 59], "the lease comes always");
        assert_eq!(offer.order[5..], *expected, "{wanted:?}");
    }
}

#[test]
fn the_search_domain_is_told_in_both_forms() {
    let mut room = room_with(Some("guests.example"));
    let mut world = room.world();
    world.send(&Ask::discover().frame());
    let offer = Told::read(&only(&mut world));
    assert_eq!(offer.options[&15], b"guests.example");
    assert_eq!(offer.options[&119], b"\x06guests\x07example\0");
}

#[test]
fn a_client_hears_its_own_identifier_whatever_it_is() {
    let long = vec![0x5a; 255];
    let search = "a.".repeat(126) + "a";
    for identifier in [&[0][..], &[1, 2, 0x6d, 0x73, 0, 0, 2], &[255, 1, 2, 3, 4, 5], &long] {
        let mut room = room_with(Some(&search));
        let mut world = room.world();
        world.send(&Ask::discover().with(61, identifier).frame());
        let offer = Told::read(&only(&mut world));
        assert_eq!(offer.options[&61], identifier);
        offer.assert_lease();
        for option in [1, 3, 6] {
            assert!(offer.options.contains_key(&option), "what gets it online is there");
        }
    }
}

#[test]
fn options_end_where_the_message_does_however_full_it_is() {
    let mut room = room_with(Some("guests.example"));
    let mut world = room.world();
    let mut is_full = false;
    for len in 1..=255 {
        world.send(&Ask::discover().with(61, &vec![0x5a; len]).frame());
        let seen = only(&mut world);
        is_full |= datagram(&seen).0.len() == 548;
        Told::read(&seen).assert_lease();
    }
    assert!(is_full, "one of them leaves no room");
}

#[test]
fn only_a_client_with_the_guests_own_mac_on_this_link_is_answered() {
    let mut room = room();
    let mut world = room.world();
    let good = Ask::discover().text();
    for (at, value, reason) in [
        (0, 2, Drop::Malformed),      // a reply
        (1, 6, Drop::Malformed),      // not Ethernet
        (2, 16, Drop::Malformed),     // an address of another length
        (24, 10, Drop::Unsupported),  // through a relay
        (33, 9, Drop::SourceMac),     // another client
        (236, 0, Drop::Malformed),    // BOOTP's own extensions
        (240, 54, Drop::Malformed),   // a server's address of one byte
        (240, 12, Drop::Unsupported), // no type: BOOTP
        (242, kind::OFFER, Drop::Unsupported),
        (242, kind::ACK, Drop::Unsupported),
        (242, kind::NAK, Drop::Unsupported),
        (242, 0, Drop::Unsupported),
        (242, 9, Drop::Unsupported),
        (242, 255, Drop::Unsupported),
    ] {
        let mut text = good.clone();
        text[at] = value;
        let frame = frame_of(&text, NONE, [255; 4]);
        assert_eq!(world.dropped(&frame), Some(reason), "byte {at} is {value}");
    }
    let mut foreign = Ask::discover().frame();
    foreign[11] = 9;
    assert_eq!(world.dropped(&foreign), Some(Drop::SourceMac));
    assert_eq!(world.inbox(), vec![]);
}
