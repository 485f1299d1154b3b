//! Tenants that keep a key themselves: taken into use, given up, and looked after. Without the tenant's provider nothing of the
//! tenant opens: once it says no, or nothing for too long, the tenant's keys leave the memory.
//!
//! Must never let what one tenant's provider says, or how long it takes, reach another tenant.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ringfence_core::Entropy;
use ringfence_core::TenantId;
use ringfence_keys::{Closed, KeysError, RootKey, TenantKeys, WrappedKey};
use tokio::task::{JoinSet, spawn_blocking};

use crate::error::StoreError;
use crate::tenant_keys::{KeyStatus, KeyUse, read_key, write_key};
use crate::tenants::{Tenants, parse_uid};

/// LIMIT: how long a tenant's keys stay in memory after its provider last answered.
const SILENCE_MAX: Duration = Duration::from_secs(600);
/// LIMIT: providers asked at the same time; each call gives up after its own deadline.
const ASKED_COUNT_MAX: usize = 8;

/// What is known of the tenants that keep a key themselves, since the start.
#[derive(Default)]
pub(crate) struct OwnSeen(Mutex<BTreeMap<TenantId, Seen>>);

#[derive(Clone, Copy)]
struct Seen {
    /// When the provider last opened the key.
    answered_at: Option<Duration>,
    /// Whether the tenant was read since the start.
    read: Read,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    Never,
    Once,
}

/// What became of a tenant's keys when its provider was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnChange {
    /// The provider refuses, or was silent for too long: the keys are closed.
    Locked,
    /// It opens them again.
    Opened,
    /// They are open, and nobody has read this tenant's records since the start. Said again until [`Tenants::note_read`].
    OpenedFirst,
}

type Rewrap = fn(&RootKey, &str, &WrappedKey, &dyn Entropy) -> Result<WrappedKey, KeysError>;

// === impl OwnSeen ===

impl OwnSeen {
    /// A start found a tenant whose provider did not open its key.
    pub(crate) fn shut_at_start(&self, id: &TenantId) {
        self.lock().insert(id.clone(), Seen { answered_at: None, read: Read::Never });
    }

    pub(crate) fn forget(&self, id: &TenantId) {
        self.lock().remove(id);
    }

    /// The provider opened the key. Whether the tenant's own are open by now and nobody has read it yet.
    fn answered(&self, id: &TenantId, now: Duration, is_open: bool) -> bool {
        let mut seen = self.lock();
        let read = seen.get(id).map_or(Read::Once, |seen| seen.read);
        seen.insert(id.clone(), Seen { answered_at: Some(now), read });
        is_open && read == Read::Never
    }

    /// Whether it has been silent for too long; the silence of one that was not asked yet begins now.
    fn is_silent(&self, id: &TenantId, now: Duration) -> bool {
        let mut seen = self.lock();
        let seen = seen.entry(id.clone()).or_insert(Seen { answered_at: Some(now), read: Read::Once });
        seen.answered_at.is_none_or(|at| now.saturating_sub(at) >= SILENCE_MAX)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TenantId, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Tenants ===

impl Tenants {
    /// The view of a tenant whose records can be read now; none also while its keys are closed. For loops over all tenants.
    pub fn open_readable(&self, id: &TenantId) -> Option<crate::tenant_store::TenantStore> {
        self.open_tenant(id).filter(|view| view.check_keys().is_ok())
    }

    /// Whether a start found the tenant's keys closed by its own provider, and nobody has noted since that it was read.
    pub fn is_unread(&self, id: &TenantId) -> bool {
        self.0.own_seen.lock().get(id).is_some_and(|seen| seen.read == Read::Never)
    }

    /// Everything of the tenant that is kept in memory was read. For who read it, once nothing of that can fail any more.
    pub fn note_read(&self, id: &TenantId) {
        if let Some(seen) = self.0.own_seen.lock().get_mut(id) {
            seen.read = Read::Once;
        }
    }

    /// Puts the key that a tenant keeps itself around the tenant's key. Again is fine, and takes its provider's newest version.
    /// Fails while the keys are closed, and with [`KeysError::OwnNotAllowed`] or [`KeysError::Own`].
    pub async fn take_own_key(&self, id: &TenantId) -> Result<KeyStatus, StoreError> {
        self.rewrap_own(id, RootKey::take_own).await
    }

    /// Takes it away again. Needs its provider once more. Fails with [`StoreError::KeyRefused`] while the tenant is unread: nobody
    /// would look after it then.
    pub async fn give_up_own_key(&self, id: &TenantId) -> Result<KeyStatus, StoreError> {
        if self.is_unread(id) {
            return Err(StoreError::KeyRefused);
        }
        let status = self.rewrap_own(id, RootKey::give_up_own).await?;
        self.0.own_seen.forget(id);
        Ok(status)
    }

    /// Asks the providers of all tenants that keep a key themselves, and closes or opens keys as they answer. Says what
    /// changed.
    pub async fn tend_own_keys(&self) -> Result<Vec<(TenantId, OwnChange)>, StoreError> {
        let mut asked = Vec::new();
        for (name, uid) in self.every_uid() {
            let Ok(id) = name.parse::<TenantId>() else { continue };
            let wrapped = read_key(&self.0.store, &parse_uid(&uid)?).unwrap_or_default();
            if let (Some(wrapped), Some(view)) = (wrapped.filter(|key| key.own().is_some()), self.open_tenant(&id))
                && self.key_state(&id).await?.state == KeyUse::Enabled
            {
                asked.push((id, view.keys().clone(), wrapped));
            }
        }
        let mut changes = Vec::new();
        for some in asked.chunks(ASKED_COUNT_MAX) {
            let mut tasks = JoinSet::new();
            for (id, keys, wrapped) in some.iter().cloned() {
                let this = self.clone();
                tasks.spawn_blocking(move || this.ask_own(id, &keys, &wrapped));
            }
            while let Some(asked) = tasks.join_next().await {
                changes.extend(asked.map_err(StoreError::unavailable)?);
            }
        }
        Ok(changes)
    }

    /// Asks one provider; blocks.
    fn ask_own(&self, id: TenantId, keys: &TenantKeys, wrapped: &WrappedKey) -> Option<(TenantId, OwnChange)> {
        let now = self.0.clock.monotonic();
        let was_open = keys.check().is_ok();
        match self.0.root.unwrap_tenant_key(keys.tenant(), wrapped) {
            Ok(_) => {
                // A rotation, a disabling or a deletion may have come in between: what is wrapped now decides.
                let reopened = !was_open
                    && matches!(keys.check(), Err(KeysError::Closed(Closed::Refused)))
                    && self.0.root.reopen(keys, wrapped).is_ok();
                // Enabling keys opens them too, and reads nothing of the tenant.
                if self.0.own_seen.answered(&id, now, keys.check().is_ok()) {
                    return Some((id, OwnChange::OpenedFirst));
                }
                reopened.then_some((id, OwnChange::Opened))
            }
            Err(error) if error.is_own() && (error.is_own_refusal() || self.0.own_seen.is_silent(&id, now)) => {
                if was_open {
                    keys.close(Closed::Refused);
                    tracing::warn!(tenant = %id, %error, "a tenant is locked: its own key provider does not open its key");
                }
                was_open.then_some((id, OwnChange::Locked))
            }
            Err(error) => {
                tracing::debug!(tenant = %id, %error, "the provider of a tenant's own key does not answer now");
                None
            }
        }
    }

    async fn rewrap_own(&self, id: &TenantId, act: Rewrap) -> Result<KeyStatus, StoreError> {
        let _one = self.0.changing.lock().await;
        let uid = self.live_uid(id)?;
        let view = self.open_tenant(id).ok_or(StoreError::UnknownTenant)?;
        view.check_keys()?;
        let wrapped = self.wrapped(uid).await?;
        let (inner, keys, store) = (Arc::clone(&self.0), view.keys().clone(), self.0.store.clone());
        spawn_blocking(move || {
            let next = act(&inner.root, keys.tenant(), &wrapped, inner.entropy.as_ref())?;
            // It must open before it takes the place of one that does.
            inner.root.unwrap_tenant_key(keys.tenant(), &next)?;
            write_key(&store, &uid, &next)
        })
        .await
        .map_err(StoreError::unavailable)??;
        self.key_status(id).await
    }
}
