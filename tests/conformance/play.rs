//! Plays a script: the guest and the host do as it says, and all that the guest gets is as it says.

use std::net::{IpAddr, SocketAddr};

use sim::frame::{self, Segment, flag};
use sim::{Answer, End, Room, Tcp, World};
use sluicegate_core::Refusal;

use super::read::{Choice, Host, Step, Told, What};

/// The guest's port and the outside's.
const PORTS: (u16, u16) = (40_000, 80);
/// The sequence number of the guest's SYN: it wraps within the first bytes.
const GUEST_ISN: u32 = 0xffff_fff0;
/// Milliseconds by which a frame may miss its time.
const SLACK_MS: u64 = 2;

/// Bytes of the guest's segments.
const SEGMENT: usize = 1400;

/// `payload` in segments; at least one.
fn parts(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    let empty = payload.is_empty().then_some(payload);
    empty.into_iter().chain(payload.chunks(SEGMENT))
}

/// The byte at `place` of either stream.
fn byte(place: usize) -> u8 {
    (place % 251) as u8
}

/// One script that is played.
struct Play<'a> {
    world: World<'a>,
    to: SocketAddr,
    /// The sequence number of the latest SYN from outside.
    isn: Option<u32>,
    /// Segments that no step has looked at.
    queue: std::collections::VecDeque<Tcp>,
    /// Bytes that the host's peer has sent.
    sent: usize,
}

/// Plays `steps` with `outside`.
pub(crate) fn script(steps: &[Step], outside: IpAddr) -> Result<(), String> {
    let mut room = Room::plain();
    let mut world = room.world();
    world.peers.answer = Answer::Silence;
    let to = SocketAddr::new(outside, PORTS.1);
    let mut play = Play { world, to, isn: None, queue: Default::default(), sent: 0 };
    for step in steps {
        play.step(step).map_err(|wrong| format!("line {}: {wrong}", step.line))?;
    }
    play.all_seen().map_err(|wrong| format!("at the end: {wrong}"))
}

impl Play<'_> {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        if let What::Expect(told) = &step.what {
            return self.expect(told, step.after_ms);
        }
        self.all_seen()?;
        self.world.advance(step.after_ms);
        self.collect()?;
        self.all_seen()?;
        match &step.what {
            What::Inject(told) => {
                let whole = self.segment(told)?;
                // More than a segment's worth comes in several, all at once.
                for (at, part) in (0..).step_by(SEGMENT).zip(parts(&whole.payload)) {
                    let (seq, payload) = (whole.seq.wrapping_add(at), part.to_vec());
                    let frame = frame::tcp(self.to, &Segment { seq, payload, ..whole.clone() });
                    assert!(self.world.push(&frame), "the ring has room");
                }
                self.world.run();
            }
            What::Host(host) => self.host(*host)?,
            What::Expect(_) | What::Silence => {}
        }
        self.collect()
    }

    /// Nothing came that no step has told of.
    fn all_seen(&self) -> Result<(), String> {
        match self.queue.front() {
            None => Ok(()),
            Some(tcp) => Err(format!("nobody expects {}", self.show(tcp))),
        }
    }

    fn collect(&mut self) -> Result<(), String> {
        for seen in self.world.inbox() {
            let tcp = seen.tcp().ok_or_else(|| format!("nobody expects {:?}", seen.message))?;
            if tcp.has(flag::SYN) {
                self.isn = Some(tcp.seq);
            }
            self.queue.push_back(tcp.clone());
        }
        Ok(())
    }

    fn expect(&mut self, told: &Told, after_ms: u64) -> Result<(), String> {
        if after_ms > 0 {
            self.all_seen()?;
            self.world.advance(after_ms.saturating_sub(SLACK_MS + 1));
            self.collect()?;
            self.all_seen().map_err(|wrong| format!("too early, {wrong}"))?;
            for _ in 0..=2 * SLACK_MS {
                self.world.advance(u64::from(self.queue.is_empty()));
                self.collect()?;
            }
        }
        let tcp = self.queue.pop_front().ok_or("nothing comes")?;
        let wrong = self.difference(told, &tcp);
        wrong.map_or(Ok(()), |what| Err(format!("another {what}: {}", self.show(&tcp))))
    }

    /// The first thing of `tcp` that is not as it is told.
    fn difference(&self, told: &Told, tcp: &Tcp) -> Option<&'static str> {
        let isn = self.isn.unwrap_or(0);
        // A reset of no connection counts from nothing.
        let seq = if tcp.flags == flag::RST | flag::ACK && self.isn.is_none() {
            tcp.seq
        } else {
            tcp.seq.wrapping_sub(isn)
        };
        let ack = tcp.ack.wrapping_sub(GUEST_ISN);
        let place = told.seq.saturating_sub(1) as usize;
        let bytes = tcp.payload.iter().enumerate();
        [
            (tcp.flags != told.flags, "flags"),
            (seq != told.seq, "sequence number"),
            (tcp.payload.len() != told.len, "length"),
            (told.ack.is_some_and(|told| told != ack), "acknowledgement"),
            (told.ack.is_some() != tcp.has(flag::ACK), "acknowledgement"),
            (told.window.is_some_and(|told| told != tcp.window), "window"),
            (told.options.as_ref().is_some_and(|all| *all != self.choices(tcp)), "options"),
            (bytes.clone().any(|(at, &found)| found != byte(place + at)), "content"),
        ]
        .into_iter()
        .find_map(|(differs, what)| differs.then_some(what))
    }

    /// The options of `tcp` without padding.
    fn choices(&self, tcp: &Tcp) -> Vec<Choice> {
        let long = |bytes: &[u8]| bytes.iter().fold(0, |sum: u32, &b| sum << 8 | u32::from(b));
        let mut all = vec![];
        let mut rest = &tcp.options[..];
        while let [kind, tail @ ..] = rest {
            if *kind <= 1 {
                rest = tail;
                continue;
            }
            let (option, after) = rest.split_at(usize::from(tail[0]));
            rest = after;
            let value = &option[2..];
            match kind {
                2 => {
                    let headers = if self.to.is_ipv4() { 40 } else { 60 };
                    let mss = long(value) as u16;
                    all.push(Choice::Mss(Some(mss).filter(|mss| *mss != 1500 - headers)));
                }
                3 => all.push(Choice::Scale(value[0])),
                4 => all.push(Choice::SackOk),
                5 => all.extend(value.chunks(8).map(|block| {
                    let number = |bytes: &[u8]| long(bytes).wrapping_sub(GUEST_ISN);
                    Choice::Sack(number(&block[..4]), number(&block[4..]))
                })),
                8 => all.push(Choice::Time(long(&value[..4]), long(&value[4..]))),
                kind => all.push(Choice::Unknown(*kind)),
            }
        }
        all
    }

    /// The segment of the guest that is told.
    fn segment(&self, told: &Told) -> Result<Segment, String> {
        let ack = match (told.ack, self.isn) {
            (Some(ack), Some(isn)) => ack.wrapping_add(isn),
            (Some(ack), None) => ack,
            (None, _) => 0,
        };
        let place = told.seq.saturating_sub(1) as usize;
        let mut options = vec![];
        for choice in told.options.iter().flatten() {
            self.write(*choice, &mut options)?;
        }
        Ok(Segment {
            port: PORTS.0,
            seq: told.seq.wrapping_add(GUEST_ISN),
            ack,
            flags: told.flags,
            window: told.window.unwrap_or(65_535),
            urgent: told.urgent,
            options,
            payload: (place..place + told.len).map(byte).collect(),
        })
    }

    fn write(&self, choice: Choice, out: &mut Vec<u8>) -> Result<(), String> {
        match choice {
            Choice::Nop => out.push(1),
            Choice::End => out.push(0),
            Choice::Mss(mss) => {
                let headers = if self.to.is_ipv4() { 40 } else { 60 };
                out.extend([2, 4]);
                out.extend(mss.unwrap_or(1500 - headers).to_be_bytes());
            }
            Choice::Scale(shift) => out.extend([3, 3, shift]),
            Choice::SackOk => out.extend([4, 2]),
            Choice::Sack(left, right) => {
                let isn = self.isn.ok_or("a SACK before any SYN")?;
                out.extend([5, 10]);
                out.extend(left.wrapping_add(isn).to_be_bytes());
                out.extend(right.wrapping_add(isn).to_be_bytes());
            }
            Choice::Time(val, ecr) => {
                out.extend([8, 10]);
                out.extend(val.to_be_bytes());
                out.extend(ecr.to_be_bytes());
            }
            Choice::Unknown(kind) => out.extend([kind, 4, 0, 0]),
        }
        Ok(())
    }

    fn host(&mut self, host: Host) -> Result<(), String> {
        let live = self.world.peers.streams.len();
        let ended = self.world.peers.ended.last().and_then(|stream| stream.end);
        let needs = !matches!(
            host,
            Host::WasReset | Host::HasClosed | Host::IsIdle | Host::Has(_) | Host::Takes(_)
        );
        if needs && live != 1 {
            return Err(format!("the host has {live} sockets"));
        }
        let holds = match host {
            Host::Connects => {
                self.world.accept();
                true
            }
            Host::Refuses => {
                self.world.refuse(Refusal::Refused);
                true
            }
            Host::Sends(len) => {
                let bytes: Vec<u8> = (self.sent..self.sent + len).map(byte).collect();
                self.sent += len;
                self.world.give(&bytes);
                true
            }
            Host::Takes(len) if live == 0 => {
                self.world.peers.room = len;
                true
            }
            Host::Takes(len) => {
                self.world.stream().room = self.world.stream().room.saturating_add(len);
                self.world.run();
                true
            }
            Host::Closes => {
                self.world.finish();
                true
            }
            Host::Resets => {
                self.world.reset();
                true
            }
            Host::Has(len) => {
                let peers = &self.world.peers;
                let stream = peers.streams.values().next().or(peers.ended.last());
                let received = stream.map_or(&[][..], |stream| &stream.received);
                let right = received.iter().enumerate().all(|(at, &found)| found == byte(at));
                if received.len() != len || !right {
                    return Err(format!("it has {} bytes, right: {right}", received.len()));
                }
                true
            }
            Host::HasEnd => self.world.stream().guest_finished,
            Host::WasReset => live == 0 && ended == Some(End::Reset),
            Host::HasClosed => live == 0 && ended == Some(End::Close),
            Host::IsIdle => live == 0 && ended.is_none(),
        };
        if holds { Ok(()) } else { Err(format!("not so: {live} live sockets, ended {ended:?}")) }
    }

    /// `tcp` as a script would tell it.
    fn show(&self, tcp: &Tcp) -> String {
        let letters = "FSRP.UEW".chars().enumerate();
        let flags: String = letters
            .filter(|(bit, _)| tcp.flags >> bit & 1 == 1)
            .map(|(_, letter)| letter)
            .collect();
        let seq = tcp.seq.wrapping_sub(self.isn.unwrap_or(0));
        let (len, ack) = (tcp.payload.len(), tcp.ack.wrapping_sub(GUEST_ISN));
        let end = seq.wrapping_add(len as u32);
        let options = self.choices(tcp);
        let ms = self.world.now().as_millis();
        format!("{flags} {seq}:{end}({len}) ack {ack} win {} {options:?} at {ms} ms", tcp.window)
    }
}
