//! What a test needs of the machine. Owns the one way in which a test is left out.

use std::io::{Write, stderr};
use std::path::Path;

/// Whether the machine has what a guest takes, and `programs`. If not, this says so on the standard
/// error, as libtest knows no skipped tests, and the test should return.
///
/// # Panics
/// If something is missing and `CI` is `true`.
pub(crate) fn are_met(programs: &[&str]) -> bool {
    let missing = if !rustix::process::geteuid().is_root() {
        Some("root".to_owned())
    } else if !Path::new("/dev/net/tun").exists() {
        Some("/dev/net/tun".to_owned())
    } else {
        ["ip"].iter().chain(programs).find(|name| !is_installed(name)).map(|name| name.to_string())
    };
    missing.is_none_or(|missing| without(&missing))
}

/// Says that the machine lacks `missing`, and that the test is left out; returns false.
///
/// # Panics
/// If `CI` is `true`.
pub(crate) fn without(missing: &str) -> bool {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{test} needs {missing}, which this machine has not"
    );
    // Past libtest, which keeps what the print macros say of a test that passes. It may be lost.
    let _ = writeln!(stderr(), "SKIPPED: {test} needs {missing}, which this machine has not");
    false
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
