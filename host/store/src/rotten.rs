//! What of a tenant does not open any more: found, named as far as its name opens, and removed by its place at a person's word.
//!
//! Must never remove what opens, nor what was written since it was looked at, and never show a value.
//! LIMIT: where the seal over a large value's record rotted, nobody knows which file was its: that file stays until the tenant
//! goes. A large value that is longer than can be read whole counts as one that opens. Contents of objects and components are not
//! looked at: `store check` counts those, and whoever has the name deletes or uploads anew.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;

use crate::commit::{Batch, Check, PendingFiles};
use crate::engine::{Order, Span};
use crate::error::StoreError;
use crate::held::Counting;
use crate::key::{AREA_RECORDS, Key, Segment, area, successor};
use crate::record::{Content, PageToken, Stored};
use crate::tenant_store::TenantStore;

/// LIMIT: records that one page looks at.
const LOOKED_AT_COUNT_MAX: usize = 1_000;
/// LIMIT: bytes of values that one page opens, reached by the value that goes over.
const OPENED_BYTES: u64 = 32 << 20;
/// LIMIT: bytes of records read at a time.
const SPAN_BYTES: usize = 16 << 20;
/// Areas of marks and counts that a tenant's runs leave beside what counts as held.
const MARKS: [&str; 5] = ["run-ready", "run-due", "run-list", "run-unsworn", "run-family"];

/// A record that does not open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RottenRecord {
    /// Where it lies: 16 hex digits, the same each time, and the same as in the host's log.
    pub place: String,
    /// Its name, as far as it opens.
    pub name: Key,
    /// Whether that is all of its name.
    pub is_named: bool,
}

/// A record as it lies there, to be removed if it still does.
struct Lying {
    stored_key: Vec<u8>,
    value: Vec<u8>,
    record: RottenRecord,
}

// === impl RottenRecord ===

impl RottenRecord {
    /// The first word of its name, such as `kv` or `run`; `unknown` where not even that opens.
    pub fn area(&self) -> &str {
        match self.name.segments().first() {
            Some(Segment::Name(first)) => first,
            _ => "unknown",
        }
    }

    /// Whether it is of what guests and people put there, so that nothing of the host's rests on its being there: never a policy,
    /// somebody who was shut out, or a person who was erased.
    pub fn is_of_guests(&self) -> bool {
        MARKS.contains(&self.area()) || (self.name.is_counted() && !self.area().starts_with("subject"))
    }

    fn of(store: &TenantStore, stored_key: &[u8]) -> Result<Self, StoreError> {
        let (name, is_named) = Key::open_beginning(store.keys(), &store.shared().uid, stored_key)?;
        Ok(Self { place: place_of(stored_key), name, is_named })
    }
}

/// Where a record lies, for logs and people: says nothing about its name.
pub(crate) fn place_of(stored_key: &[u8]) -> String {
    HEXLOWER.encode(Sha256::digest(stored_key).get(..8).unwrap_or_default())
}

// === impl TenantStore ===

impl TenantStore {
    /// Looks at the next records, 1000 at most, for those that do not open; and where to go on, none after the last. Reads whole
    /// values: nothing that is done on the path of a call.
    pub async fn rotten(
        &self,
        after: Option<&PageToken>,
    ) -> Result<(Vec<RottenRecord>, Option<PageToken>), StoreError> {
        self.check_keys()?;
        let root = area(AREA_RECORDS, &self.shared().uid);
        let from = after.map_or_else(Vec::new, |token| token.0.clone());
        let (this, from) = (self.clone(), Bound::Excluded([root, from].concat()));
        spawn_blocking(move || this.look(from)).await.map_err(StoreError::unavailable)?
    }

    /// The record at a place, if there is one that does not open.
    pub async fn rotten_at(&self, place: &str) -> Result<Option<RottenRecord>, StoreError> {
        Ok(self.lying_at(place).await?.map(|lying| lying.record))
    }

    /// Removes the record at a place, if there is one that does not open, and says which. [`StoreError::Conflict`] when it was
    /// written in the meantime.
    pub async fn remove_rotten(&self, place: &str) -> Result<Option<RottenRecord>, StoreError> {
        self.check_writes()?;
        let Some(Lying { stored_key, value, record }) = self.lying_at(place).await? else { return Ok(None) };
        let counted = record.name.is_counted().then(|| stored_key.clone());
        let batch = Batch {
            tenant: self.shared().clone(),
            writes: BTreeMap::from([(stored_key.clone(), None)]),
            counted: counted.into_iter().collect::<BTreeSet<_>>(),
            counting: Counting::Add(0),
            checks: vec![Check::Same(stored_key, value)],
            files: PendingFiles { files: self.store().0.files.clone(), uid: self.shared().uid, ids: Vec::new() },
        };
        self.store().0.committer.commit(batch).await?;
        tracing::warn!(tenant = self.label(), area = record.area(), place, "a damaged record was removed");
        Ok(Some(record))
    }

    async fn lying_at(&self, place: &str) -> Result<Option<Lying>, StoreError> {
        self.check_keys()?;
        let (this, place) = (self.clone(), place.to_owned());
        spawn_blocking(move || this.find(&place)).await.map_err(StoreError::unavailable)?
    }

    fn find(&self, place: &str) -> Result<Option<Lying>, StoreError> {
        let mut from = Bound::Excluded(area(AREA_RECORDS, &self.shared().uid));
        loop {
            self.check_keys()?;
            let rows = self.engine().range(&self.all_from(from))?;
            let last = rows.pairs.last().map(|(key, _)| key.clone());
            if let Some((stored_key, value)) = rows.pairs.into_iter().find(|(key, _)| place_of(key) == place) {
                if self.opened_bytes(&stored_key, &value)?.is_some() {
                    return Ok(None);
                }
                let record = RottenRecord::of(self, &stored_key)?;
                return Ok(Some(Lying { stored_key, value, record }));
            }
            match last.filter(|_| rows.more) {
                Some(last) => from = Bound::Excluded(last),
                None => return Ok(None),
            }
        }
    }

    fn look(&self, from: Bound<Vec<u8>>) -> Result<(Vec<RottenRecord>, Option<PageToken>), StoreError> {
        let rows = self.engine().range(&self.all_from(from))?;
        let (mut more, mut bytes, mut last) = (rows.more, 0_u64, None);
        let mut rotten = Vec::new();
        for (stored_key, value) in rows.pairs {
            if bytes >= OPENED_BYTES {
                more = true;
                break;
            }
            match self.opened_bytes(&stored_key, &value)? {
                Some(opened) => bytes = bytes.saturating_add(opened),
                None => rotten.push(RottenRecord::of(self, &stored_key)?),
            }
            last = Some(stored_key);
        }
        self.check_keys()?;
        let root_bytes = area(AREA_RECORDS, &self.shared().uid).len();
        let next = last.filter(|_| more).and_then(|last| last.get(root_bytes..).map(|rest| PageToken(rest.to_vec())));
        Ok((rotten, next))
    }

    fn all_from(&self, from: Bound<Vec<u8>>) -> Span {
        let root = area(AREA_RECORDS, &self.shared().uid);
        let to = successor(&root).map_or(Bound::Unbounded, Bound::Excluded);
        Span { from, to, order: Order::Forward, count_max: LOOKED_AT_COUNT_MAX, bytes_max: SPAN_BYTES }
    }

    /// The bytes of a record that opens, with its name and its file; none of one that does not.
    fn opened_bytes(&self, stored_key: &[u8], value: &[u8]) -> Result<Option<u64>, StoreError> {
        let (_, is_named) = Key::open_beginning(self.keys(), &self.shared().uid, stored_key)?;
        if !is_named {
            return Ok(None);
        }
        let content = match Stored::parse(value).and_then(|stored| stored.open(self.keys(), stored_key)) {
            Err(StoreError::Damaged) => return Ok(None),
            content => content?,
        };
        let file = match content {
            Content::Inside(value) => return Ok(Some(value.len() as u64)),
            Content::InFile(file) => file,
        };
        match self.read_file(file) {
            Ok(Some(_)) | Err(StoreError::TooLarge { .. }) => Ok(Some(file.bytes)),
            Err(StoreError::Damaged) => Ok(None),
            Err(error) => Err(error),
            // The file is gone: lost, or with a record that was replaced in this moment.
            Ok(None) => Ok((self.engine().get(stored_key)?.as_deref() != Some(value)).then_some(0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Write;
    use crate::store::Store;
    use crate::tenant_store::tests::{another_in, tenant_in};

    fn kv(name: &str) -> Key {
        Key::new(["kv", "visits", "default", name])
    }

    /// Puts a value under a stored key past the store.
    fn lay(store: &TenantStore, stored_key: Vec<u8>, value: Vec<u8>) {
        store.engine().apply(vec![Write { key: stored_key, value: Some(value) }]).unwrap();
    }

    fn flip_the_last(mut bytes: Vec<u8>) -> Vec<u8> {
        *bytes.last_mut().unwrap() ^= 1;
        bytes
    }

    #[tokio::test]
    async fn what_rotted_is_found_named_as_far_as_it_opens_and_removed_and_nothing_else_is() {
        let all = Store::memory();
        let (acme, evil) = (tenant_in(&all), another_in(&all));
        for tenant in [&acme, &evil] {
            for key in [kv("one"), kv("two"), Key::new(["policy"])] {
                tenant.put(&key, *b"value").await.unwrap();
            }
        }
        assert_eq!(acme.rotten(None).await.unwrap(), (Vec::new(), None));
        // A value, a name's last segment with the same value, and a name of which nothing opens.
        let one = acme.seal(&kv("one")).unwrap();
        let value = acme.engine().get(&one).unwrap().unwrap();
        lay(&acme, one.clone(), flip_the_last(value.clone()));
        lay(&acme, flip_the_last(one.clone()), value.clone());
        let nothing = [area(AREA_RECORDS, &acme.shared().uid), vec![1, 0, 17], vec![9; 17]].concat();
        lay(&acme, nothing, value.clone());
        let policy = acme.seal(&Key::new(["policy"])).unwrap();
        lay(&acme, policy, value);

        let (found, next) = acme.rotten(None).await.unwrap();
        assert!(next.is_none());
        let mut told: Vec<_> =
            found.iter().map(|it| (it.area(), it.name.segments().len(), it.is_named, it.is_of_guests())).collect();
        told.sort_unstable();
        let expected =
            [("kv", 3, false, true), ("kv", 4, true, true), ("policy", 1, true, false), ("unknown", 0, false, false)];
        assert_eq!(told, expected);
        assert!(found.iter().any(|it| it.name == kv("one") && it.place == place_of(&one)));
        for record in &found {
            assert_eq!(acme.rotten_at(&record.place).await.unwrap().as_ref(), Some(record));
            assert_eq!(evil.remove_rotten(&record.place).await.unwrap(), None, "it is another tenant's");
            assert_eq!(acme.remove_rotten(&record.place).await.unwrap().as_ref(), Some(record));
            assert_eq!(acme.remove_rotten(&record.place).await.unwrap(), None);
        }
        assert_eq!(acme.rotten(None).await.unwrap(), (Vec::new(), None));
        assert!(acme.get(&kv("one")).await.unwrap().is_none());
        let two = place_of(&acme.seal(&kv("two")).unwrap());
        assert_eq!(acme.remove_rotten(&two).await.unwrap(), None, "what opens is not removed");
        assert_eq!(acme.get(&kv("two")).await.unwrap().unwrap().value.as_slice(), b"value");
        assert_eq!(acme.scan(&Key::new(["kv"]), None, 10).await.unwrap().records.len(), 1);
        assert_eq!(evil.rotten(None).await.unwrap(), (Vec::new(), None));
    }

    #[tokio::test]
    async fn a_record_that_was_written_since_it_was_looked_at_is_not_removed() {
        let all = Store::memory();
        let acme = tenant_in(&all);
        acme.put(&kv("one"), *b"old").await.unwrap();
        let one = acme.seal(&kv("one")).unwrap();
        let rotten = flip_the_last(acme.engine().get(&one).unwrap().unwrap());
        lay(&acme, one.clone(), rotten.clone());
        assert!(acme.rotten_at(&place_of(&one)).await.unwrap().is_some());
        acme.put(&kv("one"), *b"new").await.unwrap();
        let batch = Batch {
            tenant: acme.shared().clone(),
            writes: BTreeMap::from([(one.clone(), None)]),
            counted: BTreeSet::new(),
            counting: Counting::Add(0),
            checks: vec![Check::Same(one, rotten)],
            files: PendingFiles { files: acme.store().0.files.clone(), uid: acme.shared().uid, ids: Vec::new() },
        };
        let removed = acme.store().0.committer.commit(batch).await;
        assert!(matches!(removed, Err(StoreError::Conflict { precondition: 0 })));
        assert_eq!(acme.get(&kv("one")).await.unwrap().unwrap().value.as_slice(), b"new");
    }

    #[tokio::test]
    async fn a_look_at_many_records_goes_on_where_it_stopped() {
        let all = Store::memory();
        let acme = tenant_in(&all);
        for batch in 0..2_u64 {
            let put = |number| crate::record::Op::put(Key::new(["kv"]).number(batch * 600 + number), *b"value");
            acme.batch((0..600).map(put).collect(), Vec::new()).await.unwrap();
        }
        for number in [3, 1_150] {
            let key = acme.seal(&Key::new(["kv"]).number(number)).unwrap();
            let value = acme.engine().get(&key).unwrap().unwrap();
            lay(&acme, key, flip_the_last(value));
        }
        let (mut numbers, mut after, mut pages_count) = (Vec::new(), None, 0);
        loop {
            let (found, next) = acme.rotten(after.as_ref()).await.unwrap();
            numbers.extend(found.iter().filter_map(|it| it.name.last_number()));
            (after, pages_count) = (next, pages_count + 1);
            if after.is_none() {
                break;
            }
        }
        assert_eq!((numbers, pages_count), (vec![3, 1_150], 2));
    }
}
