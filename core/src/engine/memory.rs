//! The storage that a caller lends to an engine, and how much of it a configuration needs.

use core::mem::MaybeUninit;

use crate::contract::Config;
use crate::limits;
use crate::rule::name::has_names;
use crate::stack::datagram::DatagramSlot;
use crate::stack::tcp::{SocketCell, TcpSlot};
use crate::store::flows::{FlowSlot, FlowTable};
use crate::store::fragments::{FragmentSet, SET_BYTES};
use crate::store::names::{NameBucket, NameSlot, NameText};
use crate::store::slots::{SLOTS_PER_PAGE, SlotMemory};
use crate::store::timers::Timer;

/// All memory of an engine. The lengths are those of [`MemoryLen::of`].
///
/// Memory is touched only as flows use it, but for `index` and `fragments`, so a caller may lend
/// fresh anonymous memory and pay for what is used: an idle TCP flow touches about a page of each
/// of its two buffers.
#[allow(missing_docs, reason = "each field is described by the field of `MemoryLen` with its name")]
pub struct Memory<'a> {
    pub flows: SlotMemory<'a, FlowSlot>,
    pub flow_names: &'a mut [NameText],
    pub index: &'a mut [u32],
    pub timers: SlotMemory<'a, Timer>,
    pub tcp: SlotMemory<'a, TcpSlot<'a>>,
    pub sockets: &'a mut [MaybeUninit<SocketCell<'a>>],
    pub datagrams: SlotMemory<'a, DatagramSlot>,
    pub buffers: &'a mut [u8],
    pub fragments: &'a mut [FragmentSet],
    pub fragment_bytes: &'a mut [u8],
    pub names: SlotMemory<'a, NameSlot>,
    pub name_texts: &'a mut [NameText],
    pub name_buckets: SlotMemory<'a, NameBucket>,
    pub scratch: &'a mut [u8],
}

/// How many elements each part of [`Memory`] has; a part of slots has as many pages of
/// [`SLOTS_PER_PAGE`], and places for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLen {
    /// Pages of flow slots, of every kind; as many of timers.
    pub flows: usize,
    /// Names of flows: of each that has one.
    pub flow_names: usize,
    /// Entries of the flow index.
    pub index: usize,
    /// Pages of TCP flows.
    pub tcp: usize,
    /// Sockets of TCP flows.
    pub sockets: usize,
    /// Pages of UDP and echo flows.
    pub datagrams: usize,
    /// Bytes of all TCP buffers.
    pub buffers: usize,
    /// Datagrams under reassembly.
    pub fragments: usize,
    /// Bytes of those.
    pub fragment_bytes: usize,
    /// Pages of bindings of addresses to names: none without rules by name, unless such may come
    /// ([`Config::keeps_names`]).
    pub names: usize,
    /// A text for each binding.
    pub name_texts: usize,
    /// Pages of the index of those; a power of two.
    pub name_buckets: usize,
    /// Bytes in which the largest packet is made that finds no room, and the largest put together.
    pub scratch: usize,
}

impl MemoryLen {
    /// What `config` needs.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let [tcp, datagrams @ ..] = config.flows_max().map(|flows| flows as usize);
        let datagrams = datagrams.iter().sum::<usize>();
        let fragments = config.fragment_sets as usize;
        let keeps_names = config.keeps_names || has_names(&config.policy);
        let names = if keeps_names { limits::BINDINGS_MAX as usize } else { 0 };
        Self {
            // One timer more than there are flows: that of datagrams under reassembly.
            flows: pages(tcp + datagrams + 1),
            flow_names: tcp + datagrams,
            index: FlowTable::index_len(tcp + datagrams),
            tcp: pages(tcp),
            sockets: tcp,
            datagrams: pages(datagrams),
            buffers: tcp * (config.tcp_receive_bytes + config.tcp_send_bytes),
            fragments,
            fragment_bytes: fragments * SET_BYTES,
            names: pages(names),
            name_texts: names,
            name_buckets: if names == 0 { 0 } else { pages(names).next_power_of_two() },
            scratch: 2 * limits::FRAME_BYTES_MAX,
        }
    }
}

const fn pages(slots: usize) -> usize {
    slots.div_ceil(SLOTS_PER_PAGE)
}
