//! Wire types of trust scores, of what tenants ask of sessions, and of risk adjustments.
//!
//! Must never show what is known about one principal to another who may not see it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    AttestationRootModels, AttestationRootView, PostureTrustView, TpmTrustShown, TpmTrustView, UnboundTokensWord,
    VerifyDevice,
};

/// Where a session stands, or a subject without one.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TrustScoreView {
    /// The session; absent where none is open, so that the score is of what is known of the subject apart from any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Whose it is: a principal, a plugin (`acme/plugin/hello`), or a place as a whole (`acme`).
    pub principal: String,
    /// 0 to 100.
    pub score: u8,
    /// Every signal, those that change nothing too.
    pub signals: Vec<SignalView>,
    /// The least scores in force.
    pub thresholds: ThresholdsView,
    /// When this was computed.
    pub computed_at: String,
}

/// What one signal does to the score.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SignalView {
    /// The signal.
    pub name: String,
    /// What it is now; `unknown` where nobody knows, `not configured` where nobody could.
    pub value: String,
    /// Where that came from.
    pub source: String,
    /// How old it is, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
    /// What it adds to 100.
    pub effect: i32,
}

/// The least scores, 0 for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ThresholdsView {
    /// A session below this ends.
    pub floor: u8,
    /// For calling a plugin.
    pub invoke: u8,
    /// For looking.
    pub read: u8,
    /// For changing what runs.
    pub change: u8,
    /// For changing who may do what, or what cannot be undone.
    pub administer: u8,
}

/// `PUT /tenants/{tenant}/trust`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetTrust {
    /// The least scores.
    pub thresholds: ThresholdsView,
    /// How often a session must be verified as a whole, in seconds, 10 to 300; 300 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify_interval_seconds: Option<u32>,
    /// For how long what is proved in an open session (`POST /zero-trust/step-up`) counts, in seconds, 10 to 300; for as long as
    /// the session lives when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_up_seconds: Option<u32>,
    /// How old a credential may be, in days; any age when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_days_max: Option<u32>,
    /// When people usually work; any hour when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours_utc: Option<HoursView>,
    /// Whose claims about devices are taken; nobody's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_posture: Option<PostureTrustView>,
    /// Whose quotes of TPMs are taken, and what they must show; nobody's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_tpm: Option<TpmTrustView>,
    /// Which authenticators passkeys may come from; any when absent or empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passkey_attestation: Vec<AttestationRootView>,
}

/// Hours of the day, in UTC; over midnight when `from` is after `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HoursView {
    /// From this hour on, 0 to 23.
    pub from: u8,
    /// Before this hour, 0 to 24.
    pub to: u8,
}

/// What a tenant asks of sessions.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TrustSettingsView {
    /// The least scores.
    pub thresholds: ThresholdsView,
    /// How often a session must be verified as a whole, in seconds.
    pub verify_interval_seconds: u32,
    /// For how long what is proved in an open session counts, in seconds; absent for as long as the session lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_up_seconds: Option<u32>,
    /// How old a credential may be, in days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_days_max: Option<u32>,
    /// When people usually work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours_utc: Option<HoursView>,
    /// Whose claims about devices are taken, and what they must say.
    pub device_posture: PostureTrustView,
    /// Whose quotes of TPMs are taken, and what they must show; absent when nobody's are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_tpm: Option<TpmTrustShown>,
    /// Which authenticators passkeys may come from, root by root; any when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passkey_attestation: Vec<AttestationRootModels>,
    /// When this was decided; absent where nobody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_at: Option<String>,
    /// Who decided it, or asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_by: Option<String>,
    /// Who agreed, where it asks for less than before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
}

/// `PUT /zero-trust/verify-continuous`. Signals come from the host itself, or signed by one whom the place trusts: none is
/// taken on the word of who is judged by it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifySession {
    /// A session: the one that asks when absent, or one of the caller's place, for those who may end it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Signed evidence about the caller's devices, 8 at most; what is not signed by one whom the place trusts is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signals: Vec<VerifyDevice>,
}

/// `PUT /trust`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetOperatorsTrust {
    /// What is asked of operators' sessions.
    pub sessions: SetTrust,
    /// Whether tokens of operators that are bound to nothing are taken.
    pub unbound_tokens: UnboundTokensWord,
}

/// What is asked of operators.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OperatorsTrustView {
    /// Of their sessions.
    pub sessions: TrustSettingsView,
    /// Whether tokens that are bound to nothing are taken.
    pub unbound_tokens: UnboundTokensWord,
    /// What one operator wants and another has not agreed to; absent when nothing waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<WantedTrustView>,
}

/// What asks for less than is asked now, and waits for a second operator who wants the same.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WantedTrustView {
    /// What would be asked of sessions.
    pub sessions: TrustSettingsView,
    /// Whether tokens that are bound to nothing would be taken.
    pub unbound_tokens: UnboundTokensWord,
    /// Who wants it.
    pub by: String,
    /// Since when.
    pub at: String,
    /// Until when another may agree.
    pub until: String,
}

/// What became of a session that was verified.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct VerifiedView {
    /// `keep`, `step_up` or `ended`.
    pub decision: String,
    /// Where it stands.
    pub trust: TrustScoreView,
    /// When it should be verified again.
    pub next_check_at: String,
}

/// `PUT /zero-trust/risk-adjustment`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AdjustRisk {
    /// About whom or what, of the caller's own place: a principal (`acme/ann`), a plugin (`acme/plugin/hello`), or all of
    /// it (`acme`), which waits for a second person. What is held against a plugin counts in calls of it, and against a place
    /// in every session there.
    pub subject: String,
    /// What it adds to scores: below zero for more risk. Above zero it waits for a second person, and of a plugin or a place
    /// only takes back what was held against it. Either this or `floor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<i32>,
    /// The least risk, 1 to 100: scores are at most 100 less this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<u8>,
    /// Why.
    pub reason: String,
    /// When it ends, within 90 days.
    pub expires_at: String,
}

/// A risk adjustment.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RiskAdjustmentView {
    /// Its name.
    pub id: String,
    /// About whom.
    pub subject: String,
    /// What it adds to scores.
    pub delta: i32,
    /// The least risk, of one that sets that instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<u8>,
    /// Where the subject stands with it: in the session that stands lowest, or apart from any. Of one made or agreed to now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_score: Option<u8>,
    /// Why.
    pub reason: String,
    /// `in-force`, or `waiting` for a second person.
    pub state: String,
    /// Who asked for it.
    pub by: String,
    /// Who agreed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    /// Who wants it withdrawn, while that waits for a second person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn_by: Option<String>,
    /// When it was asked for.
    pub at: String,
    /// When it ends.
    pub expires_at: String,
    /// The host's Ed25519 signature over the record, in base64.
    pub signature: String,
}

/// How a place stands now.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SecurityPosture {
    /// A tenant, or `host`.
    pub place: String,
    /// When this was read.
    pub as_of: String,
    /// How many lines there are of each state.
    pub counts: PostureCounts,
    /// The lines.
    pub checks: Vec<PostureLine>,
    /// Findings that are kept, by level, without those of drills.
    pub findings: BTreeMap<String, u64>,
    /// What detection does not look for as it is set now.
    pub blind_spots: Vec<String>,
}

/// How many lines there are of each state.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct PostureCounts {
    /// As it should be.
    pub pass: usize,
    /// Not as it should be.
    pub fail: usize,
    /// Nobody can tell.
    pub unknown: usize,
    /// Facts that nothing is held against.
    pub shown: usize,
}

/// What a line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PostureState {
    /// It is as it should be.
    Pass,
    /// It is not.
    Fail,
    /// Nobody can tell.
    Unknown,
    /// A fact that nothing is held against.
    Shown,
}

/// One line.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PostureLine {
    /// What it is about.
    pub check: String,
    /// What it says.
    pub state: PostureState,
    /// What was found; for `unknown`, why nothing was.
    pub value: String,
    /// Who knows it.
    pub source: String,
    /// How old it is, in seconds: 0 of what was read for this answer, absent where nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
}
