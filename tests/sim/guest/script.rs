//! A guest without a stack: one TCP connection whose every segment the test makes.
//!
//! It reads what comes back strictly in order, and acknowledges it only if told to.

use core::net::SocketAddr;

use crate::frame::{self, Segment, flag};
use crate::{Tcp, World};

/// The guest's end of one connection.
#[derive(Debug, Clone)]
pub struct Script {
    /// The other end.
    pub to: SocketAddr,
    /// The guest's port.
    pub port: u16,
    /// The sequence number of the next byte to send.
    pub next: u32,
    /// The sequence number of the next byte to come.
    pub expected: u32,
    /// The window field of each segment; with the scale of [`Self::syn`], in units of 128 bytes.
    pub window: u16,
    /// Whether what comes is acknowledged at once.
    pub acknowledges: bool,
    /// What came.
    pub received: Vec<u8>,
    /// The other end has finished.
    pub finished: bool,
    /// The other end has reset.
    pub reset: bool,
    /// The highest acknowledgement that came.
    pub acked: u32,
    /// Every segment that came, in order.
    pub seen: Vec<Tcp>,
}

/// Options of an ordinary SYN: an MSS of 1460, a window scale of 7, SACK.
const SYN_OPTIONS: [u8; 12] = [2, 4, 0x05, 0xb4, 1, 3, 3, 7, 1, 1, 4, 2];

impl Script {
    /// A connection to `to` from `port`, about which nothing was said yet.
    #[must_use]
    pub fn new(to: SocketAddr, port: u16) -> Self {
        Self {
            to,
            port,
            next: 0xffff_fff0, // soon wraps
            expected: 0,
            window: 512,
            acknowledges: true,
            received: vec![],
            finished: false,
            reset: false,
            acked: 0,
            seen: vec![],
        }
    }

    /// The SYN of the connection.
    #[must_use]
    pub fn syn(&self) -> Segment {
        Segment {
            port: self.port,
            seq: self.next,
            flags: flag::SYN,
            window: 65_535,
            options: SYN_OPTIONS.to_vec(),
            ..Segment::default()
        }
    }

    /// A segment at the present place.
    #[must_use]
    pub fn segment(&self, flags: u8, payload: &[u8]) -> Segment {
        Segment {
            port: self.port,
            seq: self.next,
            ack: self.expected,
            flags: flags | flag::ACK,
            window: self.window,
            payload: payload.to_vec(),
            ..Segment::default()
        }
    }

    /// A connection that is established, in the usual three steps.
    ///
    /// # Panics
    /// If it is not.
    #[must_use]
    pub fn connect(world: &mut World<'_>, to: SocketAddr, port: u16) -> Self {
        let mut script = Self::new(to, port);
        script.open(world);
        script
    }

    /// Sends the SYN and answers the SYN-ACK.
    ///
    /// # Panics
    /// If none comes.
    pub fn open(&mut self, world: &mut World<'_>) {
        world.send(&frame::tcp(self.to, &self.syn()));
        self.establish(world);
    }

    /// Answers the SYN-ACK that has come.
    ///
    /// # Panics
    /// If none has.
    pub fn establish(&mut self, world: &mut World<'_>) {
        let answers = self.take(world);
        let syn_ack = answers.iter().find(|s| s.has(flag::SYN | flag::ACK));
        let syn_ack = syn_ack.expect("because the SYN is answered");
        assert_eq!(syn_ack.ack, self.next.wrapping_add(1), "the SYN is acknowledged");
        self.next = syn_ack.ack;
        self.expected = syn_ack.seq.wrapping_add(1);
        self.acked = syn_ack.ack;
        self.say(world, 0, &[]);
    }

    /// Sends one segment, which takes its place in the sequence, and reads what comes back.
    pub fn say(&mut self, world: &mut World<'_>, flags: u8, payload: &[u8]) {
        let segment = self.segment(flags, payload);
        self.next = self.next.wrapping_add(payload.len() as u32 + u32::from(flags & 1));
        world.send(&frame::tcp(self.to, &segment));
        self.read(world);
    }

    /// Sends `bytes` in full segments, all at once, heedless of the window.
    pub fn send(&mut self, world: &mut World<'_>, bytes: &[u8]) {
        let mss = if self.to.is_ipv4() { 1460 } else { 1440 };
        for chunk in bytes.chunks(mss) {
            let segment = self.segment(flag::PSH, chunk);
            self.next = self.next.wrapping_add(chunk.len() as u32);
            assert!(world.push(&frame::tcp(self.to, &segment)), "the ring has room");
        }
        world.run();
        self.read(world);
    }

    /// Finishes the guest's side.
    pub fn finish(&mut self, world: &mut World<'_>) {
        self.say(world, flag::FIN, &[]);
    }

    /// Finishes both sides, the one of the two first.
    pub fn finish_both(&mut self, world: &mut World<'_>, outside_first: bool) {
        if outside_first {
            world.finish();
            self.read(world);
            self.finish(world);
        } else {
            self.finish(world);
            world.finish();
            self.read(world);
        }
    }

    /// Reads what has come for this connection; acknowledges it and reads on, if told to.
    pub fn read(&mut self, world: &mut World<'_>) {
        loop {
            let mut news = false;
            for segment in self.take(world) {
                news |= self.note(&segment);
            }
            if !news || !self.acknowledges || self.reset {
                return;
            }
            world.send(&frame::tcp(self.to, &self.segment(0, &[])));
        }
    }

    /// Takes this connection's segments out of the inbox.
    fn take(&mut self, world: &mut World<'_>) -> Vec<Tcp> {
        let mut mine = vec![];
        world.inbox.retain(|seen| {
            let is_mine =
                |tcp: &&Tcp| tcp.ports == (self.to.port(), self.port) && tcp.ends.0 == self.to.ip();
            let segment = seen.tcp().filter(is_mine);
            mine.extend(segment.cloned());
            segment.is_none()
        });
        self.seen.extend(mine.iter().cloned());
        mine
    }

    /// True: it asks for an acknowledgement.
    fn note(&mut self, segment: &Tcp) -> bool {
        if segment.has(flag::RST) {
            self.reset = true;
            return false;
        }
        if segment.ack.wrapping_sub(self.acked).cast_signed() > 0 {
            self.acked = segment.ack;
        }
        if self.window == 0 && !segment.payload.is_empty() {
            return true; // a probe: the answer is that there is still no place
        }
        let ahead = self.expected.wrapping_sub(segment.seq) as usize;
        if segment.seq.wrapping_sub(self.expected).cast_signed() > 0 {
            return true; // a hole
        }
        if segment.end().wrapping_sub(self.expected).cast_signed() <= 0 {
            // Old, unless it is empty: a repetition or a probe wants an answer.
            return segment.end() != segment.seq;
        }
        self.received.extend(segment.payload.get(ahead..).unwrap_or(&[]));
        self.expected = segment.end();
        self.finished |= segment.has(flag::FIN);
        true
    }
}
