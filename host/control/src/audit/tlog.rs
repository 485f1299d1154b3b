//! A log as readers of transparency logs expect it: tiles, entry bundles, proofs, and how far it is anchored.
//!
//! Must never give out a body: what is here names nobody, and is for whoever may read the log.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64;
use http::header;
use ringfence_audit::Log;
use ringfence_audit::tiles::TilePath;
use ringfence_core::proof::act;
use serde::Deserialize;

use crate::Control;
use crate::call::Call;
use crate::extract::Asked;
use crate::problem::ApiError;
use crate::wire::{AnchorView, ConsistencyView, Problem};

/// Two sizes of a log.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Sizes {
    /// The earlier size, at least 1; 1 when absent.
    old: Option<u64>,
    /// The later size; what the log has now when absent.
    new: Option<u64>,
}

/// Reads a tenant's log in the layout of c2sp.org/tlog-tiles: `checkpoint`, `tile/<L>/<N>[.p/<W>]`,
/// `tile/entries/<N>[.p/<W>]`.
#[utoipa::path(get, path = "/tenants/{tenant}/audit/tlog/{*path}", tag = "audit",
    params(("tenant" = String, Path), ("path" = String, Path)),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>),
        (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path((tenant, path)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let reached = control.reach_tenant::<act::ReadAudit>(&call, &tenant).await?;
    control.tlog(&Log::Tenant(reached.store), &path).await
}

/// Reads the caller's own log in the same layout: its tenant's, or the host's for an operator.
#[utoipa::path(get, path = "/audit/tlog/{*path}", tag = "audit", params(("path" = String, Path)),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>),
        (status = "default", body = Problem)))]
pub async fn read_own(
    State(control): State<Control>,
    call: Call,
    Path(path): Path<String>,
) -> Result<Response, ApiError> {
    let (log, _permit) = control.own_log::<act::ReadAudit>(&call).await?;
    control.tlog(&log, &path).await
}

/// Proves that one entry is in the caller's own log (c2sp.org/tlog-proof@v1).
#[utoipa::path(get, path = "/audit/proofs/{seq}", tag = "audit", params(("seq" = u64, Path)),
    responses((status = 200, content_type = "text/plain", body = String), (status = "default", body = Problem)))]
pub async fn proof(State(control): State<Control>, call: Call, Path(seq): Path<String>) -> Result<String, ApiError> {
    let (log, _permit) = control.own_log::<act::ReadAudit>(&call).await?;
    let seq: u64 = seq.parse().map_err(|_| ApiError::new("bad-request", format!("`{seq}` is no place in a log")))?;
    let proof = control.parts.audit.proof(&log, seq).await?;
    proof.map(|proof| proof.to_string()).ok_or_else(|| no_entry(&format!("entry {seq}")))
}

/// Proves that the caller's own log at one size is the beginning of it at a later size.
#[utoipa::path(get, path = "/audit/consistency", tag = "audit", params(Sizes),
    responses((status = 200, body = ConsistencyView), (status = "default", body = Problem)))]
pub async fn consistency(
    State(control): State<Control>,
    call: Call,
    Asked(sizes): Asked<Sizes>,
) -> Result<Json<ConsistencyView>, ApiError> {
    let (log, _permit) = control.own_log::<act::ReadAudit>(&call).await?;
    let audit = &control.parts.audit;
    let old = sizes.old.unwrap_or(1);
    let new = match sizes.new {
        Some(new) => new,
        None => audit.size(&log).await?,
    };
    let path = audit.consistency(&log, old, new).await?;
    let path = path.ok_or_else(|| no_entry(&format!("a size {old} before a size {new}")))?;
    let path = path.iter().map(|hash| BASE64.encode(hash)).collect();
    Ok(Json(ConsistencyView { origin: audit.origin(&log), old, new, path }))
}

/// Says how far the caller's own log is anchored outside the host.
#[utoipa::path(get, path = "/audit/anchor", tag = "audit",
    responses((status = 200, body = AnchorView), (status = "default", body = Problem)))]
pub async fn anchor(State(control): State<Control>, call: Call) -> Result<Json<AnchorView>, ApiError> {
    let (log, _permit) = control.own_log::<act::ReadAudit>(&call).await?;
    let audit = &control.parts.audit;
    let anchored = audit.anchored(&log).await?;
    let (checkpoint, salt) = anchored.cover.map(|cover| (cover.checkpoint, cover.salt)).unzip();
    Ok(Json(AnchorView {
        level: format!("{:?}", anchored.level),
        checkpoint,
        salt,
        proof: anchored.proof.map(|proof| proof.to_string()),
        heads_vkey: audit.heads_vkey(),
        witnesses: anchored.witnesses,
    }))
}

impl Control {
    async fn tlog(&self, log: &Log, path: &str) -> Result<Response, ApiError> {
        let audit = &self.parts.audit;
        let found = match TilePath::parse(path) {
            Some(TilePath::Checkpoint) => return Ok(audit.checkpoint(log).await?.text.into_response()),
            Some(TilePath::Hashes(tile)) => audit.tile(log, tile).await?,
            Some(TilePath::Entries(tile)) => audit.bundle(log, tile).await?,
            None => None,
        };
        let bytes = found.ok_or_else(|| no_entry("such a tile"))?;
        Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
    }
}

fn no_entry(what: &str) -> ApiError {
    ApiError::new("no-entry", format!("the log has not {what}"))
}
