//! The keys that sign the audit logs: which they are, and a new one.
//!
//! Must never show a private key. A change is an entry in every log, so that whoever knows the key before can follow it.

use axum::Json;
use axum::extract::State;
use ringfence_audit::{KeyChange, Log, OVERLAP_DAYS, codes};
use ringfence_core::proof::act;
use serde_json::json;

use crate::Control;
use crate::call::Call;
use crate::problem::ApiError;
use crate::wire::{KeyChangeView, LogKeyRotated, LogKeysView, Problem};

/// Reads the keys of the caller's own log, and what leads from one to the next.
#[utoipa::path(get, path = "/audit/keys", tag = "audit",
    responses((status = 200, body = LogKeysView), (status = "default", body = Problem)))]
pub async fn read(State(control): State<Control>, call: Call) -> Result<Json<LogKeysView>, ApiError> {
    let (log, _permit) = control.own_log::<act::ReadAudit>(&call).await?;
    let keys = control.parts.audit.keys(&log).await?;
    Ok(Json(LogKeysView {
        origin: control.parts.audit.origin(&log),
        vkey: keys.vkey,
        before: keys.before,
        cosigner_vkey: keys.cosigner_vkey,
        changes: keys.changes.into_iter().map(view).collect(),
    }))
}

/// Gives the host's logs a new signing key. Each log says so in an entry of its own, and the key before signs along for 30
/// days.
#[utoipa::path(post, path = "/audit/keys/rotate", tag = "audit",
    responses((status = 200, body = LogKeyRotated), (status = "default", body = Problem)))]
pub async fn rotate(State(control): State<Control>, call: Call) -> Result<Json<LogKeyRotated>, ApiError> {
    let permit = control.reach_host::<act::ManageAudit>(&call).await?;
    let audit = &control.parts.audit;
    let details = json!({ "before": audit.vkey(&Log::Host) });
    let generation = control
        .bracket(&call, &Log::Host, permit, codes::AUDIT_KEY_ROTATED, details, async |_permit| {
            Ok(audit.rotate_key().await?)
        })
        .await?;
    Ok(Json(LogKeyRotated { vkey: audit.vkey(&Log::Host), generation, overlap_days: OVERLAP_DAYS }))
}

fn view(change: KeyChange) -> KeyChangeView {
    let KeyChange { old_vkey, new_vkey, seq, at_ms, checkpoint } = change;
    KeyChangeView { old_vkey, new_vkey, seq, at_ms, checkpoint }
}
