//! `ringfence:plugin/steps`: what a durable workflow does its work with. Answered by whoever keeps the run's history.
//!
//! Must never answer by itself: outside of a run there is no history, and every request is refused. No grant is asked for:
//! nothing is reached but the run's own history.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use ringfence_core::workflow::{
    Answer, Ask, PLACE_DEPTH_MAX, Place, Question, Retry, RunFacts, StepFailure, StepKind, Stop,
};
use ringfence_engine::{Guest, Replay};
use wasmtime::component::Linker;

use crate::bind::{Bindings, View};
use crate::bindings::steps::ringfence::plugin::steps;

/// Where an answer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The run's history had it.
    History,
    /// It is new, or there is none.
    Now,
}

/// Who keeps the history of the run that a guest is.
pub trait RunHistory: Send + Sync {
    /// About the run.
    fn facts(&self) -> RunFacts;
    /// Answers what the code of a branch asks; what the answer depends on is durable before it is given. Nothing that the
    /// history has is answered twice in one call of the code.
    fn ask(&self, branch: Place, ask: Ask) -> BoxFuture<'_, (Result<Answer, Stop>, Origin)>;
    /// Takes what came of the step that the branch was told to do.
    fn complete(&self, branch: Place, outcome: Result<String, StepFailure>) -> BoxFuture<'_, Result<Answer, Stop>>;
    /// Bytes of the run's own dice, by their number: the same at every replay, and of no other run.
    fn dice(&self, number: u64) -> [u8; 32];
    /// Whether the work of a step is being done now: that is kept, and not done again.
    fn is_in_step(&self) -> bool;
}

/// The wall clock and the dice of a workflow's code: they stand at the run's beginning and are the run's own, but for the work
/// of a step.
pub(crate) fn replay_of(history: &Arc<dyn RunHistory>) -> Replay {
    let (dice, work) = (Arc::clone(history), Arc::clone(history));
    Replay {
        wall: Duration::from_millis(history.facts().started_ms),
        dice: Arc::new(move |number| dice.dice(number)),
        is_real: Arc::new(move || work.is_in_step()),
    }
}

type Told<T> = wasmtime::Result<Result<T, steps::Stop>>;

/// Offers `ringfence:plugin/steps@0.1.0`.
pub(crate) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    steps::add_to_linker::<_, Bindings>(linker, |guest| View::of(guest))
}

impl View<'_> {
    fn history(&mut self) -> wasmtime::Result<Option<Arc<dyn RunHistory>>> {
        let bound = self.bound()?;
        bound.call()?;
        Ok(bound.steps.clone())
    }

    /// Asks the history. What it had already is no call of the host's budget: there may be more of it than one invocation may
    /// make calls, it is bounded by its own limit, and its time is counted.
    async fn ask(&mut self, branch: Vec<u32>, ask: Ask) -> Told<Answer> {
        let history = self.bound()?.steps.clone().filter(|_| branch.len() < PLACE_DEPTH_MAX);
        let Some(history) = history else {
            let too_deep = || steps::Stop::Refused("branches are nested too deep".to_owned());
            return Ok(Err(self.history()?.map_or_else(outside, |_| too_deep())));
        };
        let (answer, origin) = history.ask(Place::new(branch), ask).await;
        if origin == Origin::Now {
            self.bound()?.call()?;
        }
        Ok(answer.map_err(stopped))
    }
}

impl steps::Host for View<'_> {
    async fn about(&mut self) -> wasmtime::Result<steps::Facts> {
        let facts = self.history()?.map(|history| history.facts());
        let facts = facts.ok_or_else(|| wasmtime::format_err!("this is no run of a workflow"))?;
        let RunFacts { run, workflow, version, started_ms } = facts;
        Ok(steps::Facts { run, workflow, version, started_ms })
    }

    async fn begin(
        &mut self,
        branch: Vec<u32>,
        kind: steps::Kind,
        name: String,
        retry: steps::Retry,
    ) -> Told<steps::Begun> {
        let kind = match kind {
            steps::Kind::Step => StepKind::Step,
            steps::Kind::Compensation => StepKind::Compensation,
        };
        let retry = Retry {
            attempts_count: retry.attempts,
            first_ms: retry.first_ms,
            factor_percent: retry.factor_percent,
            max_ms: retry.max_ms,
        };
        Ok(match self.ask(branch, Ask::Step { kind, name, retry }).await? {
            Ok(Answer::Outcome(outcome)) => Ok(steps::Begun::Recorded(outcome)),
            Ok(Answer::Execute { idempotency_key, attempt }) => {
                Ok(steps::Begun::Execute(steps::Call { idempotency_key, attempt }))
            }
            other => Err(unexpected(other)),
        })
    }

    async fn complete(
        &mut self,
        branch: Vec<u32>,
        outcome: Result<String, steps::Failure>,
    ) -> Told<Result<String, String>> {
        let Some(history) = self.history()? else { return Ok(Err(outside())) };
        let outcome = outcome.map_err(|failure| StepFailure { message: failure.message, again: failure.again });
        Ok(match history.complete(Place::new(branch), outcome).await.map_err(stopped) {
            Ok(Answer::Outcome(outcome)) => Ok(outcome),
            other => Err(unexpected(other)),
        })
    }

    async fn sleep(&mut self, branch: Vec<u32>, name: String, ms: u64) -> Told<()> {
        Ok(self.ask(branch, Ask::Sleep { name, ms }).await?.map(drop))
    }

    async fn wait_for_signal(
        &mut self,
        branch: Vec<u32>,
        name: String,
        timeout_ms: Option<u64>,
    ) -> Told<Option<String>> {
        Ok(match self.ask(branch, Ask::Signal { name, timeout_ms }).await? {
            Ok(Answer::Signal(payload)) => Ok(payload),
            other => Err(unexpected(other)),
        })
    }

    async fn approve(&mut self, branch: Vec<u32>, name: String, asked: steps::Question) -> Told<steps::Verdict> {
        if !(1..=2).contains(&asked.approvals) {
            return Ok(Err(steps::Stop::Refused("an approval takes 1 or 2 persons".to_owned())));
        }
        let question = Question {
            title: asked.title,
            details: asked.details,
            approvals_count: asked.approvals,
            timeout_ms: asked.timeout_ms,
        };
        Ok(match self.ask(branch, Ask::Approval { name, question }).await? {
            Ok(Answer::Verdict { approved, by, note }) => Ok(steps::Verdict { approved, by, note }),
            other => Err(unexpected(other)),
        })
    }

    async fn start_child(&mut self, branch: Vec<u32>, workflow: String, input: String) -> Told<String> {
        Ok(name(self.ask(branch, Ask::Child { workflow, input }).await?))
    }

    async fn wait_for_child(&mut self, branch: Vec<u32>, run: String) -> Told<Result<String, String>> {
        Ok(match self.ask(branch, Ask::ChildEnd { run }).await? {
            Ok(Answer::Outcome(outcome)) => Ok(outcome),
            other => Err(unexpected(other)),
        })
    }

    async fn fork(&mut self, branch: Vec<u32>, count: u32) -> Told<Vec<u32>> {
        Ok(match self.ask(branch, Ask::Fork { branches_count: count }).await? {
            Ok(Answer::Branches(place)) => Ok(place.numbers().to_vec()),
            other => Err(unexpected(other)),
        })
    }

    async fn now(&mut self, branch: Vec<u32>) -> Told<u64> {
        Ok(number(self.ask(branch, Ask::Now).await?))
    }

    async fn random(&mut self, branch: Vec<u32>) -> Told<u64> {
        Ok(number(self.ask(branch, Ask::Random).await?))
    }

    async fn new_id(&mut self, branch: Vec<u32>) -> Told<String> {
        Ok(name(self.ask(branch, Ask::NewId).await?))
    }

    async fn publish(&mut self, branch: Vec<u32>, name: String, value: String) -> Told<()> {
        Ok(self.ask(branch, Ask::Publish { name, value }).await?.map(drop))
    }

    async fn set_attribute(&mut self, branch: Vec<u32>, name: String, value: String) -> Told<()> {
        Ok(self.ask(branch, Ask::Attribute { name, value }).await?.map(drop))
    }

    async fn continue_as_new(&mut self, branch: Vec<u32>, input: String) -> Told<()> {
        Ok(self.ask(branch, Ask::Continue { input }).await?.map(drop))
    }
}

fn number(answer: Result<Answer, steps::Stop>) -> Result<u64, steps::Stop> {
    match answer {
        Ok(Answer::Number(number)) => Ok(number),
        other => Err(unexpected(other)),
    }
}

fn name(answer: Result<Answer, steps::Stop>) -> Result<String, steps::Stop> {
    match answer {
        Ok(Answer::Name(name)) => Ok(name),
        other => Err(unexpected(other)),
    }
}

/// A stop as it came; an answer to another question than was asked is the host's fault, and stops too.
fn unexpected(answer: Result<Answer, steps::Stop>) -> steps::Stop {
    answer.err().unwrap_or_else(|| steps::Stop::Refused("the history answered another question".to_owned()))
}

fn outside() -> steps::Stop {
    steps::Stop::Refused("this is no run of a workflow".to_owned())
}

fn stopped(stop: Stop) -> steps::Stop {
    match stop {
        Stop::Suspended => steps::Stop::Suspended,
        Stop::Cancelled => steps::Stop::Cancelled,
        Stop::Nondeterminism(message) => steps::Stop::Nondeterminism(message),
        Stop::Refused(message) => steps::Stop::Refused(message),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use ringfence_core::Budget;

    use super::*;
    use crate::testing::Rig;

    /// Knows so many answers; every one after them is new.
    struct Knows(AtomicUsize);

    impl RunHistory for Knows {
        fn facts(&self) -> RunFacts {
            panic!("nobody asks")
        }
        fn ask(&self, _branch: Place, _ask: Ask) -> BoxFuture<'_, (Result<Answer, Stop>, Origin)> {
            let left = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            let origin = if left.is_ok() { Origin::History } else { Origin::Now };
            Box::pin(async move { (Ok(Answer::Number(7)), origin) })
        }
        fn complete(&self, _: Place, _: Result<String, StepFailure>) -> BoxFuture<'_, Result<Answer, Stop>> {
            panic!("nobody completes")
        }
        fn dice(&self, _: u64) -> [u8; 32] {
            [7; 32]
        }
        fn is_in_step(&self) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn a_history_longer_than_the_calls_of_one_invocation_is_replayed_and_what_is_new_counts() {
        let rig = Rig::new(&[]).await;
        let mut guest = rig.guest(Budget { host_calls_count: 3, ..Budget::DEFAULT });
        guest.bound.steps = Some(Arc::new(Knows(AtomicUsize::new(100))));
        let mut view = guest.view();
        for _ in 0..100 + 3 {
            assert!(matches!(steps::Host::random(&mut view, Vec::new()).await, Ok(Ok(7))));
        }
        assert!(steps::Host::random(&mut view, Vec::new()).await.is_err(), "the budget is used up");
    }

    #[tokio::test]
    async fn outside_of_a_run_there_is_no_history_and_everything_is_refused() {
        let rig = Rig::new(&[]).await;
        let mut guest = rig.guest(Budget::DEFAULT);
        let mut view = guest.view();
        let told = steps::Host::sleep(&mut view, Vec::new(), "nap".into(), 1).await.unwrap();
        assert!(matches!(told, Err(steps::Stop::Refused(_))));
        assert!(steps::Host::about(&mut view).await.is_err());
    }
}
