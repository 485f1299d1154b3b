//! The database as it will be after the batches of a group that were taken so far, and what a batch asks of it.
//!
//! Must never be asked about anything but the group that is being made: it lives as long as that.

use std::collections::BTreeMap;

use crate::engine::{Engine, EngineError};
use crate::error::StoreError;
use crate::record::Stored;
use crate::tenant_store::Tenant;

/// What must hold, over stored keys.
pub(crate) enum Check {
    Absent(Vec<u8>),
    Present(Vec<u8>),
    Revision(Vec<u8>, u64),
}

/// The database as it will be after the batches of a group that were taken so far.
pub(crate) struct Ahead<'a> {
    pub(crate) engine: &'a dyn Engine,
    /// The newest of each key.
    pub(crate) writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Ahead<'_> {
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        match self.writes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.engine.get(key),
        }
    }
}

pub(crate) fn holds(ahead: &Ahead<'_>, tenant: &Tenant, check: &Check) -> Result<bool, StoreError> {
    match check {
        Check::Absent(key) => Ok(ahead.get(key)?.is_none()),
        Check::Present(key) => Ok(ahead.get(key)?.is_some()),
        Check::Revision(key, revision) => {
            let Some(bytes) = ahead.get(key)? else { return Ok(false) };
            let stored = Stored::parse(&bytes)?;
            // The revision in clear counts only once the seal over it was checked.
            stored.open(&tenant.keys, key)?;
            Ok(stored.revision == *revision)
        }
    }
}
