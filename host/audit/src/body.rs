//! The body of an entry: the full event in the words of OCSF 1.8.
//!
//! Pure. What OCSF has no field for stands under `unmapped`; what only the event's class has, `classes.rs` gives. Must never
//! hold what the event was not given.

use serde_json::{Value, json};

use crate::classes::{self, Of, WORD_BYTES_MAX, activity_name, kind_of};
use crate::envelope::{DESTROYED_BYTES_MAX, DETAILS_BYTES_MAX, cut, fit_details};
use crate::writer::{Draft, Phase};
use crate::{Event, Outcome, codes};

pub(crate) fn status_of(draft: &Draft) -> (&'static str, u8) {
    match (draft.phase, &draft.outcome) {
        (Phase::Intent, _) => ("Intended", 1),
        (Phase::Unknown(_), _) => ("Unknown", 1),
        (_, Outcome::Success) => ("Success", 1),
        (_, Outcome::Failure(_)) => ("Failure", 1),
        (_, Outcome::Denied) => ("Failure", 2),
    }
}

/// The full event as OCSF JSON; what OCSF has no field for is under `unmapped`. Takes the details and members out of the draft.
/// What is made already is put into its place: in `json!` every value would be made a second time.
pub(crate) fn body_of(draft: &mut Draft, seq: u64, now: i64, tenant: &str, stepped: bool) -> Value {
    let (details, of_class) = (draft.event.details.take(), draft.event.members.take());
    let (draft, event) = (&*draft, &draft.event);
    let (status, action_id) = status_of(draft);
    let (class, activity) = (codes::class_of(event.code), codes::activity_of(event.code));
    let bytes_max = if event.code == codes::KEY_DESTROYED { DESTROYED_BYTES_MAX } else { DETAILS_BYTES_MAX };
    let (details, trimmed) = fit_details(details, bytes_max);
    let (of_class, cut_members) = fit_details(of_class, DETAILS_BYTES_MAX);
    let uid = format!("{tenant}/{seq}");
    let made = classes::members(&Of { event, class, uid: &uid, details: &details });
    let mut unmapped = json!({"code": event.code});
    let mut note = |name: &str, value: Value| put(&mut unmapped, name, value);
    note("details", details);
    if trimmed || cut_members {
        note("trimmed", Value::Bool(true));
    }
    if stepped {
        note("clock_stepped", Value::Bool(true));
    }
    if let Phase::Outcome(intent) | Phase::Unknown(intent) = draft.phase {
        note("intent", json!(intent));
    }
    if let (Phase::Single | Phase::Outcome(_), Outcome::Failure(code)) = (draft.phase, &draft.outcome) {
        note("failure", Value::String(cut(code, WORD_BYTES_MAX)));
    }
    if let Some(decision) = &event.decision {
        note("decision", Value::String(decision.to_string()));
    }
    let (status_id, disposition_id) = status_ids(draft, class);
    let mut body = json!({
        "metadata": null,
        "category_uid": class / 1_000,
        "severity_id": severity_of(event.code, &draft.outcome),
        "status_id": status_id,
        "disposition_id": disposition_id,
        "time": now,
        "class_uid": class,
        "activity_id": activity,
        "activity_name": activity_name(class, activity).unwrap_or(event.action),
        "type_uid": u64::from(class) * 100 + u64::from(activity),
        "status": status,
        "action_id": action_id,
        "actor": null,
        "api": {"operation": event.action},
    });
    put(&mut body, "metadata", metadata(event, &uid, seq, tenant));
    put(&mut body, "actor", actor(event));
    put(&mut body, "resources", Value::Array(vec![resource(event)]));
    put(&mut body, "unmapped", unmapped);
    if let Some(ip) = event.source_ip {
        put(&mut body, "src_endpoint", json!({"ip": ip.to_string()}));
    }
    stand_beside(&mut body, of_class);
    stand_beside(&mut body, Value::Object(made));
    body
}

/// Gives an object a member, in place of one of that name.
fn put(object: &mut Value, name: &str, value: Value) {
    if let Some(members) = object.as_object_mut() {
        members.insert(name.to_owned(), value);
    }
}

fn metadata(event: &Event, uid: &str, seq: u64, tenant: &str) -> Value {
    let mut metadata = json!({
        "version": "1.8.0",
        "uid": uid,
        "sequence": seq,
        "tenant_uid": tenant,
        "product": {"name": "Ringfence", "vendor_name": "Ringfence"},
        "profiles": ["security_control"],
        "event_code": event.code.split(' ').next().unwrap_or(event.code),
    });
    if let (Some(request), Some(members)) = (&event.request, metadata.as_object_mut()) {
        members.insert("correlation_uid".to_owned(), Value::String(request.to_string()));
    }
    metadata
}

fn actor(event: &Event) -> Value {
    let mut actor = json!({"user": {"uid": event.actor}});
    if let (Some(session), Some(members)) = (&event.session, actor.as_object_mut()) {
        members.insert("session".to_owned(), json!({"uid": session}));
    }
    actor
}

fn resource(event: &Event) -> Value {
    let mut resource = json!({"uid": cut(&event.resource, WORD_BYTES_MAX)});
    if let (Some(kind), Some(members)) = (kind_of(&event.resource), resource.as_object_mut()) {
        members.insert("type".to_owned(), Value::String(cut(kind, WORD_BYTES_MAX)));
    }
    resource
}

/// How it ended and what was done about it. The status of a finding is how far people are with it, which no entry knows: there
/// the word is our own.
fn status_ids(draft: &Draft, class: u32) -> (u8, u8) {
    let (status_id, disposition_id) = match (draft.phase, &draft.outcome) {
        (Phase::Intent, _) => (99, 0),
        (Phase::Unknown(_), _) => (0, 0),
        (_, Outcome::Success) => (1, 1),
        (_, Outcome::Failure(_)) => (2, 1),
        (_, Outcome::Denied) => (2, 2),
    };
    (if class / 1_000 == 2 { 99 } else { status_id }, disposition_id)
}

/// Adds members of the event's class that are not there yet. What every event has is the host's word, whatever those say.
fn stand_beside(body: &mut Value, of_class: Value) {
    if let (Value::Object(of_class), Some(members)) = (of_class, body.as_object_mut()) {
        for (name, value) in of_class {
            members.entry(name).or_insert(value);
        }
    }
}

/// OCSF severity: 1 informational, 2 low, 3 medium, 4 high.
fn severity_of(code: &str, outcome: &Outcome) -> u8 {
    match (code, outcome) {
        (codes::TENANT_ISOLATION | codes::AUDIT_REPAIRED, _) => 4,
        (codes::KEY_DESTROYED | codes::TENANT_DELETED | codes::ROOT_KEY_ROTATED, _) | (_, Outcome::Denied) => 3,
        (_, Outcome::Failure(_)) => 2,
        (_, Outcome::Success) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_a_class_stand_beside_and_never_in_place_of_the_hosts_own() {
        let mut event =
            Event::new(codes::CHECK_RESULT, "run-check", "ringfence".parse().unwrap(), "tenant/acme/check/x");
        event.members = json!({"compliance": {"status_id": 3}, "time": 1, "actor": {"user": {"uid": "mallory"}}});
        let body = body_of(&mut Draft { event, phase: Phase::Single, outcome: Outcome::Success }, 7, 5, "acme", false);
        assert_eq!((&body["class_uid"], &body["compliance"]["status_id"]), (&json!(2003), &json!(3)));
        assert_eq!((&body["time"], &body["actor"]["user"]["uid"]), (&json!(5), &json!("ringfence")));
        assert_eq!(body["finding_info"]["uid"], "acme/7", "what the event did not bring is made");
    }

    #[test]
    fn who_acted_in_which_session_and_on_what_sort_of_thing_is_said() {
        let mut event =
            Event::new(codes::CONFIG_WRITTEN, "write-config", "acme/ann".parse().unwrap(), "tenant/acme/plugin/x");
        let said = |event: &Event| {
            let mut draft = Draft { event: event.clone(), phase: Phase::Single, outcome: Outcome::Success };
            body_of(&mut draft, 7, 5, "acme", false)
        };
        assert!(said(&event)["actor"].get("session").is_none());
        event.session = Some("s_abcdefghabcdefghabcdefghij".parse().unwrap());
        let body = said(&event);
        assert_eq!(body["actor"]["session"]["uid"], "s_abcdefghabcdefghabcdefghij");
        assert_eq!((&body["resources"][0]["type"], &body["metadata"]["uid"]), (&json!("plugin"), &json!("acme/7")));
    }
}
