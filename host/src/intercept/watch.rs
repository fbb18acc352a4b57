//! Bytes in the clear that are not HTTP, on a connection that is the driver's: what the guest says
//! is looked at for placeholders where it lies, on its way.
//!
//! What a server would have to decode is not found.

use std::sync::Arc;

use super::{Call, Interceptor};
use crate::service::secrets::{Peer, Scope, StreamScan};

/// What the guest says on one connection.
pub(crate) struct Watch {
    interceptor: Arc<Interceptor>,
    call: Call,
    scope: Arc<Scope>,
    scan: StreamScan,
}

impl Watch {
    pub(super) fn new(interceptor: Arc<Interceptor>, call: Call) -> Option<Self> {
        let scope = scope(&interceptor, &call);
        let scan = scope.forbids().then(|| scope.plain_stream())?;
        Some(Self { interceptor, call, scope, scan })
    }

    /// Looks at `bytes`, which come next, for the secrets as they are by now. False: a placeholder
    /// ends in them that must not pass, which was told.
    ///
    /// # Cost
    /// A pass over them, without a copy but of so many at their ends as a placeholder has.
    pub(crate) fn may_pass(&mut self, bytes: &[u8]) -> bool {
        if self.scope.is_old() {
            self.scope = scope(&self.interceptor, &self.call);
            self.scan = self.scope.plain_stream();
        }
        let found = self.scan.push(bytes);
        if let Err(violation) = &found {
            self.interceptor.lasting.reporter.violation(&self.call, violation);
        }
        found.is_ok()
    }
}

/// What `call` may be told of the secrets that there are.
fn scope(interceptor: &Interceptor, call: &Call) -> Arc<Scope> {
    let Call { name, is_bound, .. } = call;
    let peer = Peer { name: name.as_deref(), is_tls_verified: false, is_bound: *is_bound };
    interceptor.lasting.vault.current().scope(&peer)
}
