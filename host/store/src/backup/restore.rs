//! Restores an archive: into a new tenant that nobody sees before it is whole, or in place of what a tenant has.
//!
//! Both read the archive and all it builds on to the end first, and write on a second reading. A new tenant is staged: an area
//! with keys of its own, but without a name, until [`Staged::publish`] gives it one in a single write; a start throws away
//! what was staged and never published. In place, a record in the tenant says that a restore is on: a start carries it on
//! before anyone is served. History is never rolled back: in place the audit log and the metering stay as they are, in a new
//! tenant the old tenant's lie below `history/<its unique id>`. Nor is an erasure: the key of a person that was erased since
//! the archive was made, and what it protects, is not written. LIMIT: into a new tenant, erasures are known while the tenant
//! that the archive was made of is there and its keys are enabled.

use std::collections::HashSet;

use bytes::Bytes;
use ringfence_core::{BackupId, QuotaChoice, TenantId};
use serde::{Deserialize, Serialize};

use crate::backup::format::{self, Class, Manifest, Mark};
use crate::backup::read::{Chain, Item};
use crate::backup::{Archives, BackupError, Keyring, keyring};
use crate::blobs::BlobWriter;
use crate::error::StoreError;
use crate::key::Key;
use crate::record::Op;
use crate::subjects::Subjects;
use crate::tenant_store::TenantStore;
use crate::tenants::{TenantRecord, TenantState, Tenants};

/// LIMIT: changes and bytes of one write.
const BATCH_COUNT: usize = 500;
const BATCH_BYTES: usize = 8 << 20;

/// Which archive, and what opens it.
#[derive(Debug, Clone)]
pub struct Source {
    /// The unique id of the tenant it was made of: where its file lies.
    pub tenant_uid: String,
    /// The archive.
    pub backup: BackupId,
    /// The keys at hand.
    pub keyring: Keyring,
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The archive.
    pub backup: BackupId,
    /// Records written.
    pub records_count: u64,
    /// Blobs written.
    pub blobs_count: u64,
    /// Records removed because the archive does not have them; 0 for a new tenant.
    pub removed_count: u64,
}

/// Says in a tenant that a restore in place is on.
#[derive(Serialize, Deserialize)]
struct Journal {
    tenant_uid: String,
    backup: BackupId,
    /// What the tenant was before.
    state: TenantState,
}

/// A tenant without a name yet. Publish it or discard it; a start discards what was left.
#[must_use = "a staged tenant is published or discarded"]
#[derive(Debug)]
pub struct Staged {
    tenants: Tenants,
    pub(crate) store: TenantStore,
    /// What was restored into it.
    pub restored: Restored,
    /// What the archive says of itself.
    pub manifest: Manifest,
}

// === impl Staged ===

impl Staged {
    /// The staged tenant's view, for checks before it is published.
    pub fn store(&self) -> &TenantStore {
        &self.store
    }

    /// Gives the tenant its name, in one write; [`StoreError::Exists`] when somebody was first, and nothing is left then.
    pub async fn publish(self, display_name: &str, quota: QuotaChoice) -> Result<TenantRecord, BackupError> {
        match self.tenants.publish(&self.store, display_name, quota).await {
            Ok(record) => Ok(record),
            // In doubt, it may be a tenant already; if not, the next start throws it away.
            Err(error @ StoreError::Unavailable { .. }) => Err(error.into()),
            Err(error) => {
                self.tenants.discard(&self.store).await?;
                Err(error.into())
            }
        }
    }

    /// Destroys what was staged, its key first.
    pub async fn discard(self) -> Result<(), BackupError> {
        Ok(self.tenants.discard(&self.store).await?)
    }
}

// === impl Archives ===

impl Archives {
    /// Reads an archive and all it builds on to the end, and compares everything that can be compared.
    pub async fn verify(&self, source: &Source) -> Result<Manifest, BackupError> {
        let mut chain = self.chain(source).await?;
        while chain.next().await?.is_some() {}
        chain.manifest().cloned().ok_or(BackupError::Damaged { what: "its manifest" })
    }

    /// Restores into a new tenant, staged under the name it shall have. It may hold `held_bytes_max` of what counts against a
    /// storage quota. Whatever fails leaves nothing.
    pub async fn restore_new(
        &self,
        tenants: &Tenants,
        source: &Source,
        into: &TenantId,
        held_bytes_max: u64,
    ) -> Result<Staged, BackupError> {
        self.restore_staged(tenants, source, Some(into), held_bytes_max).await
    }

    /// The same; without a name it is to be looked at, and then discarded.
    pub(super) async fn restore_staged(
        &self,
        tenants: &Tenants,
        source: &Source,
        into: Option<&TenantId>,
        held_bytes_max: u64,
    ) -> Result<Staged, BackupError> {
        let manifest = self.verify(source).await?;
        if manifest.held_bytes > held_bytes_max {
            return Err(StoreError::Quota { bytes_max: held_bytes_max }.into());
        }
        let of = tenants.every_uid().into_iter().find(|(_, uid)| *uid == source.tenant_uid);
        let of = of.and_then(|(id, _)| tenants.open_readable(&id.parse().ok()?));
        let store = tenants.stage(into).await?;
        store.set_held_bytes_max(held_bytes_max);
        match self.fill(&store, source, Place::New(source.tenant_uid.clone()), of.as_ref()).await {
            Ok(restored) => Ok(Staged { tenants: tenants.clone(), store, restored, manifest }),
            Err(error) => {
                tenants.discard(&store).await?;
                Err(error)
            }
        }
    }

    /// Reads an archive whole and takes its keys along, for a restore in place. Announces nothing.
    pub async fn prepare_restore(&self, store: &TenantStore, source: &Source) -> Result<(), BackupError> {
        let manifest = self.verify(source).await?;
        let held_bytes_max = store.held_bytes_max();
        if manifest.held_bytes > held_bytes_max {
            return Err(StoreError::Quota { bytes_max: held_bytes_max }.into());
        }
        keyring::keep(store, &source.keyring).await
    }

    /// Suspends a tenant and announces that it is put back to what an archive shows, after [`Archives::prepare_restore`]: from then
    /// on a start carries it out, and then the tenant is what it was before. Refused for certain, the tenant is what it was. When a
    /// start may find the announcement, the tenant is suspended, whatever failed: what anybody wrote would be rolled back.
    pub async fn announce_restore(
        &self,
        tenants: &Tenants,
        store: &TenantStore,
        source: &Source,
    ) -> Result<(), BackupError> {
        let id = store.tenant().ok_or(StoreError::UnknownTenant)?;
        // Not durable yet: a crash before the announcement has nothing to tell the next start.
        let state = tenants.hold_state(id, TenantState::Suspended).await?;
        let journal = Journal { tenant_uid: source.tenant_uid.clone(), backup: source.backup.clone(), state };
        if let Err(error) = store.put_json(&journal_key(), &journal).await {
            if !matches!(error, StoreError::Unavailable { .. }) {
                tenants.hold_state(id, state).await?;
            }
            return Err(error.into());
        }
        tenants.set_state(id, TenantState::Suspended).await?;
        Ok(())
    }

    /// Carries out what was announced, for a tenant that is suspended, so that nobody writes meanwhile.
    pub async fn restore_in_place(&self, store: &TenantStore, source: &Source) -> Result<Restored, BackupError> {
        let held_bytes_max = store.held_bytes_max();
        // Old and new lie side by side for a while; what counts was compared before.
        store.set_held_bytes_max(u64::MAX);
        let filled = self.fill(store, source, Place::InPlace, Some(store)).await;
        store.set_held_bytes_max(held_bytes_max);
        filled
    }

    /// Says that an announced restore is done, once the tenant is what it is to be.
    pub async fn finish_restore(&self, store: &TenantStore) -> Result<(), BackupError> {
        store.delete(&journal_key()).await?;
        Ok(())
    }

    /// Has a tenant stay suspended once the restore that is on in it is done; nothing when none is on.
    pub async fn stay_suspended(&self, store: &TenantStore) -> Result<(), BackupError> {
        if let Some(journal) = store.get_json::<Journal>(&journal_key()).await? {
            let journal = Journal { state: TenantState::Suspended, ..journal };
            store.put_json(&journal_key(), &journal).await?;
        }
        Ok(())
    }

    /// What a tenant is to be once the restore that is on in it is done.
    pub async fn state_after(&self, store: &TenantStore) -> Result<TenantState, BackupError> {
        let journal = store.get_json::<Journal>(&journal_key()).await?;
        Ok(journal.map_or(TenantState::Suspended, |journal| journal.state))
    }

    /// Whether a restore in place was begun in a tenant and is not done.
    pub async fn is_restoring(&self, store: &TenantStore) -> Result<bool, BackupError> {
        Ok(store.get(&journal_key()).await?.is_some())
    }

    /// Whether a tenant has nothing of its own yet, so that nothing is lost by restoring in place.
    pub async fn is_empty(&self, store: &TenantStore) -> Result<bool, BackupError> {
        let mut after = None;
        loop {
            let (keys, next) = store.scan_names(&Key::default(), after.as_ref(), usize::MAX).await?;
            if keys.iter().any(|key| format::class(key) == Class::State) {
                return Ok(false);
            }
            match next {
                Some(next) => after = Some(next),
                None => return Ok(store.blobs().list().await?.is_empty()),
            }
        }
    }

    /// Carries on the restores that a crash cut; for the start, before anyone is served. A tenant whose archive cannot be read
    /// any more stays suspended, and is named; one where nobody can read whether a restore is on is locked.
    pub async fn resume(&self, tenants: &Tenants) -> Result<(), BackupError> {
        for record in tenants.list().await? {
            let Some(store) = tenants.open_readable(&record.id) else { continue };
            let (source, state) = match announced(&store).await {
                Ok(Some(announced)) => announced,
                Ok(None) => continue,
                Err(BackupError::Store(error)) if tenants.shut_damaged(&record.id, &error) => continue,
                Err(error) => return Err(error),
            };
            // Read whole again first: the file may have been changed since.
            let resumed = match self.verify(&source).await {
                Ok(_) => self.restore_in_place(&store, &source).await,
                Err(error) => Err(error),
            };
            match resumed {
                Ok(_) => {
                    tenants.set_state(&record.id, state).await?;
                    self.finish_restore(&store).await?;
                    tracing::info!(tenant = %record.id, backup = %source.backup, "carried on with a restore");
                }
                Err(error) => {
                    tenants.set_state(&record.id, TenantState::Suspended).await?;
                    tracing::error!(tenant = %record.id, backup = %source.backup, %error, "a restore was cut and cannot go on");
                }
            }
        }
        Ok(())
    }

    pub(crate) async fn chain<'a>(&'a self, source: &'a Source) -> Result<Chain<'a>, BackupError> {
        if !crate::backup::is_uid(&source.tenant_uid) {
            return Err(BackupError::Unknown);
        }
        Chain::open(self, &source.keyring, &source.tenant_uid, &source.backup).await
    }

    /// `of` is the tenant that the archive was made of, if it is there: it knows who was erased since.
    async fn fill(
        &self,
        store: &TenantStore,
        source: &Source,
        place: Place,
        of: Option<&TenantStore>,
    ) -> Result<Restored, BackupError> {
        let mut chain = self.chain(source).await?;
        let mut filler = Filler {
            store,
            erasures: of.map(TenantStore::subjects),
            place,
            ops: Vec::new(),
            bytes: 0,
            present: HashSet::new(),
            blob_bytes: 0,
            blob: None,
            erased: Erased::None,
        };
        let (mut records_count, mut blobs_count) = (0, 0);
        while let Some(item) = chain.next().await? {
            match item {
                Item::Record(key, record) => {
                    records_count += u64::from(filler.record(key, record.value.to_vec()).await?);
                }
                Item::Blob(id) => {
                    filler.blob = Some(store.blobs().create_as(id).await?);
                    filler.present.insert(format::blob_mark(&id));
                    blobs_count += 1;
                }
                Item::Part(part) => filler.part(part).await?,
                Item::BlobEnd => filler.blob_end().await?,
                Item::Kept(_) => {}
            }
        }
        filler.flush().await?;
        let removed_count = if filler.place == Place::InPlace { filler.remove_others().await? } else { 0 };
        if filler.erased == Erased::Some {
            store.subjects().forget_ways_to_nothing().await?;
        }
        store.recount_held(filler.blob_bytes).await?;
        if store.held()?.bytes > store.held_bytes_max() {
            return Err(StoreError::Quota { bytes_max: store.held_bytes_max() }.into());
        }
        Ok(Restored { backup: source.backup.clone(), records_count, blobs_count, removed_count })
    }
}

/// Where a restore writes.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Into a new tenant; history goes below this unique id.
    New(String),
    /// Over what a tenant has.
    InPlace,
}

impl Place {
    /// Under which key a record of the archive is written; none when it is not.
    pub(crate) fn key(&self, key: Key) -> Option<Key> {
        match (self, format::class(&key)) {
            (_, Class::Apart | Class::Lent) | (Self::InPlace, Class::Logs | Class::History) => None,
            (Self::New(uid), Class::History) => {
                Some(key.segments().iter().cloned().fold(Key::new(["history", uid]), Key::push))
            }
            _ => Some(key),
        }
    }
}

/// Gathers writes, and remembers what is to stay.
struct Filler<'a> {
    store: &'a TenantStore,
    /// Who was erased since.
    erasures: Option<Subjects>,
    place: Place,
    ops: Vec<Op>,
    bytes: usize,
    /// Marks of what the archive has; filled in place only, and for blobs.
    present: HashSet<Mark>,
    blob_bytes: u64,
    blob: Option<BlobWriter>,
    erased: Erased,
}

/// Whether something of a person that was erased was left out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Erased {
    None,
    Some,
}

// === impl Filler ===

impl Filler<'_> {
    /// Says whether the record is one to be written.
    async fn record(&mut self, key: Key, value: Vec<u8>) -> Result<bool, BackupError> {
        let Some(key) = self.place.key(key) else { return Ok(false) };
        if let Some(erasures) = &self.erasures
            && let Some(tombstone) = erasures.tombstone_of(&key, &value).await?
        {
            self.erased = Erased::Some;
            if self.place != Place::InPlace {
                self.ops.push(tombstone);
            }
            return Ok(false);
        }
        if self.place == Place::InPlace {
            self.present.insert(format::record_mark(&format::encode_key(&key, 0)?));
        }
        self.bytes = self.bytes.saturating_add(value.len());
        self.ops.push(Op::put(key, value));
        if self.ops.len() >= BATCH_COUNT || self.bytes >= BATCH_BYTES {
            self.flush().await?;
        }
        Ok(true)
    }

    async fn flush(&mut self) -> Result<(), BackupError> {
        self.bytes = 0;
        let ops = std::mem::take(&mut self.ops);
        if !ops.is_empty() {
            self.store.batch(ops, Vec::new()).await?;
        }
        Ok(())
    }

    async fn part(&mut self, part: Vec<u8>) -> Result<(), BackupError> {
        self.blob_bytes = self.blob_bytes.saturating_add(part.len() as u64);
        if self.blob_bytes > self.store.held_bytes_max() {
            return Err(StoreError::Quota { bytes_max: self.store.held_bytes_max() }.into());
        }
        match &mut self.blob {
            Some(blob) => Ok(blob.write(Bytes::from(part)).await?),
            None => Err(BackupError::Damaged { what: "the order of its parts" }),
        }
    }

    async fn blob_end(&mut self) -> Result<(), BackupError> {
        let blob = self.blob.take().ok_or(BackupError::Damaged { what: "the order of its parts" })?;
        blob.finish().await?;
        Ok(())
    }

    /// Removes what the archive does not have, and does not look at it: it may be what the restore is to mend.
    async fn remove_others(&mut self) -> Result<u64, BackupError> {
        let (mut removed_count, mut after) = (0_u64, None);
        loop {
            let (keys, next) = self.store.scan_names(&Key::default(), after.as_ref(), usize::MAX).await?;
            let mut ops = Vec::new();
            for key in keys {
                let mark = format::record_mark(&format::encode_key(&key, 0)?);
                if format::class(&key) == Class::State && !self.present.contains(&mark) {
                    ops.push(Op::delete(key));
                }
            }
            removed_count += ops.len() as u64;
            if !ops.is_empty() {
                self.store.batch(ops, Vec::new()).await?;
            }
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        for id in self.store.blobs().list().await? {
            if !self.present.contains(&format::blob_mark(&id)) {
                self.store.blobs().delete(&id).await?;
            }
        }
        Ok(removed_count)
    }
}

/// What a restore in place that is not done was announced with, and what the tenant was before.
async fn announced(store: &TenantStore) -> Result<Option<(Source, TenantState)>, BackupError> {
    let Some(journal) = store.get_json::<Journal>(&journal_key()).await? else { return Ok(None) };
    let keyring = Keyring::of(store).await?;
    Ok(Some((Source { tenant_uid: journal.tenant_uid, backup: journal.backup, keyring }, journal.state)))
}

fn journal_key() -> Key {
    Key::new(["backup", "restoring"])
}
