//! The host about itself: alive, ready, figures. And the few helpers that every endpoint file shares.
//!
//! Must never name a tenant in an answer that needs no token.

use std::sync::atomic::AtomicU64;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry as Metrics;
use ringfence_core::proof::act;
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
        (StatusCode::OK, "ready\n").into_response()
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
    let all = control.parts.policy.permit::<act::ReadHost>(&call.principal, &ringfence_core::Resource::Host).is_ok();
    control.status(all).await.map(Json)
}

/// OpenMetrics text. Labels never carry a name a tenant chose.
#[utoipa::path(get, path = "/metrics", tag = "host", responses((status = 200, body = String), (status = "default", body = Problem)))]
pub async fn metrics(State(control): State<Control>) -> Result<Response, ApiError> {
    let status = control.status(true).await?;
    let mut metrics = Metrics::with_prefix("ringfence");
    for (name, help, value) in [
        ("tenants", "Tenants", status.tenants_count),
        ("routes", "Deployed plugins", status.routes_count),
        ("invocations_running", "Invocations running now", status.running_count),
        ("invocations_waiting", "Invocations waiting for a slot", status.waiting_count),
        ("slots", "Slots in all", status.slots_count),
        ("store_bytes", "Bytes the store takes on disk", status.store_bytes),
        ("uptime_seconds", "Seconds since the start", status.uptime_seconds),
    ] {
        let gauge = Gauge::<u64, AtomicU64>::default();
        gauge.set(value);
        metrics.register(name, help, gauge);
    }
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &metrics).map_err(|error| ApiError::host(&error))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

impl Control {
    async fn status(&self, all: bool) -> Result<HostStatus, ApiError> {
        let parts = &*self.parts;
        let figure = |value: u64| if all { value } else { 0 };
        let scheduler = parts.engine.scheduler();
        Ok(HostStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: parts.clock.monotonic().as_secs(),
            store: parts.facts.store_backend.to_owned(),
            store_bytes: figure(parts.store.stats().await?.bytes_on_disk),
            root_key: parts.facts.root_key.clone(),
            tenants_count: figure(parts.tenants.list().await?.len() as u64),
            routes_count: figure(parts.registry.routes_count() as u64),
            running_count: figure(u64::from(scheduler.running())),
            waiting_count: figure(scheduler.waiting() as u64),
            slots_count: figure(u64::from(scheduler.slots())),
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
