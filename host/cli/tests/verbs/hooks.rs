//! `hook` and `queue`: what an extension point was before is asked of the host, and shown a line each; nothing is thrown away
//! that was not named.

use std::process::ExitCode;

use serde_json::json;

use crate::harness::{Person, Reply, StandIn};

#[test]
fn earlier_declarations_are_shown_a_line_each_and_none_is_said() {
    let host = StandIn::start();
    let declared = |version: u32, mode: &str, deadline_ms: u64| {
        json!({ "name": "visit.validate", "version": version, "declared_at": "2026-01-02T03:04:05Z", "declared_by": "ann",
            "declaration": { "mode": mode, "payload": {}, "deadline_ms": deadline_ms, "on_failure": "closed",
                "result_bytes_max": 1_024, "binders": "several" } })
    };
    let page = json!({ "items": [declared(2, "validate", 900), declared(1, "collect", 100)], "cursor": null });
    host.tell("GET /hooks/visit.validate/earlier", Reply::json(200, page))
        .tell("GET /hooks/visit.validate/earlier", Reply::json(200, json!({ "items": [], "cursor": null })));
    let person = Person::with_key();
    let earlier = ["--host", host.address.as_str(), "hook", "earlier", "visit.validate"];
    let outcome = person.run(&earlier);
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    let lines: Vec<Vec<&str>> = outcome.out.lines().map(|line| line.split_whitespace().collect()).collect();
    let at = "2026-01-02T03:04:05Z";
    assert_eq!(lines.len(), 3, "{}", outcome.out);
    assert_eq!(lines[1], ["2", "validate", "closed", "900", "ms", at, "ann"]);
    assert_eq!(lines[2], ["1", "collect", "closed", "100", "ms", at, "ann"]);
    let outcome = person.run(&earlier);
    assert_eq!((outcome.exit, outcome.out.as_str()), (ExitCode::SUCCESS, ""));
    assert!(outcome.err.contains("declared once"), "{outcome:?}");
}

#[test]
fn bindings_are_shown_a_line_each_with_order_and_condition_and_a_doubtful_one_is_told() {
    let host = StandIn::start();
    let bound = |plugin: &str, order: i32, condition: Option<&str>| {
        json!({ "hook": "visit.validate", "plugin": plugin, "order": order, "condition": condition,
            "bound_at": "2026-01-02T03:04:05Z", "bound_by": "acme/ann" })
    };
    let point = |name: &str| {
        json!({ "name": name, "version": 1, "declared_at": "2026-01-02T03:04:05Z", "declared_by": "ada",
            "declaration": { "mode": "validate", "payload": {}, "deadline_ms": 900, "on_failure": "closed",
                "result_bytes_max": 1_024, "binders": "several" } })
    };
    let hook = |name: &str, bindings: serde_json::Value| {
        let mut hook = point(name);
        hook["bindings"] = bindings;
        hook
    };
    let bindings = json!([bound("care", -1, None), bound("audit", 5, Some("payload.total>100"))]);
    let items = json!([hook("visit.validate", bindings), hook("visit.done", json!([]))]);
    host.tell("GET /tenants/acme/hooks", Reply::json(200, json!({ "items": items, "cursor": null })));
    let person = Person::with_key();
    let outcome = person.run(&["--host", &host.address, "hook", "list"]);
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    let lines: Vec<Vec<&str>> = outcome.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[1], ["visit.validate", "validate", "-1", "care"]);
    assert_eq!(lines[2], ["visit.validate", "validate", "5", "audit", "payload.total>100"]);
    assert_eq!(lines[3], ["visit.done", "validate"]);
    let mut doubtful = bound("care", 0, Some("payload.totl > 100"));
    doubtful["warnings"] = json!(["the point's schema does not name `payload.totl`"]);
    host.tell("PUT /tenants/acme/hooks/visit.validate/bindings/care", Reply::json(200, doubtful));
    let bind = ["hook", "bind", "visit.validate", "care", "--condition", "payload.totl > 100"];
    let outcome = person.run(&[&["--host", host.address.as_str()][..], &bind[..]].concat());
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    assert!(outcome.out.contains("warning: the point's schema does not name `payload.totl`"), "{outcome:?}");
}

#[test]
fn dead_messages_are_discarded_by_name_or_all_and_never_by_silence() {
    let host = StandIn::start();
    let outcome = Person::with_key().run(&["--host", &host.address, "queue", "discard", "mail"]);
    assert_eq!(outcome.exit, ExitCode::from(2), "{outcome:?}");
    assert!(outcome.err.contains("`--all`") && outcome.err.contains("ringfence queue dead mail"), "{outcome:?}");
    assert!(host.seen().is_empty(), "the host was not asked");
}
