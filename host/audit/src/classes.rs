//! What a body has beside what every event has: the members that its OCSF 1.8 class asks for, made of the event alone.
//!
//! Pure. Must never hold what the event was not given: where a class asks for what only others know, the member says the little
//! that is known here, such as that a request came from within this host. Must never take away or change what every body has:
//! readers of the log find who, what and on what at the same places in entries of all ages.

use serde_json::{Map, Value, json};

use crate::Event;
use crate::codes::class;
use crate::envelope::cut;

/// LIMIT: longest text taken over from an event, in bytes.
pub(crate) const WORD_BYTES_MAX: usize = 512;
/// What the host calls itself in its own events.
const PRODUCT: &str = "Ringfence";

/// What the members of a class are made of.
pub(crate) struct Of<'a> {
    pub(crate) event: &'a Event,
    pub(crate) class: u32,
    /// `metadata.uid` of the entry.
    pub(crate) uid: &'a str,
    /// The event's details as they are kept.
    pub(crate) details: &'a Value,
}

/// The members of the event's class. What the event itself brings of them ([`Event::members`]) goes before these.
pub(crate) fn members(of: &Of<'_>) -> Map<String, Value> {
    let mut all = Map::new();
    let mut put = |name: &str, value: Value| drop(all.insert(name.to_owned(), value));
    match of.class {
        class::COMPLIANCE => {
            put("finding_info", of.finding());
            put("compliance", json!({ "control": cut(&of.event.resource, WORD_BYTES_MAX) }));
        }
        class::DETECTION => put("finding_info", of.finding()),
        class::INCIDENT => put("finding_info_list", json!([of.finding()])),
        class::AUTHENTICATION => {
            put("user", of.signs_in());
            put("service", json!({ "name": PRODUCT }));
        }
        class::ENTITY_MANAGEMENT => put("entity", of.entity()),
        class::USER_ACCESS => {
            put("user", of.user());
            put("privileges", json!([of.privilege()]));
        }
        class::MODULE_ACTIVITY => {
            put("device", json!({ "name": PRODUCT, "type": "Server", "type_id": 1 }));
            put("module", of.module());
        }
        class::HTTP_ACTIVITY => {
            put("src_endpoint", within());
            put("dst_endpoint", of.destination());
            put("http_request", of.request());
        }
        class::APPLICATION_LIFECYCLE => put("app", of.app()),
        class::API_ACTIVITY => put("src_endpoint", within()),
        class::DATASTORE => {
            put("src_endpoint", within());
            put("database", json!({ "uid": cut(&of.event.resource, WORD_BYTES_MAX), "type": "NoSQL", "type_id": 6 }));
        }
        class::REMEDIATION => put("command_uid", Value::String(of.command())),
        _ => {}
    }
    all
}

/// The word of an activity within its class; none for one that the class does not have. 99 is the event's own, see
/// [`crate::codes`].
pub(crate) fn activity_name(class: u32, activity: u8) -> Option<&'static str> {
    let names: &[&'static str] = match class {
        class::MODULE_ACTIVITY => &["Load", "Unload", "Invoke"],
        class::COMPLIANCE | class::DETECTION | class::INCIDENT => &["Create", "Update", "Close"],
        class::AUTHENTICATION => &["Logon", "Logoff"],
        class::ENTITY_MANAGEMENT => {
            &["Create", "Read", "Update", "Delete", "Move", "Enroll", "Unenroll", "Enable", "Disable"]
        }
        class::USER_ACCESS => &["Assign Privileges", "Revoke Privileges"],
        class::HTTP_ACTIVITY => &["Connect", "Delete", "Get", "Head", "Options", "Post", "Put", "Trace"],
        class::APPLICATION_LIFECYCLE => {
            &["Install", "Remove", "Start", "Stop", "Restart", "Enable", "Disable", "Update"]
        }
        class::API_ACTIVITY => &["Create", "Read", "Update", "Delete"],
        class::DATASTORE => {
            &["Read", "Update", "Connect", "Query", "Write", "Create", "Delete", "List", "Encrypt", "Decrypt"]
        }
        class::REMEDIATION => &["Isolate", "Evict", "Restore", "Harden", "Detect"],
        _ => &[],
    };
    names.get(usize::from(activity).checked_sub(1)?).copied()
}

/// What sort of thing a resource is; none when its text does not say.
pub(crate) fn kind_of(resource: &str) -> Option<&str> {
    let mut parts = resource.split('/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("host"), None, _) => Some("host"),
        (Some("tenant"), Some(_), None) => Some("tenant"),
        (Some("tenant"), Some(_), Some(kind)) => Some(kind),
        _ => is_principal(resource).then_some("principal"),
    }
}

/// Whether a resource is a principal, such as `acme/ann`.
fn is_principal(resource: &str) -> bool {
    match resource.split_once('/') {
        Some((place, name)) => place != "tenant" && !place.is_empty() && !name.is_empty() && !name.contains('/'),
        None => false,
    }
}

/// Nobody's address: the request came from within this host.
fn within() -> Value {
    json!({ "svc_name": PRODUCT })
}

// === impl Of ===

impl Of<'_> {
    /// The first of these members of the details that is a text.
    fn said(&self, names: &[&str]) -> Option<String> {
        let mut texts = names.iter().filter_map(|name| self.details.get(*name)?.as_str());
        texts.find(|text| !text.is_empty()).map(|text| cut(text, WORD_BYTES_MAX))
    }

    fn resource(&self) -> String {
        cut(&self.event.resource, WORD_BYTES_MAX)
    }

    /// The plugin that the resource is or is of.
    fn plugin(&self) -> Option<&str> {
        let rest = self.event.resource.strip_prefix("tenant/")?;
        let (_, rest) = rest.split_once("/plugin/")?;
        rest.split('/').next().filter(|name| !name.is_empty())
    }

    fn finding(&self) -> Value {
        let uid = self.said(&["finding", "incident"]).unwrap_or_else(|| self.uid.to_owned());
        let words = self.event.code.split_once(' ').map_or(self.event.code, |(_, words)| words);
        let title = self.said(&["rule"]).unwrap_or_else(|| words.replace('-', " "));
        json!({ "uid": uid, "title": title })
    }

    /// Who signs in, or was meant by somebody who could not prove that he is it.
    fn signs_in(&self) -> Value {
        let own = is_principal(&self.event.resource).then(|| self.resource());
        json!({ "uid": own.unwrap_or_else(|| cut(self.event.actor.as_str(), WORD_BYTES_MAX)) })
    }

    /// Whose access it is about. Where only the place is known, that.
    fn user(&self) -> Value {
        if let Some(uid) = self.said(&["principal", "subject"]) {
            return json!({ "uid": uid });
        }
        if let Some(name) = self.said(&["holder", "name"]) {
            return json!({ "name": name });
        }
        if is_principal(&self.event.resource) {
            return json!({ "uid": self.resource() });
        }
        if let Some(uid) = self.said(&["asked_by"]) {
            return json!({ "uid": uid });
        }
        match self.plugin() {
            Some(plugin) => json!({ "uid": self.resource(), "name": plugin, "type": "System", "type_id": 3 }),
            None => {
                json!({ "uid": self.resource(), "type": kind_of(&self.event.resource).unwrap_or("other"), "type_id": 99 })
            }
        }
    }

    /// What is given or taken; the act's own word where the event does not say.
    fn privilege(&self) -> String {
        self.said(&["role", "capability"]).unwrap_or_else(|| self.event.action.to_owned())
    }

    fn entity(&self) -> Value {
        json!({ "uid": self.resource(), "type": kind_of(&self.event.resource).unwrap_or("other") })
    }

    fn module(&self) -> Value {
        let mut module = json!({ "load_type": "Standard", "load_type_id": 1, "function_name": self.event.action });
        if let (Some(plugin), Some(members)) = (self.plugin(), module.as_object_mut()) {
            let file = json!({ "name": cut(plugin, WORD_BYTES_MAX), "type": "Regular File", "type_id": 1 });
            members.insert("file".to_owned(), file);
        }
        module
    }

    fn app(&self) -> Value {
        match self.plugin() {
            Some(plugin) => json!({ "name": cut(plugin, WORD_BYTES_MAX), "uid": self.resource() }),
            None => json!({ "name": PRODUCT, "vendor_name": PRODUCT }),
        }
    }

    /// Scheme, host and port of the origin that a plugin asked for. None where the entry is of many calls: each says its own in
    /// the details.
    fn origin(&self) -> Option<(String, String, Option<u16>)> {
        let origin = self.said(&["origin"])?;
        let (scheme, rest) = origin.split_once("://")?;
        let rest = rest.split('/').next().unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':') {
            // The colons of an IPv6 address without a port are no border.
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
            _ => (rest, None),
        };
        Some((scheme.to_owned(), host.to_owned(), port))
    }

    fn destination(&self) -> Value {
        let Some((_, hostname, port)) = self.origin() else { return json!({ "name": "several" }) };
        match port {
            Some(port) => json!({ "hostname": hostname, "port": port }),
            None => json!({ "hostname": hostname }),
        }
    }

    fn request(&self) -> Value {
        let uid = self.event.request.as_ref().map_or_else(|| self.uid.to_owned(), ToString::to_string);
        match self.origin() {
            Some((scheme, hostname, _)) => json!({ "uid": uid, "url": { "scheme": scheme, "hostname": hostname } }),
            None => json!({ "uid": uid }),
        }
    }

    fn command(&self) -> String {
        self.said(&["response", "violation"]).unwrap_or_else(|| self.uid.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::body_of;
    use crate::writer::{Draft, Phase};
    use crate::{Outcome, codes};

    /// What a body of a class must have, from <https://schema.ocsf.io/1.8.0/classes/...> (Apache-2.0, the schema's authors): the
    /// members whose requirement is "required" of the class, of its category and of the objects in them. Every class: the base
    /// event's. Not sure of, and so held to in either reading: `privileges` of 3005, `dst_endpoint` and `http_request` of 4002
    /// (required in early versions, later one of several), `compliance.control` of 2003, `type_id` of `database`.
    const REQUIRED: [(u32, &[&str]); 12] = [
        (class::MODULE_ACTIVITY, &["/actor/user/uid", "/device/type_id", "/device/name", "/module/load_type_id"]),
        (class::COMPLIANCE, &["/finding_info/uid", "/finding_info/title", "/compliance/control"]),
        (class::DETECTION, &["/finding_info/uid", "/finding_info/title"]),
        (class::INCIDENT, &["/finding_info_list/0/uid", "/finding_info_list/0/title", "/status_id"]),
        (class::AUTHENTICATION, &["/user/uid", "/service/name"]),
        (class::ENTITY_MANAGEMENT, &["/entity/uid"]),
        (class::USER_ACCESS, &["/user", "/privileges/0"]),
        (class::HTTP_ACTIVITY, &["/src_endpoint", "/dst_endpoint", "/http_request/uid"]),
        (class::APPLICATION_LIFECYCLE, &["/app/name"]),
        (class::API_ACTIVITY, &["/actor/user/uid", "/api/operation", "/src_endpoint"]),
        (class::DATASTORE, &["/actor/user/uid", "/src_endpoint", "/database/type_id", "/database/uid"]),
        (class::REMEDIATION, &["/command_uid"]),
    ];
    /// The same of every class, with the profile `security_control`.
    const OF_ALL: [&str; 13] = [
        "/activity_id",
        "/activity_name",
        "/category_uid",
        "/class_uid",
        "/metadata/product/name",
        "/metadata/product/vendor_name",
        "/metadata/version",
        "/metadata/uid",
        "/severity_id",
        "/time",
        "/type_uid",
        "/action_id",
        "/disposition_id",
    ];

    fn every_code() -> Vec<&'static str> {
        let lines = include_str!("codes.rs").lines().filter(|line| line.starts_with("pub const "));
        let all: Vec<_> = lines.filter_map(|line| line.split('"').nth(1)).filter(|code| code.contains(' ')).collect();
        assert!(all.len() > 100, "{}", all.len());
        all
    }

    fn body(code: &'static str, resource: &str, details: Value) -> Value {
        let mut event = Event::new(code, "act", "acme/ada".parse().unwrap(), resource);
        event.details = details;
        body_of(&mut Draft { event, phase: Phase::Single, outcome: Outcome::Success }, 7, 5, "acme", false)
    }

    #[test]
    fn a_body_of_every_code_has_what_its_class_requires_whatever_the_event_lacks() {
        for code in every_code() {
            for resource in ["host", "tenant/acme", "tenant/acme/plugin/visits", "acme/ann", "", "///"] {
                let body = body(code, resource, Value::Null);
                let class = codes::class_of(code);
                let (_, of_class) = REQUIRED.iter().find(|(known, _)| *known == class).unwrap();
                for pointer in OF_ALL.iter().chain(of_class.iter()) {
                    let found = body.pointer(pointer).unwrap_or(&Value::Null);
                    assert!(!found.is_null(), "`{code}` on `{resource}`: {pointer} of {class}: {body:#}");
                }
                // Of an endpoint, and of a user, one member that names it is asked for.
                for (object, names) in [
                    ("src_endpoint", ["ip", "svc_name"]),
                    ("dst_endpoint", ["hostname", "name"]),
                    ("user", ["uid", "name"]),
                ] {
                    let named = |found: &Value| names.iter().any(|name| found[*name].is_string());
                    assert!(body.get(object).is_none_or(named), "`{code}`: {body:#}");
                }
            }
        }
    }

    #[test]
    fn every_activity_is_one_of_its_class_and_has_its_name() {
        for code in every_code() {
            let (class, activity) = (codes::class_of(code), codes::activity_of(code));
            assert!(activity == 99 || activity_name(class, activity).is_some(), "`{code}`: {activity} of {class}");
            let body = body(code, "tenant/acme", Value::Null);
            let name = activity_name(class, activity).unwrap_or("act");
            assert_eq!(
                (&body["activity_name"], &body["type_uid"]),
                (&json!(name), &json!(class * 100 + u32::from(activity)))
            );
        }
    }

    #[test]
    fn an_activity_says_what_was_done() {
        for (code, says) in [
            (codes::TRUST_CHANGED, "Update"),
            (codes::SIGN_IN_CHANGED, "Update"),
            (codes::RISK_ADJUSTED, "act"),
            (codes::FACTOR_CHANGED, "act"),
            (codes::STEPPED_UP, "act"),
            (codes::SIGN_IN_REFUSED, "Logon"),
            (codes::TENANT_SUSPENDED, "Disable"),
            (codes::VERSION_DEPLOYED, "Update"),
            (codes::PERSONAL_OPENED, "Decrypt"),
            (codes::RESPONSE_UNDONE, "Restore"),
            (codes::CAPABILITY_REVOKED, "Revoke Privileges"),
        ] {
            assert_eq!(body(code, "tenant/acme", Value::Null)["activity_name"], says, "{code}");
        }
    }

    #[test]
    fn whose_access_it_is_is_said_by_the_details_before_the_place() {
        let user = |resource: &str, details: Value| body(codes::ELEVATION_ENDED, resource, details)["user"].clone();
        assert_eq!(user("tenant/acme", json!({ "principal": "acme/bob" })), json!({ "uid": "acme/bob" }));
        assert_eq!(user("tenant/acme", json!({ "name": "bob" })), json!({ "name": "bob" }));
        assert_eq!(user("acme/bob", Value::Null), json!({ "uid": "acme/bob" }));
        assert_eq!(user("tenant/acme/plugin/p", Value::Null)["name"], "p");
        assert_eq!(user("tenant/acme", json!({ "principal": 7 }))["type"], "tenant");
        let long = user("tenant/acme", json!({ "principal": "x".repeat(5_000) }));
        assert_eq!(long["uid"].as_str().unwrap().len(), WORD_BYTES_MAX);
    }

    #[test]
    fn an_outgoing_request_says_where_it_was_to() {
        for (origin, endpoint) in [
            ("https://a.example", json!({ "hostname": "a.example" })),
            ("http://a.example:8080", json!({ "hostname": "a.example", "port": 8080 })),
            ("https://[2001:db8::1]", json!({ "hostname": "[2001:db8::1]" })),
            ("https://[2001:db8::1]:444", json!({ "hostname": "[2001:db8::1]", "port": 444 })),
            ("nonsense", json!({ "name": "several" })),
        ] {
            let body = body(codes::EGRESS_REFUSED, "tenant/acme/plugin/p", json!({ "origin": origin }));
            assert_eq!(body["dst_endpoint"], endpoint, "{origin}");
        }
    }
}
