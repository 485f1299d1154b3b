//! One committed audit entry as rules and scores see it: its place, and its OCSF body by field path.
//!
//! Pure. Must never change what it was given, nor walk deeper or wider than the limits here.

use std::net::IpAddr;

use ringfence_core::Source;
use serde_json::Value;

/// LIMIT: values that one path may lead to; further list members are not looked at.
const VALUES_COUNT_MAX: usize = 64;
/// LIMIT: bytes of one value that rules look at; the rest of a longer text is not seen.
pub const VALUE_BYTES_MAX: usize = 4_096;

/// A committed entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Whose log: a tenant's name, or `_platform` for the host's own.
    pub log: String,
    /// Its place there.
    pub seq: u64,
    /// Wall clock of the host, milliseconds since 1970 UTC.
    pub time_ms: i64,
    /// The body, OCSF JSON.
    pub body: Value,
}

/// A field path, such as `resources.uid`. Lists on the way are walked through: the path leads to each member's value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path(Vec<String>);

// === impl Path ===

impl Path {
    /// Reads a path; the text when it is none: empty, with an empty step, or deeper than 8 steps.
    pub fn parse(text: &str) -> Option<Self> {
        let steps: Vec<String> = text.split('.').map(|step| step.trim_end_matches("[]").to_owned()).collect();
        let fits = steps.len() <= 8 && steps.iter().all(|step| !step.is_empty() && step.len() <= 64);
        fits.then_some(Self(steps))
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

// === impl Event ===

impl Event {
    /// The values that a path leads to; none when the event has no such field.
    pub fn values(&self, path: &Path) -> Vec<&Value> {
        let mut found = vec![&self.body];
        for step in &path.0 {
            let mut next = Vec::new();
            for value in found {
                match value {
                    Value::Array(items) => next.extend(items.iter().filter_map(|item| item.get(step))),
                    other => next.extend(other.get(step)),
                }
            }
            next.truncate(VALUES_COUNT_MAX);
            found = next;
        }
        let mut flat = Vec::with_capacity(found.len());
        for value in found {
            match value {
                Value::Array(items) => flat.extend(items.iter().take(VALUES_COUNT_MAX)),
                other => flat.push(other),
            }
        }
        flat
    }

    /// The first value at a path, as text.
    pub fn text(&self, path: &Path) -> Option<String> {
        self.values(path).first().and_then(|value| as_text(value))
    }

    /// What an event is grouped by at a path: its text; where it came from, the source, for one customer has the addresses of a
    /// whole IPv6 network to come from.
    pub fn group(&self, path: &Path) -> Option<String> {
        if path.0 == ["src_endpoint", "ip"]
            && let Some(address) = self.source()
        {
            return Some(Source::of(address).to_string());
        }
        self.text(path)
    }

    fn at(&self, steps: &[&str]) -> Option<&Value> {
        steps.iter().try_fold(&self.body, |value, step| value.get(step))
    }

    /// The small stable code, such as `AUT-003 sign-in-refused`.
    pub fn code(&self) -> &str {
        self.at(&["unmapped", "code"]).and_then(Value::as_str).unwrap_or_default()
    }

    /// How many acts the entry stands for: of refusals that came in a flood one entry says how many there were. Where those
    /// were about others too, it stands for those about the one that it names.
    pub fn stands_for(&self) -> u64 {
        let count = |name: &str| self.detail(name).and_then(Value::as_u64).unwrap_or(1).max(1);
        if self.detail("several") == Some(&Value::Bool(true)) {
            return count("named_count");
        }
        count("refused_count")
    }

    /// Who acted.
    pub fn actor(&self) -> Option<&str> {
        self.at(&["actor", "user", "uid"]).and_then(Value::as_str)
    }

    /// The action's word.
    pub fn action(&self) -> &str {
        self.at(&["api", "operation"]).and_then(Value::as_str).unwrap_or_default()
    }

    /// On what.
    pub fn resource(&self) -> Option<&str> {
        self.body.get("resources")?.get(0)?.get("uid")?.as_str()
    }

    /// Where the request came from.
    pub fn source(&self) -> Option<IpAddr> {
        self.at(&["src_endpoint", "ip"])?.as_str()?.parse().ok()
    }

    /// `Success`, `Failure`, `Intended` or `Unknown`.
    pub fn status(&self) -> &str {
        self.body.get("status").and_then(Value::as_str).unwrap_or_default()
    }

    /// A member of the event's own details.
    pub fn detail(&self, name: &str) -> Option<&Value> {
        self.at(&["unmapped", "details", name])
    }
}

/// A plain value as text, cut to what rules look at; none for null, lists and objects.
pub fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(ringfence_audit::envelope::cut(text, VALUE_BYTES_MAX)),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_path_leads_through_lists_to_every_value() {
        let body = json!({"resources": [{"uid": "a"}, {"uid": "b"}, {"x": 1}], "status": "Success"});
        let event = Event { log: "acme".into(), seq: 0, time_ms: 0, body };
        let uid = Path::parse("resources[].uid").unwrap();
        assert_eq!(event.values(&uid), [&json!("a"), &json!("b")]);
        assert_eq!(event.text(&uid).as_deref(), Some("a"));
        assert!(event.values(&Path::parse("resources.nothing.at.all").unwrap()).is_empty());
        for bad in ["", ".", "a..b", "a.b.c.d.e.f.g.h.i"] {
            assert!(Path::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_huge_value_is_looked_at_in_part_and_a_huge_list_in_part() {
        let event = Event {
            log: "acme".into(),
            seq: 0,
            time_ms: 0,
            body: json!({"a": "x".repeat(1 << 20), "l": vec!["y"; 5000]}),
        };
        assert_eq!(event.text(&Path::parse("a").unwrap()).unwrap().len(), VALUE_BYTES_MAX);
        assert!(event.values(&Path::parse("l").unwrap()).len() <= 64);
    }
}
