//! What changes while the engine runs: its configuration, this host's addresses, and the end of a
//! flow that somebody asks for.
//!
//! Owns what becomes of the flows that are there. Each is judged once more, as it was when it was
//! opened: by the names that its address has now, and by the one that it was allowed by, which it
//! keeps though the guest's resolver has forgotten it since. Who would not be allowed now ends, and
//! the guest is told; who would be is not touched. A connection that had no need to say its name
//! when it was opened, and would have now, has not said it: it ends. Where TLS is intercepted from
//! now on, or no longer, counts for those that have yet to say their first bytes; of the others
//! those end that would be refused: QUIC, and names over TLS where nobody ends that any more.
//!
//! A limit of flows may be lowered, and raised again as far as memory was lent. Who is new meets
//! it as ever: a connection or an echo is refused, and those that are there stay, though they be
//! too many, until they end; datagrams to or from another end take the place of those that were
//! used least recently, so of UDP flows those go at once that are too many.

use core::net::IpAddr;

use super::Engine;
use super::judge::{is_for_names, is_for_names_over_tls, protocol};
use crate::contract::{
    By, Config, ConfigError, DatagramKind, Event, FlowId, Hits, Instant, Refusal,
};
use crate::rule::name::has_names;
use crate::rule::policy::{Decision, Names, Said, Verdict};
use crate::stack::tcp::Held;
use crate::store::flows::{FlowKey, FlowKind, Share};
use crate::store::pace::Pace;
use crate::store::ring::RingHandle;

impl<R: RingHandle> Engine<'_, R> {
    /// Lets `config` hold from now on, and ends every flow that it does not allow. The caller
    /// closes what is no longer [live](Self::is_live). This host's own addresses, the seed and what
    /// is counted stay as they are; a rate that has not changed goes on, another begins anew.
    ///
    /// # Errors
    /// A field that is out of range, or that can't change while the engine runs, since the guest
    /// was told of it, or that is more than memory was lent for. Nothing has changed then.
    ///
    /// # Cost
    /// A verdict for every flow. It is not for every turn.
    pub fn replace_config(&mut self, now: Instant, config: &Config) -> Result<(), ConfigError> {
        config.check()?;
        self.config.check_fixed(config)?;
        self.check_room(config)?;
        if has_names(&config.policy) && !self.names.has_room() {
            let expected = "without rules by name, as it began without, and keeps no names";
            return Err(ConfigError::new("policy.rules", "a rule by name", expected));
        }
        let old = &self.config;
        if old.from_guest_rate != config.from_guest_rate {
            self.pace = config.from_guest_rate.as_ref().map(|rate| Pace::new(rate, now));
        }
        if old.to_guest_rate != config.to_guest_rate {
            self.out.watch.set_pace(config.to_guest_rate.as_ref().map(|rate| Pace::new(rate, now)));
        }
        if self.config.policy != config.policy {
            // An index is another rule's from now on.
            self.hits = Hits::NONE;
        }
        self.decide_watch();
        let own_addresses = core::mem::take(&mut self.config.own_addresses);
        let (seed, keeps_names) = (self.config.seed, self.config.keeps_names);
        self.config = Config { own_addresses, seed, keeps_names, ..config.clone() };
        self.flows.set_max(config.flows_max());
        self.fragments.set_max(config.fragment_sets as usize);
        for slot in self.flows.all() {
            let Some(key) = self.flows.key(slot) else { continue };
            match self.allows_still(now, slot, &key) {
                Ok(by) => self.flows.account_mut(slot).by = by,
                Err(refusal) => self.end_refused(now, slot, &key, refusal),
            }
        }
        for share in [Share::Udp, Share::InboundUdp] {
            while self.flows.is_over(share) && self.evict_oldest(share).is_some() {}
        }
        Ok(())
    }

    /// Checks that `config` asks for no more than memory was lent for.
    fn check_room(&self, config: &Config) -> Result<(), ConfigError> {
        let [tcp, udp, echo, inbound_udp] = self.flows.lens();
        let sets = self.fragments.len() as u64;
        for (field, value, lent) in [
            ("max_connections", config.tcp_flows_max, u64::from(tcp)),
            ("max_udp_connections", config.udp_flows_max, u64::from(udp)),
            ("max_icmp_connections", config.icmp_flows_max, u64::from(echo)),
            ("max_inbound_udp_connections", config.inbound_udp_flows_max, u64::from(inbound_udp)),
            ("fragment_sets", config.fragment_sets, sets),
        ] {
            if u64::from(value) > lent {
                let value = format_args!("{value} ({lent} at the start)");
                let expected = "at most what it was at the start, for which memory was laid out; \
                                start with the most that it is ever to be, and lower it then";
                return Err(ConfigError::new(field, value, expected));
            }
        }
        Ok(())
    }

    /// Ends `flow`, and tells the guest; false: it has ended already. The caller closes what is no
    /// longer [live](Self::is_live).
    pub fn end(&mut self, now: Instant, flow: FlowId) -> bool {
        let ends = self.flows.slot(flow).and_then(|slot| Some((slot, self.flows.key(slot)?)));
        let Some((slot, key)) = ends.filter(|_| self.is_live(flow)) else { return false };
        self.end_refused(now, slot, &key, Refusal::Forbidden);
        true
    }

    /// Replaces this host's own addresses, of which those that would not be `public` anyway may be
    /// left out. `None`, or more than [`OWN_ADDRESSES_MAX`](crate::limits::OWN_ADDRESSES_MAX): they
    /// are not known, and until they are, no rule that allows `public` matches.
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
        for slot in self.flows.all() {
            if let Some(key) = self.flows.key(slot)
                && self.site().is_own(key.outside)
                && self.judge(now, &key, Said::Never).decision != Decision::Allow
            {
                self.end_refused(now, slot, &key, Refusal::Forbidden);
            }
        }
    }

    /// What allows the flow in `slot` now.
    ///
    /// # Errors
    /// How it would be refused, if it were new.
    fn allows_still(&self, now: Instant, slot: u32, key: &FlowKey) -> Result<By, Refusal> {
        let account = self.flows.account(slot);
        if let Some(peer) = account.peer {
            let ends = (peer.ip(), key.guest_port);
            let verdict = self.judge_inbound(now, protocol(key), ends);
            return allowing(verdict);
        }
        if is_for_names(key) {
            return Ok(By::Gateway);
        }
        if is_for_names_over_tls(key) {
            let is_answered = !self.config.intercepted_ports.is_empty();
            return if is_answered { Ok(By::Gateway) } else { Err(Refusal::Forbidden) };
        }
        if self.tcp.held(slot) == Held::Answered {
            return Ok(account.by); // it was denied, and is just being told so
        }
        let name = self.flows.name(slot);
        let bound = name.filter(|_| account.is_bound);
        let bound = bound.as_slice();
        if key.kind != FlowKind::Tcp {
            return self.judge_datagrams(now, key, bound).map_err(|(refusal, _)| refusal);
        }
        let awaited = self.judge_named(now, key, Names { bound, said: Said::Awaited });
        let verdict = match awaited.decision {
            // What it says is still to come, and is judged then.
            Decision::WaitForName if self.is_to_be_heard(slot) => {
                let otherwise = self.judge_named(now, key, Names { bound, said: self.unsaid() });
                let is_allowed = otherwise.decision == Decision::Allow;
                return Ok(if is_allowed { otherwise.by } else { awaited.by });
            }
            Decision::WaitForName => {
                let said = name.filter(|_| account.is_said).map_or(self.unsaid(), Said::Name);
                self.judge_named(now, key, Names { bound, said })
            }
            // It is denied as it was, and waits to be told so.
            Decision::Deny if self.is_to_be_heard(slot) && self.has_page_for(key, awaited.by) => {
                return Ok(awaited.by);
            }
            Decision::Allow | Decision::Deny => awaited,
        };
        allowing(verdict)
    }

    fn is_to_be_heard(&self, slot: u32) -> bool {
        match self.tcp.held(slot) {
            Held::Unknown | Held::Dialled | Held::Greeted => true,
            Held::No | Held::Dialling | Held::Answered => false,
        }
    }

    /// Ends the flow in `slot`; of datagrams the guest is told by `refusal`.
    fn end_refused(&mut self, now: Instant, slot: u32, key: &FlowKey, refusal: Refusal) {
        let kind = match key.kind {
            FlowKind::Tcp => {
                let flow = self.flows.id(slot);
                return self.handle(now, Event::OutsideReset { flow });
            }
            FlowKind::Udp => DatagramKind::Udp,
            FlowKind::Echo => DatagramKind::Echo,
        };
        self.fail_datagram(now, slot, key, (kind, refusal));
        self.remove(slot);
    }
}

/// What allows a flow, if `verdict` does.
fn allowing(verdict: Verdict) -> Result<By, Refusal> {
    match verdict.decision {
        Decision::Allow => Ok(verdict.by),
        Decision::Deny | Decision::WaitForName => Err(Refusal::Forbidden),
    }
}
