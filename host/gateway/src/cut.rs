//! An answer that stops when the session it is for is ended before its time.
//!
//! Must never pass on another byte after that: the caller sees a broken answer, not a short one.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use ringfence_engine::{Body, BodyError};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

struct Cut {
    inner: Body,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// Cuts `body` when `ended` is told. A body that is over already is left as it is.
pub fn cut_with(body: Body, ended: CancellationToken) -> Body {
    if body.is_end_stream() {
        return body;
    }
    Cut { inner: body, ended: Box::pin(ended.cancelled_owned()) }.boxed_unsync()
}

impl HttpBody for Cut {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(BodyError::Closed)));
        }
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use http_body_util::channel::Channel;

    #[test]
    fn what_streams_for_a_session_breaks_off_when_it_is_ended() {
        let (mut sender, body) = Channel::<Bytes, BodyError>::new(4);
        let ended = CancellationToken::new();
        let mut body = cut_with(body.boxed_unsync(), ended.clone());
        sender.try_send(Frame::data(Bytes::from_static(b"one"))).unwrap();
        assert!(body.frame().now_or_never().unwrap().unwrap().is_ok());
        assert!(body.frame().now_or_never().is_none(), "nothing has come since");
        sender.try_send(Frame::data(Bytes::from_static(b"two"))).unwrap();
        ended.cancel();
        assert!(matches!(body.frame().now_or_never().unwrap().unwrap(), Err(BodyError::Closed)));
    }
}
