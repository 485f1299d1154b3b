//! A candidate policy that is asked beside the one in force: its answers are counted and never given.
//!
//! Must never decide anything.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::decision::Outcome;
use crate::question::Question;
use crate::recent::Asked;
use crate::tenant::Rules;

/// Most examples kept of each kind of difference.
pub const EXAMPLES_COUNT_MAX: usize = 20;

/// How a candidate's answers differ from those in force, on one side.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Differences {
    /// Distinct questions answered otherwise; of a shadow only those seen while an example had room.
    pub questions_count: u64,
    /// How often they were asked.
    pub askings_count: u64,
    /// Some of them.
    pub examples: Vec<Asked>,
}

/// What a shadow saw since it was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShadowReport {
    /// The candidate's text.
    pub text: Arc<str>,
    /// Decisions taken beside it.
    pub askings_count: u64,
    /// Denied now, and the candidate would allow.
    pub newly_allowed: Differences,
    /// Allowed now, and the candidate would deny.
    pub newly_denied: Differences,
}

/// A candidate in the shadow.
pub(crate) struct Shadow {
    pub(crate) text: Arc<str>,
    pub(crate) rules: Arc<Rules>,
    asked: AtomicU64,
    newly_allowed: Side,
    newly_denied: Side,
}

#[derive(Default)]
struct Side {
    askings: AtomicU64,
    examples: Mutex<Vec<Asked>>,
}

impl Shadow {
    pub(crate) fn new(text: Arc<str>, rules: Arc<Rules>) -> Self {
        Self { text, rules, asked: AtomicU64::new(0), newly_allowed: Side::default(), newly_denied: Side::default() }
    }

    /// Counts one decision; `would` is the candidate's answer when it differs from the one that was given.
    pub(crate) fn count(&self, would: Option<Outcome>) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if let Some(would) = would {
            self.side(would).askings.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Keeps a question that is answered otherwise, while there is room.
    pub(crate) fn example(&self, question: &Question, would: Outcome) {
        let mut examples = self.side(would).examples.lock().unwrap_or_else(PoisonError::into_inner);
        let example = Asked::of(question, 0, 0);
        if examples.len() < EXAMPLES_COUNT_MAX && !examples.contains(&example) {
            examples.push(example);
        }
    }

    pub(crate) fn report(&self) -> ShadowReport {
        ShadowReport {
            text: self.text.clone(),
            askings_count: self.asked.load(Ordering::Relaxed),
            newly_allowed: self.newly_allowed.report(),
            newly_denied: self.newly_denied.report(),
        }
    }

    fn side(&self, would: Outcome) -> &Side {
        match would {
            Outcome::Allow => &self.newly_allowed,
            Outcome::Deny => &self.newly_denied,
        }
    }
}

impl Side {
    fn report(&self) -> Differences {
        let examples = self.examples.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Differences {
            questions_count: examples.len() as u64,
            askings_count: self.askings.load(Ordering::Relaxed),
            examples,
        }
    }
}
