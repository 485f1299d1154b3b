//! Receipts of destruction: that the keys of a deleted tenant are gone, signed, for whoever asks an operator for it.
//!
//! Must never let one be lost: what was destroyed stands in the store until its receipt does, and what is owed is made up for.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::header;
use ringfence_audit::{AuditError, Event, codes};
use ringfence_core::proof::act;
use ringfence_core::{Action, PrincipalId};
use ringfence_store::{Destroyed, PageToken, StoreError};

use crate::Control;
use crate::call::Call;
use crate::extract::{Asked, Paging};
use crate::problem::ApiError;
use crate::wire::{DestructionView, Page, Problem};

/// Lists the receipts of destroyed keys, oldest first.
#[utoipa::path(get, path = "/keys/receipts", tag = "keys", params(Paging),
    responses((status = 200, body = Page<DestructionView>), (status = "default", body = Problem)))]
pub async fn list(
    State(control): State<Control>,
    call: Call,
    Asked(paging): Asked<Paging>,
) -> Result<Json<Page<DestructionView>>, ApiError> {
    let _permit = control.reach_host::<act::ReadKeys>(&call).await?;
    let after: Option<PageToken> = paging
        .cursor
        .as_deref()
        .map(|cursor| cursor.parse().map_err(|_| ApiError::new("bad-cursor", "the cursor is not one of ours")))
        .transpose()?;
    let (found, next) = control.parts.audit.destructions(after.as_ref(), paging.limit()).await?;
    let items = found.into_iter().map(|one| DestructionView {
        seq: one.seq,
        tenant: one.tenant,
        tenant_uid: one.tenant_uid,
        destroyed_at: one.destroyed_at.to_string(),
    });
    Ok(Json(Page { items: items.collect(), cursor: next.map(|next| next.to_string()) }))
}

/// Reads the signed receipt of a destruction, a C2SP signed note, by the place of its entry in the host's log.
#[utoipa::path(get, path = "/keys/receipts/{seq}", tag = "keys", params(("seq" = u64, Path)),
    responses((status = 200, content_type = "text/plain", body = String), (status = "default", body = Problem)))]
pub async fn read(State(control): State<Control>, call: Call, Path(seq): Path<String>) -> Result<Response, ApiError> {
    let _permit = control.reach_host::<act::ReadKeys>(&call).await?;
    let seq: u64 = seq.parse().map_err(|_| ApiError::new("bad-request", format!("`{seq}` is no place in a log")))?;
    let note = control.parts.audit.destruction(seq).await?;
    let note = note.ok_or_else(|| {
        ApiError::new("not-found", format!("entry {seq} of the host's log is about no destruction of keys"))
            .help("ringfence key receipts")
    })?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], note).into_response())
}

impl Control {
    /// Puts a destruction on the operator's log, whose heads are signed, and keeps a receipt of it.
    async fn write_receipt(&self, destroyed: &Destroyed) -> Result<u64, AuditError> {
        let audit = &self.parts.audit;
        let last = destroyed.approved_by.as_ref().unwrap_or(&destroyed.asked_by);
        let actor = last.parse::<PrincipalId>().unwrap_or_else(|_| audit.actor());
        let resource = format!("tenant/{}", destroyed.tenant);
        audit.destroyed(destroyed, Event::new(codes::KEY_DESTROYED, act::DestroyKeys::NAME, actor, resource)).await
    }

    /// Writes the receipts that are owed: of what was destroyed now, or before the host ended or the log could be written. Gives
    /// whether none is owed any more.
    pub(crate) async fn write_owed_receipts(&self) -> Result<bool, StoreError> {
        let _one = self.receipting.lock().await;
        let mut is_all = true;
        for destroyed in self.parts.tenants.unreceipted().await? {
            match self.write_receipt(&destroyed).await {
                Ok(seq) => tracing::info!(tenant = %destroyed.tenant, seq, "a receipt of destruction was written"),
                Err(error) => {
                    is_all = false;
                    tracing::warn!(%error, tenant = %destroyed.tenant, "a receipt of destruction is still owed");
                }
            }
        }
        Ok(is_all)
    }
}
