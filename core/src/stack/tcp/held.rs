//! Flows whose first bytes are looked at before anybody gets them.
//!
//! Owns what such a flow waits for; must not know what the bytes say. What the guest sends stays in
//! its receive buffer, whose window bounds it, until a verdict lets it go.

use super::{Phase, Tcp, TcpSlot, limits};
use crate::contract::{FlowState, Instant};

/// What the guest's bytes wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// Nothing: the host gets them.
    No,
    /// A verdict, before which the host hears nothing of the flow.
    Unknown,
    /// A verdict; the host connects, or is connected, and the outside may speak first.
    Dialled,
    /// The same, where the host connects and the guest's SYN was answered before.
    Greeted,
    /// The host's connect, after the verdict.
    Dialling,
    /// Nothing: we have answered in the outside's place, and what still comes is nobody's.
    Answered,
}

/// How far a held flow was looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) held: Held,
    /// Bytes that were looked at, and told too little.
    seen: u32,
    /// Bytes before which another look tells nothing new.
    wanted: u32,
    /// Since when somebody waits for the guest to say more.
    since: Option<Instant>,
    /// Since when the guest is silent, which may wait for the outside to speak.
    greeted: Option<Instant>,
    /// We have answered its greeting in the outside's place.
    is_welcomed: bool,
}

impl Look {
    pub(super) const NONE: Self =
        Self { held: Held::No, seen: 0, wanted: 1, since: None, greeted: None, is_welcomed: false };

    /// Whether `waiting` bytes are worth a look, or all that will come are there.
    pub(super) fn is_due(&self, waiting: usize, has_finished: bool) -> bool {
        let is_held = matches!(self.held, Held::Unknown | Held::Dialled | Held::Greeted);
        is_held && (waiting >= self.wanted as usize || has_finished)
    }
}

impl TcpSlot<'_> {
    /// Until when a held flow may stay so.
    pub(super) fn look_until(&self) -> Option<Instant> {
        match self.look.held {
            Held::Unknown | Held::Dialled => {
                let greeted = self.look.greeted.map(|at| at.plus_millis(limits::TCP_GREETING_MS));
                let until = self.look.since?.plus_millis(limits::TCP_LOOK_MS_MAX);
                Some(greeted.unwrap_or(until).min(until))
            }
            Held::Dialling | Held::Greeted => {
                Some(self.since.plus_millis(limits::TCP_CONNECT_MS_MAX))
            }
            Held::No | Held::Answered => None,
        }
    }
}

impl Tcp<'_> {
    /// What the flow's bytes wait for.
    pub(crate) fn held(&self, slot: u32) -> Held {
        self.slots.used(slot).map_or(Held::No, |flow| flow.look.held)
    }

    /// How far the flow is.
    pub(crate) fn state(&self, slot: u32) -> FlowState {
        let Some(flow) = self.slots.used(slot) else { return FlowState::Closing };
        match (flow.phase, flow.look.held) {
            (Phase::Open, Held::Unknown) => FlowState::Hearing,
            (Phase::Connecting(_), _) | (Phase::Open, Held::Dialling | Held::Greeted) => {
                FlowState::Connecting
            }
            (Phase::Open, _) if flow.is_calling => FlowState::Connecting,
            (Phase::Open, Held::No | Held::Dialled)
                if !flow.guest_finished && !flow.outside_finished =>
            {
                FlowState::Open
            }
            (Phase::Open | Phase::Free | Phase::Lingering | Phase::Resetting, _) => {
                FlowState::Closing
            }
        }
    }

    /// Whether the host has been told of the flow.
    pub(crate) fn is_known(&self, slot: u32) -> bool {
        !matches!(self.held(slot), Held::Unknown | Held::Answered)
    }

    /// From now on the flow's bytes wait for what `held` says.
    pub(crate) fn hold(&mut self, now: Instant, slot: u32, held: Held) {
        let flow = self.slot(slot);
        let since = (held == Held::Unknown).then_some(now);
        flow.look = Look { held, since, ..Look::NONE };
        if matches!(held, Held::Dialling | Held::Greeted) {
            flow.since = now;
        }
    }

    /// The guest, which nobody outside knows of, has greeted at `now`, and may wait for an answer.
    pub(crate) fn note_greeting(&mut self, now: Instant, slot: u32) {
        let look = &mut self.slot(slot).look;
        look.greeted = (look.held == Held::Unknown).then_some(now);
    }

    /// Whether the guest has been silent behind its greeting for as long as it is left alone then;
    /// once.
    pub(crate) fn is_left_waiting(&mut self, now: Instant, slot: u32) -> bool {
        let look = &mut self.slot(slot).look;
        let until = look.greeted.map(|at| at.plus_millis(limits::TCP_GREETING_MS));
        let is_left = until.is_some_and(|until| until <= now);
        look.greeted = look.greeted.filter(|_| !is_left);
        is_left
    }

    /// Answers the guest's greeting with `settings` in the outside's place, once; false: there is
    /// no room for them. The flow's bytes wait as before.
    pub(crate) fn welcome(&mut self, slot: u32, settings: &[u8]) -> bool {
        let given = self.give(slot, |space| match space.get_mut(..settings.len()) {
            Some(to) => {
                to.copy_from_slice(settings);
                settings.len()
            }
            None => 0,
        });
        let is_welcomed = given.is_some_and(|given| given > 0);
        self.slot(slot).look.is_welcomed |= is_welcomed;
        is_welcomed
    }

    /// Whether the guest's greeting was answered in the outside's place.
    pub(crate) fn is_welcomed(&self, slot: u32) -> bool {
        self.slots.used(slot).is_some_and(|flow| flow.look.is_welcomed)
    }

    /// Lets `look` see what the guest has sent, and how much of it was seen before; true beside its
    /// answer: nothing more will come.
    pub(crate) fn look<T>(
        &mut self,
        slot: u32,
        look: impl FnOnce(&[u8], usize) -> T,
    ) -> Option<(T, bool)> {
        let flow = self.slot(slot);
        let (seen, has_finished) = (flow.look.seen as usize, flow.guest_finished);
        let socket = self.socket(slot)?;
        // Nothing was taken yet, so what is there lies in one piece.
        let bytes = socket.peek(usize::MAX).unwrap_or(&[]);
        Some((look(bytes, seen), has_finished))
    }

    /// Nothing new can be told of the flow before `wanted` bytes are there. False: that many never
    /// will be.
    #[allow(clippy::cast_possible_truncation, reason = "a buffer is at most 2^30")]
    pub(crate) fn wait_for(&mut self, now: Instant, slot: u32, wanted: usize) -> bool {
        let (there, room) = self
            .socket(slot)
            .map_or((0, 0), |socket| (socket.recv_queue(), socket.recv_capacity()));
        let flow = self.slot(slot);
        flow.look.seen = there as u32;
        flow.look.wanted = wanted.min(u32::MAX as usize) as u32;
        flow.look.since = flow.look.since.or(Some(now));
        wanted <= room
    }

    /// Answers with `page` in the outside's place: all of it, then the end.
    pub(crate) fn answer(&mut self, now: Instant, slot: u32, page: &[u8]) {
        self.give(slot, |space| {
            let len = page.len().min(space.len());
            if let Some((to, from)) = space.get_mut(..len).zip(page.get(..len)) {
                to.copy_from_slice(from);
            }
            len
        });
        self.hold(now, slot, Held::Answered);
        self.outside_finished(now, slot);
        // Nobody is to be told.
        self.slot(slot).finish_said = true;
    }

    /// Throws away what the guest still says to a flow that was answered.
    pub(super) fn ignore(&mut self, now: Instant, slot: u32) {
        if self.held(slot) == Held::Answered && matches!(self.slot(slot).phase, Phase::Open) {
            while self.take(now, slot, <[u8]>::len).is_some_and(|taken| taken > 0) {}
        }
    }
}
