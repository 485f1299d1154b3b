//! What backups do behind the endpoints and the schedule: make, restore, rehearse, keep some and remove the rest.
//!
//! Must never serve a tenant while it is being replaced, and never remove a backup that one worth keeping builds on.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::civil::ISOWeekDate;
use jiff::tz::TimeZone;
use ringfence_audit::verify::{Claim, verify_claim};
use ringfence_audit::{Beginning, Event, Log, Outcome, codes, stored_beginning};
use ringfence_core::{BackupId, QuotaChoice, TenantId};
use ringfence_policy::{Policy, PolicyError, Standing, StoredPolicy, Unfit};
use ringfence_registry::RegistryError;
use ringfence_store::backup::{
    BackupError, DrillFailed, Drilled, GuestLogs, Keyring, Order, Reason, Restored, Source, Stored,
};
use ringfence_store::{Key, StoreError, TenantRecord, TenantState, TenantStore};
use ringfence_threat::Scope;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::{OwnedMutexGuard, watch};

use crate::Control;
use crate::policies::moved;
use crate::problem::ApiError;

/// How often the schedule is looked at.
const LOOK_SECONDS: u64 = 1;
/// LIMIT: backups that build on each other before a full one is made.
const CHAIN_COUNT_MAX: usize = 32;
/// Years of a log looked at.
const SHARDS_COUNT: usize = 1_000;
/// Audit entries read at a time.
const ENTRIES_COUNT: usize = 500;

/// When backups are made, and which are kept.
#[derive(Debug, Clone)]
pub struct BackupPlan {
    /// Between two backups of a tenant; none for no schedule.
    pub every: Option<Duration>,
    /// Each so many scheduled backups a full one; 1 for full ones only.
    pub full_every_count: usize,
    /// Of so many days the newest scheduled backup is kept.
    pub keep_daily_count: usize,
    /// And of so many weeks.
    pub keep_weekly_count: usize,
    /// Whether guest logs go in.
    pub guest_logs: GuestLogs,
}

/// Whether everything goes into a backup, or what changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Full,
    Incremental,
}

/// Why what is stored of a tenant is not in force.
enum NotLoaded {
    /// A text of its does not fit: everything else may be well.
    Unfit(Unfit),
    Other(ApiError),
}

/// A tenant whose records a restore has put in their places, and that is not in force. Nobody changes it before it is shut.
#[must_use = "a tenant that is not in force is shut"]
pub(crate) struct Stranded {
    why: String,
    _one: OwnedMutexGuard<()>,
    _restoring: BeingRestored,
}

/// What a restore into a new tenant found before anybody could reach it.
struct Prepared {
    /// Texts that were moved to the new name.
    moved_count: u64,
    /// What cannot be put into force.
    unfit: Option<Unfit>,
}

/// How the schedule is doing, for the operator.
#[derive(Debug, Default)]
pub(crate) struct BackupHealth(Mutex<BTreeSet<TenantId>>);

/// The tenants that are being put back to a backup, by their unique ids: nothing of them is begun meanwhile. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Restoring(Arc<Mutex<BTreeSet<String>>>);

/// One of them, until this is dropped.
struct BeingRestored(Restoring, String);

// === impl Restoring ===

impl Restoring {
    pub(crate) fn has(&self, uid: &str) -> bool {
        self.lock().contains(uid)
    }

    /// Refused while it is being put back already.
    fn begin(&self, uid: String) -> Result<BeingRestored, ApiError> {
        if !self.lock().insert(uid.clone()) {
            return Err(ApiError::restore_unfinished());
        }
        Ok(BeingRestored(self.clone(), uid))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for BeingRestored {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

// === impl NotLoaded ===

impl From<Unfit> for NotLoaded {
    fn from(unfit: Unfit) -> Self {
        Self::Unfit(unfit)
    }
}

impl From<StoreError> for NotLoaded {
    fn from(error: StoreError) -> Self {
        Self::Other(error.into())
    }
}

impl From<BackupError> for NotLoaded {
    fn from(error: BackupError) -> Self {
        Self::Other(error.into())
    }
}

impl From<RegistryError> for NotLoaded {
    fn from(error: RegistryError) -> Self {
        Self::Other(error.into())
    }
}

impl From<NotLoaded> for ApiError {
    fn from(not: NotLoaded) -> Self {
        match not {
            NotLoaded::Unfit(unfit) => Self::new("bad-policy", unfit.to_string()),
            NotLoaded::Other(error) => error,
        }
    }
}

// === impl BackupHealth ===

impl BackupHealth {
    /// Tenants whose last scheduled backup failed.
    pub(crate) fn failing_count(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    fn set(&self, tenant: &TenantId, failed: Result<(), ()>) {
        let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match failed {
            Err(()) => drop(failing.insert(tenant.clone())),
            Ok(()) => drop(failing.remove(tenant)),
        }
    }

    fn keep(&self, there: &[TenantRecord]) {
        let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failing.retain(|tenant| there.iter().any(|record| record.id == *tenant));
    }
}

// === impl Control ===

impl Control {
    /// Makes the backups that are due and removes those that are not to be kept, until told to stop.
    pub async fn run_backups(self, mut stopping: watch::Receiver<bool>) {
        let Some(every) = self.parts.backup_plan.every else { return };
        let mut failed_at = std::collections::BTreeMap::new();
        loop {
            tokio::select! {
                _ = stopping.changed() => return,
                () = tokio::time::sleep(Duration::from_secs(LOOK_SECONDS)) => {}
            }
            let Ok(records) = self.parts.tenants.list().await else { continue };
            self.backup_health.keep(&records);
            for record in records {
                if *stopping.borrow() {
                    return;
                }
                let now = self.parts.clock.monotonic();
                // Not at once again after a failure: the disk may be full, and trying is work.
                if failed_at
                    .get(&record.uid)
                    .is_some_and(|at| now.saturating_sub(*at) < every.min(Duration::from_secs(300)))
                {
                    continue;
                }
                match self.scheduled(&record, every).await {
                    Ok(()) => {
                        failed_at.remove(&record.uid);
                        self.backup_health.set(&record.id, Ok(()));
                    }
                    Err(error) => {
                        tracing::error!(tenant = %record.id, code = error.code, detail = error.detail, "a scheduled backup failed");
                        failed_at.insert(record.uid.clone(), now);
                        self.backup_health.set(&record.id, Err(()));
                    }
                }
            }
        }
    }

    /// Makes a backup of a tenant, on top of the newest when it is not to be a full one.
    pub(crate) async fn back_up(
        &self,
        tenant: &TenantId,
        store: &TenantStore,
        kind: Kind,
        reason: Reason,
    ) -> Result<Stored, ApiError> {
        let record = self.parts.tenants.record(tenant).await?.ok_or_else(ApiError::not_found)?;
        let all = self.parts.archives.list(store).await?;
        let parent = match kind {
            Kind::Full => None,
            Kind::Incremental => all.first().filter(|newest| depth(&all, newest) < CHAIN_COUNT_MAX),
        };
        let log = Log::Tenant(store.clone());
        // Taken before the snapshot, so that the entries it covers are in it.
        let checkpoint = self.parts.audit.checkpoint(&log).await?;
        let order = Order {
            tenant: tenant.clone(),
            display_name: record.display_name,
            host: self.parts.audit.origin(&Log::Host),
            parent: parent.map(|parent| parent.backup.clone()),
            reason,
            guest_logs: self.parts.backup_plan.guest_logs,
            audit_checkpoint: checkpoint.text,
            audit_vkey: self.parts.audit.vkey(&log),
        };
        Ok(self.parts.archives.create(store, &order).await?)
    }

    /// Puts a tenant back to a backup. Nothing of it runs meanwhile; its audit log, metering and API keys stay. Where its records
    /// are in their places and it is not in force it is `stranded`, and then shut by the caller, once its log has what came of it.
    pub(crate) async fn restore_in_place(
        &self,
        id: &TenantId,
        store: &TenantStore,
        source: &Source,
        stranded: &mut Option<Stranded>,
    ) -> Result<Restored, ApiError> {
        self.parts.archives.prepare_restore(store, source).await?;
        // Only while it begins, and while it ends: the other changes of this tenant wait for this lock.
        let one = self.changing.of(id.clone()).await;
        self.check_still_there(id, store)?;
        let restoring = self.restoring.begin(store.uid())?;
        // Before a start can find it announced: whatever fails then, nobody writes what that start would roll back.
        self.parts.policy.set_standing(id, Standing::Suspended)?;
        self.parts.engine.scheduler().suspend(id);
        self.parts.engine.forget_idle(id);
        self.parts.automation.close_tenant(store).await;
        if let Err(error) = self.parts.archives.announce_restore(&self.parts.tenants, store, source).await {
            drop(restoring);
            // Still active, it was refused for certain, and goes on.
            if store.state() == TenantState::Active {
                self.parts.policy.set_standing(id, Standing::Active)?;
                self.parts.engine.scheduler().resume(id);
                self.tenant_works(id).await;
            }
            return Err(error.into());
        }
        drop(one);
        // When it fails, half may be written: the tenant stays shut, and the next start carries on.
        let restored = self.parts.archives.restore_in_place(store, source).await?;
        let one = self.changing.of(id.clone()).await;
        self.check_still_there(id, store)?;
        if let Err(error) = self.end_restore(id, store).await {
            // What finds attacks must not be what was before the restore, however much of the rest is.
            self.reload_detection(id).await;
            let why = match &error {
                NotLoaded::Unfit(unfit) => unfit.to_string(),
                NotLoaded::Other(error) => format!("what was restored could not be read ({})", error.code),
            };
            *stranded = Some(Stranded { why, _one: one, _restoring: restoring });
            return Err(error.into());
        }
        self.tenant_replaced(id, store).await;
        drop(restoring);
        Ok(restored)
    }

    /// Lets a tenant be what it was before a restore, with what that put in its place.
    async fn end_restore(&self, id: &TenantId, store: &TenantStore) -> Result<(), NotLoaded> {
        // Not what it was before: an operator may have suspended it meanwhile.
        let state = self.parts.archives.state_after(store).await?;
        self.parts.tenants.set_state(id, state).await?;
        self.parts.archives.finish_restore(store).await?;
        self.load(id, store).await?;
        if state == TenantState::Active {
            self.parts.engine.scheduler().resume(id);
        }
        Ok(())
    }

    /// Locks a tenant that a restore left stranded, as a start would, whatever was in the way: a disk may be well again, and then
    /// whoever enables its keys has it read.
    pub(crate) async fn shut_stranded(&self, id: &TenantId, store: &TenantStore, stranded: Stranded) {
        let state = store.state();
        self.shut_unfit(id, state, &stranded.why);
        self.unload(id, store, state).await;
    }

    /// Refuses when a tenant was deleted, also when another has its name by now.
    fn check_still_there(&self, id: &TenantId, store: &TenantStore) -> Result<(), ApiError> {
        let now = self.parts.tenants.open_tenant(id).map(|now| now.uid());
        if now.is_some_and(|uid| uid == store.uid()) { Ok(()) } else { Err(ApiError::not_found()) }
    }

    /// Restores a backup into a new tenant, which is there once it is whole. What names the old tenant in what decides names the
    /// new one. Whatever fails leaves nothing; only where a text does not fit this host any more the tenant is there, so that
    /// nothing of it is lost, and locked until an operator mends it.
    pub(crate) async fn restore_new(
        &self,
        source: &Source,
        into: &TenantId,
        quota: QuotaChoice,
    ) -> Result<Value, ApiError> {
        Policy::check_name(into)?;
        let held_bytes_max = self.parts.quotas.check(&quota)?.storage_bytes;
        let staged = self.parts.archives.restore_new(&self.parts.tenants, source, into, held_bytes_max).await?;
        let (restored, name) = (staged.restored.clone(), staged.manifest.display_name.clone());
        let from = staged.manifest.tenant.clone();
        let Prepared { moved_count, unfit } = match self.prepare_new(staged.store(), &from, into).await {
            Ok(prepared) => prepared,
            Err(error) => {
                staged.discard().await?;
                return Err(error);
            }
        };
        let failed = {
            let _one = self.changing.of(into.clone()).await;
            let record = staged.publish(&name, quota).await?;
            match self.open_restored(&record, unfit.as_ref()).await {
                Ok(()) => {
                    let locked = unfit.map(|unfit| unfit.to_string());
                    let restored = json!({
                        "tenant": into, "from": from, "restored": restored, "renamed_count": moved_count, "locked": locked,
                    });
                    return Ok(restored);
                }
                Err(failed) => {
                    self.begin_to_take_away(into).await;
                    failed
                }
            }
        };
        // Not under the lock: a provider that does not answer takes its time. The name stays taken until it is over.
        if let Err(error) = self.parts.tenants.carry_on_deletion(into).await {
            tracing::error!(tenant = %into, %error, "a half-restored tenant is not taken away yet; it is carried on");
        }
        Err(failed)
    }

    /// Moves what a restored tenant brought to its new name, and looks at what is to come into force. For a tenant that nobody can
    /// reach yet.
    async fn prepare_new(&self, store: &TenantStore, from: &TenantId, into: &TenantId) -> Result<Prepared, ApiError> {
        let moved_count = moved::policies(store, from, into).await?;
        self.parts.registry.check(store).await?;
        let stored = crate::stored_policy(store).await?;
        let unfit = self.unfit(into, stored).await?;
        Ok(Prepared { moved_count, unfit })
    }

    /// What of a tenant's texts would not come into force under a name.
    async fn unfit(&self, id: &TenantId, stored: StoredPolicy) -> Result<Option<Unfit>, ApiError> {
        let (policy, id) = (self.parts.policy.clone(), id.clone());
        let checked = tokio::task::spawn_blocking(move || policy.check_stored(&id, &stored)).await;
        Ok(checked.map_err(|error| ApiError::host(&error))?.err())
    }

    /// Puts a tenant that was restored under a new name into force, or shuts it. For who holds the turn to change it.
    async fn open_restored(&self, record: &TenantRecord, unfit: Option<&Unfit>) -> Result<(), ApiError> {
        let id = &record.id;
        if let Some(unfit) = unfit {
            self.shut_unfit(id, record.state, unfit);
            return Ok(());
        }
        let store = self.parts.tenants.open_tenant(id).ok_or_else(ApiError::not_found)?;
        self.load(id, &store).await?;
        // After the routes: where there is a ledger, a plugin without one is not there.
        self.parts.quotas.open(&store, &record.quota).await?;
        self.tenant_replaced(id, &store).await;
        Ok(())
    }

    /// Locks a tenant that cannot be put into force, as a start would. Its operators go on reaching it.
    fn shut_unfit(&self, id: &TenantId, state: TenantState, unfit: &dyn fmt::Display) {
        self.parts.tenants.shut_unfit(id, unfit);
        if let Err(error) = self.parts.policy.put_into_force(id, standing(state), StoredPolicy::default()) {
            tracing::error!(tenant = %id, %error, "a tenant that is locked is not known to its operators");
        }
    }

    /// Lets go of what was loaded of a tenant that was just locked, as a start leaves it. SECURITY: neither a route nor a ledger is
    /// there until it is read, so that nobody who opens its keys has its plugins called without its own rules.
    async fn unload(&self, id: &TenantId, store: &TenantStore, state: TenantState) {
        self.parts.registry.forget(id).await;
        self.parts.quotas.forget(id);
        let scheduler = self.parts.engine.scheduler();
        scheduler.lock(id);
        // Suspended is what an operator suspended: the restore had shut it out as well.
        if state == TenantState::Active {
            scheduler.resume(id);
        }
        self.parts.engine.forget_idle(id);
        self.parts.outward.forget(&Scope::Tenant(id.clone()));
        self.parts.workflows.read_anew(store);
    }

    /// What a restore would trip over, in words; none when it would go through. For what was restored where nobody sees it.
    async fn trips_over(&self, scratch: &TenantStore, of: &TenantId) -> Result<Option<String>, ApiError> {
        match self.parts.registry.check(scratch).await {
            Ok(()) => {}
            Err(RegistryError::Damaged | RegistryError::VersionNotFound { .. }) => {
                return Ok(Some("what is stored of its plugins and routes cannot be put into force".to_owned()));
            }
            Err(error) => return Err(error.into()),
        }
        let stored = crate::stored_policy(scratch).await?;
        // In its own place, and under another name.
        let other = stand_in(of);
        for (id, stored) in [(of, stored.clone()), (&other, stored.moved(of, &other))] {
            if let Some(unfit) = self.unfit(id, stored).await? {
                return Ok(Some(unfit.to_string()));
            }
        }
        Ok(None)
    }

    /// Rehearses a restore, and writes down beside the backup how it went: a failure stands until a drill succeeds.
    pub(crate) async fn rehearse(&self, store: &TenantStore, backup: &BackupId) -> Result<Stored, ApiError> {
        let archives = &self.parts.archives;
        match self.rehearsed(store, backup).await {
            Ok(drilled) => Ok(archives.drilled(store, backup, drilled).await?),
            Err(error) => {
                let failed = DrillFailed { at: self.parts.clock.now(), what: error.detail.clone() };
                if let Err(unwritten) = archives.drill_failed(store, backup, failed).await {
                    tracing::error!(%backup, error = %unwritten, "that a drill failed cannot be written down");
                }
                Err(error)
            }
        }
    }

    /// Restores a backup where nobody sees it, compares it, checks the audit log in it, and destroys it.
    async fn rehearsed(&self, store: &TenantStore, backup: &BackupId) -> Result<Drilled, ApiError> {
        let source = Source { tenant_uid: store.uid(), backup: backup.clone(), keyring: Keyring::of(store).await? };
        let (staged, drilled): (_, Drilled) = self.parts.archives.rehearse(&self.parts.tenants, &source).await?;
        let origin = self.parts.audit.origin(&Log::Tenant(store.clone()));
        let (scratch, manifest) = (staged.store().clone(), staged.manifest.clone());
        let trips_over = self.trips_over(&scratch, &manifest.tenant).await;
        let keys = self.parts.audit.keys(&Log::Tenant(store.clone())).await?;
        let checked = tokio::task::spawn_blocking(move || {
            let size = manifest.audit_checkpoint.lines().nth(1).and_then(|line| line.parse().ok()).unwrap_or(u64::MAX);
            // The key of its time, if it is one of ours.
            let ours = std::iter::once(&keys.vkey).chain(&keys.before).find(|known| **known == manifest.audit_vkey);
            let vkey = ours.unwrap_or(&keys.vkey);
            let beginning = beginning_of(&scratch, &source.tenant_uid);
            let next = beginning.as_ref().map_or(0, |beginning| beginning.size);
            let entries = Entries { store: scratch, uid: source.tenant_uid, next, size, page: Vec::new().into_iter() };
            let claim = Claim {
                beginning: beginning.as_ref(),
                threads_count_max: 1,
                ..Claim::new(&origin, vkey, &manifest.audit_checkpoint)
            };
            verify_claim(&claim, entries)
        })
        .await;
        staged.discard().await?;
        if let Some(what) = trips_over? {
            let text = format!("what was restored would leave its tenant locked: {what}");
            return Err(ApiError::new("drill-failed", text));
        }
        match checked {
            Ok(Ok(_)) => Ok(drilled),
            Ok(Err(fault)) => {
                tracing::error!(%fault, "the audit log in a backup does not verify");
                Err(BackupError::Differs { what: "the audit log in it, which does not verify" }.into())
            }
            Err(error) => Err(ApiError::host(&error)),
        }
    }

    /// Reads a tenant that could not be read at the start. Whether it is read by then: not while its keys are closed. When it
    /// fails, the tenant stays unread.
    pub(crate) async fn read_tenant(&self, id: &TenantId) -> Result<bool, ApiError> {
        let _one = self.changing.of(id.clone()).await;
        let Some(store) = self.parts.tenants.open_readable(id) else { return Ok(false) };
        // Somebody may have read it while this one waited.
        if !self.parts.tenants.is_unread(id) {
            return Ok(true);
        }
        if self.restoring.has(&store.uid()) {
            return Ok(false);
        }
        let record = self.parts.tenants.record(id).await?.ok_or_else(ApiError::not_found)?;
        // Of one that is active all of a restore is written, or nothing: a start must not do it once more, over what comes now.
        if record.state == TenantState::Active && self.parts.archives.is_restoring(&store).await? {
            self.parts.archives.finish_restore(&store).await?;
        }
        self.parts.identity.reload(id).await?;
        self.load(id, &store).await?;
        // After the routes: where there is a ledger, a plugin without one is not there.
        self.parts.quotas.open(&store, &record.quota).await?;
        // Not as one that was replaced: what opened with the keys is under way, and would be begun a second time.
        self.tenant_works(id).await;
        self.parts.tenants.note_read(id);
        Ok(true)
    }

    /// Puts into force what a restored tenant's records say.
    async fn load(&self, id: &TenantId, store: &TenantStore) -> Result<(), NotLoaded> {
        // Before the routes, with which calls begin.
        self.reload_host_calls(store).await;
        let stored = crate::stored_policy(store).await?;
        // A backup brings back what was in force, and what was would not always be set now: the tenant's data is worth more than
        // who may change its policy, and another backup undoes it.
        if let Some(text) = stored.text.clone() {
            let (policy, tenant) = (self.parts.policy.clone(), id.clone());
            let judged = tokio::task::spawn_blocking(move || policy.check_tenant_policy(&tenant, &text)).await;
            if let Ok(Err(error @ PolicyError::LocksOut { .. })) = judged {
                tracing::warn!(tenant = %id, %error, "a tenant's stored policy is put into force, and could not be set now");
            }
        }
        self.parts.policy.put_into_force(id, standing(store.state()), stored)?;
        self.parts.registry.reload(store).await?;
        Ok(())
    }

    async fn scheduled(&self, record: &TenantRecord, every: Duration) -> Result<(), ApiError> {
        let Some(store) = self.parts.tenants.open_tenant(&record.id) else { return Ok(()) };
        let all = self.parts.archives.list(&store).await?;
        let now = self.parts.clock.now();
        let newest = all.iter().find(|stored| stored.reason == Reason::Scheduled);
        if newest.is_some_and(|newest| now.duration_since(newest.created_at).unsigned_abs() < every) {
            return Ok(());
        }
        let plan = &self.parts.backup_plan;
        let since_full = all.iter().filter(|stored| stored.reason == Reason::Scheduled);
        let kind = match since_full.take_while(|stored| stored.parent.is_some()).count() + 1 {
            count if count >= plan.full_every_count || newest.is_none() => Kind::Full,
            _ => Kind::Incremental,
        };
        let log = Log::Tenant(store.clone());
        let event = Event::new(
            codes::BACKUP_CREATED,
            "write-backup",
            self.parts.audit.actor(),
            format!("tenant/{}", record.id),
        );
        let intent = self.parts.audit.intent(&log, event).await?;
        let made = self.back_up(&record.id, &store, kind, Reason::Scheduled).await;
        let (outcome, details) = match &made {
            Ok(made) => {
                (Outcome::Success, json!({ "damaged_count": made.damaged_count, "lost_count": made.lost_count }))
            }
            Err(error) => (Outcome::Failure(error.code.to_owned()), Value::Null),
        };
        intent.outcome(outcome, details).await?;
        // As long as something is damaged, an older backup that lacks nothing may be the last that has it.
        let whole = if made?.damaged_count > 0 { Whole::Kept } else { Whole::Thinned };
        let all = self.parts.archives.list(&store).await?;
        for id in surplus(&all, plan.keep_daily_count, plan.keep_weekly_count, whole) {
            self.parts.archives.delete(&store, &id).await?;
        }
        Ok(())
    }
}

fn standing(state: TenantState) -> Standing {
    match state {
        TenantState::Active => Standing::Active,
        TenantState::Suspended => Standing::Suspended,
    }
}

/// Another name of the same length.
fn stand_in(of: &TenantId) -> TenantId {
    let first = if of.as_str().starts_with('x') { 'y' } else { 'x' };
    let name: String = std::iter::once(first).chain(of.as_str().chars().skip(1)).collect();
    name.parse().unwrap_or_else(|_| of.clone())
}

/// On how many others a backup builds.
fn depth(all: &[Stored], stored: &Stored) -> usize {
    let (mut depth, mut parent) = (0, stored.parent.as_ref());
    while let Some(found) = parent.and_then(|id| all.iter().find(|stored| stored.backup == *id))
        && depth < all.len()
    {
        depth += 1;
        parent = found.parent.as_ref();
    }
    depth
}

/// What becomes of the scheduled backups for which nothing was damaged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whole {
    /// As of all others.
    Thinned,
    /// They stay.
    Kept,
}

/// The scheduled backups that are not to be kept, in an order in which they can be removed. `all` has the newest first.
fn surplus(all: &[Stored], daily_count: usize, weekly_count: usize, whole: Whole) -> Vec<BackupId> {
    let utc = |stored: &Stored| stored.created_at.to_zoned(TimeZone::UTC).date();
    let (mut days, mut weeks, mut kept) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (place, stored) in all.iter().enumerate() {
        let week: ISOWeekDate = utc(stored).iso_week_date();
        let new_day = days.len() < daily_count && days.insert(utc(stored));
        let new_week = weeks.len() < weekly_count && weeks.insert((week.year(), week.week()));
        // The newest is the base of the next, whatever the numbers say.
        let is_wanted = stored.reason == Reason::Asked || (whole == Whole::Kept && stored.damaged_count == 0);
        if place == 0 || new_day || new_week || is_wanted || kept.contains(&stored.backup) {
            kept.extend(stored.parent.clone());
            kept.insert(stored.backup.clone());
        }
    }
    // A parent is older than what builds on it, so that the newest first never leaves a child without its parent.
    all.iter().filter(|stored| !kept.contains(&stored.backup)).map(|stored| stored.backup.clone()).collect()
}

/// What stands in a restored backup for the part of its log that was deleted; none when nothing was. For a thread that may
/// block.
fn beginning_of(scratch: &TenantStore, uid: &str) -> Option<Beginning> {
    let under = |name: &str| Key::new(["history", uid, name]);
    Handle::current().block_on(async {
        let stump = scratch.get(&under("audit-stump")).await.ok().flatten()?;
        let shards = scratch.scan(&under("audit-shard"), None, SHARDS_COUNT).await.ok()?;
        let records = shards.records.iter().map(|(key, record)| Some((key.last_number()?, record.value.as_slice())));
        stored_beginning(&stump.value, records.flatten())
    })
}

/// The audit entries of a restored backup, read as they are asked for; for a thread that may block.
struct Entries {
    store: TenantStore,
    uid: String,
    next: u64,
    size: u64,
    page: std::vec::IntoIter<ringfence_audit::Entry>,
}

impl Iterator for Entries {
    type Item = ringfence_audit::Entry;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.size {
            return None;
        }
        if self.page.len() == 0 {
            let mut page = Vec::new();
            let end = self.size.min(self.next.saturating_add(ENTRIES_COUNT as u64));
            for seq in self.next..end {
                let key = Key::new(["history", self.uid.as_str(), "audit"]).number(seq);
                // What is missing ends the log early, which the check then names.
                let Ok(Some(record)) = Handle::current().block_on(self.store.get(&key)) else { break };
                page.extend(ringfence_audit::stored_entry(&record.value));
            }
            self.page = page.into_iter();
        }
        self.next += 1;
        self.page.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    #[test]
    fn a_tenant_is_put_back_once_at_a_time() {
        let restoring = Restoring::default();
        let first = restoring.begin("a".to_owned()).unwrap_or_else(|_| panic!("nobody else is"));
        assert!(restoring.begin("a".to_owned()).is_err() && restoring.has("a") && !restoring.has("b"));
        assert!(restoring.begin("b".to_owned()).is_ok());
        drop(first);
        assert!(!restoring.has("a") && restoring.begin("a".to_owned()).is_ok());
    }

    fn id(number: u8) -> BackupId {
        format!("b_{}", char::from(b'a' + number).to_string().repeat(26)).parse().unwrap()
    }

    fn stored(number: u8, at: &str, parent: Option<u8>, reason: Reason) -> Stored {
        let at: Timestamp = at.parse().unwrap();
        Stored {
            backup: id(number),
            parent: parent.map(id),
            reason,
            created_at: at,
            revision: 1,
            records_count: 0,
            blobs_count: 0,
            content_bytes: 0,
            file_bytes: 0,
            damaged_count: 0,
            lost_count: 0,
            verified_at: at,
            drill: None,
            drill_failed: None,
        }
    }

    #[test]
    fn the_newest_of_each_day_and_week_stay_and_with_them_what_they_build_on() {
        let scheduled = Reason::Scheduled;
        let all = [
            stored(8, "2026-11-20T12:00:00Z", Some(7), scheduled),
            stored(7, "2026-11-20T06:00:00Z", Some(6), scheduled),
            stored(6, "2026-11-19T12:00:00Z", None, scheduled),
            stored(5, "2026-11-19T06:00:00Z", None, scheduled),
            stored(4, "2026-11-18T12:00:00Z", None, Reason::Asked),
            stored(3, "2026-11-11T12:00:00Z", Some(2), scheduled),
            stored(2, "2026-11-10T12:00:00Z", None, scheduled),
            stored(1, "2026-11-09T12:00:00Z", None, scheduled),
            stored(0, "2026-11-02T12:00:00Z", None, scheduled),
        ];
        assert_eq!(surplus(&all, 2, 2, Whole::Thinned), [id(5), id(1), id(0)]);
        assert_eq!(surplus(&all, 0, 0, Whole::Thinned), [id(5), id(3), id(2), id(1), id(0)]);
        assert_eq!(surplus(&all, 100, 0, Whole::Thinned), [id(5)]);
        // While something is damaged, those that lack something are thinned alone.
        let mut lacking = all.clone();
        for place in [0, 3, 6] {
            lacking[place].damaged_count = 1;
        }
        assert_eq!(surplus(&lacking, 0, 0, Whole::Kept), [id(5)], "the newest stays, and what is built on");
        lacking[5].damaged_count = 1;
        assert_eq!(surplus(&lacking, 0, 0, Whole::Kept), [id(5), id(3), id(2)]);
        assert_eq!((depth(&all, &all[0]), depth(&all, &all[2])), (2, 0));
    }
}
