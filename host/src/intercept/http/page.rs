//! What the gateway answers itself.

use bytes::Bytes;
use hyper::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode, Version};
use serde_json::json;

use super::super::body::Body;
use crate::config::{DenyResponseFormat, HttpConfig};
use crate::service::secrets::messages_are_asked_for;

/// How whoever asks understands an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    version: Version,
    /// It takes messages of gRPC.
    pub(super) is_grpc: bool,
}

impl Manner {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        Self { version: request.version(), is_grpc: messages_are_asked_for(request) }
    }
}

/// An answer of the gateway's own.
#[derive(Debug, Clone)]
pub(super) struct Page {
    status: StatusCode,
    kind: &'static str,
    text: Bytes,
    /// What it says in a line.
    message: String,
}

impl Page {
    fn page(&self) -> Response<Body> {
        let mut response = Response::new(Body::of(self.text.clone()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    /// The page as the answer to a request, after which a connection of HTTP/1 ends.
    pub(super) fn answer(&self, manner: Manner) -> Response<Body> {
        let mut response = if manner.is_grpc { self.status() } else { self.page() };
        if manner.version < Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// The same in the words of gRPC, whose clients take a page for a broken message: a status
    /// without any (its "PROTOCOL-HTTP2", Trailers-Only).
    fn status(&self) -> Response<Body> {
        const INTERNAL: u16 = 13;
        const UNAVAILABLE: u16 = 14;
        const PERMISSION_DENIED: u16 = 7;
        let code = match self.status {
            StatusCode::FORBIDDEN => PERMISSION_DENIED,
            StatusCode::BAD_GATEWAY => UNAVAILABLE,
            _ => INTERNAL,
        };
        let mut response = Response::new(Body::of(Bytes::new()));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(code));
        if let Ok(message) = percent_encoded(&self.message).try_into() {
            headers.insert("grpc-message", message);
        }
        response
    }

    fn json(status: StatusCode, code: &str, message: &str, name: Option<&str>) -> Self {
        let text = json!({"code": code, "message": message, "domain": name});
        let text = format!("{text}\n").into();
        Self { status, kind: "application/json", text, message: message.to_owned() }
    }
}

/// As the message of a status is written (gRPC's "PROTOCOL-HTTP2", Percent-Encoded).
fn percent_encoded(text: &str) -> String {
    let encoded = |byte: u8| match byte {
        b'%' | 0..b' ' | 0x7f.. => format!("%{byte:02X}"),
        _ => char::from(byte).to_string(),
    };
    text.bytes().map(encoded).collect()
}

/// Policy denies the server.
pub(super) fn policy(config: &HttpConfig, name: Option<&str>) -> Page {
    match config.deny_response_format {
        DenyResponseFormat::Json => {
            let message = config.network_message();
            Page::json(StatusCode::FORBIDDEN, "network_policy_denied", message, name)
        }
        DenyResponseFormat::Text => {
            let message = config.text().replace("{host}", name.unwrap_or("this host"));
            let (status, kind) = (StatusCode::FORBIDDEN, "text/plain; charset=utf-8");
            Page { status, kind, text: message.clone().into(), message }
        }
    }
}

/// A placeholder was to go where its secret may not.
pub(super) fn secret(config: &HttpConfig, name: Option<&str>) -> Page {
    let message = config.secret_message();
    Page::json(StatusCode::FORBIDDEN, "secret_policy_denied", message, name)
}

/// The request is for somebody else (RFC 9110 15.5.20).
pub(super) fn misdirected(name: Option<&str>) -> Page {
    let message = "The request is not for the host that its connection is for.";
    Page::json(StatusCode::MISDIRECTED_REQUEST, "misdirected_request", message, name)
}

/// It can't be told whom the request is for.
pub(super) fn unclear(name: Option<&str>) -> Page {
    let message = "It is not clear which host the request is for.";
    Page::json(StatusCode::BAD_REQUEST, "bad_request", message, name)
}

/// The request is to become what it may not (RFC 8441 4, RFC 9220 3).
pub(super) fn unsupported(name: Option<&str>) -> Page {
    let message = "A stream may become a WebSocket, and nothing else.";
    Page::json(StatusCode::NOT_IMPLEMENTED, "not_implemented", message, name)
}

/// A field of the request is none (RFC 9113 8.2.1).
pub(super) fn padded(name: Option<&str>) -> Page {
    let message = "A field of the request begins or ends with a blank.";
    Page::json(StatusCode::BAD_REQUEST, "bad_request", message, name)
}

/// The body of the request has not come (RFC 9110 15.5.9).
pub(super) fn late(name: Option<&str>) -> Page {
    let message = "The body of the request has not come in time.";
    Page::json(StatusCode::REQUEST_TIMEOUT, "request_timeout", message, name)
}

/// The body of the response has not come (RFC 9110 15.6.5).
pub(super) fn silent(name: Option<&str>) -> Page {
    let message = "The body of the response has not come in time.";
    Page::json(StatusCode::GATEWAY_TIMEOUT, "gateway_timeout", message, name)
}

/// The server has ended its TLS with an alert (RFC 9110 15.6.3).
pub(super) fn refused(name: Option<&str>) -> Page {
    let message = "The server has refused the connection within TLS.";
    Page::json(StatusCode::BAD_GATEWAY, "server_refused", message, name)
}

/// The response is such that nobody could find in it what must not come back.
pub(super) fn unreadable(name: Option<&str>) -> Page {
    let message = "The response has an encoding, or is a part, that the gateway can't look into.";
    Page::json(StatusCode::BAD_GATEWAY, "unreadable_response", message, name)
}
