//! Work that goes to its end, whatever becomes of who waits for it.
//!
//! While somebody waits it is done where he waits: a task of its own would cost two hand-overs between threads. Must never cut
//! the work short, unless the host itself ends, nor let its panic reach who waits.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tokio::runtime::Handle;

/// Resolves with what the work comes to; with nothing when it panicked. Dropped before that, it goes on in a task.
pub struct ToItsEnd<T: Send + 'static>(Option<BoxFuture<'static, T>>);

impl<T: Send + 'static> ToItsEnd<T> {
    /// Work that begins when it is first waited for.
    pub fn new(work: impl Future<Output = T> + Send + 'static) -> Self {
        Self(Some(Box::pin(work)))
    }
}

impl<T: Send + 'static> Future for ToItsEnd<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let Some(work) = &mut self.0 else { return Poll::Ready(None) };
        let done = match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(done)) => Some(done),
            Err(_panic) => None,
        };
        self.0 = None;
        Poll::Ready(done)
    }
}

impl<T: Send + 'static> Drop for ToItsEnd<T> {
    fn drop(&mut self) {
        if let (Some(work), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            drop(runtime.spawn(work));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn who_stops_waiting_does_not_stop_the_work() {
        let (go, went) = oneshot::channel::<()>();
        let (say, said) = oneshot::channel();
        let mut work = ToItsEnd::new(async move {
            went.await.unwrap();
            say.send(7).unwrap();
        });
        let is_pending = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut work).poll(cx).is_pending())).await;
        assert!(is_pending);
        drop(work);
        go.send(()).unwrap();
        assert_eq!(said.await, Ok(7));
    }

    #[tokio::test]
    async fn what_it_comes_to_is_told_and_a_panic_is_nothing() {
        assert_eq!(ToItsEnd::new(async { 7 }).await, Some(7));
        assert_eq!(
            ToItsEnd::new(async {
                if true {
                    panic!("on purpose")
                }
            })
            .await,
            None
        );
    }
}
