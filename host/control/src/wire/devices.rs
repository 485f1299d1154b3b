//! Wire types of devices, of what is required of them, and of which one a session is on.
//!
//! Must never carry a private key.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Whose claims about devices a tenant takes, and what they must say.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PostureTrustView {
    /// Who may sign claims.
    pub issuers: Vec<PostureIssuerView>,
    /// What each claim must say is so: `disk_encrypted`.
    pub required: Vec<String>,
}

/// One who may sign claims about devices.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PostureIssuerView {
    /// The `iss` of the claims.
    pub name: String,
    /// The Ed25519 key that signs them: its 32 bytes in base64url.
    pub key: String,
}

/// Whose TPMs a tenant trusts, and what they may have measured.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TpmTrustView {
    /// The roots above the certificates of attestation keys, in PEM.
    pub roots: String,
    /// Sets of registers of the SHA-256 bank, number to value in hexadecimal; a quote must be over just those of one set.
    pub expected: Vec<BTreeMap<String, String>>,
}

/// Whose TPMs a tenant trusts, as shown.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TpmTrustShown {
    /// How many roots there are.
    pub roots_count: usize,
    /// The sets of registers.
    pub expected: Vec<BTreeMap<String, String>>,
}

/// A maker of authenticators, and which of its models are taken.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AttestationRootView {
    /// Its root certificate, in PEM.
    pub certificate: String,
    /// The AAGUIDs of its models; all of them when empty.
    #[serde(default)]
    pub models: Vec<String>,
}

/// A maker of authenticators, as shown.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AttestationRootModels {
    /// The AAGUIDs of its models; all of them when empty.
    pub models: Vec<String>,
}

/// `POST /zero-trust/devices`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDevice {
    /// What to call it; the `sub` of claims about it.
    pub name: String,
}

/// A device.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeviceView {
    /// What it is called.
    pub name: String,
    /// Since when it is known.
    pub registered_at: String,
    /// Whether the session that asks is on it: its token's key was shown to be there.
    pub current: bool,
    /// Since when it is revoked: nothing verifies it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<String>,
    /// What it was found to be; absent until it was verified, and after that expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<DeviceFoundView>,
}

/// A device of somebody of a tenant.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TenantDeviceView {
    /// Whose.
    pub principal: String,
    /// The device.
    pub device: DeviceView,
}

/// What a device was found to be.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeviceFoundView {
    /// `verified` or `failed`.
    pub verdict: String,
    /// What the claim said of what is required.
    pub claims: BTreeMap<String, bool>,
    /// Who said so.
    pub issuer: String,
    /// When.
    pub at: String,
    /// Until when it counts.
    pub expires_at: String,
    /// Whether it showed the key of a session's token to be on the device.
    pub holds_key: bool,
}

/// A nonce for evidence about a device, once and within three minutes.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeviceChallenge {
    /// The nonce.
    pub nonce: String,
}

/// `POST /zero-trust/device-verification`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyDevice {
    /// The device's name.
    pub device_id: String,
    /// The nonce that was given out for it.
    pub nonce: String,
    /// `posture` for a signed claim, `tpm-quote` for a quote of a TPM; others, and those for which the tenant trusts nobody,
    /// are answered with `unsupported`.
    pub format: String,
    /// The evidence. For `posture` a JWT signed with EdDSA whose claims are `iss`, `sub`, `nonce`, `iat`, `exp` and `posture`;
    /// for `tpm-quote` JSON with `quote`, `signature` and `certificates` in base64, the quote over the SHA-256 of the nonce.
    /// What shows the key of this session's token to be on the device is `cnf` in the first, `key` in the second.
    pub evidence: String,
}

/// What evidence came to.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeviceVerification {
    /// `verified`, `failed`, or `unsupported`: this host cannot tell, so nothing changed.
    pub verdict: String,
    /// What the claim said of what is required.
    pub claims: BTreeMap<String, bool>,
    /// Until when it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// Whether it showed the key of this session's token to be on the device, so that rules see the device.
    pub holds_key: bool,
}
