//! Connects through another: HTTP's CONNECT, SOCKS4 and SOCKS5.
//!
//! Owns what is said to a proxy, and what its answers mean; must not know flows. SOCKS is
//! `tokio-socks`, HTTP is hyper. Each step has ten seconds, an HTTP head 8 KiB. The password is in
//! no error and no log.

use core::fmt;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::{HOST, HeaderValue, PROXY_AUTHORIZATION};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use sluicegate_core::ConfigError;
use socket2::Type;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_socks::TargetAddr;
use tokio_socks::tcp::{Socks4Stream, Socks5Stream};
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::config::secrets::SecretSource;
use crate::config::{
    CREDENTIAL_BYTES_MAX, HostPattern, ProxyConfig, ProxyException, ProxyProtocol,
};
use crate::outbound::Outbound;

mod socks;

/// A step takes so long at most.
const STEP_MAX: Duration = Duration::from_secs(10);
/// Bytes of the longest head of an answer to CONNECT.
const HEAD_BYTES_MAX: usize = 8192;

/// Where a connection goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Address(SocketAddr),
    Name(String, u16),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// A proxy, ready to be asked.
pub(crate) struct Proxy {
    config: ProxyConfig,
    /// From where it is asked.
    outbound: Outbound,
    /// A user and its password.
    user: Option<(String, Zeroizing<String>)>,
}

impl Proxy {
    /// As `config` has it; the password is read where it is.
    ///
    /// # Errors
    /// The password is not to be had.
    pub(crate) fn new(config: ProxyConfig) -> Result<Self, ConfigError> {
        let user = config.credentials.as_ref().map(|credentials| {
            let SecretSource::Env { var } = &credentials.password;
            let password = password(var, std::env::var(var).ok())?;
            Ok((credentials.username.clone(), password))
        });
        Ok(Self { user: user.transpose()?, config, outbound: Outbound::default() })
    }

    /// The same, asked from `outbound`.
    pub(crate) fn asked_from(self, outbound: Outbound) -> Self {
        Self { outbound, ..self }
    }

    /// Whether `address` is reached without a proxy: for itself, or since every one of `names`, by
    /// which it may be meant, is one that is. Of two at one address the other is to go through the
    /// proxy, and who can't say which it is that the guest means lets nothing past.
    pub(crate) fn excepts<'a>(
        &self,
        address: IpAddr,
        names: impl Iterator<Item = &'a str>,
    ) -> bool {
        let exceptions = &self.config.no_proxy;
        let is_meant = exceptions.iter().any(|exception| match exception {
            ProxyException::Network(network) => network.contains(address.to_canonical()),
            ProxyException::Host(pattern) => *pattern == HostPattern::Any,
        });
        let mut names = names.map(|name| {
            exceptions.iter().any(|exception| match exception {
                ProxyException::Network(_) => false,
                ProxyException::Host(pattern) => pattern.matches(name),
            })
        });
        is_meant || names.next().is_some_and(|first| first && names.all(|is_in| is_in))
    }

    /// Whom to ask for a connection to `address`; `name` is its own, where the proxy may look for
    /// the address.
    pub(crate) fn target(&self, address: SocketAddr, name: Option<&str>) -> Target {
        // SOCKS4 knows addresses only.
        let sends = self.config.send_names && self.config.protocol != ProxyProtocol::Socks4;
        match name.filter(|_| sends) {
            Some(name) => Target::Name(name.to_owned(), address.port()),
            None => Target::Address(address),
        }
    }

    /// Connects to `target`. Beside the connection come bytes that the server has said already.
    ///
    /// # Errors
    /// What the guest would have seen of `target`, as far as the proxy says it.
    pub(crate) async fn dial(&self, target: &Target) -> io::Result<(TcpStream, Bytes)> {
        let stream = within(self.outbound.connect(self.config.address)).await?;
        stream.set_nodelay(true)?;
        socket2::SockRef::from(&stream).set_keepalive(true)?;
        let dialled = match self.config.protocol {
            ProxyProtocol::HttpConnect => within(self.connect(stream, target)).await,
            ProxyProtocol::Socks4 => within(self.socks4(stream, target)).await,
            ProxyProtocol::Socks5 => within(self.socks5(stream, target)).await,
        };
        dialled.inspect_err(|error| {
            tracing::debug!(proxy = %self.config.address, %target, %error, "a proxy said no");
        })
    }

    /// Whether it takes datagrams.
    pub(crate) fn takes_datagrams(&self) -> bool {
        self.config.protocol == ProxyProtocol::Socks5
    }

    /// Asks a SOCKS5 proxy to pass datagrams on (RFC 1928 4, 7): returns the connection that the
    /// association lasts as long as, and a socket to the proxy's relay.
    ///
    /// # Errors
    /// What the guest would have seen.
    pub(crate) async fn associate(&self) -> io::Result<(TcpStream, UdpSocket)> {
        let mut control = within(self.outbound.connect(self.config.address)).await?;
        let relay = within(socks::associate(&mut control, self.user.as_ref())).await?;
        let relay = relay_address(relay, self.config.address.ip())?;
        let socket = self.outbound.socket(relay, Type::DGRAM, None)?;
        socket.connect(&relay.into())?;
        Ok((control, UdpSocket::from_std(socket.into())?))
    }

    async fn socks4(&self, stream: TcpStream, target: &Target) -> io::Result<(TcpStream, Bytes)> {
        let target = match target {
            Target::Address(SocketAddr::V4(address)) => TargetAddr::Ip((*address).into()),
            Target::Address(SocketAddr::V6(_)) | Target::Name(..) => {
                return Err(Errno::NETUNREACH.into());
            }
        };
        let dialled = match &self.config.user_id {
            Some(id) => Socks4Stream::connect_with_userid_and_socket(stream, target, id).await,
            None => Socks4Stream::connect_with_socket(stream, target).await,
        };
        Ok((dialled.map_err(meant)?.into_inner(), Bytes::new()))
    }

    async fn socks5(&self, stream: TcpStream, target: &Target) -> io::Result<(TcpStream, Bytes)> {
        let target = match target {
            Target::Address(address) => TargetAddr::Ip(*address),
            Target::Name(name, port) => TargetAddr::Domain(name.as_str().into(), *port),
        };
        let dialled = match &self.user {
            Some((name, password)) => {
                Socks5Stream::connect_with_password_and_socket(stream, target, name, password).await
            }
            None => Socks5Stream::connect_with_socket(stream, target).await,
        };
        Ok((dialled.map_err(meant)?.into_inner(), Bytes::new()))
    }

    async fn connect(&self, stream: TcpStream, target: &Target) -> io::Result<(TcpStream, Bytes)> {
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let connection = tokio::spawn(connection.with_upgrades());
        let authority = target.to_string();
        let mut request = Request::builder()
            .method(Method::CONNECT)
            .uri(&authority)
            .header(HOST, &authority)
            .body(Empty::<Bytes>::new())
            .map_err(io::Error::other)?;
        if let Some((name, password)) = &self.user {
            let pair = Zeroizing::new(format!("{name}:{}", password.as_str()));
            let basic = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
            let mut basic = HeaderValue::from_str(&basic).map_err(io::Error::other)?;
            basic.set_sensitive(true);
            request.headers_mut().insert(PROXY_AUTHORIZATION, basic);
        }
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status();
        if !status.is_success() {
            connection.abort();
            return Err(refused(status));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(io::Error::other)?;
        let parts = upgraded
            .downcast::<TokioIo<TcpStream>>()
            .map_err(|_| io::Error::other("the connection is another"))?;
        Ok((parts.io.into_inner(), parts.read_buf))
    }
}

/// The password that is the value of the variable `var`.
fn password(var: &str, value: Option<String>) -> Result<Zeroizing<String>, ConfigError> {
    let value = value.map(Zeroizing::new);
    let fits = |value: &Zeroizing<String>| (1..=CREDENTIAL_BYTES_MAX).contains(&value.len());
    value.filter(fits).ok_or_else(|| {
        let expected = "a variable of this process's environment with 1 to 255 bytes";
        ConfigError::new("outbound_proxy.credentials.password.var", var, expected)
    })
}

/// `step`, or its end after its time.
async fn within<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(STEP_MAX, step).await.unwrap_or_else(|_| Err(Errno::TIMEDOUT.into()))
}

/// The proxy takes nothing of whom we are. That is said once a minute: a guest that asks for
/// connections on and on is to fill nobody's log.
fn unwanted() -> io::Error {
    /// Begins when it is said.
    static SAID: Mutex<Option<Clock>> = Mutex::new(None);
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.is_none_or(|since| since.now().as_millis() > 60_000) {
        *said = Some(Clock::new());
        tracing::warn!("the outbound proxy wants other credentials");
    }
    Errno::ACCESS.into()
}

/// What the guest would have seen where a proxy answers CONNECT so.
fn refused(status: StatusCode) -> io::Error {
    match status {
        // tinyproxy says the second of a password that is wrong.
        StatusCode::PROXY_AUTHENTICATION_REQUIRED | StatusCode::UNAUTHORIZED => unwanted(),
        StatusCode::FORBIDDEN => Errno::ACCESS.into(),
        StatusCode::GATEWAY_TIMEOUT => Errno::TIMEDOUT.into(),
        _ => Errno::CONNREFUSED.into(),
    }
}

/// The same for an answer of SOCKS.
fn meant(error: tokio_socks::Error) -> io::Error {
    use tokio_socks::Error;
    match error {
        Error::Io(error) if error.kind() == ErrorKind::UnexpectedEof => Errno::CONNREFUSED.into(),
        Error::Io(error) => error,
        Error::NetworkUnreachable => Errno::NETUNREACH.into(),
        Error::HostUnreachable | Error::TtlExpired => Errno::HOSTUNREACH.into(),
        Error::ConnectionNotAllowedByRuleset => Errno::ACCESS.into(),
        Error::AddressTypeNotSupported => Errno::NETUNREACH.into(),
        Error::NoAcceptableAuthMethods
        | Error::PasswordAuthFailure(_)
        | Error::AuthorizationRequired
        | Error::IdentdAuthFailure
        | Error::InvalidUserIdAuthFailure => unwanted(),
        Error::ParseError(_)
        | Error::InvalidTargetAddress(_)
        | Error::ProxyServerUnreachable
        | Error::InvalidResponseVersion
        | Error::UnknownAuthMethod
        | Error::GeneralSocksServerFailure
        | Error::ConnectionRefused
        | Error::CommandNotSupported
        | Error::UnknownError
        | Error::InvalidReservedByte
        | Error::UnknownAddressType
        | Error::InvalidAuthValues(_) => Errno::CONNREFUSED.into(),
    }
}

/// Where datagrams go for a `proxy` that `said` so. Where that is no address of its own, it is
/// where it is: its loopback is not this host's.
///
/// # Errors
/// It is nobody's.
fn relay_address(said: SocketAddr, proxy: IpAddr) -> io::Result<SocketAddr> {
    let address = said.ip().to_canonical();
    if address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return Err(io::Error::new(ErrorKind::InvalidData, "a relay at an address of many"));
    }
    let is_elsewhere = address.is_loopback() && !proxy.to_canonical().is_loopback();
    let is_own = !address.is_unspecified() && !is_elsewhere;
    Ok(SocketAddr::new(if is_own { said.ip() } else { proxy }, said.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_leads_datagrams_to_no_loopback_but_its_own() {
        let (near, far) = ("127.0.0.1".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let at = |said: &str, proxy| {
            relay_address(said.parse().unwrap(), proxy).ok().map(|relay| relay.to_string())
        };
        for (said, proxy, relay) in [
            ("192.0.2.9:7", far, Some("192.0.2.9:7")),
            ("0.0.0.0:7", far, Some("192.0.2.1:7")),
            ("127.0.0.1:7", far, Some("192.0.2.1:7")),
            ("[::ffff:127.0.0.1]:7", far, Some("192.0.2.1:7")),
            ("[::1]:7", far, Some("192.0.2.1:7")),
            ("127.0.0.2:7", near, Some("127.0.0.2:7")),
            ("224.0.0.251:7", far, None),
            ("255.255.255.255:7", far, None),
            ("[ff02::1]:7", near, None),
        ] {
            assert_eq!(at(said, proxy).as_deref(), relay, "{said}");
        }
    }

    fn proxy(protocol: ProxyProtocol, exceptions: &[&str]) -> Proxy {
        let mut config = ProxyConfig::new(protocol, "127.0.0.1:1".parse().unwrap());
        config.no_proxy = exceptions.iter().map(|text| text.parse().unwrap()).collect();
        Proxy::new(config).unwrap()
    }

    #[test]
    fn a_password_that_no_proxy_could_be_told_is_refused_and_not_shown() {
        assert_eq!(*password("P", Some("x".repeat(255))).unwrap(), "x".repeat(255));
        for wrong in [None, Some(String::new()), Some("x".repeat(256))] {
            let error = password("P", wrong).unwrap_err().to_string();
            let expected = "outbound_proxy.credentials.password.var: P is not a variable of this \
                process's environment with 1 to 255 bytes";
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn a_name_is_sent_where_it_is_known_and_can_be() {
        let to: SocketAddr = "192.0.2.1:443".parse().unwrap();
        let named = Target::Name("one.test".to_owned(), 443);
        let bare = Target::Address(to);
        for protocol in [ProxyProtocol::Socks5, ProxyProtocol::HttpConnect] {
            assert_eq!(proxy(protocol, &[]).target(to, Some("one.test")), named);
            assert_eq!(proxy(protocol, &[]).target(to, None), bare);
        }
        assert_eq!(proxy(ProxyProtocol::Socks4, &[]).target(to, Some("one.test")), bare);
        let mut quiet = proxy(ProxyProtocol::Socks5, &[]);
        quiet.config.send_names = false;
        assert_eq!(quiet.target(to, Some("one.test")), bare);
    }

    #[test]
    fn what_is_excepted_is_reached_without_it() {
        let exceptions = ["10.0.0.0/8", "::1", "*.in.test", "one.test"];
        let proxied = proxy(ProxyProtocol::Socks5, &exceptions);
        for (address, names, is_excepted) in [
            ("10.1.2.3", &[][..], true),
            ("::ffff:10.1.2.3", &["other.test"], true),
            ("11.1.2.3", &[], false),
            ("::1", &[], true),
            ("192.0.2.1", &["a.in.test"], true),
            ("192.0.2.1", &["in.testing"], false),
            ("192.0.2.1", &["a.in.test", "one.test", "b.in.test"], true),
            ("192.0.2.1", &["a.in.test", "other.test"], false),
            ("192.0.2.1", &["other.test", "a.in.test"], false),
        ] {
            let address = address.parse().unwrap();
            let is = |proxy: &Proxy| proxy.excepts(address, names.iter().copied());
            assert_eq!(is(&proxied), is_excepted, "{address} {names:?}");
            assert!(is(&proxy(ProxyProtocol::Socks5, &["*"])), "{address}: all that there is");
        }
    }
}
