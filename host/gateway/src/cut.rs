//! An answer that stops when who it is for may not go on: the session is ended before its time, or something is held against him.
//!
//! Must never pass on another byte after that: the caller sees a broken answer, not a short one.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use ringfence_core::limits;
use ringfence_engine::{Body, BodyError};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// How often an answer of which nothing comes asks whether it may go on.
const LOOK: Duration = Duration::from_millis(limits::STANDING_LOOK_MS_MAX);

struct Cut<F> {
    inner: Body,
    ended: CancellationToken,
    may_go_on: F,
    /// What wakes whoever reads it when that is told, once nothing came: most answers are over before.
    told: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// When to ask again, once nothing came.
    look: Option<Pin<Box<Sleep>>>,
}

/// Cuts `body` when `ended` is told, or `may_go_on` says no: asked before each piece, and each second while none comes. A body
/// that is over already is left as it is.
pub fn cut_with<F>(body: Body, ended: CancellationToken, may_go_on: F) -> Body
where
    F: Fn() -> bool + Send + Unpin + 'static,
{
    if body.is_end_stream() {
        return body;
    }
    Cut { inner: body, ended, may_go_on, told: None, look: None }.boxed_unsync()
}

impl<F: Fn() -> bool> Cut<F> {
    /// Whether it is over for who reads it; if not, wakes him when that is told, and when it is time to ask again.
    fn is_barred_while_nothing_comes(&mut self, context: &mut Context<'_>) -> bool {
        let ended = &self.ended;
        let told = self.told.get_or_insert_with(|| Box::pin(ended.clone().cancelled_owned()));
        if told.as_mut().poll(context).is_ready() {
            return true;
        }
        let look = self.look.get_or_insert_with(|| Box::pin(tokio::time::sleep(LOOK)));
        while look.as_mut().poll(context).is_ready() {
            if !(self.may_go_on)() {
                return true;
            }
            look.as_mut().reset(Instant::now() + LOOK);
        }
        false
    }
}

impl<F: Fn() -> bool + Unpin> HttpBody for Cut<F> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended.is_cancelled() || !(self.may_go_on)() {
            return Poll::Ready(Some(Err(BodyError::Closed)));
        }
        match Pin::new(&mut self.inner).poll_frame(context) {
            Poll::Pending if self.is_barred_while_nothing_comes(context) => Poll::Ready(Some(Err(BodyError::Closed))),
            next => next,
        }
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
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use futures::FutureExt;
    use http_body_util::channel::Channel;

    #[tokio::test]
    async fn what_streams_for_someone_breaks_off_when_he_is_held_also_while_nothing_comes() {
        for is_silent in [false, true] {
            let (mut sender, body) = Channel::<Bytes, BodyError>::new(4);
            let held = Arc::new(AtomicBool::new(false));
            let may_go_on = {
                let held = Arc::clone(&held);
                move || !held.load(Ordering::Relaxed)
            };
            let mut body = cut_with(body.boxed_unsync(), CancellationToken::new(), may_go_on);
            sender.try_send(Frame::data(Bytes::from_static(b"one"))).unwrap();
            assert!(body.frame().await.unwrap().is_ok());
            assert!(body.frame().now_or_never().is_none(), "nothing has come since");
            held.store(true, Ordering::Relaxed);
            if !is_silent {
                sender.try_send(Frame::data(Bytes::from_static(b"two"))).unwrap();
            }
            let next = tokio::time::timeout(Duration::from_secs(60), body.frame()).await.unwrap();
            assert!(matches!(next.unwrap(), Err(BodyError::Closed)));
        }
    }

    #[tokio::test]
    async fn what_streams_for_a_session_breaks_off_when_it_is_ended() {
        let (mut sender, body) = Channel::<Bytes, BodyError>::new(4);
        let ended = CancellationToken::new();
        let mut body = cut_with(body.boxed_unsync(), ended.clone(), || true);
        sender.try_send(Frame::data(Bytes::from_static(b"one"))).unwrap();
        assert!(body.frame().now_or_never().unwrap().unwrap().is_ok());
        assert!(body.frame().now_or_never().is_none(), "nothing has come since");
        sender.try_send(Frame::data(Bytes::from_static(b"two"))).unwrap();
        ended.cancel();
        assert!(matches!(body.frame().now_or_never().unwrap().unwrap(), Err(BodyError::Closed)));
    }
}
