//! Roles held for a while: asked for with a reason, allowed by another tenant-admin, ended by time or by hand.
//!
//! Must never last longer than was allowed: the policy room asks the end at every decision.

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use ringfence_audit::{Log, codes};
use ringfence_core::proof::act;
use ringfence_core::{Action, ApprovalId, Permit, Principal, PrincipalId, Resource, Role, TenantId};
use ringfence_policy::Elevation;
use ringfence_store::{Key, Op, Precondition, StoreError, TenantStore};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::approvals::{self, Approval, Want};
use super::checked_words;
use crate::Control;
use crate::call::Call;
use crate::extract::JsonBody;
use crate::problem::ApiError;
use crate::wire::{ApprovalView, ElevationView, LentRole, NewElevation, Page, Problem};

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
    let role = role_asked(&new.role)?;
    if new.minutes == 0 || new.minutes > MINUTES_MAX {
        return Err(ApiError::new("bad-lifetime", format!("a role is held for 1 to {MINUTES_MAX} minutes")));
    }
    if call.principal.role().is_some_and(|own| gives_nothing(own, role)) {
        let text = format!("`{}` may do all that the role {role} may", call.principal.id());
        return Err(ApiError::new("bad-role", text));
    }
    let want = Want::Elevation { role, minutes: new.minutes, reason: checked_words(new.reason, "reason")? };
    let log = Log::Tenant(reached.store.clone());
    let approval = control.ask_approval(&call, &log, &reached.store, reached.permit, want).await?;
    Ok((StatusCode::ACCEPTED, Json(approval)))
}

/// Lists the roles held for a while: to who may read the policy all, to others of the tenant their own.
#[utoipa::path(get, path = "/tenants/{tenant}/elevations", tag = "policy",
    responses((status = 200, body = Page<ElevationView>), (status = "default", body = Problem)))]
pub async fn list(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<Page<ElevationView>>, ApiError> {
    let (store, whose) = control.shown_of(&call, &tenant).await?;
    let now = control.parts.clock.now();
    let mut held = stored(&store).await?;
    held.retain(|held| now < held.until && whose.shows(&call, &held.principal));
    Ok(Json(Page { items: held.into_iter().map(view).collect(), cursor: None }))
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

/// Whether a role has nothing that one's own lacks: who holds another role for a while acts in that role alone.
fn gives_nothing(own: Role, role: Role) -> bool {
    own == role || own == Role::TenantAdmin || (own == Role::Developer && role == Role::Caller)
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
    /// Gives the role that was asked for, from now on, in the place of the request.
    pub(super) async fn elevate(
        &self,
        tenant: &TenantId,
        store: &TenantStore,
        approval: &Approval,
        by: &PrincipalId,
        (role, minutes, reason): (Role, u32, String),
    ) -> Result<(), ApiError> {
        let _one = self.changing.of(tenant.clone()).await;
        let now = self.parts.clock.now();
        let until =
            now.checked_add(SignedDuration::from_mins(i64::from(minutes))).map_err(|error| ApiError::host(&error))?;
        let held = Held {
            id: approval.id.clone(),
            principal: approval.asked_by.clone(),
            role,
            reason,
            approved_by: by.clone(),
            at: now,
            until,
        };
        let all = give(store, held).await?;
        self.parts.policy.set_elevations(tenant, all.iter().map(in_force).collect())?;
        Ok(())
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
            let _one = self.changing.of(tenant.clone()).await;
            let mut all = stored(store).await?;
            all.retain(|one| one.id != held.id);
            self.hold(tenant, store, all).await
        })
        .await
    }

    /// Ends what a name was lent whose holder is gone, and takes away what he asked for that waits. SECURITY: the name may be
    /// another's tomorrow.
    pub(crate) async fn end_lent(
        &self,
        log: &Log,
        tenant: Option<&TenantId>,
        principal: &PrincipalId,
    ) -> Result<(), ApiError> {
        let (Some(tenant), Log::Tenant(store)) = (tenant, log) else { return Ok(()) };
        let _one = self.changing.of(tenant.clone()).await;
        self.end_lent_in_turn(tenant, store, |who| who == principal).await
    }

    /// The same of everybody who is gone, for who has the turn to change the tenant.
    pub(crate) async fn end_lent_in_turn(
        &self,
        tenant: &TenantId,
        store: &TenantStore,
        is_gone: impl Fn(&PrincipalId) -> bool,
    ) -> Result<(), ApiError> {
        let mut all = stored(store).await?;
        let held_count = all.len();
        all.retain(|held| !is_gone(&held.principal));
        if all.len() < held_count {
            self.hold(tenant, store, all).await?;
        }
        self.take_asked(store, is_gone).await
    }

    /// The role that the caller is lent now, the strongest of several, as decisions take it; nothing where it cannot be read.
    pub(crate) async fn lent_to(&self, principal: &Principal) -> Option<LentRole> {
        let store = self.parts.tenants.open_tenant(principal.tenant()?)?;
        let now = self.parts.clock.now();
        let all = stored(&store).await.ok()?;
        let mine = all.into_iter().filter(|held| held.principal == *principal.id() && now < held.until);
        let strength = |role: Role| Role::ALL.iter().position(|one| *one == role).unwrap_or(usize::MAX);
        let acts = mine.min_by_key(|held| (strength(held.role), std::cmp::Reverse(held.until)))?;
        Some(LentRole { role: acts.role.to_string(), until: acts.until.to_string() })
    }

    async fn hold(&self, tenant: &TenantId, store: &TenantStore, all: Vec<Held>) -> Result<(), ApiError> {
        store.put_json(&key(), &all).await?;
        self.parts.policy.set_elevations(tenant, all.iter().map(in_force).collect())?;
        Ok(())
    }
}

/// Writes down who holds a role, in the place of the request of the same id, and gives all who hold one. SECURITY: a request that is
/// gone was answered, or went with who asked: his name may be another's by now, who gets nothing by it.
async fn give(store: &TenantStore, held: Held) -> Result<Vec<Held>, ApiError> {
    let (request, now) = (approvals::key(&held.id), held.at);
    let mut all = stored(store).await?;
    all.retain(|one| now < one.until);
    if all.len() >= HELD_COUNT_MAX {
        let text = format!("{HELD_COUNT_MAX} roles are held for a while already; end some first");
        return Err(ApiError::new("conflict", text));
    }
    all.push(held);
    let ops = vec![Op::delete(request.clone()), Op::put_json(key(), &all)?];
    match store.batch(ops, vec![Precondition::Present(request)]).await {
        Err(StoreError::Conflict { .. }) => Err(ApiError::not_found()),
        written => Ok(written.map(|_| all)?),
    }
}

/// The role of a tenant that was asked for; no tenant has operators.
fn role_asked(name: &str) -> Result<Role, ApiError> {
    let role = Role::ALL.into_iter().find(|role| role.as_str() == name);
    let role = role.filter(|role| *role != Role::Operator);
    role.ok_or_else(|| ApiError::new("bad-role", format!("`{name}` is no role of a tenant")))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_store::store;

    fn held(letter: &str, until: i64) -> Held {
        Held {
            id: format!("ap_{}", letter.repeat(26)).parse().unwrap(),
            principal: "acme/ann".parse().unwrap(),
            role: Role::TenantAdmin,
            reason: "a fire".to_owned(),
            approved_by: "acme/bob".parse().unwrap(),
            at: Timestamp::UNIX_EPOCH,
            until: Timestamp::from_second(until).unwrap(),
        }
    }

    #[tokio::test]
    async fn a_request_gives_its_role_once_and_none_when_it_went_with_who_asked() {
        let (store, _dir) = store().await;
        // As after a removal of ann that came between the word of who allowed it and this: another may be ann by now.
        let gone = give(&store, held("a", 60)).await;
        assert!(gone.is_err_and(|error| error.code == "not-found"));
        assert!(stored(&store).await.unwrap().is_empty(), "nobody holds anything");

        let waiting = approvals::key(&held("a", 60).id);
        store.put_json(&waiting, &"waits").await.unwrap();
        assert_eq!(give(&store, held("a", 60)).await.unwrap().len(), 1);
        assert!(store.get(&waiting).await.unwrap().is_none(), "the request is answered");
        assert!(give(&store, held("a", 60)).await.is_err(), "and good for no second time");
        assert_eq!(stored(&store).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn what_is_over_is_not_held_on_to() {
        let (store, _dir) = store().await;
        for (letter, until) in [("a", 0), ("b", 60)] {
            store.put_json(&approvals::key(&held(letter, until).id), &"waits").await.unwrap();
            give(&store, held(letter, until)).await.unwrap();
        }
        let all = stored(&store).await.unwrap();
        assert_eq!(all.iter().map(|held| held.until.as_second()).collect::<Vec<_>>(), [60]);
    }

    #[test]
    fn no_tenants_person_becomes_an_operator_for_a_while() {
        assert!(role_asked("operator").is_err() && role_asked("anybody").is_err());
        assert_eq!(role_asked("tenant-admin").unwrap(), Role::TenantAdmin);
    }

    #[test]
    fn a_role_is_asked_for_that_gives_something() {
        use Role::{Auditor, Caller, Developer, TenantAdmin};
        let more = [(Developer, TenantAdmin), (Developer, Auditor), (Auditor, Developer), (Auditor, Caller)];
        assert!(more.into_iter().all(|(own, role)| !gives_nothing(own, role)));
        let nothing = [(TenantAdmin, Caller), (TenantAdmin, TenantAdmin), (Developer, Developer), (Developer, Caller)];
        assert!(nothing.into_iter().all(|(own, role)| gives_nothing(own, role)));
    }
}
