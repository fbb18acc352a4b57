//! What comes back on UDP and echo flows: datagrams for the guest, and the fate of its own.

use core::net::IpAddr;

use super::Engine;
use super::judge::is_for_names;
use crate::contract::{DatagramKind, FlowId, Instant, Refusal};
use crate::limits::{IP_PACKET_BYTES_MAX, UDP_ROW_DATAGRAMS_MAX};
use crate::stack::datagram::{self, DatagramSlot};
use crate::store::flows::{FlowKey, FlowKind};
use crate::store::ring::RingHandle;

/// Bytes of datagrams that one packet has room for, behind the headers of either family.
const ROW_BYTES_MAX: usize = IP_PACKET_BYTES_MAX - 40 - 8;

impl<R: RingHandle> Engine<'_, R> {
    /// Whether a datagram of any length can be delivered now. If not, the consumer of the ring
    /// wakes its producer when one can, or [`Action::Wait`](crate::Action::Wait) ends, where the
    /// guest is sent no more for now.
    pub fn can_deliver(&mut self, now: Instant) -> bool {
        self.out.refill(now);
        self.out.has_room() || self.out.wait_for_room()
    }

    /// Sends the guest a datagram that came back on `flow`: a UDP payload, or a whole echo reply.
    /// Without room ([`can_deliver`](Self::can_deliver)) it is dropped and counted; with an ended
    /// flow it is ignored, and counted.
    ///
    /// # Cost
    /// One copy of the payload.
    pub fn deliver(&mut self, now: Instant, flow: FlowId, payload: &[u8]) {
        self.deliver_row(now, flow, payload, 0);
    }

    /// The same for a row of UDP datagrams, each with `segment_bytes` bytes of `payload` but for
    /// the last, which may have fewer; 0: it is one.
    ///
    /// Returns how many bytes of `payload` it is done with: all, or as many whole datagrams as the
    /// ring had room for. The first has it ([`can_deliver`](Self::can_deliver)); the rest is for
    /// when there is room again.
    pub fn deliver_row(
        &mut self,
        now: Instant,
        flow: FlowId,
        payload: &[u8],
        segment_bytes: u16,
    ) -> usize {
        let Some(slot) = self.flows.slot(flow) else { return self.count_stray(payload) };
        let Some(key) = self.flows.key(slot) else { return self.count_stray(payload) };
        let guest = self.guest(key.outside);
        let done = match key.kind {
            FlowKind::Tcp => return payload.len(),
            FlowKind::Udp => self.deliver_udp(&key, guest, payload, segment_bytes),
            FlowKind::Echo => {
                let Some(parts) = datagram::echo_reply(guest, &key, payload) else {
                    return self.count_stray(payload);
                };
                let number = datagram::number(DatagramKind::Echo, guest);
                self.out.datagram(key.outside, guest, number, parts);
                payload.len()
            }
        };
        self.datagram(slot).received(now);
        self.flows.account_mut(slot).to_guest_bytes += done as u64;
        if is_for_names(&key) {
            // A resolver asks from a new port each time: what is answered gives way first.
            self.flows.retire(slot);
        } else {
            self.flows.touch(slot);
        }
        done
    }

    /// `payload` answers nothing; returns how much of it is done with.
    #[cold]
    fn count_stray(&mut self, payload: &[u8]) -> usize {
        self.out.counters.answers_stray += 1;
        payload.len()
    }

    /// A row of datagrams goes as one frame where each is one and a packet holds them all, else in
    /// parts.
    fn deliver_udp(
        &mut self,
        key: &FlowKey,
        guest: IpAddr,
        payload: &[u8],
        segment_bytes: u16,
    ) -> usize {
        let number = datagram::number(DatagramKind::Udp, guest);
        let step = match usize::from(segment_bytes) {
            0 => payload.len().max(1),
            bytes if self.out.fits_whole(guest, &datagram::udp(key, payload, segment_bytes)) => {
                bytes * (ROW_BYTES_MAX / bytes).clamp(1, UDP_ROW_DATAGRAMS_MAX)
            }
            bytes => bytes,
        };
        let mut done = 0;
        loop {
            let part = payload.get(done..payload.len().min(done + step)).unwrap_or(&[]);
            let is_one = part.len() <= usize::from(segment_bytes);
            let part = datagram::udp(key, part, if is_one { 0 } else { segment_bytes });
            self.out.datagram(key.outside, guest, number, part);
            done += part.payload.len();
            if done >= payload.len() || !self.out.has_room() {
                return done;
            }
        }
    }

    pub(super) fn fail_datagram(
        &mut self,
        now: Instant,
        slot: u32,
        key: &FlowKey,
        (kind, refusal): (DatagramKind, Refusal),
    ) {
        let guest = self.guest(key.outside);
        if let Some(quote) = self.datagram(slot).quote(guest, key, kind) {
            self.out.icmp_error(now, refusal, &quote);
        }
    }

    pub(super) fn datagram(&mut self, slot: u32) -> &mut DatagramSlot {
        // Slots of datagram flows follow those of TCP flows.
        let slot = self.datagrams.made(slot - self.flows.datagrams_start());
        slot.expect("because there is one for each flow")
    }
}
