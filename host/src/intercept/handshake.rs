//! The handshakes: the guest's hello first, the server's next, the guest's last.
//!
//! So the guest gets the protocol (ALPN, RFC 7301) that the server has chosen of those it offered,
//! and learns in an alert why a server could not be spoken to. A server that nobody can connect to
//! makes the guest's connection end with a reset, as it would have seen without us.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::AlertDescription;
use rustls::pki_types::ServerName;
use rustls::server::{Acceptor, ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sluicegate_core::Beginning;
use sluicegate_core::limits::TCP_CONNECT_MS_MAX;
use tokio::io::{AsyncWriteExt, BufReader, DuplexStream, copy, split};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, TlsConnector, server};

use super::http::Exchange;
use super::pipe::{Broken, TaskEnd};
use super::upstream::Upstream;
use super::{Call, Interceptor, alert, http, sniff};
use crate::events::Incident;
use crate::outbound::Outbound;
use crate::service::certs::Identity;

/// A handshake takes so long at most.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// A server is connected to by then.
const CONNECT_MAX: Duration = Duration::from_millis(TCP_CONNECT_MS_MAX);
/// Protocols that a guest may offer; who offers more has but these.
const PROTOCOLS_MAX: usize = 32;

/// Bytes that are read at a time: rustls alone would ask for 4 KiB.
const READ_BYTES: usize = 32 * 1024;

/// A guest that is told that its connection ends has so long to end it, too.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// Names over TLS in a handshake (RFC 7858, in IANA's registry of RFC 7301 6).
const DOT: &[u8] = b"dot";
/// HTTP/2 in a handshake (RFC 9113 3.2).
pub(super) const H2: &[u8] = b"h2";
/// HTTP/1.1 likewise (RFC 7301 6).
pub(super) const HTTP_1_1: &[u8] = b"http/1.1";

/// The guest's side of a connection.
pub(super) type Guest = server::TlsStream<Heard>;

/// Its side of the pipe.
type Heard = BufReader<TaskEnd>;

/// A certificate for one handshake.
#[derive(Debug)]
struct Leaf(Arc<CertifiedKey>);

impl ResolvesServerCert for Leaf {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Serves one connection of the guest.
pub(super) async fn run(
    interceptor: Arc<Interceptor>,
    call: Call,
    guest: TaskEnd,
) -> Result<(), Broken> {
    if call.begins != Beginning::Tls {
        let dialled = dial(&interceptor, &call).await?;
        return relay(interceptor, call, guest, dialled).await;
    }
    let began = interceptor.lasting.reporter.now();
    let Some((hello, offered)) = hear(&call, guest).await? else { return Ok(()) };
    if call.is_denied {
        let chosen = offered.into_iter().find(|offer| offer == HTTP_1_1 || offer == H2);
        let guest = accept_guest(&interceptor, &call, hello, chosen.as_deref()).await?;
        return http::deny(&interceptor, &call, guest).await;
    }
    let (upstream, early) = dial(&interceptor, &call).await?;
    if !early.is_empty() {
        return Err(Broken); // a server of TLS does not speak first
    }
    let checked = interceptor.trust.of(&call.identity());
    let is_verified = checked.is_verified;
    let mut config = checked.config;
    config.alpn_protocols = offered;
    let connector = TlsConnector::from(Arc::new(config));
    let upstream = BufReader::with_capacity(READ_BYTES, upstream);
    let connecting = connector.connect(server_name(&call.identity())?, upstream);
    let connected = timeout(HANDSHAKE_MAX, connecting).await;
    let upstream = match connected.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())) {
        Ok(upstream) => upstream,
        Err(error) => {
            let problem = error.to_string();
            interceptor.lasting.reporter.tell(&call, Incident::Server { problem });
            return refuse(hello, alert::of(&error)).await;
        }
    };
    let chosen = upstream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    let guest = accept_guest(&interceptor, &call, hello, chosen.as_deref()).await?;
    interceptor.lasting.reporter.note_handshakes(began);
    let exchange = Arc::new(Exchange::new(interceptor, call, is_verified));
    let upstream = Upstream { stream: upstream, exchange: Arc::clone(&exchange) };
    match chosen.as_deref() {
        Some(H2) => http::h2(exchange, guest, upstream).await,
        Some(HTTP_1_1) => http::h1(exchange, guest, upstream).await,
        Some(_) | None => sniff::serve(exchange, guest, upstream).await,
    }
}

/// Serves one connection in the clear; of its server something may have been heard.
pub(super) async fn relay(
    interceptor: Arc<Interceptor>,
    call: Call,
    guest: TaskEnd,
    (server, early): (TcpStream, Bytes),
) -> Result<(), Broken> {
    let server = sniff::Heard::behind(early.into(), server);
    sniff::serve(Arc::new(Exchange::new(interceptor, call, false)), guest, server).await
}

/// Serves one connection on which the guest asks for names (RFC 7858): what it says goes to
/// `names`, and what comes from there to it.
pub(super) async fn ask(
    interceptor: Arc<Interceptor>,
    call: Call,
    (guest, names): (TaskEnd, DuplexStream),
) -> Result<(), Broken> {
    let Some((hello, offered)) = hear(&call, guest).await? else { return Ok(()) };
    let chosen = offered.into_iter().find(|offer| offer == DOT);
    let guest = accept_guest(&interceptor, &call, hello, chosen.as_deref()).await?;
    let (mut from_guest, mut to_guest) = split(guest);
    let (mut from_names, mut to_names) = split(names);
    let asking = async {
        copy(&mut from_guest, &mut to_names).await?;
        to_names.shutdown().await
    };
    let answering = async {
        copy(&mut from_names, &mut to_guest).await?;
        to_guest.shutdown().await
    };
    tokio::pin!(asking, answering);
    tokio::select! {
        asked = &mut asking => {
            asked?;
            answering.await?;
        }
        answered = &mut answering => {
            answered?;
            // So that what it still says does not make the end of it a reset.
            let _ = timeout(FAREWELL_MAX, asking).await;
        }
    }
    Ok(())
}

/// The guest's hello, and the protocols that it offers. `None`: it was refused.
async fn hear(
    call: &Call,
    guest: TaskEnd,
) -> Result<Option<(StartHandshake<Heard>, Vec<Vec<u8>>)>, Broken> {
    let guest = BufReader::with_capacity(READ_BYTES, guest);
    let accept = LazyConfigAcceptor::new(Acceptor::default(), guest);
    let hello = timeout(HANDSHAKE_MAX, accept).await.map_err(|_| Broken)??;
    let (name, offered) = read(&hello.client_hello());
    // The engine has read the same bytes. Whoever makes two readers differ gets to nobody.
    if name != call.name {
        refuse(hello, AlertDescription::UnrecognisedName).await?;
        return Ok(None);
    }
    Ok(Some((hello, offered)))
}

/// The name of a hello, and the protocols it offers.
fn read(hello: &ClientHello<'_>) -> (Option<String>, Vec<Vec<u8>>) {
    let name = hello.server_name().map(|name| {
        let name = name.to_ascii_lowercase();
        name.strip_suffix('.').map_or_else(|| name.clone(), str::to_owned)
    });
    let offered = hello.alpn().into_iter().flatten();
    (name, offered.take(PROTOCOLS_MAX).map(<[u8]>::to_vec).collect())
}

fn server_name(identity: &Identity) -> Result<ServerName<'static>, Broken> {
    match identity {
        Identity::Name(name) => ServerName::try_from(name.clone()).map_err(|_| Broken),
        Identity::Address(address) => Ok(ServerName::IpAddress((*address).into())),
    }
}

/// Tells the guest that there will be no handshake, and ends in order.
async fn refuse(
    mut hello: StartHandshake<Heard>,
    description: AlertDescription,
) -> Result<(), Broken> {
    hello.io.write_all(&alert::record(description)).await?;
    hello.io.shutdown().await?;
    Ok(())
}

/// Ends the guest's handshake with a certificate for whom it called.
async fn accept_guest(
    interceptor: &Interceptor,
    call: &Call,
    hello: StartHandshake<Heard>,
    protocol: Option<&[u8]>,
) -> Result<Guest, Broken> {
    let leaf = match interceptor.leaves.of(&call.identity()) {
        Ok(leaf) => leaf,
        Err(error) => {
            tracing::warn!(%error, "no certificate for the guest");
            refuse(hello, AlertDescription::InternalError).await?;
            return Err(Broken);
        }
    };
    let mut config = interceptor.server.clone();
    config.cert_resolver = Arc::new(Leaf(leaf));
    config.alpn_protocols = protocol.map(<[u8]>::to_vec).into_iter().collect();
    let accepted = timeout(HANDSHAKE_MAX, hello.into_stream(Arc::new(config))).await;
    let accepted = accepted.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
    Ok(accepted.inspect_err(|error| {
        let name = call.name.as_deref();
        tracing::debug!(%error, name, "the guest did not agree; does it trust our authority?");
    })?)
}

/// Connects to the server, or where that fails to the other address; returns what it said already,
/// which may come with the answer of a proxy.
async fn dial(interceptor: &Interceptor, call: &Call) -> Result<(TcpStream, Bytes), Broken> {
    if let Some((proxy, target)) =
        interceptor.lasting.proxy.as_ref().zip(call.through_proxy.as_ref())
    {
        return Ok(proxy.dial(target).await?);
    }
    let (first, fallback) = call.to;
    let outbound = &interceptor.lasting.outbound;
    let stream = match connect(outbound, first).await {
        Ok(stream) => stream,
        Err(error) => connect(outbound, fallback.ok_or(error)?).await?,
    };
    stream.set_nodelay(true)?;
    Ok((stream, Bytes::new()))
}

async fn connect(outbound: &Outbound, to: std::net::SocketAddr) -> io::Result<TcpStream> {
    let connected = timeout(CONNECT_MAX, outbound.connect(to)).await;
    let stream = connected.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))?;
    socket2::SockRef::from(&stream).set_keepalive(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::clock::Clock;
    use crate::config::{HttpConfig, ProxyConfig, ProxyProtocol, TlsConfig};
    use crate::intercept::{Forge, Read, Reporter, fuzz};
    use crate::service::proxy::Proxy;

    #[tokio::test]
    async fn what_a_server_says_with_the_answer_of_a_proxy_is_heard() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::new(ProxyConfig {
            protocol: ProxyProtocol::HttpConnect,
            address: listener.local_addr().unwrap(),
            user_id: None,
            credentials: None,
            no_proxy: vec![],
            send_names: false,
        });
        let proxy = Arc::new(proxy.unwrap());
        let reporter =
            Reporter::new(Arc::default(), Clock::new(), Default::default(), Arc::default());
        let vault = Arc::new(crate::service::secrets::Vault::new(Default::default()).unwrap());
        let tls = TlsConfig { enabled: true, ..TlsConfig::default() };
        let forge = Forge::new((vault, Some(Arc::clone(&proxy))), reporter);
        let interceptor = forge.make(&tls, &HttpConfig::default()).unwrap().0.unwrap();
        let call = fuzz::call("good.test");
        let through_proxy = Some(proxy.target(call.destination, None));
        let call = Call { through_proxy, begins: Beginning::Clear, ..call };
        let handle = tokio::runtime::Handle::current();
        let mut pipe = interceptor.begin(call, &handle, Waker::noop().clone()).unwrap();
        let (mut asked, _) = listener.accept().await.unwrap();
        let mut heard = vec![];
        while !heard.ends_with(b"\r\n\r\n") {
            heard.push(asked.read_u8().await.unwrap());
        }
        asked.write_all(b"HTTP/1.1 200 OK\r\n\r\nearly").await.unwrap();
        // So that there is an end, whatever was heard.
        drop(asked);
        let mut space = [0; 64];
        let len = loop {
            match pipe.read(&mut space) {
                Read::Nothing => tokio::task::yield_now().await,
                Read::Some(len) => break len,
                end @ (Read::Finished | Read::Broken) => panic!("{end:?}"),
            }
        };
        assert_eq!(space[..len], *b"early");
    }
}
