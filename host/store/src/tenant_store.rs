//! The view of one tenant: its records and files, by name in clear here and sealed below. Another tenant cannot be named.
//!
//! Must never hand out a value whose seal does not fit the name, the tenant and the revision it was found under.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read;
use std::ops::Bound;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use data_encoding::HEXLOWER;
use ringfence_core::limits::PAGE_COUNT_MAX;
use ringfence_core::{Entropy, TenantId};
use ringfence_keys::{Closed, Context, Purpose, TenantKeys, Zeroizing};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::spawn_blocking;

use crate::blobs::{Blobs, READ_BYTES};
use crate::commit::{Batch, Check, Payload, PendingFiles};
use crate::engine::{Engine, Order, Span};
use crate::error::StoreError;
use crate::files::Whole;
use crate::held::{self, Counting};
use crate::key::{Beginnings, Key, Segment, Uid, successor};
use crate::line::Room;
use crate::record::{
    Commit, Content, FileRef, INLINE_BYTES_MAX, Op, Page, PageToken, Precondition, Record, Stored, VALUE_BYTES_MAX,
};
use crate::rotten::place_of;
use crate::sealing::{Sealing, Sealings};
use crate::store::Store;
use crate::tenants::TenantState;
use crate::values::StagedValue;

/// LIMIT: most changes and most preconditions of one batch.
const BATCH_COUNT_MAX: usize = 1_000;
/// LIMIT: most bytes of all values of one batch together.
const BATCH_BYTES_MAX: usize = 128 << 20;
/// LIMIT: a page ends after the record that reaches this many bytes.
const PAGE_BYTES_MAX: usize = 16 << 20;
/// LIMIT: how often a read starts over because a large value was replaced under it.
pub(crate) const READ_ATTEMPTS_MAX: usize = 8;

const GONE: u8 = 255;

/// One tenant's view of the store. Cheap to clone.
#[derive(Clone)]
pub struct TenantStore {
    store: Store,
    tenant: Arc<Tenant>,
    writes: Writes,
}

/// Whether a view writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writes {
    Taken,
    /// Also a little over the tenant's quota.
    TakenWithReserve,
    Refused,
}

/// What the views of one tenant share.
pub(crate) struct Tenant {
    pub(crate) id: Option<TenantId>,
    pub(crate) uid: Uid,
    /// The same in hex digits: every invocation is counted by it.
    uid_text: Box<str>,
    pub(crate) keys: TenantKeys,
    pub(crate) entropy: Arc<dyn Entropy>,
    /// Stored forms of what its keys begin with.
    beginnings: Beginnings,
    /// How its records are sealed; made with the first that is written.
    sealings: OnceLock<Sealings>,
    /// What the tenant may hold, and how often more was refused.
    pub(crate) held_bytes_max: AtomicU64,
    pub(crate) held_refused_count: AtomicU64,
    /// What the commit thread counted last; all there can be before it did.
    pub(crate) held_seen_bytes: AtomicU64,
    /// Bytes of values that are on their way to files and not held yet.
    pub(crate) staged_bytes: AtomicU64,
    /// What of its writes may wait for the commit thread.
    pub(crate) room: Room,
    state: AtomicU8,
}

impl Tenant {
    pub(crate) fn new(
        id: Option<TenantId>,
        uid: Uid,
        keys: TenantKeys,
        entropy: Arc<dyn Entropy>,
        state: TenantState,
    ) -> Self {
        Self {
            id,
            uid,
            uid_text: HEXLOWER.encode(&uid).into(),
            keys,
            entropy,
            beginnings: Beginnings::default(),
            sealings: OnceLock::new(),
            held_bytes_max: AtomicU64::new(u64::MAX),
            held_refused_count: AtomicU64::new(0),
            held_seen_bytes: AtomicU64::new(u64::MAX),
            staged_bytes: AtomicU64::new(0),
            room: Room::new(),
            state: AtomicU8::new(state as u8),
        }
    }
    pub(crate) fn check_alive(&self) -> Result<(), StoreError> {
        if self.state.load(Ordering::Acquire) == GONE { Err(StoreError::Gone) } else { Ok(self.keys.check()?) }
    }
    /// How the record under a stored key is sealed when it is written.
    pub(crate) fn sealing(&self, stored_key: &[u8]) -> Result<Sealing, StoreError> {
        let sealings = match self.sealings.get() {
            Some(sealings) => sealings,
            None => {
                let made = Sealings::new(&self.keys, &self.uid)?;
                self.sealings.get_or_init(|| made)
            }
        };
        Ok(sealings.of(stored_key))
    }
    pub(crate) fn set_state(&self, state: TenantState) {
        // A tenant that is gone stays gone, whoever comes late.
        let _ =
            self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| (now != GONE).then_some(state as u8));
    }
    pub(crate) fn set_gone(&self) {
        self.state.store(GONE, Ordering::Release);
        self.keys.close(Closed::Destroyed);
    }
}

/// The changes of a batch, their names sealed and their values not yet.
#[derive(Default)]
struct Sealed {
    values: held::Values,
    /// Which of them count as bytes that the tenant holds.
    counted: BTreeSet<Vec<u8>>,
    streamed: Vec<(Vec<u8>, StagedValue)>,
    /// Bytes that count beside them.
    hold: u64,
}

impl Sealed {
    fn count(&mut self, key: &Key, stored_key: Vec<u8>) -> Vec<u8> {
        if key.is_counted() {
            self.counted.insert(stored_key.clone());
        }
        stored_key
    }
}

// === impl TenantStore ===

impl TenantStore {
    pub(crate) fn new(store: Store, tenant: Tenant) -> Self {
        Self { store, tenant: Arc::new(tenant), writes: Writes::Taken }
    }
    /// This view, refusing every write from now on; other views of the tenant go on writing.
    #[must_use]
    pub fn read_only(&self) -> Self {
        Self { writes: Writes::Refused, ..self.clone() }
    }
    /// This view, whose writes may go 16 MiB over the tenant's quota: for what the host has to write down about what is there
    /// already (a run ended, an attempt failed), never for what a guest or a person puts there. One that writes nothing stays so.
    #[must_use]
    pub fn with_reserve(&self) -> Self {
        let writes = if self.writes == Writes::Refused { Writes::Refused } else { Writes::TakenWithReserve };
        Self { writes, ..self.clone() }
    }
    /// Fails when this view writes nothing.
    pub fn check_writes(&self) -> Result<(), StoreError> {
        if self.writes == Writes::Refused { Err(StoreError::ReadOnly) } else { Ok(()) }
    }
    pub(crate) fn shared(&self) -> &Arc<Tenant> {
        &self.tenant
    }
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }
    pub(crate) fn engine(&self) -> &dyn Engine {
        &*self.store.0.engine
    }

    /// The tenant; none for the platform's own area.
    pub fn tenant(&self) -> Option<&TenantId> {
        self.tenant.id.as_ref()
    }
    /// The tenant's name, or [`crate::PLATFORM`].
    pub fn label(&self) -> &str {
        self.tenant.keys.tenant()
    }
    /// The tenant's unique id, 32 hex digits: another one when a deleted name is used again.
    pub fn uid(&self) -> String {
        self.uid_str().to_owned()
    }
    /// The same, to look something up by.
    pub fn uid_str(&self) -> &str {
        &self.tenant.uid_text
    }
    /// The revision of the newest batch in the store, whoever wrote it: what is written from now on has a higher one.
    pub fn newest_revision(&self) -> Result<u64, StoreError> {
        crate::store::revision(&*self.store.0.engine)
    }
    /// Whether the tenant is active, read without waiting. A deleted tenant counts as suspended.
    pub fn state(&self) -> TenantState {
        if self.tenant.state.load(Ordering::Acquire) == TenantState::Active as u8 {
            TenantState::Active
        } else {
            TenantState::Suspended
        }
    }
    /// Whether the tenant's keys can be used now: [`StoreError::KeyDisabled`] or [`StoreError::Gone`] when not. Answers from
    /// memory.
    pub fn check_keys(&self) -> Result<(), StoreError> {
        self.tenant.check_alive()
    }
    /// The tenant's keys.
    pub fn keys(&self) -> &TenantKeys {
        &self.tenant.keys
    }
    /// The tenant's files, for contents too large for records.
    pub fn blobs(&self) -> Blobs {
        Blobs::new(self.store.clone(), Arc::clone(&self.tenant))
    }

    /// Reads a record.
    pub async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let stored_key = self.seal(key)?;
        for _ in 0..READ_ATTEMPTS_MAX {
            self.tenant.check_alive()?;
            let Some(bytes) = self.store.0.engine.get(&stored_key)? else { return Ok(None) };
            let stored = Stored::parse(&bytes)?;
            let value = match stored.open(&self.tenant.keys, &stored_key)? {
                Content::Inside(value) => Some(value),
                Content::InFile(file) => {
                    let this = self.clone();
                    spawn_blocking(move || this.read_file(file)).await.map_err(StoreError::unavailable)??
                }
            };
            if let Some(value) = value {
                return Ok(Some(Record { value, revision: stored.revision }));
            }
        }
        Err(StoreError::Damaged)
    }

    /// Lists the records below `prefix` (not `prefix` itself), after the token of the page before. Numbers ascend; names
    /// have a stable but arbitrary order. A page holds at most `limit` records, 1000 at most, and may hold fewer.
    pub async fn scan(&self, prefix: &Key, after: Option<&PageToken>, limit: usize) -> Result<Page, StoreError> {
        self.page(prefix, after, limit, Order::Forward).await
    }

    /// As [`TenantStore::scan`], from the end: the newest first below a prefix whose children are numbers.
    pub async fn scan_back(&self, prefix: &Key, before: Option<&PageToken>, limit: usize) -> Result<Page, StoreError> {
        self.page(prefix, before, limit, Order::Backward).await
    }

    /// As [`TenantStore::scan`], the names alone: those whose values do not open are among them, so that they can be found and
    /// deleted.
    pub async fn scan_names(
        &self,
        prefix: &Key,
        after: Option<&PageToken>,
        limit: usize,
    ) -> Result<(Vec<Key>, Option<PageToken>), StoreError> {
        self.names(prefix, after, limit, Order::Forward).await
    }

    /// As [`TenantStore::scan_names`], from the end.
    pub async fn scan_names_back(
        &self,
        prefix: &Key,
        before: Option<&PageToken>,
        limit: usize,
    ) -> Result<(Vec<Key>, Option<PageToken>), StoreError> {
        self.names(prefix, before, limit, Order::Backward).await
    }

    async fn names(
        &self,
        prefix: &Key,
        token: Option<&PageToken>,
        limit: usize,
        order: Order,
    ) -> Result<(Vec<Key>, Option<PageToken>), StoreError> {
        self.tenant.check_alive()?;
        let (stored_prefix, span) = self.span(prefix, token, limit, order)?;
        let (this, prefix) = (self.clone(), prefix.clone());
        let read = spawn_blocking(move || this.read_names(&prefix, &stored_prefix, &span));
        read.await.map_err(StoreError::unavailable)?
    }

    /// Writes all of `ops` or nothing, if all of `preconditions` hold; resolves once it is durable. Dropping the future
    /// does not undo it. After [`StoreError::Unavailable`] the batch may or may not be there.
    pub async fn batch(&self, ops: Vec<Op>, preconditions: Vec<Precondition>) -> Result<Commit, StoreError> {
        self.batch_with(ops, Vec::new(), preconditions).await
    }

    /// As [`TenantStore::batch`], with values that were streamed before; of several changes to one key theirs counts.
    /// Whatever goes wrong, a staged value that was not written leaves nothing.
    pub async fn batch_with(
        &self,
        ops: Vec<Op>,
        staged: Vec<(Key, StagedValue)>,
        preconditions: Vec<Precondition>,
    ) -> Result<Commit, StoreError> {
        self.check_writes()?;
        self.tenant.check_alive()?;
        check_size(&ops, &preconditions)?;
        let checks =
            preconditions.into_iter().map(|precondition| self.check(&precondition)).collect::<Result<_, _>>()?;
        let Sealed { values, counted, streamed, hold } = self.sealed(ops, staged)?;
        // Before any file is written: what is refused must not cost the disk anything. The commit thread counts again.
        let counting = match self.writes {
            Writes::TakenWithReserve => Counting::AddWithReserve(hold),
            Writes::Taken | Writes::Refused => Counting::Add(hold),
        };
        held::look_ahead(&*self.store.0.engine, &self.tenant, &values, &counted, counting)?;
        let files = PendingFiles { files: self.store.0.files.clone(), uid: self.tenant.uid, ids: Vec::new() };
        let mut batch =
            Batch { tenant: Arc::clone(&self.tenant), writes: BTreeMap::new(), counted, counting, checks, files };
        for (key, value) in values {
            let payload = match value {
                Some(value) if value.len() > INLINE_BYTES_MAX => {
                    let file = FileRef { id: self.random_id(), bytes: value.len() as u64 };
                    let this = self.clone();
                    let written = spawn_blocking(move || this.write_file(file, &value)).await;
                    let whole = written.map_err(StoreError::unavailable)??;
                    batch.files.ids.push(file.id);
                    whole.keep();
                    Some(Payload::InFile(file))
                }
                value => value.map(Payload::Inside),
            };
            batch.writes.insert(key, payload);
        }
        // Their room is kept until the batch is through.
        let mut rooms = Vec::with_capacity(streamed.len());
        for (key, value) in streamed {
            let (payload, ids, room) = value.into_parts();
            batch.files.ids.extend(ids);
            batch.writes.insert(key, Some(payload));
            rooms.push(room);
        }
        self.store.0.committer.commit(batch).await
    }

    /// Writes one record.
    pub async fn put(&self, key: &Key, value: impl Into<Vec<u8>>) -> Result<Commit, StoreError> {
        self.batch(vec![Op::put(key.clone(), value)], Vec::new()).await
    }
    /// Removes one record; fine when there is none.
    pub async fn delete(&self, key: &Key) -> Result<Commit, StoreError> {
        self.batch(vec![Op::delete(key.clone())], Vec::new()).await
    }
    /// Reads a record as JSON.
    pub async fn get_json<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<T>, StoreError> {
        self.get(key).await?.map(|record| record.json()).transpose()
    }
    /// Writes one record as JSON.
    pub async fn put_json<T: Serialize + ?Sized>(&self, key: &Key, value: &T) -> Result<Commit, StoreError> {
        self.batch(vec![Op::put_json(key.clone(), value)?], Vec::new()).await
    }

    /// The changes of a batch by their stored keys.
    fn sealed(&self, ops: Vec<Op>, staged: Vec<(Key, StagedValue)>) -> Result<Sealed, StoreError> {
        let mut sealed = Sealed::default();
        for op in ops {
            let (key, value) = match op {
                Op::Put { key, value } => (key, Some(Zeroizing::new(value))),
                Op::Delete { key } => (key, None),
                Op::Hold { bytes } => {
                    sealed.hold = sealed.hold.saturating_add(bytes);
                    continue;
                }
            };
            let stored_key = sealed.count(&key, self.seal(&key)?);
            sealed.values.insert(stored_key, value);
        }
        for (key, value) in staged {
            let stored_key = sealed.count(&key, self.seal(&key)?);
            sealed.values.remove(&stored_key);
            sealed.streamed.push((stored_key, value));
        }
        Ok(sealed)
    }

    pub(crate) fn seal(&self, key: &Key) -> Result<Vec<u8>, StoreError> {
        key.seal_with(&self.tenant.keys, &self.tenant.uid, &self.tenant.beginnings)
    }

    fn check(&self, precondition: &Precondition) -> Result<Check, StoreError> {
        Ok(match precondition {
            Precondition::Absent(key) => Check::Absent(self.seal(key)?),
            Precondition::Present(key) => Check::Present(self.seal(key)?),
            Precondition::Revision(key, revision) => Check::Revision(self.seal(key)?, *revision),
        })
    }

    pub(crate) fn random_id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        self.tenant.entropy.fill(&mut id);
        id
    }

    async fn page(
        &self,
        prefix: &Key,
        token: Option<&PageToken>,
        limit: usize,
        order: Order,
    ) -> Result<Page, StoreError> {
        self.tenant.check_alive()?;
        let (stored_prefix, span) = self.span(prefix, token, limit, order)?;
        let (this, prefix) = (self.clone(), prefix.clone());
        spawn_blocking(move || this.read_page(&prefix, &stored_prefix, &span)).await.map_err(StoreError::unavailable)?
    }

    /// The stored form of a prefix, and what to read below it.
    fn span(
        &self,
        prefix: &Key,
        token: Option<&PageToken>,
        limit: usize,
        order: Order,
    ) -> Result<(Vec<u8>, Span), StoreError> {
        let stored_prefix = self.seal(prefix)?;
        let start = Bound::Excluded(stored_prefix.clone());
        let end = successor(&stored_prefix).map_or(Bound::Unbounded, Bound::Excluded);
        // A token says where below the prefix to go on, and so cannot lead out of it.
        let token = token.map(|token| Bound::Excluded([stored_prefix.as_slice(), &token.0].concat()));
        let (from, to) = match order {
            Order::Forward => (token.unwrap_or(start), end),
            Order::Backward => (start, token.unwrap_or(end)),
        };
        let span = Span { from, to, order, count_max: limit.clamp(1, PAGE_COUNT_MAX), bytes_max: PAGE_BYTES_MAX };
        Ok((stored_prefix, span))
    }

    fn read_page(&self, prefix: &Key, stored_prefix: &[u8], span: &Span) -> Result<Page, StoreError> {
        let keys = &self.tenant.keys;
        let rows = self.store.0.engine.range(span)?;
        let (mut more, mut bytes, mut last) = (rows.more, 0_usize, None);
        let mut records = Vec::with_capacity(rows.pairs.len());
        for (stored_key, value) in rows.pairs {
            if bytes >= PAGE_BYTES_MAX {
                more = true;
                break;
            }
            let read = Stored::parse(&value).and_then(|stored| self.read_value(&stored, &stored_key));
            let read = read.inspect_err(|error| {
                // Not left out: what is missed here may be a rule, or somebody who was shut out.
                if matches!(error, StoreError::Damaged) {
                    let key = Key::open_below(keys, prefix, stored_prefix, &stored_key);
                    self.name_rotten(key.ok().as_ref(), &stored_key);
                }
            })?;
            // A large value that was replaced or deleted since the span was read: as if we had come a moment later.
            if let Some(record) = read {
                bytes = bytes.saturating_add(record.value.len());
                records.push((Key::open_below(keys, prefix, stored_prefix, &stored_key)?, record));
            }
            last = Some(stored_key);
        }
        self.tenant.check_alive()?;
        let next =
            last.filter(|_| more).and_then(|last| last.get(stored_prefix.len()..).map(|rest| PageToken(rest.to_vec())));
        Ok(Page { records, next })
    }

    fn read_value(&self, stored: &Stored<'_>, stored_key: &[u8]) -> Result<Option<Record>, StoreError> {
        let value = match stored.open(&self.tenant.keys, stored_key)? {
            Content::Inside(value) => Some(value),
            Content::InFile(file) => self.read_file(file)?,
        };
        Ok(value.map(|value| Record { value, revision: stored.revision }))
    }

    fn read_names(
        &self,
        prefix: &Key,
        stored_prefix: &[u8],
        span: &Span,
    ) -> Result<(Vec<Key>, Option<PageToken>), StoreError> {
        let rows = self.store.0.engine.range(span)?;
        let mut names = Vec::with_capacity(rows.pairs.len());
        for (stored_key, _) in &rows.pairs {
            match Key::open_below(&self.tenant.keys, prefix, stored_prefix, stored_key) {
                // Nobody can ask for it by its name any more.
                Err(StoreError::Damaged) => self.name_rotten(None, stored_key),
                opened => names.push(opened?),
            }
        }
        self.tenant.check_alive()?;
        let last = rows.pairs.last().filter(|_| rows.more);
        let next = last.and_then(|(last, _)| last.get(stored_prefix.len()..).map(|rest| PageToken(rest.to_vec())));
        Ok((names, next))
    }

    /// Names a record that does not open, in the host's words: its area, and a digest of where it lies, the same each time. Never
    /// the name that the tenant gave it.
    pub(crate) fn name_rotten(&self, key: Option<&Key>, stored_key: &[u8]) {
        // Where not all of the name opens, its beginning may.
        let beginning = Key::open_beginning(&self.tenant.keys, &self.tenant.uid, stored_key).map(|opened| opened.0);
        let area = match key.or(beginning.as_ref().ok()).and_then(|key| key.segments().first()) {
            Some(Segment::Name(first)) => first.as_str(),
            _ => "unknown",
        };
        let place = place_of(stored_key);
        tracing::error!(tenant = self.label(), area, place, "a record is damaged and does not open");
    }

    // === values in files ===

    fn write_file(&self, file: FileRef, value: &[u8]) -> Result<Whole, StoreError> {
        self.store.0.check_free()?;
        let Tenant { uid, keys, entropy, .. } = &*self.tenant;
        let mut sealer = keys.stream_sealer(Purpose::Blob, &value_context(keys, &file.id), entropy.as_ref())?;
        let mut sealed = Vec::new();
        sealer.push(value, &mut sealed)?;
        sealer.finish(&mut sealed)?;
        let mut to = self.store.0.files.create(&value_path(uid, &file.id)).map_err(StoreError::unavailable)?;
        to.write(&sealed).map_err(StoreError::unavailable)?;
        to.finish().map_err(StoreError::unavailable)
    }

    /// The value in a file; none when the file is gone, which happens when the value is replaced in that moment.
    pub(crate) fn read_file(&self, file: FileRef) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let Tenant { uid, keys, .. } = &*self.tenant;
        if file.bytes > VALUE_BYTES_MAX as u64 {
            return Err(StoreError::TooLarge { what: "a value read whole", max: VALUE_BYTES_MAX as u64 });
        }
        let mut reader = match self.store.0.files.open(&value_path(uid, &file.id)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(StoreError::unavailable)?,
        };
        let length = usize::try_from(file.bytes).map_err(|_| StoreError::Damaged)?;
        let mut value = Zeroizing::new(Vec::with_capacity(length));
        let mut opener = keys.stream_opener(Purpose::Blob, &value_context(keys, &file.id));
        let mut buffer = vec![0_u8; READ_BYTES];
        loop {
            let count = reader.read(&mut buffer).map_err(StoreError::unavailable)?;
            if count == 0 {
                break;
            }
            opener.push(buffer.get(..count).unwrap_or_default(), &mut value).map_err(StoreError::opening)?;
            if value.len() > length {
                return Err(StoreError::Damaged);
            }
        }
        opener.finish(&mut value).map_err(StoreError::opening)?;
        if value.len() == length { Ok(Some(value)) } else { Err(StoreError::Damaged) }
    }
}

impl fmt::Debug for TenantStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<store of {}>", self.label())
    }
}

/// The directory of a tenant's value files.
pub(crate) fn value_directory(uid: &Uid) -> String {
    format!("blobs/{}/values", HEXLOWER.encode(uid))
}

/// The file of a large value.
pub(crate) fn value_path(uid: &Uid, id: &[u8; 16]) -> String {
    format!("{}/{}", value_directory(uid), HEXLOWER.encode(id))
}

pub(crate) fn value_context<'a>(keys: &'a TenantKeys, id: &'a [u8; 16]) -> Context<'a> {
    Context { tenant: keys.tenant(), store: "value", key: id, revision: 0 }
}

fn check_size(ops: &[Op], preconditions: &[Precondition]) -> Result<(), StoreError> {
    let too_large = |what, max: usize| Err(StoreError::TooLarge { what, max: max as u64 });
    if ops.len() > BATCH_COUNT_MAX || preconditions.len() > BATCH_COUNT_MAX {
        return too_large("the number of changes of a batch", BATCH_COUNT_MAX);
    }
    let mut bytes = 0_usize;
    for op in ops {
        if let Op::Put { value, .. } = op {
            if value.len() > VALUE_BYTES_MAX {
                return too_large("a value", VALUE_BYTES_MAX);
            }
            bytes = bytes.saturating_add(value.len());
        }
    }
    if bytes > BATCH_BYTES_MAX {
        return too_large("the size of a batch", BATCH_BYTES_MAX);
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::engine::Write;
    use ringfence_keys::{RootKey, RootKeyUri};

    /// Counts; good enough where nothing secret is made, and every test is the same each time.
    pub(crate) struct Counting(pub AtomicU8);
    impl Entropy for Counting {
        fn fill(&self, into: &mut [u8]) {
            into.fill(self.0.fetch_add(1, Ordering::Relaxed));
        }
    }

    pub(crate) fn test_keys(seed: u8) -> TenantKeys {
        let directory = tempfile::tempdir().unwrap();
        let uri = RootKeyUri::File(directory.path().join("root.key"));
        let entropy = Counting(AtomicU8::new(seed));
        let root = RootKey::open_or_create(&uri, &entropy).unwrap();
        root.new_tenant_key("acme", &entropy).unwrap().0
    }

    /// A tenant made without the list of tenants.
    pub(crate) fn tenant_in(store: &Store) -> TenantStore {
        let (uid, entropy) = ([7; 16], Arc::new(Counting(AtomicU8::new(0))));
        for directory in [value_directory(&uid), crate::blobs::directory(&uid)] {
            store.0.files.make_directory(&directory).unwrap();
        }
        let tenant = Tenant::new("acme".parse().ok(), uid, test_keys(1), entropy, TenantState::Active);
        TenantStore::new(store.clone(), tenant)
    }

    /// Another one beside it, for values that need no file.
    pub(crate) fn another_in(store: &Store) -> TenantStore {
        let entropy = Arc::new(Counting(AtomicU8::new(100)));
        let tenant = Tenant::new("evil".parse().ok(), [8; 16], test_keys(2), entropy, TenantState::Active);
        TenantStore::new(store.clone(), tenant)
    }

    #[tokio::test]
    async fn a_stored_record_with_any_bit_flipped_or_in_any_other_place_is_refused_and_no_other_is_hurt() {
        let all = Store::memory();
        let (acme, evil) = (tenant_in(&all), another_in(&all));
        let [one, two] = ["one", "two"].map(|name| Key::new(["kv", "visits", "default", name]));
        for (tenant, key) in [(&acme, &one), (&acme, &two), (&evil, &one)] {
            tenant.put(key, *b"value").await.unwrap();
        }
        let stored =
            |tenant: &TenantStore, key: &Key| tenant.engine().get(&tenant.seal(key).unwrap()).unwrap().unwrap();
        // What lies under a key, put there past the store.
        let read_altered = async |tenant: &TenantStore, key: &Key, altered: Vec<u8>| {
            let (stored_key, whole) = (tenant.seal(key).unwrap(), stored(tenant, key));
            let lay =
                |value| tenant.engine().apply(vec![Write { key: stored_key.clone(), value: Some(value) }]).unwrap();
            lay(altered);
            let read = tenant.get(key).await;
            lay(whole);
            read
        };
        let refused = |read: Result<Option<Record>, StoreError>| matches!(read, Err(StoreError::Damaged));
        let whole = stored(&acme, &one);
        for bit in 0..whole.len() * 8 {
            let mut altered = whole.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(refused(read_altered(&acme, &one, altered).await), "bit {bit}");
        }
        for length in 0..whole.len() {
            assert!(refused(read_altered(&acme, &one, whole[..length].to_vec()).await), "cut at {length}");
        }
        // The kind is what tells one store of the seal from another: a value inside, or where its file is.
        let as_file = [&[2][..], &whole[1..]].concat();
        let at_anothers_revision = [&whole[..1], &stored(&acme, &two)[1..9], &whole[9..]].concat();
        for (what, altered) in [("kind", as_file), ("revision", at_anothers_revision)] {
            assert!(refused(read_altered(&acme, &one, altered).await), "another {what}");
        }
        assert!(refused(read_altered(&acme, &two, whole.clone()).await), "under another key");
        assert!(refused(read_altered(&evil, &one, whole).await), "in another tenant");
        for (tenant, key) in [(&acme, &one), (&acme, &two), (&evil, &one)] {
            assert_eq!(tenant.get(key).await.unwrap().unwrap().value.as_slice(), b"value");
        }
    }
}
