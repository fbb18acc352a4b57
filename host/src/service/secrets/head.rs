//! The head of a request: method, target, fields.

use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::{
    BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD,
};
use h2::ext::Protocol;
use hyper::HeaderMap;
use hyper::Uri;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue, PROXY_AUTHORIZATION};
use hyper::http::request::Parts;
use hyper::http::uri::PathAndQuery;
use zeroize::Zeroizing;

use super::codec::Codec;
use super::pattern::Found;
use super::stream::{GROWTH_BYTES_MAX, Piece, Replace, TooLong, rewrite};
use super::{Scope, Secret, Stand, Violation};

/// Replaces placeholders in one place of a request.
pub(super) struct InPlace<'s, F> {
    pub(super) scope: &'s Scope,
    pub(super) is_enabled: F,
}

impl<F: Fn(&Secret) -> bool> Replace for InPlace<'_, F> {
    fn replace(&self, found: &Found) -> Option<&[u8]> {
        let mut alike = self.scope.alike(found.index);
        let gives = |secret: &Secret, stand| stand == Stand::Allowed && (self.is_enabled)(secret);
        alike
            .find(|(secret, stand)| gives(secret, *stand))
            .map(|(secret, _)| &*secret.value)
            .map(Vec::as_slice)
    }
}

impl Scope {
    /// Puts values into the head of a request, where they may be.
    ///
    /// # Errors
    /// A placeholder is in it that must not pass.
    pub(crate) fn head(self: &Arc<Self>, parts: &mut Parts) -> Result<(), Violation> {
        self.look_at(Piece::all(parts.method.as_str().as_bytes()), "method")?;
        if let Some(protocol) = parts.extensions.get::<Protocol>() {
            self.look_at(Piece::all(protocol.as_ref()), "protocol")?;
        }
        self.target(&mut parts.uri)?;
        self.fields(&mut parts.headers)
    }

    fn target(&self, target: &mut Uri) -> Result<(), Violation> {
        if let Some(authority) = target.authority() {
            self.look_at(Piece::all(authority.as_str().as_bytes()), "target")?;
        }
        self.look_at(Piece::all(target.path().as_bytes()), "path")?;
        let Some(query) = target.query() else { return Ok(()) };
        self.look_at(Piece::all(query.as_bytes()), "query")?;
        let replace = InPlace { scope: self, is_enabled: |secret: &Secret| secret.in_query };
        let patterns = &self.snapshot.placeholders;
        let new = rewrite(query.as_bytes(), Codec::Form, (patterns, true), &replace);
        let (new, _) = new.map_err(|TooLong| Violation::too_long("query"))?;
        let new = Zeroizing::new(new);
        if new.as_slice() == query.as_bytes() {
            return Ok(());
        }
        let path = Zeroizing::new([target.path().as_bytes(), b"?", new.as_slice()].concat());
        let mut changed = target.clone().into_parts();
        // What stands in a query is escaped, so it is one; but it may be longer than any target.
        let path =
            PathAndQuery::try_from(path.as_slice()).map_err(|_| Violation::too_long("query"))?;
        changed.path_and_query = Some(path);
        *target = Uri::from_parts(changed).map_err(|_| Violation::too_long("query"))?;
        Ok(())
    }

    fn fields(&self, headers: &mut HeaderMap) -> Result<(), Violation> {
        let mut growth_left = GROWTH_BYTES_MAX;
        for (name, value) in headers.iter_mut() {
            self.look_at_field(name, value.as_bytes())?;
            let enabled = |secret: &Secret| {
                secret.in_headers && (secret.fields.is_empty() || secret.fields.contains(name))
            };
            let replace = InPlace { scope: self, is_enabled: enabled };
            let new = self.field(name, value.as_bytes(), &replace);
            if let Some(new) = new.map_err(|TooLong| Violation::too_long("header"))?
                && let Ok(mut new) = HeaderValue::from_bytes(&new)
            {
                let growth = new.len().saturating_sub(value.len());
                let left = growth_left.checked_sub(growth);
                growth_left = left.ok_or_else(|| Violation::too_long("header"))?;
                // HPACK keeps it out of its tables, and so out of reach of guesses by length.
                new.set_sensitive(true);
                *value = new;
            }
        }
        Ok(())
    }

    /// The value of field `name` with values in it; `None`: as it is.
    fn field(
        &self,
        name: &HeaderName,
        value: &[u8],
        replace: &impl Replace,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, TooLong> {
        let patterns = &self.snapshot.placeholders;
        if let Some((scheme, credentials)) = basic(name, value) {
            let (new, _) = rewrite(&credentials, Codec::Raw, (patterns, true), replace)?;
            let new = Zeroizing::new(new);
            if *new != *credentials {
                let text = Zeroizing::new(BASE64_STANDARD.encode(&*new));
                return Ok(Some(Zeroizing::new([scheme, text.as_bytes()].concat())));
            }
        }
        if is_binary(name)
            && let Some(new) = binary(value, |bytes| {
                let (new, _) = rewrite(bytes, Codec::Raw, (patterns, true), replace)?;
                Ok(Some(Zeroizing::new(new)).filter(|new| new.as_slice() != bytes))
            })?
        {
            return Ok(Some(new));
        }
        if patterns.find(value, 0).is_none() {
            return Ok(None);
        }
        let (new, _) = rewrite(value, Codec::Raw, (patterns, true), replace)?;
        Ok(Some(Zeroizing::new(new)).filter(|new| new.as_slice() != value))
    }

    /// Looks at the field `name` for placeholders that must not pass.
    pub(super) fn look_at_field(&self, name: &HeaderName, value: &[u8]) -> Result<(), Violation> {
        if !self.forbids() {
            return Ok(());
        }
        let mut in_name = self.snapshot.placeholders.all_in_name(name.as_str().as_bytes());
        if let Some(index) = in_name.find(|index| self.stand(*index).is_forbidden()) {
            return Err(self.violation(index, "header name"));
        }
        self.look_at(Piece::all(value), "header")?;
        if is_binary(name) {
            for bytes in value.split(|byte| *byte == b',').filter_map(decoded) {
                self.look_at(Piece::all(&bytes), "binary header")?;
            }
        }
        match basic(name, value) {
            Some((_, credentials)) => self.look_at(Piece::all(&credentials), "basic credentials"),
            None => Ok(()),
        }
    }
}

/// Reads what lenient servers read: padded or not, of either alphabet.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const ALPHABETS: [GeneralPurpose; 2] = [
    GeneralPurpose::new(&alphabet::STANDARD, LENIENT),
    GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT),
];

/// The scheme of Basic credentials (RFC 7617 2), with the blank behind it, and what they are.
fn basic<'v>(name: &HeaderName, value: &'v [u8]) -> Option<(&'v [u8], Vec<u8>)> {
    if *name != AUTHORIZATION && *name != PROXY_AUTHORIZATION {
        return None;
    }
    // A blank is what is asked for, and a tab is what lenient servers take as well.
    let (scheme, rest) = value.split_at_checked("Basic ".len())?;
    let (b' ' | b'\t') = scheme.last()? else { return None };
    if !scheme.trim_ascii_end().eq_ignore_ascii_case(b"Basic") {
        return None;
    }
    Some((scheme, decoded(rest)?))
}

/// Whether the field `name` is binary metadata of gRPC (PROTOCOL-HTTP2, Custom-Metadata): a list of
/// values in base64.
pub(super) fn is_binary(name: &HeaderName) -> bool {
    name.as_str().ends_with("-bin")
}

/// Binary metadata, each value as `change` has it; `None`: as it is.
pub(super) fn binary(
    value: &[u8],
    mut change: impl FnMut(&[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, TooLong>,
) -> Result<Option<Zeroizing<Vec<u8>>>, TooLong> {
    let mut all = Zeroizing::new(Vec::new());
    let mut is_changed = false;
    for (index, text) in value.split(|byte| *byte == b',').enumerate() {
        if index > 0 {
            all.push(b',');
        }
        if let Some(bytes) = decoded(text).map(Zeroizing::new)
            && let Some(new) = change(&bytes)?
        {
            all.extend_from_slice(Zeroizing::new(encoded(&new, text)).as_bytes());
            is_changed = true;
            continue;
        }
        all.extend_from_slice(text);
    }
    Ok(is_changed.then_some(all))
}

/// What `text` is in base64 of either alphabet, whatever blanks are in it.
fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    let text: Vec<u8> = text.iter().filter(|byte| !byte.is_ascii_whitespace()).copied().collect();
    ALPHABETS.iter().find_map(|alphabet| alphabet.decode(&text).ok())
}

/// `bytes` in base64 of the same alphabet as `like`, and padded if that is.
fn encoded(bytes: &[u8], like: &[u8]) -> String {
    let is_url_safe = memchr::memchr2(b'-', b'_', like).is_some();
    let is_padded = like.trim_ascii_end().ends_with(b"=");
    match (is_url_safe, is_padded) {
        (false, false) => BASE64_STANDARD_NO_PAD.encode(bytes),
        (false, true) => BASE64_STANDARD.encode(bytes),
        (true, false) => BASE64_URL_SAFE_NO_PAD.encode(bytes),
        (true, true) => BASE64_URL_SAFE.encode(bytes),
    }
}
