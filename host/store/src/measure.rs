//! How much lies below a name, by the name that comes next: for metering, and without opening a single value.
//!
//! Must never decrypt what it only weighs: lengths show through the seal, and only the short references to value files
//! are opened.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use ringfence_keys::RECORD_OVERHEAD_BYTES;
use tokio::task::spawn_blocking;

use crate::engine::{Order, Span};
use crate::error::StoreError;
use crate::key::{Key, successor};
use crate::record::{Content, Stored};
use crate::tenant_store::TenantStore;

/// LIMIT: records and bytes read at a time.
const SPAN_COUNT_MAX: usize = 1_000;
const SPAN_BYTES_MAX: usize = 4 << 20;
/// Bytes of a stored name before its text: its kind and its length.
const NAME_HEAD_BYTES: usize = 3;
/// Bytes of a stored record before its seal: its kind and its revision.
const RECORD_HEAD_BYTES: u64 = 9;

impl TenantStore {
    /// Bytes of the records below `prefix`, by the name that follows it: values as they were given, and the names below
    /// `prefix` as they lie on disk. Reads every record's length, so ask seldom.
    pub async fn measure(&self, prefix: &Key) -> Result<BTreeMap<String, u64>, StoreError> {
        let (this, prefix) = (self.clone(), prefix.clone());
        spawn_blocking(move || this.measure_now(&prefix)).await.map_err(StoreError::unavailable)?
    }

    fn measure_now(&self, prefix: &Key) -> Result<BTreeMap<String, u64>, StoreError> {
        let tenant = self.shared();
        let stored_prefix = prefix.seal(&tenant.keys, &tenant.uid)?;
        let to = successor(&stored_prefix).map_or(Bound::Unbounded, Bound::Excluded);
        let mut from = Bound::Excluded(stored_prefix.clone());
        let mut by_sealed_name: HashMap<Vec<u8>, u64> = HashMap::new();
        loop {
            tenant.check_alive()?;
            let span = Span {
                from,
                to: to.clone(),
                order: Order::Forward,
                count_max: SPAN_COUNT_MAX,
                bytes_max: SPAN_BYTES_MAX,
            };
            let rows = self.engine().range(&span)?;
            for (key, value) in &rows.pairs {
                let name = first_name(&stored_prefix, key).ok_or(StoreError::Damaged)?;
                let names_bytes = key.len().saturating_sub(stored_prefix.len()) as u64;
                let bytes = self.value_bytes(key, value)?.saturating_add(names_bytes);
                match by_sealed_name.get_mut(name) {
                    Some(sum) => *sum = sum.saturating_add(bytes),
                    None => {
                        by_sealed_name.insert(name.to_vec(), bytes);
                    }
                }
            }
            match rows.pairs.into_iter().next_back() {
                Some((last, _)) if rows.more => from = Bound::Excluded(last),
                _ => break,
            }
        }
        let mut by_name = BTreeMap::new();
        for (sealed, bytes) in by_sealed_name {
            let key = Key::open_below(&tenant.keys, prefix, &stored_prefix, &sealed)?;
            by_name.insert(key.last_name().unwrap_or_default().to_owned(), bytes);
        }
        Ok(by_name)
    }

    fn value_bytes(&self, key: &[u8], value: &[u8]) -> Result<u64, StoreError> {
        let stored = Stored::parse(value)?;
        if !stored.is_in_file() {
            return Ok((value.len() as u64).saturating_sub(RECORD_HEAD_BYTES + RECORD_OVERHEAD_BYTES as u64));
        }
        match stored.open(&self.shared().keys, key)? {
            Content::InFile(file) => Ok(file.bytes),
            Content::Inside(value) => Ok(value.len() as u64),
        }
    }
}

/// The stored form up to the end of the first name below the prefix.
fn first_name<'a>(stored_prefix: &[u8], key: &'a [u8]) -> Option<&'a [u8]> {
    let rest = key.strip_prefix(stored_prefix)?;
    let length = u16::from_be_bytes([*rest.get(1)?, *rest.get(2)?]);
    key.get(..stored_prefix.len() + NAME_HEAD_BYTES + usize::from(length))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU8;
    use std::time::Duration;

    use ringfence_core::Clock;
    use ringfence_keys::{RootKey, RootKeyUri};

    use super::*;
    use crate::record::INLINE_BYTES_MAX;
    use crate::store::Store;
    use crate::tenant_store::tests::Counting;
    use crate::tenants::Tenants;

    struct Still;
    impl Clock for Still {
        fn now(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }
        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
    }

    #[tokio::test]
    async fn values_inside_and_in_files_weigh_what_was_given_and_their_names() {
        let directory = tempfile::tempdir().unwrap();
        let entropy = Arc::new(Counting(AtomicU8::new(1)));
        let root = RootKey::open_or_create(&RootKeyUri::File(directory.path().join("root.key")), &*entropy).unwrap();
        let tenants = Tenants::open(Store::memory(), Arc::new(root), entropy, Arc::new(Still)).await.unwrap();
        let acme = "acme".parse().unwrap();
        tenants.create(&acme, "Acme").await.unwrap();
        let store = tenants.open_tenant(&acme).unwrap();
        let below = |plugin: &str, key: &str| Key::new(["kv", plugin, "default", key]);
        store.put(&below("visits", "a"), vec![1; 100]).await.unwrap();
        let small = store.measure(&Key::new(["kv"])).await.unwrap();
        let names_bytes = small["visits"] - 100;
        store.put(&below("visits", "b"), vec![1; INLINE_BYTES_MAX + 1]).await.unwrap();
        store.put(&below("other", "a"), vec![1; 7]).await.unwrap();
        store.put(&Key::new(["log", "visits"]), vec![1; 50]).await.unwrap();
        let all = store.measure(&Key::new(["kv"])).await.unwrap();
        assert_eq!(all["visits"], 100 + INLINE_BYTES_MAX as u64 + 1 + 2 * names_bytes);
        assert_eq!(all.keys().collect::<Vec<_>>(), ["other", "visits"]);
        store.delete(&below("visits", "b")).await.unwrap();
        assert_eq!(store.measure(&Key::new(["kv"])).await.unwrap()["visits"], small["visits"]);
    }
}
