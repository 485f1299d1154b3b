//! Bodies on their way in and out of a guest: streamed, counted, cut when the invocation fails.
//!
//! Must never let a failed answer look complete: a guest that dies after its head breaks the connection, because the
//! streams of a dropped store end as cleanly as finished ones.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use wasmtime_wasi_http::{Error as HttpError, WasiBody};

use crate::client::Owed;
use crate::ending::Ending;
use crate::error::{BodyError, bounded};
use crate::scheduler::Task;

/// A body, streaming.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// A body that is there already.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// What the guest reads: the caller's body with errors in the words of `wasi:http`.
pub(crate) fn incoming(body: Body) -> WasiBody {
    body.map_err(|error| match error {
        BodyError::Closed => HttpError::ConnectionTerminated,
        BodyError::TooLarge => HttpError::HttpRequestBodySize(None),
        BodyError::TimedOut => HttpError::ConnectionReadTimeout,
        BodyError::Run(_) | BodyError::Other(_) => HttpError::HttpProtocolError,
    })
    .boxed_unsync()
}

/// The body of an answer, whichever handler made it.
pub(crate) type GuestBody = UnsyncBoxBody<Bytes, HttpError>;

/// What the caller reads: the guest's body, counted.
pub(crate) struct Outgoing {
    body: GuestBody,
    ending: Arc<Ending>,
    task: Arc<Task>,
    /// Bytes that are still to come when the head says how many.
    left: Option<u64>,
    stage: Stage,
}

#[derive(PartialEq, Eq)]
enum Stage {
    Open,
    Over,
}

/// Whether the caller will read a body at all; not after HEAD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expects {
    Body,
    HeadOnly,
}

// === impl Outgoing ===

impl Outgoing {
    pub(crate) fn wrap(
        response: http::Response<GuestBody>,
        expects: Expects,
        ending: Arc<Ending>,
        task: Arc<Task>,
    ) -> http::Response<Body> {
        let head_only = expects == Expects::HeadOnly
            || response.status().is_informational()
            || matches!(response.status(), http::StatusCode::NO_CONTENT | http::StatusCode::NOT_MODIFIED);
        let left = if head_only { Some(0) } else { content_length(response.headers()) };
        response.map(|body| Self { body, ending, task, left, stage: Stage::Open }.boxed_unsync())
    }

    fn count(&mut self, frame: &Frame<Bytes>) -> Result<(), BodyError> {
        let Some(data) = frame.data_ref() else { return Ok(()) };
        let bytes = data.len() as u64;
        if self.ending.meter().response_bytes(bytes).is_err() {
            return Err(BodyError::Run(crate::error::RunError::ResponseTooLarge));
        }
        self.left = self.left.map(|left| left.saturating_sub(bytes));
        Ok(())
    }

    fn over(&mut self) {
        self.stage = Stage::Over;
        self.ending.meter().client().ends(Owed::Answer);
        self.ending.body_is_out();
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.stage == Stage::Over {
            return Poll::Ready(None);
        }
        let this = &mut *self;
        this.ending.meter().client().ends(Owed::Answer);
        let next = match this.task.in_turn(|| Pin::new(&mut this.body).poll_frame(cx)) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(next) => next,
        };
        let next = match next {
            Some(Ok(frame)) => match self.count(&frame) {
                Ok(()) => {
                    // Until more is asked for, the client has not taken this.
                    self.ending.meter().client().begins(Owed::Answer);
                    return Poll::Ready(Some(Ok(frame)));
                }
                Err(error) => Some(Err(error)),
            },
            Some(Err(error)) => Some(Err(BodyError::Other(bounded(&error.to_string())))),
            // SECURITY: the end of a stream proves nothing; only a guest that has not failed may end its answer.
            None => self.ending.failure().map(|error| Err(BodyError::Run(error))),
        };
        self.over();
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.stage == Stage::Over || (self.body.is_end_stream() && self.ending.failure().is_none())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if self.stage == Stage::Over {
            return;
        }
        if self.left != Some(0) && !self.body.is_end_stream() {
            // The caller went away in the middle: nobody wants the rest.
            self.ending.meter().kill();
        }
        self.over();
    }
}

fn content_length(headers: &http::HeaderMap) -> Option<u64> {
    headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
