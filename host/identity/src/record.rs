//! What is known of keys and sessions, and what the store holds of them.
//!
//! Must never hold a key's secret: only its argon2id hash, which is sealed by the store like everything else.

use jiff::Timestamp;
use ringfence_core::{Principal, PrincipalId, PrincipalKind, ResourceName, Role, SessionId, Strength, TenantId};
use serde::{Deserialize, Serialize};

use crate::secret_hash::Hashed;

/// What to make a key with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// Whose; none for an operator's key.
    pub tenant: Option<TenantId>,
    /// What to call it; the principal becomes `<tenant>/<name>` or `operator/<name>`.
    pub name: ResourceName,
    /// What it may do by default. `operator` exactly when there is no tenant.
    pub role: Role,
    /// How long it lives, in seconds; none for until it is revoked.
    pub expires_in_seconds: Option<u32>,
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
}

/// A session as the store has it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct StoredSession {
    pub(crate) id: SessionId,
    pub(crate) principal: PrincipalId,
    pub(crate) kind: PrincipalKind,
    pub(crate) role: Role,
    pub(crate) tenant: Option<TenantId>,
    /// The API key it was opened with; none for a bootstrap.
    pub(crate) key: Option<String>,
    pub(crate) strength: Strength,
    pub(crate) issued_at: Timestamp,
    pub(crate) expires_at: Timestamp,
}

impl StoredSession {
    /// The principal the session stands for.
    #[expect(clippy::disallowed_methods, reason = "this room proved who opened the session")]
    pub(crate) fn principal(&self) -> Principal {
        Principal::mint(
            self.principal.clone(),
            self.kind,
            Some(self.role),
            self.tenant.clone(),
            self.strength,
            Some(self.id.clone()),
            self.issued_at,
        )
    }
}
