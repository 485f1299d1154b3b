//! Configuration of a plugin: names and values that `wasi:config` shows to it. Not for secrets.

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use ringfence_audit::{Log, codes};
use ringfence_core::ResourceName;
use ringfence_core::proof::act;
use ringfence_store::{Key, Op, Segment};
use serde_json::json;

use crate::Control;
use crate::call::{Call, Reached};
use crate::extract::{Asked, JsonBody, Paging};
use crate::problem::ApiError;
use crate::wire::{ConfigValue, ConfigView, Page, Problem};

/// Longest value, bytes.
const VALUE_BYTES_MAX: usize = 16 << 10;

/// Lists a plugin's configuration.
#[utoipa::path(get, path = "/tenants/{tenant}/plugins/{plugin}/config", tag = "plugins", params(Paging),
    responses((status = 200, body = Page<ConfigView>), (status = "default", body = Problem)))]
pub async fn list(
    State(control): State<Control>,
    call: Call,
    Path((tenant, plugin)): Path<(String, String)>,
    Asked(paging): Asked<Paging>,
) -> Result<Json<Page<ConfigView>>, ApiError> {
    let (Reached { store, permit, .. }, plugin) =
        control.reach_plugin::<act::ReadConfig>(&call, &tenant, &plugin).await?;
    control.parts.registry.check_plugin(&store, &plugin).await?;
    let what = json!({ "view": "config", "of": format!("config/{plugin}") });
    control.reading(&call, &Log::Tenant(store.clone()), permit, what).await?;
    let page = crate::host::scan(&store, &Key::new(["config", plugin.as_str()]), &paging).await?;
    let items = page
        .records
        .iter()
        .filter_map(|(key, record)| match key.segments().last() {
            Some(Segment::Name(name)) => {
                Some(ConfigView { name: name.clone(), value: String::from_utf8_lossy(&record.value).into_owned() })
            }
            _ => None,
        })
        .collect();
    Ok(Json(Page { items, cursor: page.next.map(|token| token.to_string()) }))
}

/// Sets a configuration value; the plugin sees it on its next read.
#[utoipa::path(put, path = "/tenants/{tenant}/plugins/{plugin}/config/{name}", tag = "plugins", request_body = ConfigValue,
    responses((status = 200, body = ConfigView), (status = "default", body = Problem)))]
pub async fn put(
    State(control): State<Control>,
    call: Call,
    Path((tenant, plugin, name)): Path<(String, String, String)>,
    JsonBody(body): JsonBody<ConfigValue>,
) -> Result<Json<ConfigView>, ApiError> {
    let (reached, plugin) = control.reach_plugin::<act::WriteConfig>(&call, &tenant, &plugin).await?;
    let name: ResourceName = name.parse()?;
    if body.value.len() > VALUE_BYTES_MAX {
        return Err(ApiError::new("bad-config", format!("a value is at most {VALUE_BYTES_MAX} bytes")));
    }
    let store = reached.store;
    control.parts.registry.check_plugin(&store, &plugin).await?;
    let log = Log::Tenant(store.clone());
    let details = json!({ "name": name.as_str() });
    control
        .bracket(&call, &log, reached.permit, codes::CONFIG_WRITTEN, details, async |_permit| {
            let key = Key::new(["config", plugin.as_str(), name.as_str()]);
            let op = Op::put(key, body.value.clone().into_bytes());
            store.batch(vec![op], Vec::new()).await?;
            Ok(())
        })
        .await?;
    Ok(Json(ConfigView { name: name.to_string(), value: body.value }))
}

/// Deletes a configuration value.
#[utoipa::path(delete, path = "/tenants/{tenant}/plugins/{plugin}/config/{name}", tag = "plugins",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn delete(
    State(control): State<Control>,
    call: Call,
    Path((tenant, plugin, name)): Path<(String, String, String)>,
) -> Result<StatusCode, ApiError> {
    let (reached, plugin) = control.reach_plugin::<act::WriteConfig>(&call, &tenant, &plugin).await?;
    let name: ResourceName = name.parse()?;
    let store = reached.store;
    let key = Key::new(["config", plugin.as_str(), name.as_str()]);
    if store.get(&key).await?.is_none() {
        return Err(ApiError::not_found());
    }
    let log = Log::Tenant(store.clone());
    let details = json!({ "name": name.as_str(), "deleted": true });
    control
        .bracket(&call, &log, reached.permit, codes::CONFIG_WRITTEN, details, async |_permit| {
            store.batch(vec![Op::delete(key)], Vec::new()).await?;
            Ok(())
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
