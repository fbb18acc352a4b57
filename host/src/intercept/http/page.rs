//! What the gateway answers itself.

use bytes::Bytes;
use hyper::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode, Version};
use serde_json::json;

use super::super::body::Body;
use crate::config::{DenyResponseFormat, HttpConfig};

/// An answer of the gateway's own.
#[derive(Debug, Clone)]
pub(super) struct Page {
    status: StatusCode,
    kind: &'static str,
    text: Bytes,
}

impl Page {
    /// The page as a response, after which the connection ends.
    pub(super) fn response(&self) -> Response<Body> {
        let mut response = Response::new(Body::of(self.text.clone()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    /// The same for a request of `version`.
    pub(super) fn answer(&self, version: Version) -> Response<Body> {
        let mut response = self.response();
        if version < Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn json(status: StatusCode, code: &str, message: &str, name: Option<&str>) -> Self {
        let text = json!({"code": code, "message": message, "domain": name});
        Self { status, kind: "application/json", text: format!("{text}\n").into() }
    }
}

/// Policy denies the server.
pub(super) fn policy(config: &HttpConfig, name: Option<&str>) -> Page {
    match config.deny_response_format {
        DenyResponseFormat::Json => {
            let message = config.network_message();
            Page::json(StatusCode::FORBIDDEN, "network_policy_denied", message, name)
        }
        DenyResponseFormat::Text => Page {
            status: StatusCode::FORBIDDEN,
            kind: "text/plain; charset=utf-8",
            text: config.text().replace("{host}", name.unwrap_or("this host")).into(),
        },
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

/// A field of the request is none (RFC 9113 8.2.1).
pub(super) fn padded(name: Option<&str>) -> Page {
    let message = "A field of the request begins or ends with a blank.";
    Page::json(StatusCode::BAD_REQUEST, "bad_request", message, name)
}

/// The response has an encoding in which nobody could find what must not come back.
pub(super) fn unreadable(name: Option<&str>) -> Page {
    let message = "The response has a content encoding that the gateway can't look into.";
    Page::json(StatusCode::BAD_GATEWAY, "unreadable_response", message, name)
}
