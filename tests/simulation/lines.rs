//! Names over TCP (RFC 1035 4.2.2, RFC 7766): the guest asks its resolver several things on one
//! connection, each behind its length and cut in any pieces, finishes, and hears all answers, in
//! whatever order they come.
//!
//! What may be asked and answered is `names`' to say, as over UDP. Here it is said that each
//! question has one answer, and that the bytes of both are whole.
//!
//! Some lines are in TLS (RFC 7858), which the host ends: to the engine it is a hello, and then
//! bytes. It must hand the line over once it has heard the whole hello, and not before, or reset
//! the guest when the time for that is up. What follows is in the clear here: the host's TLS is its
//! own.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::collections::BTreeSet;

use sim::core::limits::{DNS_OVER_TLS_PORT, DNS_PORT, TCP_LOOK_MS_MAX};
use sim::core::{Beginning, Instant};
use sim::frame::flag::{ACK, SYN};
use sim::{Dice, Did, Tcp};

use super::names::{NAMES, Names};
use super::run::address;
use super::signs::timer_at;
use super::words;

/// Questions on a connection at most.
const QUESTIONS_MAX: u64 = 8;

/// The name server of the connection of number `number`: each has its own.
pub(crate) fn server(number: u16, dice: &mut Dice) -> SocketAddr {
    let address: IpAddr = if dice.one_of(500) {
        Ipv4Addr::new(9, 9, 9, number as u8).into()
    } else {
        Ipv6Addr::new(0x2620, 0xfe, 0, 0, 0, 0, 0, number).into()
    };
    SocketAddr::new(address, if dice.one_of(500) { DNS_PORT } else { DNS_OVER_TLS_PORT })
}

/// Whether `port` is one of name servers.
pub(crate) fn is_line(port: u16) -> bool {
    matches!(port, DNS_PORT | DNS_OVER_TLS_PORT)
}

/// How the guest begins TLS, and what the engine has heard of that.
#[derive(Debug)]
struct Hello {
    name: &'static str,
    bytes: Vec<u8>,
    /// When the guest began, and the sequence number of its first byte.
    began: Option<(Instant, u32)>,
    heard: Vec<bool>,
    /// How many of them the host has taken.
    taken: usize,
    /// The host has the line, or the guest was reset.
    is_over: bool,
    is_late: bool,
}

impl Hello {
    fn new(dice: &mut Dice) -> Self {
        let name = NAMES[dice.below(NAMES.len() as u64) as usize];
        let bytes = words::hello(name, dice);
        let heard = vec![false; bytes.len()];
        Self { name, bytes, began: None, heard, taken: 0, is_over: false, is_late: false }
    }

    /// The engine is about to hear `segment` of the guest, whole.
    fn hear(&mut self, now: Instant, segment: &Tcp) {
        if segment.has(SYN) && !segment.has(ACK) {
            self.began.get_or_insert((now, segment.seq.wrapping_add(1)));
            return;
        }
        let Some((_, first)) = self.began else { return };
        let at = segment.seq.wrapping_sub(first) as usize;
        let end = at.saturating_add(segment.payload.len()).min(self.heard.len());
        if at < end {
            self.heard[at..end].fill(true);
        }
    }

    /// The engine has done at `now` what it had to do: `did` for the line to `to`, for which it
    /// listens still, or not. Returns whether it has given it up.
    fn check(&mut self, now: Instant, to: SocketAddr, (did, is_there): (&[Did], bool)) -> bool {
        let Some((since, _)) = self.began.filter(|_| !self.is_over) else { return false };
        let is_whole = self.heard.iter().all(|heard| *heard);
        let handed = did.iter().find_map(|did| {
            let Did::Intercept { to: there, name, is_veiled, is_denied, begins, .. } = did else {
                return None;
            };
            (address(*there) == to).then_some((name.as_deref(), *is_veiled, *is_denied, *begins))
        });
        if let Some(handed) = handed {
            assert!(is_whole, "the host has {to} before a whole hello: {self:?}");
            assert_eq!(handed, (Some(self.name), false, false, Beginning::Tls));
            self.is_over = true;
            return false;
        }
        let is_time_up = timer_at(since, TCP_LOOK_MS_MAX) <= now;
        assert!(is_there != is_time_up, "{to} at {now:?}: {is_there}, {self:?}");
        assert!(!is_there || !is_whole, "nobody has {to}, though its hello is whole: {self:?}");
        self.is_over = is_time_up;
        self.is_late = is_time_up;
        is_time_up
    }
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
    /// Where it is in TLS.
    hello: Option<Hello>,
}

impl Line {
    /// A line to the name server at `to`.
    pub(crate) fn new(to: SocketAddr, dice: &mut Dice) -> Self {
        Self {
            hello: (to.port() == DNS_OVER_TLS_PORT).then(|| Hello::new(dice)),
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
        let mut bytes = self.hello.as_ref().map_or(vec![], |hello| hello.bytes.clone());
        for _ in 0..self.questions {
            let (number, message) = names.ask_on_line();
            self.asked.push(number);
            bytes.extend(framed(&message));
        }
        bytes
    }

    /// The questions that are whole with `bytes`, which came to the host.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let of_hello = self.hello.as_mut().map_or(0, |hello| {
            let len = bytes.len().min(hello.bytes.len() - hello.taken);
            hello.taken += len;
            len
        });
        self.said.extend(&bytes[of_hello..]);
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

    /// The engine is about to hear `segment` of the guest, whole.
    pub(crate) fn listen(&mut self, now: Instant, segment: &Tcp) {
        self.hello.iter_mut().for_each(|hello| hello.hear(now, segment));
    }

    /// Whether the engine has yet to hand the line over.
    pub(crate) fn is_held(&self) -> bool {
        self.hello.as_ref().is_some_and(|hello| !hello.is_over)
    }

    /// As [`Hello::check`].
    pub(crate) fn check(&mut self, now: Instant, to: SocketAddr, did: (&[Did], bool)) -> bool {
        self.hello.as_mut().is_some_and(|hello| hello.check(now, to, did))
    }

    /// How it went, in a few words.
    pub(crate) fn story(&self) -> &'static str {
        if let Some(hello) = &self.hello {
            return if hello.is_late { "names over TLS, too late" } else { "names over TLS" };
        }
        if self.asked.len() > 1 { "several names over TCP" } else { "a name over TCP" }
    }

    /// Whether the guest has heard all answers, and nothing else.
    pub(crate) fn is_answered(&self) -> bool {
        self.answered.len() == self.asked.len() && self.heard.is_empty() && !self.asked.is_empty()
    }
}
