//! What the answers of bound plugins come to: pure, one step at a time.
//!
//! Must never let a broken plugin do more to the product's request than the point's declaration says.

use ringfence_core::{InvocationId, PluginName};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::point::{Mode, OnFailure};

/// What one plugin said, checked at the edge.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// An answer that fits the schema.
    Answer(Value),
    /// No, and why.
    Refused(String),
    /// Nothing that can be used: a stable word and a text.
    Broken {
        /// Stable word.
        code: String,
        /// For people.
        detail: String,
    },
    /// It was not asked: its condition does not hold.
    NotAsked,
}

/// What one plugin did, for the product.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Step {
    /// Which.
    #[schema(value_type = String)]
    pub plugin: PluginName,
    /// The version that ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The invocation; none when it was not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub invocation: Option<InvocationId>,
    /// `answered`, `refused`, `failed`, `skipped` or `queued`.
    pub outcome: String,
    /// Why it failed, a stable word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// In words: a veto's reason, or what went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What it answered, of a gathering point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HookOutcome {
    /// Nobody objects.
    Passed,
    /// A validating plugin said no.
    Vetoed,
    /// A plugin failed where the point is closed to failures.
    Failed,
    /// The plugins whose step says `queued` will be told.
    Queued,
}

/// What the product is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HookAnswer {
    /// How it ended.
    pub outcome: HookOutcome,
    /// What became of the payload; of a transforming point that passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
    /// What each plugin did, in order.
    pub steps: Vec<Step>,
}

/// Whether to go on with the next plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Ask it.
    GoOn,
    /// It is over.
    Stop,
}

/// One call of a point, under way.
pub struct Fold {
    mode: Mode,
    on_failure: OnFailure,
    payload: Value,
    steps: Vec<Step>,
    end: Option<HookOutcome>,
}

impl Fold {
    /// Nobody was asked yet.
    pub fn new(mode: Mode, on_failure: OnFailure, payload: Value) -> Self {
        Self { mode, on_failure, payload, steps: Vec::new(), end: None }
    }

    /// What the next plugin is given.
    pub fn payload(&self) -> &Value {
        &self.payload
    }

    /// Takes what a plugin said.
    pub fn take(&mut self, plugin: &PluginName, ran: Option<(InvocationId, String)>, said: Said) -> Next {
        let (invocation, version) = ran.unzip();
        let mut step = Step {
            plugin: plugin.clone(),
            version,
            invocation,
            outcome: String::new(),
            code: None,
            detail: None,
            result: None,
        };
        let word = match (said, self.mode) {
            (Said::NotAsked, _) => "skipped",
            (Said::Answer(answer), mode) => {
                match mode {
                    Mode::Transform => self.payload = answer,
                    Mode::Collect => step.result = Some(answer),
                    Mode::Validate | Mode::Notify => {}
                }
                "answered"
            }
            (Said::Refused(why), Mode::Validate) => {
                step.detail = Some(why);
                self.end = Some(HookOutcome::Vetoed);
                "refused"
            }
            // Only a validator is asked for its consent: elsewhere a refusal is no answer.
            (Said::Refused(why), _) => {
                (step.code, step.detail) = (Some("refused".to_owned()), Some(why));
                self.failed()
            }
            (Said::Broken { code, detail }, _) => {
                (step.code, step.detail) = (Some(code), Some(detail));
                self.failed()
            }
        };
        word.clone_into(&mut step.outcome);
        self.steps.push(step);
        if self.end.is_some() { Next::Stop } else { Next::GoOn }
    }

    /// What it comes to.
    pub fn end(self) -> HookAnswer {
        let outcome = self.end.unwrap_or(HookOutcome::Passed);
        let is_made = self.mode == Mode::Transform && outcome == HookOutcome::Passed;
        HookAnswer { outcome, payload: is_made.then_some(self.payload), steps: self.steps }
    }

    fn failed(&mut self) -> &'static str {
        if self.on_failure == OnFailure::Closed {
            self.end = Some(HookOutcome::Failed);
        }
        "failed"
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn plugin(name: &str) -> PluginName {
        name.parse().unwrap()
    }

    fn broken() -> Said {
        Said::Broken { code: "trap".into(), detail: "the plugin failed".into() }
    }

    fn run(mode: Mode, on_failure: OnFailure, said: Vec<Said>) -> HookAnswer {
        let mut fold = Fold::new(mode, on_failure, json!(0));
        for (n, said) in said.into_iter().enumerate() {
            if fold.take(&plugin(&format!("p{n}")), None, said) == Next::Stop {
                break;
            }
        }
        fold.end()
    }

    #[test]
    fn the_first_veto_ends_it_and_says_who_and_why() {
        let said = vec![Said::Answer(json!(null)), Said::Refused("over the limit".into()), Said::Answer(json!(null))];
        let answer = run(Mode::Validate, OnFailure::Open, said);
        assert_eq!(answer.outcome, HookOutcome::Vetoed);
        assert_eq!(answer.steps.len(), 2);
        assert_eq!(answer.steps[1].plugin, plugin("p1"));
        assert_eq!(answer.steps[1].detail.as_deref(), Some("over the limit"));
    }

    #[test]
    fn what_one_makes_the_next_is_given_and_a_failure_passes_on_what_was_there() {
        let said = vec![Said::Answer(json!(1)), broken(), Said::NotAsked];
        let answer = run(Mode::Transform, OnFailure::Open, said.clone());
        assert_eq!((answer.outcome, answer.payload), (HookOutcome::Passed, Some(json!(1))));
        let answer = run(Mode::Transform, OnFailure::Closed, said);
        assert_eq!((answer.outcome, answer.payload, answer.steps.len()), (HookOutcome::Failed, None, 2));
    }

    #[test]
    fn answers_are_gathered_in_order() {
        let answer =
            run(Mode::Collect, OnFailure::Open, vec![Said::Answer(json!(1)), broken(), Said::Answer(json!(2))]);
        let results: Vec<_> = answer.steps.iter().filter_map(|step| step.result.clone()).collect();
        assert_eq!(results, [json!(1), json!(2)]);
    }

    proptest! {
        #[test]
        fn an_open_point_fails_for_nobody_and_a_closed_one_at_the_first(broken_at in 0_usize..6, count in 1_usize..6) {
            let said: Vec<Said> = (0..count)
                .map(|n| if n == broken_at { broken() } else { Said::Answer(json!(n)) })
                .collect();
            for mode in [Mode::Validate, Mode::Transform, Mode::Collect] {
                let open = run(mode, OnFailure::Open, said.clone());
                prop_assert_eq!((open.outcome, open.steps.len()), (HookOutcome::Passed, count));
                let closed = run(mode, OnFailure::Closed, said.clone());
                let expected = if broken_at < count { (HookOutcome::Failed, broken_at + 1) } else { (HookOutcome::Passed, count) };
                prop_assert_eq!((closed.outcome, closed.steps.len()), expected);
            }
        }
    }
}
