//! Durable workflows: begin runs, look at them, do things to them.
//!
//! Every act passes a permit for the run's plugin and stands on the audit log. Must never show a run to anyone who may not
//! read it, nor take a decision on an approval from anyone whom policy does not allow it at that moment.

mod change;
mod view;

pub use change::*;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use ringfence_audit::{Log, codes};
use ringfence_automation::workflow::{Begin, Filter, Head, Listed, Status, WorkflowError};
use ringfence_core::proof::act;
use ringfence_core::workflow::Place;
use ringfence_core::{Action, PluginName, Resource, RunId, TenantId};
use ringfence_engine::Export;
use ringfence_policy::Approval;
use ringfence_registry::VersionRef;
use ringfence_store::{PageToken, TenantStore};
use serde::Deserialize;
use serde_json::json;

use crate::Control;
use crate::call::{Call, Reached};
use crate::extract::{Asked, JsonBody};
use crate::problem::ApiError;
use crate::wire::{Page, Problem, QueryView, RunDetail, RunView, StartRun, WorkflowView};

/// The export by which a component has workflows.
const WORKFLOW_EXPORT: &str = "ringfence:plugin/workflow@0.1.0";

/// Which runs are looked for.
#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RunsAsked {
    /// What they are doing, such as `waiting`.
    pub status: Option<String>,
    /// Of this plugin.
    pub plugin: Option<String>,
    /// Of this workflow.
    pub workflow: Option<String>,
    /// With these attributes: `order=17,customer=acme`.
    pub attributes: Option<String>,
    /// Where the last page ended.
    pub cursor: Option<String>,
    /// Most items to answer; 100 when absent, 1000 at most.
    pub limit: Option<usize>,
}

/// Lists the plugins whose live version has workflows.
#[utoipa::path(get, path = "/tenants/{tenant}/workflows", tag = "workflows",
    responses((status = 200, body = Page<WorkflowView>), (status = "default", body = Problem)))]
pub async fn list_workflows(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<Page<WorkflowView>>, ApiError> {
    let reached = control.reach_tenant::<act::ReadPlugin>(&call, &tenant).await?;
    let plugins = control.parts.registry.plugins(reached.permit, &reached.store).await?;
    let mut items = Vec::new();
    for plugin in plugins {
        let Some(live) = plugin.live else { continue };
        let (reached, name) = control.reach_plugin::<act::ReadPlugin>(&call, &tenant, plugin.name.as_str()).await?;
        let detail = control.parts.registry.plugin(reached.permit, &reached.store, &name).await?;
        let version = detail.versions.iter().find(|version| version.label == live);
        if version.is_some_and(|version| version.exports.iter().any(|export| export == WORKFLOW_EXPORT)) {
            items.push(WorkflowView { plugin: plugin.name.to_string(), version: live.to_string() });
        }
    }
    Ok(Json(Page { items, cursor: None }))
}

/// Lists runs, the last begun first. A page may hold fewer than asked for and still have a cursor.
#[utoipa::path(get, path = "/tenants/{tenant}/runs", tag = "workflows", params(RunsAsked),
    responses((status = 200, body = Page<RunView>), (status = "default", body = Problem)))]
pub async fn list(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    Asked(asked): Asked<RunsAsked>,
) -> Result<Json<Page<RunView>>, ApiError> {
    let reached = control.reach_tenant::<act::ReadRun>(&call, &tenant).await?;
    let (limit, before) = (asked.limit.unwrap_or(100).clamp(1, 1_000), token(asked.cursor.as_deref())?);
    let filter = filter(asked)?;
    let Listed { heads, damaged, next } =
        control.parts.workflows.list(&reached.store, &filter, before.as_ref(), limit).await?;
    let items = heads.iter().map(RunView::of).chain(damaged.iter().map(RunView::damaged)).collect();
    Ok(Json(Page { items, cursor: next.map(|token| token.to_string()) }))
}

/// Begins a run.
#[utoipa::path(post, path = "/tenants/{tenant}/runs", tag = "workflows", request_body = StartRun,
    responses((status = 201, body = RunView), (status = 200, body = RunView, description = "it was begun before under this key"),
        (status = "default", body = Problem)))]
pub async fn start(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    JsonBody(body): JsonBody<StartRun>,
) -> Result<Response, ApiError> {
    let (reached, plugin) = control.reach_plugin::<act::StartRun>(&call, &tenant, &body.plugin).await?;
    let Reached { tenant, store, permit } = reached;
    let version = control.workflow_version(&tenant, &store, &plugin, None).await?;
    let workflow = body.workflow.unwrap_or_else(|| plugin.to_string());
    let known = &version.workflows;
    if !known.is_empty() && !known.contains(&workflow) {
        let text = format!("`{plugin}@{}` has no workflow `{workflow}`", version.label);
        return Err(ApiError::new("no-workflow", text).help(format!("it has {}", known.join(", "))));
    }
    let begin = Begin {
        workflow,
        plugin,
        version: version.label.clone(),
        input: body.input.to_string(),
        by: call.principal.id().clone(),
        attributes: body.attributes,
        key: body.key,
        led_by: None,
    };
    let details = json!({ "workflow": begin.workflow, "version": begin.version.to_string() });
    let log = Log::Tenant(store.clone());
    let (head, is_new) = control
        .bracket(&call, &log, permit, codes::RUN_STARTED, details, async |_permit| {
            Ok(control.parts.workflows.begin(&store, begin).await?)
        })
        .await?;
    let place = format!("/api/v1/tenants/{tenant}/runs/{}", head.run);
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, [(header::LOCATION, place)], Json(RunView::of(&head))).into_response())
}

/// Reads a run with its timeline.
#[utoipa::path(get, path = "/tenants/{tenant}/runs/{run}", tag = "workflows",
    responses((status = 200, body = RunDetail), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path((tenant, run)): Path<(String, String)>,
) -> Result<Json<RunDetail>, ApiError> {
    let (Reached { store, permit, .. }, run) = control.reach_run::<act::ReadRun>(&call, &tenant, &run).await?;
    let what = json!({ "view": "run", "of": format!("run/{run}") });
    control.reading(&call, &Log::Tenant(store.clone()), permit, what).await?;
    let shown = control.parts.workflows.show(&store, &run).await?;
    Ok(Json(RunDetail::of(&shown)))
}

/// Reads what a run published under a name.
#[utoipa::path(get, path = "/tenants/{tenant}/runs/{run}/queries/{name}", tag = "workflows",
    responses((status = 200, body = QueryView), (status = "default", body = Problem)))]
pub async fn query(
    State(control): State<Control>,
    call: Call,
    Path((tenant, run, name)): Path<(String, String, String)>,
) -> Result<Json<QueryView>, ApiError> {
    let (Reached { store, permit, .. }, run) = control.reach_run::<act::ReadRun>(&call, &tenant, &run).await?;
    let what = json!({ "view": "run-query", "of": format!("run/{run}"), "name": name });
    control.reading(&call, &Log::Tenant(store.clone()), permit, what).await?;
    let value = control.parts.workflows.published(&store, &run, &name).await?.ok_or_else(ApiError::not_found)?;
    Ok(Json(QueryView { value: view::json_of(&value), name }))
}

/// A run of which policy lets somebody decide what it asks for.
struct AskedRun {
    reached: Reached<act::ApproveRun>,
    run: RunId,
    /// What policy was told of it.
    approval: Option<Approval>,
    /// Where it asks.
    place: Option<Place>,
}

impl Control {
    /// Asks policy about the plugin of a run. Which plugin that is, is looked up before: nothing else of the run is.
    pub(crate) async fn reach_run<A: Action>(
        &self,
        call: &Call,
        tenant: &str,
        run: &str,
    ) -> Result<(Reached<A>, RunId), ApiError> {
        let (tenant, _, head) = self.known_run::<A>(call, tenant, run).await?;
        Ok((self.reach(call, Resource::Plugin { tenant, plugin: head.plugin }).await?, head.run))
    }

    /// The head of a run; nobody learns by it whether there is one: the tenant's boundary comes before any word about the run.
    async fn known_run<A: Action>(
        &self,
        call: &Call,
        tenant: &str,
        run: &str,
    ) -> Result<(TenantId, TenantStore, Head), ApiError> {
        let tenant: TenantId = tenant.parse().map_err(|_| ApiError::not_found())?;
        let mut damage = None;
        if let (Some(store), Ok(run)) = (self.parts.tenants.open_tenant(&tenant), run.parse::<RunId>()) {
            match self.parts.workflows.head(&store, &run).await {
                Ok(head) => return Ok((tenant, store, head)),
                Err(error) => damage = error.is_damage().then(|| damaged_run(&run)),
            }
        }
        drop(self.reach::<A>(call, Resource::Tenant { tenant }).await?.permit);
        Err(damage.unwrap_or_else(ApiError::not_found))
    }

    /// Asks policy whether one may decide what a run asks for under a name, as it is now; gives beside the run where it asks.
    async fn reach_asked(&self, call: &Call, (tenant, run): (&str, &str), name: &str) -> Result<AskedRun, ApiError> {
        let (tenant, store, head) = self.known_run::<act::ApproveRun>(call, tenant, run).await?;
        // SECURITY: of a stranger's question the run's history is not read: the time that takes would tell of it. Operators, of
        // whom no tenant's policies are asked, need none either.
        let is_own = call.principal.tenant() == Some(&tenant) && store.check_keys().is_ok();
        let asked = if is_own { self.parts.workflows.asked(&store, &head, name).await? } else { None };
        // SECURITY: of what was decided by the same request before, the run asks no more; who may be told of it is who may decide it,
        // if the run asked just now.
        let is_again = is_own && call.again.is_some();
        let waited_s = asked.as_ref().map(|asked| asked.waited_s).or_else(|| is_again.then_some(0));
        let approval = waited_s.map(|waited_s| Approval {
            name: name.to_owned(),
            began_by: head.starter().clone(),
            is_own: self.parts.identity.is_one_owner(head.starter(), call.principal.id()),
            waited_s,
        });
        let resource = Resource::Plugin { tenant, plugin: head.plugin };
        let reached = self.reach_approval(call, resource, approval.clone()).await?;
        Ok(AskedRun { reached, run: head.run, approval, place: asked.map(|asked| asked.place) })
    }

    /// The version that is asked for, or the live one; an error when it has no workflows.
    pub(crate) async fn workflow_version(
        &self,
        tenant: &TenantId,
        store: &TenantStore,
        plugin: &PluginName,
        asked: Option<&str>,
    ) -> Result<VersionRef, ApiError> {
        let registry = &self.parts.registry;
        let asked = asked.map(str::parse).transpose();
        let asked = asked.map_err(|_| ApiError::new("bad-word", "a version is such as `0.1.0`"))?;
        let none = || {
            ApiError::new("no-workflow", format!("nothing of `{plugin}` is deployed"))
                .help(format!("ringfence deploy {plugin}@VERSION"))
        };
        let route = registry.route(tenant, plugin).ok_or_else(none)?;
        let version = match asked {
            None => route.stable().clone(),
            Some(label) => registry.pinned(store, plugin, &label).await?.ok_or_else(|| {
                ApiError::new("version-not-found", format!("there is no version `{label}` of `{plugin}`"))
            })?,
        };
        if registry.compiled(&version).await?.has(Export::Workflow) {
            return Ok(version);
        }
        Err(ApiError::new("no-workflow", format!("`{plugin}@{}` has no workflows", version.label)))
    }
}

impl From<WorkflowError> for ApiError {
    fn from(error: WorkflowError) -> Self {
        use ringfence_automation::workflow::Refusal;
        match error {
            WorkflowError::UnknownRun => Self::not_found(),
            WorkflowError::OtherRun => Self::new("conflict", error.to_string()),
            WorkflowError::NoWorkflow(_) => Self::new("no-workflow", error.to_string()),
            WorkflowError::Limit { .. } | WorkflowError::Refused(Refusal::Limit { .. }) => {
                Self::new("workflow-limit", error.to_string())
            }
            WorkflowError::Refused(Refusal::BadName(_)) => Self::new("bad-word", error.to_string()),
            WorkflowError::NotJson(_) => Self::new("bad-json", error.to_string()),
            WorkflowError::Refused(Refusal::Ended) => Self::new("run-ended", error.to_string()),
            WorkflowError::Refused(Refusal::Nothing(_)) => Self::new("run-not-waiting", error.to_string()),
            WorkflowError::Refused(Refusal::SecondPerson(_)) => Self::new("second-person-needed", error.to_string()),
            WorkflowError::Store(error) => error.into(),
        }
    }
}

/// A run of which nobody knows what it is; only for who may read the tenant's.
fn damaged_run(run: &RunId) -> ApiError {
    ApiError::new("host-error", format!("the record of run `{run}` is damaged and does not open"))
        .help("restore a backup, or find it with `ringfence backup damage` and remove it")
}

fn token(cursor: Option<&str>) -> Result<Option<PageToken>, ApiError> {
    let parsed = cursor.map(str::parse).transpose();
    parsed.map_err(|_| ApiError::new("bad-cursor", "the cursor is not one of ours"))
}

fn filter(asked: RunsAsked) -> Result<Filter, ApiError> {
    let status = match asked.status.as_deref() {
        None => None,
        Some(word) => Some(Status::ALL.into_iter().find(|status| status.as_str() == word).ok_or_else(|| {
            let known = Status::ALL.map(Status::as_str).join(", ");
            ApiError::new("bad-word", format!("`{word}` is not what a run does: one of {known}"))
        })?),
    };
    let mut attributes = std::collections::BTreeMap::new();
    for pair in asked.attributes.iter().flat_map(|text| text.split(',')) {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| ApiError::new("bad-word", format!("`{pair}` is not an attribute: say `name=value`")))?;
        attributes.insert(name.to_owned(), value.to_owned());
    }
    let plugin = asked.plugin.map(|plugin| plugin.parse()).transpose()?;
    Ok(Filter { status, plugin, workflow: asked.workflow, attributes })
}
