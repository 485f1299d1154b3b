//! Risk adjustments: raised by one who may end sessions, lowered by two people.
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

/// Adjusts the risk of a principal of the caller's own place, for a while.
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
    let details = json!({ "subject": subject, "delta": asked.delta, "expires_at": expires_at.to_string() });
    let new = NewAdjustment { subject, delta: asked.delta, reason: asked.reason, expires_at };
    let made = control
        .bracket(&call, &log, permit, codes::RISK_ADJUSTED, details, async |permit| {
            Ok(control.parts.identity.adjust_risk(permit, call.principal.tenant(), new).await?)
        })
        .await?;
    let view = control.adjustment_view(made);
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
    Ok(Json(control.adjustment_view(approved)))
}

/// Lists the risk adjustments of the caller's own place, oldest first.
#[utoipa::path(get, path = "/zero-trust/risk-adjustments", tag = "zero-trust",
    responses((status = 200, body = Page<RiskAdjustmentView>), (status = "default", body = Problem)))]
pub async fn list(State(control): State<Control>, call: Call) -> Result<Json<Page<RiskAdjustmentView>>, ApiError> {
    let permit = match call.principal.tenant() {
        Some(tenant) => control.reach_tenant::<act::ListTokens>(&call, tenant.as_str()).await?.permit,
        None => control.reach_host::<act::ListTokens>(&call).await?,
    };
    let all = control.parts.identity.list_adjustments(permit, call.principal.tenant())?;
    let items = all.into_iter().map(|adjustment| control.adjustment_view(adjustment)).collect();
    Ok(Json(Page { items, cursor: None }))
}

impl Control {
    /// Whoever may end sessions of a place may say how far its principals are trusted.
    async fn reach_own_place(&self, call: &Call) -> Result<(Permit<act::RevokeToken>, Log), ApiError> {
        match Principal::tenant(&call.principal) {
            Some(tenant) => {
                let reached = self.reach_tenant::<act::RevokeToken>(call, tenant.as_str()).await?;
                Ok((reached.permit, Log::Tenant(reached.store)))
            }
            None => Ok((self.reach_host::<act::RevokeToken>(call).await?, Log::Host)),
        }
    }

    fn adjustment_view(&self, adjustment: Adjustment) -> RiskAdjustmentView {
        let in_force = adjustment.is_in_force(self.parts.clock.now());
        RiskAdjustmentView {
            id: adjustment.id,
            subject: adjustment.subject.to_string(),
            delta: adjustment.delta,
            reason: adjustment.reason,
            state: if in_force { "in-force" } else { "waiting" }.to_owned(),
            by: adjustment.by.to_string(),
            approved_by: adjustment.approved_by.map(|by| by.to_string()),
            at: adjustment.at.to_string(),
            expires_at: adjustment.expires_at.to_string(),
            signature: adjustment.signature,
        }
    }
}
