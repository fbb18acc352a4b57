//! The driver end to end: `cargo bench -p sluicegate-benches --bench relay`, on an idle machine. A
//! guest in memory, the real driver, a server on loopback; nanoseconds a frame of 1460 bytes of
//! payload, each way, and a round trip.

mod online;

use std::time::Duration;

use criterion::measurement::{Measurement, WallTime};
use criterion::{Criterion, Throughput};
use online::{Online, SEGMENT_BYTES};

fn timed(work: impl FnOnce()) -> Duration {
    let start = WallTime.start();
    work();
    WallTime.end(start)
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .sample_size(20)
        .configure_from_args();
    let online = Online::beside(0);
    let frame = u64::from(SEGMENT_BYTES);
    let mut group = criterion.benchmark_group("relay");
    group.throughput(Throughput::Bytes(frame));
    group.bench_function("up/frame", |bencher| {
        bencher.iter_custom(|frames| timed(|| online.up(frames * frame)));
    });
    group.bench_function("down/frame", |bencher| {
        bencher.iter_custom(|frames| timed(|| online.down(frames * frame)));
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("round_trip", |bencher| {
        bencher.iter_custom(|count| {
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            timed(|| drop(online.round_trips(count)))
        });
    });
    group.finish();
    criterion.final_summary();
}
