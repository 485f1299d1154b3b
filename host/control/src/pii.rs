//! Personal data: the rules about fields of a plugin's bodies, and subjects - whether there is a key, and erasing one.
//!
//! Must never put a subject's name into the audit log, a log line or an answer: there it is its pseudonym.

use axum::Json;
use axum::extract::{Path, State};
use ringfence_audit::{Log, codes};
use ringfence_capabilities::FieldRules;
use ringfence_core::fields::{FieldRule, check_rules};
use ringfence_core::proof::act;
use ringfence_store::{Op, SubjectAbout};
use serde_json::json;

use crate::Control;
use crate::call::Call;
use crate::extract::JsonBody;
use crate::problem::ApiError;
use crate::wire::{ErasureView, FieldRulesBody, Problem, SubjectView};

/// Reads the rules about fields of a plugin.
#[utoipa::path(get, path = "/tenants/{tenant}/plugins/{plugin}/fields", tag = "personal-data",
    responses((status = 200, body = FieldRulesBody), (status = "default", body = Problem)))]
pub async fn rules(
    State(control): State<Control>,
    call: Call,
    Path((tenant, plugin)): Path<(String, String)>,
) -> Result<Json<FieldRulesBody>, ApiError> {
    let (reached, plugin) = control.reach_plugin::<act::ReadPlugin>(&call, &tenant, &plugin).await?;
    let rules = reached.store.get_json(&FieldRules::key(&plugin)).await?.unwrap_or_default();
    Ok(Json(FieldRulesBody { rules }))
}

/// Replaces the rules about fields of a plugin; its next call follows them. Deciding what a plugin sees is deciding what
/// it may, and so it takes the right to grant.
#[utoipa::path(put, path = "/tenants/{tenant}/plugins/{plugin}/fields", tag = "personal-data", request_body = FieldRulesBody,
    responses((status = 200, body = FieldRulesBody), (status = "default", body = Problem)))]
pub async fn set_rules(
    State(control): State<Control>,
    call: Call,
    Path((tenant, plugin)): Path<(String, String)>,
    JsonBody(body): JsonBody<FieldRulesBody>,
) -> Result<Json<FieldRulesBody>, ApiError> {
    let (reached, plugin) = control.reach_plugin::<act::GrantCapability>(&call, &tenant, &plugin).await?;
    check_rules(&body.rules).map_err(|why| ApiError::new("bad-field-rule", why))?;
    let store = reached.store;
    let log = Log::Tenant(store.clone());
    // Without the subjects: a constant one may be someone's name.
    let told: Vec<_> = body
        .rules
        .iter()
        .map(|rule| {
            let FieldRule { methods, path, pointer, field, direction, .. } = rule;
            json!({ "methods": methods, "path": path, "pointer": pointer, "field": field, "direction": direction })
        })
        .collect();
    let details = json!({ "rules": told });
    control
        .bracket(&call, &log, reached.permit, codes::FIELD_RULES_WRITTEN, details, async |_permit| {
            let op = Op::put_json(FieldRules::key(&plugin), &body.rules)?;
            let written = store.batch(vec![op], Vec::new()).await;
            control.parts.fields.changed(&store, &plugin);
            written?;
            Ok(())
        })
        .await?;
    Ok(Json(body))
}

/// What is known of a subject: whether there is a key, and its erasures. Fine for one that was never seen.
#[utoipa::path(get, path = "/tenants/{tenant}/subjects/{subject}", tag = "personal-data",
    responses((status = 200, body = SubjectView), (status = "default", body = Problem)))]
pub async fn subject(
    State(control): State<Control>,
    call: Call,
    Path((tenant, subject)): Path<(String, String)>,
) -> Result<Json<SubjectView>, ApiError> {
    let reached = control.reach_tenant::<act::ReadSubject>(&call, &tenant).await?;
    Ok(Json(view(reached.store.subjects().about(&subject).await?)))
}

/// Destroys a subject's key: nothing that was sealed for it opens again. Again is fine.
#[utoipa::path(post, path = "/tenants/{tenant}/subjects/{subject}/erase", tag = "personal-data",
    responses((status = 200, body = SubjectView), (status = "default", body = Problem)))]
pub async fn erase(
    State(control): State<Control>,
    call: Call,
    Path((tenant, subject)): Path<(String, String)>,
) -> Result<Json<SubjectView>, ApiError> {
    let reached = control.reach_tenant::<act::EraseSubject>(&call, &tenant).await?;
    let (store, subjects) = (reached.store.clone(), reached.store.subjects());
    let before = subjects.about(&subject).await?;
    if before.key.is_none() && before.erasures.is_empty() {
        return Err(ApiError::not_found());
    }
    let log = Log::Tenant(store.clone());
    let details =
        json!({ "subject": before.subject.to_string(), "key_version": before.key.map(|(version, _)| version) });
    let by = call.principal.id().to_string();
    let now = control.parts.clock.now();
    control
        .bracket(&call, &log, reached.permit, codes::SUBJECT_ERASED, details, async |_permit| {
            let _one = control.changing.of(reached.tenant.clone()).await;
            // What the log says of this person would go with the key.
            control.parts.audit.check_not_held(&store).await?;
            // A restore in place looks at what was erased before it writes: the two never overlap.
            if control.parts.archives.is_restoring(&store).await? {
                return Err(ApiError::restore_unfinished());
            }
            subjects.erase(&subject, &by, now).await?;
            Ok(())
        })
        .await?;
    Ok(Json(view(subjects.about(&subject).await?)))
}

fn view(about: SubjectAbout) -> SubjectView {
    let erasures = about.erasures.into_iter().map(|tombstone| ErasureView {
        key_version: tombstone.key_version,
        erased_at: tombstone.erased_at.to_string(),
        erased_by: tombstone.erased_by,
    });
    SubjectView {
        subject: about.subject.to_string(),
        key_version: about.key.map(|(version, _)| version),
        created_at: about.key.map(|(_, at)| at.to_string()),
        tokens_count: about.tokens_count as u64,
        erasures: erasures.collect(),
    }
}
