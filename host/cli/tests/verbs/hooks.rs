//! `hook`: what an extension point was before is asked of the host, and shown a line each.

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
