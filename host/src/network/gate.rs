//! What holds a network back that was started, until the VMM says so: a guest that is restored must
//! find nobody at its ports, and nobody at its link, before it is whole.

use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::control::{Desk, Orders};
use crate::driver::Listeners;
use crate::error::Error;
use crate::wake::DriverWake;

/// A driver that waits for its ports, and what it says when it has them.
pub(super) struct Waiting {
    pub(super) desk: Arc<Desk>,
    pub(super) wake: Arc<DriverWake>,
    pub(super) begin: SyncSender<Listeners>,
    pub(super) has_begun: Receiver<()>,
    pub(super) orders: Orders,
}

impl Waiting {
    /// Lets it begin, and waits until it has.
    ///
    /// # Errors
    /// It has ended, for a reason that it tells whoever waits for its end.
    pub(super) fn begin(&self, listeners: Listeners) -> Result<(), Error> {
        self.begin.send(listeners).map_err(|_| Error::NotRunning)?;
        self.wake.ring();
        self.has_begun.recv().map_err(|_| Error::NotRunning)?;
        self.desk.open(&self.orders);
        Ok(())
    }
}

/// How far a gate is.
enum State {
    /// The network was not started yet.
    Shut,
    /// It was, and waits.
    Waits(Waiting),
    /// It waits no more, or never will.
    Open,
}

/// A gate that is opened once.
pub(super) struct Gate(Mutex<State>);

impl Gate {
    pub(super) fn shut() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State::Shut)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(*self.state(), State::Open)
    }

    /// Lets `waiting` wait; one whose gate is open by now begins at once.
    pub(super) fn hold(&self, waiting: Waiting) -> Result<(), Error> {
        let mut state = self.state();
        let is_open = matches!(*state, State::Open);
        *state = State::Waits(waiting);
        drop(state);
        if is_open { self.open() } else { Ok(()) }
    }

    fn open(&self) -> Result<(), Error> {
        let mut state = self.state();
        match core::mem::replace(&mut *state, State::Open) {
            State::Shut | State::Open => Ok(()),
            State::Waits(waiting) => {
                let listeners = match waiting.desk.bind_ports() {
                    Ok(listeners) => listeners,
                    Err(error) => {
                        // It may be tried again.
                        *state = State::Waits(waiting);
                        return Err(error);
                    }
                };
                waiting.begin(listeners)
            }
        }
    }

    /// Whoever waits is told that there is nothing to wait for.
    pub(super) fn give_up(&self) {
        *self.state() = State::Open;
    }
}

/// Lets a network begin whose [activation was
/// deferred](crate::SmoltcpNetwork::defer_activation). Clones are the same handle.
#[derive(Clone)]
pub struct ActivationHandle(pub(super) Arc<Gate>);

impl ActivationHandle {
    /// Binds the published ports, on this thread, and lets the driver read frames; before the start
    /// it lets the start do so. Once it has worked, it does nothing more.
    ///
    /// # Errors
    /// A port that can't be published, after which it may be called again; [`Error::NotRunning`]
    /// where the driver has ended, whose reason [`wait`](crate::SmoltcpNetwork::wait) returns.
    pub fn activate(&self) -> Result<(), Error> {
        self.0.open()
    }
}
