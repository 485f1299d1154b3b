//! What a run's history is made of. Appended, never changed; the whole state of a run is the fold of its events.
//!
//! INVARIANT: what is written here is read for years: a field may be added with a default, never renamed or given another
//! meaning.

use std::collections::BTreeMap;

use ringfence_capabilities::Trail;
use ringfence_core::workflow::{Place, Question, StepKind};
use ringfence_core::{PluginName, PrincipalId, RunId};
use semver::Version;
use serde::{Deserialize, Serialize};

/// An event and when it happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Unix time, milliseconds.
    pub at_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// How a run began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Of which plugin.
    pub plugin: PluginName,
    /// Which version of it.
    pub version: Version,
    /// Which workflow.
    pub workflow: String,
    /// With what, JSON.
    pub input: String,
    /// By whom.
    pub by: PrincipalId,
    /// The run whose child it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<RunId>,
    /// How deep below the first.
    #[serde(default)]
    pub depth: u32,
    /// The first of all that it descends from; none for a run that is the first itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<RunId>,
    /// The first of the runs for which it goes on; none for one that goes on for nobody, or of which that was not kept yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<RunId>,
    /// By what it is found.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// From what the dice of its code come, hex; its children's too, each with its id. Shown to nobody.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dice: String,
    /// Keys of signals that runs took which it goes on for: those count no more. Shown to nobody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signal_keys: Vec<String>,
    /// What led to it, where a plugin began it or the first that it descends from.
    #[serde(default, skip_serializing_if = "Trail::is_empty")]
    pub led_by: Trail,
}

impl Started {
    /// Who began it, or on whose behalf a plugin did.
    pub fn starter(&self) -> &PrincipalId {
        self.led_by.began_by.as_ref().unwrap_or(&self.by)
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "ending")]
pub enum Ending {
    /// With a result.
    Completed {
        /// JSON.
        output: String,
    },
    /// With an error.
    Failed {
        /// Stable slug: `workflow-failed`, or the limit that was reached.
        code: String,
        /// In words.
        message: String,
    },
    /// It was cancelled, and its compensations are through, as far as its code could make them.
    Cancelled {
        /// What its code said at the end.
        message: String,
    },
    /// It was stopped where it stood.
    Terminated {
        /// By whom.
        by: PrincipalId,
        /// Why.
        reason: String,
    },
    /// It goes on as another.
    Continued {
        /// Which.
        run: RunId,
    },
}

/// Something that was learned at a place and is the same at every replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    /// The time, Unix milliseconds.
    Now(u64),
    /// A random number.
    Random(u64),
    /// A name nobody else has.
    NewId(String),
}

/// What can be said of who gave a yes while he is away, from little to much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// Nothing: a certificate or an identity provider elsewhere speaks for him, or he is gone.
    #[default]
    Elsewhere,
    /// That he is known here. The policy does not allow it him, or reads more of his session than is known without one.
    Known,
    /// That the policy allows it him.
    Allowed,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
#[expect(missing_docs, reason = "the fields are the words of the variants")]
pub enum Event {
    /// It began.
    Started(Box<Started>),
    /// A step is over: with a result, or failed for good.
    StepDone { place: Place, kind: StepKind, name: String, attempt: u32, result: Result<String, String> },
    /// An attempt of a step begins. Written where the end of the host has cut this run before, so that what brings the host
    /// down each time is counted; elsewhere an attempt is written down when it is over.
    StepBegun { place: Place, kind: StepKind, name: String, attempt: u32 },
    /// An attempt of a step failed, and there will be another.
    StepFailed { place: Place, kind: StepKind, name: String, attempt: u32, message: String, again_at_ms: u64 },
    /// It began to sleep.
    SleepBegun { place: Place, name: String, until_ms: u64 },
    /// The time of a wait ran out: a sleep is over, a signal or a decision did not come.
    TimeOver { place: Place },
    /// It waits for a signal.
    SignalAwaited { place: Place, name: String, until_ms: Option<u64> },
    /// It took a signal, by its number among those received.
    SignalTaken { place: Place, name: String, number: usize },
    /// It waits for people.
    ApprovalAsked { place: Place, name: String, question: Question, until_ms: Option<u64> },
    /// Somebody decided.
    ApprovalGiven {
        place: Place,
        by: PrincipalId,
        approved: bool,
        note: String,
        decision: Option<String>,
        #[serde(default)]
        basis: Basis,
    },
    /// Somebody's yes does not count any more: he was removed, or may not agree any more.
    ApprovalDropped { place: Place, by: PrincipalId },
    /// It began another run.
    ChildBegun { place: Place, workflow: String, run: RunId },
    /// It waits for another run.
    ChildAwaited { place: Place, run: RunId },
    /// That run ended.
    ChildEnded { place: Place, run: RunId, result: Result<String, String> },
    /// It forked.
    Forked { place: Place, branches_count: u32 },
    /// It was told something.
    Told { place: Place, told: Told },
    /// It answers queries with this from here on.
    Published { place: Place, name: String, value: String },
    /// It is found by this from here on.
    AttributeSet { place: Place, name: String, value: String },
    /// What it asked for was not begun, because the run was cancelled.
    Refused { place: Place, what: String, name: String },
    /// Somebody sent it a signal.
    SignalReceived { name: String, payload: String, key: Option<String>, by: PrincipalId },
    /// Somebody cancelled it.
    CancelAsked { by: PrincipalId },
    /// Somebody paused it.
    Paused { by: PrincipalId },
    /// Somebody resumed it.
    Resumed { by: PrincipalId },
    /// What happened from a place on was taken out of its state, so that it is done again.
    Rewound { to: Place, by: PrincipalId },
    /// It goes on after it was stuck.
    Retried { by: PrincipalId },
    /// It goes on with another version of its plugin.
    Migrated { version: Version, by: PrincipalId },
    /// It cannot go on by itself: somebody has to mend the code, migrate, rewind or terminate it.
    Stuck { code: String, message: String },
    /// It ended.
    Ended(Ending),
}

impl Event {
    /// The word for it, for timelines and the audit log.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Started(_) => "started",
            Self::StepDone { .. } => "step-done",
            Self::StepBegun { .. } => "step-begun",
            Self::StepFailed { .. } => "step-failed",
            Self::SleepBegun { .. } => "sleep-begun",
            Self::TimeOver { .. } => "time-over",
            Self::SignalAwaited { .. } => "signal-awaited",
            Self::SignalTaken { .. } => "signal-taken",
            Self::ApprovalAsked { .. } => "approval-asked",
            Self::ApprovalGiven { .. } => "approval-given",
            Self::ApprovalDropped { .. } => "approval-dropped",
            Self::ChildBegun { .. } => "child-begun",
            Self::ChildAwaited { .. } => "child-awaited",
            Self::ChildEnded { .. } => "child-ended",
            Self::Forked { .. } => "forked",
            Self::Told { .. } => "told",
            Self::Published { .. } => "published",
            Self::AttributeSet { .. } => "attribute-set",
            Self::Refused { .. } => "refused",
            Self::SignalReceived { .. } => "signal-received",
            Self::CancelAsked { .. } => "cancel-asked",
            Self::Paused { .. } => "paused",
            Self::Resumed { .. } => "resumed",
            Self::Rewound { .. } => "rewound",
            Self::Retried { .. } => "retried",
            Self::Migrated { .. } => "migrated",
            Self::Stuck { .. } => "stuck",
            Self::Ended(_) => "ended",
        }
    }

    /// Whether it carries nothing of a guest's or a caller's but words of bounded length, so that it may be written when the
    /// tenant's storage is full: that a run ends, is stopped or goes on, or that an attempt failed.
    pub const fn is_of_the_host(&self) -> bool {
        matches!(
            self,
            Self::Ended(_)
                | Self::Stuck { .. }
                | Self::CancelAsked { .. }
                | Self::Paused { .. }
                | Self::Resumed { .. }
                | Self::Retried { .. }
                | Self::Rewound { .. }
                | Self::StepFailed { .. }
                | Self::StepDone { result: Err(_), .. }
        )
    }

    /// The place in the code it belongs to.
    pub const fn place(&self) -> Option<&Place> {
        match self {
            Self::StepDone { place, .. }
            | Self::StepBegun { place, .. }
            | Self::StepFailed { place, .. }
            | Self::SleepBegun { place, .. }
            | Self::TimeOver { place }
            | Self::SignalAwaited { place, .. }
            | Self::SignalTaken { place, .. }
            | Self::ApprovalAsked { place, .. }
            | Self::ApprovalGiven { place, .. }
            | Self::ApprovalDropped { place, .. }
            | Self::ChildBegun { place, .. }
            | Self::ChildAwaited { place, .. }
            | Self::ChildEnded { place, .. }
            | Self::Forked { place, .. }
            | Self::Told { place, .. }
            | Self::Published { place, .. }
            | Self::AttributeSet { place, .. }
            | Self::Refused { place, .. } => Some(place),
            Self::Rewound { to, .. } => Some(to),
            _ => None,
        }
    }

    /// The name it goes by: of a step, a signal, a child's workflow.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::StepDone { name, .. }
            | Self::StepBegun { name, .. }
            | Self::StepFailed { name, .. }
            | Self::SleepBegun { name, .. }
            | Self::SignalAwaited { name, .. }
            | Self::SignalTaken { name, .. }
            | Self::ApprovalAsked { name, .. }
            | Self::Published { name, .. }
            | Self::AttributeSet { name, .. }
            | Self::Refused { name, .. }
            | Self::SignalReceived { name, .. } => Some(name),
            Self::ChildBegun { workflow, .. } => Some(workflow),
            _ => None,
        }
    }

    /// What the audit log says of it: word, place and name, never a payload.
    pub fn in_words(&self) -> String {
        let place = self.place().map(|place| format!(" {place}")).unwrap_or_default();
        let name = self.name().map(|name| format!(" {name}")).unwrap_or_default();
        format!("{}{place}{name}", self.word())
    }
}
