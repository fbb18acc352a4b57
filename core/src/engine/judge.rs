//! Whether a flow of the guest may be opened: the one place where the engine asks the policy.
//!
//! Owns how a flow becomes a question; must not know how a flow is refused. It is asked before a
//! flow has a slot; what is open already stays so.

use core::net::IpAddr;

use super::Engine;
use crate::contract::{Direction, Protocol};
use crate::rule::place::Site;
use crate::rule::policy::{Decision, Names, Question, Said, Verdict, evaluate};
use crate::store::flows::{FlowKey, FlowKind};
use crate::store::ring::RingHandle;

impl<R: RingHandle> Engine<'_, R> {
    /// Whether policy allows the flow of `key`. Nobody here listens for names, so a verdict that
    /// would wait for one is a denial.
    pub(super) fn is_allowed(&self, key: &FlowKey) -> bool {
        match self.judge(key).decision {
            Decision::Allow => true,
            Decision::Deny | Decision::WaitForName => false,
        }
    }

    fn judge(&self, key: &FlowKey) -> Verdict {
        let (protocol, said) = match (key.kind, key.outside) {
            (FlowKind::Tcp, _) => (Protocol::Tcp, Said::Awaited),
            (FlowKind::Udp, _) => (Protocol::Udp, Said::Never),
            (FlowKind::Echo, IpAddr::V4(_)) => (Protocol::Icmpv4, Said::Never),
            (FlowKind::Echo, IpAddr::V6(_)) => (Protocol::Icmpv6, Said::Never),
        };
        let link = &self.config.link;
        let site = Site {
            gateways: [link.gateway_ipv4.into(), link.gateway_ipv6.into()],
            own: &self.config.own_addresses,
            nat64: &self.config.nat64_prefixes,
        };
        let question = Question {
            direction: Direction::Egress,
            protocol,
            address: key.outside,
            port: key.outside_port,
            names: Names { bound: &[], said },
        };
        evaluate(&self.config.policy, &site, &question)
    }
}
