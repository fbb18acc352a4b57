//! How texts are written where some of their bytes stand for themselves and others are escaped.

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
    /// Start and end in what was decoded, for each byte.
    spans: Vec<(usize, usize)>,
    /// Where an escape begins that is not whole; the length of all if there is none.
    pub(super) whole: usize,
}

impl Decoded {
    fn push(&mut self, bytes: &[u8], span: (usize, usize)) {
        self.bytes.extend_from_slice(bytes);
        self.spans.extend(bytes.iter().map(|_| span));
    }

    /// Where the decoded bytes from `start` to `end` stand.
    pub(super) fn span(&self, start: usize, end: usize) -> (usize, usize) {
        let from = self.start(start);
        let to = end.checked_sub(1).and_then(|last| self.spans.get(last));
        (from, to.map_or(from, |span| span.1))
    }

    /// Where the decoded byte `at` begins.
    pub(super) fn start(&self, at: usize) -> usize {
        self.spans.get(at).map_or(self.whole, |span| span.0)
    }
}

impl Codec {
    /// Whether `bytes` have an escape, so that they are not what they stand for.
    pub(super) fn is_escaped(self, bytes: &[u8]) -> bool {
        match self {
            Self::Raw => false,
            Self::Percent => memchr::memchr(b'%', bytes).is_some(),
            Self::Form => memchr::memchr2(b'%', b'+', bytes).is_some(),
            Self::Json => memchr::memchr(b'\\', bytes).is_some(),
        }
    }

    /// What `bytes` stand for. What looks like an escape and is none stands for itself.
    pub(super) fn decode(self, bytes: &[u8]) -> Decoded {
        let mut decoded = Decoded { whole: bytes.len(), ..Decoded::default() };
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            let rest = bytes.get(at..).unwrap_or(&[]);
            let unit = match (self, byte) {
                (Self::Percent | Self::Form, b'%') => percent(rest),
                (Self::Form, b'+') => Unit::Some(b" ", 1),
                (Self::Json, b'\\') => match escape(rest) {
                    Escape::Char(character, len) => {
                        let text = character.encode_utf8(&mut [0; 4]).as_bytes().to_vec();
                        decoded.push(&text, (at, at + len));
                        at += len;
                        continue;
                    }
                    Escape::Not => Unit::Itself,
                    Escape::Short => Unit::Short,
                },
                (Self::Raw | Self::Percent | Self::Form | Self::Json, _) => Unit::Itself,
            };
            let (stands_for, len) = match unit {
                Unit::Itself => (&[byte][..], 1),
                Unit::Some(bytes, len) => (bytes, len),
                Unit::Byte(byte) => {
                    decoded.push(&[byte], (at, at + 3));
                    at += 3;
                    continue;
                }
                Unit::Short => {
                    decoded.whole = at;
                    break;
                }
            };
            decoded.push(stands_for, (at, at + len));
            at += len;
        }
        decoded
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
    Itself,
    Some(&'static [u8], usize),
    Byte(u8),
    /// An escape that is not whole.
    Short,
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

fn percent(rest: &[u8]) -> Unit {
    match (rest.get(1).map(|digit| hex(*digit)), rest.get(2).map(|digit| hex(*digit))) {
        (Some(Some(high)), Some(Some(low))) => Unit::Byte(high << 4 | low),
        (None, _) | (Some(Some(_)), None) => Unit::Short,
        (Some(None), _) | (Some(Some(_)), Some(None)) => Unit::Itself,
    }
}

enum Escape {
    Char(char, usize),
    Not,
    Short,
}

fn escape(rest: &[u8]) -> Escape {
    let Some(kind) = rest.get(1) else { return Escape::Short };
    let character = match kind {
        b'"' | b'\\' | b'/' => char::from(*kind),
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unicode(rest),
        _ => return Escape::Not,
    };
    Escape::Char(character, 2)
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

fn unicode(rest: &[u8]) -> Escape {
    let first = match four(rest) {
        None => return Escape::Short,
        Some(Err(())) => return Escape::Not,
        Some(Ok(number)) => number,
    };
    if let Some(character) = char::from_u32(first) {
        return Escape::Char(character, 6);
    }
    // A half of a pair (RFC 8259 7): with the other half it is a character.
    let other = rest.get(6..ESCAPE_BYTES_MAX.min(rest.len())).unwrap_or(&[]);
    if !b"\\u".starts_with(other.get(..other.len().min(2)).unwrap_or(&[])) {
        return Escape::Not;
    }
    match four(other) {
        None => Escape::Short,
        Some(Err(())) => Escape::Not,
        Some(Ok(second)) => {
            let halves = [first, second].map(|half| u16::try_from(half).unwrap_or(0));
            match char::decode_utf16(halves).next() {
                Some(Ok(character)) => Escape::Char(character, ESCAPE_BYTES_MAX),
                Some(Err(_)) | None => Escape::Not,
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
pub(super) fn json(value: &[u8]) -> Zeroizing<Vec<u8>> {
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
