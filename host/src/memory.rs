//! The memory that an engine is lent for bytes: anonymous maps whose pages exist once they are
//! touched, and go back to the system when the engine says that they hold nothing.

use core::mem::MaybeUninit;
use core::ops::Range;
use core::ptr::NonNull;

use memmap2::{MmapMut, MmapOptions};
use rustix::mm::{Advice, madvise};
use sluicegate_core::{
    DatagramSlot, FlowSlot, FragmentSet, Memory, MemoryLen, NameBucket, NameSlot, SlotMemory,
    SlotPage, SlotPlace, SocketCell, TcpSlot, Timer, limits,
};

use crate::error::Error;

/// A map of `len` bytes, all zero.
///
/// # Errors
/// No addresses, or no memory, to be had.
pub(crate) fn map(len: usize) -> Result<MmapMut, Error> {
    // Reserving no swap lets the most flows be configured; pages exist once they are touched.
    MmapOptions::new()
        .len(len)
        .no_reserve_swap()
        .map_anon()
        .map_err(Error::machine("reserving memory for the buffers of flows"))
}

/// Memory for slots: pages that are not touched before they are used, and places for them.
struct Kept<'a, T> {
    pages: Box<[SlotPage<T>]>,
    places: Vec<SlotPlace<'a, T>>,
}

impl<'a, T> Kept<'a, T> {
    fn new(pages: usize) -> Self {
        let places = core::iter::repeat_with(|| None).take(pages).collect();
        Self { pages: Box::new_uninit_slice(pages), places }
    }

    fn lend(&'a mut self) -> SlotMemory<'a, T> {
        SlotMemory { pages: &mut self.pages, places: &mut self.places }
    }
}

/// The memory of an engine, on the heap and in an anonymous map that is touched as flows use it.
pub(crate) struct Storage<'a> {
    flows: Kept<'a, FlowSlot>,
    flow_names: Vec<u8>,
    index: Vec<u32>,
    timers: Kept<'a, Timer>,
    tcp: Kept<'a, TcpSlot<'a>>,
    sockets: Box<[MaybeUninit<SocketCell<'a>>]>,
    datagrams: Kept<'a, DatagramSlot>,
    fragments: Vec<FragmentSet>,
    names: Kept<'a, NameSlot>,
    name_texts: Vec<u8>,
    name_buckets: Kept<'a, NameBucket>,
    scratch: Vec<u8>,
}

impl<'a> Storage<'a> {
    /// As much as `len` says.
    pub(crate) fn new(len: &MemoryLen) -> Self {
        Self {
            flows: Kept::new(len.flows),
            flow_names: vec![0; len.flow_names * limits::DOMAIN_BYTES_MAX],
            index: vec![0; len.index],
            timers: Kept::new(len.flows),
            tcp: Kept::new(len.tcp),
            sockets: Box::new_uninit_slice(len.sockets),
            datagrams: Kept::new(len.datagrams),
            fragments: vec![FragmentSet::FREE; len.fragments],
            names: Kept::new(len.names),
            // Zeros, of which pages exist once they are touched.
            name_texts: vec![0; len.name_texts * limits::DOMAIN_BYTES_MAX],
            name_buckets: Kept::new(len.name_buckets),
            scratch: vec![0; len.scratch],
        }
    }

    /// All of it, with the bytes of flows and of fragments, which are maps.
    pub(crate) fn lend(
        &'a mut self,
        buffers: &'a mut [u8],
        fragment_bytes: &'a mut [u8],
    ) -> Memory<'a> {
        Memory {
            flows: self.flows.lend(),
            flow_names: self.flow_names.as_chunks_mut().0,
            index: &mut self.index,
            timers: self.timers.lend(),
            tcp: self.tcp.lend(),
            sockets: &mut self.sockets,
            datagrams: self.datagrams.lend(),
            buffers,
            fragments: &mut self.fragments,
            fragment_bytes,
            names: self.names.lend(),
            name_texts: self.name_texts.as_chunks_mut().0,
            name_buckets: self.name_buckets.lend(),
            scratch: &mut self.scratch,
        }
    }
}

/// The pages of a map whose bytes are lent to an engine.
pub(crate) struct Pages {
    base: NonNull<u8>,
    len: usize,
    page_bytes: usize,
}

impl Pages {
    /// The pages of `map`, which must live, and stay an anonymous private map, as long as this.
    pub(crate) fn of(map: &mut MmapMut) -> Self {
        let len = map.len();
        let page_bytes = rustix::param::page_size();
        Self { base: NonNull::from(&mut **map).cast(), len, page_bytes }
    }

    /// Gives the whole pages within `bytes` back. Their content is lost: at once, or, if they are
    /// soon used again, when the system needs memory before that.
    ///
    /// # Cost
    /// One system call; it takes a page some tens of nanoseconds.
    pub(crate) fn give_back(&self, bytes: Range<usize>, is_used_soon: bool) {
        let start = bytes.start.next_multiple_of(self.page_bytes);
        let end = bytes.end.min(self.len) / self.page_bytes * self.page_bytes;
        if start >= end {
            return;
        }
        let advice = if is_used_soon { Advice::LinuxFree } else { Advice::LinuxDontNeed };
        let at = self.base.as_ptr().wrapping_add(start).cast();
        // SAFETY: the range lies in the map, which is anonymous, private and still there. Its bytes
        // are lent to the engine, which has said that it reads none of them before it writes them
        // (`Action::Unused`); the driver's thread, which runs the engine too, is here meanwhile.
        #[allow(unsafe_code, reason = "the call has no safe wrapper for a part of a map")]
        let done = unsafe { madvise(at, end - start, advice) };
        if let Err(error) = done {
            // Costs memory, nothing else.
            tracing::trace!(%error, "pages were not given back");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_pages_within_the_range_are_given_back_and_no_others() {
        let page = rustix::param::page_size();
        let mut bytes = map(4 * page).unwrap();
        let pages = Pages::of(&mut bytes);
        bytes.fill(7);
        pages.give_back(1..3 * page + 1, false);
        let sums: Vec<usize> =
            bytes.chunks(page).map(|p| p.iter().map(|b| usize::from(*b)).sum()).collect();
        assert_eq!(sums, [7 * page, 0, 0, 7 * page]);
        pages.give_back(0..10, false);
        pages.give_back(3 * page..9 * page, false);
        assert_eq!((bytes[0], bytes[4 * page - 1]), (7, 0));
    }
}
