//! The wire types of a tenant's own checks, of what is done about violations, and of which host calls are on the log.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A check of a tenant's own.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutCheck {
    /// Its name.
    pub id: String,
    /// What it is about, in words; at most 200 bytes.
    #[serde(default)]
    pub title: String,
    /// What must hold, in CEL; at most 1,024 bytes. About `facts` and `log`, or, over entries, about each `entry` and `facts`.
    pub rule: String,
    /// `facts` (asked once; the usual) or `entries` (asked of each entry that fits `select`).
    #[serde(default)]
    pub over: Option<String>,
    /// Which entries, by the words of a trail: `class`, `code`, `actor`, `resource`, `outcome`; all when empty.
    #[serde(default)]
    pub select: BTreeMap<String, String>,
    /// How far back from now, such as `24h`, `7d`; `24h` when absent, 31 days at most.
    #[serde(default)]
    pub window: Option<String>,
    /// When it is run by itself: a cron expression, at least five minutes apart; only when asked to, when absent.
    #[serde(default)]
    pub schedule: Option<String>,
    /// The schedule's IANA time zone; `UTC` when absent.
    #[serde(default)]
    pub zone: Option<String>,
    /// `low`, `medium`, `high` or `critical`; `medium` when absent.
    #[serde(default)]
    pub severity: Option<String>,
    /// Controls that it is about, such as `iso27001-a.8.15`; at most 20.
    #[serde(default)]
    pub controls: Vec<String>,
    /// Only try it: nothing is kept.
    #[serde(default)]
    pub dry_run: bool,
}

/// Answer to [`PutCheck`].
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CheckWritten {
    /// The check's new version; absent after a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// What it comes to now.
    pub dry_run_result: CheckResult,
}

/// A check as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CheckView {
    /// Its name.
    pub id: String,
    /// Counts its changes, from 1.
    pub version: u64,
    /// What it is about, in words.
    pub title: String,
    /// What must hold, in CEL.
    pub rule: String,
    /// `facts` or `entries`.
    pub over: String,
    /// Which entries.
    pub select: BTreeMap<String, String>,
    /// How far back it looks, seconds.
    pub window_seconds: i64,
    /// When it is run by itself, as a cron expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// The schedule's time zone.
    pub zone: String,
    /// `low`, `medium`, `high` or `critical`.
    pub severity: String,
    /// Controls that it is about.
    pub controls: Vec<String>,
    /// Who wrote this version.
    pub by: String,
    /// When; RFC 3339, UTC.
    pub at: String,
    /// When it is run next by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<String>,
    /// What it came to last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<CheckResult>,
}

/// A check with its older versions.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CheckDetail {
    /// As it is now.
    #[serde(flatten)]
    pub check: CheckView,
    /// As it was, newest first; the last twenty.
    pub versions: Vec<CheckView>,
}

/// What a check came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckResult {
    /// The check.
    pub check: String,
    /// Its version; 0 of one that is only tried.
    pub version: u64,
    /// When; RFC 3339, UTC.
    pub at: String,
    /// `pass`, `fail` or `unknown`. Whatever cannot be said for sure is `unknown`.
    pub state: String,
    /// Why it is not a pass; empty for one.
    pub why: String,
    /// Entries looked at.
    pub looked_at_count: u64,
    /// Of these, those that fit.
    pub selected_count: u64,
    /// Of these, those that the rule does not hold for.
    pub failing_count: u64,
    /// Places of the newest of them, 10 at most.
    pub failing: Vec<u64>,
    /// First entry looked at.
    pub from_seq: u64,
    /// The entry after the last looked at.
    pub to_seq: u64,
    /// Where the finding stands in the log; absent of one that is only tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finding_seq: Option<u64>,
}

/// What is to be done about a violation.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RemediateViolation {
    /// Which, as `GET /audit/violations` names it.
    pub violation_id: String,
    /// `assign`, `start`, `add-evidence`, `resolve`, `accept`, `approve`, `refuse`, `reopen`, or `respond`.
    pub action: String,
    /// What the action needs.
    #[serde(default)]
    pub params: RemediationParams,
    /// Only say what would come of it.
    #[serde(default)]
    pub dry_run: bool,
}

/// What an action needs.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RemediationParams {
    /// `assign`: who is to see to it, a principal of the tenant.
    #[serde(default)]
    pub owner: Option<String>,
    /// `assign`: until when, RFC 3339.
    #[serde(default)]
    pub due_at: Option<String>,
    /// Why, or what was done; at most 2,000 bytes. `resolve` and `accept` need it.
    #[serde(default)]
    pub note: Option<String>,
    /// `add-evidence`, `resolve`: what shows it, such as a URL, a package's id or a place in the log; at most 500 bytes each.
    #[serde(default)]
    pub evidence: Vec<String>,
    /// `accept`: until when it may stay as it is, RFC 3339; a year at most.
    #[serde(default)]
    pub until: Option<String>,
    /// `respond`: what the host is to do, as for `POST /security/responses`.
    #[serde(default)]
    pub response: Option<super::MakeResponse>,
}

/// What is done about a violation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemediationView {
    /// The violation.
    pub violation_id: String,
    /// `open`, `in-progress`, `waiting-resolved`, `waiting-accepted`, `resolved`, `accepted`.
    pub state: String,
    /// Who sees to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Until when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<String>,
    /// Whether that is past and it is not over.
    pub overdue: bool,
    /// Until when it may stay as it is, when it is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// The last word about it.
    pub note: String,
    /// What shows it.
    pub evidence: Vec<String>,
    /// Who said last that it is over, when another must agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_by: Option<String>,
    /// Counts the acts on it.
    pub version: u64,
    /// When the last was.
    pub at: String,
    /// What the act did, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub effect: String,
    /// Until when what the host did can be taken back, when it did something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reversible_until: Option<String>,
}

/// Which host calls of a tenant's plugins are on its log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostCallSettings {
    /// By capability: `none`, `all`, or `1/N` for about one in N, drawn at random. What is not named is `none`.
    pub host_calls: BTreeMap<String, String>,
    /// Calls since the start of the host that were to be on the log and are not, because too many came.
    #[serde(default)]
    pub missed_count: u64,
}
