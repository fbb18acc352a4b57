//! The host's side of a flow: what it is told, and the bytes that it takes and gives.

use smoltcp::socket::tcp::{Socket, State};

use super::{Held, Phase, Tcp};
use crate::contract::Instant;

/// What a flow wants to tell the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Say {
    /// For the engine alone: there is something to look at.
    Look,
    Send,
    Finish,
    Receive,
    Reset,
    Close,
}

impl Tcp<'_> {
    /// Lets the FIN follow what was given, as soon as smoltcp bears it: it loses the SYN when it is
    /// closed before the handshake is complete, and in LAST-ACK it is deaf to the guest's window.
    pub(super) fn close(&mut self, slot: u32) {
        let bears = |socket: &&mut Socket<'_>| match socket.state() {
            State::SynSent | State::SynReceived => false,
            State::CloseWait => socket.send_queue() == 0,
            State::Closed
            | State::Listen
            | State::Established
            | State::FinWait1
            | State::FinWait2
            | State::Closing
            | State::LastAck
            | State::TimeWait => true,
        };
        if let Some(socket) = self.socket(slot).filter(bears) {
            socket.close();
        }
    }

    /// The next thing to tell the host, if any; each is said once.
    pub(crate) fn say(&mut self, now: Instant, slot: u32) -> Option<Say> {
        if !matches!(self.slot(slot).phase, Phase::Open) {
            return None;
        }
        self.ignore(now, slot);
        let (state, waiting, room, capacity) = self.socket(slot).map(|socket| {
            let room =
                if socket.may_send() { socket.send_capacity() - socket.send_queue() } else { 0 };
            (socket.state(), socket.recv_queue(), room, socket.send_capacity())
        })?;
        let flow = self.slot(slot);
        let both_finished = flow.guest_finished && flow.outside_finished;
        // A reset that answers the SYN-ACK makes smoltcp listen again.
        if matches!(state, State::Closed | State::Listen) && !both_finished {
            self.forget(slot);
            return Some(Say::Reset);
        }
        if flow.look.is_due(waiting, flow.guest_finished) {
            return Some(Say::Look);
        }
        let is_held = flow.look.held != Held::No;
        if waiting > 0 && !flow.send_said && !is_held {
            flow.send_said = true;
            return Some(Say::Send);
        }
        if flow.guest_finished && waiting == 0 && !flow.finish_said && !is_held {
            flow.finish_said = true;
            return Some(Say::Finish);
        }
        // A quarter of the buffer is worth the host's read.
        if flow.wants_room && room >= capacity / 4 {
            flow.wants_room = false;
            return Some(Say::Receive);
        }
        if both_finished && flow.finish_said && matches!(state, State::Closed | State::TimeWait) {
            flow.phase = if state == State::Closed { Phase::Free } else { Phase::Lingering };
            flow.since = now;
            return Some(Say::Close);
        }
        None
    }

    /// Whether the flow has ended, so that its slot may be given back.
    pub(crate) fn is_free(&self, slot: u32) -> bool {
        self.slots.used(slot).is_none_or(|flow| matches!(flow.phase, Phase::Free))
    }

    /// Lets `take` have the oldest bytes of the guest, as far as they lie in one piece; it returns
    /// how many it took. `None`: there are none.
    ///
    /// # Cost
    /// No copy.
    #[allow(clippy::cast_possible_truncation, reason = "a buffer is at most 2^30")]
    pub(crate) fn take(
        &mut self,
        now: Instant,
        slot: u32,
        take: impl FnOnce(&[u8]) -> usize,
    ) -> Option<usize> {
        let socket = self.socket(slot)?;
        if !socket.can_recv() {
            return None;
        }
        let taken = socket.recv(|bytes| {
            let taken = take(bytes).min(bytes.len());
            (taken, taken)
        });
        let waiting = socket.recv_queue();
        let flow = self.slot(slot);
        let taken = taken.unwrap_or(0);
        if taken > 0 {
            flow.progress = now;
            flow.moved(taken);
        }
        if !flow.guest_finished {
            flow.edge = flow.edge.wrapping_add(taken as u32);
        }
        if waiting == 0 {
            flow.send_said = false;
        }
        Some(taken)
    }

    /// Lets `give` write bytes for the guest, as many as there is room for in one piece; it
    /// returns how many it wrote. `None`: there is no room, and `Say::Receive` will tell when.
    ///
    /// # Cost
    /// No copy.
    pub(crate) fn give(
        &mut self,
        slot: u32,
        give: impl FnOnce(&mut [u8]) -> usize,
    ) -> Option<usize> {
        let open =
            matches!(self.slot(slot).phase, Phase::Open) && !self.slot(slot).outside_finished;
        let given = match self.socket(slot) {
            Some(socket) if open && socket.can_send() => socket
                .send(|space| {
                    let given = give(space).min(space.len());
                    (given, given)
                })
                .ok(),
            Some(_) | None => None,
        };
        match given {
            Some(given) => {
                let flow = self.slot(slot);
                flow.moved(given);
                if given > 0 {
                    flow.ack_delay.outside_spoke();
                }
            }
            None => self.slot(slot).wants_room = true,
        }
        given
    }

    /// The outside has finished: a FIN follows what was given.
    pub(crate) fn outside_finished(&mut self, now: Instant, slot: u32) {
        let flow = self.slot(slot);
        if !matches!(flow.phase, Phase::Open) || flow.outside_finished {
            return;
        }
        flow.outside_finished = true;
        flow.progress = now;
        self.close(slot);
    }
}
