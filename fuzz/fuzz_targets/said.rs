//! What the simulation's rules say of random stories: `sim::fuzz::said`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sim::fuzz::said(data));
