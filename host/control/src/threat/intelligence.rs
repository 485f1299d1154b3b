//! Threat intelligence: bundles taken in, indicators shown with what became of them and where they were seen.
//!
//! Must never show an indicator marked TLP:RED or TLP:AMBER+STRICT to anyone but the owner that loaded it.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::extract::{FromRequest, Request};
use jiff::Timestamp;
use ringfence_audit::codes;
use ringfence_core::proof::act;
use ringfence_threat::intel::{Indicator, Trust, Use, shape};
use ringfence_threat::{Scope, ThreatError};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Control;
use crate::call::Call;
use crate::extract::{Asked, Paging, read_body};
use crate::problem::ApiError;
use crate::threat::at;
use crate::wire::{LoadedIntelligence, Problem, ThreatFeed, ThreatIntelligence};

/// LIMIT: longest bundle, in bytes.
const BUNDLE_BYTES_MAX: usize = 16 << 20;

/// Which indicators, and what to call a bundle.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Wanted {
    /// Only of this indicator type, such as `malicious-activity`.
    r#type: Option<String>,
    /// Only what came since, RFC 3339.
    since: Option<String>,
    /// What to call the feed of a bundle that is loaded; `upload` when absent.
    feed: Option<String>,
    /// Confidence below which indicators of a bundle that is loaded are kept and not matched, 0 to 100; 30 when absent. A source
    /// that states none is taken to mean 50.
    confidence_min: Option<u32>,
    /// Days in which their confidence halves, 1 to 3650; it stays when absent.
    half_life_days: Option<u32>,
}

/// A STIX bundle, longer than other bodies.
pub struct BundleBody(Value);

impl FromRequest<Control> for BundleBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, _control: &Control) -> Result<Self, ApiError> {
        let bytes = read_body(request, BUNDLE_BYTES_MAX).await?;
        shape::check(&bytes).map_err(|what| ThreatError::BadBundle { what })?;
        let bundle = serde_json::from_slice(&bytes);
        bundle.map(Self).map_err(|error| ApiError::new("bad-json", format!("the body is not JSON: {error}")))
    }
}

/// Reads indicators with their sightings, by their ids; without any feed, freshness is unknown.
#[utoipa::path(get, path = "/security/threat-intelligence", tag = "security", params(Wanted, Paging),
    responses((status = 200, body = ThreatIntelligence), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Asked(wanted): Asked<Wanted>,
    Asked(paging): Asked<Paging>,
) -> Result<Json<ThreatIntelligence>, ApiError> {
    let owner = control.owner::<act::ReadThreat>(&call).await?;
    let since: Option<Timestamp> = wanted
        .since
        .map(|text| text.parse().map_err(|_| ApiError::new("bad-request", "`since` is no time of RFC 3339")))
        .transpose()?;
    let mut all = control.parts.threat.indicators(&owner.scope);
    all.sort_by(|a, b| a.id.cmp(&b.id));
    let mut feeds: BTreeMap<String, (Timestamp, u64)> = BTreeMap::new();
    for indicator in &all {
        let (last, count) = feeds.entry(indicator.feed.clone()).or_insert((indicator.loaded_at, 0));
        (*last, *count) = ((*last).max(indicator.loaded_at), *count + 1);
    }
    let unmatched = all.iter().filter(|one| matches!(one.used, Use::UnmatchedPattern(_))).count();
    let fits = |one: &&Indicator| {
        wanted.r#type.as_ref().is_none_or(|kind| one.types.contains(kind))
            && since.is_none_or(|since| one.loaded_at >= since)
    };
    let now = control.parts.clock.now();
    let (shown, cursor) = page(all.iter().map(|one| &**one).filter(fits), &paging);
    let objects = shown.into_iter().map(|one| stix(one, now)).collect();
    let feed = |(name, (last, count)): (String, (Timestamp, u64))| ThreatFeed {
        name,
        last_update: last.to_string(),
        indicators_count: count,
    };
    Ok(Json(ThreatIntelligence {
        objects,
        feeds: feeds.into_iter().map(feed).collect(),
        unmatched_patterns: unmatched as u64,
        freshness: freshness(&control, &owner.scope).to_owned(),
        cursor,
    }))
}

/// Takes a STIX 2.1 bundle in. Its indicators are matched from the next event on, and the log was asked about them; what it held
/// becomes findings.
#[utoipa::path(post, path = "/security/threat-intelligence", tag = "security", params(Wanted),
    request_body(content = Value, content_type = "application/json"),
    responses((status = 200, body = LoadedIntelligence), (status = "default", body = Problem)))]
pub async fn load(
    State(control): State<Control>,
    call: Call,
    Asked(wanted): Asked<Wanted>,
    BundleBody(bundle): BundleBody,
) -> Result<Json<LoadedIntelligence>, ApiError> {
    let owner = control.owner::<act::WriteThreat>(&call).await?;
    let feed = wanted.feed.unwrap_or_else(|| "upload".to_owned());
    let feed: ringfence_core::ResourceName = feed.parse()?;
    let trust = Trust::of(wanted.confidence_min, wanted.half_life_days);
    let mut trust = trust.map_err(|what| ApiError::new("bad-request", what))?;
    if let Some(polled) = control.parts.outward.feeds(&owner.scope).into_iter().find(|one| one.feed.name == feed) {
        if wanted.confidence_min.or(wanted.half_life_days).is_some() {
            let what = format!("`{feed}` is a feed that is asked, whose own floor and half-life hold: change those");
            return Err(ApiError::new("bad-request", what));
        }
        trust = polled.feed.trust;
    }
    let count = bundle.get("objects").and_then(Value::as_array).map_or(0, Vec::len);
    let details = json!({ "feed": feed.as_str(), "objects": count, "trust": trust });
    let scope = owner.scope;
    let loaded = control
        .bracket(&call, &owner.log, owner.permit, codes::INTELLIGENCE_LOADED, details, async |_permit| {
            Ok(control.parts.threat.load_bundle(&scope, (feed.as_str(), trust), &bundle).await?)
        })
        .await?;
    Ok(Json(LoadedIntelligence {
        matched_count: loaded.matched_count as u64,
        unmatched_pattern_count: loaded.unmatched_pattern_count as u64,
        not_used_count: loaded.not_used_count as u64,
        others_count: loaded.others_count as u64,
        refused: loaded.refused,
        refused_count: loaded.refused_count as u64,
        looked_back_count: loaded.looked_back_count,
        sightings_count: loaded.sightings_count,
        active_after_us: loaded.active_after_us,
    }))
}

/// A page of indicators that are in the order of their ids, and the cursor of the next. An owner's and an operators' indicator
/// of one id are never parted, so that neither is left out.
fn page<'a>(all: impl Iterator<Item = &'a Indicator>, paging: &Paging) -> (Vec<&'a Indicator>, Option<String>) {
    let (after, limit) = (paging.cursor.as_deref(), paging.limit());
    let mut shown: Vec<&Indicator> = Vec::new();
    for one in all.filter(|one| after.is_none_or(|after| one.id.as_str() > after)) {
        let last = shown.last().map(|last| &last.id);
        if shown.len() >= limit && last != Some(&one.id) {
            let cursor = last.cloned();
            return (shown, cursor);
        }
        shown.push(one);
    }
    (shown, None)
}

/// How fresh what an owner has is: by its own feeds, and the operators', whose indicators it sees.
fn freshness(control: &Control, scope: &Scope) -> &'static str {
    let mut feeds = control.parts.outward.feeds(scope);
    if *scope != Scope::Host {
        feeds.extend(control.parts.outward.feeds(&Scope::Host));
    }
    let is = |word: &str| feeds.iter().any(|feed| feed.freshness == word);
    if is("fresh") {
        "fresh"
    } else if is("stale") {
        "stale"
    } else {
        "unknown"
    }
}

/// An indicator as STIX, with what became of it here. What is not said is left out, as the standard wants it.
fn stix(indicator: &Indicator, now: Timestamp) -> Value {
    let used = indicator.judge(now);
    // As the standard wants these two: to the millisecond, also where that is none.
    let ms = |at: Timestamp| format!("{at:.3}");
    let seen = indicator.seen_ms.map(|(first, last)| json!({ "first_seen": at(first), "last_seen": at(last) }));
    said(json!({
        "type": "indicator", "spec_version": "2.1", "id": indicator.id, "name": indicator.name,
        "indicator_types": indicator.types, "pattern": indicator.pattern, "pattern_type": "stix",
        "confidence": indicator.confidence, "valid_from": indicator.valid_from, "valid_until": indicator.valid_until,
        "revoked": indicator.revoked, "created": ms(indicator.created.unwrap_or(indicator.modified)),
        "modified": ms(indicator.modified), "object_marking_refs": indicator.marking_refs,
        "x_ringfence": said(json!({
            "use": used, "effective_confidence": indicator.effective_confidence(now),
            "assumed_confidence": indicator.confidence.is_none().then_some(indicator.stated()),
            "confidence_min": indicator.trust.confidence_min, "half_life_days": indicator.trust.half_life_days,
            "fades_at": indicator.fades_at().filter(|at| *at > now),
            "feed": indicator.feed, "source": indicator.source, "tlp": indicator.tlp,
            "loaded_at": indicator.loaded_at, "sightings_count": indicator.sightings_count, "sightings": seen,
        })),
    }))
}

/// An object without the members that say nothing.
fn said(mut object: Value) -> Value {
    let says =
        |value: &Value| !value.is_null() && value.as_array().is_none_or(|items| !items.is_empty()) && value != "";
    if let Some(members) = object.as_object_mut() {
        members.retain(|_, value| says(value));
    }
    object
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test is a panic with a place")]

    use ringfence_threat::intel::stix;

    use super::*;

    #[test]
    fn what_is_given_back_has_what_the_standard_requires_its_markings_and_nothing_empty() {
        let mark = "marking-definition--bab4a63c-aed9-4cf5-a766-dfca5abac2bb";
        let object = json!({
            "type": "indicator", "spec_version": "2.1", "id": "indicator--1", "pattern_type": "stix",
            "pattern": "[ipv4-addr:value = '203.0.113.9']", "valid_from": "2026-01-01T00:00:00Z",
            "created": "2025-01-01T00:00:00Z", "modified": "2026-01-01T00:00:00Z", "object_marking_refs": [mark],
        });
        let now = "2026-06-01T00:00:00Z".parse().unwrap();
        let bundle =
            stix::read(&json!({ "type": "bundle", "objects": [object] }), ("f", Trust::default()), now).unwrap();
        let given = super::stix(&bundle.indicators[0], now);
        assert_eq!(
            (&given["created"], &given["object_marking_refs"]),
            (&json!("2025-01-01T00:00:00.000Z"), &json!([mark]))
        );
        assert_eq!(given["x_ringfence"]["tlp"], "green");
        for absent in ["name", "confidence", "valid_until", "indicator_types"] {
            assert!(given.get(absent).is_none(), "{given}");
        }
        assert!(given["x_ringfence"].get("sightings").is_none(), "{given}");
    }

    #[test]
    fn what_is_left_of_a_confidence_is_shown_with_why_it_is_not_matched() {
        // As one of before there were floors was kept.
        let kept = indicator("indicator--1", "f");
        let now = "2020-03-01T00:00:00Z".parse().unwrap();
        let shown = |one: &Indicator| super::stix(one, now)["x_ringfence"].clone();
        let as_before = shown(&kept);
        assert_eq!((&as_before["effective_confidence"], &as_before["assumed_confidence"]), (&json!(50), &json!(50)));
        assert_eq!(as_before["confidence_min"], 30);
        assert!(as_before.get("fades_at").is_none() && as_before.get("half_life_days").is_none(), "{as_before}");
        let pattern = "[ipv4-addr:value = '203.0.113.9']".to_owned();
        let fading = Trust::of(None, Some(30)).unwrap();
        let old = shown(&Indicator { confidence: Some(80), trust: fading, pattern, ..kept });
        assert_eq!((&old["effective_confidence"], &old["use"]["state"]), (&json!(20), &json!("not-used")));
        assert!(old["use"]["why"].as_str().unwrap().contains("20 at its age, under 30"), "{old}");
    }

    fn indicator(id: &str, feed: &str) -> Indicator {
        serde_json::from_value(json!({
            "id": id, "name": "n", "types": [], "pattern": "p", "confidence": null, "valid_from": "2020-01-01T00:00:00Z",
            "valid_until": null, "revoked": false, "tlp": null, "source": null, "feed": feed,
            "modified": "2020-01-01T00:00:00Z", "loaded_at": "2020-01-01T00:00:00Z", "used": { "state": "matched" },
            "sightings_count": 0, "seen_ms": null,
        }))
        .unwrap()
    }

    #[test]
    fn pages_leave_none_out_and_show_none_twice_also_where_two_owners_have_one_id() {
        let all: Vec<Indicator> = ["a", "b", "b", "c", "d", "d", "e"].iter().map(|id| indicator(id, "f")).collect();
        for limit in 1..=8 {
            let (mut seen, mut cursor) = (Vec::new(), None);
            loop {
                let (shown, next) = page(all.iter(), &Paging { cursor, limit: Some(limit) });
                assert!(!shown.is_empty() && shown.len() <= limit + 1);
                seen.extend(shown.into_iter().map(|one| one.id.clone()));
                let Some(next) = next else { break };
                cursor = Some(next);
            }
            assert_eq!(seen, ["a", "b", "b", "c", "d", "d", "e"], "{limit}");
        }
        assert!(page([].iter(), &Paging { cursor: None, limit: None }).0.is_empty());
    }
}
