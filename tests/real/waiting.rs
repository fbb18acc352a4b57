//! Deadlines: how long anything here may take.

#![allow(clippy::disallowed_methods, reason = "tests of real programs run on the real clock")]

use std::time::{Duration, Instant};

/// Whatever takes longer than this has hung.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// What happens "at once" takes less than this, on a machine that is busy with other tests too.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(2);
/// Between two looks at something that has no event.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The real clock.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Looks until `is_so`.
///
/// # Panics
/// After [`PATIENCE`], naming `what`.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = now() + PATIENCE;
    while !is_so() {
        assert!(now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Returns once `measure` has given the same for `quiet`.
///
/// # Panics
/// After [`PATIENCE`], naming `what`.
pub(crate) fn until_still<T: PartialEq + std::fmt::Debug>(
    what: &str,
    quiet: Duration,
    mut measure: impl FnMut() -> T,
) {
    let end = now() + PATIENCE;
    let (mut last, mut since) = (measure(), now());
    while now() < since + quiet {
        assert!(now() < end, "not still within {PATIENCE:?}: {what}, last {last:?}");
        std::thread::sleep(LOOK_EVERY);
        let new = measure();
        if new != last {
            (last, since) = (new, now());
        }
    }
}

/// What `act` returns, and how long it took.
pub(crate) fn timed<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let began = now();
    let result = act();
    (result, began.elapsed())
}
