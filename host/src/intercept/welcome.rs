//! The first acknowledgement of settings of HTTP/2 (RFC 9113 6.5.3), left out of what a guest says.
//!
//! A client that waits for its server before it asks was sent settings by the engine, before
//! anybody was connected to. Whoever goes on in the server's place sends settings of its own, and
//! acknowledgements are told apart by their order alone: so the first is left out, and the others
//! count.
//!
//! Knows where frames begin (RFC 9113 4.1), and holds back less than the header of one.

use super::sniff::PREFACE;

const HEADER_BYTES: usize = 9;
/// The header of the frame that is left out.
const ACKNOWLEDGEMENT: [u8; HEADER_BYTES] = [0, 0, 0, 4, 1, 0, 0, 0, 0];

/// A walk over frames, to the first acknowledgement.
pub(super) struct Acknowledged {
    /// Bytes before the next header.
    left: usize,
    /// What is there of a header.
    header: Vec<u8>,
    is_found: bool,
}

impl Acknowledged {
    /// From the preface of a connection on.
    pub(super) fn new() -> Self {
        let header = Vec::with_capacity(HEADER_BYTES);
        Self { left: PREFACE.len(), header, is_found: false }
    }

    /// All that follows is to pass.
    pub(super) fn is_found(&self) -> bool {
        self.is_found
    }

    /// What passes of `bytes`, which come next.
    pub(super) fn without(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        let mut passing = Vec::with_capacity(self.header.len() + bytes.len());
        while !bytes.is_empty() && !self.is_found {
            let is_between = self.left > 0;
            let wanted = if is_between { self.left } else { HEADER_BYTES - self.header.len() };
            let (now, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            if is_between {
                self.left -= now.len();
                passing.extend_from_slice(now);
                continue;
            }
            self.header.extend_from_slice(now);
            if let [a, b, c, _, _, _, _, _, _] = self.header[..] {
                self.is_found = self.header == ACKNOWLEDGEMENT;
                self.left = u32::from_be_bytes([0, a, b, c]) as usize;
                if !self.is_found {
                    passing.extend_from_slice(&self.header);
                }
                self.header.clear();
            }
        }
        passing.extend_from_slice(bytes);
        passing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_acknowledgement_is_left_out_wherever_it_is_cut_and_nothing_else() {
        let settings: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 9];
        // What is in a frame is none, nor what has a stream, or a length.
        let data = [&[0, 0, 9, 0, 1, 0, 0, 0, 1][..], &ACKNOWLEDGEMENT].concat();
        let stream: &[u8] = &[0, 0, 0, 4, 1, 0, 0, 0, 1];
        let long: &[u8] = &[0, 0, 1, 4, 1, 0, 0, 0, 0, 7];
        let before = [PREFACE, settings, &data, stream, long].concat();
        let after = [&data[..], &ACKNOWLEDGEMENT, b"and no frame"].concat();
        let all = [&before[..], &ACKNOWLEDGEMENT, &after].concat();
        let expected = [before, after].concat();
        for piece in 1..=all.len() {
            let mut walk = Acknowledged::new();
            let mut passed = vec![];
            for bytes in all.chunks(piece) {
                passed.extend(walk.without(bytes));
            }
            assert_eq!(passed, expected, "in pieces of {piece}");
            assert!(walk.is_found());
        }
    }

    #[test]
    fn without_one_all_passes_but_less_than_a_header() {
        let all = [PREFACE, &[0, 0, 2, 6, 0, 0, 0, 0, 0, 1, 2], &[0, 0, 0, 4, 1, 0, 0, 0]].concat();
        let mut walk = Acknowledged::new();
        assert_eq!(walk.without(&all), all[..all.len() - 8]);
        assert!(!walk.is_found());
        assert_eq!(walk.without(&[1]), [0, 0, 0, 4, 1, 0, 0, 0, 1]);
    }
}
