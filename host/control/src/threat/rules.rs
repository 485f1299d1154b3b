//! Rules and settings of detection.
//!
//! Must never let an owner change rules that are not its own, nor keep a text that cannot be followed whole.

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use ringfence_audit::codes;
use ringfence_core::ResourceName;
use ringfence_core::proof::act;
use ringfence_threat::risk::WorkingHours;
use ringfence_threat::settings::SourceBlocks;
use ringfence_threat::{RuleText, Settings};
use serde_json::json;

use crate::Control;
use crate::call::Call;
use crate::extract::JsonBody;
use crate::host::word;
use crate::problem::ApiError;
use crate::wire::{Page, Problem, PutThreatRules, ThreatRules, ThreatSettings, TriedThreatRules, TryThreatRules};

/// Lists the rules that apply: those that come with the host, the operators', and one's own.
#[utoipa::path(get, path = "/security/rules", tag = "security",
    responses((status = 200, body = Page<ThreatRules>), (status = "default", body = Problem)))]
pub async fn list(State(control): State<Control>, call: Call) -> Result<Json<Page<ThreatRules>>, ApiError> {
    let owner = control.owner::<act::ReadThreat>(&call).await?;
    let items = control.parts.threat.rules(&owner.scope).into_iter().map(view).collect();
    Ok(Json(Page { items, cursor: None }))
}

/// Writes a text of rules; in force for the next event.
#[utoipa::path(put, path = "/security/rules/{name}", tag = "security", request_body = PutThreatRules,
    responses((status = 200, body = ThreatRules), (status = "default", body = Problem)))]
pub async fn put(
    State(control): State<Control>,
    call: Call,
    Path(name): Path<String>,
    JsonBody(asked): JsonBody<PutThreatRules>,
) -> Result<Json<ThreatRules>, ApiError> {
    let owner = control.owner::<act::WriteThreat>(&call).await?;
    let name: ResourceName = name.parse()?;
    let details = json!({ "rules": name.as_str(), "bytes": asked.text.len() });
    let scope = owner.scope;
    let written = control
        .bracket(&call, &owner.log, owner.permit, codes::RULES_WRITTEN, details, async |_permit| {
            Ok(control.parts.threat.put_rules(&scope, name.as_str(), &asked.text).await?)
        })
        .await?;
    Ok(Json(view(written)))
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
    let scope = owner.scope;
    control
        .bracket(
            &call,
            &owner.log,
            owner.permit,
            codes::RULES_DELETED,
            json!({ "rules": name.as_str() }),
            async |_permit| Ok(control.parts.threat.delete_rules(&scope, name.as_str()).await?),
        )
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
    let _owner = control.owner::<act::ReadThreat>(&call).await?;
    let threat = control.parts.threat.clone();
    let tried = tokio::task::spawn_blocking(move || threat.try_rules(&asked.text, asked.trace)).await;
    Ok(Json(TriedThreatRules { held: tried.map_err(|error| ApiError::host(&error))?? }))
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
    let details = json!({ "automatic": settings.automatic, "block_source": word(&settings.block_source) });
    let scope = owner.scope;
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
    Ok(Settings {
        automatic: asked.automatic,
        block_source,
        canaries: asked.canaries.iter().map(|name| name.parse()).collect::<Result<_, _>>()?,
        working_hours,
    })
}

fn settings_view(settings: &Settings) -> ThreatSettings {
    ThreatSettings {
        automatic: settings.automatic.clone(),
        block_source: Some(word(&settings.block_source)),
        canaries: settings.canaries.iter().map(ToString::to_string).collect(),
        working_hours: settings.working_hours.as_ref().and_then(|hours| serde_json::to_value(hours).ok()),
    }
}

fn view(text: RuleText) -> ThreatRules {
    let first = text.pack.rules.first();
    ThreatRules {
        owner: text.owner,
        name: text.name,
        titles: text.pack.rules.iter().map(|rule| rule.title.clone()).collect(),
        level: first.map(|rule| word(&rule.level)).unwrap_or_default(),
        attack: text.pack.rules.iter().flat_map(|rule| rule.attack.clone()).collect(),
        response: first.and_then(|rule| rule.response).map(|response| response.kind.word().to_owned()),
        text: text.text,
    }
}
