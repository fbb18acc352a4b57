//! Endless bytes that a receiver can check: whatever is lost, repeated or swapped shows.

use std::io::{self, Read, Write};

const CHUNK_BYTES: usize = 64 * 1024;

/// The bytes of one seed, from the first on.
pub(crate) struct Pattern {
    state: u64,
    /// Bytes that were made and not yet taken.
    rest: Vec<u8>,
}

impl Pattern {
    /// From the first byte.
    pub(crate) fn new(seed: u64) -> Self {
        // Xorshift never leaves 0.
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, rest: Vec::new() }
    }

    /// The next `len` bytes.
    pub(crate) fn next(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.rest);
        while bytes.len() < len {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            bytes.extend_from_slice(&self.state.to_le_bytes());
        }
        self.rest = bytes.split_off(len);
        bytes
    }
}

/// Writes the first `len` bytes of `seed`.
pub(crate) fn send(mut to: impl Write, seed: u64, len: u64) -> io::Result<()> {
    let mut pattern = Pattern::new(seed);
    let mut left = usize::try_from(len).unwrap();
    while left > 0 {
        let chunk = left.min(CHUNK_BYTES);
        to.write_all(&pattern.next(chunk))?;
        left -= chunk;
    }
    Ok(())
}

/// Reads to the end; returns how many bytes came.
///
/// # Panics
/// At the first byte that is not the pattern's.
pub(crate) fn check(mut from: impl Read, seed: u64) -> io::Result<u64> {
    let mut pattern = Pattern::new(seed);
    let mut bytes = vec![0; CHUNK_BYTES];
    let mut seen = 0;
    loop {
        let read = from.read(&mut bytes)?;
        if read == 0 {
            return Ok(seen);
        }
        assert!(bytes[..read] == pattern.next(read), "other bytes than were sent, after {seen}");
        seen += read as u64;
    }
}
