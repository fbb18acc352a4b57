//! The host and what lies behind it: sockets that do as a test says.
//!
//! Stands where the driver stands, and keeps its side of the contract: takes what `Send` announces
//! until the socket is full, comes back when it is not, gives until there is no room, waits for
//! `Receive`. Checks the engine's side of it: no action for a flow that has ended, nothing said
//! twice.

use core::net::SocketAddr;
use core::ops::Range;
use std::collections::{BTreeMap, VecDeque};

use sluicegate_core::{
    Action, Beginning, DatagramKind, Engine, Event, FlowId, Instant, Outside, Refusal, RingHandle,
};

/// An action, kept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in `Action`")]
pub enum Did {
    Connect {
        flow: FlowId,
        to: Outside,
    },
    Intercept {
        flow: FlowId,
        to: Outside,
        name: Option<String>,
        is_veiled: bool,
        is_denied: bool,
        begins: Beginning,
    },
    Send {
        flow: FlowId,
    },
    Finish {
        flow: FlowId,
    },
    Receive {
        flow: FlowId,
    },
    Reset {
        flow: FlowId,
    },
    Close {
        flow: FlowId,
    },
    SendDatagram {
        flow: FlowId,
        kind: DatagramKind,
        to: Outside,
        payload: Vec<u8>,
        segment_bytes: u16,
    },
    Unused {
        bytes: Range<usize>,
        is_ended: bool,
    },
}

impl Did {
    /// `None`: it is nothing to do, a wait or a denial.
    #[must_use]
    pub fn of(action: &Action<'_>) -> Option<Self> {
        Some(match *action {
            Action::Connect { flow, to } => Self::Connect { flow, to },
            Action::Intercept { flow, to, name, is_veiled, is_denied, begins, .. } => {
                let name = name.map(str::to_owned);
                Self::Intercept { flow, to, name, is_veiled, is_denied, begins }
            }
            Action::Send { flow } => Self::Send { flow },
            Action::Finish { flow } => Self::Finish { flow },
            Action::Receive { flow } => Self::Receive { flow },
            Action::Reset { flow } => Self::Reset { flow },
            Action::Close { flow } => Self::Close { flow },
            Action::SendDatagram { flow, kind, to, payload, segment_bytes } => {
                Self::SendDatagram { flow, kind, to, payload: payload.to_vec(), segment_bytes }
            }
            Action::Unused { ref bytes, is_ended } => {
                Self::Unused { bytes: bytes.clone(), is_ended }
            }
            Action::Denied { .. } | Action::Wait { .. } => return None,
        })
    }
}

/// What becomes of a connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It succeeds at once.
    Accept,
    /// It fails at once.
    Refuse(Refusal),
    /// Nothing comes back until the test says so.
    Silence,
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In order, both ways.
    Close,
    /// The guest or the engine gave it up.
    Reset,
    /// The outside gave it up, or never accepted it.
    Outside,
}

/// A stream socket.
#[derive(Debug)]
pub struct Stream {
    /// The flow's name.
    pub id: FlowId,
    /// Where it goes.
    pub to: Outside,
    /// Whether it is connected.
    pub open: bool,
    /// What the guest sent.
    pub received: Vec<u8>,
    /// How many more bytes of the guest the socket takes.
    pub room: usize,
    /// What the peer has for the guest and the engine has not taken.
    pub to_give: VecDeque<u8>,
    /// Bytes that the engine has taken.
    pub given: u64,
    /// Whether the peer finishes once everything is given.
    pub finishes: bool,
    /// The guest's end of data was seen.
    pub guest_finished: bool,
    /// How it ended.
    pub end: Option<End>,
    finish_told: bool,
    announced: bool,
    /// Some of what was announced was taken.
    took: bool,
    starved: bool,
}

/// The socket of a UDP or echo flow.
#[derive(Debug, Clone)]
pub struct Datagrams {
    /// The flow's name.
    pub id: FlowId,
    /// What it carries.
    pub kind: DatagramKind,
    /// Where it goes.
    pub to: Outside,
    /// What the guest sent.
    pub sent: Vec<Vec<u8>>,
}

/// All sockets of the host.
#[derive(Debug)]
pub struct Peers {
    /// What becomes of connects.
    pub answer: Answer,
    /// How many bytes of the guest a new stream takes before its peer reads.
    pub room: usize,
    /// The live streams, by the flow's index.
    pub streams: BTreeMap<u32, Stream>,
    /// The streams that have ended, in order.
    pub ended: Vec<Stream>,
    /// The live datagram sockets, by the flow's index.
    pub datagrams: BTreeMap<u32, Datagrams>,
    /// The datagram flows of who came from outside and was not answered.
    pub unanswered: Vec<FlowId>,
    /// The datagram flows that have ended, in order.
    pub closed: Vec<Datagrams>,
    /// Every action so far.
    pub log: Vec<Did>,
}

impl Peers {
    /// A host without sockets, whose every connect succeeds.
    #[must_use]
    pub fn new() -> Self {
        Self {
            answer: Answer::Accept,
            room: usize::MAX,
            streams: BTreeMap::new(),
            ended: vec![],
            datagrams: BTreeMap::new(),
            unanswered: vec![],
            closed: vec![],
            log: vec![],
        }
    }

    /// Does what `did` asks.
    ///
    /// # Panics
    /// Where the engine breaks its contract.
    pub fn act<R: RingHandle>(&mut self, did: Did, engine: &mut Engine<'_, R>, now: Instant) {
        self.log.push(did.clone());
        match did {
            Did::Connect { flow, to } | Did::Intercept { flow, to, .. } => {
                self.connect(flow, to, engine, now);
            }
            Did::Send { flow } => {
                let stream = self.live(flow);
                let news = !stream.announced || stream.took;
                assert!(news, "bytes of {flow:?} are announced twice");
                stream.took = false;
                assert!(!stream.guest_finished, "bytes of {flow:?} after its end");
                stream.announced = true;
            }
            Did::Finish { flow } => {
                let stream = self.live(flow);
                assert!(!stream.guest_finished, "{flow:?} finishes twice");
                let news = !stream.announced || stream.took;
                assert!(news, "{flow:?} finishes before its bytes were taken");
                (stream.guest_finished, stream.announced) = (true, false);
            }
            Did::Receive { flow } => {
                let stream = self.live(flow);
                assert!(stream.starved, "{flow:?} has room that nobody waits for");
                stream.starved = false;
            }
            Did::Reset { flow } => self.end(flow, End::Reset),
            Did::Close { flow } => self.close(flow),
            Did::Unused { .. } => {}
            Did::SendDatagram { flow, kind, to, payload, segment_bytes } => {
                let step = usize::from(segment_bytes);
                let rest = payload.len().saturating_sub(1).checked_div(step).unwrap_or(0);
                for number in 0..=rest {
                    let end = if step == 0 { payload.len() } else { (number + 1) * step };
                    let one = &payload[number * step..end.min(payload.len())];
                    self.send_datagram(flow, (kind, to), one.to_vec());
                }
            }
        }
    }

    fn connect<R: RingHandle>(
        &mut self,
        id: FlowId,
        to: Outside,
        engine: &mut Engine<'_, R>,
        now: Instant,
    ) {
        self.begin(id, to);
        match self.answer {
            Answer::Accept => self.accept(id.index, engine, now),
            Answer::Refuse(refusal) => self.refuse(id.index, refusal, engine, now),
            Answer::Silence => {}
        }
    }

    /// `peer` came from outside, whose flow is `id`: it stands where others have their destination.
    pub fn came(&mut self, id: FlowId, peer: SocketAddr) {
        self.begin(id, Outside::Remote(peer));
        self.stream(id.index).open = true;
    }

    /// The same for datagrams.
    pub fn came_without_connection(&mut self, id: FlowId) {
        self.closed.extend(self.datagrams.remove(&id.index));
        self.unanswered.push(id);
    }

    fn begin(&mut self, id: FlowId, to: Outside) {
        let stream = Stream {
            id,
            to,
            open: false,
            received: vec![],
            room: self.room,
            to_give: VecDeque::new(),
            given: 0,
            finishes: false,
            guest_finished: false,
            end: None,
            finish_told: false,
            announced: false,
            took: false,
            starved: false,
        };
        let before = self.streams.insert(id.index, stream);
        assert!(before.is_none(), "{id:?} takes the place of a live flow");
    }

    /// The connect of the stream at `index` succeeds.
    pub fn accept<R: RingHandle>(&mut self, index: u32, engine: &mut Engine<'_, R>, now: Instant) {
        let stream = self.stream(index);
        stream.open = true;
        engine.handle(now, Event::Connected { flow: stream.id });
    }

    /// The connect of the stream at `index` fails.
    pub fn refuse<R: RingHandle>(
        &mut self,
        index: u32,
        refusal: Refusal,
        engine: &mut Engine<'_, R>,
        now: Instant,
    ) {
        let flow = self.stream(index).id;
        engine.handle(now, Event::ConnectFailed { flow, refusal });
        self.end(flow, End::Outside);
    }

    /// The peer of the stream at `index` resets it.
    pub fn reset<R: RingHandle>(&mut self, index: u32, engine: &mut Engine<'_, R>, now: Instant) {
        let flow = self.stream(index).id;
        engine.handle(now, Event::OutsideReset { flow });
        self.end(flow, End::Outside);
    }

    /// The live stream at `index`.
    pub fn stream(&mut self, index: u32) -> &mut Stream {
        self.streams.get_mut(&index).expect("because the test says that it is live")
    }

    fn live(&mut self, flow: FlowId) -> &mut Stream {
        let stream = self.streams.get_mut(&flow.index);
        let stream = stream.expect("because an action names a live flow");
        assert_eq!(stream.id, flow, "an action names a flow that has ended");
        stream
    }

    fn end(&mut self, flow: FlowId, end: End) {
        self.live(flow);
        if let Some(mut stream) = self.streams.remove(&flow.index) {
            stream.end = Some(end);
            self.ended.push(stream);
        }
    }

    fn close(&mut self, flow: FlowId) {
        if let Some(at) = self.unanswered.iter().position(|id| *id == flow) {
            self.unanswered.swap_remove(at);
            return;
        }
        if let Some(socket) = self.datagrams.remove(&flow.index) {
            assert_eq!(socket.id, flow, "an action names a flow that has ended");
            self.closed.push(socket);
            return;
        }
        let stream = self.live(flow);
        assert!(stream.guest_finished && stream.finish_told, "{flow:?} closes before both ends");
        self.end(flow, End::Close);
    }

    /// Closes the sockets of what `engine` has ended without an action.
    pub fn close_ended<R: RingHandle>(&mut self, engine: &Engine<'_, R>) {
        let ended = self.streams.extract_if(.., |_, stream| !engine.is_live(stream.id));
        self.ended.extend(ended.map(|(_, stream)| Stream { end: Some(End::Reset), ..stream }));
        let closed = self.datagrams.extract_if(.., |_, socket| !engine.is_live(socket.id));
        self.closed.extend(closed.map(|(_, socket)| socket));
        self.unanswered.retain(|flow| engine.is_live(*flow));
    }

    fn send_datagram(&mut self, id: FlowId, what: (DatagramKind, Outside), payload: Vec<u8>) {
        let (kind, to) = what;
        assert!(payload.len() <= 65_527, "no datagram has {} bytes", payload.len());
        // A new use of a slot says that the old one has ended.
        if self.datagrams.get(&id.index).is_some_and(|socket| socket.id != id) {
            self.closed.extend(self.datagrams.remove(&id.index));
        }
        self.unanswered.retain(|unanswered| *unanswered != id);
        let socket = self.datagrams.entry(id.index);
        let socket = socket.or_insert_with(|| Datagrams { id, kind, to, sent: vec![] });
        assert_eq!((socket.kind, socket.to), what, "{id:?} changes its destination");
        socket.sent.push(payload);
    }

    /// Moves bytes wherever a socket lets it. True: something moved.
    pub fn serve<R: RingHandle>(&mut self, engine: &mut Engine<'_, R>, now: Instant) -> bool {
        let mut moved = false;
        for stream in self.streams.values_mut().filter(|stream| stream.open) {
            moved |= stream.serve(engine, now);
        }
        moved
    }
}

impl Default for Peers {
    fn default() -> Self {
        Self::new()
    }
}

impl Stream {
    fn serve<R: RingHandle>(&mut self, engine: &mut Engine<'_, R>, now: Instant) -> bool {
        let mut moved = false;
        while self.announced && self.room > 0 {
            let (received, room) = (&mut self.received, &mut self.room);
            let taken = engine.take_from_guest(now, self.id, |bytes| {
                assert!(!bytes.is_empty(), "a window of no bytes");
                let len = bytes.len().min(*room);
                received.extend(&bytes[..len]);
                if *room < usize::MAX {
                    *room -= len;
                }
                len
            });
            self.announced = taken.is_some();
            self.took |= self.announced;
            moved |= self.announced;
        }
        while !self.starved && !self.to_give.is_empty() {
            let to_give = &mut self.to_give;
            let given = engine.give_to_guest(self.id, |space| {
                assert!(!space.is_empty(), "space for no bytes");
                let len = space.len().min(to_give.len());
                for (to, byte) in space.iter_mut().zip(to_give.drain(..len)) {
                    *to = byte;
                }
                len
            });
            self.starved = given.is_none();
            self.given += given.unwrap_or(0) as u64;
            moved |= !self.starved;
        }
        if self.finishes && self.to_give.is_empty() && !self.finish_told {
            self.finish_told = true;
            engine.handle(now, Event::OutsideFinished { flow: self.id });
            moved = true;
        }
        moved
    }
}
