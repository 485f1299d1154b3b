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
                    let _ = reply.send(alone(|| self.erase(&uid)));
                }
                Some(Job::Reseal(tenant, stored_keys, reply)) => {
                    let _ = reply.send(alone(|| self.reseal(&tenant, &stored_keys)));
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
            let taken = alone(|| {
                let Prepared { commit, writes, replaced } = self.prepare(&batch, &ahead, free_bytes)?;
                pins.note(&*engine, &batch.tenant, batch.writes.keys())?;
                let Batch { mut files, .. } = batch;
                // From here on the outcome may be in doubt: a file too many is swept at the next start, one too few is a
                // loss.
                files.ids.clear();
                let changes = changes(&writes, commit.revision);
                ahead.writes.extend(writes.into_iter().map(|write| (write.key, write.value)));
                Ok((commit, replaced, changes))
            });
            match taken {
                Ok((commit, replaced, changes)) => applied.push(Applied { commit, reply, replaced, changes }),
                // It may be so only because of what is not written yet, and is said when that is there.
                Err(error) if !ahead.writes.is_empty() => refused.push((reply, error)),
                Err(error) => drop(reply.send(Err(error))),
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

/// Does something for one of those who wait: a panic in it costs that one, and not every later write of the host.
fn alone<T>(act: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let stopped = |_panic| Err(StoreError::unavailable("the write stopped in the middle"));
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(stopped)
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
#[path = "commit_tests.rs"]
mod tests;
