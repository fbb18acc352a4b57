//! What a guest's browser is answered in place of a server that policy denies by default.

use crate::limits::DENY_MESSAGE_BYTES_MAX;

/// The answer to an HTTP/1 request at port 80, with status 403.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DenyPage {
    /// How it is written.
    pub format: DenyFormat,
    /// The message of the JSON, or the text, in which `{host}` stands for the name that was asked
    /// for ("this host", where none was).
    pub message: heapless::String<DENY_MESSAGE_BYTES_MAX>,
}

/// How a [`DenyPage`] is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenyFormat {
    /// `{"code":"network_policy_denied","message":MESSAGE,"domain":NAME}`, where the name may be
    /// `null`.
    Json,
    /// Plain text.
    Text,
}
