//! Who the tenants are, and their keys: made, opened, suspended, destroyed.
//!
//! The platform's own area keeps one sealed record a tenant; the wrapped key of each lies in a file of its own, because a
//! file can be overwritten and a log-structured database cannot forget. Must never serve a tenant whose deletion has begun.
//!
//! Deleting: handles refuse at once; the intent is made durable, with what will be destroyed; the key is destroyed, and with it
//! everything the tenant stored; then records, files and at last the tenant's own record go, and what was destroyed waits for
//! its receipt (`destroyed.rs`). What fails in between is carried on while the host runs ([`Tenants::carry_on_deletion`]), and
//! what a crash cuts at the next start; until it is done nobody reaches the tenant, and its name is taken.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use ringfence_core::{Clock, Entropy, QuotaChoice, TenantId};
use ringfence_keys::{Closed, KeysError, RootKey, TenantKeys, WrappedKey};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;
use tokio::task::spawn_blocking;

use crate::abandoned::Abandoned;
use crate::blobs;
use crate::destroyed::Destroyed;
use crate::engine::{Order, Span};
use crate::error::StoreError;
use crate::key::{AREA_FILES, Key, UID_BYTES, Uid, area, successor};
use crate::locks::Locks;
use crate::own_keys::OwnSeen;
use crate::record::{Op, Precondition};
use crate::root_rotation::ATTEMPTS_COUNT_MAX;
use crate::store::Store;
use crate::tenant_keys::{IsAnother, PLATFORM_UID, read_key, state_key, write_key};
use crate::tenant_store::{Tenant, TenantStore, value_directory};

/// What the platform's own area is called where a tenant's name would stand. No tenant can have this name.
pub const PLATFORM: &str = "_platform";
/// The same for an area that lives for a drill.
const NAMELESS: &str = "_drill";

/// LIMIT: longest display name, in bytes.
const DISPLAY_NAME_BYTES_MAX: usize = 200;
/// LIMIT: value files checked at a time.
const SWEEP_COUNT: usize = 10_000;

/// Whether a tenant's plugins run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum TenantState {
    /// They do.
    Active = 0,
    /// They do not; nothing is lost.
    Suspended = 1,
}

/// What is known about a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRecord {
    /// Its name.
    pub id: TenantId,
    /// Its unique id, 32 hex digits: another one when a deleted name is used again.
    pub uid: String,
    /// What people call it.
    pub display_name: String,
    /// Whether its plugins run.
    pub state: TenantState,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its plan, and what differs from it; the standard plan for a tenant from before there were plans.
    #[serde(default)]
    pub quota: QuotaChoice,
}

/// All tenants. Cheap to clone.
#[derive(Clone)]
pub struct Tenants(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) root: Arc<RootKey>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) platform: TenantStore,
    known: RwLock<BTreeMap<TenantId, Known>>,
    pub(crate) own_seen: OwnSeen,
    pub(crate) abandoned: Abandoned,
    /// One change of the tenants at a time; not held while a deletion waits for the root key provider or for the disk, nor while
    /// the key of a new tenant is made, a tenant's own provider is asked (`rewrap.rs`) or the root key is rotated
    /// (`root_rotation.rs`).
    pub(crate) changing: Arc<tokio::sync::Mutex<()>>,
    /// Looks of rotations of the root key at all tenants. Changes under `changing` only.
    pub(crate) looks_count: AtomicU64,
    /// One rotation of the root key at a time. Taken before `changing`.
    pub(crate) rotating: Arc<tokio::sync::Mutex<()>>,
}

/// Why a tenant was not made.
enum NotMade {
    /// There is no record of it.
    Refused(StoreError),
    /// There may be a record of it after all: then its key must be there too.
    InDoubt(StoreError),
}

impl From<StoreError> for NotMade {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

#[derive(Clone)]
struct Known {
    stored: StoredTenant,
    /// None when the tenant's key is missing or its deletion was begun by an earlier run.
    view: Option<TenantStore>,
    /// Held by who deletes it, taken before `changing`.
    ending: Arc<tokio::sync::Mutex<()>>,
}

/// A tenant's record as it lies in the platform's area.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StoredTenant {
    #[serde(flatten)]
    pub(crate) record: TenantRecord,
    pub(crate) phase: Phase,
    /// What its deletion is about, where a receipt is owed; boxed because nearly no tenant has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) destroyed: Option<Box<Destroyed>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    Live,
    /// The key is destroyed or about to be; there is no way back.
    Deleting,
}

// === impl Tenants ===

impl Tenants {
    /// Reads all tenants and unwraps their keys; carries on deletions that were interrupted and removes files that a crash
    /// left behind. Makes the platform's key when the store is new. A provider that opens every key and refuses anything else keeps
    /// no start from ending: what it refuses is gone on with later.
    pub async fn open(
        store: Store,
        root: Arc<RootKey>,
        entropy: Arc<dyn Entropy>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let keys = platform_keys(&store, &root, entropy.as_ref())?;
        let platform = Tenant::new(None, PLATFORM_UID, keys, Arc::clone(&entropy), TenantState::Active);
        let platform = TenantStore::new(store.clone(), platform);
        prepare_files(&store, &PLATFORM_UID)?;
        let (changing, rotating) = (Arc::default(), Arc::default());
        let (known, own_seen) = (RwLock::default(), OwnSeen::default());
        let (looks_count, abandoned) = (AtomicU64::new(0), Abandoned::default());
        let inner = Inner {
            store,
            root,
            entropy,
            clock,
            platform,
            known,
            own_seen,
            abandoned,
            changing,
            looks_count,
            rotating,
        };
        let this = Self(Arc::new(inner));
        this.sweep_staged().await?;
        for stored in this.every_stored().await? {
            this.load(stored).await?;
        }
        if let Err(error) = this.resume_root_rotation().await {
            // Every key is open by now, and the background goes on with it.
            tracing::warn!(%error, "a rotation of the root key is not over yet");
        }
        Ok(this)
    }

    /// The platform's own area.
    pub fn platform(&self) -> &TenantStore {
        &self.0.platform
    }

    /// Makes a tenant with a key of its own; [`StoreError::Exists`] when the name is taken, by one being deleted too.
    pub async fn create(&self, id: &TenantId, display_name: &str) -> Result<TenantRecord, StoreError> {
        self.create_with(id, display_name, QuotaChoice::default()).await
    }

    /// As [`Tenants::create`], with a plan and what differs from it.
    pub async fn create_with(
        &self,
        id: &TenantId,
        display_name: &str,
        quota: QuotaChoice,
    ) -> Result<TenantRecord, StoreError> {
        self.create_under(id, display_name, quota, &Locks::default()).await.map(|(record, _lock)| record)
    }

    /// The same for who makes changes under locks of his own: that of the name is taken once the provider has answered, and given
    /// to go on with. [`StoreError::Conflict`] when the root key is rotated again and again meanwhile. A name that is taken while the key is
    /// made is taken too. The key of a tenant that is not made is destroyed at the provider, with no lock held.
    pub async fn create_under(
        &self,
        id: &TenantId,
        display_name: &str,
        quota: QuotaChoice,
        locks: &Locks<TenantId>,
    ) -> Result<(TenantRecord, OwnedMutexGuard<()>), StoreError> {
        if display_name.len() > DISPLAY_NAME_BYTES_MAX {
            return Err(StoreError::TooLarge { what: "a display name", max: DISPLAY_NAME_BYTES_MAX as u64 });
        }
        for _ in 0..ATTEMPTS_COUNT_MAX {
            if self.known(id).is_some() {
                return Err(StoreError::Exists);
            }
            self.check_free().await?;
            let looks_count = self.0.looks_count.load(Ordering::Acquire);
            // With no lock held: a provider takes its time.
            let (keys, wrapped) = self.make_key(id.as_str()).await?;
            let callers = locks.of(id.clone()).await;
            let one = self.0.changing.lock().await;
            let is_taken = self.known(id).is_some();
            // What was made before a rotation's look at all tenants, and is not among them, may be under what it lets go of.
            if !is_taken && self.0.looks_count.load(Ordering::Acquire) == looks_count {
                let mut uid = [0; UID_BYTES];
                self.0.entropy.fill(&mut uid);
                let error = match self.put_in_place(id, uid, (display_name, quota), (keys, &wrapped)).await {
                    Ok(record) => return Ok((record, callers)),
                    Err(NotMade::InDoubt(error)) => return Err(error),
                    Err(NotMade::Refused(error)) => error,
                };
                drop((one, callers));
                self.unmake_key(wrapped).await;
                self.remove_unused(uid).await;
                return Err(error);
            }
            drop((one, callers));
            self.unmake_key(wrapped).await;
        }
        Err(StoreError::Conflict { precondition: 0 })
    }

    /// Writes down a new tenant with the key that was made for it. For who holds `changing`, and asks no provider for that.
    async fn put_in_place(
        &self,
        id: &TenantId,
        uid: Uid,
        (display_name, quota): (&str, QuotaChoice),
        (keys, wrapped): (TenantKeys, &WrappedKey),
    ) -> Result<TenantRecord, NotMade> {
        let record = TenantRecord {
            id: id.clone(),
            uid: HEXLOWER.encode(&uid),
            display_name: display_name.to_owned(),
            state: TenantState::Active,
            created_at: self.0.clock.now(),
            quota,
        };
        let stored = StoredTenant { record: record.clone(), phase: Phase::Live, destroyed: None };
        // The key first: a tenant without its key would be lost, a key without its tenant is a small useless file.
        write_key(&self.0.store, &uid, wrapped)?;
        prepare_files(&self.0.store, &uid)?;
        let name = tenant_key(id);
        let written =
            self.0.platform.batch(vec![Op::put_json(name.clone(), &stored)?], vec![Precondition::Absent(name)]).await;
        written.map_err(|error| match error {
            StoreError::Unavailable { .. } => NotMade::InDoubt(error),
            refused => NotMade::Refused(refused),
        })?;
        self.remember(stored, Some(keys));
        Ok(record)
    }

    /// Removes the wrapped key and the directories of a tenant that was not made. When that fails they stay, of no use to anybody.
    async fn remove_unused(&self, uid: Uid) {
        let (inner, store) = (Arc::clone(&self.0), self.0.store.clone());
        let removed = spawn_blocking(move || {
            let mut noise = [0; 64];
            inner.entropy.fill(&mut noise);
            let files = &store.0.files;
            let shredded = files.shred(&key_path(&uid), &noise);
            files.remove_directory(&format!("blobs/{}", HEXLOWER.encode(&uid))).and(shredded)
        });
        if let Ok(Err(error)) = removed.await {
            tracing::warn!(%error, "files of a tenant that was not made are left");
        }
    }

    /// All tenants by name, those being deleted left out.
    pub async fn list(&self) -> Result<Vec<TenantRecord>, StoreError> {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        Ok(known
            .values()
            .filter(|known| known.stored.phase == Phase::Live)
            .map(|known| known.stored.record.clone())
            .collect())
    }

    /// One tenant; none when there is none of that name.
    pub async fn record(&self, id: &TenantId) -> Result<Option<TenantRecord>, StoreError> {
        Ok(self.known(id).filter(|known| known.stored.phase == Phase::Live).map(|known| known.stored.record))
    }

    /// Suspends or resumes a tenant; [`TenantStore::state`] of every handle says so from then on.
    pub async fn set_state(&self, id: &TenantId, state: TenantState) -> Result<TenantRecord, StoreError> {
        self.change(id, |record| record.state = state).await
    }

    /// Suspends or resumes a tenant as far as this process goes, and says what it was: nothing is written down.
    pub(crate) async fn hold_state(&self, id: &TenantId, state: TenantState) -> Result<TenantState, StoreError> {
        let _one = self.0.changing.lock().await;
        let mut known =
            self.known(id).filter(|known| known.stored.phase == Phase::Live).ok_or(StoreError::UnknownTenant)?;
        let before = std::mem::replace(&mut known.stored.record.state, state);
        self.put_into_force(known);
        Ok(before)
    }

    /// Writes down what was chosen for a tenant; others put it into force.
    pub async fn set_quota(&self, id: &TenantId, quota: QuotaChoice) -> Result<TenantRecord, StoreError> {
        self.change(id, |record| record.quota = quota).await
    }

    /// The view of a tenant; none when there is none of that name, it is being deleted, or its key is missing. Answers from
    /// memory.
    pub fn open_tenant(&self, id: &TenantId) -> Option<TenantStore> {
        // Asked on every call: its record is not copied for it.
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(id).filter(|known| known.stored.phase == Phase::Live).and_then(|known| known.view.clone())
    }

    /// Begins to destroy a tenant because `by` wants it now; whoever asked before and is another person wants it with him. From
    /// then on handles answer [`StoreError::Gone`] and the tenant is among [`Tenants::deleting`], its keys still alive, until
    /// [`Tenants::carry_on_deletion`] went through; what was destroyed is then kept until its receipt is
    /// ([`Tenants::unreceipted`]). Waits for no provider and no other deletion; [`StoreError::UnknownTenant`] where one was begun.
    pub async fn begin_destroy(&self, id: &TenantId, by: &str, is_another: &IsAnother<'_>) -> Result<(), StoreError> {
        let _one = self.0.changing.lock().await;
        let known =
            self.known(id).filter(|known| known.stored.phase == Phase::Live).ok_or(StoreError::UnknownTenant)?;
        let destroyed = self.about_to_destroy(&known.stored.record, by, is_another).await?;
        self.begin_deletion(known, Some(destroyed)).await
    }

    /// The same for a tenant that nobody got to use: no receipt is owed.
    pub async fn begin_delete(&self, id: &TenantId) -> Result<(), StoreError> {
        let _one = self.0.changing.lock().await;
        let known =
            self.known(id).filter(|known| known.stored.phase == Phase::Live).ok_or(StoreError::UnknownTenant)?;
        self.begin_deletion(known, None).await
    }

    /// Deletes a tenant that nobody got to use, its key first. When it fails half way it is carried on too.
    pub async fn delete(&self, id: &TenantId) -> Result<(), StoreError> {
        self.begin_delete(id).await?;
        self.carry_on_deletion(id).await
    }

    /// Tenants whose deletion was begun and is not over: failed half way, cut, or under way. With the view that this process
    /// had of each; none where an earlier one began.
    pub fn deleting(&self) -> Vec<(TenantId, Option<TenantStore>)> {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        let deleting = known.iter().filter(|(_, known)| known.stored.phase == Phase::Deleting);
        deleting.map(|(id, known)| (id.clone(), known.view.clone())).collect()
    }

    /// Goes on with a deletion that was begun, where it is not over: the tenant's key first, then its data. Waits for who goes
    /// on with it already. Fine to call again when it fails.
    pub async fn carry_on_deletion(&self, id: &TenantId) -> Result<(), StoreError> {
        let Some(_mine) = self.end(id).await else { return Ok(()) };
        match self.known(id).filter(|known| known.stored.phase == Phase::Deleting) {
            Some(known) => self.finish_deletion(&known.stored).await,
            None => Ok(()),
        }
    }

    /// Waits until nobody else is deleting a tenant, and keeps it so; none when it is not there, or gone by then.
    async fn end(&self, id: &TenantId) -> Option<OwnedMutexGuard<()>> {
        let ending = self.known(id)?.ending;
        let mine = Arc::clone(&ending).lock_owned().await;
        self.known(id).filter(|known| Arc::ptr_eq(&known.ending, &ending)).map(|_| mine)
    }

    /// From here on nobody reaches the tenant, and there is no way back.
    async fn begin_deletion(&self, mut known: Known, destroyed: Option<Destroyed>) -> Result<(), StoreError> {
        let id = known.stored.record.id.clone();
        known.stored.phase = Phase::Deleting;
        // The first attempt saw the keys; a later one may find nothing left of them.
        known.stored.destroyed = known.stored.destroyed.take().or(destroyed.map(Box::new));
        match self.0.platform.put_json(&tenant_key(&id), &known.stored).await {
            // In doubt counts as begun: the next start may find it so. It is made sure of before any key goes.
            Ok(_) | Err(StoreError::Unavailable { .. }) => {}
            Err(error) => return Err(error),
        }
        if let Some(view) = &known.view {
            view.shared().set_gone();
        }
        self.0.known.write().unwrap_or_else(PoisonError::into_inner).insert(id, known);
        Ok(())
    }

    /// Makes the area and the keys of a tenant to be, under the name it shall have; without one it can never be published, and no
    /// tenant's name is in its way. Nobody can reach it, and a start throws it away, until [`Tenants::publish`].
    pub(crate) async fn stage(&self, id: Option<&TenantId>) -> Result<TenantStore, StoreError> {
        if id.is_some_and(|id| self.known(id).is_some()) {
            return Err(StoreError::Exists);
        }
        let mut uid = [0; UID_BYTES];
        self.0.entropy.fill(&mut uid);
        self.check_free().await?;
        // The note first: whatever comes after it is found and thrown away, and no older root key is let go before it is gone.
        self.0.platform.put(&staged_key(&HEXLOWER.encode(&uid)), Vec::new()).await?;
        let keys = match self.furnish(id.map_or(NAMELESS, TenantId::as_str), uid).await {
            Ok(keys) => keys,
            Err(error) => {
                self.0.abandoned.insert(uid);
                return Err(error);
            }
        };
        let entropy = Arc::clone(&self.0.entropy);
        let tenant = Tenant::new(id.cloned(), uid, keys, entropy, TenantState::Suspended);
        Ok(TenantStore::new(self.0.store.clone(), tenant))
    }

    /// Makes the keys and the directories of an area.
    async fn furnish(&self, label: &str, uid: Uid) -> Result<TenantKeys, StoreError> {
        let (keys, wrapped) = self.make_key(label).await?;
        if let Err(error) = write_key(&self.0.store, &uid, &wrapped) {
            // Nothing else names it.
            self.unmake_key(wrapped).await;
            return Err(error);
        }
        prepare_files(&self.0.store, &uid)?;
        Ok(keys)
    }

    /// Makes a staged area a tenant, in one write; [`StoreError::Exists`] when the name was taken meanwhile.
    pub(crate) async fn publish(
        &self,
        staged: &TenantStore,
        display_name: &str,
        quota: QuotaChoice,
    ) -> Result<TenantRecord, StoreError> {
        if display_name.len() > DISPLAY_NAME_BYTES_MAX {
            return Err(StoreError::TooLarge { what: "a display name", max: DISPLAY_NAME_BYTES_MAX as u64 });
        }
        let _one = self.0.changing.lock().await;
        let id = staged.tenant().ok_or(StoreError::UnknownTenant)?.clone();
        if self.known(&id).is_some() {
            return Err(StoreError::Exists);
        }
        let record = TenantRecord {
            id: id.clone(),
            uid: staged.uid(),
            display_name: display_name.to_owned(),
            state: TenantState::Active,
            created_at: self.0.clock.now(),
            quota,
        };
        let stored = StoredTenant { record: record.clone(), phase: Phase::Live, destroyed: None };
        let name = tenant_key(&id);
        let ops = vec![Op::put_json(name.clone(), &stored)?, Op::delete(staged_key(&staged.uid()))];
        self.0.platform.batch(ops, vec![Precondition::Absent(name)]).await?;
        staged.shared().set_state(TenantState::Active);
        let known = Known { stored, view: Some(staged.clone()), ending: Arc::default() };
        self.0.known.write().unwrap_or_else(PoisonError::into_inner).insert(id, known);
        Ok(record)
    }

    /// Destroys a staged area, its key first.
    pub(crate) async fn discard(&self, staged: &TenantStore) -> Result<(), StoreError> {
        staged.shared().set_gone();
        self.discard_area(staged.shared().uid).await
    }

    /// Refuses when the disk is below its floor.
    async fn check_free(&self) -> Result<(), StoreError> {
        let store = self.0.store.clone();
        blobs::blocking(move || store.0.check_free()).await
    }

    async fn change(&self, id: &TenantId, act: impl FnOnce(&mut TenantRecord)) -> Result<TenantRecord, StoreError> {
        let _one = self.0.changing.lock().await;
        let mut known =
            self.known(id).filter(|known| known.stored.phase == Phase::Live).ok_or(StoreError::UnknownTenant)?;
        act(&mut known.stored.record);
        self.0.platform.put_json(&tenant_key(id), &known.stored).await?;
        let record = known.stored.record.clone();
        self.put_into_force(known);
        Ok(record)
    }

    /// For who holds `changing`.
    fn put_into_force(&self, known: Known) {
        if let Some(view) = &known.view {
            view.shared().set_state(known.stored.record.state);
        }
        let id = known.stored.record.id.clone();
        self.0.known.write().unwrap_or_else(PoisonError::into_inner).insert(id, known);
    }

    /// For who holds the tenant's end (a start has nobody beside it) and does not hold `changing`: a provider that does not
    /// answer takes its time.
    async fn finish_deletion(&self, stored: &StoredTenant) -> Result<(), StoreError> {
        let id = &stored.record.id;
        self.0.platform.put_json(&tenant_key(id), stored).await?;
        self.erase_area(parse_uid(&stored.record.uid)?).await?;
        let _one = self.0.changing.lock().await;
        self.0.own_seen.forget(id);
        let now = self.0.clock.now();
        let destroyed = stored.destroyed.as_deref().map(|begun| Destroyed { destroyed_at: now, ..begun.clone() });
        let mut ops = vec![Op::delete(state_key(id)), Op::delete(tenant_key(id))];
        if let Some(destroyed) = &destroyed {
            ops.push(destroyed.op()?);
        }
        self.0.platform.batch(ops, Vec::new()).await?;
        self.0.known.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        Ok(())
    }

    /// Destroys the keys of an area, then everything in it.
    pub(crate) async fn erase_area(&self, uid: Uid) -> Result<(), StoreError> {
        self.destroy_keys(uid).await?;
        self.0.store.0.committer.erase(uid).await?;
        let store = self.0.store.clone();
        spawn_blocking(move || store.0.files.remove_directory(&format!("blobs/{}", HEXLOWER.encode(&uid))))
            .await
            .map_err(StoreError::unavailable)?
            .map_err(StoreError::unavailable)
    }

    async fn load(&self, stored: StoredTenant) -> Result<(), StoreError> {
        let uid = parse_uid(&stored.record.uid)?;
        if stored.phase == Phase::Deleting {
            tracing::info!(tenant = %stored.record.id, "carrying on with the deletion of a tenant");
            self.remember(stored.clone(), None);
            if let Err(error) = self.finish_deletion(&stored).await {
                // It is carried on while the host runs. No reason to keep the others down.
                tracing::warn!(tenant = %stored.record.id, %error, "the deletion of a tenant is not over yet");
            }
            return Ok(());
        }
        let Some(keys) = self.unwrap_stored(&stored.record.id, uid).await? else {
            self.remember(stored, None);
            return Ok(());
        };
        let store = self.0.store.clone();
        spawn_blocking(move || {
            prepare_files(&store, &uid)?;
            sweep_values(&store, &uid)
        })
        .await
        .map_err(StoreError::unavailable)??;
        if let Err(error) = self.begin_owed_reseal(&stored.record.id, &keys).await {
            // It is looked for again while the host runs. No reason to keep the others down.
            tracing::warn!(tenant = %stored.record.id, %error, "sealing anew after a rotation is not begun yet");
        }
        self.remember(stored, Some(keys));
        Ok(())
    }

    /// The keys of a tenant; none when they are lost. Not fatal for the others, and not a deletion either: a backup may bring
    /// the key back. A provider that is away is no loss: the start is tried again.
    async fn unwrap_stored(&self, id: &TenantId, uid: Uid) -> Result<Option<TenantKeys>, StoreError> {
        let (inner, tenant) = (Arc::clone(&self.0), id.clone());
        let unwrapped = spawn_blocking(move || match read_key(&inner.store, &uid) {
            Ok(Some(wrapped)) => Ok(inner.root.unwrap_tenant_key(tenant.as_str(), &wrapped)?),
            Ok(None) => Err(StoreError::KeyMissing { what: "a tenant" }),
            Err(error) => Err(error),
        })
        .await
        .map_err(StoreError::unavailable)?;
        match unwrapped {
            Ok(keys) => Ok(Some(keys)),
            Err(StoreError::Keys(error)) if error.is_own() => self.shut(id, &error),
            Err(StoreError::KeyRefused) => self.shut(id, &StoreError::KeyRefused),
            Err(
                error @ (StoreError::KeyMissing { .. }
                | StoreError::Damaged
                | StoreError::Keys(
                    KeysError::ShardGone
                    | KeysError::NotAuthentic
                    | KeysError::OtherRootKey { .. }
                    | KeysError::Malformed { .. },
                )),
            ) => {
                tracing::error!(tenant = %id, %error, "the key of a tenant is lost; its data cannot be opened");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The keys of a tenant whose own provider does not open them now: closed, until it does.
    fn shut(&self, id: &TenantId, error: &dyn fmt::Display) -> Result<Option<TenantKeys>, StoreError> {
        tracing::warn!(tenant = %id, %error, "a tenant starts locked: its own key provider does not open its key");
        self.0.own_seen.shut_at_start(id);
        Ok(Some(TenantKeys::closed(id.as_str(), Closed::Refused)))
    }

    /// The uid of a tenant that is not being deleted.
    pub(crate) fn live_uid(&self, id: &TenantId) -> Result<Uid, StoreError> {
        let known =
            self.known(id).filter(|known| known.stored.phase == Phase::Live).ok_or(StoreError::UnknownTenant)?;
        parse_uid(&known.stored.record.uid)
    }

    /// Name and uid of every tenant that is not being deleted, those that cannot be opened among them: a key that is about to
    /// be destroyed must not be written again.
    pub(crate) fn every_uid(&self) -> Vec<(String, String)> {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        let live = known.iter().filter(|(_, known)| known.stored.phase == Phase::Live);
        live.map(|(id, known)| (id.to_string(), known.stored.record.uid.clone())).collect()
    }

    /// The records of all tenants as they lie in the platform's area.
    pub(crate) async fn every_stored(&self) -> Result<Vec<StoredTenant>, StoreError> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = self.0.platform.scan(&Key::new(["tenant"]), after.as_ref(), usize::MAX).await?;
            for (_, record) in page.records {
                all.push(record.json()?);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(all),
            }
        }
    }

    /// Whether this process knows a tenant of that name, one that is being deleted too.
    pub(crate) fn is_known(&self, id: &TenantId) -> bool {
        self.known(id).is_some()
    }

    fn remember(&self, stored: StoredTenant, keys: Option<TenantKeys>) {
        let id = stored.record.id.clone();
        let view = keys.zip(parse_uid(&stored.record.uid).ok()).map(|(keys, uid)| {
            let tenant = Tenant::new(Some(id.clone()), uid, keys, Arc::clone(&self.0.entropy), stored.record.state);
            TenantStore::new(self.0.store.clone(), tenant)
        });
        let known = Known { stored, view, ending: Arc::default() };
        self.0.known.write().unwrap_or_else(PoisonError::into_inner).insert(id, known);
    }

    fn known(&self, id: &TenantId) -> Option<Known> {
        self.0.known.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }
}

impl fmt::Debug for Tenants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<tenants>")
    }
}

fn tenant_key(id: &TenantId) -> Key {
    Key::new(["tenant", id.as_str()])
}

pub(crate) fn staged_key(uid: &str) -> Key {
    Key::new(["staged", uid])
}

/// Of the areas of tenants to be.
pub(crate) fn staged_prefix() -> Key {
    Key::new(["staged"])
}

pub(crate) fn parse_uid(text: &str) -> Result<Uid, StoreError> {
    HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(StoreError::Damaged)
}

// === keys ===

/// The platform's keys, made when the store is new. A store with records but without this key is not new.
fn platform_keys(store: &Store, root: &RootKey, entropy: &dyn Entropy) -> Result<TenantKeys, StoreError> {
    if let Some(wrapped) = read_key(store, &PLATFORM_UID)? {
        return Ok(root.unwrap_tenant_key(PLATFORM, &wrapped)?);
    }
    if !store.is_new()? {
        return Err(StoreError::KeyMissing { what: "the platform" });
    }
    let (keys, wrapped) = root.new_tenant_key(PLATFORM, entropy)?;
    write_key(store, &PLATFORM_UID, &wrapped)?;
    Ok(keys)
}

/// Whether the store in a directory has keys, which open only with the root key that they were made under. Opens nothing.
pub fn has_keys(dir: &Path) -> bool {
    dir.join(key_path(&PLATFORM_UID)).exists()
}

pub(crate) fn key_path(uid: &Uid) -> String {
    format!("keys/{}", HEXLOWER.encode(uid))
}

// === files ===

/// Makes a tenant's directories and removes what a crash left half written in them.
fn prepare_files(store: &Store, uid: &Uid) -> Result<(), StoreError> {
    let files = &store.0.files;
    for directory in [value_directory(uid), blobs::directory(uid)] {
        files.make_directory(&directory).map_err(StoreError::unavailable)?;
        let unfinished = files.sweep_unfinished(&directory).map_err(StoreError::unavailable)?;
        if unfinished > 0 {
            tracing::info!(unfinished, "removed files that a crash left half written");
        }
    }
    Ok(())
}

/// Removes value files that no record refers to: a crash between the file and its record leaves such.
fn sweep_values(store: &Store, uid: &Uid) -> Result<(), StoreError> {
    let prefix = area(AREA_FILES, uid);
    let to = successor(&prefix).map_or(Bound::Unbounded, Bound::Excluded);
    let mut from = Bound::Included(prefix.clone());
    let mut referred = HashSet::new();
    loop {
        let span = Span { from, to: to.clone(), order: Order::Forward, count_max: SWEEP_COUNT, bytes_max: usize::MAX };
        let rows = store.0.engine.range(&span)?;
        let last = rows.pairs.last().map(|(key, _)| key.clone());
        referred.extend(
            rows.pairs
                .into_iter()
                .filter_map(|(key, _)| key.strip_prefix(prefix.as_slice()).map(|id| HEXLOWER.encode(id))),
        );
        match last {
            Some(last) if rows.more => from = Bound::Excluded(last),
            _ => break,
        }
    }
    let directory = value_directory(uid);
    for name in store.0.files.list(&directory).map_err(StoreError::unavailable)? {
        if !referred.contains(&name) {
            store.0.files.remove(&format!("{directory}/{name}")).map_err(StoreError::unavailable)?;
        }
    }
    Ok(())
}
