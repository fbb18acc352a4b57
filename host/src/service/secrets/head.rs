//! The head of a request: method, target, fields.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::HeaderMap;
use hyper::Uri;
use hyper::ext::Protocol;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue, PROXY_AUTHORIZATION};
use hyper::http::request::Parts;
use hyper::http::uri::PathAndQuery;
use zeroize::Zeroizing;

use super::codec::Codec;
use super::pattern::Found;
use super::stream::{Replace, rewrite};
use super::{Scope, Secret, Stand, Violation};

/// Replaces placeholders in one place of a request.
pub(super) struct InPlace<'s, F> {
    pub(super) scope: &'s Scope,
    pub(super) is_enabled: F,
}

impl<F: Fn(&Secret) -> bool> Replace for InPlace<'_, F> {
    fn replace(&self, found: &Found) -> Option<&[u8]> {
        let secret = self.scope.secret(found.index)?;
        let may = self.scope.stand(found.index) == Stand::Allowed && (self.is_enabled)(secret);
        may.then_some(secret.value.as_slice())
    }
}

impl Scope {
    /// Puts values into the head of a request, where they may be.
    ///
    /// # Errors
    /// A placeholder is in it that must not pass.
    pub(crate) fn head(self: &Arc<Self>, parts: &mut Parts) -> Result<(), Violation> {
        self.look_at(parts.method.as_str().as_bytes(), true, "method")?;
        if let Some(protocol) = parts.extensions.get::<Protocol>() {
            self.look_at(protocol.as_ref(), true, "protocol")?;
        }
        self.target(&mut parts.uri)?;
        self.fields(&mut parts.headers)
    }

    fn target(&self, target: &mut Uri) -> Result<(), Violation> {
        if let Some(authority) = target.authority() {
            self.look_at(authority.as_str().as_bytes(), true, "target")?;
        }
        self.look_at(target.path().as_bytes(), true, "path")?;
        let Some(query) = target.query() else { return Ok(()) };
        self.look_at(query.as_bytes(), true, "query")?;
        let replace = InPlace { scope: self, is_enabled: |secret: &Secret| secret.in_query };
        let patterns = &self.snapshot.placeholders;
        let (new, _) = rewrite(query.as_bytes(), Codec::Form, (patterns, true), &replace);
        let new = Zeroizing::new(new);
        if new.as_slice() == query.as_bytes() {
            return Ok(());
        }
        let path = Zeroizing::new([target.path().as_bytes(), b"?", new.as_slice()].concat());
        let mut changed = target.clone().into_parts();
        // What stands in a query is escaped, so it is one, and its target is.
        changed.path_and_query = PathAndQuery::try_from(path.as_slice()).ok();
        if let Ok(changed) = Uri::from_parts(changed) {
            *target = changed;
        }
        Ok(())
    }

    fn fields(&self, headers: &mut HeaderMap) -> Result<(), Violation> {
        for (name, value) in headers.iter_mut() {
            self.look_at_field(name, value.as_bytes())?;
            let enabled = |secret: &Secret| {
                secret.in_headers && (secret.fields.is_empty() || secret.fields.contains(name))
            };
            let replace = InPlace { scope: self, is_enabled: enabled };
            if let Some(new) = self.field(name, value.as_bytes(), &replace)
                && let Ok(mut new) = HeaderValue::from_bytes(&new)
            {
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
    ) -> Option<Zeroizing<Vec<u8>>> {
        let patterns = &self.snapshot.placeholders;
        if let Some((scheme, credentials)) = basic(name, value) {
            let (new, _) = rewrite(&credentials, Codec::Raw, (patterns, true), replace);
            let new = Zeroizing::new(new);
            if *new != *credentials {
                let text = Zeroizing::new(BASE64_STANDARD.encode(&*new));
                return Some(Zeroizing::new([scheme, text.as_bytes()].concat()));
            }
        }
        patterns.find(value, 0)?;
        let (new, _) = rewrite(value, Codec::Raw, (patterns, true), replace);
        Some(Zeroizing::new(new)).filter(|new| new.as_slice() != value)
    }

    /// Looks at the field `name` for placeholders that must not pass.
    pub(super) fn look_at_field(&self, name: &HeaderName, value: &[u8]) -> Result<(), Violation> {
        if !self.has(Stand::Forbidden) {
            return Ok(());
        }
        let in_name = self.snapshot.placeholders.find_in_name(name.as_str().as_bytes());
        if let Some(index) = in_name.filter(|index| self.stand(*index) == Stand::Forbidden) {
            return Err(self.violation(index, "header name"));
        }
        self.look_at(value, true, "header")?;
        match basic(name, value) {
            Some((_, credentials)) => self.look_at(&credentials, true, "basic credentials"),
            None => Ok(()),
        }
    }
}

/// The scheme of Basic credentials (RFC 7617 2), with the blank behind it, and what they are.
fn basic<'v>(name: &HeaderName, value: &'v [u8]) -> Option<(&'v [u8], Vec<u8>)> {
    if *name != AUTHORIZATION && *name != PROXY_AUTHORIZATION {
        return None;
    }
    let (scheme, rest) = value.split_at_checked("Basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    let credentials = BASE64_STANDARD.decode(rest.trim_ascii()).ok()?;
    Some((scheme, credentials))
}
