//! HTTP/2: the streams of a guest's connection, each of which is one of its server's.
//!
//! Owns how the two sides are bound together: what a window of one does not take is not asked of
//! the other; a stream that one side resets is reset for the other, with the same code (RFC 9113
//! 7); trailers and interim responses follow in their order. The `h2` crate reads and writes
//! frames, and bounds what they may cost. A tunnel (RFC 8441) is a stream like any other.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::try_join;
use futures_util::stream::FuturesUnordered;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream, client, server};
use hyper::body::Body as _;
use hyper::header::{CONTENT_LENGTH, HeaderValue};
use hyper::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use super::far::Server;
use super::interim::Interim;
use super::page::Manner;
use super::{Exchange, drive, forward};
use crate::intercept::authority;
use crate::intercept::body::{Body, Fault};
use crate::intercept::pipe::Broken;

/// Streams of one connection that a guest may have open, no fewer than RFC 9113 5.1.2 wants: what
/// each may hold is held as many times.
const STREAMS_MAX: u32 = 100;
/// Streams that are opened before the server has said how many may be.
const FIRST_STREAMS_MAX: usize = 100;
/// Bytes of a stream that may be under way, either way (RFC 9113 5.2); and from the server of a
/// connection that is wide, which is far away.
const STREAM_WINDOW: u32 = 128 * 1024;
const WIDE_STREAM_WINDOW: u32 = 1024 * 1024;
/// And of a connection. All of its streams may be ones that nobody reads, or several that are wide,
/// before others wait for them; what a network holds its streams limit.
const WINDOW: u32 = STREAMS_MAX * STREAM_WINDOW;
const _: () = assert!(WIDE_STREAM_WINDOW <= WINDOW / 8);
/// What data that was not read yet may cost beside its bytes, in windows of a stream: h2 counts 256
/// bytes for a frame that has fewer, so one stream that nobody reads may come in frames of 29 bytes
/// and more. Beyond, h2 ends the connection.
const FRAMING_WINDOWS: u32 = 8;
/// Bytes of a stream that wait to be written, to the guest or to its server, but for the piece that
/// exceeds them: what one connection of TCP takes in a turn, and no more.
const WAITING_BYTES_MAX: usize = 64 * 1024;
/// Bytes of the longest head of a message (RFC 9113 6.5.2).
const HEAD_LIST_BYTES_MAX: u32 = 64 * 1024;
/// Streams that break the rules, after which the connection does.
const ERRORS_MAX: usize = 1024;

/// Serves HTTP/2 between a guest and its server.
pub(in super::super) async fn serve<G, S>(
    exchange: Arc<Exchange>,
    guest: G,
    upstream: S,
) -> Result<(), Broken>
where
    G: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let lasting = &exchange.interceptor.lasting;
    // For as long as the connection is.
    let wide = Arc::clone(&lasting.wide).try_acquire_owned();
    let window = if wide.is_ok() { WIDE_STREAM_WINDOW } else { STREAM_WINDOW };
    let streams = Arc::clone(&lasting.streams);
    let (sender, connection) = client::Builder::new()
        .enable_push(false)
        .initial_max_send_streams(FIRST_STREAMS_MAX)
        .initial_window_size(window)
        .initial_connection_window_size(WINDOW)
        .data_frame_budget((FRAMING_WINDOWS * window) as usize)
        .max_header_list_size(HEAD_LIST_BYTES_MAX)
        .max_local_error_reset_streams(Some(ERRORS_MAX))
        .max_send_buffer_size(WAITING_BYTES_MAX)
        .handshake(upstream)
        .await?;
    let bounds = (streams, Arc::clone(&lasting.reporter));
    let (server, connection) = Server::new(sender.clone(), connection, bounds)?;
    let connection = Arc::clone(&exchange).until_told(connection);
    let guest = Guest::new(guest, Some(server), move |request, respond| {
        carry(Arc::clone(&exchange), sender.clone(), request, respond)
    });
    drive(guest, connection, |mut guest| guest.shut_down()).await
}

/// Tells a guest the same whatever it asks.
pub(super) async fn tell<G>(
    guest: G,
    answer: impl Fn(Manner) -> Response<Body> + Unpin,
) -> Result<(), Broken>
where
    G: AsyncRead + AsyncWrite + Unpin,
{
    let guest = Guest::new(guest, None, move |request, respond| {
        let response = answer(Manner::of(&request));
        async move {
            let respond = Mutex::new(respond);
            if let Err(fault) = reply(&respond, response).await {
                lock(&respond).send_reset(reason(&fault));
            }
            Onward::Open
        }
    });
    Ok(guest.await?)
}

/// A guest's connection, which ends once all of its streams have.
struct Guest<G, C, F> {
    phase: Phase<G>,
    /// Is to begin no more streams.
    is_ending: bool,
    /// Serves a stream.
    carry: C,
    /// In the connection's own task: what they say together is written together.
    streams: FuturesUnordered<F>,
    /// `None`: there is none.
    server: Option<Server>,
}

/// Whether there is a point in streams that are still to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Onward {
    Open,
    /// The server takes no more.
    Gone,
}

enum Phase<G> {
    Greeting(server::Handshake<G>),
    Open(server::Connection<G, Bytes>),
}

impl<G, C, F> Guest<G, C, F>
where
    G: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Onward>,
{
    fn new(guest: G, server: Option<Server>, carry: C) -> Self {
        let handshake = server::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(WINDOW)
            .data_frame_budget((FRAMING_WINDOWS * STREAM_WINDOW) as usize)
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_LIST_BYTES_MAX)
            .max_local_error_reset_streams(Some(ERRORS_MAX))
            .max_send_buffer_size(WAITING_BYTES_MAX)
            .handshake(guest);
        let phase = Phase::Greeting(handshake);
        Self { phase, is_ending: false, carry, streams: FuturesUnordered::new(), server }
    }

    /// Goes on with all streams. True: there is to be none from now on.
    fn go_on(&mut self, context: &mut Context<'_>) -> bool {
        let mut is_gone = false;
        while let Poll::Ready(Some(ended)) = self.streams.poll_next_unpin(context) {
            is_gone |= ended == Onward::Gone;
        }
        is_gone && !self.is_ending
    }

    /// Looks at what the server has done. True: there is something for the guest.
    fn settle(&mut self, context: &mut Context<'_>) -> bool {
        match (&mut self.phase, &mut self.server) {
            (Phase::Open(connection), Some(server)) => {
                server.settle(context, connection, self.streams.len())
            }
            (Phase::Greeting(_) | Phase::Open(_), _) => false,
        }
    }

    fn shut_down(&mut self) {
        if !self.is_ending
            && let Phase::Open(connection) = &mut self.phase
        {
            connection.graceful_shutdown();
        }
        self.is_ending = true;
    }
}

impl<G, C, F> Future for Guest<G, C, F>
where
    G: AsyncRead + AsyncWrite + Unpin,
    C: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Unpin,
    F: Future<Output = Onward>,
{
    type Output = Result<(), h2::Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match &mut this.phase {
                Phase::Greeting(handshake) => {
                    let mut connection = ready!(Pin::new(handshake).poll(context))?;
                    if this.is_ending {
                        connection.graceful_shutdown();
                    }
                    this.phase = Phase::Open(connection);
                }
                Phase::Open(connection) => match connection.poll_accept(context)? {
                    Poll::Ready(None) => return Poll::Ready(Ok(())),
                    Poll::Ready(Some((request, mut respond))) => {
                        if this.server.as_mut().is_none_or(Server::takes_one) {
                            this.streams.push((this.carry)(request, respond));
                        } else {
                            // Whoever has sent it may do so again (RFC 9113 8.7).
                            respond.send_reset(Reason::REFUSED_STREAM);
                        }
                    }
                    Poll::Pending if this.go_on(context) => this.shut_down(),
                    Poll::Pending if this.settle(context) => {}
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
    }
}

/// A body on its way to the server.
type Upload = (Body, SendStream<Bytes>);

/// Carries one stream: the request to the server, and what that says back.
async fn carry(
    exchange: Arc<Exchange>,
    sender: SendRequest<Bytes>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) -> Onward {
    let (parts, stream) = request.into_parts();
    let body = Body::streaming(&parts.headers, stream);
    let request = Request::from_parts(parts, body);
    let respond = Mutex::new(respond);
    let (begin, begun) = oneshot::channel();
    let upload = async {
        // It has not if the request goes nowhere.
        if let Ok(begun) = begun.await {
            send_upload(begun).await;
        }
        Ok(())
    };
    let send = async |request: Request<Body>, mut interim: Interim| {
        let (mut parts, body) = request.into_parts();
        authority::complete(&exchange.call, &mut parts);
        let request = Request::from_parts(parts, body);
        let tell = |said| {
            if let Some(said) = interim.pass(said) {
                // It can't be told if it is gone, which is seen elsewhere.
                let _ = lock(&respond).send_informational(said);
            }
        };
        ask(sender, request, begin, tell).await
    };
    let download = async {
        let response = tokio::select! {
            biased;
            response = forward::answer(&exchange, request, send) => response?,
            fault = poll_fn(|context| {
                lock(&respond).poll_reset(context).map(fault_of)
            }) => return Err(fault),
        };
        reply(&respond, response).await
    };
    // The first sees with which code the guest ended it. What the server has answered in full it
    // may still want to hear.
    let Err(fault) = try_join(upload, download).await else { return Onward::Open };
    lock(&respond).send_reset(reason(&fault));
    if is_gone(&fault) { Onward::Gone } else { Onward::Open }
}

fn lock(respond: &Mutex<SendResponse<Bytes>>) -> MutexGuard<'_, SendResponse<Bytes>> {
    respond.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks a server, and returns its response. The body goes to `begin` once it may be sent, and
/// interim responses to `tell`.
async fn ask(
    sender: SendRequest<Bytes>,
    request: Request<Body>,
    begin: oneshot::Sender<Upload>,
    mut tell: impl FnMut(Response<()>),
) -> Result<Response<Body>, Fault> {
    let (parts, body) = request.into_parts();
    let is_whole = body.is_end_stream();
    let mut sender = sender.ready().await.map_err(Gone)?;
    let (mut response, stream) = sender.send_request(Request::from_parts(parts, ()), is_whole)?;
    // As many streams may be open as the server says. Whether it answers this one though it takes
    // no more is told by the stream (RFC 9113 6.8).
    let _ = poll_fn(|context| sender.poll_ready(context)).await;
    if !is_whole {
        // Whoever waits for it waits for this, too.
        let _ = begin.send((body, stream));
    }
    let responded = poll_fn(|context| {
        // The response itself is not asked for before they have all come: it would pass them over.
        while let Some(said) = ready!(response.poll_informational(context)) {
            tell(said?);
        }
        Pin::new(&mut response).poll(context)
    });
    let (parts, stream) = responded.await?.into_parts();
    let body = Body::streaming(&parts.headers, stream);
    Ok(Response::from_parts(parts, body))
}

/// Sends the rest of a request. What ends it early ends its stream, which is seen by who waits for
/// the response; unless the server has answered, and wants no more of it (RFC 9113 8.1).
async fn send_upload((body, mut stream): Upload) {
    if let Err(fault) = send_body(body, &mut stream).await {
        stream.send_reset(reason(&fault));
    }
}

/// Sends a response.
async fn reply(
    respond: &Mutex<SendResponse<Bytes>>,
    response: Response<Body>,
) -> Result<(), Fault> {
    let (mut parts, body) = response.into_parts();
    let is_whole = body.is_end_stream();
    if !is_whole && let Some(len) = body.size_hint().exact() {
        parts.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(len));
    }
    let mut stream = lock(respond).send_response(Response::from_parts(parts, ()), is_whole)?;
    if is_whole { Ok(()) } else { send_body(body, &mut stream).await }
}

/// Sends `body`, as the window of `stream` takes it.
async fn send_body(mut body: Body, stream: &mut SendStream<Bytes>) -> Result<(), Fault> {
    loop {
        let frame = poll_fn(|context| match stream.poll_reset(context) {
            Poll::Ready(reset) => Poll::Ready(Some(Err(fault_of(reset)))),
            Poll::Pending => Pin::new(&mut body).poll_frame(context),
        });
        let Some(frame) = frame.await.transpose()? else {
            return Ok(stream.send_data(Bytes::new(), true)?);
        };
        match frame.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) => {
                // No more than a sign of what waits: h2 asks for as much as it is given.
                stream.reserve_capacity(1);
                poll_fn(|context| poll_capacity(stream, context)).await?;
                let is_last = body.is_end_stream();
                stream.send_data(data, is_last)?;
                if is_last {
                    return Ok(());
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    return Ok(stream.send_trailers(trailers)?);
                }
            }
        }
    }
}

/// Waits until the window of `stream` takes something, or until it is reset.
fn poll_capacity(
    stream: &mut SendStream<Bytes>,
    context: &mut Context<'_>,
) -> Poll<Result<(), Fault>> {
    if let Poll::Ready(reset) = stream.poll_reset(context) {
        return Poll::Ready(Err(fault_of(reset)));
    }
    while stream.capacity() == 0 {
        match ready!(stream.poll_capacity(context)) {
            Some(granted) => drop(granted?),
            None => return Poll::Ready(Err(h2::Error::from(Reason::STREAM_CLOSED).into())),
        }
    }
    Poll::Ready(Ok(()))
}

/// What a stream ends with that was reset.
fn fault_of(reset: Result<Reason, h2::Error>) -> Fault {
    reset.map_or_else(Fault::from, |reason| h2::Error::from(reason).into())
}

/// The server takes no more requests.
#[derive(Debug, thiserror::Error)]
#[error("the server is going away: {0}")]
struct Gone(h2::Error);

/// Whether the request has not got to the server, which takes no more: one that says so tells of
/// the last stream that it looks at (RFC 9113 6.8).
fn is_gone(fault: &Fault) -> bool {
    let told = |error: &h2::Error| error.is_go_away() && error.is_remote();
    fault.is::<Gone>() || fault.downcast_ref().is_some_and(told)
}

/// The code that tells of `fault` (RFC 9113 7).
fn reason(fault: &Fault) -> Reason {
    if is_gone(fault) {
        // Whoever has sent it may do so again (RFC 9113 8.7).
        return Reason::REFUSED_STREAM;
    }
    let reason = fault.downcast_ref().and_then(h2::Error::reason);
    reason.unwrap_or(Reason::INTERNAL_ERROR)
}
