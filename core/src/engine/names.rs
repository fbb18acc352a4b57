//! What the engine says of names: may this be asked, and what of an answer may the guest have.
//!
//! Owns the order of the checks. A query goes upstream only if policy allows its name; an answer
//! goes to the guest only if it leads nowhere that it must not, and where it leads is known by its
//! name from then on. Must not know how a message came to the host, nor whom the host asks.
//!
//! The host shows every message of a flow to [`Outside::Names`](crate::contract::Outside) to
//! [`Engine::judge_query`], and every answer to [`Engine::judge_answer`].
//!
//! RFC 1035 4, RFC 6891 7, RFC 8914.

use core::net::IpAddr;

use super::Engine;
use crate::contract::{By, DenialReason, FlowId, Instant, Matter, NameRefusal, Protocol};
use crate::limits::{
    BINDING_SECONDS_MAX, BINDING_SECONDS_MIN, DNS_DATAGRAM_BYTES_MAX, DNS_DATAGRAM_BYTES_MIN,
    DNS_RECORDS_MAX, DOMAIN_BYTES_MAX,
};
use crate::rule::name::{NameQuestion, evaluate_name, is_named, may_be_answer};
use crate::rule::policy::Decision;
use crate::store::ring::RingHandle;
use crate::wire::dns::{self, Extended, Query, Unfit, kind, rcode};

/// The gateway's own names: as microsandbox-network has it, and as this program is called.
pub(super) const OWN_NAMES: [&str; 2] = ["host.microsandbox.internal", "host.sluicegate.internal"];

/// What is to be done with a query of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryStep {
    /// Ask an upstream this many bytes of the buffer, with a number of the host's own choice in
    /// place of their first two; show its answer to [`Engine::judge_answer`].
    Ask(usize),
    /// Answer with this many bytes of the buffer.
    Reply(usize),
    /// Nothing.
    Ignore,
}

/// What is wrong with an answer.
enum Fault {
    Malformed,
    Rebound,
}

/// Whether `answer` has the question of `query`, in whatever case, where that lies there.
fn repeats((asked, query): (&Query, &[u8]), answer: &[u8]) -> bool {
    let both = query.get(asked.question()).zip(answer.get(asked.question()));
    both.is_some_and(|(question, repeated)| question.eq_ignore_ascii_case(repeated))
}

impl<R: RingHandle> Engine<'_, R> {
    /// What is to be done with `query`, which the guest sent on `flow`; `out` has what is to be
    /// sent then, and has room for [`DNS_DATAGRAM_BYTES_MAX`] bytes.
    ///
    /// # Cost
    /// A pass over the query, one over the rules.
    pub fn judge_query(
        &mut self,
        now: Instant,
        (flow, query): (FlowId, &[u8]),
        out: &mut [u8],
    ) -> QueryStep {
        let asked = match dns::query(query) {
            Ok(asked) => asked,
            Err(unfit) => {
                self.out.counters.count_name_refusal(NameRefusal::Query);
                let Unfit::Code(code) = unfit else { return QueryStep::Ignore };
                return QueryStep::Reply(dns::header_alone(query, code, out));
            }
        };
        let named = (&asked, query);
        if asked.edns.is_some_and(|edns| edns.version > 0) {
            self.out.counters.count_name_refusal(NameRefusal::Query);
            return QueryStep::Reply(dns::error(named, rcode::BAD_VERSION, None, out));
        }
        let question = NameQuestion { protocol: self.protocol(flow), name: &asked.name };
        let verdict = evaluate_name(&self.config.policy, &question);
        if verdict.decision != Decision::Allow {
            self.tell_of_name(now, flow, (verdict.by, DenialReason::Policy), &asked.name);
            self.out.counters.count_name_refusal(NameRefusal::Denied);
            let denied = Some(Extended::DENIED);
            return QueryStep::Reply(dns::error(named, rcode::NAME_ERROR, denied, out));
        }
        self.count_allowed(Matter::Name, verdict.by);
        if OWN_NAMES.contains(&asked.name.as_str()) {
            return QueryStep::Reply(self.own_name(named, out));
        }
        // A zone is more than one message, and none of a guest's business.
        if matches!(asked.kind, kind::AXFR | kind::IXFR) {
            self.out.counters.count_name_refusal(NameRefusal::Transfer);
            return QueryStep::Reply(dns::error(named, rcode::REFUSED, None, out));
        }
        QueryStep::Ask(dns::upstream(named, out))
    }

    /// A name that was asked on `flow` is denied, or where it leads.
    fn tell_of_name(&mut self, now: Instant, flow: FlowId, why: (By, DenialReason), name: &str) {
        let key = self.flows.slot(flow).and_then(|slot| self.flows.key(slot));
        if let Some(key) = key {
            let denial = self.denial(&key, why);
            self.note(now, (Matter::Name, denial), Some(name));
        }
    }

    fn own_name(&self, (asked, query): (&Query, &[u8]), out: &mut [u8]) -> usize {
        let link = &self.config.link;
        let own: IpAddr = match asked.kind {
            kind::A => link.gateway_ipv4.into(),
            kind::AAAA => link.gateway_ipv6.into(),
            _ => return dns::addresses((asked, query), &[], out),
        };
        let own = [own];
        let answers = if asked.is_of(asked.kind) { own.as_slice() } else { &[] };
        dns::addresses((asked, query), answers, out)
    }

    /// What the guest gets for its `query` on `flow`, to which an upstream said `answer`; `None`:
    /// none said anything. Returns how many bytes of `out` that is, which has room for the longest
    /// message.
    ///
    /// One that is longer than the guest takes is not looked at, as the guest gets no record of it.
    ///
    /// # Cost
    /// A few passes over the answer, of which at most [`DNS_RECORDS_MAX`] records are looked at,
    /// and for each address one over the rules.
    pub fn judge_answer(
        &mut self,
        now: Instant,
        (flow, query): (FlowId, &[u8]),
        answer: Option<&[u8]>,
        out: &mut [u8],
    ) -> usize {
        let Ok(asked) = dns::query(query) else { return 0 };
        let named = (&asked, query);
        let Some(answer) = answer else {
            self.out.counters.count_name_refusal(NameRefusal::Unreachable);
            let unreachable = Some(Extended::UNREACHABLE);
            return dns::error(named, rcode::SERVER_FAILURE, unreachable, out);
        };
        let is_too_long = answer.len() > self.answer_bytes_max(flow, &asked);
        if is_too_long && repeats(named, answer) {
            return dns::truncated(named, answer, out);
        }
        match self.examine(now, named, answer) {
            Ok(()) => {}
            Err(Fault::Malformed) => {
                self.out.counters.count_name_refusal(NameRefusal::Malformed);
                let malformed = Some(Extended::MALFORMED);
                return dns::error(named, rcode::SERVER_FAILURE, malformed, out);
            }
            Err(Fault::Rebound) => {
                self.out.counters.count_name_refusal(NameRefusal::Rebinding);
                let why = (By::Gateway, DenialReason::Rebinding);
                self.tell_of_name(now, flow, why, &asked.name);
                return dns::error(named, rcode::NAME_ERROR, Some(Extended::REBOUND), out);
            }
        }
        let Some(room) = out.get_mut(..answer.len()) else { return 0 };
        room.copy_from_slice(answer);
        // The guest's own number, and its question letter by letter: it may count on their case.
        for range in [0..2, asked.question()] {
            if let Some((to, from)) = room.get_mut(range.clone()).zip(query.get(range)) {
                to.copy_from_slice(from);
            }
        }
        answer.len()
    }

    /// How long an answer the guest takes.
    fn answer_bytes_max(&self, flow: FlowId, asked: &Query) -> usize {
        let least = DNS_DATAGRAM_BYTES_MIN;
        let taken = asked.edns.map_or(least, |edns| edns.bytes_max);
        match self.protocol(flow) {
            Protocol::Udp => usize::from(taken.clamp(least, DNS_DATAGRAM_BYTES_MAX)),
            Protocol::Tcp | Protocol::Icmpv4 | Protocol::Icmpv6 => usize::MAX,
        }
    }

    fn protocol(&self, flow: FlowId) -> Protocol {
        if flow.index < self.flows.datagrams_start() { Protocol::Tcp } else { Protocol::Udp }
    }

    /// Looks at where `answer` leads, and keeps that in mind.
    fn examine(
        &mut self,
        now: Instant,
        (asked, query): (&Query, &[u8]),
        answer: &[u8],
    ) -> Result<(), Fault> {
        if !repeats((asked, query), answer) || dns::record_count(answer) > DNS_RECORDS_MAX {
            return Err(Fault::Malformed);
        }
        let (mut is_sound, mut is_rebound, mut addresses) = (true, false, 0);
        let site = self.site();
        let walked = dns::walk(answer, |record| {
            let seen = dns::addresses_of(answer, record, |address| {
                addresses += 1;
                // A record may have thousands, and one is enough to refuse them all.
                is_rebound |= self.config.rebind_protection
                    && addresses <= DNS_RECORDS_MAX
                    && !is_rebound
                    && !may_be_answer(&self.config.policy, &site, address);
            });
            is_sound &= seen.is_some();
        });
        if walked.is_none() || !is_sound || addresses > DNS_RECORDS_MAX {
            return Err(Fault::Malformed);
        }
        if is_rebound {
            return Err(Fault::Rebound);
        }
        if (asked.is_of(kind::A) || asked.is_of(kind::AAAA))
            && (self.config.keeps_names || is_named(&self.config.policy, &asked.name))
        {
            let names = &mut self.names;
            dns::resolved(answer, &asked.name, |address, seconds| {
                let seconds = seconds.clamp(BINDING_SECONDS_MIN, BINDING_SECONDS_MAX);
                names.bind(now, address, &asked.name, seconds);
            });
        }
        Ok(())
    }

    /// Which names lead to which addresses, and for how many more seconds, as far as that is kept;
    /// what was bound longest ago comes first.
    ///
    /// # Cost
    /// A step for each. It is not for every turn.
    pub fn bindings(&self, now: Instant) -> impl Iterator<Item = (IpAddr, &str, u32)> {
        self.names.all(now).map(move |(address, name, until)| {
            let left = until.as_micros().saturating_sub(now.as_micros()).div_ceil(1_000_000);
            (address, name, u32::try_from(left).unwrap_or(BINDING_SECONDS_MAX))
        })
    }

    /// Lets `name`, which is in lower case, lead to `address` as if a name server had just said so:
    /// if an answer may lead there, and names like it are kept. What it allows is still policy's to
    /// say. False: it does not.
    ///
    /// # Cost
    /// That of an answer with one address.
    pub fn bind_name(&mut self, now: Instant, name: &str, to: (IpAddr, u32)) -> bool {
        let (address, seconds) = to;
        let policy = &self.config.policy;
        let is_rebound =
            self.config.rebind_protection && !may_be_answer(policy, &self.site(), address);
        let is_kept = self.config.keeps_names || is_named(policy, name);
        let is_short = name.len() <= DOMAIN_BYTES_MAX;
        let is_bound = self.names.has_room() && is_kept && is_short && !is_rebound;
        if is_bound {
            let seconds = seconds.clamp(BINDING_SECONDS_MIN, BINDING_SECONDS_MAX);
            self.names.bind(now, address, name, seconds);
        }
        is_bound
    }
}
