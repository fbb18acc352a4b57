//! Frames that say themselves what they should be.

use std::sync::LazyLock;

/// Bytes of a frame's number and length.
const LABEL_BYTES: usize = 12;
const PATTERN_BYTES: usize = 128 * 1024;
const PATTERN_STARTS: u64 = 60_000;

static PATTERN: LazyLock<Vec<u8>> =
    LazyLock::new(|| (0..PATTERN_BYTES as u64).map(|i| mix(i).to_le_bytes()[3]).collect());

/// A permutation of the numbers that leaves no order in them (splitmix64's).
#[must_use]
pub const fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A length for frame `number`, 14 to 1514 bytes; many are short and many are full.
#[must_use]
pub fn mixed_len(number: u64) -> usize {
    let random = mix(number);
    match random % 4 {
        0 => 1514,
        1 => 60,
        _ => 14 + usize::try_from((random >> 8) % 1501).expect("a small number"),
    }
}

fn pattern(number: u64, len: usize) -> &'static [u8] {
    let start = usize::try_from(mix(number) % PATTERN_STARTS).expect("a small number");
    &PATTERN[start..start + len]
}

/// Makes frame `number` of `len` bytes in `frame`; a frame too short for its label is all pattern.
pub fn make(frame: &mut Vec<u8>, number: u64, len: usize) {
    frame.clear();
    frame.extend_from_slice(pattern(number, len));
    if len >= LABEL_BYTES {
        frame[..8].copy_from_slice(&number.to_le_bytes());
        let label = u32::try_from(len).expect("no frame is as long as that");
        frame[8..LABEL_BYTES].copy_from_slice(&label.to_le_bytes());
    }
}

/// The number of a frame as it was made.
///
/// # Panics
/// When any of it is not as it was made.
#[must_use]
pub fn number(frame: &[u8]) -> u64 {
    let (label, rest) = frame.split_at(LABEL_BYTES);
    let number = u64::from_le_bytes(label[..8].try_into().expect("eight bytes"));
    let len = u32::from_le_bytes(label[8..].try_into().expect("four bytes")) as usize;
    assert_eq!(frame.len(), len, "frame {number} has another length");
    assert!(rest == &pattern(number, len)[LABEL_BYTES..], "frame {number} is corrupted");
    number
}

/// Whether `frame` is the frame `number`, whatever its length.
#[must_use]
pub fn is(frame: &[u8], number: u64) -> bool {
    if frame.len() >= LABEL_BYTES {
        self::number(frame) == number
    } else {
        frame == pattern(number, frame.len())
    }
}
