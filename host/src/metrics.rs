//! Counters that others may read while the driver runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use sluicegate_core::{Counters, Drop, Instant};

use crate::histogram::Histogram;
use crate::rings::Rings;

/// What the driver publishes: one number a counter, written by it alone.
#[derive(Debug, Default)]
pub(crate) struct Published {
    drops: [AtomicU64; Drop::ALL.len()],
    /// Flows that there are: TCP, UDP, echo.
    flows: [AtomicU32; 3],
    /// Bytes in buffers of TCP flows when somebody asked last: from the guest, to it.
    buffered: [AtomicU64; 2],
    frames_from_guest: AtomicU64,
    tcp_opened: AtomicU64,
    tcp_refused: AtomicU64,
    tcp_reset: AtomicU64,
    tcp_denied_heard: AtomicU64,
    inbound_opened: AtomicU64,
    udp_opened: AtomicU64,
    icmp_opened: AtomicU64,
    udp_evicted: AtomicU64,
    denials_left_out: AtomicU64,
    dhcp_answered: AtomicU64,
    dhcpv6_answered: AtomicU64,
    leases_given_up: AtomicU64,
    router_advertisements: AtomicU64,
    icmp_errors_heeded: AtomicU64,
    /// Turns of the driver's loop: an idle guest causes none.
    pub(crate) driver_turns: AtomicU64,
    /// Sockets that the host would not open or connect, by lack of descriptors, ports or memory.
    pub(crate) host_exhausted: AtomicU64,
    /// Datagrams, on their way through a proxy or back, that there was no room for.
    pub(crate) relay_full: AtomicU64,
    /// Queries of the guest that were more than a turn takes.
    pub(crate) names_full: AtomicU64,
    /// What the adapter dropped, counted by the VMM's thread.
    pub(crate) adapter_drops: AdapterDrops,
    pub(crate) times: Times,
}

/// How much time there is from `began` to `now`.
pub(crate) fn since(began: Instant, now: Instant) -> Duration {
    Duration::from_micros(now.as_micros().saturating_sub(began.as_micros()))
}

/// How long others took.
#[derive(Debug, Default)]
pub(crate) struct Times {
    /// From the host's connect to its success.
    pub(crate) connect: Histogram,
    /// From a query to its answer.
    pub(crate) names: Histogram,
    /// From the guest's hello to the end of its handshake.
    pub(crate) tls: Histogram,
}

/// Frames that an adapter dropped, by reason.
#[derive(Debug, Default)]
pub(crate) struct AdapterDrops {
    /// From the guest: the ring had no room in time.
    pub(crate) ring_full: AtomicU64,
    /// From the guest: without a whole virtio header, or with nothing behind it.
    pub(crate) short: AtomicU64,
    /// From the guest: longer than any link's frame. To the guest: longer than its buffers.
    pub(crate) too_long: AtomicU64,
}

impl Published {
    /// Notes how much waits in the buffers of TCP flows.
    pub(crate) fn publish_buffered(&self, bytes: [u64; 2]) {
        for (to, from) in self.buffered.iter().zip(bytes) {
            to.store(from, Ordering::Relaxed);
        }
    }

    /// Copies the engine's counters, and how many flows it has.
    pub(crate) fn publish(&self, counters: &Counters, flows: [u32; 3]) {
        for (to, from) in self.flows.iter().zip(flows) {
            to.store(from, Ordering::Relaxed);
        }
        for (to, from) in self.drops.iter().zip(counters.drops) {
            to.store(from, Ordering::Relaxed);
        }
        for (to, from) in [
            (&self.frames_from_guest, counters.frames_from_guest),
            (&self.tcp_opened, counters.tcp_opened),
            (&self.tcp_refused, counters.tcp_refused),
            (&self.tcp_reset, counters.tcp_reset),
            (&self.tcp_denied_heard, counters.tcp_denied_heard),
            (&self.inbound_opened, counters.inbound_opened),
            (&self.udp_opened, counters.udp_opened),
            (&self.icmp_opened, counters.icmp_opened),
            (&self.udp_evicted, counters.udp_evicted),
            (&self.denials_left_out, counters.denials_left_out),
            (&self.dhcp_answered, counters.dhcp_answered),
            (&self.dhcpv6_answered, counters.dhcpv6_answered),
            (&self.leases_given_up, counters.leases_given_up),
            (&self.router_advertisements, counters.router_advertisements),
            (&self.icmp_errors_heeded, counters.icmp_errors_heeded),
        ] {
            to.store(from, Ordering::Relaxed);
        }
    }
}

/// How full a ring of frames is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RingFill {
    /// Frames that wait; one of up to 64 KiB that is yet to be cut counts as one.
    pub frames: u64,
    /// Bytes that those take.
    pub bytes: usize,
    /// Bytes that there are.
    pub capacity_bytes: usize,
}

/// Reads a network's counters, from any thread, also after the network is gone.
#[derive(Clone)]
pub struct MetricsHandle {
    rings: Arc<Rings>,
    pub(crate) published: Arc<Published>,
}

impl MetricsHandle {
    pub(crate) fn new(rings: Arc<Rings>, published: Arc<Published>) -> Self {
        Self { rings, published }
    }

    /// Ethernet bytes from the guest, without a virtio header, counted when they are accepted.
    #[must_use]
    pub fn tx_bytes(&self) -> u64 {
        self.rings.from_guest.bytes_accepted()
    }

    /// Ethernet bytes to the guest, without a virtio header, counted when they are accepted.
    #[must_use]
    pub fn rx_bytes(&self) -> u64 {
        self.rings.to_guest.bytes_accepted()
    }

    /// How many flows there are, by protocol, as of the driver's last turn.
    #[must_use]
    pub fn flow_counts(&self) -> [(&'static str, u32); 3] {
        let [tcp, udp, icmp] = &self.published.flows;
        [("tcp", tcp), ("udp", udp), ("icmp", icmp)]
            .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
    }

    /// What is in the rings now: frames from the guest, and to it.
    #[must_use]
    pub fn ring_fill(&self) -> [(&'static str, RingFill); 2] {
        [("from_guest", &self.rings.from_guest), ("to_guest", &self.rings.to_guest)].map(
            |(name, ring)| {
                let (bytes, frames) = ring.waiting();
                (name, RingFill { frames, bytes, capacity_bytes: ring.capacity() })
            },
        )
    }

    /// Bytes that waited in the buffers of TCP flows when
    /// [`ControlHandle::measure`](crate::ControlHandle::measure) was called last: those that the
    /// host had yet to take of the guest's, and those for the guest that it had yet to acknowledge.
    /// Telling takes a look at every flow, so it is done for who asks.
    #[must_use]
    pub fn buffered_bytes(&self) -> [(&'static str, u64); 2] {
        let [from, to] = &self.published.buffered;
        [("from_guest", from), ("to_guest", to)]
            .map(|(name, bytes)| (name, bytes.load(Ordering::Relaxed)))
    }

    /// Every counter by name, as of the driver's last turn. Drops are `drop_` and their reason.
    #[must_use]
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let p = &self.published;
        let mut all = vec![
            ("tx_bytes", self.tx_bytes()),
            ("rx_bytes", self.rx_bytes()),
            ("frames_from_guest", read(&p.frames_from_guest)),
            ("frames_to_guest", self.rings.to_guest.frames_accepted()),
            ("tcp_opened", read(&p.tcp_opened)),
            ("tcp_refused", read(&p.tcp_refused)),
            ("tcp_reset", read(&p.tcp_reset)),
            ("udp_opened", read(&p.udp_opened)),
            ("udp_evicted", read(&p.udp_evicted)),
            ("icmp_opened", read(&p.icmp_opened)),
            ("tcp_denied_heard", read(&p.tcp_denied_heard)),
            ("inbound_opened", read(&p.inbound_opened)),
            ("denials_left_out", read(&p.denials_left_out)),
            ("dhcp_answered", read(&p.dhcp_answered)),
            ("dhcpv6_answered", read(&p.dhcpv6_answered)),
            ("leases_given_up", read(&p.leases_given_up)),
            ("router_advertisements", read(&p.router_advertisements)),
            ("icmp_errors_heeded", read(&p.icmp_errors_heeded)),
            ("host_exhausted", read(&p.host_exhausted)),
            ("relay_full", read(&p.relay_full)),
            ("names_full", read(&p.names_full)),
            ("adapter_ring_full", read(&p.adapter_drops.ring_full)),
            ("adapter_short", read(&p.adapter_drops.short)),
            ("adapter_too_long", read(&p.adapter_drops.too_long)),
            ("driver_turns", read(&p.driver_turns)),
        ];
        all.extend(
            Drop::ALL.iter().zip(&p.drops).map(|(reason, count)| (drop_name(*reason), read(count))),
        );
        all
    }
}

fn drop_name(reason: Drop) -> &'static str {
    match reason {
        Drop::Truncated => "drop_truncated",
        Drop::TooLong => "drop_too_long",
        Drop::SourceMac => "drop_source_mac",
        Drop::DestinationMac => "drop_destination_mac",
        Drop::SourceAddress => "drop_source_address",
        Drop::DestinationAddress => "drop_destination_address",
        Drop::Checksum => "drop_checksum",
        Drop::Malformed => "drop_malformed",
        Drop::Unsupported => "drop_unsupported",
        Drop::Fragment => "drop_fragment",
        Drop::HopLimit => "drop_hop_limit",
        Drop::Port => "drop_port",
        Drop::NoFlow => "drop_no_flow",
        Drop::Redundant => "drop_redundant",
        Drop::Doubtful => "drop_doubtful",
        Drop::IcmpError => "drop_icmp_error",
        Drop::FlowsFull => "drop_flows_full",
        Drop::Denied => "drop_denied",
        Drop::RingFull => "drop_ring_full",
        Drop::Offload => "drop_offload",
        Drop::OtherServer => "drop_other_server",
        Drop::AnswerLost => "drop_answer_lost",
    }
}
