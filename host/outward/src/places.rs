//! Places for what is under way at once: so many of all owners, fewer of one.
//!
//! An owner waits for a place of its own first and has no more than those in the line for the places of all, which is served
//! in turn: however long receivers hang, who hangs has few places, and whoever comes next is ahead of their next ones. Must
//! never let more be under way than there are places: they bound the memory and the connections of this room.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ringfence_threat::Scope;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Places of one sort.
pub(crate) struct Places {
    all: Arc<Semaphore>,
    of_one_max: usize,
    /// Of owners that have or wait for a place; others are not kept.
    owners: Mutex<BTreeMap<Scope, Arc<Semaphore>>>,
}

/// A place, until it is dropped.
pub(crate) struct Taken {
    _of_all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
}

impl Places {
    /// `of_all_max` places, of which one owner has at most `of_one_max`.
    pub(crate) fn new(of_all_max: usize, of_one_max: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(of_all_max)), of_one_max, owners: Mutex::default() }
    }

    /// Waits for a place. None when there are no places any more.
    pub(crate) async fn take(&self, owner: &Scope) -> Option<Taken> {
        let own = self.of(owner).acquire_owned().await.ok()?;
        self.in_turn(own).await
    }

    /// Waits for a place, unless the owner has all that are its own: then none.
    pub(crate) async fn take_if_free(&self, owner: &Scope) -> Option<Taken> {
        let own = self.of(owner).try_acquire_owned().ok()?;
        self.in_turn(own).await
    }

    async fn in_turn(&self, own: OwnedSemaphorePermit) -> Option<Taken> {
        let of_all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Taken { _of_all: of_all, _own: own })
    }

    fn of(&self, owner: &Scope) -> Arc<Semaphore> {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        // Places and those who wait for one hold their owner's; an owner that only the table holds has neither.
        owners.retain(|_, own| Arc::strong_count(own) > 1);
        Arc::clone(owners.entry(owner.clone()).or_insert_with(|| Arc::new(Semaphore::new(self.of_one_max))))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn owner(name: &str) -> Scope {
        Scope::Tenant(name.parse().unwrap())
    }

    #[tokio::test]
    async fn an_owner_has_its_own_places_and_no_more() {
        let places = Places::new(4, 2);
        let (a, b) = (owner("acme"), owner("bolt"));
        let (one, _two) = (places.take(&a).await.unwrap(), places.take(&a).await.unwrap());
        assert!(places.take(&a).now_or_never().is_none(), "a third one waits");
        assert!(places.take_if_free(&a).await.is_none(), "and one that does not wait is told so");
        let _other = places.take(&b).now_or_never().flatten().unwrap();
        drop(one);
        assert!(places.take(&a).now_or_never().flatten().is_some());
    }

    #[tokio::test]
    async fn who_hangs_is_behind_those_who_wait_and_never_are_there_more_than_there_are_places() {
        let places = Places::new(2, 1);
        let [a, b, c] = ["acme", "bolt", "cord"].map(owner);
        let (one, _other) = (places.take(&a).await.unwrap(), places.take(&b).await.unwrap());
        let mut next_of_a = Box::pin(places.take(&a));
        assert!(next_of_a.as_mut().now_or_never().is_none());
        let mut first_of_c = Box::pin(places.take(&c));
        assert!(first_of_c.as_mut().now_or_never().is_none(), "there are two places");
        drop(one);
        assert!(
            next_of_a.as_mut().now_or_never().is_none(),
            "it had one, and asked for its next before the other came"
        );
        assert!(first_of_c.as_mut().now_or_never().flatten().is_some());
    }

    #[tokio::test]
    async fn an_owner_with_nothing_under_way_is_not_kept() {
        let places = Places::new(4, 2);
        drop(places.take(&owner("acme")).await);
        let _one = places.take(&owner("bolt")).await;
        assert_eq!(places.owners.lock().unwrap().keys().collect::<Vec<_>>(), [&owner("bolt")]);
    }
}
