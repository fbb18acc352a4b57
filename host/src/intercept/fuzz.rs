//! A connection behind its handshakes, for what is fuzzed of HTTP: that of TLS is rustls's own. For
//! tests and cargo-fuzz only.

use std::net::SocketAddr;
use std::sync::Arc;

use sluicegate_core::Beginning;
use tokio::io::DuplexStream;

use super::http::{self, Exchange};
use super::{Call, Interceptor, sniff};

/// What the handshakes agreed on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Agreed {
    Http1,
    Http2,
    Nothing,
}

/// A connection to the name that was said, or to none.
pub(crate) fn call(name: Option<&str>) -> Call {
    let end = |address: [u8; 4], port| SocketAddr::from((address, port));
    Call {
        guest: end([100, 96, 0, 2], 4000),
        destination: end([93, 184, 216, 34], 443),
        to: (end([93, 184, 216, 34], 443), None),
        through_proxy: None,
        name: name.map(str::to_owned),
        is_bound: true,
        begins: Beginning::Tls,
        is_denied: false,
    }
}

/// Serves `call`, whose server has proven its name or not, between its two ends. False: it broke.
pub(crate) async fn serve(
    interceptor: Arc<Interceptor>,
    (call, is_verified): (Call, bool),
    agreed: Agreed,
    (guest, server): (DuplexStream, DuplexStream),
) -> bool {
    let exchange = Arc::new(Exchange::new(interceptor, call, is_verified));
    let served = match agreed {
        Agreed::Http1 => http::h1(exchange, guest, server).await,
        Agreed::Http2 => http::h2(exchange, guest, server).await,
        Agreed::Nothing => sniff::serve(exchange, guest, server).await,
    };
    served.is_ok()
}
