//! Serving a guest in the foreground until a signal ends it, as `attach` and `serve` do. Owns who
//! is told that it is online, and what ends it; must not know what the link is.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

use nix::sys::signal::Signal;
use sluicegate_host::adapter::GuestLink;

use super::failure::Failure;
use super::link::{Autoconf, Described, LinkArgs};
use super::online::Online;
use super::sandbox::Removable;
use super::signals::{Occurrence, Signals};

/// Who is told that the guest is online.
#[derive(Debug, clap::Args)]
pub(crate) struct ReadyArgs {
    /// Write `ready` to this descriptor (a pipe or file), not to stdout, when the link is served
    #[arg(long, value_name = "N")]
    ready_fd: Option<u32>,
}

/// A network that will be served in the foreground; its link is not there yet.
pub(super) struct Foreground<'a> {
    link: &'a LinkArgs,
    ready: Option<File>,
    signals: Signals,
    pub(super) described: Described,
}

impl<'a> Foreground<'a> {
    /// Takes over what the process was given: the descriptor to be told at, then signals. To be
    /// called first, while nothing of ours can have the descriptor's number.
    pub(super) fn begin(ready: &ReadyArgs, link: &'a LinkArgs) -> Result<Self, Failure> {
        let ready = ready.ready_fd.map(take_descriptor).transpose()?;
        let signals = Signals::block()?;
        let described = link.network(Autoconf::On)?;
        Ok(Self { link, ready, signals, described })
    }

    /// Serves `link` until a signal asks for the end, or it ends by itself. A file in the folder
    /// `removable` may be removed then.
    pub(super) fn serve(
        self,
        link: impl GuestLink + 'static,
        removable: Option<&Path>,
    ) -> Result<(), Failure> {
        self.link.give_up(removable.map(Removable::Files))?;
        let log = self.link.log(&self.described.network)?;
        let (tell, occurrences) = channel();
        self.signals.tell(tell.clone())?;
        let online = Online::start(self.described, link, tell)?;
        announce(self.ready)?;
        let asked = until_asked(&occurrences);
        let ended = online.stop();
        if let Some(log) = log {
            log.finish();
        }
        asked.and(ended)
    }
}

/// Takes over the descriptor `number` from whoever started this process.
fn take_descriptor(number: u32) -> Result<File, Failure> {
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

fn announce(ready: Option<File>) -> Result<(), Failure> {
    let told = match ready {
        Some(mut file) => file.write_all(b"ready\n"),
        None => std::io::stdout().write_all(b"ready\n"),
    };
    // Whoever waits for it has gone: nobody wants the network either.
    told.map_err(|error| format!("telling that the guest is online: {error}").into())
}

/// Why the network of a guest ends that it wants to end.
pub(super) const MUST_END: &str =
    "a secret was on its way to where it may not be, and the guest is to end (block-and-terminate)";

/// Waits for a signal that asks for the end, or the network's own end.
fn until_asked(occurrences: &Receiver<Occurrence>) -> Result<(), Failure> {
    loop {
        match occurrences.recv()? {
            Occurrence::NetworkEnded => return Ok(()),
            Occurrence::GuestMustEnd => return Err(MUST_END.into()),
            Occurrence::Asked { signal: Signal::SIGUSR1 | Signal::SIGUSR2, .. }
            | Occurrence::ChildChanged => {}
            Occurrence::Asked { .. } => return Ok(()),
        }
    }
}
