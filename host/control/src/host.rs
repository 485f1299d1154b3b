//! The host about itself: alive, ready, figures. And the few helpers that every endpoint file shares.
//!
//! Must never name a tenant in an answer that needs no token.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use ringfence_core::proof::act;
use ringfence_keys::memory_dumps;
use ringfence_store::{Key, Page as StorePage, PageToken, TenantStore};
use serde::Serialize;

use crate::Control;
use crate::call::Call;
use crate::extract::Paging;
use crate::problem::ApiError;
use crate::wire::{HostStatus, Problem};

/// The process is up. Says nothing about what it can do.
#[utoipa::path(get, path = "/healthz", tag = "host", responses((status = 200, body = String)))]
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// The host can serve: its store and its audit log take writes.
#[utoipa::path(get, path = "/readyz", tag = "host",
    responses((status = 200, body = String), (status = 503, body = String)))]
pub async fn readyz(State(control): State<Control>) -> Response {
    if control.parts.audit.is_writable() {
        // What follows is no reason to send callers elsewhere, but one to look.
        let mut said = "ready\n".to_owned();
        match control.backup_health.failing_count() {
            0 => {}
            count => said.push_str(&format!("backups: {count} failing\n")),
        }
        said.extend(control.parts.facts.certificate.line());
        (StatusCode::OK, said).into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready: the audit log cannot be written\n").into_response()
    }
}

/// Reads the host's state.
#[utoipa::path(get, path = "/host", tag = "host",
    responses((status = 200, body = HostStatus), (status = "default", body = Problem)))]
pub async fn read(State(control): State<Control>, call: Call) -> Result<Json<HostStatus>, ApiError> {
    // A tenant's people learn where the data plane is from here, so every signed-in caller may read; figures that span
    // tenants are for those who may read the host.
    let all = control.parts.policy.permit::<act::ReadHost>(&call.principal, &ringfence_core::Resource::Host);
    control.status(if all.is_ok() { Figures::All } else { Figures::Own }).await.map(Json)
}

/// Which figures a status shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figures {
    /// Those that span tenants too.
    All,
    /// Zeros in their place.
    Own,
}

impl Control {
    pub(crate) async fn status(&self, figures: Figures) -> Result<HostStatus, ApiError> {
        let parts = &*self.parts;
        let figure = |value: u64| if figures == Figures::All { value } else { 0 };
        let scheduler = parts.engine.scheduler();
        Ok(HostStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: parts.clock.monotonic().as_secs(),
            store: parts.facts.store_backend.to_owned(),
            store_bytes: figure(parts.store.stats().await?.bytes_on_disk),
            root_key: parts.facts.root_key.clone(),
            memory_dumps: memory_dumps().map_or_else(|_| "unknown".to_owned(), |dumps| word(&dumps)),
            io_class: parts.facts.io_class.word().to_owned(),
            tenants_count: figure(parts.tenants.list().await?.len() as u64),
            routes_count: figure(parts.registry.routes_count() as u64),
            running_count: figure(u64::from(scheduler.running())),
            waiting_count: figure(scheduler.waiting() as u64),
            slots_count: figure(u64::from(scheduler.slots())),
            backups_failing_count: figure(self.backup_health.failing_count()),
            plugins_address: parts.facts.plugins_address.to_string(),
        })
    }
}

/// The serialised word of a unit variant, such as `tenant-admin`.
pub fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// One page of records under a prefix.
pub async fn scan(store: &TenantStore, prefix: &Key, paging: &Paging) -> Result<StorePage, ApiError> {
    let after: Option<PageToken> = paging
        .cursor
        .as_deref()
        .map(|cursor| cursor.parse().map_err(|_| ApiError::new("bad-cursor", "the cursor is not one of ours")))
        .transpose()?;
    Ok(store.scan(prefix, after.as_ref(), paging.limit()).await?)
}
