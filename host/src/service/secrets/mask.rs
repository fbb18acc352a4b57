//! Values in messages that come back: each leaves whole as it came, and as long.
//!
//! So nothing waits behind its end for what goes on in the next message, and a value that does is
//! masked from there on. It is looked for in what all messages are together, and in the body as it
//! is: a value may have bytes that look like the header of a message.

use core::ops::Range;

use bytes::Bytes;
use zeroize::Zeroizing;

use super::messages::{Compressed, Kind, Messages, Part};
use super::pattern::Found;
use super::redact::joined;
use super::stream::is_escaped_behind;
use super::{Snapshot, Violation};

/// Takes values out of a body of messages that streams by.
pub(super) struct Masker {
    messages: Messages,
    /// The end of the message that has come so far, in which a value may begin that is not whole
    /// yet.
    held: Zeroizing<Vec<u8>>,
    inside: Track,
    outside: Track,
    /// A value was there.
    has_found: bool,
}

/// What has left: as much of it as a value may begin in that goes on.
#[derive(Default)]
struct Track {
    left: Zeroizing<Vec<u8>>,
    /// Its first byte stands behind an odd number of backslashes.
    is_escaped: bool,
}

impl Track {
    /// `all` has left, of which the last `reach` bytes may have the beginning of a value.
    fn leave(&mut self, all: &[u8], reach: usize) {
        let (gone, kept) = all.split_at(all.len().saturating_sub(reach));
        self.is_escaped = is_escaped_behind(gone, self.is_escaped);
        self.left = Zeroizing::new(kept.to_vec());
    }
}

impl Masker {
    pub(super) fn new(kind: Kind) -> Self {
        let messages = Messages::new(kind);
        let (inside, outside) = (Track::default(), Track::default());
        Self { messages, held: Zeroizing::default(), inside, outside, has_found: false }
    }

    /// Whether anything of the body was replaced so far.
    pub(super) fn has_changed(&self) -> bool {
        self.has_found
    }

    /// What can go on with `bytes`; `None`: what is left.
    ///
    /// # Errors
    /// A message can't be read, or its header is a part of a value.
    ///
    /// # Cost
    /// Linear in the bytes, and in what the longest value takes, however many messages they are.
    pub(super) fn go_on(
        &mut self,
        bytes: Option<Bytes>,
        snapshot: &Snapshot,
    ) -> Result<Bytes, Violation> {
        let values = &snapshot.values;
        let may_go_on = bytes.is_some();
        let bytes = bytes.unwrap_or_default();
        let all = joined(&self.held, core::iter::once(&*bytes));
        let texts = self.texts(bytes)?;
        let within =
            joined(&self.inside.left, texts.iter().filter_map(|text| all.get(text.clone())));
        let beside = joined(&self.outside.left, core::iter::once(all.as_slice()));
        // What may wait is the message that has not ended.
        let is_open = may_go_on && !self.messages.is_between();
        let open = texts.last().filter(|text| is_open && text.end == all.len());
        let open = within.len() - open.map_or(0, Range::len);
        let settled = if may_go_on { values.settled(&within).max(open) } else { within.len() };
        let mut found = values.find_all(&within, self.inside.is_escaped);
        found.retain(|found| found.start < settled);
        let end = found.last().map_or(settled, |last| last.end.max(settled));
        let waiting = within.len() - end;
        let mut out = all.get(..all.len() - waiting).unwrap_or(&[]).to_vec();
        let places = texts.iter().cloned().flatten();
        cover(&mut out, (&found, self.inside.left.len()), places, snapshot);
        self.has_found |= !found.is_empty();
        let mut found = values.find_all(&beside, self.outside.is_escaped);
        found.retain(|found| found.start < beside.len() - waiting);
        self.has_found |= !found.is_empty();
        let before = self.outside.left.len();
        if found.iter().any(|found| has_header(found, before, &texts, out.len())) {
            return Err(Violation::unreadable());
        }
        let len = out.len();
        cover(&mut out, (&found, before), 0..len, snapshot);
        self.held = Zeroizing::new(all.get(len..).unwrap_or(&[]).to_vec());
        self.inside.leave(within.get(..end).unwrap_or(&[]), values.reach());
        self.outside.leave(beside.get(..before + len).unwrap_or(&[]), values.reach());
        Ok(out.into())
    }

    /// Where in what is held, and `bytes` behind it, the bytes of messages are.
    fn texts(&mut self, mut bytes: Bytes) -> Result<Vec<Range<usize>>, Violation> {
        let mut at = self.held.len();
        let mut texts: Vec<_> = (at > 0).then_some(0..at).into_iter().collect();
        let read = |Compressed| Violation::unreadable();
        while let Some(part) = self.messages.next(&mut bytes).map_err(read)? {
            match part {
                Part::Header(bytes) => at += bytes.len(),
                Part::Message(bytes, _) => {
                    let text = at..at + bytes.len();
                    at = text.end;
                    match texts.last_mut().filter(|last| last.end == text.start) {
                        Some(last) => last.end = text.end,
                        None => texts.push(text),
                    }
                }
            }
        }
        Ok(texts)
    }
}

/// Whether of what was `found`, behind `before` bytes that have left, some is not in `texts`.
fn has_header(found: &Found, before: usize, texts: &[Range<usize>], len: usize) -> bool {
    let start = found.start.saturating_sub(before);
    let end = found.end.saturating_sub(before).min(len);
    let last = texts.partition_point(|text| text.start <= start).checked_sub(1);
    let text = last.and_then(|last| texts.get(last));
    start < end && text.is_none_or(|text| text.end < end)
}

/// Masks in `out` what was `found` in a text of which `before` bytes have left. `places`: where the
/// bytes behind those stand.
fn cover(
    out: &mut [u8],
    (found, before): (&[Found], usize),
    mut places: impl Iterator<Item = usize>,
    snapshot: &Snapshot,
) {
    let mut at = before;
    for found in found {
        for (place, byte) in (found.start..found.end).zip(snapshot.mask(found)) {
            if place < before {
                continue;
            }
            let there = places.nth(place - at);
            at = place + 1;
            if let Some(there) = there.and_then(|there| out.get_mut(there)) {
                *there = byte;
            }
        }
    }
}
