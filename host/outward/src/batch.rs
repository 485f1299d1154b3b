//! A batch: the next entries of a log, as the destination's role sees them.
//!
//! Must never hold more than a batch, skip an entry without saying so in its place, or change their order.

use ringfence_audit::{Audit, AuditError, Entry, Log, codes, redact, sees_all};
use ringfence_core::Role;
use ringfence_threat::{Finding, Kind, Scope, Threat};
use serde_json::{Value, json};

use crate::destination::{Carries, Destination};

/// LIMIT: entries of one batch.
pub(crate) const BATCH_COUNT_MAX: usize = 200;
/// LIMIT: bytes of one batch, but for its last entry.
pub(crate) const BATCH_BYTES_MAX: usize = 512 << 10;
/// LIMIT: entries looked at for one batch of findings.
const LOOKED_COUNT_MAX: u64 = 1_000;

/// OCSF severity of what is high.
const HIGH: u8 = 4;

/// One thing to carry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Item {
    /// Its place in the log.
    pub seq: u64,
    /// When it happened, milliseconds since 1970 UTC.
    pub time_ms: i64,
    /// The entry's code, such as `TEN-001 tenant-created`.
    pub code: String,
    /// OCSF severity, 1 to 6.
    pub severity: u8,
    /// All of it.
    pub event: Value,
}

/// The next things to carry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Batch {
    /// The log's name.
    pub log: String,
    /// The entry after the last that was looked at.
    pub next: u64,
    /// In the order of the log.
    pub items: Vec<Item>,
}

/// The next batch of a log that has `size` entries. What is damaged or was deleted is passed over, and an item says so.
pub(crate) async fn gather(
    audit: &Audit,
    threat: &Threat,
    (scope, log): (&Scope, &Log),
    destination: &Destination,
    (from, size, now_ms): (u64, u64, i64),
) -> Result<Batch, AuditError> {
    let mut batch = Batch { log: audit.origin(log), next: from, items: Vec::new() };
    let end = match destination.carries {
        Carries::Audit => size.min(from.saturating_add(BATCH_COUNT_MAX as u64)),
        Carries::Alerts => size.min(from.saturating_add(LOOKED_COUNT_MAX)),
    };
    // What can be read at once ends before what is damaged.
    let (mut bytes, mut upto) = (0_usize, end);
    while batch.next < end && batch.items.len() < BATCH_COUNT_MAX && bytes < BATCH_BYTES_MAX {
        // Few at a time: what does not fit into the batch was read for nothing.
        if batch.next >= upto {
            upto = end;
        }
        let page = usize::try_from(upto.saturating_sub(batch.next)).map_or(50, |rest| rest.min(50));
        let entries = match audit.list(log, batch.next, page).await {
            Err(AuditError::Deleted { before, .. }) if before > batch.next => {
                batch.pass_over(before, now_ms, "they were deleted after their retention");
                continue;
            }
            Err(AuditError::Broken { seq, .. }) if seq == batch.next => {
                batch.pass_over(seq.saturating_add(1), now_ms, "they are damaged");
                continue;
            }
            Err(AuditError::Broken { seq, .. }) if seq > batch.next && seq < upto => {
                upto = seq;
                continue;
            }
            read => read?,
        };
        if entries.is_empty() {
            break;
        }
        for entry in entries {
            let item = match destination.carries {
                Carries::Audit => Some(Item::of(batch.next, entry, destination.sees)),
                Carries::Alerts => alert(threat, scope, batch.next, (&entry, destination.sees)).await,
            };
            batch.next += 1;
            if let Some(item) = item {
                bytes = bytes.saturating_add(item.event.to_string().len());
                batch.items.push(item);
            }
            if batch.items.len() >= BATCH_COUNT_MAX || bytes >= BATCH_BYTES_MAX {
                break;
            }
        }
    }
    Ok(batch)
}

// === impl Batch ===

impl Batch {
    /// Says that the entries before place `to` cannot be carried, and goes on there. What follows on the same is one item.
    fn pass_over(&mut self, to: u64, now_ms: i64, why: &str) {
        let next = self.next;
        let before =
            self.items.pop_if(|last| last.event.pointer("/uncarried/to").and_then(Value::as_u64) == Some(next));
        let from = before.map_or(next, |before| before.seq);
        self.next = to;
        self.items.push(Item {
            seq: from,
            time_ms: now_ms,
            code: codes::ENTRIES_SKIPPED.to_owned(),
            severity: HIGH,
            event: json!({
                "seq": from, "title": format!("Entries {from} to {} of the log cannot be carried: {why}", to.saturating_sub(1)),
                "level": "high", "uncarried": { "from": from, "to": to },
            }),
        });
    }
}

// === impl Item ===

impl Item {
    /// An entry, as a role sees it: the same that the trail of the control plane shows.
    pub(crate) fn of(seq: u64, mut entry: Entry, sees: Role) -> Self {
        let redacted = redact(Some(sees), &mut entry);
        let body = entry.body.unwrap_or_default();
        let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let code = text("/unmapped/code");
        let time_ms = time_of(&body);
        let severity = body.get("severity_id").and_then(Value::as_u64).and_then(|id| u8::try_from(id).ok());
        let mut event = json!({ "seq": seq, "envelope": entry.envelope, "leaf_hash": entry.leaf_hash, "body": body });
        if let Some(members) = event.as_object_mut() {
            if !entry.salt.is_empty() {
                members.insert("salt".to_owned(), Value::String(entry.salt));
            }
            if !redacted.is_empty() {
                members.insert("redacted".to_owned(), json!(redacted));
            }
        }
        Self { seq, time_ms, code, severity: severity.unwrap_or(1), event }
    }
}

/// What people are told because of an entry, as a role sees it: of a finding, or what somebody alerts them to; none of an entry
/// about something else.
async fn alert(threat: &Threat, scope: &Scope, seq: u64, (entry, sees): (&Entry, Role)) -> Option<Item> {
    let body = entry.body.as_ref()?;
    match body.pointer("/unmapped/code").and_then(Value::as_str)? {
        codes::THREAT_FOUND => finding(threat, scope, seq, (body, sees)).await,
        codes::RESPONSE_MADE => called(seq, (body, sees)),
        _ => None,
    }
}

/// What a response of the kind `alert` says, once it is made.
fn called(seq: u64, (body, sees): (&Value, Role)) -> Option<Item> {
    let details = body.pointer("/unmapped/details")?;
    let of = |name: &str| details.get(name).cloned().unwrap_or_default();
    if body.get("status").and_then(Value::as_str) != Some("Success") || of("kind") != Kind::Alert.word() {
        return None;
    }
    let mut target = of("target");
    if let Some(members) = target.as_object_mut().filter(|_| !sees_all(Some(sees))) {
        members.remove("source");
    }
    let actor = body.pointer("/actor/user/uid").cloned().unwrap_or_default();
    Some(Item {
        seq,
        time_ms: time_of(body),
        code: codes::RESPONSE_MADE.to_owned(),
        severity: HIGH,
        event: json!({
            "seq": seq, "response": of("response"), "kind": of("kind"), "title": of("reason"), "level": "high",
            "actor": actor, "target": target, "finding": of("finding"),
        }),
    })
}

/// The finding that an entry is about. What the finding's own record cannot tell (it was let go, or is being written) the entry
/// does.
async fn finding(threat: &Threat, scope: &Scope, seq: u64, (body, sees): (&Value, Role)) -> Option<Item> {
    let details = body.pointer("/unmapped/details")?;
    let id = details.get("finding").and_then(Value::as_str)?;
    let kept = threat.finding(scope, id).await.ok().map(|kept| kept.as_seen_by(Some(sees)));
    Some(Item {
        seq,
        time_ms: time_of(body),
        code: codes::THREAT_FOUND.to_owned(),
        severity: severity_of(details),
        event: told(seq, details, kept.as_ref()),
    })
}

fn told(seq: u64, details: &Value, kept: Option<&Finding>) -> Value {
    let of = |name: &str| details.get(name).cloned().unwrap_or_default();
    let mut told = json!({
        "seq": seq, "finding": of("finding"), "rule": of("rule"), "owner": of("owner"), "level": of("level"),
        "attack": of("attack"), "risk_points": of("risk_points"), "evidence": of("evidence"), "drill": of("drill"),
    });
    if let (Some(members), Some(kept)) = (told.as_object_mut(), kept) {
        for (name, value) in [
            ("title", json!(kept.title)),
            ("actor", json!(kept.actor)),
            ("resource", json!(kept.resource)),
            ("source", json!(kept.source)),
            ("group", json!(kept.group)),
            ("count", json!(kept.count)),
            ("response", json!(kept.response)),
        ] {
            members.insert(name.to_owned(), value);
        }
    }
    told
}

/// When an entry was made, milliseconds since 1970 UTC.
fn time_of(body: &Value) -> i64 {
    body.get("time").and_then(Value::as_i64).unwrap_or(0)
}

/// OCSF severity of a finding's level.
fn severity_of(details: &Value) -> u8 {
    match details.get("level").and_then(Value::as_str) {
        Some("critical") => 5,
        Some("high") => HIGH,
        Some("medium") => 3,
        Some("low") => 2,
        _ => 1,
    }
}
