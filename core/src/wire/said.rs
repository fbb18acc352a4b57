//! What the first bytes of a connection say of whom they are for: the server name of a TLS
//! ClientHello (RFC 8446 4.1.2, RFC 6066 3), the authority of an HTTP/1 request (RFC 9112 3.2),
//! or of the first of HTTP/2 by prior knowledge (RFC 9113 3.3).
//!
//! Pure, without memory, and bounded: the first bytes are looked at where they lie, as often as
//! more of them come, and it is always said how many must be there before another look can tell
//! more. What can be read in two ways is malformed, and a protocol that is not known is said to be
//! so at once, by its first bytes.

mod frames;
mod hello;
mod request;

use crate::limits::DOMAIN_BYTES_MAX;
pub(crate) use frames::WELCOME;
pub use request::{FirstLine, first_line};

/// A name as it was said: in lower case, without a dot at its end, of letters, digits, hyphens,
/// underscores and single dots.
pub(crate) type SaidName = heapless::String<DOMAIN_BYTES_MAX>;

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "there is one at a time, and no heap to put it on")]
pub(crate) enum Heard {
    /// Not enough to tell; nothing new can be told before so many bytes are there.
    More(usize),
    /// The server's name.
    Name(SaidName),
    /// The name in a hello beside one that is encrypted, or pretends to be: it counts only where
    /// the connection ends, as nobody there can open the other (RFC 9849 6.1.6).
    Veiled(SaidName),
    /// A protocol in which names are said, and none is, or none that can be trusted.
    Nothing,
    /// Not a protocol that is known here.
    Unknown,
    /// It can't be what it begins as, or can be read in two ways.
    Malformed,
}

/// The first bytes of a connection, and how they are to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opening {
    pub(crate) heard: Heard,
    /// It is an HTTP/1 request, whose answer may have a body.
    pub(crate) http: Option<Method>,
    /// It begins as TLS does.
    pub(crate) is_hello: bool,
    /// More is to come, but who speaks may wait for the outside's first words before.
    pub(crate) is_greeting: bool,
}

impl Opening {
    /// One that is neither HTTP/1 nor TLS.
    pub(crate) fn of(heard: Heard) -> Self {
        Self { heard, http: None, is_hello: false, is_greeting: false }
    }
}

/// What matters of a request's method: an answer to HEAD has no body (RFC 9110 9.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Head,
    Other,
}

/// Reads the first bytes of a connection. Of them, `seen` were looked at before, and said to be too
/// few.
///
/// # Cost
/// A pass over a TLS hello; of an HTTP head over what is new, and over its first line for each line
/// that ends there, until the end of all is there.
pub(crate) fn read(bytes: &[u8], seen: usize) -> Opening {
    match bytes.first() {
        None => Opening::of(Heard::More(1)),
        Some(&hello::HANDSHAKE) => Opening { is_hello: true, ..Opening::of(hello::read(bytes)) },
        Some(_) if frames::is_in(bytes) => frames::read(bytes),
        Some(_) => request::read(bytes, seen),
    }
}

/// `text` as a name, if it is one.
fn name(text: impl IntoIterator<Item = u8>) -> Option<SaidName> {
    let mut name = SaidName::new();
    for byte in text {
        let byte = byte.to_ascii_lowercase();
        let is_of_name = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let is_second_dot = byte == b'.' && (name.is_empty() || name.ends_with('.'));
        if !is_of_name || is_second_dot {
            return None;
        }
        name.push(char::from(byte)).ok()?;
    }
    if name.ends_with('.') {
        name.pop();
    }
    // What ends in digits is an IPv4 address to whoever reads it (WHATWG URL 3.5), and no name.
    let last = name.rsplit('.').next().unwrap_or("");
    let is_address = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x");
    if is_address { None } else { Some(name) }
}
