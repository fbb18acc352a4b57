//! The name servers of this host, as its resolver configuration has them at the time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sluicegate_core::limits::DNS_PORT;

/// Where the resolver configuration of the host is.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Name servers of it that are asked.
const SERVERS_MAX: usize = 8;
/// A configuration is at most this long.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// What changes when a file does.
type Stamp = (u64, u64, i64, i64);

/// The servers, read again whenever the file has changed.
pub(super) struct HostServers {
    file: PathBuf,
    stamp: Option<Stamp>,
    servers: Vec<SocketAddr>,
}

impl HostServers {
    pub(super) fn new() -> Self {
        Self::of(Path::new(RESOLV_CONF))
    }

    fn of(file: &Path) -> Self {
        Self { file: file.to_owned(), stamp: None, servers: vec![local()] }
    }

    /// The servers, in their order. A file that is gone or can't be read changes nothing.
    pub(super) fn now(&mut self) -> &[SocketAddr] {
        let stamp = std::fs::metadata(&self.file)
            .ok()
            .map(|file| (file.ino(), file.size(), file.mtime(), file.mtime_nsec()));
        if stamp.is_some() && stamp != self.stamp {
            self.stamp = stamp;
            if let Some(servers) = read(&self.file) {
                self.servers = servers;
            }
        }
        &self.servers
    }
}

/// What is asked where nothing is configured (resolv.conf(5)).
fn local() -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), DNS_PORT)
}

fn read(file: &Path) -> Option<Vec<SocketAddr>> {
    use std::io::Read;
    let mut text = Vec::new();
    std::fs::File::open(file).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut text).ok()?;
    let parsed = resolv_conf::Config::parse(&text)
        .inspect_err(|error| tracing::warn!(%error, path = %file.display(), "name servers"))
        .ok()?;
    let addresses = parsed.nameservers.iter().map(|ip| IpAddr::from(ip.clone()));
    let mut servers: Vec<_> =
        addresses.take(SERVERS_MAX).map(|ip| SocketAddr::new(ip, DNS_PORT)).collect();
    if servers.is_empty() {
        servers.push(local());
    }
    Some(servers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_counts_at_once_and_a_broken_one_does_not() {
        let file = std::env::temp_dir().join(format!("sluicegate-servers-{}", std::process::id()));
        let mut servers = HostServers::of(&file);
        let mut now = |text: Option<&str>| {
            let _ = std::fs::remove_file(&file);
            if let Some(text) = text {
                std::fs::write(&file, text).unwrap();
            }
            servers.now().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(now(None), ["127.0.0.1:53"]);
        let two = "# comment\nsearch example\nnameserver 192.0.2.7\nnameserver 2001:db8::1\n";
        assert_eq!(now(Some(two)), ["192.0.2.7:53", "[2001:db8::1]:53"]);
        assert_eq!(now(None), ["192.0.2.7:53", "[2001:db8::1]:53"]);
        assert_eq!(now(Some("nameserver not-an-address\n")).len(), 2);
        assert_eq!(now(Some("nameserver 192.0.2.9\n")), ["192.0.2.9:53"]);
        assert_eq!(now(Some("\n")), ["127.0.0.1:53"]);
        std::fs::remove_file(&file).unwrap();
    }
}
