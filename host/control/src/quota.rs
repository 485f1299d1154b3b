//! Quotas: read what a tenant may have and uses, and choose it. A change is in force when the answer is there.
//!
//! Must never write down a choice that cannot be put into force, nor overwrite one the caller has not seen.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, header};
use ringfence_audit::{Log, codes};
use ringfence_core::proof::act;
use ringfence_core::{PlanName, QuotaChoice, TenantId};
use ringfence_store::TenantStore;
use serde_json::json;

use crate::Control;
use crate::call::Call;
use crate::extract::JsonBody;
use crate::problem::ApiError;
use crate::wire::{Problem, QuotaThrottled, QuotaUse, QuotaView, SetQuota};

/// Reads what a tenant may have, and what it uses of it now.
#[utoipa::path(get, path = "/tenants/{tenant}/quota", tag = "tenants",
    responses((status = 200, body = QuotaView), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Response, ApiError> {
    let reached = control.reach_tenant::<act::ReadUsage>(&call, &tenant).await?;
    control.quota_now(&reached.tenant, &reached.store).await
}

/// Chooses a tenant's plan and what differs from it. With `If-Match`, only when nobody changed it since.
#[utoipa::path(put, path = "/tenants/{tenant}/quota", tag = "tenants", request_body = SetQuota,
    responses((status = 200, body = QuotaView), (status = "default", body = Problem)))]
pub async fn write(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    JsonBody(asked): JsonBody<SetQuota>,
) -> Result<Response, ApiError> {
    let reached = control.reach_tenant::<act::SetQuota>(&call, &tenant).await?;
    let (id, store) = (reached.tenant, reached.store);
    let mut next = QuotaChoice { plan: plan(asked.plan.as_deref())?, overrides: asked.overrides, version: 0 };
    control.parts.quotas.check(&next)?;
    let wanted = headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned);
    let log = Log::Tenant(store.clone());
    let details = json!({ "plan": next.plan, "overrides": next.overrides });
    control
        .bracket(&call, &log, reached.permit, codes::TENANT_QUOTA_SET, details, async |_permit| {
            let _one = control.changing.of(id.clone()).await;
            // While it is put back to a backup it may hold more: old and new lie side by side.
            if control.restoring.has(&store.uid()) {
                return Err(ApiError::restore_unfinished());
            }
            let record = control.parts.tenants.record(&id).await?.ok_or_else(ApiError::not_found)?;
            if wanted.is_some_and(|wanted| wanted != "*" && wanted != etag(record.quota.version)) {
                return Err(ApiError::new("precondition-failed", "the quota was changed since you read it"));
            }
            next.version = record.quota.version.saturating_add(1);
            control.parts.tenants.set_quota(&id, next.clone()).await?;
            control.parts.quotas.change(&id, &next)?;
            control.tenant_works(&id).await;
            Ok(())
        })
        .await?;
    control.quota_now(&id, &store).await
}

/// The plan of a request; the standard one when none was named.
pub(crate) fn plan(name: Option<&str>) -> Result<PlanName, ApiError> {
    name.map_or_else(|| Ok(PlanName::standard()), |name| Ok(name.parse()?))
}

impl Control {
    async fn quota_now(&self, id: &TenantId, store: &TenantStore) -> Result<Response, ApiError> {
        let record = self.parts.tenants.record(id).await?.ok_or_else(ApiError::not_found)?;
        let ledger = self.parts.quotas.of(id).ok_or_else(ApiError::not_found)?;
        let used = ledger.usage()?;
        let load = self.parts.engine.scheduler().loads().into_iter().find(|load| load.tenant == *id);
        let version = record.quota.version;
        let view = QuotaView {
            tenant: id.to_string(),
            plan: record.quota.plan.to_string(),
            overrides: record.quota.overrides,
            effective: ledger.quota(),
            version,
            used: QuotaUse {
                running_count: load.as_ref().map_or(0, |load| load.running_count.into()),
                waiting_count: load.as_ref().map_or(0, |load| load.waiting_count.into()),
                memory_bytes: used.memory_bytes,
                storage_bytes: used.storage_bytes,
                requests_this_second: used.requests_this_second,
                storage_ops_this_second: used.storage_ops_this_second,
                egress_requests_today: used.day.egress_requests_count,
                egress_bytes_today: used.day.egress_bytes,
                log_bytes_today: used.day.log_bytes,
                audit_events_today: used.day.audit_events_count,
                plugins_count: self.parts.registry.plugins_count(store).await?,
            },
            throttled: QuotaThrottled {
                cpu_us: load.as_ref().map_or(0, |load| load.throttled_us),
                requests_count: used.requests_refused_count,
                concurrency_count: used.concurrency_refused_count,
                memory_count: used.memory_refused_count,
                storage_count: used.storage_refused_count,
                storage_ops_count: used.storage_ops_refused_count,
                egress_count: used.egress_refused_count,
                log_count: used.log_refused_count,
                audit_events_count: used.audit_events_refused_count,
                plugins_count: used.plugins_refused_count,
                component_bytes_count: used.component_bytes_refused_count,
            },
        };
        Ok(([(header::ETAG, etag(version))], Json(view)).into_response())
    }
}

fn etag(version: u64) -> String {
    format!("\"{version}\"")
}
