//! What of a finding or a response a reader may see: no more than the log shows him.
//!
//! Pure. Must never show where a request came from, or which address is blocked, to a role for which the log leaves it out.

use ringfence_audit::{is_for_admins, sees_all};
use ringfence_core::Role;

use crate::finding::Finding;
use crate::intelligence::OWNER;
use crate::response::Response;

impl Finding {
    /// The same without what a role may not see: the address, what names it in the group, and an indicator's name, which is
    /// often an address itself.
    #[must_use]
    pub fn as_seen_by(mut self, role: Option<Role>) -> Self {
        if sees_all(role) {
            return self;
        }
        self.source = None;
        self.group.retain(|(field, _)| !is_for_admins(field));
        if self.rule_owner == OWNER {
            self.title = "An indicator was seen".to_owned();
        }
        self
    }
}

impl Response {
    /// The same without what a role may not see: which address it blocks.
    #[must_use]
    pub fn as_seen_by(mut self, role: Option<Role>) -> Self {
        if !sees_all(role) {
            self.target.source = None;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn finding(owner: &str) -> Finding {
        let group = json!([
            ["src_endpoint.ip", "203.0.113.9"],
            ["http_request.user_agent", "203.0.113.9"],
            ["unmapped.details.target.source", "203.0.113.9"],
            ["unmapped.details.target.principal", "acme/dev"],
            ["indicator", "indicator--1"],
        ]);
        serde_json::from_value(json!({
            "id": "f_a", "log": "acme", "rule_owner": owner, "rule": "r", "title": "Seen: 203.0.113.9", "level": "high",
            "attack": [], "attack_version": "19.1", "group": group, "actor": "anonymous", "resource": "host",
            "source": "203.0.113.9", "evidence": [4], "count": 5, "first_ms": 0, "last_ms": 0, "found_ms": 0,
            "risk": { "points": 4, "contributions": [] }, "drill": null, "response": null,
        }))
        .unwrap()
    }

    #[test]
    fn an_address_is_shown_to_whom_the_log_shows_it_and_to_nobody_else() {
        let found = finding(OWNER);
        for role in [Some(Role::TenantAdmin), Some(Role::Operator)] {
            assert_eq!(found.clone().as_seen_by(role), found);
        }
        for role in [None, Some(Role::Auditor), Some(Role::Developer), Some(Role::Caller)] {
            let seen = found.clone().as_seen_by(role);
            assert!(!serde_json::to_string(&seen).unwrap().contains("203.0.113.9"), "{role:?} {seen:?}");
            let fields: Vec<&str> = seen.group.iter().map(|(field, _)| field.as_str()).collect();
            assert_eq!(fields, ["unmapped.details.target.principal", "indicator"]);
        }
        assert_eq!(
            finding("ringfence").as_seen_by(Some(Role::Auditor)).title,
            "Seen: 203.0.113.9",
            "a rule's own words"
        );
    }
}
