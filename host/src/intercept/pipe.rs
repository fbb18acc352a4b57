//! The bytes of one connection between the driver's thread and a task.
//!
//! Two bounded queues in memory, and how it ended: a task that shuts its end down has finished in
//! order, whatever else it still has to do or to hear, and is heard to the end for a while; one
//! that ends without that, or fails after it, makes the guest's connection end with a reset.
//! Neither side waits for the other's thread: what there is no room for, or not yet, is tried again
//! when the driver is woken.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, copy, duplex, sink};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// Bytes that may be under way each way.
const PIPE_BYTES: usize = 64 * 1024;
/// What a guest still says to whom has finished, and hears no more, is taken for so long: a reset
/// would take from it what it was told and has not read yet (RFC 9112 9.6).
const LINGERING_MAX: Duration = Duration::from_secs(2);

/// A task did not come to its end in order; its connection is reset.
pub(super) struct Broken;

/// The driver's end of bytes to and from a task.
pub(crate) struct End {
    stream: DuplexStream,
    waker: Waker,
}

/// The task's end: who shuts it down says that nothing more comes, and that it is all there was.
pub(super) struct TaskEnd {
    stream: DuplexStream,
    is_broken: Arc<AtomicBool>,
    left: Left,
}

/// What is left of a task's end once nobody has it any more, if it has finished.
type Left = Arc<Mutex<Option<DuplexStream>>>;

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
    pub(super) fn new<F>(runtime: &Handle, waker: Waker, serve: impl FnOnce(TaskEnd) -> F) -> Self
    where
        F: Future<Output = Result<(), Broken>> + Send + 'static,
    {
        let (end, stream) = End::pair(waker.clone());
        // Until the task shuts its end down: it may be dropped with its runtime.
        let is_broken = Arc::new(AtomicBool::new(true));
        let left = Left::default();
        let session =
            serve(TaskEnd { stream, is_broken: Arc::clone(&is_broken), left: Arc::clone(&left) });
        let session = Some(Box::pin(session));
        let ended = Ended { session, is_broken: Arc::clone(&is_broken), waker };
        let has_failed = Arc::clone(&is_broken);
        let task = runtime.spawn(async move {
            ended.await;
            let left = left.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(mut left) = left.filter(|_| !has_failed.load(Ordering::Acquire)) {
                let _ = timeout(LINGERING_MAX, copy(&mut left, &mut sink())).await;
            }
        });
        Self { end, is_broken, task: task.abort_handle(), is_done: false }
    }

    /// Reads into `space` what the task has for the guest.
    pub(crate) fn read(&mut self, space: &mut [u8]) -> Read {
        match self.end.read(space) {
            Read::Finished if self.is_broken() => Read::Broken,
            read @ (Read::Some(_) | Read::Nothing | Read::Finished | Read::Broken) => read,
        }
    }

    /// Whether the task has failed, if it has finished.
    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Acquire)
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

/// A session that says so if it fails though it has shut its end down.
struct Ended<F> {
    session: Option<Pin<Box<F>>>,
    is_broken: Arc<AtomicBool>,
    waker: Waker,
}

impl<F: Future<Output = Result<(), Broken>>> Future for Ended<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(session) = &mut self.session else { return Poll::Ready(()) };
        match session.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(outcome) => {
                self.session = None;
                if outcome.is_err() {
                    self.is_broken.store(true, Ordering::Release);
                    // The pipe's end calls nobody where the task had shut its own down before.
                    self.waker.wake_by_ref();
                }
                Poll::Ready(())
            }
        }
    }
}

impl Drop for TaskEnd {
    fn drop(&mut self) {
        if !self.is_broken.load(Ordering::Acquire) {
            let (nobody, _) = duplex(1);
            let stream = std::mem::replace(&mut self.stream, nobody);
            *self.left.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
        }
    }
}

impl AsyncRead for TaskEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, space)
    }
}

impl AsyncWrite for TaskEnd {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Before the driver can see that there is no more.
        self.is_broken.store(false, Ordering::Release);
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Whatever it was, it is told of here.
impl<E: std::error::Error> From<E> for Broken {
    fn from(error: E) -> Self {
        tracing::debug!(%error, "an intercepted connection broke");
        Self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};
    use std::task::Wake;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::runtime::Runtime;
    use tokio::sync::oneshot;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    struct Bell(std::sync::mpsc::Sender<()>);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            let _ = self.0.send(());
        }
    }

    /// A pipe whose task says "bye", shuts its end down, and ends as the test says, once it does;
    /// when the driver is called; and what the task heard.
    fn farewell() -> (Runtime, Pipe, Receiver<()>, oneshot::Sender<bool>, Receiver<Vec<u8>>) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build();
        let runtime = runtime.unwrap();
        let ((bell, calls), (end, ends)) = (channel(), oneshot::channel());
        let (tell, heard) = channel();
        let waker = Waker::from(Arc::new(Bell(bell)));
        let pipe = Pipe::new(runtime.handle(), waker, |mut guest| async move {
            guest.write_all(b"bye").await?;
            guest.shutdown().await?;
            let fails = ends.await.map_err(|_| Broken)?;
            let mut bytes = vec![];
            if fails {
                return Err(Broken);
            }
            guest.read_to_end(&mut bytes).await?;
            let _ = tell.send(bytes);
            Ok(())
        });
        (runtime, pipe, calls, end, heard)
    }

    /// All that the driver reads until it is told of an end.
    fn read_all(pipe: &mut Pipe, calls: &Receiver<()>) -> (Vec<u8>, Read) {
        let mut all = vec![];
        loop {
            let mut space = [0; 8];
            match pipe.read(&mut space) {
                Read::Some(len) => all.extend_from_slice(&space[..len]),
                Read::Nothing => calls.recv_timeout(PATIENCE).unwrap(),
                end @ (Read::Finished | Read::Broken) => return (all, end),
            }
        }
    }

    #[test]
    fn a_task_that_shuts_its_end_down_has_finished_in_order_and_hears_on() {
        let (_runtime, mut pipe, calls, end, heard) = farewell();
        assert_eq!(read_all(&mut pipe, &calls), (b"bye".to_vec(), Read::Finished));
        assert!(!pipe.is_broken());
        assert_eq!(pipe.write(b"and more"), Write::Some(8));
        end.send(false).unwrap();
        pipe.finish();
        assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), b"and more");
    }

    #[test]
    fn what_a_guest_says_to_one_that_has_finished_is_taken_for_a_while() {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut pipe =
                Pipe::new(runtime.handle(), Waker::noop().clone(), |mut guest| async move {
                    guest.write_all(b"no").await?;
                    guest.shutdown().await?;
                    Ok(())
                });
            let mut taken = 0;
            while taken < 16 * PIPE_BYTES {
                match pipe.write(&[0; 1024]) {
                    Write::Some(len) => taken += len,
                    Write::Full => tokio::task::yield_now().await,
                    Write::Broken => panic!("{taken} bytes were taken"),
                }
            }
            assert_eq!(pipe.read(&mut [0; 8]), Read::Some(2));
            assert_eq!(pipe.read(&mut [0; 8]), Read::Finished);
            let ever = timeout(2 * LINGERING_MAX, std::future::pending::<()>());
            ever.await.unwrap_err();
            assert_eq!(pipe.write(b"and on"), Write::Broken);
        });
    }

    #[test]
    fn one_that_fails_behind_its_end_calls_the_driver_and_is_broken() {
        let (_runtime, mut pipe, calls, end, _heard) = farewell();
        assert_eq!(read_all(&mut pipe, &calls).1, Read::Finished);
        // Of what came before it has been told.
        while calls.try_recv().is_ok() {}
        end.send(true).unwrap();
        calls.recv_timeout(PATIENCE).expect("because the driver is called");
        assert!(pipe.is_broken());
    }

    #[test]
    fn one_that_ends_without_shutting_down_is_broken_however_it_ends() {
        for outcome in [Ok(()), Err(Broken)] {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build();
            let runtime = runtime.unwrap();
            let (bell, calls) = channel();
            let waker = Waker::from(Arc::new(Bell(bell)));
            let mut pipe = Pipe::new(runtime.handle(), waker, |guest| async move {
                let _guest = guest;
                outcome
            });
            assert_eq!(read_all(&mut pipe, &calls), (vec![], Read::Broken));
        }
    }
}
