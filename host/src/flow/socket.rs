//! Where host sockets go, and what their errors mean to a guest.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mio::Registry;
use rustix::io::Errno;
use sluicegate_core::{Outside, Refusal};

use crate::outbound::Outbound;

/// Where to connect: the first choice, and one to try where that is refused. For names no socket is
/// opened.
pub(super) fn addresses(to: Outside) -> (SocketAddr, Option<SocketAddr>) {
    match to {
        Outside::Remote(address) | Outside::Names(address) => (address, None),
        Outside::HostLoopback(address) => {
            let v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port());
            let v6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), address.port());
            if address.is_ipv4() { (v4, Some(v6)) } else { (v6, Some(v4)) }
        }
    }
}

/// What sockets of flows are opened with.
#[derive(Clone, Copy)]
pub(super) struct Opener<'f> {
    /// Where they are watched.
    pub(super) registry: &'f Registry,
    /// From where they go on.
    pub(super) outbound: &'f Outbound,
}

/// Whether a datagram did not leave by lack of room alone.
pub(super) fn is_full(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::AGAIN | Errno::NOBUFS))
}

/// What a guest is told of `error`.
pub(super) fn refusal(error: &io::Error) -> Refusal {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::CONNREFUSED | Errno::CONNRESET) => Refusal::Refused,
        Some(
            Errno::NETUNREACH
            | Errno::ADDRNOTAVAIL
            | Errno::AFNOSUPPORT
            | Errno::NETDOWN
            | Errno::NODEV,
        ) => Refusal::NetUnreachable,
        Some(Errno::HOSTUNREACH | Errno::HOSTDOWN) => Refusal::HostUnreachable,
        Some(Errno::TIMEDOUT) => Refusal::TimedOut,
        Some(Errno::ACCESS | Errno::PERM) => Refusal::Forbidden,
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::AGAIN) => {
            Refusal::Exhausted
        }
        Some(_) | None => Refusal::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_is_the_loopback_of_its_family_and_then_of_the_other() {
        let gateway: SocketAddr = "100.96.0.1:80".parse().unwrap();
        let (first, second) = addresses(Outside::HostLoopback(gateway));
        assert_eq!(first.to_string(), "127.0.0.1:80");
        assert_eq!(second.unwrap().to_string(), "[::1]:80");
    }

    /// The highest number of an error on Linux (`EHWPOISON`).
    const ERRNO_MAX: i32 = 133;

    /// What errors mean that do not mean that somebody refused.
    const MEANINGS: [(Refusal, &[Errno]); 5] = [
        (
            Refusal::NetUnreachable,
            &[
                Errno::NETUNREACH,
                Errno::ADDRNOTAVAIL,
                Errno::AFNOSUPPORT,
                Errno::NETDOWN,
                Errno::NODEV,
            ],
        ),
        (Refusal::HostUnreachable, &[Errno::HOSTUNREACH, Errno::HOSTDOWN]),
        (Refusal::TimedOut, &[Errno::TIMEDOUT]),
        (Refusal::Forbidden, &[Errno::ACCESS, Errno::PERM]),
        (
            Refusal::Exhausted,
            &[Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::AGAIN],
        ),
    ];

    #[test]
    fn every_error_becomes_what_the_guest_would_have_seen_itself() {
        for raw in 1..=ERRNO_MAX {
            let errno = Errno::from_raw_os_error(raw);
            let mut meanings = MEANINGS.iter().filter(|(_, errnos)| errnos.contains(&errno));
            let expected = meanings.next().map_or(Refusal::Refused, |(refusal, _)| *refusal);
            assert_eq!(refusal(&errno.into()), expected, "{errno}");
        }
        assert_eq!(refusal(&io::Error::other("one of ours")), Refusal::Refused);
    }
}
