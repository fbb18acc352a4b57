//! DHCP for IPv6: every message of a client.

use core::net::{IpAddr, Ipv6Addr};

use sim::frame::{self, protocol};
use sim::{Seen, default_config};
use sluicegate_core::Drop;

use super::{GATEWAY, LEASE_S, LINK_LOCAL, datagram, room, room_with, to_all};
use crate::only;

/// All servers and relays of the link.
pub(super) const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// Message types (RFC 8415 7.3).
mod kind {
    pub(super) const SOLICIT: u8 = 1;
    pub(super) const ADVERTISE: u8 = 2;
    pub(super) const REQUEST: u8 = 3;
    pub(super) const CONFIRM: u8 = 4;
    pub(super) const RENEW: u8 = 5;
    pub(super) const REBIND: u8 = 6;
    pub(super) const REPLY: u8 = 7;
    pub(super) const RELEASE: u8 = 8;
    pub(super) const DECLINE: u8 = 9;
    pub(super) const INFORMATION: u8 = 11;
}

/// A client's identifier, and the gateway's.
const CLIENT: [u8; 6] = [0, 4, 1, 2, 3, 4];
const SERVER: [u8; 10] = [0, 3, 0, 1, 0x02, 0x6d, 0x73, 0, 0, 1];
const OTHER_SERVER: [u8; 10] = [0, 3, 0, 1, 0x02, 0x6d, 0x73, 0, 0, 9];
const OTHER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);

fn own() -> Ipv6Addr {
    default_config().link.guest_ipv6
}

/// An option.
pub(super) fn option(number: u16, data: &[u8]) -> Vec<u8> {
    let mut out = number.to_be_bytes().to_vec();
    out.extend((data.len() as u16).to_be_bytes());
    out.extend(data);
    out
}

/// An association for addresses that has `addresses`.
fn association(identity: u32, addresses: &[Ipv6Addr]) -> Vec<u8> {
    let mut data = identity.to_be_bytes().to_vec();
    data.extend([0; 8]);
    for address in addresses {
        data.extend(option(5, &[&address.octets()[..], &[0; 8]].concat()));
    }
    option(3, &data)
}

/// What a client asks.
#[derive(Clone)]
pub(super) struct Ask {
    kind: u8,
    options: Vec<u8>,
}

impl Ask {
    fn new(kind: u8) -> Self {
        Self { kind, options: vec![] }.with(option(1, &CLIENT)).with(option(8, &[0, 0]))
    }

    pub(super) fn solicit() -> Self {
        Self::new(kind::SOLICIT).with(association(7, &[]))
    }

    fn with(mut self, option: Vec<u8>) -> Self {
        self.options.extend(option);
        self
    }

    fn to(self, server: &[u8]) -> Self {
        self.with(option(2, server))
    }

    fn of(self, addresses: &[Ipv6Addr]) -> Self {
        self.with(association(7, addresses))
    }

    /// The message.
    pub(super) fn text(&self) -> Vec<u8> {
        [&[self.kind, 0xab, 0xcd, 0xef][..], &self.options].concat()
    }

    pub(super) fn frame(&self) -> Vec<u8> {
        frame_of(&self.text())
    }
}

/// A frame with the message `text`.
pub(super) fn frame_of(text: &[u8]) -> Vec<u8> {
    let ends = (LINK_LOCAL.into(), SERVERS.into());
    to_all(ends, protocol::UDP, &frame::udp_header(546, 547, text))
}

/// Options, in their order: numbers and data.
type Options = Vec<(u16, Vec<u8>)>;
/// What an association says: number, identity, T1 and T2, and options.
type Association = (u16, u32, Option<(u32, u32)>, Options);

/// The options of `rest`.
fn options(mut rest: &[u8]) -> Options {
    let mut found = vec![];
    while let [a, b, c, d, tail @ ..] = rest {
        let (data, tail) = tail.split_at(usize::from(u16::from_be_bytes([*c, *d])));
        found.push((u16::from_be_bytes([*a, *b]), data.to_vec()));
        rest = tail;
    }
    assert_eq!(rest, [], "the last option is whole");
    found
}

/// An answer: its type, and its options but for the two identifiers.
#[derive(Debug)]
struct Told {
    kind: u8,
    options: Options,
}

impl Told {
    fn read(seen: &Seen, is_anonymous: bool) -> Self {
        let (text, ends, ports) = datagram(seen);
        let expected: (IpAddr, IpAddr) = (GATEWAY.into(), LINK_LOCAL.into());
        assert_eq!((ends, ports), (expected, (547, 546)));
        assert_eq!(text[1..4], [0xab, 0xcd, 0xef], "the client's transaction");
        let mut options = options(&text[4..]);
        assert_eq!(options.remove(0), (2, SERVER.to_vec()));
        if !is_anonymous {
            assert_eq!(options.remove(0), (1, CLIENT.to_vec()));
        }
        Self { kind: text[0], options }
    }

    fn has(&self, number: u16) -> Option<&[u8]> {
        self.options.iter().find(|(n, _)| *n == number).map(|(_, data)| &data[..])
    }

    /// Its associations.
    fn associations(&self) -> Vec<Association> {
        let long = |data: &[u8], at| u32::from_be_bytes(core::array::from_fn(|i| data[at + i]));
        let kinds = [3, 4, 25];
        let ours = self.options.iter().filter(|(number, _)| kinds.contains(number));
        ours.map(|(number, data)| {
            let times = (*number != 4).then(|| (long(data, 4), long(data, 8)));
            let rest = if times.is_some() { 12 } else { 4 };
            (*number, long(data, 0), times, options(&data[rest..]))
        })
        .collect()
    }

    /// Checks that there is one association, 7, which has the guest's address, and `ended` ones.
    fn assert_lease(&self, ended: &[Ipv6Addr]) {
        let [(3, 7, times, options)] = &self.associations()[..] else {
            panic!("not one association: {self:?}");
        };
        assert_eq!(*times, Some((LEASE_S / 2, LEASE_S / 5 * 4)));
        let address = |address: Ipv6Addr, seconds: u32| {
            let seconds = seconds.to_be_bytes();
            (5, [&address.octets()[..], &seconds, &seconds].concat())
        };
        let mut expected = vec![address(own(), LEASE_S)];
        expected.extend(ended.iter().map(|other| address(*other, 0)));
        assert_eq!(*options, expected);
        self.assert_parameters();
    }

    fn assert_parameters(&self) {
        let gateway = default_config().link.gateway_ipv6.octets();
        assert_eq!(self.has(23), Some(&gateway[..]));
    }
}

/// What `ask` is answered in a world of its own; every answer is one.
fn answer(ask: &Ask) -> Result<Told, Drop> {
    let mut room = room();
    let mut world = room.world();
    if let Some(reason) = world.dropped(&ask.frame()) {
        assert_eq!(world.inbox(), vec![], "what is dropped has no answer");
        return Err(reason);
    }
    assert_eq!(world.peers.log, vec![], "the host has nothing to do with it");
    let is_anonymous = !ask.options.starts_with(&option(1, &CLIENT));
    Ok(Told::read(&only(&mut world), is_anonymous))
}

#[test]
fn a_solicit_is_offered_the_guests_address() {
    let offer = answer(&Ask::solicit()).unwrap();
    assert_eq!(offer.kind, kind::ADVERTISE);
    offer.assert_lease(&[]);
    // A hint is no right.
    let hinted = answer(&Ask::new(kind::SOLICIT).of(&[OTHER])).unwrap();
    hinted.assert_lease(&[]);
}

#[test]
fn a_solicit_with_rapid_commit_is_leased_the_address_at_once() {
    let lease = answer(&Ask::solicit().with(option(14, &[]))).unwrap();
    assert_eq!((lease.kind, lease.has(14)), (kind::REPLY, Some(&[][..])));
    lease.assert_lease(&[]);
}

#[test]
fn each_message_has_the_answer_of_its_state() {
    let ask = Ask::new;
    let (success, not_on_link) = (Some([0, 0]), Some([0, 4]));
    for (ask, lease, status) in [
        (ask(kind::REQUEST).to(&SERVER).of(&[own()]), Some(vec![]), None),
        (ask(kind::REQUEST).to(&SERVER).of(&[OTHER]), Some(vec![]), None),
        (ask(kind::RENEW).to(&SERVER).of(&[own()]), Some(vec![]), None),
        (ask(kind::RENEW).to(&SERVER).of(&[OTHER, own()]), Some(vec![OTHER]), None),
        (ask(kind::REBIND).of(&[own()]), Some(vec![]), None),
        (ask(kind::REBIND).of(&[OTHER]), Some(vec![OTHER]), None),
        (ask(kind::CONFIRM).of(&[own()]), None, success),
        (ask(kind::CONFIRM).of(&[own(), OTHER]), None, not_on_link),
        (ask(kind::CONFIRM).of(&[OTHER]), None, not_on_link),
        (ask(kind::RELEASE).to(&SERVER).of(&[own()]), None, success),
        (ask(kind::DECLINE).to(&SERVER).of(&[own()]), None, success),
    ] {
        let told = answer(&ask).unwrap();
        assert_eq!(told.kind, kind::REPLY, "{}", ask.kind);
        assert_eq!(told.has(13), status.as_ref().map(|status| &status[..]), "{}", ask.kind);
        match lease {
            Some(ended) => told.assert_lease(&ended),
            None => assert_eq!(told.options.len(), 1, "{}: only how it went", ask.kind),
        }
    }
}

#[test]
fn who_only_wants_to_know_is_told_and_leased_nothing() {
    for ask in [
        Ask::new(kind::INFORMATION),
        Ask::new(kind::INFORMATION).to(&SERVER),
        Ask { kind: kind::INFORMATION, options: vec![] },
    ] {
        let told = answer(&ask).unwrap();
        assert_eq!((told.kind, told.options.len()), (kind::REPLY, 1));
        told.assert_parameters();
    }
}

#[test]
fn what_a_message_must_have_or_must_not_have_is_looked_at() {
    let anonymous = |kind| Ask { kind, options: association(7, &[own()]) };
    let ask = |kind| Ask::new(kind).of(&[own()]);
    for (ask, reason) in [
        (anonymous(kind::SOLICIT), Drop::Malformed),
        (ask(kind::SOLICIT).to(&SERVER), Drop::Malformed),
        (anonymous(kind::REQUEST).to(&SERVER), Drop::Malformed),
        (ask(kind::REQUEST), Drop::Malformed),
        (ask(kind::REQUEST).to(&OTHER_SERVER), Drop::OtherServer),
        (anonymous(kind::CONFIRM), Drop::Malformed),
        (ask(kind::CONFIRM).to(&SERVER), Drop::Malformed),
        (Ask::new(kind::CONFIRM).of(&[]), Drop::Malformed),
        (anonymous(kind::RENEW).to(&SERVER), Drop::Malformed),
        (ask(kind::RENEW), Drop::Malformed),
        (ask(kind::RENEW).to(&OTHER_SERVER), Drop::OtherServer),
        (anonymous(kind::REBIND), Drop::Malformed),
        (ask(kind::REBIND).to(&SERVER), Drop::Malformed),
        (anonymous(kind::RELEASE).to(&SERVER), Drop::Malformed),
        (ask(kind::RELEASE), Drop::Malformed),
        (ask(kind::RELEASE).to(&OTHER_SERVER), Drop::OtherServer),
        (ask(kind::DECLINE), Drop::Malformed),
        (ask(kind::DECLINE).to(&OTHER_SERVER), Drop::OtherServer),
        (ask(kind::INFORMATION), Drop::Malformed),
        (Ask::new(kind::INFORMATION).to(&OTHER_SERVER), Drop::OtherServer),
        (ask(kind::ADVERTISE), Drop::Unsupported),
        (ask(kind::REPLY), Drop::Unsupported),
        (ask(10), Drop::Unsupported),
        (ask(12), Drop::Unsupported), // from a relay
        (ask(13), Drop::Unsupported),
        (ask(0), Drop::Unsupported),
        (ask(255), Drop::Unsupported),
        (ask(kind::SOLICIT).with(option(1, &CLIENT)), Drop::Malformed),
    ] {
        assert_eq!(answer(&ask).map(|_| ()), Err(reason), "{:02x?}", ask.text());
    }
}

#[test]
fn there_is_one_address_and_nothing_else_to_be_had() {
    let temporary = option(4, &[0, 0, 0, 9]);
    let delegation = option(25, &[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
    let ask = Ask::new(kind::SOLICIT)
        .with(delegation.clone())
        .with(temporary)
        .of(&[])
        .with(association(11, &[]))
        .with(association(12, &[]));
    let told = answer(&ask).unwrap();
    let status = |code: u8| vec![(13, vec![0, code])];
    let mut all = told.associations();
    assert_eq!(all.len(), 4, "more than four are not answered");
    let own = all.remove(2);
    assert_eq!((own.0, own.1, own.3[0].0), (3, 7, 5));
    let none = Some((0, 0));
    let expected = [(25, 8, none, status(6)), (4, 9, None, status(2)), (3, 11, none, status(2))];
    assert_eq!(all, expected);
    let only = answer(&Ask::new(kind::SOLICIT).with(delegation)).unwrap();
    assert_eq!((only.kind, only.associations()), (kind::ADVERTISE, vec![expected[0].clone()]));
}

#[test]
fn what_is_not_asked_for_is_not_told() {
    for (wanted, expected) in [
        (Some(&[0, 23, 0, 24][..]), &[23, 24][..]),
        (Some(&[0, 24]), &[24]),
        (Some(&[0, 31, 0, 23]), &[23]),
        (Some(&[23, 0]), &[]),
        (Some(&[]), &[]),
        (None, &[23, 24]),
    ] {
        let mut room = room_with(Some("guests.example"));
        let mut world = room.world();
        let mut ask = Ask::new(kind::INFORMATION);
        if let Some(wanted) = wanted {
            ask = ask.with(option(6, wanted));
        }
        world.send(&ask.frame());
        let told = Told::read(&only(&mut world), false);
        let numbers: Vec<_> = told.options.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, expected, "{wanted:?}");
        if let Some(search) = told.has(24) {
            assert_eq!(search, b"\x06guests\x07example\0");
        }
    }
}

#[test]
fn a_client_that_gives_its_address_up_is_counted() {
    let mut room = room();
    let mut world = room.world();
    for kind in [kind::RELEASE, kind::DECLINE] {
        world.send(&Ask::new(kind).to(&SERVER).of(&[own()]).frame());
    }
    assert_eq!((world.counters().leases_given_up, world.inbox().len()), (2, 2));
}

#[test]
fn the_longest_answer_fits_whatever_the_client_says() {
    let search = "a.".repeat(126) + "a";
    let mut room = room_with(Some(&search));
    let mut world = room.world();
    let strangers = [OTHER; 3];
    let mut text = vec![kind::REBIND, 0xab, 0xcd, 0xef];
    text.extend(option(1, &[9; 130]));
    for identity in 0..5 {
        text.extend(association(identity, &strangers));
    }
    assert_eq!(world.dropped(&frame_of(&text)), None);
    let seen = only(&mut world);
    let (answer, ..) = datagram(&seen);
    assert_eq!(options(&answer[4..]).len(), 2 + 4 + 2, "{} bytes", answer.len());
    text[4 + 3] += 1;
    text.insert(8, 9);
    assert_eq!(world.dropped(&frame_of(&text)), Some(Drop::Malformed), "131 bytes of identity");
}
