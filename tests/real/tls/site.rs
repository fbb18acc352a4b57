//! A server of HTTPS on this host: of this process, and of every byte it hears it keeps
//! a copy.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, UPGRADE};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, ServerConfig};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

/// The gateway's own names: both lead here, and are bound to the gateway's address.
pub(crate) const GOOD: &str = "host.sluicegate.internal";
pub(crate) const EVIL: &str = "host.microsandbox.internal";

/// What is wrong with a server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    Expired,
    SelfSigned,
    OtherName,
}

/// A server, and what it heard.
pub(crate) struct Site {
    pub(crate) port: u16,
    heard: Arc<Mutex<Vec<u8>>>,
    endings: Arc<Mutex<Vec<bool>>>,
    /// Lets the next event of `/events` go.
    more: mpsc::UnboundedSender<()>,
    authority: PathBuf,
    handshakes: Arc<AtomicUsize>,
    resumed: Arc<AtomicUsize>,
    _runtime: Runtime,
}

/// What each connection has.
#[derive(Clone)]
struct Desk {
    heard: Arc<Mutex<Vec<u8>>>,
    endings: Arc<Mutex<Vec<bool>>>,
    more: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<()>>>,
}

impl Desk {
    /// Keeps what a request meant: of HPACK, frames and chunks nobody could tell by looking.
    fn note<'h>(
        &self,
        head: &'h Parts,
        trailers: impl Iterator<Item = (&'h HeaderName, &'h HeaderValue)>,
        body: &[u8],
    ) {
        let mut heard = self.heard.lock().unwrap();
        heard.extend_from_slice(format!("{} {}\n", head.method, head.uri).as_bytes());
        for (name, value) in head.headers.iter().chain(trailers) {
            let field = [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\n"].concat();
            heard.extend_from_slice(&field);
        }
        heard.extend_from_slice(body);
    }
}

impl Site {
    /// One that speaks `protocols`, with a certificate for the gateway's own names.
    pub(crate) fn new(protocols: &[&str]) -> Self {
        Self::with(protocols, Flaw::None, None)
    }

    pub(crate) fn with(
        protocols: &[&str],
        flaw: Flaw,
        versions: Option<&[&'static rustls::SupportedProtocolVersion]>,
    ) -> Self {
        let (authority, mut config) = tls(flaw, versions);
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self::serving(authority, Some(TlsAcceptor::from(Arc::new(config))))
    }

    /// One of `version` that speaks to clients only that have a certificate of its authority.
    pub(crate) fn wanting_a_certificate(
        protocols: &[&str],
        version: &'static rustls::SupportedProtocolVersion,
    ) -> Self {
        let (authority, certificate, key) = pair(Flaw::None);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self::serving(authority.pem(), Some(TlsAcceptor::from(Arc::new(config))))
    }

    /// One that speaks HTTP/1.1 in the clear.
    pub(crate) fn in_the_clear() -> Self {
        Self::serving(tls(Flaw::None, None).0, None)
    }

    /// The same, at the loopback of IPv4 alone.
    pub(crate) fn in_the_clear_over_ipv4() -> Self {
        Self::serving_at(Ipv4Addr::LOCALHOST.into(), tls(Flaw::None, None).0, None)
    }

    fn serving(authority: String, acceptor: Option<TlsAcceptor>) -> Self {
        // Of both families, as the gateway may come by either.
        Self::serving_at(Ipv6Addr::UNSPECIFIED.into(), authority, acceptor)
    }

    fn serving_at(address: IpAddr, authority: String, acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (more, queue) = mpsc::unbounded_channel();
        let heard = Arc::<Mutex<Vec<u8>>>::default();
        let handshakes = Arc::<AtomicUsize>::default();
        let resumed = Arc::<AtomicUsize>::default();
        let queue = Arc::new(tokio::sync::Mutex::new(queue));
        let endings = Arc::<Mutex<Vec<bool>>>::default();
        let desk = Desk { heard: Arc::clone(&heard), endings: Arc::clone(&endings), more: queue };
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let counts = (Arc::clone(&handshakes), Arc::clone(&resumed));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, desk, (count, resumed)) =
                    (acceptor.clone(), desk.clone(), counts.clone());
                tokio::spawn(async move {
                    let Some(acceptor) = acceptor else {
                        count.fetch_add(1, Ordering::Relaxed);
                        return serve(stream, None, desk).await;
                    };
                    // A client that does not believe us has ended it.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    count.fetch_add(1, Ordering::Relaxed);
                    if stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed) {
                        resumed.fetch_add(1, Ordering::Relaxed);
                    }
                    let protocol = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
                    serve(stream, protocol, desk).await;
                });
            }
        });
        let name = format!("sluicegate-{}-{port}-authority.pem", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, authority).unwrap();
        Self { port, heard, endings, more, authority: path, handshakes, resumed, _runtime: runtime }
    }

    /// The address of `path` under `name`.
    pub(crate) fn url(&self, name: &str, path: &str) -> String {
        format!("https://{name}:{}{path}", self.port)
    }

    /// The file of the authority that vouches for it.
    pub(crate) fn authority(&self) -> &str {
        self.authority.to_str().unwrap()
    }

    /// Every byte that was said to it inside TLS, and what the requests among them meant.
    pub(crate) fn heard(&self) -> Vec<u8> {
        self.heard.lock().unwrap().clone()
    }

    /// How many handshakes it has ended, or connections it has had in the clear.
    pub(crate) fn handshakes(&self) -> usize {
        self.handshakes.load(Ordering::Relaxed)
    }

    /// How many of them resumed a session.
    pub(crate) fn resumed(&self) -> usize {
        self.resumed.load(Ordering::Relaxed)
    }

    /// Of each connection of bytes that its client ended, whether it was in order.
    pub(crate) fn endings(&self) -> Vec<bool> {
        self.endings.lock().unwrap().clone()
    }

    /// Lets the next event go.
    pub(crate) fn go_on(&self) {
        self.more.send(()).unwrap();
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.authority);
    }
}

/// An authority, a server's certificate of it, and its key.
fn pair(flaw: Flaw) -> (rcgen::Certificate, rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "an authority of a test");
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let names = match flaw {
        Flaw::OtherName => vec!["elsewhere.test".to_owned()],
        Flaw::None | Flaw::Expired | Flaw::SelfSigned => vec![GOOD.to_owned(), EVIL.to_owned()],
    };
    let mut params = CertificateParams::new(names).unwrap();
    if flaw == Flaw::Expired {
        let day = Duration::from_secs(86_400);
        params.not_before = (SystemTime::now() - 3 * day).into();
        params.not_after = (SystemTime::now() - day).into();
    }
    let key = KeyPair::generate().unwrap();
    let certificate = match flaw {
        Flaw::SelfSigned => params.self_signed(&key).unwrap(),
        Flaw::None | Flaw::Expired | Flaw::OtherName => params.signed_by(&key, &issuer).unwrap(),
    };
    (authority, certificate, key)
}

/// An authority, a certificate for the gateway's own names and its key, as PEM.
pub(crate) fn files(flaw: Flaw) -> (String, String, String) {
    let (authority, certificate, key) = pair(flaw);
    (authority.pem(), certificate.pem(), key.serialize_pem())
}

/// An authority, and a server's side with a certificate of it.
fn tls(
    flaw: Flaw,
    versions: Option<&[&'static rustls::SupportedProtocolVersion]>,
) -> (String, ServerConfig) {
    let (authority, certificate, key) = pair(flaw);
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions.unwrap_or(rustls::ALL_VERSIONS))
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    (authority.pem(), config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A stream of which every byte that is read is kept.
struct Heard<S> {
    stream: S,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = space.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, space);
        self.heard.lock().unwrap().extend_from_slice(&space.filled()[before..]);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

async fn serve<S>(stream: S, protocol: Option<Vec<u8>>, desk: Desk)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let heard = Arc::clone(&desk.heard);
    let stream = Heard { stream, heard };
    match protocol.as_deref() {
        Some(b"bytes") => return say_back(stream, &desk).await,
        Some(b"http/1.0") => return answer_until_the_end(stream).await,
        _ => {}
    }
    let io = TokioIo::new(stream);
    let service = service_fn(move |request| {
        let desk = desk.clone();
        async move { Ok::<_, Infallible>(answer(request, desk).await) }
    });
    // However it ends, a test sees it at the client.
    if protocol.as_deref() == Some(b"h2") {
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(io, service).await;
    } else {
        let builder = hyper::server::conn::http1::Builder::new();
        let _ = builder.serve_connection(io, service).with_upgrades().await;
    }
}

/// Speaks first, then says back what it hears, until the client ends or tells it to.
async fn say_back<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, desk: &Desk) {
    let _ = stream.write_all(b"hello\n").await;
    let mut bytes = [0; 1000];
    loop {
        let said = match stream.read(&mut bytes).await {
            Ok(len @ 1..) => &bytes[..len],
            ended => {
                desk.endings.lock().unwrap().push(ended.is_ok());
                break;
            }
        };
        let _ = stream.write_all(said).await;
        let _ = stream.flush().await;
        match said {
            b"END\n" => break,
            // Without a word of TLS.
            b"DROP\n" => return,
            _ => {}
        }
    }
    let _ = stream.shutdown().await;
}

/// HTTP/1.0, whose answer is as long as its connection; one to `/drop` ends as if it were cut.
async fn answer_until_the_end<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nbegun").await;
    let _ = stream.flush().await;
    if !head.starts_with(b"GET /drop ") {
        let _ = stream.shutdown().await;
    }
}

type Answer = http_body_util::combinators::BoxBody<Bytes, Infallible>;

fn whole(text: impl Into<Bytes>) -> Answer {
    Full::new(text.into()).boxed()
}

async fn answer(mut request: Request<Incoming>, desk: Desk) -> Response<Answer> {
    match request.uri().path() {
        "/events" => Response::new(events(desk, 3)),
        "/endless" => Response::new(events(desk, usize::MAX)),
        "/trailers" => Response::new(trailers()),
        "/cut" => {
            // More is announced than comes.
            let (send, body) = frames();
            let _ = send.send(Ok(Frame::data(Bytes::from_static(b"begun"))));
            let mut response = Response::new(StreamBody::new(body).map_err(broken).boxed());
            response.headers_mut().insert(CONTENT_LENGTH, 1000.into());
            drop(send);
            response
        }
        // Its body is not asked for.
        "/refuse" => {
            let mut response = Response::new(whole(""));
            *response.status_mut() = StatusCode::EXPECTATION_FAILED;
            response
        }
        "/switch" => switch(&mut request),
        "/big" => Response::new(whole(vec![b'x'; 3_000_000])),
        _ => echo(request, desk).await,
    }
}

type Frames = Result<Frame<Bytes>, Infallible>;

fn frames() -> (mpsc::UnboundedSender<Frames>, impl futures_util::Stream<Item = Frames>) {
    let (send, mut queue) = mpsc::unbounded_channel();
    (send, futures_util::stream::poll_fn(move |context| queue.poll_recv(context)))
}

fn broken(never: Infallible) -> Infallible {
    never
}

/// An event, and another whenever the test lets it go, until `last`.
fn events(desk: Desk, last: usize) -> Answer {
    let (send, body) = frames();
    tokio::spawn(async move {
        for number in 1.. {
            let text = format!("data: event {number}\n\n");
            if send.send(Ok(Frame::data(text.into()))).is_err() {
                return;
            }
            if desk.more.lock().await.recv().await.is_none() || number == last {
                return;
            }
        }
    });
    StreamBody::new(body).boxed()
}

fn trailers() -> Answer {
    let (send, body) = frames();
    // Its last byte might be a value's first, and so comes with them.
    let _ = send.send(Ok(Frame::data(Bytes::from_static(b"words"))));
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "7".parse().unwrap());
    let _ = send.send(Ok(Frame::trailers(trailers)));
    StreamBody::new(body).boxed()
}

/// Becomes a stream that says back what it hears.
fn switch(request: &mut Request<Incoming>) -> Response<Answer> {
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(stream) = upgrade.await else { return };
        let mut stream = TokioIo::new(stream);
        let mut bytes = [0; 1000];
        while let Ok(len @ 1..) = stream.read(&mut bytes).await {
            let _ = stream.write_all(&bytes[..len]).await;
        }
    });
    let mut response = Response::new(whole(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, "upgrade".parse().unwrap());
    response.headers_mut().insert(UPGRADE, "websocket".parse().unwrap());
    response
}

/// Takes in a body, as far as it comes; whether it came to its end, and its trailers.
async fn take(mut body: Incoming) -> (Vec<u8>, Option<HeaderMap>) {
    let (mut bytes, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return (bytes, None) };
        match frame.into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    (bytes, Some(trailers))
}

/// Says back what it was asked, as JSON; without a body of its own for HEAD.
async fn echo(request: Request<Incoming>, desk: Desk) -> Response<Answer> {
    let (parts, body) = request.into_parts();
    let framed = body.size_hint().exact();
    let (body, ended) = take(body).await;
    desk.note(&parts, ended.iter().flatten(), &body);
    let Some(trailers) = ended else { return Response::new(whole("")) };
    let text = |headers: &HeaderMap| {
        let pair = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
        };
        headers.iter().map(pair).collect::<Vec<_>>()
    };
    let told = json!({
        "version": if parts.version == Version::HTTP_2 { "h2" } else { "h1" },
        "method": parts.method.as_str(),
        "target": parts.uri.path_and_query().map(ToString::to_string),
        "fields": text(&parts.headers),
        "len": framed,
        "bytes": body.len(),
        "body": String::from_utf8_lossy(&body[..body.len().min(2000)]),
        "trailers": text(&trailers),
    });
    Response::new(whole(told.to_string()))
}
