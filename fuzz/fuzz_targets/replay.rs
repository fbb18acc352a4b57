//! A capture of any bytes: `sluicegate_host::fuzz::replay`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluicegate_host::fuzz::replay(data));
