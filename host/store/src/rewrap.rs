//! Acts on a tenant's key that ask its providers: read what there is, ask with no lock held, and under the lock of all tenants
//! write what came of it, where nothing changed meanwhile.
//!
//! Must never ask a tenant's own provider under that lock, for it may take its time, nor write two things that were made of the
//! same key: the later act is a [`StoreError::Conflict`]. A deletion that began meanwhile goes before all of them.

use std::sync::Arc;

use ringfence_core::TenantId;
use ringfence_keys::{KeysError, TenantKeys, WrappedKey};
use tokio::sync::OwnedMutexGuard;
use tokio::task::spawn_blocking;

use crate::error::StoreError;
use crate::key::Uid;
use crate::tenant_keys::write_key;
use crate::tenants::{Inner, Tenants};

/// What an act on a tenant's key goes from.
#[derive(Clone)]
pub(crate) struct Basis {
    uid: Uid,
    pub(crate) keys: TenantKeys,
    pub(crate) wrapped: WrappedKey,
}

// === impl Tenants ===

impl Tenants {
    /// A tenant's key as it is now.
    pub(crate) async fn basis(&self, id: &TenantId) -> Result<Basis, StoreError> {
        let uid = self.live_uid(id)?;
        let keys = self.open_tenant(id).ok_or(StoreError::UnknownTenant)?.keys().clone();
        Ok(Basis { uid, keys, wrapped: self.wrapped(uid).await? })
    }

    /// What it unwraps to, or what its providers say instead; not for who holds the lock.
    pub(crate) async fn unwrap_basis(&self, basis: &Basis) -> Result<Result<TenantKeys, KeysError>, StoreError> {
        let (inner, Basis { keys, wrapped, .. }) = (Arc::clone(&self.0), basis.clone());
        let unwrapped = spawn_blocking(move || inner.root.unwrap_tenant_key(keys.tenant(), &wrapped));
        unwrapped.await.map_err(StoreError::unavailable)
    }

    /// Takes the lock of all tenants, where the tenant's key is still what the act went from.
    pub(crate) async fn settle(&self, id: &TenantId, basis: &Basis) -> Result<OwnedMutexGuard<()>, StoreError> {
        let one = Arc::clone(&self.0.changing).lock_owned().await;
        if self.live_uid(id)? != basis.uid || self.wrapped(basis.uid).await? != basis.wrapped {
            return Err(StoreError::Conflict { precondition: 0 });
        }
        Ok(one)
    }

    /// Puts what `make` makes of a tenant's key in its place, and into force. `make` may ask providers. Gives the lock of all
    /// tenants, for what belongs to the same act. Fails while the keys are closed.
    pub(crate) async fn rewrap(
        &self,
        id: &TenantId,
        basis: Basis,
        make: impl FnOnce(&Inner, &str, &WrappedKey) -> Result<WrappedKey, KeysError> + Send + 'static,
    ) -> Result<OwnedMutexGuard<()>, StoreError> {
        basis.keys.check()?;
        let (inner, Basis { keys, wrapped, .. }) = (Arc::clone(&self.0), basis.clone());
        let made = spawn_blocking(move || {
            let next = make(&inner, keys.tenant(), &wrapped)?;
            // It must open before it takes the place of one that does.
            let unwrapped = inner.root.unwrap_tenant_key(keys.tenant(), &next)?;
            Ok::<_, KeysError>((next, unwrapped))
        });
        let made = made.await.map_err(StoreError::unavailable)?;
        let one = self.settle(id, &basis).await?;
        // Whoever closed them meanwhile has the last word.
        basis.keys.check()?;
        // Last: what failed because of a change is told as the change.
        let (next, unwrapped) = made?;
        let store = self.0.store.clone();
        // The lock goes with it: who waits for this may go away, and then a deletion must not shred the file before it is written.
        let written = spawn_blocking(move || {
            // Durable first: what is sealed under a new version must find it after a crash.
            write_key(&store, &basis.uid, &next)?;
            basis.keys.adopt(&unwrapped)?;
            Ok::<_, StoreError>(one)
        });
        written.await.map_err(StoreError::unavailable)?
    }
}
