//! What many flows cost the one that is used, and how many come and go in a second: `cargo bench
//! -p sluicegate-benches --bench many_flows`, on an idle machine, prints a table.
//!
//! Engine only: the host answers at once, so that the figures are the engine's. Through the driver:
//! real sockets to servers on loopback in this process; a flow takes a descriptor on either side,
//! so 50,000 of them need a limit of more than 100,000. Where it can't be raised so far, there are
//! fewer flows.

mod online;

use std::time::Duration;

use criterion::measurement::{Measurement, WallTime};
use online::Online;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sim::load::scenario::{self, Scenario};

/// Idle flows beside the one that is used.
const IDLE: [usize; 3] = [10, 2000, 50_000];
/// Round trips that are timed for a percentile, after as many that are not counted.
const ROUND_TRIPS: usize = 20_000;
/// How often, and how long, the engine is kept busy for a rate.
const SLICES: usize = 21;
const SLICE: Duration = Duration::from_millis(100);
/// Descriptors besides those of flows.
const DESCRIPTORS_SPARE: u64 = 200;

/// The time of one step, without the guest's part of it.
fn step(scenario: &mut dyn Scenario) -> (u64, Duration) {
    scenario.prepare();
    let start = WallTime.start();
    let work = scenario.run();
    (work.units, WallTime.end(start))
}

/// The middle and the 99th percentile.
fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    (at(50), at(99))
}

fn engine_round_trips(idle: usize) -> (Duration, Duration) {
    scenario::with(&format!("round_trip_idle_{idle}"), |scenario| {
        let mut times = || (0..ROUND_TRIPS).map(|_| step(scenario).1).collect::<Vec<_>>();
        times();
        percentiles(times())
    })
}

/// As many of `idle` flows as there may be descriptors for, and the percentiles beside them.
fn driver_round_trips(idle: usize) -> (usize, (Duration, Duration)) {
    let allowed = allow_descriptors(2 * idle as u64 + DESCRIPTORS_SPARE);
    let flows = allowed.saturating_sub(DESCRIPTORS_SPARE) / 2;
    let idle = idle.min(usize::try_from(flows).unwrap_or(usize::MAX));
    let online = Online::beside(idle);
    online.round_trips(ROUND_TRIPS);
    (idle, percentiles(online.round_trips(ROUND_TRIPS)))
}

/// Sees to it that this process may have `wanted` descriptors, or as many as can be; returns how
/// many.
fn allow_descriptors(wanted: u64) -> u64 {
    let has = getrlimit(Resource::Nofile);
    let Some(current) = has.current.filter(|current| *current < wanted) else { return wanted };
    let maximum = has.maximum.unwrap_or(wanted);
    // Root may raise the maximum as well, unless it is in a container.
    for limit in [wanted, maximum.min(wanted)] {
        let new = Rlimit { current: Some(limit), maximum: Some(maximum.max(limit)) };
        if setrlimit(Resource::Nofile, new).is_ok() {
            return limit;
        }
    }
    current
}

/// Units of the scenario `name` in a second: the middle of some slices, since others may use the
/// processor too.
fn rate(name: &str) -> (f64, &'static str) {
    scenario::with(name, |scenario| {
        let mut slice = || {
            let (mut units, mut total) = (0, Duration::ZERO);
            while total < SLICE {
                let (more, time) = step(scenario);
                units += more;
                total += time;
            }
            units as f64 / total.as_secs_f64()
        };
        let mut rates: Vec<f64> = (0..SLICES).map(|_| slice()).collect();
        rates.sort_by(f64::total_cmp);
        (rates.get(SLICES / 2).copied().unwrap_or_default(), scenario.unit())
    })
}

fn main() {
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    println!("{:24} {:>12} {:>10} {:>10}", "round trips", "idle flows", "p50, us", "p99, us");
    for idle in IDLE {
        let (p50, p99) = engine_round_trips(idle);
        println!("{:24} {idle:12} {:10.2} {:10.2}", "engine only", micros(p50), micros(p99));
    }
    for idle in IDLE {
        let (held, (p50, p99)) = driver_round_trips(idle);
        let why = if held < idle { "  (no descriptors for more)" } else { "" };
        let (p50, p99) = (micros(p50), micros(p99));
        println!("{:24} {held:12} {p50:10.2} {p99:10.2}{why}", "through the driver");
    }
    println!("\n{:24} {:>12}", "engine only", "a second");
    for (what, name) in [
        ("TCP flows, SYN to end", "open_close"),
        ("datagrams from the guest", "udp_up"),
        ("datagrams to the guest", "udp_down"),
    ] {
        let (rate, unit) = rate(name);
        println!("{what:24} {rate:12.0} {unit}s");
    }
}
