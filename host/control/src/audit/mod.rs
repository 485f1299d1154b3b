//! The audit log as its owner reads it: entries with their exact envelopes, and the signed head to verify them against.
//!
//! Must never show a log to anyone outside its tenant, nor of an entry what a role may not see; the host's log is the operators'.

use axum::Json;
use axum::extract::{Path, State};
use ringfence_audit::{Entry, Log, redact};
use ringfence_core::proof::act;
use ringfence_core::{Action, Permit, Resource, Role, limits};
use serde::Deserialize;
use serde_json::json;

use crate::Control;
use crate::call::Call;
use crate::extract::Asked;
use crate::problem::ApiError;
pub mod analytics;
pub mod checks;
pub mod events;
pub mod evidence;
mod filter;
pub mod host_calls;
pub mod keeping;
pub mod keys;
pub mod remediation;
pub mod tlog;
pub mod trails;
pub mod violations;

use crate::wire::{AuditEntryView, CheckpointView, Page, Problem};

/// Where to read from.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Range {
    /// First entry, from 0.
    from: Option<u64>,
    /// The last page's cursor; the same as `from`.
    cursor: Option<u64>,
    /// Most entries to answer; 100 when absent, 1000 at most.
    limit: Option<usize>,
}

/// Reads entries of a tenant's log, oldest first.
#[utoipa::path(get, path = "/tenants/{tenant}/audit", tag = "audit", params(Range),
    responses((status = 200, body = Page<AuditEntryView>), (status = "default", body = Problem)))]
pub async fn list(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    Asked(range): Asked<Range>,
) -> Result<Json<Page<AuditEntryView>>, ApiError> {
    let reached = control.reach_tenant::<act::ReadAudit>(&call, &tenant).await?;
    control.entries(&call, &Log::Tenant(reached.store), reached.permit, &range).await
}

/// Signs and answers the head of a tenant's log.
#[utoipa::path(get, path = "/tenants/{tenant}/audit/checkpoint", tag = "audit",
    responses((status = 200, body = CheckpointView), (status = "default", body = Problem)))]
pub async fn checkpoint(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<CheckpointView>, ApiError> {
    let reached = control.reach_tenant::<act::ReadAudit>(&call, &tenant).await?;
    control.head(&Log::Tenant(reached.store)).await
}

/// Reads entries of the host's log.
#[utoipa::path(get, path = "/audit", tag = "audit", params(Range),
    responses((status = 200, body = Page<AuditEntryView>), (status = "default", body = Problem)))]
pub async fn list_host(
    State(control): State<Control>,
    call: Call,
    Asked(range): Asked<Range>,
) -> Result<Json<Page<AuditEntryView>>, ApiError> {
    let permit = control.reach_host::<act::ReadAudit>(&call).await?;
    control.entries(&call, &Log::Host, permit, &range).await
}

/// Signs and answers the head of the host's log.
#[utoipa::path(get, path = "/audit/checkpoint", tag = "audit",
    responses((status = 200, body = CheckpointView), (status = "default", body = Problem)))]
pub async fn checkpoint_host(State(control): State<Control>, call: Call) -> Result<Json<CheckpointView>, ApiError> {
    let _permit = control.reach_host::<act::ReadAudit>(&call).await?;
    control.head(&Log::Host).await
}

impl Control {
    /// The caller's own log: its tenant's, or the host's for an operator.
    async fn own_log<A: Action>(&self, call: &Call) -> Result<(Log, Permit<A>), ApiError> {
        match call.principal.tenant().cloned() {
            Some(tenant) => {
                let reached = self.reach::<A>(call, Resource::Tenant { tenant }).await?;
                Ok((Log::Tenant(reached.store), reached.permit))
            }
            None => Ok((Log::Host, self.reach_host::<A>(call).await?)),
        }
    }

    /// A page of a log, up to where it ended before this reading was put on it: a reader who goes on comes to an end.
    async fn entries(
        &self,
        call: &Call,
        log: &Log,
        permit: Permit<act::ReadAudit>,
        range: &Range,
    ) -> Result<Json<Page<AuditEntryView>>, ApiError> {
        // A place that was deleted after its retention is refused; without a place one begins with what is left.
        let from = match range.cursor.or(range.from) {
            Some(from) => from,
            None => self.parts.audit.first(log).await?,
        };
        let limit = range.limit.unwrap_or(100).clamp(1, limits::PAGE_COUNT_MAX);
        let end = self.parts.audit.size(log).await?;
        self.reading(call, log, permit, json!({ "view": "entries", "from": from, "limit": limit })).await?;
        let count = usize::try_from(end.saturating_sub(from)).map_or(limit, |rest| rest.min(limit));
        let entries = if count == 0 { Vec::new() } else { self.parts.audit.list(log, from, count).await? };
        let next = from.saturating_add(entries.len() as u64);
        let cursor = (entries.len() == limit && next < end).then(|| next.to_string());
        let role = call.principal.role();
        let items = entries.into_iter().zip(from..).map(|(entry, seq)| view(role, seq, entry)).collect();
        Ok(Json(Page { items, cursor }))
    }

    async fn head(&self, log: &Log) -> Result<Json<CheckpointView>, ApiError> {
        let checkpoint = self.parts.audit.checkpoint(log).await?;
        Ok(Json(CheckpointView {
            origin: checkpoint.origin,
            vkey: self.parts.audit.vkey(log),
            checkpoint: checkpoint.text,
            size: checkpoint.size,
        }))
    }
}

fn view(role: Option<Role>, seq: u64, mut entry: Entry) -> AuditEntryView {
    let redacted = redact(role, &mut entry);
    AuditEntryView { seq, envelope: entry.envelope, body: entry.body.unwrap_or_default(), salt: entry.salt, redacted }
}
