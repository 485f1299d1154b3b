//! How many records a tenant has and what their revisions add up to, kept in the batch that changes either: what tells
//! whoever looks through a store that records are missing, or came back older than they were.
//!
//! Stored form: 0x04, the tenant's uid; how many records (8 bytes big-endian), the sum of their revisions modulo 2^64
//! (8 bytes big-endian), in clear. Must never be kept for less than all records of a tenant.
//! LIMIT: it tells what a damaged disk did. Who may write to the disk can change it to suit what else was changed.

use std::ops::Bound;

use crate::commit::Ahead;
use crate::engine::{Engine, EngineError, Order, Span, Write};
use crate::key::{AREA_RECORDS, AREA_TALLY, Uid, area, successor};
use crate::record::revision_of;

/// LIMIT: records and bytes read at a time when there is no tally yet.
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

/// The tally of a tenant before a batch. One that has none yet, because it has no record or is from before there was a
/// tally, is counted. For the commit thread.
pub(crate) fn before(ahead: &Ahead<'_>, uid: &Uid) -> Result<Tally, EngineError> {
    match ahead.get(&area(AREA_TALLY, uid))?.as_deref().and_then(Tally::parse) {
        Some(kept) => Ok(kept),
        None => scan(ahead.engine, uid),
    }
}

/// INVARIANT: a tenant without a tally has no record on its way either: whoever writes one writes the tally with it.
fn scan(engine: &dyn Engine, uid: &Uid) -> Result<Tally, EngineError> {
    let prefix = area(AREA_RECORDS, uid);
    let to = successor(&prefix).map_or(Bound::Unbounded, Bound::Excluded);
    let (mut tally, mut from) = (Tally::default(), Bound::Included(prefix));
    loop {
        let (count_max, bytes_max) = (STEP_COUNT, STEP_BYTES);
        let rows = engine.range(&Span { from, to: to.clone(), order: Order::Forward, count_max, bytes_max })?;
        for (_, value) in &rows.pairs {
            tally.add(revision_of(value));
        }
        match rows.pairs.into_iter().next_back() {
            Some((last, _)) if rows.more => from = Bound::Excluded(last),
            _ => return Ok(tally),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;
    use crate::record::Op;
    use crate::store::Store;
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
        // One from before there was a tally.
        store.engine().apply(vec![Write { key: area(AREA_TALLY, &store.shared().uid), value: None }]).unwrap();
        store.put(&key("e"), vec![1]).await.unwrap();
        assert_eq!(kept(&store).records_count, 3);
        assert_eq!(kept(&store), scan(store.engine(), &store.shared().uid).unwrap());
    }
}
