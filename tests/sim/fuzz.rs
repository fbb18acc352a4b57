//! What a fuzzer drives: bytes become a story that the engine lives through, under the rules of the
//! simulation. Each function panics where a rule is broken, and does nothing else.
//!
//! Targets of `fuzz/` are a line each onto these; `tests/fuzz.rs` runs them on the seeds and on
//! random changes of them.

mod classify;
mod engine;
mod fragments;
mod offload;
mod ring;
mod seeds;

use sluicegate_core::{Permission, Policy, QueryStep, limits};

use crate::frame::{self, OUTSIDE_V4, OUTSIDE_V6};
use crate::guest::Script;
use crate::{Dice, Did, Room};

pub use classify::classify;
pub use engine::engine;
pub use fragments::fragments;
pub use offload::offload;
pub use ring::ring;
pub use seeds::{TARGETS, seeds};

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
