//! Flows whose verdict may turn on what the guest says first, and what becomes of them.
//!
//! Owns when the first bytes of a connection are looked at, and what follows. There are two reasons
//! ([`Admission`]): the address is known by a name that policy allows, and the guest has yet to say
//! that name to the server; or a name that policy denies might be said. In the first case the SYN
//! is answered before anybody is connected to; in the second the host connects first, as always,
//! the outside may speak, and only what the guest says waits. A third kind of flow is denied
//! already, and is heard only to be told so in its own words (HTTP).
//!
//! A flow waits for at most [`limits::TCP_LOOK_MS_MAX`](crate::limits::TCP_LOOK_MS_MAX), and its
//! bytes in its own buffer; those of a protocol that is not known do not wait at all. Only the
//! first request of a connection is read.

use super::Engine;
use super::judge::Admission;
use crate::contract::{Action, By, DenialReason, Instant};
use crate::limits::HTTP_PORT;
use crate::rule::policy::{Decision, Said, Verdict};
use crate::stack::tcp::{self, Held};
use crate::store::flows::FlowKey;
use crate::store::ring::RingHandle;
use crate::wire::page;
use crate::wire::said::{self, Heard, Opening};

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
    pub(super) fn look(&mut self, now: Instant, slot: u32) -> Option<Action<'static>> {
        let (opening, is_all) = self.tcp.look(slot, said::read)?;
        if let Heard::More(wanted) = opening.heard
            && !is_all
            && self.tcp.wait_for(now, slot, wanted)
        {
            let deadline = self.tcp.deadline(now, slot);
            self.timers.set(slot, deadline);
            return None;
        }
        self.conclude(now, slot, &opening)
    }

    /// The guest has had its time to say a name.
    pub(super) fn give_up_looking(&mut self, now: Instant, slot: u32) -> Option<Action<'static>> {
        self.conclude(now, slot, &Opening { heard: Heard::More(0), http: None })
    }

    /// Does with the flow in `slot` what policy says to its first bytes.
    fn conclude(&mut self, now: Instant, slot: u32, opening: &Opening) -> Option<Action<'static>> {
        let key = self.flows.key(slot)?;
        let flow = self.flows.id(slot);
        let verdict = self.judge_heard(now, &key, &opening.heard);
        let held = self.tcp.held(slot);
        self.flows.needs_attention(slot);
        self.flows.needs_egress(slot);
        if verdict.decision == Decision::Allow {
            if held == Held::Unknown {
                self.tcp.hold(now, slot, Held::Dialling);
                return Some(Action::Connect { flow, to: self.outside(&key) });
            }
            self.tcp.hold(now, slot, Held::No);
            return None;
        }
        let name = match &opening.heard {
            Heard::Name(name) => Some(name.as_str()),
            Heard::More(_) | Heard::Nothing | Heard::Unknown | Heard::Malformed => None,
        };
        self.out.counters.tcp_denied_heard += 1;
        let awaited = self.judge(now, &key, Said::Awaited).decision;
        let reason = match (awaited, name) {
            (Decision::WaitForName, None) => DenialReason::NameUnknown,
            (Decision::WaitForName | Decision::Allow | Decision::Deny, _) => DenialReason::Policy,
        };
        self.note_denial(now, &key, (verdict.by, reason), name);
        if let Some(method) = opening.http.filter(|_| held == Held::Unknown)
            && self.has_page_for(&key, verdict.by)
            && let Some(deny) = &self.config.deny_page
        {
            let page = page::page(deny, name, method);
            self.tcp.answer(now, slot, page.as_bytes());
            return None;
        }
        self.out.counters.tcp_reset += 1;
        self.abort(slot);
        (held == Held::Dialled).then_some(Action::Reset { flow })
    }

    /// The verdict on a flow of whose first bytes `heard` was heard.
    fn judge_heard(&self, now: Instant, key: &FlowKey, heard: &Heard) -> Verdict {
        match heard {
            Heard::Name(name) => self.judge(now, key, Said::Name(name)),
            Heard::Nothing | Heard::Unknown | Heard::More(_) => self.judge(now, key, self.unsaid()),
            // Whoever reads it may read the very name that is denied.
            Heard::Malformed => {
                let verdict = self.judge(now, key, Said::Awaited);
                match verdict.decision {
                    Decision::WaitForName => Verdict { decision: Decision::Deny, ..verdict },
                    Decision::Allow | Decision::Deny => verdict,
                }
            }
        }
    }

    /// Whether a flow of `key` that is denied by `by` is answered in its own words.
    pub(super) fn has_page_for(&self, key: &FlowKey, by: By) -> bool {
        by == By::Default && key.outside_port == HTTP_PORT && self.config.deny_page.is_some()
    }
}
