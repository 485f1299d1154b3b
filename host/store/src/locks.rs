//! One change of a thing at a time: a lock for each thing that somebody changes now, and none for the others.
//!
//! A change is durable before its lock is free again, so one lock for all things of a kind would have tenants wait for each
//! other's writes of the disk. Must never keep a lock that nobody has or waits for.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Locks by the name of what is changed. Who holds one must not wait for another.
#[derive(Debug)]
pub struct Locks<K>(Mutex<HashMap<K, Weak<AsyncMutex<()>>>>);

impl<K> Default for Locks<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Locks<K> {
    /// Waits until nobody else changes this thing; whoever came first is first. Without a deadline: the caller has his own.
    pub async fn of(&self, name: K) -> OwnedMutexGuard<()> {
        self.lock(name).lock_owned().await
    }

    /// The lock of a thing when nobody else has it now; who waits for it is before this one.
    pub fn try_of(&self, name: K) -> Option<OwnedMutexGuard<()>> {
        self.lock(name).try_lock_owned().ok()
    }

    fn lock(&self, name: K) -> Arc<AsyncMutex<()>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What stays is as many as there are changes now.
        kept.retain(|_, lock| lock.strong_count() > 0);
        let known = kept.get(&name).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let lock = Arc::new(AsyncMutex::new(()));
            kept.insert(name, Arc::downgrade(&lock));
            lock
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn now(locks: &Locks<usize>, name: usize) -> Option<OwnedMutexGuard<()>> {
        timeout(Duration::ZERO, locks.of(name)).await.ok()
    }

    #[tokio::test]
    async fn a_thing_waits_for_itself_and_for_no_other() {
        let locks = Locks::default();
        let held = now(&locks, 1).await;
        assert!(held.is_some() && now(&locks, 2).await.is_some() && now(&locks, 1).await.is_none());
        assert!(locks.try_of(2).is_some() && locks.try_of(1).is_none());
        drop(held);
        assert!(now(&locks, 1).await.is_some() && locks.try_of(1).is_some());
    }

    #[tokio::test]
    async fn locks_that_nobody_holds_are_not_kept_and_a_held_one_is() {
        let locks = Locks::default();
        let held = now(&locks, 0).await;
        for name in 1..3_000 {
            assert!(now(&locks, name).await.is_some());
        }
        assert!(now(&locks, 0).await.is_none());
        assert_eq!(locks.0.lock().unwrap().len(), 1, "what nobody has or waits for is not kept");
        drop(held);
    }
}
