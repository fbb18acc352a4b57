//! Whether a flow of the guest may be opened: the one place where the engine asks the policy.
//!
//! Owns how a flow becomes a question; must not know how a flow is refused. It is asked before a
//! flow has a slot; what is open already stays so. Names are judged when they are asked
//! (`engine/names`), so a flow for them may always be opened.
//!
//! Not done: what a guest says to a server (SNI, Host) is not read, so a rule by name is about the
//! addresses that the name was said to have, and about whatever else is there.

use core::net::IpAddr;

use super::Engine;
use crate::contract::{Direction, Instant, Protocol};
use crate::limits::{BINDINGS_PER_ADDRESS_MAX, DNS_PORT};
use crate::rule::place::Site;
use crate::rule::policy::{Decision, Names, Question, Said, Verdict, evaluate};
use crate::store::flows::{FlowKey, FlowKind};
use crate::store::ring::RingHandle;

/// Where names are asked as nobody here can judge them: over TLS or QUIC (RFC 7858, RFC 9250), of
/// all neighbours (RFC 6762, RFC 4795), and of NetBIOS (RFC 1002).
const OTHER_NAMES: [(FlowKind, u16); 5] = [
    (FlowKind::Tcp, 853),
    (FlowKind::Udp, 853),
    (FlowKind::Udp, 5353),
    (FlowKind::Udp, 5355),
    (FlowKind::Udp, 137),
];

/// Whether the gateway answers on the flow of `key` itself, names being what is asked there.
pub(super) fn is_for_names(key: &FlowKey) -> bool {
    key.kind != FlowKind::Echo && key.outside_port == DNS_PORT
}

impl<R: RingHandle> Engine<'_, R> {
    /// Whether policy allows the flow of `key`. Nobody here listens for names, so a verdict that
    /// would wait for one is a denial. Of names each is judged when it is asked.
    pub(super) fn is_allowed(&self, now: Instant, key: &FlowKey) -> bool {
        if is_for_names(key) {
            return true;
        }
        if OTHER_NAMES.contains(&(key.kind, key.outside_port)) {
            return false;
        }
        match self.judge(now, key).decision {
            Decision::Allow => true,
            Decision::Deny | Decision::WaitForName => false,
        }
    }

    fn judge(&self, now: Instant, key: &FlowKey) -> Verdict {
        // Nobody reads yet what the guest says to a server, so what its resolver said must do.
        let (protocol, said) = match (key.kind, key.outside) {
            (FlowKind::Tcp, _) => (Protocol::Tcp, Said::Never),
            (FlowKind::Udp, _) => (Protocol::Udp, Said::Never),
            (FlowKind::Echo, IpAddr::V4(_)) => (Protocol::Icmpv4, Said::Never),
            (FlowKind::Echo, IpAddr::V6(_)) => (Protocol::Icmpv6, Said::Never),
        };
        let question = Question {
            direction: Direction::Egress,
            protocol,
            address: key.outside,
            port: key.outside_port,
            names: Names { bound: &[], said },
        };
        if self.names.of(now, key.outside).next().is_none() {
            return evaluate(&self.config.policy, &self.site(), &question);
        }
        self.judge_bound(now, question)
    }

    /// The same for an address that is known by names. Apart, as their list is long.
    #[inline(never)]
    fn judge_bound(&self, now: Instant, question: Question<'_>) -> Verdict {
        let bound = self.names.of(now, question.address).take(BINDINGS_PER_ADDRESS_MAX);
        let bound: heapless::Vec<&str, BINDINGS_PER_ADDRESS_MAX> = bound.collect();
        let names = Names { bound: &bound, ..question.names };
        evaluate(&self.config.policy, &self.site(), &Question { names, ..question })
    }

    /// What is known of this place.
    pub(super) fn site(&self) -> Site<'_> {
        let link = &self.config.link;
        Site {
            gateways: [link.gateway_ipv4.into(), link.gateway_ipv6.into()],
            own: &self.config.own_addresses,
            nat64: &self.config.nat64_prefixes,
        }
    }
}
