//! Rotations of the root key: every key of the store is wrapped anew, and then the older version is let go.
//!
//! A durable mark in the platform's area says that one is under way, so that a start goes on with what was cut. Must never let an
//! older version go that a key may still need: one that is damaged or missing now may come back from a backup, the key of
//! a tenant that is being restored is nobody's yet, and of a tenant whose making failed in doubt nobody knows. Must never keep
//! one tenant waiting for the key of another, nor ask the provider under the lock of all tenants: it may take a minute.
//!
//! There is one rotation at a time, under a lock of its own. What changes meanwhile: a tenant that is written before the look at
//! all of them is among them, and one that is not, but whose key was asked for before the look, gets another key. A key is put in
//! the place of the one that it was made of, or made again. Whatever a tenant's own act made of the older one is a conflict
//! (`rewrap.rs`), and what is being deleted is not written again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ringfence_core::TenantId;
use ringfence_keys::{KeysError, WrappedKey};
use tokio::sync::OwnedMutexGuard;
use tokio::task::spawn_blocking;

use crate::error::StoreError;
use crate::key::{Key, Uid};
use crate::tenant_keys::{PLATFORM_UID, read_key, write_key};
use crate::tenants::{Inner, PLATFORM, Phase, Tenants, parse_uid, staged_prefix};

/// LIMIT: attempts at a key that others change meanwhile.
pub(crate) const ATTEMPTS_COUNT_MAX: u32 = 8;

/// What came of a rotation of the root key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootRotation {
    /// Keys wrapped anew, the host's own among them.
    pub rewrapped_count: usize,
    /// Names of those that could not be, because their key is damaged or missing, or others changed it again and again: for
    /// their sake the older version is kept.
    pub failed: Vec<String>,
    /// Whether nothing needs the older version any more. Else [`Tenants::resume_root_rotation`] goes on.
    pub is_over: bool,
}

/// The keys that may be under an older version.
struct Older {
    keys: Vec<(Owner, Uid)>,
    /// Whether there may be another one, which cannot be wrapped anew yet.
    is_one_missing: bool,
}

/// Whose key it is.
enum Owner {
    Platform,
    Tenant(TenantId),
}

// === impl Tenants ===

impl Tenants {
    /// Gives the root key a new version, wraps every key anew with it, and lets go of the old where nothing needs it. A key that
    /// is damaged is named and stands in no other's way; a provider or a disk that does not answer stops it. Stopped half
    /// way, [`Tenants::resume_root_rotation`] goes on, which each start calls; refused by the provider, none was begun. Waits for
    /// another one that is under way.
    pub async fn rotate_root(&self) -> Result<RootRotation, StoreError> {
        let one = Arc::clone(&self.0.rotating).lock_owned().await;
        let was_rotating = self.is_root_rotating().await?;
        // Durable first: whatever is cut from here on is gone on with.
        self.0.platform.put(&mark(), Vec::new()).await?;
        let inner = Arc::clone(&self.0);
        // The lock goes with what it is for: who waits for this may go away, and the provider must not be asked by two.
        let rotated = spawn_blocking(move || (inner.root.rotate(inner.entropy.as_ref()), one));
        let (rotated, one) = rotated.await.map_err(StoreError::unavailable)?;
        if let Err(error) = rotated {
            // Nothing was changed, so there is nothing to go on with. Were it otherwise, the older version would be kept.
            if matches!(error, KeysError::Refused { .. })
                && !was_rotating
                && let Err(error) = self.0.platform.delete(&mark()).await
            {
                tracing::warn!(%error, "that the root key is not rotated could not be written down");
            }
            return Err(error.into());
        }
        self.rewrap_all(one).await
    }

    /// Whether a rotation of the root key was begun and is not over.
    pub async fn is_root_rotating(&self) -> Result<bool, StoreError> {
        Ok(self.0.platform.get(&mark()).await?.is_some())
    }

    /// Goes on with a rotation that is not over, if there is one and nobody is at it. Does not wait for a provider that is at it
    /// still: nothing is wrapped then, and it fails with [`KeysError::Unreachable`]. When it fails, the mark stays, and nobody needs
    /// it to end: every key opens meanwhile.
    pub async fn resume_root_rotation(&self) -> Result<(), StoreError> {
        let Ok(one) = Arc::clone(&self.0.rotating).try_lock_owned() else { return Ok(()) };
        if !self.is_root_rotating().await? {
            return Ok(());
        }
        let inner = Arc::clone(&self.0);
        let rotated = spawn_blocking(move || (inner.root.check_rotated(), one));
        let (rotated, one) = rotated.await.map_err(StoreError::unavailable)?;
        rotated?;
        let RootRotation { rewrapped_count, is_over, .. } = self.rewrap_all(one).await?;
        tracing::info!(rewrapped_count, is_over, "went on with a rotation of the root key");
        Ok(())
    }

    /// Wraps every key with the newest version of the root key. Needs no key of a tenant to be open. For who holds `rotating`.
    async fn rewrap_all(&self, one: OwnedMutexGuard<()>) -> Result<RootRotation, StoreError> {
        let Older { keys, is_one_missing } = self.older().await?;
        let (mut rewrapped_count, mut failed) = (0, Vec::new());
        for (owner, uid) in keys {
            match self.rewrap_by_root(&owner, uid).await {
                Ok(true) => rewrapped_count += 1,
                Ok(false) => {}
                // No version of this root key opens it: none is kept for its sake.
                Err(error @ StoreError::Keys(KeysError::OtherRootKey { .. })) => {
                    tracing::warn!(tenant = owner.name(), %error, "a key was left as it is");
                }
                Err(error) if is_its_own(&error) => {
                    tracing::error!(tenant = owner.name(), %error, "a key could not be wrapped anew; the older root key is kept");
                    failed.push(owner.name().to_owned());
                }
                Err(error) => return Err(error),
            }
        }
        let is_over = failed.is_empty() && !is_one_missing;
        if is_over {
            let inner = Arc::clone(&self.0);
            let retired = spawn_blocking(move || (inner.root.retire(), one));
            let (retired, _one) = retired.await.map_err(StoreError::unavailable)?;
            retired?;
            self.0.platform.delete(&mark()).await?;
        }
        Ok(RootRotation { rewrapped_count, failed, is_over })
    }

    /// What may be under an older version than the newest of this moment.
    async fn older(&self) -> Result<Older, StoreError> {
        // Whoever writes a tenant, or makes one of what was restored, is waited for: it is seen here, or has the newest.
        let _all = self.0.changing.lock().await;
        self.0.looks_count.fetch_add(1, Ordering::Release);
        // Also what somebody who went away left in the line: this stands behind it.
        self.0.platform.batch(Vec::new(), Vec::new()).await?;
        // What is being restored has the version of when that began. Whoever begins after this look has the newest.
        let staged = self.0.platform.scan(&staged_prefix(), None, 1).await?;
        let mut is_one_missing = !staged.records.is_empty();
        let mut keys = vec![(Owner::Platform, PLATFORM_UID)];
        // By name: where they lie says nothing.
        let mut tenants = self.every_stored().await?;
        tenants.sort_by(|one, other| one.record.id.cmp(&other.record.id));
        for stored in tenants {
            // Written though whoever made it was told that this is in doubt: the next start knows it.
            is_one_missing |= !self.is_known(&stored.record.id);
            if stored.phase == Phase::Live {
                keys.push((Owner::Tenant(stored.record.id), parse_uid(&stored.record.uid)?));
            }
        }
        Ok(Older { keys, is_one_missing })
    }

    /// Whether it was under an older version. Asks the provider with no lock of others held.
    async fn rewrap_by_root(&self, owner: &Owner, uid: Uid) -> Result<bool, StoreError> {
        for _ in 0..ATTEMPTS_COUNT_MAX {
            let (inner, name) = (Arc::clone(&self.0), owner.name().to_owned());
            let made = spawn_blocking(move || rewrapped(&inner, &name, &uid)).await.map_err(StoreError::unavailable)?;
            let all = Arc::clone(&self.0.changing).lock_owned().await;
            // First: what is being deleted may be half gone.
            if !self.has(owner, &uid) {
                return Ok(false);
            }
            let Some((before, next)) = made? else { return Ok(false) };
            let store = self.0.store.clone();
            // The lock goes with it: who waits for this may go away, and then a deletion must not shred the file before it is
            // written.
            let written = spawn_blocking(move || {
                let _all = all;
                let is_as_before = read_key(&store, &uid)?.as_ref() == Some(&before);
                if is_as_before {
                    write_key(&store, &uid, &next)?;
                }
                Ok::<_, StoreError>(is_as_before)
            });
            if written.await.map_err(StoreError::unavailable)?? {
                return Ok(true);
            }
        }
        Err(StoreError::Conflict { precondition: 0 })
    }

    /// Whether the key of this uid is still the owner's, and no deletion began.
    fn has(&self, owner: &Owner, uid: &Uid) -> bool {
        match owner {
            Owner::Platform => true,
            Owner::Tenant(id) => self.live_uid(id).is_ok_and(|live| live == *uid),
        }
    }
}

impl Owner {
    fn name(&self) -> &str {
        match self {
            Self::Platform => PLATFORM,
            Self::Tenant(id) => id.as_str(),
        }
    }
}

/// A key as it is, and wrapped by the newest version; none when it is already. Blocks.
fn rewrapped(inner: &Inner, name: &str, uid: &Uid) -> Result<Option<(WrappedKey, WrappedKey)>, StoreError> {
    let before = read_key(&inner.store, uid)?.ok_or(StoreError::KeyMissing { what: "a tenant" })?;
    let next = inner.root.rewrap(name, &before, inner.entropy.as_ref())?;
    Ok(next.map(|next| (before, next)))
}

/// Whether it is about this key alone, rather than about the provider or the disk.
fn is_its_own(error: &StoreError) -> bool {
    match error {
        StoreError::Damaged | StoreError::KeyMissing { .. } | StoreError::Conflict { .. } => true,
        StoreError::Keys(error) => !error.is_transient(),
        _ => false,
    }
}

fn mark() -> Key {
    Key::new(["root-rotation"])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use ringfence_core::{Clock, Entropy};
    use ringfence_keys::{RootKey, RootKeyUri};

    use super::*;
    use crate::engine::{Fault, Faults};
    use crate::store::Store;

    struct Stopped;
    impl Clock for Stopped {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }
        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
    }

    /// Every draw another.
    #[derive(Default)]
    struct Numbered(std::sync::atomic::AtomicU64);
    impl Entropy for Numbered {
        fn fill(&self, into: &mut [u8]) {
            let number = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_be_bytes();
            for (at, byte) in into.iter_mut().enumerate() {
                *byte = number[at % number.len()];
            }
        }
    }

    #[tokio::test]
    async fn the_older_version_is_kept_for_a_tenant_of_whom_nobody_knows_whether_it_was_made() {
        let directory = tempfile::tempdir().unwrap();
        let uri = RootKeyUri::File(directory.path().join("root.key"));
        let (entropy, faults) = (Arc::new(Numbered::default()), Faults::default());
        let root = Arc::new(RootKey::open_or_create(&uri, &*entropy).unwrap());
        let store = Store::memory_with_faults(faults.clone());
        let open =
            async || Tenants::open(store.clone(), root.clone(), entropy.clone(), Arc::new(Stopped)).await.unwrap();
        let (tenants, acme) = (open().await, "acme".parse::<TenantId>().unwrap());
        faults.plan([Some(Fault::InDoubt)]);
        let made = tenants.create(&acme, "in doubt").await;
        assert!(matches!(made, Err(StoreError::Unavailable { .. })), "{made:?}");
        let done = tenants.rotate_root().await.unwrap();
        assert_eq!((done.rewrapped_count, done.is_over), (1, false), "the host's own");
        // The next start knows it, and goes on.
        let tenants = open().await;
        assert!(tenants.open_tenant(&acme).is_some());
        let versions = tenants.key_status(&acme).await.unwrap().versions;
        assert!(versions.iter().all(|version| version.root == root.id()));
        assert!(!tenants.is_root_rotating().await.unwrap());
    }
}
