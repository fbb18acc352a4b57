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

/// A driver's place on a thread.
pub(super) enum Seat {
    /// The thread is its own.
    Alone,
    /// It is shared with others, and somebody looks after the polls of all of them.
    Pooled(Patience),
}

/// How long a driver that has made way may be left alone; `None`: until its poll has something.
pub(super) type Patience = Rc<Cell<Option<Duration>>>;

impl Seat {
    /// Waits until `poll` has events, for `timeout` at most; there may be none then.
    ///
    /// # Errors
    /// What the system said.
    pub(super) async fn wait(
        &self,
        poll: &mut Poll,
        events: &mut Events,
        timeout: Option<Duration>,
    ) -> Result<(), Error> {
        let timeout = match self {
            Self::Alone => timeout,
            Self::Pooled(patience) => {
                patience.set(timeout);
                make_way().await;
                Some(Duration::ZERO)
            }
        };
        match poll.poll(events, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            done => done.map_err(Error::machine("waiting for readiness")),
        }
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
