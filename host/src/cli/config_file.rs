//! A configuration that is named on the command line. Owns where its text comes from: it is read
//! once, as a pipe can be.

use std::path::Path;

use sluicegate_host::NetworkConfig;

use super::failure::Failure;

/// The file that `named` is: `-` is the standard input.
pub(super) fn path_of(named: &Path) -> &Path {
    if named.as_os_str() == "-" { Path::new("/dev/stdin") } else { named }
}

/// What `named` is called where something is said of it.
pub(super) fn name_of(named: &Path) -> &Path {
    if named.as_os_str() == "-" { Path::new("standard input") } else { named }
}

/// Reads the file `named`: its text, and what it says. Where none is named, the default.
pub(super) fn read(named: Option<&Path>) -> Result<(String, NetworkConfig), Failure> {
    let Some(named) = named else {
        return Ok(("{}".to_owned(), NetworkConfig::default()));
    };
    let text = NetworkConfig::text_of(path_of(named))?;
    let config = NetworkConfig::from_json(&text).map_err(|error| error.of(name_of(named)))?;
    Ok((text, config))
}
