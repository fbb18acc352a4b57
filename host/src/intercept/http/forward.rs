//! One request and its response.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use hyper::ext::ReasonPhrase;
use hyper::header::{CONTENT_LENGTH, HeaderValue, SEC_WEBSOCKET_EXTENSIONS, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Version};

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::super::authority::{self, Wrong};
use super::super::body::{Body, Fault};
use super::interim::Interim;
use super::page::Manner;
use super::tunnel::Tunnels;
use super::websocket::Watch;
use super::{Exchange, expect, narrow, page, tunnel};
use crate::events::Incident;
use crate::service::secrets::{BodyFilter, Scope, Violation, digest};

/// A body that is no longer than this is held until it is whole.
const HELD_BODY_BYTES_MAX: u64 = 256 * 1024;
/// It is to be whole by then.
const WHOLE_MAX: Duration = Duration::from_secs(60);

/// Hands `request` on with `send`, and the response back.
pub(super) async fn answer(
    exchange: &Arc<Exchange>,
    request: Request<Body>,
    send: impl AsyncFnOnce(Request<Body>, Interim) -> Result<Response<Body>, Fault>,
) -> Result<Response<Body>, Fault> {
    let manner = Manner::of(&request);
    let (mut parts, body) = request.into_parts();
    let exchange = &exchange.of_request(&parts);
    if let Err(page) = check(exchange, &parts) {
        return Ok(page.answer(manner));
    }
    let is_http1 = parts.version < Version::HTTP_2;
    let is_connect = parts.method == Method::CONNECT;
    let is_head = parts.method == Method::HEAD;
    let may_switch = tunnel::narrow(&mut parts.headers, exchange.is_open());
    if is_connect {
        // Neither it nor its answer has a body of its own (RFC 9110 9.3.6).
        parts.headers.remove(CONTENT_LENGTH);
    }
    let found = Arc::<AtomicBool>::default();
    let expects = expect::is_in(&parts, &body);
    let looked = look((exchange, expects), &mut parts, body, &found).await;
    let Looked { scope, body, watch } = match looked {
        Ok(looked) => looked,
        Err(Stopped::Violation(violation)) => {
            exchange.report(&violation);
            return Ok(refusal(exchange, manner));
        }
        Err(Stopped::Late) => return Ok(page::late(name_of(exchange)).answer(manner)),
        Err(Stopped::Broken(error)) => return Err(error),
    };
    let mut request = Request::from_parts(parts, body);
    let on_guest = hyper::upgrade::on(&mut request);
    let (request, expected) = if expects && is_http1 {
        let (request, expected) = expect::wait(request);
        (request, Some(expected))
    } else {
        (request, None)
    };
    let response = match send(request, Interim::new(&scope)).await {
        Ok(response) => response,
        // Its own body ended it.
        Err(_) if found.load(Ordering::Acquire) || watch.as_ref().is_some_and(Watch::is_over) => {
            return Ok(refusal(exchange, manner));
        }
        Err(_) if exchange.is_refused() => {
            return Ok(page::refused(name_of(exchange)).answer(manner));
        }
        Err(error) => return Err(error),
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS && !may_switch {
        return Err("a server has switched to what nobody asked for".into());
    }
    let is_tunnel = response.status() == StatusCode::SWITCHING_PROTOCOLS
        || (is_connect && response.status().is_success());
    if is_tunnel {
        let on_guest = is_http1.then_some(on_guest);
        return Ok(switch(exchange, (&scope, watch), response, (manner, on_guest)));
    }
    let mut response = redact(exchange, &scope, response, (manner, is_head)).await?;
    if let Some(expected) = expected {
        expected.conclude(&mut response);
    }
    Ok(response)
}

/// The answer of a server from which on it is no HTTP. Over HTTP/1, where the guest is `on_guest`,
/// that begins here; over HTTP/2 it is what the bodies of the two are.
fn switch(
    exchange: &Arc<Exchange>,
    (scope, watch): (&Scope, Option<Watch>),
    mut response: Response<Body>,
    (manner, on_guest): (Manner, Option<OnUpgrade>),
) -> Response<Body> {
    // What a server of HTTP/1 makes of CONNECT is none of those.
    let is_switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let watch = watch.filter(|_| is_switched || on_guest.is_none());
    let extends = watch.is_some() && response.headers().contains_key(SEC_WEBSOCKET_EXTENSIONS);
    if extends {
        let problem = "a WebSocket with an extension that nobody asked for".to_owned();
        exchange.tell(Incident::Server { problem });
    }
    if clear(scope, &mut response).is_err() || extends {
        watch.iter().for_each(Watch::refuse);
        return page::unreadable(name_of(exchange)).answer(manner);
    }
    response.headers_mut().remove(CONTENT_LENGTH);
    match (on_guest, watch) {
        (Some(guest), watch) => {
            Tunnels::begin(exchange, (guest, hyper::upgrade::on(&mut response)), watch);
            response
        }
        (None, Some(watch)) => response.map(|body| watch.response(body)),
        (None, None) => response,
    }
}

/// Whether the request is for whom the handshake was for, and one that may be made.
fn check(exchange: &Exchange, parts: &Parts) -> Result<(), page::Page> {
    let name = exchange.call.name.as_deref();
    if tunnel::is_other(parts) {
        return Err(page::unsupported(name));
    }
    let Err(wrong) = authority::check(&exchange.call, parts) else { return Ok(()) };
    Err(match wrong {
        Wrong::Padded => page::padded(name),
        // As through a proxy of the guest's; but such a one may have no secret.
        Wrong::Unclear | Wrong::Elsewhere(_) if exchange.is_open() => return Ok(()),
        Wrong::Unclear => page::unclear(name),
        Wrong::Elsewhere(said) => {
            exchange.tell(Incident::Authority { said });
            page::misdirected(name)
        }
    })
}

fn name_of(exchange: &Exchange) -> Option<&str> {
    exchange.call.name.as_deref()
}

impl Exchange {
    /// Whether `body` may be held until it is whole: it is short, and not too many are held. What
    /// comes back is to be kept for as long as its bytes are.
    fn may_hold(&self, body: &Body) -> Option<OwnedSemaphorePermit> {
        let len = body.size_hint().exact().filter(|len| *len <= HELD_BODY_BYTES_MAX)?;
        self.try_hold(usize::try_from(len).ok()?)
    }

    fn try_hold(&self, len: usize) -> Option<OwnedSemaphorePermit> {
        let held = Arc::clone(&self.interceptor.lasting.held);
        held.try_acquire_many_owned(u32::try_from(len).ok()?).ok()
    }
}

/// Why a message goes no further.
enum Stopped {
    Violation(Violation),
    /// It has not become whole in time.
    Late,
    Broken(Fault),
}

/// A body that is whole, and the leave to hold it.
struct Whole {
    bytes: Bytes,
    trailers: Option<HeaderMap>,
    permit: OwnedSemaphorePermit,
}

/// Bytes that are counted among those that are held, wherever they wait.
struct Held {
    bytes: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A request that may pass.
struct Looked {
    /// What it was looked at with.
    scope: Arc<Scope>,
    body: Body,
    /// What looks at the WebSocket that it asks for.
    watch: Option<Watch>,
}

/// Looks at a request, and puts secrets into it.
async fn look(
    (exchange, expects): (&Arc<Exchange>, bool),
    parts: &mut Parts,
    body: Body,
    found: &Arc<AtomicBool>,
) -> Result<Looked, Stopped> {
    let mut scope = exchange.scope();
    if scope.is_empty() {
        return Ok(Looked { scope, body, watch: None });
    }
    let is_connect = parts.method == Method::CONNECT;
    let has_body = !body.is_end_stream();
    // Whether there will be a body at all is the server's to say where it was asked.
    let may_wait = has_body && !is_connect && !expects && scope.looks_at_body(&parts.headers);
    let permit = may_wait.then(|| exchange.may_hold(&body)).flatten();
    let (body, whole) = match permit {
        Some(permit) => {
            let whole = Whole::of(body, permit).await?;
            // No value has left yet, and a guest that takes its time gets none of that time.
            scope = exchange.scope();
            (Body::of(Bytes::new()), Some(whole))
        }
        None => (body, None),
    };
    scope.head(parts).map_err(Stopped::Violation)?;
    if scope.redacts() {
        narrow::narrow(&mut parts.headers);
    }
    let watch = tunnel::is_websocket(parts).then(|| Watch::new(exchange));
    if watch.is_some() {
        // Compressed messages would hide what is in them.
        parts.headers.remove(SEC_WEBSOCKET_EXTENSIONS);
    }
    if !has_body {
        return Ok(Looked { scope, body, watch });
    }
    if is_connect {
        let body = match watch.as_ref().filter(|_| parts.version == Version::HTTP_2) {
            Some(watch) => watch.request(body),
            None => {
                let (filter, tell) = (scope.tunnel(), teller(exchange, found));
                Body::filtered(body, filter, Arc::clone(&scope), tell)
            }
        };
        return Ok(Looked { scope, body, watch });
    }
    let filter = scope.body(&parts.headers).map_err(Stopped::Violation)?;
    let body = match whole {
        Some(whole) => whole.pass(exchange, &scope, &mut parts.headers, filter).await?,
        None if filter.is_pass() => body,
        None => {
            if filter.may_change_length() {
                lengthen(parts);
            }
            if filter.encodes() {
                digest::forget(&mut parts.headers);
            }
            Body::filtered(body, filter, Arc::clone(&scope), teller(exchange, found))
        }
    };
    Ok(Looked { scope, body, watch })
}

/// Lets the body of a request end where it ends, however long it gets.
fn lengthen(parts: &mut Parts) {
    let had_length = parts.headers.remove(CONTENT_LENGTH).is_some();
    if had_length && parts.version < Version::HTTP_2 {
        // Without it no body of HTTP/1.0 is sent, nor any of a GET (RFC 9112 6.1 and 6.3).
        parts.version = Version::HTTP_11;
        parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Tells of a violation that ends a body on its way.
fn teller(
    exchange: &Arc<Exchange>,
    found: &Arc<AtomicBool>,
) -> impl FnOnce(Violation) + Send + 'static {
    let (exchange, found) = (Arc::clone(exchange), Arc::clone(found));
    move |violation| {
        exchange.report(&violation);
        found.store(true, Ordering::Release);
    }
}

impl Whole {
    /// Takes in the whole of `body`, as `permit` allows.
    async fn of(body: Body, permit: OwnedSemaphorePermit) -> Result<Self, Stopped> {
        let whole = timeout(WHOLE_MAX, body.collect()).await.map_err(|_| Stopped::Late)?;
        let whole = whole.map_err(Stopped::Broken)?;
        let trailers = whole.trailers().cloned();
        Ok(Self { bytes: whole.to_bytes(), trailers, permit })
    }

    /// What `filter` makes of it, which is the body of a message with `headers`.
    async fn pass(
        self,
        exchange: &Exchange,
        scope: &Arc<Scope>,
        headers: &mut HeaderMap,
        mut filter: BodyFilter,
    ) -> Result<Body, Stopped> {
        let Self { bytes: mut rest, mut trailers, mut permit } = self;
        let as_it_came = rest.clone();
        if let Some(trailers) = &mut trailers {
            filter.trailers(scope, trailers).map_err(Stopped::Violation)?;
        }
        let mut bytes = Vec::with_capacity(rest.len());
        while !rest.is_empty() {
            let passed = filter.push(&mut rest).map_err(Stopped::Violation)?;
            bytes.extend_from_slice(&passed);
            hold_more(exchange, &mut permit, bytes.len())?;
            if !rest.is_empty() {
                give_way().await;
            }
        }
        bytes.extend_from_slice(&filter.finish().map_err(Stopped::Violation)?);
        if !filter.has_changed() {
            // Encoded as it was, so that what is said of its bytes holds.
            bytes = as_it_came.into();
        } else if filter.encodes() {
            digest::forget(headers);
        }
        hold_more(exchange, &mut permit, bytes.len())?;
        if headers.contains_key(CONTENT_LENGTH) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        }
        let held = Held { bytes, _permit: permit };
        Ok(Body::whole(Bytes::from_owner(held), trailers))
    }
}

/// Lets everybody else go on. It is woken at once, by which a set of streams sees that it has had
/// its turn: what tokio's own does is seen only behind a turn of all of them.
async fn give_way() {
    let mut has_waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Lets `permit` be one for `len` bytes, where they have become more.
fn hold_more(
    exchange: &Exchange,
    permit: &mut OwnedSemaphorePermit,
    len: usize,
) -> Result<(), Stopped> {
    let more = len.saturating_sub(permit.num_permits());
    let too_long = || Stopped::Violation(Violation::too_long("body"));
    permit.merge(exchange.try_hold(more).ok_or_else(too_long)?);
    Ok(())
}

/// The answer to a request that must not pass.
fn refusal(exchange: &Exchange, manner: Manner) -> Response<Body> {
    page::secret(&exchange.interceptor.page, exchange.call.name.as_deref()).answer(manner)
}

/// The response as the guest may have it.
async fn redact(
    exchange: &Exchange,
    scope: &Arc<Scope>,
    mut response: Response<Body>,
    (manner, is_head): (Manner, bool),
) -> Result<Response<Body>, Fault> {
    if !scope.redacts() {
        return Ok(response);
    }
    let unreadable = || Ok(page::unreadable(name_of(exchange)).answer(manner));
    let is_clear = clear(scope, &mut response).is_ok();
    // A part that nobody was asked for may be a half of a value.
    if !is_clear || response.status() == StatusCode::PARTIAL_CONTENT {
        return unreadable();
    }
    let (mut parts, body) = response.into_parts();
    let Ok(filter) = scope.response(&parts.headers, manner.is_grpc) else { return unreadable() };
    if is_head || body.is_end_stream() {
        return Ok(Response::from_parts(parts, body));
    }
    if let Some(permit) = exchange.may_hold(&body) {
        // So it has a length again, which many clients show.
        let passed = async {
            Whole::of(body, permit).await?.pass(exchange, scope, &mut parts.headers, filter).await
        };
        return match passed.await {
            Ok(body) => Ok(Response::from_parts(parts, body)),
            Err(Stopped::Violation(_)) => unreadable(),
            Err(Stopped::Late) => Ok(page::silent(name_of(exchange)).answer(manner)),
            Err(Stopped::Broken(error)) => Err(error),
        };
    }
    parts.headers.remove(CONTENT_LENGTH);
    if filter.encodes() {
        digest::forget(&mut parts.headers);
    }
    let body = Body::filtered(body, filter, Arc::clone(scope), |_| ());
    Ok(Response::from_parts(parts, body))
}

/// Takes values out of the head of a response.
fn clear(scope: &Scope, response: &mut Response<Body>) -> Result<(), Violation> {
    if scope.redacts() {
        // It may be any text, and nobody reads it (RFC 9112 4).
        response.extensions_mut().remove::<ReasonPhrase>();
    }
    scope.redact(response.headers_mut())
}

#[cfg(test)]
mod tests;
