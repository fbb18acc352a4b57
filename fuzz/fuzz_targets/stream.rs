//! Frames over a stream, cut anywhere: `sluicegate_host::fuzz::stream`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluicegate_host::fuzz::stream(data));
