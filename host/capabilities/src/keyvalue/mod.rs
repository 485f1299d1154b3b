//! `wasi:keyvalue`: buckets of a plugin in its tenant's store; the work behind both spellings of the interface.
//!
//! Must never reach outside `kv/<plugin>/<bucket>`, and asks for the grant at every call, also on a bucket that is open.

mod draft;
mod draft2;
#[cfg(test)]
mod tests;

use ringfence_core::{Capability, HostAct, On, ResourceName, limits};
use ringfence_engine::{Guest, Held};
use ringfence_store::{Key, Op, PageToken, Precondition, StoreError};
use wasmtime::component::{Linker, Resource};

use crate::bind::{Bound, View};
use crate::guarded::Got;

/// What both spellings call the bucket without a name.
const DEFAULT_BUCKET: &str = "default";
/// LIMIT: keys in one page of a list.
const PAGE_COUNT_MAX: usize = 100;
/// LIMIT: keys in one call of the batch interface.
const BATCH_COUNT_MAX: usize = 1_000;
/// LIMIT: bytes of values in one call of the batch interface.
const BATCH_BYTES_MAX: usize = 16 << 20;
/// LIMIT: times an increment is tried again when someone else was faster.
const INCREMENT_TRIES_MAX: usize = 64;

/// An open bucket.
pub struct Bucket {
    name: ResourceName,
}

/// A value that was read to be swapped.
pub struct Cas {
    bucket: ResourceName,
    key: String,
    value: Option<Vec<u8>>,
    revision: Option<u64>,
    /// The value's bytes, counted with the guest's memory while its handle lives.
    _held: Held,
}

/// Why a call fails: for the guest, or as a trap.
pub(crate) enum KvError {
    NoSuchStore,
    AccessDenied,
    Other(String),
    Trap(wasmtime::Error),
}

/// Why a swap fails.
pub(crate) enum SwapError {
    Store(KvError),
    Stale(Cas),
}

type Answer<T> = Result<T, KvError>;

/// Offers `wasi:keyvalue@0.2.0-draft` and `@0.2.0-draft2`.
pub(crate) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    draft::link(linker)?;
    draft2::link(linker)
}

// === impl KvError ===

impl From<wasmtime::Error> for KvError {
    fn from(error: wasmtime::Error) -> Self {
        Self::Trap(error)
    }
}

impl From<wasmtime::component::ResourceTableError> for KvError {
    fn from(error: wasmtime::component::ResourceTableError) -> Self {
        Self::Trap(error.into())
    }
}

impl From<StoreError> for KvError {
    fn from(error: StoreError) -> Self {
        // The guest learns that the store did not do it, not why: causes are the host's business.
        tracing::debug!(%error, "a key-value call failed");
        match error {
            StoreError::Quota { .. } | StoreError::ReadOnly => Self::Other(error.to_string()),
            _ => Self::Other("the store is unavailable".to_owned()),
        }
    }
}

// === impl View ===

impl View<'_> {
    fn kv_open(&mut self, identifier: &str) -> Answer<Resource<Bucket>> {
        let bound = self.bound()?;
        bound.call()?;
        let name = if identifier.is_empty() { DEFAULT_BUCKET } else { identifier };
        let name: ResourceName = name.parse().map_err(|_| KvError::NoSuchStore)?;
        bound.check(&name)?;
        Ok(self.table.push(Bucket { name })?)
    }

    /// The bucket's name, after the call is counted and the grant is asked.
    fn kv_enter(&mut self, bucket: &Resource<Bucket>) -> Answer<ResourceName> {
        let name = self.table.get(bucket)?.name.clone();
        let bound = self.bound()?;
        bound.call()?;
        bound.check(&name)?;
        bound.operate(1)?;
        Ok(name)
    }

    async fn kv_get(&mut self, bucket: &Resource<Bucket>, key: &str) -> Answer<Option<Vec<u8>>> {
        let name = self.kv_enter(bucket)?;
        let bound = self.bound()?;
        let record = bound.store.get(&bound.key(HostAct::ReadValue, &name, key)?).await?;
        bound.guarded.asked("key", key, if record.is_some() { Got::Something } else { Got::Nothing });
        Ok(record.map(|record| record.value.to_vec()))
    }

    async fn kv_set(&mut self, bucket: &Resource<Bucket>, key: &str, value: Vec<u8>) -> Answer<()> {
        let name = self.kv_enter(bucket)?;
        let bound = self.bound()?;
        let key = bound.key(HostAct::WriteValue, &name, key)?;
        bound.store.batch(vec![Op::Put { key, value: checked(value)? }], Vec::new()).await?;
        Ok(())
    }

    async fn kv_delete(&mut self, bucket: &Resource<Bucket>, key: &str) -> Answer<()> {
        let name = self.kv_enter(bucket)?;
        let bound = self.bound()?;
        let key = bound.key(HostAct::DeleteValue, &name, key)?;
        bound.store.batch(vec![Op::Delete { key }], Vec::new()).await?;
        Ok(())
    }

    async fn kv_exists(&mut self, bucket: &Resource<Bucket>, key: &str) -> Answer<bool> {
        let name = self.kv_enter(bucket)?;
        let bound = self.bound()?;
        Ok(bound.store.get(&bound.key(HostAct::ReadValue, &name, key)?).await?.is_some())
    }

    async fn kv_list(
        &mut self,
        bucket: &Resource<Bucket>,
        after: Option<&PageToken>,
    ) -> Answer<(Vec<String>, Option<PageToken>)> {
        let name = self.kv_enter(bucket)?;
        let bound = self.bound()?;
        bound.leave(HostAct::ListValues, &name, "")?;
        bound.meter.storage_op();
        let (keys, next) = bound.store.scan_names(&bound.prefix(&name), after, PAGE_COUNT_MAX).await?;
        Ok((keys.iter().filter_map(|key| key.last_name().map(str::to_owned)).collect(), next))
    }

    async fn kv_get_many(
        &mut self,
        bucket: &Resource<Bucket>,
        keys: Vec<String>,
    ) -> Answer<Vec<(String, Option<Vec<u8>>)>> {
        let name = self.kv_enter(bucket)?;
        let bound = self.bound()?;
        few(keys.len())?;
        bound.operate(keys.len() as u64)?;
        let mut found = Vec::with_capacity(keys.len());
        let mut bytes = 0_usize;
        for key in keys {
            bound.call()?;
            let value = bound
                .store
                .get(&bound.key(HostAct::ReadValue, &name, &key)?)
                .await?
                .map(|record| record.value.to_vec());
            bytes = bytes.saturating_add(value.as_ref().map_or(0, Vec::len));
            little(bytes)?;
            found.push((key, value));
        }
        Ok(found)
    }

    async fn kv_set_many(&mut self, bucket: &Resource<Bucket>, pairs: Vec<(String, Vec<u8>)>) -> Answer<()> {
        let name = self.kv_enter(bucket)?;
        let bound = self.bound()?;
        few(pairs.len())?;
        bound.operate(pairs.len() as u64)?;
        little(pairs.iter().map(|(_, value)| value.len()).fold(0, usize::saturating_add))?;
        let mut ops = Vec::with_capacity(pairs.len());
        for (key, value) in pairs {
            bound.call()?;
            ops.push(Op::Put { key: bound.key(HostAct::WriteValue, &name, &key)?, value: checked(value)? });
        }
        bound.store.batch(ops, Vec::new()).await?;
        Ok(())
    }

    async fn kv_delete_many(&mut self, bucket: &Resource<Bucket>, keys: Vec<String>) -> Answer<()> {
        let name = self.kv_enter(bucket)?;
        let bound = self.bound()?;
        few(keys.len())?;
        bound.operate(keys.len() as u64)?;
        let mut ops = Vec::with_capacity(keys.len());
        for key in keys {
            bound.call()?;
            ops.push(Op::Delete { key: bound.key(HostAct::DeleteValue, &name, &key)? });
        }
        bound.store.batch(ops, Vec::new()).await?;
        Ok(())
    }

    /// Adds to a number kept as decimal text, as the reference host does; an absent key counts as zero.
    async fn kv_increment(
        &mut self,
        bucket: &Resource<Bucket>,
        key: &str,
        add: impl Fn(i128) -> Option<i128>,
    ) -> Answer<i128> {
        let name = self.kv_enter(bucket)?;
        let bound = self.bound()?;
        bound.leave(HostAct::ReadValue, &name, key)?;
        let key = bound.key(HostAct::WriteValue, &name, key)?;
        for _ in 0..INCREMENT_TRIES_MAX {
            let record = bound.store.get(&key).await?;
            let now = match &record {
                Some(record) => number(&record.value)?,
                None => 0,
            };
            let new = add(now).ok_or_else(|| KvError::Other("the number would overflow".to_owned()))?;
            let put = Op::Put { key: key.clone(), value: new.to_string().into_bytes() };
            match bound.store.batch(vec![put], vec![unchanged(&key, record.map(|record| record.revision))]).await {
                Ok(_) => return Ok(new),
                Err(StoreError::Conflict { .. }) => bound.meter.alive().map_err(wasmtime::Error::from)?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(KvError::Other("too many others change this value".to_owned()))
    }

    async fn kv_cas(&mut self, bucket: &Resource<Bucket>, key: String) -> Answer<Resource<Cas>> {
        let name = self.kv_enter(bucket)?;
        let cas = self.bound()?.read(name, key).await?;
        Ok(self.table.push(cas)?)
    }

    fn kv_current(&mut self, cas: &Resource<Cas>) -> Answer<Option<Vec<u8>>> {
        let (bucket, key, value) = {
            let cas = self.table.get(cas)?;
            (cas.bucket.clone(), cas.key.clone(), cas.value.clone())
        };
        let bound = self.bound()?;
        bound.call()?;
        bound.check(&bucket)?;
        bound.leave(HostAct::ReadValue, &bucket, &key)?;
        Ok(value)
    }

    async fn kv_swap(&mut self, cas: Resource<Cas>, value: Vec<u8>) -> Result<(), SwapError> {
        let Cas { bucket, key: name, revision, .. } = self.table.delete(cas).map_err(KvError::from)?;
        let bound = self.bound().map_err(KvError::from)?;
        bound.call().map_err(KvError::from)?;
        bound.check(&bucket)?;
        bound.operate(1)?;
        let key = bound.key(HostAct::WriteValue, &bucket, &name)?;
        let put = Op::Put { key: key.clone(), value: checked(value)? };
        match bound.store.batch(vec![put], vec![unchanged(&key, revision)]).await {
            Ok(_) => Ok(()),
            Err(StoreError::Conflict { .. }) => Err(SwapError::Stale(bound.read(bucket, name).await?)),
            Err(error) => Err(SwapError::Store(error.into())),
        }
    }
}

impl From<KvError> for SwapError {
    fn from(error: KvError) -> Self {
        Self::Store(error)
    }
}

// === impl Bound ===

impl Bound {
    fn check(&self, bucket: &ResourceName) -> Answer<()> {
        if self.may(Capability::Keyvalue, bucket.as_str()) { Ok(()) } else { Err(KvError::AccessDenied) }
    }

    /// Whether policy leaves an act on a value; the key is empty for all of a bucket.
    fn leave(&self, act: HostAct, bucket: &ResourceName, key: &str) -> Answer<()> {
        self.leave.ask(act, On::Value { bucket, key }).map_err(|_| KvError::AccessDenied)
    }

    /// Counts operations against the tenant's rate; over it the call is refused, in words.
    fn operate(&self, count: u64) -> Answer<()> {
        self.ledger.storage_ops(count).map_err(|exhausted| KvError::Other(exhausted.to_string()))
    }

    fn prefix(&self, bucket: &ResourceName) -> Key {
        Key::new(["kv", self.plugin.as_str(), bucket.as_str()])
    }

    /// The name of a value, which somebody is about to work on: this is where policy is asked and storage operations are
    /// counted.
    fn key(&self, act: HostAct, bucket: &ResourceName, key: &str) -> Answer<Key> {
        if key.is_empty() || key.len() > limits::KV_KEY_BYTES_MAX {
            return Err(KvError::Other(format!("a key has 1 to {} bytes", limits::KV_KEY_BYTES_MAX)));
        }
        self.leave(act, bucket, key)?;
        self.meter.storage_op();
        Ok(self.prefix(bucket).push(key))
    }

    async fn read(&self, bucket: ResourceName, key: String) -> Answer<Cas> {
        let record = self.store.get(&self.key(HostAct::ReadValue, &bucket, &key)?).await?;
        let (value, revision) = match record {
            Some(record) => (Some(record.value.to_vec()), Some(record.revision)),
            None => (None, None),
        };
        let bytes = value.as_ref().map_or(0, Vec::len).saturating_add(key.len());
        let held = self.meter.hold(bytes as u64).map_err(wasmtime::Error::from)?;
        Ok(Cas { bucket, key, value, revision, _held: held })
    }
}

fn unchanged(key: &Key, revision: Option<u64>) -> Precondition {
    match revision {
        Some(revision) => Precondition::Revision(key.clone(), revision),
        None => Precondition::Absent(key.clone()),
    }
}

fn checked(value: Vec<u8>) -> Answer<Vec<u8>> {
    if value.len() <= limits::KV_VALUE_BYTES_MAX {
        Ok(value)
    } else {
        Err(KvError::Other(format!("a value has at most {} bytes", limits::KV_VALUE_BYTES_MAX)))
    }
}

fn few(count: usize) -> Answer<()> {
    if count <= BATCH_COUNT_MAX {
        Ok(())
    } else {
        Err(KvError::Other(format!("a batch has at most {BATCH_COUNT_MAX} keys")))
    }
}

fn little(bytes: usize) -> Answer<()> {
    if bytes <= BATCH_BYTES_MAX {
        Ok(())
    } else {
        Err(KvError::Other(format!("a batch has at most {BATCH_BYTES_MAX} bytes")))
    }
}

fn number(value: &[u8]) -> Answer<i128> {
    let text = std::str::from_utf8(value).ok();
    text.and_then(|text| text.trim().parse().ok()).ok_or_else(|| KvError::Other("the value is not a number".to_owned()))
}
