//! Datagrams in pieces (RFC 791 3.2, RFC 8200 4.5): a reassembler that is as plain as can be, and
//! knows what the engine has room for.
//!
//! A set of pieces begins with the first that comes, and has a minute. With no place for another
//! the oldest goes. A piece that overlaps another, be it the same once more, spoils its set, which
//! keeps its name until its time is up. Who was late, and not spoilt, hears of it by his first
//! piece.

use core::net::IpAddr;

use sim::core::{Instant, limits};
use sim::frame::{ETHERNET, guest};
use sim::{Message, Piece, Seen};

use super::signs::timer_at;

/// Which datagram: where it goes, and what it is called. IPv4 tells its protocol, too.
type Name = (IpAddr, u32, Option<u8>);

#[derive(Debug)]
struct Set {
    name: Name,
    until: Instant,
    pieces: Vec<Piece>,
    is_spoilt: bool,
}

impl Set {
    fn add(&mut self, piece: Piece) {
        let end = |piece: &Piece| piece.offset + piece.payload.len();
        let overlaps = |known: &Piece| known.offset < end(&piece) && piece.offset < end(known);
        let is_beyond = |known: &Piece| {
            (!known.more && end(&piece) > end(known)) || (!piece.more && end(known) > end(&piece))
        };
        let header = if piece.ends.0.is_ipv4() { 20 } else { 0 };
        self.is_spoilt |= self.pieces.iter().any(|known| overlaps(known) || is_beyond(known))
            || end(&piece) + header > 65_535;
        self.pieces.push(piece);
        self.pieces.sort_by_key(|piece| piece.offset);
    }

    /// The datagram, if it is whole.
    fn whole(&self) -> Option<Vec<u8>> {
        let mut whole = vec![];
        for piece in &self.pieces {
            if piece.offset != whole.len() {
                return None;
            }
            whole.extend(&piece.payload);
        }
        let is_ended = self.pieces.last().is_some_and(|last| !last.more);
        (is_ended && !self.is_spoilt).then_some(whole)
    }

    /// The first bytes, unless they have not come.
    fn first(&self) -> Option<&Piece> {
        self.pieces.first().filter(|first| first.offset == 0 && !self.is_spoilt)
    }
}

/// A datagram that came in pieces.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Whole {
    pub(crate) to: IpAddr,
    pub(crate) bytes: Vec<u8>,
    /// Its last piece had no hop left.
    pub(crate) is_spent: bool,
}

/// What the engine has of datagrams under way.
#[derive(Debug)]
pub(crate) struct Pieces {
    /// Places, in the order in which they are taken.
    sets: Vec<Option<Set>>,
    /// Datagrams that gave way to others.
    pub(crate) gave_way: u64,
}

impl Pieces {
    pub(crate) fn new(sets: u32) -> Self {
        Self { sets: (0..sets).map(|_| None).collect(), gave_way: 0 }
    }

    /// The engine hears `frame` at `now`: the datagram that is whole by it. Who is late by then was
    /// forgotten.
    pub(crate) fn hear(&mut self, now: Instant, frame: &[u8]) -> Option<Whole> {
        let (piece, is_spent) = piece(frame)?;
        let (from, to) = piece.ends;
        if from != guest(from) || to.is_multicast() {
            return None;
        }
        if piece.offset == 0 && !piece.more {
            return Some(Whole { to, bytes: piece.payload, is_spent }); // RFC 6946
        }
        let name = (to, piece.ident, to.is_ipv4().then_some(piece.protocol));
        let is_its = |set: &Option<Set>| set.as_ref().is_some_and(|set| set.name == name);
        let at = self.sets.iter().position(is_its).unwrap_or_else(|| {
            let at = self.place();
            let until = now.plus_millis(limits::FRAGMENT_MS_MAX);
            self.gave_way += u64::from(self.sets[at].is_some());
            self.sets[at] = Some(Set { name, until, pieces: vec![], is_spoilt: false });
            at
        });
        let set = self.sets[at].as_mut().expect("because it was found, or is new");
        set.add(piece);
        let bytes = set.whole()?;
        self.sets[at] = None;
        Some(Whole { to, bytes, is_spent })
    }

    /// A free place, or that of the oldest.
    fn place(&self) -> usize {
        let free = self.sets.iter().position(Option::is_none);
        let oldest = || {
            let sets = self.sets.iter().enumerate();
            let oldest = sets.min_by_key(|(_, set)| set.as_ref().map(|set| set.until));
            oldest.expect("because there are places").0
        };
        free.unwrap_or_else(oldest)
    }

    /// Forgets those whose time is up at `now`, or whose timer fired; returns the first piece of
    /// each of which the guest is told.
    pub(crate) fn forget(&mut self, now: Instant, by_timer: bool) -> Vec<Piece> {
        let mut told = vec![];
        for place in &mut self.sets {
            let is_late = |set: &mut Set| {
                let until = if by_timer { timer_at(set.until, 0) } else { set.until };
                until <= now
            };
            if let Some(set) = place.take_if(is_late) {
                told.extend(set.first().cloned());
            }
        }
        told
    }
}

/// The piece in `frame`, which may be padded (no checksum of IPv6 guards its length), and whether
/// it has no hop left.
fn piece(frame: &[u8]) -> Option<(Piece, bool)> {
    let mut frame = frame.to_vec();
    let is_ipv6 = frame.get(12..14) == Some(&[0x86, 0xdd]);
    let mut is_spent = false;
    if is_ipv6 {
        let len = u16::from_be_bytes([*frame.get(ETHERNET + 4)?, *frame.get(ETHERNET + 5)?]);
        frame.truncate(ETHERNET + 40 + usize::from(len));
        is_spent = core::mem::replace(frame.get_mut(ETHERNET + 7)?, 64) == 0;
    }
    match Seen::read(&frame).ok()?.message {
        Message::Piece(piece) => Some((piece, is_spent)),
        Message::Arp { .. } | Message::Tcp(_) | Message::Udp { .. } | Message::Icmp(_) => None,
    }
}
