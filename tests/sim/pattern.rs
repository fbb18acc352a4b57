//! Content that knows its place: each byte of a stream follows from the stream and the offset.
//!
//! So a byte that is lost, doubled, moved or of another flow shows where it arrives, at once.

use crate::dice::mix;

/// One direction of one flow: what its bytes are, and how many were written or checked so far.
#[derive(Debug, Clone)]
pub struct Pattern {
    key: u64,
    at: u64,
}

impl Pattern {
    /// The content of the stream that `key` names, from its start.
    #[must_use]
    pub fn new(key: u64) -> Self {
        Self { key: mix(key), at: 0 }
    }

    /// Bytes written or checked so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.at
    }

    /// Whether nothing was written or checked yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.at == 0
    }

    fn byte(&self, at: u64) -> u8 {
        mix(self.key ^ (at / 8)).to_le_bytes()[(at % 8) as usize]
    }

    /// Fills `out` with what comes next.
    pub fn write(&mut self, out: &mut [u8]) {
        for (at, byte) in (self.at..).zip(&mut *out) {
            *byte = self.byte(at);
        }
        self.at += out.len() as u64;
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.write(&mut bytes);
        bytes
    }

    /// Checks that `bytes` are what comes next.
    ///
    /// # Panics
    /// At the first that is not.
    pub fn check(&mut self, bytes: &[u8]) {
        for (at, &byte) in (self.at..).zip(bytes) {
            assert_eq!(byte, self.byte(at), "byte {at} of a flow is not what was sent");
        }
        self.at += bytes.len() as u64;
    }
}
