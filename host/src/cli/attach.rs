//! `sluicegate attach`: the way out of a network namespace that exists. Owns the sequence from the
//! namespace's name to the interface's end.

use std::os::fd::AsFd;
use std::process::ExitCode;

use sluicegate_core::addr::INTERFACE_NAME;
use sluicegate_host::adapter::tap::Tap;
use sluicegate_host::netns;

use super::failure::{self, Failure};
use super::foreground::{Foreground, ReadyArgs};
use super::link::{self, LinkArgs};

/// Give an existing network namespace its way out
///
/// Makes an interface in the namespace, configures MAC, MTU, addresses and default routes, and
/// serves it in the foreground until SIGINT or SIGTERM; then the interface is gone again. Needs
/// root. The namespace must not have a default route.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 0 if a signal ended it, 1 if the guest can't be served, 2 if the options are wrong.

Examples:
  ip netns add guest
  sluicegate attach --netns guest --config policy.json
  sluicegate attach --netns /proc/4711/ns/net --ifname net0 --slot 1 --egress allow
  sluicegate attach --netns guest --config tenant.json --profile multi-tenant --log=json
  sluicegate attach --netns guest --autoconf off      # nobody answers DHCP or router solicitations
  sluicegate attach --netns guest --ready-fd 3 3>ready.fifo")]
pub(crate) struct AttachArgs {
    /// The network namespace: a name of `ip netns`, a path, or a process id
    #[arg(long, value_name = "NAME|PATH")]
    netns: String,
    /// What the interface is called there
    #[arg(long, value_name = "NAME", default_value = INTERFACE_NAME)]
    ifname: String,
    #[command(flatten)]
    link: LinkArgs,
    #[command(flatten)]
    ready: ReadyArgs,
}

/// Serves the namespace until a signal ends it.
pub(crate) fn run(args: AttachArgs) -> ExitCode {
    failure::exit_code(serve(&args))
}

fn serve(args: &AttachArgs) -> Result<(), Failure> {
    let foreground = Foreground::begin(&args.ready, &args.link)?;
    let interface = link::interface(&args.ifname, &foreground.described.network);
    let netns = netns::open(&args.netns)?;
    let tap = netns::within(netns.as_fd(), || -> Result<Tap, Failure> {
        let mut tap = Tap::create(&interface.name, interface.mtu)?;
        args.link.prepare(&mut tap);
        netns::configure(&interface)?;
        Ok(tap)
    })
    .map_err(|error| format!("--netns {}: {}", args.netns, failure::in_full(&error)))??;
    foreground.serve(tap, None)
}
