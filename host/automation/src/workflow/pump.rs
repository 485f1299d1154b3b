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
use ringfence_core::{Clock, RunId};
use ringfence_store::{Key, Op, PageToken, Segment, StoreError, TenantStore};
use tokio::sync::{Notify, Semaphore};

use crate::workflow::error::WorkflowError;
use crate::workflow::journal::{due_prefix, ready_key, ready_prefix};
use crate::workflow::limits::DRIVEN_PER_TENANT_COUNT_MAX;
use crate::workflow::mending::{marks, purged};
use crate::workflow::purge::is_purge;
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
    /// Not before then, milliseconds of the monotonic clock: a pause of the host's is none of the wall clock's.
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
        let left_ms = waits_until_ms.saturating_sub(steady_ms(&*workflows.parts().clock));
        if left_ms > 0 {
            return Ok(left_ms);
        }
        let most_ms = if self.pay(workflows).await { u64::MAX } else { FAILED_MS };
        let next_ms = self.move_due(now_ms, workflows.retention_ms(&self.store)).await?;
        let (names, next) = self.store.scan_names(&ready_prefix(), after.as_ref(), READY_COUNT).await?;
        let has_more = next.is_some() || after.is_some();
        *after = next;
        let mut began = false;
        for key in names {
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
        let (first, more) = self.store.scan_names(&due_prefix(), None, 1).await?;
        match first.first().map(Key::segments) {
            None if more.is_none() => return Ok(u64::MAX),
            Some([_, Segment::Number(due_ms), _]) if *due_ms > now_ms => return Ok(*due_ms),
            _ => {}
        }
        let (marks, more) = marks(&self.store, &due_prefix(), MOVED_COUNT).await?;
        let mut next_ms = if more { now_ms } else { u64::MAX };
        let (mut ops, mut old) = (Vec::with_capacity(MOVED_COUNT * 2), Vec::new());
        for (key, record) in marks {
            let [_, Segment::Number(due_ms), Segment::Name(run)] = key.segments() else { continue };
            if *due_ms > now_ms {
                next_ms = *due_ms;
                break;
            }
            if let Ok(run) = run.parse::<RunId>() {
                // Of a mark that rotted nobody knows what it is for: either is looked at again before anything is done.
                let is_purge = record.as_ref().map(|record| is_purge(&record.value));
                if is_purge != Some(true) {
                    ops.push(Op::put(ready_key(&run), Vec::new()));
                }
                if is_purge != Some(false) {
                    old.push(run);
                }
            }
            ops.push(Op::delete(key));
        }
        // Together: one after another they would hold up all other runs of the tenant for two commits each.
        try_join_all(old.iter().map(|run| purged(&self.store, run, now_ms, retention_ms))).await?;
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
                let until_ms = steady_ms(&*workflows.parts().clock).saturating_add(ms);
                let mut waits_until_ms = pump.waits_until_ms.lock().unwrap_or_else(PoisonError::into_inner);
                *waits_until_ms = until_ms.max(*waits_until_ms);
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

/// The monotonic clock in milliseconds.
fn steady_ms(clock: &dyn Clock) -> u64 {
    u64::try_from(clock.monotonic().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU8;

    use ringfence_core::Entropy;
    use ringfence_keys::{RootKey, RootKeyUri};
    use ringfence_store::{Backend, DiskOptions, INLINE_BYTES_MAX, Store, Tenants};

    use super::*;
    use crate::workflow::event::{Ending, Event, Started};
    use crate::workflow::journal::{
        self, Loaded, Mark, RunNames, begin_ops, due_key, family_key, head_key, id_of, log_key,
    };
    use crate::workflow::limits::RETENTION_MS;
    use crate::workflow::purge::PARENT_LOOK_MS;

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

    fn started(parent: Option<RunId>) -> Started {
        Started {
            plugin: "shop".parse().unwrap(),
            version: "0.1.0".parse().unwrap(),
            workflow: "shop".to_owned(),
            input: "null".to_owned(),
            by: "acme/ann".parse().unwrap(),
            parent,
            depth: 0,
            root: None,
            first: None,
            attributes: std::collections::BTreeMap::new(),
            dice: String::new(),
            signal_keys: Vec::new(),
            led_by: Default::default(),
        }
    }

    async fn end(store: &TenantStore, run: &RunId, at_ms: u64) {
        let mut loaded = Loaded::read(store, run).await.unwrap();
        let end = Event::Ended(Ending::Completed { output: "1".to_owned() });
        loaded.append(vec![end], at_ms, Mark::Keep, Vec::new()).await.unwrap();
    }

    #[tokio::test]
    async fn runs_that_ended_long_ago_are_taken_away_and_nothing_else_is() {
        let place = tempfile::tempdir().unwrap();
        let store = tenant(place.path()).await;
        let pump = Pump::new(store.clone());
        for number in 0..20 {
            let (ops, absent) = begin_ops(&run(number), started(None), 1).unwrap();
            store.batch(ops, vec![absent]).await.unwrap();
            if number < 15 {
                end(&store, &run(number), 5).await;
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

    /// A tenant whose store is on the disk, where it can rot.
    async fn tenant_on(place: &std::path::Path) -> TenantStore {
        let dice = Arc::new(Dice(AtomicU8::new(1)));
        let root = RootKey::open_or_create(&RootKeyUri::File(place.join("root.key")), &*dice).unwrap();
        let options = DiskOptions { backend: Backend::Sled, cache_bytes: 4 << 20, free_bytes_min: 0 };
        let store = Store::open(&place.join("store"), options).unwrap();
        let tenants = Tenants::open(store, Arc::new(root), dice, Arc::new(Still)).await.unwrap();
        let id = "acme".parse().unwrap();
        tenants.create(&id, "acme").await.unwrap();
        tenants.open_tenant(&id).unwrap()
    }

    /// Has a record there whose value does not open.
    async fn rot(place: &std::path::Path, store: &TenantStore, key: &Key) {
        store.put(key, vec![7; INLINE_BYTES_MAX + 1]).await.unwrap();
        let files = std::fs::read_dir(place.join("store/blobs").join(store.uid()).join("values")).unwrap();
        files.for_each(|file| std::fs::write(file.unwrap().path(), b"rot").unwrap());
        assert!(matches!(store.get(key).await, Err(StoreError::Damaged)));
    }

    #[tokio::test]
    async fn a_mark_a_head_or_a_history_that_rotted_keeps_no_other_run_waiting_and_none_from_being_taken_away() {
        let place = tempfile::tempdir().unwrap();
        let store = tenant_on(place.path()).await;
        let pump = Pump::new(store.clone());
        let [waits, lost_head, lost_history, lost_mark] = [0, 1, 2, 3].map(run);
        for run in [&waits, &lost_head, &lost_history, &lost_mark] {
            let (ops, absent) = begin_ops(run, started(None), 1).unwrap();
            store.batch(ops, vec![absent]).await.unwrap();
        }
        for run in [&lost_head, &lost_history] {
            end(&store, run, 5).await;
        }
        let rested = [&waits, &lost_mark].map(|run| Op::delete(ready_key(run))).to_vec();
        store.batch(rested, Vec::new()).await.unwrap();
        store.put(&due_key(7, &waits), Vec::new()).await.unwrap();
        for key in [due_key(6, &lost_mark), head_key(&lost_head), log_key(&lost_history, 0)] {
            rot(place.path(), &store, &key).await;
        }
        assert_eq!(pump.move_due(5 + RETENTION_MS, RETENTION_MS).await.unwrap(), u64::MAX);
        let ready: HashSet<Key> = store.scan_names(&ready_prefix(), None, 10).await.unwrap().0.into_iter().collect();
        assert_eq!(ready, HashSet::from([ready_key(&waits), ready_key(&lost_mark)]));
        assert!(store.scan_names(&due_prefix(), None, 10).await.unwrap().0.is_empty());
        // The one is gone whole; of the other nobody knows whether its time has come.
        assert!(matches!(journal::head(&store, &lost_history).await, Err(WorkflowError::UnknownRun)));
        assert!(matches!(journal::head(&store, &lost_head).await, Err(error) if error.is_damage()));
    }

    #[tokio::test]
    async fn a_count_of_a_family_that_rotted_keeps_no_run_of_it_from_ending() {
        let place = tempfile::tempdir().unwrap();
        let store = tenant_on(place.path()).await;
        let (first, child) = (run(1), run(2));
        let started = Started { root: Some(first.clone()), ..started(Some(first.clone())) };
        let (ops, absent) = begin_ops(&child, started, 1).unwrap();
        store.batch(ops, vec![absent]).await.unwrap();
        rot(place.path(), &store, &family_key(&first)).await;
        end(&store, &child, 5).await;
        assert!(journal::head(&store, &child).await.unwrap().status.is_ended());
        assert!(store.get(&family_key(&first)).await.unwrap().is_none(), "it is counted anew, from nothing");
    }

    #[tokio::test]
    async fn of_a_chain_of_which_the_first_run_knows_the_newest_no_more_none_is_taken_for_over() {
        let place = tempfile::tempdir().unwrap();
        let store = tenant_on(place.path()).await;
        let pump = Pump::new(store.clone());
        let [parent, first, between, newest] = [0, 1, 2, 3].map(run);
        let (ops, absent) = begin_ops(&parent, started(None), 1).unwrap();
        store.batch(ops, vec![absent]).await.unwrap();
        for (one, of) in [(&first, None), (&between, Some(&first)), (&newest, Some(&first))] {
            let started = Started { first: of.cloned(), ..started(Some(parent.clone())) };
            let (ops, absent) = begin_ops(one, started, 1).unwrap();
            store.batch(ops, vec![absent]).await.unwrap();
        }
        for (one, next) in [(&first, &between), (&between, &newest)] {
            let mut loaded = Loaded::read(&store, one).await.unwrap();
            let goes_on = Event::Ended(Ending::Continued { run: next.clone() });
            loaded.append(vec![goes_on], 5, Mark::Keep, Vec::new()).await.unwrap();
        }
        let last = journal::last_key(&first);
        rot(place.path(), &store, &last).await;
        assert_eq!(journal::newest(&store, &first).await.unwrap().run, newest);
        // The one between is the way to it, and is looked at again each day, whatever else rots.
        let mut now_ms = 5 + RETENTION_MS;
        for key in [None, Some(log_key(&between, 0)), Some(head_key(&parent))] {
            if let Some(key) = key {
                rot(place.path(), &store, &key).await;
            }
            pump.move_due(now_ms, RETENTION_MS).await.unwrap();
            let (marks, _) = store.scan_names(&due_prefix(), None, 10).await.unwrap();
            assert!(marks.contains(&due_key(now_ms + PARENT_LOOK_MS, &between)), "{marks:?}");
            now_ms += PARENT_LOOK_MS;
        }
        // Who goes on tells the first anew.
        let loaded = Loaded::read(&store, &newest).await.unwrap();
        let (told, while_so) = loaded.tell_first(&run(4)).await.unwrap();
        store.batch(told.into_iter().collect(), while_so.into_iter().collect()).await.unwrap();
        assert_eq!(store.get_json::<RunId>(&last).await.unwrap(), Some(run(4)));
        // Where the way is gone too, nobody knows whether the newest goes on.
        rot(place.path(), &store, &last).await;
        store.delete(&head_key(&between)).await.unwrap();
        assert!(matches!(journal::newest(&store, &first).await, Err(error) if error.is_damage()));
    }

    #[tokio::test]
    async fn the_newest_of_a_chain_is_found_after_what_the_first_knew_was_removed_and_who_goes_on_tells_it_anew() {
        let place = tempfile::tempdir().unwrap();
        let store = tenant(place.path()).await;
        let mut chain = vec![run(0)];
        for _ in 0..4 {
            chain.push(RunNames(&chain[chain.len() - 1]).next());
        }
        let [first, .., newest, next] = &chain[..] else { panic!("five") };
        for (number, one) in chain[..4].iter().enumerate() {
            let of = (number > 0).then(|| first.clone());
            let (ops, absent) = begin_ops(one, Started { first: of, ..started(None) }, 1).unwrap();
            store.batch(ops, vec![absent]).await.unwrap();
            if one == newest {
                break;
            }
            let mut loaded = Loaded::read(&store, one).await.unwrap();
            let (told, while_so) = loaded.tell_first(&chain[number + 1]).await.unwrap();
            let goes_on = vec![Event::Ended(Ending::Continued { run: chain[number + 1].clone() })];
            let while_so = while_so.into_iter().collect();
            loaded.append_if(goes_on, 5, Mark::Keep, told.into_iter().collect(), while_so).await.unwrap();
        }
        let last = journal::last_key(first);
        assert_eq!(store.get_json::<RunId>(&last).await.unwrap().as_ref(), Some(newest));
        // As who passes those between over takes them away, and an operator what rotted.
        store.batch(chain[1..3].iter().map(|one| Op::delete(head_key(one))).collect(), Vec::new()).await.unwrap();
        store.delete(&last).await.unwrap();
        assert_eq!(&journal::newest(&store, first).await.unwrap().run, newest);
        let loaded = Loaded::read(&store, newest).await.unwrap();
        let (told, while_so) = loaded.tell_first(next).await.unwrap();
        store.batch(told.into_iter().collect(), while_so.into_iter().collect()).await.unwrap();
        assert_eq!(store.get_json::<RunId>(&last).await.unwrap().as_ref(), Some(next));
        // Of a first that is kept no more nothing is written.
        store.batch(vec![Op::delete(head_key(first)), Op::delete(last)], Vec::new()).await.unwrap();
        assert!(matches!(loaded.tell_first(next).await, Ok((None, None))));
    }

    #[tokio::test]
    async fn a_child_that_ended_long_ago_is_kept_while_its_parent_is_and_no_longer_than_a_day_after_it() {
        let place = tempfile::tempdir().unwrap();
        let store = tenant(place.path()).await;
        let pump = Pump::new(store.clone());
        let (parent, child) = (run(1), run(2));
        for (run, of) in [(&parent, None), (&child, Some(parent.clone()))] {
            let (ops, absent) = begin_ops(run, started(of), 1).unwrap();
            store.batch(ops, vec![absent]).await.unwrap();
        }
        let kept = async || (journal::head(&store, &parent).await.is_ok(), journal::head(&store, &child).await.is_ok());
        end(&store, &child, 5).await;
        let mut now_ms = 5 + RETENTION_MS;
        pump.move_due(now_ms, RETENTION_MS).await.unwrap();
        assert_eq!(kept().await, (true, true));
        // It is looked for again a day later, and only then.
        assert_eq!(pump.move_due(now_ms, RETENTION_MS).await.unwrap(), now_ms + PARENT_LOOK_MS);
        end(&store, &parent, now_ms).await;
        now_ms += RETENTION_MS - 1;
        pump.move_due(now_ms, RETENTION_MS).await.unwrap();
        assert_eq!(kept().await, (true, true));
        pump.move_due(now_ms + 1, RETENTION_MS).await.unwrap();
        assert_eq!(kept().await, (false, true));
        pump.move_due(now_ms + PARENT_LOOK_MS, RETENTION_MS).await.unwrap();
        assert_eq!(kept().await, (false, false));
        assert!(store.scan(&due_prefix(), None, 10).await.unwrap().records.is_empty());
    }
}
