//! The backup keys of a tenant, in sealed records of its own.
//!
//! Must never keep one anywhere else: deleting the tenant takes its keys along, and with them its archives.

use std::collections::BTreeMap;
use std::fmt;

use ringfence_core::Entropy;
use ringfence_keys::BackupKey;

use crate::backup::BackupError;
use crate::error::StoreError;
use crate::key::Key;
use crate::record::{Op, Precondition};
use crate::tenant_store::TenantStore;

/// The keys that may open archives of a tenant.
#[derive(Clone, Default)]
pub struct Keyring(BTreeMap<String, BackupKey>);

// === impl Keyring ===

impl Keyring {
    /// The keys that a tenant holds, but for those that are damaged.
    pub async fn of(store: &TenantStore) -> Result<Self, BackupError> {
        let (mut this, mut after) = (Self::default(), None);
        loop {
            let (names, next) = store.scan_names(&keys_key(), after.as_ref(), usize::MAX).await?;
            for name in names {
                match store.get(&name).await {
                    Ok(Some(record)) => match BackupKey::from_bytes(&record.value) {
                        Ok(key) => this.add(key),
                        Err(_) => tracing::error!(uid = %store.uid(), "a backup key is none"),
                    },
                    Ok(None) => {}
                    Err(StoreError::Damaged) => tracing::error!(uid = %store.uid(), "a backup key is damaged"),
                    Err(error) => return Err(error.into()),
                }
            }
            match next {
                Some(next) => after = Some(next),
                None => return Ok(this),
            }
        }
    }

    /// Adds a key that somebody brought.
    pub fn add(&mut self, key: BackupKey) {
        self.0.insert(key.id(), key);
    }

    pub(crate) fn get(&self, id: &str) -> Option<&BackupKey> {
        self.0.get(id)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<keyring of {}>", self.0.len())
    }
}

/// The key that a tenant's next archive is sealed under; made when there is none, or that one is damaged or gone.
pub(crate) async fn current(store: &TenantStore, entropy: &dyn Entropy) -> Result<BackupKey, BackupError> {
    loop {
        let unchanged = match store.get(&now_key()).await {
            Ok(Some(now)) => {
                let id = String::from_utf8_lossy(&now.value).into_owned();
                let known = match store.get(&key_key(&id)).await {
                    Err(StoreError::Damaged) => None,
                    record => record?.and_then(|record| BackupKey::from_bytes(&record.value).ok()),
                };
                match known {
                    Some(key) => return Ok(key),
                    // It rotted, or was removed since: another follows, or there would be no backup any more.
                    None => Precondition::Revision(now_key(), now.revision),
                }
            }
            Ok(None) => Precondition::Absent(now_key()),
            // Two at once both write it: either key is kept.
            Err(StoreError::Damaged) => Precondition::Present(now_key()),
            Err(error) => return Err(error.into()),
        };
        let key = BackupKey::generate(entropy).map_err(StoreError::from)?;
        let ops = vec![Op::put(key_key(&key.id()), key.to_bytes().to_vec()), Op::put(now_key(), key.id().into_bytes())];
        match store.batch(ops, vec![unchanged]).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Keeps a key that somebody brought, so that a restore that is cut can go on after a start.
pub(crate) async fn keep(store: &TenantStore, keyring: &Keyring) -> Result<(), BackupError> {
    for (id, key) in &keyring.0 {
        store.put(&key_key(id), key.to_bytes().to_vec()).await?;
    }
    Ok(())
}

fn keys_key() -> Key {
    Key::new(["backup", "key"])
}

fn key_key(id: &str) -> Key {
    Key::new(["backup", "key", id])
}

fn now_key() -> Key {
    Key::new(["backup", "key-now"])
}
