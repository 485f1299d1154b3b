//! Wire types of sessions and of how one signs in.
//!
//! Must never carry a token or a key.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An open session.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SessionView {
    /// Its name.
    pub id: String,
    /// Who it stands for.
    pub principal: String,
    /// What he may do by default.
    pub role: String,
    /// How it was opened: `bootstrap`, `api_key`, `client_certificate`, `invitation`, `password` or `passkey`.
    pub method: String,
    /// How strongly its principal was proved by now: `secret`, `certificate`, `two-factors` or `passkey`.
    pub strength: String,
    /// What its token is bound to: `none`, `key` or `certificate`.
    pub bound_to: String,
    /// The address it was opened from, when that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// When it was opened.
    pub opened_at: String,
    /// When it ends by itself.
    pub expires_at: String,
    /// Whether it is the one that asks.
    pub current: bool,
}

/// What an API key is good for, less than its role allows. Of what it does not speak it takes nothing away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenScope {
    /// The classes of acts: `invoke`, `read`, `change`, `administer`; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<Vec<String>>,
    /// The plugins that it acts on, and on nothing else; absent for whatever its role allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugins: Option<Vec<String>>,
}

/// Whether tokens that are bound to nothing are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnboundTokensWord {
    /// They are.
    Allowed,
    /// Only tokens bound to a key (DPoP) or a client certificate are.
    Refused,
}

/// `PUT /tenants/{tenant}/sign-in`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetSignInSettings {
    /// Whether tokens that are bound to nothing are taken.
    pub unbound_tokens: UnboundTokensWord,
    /// Which client certificates are trusted; absent for none. Changing it ends the sessions opened with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificates: Option<ClientCertificateTrust>,
    /// Which identity providers are trusted; absent for none. Changing it ends the sessions opened at one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identity_providers: Vec<IdentityProvider>,
    /// How many days a new API key lives at most, 1 to 3650, and where nothing shorter is asked for; absent for as long as is
    /// asked for. Keys that there are go on as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys_days_max: Option<u16>,
}

/// An identity provider that a tenant trusts (OpenID Connect).
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentityProvider {
    /// What the tenant calls it; whoever signs in there is `<tenant>/<name>-<hash of issuer and subject>`.
    pub name: String,
    /// Its issuer identifier, `https://...`, exactly as its discovery document says it.
    pub issuer: String,
    /// What it calls this host.
    pub client_id: String,
    /// What this host proves itself with; absent for a public client. Never shown again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<String>,
    /// Where it may send people back to.
    pub redirect_uris: Vec<String>,
    /// Who gets which role; the first that fits. Whoever none fits is refused.
    pub roles: Vec<ClaimRoleWord>,
}

/// A role for whoever has a claim.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClaimRoleWord {
    /// The claim of the ID token, such as `groups`.
    pub claim: String,
    /// Its value, or one of its values.
    pub value: String,
    /// `tenant-admin`, `developer`, `auditor` or `caller`.
    pub role: String,
}

/// What may be shown of an identity provider.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct IdentityProviderView {
    /// What the tenant calls it.
    pub name: String,
    /// Its issuer identifier.
    pub issuer: String,
    /// What it calls this host.
    pub client_id: String,
    /// Whether there is a secret.
    pub has_secret: bool,
    /// Where it may send people back to.
    pub redirect_uris: Vec<String>,
    /// Who gets which role.
    pub roles: Vec<ClaimRoleWord>,
}

/// `POST /zero-trust/federation/sign-in`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartFederated {
    /// The tenant.
    pub tenant: String,
    /// What it calls its provider.
    pub provider: String,
    /// Where the provider is to send the person back to: one that the tenant named.
    pub redirect_uri: String,
}

/// A sign-in that was begun at an identity provider.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FederatedStartView {
    /// Names it; the `state` that the provider sends back.
    pub ceremony: String,
    /// Where the person's browser is to go.
    pub authorization_url: String,
}

/// Which client certificates a tenant trusts.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificateTrust {
    /// PEM of the trust roots.
    pub roots: String,
    /// PEM of revocation lists. With any, a certificate that no current list speaks for is refused.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub revocation_lists: String,
    /// Who may sign in; any other name is refused.
    pub holders: Vec<CertificateHolderWord>,
}

/// Who a certificate of one name stands for.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateHolderWord {
    /// A DNS name or URI among the certificate's subject alternative names.
    pub subject: String,
    /// The principal becomes `<tenant>/<name>`.
    pub name: String,
    /// `tenant-admin`, `developer`, `auditor` or `caller`.
    pub role: String,
}

/// What may be shown of the trust in client certificates.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ClientCertificateTrustView {
    /// How many trust roots there are.
    pub roots_count: usize,
    /// How many revocation lists there are.
    pub revocation_lists_count: usize,
    /// Who may sign in.
    pub holders: Vec<CertificateHolderWord>,
}

/// How one signs in to a tenant.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SignInSettingsView {
    /// Whether tokens that are bound to nothing are taken.
    pub unbound_tokens: UnboundTokensWord,
    /// Which client certificates are trusted; absent when nobody signs in with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificates: Option<ClientCertificateTrustView>,
    /// Which identity providers are trusted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identity_providers: Vec<IdentityProviderView>,
    /// How many days a new API key lives at most; absent for as long as is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys_days_max: Option<u16>,
    /// When this was decided; absent where nobody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_at: Option<String>,
    /// Who decided it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_by: Option<String>,
}
