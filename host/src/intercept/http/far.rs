//! A server's connection of HTTP/2, as the guest's sees it.
//!
//! Owns what is the same for both: how many streams there are, which is as many as either side of
//! h2 still has something of, and extended CONNECT (RFC 8441 3), which the guest is offered once
//! the server has.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use h2::client::SendRequest;
use h2::{client, server};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use crate::intercept::Reporter;

/// Streams that were reset, and that h2 remembers for a while: by default so many, and nothing of
/// them but that.
const LINGERING_MAX: usize = 10;

/// What the guest's connection knows of its server's.
pub(super) struct Server {
    sender: SendRequest<Bytes>,
    /// Who waits until the server's connection has gone on.
    waits: Arc<AtomicWaker>,
    /// The network's streams, and those of them that this connection has.
    streams: Arc<Semaphore>,
    reporter: Arc<Reporter>,
    taken: OwnedSemaphorePermit,
    /// The guest was offered all that the server has.
    has_offered: bool,
}

/// The server's connection.
pub(super) struct Connection<S> {
    connection: client::Connection<S, Bytes>,
    waits: Arc<AtomicWaker>,
}

impl Server {
    /// Of those of the network, which are `streams`, it has none yet.
    pub(super) fn new<S>(
        sender: SendRequest<Bytes>,
        connection: client::Connection<S, Bytes>,
        (streams, reporter): (Arc<Semaphore>, Arc<Reporter>),
    ) -> Result<(Self, Connection<S>), TryAcquireError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let taken = Arc::clone(&streams).try_acquire_many_owned(0)?;
        let waits = Arc::<AtomicWaker>::default();
        let connection = Connection { connection, waits: Arc::clone(&waits) };
        Ok((Self { sender, waits, streams, reporter, taken, has_offered: false }, connection))
    }

    /// Whether the network has room for one more stream, which is taken.
    pub(super) fn takes_one(&mut self) -> bool {
        let one = Arc::clone(&self.streams).try_acquire_owned();
        match one {
            Ok(one) => self.taken.merge(one),
            Err(_) => {
                self.reporter.note_stream_refused();
                return false;
            }
        }
        true
    }

    /// Gives back the streams that have ended, where there are `live`, and offers what the server
    /// offers. True: the guest is to be told.
    pub(super) fn settle<G>(
        &mut self,
        context: &mut Context<'_>,
        guest: &mut server::Connection<G, Bytes>,
        live: usize,
    ) -> bool
    where
        G: AsyncRead + AsyncWrite + Unpin,
    {
        // Before it is looked at: what happens from now on is seen in another turn.
        if !self.has_offered || self.taken.num_permits() > live {
            self.waits.register(context.waker());
        }
        // A stream that was reset before the server let it begin still has its request, and one
        // whose response the guest does not read has that, though nobody is for them any more.
        let wired = guest.num_wired_streams().max(self.sender.num_wired_streams());
        let needed = live.max(wired.saturating_sub(LINGERING_MAX));
        drop(self.taken.split(self.taken.num_permits().saturating_sub(needed)));
        let is_new = !self.has_offered && self.sender.is_extended_connect_protocol_enabled();
        // Not before the guest has acknowledged what it was told before, which is seen here, too.
        self.has_offered |= is_new && guest.enable_connect_protocol().is_ok();
        is_new && self.has_offered
    }
}

impl<S> Future for Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    type Output = Result<(), h2::Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = Pin::new(&mut self.connection).poll(context);
        self.waits.wake();
        polled
    }
}
