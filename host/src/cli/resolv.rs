//! The `/etc/resolv.conf` of a command that `run` starts. Owns what stands in its place within the
//! command's mount namespace (`mounts.rs`); must not know of links or networks.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rustix::mount::UnmountFlags;

use super::mounts;

const FILE: &str = "/etc/resolv.conf";

/// Where the host's name services listen on Unix sockets, which no network namespace closes: what
/// is asked of them would get out past the guest's network.
const NAME_SERVICES: [&str; 2] = ["/run/systemd/resolve", "/run/nscd"];

/// A directory that is sure to exist, covered for a moment while the file is made in it.
const STAGE: &str = "/tmp";

/// Makes `/etc/resolv.conf` name `servers`, and nothing else, for this process and those that it
/// starts. What this mounts must stay in a mount namespace of its own.
pub(super) fn point_at(servers: &[IpAddr]) -> io::Result<()> {
    // First, whatever comes of the file.
    for directory in NAME_SERVICES.iter().filter(|path| Path::new(path).is_dir()) {
        mounts::empty(directory)?;
    }
    let target = real_path(Path::new(FILE))?;
    if NAME_SERVICES.iter().any(|directory| target.starts_with(directory)) {
        return std::fs::write(target, text(servers));
    }
    mounts::empty(STAGE)?;
    let covered = cover(&target, servers);
    rustix::mount::unmount(STAGE, UnmountFlags::DETACH)?;
    covered
}

fn cover(target: &Path, servers: &[IpAddr]) -> io::Result<()> {
    let staged = Path::new(STAGE).join("resolv.conf");
    std::fs::write(&staged, text(servers))?;
    Ok(rustix::mount::mount_bind(&staged, target)?)
}

/// Where `path` leads, also if it is a symbolic link to a file that does not exist.
fn real_path(path: &Path) -> io::Result<PathBuf> {
    path.canonicalize().or_else(|missing| {
        let link = path.parent().unwrap_or(path).join(path.read_link()?);
        match (link.parent(), link.file_name()) {
            (Some(directory), Some(name)) => Ok(directory.canonicalize()?.join(name)),
            _ => Err(missing),
        }
    })
}

fn text(servers: &[IpAddr]) -> String {
    servers.iter().map(|server| format!("nameserver {server}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dangling_link_leads_into_the_directory_that_exists() {
        let directory = std::env::temp_dir().join(format!("sluicegate-{}", std::process::id()));
        std::fs::create_dir_all(directory.join("a")).unwrap();
        let link = directory.join("link");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink("a/../a/missing", &link).unwrap();
        let real = directory.canonicalize().unwrap();
        assert_eq!(real_path(&link).unwrap(), real.join("a/missing"));
        assert!(real_path(&directory.join("nothing")).is_err());
        std::fs::remove_dir_all(directory).unwrap();
    }
}
