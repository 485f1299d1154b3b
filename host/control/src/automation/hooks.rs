//! Extension points (the operator's), bindings (the tenants'), and the product's calls of them.
//!
//! Must never show a tenant what another one bound.

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use ringfence_audit::{Log, codes};
use ringfence_automation::Effects;
use ringfence_automation::hooks::{Asked, Binding, BindingSpec, HookAnswer, Point, PointSpec};
use ringfence_capabilities::Trail;
use ringfence_core::proof::act;
use ringfence_core::{PluginName, Resource, ResourceName};
use serde_json::json;

use crate::Control;
use crate::call::Call;
use crate::extract::JsonBody;
use crate::problem::ApiError;
use crate::wire::{BindingView, CallHook, HookView, Page, PointView, Problem};

/// Lists the extension points of the product.
#[utoipa::path(get, path = "/hooks", tag = "automation",
    responses((status = 200, body = Page<PointView>), (status = "default", body = Problem)))]
pub async fn points(State(control): State<Control>, call: Call) -> Result<Json<Page<PointView>>, ApiError> {
    let _permit = control.reach_host::<act::ReadHost>(&call).await?;
    let items = control.parts.automation.points().into_iter().map(point_view).collect();
    Ok(Json(Page { items, cursor: None }))
}

/// Declares an extension point, or changes one. What would break plugins is refused while any is bound.
#[utoipa::path(put, path = "/hooks/{name}", tag = "automation", request_body = PointSpec,
    responses((status = 200, body = PointView), (status = "default", body = Problem)))]
pub async fn declare(
    State(control): State<Control>,
    call: Call,
    Path(name): Path<String>,
    JsonBody(spec): JsonBody<PointSpec>,
) -> Result<Json<PointView>, ApiError> {
    let permit = control.reach_host::<act::DeclareHook>(&call).await?;
    let name: ResourceName = name.parse()?;
    let details = json!({ "hook": name.as_str(), "mode": spec.mode });
    let point = control
        .bracket(&call, &Log::Host, permit, codes::HOOK_DECLARED, details, async |permit| {
            Ok(control.parts.automation.declare(&name, spec, permit.principal()).await?)
        })
        .await?;
    Ok(Json(point_view(point)))
}

/// Lists how an extension point was declared before, the last first: the last 32 declarations.
#[utoipa::path(get, path = "/hooks/{name}/earlier", tag = "automation",
    responses((status = 200, body = Page<PointView>), (status = "default", body = Problem)))]
pub async fn earlier(
    State(control): State<Control>,
    call: Call,
    Path(name): Path<String>,
) -> Result<Json<Page<PointView>>, ApiError> {
    let _permit = control.reach_host::<act::ReadHost>(&call).await?;
    let earlier = control.parts.automation.earlier(&name.parse()?).await?;
    Ok(Json(Page { items: earlier.into_iter().map(point_view).collect(), cursor: None }))
}

/// Withdraws an extension point; refused while any plugin is bound.
#[utoipa::path(delete, path = "/hooks/{name}", tag = "automation",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn withdraw(
    State(control): State<Control>,
    call: Call,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let permit = control.reach_host::<act::DeclareHook>(&call).await?;
    let name: ResourceName = name.parse()?;
    let details = json!({ "hook": name.as_str(), "deleted": true });
    control
        .bracket(&call, &Log::Host, permit, codes::HOOK_DECLARED, details, async |_permit| {
            Ok(control.parts.automation.withdraw(&name).await?)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists the extension points with what this tenant bound to each.
#[utoipa::path(get, path = "/tenants/{tenant}/hooks", tag = "automation",
    responses((status = 200, body = Page<HookView>), (status = "default", body = Problem)))]
pub async fn list(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<Page<HookView>>, ApiError> {
    let reached = control.reach_tenant::<act::ReadAutomation>(&call, &tenant).await?;
    let mut items = Vec::new();
    for point in control.parts.automation.points() {
        let bindings = control.parts.automation.bindings(&reached.store, &point.name).await?;
        items.push(HookView { point: point_view(point), bindings: bindings.into_iter().map(binding_view).collect() });
    }
    Ok(Json(Page { items, cursor: None }))
}

/// Binds a plugin to an extension point, or changes how it is bound.
#[utoipa::path(put, path = "/tenants/{tenant}/hooks/{name}/bindings/{plugin}", tag = "automation",
    request_body = BindingSpec,
    responses((status = 200, body = BindingView), (status = "default", body = Problem)))]
pub async fn bind(
    State(control): State<Control>,
    call: Call,
    Path((tenant, name, plugin)): Path<(String, String, String)>,
    JsonBody(spec): JsonBody<BindingSpec>,
) -> Result<Json<BindingView>, ApiError> {
    let reached = control.reach_tenant::<act::WriteAutomation>(&call, &tenant).await?;
    let (name, plugin): (ResourceName, PluginName) = (name.parse()?, plugin.parse()?);
    let log = Log::Tenant(reached.store.clone());
    let details = json!({ "hook": name.as_str(), "plugin": plugin.as_str(), "order": spec.order });
    let (tenant, store) = (reached.tenant, reached.store);
    let (binding, warnings) = control
        .bracket(&call, &log, reached.permit, codes::HOOK_BOUND, details, async |permit| {
            let automation = &control.parts.automation;
            Ok(automation.bind(&tenant, &store, &name, &plugin, spec, permit.principal()).await?)
        })
        .await?;
    Ok(Json(BindingView { warnings, ..binding_view(binding) }))
}

/// Takes a binding away.
#[utoipa::path(delete, path = "/tenants/{tenant}/hooks/{name}/bindings/{plugin}", tag = "automation",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn unbind(
    State(control): State<Control>,
    call: Call,
    Path((tenant, name, plugin)): Path<(String, String, String)>,
) -> Result<StatusCode, ApiError> {
    let reached = control.reach_tenant::<act::WriteAutomation>(&call, &tenant).await?;
    let (name, plugin): (ResourceName, PluginName) = (name.parse()?, plugin.parse()?);
    let log = Log::Tenant(reached.store.clone());
    let details = json!({ "hook": name.as_str(), "plugin": plugin.as_str(), "deleted": true });
    let store = reached.store;
    control
        .bracket(&call, &log, reached.permit, codes::HOOK_BOUND, details, async |_permit| {
            Ok(control.parts.automation.unbind(&store, &name, &plugin).await?)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Asks the tenant's plugins that are bound to an extension point, in order. Who calls needs the right to invoke each.
#[utoipa::path(post, path = "/tenants/{tenant}/hooks/{name}", tag = "automation", request_body = CallHook,
    responses((status = 200, body = HookAnswer), (status = "default", body = Problem)))]
pub async fn call(
    State(control): State<Control>,
    call: Call,
    Path((tenant, name)): Path<(String, String)>,
    JsonBody(body): JsonBody<CallHook>,
) -> Result<Json<HookAnswer>, ApiError> {
    ask(&control, &call, &tenant, &name, body, Effects::Real).await
}

/// Shows what a call would come to. The plugins read what they stored and change nothing, and nothing is queued.
#[utoipa::path(post, path = "/tenants/{tenant}/hooks/{name}/dry-run", tag = "automation", request_body = CallHook,
    responses((status = 200, body = HookAnswer), (status = "default", body = Problem)))]
pub async fn dry_run(
    State(control): State<Control>,
    call: Call,
    Path((tenant, name)): Path<(String, String)>,
    JsonBody(body): JsonBody<CallHook>,
) -> Result<Json<HookAnswer>, ApiError> {
    ask(&control, &call, &tenant, &name, body, Effects::Without).await
}

async fn ask(
    control: &Control,
    call: &Call,
    tenant: &str,
    name: &str,
    body: CallHook,
    effects: Effects,
) -> Result<Json<HookAnswer>, ApiError> {
    check_answerers(control, call, tenant, name).await?;
    // Each plugin that runs is a decision, an invocation and a record of its own; asking is none.
    let reached = control.reach_tenant::<act::CallHook>(call, tenant).await?;
    let hook: ResourceName = name.parse()?;
    let asked = Asked {
        tenant: &reached.tenant,
        store: &reached.store,
        hook: &hook,
        payload: body.payload,
        principal: &call.principal,
        peer: call.peer,
        effects,
        trail: Trail::of_trace(call.traceparent.clone()),
    };
    Ok(Json(control.parts.automation.ask(asked).await?))
}

/// Where this was answered before: whether the caller may still invoke each plugin that is bound. The kept answer is what they said, and
/// asking for the hook alone would tell it. SECURITY: of the caller's own tenant; what else there is, `reach_tenant` says.
async fn check_answerers(control: &Control, call: &Call, tenant: &str, name: &str) -> Result<(), ApiError> {
    let Some(own) = call.principal.tenant().filter(|own| call.again.is_some() && own.as_str() == tenant) else {
        return Ok(());
    };
    let (Some(store), Ok(hook)) = (control.parts.tenants.open_tenant(own), name.parse::<ResourceName>()) else {
        return Ok(());
    };
    for binding in control.parts.automation.bindings(&store, &hook).await? {
        let plugin = Resource::Plugin { tenant: own.clone(), plugin: binding.plugin };
        control.check_again::<act::Invoke>(call, &plugin).await?;
    }
    Ok(())
}

fn point_view(point: Point) -> PointView {
    PointView {
        name: point.name.to_string(),
        version: point.version,
        declaration: point.spec,
        declared_at: point.declared_at.to_string(),
        declared_by: point.declared_by.to_string(),
    }
}

fn binding_view(binding: Binding) -> BindingView {
    BindingView {
        hook: binding.hook.to_string(),
        plugin: binding.plugin.to_string(),
        point_version: binding.point_version,
        order: binding.spec.order,
        condition: binding.spec.condition,
        bound_at: binding.bound_at.to_string(),
        bound_by: binding.bound_by.to_string(),
        warnings: Vec::new(),
    }
}
