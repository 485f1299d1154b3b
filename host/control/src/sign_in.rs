//! `POST /zero-trust/authenticate` and `GET /whoami`: the one door without a token, and the mirror behind it.
//!
//! Must never tell an unknown name from a wrong secret, nor leave a sign-in off the record.

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use ringfence_audit::{Event, Log, codes};
use ringfence_core::{Principal, PrincipalId, RequestId};
use ringfence_identity::{IdentityError, PasskeyAnswer, Proof, SecretString};

use crate::Control;
use crate::call::{Call, PeerAddress, request_id, shown};
use crate::extract::JsonBody;
use crate::problem::ApiError;
use crate::wire::{Authenticate, PrincipalView, Problem, TokenResponse, Trust};
use axum::extract::FromRequest;

/// Signs in: proves who calls and answers a five-minute access token.
#[utoipa::path(post, path = "/zero-trust/authenticate", tag = "zero-trust", request_body = Authenticate,
    responses((status = 200, body = TokenResponse), (status = "default", body = Problem)))]
pub async fn authenticate(State(control): State<Control>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let head = parts.clone();
    let id = request_id(&parts, &control);
    let peer = parts.extensions.get::<PeerAddress>().map(|peer| peer.0);
    let JsonBody(asked) = JsonBody::<Authenticate>::from_request(Request::from_parts(parts, body), &control).await?;
    let bootstrap = matches!(asked, Authenticate::Bootstrap { .. });
    let proof = match asked {
        Authenticate::Bootstrap { token, name } => {
            Proof::Bootstrap { token: SecretString::new(token), name: name.as_deref().unwrap_or("operator").parse()? }
        }
        // What is no tenant's name is the name of no tenant: the same refusal as a certificate that nobody trusts.
        Authenticate::ClientCertificate { tenant } => Proof::ClientCertificate {
            tenant: tenant.parse().map_err(|_| ApiError::from(IdentityError::Unauthenticated))?,
        },
        Authenticate::Invitation { token, password } => {
            Proof::Invitation { token: SecretString::new(token), password: password.map(SecretString::new) }
        }
        Authenticate::Password { principal, password, code } => {
            Proof::Password { principal, password: SecretString::new(password), code: code.map(SecretString::new) }
        }
        Authenticate::Passkey { ceremony, answer } => Proof::Passkey { ceremony, answer: PasskeyAnswer(answer) },
        Authenticate::Federated { ceremony, code, issuer } => {
            Proof::Federated { ceremony, code: SecretString::new(code), issuer }
        }
        Authenticate::ApiKey { key } => Proof::ApiKey { key: SecretString::new(key) },
    };
    let source = peer.unwrap_or(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
    // A sign-in that cannot be put on the record must not happen: it would spend the enrolment token.
    if !control.parts.audit.is_writable() {
        return Err(ApiError::new("audit-unavailable", "the audit log cannot be written, so nobody can sign in"));
    }
    let standing = control.parts.threat.standing();
    standing.admit_sign_in(source, control.parts.clock.now()).map_err(|held| ApiError::held(&held))?;
    let shown = shown(&head)?;
    match control.parts.identity.authenticate(proof, source, &shown).await {
        Ok(issued) => {
            let code = if bootstrap { codes::OPERATOR_ENROLLED } else { codes::SIGNED_IN };
            control.record_sign_in(code, &id, Some(&issued.principal), peer).await?;
            if bootstrap && let Some(file) = &control.parts.facts.operator_token_file {
                // The token is spent whether or not its file can be removed.
                let _ = tokio::fs::remove_file(file).await;
            }
            let answer = TokenResponse {
                access_token: issued.access_token.expose().to_owned(),
                token_type: issued.token_type.to_owned(),
                expires_in: issued.expires_in,
                session_id: issued.session_id.to_string(),
                principal: view(&issued.principal),
                trust: Trust { strength: crate::host::word(&issued.strength) },
            };
            Ok(([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(answer)).into_response())
        }
        Err(error) => {
            // LIMIT: what the throttle turned away is not written, or it would not protect the disk.
            let turned_away = matches!(
                error,
                IdentityError::Throttled { .. } | IdentityError::Busy { .. } | IdentityError::NonceNeeded
            );
            if !turned_away {
                control.record_sign_in(codes::SIGN_IN_REFUSED, &id, None, peer).await?;
            }
            Err(ApiError::from(error))
        }
    }
}

/// Says who the token speaks for.
#[utoipa::path(get, path = "/whoami", tag = "zero-trust",
    responses((status = 200, body = PrincipalView), (status = "default", body = Problem)))]
pub async fn whoami(call: Call) -> Json<PrincipalView> {
    Json(view(&call.principal))
}

/// A principal as the API shows it.
pub fn view(principal: &Principal) -> PrincipalView {
    PrincipalView {
        id: principal.id().to_string(),
        kind: crate::host::word(&principal.kind()),
        role: principal.role().map(|role| role.to_string()),
        tenant: principal.tenant().map(ToString::to_string),
    }
}

impl Control {
    async fn record_sign_in(
        &self,
        code: &'static str,
        request: &RequestId,
        principal: Option<&Principal>,
        peer: Option<std::net::IpAddr>,
    ) -> Result<(), ApiError> {
        let log = principal
            .and_then(Principal::tenant)
            .and_then(|tenant| self.parts.tenants.open_tenant(tenant))
            .map_or(Log::Host, Log::Tenant);
        let actor = match principal {
            Some(principal) => principal.id().clone(),
            None => "anonymous".parse::<PrincipalId>()?,
        };
        let mut event = Event::new(code, "authenticate", actor, "host");
        event.request = Some(request.clone());
        event.source_ip = peer;
        self.parts.audit.record(&log, event).await.map(|_| ()).map_err(ApiError::from)
    }
}
