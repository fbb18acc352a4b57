//! Flows that somebody outside opens, at a port that the host publishes.
//!
//! Owns how a peer becomes a flow of the guest's: policy is asked about the peer itself, and the
//! guest sees the gateway, at a port of its own for each flow. From there on an inbound flow is one
//! like any other: the same bytes, actions and timers. A connection to a port where the guest does
//! not listen is [`Action::Reset`](crate::Action::Reset); one that the guest does not answer is
//! that after [`limits::TCP_HALF_OPEN_MS_MAX`].

use core::hash::Hasher;
use core::net::{IpAddr, SocketAddr};

use siphasher::sip::SipHasher13;

use super::Engine;
use crate::contract::{
    By, DatagramKind, Denial, DenialReason, Direction, Drop, FlowId, Instant, Matter, Protocol,
    Refusal,
};
use crate::limits::{self, GATEWAY_PORTS};
use crate::rule::policy::{Decision, Names, Question, Said, Verdict};
use crate::stack::datagram::DatagramSlot;
use crate::stack::tcp;
use crate::store::flows::{FlowKey, FlowKind, Share};
use crate::store::ring::RingHandle;
use crate::store::slots::Slot;
use crate::wire::classify::Segment;

/// Ports that are tried for one flow: where so many in a row are taken, the guest has enough.
const PORTS_TRIED_MAX: u32 = 64;

/// Somebody outside who wants to reach the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inbound {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Who it is.
    pub peer: SocketAddr,
    /// The guest's port.
    pub guest_port: u16,
    /// Whether the guest is reached over IPv6; the peer's own family does not matter.
    pub is_ipv6: bool,
}

/// The gateway's port of the first flow from outside: nobody knows it without the seed. The others
/// follow it one by one, so that ends that the guest still has in TIME-WAIT come again as late as
/// they can (RFC 6056 3.3.3, for the one peer that there is).
pub(super) fn first_port(seed: &[u8; 16]) -> u16 {
    let mut hasher = SipHasher13::new_with_key(seed);
    hasher.write(b"the first of the gateway's ports");
    let (start, count) = (*GATEWAY_PORTS.start(), GATEWAY_PORTS.len() as u64);
    #[allow(clippy::cast_possible_truncation, reason = "less than a port's number")]
    let offset = (hasher.finish() % count) as u16;
    start + offset
}

impl<R: RingHandle> Engine<'_, R> {
    /// Opens a flow to the guest for `inbound`. Of a connection, bytes can be given to the guest
    /// from [`Action::Receive`](crate::Action::Receive) on; a datagram can be
    /// [delivered](Self::deliver) at once, and what the guest sends back goes to
    /// [`Outside::HostLoopback`](crate::Outside::HostLoopback).
    ///
    /// # Errors
    /// `Forbidden`: policy denies it, which is told as a denial; `Exhausted`: as many connections
    /// are open as may be, or the gateway's ports are in use. Who sends datagrams takes the place
    /// of whoever else did least recently, of all or of those who have the gateway's next ports,
    /// and never that of a flow of the guest's.
    ///
    /// # Cost
    /// That of a verdict.
    pub fn open_inbound(&mut self, now: Instant, inbound: &Inbound) -> Result<FlowId, Refusal> {
        let kind = match inbound.protocol {
            Protocol::Tcp => FlowKind::Tcp,
            Protocol::Udp => FlowKind::Udp,
            Protocol::Icmpv4 | Protocol::Icmpv6 => return Err(Refusal::Forbidden),
        };
        let by = self.admit_inbound(now, inbound)?;
        self.enter(now, (kind, by), inbound).ok_or_else(|| {
            self.out.counters.count_refusal(Refusal::Exhausted);
            Refusal::Exhausted
        })
    }

    /// Opens the flow of `inbound`, which `by` allows, if there is room.
    fn enter(
        &mut self,
        now: Instant,
        (kind, by): (FlowKind, By),
        inbound: &Inbound,
    ) -> Option<FlowId> {
        let is_full =
            kind == FlowKind::Tcp && self.inbound_tcp >= self.config.inbound_tcp_flows_max;
        let key = self.inbound_key(kind, inbound).filter(|_| !is_full)?;
        let slot = match kind {
            FlowKind::Tcp => self.insert_tcp(key),
            FlowKind::Udp | FlowKind::Echo => self.insert_or_evict(Share::InboundUdp, key),
        }?;
        if kind == FlowKind::Tcp {
            let ends = tcp::ends(self.guest(key.outside), &key);
            self.inbound_tcp += 1;
            self.tcp.call(now, slot, ends);
            self.flows.needs_egress(slot);
            let deadline = self.tcp.deadline(now, slot);
            self.timers.set(slot, deadline);
        } else {
            let own = self.datagram(slot);
            *own = DatagramSlot::FREE;
            own.received(now);
            self.timers.set(slot, Some(now.plus_millis(limits::UDP_IDLE_MS_MAX)));
        }
        let account = self.flows.account_mut(slot);
        (account.opened, account.by, account.peer) = (now, by, Some(inbound.peer));
        self.out.counters.inbound_opened += 1;
        Some(self.flows.id(slot))
    }

    /// What policy says to `peer`, who wants to reach the guest's port.
    pub(super) fn judge_inbound(
        &self,
        now: Instant,
        protocol: Protocol,
        (peer, guest_port): (IpAddr, u16),
    ) -> Verdict {
        let names = Names { bound: &[], said: Said::Never };
        let direction = Direction::Ingress;
        self.answer(now, Question { direction, protocol, address: peer, port: guest_port, names })
    }

    /// Asks the policy; returns what allows it.
    fn admit_inbound(&mut self, now: Instant, inbound: &Inbound) -> Result<By, Refusal> {
        let ends = (inbound.peer.ip(), inbound.guest_port);
        let verdict = self.judge_inbound(now, inbound.protocol, ends);
        if verdict.decision == Decision::Allow {
            self.count_allowed(Matter::Inbound, verdict.by);
            return Ok(verdict.by);
        }
        let denial = Denial {
            direction: Direction::Ingress,
            protocol: inbound.protocol,
            guest_port: inbound.guest_port,
            destination: inbound.peer,
            group: self.site().place(inbound.peer.ip()).group(),
            by: verdict.by,
            reason: DenialReason::Policy,
            left_out: 0,
        };
        self.note(now, (Matter::Inbound, denial), None);
        Err(Refusal::Forbidden)
    }

    /// Ends that no flow has: the gateway's next port that is free beside the guest's. Where none
    /// of those that are tried is, the peer of a UDP port who has one of them, and was heard of
    /// least recently, gives way.
    fn inbound_key(&mut self, kind: FlowKind, inbound: &Inbound) -> Option<FlowKey> {
        let link = &self.config.link;
        let gateway: IpAddr =
            if inbound.is_ipv6 { link.gateway_ipv6.into() } else { link.gateway_ipv4.into() };
        let mut least: Option<(Instant, u32, FlowKey)> = None;
        for _ in 0..PORTS_TRIED_MAX {
            let outside_port = self.next_gateway_port;
            self.next_gateway_port = if outside_port == *GATEWAY_PORTS.end() {
                *GATEWAY_PORTS.start()
            } else {
                outside_port + 1
            };
            let guest_port = inbound.guest_port;
            let key = FlowKey { kind, outside: gateway, guest_port, outside_port };
            let Some(slot) = self.flows.find(&key) else { return Some(key) };
            // The guest's own flows stay, and so do connections.
            if kind == FlowKind::Udp && self.flows.account(slot).peer.is_some() {
                let until = self.datagram(slot).deadline(DatagramKind::Udp);
                if least.is_none_or(|(other, ..)| until < other) {
                    least = Some((until, slot, key));
                }
            }
        }
        let (_, slot, key) = least?;
        self.evict(slot);
        Some(key)
    }

    /// The guest has answered the SYN of the flow in `slot`, or says something else.
    pub(super) fn while_calling(
        &mut self,
        now: Instant,
        slot: u32,
        (segment, syn): (&Segment, tcp::Syn),
    ) -> Result<(), Drop> {
        let key = self.flows.key(slot).ok_or(Drop::NoFlow)?;
        let ends = tcp::ends(self.guest(key.outside), &key);
        if !(segment.rst || segment.syn && segment.ack.is_some()) {
            return Err(Drop::Redundant);
        }
        self.tcp.called(now, slot, (ends, segment, syn), &mut self.out)?;
        self.flows.needs_attention(slot);
        self.flows.needs_egress(slot);
        Ok(())
    }
}
