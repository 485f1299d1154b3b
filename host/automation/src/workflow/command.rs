//! What people and the host may do to a run: signal, cancel, terminate, pause, resume, retry, migrate, decide. Pure.
//!
//! Must never touch a run that has ended, but for rewinding one that failed; must never count one person twice, nor the yes of
//! one who may not agree any more when the next is given, nor any word that comes after the time of its question.

use ringfence_core::PrincipalId;
use ringfence_core::workflow::Place;
use semver::Version;

use crate::workflow::event::{Basis, Ending, Event};
use crate::workflow::limits::{HISTORY_EVENTS_COUNT_MAX, NAME_BYTES_MAX, PAYLOAD_BYTES_MAX, SIGNALS_WAITING_COUNT_MAX};
use crate::workflow::state::{Op, Progress, State, Yes};

/// Something that is done to a run from outside its code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Sends it a signal.
    Signal {
        /// The signal's name.
        name: String,
        /// JSON.
        payload: String,
        /// The same signal sent again under one key counts once.
        key: Option<String>,
    },
    /// Asks its code to take back what it did, and end.
    Cancel,
    /// Ends it where it stands.
    Terminate {
        /// Why.
        reason: String,
    },
    /// Lets it begin nothing more.
    Pause,
    /// Lets it go on.
    Resume,
    /// Lets it go on when it is stuck or waits for another attempt; with a place, does all from there again.
    Retry {
        /// From where.
        from: Option<Place>,
    },
    /// Goes on with another version of its plugin.
    Migrate {
        /// Which.
        version: Version,
    },
    /// Answers a question it asks.
    Decide {
        /// The approval's name.
        name: String,
        /// Where it was asked when policy allowed this; none where it was not.
        asked_at: Option<Place>,
        /// Whether it is agreed to.
        approved: bool,
        /// Why.
        note: String,
        /// The policy's decision that allowed this.
        decision: Option<String>,
        /// What can be said of who answers while he is away.
        basis: Basis,
    },
}

/// What is known of people where something is done to a run.
#[derive(Clone, Copy)]
pub struct People<'a> {
    /// Whether a principal is the same person as whoever does it.
    pub is_same: &'a (dyn Fn(&PrincipalId) -> bool + Send + Sync + 'a),
    /// What can be said now, while he is away, of one who agreed before.
    pub basis: &'a (dyn Fn(&PrincipalId) -> Basis + Send + Sync + 'a),
}

impl Command {
    /// Whether it is meant for whoever goes on: of a run that went on as another, for the newest.
    pub const fn is_for_the_newest(&self) -> bool {
        matches!(self, Self::Signal { .. } | Self::Cancel | Self::Terminate { .. } | Self::Pause | Self::Resume)
    }

    /// The word for it, for the audit log.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Signal { .. } => "signal",
            Self::Cancel => "cancel",
            Self::Terminate { .. } => "terminate",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Retry { .. } => "retry",
            Self::Migrate { .. } => "migrate",
            Self::Decide { .. } => "decide",
        }
    }
}

/// Why something is not done to a run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is over.
    #[error("the run has ended")]
    Ended,
    /// There is nothing to resume, retry or decide.
    #[error("{0}")]
    Nothing(String),
    /// Whoever started the run, or agreed already, is not a second person.
    #[error("another person must decide: {0}")]
    SecondPerson(&'static str),
    /// A word that no signal could have.
    #[error("`{0}` is no name of a signal: letters, digits and `-_.:/`, and nothing waits for it now")]
    BadName(String),
    /// A limit.
    #[error("{what} is over its limit of {max}")]
    Limit {
        /// What.
        what: &'static str,
        /// How much there may be.
        max: u64,
    },
}

/// Decides what a command adds to the history at a time, Unix milliseconds; nothing when it was done before.
pub fn command(
    state: &State,
    command: &Command,
    by: &PrincipalId,
    people: &People<'_>,
    at_ms: u64,
) -> Result<Vec<Event>, Refusal> {
    let by = by.clone();
    if state.ending.is_some() {
        return rewound(state, command, by);
    }
    // Whatever state a run is in, however long its history is: it can be ended.
    if !matches!(command, Command::Terminate { .. }) {
        limit("the number of events of a history", state.events_count.saturating_add(3), HISTORY_EVENTS_COUNT_MAX)?;
    }
    Ok(match command {
        Command::Signal { name, payload, key } => return signal(state, name, payload, key.as_ref(), by),
        Command::Cancel => cancelled(state, &by),
        Command::Terminate { reason } => vec![Event::Ended(Ending::Terminated { by, reason: reason.clone() })],
        Command::Pause if state.is_paused => Vec::new(),
        Command::Pause => vec![Event::Paused { by }],
        Command::Resume if !state.is_paused => return Err(nothing("the run is not paused")),
        Command::Resume => vec![Event::Resumed { by }],
        Command::Retry { from: Some(place) } => return rewind(state, place, by),
        Command::Retry { from: None } => {
            let waits = state.ops.values().any(|op| matches!(op.progress, Progress::Again { .. }));
            if state.stuck.is_none() && !waits {
                return Err(nothing("the run is not stuck and no step of it waits for another attempt"));
            }
            vec![Event::Retried { by }]
        }
        Command::Migrate { version } => vec![Event::Migrated { version: version.clone(), by }],
        Command::Decide { name, asked_at, approved, note, decision, basis } => {
            let given = Given { approved: *approved, note, decision: decision.as_ref(), basis: *basis, at_ms };
            return decide(state, (name, asked_at.as_ref()), given, by, people);
        }
    })
}

/// A cancelled run is run on to its compensations, also when it was paused or stuck before. Nothing when it is on its way.
fn cancelled(state: &State, by: &PrincipalId) -> Vec<Event> {
    let asked = state.cancelled_by.is_none().then(|| Event::CancelAsked { by: by.clone() });
    let resumed = state.is_paused.then(|| Event::Resumed { by: by.clone() });
    let retried = state.stuck.is_some().then(|| Event::Retried { by: by.clone() });
    asked.into_iter().chain(resumed).chain(retried).collect()
}

/// A run that failed can be rewound; nothing else is done to one that has ended. A signal that it took before is sent again in
/// vain, and is no error of whoever does not know that it arrived.
fn rewound(state: &State, command: &Command, by: PrincipalId) -> Result<Vec<Event>, Refusal> {
    match (command, &state.ending) {
        (Command::Retry { from: Some(place) }, Some(Ending::Failed { .. })) => rewind(state, place, by),
        (Command::Signal { key: Some(key), .. }, _) if state.knows_signal(key) => Ok(Vec::new()),
        (Command::Retry { from: None }, Some(Ending::Failed { .. })) => {
            Err(nothing("the run failed: say from which place it is to be done again"))
        }
        _ => Err(Refusal::Ended),
    }
}

fn rewind(state: &State, place: &Place, by: PrincipalId) -> Result<Vec<Event>, Refusal> {
    if !state.ops.contains_key(place) {
        return Err(nothing(&format!("nothing was asked at place `{place}`")));
    }
    if state.cancelled_by.is_some() {
        return Err(nothing("the run was cancelled"));
    }
    Ok(vec![Event::Rewound { to: place.clone(), by }])
}

fn signal(
    state: &State,
    name: &str,
    payload: &str,
    key: Option<&String>,
    by: PrincipalId,
) -> Result<Vec<Event>, Refusal> {
    limit("the name of a signal", name.len(), NAME_BYTES_MAX)?;
    if !is_plain(name) && !awaits(state, name) {
        return Err(Refusal::BadName(name.to_owned()));
    }
    limit("a signal", payload.len(), PAYLOAD_BYTES_MAX)?;
    limit("the key of a signal", key.map_or(0, String::len), NAME_BYTES_MAX)?;
    if key.is_some_and(|key| state.knows_signal(key)) {
        return Ok(Vec::new());
    }
    limit("the number of signals nobody waited for", state.signals_waiting_count() + 1, SIGNALS_WAITING_COUNT_MAX)?;
    Ok(vec![Event::SignalReceived { name: name.to_owned(), payload: payload.to_owned(), key: key.cloned(), by }])
}

/// Whether it is a word that signals are usually called by, so that a slip is told at once. Code may wait for another.
fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
    !name.is_empty() && name.bytes().all(plain)
}

fn awaits(state: &State, name: &str) -> bool {
    let waits = |op: &Op| op.what == "signal" && op.name == name && matches!(op.progress, Progress::Waiting { .. });
    state.ops.values().any(waits)
}

/// What somebody answers.
struct Given<'a> {
    approved: bool,
    note: &'a str,
    decision: Option<&'a String>,
    basis: Basis,
    at_ms: u64,
}

fn decide(
    state: &State,
    (name, asked_at): (&str, Option<&Place>),
    given: Given<'_>,
    by: PrincipalId,
    people: &People<'_>,
) -> Result<Vec<Event>, Refusal> {
    let Given { approved, note, decision, basis, at_ms } = given;
    limit("a note", note.len(), 2_000)?;
    // SECURITY: what policy allowed is a word to what was asked then, and to nothing that is asked since.
    let asked = state.asked(name).filter(|place| Some(*place) == asked_at);
    let op = asked.and_then(|place| Some((place, state.ops.get(place)?)));
    let Some((place, Op { progress: Progress::Asked { question, agreed, until_ms }, .. })) = op else {
        return Err(nothing(&format!("the run does not ask for `{name}` now")));
    };
    // A run that is paused, stuck or suspended does not write down that the time is over: it is, all the same.
    if until_ms.is_some_and(|until| until <= at_ms) {
        return Err(nothing(&format!("the time to decide on `{name}` is over")));
    }
    // SECURITY: a yes stands while no less can be said of who gave it than when he did.
    let (agreed, gone): (Vec<&Yes>, Vec<&Yes>) = agreed.iter().partition(|yes| (people.basis)(&yes.by) >= yes.basis);
    if agreed.iter().any(|yes| (people.is_same)(&yes.by)) {
        return Err(Refusal::SecondPerson("you agreed already"));
    }
    let is_starter = state.started.as_ref().is_some_and(|started| (people.is_same)(started.starter()));
    if approved && question.approvals_count > 1 && is_starter {
        return Err(Refusal::SecondPerson("you started this run"));
    }
    let dropped = |yes: &Yes| Event::ApprovalDropped { place: place.clone(), by: yes.by.clone() };
    let mut events: Vec<Event> = gone.into_iter().map(dropped).collect();
    let (place, note, decision) = (place.clone(), note.to_owned(), decision.cloned());
    events.push(Event::ApprovalGiven { place, by, approved, note, decision, basis });
    Ok(events)
}

fn nothing(why: &str) -> Refusal {
    Refusal::Nothing(why.to_owned())
}

fn limit(what: &'static str, count: usize, max: usize) -> Result<(), Refusal> {
    if count > max { Err(Refusal::Limit { what, max: max as u64 }) } else { Ok(()) }
}
