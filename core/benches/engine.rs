//! What the engine and its rings take in time, scenario by scenario: `cargo bench -p
//! sluicegate-benches --bench engine`, on an idle machine. Per frame, and per byte where bytes are
//! what counts.

use std::time::Duration;

use criterion::measurement::{Measurement, WallTime};
use criterion::{BenchmarkId, Criterion, Throughput};
use sim::load::scenario::{self, NAMES, Scenario};

/// Idle flows beside the one that is measured, besides those of [`NAMES`]: as many as one guest
/// may come to have.
const MANY: &str = "round_trip_idle_50000";

/// The time of `rounds` steps, without the guest's part of them.
fn time(scenario: &mut dyn Scenario, rounds: u64) -> Duration {
    let mut total = Duration::ZERO;
    for _ in 0..rounds {
        scenario.prepare();
        let start = WallTime.start();
        scenario.run();
        total += WallTime.end(start);
    }
    total
}

fn measure(criterion: &mut Criterion, name: &str, scenario: &mut dyn Scenario) {
    scenario.prepare();
    let work = scenario.run();
    let unit = scenario.unit().replace(' ', "_");
    let mut group = criterion.benchmark_group(name);
    // Criterion tells the time of a step; its rate is that of single units, and of bytes.
    group.throughput(Throughput::Elements(work.units));
    group.bench_function(BenchmarkId::from_parameter(unit), |bencher| {
        bencher.iter_custom(|rounds| time(scenario, rounds));
    });
    if scenario.is_bulk() {
        group.throughput(Throughput::Bytes(work.bytes));
        group.bench_function(BenchmarkId::from_parameter("byte"), |bencher| {
            bencher.iter_custom(|rounds| time(scenario, rounds));
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for name in NAMES.into_iter().chain([MANY]) {
        scenario::with(name, |scenario| measure(&mut criterion, name, scenario));
    }
    criterion.final_summary();
}
