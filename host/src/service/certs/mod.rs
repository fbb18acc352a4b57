//! Certificates: those that the gateway shows to the guest in the servers' place, and those of
//! servers that it believes.
//!
//! Must not know flows, tasks or names under policy. No process-wide crypto provider is used or
//! set, since an embedder may have one of its own.

mod authority;
mod leaves;
mod trust;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub(crate) use authority::{Authority, NewFiles};
pub(crate) use leaves::{Identity, Leaves};
pub(crate) use trust::{Trust, client_of, host_roots_pem};

/// The algorithms of all handshakes, towards guests and servers.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
