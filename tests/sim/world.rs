//! The middle: one engine, its rings, its clock, and the host's sockets.

use std::sync::Arc;

use sluicegate_core::{
    Action, Config, ConfigError, Consumer, Counters, Cut, Denial, Drop, Engine, FrameRing, Instant,
    Offload, Producer, WaitReason,
};

use crate::oracle::drops;
use crate::{Clock, Did, Oracle, Pcap, Peers, Room, Seen, Stream};

/// How the rings are held.
pub type Ring = Arc<FrameRing<Vec<u8>>>;

/// Turns at one time without any effect before the engine counts as spinning.
const IDLE_TURNS_MAX: u32 = 4;

/// An engine and everything around it but the guest.
pub struct World<'a> {
    /// Virtual time.
    pub clock: Clock,
    /// The host's sockets.
    pub peers: Peers,
    /// The rules.
    pub oracle: Oracle,
    /// What went over the link.
    pub pcap: Pcap,
    /// The engine itself.
    pub engine: Engine<'a, Ring>,
    /// Frames for the guest that no test has looked at yet.
    pub inbox: Vec<Seen>,
    /// The same, as bytes.
    pub raw: Vec<Vec<u8>>,
    /// As how many frames of the inbox each record of the ring came.
    pub records: Vec<usize>,
    /// What the engine told of denials.
    pub denials: Vec<Denial>,
    /// The names that were said on the flows of these.
    pub denied_names: Vec<Option<String>>,
    /// The guest takes no frames.
    pub stalled: bool,
    /// Frames are looked at as they come, though a guest that is stalled takes none: they keep
    /// their room in the ring until it does.
    pub looks_ahead: bool,
    from_guest: Producer<Ring>,
    to_guest: Consumer<Ring>,
    /// Frames were read that have their room still.
    is_ahead: bool,
    wait: (Option<Instant>, WaitReason),
}

impl<'a> World<'a> {
    /// The world in `room`.
    pub fn new(room: &'a mut Room<'a>) -> Self {
        let (config, bytes) = (room.config.clone(), room.ring_bytes);
        let ring = || FrameRing::split(Arc::new(FrameRing::new(vec![0; bytes])));
        let (from_guest, engine_in) = ring();
        let (engine_out, to_guest) = ring();
        let clock = Clock::new();
        let engine = Engine::new(&config, room.lend(), engine_in, engine_out, clock.now());
        let name = std::thread::current().name().unwrap_or("run").replace("::", "-");
        Self {
            clock,
            peers: Peers::new(),
            oracle: Oracle::new(config.link),
            pcap: Pcap::new(&name),
            engine: engine.expect("because the configuration of a test is valid"),
            inbox: vec![],
            raw: vec![],
            records: vec![],
            denials: vec![],
            denied_names: vec![],
            stalled: false,
            looks_ahead: false,
            from_guest,
            to_guest,
            is_ahead: false,
            wait: (None, WaitReason::Idle),
        }
    }

    /// The present.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        *self.engine.counters()
    }

    /// When the engine wants to be asked again, and why.
    #[must_use]
    pub fn wait(&self) -> (Option<Instant>, WaitReason) {
        self.wait
    }

    /// Puts a frame into the ring, without telling the engine. False: it is full.
    pub fn push(&mut self, frame: &[u8]) -> bool {
        self.push_offloaded(frame, Offload::NONE)
    }

    /// The same, with an offload record.
    pub fn push_offloaded(&mut self, frame: &[u8], offload: Offload) -> bool {
        let fits = self.from_guest.push(frame, offload);
        if fits {
            self.pcap.push(self.clock.now(), frame);
            self.oracle.frames_sent += 1;
            self.from_guest.flush();
        }
        fits
    }

    /// Sends a frame and lets everything happen that follows from it now.
    ///
    /// # Panics
    /// If the ring is full.
    pub fn send(&mut self, frame: &[u8]) {
        assert!(self.push(frame), "the ring from the guest is full");
        self.run();
    }

    /// Sends a frame and returns why it was dropped, if it was.
    ///
    /// # Panics
    /// If it was counted more than once.
    pub fn dropped(&mut self, frame: &[u8]) -> Option<Drop> {
        let before = self.counters();
        self.send(frame);
        let after = self.counters();
        let counted = drops(&after) - drops(&before);
        assert!(counted <= 1, "one frame is counted as {counted} drops");
        let grew = |reason: &&Drop| after.dropped(**reason) > before.dropped(**reason);
        Drop::ALL.iter().filter(|r| !matches!(r, Drop::AnswerLost)).find(grew).copied()
    }

    /// Lets everything happen that can happen now.
    ///
    /// # Panics
    /// If the engine breaks a rule, or has no end.
    pub fn run(&mut self) {
        let mut idle = 0;
        loop {
            let now = self.now();
            let before = (self.engine.counters().frames_from_guest, self.oracle.frames_taken);
            let mut moved = self.peers.serve(&mut self.engine, now);
            moved |= self.poll();
            moved |= self.collect();
            let after = (self.engine.counters().frames_from_guest, self.oracle.frames_taken);
            let again = self.wait.0.is_some_and(|until| until <= now);
            if moved || before != after {
                idle = 0;
                continue;
            }
            if !again {
                break;
            }
            idle += 1;
            assert!(idle <= IDLE_TURNS_MAX, "the engine spins: {:?}", self.wait);
        }
        self.check();
    }

    /// One turn of the engine.
    fn poll(&mut self) -> bool {
        let now = self.now();
        let mut moved = false;
        loop {
            let action = self.engine.poll(now);
            if let Action::Wait { until, why } = action {
                self.wait = (until, why);
                return moved;
            }
            if let Action::Denied { denial, name } = action {
                self.denials.push(denial);
                self.denied_names.push(name.map(str::to_owned));
            } else if let Some(did) = Did::of(&action) {
                self.peers.act(did, &mut self.engine, now);
            }
            moved = true;
        }
    }

    /// Takes the frames for the guest, unless it is stalled. True: there is room in the ring that
    /// was not there.
    fn collect(&mut self) -> bool {
        if self.stalled {
            while self.looks_ahead && self.read_one() {}
            return false;
        }
        while self.read_one() {}
        self.to_guest.release();
        core::mem::take(&mut self.is_ahead)
    }

    /// Takes one frame of the ring for the guest, stalled or not: as many frames of the link as a
    /// guest without offloads gets for it.
    pub fn collect_one(&mut self) -> bool {
        let is_one = self.read_one();
        self.to_guest.release();
        is_one
    }

    /// Reads the next frame for the guest, which stays in the ring until that is released.
    fn read_one(&mut self) -> bool {
        let Some(record) = self.to_guest.read() else { return false };
        self.is_ahead = true;
        let whole = self.to_guest.bytes(&record).to_vec();
        let mut cut = Cut::new(whole.len(), record.offload);
        let mut pieces = 0;
        while let Some(len) = cut.next_len() {
            let mut frame = vec![0; len];
            assert_eq!(cut.next_into(&whole, &mut frame), Some(len), "a piece is as long as said");
            self.pcap.push(self.clock.now(), &frame);
            let seen = self.oracle.frame(&frame);
            self.inbox.push(seen);
            self.raw.push(frame);
            pieces += 1;
        }
        self.records.push(pieces);
        assert_eq!(pieces, record.offload.frames(whole.len()), "as many pieces as are counted");
        true
    }

    fn check(&mut self) {
        let now = self.now();
        let is_paced = self.engine.is_paced(now);
        self.oracle.counts(self.engine.counters(), is_paced);
        let flows = self.peers.streams.len() + self.peers.datagrams.len();
        let (until, why) = self.wait;
        assert!(
            flows == 0 || until.is_some() || why == WaitReason::GuestRingFull,
            "{flows} flows wait for ever"
        );
        assert_eq!(why == WaitReason::Idle, until.is_none() && why != WaitReason::GuestRingFull);
    }

    /// Lets `config` hold from now on, and closes the sockets of what it ends, as the host does.
    ///
    /// # Errors
    /// As the engine says: nothing has changed then.
    pub fn replace_config(&mut self, config: &Config) -> Result<(), ConfigError> {
        self.engine.replace_config(self.clock.now(), config)?;
        self.close_ended();
        Ok(())
    }

    /// Closes the sockets of what the engine has ended without an action.
    pub fn close_ended(&mut self) {
        self.peers.close_ended(&self.engine);
        self.run();
    }

    /// Lets `ms` milliseconds pass, waking the engine whenever it wants.
    pub fn advance(&mut self, ms: u64) {
        let end = self.now().plus_millis(ms);
        self.run();
        while let Some(until) = self.wait.0.filter(|until| *until <= end) {
            assert!(until > self.now(), "the engine wants to be woken in the past");
            self.clock.move_to(until);
            self.run();
        }
        self.clock.move_to(end);
        self.run();
    }

    /// The frames for the guest since this was last asked.
    pub fn inbox(&mut self) -> Vec<Seen> {
        self.raw.clear();
        self.records.clear();
        core::mem::take(&mut self.inbox)
    }

    /// The one live stream.
    ///
    /// # Panics
    /// If there are none, or several.
    pub fn stream(&mut self) -> &mut Stream {
        assert_eq!(self.peers.streams.len(), 1, "one stream is live");
        self.peers.streams.values_mut().next().expect("because there is one")
    }

    /// The connect of the one live stream succeeds.
    pub fn accept(&mut self) {
        let (index, now) = (self.stream().id.index, self.now());
        self.peers.accept(index, &mut self.engine, now);
        self.run();
    }

    /// The connect of the one live stream fails.
    pub fn refuse(&mut self, refusal: sluicegate_core::Refusal) {
        let (index, now) = (self.stream().id.index, self.now());
        self.peers.refuse(index, refusal, &mut self.engine, now);
        self.run();
    }

    /// The peer of the one live stream resets it.
    pub fn reset(&mut self) {
        let (index, now) = (self.stream().id.index, self.now());
        self.peers.reset(index, &mut self.engine, now);
        self.run();
    }

    /// The peer of the one live stream sends `bytes`.
    pub fn give(&mut self, bytes: &[u8]) {
        self.stream().to_give.extend(bytes);
        self.run();
    }

    /// The peer of the one live stream has finished.
    pub fn finish(&mut self) {
        self.stream().finishes = true;
        self.run();
    }

    /// A datagram comes back on the flow at `index`.
    pub fn deliver(&mut self, index: u32, payload: &[u8]) {
        let now = self.now();
        let flow = self.peers.datagrams[&index].id;
        assert!(self.engine.can_deliver(now), "there is room for a datagram");
        self.engine.deliver(now, flow, payload);
        self.run();
    }

    /// A row of datagrams of `segment_bytes` bytes comes back on the flow at `index`. Where the
    /// ring is full, the guest takes frames until it goes on, stalled or not. Returns how many
    /// pieces it took.
    ///
    /// # Panics
    /// If the engine stops within a datagram.
    pub fn deliver_row(&mut self, index: u32, payload: &[u8], segment_bytes: u16) -> usize {
        let now = self.now();
        let flow = self.peers.datagrams[&index].id;
        let (mut rest, mut pieces) = (payload, 0);
        while !rest.is_empty() {
            while !self.engine.can_deliver(now) {
                assert!(self.collect_one(), "an empty ring has room");
            }
            let done = self.engine.deliver_row(now, flow, rest, segment_bytes);
            rest = &rest[done..];
            pieces += 1;
            assert!(rest.is_empty() || done.is_multiple_of(segment_bytes.into()), "{done} bytes");
        }
        self.run();
        pieces
    }

    /// A datagram of the flow at `index` could not be sent.
    pub fn fail_datagram(&mut self, index: u32, refusal: sluicegate_core::Refusal) {
        let now = self.now();
        let flow = self.peers.datagrams[&index].id;
        self.engine.handle(now, sluicegate_core::Event::DatagramFailed { flow, refusal });
        self.run();
    }

    /// The index of the one live datagram flow.
    ///
    /// # Panics
    /// If there are none, or several.
    pub fn datagram(&self) -> u32 {
        assert_eq!(self.peers.datagrams.len(), 1, "one datagram flow is live");
        *self.peers.datagrams.keys().next().expect("because there is one")
    }
}
