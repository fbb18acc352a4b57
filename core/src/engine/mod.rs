//! The engine: frames and facts in, actions out.
//!
//! A turn is one run of [`Engine::poll`] up to [`Action::Wait`]: a bounded number of guest frames
//! is read, each into its flow; then come the timers; then each flow that has something to say to
//! the host says it; then each flow that may have packets for the guest sends them. So what the
//! guest sent in a batch goes out in one write, and one acknowledgement answers it.

mod autoconf;
mod complaints;
mod datagrams;
mod inbound;
mod ingress;
mod inspect;
mod judge;
mod listing;
mod memory;
mod names;
mod outside;
mod pieces;
mod reload;
mod run;
mod turn;

use core::net::IpAddr;
use core::ops::Range;

use crate::contract::{
    Action, Beginning, Config, ConfigError, Counters, DatagramKind, Denial, FlowId, Hits, Instant,
    Outside, Refusal,
};
use crate::limits::FRAME_BYTES_MAX;
use crate::stack::autoconf::Autoconf;
use crate::stack::capture::Capture;
use crate::stack::datagram::DatagramSlot;
use crate::stack::device::Emitter;
use crate::stack::tcp::{self, Say, Tcp, TcpMemory};
use crate::store::flows::{FlowKey, FlowKind, FlowTable};
use crate::store::fragments::Fragments;
use crate::store::names::NameTable;
use crate::store::pace::Pace;
use crate::store::ring::{Consumer, Producer, Record, RingHandle};
use crate::store::slots::Slots;
use crate::store::timers::Timers;
use crate::wire::classify::Ends;
use crate::wire::reply::Quote;
use crate::wire::said::SaidName;

pub use inbound::Inbound;
use judge::Denials;
pub use memory::{Memory, MemoryLen};
pub use names::QueryStep;
use run::Run;
use turn::Waiting;
pub use turn::{FrameBudget, TurnMax};

/// The gateway of one guest.
///
/// `R` is how its two rings are held ([`RingHandle`]). Nothing is allocated after
/// [`new`](Self::new).
pub struct Engine<'a, R: RingHandle> {
    config: Config,
    ends: Ends,
    from_guest: Consumer<R>,
    out: Emitter<'a, R>,
    flows: FlowTable<'a>,
    timers: Timers<'a>,
    tcp: Tcp<'a>,
    datagrams: Slots<'a, DatagramSlot>,
    fragments: Fragments<'a>,
    names: NameTable<'a>,
    turn_left: FrameBudget,
    turn_max: TurnMax,
    waiting: Waiting,
    /// How fast the guest may send, where that is limited.
    pace: Option<Pace>,
    /// Each frame of the guest's is looked at: it is limited, or captured.
    is_watched: bool,
    denials: Denials,
    /// How often each part of the policy that holds decided.
    hits: Hits,
    /// The name that was said on the flow that is intercepted next; empty: none.
    heard: SaidName,
    /// TCP flows that somebody outside opened.
    inbound_tcp: u32,
    /// The gateway's port of the next flow that somebody outside opens.
    next_gateway_port: u16,
    own_is_known: bool,
    /// Segments that were put together and that smoltcp has not seen, and where they are.
    run: Option<Run>,
    run_bytes: &'a mut [u8],
    /// A reassembled datagram whose payload an action lends.
    lent_set: Option<usize>,
    /// Who tells the guest its addresses, if anybody.
    autoconf: Option<Autoconf>,
}

/// What [`Engine::poll`] returns, before it lends anything.
enum Step {
    Plain(Action<'static>),
    Denied(Denial),
    Intercept(Interception),
    Datagram { slot: u32, kind: DatagramKind, to: Outside, payload: Payload, segment_bytes: u16 },
}

/// An [`Action::Intercept`] without the name.
struct Interception {
    flow: FlowId,
    to: Outside,
    guest_port: u16,
    begins: Beginning,
    is_veiled: bool,
    is_denied: bool,
}

impl From<Action<'static>> for Step {
    fn from(action: Action<'static>) -> Self {
        Self::Plain(action)
    }
}

/// Where the payload of a datagram lies.
enum Payload {
    Ring(Record, Range<usize>),
    Set(usize, Range<usize>),
}

impl<'a, R: RingHandle> Engine<'a, R> {
    /// An engine over lent memory, between the ring that guest frames come from and the ring they
    /// go to.
    ///
    /// # Errors
    /// The first field of `config` that is out of range.
    ///
    /// # Panics
    /// If a part of `memory` is shorter than [`MemoryLen::of`] says.
    pub fn new(
        config: &Config,
        memory: Memory<'a>,
        from_guest: Consumer<R>,
        to_guest: Producer<R>,
        now: Instant,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let link = config.link;
        let seed = u128::from_le_bytes(config.seed);
        // Two halves for two generators; the flow hash has all of it under SipHash.
        #[allow(clippy::cast_possible_truncation, reason = "halves of the seed")]
        let (low, high) = (seed as u64, (seed >> 64) as u64);
        let (scratch, run_bytes) = memory.scratch.split_at_mut(FRAME_BYTES_MAX);
        #[allow(clippy::cast_possible_truncation, reason = "a part of the seed")]
        let mut out = Emitter::new(to_guest, scratch, link, high as u32);
        out.watch.set_pace(config.to_guest_rate.as_ref().map(|rate| Pace::new(rate, now)));
        let tcp = Tcp::new(
            TcpMemory {
                slots: memory.tcp,
                cells: memory.sockets,
                buffers: memory.buffers,
                receive_bytes: config.tcp_receive_bytes,
                send_bytes: config.tcp_send_bytes,
            },
            &mut out,
            low ^ high.rotate_left(32),
            now,
        );
        Ok(Self {
            ends: Ends::of(&link, config.autoconf.is_some()),
            from_guest,
            out,
            flows: FlowTable::new(
                (memory.flows, memory.flow_names),
                memory.index,
                config.flows_max(),
                &config.seed,
            ),
            timers: Timers::new(memory.timers, now),
            tcp,
            datagrams: Slots::new(memory.datagrams),
            fragments: Fragments::new(memory.fragments, memory.fragment_bytes),
            names: NameTable::new(
                memory.names,
                memory.name_texts,
                memory.name_buckets,
                &config.seed,
            ),
            turn_left: TurnMax::LONG.frames,
            turn_max: TurnMax::LONG,
            waiting: Waiting::default(),
            pace: config.from_guest_rate.as_ref().map(|rate| Pace::new(rate, now)),
            is_watched: config.from_guest_rate.is_some(),
            denials: Denials::default(),
            hits: Hits::NONE,
            heard: SaidName::new(),
            inbound_tcp: 0,
            next_gateway_port: inbound::first_port(&config.seed),
            own_is_known: true,
            run: None,
            run_bytes,
            lent_set: None,
            autoconf: config.autoconf.clone().map(|terms| Autoconf::new(terms, link, now)),
            config: config.clone(),
        })
    }

    /// The next thing to do. Call until it says [`Action::Wait`], then wait for what that says, for
    /// a frame, or for an event; `now` never goes back.
    ///
    /// # Cost
    /// Constant a frame, and bounded a turn.
    pub fn poll(&mut self, now: Instant) -> Action<'_> {
        if let Some(set) = self.lent_set.take() {
            self.fragments.release(set);
        }
        match self.step(now) {
            Step::Plain(action) => action,
            Step::Denied(denial) => Action::Denied { denial, name: self.denials.name() },
            Step::Intercept(said) => {
                let Interception { flow, to, guest_port, begins, is_veiled, is_denied } = said;
                let name = Some(self.heard.as_str()).filter(|name| !name.is_empty());
                Action::Intercept { flow, to, guest_port, begins, name, is_veiled, is_denied }
            }
            Step::Datagram { slot, kind, to, payload, segment_bytes } => {
                let flow = self.flows.id(slot);
                let payload = match payload {
                    Payload::Ring(record, range) => self.from_guest.bytes(&record).get(range),
                    Payload::Set(set, range) => {
                        self.lent_set = Some(set);
                        self.fragments.datagram(set).get(range)
                    }
                };
                let payload = payload.unwrap_or(&[]);
                Action::SendDatagram { flow, kind, to, payload, segment_bytes }
            }
        }
    }

    fn step(&mut self, now: Instant) -> Step {
        self.out.refill(now);
        if let Some(step) = self.denied() {
            return step;
        }
        while !self.turn_left.is_spent()
            && (self.pace.is_none() || !self.is_paced(now))
            && let Some(record) = self.from_guest.read()
        {
            self.turn_left.take(record.len());
            if let Some(step) = self.ingest(now, record) {
                return step;
            }
        }
        self.end_run(now);
        while let Some(slot) = self.timers.fire(now) {
            let step = self.expire(now, slot);
            if let Some(step) = step.or_else(|| self.denied()) {
                return step;
            }
        }
        if let Some(autoconf) = &mut self.autoconf {
            autoconf.expire(now, &mut self.out);
        }
        while let Some(slot) = self.flows.attention() {
            let step = self.attend(now, slot);
            if let Some(step) = step.or_else(|| self.denied()) {
                return step;
            }
            self.flows.attended();
        }
        while let Some(slot) = self.flows.pop_unused() {
            if let Some((bytes, is_ended)) = self.tcp.unused(now, slot) {
                return Step::Plain(Action::Unused { bytes, is_ended });
            }
        }
        Step::Plain(self.end_turn(now))
    }

    /// What was denied last, if nobody was told yet.
    fn denied(&mut self) -> Option<Step> {
        self.denials.take().map(Step::Denied)
    }

    /// What the flow in `slot` has to tell the host.
    fn attend(&mut self, now: Instant, slot: u32) -> Option<Step> {
        let say = self.tcp.say(now, slot)?;
        let flow = self.flows.id(slot);
        let is_known = self.tcp.is_known(slot);
        let action = match say {
            // What was seen may be the host's at once; it is looked at again only if more comes.
            Say::Look => return self.look(now, slot).or_else(|| self.attend(now, slot)),
            Say::Send => Action::Send { flow },
            Say::Finish => Action::Finish { flow },
            Say::Receive => Action::Receive { flow },
            Say::Close => Action::Close { flow },
            Say::Reset => {
                self.out.counters.tcp_reset += 1;
                Action::Reset { flow }
            }
        };
        if self.tcp.is_free(slot) {
            self.remove(slot);
        } else if self.tcp.is_lingering(slot) {
            self.flows.retire(slot);
        }
        is_known.then_some(action.into())
    }

    /// The timer of `slot` has come: a retransmission is due, or the flow's time is up.
    fn expire(&mut self, now: Instant, slot: u32) -> Option<Step> {
        if slot == self.pieces_slot() {
            self.expire_pieces(now);
        }
        let key = self.flows.key(slot)?;
        let flow = self.flows.id(slot);
        let kind = match key.kind {
            FlowKind::Tcp => return self.expire_tcp(now, slot, &key),
            FlowKind::Udp => DatagramKind::Udp,
            FlowKind::Echo => DatagramKind::Echo,
        };
        let deadline = self.datagram(slot).deadline(kind);
        if deadline > now {
            self.timers.set(slot, Some(deadline));
            return None;
        }
        self.remove(slot);
        Some(Action::Close { flow }.into())
    }

    fn expire_tcp(&mut self, now: Instant, slot: u32, key: &FlowKey) -> Option<Step> {
        let flow = self.flows.id(slot);
        if !self.tcp.is_overdue(now, slot) {
            let ends = tcp::ends(self.guest(key.outside), key);
            self.tcp.nudge(now, slot, ends, &mut self.out);
            self.flows.needs_attention(slot);
            // Egress may have to wait for room longer than the flow has patience.
            let deadline = self.tcp.patience(now, slot);
            self.timers.set(slot, deadline);
            self.flows.needs_egress(slot);
            if self.tcp.may_be_unused(now, slot) {
                self.flows.may_be_unused(slot);
            }
            return None;
        }
        if self.tcp.is_lingering(slot) {
            self.tcp.forget(slot);
            self.remove(slot);
            return None;
        }
        if self.tcp.is_done_looking(now, slot) {
            return self.give_up_looking(now, slot);
        }
        let is_known = self.tcp.is_known(slot);
        self.out.counters.tcp_reset += 1;
        if let Some(syn) = self.tcp.connecting(slot) {
            let quote = self.quote_syn(key, syn.seq());
            self.out.counters.count_refusal(Refusal::TimedOut);
            self.out.icmp_error(now, Refusal::TimedOut, &quote);
            self.tcp.forget(slot);
            self.remove(slot);
        } else {
            self.abort(slot);
        }
        is_known.then_some(Action::Reset { flow }.into())
    }

    /// Ends a connection with a reset for the guest. Its slot is free once that is sent, but its
    /// name dies at once.
    fn abort(&mut self, slot: u32) {
        self.tcp.abort(slot);
        self.flows.needs_egress(slot);
    }

    /// The guest's address in the family of `outside`.
    #[must_use]
    pub fn guest(&self, outside: IpAddr) -> IpAddr {
        match outside {
            IpAddr::V4(_) => self.config.link.guest_ipv4.into(),
            IpAddr::V6(_) => self.config.link.guest_ipv6.into(),
        }
    }

    fn quote_syn(&self, key: &FlowKey, seq: u32) -> Quote {
        let mut head = [0; 8];
        head[..2].copy_from_slice(&key.guest_port.to_be_bytes());
        head[2..4].copy_from_slice(&key.outside_port.to_be_bytes());
        head[4..].copy_from_slice(&seq.to_be_bytes());
        let guest = self.guest(key.outside);
        let protocol = crate::wire::classify::protocol::TCP;
        Quote { guest, outside: key.outside, protocol, len: 20, head }
    }

    fn remove(&mut self, slot: u32) {
        self.timers.clear(slot);
        self.flows.remove(slot);
        if self.tcp.take_inbound(slot) {
            self.inbound_tcp -= 1;
        }
        if slot < self.flows.datagrams_start() && self.tcp.may_be_unused(Instant::ZERO, slot) {
            self.flows.may_be_unused(slot);
        }
    }

    /// Writes every frame of the link to `ring` from now on, until another is given, or none; each
    /// a record that [`Captured`](crate::Captured) reads. What there is no room for is counted in
    /// the next record, and nobody waits for the reader.
    ///
    /// # Cost
    /// A copy of each frame while there is a ring; a look at a field where there is none.
    pub fn capture(&mut self, now: Instant, ring: Option<Producer<R>>) {
        self.out.watch.set_capture(ring.map(|ring| Capture::new(ring, now)));
        self.decide_watch();
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.out.counters
    }

    /// The ring that guest frames come from: its owner sleeps on it between turns.
    pub fn from_guest(&mut self) -> &mut Consumer<R> {
        &mut self.from_guest
    }
}
