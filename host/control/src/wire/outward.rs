//! The wire types of what leaves the host: streams of the audit log, channels of alerts, feeds of intelligence.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A destination to make. The audit log goes to `webhook`, `syslog` and `otlp`, alerts to `webhook` and `email`.
#[derive(Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NewDestination {
    /// What to call it.
    pub name: String,
    /// `webhook`, `syslog`, `otlp` or `email`.
    pub kind: String,
    /// Where, for a webhook and otlp: `https://host/path`. Never an address that a guest may not reach.
    pub url: Option<String>,
    /// Where, for syslog over TLS (RFC 5425).
    pub host: Option<String>,
    /// For syslog; 6514 when absent.
    pub port: Option<u16>,
    /// For syslog: certificates in PEM to trust instead of the machine's roots.
    pub roots: Option<String>,
    /// For email; 8 at most.
    pub recipients: Vec<String>,
    /// An `Authorization` header for a webhook or otlp; never shown again.
    pub authorization: Option<String>,
    /// With whose eyes: `auditor` (when absent), or `tenant-admin` (of the host's log `operator`) for addresses too.
    pub sees: Option<String>,
    /// The first entry to carry; the next one to come when absent.
    pub from_seq: Option<u64>,
}

/// What to change of a destination; what is absent stays. One that was paused goes on where it stopped.
#[derive(Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChangeDestination {
    /// Where, for a webhook and otlp. With another place goes the `authorization` that was given for the one before.
    pub url: Option<String>,
    /// Where, for syslog.
    pub host: Option<String>,
    /// For syslog.
    pub port: Option<u16>,
    /// For syslog.
    pub roots: Option<String>,
    /// For email.
    pub recipients: Option<Vec<String>>,
    /// An `Authorization` header; never shown again.
    pub authorization: Option<String>,
    /// With whose eyes.
    pub sees: Option<String>,
    /// `on` or `off`; what comes while it is off is carried later.
    pub switch: Option<String>,
}

/// A destination, and how far it has come. Delivery is at least once, in the order of the log.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DestinationView {
    /// Its name.
    pub name: String,
    /// `webhook`, `syslog`, `otlp` or `email`.
    pub kind: String,
    /// Where, in one line.
    pub to: String,
    /// With whose eyes.
    pub sees: String,
    /// `on`, `off`, `failing` (it is tried again) or `paused` (the host gave up until it is changed).
    pub state: String,
    /// The next entry of the log to carry.
    pub next_seq: u64,
    /// Entries of the log that are not carried yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind_count: Option<u64>,
    /// Entries, or findings, that arrived.
    pub delivered_count: u64,
    /// Entries that the receiver took and then said it does not keep (OTLP).
    pub rejected_count: u64,
    /// When something arrived last, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered_at: Option<String>,
    /// Failures in a row.
    pub failures: u32,
    /// What the last of them was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When it is tried again, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try_at: Option<String>,
    /// When the host gave up, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_at: Option<String>,
    /// Who made it.
    pub made_by: String,
    /// When, RFC 3339.
    pub made_at: String,
}

/// A destination that was made.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct MadeDestination {
    /// It.
    pub destination: DestinationView,
    /// What a webhook's receiver checks signatures with (Standard Webhooks); shown this once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// A new secret of a webhook; the one before is over.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct DestinationSecret {
    /// Shown this once.
    pub secret: String,
}

/// What came of a trial.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TestedDestination {
    /// Whether it arrived.
    pub delivered: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A feed to write: a collection of a TAXII 2.1 server.
#[derive(Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PutFeed {
    /// The API root: `https://host/api`.
    pub url: String,
    /// The collection's id or alias.
    pub collection: String,
    /// An `Authorization` header; never shown again. One that was given before goes when this is absent.
    pub authorization: Option<String>,
    /// How often it is asked, in seconds: 60 to 86400, 300 when absent.
    pub every_seconds: Option<u32>,
    /// Confidence below which its indicators are kept and not matched, 0 to 100; 30 when absent. A source that states none is
    /// taken to mean 50. Holds for what came of it before too.
    pub confidence_min: Option<u32>,
    /// Days in which confidence halves, 1 to 3650; it stays when absent.
    pub half_life_days: Option<u32>,
}

/// A feed, and what came of it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FeedStatus {
    /// Its name.
    pub name: String,
    /// The API root.
    pub url: String,
    /// The collection.
    pub collection: String,
    /// How often it is asked, in seconds.
    pub every_seconds: u32,
    /// Confidence below which its indicators are kept and not matched.
    #[serde(default)]
    pub confidence_min: u8,
    /// Days in which confidence halves; absent where it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub half_life_days: Option<u16>,
    /// `fresh`, `stale` (it has not answered for three of its intervals) or `unknown` (it never did).
    pub freshness: String,
    /// When it answered last, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_at: Option<String>,
    /// When objects came last, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loaded_at: Option<String>,
    /// Objects that came so far.
    pub objects_count: u64,
    /// How many of them could not be read.
    #[serde(default)]
    pub refused_count: u64,
    /// The first of these on the last page that had any, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_refused: Option<String>,
    /// Of the last page: from its receipt to its indicators being in force, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_after_us: Option<u64>,
    /// Failures in a row.
    pub failures: u32,
    /// What the last of them was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Who wrote it.
    pub made_by: String,
}

/// What to assess.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AssessThreats {
    /// How far back from now, such as `24h`, `7d`; `24h` when absent.
    pub window: Option<String>,
    /// Only rules of these names; all that apply when empty.
    pub rules: Vec<String>,
}

/// What an assessment came to.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ThreatAssessment {
    /// What held in the window; kept nowhere, and nothing was held against anybody for it.
    pub findings: Vec<super::ThreatFinding>,
    /// Findings that are counted and not shown.
    pub more_count: u64,
    /// What was looked at, and what was not.
    pub coverage: AssessmentCoverage,
}

/// How far an assessment can be relied on.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AssessmentCoverage {
    /// Rules that were asked, by text and name.
    pub rules_run: Vec<String>,
    /// Indicators that were asked.
    pub indicators_count: u64,
    /// First entry of the window that was looked at.
    pub from_seq: u64,
    /// The entry after the last.
    pub to_seq: u64,
    /// Whether every entry of the window was looked at.
    pub complete: bool,
    /// What could not be seen, and what in the settings leaves a gap.
    pub blind_spots: Vec<String>,
}
