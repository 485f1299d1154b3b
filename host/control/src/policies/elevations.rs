//! Roles held for a while: asked for with a reason, allowed by another tenant-admin, ended by time or by hand.
//!
//! Must never last longer than was allowed: the policy room asks the end at every decision.

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use ringfence_audit::{Log, codes};
use ringfence_core::proof::act;
use ringfence_core::{Action, ApprovalId, Permit, PrincipalId, Resource, Role, TenantId};
use ringfence_policy::Elevation;
use ringfence_store::{Key, StoreError, TenantStore};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::approvals::{Approval, Want};
use super::checked_words;
use crate::Control;
use crate::call::Call;
use crate::extract::JsonBody;
use crate::problem::ApiError;
use crate::wire::{ApprovalView, ElevationView, NewElevation, Page, Problem};

/// Longest time a role is held, in minutes.
const MINUTES_MAX: u32 = 480;
/// LIMIT: most roles held for a while in one tenant.
const HELD_COUNT_MAX: usize = 256;

/// As it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) id: ApprovalId,
    pub(crate) principal: PrincipalId,
    pub(crate) role: Role,
    reason: String,
    pub(crate) approved_by: PrincipalId,
    at: Timestamp,
    pub(crate) until: Timestamp,
}

/// Asks for another role for a while; another tenant-admin must allow it.
#[utoipa::path(post, path = "/tenants/{tenant}/elevations", tag = "policy", request_body = NewElevation,
    responses((status = 202, body = ApprovalView), (status = "default", body = Problem)))]
pub async fn request(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    JsonBody(new): JsonBody<NewElevation>,
) -> Result<(StatusCode, Json<ApprovalView>), ApiError> {
    let reached = control.reach_tenant::<act::RequestElevation>(&call, &tenant).await?;
    let role = Role::ALL.into_iter().find(|role| *role != Role::Operator && role.as_str() == new.role);
    let role = role.ok_or_else(|| ApiError::new("bad-role", format!("`{}` is no role of a tenant", new.role)))?;
    if new.minutes == 0 || new.minutes > MINUTES_MAX {
        return Err(ApiError::new("bad-lifetime", format!("a role is held for 1 to {MINUTES_MAX} minutes")));
    }
    let want = Want::Elevation { role, minutes: new.minutes, reason: checked_words(new.reason, "reason")? };
    let log = Log::Tenant(reached.store.clone());
    let approval = control.ask_approval(&call, &log, &reached.store, reached.permit, want).await?;
    Ok((StatusCode::ACCEPTED, Json(approval)))
}

/// Lists the roles held for a while.
#[utoipa::path(get, path = "/tenants/{tenant}/elevations", tag = "policy",
    responses((status = 200, body = Page<ElevationView>), (status = "default", body = Problem)))]
pub async fn list(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<Page<ElevationView>>, ApiError> {
    let reached = control.reach_tenant::<act::ReadPolicy>(&call, &tenant).await?;
    let now = control.parts.clock.now();
    let held = stored(&reached.store).await?;
    Ok(Json(Page { items: held.into_iter().filter(|held| now < held.until).map(view).collect(), cursor: None }))
}

/// Ends a role that is held for a while: one's own, or as a tenant-admin anybody's.
#[utoipa::path(delete, path = "/tenants/{tenant}/elevations/{id}", tag = "policy",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn end(
    State(control): State<Control>,
    call: Call,
    Path((tenant, id)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let reached = control.reach_tenant::<act::RequestElevation>(&call, &tenant).await?;
    let (tenant, store) = (reached.tenant, reached.store);
    let held = stored(&store).await?.into_iter().find(|held| held.id.as_str() == id).ok_or_else(ApiError::not_found)?;
    if held.principal != *call.principal.id() {
        let resource = Resource::Tenant { tenant: tenant.clone() };
        let _permit = control.reach::<act::ApproveChange>(&call, resource).await?.permit;
    }
    control.end_held(&call, reached.permit, (&tenant, &store), &held).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The stored roles held for a while, ended ones too.
pub(crate) async fn stored(store: &TenantStore) -> Result<Vec<Held>, StoreError> {
    Ok(store.get_json(&key()).await?.unwrap_or_default())
}

/// What the policy room needs of one.
pub(crate) fn in_force(held: &Held) -> Elevation {
    Elevation { principal: held.principal.clone(), role: held.role, until: held.until }
}

impl Control {
    /// Gives the role that was asked for, from now on.
    pub(super) async fn elevate(
        &self,
        tenant: &TenantId,
        store: &TenantStore,
        approval: &Approval,
        by: &PrincipalId,
        (role, minutes, reason): (Role, u32, String),
    ) -> Result<(), ApiError> {
        let _one = self.changing.lock().await;
        let now = self.parts.clock.now();
        let until =
            now.checked_add(SignedDuration::from_mins(i64::from(minutes))).map_err(|error| ApiError::host(&error))?;
        let mut all = stored(store).await?;
        all.retain(|held| now < held.until);
        if all.len() >= HELD_COUNT_MAX {
            let text = format!("{HELD_COUNT_MAX} roles are held for a while already; end some first");
            return Err(ApiError::new("conflict", text));
        }
        all.push(Held {
            id: approval.id.clone(),
            principal: approval.asked_by.clone(),
            role,
            reason,
            approved_by: by.clone(),
            at: now,
            until,
        });
        self.hold(tenant, store, all).await
    }

    /// Ends a role that is held for a while, for who may allow one; one that is over already is not found.
    pub(crate) async fn end_elevation(
        &self,
        call: &Call,
        permit: Permit<act::ApproveChange>,
        (tenant, store): (&TenantId, &TenantStore),
        id: &str,
    ) -> Result<(), ApiError> {
        let held =
            stored(store).await?.into_iter().find(|held| held.id.as_str() == id).ok_or_else(ApiError::not_found)?;
        self.end_held(call, permit, (tenant, store), &held).await
    }

    async fn end_held<A: Action>(
        &self,
        call: &Call,
        permit: Permit<A>,
        (tenant, store): (&TenantId, &TenantStore),
        held: &Held,
    ) -> Result<(), ApiError> {
        let log = Log::Tenant(store.clone());
        let details = json!({ "elevation": held.id, "principal": held.principal });
        self.bracket(call, &log, permit, codes::ELEVATION_ENDED, details, async |_permit| {
            let _one = self.changing.lock().await;
            let mut all = stored(store).await?;
            all.retain(|one| one.id != held.id);
            self.hold(tenant, store, all).await
        })
        .await
    }

    async fn hold(&self, tenant: &TenantId, store: &TenantStore, all: Vec<Held>) -> Result<(), ApiError> {
        store.put_json(&key(), &all).await?;
        self.parts.policy.set_elevations(tenant, all.iter().map(in_force).collect())?;
        Ok(())
    }
}

fn view(held: Held) -> ElevationView {
    ElevationView {
        id: held.id.to_string(),
        principal: held.principal.to_string(),
        role: held.role.to_string(),
        reason: held.reason,
        approved_by: held.approved_by.to_string(),
        at: held.at.to_string(),
        until: held.until.to_string(),
    }
}

fn key() -> Key {
    Key::new(["elevations"])
}
