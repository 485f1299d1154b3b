//! Threat assessments: today's rules and indicators asked of a stretch of the caller's own log.
//!
//! Must never keep what was found where another than its owner reads: the job's result, which operators see too, has
//! numbers alone.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use ringfence_core::Role;
use ringfence_core::proof::act;
use ringfence_outward::Carries;
use ringfence_threat::{Assessment, Scope};
use serde_json::json;

use crate::Control;
use crate::audit::analytics::span;
use crate::call::Call;
use crate::extract::JsonBody;
use crate::problem::ApiError;
use crate::threat::findings;
use crate::wire::{AssessThreats, AssessmentCoverage, JobView, Problem, ThreatAssessment};

/// LIMIT: rules that one assessment is narrowed to.
const RULES_COUNT_MAX: usize = 100;

/// Assesses a stretch of the caller's own log, up to a year back: 202 and a job, whose result names the assessment.
#[utoipa::path(post, path = "/zero-trust/threat-assessment", tag = "zero-trust", request_body = AssessThreats,
    responses((status = 202, body = JobView), (status = "default", body = Problem)))]
pub async fn assess(
    State(control): State<Control>,
    call: Call,
    JsonBody(asked): JsonBody<AssessThreats>,
) -> Result<Response, ApiError> {
    let owner = control.owner::<act::ReadThreat>(&call).await?;
    let window = asked.window.unwrap_or_else(|| "24h".to_owned());
    let bad = || ApiError::new("bad-word", format!("`{window}` is no time of at most 366 days; one is `24h`"));
    let since = control.parts.clock.now().checked_sub(span(&window).ok_or_else(bad)?).map_err(|_| bad())?;
    if asked.rules.len() > RULES_COUNT_MAX {
        return Err(ApiError::new("bad-word", format!("`rules` are at most {RULES_COUNT_MAX}")));
    }
    let what = json!({ "view": "threat-assessment", "window": window, "rules": asked.rules });
    control.reading(&call, &owner.log, owner.permit, what).await?;
    let (this, scope, rules) = (control.clone(), owner.scope, asked.rules);
    let tenant = scope.tenant().cloned();
    let work = async move {
        let threat = &this.parts.threat;
        let mut made = threat.assess(&scope, since.as_millisecond(), &rules).await?;
        if this.parts.outward.list(&scope, Carries::Alerts).await.is_empty() {
            made.blind_spots.push("no channel tells people of findings".to_owned());
        }
        threat.keep_assessment(&scope, &made).await?;
        Ok(json!({
            "assessment": made.id, "findings_count": made.findings.len() as u64 + made.more_count,
            "entries_count": made.to_seq.saturating_sub(made.from_seq), "complete": made.is_complete,
        }))
    };
    control.begin("threat-assessment", tenant.as_ref(), work).await
}

/// Reads an assessment; the newest eight are kept.
#[utoipa::path(get, path = "/zero-trust/threat-assessments/{id}", tag = "zero-trust",
    responses((status = 200, body = ThreatAssessment), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path(id): Path<String>,
) -> Result<Json<ThreatAssessment>, ApiError> {
    let owner = control.owner::<act::ReadThreat>(&call).await?;
    let scope: Scope = owner.scope;
    let short: String = id.chars().take(80).collect();
    let what = json!({ "view": "threat-assessment", "of": format!("assessment/{short}") });
    control.reading(&call, &owner.log, owner.permit, what).await?;
    Ok(Json(view(control.parts.threat.assessment(&scope, &id).await?, call.principal.role())))
}

fn view(made: Assessment, role: Option<Role>) -> ThreatAssessment {
    ThreatAssessment {
        findings: made.findings.into_iter().map(|one| findings::view(one.as_seen_by(role))).collect(),
        more_count: made.more_count,
        coverage: AssessmentCoverage {
            rules_run: made.rules_run,
            indicators_count: made.indicators_count,
            from_seq: made.from_seq,
            to_seq: made.to_seq,
            complete: made.is_complete,
            blind_spots: made.blind_spots,
        },
    }
}
