//! Bodies that are messages behind their lengths: those of gRPC (its "PROTOCOL-HTTP2", under
//! Length-Prefixed-Message): a byte of flags, the length as four bytes, most significant first, and
//! so many bytes.
//!
//! Owns where one ends, since whoever sent it may wait for an answer before the next: nothing of it
//! is held back behind its end. And since its length stands before it, and others inside, nothing
//! in it changes its own.

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Method, Request, Version};

/// Bytes before a message.
const HEADER_BYTES: usize = 5;
/// The flag of gRPC-Web's trailers, which stand behind the messages as one of them (its
/// "PROTOCOL-WEB").
const TRAILERS: u8 = 0x80;

/// The kinds of such bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Grpc,
    /// gRPC-Web in binary; in base64 (`-web-text`) it is a text like any other.
    Web,
}

/// Which messages a body with `headers` is; `None`: it is all one.
pub(super) fn kind(headers: &HeaderMap) -> Option<Kind> {
    let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let kind = kind.split(|byte| matches!(byte, b';' | b'+')).next().unwrap_or(&[]);
    match kind.trim_ascii().to_ascii_lowercase().as_slice() {
        b"application/grpc" => Some(Kind::Grpc),
        b"application/grpc-web" => Some(Kind::Web),
        _ => None,
    }
}

/// Whether `request` is a call, so that messages may answer it. Else it is whoever stored the
/// answer that says what it is.
pub(crate) fn are_asked_for<B>(request: &Request<B>) -> bool {
    let is_call = match kind(request.headers()) {
        Some(Kind::Grpc) => request.version() == Version::HTTP_2,
        Some(Kind::Web) => true,
        None => false,
    };
    is_call && *request.method() == Method::POST
}

/// Where in a body of messages one is.
pub(super) struct Messages {
    kind: Kind,
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

/// A message that nobody here can read: most likely it is compressed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Compressed;

impl Messages {
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, header: [0; HEADER_BYTES], known: 0, left: 0 }
    }

    /// Whether what follows is the header of a message, or more of one.
    pub(super) fn is_between(&self) -> bool {
        self.left == 0
    }

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
            // Any other would be a part of something that only looks like messages.
            if flags != 0 && (self.kind, flags) != (Kind::Web, TRAILERS) {
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
    fn read(kind: Kind, body: &[u8], at_most: usize) -> Result<Vec<Vec<u8>>, Compressed> {
        let mut messages = Messages::new(kind);
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
            let read = read(Kind::Grpc, body, at_most).unwrap();
            assert_eq!(read, [&b"abc"[..], b"d", b"e"], "{at_most}");
        }
    }

    #[test]
    fn a_message_with_any_flag_but_that_of_trailers_is_none_to_be_read() {
        for flags in 0..=u8::MAX {
            for kind in [Kind::Grpc, Kind::Web] {
                let body = [b"\0\0\0\0\x01a", &[flags][..], b"\0\0\0\x01b"].concat();
                let is_read = flags == 0 || (kind == Kind::Web && flags == 0x80);
                assert_eq!(read(kind, &body, 3).is_ok(), is_read, "{flags} {kind:?}");
            }
        }
    }

    #[test]
    fn the_type_of_the_content_tells() {
        for (text, expected) in [
            ("application/grpc", Some(Kind::Grpc)),
            ("application/grpc+proto", Some(Kind::Grpc)),
            ("application/grpc ;x=y", Some(Kind::Grpc)),
            ("Application/gRPC-web; x=y", Some(Kind::Web)),
            ("application/grpc-web+proto", Some(Kind::Web)),
            ("application/grpc-web-text", None),
            ("application/grpc-web-text+proto", None),
            ("application/grpcx", None),
            ("application/json", None),
            ("text/grpc", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(text));
            assert_eq!(kind(&headers), expected, "{text}");
        }
        assert_eq!(kind(&HeaderMap::new()), None);
    }

    #[test]
    fn messages_are_asked_for_by_a_call_only() {
        let asks = |method, version, kind| {
            let request = Request::builder().method(method).version(version);
            are_asked_for(&request.header(CONTENT_TYPE, kind).body(()).unwrap())
        };
        let (grpc, web) = ("application/grpc", "application/grpc-web+proto");
        assert!(asks(Method::POST, Version::HTTP_2, grpc));
        assert!(asks(Method::POST, Version::HTTP_2, web));
        assert!(asks(Method::POST, Version::HTTP_11, web));
        assert!(!asks(Method::POST, Version::HTTP_11, grpc));
        assert!(!asks(Method::GET, Version::HTTP_2, grpc));
        assert!(!asks(Method::GET, Version::HTTP_11, web));
        assert!(!asks(Method::POST, Version::HTTP_2, "text/plain"));
    }
}
