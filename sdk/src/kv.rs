//! Key-value storage of the plugin (`wasi:keyvalue`), encrypted by the host under the tenant's key.
//!
//! Must never open a bucket before it is asked for: the parameter opens `default`, [`Kv::bucket`] any other.

use crate::bindings::wasi::keyvalue0_2_0_draft2::{atomics, batch, store};
use crate::{Call, FromHost, HostError, Result};

/// LIMIT: attempts of [`Kv::update`] before it gives up under contention.
const SWAPS_MAX: u32 = 100;

/// A bucket of keys and values. As a parameter: the bucket `default`.
#[derive(Debug)]
pub struct Kv {
    bucket: store::Bucket,
}

/// One page of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// Keys, in no particular order.
    pub keys: Vec<String>,
    /// Where the next page starts; `None` after the last.
    pub next: Option<String>,
}

impl FromHost for Kv {
    fn from_host(_: &mut Call) -> Result<Self> {
        Ok(Self::bucket("default")?)
    }
}

impl Kv {
    /// Opens another bucket, which the grant has to name.
    pub fn bucket(name: &str) -> Result<Self, HostError> {
        Ok(Self { bucket: store::open(name)? })
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, HostError> {
        Ok(self.bucket.get(key)?)
    }

    /// The value of a key as text, bytes that are no UTF-8 replaced.
    pub fn text(&self, key: &str) -> Result<Option<String>, HostError> {
        Ok(self.get(key)?.map(|value| String::from_utf8_lossy(&value).into_owned()))
    }

    /// Writes a value over what was there.
    pub fn set(&self, key: &str, value: impl AsRef<[u8]>) -> Result<(), HostError> {
        Ok(self.bucket.set(key, value.as_ref())?)
    }

    /// Removes a key; no error when there was none.
    pub fn delete(&self, key: &str) -> Result<(), HostError> {
        Ok(self.bucket.delete(key)?)
    }

    /// Whether there is such a key.
    pub fn exists(&self, key: &str) -> Result<bool, HostError> {
        Ok(self.bucket.exists(key)?)
    }

    /// One page of keys, from `cursor` on.
    pub fn keys(&self, cursor: Option<&str>) -> Result<Keys, HostError> {
        let page = self.bucket.list_keys(cursor)?;
        Ok(Keys { keys: page.keys, next: page.cursor })
    }

    /// All keys, page by page.
    pub fn list_keys(&self) -> Result<Vec<String>, HostError> {
        let mut page = self.keys(None)?;
        let mut all = std::mem::take(&mut page.keys);
        while let Some(cursor) = page.next {
            page = self.keys(Some(&cursor))?;
            all.append(&mut page.keys);
        }
        Ok(all)
    }

    /// Adds to a number in one indivisible step and returns the new one. A key that is not there counts as 0.
    pub fn add(&self, key: &str, delta: i64) -> Result<i64, HostError> {
        Ok(atomics::increment(&self.bucket, key, delta)?)
    }

    /// Writes `value` only if the key still holds `expected`; says whether it did.
    pub fn swap(&self, key: &str, expected: Option<&[u8]>, value: impl AsRef<[u8]>) -> Result<bool, HostError> {
        let handle = atomics::Cas::new(&self.bucket, key)?;
        if handle.current()?.as_deref() != expected {
            return Ok(false);
        }
        match atomics::swap(handle, value.as_ref()) {
            Ok(()) => Ok(true),
            Err(atomics::CasError::CasFailed(_)) => Ok(false),
            Err(atomics::CasError::StoreError(error)) => Err(error.into()),
        }
    }

    /// Replaces a value by what `change` makes of it, again when somebody else was faster.
    pub fn update(&self, key: &str, mut change: impl FnMut(Option<Vec<u8>>) -> Vec<u8>) -> Result<(), HostError> {
        let mut handle = atomics::Cas::new(&self.bucket, key)?;
        for _ in 0..SWAPS_MAX {
            let value = change(handle.current()?);
            handle = match atomics::swap(handle, &value) {
                Ok(()) => return Ok(()),
                Err(atomics::CasError::CasFailed(newer)) => newer,
                Err(atomics::CasError::StoreError(error)) => return Err(error.into()),
            };
        }
        Err(HostError::Failed(format!("key still changing after {SWAPS_MAX} attempts")))
    }

    /// The values of many keys in one call, with the key each belongs to.
    pub fn get_many(&self, keys: &[String]) -> Result<Vec<(String, Option<Vec<u8>>)>, HostError> {
        Ok(batch::get_many(&self.bucket, keys)?)
    }

    /// Writes many values in one call. Not atomic: an error may leave some of them written.
    pub fn set_many(&self, pairs: &[(String, Vec<u8>)]) -> Result<(), HostError> {
        Ok(batch::set_many(&self.bucket, pairs)?)
    }

    /// Removes many keys in one call. Not atomic.
    pub fn delete_many(&self, keys: &[String]) -> Result<(), HostError> {
        Ok(batch::delete_many(&self.bucket, keys)?)
    }
}

impl From<store::Error> for HostError {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::NoSuchStore => Self::Missing("keyvalue bucket".to_owned()),
            store::Error::AccessDenied => Self::Denied("keyvalue bucket".to_owned()),
            store::Error::Other(message) => Self::Failed(format!("keyvalue: {message}")),
        }
    }
}
