//! What a command that `run` starts finds in its mount namespace in place of the host's files. Owns
//! how they are covered; must not know why.
//!
//! Everything is mounted in the calling process's own mount namespace: the host's files are not
//! touched, and nothing is left when the namespace's last process ends.

use std::io;
use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags};

/// Lets what is mounted from now on not appear in the host's namespace; mounts of the host go on
/// appearing here. The process must have a mount namespace of its own.
pub(super) fn keep_own() -> io::Result<()> {
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    Ok(rustix::mount::mount_change("/", flags)?)
}

/// Lets `directory` be an empty one, in memory.
pub(super) fn empty(directory: &str) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount("sluicegate", directory, "tmpfs", flags, Some(c"size=64k,mode=0755"))?)
}

/// Lets the file or socket at `path` be one in which nothing is, and at which nobody answers.
pub(super) fn cover(path: &Path) -> io::Result<()> {
    Ok(rustix::mount::mount_bind("/dev/null", path)?)
}
