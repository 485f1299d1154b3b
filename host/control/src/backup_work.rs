//! What backups do behind the endpoints and the schedule: make, restore, rehearse, keep some and remove the rest.
//!
//! Must never serve a tenant while it is being replaced, and never remove a backup that one worth keeping builds on.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::civil::ISOWeekDate;
use jiff::tz::TimeZone;
use ringfence_audit::verify::{Claim, verify_claim};
use ringfence_audit::{Beginning, Event, Log, Outcome, codes, stored_beginning};
use ringfence_core::{BackupId, QuotaChoice, TenantId};
use ringfence_policy::{PolicyError, Standing};
use ringfence_store::backup::{
    BackupError, DrillFailed, Drilled, GuestLogs, Keyring, Order, Reason, Restored, Source, Stored,
};
use ringfence_store::{Key, TenantRecord, TenantState, TenantStore};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::Control;
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

/// How the schedule is doing, for the operator.
#[derive(Debug, Default)]
pub(crate) struct BackupHealth(Mutex<BTreeSet<TenantId>>);

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

    /// Puts a tenant back to a backup. Nothing of it runs meanwhile; its audit log, metering and API keys stay.
    pub(crate) async fn restore_in_place(
        &self,
        id: &TenantId,
        store: &TenantStore,
        source: &Source,
    ) -> Result<Restored, ApiError> {
        let _one = self.changing.lock().await;
        self.parts.archives.prepare_restore(store, source).await?;
        let state = store.state();
        // Before a start can find it announced: whatever fails then, nobody writes what that start would roll back.
        self.parts.policy.set_standing(id, Standing::Suspended)?;
        self.parts.engine.scheduler().suspend(id);
        self.parts.engine.forget_idle(id);
        self.parts.automation.close_tenant(store).await;
        if let Err(error) = self.parts.archives.announce_restore(&self.parts.tenants, store, source).await {
            // Still active, it was refused for certain, and goes on.
            if store.state() == TenantState::Active {
                self.parts.policy.set_standing(id, Standing::Active)?;
                self.parts.engine.scheduler().resume(id);
                self.tenant_works(id).await;
            }
            return Err(error.into());
        }
        // When it fails, half may be written: the tenant stays shut, and the next start carries on.
        let restored = self.parts.archives.restore_in_place(store, source).await?;
        self.parts.tenants.set_state(id, state).await?;
        self.parts.archives.finish_restore(store).await?;
        if let Err(error) = self.load(id, store).await {
            // What finds attacks must not be what was before the restore, however much of the rest is.
            self.reload_detection(id).await;
            return Err(error);
        }
        if state == TenantState::Active {
            self.parts.engine.scheduler().resume(id);
        }
        self.tenant_replaced(id, store).await;
        Ok(restored)
    }

    /// Restores a backup into a new tenant, which is there once it is whole.
    pub(crate) async fn restore_new(
        &self,
        source: &Source,
        into: &TenantId,
        quota: QuotaChoice,
    ) -> Result<Value, ApiError> {
        let held_bytes_max = self.parts.quotas.check(&quota)?.storage_bytes;
        let staged = self.parts.archives.restore_new(&self.parts.tenants, source, into, held_bytes_max).await?;
        let _one = self.changing.lock().await;
        let (restored, name) = (staged.restored.clone(), staged.manifest.display_name.clone());
        let from = staged.manifest.tenant.clone();
        let record = staged.publish(&name, quota).await?;
        let store = self.parts.tenants.open_tenant(into).ok_or_else(ApiError::not_found)?;
        self.load(into, &store).await?;
        // After the routes: where there is a ledger, a plugin without one is not there.
        self.parts.quotas.open(&store, &record.quota).await?;
        self.tenant_replaced(into, &store).await;
        Ok(json!({ "tenant": into, "from": from, "restored": restored }))
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
        let _one = self.changing.lock().await;
        let Some(store) = self.parts.tenants.open_readable(id) else { return Ok(false) };
        // Somebody may have read it while this one waited.
        if !self.parts.tenants.is_unread(id) {
            return Ok(true);
        }
        let record = self.parts.tenants.record(id).await?.ok_or_else(ApiError::not_found)?;
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
    async fn load(&self, id: &TenantId, store: &TenantStore) -> Result<(), ApiError> {
        // Before the routes, with which calls begin.
        self.reload_host_calls(store).await;
        let stored = crate::stored_policy(store).await?;
        let suspended = match store.state() {
            TenantState::Active => Standing::Active,
            TenantState::Suspended => Standing::Suspended,
        };
        // A backup brings back what was in force, and what was would not always be set now: the tenant's data is worth more than
        // who may change its policy, and another backup undoes it.
        if let Some(text) = stored.text.clone() {
            let (policy, tenant) = (self.parts.policy.clone(), id.clone());
            let judged = tokio::task::spawn_blocking(move || policy.check_tenant_policy(&tenant, &text)).await;
            if let Ok(Err(error @ PolicyError::LocksOut { .. })) = judged {
                tracing::warn!(tenant = %id, %error, "a tenant's stored policy is put into force, and could not be set now");
            }
        }
        crate::put_policy_into_force(&self.parts.policy, id, suspended, stored)?;
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
        // As long as something is damaged, an older backup may be the last that has it.
        if made?.damaged_count > 0 {
            return Ok(());
        }
        let all = self.parts.archives.list(&store).await?;
        for id in surplus(&all, plan.keep_daily_count, plan.keep_weekly_count) {
            self.parts.archives.delete(&store, &id).await?;
        }
        Ok(())
    }
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

/// The scheduled backups that are not to be kept, in an order in which they can be removed. `all` has the newest first.
fn surplus(all: &[Stored], daily_count: usize, weekly_count: usize) -> Vec<BackupId> {
    let utc = |stored: &Stored| stored.created_at.to_zoned(TimeZone::UTC).date();
    let (mut days, mut weeks, mut kept) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (place, stored) in all.iter().enumerate() {
        let week: ISOWeekDate = utc(stored).iso_week_date();
        let new_day = days.len() < daily_count && days.insert(utc(stored));
        let new_week = weeks.len() < weekly_count && weeks.insert((week.year(), week.week()));
        // The newest is the base of the next, whatever the numbers say.
        if place == 0 || new_day || new_week || stored.reason == Reason::Asked || kept.contains(&stored.backup) {
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
        assert_eq!(surplus(&all, 2, 2), [id(5), id(1), id(0)]);
        assert_eq!(surplus(&all, 0, 0), [id(5), id(3), id(2), id(1), id(0)]);
        assert_eq!(surplus(&all, 100, 0), [id(5)]);
        assert_eq!((depth(&all, &all[0]), depth(&all, &all[2])), (2, 0));
    }
}
