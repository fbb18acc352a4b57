//! A guest's end of one TCP connection in a hundred bytes, for thousands of them and for full
//! speed: it loses nothing, keeps nothing, and sends zeros.
//!
//! A frame is its headers, made once, with a few fields patched. Zeros add nothing to a checksum,
//! so the sum of a segment is that of its header, also made once.
//!
//! Not done: repetitions, reordering (the rings lose nothing); reading what the other end sent.

use core::net::SocketAddr;

use crate::frame::{self, ETHERNET, Segment, flag, protocol};

/// Bytes of the longest headers: Ethernet, IPv6, TCP without options.
const HEAD_BYTES_MAX: usize = ETHERNET + 40 + 20;
/// The window that is offered, in units of 2^7 bytes: a MiB.
const WINDOW: u16 = 8192;
const WINDOW_SCALE: u8 = 7;

/// The guest's end of one connection.
#[derive(Debug, Clone)]
pub struct Lean {
    head: [u8; HEAD_BYTES_MAX],
    /// Bytes of the IP header.
    ip_len: usize,
    ip_sum: u32,
    tcp_sum: u32,
    to: SocketAddr,
    /// The guest's port.
    pub port: u16,
    /// The sequence number of the next byte to send.
    pub next: u32,
    /// The sequence number of the next byte to come.
    pub expected: u32,
    /// The highest acknowledgement that came.
    pub acked: u32,
    /// The sequence number behind the last byte that the other end takes.
    pub edge: u32,
    /// Bytes that came.
    pub received: u64,
    /// The handshake is complete.
    pub connected: bool,
    /// The other end has finished.
    pub finished: bool,
    /// The other end has reset.
    pub reset: bool,
    scale: u8,
}

impl Lean {
    /// A connection to `to` from `port`, about which nothing was said yet.
    #[must_use]
    pub fn new(to: SocketAddr, port: u16) -> Self {
        let template = frame::tcp(to, &Segment { port, window: WINDOW, ..Segment::default() });
        let ip_len = template.len() - ETHERNET - 20;
        let mut head = [0; HEAD_BYTES_MAX];
        head[..template.len()].copy_from_slice(&template);
        let sum = |at: usize| u32::from(!u16::from_be_bytes([template[at], template[at + 1]]));
        Self {
            head,
            ip_len,
            ip_sum: sum(ETHERNET + 10),
            tcp_sum: sum(ETHERNET + ip_len + 16),
            to,
            port,
            next: 0xffff_0000, // soon wraps
            expected: 0,
            acked: 0,
            edge: 0,
            received: 0,
            connected: false,
            finished: false,
            reset: false,
            scale: 0,
        }
    }

    /// The frame with the SYN, which offers segments of `mss` bytes.
    #[must_use]
    pub fn syn(&self, mss: u16) -> Vec<u8> {
        let [high, low] = mss.to_be_bytes();
        let segment = Segment {
            port: self.port,
            seq: self.next,
            flags: flag::SYN,
            window: u16::MAX,
            options: vec![2, 4, high, low, 1, 3, 3, WINDOW_SCALE, 1, 1, 4, 2],
            ..Segment::default()
        };
        frame::tcp(self.to, &segment)
    }

    /// Bytes of a frame with `payload` bytes.
    #[must_use]
    pub fn frame_bytes(&self, payload: usize) -> usize {
        ETHERNET + self.ip_len + 20 + payload
    }

    /// Writes the next segment, of `payload` bytes, and returns the length of its frame. It
    /// acknowledges everything that came.
    ///
    /// # Panics
    /// If `out` is too short.
    pub fn write(&mut self, flags: u8, payload: usize, out: &mut [u8]) -> usize {
        let (ip_len, tcp) = (self.ip_len, ETHERNET + self.ip_len);
        let len = self.frame_bytes(payload);
        let out = &mut out[..len];
        out[..tcp + 20].copy_from_slice(&self.head[..tcp + 20]);
        out[tcp + 20..].fill(0);
        // Lengths of packets are below 2^16.
        let (is_v4, added) = (ip_len == 20, payload as u32);
        let (at, length) =
            if is_v4 { (ETHERNET + 2, len - ETHERNET) } else { (ETHERNET + 4, payload + 20) };
        out[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
        if is_v4 {
            out[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&finish(self.ip_sum + added));
        }
        out[tcp + 4..tcp + 8].copy_from_slice(&self.next.to_be_bytes());
        out[tcp + 8..tcp + 12].copy_from_slice(&self.expected.to_be_bytes());
        let flags = flags | flag::ACK;
        out[tcp + 13] = flags;
        let halves = |word: u32| (word >> 16) + (word & 0xffff);
        let sum = self.tcp_sum + halves(self.next) + halves(self.expected);
        let sum = finish(sum + u32::from(flags) + added);
        out[tcp + 16..tcp + 18].copy_from_slice(&sum);
        self.next = self.next.wrapping_add(added + u32::from(flags & flag::FIN));
        len
    }

    /// Bytes that may be sent before the other end takes more.
    #[must_use]
    pub fn room(&self) -> usize {
        usize::try_from(self.edge.wrapping_sub(self.next).cast_signed()).unwrap_or(0)
    }

    /// Takes in a segment of this connection, however long.
    ///
    /// # Panics
    /// If it is not the next one.
    pub fn read(&mut self, heading: &Heading) {
        if heading.flags & flag::RST != 0 {
            self.reset = true;
            return;
        }
        if heading.flags & flag::SYN != 0 {
            self.connected = true;
            self.next = heading.ack;
            self.expected = heading.seq.wrapping_add(1);
            self.scale = heading.scale;
            self.acked = heading.ack;
            self.edge = heading.ack.wrapping_add(u32::from(heading.window));
            return;
        }
        // A probe repeats the byte before the next one.
        let is_probe = heading.payload <= 1 && heading.seq == self.expected.wrapping_sub(1);
        assert!(heading.seq == self.expected || is_probe, "{heading:?} is not the next segment");
        self.acked = heading.ack;
        self.edge = heading.ack.wrapping_add(u32::from(heading.window) << self.scale);
        if !is_probe {
            let fin = u32::from(heading.flags & flag::FIN);
            self.received += heading.payload as u64;
            self.expected = self.expected.wrapping_add(heading.payload as u32 + fin);
            self.finished |= fin != 0;
        }
    }
}

/// The last steps of the Internet checksum (RFC 1071).
fn finish(sum: u32) -> [u8; 2] {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).to_be_bytes()
}

/// The window scale among the options of a segment (RFC 7323 2.2); 0 without one.
fn window_scale(mut options: &[u8]) -> u8 {
    loop {
        options = match options {
            [3, 3, shift, ..] => return *shift,
            [1, rest @ ..] => rest,
            [_, len, ..] if *len >= 2 => options.get(usize::from(*len)..).unwrap_or(&[]),
            _ => return 0,
        }
    }
}

/// What a TCP segment for the guest says, as far as a guest must know that trusts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "RFC 9293 3.1 describes the fields")]
pub struct Heading {
    /// The guest's port.
    pub port: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    /// By how much later windows are shifted, in a SYN.
    pub scale: u8,
    /// Bytes of payload.
    pub payload: usize,
}

impl Heading {
    /// Reads the headers of `frame`; `None`: it is no TCP segment.
    #[must_use]
    pub fn of(frame: &[u8]) -> Option<Self> {
        let (number, tcp) = match frame.get(12..14)? {
            [0x08, 0x00] => (frame.get(ETHERNET + 9)?, ETHERNET + 20),
            [0x86, 0xdd] => (frame.get(ETHERNET + 6)?, ETHERNET + 40),
            _ => return None,
        };
        let segment = frame.get(tcp..).filter(|_| *number == protocol::TCP)?;
        let (fixed, rest) = segment.split_first_chunk::<20>()?;
        let word = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let long = |at: usize| u32::from(word(at)) << 16 | u32::from(word(at + 2));
        let options = usize::from(fixed[12] >> 4) * 4 - 20;
        let scale = window_scale(rest.get(..options)?);
        Some(Self {
            port: word(2),
            seq: long(4),
            ack: long(8),
            flags: fixed[13],
            window: word(14),
            scale,
            payload: rest.len() - options,
        })
    }

    /// What a segment takes of the sequence.
    #[must_use]
    pub fn end(&self) -> u32 {
        let marks = u32::from(self.flags & flag::SYN != 0) + u32::from(self.flags & flag::FIN != 0);
        self.seq.wrapping_add(self.payload as u32 + marks)
    }
}
