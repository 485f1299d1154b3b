//! The keys of tenants as the store keeps them: wrapped in a file each, their state in the platform's area; rotated, disabled,
//! enabled, and sealed anew in the background.
//!
//! The state of a key (disabled, to be destroyed, sealing anew) is a sealed record of the platform, because the file beside the
//! data could be changed by whoever holds the disk. Must never put a key into force that is not durable, nor lose an old
//! version while something is sealed under it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use ringfence_core::TenantId;
use ringfence_keys::{Closed, KeyVersion, KeysError, Purpose, RootKey, Shredding, TenantKeys, WrappedKey};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;
use tokio::task::spawn_blocking;

use crate::destroyed::destroyed_prefix;
use crate::error::StoreError;
use crate::key::{Key, UID_BYTES, Uid};
use crate::retire::Superseded;
use crate::rewrap::Basis;
use crate::store::Store;
use crate::tally::records_count;
use crate::tenants::{Tenants, key_path};
use crate::watch::Watch;

/// LIMIT: no wrapped key is longer: 255 versions of under 1 KiB.
const KEY_FILE_BYTES_MAX: u64 = 256 << 10;
pub(crate) const PLATFORM_UID: Uid = [0; UID_BYTES];

/// Whether a tenant's keys are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyUse {
    /// They are.
    Enabled,
    /// They are not, and the key bytes are not in memory; nothing is lost.
    Disabled,
}

/// On which side of the host somebody stands; operators are above tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// A member of the tenant.
    Tenant,
    /// An operator of the host.
    Operator,
}

/// Who disabled a tenant's keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disabled {
    /// Who.
    pub by: String,
    /// From which side; the same or a higher one enables them again.
    pub side: Side,
    /// When.
    pub at: Timestamp,
    /// The response to a threat that they are disabled for, and that enables them at its end; none where people did it, whose
    /// word has no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
}

/// Whether whoever wants something now is another person than the one of this name. Not so for a name that cannot be read.
pub type IsAnother<'a> = dyn Fn(&str) -> bool + Send + Sync + 'a;

/// What became of a request to delete a tenant.
#[expect(clippy::large_enum_variant, reason = "one is made for a deletion and looked at once")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeleteAsked {
    /// It is written down, and done when its time has come, unless somebody enables the keys before.
    Later(KeyStatus),
    /// Another person wants it too: it may be done now.
    Agreed,
}

/// Someone wants a tenant's keys destroyed, and with them everything it stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestroyRequest {
    /// Who asked.
    pub asked_by: String,
    /// When.
    pub asked_at: Timestamp,
    /// Who else agreed.
    pub approved_by: Option<String>,
    /// When it will be done; none until somebody else agreed. With a time and without an agreement it is the deletion of the
    /// tenant, which one person may ask for because it can be undone until then.
    pub due_at: Option<Timestamp>,
}

/// What is to be sealed anew after a rotation, and how far that has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reseal {
    /// The stored key of the last record looked at, in hex, or the name of the last content; empty at the start of either.
    pub(crate) after: String,
    #[serde(default)]
    pub(crate) phase: ResealPhase,
    /// Records looked at.
    pub seen_count: u64,
    /// Records sealed anew.
    pub resealed_count: u64,
    /// Records and contents that do not open: they stay as they are, and so does the version of the key that they name. Kept when
    /// it is over, until the next rotation.
    #[serde(default)]
    pub damaged_count: u64,
}

/// What is being sealed anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ResealPhase {
    /// Records, with the files of large values.
    #[default]
    Records,
    /// Contents that lie in files of their own.
    Contents,
    /// Nothing any more.
    Over,
}

/// The state of a tenant's keys as it lies in the platform's area.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyState {
    pub(crate) tenant: TenantId,
    pub(crate) state: KeyUse,
    /// None while they are enabled, and where they were disabled before this was kept.
    #[serde(default)]
    pub(crate) disabled: Option<Disabled>,
    pub(crate) destroy: Option<DestroyRequest>,
    pub(crate) reseal: Option<Reseal>,
    /// The newest version of the key for which sealing anew was begun. Kept when that is over: a key with a newer one was rotated by
    /// somebody who could not write it down any more.
    #[serde(default = "first_version")]
    pub(crate) reseal_version: u8,
    /// Versions that may be forgotten once nothing is under them.
    #[serde(default)]
    pub(crate) superseded: Option<Superseded>,
}

/// What the background has to do about keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TendedKeys {
    /// Tenants whose keys are to be destroyed by now, and who wanted it last.
    pub due: Vec<(TenantId, String)>,
    /// Tenants whose data is to be sealed anew.
    pub resealing: Vec<TenantId>,
    /// When the first of those that are to be destroyed later is.
    pub next_due_at: Option<Timestamp>,
}

/// What can be said about a tenant's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyStatus {
    /// Whether they are used.
    pub state: KeyUse,
    /// Who disabled them, while they are.
    pub disabled: Option<Disabled>,
    /// The key that the tenant keeps itself; none when it keeps none.
    pub own: Option<OwnStatus>,
    /// The versions, ascending.
    pub versions: Vec<KeyVersion>,
    /// What deleting the tenant does to older copies of the data directory.
    pub shredding: Shredding,
    /// Whether and by whom destruction was asked for.
    pub destroy: Option<DestroyRequest>,
    /// Whether things are being sealed anew, or could not be.
    pub reseal: Option<Reseal>,
    /// Records that the tenant has; 0 where they were never counted.
    pub records_count: u64,
}

/// What can be said about a key that a tenant keeps itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnStatus {
    /// Its identifier, as its provider has it; says nothing about the key.
    pub id: String,
    /// Whether its provider opens it.
    pub opens: Result<(), Closed>,
}

impl KeyState {
    /// As it is when nothing is written down.
    fn usual(tenant: &TenantId) -> Self {
        Self {
            tenant: tenant.clone(),
            state: KeyUse::Enabled,
            disabled: None,
            destroy: None,
            reseal: None,
            reseal_version: first_version(),
            superseded: None,
        }
    }

    /// Everything is to be sealed anew, from the first record, since the key has this version.
    fn begin_reseal(&mut self, version: u8) {
        (self.reseal, self.reseal_version) = (Some(Reseal::default()), version);
    }

    /// Disables, or keeps disabled: the higher side stands. What people want outlasts the response that came before.
    fn disable(&mut self, by: Disabled) {
        self.disabled = match (self.state, self.disabled.take()) {
            (KeyUse::Disabled, Some(before)) if before.response.is_some() => {
                Some(Disabled { side: before.side.max(by.side), ..by })
            }
            (KeyUse::Disabled, before) if before.as_ref().is_none_or(|before| before.side >= by.side) => before,
            _ => Some(by),
        };
        self.state = KeyUse::Disabled;
    }

    /// Whether they are disabled for this response, and nobody has wanted them disabled since.
    fn is_for(&self, response: &str) -> bool {
        let for_one = self.disabled.as_ref().and_then(|disabled| disabled.response.as_deref());
        self.state == KeyUse::Disabled && for_one == Some(response)
    }

    /// Whether nobody disabled the keys, enabled them or wanted them destroyed between the two. Work on what is sealed is not meant.
    fn wants_the_same(&self, other: &Self) -> bool {
        (self.state, &self.disabled, &self.destroy) == (other.state, &other.disabled, &other.destroy)
    }

    /// The lowest side that may enable the keys and withdraw what was asked.
    fn held_by(&self) -> Side {
        let disabled = match (self.state, &self.disabled) {
            (KeyUse::Enabled, _) => Side::Tenant,
            (KeyUse::Disabled, Some(disabled)) => disabled.side,
            // From before it was kept: not the tenant's to decide.
            (KeyUse::Disabled, None) => Side::Operator,
        };
        // Only operators ask for a destruction.
        if self.destroy.is_some() { Side::Operator } else { disabled }
    }
}

// === impl Tenants ===

impl Tenants {
    /// What can be said about a tenant's keys.
    pub async fn key_status(&self, id: &TenantId) -> Result<KeyStatus, StoreError> {
        let uid = self.live_uid(id)?;
        let wrapped = self.wrapped(uid).await?;
        let KeyState { state, disabled, destroy, reseal, .. } = self.key_state(id).await?;
        let opens = match self.open_tenant(id).map(|view| view.keys().check()) {
            Some(Err(KeysError::Closed(why))) => Err(why),
            _ => Ok(()),
        };
        let own = wrapped.own().map(|own| OwnStatus { id: own.to_owned(), opens });
        let (versions, shredding) = (wrapped.versions(), wrapped.shredding());
        let records_count = records_count(&*self.0.store.0.engine, &uid)?;
        Ok(KeyStatus { state, disabled, own, versions, shredding, destroy, reseal, records_count })
    }

    /// Gives a tenant a new version of its key, for one purpose or all. New things are sealed under it from now on; old ones
    /// stay readable and are sealed anew by [`Tenants::reseal_step`]. Fails while the keys are disabled, and with
    /// [`StoreError::Conflict`] when somebody else changed the key at the same moment.
    pub async fn rotate_key(&self, id: &TenantId, purpose: Option<Purpose>) -> Result<KeyStatus, StoreError> {
        let basis = self.basis(id).await?;
        let keys = basis.keys.clone();
        let _one = self
            .rewrap(id, basis, move |inner, tenant, wrapped| {
                inner.root.add_version(tenant, wrapped, purpose, inner.entropy.as_ref())
            })
            .await?;
        // What a kill cuts here is made up for by `begin_owed_reseal`.
        let version = newest_version(&keys)?;
        self.change_key_state(id, |state| state.begin_reseal(version)).await?;
        self.key_status(id).await
    }

    /// Begins to seal anew where a rotation put a new version into force and did not come to say so. For who holds `changing`, and
    /// for a start. Nothing while the keys are closed.
    pub(crate) async fn begin_owed_reseal(&self, id: &TenantId, keys: &TenantKeys) -> Result<(), StoreError> {
        let Ok(version) = newest_version(keys) else { return Ok(()) };
        if version <= first_version() || self.key_state(id).await?.reseal_version >= version {
            return Ok(());
        }
        tracing::info!(tenant = %id, version, "sealing anew what a rotation that was cut left to be");
        self.change_key_state(id, |state| state.begin_reseal(version)).await
    }

    /// Disables a tenant's keys: whatever needs them is refused from the next call on, and they leave the memory.
    pub async fn disable_key(&self, id: &TenantId, who: &str, side: Side) -> Result<KeyStatus, StoreError> {
        let _one = self.0.changing.lock().await;
        self.live_uid(id)?;
        let by = self.disabling(who, side);
        self.change_key_state(id, |state| state.disable(by)).await?;
        self.close_keys(id);
        self.key_status(id).await
    }

    /// The same for a response to a threat, until [`Tenants::enable_key_after`] that. Fails with [`StoreError::KeyDisabled`] when
    /// they are disabled already for anything else.
    pub async fn disable_key_for(
        &self,
        id: &TenantId,
        response: &str,
        who: &str,
        side: Side,
    ) -> Result<(), StoreError> {
        let _one = self.0.changing.lock().await;
        self.live_uid(id)?;
        let state = self.key_state(id).await?;
        if state.state == KeyUse::Disabled && !state.is_for(response) {
            return Err(StoreError::KeyDisabled);
        }
        if state.state == KeyUse::Enabled {
            let by = Disabled { response: Some(response.to_owned()), ..self.disabling(who, side) };
            self.change_key_state(id, |state| state.disable(by)).await?;
        }
        self.close_keys(id);
        Ok(())
    }

    /// Who disabled a tenant's keys; none while they are enabled, and for a tenant that is not there. Asks for no key.
    pub async fn key_disabled(&self, id: &TenantId) -> Result<Option<Disabled>, StoreError> {
        Ok(self.key_state(id).await?.disabled)
    }

    /// Enables a tenant's keys again; withdraws a request to destroy them, or to delete the tenant. Fails with
    /// [`StoreError::Held`] when a higher side than this disabled them or asked, and with [`StoreError::Conflict`] when somebody
    /// else wanted something of them while a provider was asked.
    pub async fn enable_key(&self, id: &TenantId, side: Side) -> Result<KeyStatus, StoreError> {
        let basis = self.basis(id).await?;
        let seen = self.key_state(id).await?;
        if seen.held_by() > side {
            return Err(StoreError::Held);
        }
        let unwrapped = self.unwrap_basis(&basis).await?;
        let _one = self.open_keys(id, &basis, &seen, Some(unwrapped)).await?;
        self.key_status(id).await
    }

    /// The end of a response: enables the keys when they are still disabled for it. Whoever wanted them disabled or destroyed
    /// since, or enabled them, has the last word. The tenant's own provider is not asked here: where there is one the keys are open
    /// once it was asked in its turn ([`Tenants::tend_own_key`]).
    pub async fn enable_key_after(&self, id: &TenantId, response: &str) -> Result<(), StoreError> {
        self.live_uid(id)?;
        let seen = self.key_state(id).await?;
        let shut = self.open_tenant(id).is_some_and(|view| matches!(view.check_keys(), Err(StoreError::KeyDisabled)));
        // An attempt before this one was in doubt, and written down after all.
        let is_half_done = seen.state == KeyUse::Enabled && shut;
        if seen.destroy.is_some() || !(seen.is_for(response) || is_half_done) {
            return Ok(());
        }
        let basis = self.basis(id).await?;
        let unwrapped = match basis.wrapped.own() {
            Some(_) => None,
            None => Some(self.unwrap_basis(&basis).await?),
        };
        self.open_keys(id, &basis, &seen, unwrapped).await.map(drop)
    }

    /// Writes down that the keys are enabled, where nobody wanted anything of them since they were `seen`, and opens them; without
    /// what they unwrap to they wait for the tenant's own provider.
    async fn open_keys(
        &self,
        id: &TenantId,
        basis: &Basis,
        seen: &KeyState,
        unwrapped: Option<Result<TenantKeys, KeysError>>,
    ) -> Result<OwnedMutexGuard<()>, StoreError> {
        let one = self.settle(id, basis).await?;
        if !self.key_state(id).await?.wants_the_same(seen) {
            return Err(StoreError::Conflict { precondition: 0 });
        }
        let unwrapped = match unwrapped {
            // Enabled all the same: its own provider has the last word, and is asked again.
            Some(Err(error)) if error.is_own() => None,
            unwrapped => unwrapped.transpose()?,
        };
        self.change_key_state(id, |state| {
            state.state = KeyUse::Enabled;
            (state.disabled, state.destroy) = (None, None);
        })
        .await?;
        match unwrapped {
            Some(unwrapped) => basis.keys.adopt(&unwrapped)?,
            None => basis.keys.close(Closed::Refused),
        }
        Ok(one)
    }

    /// Writes down that someone wants the keys destroyed. Nothing happens until somebody else agrees.
    pub async fn ask_destroy(&self, id: &TenantId, who: &str) -> Result<KeyStatus, StoreError> {
        let _one = self.0.changing.lock().await;
        self.live_uid(id)?;
        if self.key_state(id).await?.destroy.is_some() {
            return Err(StoreError::Exists);
        }
        let request =
            DestroyRequest { asked_by: who.to_owned(), asked_at: self.0.clock.now(), approved_by: None, due_at: None };
        self.change_key_state(id, |state| state.destroy = Some(request)).await?;
        self.key_status(id).await
    }

    /// Another person agrees: the keys are disabled now and destroyed at `due_at`. None when there is nothing to agree to;
    /// [`StoreError::Conflict`] when it is no other than who asked, or somebody agreed already.
    pub async fn approve_destroy(
        &self,
        id: &TenantId,
        who: &str,
        due_at: Timestamp,
        is_another: &IsAnother<'_>,
    ) -> Result<Option<KeyStatus>, StoreError> {
        let _one = self.0.changing.lock().await;
        self.live_uid(id)?;
        let Some(request) = self.key_state(id).await?.destroy else { return Ok(None) };
        if !is_another(&request.asked_by) || request.approved_by.is_some() {
            return Err(StoreError::Conflict { precondition: 0 });
        }
        let agreed = DestroyRequest { approved_by: Some(who.to_owned()), due_at: Some(due_at), ..request };
        let by = self.disabling(who, Side::Operator);
        let act = |state: &mut KeyState| {
            state.disable(by);
            state.destroy = Some(agreed);
        };
        self.change_key_state(id, act).await?;
        self.close_keys(id);
        self.key_status(id).await.map(Some)
    }

    /// An operator wants a tenant deleted: its keys are disabled now, and it is deleted at `due_at`. When another person among
    /// them wanted that before, both agree, and it may be done at once; the caller does it. One person asking twice, by whatever
    /// key, changes nothing.
    pub async fn ask_delete(
        &self,
        id: &TenantId,
        who: &str,
        due_at: Timestamp,
        is_another: &IsAnother<'_>,
    ) -> Result<DeleteAsked, StoreError> {
        let _one = self.0.changing.lock().await;
        self.live_uid(id)?;
        let now = self.0.clock.now();
        let request = match self.key_state(id).await?.destroy {
            Some(request) if request.due_at.is_some() => {
                let agreed = request.approved_by.as_deref();
                if is_another(&request.asked_by) && agreed.is_none_or(is_another) {
                    return Ok(DeleteAsked::Agreed);
                }
                request
            }
            // The destruction of the keys was asked for: this is the agreement to it.
            Some(request) if is_another(&request.asked_by) => {
                DestroyRequest { approved_by: Some(who.to_owned()), due_at: Some(due_at), ..request }
            }
            // One person alone may ask for this, also where another key of his asked for that.
            _ => DestroyRequest { asked_by: who.to_owned(), asked_at: now, approved_by: None, due_at: Some(due_at) },
        };
        let by = self.disabling(who, Side::Operator);
        let act = |state: &mut KeyState| {
            state.disable(by);
            state.destroy = Some(request);
        };
        self.change_key_state(id, act).await?;
        self.close_keys(id);
        self.key_status(id).await.map(DeleteAsked::Later)
    }

    /// What needs doing in the background. Reads one small record for each tenant whose keys were rotated or are not in their usual
    /// state.
    pub async fn tended_keys(&self) -> Result<TendedKeys, StoreError> {
        let now = self.0.clock.now();
        let mut tended = TendedKeys { due: Vec::new(), resealing: Vec::new(), next_due_at: None };
        let mut after = None;
        loop {
            let page = self.0.platform.scan(&Key::new(["key-state"]), after.as_ref(), usize::MAX).await?;
            for (_, record) in page.records {
                let state: KeyState = record.json()?;
                let due_at = state.destroy.as_ref().and_then(|request| request.due_at).filter(|at| *at > now);
                tended.next_due_at = tended.next_due_at.into_iter().chain(due_at).min();
                if let Some(DestroyRequest { asked_by, approved_by, due_at: Some(at), .. }) = state.destroy
                    && at <= now
                {
                    tended.due.push((state.tenant, approved_by.unwrap_or(asked_by)));
                } else if state.reseal.is_some_and(|reseal| !reseal.is_over()) {
                    tended.resealing.push(state.tenant);
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(tended),
            }
        }
    }

    /// Tells from now on when there may be something else to do in the background: of what is wanted of keys, and of receipts that
    /// are owed. Not of a time that has come.
    pub fn watch_tended(&self) -> Result<[Watch; 2], StoreError> {
        let platform = &self.0.platform;
        let revision = self.0.store.0.counters.revision.load(Ordering::Relaxed);
        Ok([platform.watch(&Key::new(["key-state"]), revision)?, platform.watch(&destroyed_prefix(), revision)?])
    }

    /// Closes the keys that are disabled. For the end of a start: until then the rooms read what they keep in memory.
    pub async fn close_disabled(&self) -> Result<(), StoreError> {
        for record in self.list().await? {
            if self.key_state(&record.id).await?.state == KeyUse::Disabled {
                self.close_keys(&record.id);
            }
        }
        Ok(())
    }

    /// The root key.
    pub fn root(&self) -> &Arc<RootKey> {
        &self.0.root
    }

    pub(crate) async fn key_state(&self, id: &TenantId) -> Result<KeyState, StoreError> {
        Ok(self.0.platform.get_json(&state_key(id)).await?.unwrap_or_else(|| KeyState::usual(id)))
    }

    pub(crate) async fn change_key_state(
        &self,
        id: &TenantId,
        act: impl FnOnce(&mut KeyState),
    ) -> Result<(), StoreError> {
        let mut state = self.key_state(id).await?;
        act(&mut state);
        if state == KeyState::usual(id) {
            return self.forget_key_state(id).await;
        }
        self.0.platform.put_json(&state_key(id), &state).await?;
        Ok(())
    }

    pub(crate) async fn forget_key_state(&self, id: &TenantId) -> Result<(), StoreError> {
        self.0.platform.delete(&state_key(id)).await.map(|_| ())
    }

    /// Destroys what wraps a tenant's key, wherever it is, and then the wrapped key here. Fine to call again.
    pub(crate) async fn destroy_keys(&self, uid: Uid) -> Result<(), StoreError> {
        let (inner, store) = (Arc::clone(&self.0), self.0.store.clone());
        spawn_blocking(move || {
            // A damaged key file names no wrapping key; what is left of it goes all the same.
            if let Some(wrapped) = read_key(&store, &uid).unwrap_or_default() {
                inner.root.destroy_tenant_key(&wrapped)?;
            }
            let mut noise = [0; 64];
            inner.entropy.fill(&mut noise);
            store.0.files.shred(&key_path(&uid), &noise).map_err(StoreError::unavailable)
        })
        .await
        .map_err(StoreError::unavailable)?
    }

    /// Makes a tenant key; blocks for the root key provider elsewhere than here.
    pub(crate) async fn make_key(&self, tenant: &str) -> Result<(TenantKeys, WrappedKey), StoreError> {
        let (inner, tenant) = (Arc::clone(&self.0), tenant.to_owned());
        let made = spawn_blocking(move || inner.root.new_tenant_key(&tenant, inner.entropy.as_ref()));
        Ok(made.await.map_err(StoreError::unavailable)??)
    }

    /// Destroys what wraps a key that nobody has used; not for who holds `changing`. When that fails it stays at the provider, of
    /// no use to anybody.
    pub(crate) async fn unmake_key(&self, wrapped: WrappedKey) {
        let inner = Arc::clone(&self.0);
        let unmade = spawn_blocking(move || inner.root.destroy_tenant_key(&wrapped)).await;
        if let Ok(Err(error)) = unmade {
            tracing::warn!(%error, "a wrapping key that nobody uses is left at the provider");
        }
    }

    pub(crate) async fn wrapped(&self, uid: Uid) -> Result<WrappedKey, StoreError> {
        let store = self.0.store.clone();
        let read = spawn_blocking(move || read_key(&store, &uid)).await.map_err(StoreError::unavailable)??;
        read.ok_or(StoreError::KeyMissing { what: "a tenant" })
    }

    fn disabling(&self, who: &str, side: Side) -> Disabled {
        Disabled { by: who.to_owned(), side, at: self.0.clock.now(), response: None }
    }

    fn close_keys(&self, id: &TenantId) {
        if let Some(view) = self.open_tenant(id) {
            view.keys().close(Closed::Disabled);
        }
    }
}

/// The version that every key begins with: nothing was ever to be sealed anew for it.
fn first_version() -> u8 {
    1
}

/// The newest version of a key, whatever it is for.
fn newest_version(keys: &TenantKeys) -> Result<u8, KeysError> {
    let newest = Purpose::ALL.into_iter().map(|purpose| keys.newest_version(purpose));
    newest.collect::<Result<Vec<_>, _>>().map(|all| all.into_iter().max().unwrap_or_else(first_version))
}

pub(crate) fn state_key(id: &TenantId) -> Key {
    Key::new(["key-state", id.as_str()])
}

pub(crate) fn read_key(store: &Store, uid: &Uid) -> Result<Option<WrappedKey>, StoreError> {
    let content = store.0.files.read(&key_path(uid), KEY_FILE_BYTES_MAX).map_err(StoreError::unavailable)?;
    content.map(|content| serde_json::from_slice(&content).map_err(|_| StoreError::Damaged)).transpose()
}

pub(crate) fn write_key(store: &Store, uid: &Uid, wrapped: &WrappedKey) -> Result<(), StoreError> {
    let content = serde_json::to_vec(wrapped).map_err(StoreError::Form)?;
    store.0.files.write(&key_path(uid), &content).map_err(StoreError::unavailable)
}
