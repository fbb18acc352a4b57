//! Bytes that stream by: placeholders are found, and replaced, wherever the stream is cut.

use std::sync::Arc;

use bytes::Bytes;

use super::codec::Codec;
use super::pattern::{Found, Patterns};
use super::{Scope, Stand, Violation};

/// Bytes that the longest escape of a byte has.
const ESCAPED_BYTES_MAX: usize = 6;
/// The ways in which a placeholder may be hidden.
const HIDDEN: [Codec; 3] = [Codec::Percent, Codec::Form, Codec::Json];

/// Looks for placeholders that must not pass.
pub(crate) struct StreamScan {
    scope: Arc<Scope>,
    place: &'static str,
    /// The end of what went by: as much as may be a part of a placeholder.
    tail: Vec<u8>,
}

impl StreamScan {
    pub(super) fn new(scope: Arc<Scope>, place: &'static str) -> Self {
        Self { scope, place, tail: Vec::new() }
    }

    /// Looks at the next bytes.
    ///
    /// # Errors
    /// A placeholder ends in them that must not pass; they must not, either.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        if !self.scope.has(Stand::Forbidden) {
            return Ok(());
        }
        let reach = self.scope.snapshot.placeholders.len_max() * ESCAPED_BYTES_MAX;
        // Only what lies across the cut needs a copy.
        let joint = bytes.get(..bytes.len().min(reach)).unwrap_or(&[]);
        let seen = self.tail.len();
        self.tail.extend_from_slice(joint);
        self.scope.look_at(&self.tail, false, self.place)?;
        if joint.len() < bytes.len() {
            self.scope.look_at(bytes, false, self.place)?;
            let end = bytes.len().saturating_sub(reach);
            self.tail.clear();
            self.tail.extend_from_slice(bytes.get(end..).unwrap_or(&[]));
        } else {
            let end = (seen + joint.len()).saturating_sub(reach);
            self.tail.drain(..end);
        }
        Ok(())
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// A placeholder that might have gone on has not, and must not pass.
    pub(crate) fn finish(&mut self) -> Result<(), Violation> {
        self.scope.look_at(&self.tail, true, self.place)
    }
}

impl Scope {
    /// Looks for placeholders in `bytes` that must not pass, however they are hidden. What the
    /// bytes end with may be the beginning of something longer unless they are `whole`.
    pub(super) fn look_at(
        &self,
        bytes: &[u8],
        whole: bool,
        place: &'static str,
    ) -> Result<(), Violation> {
        self.look_at_plain(bytes, whole, place)?;
        for codec in HIDDEN {
            if codec.is_escaped(bytes) {
                self.look_at_plain(&codec.decode(bytes).bytes, whole, place)?;
            }
        }
        Ok(())
    }

    fn look_at_plain(
        &self,
        bytes: &[u8],
        whole: bool,
        place: &'static str,
    ) -> Result<(), Violation> {
        let patterns = &self.snapshot.placeholders;
        let mut from = 0;
        while let Some(found) = patterns.find(bytes, from) {
            let is_open = !whole && patterns.unfinished(bytes, found.start) == Some(found.start);
            if self.stand(found.index) == Stand::Forbidden && !is_open {
                return Err(self.violation(found.index, place));
            }
            from = found.end;
        }
        Ok(())
    }
}

/// What takes the place of a text that was found; `None`: it stays.
pub(super) trait Replace {
    /// What `found` becomes.
    fn replace(&self, found: &Found) -> Option<&[u8]>;
}

/// Replaces texts in a stream.
pub(super) struct Rewriter {
    codec: Codec,
    /// What may still become one of the texts.
    held: Vec<u8>,
}

impl Rewriter {
    pub(super) fn new(codec: Codec) -> Self {
        Self { codec, held: Vec::new() }
    }

    /// What can go on of what is there with `bytes`.
    pub(super) fn push(
        &mut self,
        bytes: Bytes,
        patterns: &Patterns,
        replace: &impl Replace,
    ) -> Bytes {
        if self.held.is_empty()
            && !self.codec.is_escaped(&bytes)
            && patterns.find(&bytes, 0).is_none()
            && patterns.unfinished(&bytes, 0).is_none()
        {
            return bytes;
        }
        self.held.extend_from_slice(&bytes);
        self.flush(patterns, replace, false)
    }

    /// What is left.
    pub(super) fn finish(&mut self, patterns: &Patterns, replace: &impl Replace) -> Bytes {
        self.flush(patterns, replace, true)
    }

    fn flush(&mut self, patterns: &Patterns, replace: &impl Replace, is_last: bool) -> Bytes {
        let (out, held) = rewrite(&self.held, self.codec, (patterns, is_last), replace);
        // What was held may be a piece of a secret that comes back.
        zeroize::Zeroize::zeroize(&mut self.held);
        self.held = held;
        out.into()
    }
}

/// `bytes` with every text that `replace` knows replaced, and what of them is to be looked at again
/// with what follows.
pub(super) fn rewrite(
    bytes: &[u8],
    codec: Codec,
    (patterns, is_last): (&Patterns, bool),
    replace: &impl Replace,
) -> (Vec<u8>, Vec<u8>) {
    let decoded = codec.decode(bytes);
    let plain = decoded.bytes.as_slice();
    let mut out = Vec::with_capacity(bytes.len());
    // In the plain bytes, and in those as they are written.
    let (mut from, mut written) = (0, 0);
    let open_from = |from| if is_last { None } else { patterns.unfinished(plain, from) };
    let mut open = open_from(0);
    while let Some(found) = patterns.find(plain, from) {
        // What begins before it, or with it, and is not whole yet, may turn out to be longer.
        if open.is_some_and(|open| open <= found.start) {
            break;
        }
        let (start, end) = decoded.span(found.start, found.end);
        if let Some(value) = replace.replace(&found) {
            out.extend_from_slice(bytes.get(written..start).unwrap_or(&[]));
            out.extend_from_slice(&codec.encode(value));
            written = end;
        }
        from = found.end;
        if open.is_some_and(|open| open < from) {
            open = open_from(from);
        }
    }
    let end = match (open, is_last) {
        (_, true) => bytes.len(),
        (Some(open), false) => decoded.start(open),
        (None, false) => decoded.whole,
    };
    out.extend_from_slice(bytes.get(written..end).unwrap_or(&[]));
    (out, bytes.get(end..).unwrap_or(&[]).to_vec())
}
