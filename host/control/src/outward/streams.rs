//! Streams of the caller's own audit log to places outside.
//!
//! Must never let anyone send a log out who may only read it.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;
use ringfence_core::proof::act;
use ringfence_outward::Carries;

use crate::Control;
use crate::call::Call;
use crate::extract::JsonBody;
use crate::problem::ApiError;
use crate::wire::{
    ChangeDestination, DestinationSecret, DestinationView, MadeDestination, NewDestination, Page, Problem,
    TestedDestination,
};

/// What is carried here.
const CARRIES: Carries = Carries::Audit;

/// Lists where the caller's own audit log is streamed to, by name, with how far each has come.
#[utoipa::path(get, path = "/audit/streams", tag = "audit", operation_id = "list_streams",
    responses((status = 200, body = Page<DestinationView>), (status = "default", body = Problem)))]
pub async fn list(State(control): State<Control>, call: Call) -> Result<Json<Page<DestinationView>>, ApiError> {
    let owner = control.owner::<act::ReadAudit>(&call).await?;
    Ok(control.destinations(&owner.scope, CARRIES).await)
}

/// Makes a stream of the caller's own audit log. A webhook's secret is in the answer, and nowhere else again.
#[utoipa::path(post, path = "/audit/streams", tag = "audit", operation_id = "make_stream", request_body = NewDestination,
    responses((status = 201, body = MadeDestination), (status = "default", body = Problem)))]
pub async fn make(
    State(control): State<Control>,
    call: Call,
    JsonBody(new): JsonBody<NewDestination>,
) -> Result<Response, ApiError> {
    let owner = control.owner::<act::StreamAudit>(&call).await?;
    control.make_destination(&call, owner, CARRIES, new).await
}

/// Reads a stream of the caller's own audit log, with how far it has come.
#[utoipa::path(get, path = "/audit/streams/{name}", tag = "audit", operation_id = "read_stream",
    responses((status = 200, body = DestinationView), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path(name): Path<String>,
) -> Result<Json<DestinationView>, ApiError> {
    let owner = control.owner::<act::ReadAudit>(&call).await?;
    Ok(Json(super::view(control.parts.outward.read(&owner.scope, CARRIES, &name).await?)))
}

/// Changes a stream of the caller's own audit log; one that was paused goes on where it stopped.
#[utoipa::path(put, path = "/audit/streams/{name}", tag = "audit", operation_id = "change_stream",
    request_body = ChangeDestination,
    responses((status = 200, body = DestinationView), (status = "default", body = Problem)))]
pub async fn change(
    State(control): State<Control>,
    call: Call,
    Path(name): Path<String>,
    JsonBody(change): JsonBody<ChangeDestination>,
) -> Result<Json<DestinationView>, ApiError> {
    let owner = control.owner::<act::StreamAudit>(&call).await?;
    control.change_destination(&call, owner, (CARRIES, &name), change).await
}

/// Deletes a stream of the caller's own audit log; nothing goes there any more when this is answered.
#[utoipa::path(delete, path = "/audit/streams/{name}", tag = "audit", operation_id = "delete_stream",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn delete(
    State(control): State<Control>,
    call: Call,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let owner = control.owner::<act::StreamAudit>(&call).await?;
    control.delete_destination(&call, owner, (CARRIES, &name)).await
}

/// Sends something made up there, and says whether it arrived.
#[utoipa::path(post, path = "/audit/streams/{name}/test", tag = "audit", operation_id = "test_stream",
    responses((status = 200, body = TestedDestination), (status = "default", body = Problem)))]
pub async fn test(
    State(control): State<Control>,
    call: Call,
    Path(name): Path<String>,
) -> Result<Json<TestedDestination>, ApiError> {
    let owner = control.owner::<act::StreamAudit>(&call).await?;
    control.test_destination(&call, owner, (CARRIES, &name)).await
}

/// Makes a new secret for a webhook; the one before is over at once.
#[utoipa::path(post, path = "/audit/streams/{name}/secret", tag = "audit", operation_id = "renew_stream_secret",
    responses((status = 200, body = DestinationSecret), (status = "default", body = Problem)))]
pub async fn secret(
    State(control): State<Control>,
    call: Call,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let owner = control.owner::<act::StreamAudit>(&call).await?;
    control.renew_destination(&call, owner, (CARRIES, &name)).await
}
