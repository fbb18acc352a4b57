//! Datagrams of the guest in pieces, in any order, against a reassembler that keeps every piece.

use core::net::SocketAddr;

use sluicegate_core::{Outside, limits};

use super::Bytes;
use crate::frame::{self, ETHERNET, OUTSIDES};
use crate::{Pattern, Room, World};

/// Names of datagrams in each family, together no more than the engine has sets for.
const NAMES: usize = 2;
/// Pieces of one story.
const PIECES_MAX: usize = 200;

/// A datagram that the guest sends, as its pieces are made from it.
struct Whole {
    frame: Vec<u8>,
    /// What is cut: the IP packet's payload.
    bytes: Vec<u8>,
}

impl Whole {
    fn new(to: SocketAddr, len: usize) -> Self {
        let mut frame = frame::udp(1000, to, &Pattern::new(len as u64).take(len));
        let header = ETHERNET + if to.is_ipv4() { 20 } else { 40 };
        if to.is_ipv4() {
            // Without a sum, so that a piece with other bytes is no wrong one (RFC 768).
            frame[header + 6..header + 8].fill(0);
        }
        let bytes = frame[header..].to_vec();
        Self { frame, bytes }
    }
}

/// A reassembler that is as plain as can be.
#[derive(Default)]
struct Naive {
    pieces: Vec<(usize, bool, Vec<u8>)>,
    is_spoilt: bool,
    until_ms: u64,
}

impl Naive {
    /// All that has come once it is whole.
    fn add(
        &mut self,
        offset: usize,
        more: bool,
        bytes: Vec<u8>,
        end_max: usize,
    ) -> Option<Vec<u8>> {
        let end = offset + bytes.len();
        let overlaps =
            |(at, _, known): &(usize, bool, Vec<u8>)| *at < end && offset < *at + known.len();
        let ends = self.pieces.iter().filter(|(_, more, _)| !more);
        let is_behind_end = ends.clone().any(|(at, _, known)| end > *at + known.len());
        let is_end_within =
            !more && self.pieces.iter().any(|(at, _, known)| at + known.len() > end);
        self.is_spoilt |= self.pieces.iter().any(overlaps)
            || (!more && ends.count() > 0)
            || is_behind_end
            || is_end_within
            || bytes.is_empty()
            || end > end_max
            || (more && !bytes.len().is_multiple_of(8));
        self.pieces.push((offset, more, bytes));
        if self.is_spoilt {
            return None;
        }
        let mut in_order: Vec<_> = self.pieces.iter().collect();
        in_order.sort_by_key(|(at, _, _)| *at);
        let mut whole = vec![];
        for (at, _, bytes) in &in_order {
            if *at != whole.len() {
                return None;
            }
            whole.extend_from_slice(bytes);
        }
        in_order.last().is_some_and(|(_, more, _)| !more).then_some(whole)
    }
}

/// Whether `whole` is a datagram that the guest may send from its port to the one outside.
fn payload<'w>(whole: &'w [u8], model: &Whole, v4: bool) -> Option<&'w [u8]> {
    let len = usize::from(u16::from_be_bytes([*whole.get(4)?, *whole.get(5)?]));
    let is_summed = whole.get(6..8)? != [0, 0];
    let addresses = if v4 { ETHERNET + 12..ETHERNET + 20 } else { ETHERNET + 8..ETHERNET + 40 };
    let whole_datagram = whole.get(..len.max(8))?;
    let sum = frame::checksum(&model.frame[addresses], frame::protocol::UDP, whole_datagram);
    let is_right = if is_summed { sum == 0 } else { v4 };
    (is_right && whole[..4] == model.bytes[..4] && len >= 8).then(|| &whole[8..len])
}

/// How many datagrams have left to `to`, and the last one.
fn sent<'w>(world: &'w World<'_>, to: SocketAddr) -> Option<(usize, &'w [u8])> {
    let mut flows = world.peers.datagrams.values();
    let flow = flows.find(|flow| flow.to == Outside::Remote(to))?;
    Some((flow.sent.len(), flow.sent.last()?))
}

/// Pieces in any order, that overlap or not: what leaves is what a plain reassembler says.
///
/// # Panics
/// If something else leaves, or does not.
pub fn fragments(data: &[u8]) {
    let mut story = Bytes(data);
    let Some(size) = story.number() else { return };
    let mut room = Room::plain();
    let mut world = room.world();
    let wholes = OUTSIDES.map(|ip| Whole::new(SocketAddr::new(ip, 4000), size % 3000));
    let mut known: Vec<Naive> = (0..2 * NAMES).map(|_| Naive::default()).collect();
    let mut ms = 0;
    for _ in 0..PIECES_MAX {
        let Some(kind) = story.one() else { break };
        if kind >= 250 {
            let Some(pause) = story.number() else { break };
            let pause = pause as u64 % limits::FRAGMENT_MS_MAX;
            world.advance(pause);
            ms += pause;
            continue;
        }
        let Some((eights, len)) = story.number().zip(story.number()) else { break };
        let (family, name) = (usize::from(kind & 1), usize::from(kind >> 1 & 1));
        let model = &wholes[family];
        let (offset, piece, more) = piece(model, kind, eights, len % 1440);
        let naive = &mut known[family * NAMES + name];
        if naive.pieces.is_empty() || ms >= naive.until_ms {
            *naive = Naive { until_ms: ms + limits::FRAGMENT_MS_MAX, ..Naive::default() };
        }
        let before = sent(&world, SocketAddr::new(OUTSIDES[family], 4000)).map_or(0, |(n, _)| n);
        let sent_frame = frame::fragment(&model.frame, name as u32 + 7, (offset, more), &piece);
        world.send(&sent_frame);
        let is_atomic = offset == 0 && !more;
        let end_max = if family == 0 { 65_515 } else { 65_535 };
        let out = if is_atomic {
            // It is no piece, but a whole packet (RFC 6946): what is known of its name stays.
            Some(piece)
        } else {
            let out = naive.add(offset, more, piece, end_max);
            if naive.pieces.len() > limits::FRAGMENT_HOLES_MAX && !naive.is_spoilt {
                // More holes than are kept may spoil it: nothing is promised of such.
                break;
            }
            if out.is_some() {
                *naive = Naive::default();
            }
            out
        };
        let expected = out.as_deref().and_then(|whole| payload(whole, model, family == 0));
        let now = sent(&world, SocketAddr::new(OUTSIDES[family], 4000));
        let left = now.filter(|(count, _)| *count > before);
        assert!(left.is_none_or(|(count, _)| count == before + 1), "it left more than once");
        assert_eq!(left.map(|(_, bytes)| bytes), expected, "what a plain reassembler says");
    }
}

/// The piece that a story wants: true to the datagram, or with an offset, a length, an end or bytes
/// of its own.
fn piece(model: &Whole, kind: u8, eights: usize, len: usize) -> (usize, Vec<u8>, bool) {
    let all = model.bytes.len();
    let is_true = kind & 0x0c != 0x0c;
    if is_true {
        let offset = eights * 8 % all.next_multiple_of(8);
        let offset = if offset >= all { 0 } else { offset };
        let end = all.min(offset + (len.max(8) & !7));
        return (offset, model.bytes[offset..end].to_vec(), end < all);
    }
    let offset = eights % 8192 * 8;
    let mut bytes = model.bytes.get(offset..).unwrap_or(&[]).to_vec();
    bytes.resize(len, kind);
    if kind & 0x10 != 0 {
        bytes.iter_mut().for_each(|byte| *byte ^= 0x20);
    }
    (offset, bytes, kind & 0x20 != 0)
}
