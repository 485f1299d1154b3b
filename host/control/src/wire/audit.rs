//! The wire types of the audit log: what is asked of it and what it answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How far a log is anchored outside the host, with what shows it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AnchorView {
    /// `L0` signed by the host, evidence against everyone who has not its key; `L2` a mirror elsewhere has its head; `L3` an
    /// independent witness signed for it. `L1`, an older head that its owner kept, only the owner can know.
    pub level: String,
    /// The log's checkpoint that the host committed to; absent before the first round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// Salt of the commitment, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salt: Option<String>,
    /// That the commitment is in the log of logs (C2SP tlog-proof), with the witnesses' cosignatures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// Key of the log of logs (C2SP vkey).
    pub heads_vkey: String,
    /// Names of the witnesses that signed.
    pub witnesses: Vec<String>,
}

/// That one size of a log is the beginning of a later one.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ConsistencyView {
    /// The log.
    pub origin: String,
    /// The earlier size.
    pub old: u64,
    /// The later size.
    pub new: u64,
    /// RFC 6962 consistency proof, base64.
    pub path: Vec<String>,
}

/// One entry of a trail.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TrailEvent {
    /// Position.
    pub seq: u64,
    /// The envelope, exactly the bytes that are hashed.
    pub envelope: String,
    /// The event as OCSF 1.8, without what the caller's role may not see.
    #[schema(value_type = Object)]
    pub body: serde_json::Value,
    /// Salt of the body's commitment, hexadecimal; absent when something was taken out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salt: Option<String>,
    /// What was taken out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redacted: Vec<String>,
    /// What the event says of its subject, opened; absent without a subject, for an erased one, and for other roles than
    /// tenant-admins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub personal: Option<serde_json::Value>,
}

/// `GET /audit/trails/{tenant}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Trail {
    /// The entries that fit, oldest first.
    pub events: Vec<TrailEvent>,
    /// Entries looked at for it.
    pub scanned_count: u64,
    /// Where the next page begins; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Entries before this place were deleted after their retention; `GET /audit/retention` has the final head over them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_before: Option<u64>,
    /// The log's signed head, which every entry can be proven against.
    pub checkpoint: String,
    /// Key to check with (C2SP vkey).
    pub vkey: String,
}

/// An event of a tenant's own application.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewEvent {
    /// Its code: letters, digits, `.`, `_`, `-`, at most 64; not one of the host's own, such as `TEN-001`.
    pub code: String,
    /// What happened, in words; at most 4 KiB.
    pub message: String,
    /// On what, in the application's words; at most 256 bytes.
    #[serde(default)]
    pub resource: Option<String>,
    /// OCSF class; only 6003 (API Activity) is an application's to use, and what it is when absent.
    #[serde(default)]
    pub class_uid: Option<u32>,
    /// The rest; trimmed above 16 KiB, refused above 64 KiB.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub data: serde_json::Value,
    /// The person whom `message` and `data` are about, as the tenant's plugins name him: both are then sealed under that
    /// person's key, and erasing the person makes them unreadable.
    #[serde(default)]
    pub subject: Option<String>,
}

/// Where an event stands.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EventRecorded {
    /// The log.
    pub log: String,
    /// The entry's place.
    pub seq: u64,
    /// RFC 6962 leaf hash of its envelope, hexadecimal.
    pub leaf_hash: String,
    /// That it is in the log (C2SP tlog-proof), with `wait=published`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
}

/// Something that went against a rule, counted: the same cause is one row.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ViolationView {
    /// Stable name of the cause.
    pub id: String,
    /// `isolation`, `denied`, `refused`, `check` (one of the tenant's own fails) or `overdue` (what was to be done about the
    /// violation in `resource` is not).
    pub kind: String,
    /// `critical`, `high`, `medium` or `low`.
    pub severity: String,
    /// The event's code.
    pub code: String,
    /// Who.
    pub actor: String,
    /// What was tried.
    pub operation: String,
    /// On what.
    pub resource: String,
    /// RFC 3339, UTC.
    pub first_seen: String,
    /// RFC 3339, UTC.
    pub last_seen: String,
    /// How often.
    pub count: u64,
    /// Whether the check passes since.
    #[serde(default)]
    pub over: bool,
    /// Places of the newest entries about it, 10 at most.
    pub evidence: Vec<u64>,
    /// What is done about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remediation: Option<super::RemediationView>,
}

/// `GET /audit/violations`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Violations {
    /// One row a cause, the latest first.
    pub items: Vec<ViolationView>,
    /// First entry looked at.
    pub from_seq: u64,
    /// The entry after the last looked at.
    pub as_of_seq: u64,
}

/// `GET /audit/analytics`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Analytics {
    /// What was counted.
    pub metric: String,
    /// By what.
    pub group: String,
    /// The groups, the largest first, or in order of time.
    pub series: Vec<AnalyticsRow>,
    /// Entries counted in groups that are not shown.
    pub other_count: u64,
    /// First entry looked at.
    pub from_seq: u64,
    /// The entry after the last looked at.
    pub as_of_seq: u64,
}

/// One group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AnalyticsRow {
    /// Its name.
    pub key: String,
    /// Entries in it.
    pub count: u64,
}

/// What evidence is asked for.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewEvidence {
    /// First entry; 0 when absent.
    #[serde(default)]
    pub from_seq: Option<u64>,
    /// The entry after the last; the end when absent.
    #[serde(default)]
    pub to_seq: Option<u64>,
    /// Which entries, by the same words as a trail: `from`, `to`, `class`, `code`, `actor`, `resource`, `outcome`. With any,
    /// the package is filtered and cannot show that none is missing.
    #[serde(default)]
    pub query: BTreeMap<String, String>,
    /// Instead of all: so many at random, by a seed that is in the manifest.
    #[serde(default)]
    pub sample_count: Option<u64>,
    /// The seed, hexadecimal; random when absent.
    #[serde(default)]
    pub sample_seed: Option<String>,
    /// `jsonl` (always there), `csv` and `parquet`.
    #[serde(default)]
    pub formats: Vec<String>,
}

/// A package of evidence.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EvidenceView {
    /// Its id.
    pub id: String,
    /// Where it is fetched, below this host's address.
    pub url: String,
    /// SHA-256 of it, hexadecimal.
    pub sha256: String,
    /// Its length.
    pub bytes: u64,
    /// Entries in it.
    pub entries_count: u64,
    /// Whether no entry is missing between its ends.
    pub complete: bool,
    /// Whether there were more entries than a package holds; ask for the rest with `from_seq`.
    pub cut: bool,
    /// The signed head that its proofs lead to.
    pub checkpoint: String,
}
