//! Datagrams of one size that lie one behind the other: what the kernel and a guest with offload
//! take, and give, in one piece.
//!
//! Owns the shape of such a row, and the two places where rows come about of single datagrams: on
//! the way out ([`Outbox`]) and on the way in ([`Inbox`]). Must not know sockets.

use core::ops::Range;

use sluicegate_core::limits::{IP_PACKET_BYTES_MAX, UDP_ROW_DATAGRAMS_MAX};
use sluicegate_core::{DatagramKind, FlowId, Instant, Outside};

use super::HostEngine;

/// Bytes that a row is gathered up to.
const GATHERED_BYTES_MAX: usize = 64_000;
/// Bytes of the longest datagram or row that a kernel gives.
const RECEIVED_BYTES_MAX: usize = IP_PACKET_BYTES_MAX;

/// The datagrams of `payload`, which is one, or several of `segment_bytes` of which the last may be
/// shorter. An empty one is one.
pub(super) fn datagrams(payload: &[u8], segment_bytes: u16) -> impl Iterator<Item = &[u8]> {
    let bytes = if segment_bytes == 0 { payload.len() } else { segment_bytes.into() };
    let empty = payload.is_empty().then_some(payload);
    payload.chunks(bytes.max(1)).chain(empty)
}

/// Where in a buffer datagrams lie: all of one size, but for the last, which may be shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    at: usize,
    len: usize,
    /// Bytes of each datagram.
    bytes: usize,
    datagrams: usize,
    /// The last is shorter, or none can follow for another reason.
    is_closed: bool,
}

impl Row {
    /// `len` bytes at `at`, which are one datagram, or several of `segment_bytes`.
    fn new(at: usize, len: usize, segment_bytes: u16) -> Self {
        let bytes = match usize::from(segment_bytes) {
            0 => len,
            bytes => bytes.min(len),
        };
        let (datagrams, rest) =
            if bytes == 0 { (1, 0) } else { (len.div_ceil(bytes), len % bytes) };
        Self { at, len, bytes, datagrams, is_closed: bytes == 0 || rest > 0 }
    }

    fn range(&self) -> Range<usize> {
        self.at..self.at + self.len
    }

    /// What the row is to be cut into; 0: it is one datagram.
    fn segment_bytes(&self) -> u16 {
        if self.datagrams > 1 { u16::try_from(self.bytes).unwrap_or(0) } else { 0 }
    }

    /// Takes in `next`, whose bytes lie behind these, if a row may go on like that.
    fn extend(&mut self, next: &Self) -> bool {
        let is_last = next.datagrams == 1 && next.bytes < self.bytes;
        let fits = !self.is_closed
            && next.len > 0
            && (next.bytes == self.bytes || is_last)
            && self.datagrams + next.datagrams <= UDP_ROW_DATAGRAMS_MAX
            && self.len + next.len <= GATHERED_BYTES_MAX;
        if fits {
            self.len += next.len;
            self.datagrams += next.datagrams;
            self.is_closed = next.is_closed || is_last;
        }
        fits
    }

    /// Whether no datagram of the row's size can follow.
    fn is_full(&self) -> bool {
        self.is_closed
            || self.datagrams >= UDP_ROW_DATAGRAMS_MAX
            || self.len + self.bytes > GATHERED_BYTES_MAX
    }

    /// Without its first `done` bytes, which are whole datagrams; `None`: nothing is left.
    fn after(&self, done: usize) -> Option<Self> {
        let left = self.len.checked_sub(done).filter(|&left| left > 0)?;
        let segment_bytes = u16::try_from(self.bytes).unwrap_or(0);
        Some(Self { is_closed: true, ..Self::new(self.at + done, left, segment_bytes) })
    }
}

/// Who sends a datagram, and where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Association {
    pub(super) flow: FlowId,
    pub(super) kind: DatagramKind,
    pub(super) to: Outside,
    /// It goes through the proxy.
    pub(super) is_relayed: bool,
}

/// Where single datagrams of one flow become a row, within one turn.
#[derive(Default)]
pub(super) struct Outbox {
    row: Option<(Association, Row)>,
    buffer: Box<[u8]>,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self { row: None, buffer: vec![0; GATHERED_BYTES_MAX].into() }
    }

    /// Takes `payload` in behind what is there, if a row may go on like that.
    pub(super) fn add(&mut self, from: Association, payload: &[u8], segment_bytes: u16) -> bool {
        let Some((association, row)) = &mut self.row else { return false };
        let next = Row::new(row.range().end, payload.len(), segment_bytes);
        if *association != from || !row.extend(&next) {
            return false;
        }
        self.buffer[next.range()].copy_from_slice(payload);
        true
    }

    /// Begins a row with `payload`, if as much again may follow it: copying what is long already
    /// costs more than it saves. What was there is gone.
    pub(super) fn begin(&mut self, from: Association, payload: &[u8], segment_bytes: u16) -> bool {
        let row = Row::new(0, payload.len(), segment_bytes);
        let is_long = row.is_full() || row.len > GATHERED_BYTES_MAX / 2;
        if from.kind == DatagramKind::Echo || is_long {
            return false;
        }
        self.buffer[row.range()].copy_from_slice(payload);
        self.row = Some((from, row));
        true
    }

    /// The row that has come about, and the size of its datagrams, where they are several; then
    /// there is none.
    pub(super) fn take(&mut self) -> Option<(Association, &[u8], u16)> {
        let (association, row) = self.row.take()?;
        Some((association, &self.buffer[row.range()], row.segment_bytes()))
    }
}

/// Where datagrams are received, and become rows where the kernel did not make them. They are all
/// of one flow; another has its turn once they are delivered.
pub(super) struct Inbox {
    flow: Option<FlowId>,
    /// What is delivered next.
    first: Option<Row>,
    /// What has come behind it, and could not be a part of it.
    second: Option<Row>,
    buffer: Box<[u8]>,
    /// Where the kernel says how long the datagrams of a row are.
    control: Vec<u8>,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self {
            flow: None,
            first: None,
            second: None,
            buffer: vec![0; GATHERED_BYTES_MAX + RECEIVED_BYTES_MAX].into(),
            control: nix::cmsg_space!(i32),
        }
    }

    /// Whether nothing waits to be delivered.
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Whether what has come is to be delivered before more is received.
    pub(super) fn is_complete(&self) -> bool {
        self.second.is_some() || self.first.is_some_and(|row| row.is_full())
    }

    /// Where the next datagram, or row of them, is to be received, and what is said of it.
    pub(super) fn space(&mut self) -> (&mut [u8], &mut [u8]) {
        let end = self.first.map_or(0, |row| row.range().end);
        (&mut self.buffer[end..end + RECEIVED_BYTES_MAX], &mut self.control)
    }

    /// Takes note of what was received in [`space`](Self::space).
    pub(super) fn add(&mut self, flow: FlowId, kind: DatagramKind, len: usize, segment_bytes: u16) {
        self.flow = Some(flow);
        let at = self.first.map_or(0, |row| row.range().end);
        let mut next = Row::new(at, len, segment_bytes);
        next.is_closed |= kind == DatagramKind::Echo;
        if let Some(first) = &mut self.first {
            if !first.extend(&next) {
                self.second = Some(next);
            }
        } else {
            self.first = Some(next);
        }
    }

    /// Gives the engine what has come. False: there is no room for all of it, and nothing more may
    /// be received before there is.
    pub(super) fn deliver(&mut self, engine: &mut HostEngine<'_>, now: Instant) -> bool {
        while let (Some(flow), Some(row)) = (self.flow, self.first) {
            if !engine.can_deliver(now) {
                return false;
            }
            let payload = &self.buffer[row.range()];
            let done = engine.deliver_row(now, flow, payload, row.segment_bytes());
            self.first = row.after(done).or_else(|| self.second.take());
        }
        true
    }

    /// What has come: bytes, and the size of the datagrams, where they are several.
    #[cfg(test)]
    pub(super) fn take_rows(&mut self) -> Vec<(Vec<u8>, u16)> {
        let rows = [self.first.take(), self.second.take()].into_iter().flatten();
        rows.map(|row| (self.buffer[row.range()].to_vec(), row.segment_bytes())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shape of what `lens` become, one behind the other: lengths, sizes.
    fn rows(lens: &[(usize, u16)]) -> Vec<(usize, u16)> {
        let mut rows: Vec<Row> = vec![];
        for (len, segment_bytes) in lens {
            let at = rows.last().map_or(0, |row| row.range().end);
            let next = Row::new(at, *len, *segment_bytes);
            if !rows.last_mut().is_some_and(|row| row.extend(&next)) {
                rows.push(next);
            }
        }
        rows.iter().map(|row| (row.len, row.segment_bytes())).collect()
    }

    #[test]
    fn datagrams_of_one_size_are_a_row_and_a_shorter_one_ends_it() {
        assert_eq!(rows(&[(100, 0); 3]), [(300, 100)]);
        assert_eq!(rows(&[(100, 0), (100, 0), (40, 0), (40, 0)]), [(240, 100), (40, 0)]);
        assert_eq!(rows(&[(100, 0), (101, 0)]), [(100, 0), (101, 0)]);
        assert_eq!(rows(&[(1, 0), (1, 0)]), [(2, 1)]);
    }

    #[test]
    fn an_empty_datagram_is_in_no_row() {
        assert_eq!(rows(&[(0, 0), (0, 0), (5, 0)]), [(0, 0), (0, 0), (5, 0)]);
        assert_eq!(rows(&[(5, 0), (0, 0), (5, 0)]), [(5, 0), (0, 0), (5, 0)]);
    }

    #[test]
    fn rows_go_on_where_they_are_whole() {
        assert_eq!(rows(&[(300, 100), (200, 100), (100, 0)]), [(600, 100)]);
        assert_eq!(rows(&[(300, 100), (50, 0), (100, 0)]), [(350, 100), (100, 0)]);
        assert_eq!(rows(&[(250, 100), (100, 0)]), [(250, 100), (100, 0)]);
        assert_eq!(rows(&[(300, 100), (150, 50)]), [(300, 100), (150, 50)]);
        // As long as one, so it is one.
        assert_eq!(rows(&[(100, 100), (100, 200)]), [(200, 100)]);
    }

    #[test]
    fn a_row_has_an_end() {
        assert_eq!(rows(&[(10, 0); 65]), [(640, 10), (10, 0)]);
        assert_eq!(rows(&[(30_000, 0); 3]), [(60_000, 30_000), (30_000, 0)]);
        assert_eq!(rows(&[(65_507, 0), (1, 0)]), [(65_507, 0), (1, 0)]);
        assert_eq!(rows(&[(640, 10), (10, 0)]), [(640, 10), (10, 0)]);
    }

    #[test]
    fn what_is_left_of_a_row_has_its_size() {
        let row = Row::new(7, 250, 100);
        assert_eq!(
            row.after(100).map(|row| (row.range(), row.segment_bytes())),
            Some((107..257, 100))
        );
        assert_eq!(
            row.after(200).map(|row| (row.range(), row.segment_bytes())),
            Some((207..257, 0))
        );
        assert_eq!(row.after(250), None);
        assert_eq!(Row::new(0, 0, 0).after(0), None);
    }
}
