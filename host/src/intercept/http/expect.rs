//! `Expect: 100-continue` (RFC 9110 10.1.1): whether a body is wanted is the server's to say, and
//! until it has, the guest is told nothing.
//!
//! Over HTTP/2 the server's own word gets to the guest, and the body to the server as it comes.
//! Over HTTP/1 hyper tells a guest to go on as soon as somebody asks for the body; so nobody does
//! until the server has said 100, or nothing for a while, as servers do that do not know of it.

use std::time::Duration;

use hyper::body::Body as _;
use hyper::header::{CONNECTION, EXPECT, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode, Version};
use tokio::sync::watch;
use tokio::time::timeout;

use super::super::body::Body;

/// A server that says nothing for so long is sent the body: it is what clients wait for, too.
const SILENT_MAX: Duration = Duration::from_secs(1);

/// Whether the guest waits to be told to go on with `body`.
pub(super) fn is_in(parts: &Parts, body: &Body) -> bool {
    let expected = parts.headers.get(EXPECT).map_or(&b""[..], HeaderValue::as_bytes);
    parts.version >= Version::HTTP_11
        && !body.is_end_stream()
        && expected.eq_ignore_ascii_case(b"100-continue")
}

/// What the server has said of a body.
pub(super) struct Expected(watch::Receiver<bool>);

/// Lets the body of `request` wait for the server's word.
pub(super) fn wait(request: Request<Body>) -> (Request<Body>, Expected) {
    let (tell, told) = watch::channel(false);
    let (silent, mut heard) = (tell.clone(), told.clone());
    let wanted = async move {
        if timeout(SILENT_MAX, heard.wait_for(|is_wanted| *is_wanted)).await.is_err() {
            silent.send_replace(true);
        }
    };
    let mut request = request.map(|body| Body::waiting(body, wanted));
    hyper::ext::on_informational(&mut request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            tell.send_replace(true);
        }
    });
    (request, Expected(told))
}

impl Expected {
    /// Ends the connection behind `response` where the body was not asked for: what the guest says
    /// next may be the body, or its next request, and nobody can tell.
    pub(super) fn conclude(&self, response: &mut Response<Body>) {
        if !*self.0.borrow() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}
