//! What is known of keys and sessions, and what the store holds of them.
//!
//! Must never hold a key's secret: only its argon2id hash, which is sealed by the store like everything else.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use ringfence_core::{
    KeyScope, Principal, PrincipalId, PrincipalKind, ResourceName, Role, SessionId, Strength, TenantId,
};
use serde::{Deserialize, Serialize};

use crate::secret_hash::Hashed;
use crate::standing::age;

/// What to make a key with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// Whose; none for an operator's key.
    pub tenant: Option<TenantId>,
    /// What to call it; the principal becomes `<tenant>/<name>` or `operator/<name>`.
    pub name: ResourceName,
    /// What it may do by default. `operator` exactly when there is no tenant.
    pub role: Role,
    /// How long it lives, in seconds; none for as long as its place lets keys live.
    pub expires_in_seconds: Option<u32>,
    /// What it is good for; none for whatever its role allows.
    pub scope: Option<Arc<KeyScope>>,
}

/// What may be shown of a key. Its secret was shown once, when it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Its public part: 16 of a-z and 2-7.
    pub id: String,
    /// Whose; none for an operator's key.
    pub tenant: Option<TenantId>,
    /// What it is called.
    pub name: ResourceName,
    /// What it may do by default.
    pub role: Role,
    /// Who its holder is.
    pub principal: PrincipalId,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: PrincipalId,
    /// When it ends by itself, if ever.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
    /// What it is good for; none for whatever its role allows, as for every key of before there were scopes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Arc<KeyScope>>,
}

impl KeyRecord {
    /// Whether the key can sign anyone in at this time.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}

/// A key as the store has it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct StoredKey {
    pub(crate) record: KeyRecord,
    pub(crate) hashed: Hashed,
    /// Whose it is, for acts that need two people; empty in records of before there was such a thing.
    #[serde(default)]
    pub(crate) owners: Vec<PrincipalId>,
}

impl StoredKey {
    /// Whose it is, for acts that need two people.
    pub(crate) fn owners(&self) -> &[PrincipalId] {
        if self.owners.is_empty() { std::slice::from_ref(&self.record.created_by) } else { &self.owners }
    }
}

/// How a session was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// With the one-time token of a first start.
    Bootstrap,
    /// With an API key.
    #[default]
    ApiKey,
    /// With a client certificate.
    ClientCertificate,
    /// With an invitation.
    Invitation,
    /// With a password, and a one-time code where the person has them.
    Password,
    /// With a passkey.
    Passkey,
    /// At an identity provider.
    Federated,
}

impl Method {
    /// Whether the session is a person's of our own, and ends when the person is removed.
    pub const fn is_of_person(self) -> bool {
        matches!(self, Self::Invitation | Self::Password | Self::Passkey)
    }
    /// The word of the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bootstrap => "bootstrap",
            Self::ApiKey => "api_key",
            Self::ClientCertificate => "client_certificate",
            Self::Invitation => "invitation",
            Self::Password => "password",
            Self::Passkey => "passkey",
            Self::Federated => "federated",
        }
    }
}

/// What must come with a token for it to be taken.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Binding {
    /// Nothing: whoever has the token has the session.
    #[default]
    Unbound,
    /// A proof made with the key of this thumbprint (`jkt`, RFC 9449).
    Key(String),
    /// A connection on which the certificate of this thumbprint was proved (`x5t#S256`, RFC 8705).
    Certificate(String),
}

impl Binding {
    /// The word of the API.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Unbound => "none",
            Self::Key(_) => "key",
            Self::Certificate(_) => "certificate",
        }
    }
}

/// What may be shown of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// Its name, which opens nothing.
    pub id: SessionId,
    /// Who it stands for.
    pub principal: PrincipalId,
    /// What he may do by default.
    pub role: Role,
    /// How it was opened.
    pub method: Method,
    /// How strongly the principal was proved, by now.
    pub strength: Strength,
    /// What its token is bound to, in a word.
    pub bound_to: &'static str,
    /// From where it was opened, when that is known.
    pub source: Option<IpAddr>,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Timestamp,
}

/// A session as the store has it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct StoredSession {
    pub(crate) id: SessionId,
    pub(crate) principal: PrincipalId,
    pub(crate) kind: PrincipalKind,
    pub(crate) role: Role,
    pub(crate) tenant: Option<TenantId>,
    /// The API key it was opened with, if any.
    pub(crate) key: Option<String>,
    /// How strongly the principal was proved when it was opened.
    pub(crate) strength: Strength,
    pub(crate) issued_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    #[serde(default)]
    pub(crate) method: Method,
    #[serde(default)]
    pub(crate) binding: Binding,
    #[serde(default)]
    pub(crate) source: Option<IpAddr>,
    /// When it was last verified as a whole.
    #[serde(default)]
    pub(crate) verified_at: Option<Timestamp>,
    /// What was proved in it since it was opened.
    #[serde(default)]
    pub(crate) raised: Option<Raised>,
    /// What the key it was opened with is good for; none for whatever the role allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<Arc<KeyScope>>,
}

/// What was proved in a session beyond what opened it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Raised {
    pub(crate) strength: Strength,
    pub(crate) at: Timestamp,
}

impl StoredSession {
    /// Whether both count towards one cap: of one key, or of one principal without a key.
    pub(crate) fn is_of_same(&self, other: &Self) -> bool {
        self.key == other.key && self.principal == other.principal
    }

    /// How strongly the principal is proved now, and since when. What was proved since the opening counts for so many seconds, or
    /// for as long as the session lives.
    pub(crate) fn proved(&self, lasts_seconds: Option<u32>, now: Timestamp) -> (Strength, Timestamp) {
        let lasts = |raised: &&Raised| lasts_seconds.is_none_or(|lasts| age(now, raised.at) < u64::from(lasts));
        let raised = self.raised.as_ref().filter(|raised| raised.strength >= self.strength).filter(lasts);
        raised.map_or((self.strength, self.issued_at), |raised| (raised.strength, raised.at))
    }

    /// What may be shown of it, where the principal is proved like this now.
    pub(crate) fn record(&self, strength: Strength) -> SessionRecord {
        SessionRecord {
            id: self.id.clone(),
            principal: self.principal.clone(),
            role: self.role,
            method: self.method,
            strength,
            bound_to: self.binding.as_str(),
            source: self.source,
            opened_at: self.issued_at,
            expires_at: self.expires_at,
        }
    }

    /// The principal that the session stands for, proved like this.
    #[expect(clippy::disallowed_methods, reason = "this room proved who opened the session")]
    pub(crate) fn principal(&self, strength: Strength) -> Principal {
        Principal::mint(
            self.principal.clone(),
            self.kind,
            Some(self.role),
            self.tenant.clone(),
            strength,
            Some(self.id.clone()),
            self.issued_at,
        )
        .within(self.scope.clone())
    }
}
