//! How texts are written where some of their bytes stand for themselves and others are escaped.

use core::ops::Range;

use zeroize::Zeroizing;

/// A way of writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    /// Every byte is itself.
    Raw,
    /// `%41` is a byte (RFC 3986 2.1).
    Percent,
    /// The same, and `+` is a blank (URL standard, application/x-www-form-urlencoded).
    Form,
    /// `\u0041` and its kind are characters (RFC 8259 7).
    Json,
}

/// Bytes of the longest escape that stands for characters: two halves of a surrogate pair.
const ESCAPE_BYTES_MAX: usize = 12;

/// What was written, and where each byte of it stands.
#[derive(Debug, Default)]
pub(super) struct Decoded {
    pub(super) bytes: Vec<u8>,
    /// Those that are longer than what they stand for, in their order.
    escapes: Vec<Escape>,
    /// Where an escape begins that is not whole; the length of all if there is none.
    pub(super) whole: usize,
}

/// Where an escape stands in what was decoded, and what it stands for in what that was decoded to.
#[derive(Debug)]
struct Escape {
    written: Range<usize>,
    plain: Range<usize>,
}

impl Decoded {
    /// Where the decoded bytes from `start` to `end` stand.
    pub(super) fn span(&self, start: usize, end: usize) -> (usize, usize) {
        let from = self.start(start);
        let to = end.checked_sub(1).filter(|last| *last >= start);
        (from, to.map_or(from, |last| self.unit(last).end))
    }

    /// Where the decoded byte `at` begins.
    pub(super) fn start(&self, at: usize) -> usize {
        self.unit(at).start
    }

    /// What the decoded byte `at` was decoded from.
    fn unit(&self, at: usize) -> Range<usize> {
        let before = self.escapes.partition_point(|escape| escape.plain.start <= at);
        let last = before.checked_sub(1).and_then(|last| self.escapes.get(last));
        let Some(last) = last else { return at..at + 1 };
        if at < last.plain.end {
            return last.written.clone();
        }
        let start = last.written.end + (at - last.plain.end);
        start..start + 1
    }
}

/// The ways in which a text may be hidden that is looked for, and hidden once more. One that may
/// have a blank is looked for in forms, too: they differ only in what that is.
pub(super) fn hidden(may_have_blank: bool) -> impl Iterator<Item = Codec> {
    let all = [Codec::Percent, Codec::Form, Codec::Json];
    all.into_iter().filter(move |codec| may_have_blank || *codec != Codec::Form)
}

impl Codec {
    /// Whether `bytes` have an escape, so that they are not what they stand for.
    pub(super) fn is_escaped(self, bytes: &[u8]) -> bool {
        self.next_escape(bytes).is_some()
    }

    /// Where in `bytes` the next escape may be.
    fn next_escape(self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Raw => None,
            Self::Percent => memchr::memchr(b'%', bytes),
            Self::Form => memchr::memchr2(b'%', b'+', bytes),
            Self::Json => memchr::memchr(b'\\', bytes),
        }
    }

    /// What `bytes` stand for, and where. What looks like an escape and is none stands for itself.
    pub(super) fn decode(self, bytes: &[u8]) -> Decoded {
        let mut decoded = Decoded { bytes: Vec::with_capacity(bytes.len()), ..Decoded::default() };
        decoded.whole = self.walk(bytes, |plain, written| {
            let start = decoded.bytes.len();
            decoded.bytes.extend_from_slice(plain);
            if plain.len() != written.len() {
                let plain = start..decoded.bytes.len();
                decoded.escapes.push(Escape { written, plain });
            }
        });
        decoded
    }

    /// Shows `look` what the bytes around escapes stand for, in pieces: where each begins in
    /// `bytes`, what it is, and whether it goes on to their end. No text of `near` bytes that has
    /// an escape is cut, and no piece begins behind a backslash.
    ///
    /// # Cost
    /// That of finding the escapes, and of what is near one.
    pub(super) fn decode_near(
        self,
        bytes: &[u8],
        near: usize,
        mut look: impl FnMut(usize, &Decoded, bool),
    ) {
        let (mut begin, mut piece, mut has_escape) = (0, Decoded::default(), false);
        self.walk(bytes, |mut plain, written| {
            has_escape |= plain.len() != written.len();
            has_escape |= plain.first() != bytes.get(written.start);
            if plain.len() != written.len() {
                let start = piece.bytes.len();
                piece.bytes.extend_from_slice(plain);
                let plain = start..piece.bytes.len();
                let written = written.start - begin..written.end - begin;
                piece.escapes.push(Escape { written, plain });
                return;
            }
            let far = plain.get(..plain.len().saturating_sub(near)).unwrap_or(&[]);
            let run = far.iter().rev().take_while(|byte| **byte == b'\\').count();
            let cut = far.len() - run;
            if cut > near {
                let (behind, before) = (plain.get(..near), plain.get(cut..));
                if has_escape {
                    piece.bytes.extend_from_slice(behind.unwrap_or(&[]));
                    look(begin, &piece, false);
                }
                piece.bytes.clear();
                piece.escapes.clear();
                has_escape = false;
                begin = written.start + cut;
                plain = before.unwrap_or(&[]);
            }
            piece.bytes.extend_from_slice(plain);
        });
        if has_escape {
            look(begin, &piece, true);
        }
    }

    /// What `bytes` stand for.
    pub(super) fn plain(self, bytes: &[u8]) -> Vec<u8> {
        let mut all = Vec::with_capacity(bytes.len());
        self.walk(bytes, |plain, _| all.extend_from_slice(plain));
        all
    }

    /// Shows `take` what `bytes` stand for, piece by piece, and where each of those stands. Returns
    /// where an escape begins that is not whole; the length of all if there is none.
    fn walk(self, bytes: &[u8], mut take: impl FnMut(&[u8], Range<usize>)) -> usize {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let run = self.next_escape(rest).unwrap_or(rest.len());
            let (itself, rest) = rest.split_at(run);
            if run > 0 {
                take(itself, at..at + run);
                at += run;
                continue;
            }
            let unit = match (self, rest.first()) {
                (Self::Percent | Self::Form, Some(b'%')) => percent(rest),
                (Self::Form, Some(b'+')) => Unit::byte(b' ', 1),
                (Self::Json, Some(b'\\')) => escape(rest),
                (Self::Raw | Self::Percent | Self::Form | Self::Json, _) => Unit::Itself,
            };
            at += match unit {
                Unit::Itself => {
                    take(rest.get(..1).unwrap_or(&[]), at..at + 1);
                    1
                }
                Unit::Escape { bytes, count, len } => {
                    take(bytes.get(..count).unwrap_or(&[]), at..at + len);
                    len
                }
                Unit::Short => return at,
            };
        }
        at
    }

    /// `value` as it is written.
    pub(super) fn encode(self, value: &[u8]) -> Zeroizing<Vec<u8>> {
        match self {
            Self::Raw => Zeroizing::new(value.to_vec()),
            Self::Percent | Self::Form => percent_encoded(value),
            Self::Json => json(value),
        }
    }
}

/// What stands at the beginning of some bytes.
enum Unit {
    /// A byte that is itself.
    Itself,
    /// `len` bytes that stand for the first `count` of `bytes`.
    Escape { bytes: [u8; 4], count: usize, len: usize },
    /// An escape that is not whole.
    Short,
}

impl Unit {
    fn byte(byte: u8, len: usize) -> Self {
        Self::Escape { bytes: [byte, 0, 0, 0], count: 1, len }
    }

    fn character(character: char, len: usize) -> Self {
        let mut bytes = [0; 4];
        let count = character.encode_utf8(&mut bytes).len();
        Self::Escape { bytes, count, len }
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

fn percent(rest: &[u8]) -> Unit {
    match (rest.get(1).map(|digit| hex(*digit)), rest.get(2).map(|digit| hex(*digit))) {
        (Some(Some(high)), Some(Some(low))) => Unit::byte(high << 4 | low, 3),
        (None, _) | (Some(Some(_)), None) => Unit::Short,
        (Some(None), _) | (Some(Some(_)), Some(None)) => Unit::Itself,
    }
}

fn escape(rest: &[u8]) -> Unit {
    let Some(kind) = rest.get(1) else { return Unit::Short };
    let character = match kind {
        b'"' | b'\\' | b'/' => char::from(*kind),
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unicode(rest),
        _ => return Unit::Itself,
    };
    Unit::character(character, 2)
}

/// The number of the four digits behind `\u`, which `rest` begins with; `None`: it is not whole.
fn four(rest: &[u8]) -> Option<Result<u32, ()>> {
    let digits = rest.get(2..rest.len().min(6)).unwrap_or(&[]);
    let mut number = 0;
    for digit in digits {
        match hex(*digit) {
            Some(value) => number = number << 4 | u32::from(value),
            None => return Some(Err(())),
        }
    }
    (digits.len() == 4).then_some(Ok(number))
}

fn unicode(rest: &[u8]) -> Unit {
    let first = match four(rest) {
        None => return Unit::Short,
        Some(Err(())) => return Unit::Itself,
        Some(Ok(number)) => number,
    };
    if let Some(character) = char::from_u32(first) {
        return Unit::character(character, 6);
    }
    // A half of a pair (RFC 8259 7): with the other half it is a character.
    let other = rest.get(6..ESCAPE_BYTES_MAX.min(rest.len())).unwrap_or(&[]);
    if !b"\\u".starts_with(other.get(..other.len().min(2)).unwrap_or(&[])) {
        return Unit::Itself;
    }
    match four(other) {
        None => Unit::Short,
        Some(Err(())) => Unit::Itself,
        Some(Ok(second)) => {
            let halves = [first, second].map(|half| u16::try_from(half).unwrap_or(0));
            match char::decode_utf16(halves).next() {
                Some(Ok(character)) => Unit::character(character, ESCAPE_BYTES_MAX),
                Some(Err(_)) | None => Unit::Itself,
            }
        }
    }
}

/// `value` as it may stand in a query or a form: all but unreserved characters (RFC 3986 2.3)
/// escaped.
fn percent_encoded(value: &[u8]) -> Zeroizing<Vec<u8>> {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    // As long as it can get, so that it does not move and leave a copy.
    let mut out = Zeroizing::new(Vec::with_capacity(value.len() * 3));
    for byte in value {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(*byte);
        } else {
            let digit = |half: u8| DIGITS.get(usize::from(half)).copied().unwrap_or(b'0');
            out.extend([b'%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    out
}

/// `value` as it may stand in a string of JSON.
fn json(value: &[u8]) -> Zeroizing<Vec<u8>> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = Zeroizing::new(Vec::with_capacity(value.len() * 6));
    for byte in value {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', *byte]),
            0..0x20 => {
                let digit = |half: u8| DIGITS.get(usize::from(half)).copied().unwrap_or(b'0');
                out.extend([b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
            }
            _ => out.push(*byte),
        }
    }
    out
}
