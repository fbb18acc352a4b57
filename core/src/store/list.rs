//! Doubly linked lists of slot numbers over lent links: a flow is on each kind of list at most
//! once.

/// "No slot" at an end of a list.
const NIL: u32 = u32::MAX;
/// "Not on a list".
const OFF: u32 = u32::MAX - 1;

/// The neighbours of one slot on one kind of list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    prev: u32,
    next: u32,
}

impl Link {
    /// A slot on no list.
    pub(crate) const OFF: Self = Self { prev: OFF, next: OFF };

    /// The slot that comes after this one.
    pub(crate) const fn next(self) -> Option<u32> {
        if self.next == NIL || self.next == OFF { None } else { Some(self.next) }
    }

    pub(crate) const fn is_on(self) -> bool {
        self.next != OFF
    }
}

/// Where links live: the lists of one kind share one accessor.
pub(crate) trait Links {
    /// The links of `slot`.
    fn link(&mut self, slot: u32) -> &mut Link;
}

/// A list; the front is the oldest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct List {
    head: u32,
    tail: u32,
}

impl List {
    pub(crate) const EMPTY: Self = Self { head: NIL, tail: NIL };

    pub(crate) const fn front(&self) -> Option<u32> {
        if self.head == NIL { None } else { Some(self.head) }
    }

    pub(crate) const fn back(&self) -> Option<u32> {
        if self.tail == NIL { None } else { Some(self.tail) }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.head == NIL
    }

    /// Appends `slot`, unless it is on a list of this kind already.
    ///
    /// # Cost
    /// Constant.
    pub(crate) fn push_back(&mut self, links: &mut (impl Links + ?Sized), slot: u32) {
        let own = links.link(slot);
        if own.is_on() {
            return;
        }
        *own = Link { prev: self.tail, next: NIL };
        if self.tail == NIL {
            self.head = slot;
        } else {
            links.link(self.tail).next = slot;
        }
        self.tail = slot;
    }

    /// Puts `slot`, which is on no list of this kind, at the front.
    ///
    /// # Cost
    /// Constant.
    pub(crate) fn push_front(&mut self, links: &mut (impl Links + ?Sized), slot: u32) {
        *links.link(slot) = Link { prev: NIL, next: self.head };
        if self.head == NIL {
            self.tail = slot;
        } else {
            links.link(self.head).prev = slot;
        }
        self.head = slot;
    }

    /// Takes `slot`, which must be on this list, off it.
    ///
    /// # Cost
    /// Constant.
    pub(crate) fn remove(&mut self, links: &mut (impl Links + ?Sized), slot: u32) {
        let Link { prev, next } = core::mem::replace(links.link(slot), Link::OFF);
        if prev == NIL {
            self.head = next;
        } else {
            links.link(prev).next = next;
        }
        if next == NIL {
            self.tail = prev;
        } else {
            links.link(next).prev = prev;
        }
    }

    /// Takes the oldest slot.
    pub(crate) fn pop_front(&mut self, links: &mut (impl Links + ?Sized)) -> Option<u32> {
        let slot = self.front()?;
        self.remove(links, slot);
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Links for [Link; 4] {
        fn link(&mut self, slot: u32) -> &mut Link {
            &mut self[slot as usize]
        }
    }

    #[test]
    fn slots_leave_in_order_and_from_the_middle() {
        let mut links = [Link::OFF; 4];
        let mut list = List::EMPTY;
        for slot in 0..4 {
            list.push_back(&mut links, slot);
        }
        list.push_back(&mut links, 2); // already there: stays where it is
        list.remove(&mut links, 1);
        list.remove(&mut links, 3);
        assert!(!links[1].is_on() && links[2].is_on());
        list.push_back(&mut links, 1);
        let order: [_; 4] = core::array::from_fn(|_| list.pop_front(&mut links));
        assert_eq!(order, [Some(0), Some(2), Some(1), None]);
        assert!(list.is_empty());
        list.push_front(&mut links, 3);
        list.push_back(&mut links, 0);
        list.push_front(&mut links, 1);
        let order: [_; 4] = core::array::from_fn(|_| list.pop_front(&mut links));
        assert_eq!(order, [Some(1), Some(3), Some(0), None]);
    }
}
