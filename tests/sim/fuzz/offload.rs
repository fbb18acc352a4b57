//! Frames longer than a link's: cut for the guest, joined for the stack. Bytes in are bytes out.

use core::net::SocketAddr;

use sluicegate_core::{Cut, Offload, Outside, PIECE_HEADER_BYTES_MAX, TransportChecksum, limits};

use super::Bytes;
use crate::frame::{self, ETHERNET, OUTSIDES, flag};
use crate::guest::Script;
use crate::{Message, Pattern, Piece, Room, Seen, World, reassemble};

/// Bytes of the longest run of one story's segments.
const RUN_BYTES_MAX: usize = 20_000;
/// Things that happen in one story.
const STEPS_MAX: usize = 100;
/// Ports outside: of the stream, and of rows of datagrams.
const STREAM: u16 = 80;
const ROWS: u16 = 443;

/// Cuts a frame, or lets segments and rows of datagrams cross a link both ways.
///
/// # Panics
/// If bytes are lost, made up or moved, or a frame is one that no guest takes.
pub fn offload(data: &[u8]) {
    let mut story = Bytes(data);
    let _ended = match story.one() {
        Some(kind @ 0..64) => cut_any(kind, &mut story),
        Some(kind @ 64..128) => cut_segments(kind, &mut story),
        Some(kind) => cross(kind, &mut story),
        None => None,
    };
}

/// The frames that `whole` is cut into, which is checked to be the same by parts and in place.
fn cut(whole: &[u8], offload: Offload) -> Vec<(Vec<u8>, usize)> {
    let (mut by_parts, mut in_place) =
        (Cut::new(whole.len(), offload), Cut::new(whole.len(), offload));
    let mut pieces = vec![];
    while let Some(len) = by_parts.next_len() {
        let mut out = vec![0; len];
        assert_eq!(in_place.next_into(whole, &mut out), Some(len));
        let piece = by_parts.next(whole).expect("because it has a length");
        assert!([piece.headers(), piece.payload].concat() == out, "by parts and in place differ");
        pieces.push((out, piece.payload.len()));
        assert!(pieces.len() <= whole.len().max(1), "a cut has an end");
    }
    assert_eq!(in_place.next_len(), None);
    assert_eq!(pieces.len(), offload.frames(whole.len()), "as many as are counted");
    pieces
}

/// Any bytes and any offload: no byte of the payload is lost.
fn cut_any(kind: u8, story: &mut Bytes<'_>) -> Option<()> {
    let (segment_bytes, header) = (story.number()? as u16, story.number()?);
    // There are no longer ones: a ring's frame is the engine's own.
    let header_bytes = (header % (PIECE_HEADER_BYTES_MAX + 1)) as u16;
    let checksum = match kind % 3 {
        0 => TransportChecksum::Complete,
        1 => TransportChecksum::Vouched,
        _ => TransportChecksum::Partial,
    };
    let offload = Offload { segment_bytes, header_bytes, checksum };
    let whole = story.take(usize::MAX);
    let pieces = cut(&whole, offload);
    let payload = pieces.iter().flat_map(|(frame, len)| &frame[frame.len() - len..]);
    let is_whole =
        header_bytes == 0 || (segment_bytes == 0 && checksum != TransportChecksum::Partial);
    let header = if is_whole { 0 } else { usize::from(header_bytes).min(whole.len()) };
    assert!(payload.eq(&whole[header..]), "the payload is what it was");
    Some(())
}

/// A segment or a row as the engine makes them: each piece is one that a strict guest takes.
fn cut_segments(kind: u8, story: &mut Bytes<'_>) -> Option<()> {
    let to = SocketAddr::new(OUTSIDES[usize::from(kind & 1)], STREAM);
    let segment_bytes = (story.number()? as u16).max(1);
    let len = story.number()? % 60_000;
    let payload = Pattern::new(kind.into()).take(len);
    let ip = ETHERNET + if to.is_ipv4() { 20 } else { 40 };
    let (whole, header) = if kind & 2 == 0 {
        // Padding, which a strict reader reads.
        let options = vec![1; usize::from(kind >> 2 & 7) * 4];
        let header = ip + 20 + options.len();
        let flags = flag::ACK | flag::PSH | (kind >> 5 & flag::FIN);
        let script = Script::new(to, 40_000);
        let segment = frame::Segment { options, ..script.segment(flags, &payload) };
        (frame::tcp(to, &segment), header)
    } else {
        (frame::udp(4000, to, &payload), ip + 8)
    };
    let header_bytes = header as u16;
    let offload = Offload { segment_bytes, header_bytes, checksum: TransportChecksum::Partial };
    let mut at = 0;
    let pieces = cut(&whole, offload);
    let last = pieces.len() - 1;
    for (index, (frame, len)) in pieces.iter().enumerate() {
        let is_full = *len == usize::from(segment_bytes);
        assert!(is_full || (index == last && *len < usize::from(segment_bytes)));
        let seen = Seen::read(frame).unwrap_or_else(|wrong| panic!("{wrong}: {frame:02x?}"));
        let part = match &seen.message {
            Message::Tcp(tcp) => {
                assert_eq!(tcp.seq, Script::new(to, 1).next.wrapping_add(at as u32));
                let ends = tcp.flags & (flag::FIN | flag::PSH) != 0;
                assert_eq!(ends, index == last, "only the last one ends it");
                &tcp.payload
            }
            Message::Udp { payload, .. } => payload,
            other @ (Message::Arp { .. } | Message::Icmp(_) | Message::Piece(_)) => {
                panic!("{other:?} is none of its pieces")
            }
        };
        assert!(*part == payload[at..at + len], "the bytes are those of its place");
        at += len;
    }
    assert_eq!(at, payload.len());
    Some(())
}

/// A guest on a link of some size, with one stream open.
struct Crossing<'w> {
    world: World<'w>,
    script: Script,
    /// Where the guest's stream begins, what it has said, or wants to, and where it is.
    start: u32,
    said: Vec<u8>,
    at: usize,
    /// What the outside has said.
    given: Vec<u8>,
    segment_bytes_max: usize,
}

fn cross(kind: u8, story: &mut Bytes<'_>) -> Option<()> {
    let mtu = limits::MTU_BYTES_MIN + story.number()? as u16 % 8000;
    let bound = limits::RECEIVE_FRAME_BYTES_MIN + story.number()? as u32 % 8000;
    let mut room = Room::with(|config| {
        config.link.mtu = mtu;
        config.link.receive_frame_bytes = bound;
    });
    let mut world = room.world();
    let outside = OUTSIDES[usize::from(kind & 1)];
    let script = Script::connect(&mut world, SocketAddr::new(outside, STREAM), 40_000);
    let mut crossing = Crossing {
        world,
        start: script.next,
        script,
        said: vec![],
        at: 0,
        given: vec![],
        segment_bytes_max: usize::from(mtu) - 60,
    };
    for _ in 0..STEPS_MAX {
        if crossing.step(story).is_none() {
            break;
        }
    }
    crossing.finish();
    Some(())
}

impl Crossing<'_> {
    fn step(&mut self, story: &mut Bytes<'_>) -> Option<()> {
        match story.one()? {
            kind @ 0..140 => {
                let (len, segment) = (story.number()? % RUN_BYTES_MAX, story.number()?);
                // Some come again, some too early: what is between comes later, or at the end.
                match kind % 8 {
                    0 => self.at = self.at.saturating_sub(segment % 3000),
                    1 => self.at += segment % 3000,
                    _ => {}
                }
                self.say(len, segment);
            }
            140..170 => self.run(),
            170..210 => {
                let len = story.number()? % RUN_BYTES_MAX;
                let bytes: Vec<u8> = (0..len).map(|at| byte(self.given.len() + at)).collect();
                self.given.extend(&bytes);
                self.world.stream().to_give.extend(bytes);
                self.run();
            }
            210..230 => {
                let (len, segment) = (story.number()?, story.number()?);
                self.row_out(len % 4000, segment);
            }
            230.. => {
                let (len, segment) = (story.number()?, story.number()?);
                self.row_in(len % RUN_BYTES_MAX, segment);
            }
        }
        Some(())
    }

    fn run(&mut self) {
        self.world.run();
        // Where the engine wants what comes next: an acknowledgement from elsewhere is none.
        let taken = self.world.stream().received.len();
        self.script.next = self.start.wrapping_add(taken as u32);
        self.script.read(&mut self.world);
    }

    /// Puts a run of the guest's stream into the ring: it is looked at together with its
    /// neighbours, when the engine runs next.
    fn say(&mut self, len: usize, segment: usize) {
        let end = self.at + len;
        self.said.extend((self.said.len()..end).map(byte));
        let payload = self.said[self.at..end].to_vec();
        let script = &self.script;
        let seq = self.start.wrapping_add(self.at as u32);
        let segment_bytes = segment % self.segment_bytes_max + 1;
        let is_long = len > segment_bytes;
        let flags = if segment & 1 == 0 { flag::PSH } else { 0 };
        let frame =
            frame::tcp(script.to, &frame::Segment { seq, ..script.segment(flags, &payload) });
        let offload = Offload {
            segment_bytes: if is_long { segment_bytes as u16 } else { 0 },
            checksum: if is_long {
                TransportChecksum::Partial
            } else {
                TransportChecksum::Complete
            },
            ..Offload::NONE
        };
        if !self.world.push_offloaded(&frame, offload) {
            self.run();
            assert!(self.world.push_offloaded(&frame, offload), "an empty ring has room");
        }
        self.at = end;
    }

    fn row_out(&mut self, len: usize, segment: usize) {
        let to = SocketAddr::new(self.script.to.ip(), ROWS);
        let segment_bytes = (segment % 1000).max(len / 64 + 1);
        let data = Pattern::new(5).take(len);
        let offload = Offload {
            segment_bytes: segment_bytes as u16,
            checksum: TransportChecksum::Partial,
            ..Offload::NONE
        };
        self.run();
        assert!(self.world.push_offloaded(&frame::udp(1000, to, &data), offload));
        let known = |flow: &&mut crate::Datagrams| flow.to == Outside::Remote(to);
        for flow in self.world.peers.datagrams.values_mut().filter(known) {
            flow.sent.clear();
        }
        self.world.run();
        let mut flows = self.world.peers.datagrams.values_mut();
        let sent = flows.find(known).map(|flow| core::mem::take(&mut flow.sent));
        let expected: Vec<Vec<u8>> = match len {
            0 => vec![vec![]],
            _ => data.chunks(segment_bytes).map(<[u8]>::to_vec).collect(),
        };
        assert_eq!(sent, Some(expected), "a row is its datagrams");
    }

    fn row_in(&mut self, len: usize, segment: usize) {
        let address = SocketAddr::new(self.script.to.ip(), ROWS);
        let known = |(_, flow): &(&u32, &crate::Datagrams)| flow.to == Outside::Remote(address);
        let Some((&index, _)) = self.world.peers.datagrams.iter().find(known) else { return };
        self.run();
        self.world.inbox.clear();
        let data = Pattern::new(6).take(len);
        let segment_bytes = (segment % RUN_BYTES_MAX + 1) as u16;
        self.world.deliver_row(index, &data, segment_bytes);
        let expected: Vec<&[u8]> = data.chunks(segment_bytes.into()).collect();
        assert!(datagrams(&mut self.world) == expected, "a row is its datagrams");
    }

    /// What never came is said again, and everything is there.
    fn finish(&mut self) {
        self.run();
        for _ in 0..200 {
            let have = self.world.stream().received.len();
            if have >= self.said.len() {
                break;
            }
            self.at = have;
            self.say((self.said.len() - have).min(RUN_BYTES_MAX), 1000);
            self.run();
        }
        let received = &self.world.stream().received;
        assert!(*received == self.said, "{} of {} bytes", received.len(), self.said.len());
        assert!(!self.script.reset);
        let (received, given) = (&self.script.received, &self.given);
        assert!(received == given, "the guest has {} of {} bytes", received.len(), given.len());
    }
}

/// The byte of a stream at `at`.
fn byte(at: usize) -> u8 {
    (at ^ at >> 8 ^ at >> 16) as u8
}

/// The payloads of the datagrams for the guest, put together where they came in fragments.
fn datagrams(world: &mut World<'_>) -> Vec<Vec<u8>> {
    let mut pieces: Vec<Piece> = vec![];
    let mut found = vec![];
    for seen in world.inbox() {
        let message = match seen.piece() {
            Some(piece) => {
                pieces.push(piece.clone());
                if piece.more {
                    continue;
                }
                let pieces = core::mem::take(&mut pieces);
                reassemble(&pieces).unwrap_or_else(|wrong| panic!("{wrong}: {pieces:?}"))
            }
            None => seen.message,
        };
        let Message::Udp { payload, .. } = message else { panic!("{message:?} is no datagram") };
        found.push(payload);
    }
    found
}
