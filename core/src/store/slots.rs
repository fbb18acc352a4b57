//! Slots that are made a page at a time, once they are used: until then their memory is not
//! touched, so that a network costs what it uses and not what it may use.
//!
//! The memory is lent in two parts: pages without a content, and places that say where each page
//! lies. A page is written when one of its slots is first used, and stays; pages are taken in the
//! order of that, so a place may lead to any of them.

use core::mem::MaybeUninit;
use core::ops::{Index, IndexMut};

/// Slots of a page.
pub const SLOTS_PER_PAGE: usize = 32;

/// Memory of a page that has no content yet.
pub type SlotPage<T> = MaybeUninit<[T; SLOTS_PER_PAGE]>;

/// Where a page lies; `None`: none of its slots was ever used.
pub type SlotPlace<'a, T> = Option<&'a mut [T; SLOTS_PER_PAGE]>;

/// Memory for slots of one kind: [`SLOTS_PER_PAGE`] for each page, and a place for each page.
///
/// The places are `None` at first. The pages may be fresh memory: nothing is read before it was
/// written.
pub struct SlotMemory<'a, T> {
    /// The slots.
    pub pages: &'a mut [SlotPage<T>],
    /// As many.
    pub places: &'a mut [SlotPlace<'a, T>],
}

/// What a slot is before it is first used.
pub(crate) trait Slot {
    const FREE: Self;
}

/// Slots by number.
pub(crate) struct Slots<'a, T> {
    places: &'a mut [SlotPlace<'a, T>],
    unused: core::slice::IterMut<'a, SlotPage<T>>,
}

// What finds a slot is inlined by force: left to the compiler, calls of it were 6 % of the
// instructions of a round trip.
impl<'a, T: Slot> Slots<'a, T> {
    pub(crate) fn new(memory: SlotMemory<'a, T>) -> Self {
        let SlotMemory { pages, places } = memory;
        assert!(pages.len() >= places.len(), "a page for each place");
        Self { places, unused: pages.iter_mut() }
    }

    /// How many there may be.
    pub(crate) fn len(&self) -> usize {
        self.places.len() * SLOTS_PER_PAGE
    }

    /// The slot, if one of its page was ever used.
    #[inline(always)]
    pub(crate) fn used(&self, slot: u32) -> Option<&T> {
        self.places.get(slot as usize / SLOTS_PER_PAGE)?.as_ref()?.get(in_page(slot))
    }

    /// The same, to be changed.
    #[inline(always)]
    pub(crate) fn used_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.places.get_mut(slot as usize / SLOTS_PER_PAGE)?.as_mut()?.get_mut(in_page(slot))
    }

    /// The slot, which is free if it was never used. `None`: there are not so many.
    ///
    /// # Cost
    /// Constant; the first of a page writes the page.
    #[inline(always)]
    pub(crate) fn made(&mut self, slot: u32) -> Option<&mut T> {
        let place = self.places.get_mut(slot as usize / SLOTS_PER_PAGE)?;
        if place.is_none() {
            *place = Self::fresh(&mut self.unused);
        }
        place.as_mut()?.get_mut(in_page(slot))
    }

    #[cold]
    fn fresh(unused: &mut core::slice::IterMut<'a, SlotPage<T>>) -> SlotPlace<'a, T> {
        Some(unused.next()?.write([const { T::FREE }; SLOTS_PER_PAGE]))
    }
}

const fn in_page(slot: u32) -> usize {
    slot as usize % SLOTS_PER_PAGE
}

impl<T: Slot> Index<u32> for Slots<'_, T> {
    type Output = T;

    #[inline(always)]
    fn index(&self, slot: u32) -> &T {
        self.used(slot).expect("because slots are used by who has made them")
    }
}

impl<T: Slot> IndexMut<u32> for Slots<'_, T> {
    #[inline(always)]
    fn index_mut(&mut self, slot: u32) -> &mut T {
        self.used_mut(slot).expect("because slots are used by who has made them")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    extern crate std;
    use super::*;
    use std::boxed::Box;
    use std::vec::Vec;

    /// Memory for `slots` slots, for as long as a test runs.
    pub(crate) fn memory<'a, T: Slot + 'a>(slots: usize) -> SlotMemory<'a, T> {
        let pages = slots.div_ceil(SLOTS_PER_PAGE);
        let places: Vec<SlotPlace<'a, T>> = (0..pages).map(|_| None).collect();
        SlotMemory {
            pages: Box::leak(Box::new_uninit_slice(pages)),
            places: Box::leak(places.into_boxed_slice()),
        }
    }

    impl Slot for u8 {
        const FREE: Self = 7;
    }

    #[test]
    fn pages_are_made_as_their_slots_are_used_and_keep_what_is_written() {
        let mut slots = Slots::<u8>::new(memory(3 * SLOTS_PER_PAGE));
        assert_eq!((slots.len(), slots.used(40), slots.unused.len()), (96, None, 3));
        *slots.made(95).unwrap() = 1;
        *slots.made(0).unwrap() = 2;
        assert_eq!((slots[95], slots[64], slots[0]), (1, 7, 2));
        assert_eq!(slots.made(95), Some(&mut 1));
        // One that is not there, and one of a page that nobody used.
        assert_eq!(slots.made(96), None);
        assert_eq!(slots.used_mut(40), None);
        assert_eq!(slots.unused.len(), 1);
        slots[0] = 3;
        assert_eq!(slots.used(0), Some(&3));
    }

    #[test]
    #[should_panic(expected = "made")]
    fn a_slot_that_was_never_made_is_not_there() {
        let slots = Slots::<u8>::new(memory(1));
        let _ = slots[0];
    }
}
