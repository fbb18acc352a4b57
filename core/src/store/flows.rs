//! Which flow a packet belongs to: a keyed hash from the flow's ends to its slot.
//!
//! Slots are dense and grouped by who shares them ([`Share`]), so that a slot's number tells that,
//! and nobody takes the place of another's. The index is open addressing with linear probing, at
//! most half full, and deletes by moving back, so that no tombstones pile up. The hash is
//! SipHash-1-3 under a secret key: a guest that picks its ports and destinations can't pick its
//! collisions.

use core::hash::Hasher;
use core::net::IpAddr;
use core::ops::Range;

use siphasher::sip::SipHasher13;

use super::account::Account;
use super::list::{Link, Links, List};
use super::names::NameText;
use super::slots::{Slot, SlotMemory, Slots};
use crate::contract::FlowId;

const EMPTY: u32 = u32::MAX;

/// The protocols that have flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlowKind {
    Tcp,
    Udp,
    Echo,
}

/// Flows that share a number of slots, of which one takes the place of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    Tcp,
    /// Those that the guest opened.
    Udp,
    Echo,
    /// Those that somebody outside opened.
    InboundUdp,
}

/// How many shares there are.
pub(crate) const SHARES: usize = 4;

/// The ends of a flow. The guest's address is not in it: there is one in each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FlowKey {
    pub(crate) kind: FlowKind,
    pub(crate) outside: IpAddr,
    /// The guest's port, or the identifier of its echo requests.
    pub(crate) guest_port: u16,
    /// The outside port; 0 for echo.
    pub(crate) outside_port: u16,
}

/// One slot: whose it is, what is told of it, and its links.
#[derive(Debug, Clone, Copy)]
pub struct FlowSlot {
    key: Option<FlowKey>,
    account: Account,
    generation: u32,
    hash: u32,
    /// The free list while free, then the list of flows of its share by age of use.
    age: Link,
    attention: Link,
    egress: Link,
    unused: Link,
}

impl Slot for FlowSlot {
    const FREE: Self = Self {
        key: None,
        account: Account::NEW,
        generation: 0,
        hash: 0,
        age: Link::OFF,
        attention: Link::OFF,
        egress: Link::OFF,
        unused: Link::OFF,
    };
}

/// Links of one kind in the slots.
struct By<'s, 'a, const LIST: u8>(&'s mut Slots<'a, FlowSlot>);
const AGE: u8 = 0;
const ATTENTION: u8 = 1;
const EGRESS: u8 = 2;
const UNUSED: u8 = 3;

impl<const LIST: u8> Links for By<'_, '_, LIST> {
    fn link(&mut self, slot: u32) -> &mut Link {
        // Slots come from this table.
        let flow = &mut self.0[slot];
        match LIST {
            AGE => &mut flow.age,
            ATTENTION => &mut flow.attention,
            EGRESS => &mut flow.egress,
            _ => &mut flow.unused,
        }
    }
}

/// The slots of one share.
#[derive(Debug)]
struct Pool {
    slots: Range<u32>,
    /// Slots that were never used start here.
    fresh: u32,
    free: List,
    by_age: List,
    /// Slots that flows have.
    count: u32,
    /// Slots that flows may have; they may have more where this was lowered since.
    max: u32,
}

impl Pool {
    fn new(slots: Range<u32>) -> Self {
        let (fresh, max) = (slots.start, slots.end - slots.start);
        Self { fresh, max, slots, free: List::EMPTY, by_age: List::EMPTY, count: 0 }
    }

    const fn is_full(&self) -> bool {
        self.count >= self.max
    }
}

/// All flows of an engine.
pub(crate) struct FlowTable<'a> {
    slots: Slots<'a, FlowSlot>,
    /// The name of each flow that has one.
    names: &'a mut [NameText],
    index: &'a mut [u32],
    hasher: SipHasher13,
    /// By [`Share`].
    pools: [Pool; SHARES],
    attention: List,
    egress: List,
    unused: List,
}

impl<'a> FlowTable<'a> {
    /// Index entries for `flows` flows.
    pub(crate) const fn index_len(flows: usize) -> usize {
        (2 * flows).next_power_of_two()
    }

    /// `slots` and `names` have one for each flow of `counts`, by [`Share`], `index` has
    /// [`index_len`](Self::index_len) entries.
    pub(crate) fn new(
        (slots, names): (SlotMemory<'a, FlowSlot>, &'a mut [NameText]),
        index: &'a mut [u32],
        counts: [u32; SHARES],
        key: &[u8; 16],
    ) -> Self {
        let slots = Slots::new(slots);
        let mut end = 0;
        let pools = counts.map(|count| {
            end += count;
            Pool::new(end - count..end)
        });
        assert!(slots.len() >= end as usize, "a slot for each flow");
        assert!(names.len() >= end as usize, "a name for each flow");
        assert!(
            index.len().is_power_of_two() && index.len() >= 2 * names.len(),
            "half full at most"
        );
        index.fill(EMPTY);
        Self {
            slots,
            names,
            index,
            hasher: SipHasher13::new_with_key(key),
            pools,
            attention: List::EMPTY,
            egress: List::EMPTY,
            unused: List::EMPTY,
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "half a hash is as good as the whole")]
    fn hash(&self, key: &FlowKey) -> u32 {
        let mut bytes = [0; 24];
        let (address, rest) = bytes.split_at_mut(16);
        match key.outside {
            IpAddr::V4(a) => address[..4].copy_from_slice(&a.octets()),
            IpAddr::V6(a) => address.copy_from_slice(&a.octets()),
        }
        rest[..2].copy_from_slice(&key.guest_port.to_ne_bytes());
        rest[2..4].copy_from_slice(&key.outside_port.to_ne_bytes());
        rest[4] = key.kind as u8;
        rest[5] = u8::from(key.outside.is_ipv6());
        let mut hasher = self.hasher;
        hasher.write(&bytes);
        // The low half is as good as the whole.
        hasher.finish() as u32
    }

    fn mask(&self) -> usize {
        self.index.len() - 1
    }

    /// The slot of the flow with these ends.
    ///
    /// # Cost
    /// Constant: one hash, one or two probes.
    pub(crate) fn find(&self, key: &FlowKey) -> Option<u32> {
        let hash = self.hash(key);
        let mut at = hash as usize & self.mask();
        loop {
            let slot = self.index[at];
            if slot == EMPTY {
                return None;
            }
            let flow = &self.slots[slot];
            if flow.hash == hash && flow.key.as_ref() == Some(key) {
                return Some(slot);
            }
            at = (at + 1) & self.mask();
        }
    }

    /// Slots of each share.
    pub(crate) fn lens(&self) -> [u32; SHARES] {
        self.pools.each_ref().map(|pool| pool.slots.end - pool.slots.start)
    }

    /// The slots of all flows.
    pub(crate) fn all(&self) -> Range<u32> {
        0..self.lens().iter().sum()
    }

    /// Where the slots of datagram flows begin, behind those of TCP flows.
    pub(crate) const fn datagrams_start(&self) -> u32 {
        self.pools[Share::Tcp as usize].slots.end
    }

    /// Lets there be so many flows of each share from now on, of as many as there are slots. Those
    /// that are there stay.
    pub(crate) fn set_max(&mut self, max: [u32; SHARES]) {
        for (pool, max) in self.pools.iter_mut().zip(max) {
            pool.max = max;
        }
    }

    /// Whether there are as many flows of `share` as may be, or more.
    pub(crate) const fn is_full(&self, share: Share) -> bool {
        self.pools[share as usize].is_full()
    }

    /// Whether there are more flows of `share` than may be.
    pub(crate) const fn is_over(&self, share: Share) -> bool {
        let pool = &self.pools[share as usize];
        pool.count > pool.max
    }

    /// Takes a free slot of `share` for a flow with these ends, which has none yet. `None`: there
    /// are as many flows as may be.
    ///
    /// # Cost
    /// Constant.
    pub(crate) fn insert(&mut self, share: Share, key: FlowKey) -> Option<u32> {
        let pool = &mut self.pools[share as usize];
        if pool.is_full() {
            return None;
        }
        let slot = match pool.free.pop_front(&mut By::<AGE>(&mut self.slots)) {
            Some(slot) => slot,
            None if pool.fresh < pool.slots.end => {
                self.slots.made(pool.fresh)?;
                pool.fresh += 1;
                pool.fresh - 1
            }
            None => return None,
        };
        pool.by_age.push_back(&mut By::<AGE>(&mut self.slots), slot);
        pool.count += 1;
        let hash = self.hash(&key);
        let flow = &mut self.slots[slot];
        (flow.key, flow.hash, flow.account) = (Some(key), hash, Account::NEW);
        flow.generation = flow.generation.wrapping_add(1);
        let mut at = hash as usize & self.mask();
        while self.index[at] != EMPTY {
            at = (at + 1) & self.mask();
        }
        self.index[at] = slot;
        Some(slot)
    }

    /// Gives the slot of an ended flow back, and takes it off every list but that of buffers.
    ///
    /// # Cost
    /// Constant.
    pub(crate) fn remove(&mut self, slot: u32) {
        let flow = &mut self.slots[slot];
        if flow.key.take().is_none() {
            return;
        }
        let hash = flow.hash;
        if flow.attention.is_on() {
            self.attention.remove(&mut By::<ATTENTION>(&mut self.slots), slot);
        }
        if self.slots[slot].egress.is_on() {
            self.egress.remove(&mut By::<EGRESS>(&mut self.slots), slot);
        }
        let pool = &mut self.pools[self.share(slot) as usize];
        pool.by_age.remove(&mut By::<AGE>(&mut self.slots), slot);
        pool.count -= 1;
        // The slot that was used last is the next to be used: its memory is in the caches.
        pool.free.push_front(&mut By::<AGE>(&mut self.slots), slot);
        self.unindex(slot, hash);
    }

    /// Takes `slot` out of the index and moves later entries of the same run back (Knuth 6.4 R).
    fn unindex(&mut self, slot: u32, hash: u32) {
        let mask = self.mask();
        let mut hole = hash as usize & mask;
        while self.index[hole] != slot {
            hole = (hole + 1) & mask;
        }
        let mut at = hole;
        loop {
            self.index[hole] = EMPTY;
            loop {
                at = (at + 1) & mask;
                let moved = self.index[at];
                if moved == EMPTY {
                    return;
                }
                let home = self.slots[moved].hash as usize & mask;
                // Its home must not lie between the hole and itself, around the table.
                if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                    self.index[hole] = moved;
                    hole = at;
                    break;
                }
            }
        }
    }

    /// The ends of the flow in `slot`.
    pub(crate) fn key(&self, slot: u32) -> Option<FlowKey> {
        self.slots.used(slot)?.key
    }

    /// What is told of the flow in `slot`.
    pub(crate) fn account(&self, slot: u32) -> &Account {
        &self.slots[slot].account
    }

    /// The same, to be changed.
    pub(crate) fn account_mut(&mut self, slot: u32) -> &mut Account {
        &mut self.slots[slot].account
    }

    /// The name that the flow in `slot` is known by.
    pub(crate) fn name(&self, slot: u32) -> Option<&str> {
        let bytes = usize::from(self.account(slot).name_bytes);
        let text = self.names[slot as usize].get(..bytes).filter(|text| !text.is_empty())?;
        core::str::from_utf8(text).ok()
    }

    /// Lets the flow in `slot` be known by `name`; one that is too long for a name is left out.
    pub(crate) fn set_name(&mut self, slot: u32, name: &str) {
        let text = &mut self.names[slot as usize];
        let Some(place) = text.get_mut(..name.len()) else { return };
        place.copy_from_slice(name.as_bytes());
        // A name's text has fewer than 256 bytes.
        self.account_mut(slot).name_bytes = u8::try_from(name.len()).unwrap_or(0);
    }

    /// How many flows there are of each share.
    pub(crate) fn counts(&self) -> [u32; SHARES] {
        self.pools.each_ref().map(|pool| pool.count)
    }

    /// The slots that flows have.
    ///
    /// # Cost
    /// A look at every slot that was ever used.
    pub(crate) fn used(&self) -> impl Iterator<Item = u32> {
        let used = self.pools.iter().flat_map(|pool| pool.slots.start..pool.fresh);
        used.filter(|slot| self.slots[*slot].key.is_some())
    }

    /// The identity of the flow in `slot`.
    pub(crate) fn id(&self, slot: u32) -> FlowId {
        FlowId { index: slot, generation: self.slots[slot].generation }
    }

    /// The slot of `id`, if that flow still lives.
    pub(crate) fn slot(&self, id: FlowId) -> Option<u32> {
        let flow = self.slots.used(id.index)?;
        (flow.key.is_some() && flow.generation == id.generation).then_some(id.index)
    }

    /// Marks the flow as the one used last of its share.
    ///
    /// # Cost
    /// Constant.
    pub(crate) fn touch(&mut self, slot: u32) {
        let Some((pool, slots)) = self.pool_of(slot) else { return };
        // A busy flow is where it belongs already.
        if pool.by_age.back() != Some(slot) {
            pool.by_age.remove(&mut By::<AGE>(slots), slot);
            pool.by_age.push_back(&mut By::<AGE>(slots), slot);
        }
    }

    /// Marks the flow as the first of its share to give way.
    ///
    /// # Cost
    /// Constant.
    pub(crate) fn retire(&mut self, slot: u32) {
        let Some((pool, slots)) = self.pool_of(slot) else { return };
        pool.by_age.remove(&mut By::<AGE>(slots), slot);
        pool.by_age.push_front(&mut By::<AGE>(slots), slot);
    }

    /// The pool of the flow in `slot`, and the slots of all.
    fn pool_of(&mut self, slot: u32) -> Option<(&mut Pool, &mut Slots<'a, FlowSlot>)> {
        self.slots.used(slot)?.key.as_ref()?;
        let share = self.share(slot);
        Some((&mut self.pools[share as usize], &mut self.slots))
    }

    /// Whose `slot` is.
    fn share(&self, slot: u32) -> Share {
        let ends_behind = |share: &Share| slot < self.pools[*share as usize].slots.end;
        [Share::Tcp, Share::Udp, Share::Echo]
            .into_iter()
            .find(ends_behind)
            .unwrap_or(Share::InboundUdp)
    }

    /// The flow of `share` that was used least recently.
    pub(crate) fn oldest(&self, share: Share) -> Option<u32> {
        self.pools[share as usize].by_age.front()
    }

    /// Puts `slot` in the queue of flows that have something to say to the host.
    pub(crate) fn needs_attention(&mut self, slot: u32) {
        self.attention.push_back(&mut By::<ATTENTION>(&mut self.slots), slot);
    }

    /// The next flow with something to say; it stays in the queue.
    pub(crate) fn attention(&self) -> Option<u32> {
        self.attention.front()
    }

    /// The flow at the front of the queue has nothing more to say.
    pub(crate) fn attended(&mut self) {
        self.attention.pop_front(&mut By::<ATTENTION>(&mut self.slots));
    }

    /// Puts `slot` in the queue of flows that may have packets for the guest.
    pub(crate) fn needs_egress(&mut self, slot: u32) {
        self.egress.push_back(&mut By::<EGRESS>(&mut self.slots), slot);
    }

    /// Puts `slot` in the queue of those whose buffers may have become free.
    pub(crate) fn may_be_unused(&mut self, slot: u32) {
        self.unused.push_back(&mut By::<UNUSED>(&mut self.slots), slot);
    }

    /// The next slot whose buffers may have become free; it leaves the queue.
    pub(crate) fn pop_unused(&mut self) -> Option<u32> {
        self.unused.pop_front(&mut By::<UNUSED>(&mut self.slots))
    }

    /// Whether there is one.
    pub(crate) fn has_unused(&self) -> bool {
        !self.unused.is_empty()
    }

    /// The next flow that may have packets; it stays in the queue.
    pub(crate) fn egress(&self) -> Option<u32> {
        self.egress.front()
    }

    /// The flow at the front of the queue has sent; `again`: it goes to the end of the queue.
    pub(crate) fn egressed(&mut self, again: bool) {
        let slot = self.egress.pop_front(&mut By::<EGRESS>(&mut self.slots));
        if let Some(slot) = slot.filter(|_| again) {
            self.needs_egress(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::store::slots::tests::memory;
    use core::net::Ipv4Addr;
    use std::collections::HashMap;
    use std::vec;

    fn key(port: u16) -> FlowKey {
        FlowKey {
            kind: FlowKind::Udp,
            outside: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            guest_port: port,
            outside_port: 53,
        }
    }

    #[test]
    fn finds_what_a_map_finds_through_a_million_changes() {
        let mut names = vec![[0; 253]; 64];
        let mut index = vec![0; FlowTable::index_len(64)];
        let lent = (memory(64), names.as_mut_slice());
        let mut table = FlowTable::new(lent, &mut index, [0, 64, 0, 0], &[7; 16]);
        let mut model: HashMap<u16, u32> = HashMap::new();
        let mut seed = 1u32;
        for _ in 0..1_000_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let port = (seed >> 16) as u16 % 100;
            assert_eq!(table.find(&key(port)), model.get(&port).copied());
            match model.remove(&port) {
                Some(slot) => table.remove(slot),
                None => match table.insert(Share::Udp, key(port)) {
                    Some(slot) => assert!(model.insert(port, slot).is_none()),
                    None => assert_eq!(model.len(), 64),
                },
            }
        }
    }

    #[test]
    fn an_id_dies_with_its_flow() {
        let mut names = [[0; 253]];
        let mut index = vec![0; 2];
        let mut table = FlowTable::new((memory(1), &mut names), &mut index, [0, 1, 0, 0], &[0; 16]);
        let slot = table.insert(Share::Udp, key(1)).unwrap();
        let id = table.id(slot);
        table.needs_egress(slot);
        table.remove(slot);
        assert_eq!((table.slot(id), table.egress()), (None, None));
        let again = table.insert(Share::Udp, key(1)).unwrap();
        assert_eq!((again, table.slot(id)), (slot, None));
    }

    #[test]
    fn the_least_recently_used_is_the_oldest() {
        let mut names = [[0; 253]; 2];
        let mut index = vec![0; 4];
        let mut table = FlowTable::new((memory(2), &mut names), &mut index, [0, 2, 0, 0], &[0; 16]);
        let a = table.insert(Share::Udp, key(1)).unwrap();
        let b = table.insert(Share::Udp, key(2)).unwrap();
        table.touch(a);
        assert_eq!((table.oldest(Share::Udp), table.insert(Share::Udp, key(3))), (Some(b), None));
    }
}
