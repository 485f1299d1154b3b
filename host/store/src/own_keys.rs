//! Tenants that keep a key themselves: taken into use, given up, and looked after. Without the tenant's provider nothing of the
//! tenant opens: once it says no, or nothing for too long, the tenant's keys leave the memory.
//!
//! Must never let what one tenant's provider says, or how long it takes, reach another tenant.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ringfence_core::Entropy;
use ringfence_core::TenantId;
use ringfence_keys::{Closed, KeysError, RootKey, TenantKeys, WrappedKey};

use crate::error::StoreError;
use crate::tenant_keys::{KeyStatus, KeyUse, read_key};
use crate::tenants::{Tenants, parse_uid};

/// LIMIT: how long a tenant's keys stay in memory after its provider last answered.
const SILENCE_MAX: Duration = Duration::from_secs(600);

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
    /// A start found a tenant whose provider did not open its key, or whose records are damaged.
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

    /// The one place that decides what becomes of a tenant whose records a start cannot read: where what it met is damage the
    /// tenant alone is locked, as by disabled keys, and is unread; an operator enables its keys and mends it. Whether the start
    /// goes on without it. Must be told nothing of the platform's own records.
    pub fn shut_damaged(&self, id: &TenantId, error: &StoreError) -> bool {
        // What does not have its form is as good as damaged, though it opens.
        if !matches!(error, StoreError::Damaged | StoreError::Form(_)) {
            return false;
        }
        tracing::error!(
            tenant = %id,
            %error,
            "a tenant starts locked: enable its keys as an operator, restore a backup in its place or write anew what is \
             damaged, and enable them again"
        );
        self.lock_unread(id);
        true
    }

    /// The same where everything could be read, and what it says cannot be put into force; or where what a restore put in its
    /// place is not in force, whatever was in the way. `unfit` says why, and no word of the tenant's.
    pub fn shut_unfit(&self, id: &TenantId, unfit: &dyn fmt::Display) {
        tracing::error!(
            tenant = %id,
            %unfit,
            "a tenant is locked: enable its keys as an operator, and it is read again; where that fails write anew what cannot be \
             put into force or restore a backup in its place; or delete it"
        );
        self.lock_unread(id);
    }

    fn lock_unread(&self, id: &TenantId) {
        self.0.own_seen.shut_at_start(id);
        if let Some(view) = self.open_tenant(id) {
            view.keys().close(Closed::Disabled);
        }
    }

    /// Whether a start found the tenant's keys closed by its own provider or its records damaged, and nobody has noted since that
    /// it was read.
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
    /// Fails while the keys are closed, with [`KeysError::OwnNotAllowed`] or [`KeysError::Own`], and with [`StoreError::Conflict`]
    /// when somebody else changed the key at the same moment.
    pub async fn take_own_key(&self, id: &TenantId) -> Result<KeyStatus, StoreError> {
        self.rewrap_own(id, RootKey::take_own).await
    }

    /// Takes it away again. Needs its provider once more. Fails with [`StoreError::KeyRefused`] while the tenant is unread: nobody
    /// would look after it then; with [`StoreError::Conflict`] as [`Tenants::take_own_key`] does.
    pub async fn give_up_own_key(&self, id: &TenantId) -> Result<KeyStatus, StoreError> {
        if self.is_unread(id) {
            return Err(StoreError::KeyRefused);
        }
        let status = self.rewrap_own(id, RootKey::give_up_own).await?;
        self.0.own_seen.forget(id);
        Ok(status)
    }

    /// Tenants that keep a key themselves and whose keys are enabled: those to look after with [`Tenants::tend_own_key`].
    pub async fn own_keepers(&self) -> Result<Vec<TenantId>, StoreError> {
        let mut keepers = Vec::new();
        for (name, uid) in self.every_uid() {
            let Ok(id) = name.parse::<TenantId>() else { continue };
            let wrapped = read_key(&self.0.store, &parse_uid(&uid)?).unwrap_or_default();
            if wrapped.is_some_and(|wrapped| wrapped.own().is_some())
                && self.open_tenant(&id).is_some()
                && self.key_state(&id).await?.state == KeyUse::Enabled
            {
                keepers.push(id);
            }
        }
        Ok(keepers)
    }

    /// Asks the provider of a tenant's own key, and closes or opens the tenant's keys as it answers. Says what changed. Takes as
    /// long as the provider may take for every version of the key.
    pub async fn tend_own_key(&self, id: &TenantId) -> Result<Option<OwnChange>, StoreError> {
        let basis = self.basis(id).await?;
        let now = self.0.clock.monotonic();
        let answer = self.unwrap_basis(&basis).await?;
        let _one = match self.settle(id, &basis).await {
            // What changed the key, or began to delete the tenant, decides; the provider is asked again.
            Err(StoreError::Conflict { .. } | StoreError::UnknownTenant) => return Ok(None),
            settled => settled?,
        };
        if self.key_state(id).await?.state != KeyUse::Enabled {
            return Ok(None);
        }
        Ok(self.take_answer(id, &basis.keys, now, answer))
    }

    /// For who holds `changing`. `asked_at` is on the monotonic clock.
    fn take_answer(
        &self,
        id: &TenantId,
        keys: &TenantKeys,
        asked_at: Duration,
        answer: Result<TenantKeys, KeysError>,
    ) -> Option<OwnChange> {
        match answer {
            Ok(unwrapped) => {
                let reopened =
                    matches!(keys.check(), Err(KeysError::Closed(Closed::Refused))) && keys.adopt(&unwrapped).is_ok();
                // Enabling keys opens them too, and reads nothing of the tenant.
                if self.0.own_seen.answered(id, asked_at, keys.check().is_ok()) {
                    return Some(OwnChange::OpenedFirst);
                }
                reopened.then_some(OwnChange::Opened)
            }
            Err(error) if error.is_own() && (error.is_own_refusal() || self.0.own_seen.is_silent(id, asked_at)) => {
                let was_open = keys.check().is_ok();
                if was_open {
                    keys.close(Closed::Refused);
                    tracing::warn!(tenant = %id, %error, "a tenant is locked: its own key provider does not open its key");
                }
                was_open.then_some(OwnChange::Locked)
            }
            Err(error) => {
                tracing::debug!(tenant = %id, %error, "the provider of a tenant's own key does not answer now");
                None
            }
        }
    }

    async fn rewrap_own(&self, id: &TenantId, act: Rewrap) -> Result<KeyStatus, StoreError> {
        let basis = self.basis(id).await?;
        let _one = self
            .rewrap(id, basis, move |inner, tenant, wrapped| act(&inner.root, tenant, wrapped, inner.entropy.as_ref()))
            .await?;
        self.key_status(id).await
    }
}
