//! Interim responses (RFC 9110 15.2): what a server says of a request before it answers it, which
//! is the guest's to hear.

use std::sync::Arc;

use hyper::{Response, StatusCode};

use crate::service::secrets::Scope;

/// Interim responses to one request that pass.
const RESPONSES_MAX: usize = 16;
/// Bytes of the fields of all of them: no window holds them back, should the guest not read.
const FIELD_BYTES_MAX: usize = 16 * 1024;

/// Which interim responses to one request pass.
pub(super) struct Interim {
    scope: Arc<Scope>,
    responses_left: usize,
    bytes_left: usize,
}

impl Interim {
    pub(super) fn new(scope: &Arc<Scope>) -> Self {
        let scope = Arc::clone(scope);
        Self { scope, responses_left: RESPONSES_MAX, bytes_left: FIELD_BYTES_MAX }
    }

    /// `response` as the guest may have it; `None`: not at all.
    pub(super) fn pass(&mut self, mut response: Response<()>) -> Option<Response<()>> {
        // HTTP/2 knows of none to switch to (RFC 9113 8.6).
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            || self.scope.redact(response.headers_mut()).is_err()
        {
            return None;
        }
        let fields = response.headers().iter();
        let bytes = fields.map(|(name, value)| name.as_str().len() + value.len()).sum();
        self.responses_left = self.responses_left.checked_sub(1)?;
        self.bytes_left = self.bytes_left.checked_sub(bytes)?;
        Some(response)
    }
}
