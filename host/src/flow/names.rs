//! Flows on which a guest asks for names: the engine judges, the cache and the resolver know, and
//! no socket is a flow's own.
//!
//! Owns the way of a query to them and of the answer back, over datagrams and over streams
//! (RFC 1035 4.2, RFC 7766); must not know what a message says.
//!
//! Bounded: a stream has so many queries under way and so many bytes of answers waiting, or no more
//! is read from it; one that is silent is ended, one that takes no answers is reset, and so is the
//! oldest where there are too many.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use sluicegate_core::{Event, FlowId, Instant, QueryStep, limits};

use super::{Flow, Flows, HostEngine, Served, Slot};
use crate::intercept::{End, Read, Write};
use crate::service::dns::{Answered, Cache, Resolver, Server};

/// Answers of the resolver that one turn hands on.
const TURN_ANSWERS_MAX: usize = 256;
/// Queries of the guest that may wait for answers, many of them maybe for the same.
const WAITING_MAX: usize = 2048;
/// Bytes of the longest query; those of the guests' resolvers have a tenth of it.
const QUERY_BYTES_MAX: usize = 4096;
/// Streams of one network; with one more the oldest is reset (RFC 7766 6.2.2 lets a server).
const STREAMS_MAX: usize = 64;
/// Queries of one stream that may be under way (RFC 7766 6.2.1.1 lets it have many).
const STREAM_QUERIES_MAX: u32 = 16;
/// Bytes of answers that may wait for the guest before no more is read from a stream.
const STREAM_BYTES_MAX: usize = 128 * 1024;
/// A stream without a query or an answer for so long is ended (RFC 7766 6.2.3).
const STREAM_IDLE_MS_MAX: u64 = 30_000;
/// One that is past that and not gone yet is looked at again after this time.
const STREAM_LOOK_MS: u64 = 1000;

/// A query that the resolver has.
struct Pending {
    /// As it went upstream, with number 0.
    asked: Vec<u8>,
    /// Who waits for the answer, each with its query as the guest sent it.
    askers: VecDeque<(FlowId, Vec<u8>)>,
}

/// An answer that has come, and who has yet to get it.
struct Due {
    answer: Option<Vec<u8>>,
    askers: VecDeque<(FlowId, Vec<u8>)>,
}

/// What a query led to.
enum Heard {
    /// So many bytes of `out` are the answer.
    Reply(usize),
    /// The answer comes later.
    Later,
    /// There is none.
    Nothing,
}

/// The name service of a network.
pub(super) struct Names {
    resolver: Resolver,
    cache: Cache,
    pending: HashMap<u32, Pending>,
    /// What is being asked, and under which number: nobody is asked the same twice at a time.
    under_way: HashMap<Vec<u8>, u32>,
    /// Queries of the guest that wait, of all flows.
    waiting: usize,
    ticket: u32,
    /// An answer that not all have who wait for it.
    due: Option<Due>,
    /// There was no room towards the guest.
    is_stalled: bool,
    /// There may be more answers than one turn hands on.
    has_more: bool,
    out: Box<[u8]>,
    /// The streams, by when each is to be looked at.
    streams: VecDeque<(Instant, FlowId)>,
}

impl Names {
    pub(super) fn new(resolver: Resolver) -> Self {
        Self {
            resolver,
            cache: Cache::default(),
            pending: HashMap::new(),
            under_way: HashMap::new(),
            waiting: 0,
            ticket: 0,
            due: None,
            is_stalled: false,
            has_more: false,
            out: vec![0; limits::DNS_MESSAGE_BYTES_MAX].into(),
            streams: VecDeque::new(),
        }
    }

    /// Asks other servers from now on; what the first have been asked comes as it comes.
    pub(super) fn replace_servers(&mut self, servers: Vec<Server>, timeout: Duration) {
        self.resolver.replace_servers(servers, timeout);
        self.cache = Cache::default();
    }

    fn hear(
        &mut self,
        engine: &mut HostEngine<'_>,
        now: Instant,
        flow: FlowId,
        query: &[u8],
    ) -> Heard {
        let len = match engine.judge_query(now, (flow, query), &mut self.out) {
            QueryStep::Ignore => return Heard::Nothing,
            QueryStep::Reply(len) => return reply(len),
            QueryStep::Ask(len) => len,
        };
        let asked = self.out.get(..len).unwrap_or(&[]).to_vec();
        let known = self.cache.answer(now, &asked);
        if known.is_none() && self.waiting < WAITING_MAX && self.ask(asked, (flow, query)) {
            return Heard::Later;
        }
        reply(engine.judge_answer(now, (flow, query), known.as_deref(), &mut self.out))
    }

    /// Lets `asked` be asked, or waits for who asks it already. False: too much is under way.
    fn ask(&mut self, asked: Vec<u8>, (flow, query): (FlowId, &[u8])) -> bool {
        let same = self.under_way.get(&asked).and_then(|ticket| self.pending.get_mut(ticket));
        if let Some(same) = same {
            same.askers.push_back((flow, query.to_vec()));
        } else {
            self.ticket = self.ticket.wrapping_add(1);
            if !self.resolver.ask(self.ticket, asked.clone()) {
                return false;
            }
            self.under_way.insert(asked.clone(), self.ticket);
            let askers = VecDeque::from([(flow, query.to_vec())]);
            self.pending.insert(self.ticket, Pending { asked, askers });
        }
        self.waiting += 1;
        true
    }

    /// The next answer, and who waits for it.
    fn next_due(&mut self, now: Instant) -> Option<Due> {
        self.due.take().or_else(|| {
            let Answered { ticket, answer } = self.resolver.answered()?;
            let Pending { asked, askers } = self.pending.remove(&ticket)?;
            self.under_way.remove(&asked);
            if let Some(answer) = &answer {
                self.cache.keep(now, &asked, answer);
            }
            Some(Due { answer, askers })
        })
    }

    /// Whether answers wait that can be handed on at once.
    pub(super) fn is_busy(&self) -> bool {
        self.has_more && !self.is_stalled
    }

    /// When a stream has been silent for too long, if none says anything.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.streams.front().map(|(due, _)| *due)
    }
}

fn reply(len: usize) -> Heard {
    if len == 0 { Heard::Nothing } else { Heard::Reply(len) }
}

/// How a stream's bytes come and go.
pub(super) enum Way {
    /// As the guest's own.
    Flow,
    /// By a task that ends the TLS around them (RFC 7858).
    Tls(End),
}

/// A connection on which the guest asks (RFC 7766).
pub(super) struct NameStream {
    id: FlowId,
    way: Way,
    /// What came of the guest and is no whole query yet.
    heard: Vec<u8>,
    to_give: VecDeque<u8>,
    under_way: u32,
    /// Queries were left with the engine, as too much is under way.
    is_behind: bool,
    guest_has_finished: bool,
    is_over: bool,
    idle_at: Instant,
}

impl NameStream {
    fn new(id: FlowId, now: Instant, way: Way) -> Self {
        Self {
            id,
            way,
            heard: Vec::new(),
            to_give: VecDeque::new(),
            under_way: 0,
            is_behind: false,
            guest_has_finished: false,
            is_over: false,
            idle_at: now.plus_millis(STREAM_IDLE_MS_MAX),
        }
    }

    /// The guest's flow has finished. Inside TLS there may be more, and an end of its own.
    pub(super) fn finish(&mut self) {
        match self.way {
            Way::Flow => self.guest_has_finished = true,
            Way::Tls(_) => {}
        }
    }

    fn has_room(&self) -> bool {
        self.under_way < STREAM_QUERIES_MAX && self.to_give.len() < STREAM_BYTES_MAX
    }

    /// Takes in and asks what the guest has sent, as far as there is room. False: what it sends is
    /// no query.
    fn listen(&mut self, (engine, now): (&mut HostEngine<'_>, Instant), names: &mut Names) -> bool {
        loop {
            while let Some(query) = self.next_query() {
                self.idle_at = now.plus_millis(STREAM_IDLE_MS_MAX);
                match names.hear(engine, now, self.id, &query) {
                    Heard::Reply(len) => self.push(names.out.get(..len).unwrap_or(&[])),
                    Heard::Later => self.under_way += 1,
                    Heard::Nothing => return false,
                }
            }
            self.is_behind = !self.has_room();
            if self.is_behind || self.is_too_long() {
                return self.is_behind;
            }
            if !self.take(engine, now) {
                return true;
            }
        }
    }

    /// Takes in more of what the guest has said; false: there is no more now.
    fn take(&mut self, engine: &mut HostEngine<'_>, now: Instant) -> bool {
        let heard = &mut self.heard;
        match &mut self.way {
            Way::Flow => {
                let taken = engine.take_from_guest(now, self.id, |bytes| {
                    let len = bytes.len().min(QUERY_BYTES_MAX);
                    heard.extend_from_slice(bytes.get(..len).unwrap_or(&[]));
                    len
                });
                taken.is_some()
            }
            Way::Tls(end) => {
                let mut space = [0; QUERY_BYTES_MAX];
                match end.read(&mut space) {
                    Read::Some(len) => {
                        heard.extend_from_slice(space.get(..len).unwrap_or(&[]));
                        true
                    }
                    Read::Nothing => false,
                    // If that is not in order, the task says so of the flow.
                    Read::Finished | Read::Broken => {
                        self.guest_has_finished = true;
                        false
                    }
                }
            }
        }
    }

    fn framed_len(&self) -> Option<usize> {
        self.heard.first_chunk().map(|len| usize::from(u16::from_be_bytes(*len)))
    }

    fn is_too_long(&self) -> bool {
        self.framed_len().is_some_and(|len| len > QUERY_BYTES_MAX)
    }

    /// The next whole query, if there is room for what follows from it.
    fn next_query(&mut self) -> Option<Vec<u8>> {
        let end = 2 + self.framed_len().filter(|_| self.has_room())?;
        if self.heard.len() < end || self.is_too_long() {
            return None;
        }
        Some(self.heard.drain(..end).skip(2).collect())
    }

    fn push(&mut self, answer: &[u8]) {
        let len = u16::try_from(answer.len()).unwrap_or(0);
        self.to_give.extend(len.to_be_bytes());
        self.to_give.extend(answer);
    }

    /// Gives the guest what there is for it, as far as it takes that; false: it takes no more now.
    fn give(&mut self, engine: &mut HostEngine<'_>) -> bool {
        while !self.to_give.is_empty() {
            let to_give = &mut self.to_give;
            if let Way::Tls(end) = &mut self.way {
                match end.write(to_give.as_slices().0) {
                    Write::Some(len) => drop(to_give.drain(..len)),
                    Write::Full => return false,
                    // Nobody is there to have it; the task says how that came.
                    Write::Broken => to_give.clear(),
                }
                continue;
            }
            let given = engine.give_to_guest(self.id, |space| {
                let (bytes, _) = to_give.as_slices();
                let len = bytes.len().min(space.len());
                if let Some((to, from)) = space.get_mut(..len).zip(bytes.get(..len)) {
                    to.copy_from_slice(from);
                }
                to_give.drain(..len);
                len
            });
            if given.is_none() {
                return false;
            }
        }
        true
    }

    /// Gives the guest what there is for it, asks what it has said meanwhile, and ends the stream
    /// when there will be no more.
    pub(super) fn serve(
        &mut self,
        (engine, now): (&mut HostEngine<'_>, Instant),
        names: &mut Names,
    ) -> Served {
        let is_called = matches!(self.way, Way::Tls(_)) && !self.is_over;
        if is_called && !self.listen((engine, now), names) {
            engine.handle(now, Event::OutsideReset { flow: self.id });
            return Served::Ended;
        }
        loop {
            let is_given = self.give(engine);
            if self.is_behind && self.has_room() {
                if !self.listen((engine, now), names) {
                    engine.handle(now, Event::OutsideReset { flow: self.id });
                    return Served::Ended;
                }
            } else if is_given {
                break;
            } else {
                return Served::Waits; // the engine says when there is room
            }
        }
        let is_idle = self.guest_has_finished || self.idle_at <= now;
        if is_idle && self.under_way == 0 && !self.is_behind && !self.is_over {
            self.is_over = true;
            match &mut self.way {
                Way::Flow => engine.handle(now, Event::OutsideFinished { flow: self.id }),
                Way::Tls(end) => end.finish(),
            }
        }
        Served::Waits
    }
}

impl Flows {
    /// The guest opens a stream to ask on.
    pub(super) fn accept_names(&mut self, engine: &mut HostEngine<'_>, now: Instant, id: FlowId) {
        let stream = self.begin_stream((engine, now), id, Way::Flow);
        self.insert(id, Flow::Names(stream));
        engine.handle(now, Event::Connected { flow: id });
    }

    /// A stream for the flow `id`, for which the oldest gives way if there are too many.
    pub(super) fn begin_stream(
        &mut self,
        (engine, now): (&mut HostEngine<'_>, Instant),
        id: FlowId,
        way: Way,
    ) -> NameStream {
        let mut streams = core::mem::take(&mut self.names.streams);
        streams.retain(|(_, id)| self.name_stream(*id).is_some());
        if streams.len() >= STREAMS_MAX
            && let Some((_, oldest)) = streams.pop_front()
        {
            self.reset_stream(engine, now, oldest);
        }
        let stream = NameStream::new(id, now, way);
        streams.push_back((stream.idle_at, id));
        self.names.streams = streams;
        stream
    }

    /// The guest has said something on the stream `id`, if it is one.
    pub(super) fn listen_to_names(
        &mut self,
        engine: &mut HostEngine<'_>,
        now: Instant,
        id: FlowId,
    ) {
        let Some(stream) = stream_of(&mut self.slots, id) else { return };
        if stream.listen((engine, now), &mut self.names) {
            self.enqueue(id.index);
        } else {
            self.reset_stream(engine, now, id);
        }
    }

    /// The guest asks in `payload`, a datagram or a row of them.
    pub(super) fn hear_names(
        &mut self,
        engine: &mut HostEngine<'_>,
        now: Instant,
        (flow, payload, segment_bytes): (FlowId, &[u8], u16),
    ) {
        let bytes = if segment_bytes == 0 { payload.len() } else { segment_bytes.into() };
        for query in payload.chunks(bytes.max(1)).filter(|query| query.len() <= QUERY_BYTES_MAX) {
            if let Heard::Reply(len) = self.names.hear(engine, now, flow, query) {
                engine.deliver(now, flow, self.names.out.get(..len).unwrap_or(&[]));
            }
        }
    }

    /// Hands on the answers that have come, and ends streams that are silent.
    pub(super) fn serve_names(&mut self, engine: &mut HostEngine<'_>, now: Instant) {
        (self.names.has_more, self.names.is_stalled) = (true, false);
        for _ in 0..TURN_ANSWERS_MAX {
            let Some(mut due) = self.names.next_due(now) else {
                self.names.has_more = false;
                break;
            };
            if !engine.can_deliver(now) {
                // The ring's consumer wakes us.
                self.names.due = Some(due);
                self.names.is_stalled = true;
                break;
            }
            let Some((flow, query)) = due.askers.pop_front() else { continue };
            self.names.waiting -= 1;
            let (answer, out) = (due.answer.as_deref(), &mut self.names.out);
            let len = engine.judge_answer(now, (flow, &query), answer, out);
            self.names.due = Some(due).filter(|due| !due.askers.is_empty());
            self.answer_names(engine, now, (flow, len));
        }
        while let Some(&(_, id)) = self.names.streams.front().filter(|(due, _)| *due <= now) {
            self.names.streams.pop_front();
            self.look_at_stream(engine, now, id);
        }
    }

    /// Ends the stream `id` if it was silent for too long, and says when to look again.
    fn look_at_stream(&mut self, engine: &mut HostEngine<'_>, now: Instant, id: FlowId) {
        let Some(stream) = self.name_stream(id) else { return };
        let is_silent = stream.idle_at <= now && stream.under_way == 0;
        if is_silent && !stream.to_give.is_empty() {
            return self.reset_stream(engine, now, id);
        }
        let next = stream.idle_at.max(now.plus_millis(STREAM_LOOK_MS));
        self.names.streams.push_back((next, id));
        if is_silent {
            self.enqueue(id.index);
        }
    }

    pub(super) fn name_stream(&mut self, id: FlowId) -> Option<&mut NameStream> {
        stream_of(&mut self.slots, id)
    }

    fn reset_stream(&mut self, engine: &mut HostEngine<'_>, now: Instant, id: FlowId) {
        engine.handle(now, Event::OutsideReset { flow: id });
        self.close(id);
    }

    fn answer_names(
        &mut self,
        engine: &mut HostEngine<'_>,
        now: Instant,
        (flow, len): (FlowId, usize),
    ) {
        match stream_of(&mut self.slots, flow) {
            Some(stream) => {
                stream.push(self.names.out.get(..len).unwrap_or(&[]));
                stream.under_way -= 1;
                stream.idle_at = now.plus_millis(STREAM_IDLE_MS_MAX);
                self.listen_to_names(engine, now, flow);
            }
            // A datagram's flow has no slot here. Whoever has ended is not there any more.
            None => {
                engine.deliver(now, flow, self.names.out.get(..len).unwrap_or(&[]));
            }
        }
    }
}

/// The stream on which names are asked of the flow `id`.
fn stream_of(slots: &mut [Option<Slot>], id: FlowId) -> Option<&mut NameStream> {
    match slots.get_mut(id.index as usize)? {
        Some(Slot { id: own, flow: Flow::Names(stream), .. }) if *own == id => Some(stream),
        Some(Slot { id: own, flow: Flow::Tls(tls), .. }) if *own == id => tls.names.as_mut(),
        Some(_) | None => None,
    }
}
