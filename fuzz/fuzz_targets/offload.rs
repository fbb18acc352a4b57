//! What a naive model says of random stories: `sim::fuzz::offload`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sim::fuzz::offload(data));
