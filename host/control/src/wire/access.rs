//! Wire types of access governance: the report of who holds and uses what, and access reviews.
//!
//! Must never carry a secret: keys are named by their ids.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Who holds what access, and what of it is used.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AccessReport {
    /// When this was asked.
    pub as_of: String,
    /// After how many days without use something counts as unused.
    pub unused_days: u32,
    /// Since when use is watched; absent when that has just begun. What happened before is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watched_since: Option<String>,
    /// How exact times of use are, in seconds.
    pub resolution_seconds: i64,
    /// Principals, each with every way in that it has.
    pub holders: Vec<HolderView>,
    /// What plugins were granted.
    pub grants: Vec<GrantUseView>,
    /// Roles held for a while, now.
    pub elevations: Vec<ElevationUseView>,
    /// Roles of the tenant's own making, which its labels give.
    pub labels: Vec<LabelledRoleView>,
    /// What somebody should look at.
    pub findings: Vec<AccessFinding>,
}

/// One way in: a person, an API key, or somebody known from elsewhere.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HolderView {
    /// `person`, `api-key`, or how somebody without either signed in: `federated`, `client_certificate`.
    pub kind: String,
    /// The id of the API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Who.
    pub principal: String,
    /// What he may do by default.
    pub role: String,
    /// Who gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_by: Option<String>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_at: Option<String>,
    /// The hour of the last sign-in, when one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<String>,
    /// `used`, `unused`, `new` (given within the period), or `unknown` (not watched for long enough).
    pub state: String,
    /// The smallest role that allows everything the principal did on the control plane within the period; absent when it was
    /// not watched for long enough, or the role is the smallest already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would_do: Option<String>,
    /// For tenant-admins and operators: whether there is another one who counts as a second person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub has_second_person: Option<bool>,
}

/// One capability of a plugin.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct GrantUseView {
    /// The plugin.
    pub plugin: String,
    /// The capability.
    pub capability: String,
    /// What it covers. Use is known of the capability, not of each name.
    pub scope: Vec<String>,
    /// Who granted it; absent for grants from before that was noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted_by: Option<String>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted_at: Option<String>,
    /// The hour of the last use, when one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<String>,
    /// As of a holder.
    pub state: String,
}

/// A role held for a while.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ElevationUseView {
    /// Its id, for `DELETE .../elevations/{id}`.
    pub id: String,
    /// Who.
    pub principal: String,
    /// The role.
    pub role: String,
    /// Until when.
    pub until: String,
    /// Who allowed it.
    pub approved_by: String,
    /// Whether that was another person.
    pub by_another: bool,
}

/// A role of the tenant's own making, of one principal.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LabelledRoleView {
    /// Who.
    pub principal: String,
    /// The role.
    pub role: String,
    /// Who gave it; absent when no version of the labels that is kept says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_by: Option<String>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_at: Option<String>,
    /// The hour of its holder's last sign-in, when one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<String>,
    /// As of a holder; `unknown` for plugins, which do not sign in.
    pub state: String,
    /// Whether there is such a person, key or plugin. A role waits for whoever has that name.
    pub is_somebody: bool,
}

/// Something to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccessFinding {
    /// `dormant`, `grant-unused`, `role-unused`, `self-given`, `one-hand`, `no-second-person`, `elevation-open` or `nobody`.
    pub kind: String,
    /// Whom or what it is about.
    pub subject: String,
    /// What is to be seen.
    pub detail: String,
}

/// `POST /tenants/{tenant}/access/reviews`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewReview {
    /// What to call it.
    pub title: String,
    /// Who decides, as principals of the tenant.
    pub reviewers: Vec<String>,
    /// Until when, RFC 3339.
    pub due_at: String,
    /// What becomes of items that are not decided then: `report` or `revoke`; `report` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overdue: Option<String>,
    /// What is reviewed: `people`, `keys`, `grants`, `elevations`, `labels` (roles by label); all of it when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub of: Vec<String>,
    /// Only those of these roles of the host; all when absent. Grants have none, and roles by label are others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Only what counts as `unused` or `unknown` after so many days without use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused_days: Option<u32>,
}

/// An access review.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AccessReviewView {
    /// Its id.
    pub id: String,
    /// What it is called.
    pub title: String,
    /// `open`, `overdue`, `complete` or `closed`.
    pub state: String,
    /// Who opened it.
    pub opened_by: String,
    /// When.
    pub opened_at: String,
    /// Until when it is to be decided.
    pub due_at: String,
    /// What becomes of the rest then.
    pub overdue: String,
    /// Who decides.
    pub reviewers: Vec<String>,
    /// How many items there are.
    pub items_count: usize,
    /// How many are to stay.
    pub kept_count: usize,
    /// How many went.
    pub revoked_count: usize,
    /// How many wait for a tenant-admin.
    pub escalated_count: usize,
    /// How many wait for a reviewer.
    pub open_count: usize,
    /// When it was closed, and by whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_at: Option<String>,
    /// Who closed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_by: Option<String>,
    /// When it is opened: what of it cannot be decided as it stands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// One item of an access review.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ReviewItemView {
    /// Its number in the review.
    pub number: u64,
    /// `person`, `api-key`, `grant`, `elevation` or `label`.
    pub kind: String,
    /// What it is, in words: `acme/ann as developer`, `hello may use http https://api.example.com`, `acme/ann has the role
    /// release-manager by label`.
    pub what: String,
    /// Whose access it is; absent for a plugin's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// Who gave it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_by: Option<String>,
    /// The hour of its last use, as known when the review was opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<String>,
    /// `used`, `unused`, `new` or `unknown`, as of then.
    pub state: String,
    /// What was decided, oldest first.
    pub decisions: Vec<ReviewDecision>,
}

/// One decision about an item.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ReviewDecision {
    /// `keep`, `revoke` or `escalate`.
    pub choice: String,
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
    /// When.
    pub at: String,
    /// The request, as the audit log names it; absent for what the host did on the last day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Of a revocation: whether it is done.
    pub done: bool,
}

/// An access review with its items.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ReviewDetail {
    /// The review.
    pub review: AccessReviewView,
    /// Its items.
    pub items: Vec<ReviewItemView>,
}

/// `PUT /tenants/{tenant}/access/reviews/{review}/items/{item}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DecideItem {
    /// `keep`, `revoke` or `escalate`.
    pub choice: String,
    /// Why.
    pub reason: String,
}

/// The result of an access review, to be kept elsewhere.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ReviewExport {
    /// When it was taken.
    pub exported_at: String,
    /// The tenant.
    pub tenant: String,
    /// The review.
    pub review: AccessReviewView,
    /// Its items with every decision.
    pub items: Vec<ReviewItemView>,
    /// The name of the audit log that has each decision.
    pub log: String,
    /// Its signed head when this was taken.
    pub checkpoint: String,
}
