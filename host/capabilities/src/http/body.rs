//! The body of an answer from outside: bounded in bytes, in silence and in total time.
//!
//! Must never let a server decide how much of the host an invocation takes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use ringfence_engine::Meter;
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::{Error as HttpError, WasiBody};

use super::connect::Driver;

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
pub(crate) fn counted(body: WasiBody, meter: Arc<Meter>) -> WasiBody {
    let count = move |frame: Frame<Bytes>| {
        meter.egress_out(frame.data_ref().map_or(0, Bytes::len) as u64);
        frame
    };
    body.map_frame(count).boxed_unsync()
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
