//! The host's own name server, which answers what a guest asks its gateway.
//!
//! Queries pass as they are: no name is judged here. RFC 1035 4.2.

use std::net::SocketAddr;

/// Where the resolver configuration of the host is.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The port of name servers.
pub(crate) const DNS_PORT: u16 = 53;

/// The first name server of the host, if it has one that can be reached from here.
pub(crate) fn of_host() -> Option<SocketAddr> {
    first(&std::fs::read(RESOLV_CONF).ok()?)
}

fn first(text: &[u8]) -> Option<SocketAddr> {
    let parsed = resolv_conf::Config::parse(text)
        .inspect_err(|error| tracing::warn!("{RESOLV_CONF}: {error}"))
        .ok()?;
    let ip = parsed.nameservers.first()?;
    Some(SocketAddr::new(ip.clone().into(), DNS_PORT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_server_answers() {
        let text = b"# comment\nsearch example\nnameserver 192.0.2.7\nnameserver 192.0.2.8\n";
        assert_eq!(first(text), Some("192.0.2.7:53".parse().unwrap()));
        assert_eq!(first(b"nameserver 2001:db8::1\n"), Some("[2001:db8::1]:53".parse().unwrap()));
        assert_eq!(first(b""), None);
        assert_eq!(first(b"nameserver not-an-address\n"), None);
    }
}
