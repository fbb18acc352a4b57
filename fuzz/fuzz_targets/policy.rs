//! A policy of any text: `sluicegate_host::fuzz::policy`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluicegate_host::fuzz::policy(data));
