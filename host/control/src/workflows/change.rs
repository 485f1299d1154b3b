//! What is done to a run from outside: one endpoint an act, all through one bracket.

use axum::Json;
use axum::extract::{Path, State};
use ringfence_audit::{Log, codes};
use ringfence_automation::workflow::event::Basis;
use ringfence_automation::workflow::{Command, People};
use ringfence_core::proof::act;
use ringfence_core::{Action, PrincipalId, Resource, RunId};
use ringfence_policy::Approval;
use serde_json::json;

use super::AskedRun;
use crate::Control;
use crate::call::{Call, Reached};
use crate::extract::JsonBody;
use crate::problem::ApiError;
use crate::wire::{DecideRun, MigrateRun, Problem, RetryRun, RunView, SignalRun, TerminateRun};

type Answer = Result<Json<RunView>, ApiError>;

/// Sends a run a signal; it may come before the run waits for it.
#[utoipa::path(post, path = "/tenants/{tenant}/runs/{run}/signal", tag = "workflows", request_body = SignalRun,
    responses((status = 200, body = RunView), (status = "default", body = Problem)))]
pub async fn signal(
    State(control): State<Control>,
    call: Call,
    Path((tenant, run)): Path<(String, String)>,
    JsonBody(body): JsonBody<SignalRun>,
) -> Answer {
    let reached = control.reach_run::<act::StartRun>(&call, &tenant, &run).await?;
    let command = Command::Signal { name: body.name, payload: body.payload.to_string(), key: body.key };
    change(&control, &call, reached, codes::RUN_SIGNALLED, command).await
}

/// Asks a run to take back what it did, and end.
#[utoipa::path(post, path = "/tenants/{tenant}/runs/{run}/cancel", tag = "workflows",
    responses((status = 200, body = RunView), (status = "default", body = Problem)))]
pub async fn cancel(State(control): State<Control>, call: Call, Path((tenant, run)): Path<(String, String)>) -> Answer {
    let reached = control.reach_run::<act::ManageRun>(&call, &tenant, &run).await?;
    change(&control, &call, reached, codes::RUN_CHANGED, Command::Cancel).await
}

/// Ends a run where it stands: nothing is taken back.
#[utoipa::path(post, path = "/tenants/{tenant}/runs/{run}/terminate", tag = "workflows", request_body = TerminateRun,
    responses((status = 200, body = RunView), (status = "default", body = Problem)))]
pub async fn terminate(
    State(control): State<Control>,
    call: Call,
    Path((tenant, run)): Path<(String, String)>,
    JsonBody(body): JsonBody<TerminateRun>,
) -> Answer {
    let reached = control.reach_run::<act::ManageRun>(&call, &tenant, &run).await?;
    let reason = body.reason.chars().take(500).collect();
    change(&control, &call, reached, codes::RUN_CHANGED, Command::Terminate { reason }).await
}

/// Lets a run begin nothing more.
#[utoipa::path(post, path = "/tenants/{tenant}/runs/{run}/pause", tag = "workflows",
    responses((status = 200, body = RunView), (status = "default", body = Problem)))]
pub async fn pause(State(control): State<Control>, call: Call, Path((tenant, run)): Path<(String, String)>) -> Answer {
    let reached = control.reach_run::<act::ManageRun>(&call, &tenant, &run).await?;
    change(&control, &call, reached, codes::RUN_CHANGED, Command::Pause).await
}

/// Lets a paused run go on.
#[utoipa::path(post, path = "/tenants/{tenant}/runs/{run}/resume", tag = "workflows",
    responses((status = 200, body = RunView), (status = "default", body = Problem)))]
pub async fn resume(State(control): State<Control>, call: Call, Path((tenant, run)): Path<(String, String)>) -> Answer {
    let reached = control.reach_run::<act::ManageRun>(&call, &tenant, &run).await?;
    change(&control, &call, reached, codes::RUN_CHANGED, Command::Resume).await
}

/// Lets a stuck run go on, or does all from a place of its timeline again.
#[utoipa::path(post, path = "/tenants/{tenant}/runs/{run}/retry", tag = "workflows", request_body = RetryRun,
    responses((status = 200, body = RunView), (status = "default", body = Problem)))]
pub async fn retry(
    State(control): State<Control>,
    call: Call,
    Path((tenant, run)): Path<(String, String)>,
    JsonBody(body): JsonBody<RetryRun>,
) -> Answer {
    let reached = control.reach_run::<act::ManageRun>(&call, &tenant, &run).await?;
    let from = body.from.map(|place| place.parse()).transpose()?;
    change(&control, &call, reached, codes::RUN_CHANGED, Command::Retry { from }).await
}

/// Lets a run go on with another version of its plugin.
#[utoipa::path(post, path = "/tenants/{tenant}/runs/{run}/migrate", tag = "workflows", request_body = MigrateRun,
    responses((status = 200, body = RunView), (status = "default", body = Problem)))]
pub async fn migrate(
    State(control): State<Control>,
    call: Call,
    Path((tenant, run)): Path<(String, String)>,
    JsonBody(body): JsonBody<MigrateRun>,
) -> Answer {
    let reached = control.reach_run::<act::ManageRun>(&call, &tenant, &run).await?;
    let (at, id) = (&reached.0, &reached.1);
    let plugin = control.parts.workflows.head(&at.store, id).await?.plugin;
    let found = control.workflow_version(&at.tenant, &at.store, &plugin, body.version.as_deref()).await?;
    let version = found.label.clone();
    change(&control, &call, reached, codes::RUN_CHANGED, Command::Migrate { version }).await
}

/// Decides what a run asks people for. Whoever decides must be allowed to at this moment.
#[utoipa::path(post, path = "/tenants/{tenant}/runs/{run}/approve", tag = "workflows", request_body = DecideRun,
    responses((status = 200, body = RunView), (status = "default", body = Problem)))]
pub async fn decide(
    State(control): State<Control>,
    call: Call,
    Path((tenant, run)): Path<(String, String)>,
    JsonBody(body): JsonBody<DecideRun>,
) -> Answer {
    let AskedRun { reached, run, approval, place } =
        control.reach_asked(&call, (tenant.as_str(), run.as_str()), &body.name).await?;
    let (decision, resource) = (Some(reached.permit.decision().to_string()), reached.permit.resource().clone());
    let look = |who: &PrincipalId| basis(&control, (&resource, approval.as_ref()), who);
    let DecideRun { name, approved, note } = body;
    let command = Command::Decide { name, asked_at: place, approved, note, decision, basis: look(call.principal.id()) };
    change_by(&control, &call, (reached, run), (codes::RUN_DECIDED, command), &look).await
}

async fn change<A: Action>(
    control: &Control,
    call: &Call,
    reached: (Reached<A>, RunId),
    code: &'static str,
    command: Command,
) -> Answer {
    // Whose words count is asked where somebody decides, and nowhere else.
    change_by(control, call, reached, (code, command), &|_| Basis::Elsewhere).await
}

async fn change_by<A: Action>(
    control: &Control,
    call: &Call,
    (reached, run): (Reached<A>, RunId),
    (code, command): (&'static str, Command),
    basis: &(dyn Fn(&PrincipalId) -> Basis + Send + Sync),
) -> Answer {
    let Reached { store, permit, .. } = reached;
    let (log, by) = (Log::Tenant(store.clone()), call.principal.id().clone());
    let details = json!({ "run": run, "command": command.word() });
    let head = control
        .bracket(call, &log, permit, code, details, async |_permit| {
            let (workflows, identity) = (&control.parts.workflows, &control.parts.identity);
            let is_same = |who: &PrincipalId| identity.is_one_owner(who, &by);
            let people = People { is_same: &is_same, basis };
            Ok(workflows.command_by(&store, &run, &command, &by, people).await?)
        })
        .await?;
    Ok(Json(RunView::of(&head)))
}

/// What can be said of somebody's agreement to what a run asks without a session of his.
fn basis(control: &Control, (resource, asked): (&Resource, Option<&Approval>), who: &PrincipalId) -> Basis {
    let (identity, policy) = (&control.parts.identity, &control.parts.policy);
    let approval = asked.map(|asked| Approval { is_own: identity.is_one_owner(&asked.began_by, who), ..asked.clone() });
    match resource.tenant().and_then(|tenant| identity.absent(tenant, who)) {
        None => Basis::Elsewhere,
        Some(principal) if policy.would_allow_absent(&principal, resource, approval) => Basis::Allowed,
        Some(_) => Basis::Known,
    }
}
