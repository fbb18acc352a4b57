//! The bodies of requests and responses on their way: as they come, or through a filter.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use h2::RecvStream;
use http_body_util::Full;
use hyper::HeaderMap;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::CONTENT_LENGTH;

use crate::service::secrets::{BodyFilter, Scope, Violation};

/// Why a body ended before its time.
pub(super) type Fault = Box<dyn std::error::Error + Send + Sync>;

/// So many turns of a filter, one behind the other, then everybody else is served.
const TURNS_MAX: u8 = 4;

/// A body.
pub(super) enum Body {
    /// One that is there, and the trailers behind it.
    Whole(Full<Bytes>, Option<HeaderMap>),
    /// One that comes over HTTP/1, as it is.
    Passing(Incoming),
    /// The same over HTTP/2.
    Streaming(Streaming),
    /// One that comes through a filter.
    Filtered(Box<Filtered>),
    /// One that is not asked for before something has happened.
    Waiting(Box<Waiting>),
    /// What a stream gives.
    Stream(Pin<Box<dyn Stream<Item = Result<Bytes, Fault>> + Send>>),
}

/// A body that waits.
pub(super) struct Waiting {
    /// `None`: it has happened.
    until: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    body: Body,
}

/// A body of HTTP/2.
pub(super) struct Streaming {
    stream: RecvStream,
    /// Bytes that are still to come, if that was said.
    left: Option<u64>,
    is_data_over: bool,
}

/// Tells what a filter found.
type Tell = Box<dyn FnOnce(Violation) + Send>;

/// A body that a filter may change, or end.
pub(super) struct Filtered {
    inner: Body,
    filter: BodyFilter,
    scope: Arc<Scope>,
    /// What has come, and is to go through the filter.
    rest: Bytes,
    /// Turns of the filter since it last waited.
    turns: u8,
    /// `None`: it has told.
    tell: Option<Tell>,
    /// The trailers, which come behind what the filter still has.
    trailers: Option<HeaderMap>,
    is_over: bool,
}

impl Body {
    pub(super) fn of(bytes: impl Into<Bytes>) -> Self {
        Self::whole(bytes, None)
    }

    pub(super) fn whole(bytes: impl Into<Bytes>, trailers: Option<HeaderMap>) -> Self {
        Self::Whole(Full::new(bytes.into()), trailers)
    }

    /// What comes by `stream`, behind a head with `headers`.
    pub(super) fn streaming(headers: &HeaderMap, stream: RecvStream) -> Self {
        let left = if stream.is_end_stream() { Some(0) } else { length(headers) };
        Self::Streaming(Streaming { stream, left, is_data_over: false })
    }

    /// `inner` through `filter`; `tell` is told of what ends it.
    pub(super) fn filtered(
        inner: Self,
        filter: BodyFilter,
        scope: Arc<Scope>,
        tell: impl FnOnce(Violation) + Send + 'static,
    ) -> Self {
        Self::Filtered(Box::new(Filtered {
            inner,
            filter,
            scope,
            rest: Bytes::new(),
            turns: 0,
            tell: Some(Box::new(tell)),
            trailers: None,
            is_over: false,
        }))
    }

    /// `body`, which is not asked for before `until`.
    pub(super) fn waiting(body: Self, until: impl Future<Output = ()> + Send + 'static) -> Self {
        Self::Waiting(Box::new(Waiting { until: Some(Box::pin(until)), body }))
    }

    pub(super) fn stream(
        stream: impl Stream<Item = Result<Bytes, Fault>> + Send + 'static,
    ) -> Self {
        Self::Stream(Box::pin(stream))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match &mut *self {
            Self::Whole(whole, trailers) => {
                let frame = ready!(Pin::new(whole).poll_frame(context));
                let frame = frame.map(|frame| frame.map_err(|never| match never {}));
                Poll::Ready(frame.or_else(|| Some(Ok(Frame::trailers(trailers.take()?)))))
            }
            Self::Passing(inner) => Pin::new(inner).poll_frame(context).map_err(Fault::from),
            Self::Streaming(streaming) => streaming.poll(context),
            Self::Filtered(filtered) => filtered.poll(context),
            Self::Waiting(waiting) => {
                if let Some(until) = &mut waiting.until {
                    ready!(until.as_mut().poll(context));
                    waiting.until = None;
                }
                Pin::new(&mut waiting.body).poll_frame(context)
            }
            Self::Stream(stream) => {
                let piece = ready!(stream.as_mut().poll_next(context));
                Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole, trailers) => whole.is_end_stream() && trailers.is_none(),
            Self::Passing(inner) => inner.is_end_stream(),
            Self::Streaming(streaming) => streaming.stream.is_end_stream(),
            Self::Filtered(filtered) => filtered.is_over && filtered.trailers.is_none(),
            Self::Waiting(waiting) => waiting.body.is_end_stream(),
            Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole, _) => whole.size_hint(),
            Self::Passing(inner) => inner.size_hint(),
            Self::Streaming(streaming) => {
                streaming.left.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
            Self::Filtered(filtered) => filtered.size_hint(),
            Self::Waiting(waiting) => waiting.body.size_hint(),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// The length that `headers` tell of a body; `None`: none, or several.
fn length(headers: &HeaderMap) -> Option<u64> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let first = values.next()?;
    values.all(|value| value == first).then_some(())?;
    first.to_str().ok()?.parse().ok()
}

impl Streaming {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if !self.is_data_over {
            match ready!(self.stream.poll_data(context)) {
                Some(Ok(data)) => {
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    // Nobody asks for the next piece before this one is handed on.
                    self.stream.flow_control().release_capacity(data.len())?;
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // Behind a whole body h2 tells of none (RFC 9113 8.1).
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => self.is_data_over = true,
            }
        }
        match ready!(self.stream.poll_trailers(context)) {
            Ok(trailers) => Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers)))),
            Err(error) => Poll::Ready(Some(Err(error.into()))),
        }
    }
}

impl Filtered {
    fn size_hint(&self) -> SizeHint {
        let left = self.inner.size_hint().exact().filter(|_| !self.filter.may_change_length());
        let rest = self.rest.len() as u64;
        left.map_or_else(SizeHint::default, |left| SizeHint::with_exact(rest + left))
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        loop {
            if let Some(trailers) = self.trailers.take() {
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            if self.is_over {
                return Poll::Ready(None);
            }
            if !self.rest.is_empty() {
                if self.turns == TURNS_MAX {
                    self.turns = 0;
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                self.turns += 1;
                let passed = self.filter.push(&mut self.rest);
                match self.checked(passed)? {
                    passed if passed.is_empty() => continue,
                    passed => return Poll::Ready(Some(Ok(Frame::data(passed)))),
                }
            }
            let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) else {
                self.turns = 0;
                return Poll::Pending;
            };
            let frame = match frame {
                Some(frame) => frame?,
                None => {
                    self.is_over = true;
                    let rest = self.filter.finish();
                    match self.checked(rest)? {
                        rest if rest.is_empty() => continue,
                        rest => return Poll::Ready(Some(Ok(Frame::data(rest)))),
                    }
                }
            };
            let trailers = match frame.into_data() {
                Ok(data) => {
                    self.rest = data;
                    continue;
                }
                Err(frame) => frame.into_trailers(),
            };
            let Ok(mut trailers) = trailers else { continue };
            let looked = self.filter.trailers(&self.scope, &mut trailers);
            self.checked(looked.map(|()| Bytes::new()))?;
            let rest = self.filter.finish();
            let rest = self.checked(rest)?;
            (self.trailers, self.is_over) = (Some(trailers), true);
            if !rest.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(rest))));
            }
        }
    }

    /// What passed, or the fault that ends the body.
    fn checked(&mut self, passed: Result<Bytes, Violation>) -> Result<Bytes, Fault> {
        passed.map_err(|violation| {
            self.is_over = true;
            if let Some(tell) = self.tell.take() {
                tell(violation);
            }
            Fault::from("the body is not to pass")
        })
    }
}
