//! The wire types of policies: texts and versions, what a candidate would do, approvals, roles held for a while.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The tenant's policy.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PolicyView {
    /// Cedar text.
    pub text: String,
    /// Counts up with every change; the `ETag`.
    pub version: u64,
}

/// What becomes of a policy text that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyMode {
    /// It is reviewed, and nothing is changed.
    Draft,
    /// It is asked beside the policy in force, and never decides.
    Shadow,
    /// It is in force with the next decision.
    #[default]
    Active,
}

/// `PUT /tenants/{t}/policy`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyText {
    /// Cedar text.
    pub text: String,
    /// `active` when absent.
    #[serde(default)]
    pub mode: PolicyMode,
    /// Why, for those who read the versions; at most 500 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// `POST /tenants/{t}/policy/rollback`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyRollback {
    /// The version whose text comes back; the one before when absent.
    #[serde(default)]
    pub version: Option<u64>,
}

/// What a policy text that was sent became.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PolicyOutcome {
    /// `draft`, `shadow`, `active` or `pending`: waits for another tenant-admin.
    pub state: String,
    /// The version in force now.
    pub version: u64,
    /// What is known of the text.
    pub review: ReviewView,
    /// Why another must allow it, when that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub four_eyes: Option<String>,
    /// What waits to be allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalView>,
}

/// What is known of a policy text before it is in force.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ReviewView {
    /// Its statements.
    pub policies_count: usize,
    /// What is taken but probably not meant.
    pub findings: Vec<FindingView>,
    /// Distinct questions of late that it was asked.
    pub questions_count: u64,
    /// Distinct questions of late that found no room and were not asked.
    pub left_out_count: u64,
    /// Denied now, and the text would allow.
    pub newly_allowed: DifferencesView,
    /// Allowed now, and the text would deny.
    pub newly_denied: DifferencesView,
    /// Whether its text alone shows that it allows nothing new.
    pub only_narrows: bool,
    /// What a solver says of it: `border`, `narrows` and `permits-apply`.
    #[serde(default)]
    pub proofs: Vec<ProofView>,
}

/// Something found about a policy text.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FindingView {
    /// `allow-all`, `opens-to-anonymous`, `unreachable` or `warning`.
    pub kind: String,
    /// In words.
    pub text: String,
}

/// Questions that are answered otherwise.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct DifferencesView {
    /// Distinct ones. Of a shadow: as many as have an example.
    pub questions_count: u64,
    /// How often they were asked.
    pub askings_count: u64,
    /// Some of them.
    pub examples: Vec<AskedView>,
}

/// A question that was asked.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AskedView {
    /// Who asked.
    pub principal: String,
    /// In which role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// To do what.
    pub action: String,
    /// To what.
    pub resource: String,
}

/// A candidate in the shadow.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ShadowView {
    /// Cedar text.
    pub text: String,
    /// Decisions taken beside it since it was set, or since the host started.
    pub askings_count: u64,
    /// Denied, and the candidate would have allowed.
    pub newly_allowed: DifferencesView,
    /// Allowed, and the candidate would have denied.
    pub newly_denied: DifferencesView,
}

/// One version of a policy.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PolicyVersionView {
    /// Which.
    pub version: u64,
    /// Who brought it in force.
    pub by: String,
    /// Who allowed that, when another had to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    /// RFC 3339, UTC.
    pub at: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The version whose text it is, when it was rolled back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back_to: Option<u64>,
    /// Cedar text; only when one version is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// What a tenant says of its people and things, for its policies to read. What is not named is `internal`, for no purpose,
/// and trained in nothing. Labels are 1 to 63 of a-z, 0-9 and `-`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Labels {
    /// By id: `acme/ann`, `acme/plugin/visits`; at most 2,048, as of the others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub principals: BTreeMap<String, PrincipalLabels>,
    /// By name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub plugins: BTreeMap<String, ThingLabels>,
    /// By name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, ThingLabels>,
    /// By name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, ThingLabels>,
    /// By plugin and name: `visits/default`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub buckets: BTreeMap<String, ThingLabels>,
    /// By plugin and name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub containers: BTreeMap<String, ThingLabels>,
}

/// Labels of a person or service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PrincipalLabels {
    /// What it was trained in; at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub training: Vec<String>,
    /// What it is certified as; at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certifications: Vec<String>,
    /// What it works for; at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub purposes: Vec<String>,
    /// Roles of the tenant's own making, which its policy gives their acts; at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
}

/// Labels of a plugin, secret, field, bucket or container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ThingLabels {
    /// `internal` when absent.
    #[serde(default)]
    pub classification: Classification,
    /// What it is for; at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub purposes: Vec<String>,
}

/// How much harm it does when others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Classification {
    /// None.
    Public,
    /// Some; it stays inside.
    #[default]
    Internal,
    /// Much.
    Confidential,
    /// Most; few may see it.
    Restricted,
}

/// A tenant's labels.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LabelsView {
    /// Those in force.
    pub labels: Labels,
    /// Counts up with every change; the `ETag`.
    pub version: u64,
}

/// One version of a tenant's labels.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LabelsVersionView {
    /// Which.
    pub version: u64,
    /// Who brought it in force.
    pub by: String,
    /// Who allowed that, when another had to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    /// RFC 3339, UTC.
    pub at: String,
    /// The labels; only when one version is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
}

/// What labels that were sent became.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LabelsOutcome {
    /// `active` or `pending`: waits for another tenant-admin.
    pub state: String,
    /// The version in force now.
    pub version: u64,
    /// Distinct questions of late that were asked again under them.
    pub questions_count: u64,
    /// Distinct questions of late that found no room.
    pub left_out_count: u64,
    /// Denied before, and allowed under them.
    pub newly_allowed: DifferencesView,
    /// Allowed before, and denied under them.
    pub newly_denied: DifferencesView,
    /// Whether no statement in force reads a label, so that nothing new is allowed.
    pub only_narrows: bool,
    /// Why another must allow it, when that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub four_eyes: Option<String>,
    /// What waits, when it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalView>,
}

/// The operator's ceiling over a tenant: what its own policy cannot allow.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CeilingText {
    /// Cedar text of `forbid` statements.
    pub text: String,
}

/// `POST /tenants/{t}/elevations`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewElevation {
    /// The role to act in: `tenant-admin`, `developer`, `auditor` or `caller`.
    pub role: String,
    /// For how long from the moment it is allowed, 1 to 480.
    pub minutes: u32,
    /// Why; 1 to 500 characters.
    pub reason: String,
}

/// A role held for a while.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ElevationView {
    /// The id of the approval that it came from.
    pub id: String,
    /// Who.
    pub principal: String,
    /// In which role.
    pub role: String,
    /// Why.
    pub reason: String,
    /// Who allowed it.
    pub approved_by: String,
    /// From then, RFC 3339.
    pub at: String,
    /// Until then.
    pub until: String,
}

/// Something that one principal asked for and another must allow.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ApprovalView {
    /// `ap_...`.
    pub id: String,
    /// `policy`, `labels`, `trust` or `elevation`.
    pub kind: String,
    /// In words.
    pub wants: String,
    /// Who asked, and so cannot allow it.
    pub asked_by: String,
    /// RFC 3339, UTC.
    pub at: String,
    /// It is gone then.
    pub expires_at: String,
    /// The policy text, of a `policy`; the JSON, of `labels` and `trust`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Why, as who asked wrote beside a `policy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What was found, of a `policy` and of `labels`. Absent in the answer to who asked, which says it beside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<FoundView>,
}

/// What was found of a policy or of labels when they were asked for, for who is to allow them.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FoundView {
    /// Why another must allow it.
    pub four_eyes: String,
    /// Denied then, and it would allow.
    pub newly_allowed: DifferencesView,
    /// Allowed then, and it would deny.
    pub newly_denied: DifferencesView,
    /// What is taken but probably not meant; nothing of labels.
    pub findings: Vec<FindingView>,
    /// What a solver said; nothing of labels.
    pub proofs: Vec<ProofView>,
}

/// Whether a proof holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProofVerdict {
    /// For every request that can be.
    Proved,
    /// There is a request for which it does not hold; see the counterexample.
    Disproved,
    /// Nobody asked; see the reason. Says nothing.
    NotRun,
}

/// A statement about all requests, and whether it was proved.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ProofView {
    /// `border`, `narrows` or `permits-apply`.
    #[serde(default)]
    pub name: String,
    /// What is to be proved, in words.
    pub statement: String,
    /// Whether it was.
    pub verdict: ProofVerdict,
    /// For how many kinds of request (principal, action, resource) it was asked and proved.
    pub kinds_count: usize,
    /// How long it took, microseconds.
    pub took_us: u64,
    /// Why nobody asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A request for which it does not hold; of `permits-apply`, a line for each permit that never applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counterexample: Option<String>,
}

/// `POST /tenants/{t}/policy/proof`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyProof {
    /// Cedar text to prove it of; the policy in force when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// What was proved of a policy.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ProofsView {
    /// The version in force.
    pub version: u64,
    /// What was tried.
    pub proofs: Vec<ProofView>,
}

/// A change after which a denied question would be allowed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ChangeView {
    /// `nothing`, `resume`, `device`, `elevation`, `role`, `statement`, `exception`, `removal` or `ceiling`.
    pub kind: String,
    /// What to change, in words or as the statement itself.
    pub change: String,
}
