//! The operator's ceiling over a tenant: what nothing in the tenant's own policy can allow.
//!
//! Must never hold a permit: what is allowed is what the ceiling does not forbid and the tenant's policies and roles
//! permit, and for a guest's host calls also what was granted.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, header};
use ringfence_audit::{Log, codes};
use ringfence_core::proof::act;
use ringfence_store::{Key, StoreError, TenantStore};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Control;
use crate::call::Call;
use crate::extract::JsonBody;
use crate::problem::ApiError;
use crate::wire::{CeilingText, PolicyView, Problem};

/// As it is stored.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) text: String,
    pub(crate) version: u64,
}

/// Reads the operator's ceiling over the tenant.
#[utoipa::path(get, path = "/tenants/{tenant}/ceiling", tag = "policy",
    responses((status = 200, body = PolicyView), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Response, ApiError> {
    let reached = control.reach_tenant::<act::ReadTenant>(&call, &tenant).await?;
    Ok(answer(stored(&reached.store).await?.unwrap_or_default()))
}

/// Replaces the operator's ceiling over the tenant; the next decision follows it.
#[utoipa::path(put, path = "/tenants/{tenant}/ceiling", tag = "policy", request_body = CeilingText,
    responses((status = 200, body = PolicyView), (status = "default", body = Problem)))]
pub async fn write(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    JsonBody(asked): JsonBody<CeilingText>,
) -> Result<Response, ApiError> {
    let reached = control.reach_tenant::<act::SetCeiling>(&call, &tenant).await?;
    let (id, store) = (reached.tenant, reached.store);
    let (of, text) = (id.clone(), asked.text.clone());
    control.aside(move |policy| policy.check_ceiling(&of, &text)).await?;
    let wanted = headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned);
    let log = Log::Tenant(store.clone());
    let next = control
        .bracket(&call, &log, reached.permit, codes::CEILING_WRITTEN, json!({}), async |_permit| {
            let _one = control.changing.of(id.clone()).await;
            let before = stored(&store).await?.unwrap_or_default();
            if wanted.is_some_and(|wanted| wanted != "*" && wanted != etag(before.version)) {
                return Err(ApiError::new("precondition-failed", "the ceiling was changed since you read it"));
            }
            let next = Stored { text: asked.text, version: before.version + 1 };
            store.put_json(&key(), &next).await?;
            let (of, text) = (id.clone(), next.text.clone());
            control.aside(move |policy| policy.set_ceiling(&of, &text)).await?;
            Ok(next)
        })
        .await?;
    control.mended(&id).await;
    Ok(answer(next))
}

/// The stored ceiling over a tenant.
pub(crate) async fn stored(store: &TenantStore) -> Result<Option<Stored>, StoreError> {
    store.get_json(&key()).await
}

fn answer(stored: Stored) -> Response {
    let tag = etag(stored.version);
    ([(header::ETAG, tag)], Json(PolicyView { text: stored.text, version: stored.version })).into_response()
}

fn etag(version: u64) -> String {
    format!("\"{version}\"")
}

pub(super) fn key() -> Key {
    Key::new(["policy-ceiling"])
}
