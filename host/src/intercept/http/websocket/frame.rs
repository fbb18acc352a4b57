//! Frames of a WebSocket (RFC 6455 5.2): read as they come, and written anew.
//!
//! Owns what a frame may be, and that nothing of one is held but its header and the 125 bytes of a
//! control frame, however long its header says that it is. No extension was agreed on, so a bit
//! that one would give a meaning is an error. Must not know what messages mean.

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes of the longest header: two, eight of a length, and a key.
const HEADER_BYTES_MAX: usize = 14;
/// Bytes of the longest payload of a control frame (RFC 6455 5.5).
const CONTROL_BYTES_MAX: u8 = 125;
const IS_FINAL: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const IS_MASKED: u8 = 0x80;
/// In the place of a length: it follows as two bytes, or as eight.
const LENGTH_OF_2: u8 = 126;
const LENGTH_OF_8: u8 = 127;

/// With what a payload is masked.
pub(in super::super) type MaskKey = [u8; 4];

/// Who says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaker {
    /// The client, which masks (RFC 6455 5.1).
    Guest,
    Server,
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    fn of(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }

    fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// Why what somebody says is no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("a frame with bits of an extension")]
    Reserved,
    #[error("a frame of an unknown kind")]
    Unknown,
    #[error("a client's frame without a mask, or a server's with one")]
    Mask,
    #[error("a control frame that is too long, or in pieces")]
    Control,
    #[error("a piece of no message, or a message within another")]
    Order,
    #[error("a frame longer than any")]
    Length,
}

/// A part of what is said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A message, text or binary.
    Begin(Opcode),
    /// Bytes of it, without their mask.
    Data(Bytes),
    /// Its end.
    End,
    /// A control frame, which may stand between the frames of a message.
    Control(Opcode, Bytes),
}

/// The frame that is read.
struct Frame {
    opcode: Opcode,
    is_final: bool,
    /// Bytes that are still to come.
    left: u64,
    /// The key for the next of them first.
    mask: Option<MaskKey>,
}

/// Reads what one side says.
pub(super) struct Frames {
    speaker: Speaker,
    /// As much of the next header as has come.
    header: Vec<u8>,
    frame: Option<Frame>,
    /// Of a control frame.
    control: BytesMut,
    /// A message has begun and not ended.
    is_open: bool,
}

impl Frames {
    pub(super) fn of(speaker: Speaker) -> Self {
        let header = Vec::with_capacity(HEADER_BYTES_MAX);
        Self { speaker, header, frame: None, control: BytesMut::new(), is_open: false }
    }

    /// Takes the next part off `bytes`; `None`: there is no other before more has come.
    ///
    /// # Errors
    /// They are no frames; nothing that follows can be read.
    pub(super) fn next(&mut self, bytes: &mut Bytes) -> Result<Option<Part>, Malformed> {
        loop {
            let Some(frame) = &mut self.frame else {
                let Some(frame) = self.begin(bytes)? else { return Ok(None) };
                let opcode = frame.opcode;
                self.frame = Some(frame);
                if matches!(opcode, Opcode::Text | Opcode::Binary) {
                    return Ok(Some(Part::Begin(opcode)));
                }
                continue;
            };
            if frame.left == 0 {
                let (opcode, is_final) = (frame.opcode, frame.is_final);
                self.frame = None;
                if opcode.is_control() {
                    return Ok(Some(Part::Control(opcode, self.control.split().freeze())));
                }
                if is_final {
                    self.is_open = false;
                    return Ok(Some(Part::End));
                }
                continue;
            }
            if bytes.is_empty() {
                return Ok(None);
            }
            let payload = frame.take(bytes);
            if !frame.opcode.is_control() {
                return Ok(Some(Part::Data(payload)));
            }
            self.control.extend_from_slice(&payload);
        }
    }

    /// Reads a header, once it is whole.
    fn begin(&mut self, bytes: &mut Bytes) -> Result<Option<Frame>, Malformed> {
        loop {
            // What is wrong with it is known by its first two bytes, however long it is.
            let known = self.known()?;
            let needed = known.map_or(2, |(_, len)| len);
            if self.header.len() == needed {
                break;
            }
            if bytes.is_empty() {
                return Ok(None);
            }
            let more = bytes.split_to(bytes.len().min(needed - self.header.len()));
            self.header.extend_from_slice(&more);
        }
        let Some((opcode, _)) = self.known()? else { return Ok(None) };
        let frame = self.whole(opcode)?;
        self.header.clear();
        self.is_open |= !opcode.is_control();
        Ok(Some(frame))
    }

    /// What kind of frame it is, and the length of its header; `None`: less than two bytes are
    /// there.
    fn known(&self) -> Result<Option<(Opcode, usize)>, Malformed> {
        let Some((&[first, second], _)) = self.header.split_first_chunk() else { return Ok(None) };
        if first & RESERVED != 0 {
            return Err(Malformed::Reserved);
        }
        let opcode = Opcode::of(first & OPCODE).ok_or(Malformed::Unknown)?;
        let is_masked = second & IS_MASKED != 0;
        if is_masked != (self.speaker == Speaker::Guest) {
            return Err(Malformed::Mask);
        }
        let length = second & !IS_MASKED;
        if opcode.is_control() {
            if first & IS_FINAL == 0 || length > CONTROL_BYTES_MAX {
                return Err(Malformed::Control);
            }
        } else if (opcode == Opcode::Continuation) != self.is_open {
            return Err(Malformed::Order);
        }
        let of_length = match length {
            LENGTH_OF_2 => 2,
            LENGTH_OF_8 => 8,
            _ => 0,
        };
        let of_mask = if is_masked { size_of::<MaskKey>() } else { 0 };
        Ok(Some((opcode, 2 + of_length + of_mask)))
    }

    /// What the header says, which is whole.
    fn whole(&self, opcode: Opcode) -> Result<Frame, Malformed> {
        let (first, second, rest) = match self.header.as_slice() {
            [first, second, rest @ ..] => (*first, *second & !IS_MASKED, rest),
            _ => return Err(Malformed::Length),
        };
        let big_endian =
            |bytes: &[u8]| bytes.iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
        let (left, rest) = match second {
            LENGTH_OF_2 => rest.split_at_checked(2).map(|(len, rest)| (big_endian(len), rest)),
            LENGTH_OF_8 => rest.split_at_checked(8).map(|(len, rest)| (big_endian(len), rest)),
            length => Some((u64::from(length), rest)),
        }
        .ok_or(Malformed::Length)?;
        if left > u64::MAX >> 1 {
            return Err(Malformed::Length);
        }
        let mask = rest.first_chunk().copied();
        Ok(Frame { opcode, is_final: first & IS_FINAL != 0, left, mask })
    }
}

impl Frame {
    /// Takes off `bytes` what of them is the frame's, and the mask off that.
    fn take(&mut self, bytes: &mut Bytes) -> Bytes {
        let len = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let payload = bytes.split_to(len);
        self.left -= payload.len() as u64;
        let Some(key) = &mut self.mask else { return payload };
        let mut plain = BytesMut::from(payload);
        mask(&mut plain, *key);
        key.rotate_left(len % size_of::<MaskKey>());
        plain.freeze()
    }
}

/// Masks `bytes`, or takes the mask off them (RFC 6455 5.3).
fn mask(bytes: &mut [u8], key: MaskKey) {
    for chunk in bytes.chunks_mut(key.len()) {
        chunk.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
    }
}

/// Writes a frame to `out`.
pub(super) fn write(
    out: &mut BytesMut,
    (opcode, is_final): (Opcode, bool),
    payload: &[u8],
    key: Option<MaskKey>,
) {
    out.reserve(HEADER_BYTES_MAX + payload.len());
    out.put_u8(opcode.bits() | if is_final { IS_FINAL } else { 0 });
    let is_masked = if key.is_some() { IS_MASKED } else { 0 };
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(len @ 0..=CONTROL_BYTES_MAX), _) => out.put_u8(is_masked | len),
        (_, Ok(len)) => {
            out.put_u8(is_masked | LENGTH_OF_2);
            out.put_u16(len);
        }
        (_, Err(_)) => {
            out.put_u8(is_masked | LENGTH_OF_8);
            out.put_u64(payload.len() as u64);
        }
    }
    out.put_slice(key.as_ref().map_or(&[], |key| key.as_slice()));
    let mut payload_there = out.split_off(out.len());
    payload_there.put_slice(payload);
    if let Some(key) = key {
        mask(&mut payload_there, key);
    }
    out.unsplit(payload_there);
}

#[cfg(test)]
mod tests;
