//! Rules and settings of detection.
//!
//! Must never let an owner change rules that are not its own, nor keep a text that cannot be followed whole, nor let what sees
//! or does less than before go by unsaid: one person may decide it, and the entry says so, which a shipped rule looks for.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use ringfence_audit::codes;
use ringfence_core::proof::act;
use ringfence_core::{LossRules, ResourceName};
use ringfence_threat::risk::WorkingHours;
use ringfence_threat::settings::SourceBlocks;
use ringfence_threat::{Edition, RuleText, Settings};
use serde_json::json;

use crate::Control;
use crate::call::Call;
use crate::extract::JsonBody;
use crate::host::word;
use crate::problem::ApiError;
use crate::wire::{
    Page, Problem, PutThreatRules, ThreatRules, ThreatRulesVersion, ThreatSettings, TriedThreatRules, TryThreatRules,
};

/// LIMIT: how long a turn to try rules is waited for.
const TURN_TIME_MAX: Duration = Duration::from_secs(10);

/// Lists the rules that apply: those that come with the host, the operators', and one's own.
#[utoipa::path(get, path = "/security/rules", tag = "security",
    responses((status = 200, body = Page<ThreatRules>), (status = "default", body = Problem)))]
pub async fn list(State(control): State<Control>, call: Call) -> Result<Json<Page<ThreatRules>>, ApiError> {
    let owner = control.owner::<act::ReadThreat>(&call).await?;
    let items = control.parts.threat.rules(&owner.scope).into_iter().map(view).collect();
    Ok(Json(Page { items, cursor: None }))
}

/// Lists the texts that are kept of a name of one's own, newest first, those of a deleted one too: what a finding names by
/// version and digest.
#[utoipa::path(get, path = "/security/rules/{name}/versions", tag = "security",
    responses((status = 200, body = Page<ThreatRulesVersion>), (status = "default", body = Problem)))]
pub async fn versions(
    State(control): State<Control>,
    call: Call,
    Path(name): Path<String>,
) -> Result<Json<Page<ThreatRulesVersion>>, ApiError> {
    let owner = control.owner::<act::ReadThreat>(&call).await?;
    let written = control.parts.threat.rules_written(&owner.scope, &name).await?;
    let view = |(written, text): (ringfence_threat::Written, String)| ThreatRulesVersion {
        version: written.edition.version,
        digest: written.edition.digest.to_string(),
        by: written.by.to_string(),
        at: written.at.to_string(),
        text,
    };
    Ok(Json(Page { items: written.into_iter().map(view).collect(), cursor: None }))
}

/// Writes a text of rules; in force for the next event. With `If-Match`, only when nobody changed it since.
#[utoipa::path(put, path = "/security/rules/{name}", tag = "security", request_body = PutThreatRules,
    responses((status = 200, body = ThreatRules), (status = "default", body = Problem)))]
pub async fn put(
    State(control): State<Control>,
    call: Call,
    Path(name): Path<String>,
    headers: HeaderMap,
    JsonBody(asked): JsonBody<PutThreatRules>,
) -> Result<Response, ApiError> {
    let owner = control.owner::<act::WriteThreat>(&call).await?;
    let name: ResourceName = name.parse()?;
    let (by, threat, scope) = (call.principal.id(), &control.parts.threat, owner.scope);
    let base = threat.rules_version(&scope, name.as_str());
    let wanted = headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok());
    if wanted.is_some_and(|wanted| wanted != "*" && wanted != etag(base)) {
        return Err(ApiError::new("precondition-failed", "these rules were changed since you read them"));
    }
    let edition = Edition::of(base.saturating_add(1), &asked.text);
    let replaced = threat.edition(&scope, name.as_str()).filter(|before| before.digest != edition.digest);
    // Whether another text sees less, nobody but a reader can tell.
    let details = json!({
        "rules": name.as_str(), "bytes": asked.text.len(), "version": edition.version, "digest": edition.digest,
        "replaced": replaced, "weakened_by_one": replaced.is_some(),
    });
    let written = control
        .bracket(&call, &owner.log, owner.permit, codes::RULES_WRITTEN, details, async |_permit| {
            Ok(threat.put_rules(&scope, by, name.as_str(), &asked.text, base).await?)
        })
        .await?;
    let tag = [(header::ETAG, etag(written.pack.edition.version))];
    Ok((tag, Json(view(written))).into_response())
}

/// Deletes a text of one's own rules.
#[utoipa::path(delete, path = "/security/rules/{name}", tag = "security",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn delete(
    State(control): State<Control>,
    call: Call,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let owner = control.owner::<act::WriteThreat>(&call).await?;
    let name: ResourceName = name.parse()?;
    let (scope, threat) = (owner.scope, &control.parts.threat);
    let details = json!({ "rules": name.as_str(), "deleted": threat.edition(&scope, name.as_str()) });
    control
        .bracket(&call, &owner.log, owner.permit, codes::RULES_DELETED, details, async |_permit| {
            Ok(threat.delete_rules(&scope, name.as_str()).await?)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Tries a text on a trace of entries, without keeping anything.
#[utoipa::path(post, path = "/security/rules/try", tag = "security", request_body = TryThreatRules,
    responses((status = 200, body = TriedThreatRules), (status = "default", body = Problem)))]
pub async fn try_out(
    State(control): State<Control>,
    call: Call,
    JsonBody(asked): JsonBody<TryThreatRules>,
) -> Result<Json<TriedThreatRules>, ApiError> {
    let owner = control.owner::<act::ReadThreat>(&call).await?;
    let threat = control.parts.threat.clone();
    let work = move || threat.try_rules(&asked.text, asked.trace);
    let tried = control.trying.work(owner.scope.log(), TURN_TIME_MAX, work).await?;
    let tried = tried.ok_or_else(|| ApiError::new("overloaded", "other rules are being tried; try again"))?;
    Ok(Json(TriedThreatRules { held: tried? }))
}

/// Reads how detection acts.
#[utoipa::path(get, path = "/security/settings", tag = "security",
    responses((status = 200, body = ThreatSettings), (status = "default", body = Problem)))]
pub async fn settings(State(control): State<Control>, call: Call) -> Result<Json<ThreatSettings>, ApiError> {
    let owner = control.owner::<act::ReadThreat>(&call).await?;
    Ok(Json(settings_view(&control.parts.threat.settings(&owner.scope))))
}

/// Decides how detection acts; in force for the next event.
#[utoipa::path(put, path = "/security/settings", tag = "security", request_body = ThreatSettings,
    responses((status = 200, body = ThreatSettings), (status = "default", body = Problem)))]
pub async fn put_settings(
    State(control): State<Control>,
    call: Call,
    JsonBody(asked): JsonBody<ThreatSettings>,
) -> Result<Json<ThreatSettings>, ApiError> {
    let owner = control.owner::<act::WriteThreat>(&call).await?;
    let settings = settings_of(asked)?;
    let scope = owner.scope;
    let weakened = control.parts.threat.settings(&scope).weakened(&settings);
    let details = json!({
        "settings": settings_view(&settings), "weakened": weakened, "weakened_by_one": !weakened.is_empty(),
    });
    control
        .bracket(&call, &owner.log, owner.permit, codes::RULES_WRITTEN, details, async |_permit| {
            Ok(control.parts.threat.put_settings(&scope, settings).await?)
        })
        .await?;
    Ok(Json(settings_view(&control.parts.threat.settings(&scope))))
}

fn settings_of(asked: ThreatSettings) -> Result<Settings, ApiError> {
    let bad = |what: &str| ApiError::new("bad-threat-settings", what.to_owned());
    let block_source = match asked.block_source.as_deref() {
        None | Some("refused") => SourceBlocks::Refused,
        Some("allowed") => SourceBlocks::Allowed,
        Some(_) => return Err(bad("`block_source` is `refused` or `allowed`")),
    };
    let working_hours: Option<WorkingHours> = asked
        .working_hours
        .map(|hours| serde_json::from_value(hours).map_err(|error| bad(&format!("`working_hours`: {error}"))))
        .transpose()?;
    let data_loss: LossRules = asked
        .data_loss
        .map(|rules| serde_json::from_value(rules).map_err(|error| bad(&format!("`data_loss`: {error}"))))
        .transpose()?
        .unwrap_or_default();
    Ok(Settings {
        automatic: asked.automatic,
        block_source,
        canaries: asked.canaries.iter().map(|name| name.parse()).collect::<Result<_, _>>()?,
        working_hours,
        data_loss,
    })
}

fn settings_view(settings: &Settings) -> ThreatSettings {
    ThreatSettings {
        automatic: settings.automatic.clone(),
        block_source: Some(word(&settings.block_source)),
        canaries: settings.canaries.iter().map(ToString::to_string).collect(),
        working_hours: settings.working_hours.as_ref().and_then(|hours| serde_json::to_value(hours).ok()),
        data_loss: serde_json::to_value(&settings.data_loss).ok(),
    }
}

fn etag(version: u64) -> String {
    format!("\"{version}\"")
}

fn view(text: RuleText) -> ThreatRules {
    let first = text.pack.rules.first();
    ThreatRules {
        owner: text.owner,
        name: text.name,
        version: text.pack.edition.version,
        digest: text.pack.edition.digest.to_string(),
        titles: text.pack.rules.iter().map(|rule| rule.title.clone()).collect(),
        level: first.map(|rule| word(&rule.level)).unwrap_or_default(),
        attack: text.pack.rules.iter().flat_map(|rule| rule.attack.clone()).collect(),
        response: first.and_then(|rule| rule.response).map(|response| response.kind.word().to_owned()),
        text: text.text,
    }
}
