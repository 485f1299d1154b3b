//! Runs of the tenant's workflows (`ringfence:plugin/runs`): begun, signalled, cancelled and looked at by plugins, each
//! workflow granted by name.
//!
//! Must never say that something was done before the host did.

use std::fmt;
use std::time::Duration;

use crate::bindings::ringfence::plugin::runs;
use crate::{Call, FromHost, Result};

/// Begins runs and does something to them. A workflow names it for the work of its steps.
#[derive(Debug)]
pub struct Runs(());

/// How a run is begun; [`Beginning::once`] for whatever may be handed over twice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Beginning {
    workflow: Option<String>,
    idempotency_key: Option<String>,
    attributes: Vec<(String, String)>,
}

/// A run that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// Its id.
    pub run: String,
    /// Whether it was begun now, and not before under the same key.
    pub is_new: bool,
}

/// What a run is doing, or how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunState {
    /// It has something to do.
    Running,
    /// It waits for a time, a signal, another run or people.
    Waiting,
    /// Somebody paused it.
    Paused,
    /// Somebody has to mend it; why.
    Stuck(String),
    /// It ended with a result, JSON.
    Completed(String),
    /// It ended with an error.
    Failed(String),
    /// It was cancelled.
    Cancelled(String),
    /// It was stopped.
    Terminated(String),
}

/// How a run stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenRun {
    /// Its id; where it went on as another, that of the newest.
    pub run: String,
    /// Of which plugin.
    pub plugin: String,
    /// Of which workflow.
    pub workflow: String,
    /// Of which version.
    pub version: String,
    /// What it is doing.
    pub state: RunState,
    /// By what it is found.
    pub attributes: Vec<(String, String)>,
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunError {
    /// The workflow is not granted, or policy forbids it.
    Denied(String),
    /// There is no such run, or none of a workflow that is granted.
    Unknown,
    /// Nothing is deployed that has the workflow.
    NoWorkflow(String),
    /// Under the key a run was begun with another input.
    OtherInput,
    /// The run has ended.
    Ended,
    /// Something is too large or too much.
    OverLimit(String),
    /// Something is malformed, or it is asked outside of a step's work.
    Invalid(String),
    /// Not now; later, at the earliest after this.
    Busy(Duration),
    /// The host could not do it just now.
    Failed(String),
}

impl Beginning {
    /// Of the workflow that has the plugin's own name, as often as it is asked for.
    pub fn usual() -> Self {
        Self::default()
    }

    /// The same, and once under this key.
    pub fn once(key: impl Into<String>) -> Self {
        Self { idempotency_key: Some(key.into()), ..Self::default() }
    }

    /// Of this workflow.
    pub fn of(mut self, workflow: impl Into<String>) -> Self {
        self.workflow = Some(workflow.into());
        self
    }

    /// Found by this too.
    pub fn found_by(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.push((name.into(), value.into()));
        self
    }
}

impl RunState {
    /// Whether nothing more happens in it.
    pub fn is_ended(&self) -> bool {
        matches!(self, Self::Completed(_) | Self::Failed(_) | Self::Cancelled(_) | Self::Terminated(_))
    }

    /// What it came to, where it completed.
    #[cfg(feature = "json")]
    pub fn output<T: serde::de::DeserializeOwned>(&self) -> Result<Option<T>> {
        match self {
            Self::Completed(output) => Ok(Some(serde_json::from_str(output)?)),
            _ => Ok(None),
        }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(why) => write!(f, "not granted: {why}"),
            Self::Unknown => f.write_str("not there: the run"),
            Self::OtherInput => f.write_str("a run was begun under this key with another input"),
            Self::Ended => f.write_str("the run has ended"),
            Self::Busy(wait) => write!(f, "runs: not for {} ms", wait.as_millis()),
            Self::NoWorkflow(why) | Self::OverLimit(why) | Self::Invalid(why) | Self::Failed(why) => {
                write!(f, "runs: {why}")
            }
        }
    }
}

impl std::error::Error for RunError {}

impl FromHost for Runs {
    fn from_host(_: &mut Call) -> Result<Self> {
        Ok(Self(()))
    }
}

impl Runs {
    /// Begins a run of a plugin's workflow with JSON that is text already, and gives it once it is durable.
    pub fn begin_text(&self, plugin: &str, input: &str, beginning: Beginning) -> Result<Begun, RunError> {
        let Beginning { workflow, idempotency_key, attributes } = beginning;
        let options = runs::Options { workflow, idempotency_key, attributes };
        let runs::Begun { run, is_new } = runs::begin(plugin, input, &options).map_err(refused)?;
        Ok(Begun { run, is_new })
    }

    /// The same with a value as JSON.
    #[cfg(feature = "json")]
    pub fn begin(&self, plugin: &str, input: &impl serde::Serialize, beginning: Beginning) -> Result<Begun> {
        Ok(self.begin_text(plugin, &serde_json::to_string(input)?, beginning)?)
    }

    /// The run that a plugin began under a key: of this workflow, or of the one that has the plugin's own name.
    pub fn find(&self, plugin: &str, workflow: Option<&str>, key: &str) -> Result<String, RunError> {
        runs::find(plugin, workflow, key).map_err(refused)
    }

    /// Sends a run a signal with JSON that is text already; under a key that it knows it takes it once.
    pub fn signal_text(&self, run: &str, name: &str, payload: &str, key: Option<&str>) -> Result<(), RunError> {
        runs::signal(run, name, payload, key).map_err(refused)
    }

    /// The same with a value as JSON.
    #[cfg(feature = "json")]
    pub fn signal(&self, run: &str, name: &str, payload: &impl serde::Serialize, key: Option<&str>) -> Result<()> {
        Ok(self.signal_text(run, name, &serde_json::to_string(payload)?, key)?)
    }

    /// Asks a run to take back what it did, and end.
    pub fn cancel(&self, run: &str) -> Result<(), RunError> {
        runs::cancel(run).map_err(refused)
    }

    /// How a run stands, or the one that it went on as.
    pub fn inspect(&self, run: &str) -> Result<SeenRun, RunError> {
        let runs::Seen { run, plugin, workflow, version, state, attributes } = runs::inspect(run).map_err(refused)?;
        let state = match state {
            runs::State::Running => RunState::Running,
            runs::State::Waiting => RunState::Waiting,
            runs::State::Paused => RunState::Paused,
            runs::State::Stuck(why) => RunState::Stuck(why),
            runs::State::Completed(output) => RunState::Completed(output),
            runs::State::Failed(why) => RunState::Failed(why),
            runs::State::Cancelled(why) => RunState::Cancelled(why),
            runs::State::Terminated(why) => RunState::Terminated(why),
        };
        Ok(SeenRun { run, plugin, workflow, version, state, attributes })
    }
}

fn refused(error: runs::Error) -> RunError {
    match error {
        runs::Error::Denied(why) => RunError::Denied(why),
        runs::Error::Unknown => RunError::Unknown,
        runs::Error::NoWorkflow(why) => RunError::NoWorkflow(why),
        runs::Error::OtherInput => RunError::OtherInput,
        runs::Error::Ended => RunError::Ended,
        runs::Error::OverLimit(why) => RunError::OverLimit(why),
        runs::Error::Invalid(why) => RunError::Invalid(why),
        runs::Error::Busy(wait_ms) => RunError::Busy(Duration::from_millis(wait_ms)),
        runs::Error::Other(why) => RunError::Failed(why),
    }
}
