//! Which names lead to an address, as the resolver said.
//!
//! Owns the bindings of addresses to names, in fixed memory; must not know where a binding comes
//! from, nor what a name allows. A binding is good until its time is up. There is always room: the
//! binding that was made or renewed longest ago gives way. So does the first of an address that has
//! too many names, so that no list is long, and of a name that has too many addresses, so that no
//! name server takes all of the memory with one.
//!
//! An index by a keyed hash of the address leads to the list of its bindings, so that a name server
//! can't pick its collisions. By the same hash of the name it is counted how many it has (names
//! that share a place of the index are counted as one).

use core::hash::Hasher;
use core::net::IpAddr;

use siphasher::sip::SipHasher13;

use super::list::{Link, Links, List};
use super::slots::{Slot, SlotMemory, Slots};
use crate::contract::Instant;
use crate::limits::{BINDINGS_PER_ADDRESS_MAX, BINDINGS_PER_NAME_MAX, DOMAIN_BYTES_MAX};

/// The text of one name.
pub type NameText = [u8; DOMAIN_BYTES_MAX];

/// One binding; its name is the text of the same number.
#[derive(Debug, Clone, Copy)]
pub struct NameSlot {
    address: Option<IpAddr>,
    until: Instant,
    name_bytes: u8,
    /// The bindings whose addresses have the same place in the index.
    bucket: Link,
    /// The bindings whose names have the same place in the index, by age.
    namesakes: Link,
    /// All bindings, by age.
    age: Link,
}

impl Slot for NameSlot {
    const FREE: Self = Self {
        address: None,
        until: Instant::ZERO,
        name_bytes: 0,
        bucket: Link::OFF,
        namesakes: Link::OFF,
        age: Link::OFF,
    };
}

/// One place of the index.
#[derive(Debug, Clone, Copy)]
pub struct NameBucket {
    addresses: List,
    names: List,
    /// How many are on the list of names.
    count: u32,
}

impl Slot for NameBucket {
    const FREE: Self = Self { addresses: List::EMPTY, names: List::EMPTY, count: 0 };
}

struct ByBucket<'s, 'a>(&'s mut Slots<'a, NameSlot>);
struct ByName<'s, 'a>(&'s mut Slots<'a, NameSlot>);
struct ByAge<'s, 'a>(&'s mut Slots<'a, NameSlot>);

impl Links for ByBucket<'_, '_> {
    fn link(&mut self, slot: u32) -> &mut Link {
        // Slots come from this store.
        &mut self.0[slot].bucket
    }
}

impl Links for ByName<'_, '_> {
    fn link(&mut self, slot: u32) -> &mut Link {
        &mut self.0[slot].namesakes
    }
}

impl Links for ByAge<'_, '_> {
    fn link(&mut self, slot: u32) -> &mut Link {
        &mut self.0[slot].age
    }
}

/// All bindings of an engine.
pub(crate) struct NameTable<'a> {
    slots: Slots<'a, NameSlot>,
    /// One for each binding that there may be.
    texts: &'a mut [NameText],
    buckets: Slots<'a, NameBucket>,
    /// Slots that were never used start here.
    fresh: u32,
    by_age: List,
    hasher: SipHasher13,
}

impl<'a> NameTable<'a> {
    /// As many bindings as `slots` and `texts` have; `buckets` is a power of two, or empty with
    /// them.
    pub(crate) fn new(
        slots: SlotMemory<'a, NameSlot>,
        texts: &'a mut [NameText],
        buckets: SlotMemory<'a, NameBucket>,
        key: &[u8; 16],
    ) -> Self {
        let (slots, buckets) = (Slots::new(slots), Slots::new(buckets));
        assert!(slots.len() >= texts.len(), "a slot for each text");
        assert!(texts.is_empty() || buckets.len().is_power_of_two(), "an index for bindings");
        let hasher = SipHasher13::new_with_key(key);
        Self { slots, texts, buckets, fresh: 0, by_age: List::EMPTY, hasher }
    }

    fn bucket(&self, address: IpAddr) -> u32 {
        let mut hasher = self.hasher;
        match address {
            IpAddr::V4(v4) => hasher.write(&v4.octets()),
            IpAddr::V6(v6) => hasher.write(&v6.octets()),
        }
        self.place(&hasher)
    }

    fn name_bucket(&self, name: &str) -> u32 {
        let mut hasher = self.hasher;
        hasher.write(name.as_bytes());
        self.place(&hasher)
    }

    fn place(&self, hasher: &SipHasher13) -> u32 {
        #[allow(clippy::cast_possible_truncation, reason = "half a hash is as good as the whole")]
        let (hash, mask) = (hasher.finish() as u32, self.buckets.len() as u32 - 1);
        hash & mask
    }

    /// Whether there is memory for names at all.
    pub(crate) fn has_room(&self) -> bool {
        !self.texts.is_empty()
    }

    /// The slots of the bucket of `address`.
    fn slots_of(&self, address: IpAddr) -> impl Iterator<Item = u32> {
        let first =
            self.buckets.used(self.bucket(address)).and_then(|bucket| bucket.addresses.front());
        core::iter::successors(first, |slot| self.slots[*slot].bucket.next())
            .filter(move |slot| self.slots[*slot].address == Some(address))
    }

    fn bytes(&self, slot: u32) -> &[u8] {
        let len = usize::from(self.slots[slot].name_bytes);
        self.texts[slot as usize].get(..len).unwrap_or(&[])
    }

    fn text(&self, slot: u32) -> &str {
        core::str::from_utf8(self.bytes(slot)).unwrap_or("")
    }

    /// The names of `address` that are good at `now`.
    ///
    /// # Cost
    /// One hash, and a step for each name of the address.
    pub(crate) fn of(&self, now: Instant, address: IpAddr) -> impl Iterator<Item = &str> {
        let slots = (!self.texts.is_empty()).then(|| self.slots_of(address));
        let good = move |slot: &u32| self.slots[*slot].until > now;
        slots.into_iter().flatten().filter(good).map(|slot| self.text(slot))
    }

    /// Every binding that is good at `now`, and until when; the oldest first, so that a store which
    /// is bound the same in this order forgets the same next.
    ///
    /// # Cost
    /// A step for each binding. It is not for every turn.
    pub(crate) fn all(&self, now: Instant) -> impl Iterator<Item = (IpAddr, &str, Instant)> {
        let next = |slot: &u32| self.slots[*slot].age.next();
        core::iter::successors(self.by_age.front(), next).filter_map(move |slot| {
            let NameSlot { address, until, .. } = self.slots[slot];
            Some((address?, self.text(slot), until)).filter(|(.., until)| *until > now)
        })
    }

    /// Binds `address` to `name` for `seconds` from `now`, or for as long as it is bound already.
    ///
    /// # Cost
    /// One hash, and a step for each name of the address.
    pub(crate) fn bind(&mut self, now: Instant, address: IpAddr, name: &str, seconds: u32) {
        if self.texts.is_empty() {
            return;
        }
        let until = now.plus_millis(u64::from(seconds) * 1000);
        let known = self.slots_of(address).find(|slot| self.bytes(*slot) == name.as_bytes());
        let slot = match known {
            Some(slot) => {
                self.by_age.remove(&mut ByAge(&mut self.slots), slot);
                let bucket = self.name_bucket(name);
                self.buckets[bucket].names.remove(&mut ByName(&mut self.slots), slot);
                self.buckets[bucket].names.push_back(&mut ByName(&mut self.slots), slot);
                slot
            }
            None => {
                let crowded = self.crowded(address).or_else(|| self.crowded_name(name));
                let slot = self.take(crowded);
                self.write(slot, address, name);
                let (bucket, slots) = self.made_bucket(self.bucket(address));
                bucket.addresses.push_back(&mut ByBucket(slots), slot);
                let (bucket, slots) = self.made_bucket(self.name_bucket(name));
                bucket.names.push_back(&mut ByName(slots), slot);
                bucket.count += 1;
                slot
            }
        };
        let kept = &mut self.slots[slot].until;
        *kept = (*kept).max(until);
        self.by_age.push_back(&mut ByAge(&mut self.slots), slot);
    }

    /// The bucket, made if it was never used, and the slots that it leads to.
    fn made_bucket(&mut self, bucket: u32) -> (&mut NameBucket, &mut Slots<'a, NameSlot>) {
        let made = self.buckets.made(bucket);
        (made.expect("because a hash is cut to the number of buckets"), &mut self.slots)
    }

    #[allow(clippy::cast_possible_truncation, reason = "a name has at most 253 bytes")]
    fn write(&mut self, slot: u32, address: IpAddr, name: &str) {
        let own = &mut self.slots[slot];
        (own.address, own.until, own.name_bytes) = (Some(address), Instant::ZERO, 0);
        if let Some(text) = self.texts[slot as usize].get_mut(..name.len()) {
            text.copy_from_slice(name.as_bytes());
            own.name_bytes = name.len() as u8;
        }
    }

    /// The first slot of `address`, if it has as many as it may.
    fn crowded(&self, address: IpAddr) -> Option<u32> {
        let mut slots = self.slots_of(address);
        let first = slots.next()?;
        slots.nth(BINDINGS_PER_ADDRESS_MAX - 2)?;
        Some(first)
    }

    /// The oldest slot of `name`, if it has as many as it may.
    fn crowded_name(&self, name: &str) -> Option<u32> {
        let bucket = self.buckets.used(self.name_bucket(name))?;
        (bucket.count >= BINDINGS_PER_NAME_MAX).then(|| bucket.names.front())?
    }

    /// A slot on no list: `crowded` if there is one, else a fresh one, or that of the oldest
    /// binding.
    fn take(&mut self, crowded: Option<u32>) -> u32 {
        if crowded.is_none() && (self.fresh as usize) < self.texts.len() {
            let made = self.slots.made(self.fresh);
            assert!(made.is_some(), "there is a slot for each text");
            self.fresh += 1;
            return self.fresh - 1;
        }
        let oldest = crowded.or_else(|| self.by_age.front());
        let slot = oldest.expect("because a full store has bindings");
        self.by_age.remove(&mut ByAge(&mut self.slots), slot);
        if let Some(address) = self.slots[slot].address {
            let (bucket, name_bucket) = (self.bucket(address), self.name_bucket(self.text(slot)));
            self.buckets[bucket].addresses.remove(&mut ByBucket(&mut self.slots), slot);
            self.buckets[name_bucket].names.remove(&mut ByName(&mut self.slots), slot);
            self.buckets[name_bucket].count -= 1;
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::store::slots::tests::memory;
    use core::net::Ipv4Addr;
    use std::vec;
    use std::vec::Vec;

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number).into()
    }

    fn with_table(slots: usize, test: impl FnOnce(&mut NameTable<'_>)) {
        let mut texts = vec![[0; DOMAIN_BYTES_MAX]; slots];
        test(&mut NameTable::new(
            memory(slots),
            &mut texts,
            memory(slots.next_power_of_two()),
            &[7; 16],
        ));
    }

    fn names(table: &NameTable<'_>, second: u64, number: u32) -> Vec<std::string::String> {
        table.of(at(second), address(number)).map(Into::into).collect()
    }

    fn at(second: u64) -> Instant {
        Instant::from_millis(second * 1000)
    }

    #[test]
    fn a_binding_is_good_until_its_time_is_up_and_renewing_never_shortens_it() {
        with_table(4, |table| {
            table.bind(at(0), address(1), "a.test", 10);
            table.bind(at(1), address(1), "b.test", 1);
            table.bind(at(2), address(1), "a.test", 1);
            assert_eq!(names(table, 1, 1), ["a.test", "b.test"]);
            assert_eq!(names(table, 9, 1), ["a.test"]);
            assert_eq!(names(table, 10, 1), Vec::<&str>::new());
            table.bind(at(20), address(1), "b.test", 5);
            assert_eq!(names(table, 24, 1), ["b.test"]);
        });
    }

    #[test]
    fn a_full_store_forgets_what_was_bound_longest_ago() {
        with_table(3, |table| {
            for number in [1, 2, 3] {
                table.bind(at(0), address(number), "a.test", 100);
            }
            table.bind(at(1), address(1), "a.test", 100);
            table.bind(at(1), address(4), "b.test", 100);
            let known: Vec<_> = (1..=4).map(|number| names(table, 2, number).len()).collect();
            assert_eq!(known, [1, 0, 1, 1]);
        });
    }

    #[test]
    fn what_is_good_is_told_from_the_oldest_on() {
        with_table(4, |table| {
            table.bind(at(0), address(1), "a.test", 10);
            table.bind(at(0), address(2), "b.test", 3);
            table.bind(at(0), address(3), "c.test", 30);
            table.bind(at(1), address(1), "a.test", 10);
            let known: Vec<_> = table.all(at(4)).collect();
            assert_eq!(known, [(address(3), "c.test", at(30)), (address(1), "a.test", at(11))]);
        });
    }

    #[test]
    fn an_address_of_too_many_names_forgets_its_first() {
        with_table(2 * BINDINGS_PER_ADDRESS_MAX, |table| {
            for number in 0..=BINDINGS_PER_ADDRESS_MAX {
                table.bind(at(0), address(1), &std::format!("{number}.test"), 9);
            }
            let known = names(table, 1, 1);
            assert_eq!(known.len(), BINDINGS_PER_ADDRESS_MAX);
            assert_eq!((known[0].as_str(), table.fresh), ("1.test", 256));
        });
    }

    #[test]
    fn a_name_of_too_many_addresses_forgets_its_oldest_and_no_other_name_does() {
        let max = BINDINGS_PER_NAME_MAX;
        with_table(4096, |table| {
            table.bind(at(0), address(0), "other.test", 99);
            for number in 1..=max {
                table.bind(at(0), address(number), "many.test", 99);
            }
            // Renewed, so it is not the oldest.
            table.bind(at(1), address(1), "many.test", 99);
            table.bind(at(1), address(max + 1), "many.test", 99);
            let known = |number| names(table, 2, number).len();
            assert_eq!([0, 1, 2, 3, max + 1].map(known), [1, 1, 0, 1, 1]);
            for number in 0..100_000 {
                table.bind(at(2), address(1_000_000 + number), "many.test", 99);
            }
            assert_eq!(names(table, 3, 0), ["other.test"], "it is where it was");
            assert_eq!(table.fresh, max + 1, "and so is the memory that is not used");
        });
    }

    #[test]
    fn it_knows_what_a_model_knows_through_many_changes() {
        with_table(64, |table| {
            let mut model: Vec<(u32, u32)> = vec![];
            let mut seed = 1u32;
            for _ in 0..50_000 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let pair = (seed >> 16 & 31, seed >> 24 & 7);
                table.bind(at(0), address(pair.0), &std::format!("{}.test", pair.1), 9);
                model.retain(|known| *known != pair);
                model.push(pair);
                let from = model.len().saturating_sub(64);
                model.drain(..from);
                let mut known = names(table, 1, pair.0);
                known.sort();
                let of = model.iter().filter(|(number, _)| *number == pair.0);
                let mut expected: Vec<_> = of.map(|(_, n)| std::format!("{n}.test")).collect();
                expected.sort();
                assert_eq!(known, expected);
            }
        });
    }

    #[test]
    fn a_store_without_memory_knows_nothing() {
        let mut table = NameTable::new(memory(0), &mut [], memory(0), &[0; 16]);
        table.bind(at(0), address(1), "a.test", 9);
        assert_eq!(table.of(at(0), address(1)).count(), 0);
    }
}
