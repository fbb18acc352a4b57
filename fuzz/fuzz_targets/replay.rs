//! A capture of any bytes is refused or replayed, and never a panic.

#![no_main]

use sluicegate_host::replay::{Manner, Replay, read};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(frames) = read(data) else { return };
    let replay = Replay { manner: Manner::Echo, ..Replay::default() };
    let _ = replay.run(frames.iter().take(200), |_| ());
});
