//! The server name of a TLS ClientHello.
//!
//! A hello is a handshake message of up to 64 KiB, cut into records of any length, which TCP cuts
//! again; it is read byte for byte, across both. Encrypted ClientHello (RFC 9849) hides the name
//! that counts: the one outside may be anybody's, so where the extension is, the name is said to be
//! veiled. It can't be told from the one that browsers send to keep it usual (GREASE).

use super::{Heard, SaidName};

/// The type of a record with a handshake.
pub(super) const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: usize = 0;
const ENCRYPTED_CLIENT_HELLO: usize = 0xfe0d;
const HOST_NAME: u8 = 0;
const RECORD_HEADER_BYTES: usize = 5;
/// Plaintext of the longest record (RFC 8446 5.1).
const RECORD_BYTES_MAX: usize = 1 << 14;
/// Bytes of the longest hello that is read.
const HELLO_BYTES_MAX: usize = 1 << 16;

/// Why reading stopped.
enum Stop {
    /// Behind the last byte that is there.
    Short,
    Malformed,
}

/// The handshake's bytes, in order, out of their records.
struct Flight<'b> {
    rest: &'b [u8],
    /// Bytes of the running record that are not read.
    in_record: usize,
}

impl Flight<'_> {
    fn byte(&mut self) -> Result<u8, Stop> {
        while self.in_record == 0 {
            let Some((header, rest)) = self.rest.split_first_chunk() else {
                return Err(if self.rest.first().is_none_or(|kind| *kind == HANDSHAKE) {
                    Stop::Short
                } else {
                    Stop::Malformed
                });
            };
            let [kind, major, _, high, low]: [u8; RECORD_HEADER_BYTES] = *header;
            self.in_record = usize::from(u16::from_be_bytes([high, low]));
            // An empty record of a handshake is forbidden (RFC 8446 5.1), and would be endless.
            if kind != HANDSHAKE || major != 3 || !(1..=RECORD_BYTES_MAX).contains(&self.in_record)
            {
                return Err(Stop::Malformed);
            }
            self.rest = rest;
        }
        let (byte, rest) = self.rest.split_first().ok_or(Stop::Short)?;
        self.rest = rest;
        self.in_record -= 1;
        Ok(*byte)
    }
}

/// A part of the handshake whose length was said before it.
struct Part<'f, 'b> {
    flight: &'f mut Flight<'b>,
    left: usize,
}

impl<'b> Part<'_, 'b> {
    fn byte(&mut self) -> Result<u8, Stop> {
        self.left = self.left.checked_sub(1).ok_or(Stop::Malformed)?;
        self.flight.byte()
    }

    /// A number of `bytes` bytes.
    fn number(&mut self, bytes: usize) -> Result<usize, Stop> {
        (0..bytes).try_fold(0, |number, _| Ok(number << 8 | usize::from(self.byte()?)))
    }

    fn skip(&mut self, bytes: usize) -> Result<(), Stop> {
        (0..bytes).try_for_each(|_| self.byte().map(drop))
    }

    /// Skips what is behind a length of `bytes` bytes.
    fn skip_vector(&mut self, bytes: usize) -> Result<(), Stop> {
        let len = self.number(bytes)?;
        self.skip(len)
    }

    /// What is behind a length of `bytes` bytes, which is read before all else.
    fn vector(&mut self, bytes: usize) -> Result<Part<'_, 'b>, Stop> {
        let len = self.number(bytes)?;
        self.left = self.left.checked_sub(len).ok_or(Stop::Malformed)?;
        Ok(Part { flight: self.flight, left: len })
    }
}

/// What the extensions say of the name.
#[derive(Default)]
struct Names {
    /// As it was said; `Some(None)`: what was said is no name.
    said: Option<Option<SaidName>>,
    is_encrypted: bool,
}

pub(super) fn read(bytes: &[u8]) -> Heard {
    let mut flight = Flight { rest: bytes, in_record: 0 };
    let mut names = Names::default();
    let mut left = None;
    match hello(&mut flight, &mut names, &mut left) {
        Ok(()) => match names.said {
            Some(Some(name)) if names.is_encrypted => Heard::Veiled(name),
            Some(Some(name)) => Heard::Name(name),
            Some(_) | None => Heard::Nothing,
        },
        Err(Stop::Malformed) => Heard::Malformed,
        Err(Stop::Short) => {
            // Whatever the records are like, the rest of the message is still to come.
            let missing = left.map_or(1, |len: usize| missing(bytes, len));
            Heard::More(bytes.len() + missing.max(1))
        }
    }
}

/// How many bytes of a message of `len` bytes are not in the records of `bytes`, which are well
/// formed.
fn missing(bytes: &[u8], len: usize) -> usize {
    let (mut rest, mut there) = (bytes, 0);
    while let Some(([.., high, low], behind)) = rest.split_first_chunk::<RECORD_HEADER_BYTES>() {
        let record = behind.len().min(usize::from(u16::from_be_bytes([*high, *low])));
        there += record;
        rest = behind.get(record..).unwrap_or(&[]);
    }
    len.saturating_sub(there)
}

/// Reads a whole hello; `len` is set to that of its message once it is known.
fn hello(flight: &mut Flight<'_>, names: &mut Names, len: &mut Option<usize>) -> Result<(), Stop> {
    const HEADER_BYTES: usize = 4;
    let mut message = Part { flight, left: HEADER_BYTES + HELLO_BYTES_MAX };
    if message.byte()? != CLIENT_HELLO {
        return Err(Stop::Malformed);
    }
    let body = message.number(3)?;
    if body > HELLO_BYTES_MAX {
        return Err(Stop::Malformed);
    }
    *len = Some(HEADER_BYTES + body);
    message.left = body;
    message.skip(2 + 32)?; // version, random
    message.skip_vector(1)?; // session
    message.skip_vector(2)?; // cipher suites
    message.skip_vector(1)?; // compression
    if message.left == 0 {
        return Ok(()); // no extensions
    }
    let mut extensions = message.vector(2)?;
    while extensions.left > 0 {
        let kind = extensions.number(2)?;
        let mut extension = extensions.vector(2)?;
        if kind == SERVER_NAME {
            if names.said.is_some() {
                return Err(Stop::Malformed);
            }
            names.said = Some(server_name(&mut extension)?);
        } else {
            names.is_encrypted |= kind == ENCRYPTED_CLIENT_HELLO;
        }
        let rest = extension.left;
        extension.skip(rest)?;
    }
    if message.left == 0 { Ok(()) } else { Err(Stop::Malformed) }
}

/// The one name of a list (RFC 6066 3: there must not be two of a type, and there is one type).
fn server_name(extension: &mut Part<'_, '_>) -> Result<Option<SaidName>, Stop> {
    let mut list = extension.vector(2)?;
    if list.byte()? != HOST_NAME {
        return Err(Stop::Malformed);
    }
    let mut host = list.vector(2)?;
    let len = host.left;
    let mut text = heapless::Vec::<u8, { crate::limits::DOMAIN_BYTES_MAX + 1 }>::new();
    for _ in 0..len {
        text.push(host.byte()?).map_err(|_| Stop::Malformed)?;
    }
    if list.left > 0 || extension.left > 0 || len == 0 {
        return Err(Stop::Malformed);
    }
    Ok(super::name(text))
}
