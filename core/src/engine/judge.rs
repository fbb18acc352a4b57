//! Whether a flow of the guest may be opened: the one place where the engine asks the policy.
//!
//! Owns how a flow becomes a question, and how often a denial is told; must not know how a flow is
//! refused. It is asked before a flow has a slot, and once more of a connection that was to say
//! first whom it is for (`engine/inspect`); what is open already stays so, unless its other end has
//! become this host itself. Names are judged when they are asked (`engine/names`), so a flow for
//! them may always be opened.
//!
//! What a datagram says to a server is not read. At the port of QUIC a name is said where nobody
//! here can read it, so an allow by name alone does not hold there (`strict`); elsewhere the names
//! of its address count.

use core::net::{IpAddr, SocketAddr};

use super::Engine;
use super::names::OWN_NAMES;
use crate::contract::{
    By, Denial, DenialReason, Direction, FlowId, Instant, Matter, Protocol, Refusal,
};
use crate::limits::{self, BINDINGS_PER_ADDRESS_MAX, DNS_OVER_TLS_PORT, DNS_PORT, HTTPS_PORT};
use crate::rule::place::Site;
use crate::rule::policy::{Decision, Names, Question, Said, Verdict, evaluate};
use crate::store::flows::{FlowKey, FlowKind};
use crate::store::ring::RingHandle;
use crate::wire::said::SaidName;

/// The denial that is to be told next, within a budget: a guest that knocks at a thousand doors a
/// second must not fill anybody's log.
#[derive(Default)]
pub(super) struct Denials {
    second: u64,
    told: u32,
    left_out: u64,
    next: Option<Denial>,
    /// The name that was said on the flow of the last denial; empty: none.
    name: SaidName,
}

/// How a connection begins that policy does not deny outright.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// The host connects, then the guest's SYN is answered.
    Connect,
    /// The same, but what the guest says first may end it.
    ConnectAndHear,
    /// The SYN is answered; what the guest says first decides whether the host connects.
    Hear,
}

impl Denials {
    /// Notes one; false: it is left out.
    fn note(&mut self, now: Instant, denial: Denial, name: Option<&str>) -> bool {
        let second = now.as_millis() / 1000;
        if self.second != second {
            (self.second, self.told) = (second, 0);
        }
        // One that nobody was told of yet is not to be lost for another.
        if self.told >= limits::DENIALS_PER_SECOND_MAX || self.next.is_some() {
            self.left_out += 1;
            return false;
        }
        self.told += 1;
        self.name.clear();
        // It is as long as a name can be.
        let _ = self.name.push_str(name.unwrap_or(""));
        self.next = Some(Denial { left_out: core::mem::take(&mut self.left_out), ..denial });
        true
    }

    /// The name that was said on the flow of the denial that was taken last.
    pub(super) fn name(&self) -> Option<&str> {
        Some(self.name.as_str()).filter(|name| !name.is_empty())
    }

    /// The denial of what was refused last, once.
    pub(super) fn take(&mut self) -> Option<Denial> {
        self.next.take()
    }
}

/// Where names are asked as nobody here can judge them: over TLS or QUIC (RFC 7858, RFC 9250), of
/// all neighbours (RFC 6762, RFC 4795), and of NetBIOS (RFC 1002). Where the host ends TLS, it can
/// have them judged that are asked over TLS.
const OTHER_NAMES: [(FlowKind, u16); 5] = [
    (FlowKind::Tcp, DNS_OVER_TLS_PORT),
    (FlowKind::Udp, DNS_OVER_TLS_PORT),
    (FlowKind::Udp, 5353),
    (FlowKind::Udp, 5355),
    (FlowKind::Udp, 137),
];

/// Whether the gateway answers on the flow of `key` itself, names being what is asked there.
pub(super) fn is_for_names(key: &FlowKey) -> bool {
    key.kind != FlowKind::Echo && key.outside_port == DNS_PORT
}

/// Whether names are asked on the flow of `key` over TLS.
pub(super) fn is_for_names_over_tls(key: &FlowKey) -> bool {
    key.kind == FlowKind::Tcp && key.outside_port == DNS_OVER_TLS_PORT
}

impl<R: RingHandle> Engine<'_, R> {
    /// How a connection of `key` begins, and by what; `None`: policy denies it, which is noted.
    pub(super) fn admission(&mut self, now: Instant, key: &FlowKey) -> Option<(Admission, By)> {
        if is_for_names(key) {
            return Some((Admission::Connect, By::Gateway));
        }
        if is_for_names_over_tls(key) && !self.config.intercepted_ports.is_empty() {
            return Some((Admission::Hear, By::Gateway));
        }
        if OTHER_NAMES.contains(&(key.kind, key.outside_port)) {
            self.note_denial(now, key, (By::Gateway, DenialReason::OtherNames), None);
            return None;
        }
        let verdict = self.judge(now, key, Said::Awaited);
        let hears_first = self.hears_first(key);
        let admission = match verdict.decision {
            Decision::Allow | Decision::WaitForName if hears_first => Admission::Hear,
            Decision::Allow => Admission::Connect,
            Decision::WaitForName => {
                let otherwise = self.judge(now, key, self.unsaid());
                if otherwise.decision == Decision::Allow {
                    return Some((Admission::ConnectAndHear, otherwise.by));
                }
                Admission::Hear
            }
            Decision::Deny if self.has_page_for(key, verdict.by) => Admission::Hear,
            Decision::Deny => {
                self.note_denial(now, key, (verdict.by, DenialReason::Policy), None);
                return None;
            }
        };
        Some((admission, verdict.by))
    }

    /// What allows a datagram flow of `key`.
    ///
    /// # Errors
    /// How it is refused, which is noted.
    pub(super) fn admit_datagrams(&mut self, now: Instant, key: &FlowKey) -> Result<By, Refusal> {
        let (refusal, denied) = match self.judge_datagrams(now, key, &[]) {
            Ok(by) => {
                self.count_allowed(matter(protocol(key)), by);
                return Ok(by);
            }
            Err(denied) => denied,
        };
        self.note_denial(now, key, denied, None);
        Err(refusal)
    }

    /// What allows a datagram flow of `key`, whose address `bound` leads to as well; else how it is
    /// refused, and why.
    pub(super) fn judge_datagrams(
        &self,
        now: Instant,
        key: &FlowKey,
        bound: &[&str],
    ) -> Result<By, (Refusal, (By, DenialReason))> {
        if is_for_names(key) {
            return Ok(By::Gateway);
        }
        let is_quic = key.kind == FlowKind::Udp
            && self.config.refuses_quic
            && self.config.intercepted_ports.contains(&key.outside_port);
        let denied = if is_quic {
            (By::Gateway, DenialReason::Quic)
        } else if OTHER_NAMES.contains(&(key.kind, key.outside_port)) {
            (By::Gateway, DenialReason::OtherNames)
        } else {
            let is_quic = key.kind == FlowKind::Udp && key.outside_port == HTTPS_PORT;
            let said = if is_quic { self.unsaid() } else { Said::Never };
            let verdict = self.judge_named(now, key, Names { bound, said });
            match verdict.decision {
                Decision::Allow => return Ok(verdict.by),
                Decision::Deny => (verdict.by, DenialReason::Policy),
                Decision::WaitForName => (verdict.by, DenialReason::NameUnknown),
            }
        };
        // As by a closed port: browsers then take TCP at once.
        Err((if is_quic { Refusal::Refused } else { Refusal::Forbidden }, denied))
    }

    /// What counts as said where nothing was that can be read.
    pub(super) fn unsaid(&self) -> Said<'static> {
        Said::Withheld { strict: self.config.strict }
    }

    /// Notes that the flow of `key`, which said `name`, is denied.
    pub(super) fn note_denial(
        &mut self,
        now: Instant,
        key: &FlowKey,
        (by, reason): (By, DenialReason),
        name: Option<&str>,
    ) {
        let denial = self.denial(key, (by, reason));
        self.note(now, (matter(denial.protocol), denial), name);
    }

    /// That the flow of `key`, or what was asked on it, is denied.
    pub(super) fn denial(&self, key: &FlowKey, (by, reason): (By, DenialReason)) -> Denial {
        Denial {
            direction: Direction::Egress,
            protocol: protocol(key),
            guest_port: key.guest_port,
            destination: SocketAddr::new(key.outside, key.outside_port),
            group: self.site().place(key.outside).group(),
            by,
            reason,
            left_out: 0,
        }
    }

    /// Counts that `by` allowed what is of `matter`.
    pub(super) fn count_allowed(&mut self, matter: Matter, by: By) {
        self.out.counters.count_allowed(matter);
        self.hits.count(by);
    }

    /// How often each rule decided, in their order, then what else decides: once for each verdict
    /// that [`Counters`](crate::Counters) counts, since this policy began to hold.
    pub fn hits(&self) -> impl Iterator<Item = (By, u64)> {
        self.hits.of(self.config.policy.rules().len())
    }

    /// Counts `denial`, which is of `matter`, and notes it, to be told.
    pub(super) fn note(
        &mut self,
        now: Instant,
        (matter, denial): (Matter, Denial),
        name: Option<&str>,
    ) {
        self.out.counters.count_denied(matter, denial.reason);
        self.hits.count(denial.by);
        if !self.denials.note(now, denial, name) {
            self.out.counters.denials_left_out += 1;
        }
    }

    /// The verdict on a flow of `key` on which `said` was said.
    pub(super) fn judge(&self, now: Instant, key: &FlowKey, said: Said<'_>) -> Verdict {
        self.judge_named(now, key, Names { bound: &[], said })
    }

    /// The same for one whose address the names of `names` lead to as well.
    pub(super) fn judge_named(&self, now: Instant, key: &FlowKey, names: Names<'_>) -> Verdict {
        let question = Question {
            direction: Direction::Egress,
            protocol: protocol(key),
            address: key.outside,
            port: key.outside_port,
            names,
        };
        self.answer(now, question)
    }

    /// The answer to `question`, with the names that its address is known by.
    pub(super) fn answer(&self, now: Instant, question: Question<'_>) -> Verdict {
        if self.names.of(now, question.address).next().is_none() {
            return evaluate(&self.config.policy, &self.site(), &question);
        }
        self.judge_bound(now, question)
    }

    /// Whether the gateway has told the guest that `name` leads to `address`, and that still
    /// counts; of its own names and addresses it always does. `name` is in lower case, without a
    /// dot at its end.
    #[must_use]
    pub fn is_bound(&self, now: Instant, address: IpAddr, name: &str) -> bool {
        self.bound_names(now, address).any(|bound| bound == name)
    }

    /// The names of which [`is_bound`](Self::is_bound) says so.
    ///
    /// # Cost
    /// A step for each.
    pub fn bound_names(&self, now: Instant, address: IpAddr) -> impl Iterator<Item = &str> {
        let is_own = self.site().gateways.contains(&address);
        let own = OWN_NAMES.into_iter().filter(move |_| is_own);
        own.chain(self.names.of(now, address))
    }

    /// The same for an address that is known by names. Apart, as their list is long.
    #[inline(never)]
    fn judge_bound(&self, now: Instant, question: Question<'_>) -> Verdict {
        let known = question.names.bound.iter().copied();
        let bound = known.chain(self.names.of(now, question.address));
        let bound: heapless::Vec<&str, BINDINGS_PER_ADDRESS_MAX> =
            bound.take(BINDINGS_PER_ADDRESS_MAX).collect();
        let names = Names { bound: &bound, ..question.names };
        evaluate(&self.config.policy, &self.site(), &Question { names, ..question })
    }

    /// What is known of this place.
    pub(super) fn site(&self) -> Site<'_> {
        let link = &self.config.link;
        Site {
            gateways: [link.gateway_ipv4.into(), link.gateway_ipv6.into()],
            own: self.own_is_known.then_some(&self.config.own_addresses),
            nat64: &self.config.nat64_prefixes,
        }
    }

    /// Whether `flow` has not ended: the host still has a socket for it, or should.
    #[must_use]
    pub fn is_live(&self, flow: FlowId) -> bool {
        self.flows.slot(flow).is_some_and(|slot| {
            slot >= self.flows.datagrams_start()
                || self.tcp.connecting(slot).is_some()
                || self.tcp.is_open(slot)
        })
    }
}

/// What a verdict on a flow of the guest's is about.
fn matter(protocol: Protocol) -> Matter {
    match protocol {
        Protocol::Tcp => Matter::Tcp,
        Protocol::Udp => Matter::Udp,
        Protocol::Icmpv4 | Protocol::Icmpv6 => Matter::Icmp,
    }
}

pub(super) fn protocol(key: &FlowKey) -> Protocol {
    match (key.kind, key.outside) {
        (FlowKind::Tcp, _) => Protocol::Tcp,
        (FlowKind::Udp, _) => Protocol::Udp,
        (FlowKind::Echo, IpAddr::V4(_)) => Protocol::Icmpv4,
        (FlowKind::Echo, IpAddr::V6(_)) => Protocol::Icmpv6,
    }
}
