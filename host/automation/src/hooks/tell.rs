//! One call of a point that notifies: what each bound plugin is to be told goes into the host's queue in one batch.
//!
//! Must never leave the product with half of it where the point is closed to failures: then all are told or none, so that
//! asking again tells nobody twice. Where it is open, a plugin that takes no more keeps nothing from the others.

use ringfence_store::StoreError;

use super::ask::Asked;
use super::binding::Bound;
use super::fold::{HookAnswer, HookOutcome, Step};
use super::point::{OnFailure, Point};
use crate::queue::message::HookTarget;
use crate::queue::writer::Notes;
use crate::{Automation, AutomationError};

impl Automation {
    /// Puts a message for each bound plugin whose condition holds into the tenant's queue for hooks.
    pub(super) async fn notify(
        &self,
        asked: &Asked<'_>,
        payload: Vec<u8>,
        bound: &[Bound],
        point: &Point,
    ) -> Result<HookAnswer, AutomationError> {
        let mut steps: Vec<Step> = bound.iter().map(|one| looked_at(one, asked)).collect();
        let is_whole = point.spec.on_failure == OnFailure::Closed;
        if steps.iter().any(is_queued) && !(is_whole && steps.iter().any(is_failed)) {
            let targets = steps.iter().filter(|step| is_queued(step));
            let targets = targets.map(|step| HookTarget {
                hook: asked.hook.to_string(),
                plugin: step.plugin.clone(),
                version: Some(point.version),
            });
            let from = asked.principal.id().to_string();
            let trail = asked.trail.clone();
            let notes = Notes { payload, from, trail, targets: targets.collect(), is_whole };
            match self.send_notes(asked, notes).await {
                Ok(rooms) => {
                    let queued = steps.iter_mut().filter(|step| is_queued(step));
                    let without_room = queued.zip(rooms).filter(|(_, has_room)| !has_room);
                    without_room
                        .for_each(|(step, _)| fail(step, "queue-full", "it has as many messages as it may have"));
                }
                Err(error) => {
                    let code = broken_code(&error).ok_or(error)?;
                    steps
                        .iter_mut()
                        .filter(|step| is_queued(step))
                        .for_each(|step| fail(step, code, "it was not told"));
                }
            }
        }
        let outcome = ended(&mut steps, is_whole);
        Ok(HookAnswer { outcome, payload: None, steps })
    }

    /// For which of the targets there was room.
    async fn send_notes(&self, asked: &Asked<'_>, notes: Notes) -> Result<Vec<bool>, AutomationError> {
        let queue = self.hooks_queue(asked.tenant, asked.store).await?;
        queue.ask_writer(|reply| notes.sending(reply)).await
    }
}

/// Whether one is to be told.
fn looked_at(one: &Bound, asked: &Asked<'_>) -> Step {
    let mut step = Step {
        plugin: one.binding.plugin.clone(),
        version: None,
        invocation: None,
        outcome: "queued".to_owned(),
        code: None,
        detail: None,
        result: None,
    };
    match one.condition.as_ref().map(|condition| condition.holds(&asked.payload)) {
        None | Some(Ok(true)) => {}
        Some(Ok(false)) => "skipped".clone_into(&mut step.outcome),
        Some(Err(why)) => fail(&mut step, "condition", &why),
    }
    step
}

/// What it comes to; of a whole with a failure nobody was told.
fn ended(steps: &mut [Step], is_whole: bool) -> HookOutcome {
    if !(is_whole && steps.iter().any(is_failed)) {
        return HookOutcome::Queued;
    }
    for step in steps.iter_mut().filter(|step| is_queued(step)) {
        "skipped".clone_into(&mut step.outcome);
        step.detail = Some("all are told or none".to_owned());
    }
    HookOutcome::Failed
}

/// The word for what plugins of the tenant can bring about by being slow or greedy; none for what concerns the tenant as a whole.
fn broken_code(error: &AutomationError) -> Option<&'static str> {
    match error {
        AutomationError::QueueFull { .. } => Some("queue-full"),
        AutomationError::Store(StoreError::Quota { .. }) => Some("quota-exhausted"),
        AutomationError::Store(StoreError::Busy) => Some("store-unavailable"),
        _ => None,
    }
}

fn is_queued(step: &Step) -> bool {
    step.outcome == "queued"
}

fn is_failed(step: &Step) -> bool {
    step.outcome == "failed"
}

fn fail(step: &mut Step, code: &str, why: &str) {
    "failed".clone_into(&mut step.outcome);
    (step.code, step.detail) = (Some(code.to_owned()), Some(why.to_owned()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(outcome: &str) -> Step {
        Step {
            plugin: "p".parse().unwrap(),
            version: None,
            invocation: None,
            outcome: outcome.to_owned(),
            code: None,
            detail: None,
            result: None,
        }
    }

    #[test]
    fn where_the_point_is_closed_one_that_cannot_be_told_keeps_it_from_all_and_where_it_is_open_from_none() {
        let before = || [step("queued"), step("failed"), step("skipped")];
        let words = |steps: &[Step]| steps.iter().map(|step| step.outcome.clone()).collect::<Vec<_>>();
        let mut open = before();
        assert_eq!(ended(&mut open, false), HookOutcome::Queued);
        assert_eq!(words(&open), ["queued", "failed", "skipped"]);
        let mut closed = before();
        assert_eq!(ended(&mut closed, true), HookOutcome::Failed);
        assert_eq!(words(&closed), ["skipped", "failed", "skipped"]);
        let mut fine = [step("queued"), step("skipped")];
        assert_eq!(ended(&mut fine, true), HookOutcome::Queued);
        assert_eq!(words(&fine), ["queued", "skipped"]);
    }

    #[test]
    fn a_full_queue_and_a_full_store_are_the_plugins_doing_and_closed_keys_are_not() {
        assert_eq!(broken_code(&AutomationError::QueueFull { retry_after_ms: 1 }), Some("queue-full"));
        assert_eq!(broken_code(&StoreError::Quota { bytes_max: 1 }.into()), Some("quota-exhausted"));
        for error in [StoreError::KeyDisabled, StoreError::Gone] {
            assert_eq!(broken_code(&error.into()), None);
        }
    }
}
