//! What was destroyed with a tenant, kept from before its keys go until somebody signed a receipt about it.
//!
//! Written down first, because afterwards nothing is left that names the keys. Must never hold anything of a key but what names
//! it, and never go before its receipt is durable.

use jiff::Timestamp;
use ringfence_core::TenantId;
use ringfence_keys::{KeyVersion, Shredding};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use crate::error::StoreError;
use crate::key::Key;
use crate::record::Op;
use crate::tenant_keys::{DestroyRequest, IsAnother, read_key};
use crate::tenants::{TenantRecord, Tenants, parse_uid};

/// The destruction of a tenant's keys, and with them of everything it stored. Part of a signed form: a field that is added
/// has to be optional.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destroyed {
    /// The tenant's name.
    pub tenant: TenantId,
    /// Its unique id: another one when a deleted name is used again.
    pub tenant_uid: String,
    /// Who asked.
    pub asked_by: String,
    /// When.
    pub asked_at: Timestamp,
    /// Who else wanted it; none where one alone could decide.
    pub approved_by: Option<String>,
    /// When the keys were gone, and all that lay under them.
    pub destroyed_at: Timestamp,
    /// The root key provider, by its scheme.
    pub provider: String,
    /// The name of the wrapping key that the tenant had at the provider; none where it had none.
    pub wrapping_key: Option<String>,
    /// The versions of the tenant's key, each with the root key version that wrapped it; empty where the key file was
    /// damaged before.
    pub versions: Vec<KeyVersion>,
    /// Whether copies of the data directory that were made before open any more.
    pub reaches: Shredding,
}

impl Destroyed {
    /// The change that goes with the receipt: from then on none is owed.
    pub fn receipted(&self) -> Op {
        Op::delete(destroyed_key(&self.tenant_uid))
    }

    /// Written down when nothing is left of the tenant.
    pub(crate) fn op(&self) -> Result<Op, StoreError> {
        Op::put_json(destroyed_key(&self.tenant_uid), self)
    }
}

impl Tenants {
    /// Destructions about which no receipt is kept yet, as many as one page has.
    pub async fn unreceipted(&self) -> Result<Vec<Destroyed>, StoreError> {
        let page = self.0.platform.scan(&destroyed_prefix(), None, usize::MAX).await?;
        page.records.iter().map(|(_, record)| record.json()).collect()
    }

    /// What a destruction that `by` wants now is about. Whoever wants it after another person agrees with him.
    pub(crate) async fn about_to_destroy(
        &self,
        record: &TenantRecord,
        by: &str,
        is_another: &IsAnother<'_>,
    ) -> Result<Destroyed, StoreError> {
        let (store, uid) = (self.0.store.clone(), parse_uid(&record.uid)?);
        // A damaged key file names no keys; what is left of it goes all the same.
        let wrapped = spawn_blocking(move || read_key(&store, &uid).unwrap_or_default());
        let wrapped = wrapped.await.map_err(StoreError::unavailable)?;
        let now = self.0.clock.now();
        let (asked_by, asked_at, approved_by) = match self.key_state(&record.id).await?.destroy {
            Some(DestroyRequest { asked_by, asked_at, approved_by: Some(agreed), .. }) => {
                (asked_by, asked_at, Some(agreed))
            }
            Some(DestroyRequest { asked_by, asked_at, .. }) if is_another(&asked_by) => {
                (asked_by, asked_at, Some(by.to_owned()))
            }
            Some(DestroyRequest { asked_by, asked_at, .. }) if asked_by == by => (asked_by, asked_at, None),
            // Nobody asked before, or another key of the same person did.
            _ => (by.to_owned(), now, None),
        };
        Ok(Destroyed {
            tenant: record.id.clone(),
            tenant_uid: record.uid.clone(),
            asked_by,
            asked_at,
            approved_by,
            destroyed_at: now,
            provider: self.0.root.scheme().to_owned(),
            wrapping_key: wrapped.as_ref().and_then(|key| key.wrapping_key().map(str::to_owned)),
            versions: wrapped.as_ref().map(|key| key.versions()).unwrap_or_default(),
            reaches: wrapped.as_ref().map_or(Shredding::ThisCopyOnly, |key| key.shredding()),
        })
    }
}

pub(crate) fn destroyed_prefix() -> Key {
    Key::new(["destroyed"])
}

fn destroyed_key(uid: &str) -> Key {
    destroyed_prefix().push(uid)
}
