//! Errors: golden texts for people, the API's JSON for scripts, and the exit code of each.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::harness::{Outcome, Person, Reply, StandIn};
use crate::help::golden;

fn acme<'a>(host: &'a StandIn, args: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["--host", host.address.as_str(), "--tenant", "acme"];
    all.extend_from_slice(args);
    all
}

fn ended(outcome: &Outcome, code: u8) {
    assert_eq!(outcome.exit, ExitCode::from(code), "{outcome:?}");
    assert_eq!(outcome.out, "", "an error leaves standard output empty");
}

#[test]
fn a_need_that_is_not_granted_is_a_table_with_the_command_that_grants_it() {
    let host = StandIn::start();
    let mut problem: Value = json!({ "type": "/docs/errors/need-not-granted", "title": "Conflict", "status": 409,
        "code": "need-not-granted", "detail": "`visits@0.2.0` needs `http`, which tenant `acme` has not granted",
        "help": "an acme admin can run\nringfence grant visits http https://api.example.com" });
    problem["needs"] = json!([{ "capability": "keyvalue", "granted": true, "new": false },
        { "capability": "http", "scope": "https://api.example.com", "granted": false, "new": true }]);
    host.tell("POST /tenants/acme/plugins/visits/deploy", Reply::json(409, problem));
    let outcome = Person::with_key().run(&acme(&host, &["deploy", "visits@0.2.0"]));
    ended(&outcome, 6);
    golden("error-need-not-granted", &outcome.err);
}

#[test]
fn a_denial_names_the_decision_to_ask_about() {
    let host = StandIn::start();
    let problem = json!({ "type": "/docs/errors/denied", "title": "Forbidden", "status": 403, "code": "denied",
        "detail": "`acme/ada` may not deploy `visits` in tenant `acme`", "help": "ask an acme admin",
        "decision_id": "d_u5ikx6nyz2ehd2sylqkcbxm7sa" });
    host.tell("POST /tenants/acme/plugins/visits/deploy", Reply::json(403, problem));
    let outcome = Person::with_key().run(&acme(&host, &["deploy", "visits@0.1.0"]));
    ended(&outcome, 4);
    golden("error-denied", &outcome.err);
}

#[test]
fn what_does_not_exist_is_not_found() {
    let host = StandIn::start();
    host.tell("GET /tenants/acme/plugins/nope", Reply::problem(404, "not-found", "there is no such thing here", None));
    let outcome = Person::with_key().run(&acme(&host, &["status", "nope"]));
    ended(&outcome, 5);
    golden("error-not-found", &outcome.err);
}

#[test]
fn too_much_says_when_to_try_again() {
    let host = StandIn::start();
    let reply =
        Reply::problem(429, "throttled", "too many sign-ins from this address", None).header("retry-after", "5");
    host.tell("GET /tenants/acme/secrets", reply);
    let outcome = Person::with_key().run(&acme(&host, &["secret", "list"]));
    ended(&outcome, 7);
    golden("error-limited", &outcome.err);
}

#[test]
fn a_host_that_is_not_there_is_unreachable() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let outcome = Person::with_key().run(&["--host", &address, "whoami"]);
    ended(&outcome, 8);
    golden("error-unreachable", &outcome.err.replace(&address, "http://127.0.0.1:7000"));
}

#[test]
fn a_wrong_manifest_is_pointed_at() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[plugin]\nname = \"visits\"\nversion = \"0.1.0\"\n\n[budget]\ncpu_ms = 50\nmemroy_mib = 32\n";
    std::fs::write(folder.path().join("plugin.toml"), text).unwrap();
    let dir = folder.path().to_str().unwrap();
    let outcome = Person::with_key().run(&["push", dir]);
    ended(&outcome, 1);
    golden("error-bad-manifest", &outcome.err.replace(&format!("{dir}/"), ""));
}

#[test]
fn a_plugin_that_is_not_built_says_how_to_build_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("plugin.toml"), "[plugin]\nname = \"visits\"\nversion = \"0.1.0\"\n").unwrap();
    let dir = folder.path().to_str().unwrap();
    let outcome = Person::with_key().run(&["push", dir]);
    ended(&outcome, 1);
    golden("error-not-built", &outcome.err.replace(dir, "visits"));
}

#[test]
fn nobody_signed_in_is_told_how() {
    let outcome = Person::new().run(&["--tenant", "acme", "secret", "list"]);
    ended(&outcome, 3);
    golden("error-not-signed-in", &outcome.err);
}

#[test]
fn an_expired_or_revoked_key_ends_with_sign_in() {
    let host = StandIn::start();
    host.tell("POST /zero-trust/authenticate", Reply::problem(401, "sign-in-refused", "the key is not taken", None));
    let outcome = Person::with_key().run(&acme(&host, &["secret", "list"]));
    ended(&outcome, 3);
}

#[test]
fn wrong_usage_ends_with_two_and_names_the_word() {
    let outcome = Person::new().run(&["grant", "visits", "htp"]);
    ended(&outcome, 2);
    assert!(outcome.err.starts_with("error[usage]: "), "{}", outcome.err);
    assert!(
        outcome.err.contains(
            "one of keyvalue, config, logging, secrets, http, blob, files, pii, queue, identity, audit, runs"
        ),
        "{}",
        outcome.err
    );
    let outcome = Person::new().run(&["deploy", "visits"]);
    ended(&outcome, 2);
    assert!(outcome.err.contains("visits@0.1.0"), "{}", outcome.err);
    for flag in ["--from", "--to"] {
        let outcome = Person::new().run(&["usage", flag, "yesterday"]);
        ended(&outcome, 2);
        assert!(outcome.err.contains("that is no time; one is `2026-11-20T08:00:00Z`"), "{}", outcome.err);
    }
}

#[test]
fn with_json_an_error_is_the_hosts_problem_on_standard_error() {
    let host = StandIn::start();
    host.tell("GET /tenants/acme/secrets", Reply::problem(403, "denied", "no", Some("ask")));
    let outcome = Person::with_key().run(&acme(&host, &["--json", "secret", "list"]));
    ended(&outcome, 4);
    let problem: Value = serde_json::from_str(&outcome.err).unwrap();
    assert_eq!((problem["code"].as_str(), problem["status"].as_u64()), (Some("denied"), Some(403)));
    let usage = Person::new().run(&["--json", "deploy"]);
    ended(&usage, 2);
    let problem: Value = serde_json::from_str(&usage.err).unwrap();
    assert_eq!((problem["code"].as_str(), problem["status"].as_u64()), (Some("usage"), Some(0)));
}

#[test]
fn an_answer_from_something_else_is_said_to_be_one() {
    let host = StandIn::start();
    host.tell("GET /whoami", Reply::text(200, "text/html", "<html>"));
    let outcome = Person::with_key().run(&["--host", &host.address, "whoami"]);
    ended(&outcome, 1);
    assert!(outcome.err.starts_with("error[unexpected-answer]"), "{}", outcome.err);
    host.tell("GET /whoami", Reply::text(302, "text/html", "").header("location", "http://127.0.0.1:1/steal"));
    let outcome = Person::with_key().run(&["--host", &host.address, "whoami"]);
    ended(&outcome, 1);
}

#[test]
fn every_dangerous_verb_names_the_missing_flag_without_a_terminal() {
    let verbs: [&[&str]; 5] = [
        &["tenant", "delete", "acme"],
        &["tenant", "suspend", "acme"],
        &["secret", "delete", "key"],
        &["token", "revoke", "k1"],
        &["config", "delete", "visits", "a"],
    ];
    for verb in verbs {
        let outcome = Person::with_key().run(verb);
        ended(&outcome, 2);
        assert!(outcome.err.contains("--yes"), "{verb:?}: {}", outcome.err);
    }
}

#[test]
fn text_from_the_host_cannot_steer_the_terminal() {
    let host = StandIn::start();
    host.tell("GET /tenants/acme/secrets", Reply::problem(403, "denied", "\u{1b}[2J\u{1b}]0;owned\u{7}", None));
    let outcome = Person::with_key().run(&acme(&host, &["secret", "list"]));
    assert!(!outcome.err.contains('\u{1b}') && !outcome.err.contains('\u{7}'), "{:?}", outcome.err);
}
