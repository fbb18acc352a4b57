//! What `fuzz/` fuzzes, as tests: the seeds, and so many random changes of them, by a fixed seed.
//! `SLUICEGATE_FUZZ=n` makes n thousand.

use sim::{Dice, fuzz};

/// Changes of each seed that are tried.
const ROUNDS: u64 = 150;

fn run(target: &str, fuzz: fn(&[u8])) {
    let thousands = std::env::var("SLUICEGATE_FUZZ").ok().and_then(|n| n.parse::<u64>().ok());
    let rounds = thousands.map_or(ROUNDS, |thousands| thousands * 1000);
    let seeds = fuzz::seeds(target);
    for seed in &seeds {
        fuzz(seed);
    }
    let mut dice = Dice::new(1);
    for round in 0..rounds {
        let seed = &seeds[usize::try_from(round).unwrap_or(0) % seeds.len()];
        let story = fuzz::changed(seed, &mut dice);
        // What breaks a rule is shown, to become a fixture.
        let broken = std::panic::catch_unwind(|| fuzz(&story)).is_err();
        assert!(!broken, "{target}, round {round}: {story:?}");
    }
}

#[test]
fn frames_and_events_in_any_order_break_no_rule() {
    run("engine", fuzz::engine);
}

#[test]
fn queries_and_answers_of_any_bytes_break_no_rule() {
    run("dns", fuzz::dns);
}

#[test]
fn what_is_said_first_means_the_same_however_it_is_cut() {
    run("said", fuzz::said);
}
