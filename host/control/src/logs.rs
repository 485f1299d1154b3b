//! Guest logs and invocation records of a plugin: pages, and a live tail as server-sent events.
//!
//! Must never buffer a slow reader's lines without a bound: what a reader misses is counted and told to him.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use ringfence_audit::{InvocationRecord, Log};
use ringfence_capabilities::StoredLine;
use ringfence_core::proof::act;
use ringfence_core::{InvocationId, limits};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use crate::Control;
use crate::call::{Call, Reached};
use crate::extract::{Asked, Paging};
use crate::problem::ApiError;
use crate::wire::{InvocationView, LogLineView, Page, Problem};

/// Where to read a log from.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct LogQuery {
    /// Lines after this position; the newest page when absent.
    since: Option<u64>,
    /// Most lines to answer; 100 when absent.
    limit: Option<usize>,
    /// `true`: server-sent events, from `since` on, until the reader goes away.
    follow: Option<bool>,
}

/// Reads or follows a plugin's guest log.
#[utoipa::path(get, path = "/tenants/{tenant}/plugins/{plugin}/logs", tag = "plugins", params(LogQuery),
    responses((status = 200, body = Page<LogLineView>), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path((tenant, plugin)): Path<(String, String)>,
    Asked(query): Asked<LogQuery>,
) -> Result<Response, ApiError> {
    let (Reached { store, permit, .. }, plugin) =
        control.reach_plugin::<act::ReadLogs>(&call, &tenant, &plugin).await?;
    control.parts.registry.check_plugin(&store, &plugin).await?;
    let limit = query.limit.unwrap_or(100).clamp(1, limits::PAGE_COUNT_MAX);
    // Whoever follows is on the record once, as he begins.
    let what = json!({ "view": "logs", "of": format!("logs/{plugin}"), "limit": limit, "follow": query.follow });
    control.reading(&call, &Log::Tenant(store.clone()), permit, what).await?;
    let log = control.parts.logs.of(&store, &plugin);
    if query.follow == Some(true) {
        // Subscribed before the page is read, so that no line falls between the two.
        let live = log.subscribe();
        let page = log.tail(query.since, limit).await?;
        return Ok(Sse::new(control.while_allowed(call.principal, follow(page, live)))
            .keep_alive(KeepAlive::new().interval(Duration::from_secs(10)))
            .into_response());
    }
    let page = log.tail(query.since, limit).await?;
    let cursor = (page.len() == limit).then(|| page.last().map(|line| line.seq.to_string())).flatten();
    Ok(Json(Page { items: page.iter().map(line_view).collect(), cursor }).into_response())
}

fn follow(
    page: Vec<StoredLine>,
    live: tokio::sync::broadcast::Receiver<StoredLine>,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let last = page.last().map(|line| line.seq);
    let backlog: std::collections::VecDeque<StoredLine> = page.into();
    futures::stream::unfold((backlog, live, last), |(mut backlog, mut live, mut last)| async move {
        if let Some(line) = backlog.pop_front() {
            return Some((Ok(line_event(&line)), (backlog, live, last)));
        }
        loop {
            match live.recv().await {
                Ok(line) if last.is_some_and(|last| line.seq <= last) => {}
                Ok(line) => {
                    last = Some(line.seq);
                    return Some((Ok(line_event(&line)), (backlog, live, last)));
                }
                Err(RecvError::Lagged(count)) => {
                    let event = Event::default().event("dropped").data(format!("{{\"count\":{count}}}"));
                    return Some((Ok(event), (backlog, live, last)));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    })
}

fn line_event(line: &StoredLine) -> Event {
    let text = serde_json::to_string(&line_view(line)).unwrap_or_default();
    Event::default().id(line.seq.to_string()).data(text)
}

fn line_view(line: &StoredLine) -> LogLineView {
    LogLineView {
        seq: line.seq,
        at: line.line.at.to_string(),
        level: crate::host::word(&line.line.level),
        context: line.line.context.clone(),
        message: line.line.message.clone(),
        invocation: line.line.invocation.as_ref().map(ToString::to_string),
        caused_by: line.line.caused_by.as_ref().map(|by| by.parent.to_string()),
        root: line.line.caused_by.as_ref().map(|by| by.root.to_string()),
    }
}

/// Lists a plugin's invocations, newest first.
#[utoipa::path(get, path = "/tenants/{tenant}/plugins/{plugin}/invocations", tag = "plugins", params(Paging),
    responses((status = 200, body = Page<InvocationView>), (status = "default", body = Problem)))]
pub async fn invocations(
    State(control): State<Control>,
    call: Call,
    Path((tenant, plugin)): Path<(String, String)>,
    Asked(paging): Asked<Paging>,
) -> Result<Json<Page<InvocationView>>, ApiError> {
    let (reached, plugin) = control.reach_plugin::<act::ReadLogs>(&call, &tenant, &plugin).await?;
    control.parts.registry.check_plugin(&reached.store, &plugin).await?;
    let before = paging.position()?;
    let (records, cursor) = control.parts.metering.invocations(&reached.store, &plugin, before, paging.limit()).await?;
    Ok(Json(Page { items: records.into_iter().map(invocation_view).collect(), cursor: cursor.map(|c| c.to_string()) }))
}

/// Reads one invocation.
#[utoipa::path(get, path = "/tenants/{tenant}/plugins/{plugin}/invocations/{invocation}", tag = "plugins",
    responses((status = 200, body = InvocationView), (status = "default", body = Problem)))]
pub async fn invocation(
    State(control): State<Control>,
    call: Call,
    Path((tenant, plugin, invocation)): Path<(String, String, String)>,
) -> Result<Json<InvocationView>, ApiError> {
    let (reached, plugin) = control.reach_plugin::<act::ReadLogs>(&call, &tenant, &plugin).await?;
    let id: InvocationId = invocation.parse().map_err(|_| ApiError::not_found())?;
    let record = control.parts.metering.invocation(&reached.store, &plugin, &id).await?;
    record.map(|record| Json(invocation_view(record))).ok_or_else(ApiError::not_found)
}

fn invocation_view(record: InvocationRecord) -> InvocationView {
    InvocationView {
        id: record.id.to_string(),
        plugin: record.plugin.to_string(),
        version: record.version,
        at: record.at.to_string(),
        principal: record.principal,
        cause: record.cause,
        caused_by: record.caused_by.as_ref().map(|by| by.parent.to_string()),
        root: record.caused_by.map(|by| by.root.to_string()),
        on_behalf_of: record.on_behalf_of,
        status: record.status,
        code: record.code,
        detail: record.detail,
        usage: record.usage,
    }
}
