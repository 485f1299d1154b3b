//! Rotations of the root key: every key of the store is wrapped anew, and then the older version is let go.
//!
//! A durable mark in the platform's area says that one is under way, so that a start goes on with what was cut. Must never let an
//! older version go that a key may still need: one that is damaged or missing now may come back from a backup, and the key of
//! a tenant that is being restored is nobody's yet. Must never keep one tenant waiting for the key of another.

use std::sync::Arc;

use ringfence_keys::KeysError;
use tokio::task::spawn_blocking;

use crate::error::StoreError;
use crate::key::{Key, Uid};
use crate::tenant_keys::{PLATFORM_UID, read_key, write_key};
use crate::tenants::{Inner, PLATFORM, Tenants, parse_uid, staged_prefix};

/// What came of a rotation of the root key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootRotation {
    /// Keys wrapped anew, the host's own among them.
    pub rewrapped_count: usize,
    /// Names of those that could not be, because their key is damaged or missing: for their sake the older version is kept.
    pub failed: Vec<String>,
    /// Whether nothing needs the older version any more. Else [`Tenants::resume_root_rotation`] goes on.
    pub is_over: bool,
}

// === impl Tenants ===

impl Tenants {
    /// Gives the root key a new version, wraps every key anew with it, and lets go of the old where nothing needs it. A key that
    /// is damaged is named and stands in no other's way; a provider or a disk that does not answer stops it. Stopped half
    /// way, [`Tenants::resume_root_rotation`] goes on, which each start calls.
    pub async fn rotate_root(&self) -> Result<RootRotation, StoreError> {
        let _one = self.0.changing.lock().await;
        // Durable first: whatever is cut from here on is gone on with.
        self.0.platform.put(&mark(), Vec::new()).await?;
        let inner = Arc::clone(&self.0);
        spawn_blocking(move || inner.root.rotate(inner.entropy.as_ref())).await.map_err(StoreError::unavailable)??;
        self.rewrap_all().await
    }

    /// Whether a rotation of the root key was begun and is not over.
    pub async fn is_root_rotating(&self) -> Result<bool, StoreError> {
        Ok(self.0.platform.get(&mark()).await?.is_some())
    }

    /// Goes on with a rotation that is not over, if there is one. Fails when the provider does not answer and for no other
    /// reason, so that nothing else keeps a start from ending: the mark stays.
    pub async fn resume_root_rotation(&self) -> Result<(), StoreError> {
        if !self.is_root_rotating().await? {
            return Ok(());
        }
        let _one = self.0.changing.lock().await;
        match self.rewrap_all().await {
            Ok(RootRotation { rewrapped_count, is_over, .. }) => {
                tracing::info!(rewrapped_count, is_over, "went on with a rotation of the root key");
            }
            Err(error @ StoreError::Keys(KeysError::Unreachable { .. } | KeysError::Refused { .. })) => {
                return Err(error);
            }
            Err(error) => tracing::error!(%error, "a rotation of the root key is not over yet"),
        }
        Ok(())
    }

    /// Wraps every key with the newest version of the root key. Needs no key of a tenant to be open. For who holds `changing`.
    async fn rewrap_all(&self) -> Result<RootRotation, StoreError> {
        let mut all = vec![(PLATFORM.to_owned(), PLATFORM_UID)];
        for (name, uid) in self.every_uid() {
            all.push((name, parse_uid(&uid)?));
        }
        let inner = Arc::clone(&self.0);
        let rewrapped = spawn_blocking(move || rewrap_each(&inner, all)).await.map_err(StoreError::unavailable)?;
        let (rewrapped_count, failed) = rewrapped?;
        // What is being restored has the version of when that began. Whoever begins after this look has the newest.
        let staged = self.0.platform.scan(&staged_prefix(), None, 1).await?;
        let is_over = failed.is_empty() && staged.records.is_empty();
        if is_over {
            let inner = Arc::clone(&self.0);
            spawn_blocking(move || inner.root.retire()).await.map_err(StoreError::unavailable)??;
            self.0.platform.delete(&mark()).await?;
        }
        Ok(RootRotation { rewrapped_count, failed, is_over })
    }
}

/// How many were wrapped anew, and the names of those that could not be. Blocks.
fn rewrap_each(inner: &Inner, all: Vec<(String, Uid)>) -> Result<(usize, Vec<String>), StoreError> {
    let (mut rewrapped_count, mut failed) = (0, Vec::new());
    for (name, uid) in all {
        match rewrap(inner, &name, &uid) {
            Ok(true) => rewrapped_count += 1,
            Ok(false) => {}
            // No version of this root key opens it: none is kept for its sake.
            Err(error @ StoreError::Keys(KeysError::OtherRootKey { .. })) => {
                tracing::warn!(tenant = %name, %error, "a key was left as it is");
            }
            Err(error) if is_its_own(&error) => {
                tracing::error!(tenant = %name, %error, "a key could not be wrapped anew; the older root key is kept");
                failed.push(name);
            }
            Err(error) => return Err(error),
        }
    }
    Ok((rewrapped_count, failed))
}

/// Whether it was under an older version.
fn rewrap(inner: &Inner, name: &str, uid: &Uid) -> Result<bool, StoreError> {
    let wrapped = read_key(&inner.store, uid)?.ok_or(StoreError::KeyMissing { what: "a tenant" })?;
    let Some(next) = inner.root.rewrap(name, &wrapped, inner.entropy.as_ref())? else { return Ok(false) };
    write_key(&inner.store, uid, &next)?;
    Ok(true)
}

/// Whether it is about this key alone, rather than about the provider or the disk.
fn is_its_own(error: &StoreError) -> bool {
    match error {
        StoreError::Damaged | StoreError::KeyMissing { .. } => true,
        StoreError::Keys(error) => !error.is_transient(),
        _ => false,
    }
}

fn mark() -> Key {
    Key::new(["root-rotation"])
}
