//! Several texts that are looked for at once; of those that begin at one place the longest counts.

use aho_corasick::{AhoCorasick, MatchKind};

/// Where a text was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// Which one.
    pub(super) index: usize,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// The texts, which are no secrets.
pub(super) struct Patterns {
    texts: Vec<Vec<u8>>,
    len_max: usize,
    /// One has a blank.
    have_blanks: bool,
    /// `None`: there are none.
    automaton: Option<AhoCorasick>,
}

impl Patterns {
    pub(super) fn new(texts: Vec<Vec<u8>>) -> Self {
        let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&texts);
        let len_max = texts.iter().map(Vec::len).max().unwrap_or(0);
        let have_blanks = texts.iter().any(|text| text.contains(&b' '));
        // It fails for more states than there can be.
        Self { texts, len_max, have_blanks, automaton: automaton.ok() }
    }

    /// Whether one has a blank.
    pub(super) fn have_blanks(&self) -> bool {
        self.have_blanks
    }

    /// Bytes of the longest.
    pub(super) fn len_max(&self) -> usize {
        self.len_max
    }

    /// The first that is in `bytes` at or behind `from`.
    pub(super) fn find(&self, bytes: &[u8], from: usize) -> Option<Found> {
        let found = self.automaton.as_ref()?.find(bytes.get(from..)?)?;
        let (start, end) = (from + found.start(), from + found.end());
        Some(Found { index: found.pattern().as_usize(), start, end })
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

    /// Those that are in `name`, whatever the case of its letters.
    pub(super) fn all_in_name<'p>(&'p self, name: &'p [u8]) -> impl Iterator<Item = usize> + 'p {
        let is_in =
            |text: &[u8]| name.windows(text.len()).any(|window| window.eq_ignore_ascii_case(text));
        let texts = self.texts.iter().enumerate();
        texts.filter(move |(_, text)| !text.is_empty() && is_in(text)).map(|(index, _)| index)
    }
}
