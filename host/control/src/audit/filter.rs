//! Which entries of a log fit a question.
//!
//! Pure. Must never take words that mean nothing for a question that everything fits. What of an entry a reader may see is
//! said in `ringfence_audit::redact`.

use jiff::Timestamp;
use ringfence_audit::Entry;
use serde::{Deserialize, Serialize};

use crate::problem::ApiError;

/// LIMIT: longest word of a filter, in bytes.
const WORD_BYTES_MAX: usize = 256;

/// A question to a log.
#[derive(Debug, Clone, Default, Deserialize, Serialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// Not before this time, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Before this time, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// OCSF class, such as 6003.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Code, whole or its beginning, such as `TEN-001`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Who, whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// On what, whole or its beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// `success`, `failure`, `denied`, `intended` or `unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
}

/// A question that makes sense.
#[derive(Debug, Clone)]
pub struct Question {
    from_ms: Option<i64>,
    to_ms: Option<i64>,
    class: Option<u64>,
    code: Option<String>,
    actor: Option<String>,
    resource: Option<String>,
    outcome: Option<&'static str>,
}

/// What of an envelope a question is about.
#[derive(Deserialize)]
pub struct Marks {
    /// Milliseconds since 1970 UTC.
    pub time: i64,
    /// OCSF class.
    pub class_uid: u64,
    /// The status word.
    pub status: String,
    /// 2 for denied.
    pub action_id: u8,
    /// The code.
    pub code: String,
}

impl Filter {
    /// The question; refuses words that mean nothing.
    pub fn question(&self) -> Result<Question, ApiError> {
        let all = [&self.from, &self.to, &self.class, &self.code, &self.actor, &self.resource, &self.outcome];
        if all.into_iter().flatten().any(|word| word.len() > WORD_BYTES_MAX) {
            return Err(ApiError::new("bad-request", format!("a filter is over {WORD_BYTES_MAX} bytes")));
        }
        let outcome = self.outcome.as_deref().map(|word| match word {
            "success" => Ok("success"),
            "failure" => Ok("failure"),
            "denied" => Ok("denied"),
            "intended" => Ok("intended"),
            "unknown" => Ok("unknown"),
            other => Err(ApiError::new("bad-word", format!("`{other}` is no outcome"))
                .help("success, failure, denied, intended or unknown")),
        });
        let class = self.class.as_deref().map(|word| {
            word.parse().map_err(|_| ApiError::new("bad-word", format!("`{word}` is no class; one is `6003`")))
        });
        Ok(Question {
            from_ms: self.from.as_deref().map(moment).transpose()?,
            to_ms: self.to.as_deref().map(moment).transpose()?,
            class: class.transpose()?,
            code: self.code.clone(),
            actor: self.actor.clone(),
            resource: self.resource.clone(),
            outcome: outcome.transpose()?,
        })
    }

    /// Whether nothing is asked for in particular.
    pub fn is_empty(&self) -> bool {
        let all = [&self.from, &self.to, &self.class, &self.code, &self.actor, &self.resource, &self.outcome];
        all.into_iter().all(Option::is_none)
    }
}

impl Question {
    /// From which time on, and before which, in milliseconds since 1970 UTC.
    pub fn times(&self) -> (Option<i64>, Option<i64>) {
        (self.from_ms, self.to_ms)
    }

    /// Whether an entry fits.
    pub fn fits(&self, entry: &Entry) -> bool {
        let Some(marks) = Marks::read(entry) else { return false };
        let text = |pointer: &str| entry.body.as_ref().and_then(|body| body.pointer(pointer)?.as_str()).unwrap_or("");
        self.from_ms.is_none_or(|from| marks.time >= from)
            && self.to_ms.is_none_or(|to| marks.time < to)
            && self.class.is_none_or(|class| marks.class_uid == class)
            && self.code.as_ref().is_none_or(|code| marks.code.starts_with(code.as_str()))
            && self.outcome.is_none_or(|outcome| marks.outcome() == outcome)
            && self.actor.as_ref().is_none_or(|actor| text("/actor/user/uid") == actor)
            && self.resource.as_ref().is_none_or(|resource| text("/resources/0/uid").starts_with(resource.as_str()))
    }
}

impl Marks {
    /// Reads them; none of what is no entry.
    pub fn read(entry: &Entry) -> Option<Self> {
        serde_json::from_str(&entry.envelope).ok()
    }

    /// The outcome's word.
    pub fn outcome(&self) -> &'static str {
        match (self.status.as_str(), self.action_id) {
            (_, 2) => "denied",
            ("Success", _) => "success",
            ("Failure", _) => "failure",
            ("Intended", _) => "intended",
            _ => "unknown",
        }
    }
}

fn moment(text: &str) -> Result<i64, ApiError> {
    let parsed: Result<Timestamp, _> = text.parse();
    parsed
        .map(Timestamp::as_millisecond)
        .map_err(|_| ApiError::new("bad-word", format!("`{text}` is no time; one is `2026-11-20T08:00:00Z`")))
}

#[cfg(test)]
mod tests {
    use ringfence_audit::redact;
    use ringfence_core::Role;
    use serde_json::json;

    use super::*;

    fn entry(code: &str, status: &str, action: u8, actor: &str) -> Entry {
        let envelope = json!({"time": 1_790_000_000_000_i64, "class_uid": 6003, "status": status, "action_id": action, "code": code});
        Entry {
            envelope: envelope.to_string(),
            leaf_hash: String::new(),
            body: Some(json!({
                "actor": {"user": {"uid": actor}}, "resources": [{"uid": "tenant/acme/plugin/visits"}],
                "src_endpoint": {"ip": "192.0.2.1"},
            })),
            salt: "00".to_owned(),
        }
    }

    fn fits(filter: Filter) -> bool {
        filter.question().unwrap().fits(&entry("PLG-001 version-pushed", "Failure", 2, "acme/ada"))
    }

    #[test]
    fn every_word_of_a_filter_counts() {
        let some = |text: &str| Some(text.to_owned());
        assert!(fits(Filter::default()));
        assert!(fits(Filter {
            code: some("PLG-001"),
            actor: some("acme/ada"),
            outcome: some("denied"),
            ..Filter::default()
        }));
        assert!(fits(Filter { class: some("6003"), resource: some("tenant/acme/plugin/"), ..Filter::default() }));
        assert!(!fits(Filter { code: some("PLG-002"), ..Filter::default() }));
        assert!(!fits(Filter { actor: some("acme/ad"), ..Filter::default() }));
        assert!(!fits(Filter { outcome: some("failure"), ..Filter::default() }));
        assert!(!fits(Filter { from: some("2027-01-01T00:00:00Z"), ..Filter::default() }));
        assert!(fits(Filter { to: some("2027-01-01T00:00:00Z"), ..Filter::default() }));
        for wrong in ["yesterday", "2026-13-01T00:00:00Z"] {
            assert!(Filter { from: some(wrong), ..Filter::default() }.question().is_err());
        }
        assert!(Filter { outcome: some("maybe"), ..Filter::default() }.question().is_err());
        assert!(Filter { actor: Some("a".repeat(300)), ..Filter::default() }.question().is_err());
    }

    #[test]
    fn nobody_but_an_admin_sees_addresses_wherever_they_stand() {
        let mut all = entry("x", "Success", 1, "acme/ada");
        let body = all.body.as_mut().unwrap();
        body["http_request"] = json!({"user_agent": "from 192.0.2.1"});
        body["unmapped"] = json!({"details": {"target": {"tenant": "acme", "source": "192.0.2.1"}, "minutes": 5}});
        for role in [None, Some(Role::Developer), Some(Role::Auditor), Some(Role::Caller)] {
            let mut seen = all.clone();
            let taken = redact(role, &mut seen);
            assert_eq!(taken, ["src_endpoint", "http_request.user_agent", "unmapped.details.target.source"]);
            assert!(!serde_json::to_string(&seen).unwrap().contains("192.0.2.1") && seen.salt.is_empty());
            assert_eq!(seen.body.unwrap()["unmapped"]["details"]["target"], json!({"tenant": "acme"}));
        }
        let mut seen = entry("x", "Success", 1, "acme/ada");
        assert!(redact(Some(Role::TenantAdmin), &mut seen).is_empty());
        assert_eq!(
            (seen.body.as_ref().unwrap()["src_endpoint"]["ip"].as_str(), seen.salt.as_str()),
            (Some("192.0.2.1"), "00")
        );
        let mut made_here = seen.clone();
        made_here.body.as_mut().unwrap()["src_endpoint"] = json!({"svc_name": "Ringfence"});
        assert!(redact(Some(Role::Auditor), &mut made_here).is_empty() && made_here.salt == "00");
        assert_eq!(redact(Some(Role::Auditor), &mut seen), ["src_endpoint"]);
        assert!(!serde_json::to_string(&seen).unwrap().contains("192.0.2.1"));
        assert!(seen.salt.is_empty());
    }
}
