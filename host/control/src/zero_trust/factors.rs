//! What a person proves himself with: `/zero-trust/factors`, `/zero-trust/passkeys`, `/zero-trust/step-up`.
//!
//! Must never change another's factors, nor one off the record, nor show a key or a recovery code twice.

use axum::Json;
use axum::extract::{FromRequest, Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use ringfence_audit::codes;
use ringfence_identity::{Ceremony, Factors, IdentityError, PasskeyAnswer, PasskeyRecord, SecretString, StepUp};
use serde::Serialize;
use serde_json::json;

use crate::Control;
use crate::call::{Call, PeerAddress};
use crate::extract::JsonBody;
use crate::idempotency::ShownOnce;
use crate::problem::ApiError;
use crate::wire::{
    AddPasskey, CeremonyPurpose, CeremonyView, CodesOfferView, ConfirmCodes, FactorsView, FederatedStartView,
    PasskeyAttestationView, PasskeyView, Problem, RecoveryCodes, SetPassword, StartCeremony, StartFederated,
    StepUpBody, SteppedUp,
};

/// Says what the caller can prove himself with.
#[utoipa::path(get, path = "/zero-trust/factors", tag = "zero-trust",
    responses((status = 200, body = FactorsView), (status = "default", body = Problem)))]
pub async fn read(State(control): State<Control>, call: Call) -> Result<Json<FactorsView>, ApiError> {
    Ok(Json(view(control.parts.identity.factors(&call.principal)?)))
}

/// Offers one-time codes; nothing is asked for until a first one was confirmed.
#[utoipa::path(post, path = "/zero-trust/factors/codes", tag = "zero-trust",
    responses((status = 200, body = CodesOfferView), (status = "default", body = Problem)))]
pub async fn offer_codes(State(control): State<Control>, call: Call) -> Result<Response, ApiError> {
    let details = json!({ "factor": "codes", "change": "offered" });
    let offer = control
        .own_act(&call, codes::FACTOR_CHANGED, "change-factor", details, async || {
            Ok(control.parts.identity.offer_codes(&call.principal).await?)
        })
        .await?;
    Ok(once(&CodesOfferView { secret: offer.secret.expose().to_owned(), uri: offer.uri.expose().to_owned() }))
}

/// Confirms one-time codes with a first one: from now on a password needs one.
#[utoipa::path(post, path = "/zero-trust/factors/codes/confirm", tag = "zero-trust", request_body = ConfirmCodes,
    responses((status = 200, body = RecoveryCodes), (status = "default", body = Problem)))]
pub async fn confirm_codes(
    State(control): State<Control>,
    call: Call,
    JsonBody(asked): JsonBody<ConfirmCodes>,
) -> Result<Response, ApiError> {
    let code = SecretString::new(asked.code);
    let details = json!({ "factor": "codes", "change": "added" });
    let recovery = control
        .own_act(&call, codes::FACTOR_CHANGED, "change-factor", details, async || {
            Ok(control.parts.identity.confirm_codes(&call.principal, &code).await?)
        })
        .await?;
    let recovery_codes = recovery.iter().map(|code| code.expose().to_owned()).collect();
    Ok(once(&RecoveryCodes { recovery_codes }))
}

/// Removes one-time codes and recovery codes.
#[utoipa::path(delete, path = "/zero-trust/factors/codes", tag = "zero-trust",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn remove_codes(State(control): State<Control>, call: Call) -> Result<StatusCode, ApiError> {
    let details = json!({ "factor": "codes", "change": "removed" });
    control
        .own_act(&call, codes::FACTOR_CHANGED, "change-factor", details, async || {
            Ok(control.parts.identity.remove_codes(&call.principal).await?)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sets another password; the caller's other sessions end.
#[utoipa::path(put, path = "/zero-trust/factors/password", tag = "zero-trust", request_body = SetPassword,
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn set_password(
    State(control): State<Control>,
    call: Call,
    JsonBody(asked): JsonBody<SetPassword>,
) -> Result<StatusCode, ApiError> {
    let (old, new) = (asked.old.map(SecretString::new), SecretString::new(asked.new));
    let details = json!({ "factor": "password", "change": "set" });
    control
        .own_act(&call, codes::FACTOR_CHANGED, "change-factor", details, async || {
            let from = source(call.peer);
            Ok(control.parts.identity.set_password(&call.principal, old.as_ref(), &new, from).await?)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Begins a sign-in with a passkey, for `authenticate` with `"method": "passkey"`. Asks for any passkey of this host.
#[utoipa::path(post, path = "/zero-trust/passkeys/sign-in", tag = "zero-trust",
    responses((status = 200, body = CeremonyView), (status = "default", body = Problem)))]
pub async fn start_sign_in(State(control): State<Control>, request: Request) -> Result<Json<CeremonyView>, ApiError> {
    let peer = request.extensions().get::<PeerAddress>().map(|peer| peer.0);
    Ok(Json(asked(control.parts.identity.start_passkey_sign_in(source(peer))?)))
}

/// Begins a sign-in at a tenant's identity provider, for `authenticate` with `"method": "federated"`. A tenant, provider or
/// redirect URI that is not there is refused like a wrong credential.
#[utoipa::path(post, path = "/zero-trust/federation/sign-in", tag = "zero-trust", request_body = StartFederated,
    responses((status = 200, body = FederatedStartView), (status = "default", body = Problem)))]
pub async fn start_federated(
    State(control): State<Control>,
    request: Request,
) -> Result<Json<FederatedStartView>, ApiError> {
    let peer = request.extensions().get::<PeerAddress>().map(|peer| peer.0);
    let JsonBody(asked) = JsonBody::<StartFederated>::from_request(request, &control).await?;
    let from = source(peer);
    let standing = control.parts.threat.standing();
    let now = control.parts.clock.now();
    standing.admit_sign_in(from, now).map_err(|held| ApiError::held(&held))?;
    let tenant = asked.tenant.parse().map_err(|_| ApiError::from(IdentityError::Unauthenticated))?;
    if standing.bars_sign_in(&tenant, from, now) {
        return Err(ApiError::from(IdentityError::Unauthenticated));
    }
    let identity = &control.parts.identity;
    let started = identity.start_federated(&tenant, &asked.provider, &asked.redirect_uri, from).await?;
    Ok(Json(FederatedStartView { ceremony: started.ceremony, authorization_url: started.authorization_url }))
}

/// Begins to add a passkey, or to prove more in this session with one.
#[utoipa::path(post, path = "/zero-trust/passkeys/challenge", tag = "zero-trust", request_body = StartCeremony,
    responses((status = 200, body = CeremonyView), (status = "default", body = Problem)))]
pub async fn start(
    State(control): State<Control>,
    call: Call,
    JsonBody(wanted): JsonBody<StartCeremony>,
) -> Result<Json<CeremonyView>, ApiError> {
    let (identity, from) = (&control.parts.identity, source(call.peer));
    let ceremony = match wanted.purpose {
        CeremonyPurpose::Register => identity.start_passkey_registration(&call.principal, from)?,
        CeremonyPurpose::StepUp => identity.start_passkey_step_up(&call.principal, from)?,
    };
    Ok(Json(asked(ceremony)))
}

/// Adds the passkey that an authenticator made.
#[utoipa::path(post, path = "/zero-trust/passkeys", tag = "zero-trust", request_body = AddPasskey,
    responses((status = 201, body = PasskeyView), (status = "default", body = Problem)))]
pub async fn add_passkey(
    State(control): State<Control>,
    call: Call,
    JsonBody(new): JsonBody<AddPasskey>,
) -> Result<(StatusCode, Json<PasskeyView>), ApiError> {
    let name = new.name.parse()?;
    let answer = PasskeyAnswer(new.answer);
    let details = json!({ "factor": "passkey", "change": "added", "name": new.name });
    let added = control
        .own_act(&call, codes::FACTOR_CHANGED, "change-factor", details, async || {
            Ok(control.parts.identity.add_passkey(&call.principal, &new.ceremony, &answer, name).await?)
        })
        .await?;
    Ok((StatusCode::CREATED, Json(passkey(added))))
}

/// Removes a passkey.
#[utoipa::path(delete, path = "/zero-trust/passkeys/{id}", tag = "zero-trust",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn remove_passkey(
    State(control): State<Control>,
    call: Call,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let short: String = id.chars().take(80).collect();
    let details = json!({ "factor": "passkey", "change": "removed", "id": short });
    control
        .own_act(&call, codes::FACTOR_CHANGED, "change-factor", details, async || {
            Ok(control.parts.identity.remove_passkey(&call.principal, &id).await?)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Proves more in a session that is open.
#[utoipa::path(post, path = "/zero-trust/step-up", tag = "zero-trust", request_body = StepUpBody,
    responses((status = 200, body = SteppedUp), (status = "default", body = Problem)))]
pub async fn step_up(
    State(control): State<Control>,
    call: Call,
    JsonBody(shown): JsonBody<StepUpBody>,
) -> Result<Json<SteppedUp>, ApiError> {
    let (shown, factor) = match shown {
        StepUpBody::Code { code } => (StepUp::Code(SecretString::new(code)), "code"),
        StepUpBody::Passkey { ceremony, answer } => {
            (StepUp::Passkey { ceremony, answer: PasskeyAnswer(answer) }, "passkey")
        }
    };
    let strength = control
        .own_act(&call, codes::STEPPED_UP, "step-up", json!({ "factor": factor }), async || {
            Ok(control.parts.identity.step_up(&call.principal, shown).await?)
        })
        .await?;
    Ok(Json(SteppedUp { strength: crate::host::word(&strength) }))
}

/// Lays down what was proved in this session since it was opened.
#[utoipa::path(delete, path = "/zero-trust/step-up", tag = "zero-trust",
    responses((status = 200, body = SteppedUp), (status = "default", body = Problem)))]
pub async fn step_down(State(control): State<Control>, call: Call) -> Result<Json<SteppedUp>, ApiError> {
    let strength = control
        .own_act(&call, codes::STEPPED_UP, "step-down", json!({ "factor": "none" }), async || {
            Ok(control.parts.identity.step_down(&call.principal).await?)
        })
        .await?;
    Ok(Json(SteppedUp { strength: crate::host::word(&strength) }))
}

fn source(peer: Option<std::net::IpAddr>) -> std::net::IpAddr {
    peer.unwrap_or(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED))
}

/// An answer with a secret in it: neither cached nor kept for a second asking.
fn once(answer: &impl Serialize) -> Response {
    let headers = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    let mut response = (StatusCode::OK, headers, Json(answer)).into_response();
    response.extensions_mut().insert(ShownOnce);
    response
}

fn asked(ceremony: Ceremony) -> CeremonyView {
    CeremonyView { ceremony: ceremony.id, options: ceremony.options }
}

fn passkey(record: PasskeyRecord) -> PasskeyView {
    PasskeyView {
        id: record.id,
        name: record.name.to_string(),
        added_at: record.added_at.to_string(),
        used_at: record.used_at.map(|at| at.to_string()),
        attestation: record
            .attested
            .map(|attested| PasskeyAttestationView { format: attested.format, model: attested.model }),
    }
}

fn view(factors: Factors) -> FactorsView {
    FactorsView {
        password_since: factors.password_since.map(|at| at.to_string()),
        codes_since: factors.codes_since.map(|at| at.to_string()),
        recovery_codes_count: factors.recovery_codes_count,
        passkeys: factors.passkeys.into_iter().map(passkey).collect(),
    }
}
