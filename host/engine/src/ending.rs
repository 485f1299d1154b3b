//! How an invocation ends: when the guest is done and the last byte of its answer is out, exactly one outcome is sent.
//!
//! Must never be skipped: it is what metering and the record of the invocation are made from.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringfence_core::Usage;
use tokio::sync::oneshot;

use crate::error::RunError;
use crate::meter::Meter;
use crate::scheduler::Deadline;

/// What an invocation spent and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What it spent.
    pub usage: Usage,
    /// Whether it did its work.
    pub result: Result<(), RunError>,
}

/// The end of an invocation, still to come.
#[must_use]
pub struct Finished(Arc<Ending>);

/// What to do with the outcome.
type Act = Box<dyn FnOnce(Outcome) + Send>;

/// Brings the two ends of an invocation together.
pub(crate) struct Ending {
    meter: Arc<Meter>,
    state: Mutex<State>,
}

struct State {
    guest: Option<Result<(), RunError>>,
    failure: Option<RunError>,
    body: Body,
    act: Option<Act>,
    /// Known and not asked for yet.
    outcome: Option<Outcome>,
    is_over: bool,
    deadline: Option<Deadline>,
}

#[derive(PartialEq, Eq)]
enum Body {
    Awaited,
    Out,
}

// === impl Finished ===

impl Finished {
    pub(crate) fn new(ending: &Arc<Ending>) -> Self {
        Self(Arc::clone(ending))
    }

    /// Does something with the outcome, exactly once, on the thread on which the invocation ends, or here and now when it
    /// has ended. It must not block.
    pub fn then(self, act: impl FnOnce(Outcome) + Send + 'static) {
        let known = {
            let mut state = self.0.lock();
            match state.outcome.take() {
                Some(outcome) => outcome,
                None => {
                    state.act = Some(Box::new(act));
                    return;
                }
            }
        };
        act(known);
    }

    /// Waits for the outcome.
    pub async fn outcome(self) -> Outcome {
        let meter = Arc::clone(self.0.meter());
        let (sender, receiver) = oneshot::channel();
        self.then(|outcome| drop(sender.send(outcome)));
        receiver.await.unwrap_or_else(|_| Outcome {
            usage: meter.usage(),
            result: Err(RunError::Host("the worker was stopped".to_owned())),
        })
    }
}

// === impl Ending ===

impl Ending {
    pub(crate) fn new(meter: Arc<Meter>) -> Arc<Self> {
        let state = State {
            guest: None,
            failure: None,
            body: Body::Awaited,
            act: None,
            outcome: None,
            is_over: false,
            deadline: None,
        };
        Arc::new(Self { meter, state: Mutex::new(state) })
    }

    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// What to let go of when all is over.
    pub(crate) fn guard_with(&self, deadline: Deadline) {
        self.lock().deadline = Some(deadline);
    }

    /// The guest failed: known from here on to whoever reads its answer.
    pub(crate) fn note_failure(&self, error: RunError) {
        let mut state = self.lock();
        if state.guest.is_none() {
            state.failure = Some(error);
        }
    }

    /// The guest is done. The first word counts.
    pub(crate) fn guest_is_done(&self, result: Result<(), RunError>) {
        let mut state = self.lock();
        if state.guest.is_none() {
            state.guest = Some(result);
        }
        self.settle(state);
    }

    /// The last byte of the answer is out, or nobody wants it any more, or there will be none.
    pub(crate) fn body_is_out(&self) {
        let mut state = self.lock();
        state.body = Body::Out;
        self.settle(state);
    }

    /// Why the answer must not look complete, if it must not.
    pub(crate) fn failure(&self) -> Option<RunError> {
        if let Some(end) = self.meter.ended() {
            return Some(end.error());
        }
        self.lock().failure.clone()
    }

    fn settle(&self, mut state: MutexGuard<'_, State>) {
        if state.body != Body::Out || state.is_over {
            return;
        }
        let Some(result) = state.guest.clone() else { return };
        state.is_over = true;
        let deadline = state.deadline.take();
        self.meter.freeze();
        let result = match self.meter.ended() {
            Some(end) => Err(end.error()),
            None => result,
        };
        let outcome = Outcome { usage: self.meter.usage(), result };
        match state.act.take() {
            Some(act) => {
                // Not under the lock: it is somebody else's code, and it may look at this ending.
                drop(state);
                drop(deadline);
                act(outcome);
            }
            None => state.outcome = Some(outcome),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
