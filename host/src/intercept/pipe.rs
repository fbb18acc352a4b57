//! The bytes of one connection between the driver's thread and a task.
//!
//! Two bounded queues in memory, and how it ended: a task that fails makes the guest's connection
//! end with a reset, one that is done makes it end in order. Neither side waits for the other's
//! thread: what there is no room for, or not yet, is tried again when the driver is woken.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// Bytes that may be under way each way.
const PIPE_BYTES: usize = 64 * 1024;

/// A task did not come to its end in order; its connection is reset.
pub(super) struct Broken;

/// The driver's end of bytes to and from a task.
pub(crate) struct End {
    stream: DuplexStream,
    waker: Waker,
}

/// The driver's end of a task; when it goes, the task ends.
pub(crate) struct Pipe {
    end: End,
    is_broken: Arc<AtomicBool>,
    task: AbortHandle,
    /// The task is to go on by itself: everything was said.
    is_done: bool,
}

/// What came of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    /// So many bytes.
    Some(usize),
    /// None yet.
    Nothing,
    /// The task has finished.
    Finished,
    /// The task has failed.
    Broken,
}

/// What came of writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    /// So many bytes were taken.
    Some(usize),
    /// There is no room now.
    Full,
    /// The task hears no more.
    Broken,
}

impl End {
    /// One, and the task's.
    pub(crate) fn pair(waker: Waker) -> (Self, DuplexStream) {
        let (stream, task) = duplex(PIPE_BYTES);
        (Self { stream, waker }, task)
    }

    /// Reads into `space` what the task has for the driver.
    pub(crate) fn read(&mut self, space: &mut [u8]) -> Read {
        let mut space = ReadBuf::new(space);
        let context = &mut Context::from_waker(&self.waker);
        match Pin::new(&mut self.stream).poll_read(context, &mut space) {
            Poll::Pending => Read::Nothing,
            Poll::Ready(Ok(())) if !space.filled().is_empty() => Read::Some(space.filled().len()),
            Poll::Ready(Ok(())) => Read::Finished,
            Poll::Ready(Err(_)) => Read::Broken,
        }
    }

    /// Gives the task `bytes`.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Write {
        let context = &mut Context::from_waker(&self.waker);
        match Pin::new(&mut self.stream).poll_write(context, bytes) {
            Poll::Pending => Write::Full,
            Poll::Ready(Ok(written)) => Write::Some(written),
            Poll::Ready(Err(_)) => Write::Broken,
        }
    }

    /// Nothing more comes from the driver.
    pub(crate) fn finish(&mut self) {
        let context = &mut Context::from_waker(&self.waker);
        // It is ready at once; and of a task that is gone nothing is wanted.
        let _ = Pin::new(&mut self.stream).poll_shutdown(context);
    }
}

impl Pipe {
    /// Begins the task that `serve` makes of its end.
    pub(super) fn new<F>(
        runtime: &Handle,
        waker: Waker,
        serve: impl FnOnce(DuplexStream) -> F,
    ) -> Self
    where
        F: Future<Output = Result<(), Broken>> + Send + 'static,
    {
        let (end, guest) = End::pair(waker);
        // Until the task says otherwise: it may be dropped with its runtime.
        let is_broken = Arc::new(AtomicBool::new(true));
        let (ended, session) = (Arc::clone(&is_broken), serve(guest));
        let task = runtime.spawn(Ended { session: Some(Box::pin(session)), is_broken: ended });
        Self { end, is_broken, task: task.abort_handle(), is_done: false }
    }

    /// Reads into `space` what the task has for the guest.
    pub(crate) fn read(&mut self, space: &mut [u8]) -> Read {
        match self.end.read(space) {
            Read::Finished if self.is_broken.load(Ordering::Acquire) => Read::Broken,
            read @ (Read::Some(_) | Read::Nothing | Read::Finished | Read::Broken) => read,
        }
    }

    /// Gives the task `bytes` of the guest.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Write {
        self.end.write(bytes)
    }

    /// The guest has finished.
    pub(crate) fn finish(&mut self) {
        self.end.finish();
    }

    /// Both ways have ended in order: the task may end as it likes.
    pub(crate) fn close(&mut self) {
        self.is_done = true;
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if !self.is_done {
            self.task.abort();
        }
    }
}

/// A session that says how it ended before the pipe's end shows that it did.
struct Ended<F> {
    session: Option<Pin<Box<F>>>,
    is_broken: Arc<AtomicBool>,
}

impl<F: Future<Output = Result<(), Broken>>> Future for Ended<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(session) = &mut self.session else { return Poll::Ready(()) };
        match session.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(outcome) => {
                self.is_broken.store(outcome.is_err(), Ordering::Release);
                self.session = None;
                Poll::Ready(())
            }
        }
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        tracing::debug!(%error, "an intercepted connection broke");
        Self
    }
}

impl From<hyper::Error> for Broken {
    fn from(error: hyper::Error) -> Self {
        tracing::debug!(%error, "an intercepted connection broke");
        Self
    }
}
