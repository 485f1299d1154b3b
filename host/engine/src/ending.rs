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

/// Brings the two ends of an invocation together.
pub(crate) struct Ending {
    meter: Arc<Meter>,
    state: Mutex<State>,
}

struct State {
    guest: Option<Result<(), RunError>>,
    failure: Option<RunError>,
    body: Body,
    outcome: Option<oneshot::Sender<Outcome>>,
    deadline: Option<Deadline>,
}

#[derive(PartialEq, Eq)]
enum Body {
    Awaited,
    Out,
}

// === impl Ending ===

impl Ending {
    pub(crate) fn new(meter: Arc<Meter>) -> (Arc<Self>, oneshot::Receiver<Outcome>) {
        let (sender, receiver) = oneshot::channel();
        let state = State { guest: None, failure: None, body: Body::Awaited, outcome: Some(sender), deadline: None };
        (Arc::new(Self { meter, state: Mutex::new(state) }), receiver)
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
        self.settle(&mut state);
    }

    /// The last byte of the answer is out, or nobody wants it any more, or there will be none.
    pub(crate) fn body_is_out(&self) {
        let mut state = self.lock();
        state.body = Body::Out;
        self.settle(&mut state);
    }

    /// Why the answer must not look complete, if it must not.
    pub(crate) fn failure(&self) -> Option<RunError> {
        if let Some(end) = self.meter.ended() {
            return Some(end.error());
        }
        self.lock().failure.clone()
    }

    fn settle(&self, state: &mut State) {
        if state.body != Body::Out {
            return;
        }
        let Some(result) = state.guest.clone() else { return };
        state.deadline = None;
        self.meter.freeze();
        if let Some(outcome) = state.outcome.take() {
            // The receiver may be gone: then nobody asks for the outcome, and the meter still has the usage.
            let result = match self.meter.ended() {
                Some(end) => Err(end.error()),
                None => result,
            };
            let _ = outcome.send(Outcome { usage: self.meter.usage(), result });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
