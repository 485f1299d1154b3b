//! Wire types of people and of what they prove themselves with.
//!
//! Must never carry a password, a code or an invitation in a type that is logged: those here are written once and dropped.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /tenants/{tenant}/people`, `POST /people`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPersonBody {
    /// The principal becomes `<tenant>/<name>`, or `operator/<name>`.
    pub name: String,
    /// `tenant-admin`, `developer`, `auditor` or `caller`; `operator` on the host.
    pub role: String,
}

/// A person.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PersonView {
    /// What he is called.
    pub name: String,
    /// What he may do by default.
    pub role: String,
    /// Who he is to policies and the log.
    pub principal: String,
    /// `invited`, `enrolled`, or `expired` when the invitation was not used in its time.
    pub state: String,
    /// Who invited him, the last time.
    pub invited_by: String,
    /// When that was.
    pub invited_at: String,
    /// When he used the invitation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolled_at: Option<String>,
}

/// Somebody who was just invited. The only time the invitation is shown.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct InvitedPerson {
    /// Who.
    pub person: PersonView,
    /// The invitation, for `authenticate` with `"method": "invitation"`.
    pub invitation: String,
    /// Until when it can be used.
    pub expires_at: String,
}

/// What the caller can prove himself with.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FactorsView {
    /// Since when there is a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_since: Option<String>,
    /// Since when a password needs a one-time code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codes_since: Option<String>,
    /// How many recovery codes are left.
    pub recovery_codes_count: usize,
    /// The passkeys.
    pub passkeys: Vec<PasskeyView>,
}

/// A passkey.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PasskeyView {
    /// Its name in the API.
    pub id: String,
    /// What its holder calls it.
    pub name: String,
    /// Since when.
    pub added_at: String,
    /// When it was last used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_at: Option<String>,
    /// What its authenticator proved of itself; absent when that was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<PasskeyAttestationView>,
}

/// What an authenticator proved of itself.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PasskeyAttestationView {
    /// `packed`, `tpm` or `other`.
    pub format: String,
    /// Its model: the AAGUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// One-time codes on offer. The only time their key is shown.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct CodesOfferView {
    /// The key in base32: SHA-1, 6 digits, 30 seconds (RFC 6238).
    pub secret: String,
    /// The same as `otpauth://totp/...`, for a picture that an app reads.
    pub uri: String,
}

/// `POST /zero-trust/factors/codes/confirm`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfirmCodes {
    /// The code of now.
    pub code: String,
}

/// Recovery codes, each good once in the place of a one-time code. The only time they are shown.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct RecoveryCodes {
    /// The codes.
    pub recovery_codes: Vec<String>,
}

/// `PUT /zero-trust/factors/password`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetPassword {
    /// The one there is, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    /// The one to set: at least 12 characters.
    pub new: String,
}

/// What a ceremony of a passkey is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CeremonyPurpose {
    /// Adding a passkey.
    Register,
    /// Proving more in this session.
    StepUp,
}

/// `POST /zero-trust/passkeys/challenge`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartCeremony {
    /// What it is for.
    pub purpose: CeremonyPurpose,
}

/// What to ask an authenticator, once and within three minutes.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CeremonyView {
    /// To be sent back with the answer.
    pub ceremony: String,
    /// For `navigator.credentials.create` or `.get`, in JSON.
    #[schema(value_type = Object)]
    pub options: serde_json::Value,
}

/// `POST /zero-trust/passkeys`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddPasskey {
    /// Which ceremony.
    pub ceremony: String,
    /// What to call the passkey.
    pub name: String,
    /// The browser's `PublicKeyCredential` in JSON.
    #[schema(value_type = Object)]
    pub answer: serde_json::Value,
}

/// `POST /zero-trust/step-up`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum StepUpBody {
    /// A one-time code, or a recovery code.
    Code {
        /// The code.
        code: String,
    },
    /// A passkey.
    Passkey {
        /// Which ceremony.
        ceremony: String,
        /// The browser's `PublicKeyCredential` in JSON.
        #[schema(value_type = Object)]
        answer: serde_json::Value,
    },
}

/// How strongly a session is proved now.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SteppedUp {
    /// `two-factors` or `passkey`; what it was opened with, where that was laid down.
    pub strength: String,
}
