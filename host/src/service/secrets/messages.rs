//! Bodies that are messages behind their lengths: those of gRPC (its "PROTOCOL-HTTP2", under
//! Length-Prefixed-Message): a byte of flags, the length as four bytes, most significant first, and
//! so many bytes.
//!
//! Owns where one ends, since whoever sent it may wait for an answer before the next: nothing of it
//! is held back behind its end. And since its length stands before it, and others inside, nothing
//! in it changes its own.

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::{CONTENT_TYPE, HeaderValue};

/// Bytes before a message.
const HEADER_BYTES: usize = 5;
/// The flag of a message that is compressed.
const COMPRESSED: u8 = 1;

/// Whether a body with `headers` is such messages.
pub(crate) fn are_in(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let kind = kind.trim_ascii_start();
    kind.get(..16).is_some_and(|kind| kind.eq_ignore_ascii_case(b"application/grpc"))
}

/// Where in a body of messages one is.
#[derive(Default)]
pub(super) struct Messages {
    header: [u8; HEADER_BYTES],
    /// Bytes of the next header that have come.
    known: usize,
    /// Bytes of the message that are still to come.
    left: usize,
}

/// A part of such a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// What stands before a message; more of it may follow.
    Header(Bytes),
    /// Bytes of a message, and whether they are its last.
    Message(Bytes, bool),
}

/// A message that nobody here can read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Compressed;

impl Messages {
    /// Takes the next part off `bytes`; `None`: there are no more.
    pub(super) fn next(&mut self, bytes: &mut Bytes) -> Result<Option<Part>, Compressed> {
        if bytes.is_empty() {
            return Ok(None);
        }
        if self.left > 0 {
            let part = bytes.split_to(self.left.min(bytes.len()));
            self.left -= part.len();
            return Ok(Some(Part::Message(part, self.left == 0)));
        }
        let part = bytes.split_to((HEADER_BYTES - self.known).min(bytes.len()));
        for byte in &part {
            if let Some(place) = self.header.get_mut(self.known) {
                *place = *byte;
            }
            self.known += 1;
        }
        if self.known == HEADER_BYTES {
            let [flags, length @ ..] = self.header;
            if flags & COMPRESSED != 0 {
                return Err(Compressed);
            }
            self.known = 0;
            self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        }
        Ok(Some(Part::Header(part)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages of `body`, cut into pieces of `at_most` bytes.
    fn read(body: &[u8], at_most: usize) -> Result<Vec<Vec<u8>>, Compressed> {
        let mut messages = Messages::default();
        let (mut all, mut passed) = (vec![vec![]], vec![]);
        for piece in body.chunks(at_most) {
            let mut piece = Bytes::copy_from_slice(piece);
            while let Some(part) = messages.next(&mut piece)? {
                let (Part::Header(bytes) | Part::Message(bytes, _)) = &part;
                passed.extend_from_slice(bytes);
                if let Part::Message(bytes, is_last) = part {
                    all.last_mut().unwrap().extend(bytes);
                    if is_last {
                        all.push(vec![]);
                    }
                }
            }
        }
        assert_eq!(passed, body, "nothing is lost");
        Ok(all)
    }

    #[test]
    fn messages_end_where_they_end_however_they_are_cut() {
        let body = b"\0\0\0\0\x03abc\0\0\0\0\0\0\0\0\0\x01d\0\0\0\0\x02e";
        for at_most in 1..=body.len() {
            let read = read(body, at_most).unwrap();
            assert_eq!(read, [&b"abc"[..], b"d", b"e"], "{at_most}");
        }
    }

    #[test]
    fn a_message_that_is_compressed_is_none_to_be_read() {
        assert_eq!(read(b"\0\0\0\0\x01a\x01\0\0\0\x01b", 3), Err(Compressed));
    }

    #[test]
    fn the_type_of_the_content_tells() {
        for (kind, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC-web; x=y", true),
            ("application/json", false),
            ("text/grpc", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            assert_eq!(are_in(&headers), expected, "{kind}");
        }
        assert!(!are_in(&HeaderMap::new()));
    }
}
