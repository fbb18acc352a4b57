//! A connection behind its handshakes, for what is fuzzed and tested of HTTP: that of TLS is
//! rustls's own. For tests and cargo-fuzz only.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::DuplexStream;
#[cfg(test)]
use tokio::sync::SemaphorePermit;

#[cfg(test)]
use super::Lasting;
use super::http::{self, Exchange};
use super::{Call, Forge, Interceptor, Reporter, sniff};
use crate::clock::Clock;
use crate::config::{HttpConfig, TlsConfig};
use crate::events::Audience;
use crate::service::secrets::Vault;

/// What the handshakes agreed on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Agreed {
    Http1,
    Http2,
    Nothing,
}

/// An interceptor with the secrets of `vault`.
pub(crate) fn interceptor(vault: Arc<Vault>) -> Arc<Interceptor> {
    observed(vault, Arc::default())
}

/// The same, whose events `audience` is told.
pub(crate) fn observed(vault: Arc<Vault>, audience: Arc<Audience>) -> Arc<Interceptor> {
    let reporter = Reporter::new(audience, Clock::new(), Default::default(), Arc::default());
    let tls = TlsConfig { enabled: true, ..TlsConfig::default() };
    let made = Forge::new((vault, None), reporter).make(&tls, &HttpConfig::default());
    let made = made.unwrap_or_else(|error| panic!("no interceptor: {error}"));
    made.0.expect("because it is enabled")
}

/// Takes what there is for connections of HTTP/2 that are wide, and for streams but for `left`.
#[cfg(test)]
pub(crate) fn fill(interceptor: &Interceptor, left: usize) -> [SemaphorePermit<'_>; 2] {
    let Lasting { wide, streams, .. } = &interceptor.lasting;
    [(wide, 0), (streams, left)].map(|(all, left)| {
        let count = u32::try_from(all.available_permits() - left).unwrap();
        all.try_acquire_many(count).unwrap()
    })
}

/// How many more streams of HTTP/2 there may be.
#[cfg(test)]
pub(crate) fn streams_left(interceptor: &Interceptor) -> usize {
    interceptor.lasting.streams.available_permits()
}

/// How many were refused, as there were none left.
#[cfg(test)]
pub(crate) fn streams_refused(interceptor: &Interceptor) -> u64 {
    let counter = &interceptor.lasting.reporter.published.http_streams_full;
    counter.load(std::sync::atomic::Ordering::Relaxed)
}

/// A call for the server `name`, at an address that it leads to.
pub(crate) fn call(name: &str) -> Call {
    let end = |port| SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), port));
    Call {
        guest: end(40_000),
        destination: end(443),
        to: (end(443), None),
        through_proxy: None,
        name: Some(name.to_owned()),
        is_bound: true,
        begins: sluicegate_core::Beginning::Tls,
        is_denied: false,
        open_to: None,
    }
}

/// Serves `call`, whose server has proven its name or not, between its two ends. False: it broke.
pub(crate) async fn serve(
    interceptor: Arc<Interceptor>,
    (call, is_verified): (Call, bool),
    agreed: Agreed,
    (guest, server): (DuplexStream, DuplexStream),
) -> bool {
    let exchange = Arc::new(Exchange::new(interceptor, call, is_verified).in_the_clear());
    let served = match agreed {
        Agreed::Http1 => http::h1(exchange, guest, server).await,
        Agreed::Http2 => http::h2(exchange, guest, server).await,
        Agreed::Nothing => sniff::serve(exchange, guest, server).await,
    };
    served.is_ok()
}
