//! The host's own addresses, which its services listen on.
//!
//! Owns one question to the kernel; must not know what the answer is for. It is about the network
//! namespace of the calling thread, which must not be one of an asynchronous runtime.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};

/// The kernel answers within this time.
const ANSWER_SECONDS_MAX: Duration = Duration::from_secs(5);

/// The addresses of every interface, of either family.
///
/// # Errors
/// There is no netlink socket to be had, or the kernel refused to answer.
pub(crate) fn of_host() -> io::Result<Vec<IpAddr>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (connection, netlink, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        let answer = netlink.address().get().execute();
        let own = answer.try_filter_map(|message| async move { Ok(own(&message)) }).try_collect();
        match tokio::time::timeout(ANSWER_SECONDS_MAX, own).await {
            Ok(Ok(own)) => Ok(own),
            Ok(Err(rtnetlink::Error::NetlinkError(message))) => Err(message.to_io()),
            Ok(Err(error)) => Err(io::Error::other(error)),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    })
}

/// The address that `message` is about: on a link with one peer, the other one is the peer's.
fn own(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| {
        if let AddressAttribute::Local(address) = attribute { Some(*address) } else { None }
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| {
            if let AddressAttribute::Address(address) = attribute { Some(*address) } else { None }
        })
    })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn the_loopback_addresses_are_the_hosts_own() {
        let own = of_host().unwrap();
        assert!(own.contains(&Ipv4Addr::LOCALHOST.into()), "{own:?}");
        if std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
            assert!(own.contains(&Ipv6Addr::LOCALHOST.into()), "{own:?}");
        }
    }

    #[test]
    fn of_two_ends_the_own_is_taken() {
        let [own_end, peer] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        let mut message = AddressMessage::default();
        message.attributes = vec![AddressAttribute::Address(peer)];
        assert_eq!(own(&message), Some(peer));
        message.attributes.push(AddressAttribute::Local(own_end));
        assert_eq!(own(&message), Some(own_end));
    }
}
