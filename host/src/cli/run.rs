//! `sluicegate run`: a command whose only way out is the engine. Owns the command's life as seen
//! from outside: its start, the signals passed on to it, its exit status. How it gets into its
//! namespaces is `inside.rs`.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use sluicegate_core::addr::INTERFACE_NAME;

use super::failure::{Failure, complain, warn};
use super::foreground::MUST_END;
use super::guest_env::GuestEnv;
use super::inside::{Inside, SET_UP_FAILED};
use super::link::{self, Autoconf, LinkArgs};
use super::online::Online;
use super::sandbox::Removable;
use super::signals::{Occurrence, Signals};

/// Run a command in a network of its own, whose only way out is the engine
///
/// The command keeps its user, files, terminal, directory and environment, but for what holds
/// credentials (the config's file, if it has secrets, the variables that it names, the key of the
/// authority, and the control socket); only the network is new:
/// one interface, eth0, served in user space, and an /etc/resolv.conf that names the gateway. Where
/// TLS is intercepted, the usual variables (SSL_CERT_FILE, CURL_CA_BUNDLE, REQUESTS_CA_BUNDLE,
/// NODE_EXTRA_CA_CERTS and more) name a file with the gateway's authority beside this host's, and
/// those of the config's secrets hold their placeholders. Works
/// as root, or as anyone where unprivileged user namespaces are allowed. It confines well-behaved
/// commands: one that runs as root can leave a namespace, and Unix sockets are files.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: the command's own; 128 + N if signal N killed it; 125 if the options are wrong or
the network could not be set up, 126 if the command cannot be executed, 127 if it is not found.

Examples:
  sluicegate run --egress allow -- curl https://example.com
  sluicegate run --config policy.json --log -- npm install
  sluicegate run --config secrets.json -- sh -c 'curl -u me:$KEY https://a.example'
  sluicegate run -- ping -c 1 100.96.0.1        # the gateway of slot 0
  sluicegate run --slot 7 --mtu 65520 -- bash")]
pub(crate) struct RunArgs {
    #[command(flatten)]
    link: LinkArgs,
    /// The command and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

/// Runs the command to its end.
pub(crate) fn run(args: RunArgs) -> ExitCode {
    serve(&args).unwrap_or_else(|failure| {
        complain(failure.as_ref());
        ExitCode::from(SET_UP_FAILED)
    })
}

fn serve(args: &RunArgs) -> Result<ExitCode, Failure> {
    let signals = Signals::block()?;
    let described = args.link.network(Autoconf::Off)?;
    let interface = link::interface(INTERFACE_NAME, &described.network);
    let input = std::io::stdin();
    let environment = GuestEnv::of(&described.network)?;
    let command = (args.command.as_slice(), environment.variables.as_slice());
    let withheld = &described.withheld;
    let mut inside = Inside::start(&interface, command, withheld, input.as_fd(), Stdio::inherit())?;
    let mut tap = inside.take_tap().ok_or("the process inside sent no interface")?;
    args.link.prepare(&mut tap);
    // The file with the authorities goes at the end.
    args.link.give_up(environment.folder.as_deref().map(Removable::Folder))?;
    let log = args.link.log(&described.network)?;
    let (tell, occurrences) = channel();
    signals.tell(tell.clone())?;
    let online = Online::start(described, tap, tell)?;
    let status = oversee(inside.go()?, &occurrences)?;
    // Why the network ended before its command was said when it happened.
    let _ = online.stop();
    if let Some(log) = log {
        log.finish();
    }
    Ok(exit_code(status))
}

/// Waits for the command's end; passes signals on to it meanwhile.
fn oversee(mut child: Child, occurrences: &Receiver<Occurrence>) -> Result<ExitStatus, Failure> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        match occurrences.recv()? {
            Occurrence::ChildChanged => {}
            Occurrence::Asked { signal, group_has_it } => {
                if !group_has_it {
                    forward(&child, signal)?;
                }
            }
            Occurrence::NetworkEnded => {
                warn("the network has ended; the command goes on without one");
            }
            Occurrence::GuestMustEnd => {
                warn(MUST_END);
                child.kill()?;
            }
        }
    }
}

fn forward(child: &Child, signal: Signal) -> Result<(), Failure> {
    // Not yet waited for, so the id is still its own.
    Ok(nix::sys::signal::kill(Pid::from_raw(i32::try_from(child.id())?), signal)?)
}

/// The exit code that a shell would show.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
