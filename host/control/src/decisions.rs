//! `GET /decisions/{id}`: why a call was denied, for the one who was denied and for those who may read decisions.
//!
//! Must never explain a decision across tenants: a member finds only what is kept in its own tenant.

use axum::Json;
use axum::extract::{Path, State};
use jiff::Timestamp;
use ringfence_audit::decisions;
use ringfence_core::proof::act;
use ringfence_core::{DecisionId, Resource};
use ringfence_policy::{DecisionRecord, Remedy};
use serde::{Deserialize, Serialize};

use crate::Control;
use crate::call::Call;
use crate::problem::ApiError;
use crate::wire::{ChangeView, DecisionView, Problem, ReasonView};

/// A denial as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Kept {
    /// When.
    pub at: Timestamp,
    /// What and why.
    pub record: Box<DecisionRecord>,
}

/// Explains a denial.
#[utoipa::path(get, path = "/decisions/{id}", tag = "zero-trust",
    responses((status = 200, body = DecisionView), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path(id): Path<String>,
) -> Result<Json<DecisionView>, ApiError> {
    let id: DecisionId = id.parse().map_err(|_| ApiError::not_found())?;
    let own = match call.principal.tenant() {
        Some(tenant) => control.parts.tenants.open_tenant(tenant).ok_or_else(ApiError::not_found)?,
        None => control.parts.tenants.platform().clone(),
    };
    let mut kept = decisions::find::<Kept>(&own, &id).await?;
    if kept.is_none() && call.principal.tenant().is_none() {
        // A denial an operator met inside a tenant is kept there; it may be told to that operator only.
        kept = control.find_own_denial(&call, &id).await?;
    }
    let kept = kept.ok_or_else(ApiError::not_found)?;
    if kept.record.principal != call.principal.id().as_str() {
        match call.principal.tenant() {
            Some(tenant) => {
                control.reach::<act::ReadDecision>(&call, Resource::Tenant { tenant: tenant.clone() }).await?;
            }
            None => {
                let _permit = control.reach_host::<act::ReadDecision>(&call).await?;
            }
        }
    }
    let changes = kept.record.asked.as_ref().map(|asked| control.parts.policy.remedies(asked)).unwrap_or_default();
    Ok(Json(view(kept, changes)))
}

impl Control {
    async fn find_own_denial(&self, call: &Call, id: &DecisionId) -> Result<Option<Kept>, ApiError> {
        for tenant in self.parts.tenants.list().await? {
            let Some(store) = self.parts.tenants.open_tenant(&tenant.id) else { continue };
            if let Some(kept) = decisions::find::<Kept>(&store, id).await? {
                return Ok((kept.record.principal == call.principal.id().as_str()).then_some(kept));
            }
        }
        Ok(None)
    }
}

fn view(kept: Kept, changes: Vec<Remedy>) -> DecisionView {
    let mut record = *kept.record;
    if let Some(asked) = &record.asked {
        record.resource = asked.about();
    }
    let (asked, call) = (record.asked.as_ref(), record.asked.as_ref().and_then(|asked| asked.occasion.as_ref()));
    let device = asked.and_then(|asked| asked.device.as_ref()).or_else(|| call.and_then(|call| call.device.as_ref()));
    let device = device.map(|device| match device.verified {
        true => format!("{}, verified by {}", device.name, device.evidence),
        false => format!("{}, not verified", device.name),
    });
    let trust = asked.and_then(|asked| asked.trust).or_else(|| call.and_then(|call| call.trust));
    DecisionView {
        id: record.decision.to_string(),
        at: kept.at.to_string(),
        outcome: crate::host::word(&record.outcome),
        principal: record.principal,
        role: record.role,
        device,
        trust,
        action: record.action,
        resource: record.resource,
        reasons: record
            .determining
            .into_iter()
            .map(|reason| ReasonView {
                policy: reason.id,
                effect: crate::host::word(&reason.effect),
                text: reason.description,
            })
            .collect(),
        closest: record.closest,
        changes: changes
            .into_iter()
            .map(|remedy| ChangeView { kind: crate::host::word(&remedy.kind), change: remedy.change })
            .collect(),
        help: record.help,
    }
}
