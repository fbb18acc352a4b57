//! The bodies of requests and responses on their way: as they come, or through a filter.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::Full;
use hyper::HeaderMap;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use crate::service::secrets::{BodyFilter, Scope, Violation};

/// Why a body ended before its time.
pub(super) type Fault = Box<dyn std::error::Error + Send + Sync>;

/// A body.
pub(super) enum Body {
    /// One that is there, and the trailers behind it.
    Whole(Full<Bytes>, Option<HeaderMap>),
    /// One that comes, as it is.
    Passing(Incoming),
    /// One that comes through a filter.
    Filtered(Box<Filtered>),
    /// One that is not asked for before something has happened.
    Waiting(Box<Waiting>),
}

/// A body that waits.
pub(super) struct Waiting {
    /// `None`: it has happened.
    until: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    body: Body,
}

/// A body that a filter may change, or end.
pub(super) struct Filtered {
    inner: Incoming,
    filter: BodyFilter,
    scope: Arc<Scope>,
    /// What the filter found, for who has to tell.
    found: Arc<OnceLock<Violation>>,
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

    /// `inner` through `filter`, which says in `found` what it found.
    pub(super) fn filtered(
        inner: Incoming,
        filter: BodyFilter,
        scope: Arc<Scope>,
        found: Arc<OnceLock<Violation>>,
    ) -> Self {
        let is_over = false;
        Self::Filtered(Box::new(Filtered { inner, filter, scope, found, trailers: None, is_over }))
    }
}

impl Body {
    /// `body`, which is not asked for before `until`.
    pub(super) fn waiting(body: Self, until: impl Future<Output = ()> + Send + 'static) -> Self {
        Self::Waiting(Box::new(Waiting { until: Some(Box::pin(until)), body }))
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
            Self::Filtered(filtered) => filtered.poll(context),
            Self::Waiting(waiting) => {
                if let Some(until) = &mut waiting.until {
                    ready!(until.as_mut().poll(context));
                    waiting.until = None;
                }
                Pin::new(&mut waiting.body).poll_frame(context)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole, trailers) => whole.is_end_stream() && trailers.is_none(),
            Self::Passing(inner) => inner.is_end_stream(),
            Self::Filtered(filtered) => filtered.is_over && filtered.trailers.is_none(),
            Self::Waiting(waiting) => waiting.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole, _) => whole.size_hint(),
            Self::Passing(inner) => inner.size_hint(),
            Self::Filtered(filtered) if filtered.filter.may_change_length() => SizeHint::default(),
            Self::Filtered(filtered) => filtered.inner.size_hint(),
            Self::Waiting(waiting) => waiting.body.size_hint(),
        }
    }
}

impl Filtered {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        loop {
            if let Some(trailers) = self.trailers.take() {
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            if self.is_over {
                return Poll::Ready(None);
            }
            let frame = match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
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
                    let passed = self.filter.push(data);
                    match self.checked(passed)? {
                        passed if passed.is_empty() => continue,
                        passed => return Poll::Ready(Some(Ok(Frame::data(passed)))),
                    }
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
            // There is one at most: nothing is polled behind it.
            let _ = self.found.set(violation);
            Fault::from("the body is not to pass")
        })
    }
}
