//! A connection on which a guest asks for names (RFC 7766), plain or within TLS (RFC 7858).
//!
//! Owns what has come on it and is no whole query yet, and the answers that wait; must not know
//! what a query leads to.
//!
//! Bounded: so many queries are under way and so many bytes of answers wait, or no more is read
//! from it; and it goes on in the next turn where this one has heard enough of all.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use sluicegate_core::{Event, FlowId, Instant};

use super::{Heard, Names, QUERY_BYTES_MAX, STREAM_IDLE_MS_MAX};
use crate::flow::{HostEngine, Served};
use crate::intercept::{End, Read, Write};

/// Queries of one stream that may be under way (RFC 7766 6.2.1.1 lets it have many).
const STREAM_QUERIES_MAX: u32 = 16;
/// Bytes of answers that may wait for the guest before no more is read from a stream.
const STREAM_BYTES_MAX: usize = 128 * 1024;

/// How a stream's bytes come and go.
pub(in crate::flow) enum Way {
    /// As the guest's own.
    Flow,
    /// By a task that ends the TLS around them (RFC 7858).
    Tls(End),
}

/// A connection on which the guest asks (RFC 7766).
pub(in crate::flow) struct NameStream {
    id: FlowId,
    way: Way,
    /// What came of the guest and is no whole query yet.
    heard: Vec<u8>,
    pub(super) to_give: VecDeque<u8>,
    pub(super) under_way: u32,
    /// Queries were left with the engine, as too much is under way, or for the next turn.
    is_behind: bool,
    guest_has_finished: bool,
    is_over: bool,
    pub(super) idle_at: Instant,
}

impl NameStream {
    pub(super) fn new(id: FlowId, now: Instant, way: Way) -> Self {
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
    pub(in crate::flow) fn finish(&mut self) {
        match self.way {
            Way::Flow => self.guest_has_finished = true,
            Way::Tls(_) => {}
        }
    }

    fn has_room(&self) -> bool {
        self.under_way < STREAM_QUERIES_MAX && self.to_give.len() < STREAM_BYTES_MAX
    }

    /// Takes in and asks what the guest has sent, as far as there is room and the turn allows.
    /// False: what it sends is no query.
    pub(super) fn listen(
        &mut self,
        (engine, now): (&mut HostEngine<'_>, Instant),
        names: &mut Names,
    ) -> bool {
        loop {
            while !names.streams_left.is_spent()
                && let Some(query) = self.next_query()
            {
                self.idle_at = now.plus_millis(STREAM_IDLE_MS_MAX);
                let (heard, judged) = names.hear((engine, now), (self.id, &query));
                names.streams_left.take(judged);
                match heard {
                    Heard::Reply(len) => self.push(names.out.get(..len).unwrap_or(&[])),
                    Heard::Later => self.under_way += 1,
                    Heard::Nothing => return false,
                }
            }
            self.is_behind = !self.has_room() || names.streams_left.is_spent();
            if !self.is_behind && self.is_too_long() {
                names.published.names_too_long.fetch_add(1, Ordering::Relaxed);
                return false;
            }
            if self.is_behind {
                return true;
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

    pub(super) fn push(&mut self, answer: &[u8]) {
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
    pub(in crate::flow) fn serve(
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
                if names.streams_left.is_spent() {
                    return Served::Again;
                }
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
