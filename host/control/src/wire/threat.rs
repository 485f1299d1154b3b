//! The wire types of detection and response.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A finding: a rule that held, a score that was high, or an indicator that was seen.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ThreatFinding {
    /// Its id.
    pub id: String,
    /// Whose log it is about; `_platform` is the host's.
    pub log: String,
    /// Who owns the rule: `ringfence`, `operator`, a tenant, or `intelligence`.
    pub rule_owner: String,
    /// The rule.
    pub rule: String,
    /// Which text of it; none where no text held.
    #[serde(default)]
    pub rule_version: Option<u64>,
    /// `sha256:...` of that text.
    #[serde(default)]
    pub rule_digest: Option<String>,
    /// What it says.
    pub title: String,
    /// `informational`, `low`, `medium`, `high`, `critical`.
    pub level: String,
    /// ATT&CK ids.
    pub attack: Vec<String>,
    /// Of which version of ATT&CK.
    pub attack_version: String,
    /// What the events have in common: field and value.
    pub group: Vec<Vec<String>>,
    /// Who acted in the first of them.
    pub actor: Option<String>,
    /// On what.
    pub resource: Option<String>,
    /// From where.
    pub source: Option<String>,
    /// Places in the audit log.
    pub evidence: Vec<u64>,
    /// How often it held.
    pub count: u64,
    /// The first event, RFC 3339.
    pub first_at: String,
    /// The last event, RFC 3339.
    pub last_at: String,
    /// When it was found, RFC 3339.
    pub found_at: String,
    /// Risk points, 1 to 10.
    pub risk_points: u8,
    /// What they are made of.
    pub risk: Vec<RiskContribution>,
    /// The drill it comes of; none for a real one.
    pub drill: Option<String>,
    /// The response that was made by itself.
    pub response: Option<String>,
}

/// One reason of a score.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RiskContribution {
    /// Its name.
    pub name: String,
    /// What it adds.
    pub points: u8,
    /// Why, or why nothing.
    pub why: String,
}

/// A text of rules.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ThreatRules {
    /// Who owns it: `ringfence`, `operator`, or the tenant.
    pub owner: String,
    /// Its name.
    pub name: String,
    /// Which text of that name, from 1; 0 for one that comes with the host.
    #[serde(default)]
    pub version: u64,
    /// `sha256:...` of the text.
    #[serde(default)]
    pub digest: String,
    /// Titles of the rules in it.
    pub titles: Vec<String>,
    /// Level of the first.
    pub level: String,
    /// ATT&CK ids of all of them.
    pub attack: Vec<String>,
    /// The response that the first suggests.
    pub response: Option<String>,
    /// The text, Sigma YAML.
    pub text: String,
}

/// A text that was once written under a name.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ThreatRulesVersion {
    /// Which one, from 1.
    pub version: u64,
    /// `sha256:...` of the text.
    pub digest: String,
    /// By whom.
    pub by: String,
    /// When, RFC 3339.
    pub at: String,
    /// The text, Sigma YAML.
    pub text: String,
}

/// Body of `PUT /security/rules/{name}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutThreatRules {
    /// Sigma YAML, one or more documents.
    #[serde(default)]
    pub text: String,
}

/// Body of `POST /security/rules/try`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TryThreatRules {
    /// Sigma YAML.
    #[serde(default)]
    pub text: String,
    /// Bodies of audit entries, oldest first; at most 1000.
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    pub trace: Vec<serde_json::Value>,
}

/// Answer of `POST /security/rules/try`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TriedThreatRules {
    /// For each event of the trace, the rules that hold at it.
    pub held: Vec<Vec<String>>,
}

/// How detection acts for its owner.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ThreatSettings {
    /// Rules whose suggested response is made by itself; `*` for every rule. None at first.
    pub automatic: Vec<String>,
    /// `refused` (at first) or `allowed`: whether calls without a session may be refused by their address.
    pub block_source: Option<String>,
    /// Names of secrets, keys, files and objects that are bait.
    pub canaries: Vec<String>,
    /// When the tenant works: `{"time_zone", "from_hour", "to_hour", "days"}`; Monday is 1.
    #[schema(value_type = Option<Object>)]
    pub working_hours: Option<serde_json::Value>,
    /// What is done about personal data that plugins send out or log, `{"detectors", "exempt"}`: each of `card`, `nhs-number`,
    /// `email`, `phone` and `uninspected` is `off`, `report` or `refuse`; hosts are exempt by detector. Of tenants alone.
    #[schema(value_type = Option<Object>)]
    pub data_loss: Option<serde_json::Value>,
}

/// Against whom or what.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ThreatTarget {
    /// A tenant; always the caller's own, unless it is an operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// A principal, such as `acme/ci`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// An address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A component, `sha256:...`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// A plugin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
}

/// Body of `POST /security/responses`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MakeResponse {
    /// `rate-limit`, `block-source`, `end-sessions`, `suspend-principal`, `quarantine-version`, `freeze-egress`,
    /// `read-only`, `disable-key`, `alert`.
    pub kind: String,
    /// Against what.
    pub target: ThreatTarget,
    /// For how long; 60 when absent, a week at most; the end of sessions at least for longer than they live, 6.
    pub minutes: Option<u32>,
    /// The pace of a rate limit, requests a minute.
    pub per_minute: Option<u32>,
    /// Why.
    pub reason: String,
    /// The finding it answers.
    pub finding: Option<String>,
    /// Only says whom it would touch.
    pub dry_run: bool,
}

/// A response.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ThreatResponse {
    /// Its id; none for a dry run.
    pub id: Option<String>,
    /// What is done.
    pub kind: String,
    /// Against what.
    pub target: ThreatTarget,
    /// The pace of a rate limit.
    pub per_minute: Option<u32>,
    /// Why.
    pub reason: String,
    /// The finding it answers.
    pub finding: Option<String>,
    /// Who made it, or asked for it.
    pub by: String,
    /// Who agreed, where it took two people.
    #[serde(default)]
    pub approved_by: Option<String>,
    /// When, RFC 3339; none for a dry run.
    pub made_at: Option<String>,
    /// When it ends; every response does, and can be taken back before. While it waits, when it waits no longer.
    pub until: Option<String>,
    /// `dry-run`, `waiting` for another person, `in-force`, `undone`, `over`.
    pub state: String,
    /// The drill it is part of.
    pub drill: Option<String>,
    /// Whom it touches, as far as that is known; only when it is made or tried.
    pub blast: Option<ThreatBlast>,
}

/// Whom a response touches.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ThreatBlast {
    /// Principals, by what was seen in the last day.
    pub principals: Vec<String>,
    /// Their recorded acts in the last day.
    pub acts_count: u64,
    /// What else is to be said, such as what is not known.
    pub notes: Vec<String>,
}

/// Threat intelligence as an owner sees it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ThreatIntelligence {
    /// STIX 2.1 objects: indicators, each with what became of it here under `x_ringfence`: whether it is matched and why not
    /// (`use`), what is left of its confidence (`effective_confidence`; `assumed_confidence` where its source states none), its
    /// feed's floor and half-life, and when it falls below the floor (`fades_at`).
    #[schema(value_type = Vec<Object>)]
    pub objects: Vec<serde_json::Value>,
    /// Where they came from, and when last; none when nothing was ever loaded, and then freshness is unknown.
    pub feeds: Vec<ThreatFeed>,
    /// Indicators whose pattern this host cannot match.
    pub unmatched_patterns: u64,
    /// `fresh` while a polled feed answers, `stale` when those there are do not, `unknown` without any that ever did.
    #[serde(default)]
    pub freshness: String,
    /// Give it as `cursor` to read on; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Where indicators came from.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ThreatFeed {
    /// Its name.
    pub name: String,
    /// When something came from it last, RFC 3339.
    pub last_update: String,
    /// How many indicators are of it.
    pub indicators_count: u64,
}

/// What became of a bundle. Indicators that were known already in this or a later form are not counted.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LoadedIntelligence {
    /// Indicators that are matched from now on.
    pub matched_count: u64,
    /// Indicators whose pattern this host cannot match.
    pub unmatched_pattern_count: u64,
    /// Indicators that are kept and not used: revoked, over, below the floor, private.
    pub not_used_count: u64,
    /// Objects that are no indicators.
    pub others_count: u64,
    /// Objects that cannot be read, and why; the first hundred.
    pub refused: Vec<String>,
    /// How many they are.
    pub refused_count: u64,
    /// Entries of the owner's log that the new indicators were asked of. The operators' are asked of tenants' logs afterwards.
    pub looked_back_count: u64,
    /// How often one of them was there.
    pub sightings_count: u64,
    /// From the bundle's receipt to its indicators being in force, microseconds.
    pub active_after_us: u64,
}

/// Body of `POST /security/incident-response`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IncidentStep {
    /// Which incident; none to open one.
    pub incident_id: Option<String>,
    /// `report`, `triage`, `declare`, `dismiss`, `note`, `contain`, `eradicate`, `recover`, `close`, `improve`,
    /// `approve-action`.
    pub transition: String,
    /// Why.
    pub reason: String,
    /// Findings, places in logs, documents; for `approve-action` the actions.
    pub evidence: Vec<String>,
    /// What it is; to open one.
    pub title: Option<String>,
    /// `informational`, `low`, `medium`, `high`, `critical`.
    pub level: Option<String>,
    /// `unknown`, `concerned`, `untouched`.
    pub personal_data: Option<String>,
    /// Where the people concerned are: `uk`, `eu`, `ireland`, `jersey`, `guernsey`, `isle-of-man`.
    pub jurisdictions: Option<Vec<String>>,
    /// When its owner knew, RFC 3339; the moment it is declared when absent.
    pub aware_at: Option<String>,
    /// When it began, as a person corrects it; what was said of that first is kept.
    pub began_at: Option<String>,
    /// What is known for a notice: `nature`, `categories_of_people`, `people_count`, `categories_of_records`,
    /// `records_count`, `contact`, `consequences`, `measures`.
    pub facts: std::collections::BTreeMap<String, String>,
    /// Responses to make with this step; what takes two people waits for the second.
    pub actions: Vec<MakeResponse>,
}

/// What came of a step.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct IncidentStepped {
    /// The incident's id.
    pub incident_id: String,
    /// Where it stands.
    pub state: String,
    /// Responses that were made, or asked for where they take two people.
    pub effects: Vec<ThreatResponse>,
    /// Actions that could not be taken, and why.
    pub failed: Vec<String>,
    /// Clocks that run.
    #[schema(value_type = Vec<Object>)]
    pub clocks: serde_json::Value,
    /// Those of the incident that wait for another person.
    pub waiting: Vec<ThreatResponse>,
}

/// A drill to run.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RunDrill {
    /// How often each attack is played; once when absent, 50 at most.
    pub rounds: Option<u32>,
}

/// What a drill came to.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ThreatDrill {
    /// Its label, on every event that it wrote.
    pub label: String,
    /// Attacks that were played.
    pub played_count: u64,
    /// Attacks that were not found in time.
    pub misses_count: u64,
    /// From the first event being durable to the finding, microseconds: median and 95th percentile over all that were
    /// played, a miss counting as longer than any; none when that falls on a miss.
    pub detect_us: ThreatTimes,
    /// From the finding to the response holding, microseconds, over those that were answered.
    pub respond_us: ThreatTimes,
    /// Each rule of each round.
    pub rules: Vec<DrilledRule>,
    /// Rules without an attack that can be played.
    pub not_played: Vec<String>,
}

/// Times of a drill.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct ThreatTimes {
    /// How many.
    pub count: u64,
    /// Median, microseconds.
    pub p50: Option<u64>,
    /// 95th percentile, microseconds.
    pub p95: Option<u64>,
}

/// What came of one attack.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DrilledRule {
    /// The rule.
    pub rule: String,
    /// Whether it found its attack.
    pub detected: bool,
    /// From the first event being durable to the finding, microseconds.
    pub detect_us: Option<u64>,
    /// From the finding to the response holding, microseconds.
    pub respond_us: Option<u64>,
}
