//! A command inside fresh namespaces of its own, with a TAP interface as its only way out.
//!
//! Owns both halves of how it gets there. The outer half ([`Inside`]) starts this same program
//! again (`sluicegate _inside`, hidden); the inner half ([`run`]) is that process: it moves into
//! new network and mount namespaces, and a user namespace where it is not privileged, makes and
//! configures the interface there, hands its descriptor out, waits for the word that it is served,
//! and then becomes the command. Must not know the library's network, nor what the command does.
//!
//! Why a process and not a thread or a `pre_exec` closure: Linux lets only a process of one thread
//! into a new user namespace; between `fork` and `exec` of a process with threads nothing may
//! allocate; and since the same process becomes the command, its exit status and the signals to
//! it need no relaying.
//!
//! The two talk over the inner half's standard input, so that no descriptor number has to be passed
//! and trusted. Message by message: the real standard input beside `input`, inwards; the
//! interface's descriptor beside `ready`, or else the text of what went wrong, outwards; `go`,
//! inwards. An end that finds the other closed gives up.

use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use nix::sched::CloneFlags;
use rustix::process::Signal;
use sluicegate_host::adapter::tap::Tap;
use sluicegate_host::netns::{self, Interface};

use super::channel::Channel;
use super::failure::{Failure, in_full, warn};
use super::guest_env::Withheld;
use super::{mounts, resolv, signals};

/// Exit status when not the command but its set-up failed, as env(1) and timeout(1) have it.
pub(super) const SET_UP_FAILED: u8 = 125;
const NOT_FOR_PEOPLE: &str = "this sub-command is not for people: see `sluicegate run --help`";
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// The inner half may take this long to be ready.
const READY_WAIT_MAX: Duration = Duration::from_secs(10);
/// The outer half may take this long to serve the interface.
const GO_WAIT_MAX: Duration = Duration::from_secs(30);

/// A command that waits inside its namespaces for its network.
#[derive(Debug)]
pub(super) struct Inside {
    child: Option<Child>,
    channel: Channel,
    device: Option<OwnedFd>,
    mtu: u16,
}

impl Inside {
    /// Starts `command` up to the point where it needs its network. It will have `variables` in its
    /// environment and nothing that is `withheld`, and `input` and `output` as standard input and
    /// output.
    pub(super) fn start(
        interface: &Interface,
        (command, variables): (&[OsString], &[(String, OsString)]),
        withheld: &Withheld,
        input: BorrowedFd<'_>,
        output: Stdio,
    ) -> Result<Self, Failure> {
        let (channel, inner) = Channel::pair()?;
        channel.send(b"input", Some(input))?;
        let mut program = Command::new("/proc/self/exe");
        program.arg0("sluicegate").arg("_inside").arg(serde_json::to_string(interface)?);
        for file in &withheld.files {
            program.arg("--cover").arg(file);
        }
        for variable in &withheld.variables {
            program.env_remove(variable);
        }
        let child = program
            .arg("--")
            .args(command)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(inner.into_descriptor())
            .stdout(output)
            .spawn()
            .map_err(|error| format!("starting this program again (/proc/self/exe): {error}"))?;
        let mut inside = Self { child: Some(child), channel, device: None, mtu: interface.mtu };
        inside.device = Some(inside.until_ready()?);
        Ok(inside)
    }

    fn until_ready(&self) -> Result<OwnedFd, Failure> {
        match self.channel.receive(READY_WAIT_MAX) {
            Ok((_, Some(device))) => Ok(device),
            Ok((text, None)) if text.is_empty() => Err("the process inside ended early".into()),
            Ok((text, None)) => Err(String::from_utf8_lossy(&text).into()),
            Err(error) => Err(format!("waiting for the process inside: {error}").into()),
        }
    }

    /// The interface's outer end; once.
    pub(super) fn take_tap(&mut self) -> Option<Tap> {
        self.device.take().map(|device| Tap::from_device(device, self.mtu))
    }

    /// Lets the command begin.
    pub(super) fn go(mut self) -> Result<Child, Failure> {
        self.channel.send(b"go", None)?;
        self.child.take().ok_or_else(|| "the process inside was let go already".into())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; either way it is reaped.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Arguments of the hidden sub-command: not for people.
#[derive(Debug, clap::Args)]
pub(crate) struct InsideArgs {
    /// The interface to make, as JSON.
    interface: String,
    /// Files that the command is not to find.
    #[arg(long)]
    cover: Vec<PathBuf>,
    /// The command to become.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// The inner half.
pub(crate) fn run(args: &InsideArgs) -> ExitCode {
    let channel = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(descriptor) => Channel::from_descriptor(descriptor),
        Err(_) => return ExitCode::from(SET_UP_FAILED),
    };
    match prepare(args, &channel) {
        Ok(()) => become_command(&args.command),
        Err(failure) => {
            let why = in_full(failure.as_ref());
            if channel.send(why.as_bytes(), None).is_err() {
                warn(&why);
            }
            ExitCode::from(SET_UP_FAILED)
        }
    }
}

fn prepare(args: &InsideArgs, channel: &Channel) -> Result<(), Failure> {
    signals::unblock()?;
    let interface: Interface = serde_json::from_str(&args.interface).map_err(|_| NOT_FOR_PEOPLE)?;
    // Without its network the command is no use: it ends when `sluicegate` is killed.
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    let (_, input) = channel.receive(READY_WAIT_MAX).map_err(|_| NOT_FOR_PEOPLE)?;
    let input = input.ok_or(NOT_FOR_PEOPLE)?;
    enter_namespaces()?;
    mounts::keep_own()?;
    for file in &args.cover {
        mounts::cover(file)
            .map_err(|error| format!("covering {} for the command: {error}", file.display()))?;
    }
    let tap = Tap::create(&interface.name, interface.mtu)?;
    netns::configure(&interface)?;
    if let Err(error) = netns::allow_ping() {
        tracing::debug!(%error, "ping inside needs privileges");
    }
    let servers = [IpAddr::V4(interface.gateway_ipv4), IpAddr::V6(interface.gateway_ipv6)];
    if let Err(error) = resolv::point_at(&servers) {
        warn(&format!("/etc/resolv.conf inside stays the host's: {error}"));
    }
    channel.send(b"ready", Some(tap.as_fd()))?;
    match channel.receive(GO_WAIT_MAX)? {
        (word, None) if word == b"go" => Ok(rustix::stdio::dup2_stdin(input)?),
        _ => Err("the network did not start".into()),
    }
}

/// New network and mount namespaces; a user namespace around them if they take one.
fn enter_namespaces() -> Result<(), Failure> {
    let wanted = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    if nix::sched::unshare(wanted).is_ok() {
        return Ok(());
    }
    let user = rustix::process::geteuid().as_raw();
    let group = rustix::process::getegid().as_raw();
    nix::sched::unshare(wanted | CloneFlags::CLONE_NEWUSER).map_err(explain_unprivileged)?;
    // The command keeps its user and group ids, and has no rights over its network after exec.
    // An unprivileged process may map a group only after giving up setgroups (user_namespaces(7)).
    std::fs::write("/proc/self/setgroups", "deny")
        .and_then(|()| std::fs::write("/proc/self/uid_map", format!("{user} {user} 1")))
        .and_then(|()| std::fs::write("/proc/self/gid_map", format!("{group} {group} 1")))
        .map_err(explain_unprivileged)
}

fn explain_unprivileged(error: impl std::fmt::Display) -> Failure {
    format!(
        "this user may not make namespaces ({error}): run as root, or allow unprivileged user \
         namespaces (sysctl user.max_user_namespaces > 0, kernel.unprivileged_userns_clone=1, \
         kernel.apparmor_restrict_unprivileged_userns=0); in a container grant CAP_SYS_ADMIN"
    )
    .into()
}

fn become_command(command: &[OsString]) -> ExitCode {
    let Some((program, arguments)) = command.split_first() else {
        return ExitCode::from(SET_UP_FAILED);
    };
    let error = Command::new(program).args(arguments).exec();
    warn(&format!("{}: {error}", program.display()));
    let not_found = error.kind() == io::ErrorKind::NotFound;
    ExitCode::from(if not_found { NOT_FOUND } else { NOT_EXECUTABLE })
}
