//! Feeds of threat intelligence: collections of TAXII 2.1 servers, asked by the host.
//!
//! Must never show what a server is proven to with.

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use ringfence_audit::codes;
use ringfence_core::ResourceName;
use ringfence_core::proof::act;
use ringfence_keys::Secret;
use ringfence_outward::{FeedView, OutwardError, WantedFeed};
use ringfence_threat::intel::Trust;
use serde_json::json;

use crate::Control;
use crate::call::Call;
use crate::extract::JsonBody;
use crate::problem::ApiError;
use crate::wire::{FeedStatus, Page, Problem, PutFeed};

/// Lists the caller's own feeds, by name, with what came of each.
#[utoipa::path(get, path = "/security/feeds", tag = "security", operation_id = "list_feeds",
    responses((status = 200, body = Page<FeedStatus>), (status = "default", body = Problem)))]
pub async fn list(State(control): State<Control>, call: Call) -> Result<Json<Page<FeedStatus>>, ApiError> {
    let owner = control.owner::<act::ReadThreat>(&call).await?;
    let items = control.parts.outward.feeds(&owner.scope).into_iter().map(view).collect();
    Ok(Json(Page { items, cursor: None }))
}

/// Writes a feed; it is asked at once.
#[utoipa::path(put, path = "/security/feeds/{name}", tag = "security", operation_id = "put_feed", request_body = PutFeed,
    responses((status = 200, body = FeedStatus), (status = "default", body = Problem)))]
pub async fn put(
    State(control): State<Control>,
    call: Call,
    Path(name): Path<String>,
    JsonBody(asked): JsonBody<PutFeed>,
) -> Result<Json<FeedStatus>, ApiError> {
    let owner = control.owner::<act::WriteThreat>(&call).await?;
    let name: ResourceName = name.parse()?;
    let trust = Trust::of(asked.confidence_min, asked.half_life_days);
    let trust = trust.map_err(|what| OutwardError::BadFeed { what })?;
    let details = json!({
        "feed": name, "url": asked.url, "collection": asked.collection, "every_seconds": asked.every_seconds,
        "trust": trust,
    });
    let wanted = WantedFeed {
        url: asked.url,
        collection: asked.collection,
        authorization: asked.authorization.map(Secret::new),
        every_seconds: asked.every_seconds,
        trust,
    };
    let (scope, by) = (owner.scope, call.principal.id());
    let written = control
        .bracket(&call, &owner.log, owner.permit, codes::FEED_WRITTEN, details, async |_permit| {
            Ok(control.parts.outward.put_feed(&scope, name, by, wanted).await?)
        })
        .await?;
    Ok(Json(view(written)))
}

/// Deletes a feed. The indicators that came with it stay until they are over.
#[utoipa::path(delete, path = "/security/feeds/{name}", tag = "security", operation_id = "delete_feed",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn delete(
    State(control): State<Control>,
    call: Call,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let owner = control.owner::<act::WriteThreat>(&call).await?;
    let name: ResourceName = name.parse()?;
    let (scope, details) = (owner.scope, json!({ "feed": name }));
    control
        .bracket(&call, &owner.log, owner.permit, codes::FEED_DELETED, details, async |_permit| {
            Ok(control.parts.outward.delete_feed(&scope, name.as_str()).await?)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Asks a feed now; answered when it was asked, with what came of it.
#[utoipa::path(post, path = "/security/feeds/{name}/poll", tag = "security", operation_id = "poll_feed",
    responses((status = 200, body = FeedStatus), (status = "default", body = Problem)))]
pub async fn poll(
    State(control): State<Control>,
    call: Call,
    Path(name): Path<String>,
) -> Result<Json<FeedStatus>, ApiError> {
    let owner = control.owner::<act::WriteThreat>(&call).await?;
    let name: ResourceName = name.parse()?;
    let (scope, details) = (owner.scope, json!({ "feed": name, "asked": "now" }));
    let polled = control
        .bracket(&call, &owner.log, owner.permit, codes::FEED_WRITTEN, details, async |_permit| {
            Ok(control.parts.outward.poll_feed(&scope, name.as_str()).await?)
        })
        .await?;
    Ok(Json(view(polled)))
}

fn view(view: FeedView) -> FeedStatus {
    let FeedView { feed, state, freshness } = view;
    FeedStatus {
        name: feed.name.to_string(),
        url: feed.url,
        collection: feed.collection,
        every_seconds: feed.every_seconds,
        confidence_min: feed.trust.confidence_min,
        half_life_days: feed.trust.half_life_days,
        freshness: freshness.to_owned(),
        answered_at: state.answered_at.map(|at| at.to_string()),
        loaded_at: state.loaded_at.map(|at| at.to_string()),
        objects_count: state.objects_count,
        refused_count: state.refused_count,
        last_refused: state.last_refused,
        active_after_us: state.active_after_us,
        failures: state.failures,
        last_error: state.last_error,
        made_by: feed.made_by.to_string(),
    }
}
