//! What went against a rule: refusals of policy, reaches over the tenant boundary. The same cause is one row.
//!
//! Must never count twice or hide how far back it looked: the answer says from which entry on.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use ringfence_audit::{Entry, codes};
use ringfence_core::proof::act;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::filter::Marks;
use crate::Control;
use crate::call::Call;
use crate::problem::ApiError;
use crate::wire::{Problem, ViolationView, Violations};

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
    let to = control.parts.audit.size(&log).await?;
    let from = to.saturating_sub(SCAN_COUNT_MAX).max(control.parts.audit.first(&log).await?);
    let mut found = Found::default();
    let mut seq = from;
    while seq < to {
        let page = control.parts.audit.list(&log, seq, usize::try_from(to - seq).unwrap_or(usize::MAX)).await?;
        if page.is_empty() {
            break;
        }
        for entry in &page {
            found.look(seq, entry);
            seq += 1;
        }
    }
    Ok(Json(Violations { items: found.rows(), from_seq: from, as_of_seq: to }))
}

#[derive(Default)]
struct Found(BTreeMap<String, (u64, ViolationView)>);

impl Found {
    fn look(&mut self, seq: u64, entry: &Entry) {
        let Some(marks) = Marks::read(entry) else { return };
        let body = entry.body.as_ref().unwrap_or(&Value::Null);
        let Some((kind, severity)) = kind_of(&marks) else { return };
        let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
        let (actor, operation, resource) = (text("/actor/user/uid"), text("/api/operation"), text("/resources/0/uid"));
        let cause = serde_json::to_vec(&(kind, &marks.code, &actor, &operation, &resource)).unwrap_or_default();
        let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(&cause));
        let id = format!("v_{}", digest.get(..16).unwrap_or(&digest));
        let time = Timestamp::from_millisecond(marks.time).map(|time| time.to_string()).unwrap_or_default();
        if self.0.len() >= CAUSES_COUNT_MAX && !self.0.contains_key(&id) {
            let oldest = self.0.iter().min_by_key(|(_, (last, _))| *last).map(|(id, _)| id.clone());
            oldest.map(|id| self.0.remove(&id));
        }
        let (last, row) = self.0.entry(id.clone()).or_insert_with(|| {
            let (kind, severity) = (kind.to_owned(), severity.to_owned());
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
                evidence,
            };
            (seq, row)
        });
        *last = seq;
        row.last_seen = time;
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
