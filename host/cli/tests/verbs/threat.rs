//! `threat`: intelligence that cannot be read is told, and does not look like a bundle with nothing in it.

use std::process::ExitCode;

use serde_json::json;

use crate::harness::{Person, Reply, StandIn};

#[test]
fn objects_that_cannot_be_read_are_counted_and_named() {
    let host = StandIn::start();
    let loaded = json!({ "matched_count": 1, "unmatched_pattern_count": 0, "not_used_count": 0, "others_count": 2,
        "refused": ["indicator--1\n2: `modified` is missing"], "refused_count": 3, "looked_back_count": 9,
        "sightings_count": 0, "active_after_us": 10 });
    host.tell("POST /security/threat-intelligence", Reply::json(200, loaded));
    let person = Person::with_key();
    let file = person.home.path().join("bundle.json");
    std::fs::write(&file, r#"{"type":"bundle","objects":[]}"#).unwrap();
    let outcome = person.run(&["--host", &host.address, "threat", "intel", "--load", file.to_str().unwrap()]);
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    let lines: Vec<&str> = outcome.out.lines().collect();
    assert!(lines[0].starts_with("1 indicators are matched"), "{}", outcome.out);
    assert_eq!(lines[1..], ["3 objects cannot be read:", "  indicator--1 2: `modified` is missing"]);
}

#[test]
fn a_feed_shows_what_of_it_could_not_be_read() {
    let host = StandIn::start();
    let feed = json!({ "name": "isac", "url": "https://isac.example/api", "collection": "c", "every_seconds": 300,
        "freshness": "fresh", "answered_at": "2026-01-02T03:04:05Z", "objects_count": 40, "refused_count": 40,
        "last_refused": "an object without id: it has no `type`", "failures": 0, "made_by": "acme/ann" });
    host.tell("GET /security/feeds", Reply::json(200, json!({ "items": [feed], "cursor": null })));
    let outcome = Person::with_key().run(&["--host", &host.address, "threat", "feed", "list"]);
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    let line = outcome.out.lines().nth(1).unwrap_or_default();
    assert!(line.contains("40") && line.contains("it has no `type`"), "{}", outcome.out);
    assert!(outcome.out.contains("unreadable"), "{}", outcome.out);
}
