//! The authority of the first request of HTTP/2 by prior knowledge (RFC 9113 3.3).
//!
//! Read are the frames up to the first with a head (RFC 9113 6.2), and of its fields (HPACK, RFC
//! 7541) the authority and the host. What a first head of a connection has no need of (entries that
//! it has just made, a head in several frames) is malformed here: a server may read a name in it.
//!
//! A client may send its first head at once, or wait for the server's settings before (RFC 9113
//! 3.4): then the preface and settings of its own are all there is of it, a greeting.

use super::request::of_text;
use super::{Heard, Opening};

/// How every connection of HTTP/2 begins (RFC 9113 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes up to the end of the first head.
const BYTES_MAX: usize = 16 * 1024;
const FRAME_HEADER_BYTES: usize = 9;
/// Where the type of the first frame is.
const KIND_AT: usize = PREFACE.len() + 3;

/// Settings that change nothing (RFC 9113 6.5): what a server says first (RFC 9113 3.4).
pub(crate) const WELCOME: [u8; FRAME_HEADER_BYTES] = [0, 0, 0, SETTINGS, 0, 0, 0, 0, 0];

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;
/// Of the stream that a stream depends on, and its weight (RFC 9113 6.2).
const PRIORITY_BYTES: usize = 5;

/// Entries of the static table (RFC 7541 A).
const AUTHORITY: usize = 1;
const HOST: usize = 38;
const STATIC_ENTRIES: usize = 61;

/// Bytes of the longest string that is told from others: a name with its port.
const TEXT_BYTES_MAX: usize = 264;

/// A name with its port, or the name of a field.
type Text = heapless::Vec<u8, TEXT_BYTES_MAX>;

/// Whether `bytes` begin as HTTP/2 does, as far as they go.
pub(super) fn is_in(bytes: &[u8]) -> bool {
    bytes.starts_with(PREFACE) || (bytes.len() > 3 && PREFACE.starts_with(bytes))
}

pub(super) fn read(bytes: &[u8]) -> Opening {
    let head = head(bytes);
    let is_greeting = matches!(head, Err(Unread::Between(_)));
    let heard = match head {
        Ok(block) => authority(block).unwrap_or(Heard::Malformed),
        Err(Unread::Before(wanted) | Unread::Between(wanted)) if wanted <= BYTES_MAX => {
            Heard::More(wanted)
        }
        Err(Unread::Before(_) | Unread::Between(_) | Unread::Never) => Heard::Malformed,
    };
    Opening { is_greeting, ..Opening::of(heard) }
}

/// Why there is no head yet.
enum Unread {
    /// So many bytes must be there before another look tells more.
    Before(usize),
    /// The same where all frames are whole, and settings the first of them.
    Between(usize),
    Never,
}

/// The fields of the first head.
fn head(bytes: &[u8]) -> Result<&[u8], Unread> {
    let mut at = PREFACE.len();
    if bytes.len() < at {
        return Err(Unread::Before(bytes.len() + 1)); // it may yet be something else
    }
    loop {
        let Some([a, b, c, kind, flags, ..]) = bytes.get(at..at + FRAME_HEADER_BYTES) else {
            let wanted = at + FRAME_HEADER_BYTES;
            let is_between = bytes.len() == at && bytes.get(KIND_AT) == Some(&SETTINGS);
            return Err(if is_between { Unread::Between } else { Unread::Before }(wanted));
        };
        let len = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        let end = at + FRAME_HEADER_BYTES + len;
        if matches!(*kind, DATA | CONTINUATION) {
            return Err(Unread::Never); // of no stream that is open
        }
        let Some(frame) = bytes.get(at + FRAME_HEADER_BYTES..end) else {
            return Err(Unread::Before(end));
        };
        if *kind == HEADERS {
            return block(*flags, frame).ok_or(Unread::Never);
        }
        at = end;
    }
}

/// The fields in a frame that has all of them.
fn block(flags: u8, frame: &[u8]) -> Option<&[u8]> {
    let (padding, frame) = match frame.split_first() {
        Some((padding, rest)) if flags & PADDED != 0 => (usize::from(*padding), rest),
        _ => (0, frame),
    };
    let from = if flags & PRIORITY == 0 { 0 } else { PRIORITY_BYTES };
    let block = frame.get(from..frame.len().checked_sub(padding)?)?;
    (flags & END_HEADERS != 0).then_some(block)
}

/// Whom the request with the fields in `block` is for; `None`: that can't be read.
fn authority(mut block: &[u8]) -> Option<Heard> {
    let (mut authority, mut host) = (None, None);
    while let Some(first) = block.first().copied() {
        let prefix_bits = match first {
            0x80.. => 7,
            0x40.. => 6,
            0x20.. => 5,
            _ => 4,
        };
        let index = number(&mut block, prefix_bits)?;
        match prefix_bits {
            // The size of the table.
            5 => continue,
            7 if (1..=STATIC_ENTRIES).contains(&index) => {
                if index == AUTHORITY || index == HOST {
                    return None; // empty ones
                }
                continue;
            }
            7 => return None,
            _ if index > STATIC_ENTRIES => return None,
            _ => {}
        }
        let name = if index == 0 { string(&mut block)? } else { Some(Text::new()) };
        let value = string(&mut block)?;
        let is = |entry, text: &[u8]| index == entry || name.as_deref() == Some(text);
        let place = if is(AUTHORITY, b":authority") {
            &mut authority
        } else if is(HOST, b"host") {
            &mut host
        } else {
            continue;
        };
        let said = value.map_or(Heard::Malformed, |text| of_text(text.iter().copied()));
        if place.replace(said).is_some() {
            return Some(Heard::Malformed);
        }
    }
    match (authority, host) {
        (Some(said), Some(host)) if said != host => Some(Heard::Malformed),
        (said, host) => Some(said.or(host).unwrap_or(Heard::Nothing)),
    }
}

/// An integer (RFC 7541 5.1).
fn number(block: &mut &[u8], prefix_bits: u32) -> Option<usize> {
    let mut next = || {
        let (byte, rest) = block.split_first()?;
        *block = rest;
        Some(usize::from(*byte))
    };
    let mask = (1 << prefix_bits) - 1;
    let mut number = next()? & mask;
    if number < mask {
        return Some(number);
    }
    for shift in [0, 7, 14] {
        let byte = next()?;
        number += (byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// A string (RFC 7541 5.2); `Some(None)`: one that is neither a name nor such a field's.
fn string(block: &mut &[u8]) -> Option<Option<Text>> {
    let is_huffman = *block.first()? & 0x80 != 0;
    let len = number(block, 7)?;
    let (text, rest) = block.split_at_checked(len)?;
    *block = rest;
    Some(if is_huffman { huffman(text) } else { Text::from_slice(text).ok() })
}

/// Symbols whose codes have 5, 6, 7 and 8 bits (RFC 7541 B), in the order of their codes, which
/// follow one another; those of names are all among them.
const SYMBOLS: [&[u8]; 4] =
    [b"012aceiost", b" %-./3456789=A_bdfghlmnpru", b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz", b"&*,;XZ"];

/// Text in Huffman's code; `None`: it has other symbols, or does not end as it should.
fn huffman(bytes: &[u8]) -> Option<Text> {
    let mut text = Text::new();
    let (mut code, mut bits, mut first) = (0, 0, 0);
    for at in 0..bytes.len() * 8 {
        let bit = bytes.get(at / 8)? >> (7 - at % 8) & 1;
        code = code << 1 | usize::from(bit);
        bits += 1;
        // The first code of so many bits, behind all that are shorter.
        first = match bits {
            1..=5 => 0,
            longer => (first + SYMBOLS.get(longer - 6)?.len()) << 1,
        };
        let symbols = bits.checked_sub(5).and_then(|row| SYMBOLS.get(row));
        if let Some(symbol) = symbols.and_then(|row| row.get(code.checked_sub(first)?)) {
            text.push(*symbol).ok()?;
            (code, bits, first) = (0, 0, 0);
        }
    }
    // The rest is filled with ones, of less than a byte.
    (bits < 8 && code == (1 << bits) - 1).then_some(text)
}
