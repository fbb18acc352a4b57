//! Values as they may come back: in one pass, however many there are and however they are written.
//!
//! Each is looked for as it is and in base64, where it may begin at any of three digits of a group;
//! and all of that once more in what the bytes stand for where some of them are escaped. What is
//! looked for is found by a table of how far to go on from each pair of bytes (Wu and Manber, "A
//! fast algorithm for multi-pattern searching", 1994). No copy of a value is made that is not
//! wiped, so it is no automaton as [`Patterns`](super::pattern::Patterns) is.
//!
//! How much of a stream waits says nothing of a value, since whoever sees that may have chosen what
//! streams by: it turns on where the last line ends and on how long values are, roughly.

use core::ops::Range;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use super::codec::{Codec, hidden};
use super::pattern::Found;

/// Bytes of a form that the table is made of, at most.
const WINDOW_BYTES_MAX: usize = 32;
/// Bytes of the longest escape of one: as `\u` and four digits.
const ESCAPE_BYTES_MAX: usize = 6;
/// What waits is a multiple of so much, so that it does not tell how long a value is.
const HELD_BYTES_STEP: usize = 1024;

/// One way in which a value may be written.
struct Form {
    text: Zeroizing<Vec<u8>>,
    /// Whose value it is.
    secret: usize,
    /// The digit before it has some of it, too; and the one behind it.
    shares: (bool, bool),
}

/// Some forms, and how they are found.
struct Forms {
    /// In the order of their texts.
    forms: Vec<Form>,
    /// By the last two bytes of a window: how far on the next is that may be the beginning of one.
    shifts: Zeroizing<Vec<u8>>,
    window: usize,
}

/// The values that are looked for.
pub(super) struct Values {
    forms: Forms,
    /// The same in small letters: the case of a name is nobody's.
    in_names: Forms,
    /// Bytes that one takes at most, however it is written, roughly.
    reach: usize,
    /// Bytes of the longest form, and of what has some of its value beside it.
    longest: usize,
    /// None has a byte that ends a line.
    are_lines: bool,
    /// One has a blank.
    have_blanks: bool,
}

/// Bytes that no header field has (RFC 9110 5.5), so no value that may go into one: ends of lines
/// above all.
fn ends_line(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

/// `value` in base64, whatever stands before it and behind it.
fn base64_forms(secret: usize, value: &[u8]) -> impl Iterator<Item = Form> {
    let alphabets = [&BASE64_STANDARD_NO_PAD, &BASE64_URL_SAFE_NO_PAD];
    alphabets.into_iter().flat_map(move |alphabet| {
        (0..3).map(move |before| {
            let mut bytes = Zeroizing::new(vec![0; before + value.len()]);
            bytes.splice(before.., value.iter().copied());
            let digits = Zeroizing::new(alphabet.encode(&*bytes).into_bytes());
            // Of digits of six bits each those that have bits of the value only.
            let own = (before * 8).div_ceil(6)..bytes.len() * 8 / 6;
            let shares = (before > 0, !(bytes.len() * 8).is_multiple_of(6));
            let text = Zeroizing::new(digits.get(own).unwrap_or(&[]).to_vec());
            Form { text, secret, shares }
        })
    })
}

impl Forms {
    fn new(mut forms: Vec<Form>) -> Self {
        forms.sort_by(|a, b| a.text.cmp(&b.text));
        forms.dedup_by(|a, b| a.text == b.text);
        let shortest = forms.iter().map(|form| form.text.len()).min();
        let window = shortest.unwrap_or(0).min(WINDOW_BYTES_MAX);
        let furthest = u8::try_from(window.saturating_sub(1)).unwrap_or(u8::MAX);
        let mut shifts = Zeroizing::new(vec![furthest; 1 << 16]);
        for form in &forms {
            let pairs = form.text.iter().zip(form.text.iter().skip(1)).take(window - 1);
            for ((first, second), left) in pairs.zip((0..furthest).rev()) {
                if let Some(shift) = shifts.get_mut(pair(*first, *second)) {
                    *shift = left.min(*shift);
                }
            }
        }
        Self { forms, shifts, window }
    }

    /// Tells of each that stands in `bytes`.
    fn find(&self, bytes: &[u8], mut tell: impl FnMut(Found)) {
        if self.forms.is_empty() {
            return;
        }
        let mut at = 0;
        while let Some(window) = bytes.get(at..at + self.window) {
            let [.., first, second] = window else { return };
            match self.shifts.get(pair(*first, *second)) {
                Some(shift @ 1..) => at += usize::from(*shift),
                Some(0) | None => {
                    if let Some((form, place)) = self.longest_at(bytes, at) {
                        tell(Found { index: form.secret, start: place.start, end: place.end });
                    }
                    at += 1;
                }
            }
        }
    }

    /// The longest form that stands in `bytes` at `at`, and what has some of its value.
    fn longest_at(&self, bytes: &[u8], at: usize) -> Option<(&Form, Range<usize>)> {
        let rest = bytes.get(at..)?;
        let window = rest.get(..self.window)?;
        let begins = |form: &Form| form.text.get(..self.window).cmp(&Some(window));
        let first = self.forms.partition_point(|form| begins(form).is_lt());
        let alike = self.forms.iter().skip(first).take_while(|form| begins(form).is_eq());
        let form = alike.filter(|form| rest.starts_with(&form.text)).last()?;
        let is_digit = |at: Option<usize>| {
            let byte = at.and_then(|at| bytes.get(at));
            byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || b"+/-_".contains(byte))
        };
        let (before, behind) = form.shares;
        let end = at + form.text.len();
        let start = at - usize::from(before && is_digit(at.checked_sub(1)));
        Some((form, start..end + usize::from(behind && is_digit(Some(end)))))
    }
}

impl Values {
    /// Values of two bytes and more, each with the number of its secret.
    pub(super) fn new<'v>(values: impl Iterator<Item = (usize, &'v [u8])>) -> Self {
        let (mut forms, mut are_lines, mut have_blanks) = (vec![], true, false);
        for (secret, value) in values {
            have_blanks |= value.contains(&b' ');
            are_lines &= !value.iter().any(|byte| ends_line(*byte));
            let text = Zeroizing::new(value.to_vec());
            forms.push(Form { text, secret, shares: (false, false) });
            forms.extend(base64_forms(secret, value));
        }
        let small = |form: &Form| {
            let text = Zeroizing::new(form.text.to_ascii_lowercase());
            Form { text, ..*form }
        };
        let in_names = Forms::new(forms.iter().map(small).collect());
        let longest = forms.iter().map(|form| form.text.len()).max().unwrap_or(0) + 2;
        let reach = (longest * ESCAPE_BYTES_MAX).next_multiple_of(HELD_BYTES_STEP);
        let forms = Forms::new(forms);
        Self { forms, in_names, reach, longest, are_lines, have_blanks }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.forms.forms.is_empty()
    }

    /// Bytes that one takes at most, however it is written, roughly.
    pub(super) fn reach(&self) -> usize {
        self.reach
    }

    /// How many of `bytes`, of a stream that goes on, no value lies across the end of.
    pub(super) fn settled(&self, bytes: &[u8]) -> usize {
        let far = bytes.len().saturating_sub(self.reach - 1);
        let near = bytes.get(far..).unwrap_or(&[]);
        let line = near.iter().rposition(|byte| self.are_lines && ends_line(*byte));
        line.map_or(far, |at| far + at + 1)
    }

    /// Where in `bytes` values stand: one behind the other, none within another. `is_escaped`: the
    /// first byte stands behind an odd number of backslashes.
    ///
    /// # Cost
    /// Linear, whatever is found.
    pub(super) fn find_all(&self, bytes: &[u8], is_escaped: bool) -> Vec<Found> {
        let mut all = vec![];
        self.forms.find(bytes, |found| all.push(found));
        for codec in hidden(self.have_blanks) {
            // An escaped byte is no beginning of an escape.
            let skipped = usize::from(is_escaped && codec == Codec::Json);
            let rest = bytes.get(skipped..).unwrap_or(&[]);
            codec.decode_near(rest, self.longest, |begin, decoded, _| {
                let begin = skipped + begin;
                self.forms.find(&decoded.bytes, |found| {
                    let (start, end) = decoded.span(found.start, found.end);
                    all.push(Found { start: begin + start, end: begin + end, ..found });
                });
            });
        }
        all.sort_unstable_by_key(|found| (found.start, std::cmp::Reverse(found.end)));
        all.dedup_by(|next, kept| {
            let overlaps = next.start < kept.end;
            if overlaps {
                kept.end = kept.end.max(next.end);
            }
            overlaps
        });
        all
    }

    /// Whether a value stands in `name`, that of a field, in letters of any case.
    pub(super) fn is_in_name(&self, name: &str) -> bool {
        let is_in = |text: &[u8]| {
            let mut is_found = false;
            self.in_names.find(&text.to_ascii_lowercase(), |_| is_found = true);
            is_found
        };
        let name = name.as_bytes();
        let mut codecs = hidden(self.have_blanks).filter(|codec| codec.is_escaped(name));
        is_in(name) || codecs.any(|codec| is_in(&codec.plain(name)))
    }
}

fn pair(first: u8, second: u8) -> usize {
    usize::from(u16::from_be_bytes([first, second]))
}
