//! Wire types of durable workflows.
//!
//! Must never show a run's payloads in a list: they are in the detail alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// A plugin whose live version has workflows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkflowView {
    /// The plugin.
    pub plugin: String,
    /// The version new runs begin with.
    pub version: String,
}

/// A run that is to be begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartRun {
    /// Of which plugin.
    pub plugin: String,
    /// Which of its workflows; the one of the plugin's own name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// With what; `null` when absent.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub input: Value,
    /// Words by which it is found: at most 16.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// The same key is the same run, for as long as it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunView {
    /// Its id.
    pub id: String,
    /// Of which plugin.
    pub plugin: String,
    /// The version it is pinned to.
    pub version: String,
    /// Which workflow.
    pub workflow: String,
    /// `running`, `waiting`, `paused`, `stuck`, `completed`, `failed`, `cancelled`, `terminated` or `continued`; in a list of all
    /// runs also `damaged`, of one whose record does not open: nothing but its id is known.
    pub status: String,
    /// Who began it.
    pub by: String,
    /// The run whose child it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// When it began.
    pub started_at: String,
    /// When something last happened.
    pub changed_at: String,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// How many events its history has.
    pub events_count: u64,
    /// By what it is found.
    pub attributes: BTreeMap<String, String>,
    /// Why it failed, or is stuck.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The run it went on as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continued_as: Option<String>,
}

/// A run with what it was given, what it waits for and what happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunDetail {
    /// The run.
    #[serde(flatten)]
    pub run: RunView,
    /// With what it was begun.
    #[schema(value_type = Object)]
    pub input: Value,
    /// What it came to; `null` unless it completed.
    #[schema(value_type = Object)]
    pub output: Value,
    /// What it waits for.
    pub waits: Vec<WaitView>,
    /// All that happened, oldest first.
    pub timeline: Vec<TimelineEntry>,
}

/// Something that a run waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WaitView {
    /// Where in its code.
    pub place: String,
    /// `sleep`, `signal`, `approval`, `child-end`, or a `step` that is tried again.
    pub what: String,
    /// Its name.
    pub name: String,
    /// Until when at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// What people are asked, for an approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
}

/// Something that happened in a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TimelineEntry {
    /// When.
    pub at: String,
    /// What: `step-done`, `signal-received`, ...
    pub event: String,
    /// Where in its code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// The name it goes by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Everything about it.
    #[schema(value_type = Object)]
    pub details: Value,
}

/// A signal to a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalRun {
    /// The signal's name.
    pub name: String,
    /// What it carries; `null` when absent.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub payload: Value,
    /// The same key is the same signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// What somebody decides about what a run asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DecideRun {
    /// The approval's name.
    pub name: String,
    /// Whether it is agreed to.
    pub approved: bool,
    /// Why.
    #[serde(default)]
    pub note: String,
}

/// Why a run is terminated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TerminateRun {
    /// For whoever looks at it later.
    #[serde(default)]
    pub reason: String,
}

/// From where a run is done again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryRun {
    /// A place of its timeline; without, a stuck run goes on where it is.
    /// A run that failed has cancelled its children: done again from after where one was begun, it is told so of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// With which version a run goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MigrateRun {
    /// A published version of its plugin; the live one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// What a run published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QueryView {
    /// Under which name.
    pub name: String,
    /// What.
    #[schema(value_type = Object)]
    pub value: Value,
}
