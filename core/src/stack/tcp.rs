//! TCP flows: the guest's end of each connection, terminated by smoltcp.
//!
//! Each flow owns a socket set of one socket, so that smoltcp, which scans its set for every
//! segment, never sees another. A flow goes
//!
//! ```text
//! Free -> Connecting     a SYN came; it is kept as facts, without a socket or buffers
//!      -> Open           the host is connected; smoltcp gets the SYN and answers it
//!      -> Lingering      both sides have finished; TIME-WAIT, the host has closed its socket
//!      -> Resetting      a reset for the guest waits for room in the ring
//! ```
//!
//! and back to Free from each. smoltcp is given a SYN of our own making: it offers the largest
//! segment size, so that one pass moves up to 64 KiB, which the emitter cuts to the guest's true
//! segment size; and it omits timestamps, which a link of one hop has no use for.
//!
//! RFC 9293. Not done: urgent data is delivered in line (RFC 6093); a reset is accepted anywhere in
//! the window, not only at its left edge (RFC 5961 3.2), as smoltcp has it.

use core::mem::ManuallyDrop;
use core::net::{IpAddr, SocketAddr};

use smoltcp::iface::{Config as IfaceConfig, Interface, SocketHandle, SocketSet, SocketStorage};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::{Duration, Instant as SmolInstant};
use smoltcp::wire::{
    HardwareAddress, IpAddress, IpCidr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};

use super::device::{Emitter, Port, SEGMENTS_MAX};
use crate::contract::Instant;
use crate::limits;
use crate::store::flows::FlowKey;
use crate::store::ring::RingHandle;
use crate::wire::classify::Segment;
use crate::wire::reply;

/// Passes over one flow before the next has its turn.
const EGRESS_PASSES_MAX: usize = 16;
/// Segment size of a guest that names none (RFC 9293 3.7.1).
const MSS_DEFAULT: [u16; 2] = [536, 1220];
/// The smallest segment size that is believed, as in Linux (`TCP_MIN_SND_MSS`).
const MSS_MIN: u16 = 48;

/// Memory for one flow's socket.
pub struct SocketCell<'a>(ManuallyDrop<SocketStorage<'a>>);

impl SocketCell<'_> {
    /// Memory that no socket has.
    pub const EMPTY: Self = Self(ManuallyDrop::new(SocketStorage::EMPTY));
}

/// What the guest's SYN said.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Syn {
    seq: u32,
    window: u16,
    mss: u16,
    scale: Option<u8>,
    sack: bool,
}

impl Syn {
    /// Reads the options of the SYN at the start of `packet`.
    pub(crate) fn of(guest: IpAddr, segment: &Segment, packet: &[u8]) -> Self {
        let [v4, v6] = MSS_DEFAULT;
        let default = if guest.is_ipv4() { v4 } else { v6 };
        let options = TcpPacket::new_checked(packet).ok().and_then(|p| p.options_summary().ok());
        let mss = options.and_then(|o| o.max_segment_size).filter(|mss| *mss != 0);
        Self {
            seq: segment.seq,
            window: segment.window,
            mss: mss.unwrap_or(default).max(MSS_MIN),
            scale: options.and_then(|o| o.window_scale).map(|s| s.min(14)),
            sack: options.is_some_and(|o| o.sack_permitted),
        }
    }

    pub(crate) fn seq(&self) -> u32 {
        self.seq
    }
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Free,
    Connecting(Syn),
    Open,
    Lingering,
    Resetting,
}

/// One TCP flow.
pub struct TcpSlot<'a> {
    set: Option<ManuallyDrop<SocketSet<'a>>>,
    phase: Phase,
    segment_bytes: u16,
    /// `Action::Send` was said, and bytes of then are still waiting.
    send_said: bool,
    finish_said: bool,
    /// The host found no room for bytes to the guest.
    wants_room: bool,
    guest_finished: bool,
    outside_finished: bool,
    /// The sequence number of the guest's SYN.
    isn: u32,
    /// The sequence number behind the last byte that has a place in the receive buffer; once the
    /// guest has finished, that of its FIN.
    edge: u32,
    /// Since when bytes wait for the guest's acknowledgement.
    owed: Option<Instant>,
    /// When the phase began.
    since: Instant,
    /// When the guest was last heard.
    heard: Instant,
    /// When the guest last acknowledged, or the host last took, anything.
    progress: Instant,
}

impl TcpSlot<'_> {
    /// A slot that no flow has used.
    pub const FREE: Self = Self {
        set: None,
        phase: Phase::Free,
        segment_bytes: 0,
        send_said: false,
        finish_said: false,
        wants_room: false,
        guest_finished: false,
        outside_finished: false,
        isn: 0,
        edge: 0,
        owed: None,
        since: Instant::ZERO,
        heard: Instant::ZERO,
        progress: Instant::ZERO,
    };
}

/// What a flow wants to tell the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Say {
    Send,
    Finish,
    Receive,
    Reset,
    Close,
}

/// What became of a flow that was asked for its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Egress {
    /// Nothing more for now.
    Done,
    /// More is ready, after others had their turn.
    Again,
    /// The ring is full.
    Parked,
    /// The flow's last packet is out: its slot is free.
    Ended,
}

/// All TCP flows of an engine.
pub(crate) struct Tcp<'a> {
    slots: &'a mut [TcpSlot<'a>],
    cells: core::slice::IterMut<'a, SocketCell<'a>>,
    buffers: core::slice::ChunksExactMut<'a, u8>,
    receive_bytes: usize,
    iface: Interface,
}

impl<'a> Tcp<'a> {
    /// Each of `slots` has a cell, and `receive_bytes + send_bytes` of `buffers`.
    pub(crate) fn new<R: RingHandle>(
        memory: TcpMemory<'a>,
        out: &mut Emitter<'_, R>,
        seed: u64,
        now: Instant,
    ) -> Self {
        let TcpMemory { slots, cells, buffers, receive_bytes, send_bytes } = memory;
        assert!(cells.len() >= slots.len(), "a cell for each slot");
        assert!(buffers.len() >= slots.len() * (receive_bytes + send_bytes), "buffers for each");
        let link = *out.link();
        let mut config = IfaceConfig::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut port = Port { packet: None, out, segment_bytes: 0 };
        let mut iface = Interface::new(config, &mut port, smol(now));
        iface.update_ip_addrs(|addresses| {
            // Two fit: the feature `iface-max-addr-count-2` says so.
            let _ = addresses.push(IpCidr::new(link.gateway_ipv4.into(), 30));
            let _ = addresses.push(IpCidr::new(link.gateway_ipv6.into(), 64));
        });
        // Every destination is ours: the guest's flows end here whatever they are addressed to.
        iface.set_any_ip(true);
        let routes = iface.routes_mut();
        let _ = routes.add_default_ipv4_route(link.gateway_ipv4);
        let _ = routes.add_default_ipv6_route(link.gateway_ipv6);
        let buffers = buffers.chunks_exact_mut(receive_bytes + send_bytes);
        Self { slots, cells: cells.iter_mut(), buffers, receive_bytes, iface }
    }

    fn slot(&mut self, slot: u32) -> &mut TcpSlot<'a> {
        // TCP slots come first, and flow slots come from the table that was sized with them.
        &mut self.slots[slot as usize]
    }

    /// Begins a flow whose SYN waits for the host's connect.
    pub(crate) fn open(&mut self, now: Instant, slot: u32, syn: Syn) {
        let flow = self.slot(slot);
        let set = flow.set.take();
        *flow = TcpSlot {
            set,
            phase: Phase::Connecting(syn),
            since: now,
            heard: now,
            progress: now,
            ..TcpSlot::FREE
        };
    }

    /// The SYN of a flow that waits for the host's connect.
    pub(crate) fn connecting(&self, slot: u32) -> Option<Syn> {
        match self.slots.get(slot as usize)?.phase {
            Phase::Connecting(syn) => Some(syn),
            Phase::Free | Phase::Open | Phase::Lingering | Phase::Resetting => None,
        }
    }

    /// The guest's SYN came once more. One with another sequence number begins anew: the guest has
    /// given the first up without a word, as it may.
    pub(crate) fn again(&mut self, slot: u32, syn: Syn) {
        let flow = self.slot(slot);
        if matches!(flow.phase, Phase::Connecting(known) if known.seq != syn.seq) {
            flow.phase = Phase::Connecting(syn);
        }
    }

    /// Whether the host is connected, and neither side has given the flow up.
    pub(crate) fn is_open(&self, slot: u32) -> bool {
        self.slots.get(slot as usize).is_some_and(|flow| matches!(flow.phase, Phase::Open))
    }

    /// Whether the flow began with the SYN that has sequence number `seq`.
    pub(crate) fn began_with(&self, slot: u32, seq: u32) -> bool {
        self.slots.get(slot as usize).is_some_and(|flow| flow.isn == seq)
    }

    /// Whether both sides have finished, so that the slot may be taken for a new flow.
    pub(crate) fn is_lingering(&self, slot: u32) -> bool {
        self.slots.get(slot as usize).is_some_and(|flow| matches!(flow.phase, Phase::Lingering))
    }

    /// The host is connected: the guest's SYN reaches smoltcp, which will answer it.
    pub(crate) fn connected<R: RingHandle>(
        &mut self,
        now: Instant,
        slot: u32,
        ends: (SocketAddr, SocketAddr),
        out: &mut Emitter<'a, R>,
    ) {
        let Some(syn) = self.connecting(slot) else { return };
        let (guest, outside) = ends;
        let receive_bytes = self.receive_bytes;
        let segment_bytes = out.segment_bytes(guest.ip(), syn.mss);
        self.arm(slot, outside);
        let flow = self.slot(slot);
        flow.phase = Phase::Open;
        flow.since = now;
        flow.segment_bytes = segment_bytes;
        flow.isn = syn.seq;
        // At most 2^30.
        flow.edge = syn.seq.wrapping_add(1).wrapping_add(receive_bytes as u32);
        let offered = usize::from(segment_bytes) * SEGMENTS_MAX;
        let repr = TcpRepr {
            src_port: guest.port(),
            dst_port: outside.port(),
            control: TcpControl::Syn,
            seq_number: TcpSeqNumber(syn.seq.cast_signed()),
            ack_number: None,
            window_len: syn.window,
            window_scale: syn.scale,
            max_seg_size: Some(u16::try_from(offered).unwrap_or(u16::MAX)),
            sack_permitted: syn.sack,
            sack_ranges: [None, None, None],
            timestamp: None,
            payload: &[],
        };
        let mut packet = [0; reply::REPLY_BYTES_MAX];
        let len = reply::tcp(guest.ip(), outside.ip(), &repr, &mut packet);
        self.feed(now, slot, packet.get_mut(..len).unwrap_or(&mut []), out);
    }

    /// Makes the slot's socket listen for one SYN to `outside`, with the slot's own memory.
    fn arm(&mut self, slot: u32, outside: SocketAddr) {
        if self.slot(slot).set.is_none() {
            let (cell, buffers) = (self.cells.next(), self.buffers.next());
            let (Some(cell), Some(buffers)) = (cell, buffers) else { return };
            let (receive, send) = buffers.split_at_mut(self.receive_bytes);
            let mut socket = Socket::new(SocketBuffer::new(receive), SocketBuffer::new(send));
            socket.set_nagle_enabled(false);
            socket.set_ack_delay(None);
            let mut set = SocketSet::new(core::slice::from_mut(&mut *cell.0));
            set.add(socket);
            self.slot(slot).set = Some(ManuallyDrop::new(set));
        }
        let Some(socket) = self.socket(slot) else { return };
        socket.set_keep_alive(Some(Duration::from_millis(limits::TCP_IDLE_MS_MAX)));
        socket
            .listen((IpAddress::from(outside.ip()), outside.port()))
            .expect("because the socket of a free slot is closed, and port 0 was refused");
    }

    fn socket(&mut self, slot: u32) -> Option<&mut Socket<'a>> {
        // A set holds one socket, at the first handle.
        Some(self.slot(slot).set.as_mut()?.get_mut::<Socket<'a>>(SocketHandle::default()))
    }

    /// Gives one packet of the guest to the flow's socket.
    ///
    /// # Cost
    /// One copy of the payload into the receive buffer.
    fn feed<R: RingHandle>(
        &mut self,
        now: Instant,
        slot: u32,
        packet: &mut [u8],
        out: &mut Emitter<'a, R>,
    ) {
        let flow = &mut self.slots[slot as usize];
        let mut port = Port { packet: Some(packet), out, segment_bytes: flow.segment_bytes };
        if let Some(set) = &mut flow.set {
            self.iface.poll_ingress_single(smol(now), &mut port, set);
        }
    }

    /// What smoltcp may see of a segment: its sequence number and its bytes of payload. `None`: all.
    ///
    /// smoltcp scales the window of its SYN-ACK as it does later ones, which it must not (RFC 7323
    /// 2.2), and so takes bytes beyond its buffer until it has sent an acknowledgement; and it takes
    /// bytes beyond a FIN. Such are cut off here. Where nothing is left, one old byte asks
    /// for the acknowledgement that a probe of a closed window is due.
    pub(crate) fn fit(&mut self, slot: u32, segment: &Segment) -> Option<(u32, usize)> {
        let (capacity, waiting) =
            self.socket(slot).map(|socket| (socket.recv_capacity(), socket.recv_queue()))?;
        let flow = self.slot(slot);
        let edge = flow.edge;
        // Payloads are below 2^16, buffers at most 2^30: distances fit 31 bits.
        let end = segment.seq.wrapping_add(segment.payload_len as u32);
        let room = edge.wrapping_sub(segment.seq).cast_signed();
        if segment.payload_len == 0 || end.wrapping_sub(edge).cast_signed() <= 0 {
            return None;
        }
        if let Ok(room @ 1..) = usize::try_from(room) {
            return Some((segment.seq, room));
        }
        let free = if flow.guest_finished { 0 } else { capacity - waiting };
        Some((edge.wrapping_sub(free as u32).wrapping_sub(u32::from(!flow.guest_finished)), 1))
    }

    /// A segment of the guest for a flow that is not connecting. `packet` is an IP packet without
    /// options or extension headers, its payload ends at the sequence number `end`.
    pub(crate) fn ingress<R: RingHandle>(
        &mut self,
        now: Instant,
        (slot, end): (u32, u32),
        packet: &mut [u8],
        out: &mut Emitter<'a, R>,
    ) {
        let unacknowledged = self.socket(slot).map_or(0, |socket| socket.send_queue());
        self.feed(now, slot, packet, out);
        let (left, state) = self
            .socket(slot)
            .map_or((0, State::Closed), |socket| (socket.send_queue(), socket.state()));
        let flow = self.slot(slot);
        flow.heard = now;
        if left < unacknowledged {
            flow.progress = now;
        }
        if has_guest_finished(state) && !flow.guest_finished {
            flow.guest_finished = true;
            flow.edge = end;
            flow.progress = now;
        }
        if flow.outside_finished && matches!(state, State::Established | State::CloseWait) {
            self.close(slot); // as it could not before the handshake was complete
        }
    }

    fn close(&mut self, slot: u32) {
        if let Some(socket) = self.socket(slot).filter(|s| s.state() != State::SynReceived) {
            socket.close();
        }
    }

    /// The next thing to tell the host, if any; each is said once.
    pub(crate) fn say(&mut self, now: Instant, slot: u32) -> Option<Say> {
        if !matches!(self.slot(slot).phase, Phase::Open) {
            return None;
        }
        let (state, waiting, room, capacity) = self.socket(slot).map(|socket| {
            let room =
                if socket.may_send() { socket.send_capacity() - socket.send_queue() } else { 0 };
            (socket.state(), socket.recv_queue(), room, socket.send_capacity())
        })?;
        let flow = self.slot(slot);
        let both_finished = flow.guest_finished && flow.outside_finished;
        // A reset that answers the SYN-ACK makes smoltcp listen again.
        if matches!(state, State::Closed | State::Listen) && !both_finished {
            self.forget(slot);
            return Some(Say::Reset);
        }
        if waiting > 0 && !flow.send_said {
            flow.send_said = true;
            return Some(Say::Send);
        }
        if flow.guest_finished && waiting == 0 && !flow.finish_said {
            flow.finish_said = true;
            return Some(Say::Finish);
        }
        // A quarter of the buffer is worth the host's read.
        if flow.wants_room && room >= capacity / 4 {
            flow.wants_room = false;
            return Some(Say::Receive);
        }
        if both_finished && flow.finish_said && matches!(state, State::Closed | State::TimeWait) {
            flow.phase = if state == State::Closed { Phase::Free } else { Phase::Lingering };
            flow.since = now;
            return Some(Say::Close);
        }
        None
    }

    /// Whether the flow has ended, so that its slot may be given back.
    pub(crate) fn is_free(&self, slot: u32) -> bool {
        self.slots.get(slot as usize).is_none_or(|flow| matches!(flow.phase, Phase::Free))
    }

    /// Lets `take` have the oldest bytes of the guest, as far as they lie in one piece; it returns
    /// how many it took. `None`: there are none.
    ///
    /// # Cost
    /// No copy.
    pub(crate) fn take(
        &mut self,
        now: Instant,
        slot: u32,
        take: impl FnOnce(&[u8]) -> usize,
    ) -> Option<usize> {
        let socket = self.socket(slot)?;
        if !socket.can_recv() {
            return None;
        }
        let taken = socket.recv(|bytes| {
            let taken = take(bytes).min(bytes.len());
            (taken, taken)
        });
        let waiting = socket.recv_queue();
        let flow = self.slot(slot);
        let taken = taken.unwrap_or(0);
        if taken > 0 {
            flow.progress = now;
        }
        if !flow.guest_finished {
            // At most 2^30.
            flow.edge = flow.edge.wrapping_add(taken as u32);
        }
        if waiting == 0 {
            flow.send_said = false;
        }
        Some(taken)
    }

    /// Lets `give` write bytes for the guest, as many as there is room for in one piece; it
    /// returns how many it wrote. `None`: there is no room, and `Say::Receive` will tell when.
    ///
    /// # Cost
    /// No copy.
    pub(crate) fn give(
        &mut self,
        slot: u32,
        give: impl FnOnce(&mut [u8]) -> usize,
    ) -> Option<usize> {
        let open =
            matches!(self.slot(slot).phase, Phase::Open) && !self.slot(slot).outside_finished;
        let given = match self.socket(slot) {
            Some(socket) if open && socket.can_send() => socket
                .send(|space| {
                    let given = give(space).min(space.len());
                    (given, given)
                })
                .ok(),
            Some(_) | None => None,
        };
        if given.is_none() {
            self.slot(slot).wants_room = true;
        }
        given
    }

    /// The outside has finished: a FIN follows what was given.
    pub(crate) fn outside_finished(&mut self, now: Instant, slot: u32) {
        let flow = self.slot(slot);
        if !matches!(flow.phase, Phase::Open) || flow.outside_finished {
            return;
        }
        flow.outside_finished = true;
        flow.progress = now;
        // smoltcp loses the SYN when it is closed before the handshake is complete: the FIN waits.
        self.close(slot);
    }

    /// Ends the flow with a reset for the guest, which [`egress`](Self::egress) sends.
    pub(crate) fn abort(&mut self, slot: u32) {
        if let Some(socket) = self.socket(slot) {
            socket.abort();
        }
        self.slot(slot).phase = Phase::Resetting;
    }

    /// Ends the flow without a word.
    pub(crate) fn forget(&mut self, slot: u32) {
        self.slot(slot).phase = Phase::Free;
        if let Some(socket) = self.socket(slot) {
            socket.abort();
        }
    }

    /// Sends what the flow has for the guest: data, acknowledgements, probes, resets.
    ///
    /// # Cost
    /// Bounded; one copy of each byte, two where a packet is cut.
    pub(crate) fn egress<R: RingHandle>(
        &mut self,
        now: Instant,
        slot: u32,
        out: &mut Emitter<'a, R>,
    ) -> Egress {
        let flow = &mut self.slots[slot as usize];
        let resetting = matches!(flow.phase, Phase::Resetting);
        let Some(set) = &mut flow.set else {
            return if resetting { Egress::Ended } else { Egress::Done };
        };
        if matches!(flow.phase, Phase::Free | Phase::Connecting(_)) {
            return Egress::Done;
        }
        for _ in 0..EGRESS_PASSES_MAX {
            if !out.has_room() {
                return Egress::Parked;
            }
            let mut port = Port { packet: None, out, segment_bytes: flow.segment_bytes };
            let sent = self.iface.poll_egress(smol(now), &mut port, set);
            if resetting {
                flow.phase = Phase::Free;
                return Egress::Ended;
            }
            if sent == smoltcp::iface::PollResult::None {
                return Egress::Done;
            }
        }
        Egress::Again
    }

    /// When the flow next needs [`expire`](Self::expire).
    pub(crate) fn deadline(&mut self, now: Instant, slot: u32) -> Option<Instant> {
        let own = self.patience(now, slot);
        let flow = &mut self.slots[slot as usize];
        let set =
            flow.set.as_ref().filter(|_| matches!(flow.phase, Phase::Open | Phase::Lingering));
        let socket = set.and_then(|set| self.iface.poll_at(smol(now), set)).map(|at| {
            // In the past: smoltcp would like to send, and could not. Not before the next tick.
            Instant::from_micros(u64::try_from(at.total_micros()).unwrap_or(0))
                .max(now.plus_millis(1))
        });
        match (own, socket) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Until when the flow may stay as it is.
    pub(crate) fn patience(&mut self, now: Instant, slot: u32) -> Option<Instant> {
        let (state, unsent, untaken) = self.socket(slot).map_or((State::Closed, 0, 0), |socket| {
            (socket.state(), socket.send_queue(), socket.recv_queue())
        });
        let flow = self.slot(slot);
        flow.owed = if unsent > 0 { flow.owed.or(Some(now)) } else { None };
        let until = match flow.phase {
            Phase::Free | Phase::Resetting => return None,
            Phase::Connecting(_) => flow.since.plus_millis(limits::TCP_CONNECT_MS_MAX),
            Phase::Lingering => flow.since.plus_millis(limits::TCP_TIME_WAIT_MS),
            Phase::Open => match state {
                State::SynReceived | State::Listen | State::SynSent => {
                    flow.since.plus_millis(limits::TCP_HALF_OPEN_MS_MAX)
                }
                State::FinWait2 => flow.heard.plus_millis(limits::TCP_FIN_WAIT_2_MS_MAX),
                State::FinWait1 | State::Closing | State::LastAck => {
                    flow.progress.plus_millis(limits::TCP_DRAIN_MS_MAX)
                }
                _ if flow.guest_finished && untaken > 0 => {
                    flow.progress.plus_millis(limits::TCP_DRAIN_MS_MAX)
                }
                State::Established | State::CloseWait if unsent > 0 => {
                    // However long it was silent before, the guest has its time to answer.
                    let since = flow.owed.unwrap_or(flow.heard).max(flow.heard);
                    since.plus_millis(limits::TCP_UNANSWERED_MS_MAX)
                }
                State::Established | State::CloseWait | State::TimeWait | State::Closed => {
                    let silence = limits::TCP_IDLE_MS_MAX + limits::TCP_UNANSWERED_MS_MAX;
                    flow.heard.plus_millis(silence)
                }
            },
        };
        Some(until)
    }

    /// Whether the flow's patience has run out at `now`.
    pub(crate) fn is_overdue(&mut self, now: Instant, slot: u32) -> bool {
        self.patience(now, slot).is_some_and(|until| until <= now)
    }
}

/// Memory for all TCP flows.
pub(crate) struct TcpMemory<'a> {
    pub(crate) slots: &'a mut [TcpSlot<'a>],
    pub(crate) cells: &'a mut [SocketCell<'a>],
    pub(crate) buffers: &'a mut [u8],
    pub(crate) receive_bytes: usize,
    pub(crate) send_bytes: usize,
}

/// Whether smoltcp has seen the guest's FIN, and everything before it.
fn has_guest_finished(state: State) -> bool {
    match state {
        State::CloseWait | State::LastAck | State::Closing | State::TimeWait => true,
        State::Closed
        | State::Listen
        | State::SynSent
        | State::SynReceived
        | State::Established
        | State::FinWait1
        | State::FinWait2 => false,
    }
}

fn smol(now: Instant) -> SmolInstant {
    // An i64 of microseconds lasts 292,000 years.
    SmolInstant::from_micros(now.as_micros().cast_signed())
}

/// The ends of a TCP flow: guest, then outside.
pub(crate) fn ends(guest: IpAddr, key: &FlowKey) -> (SocketAddr, SocketAddr) {
    (SocketAddr::new(guest, key.guest_port), SocketAddr::new(key.outside, key.outside_port))
}
