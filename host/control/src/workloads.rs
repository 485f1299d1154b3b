//! The trust bundle of this host's workloads, for those who verify the certificates of its plugins.
//!
//! Must never show anything but public certificates: it needs no token, as whoever verifies has none.

use axum::Json;
use axum::extract::State;
use http::header;
use serde_json::Value;

use crate::Control;

/// The trust bundle in the format of SPIFFE: a JWK set of the authorities that sign certificates of plugins.
#[utoipa::path(get, path = "/spiffe/bundle", tag = "host", responses((status = 200, body = Value)))]
pub async fn bundle(State(control): State<Control>) -> Json<Value> {
    Json(control.parts.workloads.bundle())
}

/// The same authorities' certificates in PEM.
#[utoipa::path(get, path = "/spiffe/bundle.pem", tag = "host", responses((status = 200, body = String)))]
pub async fn bundle_pem(State(control): State<Control>) -> ([(header::HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, "application/x-pem-file")], control.parts.workloads.bundle_pem())
}
