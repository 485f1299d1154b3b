//! A body whose bytes are charged to the tenant's day as they pass, going out or coming back.
//!
//! Must never let a byte pass that the tenant's quota does not cover: the body ends in an error instead.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use wasmtime_wasi_http::{Error as HttpError, WasiBody};

use crate::quota::Ledger;

/// A charged body.
pub(crate) struct Charged {
    body: WasiBody,
    ledger: Arc<Ledger>,
}

impl Charged {
    /// The body, charged.
    pub(crate) fn wrap(body: WasiBody, ledger: &Arc<Ledger>) -> WasiBody {
        Self { body, ledger: Arc::clone(ledger) }.boxed_unsync()
    }
}

impl Body for Charged {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
            && let Err(exhausted) = self.ledger.egress_bytes(data.len() as u64)
        {
            return Poll::Ready(Some(Err(HttpError::InternalError(Some(exhausted.to_string())))));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
