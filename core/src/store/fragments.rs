//! Datagrams that the guest sent in pieces, until they are whole.
//!
//! A bounded number of sets over lent memory; the oldest gives way to a new one. Pieces may come in
//! any order, but a piece that overlaps another, is empty, or is not a multiple of eight where it
//! must be, discards its whole set (RFC 5722 for IPv6; RFC 1858, RFC 3128 for what overlap hides in
//! IPv4). A discarded set keeps its name until its time is up, so that late pieces of it don't
//! found a new one.

#![allow(clippy::cast_possible_truncation, reason = "datagrams are below 2^16")]

use core::net::IpAddr;

use crate::contract::{Drop, Instant};
use crate::limits::{FRAGMENT_HOLES_MAX, FRAGMENT_MS_MAX, IP_PACKET_BYTES_MAX};
use crate::wire::classify::{Fragment, Ip};

/// Room before a datagram for the IP header that it is given when it is whole.
pub(crate) const HEADROOM_BYTES: usize = 40;
/// Bytes that each set needs.
pub(crate) const SET_BYTES: usize = HEADROOM_BYTES + IP_PACKET_BYTES_MAX + 1;

/// Which datagram a piece belongs to (RFC 791 3.2, RFC 8200 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Name {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ident: u32,
}

/// One datagram under reassembly.
#[derive(Debug, Clone)]
pub struct FragmentSet {
    name: Option<Name>,
    deadline: Instant,
    /// What is there, as ranges that neither touch nor overlap, in order.
    ranges: heapless::Vec<(u32, u32), FRAGMENT_HOLES_MAX>,
    /// Known once the last piece has come.
    total: Option<u32>,
    /// Known once the first piece has come: what the datagram carries (RFC 8200 4.5).
    protocol: u8,
    /// Bytes of the first piece; 0: it has not come.
    first_len: u16,
    discarded: bool,
}

/// A datagram that was not whole in time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Late<'b> {
    pub(crate) guest: IpAddr,
    pub(crate) outside: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) ident: u32,
    /// What its first piece carried; empty if that has not come, or the set was discarded, of which
    /// nothing is said (RFC 8200 4.5).
    pub(crate) first: &'b [u8],
}

impl FragmentSet {
    /// A set that no datagram has.
    pub const FREE: Self = Self {
        name: None,
        deadline: Instant::ZERO,
        ranges: heapless::Vec::new(),
        total: None,
        protocol: 0,
        first_len: 0,
        discarded: false,
    };

    /// Adds the range; `None`: the set is spoilt.
    fn add(&mut self, start: u32, end: u32, more: bool) -> Option<()> {
        if !more {
            if self.total.is_some_and(|total| total != end) {
                return None;
            }
            self.total = Some(end);
        }
        if self.total.is_some_and(|total| end > total)
            || self.ranges.last().is_some_and(|&(_, last)| !more && last > end)
        {
            return None;
        }
        let at = self.ranges.iter().position(|&(s, _)| s >= start).unwrap_or(self.ranges.len());
        let before = at.checked_sub(1).and_then(|i| self.ranges.get(i)).copied();
        let after = self.ranges.get(at).copied();
        if before.is_some_and(|(_, e)| e > start) || after.is_some_and(|(s, _)| s < end) {
            return None;
        }
        match (before.filter(|b| b.1 == start), after.filter(|a| a.0 == end)) {
            (Some((s, _)), Some((_, e))) => {
                self.ranges.remove(at);
                *self.ranges.get_mut(at - 1)? = (s, e);
            }
            (Some((s, _)), None) => *self.ranges.get_mut(at - 1)? = (s, end),
            (None, Some((_, e))) => *self.ranges.get_mut(at)? = (start, e),
            (None, None) => self.ranges.insert(at, (start, end)).ok()?,
        }
        Some(())
    }

    fn is_whole(&self) -> bool {
        self.total.is_some_and(|total| self.ranges.as_slice() == [(0, total)])
    }
}

/// All datagrams under reassembly.
pub(crate) struct Fragments<'a> {
    sets: &'a mut [FragmentSet],
    bytes: &'a mut [u8],
    /// How many of the sets new datagrams may have.
    max: usize,
    /// Datagrams that gave way to others before they were whole, and are yet to be counted.
    displaced: u64,
}

impl<'a> Fragments<'a> {
    /// `bytes` has [`SET_BYTES`] for each of `sets`.
    pub(crate) fn new(sets: &'a mut [FragmentSet], bytes: &'a mut [u8]) -> Self {
        assert!(bytes.len() >= sets.len() * SET_BYTES, "bytes for each set");
        Self { max: sets.len(), sets, bytes, displaced: 0 }
    }

    /// How many sets there are.
    pub(crate) fn len(&self) -> usize {
        self.sets.len()
    }

    /// Lets so many datagrams that are new be under reassembly at a time, of as many as there are
    /// sets. What is in another set may become whole there.
    pub(crate) fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// Adds the piece `payload` of `ip`. `Ok(Some(set))`: its datagram is whole, in
    /// [`datagram`](Self::datagram) until [`release`](Self::release).
    ///
    /// The caller has [taken](Self::take_late) what is late.
    ///
    /// # Errors
    /// [`Drop::Fragment`]: the piece spoilt its set, or belongs to one that is.
    ///
    /// # Cost
    /// A walk over the sets, which are few, and one copy of the piece.
    pub(crate) fn add(
        &mut self,
        now: Instant,
        ip: &Ip,
        piece: Fragment,
        payload: &[u8],
    ) -> Result<Option<usize>, Drop> {
        let index = self.set_of(now, ip, piece.ident);
        let set = self.sets.get_mut(index).ok_or(Drop::Fragment)?;
        if set.discarded {
            return Err(Drop::Fragment);
        }
        let end = piece.offset + payload.len();
        // IPv4 counts its header in the length of a packet, IPv6 does not.
        let header = if ip.source.is_ipv4() { 20 } else { 0 };
        let fits = !payload.is_empty()
            && end <= IP_PACKET_BYTES_MAX - header
            && (!piece.more || payload.len().is_multiple_of(8));
        // Both are at most 64 KiB.
        if !fits || set.add(piece.offset as u32, end as u32, piece.more).is_none() {
            set.discarded = true;
            return Err(Drop::Fragment);
        }
        if piece.offset == 0 {
            set.protocol = ip.protocol;
            // A piece is shorter than a packet.
            set.first_len = payload.len() as u16;
        }
        let whole = set.is_whole();
        let at = index * SET_BYTES + HEADROOM_BYTES + piece.offset;
        if let Some(to) = self.bytes.get_mut(at..at + payload.len()) {
            to.copy_from_slice(payload);
        }
        Ok(whole.then_some(index))
    }

    /// The set of the datagram that `ip` is a piece of: its own, a free one, or the oldest.
    fn set_of(&mut self, now: Instant, ip: &Ip, ident: u32) -> usize {
        let name = Name {
            source: ip.source,
            destination: ip.destination,
            // IPv6 tells datagrams apart without it, and only the first piece has the true one.
            protocol: if ip.source.is_ipv4() { ip.protocol } else { 0 },
            ident,
        };
        if let Some(own) = self.sets.iter().position(|set| set.name == Some(name)) {
            return own;
        }
        let oldest = (0..self.max.min(self.sets.len()))
            .min_by_key(|&i| self.sets.get(i).map(|s| (s.name.is_some(), s.deadline)))
            .unwrap_or(0);
        if let Some(set) = self.sets.get_mut(oldest) {
            self.displaced += u64::from(set.name.is_some() && !set.discarded);
            *set = FragmentSet::FREE;
            set.name = Some(name);
            set.deadline = now.plus_millis(FRAGMENT_MS_MAX);
        }
        oldest
    }

    /// How many datagrams gave way to others since this was last asked.
    pub(crate) fn take_displaced(&mut self) -> u64 {
        core::mem::take(&mut self.displaced)
    }

    /// The whole datagram of `set`, after [`HEADROOM_BYTES`] that the caller may write.
    pub(crate) fn datagram(&mut self, set: usize) -> &mut [u8] {
        let total = self.sets.get(set).and_then(|s| s.total).unwrap_or(0) as usize;
        let at = set * SET_BYTES;
        self.bytes.get_mut(at..at + HEADROOM_BYTES + total).unwrap_or(&mut [])
    }

    /// What the whole datagram of `set` carries, as its first piece says.
    pub(crate) fn protocol(&self, set: usize) -> u8 {
        self.sets.get(set).map_or(0, |set| set.protocol)
    }

    /// Gives `set` back.
    pub(crate) fn release(&mut self, set: usize) {
        if let Some(set) = self.sets.get_mut(set) {
            *set = FragmentSet::FREE;
        }
    }

    /// Frees a set whose time is up, one a call; `None`: there are no more.
    pub(crate) fn take_late(&mut self, now: Instant) -> Option<Late<'_>> {
        let is_late = |set: &FragmentSet| set.name.is_some() && set.deadline <= now;
        let index = self.sets.iter().position(is_late)?;
        let set = core::mem::replace(self.sets.get_mut(index)?, FragmentSet::FREE);
        let Name { source, destination, ident, .. } = set.name?;
        let at = index * SET_BYTES + HEADROOM_BYTES;
        let len = if set.discarded { 0 } else { usize::from(set.first_len) };
        Some(Late {
            guest: source,
            outside: destination,
            protocol: set.protocol,
            ident,
            first: self.bytes.get(at..at + len).unwrap_or(&[]),
        })
    }

    /// When the time of the first set is up, if there is one.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.sets.iter().filter(|set| set.name.is_some()).map(|set| set.deadline).min()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::net::Ipv4Addr;
    use std::vec;
    use std::vec::Vec;

    fn ip() -> Ip {
        Ip {
            source: IpAddr::V4(Ipv4Addr::new(100, 96, 0, 2)),
            destination: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            protocol: 17,
            hop_limit: 64,
            payload: 0..0,
            fragment: None,
        }
    }

    fn piece(ident: u32, offset: usize, more: bool) -> Fragment {
        Fragment { ident, offset, more }
    }

    fn with_sets(count: usize, test: impl FnOnce(&mut Fragments<'_>)) {
        let mut sets = vec![FragmentSet::FREE; count];
        let mut bytes = vec![0; count * SET_BYTES];
        test(&mut Fragments::new(&mut sets, &mut bytes));
    }

    #[test]
    fn pieces_in_any_order_make_the_datagram() {
        let data: Vec<u8> = (0..100).collect();
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            with_sets(1, |fragments| {
                let mut whole = None;
                for i in order {
                    let (at, end) = (i * 40, (i * 40 + 40).min(100));
                    let f = piece(7, at, end < 100);
                    whole = fragments.add(Instant::ZERO, &ip(), f, &data[at..end]).unwrap();
                }
                assert_eq!(&fragments.datagram(whole.unwrap())[HEADROOM_BYTES..], &data);
            });
        }
    }

    #[test]
    fn overlap_spoils_the_set_for_its_lifetime() {
        with_sets(2, |f| {
            assert_eq!(f.add(Instant::ZERO, &ip(), piece(1, 0, true), &[0; 16]), Ok(None));
            let overlap = f.add(Instant::ZERO, &ip(), piece(1, 8, true), &[0; 16]);
            assert_eq!(overlap, Err(Drop::Fragment));
            let rest = f.add(Instant::ZERO, &ip(), piece(1, 16, false), &[0; 4]);
            assert_eq!(rest, Err(Drop::Fragment));
            let later = Instant::from_millis(FRAGMENT_MS_MAX);
            assert_eq!(f.take_late(later).map(|late| late.first.len()), Some(0), "in silence");
            assert_eq!(f.take_late(later), None);
            assert_eq!(f.add(later, &ip(), piece(1, 16, false), &[0; 4]), Ok(None));
        });
    }

    #[test]
    fn ping_of_death_empty_and_odd_pieces_are_refused() {
        for (offset, more, len) in [(65_528, false, 100), (0, true, 0), (0, true, 7)] {
            with_sets(1, |f| {
                let r = f.add(Instant::ZERO, &ip(), piece(1, offset, more), &vec![0; len]);
                assert_eq!(r, Err(Drop::Fragment), "{offset} {len}");
            });
        }
    }

    #[test]
    fn a_shorter_or_second_end_spoils_the_set() {
        for ends in [[(16, 8), (8, 4)], [(8, 4), (16, 8)]] {
            with_sets(1, |f| {
                let [(a, n), (b, m)] = ends;
                assert_eq!(f.add(Instant::ZERO, &ip(), piece(1, a, false), &vec![0; n]), Ok(None));
                let second = f.add(Instant::ZERO, &ip(), piece(1, b, false), &vec![0; m]);
                assert_eq!(second, Err(Drop::Fragment));
            });
        }
    }

    #[test]
    fn the_oldest_set_gives_way() {
        with_sets(2, |f| {
            for (at, ident) in [(0, 1), (1, 2), (2, 3)] {
                let r = f.add(Instant::from_millis(at), &ip(), piece(ident, 0, true), &[0; 8]);
                assert_eq!(r, Ok(None));
            }
            // 2 is still there: its end makes it whole; 1 had to go.
            let now = Instant::from_millis(3);
            assert!(matches!(f.add(now, &ip(), piece(2, 8, false), &[1; 4]), Ok(Some(_))));
            assert_eq!(f.add(now, &ip(), piece(1, 8, false), &[1; 4]), Ok(None));
        });
    }
}
