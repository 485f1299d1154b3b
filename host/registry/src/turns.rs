//! Whose turn it is: changes of a plugin one after the other, uploads a few at a time.
//!
//! Must never let one tenant take all places for uploads, nor let anyone wait without a deadline.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ringfence_core::PluginName;
use ringfence_store::TenantStore;
use tokio::sync::{Mutex as Lock, MutexGuard as Held, Semaphore, SemaphorePermit};

use crate::RegistryError;

/// LIMIT: uploads that are inspected and compiled at the same time; each holds its component in memory.
const COMPILING_COUNT_MAX: usize = 2;
/// LIMIT: longest wait for a place to be inspected.
const COMPILING_WAIT_MAX: Duration = Duration::from_secs(60);
/// LIMIT: uploads of one tenant at the same time, from the first byte on; each takes room on the disk.
const ARRIVING_COUNT_MAX: usize = 4;
/// Locks that plugins are spread over.
const LOCKS_COUNT: usize = 64;

pub(crate) struct Turns {
    locks: Vec<Lock<()>>,
    compiling: Semaphore,
    arriving: Mutex<HashMap<Box<str>, Uploads>>,
}

/// A tenant's uploads on their way.
#[derive(Default)]
struct Uploads {
    count: usize,
    new_plugins_count: u64,
}

/// What an upload brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Brings {
    /// The first version of a plugin.
    NewPlugin,
    /// A further version.
    Version,
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self {
            locks: (0..LOCKS_COUNT).map(|_| Lock::new(())).collect(),
            compiling: Semaphore::new(COMPILING_COUNT_MAX),
            arriving: Mutex::new(HashMap::new()),
        }
    }

    /// One's turn to change a plugin, so that what is live follows what is durable in the same order. Whoever holds it
    /// waits for the store only, and the store's waits have deadlines.
    pub(crate) async fn change(&self, store: &TenantStore, plugin: &PluginName) -> Option<Held<'_, ()>> {
        let mut hasher = DefaultHasher::new();
        (store.label(), plugin).hash(&mut hasher);
        let lock = self.locks.get(hasher.finish() as usize % LOCKS_COUNT)?;
        Some(lock.lock().await)
    }

    /// A place to be inspected and compiled.
    pub(crate) async fn compile(&self) -> Result<SemaphorePermit<'_>, RegistryError> {
        match tokio::time::timeout(COMPILING_WAIT_MAX, self.compiling.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(RegistryError::Busy),
        }
    }

    /// A place for an upload to arrive; refused at once when the tenant has none left.
    pub(crate) fn arrive(&self, store: &TenantStore, brings: Brings) -> Result<Arriving<'_>, RegistryError> {
        let mut arriving = self.arriving();
        let uploads = arriving.entry(store.label().into()).or_default();
        if uploads.count >= ARRIVING_COUNT_MAX {
            return Err(RegistryError::Busy);
        }
        uploads.count += 1;
        uploads.new_plugins_count += u64::from(brings == Brings::NewPlugin);
        let new_count = uploads.new_plugins_count;
        Ok(Arriving { turns: self, tenant: store.label().into(), brings, new_count })
    }

    fn arriving(&self) -> MutexGuard<'_, HashMap<Box<str>, Uploads>> {
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tenant's place for one upload.
#[must_use = "dropping it gives the place up"]
pub(crate) struct Arriving<'a> {
    turns: &'a Turns,
    tenant: Box<str>,
    brings: Brings,
    new_count: u64,
}

impl Arriving<'_> {
    /// New plugins of the tenant that were on their way when this one came, itself included.
    pub(crate) fn new_count(&self) -> u64 {
        self.new_count
    }
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        let mut arriving = self.turns.arriving();
        if let Some(uploads) = arriving.get_mut(&self.tenant) {
            uploads.count = uploads.count.saturating_sub(1);
            uploads.new_plugins_count =
                uploads.new_plugins_count.saturating_sub(u64::from(self.brings == Brings::NewPlugin));
            if uploads.count == 0 {
                arriving.remove(&self.tenant);
            }
        }
    }
}
