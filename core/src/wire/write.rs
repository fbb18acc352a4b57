//! Writing messages into a buffer that may be too short for them.

/// Writes a message into a buffer; what has no room is not there at all.
pub(crate) struct Writer<'o> {
    out: &'o mut [u8],
    len: usize,
    is_short: bool,
}

impl<'o> Writer<'o> {
    pub(crate) fn new(out: &'o mut [u8]) -> Self {
        Self { out, len: 0, is_short: false }
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        match self.out.get_mut(self.len..self.len + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            None => self.is_short = true,
        }
    }

    pub(crate) fn words(&mut self, words: &[u16]) {
        words.iter().for_each(|word| self.put(&word.to_be_bytes()));
    }

    /// Writes a domain name as it is in messages: labels behind their lengths (RFC 1035 3.1).
    /// `name` was checked.
    pub(crate) fn name(&mut self, name: &str) {
        for label in name.split('.') {
            #[allow(clippy::cast_possible_truncation, reason = "labels of a checked name")]
            self.put(&[label.len() as u8]);
            self.put(label.as_bytes());
        }
        self.put(&[0]);
    }

    /// Writes `code`, and what `write` writes behind its length (an option of RFC 8415 21.1).
    pub(crate) fn option(&mut self, code: u16, write: impl FnOnce(&mut Self)) {
        self.words(&[code, 0]);
        let start = self.len;
        write(self);
        // Nothing here is as long as 2^16; if it were, the message would not be sent.
        let len = u16::try_from(self.len - start).unwrap_or_else(|_| {
            self.is_short = true;
            0
        });
        if let Some(field) = start.checked_sub(2).and_then(|at| self.out.get_mut(at..start)) {
            field.copy_from_slice(&len.to_be_bytes());
        }
    }

    /// The length of the whole; 0: it had no room.
    pub(crate) fn finish(self) -> usize {
        if self.is_short { 0 } else { self.len }
    }
}
