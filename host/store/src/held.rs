//! How many bytes a tenant holds: counted in the same batch as the write that changes it, so that it survives whatever
//! the write survives and can never drift from it.
//!
//! Counted are records under the names of `key::COUNTED` (as they lie on disk, name and seal included, and the contents
//! of their files) and whatever a batch says with `Op::Hold`. Stored form: 0x03, the tenant's uid; 8 bytes big-endian, in
//! clear. Must never let a write through that grows a tenant beyond what it may hold, and never hinder one that shrinks it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::atomic::Ordering;

use ringfence_keys::{TenantKeys, Zeroizing};
use tokio::task::spawn_blocking;

use crate::commit::{Ahead, Batch, Payload, PendingFiles};
use crate::engine::{Engine, Order, Span, Write};
use crate::error::StoreError;
use crate::key::{AREA_HELD, COUNTED, Key, Uid, area, successor};
use crate::record::{Content, FileRef, Stored};
use crate::tenant_store::{Tenant, TenantStore};

/// Records read at a time when everything is counted anew.
const COUNT_AT_A_TIME: usize = 1_000;
/// LIMIT: what a tenant may hold beyond its quota, so that the host can write down that its runs end and its messages fail.
const RESERVE_BYTES: u64 = 16 << 20;
/// LIMIT: bytes of records read at a time.
const BYTES_AT_A_TIME: usize = 16 << 20;

/// What a batch writes under its stored keys; none deletes.
pub(crate) type Values = BTreeMap<Vec<u8>, Option<Zeroizing<Vec<u8>>>>;

/// What a tenant holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldBytes {
    /// Bytes held now.
    pub bytes: u64,
    /// Writes refused for being too much, since the start.
    pub refused_count: u64,
}

/// What a batch does to the count beside its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counting {
    /// So many bytes more, in files of their own.
    Add(u64),
    /// The same, and what is over the quota may come from the reserve.
    AddWithReserve(u64),
    /// All counted records are added up anew, and so many bytes in files of their own.
    Anew(u64),
}

// === impl TenantStore ===

impl TenantStore {
    /// What the tenant may hold from now on, in bytes. What it holds beyond stays; growth is refused.
    pub fn set_held_bytes_max(&self, bytes_max: u64) {
        self.shared().held_bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// What the tenant holds. Reads one small record.
    pub fn held(&self) -> Result<HeldBytes, StoreError> {
        let tenant = self.shared();
        let bytes = read(self.engine(), &tenant.uid)?.unwrap_or(0);
        Ok(HeldBytes { bytes, refused_count: self.held_refused_count() })
    }

    /// Writes refused since the start because they did not fit. Reads nothing.
    pub fn held_refused_count(&self) -> u64 {
        self.shared().held_refused_count.load(Ordering::Relaxed)
    }

    /// Whether what the tenant holds was ever counted; see [`TenantStore::count_held`].
    pub fn is_counted(&self) -> Result<bool, StoreError> {
        Ok(read(self.engine(), &self.shared().uid)?.is_some())
    }

    /// Whether so many bytes more would be too much, in the words of the write that would try it.
    pub fn check_held(&self, more_bytes: u64) -> Result<(), StoreError> {
        let before = read(self.engine(), &self.shared().uid)?.unwrap_or(0);
        check(self.shared(), before, before.saturating_add(more_bytes), 0)
    }

    /// Counts a tenant that was never counted, with `other_bytes` in files that its records name; for the start, before
    /// anyone writes. Does nothing for a tenant that holds nothing or is counted already.
    pub async fn count_held(&self, other_bytes: u64) -> Result<(), StoreError> {
        if self.is_counted()? {
            return Ok(());
        }
        let this = self.clone();
        let counted = spawn_blocking(move || scan(this.engine(), this.shared())).await;
        if counted.map_err(StoreError::unavailable)??.saturating_add(other_bytes) == 0 {
            return Ok(());
        }
        self.recount_held(other_bytes).await
    }

    /// What the tenant may hold, in bytes.
    pub(crate) fn held_bytes_max(&self) -> u64 {
        self.shared().held_bytes_max.load(Ordering::Relaxed)
    }

    /// Counts a tenant anew, with `other_bytes` in files that its records name.
    pub(crate) async fn recount_held(&self, other_bytes: u64) -> Result<(), StoreError> {
        let files = PendingFiles { files: self.store().0.files.clone(), uid: self.shared().uid, ids: Vec::new() };
        let batch = Batch {
            tenant: self.shared().clone(),
            writes: BTreeMap::new(),
            counted: BTreeSet::new(),
            counting: Counting::Anew(other_bytes),
            checks: Vec::new(),
            files,
        };
        self.store().0.committer.commit(batch).await.map(drop)
    }
}

/// The bytes that what is stored under a key counts, and the value file among them.
pub(crate) fn under(keys: &TenantKeys, key: &[u8], stored: Option<&[u8]>) -> (u64, Option<FileRef>) {
    let Some(bytes) = stored else { return (0, None) };
    let file = file_of(keys, key, bytes);
    (size(key.len(), bytes.len(), file.as_ref()), file)
}

/// The bytes that a write makes lie under its key.
pub(crate) fn of(key: &[u8], sealed: Option<&[u8]>, payload: Option<&Payload>) -> u64 {
    let file = match payload {
        Some(Payload::InFile(file)) => Some(file),
        _ => None,
    };
    sealed.map_or(0, |sealed| size(key.len(), sealed.len(), file))
}

/// The write that keeps the count right, when the batch changes it; refuses what would be too much. For the commit thread.
pub(crate) fn count(
    ahead: &Ahead<'_>,
    tenant: &Tenant,
    counting: Counting,
    gone: u64,
    added: u64,
) -> Result<Option<Write>, StoreError> {
    let (more, reserve_bytes) = match counting {
        Counting::Add(0) | Counting::AddWithReserve(0) if gone == 0 && added == 0 => return Ok(None),
        Counting::Add(more) => (more, 0),
        Counting::AddWithReserve(more) => (more, RESERVE_BYTES),
        Counting::Anew(other) => {
            let bytes = scan(ahead.engine, tenant)?.saturating_add(other);
            tenant.held_seen_bytes.store(bytes, Ordering::Relaxed);
            return Ok(Some(write(&tenant.uid, bytes)));
        }
    };
    let before = parse(ahead.get(&area(AREA_HELD, &tenant.uid))?)?.unwrap_or(0);
    let after = before.saturating_sub(gone).saturating_add(added).saturating_add(more);
    check(tenant, before, after, reserve_bytes)?;
    tenant.held_seen_bytes.store(after, Ordering::Relaxed);
    Ok(Some(write(&tenant.uid, after)))
}

/// What the commit thread would say, as far as it can be known before the values are sealed: the seals' own bytes are
/// left out, so that nothing is refused here that would not be refused there.
pub(crate) fn look_ahead(
    engine: &dyn Engine,
    tenant: &Tenant,
    values: &Values,
    counted: &BTreeSet<Vec<u8>>,
    counting: Counting,
) -> Result<(), StoreError> {
    let (hold, reserve_bytes) = match counting {
        Counting::Add(hold) => (hold, 0),
        Counting::AddWithReserve(hold) => (hold, RESERVE_BYTES),
        Counting::Anew(_) => return Ok(()),
    };
    let new = values.iter().filter(|(key, value)| value.is_some() && counted.contains(*key));
    let added = new.fold(hold, |sum, (key, value)| {
        let bytes = value.as_ref().map_or(0, |value| value.len()).saturating_add(key.len());
        sum.saturating_add(bytes as u64)
    });
    if added == 0 {
        return Ok(());
    }
    // What the commit thread counted last, whatever became of it: whoever is let through by that is counted once more.
    let bytes_max = tenant.held_bytes_max.load(Ordering::Relaxed);
    if tenant.held_seen_bytes.load(Ordering::Relaxed).saturating_add(added) <= bytes_max {
        return Ok(());
    }
    let before = read(engine, &tenant.uid)?.unwrap_or(0);
    if before.saturating_add(added) <= bytes_max {
        return Ok(());
    }
    // Only now is it worth looking at what goes.
    let mut gone = 0_u64;
    for key in values.keys().filter(|key| counted.contains(*key)) {
        gone = gone.saturating_add(under(&tenant.keys, key, engine.get(key)?.as_deref()).0);
    }
    check(tenant, before, before.saturating_sub(gone).saturating_add(added), reserve_bytes)
}

/// Whether a value that is on its way to a file may grow, with all others that are on theirs counted as held.
pub(crate) fn check_staged(engine: &dyn Engine, tenant: &Tenant, staged_bytes: u64) -> Result<(), StoreError> {
    let before = read(engine, &tenant.uid)?.unwrap_or(0);
    check(tenant, before, before.saturating_add(staged_bytes), 0)
}

fn check(tenant: &Tenant, before: u64, after: u64, reserve_bytes: u64) -> Result<(), StoreError> {
    let bytes_max = tenant.held_bytes_max.load(Ordering::Relaxed);
    if after > before && after > bytes_max.saturating_add(reserve_bytes) {
        tenant.held_refused_count.fetch_add(1, Ordering::Relaxed);
        return Err(StoreError::Quota { bytes_max });
    }
    Ok(())
}

/// Adds up all counted records of a tenant.
fn scan(engine: &dyn Engine, tenant: &Tenant) -> Result<u64, StoreError> {
    let mut sum = 0_u64;
    for name in COUNTED {
        let prefix = Key::new([name]).seal(&tenant.keys, &tenant.uid)?;
        let to = successor(&prefix).map_or(Bound::Unbounded, Bound::Excluded);
        let mut from = Bound::Excluded(prefix);
        loop {
            let (count_max, bytes_max) = (COUNT_AT_A_TIME, BYTES_AT_A_TIME);
            let rows = engine.range(&Span { from, to: to.clone(), order: Order::Forward, count_max, bytes_max })?;
            for (key, value) in &rows.pairs {
                let file = file_of(&tenant.keys, key, value);
                sum = sum.saturating_add(size(key.len(), value.len(), file.as_ref()));
            }
            match rows.pairs.into_iter().next_back() {
                Some((last, _)) if rows.more => from = Bound::Excluded(last),
                _ => break,
            }
        }
    }
    Ok(sum)
}

/// The value file of a record. A damaged record can be written over and deleted; its file, if it had one, stays until
/// the tenant goes.
pub(crate) fn file_of(keys: &TenantKeys, key: &[u8], bytes: &[u8]) -> Option<FileRef> {
    let stored = Stored::parse(bytes).ok().filter(Stored::is_in_file)?;
    match stored.open(keys, key) {
        Ok(Content::InFile(file)) => Some(file),
        _ => None,
    }
}

fn size(key_bytes: usize, value_bytes: usize, file: Option<&FileRef>) -> u64 {
    (key_bytes as u64).saturating_add(value_bytes as u64).saturating_add(file.map_or(0, |file| file.bytes))
}

fn read(engine: &dyn Engine, uid: &Uid) -> Result<Option<u64>, StoreError> {
    parse(engine.get(&area(AREA_HELD, uid))?)
}

fn parse(stored: Option<Vec<u8>>) -> Result<Option<u64>, StoreError> {
    let parsed = stored.map(|bytes| bytes.try_into().map(u64::from_be_bytes)).transpose();
    parsed.map_err(|_| StoreError::Damaged)
}

fn write(uid: &Uid, bytes: u64) -> Write {
    Write { key: area(AREA_HELD, uid), value: Some(bytes.to_be_bytes().to_vec()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{INLINE_BYTES_MAX, Op};
    use crate::store::Store;
    use crate::tenant_store::tests::tenant_in;

    fn key(name: &str) -> Key {
        Key::new(["kv", "visits", "default", name])
    }

    fn held(store: &TenantStore) -> u64 {
        store.held().unwrap().bytes
    }

    #[tokio::test]
    async fn what_is_held_follows_every_write_and_is_what_a_fresh_count_says() {
        let store = tenant_in(&Store::memory());
        assert!(!store.is_counted().unwrap());
        store.put(&Key::new(["log", "visits"]), vec![0; 5_000]).await.unwrap();
        assert!(!store.is_counted().unwrap(), "what the host writes about a tenant is not held by it");
        store.put(&key("a"), vec![1; 100]).await.unwrap();
        store.put(&key("b"), vec![1; 2 * INLINE_BYTES_MAX]).await.unwrap();
        store.put(&Key::new(["secret", "s"]), vec![1; 10]).await.unwrap();
        store.put(&key("a"), vec![1; 50]).await.unwrap();
        store.put(&key("b"), vec![1; 3 * INLINE_BYTES_MAX]).await.unwrap();
        store.put(&key("c"), vec![1]).await.unwrap();
        store.delete(&key("c")).await.unwrap();
        store.delete(&key("never there")).await.unwrap();
        let followed = held(&store);
        assert!(followed > 3 * INLINE_BYTES_MAX as u64 + 60);
        assert_eq!(followed, scan(store.engine(), store.shared()).unwrap());
        store.batch(vec![Op::Hold { bytes: 1_000 }], Vec::new()).await.unwrap();
        assert_eq!(held(&store), followed + 1_000);
        for name in ["a", "b"] {
            store.delete(&key(name)).await.unwrap();
        }
        store.delete(&Key::new(["secret", "s"])).await.unwrap();
        assert_eq!(held(&store), 1_000);
    }

    #[tokio::test]
    async fn too_much_is_refused_whole_and_shrinking_never_is() {
        let store = tenant_in(&Store::memory());
        store.put(&key("a"), vec![1; 10_000]).await.unwrap();
        store.set_held_bytes_max(held(&store) + 5_000);
        for bytes in [5_000, 2 * INLINE_BYTES_MAX] {
            let refused = store.put(&key("b"), vec![1; bytes]).await;
            assert!(matches!(refused, Err(StoreError::Quota { .. })), "{refused:?}");
        }
        let both = vec![Op::put(key("small"), vec![1]), Op::put(key("b"), vec![1; 6_000])];
        assert!(store.batch(both, Vec::new()).await.is_err());
        assert!(store.get(&key("small")).await.unwrap().is_none());
        assert!(store.batch(vec![Op::Hold { bytes: 5_001 }], Vec::new()).await.is_err());
        assert_eq!(store.held().unwrap().refused_count, 4);
        // Over its quota after it was lowered: less is fine, as much is fine, more is not.
        store.set_held_bytes_max(10);
        assert!(store.put(&key("a"), vec![2; 10_000]).await.is_ok());
        assert!(store.put(&key("a"), vec![2; 9_000]).await.is_ok());
        assert!(store.put(&key("a"), vec![2; 9_001]).await.is_err());
        assert!(store.put(&Key::new(["log", "visits"]), vec![1; 10_000]).await.is_ok());
        store.set_held_bytes_max(u64::MAX);
        assert!(store.put(&key("b"), vec![1; 5_000]).await.is_ok(), "raising it takes effect at once");
    }

    #[tokio::test]
    async fn what_the_host_writes_down_may_go_over_the_quota_as_far_as_the_reserve_and_no_further() {
        let store = tenant_in(&Store::memory());
        store.put(&key("a"), vec![1; 10_000]).await.unwrap();
        store.set_held_bytes_max(held(&store));
        let reserve = store.with_reserve();
        assert!(store.put(&key("b"), vec![1]).await.is_err(), "a guest writes nothing more");
        assert!(reserve.put(&key("b"), vec![1; 1_000]).await.is_ok());
        assert!(store.put(&key("c"), vec![1]).await.is_err(), "what the host wrote gives nobody else room");
        assert!(reserve.batch(vec![Op::Hold { bytes: RESERVE_BYTES }], Vec::new()).await.is_err());
        assert!(reserve.batch(vec![Op::Hold { bytes: RESERVE_BYTES - 2_000 }], Vec::new()).await.is_ok());
        assert!(reserve.put(&key("d"), vec![1; 2_000]).await.is_err(), "it ends");
        let held_back = store.read_only().with_reserve().put(&key("e"), vec![1]).await;
        assert!(matches!(held_back, Err(StoreError::ReadOnly)), "{held_back:?}");
    }

    #[tokio::test]
    async fn a_tenant_from_before_there_was_a_count_is_counted_once() {
        let store = tenant_in(&Store::memory());
        store.count_held(0).await.unwrap();
        assert!(!store.is_counted().unwrap(), "nothing held, nothing written");
        store.put(&key("a"), vec![1; 100]).await.unwrap();
        let followed = held(&store);
        store.engine().apply(vec![Write { key: area(AREA_HELD, &store.shared().uid), value: None }]).unwrap();
        store.count_held(7).await.unwrap();
        assert_eq!(held(&store), followed + 7);
        store.count_held(7).await.unwrap();
        assert_eq!(held(&store), followed + 7);
    }
}
