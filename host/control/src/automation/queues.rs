//! Queues of a tenant: making them, putting messages in, and what became of the ones that failed. The host's own queue
//! `_hooks`, with what extension points tell plugins, is one of them, except that nobody puts messages in.

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use ringfence_audit::{Log, codes};
use ringfence_automation::AutomationError;
use ringfence_automation::queue::{DeadLetter, Letters, QueueSpec, QueueState};
use ringfence_capabilities::{Letter, Trail};
use ringfence_core::proof::act;
use ringfence_core::{PluginName, QueueName, ResourceName};
use ringfence_engine::Export;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Control;
use crate::call::{Call, Reached};
use crate::extract::{Asked, JsonBody, Paging};
use crate::problem::ApiError;
use crate::wire::{
    DeadLetterView, Discard, Discarded, NewMessage, Page, Problem, QueueView, Redrive, Redriven, SentMessage, SetQueue,
};

/// What to look for among dead messages.
#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Looking {
    /// Those whose error, group, sender, extension point, plugin or payload contains this.
    pub text: Option<String>,
}

/// Lists the tenant's queues.
#[utoipa::path(get, path = "/tenants/{tenant}/queues", tag = "automation",
    responses((status = 200, body = Page<QueueView>), (status = "default", body = Problem)))]
pub async fn list(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<Page<QueueView>>, ApiError> {
    let reached = control.reach_tenant::<act::ReadAutomation>(&call, &tenant).await?;
    let queues = control.parts.automation.queues(&reached.store).await?;
    Ok(Json(Page { items: queues.into_iter().map(view).collect(), cursor: None }))
}

/// Reads one queue.
#[utoipa::path(get, path = "/tenants/{tenant}/queues/{name}", tag = "automation",
    responses((status = 200, body = QueueView), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path((tenant, name)): Path<(String, String)>,
) -> Result<Json<QueueView>, ApiError> {
    let reached = control.reach_tenant::<act::ReadAutomation>(&call, &tenant).await?;
    Ok(Json(view(control.parts.automation.queue(&reached.store, &name.parse()?).await?)))
}

/// Makes a queue, or changes one; what is in it stays.
#[utoipa::path(put, path = "/tenants/{tenant}/queues/{name}", tag = "automation", request_body = SetQueue,
    responses((status = 200, body = QueueView), (status = "default", body = Problem)))]
pub async fn write(
    State(control): State<Control>,
    call: Call,
    Path((tenant, name)): Path<(String, String)>,
    JsonBody(body): JsonBody<SetQueue>,
) -> Result<Json<QueueView>, ApiError> {
    let reached = control.reach_tenant::<act::WriteAutomation>(&call, &tenant).await?;
    let name: QueueName = name.parse()?;
    let plugin: Option<PluginName> = body.plugin.as_deref().map(str::parse).transpose()?;
    let automation = &control.parts.automation;
    // A plugin that it had before is not asked about, so that a queue can be paused whatever its plugin has become.
    let before = automation.queue(&reached.store, &name).await.ok().and_then(|state| state.record.spec.plugin);
    if let Some(plugin) = plugin.as_ref().filter(|plugin| before.as_ref() != Some(*plugin)) {
        automation.check_handler(&reached.tenant, plugin, Export::Message).await?;
    }
    let spec = QueueSpec { plugin, rules: body.rules(), paused: body.paused };
    let log = Log::Tenant(reached.store.clone());
    let details = json!({ "queue": name.as_str(), "settings": spec });
    let (tenant, store) = (reached.tenant, reached.store);
    let state = control
        .bracket(&call, &log, reached.permit, codes::QUEUE_WRITTEN, details, async |permit| {
            Ok(automation.set_queue(&tenant, &store, name.as_str(), spec, permit.principal()).await?)
        })
        .await?;
    Ok(Json(view(state)))
}

/// Deletes a queue with every message in it, dead ones too.
#[utoipa::path(delete, path = "/tenants/{tenant}/queues/{name}", tag = "automation",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn delete(
    State(control): State<Control>,
    call: Call,
    Path((tenant, name)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let reached = control.reach_tenant::<act::WriteAutomation>(&call, &tenant).await?;
    let name: QueueName = name.parse()?;
    let log = Log::Tenant(reached.store.clone());
    let details = json!({ "queue": name.as_str(), "deleted": true });
    let store = reached.store;
    control
        .bracket(&call, &log, reached.permit, codes::QUEUE_WRITTEN, details, async |_permit| {
            Ok(control.parts.automation.delete_queue(&store, &name).await?)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Puts a message into a queue; answered when it is durable.
#[utoipa::path(post, path = "/tenants/{tenant}/queues/{name}/messages", tag = "automation", request_body = NewMessage,
    responses((status = 202, body = SentMessage), (status = "default", body = Problem)))]
pub async fn send(
    State(control): State<Control>,
    call: Call,
    Path((tenant, name)): Path<(String, String)>,
    JsonBody(body): JsonBody<NewMessage>,
) -> Result<(StatusCode, Json<SentMessage>), ApiError> {
    let reached = control.reach_tenant::<act::SendMessage>(&call, &tenant).await?;
    let queue: ResourceName = name.parse()?;
    let log = Log::Tenant(reached.store.clone());
    let details = json!({ "queue": queue.as_str() });
    let store = reached.store;
    let letter = Letter {
        queue,
        payload: serde_json::to_vec(&body.payload).unwrap_or_default(),
        idempotency_key: body.idempotency_key,
        delay_ms: body.delay_ms,
        priority: body.priority,
        group: body.group,
        trail: Trail::of_trace(call.traceparent.clone()),
    };
    let sent = control
        .bracket(&call, &log, reached.permit, codes::MESSAGE_SENT, details, async |permit| {
            Ok(control.parts.automation.send(&store, permit.principal().as_str(), letter).await?)
        })
        .await?;
    Ok((StatusCode::ACCEPTED, Json(SentMessage { id: sent.id, is_repeat: sent.is_repeat })))
}

/// Lists dead messages, newest first.
#[utoipa::path(get, path = "/tenants/{tenant}/queues/{name}/dead", tag = "automation", params(Paging, Looking),
    responses((status = 200, body = Page<DeadLetterView>), (status = "default", body = Problem)))]
pub async fn dead(
    State(control): State<Control>,
    call: Call,
    Path((tenant, name)): Path<(String, String)>,
    Asked(paging): Asked<Paging>,
    Asked(looking): Asked<Looking>,
) -> Result<Json<Page<DeadLetterView>>, ApiError> {
    let Reached { store, permit, .. } = control.reach_tenant::<act::ReadAutomation>(&call, &tenant).await?;
    let name: QueueName = name.parse()?;
    let before = paging.cursor.as_deref().map(str::parse).transpose();
    let before = before.map_err(|_| ApiError::new("bad-cursor", "the cursor is not one of ours"))?;
    let (text, limit) = (looking.text.as_deref(), paging.limit());
    let automation = &control.parts.automation;
    let what = json!({ "view": "dead-letters", "of": format!("queue/{name}"), "limit": limit });
    control.reading(&call, &Log::Tenant(store.clone()), permit, what).await?;
    let (letters, next) = automation.dead_letters(&store, &name, text, before.as_ref(), limit).await?;
    let items = letters.into_iter().map(dead_view).collect();
    Ok(Json(Page { items, cursor: next.map(|token| token.to_string()) }))
}

/// Puts dead messages back, with all their attempts before them: those that are named or contain a text, or all.
#[utoipa::path(post, path = "/tenants/{tenant}/queues/{name}/dead/redrive", tag = "automation", request_body = Redrive,
    responses((status = 200, body = Redriven), (status = "default", body = Problem)))]
pub async fn redrive(
    State(control): State<Control>,
    call: Call,
    Path((tenant, name)): Path<(String, String)>,
    JsonBody(body): JsonBody<Redrive>,
) -> Result<Json<Redriven>, ApiError> {
    let reached = control.reach_tenant::<act::WriteAutomation>(&call, &tenant).await?;
    let name: QueueName = name.parse()?;
    let is_all = body.ids.is_empty() && body.text.is_none();
    let meant = letters(&body.ids, body.text.as_deref(), is_all)?;
    let log = Log::Tenant(reached.store.clone());
    let details = json!({ "queue": name.as_str(), "ids": body.ids, "by_text": body.text.is_some() });
    let store = reached.store;
    let count = control
        .bracket(&call, &log, reached.permit, codes::QUEUE_REDRIVEN, details, async |_permit| {
            Ok(control.parts.automation.redrive(&store, &name, meant).await?)
        })
        .await?;
    Ok(Json(Redriven { count }))
}

/// Throws dead messages away: those that are named or contain a text, or all when the body says so.
#[utoipa::path(post, path = "/tenants/{tenant}/queues/{name}/dead/discard", tag = "automation", request_body = Discard,
    responses((status = 200, body = Discarded), (status = "default", body = Problem)))]
pub async fn discard(
    State(control): State<Control>,
    call: Call,
    Path((tenant, name)): Path<(String, String)>,
    JsonBody(body): JsonBody<Discard>,
) -> Result<Json<Discarded>, ApiError> {
    let reached = control.reach_tenant::<act::WriteAutomation>(&call, &tenant).await?;
    let name: QueueName = name.parse()?;
    let meant = letters(&body.ids, body.text.as_deref(), body.all)?;
    let log = Log::Tenant(reached.store.clone());
    let details = json!({ "queue": name.as_str(), "ids": body.ids, "by_text": body.text.is_some() });
    let store = reached.store;
    let count = control
        .bracket(&call, &log, reached.permit, codes::QUEUE_DISCARDED, details, async |_permit| {
            Ok(control.parts.automation.discard(&store, &name, meant).await?)
        })
        .await?;
    Ok(Json(Discarded { count }))
}

/// Which dead messages a body means: it says so in one way.
fn letters<'a>(ids: &'a [String], text: Option<&'a str>, is_all: bool) -> Result<Letters<'a>, AutomationError> {
    match (ids, text, is_all) {
        ([], None, true) => Ok(Letters::All),
        ([], Some(text), false) if !text.is_empty() => Ok(Letters::Containing(text)),
        ([_, ..], None, false) => Ok(Letters::Named(ids)),
        _ => {
            let why = "name messages in `ids`, or give a `text` that they contain, or say `all`";
            Err(AutomationError::BadQueue(why.to_owned()))
        }
    }
}

fn view(state: QueueState) -> QueueView {
    let spec = state.record.spec;
    QueueView {
        name: state.record.name,
        plugin: spec.plugin.map(|plugin| plugin.to_string()),
        rules: spec.rules,
        paused: spec.paused,
        depth_count: state.depth_count,
        running_count: state.running_count,
        created_at: state.record.created_at.to_string(),
        created_by: state.record.created_by.to_string(),
    }
}

fn dead_view(letter: DeadLetter) -> DeadLetterView {
    let text = || Value::String(String::from_utf8_lossy(&letter.payload).into_owned());
    DeadLetterView {
        payload: serde_json::from_slice(&letter.payload).unwrap_or_else(|_| text()),
        id: letter.id,
        from: letter.from,
        sent_at: letter.sent_at.to_string(),
        died_at: letter.died_at.map(|at| at.to_string()),
        failed_count: letter.failed_count,
        plugin: letter.hook.as_ref().map(|target| target.plugin.to_string()),
        hook: letter.hook.map(|target| target.hook),
        group: letter.group,
        last_error: letter.last_error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_letters_are_meant_is_said_in_one_way_and_a_text_that_all_contain_is_none() {
        let named = vec!["work/1".to_owned()];
        let (ids, none): (&[String], &[String]) = (&named, &[]);
        assert_eq!(letters(none, None, true).unwrap(), Letters::All);
        assert_eq!(letters(none, Some("x"), false).unwrap(), Letters::Containing("x"));
        assert_eq!(letters(ids, None, false).unwrap(), Letters::Named(ids));
        for (ids, text, is_all) in [
            (none, None, false),
            (none, Some(""), false),
            (none, Some("x"), true),
            (ids, Some("x"), false),
            (ids, None, true),
        ] {
            assert!(letters(ids, text, is_all).is_err(), "{ids:?} {text:?} {is_all}");
        }
    }
}
