//! The candidate in the shadow: asked beside the policy in force, counted, never deciding.

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use ringfence_audit::{Log, codes};
use ringfence_core::Action;
use ringfence_core::proof::act;
use ringfence_policy::Piece;
use ringfence_store::{Key, StoreError, TenantStore};
use serde_json::json;

use super::review::differences;
use crate::Control;
use crate::call::{Call, Reached};
use crate::problem::ApiError;
use crate::wire::{Problem, ShadowView};

/// What the candidate in the shadow would have done.
#[utoipa::path(get, path = "/tenants/{tenant}/policy/shadow", tag = "policy",
    responses((status = 200, body = ShadowView), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<ShadowView>, ApiError> {
    let reached = control.reach_tenant::<act::ReadPolicy>(&call, &tenant).await?;
    let report = control.parts.policy.shadow(&reached.tenant).ok_or_else(ApiError::not_found)?;
    Ok(Json(ShadowView {
        text: report.text.to_string(),
        askings_count: report.askings_count,
        newly_allowed: differences(&report.newly_allowed),
        newly_denied: differences(&report.newly_denied),
    }))
}

/// Takes the candidate out of the shadow.
#[utoipa::path(delete, path = "/tenants/{tenant}/policy/shadow", tag = "policy",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn delete(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<StatusCode, ApiError> {
    if let Some(reached) = control.reach_mending(&call, &tenant, Piece::Shadow).await? {
        let id = reached.tenant.clone();
        control.end_shadow(&call, reached, Some(Piece::Shadow)).await?;
        control.mended(&id).await;
        return Ok(StatusCode::NO_CONTENT);
    }
    let reached = control.reach_tenant::<act::WritePolicy>(&call, &tenant).await?;
    control.end_shadow(&call, reached, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The stored candidate of a tenant.
pub(crate) async fn stored(store: &TenantStore) -> Result<Option<String>, StoreError> {
    store.get_json(&key()).await
}

impl Control {
    /// Ends the shadow; where it is mended by that, only while the candidate keeps the tenant locked.
    async fn end_shadow<A: Action>(
        &self,
        call: &Call,
        reached: Reached<A>,
        mends: Option<Piece>,
    ) -> Result<(), ApiError> {
        let Reached { tenant, store, permit } = reached;
        let (log, details) = (Log::Tenant(store.clone()), json!({ "shadow": false }));
        self.bracket(call, &log, permit, codes::POLICY_SHADOWED, details, async |_permit| {
            let _one = self.changing.of(tenant.clone()).await;
            if let Some(piece) = mends {
                self.check_mending(&tenant, &store, piece).await?;
            }
            store.delete(&key()).await?;
            self.parts.policy.clear_shadow(&tenant)?;
            Ok(())
        })
        .await
    }

    /// Puts a reviewed text into the shadow.
    pub(super) async fn start_shadow(
        &self,
        call: &Call,
        reached: Reached<act::WritePolicy>,
        text: String,
    ) -> Result<(), ApiError> {
        let Reached { tenant, store, permit } = reached;
        let log = Log::Tenant(store.clone());
        self.bracket(call, &log, permit, codes::POLICY_SHADOWED, json!({ "shadow": true }), async |_permit| {
            let _one = self.changing.of(tenant.clone()).await;
            store.put_json(&key(), &text).await?;
            self.aside(move |policy| policy.set_shadow(&tenant, &text)).await.map(drop)
        })
        .await
    }
}

pub(super) fn key() -> Key {
    Key::new(["policy-shadow"])
}
