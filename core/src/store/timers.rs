//! Deadlines of flows in a hierarchical wheel (Varghese and Lauck, 1987): constant cost a change.
//!
//! Six levels of 64 slots; a slot of level n is 64^n milliseconds wide, so the wheel reaches over
//! two years. A deadline sits on the level of its distance and moves down as the clock nears it.
//! Deadlines that move later are left where they are and put right when they fire: a flow that is
//! busy re-arms its timer for each segment, and none of that touches the wheel.

#![allow(clippy::cast_possible_truncation, reason = "levels and bucket numbers are below 400")]

use crate::contract::Instant;

use super::list::{Link, Links, List};
use super::slots::{Slot, SlotMemory, Slots};

const LEVELS: usize = 6;
const SLOTS: usize = 64;
const SLOT_BITS: u32 = 6;

/// The timer of one flow.
#[derive(Debug, Clone, Copy)]
pub struct Timer {
    link: Link,
    /// What the flow asked for, in milliseconds; `u64::MAX`: nothing.
    wanted_ms: u64,
    /// Where it is in the wheel: the deadline it was filed under.
    filed_ms: u64,
    bucket: u16,
}

impl Slot for Timer {
    /// A timer that is not set.
    const FREE: Self = Self { link: Link::OFF, wanted_ms: u64::MAX, filed_ms: u64::MAX, bucket: 0 };
}

impl Links for Slots<'_, Timer> {
    fn link(&mut self, slot: u32) -> &mut Link {
        // Slots come from this table's owner.
        &mut self[slot].link
    }
}

/// The wheel over lent timers, one a flow slot.
pub(crate) struct Timers<'a> {
    timers: Slots<'a, Timer>,
    buckets: [List; LEVELS * SLOTS],
    /// Which buckets of a level hold anything.
    occupied: [u64; LEVELS],
    now_ms: u64,
}

impl<'a> Timers<'a> {
    pub(crate) fn new(timers: SlotMemory<'a, Timer>, now: Instant) -> Self {
        Self {
            timers: Slots::new(timers),
            buckets: [List::EMPTY; LEVELS * SLOTS],
            occupied: [0; LEVELS],
            now_ms: now.as_millis(),
        }
    }

    /// Sets the deadline of `slot`; `None` takes it away. Fires at the next whole millisecond.
    ///
    /// # Cost
    /// Constant; a deadline that moves later only stores a number.
    pub(crate) fn set(&mut self, slot: u32, deadline: Option<Instant>) {
        let wanted_ms = deadline.map_or(u64::MAX, |at| at.as_micros().div_ceil(1000));
        let Some(timer) = self.timers.made(slot) else { return };
        timer.wanted_ms = wanted_ms;
        if timer.link.is_on() && timer.filed_ms <= wanted_ms {
            return;
        }
        self.unfile(slot);
        self.file(slot);
    }

    /// Takes `slot` out of the wheel at once, as its flow has ended.
    pub(crate) fn clear(&mut self, slot: u32) {
        self.unfile(slot);
        if let Some(timer) = self.timers.used_mut(slot) {
            timer.wanted_ms = u64::MAX;
        }
    }

    fn unfile(&mut self, slot: u32) {
        let Some(&Timer { link, bucket, .. }) = self.timers.used(slot) else { return };
        if !link.is_on() {
            return;
        }
        let (bucket, level) = (usize::from(bucket), usize::from(bucket) / SLOTS);
        if let (Some(list), Some(bits)) =
            (self.buckets.get_mut(bucket), self.occupied.get_mut(level))
        {
            list.remove(&mut self.timers, slot);
            if list.is_empty() {
                *bits &= !(1 << (bucket % SLOTS));
            }
        }
    }

    fn file(&mut self, slot: u32) {
        let Some(timer) = self.timers.used_mut(slot) else { return };
        if timer.wanted_ms == u64::MAX {
            return;
        }
        let at = timer.wanted_ms.max(self.now_ms + 1);
        // The level is given by the highest bit in which the deadline differs from now.
        let distance = (at ^ self.now_ms) | 1;
        let level = ((63 - distance.leading_zeros()) / SLOT_BITS).min(LEVELS as u32 - 1);
        // Six bits.
        let index = (at >> (level * SLOT_BITS)) as usize % SLOTS;
        let bucket = level as usize * SLOTS + index;
        timer.filed_ms = timer.wanted_ms;
        // Below LEVELS * SLOTS.
        timer.bucket = bucket as u16;
        if let (Some(list), Some(bits)) =
            (self.buckets.get_mut(bucket), self.occupied.get_mut(level as usize))
        {
            list.push_back(&mut self.timers, slot);
            *bits |= 1 << index;
        }
    }

    /// The time at which [`fire`](Self::fire) next has work, if ever: a deadline, or a bucket that
    /// moves down a level.
    ///
    /// # Cost
    /// Constant.
    pub(crate) fn next(&self) -> Option<Instant> {
        (0u32..).zip(self.occupied).find_map(|(level, bits)| {
            if bits == 0 {
                return None;
            }
            let shift = level * SLOT_BITS;
            let current = (self.now_ms >> shift) as u32 % SLOTS as u32;
            // The first occupied bucket after the current one, around the wheel.
            let ahead = bits.rotate_right((current + 1) % 64).trailing_zeros() + 1;
            let at = ((self.now_ms >> shift) + u64::from(ahead)) << shift;
            Some(Instant::from_millis(at))
        })
    }

    /// Moves the clock to `now` and returns a slot whose deadline has come, one a call; its timer
    /// is off then. `None`: no more for now.
    ///
    /// # Cost
    /// Constant, over the timers' life: each is filed at most once a level.
    pub(crate) fn fire(&mut self, now: Instant) -> Option<u32> {
        let now_ms = now.as_millis();
        loop {
            // Whatever lies in a current bucket has come, or belongs further down.
            while let Some(slot) = self.take_current() {
                let Some(timer) = self.timers.used_mut(slot) else { continue };
                if timer.wanted_ms <= self.now_ms {
                    timer.wanted_ms = u64::MAX;
                    return Some(slot);
                }
                self.file(slot);
            }
            match self.next() {
                Some(at) if at.as_millis() <= now_ms => self.now_ms = at.as_millis(),
                Some(_) | None => {
                    self.now_ms = self.now_ms.max(now_ms);
                    if self.occupied_now() {
                        continue;
                    }
                    return None;
                }
            }
        }
    }

    fn occupied_now(&self) -> bool {
        (0u32..).zip(self.occupied).any(|(level, bits)| {
            bits >> ((self.now_ms >> (level * SLOT_BITS)) % SLOTS as u64) & 1 == 1
        })
    }

    /// Takes a timer out of a bucket that the clock is in, the longest deadlines first, so that
    /// they find their place before the shorter are asked for.
    fn take_current(&mut self) -> Option<u32> {
        for level in (0..LEVELS).rev() {
            let shift = level as u32 * SLOT_BITS;
            let index = (self.now_ms >> shift) as usize % SLOTS;
            if self.occupied.get(level).is_some_and(|bits| bits >> index & 1 == 1) {
                let slot = self.buckets.get(level * SLOTS + index).and_then(List::front)?;
                self.unfile(slot);
                return Some(slot);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::store::slots::tests::memory;
    use std::vec;
    use std::vec::Vec;

    fn fired(timers: &mut Timers<'_>, now_ms: u64) -> Vec<u32> {
        let mut slots: Vec<u32> =
            core::iter::from_fn(|| timers.fire(Instant::from_millis(now_ms))).collect();
        slots.sort_unstable();
        slots
    }

    #[test]
    fn a_deadline_that_moves_later_fires_late_and_one_that_moves_earlier_early() {
        let mut timers = Timers::new(memory(64), Instant::ZERO);
        timers.set(0, Some(Instant::from_millis(10)));
        timers.set(0, Some(Instant::from_millis(500)));
        timers.set(1, Some(Instant::from_millis(500)));
        timers.set(1, Some(Instant::from_millis(10)));
        assert_eq!(fired(&mut timers, 499), [1]);
        assert_eq!(fired(&mut timers, 500), [0]);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn a_cleared_timer_never_fires() {
        let mut timers = Timers::new(memory(64), Instant::ZERO);
        timers.set(0, Some(Instant::from_millis(70)));
        timers.clear(0);
        assert_eq!((timers.next(), fired(&mut timers, 1000)), (None, vec![]));
    }

    /// Against a naive model: random deadlines, random steps, woken only when `next` says so.
    #[test]
    fn every_timer_fires_in_its_millisecond_when_the_clock_follows_next() {
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = move |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        let mut model = vec![u64::MAX; 64];
        let mut now = 1_000_003;
        let mut timers = Timers::new(memory(64), Instant::from_millis(now));
        for _ in 0..20_000 {
            for _ in 0..random(3) {
                let slot = random(64) as usize;
                let span = 1 << random(24);
                let at = if random(8) == 0 { u64::MAX } else { now + 1 + random(span) };
                model[slot] = at;
                timers.set(slot as u32, (at < u64::MAX).then(|| Instant::from_millis(at)));
            }
            let nearest = model.iter().copied().min().unwrap_or(u64::MAX);
            match timers.next() {
                Some(next) => assert!(next.as_millis() <= nearest, "oversleeps"),
                None => assert_eq!(nearest, u64::MAX),
            }
            now = match timers.next() {
                Some(next) if random(2) == 0 => next.as_millis().max(now),
                _ => now + random(5000),
            };
            let due: Vec<u32> = (0..64).filter(|&slot| model[slot as usize] <= now).collect();
            assert_eq!(fired(&mut timers, now), due);
            due.iter().for_each(|&slot| model[slot as usize] = u64::MAX);
        }
    }
}
