//! Incidents: opened and stepped on, listed, and drafts of the notices that people send.
//!
//! Must never send a notice, nor let a step or an action of one happen that the log has no intent for: each action has an
//! intent and an outcome of its own beside the step's, as it has when it is asked for without an incident.

use axum::Json;
use axum::extract::{Path, State};
use jiff::Timestamp;
use ringfence_audit::codes;
use ringfence_core::proof::act;
use ringfence_threat::incident::{PersonalData, Saying, Transition};
use ringfence_threat::sigma::Level;
use ringfence_threat::{Asked, Response, Scope, Stepped};
use serde::Serialize;
use serde_json::{Value, json};

use crate::Control;
use crate::call::Call;
use crate::extract::JsonBody;
use crate::host::word;
use crate::problem::ApiError;
use crate::threat::{STEP_HELP, responses};
use crate::wire::{IncidentStep, IncidentStepped, Page, Problem};

/// Lists incidents, newest first.
#[utoipa::path(get, path = "/security/incidents", tag = "security",
    responses((status = 200, body = Value), (status = "default", body = Problem)))]
pub async fn list(State(control): State<Control>, call: Call) -> Result<Json<Page<Value>>, ApiError> {
    let owner = control.owner::<act::ReadThreat>(&call).await?;
    let all = control.parts.threat.incidents(&owner.scope).await?;
    let items = all.iter().filter_map(|incident| serde_json::to_value(incident).ok()).collect();
    Ok(Json(Page { items, cursor: None }))
}

/// Reads an incident with everything that was done, how long it took, and drafts of the notices that are due. Nobody but a
/// person sends them.
#[utoipa::path(get, path = "/security/incidents/{id}", tag = "security",
    responses((status = 200, body = Value), (status = "default", body = Problem)))]
pub async fn read(State(control): State<Control>, call: Call, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let owner = control.owner::<act::ReadThreat>(&call).await?;
    let incident = control.parts.threat.incident(&owner.scope, &id).await?;
    Ok(Json(json!({ "incident": incident, "times": incident.times(), "drafts": incident.drafts() })))
}

/// Opens an incident, or takes a step of one, with the responses that belong to it.
#[utoipa::path(post, path = "/security/incident-response", tag = "security", request_body = IncidentStep,
    responses((status = 200, body = IncidentStepped), (status = "default", body = Problem)))]
pub async fn step(
    State(control): State<Control>,
    call: Call,
    JsonBody(asked): JsonBody<IncidentStep>,
) -> Result<Json<IncidentStepped>, ApiError> {
    let owner = control.owner::<act::RespondThreat>(&call).await?;
    let id = asked.incident_id.clone();
    let details = json!({ "incident": id, "transition": asked.transition, "actions": asked.actions.len() });
    let actions = asked.actions.iter().cloned().map(responses::asked_for).collect::<Result<Vec<_>, _>>()?;
    let saying = saying(asked)?;
    let (by, scope) = (call.principal.id(), owner.scope);
    // Before the intent: a step that does not come to its turn was not begun.
    let turn = control.parts.threat.turn(&scope).await?;
    let mut stepped = control
        .bracket(&call, &owner.log, owner.permit, codes::INCIDENT_CHANGED, details, async |_permit| {
            Ok(control.parts.threat.step(turn, by, id.as_deref(), &saying, actions, &control.are_two()).await?)
        })
        .await?;
    let (made, failed) = control.take_actions(&call, &scope, &mut stepped).await;
    let (now, role) = (control.parts.clock.now(), call.principal.role());
    let view = |response: Response| responses::view(response.as_seen_by(role), None, now);
    let waiting = control.parts.threat.waiting_for(&scope, &stepped.incident);
    Ok(Json(IncidentStepped {
        state: word(&stepped.incident.state),
        effects: made.into_iter().map(view).collect(),
        failed,
        clocks: serde_json::to_value(&stepped.incident.clocks).unwrap_or_default(),
        waiting: waiting.into_iter().map(view).collect(),
        incident_id: stepped.incident.id,
    }))
}

impl Control {
    /// Takes the actions of a step that is kept. Gives the responses, and why the others could not be taken.
    async fn take_actions(&self, call: &Call, scope: &Scope, stepped: &mut Stepped) -> (Vec<Response>, Vec<String>) {
        let (mut made, mut failed, mut unmade) = (Vec::new(), Vec::new(), Vec::new());
        let incident = stepped.incident.id.clone();
        for (id, asked) in std::mem::take(&mut stepped.to_make) {
            match self.make_of(call, &incident, (id.clone(), asked)).await {
                Ok(response) => made.push(response),
                Err(error) => {
                    failed.push(error.detail);
                    unmade.push(id);
                }
            }
        }
        // Before what is agreed to, which may close the store that the incident is kept in.
        self.parts.threat.unmade(scope, stepped, &unmade).await;
        for id in std::mem::take(&mut stepped.to_approve) {
            match self.agree_of(call, &incident, &id).await {
                Ok(response) => made.push(response),
                Err(error) => failed.push(error.detail),
            }
        }
        (made, failed)
    }

    async fn make_of(&self, call: &Call, incident: &str, action: (String, Asked)) -> Result<Response, ApiError> {
        let owner = self.owner::<act::RespondThreat>(call).await?;
        let (response, _blast) = self.make_response(call, owner, action, Some(incident)).await?;
        Ok(response)
    }

    async fn agree_of(&self, call: &Call, incident: &str, id: &str) -> Result<Response, ApiError> {
        let owner = self.owner::<act::RespondThreat>(call).await?;
        self.agree_to(call, owner, id, Some(incident)).await
    }
}

fn saying(asked: IncidentStep) -> Result<Saying, ApiError> {
    let time = |text: Option<String>| -> Result<Option<Timestamp>, ApiError> {
        let read = |text: String| text.parse().map_err(|_| ApiError::new("bad-step", "a time is not of RFC 3339"));
        text.map(read).transpose()
    };
    Ok(Saying {
        transition: chosen(&asked.transition, "transition", &Transition::ALL)?,
        reason: asked.reason,
        evidence: asked.evidence,
        title: asked.title,
        level: asked.level.map(|text| chosen(&text, "level", &Level::ALL)).transpose()?,
        personal_data: asked
            .personal_data
            .map(|text| chosen(&text, "personal_data", &PersonalData::ALL))
            .transpose()?,
        jurisdictions: asked.jurisdictions,
        aware_at: time(asked.aware_at)?,
        began_at: time(asked.began_at)?,
        facts: asked.facts,
    })
}

/// The one of some words that a text is; the error says which there are.
fn chosen<T: Copy + Serialize>(text: &str, field: &str, all: &[T]) -> Result<T, ApiError> {
    let found = all.iter().copied().find(|one| word(one) == text);
    found.ok_or_else(|| {
        let words: Vec<String> = all.iter().map(|one| format!("`{}`", word(one))).collect();
        ApiError::new("bad-step", format!("`{field}` is one of {}", words.join(", "))).help(STEP_HELP)
    })
}
