//! Sessions: one's own under `/zero-trust/sessions`, a tenant's under `/tenants/{t}/sessions`, operators' under `/sessions`.
//!
//! Must never answer with a token, nor end a session off the record.

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use ringfence_audit::{Log, codes};
use ringfence_core::proof::act;
use ringfence_core::{Permit, SessionId, TenantId};
use ringfence_identity::{Method, SessionRecord};
use serde_json::json;

use crate::Control;
use crate::call::Call;
use crate::extract::{Asked, Paging};
use crate::problem::ApiError;
use crate::wire::{Page, Problem, SessionView};

/// Lists the caller's own sessions.
#[utoipa::path(get, path = "/zero-trust/sessions", tag = "zero-trust", params(Paging),
    responses((status = 200, body = Page<SessionView>), (status = "default", body = Problem)))]
pub async fn list_own(
    State(control): State<Control>,
    call: Call,
    Asked(paging): Asked<Paging>,
) -> Result<Json<Page<SessionView>>, ApiError> {
    page(control.parts.identity.own_sessions(&call.principal), &call, &paging)
}

/// Ends one of the caller's own sessions: its token is refused from the next request on.
#[utoipa::path(delete, path = "/zero-trust/sessions/{id}", tag = "zero-trust",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn end_own(
    State(control): State<Control>,
    call: Call,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let session = parse(&id)?;
    control
        .own_act(&call, codes::SESSION_ENDED, "end-session", json!({ "session": id }), async || {
            Ok(control.parts.identity.end_own_session(&call.principal, &session).await?)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists a tenant's open sessions.
#[utoipa::path(get, path = "/tenants/{tenant}/sessions", tag = "zero-trust", params(Paging),
    responses((status = 200, body = Page<SessionView>), (status = "default", body = Problem)))]
pub async fn list(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    Asked(paging): Asked<Paging>,
) -> Result<Json<Page<SessionView>>, ApiError> {
    let reached = control.reach_tenant::<act::ListTokens>(&call, &tenant).await?;
    page(control.parts.identity.list_sessions(reached.permit, Some(&reached.tenant))?, &call, &paging)
}

/// Ends a session of a tenant: its token is refused from the next request on. Of somebody from an identity provider, the roles that
/// he is lent end as well.
#[utoipa::path(delete, path = "/tenants/{tenant}/sessions/{id}", tag = "zero-trust",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn end(
    State(control): State<Control>,
    call: Call,
    Path((tenant, id)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let reached = control.reach_tenant::<act::RevokeToken>(&call, &tenant).await?;
    control.end_session(&call, reached.permit, Log::Tenant(reached.store), Some(&reached.tenant), &id).await
}

/// Lists the operators' open sessions.
#[utoipa::path(get, path = "/sessions", tag = "zero-trust", params(Paging),
    responses((status = 200, body = Page<SessionView>), (status = "default", body = Problem)))]
pub async fn list_host(
    State(control): State<Control>,
    call: Call,
    Asked(paging): Asked<Paging>,
) -> Result<Json<Page<SessionView>>, ApiError> {
    let permit = control.reach_host::<act::ListTokens>(&call).await?;
    page(control.parts.identity.list_sessions(permit, None)?, &call, &paging)
}

/// Ends an operator's session: its token is refused from the next request on.
#[utoipa::path(delete, path = "/sessions/{id}", tag = "zero-trust",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn end_host(
    State(control): State<Control>,
    call: Call,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let permit = control.reach_host::<act::RevokeToken>(&call).await?;
    control.end_session(&call, permit, Log::Host, None, &id).await
}

impl Control {
    async fn end_session(
        &self,
        call: &Call,
        permit: Permit<act::RevokeToken>,
        log: Log,
        tenant: Option<&TenantId>,
        id: &str,
    ) -> Result<StatusCode, ApiError> {
        let session = parse(id)?;
        self.bracket(call, &log, permit, codes::SESSION_ENDED, json!({ "session": id }), async |permit| {
            let (whose, method) = self.parts.identity.revoke_session(permit, tenant, &session).await?;
            // Nobody here can remove whom a provider vouches for: who ends his session ends what he is lent.
            if method == Method::Federated {
                self.end_lent(&log, tenant, &whose).await?;
            }
            Ok(())
        })
        .await?;
        Ok(StatusCode::NO_CONTENT)
    }
}

/// What is no session's name names no session.
fn parse(id: &str) -> Result<SessionId, ApiError> {
    id.parse().map_err(|_| ApiError::not_found())
}

fn page(all: Vec<SessionRecord>, call: &Call, paging: &Paging) -> Result<Json<Page<SessionView>>, ApiError> {
    let from = usize::try_from(paging.position()?.unwrap_or(0)).unwrap_or(usize::MAX);
    let next = from.saturating_add(paging.limit());
    let cursor = (next < all.len()).then(|| next.to_string());
    let items = all.into_iter().skip(from).take(paging.limit()).map(|record| view(record, call)).collect();
    Ok(Json(Page { items, cursor }))
}

fn view(record: SessionRecord, call: &Call) -> SessionView {
    SessionView {
        current: call.principal.session() == Some(&record.id),
        id: record.id.to_string(),
        principal: record.principal.to_string(),
        role: record.role.to_string(),
        method: record.method.as_str().to_owned(),
        strength: crate::host::word(&record.strength),
        bound_to: record.bound_to.to_owned(),
        source: record.source.map(|source| source.to_string()),
        opened_at: record.opened_at.to_string(),
        expires_at: record.expires_at.to_string(),
    }
}
