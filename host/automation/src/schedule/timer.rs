//! The host's one timer: every schedule by when it is due next, and one task that waits for the first of them.
//!
//! Must never trust one long sleep: the wall clock may be set, and so it is looked at again every little while.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ringfence_core::{ResourceName, TenantId};
use ringfence_store::TenantStore;
use tokio::sync::Notify;

use super::Schedule;
use super::plan::{Times, jitter_ms};
use crate::Automation;

/// Longest time without a look at the clock.
const LOOK_MS_MAX: u64 = 1_000;
/// A clock that is set back by more than this is told of: schedules stand still for as long.
pub(super) const STEP_BACK: SignedDuration = SignedDuration::from_secs(60);

/// A tenant's uid and a schedule's name.
pub(crate) type Name = (String, String);

/// A schedule, waiting.
pub(crate) struct Entry {
    pub(crate) tenant: TenantId,
    pub(crate) store: TenantStore,
    pub(crate) name: ResourceName,
    times: Times,
    jitter_ms: u64,
    due_at: Timestamp,
    /// Whether what was due could not be decided, and is looked at once more.
    pub(crate) is_held: bool,
    /// Runs under way, and whether one more is to follow; the same for as long as the schedule is there.
    pub(crate) running: Arc<Mutex<Running>>,
}

/// What of a schedule is under way.
#[derive(Debug, Default)]
pub(crate) struct Running {
    pub(crate) count: usize,
    /// Of those, the ones taken up after a start that wait for another to end.
    pub(crate) waiting_count: usize,
    /// The time to run for when the one under way is over.
    pub(crate) next: Option<Timestamp>,
    /// Times that a write began of which nobody knows whether it was made.
    pub(crate) in_doubt: Vec<Timestamp>,
}

/// All schedules of the host.
#[derive(Default)]
pub(crate) struct Timer {
    state: Mutex<State>,
    bell: Notify,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<Name, Arc<Entry>>,
    order: BTreeSet<(Timestamp, Name)>,
    /// What is under way, also of schedules that rest. INVARIANT: a change of the schedule leaves it as it is.
    running: HashMap<Name, Arc<Mutex<Running>>>,
}

// === impl Timer ===

impl Timer {
    /// Puts a schedule in, or what is left of it after a change.
    pub(crate) fn set(&self, tenant: &TenantId, store: &TenantStore, schedule: &Schedule) {
        let name = (store.uid(), schedule.name.to_string());
        let mut state = self.lock();
        state.remove(&name);
        let running = Arc::clone(state.running.entry(name.clone()).or_default());
        let Ok(times) = schedule.spec.times() else { return };
        let Some(tick) = times.next(schedule.decided_until).filter(|_| !schedule.spec.paused) else { return };
        let jitter_ms = schedule.spec.jitter_ms;
        let due_at = late(&name, tick, jitter_ms);
        let entry = Entry {
            tenant: tenant.clone(),
            store: store.clone(),
            name: schedule.name.clone(),
            times,
            jitter_ms,
            due_at,
            is_held: false,
            running,
        };
        state.put(name, entry);
        drop(state);
        self.bell.notify_one();
    }

    /// What of a schedule is under way.
    pub(crate) fn running(&self, store: &TenantStore, name: &ResourceName) -> Arc<Mutex<Running>> {
        Arc::clone(self.lock().running.entry((store.uid(), name.to_string())).or_default())
    }

    /// Whether a schedule waits here.
    pub(crate) fn holds(&self, store: &TenantStore, name: &ResourceName) -> bool {
        self.lock().entries.contains_key(&(store.uid(), name.to_string()))
    }

    /// Whether a schedule is still the one whose runs these are: it was not deleted, nor its tenant put back to a backup.
    pub(crate) fn is_same(&self, store: &TenantStore, name: &ResourceName, running: &Arc<Mutex<Running>>) -> bool {
        let known = self.lock().running.get(&(store.uid(), name.to_string())).cloned();
        known.is_some_and(|known| Arc::ptr_eq(&known, running))
    }

    /// Has a schedule whose due times could not be decided fire once more, so long after `now` or at its next time. Nothing
    /// when it rests or is gone by now.
    pub(crate) fn again(&self, entry: &Entry, now: Timestamp, wait: SignedDuration) {
        let name = (entry.store.uid(), entry.name.to_string());
        let again_at = now.checked_add(wait).unwrap_or(now);
        let mut state = self.lock();
        let Some(waiting) = state.remove(&name) else { return };
        state.put(name, waiting.at(waiting.due_at.min(again_at), true));
        drop(state);
        self.bell.notify_one();
    }

    /// Has a schedule of which nothing after `decided` is decided fire for the first time after that, unless it fires before.
    /// Nothing when it rests or is gone by now, or when that time is over at `now`: it fired for it.
    pub(crate) fn go_back(&self, entry: &Entry, decided: Timestamp, now: Timestamp) {
        let name = (entry.store.uid(), entry.name.to_string());
        let mut state = self.lock();
        let Some(waiting) = state.remove(&name) else { return };
        let first = waiting.times.next(decided).map(|tick| late(&name, tick, waiting.jitter_ms));
        let due_at = first.filter(|first| *first > now).map_or(waiting.due_at, |first| waiting.due_at.min(first));
        state.put(name, waiting.at(due_at, waiting.is_held));
        drop(state);
        self.bell.notify_one();
    }

    /// What of a tenant could not be decided fires at once.
    pub(crate) fn hurry(&self, store: &TenantStore, now: Timestamp) {
        let uid = store.uid();
        let mut state = self.lock();
        // Only this tenant's: at a start every tenant comes by here.
        let own = state.entries.range((uid.clone(), String::new())..).take_while(|((of, _), _)| *of == uid);
        let names: Vec<Name> = own.filter(|(_, entry)| entry.is_held).map(|(name, _)| name.clone()).collect();
        for name in names {
            let Some(entry) = state.remove(&name) else { continue };
            state.put(name, entry.at(now, true));
        }
        drop(state);
        self.bell.notify_one();
    }

    /// Forgets a schedule.
    pub(crate) fn remove(&self, store: &TenantStore, name: &ResourceName) {
        let name = (store.uid(), name.to_string());
        let mut state = self.lock();
        state.remove(&name);
        state.running.remove(&name);
    }

    /// Forgets all schedules of a tenant.
    pub(crate) fn remove_all_of(&self, store: &TenantStore) {
        let uid = store.uid();
        let mut state = self.lock();
        let names: Vec<Name> = state.entries.keys().filter(|(of, _)| *of == uid).cloned().collect();
        for name in names {
            state.remove(&name);
        }
        state.running.retain(|(of, _), _| *of != uid);
    }

    /// Takes what is due out, each put back with its next time.
    fn due(&self, now: Timestamp) -> Vec<Arc<Entry>> {
        let mut state = self.lock();
        let mut due = Vec::new();
        while let Some((at, name)) = state.order.first().filter(|(at, _)| *at <= now).cloned() {
            state.order.remove(&(at, name.clone()));
            let Some(entry) = state.entries.remove(&name) else { continue };
            if let Some(tick) = entry.times.next(now) {
                let due_at = late(&name, tick, entry.jitter_ms);
                state.put(name, entry.at(due_at, false));
            }
            due.push(entry);
        }
        due
    }

    fn wait(&self, now: Timestamp) -> Duration {
        let first = self.lock().order.first().map(|(at, _)| at.duration_since(now));
        let most = Duration::from_millis(LOOK_MS_MAX);
        first.map_or(most, |wait| Duration::try_from(wait).unwrap_or(Duration::ZERO).min(most))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// The same, due at another time.
    fn at(&self, due_at: Timestamp, is_held: bool) -> Self {
        Self {
            tenant: self.tenant.clone(),
            store: self.store.clone(),
            name: self.name.clone(),
            times: self.times.clone(),
            jitter_ms: self.jitter_ms,
            due_at,
            is_held,
            running: Arc::clone(&self.running),
        }
    }
}

impl State {
    fn put(&mut self, name: Name, entry: Entry) {
        self.order.insert((entry.due_at, name.clone()));
        self.entries.insert(name, Arc::new(entry));
    }
    fn remove(&mut self, name: &Name) -> Option<Arc<Entry>> {
        let entry = self.entries.remove(name)?;
        self.order.remove(&(entry.due_at, name.clone()));
        Some(entry)
    }
}

fn late((uid, name): &Name, tick: Timestamp, most_ms: u64) -> Timestamp {
    let late_ms = i64::try_from(jitter_ms(uid, name, tick, most_ms)).unwrap_or(0);
    tick.checked_add(SignedDuration::from_millis(late_ms)).unwrap_or(tick)
}

impl Automation {
    /// Runs what is due, until the end of the host.
    pub(crate) async fn keep_time(self) {
        let mut latest = self.parts.clock.now();
        while !self.closing.is_announced() {
            let now = self.parts.clock.now();
            if latest.duration_since(now) > STEP_BACK {
                tracing::warn!(
                    was = %latest, is = %now,
                    "the clock was set back: what schedules decided until then stays decided, and those that did run nothing \
                     before it unless they are set or resumed"
                );
                latest = now;
            }
            latest = latest.max(now);
            for entry in self.timer.due(now) {
                tokio::spawn(self.clone().fire(entry, now));
            }
            let wait = self.timer.wait(self.parts.clock.now());
            tokio::select! {
                () = self.closing.announced() => return,
                _ = tokio::time::timeout(wait, self.timer.bell.notified()) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use ringfence_core::{Clock, Entropy};
    use ringfence_keys::{RootKey, RootKeyUri};
    use ringfence_store::{Store, Tenants};
    use serde_json::json;

    use super::*;

    struct Still;

    impl Clock for Still {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }
        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
    }

    /// Dice that are a counter.
    struct Counter(AtomicU64);

    impl Entropy for Counter {
        fn fill(&self, into: &mut [u8]) {
            for chunk in into.chunks_mut(8) {
                let number = self.0.fetch_add(1, Ordering::Relaxed).to_le_bytes();
                chunk.copy_from_slice(&number[..chunk.len()]);
            }
        }
    }

    /// A store, and a schedule of every minute.
    async fn nightly() -> (tempfile::TempDir, TenantId, TenantStore, Schedule) {
        let (directory, tenant): (_, TenantId) = (tempfile::tempdir().unwrap(), "acme".parse().unwrap());
        let dice = Arc::new(Counter(AtomicU64::new(1)));
        let root = RootKey::open_or_create(&RootKeyUri::File(directory.path().join("root.key")), &*dice).unwrap();
        let tenants = Tenants::open(Store::memory(), Arc::new(root), dice, Arc::new(Still)).await.unwrap();
        tenants.create(&tenant, "Acme").await.unwrap();
        let store = tenants.open_tenant(&tenant).unwrap();
        let schedule = serde_json::from_value(json!({
            "name": "nightly", "spec": { "plugin": "nightly", "cron": "* * * * *" },
            "created_at": "2026-01-01T00:00:00Z", "created_by": "acme/ann", "decided_until": "2026-01-01T00:00:00Z",
        }));
        (directory, tenant, store, schedule.unwrap())
    }

    #[tokio::test]
    async fn what_could_not_be_decided_fires_again_and_a_time_that_is_not_over_is_not_passed_over() {
        let (_directory, tenant, store, schedule) = nightly().await;
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (timer, now) = (Timer::default(), at("2026-01-01T00:01:00Z"));
        timer.set(&tenant, &store, &schedule);
        let entry = timer.due(now).remove(0);
        assert!(timer.due(at("2026-01-01T00:01:59Z")).is_empty());
        timer.again(&entry, now, SignedDuration::from_secs(5));
        assert!(timer.due(at("2026-01-01T00:01:04Z")).is_empty());
        timer.hurry(&store, now);
        assert!(timer.due(now).remove(0).is_held);
        timer.hurry(&store, now);
        assert!(timer.due(now).is_empty(), "nothing is held any more");
        timer.again(&entry, now, SignedDuration::from_secs(5));
        assert_eq!(timer.due(at("2026-01-01T00:01:05Z")).len(), 1);
        // What it fired for is not waited for again; what is to come before its next time is.
        timer.go_back(&entry, at("2026-01-01T00:00:30Z"), now);
        assert!(timer.due(at("2026-01-01T00:01:59Z")).is_empty());
        timer.go_back(&entry, at("2026-01-01T00:00:30Z"), at("2026-01-01T00:00:40Z"));
        assert_eq!(timer.due(now).len(), 1);
    }

    #[tokio::test]
    async fn what_is_under_way_is_remembered_while_a_schedule_rests_and_forgotten_with_it() {
        let (_directory, tenant, store, mut schedule) = nightly().await;
        let timer = Timer::default();
        let count = || timer.running(&store, &"nightly".parse().unwrap()).lock().unwrap().count;
        timer.set(&tenant, &store, &schedule);
        timer.running(&store, &schedule.name).lock().unwrap().count = 1;
        schedule.spec.paused = true;
        timer.set(&tenant, &store, &schedule);
        assert!(!timer.holds(&store, &schedule.name));
        schedule.spec.paused = false;
        timer.set(&tenant, &store, &schedule);
        let due = timer.due("2026-01-01T00:01:00Z".parse().unwrap());
        let counts: Vec<usize> = due.iter().map(|entry| entry.running.lock().unwrap().count).collect();
        assert_eq!((counts, count()), (vec![1], 1), "the next tick meets the run from before it rested");
        let running = timer.running(&store, &schedule.name);
        assert!(timer.is_same(&store, &schedule.name, &running));
        timer.remove(&store, &schedule.name);
        assert_eq!(count(), 0);
        assert!(!timer.is_same(&store, &schedule.name, &running), "one that is made anew is another");
        timer.running(&store, &schedule.name).lock().unwrap().count = 1;
        timer.remove_all_of(&store);
        assert_eq!(count(), 0);
    }
}
