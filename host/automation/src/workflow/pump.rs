//! What keeps one tenant's runs going: moves the times that have come to the runs that have something to do, and drives
//! those, a few at a time.
//!
//! What waits costs storage only: the store's own order of times is the queue, and the pump sleeps until the first of them.
//! Must never hold more of a tenant than the runs it drives.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::try_join_all;
use ringfence_core::RunId;
use ringfence_store::{Op, PageToken, Segment, StoreError, TenantStore};
use tokio::sync::{Notify, Semaphore};

use crate::workflow::error::WorkflowError;
use crate::workflow::journal::{self, due_prefix, is_purge, ready_key, ready_prefix};
use crate::workflow::limits::DRIVEN_PER_TENANT_COUNT_MAX;
use crate::workflow::runs::Workflows;
use crate::workflow::session::unix_ms;

/// Times moved in one batch.
const MOVED_COUNT: usize = 450;
/// Runs looked at together.
const READY_COUNT: usize = 64;
/// Longest sleep without a look: the wall clock may have been set.
const LOOK_MS: u64 = 60_000;
/// Before a store that failed is asked again.
const FAILED_MS: u64 = 2_000;

/// One tenant's pump.
pub struct Pump {
    store: TenantStore,
    woken: Notify,
    places: Arc<Semaphore>,
    driven: Mutex<HashSet<RunId>>,
    /// Not before then, Unix milliseconds.
    waits_until_ms: Mutex<u64>,
    /// Whether something may not be on the audit log that no run's next turn brings there; so at the start.
    owes: AtomicBool,
}

impl Pump {
    pub fn new(store: TenantStore) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(DRIVEN_PER_TENANT_COUNT_MAX));
        Arc::new(Self {
            store,
            woken: Notify::new(),
            places,
            driven: Mutex::default(),
            waits_until_ms: Mutex::new(0),
            owes: AtomicBool::new(true),
        })
    }

    /// Something changed: look at once.
    pub fn wake(&self) {
        self.woken.notify_one();
    }

    /// Something is not on the audit log that should be: it is tried again at the next look.
    pub fn owe(&self) {
        self.owes.store(true, Ordering::Relaxed);
    }

    /// The reason to wait is over.
    pub fn go_on(&self) {
        *self.waits_until_ms.lock().unwrap_or_else(PoisonError::into_inner) = 0;
        self.wake();
    }

    /// Runs until the tenant or the host is gone.
    pub async fn run(self: Arc<Self>, workflows: Workflows) {
        let mut after = None;
        while !workflows.closing().is_announced() {
            let now_ms = unix_ms(&*workflows.parts().clock);
            let sleep_ms = match self.step(&workflows, now_ms, &mut after).await {
                Ok(sleep_ms) => sleep_ms,
                Err(WorkflowError::Store(StoreError::Gone | StoreError::Closed)) => break,
                Err(error) => {
                    tracing::warn!(%error, "the runs of a tenant cannot be looked at");
                    FAILED_MS
                }
            };
            tokio::select! {
                () = workflows.closing().announced() => {}
                _ = tokio::time::timeout(Duration::from_millis(sleep_ms.min(LOOK_MS)), self.woken.notified()) => {}
            }
        }
        workflows.forget_tenant(&self.store);
    }

    /// Moves what is due, drives what is ready; how long there is nothing to do.
    async fn step(
        self: &Arc<Self>,
        workflows: &Workflows,
        now_ms: u64,
        after: &mut Option<PageToken>,
    ) -> Result<u64, WorkflowError> {
        let waits_until_ms = *self.waits_until_ms.lock().unwrap_or_else(PoisonError::into_inner);
        if waits_until_ms > now_ms {
            return Ok(waits_until_ms - now_ms);
        }
        let most_ms = if self.pay(workflows).await { u64::MAX } else { FAILED_MS };
        let next_ms = self.move_due(now_ms, workflows.retention_ms(&self.store)).await?;
        let page = self.store.scan(&ready_prefix(), after.as_ref(), READY_COUNT).await?;
        let has_more = page.next.is_some() || after.is_some();
        *after = page.next;
        let mut began = false;
        for (key, _) in page.records {
            let Some(run) = key.last_name().and_then(|name| name.parse::<RunId>().ok()) else { continue };
            began |= self.begin(workflows, run).await;
        }
        Ok(if has_more && (began || after.is_none()) { 0 } else { next_ms.saturating_sub(now_ms).clamp(1, most_ms) })
    }

    /// Brings to the audit log what is not there, if something may not be; whether nothing is left.
    async fn pay(&self, workflows: &Workflows) -> bool {
        if !self.owes.swap(false, Ordering::Relaxed) {
            return true;
        }
        let is_all = workflows.swear_to_all(&self.store).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "what runs did cannot be brought to the audit log");
            false
        });
        if !is_all {
            self.owe();
        }
        is_all
    }

    /// Gives a page of the runs whose time has come something to do; when the next time is. No more than a page: what became
    /// ready is driven before the rest is moved.
    async fn move_due(&self, now_ms: u64, retention_ms: u64) -> Result<u64, WorkflowError> {
        // Nearly always nothing has come. One record says so; a page of those that sleep would be opened for nothing, each
        // time that any run of the tenant rests.
        let first = self.store.scan(&due_prefix(), None, 1).await?;
        match first.records.first().map(|(key, _)| key.segments()) {
            None => return Ok(u64::MAX),
            Some([_, Segment::Number(due_ms), _]) if *due_ms > now_ms => return Ok(*due_ms),
            Some(_) => {}
        }
        let page = self.store.scan(&due_prefix(), None, MOVED_COUNT).await?;
        let mut next_ms = if page.next.is_some() { now_ms } else { u64::MAX };
        let (mut ops, mut old) = (Vec::with_capacity(MOVED_COUNT * 2), Vec::new());
        for (key, record) in page.records {
            let [_, Segment::Number(due_ms), Segment::Name(run)] = key.segments() else { continue };
            if *due_ms > now_ms {
                next_ms = *due_ms;
                break;
            }
            if let Ok(run) = run.parse::<RunId>() {
                if is_purge(&record.value) {
                    old.push(run);
                } else {
                    ops.push(Op::put(ready_key(&run), Vec::new()));
                }
            }
            ops.push(Op::delete(key));
        }
        // Together: one after another they would hold up all other runs of the tenant for two commits each.
        try_join_all(old.iter().map(|run| journal::purge(&self.store, run, now_ms, retention_ms))).await?;
        if !ops.is_empty() {
            self.store.batch(ops, Vec::new()).await?;
        }
        Ok(next_ms)
    }

    /// Drives a run beside others, once there is a place; whether it was not driven already.
    async fn begin(self: &Arc<Self>, workflows: &Workflows, run: RunId) -> bool {
        if self.driven().contains(&run) {
            return false;
        }
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return false };
        let Some(under_way) = workflows.closing().begin() else { return false };
        self.driven().insert(run.clone());
        let (pump, workflows) = (Arc::clone(self), workflows.clone());
        tokio::spawn(async move {
            let waits_ms = workflows.drive(&pump.store, &run).await;
            workflows.let_go(&pump.store, &run);
            if let Some(ms) = waits_ms {
                let until_ms = unix_ms(&*workflows.parts().clock).saturating_add(ms);
                *pump.waits_until_ms.lock().unwrap_or_else(PoisonError::into_inner) = until_ms;
            }
            pump.driven().remove(&run);
            drop((place, under_way));
            pump.wake();
        });
        true
    }

    fn driven(&self) -> std::sync::MutexGuard<'_, HashSet<RunId>> {
        self.driven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU8;

    use ringfence_core::{Clock, Entropy};
    use ringfence_keys::{RootKey, RootKeyUri};
    use ringfence_store::{Store, Tenants};

    use super::*;
    use crate::workflow::event::{Ending, Event, Started};
    use crate::workflow::journal::{Loaded, Mark, begin_ops, due_key, id_of};
    use crate::workflow::limits::RETENTION_MS;

    struct Dice(AtomicU8);
    impl Entropy for Dice {
        fn fill(&self, into: &mut [u8]) {
            into.fill(self.0.fetch_add(1, Ordering::Relaxed));
        }
    }
    struct Still;
    impl Clock for Still {
        fn now(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }
        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
    }

    async fn tenant(place: &std::path::Path) -> TenantStore {
        let dice = Arc::new(Dice(AtomicU8::new(1)));
        let root = RootKey::open_or_create(&RootKeyUri::File(place.join("root.key")), &*dice).unwrap();
        let tenants = Tenants::open(Store::memory(), Arc::new(root), dice, Arc::new(Still)).await.unwrap();
        let id = "acme".parse().unwrap();
        tenants.create(&id, "acme").await.unwrap();
        tenants.open_tenant(&id).unwrap()
    }

    fn run(number: usize) -> RunId {
        id_of(&[number.to_string().as_bytes()])
    }

    async fn wait_until(store: &TenantStore, runs: std::ops::Range<usize>, due_ms: u64) {
        let ops = runs.map(|number| Op::put(due_key(due_ms, &run(number)), Vec::new()));
        store.batch(ops.collect(), Vec::new()).await.unwrap();
    }

    #[tokio::test]
    async fn runs_become_ready_when_their_time_comes_a_page_at_a_time_and_those_that_sleep_do_not() {
        let place = tempfile::tempdir().unwrap();
        let store = tenant(place.path()).await;
        let pump = Pump::new(store.clone());
        assert_eq!(pump.move_due(9, RETENTION_MS).await.unwrap(), u64::MAX);
        wait_until(&store, 0..MOVED_COUNT + 7, 10).await;
        wait_until(&store, 1_000..1_500, 5_000).await;
        let ready = async || store.scan(&ready_prefix(), None, 1_000).await.unwrap().records.len();
        assert_eq!((pump.move_due(9, RETENTION_MS).await.unwrap(), ready().await), (10, 0));
        // There is more to move at once: the next look is now.
        assert_eq!((pump.move_due(10, RETENTION_MS).await.unwrap(), ready().await), (10, MOVED_COUNT));
        assert_eq!((pump.move_due(10, RETENTION_MS).await.unwrap(), ready().await), (5_000, MOVED_COUNT + 7));
        assert_eq!((pump.move_due(10, RETENTION_MS).await.unwrap(), ready().await), (5_000, MOVED_COUNT + 7));
        assert_eq!(store.scan(&due_prefix(), None, 1_000).await.unwrap().records.len(), 500);
    }

    #[tokio::test]
    async fn runs_that_ended_long_ago_are_taken_away_and_nothing_else_is() {
        let place = tempfile::tempdir().unwrap();
        let store = tenant(place.path()).await;
        let pump = Pump::new(store.clone());
        for number in 0..20 {
            let started = Started {
                plugin: "shop".parse().unwrap(),
                version: "0.1.0".parse().unwrap(),
                workflow: "shop".to_owned(),
                input: "null".to_owned(),
                by: "acme/ann".parse().unwrap(),
                parent: None,
                depth: 0,
                root: None,
                attributes: std::collections::BTreeMap::new(),
                dice: String::new(),
                signal_keys: Vec::new(),
            };
            let (ops, absent) = begin_ops(&run(number), started, 1).unwrap();
            store.batch(ops, vec![absent]).await.unwrap();
            if number < 15 {
                let mut loaded = Loaded::read(&store, &run(number)).await.unwrap();
                let end = Event::Ended(Ending::Completed { output: "1".to_owned() });
                loaded.append(vec![end], 5, Mark::Keep, Vec::new()).await.unwrap();
            }
        }
        let kept = async || {
            let mut kept = 0;
            for number in 0..20 {
                kept += usize::from(journal::head(&store, &run(number)).await.is_ok());
            }
            kept
        };
        let longer_ms = 2 * RETENTION_MS;
        assert_eq!(
            (pump.move_due(4 + RETENTION_MS, RETENTION_MS).await.unwrap(), kept().await),
            (5 + RETENTION_MS, 20)
        );
        // They are kept for longer now than when they ended: each is looked at again then, once.
        pump.move_due(5 + RETENTION_MS, longer_ms).await.unwrap();
        assert_eq!((pump.move_due(4 + longer_ms, longer_ms).await.unwrap(), kept().await), (5 + longer_ms, 20));
        assert_eq!((pump.move_due(5 + longer_ms, longer_ms).await.unwrap(), kept().await), (u64::MAX, 5));
        assert_eq!(store.scan(&journal::list_prefix(), None, 100).await.unwrap().records.len(), 5);
        // Those that go on have something to do, as before.
        assert_eq!(store.scan(&ready_prefix(), None, 100).await.unwrap().records.len(), 5);
    }
}
