//! Name servers that are asked over TLS (RFC 7858) and over HTTPS (RFC 8484).
//!
//! Messages pass as they are, byte for byte, as over datagrams: what a resolver library makes of a
//! message is not what the guest or the server has said. Connections are kept for the next query,
//! for a while; one that has failed meanwhile is made again, once, and one on which a query was
//! given up is not asked again: it may lead nowhere any more. A server that does not prove its
//! name has failed, and nothing is said to it.
//!
//! Bounded: so many connections to a server over TLS, one over HTTPS, each answer as long as
//! messages are; the caller bounds the time.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::header::{ACCEPT, CONTENT_TYPE};
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use sluicegate_core::limits::DNS_MESSAGE_BYTES_MAX;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::exchange::framed;
use crate::outbound::Outbound;

/// Connections to one server that may be open.
const CONNECTIONS_MAX: usize = 16;
/// One that nobody used for so long is not used again (RFC 7858 3.4).
const IDLE_MAX: Duration = Duration::from_secs(10);
/// What a query over HTTPS is, and its answer (RFC 8484 6).
const MESSAGE: &str = "application/dns-message";

type Stream = TlsStream<TcpStream>;
/// Where it is asked, and from where.
type Whither<'o> = (&'o Outbound, SocketAddr);

/// A server that is asked where nobody else can read it.
pub(crate) struct Secure {
    name: ServerName<'static>,
    /// Over HTTPS: the address that is asked.
    url: Option<String>,
    config: Arc<ClientConfig>,
    /// Connections that nobody uses, and since when.
    idle: Mutex<Vec<(Stream, Instant)>>,
    permits: Semaphore,
    /// The one connection over HTTPS that new queries go to.
    https: Mutex<Option<Https>>,
    /// Whoever makes that.
    connecting: tokio::sync::Mutex<()>,
    /// Connections over HTTPS so far.
    made: AtomicU64,
}

/// A connection over HTTPS, for many queries at a time.
#[derive(Clone)]
struct Https {
    sender: SendRequest<Full<Bytes>>,
    /// When the last query was answered.
    used: Instant,
    number: u64,
}

/// Lets nobody else use a connection unless it is told that it works.
struct Doubt<'s> {
    https: &'s Mutex<Option<Https>>,
    number: u64,
    is_dispelled: bool,
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        let mut https = self.https.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(own) = https.as_mut().filter(|https| https.number == self.number) else { return };
        if self.is_dispelled {
            own.used = Instant::now();
        } else {
            *https = None;
        }
    }
}

impl Secure {
    /// One that must prove `name`, to who is as `config` has it; with a `url`, over HTTPS.
    pub(crate) fn new(
        name: ServerName<'static>,
        url: Option<String>,
        mut config: ClientConfig,
    ) -> Self {
        let protocol: &[u8] = if url.is_some() { b"h2" } else { b"dot" };
        config.alpn_protocols = vec![protocol.to_vec()];
        Self {
            name,
            url,
            config: Arc::new(config),
            idle: Mutex::default(),
            permits: Semaphore::new(CONNECTIONS_MAX),
            https: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            made: AtomicU64::new(0),
        }
    }

    /// Asks it from `outbound`, at `address`; what it says may be no answer to `query`.
    ///
    /// # Errors
    /// It can't be reached or believed.
    pub(super) async fn ask(
        &self,
        outbound: &Outbound,
        address: SocketAddr,
        query: &[u8],
    ) -> io::Result<Vec<u8>> {
        let to = (outbound, address);
        match &self.url {
            Some(url) => self.post(to, url, query).await,
            None => self.say(to, query).await,
        }
    }

    async fn connect(&self, (outbound, address): Whither<'_>) -> io::Result<Stream> {
        let stream = outbound.connect(address).await?;
        stream.set_nodelay(true)?;
        TlsConnector::from(Arc::clone(&self.config)).connect(self.name.clone(), stream).await
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(Stream, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that was used before and may be used again.
    fn used(&self) -> Option<Stream> {
        let mut idle = self.idle();
        idle.retain(|(_, since)| since.elapsed() < IDLE_MAX);
        idle.pop().map(|(stream, _)| stream)
    }

    /// Over TLS, behind its length (RFC 7858 3.3).
    async fn say(&self, to: Whither<'_>, query: &[u8]) -> io::Result<Vec<u8>> {
        let _permit = self.permits.acquire().await.map_err(io::Error::other)?;
        if let Some(mut stream) = self.used()
            && let Ok(answer) = framed(&mut stream, query).await
        {
            self.idle().push((stream, Instant::now()));
            return Ok(answer);
        }
        let mut stream = self.connect(to).await?;
        let answer = framed(&mut stream, query).await?;
        self.idle().push((stream, Instant::now()));
        Ok(answer)
    }

    /// Over HTTPS (RFC 8484 4.1), on a stream of its own.
    async fn post(&self, to: Whither<'_>, url: &str, query: &[u8]) -> io::Result<Vec<u8>> {
        if let Some(https) = self.working_https()
            && let Ok(answer) = self.request(https, url, query).await
        {
            return Ok(answer);
        }
        let https = self.new_https(to).await?;
        self.request(https, url, query).await
    }

    async fn request(&self, https: Https, url: &str, query: &[u8]) -> io::Result<Vec<u8>> {
        let Https { mut sender, number, .. } = https;
        let mut doubt = Doubt { https: &self.https, number, is_dispelled: false };
        let request = Request::post(url)
            .header(CONTENT_TYPE, MESSAGE)
            .header(ACCEPT, MESSAGE)
            .body(Full::new(Bytes::copy_from_slice(query)))
            .map_err(io::Error::other)?;
        sender.ready().await.map_err(io::Error::other)?;
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let kind = response.headers().get(CONTENT_TYPE).map(|kind| kind.as_bytes());
        if response.status() != StatusCode::OK || kind != Some(MESSAGE.as_bytes()) {
            return Err(io::Error::other(format!("it answered {}", response.status())));
        }
        let body = Limited::new(response.into_body(), DNS_MESSAGE_BYTES_MAX);
        let answer = body.collect().await.map_err(io::Error::other)?.to_bytes().to_vec();
        doubt.is_dispelled = true;
        Ok(answer)
    }

    /// The connection over HTTPS, if it was used lately and is open.
    fn working_https(&self) -> Option<Https> {
        let mut https = self.https.lock().unwrap_or_else(PoisonError::into_inner);
        let works =
            |https: &&mut Https| https.used.elapsed() < IDLE_MAX && !https.sender.is_closed();
        let working = https.as_mut().filter(works).map(|https| https.clone());
        if working.is_none() {
            *https = None;
        }
        working
    }

    async fn new_https(&self, to: Whither<'_>) -> io::Result<Https> {
        let _connecting = self.connecting.lock().await;
        // Whoever waited meanwhile has the connection that was made.
        if let Some(https) = self.working_https() {
            return Ok(https);
        }
        let stream = self.connect(to).await?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(io::Error::other("it does not speak HTTP/2"));
        }
        let made = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = made.map_err(io::Error::other)?;
        // It ends when nobody has its sender any more.
        tokio::spawn(connection);
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let https = Https { sender, used: Instant::now(), number };
        *self.https.lock().unwrap_or_else(PoisonError::into_inner) = Some(https.clone());
        Ok(https)
    }
}
