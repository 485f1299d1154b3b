//! How long an invocation waits for its client: for bytes of the request, or for room for those of the answer.
//!
//! Must never count what the guest takes, nor what the host takes to let it go on: time counts while a request's body was
//! asked for bytes and has none, and from a piece of the answer until somebody asks for the next.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;

use crate::body::Body;
use crate::error::BodyError;
use crate::meter::Meter;

/// What the client owes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owed {
    /// Bytes of the request.
    Request,
    /// Room for bytes of the answer.
    Answer,
}

/// The waits of one invocation for its client. What is waited for on both sides at once counts once.
#[derive(Debug, Default)]
pub(crate) struct ClientWait(Mutex<Waits>);

#[derive(Debug, Default)]
struct Waits {
    for_request: bool,
    for_answer: bool,
    /// The wait that goes on.
    since: Option<Instant>,
    /// All waits before it.
    before: Duration,
}

impl ClientWait {
    /// The invocation waits from now on.
    pub(crate) fn begins(&self, owed: Owed) {
        let mut waits = self.lock();
        *waits.of(owed) = true;
        if waits.since.is_none() {
            waits.since = Some(Instant::now());
        }
    }

    /// The client did what was waited for, or nobody wants it any more.
    pub(crate) fn ends(&self, owed: Owed) {
        let mut waits = self.lock();
        *waits.of(owed) = false;
        if !waits.for_request
            && !waits.for_answer
            && let Some(since) = waits.since.take()
        {
            waits.before = waits.before.saturating_add(since.elapsed());
        }
    }

    /// How long it has waited in all; none when it does not wait now.
    pub(crate) fn so_far(&self) -> Option<Duration> {
        let waits = self.lock();
        waits.since.map(|since| waits.before.saturating_add(since.elapsed()))
    }

    /// As if it had waited for so long.
    #[cfg(test)]
    pub(crate) fn has_waited(&self, owed: Owed, waited: Duration) {
        self.begins(owed);
        self.lock().before = waited;
    }

    fn lock(&self) -> MutexGuard<'_, Waits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waits {
    fn of(&mut self, owed: Owed) -> &mut bool {
        match owed {
            Owed::Request => &mut self.for_request,
            Owed::Answer => &mut self.for_answer,
        }
    }
}

/// A request's body whose waits are counted.
struct Awaited {
    inner: Body,
    meter: Arc<Meter>,
    /// What the body wakes when it has something, while it was asked and had nothing.
    comes: Option<Arc<Comes>>,
}

/// Ends the wait where something comes, and not where the guest gets to it: what lies in between is the host's, or the guest's.
struct Comes {
    guest: Waker,
    meter: Arc<Meter>,
}

/// Counts the waits for a request's body.
pub(crate) fn awaited(body: Body, meter: &Arc<Meter>) -> Body {
    if body.is_end_stream() {
        return body;
    }
    Awaited { inner: body, meter: Arc::clone(meter), comes: None }.boxed_unsync()
}

impl Wake for Comes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.meter.client().ends(Owed::Request);
        self.guest.wake_by_ref();
    }
}

impl Awaited {
    /// The waker for the body, the same while the guest's is.
    fn waker(&mut self, guest: &Waker) -> Waker {
        let known = self.comes.take().filter(|comes| comes.guest.will_wake(guest));
        let comes = known.unwrap_or_else(|| Arc::new(Comes { guest: guest.clone(), meter: Arc::clone(&self.meter) }));
        self.comes = Some(Arc::clone(&comes));
        Waker::from(comes)
    }
}

impl http_body::Body for Awaited {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let waker = self.waker(cx.waker());
        // Before the body is asked: what comes at once after that ends it.
        self.meter.client().begins(Owed::Request);
        let next = Pin::new(&mut self.inner).poll_frame(&mut Context::from_waker(&waker));
        if next.is_ready() {
            self.meter.client().ends(Owed::Request);
            // Nobody is waited for: the guest's task is not held for it.
            self.comes = None;
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.meter.client().ends(Owed::Request);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures::FutureExt;
    use http_body_util::channel::Channel;
    use ringfence_core::Budget;

    use super::*;

    #[test]
    fn what_is_asked_for_and_not_there_is_a_wait_until_it_comes_or_nobody_wants_it() {
        let meter = Meter::new(Budget::DEFAULT);
        let (mut sender, body) = Channel::<Bytes, BodyError>::new(4);
        let mut body = awaited(body.boxed_unsync(), &meter);
        assert_eq!(meter.client().so_far(), None, "nobody asked yet");
        assert!(body.frame().now_or_never().is_none());
        assert!(meter.client().so_far().is_some());
        sender.try_send(Frame::data(Bytes::from_static(b"one"))).unwrap();
        assert!(body.frame().now_or_never().unwrap().unwrap().is_ok());
        assert_eq!(meter.client().so_far(), None);
        assert!(body.frame().now_or_never().is_none());
        drop(body);
        assert_eq!(meter.client().so_far(), None);
    }

    #[test]
    fn a_wait_ends_where_the_bytes_come_and_not_where_the_guest_gets_to_them() {
        struct Flag(AtomicBool);
        impl Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let meter = Meter::new(Budget::DEFAULT);
        let (mut sender, body) = Channel::<Bytes, BodyError>::new(4);
        let mut body = awaited(body.boxed_unsync(), &meter);
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&flag));
        for round in 0..2 {
            let mut frame = body.frame();
            assert!(frame.poll_unpin(&mut Context::from_waker(&waker)).is_pending(), "{round}");
            assert!(meter.client().so_far().is_some(), "{round}: it begins anew");
            sender.try_send(Frame::data(Bytes::from_static(b"one"))).unwrap();
            assert_eq!(meter.client().so_far(), None, "{round}: the client did its part");
            assert!(flag.0.swap(false, Ordering::Relaxed), "{round}: the guest is told");
            assert!(frame.poll_unpin(&mut Context::from_waker(&waker)).is_ready(), "{round}");
            assert_eq!(meter.client().so_far(), None, "{round}");
        }
    }

    #[test]
    fn waits_add_up_and_two_at_once_are_one() {
        let waits = ClientWait::default();
        waits.begins(Owed::Request);
        waits.begins(Owed::Answer);
        std::thread::sleep(Duration::from_millis(20));
        waits.ends(Owed::Request);
        let first = waits.so_far();
        assert!(first >= Some(Duration::from_millis(20)), "the answer is still waited for");
        waits.ends(Owed::Answer);
        assert_eq!(waits.so_far(), None);
        waits.begins(Owed::Request);
        assert!(waits.so_far() >= first);
    }
}
