//! Instances that wait for their next invocation, for plugins whose authors ask for it. One serves all handlers that its
//! version exports: HTTP, hooks, schedules and messages.
//!
//! INVARIANT: an instance serves one version of one plugin of one tenant, and no other, ever. Only one that ended well, does
//! nothing more and holds nothing of the host's is kept, for a short while and not for ever. Must never let waiting
//! instances take what running ones need: the pool has room for both, none waits while the host is short of memory, and those
//! that wait give way to the first that finds no room (`pool.rs`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use ringfence_core::{PluginName, TenantId};
use tokio::runtime::Handle;
use wasmtime::{Store, component};
use wasmtime_wasi_http::handler::Proxy;

use crate::engine::Shared;
use crate::guest::{Guest, GuestSetup};
use crate::pool::MemoryPool;

/// LIMIT: instances that wait, in all. The pool has so many more than slots.
pub(crate) const IDLE_COUNT_MAX: u32 = 64;
/// LIMIT: instances that wait, of one tenant: a quarter.
const IDLE_PER_TENANT_COUNT_MAX: u32 = IDLE_COUNT_MAX / 4;
/// LIMIT: how long one waits.
const IDLE_TIME_MAX: Duration = Duration::from_secs(10);
/// Time between two looks for those that waited too long.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Whose invocations an instance may serve: one version, in one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InstanceKey {
    /// The tenant by name, for ending all of it.
    pub tenant: TenantId,
    /// The tenant by unique id: a name can be used again.
    pub tenant_uid: String,
    /// The plugin.
    pub plugin: PluginName,
    /// The version's label; a version never changes.
    pub version: String,
}

/// That an instance may serve more than one invocation, which the plugin's author asks for.
#[derive(Debug, Clone)]
pub struct Reuse {
    /// Whose.
    pub key: InstanceKey,
    /// How many invocations it may serve in all.
    pub invocations_max: u32,
}

/// An instance between two invocations, or in one.
pub(crate) struct Instance {
    pub(crate) store: Store<Guest>,
    pub(crate) started: Started,
}

/// What was started in a store.
pub(crate) struct Started {
    pub(crate) exports: component::Instance,
    /// Its handler for HTTP, once that was asked for.
    pub(crate) http: Option<Proxy>,
    /// Invocations it has served.
    pub(crate) served_count: u32,
}

/// All that wait.
#[derive(Default)]
pub(crate) struct Idle {
    waiting: Mutex<Waiting>,
    /// Those that no longer wait and are not dropped yet: the pool has them still.
    going_count: Arc<AtomicU32>,
}

/// Instances that were let go of, until they are dropped.
struct Going {
    over: Vec<Instance>,
    going_count: Arc<AtomicU32>,
}

impl Drop for Going {
    fn drop(&mut self) {
        let count = count_of(&self.over);
        self.over.clear();
        self.going_count.fetch_sub(count, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Waiting {
    by_key: HashMap<InstanceKey, Vec<(Instance, Instant)>>,
    by_tenant: HashMap<TenantId, u32>,
    count: u32,
}

// === impl Instance ===

impl Instance {
    /// Makes it serve another invocation; gives the setup back when its memory no longer fits what that may hold.
    #[expect(clippy::result_large_err, reason = "the setup is handed back, not an error")]
    pub(crate) fn wake(mut self, setup: GuestSetup) -> Result<Self, GuestSetup> {
        self.store.data_mut().renew(setup)?;
        Ok(self)
    }
}

// === impl Idle ===

impl Idle {
    /// The one that was put there last, when there is one.
    pub(crate) fn take(&self, key: &InstanceKey) -> Option<Instance> {
        let mut waiting = self.lock();
        let (instance, _) = waiting.by_key.get_mut(key)?.pop()?;
        waiting.left(key, 1);
        Some(instance)
    }

    /// Keeps an instance that ended well, or drops it: because it served enough, still holds something of the host's, or
    /// because there is no room.
    pub(crate) fn keep(&self, reuse: &Reuse, mut instance: Instance) {
        if instance.started.served_count >= reuse.invocations_max || !instance.store.data_mut().rest() {
            return;
        }
        let mut waiting = self.lock();
        let of_tenant = waiting.by_tenant.get(&reuse.key.tenant).copied().unwrap_or(0);
        let held_count = waiting.count.saturating_add(self.going_count.load(Ordering::Relaxed));
        if held_count >= IDLE_COUNT_MAX || of_tenant >= IDLE_PER_TENANT_COUNT_MAX {
            drop(waiting);
            return;
        }
        waiting.count += 1;
        waiting.by_tenant.insert(reuse.key.tenant.clone(), of_tenant + 1);
        waiting.by_key.entry(reuse.key.clone()).or_default().push((instance, Instant::now()));
    }

    /// Drops all of a tenant.
    pub(crate) fn forget(&self, tenant: &TenantId) {
        self.let_go(|key, _, _| key.tenant == *tenant);
    }

    /// Drops all whose memory is of this pool.
    pub(crate) fn let_go_of(&self, pool: &MemoryPool) {
        self.let_go(|_, instance, _| instance.store.data().meter().is_in(pool));
    }

    /// Drops all.
    pub(crate) fn let_go_of_all(&self) {
        self.let_go(|_, _, _| true);
    }

    /// Bytes of memory that they hold.
    pub(crate) fn bytes(&self) -> u64 {
        let waiting = self.lock();
        waiting.by_key.values().flatten().map(|(instance, _)| instance.store.data().grown_bytes()).sum()
    }

    /// How many wait.
    pub(crate) fn count(&self) -> u32 {
        self.lock().count
    }

    /// Drops those that waited too long; all of them when `is_short`, because their memory is needed.
    fn expire(&self, now: Instant, is_short: bool) {
        self.let_go(|_, _, since| is_short || now.saturating_duration_since(since) >= IDLE_TIME_MAX);
    }

    /// Drops those of which this is true. What they held is no longer counted when this returns, whoever let go of them.
    fn let_go(&self, is_over: impl FnMut(&InstanceKey, &Instance, Instant) -> bool) {
        let mut waiting = self.lock();
        let over = waiting.drain(is_over);
        self.going_count.fetch_add(count_of(&over), Ordering::Relaxed);
        drop(waiting);
        if !over.is_empty() {
            drop_aside(Going { over, going_count: Arc::clone(&self.going_count) });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Whole between any two statements but the counts, which only bound: going on is right.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn drain(&mut self, mut is_over: impl FnMut(&InstanceKey, &Instance, Instant) -> bool) -> Vec<Instance> {
        let mut over = Vec::new();
        let mut left = Vec::new();
        for (key, instances) in &mut self.by_key {
            let before = over.len();
            let over_now = instances.extract_if(.., |(instance, since)| is_over(key, instance, *since));
            over.extend(over_now.map(|(instance, _)| instance));
            left.push((key.clone(), u32::try_from(over.len() - before).unwrap_or(u32::MAX)));
        }
        // Under the lock: who finds nothing here that could give way finds the room that others' gave.
        for instance in &mut over {
            instance.store.data_mut().uncount();
        }
        for (key, count) in left {
            self.left(&key, count);
        }
        over
    }

    /// So many of a key no longer wait.
    fn left(&mut self, key: &InstanceKey, count: u32) {
        self.count = self.count.saturating_sub(count);
        if let Some(of_tenant) = self.by_tenant.get_mut(&key.tenant) {
            *of_tenant = of_tenant.saturating_sub(count);
            if *of_tenant == 0 {
                self.by_tenant.remove(&key.tenant);
            }
        }
        if self.by_key.get(key).is_some_and(Vec::is_empty) {
            self.by_key.remove(key);
        }
    }
}

fn count_of(instances: &[Instance]) -> u32 {
    u32::try_from(instances.len()).unwrap_or(u32::MAX)
}

/// Drops what takes its time to drop, such as much memory, on a thread that nobody waits for where there is one: who lets go
/// of it may be an I/O thread, or run another's guest.
fn drop_aside(over: impl Send + 'static) {
    match Handle::try_current() {
        Ok(io) => drop(io.spawn_blocking(move || drop(over))),
        Err(_) => drop(over),
    }
}

/// Drops those that waited too long, from time to time, while the engine is there.
pub(crate) async fn sweep(shared: Weak<Shared>) {
    let expire = |shared: Arc<Shared>| shared.idle.expire(Instant::now(), shared.memory.is_short());
    again_and_again(SWEEP_EVERY, || shared.upgrade(), expire).await;
}

/// Does something to what is there, each time on a thread that may block; after one time that panicked too, or what waits would
/// be held for good. Until it is gone, or the runtime ends.
async fn again_and_again<T: Send + 'static>(
    pause: Duration,
    of: impl Fn() -> Option<T>,
    act: impl FnOnce(T) + Copy + Send + 'static,
) {
    loop {
        tokio::time::sleep(pause).await;
        let Some(it) = of() else { return };
        if tokio::task::spawn_blocking(move || act(it)).await.is_err_and(|error| error.is_cancelled()) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread::ThreadId;

    use super::*;

    struct Tells(mpsc::Sender<ThreadId>);

    impl Drop for Tells {
        fn drop(&mut self) {
            let _ = self.0.send(std::thread::current().id());
        }
    }

    #[tokio::test]
    async fn a_look_for_what_waited_too_long_that_panicked_is_not_the_last() {
        let looks = Arc::new(AtomicU32::new(0));
        let of = || (looks.load(Ordering::Relaxed) < 3).then(|| Arc::clone(&looks));
        let look = |looks: Arc<AtomicU32>| assert!(looks.fetch_add(1, Ordering::Relaxed) != 1, "the second fails");
        let all = again_and_again(Duration::from_millis(1), of, look);
        tokio::time::timeout(Duration::from_secs(60), all).await.expect("it goes on, and ends");
        assert_eq!(looks.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn what_takes_its_time_to_drop_is_dropped_on_another_thread() {
        let (sender, dropped) = mpsc::channel();
        drop_aside(Tells(sender));
        let on = dropped.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_ne!(on, std::thread::current().id());
    }
}
