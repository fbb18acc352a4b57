//! HTTP between a guest and its server: each request is looked at and handed on, each response
//! handed back, as their bytes come.
//!
//! Owns what may pass: a request that is for whom the handshake was for, and that carries no
//! placeholder whose secret this server may not have. What may have its secret carries that
//! instead. Messages are read and written by hyper, and over HTTP/2 (`streams`) by what it is made
//! of, so what one server could read in two ways (RFC 9112 11.2) reaches none.
//!
//! One connection of the guest is one of the server's: when one ends, so does the other, and
//! nothing is sent twice. A request whose body is short is held until it is whole and was looked
//! at, so that of one that may not pass nothing leaves; of a longer one only the rest does not.

mod expect;
mod far;
mod forward;
mod interim;
mod narrow;
mod page;
mod streams;
mod tunnel;
mod websocket;

use std::convert::Infallible;
use std::fmt::Display;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Request, Response, client, server};
use hyper_util::rt::{TokioIo, TokioTimer};
use sluicegate_core::Beginning;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::authority;
use super::body::Body;
use super::handshake::Guest;
use super::pipe::Broken;
use super::upstream::is_alert;
use super::{Call, Interceptor};
use crate::events::Incident;
use crate::service::secrets::{Peer, Scope, Violation};
pub(super) use streams::serve as h2;
use tunnel::Tunnels;
use websocket::MaskKey;

/// Bytes of the longest head of a message.
const HEAD_BYTES_MAX: usize = 256 * 1024;
/// A connection whose guest has gone has so long to say so to its server.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// One connection, and what is known of its server.
pub(super) struct Exchange {
    interceptor: Arc<Interceptor>,
    call: Call,
    /// The server has proven its name.
    is_verified: bool,
    /// The server has ended its TLS with an alert.
    is_refused: AtomicBool,
    tunnels: Tunnels,
    /// What the frames of a WebSocket are masked with.
    fresh_key: fn() -> io::Result<MaskKey>,
}

impl Exchange {
    pub(super) fn new(interceptor: Arc<Interceptor>, call: Call, is_verified: bool) -> Self {
        let (is_refused, tunnels) = (AtomicBool::new(false), Tunnels::default());
        let fresh_key = || {
            let mut key = MaskKey::default();
            getrandom::fill(&mut key)?;
            Ok(key)
        };
        Self { interceptor, call, is_verified, is_refused, tunnels, fresh_key }
    }

    /// The same with keys that hide nothing, so that what is sent can be compared.
    #[cfg(any(test, fuzzing))]
    pub(super) fn in_the_clear(self) -> Self {
        Self { fresh_key: || Ok(MaskKey::default()), ..self }
    }

    /// That of one request: what is said of its server is what is known of whom it is for.
    fn of_request(self: &Arc<Self>, request: &Parts) -> Arc<Self> {
        let Some(names) = &self.call.open_to else { return Arc::clone(self) };
        let name = authority::said(&self.call, request);
        let is_bound = name.as_ref().is_some_and(|name| names.contains(name));
        Arc::new(Self {
            interceptor: Arc::clone(&self.interceptor),
            call: Call { name, is_bound, ..self.call.clone() },
            is_verified: self.is_verified,
            is_refused: AtomicBool::new(self.is_refused()),
            tunnels: self.tunnels.clone(),
            fresh_key: self.fresh_key,
        })
    }

    /// Whether each request may be for anybody, and policy has nothing to say to that.
    pub(super) fn is_open(&self) -> bool {
        self.call.open_to.is_some()
    }

    /// The server's connection broke with `error`: tells of an alert.
    pub(super) fn note_broken(&self, error: &io::Error) {
        if is_alert(error) && !self.is_refused.swap(true, Ordering::AcqRel) {
            self.tell(Incident::Server { problem: error.to_string() });
        }
    }

    /// Tells of what there was on this connection.
    fn tell(&self, incident: Incident) {
        self.interceptor.lasting.reporter.tell(&self.call, incident);
    }

    /// Whether the server has ended its TLS with an alert.
    fn is_refused(&self) -> bool {
        self.is_refused.load(Ordering::Acquire)
    }

    /// Drives a connection to the server. One that it has refused is over a little later, so that
    /// the guest, who may have yet to ask, is told why.
    async fn until_told<E>(
        self: Arc<Self>,
        connection: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E> {
        let ended = connection.await;
        if self.is_refused() {
            sleep(DENIED_MAX).await;
        }
        ended
    }

    /// What a request that is sent now may carry.
    pub(super) fn scope(&self) -> Arc<Scope> {
        let peer = Peer {
            name: self.call.name.as_deref(),
            is_tls_verified: self.is_verified,
            is_bound: self.call.is_bound,
        };
        self.interceptor.lasting.vault.current().scope(&peer)
    }

    /// Whether the guest was sent settings before anybody was connected to.
    pub(super) fn is_welcomed(&self) -> bool {
        self.call.begins == Beginning::Welcomed
    }

    /// Whether what the guest and its server say is nobody else's.
    pub(super) fn is_bypassed(&self) -> bool {
        let Call { name, is_bound, .. } = &self.call;
        self.is_welcomed() && self.interceptor.bypasses(name.as_deref(), *is_bound)
    }

    /// Tells of a violation on this connection.
    pub(super) fn report(&self, violation: &Violation) {
        self.interceptor.lasting.reporter.violation(&self.call, violation);
    }
}

/// Serves HTTP/1.
pub(super) async fn h1<G, S>(exchange: Arc<Exchange>, guest: G, upstream: S) -> Result<(), Broken>
where
    G: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = client::conn::http1::Builder::new()
        .preserve_header_case(true)
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake::<_, Body>(TokioIo::new(upstream))
        .await?;
    // A server sends one response at a time, so one request at a time is asked.
    let sender = Arc::new(Mutex::new(sender));
    let service = service_fn({
        let exchange = Arc::clone(&exchange);
        move |request: Request<Incoming>| {
            let (exchange, sender) = (Arc::clone(&exchange), Arc::clone(&sender));
            async move {
                // hyper hands no interim response to a guest.
                let send = async |request, _| {
                    let lock = || sender.lock().unwrap_or_else(PoisonError::into_inner);
                    std::future::poll_fn(|context| lock().poll_ready(context)).await?;
                    let response = lock().send_request(request);
                    Ok(response.await?.map(Body::Passing))
                };
                let answered = forward::answer(&exchange, request.map(Body::Passing), send).await;
                answered.map_err(io::Error::other)
            }
        }
    });
    let server = server::conn::http1::Builder::new()
        .preserve_header_case(true)
        .auto_date_header(false)
        .half_close(true)
        .header_read_timeout(None)
        .timer(TokioTimer::new())
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(guest), service)
        .with_upgrades();
    let connection = Arc::clone(&exchange).until_told(connection.with_upgrades());
    let ended = drive(server, connection, |server| server.graceful_shutdown());
    ended.await?;
    exchange.tunnels.end().await
}

/// Drives both connections until the guest's has ended. Once the server's has, the guest's ends in
/// order behind what is under way.
async fn drive<S, C, E>(
    server: S,
    connection: C,
    shut_down: impl Fn(Pin<&mut S>),
) -> Result<(), Broken>
where
    S: Future<Output = Result<(), E>>,
    C: Future<Output = Result<(), E>> + Send + 'static,
    E: Display + Send + 'static,
    Broken: From<E>,
{
    let mut server = Box::pin(server);
    // A task of its own: what wakes one of the two is no reason to look at the other.
    let mut connections = JoinSet::new();
    connections.spawn(connection);
    let ended = loop {
        tokio::select! {
            biased;
            ended = server.as_mut() => break ended,
            Some(ended) = connections.join_next() => {
                if let Ok(Err(error)) = ended {
                    tracing::debug!(%error, "a server's connection broke");
                }
                shut_down(server.as_mut());
            }
        }
    };
    // With it goes whoever could ask for more, and so the other connection ends.
    drop(server);
    let _ = timeout(FAREWELL_MAX, connections.join_next()).await;
    Ok(ended?)
}

/// Tells a guest whose connection policy denies so.
pub(super) async fn deny(
    interceptor: &Arc<Interceptor>,
    call: &Call,
    guest: Guest,
) -> Result<(), Broken> {
    let is_h2 = guest.get_ref().1.alpn_protocol() == Some(super::handshake::H2);
    let denied = page::policy(&interceptor.page, call.name.as_deref());
    let answer = move |manner| denied.answer(manner);
    let served = async {
        if is_h2 {
            return streams::tell(guest, answer).await;
        }
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = answer(page::Manner::of(&request));
            async move { Ok::<Response<Body>, Infallible>(answer) }
        });
        let mut builder = server::conn::http1::Builder::new();
        builder.keep_alive(false).header_read_timeout(None);
        Ok(builder.serve_connection(TokioIo::new(guest), service).await?)
    };
    // Whoever was let in to be told why has little time to ask.
    timeout(DENIED_MAX, served).await.map_err(|_| Broken)?
}

/// A guest that is told of a denial has so long.
const DENIED_MAX: Duration = Duration::from_secs(5);
