//! Wire types of devices and of what is required of them.
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

/// `POST /zero-trust/devices`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDevice {
    /// What to call it; the `sub` of claims about it.
    pub name: String,
}

/// A device of the caller.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeviceView {
    /// What it is called.
    pub name: String,
    /// Since when it is known.
    pub registered_at: String,
    /// What it was found to be; absent until it was verified, and after that expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<DeviceFoundView>,
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
    /// `posture` for a signed claim; others are answered with `unsupported` where the host cannot check them.
    pub format: String,
    /// The evidence: a JWT signed with EdDSA whose claims are `iss`, `sub`, `nonce`, `iat`, `exp` and `posture`.
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
}
