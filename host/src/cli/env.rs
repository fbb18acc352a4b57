//! `sluicegate env`: what a guest is told of its network.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use super::config_file;
use super::failure::{self, Failure};

/// Print what a guest finds in its environment
///
/// Its addresses, as its agent reads them, and the placeholders of the config's secrets: one
/// NAME=value a line, as env(1) takes it. The values of secrets are not in it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 0; 1 if the configuration is wrong, 2 if the options are.

Examples:
  sluicegate env
  sluicegate env --slot 7 --config network.json
  env $(sluicegate env --slot 7) my-vmm        # hand them to a VMM")]
pub(crate) struct EnvArgs {
    /// Number of the guest on this host, which its addresses follow from
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    slot: u16,
    /// MTU of the guest's interface: 1280 to 65520 [default: the config's, else 1500]
    #[arg(long, value_name = "N")]
    mtu: Option<u16>,
    /// Configuration of the network, JSON; - for the standard input
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Prints the variables.
pub(crate) fn run(args: &EnvArgs) -> ExitCode {
    failure::exit_code(print(args))
}

fn print(args: &EnvArgs) -> Result<(), Failure> {
    let (_, mut config) = config_file::read(args.config.as_deref())?;
    config.interface.mtu = args.mtu.or(config.interface.mtu);
    let mut out = std::io::stdout().lock();
    for (name, value) in config.addresses(args.slot.into())?.environment() {
        writeln!(out, "{name}={value}")?;
    }
    for secret in &config.secrets.secrets {
        writeln!(out, "{}={}", secret.env_var, secret.placeholder())?;
    }
    Ok(())
}
