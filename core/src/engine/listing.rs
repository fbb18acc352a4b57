//! What is known of the flows, for who asks, and for who judges them once more.
//!
//! Owns when what is known is noted, and how it is told; must not know what follows from it.

use core::net::SocketAddr;

use super::Engine;
use super::judge::protocol;
use crate::contract::{By, Direction, FlowId, FlowInfo, FlowState, Instant};
use crate::rule::name;
use crate::store::flows::{FlowKey, FlowKind};
use crate::store::ring::RingHandle;
use crate::wire::said::SaidName;

impl<R: RingHandle> Engine<'_, R> {
    /// Every flow that there is now.
    ///
    /// # Cost
    /// A look at every slot that was ever used. It is not for every turn.
    pub fn flows(&self) -> impl Iterator<Item = FlowInfo<'_>> {
        self.flows.used().filter_map(|slot| self.flow_info(slot))
    }

    /// One of them, if it is still there.
    #[must_use]
    pub fn flow(&self, flow: FlowId) -> Option<FlowInfo<'_>> {
        self.flow_info(self.flows.slot(flow)?)
    }

    /// How many flows there are now: TCP, UDP, echo.
    #[must_use]
    pub fn flow_counts(&self) -> [u32; 3] {
        let [tcp, udp, echo, inbound_udp] = self.flows.counts();
        [tcp, udp + inbound_udp, echo]
    }

    /// Bytes that wait in the buffers of TCP flows now: those of the guest that the host has yet to
    /// take, and those for the guest that it has yet to acknowledge.
    ///
    /// # Cost
    /// That of [`flows`](Self::flows).
    pub fn buffered(&mut self) -> [u64; 2] {
        let waiting = self.flows.used().filter_map(|slot| self.tcp.waiting(slot));
        waiting.fold([0; 2], |sum, (from, to)| [sum[0] + from as u64, sum[1] + to as u64])
    }

    /// The names by which the guest may mean the flow's other end: the one it said, if that leads
    /// there, and none if it said another; where it said none, all that lead there.
    ///
    /// # Cost
    /// One hash, and a step for each name of the address.
    pub fn names_meant(&self, now: Instant, flow: FlowId) -> impl Iterator<Item = &str> {
        let slot = self.flows.slot(flow);
        let known = slot.and_then(|slot| Some((slot, self.flows.key(slot)?)));
        known.into_iter().flat_map(move |(slot, key)| {
            let account = self.flows.account(slot);
            let said = self.flows.name(slot).filter(|_| account.is_said && account.is_bound);
            let bound = (!account.is_said).then(|| self.names.of(now, key.outside));
            said.into_iter().chain(bound.into_iter().flatten())
        })
    }

    /// The name of the flow's other end, where there is no doubt: the only one of
    /// [`names_meant`](Self::names_meant).
    #[must_use]
    pub fn sure_name(&self, now: Instant, flow: FlowId) -> Option<&str> {
        let mut meant = self.names_meant(now, flow);
        let first = meant.next()?;
        meant.next().is_none().then_some(first)
    }

    /// Whether somebody else may look for where `name` leads, in place of the flow's own address: a
    /// rule about that name allowed the flow. What was allowed for its address is allowed for that
    /// alone, and the name may lead elsewhere for who asks other name servers.
    #[must_use]
    pub fn is_allowed_by_name(&self, flow: FlowId, name: &str) -> bool {
        let by = self.flows.slot(flow).map(|slot| self.flows.account(slot).by);
        by.is_some_and(|by| name::is_by(&self.config.policy, by, name))
    }

    fn flow_info(&self, slot: u32) -> Option<FlowInfo<'_>> {
        let key = self.flows.key(slot)?;
        let account = self.flows.account(slot);
        let state = match key.kind {
            FlowKind::Tcp => self.tcp.state(slot),
            FlowKind::Udp | FlowKind::Echo => FlowState::Open,
        };
        Some(FlowInfo {
            id: self.flows.id(slot),
            protocol: protocol(&key),
            direction: if account.peer.is_some() { Direction::Ingress } else { Direction::Egress },
            guest: SocketAddr::new(self.guest(key.outside), key.guest_port),
            outside: SocketAddr::new(key.outside, key.outside_port),
            peer: account.peer,
            name: self.flows.name(slot),
            state,
            by: account.by,
            opened: account.opened,
            from_guest_bytes: account.from_guest_bytes,
            to_guest_bytes: account.to_guest_bytes,
        })
    }

    /// Notes that the guest opened the flow in `slot`, which `by` allows: with the name that its
    /// address is known by, first of all one that the rule is about.
    pub(super) fn note_opened(&mut self, now: Instant, slot: u32, key: &FlowKey, by: By) {
        let account = self.flows.account_mut(slot);
        (account.opened, account.by) = (now, by);
        let mut bound = self.names.of(now, key.outside);
        let Some(first) = bound.next() else { return };
        let is_meant = |bound: &&str| name::is_by(&self.config.policy, by, bound);
        let meant = core::iter::once(first).chain(bound).find(is_meant).unwrap_or(first);
        self.flows.set_name(slot, meant);
        self.flows.account_mut(slot).is_bound = true;
    }

    /// Notes that the flow in `slot` was allowed by what it said.
    pub(super) fn note_heard(&mut self, now: Instant, slot: u32, by: By, said: Option<&SaidName>) {
        self.flows.account_mut(slot).by = by;
        let Some((said, key)) = said.zip(self.flows.key(slot)) else { return };
        let is_bound = self.is_bound(now, key.outside, said);
        self.flows.set_name(slot, said);
        let account = self.flows.account_mut(slot);
        (account.is_said, account.is_bound) = (true, is_bound);
    }
}
