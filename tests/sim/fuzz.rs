//! What a fuzzer drives: bytes become a story that the engine lives through, under the rules of the
//! simulation. Each function panics where a rule is broken, and does nothing else.
//!
//! Targets of `fuzz/` are a line each onto these; `tests/fuzz.rs` runs them on the seeds and on
//! random changes of them.

mod classify;
mod fragments;
mod offload;
mod ring;
mod seeds;

use sluicegate_core::{Permission, Policy, QueryStep, Refusal, limits};

use crate::frame::{self, ETHERNET, OUTSIDE_V4, OUTSIDE_V6, OUTSIDES};
use crate::guest::Script;
use crate::{Answer, Dice, Did, Room, World, default_config};

pub use classify::classify;
pub use fragments::fragments;
pub use offload::offload;
pub use ring::ring;
pub use seeds::{TARGETS, seeds};

/// Things that happen in one story.
const STEPS_MAX: usize = 400;
/// Bytes of the longest frame that is made of a story's bytes.
const FRAME_BYTES: usize = 2000;

/// A story's bytes, as they are used up.
struct Bytes<'d>(&'d [u8]);

impl Bytes<'_> {
    /// The next byte.
    fn one(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<usize> {
        Some(usize::from(u16::from_be_bytes([self.one()?, self.one()?])))
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }
}

/// Frames that a guest may send, to be changed.
fn good_frames() -> Vec<Vec<u8>> {
    let link = default_config().link;
    let mut all = vec![
        frame::arp_request(link.guest_ipv4, link.gateway_ipv4),
        frame::solicit(link.guest_ipv6, link.gateway_ipv6),
    ];
    for outside in OUTSIDES {
        let to = core::net::SocketAddr::new(outside, 80);
        let script = Script::new(to, 40_000);
        all.push(frame::tcp(to, &script.syn()));
        all.push(frame::tcp(to, &script.segment(frame::flag::ACK, b"word")));
        all.push(frame::tcp(to, &script.segment(frame::flag::ACK | frame::flag::FIN, b"")));
        all.push(frame::udp(4000, to, b"a datagram"));
        all.push(frame::echo(outside, 7, 1, b"ping"));
        all.extend(frame::fragments(&frame::udp(4000, to, &[7; 900]), 5, 400));
    }
    all
}

/// Frames of the guest, changed or made up, and what the outside does, in any order.
///
/// # Panics
/// If the engine breaks a rule.
pub fn engine(data: &[u8]) {
    let frames = good_frames();
    let mut room = Room::with(|config| {
        config.tcp_receive_bytes = 8192;
        config.tcp_send_bytes = 8192;
    });
    let mut world = room.world();
    let mut story = Bytes(data);
    for _ in 0..STEPS_MAX {
        if step(&mut world, &mut story, &frames).is_none() {
            break;
        }
        world.inbox.clear();
        world.raw.clear();
        world.peers.log.clear();
        world.peers.ended.clear();
    }
    world.advance(24 * 3600 * 1000);
    assert_eq!(world.wait().0, None, "all of it passes");
}

fn step(world: &mut World<'_>, story: &mut Bytes<'_>, frames: &[Vec<u8>]) -> Option<()> {
    match story.one()? {
        kind @ 0..160 => {
            let mut frame = frames.get(usize::from(kind) % frames.len())?.clone();
            let changes = story.one()?;
            for _ in 0..changes % 8 {
                let at = story.number()? % frame.len();
                *frame.get_mut(at)? = story.one()?;
            }
            if changes & 8 != 0 {
                frame.truncate(story.number()? % (frame.len() + 1));
            }
            // Most would die of their checksums.
            let is_ip = frame.get(ETHERNET).is_some_and(|byte| matches!(byte, 0x45 | 0x60));
            if changes & 16 != 0 && is_ip && frame.len() >= ETHERNET + 60 {
                frame::mend(&mut frame);
            }
            world.dropped(&frame);
        }
        160..200 => {
            let len = story.number()? % FRAME_BYTES;
            let mut frame = frames.first()?.get(..12)?.to_vec();
            frame.extend(story.take(len));
            world.dropped(&frame);
        }
        200..220 => {
            let ms = story.number()?;
            world.advance(ms as u64);
        }
        220..230 => {
            world.peers.answer = match story.one()? % 3 {
                0 => Answer::Accept,
                1 => Answer::Refuse(Refusal::Refused),
                _ => Answer::Silence,
            };
        }
        230..245 => {
            let len = story.number()? % 5000;
            for stream in world.peers.streams.values_mut() {
                stream.to_give.extend(vec![7; len]);
            }
            world.run();
        }
        245..250 => {
            world.peers.streams.values_mut().for_each(|stream| stream.finishes = true);
            world.run();
        }
        250..253 => world.stalled = !world.stalled,
        253.. => {
            let live: Vec<u32> = world.peers.datagrams.keys().copied().collect();
            for index in live {
                world.fail_datagram(index, Refusal::Refused);
            }
        }
    }
    Some(())
}

/// A query of the guest, and an answer of an upstream: the first number is how long the query is.
///
/// # Panics
/// If the engine breaks a rule.
pub fn dns(data: &[u8]) {
    let mut story = Bytes(data);
    let Some(len) = story.number() else { return };
    let (query, answer) = (story.take(len), story.0);
    let mut room = Room::plain();
    let mut world = room.world();
    world.send(&frame::udp(4000, core::net::SocketAddr::new(OUTSIDE_V4, 53), b"ask"));
    let flow = world.peers.datagrams[&world.datagram()].id;
    let now = world.now();
    let mut out = vec![0; limits::DNS_MESSAGE_BYTES_MAX];
    let step = world.engine.judge_query(now, (flow, &query), &mut out);
    let (QueryStep::Ask(len) | QueryStep::Reply(len)) = step else { return };
    assert!(len <= out.len(), "what is said to be there is there");
    for answer in [Some(answer), None] {
        let len = world.engine.judge_answer(now, (flow, &query), answer, &mut out);
        assert!(len <= limits::DNS_MESSAGE_BYTES_MAX);
        // Whatever it is, it answers the query's number (RFC 1035 4.1.1).
        assert!(len == 0 || out.get(..2) == query.get(..2), "another number");
    }
}

/// The first bytes of a connection, cut as the first of them say: nothing gets out that policy does
/// not allow, however it is cut.
///
/// # Panics
/// If a cut changes a verdict, or the engine breaks a rule.
pub fn said(data: &[u8]) {
    let Some((cuts, bytes)) = data.split_first() else { return };
    let bytes = bytes.get(..bytes.len().min(30_000)).unwrap_or(&[]);
    let whole = verdict(bytes, usize::MAX);
    let cut = verdict(bytes, usize::from(*cuts) + 1);
    // What can't be a hello may be seen to be none early or late: at once it is the host's to
    // refuse, and after five seconds nobody's.
    let Some((whole, cut)) = whole.zip(cut) else { return };
    assert_eq!(whole, cut, "the way it is cut changes nothing");
}

/// What the host is told of a connection on which `bytes` are said, `at_most` at a time: whom it is
/// for, and what was said. `None`: nothing.
fn verdict(bytes: &[u8], at_most: usize) -> Option<(Vec<Did>, Vec<u8>)> {
    let mut room = Room::with(|config| {
        config.policy = Policy::new(Permission::Allow, Permission::Deny);
        config.strict = false;
        config.intercepted_ports = [443].as_slice().try_into().expect("because it is one");
    });
    let mut world = room.world();
    let to = core::net::SocketAddr::new(OUTSIDE_V6, 443);
    let mut script = Script::new(to, 40_000);
    world.send(&frame::tcp(to, &script.syn()));
    script.establish(&mut world);
    for piece in bytes.chunks(at_most.min(1400)) {
        script.send(&mut world, piece);
        if script.reset {
            break;
        }
    }
    world.advance(limits::TCP_LOOK_MS_MAX + 1);
    let opens = |did: &&Did| matches!(did, Did::Connect { .. } | Did::Intercept { .. });
    let told: Vec<Did> = world.peers.log.iter().filter(opens).cloned().collect();
    let heard = world.peers.streams.values().next().map(|stream| stream.received.clone());
    heard.map(|heard| (told, heard))
}

/// Changes of each seed that are tried where nothing else is said.
const ROUNDS: u64 = 150;

/// Runs the seeds of `target`, and so many random changes of them, by a fixed seed.
/// `SLUICEGATE_FUZZ=n` makes n thousand.
///
/// # Panics
/// If one breaks a rule: it is shown, to become a fixture.
pub fn run(target: &str, fuzz: impl Fn(&[u8]) + core::panic::RefUnwindSafe) {
    let thousands = std::env::var("SLUICEGATE_FUZZ").ok().and_then(|n| n.parse::<u64>().ok());
    let rounds = thousands.map_or(ROUNDS, |thousands| thousands * 1000);
    let seeds = seeds(target);
    let attempt = |what: &str, story: &[u8]| {
        let broken = std::panic::catch_unwind(|| fuzz(story)).is_err();
        assert!(!broken, "{target}, {what}: {story:?}");
    };
    for (number, seed) in seeds.iter().enumerate() {
        attempt(&format!("seed {number}"), seed);
    }
    let mut dice = Dice::new(1);
    for round in 0..rounds {
        let seed = &seeds[dice.below(seeds.len() as u64) as usize];
        attempt(&format!("round {round}"), &changed(seed, &mut dice));
    }
}

/// `seed` after some random changes.
#[must_use]
pub fn changed(seed: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut out = seed.to_vec();
    for _ in 0..dice.between(1, 8) {
        let at = dice.below(out.len() as u64 + 1) as usize;
        match dice.below(4) {
            0 => out.truncate(at),
            1 => out.insert(at, dice.draw() as u8),
            2 => {
                let copy = out.get(at..).unwrap_or(&[]).to_vec();
                out.extend(copy.iter().take(64));
            }
            _ => {
                if let Some(byte) = out.get_mut(at) {
                    *byte = dice.draw() as u8;
                }
            }
        }
    }
    out
}
