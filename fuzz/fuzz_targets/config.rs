//! A configuration of any text: `sluicegate_host::fuzz::config`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluicegate_host::fuzz::config(data));
