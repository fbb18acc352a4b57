//! Bytes in the clear that are not HTTP, on a connection that is the driver's: what the guest says
//! is looked at for placeholders where it lies, on its way.
//!
//! What a server would have to decode is not found.

use std::sync::Arc;

use super::{Call, Interceptor};
use crate::service::secrets::{Peer, StreamScan};

/// What the guest says on one connection.
pub(crate) struct Watch {
    interceptor: Arc<Interceptor>,
    call: Call,
    scan: StreamScan,
}

impl Watch {
    pub(super) fn new(interceptor: Arc<Interceptor>, call: Call) -> Option<Self> {
        let Call { name, is_bound, .. } = &call;
        let peer = Peer { name: name.as_deref(), is_tls_verified: false, is_bound: *is_bound };
        let scope = interceptor.lasting.vault.current().scope(&peer);
        let scan = scope.forbids().then(|| scope.plain_stream())?;
        Some(Self { interceptor, call, scan })
    }

    /// Looks at `bytes`, which come next. False: a placeholder ends in them that must not pass,
    /// which was told.
    ///
    /// # Cost
    /// A pass over them, without a copy but of so many at their ends as a placeholder has.
    pub(crate) fn may_pass(&mut self, bytes: &[u8]) -> bool {
        let found = self.scan.push(bytes);
        if let Err(violation) = &found {
            self.interceptor.lasting.reporter.violation(&self.call, violation);
        }
        found.is_ok()
    }
}
