//! What a guest may ask of a server whose responses are looked at: to be answered in ways that can
//! be looked into, and with the whole of what there is, since nobody would find a value in two
//! halves.

use hyper::HeaderMap;
use hyper::header::{ACCEPT_ENCODING, HeaderName, HeaderValue, IF_RANGE, RANGE, TE};

/// How gRPC says which compression of messages it takes.
const GRPC_ACCEPT_ENCODING: &str = "grpc-accept-encoding";

/// Leaves of the wishes in `headers` those that can be granted.
pub(super) fn narrow(headers: &mut HeaderMap) {
    if headers.contains_key(ACCEPT_ENCODING) {
        let takes = if takes_gzip(headers) { "gzip, identity" } else { "identity" };
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(takes));
    }
    if headers.contains_key(GRPC_ACCEPT_ENCODING) {
        headers.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    // A server may pass over them (RFC 9110 14.2), so every client knows what to do without.
    headers.remove(RANGE);
    headers.remove(IF_RANGE);
    // A coding of the transfer (RFC 9112 7) would hide what is in it.
    if elements(headers, &TE).any(|(name, _)| name.eq_ignore_ascii_case(b"trailers")) {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    } else {
        headers.remove(TE);
    }
}

/// What is listed in the fields `name`: each with its parameters.
fn elements<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = (&'h [u8], &'h [u8])> {
    let values = headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
    values.flat_map(|value| value.split(|byte| *byte == b',')).map(|element| {
        let end = memchr::memchr(b';', element).unwrap_or(element.len());
        let (name, parameters) = element.split_at(end);
        (name.trim_ascii(), parameters)
    })
}

/// Whether the guest has said that it takes gzip (RFC 9110 12.5.3). `*` may be anything, so it is
/// none of it.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let is_gzip = |name: &[u8]| {
        [&b"gzip"[..], b"x-gzip"].iter().any(|gzip| gzip == &name.to_ascii_lowercase())
    };
    elements(headers, &ACCEPT_ENCODING)
        .any(|(name, parameters)| is_gzip(name) && !is_zero(parameters))
}

/// Whether `parameters` say a weight of nothing (RFC 9110 12.4.2).
fn is_zero(parameters: &[u8]) -> bool {
    let mut parameters = parameters.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    parameters.any(|parameter| {
        let (b"q=" | b"Q=", weight) = parameter.split_at(parameter.len().min(2)) else {
            return false;
        };
        weight.iter().all(|byte| matches!(byte, b'0' | b'.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn narrowed(fields: &[(HeaderName, &'static str)]) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_static(value));
        }
        narrow(&mut headers);
        let text = |(name, value): (&HeaderName, &HeaderValue)| {
            (name.to_string(), value.to_str().unwrap().to_owned())
        };
        headers.iter().map(text).collect()
    }

    #[test]
    fn gzip_is_asked_for_if_the_guest_takes_it() {
        for (said, expected) in [
            (&["gzip, deflate, br"][..], "gzip, identity"),
            (&["br", "GZip;q=0.5"], "gzip, identity"),
            (&["x-gzip"], "gzip, identity"),
            (&["identity"], "identity"),
            (&["*"], "identity"),
            (&["br, zstd"], "identity"),
            (&["gzip;q=0, br"], "identity"),
            (&["gzip ; q=0.000"], "identity"),
            (&["gzip; q=0.001"], "gzip, identity"),
            (&["ungzip"], "identity"),
            (&[""], "identity"),
        ] {
            let fields: Vec<_> = said.iter().map(|said| (ACCEPT_ENCODING, *said)).collect();
            let expected = [("accept-encoding".to_owned(), expected.to_owned())];
            assert_eq!(narrowed(&fields), expected, "{said:?}");
        }
        assert_eq!(narrowed(&[]), [], "who says nothing is asked nothing");
    }

    #[test]
    fn no_part_is_asked_for_and_no_coding_of_the_transfer() {
        let parts = [(RANGE, "bytes=0-9"), (IF_RANGE, "\"a\"")];
        assert_eq!(narrowed(&parts), []);
        let trailers = [("te".to_owned(), "trailers".to_owned())];
        assert_eq!(narrowed(&[(TE, "gzip, Trailers;q=0.5")]), trailers);
        assert_eq!(narrowed(&[(TE, "trailers"), (TE, "deflate")]), trailers);
        assert_eq!(narrowed(&[(TE, "gzip")]), []);
    }
}
