//! The commit thread: the one writer. Takes what waits as a group, checks each batch's preconditions against the state after
//! those before it, gives revisions, seals, and writes the group at once, durably, before it acknowledges any of it. Tenants
//! take turns (`line.rs`).
//!
//! Must never acknowledge what is not durable, and never let a write of a deleted tenant through. A read may see a batch a
//! moment before it is durable; nothing that depends on it can become durable earlier, because there is one log.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ringfence_keys::Zeroizing;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::backup::pin::Pins;
use crate::engine::{Engine, EngineError, Order, Span, Write};
use crate::error::StoreError;
use crate::files::Files;
use crate::held::{self, Counting};
use crate::key::{AREA_FILES, AREA_HELD, AREA_RECORDS, AREA_TALLY, Uid, area, index_key, successor};
use crate::line::Line;
use crate::record::{Commit, Content, FileRef, Stored, revision_of, seal_file_ref, seal_inside};
use crate::store::{self, REVISION_KEY, check_floor, check_free};
use crate::tally::{self, Tally};
use crate::tenant_keys::PLATFORM_UID;
use crate::tenant_store::{Tenant, value_path};
use crate::watch::{Changed, Watchers, changes};
use crate::watermark::Watermark;

/// LIMIT: longest wait for an answer of the commit thread; a disk that hangs for longer counts as failed.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// LIMIT: batches made durable by one flush.
const GROUP_COUNT_MAX: usize = 256;
/// LIMIT: bytes of values made durable by one flush, reached by the batch that goes over. Whoever comes meanwhile waits for
/// them; at this size the flush itself is no longer what a byte costs.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// LIMIT: bytes of records read at a time to be erased.
const ERASE_BYTES_MAX: usize = 16 << 20;
/// LIMIT: longest wait for writers that were answered together to come with their next: also a quarter of what their last took.
const GATHER_WAIT_MAX: Duration = Duration::from_micros(200);
/// What a record counts in its tenant's turn beside its key and value.
const RECORD_COST_BYTES: usize = 256;
/// Revisions skipped at a start. INVARIANT: more than can be in flight, so that a number that was seen and lost in a crash
/// is never given to something else.
const REVISIONS_SKIPPED: u64 = 4_096;
/// How often a database that failed is looked after while nobody writes.
const RECOVERY_PAUSE: Duration = Duration::from_secs(1);
/// LIMIT: records erased by one step, between which others write.
const ERASE_COUNT: usize = 500;

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) revision: AtomicU64,
    /// What must be kept for snapshots that are being read.
    pub(crate) pins: Pins,
}

/// What a batch writes under one stored key.
pub(crate) enum Payload {
    Inside(Zeroizing<Vec<u8>>),
    InFile(FileRef),
}

/// What must hold, over stored keys.
pub(crate) enum Check {
    Absent(Vec<u8>),
    Present(Vec<u8>),
    Revision(Vec<u8>, u64),
    /// What lies there is this, opened or not.
    Same(Vec<u8>, Vec<u8>),
}

/// A batch with its names sealed and its large values in files.
pub(crate) struct Batch {
    pub(crate) tenant: Arc<Tenant>,
    /// INVARIANT: one change a key, so that a value file is either referred to or in `files`.
    pub(crate) writes: BTreeMap<Vec<u8>, Option<Payload>>,
    /// Which of them count as bytes that the tenant holds.
    pub(crate) counted: BTreeSet<Vec<u8>>,
    pub(crate) counting: Counting,
    pub(crate) checks: Vec<Check>,
    pub(crate) files: PendingFiles,
}

/// Value files whose record is not written yet; removes them when dropped before that.
pub(crate) struct PendingFiles {
    pub(crate) files: Files,
    pub(crate) uid: Uid,
    pub(crate) ids: Vec<[u8; 16]>,
}

type Reply = oneshot::Sender<Result<Commit, StoreError>>;

enum Job {
    Batch(Batch, Reply),
    /// One step of it; says whether there is more.
    Erase(Uid, oneshot::Sender<Result<bool, StoreError>>),
    /// Records to be sealed anew, by their stored keys.
    Reseal(Arc<Tenant>, Vec<Vec<u8>>, oneshot::Sender<Result<u64, StoreError>>),
}

/// The way to the commit thread.
pub(crate) struct Committer {
    line: Arc<Line<Job>>,
    thread: Mutex<Option<JoinHandle<Result<(), StoreError>>>>,
}

impl Drop for PendingFiles {
    fn drop(&mut self) {
        for id in &self.ids {
            if let Err(error) = self.files.remove(&value_path(&self.uid, id)) {
                tracing::warn!(%error, "a value file could not be removed; the next start removes it");
            }
        }
    }
}

/// Who lets go of a store without closing it ends the thread too, after what is queued.
impl Drop for Committer {
    fn drop(&mut self) {
        self.line.shut();
    }
}

// === impl Committer ===

impl Committer {
    pub(crate) fn start(
        engine: Arc<dyn Engine>,
        files: Files,
        (counters, watchers): (Arc<Counters>, Arc<Watchers>),
        free_bytes_min: u64,
        watermark: Option<Watermark>,
        lock: Option<Arc<File>>,
    ) -> Result<Self, StoreError> {
        let revision = match store::revision(&*engine)? {
            0 => 0,
            newest => newest.saturating_add(REVISIONS_SKIPPED),
        };
        counters.revision.store(revision, Ordering::Relaxed);
        watchers.begin_after(revision);
        let line = Arc::new(Line::new(PLATFORM_UID));
        let served = Served(Arc::clone(&line));
        let writer = Writer { engine, files, counters, watchers, free_bytes_min, revision, watermark, _lock: lock };
        let thread = std::thread::Builder::new()
            .name("store-commit".to_owned())
            .spawn(move || writer.run(served))
            .map_err(StoreError::unavailable)?;
        Ok(Self { line, thread: Mutex::new(Some(thread)) })
    }

    /// One that refuses everything.
    pub(crate) fn closed() -> Self {
        let line = Arc::new(Line::new(PLATFORM_UID));
        line.abandon();
        Self { line, thread: Mutex::new(None) }
    }

    /// Resolves once the batch is durable.
    pub(crate) async fn commit(&self, batch: Batch) -> Result<Commit, StoreError> {
        let (reply, answer) = oneshot::channel();
        let (tenant, cost_bytes) = (Arc::clone(&batch.tenant), batch.cost_bytes());
        self.line.join(tenant.uid, &tenant.room, cost_bytes, Job::Batch(batch, reply)).await?;
        answered(answer).await
    }

    /// Resolves once nothing of the tenant is left in the database, durably. Step by step: others take their turns in between.
    pub(crate) async fn erase(&self, uid: Uid) -> Result<(), StoreError> {
        loop {
            let (reply, answer) = oneshot::channel();
            self.line.join_now(uid, ERASE_COUNT * RECORD_COST_BYTES, Job::Erase(uid, reply))?;
            if !answered(answer).await? {
                return Ok(());
            }
        }
    }

    /// Resolves once these records are durable under the newest version of their tenant's key, but for as many as this says:
    /// those do not open.
    pub(crate) async fn reseal(&self, tenant: Arc<Tenant>, stored_keys: Vec<Vec<u8>>) -> Result<u64, StoreError> {
        let (reply, answer) = oneshot::channel();
        let (uid, room) = (tenant.uid, Arc::clone(&tenant));
        // LIMIT: a step of sealing anew reads as many bytes at most. As that is a flood, it never has the tenant's own lane rest.
        let cost_bytes = stored_keys.len().saturating_mul(RECORD_COST_BYTES).saturating_mul(8);
        self.line.join(background(uid), &room.room, cost_bytes, Job::Reseal(tenant, stored_keys, reply)).await?;
        answered(answer).await
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.line.is_over()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.line.len()
    }

    /// How many of a tenant's own writes wait.
    pub(crate) fn waiting_of(&self, uid: &Uid) -> usize {
        self.line.len_of(uid)
    }

    /// Ends the thread after what is queued; blocks until it has. Fine to call twice.
    pub(crate) fn close(&self) -> Result<(), StoreError> {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return Ok(()) };
        self.line.shut();
        thread.join().unwrap_or_else(|_panic| Err(StoreError::unavailable("the commit thread stopped")))
    }
}

/// The lane of what the store does for a tenant in the background.
fn background(mut uid: Uid) -> Uid {
    uid[0] ^= 0xff;
    uid
}

async fn answered<T>(answer: oneshot::Receiver<Result<T, StoreError>>) -> Result<T, StoreError> {
    match timeout(ANSWER_WAIT, answer).await {
        Err(_elapsed) => Err(StoreError::unavailable("the disk did not answer in time")),
        Ok(Err(_gone)) => Err(StoreError::Closed),
        Ok(Ok(result)) => result,
    }
}

/// The line while somebody serves it: however that ends, nobody waits in it for nothing.
struct Served(Arc<Line<Job>>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// The thread's state.
struct Writer {
    engine: Arc<dyn Engine>,
    files: Files,
    counters: Arc<Counters>,
    watchers: Arc<Watchers>,
    free_bytes_min: u64,
    /// The newest revision given away.
    revision: u64,
    /// None in memory.
    watermark: Option<Watermark>,
    /// The directory is ours until the last write is through.
    _lock: Option<Arc<File>>,
}

/// A batch that is part of what is written.
struct Applied {
    commit: Commit,
    reply: Reply,
    /// Value files that nothing refers to once this is durable.
    replaced: Vec<String>,
    /// What those who watch are told then.
    changes: Vec<Changed>,
}

/// What a batch comes to, before it is written.
struct Prepared {
    commit: Commit,
    writes: Vec<Write>,
    replaced: Vec<String>,
}

impl Writer {
    fn run(mut self, served: Served) -> Result<(), StoreError> {
        let line = Arc::clone(&served.0);
        // INVARIANT: never in the middle of a group: what was applied before a failure is in doubt, and a sync after it must
        // fail too. Also while nobody writes: most who write read before, and would be refused for good.
        let engine = Arc::clone(&self.engine);
        let recover = || {
            if let Err(error) = engine.recover() {
                tracing::debug!(?error, "the database is still out of service");
            }
        };
        while let Some(first) = line.next(RECOVERY_PAUSE, recover) {
            recover();
            let (mut group, mut bytes) = (Vec::new(), 0_usize);
            let (mut next, mut other) = (Some(first), None);
            while let Some(job) = next.take() {
                match job {
                    // A count anew reads what lies there, so nothing may be on its way.
                    Job::Batch(batch, reply) if !matches!(batch.counting, Counting::Anew(_)) => {
                        bytes = bytes.saturating_add(batch.bytes());
                        group.push((batch, reply));
                    }
                    job => other = Some(job),
                }
                if other.is_none() && group.len() < GROUP_COUNT_MAX && bytes < GROUP_BYTES_MAX {
                    next = line.try_next();
                }
            }
            let (begun, answered_count) = (Instant::now(), group.len());
            self.write(group);
            match other {
                Some(Job::Batch(batch, reply)) => self.write(vec![(batch, reply)]),
                Some(Job::Erase(uid, reply)) => {
                    self.watchers.wake_all();
                    let _ = reply.send(self.erase(&uid));
                }
                Some(Job::Reseal(tenant, stored_keys, reply)) => {
                    let _ = reply.send(self.reseal(&tenant, &stored_keys));
                }
                None => {}
            }
            line.done();
            // They come back in a moment: without this half of them would go with each flush, and wait for the other half's.
            if answered_count > 1 {
                let wait = (begun.elapsed() / 4).min(GATHER_WAIT_MAX);
                line.gather(line.len().saturating_add(answered_count).min(GROUP_COUNT_MAX), Instant::now() + wait);
            }
        }
        drop(served);
        self.watchers.wake_all();
        self.engine.sync()?;
        if let Some(watermark) = &mut self.watermark {
            watermark.sync();
        }
        Ok(())
    }

    /// Writes a group: each batch that holds after those before it, all of them at once. Whoever reads sees all of a batch
    /// or none of it.
    fn write(&mut self, group: Vec<(Batch, Reply)>) {
        if group.is_empty() {
            return;
        }
        if let Err(error) = self.probe() {
            group.into_iter().for_each(|(_, reply)| drop(reply.send(Err(error.clone().into()))));
            return;
        }
        let (engine, counters) = (Arc::clone(&self.engine), Arc::clone(&self.counters));
        let mut ahead = Ahead { engine: &*engine, writes: BTreeMap::new() };
        let (mut applied, mut refused) = (Vec::with_capacity(group.len()), Vec::new());
        // Before anything is held: it may wait for room that removed files hold. The floor is far more than a group writes.
        let is_writing = group.iter().any(|(batch, _)| batch.is_writing());
        let free_bytes = is_writing.then(|| self.files.free_bytes_above(self.free_bytes_min)).flatten();
        // Held until the last batch has its revision, and not while they are written: whoever pins after that waits for this
        // group before it reads, so it sees all that has a revision by now, and what comes later is noted for it.
        let mut pins = counters.pins.lock();
        for (batch, reply) in group {
            // A panic here must cost one batch, not every later write of the host.
            let taken = catch_unwind(AssertUnwindSafe(|| {
                let Prepared { commit, writes, replaced } = self.prepare(&batch, &ahead, free_bytes)?;
                pins.note(&*engine, &batch.tenant, batch.writes.keys())?;
                let Batch { mut files, .. } = batch;
                // From here on the outcome may be in doubt: a file too many is swept at the next start, one too few is a
                // loss.
                files.ids.clear();
                let changes = changes(&writes, commit.revision);
                ahead.writes.extend(writes.into_iter().map(|write| (write.key, write.value)));
                Ok((commit, replaced, changes))
            }));
            match taken {
                Ok(Ok((commit, replaced, changes))) => applied.push(Applied { commit, reply, replaced, changes }),
                // It may be so only because of what is not written yet, and is said when that is there.
                Ok(Err(error)) if !ahead.writes.is_empty() => refused.push((reply, error)),
                Ok(Err(error)) => drop(reply.send(Err(error))),
                Err(_panic) => drop(reply.send(Err(StoreError::unavailable("the write stopped in the middle")))),
            }
        }
        drop(pins);
        let Some(newest) = applied.last().map(|applied| applied.commit.revision) else { return };
        ahead.writes.insert(REVISION_KEY.to_vec(), Some(newest.to_be_bytes().to_vec()));
        let writes = ahead.writes.into_iter().map(|(key, value)| Write { key, value }).collect();
        let durable = self.make_durable(writes);
        self.answer(applied, newest, &durable);
        for (reply, error) in refused {
            let _ = reply.send(Err(match &durable {
                Ok(()) => error,
                Err(failed) => failed.clone().into(),
            }));
        }
    }

    /// `free_bytes` is what the disk had before the first of the group.
    fn prepare(&mut self, batch: &Batch, ahead: &Ahead<'_>, free_bytes: Option<u64>) -> Result<Prepared, StoreError> {
        batch.tenant.check_alive()?;
        for (precondition, check) in batch.checks.iter().enumerate() {
            if !holds(ahead, &batch.tenant, check)? {
                return Err(StoreError::Conflict { precondition });
            }
        }
        if batch.is_writing() {
            check_floor(free_bytes, self.free_bytes_min)?;
        }
        let mut writes = Vec::with_capacity(batch.writes.len() + 3);
        // LIMIT: 2^64 batches.
        self.revision = self.revision.saturating_add(1);
        let revision = self.revision;
        self.counters.revision.store(revision, Ordering::Relaxed);
        let mut replaced = Vec::new();
        let (mut gone, mut added) = (0_u64, 0_u64);
        let Tenant { uid, keys, .. } = &*batch.tenant;
        let mut tallied = Tally::default();
        for (key, payload) in &batch.writes {
            let old = ahead.get(key)?;
            if let Some(old) = &old {
                tallied.take(revision_of(old));
            }
            if payload.is_some() {
                tallied.add(revision);
            }
            let (old_bytes, old_file) = held::under(keys, key, old.as_deref());
            if let Some(old) = old_file {
                replaced.push(value_path(uid, &old.id));
                writes.push(Write { key: index_key(uid, &old.id), value: None });
            }
            let value = match payload {
                None => None,
                Some(Payload::Inside(value)) => Some(seal_inside(&batch.tenant, key, revision, value)?),
                Some(Payload::InFile(file)) => {
                    writes.push(Write { key: index_key(uid, &file.id), value: Some(Vec::new()) });
                    Some(seal_file_ref(&batch.tenant, key, revision, *file)?)
                }
            };
            if batch.counted.contains(key) {
                gone = gone.saturating_add(old_bytes);
                added = added.saturating_add(held::of(key, value.as_deref(), payload.as_ref()));
            }
            writes.push(Write { key: key.clone(), value });
        }
        writes.extend(held::count(ahead, &batch.tenant, batch.counting, gone, added)?);
        // Last: where there is no tally yet the records are counted, for which a refused batch must not ask again and again.
        if !batch.writes.is_empty() {
            writes.extend(tally::count(ahead, uid, &tallied)?);
        }
        Ok(Prepared { commit: Commit { revision }, writes, replaced })
    }

    /// Says to those who wait what became of their batches.
    fn answer(&mut self, mut applied: Vec<Applied>, newest: u64, durable: &Result<(), EngineError>) {
        // Before anyone is answered: whoever wrote finds its own change told.
        match durable {
            Err(_) => self.watchers.forget(newest),
            Ok(()) => {
                self.watchers.tell(applied.iter_mut().flat_map(|one| std::mem::take(&mut one.changes)).collect());
            }
        }
        for Applied { commit, reply, replaced, .. } in applied {
            let answer = match durable {
                Ok(()) => {
                    self.counters.commits.fetch_add(1, Ordering::Relaxed);
                    for path in replaced {
                        if self.counters.pins.lock().keeps(&path) {
                            continue;
                        }
                        if let Err(error) = self.files.remove(&path) {
                            tracing::warn!(%error, "a value file could not be removed; the next start removes it");
                        }
                    }
                    Ok(commit)
                }
                Err(error) => Err(error.clone().into()),
            };
            // Whoever asked may have stopped waiting; the batch is written all the same.
            let _ = reply.send(answer);
        }
        if let (Ok(()), Some(watermark)) = (durable, &mut self.watermark) {
            watermark.reach(newest);
        }
    }

    /// Refuses when the disk takes no writes at all: nothing was done then, and the database goes on for who reads.
    fn probe(&self) -> Result<(), EngineError> {
        let probed = self.watermark.as_ref().map_or(Ok(()), Watermark::probe);
        probed.map_err(|error| EngineError::Failed(format!("the disk takes no writes: {error}")))
    }

    /// Applies writes and returns once they are durable. After an error all of them are in doubt.
    fn make_durable(&self, writes: Vec<Write>) -> Result<(), EngineError> {
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        catch_unwind(AssertUnwindSafe(|| self.engine.commit(writes)))
            .unwrap_or_else(|_panic| Err(EngineError::Failed("the write stopped in the middle".to_owned())))
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        catch_unwind(AssertUnwindSafe(|| self.engine.sync()))
            .unwrap_or_else(|_panic| Err(EngineError::Failed("the flush stopped in the middle".to_owned())))
    }

    /// Seals records anew in their places: the same values under the same revisions. Those that are gone stay gone, and those
    /// that do not open stay as they are; says how many.
    fn reseal(&self, tenant: &Tenant, stored_keys: &[Vec<u8>]) -> Result<u64, StoreError> {
        tenant.check_alive()?;
        check_free(&self.files, self.free_bytes_min)?;
        self.probe()?;
        let (mut writes, mut damaged_count) = (Vec::with_capacity(stored_keys.len()), 0);
        for key in stored_keys {
            let Some(bytes) = self.engine.get(key)? else { continue };
            let opened =
                Stored::parse(&bytes).and_then(|stored| Ok((stored.revision, stored.open(&tenant.keys, key)?)));
            let value = match opened {
                Ok((revision, Content::Inside(value))) => seal_inside(tenant, key, revision, &value)?,
                Ok((revision, Content::InFile(file))) => seal_file_ref(tenant, key, revision, file)?,
                Err(StoreError::Damaged) => {
                    damaged_count += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            writes.push(Write { key: key.clone(), value: Some(value) });
        }
        self.engine.apply(writes)?;
        self.sync()?;
        Ok(damaged_count)
    }

    /// Removes records of a tenant that is gone, as many as one step may; says whether there may be more. Needs no space on the
    /// disk beyond the floor. INVARIANT: each step looks from the beginning. When the database came back from a failure since
    /// the last one, what that removed may be there again, and the last step must have seen that nothing is.
    fn erase(&self, uid: &Uid) -> Result<bool, StoreError> {
        self.probe()?;
        let mut left_count = ERASE_COUNT;
        for kind in [AREA_RECORDS, AREA_FILES, AREA_HELD, AREA_TALLY] {
            let prefix = area(kind, uid);
            let to = successor(&prefix).map_or(Bound::Unbounded, Bound::Excluded);
            let span = Span {
                from: Bound::Included(prefix),
                to,
                order: Order::Forward,
                count_max: left_count,
                bytes_max: ERASE_BYTES_MAX,
            };
            let rows = self.engine.range(&span)?;
            left_count = left_count.saturating_sub(rows.pairs.len());
            self.engine.apply(rows.pairs.into_iter().map(|(key, _)| Write { key, value: None }).collect())?;
            if rows.more || left_count == 0 {
                return Ok(true);
            }
        }
        self.sync()?;
        Ok(false)
    }
}

/// The database as it will be after the batches of a group that were taken so far.
pub(crate) struct Ahead<'a> {
    pub(crate) engine: &'a dyn Engine,
    /// The newest of each key.
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Ahead<'_> {
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        match self.writes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.engine.get(key),
        }
    }
}

fn holds(ahead: &Ahead<'_>, tenant: &Tenant, check: &Check) -> Result<bool, StoreError> {
    match check {
        Check::Absent(key) => Ok(ahead.get(key)?.is_none()),
        Check::Present(key) => Ok(ahead.get(key)?.is_some()),
        Check::Same(key, value) => Ok(ahead.get(key)?.as_ref() == Some(value)),
        Check::Revision(key, revision) => {
            let Some(bytes) = ahead.get(key)? else { return Ok(false) };
            let stored = Stored::parse(&bytes)?;
            // The revision in clear counts only once the seal over it was checked.
            stored.open(&tenant.keys, key)?;
            Ok(stored.revision == *revision)
        }
    }
}

impl Batch {
    /// What it counts in its tenant's turn.
    fn cost_bytes(&self) -> usize {
        self.writes.keys().map(|key| key.len().saturating_add(RECORD_COST_BYTES)).sum::<usize>() + self.bytes()
    }

    /// Whether it does anything but delete.
    fn is_writing(&self) -> bool {
        self.writes.values().any(Option::is_some)
    }

    /// Bytes of values inside, for the group's limit.
    fn bytes(&self) -> usize {
        self.writes
            .values()
            .map(|payload| match payload {
                Some(Payload::Inside(value)) => value.len(),
                _ => 0,
            })
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::{JoinHandle, yield_now};

    use super::*;
    use crate::engine::{Fault, Faults};
    use crate::key::Key;
    use crate::record::{Op, Precondition};
    use crate::store::Store;
    use crate::tenant_store::TenantStore;
    use crate::tenant_store::tests::{another_in, tenant_in};

    type Told = JoinHandle<Result<Commit, StoreError>>;

    /// A store whose commit thread waits in a flush: what is written meanwhile is its next group.
    struct Flushing {
        faults: Faults,
        store: TenantStore,
        /// The write that it flushes.
        first: Told,
        /// The revision of the first write of the next group.
        next_revision: u64,
    }

    fn key() -> Key {
        Key::new(["k"])
    }

    async fn until(holds: impl Fn() -> bool) {
        let wait = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(20), wait).await.expect("it never came to that");
    }

    impl Flushing {
        async fn new() -> Self {
            let faults = Faults::default();
            let store = tenant_in(&Store::memory_with_faults(faults.clone()));
            faults.hold_flushes();
            let other = store.clone();
            let first = tokio::spawn(async move { other.put(&Key::new(["other"]), *b"v").await });
            until(|| faults.held_count() == 1).await;
            let next_revision = store.store().0.counters.revision.load(Ordering::Relaxed) + 1;
            Self { faults, store, first, next_revision }
        }

        fn waiting(&self) -> usize {
            self.store.store().0.committer.waiting()
        }

        /// Writes behind those that wait already.
        async fn put(&self, value: &'static str, precondition: Precondition) -> Told {
            let (store, before) = (self.store.clone(), self.waiting());
            let told = tokio::spawn(async move { store.batch(vec![Op::put(key(), value)], vec![precondition]).await });
            until(|| self.waiting() == before + 1).await;
            told
        }

        /// Until the flush of those that waited is held, all of them as one group.
        async fn flush_the_group(&mut self) {
            self.faults.let_one_through();
            (&mut self.first).await.unwrap().unwrap();
            until(|| self.faults.held_count() == 1).await;
            assert_eq!(self.waiting(), 0, "they are one group");
        }
    }

    async fn nobody_is_told(all: &[Told]) {
        for _ in 0..100 {
            yield_now().await;
        }
        assert!(all.iter().all(|told| !told.is_finished()), "told before it is durable");
    }

    async fn answers(all: Vec<Told>) -> Vec<Result<Commit, StoreError>> {
        let mut answers = Vec::new();
        for told in all {
            answers.push(told.await.unwrap());
        }
        answers
    }

    #[tokio::test]
    async fn a_refusal_is_told_only_after_the_winner_it_lost_to_is_durable_and_visible() {
        let mut flushing = Flushing::new().await;
        let both = vec![
            flushing.put("winner", Precondition::Absent(key())).await,
            flushing.put("loser", Precondition::Absent(key())).await,
        ];
        flushing.flush_the_group().await;
        nobody_is_told(&both).await;
        flushing.faults.let_all_through();
        let answers = answers(both).await;
        let [Ok(won), Err(StoreError::Conflict { precondition: 0 })] = answers[..] else { panic!("{answers:?}") };
        let seen = flushing.store.get(&key()).await.unwrap().unwrap();
        assert_eq!((seen.value.as_slice(), seen.revision), (&b"winner"[..], won.revision));
    }

    #[tokio::test]
    async fn of_a_chain_in_one_group_nobody_is_told_before_all_that_he_builds_on_is_durable() {
        let mut flushing = Flushing::new().await;
        let first = flushing.next_revision;
        let chain = vec![
            flushing.put("one", Precondition::Absent(key())).await,
            flushing.put("two", Precondition::Revision(key(), first)).await,
            // Right until the one before it.
            flushing.put("three", Precondition::Revision(key(), first)).await,
        ];
        flushing.flush_the_group().await;
        nobody_is_told(&chain).await;
        flushing.faults.let_all_through();
        let answers = answers(chain).await;
        let [Ok(one), Ok(two), Err(StoreError::Conflict { precondition: 0 })] = answers[..] else {
            panic!("{answers:?}")
        };
        assert_eq!((one.revision, two.revision), (first, first + 1));
        let seen = flushing.store.get(&key()).await.unwrap().unwrap();
        assert_eq!((seen.value.as_slice(), seen.revision), (&b"two"[..], two.revision));
    }

    #[tokio::test]
    async fn beside_the_erase_of_a_tenant_with_many_records_others_write_before_it_is_over() {
        let mut flushing = Flushing::new().await;
        let other = another_in(flushing.store.store());
        for number in 0..3 * ERASE_COUNT {
            let (mut key, value) = (area(AREA_RECORDS, &flushing.store.shared().uid), Some(Vec::new()));
            key.extend_from_slice(&number.to_be_bytes());
            flushing.store.engine().apply(vec![Write { key, value }]).unwrap();
        }
        let (store, uid) = (flushing.store.store().clone(), flushing.store.shared().uid);
        let left = || {
            let from = area(AREA_RECORDS, &uid);
            let to = successor(&from).map_or(Bound::Unbounded, Bound::Excluded);
            let (from, order, max) = (Bound::Included(from), Order::Forward, usize::MAX);
            store.0.engine.range(&Span { from, to, order, count_max: max, bytes_max: max }).unwrap().pairs.len()
        };
        let erasing = store.clone();
        let erased = tokio::spawn(async move { erasing.0.committer.erase(uid).await });
        until(|| flushing.waiting() == 1).await;
        // Its turn comes after the first step's and before the second's: it counts more than one step and less than two.
        let ops: Vec<Op> =
            (0..10_u8).map(|number| Op::put(Key::new(["k", &number.to_string()]), [0_u8; 16 << 10])).collect();
        let put = tokio::spawn(async move { other.batch(ops, Vec::new()).await });
        until(|| flushing.waiting() == 2).await;
        flushing.faults.let_one_through();
        (&mut flushing.first).await.unwrap().unwrap();
        // It stands behind one step, and the erase ends with a flush of its own.
        until(|| flushing.faults.held_count() == 1).await;
        assert!(left() > 0, "all was erased before anybody else's turn");
        flushing.faults.let_one_through();
        put.await.unwrap().unwrap();
        assert!(!erased.is_finished());
        flushing.faults.let_all_through();
        erased.await.unwrap().unwrap();
        assert_eq!(left(), 0);
    }

    #[tokio::test]
    async fn sealing_anew_never_stands_in_the_lane_of_the_tenants_own_writes() {
        let flushing = Flushing::new().await;
        let tenant = Arc::clone(flushing.store.shared());
        let (store, uid) = (flushing.store.store().clone(), tenant.uid);
        let sealing = store.clone();
        let sealed = tokio::spawn(async move { sealing.0.committer.reseal(tenant, vec![b"gone".to_vec()]).await });
        until(|| flushing.waiting() == 1).await;
        let put = flushing.put("own", Precondition::Absent(key())).await;
        assert_eq!([uid, background(uid)].map(|lane| store.0.committer.waiting_of(&lane)), [1, 1]);
        flushing.faults.let_all_through();
        assert_eq!(sealed.await.unwrap().unwrap(), 0);
        put.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn when_a_flush_fails_nobody_of_its_group_is_told_success_or_a_refusal_for_what_was_not_written() {
        for fault in [Fault::InDoubt, Fault::Lost] {
            let mut flushing = Flushing::new().await;
            let all = vec![
                flushing.put("winner", Precondition::Absent(key())).await,
                flushing.put("loser", Precondition::Absent(key())).await,
                flushing.put("builds on it", Precondition::Present(key())).await,
            ];
            flushing.faults.plan([Some(fault)]);
            // What is lost fails before there is anything to flush.
            if fault == Fault::InDoubt {
                flushing.flush_the_group().await;
                nobody_is_told(&all).await;
            }
            flushing.faults.let_all_through();
            for answer in answers(all).await {
                assert!(matches!(answer, Err(StoreError::Unavailable { .. })), "{fault:?}: {answer:?}");
            }
            // It is said of the next write what holds then.
            let later = flushing.store.batch(Vec::new(), vec![Precondition::Absent(key())]).await;
            assert_eq!(later.is_ok(), fault == Fault::Lost, "{later:?}");
        }
    }
}
