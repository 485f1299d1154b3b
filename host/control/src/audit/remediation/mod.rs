//! What is done about violations: who sees to one, until when, what shows that it is done, who agreed, what the host did.
//!
//! Must never end one on the word of one person: a second agrees, or the check that failed is run again and passes. Every act
//! is between an intent and an outcome on the log. `state.rs` is what acts come to.

mod state;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use ringfence_audit::codes;
use ringfence_core::PrincipalId;
use ringfence_core::proof::act;
use ringfence_store::{Key, Op, Precondition, TenantStore};
use serde_json::json;

use super::violations::check_of;
use crate::Control;
use crate::call::Call;
use crate::extract::JsonBody;
use crate::problem::ApiError;
use crate::wire::{MakeResponse, Problem, RemediateViolation, RemediationParams, RemediationView, ViolationView};

use state::{Act, Record, Refused, Shown, step};

/// LIMIT: violations of one log about which something is done at a time.
const RECORDS_COUNT_MAX: usize = 2_000;

/// Records or executes an action on a violation; with `dry_run` only says what would come of it.
#[utoipa::path(put, path = "/audit/remediation-action", tag = "audit", request_body = RemediateViolation,
    responses((status = 200, body = RemediationView), (status = "default", body = Problem)))]
pub async fn put(
    State(control): State<Control>,
    call: Call,
    JsonBody(asked): JsonBody<RemediateViolation>,
) -> Result<Json<RemediationView>, ApiError> {
    let (log, permit) = control.own_log::<act::Remediate>(&call).await?;
    let store = control.store_of(&log);
    let now = control.parts.clock.now();
    let RemediateViolation { violation_id, action, params, dry_run } = asked;
    let violation = control.violation(&log, &violation_id).await?;
    let (kept, unchanged) = control.record_of(&store, &violation_id).await?;
    if violation.is_none() && kept.is_none() {
        return Err(ApiError::not_found());
    }
    let before = kept.map(|kept| kept.now(violation.as_ref().and_then(last_seen), now));
    let mut params = params;
    let response = params.response.take();
    let (act, words) = read(&action, params, violation.as_ref())?;
    let by = call.principal.id();
    if let Act::Assign { owner, .. } = &act
        && !control.parts.identity.is_anybody(call.principal.tenant(), owner)
    {
        let text = format!("`{owner}` is nobody here: no person, no live key, and never signed in");
        return Err(ApiError::new("bad-remediation", text).help("ringfence person list"));
    }
    if matches!(act, Act::Approve) {
        control.check_second(before.as_ref(), by)?;
    }
    let next = step(&violation_id, before, &act, words, (by, now)).map_err(refused)?;
    if dry_run {
        let effect = control.tried(&call, &act, &violation_id, response).await?;
        return Ok(Json(RemediationView { effect, ..view(next, now) }));
    }
    let details = json!({
        "violation": violation_id, "action": action, "state": next.state.word(), "owner": next.owner,
        "due_at": next.due_at.map(|due| due.to_string()), "until": next.until.map(|until| until.to_string()),
        "note": next.note, "evidence": next.evidence,
    });
    let done = control
        .bracket(&call, &log, permit, codes::REMEDIATION_CHANGED, details, async |_permit| {
            let mut done = view(next.clone(), now);
            match (&act, check_id(&act, violation.as_ref())) {
                (Act::Resolve(Shown::ByCheck), None) => {
                    return Err(ApiError::new("bad-remediation", "the check behind this violation is not known"));
                }
                (Act::Resolve(Shown::ByCheck), Some(check)) => {
                    let result = control.run_check_again(&call, &store, &check).await?;
                    if result.state != "pass" {
                        let text = format!("check `{check}` comes to {}: {}", result.state, result.why);
                        return Err(ApiError::new("check-still-failing", text)
                            .help("mend it first, or `accept` it for a while with a second person"));
                    }
                    done.effect = format!("check `{check}` was run and passes");
                }
                (Act::Respond, _) => {
                    let made = control.respond(&call, asked_response(response, &violation_id)?).await?;
                    let how = if made.state == "waiting" { "waits for another person" } else { "is in force" };
                    done.effect = format!("`{}` {how}, response {}", made.kind, made.id.unwrap_or_default());
                    done.reversible_until = made.until;
                }
                _ => {}
            }
            control.keep_record(&store, &next, unchanged).await?;
            Ok(done)
        })
        .await?;
    Ok(Json(done))
}

impl Control {
    /// What is done about each violation of a log, as it stands.
    pub(super) async fn remediations(
        &self,
        store: &TenantStore,
        last_seen: impl Fn(&str) -> Option<Timestamp>,
    ) -> Result<Vec<RemediationView>, ApiError> {
        let now = self.parts.clock.now();
        let page = store.scan(&Key::new(["remediation"]), None, RECORDS_COUNT_MAX).await?;
        let mut all = Vec::with_capacity(page.records.len());
        for (_, record) in page.records {
            let record: Record = record.json()?;
            let last = last_seen(&record.violation_id);
            all.push(view(record.now(last, now), now));
        }
        Ok(all)
    }

    /// What is kept, and what must still hold when it is written again.
    async fn record_of(
        &self,
        store: &TenantStore,
        violation_id: &str,
    ) -> Result<(Option<Record>, Precondition), ApiError> {
        let fits = violation_id.len() <= 64 && violation_id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !fits {
            return Err(ApiError::not_found());
        }
        let key = key(violation_id);
        match store.get(&key).await? {
            Some(found) => Ok((Some(found.json()?), Precondition::Revision(key, found.revision))),
            None => Ok((None, Precondition::Absent(key))),
        }
    }

    async fn keep_record(&self, store: &TenantStore, record: &Record, unchanged: Precondition) -> Result<(), ApiError> {
        if record.version == 1 {
            let page = store.scan(&Key::new(["remediation"]), None, RECORDS_COUNT_MAX).await?;
            if page.records.len() >= RECORDS_COUNT_MAX {
                let text = format!("something is done about {RECORDS_COUNT_MAX} violations already");
                return Err(ApiError::new("too-many", text));
            }
        }
        store.batch(vec![Op::put_json(key(&record.violation_id), record)?], vec![unchanged]).await?;
        Ok(())
    }

    /// Whether who agrees is another person than who asked.
    fn check_second(&self, before: Option<&Record>, by: &PrincipalId) -> Result<(), ApiError> {
        let Some(asker) = before.and_then(|record| record.asked_by.as_ref()) else { return Ok(()) };
        if asker == by {
            return Err(ApiError::new("own-request", "who asked for it cannot allow it"));
        }
        if !self.parts.identity.is_second_person(asker, by) {
            return Err(ApiError::second_person_needed());
        }
        Ok(())
    }

    /// What an act would do beside being written down.
    async fn tried(
        &self,
        call: &Call,
        act: &Act,
        violation_id: &str,
        response: Option<MakeResponse>,
    ) -> Result<String, ApiError> {
        Ok(match act {
            Act::Resolve(Shown::ByCheck) => "the check is run again and must pass".to_owned(),
            Act::Resolve(Shown::ByWord) | Act::Accept { .. } => "another person must agree".to_owned(),
            Act::Respond => {
                let asked = MakeResponse { dry_run: true, ..asked_response(response, violation_id)? };
                let tried = self.respond(call, asked).await?;
                let blast = tried.blast.map(|blast| blast.principals.len()).unwrap_or_default();
                format!("`{}` would be in force, and touch {blast} principals", tried.kind)
            }
            _ => String::new(),
        })
    }
}

/// What is done, the note beside it and the evidence for it.
type Asked = (Act, (Option<String>, Vec<String>));

/// Reads what was sent.
fn read(action: &str, params: RemediationParams, violation: Option<&ViolationView>) -> Result<Asked, ApiError> {
    let bad = |text: &str| ApiError::new("bad-remediation", text.to_owned());
    let RemediationParams { owner, due_at, note, evidence, until, response: _ } = params;
    let moment = |text: Option<String>, name: &str| -> Result<Timestamp, ApiError> {
        let parsed = text.and_then(|text| text.parse().ok());
        parsed.ok_or_else(|| bad(&format!("`{name}` is a time such as `2026-12-31T18:00:00Z`")))
    };
    let act = match action {
        "assign" => {
            let owner = owner.ok_or_else(|| bad("`owner` is who is to see to it"))?;
            Act::Assign { owner: owner.parse()?, due_at: moment(due_at, "due_at")? }
        }
        "start" => Act::Start,
        "add-evidence" => Act::AddEvidence,
        "resolve" if violation.is_some_and(|violation| violation.kind == "check") => Act::Resolve(Shown::ByCheck),
        "resolve" => Act::Resolve(Shown::ByWord),
        "accept" => Act::Accept { until: moment(until, "until")? },
        "approve" => Act::Approve,
        "refuse" => Act::Refuse,
        "reopen" => Act::Reopen,
        "respond" => Act::Respond,
        _ => {
            return Err(bad(
                "`action` is assign, start, add-evidence, resolve, accept, approve, refuse, reopen or respond",
            ));
        }
    };
    Ok((act, (note, evidence)))
}

fn check_id(act: &Act, violation: Option<&ViolationView>) -> Option<String> {
    matches!(act, Act::Resolve(Shown::ByCheck)).then(|| violation.and_then(check_of)).flatten()
}

fn asked_response(response: Option<MakeResponse>, violation_id: &str) -> Result<MakeResponse, ApiError> {
    let missing = || ApiError::new("bad-remediation", "`response` is what the host is to do");
    let mut asked = response.ok_or_else(missing)?;
    if asked.reason.is_empty() {
        asked.reason = format!("violation {violation_id}");
    }
    asked.dry_run = false;
    Ok(asked)
}

fn refused(why: Refused) -> ApiError {
    match why {
        Refused::Transition(state) => {
            ApiError::new("bad-transition", format!("that cannot be done to it as it stands: {state}"))
        }
        Refused::Needs(what) => ApiError::new("bad-remediation", what),
    }
}

fn last_seen(violation: &ViolationView) -> Option<Timestamp> {
    violation.last_seen.parse().ok()
}

fn view(record: Record, now: Timestamp) -> RemediationView {
    let overdue = record.is_overdue(now);
    RemediationView {
        violation_id: record.violation_id,
        state: record.state.word().to_owned(),
        owner: Some(record.owner.to_string()),
        due_at: record.due_at.map(|due| due.to_string()),
        overdue,
        until: record.until.map(|until| until.to_string()),
        note: record.note,
        evidence: record.evidence,
        asked_by: record.asked_by.map(|by| by.to_string()),
        version: record.version,
        at: record.at.to_string(),
        effect: String::new(),
        reversible_until: None,
    }
}

fn key(violation_id: &str) -> Key {
    Key::new(["remediation", violation_id])
}
