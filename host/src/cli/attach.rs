//! `sluicegate attach`: the way out of a network namespace that exists. Owns the sequence from the
//! namespace's name to the interface's end.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, channel};

use nix::sys::signal::Signal;
use sluicegate_core::addr::INTERFACE_NAME;
use sluicegate_host::adapter::tap::Tap;
use sluicegate_host::netns;

use super::failure::{Failure, complain};
use super::link::{self, Autoconf, LinkArgs};
use super::online::Online;
use super::signals::{Occurrence, Signals};

/// Give an existing network namespace its way out
///
/// Makes an interface in the namespace, configures MAC, MTU, addresses and default routes, and
/// serves it in the foreground until SIGINT or SIGTERM; then the interface is gone again. Needs
/// root. The namespace must not have a default route.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
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
    /// Write `ready` to this descriptor (a pipe or file), not to stdout, when the guest is online
    #[arg(long, value_name = "N")]
    ready_fd: Option<u32>,
}

/// Serves the namespace until a signal ends it.
pub(crate) fn run(args: AttachArgs) -> ExitCode {
    match serve(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(failure.as_ref());
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &AttachArgs) -> Result<(), Failure> {
    // First, while nothing of ours can have the descriptor's number.
    let ready = args.ready_fd.map(take_descriptor).transpose()?;
    let signals = Signals::block()?;
    let described = args.link.network(Autoconf::On)?;
    let interface = link::interface(&args.ifname, &described.network);
    let netns = netns::open(&args.netns)?;
    let tap = netns::within(netns.as_fd(), || -> Result<Tap, Failure> {
        let mut tap = Tap::create(&interface.name, interface.mtu)?;
        args.link.prepare(&mut tap);
        netns::configure(&interface)?;
        Ok(tap)
    })??;
    args.link.give_up(None)?;
    let log = args.link.log(&described.network)?;
    let (tell, occurrences) = channel();
    signals.tell(tell.clone())?;
    let online = Online::start(described, tap, move || {
        // Nobody listens any more after a signal.
        let _ = tell.send(Occurrence::NetworkEnded);
    })?;
    announce(ready)?;
    until_asked(&occurrences)?;
    let ended = online.stop();
    if let Some(log) = log {
        log.finish();
    }
    ended
}

/// Takes over the descriptor `number` from whoever started this process.
pub(super) fn take_descriptor(number: u32) -> Result<File, Failure> {
    let path = format!("/proc/self/fd/{number}");
    let file = File::options().append(true).open(path).map_err(|error| {
        format!("--ready-fd {number} is not an open, writable pipe or file: {error}")
    })?;
    if number > 2 {
        // A reader that waits for the end of the pipe is to see it.
        nix::unistd::close(i32::try_from(number)?)?;
    }
    Ok(file)
}

pub(super) fn announce(ready: Option<File>) -> io::Result<()> {
    match ready {
        Some(mut file) => file.write_all(b"ready\n"),
        None => io::stdout().write_all(b"ready\n"),
    }
}

/// Waits for a signal that asks for the end, or the network's own end.
pub(super) fn until_asked(occurrences: &Receiver<Occurrence>) -> Result<(), Failure> {
    loop {
        match occurrences.recv()? {
            Occurrence::NetworkEnded => return Ok(()),
            Occurrence::Asked { signal: Signal::SIGUSR1 | Signal::SIGUSR2, .. }
            | Occurrence::ChildChanged => {}
            Occurrence::Asked { .. } => return Ok(()),
        }
    }
}
