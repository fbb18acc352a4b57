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
//! segment size, so that one pass moves up to 64 KiB, which goes through the ring as one frame, to
//! be cut to the guest's true segment size at its other end; and it omits timestamps, which a link
//! of one hop has no use for.
//!
//! RFC 9293. Not done: urgent data is delivered in line (RFC 6093).

use core::iter::Enumerate;
use core::mem::{ManuallyDrop, MaybeUninit};
use core::net::{IpAddr, SocketAddr};
use core::slice::ChunksExactMut;

use smoltcp::iface::{Config as IfaceConfig, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::{Duration, Instant as SmolInstant};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, TcpControl, TcpRepr, TcpSeqNumber};

use self::ack_delay::AckDelay;
use self::held::Look;
use self::syn::window_shift;
use super::device::{Emitter, Port, SUPER_SEGMENT_BYTES_MAX, Shape};
use super::window::Window;
use crate::contract::{Drop, Instant};
use crate::limits;
use crate::store::flows::FlowKey;
use crate::store::ring::RingHandle;
use crate::store::slots::{Slot, SlotMemory, Slots};
use crate::wire::classify::Segment;
use crate::wire::reply;

mod ack_delay;
mod call;
mod doubt;
mod feed;
mod fit;
mod held;
mod host;
mod memory;
mod pages;
mod path;
mod syn;
mod use_of;
mod wait;

pub(crate) use doubt::Acceptable;
pub(crate) use fit::Fit;
pub(crate) use held::Held;
pub(crate) use host::Say;
pub use memory::SocketCell;
pub(crate) use memory::TcpMemory;
pub(crate) use syn::Syn;

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
    /// Which of the lent buffers are the set's: the slots' numbers in the order of their first use.
    buffers: u32,
    /// Bytes that went through them since they were last given back.
    moved_bytes: u32,
    phase: Phase,
    shape: Shape,
    /// By how much the guest's window fields are shifted (RFC 7323 2.2).
    scale: u8,
    /// `Action::Send` was said, and bytes of then are still waiting.
    send_said: bool,
    finish_said: bool,
    /// The host found no room for bytes to the guest.
    wants_room: bool,
    guest_finished: bool,
    outside_finished: bool,
    /// The sequence number behind the last byte that has a place in the receive buffer; once the
    /// guest has finished, that of its FIN.
    edge: u32,
    /// The sequence number behind the farthest byte that has come.
    reached: u32,
    /// The guest's latest acknowledgement, and the window field beside it.
    acked: Option<(u32, u16)>,
    /// The sequence number behind all that the guest was ever sent (SND.NXT at its farthest).
    sent: Option<u32>,
    /// The largest window that the guest ever offered, in bytes (MAX.SND.WND).
    window_max: u32,
    /// When something of the flow was last challenged.
    challenged: Option<Instant>,
    /// Since when the guest owes an acknowledgement, or when the last one came.
    owed: Option<Instant>,
    /// When it was last nudged, if it was since, and how often.
    nudged: Option<Instant>,
    nudges: u8,
    /// Somebody outside opened it, and it counts as such.
    is_inbound: bool,
    /// The guest has yet to answer our SYN.
    is_calling: bool,
    ack_delay: AckDelay,
    /// What is waited for before the host gets the guest's bytes.
    look: Look,
    /// When the phase began.
    since: Instant,
    /// When the guest was last heard.
    heard: Instant,
    /// When the guest last acknowledged, or the host last took, anything.
    progress: Instant,
}

impl Slot for TcpSlot<'_> {
    const FREE: Self = Self {
        set: None,
        buffers: 0,
        moved_bytes: 0,
        phase: Phase::Free,
        shape: Shape { segment_bytes: 0, reach: None, window: Window::NONE, has_answered: false },
        scale: 0,
        send_said: false,
        finish_said: false,
        wants_room: false,
        guest_finished: false,
        outside_finished: false,
        edge: 0,
        reached: 0,
        acked: None,
        sent: None,
        window_max: 0,
        challenged: None,
        owed: None,
        nudged: None,
        nudges: 0,
        is_inbound: false,
        is_calling: false,
        ack_delay: AckDelay::NONE,
        look: Look::NONE,
        since: Instant::ZERO,
        heard: Instant::ZERO,
        progress: Instant::ZERO,
    };
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
    slots: Slots<'a, TcpSlot<'a>>,
    cells: core::slice::IterMut<'a, MaybeUninit<SocketCell<'a>>>,
    buffers: Enumerate<ChunksExactMut<'a, u8>>,
    receive_bytes: usize,
    send_bytes: usize,
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
        assert!(
            buffers.len() >= cells.len() * (receive_bytes + send_bytes),
            "buffers for each cell"
        );
        let slots = Slots::new(slots);
        assert!(slots.len() >= cells.len(), "a slot for each cell");
        let link = *out.link();
        let mut config = IfaceConfig::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut port = Port { packet: None, out, shape: &mut Shape::default() };
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
        let buffers = buffers.chunks_exact_mut(receive_bytes + send_bytes).enumerate();
        Self { slots, cells: cells.iter_mut(), buffers, receive_bytes, send_bytes, iface }
    }

    #[inline]
    fn slot(&mut self, slot: u32) -> &mut TcpSlot<'a> {
        // TCP slots come first, and flow slots come from the table that was sized with them.
        self.slots
            .made(slot)
            .expect("because flow slots come from the table that was sized with them")
    }

    /// Begins a flow whose SYN waits for the host's connect.
    pub(crate) fn open(&mut self, now: Instant, slot: u32, syn: Syn) {
        let flow = self.slot(slot);
        let set = flow.set.take();
        *flow = TcpSlot {
            set,
            buffers: flow.buffers,
            moved_bytes: flow.moved_bytes,
            phase: Phase::Connecting(syn),
            since: now,
            heard: now,
            progress: now,
            ..TcpSlot::FREE
        };
    }

    /// The SYN of a flow that waits for the host's connect.
    pub(crate) fn connecting(&self, slot: u32) -> Option<Syn> {
        match self.slots.used(slot)?.phase {
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
        self.slots.used(slot).is_some_and(|flow| matches!(flow.phase, Phase::Open))
    }

    /// Whether both sides have finished, so that the slot may be taken for a new flow.
    pub(crate) fn is_lingering(&self, slot: u32) -> bool {
        self.slots.used(slot).is_some_and(|flow| matches!(flow.phase, Phase::Lingering))
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
        let shift = syn.scale.map_or(0, |_| window_shift(receive_bytes));
        let mut window = Window::new(shift, receive_bytes, out.segment_bytes(guest.ip(), u16::MAX));
        // Nothing, until it answers.
        window.offer(syn.seq.wrapping_add(1), 0);
        flow.shape = Shape { segment_bytes, window, ..Shape::default() };
        flow.scale = syn.scale.unwrap_or(0);
        flow.window_max = syn.window.into();
        #[allow(clippy::cast_possible_truncation, reason = "a buffer is at most 2^30")]
        let receive_bytes = receive_bytes as u32;
        flow.reached = syn.seq.wrapping_add(1);
        flow.edge = flow.reached.wrapping_add(receive_bytes);
        // A multiple, so that a stream leaves no short segments between the long ones.
        let segment = usize::from(segment_bytes).min(SUPER_SEGMENT_BYTES_MAX);
        let offered = SUPER_SEGMENT_BYTES_MAX / segment * segment;
        let repr = TcpRepr {
            control: TcpControl::Syn,
            seq_number: TcpSeqNumber(syn.seq.cast_signed()),
            window_len: syn.window,
            window_scale: syn.scale,
            max_seg_size: Some(u16::try_from(offered).unwrap_or(u16::MAX)),
            sack_permitted: syn.sack,
            ..reply::bare(guest.port(), outside.port())
        };
        self.feed_segment(now, slot, (ends, &repr), out);
    }

    /// Makes the slot's socket listen for one SYN to `outside`, with the slot's own memory.
    fn arm(&mut self, slot: u32, outside: SocketAddr) {
        self.equip(slot);
        let Some(socket) = self.socket(slot) else { return };
        socket
            .listen((IpAddress::from(outside.ip()), outside.port()))
            .expect("because the socket of a free slot is closed, and port 0 was refused");
    }

    /// Gives the slot a socket over memory of its own, if it has none yet.
    fn equip(&mut self, slot: u32) {
        if self.slot(slot).set.is_none() {
            let cell = self.cells.next().map(|cell| cell.write(SocketCell::EMPTY));
            let buffers = self.buffers.next();
            let (Some(cell), Some((number, buffers))) = (cell, buffers) else { return };
            let (receive, send) = buffers.split_at_mut(self.receive_bytes);
            let mut socket = Socket::new(SocketBuffer::new(receive), SocketBuffer::new(send));
            socket.set_nagle_enabled(false);
            socket.set_ack_delay(None);
            let mut set = SocketSet::new(core::slice::from_mut(&mut *cell.0));
            set.add(socket);
            let flow = self.slot(slot);
            flow.set = Some(ManuallyDrop::new(set));
            // One a slot.
            flow.buffers = u32::try_from(number).unwrap_or(u32::MAX);
        }
        let Some(socket) = self.socket(slot) else { return };
        socket.set_keep_alive(Some(Duration::from_millis(limits::TCP_IDLE_MS_MAX)));
    }

    #[inline]
    fn socket(&mut self, slot: u32) -> Option<&mut Socket<'a>> {
        // A set holds one socket, at the first handle.
        Some(self.slot(slot).set.as_mut()?.get_mut::<Socket<'a>>(SocketHandle::default()))
    }

    /// A segment of the guest for a flow that is not connecting. `packet` is an IP packet without
    /// options or extension headers, its payload ends at the sequence number `end`.
    ///
    /// # Errors
    /// Nothing of it was of use.
    pub(crate) fn ingress<R: RingHandle>(
        &mut self,
        now: Instant,
        (slot, segment, end): (u32, &Segment, u32),
        packet: &mut [u8],
        out: &mut Emitter<'a, R>,
    ) -> Result<(), Drop> {
        let known = self.progress(slot);
        self.feed(now, slot, packet, out);
        let mut progress = self.progress(slot);
        let mut verdict = Ok(());
        if progress == known {
            verdict = self.judge_use(now, (slot, segment, known), packet, out);
            if segment.payload_len > 0 || segment.fin {
                progress = self.progress(slot);
            }
        }
        let state = progress.state;
        let flow = self.slot(slot);
        flow.heard = now;
        flow.ack_delay.guest_spoke(now, segment.payload_len, flow.shape.segment_bytes);
        if end.wrapping_sub(flow.reached).cast_signed() > 0 {
            flow.reached = end;
        }
        // `believe` let none through that acknowledges what was never sent.
        let newest = |ack: &u32| {
            flow.acked.is_none_or(|(known, _)| ack.wrapping_sub(known).cast_signed() >= 0)
        };
        if let Some(ack) = segment.ack.filter(newest).filter(|_| state != State::SynReceived) {
            flow.acked = Some((ack, segment.window));
            let window = u32::from(segment.window) << flow.scale;
            flow.window_max = flow.window_max.max(window);
            let reach = ack.wrapping_add(window);
            let farther = |known: u32| reach.wrapping_sub(known) < 1 << 31;
            if flow.shape.reach.is_none_or(farther) {
                flow.shape.reach = Some(reach);
            }
        }
        if progress.unacknowledged < known.unacknowledged {
            flow.progress = now;
            (flow.owed, flow.nudged, flow.nudges) = (None, None, 0);
        }
        if has_guest_finished(state) && !flow.guest_finished {
            flow.guest_finished = true;
            flow.edge = end;
            flow.progress = now;
        }
        if flow.outside_finished && matches!(state, State::Established | State::CloseWait) {
            self.close(slot);
        }
        verdict
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

    /// Sends what the flow has for the guest: data, acknowledgements, probes, resets; no further
    /// packet once `sent_bytes_max` bytes of data are sent that were not before.
    ///
    /// # Cost
    /// Bounded; one copy of each byte, two where a packet is cut.
    pub(crate) fn egress<R: RingHandle>(
        &mut self,
        now: Instant,
        (slot, sent_bytes_max): (u32, u32),
        out: &mut Emitter<'a, R>,
    ) -> Egress {
        let now = if self.keeps_waiting(slot) { self.slot(slot).heard } else { now };
        let flow = &mut self.slots[slot];
        if flow.awaits_answer(now) {
            return Egress::Done;
        }
        let resetting = matches!(flow.phase, Phase::Resetting);
        let Some(set) = &mut flow.set else {
            return if resetting { Egress::Ended } else { Egress::Done };
        };
        if matches!(flow.phase, Phase::Free | Phase::Connecting(_)) {
            return Egress::Done;
        }
        let begin = flow.sent;
        for _ in 0..limits::TURN_PASSES_MAX {
            if !out.has_room() {
                return Egress::Parked;
            }
            let mut port = Port { packet: None, out, shape: &mut flow.shape };
            let sent = self.iface.poll_egress(smol(now), &mut port, set);
            if let Some(end) = out.take_sent_end() {
                let is_farther = |known: u32| end.wrapping_sub(known).cast_signed() > 0;
                flow.sent = flow.sent.filter(|known| !is_farther(*known)).or(Some(end));
            }
            if resetting {
                flow.phase = Phase::Free;
                return Egress::Ended;
            }
            if sent == smoltcp::iface::PollResult::None {
                return Egress::Done;
            }
            let new_bytes = flow.sent.zip(begin).map_or(0, |(end, begin)| end.wrapping_sub(begin));
            if new_bytes >= sent_bytes_max {
                break;
            }
        }
        Egress::Again
    }
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
