//! What comes back: a value is the placeholder again, in the fields of a response, its trailers and
//! (by `body`) its body.

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::Scope;
use super::codec::Codec;
use super::head::{binary, is_binary};
use super::pattern::Found;
use super::stream::{Replace, TooLong, rewrite};

/// The status of a call as a message, in a field (gRPC's "PROTOCOL-HTTP2", under Responses).
const STATUS_DETAILS: &str = "grpc-status-details-bin";

/// Placeholders in the place of values.
pub(super) struct Redaction<'s>(pub(super) &'s Scope);

/// The same, as long as what they stand for.
pub(super) struct Mask<'s>(pub(super) &'s Scope);

impl Replace for Mask<'_> {
    fn replace(&self, found: &Found) -> Option<&[u8]> {
        self.0.snapshot.masks.get(found.index).map(Vec::as_slice)
    }
}

impl Replace for Redaction<'_> {
    fn replace(&self, found: &Found) -> Option<&[u8]> {
        let secret = self.0.secret(*self.0.snapshot.value_of.get(found.index)?)?;
        Some(secret.placeholder.as_bytes())
    }
}

impl Scope {
    /// Takes values out of the fields of an interim response. False: it is not to pass.
    pub(crate) fn interim(&self, headers: &mut HeaderMap) -> bool {
        !self.redacts() || self.redact(headers).is_ok()
    }

    /// Takes values out of the fields of a response.
    pub(super) fn redact(&self, headers: &mut HeaderMap) -> Result<(), TooLong> {
        for (name, value) in headers.iter_mut() {
            if let Some(new) = self.redacted(name, value.as_bytes())? {
                // A placeholder may hold what a header may not.
                *value = HeaderValue::from_bytes(&new)
                    .unwrap_or_else(|_| HeaderValue::from_static("redacted"));
            }
        }
        Ok(())
    }

    /// The value of the field `name` without values; `None`: as it is.
    fn redacted(
        &self,
        name: &HeaderName,
        value: &[u8],
    ) -> Result<Option<Zeroizing<Vec<u8>>>, TooLong> {
        let values = &self.snapshot.values;
        let opened = match is_binary(name) {
            // As in a body of such messages no length may change.
            true if *name == STATUS_DETAILS => binary(value, values, &Mask(self))?,
            true => binary(value, values, &Redaction(self))?,
            false => None,
        };
        let text = opened.as_ref().map_or(value, |opened| opened.as_slice());
        if values.find(text, 0).is_none() {
            return Ok(opened);
        }
        let (new, _) = rewrite(text, Codec::Raw, (values, true), &Redaction(self))?;
        Ok(Some(Zeroizing::new(new)))
    }
}
