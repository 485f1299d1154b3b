//! What one principal asked for and another must allow: a policy or labels that may allow more, less that is asked of sessions,
//! a role held for a while.
//!
//! Must never let who asked allow it, nor act on what was asked after it expired or was overtaken by another change.

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use ringfence_audit::{Log, codes};
use ringfence_core::proof::act;
use ringfence_core::{Action, ApprovalId, Permit, PrincipalId, Resource, Role, TenantId};
use ringfence_identity::IdentityError;
use ringfence_store::{Key, Op, Precondition, StoreError, TenantStore};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::labels;
use super::text::Change;
use crate::Control;
use crate::call::Call;
use crate::problem::ApiError;
use crate::wire::{ApprovalView, FoundView, Page, Problem, SetTrust};

/// LIMIT: most things of one tenant that wait at once.
const WAITING_COUNT_MAX: usize = 64;
/// How long something waits, in hours.
const WAITING_HOURS: i64 = 24;

/// What is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub(crate) enum Want {
    /// A policy text in force.
    Policy {
        text: String,
        note: Option<String>,
        rolled_back_to: Option<u64>,
        base_version: u64,
        /// As who asked was told.
        #[serde(default)]
        found: Option<Box<FoundView>>,
    },
    /// Labels in force.
    Labels {
        text: String,
        base_version: u64,
        /// As who asked was told.
        #[serde(default)]
        found: Option<Box<FoundView>>,
    },
    /// Other settings of trust, which ask for less of sessions: in what, and beside which they were written.
    Trust { settings: Box<SetTrust>, weakened: Vec<String>, changed_at: Option<Timestamp> },
    /// Another role for a while.
    Elevation { role: Role, minutes: u32, reason: String },
}

/// As it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Approval {
    pub(super) id: ApprovalId,
    pub(super) asked_by: PrincipalId,
    pub(super) at: Timestamp,
    pub(super) expires_at: Timestamp,
    pub(super) want: Want,
}

impl Want {
    /// Whether what comes of it stays until somebody changes it again.
    fn lasts(&self) -> bool {
        !matches!(self, Self::Elevation { .. })
    }
}

impl Approval {
    /// Whether it can be allowed still.
    fn waits(&self, now: Timestamp) -> bool {
        now < self.expires_at
    }

    /// Whether this one may allow it: another than who asked.
    fn check_other(
        &self,
        who: &PrincipalId,
        are_two: impl Fn(&PrincipalId, &PrincipalId) -> bool,
    ) -> Result<(), ApiError> {
        if self.asked_by == *who {
            return Err(ApiError::new("own-request", "who asked for it cannot allow it")
                .help("another tenant-admin can: ringfence approval list"));
        }
        // A role is the admin's own to give. What lasts needs two people, not two keys of one.
        if self.want.lasts() && !are_two(&self.asked_by, who) {
            return Err(ApiError::second_person_needed());
        }
        Ok(())
    }
}

/// Lists what waits for somebody to allow it, oldest first: to who may read the policy all, to others of the tenant their own.
#[utoipa::path(get, path = "/tenants/{tenant}/approvals", tag = "policy",
    responses((status = 200, body = Page<ApprovalView>), (status = "default", body = Problem)))]
pub async fn list(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<Page<ApprovalView>>, ApiError> {
    let (store, whose) = control.shown_of(&call, &tenant).await?;
    let mut waiting = control.waiting(&store).await?;
    waiting.retain(|approval| whose.shows(&call, &approval.asked_by));
    Ok(Json(Page { items: waiting.into_iter().map(view).collect(), cursor: None }))
}

/// Allows what another asked for; it takes effect at once.
#[utoipa::path(post, path = "/tenants/{tenant}/approvals/{id}/approve", tag = "policy",
    responses((status = 200, body = ApprovalView), (status = "default", body = Problem)))]
pub async fn approve(
    State(control): State<Control>,
    call: Call,
    Path((tenant, id)): Path<(String, String)>,
) -> Result<Json<ApprovalView>, ApiError> {
    let reached = control.reach_tenant::<act::ApproveChange>(&call, &tenant).await?;
    let (tenant, store) = (reached.tenant, reached.store);
    let approval = control.find_waiting(&store, &id).await?;
    let log = Log::Tenant(store.clone());
    let details = json!({ "approval": approval.id, "asked_by": approval.asked_by });
    control
        .bracket(&call, &log, reached.permit, codes::APPROVAL_GIVEN, details, async |permit| {
            // On the record, where a rule looks for it.
            control.check_other(&call, &approval)?;
            // Taken away first, so that two who allow it at the same moment act once. A role is given in the request's place.
            if approval.want.lasts() {
                take(&store, &approval).await?;
            }
            control.carry_out(&call, &tenant, &store, &approval, permit.principal()).await
        })
        .await?;
    Ok(Json(view(approval)))
}

/// Refuses what another asked for, or withdraws one's own.
#[utoipa::path(delete, path = "/tenants/{tenant}/approvals/{id}", tag = "policy",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn refuse(
    State(control): State<Control>,
    call: Call,
    Path((tenant, id)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let reached = control.reach_tenant::<act::RequestElevation>(&call, &tenant).await?;
    let approval = control.find_waiting(&reached.store, &id).await?;
    let log = Log::Tenant(reached.store.clone());
    let details = json!({ "approval": approval.id, "asked_by": approval.asked_by });
    if approval.asked_by == *call.principal.id() {
        control
            .bracket(&call, &log, reached.permit, codes::APPROVAL_REFUSED, details, async |_permit| {
                take(&reached.store, &approval).await
            })
            .await?;
        return Ok(StatusCode::NO_CONTENT);
    }
    let resource = Resource::Tenant { tenant: reached.tenant };
    let permit = control.reach::<act::ApproveChange>(&call, resource).await?.permit;
    control
        .bracket(&call, &log, permit, codes::APPROVAL_REFUSED, details, async |_permit| {
            take(&reached.store, &approval).await
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Whose requests and lent roles are shown.
pub(super) enum Whose {
    /// Everybody's.
    All,
    /// The caller's own.
    Own,
}

impl Whose {
    pub(super) fn shows(&self, call: &Call, whose: &PrincipalId) -> bool {
        matches!(self, Self::All) || whose == call.principal.id()
    }
}

impl Control {
    /// Where requests and lent roles of a tenant stand, and whose of them the caller sees. His own need no permit, as his
    /// sessions need none; a stranger is refused as everywhere.
    pub(super) async fn shown_of(&self, call: &Call, tenant: &str) -> Result<(TenantStore, Whose), ApiError> {
        let home = call.principal.tenant().filter(|home| home.as_str() == tenant);
        let may_read_all = |home: &TenantId| {
            let resource = Resource::Tenant { tenant: home.clone() };
            self.parts.policy.permit_from::<act::ReadPolicy>(&call.principal, call.peer, &resource).is_ok()
        };
        let Some(home) = home.filter(|&home| !may_read_all(home)) else {
            let reached = self.reach_tenant::<act::ReadPolicy>(call, tenant).await?;
            return Ok((reached.store, Whose::All));
        };
        let store = self.parts.tenants.open_tenant(home).ok_or_else(ApiError::not_found)?;
        store.check_keys()?;
        if self.parts.tenants.is_unread(home) {
            return Err(ApiError::key_disabled());
        }
        Ok((store, Whose::Own))
    }

    /// Whether who allows it is another than who asked.
    fn check_other(&self, call: &Call, approval: &Approval) -> Result<(), ApiError> {
        let identity = &self.parts.identity;
        approval.check_other(call.principal.id(), |one, other| identity.is_second_person(one, other))
    }

    /// Puts what is asked for among what waits.
    pub(crate) async fn ask_approval<A: Action>(
        &self,
        call: &Call,
        log: &Log,
        store: &TenantStore,
        permit: Permit<A>,
        want: Want,
    ) -> Result<ApprovalView, ApiError> {
        let now = self.parts.clock.now();
        let expires_at =
            now.checked_add(SignedDuration::from_hours(WAITING_HOURS)).map_err(|error| ApiError::host(&error))?;
        let id = ApprovalId::random(&*self.parts.entropy);
        let approval = Approval { id, asked_by: call.principal.id().clone(), at: now, expires_at, want };
        let details = json!({ "approval": approval.id, "wants": words(&approval.want) });
        self.bracket(call, log, permit, codes::APPROVAL_ASKED, details, async |_permit| {
            let _one = self.turn_to_change(store).await;
            // SECURITY: who was removed while this was on its way asks for nothing any more: his name may be another's by now.
            if !self.parts.identity.is_signed_in(&call.principal) {
                return Err(ApiError::from(IdentityError::Unauthenticated));
            }
            if self.waiting(store).await?.len() >= WAITING_COUNT_MAX {
                let text = format!("{WAITING_COUNT_MAX} requests wait already; allow or refuse some first");
                return Err(ApiError::new("conflict", text));
            }
            store.put_json(&key(&approval.id), &approval).await?;
            Ok(())
        })
        .await?;
        Ok(view(approval))
    }

    /// Whether a policy waits to be allowed.
    pub(super) async fn waits_for_policy(&self, store: &TenantStore) -> Result<bool, ApiError> {
        Ok(self.waiting(store).await?.iter().any(|approval| matches!(approval.want, Want::Policy { .. })))
    }

    /// What waits, oldest first; what expired is taken away.
    async fn waiting(&self, store: &TenantStore) -> Result<Vec<Approval>, ApiError> {
        let now = self.parts.clock.now();
        let page = store.scan(&Key::new(["approval"]), None, 2 * WAITING_COUNT_MAX).await?;
        let mut waiting = Vec::new();
        for (at, record) in page.records {
            let approval: Approval = record.json()?;
            if approval.waits(now) {
                waiting.push(approval);
            } else {
                store.delete(&at).await?;
            }
        }
        waiting.sort_by(|a, b| (a.at, a.id.as_str()).cmp(&(b.at, b.id.as_str())));
        Ok(waiting)
    }

    /// Takes away all that those who are gone asked for. The caller holds the turn to change.
    pub(super) async fn take_asked(
        &self,
        store: &TenantStore,
        is_gone: impl Fn(&PrincipalId) -> bool,
    ) -> Result<(), ApiError> {
        let mut waiting = self.waiting(store).await?;
        waiting.retain(|approval| is_gone(&approval.asked_by));
        if !waiting.is_empty() {
            let ops: Vec<Op> = waiting.iter().map(|approval| Op::delete(key(&approval.id))).collect();
            store.batch(ops, Vec::new()).await?;
        }
        Ok(())
    }

    async fn find_waiting(&self, store: &TenantStore, id: &str) -> Result<Approval, ApiError> {
        let id: ApprovalId = id.parse().map_err(|_| ApiError::not_found())?;
        let found: Option<Approval> = store.get_json(&key(&id)).await?;
        found.filter(|approval| approval.waits(self.parts.clock.now())).ok_or_else(ApiError::not_found)
    }

    /// Whether somebody else could allow what a tenant-admin asks for. Who may not see the keys cannot know, so for them
    /// there is.
    pub(crate) async fn has_another_admin(&self, call: &Call, tenant: &TenantId) -> Result<bool, ApiError> {
        let resource = Resource::Tenant { tenant: tenant.clone() };
        let Ok(permit) = self.parts.policy.permit_from::<act::ListTokens>(&call.principal, call.peer, &resource) else {
            return Ok(true);
        };
        Ok(self.parts.identity.has_another_admin(permit, tenant, call.principal.id())?)
    }

    async fn carry_out(
        &self,
        call: &Call,
        tenant: &TenantId,
        store: &TenantStore,
        approval: &Approval,
        by: &PrincipalId,
    ) -> Result<(), ApiError> {
        match approval.want.clone() {
            Want::Policy { text, note, rolled_back_to, base_version, .. } => {
                let asked_by = approval.asked_by.clone();
                let change =
                    Change { text, note, by: asked_by, approved_by: Some(by.clone()), rolled_back_to, base_version };
                self.activate(tenant, store, change).await.map(drop)
            }
            Want::Labels { text, base_version, .. } => {
                let (asked_by, approved_by) = (approval.asked_by.clone(), Some(by.clone()));
                let change = labels::Change { text, by: asked_by, approved_by, base_version };
                self.put_labels(tenant, store, change).await.map(drop)
            }
            Want::Trust { settings, changed_at, .. } => {
                self.put_approved_trust(call, tenant, &settings, (&approval.asked_by, changed_at)).await
            }
            Want::Elevation { role, minutes, reason } => {
                self.elevate(tenant, store, approval, by, (role, minutes, reason)).await
            }
        }
    }
}

/// Takes a request away; fails when somebody else did.
async fn take(store: &TenantStore, approval: &Approval) -> Result<(), ApiError> {
    let at = key(&approval.id);
    let record = store.get(&at).await?.ok_or_else(ApiError::not_found)?;
    match store.batch(vec![Op::delete(at.clone())], vec![Precondition::Revision(at, record.revision)]).await {
        Err(StoreError::Conflict { .. }) => Err(ApiError::not_found()),
        other => Ok(other.map(drop)?),
    }
}

fn words(want: &Want) -> String {
    match want {
        Want::Policy { base_version, rolled_back_to: Some(target), .. } => {
            format!("the policy rolled back from version {base_version} to {target}")
        }
        Want::Policy { base_version, .. } => format!("another policy in the place of version {base_version}"),
        Want::Labels { base_version, .. } => format!("other labels in the place of version {base_version}"),
        Want::Trust { weakened, .. } => format!("less asked of sessions: {}", weakened.join(", ")),
        Want::Elevation { role, minutes, reason } => format!("the role {role} for {minutes} minutes: {reason}"),
    }
}

fn view(approval: Approval) -> ApprovalView {
    let (kind, wants) = match &approval.want {
        Want::Policy { .. } => ("policy", words(&approval.want)),
        Want::Labels { .. } => ("labels", words(&approval.want)),
        Want::Trust { .. } => ("trust", words(&approval.want)),
        Want::Elevation { .. } => ("elevation", words(&approval.want)),
    };
    let (text, note, found) = match approval.want {
        Want::Policy { text, note, found, .. } => (Some(text), note, found.map(|found| *found)),
        Want::Labels { text, found, .. } => (Some(text), None, found.map(|found| *found)),
        Want::Trust { settings, .. } => (serde_json::to_string(&settings).ok(), None, None),
        Want::Elevation { .. } => (None, None, None),
    };
    ApprovalView {
        id: approval.id.to_string(),
        kind: kind.to_owned(),
        wants,
        asked_by: approval.asked_by.to_string(),
        at: approval.at.to_string(),
        expires_at: approval.expires_at.to_string(),
        text,
        note,
        found,
    }
}

pub(super) fn key(id: &ApprovalId) -> Key {
    Key::new(["approval", id.as_str()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(want: Want) -> Approval {
        let at = Timestamp::UNIX_EPOCH;
        Approval {
            id: format!("ap_{}", "a".repeat(26)).parse().unwrap(),
            asked_by: "acme/ann".parse().unwrap(),
            at,
            expires_at: at + SignedDuration::from_hours(WAITING_HOURS),
            want,
        }
    }

    fn role() -> Approval {
        asked(Want::Elevation { role: Role::Developer, minutes: 5, reason: "a fire".to_owned() })
    }

    /// What is said to this one, of whom ann is another person or the same with another key.
    fn said(approval: &Approval, who: &str, is_another_person: bool) -> Option<&'static str> {
        approval.check_other(&who.parse().unwrap(), |_, _| is_another_person).err().map(|error| error.code)
    }

    #[test]
    fn nobody_allows_what_he_asked_for_and_what_lasts_takes_another_person() {
        let labels = asked(Want::Labels { text: "{}".to_owned(), base_version: 0, found: None });
        for approval in [&labels, &role()] {
            assert_eq!(said(approval, "acme/ann", true), Some("own-request"));
            assert_eq!(said(approval, "acme/bob", true), None);
        }
        assert_eq!(said(&labels, "acme/anns-key", false), Some("second-person-needed"));
        assert_eq!(said(&role(), "acme/anns-key", false), None, "a role is an admin's own to give");
    }

    #[test]
    fn a_request_waits_a_day_and_is_good_for_nothing_from_then_on() {
        let (approval, hour) = (role(), SignedDuration::from_hours(1));
        assert!(approval.waits(approval.expires_at - hour));
        assert!(!approval.waits(approval.expires_at) && !approval.waits(approval.expires_at + hour));
    }

    #[tokio::test]
    async fn of_two_who_allow_the_same_one_acts() {
        let (store, _dir) = crate::test_store::store().await;
        let approval = asked(Want::Labels { text: "{}".to_owned(), base_version: 0, found: None });
        store.put_json(&key(&approval.id), &approval).await.unwrap();
        take(&store, &approval).await.unwrap();
        assert!(take(&store, &approval).await.is_err_and(|error| error.code == "not-found"));
    }
}
