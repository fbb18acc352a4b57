//! A guest with the least of a TCP: go back to the start whenever nothing comes, one
//! acknowledgement a segment, no scaling, no SACK. What it sends is legal, and as unlike smoltcp's
//! as can be.
//!
//! Not done: round-trip times (it waits longer each time), congestion (the link is the guest's
//! own).

use core::net::SocketAddr;
use std::collections::VecDeque;

use sluicegate_core::Instant;

use crate::Tcp;
use crate::frame::{self, Segment, flag};

/// The longest wait before a repetition.
const WAIT_MS_MAX: u64 = 8000;

/// The guest's end of one connection.
#[derive(Debug)]
pub struct Plain {
    /// The other end.
    pub to: SocketAddr,
    /// The guest's port.
    pub port: u16,
    /// What came and was not read.
    pub received: Vec<u8>,
    /// The handshake is complete.
    pub connected: bool,
    /// It waits to be called, and nobody has yet.
    listens: bool,
    /// It was called, so that its SYN is an answer.
    was_called: bool,
    /// The other end has finished.
    pub finished: bool,
    /// The other end has reset.
    pub reset: bool,
    /// What was not acknowledged, the oldest first.
    unacknowledged: VecDeque<u8>,
    finishes: bool,
    fin_acknowledged: bool,
    /// The sequence number of the oldest unacknowledged byte.
    una: u32,
    /// The sequence number of the next byte to send.
    next: u32,
    expected: u32,
    window: u32,
    mss: u16,
    buffer: usize,
    /// Segments that came before their turn.
    early: Vec<Tcp>,
    /// Acknowledgements to send: one for each segment that wants one.
    owed_acks: u32,
    wait_ms: u64,
    again_at: Option<Instant>,
}

impl Plain {
    /// A connection to `to` that begins with sequence number `seq`, whose segments are up to `mss`
    /// bytes long both ways and whose buffer for what comes has `buffer` bytes.
    #[must_use]
    pub fn new(to: SocketAddr, port: u16, seq: u32, (mss, buffer): (u16, usize)) -> Self {
        Self {
            to,
            port,
            received: vec![],
            connected: false,
            listens: false,
            was_called: false,
            finished: false,
            reset: false,
            unacknowledged: VecDeque::new(),
            finishes: false,
            fin_acknowledged: false,
            una: seq,
            next: seq,
            expected: 0,
            window: 0,
            mss,
            buffer,
            early: vec![],
            owed_acks: 0,
            wait_ms: 1000,
            again_at: Some(Instant::ZERO),
        }
    }

    /// The same for who calls the guest's `port`.
    #[must_use]
    pub fn listen(port: u16, seq: u32, shape: (u16, usize)) -> Self {
        let nobody = SocketAddr::new(core::net::Ipv4Addr::UNSPECIFIED.into(), 0);
        Self { listens: true, again_at: None, ..Self::new(nobody, port, seq, shape) }
    }

    /// Has `bytes` to send.
    pub fn write(&mut self, bytes: &[u8]) {
        self.unacknowledged.extend(bytes);
    }

    /// Bytes that wait to be acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.unacknowledged.len()
    }

    /// Has nothing more to send.
    pub fn finish(&mut self) {
        self.finishes = true;
    }

    /// Reads up to `len` bytes of what came.
    pub fn read(&mut self, len: usize) -> Vec<u8> {
        let len = len.min(self.received.len());
        // The window opens; say so.
        self.owed_acks += u32::from(len > 0);
        self.received.drain(..len).collect()
    }

    /// Gives the connection up; returns the reset that says so.
    pub fn abort(&mut self) -> Vec<u8> {
        self.reset = true;
        self.frame(flag::RST, &[])
    }

    /// The frames that are due.
    pub fn poll(&mut self, now: Instant) -> Vec<Vec<u8>> {
        if self.reset {
            return vec![];
        }
        let again = self.again_at.is_some_and(|at| at <= now);
        if again {
            self.next = self.una;
            self.again_at = Some(now.plus_millis(self.wait_ms));
            self.wait_ms = (self.wait_ms * 2).min(WAIT_MS_MAX);
        }
        if !self.connected {
            return if again { vec![self.syn()] } else { vec![] };
        }
        let mut frames = vec![];
        while let Some(frame) = self.segment(again && frames.is_empty()) {
            frames.push(frame);
        }
        // Each early segment gets its own, since several of them tell of a loss.
        for _ in frames.len()..core::mem::take(&mut self.owed_acks) as usize {
            let frame = self.frame(0, &[]);
            frames.push(frame);
        }
        let waits = self.next != self.una || self.wants();
        self.again_at = match self.again_at {
            Some(at) if waits => Some(at),
            Some(_) | None if waits => Some(now.plus_millis(self.wait_ms)),
            Some(_) | None => None,
        };
        frames
    }

    fn wants(&self) -> bool {
        !self.unacknowledged.is_empty() || (self.finishes && !self.fin_acknowledged)
    }

    fn syn(&self) -> Vec<u8> {
        let [high, low] = self.mss.to_be_bytes();
        let segment = Segment {
            port: self.port,
            seq: self.una,
            ack: self.expected,
            flags: flag::SYN | if self.was_called { flag::ACK } else { 0 },
            window: self.room(),
            options: vec![2, 4, high, low],
            ..Segment::default()
        };
        frame::tcp(self.to, &segment)
    }

    /// The next segment with bytes or a FIN, if the window takes it; `probes` sends one byte
    /// into a closed one.
    fn segment(&mut self, probes: bool) -> Option<Vec<u8>> {
        let sent = self.next.wrapping_sub(self.una) as usize;
        let len = self.unacknowledged.len();
        let owes_fin = self.finishes && !self.fin_acknowledged;
        if sent > len || (sent == len && !owes_fin) {
            return None;
        }
        let window = (self.window as usize).max(usize::from(probes));
        let headers = if self.to.is_ipv4() { 40 } else { 60 };
        let longest = usize::from(self.mss).min(1500 - headers);
        let size = longest.min(len - sent).min(window.saturating_sub(sent));
        let last = self.finishes && sent + size == len;
        if size == 0 && !last {
            return None;
        }
        let payload: Vec<u8> = self.unacknowledged.range(sent..sent + size).copied().collect();
        let flags = if last { flag::FIN } else { flag::PSH };
        let frame = self.frame(flags, &payload);
        self.next = self.next.wrapping_add(size as u32 + u32::from(last));
        Some(frame)
    }

    fn frame(&mut self, flags: u8, payload: &[u8]) -> Vec<u8> {
        let segment = Segment {
            port: self.port,
            seq: self.next,
            ack: self.expected,
            flags: flags | flag::ACK,
            window: self.room(),
            payload: payload.to_vec(),
            ..Segment::default()
        };
        frame::tcp(self.to, &segment)
    }

    fn room(&self) -> u16 {
        (self.buffer.saturating_sub(self.received.len())).min(65_535) as u16
    }

    /// Takes in a segment.
    pub fn receive(&mut self, now: Instant, segment: &Tcp) {
        if self.listens {
            if segment.has(flag::SYN) && !segment.has(flag::ACK) {
                self.called(now, segment);
            }
            return;
        }
        if segment.has(flag::RST) {
            let answers = if self.connected || self.was_called {
                segment.seq.wrapping_sub(self.expected) as usize <= self.buffer
            } else {
                segment.ack == self.una.wrapping_add(1)
            };
            self.reset |= answers;
            return;
        }
        if segment.has(flag::SYN) {
            self.open(now, segment);
            return;
        }
        let answers_syn = segment.has(flag::ACK) && segment.ack == self.una.wrapping_add(1);
        if !self.connected && self.was_called && answers_syn {
            self.connect(segment);
        }
        if !self.connected {
            return;
        }
        self.acknowledged(now, segment);
        let ahead = self.expected.wrapping_sub(segment.seq).cast_signed();
        if segment.end() == segment.seq {
            self.owed_acks += u32::from(ahead != 0); // a probe
            return;
        }
        self.owed_acks += 1;
        if ahead < 0 {
            self.early.push(segment.clone());
            return;
        }
        self.append(segment);
        let mut early = core::mem::take(&mut self.early);
        let expected = self.expected;
        early.sort_by_key(|segment| segment.seq.wrapping_sub(expected).cast_signed());
        for segment in early {
            match self.expected.wrapping_sub(segment.seq).cast_signed() {
                0.. => self.append(&segment),
                _ => self.early.push(segment),
            }
        }
    }

    /// Takes in a segment whose turn has come, or had.
    fn append(&mut self, segment: &Tcp) {
        let ahead = self.expected.wrapping_sub(segment.seq) as usize;
        let Some(fresh) = segment.payload.get(ahead..) else { return };
        let room = usize::from(self.room());
        let taken = fresh.len().min(room);
        self.received.extend(&fresh[..taken]);
        self.expected = self.expected.wrapping_add(taken as u32);
        if taken == fresh.len() && segment.has(flag::FIN) && !self.finished {
            self.finished = true;
            self.expected = self.expected.wrapping_add(1);
        }
    }

    fn open(&mut self, now: Instant, segment: &Tcp) {
        if !self.connected && self.was_called {
            self.again_at = Some(now); // the answer was lost, or is under way
            return;
        }
        if !self.connected && segment.has(flag::ACK) && segment.ack == self.una.wrapping_add(1) {
            self.expected = segment.end();
            self.offered(segment);
            self.connect(segment);
        }
        self.owed_acks += 1;
    }

    /// Somebody calls.
    fn called(&mut self, now: Instant, segment: &Tcp) {
        self.to = SocketAddr::new(segment.ends.0, segment.ports.0);
        (self.listens, self.was_called) = (false, true);
        self.expected = segment.end();
        self.offered(segment);
        self.again_at = Some(now);
    }

    /// Takes note of the segment size that a SYN says.
    fn offered(&mut self, segment: &Tcp) {
        let offered = segment.option(2).map_or(536, |o| u16::from_be_bytes([o[0], o[1]]));
        self.mss = self.mss.min(offered);
    }

    /// The SYN is acknowledged by `segment`.
    fn connect(&mut self, segment: &Tcp) {
        self.connected = true;
        self.una = segment.ack;
        self.next = segment.ack;
        self.window = u32::from(segment.window);
        self.again_at = None;
        self.wait_ms = 1000;
    }

    fn acknowledged(&mut self, now: Instant, segment: &Tcp) {
        let news = segment.ack.wrapping_sub(self.una) as usize;
        let sent = self.unacknowledged.len() + usize::from(self.finishes);
        if news > sent {
            return; // old, or of what was never sent
        }
        self.window = u32::from(segment.window);
        if news == 0 {
            return;
        }
        self.fin_acknowledged |= news > self.unacknowledged.len();
        self.unacknowledged.drain(..news.min(self.unacknowledged.len()));
        self.una = segment.ack;
        if self.next.wrapping_sub(self.una).cast_signed() < 0 {
            self.next = self.una;
        }
        self.wait_ms = 1000;
        let outstanding = self.next != self.una || self.wants();
        self.again_at = outstanding.then(|| now.plus_millis(self.wait_ms));
    }
}
