//! Risk adjustments: raised by one who may end sessions; lowered, withdrawn or held against a whole place by two people.
//!
//! Must never show an adjustment of another place, nor let one into force that the log has no intent for.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use jiff::Timestamp;
use ringfence_audit::{Log, codes};
use ringfence_core::proof::act;
use ringfence_core::{Permit, Principal, PrincipalId};
use ringfence_identity::{Adjustment, NewAdjustment};
use serde_json::json;

use crate::Control;
use crate::call::Call;
use crate::extract::JsonBody;
use crate::problem::ApiError;
use crate::wire::{AdjustRisk, Page, Problem, RiskAdjustmentView};

/// Adjusts the risk of a principal, of a plugin or of all of the caller's own place, for a while. What lowers it, and what is
/// of all of the place, waits for another person (202).
#[utoipa::path(put, path = "/zero-trust/risk-adjustment", tag = "zero-trust", request_body = AdjustRisk,
    responses((status = 200, body = RiskAdjustmentView), (status = 202, body = RiskAdjustmentView),
        (status = "default", body = Problem)))]
pub async fn adjust(
    State(control): State<Control>,
    call: Call,
    JsonBody(asked): JsonBody<AdjustRisk>,
) -> Result<Response, ApiError> {
    let (permit, log) = control.reach_own_place(&call).await?;
    let subject: PrincipalId = asked.subject.parse().map_err(|_| ApiError::not_found())?;
    let expires_at: Timestamp = asked
        .expires_at
        .parse()
        .map_err(|_| ApiError::new("bad-adjustment", "`expires_at` is a time such as `2026-12-31T18:00:00Z`"))?;
    let delta = match (asked.delta, asked.floor) {
        (Some(delta), None) => delta,
        (None, Some(_)) => 0,
        _ => return Err(ApiError::new("bad-adjustment", "either `delta` or `floor` is given")),
    };
    let details =
        json!({ "subject": subject, "delta": delta, "floor": asked.floor, "expires_at": expires_at.to_string() });
    let new = NewAdjustment { subject, delta, floor: asked.floor, reason: asked.reason, expires_at };
    let made = control
        .bracket(&call, &log, permit, codes::RISK_ADJUSTED, details, async |permit| {
            Ok(control.parts.identity.adjust_risk(permit, call.principal.tenant(), new).await?)
        })
        .await?;
    let view = control.adjustment_now(&call, made);
    let status = if view.state == "waiting" { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, Json(view)).into_response())
}

/// Agrees to a risk adjustment that another person asked for.
#[utoipa::path(post, path = "/zero-trust/risk-adjustments/{id}/approve", tag = "zero-trust",
    responses((status = 200, body = RiskAdjustmentView), (status = "default", body = Problem)))]
pub async fn approve(
    State(control): State<Control>,
    call: Call,
    Path(id): Path<String>,
) -> Result<Json<RiskAdjustmentView>, ApiError> {
    let (permit, log) = control.reach_own_place(&call).await?;
    let details = json!({ "adjustment": id.chars().take(80).collect::<String>() });
    let approved = control
        .bracket(&call, &log, permit, codes::RISK_ADJUSTMENT_APPROVED, details, async |permit| {
            Ok(control.parts.identity.approve_adjustment(permit, call.principal.tenant(), &id).await?)
        })
        .await?;
    Ok(Json(control.adjustment_now(&call, approved)))
}

/// Withdraws a risk adjustment of the caller's own place. One in force that raises a risk or is of all of the place stays until a
/// second person wants the same (202), who is not the one it is about, where there is one; any other is gone at once.
#[utoipa::path(delete, path = "/zero-trust/risk-adjustments/{id}", tag = "zero-trust",
    responses((status = 202, body = RiskAdjustmentView), (status = 204), (status = "default", body = Problem)))]
pub async fn withdraw(
    State(control): State<Control>,
    call: Call,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let (permit, log) = control.reach_own_place(&call).await?;
    let identity = &control.parts.identity;
    // Two who want it at the same moment are told, and recorded, one after the other.
    let _one = control.agreeing.of(control.parts.audit.origin(&log)).await;
    let weighed = identity.withdrawal(&permit, call.principal.tenant(), &id)?;
    let (found, by_one) = (weighed.adjustment, weighed.by_one);
    let code = if weighed.is_enough { codes::RISK_ADJUSTMENT_WITHDRAWN } else { codes::RISK_WITHDRAWAL_ASKED };
    let details = json!({
        "adjustment": found.id, "subject": found.subject, "delta": found.delta, "floor": found.floor,
        "asked_by": found.withdrawn_by, "by_one": by_one,
    });
    let waiting = control
        .bracket(&call, &log, permit, code, details, async |permit| {
            Ok(identity.withdraw_adjustment(permit, call.principal.tenant(), &id).await?)
        })
        .await?;
    Ok(match waiting {
        Some(waiting) => (StatusCode::ACCEPTED, Json(control.adjustment_now(&call, waiting))).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

/// Lists the risk adjustments of the caller's own place, oldest first.
#[utoipa::path(get, path = "/zero-trust/risk-adjustments", tag = "zero-trust",
    responses((status = 200, body = Page<RiskAdjustmentView>), (status = "default", body = Problem)))]
pub async fn list(State(control): State<Control>, call: Call) -> Result<Json<Page<RiskAdjustmentView>>, ApiError> {
    let permit = control.reach_own_list(&call).await?;
    let all = control.parts.identity.list_adjustments(permit, call.principal.tenant())?;
    let items = all.into_iter().map(|adjustment| control.adjustment_view(adjustment)).collect();
    Ok(Json(Page { items, cursor: None }))
}

impl Control {
    /// Whoever may end sessions of a place may say how far its principals are trusted.
    pub(super) async fn reach_own_place(&self, call: &Call) -> Result<(Permit<act::RevokeToken>, Log), ApiError> {
        match Principal::tenant(&call.principal) {
            Some(tenant) => {
                let reached = self.reach_tenant::<act::RevokeToken>(call, tenant.as_str()).await?;
                Ok((reached.permit, Log::Tenant(reached.store)))
            }
            None => Ok((self.reach_host::<act::RevokeToken>(call).await?, Log::Host)),
        }
    }

    /// Whoever may list the keys and sessions of a place may see how far its principals are trusted.
    pub(super) async fn reach_own_list(&self, call: &Call) -> Result<Permit<act::ListTokens>, ApiError> {
        match call.principal.tenant() {
            Some(tenant) => Ok(self.reach_tenant::<act::ListTokens>(call, tenant.as_str()).await?.permit),
            None => self.reach_host::<act::ListTokens>(call).await,
        }
    }

    /// An adjustment, and where its subject stands with it.
    fn adjustment_now(&self, call: &Call, adjustment: Adjustment) -> RiskAdjustmentView {
        let score = self.parts.identity.lowest_score(call.principal.tenant(), &adjustment.subject);
        RiskAdjustmentView { effective_score: Some(score), ..self.adjustment_view(adjustment) }
    }

    fn adjustment_view(&self, adjustment: Adjustment) -> RiskAdjustmentView {
        let in_force = adjustment.is_in_force(self.parts.clock.now());
        RiskAdjustmentView {
            id: adjustment.id,
            subject: adjustment.subject.to_string(),
            delta: adjustment.delta,
            floor: adjustment.floor,
            effective_score: None,
            reason: adjustment.reason,
            state: if in_force { "in-force" } else { "waiting" }.to_owned(),
            by: adjustment.by.to_string(),
            approved_by: adjustment.approved_by.map(|by| by.to_string()),
            withdrawn_by: adjustment.withdrawn_by.map(|by| by.to_string()),
            at: adjustment.at.to_string(),
            expires_at: adjustment.expires_at.to_string(),
            signature: adjustment.signature,
        }
    }
}
