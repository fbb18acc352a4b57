//! Whose processor time it was, by the names of this process's threads.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// The name of every thread that plays the outside.
pub(super) const OUTSIDE: &str = "outside";
/// The device's, as the kernel shortens it.
const WORKER: &str = "virtio-net work";
/// What the kernel counts in, for programs.
const TICK_MS: u64 = 10;
const BITS_A_BYTE: f64 = 8.0;

/// Processor time of all threads, by whose they are.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Times {
    /// The device's worker, the backend's calls included.
    pub(super) worker: Duration,
    /// Every thread that is none of the others'.
    pub(super) engine: Duration,
    /// The thread that asks.
    pub(super) guest: Duration,
    /// The servers.
    pub(super) outside: Duration,
    /// Every processor, for whatever it was.
    machine: Duration,
}

impl Times {
    /// What the threads that live now have had.
    pub(super) fn now() -> Self {
        let own = fs::read_link("/proc/thread-self").expect("procfs");
        let mut times = Self { machine: machine(), ..Self::default() };
        for task in fs::read_dir("/proc/self/task").expect("procfs").flatten() {
            let path = task.path();
            // A thread may end meanwhile.
            let Some((name, time)) = name_and_time(&path) else { continue };
            let whose = match name.trim() {
                _ if path.file_name() == own.file_name() => &mut times.guest,
                WORKER => &mut times.worker,
                OUTSIDE => &mut times.outside,
                _ => &mut times.engine,
            };
            *whose += time;
        }
        times
    }

    /// What they have had since `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        Self {
            worker: self.worker.saturating_sub(earlier.worker),
            engine: self.engine.saturating_sub(earlier.engine),
            guest: self.guest.saturating_sub(earlier.guest),
            outside: self.outside.saturating_sub(earlier.outside),
            machine: self.machine.saturating_sub(earlier.machine),
        }
    }

    /// How many processors were busy with something else for `wall`: figures with much of this
    /// are worth little.
    pub(super) fn elsewhere(&self, wall: Duration) -> f64 {
        let own = self.worker + self.engine + self.guest + self.outside;
        self.machine.saturating_sub(own).as_secs_f64() / wall.as_secs_f64()
    }
}

/// The time that the device's worker has had a processor.
#[must_use]
pub fn worker_time() -> Duration {
    Times::now().worker
}

/// The time that all processors were busy, or taken away by the machine's own host.
fn machine() -> Duration {
    let stat = fs::read_to_string("/proc/stat").expect("procfs");
    let fields = stat.lines().next().unwrap_or("").split_whitespace().skip(1).take(8);
    // Idle, and waiting for a disk, are the fourth and the fifth.
    let busy = fields.enumerate().filter(|(index, _)| ![3, 4].contains(index));
    let ticks: u64 = busy.filter_map(|(_, field)| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * TICK_MS)
}

fn name_and_time(task: &Path) -> Option<(String, Duration)> {
    let name = fs::read_to_string(task.join("comm")).ok()?;
    let stat = fs::read_to_string(task.join("schedstat")).ok()?;
    let nanos = stat.split_whitespace().next()?.parse().ok()?;
    Some((name, Duration::from_nanos(nanos)))
}

/// What was carried in some time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    /// Of payload.
    pub(super) bytes: u64,
    pub(super) wall: Duration,
    pub(super) times: Times,
}

impl Rate {
    pub(super) fn gigabits(&self) -> f64 {
        self.bytes as f64 * BITS_A_BYTE / self.wall.as_secs_f64() / 1e9
    }
}
