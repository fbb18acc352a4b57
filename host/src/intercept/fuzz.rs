//! A connection behind its handshakes, for what is fuzzed of HTTP: that of TLS is rustls's own. For
//! tests and cargo-fuzz only.

use std::sync::Arc;

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
