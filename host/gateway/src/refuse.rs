//! Every answer of the data plane that is not the guest's own: a code, a status, a problem body. Statuses are chosen here alone.
//!
//! Must never tell a caller what only the plugin's owner may know; the owner finds it by the invocation's id.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use ringfence_capabilities::ChainEnd;
use ringfence_core::limits::NONCE_SECONDS;
use ringfence_core::{Blame, DecisionId, Held};
use ringfence_engine::{AdmitError, RunError};
use ringfence_identity::{Factor, IdentityError};
use serde::Serialize;

/// Why a request is not answered by a guest.
#[derive(Debug, Clone)]
pub enum Refusal {
    /// The head is not one that we accept.
    BadRequest(&'static str),
    /// No such route, or one of another tenant: the same answer, to the byte.
    NoRoute,
    /// A credential is missing, expired or wrong.
    Unauthenticated,
    /// The proof of possession beside the credential lacks this host's nonce.
    NonceNeeded,
    /// The proof of possession is missing, wrong or used.
    BadProof,
    /// The tenant takes only tokens that are bound to a key or a certificate.
    TokenUnbound,
    /// The caller's session does not stand high enough for what its tenant asks; what would help.
    StepUp(Factor),
    /// The caller uses more proofs than are remembered.
    TooManyProofs,
    /// The caller's own tenant does not allow it.
    Denied(DecisionId),
    /// The key that the caller signed in with is not for this.
    OutOfScope(DecisionId),
    /// The body is over the limit.
    BodyTooLarge,
    /// The body did not arrive in time.
    BodyTimeout,
    /// A rule about fields is for some methods or paths, and those of the request can be read in two ways.
    FieldsPath,
    /// A rule is about fields of the body, and the body is not JSON.
    FieldsNotJson,
    /// A field could not be sealed, so the guest does not see it.
    FieldsNotSealed,
    /// A rule is about fields of the answer, and the answer is not JSON, or over its limit.
    FieldsAnswer,
    /// The tenant's own queue is full.
    TenantBusy {
        /// When to try again.
        retry_after_ms: u64,
    },
    /// The tenant made as many calls as it may.
    QuotaExhausted {
        /// When to try again.
        retry_after_ms: u64,
    },
    /// The tenant is suspended, and the caller may know it.
    Suspended,
    /// The tenant's keys are disabled, and the caller may know it.
    KeyDisabled,
    /// The tenant's own key provider does not open its key, and the caller may know it.
    KeyRefused,
    /// The host's own keys are not open yet.
    HostLocked,
    /// The host is full.
    Overloaded,
    /// The audit log cannot be written, so nothing is run.
    AuditUnavailable,
    /// The host is shutting down or broken.
    Host,
    /// Something is held against the caller or the version, in answer to a threat.
    Held(Held),
    /// A plugin called, and calls are as deep as they may be.
    CallDepth,
    /// A plugin called, and there were as many calls as may come of one request.
    CallFanOut {
        /// Not the first call too many.
        again: bool,
    },
    /// A plugin called, and all that its tenant may have running waits for such calls.
    CallsBlocked,
    /// The guest failed.
    Run(RunError),
}

#[derive(Serialize)]
struct Problem<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    code: &'a str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    factor: Option<&'a str>,
}

impl Refusal {
    /// Status, code and text for the caller.
    pub fn describe(&self) -> (StatusCode, &'static str, &'static str) {
        let (status, code) = self.status_and_code();
        (status, code, self.detail())
    }

    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad-request"),
            Self::NoRoute => (StatusCode::NOT_FOUND, "no-route"),
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated"),
            Self::NonceNeeded => (StatusCode::UNAUTHORIZED, "use-dpop-nonce"),
            Self::BadProof => (StatusCode::UNAUTHORIZED, "bad-proof"),
            Self::TokenUnbound => (StatusCode::UNAUTHORIZED, "token-unbound"),
            Self::StepUp(_) => (StatusCode::UNAUTHORIZED, "step-up-required"),
            Self::TooManyProofs => (StatusCode::TOO_MANY_REQUESTS, "throttled"),
            Self::Denied(_) | Self::OutOfScope(_) => (StatusCode::FORBIDDEN, "denied"),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large"),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "body-timeout"),
            Self::FieldsPath => (StatusCode::BAD_REQUEST, "fields-path"),
            Self::FieldsNotJson => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "fields-not-json"),
            Self::FieldsNotSealed => (StatusCode::INSUFFICIENT_STORAGE, "fields-not-sealed"),
            Self::FieldsAnswer => (StatusCode::BAD_GATEWAY, "fields-answer"),
            Self::TenantBusy { .. } => (StatusCode::TOO_MANY_REQUESTS, "tenant-busy"),
            Self::QuotaExhausted { .. } => (StatusCode::TOO_MANY_REQUESTS, "quota-exhausted"),
            Self::Suspended => (StatusCode::LOCKED, "tenant-suspended"),
            Self::KeyDisabled => (StatusCode::LOCKED, "key-disabled"),
            Self::KeyRefused => (StatusCode::LOCKED, "key-refused"),
            Self::HostLocked => (StatusCode::SERVICE_UNAVAILABLE, "host-locked"),
            Self::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            Self::AuditUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "audit-unavailable"),
            Self::Host => (StatusCode::SERVICE_UNAVAILABLE, "host-error"),
            Self::CallDepth => (StatusCode::LOOP_DETECTED, "call-depth"),
            Self::CallFanOut { .. } => (StatusCode::TOO_MANY_REQUESTS, "call-fan-out"),
            Self::CallsBlocked => (StatusCode::TOO_MANY_REQUESTS, "calls-blocked"),
            Self::Held(held) => {
                let (status, code, _) = describe_held(held);
                (status, code)
            }
            Self::Run(error) => (describe_run(error).0, error.code()),
        }
    }

    fn detail(&self) -> &'static str {
        match self {
            Self::BadRequest(why) => why,
            Self::NoRoute => "nothing is deployed here",
            Self::Unauthenticated => "a valid access token is needed here",
            Self::NonceNeeded => "the proof of possession needs the nonce of this answer's `DPoP-Nonce` header",
            Self::BadProof => "the proof of possession is missing, wrong or used",
            Self::TokenUnbound => "this tenant takes only tokens that are bound to a key",
            Self::StepUp(factor) => describe_step_up(*factor),
            Self::TooManyProofs => "this key used more proofs than are remembered",
            Self::Denied(_) => "the tenant's policy does not allow this call",
            Self::OutOfScope(_) => "the key of this session has a scope, and this call is outside it",
            Self::BodyTooLarge => "the body is over the limit",
            Self::BodyTimeout => "the body did not arrive in time",
            Self::FieldsPath => {
                "fields are under protection at some paths or methods here, and those of this request can be read in two ways"
            }
            Self::FieldsNotJson => "fields of this body are under protection, so it must be plain JSON",
            Self::FieldsNotSealed => "a field under protection could not be sealed, so the plugin was not called",
            Self::FieldsAnswer => {
                "fields of the plugin's answer are under protection, and it is not plain JSON within its limit"
            }
            Self::TenantBusy { .. } => "this tenant has as many calls running and waiting as it may have",
            Self::QuotaExhausted { .. } => "this tenant's quota of requests a second is used up",
            Self::Suspended => "this tenant is suspended",
            Self::KeyDisabled => "the keys of this tenant are disabled",
            Self::KeyRefused => "this tenant's own key provider does not open its key",
            Self::HostLocked => "the host is locked",
            Self::Overloaded => "the host is full",
            Self::AuditUnavailable => "the audit log cannot be written, so nothing is run",
            Self::Host => "the host could not run the plugin",
            Self::CallDepth => "plugins called plugins as deep as they may: 4 calls below the first",
            Self::CallFanOut { .. } => "plugins made as many calls as may come of one request: 16 in all",
            Self::CallsBlocked => {
                "all that this tenant may have running waits for calls like this one, so it could never begin"
            }
            Self::Held(held) => describe_held(held).2,
            Self::Run(error) => describe_run(error).1,
        }
    }

    /// Of a run that came to no answer. What the host had no room for is the same as a slot that it had not: the caller hears
    /// the same, and it is counted like that.
    pub fn of_run(error: RunError) -> Self {
        match error {
            RunError::Overloaded => Self::Overloaded,
            other => Self::Run(other),
        }
    }

    /// Why a credential was not taken. What is wrong with a proof is said, since its maker cannot mend it otherwise; what is
    /// wrong with a token is not.
    pub fn from_identity(error: &IdentityError) -> Self {
        match error {
            IdentityError::NonceNeeded => Self::NonceNeeded,
            IdentityError::BadProof(_) => Self::BadProof,
            IdentityError::Unbound => Self::TokenUnbound,
            IdentityError::TooManyProofs { .. } => Self::TooManyProofs,
            IdentityError::StepUp(needed) => Self::StepUp(needed.factor),
            _ => Self::Unauthenticated,
        }
    }

    /// Who can mend it.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Run(error) => error.blame(),
            Self::HostLocked | Self::Overloaded | Self::AuditUnavailable | Self::Host => Blame::Host,
            Self::FieldsAnswer => Blame::Plugin,
            _ => Blame::Caller,
        }
    }

    /// The answer.
    pub fn response(&self) -> Response<Bytes> {
        let (status, code, detail) = self.describe();
        let decision = match self {
            Self::Denied(decision) | Self::OutOfScope(decision) => Some(decision.as_str()),
            _ => None,
        };
        let problem = Problem {
            // No path: every path of this port is a tenant's.
            kind: format!("urn:ringfence:error:{code}"),
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            code,
            detail,
            help: decision.map(|id| format!("ringfence why {id}")),
            decision_id: decision,
            factor: match self {
                Self::StepUp(factor) => Some(factor.as_str()),
                _ => None,
            },
        };
        let mut response = Response::new(Bytes::from(serde_json::to_vec(&problem).unwrap_or_default()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match self {
            Self::TenantBusy { retry_after_ms }
            | Self::QuotaExhausted { retry_after_ms }
            | Self::Held(Held::Paced { retry_after_ms }) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after_ms.div_ceil(1_000).max(1)));
            }
            Self::HostLocked
            | Self::Overloaded
            | Self::AuditUnavailable
            | Self::Host
            | Self::CallsBlocked
            | Self::Run(RunError::MemoryShare) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(1));
            }
            Self::Unauthenticated | Self::Held(Held::SessionEnded) => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            // RFC 9449, section 7.1.
            Self::NonceNeeded => {
                let challenge = HeaderValue::from_static("DPoP error=\"use_dpop_nonce\", algs=\"EdDSA ES256\"");
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
            Self::BadProof => {
                let challenge = HeaderValue::from_static("DPoP error=\"invalid_dpop_proof\", algs=\"EdDSA ES256\"");
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
            Self::TokenUnbound => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("DPoP algs=\"EdDSA ES256\""));
            }
            Self::StepUp(factor) => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(factor.challenge(false)));
            }
            Self::TooManyProofs => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(NONCE_SECONDS));
            }
            // What is left of a refused body is not read, so the connection cannot be used again.
            Self::BodyTooLarge
            | Self::BodyTimeout
            | Self::BadRequest(_)
            | Self::FieldsPath
            | Self::Run(RunError::SlowClient) => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

impl From<ChainEnd> for Refusal {
    fn from(end: ChainEnd) -> Self {
        match end {
            ChainEnd::TooDeep => Self::CallDepth,
            ChainEnd::TooMany => Self::CallFanOut { again: false },
            ChainEnd::TooManyAgain => Self::CallFanOut { again: true },
        }
    }
}

impl From<Held> for Refusal {
    fn from(held: Held) -> Self {
        Self::Held(held)
    }
}

/// What would help, where to prove it, and where to read why.
fn describe_step_up(factor: Factor) -> &'static str {
    match factor {
        Factor::Code => {
            "your tenant asks for a session that stands higher: `POST /zero-trust/step-up` with a one-time code or a passkey"
        }
        Factor::Passkey => {
            "your tenant asks for a session that stands higher: `POST /zero-trust/step-up` with a passkey"
        }
        Factor::Certificate => {
            "your tenant asks for a session that stands higher: sign in with a client certificate, or as a person"
        }
        Factor::LessRisk => {
            "your tenant asks for a session that shows less risk; `GET /zero-trust/trust-score` says what counts"
        }
    }
}

/// What is held is said, so that who is held knows whom to ask; an ended session is a session that is none.
fn describe_held(held: &Held) -> (StatusCode, &'static str, &'static str) {
    match held {
        Held::SourceBlocked => {
            (StatusCode::FORBIDDEN, "source-blocked", "calls without a session are not taken from this address now")
        }
        Held::SessionEnded => (StatusCode::UNAUTHORIZED, "unauthenticated", "a valid access token is needed here"),
        Held::Suspended => (StatusCode::FORBIDDEN, "principal-suspended", "you are suspended for now"),
        Held::Paced { .. } => (StatusCode::TOO_MANY_REQUESTS, "rate-limited", "you are held to a pace for now"),
        Held::Quarantined => (StatusCode::LOCKED, "version-quarantined", "this version is under quarantine"),
    }
}

impl From<AdmitError> for Refusal {
    fn from(error: AdmitError) -> Self {
        match error {
            AdmitError::TenantBusy { retry_after_ms } => Self::TenantBusy { retry_after_ms },
            AdmitError::Overloaded => Self::Overloaded,
            AdmitError::Suspended => Self::Suspended,
            AdmitError::CallersWait => Self::CallsBlocked,
        }
    }
}

/// Status and text; the code is the engine's own word. The status says whose fault it is.
fn describe_run(error: &RunError) -> (StatusCode, &'static str) {
    match error {
        RunError::CpuBudget => (StatusCode::GATEWAY_TIMEOUT, "the plugin used up its CPU time and was stopped"),
        RunError::TimeBudget => (StatusCode::GATEWAY_TIMEOUT, "the plugin used up its time and was stopped"),
        RunError::MemoryBudget => (StatusCode::INSUFFICIENT_STORAGE, "the plugin used up its memory and was stopped"),
        RunError::ResponseTooLarge => (StatusCode::BAD_GATEWAY, "the plugin's answer is over its limit"),
        RunError::HostCallBudget => (StatusCode::BAD_GATEWAY, "the plugin made more host calls than it may"),
        RunError::NoHandler => (StatusCode::BAD_GATEWAY, "the plugin answers no HTTP requests"),
        RunError::NoResponse => (StatusCode::BAD_GATEWAY, "the plugin ended without an answer"),
        RunError::Trap { .. } => (StatusCode::BAD_GATEWAY, "the plugin failed"),
        RunError::Killed => (StatusCode::SERVICE_UNAVAILABLE, "the plugin was stopped"),
        RunError::SlowClient => {
            (StatusCode::REQUEST_TIMEOUT, "the body came too slowly while others waited for this call's place")
        }
        RunError::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "the host has no room left for the plugin"),
        RunError::MemoryShare => (
            StatusCode::TOO_MANY_REQUESTS,
            "this tenant is above its share of the host's memory, and others waited for theirs",
        ),
        RunError::Host(_) => (StatusCode::SERVICE_UNAVAILABLE, "the host could not run the plugin"),
    }
}
