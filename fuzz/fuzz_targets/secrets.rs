//! Secrets in heads and bodies, cut anywhere: `sluicegate_host::fuzz::secrets`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluicegate_host::fuzz::secrets(data));
