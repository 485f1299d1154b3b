//! Wire types of keys: what exists, in which state, never anything of a key itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The root key, and what it wraps.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RootKeyView {
    /// The provider's scheme: `file`, `pkcs11`, `vault`, `awskms`.
    pub provider: String,
    /// Identifier of the newest version; says nothing about the key.
    pub id: String,
    /// Whether a rotation was begun and is not over: the older version is still needed.
    pub rotating: bool,
    /// `development`, `service`, `hardware`.
    pub assurance: String,
    /// What deleting a tenant does to older copies of the data directory: `old-copies-too` or `this-copy-only`.
    pub shredding: String,
    /// The tenants' keys.
    pub tenants: Vec<TenantKeyView>,
}

/// A tenant's key.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TenantKeyView {
    /// Whose.
    pub tenant: String,
    /// `enabled` or `disabled`.
    pub state: String,
    /// Who disabled it, while it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<DisabledView>,
    /// The key that the tenant keeps itself; absent when it keeps none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own: Option<OwnKeyView>,
    /// Its versions, the oldest first.
    pub versions: Vec<KeyVersionView>,
    /// What deleting the tenant does to older copies of the data directory.
    pub shredding: String,
    /// A request to destroy the keys, when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destroy: Option<DestroyView>,
    /// How far sealing anew has come after a rotation; absent when nothing is left to do and everything could be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reseal: Option<ResealView>,
}

/// A key that a tenant keeps itself.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OwnKeyView {
    /// Its identifier at its provider; says nothing about the key.
    pub id: String,
    /// Whether the provider opens it; while it does not, the tenant is locked.
    pub opens: bool,
}

/// Who disabled a tenant's keys.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DisabledView {
    /// Who.
    pub by: String,
    /// `operator` or `tenant`: the same or a higher side enables them again.
    pub side: String,
    /// When.
    pub at: String,
}

/// One version of a tenant's key.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct KeyVersionView {
    /// Its number, from 1.
    pub version: u8,
    /// What it is for: a purpose, or `all`.
    pub purpose: String,
    /// Identifier of the root key version that wraps it.
    pub root: String,
}

/// A request to destroy a tenant's keys, and with them everything it stored.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DestroyView {
    /// Who asked.
    pub asked_by: String,
    /// When.
    pub asked_at: String,
    /// Who else agreed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    /// When it will be done; absent until somebody else agreed. With it and without `approved_by` it is the deletion of the
    /// tenant by one operator: enabling the keys before then undoes it, a second person's `DELETE` does it at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_at: Option<String>,
}

/// A receipt of destruction in a list; the note itself is at `/keys/receipts/{seq}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DestructionView {
    /// Place of the entry about it in the host's log, and what the receipt is asked for by.
    pub seq: u64,
    /// The tenant's name.
    pub tenant: String,
    /// Its unique id: another one when a deleted name is used again.
    pub tenant_uid: String,
    /// When its keys were gone, RFC 3339.
    pub destroyed_at: String,
}

/// How far sealing anew has come.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ResealView {
    /// Records looked at.
    pub seen_count: u64,
    /// Records there are now. After them come contents that lie in files of their own.
    pub records_count: u64,
    /// Records sealed anew.
    pub resealed_count: u64,
    /// Records and contents that do not open: they stay under the version that they name, which is kept.
    pub damaged_count: u64,
    /// Whether nothing is left to do: then this is about what is damaged, until the next rotation.
    pub over: bool,
}

/// What to rotate.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateKey {
    /// One purpose (`record`, `secret`, `blob`, `log`, ...); all when absent.
    pub purpose: Option<String>,
}

/// What a rotation of the root key did.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RootRotated {
    /// Identifier of the newest version.
    pub id: String,
    /// Keys wrapped anew, the host's own among them.
    pub rewrapped_count: u64,
    /// Tenants whose key could not be, because it is damaged or missing: for their sake the older version is kept.
    pub failed: Vec<String>,
    /// Whether nothing needs the older version any more; else that is looked at every hour and at each start.
    pub over: bool,
}
