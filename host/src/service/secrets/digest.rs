//! What a message says of the bytes of its body, which another encoder writes in another way.

use hyper::HeaderMap;
use hyper::header::{ETAG, HeaderName, HeaderValue};

/// Fields with a digest of what was sent, encoded as it was (RFC 9530, RFC 3230 and RFC 1864).
const DIGESTS: [&str; 5] =
    ["content-digest", "repr-digest", "digest", "content-md5", "x-goog-hash"];
/// The same of S3, with the name of the algorithm behind it.
const CHECKSUM: &str = "x-amz-checksum-";

/// Takes out of `headers`, or trailers, what holds for the bytes as they came only.
pub(crate) fn forget(headers: &mut HeaderMap) {
    let is_digest = |name: &&HeaderName| {
        DIGESTS.contains(&name.as_str()) || name.as_str().starts_with(CHECKSUM)
    };
    let names: Vec<HeaderName> = headers.keys().filter(is_digest).cloned().collect();
    for name in names {
        headers.remove(name);
    }
    // A strong tag is one of bytes, a weak one of what they mean (RFC 9110 8.8.1).
    if let Some(tag) = headers.get(ETAG).filter(|tag| tag.as_bytes().starts_with(b"\""))
        && let Ok(weak) = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat())
    {
        headers.insert(ETAG, weak);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_for_the_bytes_goes_and_the_rest_stays() {
        let fields = [
            ("content-digest", "sha-256=:x:"),
            ("repr-digest", "sha-256=:x:"),
            ("digest", "sha-256=x"),
            ("content-md5", "x"),
            ("x-goog-hash", "crc32c=x"),
            ("x-amz-checksum-crc64nvme", "x"),
            ("etag", "\"strong\""),
            ("x-amz-meta-digest", "mine"),
        ];
        let pair = |(name, value): (&str, &str)| (name.parse().unwrap(), value.parse().unwrap());
        let mut headers: HeaderMap = fields.map(pair).into_iter().collect();
        for _ in 0..2 {
            forget(&mut headers);
            assert_eq!(
                (headers.len(), &headers["x-amz-meta-digest"]),
                (2, &"mine".parse().unwrap())
            );
            assert_eq!(headers["etag"], "W/\"strong\"");
        }
    }
}
