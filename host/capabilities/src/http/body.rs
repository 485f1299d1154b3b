//! Bodies on their way: an answer's is bounded in bytes, in silence and in total time, a request's is counted and, when
//! it turns out to be empty, left away.
//!
//! Must never let a server decide how much of the host an invocation takes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use ringfence_engine::Meter;
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::{Error as HttpError, WasiBody};

use super::connect::Driver;
use crate::guarded::Guarded;

/// LIMIT: wait for the first piece of a body that a method hardly ever has. Generous, because sending such a request in
/// chunks is what servers refuse, and ending it late is what the guest pays for.
const UNLIKELY_BODY_WAIT: Duration = Duration::from_secs(2);
/// LIMIT: wait for the first piece of any other body of unknown length; then it goes out in chunks.
const LIKELY_BODY_WAIT: Duration = Duration::from_millis(100);

/// Limits of one answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AnswerLimits {
    /// Bytes of the body.
    pub(crate) bytes_max: u64,
    /// Silence between two pieces.
    pub(crate) idle: Duration,
    /// When the whole exchange is over.
    pub(crate) deadline: Instant,
}

/// A request's body on its way out, counted.
pub(crate) fn counted(body: WasiBody, meter: Arc<Meter>, guarded: Guarded) -> WasiBody {
    let count = move |frame: Frame<Bytes>| {
        let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
        meter.egress_out(bytes);
        guarded.sent(bytes);
        frame
    };
    body.map_frame(count).boxed_unsync()
}

/// The request with its body begun, or without one when the guest ended it without a byte.
///
/// A guest that names no length leaves open whether there is a body at all. Said in chunks, an empty one is refused by
/// many servers, and one that answers before the last chunk breaks the guest's writing of it (RFC 9112, 6.3 and 9.5).
pub(crate) async fn settled(request: http::Request<WasiBody>) -> Result<http::Request<WasiBody>, HttpError> {
    if request.headers().contains_key(CONTENT_LENGTH) || request.body().size_hint().exact().is_some() {
        return Ok(request);
    }
    let (mut head, mut rest) = request.into_parts();
    let expects_body = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
    let wait = if expects_body { LIKELY_BODY_WAIT } else { UNLIKELY_BODY_WAIT };
    let body = match tokio::time::timeout(wait, first_frame(&mut rest)).await {
        Ok(None) => {
            if expects_body {
                // RFC 9110, 8.6: where a body is expected, its absence is said.
                head.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
            Empty::new().map_err(|never| match never {}).boxed_unsync()
        }
        begun => {
            // Said, because hyper takes a GET of unknown length for one without a body, and drops what the guest wrote.
            head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            let first = begun.ok().flatten().transpose()?;
            Begun { first, rest }.boxed_unsync()
        }
    };
    Ok(http::Request::from_parts(head, body))
}

/// A body whose first piece was taken out of it to look.
struct Begun {
    first: Option<Frame<Bytes>>,
    rest: WasiBody,
}

impl http_body::Body for Begun {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }
}

/// The first piece that says something: an empty one is none.
async fn first_frame(body: &mut WasiBody) -> Option<Result<Frame<Bytes>, HttpError>> {
    loop {
        match body.frame().await {
            Some(Ok(frame)) if frame.data_ref().is_some_and(Bytes::is_empty) => {}
            other => return other,
        }
    }
}

/// An answer's body within its limits. Dropping it closes the connection.
pub(crate) struct Answer {
    body: Incoming,
    _driver: Driver,
    limits: AnswerLimits,
    meter: Arc<Meter>,
    bytes: u64,
    timer: Pin<Box<Sleep>>,
}

impl Answer {
    pub(crate) fn new(body: Incoming, driver: Driver, limits: AnswerLimits, meter: Arc<Meter>) -> Self {
        let timer = Box::pin(tokio::time::sleep_until(next_deadline(&limits)));
        Self { body, _driver: driver, limits, meter, bytes: 0, timer }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => {
                let timed_out = self.timer.as_mut().poll(cx).is_ready();
                if timed_out { Poll::Ready(Some(Err(HttpError::ConnectionReadTimeout))) } else { Poll::Pending }
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.bytes = self.bytes.saturating_add(bytes);
                self.meter.egress_in(bytes);
                if self.bytes > self.limits.bytes_max {
                    return Poll::Ready(Some(Err(HttpError::HttpResponseBodySize(Some(self.limits.bytes_max)))));
                }
                let next = next_deadline(&self.limits);
                self.timer.as_mut().reset(next);
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn next_deadline(limits: &AnswerLimits) -> Instant {
    Instant::now().checked_add(limits.idle).map_or(limits.deadline, |idle| idle.min(limits.deadline))
}
