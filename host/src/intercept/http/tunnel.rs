//! Connections that stop being HTTP: WebSocket (RFC 6455, RFC 8441), and what a server makes of
//! CONNECT. They live in the session that they began in, and end with it. What is said in the first
//! is looked at (`websocket`) where there is a secret; else both are bytes.
//!
//! Inside TLS to nothing else is switched: HTTP/2 in the place of HTTP/1 (`h2c`), or TLS inside
//! TLS, would be requests that nobody looks at, for any host that the server answers for.

use std::sync::{Arc, Mutex, PoisonError};

use h2::ext::Protocol;
use hyper::HeaderMap;
use hyper::header::{HeaderValue, UPGRADE};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

use super::Exchange;
use super::websocket::Watch;
use crate::intercept::pipe::Broken;
use crate::intercept::relay;

/// What may be switched to, as HTTP calls it (RFC 6455 11.2, RFC 8441 4).
const WEBSOCKET: &str = "websocket";
/// With which a client offers HTTP/2 (RFC 7540 3.2.1).
const HTTP2_SETTINGS: &str = "http2-settings";

/// Takes from the fields of a request what it must not become; where it `is_open`, bytes of any
/// kind, which are looked at, but no HTTP/2. Whether there is anything left that the server may
/// switch to.
pub(super) fn narrow(headers: &mut HeaderMap, is_open: bool) -> bool {
    headers.remove(HTTP2_SETTINGS);
    // What is a WebSocket, and whether it is bytes, is known before anybody switches.
    let is_other = |value: &HeaderValue| {
        let mut protocols = value.as_bytes().split(|byte| *byte == b',');
        protocols.all(|one| !is(one, "h2c") && !is(one, WEBSOCKET))
    };
    let may_be_bytes = is_open && headers.get_all(UPGRADE).iter().all(is_other);
    if !(may_be_bytes || asks_for_websocket(headers)) {
        // A server may go on without (RFC 9110 7.8).
        headers.remove(UPGRADE);
    }
    headers.contains_key(UPGRADE)
}

fn is(value: &[u8], protocol: &str) -> bool {
    value.trim_ascii().eq_ignore_ascii_case(protocol.as_bytes())
}

/// Whether a WebSocket, and nothing else, is what may be switched to.
fn asks_for_websocket(headers: &HeaderMap) -> bool {
    let mut upgrades = headers.get_all(UPGRADE).iter().peekable();
    upgrades.peek().is_some() && upgrades.all(|value| is(value.as_bytes(), WEBSOCKET))
}

/// Whether a stream is to carry what is neither a request nor a WebSocket (RFC 8441 4): through a
/// server that relays it, it could go anywhere.
pub(super) fn is_other(request: &Parts) -> bool {
    let protocol = request.extensions.get::<Protocol>();
    protocol.is_some_and(|protocol| !protocol.as_str().eq_ignore_ascii_case(WEBSOCKET))
}

/// Whether `request`, which was [narrowed](narrow), asks for a WebSocket.
pub(super) fn is_websocket(request: &Parts) -> bool {
    request.extensions.get::<Protocol>().is_some() || asks_for_websocket(&request.headers)
}

/// The tunnels of one connection.
#[derive(Default, Clone)]
pub(super) struct Tunnels(Arc<Mutex<JoinSet<Result<(), Broken>>>>);

impl Tunnels {
    /// Begins one between two sides that switch, in which `watch` looks.
    pub(super) fn begin(
        exchange: &Arc<Exchange>,
        (guest, server): (OnUpgrade, OnUpgrade),
        watch: Option<Watch>,
    ) {
        let session = Arc::clone(exchange);
        let tunnel = async move {
            let (guest, server) = tokio::try_join!(guest, server)?;
            let (guest, server) = (TokioIo::new(guest), TokioIo::new(server));
            match watch {
                Some(watch) => watch.relay(guest, server).await,
                None => relay::run(&session, guest, server).await,
            }
        };
        let mut tunnels = exchange.tunnels.0.lock().unwrap_or_else(PoisonError::into_inner);
        tunnels.spawn(tunnel);
        // Those that have ended are not kept.
        while tunnels.try_join_next().is_some() {}
    }

    /// Waits until all have ended.
    pub(super) async fn end(&self) -> Result<(), Broken> {
        let mut tunnels =
            core::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        while let Some(ended) = tunnels.join_next().await {
            ended.map_err(|_| Broken)??;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_may_become_a_websocket_and_nothing_else() {
        for (upgrades, expected) in [
            (&["websocket"][..], true),
            (&["WebSocket"], true),
            (&[], false),
            (&["h2c"], false),
            (&["h2c, websocket"], false),
            (&["websocket", "h2c"], false),
            (&["TLS/1.2"], false),
            (&["HTTP/2.0"], false),
            (&["bytes"], false),
        ] {
            let mut headers = HeaderMap::new();
            for upgrade in upgrades {
                headers.append(UPGRADE, HeaderValue::from_static(upgrade));
            }
            headers.insert(HTTP2_SETTINGS, HeaderValue::from_static("AAMAAABk"));
            assert_eq!(narrow(&mut headers, false), expected, "{upgrades:?}");
            assert_eq!(headers.len(), usize::from(expected), "{upgrades:?}: {headers:?}");
        }
    }

    #[test]
    fn an_open_connection_may_become_anything_but_http_2_and_a_websocket_only_if_nothing_else() {
        for (upgrades, expected, is_websocket) in [
            (&["tcp"][..], true, false),
            (&["TLS/1.2"], true, false),
            (&["tcp, x"], true, false),
            (&["websocket"], true, true),
            (&["h2c"], false, false),
            (&["tcp, H2C"], false, false),
            (&["x, WebSocket"], false, false),
            (&["websocket", "x"], false, false),
        ] {
            let mut request = hyper::Request::new(());
            for upgrade in upgrades {
                request.headers_mut().append(UPGRADE, HeaderValue::from_static(upgrade));
            }
            let (mut parts, ()) = request.into_parts();
            assert_eq!(narrow(&mut parts.headers, true), expected, "{upgrades:?}");
            assert_eq!(self::is_websocket(&parts), is_websocket, "{upgrades:?}");
        }
    }
}
