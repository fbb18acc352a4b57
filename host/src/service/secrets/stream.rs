//! Bytes that stream by: placeholders are found, and replaced, wherever the stream is cut.
//!
//! What is looked for is looked for as it is, decoded, and decoded twice.

use std::sync::Arc;

use bytes::Bytes;

use super::codec::{Codec, hidden};
use super::pattern::{Found, Patterns};
use super::{Scope, Violation};

/// Bytes of a byte that is escaped twice: each of the three of `%24` as `\u` and four digits.
const ESCAPED_BYTES_MAX: usize = 18;
/// Bytes of a byte that is escaped once, at most: `\u` and four digits.
const ESCAPE_BYTES_MAX: usize = 6;
/// Bytes by which a head, or one piece of a body, may grow: a value for each byte would be some GB.
pub(super) const GROWTH_BYTES_MAX: usize = 256 * 1024;

/// Looks for placeholders that must not pass.
pub(crate) struct StreamScan {
    scope: Arc<Scope>,
    place: &'static str,
    /// The end of what went by: as much as may be a part of a placeholder.
    tail: Vec<u8>,
    /// The first byte of the tail stands behind an odd number of backslashes.
    is_escaped: bool,
    /// Nobody holds what is looked at: what might yet become a placeholder that may pass, and is
    /// already one that may not, is that one.
    leaves_at_once: bool,
    /// What is hidden is not looked for.
    is_plain: bool,
}

impl StreamScan {
    /// For what is held by a [`Rewriter`] where it is not known yet what it becomes.
    pub(super) fn new(scope: Arc<Scope>, place: &'static str) -> Self {
        let (tail, is_escaped) = (Vec::new(), false);
        Self { scope, place, tail, is_escaped, leaves_at_once: false, is_plain: false }
    }

    /// For what leaves as soon as it was looked at.
    pub(super) fn of_what_leaves_at_once(scope: Arc<Scope>, place: &'static str) -> Self {
        Self { leaves_at_once: true, ..Self::new(scope, place) }
    }

    /// For what leaves as soon as it was looked at, and is nothing but what it is.
    pub(super) fn of_what_is_as_it_is(scope: Arc<Scope>, place: &'static str) -> Self {
        Self { is_plain: true, ..Self::of_what_leaves_at_once(scope, place) }
    }

    /// Bytes of the longest that may lie across a cut.
    fn reach(&self) -> usize {
        let longest = self.scope.snapshot.placeholders.len_max();
        if self.is_plain { longest.saturating_sub(1) } else { longest * ESCAPED_BYTES_MAX }
    }

    fn look_at(&self, piece: Piece<'_>) -> Result<(), Violation> {
        if self.is_plain {
            return self.scope.look_at_plain(piece.bytes, piece.whole, self.place);
        }
        self.scope.look_at(piece, self.place)
    }

    /// From now on by what `scope` allows.
    pub(super) fn judge_by(&mut self, scope: Arc<Scope>) {
        self.scope = scope;
    }

    fn piece<'b>(&self, bytes: &'b [u8], is_escaped: bool) -> Piece<'b> {
        Piece { bytes, is_escaped, whole: self.leaves_at_once }
    }

    /// Looks at the next bytes.
    ///
    /// # Errors
    /// A placeholder ends in them that must not pass; they must not, either.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        if !self.scope.forbids() {
            return Ok(());
        }
        let reach = self.reach();
        let is_escaped_there = is_escaped_behind(&self.tail, self.is_escaped);
        // Only what lies across the cut needs a copy.
        let joint = bytes.get(..bytes.len().min(reach)).unwrap_or(&[]);
        let seen = self.tail.len();
        self.tail.extend_from_slice(joint);
        self.look_at(self.piece(&self.tail, self.is_escaped))?;
        if joint.len() < bytes.len() {
            self.look_at(self.piece(bytes, is_escaped_there))?;
            let (gone, kept) = bytes.split_at(bytes.len().saturating_sub(reach));
            self.is_escaped = is_escaped_behind(gone, is_escaped_there);
            self.tail.clear();
            self.tail.extend_from_slice(kept);
        } else {
            let end = (seen + joint.len()).saturating_sub(reach);
            let gone = self.tail.get(..end).unwrap_or(&[]);
            self.is_escaped = is_escaped_behind(gone, self.is_escaped);
            self.tail.drain(..end);
        }
        Ok(())
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// A placeholder that might have gone on has not, and must not pass.
    pub(crate) fn finish(&mut self) -> Result<(), Violation> {
        let last = Piece { bytes: &self.tail, is_escaped: self.is_escaped, whole: true };
        self.look_at(last)
    }
}

/// Whether what follows `bytes` stands behind an odd number of backslashes; `before`: whether they
/// do themselves.
pub(super) fn is_escaped_behind(bytes: &[u8], before: bool) -> bool {
    let run = bytes.iter().rev().take_while(|byte| **byte == b'\\').count();
    let goes_on = run == bytes.len() && before;
    (run + usize::from(goes_on)) % 2 == 1
}

/// Bytes to be looked at.
#[derive(Clone, Copy)]
pub(super) struct Piece<'b> {
    bytes: &'b [u8],
    /// The first stands behind an odd number of backslashes.
    is_escaped: bool,
    /// Nothing follows: what they end with is not the beginning of something longer.
    whole: bool,
}

impl<'b> Piece<'b> {
    /// All of something.
    pub(super) fn all(bytes: &'b [u8]) -> Self {
        Self { bytes, is_escaped: false, whole: true }
    }
}

/// A part of them, decoded once.
struct Decoded<'d> {
    bytes: &'d [u8],
    /// Nothing follows.
    whole: bool,
    /// Nothing is known of what stands before it.
    is_first: bool,
}

impl Scope {
    /// Looks for placeholders in `piece` that must not pass, however they are hidden.
    pub(super) fn look_at(&self, piece: Piece<'_>, place: &'static str) -> Result<(), Violation> {
        #[cfg(test)]
        LOOKED_BYTES.set(LOOKED_BYTES.get() + piece.bytes.len());
        self.look_at_plain(piece.bytes, piece.whole, place)?;
        let patterns = &self.snapshot.placeholders;
        let near = patterns.len_max() * ESCAPE_BYTES_MAX;
        for codec in hidden(patterns.have_blanks()) {
            // An escaped byte is no beginning of an escape.
            let from = usize::from(piece.is_escaped && codec == Codec::Json);
            let mut looked = Ok(());
            let bytes = piece.bytes.get(from..).unwrap_or(&[]);
            codec.decode_near(bytes, near, |begin, decoded, is_last| {
                let (bytes, whole) = (&decoded.bytes, piece.whole && is_last);
                let decoded = Decoded { bytes, whole, is_first: begin == 0 };
                if looked.is_ok() {
                    looked = self.look_at_decoded(decoded, place);
                }
            });
            looked?;
        }
        Ok(())
    }

    fn look_at_decoded(&self, piece: Decoded<'_>, place: &'static str) -> Result<(), Violation> {
        let Decoded { bytes, whole, is_first } = piece;
        self.look_at_plain(bytes, whole, place)?;
        let codecs = hidden(self.snapshot.placeholders.have_blanks());
        for inner in codecs.filter(|inner| inner.is_escaped(bytes)) {
            self.look_at_plain(&inner.plain(bytes), whole, place)?;
            // Whether a backslash that is the first is escaped is not known so far inside.
            if let (Codec::Json, true, Some(behind)) = (inner, is_first, bytes.strip_prefix(b"\\"))
            {
                self.look_at_plain(&inner.plain(behind), whole, place)?;
            }
        }
        Ok(())
    }

    fn may_pass(&self, index: usize) -> bool {
        !self.stand(index).is_forbidden()
    }

    /// Whether a placeholder that must not pass is the beginning of one that may: what might be
    /// either is to be held until that is known.
    pub(super) fn holds(&self) -> bool {
        let mut secrets = self.snapshot.secrets.iter().enumerate();
        secrets.any(|(index, secret)| {
            let mut longer = self.snapshot.placeholders.longer(secret.placeholder.as_bytes());
            !self.may_pass(index) && longer.any(|longer| self.may_pass(longer))
        })
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
            // Only what may yet be a placeholder that passes is waited for: the others have left by
            // the time that it is known which they are.
            let rest = bytes.get(found.start..).unwrap_or(&[]);
            let is_open = || !whole && patterns.longer(rest).any(|longer| self.may_pass(longer));
            if !self.may_pass(found.index) && !is_open() {
                return Err(self.violation(found.index, place));
            }
            from = found.end;
        }
        Ok(())
    }
}

/// A message whose placeholders would make it longer than anybody's.
#[derive(Debug)]
pub(super) struct TooLong;

/// What takes the place of a text that was found; `None`: it stays.
pub(super) trait Replace {
    /// What `found` becomes.
    fn replace(&self, found: &Found) -> Option<&[u8]>;
}

/// Replaces placeholders in a stream.
pub(super) struct Rewriter {
    codec: Codec,
    /// What may still become a placeholder.
    held: Vec<u8>,
    has_changed: bool,
}

impl Rewriter {
    pub(super) fn new(codec: Codec) -> Self {
        Self { codec, held: Vec::new(), has_changed: false }
    }

    /// Whether anything of the stream was replaced so far.
    pub(super) fn has_changed(&self) -> bool {
        self.has_changed
    }

    fn push(
        &mut self,
        bytes: Bytes,
        patterns: &Patterns,
        replace: &impl Replace,
    ) -> Result<Bytes, TooLong> {
        if self.held.is_empty()
            && !self.codec.is_escaped(&bytes)
            && patterns.find(&bytes, 0).is_none()
            && patterns.unfinished(&bytes, 0).is_none()
        {
            return Ok(bytes);
        }
        self.held.extend_from_slice(&bytes);
        self.flush(patterns, replace, false)
    }

    /// What can go on with `bytes`; `None`: what is left.
    pub(super) fn go_on(
        &mut self,
        bytes: Option<Bytes>,
        patterns: &Patterns,
        replace: &impl Replace,
    ) -> Result<Bytes, TooLong> {
        match bytes {
            Some(bytes) => self.push(bytes, patterns, replace),
            None => self.flush(patterns, replace, true),
        }
    }

    fn flush(
        &mut self,
        patterns: &Patterns,
        replace: &impl Replace,
        is_last: bool,
    ) -> Result<Bytes, TooLong> {
        let (out, held) = rewrite(&self.held, self.codec, (patterns, is_last), replace)?;
        let gone = self.held.len() - held.len();
        self.has_changed |= self.held.get(..gone) != Some(&*out);
        self.held = held;
        Ok(out.into())
    }
}

/// `bytes` with every text that `replace` knows replaced, and what of them is to be looked at again
/// with what follows.
pub(super) fn rewrite(
    bytes: &[u8],
    codec: Codec,
    (patterns, is_last): (&Patterns, bool),
    replace: &impl Replace,
) -> Result<(Vec<u8>, Vec<u8>), TooLong> {
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
            if out.len() > bytes.len() + GROWTH_BYTES_MAX {
                return Err(TooLong);
            }
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
    Ok((out, bytes.get(end..).unwrap_or(&[]).to_vec()))
}

#[cfg(test)]
std::thread_local! {
    /// Bytes that were looked at.
    pub(super) static LOOKED_BYTES: core::cell::Cell<usize> = const { core::cell::Cell::new(0) };
}
