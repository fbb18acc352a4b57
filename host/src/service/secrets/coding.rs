//! How a body is encoded, and how texts are written in it, by the fields of its message.

use hyper::HeaderMap;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, TRANSFER_ENCODING};

use super::codec::Codec;
use super::messages;

/// A content encoding (RFC 9110 8.4.1) that is looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Deflate,
}

/// The coding of a body with `headers`; `Err`: one that is not known here, or several, or one more
/// for the transfer.
pub(super) fn coding(headers: &HeaderMap) -> Result<Option<Coding>, ()> {
    let mut transfers = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(transfer) = transfers.next() {
        let is_chunked = transfer.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
        if !is_chunked || transfers.next().is_some() {
            return Err(());
        }
    }
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    let Some(value) = codings.next() else { return Ok(None) };
    if codings.next().is_some() {
        return Err(());
    }
    match value.as_bytes().trim_ascii().to_ascii_lowercase().as_slice() {
        b"" | b"identity" => Ok(None),
        b"gzip" | b"x-gzip" => Ok(Some(Coding::Gzip)),
        b"deflate" => Ok(Some(Coding::Deflate)),
        _ => Err(()),
    }
}

/// How texts are written in a body with `headers`.
pub(super) fn codec(headers: &HeaderMap) -> Codec {
    if messages::kind(headers).is_some() {
        return Codec::Raw;
    }
    let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or(&[]);
    let kind = kind.trim_ascii().to_ascii_lowercase();
    if kind == b"application/x-www-form-urlencoded" {
        Codec::Form
    } else if kind.ends_with(b"/json") || kind.ends_with(b"+json") {
        Codec::Json
    } else {
        Codec::Raw
    }
}
