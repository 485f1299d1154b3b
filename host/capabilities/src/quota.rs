//! The quotas of all tenants, in force: one [`Ledger`] a tenant, asked by whoever spends.
//!
//! A change is in force for the next thing that asks. Rates live in memory alone; what was used of a day is kept in the
//! tenant's store every few seconds and at the drain, so a host that is killed forgets at most those seconds of it. Must
//! never make a ledger for a tenant that nobody opened, or a deleted one would come back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use ringfence_core::quota::{DayUse, TokenBucket, add_within};
use ringfence_core::{Clock, Exhausted, Plans, Quota, QuotaChoice, QuotaError, QuotaKind, TenantId};
use ringfence_engine::scheduler::TenantShare;
use ringfence_engine::{AdmitError, Engine, MemoryPool};
use ringfence_store::{Key, StoreError, TenantStore};
use tokio::sync::watch;

use crate::error::CapabilitiesError;

/// How often what was used of a day is written.
const KEEP_EVERY: Duration = Duration::from_secs(3);
const SECONDS_PER_DAY: i64 = 86_400;
const MS_PER_SECOND: u64 = 1_000;

/// The quotas of all tenants. Cheap to clone.
#[derive(Clone)]
pub struct Quotas(Arc<Inner>);

struct Inner {
    plans: Plans,
    clock: Arc<dyn Clock>,
    engine: Engine,
    ledgers: RwLock<HashMap<TenantId, Arc<Ledger>>>,
}

/// One tenant's quota and what it uses of it.
pub struct Ledger {
    clock: Arc<dyn Clock>,
    store: TenantStore,
    quota: ArcSwap<Quota>,
    rates: Mutex<Rates>,
    day: Mutex<Day>,
    memory: Arc<MemoryPool>,
    refused: Refused,
    /// What was refused when somebody was told of it last, in the order of [`QuotaKind::ALL`].
    told: Mutex<[u64; QuotaKind::ALL.len()]>,
}

struct Rates {
    requests: TokenBucket,
    storage_ops: TokenBucket,
}

#[derive(Default)]
struct Day {
    used: DayUse,
    kept: DayUse,
}

#[derive(Default)]
struct Refused {
    requests: AtomicU64,
    concurrency: AtomicU64,
    storage_ops: AtomicU64,
    egress: AtomicU64,
    logs: AtomicU64,
    audit_events: AtomicU64,
    plugins: AtomicU64,
    component_bytes: AtomicU64,
}

/// What a tenant uses now, and what was refused it since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerUse {
    /// Memory of running invocations, bytes.
    pub memory_bytes: u64,
    /// Bytes held in the store.
    pub storage_bytes: u64,
    /// Calls of about the last second.
    pub requests_this_second: u64,
    /// Key-value operations of about the last second.
    pub storage_ops_this_second: u64,
    /// What was used of the day.
    pub day: DayUse,
    /// Calls refused for their rate.
    pub requests_refused_count: u64,
    /// Calls refused because as many ran and waited as may.
    pub concurrency_refused_count: u64,
    /// Growth of memory refused.
    pub memory_refused_count: u64,
    /// Writes refused for want of storage.
    pub storage_refused_count: u64,
    /// Key-value operations refused.
    pub storage_ops_refused_count: u64,
    /// Outgoing requests refused or cut.
    pub egress_refused_count: u64,
    /// Lines of guest log dropped.
    pub log_refused_count: u64,
    /// Events for the audit log refused.
    pub audit_events_refused_count: u64,
    /// Uploads refused for being one plugin too many.
    pub plugins_refused_count: u64,
    /// Uploads refused for the size of their component.
    pub component_bytes_refused_count: u64,
}

// === impl Quotas ===

impl Quotas {
    /// No tenant yet.
    pub fn new(plans: Plans, engine: Engine, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner { plans, clock, engine, ledgers: RwLock::default() }))
    }

    /// What a choice comes to, if it can be made; changes nothing.
    pub fn check(&self, choice: &QuotaChoice) -> Result<Quota, QuotaError> {
        self.0.plans.check(choice)
    }

    /// Opens a tenant's ledger, with what it used of this day before a restart, and puts its quota into force.
    pub async fn open(&self, store: &TenantStore, choice: &QuotaChoice) -> Result<(), CapabilitiesError> {
        let Some(tenant) = store.tenant() else { return Ok(()) };
        let quota = self.0.plans.effective(choice)?;
        let used = store.get_json::<DayUse>(&day_key()).await?.unwrap_or_default();
        let memory = self.0.engine.memory().pool(quota.memory_bytes);
        let ledger = Arc::new(Ledger::new(store.clone(), quota, used, memory, Arc::clone(&self.0.clock)));
        // Before the first that finds the ledger asks for a slot.
        self.enforce(tenant, &quota);
        self.0.ledgers.write().unwrap_or_else(PoisonError::into_inner).insert(tenant.clone(), ledger);
        Ok(())
    }

    /// Puts another choice into force, for everything that asks from now on.
    pub fn change(&self, tenant: &TenantId, choice: &QuotaChoice) -> Result<Quota, QuotaError> {
        let quota = self.0.plans.effective(choice)?;
        if let Some(ledger) = self.of(tenant) {
            ledger.set(quota);
            self.enforce(tenant, &quota);
        }
        Ok(quota)
    }

    /// A tenant's ledger; none for a tenant that is not open.
    pub fn of(&self, tenant: &TenantId) -> Option<Arc<Ledger>> {
        self.0.ledgers.read().unwrap_or_else(PoisonError::into_inner).get(tenant).cloned()
    }

    /// The ledgers of all tenants that are open.
    pub fn all(&self) -> Vec<(TenantId, Arc<Ledger>)> {
        let ledgers = self.0.ledgers.read().unwrap_or_else(PoisonError::into_inner);
        ledgers.iter().map(|(tenant, ledger)| (tenant.clone(), Arc::clone(ledger))).collect()
    }

    /// What was refused since this was asked last: whose, the word of the quota, how often.
    pub fn take_refused(&self) -> Vec<(TenantStore, &'static str, u64)> {
        let ledgers = self.0.ledgers.read().unwrap_or_else(PoisonError::into_inner);
        let refused = |ledger: &Arc<Ledger>| {
            let store = ledger.store.clone();
            ledger.take_refused().into_iter().map(move |(kind, count)| (store.clone(), kind, count))
        };
        ledgers.values().flat_map(refused).collect()
    }

    /// Lets go of a deleted tenant.
    pub fn forget(&self, tenant: &TenantId) {
        self.0.ledgers.write().unwrap_or_else(PoisonError::into_inner).remove(tenant);
    }

    /// Writes what was used of the day every few seconds until `stop` turns true, and once more then.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        loop {
            let stopping = tokio::select! {
                () = tokio::time::sleep(KEEP_EVERY) => false,
                _ = stop.wait_for(|stopping| *stopping) => true,
            };
            self.flush().await;
            if stopping {
                return;
            }
        }
    }

    /// Writes what was used of the day. What cannot be written now is written the next time.
    pub async fn flush(&self) {
        let ledgers: Vec<Arc<Ledger>> =
            self.0.ledgers.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for ledger in ledgers {
            if let Err(error) = ledger.keep().await {
                let tenant = ledger.store.label();
                tracing::warn!(tenant, %error, "what a tenant used today is not written yet");
            }
        }
    }

    fn enforce(&self, tenant: &TenantId, quota: &Quota) {
        let share = TenantShare {
            weight: quota.weight,
            cpu_permille: quota.cpu_permille,
            cpu_burst_us: quota.cpu_burst_us,
            concurrency_count: quota.concurrency_count,
        };
        self.0.engine.scheduler().set_share(tenant, share);
    }
}

// === impl Ledger ===

impl Ledger {
    pub(crate) fn new(
        store: TenantStore,
        quota: Quota,
        used: DayUse,
        memory: Arc<MemoryPool>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let now = clock.monotonic();
        store.set_held_bytes_max(quota.storage_bytes);
        memory.set_weight(quota.weight);
        Self {
            store,
            rates: Mutex::new(Rates {
                requests: TokenBucket::full(quota.requests_per_second, now),
                storage_ops: TokenBucket::full(quota.storage_ops_per_second, now),
            }),
            day: Mutex::new(Day { used, kept: used }),
            memory,
            refused: Refused::default(),
            told: Mutex::default(),
            quota: ArcSwap::from_pointee(quota),
            clock,
        }
    }

    /// The quota in force.
    pub fn quota(&self) -> Quota {
        **self.quota.load()
    }

    /// The memory that the tenant's running invocations share.
    pub fn memory(&self) -> &Arc<MemoryPool> {
        &self.memory
    }

    /// Counts a call.
    pub fn request(&self) -> Result<(), Exhausted> {
        let now = self.clock.monotonic();
        let taken = self.rates().requests.take(1, now);
        taken.map_err(|wait_ms| {
            let max = self.quota.load().requests_per_second;
            self.refuse(QuotaKind::Requests, "requests a second", max, Some(wait_ms))
        })
    }

    /// Counts key-value operations.
    pub(crate) fn storage_ops(&self, count: u64) -> Result<(), Exhausted> {
        let now = self.clock.monotonic();
        let taken = self.rates().storage_ops.take(count, now);
        taken.map_err(|wait_ms| {
            let max = self.quota.load().storage_ops_per_second;
            self.refuse(QuotaKind::StorageOps, "storage operations a second", max, Some(wait_ms))
        })
    }

    /// Counts an outgoing request.
    pub(crate) fn egress_request(&self) -> Result<(), Exhausted> {
        let max = self.quota.load().egress_requests_per_day;
        let fits = self.today(|used| add_within(&mut used.egress_requests_count, 1, max));
        if fits { Ok(()) } else { Err(self.refuse_of_day(QuotaKind::Egress, "outgoing requests a day", max)) }
    }

    /// Counts bytes of a body that goes out or comes back.
    pub(crate) fn egress_bytes(&self, bytes: u64) -> Result<(), Exhausted> {
        let max = self.quota.load().egress_bytes_per_day;
        let fits = self.today(|used| add_within(&mut used.egress_bytes, bytes, max));
        if fits { Ok(()) } else { Err(self.refuse_of_day(QuotaKind::Egress, "bytes of outgoing traffic a day", max)) }
    }

    /// Counts bytes of guest log.
    pub(crate) fn log_bytes(&self, bytes: u64) -> Result<(), Exhausted> {
        let max = self.quota.load().log_bytes_per_day;
        let fits = self.today(|used| add_within(&mut used.log_bytes, bytes, max));
        if fits { Ok(()) } else { Err(self.refuse_of_day(QuotaKind::Logs, "bytes of guest log a day", max)) }
    }

    /// Counts an event of an application for the audit log.
    pub fn audit_event(&self) -> Result<(), Exhausted> {
        let max = self.quota.load().audit_events_per_day;
        let fits = self.today(|used| add_within(&mut used.audit_events_count, 1, max));
        let what = "events on the audit log a day";
        if fits { Ok(()) } else { Err(self.refuse_of_day(QuotaKind::AuditEvents, what, max)) }
    }

    /// Takes back bytes of guest log that were counted and then not written.
    pub(crate) fn unlog_bytes(&self, bytes: u64) {
        self.today(|used| used.log_bytes = used.log_bytes.saturating_sub(bytes));
    }

    /// What is used now.
    pub fn usage(&self) -> Result<LedgerUse, StoreError> {
        let held = self.store.held()?;
        let now = self.clock.monotonic();
        let (requests_this_second, storage_ops_this_second) = {
            let mut rates = self.rates();
            (rates.requests.taken(now), rates.storage_ops.taken(now))
        };
        Ok(LedgerUse {
            memory_bytes: self.memory.bytes(),
            storage_bytes: held.bytes,
            requests_this_second,
            storage_ops_this_second,
            day: self.today(|used| *used),
            requests_refused_count: self.refused_count(QuotaKind::Requests),
            concurrency_refused_count: self.refused_count(QuotaKind::Concurrency),
            memory_refused_count: self.refused_count(QuotaKind::Memory),
            storage_refused_count: held.refused_count,
            storage_ops_refused_count: self.refused_count(QuotaKind::StorageOps),
            egress_refused_count: self.refused_count(QuotaKind::Egress),
            log_refused_count: self.refused_count(QuotaKind::Logs),
            audit_events_refused_count: self.refused_count(QuotaKind::AuditEvents),
            plugins_refused_count: self.refused_count(QuotaKind::Plugins),
            component_bytes_refused_count: self.refused_count(QuotaKind::ComponentBytes),
        })
    }

    /// How often a quota refused something since the start. Cheap: nothing is read.
    pub fn refused_count(&self, kind: QuotaKind) -> u64 {
        match kind {
            QuotaKind::Memory => self.memory.refused_count(),
            QuotaKind::Storage => self.store.held_refused_count(),
            counted => self.refused.of(counted).map_or(0, |counter| counter.load(Ordering::Relaxed)),
        }
    }

    /// Counts an invocation that was not let in, when that is because the tenant has as many as it may have.
    pub fn not_admitted(&self, error: &AdmitError) {
        if matches!(error, AdmitError::TenantBusy { .. } | AdmitError::CallersWait) {
            self.count_refused(QuotaKind::Concurrency);
        }
    }

    /// Counts an upload that a quota refused. What the store refused, it has counted.
    pub fn not_uploaded(&self, over: &Exhausted) {
        self.count_refused(over.kind);
    }

    /// What was refused since this was asked last, by the word of its quota.
    pub(crate) fn take_refused(&self) -> Vec<(&'static str, u64)> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = Vec::new();
        for (kind, told) in QuotaKind::ALL.into_iter().zip(told.iter_mut()) {
            let count = self.refused_count(kind);
            let since = count.saturating_sub(*told);
            *told = count;
            if since > 0 {
                new.push((kind.as_str(), since));
            }
        }
        new
    }

    pub(crate) fn set(&self, quota: Quota) {
        let now = self.clock.monotonic();
        self.quota.store(Arc::new(quota));
        {
            let mut rates = self.rates();
            rates.requests.set_rate(quota.requests_per_second, now);
            rates.storage_ops.set_rate(quota.storage_ops_per_second, now);
        }
        self.memory.resize(quota.memory_bytes);
        self.memory.set_weight(quota.weight);
        self.store.set_held_bytes_max(quota.storage_bytes);
    }

    /// Writes what was used of the day, if it changed.
    async fn keep(&self) -> Result<(), StoreError> {
        let used = {
            let day = self.day();
            if day.used == day.kept {
                return Ok(());
            }
            day.used
        };
        match self.store.put_json(&day_key(), &used).await {
            Ok(_) => self.day().kept = used,
            Err(StoreError::Gone | StoreError::KeyDisabled | StoreError::KeyRefused) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn today<T>(&self, act: impl FnOnce(&mut DayUse) -> T) -> T {
        let today = self.clock.now().as_second().div_euclid(SECONDS_PER_DAY);
        let mut day = self.day();
        day.used.turn(today);
        act(&mut day.used)
    }

    fn refuse_of_day(&self, kind: QuotaKind, what: &'static str, max: u64) -> Exhausted {
        // The end of the day that is counted, which after a step of the clock may be tomorrow.
        let end = self.day().used.day.saturating_add(1).saturating_mul(SECONDS_PER_DAY);
        let left = end.saturating_sub(self.clock.now().as_second());
        let wait_ms = u64::try_from(left).unwrap_or(0).saturating_mul(MS_PER_SECOND);
        self.refuse(kind, what, max, Some(wait_ms))
    }

    fn refuse(&self, kind: QuotaKind, what: &'static str, max: u64, retry_after_ms: Option<u64>) -> Exhausted {
        self.count_refused(kind);
        Exhausted { kind, what, max, retry_after_ms }
    }

    fn count_refused(&self, kind: QuotaKind) {
        if let Some(counter) = self.refused.of(kind) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn rates(&self) -> MutexGuard<'_, Rates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn day(&self) -> MutexGuard<'_, Day> {
        self.day.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Refused ===

impl Refused {
    /// Where refusals of a kind are counted here; none for those that the pool and the store count themselves.
    fn of(&self, kind: QuotaKind) -> Option<&AtomicU64> {
        match kind {
            QuotaKind::Requests => Some(&self.requests),
            QuotaKind::Concurrency => Some(&self.concurrency),
            QuotaKind::StorageOps => Some(&self.storage_ops),
            QuotaKind::Egress => Some(&self.egress),
            QuotaKind::Logs => Some(&self.logs),
            QuotaKind::AuditEvents => Some(&self.audit_events),
            QuotaKind::Plugins => Some(&self.plugins),
            QuotaKind::ComponentBytes => Some(&self.component_bytes),
            QuotaKind::Memory | QuotaKind::Storage => None,
        }
    }
}

fn day_key() -> Key {
    Key::new(["quota", "day"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rig;

    #[tokio::test]
    async fn a_clock_that_was_a_year_ahead_costs_a_tenant_one_day_and_the_wait_it_is_told_is_true() {
        let rig = Rig::new(&[]).await;
        rig.ledger.set(Quota { audit_events_per_day: 1, ..Quota::STANDARD });
        let refused_for = || {
            let seconds = rig.ledger.audit_event().err()?.retry_after_ms? / MS_PER_SECOND;
            i64::try_from(seconds).ok()
        };
        // The clock begins a minute after midnight.
        rig.pass(365 * SECONDS_PER_DAY);
        assert_eq!(refused_for(), None);
        rig.pass(-364 * SECONDS_PER_DAY);
        assert_eq!(refused_for(), Some(SECONDS_PER_DAY - 60), "nothing is given twice, and midnight is near");
        rig.pass(SECONDS_PER_DAY - 61);
        assert_eq!(refused_for(), Some(1));
        rig.pass(1);
        assert_eq!(refused_for(), None, "a new day");
        rig.pass(-60);
        assert_eq!(refused_for(), Some(SECONDS_PER_DAY + 60), "a small step back stays in the day that was begun");
    }
}
