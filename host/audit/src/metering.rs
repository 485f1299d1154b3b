//! Invocation records and metering: what every invocation did and spent, kept sealed in the tenant's own store.
//!
//! Recording never waits for the disk: rows are collected in memory and written once a second and at the drain. A host
//! that is killed loses at most that second of records (never an audit entry of a refusal, which is durable on its own).
//! A write that fails is neither lost nor counted twice, also when nobody knows whether it happened. Beside it: what is
//! held in storage (`storage.rs`) and the signed receipts of days that are over (`receipts.rs`).
//! Must never take a name from a guest: plugins and versions come from the registry.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use ringfence_core::{Blame, CausedBy, Clock, InvocationId, PluginName, TenantId, Usage};
use ringfence_store::{Key, Op, StoreError, TenantStore, Tenants};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::audit::Audit;
use crate::storage::Sampler;
use crate::usage_sum::{Day, UsageSum};

/// Records kept for a plugin at least, once there were so many; older ones go first, a chunk at a time.
pub const INVOCATIONS_KEPT_MAX: u64 = 2_000;
/// LIMIT: tenants whose totals are told apart; those that come later are summed together.
pub const TENANTS_TOLD_MAX: usize = 1_000;
/// Most records collected between two writes, for one tenant; more are counted in metering and not kept one by one.
const PENDING_COUNT_MAX: usize = 1_000;
/// LIMIT: records written in one batch, and so in one chunk. A page's cursor has eight bits for the place in a chunk.
const RECORDS_PER_WRITE: usize = 64;
/// Bits of a cursor that say where in a chunk.
const PLACE_BITS: u32 = 8;
/// LIMIT: sums written in one batch.
const SUMS_PER_WRITE: usize = 100;
/// How often collected records are written.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// Flushes between two looks at storage and at the calendar.
const FLUSHES_PER_LOOK: u32 = 10;

/// One invocation, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvocationRecord {
    /// Its id, as the caller saw it.
    pub id: InvocationId,
    /// The plugin.
    pub plugin: PluginName,
    /// The version that ran.
    pub version: String,
    /// When it ended.
    pub at: Timestamp,
    /// Who called.
    pub principal: String,
    /// What started it, such as `schedule/nightly`; none for a caller over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Which invocation called it or sent its message, when a plugin did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caused_by: Option<CausedBy>,
    /// Who began the first of the tree, when a plugin called this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    /// Status of the answer.
    pub status: u16,
    /// Why it failed; none for the guest's own answers.
    pub code: Option<String>,
    /// Whose fault that was; none in records from before it was kept.
    #[serde(default)]
    pub blame: Option<Blame>,
    /// What went wrong, for the plugin's owner.
    pub detail: Option<String>,
    /// What it spent.
    pub usage: Usage,
}

/// What tenants used since the host started.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// By tenant, by name: the first [`TENANTS_TOLD_MAX`] that used something and are still there.
    pub tenants: Vec<(TenantId, UsageSum)>,
    /// All others together.
    pub other: UsageSum,
}

/// Collects invocation records and writes them. Cheap to clone.
#[derive(Clone)]
pub struct Metering(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tenants: Tenants,
    pub(crate) audit: Audit,
    collected: Mutex<Collected>,
    writing: tokio::sync::Mutex<()>,
    pub(crate) sampler: tokio::sync::Mutex<Sampler>,
    /// The last day whose receipts are all made.
    pub(crate) receipts_made: tokio::sync::Mutex<Option<Day>>,
}

/// What is known in memory only. Tenants go by unique id: a name can be used again.
pub(crate) struct Collected {
    /// The last day that is closed: whatever is still to come counts for the day after. INVARIANT: never goes back, so a
    /// day with a receipt never changes, wherever the clock steps.
    pub(crate) closed: Day,
    pending: HashMap<String, Pending>,
    /// Tenants whose plugins worked on stored values since storage was looked at.
    pub(crate) touched: HashSet<String>,
    totals: HashMap<String, (TenantId, UsageSum)>,
    other: UsageSum,
}

struct Pending {
    store: TenantStore,
    /// A batch that may be there or not. Its values are absolute and nobody else writes these records, so it is written
    /// again as it is, before anything that builds on it.
    unsure: Vec<Op>,
    records: Vec<InvocationRecord>,
    sums: BTreeMap<(PluginName, Day), UsageSum>,
}

impl Metering {
    /// Metering over the tenants' stores; receipts are signed with the keys of `audit`.
    pub async fn open(tenants: Tenants, audit: Audit, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let closed = tenants.platform().get_json::<i64>(&closed_key()).await?;
        let collected = Collected {
            closed: closed.map_or(Day::from_number(i64::MIN), Day::from_number),
            pending: HashMap::new(),
            touched: HashSet::new(),
            totals: HashMap::new(),
            other: UsageSum::default(),
        };
        Ok(Self(Arc::new(Inner {
            clock,
            tenants,
            audit,
            collected: Mutex::new(collected),
            writing: tokio::sync::Mutex::default(),
            sampler: tokio::sync::Mutex::default(),
            receipts_made: tokio::sync::Mutex::default(),
        })))
    }

    /// Records one invocation. Does not wait.
    pub fn record(&self, store: &TenantStore, record: InvocationRecord) {
        let (day, sum) = (Day::of(record.at), UsageSum::of(&record));
        let mut collected = self.0.collected();
        if record.usage.storage_ops_count > 0 {
            collected.touched.insert(store.uid());
        }
        let Some(pending) = collected.add(store, &record.plugin, day, &sum) else { return };
        if pending.records.len() < PENDING_COUNT_MAX {
            pending.records.push(record);
        }
    }

    /// Writes collected records once a second until `stop` turns true, and once more then; looks at storage and at the
    /// calendar at the start and from time to time.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut flushes = 0;
        loop {
            if flushes == 0 {
                self.sample().await;
                self.close().await;
            }
            flushes = (flushes + 1) % FLUSHES_PER_LOOK;
            let stopping = tokio::select! {
                () = tokio::time::sleep(FLUSH_EVERY) => false,
                _ = stop.wait_for(|stopping| *stopping) => true,
            };
            if stopping {
                self.sample().await;
                self.flush().await;
                return;
            }
            self.flush().await;
        }
    }

    /// Writes everything collected so far. What cannot be written now stays collected for the next time.
    pub async fn flush(&self) {
        let _one_at_a_time = self.0.writing.lock().await;
        let taken = std::mem::take(&mut self.0.collected().pending);
        for (uid, mut pending) in taken {
            match write(&mut pending).await {
                Ok(()) | Err(StoreError::Gone | StoreError::KeyDisabled | StoreError::KeyRefused) => {}
                Err(error) => {
                    tracing::warn!(tenant = pending.store.label(), %error, "invocation records are not written yet");
                    self.0.collected().put_back(uid, pending);
                }
            }
        }
    }

    /// What tenants used since the host started, those that exist.
    pub fn totals(&self) -> Totals {
        let collected = self.0.collected();
        let mut tenants: Vec<_> = collected.totals.values().cloned().collect();
        tenants.sort_by(|a, b| a.0.cmp(&b.0));
        Totals { tenants, other: collected.other }
    }

    /// What one tenant used since the host started, when it is told apart.
    pub fn total_of(&self, store: &TenantStore) -> Option<UsageSum> {
        self.0.collected().totals.get(&store.uid()).map(|(_, sum)| *sum)
    }

    /// The newest records of a plugin, newest first. `before` is the cursor of the last page.
    pub async fn invocations(
        &self,
        store: &TenantStore,
        plugin: &PluginName,
        before: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<InvocationRecord>, Option<u64>), StoreError> {
        self.flush().await;
        let mut before = match before {
            Some(before) => before,
            None => kept(store, plugin).await?.next << PLACE_BITS,
        };
        let mut records = Vec::new();
        while let Some((number, chunk)) = chunk_before(store, plugin, before).await? {
            for (place, record) in chunk.into_iter().rev() {
                records.push(record);
                before = number << PLACE_BITS | place;
                if records.len() >= limit {
                    return Ok((records, Some(before)));
                }
            }
        }
        Ok((records, None))
    }

    /// One record, by id. Looks through the plugin's kept records, newest first.
    pub async fn invocation(
        &self,
        store: &TenantStore,
        plugin: &PluginName,
        id: &InvocationId,
    ) -> Result<Option<InvocationRecord>, StoreError> {
        self.flush().await;
        let mut before = kept(store, plugin).await?.next << PLACE_BITS;
        while let Some((number, chunk)) = chunk_before(store, plugin, before).await? {
            let found = chunk.into_iter().find(|(_, record)| record.id == *id);
            if let Some((_, record)) = found {
                return Ok(Some(record));
            }
            before = number << PLACE_BITS;
        }
        Ok(None)
    }

    /// Sums by plugin of the UTC days that `from..=to` touches.
    pub async fn usage(
        &self,
        store: &TenantStore,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<BTreeMap<PluginName, UsageSum>, StoreError> {
        let mut sums: BTreeMap<PluginName, UsageSum> = BTreeMap::new();
        for (plugin, sum) in self.usage_by_day(store, from, to).await?.into_values().flatten() {
            sums.entry(plugin).or_default().add(&sum);
        }
        Ok(sums)
    }

    /// The same, day by day; days without use are left out.
    pub async fn usage_by_day(
        &self,
        store: &TenantStore,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<BTreeMap<Day, BTreeMap<PluginName, UsageSum>>, StoreError> {
        self.flush().await;
        days(store, Day::of(from)..=Day::of(to)).await
    }

    /// The clock records are stamped with.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }
}

// === impl Inner ===

impl Inner {
    pub(crate) fn collected(&self) -> MutexGuard<'_, Collected> {
        // Counters and queues that are whole between any two statements: a panic elsewhere cannot leave them half changed.
        self.collected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Collected ===

impl Collected {
    /// Adds to a plugin's day, or to the day after the last closed one when that is over. None for the platform's area.
    fn add(&mut self, store: &TenantStore, plugin: &PluginName, day: Day, sum: &UsageSum) -> Option<&mut Pending> {
        let tenant = store.tenant()?;
        let room = self.totals.len() < TENANTS_TOLD_MAX;
        match self.totals.get_mut(store.uid_str()) {
            Some((_, told)) => told.add(sum),
            None if room => {
                self.totals.insert(store.uid(), (tenant.clone(), *sum));
            }
            None => self.other.add(sum),
        }
        let pending = self.pending.entry(store.uid()).or_insert_with(|| Pending {
            store: store.clone(),
            unsure: Vec::new(),
            records: Vec::new(),
            sums: BTreeMap::new(),
        });
        pending.sums.entry((plugin.clone(), day.max(self.closed.next()))).or_default().add(sum);
        Some(pending)
    }

    /// Adds what is not an invocation.
    pub(crate) fn credit(&mut self, store: &TenantStore, plugin: &PluginName, day: Day, sum: &UsageSum) {
        let _ = self.add(store, plugin, day, sum);
    }

    /// Whether something of a tenant's days up to `closed` may not be written yet.
    pub(crate) fn is_unwritten(&self, store: &TenantStore, closed: Day) -> bool {
        self.pending
            .get(&store.uid())
            .is_some_and(|pending| !pending.unsure.is_empty() || pending.sums.keys().any(|(_, day)| *day <= closed))
    }

    /// Forgets the totals of tenants that are gone.
    pub(crate) fn keep_totals(&mut self, there: &HashSet<String>) {
        self.totals.retain(|uid, _| there.contains(uid));
    }

    fn put_back(&mut self, uid: String, back: Pending) {
        match self.pending.entry(uid) {
            Entry::Vacant(free) => {
                free.insert(back);
            }
            Entry::Occupied(mut newer) => {
                let newer = newer.get_mut();
                newer.unsure = back.unsure;
                for (key, sum) in back.sums {
                    newer.sums.entry(key).or_default().add(&sum);
                }
                let room = PENDING_COUNT_MAX.saturating_sub(newer.records.len());
                newer.records.splice(0..0, back.records.into_iter().take(room));
            }
        }
    }
}

#[derive(Serialize, Deserialize)]
struct StoredSum {
    plugin: PluginName,
    day: i64,
    sum: UsageSum,
}

/// The stored sums of some days.
pub(crate) async fn days(
    store: &TenantStore,
    range: RangeInclusive<Day>,
) -> Result<BTreeMap<Day, BTreeMap<PluginName, UsageSum>>, StoreError> {
    let mut days: BTreeMap<Day, BTreeMap<PluginName, UsageSum>> = BTreeMap::new();
    let mut after = None;
    loop {
        let page = store.scan(&Key::new(["usage"]), after.as_ref(), 500).await?;
        for (_, record) in &page.records {
            let Ok(row) = serde_json::from_slice::<StoredSum>(&record.value) else { continue };
            let day = Day::from_number(row.day);
            if range.contains(&day) {
                days.entry(day).or_default().entry(row.plugin).or_default().add(&row.sum);
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(days),
        }
    }
}

/// Where the platform keeps the last closed day.
pub(crate) fn closed_key() -> Key {
    Key::new(["usage-closed"])
}

/// Writes everything, a piece at a time. A piece moves from what is collected to what is unsure before it is written: so
/// whatever becomes of the write, the piece is in one place and written again as it is.
async fn write(pending: &mut Pending) -> Result<(), StoreError> {
    loop {
        if !pending.unsure.is_empty() {
            pending.store.batch(pending.unsure.clone(), Vec::new()).await?;
            pending.unsure.clear();
        }
        if pending.records.is_empty() && pending.sums.is_empty() {
            return Ok(());
        }
        let count = pending.records.len().min(RECORDS_PER_WRITE);
        let sums: BTreeMap<(PluginName, Day), UsageSum> =
            pending.sums.iter().take(SUMS_PER_WRITE).map(|(key, sum)| (key.clone(), *sum)).collect();
        pending.unsure = prepare(&pending.store, &sums, pending.records.get(..count).unwrap_or_default()).await?;
        pending.sums.retain(|key, _| !sums.contains_key(key));
        pending.records.drain(..count);
    }
}

/// What has to be written for some sums and records, on top of what the store holds.
async fn prepare(
    store: &TenantStore,
    sums: &BTreeMap<(PluginName, Day), UsageSum>,
    records: &[InvocationRecord],
) -> Result<Vec<Op>, StoreError> {
    let mut ops = Vec::new();
    for ((plugin, day), added) in sums {
        let day = day.number();
        let key = Key::new(["usage", plugin.as_str()]).number(u64::try_from(day).unwrap_or(0));
        let mut row = match store.get_json::<StoredSum>(&key).await? {
            Some(row) => row,
            None => StoredSum { plugin: plugin.clone(), day, sum: UsageSum::default() },
        };
        row.sum.add(added);
        ops.push(Op::put_json(key, &row)?);
    }
    let mut chunks: BTreeMap<&PluginName, Vec<&InvocationRecord>> = BTreeMap::new();
    for record in records {
        chunks.entry(&record.plugin).or_default().push(record);
    }
    for (plugin, chunk) in chunks {
        let mut kept = kept(store, plugin).await?;
        ops.push(Op::put_json(chunk_key(plugin, kept.next), &chunk)?);
        kept.next += 1;
        kept.count += chunk.len() as u64;
        while kept.first < kept.next {
            let key = chunk_key(plugin, kept.first);
            let oldest = store.get_json::<Vec<InvocationRecord>>(&key).await?.map_or(0, |chunk| chunk.len() as u64);
            if kept.count - oldest.min(kept.count) < INVOCATIONS_KEPT_MAX {
                break;
            }
            ops.push(Op::Delete { key });
            kept.first += 1;
            kept.count -= oldest.min(kept.count);
        }
        ops.push(Op::put_json(kept_key(plugin), &kept)?);
    }
    Ok(ops)
}

/// Which chunks of a plugin's records there are.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Kept {
    /// The oldest one's number.
    first: u64,
    /// The number of the one to be written next.
    next: u64,
    /// Records in all of them.
    count: u64,
}

async fn kept(store: &TenantStore, plugin: &PluginName) -> Result<Kept, StoreError> {
    Ok(store.get_json(&kept_key(plugin)).await?.unwrap_or_default())
}

/// The newest chunk with something before a cursor: its number, and its records with their places. None at the end.
async fn chunk_before(
    store: &TenantStore,
    plugin: &PluginName,
    before: u64,
) -> Result<Option<(u64, Vec<(u64, InvocationRecord)>)>, StoreError> {
    let (number, end) = match (before >> PLACE_BITS, before & ((1 << PLACE_BITS) - 1)) {
        (0, 0) => return Ok(None),
        (number, 0) => (number - 1, u64::MAX),
        (number, end) => (number, end),
    };
    let chunk: Option<Vec<InvocationRecord>> = store.get_json(&chunk_key(plugin, number)).await?;
    Ok(chunk.map(|chunk| (number, (0..end).zip(chunk).collect())))
}

fn kept_key(plugin: &PluginName) -> Key {
    Key::new(["invocation", plugin.as_str(), "kept"])
}

fn chunk_key(plugin: &PluginName, number: u64) -> Key {
    Key::new(["invocation", plugin.as_str(), "chunk"]).number(number)
}
