//! Responses: tried, made, listed, agreed to, taken back.
//!
//! Must never hold anything before the intent is on the log: an act that disables keys is on the host's, since the tenant's
//! own closes with them. What takes two people only waits when one asks for it; which that is the room of threats decides.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use http::StatusCode;
use jiff::Timestamp;
use ringfence_audit::{Log, codes};
use ringfence_core::proof::act;
use ringfence_threat::{Asked, Blast, Kind, Response, Target};
use serde_json::json;

use crate::Control;
use crate::call::Call;
use crate::extract::JsonBody;
use crate::problem::ApiError;
use crate::threat::Owner;
use crate::wire::{MakeResponse, Page, Problem, ThreatBlast, ThreatResponse, ThreatTarget};

/// Lists responses, newest first, those that are over too.
#[utoipa::path(get, path = "/security/responses", tag = "security",
    responses((status = 200, body = Page<ThreatResponse>), (status = "default", body = Problem)))]
pub async fn list(State(control): State<Control>, call: Call) -> Result<Json<Page<ThreatResponse>>, ApiError> {
    let owner = control.owner::<act::ReadThreat>(&call).await?;
    let (now, role) = (control.parts.clock.now(), call.principal.role());
    let all = control.parts.threat.responses(&owner.scope).into_iter();
    Ok(Json(Page { items: all.map(|response| view(response.as_seen_by(role), None, now)).collect(), cursor: None }))
}

/// Makes a response, or only says whom it would touch. Holds from the next request on, until its end or until it is taken
/// back. What stops a whole tenant, or a component for all of them, waits for another person (202).
#[utoipa::path(post, path = "/security/responses", tag = "security", request_body = MakeResponse,
    responses((status = 200, body = ThreatResponse), (status = 202, body = ThreatResponse),
        (status = "default", body = Problem)))]
pub async fn make(
    State(control): State<Control>,
    call: Call,
    JsonBody(asked): JsonBody<MakeResponse>,
) -> Result<axum::response::Response, ApiError> {
    let made = control.respond(&call, asked).await?;
    let status = if made.state == "waiting" { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, Json(made)).into_response())
}

/// Agrees to a response that another person asked for; it holds from the next request on.
#[utoipa::path(post, path = "/security/responses/{id}/approve", tag = "security",
    responses((status = 200, body = ThreatResponse), (status = "default", body = Problem)))]
pub async fn approve(
    State(control): State<Control>,
    call: Call,
    Path(id): Path<String>,
) -> Result<Json<ThreatResponse>, ApiError> {
    let owner = control.owner::<act::RespondThreat>(&call).await?;
    let response = control.agree_to(&call, owner, &id, None).await?;
    Ok(Json(view(response.as_seen_by(call.principal.role()), None, control.parts.clock.now())))
}

impl Control {
    /// Drops the instances that wait, of a tenant whose keys a response disabled.
    fn forget_idle_of(&self, response: &Response) {
        if let (Kind::DisableKey, None, Some(tenant)) = (response.kind, response.waits_minutes, &response.target.tenant)
        {
            self.parts.engine.forget_idle(tenant);
        }
    }

    /// Makes a response, asks for one that takes two people, or only says whom it would touch.
    pub(crate) async fn respond(&self, call: &Call, asked: MakeResponse) -> Result<ThreatResponse, ApiError> {
        let owner = self.owner::<act::RespondThreat>(call).await?;
        let dry_run = asked.dry_run;
        let asked = asked_for(asked)?;
        let (by, threat) = (call.principal.id(), &self.parts.threat);
        let (checked, blast) = threat.preview(&owner.scope, by, asked)?;
        if dry_run {
            return Ok(tried(checked, by.to_string(), blast));
        }
        let (response, blast) = self.make_response(call, owner, (threat.new_response_id(), checked), None).await?;
        Ok(view(response, Some(blast), self.parts.clock.now()))
    }

    /// Makes a response under an id of its own, or asks for one that takes two people; for an incident, where it is of one.
    pub(super) async fn make_response(
        &self,
        call: &Call,
        owner: Owner<act::RespondThreat>,
        (id, asked): (String, Asked),
        incident: Option<&str>,
    ) -> Result<(Response, Blast), ApiError> {
        let Owner { scope, log, permit } = owner;
        let (by, threat) = (call.principal.id(), &self.parts.threat);
        let log = log_of(asked.kind, log);
        let code = if asked.takes_two(&scope) { codes::RESPONSE_ASKED } else { codes::RESPONSE_MADE };
        let details = json!({
            "response": id, "kind": asked.kind.word(), "target": asked.target, "minutes": asked.minutes,
            "reason": asked.reason, "finding": asked.finding, "incident": incident,
        });
        self.bracket(call, &log, permit, code, details, async |_permit| {
            Ok(threat.respond_as(id, &scope, by, asked).await?)
        })
        .await
    }

    /// Agrees to a response that another asked for; for an incident, where it is of one.
    pub(super) async fn agree_to(
        &self,
        call: &Call,
        owner: Owner<act::RespondThreat>,
        id: &str,
        incident: Option<&str>,
    ) -> Result<Response, ApiError> {
        let Owner { scope, log, permit } = owner;
        let (by, threat) = (call.principal.id(), &self.parts.threat);
        let waiting = threat.response(&scope, id)?;
        let log = log_of(waiting.kind, log);
        let details = json!({
            "response": id, "kind": waiting.kind.word(), "target": waiting.target, "minutes": waiting.waits_minutes,
            "asked_by": waiting.by, "reason": waiting.reason, "finding": waiting.finding, "incident": incident,
        });
        let response = self
            .bracket(call, &log, permit, codes::RESPONSE_MADE, details, async |_permit| {
                Ok(threat.approve(&scope, by, id, &self.are_two()).await?)
            })
            .await?;
        self.forget_idle_of(&response);
        Ok(response)
    }
}

/// The log that has a response: its owner's, or the host's.
fn log_of(kind: Kind, owners: Log) -> Log {
    if kind.is_on_hosts_log() { Log::Host } else { owners }
}

/// Takes a response back, or withdraws one that waits.
#[utoipa::path(delete, path = "/security/responses/{id}", tag = "security",
    responses((status = 200, body = ThreatResponse), (status = "default", body = Problem)))]
pub async fn undo(
    State(control): State<Control>,
    call: Call,
    Path(id): Path<String>,
) -> Result<Json<ThreatResponse>, ApiError> {
    let owner = control.owner::<act::RespondThreat>(&call).await?;
    let (by, threat) = (call.principal.id(), &control.parts.threat);
    let response = threat.response(&owner.scope, &id)?;
    let log = log_of(response.kind, owner.log);
    let details = json!({ "response": id, "kind": response.kind.word() });
    let scope = owner.scope;
    let response = control
        .bracket(&call, &log, owner.permit, codes::RESPONSE_UNDONE, details, async |_permit| {
            Ok(threat.undo(&scope, by, &id).await?)
        })
        .await?;
    if let (Kind::DisableKey, Some(tenant)) = (response.kind, &response.target.tenant) {
        control.tenant_unlocked(tenant).await;
    }
    Ok(Json(view(response.as_seen_by(call.principal.role()), None, control.parts.clock.now())))
}

/// What a body asks for.
pub(crate) fn asked_for(body: MakeResponse) -> Result<Asked, ApiError> {
    let kind = Kind::from_word(&body.kind).ok_or_else(|| {
        let all: Vec<&str> = Kind::ALL.iter().map(|kind| kind.word()).collect();
        ApiError::new("bad-response", format!("`kind` is one of {}", all.join(", ")))
    })?;
    let ThreatTarget { tenant, principal, source, digest, plugin } = body.target;
    let target = Target {
        tenant: tenant.map(|name| name.parse()).transpose()?,
        principal: principal.map(|name| name.parse()).transpose()?,
        source: match source {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| ApiError::new("bad-response", "`source` is no address"))?),
        },
        digest: digest.map(|text| text.parse()).transpose()?,
        plugin: plugin.map(|name| name.parse()).transpose()?,
    };
    let (minutes, per_minute) = (body.minutes.unwrap_or(60), body.per_minute);
    Ok(Asked { kind, target, minutes, per_minute, reason: body.reason, finding: body.finding, drill: None })
}

/// A response as [`Response::as_seen_by`] left it.
pub(crate) fn view(response: Response, blast: Option<Blast>, now: Timestamp) -> ThreatResponse {
    let state = match &response.undone {
        Some(_) => "undone",
        None if response.is_in_force(now) => "in-force",
        None if response.is_waiting(now) => "waiting",
        None => "over",
    };
    ThreatResponse {
        id: Some(response.id),
        kind: response.kind.word().to_owned(),
        target: target_view(response.target),
        per_minute: response.per_minute,
        reason: response.reason,
        finding: response.finding,
        by: response.by.to_string(),
        made_at: Some(response.made_at.to_string()),
        until: Some(response.until.to_string()),
        approved_by: response.approved_by.map(|by| by.to_string()),
        state: state.to_owned(),
        drill: response.drill,
        blast: blast.map(blast_view),
    }
}

fn tried(asked: Asked, by: String, blast: Blast) -> ThreatResponse {
    ThreatResponse {
        id: None,
        kind: asked.kind.word().to_owned(),
        target: target_view(asked.target),
        per_minute: asked.per_minute,
        reason: asked.reason,
        finding: asked.finding,
        by,
        made_at: None,
        until: None,
        approved_by: None,
        state: "dry-run".to_owned(),
        drill: None,
        blast: Some(blast_view(blast)),
    }
}

fn blast_view(blast: Blast) -> ThreatBlast {
    ThreatBlast { principals: blast.principals, acts_count: blast.acts_count, notes: blast.notes }
}

fn target_view(target: Target) -> ThreatTarget {
    ThreatTarget {
        tenant: target.tenant.map(|name| name.to_string()),
        principal: target.principal.map(|name| name.to_string()),
        source: target.source.map(|source| source.to_string()),
        digest: target.digest.map(|digest| digest.to_string()),
        plugin: target.plugin.map(|name| name.to_string()),
    }
}
