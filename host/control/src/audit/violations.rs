//! What went against a rule: refusals of policy, reaches over the tenant boundary, checks that fail, what was to be done by
//! now and is not. The same cause is one row, with what is done about it.
//!
//! Must never count twice or hide how far back it looked: the answer says from which entry on.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use ringfence_audit::{Entry, Log, codes};
use ringfence_core::proof::act;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::filter::Marks;
use crate::Control;
use crate::call::Call;
use crate::problem::ApiError;
use crate::wire::{Problem, RemediationView, ViolationView, Violations};

/// LIMIT: newest entries looked at.
const SCAN_COUNT_MAX: u64 = 20_000;
/// LIMIT: causes told apart in one answer; further ones are left out, the oldest last.
const CAUSES_COUNT_MAX: usize = 1_000;
/// LIMIT: places named for one cause.
const EVIDENCE_COUNT_MAX: usize = 10;

/// Lists what went against a rule in the caller's own log, one row a cause, the latest first.
#[utoipa::path(get, path = "/audit/violations", tag = "audit",
    responses((status = 200, body = Violations), (status = "default", body = Problem)))]
pub async fn list(State(control): State<Control>, call: Call) -> Result<Json<Violations>, ApiError> {
    let (log, permit) = control.own_log::<act::ReadAudit>(&call).await?;
    control.reading(&call, &log, permit, json!({ "view": "violations" })).await?;
    let (found, from, to) = control.found(&log).await?;
    let mut items = found.rows();
    let last = |id: &str| items.iter().find(|row| row.id == id).and_then(|row| row.last_seen.parse().ok());
    let done = control.remediations(&control.store_of(&log), last).await?;
    let overdue: Vec<ViolationView> = done.iter().filter(|done| done.overdue).map(overdue).collect();
    for remediation in done {
        if let Some(row) = items.iter_mut().find(|row| row.id == remediation.violation_id) {
            row.remediation = Some(remediation);
        }
    }
    drop(items.splice(0..0, overdue));
    Ok(Json(Violations { items, from_seq: from, as_of_seq: to }))
}

impl Control {
    /// One cause, if it is among the newest entries.
    pub(super) async fn violation(&self, log: &Log, id: &str) -> Result<Option<ViolationView>, ApiError> {
        let (found, _, _) = self.found(log).await?;
        Ok(found.0.into_values().map(|(_, row)| row).find(|row| row.id == id))
    }

    /// All causes in the newest entries, which are those from the one place up to the other.
    async fn found(&self, log: &Log) -> Result<(Found, u64, u64), ApiError> {
        let to = self.parts.audit.size(log).await?;
        let from = to.saturating_sub(SCAN_COUNT_MAX).max(self.parts.audit.first(log).await?);
        let mut found = Found::default();
        let mut seq = from;
        while seq < to {
            let page = self.parts.audit.list(log, seq, usize::try_from(to - seq).unwrap_or(usize::MAX)).await?;
            if page.is_empty() {
                break;
            }
            for entry in &page {
                found.look(seq, entry);
                seq += 1;
            }
        }
        Ok((found, from, to))
    }
}

/// The check that a violation is about.
pub(super) fn check_of(violation: &ViolationView) -> Option<String> {
    violation.resource.rsplit_once("/check/").map(|(_, id)| id.to_owned())
}

/// A row for what was to be done by now.
fn overdue(remediation: &RemediationView) -> ViolationView {
    let due = remediation.due_at.clone().unwrap_or_default();
    ViolationView {
        id: cause_id(&("overdue", &remediation.violation_id)),
        kind: "overdue".to_owned(),
        severity: "medium".to_owned(),
        code: String::new(),
        actor: remediation.owner.clone().unwrap_or_default(),
        operation: "remediate".to_owned(),
        resource: remediation.violation_id.clone(),
        first_seen: due.clone(),
        last_seen: due,
        count: 1,
        over: false,
        evidence: Vec::new(),
        remediation: Some(remediation.clone()),
    }
}

fn cause_id(cause: &impl serde::Serialize) -> String {
    let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(serde_json::to_vec(cause).unwrap_or_default()));
    format!("v_{}", digest.get(..16).unwrap_or(&digest))
}

#[derive(Default)]
struct Found(BTreeMap<String, (u64, ViolationView)>);

impl Found {
    fn look(&mut self, seq: u64, entry: &Entry) {
        let Some(marks) = Marks::read(entry) else { return };
        let body = entry.body.as_ref().unwrap_or(&Value::Null);
        let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
        let (mut actor, operation, resource) =
            (text("/actor/user/uid"), text("/api/operation"), text("/resources/0/uid"));
        let (kind, severity) = match kind_of(&marks) {
            Some((kind, severity)) => (kind, severity.to_owned()),
            None if marks.code == codes::CHECK_RESULT => {
                // Whoever ran it, it is the same cause.
                actor.clear();
                ("check", text("/unmapped/details/severity"))
            }
            None => return,
        };
        let id = cause_id(&(kind, &marks.code, &actor, &operation, &resource));
        if kind == "check" && text("/unmapped/details/state") != "fail" {
            // One that passes now is over; one of which nothing can be said stays what it was.
            if let Some((_, row)) = self.0.get_mut(&id) {
                row.over = marks.outcome() == "success";
            }
            return;
        }
        let time = Timestamp::from_millisecond(marks.time).map(|time| time.to_string()).unwrap_or_default();
        if self.0.len() >= CAUSES_COUNT_MAX && !self.0.contains_key(&id) {
            let oldest = self.0.iter().min_by_key(|(_, (last, _))| *last).map(|(id, _)| id.clone());
            oldest.map(|id| self.0.remove(&id));
        }
        let (last, row) = self.0.entry(id.clone()).or_insert_with(|| {
            let kind = kind.to_owned();
            let (first_seen, last_seen, evidence) = (time.clone(), String::new(), Vec::new());
            let code = marks.code.clone();
            let row = ViolationView {
                id,
                kind,
                severity,
                code,
                actor,
                operation,
                resource,
                first_seen,
                last_seen,
                count: 0,
                over: false,
                evidence,
                remediation: None,
            };
            (seq, row)
        });
        *last = seq;
        (row.last_seen, row.over) = (time, false);
        row.count += 1;
        if row.evidence.len() == EVIDENCE_COUNT_MAX {
            row.evidence.remove(0);
        }
        row.evidence.push(seq);
    }

    fn rows(self) -> Vec<ViolationView> {
        let mut rows: Vec<(u64, ViolationView)> = self.0.into_values().collect();
        rows.sort_by_key(|(last, _)| std::cmp::Reverse(*last));
        rows.into_iter().map(|(_, row)| row).collect()
    }
}

fn kind_of(marks: &Marks) -> Option<(&'static str, &'static str)> {
    match marks.code.as_str() {
        codes::TENANT_ISOLATION => Some(("isolation", "high")),
        codes::ACTION_DENIED => Some(("denied", "medium")),
        _ if marks.action_id == 2 => Some(("refused", "low")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(code: &str, actor: &str) -> Entry {
        let envelope = json!({"time": 1_790_000_000_000_i64, "class_uid": 6003, "status": "Failure", "action_id": 2, "code": code});
        let body = json!({"actor": {"user": {"uid": actor}}, "api": {"operation": "push-version"}, "resources": [{"uid": "r"}]});
        Entry { envelope: envelope.to_string(), leaf_hash: String::new(), body: Some(body), salt: String::new() }
    }

    #[test]
    fn the_same_cause_twice_is_one_row_with_a_count() {
        let mut found = Found::default();
        for seq in 0..30 {
            found.look(seq, &entry(codes::ACTION_DENIED, "acme/ada"));
        }
        found.look(30, &entry(codes::TENANT_ISOLATION, "acme/ada"));
        found.look(31, &entry(codes::ACTION_DENIED, "acme/bob"));
        let rows = found.rows();
        assert_eq!(rows.iter().map(|row| row.count).collect::<Vec<_>>(), [1, 1, 30]);
        assert_eq!(rows[2].evidence, (20..30).collect::<Vec<_>>());
        assert_eq!((rows[1].kind.as_str(), rows[1].severity.as_str()), ("isolation", "high"));
        assert_ne!(rows[0].id, rows[2].id);
    }

    fn check_result(state: &str, actor: &str) -> Entry {
        let status = if state == "pass" { "Success" } else { "Failure" };
        let envelope = json!({"time": 1_790_000_000_000_i64, "class_uid": 2003, "status": status, "action_id": 1, "code": codes::CHECK_RESULT});
        let body = json!({
            "actor": {"user": {"uid": actor}}, "api": {"operation": "run-check"},
            "resources": [{"uid": "tenant/acme/check/backups"}],
            "unmapped": {"details": {"state": state, "severity": "high"}},
        });
        Entry { envelope: envelope.to_string(), leaf_hash: String::new(), body: Some(body), salt: String::new() }
    }

    #[test]
    fn a_check_that_fails_is_one_row_whoever_ran_it_and_over_once_it_passes() {
        let mut found = Found::default();
        for (seq, (state, actor)) in
            [("pass", "ringfence"), ("fail", "ringfence"), ("unknown", "x"), ("fail", "acme/ada")]
                .into_iter()
                .enumerate()
        {
            found.look(seq as u64, &check_result(state, actor));
        }
        let row = found.0.values().next().unwrap().1.clone();
        assert_eq!((row.kind.as_str(), row.severity.as_str(), row.count, row.over), ("check", "high", 2, false));
        assert_eq!((check_of(&row).as_deref(), row.evidence), (Some("backups"), vec![1, 3]));
        found.look(9, &check_result("unknown", "ringfence"));
        assert!(!found.0.values().next().unwrap().1.over);
        found.look(10, &check_result("pass", "ringfence"));
        let rows = found.rows();
        assert_eq!((rows.len(), rows[0].over), (1, true));
    }

    #[test]
    fn a_flood_of_causes_stays_bounded_and_keeps_the_newest() {
        let mut found = Found::default();
        for seq in 0..1_500 {
            found.look(seq, &entry(codes::ACTION_DENIED, &format!("acme/{seq}")));
        }
        let rows = found.rows();
        assert_eq!((rows.len(), rows[0].actor.as_str()), (CAUSES_COUNT_MAX, "acme/1499"));
    }
}
