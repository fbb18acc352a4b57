//! Packets of the guest that are pieces of a datagram: what becomes of it, whole or not.

use super::ingress::{Packet, Source};
use super::{Engine, Step};
use crate::contract::{Drop, Instant, Offload};
use crate::store::fragments::HEADROOM_BYTES;
use crate::store::ring::{Record, RingHandle};
use crate::wire::classify::{Fragment, Ip};
use crate::wire::extensions;

impl<R: RingHandle> Engine<'_, R> {
    /// Takes `piece` in, which is the payload of `ip` in the frame of `record`.
    #[inline(never)]
    pub(super) fn piece(
        &mut self,
        now: Instant,
        ip: Ip,
        piece: Fragment,
        record: Record,
    ) -> Result<Option<Step>, Drop> {
        self.tell_late(now);
        let payload = self.from_guest.bytes(&record).get(ip.payload.clone());
        let whole = payload
            .ok_or(Drop::Truncated)
            .and_then(|payload| self.fragments.add(now, &ip, piece, payload));
        self.out.counters.pieces_full += self.fragments.take_displaced();
        self.timers.set(self.pieces_slot(), self.fragments.deadline());
        let Some(set) = whole? else { return Ok(None) };
        let step = self.whole(now, ip, set);
        if !matches!(&step, Ok(Some(Step::Datagram { .. }))) {
            self.fragments.release(set);
        }
        step
    }

    /// Takes the datagram in whose last piece was that of `ip`.
    fn whole(&mut self, now: Instant, ip: Ip, set: usize) -> Result<Option<Step>, Drop> {
        let protocol = self.fragments.protocol(set);
        let whole = self.fragments.datagram(set);
        let end = whole.len();
        let (protocol, start) = if ip.source.is_ipv4() {
            (protocol, HEADROOM_BYTES)
        } else {
            extensions::within(protocol, whole, HEADROOM_BYTES)?
        };
        let ip = Ip { protocol, hop_limit: ip.hop_limit.min(254), ..ip };
        self.packet(now, Packet { ip, source: Source::Set(set), at: start..end }, Offload::NONE)
    }

    /// The timer of datagrams under reassembly is behind those of flows.
    pub(super) fn pieces_slot(&self) -> u32 {
        self.flows.all().end
    }

    /// Gives up the datagrams that were not whole in time, and says so to the guest (RFC 792,
    /// RFC 8200 4.5). The caller sets the timer of those that are left.
    fn tell_late(&mut self, now: Instant) {
        while let Some(late) = self.fragments.take_late(now) {
            self.out.counters.pieces_late += 1;
            self.out.late_error(now, &late);
        }
    }

    /// The time of a datagram under reassembly is up.
    pub(super) fn expire_pieces(&mut self, now: Instant) {
        self.tell_late(now);
        self.timers.set(self.pieces_slot(), self.fragments.deadline());
    }
}
