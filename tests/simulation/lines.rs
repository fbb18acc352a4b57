//! Names over TCP (RFC 1035 4.2.2, RFC 7766): the guest asks its resolver several things on one
//! connection, each behind its length and cut in any pieces, finishes, and hears all answers, in
//! whatever order they come.
//!
//! What may be asked and answered is `names`' to say, as over UDP. Here it is said that each
//! question has one answer, and that the bytes of both are whole.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::collections::BTreeSet;

use sim::Dice;
use sim::core::limits::DNS_PORT;

use super::names::Names;

/// Questions on a connection at most.
const QUESTIONS_MAX: u64 = 8;

/// The name server of the connection of number `number`: each has its own.
pub(crate) fn server(number: u16, dice: &mut Dice) -> SocketAddr {
    let address: IpAddr = if dice.one_of(500) {
        Ipv4Addr::new(9, 9, 9, number as u8).into()
    } else {
        Ipv6Addr::new(0x2620, 0xfe, 0, 0, 0, 0, 0, number).into()
    };
    SocketAddr::new(address, DNS_PORT)
}

/// The number of the connection to the name server at `address`.
pub(crate) fn number(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(v4) => v4.octets()[3].into(),
        IpAddr::V6(v6) => v6.segments()[7],
    }
}

/// Takes the first whole message out of `bytes`.
fn message(bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    let (head, rest) = bytes.split_first_chunk()?;
    let len = usize::from(u16::from_be_bytes(*head));
    let message = rest.get(..len)?.to_vec();
    bytes.drain(..2 + len);
    Some(message)
}

/// `message` behind its length.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let len = u16::try_from(message.len()).expect("because a message is as long as can be said");
    [&len.to_be_bytes(), message].concat()
}

/// Both ends of a connection on which names are asked.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) questions: u64,
    /// What was asked, by its names in `names`.
    asked: Vec<u16>,
    answered: BTreeSet<u16>,
    /// What came to the guest, and to the host, and is not whole yet.
    heard: Vec<u8>,
    said: Vec<u8>,
    /// Questions that came to the host, and those that it has answered.
    taken: usize,
    pub(crate) replied: usize,
}

impl Line {
    pub(crate) fn new(dice: &mut Dice) -> Self {
        Self {
            questions: dice.between(1, QUESTIONS_MAX),
            asked: vec![],
            answered: BTreeSet::new(),
            heard: vec![],
            said: vec![],
            taken: 0,
            replied: 0,
        }
    }

    /// All that the guest is going to say.
    pub(crate) fn ask(&mut self, names: &mut Names) -> Vec<u8> {
        let mut bytes = vec![];
        for _ in 0..self.questions {
            let (number, message) = names.ask_on_line();
            self.asked.push(number);
            bytes.extend(framed(&message));
        }
        bytes
    }

    /// The questions that are whole with `bytes`, which came to the host.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.said.extend(bytes);
        let all: Vec<_> = core::iter::from_fn(|| message(&mut self.said)).collect();
        self.taken += all.len();
        all
    }

    /// Whether the host has answered all that it was asked.
    pub(crate) fn is_replied(&self) -> bool {
        self.replied == self.taken
    }

    /// The guest hears `bytes`, each message of which answers one of its questions.
    pub(crate) fn hear(&mut self, bytes: &[u8], names: &Names) {
        self.heard.extend(bytes);
        while let Some(reply) = message(&mut self.heard) {
            let is_its = |number: &&u16| names.is_reply(**number, &reply);
            let mut its = self.asked.iter().filter(is_its);
            let number = its.find(|number| !self.answered.contains(number));
            let number = number.unwrap_or_else(|| panic!("{reply:?} answers nothing: {self:?}"));
            self.answered.insert(*number);
        }
    }

    /// How it went, in a few words.
    pub(crate) fn story(&self) -> &'static str {
        if self.asked.len() > 1 { "several names over TCP" } else { "a name over TCP" }
    }

    /// Whether the guest has heard all answers, and nothing else.
    pub(crate) fn is_answered(&self) -> bool {
        self.answered.len() == self.asked.len() && self.heard.is_empty() && !self.asked.is_empty()
    }
}
