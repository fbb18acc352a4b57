//! WebSockets (RFC 6455), over HTTP/1.1 and HTTP/2 (RFC 8441): what is said in them is looked at.
//!
//! Each way is read frame by frame (`frame`), what is in a message goes through the filter that a
//! body goes through, and what comes of it leaves in frames of our own as soon as it may: in the
//! same messages, cut otherwise, as an intermediary may where no extension was agreed on (RFC 6455
//! 5.4). So a control frame, and a close that we send, may follow anything that has left.
//!
//! What must not pass, and what is no frame, ends it: the guest is told by a close (RFC 6455 7.4.1)
//! behind the last whole frame, and the server's connection, or stream, ends without a word.
//!
//! Bounded: of a message as much waits as of a body, and each turn takes 16 KiB at most and makes
//! 64 KiB and what one of them grows to. A guest that does not take the close has a second, over
//! HTTP/1.

mod frame;
mod way;

use std::future::{pending, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::task::AtomicWaker;
use http_body_util::BodyDataStream;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, split};
use tokio::time::sleep;
use tokio_util::io::ReaderStream;

use self::frame::Speaker;
use self::way::{PROTOCOL_ERROR, Stop, Way, close};
use super::Exchange;
use crate::intercept::body::{Body, Fault};
use crate::intercept::pipe::Broken;

pub(super) use self::frame::MaskKey;

/// Bytes that are read at a time: a record of TLS.
const PIECE_BYTES: usize = 16 * 1024;
/// So many turns, one behind the other, then everybody else is served.
const TURNS_MAX: u8 = 4;
/// A guest has so long to take what it is told of the end.
const CLOSING_MAX: Duration = Duration::from_secs(1);

/// That a WebSocket is over before its time, as all who have to do with it see.
#[derive(Default)]
struct Ending {
    code: OnceLock<u16>,
    /// Who waits: the two ways, and the clock.
    wakers: [AtomicWaker; 3],
}

impl Ending {
    /// Ends it; the first code counts.
    fn tell(&self, code: u16) {
        let _ = self.code.set(code);
        self.wakers.iter().for_each(AtomicWaker::wake);
    }

    /// The code, for who waits as `who`.
    fn poll(&self, who: Who, context: &Context<'_>) -> Poll<u16> {
        let [way_of_guest, way_of_server, clock] = &self.wakers;
        let waker = match who {
            Who::Way(Speaker::Guest) => way_of_guest,
            Who::Way(Speaker::Server) => way_of_server,
            Who::Clock => clock,
        };
        waker.register(context.waker());
        self.code.get().map_or(Poll::Pending, |code| Poll::Ready(*code))
    }
}

/// Who waits for an end.
#[derive(Clone, Copy)]
enum Who {
    Way(Speaker),
    Clock,
}

/// One way of a WebSocket: what comes of what `source` says, in whole frames.
struct Watched<S> {
    source: S,
    way: Way,
    ending: Arc<Ending>,
    /// What has come, and is to be looked at.
    rest: Bytes,
    /// Turns since it last waited.
    turns: u8,
    stop: Option<Stop>,
    is_over: bool,
}

impl<S, E> Watched<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    Fault: From<E>,
{
    /// What is there to pass, of what has come.
    fn turn(&mut self) -> Bytes {
        let (passed, taken) = self.way.push(&mut self.rest);
        self.stop = taken.err();
        passed
    }

    /// Ends it: for the guest with a close, for the server as what breaks.
    fn conclude(&mut self, code: u16) -> Result<Bytes, Fault> {
        self.is_over = true;
        match self.way.speaker {
            Speaker::Guest => Err("the WebSocket is not to go on".into()),
            Speaker::Server => Ok(close(code)),
        }
    }

    /// The source has ended.
    fn finish(&mut self) -> Bytes {
        self.is_over = true;
        let (passed, finished) = self.way.finish();
        self.stop = finished.err();
        passed
    }
}

impl<S, E> Stream for Watched<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    Fault: From<E>,
{
    type Item = Result<Bytes, Fault>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(stop) = this.stop.take() {
                let code = stop.code();
                this.way.report(stop);
                this.ending.tell(code);
                return Poll::Ready(Some(this.conclude(code)));
            }
            if this.is_over {
                return Poll::Ready(None);
            }
            let who = Who::Way(this.way.speaker);
            if let Poll::Ready(code) = this.ending.poll(who, context) {
                return Poll::Ready(Some(this.conclude(code)));
            }
            let passed = if this.rest.is_empty() {
                let Poll::Ready(came) = Pin::new(&mut this.source).poll_next(context) else {
                    this.turns = 0;
                    return Poll::Pending;
                };
                match came.transpose() {
                    Ok(Some(bytes)) => {
                        this.rest = bytes;
                        continue;
                    }
                    Ok(None) => this.finish(),
                    Err(error) => {
                        this.is_over = true;
                        return Poll::Ready(Some(Err(error.into())));
                    }
                }
            } else if this.turns == TURNS_MAX {
                this.turns = 0;
                context.waker().wake_by_ref();
                return Poll::Pending;
            } else {
                this.turns += 1;
                this.turn()
            };
            if !passed.is_empty() {
                return Poll::Ready(Some(Ok(passed)));
            }
        }
    }
}

/// What looks at both ways of a WebSocket.
pub(super) struct Watch {
    exchange: Arc<Exchange>,
    ending: Arc<Ending>,
}

impl Watch {
    pub(super) fn new(exchange: &Arc<Exchange>) -> Self {
        Self { exchange: Arc::clone(exchange), ending: Arc::default() }
    }

    fn way<S>(&self, source: S, speaker: Speaker) -> Watched<S> {
        Watched {
            source,
            way: Way::new(&self.exchange, speaker),
            ending: Arc::clone(&self.ending),
            rest: Bytes::new(),
            turns: 0,
            stop: None,
            is_over: false,
        }
    }

    /// What passes of what the guest says, which is the body of its request (RFC 8441 5).
    pub(super) fn request(&self, body: Body) -> Body {
        Body::stream(self.way(BodyDataStream::new(body), Speaker::Guest))
    }

    /// What passes of what the server says, which is the body of its response.
    pub(super) fn response(&self, body: Body) -> Body {
        Body::stream(self.way(BodyDataStream::new(body), Speaker::Server))
    }

    /// Whether what was said has ended it.
    pub(super) fn is_over(&self) -> bool {
        self.ending.code.get().is_some()
    }

    /// Ends it before it begins: the server's answer is none that may pass.
    pub(super) fn refuse(&self) {
        self.ending.tell(PROTOCOL_ERROR);
    }

    /// Relays between the two sides of a connection of HTTP/1 that has switched, until both have
    /// ended.
    pub(super) async fn relay<G, S>(self, guest: G, server: S) -> Result<(), Broken>
    where
        G: AsyncRead + AsyncWrite + Send,
        S: AsyncRead + AsyncWrite + Send,
    {
        let (from_guest, to_guest) = split(guest);
        let (from_server, to_server) = split(server);
        let ways = async {
            tokio::try_join!(
                self.copy(from_guest, to_server, Speaker::Guest),
                self.copy(from_server, to_guest, Speaker::Server),
            )
        };
        let late = async {
            poll_fn(|context| self.ending.poll(Who::Clock, context)).await;
            sleep(CLOSING_MAX).await;
        };
        tokio::select! {
            biased;
            ended = ways => match ended {
                Ok(_) | Err(Over::Closed) => Ok(()),
                Err(Over::Broken) => Err(Broken),
            },
            () = late => Err(Broken),
        }
    }

    async fn copy<R, W>(&self, from: R, mut to: W, speaker: Speaker) -> Result<(), Over>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut watched = self.way(ReaderStream::with_capacity(from, PIECE_BYTES), speaker);
        while let Some(passed) = poll_fn(|context| Pin::new(&mut watched).poll_next(context)).await
        {
            match passed {
                Ok(passed) => {
                    to.write_all(&passed).await?;
                    // What was read may be all there is for now.
                    to.flush().await?;
                }
                // The other way tells the guest, and then it is over.
                Err(_) if self.is_over() => pending().await,
                Err(error) => {
                    tracing::debug!(%error, "a WebSocket broke");
                    return Err(Over::Broken);
                }
            }
        }
        to.shutdown().await?;
        // What the guest is told goes the other way.
        if self.is_over() && speaker == Speaker::Server { Err(Over::Closed) } else { Ok(()) }
    }
}

/// How a relay ends that does not end by itself.
enum Over {
    /// The guest was told.
    Closed,
    Broken,
}

impl From<io::Error> for Over {
    fn from(error: io::Error) -> Self {
        let Broken = error.into();
        Self::Broken
    }
}

#[cfg(test)]
mod tests;
