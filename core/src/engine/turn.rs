//! The end of a turn: what waits for the guest is sent as far as there is room and the pace allows,
//! and it is said what to wait for.

use super::Engine;
use crate::contract::{Action, Drop, Instant, WaitReason};
use crate::limits;
use crate::stack::autoconf::Autoconf;
use crate::stack::tcp::Egress;
use crate::store::pace::Pace;
use crate::store::ring::{Record, RingHandle};
use crate::wire::segment;

/// What one turn does at most. A long one costs the least for each byte; a short one is for the
/// sake of who waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TurnMax {
    /// What is taken of the guest.
    pub frames: FrameBudget,
    /// Bytes that one flow gives to the guest.
    pub flow_bytes: usize,
    /// Bytes of one flow after which no further packet of it is sent before those of others.
    sent_bytes: u32,
    /// Bytes that the guest may have on their way on one flow.
    window_bytes: u32,
    /// How often a flow that has more to say gives way to another.
    rounds: u32,
}

impl TurnMax {
    pub(super) const LONG: Self = Self {
        frames: FrameBudget::new(limits::TURN_FRAMES_MAX, limits::TURN_FRAME_BYTES_MAX),
        flow_bytes: limits::TURN_FLOW_BYTES_MAX,
        sent_bytes: u32::MAX,
        window_bytes: u32::MAX,
        rounds: limits::TURN_FRAMES_MAX,
    };
    /// For others on the thread.
    const SHARED: Self = Self {
        frames: FrameBudget::new(limits::TURN_FRAMES_SHORT_MAX, limits::TURN_FRAME_BYTES_SHORT_MAX),
        flow_bytes: limits::TURN_FLOW_BYTES_SHORT_MAX,
        sent_bytes: u32::MAX,
        window_bytes: u32::MAX,
        rounds: limits::TURN_FRAMES_SHORT_MAX,
    };
    /// For the guest itself: what it says goes behind all that it has said before, and the answer
    /// behind all that it is sent before.
    const SHORT: Self = Self {
        sent_bytes: limits::TURN_SENT_BYTES_SHORT_MAX,
        window_bytes: limits::TURN_WINDOW_BYTES_SHORT_MAX,
        rounds: 1,
        ..Self::SHARED
    };
}

/// So many frames, and so many bytes of them; the last frame may go beyond those.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameBudget {
    frames: u32,
    bytes: usize,
}

impl FrameBudget {
    /// A budget of `frames` frames, of which no further one is taken after `bytes` bytes.
    pub const fn new(frames: u32, bytes: usize) -> Self {
        Self { frames, bytes }
    }

    /// Whether no further frame is taken.
    #[inline]
    pub const fn is_spent(&self) -> bool {
        self.frames == 0 || self.bytes == 0
    }

    /// A frame of `len` bytes is taken.
    #[inline]
    pub const fn take(&mut self, len: usize) {
        self.frames = self.frames.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(len);
    }
}

/// Who waits for a turn's end.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Other engines, whom this thread serves, too.
    others: bool,
    /// The guest leaves rows of segments to its link to be cut: its queue is a few frames, however
    /// many bytes they have.
    pub(super) rows: bool,
    /// Until when the guest is taken to wait for an answer that it can't go on without.
    guest_until: Instant,
}

impl<R: RingHandle> Engine<'_, R> {
    /// Makes every turn short, for the sake of others that this thread serves, too.
    pub fn share_thread(&mut self) {
        self.waiting.others = true;
        self.turn_max = TurnMax::SHARED;
        self.turn_left = self.turn_max.frames;
    }

    /// What this turn does at most; a host should take no more from a link, and give no more to
    /// the guest on one flow, before others have their turn. It is less where this thread serves
    /// others, and for a while after the guest has taken turns with somebody.
    pub fn turn_max(&self) -> TurnMax {
        self.turn_max
    }

    /// The guest has said what it waits for an answer to.
    pub(super) fn guest_waits(&mut self, now: Instant) {
        self.waiting.guest_until = now.plus_millis(limits::TURN_SHORT_MS);
    }

    fn next_turn(&mut self, now: Instant) {
        self.turn_max = match &self.waiting {
            waiting if now < waiting.guest_until => TurnMax::SHORT,
            waiting if waiting.others => TurnMax::SHARED,
            _ => TurnMax::LONG,
        };
        self.turn_left = self.turn_max.frames;
        let rows = self.waiting.rows;
        self.out.set_window_bytes_max(if rows { u32::MAX } else { self.turn_max.window_bytes });
    }

    /// Gives the guest what every waiting flow has for it, and says what to wait for.
    pub(super) fn end_turn(&mut self, now: Instant) -> Action<'static> {
        let mut parked = false;
        let mut again = false;
        let mut rounds = 0;
        while let Some(slot) = self.flows.egress() {
            match self.tcp.egress(now, (slot, self.turn_max.sent_bytes), &mut self.out) {
                Egress::Done => {
                    self.flows.egressed(false);
                    let deadline = self.tcp.deadline(now, slot);
                    self.timers.set(slot, deadline);
                }
                Egress::Again => {
                    self.flows.egressed(true);
                    again = true;
                    rounds += 1;
                    if rounds >= self.turn_max.rounds {
                        break;
                    }
                }
                Egress::Ended => self.remove(slot),
                Egress::Parked => {
                    parked = !self.out.wait_for_room();
                    if parked {
                        break;
                    }
                }
            }
        }
        self.from_guest.release();
        self.out.flush();
        let more = again || self.turn_left.is_spent() || self.flows.has_unused();
        self.next_turn(now);
        if more && !parked {
            return Action::Wait { until: Some(now), why: WaitReason::Budget };
        }
        let paced = self.paced_until(now);
        let advert = self.autoconf.as_ref().map(Autoconf::deadline);
        let until = self.timers.next().into_iter().chain(paced).chain(advert).min();
        let why = match until {
            Some(_) if until == paced => WaitReason::Paced,
            _ if parked => WaitReason::GuestRingFull,
            Some(_) => WaitReason::Timer,
            None => WaitReason::Idle,
        };
        Action::Wait { until: if more { Some(now) } else { until }, why }
    }

    /// When the first direction that is limited now goes on.
    fn paced_until(&mut self, now: Instant) -> Option<Instant> {
        let from_guest = self.pace.as_ref().map(Pace::opens_at);
        from_guest.into_iter().chain(self.out.opens_at()).filter(|at| *at > now).min()
    }

    /// Whether a frame that comes is looked at: where the guest is limited, or captured.
    pub(super) fn decide_watch(&mut self) {
        self.is_watched = self.pace.is_some() || self.out.watch.capture.is_some();
    }

    /// The frame of `record` has come. Apart, as few are looked at.
    #[inline(never)]
    pub(super) fn watch(&mut self, record: &Record) {
        if let Some(pace) = &mut self.pace {
            let mut offload = record.offload;
            if offload.segment_bytes > 0 {
                offload.header_bytes = segment::header_bytes(self.from_guest.bytes(record));
            }
            pace.take_frame(record.len(), offload);
        }
        if let Some(capture) = &mut self.out.watch.capture {
            capture.note_from_guest(self.from_guest.bytes(record));
        }
    }

    /// It goes no further.
    #[inline(never)]
    pub(super) fn watch_drop(&mut self, reason: Drop) {
        if let Some(capture) = &mut self.out.watch.capture {
            capture.note_dropped(reason);
        }
    }

    /// Whether the guest has sent as much as it may for now, so that its next frame waits in the
    /// ring; [`Action::Wait`] says until when. A host need not look for frames meanwhile.
    ///
    /// # Cost
    /// Constant; a look at a field where nothing is limited.
    #[inline(never)]
    pub fn is_paced(&mut self, now: Instant) -> bool {
        self.pace.as_mut().is_some_and(|pace| {
            pace.refill(now);
            !pace.is_open()
        })
    }
}
