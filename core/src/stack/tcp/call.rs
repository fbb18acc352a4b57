//! Connections that are opened to the guest: smoltcp sends the SYN, and what answers it is given to
//! smoltcp as we would have it (`stack/tcp` says why).

use core::net::SocketAddr;

use smoltcp::socket::tcp::State;
use smoltcp::wire::{IpAddress, TcpControl, TcpRepr, TcpSeqNumber};

use super::{Phase, SUPER_SEGMENT_BYTES_MAX, Shape, Slot, Syn, Tcp, TcpSlot, Window, window_shift};
use crate::contract::{Drop, Instant};
use crate::stack::device::Emitter;
use crate::store::ring::RingHandle;
use crate::wire::classify::Segment;
use crate::wire::reply;

impl<'a> Tcp<'a> {
    /// Begins a connection to the guest, from the gateway's end.
    pub(crate) fn call(
        &mut self,
        now: Instant,
        slot: u32,
        (guest, gateway): (SocketAddr, SocketAddr),
    ) {
        let flow = self.slot(slot);
        let set = flow.set.take();
        *flow = TcpSlot {
            set,
            buffers: flow.buffers,
            moved_bytes: flow.moved_bytes,
            phase: Phase::Open,
            is_inbound: true,
            is_calling: true,
            since: now,
            heard: now,
            progress: now,
            ..TcpSlot::FREE
        };
        self.equip(slot);
        let Self { slots, iface, .. } = self;
        let set = slots.used_mut(slot).and_then(|flow| flow.set.as_mut());
        let Some(set) = set else { return };
        let socket = set
            .get_mut::<smoltcp::socket::tcp::Socket<'a>>(smoltcp::iface::SocketHandle::default());
        let remote = (IpAddress::from(guest.ip()), guest.port());
        let local = (IpAddress::from(gateway.ip()), gateway.port());
        socket
            .connect(iface.context(), remote, local)
            .expect("because the socket of a free slot is closed, and both ends are whole");
    }

    /// Whether the guest has yet to answer our SYN.
    pub(crate) fn is_calling(&self, slot: u32) -> bool {
        self.slots.used(slot).is_some_and(|flow| flow.is_calling)
    }

    /// Whether somebody outside opened the flow; from now on nobody did.
    pub(crate) fn take_inbound(&mut self, slot: u32) -> bool {
        let flow = self.slots.used_mut(slot);
        flow.is_some_and(|flow| core::mem::take(&mut flow.is_inbound))
    }

    /// The guest answers our SYN with `segment`: a SYN that says `syn`, or a reset.
    ///
    /// # Errors
    /// It is of another SYN than ours; one that is no reset is answered by one (RFC 9293 3.10.7.3).
    pub(crate) fn called<R: RingHandle>(
        &mut self,
        now: Instant,
        slot: u32,
        (ends, segment, syn): ((SocketAddr, SocketAddr), &Segment, Syn),
        out: &mut Emitter<'a, R>,
    ) -> Result<(), Drop> {
        let (guest, gateway) = ends;
        let segment_bytes = out.segment_bytes(guest.ip(), syn.mss);
        let offered = SUPER_SEGMENT_BYTES_MAX / usize::from(segment_bytes.max(1))
            * usize::from(segment_bytes);
        let is_syn = segment.syn && !segment.rst;
        let repr = TcpRepr {
            control: if is_syn { TcpControl::Syn } else { TcpControl::Rst },
            seq_number: TcpSeqNumber(segment.seq.cast_signed()),
            ack_number: segment.ack.map(|ack| TcpSeqNumber(ack.cast_signed())),
            window_len: segment.window,
            window_scale: syn.scale.filter(|_| is_syn),
            max_seg_size: Some(u16::try_from(offered).unwrap_or(u16::MAX)).filter(|_| is_syn),
            sack_permitted: syn.sack && is_syn,
            ..reply::bare(guest.port(), gateway.port())
        };
        self.feed_segment(now, slot, (ends, &repr), out);
        let state = self.socket(slot).map_or(State::Closed, |socket| socket.state());
        match state {
            State::Established => {}
            State::SynSent => return Err(Drop::Doubtful),
            State::Closed
            | State::Listen
            | State::SynReceived
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck
            | State::TimeWait => return Ok(()),
        }
        #[allow(clippy::cast_possible_truncation, reason = "a buffer is at most 2^30")]
        let receive_bytes = self.receive_bytes as u32;
        let shift = syn.scale.map_or(0, |_| window_shift(self.receive_bytes));
        let mut window =
            Window::new(shift, self.receive_bytes, out.segment_bytes(guest.ip(), u16::MAX));
        // The window of our SYN, which smoltcp scales, counts from the guest's.
        window.offer(segment.seq, u16::try_from(receive_bytes).unwrap_or(u16::MAX));
        let flow = self.slot(slot);
        flow.is_calling = false;
        flow.heard = now;
        flow.progress = now;
        flow.window_max = segment.window.into();
        flow.reached = segment.seq.wrapping_add(1);
        flow.edge = flow.reached.wrapping_add(receive_bytes);
        flow.scale = syn.scale.unwrap_or(0);
        flow.acked = segment.ack.map(|ack| (ack, segment.window));
        // The window of a SYN is not scaled (RFC 7323 2.2).
        let reach = segment.ack.map(|ack| ack.wrapping_add(segment.window.into()));
        flow.shape = Shape { segment_bytes, reach, window, has_answered: false };
        if flow.outside_finished {
            self.close(slot);
        }
        Ok(())
    }
}
