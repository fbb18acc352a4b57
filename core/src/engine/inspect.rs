//! Flows whose verdict may turn on what the guest says first, and what becomes of them.
//!
//! Owns when the first bytes of a connection are looked at, and what follows. There are two reasons
//! ([`Admission`]): the address is known by a name that policy allows, and the guest has yet to say
//! that name to the server; or a name that policy denies might be said. In the first case the SYN
//! is answered before anybody is connected to; in the second the host connects first, as always,
//! the outside may speak, and only what the guest says waits. A third kind of flow is denied
//! already, and is heard only to be told so in its own words (HTTP).
//!
//! At a port where TLS is intercepted the SYN is answered first as well, and the hello is for the
//! host to answer, whatever policy says of the address by itself; there the guest speaks first, or
//! is reset, since what it says later might be a hello too. So it is where the host relays what is
//! said in the clear ([`Config::relays_http`](crate::contract::Config::relays_http)), and where
//! names are asked over TLS (RFC 7858), of which the host has the queries judged one by one.
//!
//! A flow waits for at most [`limits::TCP_LOOK_MS_MAX`](crate::limits::TCP_LOOK_MS_MAX), and its
//! bytes in its own buffer; those of a protocol that is not known do not wait at all. Only the
//! first request of a connection is read.
//!
//! A client of HTTP/2 may say no name before the server has spoken (RFC 9113 3.4). So if it has
//! greeted and is silent, the host connects where a name that leads there is allowed, and from then
//! on it is a flow of the second kind: the server speaks, and what the guest says waits for the
//! verdict. A guest gains nothing by that; it could as well have said that name.
//!
//! Where the host relays what is said in the clear it speaks HTTP/2 with the guest itself, so there
//! is nobody to wait for: on the same condition the guest is sent settings at once, and nobody is
//! connected to before the name was said, and judged. Its acknowledgement of them (RFC 9113 6.5.3)
//! is no server's; so from then on the flow is the host's to relay, or is reset.

use super::judge::{Admission, is_for_names_over_tls};
use super::{Engine, Interception, Step};
use crate::contract::{Action, Beginning, By, DenialReason, Instant, Matter};
use crate::limits::HTTP_PORT;
use crate::rule::policy::{Decision, Said, Verdict};
use crate::stack::tcp::{self, Held};
use crate::store::flows::{FlowKey, FlowKind};
use crate::store::ring::RingHandle;
use crate::wire::page;
use crate::wire::said::{self, Heard, Opening, SaidName};

/// How a connection is the host's to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// With TLS.
    Tls,
    /// In the clear.
    Clear,
}

impl<R: RingHandle> Engine<'_, R> {
    /// Begins the flow in `slot` as `admission` has it; returns what the host is to do.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        slot: u32,
        key: &FlowKey,
        admission: Admission,
    ) -> Option<Action<'static>> {
        let held = match admission {
            Admission::Connect => Held::No,
            Admission::ConnectAndHear => Held::Dialled,
            Admission::Hear => Held::Unknown,
        };
        self.tcp.hold(now, slot, held);
        if held == Held::Unknown {
            self.answer_syn(now, slot, key);
            return None;
        }
        Some(Action::Connect { flow: self.flows.id(slot), to: self.outside(key) })
    }

    /// Lets the guest's SYN be answered.
    pub(super) fn answer_syn(&mut self, now: Instant, slot: u32, key: &FlowKey) {
        let ends = tcp::ends(self.guest(key.outside), key);
        self.tcp.connected(now, slot, ends, &mut self.out);
        self.flows.needs_egress(slot);
    }

    /// Looks at what the guest has said on the flow in `slot`.
    pub(super) fn look(&mut self, now: Instant, slot: u32) -> Option<Step> {
        let (opening, is_all) = self.tcp.look(slot, said::read)?;
        if let Heard::More(wanted) = opening.heard
            && !is_all
            && self.tcp.wait_for(now, slot, wanted)
        {
            if opening.is_greeting && !self.welcome(now, slot) {
                self.tcp.note_greeting(now, slot);
            }
            let deadline = self.tcp.deadline(now, slot);
            self.timers.set(slot, deadline);
            return None;
        }
        self.conclude(now, slot, &opening)
    }

    /// The guest has had its time to say a name, or to go on behind a greeting.
    pub(super) fn give_up_looking(&mut self, now: Instant, slot: u32) -> Option<Step> {
        if self.tcp.is_left_waiting(now, slot) {
            return self.answer_greeting(now, slot);
        }
        self.conclude(now, slot, &Opening::of(Heard::More(0)))
    }

    /// Answers the guest's greeting on the flow in `slot`, where the host is to speak HTTP/2 with
    /// it and a name that leads there is allowed; true: that was done.
    fn welcome(&mut self, now: Instant, slot: u32) -> bool {
        if self.tcp.is_welcomed(slot) {
            return true;
        }
        let Some(key) = self.flows.key(slot) else { return false };
        if !self.is_relayed(&key) || is_for_names_over_tls(&key) {
            return false;
        }
        let decision = |said| self.judge(now, &key, said).decision;
        let may_be_said = decision(Said::Awaited) != Decision::Deny;
        if !may_be_said || decision(Said::Never) != Decision::Allow {
            return false;
        }
        self.flows.needs_egress(slot);
        self.tcp.welcome(slot, &said::WELCOME)
    }

    /// The guest has greeted on the flow in `slot`, and may wait for the outside to speak.
    fn answer_greeting(&mut self, now: Instant, slot: u32) -> Option<Step> {
        let key = self.flows.key(slot)?;
        let (opening, _) = self.tcp.look(slot, said::read)?;
        if opening.is_greeting && !is_for_names_over_tls(&key) {
            let decision = |said| self.judge(now, &key, said).decision;
            if decision(Said::Awaited) == Decision::Deny {
                return self.conclude(now, slot, &opening);
            }
            if decision(Said::Never) == Decision::Allow && !self.is_relayed(&key) {
                self.tcp.hold(now, slot, Held::Greeted);
                self.flows.needs_attention(slot);
                self.flows.needs_egress(slot);
                let flow = self.flows.id(slot);
                return Some(Action::Connect { flow, to: self.outside(&key) }.into());
            }
        }
        let deadline = self.tcp.deadline(now, slot);
        self.timers.set(slot, deadline);
        None
    }

    /// Does with the flow in `slot` what policy says to its first bytes.
    fn conclude(&mut self, now: Instant, slot: u32, opening: &Opening) -> Option<Step> {
        let key = self.flows.key(slot)?;
        let held = self.tcp.held(slot);
        let waited = held == Held::Unknown;
        if waited && is_for_names_over_tls(&key) {
            return self.conclude_names(now, (slot, &key), opening);
        }
        let ending = if waited { self.ending(&key, opening) } else { None };
        let name = match &opening.heard {
            Heard::Name(name) => Some(name),
            Heard::Veiled(name) if ending.is_some() => Some(name),
            Heard::Veiled(_)
            | Heard::More(_)
            | Heard::Nothing
            | Heard::Unknown
            | Heard::Malformed => None,
        };
        let mut verdict = self.judge_heard(now, &key, (&opening.heard, name));
        // Who is silent until now may go on with the very hello that was to be intercepted.
        let is_more = matches!(opening.heard, Heard::More(_));
        let is_welcomed = self.tcp.is_welcomed(slot);
        let is_late =
            ending.is_none() && (is_welcomed || (waited && self.hears_first(&key) && is_more));
        if is_late && verdict.decision == Decision::Allow {
            verdict = Verdict { decision: Decision::WaitForName, by: By::Gateway };
        }
        self.flows.needs_attention(slot);
        self.flows.needs_egress(slot);
        let is_veiled = matches!(opening.heard, Heard::Veiled(_));
        if verdict.decision == Decision::Allow {
            self.count_allowed(Matter::Tcp, verdict.by);
            self.note_heard(now, slot, verdict.by, name);
            if let Some(ending) = ending {
                let how = (ending, false);
                return Some(self.intercept(now, (slot, &key), (name, is_veiled), how));
            }
            if waited {
                self.tcp.hold(now, slot, Held::Dialling);
                let flow = self.flows.id(slot);
                return Some(Action::Connect { flow, to: self.outside(&key) }.into());
            }
            let is_connecting = held == Held::Greeted;
            self.tcp.hold(now, slot, if is_connecting { Held::Dialling } else { Held::No });
            return None;
        }
        let name = name.map(SaidName::as_str);
        self.out.counters.tcp_denied_heard += 1;
        let awaited = self.judge(now, &key, Said::Awaited).decision;
        let reason = match (awaited, name) {
            _ if is_late => DenialReason::NameUnknown,
            (Decision::WaitForName, None) => DenialReason::NameUnknown,
            (Decision::WaitForName | Decision::Allow | Decision::Deny, _) => DenialReason::Policy,
        };
        self.note_denial(now, &key, (verdict.by, reason), name);
        if waited && self.has_page_for(&key, verdict.by) {
            if ending == Some(Ending::Tls) {
                self.out.counters.deny_pages += 1;
                let name = name.and_then(|name| SaidName::try_from(name).ok());
                let (name, how) = ((name.as_ref(), is_veiled), (Ending::Tls, true));
                return Some(self.intercept(now, (slot, &key), name, how));
            }
            if let Some((method, deny)) = opening.http.zip(self.config.deny_page.as_ref()) {
                let page = page::page(deny, name, method);
                self.out.counters.deny_pages += 1;
                self.tcp.answer(now, slot, page.as_bytes());
                return None;
            }
        }
        self.out.counters.tcp_reset += 1;
        let flow = self.flows.id(slot);
        self.abort(slot);
        (!waited).then_some(Action::Reset { flow }.into())
    }

    /// Does the same with a flow on which names are to be asked over TLS. Each query is judged by
    /// itself; but nobody else is asked here, and nothing else is said.
    fn conclude_names(
        &mut self,
        now: Instant,
        (slot, key): (u32, &FlowKey),
        opening: &Opening,
    ) -> Option<Step> {
        self.flows.needs_attention(slot);
        self.flows.needs_egress(slot);
        if opening.is_hello {
            self.count_allowed(Matter::Tcp, By::Gateway);
            let name = match &opening.heard {
                Heard::Name(name) | Heard::Veiled(name) => Some(name),
                Heard::More(_) | Heard::Nothing | Heard::Unknown | Heard::Malformed => None,
            };
            return Some(self.intercept(now, (slot, key), (name, false), (Ending::Tls, false)));
        }
        self.note_denial(now, key, (By::Gateway, DenialReason::OtherNames), None);
        self.out.counters.tcp_reset += 1;
        self.abort(slot);
        None
    }

    /// How a flow of `key` that begins with `opening` is the host's to end; `None`: it is not.
    fn ending(&self, key: &FlowKey, opening: &Opening) -> Option<Ending> {
        let is_clear = !opening.is_hello && !matches!(opening.heard, Heard::More(_));
        if opening.is_hello && self.is_intercepted(key) {
            Some(Ending::Tls)
        } else if is_clear && self.is_relayed(key) {
            Some(Ending::Clear)
        } else {
            None
        }
    }

    /// The flow in `slot` said `name`, and is the host's to end.
    fn intercept(
        &mut self,
        now: Instant,
        (slot, key): (u32, &FlowKey),
        (name, is_veiled): (Option<&SaidName>, bool),
        (ending, is_denied): (Ending, bool),
    ) -> Step {
        let is_welcomed = self.tcp.is_welcomed(slot);
        self.tcp.hold(now, slot, Held::Dialling);
        self.heard = name.cloned().unwrap_or_default();
        let (flow, to, guest_port) = (self.flows.id(slot), self.outside(key), key.guest_port);
        let begins = match ending {
            Ending::Tls => Beginning::Tls,
            Ending::Clear if is_welcomed => Beginning::Welcomed,
            Ending::Clear => Beginning::Clear,
        };
        Step::Intercept(Interception { flow, to, guest_port, begins, is_veiled, is_denied })
    }

    /// The verdict on a flow of whose first bytes `heard` was heard, and `name` counts.
    fn judge_heard(
        &self,
        now: Instant,
        key: &FlowKey,
        (heard, name): (&Heard, Option<&SaidName>),
    ) -> Verdict {
        match (heard, name) {
            (_, Some(name)) => self.judge(now, key, Said::Name(name)),
            // Whoever reads it may read the very name that is denied.
            (Heard::Malformed, None) => {
                let verdict = self.judge(now, key, Said::Awaited);
                match verdict.decision {
                    Decision::WaitForName => Verdict { decision: Decision::Deny, ..verdict },
                    Decision::Allow | Decision::Deny => verdict,
                }
            }
            (
                Heard::Name(_)
                | Heard::Veiled(_)
                | Heard::Nothing
                | Heard::Unknown
                | Heard::More(_),
                None,
            ) => self.judge(now, key, self.unsaid()),
        }
    }

    /// Whether TLS on a flow of `key` ends here.
    pub(super) fn is_intercepted(&self, key: &FlowKey) -> bool {
        key.kind == FlowKind::Tcp && self.config.intercepted_ports.contains(&key.outside_port)
    }

    /// Whether what is said in the clear on a flow of `key` is the host's to relay.
    fn is_relayed(&self, key: &FlowKey) -> bool {
        let is_http = key.kind == FlowKind::Tcp && key.outside_port == HTTP_PORT;
        self.config.relays_http && (is_http || self.is_intercepted(key))
    }

    /// Whether the guest speaks first on a flow of `key`, or is reset.
    pub(super) fn hears_first(&self, key: &FlowKey) -> bool {
        self.is_intercepted(key) || self.is_relayed(key)
    }

    /// Whether a flow of `key` that is denied by `by` is answered in its own words.
    pub(super) fn has_page_for(&self, key: &FlowKey, by: By) -> bool {
        let speaks_http = key.outside_port == HTTP_PORT || self.is_intercepted(key);
        by == By::Default && speaks_http && self.config.deny_page.is_some()
    }
}
