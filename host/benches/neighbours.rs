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

/// The middle and the 99th percentile of round trips, in microseconds, and how many megabytes a
/// second came from the guest of `other` meanwhile.
fn measure(online: &Online, other: &Online) -> [f64; 3] {
    online.round_trips(ROUND_TRIPS);
    let before = other.bytes_from_guest();
    let mut times = online.round_trips(ROUND_TRIPS);
    let bytes = other.bytes_from_guest() - before;
    let seconds = times.iter().sum::<Duration>().as_secs_f64();
    times.sort_unstable();
    let [p50, p99] = [50, 99].map(|percent| {
        let at = times.get(times.len() * percent / 100).copied();
        at.unwrap_or(Duration::ZERO).as_secs_f64() * 1e6
    });
    [p50, p99, bytes as f64 / seconds / 1e6]
}

fn pool() -> DriverPool {
    DriverPool::new(NonZeroUsize::MIN).expect("because there are threads")
}

fn alone() -> [f64; 3] {
    let online = Online::on(None, false);
    measure(&online, &online)
}

fn alone_on_a_pool() -> [f64; 3] {
    let online = Online::on(Some(&pool()), false);
    measure(&online, &online)
}

fn same_network() -> [f64; 3] {
    let online = Online::on(None, true);
    measure(&online, &online)
}

fn same_thread() -> [f64; 3] {
    let pool = pool();
    let greedy = Online::on(Some(&pool), true);
    measure(&Online::on(Some(&pool), false), &greedy)
}

fn another_thread() -> [f64; 3] {
    let greedy = Online::on(None, true);
    measure(&Online::on(None, false), &greedy)
}

/// What there is beside the round trips, and how they are measured.
type Case = (&'static str, fn() -> [f64; 3]);

fn main() {
    let cases: [Case; 5] = [
        ("nobody, on a thread of its own", alone),
        ("nobody, on a pool", alone_on_a_pool),
        ("a greedy flow of the same network", same_network),
        ("a greedy network on the same thread", same_thread),
        ("a greedy network on another thread", another_thread),
    ];
    let mut figures = cases.map(|_| [vec![], vec![], vec![]]);
    for _ in 0..ROUNDS {
        for (of_case, (_, measure)) in figures.iter_mut().zip(cases) {
            for (all, one) in of_case.iter_mut().zip(measure()) {
                all.push(one);
            }
        }
    }
    let heads = ["round trips beside", "p50, us", "p99, us", "MB/s"];
    println!("{:40} {:>10} {:>10} {:>10}", heads[0], heads[1], heads[2], heads[3]);
    for (of_case, (name, _)) in figures.iter_mut().zip(cases) {
        let middle = of_case.each_mut().map(|all| {
            all.sort_by(f64::total_cmp);
            all.get(ROUNDS / 2).copied().unwrap_or_default()
        });
        println!("{name:40} {:10.1} {:10.1} {:10.1}", middle[0], middle[1], middle[2]);
    }
}
