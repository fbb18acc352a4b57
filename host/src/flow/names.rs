//! Flows on which a guest asks for names: the engine judges, the cache and the resolver know, and
//! no socket is a flow's own.
//!
//! Owns the way of a query to them and of the answer back, over datagrams and over streams
//! (RFC 1035 4.2, RFC 7766); must not know what a message says.
//!
//! Bounded: a stream ([`stream`]) that is silent is ended, one that takes no answers is reset, and
//! so is the oldest where there are too many. A turn hears so many queries and judges so many bytes
//! of answers, each of datagrams, of streams, and of what name servers said: queries in datagrams
//! that are more are lost, as by any busy server, and streams wait and take turns.

mod stream;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sluicegate_core::{Event, FlowId, FrameBudget, Instant, QueryStep, limits};

use super::row::datagrams;
use super::{Flow, Flows, HostEngine, Slot};
use crate::metrics::Published;
use crate::service::dns::{Answered, Cache, Resolver, Server};
pub(super) use stream::{NameStream, Way};

/// What one turn takes of queries in datagrams, and bytes of answers to them that are known. A turn
/// has no more frames; more queries come in rows of datagrams, which no resolver sends.
const TURN_DATAGRAMS: FrameBudget = FrameBudget::new(limits::TURN_FRAMES_MAX, 1024 * 1024);
/// The same of queries on streams.
const TURN_STREAMS: FrameBudget = FrameBudget::new(256, 128 * 1024);
/// Answers of the resolver that one turn hands on, and their bytes.
const TURN_ANSWERS: FrameBudget = FrameBudget::new(256, 128 * 1024);
/// Queries of the guest that may wait for answers, many of them maybe for the same.
const WAITING_MAX: usize = 2048;
/// Bytes of the longest query; those of the guests' resolvers have a tenth of it.
const QUERY_BYTES_MAX: usize = 4096;
/// Streams of one network; with one more the oldest is reset (RFC 7766 6.2.2 lets a server).
const STREAMS_MAX: usize = 64;
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
    /// The servers that were asked are no longer those of this network.
    is_old: bool,
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
    pub(super) published: Arc<Published>,
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
    /// What this turn may still hear.
    datagrams_left: FrameBudget,
    streams_left: FrameBudget,
    /// The streams, by when each is to be looked at.
    streams: VecDeque<(Instant, FlowId)>,
}

impl Names {
    pub(super) fn new(resolver: Resolver, published: Arc<Published>) -> Self {
        Self {
            published,
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
            datagrams_left: TURN_DATAGRAMS,
            streams_left: TURN_STREAMS,
            streams: VecDeque::new(),
        }
    }

    /// Asks other servers from now on. What the first have been asked comes as it comes, for who
    /// has asked before now and nobody else.
    pub(super) fn replace_servers(&mut self, servers: Vec<Server>, timeout: Duration) {
        self.resolver.replace_servers(servers, timeout);
        self.cache = Cache::default();
        self.under_way.clear();
        self.pending.values_mut().for_each(|pending| pending.is_old = true);
    }

    /// What `query` leads to, and how many bytes of an answer were judged for it.
    fn hear(
        &mut self,
        (engine, now): (&mut HostEngine<'_>, Instant),
        (flow, query): (FlowId, &[u8]),
    ) -> (Heard, usize) {
        let len = match engine.judge_query(now, (flow, query), &mut self.out) {
            QueryStep::Ignore => return (Heard::Nothing, 0),
            QueryStep::Reply(len) => return (reply(len), 0),
            QueryStep::Ask(len) => len,
        };
        let asked = self.out.get(..len).unwrap_or(&[]).to_vec();
        let known = self.cache.answer(now, &asked);
        if known.is_none() && self.waiting < WAITING_MAX && self.ask(asked, (flow, query)) {
            return (Heard::Later, 0);
        }
        if known.is_none() {
            self.published.names_busy.fetch_add(1, Ordering::Relaxed);
        }
        let len = engine.judge_answer(now, (flow, query), known.as_deref(), &mut self.out);
        (reply(len), known.map_or(0, |known| known.len()))
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
            self.pending.insert(self.ticket, Pending { asked, askers, is_old: false });
        }
        self.waiting += 1;
        true
    }

    /// The next answer, and who waits for it.
    fn next_due(&mut self, now: Instant) -> Option<Due> {
        self.due.take().or_else(|| {
            let Answered { ticket, answer } = self.resolver.answered()?;
            let Pending { asked, askers, is_old } = self.pending.remove(&ticket)?;
            if !is_old {
                self.under_way.remove(&asked);
                if let Some(answer) = &answer {
                    self.cache.keep(now, &asked, answer);
                }
            }
            Some(Due { answer, askers })
        })
    }

    /// Whether answers wait that can be handed on at once.
    pub(super) fn is_busy(&self) -> bool {
        self.has_more && !self.is_stalled
    }

    /// Whether answers wait for room towards the guest.
    pub(super) fn is_stalled(&self) -> bool {
        self.is_stalled
    }

    /// When a stream has been silent for too long, if none says anything.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.streams.front().map(|(due, _)| *due)
    }
}

fn reply(len: usize) -> Heard {
    if len == 0 { Heard::Nothing } else { Heard::Reply(len) }
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
            self.published.name_streams_full.fetch_add(1, Ordering::Relaxed);
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
        self.vacate(engine, now, flow);
        for query in datagrams(payload, segment_bytes) {
            if query.len() > QUERY_BYTES_MAX {
                self.published.names_too_long.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            if self.names.datagrams_left.is_spent() {
                self.published.names_full.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let (heard, judged) = self.names.hear((engine, now), (flow, query));
            self.names.datagrams_left.take(judged);
            if let Heard::Reply(len) = heard {
                engine.deliver(now, flow, self.names.out.get(..len).unwrap_or(&[]));
            }
        }
    }

    /// Closes what is left in the slot of `flow` of one that gave way to it, as that is told to
    /// nobody. Who has a socket does so by putting it there.
    pub(super) fn vacate(&mut self, engine: &mut HostEngine<'_>, now: Instant, flow: FlowId) {
        let index = flow.index as usize;
        if !matches!(self.slots.get(index), Some(Some(slot)) if slot.id != flow) {
            return;
        }
        // What it has yet to say goes out first, or would open its socket again.
        if let Err(failed) = self.send_gathered() {
            engine.handle(now, failed);
        }
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = None;
        }
    }

    /// Hands on the answers that have come, and ends streams that are silent.
    pub(super) fn serve_names(&mut self, engine: &mut HostEngine<'_>, now: Instant) {
        (self.names.has_more, self.names.is_stalled) = (true, false);
        if self.names.streams_left.is_spent() {
            // Whoever was heard first in the last turn is behind the others in this one.
            self.queue.rotate_left(self.queue.len().min(1));
        }
        (self.names.datagrams_left, self.names.streams_left) = (TURN_DATAGRAMS, TURN_STREAMS);
        let mut answers_left = TURN_ANSWERS;
        while !answers_left.is_spent() {
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
            answers_left.take(answer.map_or(0, <[u8]>::len));
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

#[cfg(test)]
mod tests;
