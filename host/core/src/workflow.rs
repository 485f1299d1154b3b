//! The words between a durable workflow and its history: what its code may ask for, and what it is answered.
//!
//! Plain values, so that the room of the guests' imports and the room that keeps the histories speak of the same things.
//! Must never hold how a history is kept, nor when anything is answered.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::WordError;

/// LIMIT: deepest nesting of places: each fork takes two.
pub const PLACE_DEPTH_MAX: usize = 16;

/// Where in the code something is asked: the count of what the branch asked before, below the branch's own place.
/// Written with dots, `2.1.0`: what branch 1 of the fork at 2 asks first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Place(Vec<u32>);

impl Place {
    /// A place or branch of these numbers.
    pub fn new(numbers: Vec<u32>) -> Self {
        Self(numbers)
    }
    /// The place of number `number` below this branch.
    #[must_use]
    pub fn child(&self, number: u32) -> Self {
        Self(self.0.iter().copied().chain([number]).collect())
    }
    /// The numbers.
    pub fn numbers(&self) -> &[u32] {
        &self.0
    }
    /// The number that the workflow itself gave: all places of one fork have the same.
    pub fn first(&self) -> u32 {
        self.0.first().copied().unwrap_or(0)
    }
    /// The branch this place belongs to, and its number there.
    pub fn split(&self) -> (Self, u32) {
        match self.0.split_last() {
            Some((last, branch)) => (Self(branch.to_vec()), *last),
            None => (Self::default(), 0),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.0.iter().map(u32::to_string).collect();
        f.write_str(&words.join("."))
    }
}

impl FromStr for Place {
    type Err = WordError;
    fn from_str(text: &str) -> Result<Self, WordError> {
        let numbers: Option<Vec<u32>> = text.split('.').map(|word| word.parse().ok()).collect();
        match numbers {
            Some(numbers) if numbers.len() <= PLACE_DEPTH_MAX => Ok(Self(numbers)),
            _ => Err(WordError::place(text)),
        }
    }
}

impl TryFrom<String> for Place {
    type Error = WordError;
    fn try_from(text: String) -> Result<Self, WordError> {
        text.parse()
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.to_string()
    }
}

/// Whether a step is part of the work or takes it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepKind {
    /// Part of the work.
    Step,
    /// Takes it back; runs after a cancelling too.
    Compensation,
}

/// How often a step is tried and how long is waited in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// How often altogether.
    pub attempts_count: u32,
    /// Before the second attempt, milliseconds.
    pub first_ms: u64,
    /// How much longer each further wait is, percent.
    pub factor_percent: u32,
    /// The longest wait, milliseconds.
    pub max_ms: u64,
}

/// What somebody is to decide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// For people.
    pub title: String,
    /// What is decided about, JSON.
    pub details: String,
    /// How many persons must agree: 1 or 2.
    pub approvals_count: u32,
    /// How long is waited.
    pub timeout_ms: Option<u64>,
}

/// What workflow code asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// To do a step, or to be told what came of it.
    Step {
        /// What sort.
        kind: StepKind,
        /// Its name.
        name: String,
        /// How often it is tried.
        retry: Retry,
    },
    /// To wait.
    Sleep {
        /// Its name.
        name: String,
        /// How long.
        ms: u64,
    },
    /// To wait for a signal.
    Signal {
        /// The signal's name.
        name: String,
        /// How long at most.
        timeout_ms: Option<u64>,
    },
    /// To wait for people.
    Approval {
        /// Its name.
        name: String,
        /// What they are asked.
        question: Question,
    },
    /// To begin another run.
    Child {
        /// Of which workflow.
        workflow: String,
        /// With what.
        input: String,
    },
    /// To wait for the end of another run.
    ChildEnd {
        /// Which.
        run: String,
    },
    /// A place for branches.
    Fork {
        /// How many.
        branches_count: u32,
    },
    /// The time.
    Now,
    /// A random number.
    Random,
    /// A name nobody else has.
    NewId,
    /// To answer queries with this.
    Publish {
        /// Queries by this name.
        name: String,
        /// JSON.
        value: String,
    },
    /// To be found by this.
    Attribute {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// To end and begin anew.
    Continue {
        /// With what.
        input: String,
    },
}

/// What it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing is to be said.
    Done,
    /// Do the step now.
    Execute {
        /// For the far end.
        idempotency_key: String,
        /// 1 the first time.
        attempt: u32,
    },
    /// What came of it.
    Outcome(Result<String, String>),
    /// The signal, or none when the time ran out.
    Signal(Option<String>),
    /// What was decided.
    Verdict {
        /// Whether it was agreed to.
        approved: bool,
        /// By whom.
        by: String,
        /// What they said.
        note: String,
    },
    /// A number.
    Number(u64),
    /// A name or id.
    Name(String),
    /// Where the branches are.
    Branches(Place),
}

/// Why the workflow's code cannot go on now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// What it waits for is not there.
    Suspended,
    /// The run was cancelled.
    Cancelled,
    /// The code differs from its history.
    Nondeterminism(String),
    /// A limit or a malformed request.
    Refused(String),
}

/// A step that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepFailure {
    /// Why.
    pub message: String,
    /// Whether trying again makes sense.
    pub again: bool,
}

/// About a run, for its own code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFacts {
    /// Its id.
    pub run: String,
    /// Its workflow.
    pub workflow: String,
    /// The version of the plugin it runs.
    pub version: String,
    /// When it began.
    pub started_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_its_word_and_knows_its_branch() {
        let place: Place = "2.1.0".parse().unwrap();
        assert_eq!(place.to_string(), "2.1.0");
        assert_eq!(place.split(), (Place::new(vec![2, 1]), 0));
        assert_eq!(place.first(), 2);
        for bad in ["", "1..2", "a", "-1", &"1.".repeat(20)] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }
}
