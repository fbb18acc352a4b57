//! SOCKS version 5 for datagrams (RFC 1928, RFC 1929), which `tokio-socks` has not.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::io::Errno;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::{Target, unwanted};

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const PASSWORD: u8 = 2;
const ASSOCIATE: u8 = 3;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// Asks for an association over `control`; returns where datagrams are to be sent.
///
/// # Errors
/// The proxy says no, wants other credentials, or speaks something else.
pub(super) async fn associate(
    control: &mut TcpStream,
    user: Option<&(String, Zeroizing<String>)>,
) -> io::Result<SocketAddr> {
    let method = if user.is_some() { PASSWORD } else { NO_AUTHENTICATION };
    control.write_all(&[VERSION, 1, method]).await?;
    let mut chosen = [0; 2];
    control.read_exact(&mut chosen).await?;
    if chosen != [VERSION, method] {
        return Err(unwanted());
    }
    if let Some((name, password)) = user {
        // Both have 255 bytes at most, which was checked.
        let len = |text: &str| u8::try_from(text.len()).map_err(|_| unwanted());
        let mut request = Zeroizing::new(vec![1, len(name)?]);
        request.extend_from_slice(name.as_bytes());
        request.push(len(password)?);
        request.extend_from_slice(password.as_bytes());
        control.write_all(&request).await?;
        let mut answer = [0; 2];
        control.read_exact(&mut answer).await?;
        if answer[1] != 0 {
            return Err(unwanted());
        }
    }
    // From which address datagrams will come is not known yet (RFC 1928 4).
    control.write_all(&[VERSION, ASSOCIATE, 0, IPV4, 0, 0, 0, 0, 0, 0]).await?;
    let mut head = [0; 4];
    control.read_exact(&mut head).await?;
    match head {
        [VERSION, 0, _, kind] => read_address(control, kind).await,
        [VERSION, 2, ..] => Err(Errno::ACCESS.into()),
        [VERSION, 3, ..] => Err(Errno::NETUNREACH.into()),
        [VERSION, 4, ..] => Err(Errno::HOSTUNREACH.into()),
        _ => Err(Errno::CONNREFUSED.into()),
    }
}

async fn read_address(control: &mut TcpStream, kind: u8) -> io::Result<SocketAddr> {
    let address: IpAddr = match kind {
        IPV4 => Ipv4Addr::from_bits(control.read_u32().await?).into(),
        IPV6 => Ipv6Addr::from_bits(control.read_u128().await?).into(),
        // A relay that is named would have to be resolved by somebody.
        _ => return Err(Errno::NETUNREACH.into()),
    };
    Ok(SocketAddr::new(address, control.read_u16().await?))
}

impl Target {
    /// `payload` as it goes to the relay.
    ///
    /// ```text
    /// 0     2   3     4
    /// | 0 0 | 0 | kind | address | port | payload |
    /// ```
    pub(crate) fn wrap(&self, payload: &[u8]) -> Vec<u8> {
        let mut datagram = vec![0, 0, 0];
        let port = match self {
            Self::Address(SocketAddr::V4(to)) => {
                datagram.push(IPV4);
                datagram.extend_from_slice(&to.ip().octets());
                to.port()
            }
            Self::Address(SocketAddr::V6(to)) => {
                datagram.push(IPV6);
                datagram.extend_from_slice(&to.ip().octets());
                to.port()
            }
            Self::Name(name, port) => {
                datagram.push(NAME);
                // Names have fewer than 256 bytes.
                datagram.push(u8::try_from(name.len()).unwrap_or(0));
                datagram.extend_from_slice(name.as_bytes());
                *port
            }
        };
        datagram.extend_from_slice(&port.to_be_bytes());
        datagram.extend_from_slice(payload);
        datagram
    }

    /// The payload of `datagram` from the relay, if it came from here and is whole (RFC 1928 7).
    pub(crate) fn unwrap<'d>(&self, datagram: &'d [u8]) -> Option<&'d [u8]> {
        let (&[_, _, fragment, kind], rest) = datagram.split_first_chunk::<4>()?;
        let (address, rest): (IpAddr, _) = match kind {
            IPV4 => {
                let (octets, rest) = rest.split_first_chunk::<4>()?;
                (Ipv4Addr::from(*octets).into(), rest)
            }
            IPV6 => {
                let (octets, rest) = rest.split_first_chunk::<16>()?;
                (Ipv6Addr::from(*octets).into(), rest)
            }
            _ => return None,
        };
        let (port, payload) = rest.split_first_chunk::<2>()?;
        let from = SocketAddr::new(address.to_canonical(), u16::from_be_bytes(*port));
        let is_from_here = match self {
            Self::Address(to) => SocketAddr::new(to.ip().to_canonical(), to.port()) == from,
            Self::Name(_, port) => *port == from.port(),
        };
        (fragment == 0 && is_from_here).then_some(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_is_taken_from_where_it_was_sent_and_whole() {
        for to in ["192.0.2.1:53", "[2001:db8::1]:53"] {
            let target = Target::Address(to.parse().unwrap());
            let wrapped = target.wrap(b"ask");
            assert_eq!(target.unwrap(&wrapped), Some(&b"ask"[..]));
            let elsewhere = Target::Address("192.0.2.2:53".parse().unwrap());
            assert_eq!(elsewhere.unwrap(&wrapped), None);
            let mut piece = wrapped.clone();
            piece[2] = 1;
            assert_eq!(target.unwrap(&piece), None);
            for len in 0..wrapped.len() - 3 {
                assert_eq!(target.unwrap(&wrapped[..len]), None, "{len}");
            }
        }
        let named = Target::Name("one.test".to_owned(), 53);
        assert_eq!(named.wrap(b"x"), b"\0\0\0\x03\x08one.test\0\x35x");
        let answer = Target::Address("192.0.2.9:53".parse().unwrap()).wrap(b"y");
        assert_eq!(named.unwrap(&answer), Some(&b"y"[..]));
    }
}
