//! Plugins: list, read, upload a version, compare two, grant, revoke, deploy, roll back. Walk 2 starts at [`push`].
//!
//! Must never read an upload's body before the permit, or move a route to a version whose needs are not granted.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::HeaderMap;
use bytes::Bytes;
use data_encoding::BASE64;
use futures::{Stream, StreamExt};
use http::StatusCode;
use ringfence_audit::{Log, codes};
use ringfence_core::proof::act;
use ringfence_core::{Capability, Grant, Grants, Manifest, ManifestError, Need, Needs, Permit, PluginName, limits};
use ringfence_policy::Particulars;
use ringfence_registry::{Announced, Registry, RegistryError, Room, RouteState, VersionRecord};
use ringfence_store::TenantStore;
use semver::Version;
use serde::Deserialize;
use serde_json::json;

use crate::Control;
use crate::call::Call;
use crate::extract::{Asked, JsonBody, Paging};
use crate::problem::ApiError;
use crate::wire::{
    CanaryView, Deploy, GrantScope, GrantView, NeedState, Page, PluginDetail, PluginView, Problem, Published,
    RouteView, VersionDiff, VersionView,
};

/// LIMIT: bytes of a refused upload that are read and thrown away.
const DRAIN_BYTES_MAX: usize = 8 << 20;
/// LIMIT: how long that may take.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// Lists a tenant's plugins.
#[utoipa::path(get, path = "/tenants/{tenant}/plugins", tag = "plugins", params(Paging),
    responses((status = 200, body = Page<PluginView>), (status = "default", body = Problem)))]
pub async fn list(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    Asked(paging): Asked<Paging>,
) -> Result<Json<Page<PluginView>>, ApiError> {
    let reached = control.reach_tenant::<act::ReadPlugin>(&call, &tenant).await?;
    let mut plugins = control.parts.registry.plugins(reached.permit, &reached.store).await?;
    plugins.sort_by(|a, b| a.name.cmp(&b.name));
    let after = paging.cursor.clone().unwrap_or_default();
    let mut rest = plugins.into_iter().filter(|plugin| plugin.name.as_str() > after.as_str());
    let items: Vec<PluginView> = rest
        .by_ref()
        .take(paging.limit())
        .map(|plugin| PluginView {
            path: plugin.live.as_ref().map(|_| format!("/{tenant}/{}/", plugin.name)),
            live: plugin.live.map(|version| version.to_string()),
            versions_count: plugin.versions_count,
            name: plugin.name.to_string(),
        })
        .collect();
    let cursor = rest.next().and_then(|_| items.last().map(|last| last.name.clone()));
    Ok(Json(Page { items, cursor }))
}

/// Reads a plugin with its versions, route, needs and grants.
#[utoipa::path(get, path = "/tenants/{tenant}/plugins/{plugin}", tag = "plugins",
    responses((status = 200, body = PluginDetail), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path((tenant, plugin)): Path<(String, String)>,
) -> Result<Json<PluginDetail>, ApiError> {
    let (reached, plugin) = control.reach_plugin::<act::ReadPlugin>(&call, &tenant, &plugin).await?;
    let detail = control.parts.registry.plugin(reached.permit, &reached.store, &plugin).await?;
    let mut versions = detail.versions;
    versions.sort_by(|a, b| b.label.cmp(&a.label));
    let live = detail.route.as_ref().map(|route| route.stable.clone());
    let shown = versions.iter().find(|version| Some(&version.label) == live.as_ref()).or_else(|| versions.first());
    let needs = shown.map(|version| need_states(&version.needs, &detail.grants, &[])).unwrap_or_default();
    Ok(Json(PluginDetail {
        name: plugin.to_string(),
        route: detail.route.map(|route| route_view(&tenant, plugin.as_str(), &route)),
        grants: grant_views(&detail.grants),
        versions: versions.into_iter().map(version_view).collect(),
        needs,
    }))
}

/// Uploads a version. The body is the component; `Ringfence-Manifest` carries the base64 of `plugin.toml`.
#[utoipa::path(put, path = "/tenants/{tenant}/plugins/{plugin}/versions/{version}", tag = "plugins",
    params(("Ringfence-Manifest" = Option<String>, Header, description = "base64 of plugin.toml")),
    request_body(content = Vec<u8>, content_type = "application/wasm"),
    responses((status = 201, body = Published), (status = 200, body = Published), (status = "default", body = Problem)))]
pub async fn push(
    State(control): State<Control>,
    call: Call,
    Path((tenant, plugin, version)): Path<(String, String, String)>,
    request: Request,
) -> Result<(StatusCode, Json<Published>), ApiError> {
    let (head, body) = request.into_parts();
    let mut body = idle_capped(body.into_data_stream());
    let pushed = control.push(&call, &tenant, &plugin, &version, &head.headers, &mut body).await;
    if pushed.is_err() {
        drain(&mut body).await;
    }
    pushed
}

impl Control {
    /// Whether a version was pushed by the caller or by somebody who is no second person beside him: of one owner, invited by him
    /// just now, or not to be traced. None for a version that is not there, and for callers who are not of the tenant: nothing of
    /// it is looked at for them.
    async fn is_pushed_by_caller(&self, call: &Call, tenant: &str, plugin: &str, label: &Version) -> Option<bool> {
        let own = call.principal.tenant().filter(|own| own.as_str() == tenant)?;
        let (store, plugin) = (self.parts.tenants.open_tenant(own)?, plugin.parse::<PluginName>().ok()?);
        let pushed_by = self.parts.registry.publisher(&store, &plugin, label).await.ok().flatten()?;
        Some(!self.parts.identity.is_second_person(&pushed_by, call.principal.id()))
    }

    /// Takes a capability away, on the record.
    pub(crate) async fn revoke_grant(
        &self,
        call: &Call,
        permit: Permit<act::GrantCapability>,
        store: &TenantStore,
        plugin: &PluginName,
        capability: Capability,
    ) -> Result<Grants, ApiError> {
        let details = json!({ "capability": capability.as_str() });
        let log = Log::Tenant(store.clone());
        self.bracket(call, &log, permit, codes::CAPABILITY_REVOKED, details, async |permit| {
            let left = self.parts.registry.revoke(permit, store, plugin, capability).await?;
            self.forget_grant(store, plugin, capability).await;
            Ok(left)
        })
        .await
    }

    async fn push(
        &self,
        call: &Call,
        tenant: &str,
        plugin: &str,
        version: &str,
        headers: &HeaderMap,
        body: &mut (impl Stream<Item = Result<Bytes, String>> + Unpin + Send),
    ) -> Result<(StatusCode, Json<Published>), ApiError> {
        let (reached, plugin) = self.reach_plugin::<act::PushVersion>(call, tenant, plugin).await?;
        let label = parse_version(version)?;
        let manifest = manifest_of(headers, plugin.as_str(), &label)?;
        if headers.contains_key("ringfence-signature") {
            return Err(ApiError::new(
                "signature-unsupported",
                "this host does not check signatures yet, so it does not take them",
            ));
        }
        let store = reached.store;
        let ledger = self.parts.quotas.of(&reached.tenant).ok_or_else(ApiError::not_found)?;
        let quota = ledger.quota();
        let room = Room { plugins_count: quota.plugins_count, component_bytes: quota.component_bytes };
        let length = headers.get(http::header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let announced = Announced { manifest, bytes: length.and_then(|length| length.parse().ok()), room };
        let log = Log::Tenant(store.clone());
        let details = json!({ "version": label.to_string() });
        let published = self
            .bracket(call, &log, reached.permit, codes::VERSION_PUSHED, details, async |permit| {
                let pushed = self.parts.registry.push(permit, &store, &plugin, &label, announced, body).await;
                if let Err(RegistryError::Quota(over)) = &pushed {
                    ledger.not_uploaded(over);
                }
                Ok(pushed?)
            })
            .await?;
        let grants = self.parts.registry.grants(&store, &plugin).await?;
        let status = if published.created { StatusCode::CREATED } else { StatusCode::OK };
        Ok((
            status,
            Json(Published {
                plugin: plugin.to_string(),
                version: label.to_string(),
                digest: published.digest.to_string(),
                bytes: published.bytes,
                created: published.created,
                needs: need_states(&published.needs, &grants, &published.added),
                previous: published.previous.map(|version| version.to_string()),
                compile_ms: published.compile_ms,
            }),
        ))
    }
}

/// The two versions of a comparison.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Between {
    /// The older version.
    from: String,
    /// The newer version.
    to: String,
}

/// Compares two versions: needs, sizes.
#[utoipa::path(get, path = "/tenants/{tenant}/plugins/{plugin}/diff", tag = "plugins", params(Between),
    responses((status = 200, body = VersionDiff), (status = "default", body = Problem)))]
pub async fn diff(
    State(control): State<Control>,
    call: Call,
    Path((tenant, plugin)): Path<(String, String)>,
    between: Result<Asked<Between>, ApiError>,
) -> Result<Json<VersionDiff>, ApiError> {
    let (reached, plugin) = control.reach_plugin::<act::ReadPlugin>(&call, &tenant, &plugin).await?;
    // The boundary comes before any word about the query.
    let Asked(between) = between?;
    let (from, to) = (parse_version(&between.from)?, parse_version(&between.to)?);
    let detail = control.parts.registry.plugin(reached.permit, &reached.store, &plugin).await?;
    let find = |label: &Version| {
        detail
            .versions
            .iter()
            .find(|version| version.label == *label)
            .ok_or_else(|| ApiError::new("version-not-found", format!("`{plugin}@{label}` does not exist")))
    };
    let (older, newer) = (find(&from)?, find(&to)?);
    let added = Needs(newer.needs.added_since(&older.needs));
    let removed = Needs(older.needs.added_since(&newer.needs));
    let kept: Vec<NeedState> =
        need_states(&newer.needs, &detail.grants, &added.0).into_iter().filter(|need| !need.is_new).collect();
    Ok(Json(VersionDiff {
        from: from.to_string(),
        to: to.to_string(),
        added: need_states(&added, &detail.grants, &added.0),
        removed: need_states(&removed, &detail.grants, &[]),
        kept,
        from_bytes: older.bytes,
        to_bytes: newer.bytes,
        same_digest: older.digest == newer.digest,
    }))
}

/// Lists the grants of a plugin.
#[utoipa::path(get, path = "/tenants/{tenant}/plugins/{plugin}/grants", tag = "plugins",
    responses((status = 200, body = Page<GrantView>), (status = "default", body = Problem)))]
pub async fn grants(
    State(control): State<Control>,
    call: Call,
    Path((tenant, plugin)): Path<(String, String)>,
) -> Result<Json<Page<GrantView>>, ApiError> {
    let (reached, plugin) = control.reach_plugin::<act::ReadPlugin>(&call, &tenant, &plugin).await?;
    let grants = control.parts.registry.grants(&reached.store, &plugin).await?;
    Ok(Json(Page { items: grant_views(&grants), cursor: None }))
}

/// Grants a capability to a plugin; a scope is joined to what is granted already.
#[utoipa::path(put, path = "/tenants/{tenant}/plugins/{plugin}/grants/{capability}", tag = "plugins", request_body = GrantScope,
    responses((status = 200, body = Page<GrantView>), (status = "default", body = Problem)))]
pub async fn grant(
    State(control): State<Control>,
    call: Call,
    Path((tenant, plugin, capability)): Path<(String, String, String)>,
    JsonBody(asked): JsonBody<GrantScope>,
) -> Result<Json<Page<GrantView>>, ApiError> {
    // Rules read what is granted as it is kept. What can be no grant is asked for without it, before any word about it.
    let grant = capability.parse::<Capability>().map_err(ApiError::from);
    let grant = grant
        .and_then(|capability| Registry::check_grant(Grant { capability, scope: asked.scope }).map_err(ApiError::from));
    let about = grant
        .as_ref()
        .ok()
        .map(|grant| Particulars::Grant { capability: grant.capability, scope: grant.scope.iter().cloned().collect() });
    let (reached, plugin) =
        control.reach_plugin_for::<act::GrantCapability>(&call, (tenant.as_str(), plugin.as_str()), about).await?;
    let (grant, store) = (grant?, reached.store);
    let capability = grant.capability;
    let log = Log::Tenant(store.clone());
    let details = json!({ "capability": capability.as_str(), "scope": grant.scope });
    let grants = control
        .bracket(&call, &log, reached.permit, codes::CAPABILITY_GRANTED, details, async |permit| {
            let by = permit.principal().clone();
            let granted = control.parts.registry.grant(permit, &store, &plugin, grant).await?;
            control.note_grant(&store, &plugin, capability, &by).await;
            Ok(granted)
        })
        .await?;
    Ok(Json(Page { items: grant_views(&grants), cursor: None }))
}

/// Takes a capability away from a plugin; its next host call is refused.
#[utoipa::path(delete, path = "/tenants/{tenant}/plugins/{plugin}/grants/{capability}", tag = "plugins",
    responses((status = 200, body = Page<GrantView>), (status = "default", body = Problem)))]
pub async fn revoke(
    State(control): State<Control>,
    call: Call,
    Path((tenant, plugin, capability)): Path<(String, String, String)>,
) -> Result<Json<Page<GrantView>>, ApiError> {
    let (reached, plugin) = control.reach_plugin::<act::GrantCapability>(&call, &tenant, &plugin).await?;
    let capability: Capability = capability.parse()?;
    let grants = control.revoke_grant(&call, reached.permit, &reached.store, &plugin, capability).await?;
    Ok(Json(Page { items: grant_views(&grants), cursor: None }))
}

/// Moves a plugin's route to a version, or a share of it.
#[utoipa::path(post, path = "/tenants/{tenant}/plugins/{plugin}/deploy", tag = "plugins", request_body = Deploy,
    responses((status = 200, body = RouteView), (status = "default", body = Problem)))]
pub async fn deploy(
    State(control): State<Control>,
    call: Call,
    Path((tenant, plugin)): Path<(String, String)>,
    JsonBody(asked): JsonBody<Deploy>,
) -> Result<Json<RouteView>, ApiError> {
    let label = parse_version(&asked.version);
    let pushed_by_caller = match &label {
        Ok(label) => control.is_pushed_by_caller(&call, &tenant, &plugin, label).await,
        Err(_) => None,
    };
    let percent = asked.percent.unwrap_or(100);
    let about = label.as_ref().ok().zip(pushed_by_caller).map(|(label, pushed_by_caller)| Particulars::Deploy {
        pushed_by_caller,
        version: label.to_string(),
        percent,
    });
    let (reached, plugin) =
        control.reach_plugin_for::<act::DeployVersion>(&call, (tenant.as_str(), plugin.as_str()), about).await?;
    let label = label?;
    if !(1..=100).contains(&percent) {
        return Err(ApiError::new("bad-percent", "`percent` is 1 to 100"));
    }
    let store = reached.store;
    let log = Log::Tenant(store.clone());
    let details = json!({ "version": label.to_string(), "percent": percent });
    let result = control
        .bracket(&call, &log, reached.permit, codes::VERSION_DEPLOYED, details, async |permit| {
            if pushed_by_caller.is_none() {
                // SECURITY: one that came after the question was put is one that no rule was asked about.
                let _known = control.parts.registry.grants(&store, &plugin).await?;
                let missing = RegistryError::VersionNotFound { plugin: plugin.clone(), version: label.clone() };
                return Err(ApiError::from(missing));
            }
            let deployed = control.parts.registry.deploy(permit, &store, &plugin, &label, asked.percent).await;
            match deployed {
                Err(RegistryError::NeedNotGranted { missing, needs, added, .. }) => {
                    let grants = control.parts.registry.grants(&store, &plugin).await?;
                    Err(not_granted(&tenant, plugin.as_str(), &label, &missing, need_states(&needs, &grants, &added)))
                }
                other => Ok(other?),
            }
        })
        .await?;
    Ok(Json(route_view(&tenant, plugin.as_str(), &result)))
}

/// Moves a plugin's route back to the version before.
#[utoipa::path(post, path = "/tenants/{tenant}/plugins/{plugin}/rollback", tag = "plugins",
    responses((status = 200, body = RouteView), (status = "default", body = Problem)))]
pub async fn rollback(
    State(control): State<Control>,
    call: Call,
    Path((tenant, plugin)): Path<(String, String)>,
) -> Result<Json<RouteView>, ApiError> {
    let (reached, plugin) = control.reach_plugin::<act::DeployVersion>(&call, &tenant, &plugin).await?;
    let store = reached.store;
    let log = Log::Tenant(store.clone());
    let state = control
        .bracket(&call, &log, reached.permit, codes::VERSION_ROLLED_BACK, json!({}), async |permit| {
            Ok(control.parts.registry.rollback(permit, &store, &plugin).await?)
        })
        .await?;
    Ok(Json(route_view(&tenant, plugin.as_str(), &state)))
}

/// The needs of a version beside the grants, one row a named thing.
fn need_states(needs: &Needs, grants: &Grants, added: &[Need]) -> Vec<NeedState> {
    let is_new = |need: &Need, name: Option<&String>| {
        added.iter().any(|new| {
            new.capability == need.capability
                && name.is_none_or(|name| new.scope.contains(name) || new.scope.is_empty())
        })
    };
    needs
        .0
        .iter()
        .flat_map(|need| {
            let row = |scope: Option<&String>, granted: bool| NeedState {
                capability: need.capability.to_string(),
                scope: scope.cloned(),
                granted,
                is_new: is_new(need, scope),
            };
            if need.scope.is_empty() {
                vec![row(None, grants.get(need.capability).is_some())]
            } else {
                need.scope.iter().map(|name| row(Some(name), grants.covers(need.capability, name))).collect()
            }
        })
        .collect()
}

fn not_granted(tenant: &str, plugin: &str, version: &Version, missing: &[Need], needs: Vec<NeedState>) -> ApiError {
    let first = missing.first();
    let word = first.map_or("a capability", |need| need.capability.as_str());
    let command = first.map_or_else(String::new, |need| {
        let scope = match need.scope.is_empty() {
            true => need.capability.name_to_say().unwrap_or_default().to_owned(),
            false => need.scope.join(" "),
        };
        format!("ringfence grant {plugin} {} {scope}", need.capability).trim_end().to_owned()
    });
    let mut error = ApiError::new(
        "need-not-granted",
        format!("`{plugin}@{version}` needs `{word}`, which tenant `{tenant}` has not granted"),
    )
    .help(command);
    error.needs = needs.into_boxed_slice();
    error
}

fn grant_views(grants: &Grants) -> Vec<GrantView> {
    grants.iter().map(|grant| GrantView { capability: grant.capability.to_string(), scope: grant.scope }).collect()
}

fn version_view(version: VersionRecord) -> VersionView {
    VersionView {
        version: version.label.to_string(),
        digest: version.digest.to_string(),
        bytes: version.bytes,
        world: crate::host::word(&version.world),
        needs: version.needs.0,
        pushed_at: version.pushed_at.to_string(),
        pushed_by: version.pushed_by.to_string(),
    }
}

fn route_view(tenant: &str, plugin: &str, state: &RouteState) -> RouteView {
    RouteView {
        path: format!("/{tenant}/{plugin}/"),
        version: state.stable.to_string(),
        canary: state
            .canary
            .as_ref()
            .map(|canary| CanaryView { version: canary.label.to_string(), percent: canary.percent }),
        previous: state.previous.as_ref().map(ToString::to_string),
    }
}

fn parse_version(text: &str) -> Result<Version, ApiError> {
    Version::parse(text).map_err(|_| {
        let shown: String = text.chars().take(40).collect();
        ApiError::new("bad-version", format!("`{shown}` is not a version: write it as `1.2.3`"))
    })
}

/// The uploaded manifest, or the least one when none was sent.
fn manifest_of(headers: &HeaderMap, plugin: &str, label: &Version) -> Result<Manifest, ApiError> {
    let Some(value) = headers.get("ringfence-manifest") else {
        let text = format!("[plugin]\nname = \"{plugin}\"\nversion = \"{label}\"\n");
        return Manifest::parse(&text).map_err(|error| manifest_error(&error));
    };
    let bad = |why: &str| ApiError::new("bad-manifest", format!("the `Ringfence-Manifest` header {why}"));
    let bytes = BASE64.decode(value.as_bytes()).map_err(|_| bad("is not base64"))?;
    let text = String::from_utf8(bytes).map_err(|_| bad("is not UTF-8"))?;
    Manifest::parse(&text).map_err(|error| manifest_error(&error))
}

fn manifest_error(error: &ManifestError) -> ApiError {
    let place = if error.line == 0 { String::new() } else { format!("plugin.toml:{}:{}: ", error.line, error.column) };
    ApiError::new("bad-manifest", format!("{place}{}", error.message))
}

/// Reads on a little after a refusal: a client that is still sending would otherwise meet a closed connection before it
/// reads why.
async fn drain(body: &mut (impl Stream<Item = Result<Bytes, String>> + Unpin)) {
    let mut left = DRAIN_BYTES_MAX;
    let reading = async {
        while let Some(Ok(bytes)) = body.next().await {
            match left.checked_sub(bytes.len()) {
                Some(less) => left = less,
                None => return,
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN_TIME_MAX, reading).await;
}

/// Ends an upload that stops arriving.
fn idle_capped<S, E>(body: S) -> impl Stream<Item = Result<Bytes, String>> + Unpin + Send
where
    S: Stream<Item = Result<Bytes, E>> + Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    Box::pin(futures::stream::unfold(Some(Box::pin(body)), |body| async move {
        let mut body = body?;
        let wait = Duration::from_millis(limits::BODY_IDLE_MS_MAX);
        match tokio::time::timeout(wait, body.next()).await {
            Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(body))),
            Ok(Some(Err(error))) => Some((Err(error.to_string()), None)),
            Ok(None) => None,
            Err(_) => Some((Err("the upload stopped arriving".to_owned()), None)),
        }
    }))
    // Fused: it is asked once more after its end when what is left of a refused upload is read away.
    .fuse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_helps_a_refused_deployment_is_a_command_that_can_be_given() {
        let help = |capability: Capability, scope: &[&str]| {
            let need = Need { capability, scope: scope.iter().map(|&word| word.to_owned()).collect() };
            not_granted("acme", "visits", &Version::new(0, 1, 0), &[need], Vec::new()).help.unwrap()
        };
        assert_eq!(help(Capability::Http, &[]), "ringfence grant visits http ORIGIN");
        assert_eq!(help(Capability::Http, &["https://a.example"]), "ringfence grant visits http https://a.example");
        assert_eq!(help(Capability::Queue, &[]), "ringfence grant visits queue QUEUE");
        assert_eq!(help(Capability::Runs, &[]), "ringfence grant visits runs PLUGIN/WORKFLOW");
        assert_eq!(help(Capability::Config, &[]), "ringfence grant visits config");
    }
}
