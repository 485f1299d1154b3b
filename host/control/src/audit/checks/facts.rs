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
use super::definition::Over;
use crate::Control;
use crate::policies::text;
use crate::problem::ApiError;

/// LIMIT: grants of all plugins that are told of; more, and the facts say so in `plugins_cut`.
const PLUGINS_COUNT_MAX: usize = 500;
/// LIMIT: codes told apart in the counts of a log.
const CODES_COUNT_MAX: usize = 1_000;

/// What an entry has in a rule.
const ENTRY: [&str; 10] =
    ["seq", "time_ms", "code", "class_uid", "outcome", "actor", "operation", "resource", "source_ip", "details"];

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

/// The first member of a name that a rule speaks of and that is never there, such as `facts.nope`. Members that depend on what
/// an event or a log holds (`entry.details.amount`, `log.by_code`) may come and are none.
pub(super) fn missing(rule: &str, over: Over, facts: Value) -> Option<String> {
    let code = without_texts(rule);
    let of_log = Counts::default().seen().as_object().map_or_else(Vec::new, |all| all.keys().cloned().collect());
    let of_entry: Vec<String> = ENTRY.iter().map(|&name| name.to_owned()).collect();
    let flat = |names: Vec<String>| Value::Object(names.into_iter().map(|name| (name, Value::Null)).collect());
    let about = match over {
        Over::Facts => [("facts", facts), ("log", flat(of_log))],
        Over::Entries => [("facts", facts), ("entry", flat(of_entry))],
    };
    let in_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    code.split_inclusive(|c: char| !in_name(c)).find_map(|piece| {
        let mut words: Vec<&str> = piece.trim_end_matches(|c: char| !in_name(c)).split('.').collect();
        if piece.ends_with('(') {
            // The last is a function.
            words.pop();
        }
        let (name, members) = words.split_first()?;
        // A loop may call its item as it likes.
        let is_item = code.contains(&format!("({name},"));
        let (_, top) = about.iter().find(|(known, _)| known == name && !is_item)?;
        let mut at = top;
        let mut said = (*name).to_owned();
        for member in members {
            let all = at.as_object()?;
            said = format!("{said}.{member}");
            match all.get(*member) {
                Some(next) => at = next,
                None => return Some(said),
            }
        }
        None
    })
}

/// A rule with nothing between its quotation marks.
fn without_texts(rule: &str) -> String {
    let (mut code, mut within, mut escaped) = (String::new(), None, false);
    for c in rule.chars() {
        match within {
            Some(mark) => {
                if c == mark && !escaped {
                    within = None;
                    code.push(c);
                }
                escaped = c == '\\' && !escaped;
            }
            None => {
                within = (c == '\'' || c == '"').then_some(c);
                code.push(c);
            }
        }
    }
    code
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

#[cfg(test)]
mod tests {
    use super::*;

    fn absent(rule: &str, over: Over) -> Option<String> {
        missing(rule, over, json!({ "plugins": [], "plugins_count": 0, "backups": { "count": 0 } }))
    }

    #[test]
    fn what_is_never_there_is_named_and_what_may_come_is_not() {
        let facts = |rule: &str| absent(rule, Over::Facts);
        assert_eq!(facts("facts.nope > 1"), Some("facts.nope".to_owned()));
        assert_eq!(facts("facts.plugins_count > 1 && facts.backups.nope == 0"), Some("facts.backups.nope".to_owned()));
        assert_eq!(facts("log.nope > 1"), Some("log.nope".to_owned()));
        for may_come in [
            "facts.plugins[0].live == 'x'",
            "facts.plugins.all(p, p.nope == 1)",
            "facts.plugins.size() > facts.backups.size()",
            "log.by_code['PLG-002'] > 1 || log.by_code.x > 1",
            "'facts.nope' == \"it's facts.nope\" || 'a\\'facts.nope' == ''",
            "facts.plugins.exists(log, log.name == 'x')",
        ] {
            assert_eq!(facts(may_come), None, "{may_come}");
        }
        assert_eq!(absent("entry.nope == 1", Over::Entries), Some("entry.nope".to_owned()));
        assert_eq!(absent("entry.details.facts.nope == 1 && size(entry.actor) > 0", Over::Entries), None);
    }

    #[test]
    fn an_entry_has_what_it_is_said_to_have() {
        let envelope =
            json!({ "time": 1, "code": "PLG-002 deployed", "class_uid": 6002, "status": "Success", "action_id": 1 });
        let entry = Entry { envelope: envelope.to_string(), leaf_hash: String::new(), body: None, salt: String::new() };
        let shown = seen(7, &entry, &Marks::read(&entry).unwrap());
        let has: std::collections::BTreeSet<&str> = shown.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(has, ENTRY.into_iter().collect());
    }
}
