//! Invocation records and metering: what every invocation did and spent, kept sealed in the tenant's own store.
//!
//! Recording never waits for the disk: rows are collected in memory and written once a second and at the drain. A host
//! that is killed loses at most that second of records (never an audit entry of a refusal, which is durable on its own).
//! Must never take a name from a guest: plugins and versions come from the registry.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use ringfence_core::{Clock, InvocationId, PluginName, TenantId, Usage};
use ringfence_store::{Key, Op, StoreError, TenantStore};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Most records kept for a plugin; older ones go first.
pub const INVOCATIONS_KEPT_MAX: u64 = 2_000;
/// Most records collected between two writes, for one tenant; more are counted in metering and not kept one by one.
const PENDING_COUNT_MAX: usize = 5_000;
/// LIMIT: records written in one batch; each takes up to four operations, and the store takes 1,000.
const RECORDS_PER_WRITE: usize = 150;
/// LIMIT: sums written in one batch.
const SUMS_PER_WRITE: usize = 100;
/// How often collected records are written.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

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
    /// Status of the answer.
    pub status: u16,
    /// Why it failed; none for the guest's own answers.
    pub code: Option<String>,
    /// What went wrong, for the plugin's owner.
    pub detail: Option<String>,
    /// What it spent.
    pub usage: Usage,
}

/// Sums of one plugin over one UTC day.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UsageSum {
    /// Invocations.
    pub invocations_count: u64,
    /// Of these, answers that were not the guest's own.
    pub failures_count: u64,
    /// CPU time, microseconds.
    pub cpu_us: u64,
    /// Wall time, microseconds.
    pub wall_us: u64,
    /// Highest memory of one invocation, bytes.
    pub memory_bytes_peak: u64,
    /// Bytes answered.
    pub response_bytes: u64,
    /// Host calls.
    pub host_calls_count: u64,
    /// Outgoing requests.
    pub outgoing_count: u64,
}

impl UsageSum {
    fn add_record(&mut self, record: &InvocationRecord) {
        self.add(&Self {
            invocations_count: 1,
            failures_count: u64::from(record.code.is_some()),
            cpu_us: record.usage.cpu_us,
            wall_us: record.usage.wall_us,
            memory_bytes_peak: record.usage.memory_bytes_peak,
            response_bytes: record.usage.response_bytes,
            host_calls_count: record.usage.host_calls_count,
            outgoing_count: record.usage.outgoing_count,
        });
    }

    /// Adds another sum; peaks take the higher.
    pub fn add(&mut self, other: &Self) {
        self.invocations_count += other.invocations_count;
        self.failures_count += other.failures_count;
        self.cpu_us += other.cpu_us;
        self.wall_us += other.wall_us;
        self.memory_bytes_peak = self.memory_bytes_peak.max(other.memory_bytes_peak);
        self.response_bytes += other.response_bytes;
        self.host_calls_count += other.host_calls_count;
        self.outgoing_count += other.outgoing_count;
    }
}

/// Collects invocation records and writes them. Cheap to clone.
#[derive(Clone)]
pub struct Metering(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    pending: Mutex<HashMap<TenantId, Pending>>,
    writing: tokio::sync::Mutex<()>,
}

struct Pending {
    store: TenantStore,
    records: Vec<InvocationRecord>,
    sums: BTreeMap<(PluginName, i64), UsageSum>,
}

impl Metering {
    /// Nothing recorded yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner { clock, pending: Mutex::default(), writing: tokio::sync::Mutex::default() }))
    }

    /// Records one invocation. Does not wait.
    pub fn record(&self, store: &TenantStore, record: InvocationRecord) {
        let Some(tenant) = store.tenant() else { return };
        let day = day_of(record.at);
        let mut pending = self.0.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let pending = pending.entry(tenant.clone()).or_insert_with(|| Pending {
            store: store.clone(),
            records: Vec::new(),
            sums: BTreeMap::new(),
        });
        pending.sums.entry((record.plugin.clone(), day)).or_default().add_record(&record);
        if pending.records.len() < PENDING_COUNT_MAX {
            pending.records.push(record);
        }
    }

    /// Writes collected records once a second until `stop` turns true, and once more then.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        loop {
            let stopping = tokio::select! {
                () = tokio::time::sleep(FLUSH_EVERY) => false,
                _ = stop.wait_for(|stopping| *stopping) => true,
            };
            self.flush().await;
            if stopping {
                return;
            }
        }
    }

    /// Writes everything collected so far. What cannot be written now stays collected for the next time.
    pub async fn flush(&self) {
        let _one_at_a_time = self.0.writing.lock().await;
        let taken = std::mem::take(&mut *self.0.pending.lock().unwrap_or_else(PoisonError::into_inner));
        for (tenant, mut pending) in taken {
            match write(&mut pending).await {
                Ok(()) | Err(StoreError::Gone) => {}
                Err(error) => {
                    tracing::warn!(%tenant, %error, "invocation records are not written yet");
                    self.put_back(tenant, pending);
                }
            }
        }
    }

    fn put_back(&self, tenant: TenantId, back: Pending) {
        let mut pending = self.0.pending.lock().unwrap_or_else(PoisonError::into_inner);
        match pending.entry(tenant) {
            std::collections::hash_map::Entry::Vacant(slot) => {
                slot.insert(back);
            }
            std::collections::hash_map::Entry::Occupied(mut slot) => {
                let newer = slot.get_mut();
                for (key, sum) in back.sums {
                    newer.sums.entry(key).or_default().add(&sum);
                }
                let room = PENDING_COUNT_MAX.saturating_sub(newer.records.len());
                newer.records.splice(0..0, back.records.into_iter().take(room));
            }
        }
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
        let end = match before {
            Some(before) => before,
            None => next_number(store, plugin).await?,
        };
        let mut records = Vec::new();
        let mut at = end;
        while at > 0 && records.len() < limit {
            at -= 1;
            match store.get_json::<InvocationRecord>(&record_key(plugin, at)).await? {
                Some(record) => records.push(record),
                None => return Ok((records, None)),
            }
        }
        Ok((records, (at > 0).then_some(at)))
    }

    /// One record, by id.
    pub async fn invocation(
        &self,
        store: &TenantStore,
        plugin: &PluginName,
        id: &InvocationId,
    ) -> Result<Option<InvocationRecord>, StoreError> {
        self.flush().await;
        let Some(number) = store.get_json::<u64>(&id_key(plugin, id)).await? else { return Ok(None) };
        store.get_json(&record_key(plugin, number)).await
    }

    /// Sums by plugin of the UTC days that `from..=to` touches.
    pub async fn usage(
        &self,
        store: &TenantStore,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<BTreeMap<PluginName, UsageSum>, StoreError> {
        self.flush().await;
        let days = day_of(from)..=day_of(to);
        let mut sums: BTreeMap<PluginName, UsageSum> = BTreeMap::new();
        let mut after = None;
        loop {
            let page = store.scan(&Key::new(["usage"]), after.as_ref(), 500).await?;
            for (_, record) in &page.records {
                let Ok(row) = serde_json::from_slice::<StoredSum>(&record.value) else { continue };
                if days.contains(&row.day) {
                    sums.entry(row.plugin).or_default().add(&row.sum);
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(sums),
            }
        }
    }

    /// The clock records are stamped with.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }
}

#[derive(Serialize, Deserialize)]
struct StoredSum {
    plugin: PluginName,
    day: i64,
    sum: UsageSum,
}

/// Writes everything, a piece at a time: what is durable is taken out, so that a later failure puts back only the rest.
async fn write(pending: &mut Pending) -> Result<(), StoreError> {
    loop {
        let count = pending.records.len().min(RECORDS_PER_WRITE);
        let sums: BTreeMap<(PluginName, i64), UsageSum> =
            pending.sums.iter().take(SUMS_PER_WRITE).map(|(key, sum)| (key.clone(), sum.clone())).collect();
        write_some(&pending.store, &sums, pending.records.get(..count).unwrap_or_default()).await?;
        pending.sums.retain(|key, _| !sums.contains_key(key));
        pending.records.drain(..count);
        if pending.records.is_empty() && pending.sums.is_empty() {
            return Ok(());
        }
    }
}

async fn write_some(
    store: &TenantStore,
    sums: &BTreeMap<(PluginName, i64), UsageSum>,
    records: &[InvocationRecord],
) -> Result<(), StoreError> {
    let mut ops = Vec::new();
    for ((plugin, day), added) in sums {
        let key = Key::new(["usage", plugin.as_str()]).number(u64::try_from(*day).unwrap_or(0));
        let mut row = match store.get_json::<StoredSum>(&key).await? {
            Some(row) => row,
            None => StoredSum { plugin: plugin.clone(), day: *day, sum: UsageSum::default() },
        };
        row.sum.add(added);
        ops.push(put(key, &row)?);
    }
    let mut numbers: HashMap<&PluginName, u64> = HashMap::new();
    for record in records {
        let plugin = &record.plugin;
        let number = match numbers.get(plugin) {
            Some(number) => *number,
            None => next_number(store, plugin).await?,
        };
        numbers.insert(plugin, number + 1);
        ops.push(put(record_key(plugin, number), record)?);
        ops.push(put(id_key(plugin, &record.id), &number)?);
        if let Some(old) = number.checked_sub(INVOCATIONS_KEPT_MAX) {
            if let Some(old_record) = store.get_json::<InvocationRecord>(&record_key(plugin, old)).await? {
                ops.push(Op::Delete { key: id_key(plugin, &old_record.id) });
            }
            ops.push(Op::Delete { key: record_key(plugin, old) });
        }
    }
    for (plugin, number) in numbers {
        ops.push(put(next_key(plugin), &number)?);
    }
    store.batch(ops, Vec::new()).await.map(|_| ())
}

fn put<T: Serialize>(key: Key, value: &T) -> Result<Op, StoreError> {
    Ok(Op::Put { key, value: serde_json::to_vec(value).map_err(StoreError::Form)? })
}

async fn next_number(store: &TenantStore, plugin: &PluginName) -> Result<u64, StoreError> {
    Ok(store.get_json::<u64>(&next_key(plugin)).await?.unwrap_or(0))
}

fn next_key(plugin: &PluginName) -> Key {
    Key::new(["invocation", plugin.as_str(), "next"])
}

fn record_key(plugin: &PluginName, number: u64) -> Key {
    Key::new(["invocation", plugin.as_str(), "record"]).number(number)
}

fn id_key(plugin: &PluginName, id: &InvocationId) -> Key {
    Key::new(["invocation", plugin.as_str(), "id", id.as_str()])
}

fn day_of(at: Timestamp) -> i64 {
    at.as_second().div_euclid(86_400)
}
