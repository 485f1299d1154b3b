//! Findings as they are listed and told, and drills.
//!
//! Must never tell an owner of another's findings, a reader more than the log shows his role, nor wait for a reader of alerts: what he misses he finds in the list.

use std::convert::Infallible;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use http::{HeaderName, HeaderValue, header};
use ringfence_audit::codes;
use ringfence_core::Role;
use ringfence_core::proof::act;
use ringfence_threat::{Drilled, Finding};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use crate::Control;
use crate::call::Call;
use crate::extract::{Asked, JsonBody, Paging};
use crate::host::word;
use crate::problem::ApiError;
use crate::threat::{at, stix};
use crate::wire::{DrilledRule, Page, Problem, RiskContribution, RunDrill, ThreatDrill, ThreatFinding, ThreatTimes};

/// Which findings.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Listing {
    /// Where the last page ended.
    cursor: Option<String>,
    /// Most items to answer; 100 when absent, 1000 at most.
    limit: Option<usize>,
    /// Tells findings as they are made instead, as server-sent events, until the session ends.
    follow: Option<bool>,
    /// `stix` for a STIX 2.1 bundle of the page, without drills; the header `next-cursor` says where the next begins. Or `json`.
    format: Option<String>,
}

/// Where the next page of a bundle begins, which has no place for it.
const NEXT_CURSOR: HeaderName = HeaderName::from_static("next-cursor");

/// Lists findings, newest first, as a bundle where `format` says so; with `follow` tells them as they are made.
#[utoipa::path(get, path = "/security/findings", tag = "security", params(Listing),
    responses((status = 200, body = Page<ThreatFinding>), (status = "default", body = Problem)))]
pub async fn list(
    State(control): State<Control>,
    call: Call,
    Asked(listing): Asked<Listing>,
) -> Result<Response, ApiError> {
    let is_bundle = match (listing.format.as_deref(), listing.follow) {
        (None | Some("json"), _) => false,
        (Some("stix"), None | Some(false)) => true,
        (Some("stix"), Some(true)) => return Err(ApiError::new("bad-request", "what is followed is told as JSON")),
        (Some(_), _) => return Err(ApiError::new("bad-request", "`format` is `json` or `stix`")),
    };
    let owner = control.owner::<act::ReadThreat>(&call).await?;
    let role = call.principal.role();
    if listing.follow == Some(true) {
        let told = follow(&control, owner.scope.log().to_owned(), role);
        return Ok(Sse::new(control.while_allowed(call.principal, told))
            .keep_alive(KeepAlive::default())
            .into_response());
    }
    let paging = Paging { cursor: listing.cursor, limit: listing.limit };
    let all = control.parts.threat.findings(&owner.scope).await?;
    let from = usize::try_from(paging.position()?.unwrap_or(0)).unwrap_or(usize::MAX);
    let next = from.saturating_add(paging.limit());
    let cursor = (next < all.len()).then(|| next.to_string());
    let page = all.into_iter().skip(from).take(paging.limit()).map(|finding| finding.as_seen_by(role));
    if is_bundle {
        let real: Vec<Finding> = page.filter(stix::is_real).collect();
        let next = cursor.and_then(|cursor| HeaderValue::try_from(cursor).ok()).map(|cursor| [(NEXT_CURSOR, cursor)]);
        let kind = [(header::CONTENT_TYPE, HeaderValue::from_static(stix::MEDIA_TYPE))];
        let mut response = (kind, stix::bundle(&real).to_string()).into_response();
        response.headers_mut().extend(next.into_iter().flatten());
        return Ok(response);
    }
    Ok(Json(Page { items: page.map(view).collect(), cursor }).into_response())
}

/// Reads a finding.
#[utoipa::path(get, path = "/security/findings/{id}", tag = "security",
    responses((status = 200, body = ThreatFinding), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path(id): Path<String>,
) -> Result<Json<ThreatFinding>, ApiError> {
    let owner = control.owner::<act::ReadThreat>(&call).await?;
    let finding = control.parts.threat.finding(&owner.scope, &id).await?;
    Ok(Json(view(finding.as_seen_by(call.principal.role()))))
}

/// Plays the attacks of the shipped rules, labelled, and measures what came of them.
#[utoipa::path(post, path = "/security/drills", tag = "security", request_body = RunDrill,
    responses((status = 200, body = ThreatDrill), (status = "default", body = Problem)))]
pub async fn drill(
    State(control): State<Control>,
    call: Call,
    JsonBody(asked): JsonBody<RunDrill>,
) -> Result<Json<ThreatDrill>, ApiError> {
    let owner = control.owner::<act::RespondThreat>(&call).await?;
    let Ok(_turn) = control.drilling.try_acquire() else {
        return Err(ApiError::new("overloaded", "another drill is under way; try again"));
    };
    let rounds = asked.rounds.unwrap_or(1) as usize;
    let scope = owner.scope;
    let report = control
        .bracket(&call, &owner.log, owner.permit, codes::DRILL_RUN, json!({ "rounds": rounds }), async |_permit| {
            Ok(control.parts.threat.drill(&scope, rounds).await?)
        })
        .await?;
    let misses_count = report.drilled.iter().filter(|one| one.detected_us.is_none()).count() as u64;
    let rule = |one: &Drilled| DrilledRule {
        rule: one.rule.clone(),
        detected: one.detected_us.is_some(),
        detect_us: one.detected_us,
        respond_us: one.responded_us,
    };
    Ok(Json(ThreatDrill {
        played_count: report.drilled.len() as u64,
        misses_count,
        detect_us: times(report.drilled.iter().map(|one| one.detected_us)),
        respond_us: times(report.drilled.iter().filter(|one| one.responded_us.is_some()).map(|one| one.responded_us)),
        rules: report.drilled.iter().map(rule).collect(),
        not_played: report.not_played,
        label: report.label,
    }))
}

/// Findings of a log as they are made, as a role sees them.
fn follow(
    control: &Control,
    log: String,
    role: Option<Role>,
) -> impl Stream<Item = Result<SseEvent, Infallible>> + use<> {
    let told = control.parts.threat.alerts();
    futures::stream::unfold((told, log, role), async |(mut told, log, role)| {
        loop {
            let event = match told.recv().await {
                Ok(finding) if finding.log == log => {
                    SseEvent::default().event("finding").json_data(view((*finding).clone().as_seen_by(role))).ok()
                }
                Ok(_) => None,
                Err(RecvError::Lagged(_)) => Some(SseEvent::default().event("missed").data("list the findings")),
                Err(RecvError::Closed) => return None,
            };
            if let Some(event) = event {
                return Some((Ok(event), (told, log, role)));
            }
        }
    })
}

/// Median and 95th percentile; what is none is longer than any, so that a miss is not left out.
fn times(all: impl Iterator<Item = Option<u64>>) -> ThreatTimes {
    let mut all: Vec<u64> = all.map(|one| one.unwrap_or(u64::MAX)).collect();
    all.sort_unstable();
    let place = |share: usize| all.get((all.len() * share).div_ceil(100).saturating_sub(1)).copied();
    let told = |one: Option<u64>| one.filter(|one| *one != u64::MAX);
    ThreatTimes { count: all.len() as u64, p50: told(place(50)), p95: told(place(95)) }
}

/// A finding as [`Finding::as_seen_by`] left it.
pub(crate) fn view(finding: Finding) -> ThreatFinding {
    let contribution = |one: ringfence_threat::risk::Contribution| RiskContribution {
        name: one.name,
        points: one.points,
        why: one.why,
    };
    ThreatFinding {
        id: finding.id,
        log: finding.log,
        rule_owner: finding.rule_owner,
        rule: finding.rule,
        rule_version: finding.edition.map(|text| text.version),
        rule_digest: finding.edition.map(|text| text.digest.to_string()),
        title: finding.title,
        level: word(&finding.level),
        attack: finding.attack,
        attack_version: finding.attack_version,
        group: finding.group.into_iter().map(|(field, value)| vec![field, value]).collect(),
        actor: finding.actor,
        resource: finding.resource,
        source: finding.source,
        evidence: finding.evidence,
        count: finding.count,
        first_at: at(finding.first_ms),
        last_at: at(finding.last_ms),
        found_at: at(finding.found_ms),
        risk_points: finding.risk.points,
        risk: finding.risk.contributions.into_iter().map(contribution).collect(),
        drill: finding.drill,
        response: finding.response,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_miss_counts_as_longer_than_any() {
        let told = times([Some(5), None, Some(3), Some(4)].into_iter());
        assert_eq!((told.count, told.p50, told.p95), (4, Some(4), None));
        assert_eq!(times(std::iter::empty()).p50, None);
    }
}
