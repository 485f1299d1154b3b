//! Tenants: list, create, read, suspend, resume, delete. Deleting destroys the tenant's key first.
//!
//! Must never leave half a tenant: what a failed creation made is taken away again.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use ringfence_audit::{Log, codes};
use ringfence_core::proof::act;
use ringfence_core::{QuotaChoice, Resource, TenantId};
use ringfence_policy::{Standing, TenantFacts};
use ringfence_store::{TenantRecord, TenantState, TenantStore};
use serde_json::json;

use crate::Control;
use crate::call::Call;
use crate::extract::{Asked, JsonBody, Paging};
use crate::problem::ApiError;
use crate::wire::{NewTenant, Page, Problem, TenantKeyView, TenantView};

/// Lists the tenants: all for an operator, his own for anybody else.
#[utoipa::path(get, path = "/tenants", tag = "tenants", params(Paging),
    responses((status = 200, body = Page<TenantView>), (status = "default", body = Problem)))]
pub async fn list(
    State(control): State<Control>,
    call: Call,
    Asked(paging): Asked<Paging>,
) -> Result<Json<Page<TenantView>>, ApiError> {
    let mut records = match call.principal.tenant() {
        Some(own) => {
            let reached = control.reach_tenant::<act::ReadTenant>(&call, own.as_str()).await?;
            control.parts.tenants.record(&reached.tenant).await?.into_iter().collect()
        }
        None => {
            let _permit = control.reach_host::<act::ListTenants>(&call).await?;
            control.parts.tenants.list().await?
        }
    };
    records.sort_by(|a, b| a.id.cmp(&b.id));
    let after = paging.cursor.clone().unwrap_or_default();
    let mut rest = records.into_iter().filter(|record| record.id.as_str() > after.as_str());
    let items: Vec<TenantView> =
        rest.by_ref().take(paging.limit()).map(|record| control.tenant_view(&record)).collect();
    let cursor = rest.next().and_then(|_| items.last().map(|last| last.name.clone()));
    Ok(Json(Page { items, cursor }))
}

/// Makes a tenant: its key, its audit log, its default-deny policy.
#[utoipa::path(post, path = "/tenants", tag = "tenants", request_body = NewTenant,
    responses((status = 201, body = TenantView), (status = "default", body = Problem)))]
pub async fn create(
    State(control): State<Control>,
    call: Call,
    JsonBody(new): JsonBody<NewTenant>,
) -> Result<(StatusCode, Json<TenantView>), ApiError> {
    let permit = control.reach_host::<act::CreateTenant>(&call).await?;
    let id: TenantId = new.name.parse()?;
    let shown = new.display_name.unwrap_or_else(|| id.to_string());
    if shown.chars().count() > 120 || shown.chars().any(char::is_control) {
        return Err(ApiError::new("bad-word", "`display_name` is 1 to 120 characters of one line"));
    }
    let quota = QuotaChoice { plan: crate::quota::plan(new.plan.as_deref())?, ..QuotaChoice::default() };
    control.parts.quotas.check(&quota)?;
    let details = json!({ "tenant": id.as_str(), "plan": quota.plan });
    let record = control
        .bracket(&call, &Log::Host, permit, codes::TENANT_CREATED, details, async |_permit| {
            let failed = {
                // Not before the provider of its key has answered: whoever changes a tenant of this name waits for this lock.
                let (record, _one) = control.parts.tenants.create_under(&id, &shown, quota, &control.changing).await?;
                match control.open_tenant(&record).await {
                    Ok(()) => return Ok(record),
                    Err(failed) => {
                        control.begin_to_take_away(&id).await;
                        failed
                    }
                }
            };
            // Not under the lock: a provider that does not answer takes its time. The name stays taken until it is over.
            if let Err(error) = control.parts.tenants.carry_on_deletion(&id).await {
                tracing::error!(tenant = %id, %error, "a half-made tenant is not taken away yet; it is carried on");
            }
            Err(failed)
        })
        .await?;
    Ok((StatusCode::CREATED, Json(control.tenant_view(&record))))
}

/// Reads a tenant.
#[utoipa::path(get, path = "/tenants/{tenant}", tag = "tenants",
    responses((status = 200, body = TenantView), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<TenantView>, ApiError> {
    let reached = control.reach_tenant::<act::ReadTenant>(&call, &tenant).await?;
    control.tenant_now(&reached.tenant).await
}

/// Stops everything of a tenant; nothing is lost.
#[utoipa::path(post, path = "/tenants/{tenant}/suspend", tag = "tenants",
    responses((status = 200, body = TenantView), (status = "default", body = Problem)))]
pub async fn suspend(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<TenantView>, ApiError> {
    control.set_state(&call, &tenant, TenantState::Suspended, codes::TENANT_SUSPENDED).await
}

/// Lets a suspended tenant work again.
#[utoipa::path(post, path = "/tenants/{tenant}/resume", tag = "tenants",
    responses((status = 200, body = TenantView), (status = "default", body = Problem)))]
pub async fn resume(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<TenantView>, ApiError> {
    control.set_state(&call, &tenant, TenantState::Active, codes::TENANT_RESUMED).await
}

/// Deletes a tenant: its key first, so that nothing it left can be opened, then its data. With one operator it is done after
/// the host's delay (202; enabling the tenant's keys undoes it), at once when a second person asks too or there is no delay.
#[utoipa::path(delete, path = "/tenants/{tenant}", tag = "tenants",
    responses((status = 202, body = TenantKeyView), (status = 204), (status = "default", body = Problem)))]
pub async fn delete(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Response, ApiError> {
    let tenant: TenantId = tenant.parse().map_err(|_| ApiError::not_found())?;
    // Disabled keys are no reason to keep a tenant.
    let reached = control.reach_closed::<act::DeleteTenant>(&call, Resource::Tenant { tenant }).await?;
    let (id, store) = (reached.tenant, reached.store);
    let details = json!({ "tenant": id.as_str() });
    let later = control
        .bracket(&call, &Log::Host, reached.permit, codes::TENANT_DELETED, details, async |_permit| {
            control.delete_tenant(call.principal.id(), &id, &store).await
        })
        .await?;
    Ok(match later {
        Some(keys) => (StatusCode::ACCEPTED, Json(keys)).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

impl Control {
    async fn set_state(
        &self,
        call: &Call,
        tenant: &str,
        state: TenantState,
        code: &'static str,
    ) -> Result<Json<TenantView>, ApiError> {
        let reached = self.reach_tenant::<act::SuspendTenant>(call, tenant).await?;
        let id = reached.tenant;
        let store = reached.store;
        let log = Log::Tenant(store.clone());
        self.bracket(call, &log, reached.permit, code, json!({}), async |_permit| {
            let _one = self.changing.of(id.clone()).await;
            self.whole(&store, state).await?;
            if state == TenantState::Suspended {
                self.parts.archives.stay_suspended(&store).await?;
            }
            self.parts.tenants.set_state(&id, state).await?;
            let standing = match state {
                TenantState::Active => Standing::Active,
                TenantState::Suspended => Standing::Suspended,
            };
            self.parts.policy.set_standing(&id, standing)?;
            let scheduler = self.parts.engine.scheduler();
            match state {
                TenantState::Active => {
                    scheduler.resume(&id);
                    self.tenant_works(&id).await;
                }
                TenantState::Suspended => {
                    let killed_count = scheduler.suspend(&id);
                    self.parts.engine.forget_idle(&id);
                    tracing::info!(tenant = %id, killed_count, "a tenant was suspended");
                }
            }
            Ok(())
        })
        .await?;
        self.tenant_now(&id).await
    }

    /// Refuses to let a tenant work of which half was put back to a backup.
    async fn whole(&self, store: &TenantStore, to: TenantState) -> Result<(), ApiError> {
        if to == TenantState::Active && self.parts.archives.is_restoring(store).await? {
            return Err(ApiError::restore_unfinished());
        }
        Ok(())
    }

    /// Puts a new tenant's quota and standing into force.
    async fn open_tenant(&self, record: &TenantRecord) -> Result<(), ApiError> {
        let store = self.parts.tenants.open_tenant(&record.id).ok_or_else(ApiError::not_found)?;
        self.parts.quotas.open(&store, &record.quota).await?;
        self.parts.policy.upsert_tenant(&record.id, TenantFacts { suspended: Standing::Active }, None)?;
        self.tenant_works(&record.id).await;
        Ok(())
    }

    /// From here on nobody reaches a tenant that was made by half. For who holds the turn to change it.
    pub(crate) async fn begin_to_take_away(&self, id: &TenantId) {
        let Some(store) = self.parts.tenants.open_tenant(id) else { return };
        if let Err(error) = self.parts.tenants.begin_delete(id).await {
            tracing::error!(tenant = %id, %error, "a half-made tenant could not be taken away");
        }
        self.forget_tenant(id, &store).await;
    }

    pub(crate) fn forget_quota(&self, id: &TenantId) {
        self.parts.quotas.forget(id);
        self.parts.engine.scheduler().forget(id);
        self.parts.engine.forget_idle(id);
    }

    async fn tenant_now(&self, id: &TenantId) -> Result<Json<TenantView>, ApiError> {
        let record = self.parts.tenants.record(id).await?.ok_or_else(ApiError::not_found)?;
        Ok(Json(self.tenant_view(&record)))
    }

    fn tenant_view(&self, record: &TenantRecord) -> TenantView {
        let vkey = self
            .parts
            .tenants
            .open_tenant(&record.id)
            .map(|store| self.parts.audit.vkey(&Log::Tenant(store)))
            .unwrap_or_default();
        TenantView {
            name: record.id.to_string(),
            display_name: record.display_name.clone(),
            state: crate::host::word(&record.state),
            created_at: record.created_at.to_string(),
            plan: record.quota.plan.to_string(),
            audit_vkey: vkey,
        }
    }
}
