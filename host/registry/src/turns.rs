//! Whose turn it is: changes of a plugin one after the other, uploads a few at a time.
//!
//! Must never let one tenant take all places for uploads or for compiling, nor let anyone wait without a deadline.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ringfence_core::PluginName;
use ringfence_store::TenantStore;
use tokio::sync::{Mutex as Lock, MutexGuard as Held, OwnedMutexGuard, Semaphore, SemaphorePermit};

use crate::RegistryError;

/// LIMIT: components that are inspected and compiled at the same time, one of a tenant; each is held in memory.
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
    own: Mutex<HashMap<Box<str>, Arc<Lock<()>>>>,
    arriving: Mutex<HashMap<Box<str>, Uploads>>,
}

/// A place to be inspected and compiled, until it is dropped.
#[must_use = "dropping it gives the place up"]
pub(crate) struct Compiling<'a> {
    _place: SemaphorePermit<'a>,
    _own: OwnedMutexGuard<()>,
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
            own: Mutex::default(),
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

    /// A place to be inspected and compiled. A tenant's own first: whoever waits for it takes no other's.
    pub(crate) async fn compile(&self, tenant: &str) -> Result<Compiling<'_>, RegistryError> {
        let own = self.own_place(tenant);
        let both = async { (own.lock_owned().await, self.compiling.acquire().await) };
        match tokio::time::timeout(COMPILING_WAIT_MAX, both).await {
            Ok((own, Ok(place))) => Ok(Compiling { _place: place, _own: own }),
            _ => Err(RegistryError::Busy),
        }
    }

    /// The tenant's one place. Bounded by those who wait: what nobody holds is let go of.
    fn own_place(&self, tenant: &str) -> Arc<Lock<()>> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.retain(|_, place| Arc::strong_count(place) > 1);
        Arc::clone(own.entry(tenant.into()).or_default())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tenant_with_slow_components_leaves_a_place_to_the_others() {
        let turns = Turns::new();
        let first = turns.compile("acme").await.unwrap();
        let mut second = Box::pin(turns.compile("acme"));
        let mut third = Box::pin(turns.compile("acme"));
        assert!(futures::poll!(&mut second).is_pending() && futures::poll!(&mut third).is_pending());
        let other = turns.compile("globex").await.unwrap();
        drop(first);
        let std::task::Poll::Ready(Ok(held)) = futures::poll!(&mut second) else { panic!("the place is free") };
        assert!(futures::poll!(&mut third).is_pending());
        drop((held, third, other));
        let _own = turns.compile("initech").await.unwrap();
        assert_eq!(turns.own.lock().unwrap().len(), 1, "places that nobody holds are let go of");
    }
}
