//! Messages of a WebSocket (RFC 6455): each is looked at as a body is, and by the secrets as they
//! are when it begins.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::body::BodyFilter;
use super::codec::Codec;
use super::stream::{Piece, TooLong};
use super::{Scope, Violation};

impl Scope {
    /// Whether the secrets have changed since.
    pub(crate) fn is_old(&self) -> bool {
        self.snapshot.is_old.load(Ordering::Acquire)
    }

    /// What looks at a message of the guest, and puts values into it.
    pub(crate) fn message(self: &Arc<Self>, is_json: bool) -> BodyFilter {
        let codec = if is_json { Codec::Json } else { Codec::Raw };
        BodyFilter::plain(self.upload(codec, None, "WebSocket message"))
    }

    /// What puts placeholders into a message of the server.
    pub(crate) fn message_back(self: &Arc<Self>) -> BodyFilter {
        BodyFilter::plain(self.redacts().then(|| self.download(None)))
    }

    /// Looks at the payload of a control frame, which never carries a value.
    ///
    /// # Errors
    /// A placeholder is in it that must not pass.
    pub(crate) fn control(&self, payload: &[u8]) -> Result<(), Violation> {
        self.look_at(Piece::all(payload), "WebSocket control frame")
    }

    /// The payload of a control frame that comes back, which is no longer for what was in it.
    ///
    /// # Errors
    /// It would be.
    pub(crate) fn control_back(&self, payload: Bytes) -> Result<Bytes, Violation> {
        if !self.redacts() {
            return Ok(payload);
        }
        let masked = self.snapshot.without_values(&payload, true);
        let masked = masked.map_err(|TooLong| Violation::too_long("WebSocket control frame"))?;
        Ok(masked.map_or(payload, |masked| Bytes::copy_from_slice(&masked)))
    }
}
