//! The life of an audit log: how long it is kept, legal holds, erasing what an application wrote into it.
//!
//! Must never let one person alone lift a hold or erase a body, nor delete anything by itself: what is due is swept by the
//! audit room, which tells the log before.

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use ringfence_audit::{
    Agreed, Asked, AuditError, Beginning, Entry, Hold, HoldSide, Log, REASON_BYTES_MAX, Shard, codes,
};
use ringfence_core::proof::act;
use ringfence_core::{Permit, PrincipalId, Resource, Role, TenantId};
use ringfence_store::StoreError;
use serde_json::{Value, json};

use crate::Control;
use crate::call::{Call, Reached};
use crate::extract::JsonBody;
use crate::host::word;
use crate::problem::ApiError;
use crate::wire::{
    AgreementView, BeginningView, HoldView, LogLifeView, NewErasure, NewHold, Problem, SetRetention, ShardView,
};

/// The field that a person's part of an event is sealed as.
const PERSONAL_FIELD: &str = "audit-event";
/// LIMIT: largest sealed part, in bytes of text: it must not be trimmed with the rest of the event.
const PERSONAL_BYTES_MAX: usize = 15 << 10;

/// Reads the life of the caller's own log: its retention, shards, final heads and holds.
#[utoipa::path(get, path = "/audit/retention", tag = "audit",
    responses((status = 200, body = LogLifeView), (status = "default", body = Problem)))]
pub async fn life(State(control): State<Control>, call: Call) -> Result<Json<LogLifeView>, ApiError> {
    let (log, _permit) = control.own_log::<act::ReadAudit>(&call).await?;
    control.life_view(&log).await.map(Json)
}

/// Sets how long the caller's own log is kept, not below the operator's minimum.
#[utoipa::path(put, path = "/audit/retention", tag = "audit", request_body = SetRetention,
    responses((status = 200, body = LogLifeView), (status = "default", body = Problem)))]
pub async fn set_days(
    State(control): State<Control>,
    call: Call,
    JsonBody(asked): JsonBody<SetRetention>,
) -> Result<Json<LogLifeView>, ApiError> {
    let (log, permit) = control.own_log::<act::ManageAudit>(&call).await?;
    let audit = &control.parts.audit;
    audit.check_retention_days(asked.retention_days)?;
    let details = json!({ "before_days": audit.retention_days(&log).await?, "days": asked.retention_days });
    control
        .bracket(&call, &log, permit, codes::RETENTION_SET, details, async |_permit| {
            Ok(audit.set_retention_days(&log, asked.retention_days).await?)
        })
        .await?;
    control.life_view(&log).await.map(Json)
}

/// Sets a legal hold on the caller's own log: while there is one, nothing of it is deleted or erased, and the tenant is not
/// deleted.
#[utoipa::path(post, path = "/audit/holds", tag = "audit", request_body = NewHold,
    responses((status = 201, body = HoldView), (status = "default", body = Problem)))]
pub async fn hold(
    State(control): State<Control>,
    call: Call,
    JsonBody(new): JsonBody<NewHold>,
) -> Result<(StatusCode, Json<HoldView>), ApiError> {
    let (log, permit) = control.own_log::<act::HoldAudit>(&call).await?;
    control.set_hold(&call, &log, permit, new).await
}

/// Wants a legal hold on the caller's own log lifted; another person's word within a day lifts it.
#[utoipa::path(delete, path = "/audit/holds/{hold}", tag = "audit",
    responses((status = 200, body = AgreementView), (status = "default", body = Problem)))]
pub async fn lift(
    State(control): State<Control>,
    call: Call,
    Path(hold): Path<String>,
) -> Result<Json<AgreementView>, ApiError> {
    let (log, permit) = control.own_log::<act::HoldAudit>(&call).await?;
    control.lift_hold(&call, &log, permit, &hold).await
}

/// Sets a legal hold on a tenant's log. One that an operator set, operators lift.
#[utoipa::path(post, path = "/tenants/{tenant}/audit/holds", tag = "audit", request_body = NewHold,
    responses((status = 201, body = HoldView), (status = "default", body = Problem)))]
pub async fn hold_tenant(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    JsonBody(new): JsonBody<NewHold>,
) -> Result<(StatusCode, Json<HoldView>), ApiError> {
    let reached = control.reach_held(&call, &tenant).await?;
    control.set_hold(&call, &Log::Tenant(reached.store), reached.permit, new).await
}

/// Wants a legal hold on a tenant's log lifted; another person's word within a day lifts it.
#[utoipa::path(delete, path = "/tenants/{tenant}/audit/holds/{hold}", tag = "audit",
    responses((status = 200, body = AgreementView), (status = "default", body = Problem)))]
pub async fn lift_tenant(
    State(control): State<Control>,
    call: Call,
    Path((tenant, hold)): Path<(String, String)>,
) -> Result<Json<AgreementView>, ApiError> {
    let reached = control.reach_held(&call, &tenant).await?;
    control.lift_hold(&call, &Log::Tenant(reached.store), reached.permit, &hold).await
}

/// Wants the body of an application's event in the caller's own log erased; another person's word within a day erases it.
/// The entry stays, and every proof of it holds.
#[utoipa::path(post, path = "/audit/erasures", tag = "audit", request_body = NewErasure,
    responses((status = 200, body = AgreementView), (status = "default", body = Problem)))]
pub async fn erase(
    State(control): State<Control>,
    call: Call,
    JsonBody(new): JsonBody<NewErasure>,
) -> Result<Json<AgreementView>, ApiError> {
    let (log, permit) = control.own_log::<act::ManageAudit>(&call).await?;
    check_reason(&new.reason)?;
    let audit = &control.parts.audit;
    let _one = control.agreeing.of(audit.origin(&log)).await;
    let asked = audit.asked_to_erase(&log, new.seq).await?;
    let code = if control.is_others(asked.as_ref(), &call) { codes::BODY_ERASED } else { codes::ERASURE_ASKED };
    let details = json!({ "seq": new.seq, "reason": new.reason, "asked_by": asked.map(|asked| asked.by) });
    let agreed = control
        .bracket(&call, &log, permit, code, details, async |_permit| {
            Ok(audit.erase(&log, new.seq, call.principal.id(), &control.are_two()).await?)
        })
        .await?;
    Ok(Json(agreement(agreed)))
}

impl Control {
    async fn life_view(&self, log: &Log) -> Result<LogLifeView, ApiError> {
        let audit = &self.parts.audit;
        let (life, holds) = (audit.life(log).await?, audit.holds(log).await?);
        let (first, bodies_from) = (life.first, life.bodies_from);
        Ok(LogLifeView {
            origin: audit.origin(log),
            retention_days: life.days,
            retention_days_min: life.days_min,
            first_seq: first,
            bodies_from_seq: bodies_from,
            deletes_at: life.deletes_at.map(|at| at.to_string()),
            shards: life.shards.into_iter().map(|shard| shard_view(shard, first, bodies_from)).collect(),
            beginning: life.beginning.map(beginning_view),
            holds: holds.into_iter().map(hold_view).collect(),
        })
    }

    /// A tenant for an act on its holds: its keys may be shut, as they are while its deletion waits.
    async fn reach_held(&self, call: &Call, tenant: &str) -> Result<Reached<act::HoldAudit>, ApiError> {
        let tenant: TenantId = tenant.parse().map_err(|_| ApiError::not_found())?;
        self.reach_closed(call, Resource::Tenant { tenant }).await
    }

    async fn set_hold(
        &self,
        call: &Call,
        log: &Log,
        permit: Permit<act::HoldAudit>,
        new: NewHold,
    ) -> Result<(StatusCode, Json<HoldView>), ApiError> {
        check_reason(&new.reason)?;
        let (by, audit) = (call.principal.id().clone(), &self.parts.audit);
        let details = json!({ "log": audit.origin(log), "reason": new.reason, "side": word(&side(call)) });
        let hold = self
            .bracket(call, &writable(log), permit, codes::HOLD_SET, details, async |_permit| {
                // A deletion of the tenant, or of a person in it, looks for holds under this lock.
                let _one = match log {
                    Log::Tenant(store) => self.turn_to_change(store).await,
                    // No deletion destroys the host's own.
                    Log::Host => None,
                };
                if matches!(log, Log::Tenant(store) if matches!(store.check_keys(), Err(StoreError::Gone))) {
                    // There is no way back from it, and a hold that keeps nothing must not be taken for one.
                    let text = "the deletion of this tenant has begun: no hold keeps its log any more";
                    return Err(ApiError::new("conflict", text));
                }
                Ok(audit.hold(log, &new.reason, by, side(call)).await?)
            })
            .await?;
        Ok((StatusCode::CREATED, Json(hold_view(hold))))
    }

    async fn lift_hold(
        &self,
        call: &Call,
        log: &Log,
        permit: Permit<act::HoldAudit>,
        id: &str,
    ) -> Result<Json<AgreementView>, ApiError> {
        let audit = &self.parts.audit;
        let _one = self.agreeing.of(audit.origin(log)).await;
        let hold = audit.holds(log).await?.into_iter().find(|hold| hold.id == id).ok_or(AuditError::NoSuch)?;
        let code = if self.is_others(hold.lift.as_ref(), call) { codes::HOLD_LIFTED } else { codes::HOLD_LIFT_ASKED };
        let details = json!({ "log": audit.origin(log), "hold": id, "asked_by": hold.lift.map(|asked| asked.by) });
        let agreed = self
            .bracket(call, &writable(log), permit, code, details, async |_permit| {
                Ok(audit.lift(log, id, call.principal.id(), side(call), &self.are_two()).await?)
            })
            .await?;
        Ok(Json(agreement(agreed)))
    }

    /// Whether somebody else than the caller asked, and his word still waits.
    fn is_others(&self, asked: Option<&Asked>, call: &Call) -> bool {
        asked.is_some_and(|asked| asked.waits_for(call.principal.id(), self.parts.clock.now()))
    }

    /// Whether two principals can be two people now.
    pub(crate) fn are_two(&self) -> impl Fn(&PrincipalId, &PrincipalId) -> bool + Send + Sync + '_ {
        |one, other| self.parts.identity.is_second_person(one, other)
    }

    /// Seals what an event says of a person. Gives the person's pseudonym and the sealed text.
    pub(super) async fn seal_personal(
        &self,
        log: &Log,
        subject: &str,
        part: &Value,
    ) -> Result<(String, String), ApiError> {
        let Log::Tenant(store) = log else {
            return Err(ApiError::new("bad-event", "the host's own log has no subjects"));
        };
        let subjects = store.subjects();
        let now = self.parts.clock.now();
        let sealed = subjects.seal(PERSONAL_FIELD, subject, part.to_string().as_bytes(), now).await?;
        if sealed.len() > PERSONAL_BYTES_MAX {
            let text = format!("what is said of a person is over {PERSONAL_BYTES_MAX} bytes once sealed");
            return Err(ApiError::new("bad-event", text));
        }
        Ok((subjects.pseudonym(subject).await?.to_string(), sealed))
    }

    /// What an event says of its subject, opened for a tenant-admin; none when there is nothing to open any more.
    pub(super) async fn personal_part(&self, role: Option<Role>, log: &Log, entry: &Entry) -> Option<Value> {
        let (Log::Tenant(store), Some(Role::TenantAdmin)) = (log, role) else { return None };
        let body = entry.body.as_ref()?;
        let ours = body.pointer("/unmapped/code")?.as_str()? == codes::APPLICATION_EVENT;
        let sealed = body.pointer("/unmapped/details/sealed")?.as_str().filter(|_| ours)?;
        let (_, opened) = store.subjects().open(PERSONAL_FIELD, None, sealed).await.ok()?;
        serde_json::from_slice(&opened).ok()
    }
}

fn check_reason(reason: &str) -> Result<(), ApiError> {
    if reason.trim().is_empty() || reason.len() > REASON_BYTES_MAX {
        return Err(ApiError::new("bad-word", format!("`reason` is 1 to {REASON_BYTES_MAX} bytes")));
    }
    Ok(())
}

/// Where an act on the holds of a log is written: the log itself, or the host's while the tenant's keys are shut.
fn writable(log: &Log) -> Log {
    match log {
        Log::Tenant(store) if store.check_keys().is_err() => Log::Host,
        other => other.clone(),
    }
}

fn side(call: &Call) -> HoldSide {
    if call.principal.tenant().is_none() { HoldSide::Operator } else { HoldSide::Tenant }
}

fn agreement(agreed: Agreed) -> AgreementView {
    let state = match agreed {
        Agreed::Asked => "asked",
        Agreed::Done => "done",
    };
    AgreementView { state: state.to_owned() }
}

fn hold_view(hold: Hold) -> HoldView {
    HoldView {
        side: word(&hold.side),
        id: hold.id,
        reason: hold.reason,
        by: hold.by.to_string(),
        at: hold.at.to_string(),
        lift_asked_by: hold.lift.map(|asked| asked.by.to_string()),
    }
}

fn shard_view(shard: Shard, first: u64, bodies_from: u64) -> ShardView {
    let state = match shard.to {
        None => "open",
        Some(to) if to <= bodies_from => "deleted",
        Some(_) if shard.from < first => "deleting",
        Some(_) => "closed",
    };
    ShardView {
        year: shard.year,
        last_year: shard.last_year,
        from_seq: shard.from,
        to_seq: shard.to,
        state: state.to_owned(),
        checkpoint: shard.checkpoint,
    }
}

fn beginning_view(beginning: Beginning) -> BeginningView {
    let Beginning { size, peaks, final_checkpoint } = beginning;
    BeginningView { size, peaks, final_checkpoint }
}
