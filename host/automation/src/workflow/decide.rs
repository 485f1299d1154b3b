//! What workflow code is answered: from its history where the history knows, by new events where it does not. Pure.
//!
//! Time, dice and what other runs came to are handed in. INVARIANT: a place that is done is answered the same for good,
//! and never makes an event again; what is answered anew stands in the events that go with the answer.

use ringfence_core::RunId;
use ringfence_core::workflow::{Answer, Ask, Place, Question, Retry, StepFailure, StepKind, Stop};

use crate::workflow::event::{Event, Told};
use crate::workflow::limits::{
    ATTEMPTS_COUNT_MAX, ATTRIBUTE_BYTES_MAX, ATTRIBUTES_COUNT_MAX, BRANCHES_COUNT_MAX, CHILD_DEPTH_MAX,
    CHILDREN_COUNT_MAX, HISTORY_EVENTS_COUNT_MAX, HISTORY_EVENTS_COUNT_RESERVE, MESSAGE_BYTES_MAX, NAME_BYTES_MAX,
    PAYLOAD_BYTES_MAX, WAIT_MS_MAX,
};
use crate::workflow::state::{Op, Outcome, Progress, State, step_word};

/// What a decision may use beside the state.
#[derive(Debug, Clone)]
pub struct Now {
    /// Unix time, milliseconds.
    pub at_ms: u64,
    /// Random.
    pub dice: u64,
    /// A fresh name.
    pub fresh: String,
    /// What a run that this one waits for came to; none while it goes on.
    pub child: Option<Result<String, String>>,
    /// When attempts of steps are written down.
    pub attempts: Attempts,
}

/// When attempts of steps are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempts {
    /// When they are over: one write for each step.
    WhenOver,
    /// Before they are made too: the end of the host has cut this run, and this may have been its doing.
    BeforeToo,
}

/// A step that its code was told to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenStep {
    /// Where.
    pub place: Place,
    /// What sort.
    pub kind: StepKind,
    /// Its name.
    pub name: String,
    /// Which attempt this is.
    pub attempt: u32,
    /// How often it is tried.
    pub retry: Retry,
}

/// What is written down and what is answered. The events become durable before the answer is given.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// New in the history.
    pub events: Vec<Event>,
    /// The answer.
    pub answer: Result<Answer, Stop>,
}

/// Why the run itself cannot go on as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The code asks for something else than before.
    #[error("at place {place} the history has {expected} and the code asks for {found}")]
    Nondeterminism {
        /// Where.
        place: Place,
        /// What the history has.
        expected: String,
        /// What the code asks.
        found: String,
    },
    /// A limit is reached.
    #[error("{what} is over its limit of {max}")]
    Limit {
        /// What.
        what: &'static str,
        /// How much there may be.
        max: u64,
    },
}

impl Fault {
    /// Stable slug.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Nondeterminism { .. } => "nondeterminism",
            Self::Limit { .. } => "workflow-limit",
        }
    }
}

/// The run and its own ids, which idempotency keys and children's ids are made from.
pub trait Names {
    /// A key for the far end of a step, the same at every attempt.
    fn idempotency_key(&self, place: &Place, redone_count: u32) -> String;
    /// The id of the child that is begun at a place.
    fn child(&self, place: &Place, redone_count: u32) -> RunId;
}

/// Decides what the code is answered at a place.
pub fn ask(state: &State, names: &dyn Names, place: &Place, ask: &Ask, now: &Now) -> Result<Decision, Fault> {
    let (what, name) = described(ask);
    match state.ops.get(place) {
        Some(op) if op.what != what || op.name != name => Err(Fault::Nondeterminism {
            place: place.clone(),
            expected: said(op.what, &op.name),
            found: said(what, name),
        }),
        Some(op) => Ok(again(state, names, place, op, ask, now)),
        None => {
            check(state, ask)?;
            let decision = first(state, names, place, ask, now);
            let room = HISTORY_EVENTS_COUNT_MAX - HISTORY_EVENTS_COUNT_RESERVE;
            if !decision.events.is_empty() && state.events_count >= room {
                return Err(Fault::Limit { what: "the number of events of a history", max: room as u64 });
            }
            Ok(decision)
        }
    }
}

/// Decides what comes of an attempt of a step.
pub fn complete(step: &OpenStep, outcome: Result<String, StepFailure>, now: &Now) -> Result<Decision, Fault> {
    let OpenStep { place, kind, name, attempt, retry } = step.clone();
    let failure = match outcome {
        Ok(result) => {
            limit("the result of a step", result.len(), PAYLOAD_BYTES_MAX)?;
            let answer = Ok(Answer::Outcome(Ok(result.clone())));
            let event = Event::StepDone { place, kind, name, attempt, result: Ok(result) };
            return Ok(Decision { events: vec![event], answer });
        }
        Err(failure) => failure,
    };
    let message = cut(&failure.message);
    if failure.again && attempt < retry.attempts_count.min(ATTEMPTS_COUNT_MAX) {
        let again_at_ms = now.at_ms.saturating_add(pause_ms(&retry, attempt, now.dice));
        let event = Event::StepFailed { place, kind, name, attempt, message, again_at_ms };
        return Ok(Decision { events: vec![event], answer: Err(Stop::Suspended) });
    }
    let answer = Ok(Answer::Outcome(Err(message.clone())));
    let event = Event::StepDone { place, kind, name, attempt, result: Err(message) };
    Ok(Decision { events: vec![event], answer })
}

/// The pause after a failed attempt: exponential, with equal jitter (half fixed, half drawn), capped.
pub fn pause_ms(retry: &Retry, failed_count: u32, dice: u64) -> u64 {
    let factor = f64::from(retry.factor_percent.clamp(100, 1_000)) / 100.0;
    let exponent = i32::try_from(failed_count.saturating_sub(1).min(64)).unwrap_or(64);
    // Floats saturate, and a pause needs no exactness.
    let whole = (retry.first_ms.min(WAIT_MS_MAX) as f64) * factor.powi(exponent);
    let whole = (whole as u64).min(retry.max_ms).min(WAIT_MS_MAX);
    let half = whole / 2;
    half + if whole > half { dice % (whole - half + 1) } else { 0 }
}

/// A text cut to what is kept of messages.
pub fn cut(message: &str) -> String {
    let end = message.floor_char_boundary(MESSAGE_BYTES_MAX);
    message.get(..end).unwrap_or_default().to_owned()
}

/// What an open question is answered once more, when the history knows the place.
fn again(state: &State, names: &dyn Names, place: &Place, op: &Op, ask: &Ask, now: &Now) -> Decision {
    let is_over = |until_ms: &Option<u64>| until_ms.is_some_and(|until| until <= now.at_ms);
    match (&op.progress, ask) {
        (Progress::Done(outcome), _) => Decision { events: Vec::new(), answer: known(state, place, outcome) },
        _ if is_refused(state, ask) => refuse(place, ask),
        (Progress::Again { .. }, _) if state.is_paused => suspended(),
        (Progress::Again { failed_count, again_at_ms }, _) if *again_at_ms <= now.at_ms => {
            execute(state, names, place, ask, failed_count.saturating_add(1), now)
        }
        (Progress::Begun { .. }, _) if state.is_paused => suspended(),
        (Progress::Begun { attempt }, Ask::Step { kind, name, retry }) => {
            if *attempt < retry.attempts_count.min(ATTEMPTS_COUNT_MAX) {
                return execute(state, names, place, ask, attempt.saturating_add(1), now);
            }
            let message = "the host ended during its last attempt".to_owned();
            let (place, name, result) = (place.clone(), name.clone(), Err(message.clone()));
            let event = Event::StepDone { place, kind: *kind, name, attempt: *attempt, result };
            with(event, Ok(Answer::Outcome(Err(message))))
        }
        (Progress::Waiting { until_ms }, Ask::Sleep { .. }) if is_over(until_ms) => {
            with(Event::TimeOver { place: place.clone() }, Ok(Answer::Done))
        }
        (Progress::Waiting { until_ms }, Ask::Signal { name, .. }) => match take_signal(state, place, name) {
            Some(decision) => decision,
            None if is_over(until_ms) => with(Event::TimeOver { place: place.clone() }, Ok(Answer::Signal(None))),
            None => suspended(),
        },
        (Progress::Asked { until_ms, .. }, _) if is_over(until_ms) => {
            with(Event::TimeOver { place: place.clone() }, Ok(nobody_decided()))
        }
        (Progress::Waiting { .. }, Ask::ChildEnd { run }) => match (&now.child, run.parse()) {
            (Some(result), Ok(run)) => child_ended(place, run, result),
            _ => suspended(),
        },
        _ => suspended(),
    }
}

/// What is answered, and written down, when a place is reached for the first time.
fn first(state: &State, names: &dyn Names, place: &Place, ask: &Ask, now: &Now) -> Decision {
    if is_refused(state, ask) {
        return refuse(place, ask);
    }
    if state.is_paused {
        return suspended();
    }
    let until = |ms: u64| now.at_ms.saturating_add(ms.min(WAIT_MS_MAX));
    let place = place.clone();
    match ask {
        Ask::Step { .. } => execute(state, names, &place, ask, 1, now),
        Ask::Sleep { name, ms } => {
            with(Event::SleepBegun { place, name: name.clone(), until_ms: until(*ms) }, Err(Stop::Suspended))
        }
        Ask::Signal { name, timeout_ms } => match take_signal(state, &place, name) {
            Some(decision) => decision,
            None => {
                let until_ms = timeout_ms.map(until);
                with(Event::SignalAwaited { place, name: name.clone(), until_ms }, Err(Stop::Suspended))
            }
        },
        Ask::Approval { name, question } => {
            let (until_ms, question) = (question.timeout_ms.map(until), question.clone());
            with(Event::ApprovalAsked { place, name: name.clone(), question, until_ms }, Err(Stop::Suspended))
        }
        Ask::Child { workflow, .. } => {
            let run = names.child(&place, state.redone.get(&place).copied().unwrap_or(0));
            let answer = Ok(Answer::Name(run.to_string()));
            with(Event::ChildBegun { place, workflow: workflow.clone(), run }, answer)
        }
        Ask::ChildEnd { run } => match (run.parse::<RunId>(), &now.child) {
            (Ok(run), _) if !state.children().any(|child| *child == run) => not_a_child(&run),
            (Ok(run), Some(result)) => child_ended(&place, run, result),
            (Ok(run), None) => with(Event::ChildAwaited { place, run }, Err(Stop::Suspended)),
            (Err(error), _) => Decision { events: Vec::new(), answer: Err(Stop::Refused(error.to_string())) },
        },
        Ask::Fork { branches_count } => {
            let answer = Ok(Answer::Branches(place.clone()));
            with(Event::Forked { place, branches_count: *branches_count }, answer)
        }
        Ask::Now => told(place, Told::Now(now.at_ms)),
        Ask::Random => told(place, Told::Random(now.dice)),
        Ask::NewId => told(place, Told::NewId(now.fresh.clone())),
        Ask::Publish { name, value } => {
            with(Event::Published { place, name: name.clone(), value: value.clone() }, Ok(Answer::Done))
        }
        Ask::Attribute { name, value } => {
            with(Event::AttributeSet { place, name: name.clone(), value: value.clone() }, Ok(Answer::Done))
        }
        // The end of this run and the beginning of the next are one batch, which is the shell's.
        Ask::Continue { .. } => suspended(),
    }
}

/// Lets the code make an attempt of a step. The key is made from the place and is the same at every attempt, so that the
/// attempt itself has to be written down before only where it must be counted.
fn execute(state: &State, names: &dyn Names, place: &Place, ask: &Ask, attempt: u32, now: &Now) -> Decision {
    let redone_count = state.redone.get(place).copied().unwrap_or(0);
    let answer = Answer::Execute { idempotency_key: names.idempotency_key(place, redone_count), attempt };
    match (now.attempts, ask) {
        (Attempts::BeforeToo, Ask::Step { kind, name, .. }) => {
            let (place, name) = (place.clone(), name.clone());
            with(Event::StepBegun { place, kind: *kind, name, attempt }, Ok(answer))
        }
        _ => Decision { events: Vec::new(), answer: Ok(answer) },
    }
}

/// What a place that is done is answered.
fn known(state: &State, place: &Place, outcome: &Outcome) -> Result<Answer, Stop> {
    Ok(match outcome {
        Outcome::Nothing => Answer::Done,
        Outcome::Result(result) => Answer::Outcome(result.clone()),
        Outcome::Signal(number) => Answer::Signal(state.signals.get(*number).map(|signal| signal.payload.clone())),
        Outcome::TimeOver => match state.ops.get(place).map(|op| op.what) {
            Some("signal") => Answer::Signal(None),
            Some("approval") => nobody_decided(),
            _ => Answer::Done,
        },
        Outcome::Verdict { approved, by, note } => Answer::Verdict {
            approved: *approved,
            by: by.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            note: note.clone(),
        },
        Outcome::Child(run) => Answer::Name(run.to_string()),
        Outcome::Branches(_) => Answer::Branches(place.clone()),
        Outcome::Told(Told::Now(number) | Told::Random(number)) => Answer::Number(*number),
        Outcome::Told(Told::NewId(name)) => Answer::Name(name.clone()),
        Outcome::Refused => return Err(Stop::Cancelled),
    })
}

/// After a cancelling only compensations are begun, and what the code needs to find its way to them.
fn is_refused(state: &State, ask: &Ask) -> bool {
    let is_allowed =
        matches!(ask, Ask::Step { kind: StepKind::Compensation, .. } | Ask::Now | Ask::Random | Ask::NewId);
    state.cancelled_by.is_some() && !is_allowed
}

fn refuse(place: &Place, ask: &Ask) -> Decision {
    let (what, name) = described(ask);
    let event = Event::Refused { place: place.clone(), what: what.to_owned(), name: name.to_owned() };
    with(event, Err(Stop::Cancelled))
}

fn take_signal(state: &State, place: &Place, name: &str) -> Option<Decision> {
    let found = state.signals.iter().position(|signal| signal.taken.is_none() && signal.name == name)?;
    let payload = state.signals.get(found).map(|signal| signal.payload.clone());
    let event = Event::SignalTaken { place: place.clone(), name: name.to_owned(), number: found };
    Some(with(event, Ok(Answer::Signal(payload))))
}

fn child_ended(place: &Place, run: RunId, result: &Result<String, String>) -> Decision {
    let event = Event::ChildEnded { place: place.clone(), run, result: result.clone() };
    with(event, Ok(Answer::Outcome(result.clone())))
}

fn not_a_child(run: &RunId) -> Decision {
    Decision { events: Vec::new(), answer: Err(Stop::Refused(format!("`{run}` is no child of this run"))) }
}

fn nobody_decided() -> Answer {
    Answer::Verdict { approved: false, by: String::new(), note: "nobody decided in time".to_owned() }
}

fn told(place: Place, told: Told) -> Decision {
    let answer = match &told {
        Told::Now(number) | Told::Random(number) => Answer::Number(*number),
        Told::NewId(name) => Answer::Name(name.clone()),
    };
    with(Event::Told { place, told }, Ok(answer))
}

fn with(event: Event, answer: Result<Answer, Stop>) -> Decision {
    Decision { events: vec![event], answer }
}

fn suspended() -> Decision {
    Decision { events: Vec::new(), answer: Err(Stop::Suspended) }
}

/// What is asked for, in a word, and its name.
fn described(ask: &Ask) -> (&'static str, &str) {
    match ask {
        Ask::Step { kind, name, .. } => (step_word(*kind), name),
        Ask::Sleep { name, .. } => ("sleep", name),
        Ask::Signal { name, .. } => ("signal", name),
        Ask::Approval { name, .. } => ("approval", name),
        Ask::Child { workflow, .. } => ("child", workflow),
        Ask::ChildEnd { run } => ("child-end", run),
        Ask::Fork { .. } => ("fork", ""),
        Ask::Now => ("now", ""),
        Ask::Random => ("random", ""),
        Ask::NewId => ("new-id", ""),
        Ask::Publish { name, .. } => ("publish", name),
        Ask::Attribute { name, .. } => ("attribute", name),
        Ask::Continue { .. } => ("continue", ""),
    }
}

fn said(what: &str, name: &str) -> String {
    if name.is_empty() { what.to_owned() } else { format!("{what} `{name}`") }
}

/// Whether what is asked keeps to the limits.
fn check(state: &State, ask: &Ask) -> Result<(), Fault> {
    let (_, name) = described(ask);
    limit("a name", name.len(), NAME_BYTES_MAX)?;
    match ask {
        Ask::Approval { question: Question { title, details, .. }, .. } => {
            limit("the question of an approval", title.len().saturating_add(details.len()), PAYLOAD_BYTES_MAX)
        }
        Ask::Child { input, .. } => {
            limit("the input of a child", input.len(), PAYLOAD_BYTES_MAX)?;
            limit("the number of children", state.children_count.saturating_add(1), CHILDREN_COUNT_MAX)?;
            let depth = state.started.as_ref().map_or(0, |started| started.depth).saturating_add(1);
            limit("the depth of children", depth as usize, CHILD_DEPTH_MAX as usize)
        }
        Ask::Continue { input } => limit("the input of a run", input.len(), PAYLOAD_BYTES_MAX),
        Ask::Fork { branches_count } => {
            limit("the number of branches", *branches_count as usize, BRANCHES_COUNT_MAX as usize)
        }
        Ask::Publish { name, value } => {
            limit("a published value", value.len(), PAYLOAD_BYTES_MAX)?;
            room("the number of published values", state.published.len(), state.published.contains_key(name))
        }
        Ask::Attribute { name, value } => {
            limit("the value of an attribute", value.len(), ATTRIBUTE_BYTES_MAX)?;
            room("the number of attributes", state.attributes.len(), state.attributes.contains_key(name))
        }
        _ => Ok(()),
    }
}

fn room(what: &'static str, count: usize, is_there: bool) -> Result<(), Fault> {
    limit(what, if is_there { count } else { count.saturating_add(1) }, ATTRIBUTES_COUNT_MAX)
}

fn limit(what: &'static str, count: usize, max: usize) -> Result<(), Fault> {
    if count > max { Err(Fault::Limit { what, max: max as u64 }) } else { Ok(()) }
}
