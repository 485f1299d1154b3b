//! Watching a tenant's records: a bounded stream of what changed below a prefix, after it became durable.
//!
//! Nothing of it survives the process. Changes of a moment ago are kept for those who come with the revision they last
//! saw; whoever asks for older ones, or does not keep up, is told [`Event::Lagged`] and must scan again. Names travel
//! sealed and are opened for the one who watches. Must never hold up the commit thread.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

use crate::engine::Write;
use crate::error::StoreError;
use crate::key::{AREA_RECORDS, Key, UID_BYTES, Uid};
use crate::tenant_store::TenantStore;

/// LIMIT: changes kept for one who watches; the next one makes it lag.
const WAITING_COUNT_MAX: usize = 1_024;
/// LIMIT: changes of all tenants kept for those who come with a revision.
const RECENT_COUNT_MAX: usize = 4_096;
/// LIMIT: watches of one tenant at a time.
const WATCHES_COUNT_MAX: usize = 64;

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was written.
    Put,
    /// It was deleted, whether or not it was there.
    Deleted,
}

/// What a watch tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A record changed, durably.
    Changed {
        /// Its name.
        key: Key,
        /// The batch that did it.
        revision: u64,
        /// What it did.
        change: Change,
    },
    /// Changes were missed: scan again. What comes after this is complete again.
    Lagged,
}

/// A watch over a prefix. Ends when it is dropped.
pub struct Watch {
    store: TenantStore,
    prefix: Key,
    stored_prefix: Vec<u8>,
    watcher: Arc<Watcher>,
}

/// One change as the commit thread tells it.
#[derive(Clone)]
pub(crate) struct Changed {
    pub(crate) key: Vec<u8>,
    pub(crate) revision: u64,
    pub(crate) change: Change,
}

/// Everyone who watches, and what happened a moment ago.
#[derive(Default)]
pub(crate) struct Watchers(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    watchers: Vec<Weak<Watcher>>,
    recent: VecDeque<Changed>,
    /// All changes after this revision are in `recent`.
    complete_after: u64,
}

struct Watcher {
    uid: Uid,
    stored_prefix: Vec<u8>,
    queue: Mutex<Queue>,
    woken: Notify,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Changed>,
    has_lagged: bool,
}

// === impl TenantStore ===

impl TenantStore {
    /// Watches the records below `prefix`: all changes by batches after `revision`, in the order they were made. With the
    /// revision of a scan that came before, nothing in between is missed: what is not known any more is told as
    /// [`Event::Lagged`]. [`StoreError::TooLarge`] when the tenant has 64 watches.
    pub fn watch(&self, prefix: &Key, revision: u64) -> Result<Watch, StoreError> {
        let tenant = self.shared();
        tenant.check_alive()?;
        let stored_prefix = prefix.seal(&tenant.keys, &tenant.uid)?;
        let watcher = Watcher {
            uid: tenant.uid,
            stored_prefix: stored_prefix.clone(),
            queue: Mutex::default(),
            woken: Notify::new(),
        };
        let watcher = self.store().0.watchers.add(watcher, revision)?;
        Ok(Watch { store: self.clone(), prefix: prefix.clone(), stored_prefix, watcher })
    }
}

// === impl Watch ===

impl Watch {
    /// Waits for the next event, for as long as it takes: give it a deadline. [`StoreError::Gone`] once the tenant is
    /// deleted, [`StoreError::Closed`] once the store is.
    pub async fn next(&mut self) -> Result<Event, StoreError> {
        loop {
            let woken = self.watcher.woken.notified();
            self.store.shared().check_alive()?;
            if let Some(event) = self.take()? {
                return Ok(event);
            }
            if self.store.store().0.committer.is_closed() {
                return Err(StoreError::Closed);
            }
            woken.await;
        }
    }

    fn take(&self) -> Result<Option<Event>, StoreError> {
        let mut queue = self.watcher.queue();
        if std::mem::take(&mut queue.has_lagged) {
            return Ok(Some(Event::Lagged));
        }
        while let Some(Changed { key, revision, change }) = queue.waiting.pop_front() {
            match Key::open_below(self.store.keys(), &self.prefix, &self.stored_prefix, &key) {
                // A record of which the name rotted was removed: nobody who watches knew it.
                Err(StoreError::Damaged) => {}
                opened => return Ok(Some(Event::Changed { key: opened?, revision, change })),
            }
        }
        Ok(None)
    }
}

// === impl Watchers ===

impl Watchers {
    /// Changes up to this revision are not known: it is where the store began.
    pub(crate) fn begin_after(&self, revision: u64) {
        self.inner().complete_after = revision;
    }

    /// Tells what became durable, in order. For the commit thread.
    pub(crate) fn tell(&self, changes: Vec<Changed>) {
        let mut inner = self.inner();
        inner.watchers.retain(|watcher| watcher.strong_count() > 0);
        for watcher in inner.watchers.iter().filter_map(Weak::upgrade) {
            watcher.push(&changes);
        }
        for change in changes {
            if inner.recent.len() >= RECENT_COUNT_MAX
                && let Some(oldest) = inner.recent.pop_front()
            {
                inner.complete_after = inner.complete_after.max(oldest.revision);
            }
            inner.recent.push_back(change);
        }
    }

    /// Something that may be in doubt was applied: nobody knows it all any more.
    pub(crate) fn forget(&self, up_to: u64) {
        let mut inner = self.inner();
        inner.recent.clear();
        inner.complete_after = inner.complete_after.max(up_to);
        inner.watchers.iter().filter_map(Weak::upgrade).for_each(|watcher| watcher.lag());
    }

    /// Has everyone look whether there is still something to wait for.
    pub(crate) fn wake_all(&self) {
        self.inner().watchers.iter().filter_map(Weak::upgrade).for_each(|watcher| watcher.woken.notify_one());
    }

    fn add(&self, watcher: Watcher, revision: u64) -> Result<Arc<Watcher>, StoreError> {
        let mut inner = self.inner();
        inner.watchers.retain(|watcher| watcher.strong_count() > 0);
        let of_tenant = inner.watchers.iter().filter_map(Weak::upgrade).filter(|other| other.uid == watcher.uid);
        if of_tenant.count() >= WATCHES_COUNT_MAX {
            return Err(StoreError::TooLarge { what: "the number of watches", max: WATCHES_COUNT_MAX as u64 });
        }
        let watcher = Arc::new(watcher);
        if revision < inner.complete_after {
            watcher.lag();
        } else {
            let missed: Vec<Changed> = inner.recent.iter().filter(|c| c.revision > revision).cloned().collect();
            watcher.push(&missed);
        }
        inner.watchers.push(Arc::downgrade(&watcher));
        Ok(watcher)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Watcher ===

impl Watcher {
    fn push(&self, changes: &[Changed]) {
        let mut queue = self.queue();
        for change in changes.iter().filter(|change| self.concerns(&change.key)) {
            if queue.waiting.len() >= WAITING_COUNT_MAX {
                // What waits is older than what was missed, and a scan makes up for both.
                queue.waiting.clear();
                queue.has_lagged = true;
            }
            queue.waiting.push_back(change.clone());
        }
        drop(queue);
        self.woken.notify_one();
    }

    fn lag(&self) {
        let mut queue = self.queue();
        queue.waiting.clear();
        queue.has_lagged = true;
        drop(queue);
        self.woken.notify_one();
    }

    /// Below the prefix, not the prefix itself; a stored prefix begins with the tenant's own id.
    fn concerns(&self, key: &[u8]) -> bool {
        key.len() > self.stored_prefix.len() && key.starts_with(&self.stored_prefix)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What those who watch are told of a batch.
pub(crate) fn changes(writes: &[Write], revision: u64) -> Vec<Changed> {
    let of = |write: &Write| if write.value.is_some() { Change::Put } else { Change::Deleted };
    let records = writes.iter().filter(|write| is_record(&write.key));
    records.map(|write| Changed { key: write.key.clone(), revision, change: of(write) }).collect()
}

/// The stored keys that are records of a tenant, for those who watch.
fn is_record(key: &[u8]) -> bool {
    key.first() == Some(&AREA_RECORDS) && key.len() > UID_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Fault, Faults};
    use crate::record::Op;
    use crate::store::Store;
    use crate::tenant_store::tests::tenant_in;

    fn key(number: u64) -> Key {
        Key::new(["kv", "visits"]).number(number)
    }

    fn changed(number: u64, revision: u64, change: Change) -> Event {
        Event::Changed { key: key(number), revision, change }
    }

    #[tokio::test]
    async fn changes_below_the_prefix_are_told_in_order_and_no_others() {
        let store = tenant_in(&Store::memory());
        let before = store.put(&key(1), *b"v").await.unwrap().revision;
        let mut watch = store.watch(&Key::new(["kv"]), before).unwrap();
        let both = vec![Op::put(key(2), *b"v"), Op::delete(key(1)), Op::put(Key::new(["log"]), *b"v")];
        let first = store.batch(both, Vec::new()).await.unwrap().revision;
        let second = store.put(&key(2), *b"w").await.unwrap().revision;
        assert_eq!(watch.next().await.unwrap(), changed(1, first, Change::Deleted));
        assert_eq!(watch.next().await.unwrap(), changed(2, first, Change::Put));
        assert_eq!(watch.next().await.unwrap(), changed(2, second, Change::Put));
        assert_eq!(watch.take().unwrap(), None);
    }

    #[tokio::test]
    async fn who_comes_with_a_revision_of_a_moment_ago_misses_nothing_and_with_an_older_one_is_told_so() {
        let store = tenant_in(&Store::memory());
        let seen = store.put(&key(1), *b"v").await.unwrap().revision;
        let missed = store.put(&key(2), *b"v").await.unwrap().revision;
        let mut watch = store.watch(&Key::new(["kv"]), seen).unwrap();
        assert_eq!(watch.next().await.unwrap(), changed(2, missed, Change::Put));
        for _ in 0..=RECENT_COUNT_MAX / 500 {
            let many = (0..500).map(|number| Op::put(key(number), *b"v")).collect();
            store.batch(many, Vec::new()).await.unwrap();
        }
        let mut late = store.watch(&Key::new(["kv"]), seen).unwrap();
        assert_eq!(late.next().await.unwrap(), Event::Lagged);
        let after = store.put(&key(3), *b"v").await.unwrap().revision;
        assert_eq!(late.next().await.unwrap(), changed(3, after, Change::Put));
    }

    #[tokio::test]
    async fn who_does_not_keep_up_is_told_so_and_then_goes_on() {
        let store = tenant_in(&Store::memory());
        let mut watch = store.watch(&Key::new(["kv"]), 0).unwrap();
        for _ in 0..=WAITING_COUNT_MAX / 500 {
            let many = (0..500).map(|number| Op::put(key(number), *b"v")).collect();
            store.batch(many, Vec::new()).await.unwrap();
        }
        assert_eq!(watch.next().await.unwrap(), Event::Lagged);
        assert!(matches!(watch.next().await.unwrap(), Event::Changed { .. }));
        assert!(watch.watcher.queue().waiting.len() <= WAITING_COUNT_MAX);
    }

    #[tokio::test]
    async fn a_write_in_doubt_is_not_told_as_a_change_and_makes_everyone_scan_again() {
        let faults = Faults::default();
        let store = tenant_in(&Store::memory_with_faults(faults.clone()));
        let mut watch = store.watch(&Key::new(["kv"]), 0).unwrap();
        faults.plan([Some(Fault::InDoubt)]);
        assert!(store.put(&key(1), *b"v").await.is_err());
        assert_eq!(watch.next().await.unwrap(), Event::Lagged);
        let after = store.put(&key(2), *b"v").await.unwrap().revision;
        assert_eq!(watch.next().await.unwrap(), changed(2, after, Change::Put));
    }

    #[tokio::test]
    async fn watches_are_bounded_and_end_with_the_store() {
        let all = Store::memory();
        let store = tenant_in(&all);
        let mut watches: Vec<Watch> =
            (0..WATCHES_COUNT_MAX).map(|_| store.watch(&Key::new(["kv"]), 0).unwrap()).collect();
        assert!(matches!(store.watch(&Key::new(["kv"]), 0), Err(StoreError::TooLarge { .. })));
        let mut watch = watches.pop().unwrap();
        drop(watches);
        assert!(store.watch(&Key::new(["kv"]), 0).is_ok());
        let waiting = tokio::spawn(async move { watch.next().await });
        all.close().await.unwrap();
        assert!(matches!(waiting.await.unwrap(), Err(StoreError::Closed)));
    }
}
