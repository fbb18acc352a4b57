//! Whole runs from one seed each: guests with two kinds of TCP and the outside exchange bytes that
//! know their place, over a link that loses, doubles, reorders, delays and damages frames, with
//! stalls on every side, host sockets that fail in every way, and name servers that lie.
//!
//! A run that fails prints its seed and leaves a pcap; `SEED=n cargo test --test simulation` runs
//! that seed alone, to the same microsecond. `SEEDS=n` runs that many instead of the usual number.

#![allow(clippy::cast_possible_truncation, reason = "tests cut small numbers of their own")]

mod simulation {
    pub(crate) mod app;
    pub(crate) mod lie;
    pub(crate) mod names;
    pub(crate) mod run;
    pub(crate) mod signs;
}

use simulation::run::Run;

/// Says which seed it was, should it fail.
struct Announce(u64);

impl Drop for Announce {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this run failed; again: SEED={} cargo test --test simulation", self.0);
        }
    }
}

/// Runs the seed; returns a digest of all that went over the link.
fn run(seed: u64) -> u64 {
    let _announce = Announce(seed);
    let plan = simulation::run::Plan::new(seed);
    let mut room = plan.room();
    Run::new(plan, &mut room).run()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("because it is a number"))
}

#[test]
fn bytes_survive_whatever_the_link_and_both_sides_do() {
    if let Some(seed) = number("SEED") {
        run(seed);
        return;
    }
    let seeds = number("SEEDS").unwrap_or(1000);
    std::thread::scope(|scope| {
        for half in 0..2 {
            let name = format!("seeds {half} modulo 2");
            let work = move || {
                (0..seeds).filter(|seed| seed % 2 == half).for_each(|seed| {
                    run(seed);
                })
            };
            let spawned = std::thread::Builder::new().name(name).spawn_scoped(scope, work);
            spawned.expect("because a test may have two threads");
        }
    });
}

#[test]
fn a_seed_decides_everything() {
    for seed in 1000..1004 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
    assert_ne!(run(1000), run(1001));
}
