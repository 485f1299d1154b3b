//! Long work: begun by one request, looked after by others. What came of it is durable; what was running when the host
//! stopped says so.
//!
//! Must never run more at once than its limit, nor show a job to anyone who may not read what it is about.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use ringfence_core::proof::act;
use ringfence_core::{JobId, Resource, TenantId};
use ringfence_store::{Key, Op, TenantStore};
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::Control;
use crate::call::Call;
use crate::problem::ApiError;
use crate::wire::{JobError, JobView, Problem};

/// LIMIT: jobs at once, of all tenants; one more is refused with 503.
const RUNNING_COUNT_MAX: usize = 4;
/// LIMIT: jobs at once of one tenant, so that none has all places; one more is refused with 429.
const RUNNING_OF_TENANT_COUNT_MAX: usize = 2;
/// LIMIT: jobs remembered; the oldest goes.
const KEPT_COUNT_MAX: u64 = 1_000;

/// The jobs of this run of the host.
#[derive(Clone)]
pub struct Jobs {
    /// And for which tenant a job has a place; none once its work is done, or when it is the host's.
    running: Arc<Mutex<BTreeMap<JobId, Option<TenantId>>>>,
    places: Arc<Semaphore>,
    /// One at a time writes the ring of what is remembered.
    remembering: Arc<tokio::sync::Mutex<()>>,
}

impl Default for Jobs {
    fn default() -> Self {
        let places = Arc::new(Semaphore::new(RUNNING_COUNT_MAX));
        Self { running: Arc::default(), places, remembering: Arc::default() }
    }
}

/// Reads a job.
#[utoipa::path(get, path = "/jobs/{job}", tag = "jobs",
    responses((status = 200, body = JobView), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path(job): Path<String>,
) -> Result<Json<JobView>, ApiError> {
    let id: JobId = job.parse().map_err(|_| ApiError::not_found())?;
    let platform = control.parts.tenants.platform();
    let mut view: JobView = platform.get_json(&job_key(&id)).await?.ok_or_else(ApiError::not_found)?;
    // SECURITY: to a tenant another's is none, before anything is asked: what would be written of the asking takes time.
    if !view.is_shown_to(call.principal.tenant()) {
        return Err(ApiError::not_found());
    }
    match &view.tenant {
        // What became of it is the host's word: a restore may leave the tenant locked, and an operator asks how it ended.
        Some(tenant) if call.principal.tenant().is_none() => {
            let tenant: TenantId = tenant.parse().map_err(|_| ApiError::not_found())?;
            drop(control.reach_closed::<act::ReadBackup>(&call, Resource::Tenant { tenant }).await?.permit);
        }
        Some(tenant) => drop(control.reach_tenant::<act::ReadBackup>(&call, tenant).await?.permit),
        None => drop(control.reach_host::<act::ReadHost>(&call).await?),
    }
    if view.state == "running" && !control.jobs.is_running(&id) {
        // It may have ended between the two looks.
        view = platform.get_json(&job_key(&id)).await?.ok_or_else(ApiError::not_found)?;
        if view.state == "running" {
            let error = ApiError::new("job-interrupted", "the host stopped before this was done");
            view.fail(&error.help("begin it again; nothing half is left"));
        }
    }
    Ok(Json(view))
}

// === impl Jobs ===

impl Jobs {
    fn is_running(&self, id: &JobId) -> bool {
        self.lock().contains_key(id)
    }

    /// Refused when the tenant has as many as one may.
    fn set_running(&self, id: &JobId, tenant: Option<&TenantId>) -> Result<(), ApiError> {
        let mut running = self.lock();
        let its_own = running.values().filter_map(Option::as_ref).filter(|of| Some(*of) == tenant).count();
        if its_own >= RUNNING_OF_TENANT_COUNT_MAX {
            return Err(ApiError::new(
                "tenant-busy",
                "as much long work of this tenant is running as it may have at once",
            ));
        }
        running.insert(id.clone(), tenant.cloned());
        Ok(())
    }

    /// Its work is done, and not written down yet: who reads that it is may begin the next.
    fn set_done(&self, id: &JobId) {
        if let Some(tenant) = self.lock().get_mut(id) {
            *tenant = None;
        }
    }

    fn set_ended(&self, id: &JobId) {
        self.lock().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<JobId, Option<TenantId>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl JobView ===

impl JobView {
    /// Whether a job can be shown to somebody of this tenant, or to an operator.
    fn is_shown_to(&self, own: Option<&TenantId>) -> bool {
        own.is_none_or(|own| self.tenant.as_deref() == Some(own.as_str()))
    }

    fn fail(&mut self, error: &ApiError) {
        self.state = "failed".to_owned();
        self.error =
            Some(JobError { code: error.code.to_owned(), detail: error.detail.clone(), help: error.help.clone() });
    }
}

// === impl Control ===

impl Control {
    /// Begins a job and answers 202 with it and where to look; refused when too many run, or too many of this tenant.
    pub(crate) async fn begin<T: Serialize + Send + 'static>(
        &self,
        kind: &'static str,
        tenant: Option<&TenantId>,
        work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
    ) -> Result<Response, ApiError> {
        let busy = |_| ApiError::new("overloaded", "as much long work is running as this host does at once");
        let place = Arc::clone(&self.jobs.places).try_acquire_owned().map_err(busy)?;
        let id = JobId::random(&*self.parts.entropy);
        let view = JobView {
            id: id.to_string(),
            kind: kind.to_owned(),
            tenant: tenant.map(ToString::to_string),
            state: "running".to_owned(),
            started_at: self.parts.clock.now().to_string(),
            ended_at: None,
            result: None,
            error: None,
        };
        self.jobs.set_running(&id, tenant)?;
        if let Err(error) = self.remember(&id, &view).await {
            self.jobs.set_ended(&id);
            return Err(error);
        }
        let (control, mut ended) = (self.clone(), view.clone());
        tokio::spawn(async move {
            // In a task of its own, so that a fault in the work still leaves an outcome.
            let result = tokio::spawn(work).await.unwrap_or_else(|error| Err(ApiError::host(&error)));
            ended.ended_at = Some(control.parts.clock.now().to_string());
            match result.map(|result| serde_json::to_value(result).unwrap_or_default()) {
                Ok(result) => {
                    ended.state = "succeeded".to_owned();
                    ended.result = Some(result);
                }
                Err(error) => ended.fail(&error),
            }
            control.jobs.set_done(&id);
            if let Err(error) = control.parts.tenants.platform().put_json(&job_key(&id), &ended).await {
                tracing::error!(%error, job = %id, "the outcome of a job could not be written down");
            }
            control.jobs.set_ended(&id);
            drop(place);
        });
        let place = format!("/api/v1/jobs/{}", view.id);
        Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(view)).into_response())
    }

    /// Writes a new job down, in the place of the oldest once there are many.
    async fn remember(&self, id: &JobId, view: &JobView) -> Result<(), ApiError> {
        let _one = self.jobs.remembering.lock().await;
        let platform: &TenantStore = self.parts.tenants.platform();
        let next = Key::new(["job", "next"]);
        let number: u64 = platform.get_json(&next).await?.unwrap_or(0);
        let slot = Key::new(["job", "slot"]).number(number % KEPT_COUNT_MAX);
        let oldest: Option<JobId> = platform.get_json(&slot).await?;
        let mut ops = vec![
            Op::put_json(job_key(id), view)?,
            Op::put_json(slot, id)?,
            Op::put_json(next, &number.saturating_add(1))?,
        ];
        ops.extend(oldest.map(|oldest| Op::delete(job_key(&oldest))));
        platform.batch(ops, Vec::new()).await?;
        Ok(())
    }
}

fn job_key(id: &JobId) -> Key {
    Key::new(["job", "id", id.as_str()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_of_another_tenant_or_of_the_host_is_none_to_a_tenant() {
        let job = |tenant: Option<&str>| JobView {
            id: "j".to_owned(),
            kind: "backup".to_owned(),
            tenant: tenant.map(str::to_owned),
            state: "running".to_owned(),
            started_at: String::new(),
            ended_at: None,
            result: None,
            error: None,
        };
        let acme: TenantId = "acme".parse().unwrap();
        assert!(job(Some("acme")).is_shown_to(Some(&acme)));
        assert!(!job(Some("beta")).is_shown_to(Some(&acme)) && !job(None).is_shown_to(Some(&acme)));
        assert!(job(Some("beta")).is_shown_to(None) && job(None).is_shown_to(None));
    }

    #[test]
    fn no_tenant_has_all_places_and_one_whose_work_is_done_has_room() {
        let jobs = Jobs::default();
        let id = |letter: &str| -> JobId { format!("j_{}", letter.repeat(26)).parse().unwrap() };
        let (acme, other): (TenantId, TenantId) = ("acme".parse().unwrap(), "other".parse().unwrap());
        let begins = |letter: &str, tenant: Option<&TenantId>| jobs.set_running(&id(letter), tenant).is_ok();
        assert!(begins("a", Some(&acme)) && begins("b", Some(&acme)) && !begins("c", Some(&acme)));
        assert!(begins("d", Some(&other)) && begins("e", None) && begins("f", None) && begins("g", None));
        jobs.set_done(&id("a"));
        assert!(jobs.is_running(&id("a")) && begins("c", Some(&acme)) && !begins("k", Some(&acme)));
        jobs.set_ended(&id("b"));
        assert!(!jobs.is_running(&id("b")) && begins("k", Some(&acme)));
    }
}
