//! The other side of the engine: what the host says of its sockets, and the bytes that it takes and
//! gives.
//!
//! Owns what an event does to a flow, and where a flow goes; must not know policy.

use core::net::SocketAddr;

use super::{Engine, judge};
use crate::contract::{DatagramKind, Event, FlowId, Instant, Outside, Refusal};
use crate::stack::tcp::Held;
use crate::store::flows::{FlowKey, FlowKind};
use crate::store::ring::RingHandle;

impl<R: RingHandle> Engine<'_, R> {
    /// Takes note of what happened outside.
    ///
    /// # Cost
    /// Constant.
    pub fn handle(&mut self, now: Instant, event: Event) {
        let flow = match event {
            Event::Connected { flow }
            | Event::ConnectFailed { flow, .. }
            | Event::OutsideFinished { flow }
            | Event::OutsideReset { flow }
            | Event::DatagramFailed { flow, .. } => flow,
        };
        let Some(slot) = self.flows.slot(flow) else { return };
        let Some(key) = self.flows.key(slot) else { return };
        match (event, key.kind) {
            (Event::Connected { .. }, FlowKind::Tcp) if self.tcp.held(slot) == Held::Dialling => {
                self.tcp.hold(now, slot, Held::No);
                self.flows.needs_attention(slot);
            }
            (Event::Connected { .. }, FlowKind::Tcp) if self.tcp.held(slot) == Held::Greeted => {
                self.tcp.hold(now, slot, Held::Dialled);
                self.flows.needs_attention(slot);
            }
            (Event::Connected { .. }, FlowKind::Tcp) => self.answer_syn(now, slot, &key),
            (Event::ConnectFailed { refusal, .. }, FlowKind::Tcp) => {
                self.refuse(now, slot, &key, refusal);
            }
            (Event::OutsideFinished { .. }, FlowKind::Tcp) => {
                self.tcp.outside_finished(now, slot);
                self.flows.needs_attention(slot);
                self.flows.needs_egress(slot);
            }
            (Event::OutsideReset { .. }, FlowKind::Tcp) if self.tcp.connecting(slot).is_some() => {
                self.refuse(now, slot, &key, Refusal::Refused);
            }
            // What lingers has ended in order, whatever the host sees afterwards.
            (Event::OutsideReset { .. }, FlowKind::Tcp) if !self.tcp.is_open(slot) => {}
            (Event::OutsideReset { .. }, FlowKind::Tcp) => {
                self.out.counters.tcp_reset += 1;
                // What came before the reset goes before it, as far as the guest takes it.
                self.tcp.egress(now, (slot, u32::MAX), &mut self.out);
                self.abort(slot);
            }
            (Event::DatagramFailed { refusal, .. }, FlowKind::Udp) => {
                self.out.counters.count_refusal(refusal);
                self.fail_datagram(now, slot, &key, (DatagramKind::Udp, refusal));
            }
            (Event::DatagramFailed { refusal, .. }, FlowKind::Echo) => {
                self.out.counters.count_refusal(refusal);
                self.fail_datagram(now, slot, &key, (DatagramKind::Echo, refusal));
            }
            (
                Event::Connected { .. }
                | Event::ConnectFailed { .. }
                | Event::OutsideFinished { .. }
                | Event::OutsideReset { .. },
                FlowKind::Udp | FlowKind::Echo,
            )
            | (Event::DatagramFailed { .. }, FlowKind::Tcp) => {}
        }
    }

    /// The host could not connect: the guest sees why.
    fn refuse(&mut self, now: Instant, slot: u32, key: &FlowKey, refusal: Refusal) {
        let syn = self.tcp.connecting(slot);
        let is_answered = matches!(self.tcp.held(slot), Held::Dialling | Held::Greeted);
        if syn.is_some() || is_answered {
            self.out.counters.tcp_refused += 1;
            self.out.counters.count_refusal(refusal);
        }
        // What is accepted already, as a name was to be heard, can only be reset.
        let Some(syn) = syn else {
            if is_answered {
                self.abort(slot);
            }
            return;
        };
        match refusal {
            Refusal::Refused | Refusal::Exhausted | Refusal::Expired | Refusal::TooBig { .. } => {
                self.reset_syn(key, syn.seq());
            }
            Refusal::HostUnreachable
            | Refusal::NetUnreachable
            | Refusal::TimedOut
            | Refusal::Forbidden => {
                let quote = self.quote_syn(key, syn.seq());
                self.out.icmp_error(now, refusal, &quote);
            }
        }
        self.tcp.forget(slot);
        self.remove(slot);
    }

    /// Lets `take` have bytes of the guest, as [`Action::Send`](crate::Action::Send) announced: the
    /// oldest that lie in one piece. It returns how many it took, and must not be called again once
    /// it took none. `None`: there are no more.
    ///
    /// # Cost
    /// No copy.
    pub fn take_from_guest(
        &mut self,
        now: Instant,
        flow: FlowId,
        take: impl FnOnce(&[u8]) -> usize,
    ) -> Option<usize> {
        let slot = self.tcp_slot(flow)?;
        let taken = self.tcp.take(now, slot, take)?;
        if taken > 0 {
            self.flows.account_mut(slot).from_guest_bytes += taken as u64;
            self.flows.needs_attention(slot);
            self.flows.needs_egress(slot);
        }
        Some(taken)
    }

    /// Lets `give` write bytes for the guest into free space, as much as lies in one piece; it
    /// returns how many it wrote. `None`: no space; [`Action::Receive`](crate::Action::Receive)
    /// will say when.
    ///
    /// # Cost
    /// No copy.
    pub fn give_to_guest(
        &mut self,
        flow: FlowId,
        give: impl FnOnce(&mut [u8]) -> usize,
    ) -> Option<usize> {
        let slot = self.tcp_slot(flow)?;
        let given = self.tcp.give(slot, give)?;
        if given > 0 {
            self.flows.account_mut(slot).to_guest_bytes += given as u64;
            self.flows.needs_egress(slot);
        }
        Some(given)
    }

    pub(super) fn tcp_slot(&self, flow: FlowId) -> Option<u32> {
        self.flows.slot(flow).filter(|slot| *slot < self.flows.datagrams_start())
    }

    /// Where the flow of `key` goes.
    pub(super) fn outside(&self, key: &FlowKey) -> Outside {
        let address = SocketAddr::new(key.outside, key.outside_port);
        let link = &self.config.link;
        if judge::is_for_names(key) || judge::is_for_names_over_tls(key) {
            Outside::Names(address)
        } else if address.ip() == link.gateway_ipv4 || address.ip() == link.gateway_ipv6 {
            Outside::HostLoopback(address)
        } else {
            Outside::Remote(address)
        }
    }
}
