//! Names: the guest asks, name servers answer what they like and when they like, and the guest goes
//! where it likes. A model knows where each name truly leads; by it is checked what is asked of
//! whom, what the guest gets to hear, what the engine keeps, and whom the guest reaches.
//!
//! Stands where the host's resolver stands: it takes for an answer what has the number and the
//! question of its query, and gives up after a while.

use core::net::{IpAddr, SocketAddr};
use std::collections::{BTreeMap, BTreeSet};

use sim::core::{
    Config, Engine, FlowId, Instant, QueryStep, Refusal, RingHandle, is_answer_to, limits,
};
use sim::dns::{self, kind};
use sim::frame::{self, Segment, flag, protocol};
use sim::{Datagrams, Dice, Did, Message, Seen};

use super::lie::{self, Answer, DATAGRAM_BYTES_MAX, Truth, any_address, spelt};
use super::policies::Rules;
use super::run::address;
use super::signs::{self, Quoted, quoted};

/// Ports of the guest: each question and each visit has one of its own, below those of the stacks.
const ASKING: u16 = 12_000;
const VISITING: u16 = 14_000;
/// Names of questions over TCP, where ports are those of the stacks.
const ON_LINE: u16 = 13_000;
/// Ports outside that are visited, one each; those of applications are lower.
pub(crate) const VISITED: u16 = 10_000;
/// How long the host waits for an answer.
const TIMEOUT_MS: u64 = 5000;
const NAME_ERROR: u8 = 3;
const SERVER_FAILURE: u8 = 2;
const REFUSED: u8 = 5;

/// Names that are asked for. Some are denied.
pub(crate) const NAMES: [&str; 8] = [
    "good.test",
    "a.wide.test",
    "b.a.wide.test",
    "wide.test",
    "short.test",
    "denied.wide.test",
    "evil.test",
    "good.test.evil.test",
];

/// Tells the engine what else it has to know to judge names.
pub(crate) fn configure(config: &mut Config) {
    config
        .own_addresses
        .push(lie::OWN.parse().expect("because it is one"))
        .expect("because 1 fits");
}

/// A question of the guest, which every message has that is about it.
#[derive(Debug, Clone)]
struct Asked {
    name: &'static str,
    kind: u16,
    message: Vec<u8>,
    /// Over TCP: how the others of its connection call it.
    line: Option<u16>,
}

/// What a name server will say.
#[derive(Debug)]
struct Pending {
    flow: FlowId,
    asked: Asked,
    /// The host's own query.
    sent: Vec<u8>,
    /// `None`: nobody said anything.
    answer: Option<Answer>,
}

/// What the guest is to hear.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) flow: FlowId,
    /// Over TCP.
    pub(crate) is_on_line: bool,
    pub(crate) message: Vec<u8>,
}

/// A visit that the engine is about to see.
#[derive(Debug)]
struct Visit {
    to: SocketAddr,
    is_tcp: bool,
    may: bool,
}

/// The guest's questions and visits, the name servers, and the model.
#[derive(Debug)]
pub(crate) struct Names {
    dice: Dice,
    rules: Rules,
    questions: u64,
    visits: u64,
    lines: u16,
    /// The questions over TCP that have an answer.
    settled: BTreeSet<u16>,
    /// By the guest's port.
    asked: BTreeMap<u16, Asked>,
    /// What the guest may hear, by its port.
    replies: BTreeMap<u16, Vec<Vec<u8>>>,
    pending: BTreeMap<(Instant, u64), Pending>,
    /// The guest's own frames of visits, and where they go.
    frames: BTreeMap<Vec<u8>, (SocketAddr, bool)>,
    expected: Vec<Visit>,
    /// The flows of visits that were allowed, by the port outside.
    open: BTreeMap<u16, FlowId>,
    denied: BTreeSet<SocketAddr>,
    /// Where names lead, and until when.
    bound: BTreeMap<(IpAddr, String), Instant>,
    out: Vec<u8>,
    made: u64,
}

impl Names {
    pub(crate) fn new(rules: Rules, mut dice: Dice) -> Self {
        Self {
            questions: dice.below(30),
            visits: dice.below(40),
            dice,
            rules,
            lines: 0,
            settled: BTreeSet::new(),
            asked: BTreeMap::new(),
            replies: BTreeMap::new(),
            pending: BTreeMap::new(),
            frames: BTreeMap::new(),
            expected: vec![],
            open: BTreeMap::new(),
            denied: BTreeSet::new(),
            bound: BTreeMap::new(),
            out: vec![0; limits::DNS_MESSAGE_BYTES_MAX],
            made: 0,
        }
    }

    /// The guest's next frame, now and then.
    pub(crate) fn frame(&mut self) -> Option<Vec<u8>> {
        if self.questions > 0 && self.dice.one_of(60) {
            self.questions -= 1;
            return Some(self.question());
        }
        if self.visits > 0 && self.dice.one_of(40) {
            self.visits -= 1;
            return Some(self.visit());
        }
        None
    }

    /// Another question.
    fn asked(&mut self, line: Option<u16>) -> Asked {
        let dice = &mut self.dice;
        let name = NAMES[dice.below(NAMES.len() as u64) as usize];
        let kinds = [kind::A, kind::A, kind::A, kind::AAAA, kind::AAAA, kind::HTTPS, kind::AXFR];
        let kind = kinds[dice.below(7) as usize];
        let mut message = dns::query("", kind);
        message.splice(12..13, spelt(name, dice));
        loop {
            message[..2].copy_from_slice(&dice.draw().to_le_bytes()[..2]);
            if self.asked.values().all(|asked| asked.message != message) {
                return Asked { name, kind, message, line };
            }
        }
    }

    fn question(&mut self) -> Vec<u8> {
        let asked = self.asked(None);
        let port = ASKING + self.questions as u16;
        let to = SocketAddr::new(lie::pick(&lie::MEANT, &mut self.dice), limits::DNS_PORT);
        let frame = frame::udp(port, to, &asked.message);
        self.asked.insert(port, asked);
        frame
    }

    /// A question over TCP, and how it is called.
    pub(crate) fn ask_on_line(&mut self) -> (u16, Vec<u8>) {
        let number = ON_LINE + self.lines;
        self.lines += 1;
        let asked = self.asked(Some(number));
        let message = asked.message.clone();
        self.asked.insert(number, asked);
        (number, message)
    }

    /// Whether `reply` is what the guest may hear of the question over TCP that is called `number`.
    pub(crate) fn is_reply(&self, number: u16, reply: &Vec<u8>) -> bool {
        self.replies.get(&number).is_some_and(|all| all.contains(reply))
    }

    /// Mostly where `name` leads, or led; otherwise `elsewhere`. `None`: any name.
    pub(crate) fn somewhere(
        &mut self,
        name: Option<&str>,
        elsewhere: impl Fn(&mut Dice) -> IpAddr,
    ) -> IpAddr {
        let dice = &mut self.dice;
        let is_it = |(_, known): &&(IpAddr, String)| name.is_none_or(|name| known == name);
        let bound = self.bound.keys().filter(is_it);
        let bound: Vec<IpAddr> = bound.map(|(address, _)| *address).collect();
        match dice.below(3) {
            0 | 1 if !bound.is_empty() => bound[dice.below(bound.len() as u64) as usize],
            _ => elsewhere(dice),
        }
    }

    fn visit(&mut self) -> Vec<u8> {
        let address = self.somewhere(None, any_address);
        let dice = &mut self.dice;
        let number = self.visits as u16;
        let to = SocketAddr::new(address, VISITED + number);
        let port = VISITING + number;
        let is_tcp = dice.one_of(400);
        let frame = if is_tcp {
            let seq = dice.draw() as u32;
            let flags = flag::SYN;
            frame::tcp(to, &Segment { port, seq, flags, window: 1000, ..Segment::default() })
        } else {
            frame::udp(port, to, b"visit")
        };
        self.frames.insert(unmarked(&frame), (to, is_tcp));
        frame
    }

    /// The engine has taken the guest's `frame`. `is_crowded`: there was no place.
    pub(crate) fn heard(&mut self, now: Instant, frame: &[u8], is_crowded: bool) {
        let Some(&(to, is_tcp)) = self.frames.get(&unmarked(frame)) else { return };
        if is_crowded {
            return;
        }
        let may = self.rules.allows_datagram(to.ip(), &self.names_of(to.ip(), now));
        if !may {
            self.denied.insert(to);
        }
        self.expected.push(Visit { to, is_tcp, may });
    }

    /// Names that lead to `address` after `now`.
    pub(crate) fn names_of(&self, address: IpAddr, now: Instant) -> Vec<&str> {
        let its = |((there, _), until): &(&(IpAddr, String), &Instant)| {
            *there == address && **until > now
        };
        self.bound.iter().filter(its).map(|((_, name), _)| &name[..]).collect()
    }

    /// `rules` hold from `now` on, and the engine says which of its flows are live.
    pub(crate) fn change(&mut self, now: Instant, rules: &Rules, sockets: &[(Datagrams, bool)]) {
        self.rules = rules.clone();
        for (socket, is_live) in sockets {
            let to = address(socket.to);
            if !is_visited(to) {
                continue;
            }
            // A flow keeps the name that it was allowed by, which the guest may have forgotten.
            let may = rules.allows_datagram(to.ip(), &self.names_of(to.ip(), now));
            let ever = self.names_of(to.ip(), Instant::ZERO);
            let could = may || ever.iter().any(|name| rules.allows_name(name));
            assert!(*is_live || !may, "{to} is reached no more, where a name leads");
            assert!(!is_live || could, "{to} is reached, where no name leads");
            if !is_live {
                self.open.remove(&to.port());
                self.denied.insert(to);
            }
        }
    }

    /// The engine has seen all that was in the ring, and did `log`.
    pub(crate) fn check_visits(&mut self, log: &[Did]) {
        for Visit { to, is_tcp, may } in core::mem::take(&mut self.expected) {
            let flows = log.iter().filter_map(|did| {
                let (Did::Connect { flow, to: there } | Did::SendDatagram { flow, to: there, .. }) =
                    did
                else {
                    return None;
                };
                (address(*there) == to).then_some(*flow)
            });
            let known = self.open.get(&to.port()).copied();
            let mut found = None;
            for flow in flows {
                assert!(may || known == Some(flow), "{to} is reached, where no name leads");
                found = Some(flow);
            }
            let is_again = is_tcp && known.is_some();
            // Who would have to say the name says nothing.
            let is_mute = is_tcp && self.rules.is_strict && !lie::is_meant(to.ip());
            let is_as_good = is_again || is_mute;
            assert!(
                found.is_some() || !may || is_as_good,
                "{to} is not reached, where a name leads"
            );
            if let Some(flow) = found {
                self.open.insert(to.port(), flow);
            }
        }
    }

    /// Takes note of a frame for the guest.
    pub(crate) fn note(&mut self, seen: &Seen) {
        match &seen.message {
            Message::Udp { ports: (limits::DNS_PORT, port), payload, .. } => {
                let may = self.replies.get(port).is_some_and(|all| all.contains(payload));
                assert!(may, "the guest hears {payload:?} on port {port}");
            }
            Message::Icmp(icmp) => {
                let is_ours = |quoted: &Quoted| is_visited(quoted.to) && !quoted.is_damaged();
                let Some(quoted) = quoted(icmp).filter(is_ours) else { return };
                let found = (icmp.kind, icmp.code, 0);
                let forbidden = signs::kind(Refusal::Forbidden, quoted.to.ip());
                if found == signs::kind(Refusal::Expired, quoted.to.ip()) {
                    return; // damage left it no hop
                }
                let is_right = self.denied.contains(&quoted.to)
                    && (quoted.protocol != protocol::UDP || found == forbidden);
                assert!(is_right, "{found:?} about {quoted:?}");
            }
            Message::Arp { .. } | Message::Tcp(_) | Message::Udp { .. } | Message::Piece(_) => {}
        }
    }

    /// The guest asks `message` on `flow`; the answer, where nobody else is to be asked.
    pub(crate) fn hear<R: RingHandle>(
        &mut self,
        (now, flow): (Instant, FlowId),
        message: &[u8],
        engine: &mut Engine<'_, R>,
    ) -> Option<Vec<u8>> {
        let found = self.asked.values().find(|asked| asked.message == message);
        let asked = found.expect("because the guest asked this").clone();
        let step = engine.judge_query(now, (flow, message), &mut self.out);
        let expected = match (self.rules.allows_name(asked.name), asked.kind) {
            (false, _) => Some(NAME_ERROR),
            (true, kind::AXFR) => Some(REFUSED),
            (true, _) => None,
        };
        let len = match (step, expected) {
            (QueryStep::Reply(len), Some(code)) => {
                assert_eq!(dns::code(&self.out), code, "{asked:?}");
                self.settled.extend(asked.line);
                len
            }
            (QueryStep::Ask(len), None) => {
                let sent = self.out[..len].to_vec();
                self.answer_later(now, flow, (asked, sent));
                return None;
            }
            (step, expected) => panic!("{step:?} and not {expected:?} for {asked:?}"),
        };
        Some(self.reply(&asked, len))
    }

    /// A name server makes up its mind.
    fn answer_later(&mut self, now: Instant, flow: FlowId, (asked, mut sent): (Asked, Vec<u8>)) {
        let dice = &mut self.dice;
        assert_eq!(sent[12..], asked.message[12..], "the question is asked as it is");
        sent[..2].copy_from_slice(&dice.draw().to_le_bytes()[..2]);
        let answers = [1, 1, 1, 1, 2, 0][dice.below(6) as usize];
        let mut later = |ms: u64, answer, made: &mut u64| {
            *made += 1;
            let pending = Pending { flow, asked: asked.clone(), sent: sent.clone(), answer };
            self.pending.insert((now.plus_millis(ms), *made), pending);
        };
        for _ in 0..answers {
            // At once, in time, or when the flow may have gone.
            let ms = [0, dice.below(500), dice.below(200_000)][dice.below(3) as usize];
            let answer = Answer::new(asked.name, asked.kind, dice);
            later(ms, Some(answer), &mut self.made);
        }
        // On a connection each question has an answer.
        if answers == 0 || asked.line.is_some() {
            later(TIMEOUT_MS, None, &mut self.made);
        }
    }

    /// What name servers have said by `now`, as the guest is to hear it.
    pub(crate) fn answers<R: RingHandle>(
        &mut self,
        now: Instant,
        engine: &mut Engine<'_, R>,
    ) -> Vec<Reply> {
        let mut all = vec![];
        while let Some(first) = self.pending.first_entry().filter(|entry| entry.key().0 <= now) {
            let Pending { flow, asked, sent, answer } = first.remove();
            if asked.line.is_some_and(|line| self.settled.contains(&line)) {
                continue; // the host waits no more
            }
            let message = self.judge((now, flow), &asked, (&sent, answer), engine);
            if message.is_some() {
                self.settled.extend(asked.line);
            }
            let is_on_line = asked.line.is_some();
            all.extend(message.map(|message| Reply { flow, is_on_line, message }));
            self.check_bindings(now, engine);
        }
        all
    }

    fn judge<R: RingHandle>(
        &mut self,
        (now, flow): (Instant, FlowId),
        asked: &Asked,
        (sent, answer): (&[u8], Option<Answer>),
        engine: &mut Engine<'_, R>,
    ) -> Option<Vec<u8>> {
        let query = (flow, &asked.message[..]);
        let Some(answer) = answer else {
            let len = engine.judge_answer(now, query, None, &mut self.out);
            assert_eq!(dns::code(&self.out), SERVER_FAILURE);
            return Some(self.reply(asked, len));
        };
        let bytes = answer.bytes(sent, &mut self.dice);
        let is_answer = answer.is_to(asked.name, asked.kind);
        assert_eq!(is_answer_to(sent, &bytes), is_answer, "{answer:?} to {asked:?}");
        // The engine looks at the question once more, whatever the host takes for an answer.
        let is_of_another = !answer.repeats(asked.name, asked.kind);
        if !is_answer && !is_of_another {
            return None;
        }
        let len = engine.judge_answer(now, query, Some(&bytes), &mut self.out);
        let code = dns::code(&self.out);
        let is_long = asked.line.is_none() && bytes.len() > DATAGRAM_BYTES_MAX;
        if is_long && !is_of_another {
            // The guest gets no record of it, so nothing follows from where it leads.
            assert!(self.out[2] & 2 != 0 && self.out[6..12] == [0; 6], "{answer:?} to {asked:?}");
            return Some(self.reply(asked, len));
        }
        match answer.truth(asked.name, asked.kind) {
            Truth::Unreadable => assert_eq!(code, SERVER_FAILURE, "{answer:?} to {asked:?}"),
            Truth::Rebinding => assert_eq!(code, NAME_ERROR, "{answer:?} to {asked:?}"),
            Truth::Leads(leads) => {
                assert_eq!(code, answer.code(), "{answer:?} to {asked:?}");
                let question = asked.message.len();
                assert!(self.out[question..len] == bytes[question..], "it is changed");
                for (address, seconds) in leads {
                    let until = now.plus_millis(u64::from(seconds) * 1000);
                    let known = self.bound.entry((address, asked.name.to_owned())).or_insert(until);
                    *known = until.max(*known);
                }
            }
        }
        Some(self.reply(asked, len))
    }

    /// The first `len` bytes that were put out: what the guest may hear of its question.
    fn reply(&mut self, asked: &Asked, len: usize) -> Vec<u8> {
        let reply = self.out[..len].to_vec();
        assert!(asked.line.is_some() || len <= DATAGRAM_BYTES_MAX, "{len} bytes");
        assert_eq!(reply[..2], asked.message[..2], "the guest's number");
        assert_eq!(reply[12..asked.message.len()], asked.message[12..], "its question");
        for (port, one) in &self.asked {
            if one.message == asked.message {
                self.replies.entry(*port).or_default().push(reply.clone());
            }
        }
        reply
    }

    /// The engine knows of names what is true, and nothing else.
    pub(crate) fn check_bindings<R: RingHandle>(&mut self, now: Instant, engine: &Engine<'_, R>) {
        let seconds = |until: Instant| (until.as_micros() - now.as_micros()).div_ceil(1_000_000);
        let good = self.bound.iter().filter(|(_, until)| **until > now);
        let model: BTreeMap<_, _> =
            good.map(|((address, name), until)| ((*address, &name[..]), seconds(*until))).collect();
        let known = engine.bindings(now);
        let known: BTreeMap<_, _> =
            known.map(|(address, name, left)| ((address, name), u64::from(left))).collect();
        assert_eq!(known, model, "where names lead by the engine, and in truth");
    }
}

/// `frame` without the class and label of IPv6, which no checksum guards, so that damage there
/// changes nothing (RFC 8200 8.1); and with its first hop limit, unless damage left none.
pub(crate) fn unmarked(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame[12..14] == [0x86, 0xdd] {
        frame[frame::ETHERNET] &= 0xf0;
        frame[frame::ETHERNET + 1..frame::ETHERNET + 4].fill(0);
        let hop_limit = &mut frame[frame::ETHERNET + 7];
        *hop_limit = if *hop_limit == 0 { 0 } else { 64 };
    }
    frame
}

/// Whether `to` is where a visit goes.
pub(crate) fn is_visited(to: SocketAddr) -> bool {
    (VISITED..VISITED + 1000).contains(&to.port())
}

/// Whether the guest's port `port` is one that no stack of it has.
pub(crate) fn is_own(port: u16) -> bool {
    (ASKING..VISITING + 1000).contains(&port)
}
