//! `sluicegate env`: what a guest is told of its network.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use sluicegate_host::NetworkConfig;

use super::failure::{self, Failure};

/// Print the environment of a guest: its addresses, as its agent reads them, and the placeholders
/// of the config's secrets
///
/// One NAME=value a line, as env(1) takes it; the values of secrets are not in it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluicegate env --slot 0
  sluicegate env --slot 7 --config network.json
  env $(sluicegate env --slot 7) my-vmm        # hand them to a VMM")]
pub(crate) struct EnvArgs {
    /// The guest's number on this host, 0 to 65535
    #[arg(long, value_name = "N")]
    slot: u64,
    /// The link's MTU, in place of the configuration's
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u16>,
    /// The network's configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Prints the variables.
pub(crate) fn run(args: &EnvArgs) -> ExitCode {
    failure::exit_code(print(args))
}

fn print(args: &EnvArgs) -> Result<(), Failure> {
    let mut config = match &args.config {
        Some(path) => NetworkConfig::from_file(path)?,
        None => NetworkConfig::default(),
    };
    config.interface.mtu = args.mtu.or(config.interface.mtu);
    let mut out = std::io::stdout().lock();
    for (name, value) in config.addresses(args.slot)?.environment() {
        writeln!(out, "{name}={value}")?;
    }
    for secret in &config.secrets.secrets {
        writeln!(out, "{}={}", secret.env_var, secret.placeholder())?;
    }
    Ok(())
}
