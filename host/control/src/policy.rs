//! The tenant's own policy: read and replace. The platform's boundary stands above it, whatever it says.
//!
//! Must never take a text that the policy room has not checked, nor overwrite a change the caller has not seen.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, header};
use ringfence_audit::{Log, codes};
use ringfence_core::proof::act;
use ringfence_store::{Key, Op, Precondition, StoreError, TenantStore};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Control;
use crate::call::Call;
use crate::extract::JsonBody;
use crate::problem::ApiError;
use crate::wire::{PolicyText, PolicyView, Problem};

#[derive(Default, Serialize, Deserialize)]
struct Stored {
    text: String,
    version: u64,
}

/// Reads the tenant's policy.
#[utoipa::path(get, path = "/tenants/{tenant}/policy", tag = "policy",
    responses((status = 200, body = PolicyView), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Response, ApiError> {
    let reached = control.reach_tenant::<act::ReadPolicy>(&call, &tenant).await?;
    let stored: Stored = reached.store.get_json(&key()).await?.unwrap_or_default();
    Ok(answer(stored))
}

/// Replaces the tenant's policy; the next decision uses it. With `If-Match`, only when nobody changed it since.
#[utoipa::path(put, path = "/tenants/{tenant}/policy", tag = "policy", request_body = PolicyText,
    responses((status = 200, body = PolicyView), (status = "default", body = Problem)))]
pub async fn write(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    JsonBody(asked): JsonBody<PolicyText>,
) -> Result<Response, ApiError> {
    let reached = control.reach_tenant::<act::WritePolicy>(&call, &tenant).await?;
    let (id, store) = (reached.tenant, reached.store);
    control.parts.policy.check_tenant_policy(&id, &asked.text)?;
    let current = store.get(&key()).await?;
    let (before, condition) = match &current {
        None => (Stored::default(), Precondition::Absent(key())),
        Some(record) => (record.json::<Stored>()?, Precondition::Revision(key(), record.revision)),
    };
    let wanted = headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok());
    if wanted.is_some_and(|wanted| wanted != "*" && wanted != etag(before.version)) {
        return Err(ApiError::new("precondition-failed", "the policy was changed since you read it"));
    }
    let next = Stored { text: asked.text, version: before.version + 1 };
    let log = Log::Tenant(store.clone());
    control
        .bracket(
            &call,
            &log,
            reached.permit,
            codes::POLICY_WRITTEN,
            json!({ "version": next.version }),
            async |_permit| {
                match store.batch(vec![Op::put_json(key(), &next)?], vec![condition]).await {
                    Err(StoreError::Conflict { .. }) => {
                        return Err(ApiError::new("precondition-failed", "the policy was changed at the same moment"));
                    }
                    other => other?,
                };
                control.parts.policy.set_tenant_policy(&id, &next.text)?;
                Ok(())
            },
        )
        .await?;
    Ok(answer(next))
}

/// The stored policy text of a tenant, for the start of the host.
pub async fn stored_text(store: &TenantStore) -> Result<Option<String>, StoreError> {
    Ok(store.get_json::<Stored>(&key()).await?.map(|stored| stored.text))
}

fn answer(stored: Stored) -> Response {
    let tag = etag(stored.version);
    ([(header::ETAG, tag)], Json(PolicyView { text: stored.text, version: stored.version })).into_response()
}

fn etag(version: u64) -> String {
    format!("\"{version}\"")
}

fn key() -> Key {
    Key::new(["policy"])
}
