//! Devices of the caller: register, challenge, verify, remove. And those of a tenant, for its admins: list, revoke.
//!
//! Must never answer `verified` for evidence that was not checked, nor touch another's device without a permit for his tenant.

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use jiff::Timestamp;
use ringfence_audit::{Log, codes};
use ringfence_core::proof::act;
use ringfence_identity::{DeviceEvidence, DeviceFound, DeviceRecord, DeviceVerdict};
use serde_json::json;

use crate::Control;
use crate::call::Call;
use crate::extract::{Asked, JsonBody, Paging};
use crate::host::word;
use crate::problem::ApiError;
use crate::wire::{
    DeviceChallenge, DeviceFoundView, DeviceVerification, DeviceView, NewDevice, Page, Problem, TenantDeviceView,
    VerifyDevice,
};

/// Lists the caller's devices.
#[utoipa::path(get, path = "/zero-trust/devices", tag = "zero-trust",
    responses((status = 200, body = Page<DeviceView>), (status = "default", body = Problem)))]
pub async fn list(State(control): State<Control>, call: Call) -> Json<Page<DeviceView>> {
    let now = control.parts.clock.now();
    let on = control.parts.identity.device_of(&call.principal).map(|device| device.name);
    let devices = control.parts.identity.devices(&call.principal).into_iter();
    let views = devices.map(|device| DeviceView { current: on.as_ref() == Some(&device.name), ..view(device, now) });
    Json(Page { items: views.collect(), cursor: None })
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
        holds_key: found.as_ref().is_some_and(|found| found.key.is_some()),
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

/// Lists the devices of everybody of a tenant, by their holders.
#[utoipa::path(get, path = "/tenants/{tenant}/devices", tag = "zero-trust", params(Paging),
    responses((status = 200, body = Page<TenantDeviceView>), (status = "default", body = Problem)))]
pub async fn list_tenant(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    Asked(paging): Asked<Paging>,
) -> Result<Json<Page<TenantDeviceView>>, ApiError> {
    let reached = control.reach_tenant::<act::ListTokens>(&call, &tenant).await?;
    let now = control.parts.clock.now();
    let all = control.parts.identity.list_devices(reached.permit, &reached.tenant)?;
    let from = usize::try_from(paging.position()?.unwrap_or(0)).unwrap_or(usize::MAX);
    let next = from.saturating_add(paging.limit());
    let cursor = (next < all.len()).then(|| next.to_string());
    let some = all.into_iter().skip(from).take(paging.limit());
    let items = some
        .map(|(principal, device)| TenantDeviceView { principal: principal.to_string(), device: view(device, now) });
    Ok(Json(Page { items: items.collect(), cursor }))
}

/// Revokes a device of somebody of a tenant, given by his name in it: from the next request on it is not verified, and nothing
/// verifies it any more.
#[utoipa::path(delete, path = "/tenants/{tenant}/devices/{name}/{device}", tag = "zero-trust",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn revoke(
    State(control): State<Control>,
    call: Call,
    Path((tenant, name, device)): Path<(String, String, String)>,
) -> Result<StatusCode, ApiError> {
    let reached = control.reach_tenant::<act::RevokeToken>(&call, &tenant).await?;
    let short = |text: &str| text.chars().take(80).collect::<String>();
    let details = json!({ "holder": short(&name), "device": short(&device), "change": "revoked" });
    let (log, id) = (Log::Tenant(reached.store), reached.tenant);
    control
        .bracket(&call, &log, reached.permit, codes::DEVICE_CHANGED, details, async |permit| {
            Ok(control.parts.identity.revoke_device(permit, &id, &name, &device).await?)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn view(device: DeviceRecord, now: Timestamp) -> DeviceView {
    DeviceView {
        name: device.name.to_string(),
        registered_at: device.registered_at.to_string(),
        current: false,
        revoked_at: device.revoked_at.map(|at| at.to_string()),
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
        holds_key: found.key.is_some(),
    }
}
