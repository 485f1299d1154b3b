//! A snapshot of one tenant at one revision, read while writes go on.
//!
//! Pinning notes the revision. From then on the commit thread keeps, before it changes a record for the first time, what the
//! record was; and files that are replaced or deleted stay until the pin goes. Reading walks the records and takes the kept
//! form where there is one: exactly what was there at the revision, nothing later, nothing less. Must never make a writer
//! wait for a reader, nor keep more than its limit: when a tenant changes too much meanwhile, the snapshot fails, not the
//! writes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::task::spawn_blocking;

use crate::blobs::{self, BlobId};
use crate::engine::{Engine, Order, Span};
use crate::error::StoreError;
use crate::held;
use crate::key::{AREA_RECORDS, Key, Uid, area, successor};
use crate::record::{Content, Record, Stored};
use crate::tenant_store::{Tenant, TenantStore, value_path};

/// LIMIT: bytes of earlier forms kept for one snapshot.
const KEPT_BYTES_MAX: usize = 64 << 20;
/// LIMIT: records and bytes of them read at a time.
const PAGE_COUNT: usize = 1_000;
const PAGE_BYTES: usize = 4 << 20;

/// The snapshots that are being read, one a tenant at most.
#[derive(Default)]
pub(crate) struct Pins(Mutex<PinTable>);

#[derive(Default)]
pub(crate) struct PinTable(BTreeMap<Uid, Pin>);

#[derive(Default)]
struct Pin {
    /// What changed records were; none for those that were not there.
    before: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    kept_bytes: usize,
    /// Records up to here have been read; their changes do not matter any more.
    done_to: Option<Vec<u8>>,
    /// Files that the snapshot may still read although their records were changed.
    files: BTreeSet<String>,
    blobs: BTreeSet<BlobId>,
    /// Of these, the ones that nothing else needs.
    garbage: Vec<String>,
    overrun: bool,
}

// === impl Pins ===

impl Pins {
    /// Never held through a flush: those who pin and let go do so on threads that must not wait for a disk.
    pub(crate) fn lock(&self) -> MutexGuard<'_, PinTable> {
        // The table is whole between any two statements that hold it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PinTable {
    /// Keeps what these records are before they change. For the commit thread, before it applies.
    pub(crate) fn note<'a>(
        &mut self,
        engine: &dyn Engine,
        tenant: &Tenant,
        keys: impl Iterator<Item = &'a Vec<u8>>,
    ) -> Result<(), StoreError> {
        let Some(pin) = self.0.get_mut(&tenant.uid).filter(|pin| !pin.overrun) else { return Ok(()) };
        for key in keys {
            if pin.done_to.as_ref().is_some_and(|done| key <= done) || pin.before.contains_key(key) {
                continue;
            }
            let old = engine.get(key)?;
            if let Some(file) = old.as_ref().and_then(|old| held::file_of(&tenant.keys, key, old)) {
                pin.files.insert(value_path(&tenant.uid, &file.id));
            }
            pin.kept_bytes += key.len() + old.as_ref().map_or(0, Vec::len);
            pin.before.insert(key.clone(), old);
            if pin.kept_bytes > KEPT_BYTES_MAX {
                pin.overrun = true;
                pin.before.clear();
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether a replaced value file must stay for now; the pin removes it when it goes.
    pub(crate) fn keeps(&mut self, path: &str) -> bool {
        let Some(pin) = self.0.values_mut().find(|pin| pin.files.contains(path)) else { return false };
        pin.garbage.push(path.to_owned());
        true
    }

    /// As [`PinTable::keeps`], for a deleted blob.
    pub(crate) fn keeps_blob(&mut self, id: &BlobId, path: &str) -> bool {
        let Some(pin) = self.0.values_mut().find(|pin| pin.blobs.contains(id)) else { return false };
        pin.garbage.push(path.to_owned());
        true
    }
}

/// A tenant at one revision. Dropped, it lets go of what was kept for it.
pub(crate) struct Snapshot {
    store: TenantStore,
    revision: u64,
    blobs: BTreeSet<BlobId>,
    from: Option<Bound<Vec<u8>>>,
}

// === impl Snapshot ===

impl Snapshot {
    /// Pins a tenant as it is now; [`StoreError::Busy`] when it is pinned already.
    pub(crate) async fn pin(store: &TenantStore) -> Result<Self, StoreError> {
        let uid = store.shared().uid;
        let counters = &store.store().0.counters;
        let revision = {
            let mut pins = counters.pins.lock();
            if pins.0.contains_key(&uid) {
                return Err(StoreError::Busy);
            }
            pins.0.insert(uid, Pin::default());
            counters.revision.load(Ordering::Relaxed)
        };
        let from = Some(Bound::Excluded(area(AREA_RECORDS, &uid)));
        let mut this = Self { store: store.clone(), revision, blobs: BTreeSet::new(), from };
        // What has a revision may be on its way still, and a backup must not know what a power cut could take back: an
        // empty batch is acknowledged after everything before it is there, durably. INVARIANT: nothing is read earlier.
        store.batch(Vec::new(), Vec::new()).await?;
        this.blobs = store.blobs().list().await?.into_iter().collect();
        if let Some(pin) = counters.pins.lock().0.get_mut(&uid) {
            pin.blobs.clone_from(&this.blobs);
        }
        Ok(this)
    }

    /// The revision it shows.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// The tenant's blobs; one that was just being uploaded may be among them.
    pub(crate) fn blobs(&self) -> &BTreeSet<BlobId> {
        &self.blobs
    }

    /// The next records, in the order of their stored names, and what lies among them and does not open; none after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<(Vec<(Key, Record)>, Vec<Rotten>)>, StoreError> {
        let Some(from) = self.from.take() else { return Ok(None) };
        let (store, revision) = (self.store.clone(), self.revision);
        let (records, rotten, next) =
            spawn_blocking(move || page(&store, revision, from)).await.map_err(StoreError::unavailable)??;
        self.from = next;
        Ok(Some((records, rotten)))
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let pin = self.store.store().0.counters.pins.lock().0.remove(&self.store.shared().uid);
        for path in pin.into_iter().flat_map(|pin| pin.garbage) {
            if let Err(error) = self.store.store().0.files.remove(&path) {
                tracing::warn!(%error, "a replaced file could not be removed after a backup");
            }
        }
    }
}

/// A record that does not open, and what is known of it.
pub(crate) struct Rotten {
    /// Its name, where that opens.
    pub(crate) key: Option<Key>,
    /// Its revision, as it lies there: nothing vouches for it.
    pub(crate) revision: Option<u64>,
}

type Read = (Vec<(Key, Record)>, Vec<Rotten>, Option<Bound<Vec<u8>>>);

fn page(store: &TenantStore, revision: u64, from: Bound<Vec<u8>>) -> Result<Read, StoreError> {
    let tenant = store.shared();
    let root = area(AREA_RECORDS, &tenant.uid);
    let to = successor(&root).map_or(Bound::Unbounded, Bound::Excluded);
    tenant.check_alive()?;
    let span = Span {
        from: from.clone(),
        to: to.clone(),
        order: Order::Forward,
        count_max: PAGE_COUNT,
        bytes_max: PAGE_BYTES,
    };
    let rows = store.engine().range(&span)?;
    let last = rows.pairs.last().map(|(key, _)| key.clone()).filter(|_| rows.more);
    let up_to = last.clone().map_or(to, Bound::Included);
    let mut found: BTreeMap<Vec<u8>, Vec<u8>> = rows.pairs.into_iter().collect();
    {
        let pins = store.store().0.counters.pins.lock();
        let pin = pins.0.get(&tenant.uid).ok_or(StoreError::Gone)?;
        if pin.overrun {
            return Err(StoreError::Overrun);
        }
        for (key, old) in pin.before.range((from, up_to)) {
            match old {
                Some(old) => drop(found.insert(key.clone(), old.clone())),
                None => drop(found.remove(key)),
            }
        }
    }
    let (mut records, mut last, mut bytes) = (Vec::with_capacity(found.len()), last, 0_usize);
    let (mut rotten, mut read_to) = (Vec::new(), None);
    for (stored_key, value) in found {
        if bytes >= PAGE_BYTES {
            last = read_to;
            break;
        }
        match record(store, revision, &stored_key, &value)? {
            Ok(whole) => {
                bytes = bytes.saturating_add(whole.1.value.len());
                records.push(whole);
            }
            Err(unread) => {
                store.name_rotten(unread.key.as_ref(), &stored_key);
                rotten.push(unread);
            }
        }
        read_to = Some(stored_key);
    }
    if let Some(last) = &last
        && let Some(pin) = store.store().0.counters.pins.lock().0.get_mut(&tenant.uid)
    {
        let later = pin.before.split_off(last);
        pin.before = later;
        pin.done_to = Some(last.clone());
    }
    Ok((records, rotten, last.map(Bound::Excluded)))
}

/// One record of a snapshot of this revision, or what is known of it where it does not open. Fails for no damage.
fn record(
    store: &TenantStore,
    newest: u64,
    stored_key: &[u8],
    value: &[u8],
) -> Result<Result<(Key, Record), Rotten>, StoreError> {
    let tenant = store.shared();
    let key = match Key::open_below(&tenant.keys, &Key::default(), &area(AREA_RECORDS, &tenant.uid), stored_key) {
        Err(StoreError::Damaged) => return Ok(Err(Rotten { key: None, revision: None })),
        opened => opened?,
    };
    let Ok(stored) = Stored::parse(value) else { return Ok(Err(Rotten { key: Some(key), revision: None })) };
    let revision = stored.revision;
    let value = match stored.open(&tenant.keys, stored_key) {
        // What the seal vouches for and is newer than the snapshot is no rot, but a fault of the snapshot.
        Ok(_) if revision > newest => return Err(StoreError::Damaged),
        Ok(Content::Inside(value)) => Ok(Some(value)),
        Ok(Content::InFile(file)) => store.read_file(file),
        Err(error) => Err(error),
    };
    let value = match value {
        Ok(Some(value)) => value,
        Ok(None) | Err(StoreError::Damaged) => return Ok(Err(Rotten { key: Some(key), revision: Some(revision) })),
        Err(error) => return Err(error),
    };
    Ok(Ok((key, Record { value, revision })))
}

/// Bytes that the blobs of a snapshot hold, and how they are read.
pub(crate) async fn blob_reader(store: &TenantStore, id: &BlobId) -> Result<Option<blobs::BlobReader>, StoreError> {
    match store.blobs().read_stream(id).await {
        Err(StoreError::Missing) => Ok(None),
        opened => opened.map(Some),
    }
}
