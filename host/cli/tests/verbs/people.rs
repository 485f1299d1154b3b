//! `login` as a person, `person`, `provider`, `access`: what is sent, what is kept, and what a session's end looks like.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::harness::{Outcome, Person, Reply, StandIn};
use crate::help::golden;

fn session(access: &str) -> Reply {
    let principal = json!({ "id": "acme/ann", "kind": "person", "role": "developer", "tenant": "acme" });
    Reply::json(
        200,
        json!({ "access_token": access, "token_type": "Bearer", "expires_in": 300, "session_id": "s_1",
            "principal": principal, "trust": { "strength": "two-factors", "score": 60 } }),
    )
}

fn sign_in(host: &StandIn, person: &Person) -> Outcome {
    host.tell("POST /zero-trust/authenticate", session("anns"));
    let args = ["login", "--host", host.address.as_str(), "--as", "acme/ann", "--password-stdin"];
    person.run_with_input(&args, "correct horse battery\n123456\n")
}

fn view(name: &str) -> Value {
    json!({ "name": name, "role": "developer", "principal": format!("acme/{name}"), "state": "enrolled",
        "invited_by": "acme/admin", "invited_at": "2026-11-01T00:00:00Z", "enrolled_at": "2026-11-02T00:00:00Z" })
}

#[test]
fn a_person_signs_in_with_password_and_code_and_only_the_session_is_kept() {
    let (host, person) = (StandIn::start(), Person::new());
    let outcome = sign_in(&host, &person);
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    let sent: Value = serde_json::from_slice(&host.sign_in_bodies()[0]).unwrap();
    let wanted = json!({ "method": "password", "principal": "acme/ann", "password": "correct horse battery",
        "code": "123456" });
    assert_eq!(sent, wanted);
    let kept = person.files();
    assert!(kept.contains("anns") && !kept.contains("horse") && !kept.contains("123456"), "{kept}");
    assert!(!format!("{}{}", outcome.out, outcome.err).contains("horse"));
    host.tell("GET /whoami", Reply::json(200, json!({ "id": "acme/ann", "kind": "person", "tenant": "acme" })));
    assert_eq!(person.run(&["whoami"]).exit, ExitCode::SUCCESS);
    assert_eq!(host.seen()[0].authorization.as_deref(), Some("Bearer anns"));
    // A session that is over is said to be; nobody signs in for a person.
    person.clock.advance(280);
    let over = person.run(&["whoami"]);
    assert_eq!(over.exit, ExitCode::from(3), "{over:?}");
    assert!(over.err.contains("session-over") && over.err.contains("--as acme/ann"), "{}", over.err);
}

#[test]
fn a_session_takes_the_place_of_a_key_only_when_that_is_wanted() {
    let (host, person) = (StandIn::start(), Person::new());
    let file = person.home.path().join("acme.key");
    std::fs::write(&file, "rfk_acme_secret\n").unwrap();
    let args = ["login", "--host", host.address.as_str(), "--token-file", file.to_str().unwrap()];
    assert_eq!(person.run(&args).exit, ExitCode::SUCCESS);
    let refused = sign_in(&host, &person);
    assert_eq!(refused.exit, ExitCode::from(2), "{refused:?}");
    assert!(person.files().contains("rfk_acme_secret"));
}

#[test]
fn an_invitation_is_shown_once_and_written_where_it_was_asked_to() {
    let (host, person) = (StandIn::start(), Person::with_key());
    let invited = json!({ "person": view("ann"), "invitation": "rfi_once", "expires_at": "2026-12-01T00:00:00Z" });
    host.tell("POST /tenants/acme/people", Reply::json(201, invited.clone()));
    let shown = person.run(&["--host", &host.address, "person", "invite", "ann", "--role", "developer"]);
    assert_eq!((shown.exit, shown.out.as_str()), (ExitCode::SUCCESS, "rfi_once\n"), "{}", shown.err);
    host.tell("POST /tenants/acme/people", Reply::json(201, invited));
    let out = person.home.path().join("ann.invitation");
    let args =
        ["--host", &host.address, "person", "invite", "ann", "--role", "developer", "--out", out.to_str().unwrap()];
    let written = person.run(&args);
    assert_eq!(written.exit, ExitCode::SUCCESS, "{written:?}");
    assert!(!written.out.contains("rfi_once"));
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "rfi_once\n");
}

#[test]
fn a_reset_invites_the_same_person_in_the_same_role_and_asks_first() {
    let (host, person) = (StandIn::start(), Person::with_key());
    let reset = ["--host", &host.address, "person", "reset", "ann"];
    assert_eq!(person.run(&reset).exit, ExitCode::from(2), "it cannot ask");
    host.tell("GET /tenants/acme/people", Reply::json(200, json!({ "items": [view("ann")] }))).tell(
        "POST /tenants/acme/people",
        Reply::json(201, json!({ "person": view("ann"), "invitation": "rfi_2", "expires_at": "x" })),
    );
    let outcome = person.run(&["--host", &host.address, "person", "reset", "ann", "--yes"]);
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    let sent: Value = serde_json::from_slice(&host.seen().last().unwrap().body).unwrap();
    assert_eq!(sent, json!({ "name": "ann", "role": "developer" }));
    host.tell("GET /tenants/acme/people", Reply::json(200, json!({ "items": [] })));
    let nobody = person.run(&["--host", &host.address, "person", "show", "eve"]);
    assert_eq!(nobody.exit, ExitCode::from(5), "{nobody:?}");
}

#[test]
fn a_provider_is_added_without_touching_the_rest_and_its_secret_comes_from_a_file() {
    let (host, person) = (StandIn::start(), Person::with_key());
    let secret = person.home.path().join("client");
    std::fs::write(&secret, "s3cret\n").unwrap();
    let view = json!({ "name": "corp", "issuer": "https://id.example", "client_id": "ringfence", "has_secret": true,
        "redirect_uris": ["http://127.0.0.1/callback"], "roles": [] });
    host.tell("PUT /tenants/acme/sign-in/providers/corp", Reply::json(200, view));
    let args = [
        "--host",
        &host.address,
        "provider",
        "add",
        "corp",
        "--issuer",
        "https://id.example",
        "--client-id",
        "ringfence",
        "--role",
        "groups=devs:developer",
        "--secret-file",
        secret.to_str().unwrap(),
    ];
    let outcome = person.run(&args);
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    let sent: Value = serde_json::from_slice(&host.seen()[0].body).unwrap();
    let wanted = json!({ "name": "corp", "issuer": "https://id.example", "client_id": "ringfence",
        "client_secret": "s3cret", "redirect_uris": ["http://127.0.0.1/callback"],
        "roles": [{ "claim": "groups", "value": "devs", "role": "developer" }] });
    assert_eq!(sent, wanted);
    assert!(!format!("{}{}", outcome.out, outcome.err).contains("s3cret"));
}

#[test]
fn a_report_says_what_is_unused_and_since_when_anybody_looked() {
    let (host, person) = (StandIn::start(), Person::with_key());
    let report = json!({
        "as_of": "2026-11-22T00:00:00Z", "unused_days": 30, "watched_since": "2026-10-01T00:00:00Z",
        "resolution_seconds": 3600, "elevations": [],
        "holders": [
            { "kind": "person", "principal": "acme/ann", "role": "tenant-admin", "last_used_at": "2026-11-21T09:00:00Z",
                "state": "used", "would_do": "developer", "has_second_person": false },
            { "kind": "api-key", "key": "k7m2q4", "principal": "acme/ci", "role": "developer", "state": "unused" },
        ],
        "grants": [{ "plugin": "visits", "capability": "http", "scope": ["https://api.example.com"], "state": "unknown" }],
        "labels": [{ "principal": "acme/ann", "role": "release-manager", "given_by": "acme/bob", "state": "used",
            "last_used_at": "2026-11-21T09:00:00Z", "is_somebody": true }],
        "findings": [{ "kind": "dormant", "subject": "acme/ci k7m2q4", "detail": "developer for 30 days without a sign-in" }],
    });
    host.tell("GET /tenants/acme/access/report", Reply::json(200, report));
    let outcome = person.run(&["--host", &host.address, "access", "report", "--unused", "30"]);
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    assert!(host.seen()[0].line.ends_with("?unused_days=30"));
    golden("access-report", &outcome.out);
}

#[test]
fn an_item_of_a_review_is_decided_with_a_reason() {
    let (host, person) = (StandIn::start(), Person::with_key());
    let item = json!({ "number": 3, "kind": "api-key", "what": "key k of acme/ci as developer", "state": "unused",
        "decisions": [] });
    let id = "rv_u5ikx6nyz2ehd2sylqkcbxm7sa";
    host.tell(&format!("PUT /tenants/acme/access/reviews/{id}/items/3"), Reply::json(200, item));
    let args = ["--host", &host.address, "access", "review", "decide", id, "3", "revoke", "--reason", "left the team"];
    let outcome = person.run(&args);
    assert_eq!((outcome.exit, outcome.out.as_str()), (ExitCode::SUCCESS, "revoke: key k of acme/ci as developer\n"));
    let sent: Value = serde_json::from_slice(&host.seen()[0].body).unwrap();
    assert_eq!(sent, json!({ "choice": "revoke", "reason": "left the team" }));
}
