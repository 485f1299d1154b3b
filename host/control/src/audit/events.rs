//! Events of a tenant's own application, in the same log as what the host did: who and when are the host's word.
//!
//! Must never let an application write what could be taken for the host's own: its code stands in the details of one code
//! of ours, and what looks like one of ours is refused.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use ringfence_audit::application::{ApplicationError, ApplicationEvent};
use ringfence_audit::envelope::hex;
use ringfence_audit::tree::leaf_hash;
use ringfence_audit::{Event, Outcome, codes};
use ringfence_core::Action as _;
use ringfence_core::proof::act;
use serde::Deserialize;
use serde_json::json;

use crate::Control;
use crate::call::Call;
use crate::extract::{Asked, JsonBody};
use crate::problem::ApiError;
use crate::wire::{EventRecorded, NewEvent, Problem};

/// LIMIT: largest event, in bytes.
const EVENT_BYTES_MAX: usize = 64 << 10;

/// What to wait for.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Wait {
    /// `published` for a proof with the answer.
    wait: Option<String>,
}

/// Records an event; durable before the answer. What it says of a person, its `subject`, is sealed under that person's key
/// and goes when the person is erased.
#[utoipa::path(post, path = "/audit/log-event", tag = "audit", request_body = NewEvent, params(Wait),
    responses((status = 201, body = EventRecorded), (status = "default", body = Problem)))]
pub async fn record(
    State(control): State<Control>,
    call: Call,
    Asked(wait): Asked<Wait>,
    JsonBody(mut new): JsonBody<NewEvent>,
) -> Result<(StatusCode, Json<EventRecorded>), ApiError> {
    let (log, permit) = control.own_log::<act::RecordEvent>(&call).await?;
    let subject = new.subject.take();
    let (new, ledger) = (read(new)?, call.principal.tenant().and_then(|tenant| control.parts.quotas.of(tenant)));
    if let Some(ledger) = ledger {
        ledger.audit_event()?;
    }
    let published = match wait.wait.as_deref() {
        None => false,
        Some("published") => true,
        Some(other) => return Err(ApiError::new("bad-word", format!("`{other}` is nothing to wait for"))),
    };
    let resource = new.resource(&permit.resource().to_string());
    let name = act::RecordEvent::NAME;
    let mut event = Event::new(codes::APPLICATION_EVENT, name, call.principal.id().clone(), resource);
    call.sign(&mut event);
    event.decision = Some(permit.decision().clone());
    event.details = match subject {
        None => new.details(),
        Some(subject) => {
            let said = new.details();
            let part = json!({ "message": said.get("message"), "data": said.get("data") });
            let (subject, sealed) = control.seal_personal(&log, &subject, &part).await?;
            json!({ "code": said.get("code"), "subject": subject, "sealed": sealed })
        }
    };
    let audit = &control.parts.audit;
    let receipt = audit.record_outcome(&log, event, Outcome::Success).await?;
    let entry = audit.list(&log, receipt.seq, 1).await?.into_iter().next();
    let leaf = entry.map(|entry| hex(&leaf_hash(entry.envelope.as_bytes()))).unwrap_or_default();
    let proof = if published { audit.proof(&log, receipt.seq).await? } else { None };
    let proof = proof.map(|proof| proof.to_string());
    Ok((StatusCode::CREATED, Json(EventRecorded { log: receipt.log, seq: receipt.seq, leaf_hash: leaf, proof })))
}

fn read(new: NewEvent) -> Result<ApplicationEvent, ApiError> {
    if let Some(class) = new.class_uid.filter(|class| *class != codes::class::API_ACTIVITY) {
        return Err(ApiError::new("reserved-event", format!("class {class} is the host's to use")));
    }
    let NewEvent { code, message, resource, data, .. } = new;
    ApplicationEvent::read(&code, &message, resource.as_deref(), data, EVENT_BYTES_MAX).map_err(|error| match error {
        ApplicationError::Reserved(_) => ApiError::new("reserved-event", error.to_string()),
        ApplicationError::Invalid(_) => ApiError::new("bad-event", error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: &str, class_uid: Option<u32>, bytes: usize) -> Option<&'static str> {
        let (message, data) = ("m".to_owned(), json!("d".repeat(bytes)));
        let new = NewEvent { code: code.to_owned(), message, resource: None, class_uid, data, subject: None };
        read(new).err().map(|error| error.code)
    }

    #[test]
    fn classes_and_codes_of_the_host_are_refused() {
        assert_eq!(refused("TEN-001", None, 0), Some("reserved-event"));
        assert_eq!(refused("order-placed", Some(3002), 0), Some("reserved-event"));
        assert_eq!(refused("order-placed", Some(6003), 0), None);
        assert_eq!(refused("a b", None, 0), Some("bad-event"));
        assert_eq!(refused("order-placed", None, 70_000), Some("bad-event"));
    }
}
