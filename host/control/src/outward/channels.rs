//! Channels that tell people of the caller's own findings.
//!
//! Must never tell one owner of another's findings.

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
const CARRIES: Carries = Carries::Alerts;

/// Lists the channels that findings are told through, by name, with how far each has come.
#[utoipa::path(get, path = "/security/channels", tag = "security", operation_id = "list_channels",
    responses((status = 200, body = Page<DestinationView>), (status = "default", body = Problem)))]
pub async fn list(State(control): State<Control>, call: Call) -> Result<Json<Page<DestinationView>>, ApiError> {
    let owner = control.owner::<act::ReadThreat>(&call).await?;
    Ok(control.destinations(&owner.scope, CARRIES).await)
}

/// Makes a channel that the caller's own findings are told through. A webhook's secret is in the answer, and nowhere else again.
#[utoipa::path(post, path = "/security/channels", tag = "security", operation_id = "make_channel", request_body = NewDestination,
    responses((status = 201, body = MadeDestination), (status = "default", body = Problem)))]
pub async fn make(
    State(control): State<Control>,
    call: Call,
    JsonBody(new): JsonBody<NewDestination>,
) -> Result<Response, ApiError> {
    let owner = control.owner::<act::WriteThreat>(&call).await?;
    control.make_destination(&call, owner, CARRIES, new).await
}

/// Reads a channel that the caller's own findings are told through, with how far it has come.
#[utoipa::path(get, path = "/security/channels/{name}", tag = "security", operation_id = "read_channel",
    responses((status = 200, body = DestinationView), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path(name): Path<String>,
) -> Result<Json<DestinationView>, ApiError> {
    let owner = control.owner::<act::ReadThreat>(&call).await?;
    Ok(Json(super::view(control.parts.outward.read(&owner.scope, CARRIES, &name).await?)))
}

/// Changes a channel that the caller's own findings are told through; one that was paused goes on where it stopped.
#[utoipa::path(put, path = "/security/channels/{name}", tag = "security", operation_id = "change_channel",
    request_body = ChangeDestination,
    responses((status = 200, body = DestinationView), (status = "default", body = Problem)))]
pub async fn change(
    State(control): State<Control>,
    call: Call,
    Path(name): Path<String>,
    JsonBody(change): JsonBody<ChangeDestination>,
) -> Result<Json<DestinationView>, ApiError> {
    let owner = control.owner::<act::WriteThreat>(&call).await?;
    control.change_destination(&call, owner, (CARRIES, &name), change).await
}

/// Deletes a channel that the caller's own findings are told through; nothing goes there any more when this is answered.
#[utoipa::path(delete, path = "/security/channels/{name}", tag = "security", operation_id = "delete_channel",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn delete(
    State(control): State<Control>,
    call: Call,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let owner = control.owner::<act::WriteThreat>(&call).await?;
    control.delete_destination(&call, owner, (CARRIES, &name)).await
}

/// Sends something made up there, and says whether it arrived.
#[utoipa::path(post, path = "/security/channels/{name}/test", tag = "security", operation_id = "test_channel",
    responses((status = 200, body = TestedDestination), (status = "default", body = Problem)))]
pub async fn test(
    State(control): State<Control>,
    call: Call,
    Path(name): Path<String>,
) -> Result<Json<TestedDestination>, ApiError> {
    let owner = control.owner::<act::WriteThreat>(&call).await?;
    control.test_destination(&call, owner, (CARRIES, &name)).await
}

/// Makes a new secret for a webhook; the one before is over at once.
#[utoipa::path(post, path = "/security/channels/{name}/secret", tag = "security", operation_id = "renew_channel_secret",
    responses((status = 200, body = DestinationSecret), (status = "default", body = Problem)))]
pub async fn secret(
    State(control): State<Control>,
    call: Call,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let owner = control.owner::<act::WriteThreat>(&call).await?;
    control.renew_destination(&call, owner, (CARRIES, &name)).await
}
