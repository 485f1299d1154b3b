//! Turns at work that keeps a core for a while: one at a time of each owner, few of the whole host.
//!
//! Must never let anybody wait behind more than one piece of another's work, nor end a turn before its work ends.

use std::sync::Arc;
use std::time::Duration;

use ringfence_store::Locks;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::problem::ApiError;

/// Whose turn it is, of one kind of work.
pub(crate) struct Turns {
    /// SECURITY: of each owner one stands in the line of all, so that nobody waits behind another's many.
    owners: Locks<String>,
    all: Arc<Semaphore>,
}

/// A turn; it lasts until this is dropped.
pub(crate) struct Turn {
    _own: OwnedMutexGuard<()>,
    _place: OwnedSemaphorePermit,
}

impl Turns {
    /// Turns of which so many owners have one at the same time.
    pub(crate) fn new(parallel_count: usize) -> Self {
        Self { owners: Locks::default(), all: Arc::new(Semaphore::new(parallel_count)) }
    }

    /// Waits for an owner's turn; none when it does not come in time.
    pub(crate) async fn take(&self, owner: &str, time_max: Duration) -> Option<Turn> {
        let turn = async {
            let own = self.owners.of(owner.to_owned()).await;
            Some(Turn { _own: own, _place: Arc::clone(&self.all).acquire_owned().await.ok()? })
        };
        tokio::time::timeout(time_max, turn).await.ok().flatten()
    }

    /// Does an owner's work in turn; none when the turn does not come in time. SECURITY: the turn ends with the work, not with the
    /// request: who goes away and asks again keeps no more cores than who waits.
    pub(crate) async fn work<T: Send + 'static>(
        &self,
        owner: &str,
        time_max: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Option<T>, ApiError> {
        let Some(turn) = self.take(owner, time_max).await else { return Ok(None) };
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        done.await.map(Some).map_err(|error| ApiError::host(&error))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test is a panic with a place")]

    use std::sync::Mutex;

    use tokio::task::yield_now;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_turn_lasts_as_long_as_the_work_also_when_nobody_waits_for_it() {
        let turns = Turns::new(1);
        let (go_on, told) = std::sync::mpsc::channel::<()>();
        let begun = turns.work("acme", LONG, move || told.recv().is_ok());
        assert!(tokio::time::timeout(Duration::from_millis(100), begun).await.is_err(), "it is not done yet");
        assert_eq!(turns.all.available_permits(), 0, "the work goes on");
        go_on.send(()).unwrap();
        assert_eq!(turns.work("acme", LONG, || true).await.unwrap(), Some(true), "the next comes to its turn");
    }

    #[tokio::test]
    async fn whoever_asks_many_times_at_once_keeps_no_other_owner_behind_all_of_them() {
        let (turns, order) = (Arc::new(Turns::new(1)), Arc::new(Mutex::new(Vec::new())));
        let (go_on, told) = std::sync::mpsc::channel::<()>();
        let first = Arc::clone(&turns);
        let first = tokio::spawn(async move { first.work("acme", LONG, move || told.recv().is_ok()).await });
        while turns.all.available_permits() > 0 {
            yield_now().await;
        }
        let ask = |owner: &'static str| {
            let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
            tokio::spawn(async move { turns.work(owner, LONG, move || order.lock().unwrap().push(owner)).await })
        };
        let asked = [ask("acme"), ask("acme"), ask("bolt")];
        // All of them wait by then.
        for _ in 0..10 {
            yield_now().await;
        }
        go_on.send(()).unwrap();
        assert_eq!(first.await.unwrap().unwrap(), Some(true));
        for one in asked {
            one.await.unwrap().unwrap();
        }
        assert_eq!(*order.lock().unwrap(), ["bolt", "acme", "acme"]);
    }

    #[tokio::test]
    async fn one_owner_has_one_turn_and_leaves_the_others_theirs() {
        let turns = Turns::new(2);
        let acme = turns.take("acme", LONG).await;
        assert!(acme.is_some() && turns.take("acme", Duration::ZERO).await.is_none(), "one of each owner");
        let bolt = turns.take("bolt", Duration::ZERO).await;
        assert!(bolt.is_some(), "another's work keeps nobody waiting while there is a place");
        assert!(turns.take("cord", Duration::ZERO).await.is_none(), "no more than there are places");
        drop(acme);
        assert!(turns.take("cord", Duration::ZERO).await.is_some());
    }
}
