//! What the engine counted: drops, refusals and denials by reason, verdicts by what they were
//! about, and what became of flows. Each list has a fixed length, whatever the guest says.

use super::{By, DenialReason, Drop, NameRefusal, Refusal};
use crate::limits::POLICY_RULES_MAX;

/// What a verdict is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
pub enum Matter {
    /// A connection of the guest's.
    Tcp,
    /// Datagrams of the guest's to one end.
    Udp,
    /// Pings of the guest's to one address.
    Icmp,
    /// A name that the guest asks for, and then where it leads.
    Name,
    /// Somebody outside at a published port.
    Inbound,
}

impl Matter {
    /// Every one, in the order of the counters.
    pub const ALL: [Self; 5] = [Self::Tcp, Self::Udp, Self::Icmp, Self::Name, Self::Inbound];
}

/// Counts since the engine began. Plain numbers: the host publishes copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Frames of the guest that were read from the ring.
    pub frames_from_guest: u64,
    /// Guest frames that went no further, in the order of [`Drop::ALL`].
    pub drops: [u64; Drop::ALL.len()],
    /// What was allowed, in the order of [`Matter::ALL`]: once a flow, a name or a peer. Of a
    /// connection whose verdict turns on what it says first, once it has said that.
    pub allowed: [u64; Matter::ALL.len()],
    /// What was denied, likewise; told ([`Action::Denied`](super::Action::Denied)) or not.
    pub denied: [u64; Matter::ALL.len()],
    /// The same by reason, in the order of [`DenialReason::ALL`].
    pub denials: [u64; DenialReason::ALL.len()],
    /// Flows that the outside, or this host, would not have though policy would, and datagrams that
    /// went no further; in the order of [`Refusal::NAMES`].
    pub refusals: [u64; Refusal::NAMES.len()],
    /// Queries that had an error for an answer, or none, in the order of [`NameRefusal::ALL`].
    pub name_refusals: [u64; NameRefusal::ALL.len()],
    /// Denied connections that were told so in HTTP's words, in the clear or inside TLS.
    pub deny_pages: u64,
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
    /// Datagrams for the guest that answer nothing: their flow had ended, or they are too short for
    /// an echo reply.
    pub answers_stray: u64,
    /// ICMP errors that the guest was not sent, as it had had its share of the second.
    pub icmp_errors_left_out: u64,
    /// Datagrams in pieces that gave way to newer ones, as too many were under way.
    pub pieces_full: u64,
    /// Datagrams of which a piece did not come in time.
    pub pieces_late: u64,
    /// Records that a capture has no room for: its reader is slow.
    pub capture_lost: u64,
    /// Denials that were too many to be told ([`Action::Denied`](super::Action::Denied)).
    pub denials_left_out: u64,
}

impl Counters {
    pub(crate) fn count_drop(&mut self, reason: Drop) {
        self.count_drops(reason, 1);
    }

    pub(crate) fn count_drops(&mut self, reason: Drop, frames: u64) {
        if let Some(count) = self.drops.get_mut(reason as usize) {
            *count += frames;
        }
    }

    pub(crate) fn count_allowed(&mut self, matter: Matter) {
        self.allowed[matter as usize] += 1;
    }

    pub(crate) fn count_denied(&mut self, matter: Matter, reason: DenialReason) {
        self.denied[matter as usize] += 1;
        self.denials[reason as usize] += 1;
    }

    pub(crate) fn count_refusal(&mut self, refusal: Refusal) {
        self.refusals[refusal.index()] += 1;
    }

    pub(crate) fn count_name_refusal(&mut self, refusal: NameRefusal) {
        self.name_refusals[refusal as usize] += 1;
    }

    /// How many guest frames were dropped for `reason`.
    #[must_use]
    pub fn dropped(&self, reason: Drop) -> u64 {
        self.drops.get(reason as usize).copied().unwrap_or(0)
    }
}

/// How often each part of a policy decided: once for each verdict that [`Counters`] counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hits {
    rules: [u64; POLICY_RULES_MAX],
    default: u64,
    platform: u64,
    gateway: u64,
}

impl Hits {
    /// Nothing has decided yet.
    pub(crate) const NONE: Self =
        Self { rules: [0; POLICY_RULES_MAX], default: 0, platform: 0, gateway: 0 };

    pub(crate) fn count(&mut self, by: By) {
        let count = match by {
            By::Rule(index) => self.rules.get_mut(usize::from(index)),
            By::Default => Some(&mut self.default),
            By::Platform => Some(&mut self.platform),
            By::Gateway => Some(&mut self.gateway),
        };
        if let Some(count) = count {
            *count += 1;
        }
    }

    /// Those of the first `rules` rules in their order, then of what decides beside rules.
    pub(crate) fn of(&self, rules: usize) -> impl Iterator<Item = (By, u64)> {
        let rules = (0..).map(By::Rule).zip(self.rules.iter().copied().take(rules));
        rules.chain([
            (By::Default, self.default),
            (By::Platform, self.platform),
            (By::Gateway, self.gateway),
        ])
    }
}
