//! Requests of any bytes to the control socket: `cli::control::fuzz::control`. The command is no
//! library, so that what it answers with is built here.

#![no_main]
#![allow(dead_code, unused_imports, reason = "the rest of the command is not here")]

#[path = "../../host/src/cli"]
mod cli {
    pub(crate) mod control;
    mod failure;
    mod log;
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| cli::control::fuzz::control(data));
