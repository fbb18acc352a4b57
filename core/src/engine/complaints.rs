//! ICMP errors of the guest's: what follows from one, if anything does.
//!
//! Who is refused a call by one hears it at once, as from a guest that resets; a connection that is
//! open is not ended by any (RFC 5927 4.2), and one that the guest began itself neither, as it has
//! other words for that. A datagram flow that somebody outside opened ends, so that who comes next
//! has its place; nobody else can be told of it, as a host's socket answers for all its peers. The
//! guest's own datagram flows stay (RFC 4787 REQ-10). An error has no answer.

use super::{Engine, Step};
use crate::contract::{Action, Drop, Instant};
use crate::stack::tcp;
use crate::store::flows::{FlowKey, FlowKind};
use crate::store::ring::RingHandle;
use crate::wire::classify::{Ip, protocol};
use crate::wire::complaint::{Complaint, Fate};

impl<R: RingHandle> Engine<'_, R> {
    /// Takes `complaint` in, the payload of `ip`, which quotes a packet between the same ends.
    ///
    /// # Errors
    /// Nothing follows from it.
    ///
    /// # Cost
    /// Constant, and of one that shortens segments the sending of one again.
    #[cold]
    pub(super) fn complaint(
        &mut self,
        now: Instant,
        ip: &Ip,
        complaint: Complaint,
    ) -> Result<Option<Step>, Drop> {
        let Complaint { fate, protocol, outside_port, guest_port, seq } = complaint;
        let kind = if protocol == protocol::TCP { FlowKind::Tcp } else { FlowKind::Udp };
        let key = FlowKey { kind, outside: ip.destination, guest_port, outside_port };
        let slot = self.flows.find(&key).ok_or(Drop::IcmpError)?;
        let step = match (kind, fate) {
            (FlowKind::Tcp, _) if !self.tcp.is_on_its_way(slot, seq) => None,
            (FlowKind::Tcp, Fate::Refused) => self.refused_call(slot).map(Some),
            (FlowKind::Tcp, Fate::TooBig { mtu }) => {
                let ends = tcp::ends(ip.source, &key);
                self.tcp.narrow(now, (slot, mtu), ends, &mut self.out).then(|| {
                    self.flows.needs_egress(slot);
                    None
                })
            }
            (FlowKind::Udp, Fate::Refused) => self.refused_datagram(slot).map(Some),
            (FlowKind::Tcp | FlowKind::Udp, Fate::Lost)
            | (FlowKind::Udp, Fate::TooBig { .. })
            | (FlowKind::Echo, _) => None,
        };
        let step = step.ok_or(Drop::IcmpError)?;
        self.out.counters.icmp_errors_heeded += 1;
        Ok(step)
    }

    /// The guest will not have the call in `slot`, if it is one that it has yet to answer.
    fn refused_call(&mut self, slot: u32) -> Option<Step> {
        if !self.tcp.is_open(slot) || !self.tcp.is_calling(slot) {
            return None;
        }
        let flow = self.flows.id(slot);
        self.tcp.forget(slot);
        self.remove(slot);
        self.out.counters.tcp_reset += 1;
        Some(Action::Reset { flow }.into())
    }

    /// The guest will not have datagrams of the flow in `slot`.
    fn refused_datagram(&mut self, slot: u32) -> Option<Step> {
        self.flows.account(slot).peer?;
        let flow = self.flows.id(slot);
        self.remove(slot);
        Some(Action::Close { flow }.into())
    }
}
