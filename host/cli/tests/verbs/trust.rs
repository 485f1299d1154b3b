//! `trust` and `device`: what is sent, what is shown, and what waits for another.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::harness::{Outcome, Person, Reply, StandIn};
use crate::help::golden;

fn run(host: &StandIn, person: &Person, args: &[&str]) -> Outcome {
    let mut all = vec!["--host", host.address.as_str()];
    all.extend_from_slice(args);
    person.run(&all)
}

fn good(host: &StandIn, person: &Person, args: &[&str]) -> String {
    let outcome = run(host, person, args);
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{args:?}: {outcome:?}");
    outcome.out
}

fn thresholds() -> Value {
    json!({ "floor": 20, "invoke": 30, "read": 40, "change": 60, "administer": 80 })
}

fn settings() -> Value {
    json!({ "thresholds": thresholds(), "verify_interval_seconds": 120, "credential_days_max": 90,
        "hours_utc": { "from": 6, "to": 20 },
        "device_posture": { "issuers": [{ "name": "mdm", "key": "AA" }], "required": ["disk_encrypted"] },
        "changed_at": "2026-11-01T00:00:00Z", "changed_by": "acme/ann", "approved_by": "acme/bob" })
}

fn asked() -> Value {
    json!({ "thresholds": thresholds() })
}

fn adjustment(state: &str) -> Value {
    json!({ "id": "ra_1", "subject": "acme/ann", "delta": -30, "effective_score": 55, "reason": "seen twice",
        "state": state, "by": "acme/bob", "at": "2026-11-22T00:00:00Z", "expires_at": "2026-11-23T00:00:00Z",
        "signature": "AA" })
}

fn device(name: &str) -> Value {
    json!({ "principal": "acme/ann", "device": { "name": name, "registered_at": "2026-11-01T00:00:00Z",
        "current": false, "found": { "verdict": "verified", "claims": { "disk_encrypted": true }, "issuer": "mdm",
            "at": "2026-11-22T00:00:00Z", "expires_at": "2026-11-22T12:00:00Z", "holds_key": true } } })
}

fn file(person: &Person, body: &Value) -> String {
    let path = person.home.path().join("trust.json");
    std::fs::write(&path, body.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_score_is_shown_signal_by_signal_and_another_is_asked_for_by_name() {
    let (host, person) = (StandIn::start(), Person::with_key());
    let score = json!({
        "session_id": "s_1", "principal": "acme/ann", "score": 70, "thresholds": thresholds(),
        "computed_at": "2026-11-22T00:00:00Z",
        "signals": [
            { "name": "strength", "value": "two-factors", "source": "sign-in", "age_seconds": 0, "effect": -10 },
            { "name": "network", "value": "unknown", "source": "connection", "effect": -20 },
        ],
    });
    host.tell("GET /zero-trust/trust-score", Reply::json(200, score.clone()));
    golden("trust-score", &good(&host, &person, &["trust", "score"]));
    assert_eq!(host.last().0, "GET /api/v1/zero-trust/trust-score");
    host.tell("GET /zero-trust/trust-score", Reply::json(200, score.clone()));
    let shown = good(&host, &person, &["trust", "score", "--subject", "acme/ann", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), score);
    assert!(host.last().0.ends_with("?subject=acme%2Fann"), "{}", host.last().0);
    host.tell("GET /zero-trust/trust-score", Reply::problem(404, "not-found", "no such thing", None));
    assert_eq!(run(&host, &person, &["trust", "score", "--subject", "zeta/x"]).exit, ExitCode::from(5));
}

#[test]
fn settings_are_shown_and_sent_as_they_stand_in_the_file() {
    let (host, person) = (StandIn::start(), Person::with_key());
    host.tell("GET /tenants/acme/trust", Reply::json(200, settings()));
    golden("trust-settings", &good(&host, &person, &["trust", "settings"]));
    let file = file(&person, &asked());
    host.tell("PUT /tenants/acme/trust", Reply::json(200, settings()));
    let out = good(&host, &person, &["trust", "settings", "--set", &file]);
    assert!(out.starts_with("in force\n"), "{out}");
    assert_eq!(host.last(), ("PUT /api/v1/tenants/acme/trust".to_owned(), asked()));
}

#[test]
fn settings_that_ask_for_less_say_who_has_to_agree() {
    let (host, person) = (StandIn::start(), Person::with_key());
    let file = file(&person, &asked());
    let waiting = json!({ "id": "ap_1", "kind": "trust", "wants": "less", "asked_by": "acme/ci",
        "at": "2026-11-22T00:00:00Z", "expires_at": "2026-11-23T00:00:00Z" });
    host.tell("PUT /tenants/acme/trust", Reply::json(202, waiting));
    let out = good(&host, &person, &["trust", "settings", "--set", &file]);
    assert!(out.contains("ringfence approval approve ap_1"), "{out}");
    assert!(!out.contains("in force"), "{out}");
}

#[test]
fn a_file_that_is_no_settings_is_not_sent() {
    let (host, person) = (StandIn::start(), Person::with_key());
    // What is shown is not what can be set: it would take roots and certificates away.
    let file = file(&person, &settings());
    let refused = run(&host, &person, &["trust", "settings", "--set", &file]);
    assert_eq!(refused.exit, ExitCode::from(1), "{refused:?}");
    assert!(refused.err.contains("bad-json"), "{}", refused.err);
    assert!(host.seen().is_empty());
}

#[test]
fn what_is_asked_of_operators_is_theirs_and_shows_what_waits() {
    let (host, person) = (StandIn::start(), Person::with_key());
    let wanted = json!({ "sessions": settings(), "unbound_tokens": "allowed", "by": "operator/ann",
        "at": "2026-11-22T00:00:00Z", "until": "2026-11-23T00:00:00Z" });
    let view = json!({ "sessions": settings(), "unbound_tokens": "refused", "waiting": wanted });
    let body = json!({ "sessions": asked(), "unbound_tokens": "allowed" });
    let file = file(&person, &body);
    host.tell("PUT /trust", Reply::json(202, view));
    let out = good(&host, &person, &["trust", "settings", "--operator", "--set", &file]);
    assert_eq!(host.last(), ("PUT /api/v1/trust".to_owned(), body));
    assert!(out.contains("wanted by operator/ann"), "{out}");
    assert!(out.contains("refused") && out.contains("allowed"), "{out}");
    host.tell("GET /trust", Reply::json(200, json!({ "sessions": settings(), "unbound_tokens": "refused" })));
    let out = good(&host, &person, &["trust", "settings", "--operator"]);
    assert!(!out.contains("wanted by"), "{out}");
}

#[test]
fn a_posture_is_a_line_for_each_check() {
    let (host, person) = (StandIn::start(), Person::with_key());
    let line = |check: &str, state: &str| json!({ "check": check, "state": state, "value": "v", "source": "identity" });
    let posture = json!({ "place": "acme", "as_of": "2026-11-22T00:00:00Z",
        "counts": { "pass": 1, "fail": 1, "unknown": 1, "shown": 1 },
        "checks": [line("audit-writable", "pass"), line("keys-end", "fail"), line("held", "shown"),
            line("second-factors", "unknown")],
        "findings": { "high": 2 }, "blind_spots": ["no channel tells people of findings"] });
    host.tell("GET /zero-trust/security-posture", Reply::json(200, posture));
    golden("trust-posture", &good(&host, &person, &["trust", "posture"]));
}

#[test]
fn risk_is_raised_at_once_and_lowered_by_two() {
    let (host, person) = (StandIn::start(), Person::with_key());
    host.tell("PUT /zero-trust/risk-adjustment", Reply::json(200, adjustment("in-force")));
    let why = ["--for", "12h", "--reason", "seen twice"];
    let raise = [&["trust", "risk", "raise", "acme/ann", "--by", "30"][..], &why].concat();
    let out = good(&host, &person, &raise);
    assert!(out.contains("-30") && out.contains("55"), "{out}");
    let until = "2027-01-15T20:00:00Z";
    let sent = json!({ "subject": "acme/ann", "delta": -30, "reason": "seen twice", "expires_at": until });
    assert_eq!(host.last(), ("PUT /api/v1/zero-trust/risk-adjustment".to_owned(), sent));

    host.tell("PUT /zero-trust/risk-adjustment", Reply::json(200, adjustment("in-force")));
    good(&host, &person, &[&["trust", "risk", "raise", "acme", "--at-least", "50"][..], &why].concat());
    assert_eq!((&host.last().1["floor"], host.last().1.get("delta")), (&json!(50), None));

    host.tell("PUT /zero-trust/risk-adjustment", Reply::json(202, adjustment("waiting")));
    let out = good(&host, &person, &[&["trust", "risk", "lower", "acme/ann", "--by", "20"][..], &why].concat());
    assert_eq!(host.last().1["delta"], json!(20));
    assert!(out.contains("ringfence trust risk approve ra_1"), "{out}");

    host.tell("POST /zero-trust/risk-adjustments/ra_1/approve", Reply::json(200, adjustment("in-force")));
    good(&host, &person, &["trust", "risk", "approve", "ra_1"]);
}

#[test]
fn risk_needs_a_measure_and_takes_one_only() {
    let (host, person) = (StandIn::start(), Person::with_key());
    let why = ["--for", "12h", "--reason", "x"];
    let none: &[&str] = &[];
    for measure in [none, &["--by", "0"], &["--by", "101"], &["--by", "5", "--at-least", "5"]] {
        let args = [&["trust", "risk", "raise", "acme/ann"][..], measure, &why].concat();
        assert_eq!(run(&host, &person, &args).exit, ExitCode::from(2), "{args:?}");
    }
    for verb in ["approve", "withdraw"] {
        assert_eq!(run(&host, &person, &["trust", "risk", verb, "../x"]).exit, ExitCode::from(2), "{verb}");
    }
}

#[test]
fn risk_is_withdrawn_at_once_or_with_a_second_person() {
    let (host, person) = (StandIn::start(), Person::with_key());
    let withdraw = ["trust", "risk", "withdraw", "ra_1"];
    host.tell("DELETE /zero-trust/risk-adjustments/ra_1", Reply::json(202, adjustment("in-force")));
    let out = good(&host, &person, &withdraw);
    assert!(out.contains("second person") && out.contains("ringfence trust risk withdraw ra_1"), "{out}");
    host.tell("DELETE /zero-trust/risk-adjustments/ra_1", Reply::text(204, "text/plain", ""));
    assert_eq!(good(&host, &person, &withdraw), "withdrew ra_1\n");
    assert_eq!(host.last().0, "DELETE /api/v1/zero-trust/risk-adjustments/ra_1");
}

#[test]
fn risk_is_listed() {
    let (host, person) = (StandIn::start(), Person::with_key());
    let floor = json!({ "id": "ra_2", "subject": "acme", "delta": 0, "floor": 40, "reason": "breach", "state": "in-force",
        "by": "acme/bob", "at": "2026-11-22T00:00:00Z", "expires_at": "2026-11-23T00:00:00Z", "signature": "AA" });
    let mut leaving = adjustment("in-force");
    leaving["withdrawn_by"] = json!("acme/cat");
    let items = json!({ "items": [adjustment("waiting"), floor, leaving] });
    host.tell("GET /zero-trust/risk-adjustments", Reply::json(200, items));
    golden("trust-risk-list", &good(&host, &person, &["trust", "risk", "list"]));
    host.tell("GET /zero-trust/risk-adjustments", Reply::json(200, json!({ "items": [] })));
    let none = run(&host, &person, &["trust", "risk", "list"]);
    assert!(none.out.is_empty() && none.err.contains("nothing is held"), "{none:?}");
}

#[test]
fn devices_are_listed_shown_and_revoked_after_a_question() {
    let (host, person) = (StandIn::start(), Person::with_key());
    let all = || Reply::json(200, json!({ "items": [device("laptop"), device("phone")] }));
    host.tell("GET /tenants/acme/devices", all());
    golden("device-list", &good(&host, &person, &["device", "list"]));
    host.tell("GET /tenants/acme/devices", all());
    golden("device-show", &good(&host, &person, &["device", "show", "ann", "phone"]));
    host.tell("GET /tenants/acme/devices", all());
    golden("device-show", &good(&host, &person, &["device", "show", "acme/ann", "phone"]));
    let elsewhere = run(&host, &person, &["device", "show", "other/ann", "phone"]);
    assert_eq!(elsewhere.exit, ExitCode::from(5), "{elsewhere:?}");
    assert!(elsewhere.err.contains("`other/ann` is nobody of tenant `acme`"), "{elsewhere:?}");
    host.tell("GET /tenants/acme/devices", all());
    assert_eq!(run(&host, &person, &["device", "show", "bob", "phone"]).exit, ExitCode::from(5));

    let revoke = ["device", "revoke", "ann", "laptop"];
    let seen = host.seen().len();
    assert_eq!(run(&host, &person, &revoke).exit, ExitCode::from(2), "it cannot ask");
    assert_eq!(host.seen().len(), seen);
    host.tell("DELETE /tenants/acme/devices/ann/laptop", Reply::text(204, "text/plain", ""));
    let out = good(&host, &person, &[&revoke[..], &["--yes"]].concat());
    assert_eq!(out, "revoked laptop of acme/ann\n");
    host.tell("DELETE /tenants/acme/devices/ann/laptop", Reply::text(204, "text/plain", ""));
    let out = good(&host, &person, &["device", "revoke", "acme/ann", "laptop", "--yes"]);
    assert_eq!(out, "revoked laptop of acme/ann\n");
}

#[test]
fn own_devices_say_which_one_the_session_is_on() {
    let (host, person) = (StandIn::start(), Person::with_key());
    let own = json!({ "items": [
        { "name": "laptop", "registered_at": "2026-11-01T00:00:00Z", "current": true },
        { "name": "old", "registered_at": "2026-10-01T00:00:00Z", "current": false, "revoked_at": "2026-11-02T00:00:00Z" },
    ] });
    host.tell("GET /zero-trust/devices", Reply::json(200, own));
    let out = good(&host, &person, &["device", "list", "--own"]);
    let line = |name: &str| out.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("laptop").contains("unknown") && line("laptop").ends_with("this session"), "{out}");
    assert!(line("old").contains("revoked") && !line("old").contains("session"), "{out}");
}
