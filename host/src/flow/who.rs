//! What a connection from outside may begin with: who came.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::ports::canonical;

/// Who came to which address of ours, as a connection begins with it: the binary header of the
/// PROXY protocol, version 2 (haproxy's proxy-protocol.txt, 2.2).
///
/// ```text
/// 0           12   13   14    16
/// | signature | 21 | 11 | len | peer's address | ours | peer's port | ours |   (IPv6: 21)
/// ```
pub(super) fn who_came(peer: SocketAddr, ours: SocketAddr) -> Bytes {
    const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
    const PROXIED: u8 = 0x21;
    let (peer, ours) = (canonical(peer), canonical(ours));
    let (family, addresses) = match (peer.ip(), ours.ip()) {
        (IpAddr::V4(peer), IpAddr::V4(ours)) => {
            (0x11_u8, [&peer.octets()[..], &ours.octets()].concat())
        }
        (peer, ours) => {
            let octets = |address: IpAddr| match address {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            (0x21, [octets(peer), octets(ours)].concat())
        }
    };
    let ports = [peer.port().to_be_bytes(), ours.port().to_be_bytes()].concat();
    // Two addresses and two ports.
    let len = u16::try_from(addresses.len() + ports.len()).unwrap_or(0).to_be_bytes();
    [&SIGNATURE[..], &[PROXIED, family], &len, &addresses, &ports].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_came_is_said_as_haproxy_says_it() {
        let [peer, ours] = ["203.0.113.9:5000", "127.0.0.1:8080"].map(|a| a.parse().unwrap());
        let said = who_came(peer, ours);
        let head = b"\x0d\x0a\x0d\x0a\x00\x0d\x0aQUIT\x0a\x21\x11\x00\x0c";
        let rest = [203, 0, 113, 9, 127, 0, 0, 1, 0x13, 0x88, 0x1f, 0x90];
        assert_eq!(said, [&head[..], &rest].concat());
        let disguised: SocketAddr = "[::ffff:203.0.113.9]:5000".parse().unwrap();
        assert_eq!(who_came(disguised, ours), said);
        let said = who_came("[2001:db8::9]:5000".parse().unwrap(), "[::1]:80".parse().unwrap());
        assert_eq!((said.len(), said[13], &said[14..16]), (52, 0x21, &[0, 36][..]));
    }
}
