//! What a tenant's own checks are asked about: facts of the tenant, and entries of its log, as CEL sees them. The list is in
//! docs/reference/checks.md and grows, but what is there keeps its meaning.
//!
//! Must never hold anything of another tenant, a secret, or a name of a person.

use std::collections::BTreeMap;

use jiff::Timestamp;
use ringfence_audit::Entry;
use ringfence_core::TenantId;
use ringfence_store::TenantStore;
use serde_json::{Value, json};

use super::super::filter::Marks;
use crate::Control;
use crate::policies::text;
use crate::problem::ApiError;

/// LIMIT: grants of all plugins that are told of; more, and the facts say so in `plugins_cut`.
const PLUGINS_COUNT_MAX: usize = 500;
/// LIMIT: codes told apart in the counts of a log.
const CODES_COUNT_MAX: usize = 1_000;

/// Counts over the entries of a log that a check is about.
#[derive(Debug, Default)]
pub(super) struct Counts {
    count: u64,
    by_code: BTreeMap<String, u64>,
    by_outcome: BTreeMap<&'static str, u64>,
}

impl Counts {
    /// Counts an entry.
    pub(super) fn add(&mut self, marks: &Marks) {
        self.count += 1;
        *self.by_outcome.entry(marks.outcome()).or_default() += 1;
        let code = short(&marks.code);
        if self.by_code.len() < CODES_COUNT_MAX || self.by_code.contains_key(code) {
            *self.by_code.entry(code.to_owned()).or_default() += 1;
        }
    }

    /// As `log` in a rule.
    pub(super) fn seen(&self) -> Value {
        let outcome = |word: &str| self.by_outcome.get(word).copied().unwrap_or(0);
        json!({
            "count": self.count, "by_code": self.by_code, "successes": outcome("success"),
            "failures": outcome("failure"), "denials": outcome("denied"), "unknown": outcome("unknown"),
        })
    }
}

/// One entry as `entry` in a rule; none of what is no entry.
pub(super) fn seen(seq: u64, entry: &Entry, marks: &Marks) -> Value {
    let body = entry.body.as_ref().unwrap_or(&Value::Null);
    let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or("");
    json!({
        "seq": seq, "time_ms": marks.time, "code": short(&marks.code), "class_uid": marks.class_uid,
        "outcome": marks.outcome(), "actor": text("/actor/user/uid"), "operation": text("/api/operation"),
        "resource": text("/resources/0/uid"), "source_ip": text("/src_endpoint/ip"),
        "details": body.pointer("/unmapped/details").unwrap_or(&Value::Null),
    })
}

impl Control {
    /// The tenant as `facts` in a rule.
    pub(super) async fn facts(&self, tenant: &TenantId, store: &TenantStore) -> Result<Value, ApiError> {
        let now = self.parts.clock.now();
        let mut plugins = self.parts.registry.survey(store).await?;
        let plugins_count = plugins.len();
        plugins.truncate(PLUGINS_COUNT_MAX);
        let backups = self.parts.archives.list(store).await?;
        let last = backups.iter().max_by_key(|backup| backup.created_at);
        let (newest, damaged) = (last.map(|last| last.created_at), last.map_or(0, |last| last.damaged_count));
        let drills: Vec<_> = backups.iter().filter_map(|backup| backup.drill.as_ref().map(|drill| drill.at)).collect();
        let failed = backups.iter().filter(|backup| backup.drill_failed.is_some()).count();
        let hours = |at: Timestamp| now.as_second().saturating_sub(at.as_second()) / 3_600;
        let policy = text::stored(store).await?.map_or(0, |stored| stored.version);
        let log = ringfence_audit::Log::Tenant(store.clone());
        let level = self.parts.audit.anchored(&log).await?.level;
        Ok(json!({
            "now_ms": now.as_millisecond(),
            "tenant": tenant.as_str(),
            "plugins": plugins,
            "plugins_count": plugins_count,
            "plugins_cut": plugins_count > PLUGINS_COUNT_MAX,
            "access": self.parts.identity.survey(tenant),
            "policy": { "version": policy },
            "backups": {
                "count": backups.len(), "drilled_count": drills.len(), "drill_failed_count": failed,
                "newest_drill_age_hours": drills.iter().copied().max().map_or(-1, hours),
                "newest_ms": newest.map_or(0, Timestamp::as_millisecond),
                "newest_age_hours": newest.map_or(-1, hours),
                "newest_damaged_count": damaged,
            },
            "audit": { "level": format!("{level:?}") },
        }))
    }
}

/// The code without the words after it: `PLG-001`.
fn short(code: &str) -> &str {
    code.split(' ').next().unwrap_or(code)
}
