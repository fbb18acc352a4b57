//! Several texts that are looked for at once; of those that begin at one place the longest counts.

use aho_corasick::{AhoCorasick, MatchKind};
use memchr::memmem;
use zeroize::Zeroizing;

/// Where a text was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// Which one.
    pub(super) index: usize,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// The texts.
pub(super) struct Patterns {
    texts: Vec<Zeroizing<Vec<u8>>>,
    len_max: usize,
    /// `None`: they are looked for one by one, and there are no copies of them.
    automaton: Option<AhoCorasick>,
}

impl Patterns {
    /// Texts that are no secrets.
    pub(super) fn of_texts(texts: Vec<Zeroizing<Vec<u8>>>) -> Self {
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(texts.iter().map(|text| text.as_slice()));
        // It fails for more states than there can be.
        Self { automaton: automaton.ok(), ..Self::of_values(texts) }
    }

    /// Texts of which no copy may be made that is not wiped.
    pub(super) fn of_values(texts: Vec<Zeroizing<Vec<u8>>>) -> Self {
        let len_max = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        Self { texts, len_max, automaton: None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Bytes of the longest.
    pub(super) fn len_max(&self) -> usize {
        self.len_max
    }

    /// The first that is in `bytes` at or behind `from`.
    pub(super) fn find(&self, bytes: &[u8], from: usize) -> Option<Found> {
        let rest = bytes.get(from..)?;
        if let Some(automaton) = &self.automaton {
            let found = automaton.find(rest)?;
            let (start, end) = (from + found.start(), from + found.end());
            return Some(Found { index: found.pattern().as_usize(), start, end });
        }
        let each = self.texts.iter().enumerate().filter_map(|(index, text)| {
            let start = from + memmem::find(rest, text)?;
            Some(Found { index, start, end: start + text.len() })
        });
        each.min_by_key(|found| (found.start, std::cmp::Reverse(found.end)))
    }

    /// Where, at or behind `from`, one may begin that is longer than what is there of it.
    pub(super) fn unfinished(&self, bytes: &[u8], from: usize) -> Option<usize> {
        let earliest = bytes.len().saturating_sub(self.len_max.saturating_sub(1)).max(from);
        (earliest..bytes.len()).find(|at| {
            let rest = bytes.get(*at..).unwrap_or(&[]);
            self.texts.iter().any(|text| text.len() > rest.len() && text.starts_with(rest))
        })
    }

    /// Those that begin with all of `bytes`, and go on.
    pub(super) fn longer<'p>(&'p self, bytes: &'p [u8]) -> impl Iterator<Item = usize> + 'p {
        let texts = self.texts.iter().enumerate();
        let is_longer = |text: &[u8]| text.len() > bytes.len() && text.starts_with(bytes);
        texts.filter(move |(_, text)| is_longer(text)).map(|(index, _)| index)
    }

    /// Whether one of them may be in `name`, whatever the case of its letters.
    pub(super) fn find_in_name(&self, name: &[u8]) -> Option<usize> {
        let is_in =
            |text: &[u8]| name.windows(text.len()).any(|window| window.eq_ignore_ascii_case(text));
        self.texts.iter().position(|text| !text.is_empty() && is_in(text))
    }
}
