//! The memory that an engine is lent, and the configuration that most tests use.

use core::mem::MaybeUninit;
use core::net::{Ipv4Addr, Ipv6Addr};

use sluicegate_core::limits;
use sluicegate_core::{
    Config, DatagramSlot, FlowSlot, FragmentSet, Link, Memory, MemoryLen, NameBucket, NameSlot,
    Permission, Policy, SlotMemory, SlotPage, SlotPlace, SocketCell, TcpSlot, Timer,
};

use crate::World;

/// A small engine that allows everything: buffers of 64 KiB, a link of 1500 bytes.
#[must_use]
pub fn default_config() -> Config {
    Config {
        link: Link {
            guest_mac: [0x02, 0x6d, 0x73, 0, 0, 2],
            gateway_mac: [0x02, 0x6d, 0x73, 0, 0, 1],
            guest_ipv4: Ipv4Addr::new(100, 96, 0, 2),
            gateway_ipv4: Ipv4Addr::new(100, 96, 0, 1),
            guest_ipv6: Ipv6Addr::new(0xfd42, 0x6d73, 0x62, 0, 0, 0, 0, 2),
            gateway_ipv6: Ipv6Addr::new(0xfd42, 0x6d73, 0x62, 0, 0, 0, 0, 1),
            mtu: limits::MTU_BYTES_DEFAULT,
            receive_frame_bytes: limits::RECEIVE_FRAME_BYTES_DEFAULT,
        },
        tcp_flows_max: 16,
        udp_flows_max: 16,
        icmp_flows_max: 8,
        inbound_udp_flows_max: 16,
        inbound_tcp_flows_max: u32::MAX,
        tcp_receive_bytes: 64 * 1024,
        tcp_send_bytes: 64 * 1024,
        fragment_sets: 4,
        policy: Policy::new(Permission::Allow, Permission::Allow),
        strict: true,
        deny_page: None,
        intercepted_ports: Default::default(),
        relays_http: false,
        refuses_quic: true,
        keeps_names: false,
        rebind_protection: true,
        own_addresses: Default::default(),
        nat64_prefixes: Default::default(),
        from_guest_rate: None,
        to_guest_rate: None,
        autoconf: None,
        seed: *b"a seed of sixtee",
    }
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

/// Everything that one world borrows.
pub struct Room<'a> {
    pub(crate) config: Config,
    pub(crate) ring_bytes: usize,
    flows: Kept<'a, FlowSlot>,
    flow_names: Vec<u8>,
    index: Vec<u32>,
    timers: Kept<'a, Timer>,
    tcp: Kept<'a, TcpSlot<'a>>,
    sockets: Box<[MaybeUninit<SocketCell<'a>>]>,
    datagrams: Kept<'a, DatagramSlot>,
    buffers: Vec<u8>,
    fragments: Vec<FragmentSet>,
    fragment_bytes: Vec<u8>,
    names: Kept<'a, NameSlot>,
    name_texts: Vec<u8>,
    name_buckets: Kept<'a, NameBucket>,
    scratch: Vec<u8>,
}

impl<'a> Room<'a> {
    /// The policy of its engine.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.config.policy
    }

    /// Memory for an engine of `config`.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let len = MemoryLen::of(&config);
        Self {
            config,
            ring_bytes: 512 * 1024,
            flows: Kept::new(len.flows),
            flow_names: vec![0; len.flow_names * limits::DOMAIN_BYTES_MAX],
            index: vec![0; len.index],
            timers: Kept::new(len.flows),
            tcp: Kept::new(len.tcp),
            sockets: Box::new_uninit_slice(len.sockets),
            datagrams: Kept::new(len.datagrams),
            buffers: vec![0; len.buffers],
            fragments: vec![FragmentSet::FREE; len.fragments],
            fragment_bytes: vec![0; len.fragment_bytes],
            names: Kept::new(len.names),
            name_texts: vec![0; len.name_texts * limits::DOMAIN_BYTES_MAX],
            name_buckets: Kept::new(len.name_buckets),
            scratch: vec![0; len.scratch],
        }
    }

    /// Memory for an engine of the [`default_config`].
    #[must_use]
    pub fn plain() -> Self {
        Self::new(default_config())
    }

    /// Memory for an engine of the [`default_config`] after `change`.
    #[must_use]
    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = default_config();
        change(&mut config);
        Self::new(config)
    }

    /// Rings of `bytes` bytes each way.
    #[must_use]
    pub fn with_rings(mut self, bytes: usize) -> Self {
        self.ring_bytes = bytes;
        self
    }

    /// The world in this room.
    pub fn world(&'a mut self) -> World<'a> {
        World::new(self)
    }

    pub(crate) fn lend(&'a mut self) -> Memory<'a> {
        Memory {
            flows: self.flows.lend(),
            flow_names: self.flow_names.as_chunks_mut().0,
            index: &mut self.index,
            timers: self.timers.lend(),
            tcp: self.tcp.lend(),
            sockets: &mut self.sockets,
            datagrams: self.datagrams.lend(),
            buffers: &mut self.buffers,
            fragments: &mut self.fragments,
            fragment_bytes: &mut self.fragment_bytes,
            names: self.names.lend(),
            name_texts: self.name_texts.as_chunks_mut().0,
            name_buckets: self.name_buckets.lend(),
            scratch: &mut self.scratch,
        }
    }
}
