//! Errors of the control plane: every inner error becomes a code here, and every code a status, in [`status_of`] alone.
//!
//! Must never carry inner context of the host to a caller: what is not his to mend is logged and named by request id.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use ringfence_audit::AuditError;
use ringfence_capabilities::CapabilitiesError;
use ringfence_core::{DecisionId, Exhausted, QuotaError, QuotaKind, WordError};
use ringfence_identity::{Factor, IdentityError, Needed};
use ringfence_keys::KeysError;
use ringfence_policy::PolicyError;
use ringfence_registry::RegistryError;
use ringfence_store::StoreError;

use crate::wire::{NeedState, Problem};

/// A refusal on its way out.
#[derive(Debug)]
pub struct ApiError {
    /// Stable slug.
    pub code: &'static str,
    /// What is wrong, in the caller's words.
    pub detail: String,
    /// What mends it.
    pub help: Option<String>,
    /// The decision behind a denial.
    pub decision: Option<DecisionId>,
    /// For `need-not-granted`.
    pub needs: Box<[NeedState]>,
    /// What would help, on `step-up-required`.
    pub factor: Option<Factor>,
    /// Seconds to wait, on 429 and 503.
    pub retry_after_seconds: Option<u64>,
}

impl ApiError {
    /// A refusal with a code and a text.
    pub fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            help: None,
            decision: None,
            needs: Box::default(),
            factor: None,
            retry_after_seconds: None,
        }
    }

    /// Adds what mends it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// What does not exist and what is another tenant's: the same words, to the byte.
    pub fn not_found() -> Self {
        Self::new("not-found", "there is no such thing here")
    }

    /// A tenant whose keys are disabled, or refused by its own key provider.
    pub fn key_disabled() -> Self {
        Self::new("key-disabled", "the keys of this tenant are disabled, so nothing of it can be read or changed")
            .help("ringfence key status TENANT")
    }

    /// A tenant in which nothing is changed, in answer to a threat.
    pub fn read_only() -> Self {
        Self::new("tenant-read-only", "nothing of this tenant is changed now, in answer to a threat")
            .help("ringfence threat responses")
    }

    /// Something is held against who calls, in answer to a threat.
    pub fn held(held: &ringfence_core::Held) -> Self {
        use ringfence_core::Held;
        match held {
            Held::SourceBlocked => {
                Self::new("source-blocked", "requests without a session are not taken from this address now")
            }
            Held::SessionEnded | Held::Quarantined => {
                Self::new("unauthenticated", "a valid access token is needed here").help("ringfence login")
            }
            Held::Suspended => Self::new("principal-suspended", "you are suspended for now, in answer to a threat"),
            Held::Paced { retry_after_ms } => Self {
                retry_after_seconds: Some(retry_after_ms.div_ceil(1_000).max(1)),
                ..Self::new("rate-limited", "you are held to a pace for now, in answer to a threat")
            },
        }
    }

    /// A tenant whose own key provider does not open its key.
    pub fn key_refused() -> Self {
        Self::new(
            "key-refused",
            "the tenant's own key provider does not open its key, so nothing of it can be read or changed",
        )
        .help("let the provider open it again, and wait half a minute")
    }

    /// A tenant that is being put back to a backup, or was when that failed: half of it is old and half is new.
    pub fn restore_unfinished() -> Self {
        Self::new(
            "restore-unfinished",
            "a restore of this tenant has begun and is not done; a start of the host carries it on",
        )
    }

    /// An act of two people, which one alone wants.
    pub fn second_person_needed() -> Self {
        Self::new("second-person-needed", "another person than the one who asked must agree, once")
            .help("keys of one owner are one person, and somebody invited by the other counts after `identity.second_person_hours`")
    }

    /// A failure of the host. The cause is logged, never shown.
    pub fn host(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "the host failed a request");
        Self::new("host-error", "the host could not do this; its operator finds the cause by the request id")
    }

    /// The status this refusal is answered with.
    pub fn status(&self) -> StatusCode {
        status_of(self.code)
    }
}

/// The one place where a code becomes a status.
pub fn status_of(code: &str) -> StatusCode {
    match code {
        "bad-request" | "bad-json" | "bad-manifest" | "bad-cursor" => StatusCode::BAD_REQUEST,
        "unauthenticated" | "sign-in-refused" | "use-dpop-nonce" | "bad-proof" | "token-unbound"
        | "step-up-required" | "bad-federation" => StatusCode::UNAUTHORIZED,
        "denied" | "not-reviewer" | "self-lowering" | "source-blocked" | "principal-suspended" | "package-withheld" => {
            StatusCode::FORBIDDEN
        }
        "not-found" | "no-entry" | "plugin-not-found" | "version-not-found" | "no-endpoint" => StatusCode::NOT_FOUND,
        "method-not-allowed" => StatusCode::METHOD_NOT_ALLOWED,
        "body-timeout" => StatusCode::REQUEST_TIMEOUT,
        "exists"
        | "hook-bound"
        | "schedule-runs"
        | "too-many"
        | "version-exists"
        | "need-not-granted"
        | "nothing-to-roll-back"
        | "conflict"
        | "second-person-needed"
        | "factor-state"
        | "nonce-spent"
        | "nothing-to-approve"
        | "legal-hold"
        | "hold-of-others"
        | "held-by-operator"
        | "restore-unfinished"
        | "own-key-not-allowed"
        | "backup-in-use"
        | "run-ended"
        | "run-not-waiting"
        | "tenant-not-empty"
        | "idempotency-in-progress"
        | "idempotency-interrupted"
        | "bad-transition"
        | "check-still-failing"
        | "review-closed"
        | "response-too-wide"
        | "idempotency-not-kept" => StatusCode::CONFLICT,
        "backup-missing" => StatusCode::NOT_FOUND,
        "audit-retention" => StatusCode::GONE,
        "precondition-failed" => StatusCode::PRECONDITION_FAILED,
        "precondition-required" => StatusCode::PRECONDITION_REQUIRED,
        "body-too-large" => StatusCode::PAYLOAD_TOO_LARGE,
        "unsupported-media-type" => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "throttled" | "quota-exhausted" | "tenant-busy" | "memory-share" | "queue-full" | "rate-limited" => {
            StatusCode::TOO_MANY_REQUESTS
        }
        "root-key-unavailable" | "host-locked" => StatusCode::SERVICE_UNAVAILABLE,
        "audit-unavailable" | "store-unavailable" | "overloaded" | "host-error" => StatusCode::SERVICE_UNAVAILABLE,
        "key-disabled" | "key-refused" | "tenant-suspended" | "tenant-read-only" | "version-quarantined" => {
            StatusCode::LOCKED
        }
        "provider-unavailable" => StatusCode::BAD_GATEWAY,
        "backups-unavailable" | "job-interrupted" => StatusCode::SERVICE_UNAVAILABLE,
        "store-full" | "backups-full" => StatusCode::INSUFFICIENT_STORAGE,
        // Everything else is about the meaning of what was sent: the upload walk's refusals and bad words.
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status();
        let problem = Problem {
            kind: format!("/docs/errors/{}", self.code),
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            status: status.as_u16(),
            code: self.code.to_owned(),
            detail: self.detail,
            help: self.help.or_else(|| self.decision.as_ref().map(|id| format!("ringfence why {id}"))),
            request_id: None,
            decision_id: self.decision.map(Into::into),
            needs: self.needs.into_vec(),
            factor: self.factor.map(|factor| factor.as_str().to_owned()),
        };
        let mut response = (status, Json(&problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        let waiting_helps = self.code != "quota-exhausted" || self.retry_after_seconds.is_some();
        if self.code == "idempotency-in-progress" {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(self.retry_after_seconds.unwrap_or(1)));
        }
        if waiting_helps && (status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(self.retry_after_seconds.unwrap_or(1)));
        }
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9449, section 7.1.
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static(match self.code {
                    "use-dpop-nonce" => "DPoP error=\"use_dpop_nonce\", algs=\"EdDSA ES256\"",
                    "bad-proof" => "DPoP error=\"invalid_dpop_proof\", algs=\"EdDSA ES256\"",
                    "token-unbound" => "DPoP algs=\"EdDSA ES256\"",
                    _ => self.factor.map_or("Bearer", |factor| factor.challenge(false)),
                }),
            );
        }
        if let Some(factor) = self.factor {
            response.extensions_mut().insert(factor);
        }
        response.extensions_mut().insert(problem);
        response
    }
}

impl From<WordError> for ApiError {
    fn from(error: WordError) -> Self {
        Self::new("bad-word", error.to_string())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Exists => Self::new("exists", "there is already a tenant of that name"),
            StoreError::Gone | StoreError::UnknownTenant | StoreError::Missing => Self::not_found(),
            StoreError::KeyDisabled => Self::key_disabled(),
            StoreError::KeyRefused => Self::key_refused(),
            StoreError::Keys(KeysError::OwnNotAllowed) => {
                Self::new("own-key-not-allowed", KeysError::OwnNotAllowed.to_string())
                    .help("the operator names its address in ringfence.toml, under `[keys.own]`")
            }
            StoreError::Held => Self::new("held-by-operator", error.to_string()).help("ask an operator of the host"),
            StoreError::Conflict { .. } => Self::new("conflict", "it was changed at the same moment; try again"),
            StoreError::BadToken => Self::new("bad-cursor", "the cursor is not one of ours"),
            StoreError::TooLarge { .. } => Self::new("body-too-large", error.to_string()),
            StoreError::Quota { bytes_max } => {
                let (kind, what) = (QuotaKind::Storage, "bytes of storage");
                Exhausted { kind, what, max: bytes_max, retry_after_ms: None }.into()
            }
            StoreError::ReadOnly => Self::read_only(),
            StoreError::NoSubject => Self::new("bad-word", error.to_string()),
            StoreError::Full { .. } => Self::new("store-full", "the host's disk is full; nothing was changed"),
            StoreError::Busy | StoreError::Overrun | StoreError::Unavailable { .. } | StoreError::Closed => {
                tracing::warn!(%error, "the store refused a request");
                Self::new("store-unavailable", "the store cannot be written now; try again")
            }
            StoreError::Keys(error) if error.is_transient() => {
                tracing::warn!(%error, "the root key provider refused a request");
                Self::new("root-key-unavailable", "the root key provider does not answer now; nothing was changed")
            }
            StoreError::Keys(KeysError::TooManyVersions) => {
                Self::new("too-many-key-versions", "this key has 255 versions, and no more can be told apart")
            }
            other => Self::host(&other),
        }
    }
}

impl From<QuotaError> for ApiError {
    fn from(error: QuotaError) -> Self {
        match &error {
            QuotaError::UnknownPlan { .. } => Self::new("unknown-plan", error.to_string()),
            _ => Self::new("bad-quota", error.to_string()),
        }
    }
}

impl From<Exhausted> for ApiError {
    fn from(exhausted: Exhausted) -> Self {
        let retry_after_seconds = exhausted.retry_after_ms.map(|ms| ms.div_ceil(1_000));
        let help = "an operator can raise it with `ringfence quota set`";
        Self { retry_after_seconds, ..Self::new("quota-exhausted", exhausted.to_string()).help(help) }
    }
}

impl From<AuditError> for ApiError {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::Gone => Self::not_found(),
            AuditError::KeyDisabled => Self::key_disabled(),
            AuditError::OnePerson => Self::second_person_needed(),
            AuditError::Deleted { .. } => Self::new("audit-retention", error.to_string())
                .help("`ringfence audit retention` shows the final signed head over them"),
            AuditError::Held { .. } => {
                Self::new("legal-hold", error.to_string()).help("two people lift it: ringfence audit lift HOLD")
            }
            AuditError::NoSuch => Self::new("no-entry", error.to_string()),
            AuditError::OtherSide => Self::new("hold-of-others", error.to_string()),
            AuditError::NotErasable { .. } => Self::new("not-erasable", error.to_string()),
            AuditError::TooMany { .. } => Self::new("too-many", error.to_string()),
            AuditError::Days { .. } => Self::new("bad-retention", error.to_string()),
            other => {
                tracing::error!(error = %other, "the audit log refused an entry");
                Self::new("audit-unavailable", "the audit log cannot be written, so nothing was done")
            }
        }
    }
}

impl From<IdentityError> for ApiError {
    fn from(error: IdentityError) -> Self {
        let text = error.to_string();
        match error {
            IdentityError::Unauthenticated | IdentityError::Expired => {
                Self::new("sign-in-refused", text).help("ringfence login")
            }
            IdentityError::BadProof(_) => Self::new("bad-proof", text),
            IdentityError::NonceNeeded => Self::new("use-dpop-nonce", text),
            IdentityError::BadTrust { .. } => Self::new("bad-trust", text),
            IdentityError::Unbound => Self::new("token-unbound", text),
            IdentityError::Throttled { retry_after_seconds } | IdentityError::TooManyProofs { retry_after_seconds } => {
                Self { retry_after_seconds: Some(retry_after_seconds), ..Self::new("throttled", text) }
            }
            IdentityError::Busy { retry_after_seconds } => {
                Self { retry_after_seconds: Some(retry_after_seconds), ..Self::new("overloaded", text) }
            }
            IdentityError::NotFound { .. } => Self::not_found(),
            IdentityError::RoleMisplaced { .. } => Self::new("bad-role", text),
            IdentityError::OperatorLimited { .. } => Self::new("conflict", text),
            IdentityError::NameTaken { .. } | IdentityError::TooManyKeys { .. } => Self::new("conflict", text),
            IdentityError::BadPassword { .. } => Self::new("bad-password", text),
            IdentityError::TooManyPeople { .. } => Self::new("conflict", text),
            IdentityError::NoPerson => Self::new("no-person", text),
            IdentityError::StepUp(Needed { factor, .. }) => {
                let help = match factor {
                    Factor::Code | Factor::Passkey => "`POST /api/v1/zero-trust/step-up` proves more in this session",
                    Factor::Certificate | Factor::LessRisk => "`GET /api/v1/zero-trust/trust-score` says what counts",
                };
                Self { factor: Some(factor), ..Self::new("step-up-required", text).help(help) }
            }
            IdentityError::Fallen { .. } => Self::new("unauthenticated", text).help("ringfence login"),
            IdentityError::NonceSpent => Self::new("nonce-spent", text),
            IdentityError::BadEvidence(_) => Self::new("bad-evidence", text),
            IdentityError::BadAdjustment(_) => Self::new("bad-adjustment", text),
            IdentityError::BadFederation(_) => Self::new("bad-federation", text),
            IdentityError::ProviderAway(_) => Self::new("provider-unavailable", text),
            IdentityError::SelfLowering => Self::new("self-lowering", text),
            IdentityError::SecondPerson => Self::second_person_needed(),
            IdentityError::FactorState(_) => Self::new("factor-state", text),
            IdentityError::BadPasskey(_) => Self::new("bad-passkey", text),
            IdentityError::PasskeysOff => Self::new("passkeys-off", text),
            IdentityError::Lifetime { .. } => Self::new("bad-lifetime", text),
            IdentityError::Reserved { .. } => Self::new("bad-word", text),
            IdentityError::Store(error) => error.into(),
            IdentityError::WrongPermit | IdentityError::Host(_) | IdentityError::Keys(_) => Self::host(&text),
        }
    }
}

impl From<PolicyError> for ApiError {
    fn from(error: PolicyError) -> Self {
        let text = error.to_string();
        match error {
            PolicyError::Platform { .. } => Self::host(&text),
            PolicyError::UnknownTenant { .. } => Self::not_found(),
            PolicyError::Invalid { help: Some(help), .. } => Self::new("bad-policy", text).help(help),
            PolicyError::Reserved { .. } => Self::new("bad-word", text),
            _ => Self::new("bad-policy", text),
        }
    }
}

impl From<CapabilitiesError> for ApiError {
    fn from(error: CapabilitiesError) -> Self {
        match error {
            CapabilitiesError::Quota(error) => error.into(),
            CapabilitiesError::Store(error) => error.into(),
            CapabilitiesError::Tls(_) | CapabilitiesError::AddressRange(_) | CapabilitiesError::Log(_) => {
                tracing::warn!(%error, "guest logs cannot be read");
                Self::new("store-unavailable", "the guest log cannot be read now; try again")
            }
        }
    }
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Damaged => Self::host(&error),
            RegistryError::Host(cause) => Self::host(&cause),
            RegistryError::Quota(exhausted) => exhausted.into(),
            other => Self::new(other.code(), other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_failure_never_shows_its_cause() {
        let error = ApiError::host(&"root key at /secret/place");
        assert_eq!(error.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(!error.detail.contains("secret"));
    }

    #[test]
    fn denied_and_hidden_are_told_apart_by_status_alone() {
        assert_eq!(status_of("denied"), StatusCode::FORBIDDEN);
        assert_eq!(ApiError::not_found().status(), StatusCode::NOT_FOUND);
        assert_eq!(status_of("need-not-granted"), StatusCode::CONFLICT);
        assert_eq!(status_of("not-a-component"), StatusCode::UNPROCESSABLE_ENTITY);
    }
}
