//! Devices of the caller: register, challenge, verify, remove.
//!
//! Must never answer `verified` for evidence that was not checked, nor touch another's device.

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use jiff::Timestamp;
use ringfence_audit::codes;
use ringfence_identity::{DeviceEvidence, DeviceFound, DeviceRecord, DeviceVerdict};
use serde_json::json;

use crate::Control;
use crate::call::Call;
use crate::extract::JsonBody;
use crate::host::word;
use crate::problem::ApiError;
use crate::wire::{
    DeviceChallenge, DeviceFoundView, DeviceVerification, DeviceView, NewDevice, Page, Problem, VerifyDevice,
};

/// Lists the caller's devices.
#[utoipa::path(get, path = "/zero-trust/devices", tag = "zero-trust",
    responses((status = 200, body = Page<DeviceView>), (status = "default", body = Problem)))]
pub async fn list(State(control): State<Control>, call: Call) -> Json<Page<DeviceView>> {
    let now = control.parts.clock.now();
    let devices = control.parts.identity.devices(&call.principal);
    Json(Page { items: devices.into_iter().map(|device| view(device, now)).collect(), cursor: None })
}

/// Registers a device of the caller; nothing is known of it until it is verified.
#[utoipa::path(post, path = "/zero-trust/devices", tag = "zero-trust", request_body = NewDevice,
    responses((status = 201, body = DeviceView), (status = "default", body = Problem)))]
pub async fn register(
    State(control): State<Control>,
    call: Call,
    JsonBody(new): JsonBody<NewDevice>,
) -> Result<(StatusCode, Json<DeviceView>), ApiError> {
    let name = new.name.parse()?;
    let details = json!({ "device": new.name, "change": "registered" });
    let made = control
        .own_act(&call, codes::DEVICE_CHANGED, "change-device", details, async || {
            Ok(control.parts.identity.register_device(&call.principal, name).await?)
        })
        .await?;
    Ok((StatusCode::CREATED, Json(view(made, control.parts.clock.now()))))
}

/// Removes a device of the caller; one that was found failing stays until that is over.
#[utoipa::path(delete, path = "/zero-trust/devices/{id}", tag = "zero-trust",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn remove(
    State(control): State<Control>,
    call: Call,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let details = json!({ "device": id.chars().take(80).collect::<String>(), "change": "removed" });
    control
        .own_act(&call, codes::DEVICE_CHANGED, "change-device", details, async || {
            Ok(control.parts.identity.remove_device(&call.principal, &id).await?)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives out a nonce that evidence about a device must answer to.
#[utoipa::path(post, path = "/zero-trust/devices/{id}/challenge", tag = "zero-trust",
    responses((status = 200, body = DeviceChallenge), (status = "default", body = Problem)))]
pub async fn challenge(
    State(control): State<Control>,
    call: Call,
    Path(id): Path<String>,
) -> Result<Json<DeviceChallenge>, ApiError> {
    let from = call.peer.unwrap_or(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
    Ok(Json(DeviceChallenge { nonce: control.parts.identity.challenge_device(&call.principal, &id, from)? }))
}

/// Checks evidence about a device of the caller.
#[utoipa::path(post, path = "/zero-trust/device-verification", tag = "zero-trust", request_body = VerifyDevice,
    responses((status = 200, body = DeviceVerification), (status = "default", body = Problem)))]
pub async fn verify(
    State(control): State<Control>,
    call: Call,
    JsonBody(shown): JsonBody<VerifyDevice>,
) -> Result<Json<DeviceVerification>, ApiError> {
    let (verdict, found) = control.verify_shown(&call, &shown).await?;
    Ok(Json(DeviceVerification {
        verdict: word(&verdict),
        expires_at: found.as_ref().map(|found| found.expires_at.to_string()),
        claims: found.map(|found| found.claims).unwrap_or_default(),
    }))
}

impl Control {
    /// Checks what the caller shows of a device of his, and keeps what it says.
    pub(super) async fn verify_shown(
        &self,
        call: &Call,
        shown: &VerifyDevice,
    ) -> Result<(DeviceVerdict, Option<DeviceFound>), ApiError> {
        let short = |text: &str| text.chars().take(80).collect::<String>();
        let details = json!({ "device": short(&shown.device_id), "format": short(&shown.format) });
        self.own_act(call, codes::DEVICE_VERIFIED, "verify-device", details, async || {
            let evidence = DeviceEvidence {
                device: &shown.device_id,
                nonce: &shown.nonce,
                format: &shown.format,
                evidence: &shown.evidence,
            };
            Ok(self.parts.identity.verify_device(&call.principal, evidence).await?)
        })
        .await
    }
}

fn view(device: DeviceRecord, now: Timestamp) -> DeviceView {
    DeviceView {
        name: device.name.to_string(),
        registered_at: device.registered_at.to_string(),
        found: device.found.filter(|found| now < found.expires_at).map(found_view),
    }
}

fn found_view(found: DeviceFound) -> DeviceFoundView {
    DeviceFoundView {
        verdict: word(&found.verdict),
        claims: found.claims,
        issuer: found.issuer,
        at: found.at.to_string(),
        expires_at: found.expires_at.to_string(),
    }
}
