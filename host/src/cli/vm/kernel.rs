//! Where the guest's kernel is: the library libkrunfw. Owns where it is looked for and what is said
//! if it is nowhere; must not know how it is loaded.

use std::path::{Path, PathBuf};

use crate::cli::failure::Failure;

/// The name that the loader knows.
const NAME: &str = "libkrunfw.so.5";
/// Where packages put libraries, in the loader's order, and where a copy is put by hand.
const PLACES: [&str; 7] = [
    "/usr/local/lib64",
    "/usr/local/lib",
    "/lib64",
    "/usr/lib64",
    "/usr/lib",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
];

/// The library to load: `asked`, or the first that is found.
///
/// # Errors
/// Where there is none: what to do.
pub(super) fn library(asked: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(path) = asked {
        return if path.is_file() {
            Ok(path.to_owned())
        } else {
            Err(format!("--krunfw {}: not a file", path.display()).into())
        };
    }
    let listed = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let places = std::env::split_paths(&listed).chain(PLACES.into_iter().map(PathBuf::from));
    let mut found = places.map(|place| place.join(NAME)).filter(|path| path.is_file());
    found.next().ok_or_else(|| {
        format!(
            "{NAME} (the guest's kernel) is in no library folder: install the package libkrunfw, \
             or take the file from the wheel of microsandbox (pip download --no-deps microsandbox; \
             it is a zip, under microsandbox/_bundled/lib) and say --krunfw PATH"
        )
        .into()
    })
}
