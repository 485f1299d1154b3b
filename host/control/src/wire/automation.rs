//! The wire types of what the product starts by itself: extension points, queues, schedules.

use ringfence_automation::queue::Rules;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

pub use ringfence_automation::hooks::{
    Binders, BindingSpec, HookAnswer, HookOutcome, Mode, OnFailure, PointSpec, Step,
};
pub use ringfence_automation::schedule::{LastRun, Missed, Overlap, ScheduleSpec};

/// An extension point of the product.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PointView {
    /// Such as `invoice.validate`.
    pub name: String,
    /// One more with every change.
    pub version: u32,
    /// What was declared.
    pub declaration: PointSpec,
    /// RFC 3339, UTC.
    pub declared_at: String,
    /// Who declared it.
    pub declared_by: String,
}

/// An extension point, and what a tenant bound to it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HookView {
    /// The point.
    #[serde(flatten)]
    pub point: PointView,
    /// In the order in which they are asked.
    pub bindings: Vec<BindingView>,
}

/// A plugin bound to an extension point.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct BindingView {
    /// The point.
    pub hook: String,
    /// The plugin.
    pub plugin: String,
    /// The version of the point under which it was bound last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point_version: Option<u32>,
    /// Lower goes first.
    pub order: i32,
    /// CEL over `payload`: when it is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// RFC 3339, UTC.
    pub bound_at: String,
    /// Who bound it.
    pub bound_by: String,
    /// When it is bound: what is to be known of its condition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Body of a call of an extension point.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CallHook {
    /// Fits the point's schema. At most 256 KiB.
    #[serde(default)]
    pub payload: Value,
}

/// Body of `PUT /tenants/{t}/queues/{name}`; what is absent is as usual.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetQueue {
    /// Who takes its messages; while there is none they only gather.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// Most messages handed over at the same time: 1 to 64, usually 4. In `_hooks` to each plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_count: Option<u32>,
    /// Attempts until a message is dead: 1 to 100, usually 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts_max: Option<u32>,
    /// Longest time that its plugin has a message, counted from when the plugin begins. Usually 120000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visibility_ms: Option<u64>,
    /// Wait after the first failed attempt; doubles, half of it drawn. Usually 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_ms: Option<u64>,
    /// Longest such wait. Usually 300000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_ms_max: Option<u64>,
    /// Most messages; more are refused. Usually 10000, at most 200000. In `_hooks` for each plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth_count_max: Option<u64>,
    /// Whether it hands over nothing for now.
    #[serde(default)]
    pub paused: bool,
}

impl SetQueue {
    /// The rules it comes to.
    pub fn rules(&self) -> Rules {
        let usual = Rules::USUAL;
        Rules {
            concurrency_count: self.concurrency_count.unwrap_or(usual.concurrency_count),
            attempts_max: self.attempts_max.unwrap_or(usual.attempts_max),
            visibility_ms: self.visibility_ms.unwrap_or(usual.visibility_ms),
            backoff_ms: self.backoff_ms.unwrap_or(usual.backoff_ms),
            backoff_ms_max: self.backoff_ms_max.unwrap_or(usual.backoff_ms_max),
            depth_count_max: self.depth_count_max.unwrap_or(usual.depth_count_max),
        }
    }
}

/// A queue.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct QueueView {
    /// Its name.
    pub name: String,
    /// Who takes its messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// How it goes about it.
    #[serde(flatten)]
    pub rules: Rules,
    /// Whether it hands over nothing for now.
    pub paused: bool,
    /// Messages in it, those handed over included.
    pub depth_count: u64,
    /// Messages handed over now.
    pub running_count: u64,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// Who made it.
    pub created_by: String,
}

/// Body of `POST /tenants/{t}/queues/{name}/messages`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMessage {
    /// JSON, at most 256 KiB.
    #[serde(default)]
    pub payload: Value,
    /// Within a day a second message under the same key is not taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Not before so many milliseconds from now.
    #[serde(default)]
    pub delay_ms: u64,
    /// 0 to 9, higher goes first; 4 when absent.
    #[serde(default = "usual_priority")]
    pub priority: u8,
    /// Messages of one group go one after another, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

fn usual_priority() -> u8 {
    4
}

/// A message that was taken.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SentMessage {
    /// Its id.
    pub id: String,
    /// Whether it was there already, under its idempotency key.
    pub is_repeat: bool,
}

/// A message that failed as often as it may.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterView {
    /// Its id.
    pub id: String,
    /// Who sent it.
    pub from: String,
    /// RFC 3339, UTC.
    pub sent_at: String,
    /// RFC 3339, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub died_at: Option<String>,
    /// Attempts.
    pub failed_count: u32,
    /// Its group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Of a notification, which lies in the queue `_hooks`: the extension point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    /// Of a notification: the plugin that was to be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// What it carries.
    pub payload: Value,
}

/// Body of `POST /tenants/{t}/queues/{name}/dead/redrive`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Redrive {
    /// Which; all when empty.
    #[serde(default)]
    pub ids: Vec<String>,
    /// Those whose error, group, sender, extension point, plugin or payload contains this; then none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// What was put back.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Redriven {
    /// How many; those for which the queue has no room stay dead.
    pub count: u64,
}

/// Body of `POST /tenants/{t}/queues/{name}/dead/discard`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Discard {
    /// Which.
    #[serde(default)]
    pub ids: Vec<String>,
    /// Those whose error, group, sender, extension point, plugin or payload contains this; then none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// All of them; then none is named.
    #[serde(default)]
    pub all: bool,
}

/// What was thrown away.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Discarded {
    /// How many.
    pub count: u64,
}

/// A schedule.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ScheduleView {
    /// Its name.
    pub name: String,
    /// As described.
    pub settings: ScheduleSpec,
    /// When it runs next, without jitter: RFC 3339, UTC. Empty while it rests.
    pub next: Vec<String>,
    /// Until when it runs nothing, because the host's clock stood there and was set back: RFC 3339, UTC. Setting or resuming
    /// it lets it run from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_until: Option<String>,
    /// Runs begun and not known to have ended.
    pub running_count: u64,
    /// Times that were not made up for, or met a run that was not over.
    pub skipped_count: u64,
    /// How the last run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastRun>,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// Who made it.
    pub created_by: String,
}
