//! What comes back: a value is the placeholder again, in the fields of a response, its trailers and
//! its body (one of messages: `mask`).

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use zeroize::{Zeroize, Zeroizing};

use super::head::{binary, is_binary};
use super::pattern::Found;
use super::stream::{GROWTH_BYTES_MAX, TooLong, is_escaped_behind};
use super::{Scope, Secret, Snapshot, Violation};

/// The status of a call as a message, in a field (gRPC's "PROTOCOL-HTTP2", under Responses).
const STATUS_DETAILS: &str = "grpc-status-details-bin";

/// Takes values out of a body that streams by.
pub(super) struct Redactor {
    /// The end of what came, in which a value may begin that is not whole yet.
    held: Zeroizing<Vec<u8>>,
    /// Its first byte stands behind an odd number of backslashes.
    is_escaped: bool,
    /// A value was there.
    has_found: bool,
}

impl Redactor {
    pub(super) fn new() -> Self {
        Self { held: Zeroizing::default(), is_escaped: false, has_found: false }
    }

    /// Whether anything of the body was replaced so far.
    pub(super) fn has_changed(&self) -> bool {
        self.has_found
    }

    /// What can go on with `bytes`; `None`: what is left.
    pub(super) fn go_on(
        &mut self,
        bytes: Option<Bytes>,
        snapshot: &Snapshot,
    ) -> Result<Bytes, TooLong> {
        let values = &snapshot.values;
        let is_last = bytes.is_none();
        let bytes = bytes.unwrap_or_default();
        let mut all = joined(&self.held, core::iter::once(&*bytes));
        let mut found = values.find_all(&all, self.is_escaped);
        let mut end = all.len();
        if !is_last {
            let settled = values.settled(&all);
            found.retain(|found| found.start < settled);
            end = found.last().map_or(settled, |last| last.end.max(settled));
        }
        let (settled, held) = all.split_at(end);
        self.is_escaped = !is_last && is_escaped_behind(settled, self.is_escaped);
        self.held = Zeroizing::new(held.to_vec());
        if !found.is_empty() {
            self.has_found = true;
            return Ok(snapshot.covered(settled, &found, false)?.into());
        }
        if let Some(held) = all.get_mut(end..) {
            held.zeroize();
        }
        all.truncate(end);
        Ok(core::mem::take(&mut *all).into())
    }
}

/// `held`, and what is `new` behind it.
pub(super) fn joined<'b>(
    held: &[u8],
    new: impl Iterator<Item = &'b [u8]> + Clone,
) -> Zeroizing<Vec<u8>> {
    let len: usize = new.clone().map(<[u8]>::len).sum();
    // As long as it gets, so that it does not move and leave a copy.
    let mut all = Zeroizing::new(Vec::with_capacity(held.len() + len));
    all.extend_from_slice(held);
    new.for_each(|new| all.extend_from_slice(new));
    all
}

impl Scope {
    /// Takes values out of the fields of a response, of an interim one, or of trailers.
    ///
    /// # Errors
    /// They get longer than any, or a value is in a name, which is no place for a placeholder.
    pub(crate) fn redact(&self, headers: &mut HeaderMap) -> Result<(), Violation> {
        if !self.redacts() {
            return Ok(());
        }
        let newer = self.snapshot.newer();
        let snapshot = newer.as_ref().unwrap_or(&self.snapshot);
        if headers.keys().any(|name| snapshot.values.is_in_name(name.as_str())) {
            return Err(Violation::unreadable());
        }
        let too_long = || Violation::too_long("response");
        let mut growth_left = GROWTH_BYTES_MAX;
        for (name, value) in headers.iter_mut() {
            let new = snapshot.redacted(name, value.as_bytes()).map_err(|TooLong| too_long())?;
            if let Some(new) = new {
                let growth = new.len().saturating_sub(value.len());
                growth_left = growth_left.checked_sub(growth).ok_or_else(too_long)?;
                // A placeholder may hold what a header may not.
                *value = HeaderValue::from_bytes(&new)
                    .unwrap_or_else(|_| HeaderValue::from_static("redacted"));
            }
        }
        Ok(())
    }
}

impl Snapshot {
    /// The value of the field `name` without values; `None`: as it is.
    fn redacted(
        &self,
        name: &HeaderName,
        value: &[u8],
    ) -> Result<Option<Zeroizing<Vec<u8>>>, TooLong> {
        let opened = if is_binary(name) {
            // As in a body of such messages no length may change.
            binary(value, |bytes| self.without_values(bytes, *name == STATUS_DETAILS))?
        } else {
            None
        };
        let text = opened.as_ref().map_or(value, |opened| opened.as_slice());
        Ok(self.without_values(text, false)?.or(opened))
    }

    /// `bytes` without values; `None`: there are none in them.
    pub(super) fn without_values(
        &self,
        bytes: &[u8],
        keeps_lengths: bool,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, TooLong> {
        let found = self.values.find_all(bytes, false);
        if found.is_empty() {
            return Ok(None);
        }
        self.covered(bytes, &found, keeps_lengths).map(|new| Some(Zeroizing::new(new)))
    }

    /// What stands in the place of what was `found`.
    fn cover(&self, found: &Found) -> impl Iterator<Item = u8> + '_ {
        self.owner(found.index).map_or("", |secret: &Secret| &secret.placeholder).bytes()
    }

    /// The same, as long as that.
    pub(super) fn mask(&self, found: &Found) -> impl Iterator<Item = u8> + '_ {
        self.cover(found).chain(core::iter::repeat(b'*')).take(found.end - found.start)
    }

    /// `bytes` with placeholders where values were `found`.
    fn covered(
        &self,
        bytes: &[u8],
        found: &[Found],
        keeps_lengths: bool,
    ) -> Result<Vec<u8>, TooLong> {
        let mut out = Vec::with_capacity(bytes.len());
        let mut from = 0;
        for found in found {
            out.extend_from_slice(bytes.get(from..found.start).unwrap_or(&[]));
            if keeps_lengths {
                out.extend(self.mask(found));
            } else {
                out.extend(self.cover(found));
            }
            from = found.end;
            if out.len() > bytes.len() + GROWTH_BYTES_MAX {
                return Err(TooLong);
            }
        }
        out.extend_from_slice(bytes.get(from..).unwrap_or(&[]));
        Ok(out)
    }
}
