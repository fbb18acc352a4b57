//! What the engine counted: drops by reason, and what became of flows.

use super::Drop;

/// Counts since the engine began. Plain numbers: the host publishes copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Frames of the guest that were read from the ring.
    pub frames_from_guest: u64,
    /// Guest frames that went no further, in the order of [`Drop::ALL`].
    pub drops: [u64; Drop::ALL.len()],
    /// TCP flows that the guest opened (a SYN that policy and capacity allowed).
    pub tcp_opened: u64,
    /// TCP flows that the outside did not accept.
    pub tcp_refused: u64,
    /// TCP flows that ended with a reset from either side or from a timer.
    pub tcp_reset: u64,
    /// UDP flows that were opened.
    pub udp_opened: u64,
    /// Echo flows that were opened.
    pub icmp_opened: u64,
    /// UDP flows that made room for a newer one before their time.
    pub udp_evicted: u64,
    /// Connections that were accepted to hear whom they are for, and then denied.
    pub tcp_denied_heard: u64,
    /// Answers to DHCP clients, refusals (NAK) included.
    pub dhcp_answered: u64,
    /// Answers to DHCPv6 clients.
    pub dhcpv6_answered: u64,
    /// Times that a client gave its address up (RELEASE) or found it taken (DECLINE), in either
    /// family.
    pub leases_given_up: u64,
    /// Router advertisements.
    pub router_advertisements: u64,
    /// Flows that somebody outside opened at a published port.
    pub inbound_opened: u64,
    /// ICMP errors of the guest's that ended what somebody outside had opened, or shortened the
    /// segments of a connection.
    pub icmp_errors_heeded: u64,
    /// Denials that were too many to be told ([`Action::Denied`](super::Action::Denied)).
    pub denials_left_out: u64,
}

impl Counters {
    pub(crate) fn count_drop(&mut self, reason: Drop) {
        if let Some(count) = self.drops.get_mut(reason as usize) {
            *count += 1;
        }
    }

    /// How many guest frames were dropped for `reason`.
    #[must_use]
    pub fn dropped(&self, reason: Drop) -> u64 {
        self.drops.get(reason as usize).copied().unwrap_or(0)
    }
}
