//! Where a driver sits, and so how it waits: alone in its own poll, or beside others, for whom it
//! makes way until its poll has something.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::rc::Rc;
use std::task;
use std::time::Duration;

use mio::{Events, Poll};

use crate::error::Error;

/// Events that are taken at a time.
pub(super) const EVENTS_MAX: usize = 256;

/// How long a driver that has made way may be left alone; `None`: until its poll has something.
pub(super) type Patience = Rc<Cell<Option<Duration>>>;

/// A driver's place on a thread.
pub(super) struct Seat {
    /// What it tells whoever looks after its poll; `None`: nobody does, the thread is its own.
    patience: Option<Patience>,
    events: Events,
    /// The poll may have more events than were taken.
    has_more: bool,
}

impl Seat {
    /// On a thread of its own.
    pub(super) fn alone() -> Self {
        Self { patience: None, events: Events::with_capacity(EVENTS_MAX), has_more: false }
    }

    /// On one that it shares.
    pub(super) fn pooled(patience: Patience) -> Self {
        // What came before its first turn was told of then, and is not taken in it.
        Self { patience: Some(patience), has_more: true, ..Self::alone() }
    }

    /// Whether others wait for the thread meanwhile.
    pub(super) fn is_shared(&self) -> bool {
        self.patience.is_some()
    }

    /// Waits until `poll` has events, or `timeout` is over.
    ///
    /// # Errors
    /// What the system said.
    pub(super) async fn wait(
        &mut self,
        poll: &mut Poll,
        mut timeout: Option<Duration>,
    ) -> Result<&Events, Error> {
        if self.patience.is_some() {
            // Whoever looks after a poll is told of events that come, not of those that are left.
            if self.has_more {
                self.make_way(Some(Duration::ZERO)).await;
                if self.take(poll, Some(Duration::ZERO))? {
                    return Ok(&self.events);
                }
            }
            self.make_way(timeout).await;
            timeout = Some(Duration::ZERO);
        }
        self.take(poll, timeout)?;
        Ok(&self.events)
    }

    /// Takes the events that `poll` has or gets within `timeout`; false: there are none.
    fn take(&mut self, poll: &mut Poll, timeout: Option<Duration>) -> Result<bool, Error> {
        match poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => done.map_err(Error::machine("waiting for readiness"))?,
        }
        self.has_more = self.events.iter().count() == EVENTS_MAX;
        Ok(!self.events.is_empty())
    }

    /// Lets the others of the thread have their turns, for `patience` at most.
    async fn make_way(&self, patience: Option<Duration>) {
        if let Some(told) = &self.patience {
            told.set(patience);
        }
        let mut has_made_way = false;
        poll_fn(|_| {
            if core::mem::replace(&mut has_made_way, true) {
                task::Poll::Ready(())
            } else {
                task::Poll::Pending
            }
        })
        .await;
    }
}
