//! What comes back on UDP and echo flows: datagrams for the guest, and the fate of its own.

use core::net::IpAddr;

use super::Engine;
use super::judge::is_for_names;
use crate::contract::{DatagramKind, FlowId, Instant, Refusal};
use crate::stack::datagram::{self, DatagramSlot};
use crate::store::flows::{FlowKey, FlowKind};
use crate::store::ring::RingHandle;

impl<R: RingHandle> Engine<'_, R> {
    /// Whether a datagram of any length can be delivered now. If not, the consumer of the ring
    /// wakes its producer when one can.
    pub fn can_deliver(&mut self) -> bool {
        self.out.has_room() || self.out.wait_for_room()
    }

    /// Sends the guest a datagram that came back on `flow`: a UDP payload, or a whole echo reply.
    /// Without room ([`can_deliver`](Self::can_deliver)) it is dropped and counted; with an ended
    /// flow it is ignored.
    ///
    /// # Cost
    /// One copy of the payload.
    pub fn deliver(&mut self, now: Instant, flow: FlowId, payload: &[u8]) {
        self.deliver_row(now, flow, payload, 0);
    }

    /// The same for a row of UDP datagrams, each with `segment_bytes` bytes of `payload` but for
    /// the last, which may have fewer; 0: it is one.
    pub fn deliver_row(&mut self, now: Instant, flow: FlowId, payload: &[u8], segment_bytes: u16) {
        let Some(slot) = self.flows.slot(flow) else { return };
        let Some(key) = self.flows.key(slot) else { return };
        let guest = self.guest(key.outside);
        match key.kind {
            FlowKind::Tcp => return,
            FlowKind::Udp => self.deliver_udp(&key, guest, payload, segment_bytes),
            FlowKind::Echo => {
                let Some(parts) = datagram::echo_reply(guest, &key, payload) else { return };
                let number = datagram::number(DatagramKind::Echo, guest);
                self.out.datagram(key.outside, guest, number, parts);
            }
        }
        self.datagram(slot).received(now);
        if is_for_names(&key) {
            // A resolver asks from a new port each time: what is answered gives way first.
            self.flows.retire(slot);
        } else {
            self.flows.touch(slot);
        }
    }

    /// A row of datagrams goes as one frame where each is one, else piece by piece.
    fn deliver_udp(&mut self, key: &FlowKey, guest: IpAddr, payload: &[u8], segment_bytes: u16) {
        let number = datagram::number(DatagramKind::Udp, guest);
        let row = datagram::udp(key, payload, segment_bytes);
        if segment_bytes == 0 || self.out.fits_whole(guest, &row) {
            self.out.datagram(key.outside, guest, number, row);
            return;
        }
        for one in payload.chunks(usize::from(segment_bytes)) {
            self.out.datagram(key.outside, guest, number, datagram::udp(key, one, 0));
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
        let quote = self.datagram(slot).quote(guest, key, kind);
        self.out.icmp_error(now, refusal, &quote);
    }

    pub(super) fn datagram(&mut self, slot: u32) -> &mut DatagramSlot {
        // Slots of datagram flows follow those of TCP flows.
        &mut self.datagrams[(slot - self.config.tcp_flows_max) as usize]
    }
}
