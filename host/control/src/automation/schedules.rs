//! Schedules of a tenant: making them, letting them rest, running one at once.

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use ringfence_audit::{Log, codes};
use ringfence_automation::schedule::{LastRun, Schedule, ScheduleSpec};
use ringfence_core::ResourceName;
use ringfence_core::proof::act;
use serde_json::json;

use crate::Control;
use crate::call::{Call, Reached};
use crate::extract::JsonBody;
use crate::problem::ApiError;
use crate::wire::{Page, Problem, ScheduleView};

/// Lists the tenant's schedules, with when each runs next.
#[utoipa::path(get, path = "/tenants/{tenant}/schedules", tag = "automation",
    responses((status = 200, body = Page<ScheduleView>), (status = "default", body = Problem)))]
pub async fn list(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<Page<ScheduleView>>, ApiError> {
    let reached = control.reach_tenant::<act::ReadAutomation>(&call, &tenant).await?;
    let schedules = control.parts.automation.schedules(&reached.store).await?;
    let items = schedules.into_iter().map(|schedule| view(&control, schedule)).collect();
    Ok(Json(Page { items, cursor: None }))
}

/// Reads one schedule.
#[utoipa::path(get, path = "/tenants/{tenant}/schedules/{name}", tag = "automation",
    responses((status = 200, body = ScheduleView), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path((tenant, name)): Path<(String, String)>,
) -> Result<Json<ScheduleView>, ApiError> {
    let reached = control.reach_tenant::<act::ReadAutomation>(&call, &tenant).await?;
    let schedule = control.parts.automation.schedule(&reached.store, &name.parse()?).await?;
    Ok(Json(view(&control, schedule)))
}

/// Makes a schedule, or changes one. A changed one starts from now.
#[utoipa::path(put, path = "/tenants/{tenant}/schedules/{name}", tag = "automation", request_body = ScheduleSpec,
    responses((status = 200, body = ScheduleView), (status = "default", body = Problem)))]
pub async fn write(
    State(control): State<Control>,
    call: Call,
    Path((tenant, name)): Path<(String, String)>,
    JsonBody(spec): JsonBody<ScheduleSpec>,
) -> Result<Json<ScheduleView>, ApiError> {
    let reached = control.reach_tenant::<act::WriteAutomation>(&call, &tenant).await?;
    let name = name.parse()?;
    set(&control, &call, reached, name, spec).await
}

/// Deletes a schedule; a run that is under way goes on.
#[utoipa::path(delete, path = "/tenants/{tenant}/schedules/{name}", tag = "automation",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn delete(
    State(control): State<Control>,
    call: Call,
    Path((tenant, name)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let reached = control.reach_tenant::<act::WriteAutomation>(&call, &tenant).await?;
    let name: ResourceName = name.parse()?;
    let log = Log::Tenant(reached.store.clone());
    let details = json!({ "schedule": name.as_str(), "deleted": true });
    let store = reached.store;
    control
        .bracket(&call, &log, reached.permit, codes::SCHEDULE_WRITTEN, details, async |_permit| {
            Ok(control.parts.automation.delete_schedule(&store, &name).await?)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lets a schedule rest.
#[utoipa::path(post, path = "/tenants/{tenant}/schedules/{name}/pause", tag = "automation",
    responses((status = 200, body = ScheduleView), (status = "default", body = Problem)))]
pub async fn pause(
    State(control): State<Control>,
    call: Call,
    Path((tenant, name)): Path<(String, String)>,
) -> Result<Json<ScheduleView>, ApiError> {
    rest(&control, &call, &tenant, &name, |spec| spec.paused = true).await
}

/// Lets a schedule run again, from now on.
#[utoipa::path(post, path = "/tenants/{tenant}/schedules/{name}/resume", tag = "automation",
    responses((status = 200, body = ScheduleView), (status = "default", body = Problem)))]
pub async fn resume(
    State(control): State<Control>,
    call: Call,
    Path((tenant, name)): Path<(String, String)>,
) -> Result<Json<ScheduleView>, ApiError> {
    rest(&control, &call, &tenant, &name, |spec| spec.paused = false).await
}

/// Runs a schedule at once, on behalf of who calls; answered when it is over. Refused while a run is under way beside which none begins.
#[utoipa::path(post, path = "/tenants/{tenant}/schedules/{name}/run", tag = "automation",
    responses((status = 200, body = LastRun), (status = "default", body = Problem)))]
pub async fn run(
    State(control): State<Control>,
    call: Call,
    Path((tenant, name)): Path<(String, String)>,
) -> Result<Json<LastRun>, ApiError> {
    let reached = control.reach_tenant::<act::WriteAutomation>(&call, &tenant).await?;
    let name: ResourceName = name.parse()?;
    let log = Log::Tenant(reached.store.clone());
    let details = json!({ "schedule": name.as_str() });
    let (tenant, store) = (reached.tenant, reached.store);
    let asked = (call.principal.clone(), call.peer);
    let last = control
        .bracket(&call, &log, reached.permit, codes::SCHEDULE_RUN, details, async |_permit| {
            Ok(control.parts.automation.run_now(&tenant, &store, &name, asked).await?)
        })
        .await?;
    Ok(Json(last))
}

async fn rest(
    control: &Control,
    call: &Call,
    tenant: &str,
    name: &str,
    change: impl FnOnce(&mut ScheduleSpec),
) -> Result<Json<ScheduleView>, ApiError> {
    let reached = control.reach_tenant::<act::WriteAutomation>(call, tenant).await?;
    let name: ResourceName = name.parse()?;
    let mut spec = control.parts.automation.schedule(&reached.store, &name).await?.spec;
    change(&mut spec);
    set(control, call, reached, name, spec).await
}

async fn set(
    control: &Control,
    call: &Call,
    reached: Reached<act::WriteAutomation>,
    name: ResourceName,
    spec: ScheduleSpec,
) -> Result<Json<ScheduleView>, ApiError> {
    let Reached { tenant, store, permit } = reached;
    let log = Log::Tenant(store.clone());
    let details = json!({
        "schedule": name.as_str(), "plugin": spec.plugin.as_str(), "cron": spec.cron, "zone": spec.zone,
        "paused": spec.paused,
    });
    let schedule = control
        .bracket(call, &log, permit, codes::SCHEDULE_WRITTEN, details, async |permit| {
            let automation = &control.parts.automation;
            Ok(automation.set_schedule(&tenant, &store, &name, spec, permit.principal()).await?)
        })
        .await?;
    Ok(Json(view(control, schedule)))
}

fn view(control: &Control, schedule: Schedule) -> ScheduleView {
    let now = control.parts.clock.now();
    ScheduleView {
        next: schedule.next(now).iter().map(ToString::to_string).collect(),
        held_until: schedule.held_until(now).map(|until| until.to_string()),
        name: schedule.name.to_string(),
        settings: schedule.spec,
        running_count: schedule.begun.len() as u64,
        skipped_count: schedule.skipped_count,
        last: schedule.last,
        created_at: schedule.created_at.to_string(),
        created_by: schedule.created_by.to_string(),
    }
}
