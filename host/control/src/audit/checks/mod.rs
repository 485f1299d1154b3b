//! Checks of a tenant's own: rules over its log and its facts, defined, listed, run when asked and on time.
//!
//! Must never let a rule see another tenant, nor let anyone but those who may define checks run one: what a check comes to is
//! on the log as a finding. `definition.rs` is what one is, `facts.rs` what it is asked about, `run.rs` one run, `timer.rs`
//! the runs on time.

mod definition;
mod facts;
mod run;
mod timer;

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use ringfence_audit::{Log, codes};
use ringfence_core::proof::act;
use ringfence_core::{Action, Resource, ResourceName, TenantId};
use ringfence_store::{Op, TenantStore};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Control;
use crate::call::{Call, Reached};
use crate::extract::JsonBody;
use crate::problem::ApiError;
use crate::wire::{CheckDetail, CheckResult, CheckView, CheckWritten, Page, Problem, PutCheck};

use definition::{CHECKS_COUNT_MAX, Check, Stored, VERSIONS_COUNT_MAX, key, last_key};
use timer::Timer;

/// LIMIT: checks that run at once; one more that somebody asks for is refused.
const RUNNING_COUNT_MAX: usize = 2;

/// What the control plane keeps of checks in memory.
#[derive(Clone)]
pub struct Checks {
    running: Arc<Semaphore>,
    /// One at a time defines checks.
    defining: Arc<tokio::sync::Mutex<()>>,
    timer: Timer,
}

impl Default for Checks {
    fn default() -> Self {
        let running = Arc::new(Semaphore::new(RUNNING_COUNT_MAX));
        Self { running, defining: Arc::default(), timer: Timer::default() }
    }
}

/// Defines or changes a check of the caller's tenant, and says what it comes to now; with `dry_run` says only that.
#[utoipa::path(put, path = "/audit/compliance-check", tag = "audit", request_body = PutCheck,
    responses((status = 200, body = CheckWritten), (status = "default", body = Problem)))]
pub async fn put(
    State(control): State<Control>,
    call: Call,
    JsonBody(sent): JsonBody<PutCheck>,
) -> Result<Json<CheckWritten>, ApiError> {
    let Reached { tenant, store, permit } = control.reach_own_tenant::<act::WriteCheck>(&call).await?;
    let dry_run = sent.dry_run;
    let mut check = Check::read(sent, call.principal.id(), control.parts.clock.now())?;
    let tried = {
        let place = control.place_to_run()?;
        control.judge(&tenant, &store, &check, &place).await?
    };
    if tried.state == "unknown" {
        control.refuse_unjudgeable(&tenant, &store, &check, &tried).await?;
    }
    let log = Log::Tenant(store.clone());
    if dry_run {
        control.reading(&call, &log, permit, json!({ "view": "check", "rule": check.rule })).await?;
        return Ok(Json(CheckWritten { version: None, dry_run_result: tried }));
    }
    let details = json!({
        "check": check.id, "title": check.title, "rule": check.rule, "schedule": check.schedule,
        "severity": check.severity, "controls": check.controls, "comes_to": tried.state,
    });
    let version = control
        .bracket(&call, &log, permit, codes::CHECK_WRITTEN, details, async |_permit| {
            let _one = control.checks.defining.lock().await;
            let known = store.get_json::<Stored>(&key(&check.id)).await?;
            if known.is_none() && definition::all(&store).await?.len() >= CHECKS_COUNT_MAX {
                return Err(ApiError::new("too-many", format!("a tenant has at most {CHECKS_COUNT_MAX} checks")));
            }
            let mut stored = known.unwrap_or_default();
            check.version = stored.versions.last().map_or(0, |last| last.version) + 1;
            stored.versions.push(check.clone());
            let old = stored.versions.len().saturating_sub(VERSIONS_COUNT_MAX);
            stored.versions.drain(..old);
            // What another version came to says nothing of this one.
            let ops = vec![Op::put_json(key(&check.id), &stored)?, Op::delete(last_key(&check.id))];
            store.batch(ops, Vec::new()).await?;
            control.checks.timer.set(&tenant, &check, None);
            Ok(check.version)
        })
        .await?;
    Ok(Json(CheckWritten { version: Some(version), dry_run_result: CheckResult { version, ..tried } }))
}

/// Lists the checks of the caller's tenant, each with what it came to last.
#[utoipa::path(get, path = "/audit/compliance-checks", tag = "audit",
    responses((status = 200, body = Page<CheckView>), (status = "default", body = Problem)))]
pub async fn list(State(control): State<Control>, call: Call) -> Result<Json<Page<CheckView>>, ApiError> {
    let reached = control.reach_own_tenant::<act::ReadAudit>(&call).await?;
    let all = definition::all(&reached.store).await?;
    let items = all.into_iter().map(|(check, last)| check.view(last)).collect();
    Ok(Json(Page { items, cursor: None }))
}

/// Reads a check with its versions.
#[utoipa::path(get, path = "/audit/compliance-checks/{check}", tag = "audit",
    responses((status = 200, body = CheckDetail), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path(check): Path<String>,
) -> Result<Json<CheckDetail>, ApiError> {
    let store = control.reach_own_tenant::<act::ReadAudit>(&call).await?.store;
    let id: ResourceName = check.parse().map_err(|_| ApiError::not_found())?;
    let mut stored = store.get_json::<Stored>(&key(&id)).await?.ok_or_else(ApiError::not_found)?;
    let newest = stored.versions.pop().ok_or_else(ApiError::not_found)?;
    let last = store.get_json(&last_key(&id)).await?;
    let versions = stored.versions.into_iter().rev().map(|version| version.view(None)).collect();
    Ok(Json(CheckDetail { check: newest.view(last), versions }))
}

/// Runs a check now; what it comes to is on the log.
#[utoipa::path(post, path = "/audit/compliance-checks/{check}/run", tag = "audit",
    responses((status = 200, body = CheckResult), (status = "default", body = Problem)))]
pub async fn run(
    State(control): State<Control>,
    call: Call,
    Path(check): Path<String>,
) -> Result<Json<CheckResult>, ApiError> {
    let Reached { tenant, store, permit } = control.reach_own_tenant::<act::WriteCheck>(&call).await?;
    let check = control.check(&store, &check).await?;
    let place = control.place_to_run()?;
    let result = control.judge(&tenant, &store, &check, &place).await?;
    let by = (permit.principal().clone(), Some(call.request.clone()));
    let result = control.keep_result(&tenant, &store, &check, by, result).await?;
    control.checks.timer.set(&tenant, &check, Some(control.parts.clock.now()));
    Ok(Json(result))
}

/// Deletes a check with its versions. What it came to stays on the log.
#[utoipa::path(delete, path = "/audit/compliance-checks/{check}", tag = "audit",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn delete(
    State(control): State<Control>,
    call: Call,
    Path(check): Path<String>,
) -> Result<StatusCode, ApiError> {
    let Reached { tenant, store, permit } = control.reach_own_tenant::<act::WriteCheck>(&call).await?;
    let check = control.check(&store, &check).await?;
    let details = json!({ "check": check.id, "version": check.version });
    control
        .bracket(&call, &Log::Tenant(store.clone()), permit, codes::CHECK_DELETED, details, async |_permit| {
            let _one = control.checks.defining.lock().await;
            let ops = vec![Op::delete(key(&check.id)), Op::delete(last_key(&check.id))];
            store.batch(ops, Vec::new()).await?;
            control.checks.timer.remove(&tenant, &check.id);
            Ok(())
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a tenant's checks came to last, by name.
pub(crate) async fn last_results(store: &TenantStore) -> Result<Vec<(String, Option<CheckResult>)>, ApiError> {
    Ok(definition::all(store).await?.into_iter().map(|(check, last)| (check.id.to_string(), last)).collect())
}

impl Control {
    /// The caller's own tenant. Operators have none, and are told what strangers are told.
    pub(crate) async fn reach_own_tenant<A: Action>(&self, call: &Call) -> Result<Reached<A>, ApiError> {
        let tenant = call.principal.tenant().cloned().ok_or_else(ApiError::not_found)?;
        self.reach(call, Resource::Tenant { tenant }).await
    }

    /// A check as it is now.
    async fn check(&self, store: &TenantStore, id: &str) -> Result<Check, ApiError> {
        let id: ResourceName = id.parse().map_err(|_| ApiError::not_found())?;
        let stored = store.get_json::<Stored>(&key(&id)).await?;
        stored.and_then(|mut stored| stored.versions.pop()).ok_or_else(ApiError::not_found)
    }

    /// Refuses a check that came to nothing for a reason that no log and no tenant takes away.
    async fn refuse_unjudgeable(
        &self,
        tenant: &TenantId,
        store: &TenantStore,
        check: &Check,
        tried: &CheckResult,
    ) -> Result<(), ApiError> {
        if tried.why.ends_with("other than true or false") {
            return Err(ApiError::new("bad-check", "`rule`: it comes to something other than true or false"));
        }
        let facts = self.facts(tenant, store).await?;
        match facts::missing(&check.rule, check.over, facts) {
            Some(name) => {
                let text = format!("`rule`: there is no `{name}`, so that it could never be judged");
                Err(ApiError::new("bad-check", text).help("docs/reference/checks.md has what there is"))
            }
            None => Ok(()),
        }
    }

    fn place_to_run(&self) -> Result<Arc<OwnedSemaphorePermit>, ApiError> {
        let place = Arc::clone(&self.checks.running).try_acquire_owned();
        place
            .map(Arc::new)
            .map_err(|_| ApiError::new("overloaded", "as many checks are running as this host does at once"))
    }

    /// What a check comes to when it is run now, for whoever ends what was done about it.
    pub(crate) async fn run_check_again(
        &self,
        call: &Call,
        store: &TenantStore,
        id: &str,
    ) -> Result<CheckResult, ApiError> {
        let tenant = store.tenant().cloned().ok_or_else(ApiError::not_found)?;
        let check = self.check(store, id).await?;
        let place = self.place_to_run()?;
        let result = self.judge(&tenant, store, &check, &place).await?;
        let by = (call.principal.id().clone(), Some(call.request.clone()));
        self.keep_result(&tenant, store, &check, by, result).await
    }

    /// Puts what is kept of a tenant's checks into force, after it was read for the first time or anew.
    pub(crate) async fn reload_checks(&self, store: &TenantStore) {
        let Some(tenant) = store.tenant() else { return };
        self.checks.timer.forget(tenant);
        match definition::all(store).await {
            Ok(all) => {
                for (check, last) in all {
                    let ran_at = last.and_then(|last| last.at.parse().ok());
                    self.checks.timer.set(tenant, &check, ran_at);
                }
            }
            Err(error) => tracing::error!(%tenant, code = error.code, "a tenant's checks are not run on time"),
        }
    }
}
