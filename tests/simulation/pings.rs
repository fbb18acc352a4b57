//! Pings: the guest asks whether somebody is there, and the outside answers as it likes: once,
//! twice, late or never, what is too short to be one, or with every `Refusal`. A model says for
//! each request that the engine has heard where it goes, and for each echo and each error that the
//! guest hears why.
//!
//! Some requests come in pieces, and so do their answers (`pieces`).
//!
//! An echo flow is one address and one identifier; it has a place until nothing has passed for a
//! minute, and who finds no place is refused and takes none from another (RFC 5508).

use core::net::IpAddr;
use std::collections::BTreeMap;

use sim::core::{DatagramKind, Event, FlowId, Instant, Outside, Refusal, limits};
use sim::frame::{self, ETHERNET, gateway, guest, protocol};
use sim::{Datagrams, Dice, Icmp, Message, Piece, Seen, World, reassemble};

use super::app::REFUSALS;
use super::lie::{self, MEANT, OWN};
use super::names::unmarked;
use super::pieces::Pieces;
use super::run::Tally;
use super::signs::{self, Kind, quoted, timer_at};

/// Where policy lets nobody go, and no name leads.
const NEVER: [&str; 3] = [OWN, "172.16.0.1", "fd00::1"];
/// Pings of a guest, each with an identifier of its own; and requests of each.
const PINGS_MAX: u64 = 10;
const REQUESTS_MAX: u64 = 8;
/// Bytes of data of a request at most, and of one that goes in pieces.
const BYTES_MAX: u64 = 1200;
const BYTES_IN_PIECES_MAX: u64 = 5000;
/// Bytes of a piece, which crosses every link here.
const PIECE_BYTES: [usize; 3] = [504, 1000, 1208];
/// Datagrams in pieces at a time: so few that some give way.
pub(crate) const SETS: u32 = 2;
/// When the last of them begins at the latest.
const START_MS_MAX: u64 = 3000;
/// How long a patient guest waits for its next request: longer than a flow has its place.
const PATIENCE_MS_MAX: u64 = 70_000;

/// An echo flow, or who wants one.
type Key = (IpAddr, u16);

/// A ping of the guest.
#[derive(Debug)]
struct Ping {
    key: Key,
    left: u64,
    /// When its next request is due.
    next: Instant,
    /// It waits long before its last request.
    is_patient: bool,
}

/// A request: whose, and the whole message.
#[derive(Debug, Clone)]
struct Request {
    key: Key,
    message: Vec<u8>,
}

/// An echo flow of which the engine should know.
#[derive(Debug)]
struct Flow {
    /// As the host calls it, once it does.
    id: Option<FlowId>,
    used: Instant,
    /// What an error would be about.
    last: [u8; 8],
}

impl Flow {
    fn is_there(&self, now: Instant) -> bool {
        now < timer_at(self.used, limits::ICMP_IDLE_MS_MAX)
    }
}

/// What the guest may hear: an echo, or an error about a request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Sound {
    Echo { key: Key, number: [u8; 2], data: Vec<u8> },
    Error { kind: Kind, from: IpAddr, about: IpAddr, head: [u8; 8] },
}

/// The guest's pings, those who answer, and the model.
pub(crate) struct Pings {
    dice: Dice,
    all: Vec<Ping>,
    /// The guest's own frames.
    frames: BTreeMap<Vec<u8>, Request>,
    /// Requests in pieces, each of which the engine may have whole.
    cut: Vec<Request>,
    pieces: Pieces,
    /// Pieces of an answer that the guest was sent so far.
    joined: Vec<Piece>,
    numbers: u16,
    /// Flows that there may be.
    flows_max: usize,
    /// Flows that there were when that was lowered, which stay.
    stay_max: usize,
    flows: BTreeMap<Key, Flow>,
    /// What the host must be asked to send, in order.
    expected: Vec<Request>,
    /// Answers under way: when they come, on which flow, whose, and what the host's socket gives.
    late: BTreeMap<(Instant, u64), (FlowId, Key, Vec<u8>)>,
    made: u64,
    /// What the guest has yet to hear, and how often.
    due: BTreeMap<Sound, u64>,
    /// Requests for which there was no place.
    pub(crate) refused: u64,
    pub(crate) tally: Tally,
}

impl Pings {
    pub(crate) fn new(now: Instant, flows_max: u32, mut dice: Dice) -> Self {
        let ping = |index: u64, dice: &mut Dice| {
            let (pool, from): (&[&str], u64) = match dice.below(8) {
                0 => (&NEVER, 0),
                1 => (&MEANT, 1),
                _ => (&MEANT, 0),
            };
            let address = lie::pick(pool, dice);
            let to = if from == 1 { gateway(address) } else { address };
            Ping {
                // Some share an identifier, to other addresses.
                key: (to, 0x1000 + index as u16 / 2),
                left: dice.between(1, REQUESTS_MAX),
                next: now.plus_millis(dice.below(START_MS_MAX)),
                is_patient: dice.one_of(15),
            }
        };
        let count = dice.below(PINGS_MAX + 1);
        let mut all: Vec<Ping> = (0..count).map(|index| ping(index, &mut dice)).collect();
        all.dedup_by_key(|ping| ping.key);
        Self {
            all,
            dice,
            frames: BTreeMap::new(),
            cut: vec![],
            pieces: Pieces::new(SETS),
            joined: vec![],
            numbers: 0,
            flows_max: flows_max as usize,
            stay_max: 0,
            flows: BTreeMap::new(),
            expected: vec![],
            late: BTreeMap::new(),
            made: 0,
            due: BTreeMap::new(),
            refused: 0,
            tally: Tally::new(),
        }
    }

    /// The guest's frames that are due.
    pub(crate) fn frames(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut frames = vec![];
        for ping in self.all.iter_mut().filter(|ping| ping.left > 0 && ping.next <= now) {
            ping.left -= 1;
            let is_patient = ping.is_patient && ping.left == 1;
            let ms = if is_patient { PATIENCE_MS_MAX } else { self.dice.below(400) };
            ping.next = now.plus_millis(ms);
            self.numbers += 1;
            let is_cut = self.dice.one_of(200);
            let most = if is_cut { BYTES_IN_PIECES_MAX } else { BYTES_MAX };
            let mut data = vec![0; self.dice.below(most) as usize];
            data.fill_with(|| self.dice.draw() as u8);
            let frame = frame::echo(ping.key.0, ping.key.1, self.numbers, &data);
            let header = if ping.key.0.is_ipv4() { 20 } else { 40 };
            let message = frame[ETHERNET + header..].to_vec();
            let request = Request { key: ping.key, message };
            let bytes = PIECE_BYTES[self.dice.below(3) as usize];
            if is_cut && request.message.len() > bytes {
                self.cut.push(request);
                frames.extend(frame::fragments(&frame, self.numbers.into(), bytes));
            } else {
                self.frames.insert(unmarked(&frame), request);
                frames.push(frame);
            }
        }
        frames
    }

    /// There may be so many flows from `now` on; who is there stays.
    pub(crate) fn change(&mut self, now: Instant, flows_max: u32) {
        self.flows_max = flows_max as usize;
        self.stay_max = self.flows.values().filter(|flow| flow.is_there(now)).count();
    }

    /// Whether the guest has asked all that it has to ask.
    pub(crate) fn are_asked(&self) -> bool {
        self.all.iter().all(|ping| ping.left == 0)
    }

    fn tell(&mut self, story: &str) {
        *self.tally.entry(story.to_owned()).or_insert(0) += 1;
    }

    fn expect(&mut self, sound: Sound) {
        *self.due.entry(sound).or_insert(0) += 1;
    }

    fn expect_error(&mut self, refusal: Refusal, about: IpAddr, head: [u8; 8]) {
        let kind = signs::kind(refusal, about);
        let from = if refusal == Refusal::Refused { about } else { gateway(about) };
        self.expect(Sound::Error { kind, from, about, head });
    }

    /// Nobody waits any more at `now` for pieces that did not come.
    pub(crate) fn forget_pieces(&mut self, now: Instant, by_timer: bool) {
        for first in self.pieces.forget(now, by_timer) {
            let about = first.ends.1;
            // What IPv6 quotes is a piece itself, and no ping.
            if let Some(head) = first.payload.first_chunk().filter(|_| about.is_ipv4()) {
                let (kind, from) = ((11, 1, 0), gateway(about));
                self.expect(Sound::Error { kind, from, about, head: *head });
                self.tell("a ping in pieces is too late");
            }
        }
    }

    /// The engine hears `frame`.
    pub(crate) fn heard(&mut self, now: Instant, frame: &[u8]) {
        self.forget_pieces(now, false);
        let whole = self.pieces.hear(now, frame);
        if core::mem::take(&mut self.pieces.gave_way) > 0 {
            self.tell("a ping in pieces gives way");
        }
        if let Some(whole) = whole {
            let is_it = |cut: &&Request| cut.key.0 == whole.to && cut.message == whole.bytes;
            if let Some(request) = self.cut.iter().find(is_it).cloned() {
                self.tell("a ping in pieces");
                self.asked(now, request, whole.is_spent);
            }
            return;
        }
        let mut known = unmarked(frame);
        // Damage that no checksum of IPv6 tells may leave it no hop.
        let hops = (known[12..14] == [0x86, 0xdd]).then(|| &mut known[ETHERNET + 7]);
        let is_spent = hops.is_some_and(|hops| core::mem::replace(hops, 64) == 0);
        if let Some(request) = self.frames.get(&known).cloned() {
            self.asked(now, request, is_spent);
        }
    }

    /// The engine hears `request`, whole.
    fn asked(&mut self, now: Instant, request: Request, is_spent: bool) {
        let (to, head) = (request.key.0, head(&request.message));
        if to == gateway(to) {
            self.expect(echo(request.key, &request.message));
            return self.tell("a ping of the gateway");
        }
        if is_spent {
            self.expect_error(Refusal::Expired, to, head);
            return self.tell("a ping that has no hop left");
        }
        if !lie::is_meant(to) {
            self.expect_error(Refusal::Forbidden, to, head);
            return self.tell("a ping that policy denies");
        }
        self.flows.retain(|_, flow| flow.is_there(now));
        if !self.flows.contains_key(&request.key) && self.flows.len() >= self.flows_max {
            self.refused += 1;
            self.expect_error(Refusal::Exhausted, to, head);
            return self.tell("a ping for which there is no place");
        }
        let flow = self.flows.entry(request.key);
        let flow = flow.or_insert(Flow { id: None, used: now, last: head });
        (flow.used, flow.last) = (now, head);
        self.expected.push(request);
    }

    /// What the host's sockets were asked to send, and what comes back.
    pub(crate) fn serve(&mut self, now: Instant, world: &mut World<'_>) {
        let sockets = world.peers.datagrams.values_mut();
        let sockets: Vec<_> = sockets.filter(|socket| socket.kind == DatagramKind::Echo).collect();
        let count = sockets.len();
        let max = self.flows_max.max(self.stay_max);
        assert!(count <= max, "{count} echo flows of {max}");
        self.stay_max = self.stay_max.min(count);
        let mut failed = vec![];
        for socket in sockets {
            failed.extend(self.send(now, socket));
        }
        self.forget_pieces(now, true);
        assert!(self.expected.is_empty(), "nobody was asked: {:?}", self.expected);
        for (flow, key, refusal) in failed {
            world.engine.handle(now, Event::DatagramFailed { flow, refusal });
            self.expect_error(refusal, key.0, self.flows[&key].last);
            self.tell("a ping that fails");
        }
        self.answer(now, world);
    }

    /// The host's `socket` sends what it has, and it is decided what comes of it. Returns what
    /// fails at once.
    fn send(&mut self, now: Instant, socket: &mut Datagrams) -> Vec<(FlowId, Key, Refusal)> {
        let mut failed = vec![];
        for message in socket.sent.drain(..) {
            let mut expected = self.expected.iter();
            let at = expected.position(|request| {
                Outside::Remote((request.key.0, 0).into()) == socket.to
                    && request.message == message
            });
            let at = at.unwrap_or_else(|| panic!("{:?} hears what nobody asked", socket.to));
            let Request { key, .. } = self.expected.remove(at);
            let flow = self.flows.get_mut(&key).expect("because the request opened it");
            let known = *flow.id.get_or_insert(socket.id);
            assert_eq!(known, socket.id, "{key:?} is one flow");
            match self.dice.below(10) {
                0 => {}
                1 | 2 => failed.push((known, key, REFUSALS[self.dice.below(8) as usize])),
                // What is too short to be an echo.
                3 => self.later(now, (known, key), vec![0; known.index as usize % 8]),
                4 => {
                    [(); 2].map(|()| self.reply(now, (known, key), &message)).into_iter().collect()
                }
                _ => self.reply(now, (known, key), &message),
            }
        }
        failed
    }

    /// The echo of `message` as the host's socket gives it: under an identifier of its own.
    fn reply(&mut self, now: Instant, (flow, key): (FlowId, Key), message: &[u8]) {
        let mut reply = message.to_vec();
        reply[0] = if key.0.is_ipv4() { 0 } else { 129 };
        reply[4..6].copy_from_slice(&self.dice.draw().to_le_bytes()[..2]);
        self.later(now, (flow, key), reply);
    }

    /// `reply` comes at once, soon, or when the flow may have gone.
    fn later(&mut self, now: Instant, (flow, key): (FlowId, Key), reply: Vec<u8>) {
        let dice = &mut self.dice;
        let ms = [0, 0, dice.below(500), dice.below(100_000)][dice.below(4) as usize];
        self.made += 1;
        self.late.insert((now.plus_millis(ms), self.made), (flow, key, reply));
    }

    /// Answers come on the host's sockets.
    pub(crate) fn answer(&mut self, now: Instant, world: &mut World<'_>) {
        while let Some(first) = self.late.first_entry().filter(|entry| entry.key().0 <= now) {
            let (id, key, reply) = first.remove();
            let its = |flow: &&mut Flow| flow.id == Some(id) && flow.is_there(now);
            let flow = self.flows.get_mut(&key).filter(its);
            assert_eq!(flow.is_some(), world.engine.is_live(id), "the flow of {key:?} at {now:?}");
            if !world.engine.can_deliver(now) {
                continue;
            }
            world.engine.deliver(now, id, &reply);
            if let Some(flow) = flow.filter(|_| reply.len() >= 8) {
                flow.used = now;
                self.expect(echo(key, &reply));
                self.tell("a ping that is answered");
            }
        }
    }

    /// Takes note of a frame for the guest.
    pub(crate) fn note(&mut self, seen: &Seen) {
        if let Message::Piece(piece) = &seen.message {
            self.joined.push(piece.clone());
            if !piece.more {
                let pieces = core::mem::take(&mut self.joined);
                let message = reassemble(&pieces).expect("because pieces come in order");
                self.tell("an answer in pieces");
                self.note(&Seen { message, ..seen.clone() });
            }
            return;
        }
        let Message::Icmp(icmp) = &seen.message else { return };
        let Some(sound) = sound(icmp) else { return };
        let due = self.due.get_mut(&sound);
        let due = due.unwrap_or_else(|| panic!("the guest hears {sound:?}"));
        *due -= 1;
        if *due == 0 {
            self.due.remove(&sound);
        }
    }

    /// Everything has been said. `lost`: answers for which there was no room.
    pub(crate) fn conclude(&self, lost: u64) {
        let missing: u64 = self.due.values().sum();
        assert!(missing <= lost, "{missing} were not heard, and {lost} lost: {:?}", self.due);
    }
}

/// The first bytes of `message`, which an error has.
fn head(message: &[u8]) -> [u8; 8] {
    *message.first_chunk().expect("because an echo message has a header")
}

/// What the guest hears where `message` answers the ping of `key`.
fn echo(key: Key, message: &[u8]) -> Sound {
    Sound::Echo { key, number: [message[6], message[7]], data: message[8..].to_vec() }
}

/// What `icmp` is to the guest's pings; `None`: nothing.
fn sound(icmp: &Icmp) -> Option<Sound> {
    let (from, to) = icmp.ends;
    assert_eq!(to, guest(from), "for the guest");
    if (icmp.kind, icmp.code) == (if from.is_ipv4() { 0 } else { 129 }, 0) {
        let [high, low, number @ ..] = icmp.rest;
        let key = (from, u16::from_be_bytes([high, low]));
        return Some(Sound::Echo { key, number, data: icmp.body.clone() });
    }
    let about = quoted(icmp)?;
    let number = if from.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
    let kind = (icmp.kind, icmp.code, u32::from_be_bytes(icmp.rest));
    (about.protocol == number).then_some(Sound::Error {
        kind,
        from,
        about: about.to.ip(),
        head: about.head,
    })
}
