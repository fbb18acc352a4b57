//! HTTP of any bytes between a guest and its server: `sluicegate_host::fuzz::http`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluicegate_host::fuzz::http(data));
