//! A Unix socket at a path: made for this user alone, and removed at the end.

use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use socket2::{Domain, SockAddr, Socket, Type};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 16;
/// Bytes of the longest path of a socket (unix(7): 108, with a zero at the end).
const PATH_BYTES_MAX: usize = 107;

/// The path of a socket of ours. It is removed with the value, unless another socket is there by
/// then.
#[derive(Debug)]
pub struct SocketPath {
    path: PathBuf,
    /// Which file it is.
    device: u64,
    inode: u64,
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        let is_ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|file| (file.dev(), file.ino()) == (self.device, self.inode));
        if is_ours {
            // Nobody is there to be told.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Binds a non-blocking socket at `path` with mode 0600. A socket that is left there, and that
/// nobody has, is replaced.
pub(super) fn bind(path: &Path, kind: Type) -> io::Result<(Socket, SocketPath)> {
    let bytes = path.as_os_str().len();
    if bytes > PATH_BYTES_MAX {
        let why = format!("a socket's path has {PATH_BYTES_MAX} bytes at most, and this {bytes}");
        return Err(explain(path, &io::Error::new(ErrorKind::InvalidInput, why)));
    }
    let socket = Socket::new(Domain::UNIX, kind.nonblocking().cloexec(), None)?;
    // The file is made with the socket's own mode, so that nobody else ever finds it open.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    let address = SockAddr::unix(path).map_err(|error| explain(path, &error))?;
    let bound = match socket.bind(&address) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            remove_stale(path)?;
            socket.bind(&address)
        }
        done => done,
    };
    bound.map_err(|error| explain(path, &error))?;
    let file = std::fs::symlink_metadata(path)?;
    let path = SocketPath { path: path.to_owned(), device: file.dev(), inode: file.ino() };
    Ok((socket, path))
}

/// Listens at `path`, which only this user may connect to; non-blocking.
///
/// # Errors
/// Something else is at the path, or another program listens there; or it can't be made. The path
/// is in the text.
pub fn listen(path: &Path) -> io::Result<(UnixListener, SocketPath)> {
    let (socket, path) = bind(path, Type::STREAM)?;
    socket.listen(BACKLOG)?;
    Ok((socket.into(), path))
}

fn explain(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Removes what is at `path` if it is a socket that nobody has.
fn remove_stale(path: &Path) -> io::Result<()> {
    let in_use = |what: &str| {
        Err(io::Error::new(ErrorKind::AddrInUse, format!("{}: {what}", path.display())))
    };
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return in_use("something else than a socket is there");
    }
    // A datagram socket is told apart from a stream's before anybody there hears of it.
    let is_refused = |error: io::Error| error.kind() == ErrorKind::ConnectionRefused;
    if !UnixDatagram::unbound()?.connect(path).err().is_some_and(is_refused) {
        return in_use("another program listens there");
    }
    std::fs::remove_file(path)
}
