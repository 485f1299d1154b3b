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
    /// How it was opened: `bootstrap`, `api_key` or `client_certificate`.
    pub method: String,
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
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetSignInSettings {
    /// Whether tokens that are bound to nothing are taken.
    pub unbound_tokens: UnboundTokensWord,
}

/// How one signs in to a tenant.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SignInSettingsView {
    /// Whether tokens that are bound to nothing are taken.
    pub unbound_tokens: UnboundTokensWord,
    /// When this was decided; absent where nobody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_at: Option<String>,
    /// Who decided it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_by: Option<String>,
}
