//! Events of a tenant's own application, in the same log as what the host did: who and when are the host's word.
//!
//! Must never let an application write what could be taken for the host's own: its code stands in the details of one code
//! of ours, and what looks like one of ours is refused.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
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

/// LIMIT: longest code of an application, in bytes.
const CODE_BYTES_MAX: usize = 64;
/// LIMIT: longest message, in bytes.
const MESSAGE_BYTES_MAX: usize = 4 << 10;
/// LIMIT: longest resource in the application's words, in bytes.
const RESOURCE_BYTES_MAX: usize = 256;
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
    JsonBody(new): JsonBody<NewEvent>,
) -> Result<(StatusCode, Json<EventRecorded>), ApiError> {
    let (log, permit) = control.own_log::<act::RecordEvent>(&call).await?;
    check(&new)?;
    let published = match wait.wait.as_deref() {
        None => false,
        Some("published") => true,
        Some(other) => return Err(ApiError::new("bad-word", format!("`{other}` is nothing to wait for"))),
    };
    let base = permit.resource().to_string();
    let resource = new.resource.map_or(base.clone(), |resource| format!("{base}/application/{resource}"));
    let name = act::RecordEvent::NAME;
    let mut event = Event::new(codes::APPLICATION_EVENT, name, call.principal.id().clone(), resource);
    event.request = Some(call.request.clone());
    event.decision = Some(permit.decision().clone());
    event.source_ip = call.peer;
    event.details = match new.subject {
        None => json!({ "code": new.code, "message": new.message, "data": new.data }),
        Some(subject) => {
            let part = json!({ "message": new.message, "data": new.data });
            let (subject, sealed) = control.seal_personal(&log, &subject, &part).await?;
            json!({ "code": new.code, "subject": subject, "sealed": sealed })
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

fn check(new: &NewEvent) -> Result<(), ApiError> {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let bad = |text: String| Err(ApiError::new("bad-event", text));
    if new.code.is_empty() || new.code.len() > CODE_BYTES_MAX || !new.code.chars().all(word) {
        return bad(format!("`code` is letters, digits, `.`, `_` and `-`, at most {CODE_BYTES_MAX}"));
    }
    let area = new.code.split_once('-').map_or("", |(area, _)| area).to_ascii_uppercase();
    if codes::AREAS.contains(&area.as_str()) {
        return Err(ApiError::new("reserved-event", format!("`{}` looks like a code of the host", new.code)));
    }
    if let Some(class) = new.class_uid.filter(|class| *class != codes::class::API_ACTIVITY) {
        return Err(ApiError::new("reserved-event", format!("class {class} is the host's to use")));
    }
    if new.message.len() > MESSAGE_BYTES_MAX {
        return bad(format!("`message` is over {MESSAGE_BYTES_MAX} bytes"));
    }
    if new.resource.as_ref().is_some_and(|resource| resource.len() > RESOURCE_BYTES_MAX) {
        return bad(format!("`resource` is over {RESOURCE_BYTES_MAX} bytes"));
    }
    if new.data.to_string().len() > EVENT_BYTES_MAX {
        return bad(format!("`data` is over {EVENT_BYTES_MAX} bytes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(code: &str, class_uid: Option<u32>) -> NewEvent {
        let (message, data) = ("m".to_owned(), json!({}));
        NewEvent { code: code.to_owned(), message, resource: None, class_uid, data, subject: None }
    }

    #[test]
    fn what_looks_like_the_hosts_own_is_refused() {
        for code in ["TEN-001", "ten-900", "AUD-9", "Pol-1.x"] {
            assert_eq!(check(&event(code, None)).unwrap_err().code, "reserved-event", "{code}");
        }
        assert_eq!(check(&event("order-placed", Some(3002))).unwrap_err().code, "reserved-event");
        for code in ["order-placed", "ORDER-1", "tender.opened", "TENDER-1"] {
            assert!(check(&event(code, Some(6003))).is_ok(), "{code}");
        }
    }

    #[test]
    fn what_is_too_long_or_breaks_a_line_is_refused() {
        for code in ["", "a b", "a\nb", "ü", &"a".repeat(65)] {
            assert_eq!(check(&event(code, None)).unwrap_err().code, "bad-event", "{code}");
        }
        assert!(check(&NewEvent { message: "m".repeat(5_000), ..event("a", None) }).is_err());
        assert!(check(&NewEvent { data: json!("d".repeat(70_000)), ..event("a", None) }).is_err());
    }
}
