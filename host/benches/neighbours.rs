//! What a greedy guest costs its neighbours: `cargo bench -p sluicegate-benches --bench
//! neighbours`, on an idle machine, prints a table.
//!
//! Round trips of a byte between a guest in memory and a server on loopback, while a connection
//! sends whatever it takes: of the same network, of another on the same thread of a pool, of
//! another on another thread.

mod online;

use std::num::NonZeroUsize;
use std::time::Duration;

use online::Online;
use sluicegate_host::DriverPool;

/// Round trips that are timed, after as many that are not counted.
const ROUND_TRIPS: usize = 10_000;
/// Each is measured so often, in turn; the middle counts.
const ROUNDS: usize = 3;

/// The middle and the 99th percentile of round trips, in microseconds.
fn percentiles(online: &Online) -> [f64; 2] {
    online.round_trips(ROUND_TRIPS);
    let mut times = online.round_trips(ROUND_TRIPS);
    times.sort_unstable();
    [50, 99].map(|percent| {
        let at = times.get(times.len() * percent / 100).copied();
        at.unwrap_or(Duration::ZERO).as_secs_f64() * 1e6
    })
}

fn pool() -> DriverPool {
    DriverPool::new(NonZeroUsize::MIN).expect("because there are threads")
}

fn alone() -> [f64; 2] {
    percentiles(&Online::on(None, false))
}

fn alone_on_a_pool() -> [f64; 2] {
    percentiles(&Online::on(Some(&pool()), false))
}

fn same_network() -> [f64; 2] {
    percentiles(&Online::on(None, true))
}

fn same_thread() -> [f64; 2] {
    let pool = pool();
    let _greedy = Online::on(Some(&pool), true);
    percentiles(&Online::on(Some(&pool), false))
}

fn another_thread() -> [f64; 2] {
    let _greedy = Online::on(None, true);
    percentiles(&Online::on(None, false))
}

/// What there is beside the round trips, and how they are measured.
type Case = (&'static str, fn() -> [f64; 2]);

fn main() {
    let cases: [Case; 5] = [
        ("nobody, on a thread of its own", alone),
        ("nobody, on a pool", alone_on_a_pool),
        ("a greedy flow of the same network", same_network),
        ("a greedy network on the same thread", same_thread),
        ("a greedy network on another thread", another_thread),
    ];
    let mut figures = cases.map(|_| [vec![], vec![]]);
    for _ in 0..ROUNDS {
        for (of_case, (_, measure)) in figures.iter_mut().zip(cases) {
            for (all, one) in of_case.iter_mut().zip(measure()) {
                all.push(one);
            }
        }
    }
    println!("{:40} {:>10} {:>10}", "round trips beside", "p50, us", "p99, us");
    for (of_case, (name, _)) in figures.iter_mut().zip(cases) {
        let middle = of_case.each_mut().map(|all| {
            all.sort_by(f64::total_cmp);
            all.get(ROUNDS / 2).copied().unwrap_or_default()
        });
        println!("{name:40} {:10.1} {:10.1}", middle[0], middle[1]);
    }
}
