//! How many records a tenant has and what their revisions add up to, kept in the batch that changes either: what tells
//! whoever looks through a store that records are missing, or came back older than they were.
//!
//! Stored form: 0x04, the tenant's uid; how many records (8 bytes big-endian), the sum of their revisions modulo 2^64
//! (8 bytes big-endian), in clear. Must never be kept for less than all records of a tenant.
//! Directories have one for each tenant with records from version 2 on: opening one of version 1 counts them all.
//! LIMIT: it tells what a damaged disk did. Who may write to the disk can change it to suit what else was changed.
//! LIMIT: a record that the disk lost and that is written again counts twice, until somebody has it counted anew.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;

use data_encoding::HEXLOWER;

use crate::commit::Ahead;
use crate::directory;
use crate::engine::{Engine, EngineError, Order, Span, Write};
use crate::error::StoreError;
use crate::key::{AREA_RECORDS, AREA_TALLY, UID_BYTES, Uid, area, successor};
use crate::record::revision_of;
use crate::store::{Found, LESS, state};
use crate::transfer;

/// LIMIT: records and bytes read at a time when they are counted.
const STEP_COUNT: usize = 1_000;
const STEP_BYTES: usize = 16 << 20;

/// What there is of a tenant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    records_count: u64,
    revisions_sum: u64,
}

// === impl Tally ===

impl Tally {
    /// One record more.
    pub(crate) fn add(&mut self, revision: u64) {
        self.records_count = self.records_count.wrapping_add(1);
        self.revisions_sum = self.revisions_sum.wrapping_add(revision);
    }

    /// One record less.
    pub(crate) fn take(&mut self, revision: u64) {
        self.records_count = self.records_count.wrapping_sub(1);
        self.revisions_sum = self.revisions_sum.wrapping_sub(revision);
    }

    /// With what a batch changes; see [`count`].
    fn changed(&self, by: &Self) -> Self {
        Self {
            records_count: self.records_count.wrapping_add(by.records_count),
            revisions_sum: self.revisions_sum.wrapping_add(by.revisions_sum),
        }
    }

    /// What is there, held against what should be: how many records are missing, and whether as many as there should be
    /// are there with other revisions.
    pub(crate) fn against(&self, kept: &Self) -> (u64, bool) {
        let missing_count = kept.records_count.saturating_sub(self.records_count);
        (missing_count, missing_count == 0 && self != kept)
    }

    /// The row that keeps it.
    pub(crate) fn write(&self, uid: &Uid) -> Write {
        let mut value = self.records_count.to_be_bytes().to_vec();
        value.extend(self.revisions_sum.to_be_bytes());
        Write { key: area(AREA_TALLY, uid), value: Some(value) }
    }

    /// Out of such a row; none when it is damaged.
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let (count, sum) = value.split_first_chunk()?;
        Some(Self {
            records_count: u64::from_be_bytes(*count),
            revisions_sum: u64::from_be_bytes(sum.try_into().ok()?),
        })
    }
}

/// The write that keeps a tenant's tally right when a batch changes so much: what it added and took, beginning with nothing.
/// None when the tally stays as it is. A tenant that has none, because it has no record or its tally was lost, is counted, once:
/// the batch that asks writes it. For the commit thread, and for batches that write records and that nothing refuses any more.
pub(crate) fn count(ahead: &Ahead<'_>, uid: &Uid, by: &Tally) -> Result<Option<Write>, EngineError> {
    let row = ahead.get(&area(AREA_TALLY, uid))?;
    let kept = row.as_deref().and_then(Tally::parse);
    if row.is_some() && kept.is_none() {
        let uid = HEXLOWER.encode(uid);
        tracing::error!(uid, "the tally of a tenant's records is damaged; they are counted anew, as many as there are");
    }
    let before = match kept {
        Some(kept) => kept,
        // INVARIANT: a tenant without a tally has no record on its way either: whoever writes one writes the tally with it.
        None => scan(ahead.engine, uid)?,
    };
    let after = before.changed(by);
    Ok((kept != Some(after)).then(|| after.write(uid)))
}

/// How many records a tenant has, as its tally says; 0 where there is none.
pub(crate) fn records_count(engine: &dyn Engine, uid: &Uid) -> Result<u64, EngineError> {
    let row = engine.get(&area(AREA_TALLY, uid))?;
    Ok(row.as_deref().and_then(Tally::parse).map_or(0, |tally| tally.records_count))
}

/// Takes what there is of every tenant of the store in `dir` for what there should be, with `cache_bytes` of memory for pages,
/// and says of how many: after damage, so that [`crate::check()`] finds what comes later. Fails, with everything as it was, when
/// the store is open elsewhere, made by a later version, or does not open.
pub fn recount(dir: &Path, cache_bytes: u64) -> Result<u64, StoreError> {
    let Some(backend) = directory::made_by(dir)? else {
        return Err(StoreError::unavailable(format!("there is no store in `{}`", dir.display())));
    };
    let _lock = directory::lock(dir)?;
    let marked = directory::read_mark(dir).map_err(StoreError::unavailable)?;
    let engine = transfer::open(backend, &dir.join(backend.directory()), cache_bytes)?;
    if !matches!(state(&*engine, marked)?, Found::Whole) {
        return Err(StoreError::unavailable(format!("it is damaged ({LESS})")));
    }
    let counted = count_all(&*engine);
    engine.close();
    Ok(counted?)
}

/// Counts every tenant anew, whatever was kept of it, durably; says how many there are. While nobody writes.
pub(crate) fn count_all(engine: &dyn Engine) -> Result<u64, EngineError> {
    let (mut writes, mut tallies) = (Vec::new(), BTreeMap::<Uid, Tally>::new());
    each(engine, vec![AREA_TALLY], |key, _| writes.push(Write { key: key.to_vec(), value: None }))?;
    each(engine, vec![AREA_RECORDS], |key, value| {
        if let Some(uid) = key.get(1..).and_then(|rest| rest.first_chunk::<UID_BYTES>()) {
            tallies.entry(*uid).or_default().add(revision_of(value));
        }
    })?;
    // Of several changes of a key the last counts.
    writes.extend(tallies.iter().map(|(uid, tally)| tally.write(uid)));
    engine.commit(writes)?;
    Ok(tallies.len() as u64)
}

fn scan(engine: &dyn Engine, uid: &Uid) -> Result<Tally, EngineError> {
    let mut tally = Tally::default();
    each(engine, area(AREA_RECORDS, uid), |_, value| tally.add(revision_of(value)))?;
    Ok(tally)
}

/// Gives all rows below a prefix, in order.
fn each(engine: &dyn Engine, prefix: Vec<u8>, mut act: impl FnMut(&[u8], &[u8])) -> Result<(), EngineError> {
    let to = successor(&prefix).map_or(Bound::Unbounded, Bound::Excluded);
    let mut from = Bound::Included(prefix);
    loop {
        let (count_max, bytes_max) = (STEP_COUNT, STEP_BYTES);
        let rows = engine.range(&Span { from, to: to.clone(), order: Order::Forward, count_max, bytes_max })?;
        for (key, value) in &rows.pairs {
            act(key, value);
        }
        match rows.pairs.into_iter().next_back() {
            Some((last, _)) if rows.more => from = Bound::Excluded(last),
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Backend;
    use crate::key::Key;
    use crate::record::{Op, Precondition};
    use crate::store::{DiskOptions, Store};
    use crate::tenant_store::TenantStore;
    use crate::tenant_store::tests::tenant_in;

    fn kept(store: &TenantStore) -> Tally {
        Tally::parse(&store.engine().get(&area(AREA_TALLY, &store.shared().uid)).unwrap().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn it_follows_every_write_and_is_what_a_fresh_count_says() {
        let store = tenant_in(&Store::memory());
        let key = |name: &str| Key::new(["log", name]);
        for name in ["a", "b", "a", "c"] {
            store.put(&key(name), vec![1; 10]).await.unwrap();
        }
        store.delete(&key("b")).await.unwrap();
        store.delete(&key("never there")).await.unwrap();
        let both = vec![Op::put(key("a"), vec![2]), Op::put(key("d"), vec![0; 100_000]), Op::delete(key("c"))];
        store.batch(both, Vec::new()).await.unwrap();
        assert_eq!(kept(&store), scan(store.engine(), &store.shared().uid).unwrap());
        assert_eq!(kept(&store).records_count, 2);
        // One whose tally was lost, and one whose tally is damaged.
        for (name, left, count) in [("e", None, 3), ("f", Some(vec![7; 5]), 4)] {
            lay(&store, left);
            store.put(&key(name), vec![1]).await.unwrap();
            assert_eq!(kept(&store).records_count, count);
            assert_eq!(kept(&store), scan(store.engine(), &store.shared().uid).unwrap());
        }
    }

    fn lay(store: &TenantStore, value: Option<Vec<u8>>) {
        store.engine().apply(vec![Write { key: area(AREA_TALLY, &store.shared().uid), value }]).unwrap();
    }

    #[tokio::test]
    async fn it_is_counted_by_the_first_batch_that_writes_records_and_is_not_refused() {
        let store = tenant_in(&Store::memory());
        let (key, row) = (Key::new(["kv", "a"]), area(AREA_TALLY, &store.shared().uid));
        store.put(&key, vec![1; 10]).await.unwrap();
        lay(&store, None);
        let refused = store.batch(vec![Op::put(key.clone(), vec![2])], vec![Precondition::Absent(key.clone())]).await;
        assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
        store.set_held_bytes_max(20);
        assert!(matches!(store.put(&key, vec![1; 1_000]).await, Err(StoreError::Quota { .. })));
        store.batch(Vec::new(), vec![Precondition::Present(key)]).await.unwrap();
        assert!(store.engine().get(&row).unwrap().is_none());
        // One that changes nothing keeps what it counted all the same.
        store.delete(&Key::new(["kv", "never there"])).await.unwrap();
        assert_eq!(kept(&store).records_count, 1);
    }

    #[tokio::test]
    async fn opening_an_older_directory_and_whoever_asks_count_anew_and_nobody_else_does() {
        for backend in Backend::ALL {
            let directory = tempfile::tempdir().unwrap();
            let dir = directory.path().join("data");
            let options = DiskOptions { backend, cache_bytes: 4 << 20, free_bytes_min: 0 };
            let store = tenant_in(&Store::open(&dir, options).unwrap());
            store.put(&Key::new(["kv", "a"]), vec![1]).await.unwrap();
            let right = kept(&store);
            let wrong = Tally { records_count: 7, revisions_sum: 7 };
            // As a host that knows of no tally leaves it, and one of a tenant that is gone.
            lay(&store, wrong.write(&[7; 16]).value);
            store.engine().commit(vec![wrong.write(&[9; 16])]).unwrap();
            store.store().close().await.unwrap();
            let reopened = async || {
                let store = tenant_in(&Store::open(&dir, options).unwrap());
                let found = (kept(&store), store.engine().get(&area(AREA_TALLY, &[9; 16])).unwrap().is_some());
                store.store().close().await.unwrap();
                found
            };
            assert_eq!(reopened().await, (wrong, true), "{backend}: what the disk lost must not be lost sight of");
            let format = dir.join("FORMAT");
            // One of version 2 has its tallies, and what it lost must not be lost sight of either.
            for (version, expected) in [(2, (wrong, true)), (1, (right, false))] {
                std::fs::write(&format, format!("version {version}\nbackend {backend}\n")).unwrap();
                assert_eq!(reopened().await, expected, "{backend} from version {version}");
                assert_eq!(std::fs::read_to_string(&format).unwrap(), format!("version 3\nbackend {backend}\n"));
            }
            let store = tenant_in(&Store::open(&dir, options).unwrap());
            lay(&store, Some(vec![0; 3]));
            assert!(matches!(recount(&dir, 4 << 20), Err(StoreError::InUse { .. })));
            store.store().close().await.unwrap();
            assert_eq!(recount(&dir, 4 << 20).unwrap(), 1);
            assert_eq!(reopened().await, (right, false), "{backend}");
        }
    }
}
