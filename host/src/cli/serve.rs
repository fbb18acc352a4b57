//! `sluicegate serve`: the way out of a machine whose network card is a Unix socket. Owns the
//! sequence from the socket to its end.

use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::channel;

use sluicegate_host::adapter::GuestLink;
use sluicegate_host::adapter::datagram::DatagramLink;
use sluicegate_host::adapter::stream::StreamLink;

use super::attach::{announce, take_descriptor, until_asked};
use super::failure::{Failure, complain};
use super::link::{Autoconf, Described, LinkArgs, folder_of};
use super::online::Online;
use super::signals::{Occurrence, Signals};

/// Be the network of a machine whose card is a Unix socket
///
/// Speaks what QEMU, libkrun and passt's clients speak: Ethernet frames on a stream socket, each
/// behind its length (four bytes, highest first), or with --datagram a frame a datagram. One
/// machine at a time; another that connects meanwhile is turned away, and when the first has gone
/// the next may come. Connections of a machine that is gone end when its successor resets them, or
/// by their timers. Serves in the foreground until SIGINT or SIGTERM. Needs no privileges.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
QEMU (its guest asks by DHCP; MAC of slot 0):
  sluicegate serve --socket /tmp/net.sock --egress allow
  qemu-system-x86_64 ... -netdev stream,id=n0,server=off,addr.type=unix,addr.path=/tmp/net.sock \\
    -device virtio-net-pci,netdev=n0,mac=02:6d:73:00:00:02
  sluicegate serve --datagram --socket /tmp/net.sock
  qemu-system-x86_64 ... -netdev dgram,id=n0,local.type=unix,local.path=/tmp/vm.sock,\\
    remote.type=unix,remote.path=/tmp/net.sock -device virtio-net-pci,netdev=n0,...

libkrun (C, then what krunvm and podman --runtime krun pass on):
  krun_add_net_unixstream(ctx, \"/tmp/net.sock\", -1, mac, 0, 0);
  krun_add_net_unixgram(ctx, \"/tmp/net.sock\", -1, mac, 0, 0);       # with --datagram

A descriptor instead of a path, of a socketpair whose other end the VMM has:
  sluicegate serve --fd 3")]
pub(crate) struct ServeArgs {
    /// Where the machine connects to; only this user may
    #[arg(long, value_name = "PATH", required_unless_present = "fd")]
    socket: Option<PathBuf>,
    /// A connected stream socket to serve, by its number; ends when the machine has gone
    #[arg(long, value_name = "N", conflicts_with_all = ["socket", "datagram"])]
    fd: Option<i32>,
    /// A frame a datagram, not a stream
    #[arg(long)]
    datagram: bool,
    /// End when the first machine has gone
    #[arg(long, conflicts_with = "datagram")]
    one_shot: bool,
    #[command(flatten)]
    link: LinkArgs,
    /// Write `ready` to this descriptor (a pipe or file), not to stdout, when machines may come
    #[arg(long, value_name = "N")]
    ready_fd: Option<u32>,
}

/// Serves the socket until a signal ends it, or its one machine goes.
pub(crate) fn run(args: ServeArgs) -> ExitCode {
    match serve(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(failure.as_ref());
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &ServeArgs) -> Result<(), Failure> {
    // First, while nothing of ours can have a descriptor's number.
    let taken = args.fd.map(take_socket).transpose()?;
    let ready = args.ready_fd.map(take_descriptor).transpose()?;
    let signals = Signals::block()?;
    let described = args.link.network(Autoconf::On)?;
    match (&args.socket, taken) {
        (_, Some(stream)) => {
            until_end(args, (described, signals, ready), StreamLink::connected(stream)?)
        }
        (Some(path), None) if args.datagram => {
            until_end(args, (described, signals, ready), DatagramLink::bind(path)?)
        }
        (Some(path), None) => {
            let link = StreamLink::listen(path)?;
            let link = if args.one_shot { link.one_shot() } else { link };
            until_end(args, (described, signals, ready), link)
        }
        (None, None) => Err("--socket PATH or --fd N: say where the machine is".into()),
    }
}

/// What is made before the link.
type Parts = (Described, Signals, Option<std::fs::File>);

fn until_end(
    args: &ServeArgs,
    (described, signals, ready): Parts,
    link: impl GuestLink + 'static,
) -> Result<(), Failure> {
    let ends_with_peer = args.one_shot || args.fd.is_some();
    // The socket's path goes with it.
    let folder = args.socket.as_deref().map(folder_of);
    args.link.give_up(folder)?;
    let log = args.link.log(&described.network)?;
    let (tell, occurrences) = channel();
    signals.tell(tell.clone())?;
    let online = Online::start(described, link, move || {
        // Nobody listens any more after a signal.
        let _ = tell.send(Occurrence::NetworkEnded);
    })?;
    announce(ready)?;
    until_asked(&occurrences)?;
    let ended = online.stop();
    if let Some(log) = log {
        log.finish();
    }
    match ended {
        Err(failure) if ends_with_peer && is_gone(failure.as_ref()) => Ok(()),
        ended => ended,
    }
}

/// Whether the link ended as its peer went.
fn is_gone(failure: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let mut cause = failure.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.kind() == std::io::ErrorKind::BrokenPipe;
        }
        cause = error.source();
    }
    false
}

/// Takes over the stream socket with the number `fd` from whoever started this process.
fn take_socket(fd: i32) -> Result<UnixStream, Failure> {
    let link = std::fs::read_link(format!("/proc/self/fd/{fd}"));
    if fd < 3 || !link.is_ok_and(|link| link.to_string_lossy().starts_with("socket:")) {
        return Err(format!("--fd {fd} is not an open socket from 3 on").into());
    }
    // SAFETY: it is open, and nothing of ours has it: this is the first that the program does.
    #[allow(unsafe_code, reason = "a number from the command line becomes a descriptor")]
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    let socket = socket2::Socket::from(owned);
    if socket.r#type()? != socket2::Type::STREAM || socket.domain()? != socket2::Domain::UNIX {
        return Err(format!("--fd {fd} is not a Unix stream socket").into());
    }
    socket.set_cloexec(true)?;
    Ok(UnixStream::from(OwnedFd::from(socket)))
}
