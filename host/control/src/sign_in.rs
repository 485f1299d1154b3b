//! `POST /zero-trust/authenticate` and `GET /whoami`: the one door without a token, and the mirror behind it.
//!
//! Must never tell an unknown name from a wrong secret, nor a source that a tenant blocks from either, nor leave a sign-in off
//! the record. A refusal is on the host's log before it is answered, by its way alone; the tenant that it names reads of it in
//! its own log, a moment later, so that nobody learns from the time of an answer whom there is (`audit/src/paced.rs`).

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use ringfence_audit::{Event, FEW_A_MINUTE, Log, Refusals, SOME_A_MINUTE, codes};
use ringfence_core::{Principal, PrincipalId, RequestId};
use ringfence_identity::{IdentityError, Named, PasskeyAnswer, Proof, SecretString};
use serde_json::json;

use crate::Control;
use crate::call::{Call, PeerAddress, request_id, shown, user_agent};
use crate::extract::JsonBody;
use crate::problem::ApiError;
use crate::tokens::scope_view;
use crate::wire::{Authenticate, PrincipalView, Problem, TokenResponse, Trust};
use axum::extract::FromRequest;

/// Refused sign-ins in a tenant's own log, as nobody who is there.
const SIGN_INS: Refusals = Refusals { kind: "sign-in", told_count_max: SOME_A_MINUTE };
/// The same as one of its people, each at a pace of his own: names that anybody can make up must hide no guessing at his.
const GUESSES: Refusals = Refusals { kind: "sign-in-as", told_count_max: FEW_A_MINUTE };

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
    let proof = proof_of(asked)?;
    let source = peer.unwrap_or(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
    // A sign-in that cannot be put on the record must not happen: it would spend the enrolment token.
    if !control.parts.audit.is_writable() {
        return Err(ApiError::new("audit-unavailable", "the audit log cannot be written, so nobody can sign in"));
    }
    let standing = control.parts.threat.standing();
    standing.admit_sign_in(source, control.parts.clock.now()).map_err(|held| ApiError::held(&held))?;
    let shown = shown(&head)?;
    let identity = &control.parts.identity;
    // Before anything is looked up: a source that must wait costs nothing more.
    identity.may_try(&proof, source)?;
    let named = identity.named_by(&proof);
    let now = control.parts.clock.now();
    let barred = named.tenant.as_ref().is_some_and(|tenant| standing.bars_sign_in(tenant, source, now));
    let proved = match barred {
        true => identity.turn_away(proof, source, &shown).await,
        false => identity.authenticate(proof, source, &shown).await,
    };
    match proved {
        Ok(issued) => {
            let code = if bootstrap { codes::OPERATOR_ENROLLED } else { codes::SIGNED_IN };
            let principal = issued.principal.clone();
            let call =
                Call { principal, request: id, peer, user_agent: user_agent(&head), traceparent: None, again: None };
            control.record_sign_in(code, &call, named.method).await?;
            if bootstrap && let Some(file) = &control.parts.facts.operator_token_file {
                // The token is spent whether or not its file can be removed.
                let _ = tokio::fs::remove_file(file).await;
            }
            let score = identity.score(&issued.principal, peer)?.value;
            let required = identity.step_up_for(&issued.principal, score);
            let answer = TokenResponse {
                access_token: issued.access_token.expose().to_owned(),
                token_type: issued.token_type.to_owned(),
                expires_in: issued.expires_in,
                session_id: issued.session_id.to_string(),
                principal: view(&issued.principal),
                trust: Trust {
                    strength: crate::host::word(&issued.strength),
                    score,
                    required_step_up: required.map(|factor| factor.as_str().to_owned()),
                },
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
                control.record_refused(&id, &named, barred, peer).await?;
            }
            Err(ApiError::from(error))
        }
    }
}

/// Says who the token speaks for, what the key is good for that it came by, and which role is lent to him until when.
#[utoipa::path(get, path = "/whoami", tag = "zero-trust",
    responses((status = 200, body = PrincipalView), (status = "default", body = Problem)))]
pub async fn whoami(State(control): State<Control>, call: Call) -> Json<PrincipalView> {
    let lent = control.lent_to(&call.principal).await;
    Json(PrincipalView { lent, ..view(&call.principal) })
}

/// A principal as the API shows it.
pub fn view(principal: &Principal) -> PrincipalView {
    PrincipalView {
        id: principal.id().to_string(),
        kind: crate::host::word(&principal.kind()),
        role: principal.role().map(|role| role.to_string()),
        tenant: principal.tenant().map(ToString::to_string),
        scope: principal.scope().map(|scope| scope_view(scope)),
        lent: None,
    }
}

/// What was sent, as what is to be proved.
pub(crate) fn proof_of(asked: Authenticate) -> Result<Proof, ApiError> {
    Ok(match asked {
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
    })
}

impl Control {
    async fn record_sign_in(&self, code: &'static str, call: &Call, method: &'static str) -> Result<(), ApiError> {
        let home = call.principal.tenant().and_then(|tenant| self.parts.tenants.open_tenant(tenant));
        let mut event = Event::new(code, "authenticate", call.principal.id().clone(), "host");
        call.sign(&mut event);
        event.details = json!({ "method": method });
        self.parts.audit.record(&home.map_or(Log::Host, Log::Tenant), event).await.map(|_| ()).map_err(ApiError::from)
    }

    /// Puts a refusal on the host's log, and tells the tenant that it names. Nobody is proved, so nobody is the actor: who was
    /// guessed at is what it was tried on.
    async fn record_refused(
        &self,
        request: &RequestId,
        named: &Named,
        barred: bool,
        peer: Option<std::net::IpAddr>,
    ) -> Result<(), ApiError> {
        let nobody: PrincipalId = "anonymous".parse()?;
        let refused = |on: String, known: bool| {
            let mut event = Event::new(codes::SIGN_IN_REFUSED, "authenticate", nobody.clone(), on);
            event.request = Some(request.clone());
            event.source_ip = peer;
            event.details = json!({ "method": named.method, "known": known });
            event
        };
        // Of a tenant's people the host's log says nothing; of operators it says who was meant.
        let own = named.principal.as_ref().filter(|_| named.tenant.is_none());
        let event = refused(own.map_or_else(|| "host".to_owned(), ToString::to_string), own.is_some());
        self.parts.audit.record(&Log::Host, event).await?;
        let store = named.tenant.as_ref().and_then(|tenant| self.parts.tenants.open_tenant(tenant));
        if let (Some(tenant), Some(store)) = (&named.tenant, store) {
            let on = named.principal.as_ref().map_or_else(|| format!("tenant/{tenant}"), ToString::to_string);
            let mut event = refused(on, named.principal.is_some());
            if let Some(details) = event.details.as_object_mut() {
                details.insert("key".to_owned(), json!(named.key));
                details.insert("barred".to_owned(), json!(barred));
            }
            match &named.principal {
                Some(whom) => self.parts.refusals.tell_about(whom.as_str(), &Log::Tenant(store), GUESSES, 1, event),
                None => self.parts.refusals.tell(&Log::Tenant(store), SIGN_INS, 1, event),
            }
        }
        Ok(())
    }
}
