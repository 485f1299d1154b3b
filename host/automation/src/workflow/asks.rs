//! What a run asks people for, beside its head: whom policy lets decide is asked without a look at the run's history. Pure.
//!
//! INVARIANT: it says of every question what the fold of the history says; where it cannot, it says that it does not know.

use ringfence_core::workflow::Place;
use serde::{Deserialize, Serialize};

use crate::workflow::event::Event;

/// LIMIT: open questions of one run that are kept beside its head; of a run that asks more at once, only the history knows.
const ASKS_COUNT_MAX: usize = 64;

/// A question that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenAsk {
    /// Where it is asked.
    pub place: Place,
    /// Its name.
    pub name: String,
    /// Since when, Unix milliseconds.
    pub since_ms: u64,
    /// How many have still to agree.
    left_count: u32,
}

/// All of them; none where only the history knows, as of a run that was begun before heads knew.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Asks(Option<Vec<OpenAsk>>);

// === impl Asks ===

impl Asks {
    /// Those of a run that begins.
    pub const fn nothing() -> Self {
        Self(Some(Vec::new()))
    }

    /// Whether it is known what is asked.
    pub const fn is_known(&self) -> bool {
        self.0.is_some()
    }

    /// The question of a name that is asked first in the code; none too where that is not known.
    pub fn first(&self, name: &str) -> Option<&OpenAsk> {
        let of_name = self.0.iter().flatten().filter(|ask| ask.name == name);
        of_name.min_by(|a, b| a.place.cmp(&b.place))
    }

    /// Takes one more event in, that happened at a time, Unix milliseconds.
    pub fn apply(&mut self, event: &Event, at_ms: u64) {
        let Some(asks) = &mut self.0 else { return };
        match event {
            Event::ApprovalAsked { place, name, question, .. } => {
                let (place, name, left_count) = (place.clone(), name.clone(), question.approvals_count);
                asks.push(OpenAsk { place, name, since_ms: at_ms, left_count });
            }
            // One no is a no; a yes counts once enough have said it.
            Event::ApprovalGiven { place, approved, .. } => asks.retain_mut(|ask| {
                let is_it = ask.place == *place;
                ask.left_count = ask.left_count.saturating_sub(u32::from(is_it));
                !is_it || (*approved && ask.left_count > 0)
            }),
            Event::ApprovalDropped { place, .. } => {
                for ask in asks.iter_mut().filter(|ask| ask.place == *place) {
                    ask.left_count = ask.left_count.saturating_add(1);
                }
            }
            Event::Rewound { to, .. } => asks.retain(|ask| ask.place.first() < to.first()),
            // Whatever else happens at the place of a question is its end.
            other => asks.retain(|ask| other.place() != Some(&ask.place)),
        }
        if asks.len() > ASKS_COUNT_MAX {
            self.0 = None;
        }
    }
}
