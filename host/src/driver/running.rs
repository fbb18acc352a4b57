//! A driver that was started, for whoever waits for its end.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

use futures_util::FutureExt;

use super::{Driver, Seat};
use crate::error::Error;

/// How a driver ended.
pub(super) type Outcome = Result<(), Error>;

/// A driver that was started.
pub(crate) enum Running {
    /// On a thread of its own.
    Alone(JoinHandle<Outcome>),
    /// Among others: where its outcome comes, and whether it has ended.
    Pooled(Receiver<Outcome>, Arc<AtomicBool>),
}

impl Running {
    /// Starts `driver` on a thread of its own.
    ///
    /// # Errors
    /// There is none to be had.
    pub(crate) fn alone(driver: Box<Driver>) -> Result<Self, Error> {
        let run = move || {
            let outcome = driver.run(Seat::alone()).now_or_never();
            outcome.expect("because it waits in its own poll, and for nothing else")
        };
        let thread = std::thread::Builder::new().name("sluicegate".to_owned()).spawn(run);
        Ok(Self::Alone(thread.map_err(Error::machine("starting the driver's thread"))?))
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        match self {
            Self::Alone(thread) => thread.is_finished(),
            Self::Pooled(_, is_over) => is_over.load(Ordering::Acquire),
        }
    }

    /// Waits for its end: it holds nothing any more then.
    ///
    /// # Errors
    /// Why it ended.
    pub(crate) fn wait(self) -> Outcome {
        match self {
            Self::Alone(thread) => thread.join().unwrap_or_else(|panic| Err(bug(&*panic))),
            Self::Pooled(outcome, _) => outcome.recv().unwrap_or_else(|_| {
                Err(Error::Bug("the thread that it shared with others has ended".to_owned()))
            }),
        }
    }
}

/// What a panic said.
pub(super) fn bug(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    Error::Bug(text.unwrap_or("a panic without a text").to_owned())
}
