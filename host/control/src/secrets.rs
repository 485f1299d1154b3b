//! Secrets of a tenant: set, delete, list names. Write-only: no endpoint reads a value back.
//!
//! Must never log, echo or count the bytes of a value.

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use jiff::Timestamp;
use ringfence_audit::{Log, codes};
use ringfence_core::proof::act;
use ringfence_core::{Resource, ResourceName, TenantId, limits};
use ringfence_store::{Key, Op, Precondition};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Control;
use crate::call::Call;
use crate::extract::{Asked, Paging, RawBody};
use crate::problem::ApiError;
use crate::wire::{Page, Problem, SecretView};

#[derive(Serialize, Deserialize)]
struct About {
    name: ResourceName,
    set_at: Timestamp,
}

/// Lists the names of a tenant's secrets.
#[utoipa::path(get, path = "/tenants/{tenant}/secrets", tag = "secrets", params(Paging),
    responses((status = 200, body = Page<SecretView>), (status = "default", body = Problem)))]
pub async fn list(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    Asked(paging): Asked<Paging>,
) -> Result<Json<Page<SecretView>>, ApiError> {
    let reached = control.reach_tenant::<act::ListSecrets>(&call, &tenant).await?;
    let page = crate::host::scan(&reached.store, &Key::new(["secret-about"]), &paging).await?;
    let items = page
        .records
        .iter()
        .filter_map(|(_, record)| serde_json::from_slice::<About>(&record.value).ok())
        .map(|about| SecretView { name: about.name.to_string(), set_at: about.set_at.to_string() })
        .collect();
    Ok(Json(Page { items, cursor: page.next.map(|token| token.to_string()) }))
}

/// Sets a secret to the body's bytes.
#[utoipa::path(put, path = "/tenants/{tenant}/secrets/{name}", tag = "secrets",
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = SecretView), (status = "default", body = Problem)))]
pub async fn put(
    State(control): State<Control>,
    call: Call,
    Path((tenant, name)): Path<(String, String)>,
    RawBody(value): RawBody,
) -> Result<Json<SecretView>, ApiError> {
    let (name, resource) = named(&control, &call, &tenant, &name).await?;
    let reached = control.reach::<act::WriteSecret>(&call, resource).await?;
    if value.is_empty() || value.len() > limits::SECRET_BYTES_MAX {
        return Err(ApiError::new("bad-secret", format!("a secret is 1 to {} bytes", limits::SECRET_BYTES_MAX)));
    }
    let about = About { name: name.clone(), set_at: control.parts.clock.now() };
    let store = reached.store;
    let log = Log::Tenant(store.clone());
    let details = json!({ "name": name.as_str() });
    control
        .bracket(&call, &log, reached.permit, codes::SECRET_WRITTEN, details, async |_permit| {
            let ops = vec![
                Op::put(Key::new(["secret", name.as_str()]), value.to_vec()),
                Op::put_json(about_key(&name), &about)?,
            ];
            store.batch(ops, Vec::new()).await?;
            Ok(())
        })
        .await?;
    Ok(Json(SecretView { name: name.to_string(), set_at: about.set_at.to_string() }))
}

/// Deletes a secret.
#[utoipa::path(delete, path = "/tenants/{tenant}/secrets/{name}", tag = "secrets",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn delete(
    State(control): State<Control>,
    call: Call,
    Path((tenant, name)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let (name, resource) = named(&control, &call, &tenant, &name).await?;
    let reached = control.reach::<act::WriteSecret>(&call, resource).await?;
    let store = reached.store;
    if store.get(&about_key(&name)).await?.is_none() {
        return Err(ApiError::not_found());
    }
    let log = Log::Tenant(store.clone());
    let details = json!({ "name": name.as_str() });
    control
        .bracket(&call, &log, reached.permit, codes::SECRET_DELETED, details, async |_permit| {
            let key = Key::new(["secret", name.as_str()]);
            let ops = vec![Op::delete(key.clone()), Op::delete(about_key(&name))];
            store.batch(ops, vec![Precondition::Present(key)]).await?;
            Ok(())
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The boundary comes before any word about a malformed name.
async fn named(control: &Control, call: &Call, tenant: &str, name: &str) -> Result<(ResourceName, Resource), ApiError> {
    let tenant: TenantId = tenant.parse().map_err(|_| ApiError::not_found())?;
    match name.parse::<ResourceName>() {
        Ok(name) => Ok((name.clone(), Resource::Secret { tenant, name })),
        Err(error) => {
            control.reach_tenant::<act::ListSecrets>(call, tenant.as_str()).await?;
            Err(error.into())
        }
    }
}

fn about_key(name: &ResourceName) -> Key {
    Key::new(["secret-about", name.as_str()])
}
