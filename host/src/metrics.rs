//! Counters that others may read while the driver runs.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sluicegate_core::{By, Counters, DenialReason, Drop, Instant, Matter, NameRefusal, Refusal};

use crate::histogram::Histogram;
use crate::rings::Rings;

/// What the driver publishes: one number a counter, written by it alone.
#[derive(Debug, Default)]
pub(crate) struct Published {
    drops: [AtomicU64; Drop::ALL.len()],
    allowed: [AtomicU64; Matter::ALL.len()],
    denied: [AtomicU64; Matter::ALL.len()],
    denials: [AtomicU64; DenialReason::ALL.len()],
    refusals: [AtomicU64; Refusal::NAMES.len()],
    name_refusals: [AtomicU64; NameRefusal::ALL.len()],
    deny_pages: AtomicU64,
    /// Flows that there are: TCP, UDP, echo.
    flows: [AtomicU32; 3],
    /// Bytes in buffers of TCP flows when somebody asked last: from the guest, to it.
    buffered: [AtomicU64; 2],
    hits: Mutex<Vec<(By, u64)>>,
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
    icmp_errors_left_out: AtomicU64,
    answers_stray: AtomicU64,
    pieces_full: AtomicU64,
    pieces_late: AtomicU64,
    capture_lost: AtomicU64,
    /// Turns of the driver's loop: an idle guest causes none.
    pub(crate) driver_turns: AtomicU64,
    /// Sockets that the host would not open or connect, by lack of descriptors, ports or memory.
    pub(crate) host_exhausted: AtomicU64,
    /// Datagrams, on their way through a proxy or back, that there was no room for.
    pub(crate) relay_full: AtomicU64,
    /// Datagrams that were to go through a proxy, or came that way, and did not get there.
    pub(crate) relay_lost: AtomicU64,
    /// Datagrams of the guest that this host's socket, or its link, had no room for.
    pub(crate) socket_full: AtomicU64,
    /// Answers of the guest to who came to a published port by datagram, which the host refused.
    pub(crate) answers_refused: AtomicU64,
    /// Queries of the guest that were more than a turn takes.
    pub(crate) names_full: AtomicU64,
    /// Queries of the guest that were not asked, as too many were under way.
    pub(crate) names_busy: AtomicU64,
    /// Queries of the guest that were longer than any.
    pub(crate) names_too_long: AtomicU64,
    /// Streams on which names are asked that gave way to newer ones.
    pub(crate) name_streams_full: AtomicU64,
    /// Streams of HTTP/2 that were refused, as a network had as many as it may.
    pub(crate) http_streams_full: AtomicU64,
    pub(crate) incidents: Incidents,
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
    /// To the guest: its link had no room, or nobody was there.
    pub(crate) link_full: AtomicU64,
    /// From the guest: without a whole virtio header, or with nothing, or less than a frame has,
    /// behind it.
    pub(crate) short: AtomicU64,
    /// From the guest: longer than any link's frame. To the guest: longer than its buffers.
    pub(crate) too_long: AtomicU64,
}

/// What went no further on intercepted connections, told or not, counted by their tasks.
#[derive(Debug, Default)]
pub(crate) struct Incidents {
    pub(crate) secret: AtomicU64,
    pub(crate) authority: AtomicU64,
    pub(crate) server: AtomicU64,
}

impl Published {
    /// What is copied of the engine's, list by list.
    fn lists(&self) -> [&[AtomicU64]; 6] {
        let Self { drops, allowed, denied, denials, refusals, name_refusals, .. } = self;
        [drops, allowed, denied, denials, refusals, name_refusals]
    }

    /// Notes how much waits in the buffers of TCP flows.
    pub(crate) fn publish_buffered(&self, bytes: [u64; 2]) {
        for (to, from) in self.buffered.iter().zip(bytes) {
            to.store(from, Ordering::Relaxed);
        }
    }

    /// Notes how often each part of the policy has decided.
    pub(crate) fn publish_hits(&self, hits: impl Iterator<Item = (By, u64)>) {
        let mut list = self.hits.lock().unwrap_or_else(PoisonError::into_inner);
        list.clear();
        list.extend(hits);
    }

    /// Copies the engine's counters, and how many flows it has.
    pub(crate) fn publish(&self, counters: &Counters, flows: [u32; 3]) {
        for (to, from) in self.flows.iter().zip(flows) {
            to.store(from, Ordering::Relaxed);
        }
        for (to, from) in self.lists().into_iter().zip(lists(counters)) {
            for (to, from) in to.iter().zip(from) {
                to.store(*from, Ordering::Relaxed);
            }
        }
        for (to, from) in [
            (&self.deny_pages, counters.deny_pages),
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
            (&self.icmp_errors_left_out, counters.icmp_errors_left_out),
            (&self.answers_stray, counters.answers_stray),
            (&self.pieces_full, counters.pieces_full),
            (&self.pieces_late, counters.pieces_late),
            (&self.capture_lost, counters.capture_lost),
        ] {
            to.store(from, Ordering::Relaxed);
        }
    }
}

/// The engine's lists of counters, in the order of [`Published::lists`].
fn lists(counters: &Counters) -> [&[u64]; 6] {
    let Counters { drops, allowed, denied, denials, refusals, name_refusals, .. } = counters;
    [drops, allowed, denied, denials, refusals, name_refusals]
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

    /// How often each rule decided, in their order, and what else decides (the default, a tenant's
    /// platform, the gateway itself), when
    /// [`ControlHandle::measure`](crate::ControlHandle::measure) was called last: once a flow, a
    /// name or a peer, of those that the verdicts count. They begin anew with another policy, whose
    /// rules are others.
    #[must_use]
    pub fn rule_hits(&self) -> Vec<(By, u64)> {
        self.published.hits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every counter by name, as of the driver's last turn. Drops are `drop_` and their reason,
    /// refusals `refusal_`, denials `denial_`, names that were not resolved `name_refusal_`,
    /// incidents `incident_`; verdicts are `verdict_allow_` or `verdict_deny_` and what they were
    /// about.
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
            ("deny_pages", read(&p.deny_pages)),
            ("dhcp_answered", read(&p.dhcp_answered)),
            ("dhcpv6_answered", read(&p.dhcpv6_answered)),
            ("leases_given_up", read(&p.leases_given_up)),
            ("router_advertisements", read(&p.router_advertisements)),
            ("icmp_errors_heeded", read(&p.icmp_errors_heeded)),
            ("icmp_errors_left_out", read(&p.icmp_errors_left_out)),
            ("answers_stray", read(&p.answers_stray)),
            ("answers_refused", read(&p.answers_refused)),
            ("pieces_full", read(&p.pieces_full)),
            ("pieces_late", read(&p.pieces_late)),
            ("capture_lost", read(&p.capture_lost)),
            ("host_exhausted", read(&p.host_exhausted)),
            ("socket_full", read(&p.socket_full)),
            ("relay_full", read(&p.relay_full)),
            ("relay_lost", read(&p.relay_lost)),
            ("names_full", read(&p.names_full)),
            ("names_busy", read(&p.names_busy)),
            ("names_too_long", read(&p.names_too_long)),
            ("name_streams_full", read(&p.name_streams_full)),
            ("http_streams_full", read(&p.http_streams_full)),
            ("incident_secret", read(&p.incidents.secret)),
            ("incident_authority", read(&p.incidents.authority)),
            ("incident_server", read(&p.incidents.server)),
            ("adapter_ring_full", read(&p.adapter_drops.ring_full)),
            ("adapter_link_full", read(&p.adapter_drops.link_full)),
            ("adapter_short", read(&p.adapter_drops.short)),
            ("adapter_too_long", read(&p.adapter_drops.too_long)),
            ("driver_turns", read(&p.driver_turns)),
        ];
        for (names, counts) in LISTS.iter().zip(p.lists()) {
            all.extend(names.iter().copied().zip(counts.iter().map(read)));
        }
        all
    }
}

/// What the lists of the engine's counters are called, in the order of [`lists`].
const LISTS: [&[&str]; 6] = [
    &[
        "drop_truncated",
        "drop_too_long",
        "drop_source_mac",
        "drop_destination_mac",
        "drop_source_address",
        "drop_destination_address",
        "drop_checksum",
        "drop_malformed",
        "drop_unsupported",
        "drop_fragment",
        "drop_hop_limit",
        "drop_port",
        "drop_no_flow",
        "drop_redundant",
        "drop_no_ack",
        "drop_duplicate",
        "drop_out_of_window",
        "drop_early",
        "drop_doubtful",
        "drop_icmp_error",
        "drop_flows_full",
        "drop_denied",
        "drop_ring_full",
        "drop_offload",
        "drop_other_server",
        "drop_answer_lost",
    ],
    &[
        "verdict_allow_tcp",
        "verdict_allow_udp",
        "verdict_allow_icmp",
        "verdict_allow_name",
        "verdict_allow_inbound",
    ],
    &[
        "verdict_deny_tcp",
        "verdict_deny_udp",
        "verdict_deny_icmp",
        "verdict_deny_name",
        "verdict_deny_inbound",
    ],
    &[
        "denial_policy",
        "denial_name_unknown",
        "denial_other_names",
        "denial_quic",
        "denial_rebinding",
    ],
    &[
        "refusal_refused",
        "refusal_host_unreachable",
        "refusal_net_unreachable",
        "refusal_timed_out",
        "refusal_forbidden",
        "refusal_too_big",
        "refusal_expired",
        "refusal_exhausted",
    ],
    &[
        "name_refusal_denied",
        "name_refusal_rebinding",
        "name_refusal_transfer",
        "name_refusal_query",
        "name_refusal_unreachable",
        "name_refusal_malformed",
    ],
];

#[cfg(test)]
mod tests {
    use super::*;

    /// What [`drops.md`](../src/drops.md) says of places and counters is so.
    #[test]
    fn whatever_goes_no_further_has_a_counter() {
        let handle = MetricsHandle::new(Arc::new(Rings::new()), Arc::default());
        let names: Vec<&str> = handle.counters().into_iter().map(|(name, _)| name).collect();
        let mut counted = std::collections::BTreeSet::new();
        for row in include_str!("drops.md").lines().filter(|row| row.contains(".rs` `")) {
            let cells: Vec<&str> = row.split('|').collect();
            let [_, _, place, counters, _] = cells[..] else { panic!("{row}") };
            let words: Vec<&str> = place.split('`').skip(1).step_by(2).collect();
            let [path, function] = words[..] else { panic!("{row}") };
            let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../");
            let source = std::fs::read_to_string(format!("{root}{path}")).unwrap();
            assert!(source.contains(&format!("{function}(")), "{row}");
            for counter in counters.split('`').skip(1).step_by(2) {
                let is_it = |name: &&&str| match counter.strip_suffix('*') {
                    Some(prefix) => name.starts_with(prefix),
                    None => **name == counter,
                };
                let found: Vec<&str> = names.iter().filter(is_it).copied().collect();
                assert!(!found.is_empty(), "{row}");
                counted.extend(found);
            }
        }
        // The others count what goes on.
        let is_loss = |name: &&&str| {
            ["drop_", "adapter_", "denial_", "refusal_", "incident_", "names_", "relay_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
                || ["_full", "_lost", "_late", "_left_out", "_refused"]
                    .iter()
                    .any(|suffix| name.ends_with(suffix))
        };
        for name in names.iter().filter(is_loss) {
            assert!(counted.contains(name), "{name} is in no row");
        }
    }

    /// That each counter is called by what it counts, and is copied to its place.
    #[test]
    fn each_counter_of_a_list_has_its_own_name() {
        let (rings, published) = (Arc::new(Rings::new()), Arc::<Published>::default());
        let mut counters = Counters::default();
        let mut next = 1000;
        for list in [
            &mut counters.drops[..],
            &mut counters.allowed,
            &mut counters.denied,
            &mut counters.denials,
            &mut counters.refusals,
            &mut counters.name_refusals,
        ] {
            list.fill_with(|| {
                next += 1;
                next
            });
        }
        published.publish(&counters, [0; 3]);
        let read = MetricsHandle::new(rings, published).counters();
        let value = |name: &str| read.iter().find(|(known, _)| *known == name).unwrap().1;
        for reason in Drop::ALL {
            assert_eq!(value(&format!("drop_{}", reason.name())), counters.dropped(reason));
        }
        for (index, kind) in ["tcp", "udp", "icmp", "name", "inbound"].iter().enumerate() {
            assert_eq!(value(&format!("verdict_allow_{kind}")), counters.allowed[index]);
            assert_eq!(value(&format!("verdict_deny_{kind}")), counters.denied[index]);
        }
        for reason in DenialReason::ALL {
            let counted = counters.denials[reason as usize];
            assert_eq!(value(&format!("denial_{}", reason.name())), counted);
        }
        for (name, counted) in Refusal::NAMES.iter().zip(counters.refusals) {
            assert_eq!(value(&format!("refusal_{name}")), counted);
        }
        for reason in NameRefusal::ALL {
            let name = format!("{reason:?}").to_lowercase();
            let counted = counters.name_refusals[reason as usize];
            assert_eq!(value(&format!("name_refusal_{name}")), counted);
        }
        let mut names: Vec<&str> = read.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), read.len(), "two of one name");
    }
}
