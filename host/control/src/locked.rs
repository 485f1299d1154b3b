//! The control plane of a host that is locked: it is alive, it is not ready, and everything else is refused.
//!
//! Must never say where the root key is, or what its provider said: this needs no token.

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;

use crate::problem::ApiError;

/// Seconds after which a caller may try again.
const RETRY_AFTER_SECONDS: u64 = 5;

/// The service of the control plane's port while the root key provider of this scheme does not answer.
pub fn locked_router(scheme: &'static str) -> Router {
    let readyz = move || async move { not_ready(scheme) };
    Router::new()
        .route("/healthz", get(crate::host::healthz))
        .route("/readyz", get(readyz))
        .route("/docs/errors/{code}", get(crate::errors::explain))
        .fallback(|| async { refusal() })
}

fn not_ready(scheme: &'static str) -> Response {
    let text = format!("not ready: locked, the root key provider `{scheme}:` does not let the host in\n");
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

fn refusal() -> ApiError {
    let text = "the host is locked: its root key provider does not answer";
    let error = ApiError::new("host-locked", text).help("ringfence doctor");
    ApiError { retry_after_seconds: Some(RETRY_AFTER_SECONDS), ..error }
}
