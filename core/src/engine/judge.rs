//! Whether a flow of the guest may be opened: the one place where the engine asks the policy.
//!
//! Owns how a flow becomes a question, and how often a denial is told; must not know how a flow is
//! refused. It is asked before a flow has a slot; what is open already stays so, unless its other
//! end has become this host itself.

use core::net::{IpAddr, SocketAddr};

use super::Engine;
use crate::contract::{
    DatagramKind, Denial, DenialReason, Direction, Event, FlowId, Instant, Protocol, Refusal,
};
use crate::limits;
use crate::rule::place::Site;
use crate::rule::policy::{Decision, Names, Question, Said, Verdict, evaluate};
use crate::store::flows::{FlowKey, FlowKind};
use crate::store::ring::RingHandle;

/// The denial that is to be told next, within a budget: a guest that knocks at a thousand doors a
/// second must not fill anybody's log.
#[derive(Default)]
pub(super) struct Denials {
    second: u64,
    told: u32,
    left_out: u64,
    next: Option<Denial>,
}

impl Denials {
    /// Notes one; false: it is left out.
    fn note(&mut self, now: Instant, denial: Denial) -> bool {
        let second = now.as_millis() / 1000;
        if self.second != second {
            (self.second, self.told) = (second, 0);
        }
        if self.told >= limits::DENIALS_PER_SECOND_MAX {
            self.left_out += 1;
            return false;
        }
        self.told += 1;
        self.next = Some(Denial { left_out: core::mem::take(&mut self.left_out), ..denial });
        true
    }

    /// The denial of the frame that was refused last, once.
    pub(super) fn take(&mut self) -> Option<Denial> {
        self.next.take()
    }
}

impl<R: RingHandle> Engine<'_, R> {
    /// Whether policy allows the flow of `key`; if not, that is noted. Nobody here listens for
    /// names, so a verdict that would wait for one is a denial.
    pub(super) fn is_allowed(&mut self, now: Instant, key: &FlowKey) -> bool {
        let verdict = self.judge(key);
        let reason = match verdict.decision {
            Decision::Allow => return true,
            Decision::Deny => DenialReason::Policy,
            Decision::WaitForName => DenialReason::NameUnknown,
        };
        let denial = Denial {
            protocol: protocol(key),
            guest_port: key.guest_port,
            destination: SocketAddr::new(key.outside, key.outside_port),
            group: self.site().place(key.outside).group(),
            by: verdict.by,
            reason,
            left_out: 0,
        };
        if !self.denials.note(now, denial) {
            self.out.counters.denials_left_out += 1;
        }
        false
    }

    fn judge(&self, key: &FlowKey) -> Verdict {
        let said = match key.kind {
            FlowKind::Tcp => Said::Awaited,
            FlowKind::Udp | FlowKind::Echo => Said::Never,
        };
        let question = Question {
            direction: Direction::Egress,
            protocol: protocol(key),
            address: key.outside,
            port: key.outside_port,
            names: Names { bound: &[], said },
        };
        evaluate(&self.config.policy, &self.site(), &question)
    }

    fn site(&self) -> Site<'_> {
        let link = &self.config.link;
        Site {
            gateways: [link.gateway_ipv4.into(), link.gateway_ipv6.into()],
            own: self.own_is_known.then_some(&self.config.own_addresses),
            nat64: &self.config.nat64_prefixes,
        }
    }

    /// Replaces this host's own addresses, of which those that would not be `public` anyway may be
    /// left out. `None`, or more than [`OWN_ADDRESSES_MAX`](limits::OWN_ADDRESSES_MAX): they are
    /// not known, and until they are, no rule that allows `public` matches.
    ///
    /// A flow to an address that is this host's from now on ends, where policy does not allow it to
    /// that: its datagrams, and the SYNs of a connection that is not there yet, would reach this
    /// host. The guest is told; the caller closes what is no longer [live](Self::is_live).
    ///
    /// # Cost
    /// A look at every flow. It is not for every turn.
    pub fn replace_own_addresses(&mut self, now: Instant, own: Option<&[IpAddr]>) {
        let own = own.and_then(|own| heapless::Vec::from_slice(own).ok());
        self.own_is_known = own.is_some();
        let Some(own) = own else { return };
        self.config.own_addresses = own;
        let config = &self.config;
        for slot in 0..config.tcp_flows_max + config.udp_flows_max + config.icmp_flows_max {
            if let Some(key) = self.flows.key(slot)
                && self.site().is_own(key.outside)
                && self.judge(&key).decision != Decision::Allow
            {
                self.end_denied(now, slot, &key);
            }
        }
    }

    fn end_denied(&mut self, now: Instant, slot: u32, key: &FlowKey) {
        let kind = match key.kind {
            FlowKind::Tcp => {
                let flow = self.flows.id(slot);
                return self.handle(now, Event::OutsideReset { flow });
            }
            FlowKind::Udp => DatagramKind::Udp,
            FlowKind::Echo => DatagramKind::Echo,
        };
        self.fail_datagram(now, slot, key, (kind, Refusal::Forbidden));
        self.remove(slot);
    }

    /// Whether `flow` has not ended: the host still has a socket for it, or should.
    #[must_use]
    pub fn is_live(&self, flow: FlowId) -> bool {
        self.flows.slot(flow).is_some_and(|slot| {
            slot >= self.config.tcp_flows_max
                || self.tcp.connecting(slot).is_some()
                || self.tcp.is_open(slot)
        })
    }
}

fn protocol(key: &FlowKey) -> Protocol {
    match (key.kind, key.outside) {
        (FlowKind::Tcp, _) => Protocol::Tcp,
        (FlowKind::Udp, _) => Protocol::Udp,
        (FlowKind::Echo, IpAddr::V4(_)) => Protocol::Icmpv4,
        (FlowKind::Echo, IpAddr::V6(_)) => Protocol::Icmpv6,
    }
}
