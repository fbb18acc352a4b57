//! DHCP for IPv6 (RFC 8415): what a client says, and the messages that we compose.
//!
//! A reader of our own: smoltcp has none, and that of `dhcproto` allocates. It is strict: every
//! option, and every option within an association, must be whole before anything of a message
//! counts (RFC 8415 16).
//!
//! Not done: relays (RELAY-FORW; there is none on a link of two), reconfiguration and its keys, and
//! messages to an address of ours (a client sends to the group unless it is told otherwise, RFC
//! 8415 14).

use core::net::Ipv6Addr;

use super::write::Writer;
use crate::contract::{Drop, Link};
use crate::limits::{ASSOCIATIONS_MAX, DUID_BYTES_MAX};

/// The group of servers and relays that clients send to (RFC 8415 7.1).
pub(crate) const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// Addresses in one association that are somebody else's, and that the client is told to give up.
const STRANGERS_MAX: usize = 2;

/// Numbers of options (RFC 8415 21; 23 and 24: RFC 3646).
mod option {
    pub(super) const CLIENT: u16 = 1;
    pub(super) const SERVER: u16 = 2;
    pub(super) const ASSOCIATION: u16 = 3;
    pub(super) const TEMPORARY: u16 = 4;
    pub(super) const ADDRESS: u16 = 5;
    pub(super) const WANTED: u16 = 6;
    pub(super) const STATUS: u16 = 13;
    pub(super) const RAPID: u16 = 14;
    pub(super) const NAME_SERVER: u16 = 23;
    pub(super) const SEARCH: u16 = 24;
    pub(super) const DELEGATION: u16 = 25;
}

/// How a request went (RFC 8415 21.13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Success = 0,
    NoAddrsAvail = 2,
    NotOnLink = 4,
    NoPrefixAvail = 6,
}

/// What a client wants (RFC 8415 7.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Solicit,
    Request,
    Confirm,
    Renew,
    Rebind,
    Release,
    Decline,
    InformationRequest,
}

impl Kind {
    const fn of(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Solicit,
            3 => Self::Request,
            4 => Self::Confirm,
            5 => Self::Renew,
            6 => Self::Rebind,
            8 => Self::Release,
            9 => Self::Decline,
            11 => Self::InformationRequest,
            // What servers and relays say, and what nobody knows.
            _ => return None,
        })
    }
}

/// What a client says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'m> {
    pub(crate) kind: Kind,
    transaction: [u8; 3],
    /// Who it is.
    pub(crate) client: Option<&'m [u8]>,
    /// The server that it speaks to; `None`: all.
    pub(crate) server: Option<&'m [u8]>,
    /// It takes a lease without being offered it first.
    pub(crate) is_rapid: bool,
    wanted: Option<&'m [u8]>,
    options: &'m [u8],
}

/// A walk of options: number and data of each, or that the next is not whole.
struct Walk<'m>(&'m [u8]);

impl<'m> Iterator for Walk<'m> {
    type Item = Result<(u16, &'m [u8]), Drop>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let rest = core::mem::take(&mut self.0);
        let Some((&[a, b, c, d], rest)) = rest.split_first_chunk::<4>() else {
            return Some(Err(Drop::Malformed));
        };
        let len = usize::from(u16::from_be_bytes([c, d]));
        let Some((data, rest)) = rest.split_at_checked(len) else {
            return Some(Err(Drop::Malformed));
        };
        self.0 = rest;
        Some(Ok((u16::from_be_bytes([a, b]), data)))
    }
}

/// The identity of an association with `data`, and its options.
fn association(kind: u16, data: &[u8]) -> Result<([u8; 4], &[u8]), Drop> {
    let (identity, rest) = data.split_first_chunk::<4>().ok_or(Drop::Malformed)?;
    // Two times follow, but for temporary addresses.
    let rest = if kind == option::TEMPORARY { Some(rest) } else { rest.get(8..) };
    Ok((*identity, rest.ok_or(Drop::Malformed)?))
}

/// The addresses among the options of an association.
fn addresses(options: &[u8]) -> impl Iterator<Item = Ipv6Addr> {
    let is_address = |(kind, data)| (kind == option::ADDRESS).then_some(data);
    let read = |data: &[u8]| Some(Ipv6Addr::from(*data.first_chunk::<16>()?));
    Walk(options).flatten().filter_map(is_address).filter_map(read)
}

impl<'m> Message<'m> {
    /// Reads `bytes`, the payload of a datagram.
    ///
    /// # Errors
    /// Why it is no message of a client's to a server.
    ///
    /// # Cost
    /// Linear in its length.
    pub(crate) fn read(bytes: &'m [u8]) -> Result<Self, Drop> {
        let (&[kind, a, b, c], options) = bytes.split_first_chunk::<4>().ok_or(Drop::Truncated)?;
        let mut message = Self {
            kind: Kind::of(kind).ok_or(Drop::Unsupported)?,
            transaction: [a, b, c],
            client: None,
            server: None,
            is_rapid: false,
            wanted: None,
            options,
        };
        for option in Walk(options) {
            let (kind, data) = option?;
            message.take(kind, data)?;
        }
        Ok(message)
    }

    fn take(&mut self, kind: u16, data: &'m [u8]) -> Result<(), Drop> {
        match kind {
            option::CLIENT => once(&mut self.client, data, !data.is_empty()),
            option::SERVER => once(&mut self.server, data, !data.is_empty()),
            option::WANTED => once(&mut self.wanted, data, data.len().is_multiple_of(2)),
            option::RAPID => {
                self.is_rapid = true;
                if data.is_empty() { Ok(()) } else { Err(Drop::Malformed) }
            }
            option::ASSOCIATION | option::TEMPORARY | option::DELEGATION => {
                let (_, inner) = association(kind, data)?;
                Walk(inner).try_for_each(|option| match option? {
                    (option::ADDRESS, data) if data.len() < 24 => Err(Drop::Malformed),
                    (_, _) => Ok(()),
                })
            }
            _ => Ok(()),
        }
    }

    fn associations(&self) -> impl Iterator<Item = (u16, [u8; 4], &'m [u8])> {
        let kinds = [option::ASSOCIATION, option::TEMPORARY, option::DELEGATION];
        Walk(self.options).flatten().filter(move |(kind, _)| kinds.contains(kind)).filter_map(
            |(kind, data)| {
                let (identity, options) = association(kind, data).ok()?;
                Some((kind, identity, options))
            },
        )
    }

    /// Whether it asks for addresses or prefixes, or speaks of some.
    pub(crate) fn has_associations(&self) -> bool {
        self.associations().next().is_some()
    }

    /// The addresses that it speaks of.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.associations().flat_map(|(_, _, options)| addresses(options))
    }

    fn wants(&self, option: u16) -> bool {
        let is_it = |pair: &[u8; 2]| *pair == option.to_be_bytes();
        self.wanted.is_none_or(|wanted| wanted.as_chunks::<2>().0.iter().any(is_it))
    }
}

/// Takes an option that may be there once.
fn once<'m>(field: &mut Option<&'m [u8]>, data: &'m [u8], is_good: bool) -> Result<(), Drop> {
    // An identifier is short (RFC 8415 11.1); so is a list of options that anybody means.
    let fits = data.len() <= DUID_BYTES_MAX;
    if is_good && fits && field.replace(data).is_none() { Ok(()) } else { Err(Drop::Malformed) }
}

/// The gateway's identifier: its MAC address (RFC 8415 11.4).
pub(crate) fn server_identifier(link: &Link) -> [u8; 10] {
    let [a, b, c, d, e, f] = link.gateway_mac;
    [0, 3, 0, 1, a, b, c, d, e, f]
}

/// What a client is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The address is offered (ADVERTISE).
    Offer,
    /// The address is leased; at once, if the client asked for that (RFC 8415 18.2.1).
    Lease { is_rapid: bool },
    /// The lease goes on; addresses that are not the guest's end (RFC 8415 18.3.4).
    Renewal,
    /// Only how it went.
    Status(Status),
    /// No lease, but what belongs to the link.
    Parameters,
}

/// What a lease says beside the address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms<'t> {
    pub(crate) lease_s: u32,
    pub(crate) search: Option<&'t str>,
}

/// Writes the `answer` to `message`; returns its length, 0 if it had no room.
pub(crate) fn compose(
    message: &Message<'_>,
    answer: Answer,
    link: &Link,
    terms: Terms<'_>,
    out: &mut [u8],
) -> usize {
    const ADVERTISE: u8 = 2;
    const REPLY: u8 = 7;
    let mut writer = Writer::new(out);
    writer.put(&[if answer == Answer::Offer { ADVERTISE } else { REPLY }]);
    writer.put(&message.transaction);
    writer.option(option::SERVER, |w| w.put(&server_identifier(link)));
    if let Some(client) = message.client {
        writer.option(option::CLIENT, |w| w.put(client));
    }
    if answer == (Answer::Lease { is_rapid: true }) {
        writer.option(option::RAPID, |_| ());
    }
    match answer {
        Answer::Offer | Answer::Lease { .. } | Answer::Renewal => {
            put_associations(message, answer, link, terms.lease_s, &mut writer);
        }
        Answer::Status(status) => put_status(status, &mut writer),
        Answer::Parameters => {}
    }
    if !matches!(answer, Answer::Status(_)) {
        if message.wants(option::NAME_SERVER) {
            writer.option(option::NAME_SERVER, |w| w.put(&link.gateway_ipv6.octets()));
        }
        if let Some(search) = terms.search.filter(|_| message.wants(option::SEARCH)) {
            writer.option(option::SEARCH, |w| w.name(search));
        }
    }
    writer.finish()
}

/// The first association for addresses gets the guest's; there is nothing for others.
fn put_associations(
    message: &Message<'_>,
    answer: Answer,
    link: &Link,
    lease_s: u32,
    out: &mut Writer<'_>,
) {
    let mut is_taken = false;
    for (kind, identity, options) in message.associations().take(ASSOCIATIONS_MAX) {
        let is_first = kind == option::ASSOCIATION && !is_taken;
        is_taken |= is_first;
        // T1 and T2, at half the lease and at four fifths (RFC 8415 21.4).
        let (renew_s, rebind_s) =
            if is_first { (lease_s / 2, lease_s - lease_s / 5) } else { (0, 0) };
        out.option(kind, |out| {
            out.put(&identity);
            if kind != option::TEMPORARY {
                out.put(&renew_s.to_be_bytes());
                out.put(&rebind_s.to_be_bytes());
            }
            if is_first {
                put_address(link.guest_ipv6, lease_s, out);
                let strangers = addresses(options).filter(|other| *other != link.guest_ipv6);
                let told = if answer == Answer::Renewal { STRANGERS_MAX } else { 0 };
                strangers.take(told).for_each(|other| put_address(other, 0, out));
            } else if kind == option::DELEGATION {
                put_status(Status::NoPrefixAvail, out);
            } else {
                put_status(Status::NoAddrsAvail, out);
            }
        });
    }
}

fn put_address(address: Ipv6Addr, lifetime_s: u32, out: &mut Writer<'_>) {
    out.option(option::ADDRESS, |out| {
        out.put(&address.octets());
        // Preferred and valid for the same time.
        out.put(&lifetime_s.to_be_bytes());
        out.put(&lifetime_s.to_be_bytes());
    });
}

fn put_status(status: Status, out: &mut Writer<'_>) {
    out.option(option::STATUS, |out| out.words(&[status as u16]));
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::limits::DHCPV6_BYTES_MAX;
    use proptest::prelude::*;
    use std::vec::Vec;

    const LINK: Link = Link {
        guest_mac: [2, 0, 0, 0, 0, 2],
        gateway_mac: [2, 0, 0, 0, 0, 1],
        guest_ipv4: core::net::Ipv4Addr::new(100, 96, 0, 2),
        gateway_ipv4: core::net::Ipv4Addr::new(100, 96, 0, 1),
        guest_ipv6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2),
        gateway_ipv6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1),
        mtu: 1500,
        receive_frame_bytes: 1514,
    };

    /// An option with `data`, whose length is now and then a lie.
    fn whole(number: u16, data: &[u8], lie: Option<u16>) -> Vec<u8> {
        let len = lie.unwrap_or(u16::try_from(data.len()).unwrap());
        let mut out = Vec::from(number.to_be_bytes());
        out.extend(len.to_be_bytes());
        out.extend(data);
        out
    }

    /// Associations with addresses, and other options, mostly whole.
    fn options() -> impl Strategy<Value = Vec<u8>> {
        let lie = || prop::option::weighted(0.02, any::<u16>());
        let address = (prop::collection::vec(any::<u8>(), 24..27), lie())
            .prop_map(|(data, lie)| whole(option::ADDRESS, &data, lie));
        let kinds = [option::ASSOCIATION, option::TEMPORARY, option::DELEGATION];
        let association = (
            prop::sample::select(kinds.to_vec()),
            prop::collection::vec(any::<u8>(), 12),
            prop::collection::vec(address, 0..5),
            lie(),
        )
            .prop_map(|(kind, mut head, addresses, lie)| {
                head.truncate(if kind == option::TEMPORARY { 4 } else { 12 });
                head.extend(addresses.concat());
                whole(kind, &head, lie)
            });
        let other = (0u16..40, prop::collection::vec(any::<u8>(), 0..9), lie())
            .prop_map(|(kind, data, lie)| whole(if kind < 7 { 1 } else { kind }, &data, lie));
        prop::collection::vec(prop_oneof![2 => association, 1 => other], 0..9)
            .prop_map(|options| options.concat())
    }

    proptest! {
        #[test]
        fn whatever_a_client_says_the_answer_is_whole(kind in 0u8..14, body in options()) {
            let mut text = Vec::from([kind, 1, 2, 3]);
            text.extend(body);
            let Ok(message) = Message::read(&text) else { return Ok(()) };
            let search = "a.".repeat(126) + "a";
            let terms = Terms { lease_s: 60, search: Some(&search) };
            for answer in [
                Answer::Offer,
                Answer::Lease { is_rapid: true },
                Answer::Renewal,
                Answer::Status(Status::Success),
                Answer::Parameters,
            ] {
                let mut out = [0; DHCPV6_BYTES_MAX];
                let len = compose(&message, answer, &LINK, terms, &mut out);
                prop_assert!(len > 0, "it has room");
                let (_, options) = out.get(..len).unwrap().split_at(4);
                prop_assert!(Walk(options).all(|option| option.is_ok()));
                prop_assert!(Walk(options).any(|option| option.unwrap().0 == option::SERVER));
            }
        }

        #[test]
        fn bytes_that_mean_nothing_harm_nobody(text in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(message) = Message::read(&text) {
                message.addresses().for_each(drop);
            }
        }
    }
}
