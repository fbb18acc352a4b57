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

    /// Waits until `poll` has events, for `timeout` at most; there may be none then.
    ///
    /// # Errors
    /// What the system said.
    pub(super) async fn wait(
        &mut self,
        poll: &mut Poll,
        timeout: Option<Duration>,
    ) -> Result<&Events, Error> {
        let mut timeout = timeout;
        if let Some(patience) = &self.patience {
            // Whoever looks after a poll is told of events that come, not of those that are left.
            patience.set(if self.has_more { Some(Duration::ZERO) } else { timeout });
            make_way().await;
            timeout = Some(Duration::ZERO);
        }
        match poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => done.map_err(Error::machine("waiting for readiness"))?,
        }
        self.has_more = self.events.iter().count() == EVENTS_MAX;
        Ok(&self.events)
    }
}

/// Lets whoever polls this go on, once.
async fn make_way() {
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
