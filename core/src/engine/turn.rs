//! The end of a turn: what waits for the guest is sent as far as there is room and the pace allows,
//! and it is said what to wait for.

use super::Engine;
use crate::contract::{Action, Drop, Instant, WaitReason};
use crate::limits;
use crate::stack::autoconf::Autoconf;
use crate::stack::tcp::Egress;
use crate::store::pace::Pace;
use crate::store::ring::{Record, RingHandle};

/// What one turn does at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct TurnMax {
    /// Frames of the guest that are taken.
    pub(super) frames: u32,
    /// Bytes that one flow gives to the guest.
    pub(super) flow_bytes: usize,
}

impl TurnMax {
    /// Of an engine that has its thread for itself.
    pub(super) const ALONE: Self =
        Self { frames: limits::TURN_FRAMES_MAX, flow_bytes: limits::TURN_FLOW_BYTES_MAX };
    const SHARED: Self = Self {
        frames: limits::TURN_FRAMES_SHARED_MAX,
        flow_bytes: limits::TURN_FLOW_BYTES_SHARED_MAX,
    };
}

impl<R: RingHandle> Engine<'_, R> {
    /// Makes turns short, for the sake of others that this thread serves, too.
    pub fn share_thread(&mut self) {
        self.turn_max = TurnMax::SHARED;
    }

    /// Bytes that a host should give to the guest on one flow before others have their turn.
    pub fn turn_flow_bytes_max(&self) -> usize {
        self.turn_max.flow_bytes
    }

    /// Gives the guest what every waiting flow has for it, and says what to wait for.
    pub(super) fn end_turn(&mut self, now: Instant) -> Action<'static> {
        let mut parked = false;
        let mut again = false;
        let mut rounds = 0;
        while let Some(slot) = self.flows.egress() {
            match self.tcp.egress(now, slot, &mut self.out) {
                Egress::Done => {
                    self.flows.egressed(false);
                    let deadline = self.tcp.deadline(now, slot);
                    self.timers.set(slot, deadline);
                }
                Egress::Again => {
                    self.flows.egressed(true);
                    again = true;
                    rounds += 1;
                    if rounds >= self.turn_max.frames {
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
        let more = again || self.turn_frames >= self.turn_max.frames || self.flows.has_unused();
        self.turn_frames = 0;
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
            pace.take(record.len(), 1);
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
