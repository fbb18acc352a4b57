//! One frame, to the engine and to another reader: `sim::fuzz::classify`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sim::fuzz::classify(data));
