//! `sluicegate serve`: the way out of a machine whose network card is a Unix socket. Owns the
//! sequence from the socket to its end.

use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use sluicegate_host::Error;
use sluicegate_host::adapter::datagram::DatagramLink;
use sluicegate_host::adapter::stream::StreamLink;

use super::failure::{self, Failure};
use super::foreground::{Foreground, ReadyArgs};
use super::link::{LinkArgs, folder_of};

/// Be the network of a machine whose card is a Unix socket
///
/// Speaks what QEMU, libkrun and passt's clients speak: Ethernet frames on a stream socket, each
/// behind its length (four bytes, highest first), or with --datagram a frame a datagram. One
/// machine at a time; another that connects meanwhile is turned away, and when the first has gone
/// the next may come. Connections of a machine that is gone end when its successor resets them, or
/// by their timers. Serves in the foreground until SIGINT or SIGTERM. Needs no privileges.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("machine").required(true))]
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
  sluicegate serve --fd 3

Exit status: 0 if a signal ended it, or the machine that it ends with has gone; 1 if the guest can't
be served, 2 if the options are wrong.")]
pub(crate) struct ServeArgs {
    /// Where the machine connects to; only this user may
    #[arg(long, value_name = "PATH", group = "machine")]
    socket: Option<PathBuf>,
    /// A connected stream socket to serve, by its number; ends when the machine has gone
    #[arg(long, value_name = "N", group = "machine", conflicts_with = "datagram")]
    fd: Option<i32>,
    /// A frame a datagram, not a stream
    #[arg(long)]
    datagram: bool,
    /// End when the first machine has gone
    #[arg(long, conflicts_with = "datagram")]
    one_shot: bool,
    #[command(flatten)]
    link: LinkArgs,
    #[command(flatten)]
    ready: ReadyArgs,
}

/// Serves the socket until a signal ends it, or its one machine goes.
pub(crate) fn run(args: ServeArgs) -> ExitCode {
    failure::exit_code(serve(&args))
}

fn serve(args: &ServeArgs) -> Result<(), Failure> {
    // First, while nothing of ours can have the descriptor's number.
    let taken = args.fd.map(take_socket).transpose()?;
    let foreground = Foreground::begin(&args.ready, &args.link)?;
    // The socket's path goes with it.
    let folder = args.socket.as_deref().map(folder_of);
    let named = |error| format!("--socket {error}");
    let ended = match (&args.socket, taken) {
        (_, Some(stream)) => foreground.serve(StreamLink::connected(stream)?, folder),
        (Some(path), None) if args.datagram => {
            foreground.serve(DatagramLink::bind(path).map_err(named)?, folder)
        }
        (Some(path), None) => {
            let link = StreamLink::listen(path).map_err(named)?;
            foreground.serve(if args.one_shot { link.one_shot() } else { link }, folder)
        }
        (None, None) => Err("--socket PATH or --fd N: say where the machine is".into()),
    };
    let ends_with_peer = args.one_shot || args.fd.is_some();
    match ended {
        Err(failure) if ends_with_peer && is_gone(failure.as_ref()) => Ok(()),
        ended => ended,
    }
}

/// Whether the link ended as its peer went.
fn is_gone(failure: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    failure.downcast_ref::<Error>().is_some_and(Error::is_guest_gone)
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
