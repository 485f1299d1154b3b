//! The state of a run: the fold of its history. Pure.
//!
//! INVARIANT: [`State::apply`] never fails and depends on nothing but the events: two folds of one history are equal.

use std::collections::BTreeMap;

use ringfence_core::workflow::{Place, Question, StepKind};
use ringfence_core::{PrincipalId, RunId};

use crate::workflow::event::{Basis, Ending, Entry, Event, Started, Told};
use crate::workflow::limits::SIGNAL_KEYS_COUNT_MAX;

/// What was asked at a place, and how far it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Op {
    /// `step`, `sleep`, ...: with the name what a replay is compared with.
    pub what: &'static str,
    /// Its name; empty for what has none.
    pub name: String,
    /// How far.
    pub progress: Progress,
}

/// How far what was asked is.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// An attempt of a step was begun and nobody knows how it ended.
    Begun {
        /// Which.
        attempt: u32,
    },
    /// Attempts of a step failed; the next is due then.
    Again {
        /// How many failed.
        failed_count: u32,
        /// When the next may be.
        again_at_ms: u64,
    },
    /// It waits until then, if for a time.
    Waiting {
        /// Until when.
        until_ms: Option<u64>,
    },
    /// It waits for people.
    Asked {
        /// What they are asked.
        question: Question,
        /// Until when.
        until_ms: Option<u64>,
        /// Who agreed so far.
        agreed: Vec<Yes>,
    },
    /// It is over.
    Done(Outcome),
}

/// Somebody's yes.
#[derive(Debug, Clone, PartialEq)]
pub struct Yes {
    /// Whose.
    pub by: PrincipalId,
    /// What he said.
    pub note: String,
    /// What could be said of him then without his session.
    pub basis: Basis,
}

/// How what was asked came out.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// There is nothing to say.
    Nothing,
    /// A step or a child: what it gave.
    Result(Result<String, String>),
    /// A signal's number among those received.
    Signal(usize),
    /// The time ran out.
    TimeOver,
    /// People decided.
    Verdict {
        /// Whether they agreed.
        approved: bool,
        /// Who.
        by: Vec<PrincipalId>,
        /// What they said.
        note: String,
    },
    /// A child was begun.
    Child(RunId),
    /// Branches.
    Branches(u32),
    /// A value.
    Told(Told),
    /// It was not begun, because the run was cancelled.
    Refused,
}

/// A signal that was received.
#[derive(Debug, Clone, PartialEq)]
pub struct Signal {
    /// Its name.
    pub name: String,
    /// JSON.
    pub payload: String,
    /// Under which key it was sent.
    pub key: Option<String>,
    /// By whom.
    pub by: PrincipalId,
    /// Where it was taken.
    pub taken: Option<Place>,
}

/// A run as its history says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct State {
    /// How it began; none before its first event.
    pub started: Option<Started>,
    /// What was asked, by place.
    pub ops: BTreeMap<Place, Op>,
    /// Signals in the order they came.
    pub signals: Vec<Signal>,
    /// How often a place that had succeeded was taken out of the state to be done again.
    pub redone: BTreeMap<Place, u32>,
    /// How often it was rewound.
    pub rewound_count: u64,
    /// What queries are answered with.
    pub published: BTreeMap<String, String>,
    /// What it is found by.
    pub attributes: BTreeMap<String, String>,
    /// Who cancelled it.
    pub cancelled_by: Option<PrincipalId>,
    /// Whether it is paused.
    pub is_paused: bool,
    /// Why it is stuck.
    pub stuck: Option<(String, String)>,
    /// How it ended.
    pub ending: Option<Ending>,
    /// How many events there are.
    pub events_count: usize,
    /// How many children were begun.
    pub children_count: usize,
}

// === impl State ===

impl State {
    /// The fold of a history.
    pub fn of<'a>(history: impl IntoIterator<Item = &'a Entry>) -> Self {
        let mut state = Self::default();
        for entry in history {
            state.apply(&entry.event);
        }
        state
    }

    /// Takes one more event in.
    pub fn apply(&mut self, event: &Event) {
        self.events_count += 1;
        match event {
            Event::Started(started) => {
                self.attributes = started.attributes.clone();
                self.started = Some(Started::clone(started));
            }
            Event::CancelAsked { by } => self.cancelled_by = Some(by.clone()),
            Event::Paused { .. } => self.is_paused = true,
            Event::Resumed { .. } => self.is_paused = false,
            Event::Retried { .. } | Event::Migrated { .. } => self.go_on(event),
            Event::Stuck { code, message } => self.stuck = Some((code.clone(), message.clone())),
            Event::Ended(ending) => {
                self.ending = Some(ending.clone());
                // One that ended rests no more: done again from a place, it goes on.
                self.is_paused = false;
            }
            Event::Rewound { to, .. } => self.rewind(to),
            Event::SignalReceived { name, payload, key, by } => self.signals.push(Signal {
                name: name.clone(),
                payload: payload.clone(),
                key: key.clone(),
                by: by.clone(),
                taken: None,
            }),
            Event::Published { name, value, .. } => {
                self.published.insert(name.clone(), value.clone());
                self.apply_at(event);
            }
            Event::AttributeSet { name, value, .. } => {
                self.attributes.insert(name.clone(), value.clone());
                self.apply_at(event);
            }
            Event::SignalTaken { place, number, .. } => {
                if let Some(signal) = self.signals.get_mut(*number) {
                    signal.taken = Some(place.clone());
                }
                self.apply_at(event);
            }
            _ => self.apply_at(event),
        }
    }

    /// The runs it began.
    pub fn children(&self) -> impl Iterator<Item = &RunId> {
        self.children_from(0)
    }

    /// Those of them that it began from this number on: what is taken out when it is rewound to there.
    pub fn children_from(&self, first: u32) -> impl Iterator<Item = &RunId> {
        self.ops.iter().filter(move |(place, _)| place.first() >= first).filter_map(|(_, op)| match &op.progress {
            Progress::Done(Outcome::Child(run)) => Some(run),
            _ => None,
        })
    }

    /// Where people are asked for something of this name.
    pub fn asked(&self, name: &str) -> Option<&Place> {
        let is_asked = |op: &Op| op.name == name && matches!(op.progress, Progress::Asked { .. });
        self.ops.iter().find(|(_, op)| is_asked(op)).map(|(place, _)| place)
    }

    /// How many signals nobody took yet.
    pub fn signals_waiting_count(&self) -> usize {
        self.signals.iter().filter(|signal| signal.taken.is_none()).count()
    }

    /// Whether a signal of this key was received, be it by a run that this one goes on for.
    pub fn knows_signal(&self, key: &str) -> bool {
        let before = self.started.iter().flat_map(|started| started.signal_keys.iter());
        self.signals.iter().filter_map(|signal| signal.key.as_ref()).chain(before).any(|known| known == key)
    }

    /// What the run that this one goes on as has of its signals: the keys of those that were taken, and the others as they came.
    pub fn handed_on(&self) -> (Vec<String>, Vec<Event>) {
        let (taken, left): (Vec<&Signal>, Vec<&Signal>) =
            self.signals.iter().partition(|signal| signal.taken.is_some());
        let mut keys = self.started.as_ref().map(|started| started.signal_keys.clone()).unwrap_or_default();
        keys.extend(taken.into_iter().filter_map(|signal| signal.key.clone()));
        let keys = keys.split_off(keys.len().saturating_sub(SIGNAL_KEYS_COUNT_MAX));
        let received = |signal: &Signal| {
            let Signal { name, payload, key, by, .. } = signal.clone();
            Event::SignalReceived { name, payload, key, by }
        };
        (keys, left.into_iter().map(received).collect())
    }

    fn go_on(&mut self, event: &Event) {
        self.stuck = None;
        if let (Event::Migrated { version, .. }, Some(started)) = (event, &mut self.started) {
            started.version = version.clone();
        }
        // Whoever says "try again" does not mean "in a week".
        for op in self.ops.values_mut() {
            if let Progress::Again { again_at_ms, .. } = &mut op.progress {
                *again_at_ms = 0;
            }
        }
    }

    /// Takes out all that the code asked from the place on. Places of one fork go together.
    fn rewind(&mut self, to: &Place) {
        self.stuck = None;
        self.ending = None;
        self.rewound_count += 1;
        let first = to.first();
        let gone: Vec<Place> = self.ops.keys().filter(|place| place.first() >= first).cloned().collect();
        for place in gone {
            let Some(op) = self.ops.remove(&place) else { continue };
            if matches!(op.progress, Progress::Done(Outcome::Result(Ok(_)) | Outcome::Child(_))) {
                *self.redone.entry(place).or_default() += 1;
            }
        }
        for signal in &mut self.signals {
            if signal.taken.as_ref().is_some_and(|place| place.first() >= first) {
                signal.taken = None;
            }
        }
    }

    fn apply_at(&mut self, event: &Event) {
        let (place, op) = match event {
            Event::StepDone { place, kind, name, result, .. } => {
                (place, Op::new(step_word(*kind), name, Progress::Done(Outcome::Result(result.clone()))))
            }
            Event::StepBegun { place, kind, name, attempt } => {
                (place, Op::new(step_word(*kind), name, Progress::Begun { attempt: *attempt }))
            }
            Event::StepFailed { place, kind, name, attempt, again_at_ms, .. } => {
                let progress = Progress::Again { failed_count: *attempt, again_at_ms: *again_at_ms };
                (place, Op::new(step_word(*kind), name, progress))
            }
            Event::SleepBegun { place, name, until_ms } => {
                (place, Op::new("sleep", name, Progress::Waiting { until_ms: Some(*until_ms) }))
            }
            Event::SignalAwaited { place, name, until_ms } => {
                (place, Op::new("signal", name, Progress::Waiting { until_ms: *until_ms }))
            }
            Event::SignalTaken { place, name, number } => {
                (place, Op::new("signal", name, Progress::Done(Outcome::Signal(*number))))
            }
            Event::ApprovalAsked { place, name, question, until_ms } => {
                let (question, until_ms) = (question.clone(), *until_ms);
                (place, Op::new("approval", name, Progress::Asked { question, until_ms, agreed: Vec::new() }))
            }
            Event::ChildBegun { place, workflow, run } => {
                self.children_count += 1;
                (place, Op::new("child", workflow, Progress::Done(Outcome::Child(run.clone()))))
            }
            Event::ChildAwaited { place, run } => {
                (place, Op::new("child-end", run.as_str(), Progress::Waiting { until_ms: None }))
            }
            Event::ChildEnded { place, run, result } => {
                (place, Op::new("child-end", run.as_str(), Progress::Done(Outcome::Result(result.clone()))))
            }
            Event::Forked { place, branches_count } => {
                (place, Op::new("fork", "", Progress::Done(Outcome::Branches(*branches_count))))
            }
            Event::Told { place, told } => {
                (place, Op::new(told_word(told), "", Progress::Done(Outcome::Told(told.clone()))))
            }
            Event::Published { place, name, .. } => (place, Op::new("publish", name, Progress::Done(Outcome::Nothing))),
            Event::AttributeSet { place, name, .. } => {
                (place, Op::new("attribute", name, Progress::Done(Outcome::Nothing)))
            }
            Event::Refused { place, what, name } => {
                (place, Op::new(known_word(what), name, Progress::Done(Outcome::Refused)))
            }
            Event::TimeOver { place } => return self.finish(place, Outcome::TimeOver),
            Event::ApprovalGiven { place, by, approved, note, basis, .. } => {
                let yes = Yes { by: by.clone(), note: note.clone(), basis: *basis };
                return self.decided(place, yes, *approved);
            }
            Event::ApprovalDropped { place, by } => return self.dropped(place, by),
            _ => return,
        };
        self.ops.insert(place.clone(), op);
    }

    fn finish(&mut self, place: &Place, outcome: Outcome) {
        if let Some(op) = self.ops.get_mut(place) {
            op.progress = Progress::Done(outcome);
        }
    }

    /// One no is a no; a yes counts once enough have said it.
    fn decided(&mut self, place: &Place, yes: Yes, approved: bool) {
        let Some(Op { progress: Progress::Asked { question, agreed, .. }, .. }) = self.ops.get_mut(place) else {
            return;
        };
        let outcome = if approved {
            agreed.push(yes);
            if (agreed.len() as u64) < u64::from(question.approvals_count) {
                return;
            }
            let note = agreed.iter().map(|yes| yes.note.as_str()).filter(|note| !note.is_empty());
            Outcome::Verdict {
                approved: true,
                by: agreed.iter().map(|yes| yes.by.clone()).collect(),
                note: note.collect::<Vec<_>>().join("; "),
            }
        } else {
            Outcome::Verdict { approved: false, by: vec![yes.by], note: yes.note }
        };
        self.finish(place, outcome);
    }

    fn dropped(&mut self, place: &Place, by: &PrincipalId) {
        if let Some(Op { progress: Progress::Asked { agreed, .. }, .. }) = self.ops.get_mut(place) {
            agreed.retain(|yes| yes.by != *by);
        }
    }
}

impl Op {
    fn new(what: &'static str, name: &str, progress: Progress) -> Self {
        Self { what, name: name.to_owned(), progress }
    }
}

/// The word of a step's kind.
pub const fn step_word(kind: StepKind) -> &'static str {
    match kind {
        StepKind::Step => "step",
        StepKind::Compensation => "compensation",
    }
}

const fn told_word(told: &Told) -> &'static str {
    match told {
        Told::Now(_) => "now",
        Told::Random(_) => "random",
        Told::NewId(_) => "new-id",
    }
}

/// Every word of what can be asked.
pub const WORDS: [&str; 13] = [
    "step",
    "compensation",
    "sleep",
    "signal",
    "approval",
    "child",
    "child-end",
    "fork",
    "now",
    "random",
    "new-id",
    "publish",
    "attribute",
];

fn known_word(word: &str) -> &'static str {
    WORDS.into_iter().find(|known| *known == word).unwrap_or("unknown")
}
