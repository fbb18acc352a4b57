//! Which bytes of a flow's buffers hold nothing, so that their memory may go back to the system.
//!
//! smoltcp's buffers start over at their first byte when they run empty, so a flow that says little
//! touches little. One that has moved much may have touched all of both buffers: what it leaves
//! behind when it ends, or falls silent, is announced once, if it is worth the host's system call.
//!
//! A receive buffer whose queue is empty may still hold bytes: those beyond a gap. It is empty only
//! if nothing beyond the next expected byte has come.

use core::ops::Range;

use super::{Phase, Tcp, TcpSlot};
use crate::contract::Instant;
use crate::limits;

impl TcpSlot<'_> {
    /// Counts bytes that went through a buffer.
    #[allow(clippy::cast_possible_truncation, reason = "a buffer is at most 2^30")]
    pub(super) fn moved(&mut self, bytes: usize) {
        self.moved_bytes = self.moved_bytes.saturating_add(bytes as u32);
    }

    /// Whether so much has moved since the buffers were last given back that doing so is worth it.
    fn is_worth_it(&self) -> bool {
        self.moved_bytes >= limits::UNUSED_BYTES_MIN
    }

    /// When the flow counts as silent, if that makes a difference.
    pub(super) fn silent_at(&self) -> Option<Instant> {
        let matters = matches!(self.phase, Phase::Open) && self.is_worth_it();
        matters.then(|| self.heard.plus_millis(limits::TCP_SILENT_MS))
    }
}

impl Tcp<'_> {
    /// Whether [`unused`](Self::unused) may have something to say of `slot` at `now`.
    pub(crate) fn may_be_unused(&mut self, now: Instant, slot: u32) -> bool {
        let flow = self.slot(slot);
        match flow.phase {
            Phase::Free => flow.is_worth_it(),
            Phase::Open => flow.silent_at().is_some_and(|at| at <= now),
            Phase::Connecting(_) | Phase::Lingering | Phase::Resetting => false,
        }
    }

    /// Bytes that wait in the buffers of the flow in `slot`, from the guest and to it, if that is a
    /// TCP flow with buffers.
    pub(crate) fn waiting(&mut self, slot: u32) -> Option<(usize, usize)> {
        let flow = self.slots.used(slot)?;
        let is_used = !matches!(flow.phase, Phase::Free | Phase::Connecting(_));
        is_used.then(|| self.socket(slot).map(|s| (s.recv_queue(), s.send_queue())))?
    }

    /// The bytes of [`Memory::buffers`](crate::Memory::buffers) that the slot owns and that hold
    /// nothing, and whether its flow has ended. Said once, until more has moved.
    ///
    /// # Cost
    /// Constant.
    pub(crate) fn unused(&mut self, now: Instant, slot: u32) -> Option<(Range<usize>, bool)> {
        if !self.may_be_unused(now, slot) {
            return None;
        }
        let (receive_bytes, flow_bytes) =
            (self.receive_bytes, self.receive_bytes + self.send_bytes);
        let (received, sent) = self.socket(slot).map(|s| (s.recv_queue(), s.send_queue()))?;
        let flow = self.slot(slot);
        flow.moved_bytes = 0;
        let start = flow.buffers as usize * flow_bytes;
        let (middle, end) = (start + receive_bytes, start + flow_bytes);
        if matches!(flow.phase, Phase::Free) {
            return Some((start..end, true));
        }
        let complete = flow.guest_finished || flow.reached == flow.expected(receive_bytes);
        match (received == 0 && complete, sent == 0) {
            (true, true) => Some((start..end, false)),
            (true, false) => Some((start..middle, false)),
            (false, true) => Some((middle..end, false)),
            (false, false) => None,
        }
    }
}
