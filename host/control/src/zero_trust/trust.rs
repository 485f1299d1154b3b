//! Trust: where a session stands, what a tenant asks of sessions, and verifying one as a whole.
//!
//! Must never take a signal on the word of who is judged by it, nor show another's score without a permit, nor let one of
//! several admins alone ask for less of sessions.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use ringfence_audit::{Log, codes};
use ringfence_core::proof::act;
use ringfence_core::{Permit, PluginName, PrincipalId, Resource, SessionId, TenantId};
use ringfence_identity::{
    AttestationTrust, DeviceVerdict, PostureIssuer, PostureTrust, Score, TpmTrust, TrustSettings, Verdict,
};
use serde::Deserialize;
use serde_json::json;

use crate::Control;
use crate::call::Call;
use crate::extract::{Asked, JsonBody};
use crate::policies::approvals::Want;
use crate::problem::ApiError;
use crate::wire::{
    ApprovalView, AttestationRootModels, AttestationRootView, HoursView, PostureIssuerView, PostureTrustView, Problem,
    SetTrust, SignalView, ThresholdsView, TpmTrustShown, TpmTrustView, TrustScoreView, TrustSettingsView, VerifiedView,
    VerifyDevice, VerifySession,
};

/// The place of operators, as the first part of their names.
const OPERATORS: &str = "operator";

/// LIMIT: signals taken with one verification.
const SIGNALS_COUNT_MAX: usize = 8;

/// Whose score.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Whose {
    /// A principal, a plugin (`acme/plugin/hello`) or all (`acme`) of the caller's own place; the caller's own session when
    /// absent.
    subject: Option<String>,
}

/// Says where the caller's session stands, and why; with `subject`, where another of his place does.
#[utoipa::path(get, path = "/zero-trust/trust-score", tag = "zero-trust", params(Whose),
    responses((status = 200, body = TrustScoreView), (status = "default", body = Problem)))]
pub async fn score(
    State(control): State<Control>,
    call: Call,
    Asked(whose): Asked<Whose>,
) -> Result<Json<TrustScoreView>, ApiError> {
    if let Some(subject) = whose.subject.filter(|subject| subject != call.principal.id().as_str()) {
        return control.score_of(&call, &subject).await.map(Json);
    }
    let score = control.parts.identity.score(&call.principal, call.peer)?;
    Ok(Json(control.trust_view(&call, call.principal.id(), call.principal.session(), score)))
}

/// Verifies the caller's session as a whole, or judges another of his place: it goes on, needs more, or is ended.
#[utoipa::path(put, path = "/zero-trust/verify-continuous", tag = "zero-trust", request_body = VerifySession,
    responses((status = 200, body = VerifiedView), (status = "default", body = Problem)))]
pub async fn verify(
    State(control): State<Control>,
    call: Call,
    JsonBody(asked): JsonBody<VerifySession>,
) -> Result<Json<VerifiedView>, ApiError> {
    let own = call.principal.session().cloned();
    let named: Option<SessionId> =
        asked.session_id.as_deref().map(str::parse::<SessionId>).transpose().map_err(|_| ApiError::not_found())?;
    let (whose, session, verified) = match named.filter(|named| own.as_ref() != Some(named)) {
        Some(other) => {
            // Evidence is about the devices of who shows it.
            if !asked.signals.is_empty() {
                return Err(ApiError::new("bad-evidence", "signals are taken of the session that asks alone"));
            }
            let (permit, log) = control.reach_own_place(&call).await?;
            let (whose, judged) = control.parts.identity.judge_session(&permit, call.principal.tenant(), &other)?;
            if judged.verdict == Verdict::Ended {
                control.end_judged(&call, &log, permit, (&whose, &other), judged.score.firm).await?;
            }
            (whose, Some(other), judged)
        }
        None => {
            control.take_signals(&call, &asked.signals).await?;
            let verified = control.parts.identity.verify_session(&call.principal, call.peer).await?;
            control.tell_fallen(call.principal.tenant()).await;
            (call.principal.id().clone(), own, verified)
        }
    };
    let decision = match verified.verdict {
        Verdict::Keep => "keep",
        Verdict::StepUp => "step_up",
        Verdict::Ended => "ended",
    };
    let next = SignedDuration::from_secs(verified.next_seconds.into());
    let next_check_at = control.parts.clock.now().checked_add(next).map_err(|error| ApiError::host(&error))?;
    Ok(Json(VerifiedView {
        decision: decision.to_owned(),
        trust: control.trust_view(&call, &whose, session.as_ref(), verified.score),
        next_check_at: next_check_at.to_string(),
    }))
}

/// Reads what a tenant asks of sessions.
#[utoipa::path(get, path = "/tenants/{tenant}/trust", tag = "zero-trust",
    responses((status = 200, body = TrustSettingsView), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<TrustSettingsView>, ApiError> {
    let reached = control.reach_tenant::<act::ReadPolicy>(&call, &tenant).await?;
    Ok(Json(view(&control.parts.identity.trust_settings(reached.permit, &reached.tenant)?)))
}

/// Decides what a tenant asks of sessions. In force at once: those below the floor end, the caller's own too. What asks for
/// less than before waits for another tenant-admin, where there is one (202).
#[utoipa::path(put, path = "/tenants/{tenant}/trust", tag = "zero-trust", request_body = SetTrust,
    responses((status = 200, body = TrustSettingsView), (status = 202, body = ApprovalView),
        (status = "default", body = Problem)))]
pub async fn write(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    JsonBody(asked): JsonBody<SetTrust>,
) -> Result<Response, ApiError> {
    let reached = control.reach_tenant::<act::WritePolicy>(&call, &tenant).await?;
    let settings = settings(&asked)?;
    let before = control.trust_before(&call, &reached.tenant).await?;
    let weakened = before.weakened(&settings);
    let (log, tenant) = (Log::Tenant(reached.store.clone()), reached.tenant);
    if !weakened.is_empty() && control.has_another_admin(&call, &tenant).await? {
        let want = Want::Trust { settings: Box::new(asked), weakened, changed_at: before.changed_at };
        let waiting = control.ask_approval(&call, &log, &reached.store, reached.permit, want).await?;
        return Ok((StatusCode::ACCEPTED, Json(waiting)).into_response());
    }
    let details = json!({
        "thresholds": asked.thresholds, "device_issuers": issuers(&asked), "device_tpm": asked.device_tpm.is_some(),
        "weakened": weakened, "weakened_by_one": !weakened.is_empty(),
    });
    let settings = control
        .bracket(&call, &log, reached.permit, codes::TRUST_CHANGED, details, async |permit| {
            control.set_trust(&call, &tenant, permit, settings, before.changed_at).await
        })
        .await?;
    Ok(Json(view(&settings)).into_response())
}

/// Whose word about devices counts, by name: rules may let somebody through for it.
pub(super) fn issuers(asked: &SetTrust) -> Vec<String> {
    let issuers = asked.device_posture.iter().flat_map(|posture| &posture.issuers).take(8);
    issuers.map(|issuer| issuer.name.chars().take(80).collect()).collect()
}

impl Control {
    /// Where another subject of the caller's place stands. One of any other place is nobody, and the attempt is on record.
    async fn score_of(&self, call: &Call, subject: &str) -> Result<TrustScoreView, ApiError> {
        let subject: PrincipalId = subject.parse().map_err(|_| ApiError::not_found())?;
        let (place, rest) = subject.as_str().split_once('/').unwrap_or((subject.as_str(), ""));
        let own = call.principal.tenant().map_or(OPERATORS, TenantId::as_str);
        if place != own {
            self.reach_tenant::<act::ListTokens>(call, place).await?;
            return Err(ApiError::not_found());
        }
        let permit = self.reach_own_list(call).await?;
        let plugin = rest.strip_prefix("plugin/").and_then(|name| name.parse::<PluginName>().ok());
        let is_there = call
            .principal
            .tenant()
            .zip(plugin)
            .is_some_and(|(tenant, plugin)| self.parts.registry.route(tenant, &plugin).is_some());
        let identity = &self.parts.identity;
        let (session, score) = identity.score_of(permit, call.principal.tenant(), &subject, is_there)?;
        Ok(self.trust_view(call, &subject, session.as_ref(), score))
    }

    /// Ends a session of another that was judged to stand below the floor: announced before, and about whose it is.
    async fn end_judged(
        &self,
        call: &Call,
        log: &Log,
        permit: Permit<act::RevokeToken>,
        (whose, session): (&PrincipalId, &SessionId),
        score: u8,
    ) -> Result<(), ApiError> {
        let details = json!({ "session": session, "score": score });
        let on = (log, whose.to_string());
        self.bracket_on(call, on, permit, codes::SESSION_FALLEN, details, async |permit| {
            self.parts.identity.revoke_session(permit, call.principal.tenant(), session).await?;
            Ok(())
        })
        .await
    }

    /// Takes evidence about the caller's devices in, each on the record. What nobody here can check is no signal.
    async fn take_signals(&self, call: &Call, signals: &[VerifyDevice]) -> Result<(), ApiError> {
        if signals.len() > SIGNALS_COUNT_MAX {
            return Err(ApiError::new("bad-evidence", format!("there are more than {SIGNALS_COUNT_MAX} signals")));
        }
        for shown in signals {
            let (verdict, _) = self.verify_shown(call, shown).await?;
            if verdict == DeviceVerdict::Unsupported {
                return Err(ApiError::new("bad-evidence", "nobody here can check evidence of this format"));
            }
        }
        Ok(())
    }

    /// What a tenant asks of sessions as it is, for who may change it.
    async fn trust_before(&self, call: &Call, tenant: &TenantId) -> Result<TrustSettings, ApiError> {
        let permit = self.reach::<act::ReadPolicy>(call, Resource::Tenant { tenant: tenant.clone() }).await?.permit;
        Ok(self.parts.identity.trust_settings(permit, tenant)?)
    }

    /// Decides what a tenant asks of sessions, as one asked for and the caller allows; unless it was changed since.
    pub(crate) async fn put_approved_trust(
        &self,
        call: &Call,
        tenant: &TenantId,
        asked: &SetTrust,
        (asked_by, changed_at): (&PrincipalId, Option<Timestamp>),
    ) -> Result<(), ApiError> {
        let before = self.trust_before(call, tenant).await?;
        let mut next = settings(asked)?;
        next.changed_by = Some(asked_by.clone());
        next.approved_by = Some(call.principal.id().clone());
        let reached = self.reach::<act::WritePolicy>(call, Resource::Tenant { tenant: tenant.clone() }).await?;
        let details = json!({
            "thresholds": asked.thresholds, "device_issuers": issuers(asked), "device_tpm": asked.device_tpm.is_some(),
            "weakened": before.weakened(&next), "weakened_by_one": false, "asked_by": asked_by,
        });
        self.bracket(call, &Log::Tenant(reached.store), reached.permit, codes::TRUST_CHANGED, details, async |permit| {
            self.set_trust(call, tenant, permit, next, changed_at).await
        })
        .await
        .map(drop)
    }

    /// Puts settings in the place of those of a moment; whether they ask for less was judged beside those.
    async fn set_trust(
        &self,
        call: &Call,
        tenant: &TenantId,
        permit: Permit<act::WritePolicy>,
        next: TrustSettings,
        changed_at: Option<Timestamp>,
    ) -> Result<TrustSettings, ApiError> {
        let _one = self.changing.of(tenant.clone()).await;
        if self.trust_before(call, tenant).await?.changed_at != changed_at {
            return Err(ApiError::new("precondition-failed", "these settings were changed meanwhile"));
        }
        Ok(self.parts.identity.set_trust_settings(permit, tenant, next).await?)
    }

    fn trust_view(
        &self,
        call: &Call,
        whose: &PrincipalId,
        session: Option<&SessionId>,
        score: Score,
    ) -> TrustScoreView {
        let signals = score.contributions.into_iter().map(|signal| SignalView {
            name: signal.name.to_owned(),
            value: signal.value,
            source: signal.source.to_owned(),
            age_seconds: signal.age_seconds,
            effect: signal.effect,
        });
        TrustScoreView {
            session_id: session.map(ToString::to_string),
            principal: whose.to_string(),
            score: score.value,
            signals: signals.collect(),
            thresholds: thresholds(&self.parts.identity.thresholds(&call.principal)),
            computed_at: self.parts.clock.now().to_string(),
        }
    }
}

pub(super) fn settings(asked: &SetTrust) -> Result<TrustSettings, ApiError> {
    let wanted = asked.thresholds;
    let least = [wanted.floor, wanted.invoke, wanted.read, wanted.change, wanted.administer];
    if least.iter().any(|score| *score > 100) {
        return Err(ApiError::new("bad-trust-settings", "scores are 0 to 100"));
    }
    let interval = asked.verify_interval_seconds.unwrap_or(300);
    if !(10..=300).contains(&interval) {
        return Err(ApiError::new(
            "bad-trust-settings",
            "`verify_interval_seconds` is 10 to 300: sessions live no longer",
        ));
    }
    if asked.step_up_seconds.is_some_and(|lasts| !(10..=300).contains(&lasts)) {
        return Err(ApiError::new("bad-trust-settings", "`step_up_seconds` is 10 to 300: sessions live no longer"));
    }
    let hours_utc = asked.hours_utc.map(|hours| (hours.from, hours.to));
    if hours_utc.is_some_and(|(from, to)| from > 23 || to > 24 || from == to) {
        return Err(ApiError::new("bad-trust-settings", "`hours_utc` is from 0 to 23, to 0 to 24, and not empty"));
    }
    Ok(TrustSettings {
        floor: wanted.floor,
        invoke: wanted.invoke,
        read: wanted.read,
        change: wanted.change,
        administer: wanted.administer,
        verify_interval_seconds: interval,
        step_up_seconds: asked.step_up_seconds,
        credential_days_max: asked.credential_days_max,
        hours_utc,
        posture: asked.device_posture.clone().map_or_else(PostureTrust::default, posture),
        tpm: asked.device_tpm.as_ref().map(tpm).transpose()?.unwrap_or_default(),
        attestation: attestation(&asked.passkey_attestation)?,
        ..TrustSettings::unset()
    })
}

fn posture(asked: PostureTrustView) -> PostureTrust {
    let issuers = asked.issuers.into_iter().map(|issuer| PostureIssuer { name: issuer.name, key: issuer.key });
    PostureTrust { issuers: issuers.collect(), required: asked.required }
}

fn tpm(asked: &TpmTrustView) -> Result<TpmTrust, ApiError> {
    let set = |set: &BTreeMap<String, String>| -> Option<BTreeMap<u8, String>> {
        set.iter().map(|(number, value)| Some((number.parse::<u8>().ok()?, value.clone()))).collect::<Option<_>>()
    };
    let expected = asked.expected.iter().map(set).collect::<Option<Vec<BTreeMap<u8, String>>>>();
    let expected =
        expected.ok_or_else(|| ApiError::new("bad-trust-settings", "registers are named by numbers, 0 to 23"))?;
    Ok(TpmTrust::new(&asked.roots, expected)?)
}

fn tpm_view(trust: &TpmTrust) -> Option<TpmTrustShown> {
    let set = |set: &BTreeMap<u8, String>| -> BTreeMap<String, String> {
        set.iter().map(|(number, value)| (number.to_string(), value.clone())).collect()
    };
    let expected = trust.expected().iter().map(set).collect();
    (trust.roots_count() > 0).then(|| TpmTrustShown { roots_count: trust.roots_count(), expected })
}

fn attestation(asked: &[AttestationRootView]) -> Result<AttestationTrust, ApiError> {
    let roots: Vec<(String, Vec<String>)> =
        asked.iter().map(|root| (root.certificate.clone(), root.models.clone())).collect();
    Ok(AttestationTrust::new(&roots)?)
}

fn posture_view(trust: &PostureTrust) -> PostureTrustView {
    let issuers = trust.issuers.iter().cloned();
    let issuers = issuers.map(|issuer| PostureIssuerView { name: issuer.name, key: issuer.key });
    PostureTrustView { issuers: issuers.collect(), required: trust.required.clone() }
}

fn thresholds(settings: &TrustSettings) -> ThresholdsView {
    ThresholdsView {
        floor: settings.floor,
        invoke: settings.invoke,
        read: settings.read,
        change: settings.change,
        administer: settings.administer,
    }
}

pub(super) fn view(settings: &TrustSettings) -> TrustSettingsView {
    TrustSettingsView {
        thresholds: thresholds(settings),
        verify_interval_seconds: settings.verify_interval_seconds,
        step_up_seconds: settings.step_up_seconds,
        credential_days_max: settings.credential_days_max,
        hours_utc: settings.hours_utc.map(|(from, to)| HoursView { from, to }),
        device_posture: posture_view(&settings.posture),
        device_tpm: tpm_view(&settings.tpm),
        passkey_attestation: settings.attestation.models().map(|models| AttestationRootModels { models }).collect(),
        changed_at: settings.changed_at.map(|at| at.to_string()),
        changed_by: settings.changed_by.as_ref().map(ToString::to_string),
        approved_by: settings.approved_by.as_ref().map(ToString::to_string),
    }
}
