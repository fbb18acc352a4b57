//! What a naive model says of random stories: `sim::fuzz::ring`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sim::fuzz::ring(data));
