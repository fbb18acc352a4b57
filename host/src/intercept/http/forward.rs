//! One request and its response.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use hyper::header::{ACCEPT_ENCODING, CONTENT_LENGTH, HeaderValue};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Version};

use tokio::sync::SemaphorePermit;

use super::super::authority::{self, Wrong};
use super::super::body::{Body, Fault};
use super::interim::Interim;
use super::page::Manner;
use super::tunnel::Tunnels;
use super::{Exchange, expect, page, tunnel};
use crate::events::Incident;
use crate::service::secrets::{BodyFilter, Scope, Violation};

/// How gRPC says which compression of messages it takes.
const GRPC_ACCEPT_ENCODING: &str = "grpc-accept-encoding";

/// A body that is no longer than this is held until it is whole.
const HELD_BODY_BYTES_MAX: u64 = 256 * 1024;

/// Hands `request` on with `send`, and the response back.
pub(super) async fn answer(
    exchange: &Arc<Exchange>,
    request: Request<Body>,
    send: impl AsyncFnOnce(Request<Body>, Interim) -> Result<Response<Body>, Fault>,
) -> Result<Response<Body>, Fault> {
    let manner = Manner::of(&request);
    let (mut parts, body) = request.into_parts();
    if let Err(page) = check(exchange, &parts) {
        return Ok(page.answer(manner));
    }
    let is_http1 = parts.version < Version::HTTP_2;
    let is_connect = parts.method == Method::CONNECT;
    let is_head = parts.method == Method::HEAD;
    let may_switch = tunnel::narrow(&mut parts.headers);
    if is_connect {
        // Neither it nor its answer has a body of its own (RFC 9110 9.3.6).
        parts.headers.remove(CONTENT_LENGTH);
    }
    let scope = exchange.scope();
    let found = Arc::<AtomicBool>::default();
    let expects = expect::is_in(&parts, &body);
    let looked = look((exchange, expects), &scope, &mut parts, body, &found).await;
    let body = match looked {
        Ok(body) => body,
        Err(Stopped::Violation(violation)) => {
            exchange.report(&violation);
            return Ok(refusal(exchange, manner));
        }
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
    let mut response = match send(request, Interim::new(&scope)).await {
        Ok(response) => response,
        // Its own body ended it.
        Err(_) if found.load(Ordering::Acquire) => return Ok(refusal(exchange, manner)),
        Err(error) => return Err(error),
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS && !may_switch {
        return Err("a server has switched to what nobody asked for".into());
    }
    let is_tunnel = response.status() == StatusCode::SWITCHING_PROTOCOLS
        || (is_connect && response.status().is_success());
    if is_tunnel {
        response.headers_mut().remove(CONTENT_LENGTH);
        // Over HTTP/2 it is what the bodies of the two are.
        if is_http1 {
            Tunnels::begin(exchange, on_guest, hyper::upgrade::on(&mut response));
        }
        return Ok(response);
    }
    let mut response = redact(exchange, &scope, response, (manner, is_head)).await?;
    if let Some(expected) = expected {
        expected.conclude(&mut response);
    }
    Ok(response)
}

/// Whether the request is for whom the handshake was for, and one that may be made.
fn check(exchange: &Exchange, parts: &Parts) -> Result<(), page::Page> {
    let name = exchange.call.name.as_deref();
    if tunnel::is_other(parts) {
        return Err(page::unsupported(name));
    }
    authority::check(&exchange.call, parts).map_err(|wrong| match wrong {
        Wrong::Unclear => page::unclear(name),
        Wrong::Padded => page::padded(name),
        Wrong::Elsewhere(said) => {
            let incident = Incident::Authority { said };
            exchange.interceptor.lasting.reporter.tell(&exchange.call, incident);
            page::misdirected(name)
        }
    })
}

impl Exchange {
    /// Whether `body` may be held until it is whole: it is short, and not too many are held. What
    /// comes back is to be kept meanwhile.
    fn may_hold(&self, body: &Body) -> Option<SemaphorePermit<'_>> {
        let len = body.size_hint().exact().filter(|len| *len <= HELD_BODY_BYTES_MAX)?;
        self.interceptor.lasting.held.try_acquire_many(u32::try_from(len).ok()?).ok()
    }
}

/// Why a request goes no further.
enum Stopped {
    Violation(Violation),
    Broken(Fault),
}

/// Looks at a request, and puts secrets into it; returns its body.
async fn look(
    (exchange, expects): (&Arc<Exchange>, bool),
    scope: &Arc<Scope>,
    parts: &mut Parts,
    body: Body,
    found: &Arc<AtomicBool>,
) -> Result<Body, Stopped> {
    if scope.is_empty() {
        return Ok(body);
    }
    scope.head(parts).map_err(Stopped::Violation)?;
    if scope.redacts() && parts.headers.contains_key(ACCEPT_ENCODING) {
        // What comes back is looked at, too; so it is asked for as it can be read.
        parts.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, identity"));
    }
    if scope.redacts() && parts.headers.contains_key(GRPC_ACCEPT_ENCODING) {
        parts.headers.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    if body.is_end_stream() {
        return Ok(body);
    }
    let tell = {
        let (exchange, found) = (Arc::clone(exchange), Arc::clone(found));
        move |violation| {
            exchange.report(&violation);
            found.store(true, Ordering::Release);
        }
    };
    if parts.method == Method::CONNECT {
        return Ok(Body::filtered(body, scope.tunnel(), Arc::clone(scope), tell));
    }
    let filter = scope.body(&parts.headers).map_err(Stopped::Violation)?;
    if filter.is_pass() {
        return Ok(body);
    }
    // Whether there will be a body at all is the server's to say where it was asked.
    if !expects && let Some(_held) = exchange.may_hold(&body) {
        return hold(scope, &mut parts.headers, body, filter).await;
    }
    if filter.may_change_length() {
        parts.headers.remove(CONTENT_LENGTH);
    }
    Ok(Body::filtered(body, filter, Arc::clone(scope), tell))
}

/// Takes in the whole of `body`, and what the filter makes of it.
async fn hold(
    scope: &Arc<Scope>,
    headers: &mut HeaderMap,
    body: Body,
    mut filter: BodyFilter,
) -> Result<Body, Stopped> {
    let whole = body.collect().await.map_err(Stopped::Broken)?;
    let mut trailers = whole.trailers().cloned();
    if let Some(trailers) = &mut trailers {
        filter.trailers(scope, trailers).map_err(Stopped::Violation)?;
    }
    let passed = filter.push(whole.to_bytes()).map_err(Stopped::Violation)?;
    let rest = filter.finish().map_err(Stopped::Violation)?;
    let whole = if rest.is_empty() { passed } else { Bytes::from([passed, rest].concat()) };
    if headers.contains_key(CONTENT_LENGTH) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(whole.len()));
    }
    Ok(Body::whole(whole, trailers))
}

/// The answer to a request that must not pass.
fn refusal(exchange: &Exchange, manner: Manner) -> Response<Body> {
    page::secret(&exchange.interceptor.page, exchange.call.name.as_deref()).answer(manner)
}

/// The response as the guest may have it.
async fn redact(
    exchange: &Exchange,
    scope: &Arc<Scope>,
    response: Response<Body>,
    (manner, is_head): (Manner, bool),
) -> Result<Response<Body>, Fault> {
    if !scope.redacts() {
        return Ok(response);
    }
    let (mut parts, body) = response.into_parts();
    let unreadable = || Ok(page::unreadable(exchange.call.name.as_deref()).answer(manner));
    let Ok(filter) = scope.response(&mut parts.headers) else { return unreadable() };
    if is_head || body.is_end_stream() {
        return Ok(Response::from_parts(parts, body));
    }
    if let Some(_held) = exchange.may_hold(&body) {
        // So it has a length again, which many clients show.
        return match hold(scope, &mut parts.headers, body, filter).await {
            Ok(body) => Ok(Response::from_parts(parts, body)),
            Err(Stopped::Violation(_)) => unreadable(),
            Err(Stopped::Broken(error)) => Err(error),
        };
    }
    parts.headers.remove(CONTENT_LENGTH);
    let body = Body::filtered(body, filter, Arc::clone(scope), |_| ());
    Ok(Response::from_parts(parts, body))
}
