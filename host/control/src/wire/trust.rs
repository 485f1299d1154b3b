//! Wire types of trust scores, of what tenants ask of sessions, and of risk adjustments.
//!
//! Must never show what is known about one principal to another who may not see it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AttestationRootModels, AttestationRootView, PostureTrustView, TpmTrustShown, TpmTrustView};

/// Where a session stands.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TrustScoreView {
    /// The session.
    pub session_id: String,
    /// Whose it is.
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

/// `PUT /zero-trust/verify-continuous`. Signals come from the host itself; none is taken from who is judged by it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifySession {
    /// The caller's own session; the one that asks when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
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
    /// About whom: a principal of the caller's own place.
    pub subject: String,
    /// What it adds to the scores of his sessions: below zero for more risk. Above zero it waits for a second person.
    pub delta: i32,
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
    /// What it adds to the scores of his sessions.
    pub delta: i32,
    /// Why.
    pub reason: String,
    /// `in-force`, or `waiting` for a second person.
    pub state: String,
    /// Who asked for it.
    pub by: String,
    /// Who agreed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    /// When it was asked for.
    pub at: String,
    /// When it ends.
    pub expires_at: String,
    /// The host's Ed25519 signature over the record, in base64.
    pub signature: String,
}
