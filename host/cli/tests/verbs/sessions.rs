//! `session`, `factor`, `approval`, `elevation`, and what a sign-in says that was refused: what is sent and what is shown.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::harness::{Outcome, Person, Reply, StandIn};

fn run(host: &StandIn, person: &Person, args: &[&str], input: &'static str) -> Outcome {
    person.run_with_input(&[&["--host", host.address.as_str()], args].concat(), input)
}

fn good(host: &StandIn, person: &Person, args: &[&str], input: &'static str) -> Outcome {
    let outcome = run(host, person, args, input);
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{args:?}: {outcome:?}");
    outcome
}

fn none() -> Reply {
    Reply::text(204, "text/plain", "")
}

fn sessions() -> Reply {
    let one = |id: &str, current: bool| {
        json!({ "id": id, "principal": "acme/ann", "role": "developer", "method": "password", "strength": "secret",
            "bound_to": "key", "source": "192.0.2.7", "opened_at": "2026-11-22T00:00:00Z",
            "expires_at": "2026-11-22T00:05:00Z", "current": current })
    };
    Reply::json(200, json!({ "items": [one("s_1", true), one("s_2", false)] }))
}

#[test]
fn sessions_are_listed_and_ended_ones_own_a_tenants_and_the_operators() {
    let (host, person) = (StandIn::start(), Person::with_key());
    let places = [
        (&[][..], "/tenants/acme/sessions"),
        (&["--own"][..], "/zero-trust/sessions"),
        (&["--operator"][..], "/sessions"),
    ];
    for (flags, path) in places {
        host.tell(&format!("GET {path}"), sessions());
        let out = good(&host, &person, &[&["session", "list"], flags].concat(), "").out;
        let line = |id: &str| out.lines().find(|line| line.starts_with(id)).unwrap_or_default().to_owned();
        assert!(line("s_1").contains("192.0.2.7") && line("s_1").ends_with("this session"), "{out}");
        assert!(line("s_2").contains("acme/ann") && !line("s_2").contains("this session"), "{out}");
        host.tell(&format!("DELETE {path}/s_2"), none());
        let out = good(&host, &person, &[&["session", "end", "s_2"], flags].concat(), "").out;
        assert_eq!(out, "ended s_2\n");
        assert_eq!(host.last().0, format!("DELETE /api/v1{path}/s_2"));
    }
    assert_eq!(run(&host, &person, &["session", "end", "../x"], "").exit, ExitCode::from(2));
}

#[test]
fn one_time_codes_are_made_confirmed_and_removed() {
    let (host, person) = (StandIn::start(), Person::with_key());
    let offer = json!({ "secret": "JBSWY3DP", "uri": "otpauth://totp/x" });
    host.tell("POST /zero-trust/factors/codes", Reply::json(200, offer));
    let outcome = good(&host, &person, &["factor", "codes"], "");
    assert!(outcome.out.contains("JBSWY3DP") && outcome.out.contains("otpauth://totp/x"), "{outcome:?}");
    assert!(outcome.err.contains("ringfence factor confirm"), "{outcome:?}");

    let recovery = json!({ "recovery_codes": ["aaaa-bbbb", "cccc-dddd"] });
    host.tell("POST /zero-trust/factors/codes/confirm", Reply::json(200, recovery));
    let outcome = good(&host, &person, &["factor", "confirm", "--code-stdin"], " 123456\n");
    assert_eq!(outcome.out, "aaaa-bbbb\ncccc-dddd\n");
    assert_eq!(host.last().1, json!({ "code": "123456" }));

    assert_eq!(run(&host, &person, &["factor", "remove-codes"], "").exit, ExitCode::from(2), "it cannot ask");
    host.tell("DELETE /zero-trust/factors/codes", none());
    good(&host, &person, &["factor", "remove-codes", "--yes"], "");

    let factors = json!({ "password_since": "2026-11-01T00:00:00Z", "recovery_codes_count": 0, "passkeys": [] });
    host.tell("GET /zero-trust/factors", Reply::json(200, factors));
    let out = good(&host, &person, &["factor", "show"], "").out;
    assert_eq!(out, "password        since 2026-11-01T00:00:00Z\none-time codes  none\nrecovery codes  0 left\n");
}

#[test]
fn a_password_is_set_from_standard_input_and_never_shown() {
    let (host, person) = (StandIn::start(), Person::with_key());
    host.tell("PUT /zero-trust/factors/password", none());
    let outcome = good(&host, &person, &["factor", "password", "--password-stdin"], "old horse\nnew correct horse\n");
    assert_eq!(host.last().1, json!({ "old": "old horse", "new": "new correct horse" }));
    assert!(!format!("{}{}", outcome.out, outcome.err).contains("horse"), "{outcome:?}");
    host.tell("PUT /zero-trust/factors/password", none());
    good(&host, &person, &["factor", "password", "--password-stdin"], "\nnew correct horse\n");
    assert_eq!(host.last().1["old"], Value::Null);
    // Without a terminal nobody can be asked.
    assert_eq!(run(&host, &person, &["factor", "password"], "").exit, ExitCode::from(2));
}

fn waiting(kind: &str, text: &str) -> Value {
    json!({ "id": "ap_1", "kind": kind, "wants": "another policy\nap_9  acme/eve", "asked_by": "acme/bea",
        "at": "2026-11-01T00:00:00Z", "expires_at": "2026-11-02T00:00:00Z", "text": text,
        "note": "open the hook\nap_8  nothing to see" })
}

#[test]
fn who_is_to_allow_a_policy_reads_it_beside_the_one_in_force_and_nothing_in_it_steers_his_terminal() {
    let (host, person) = (StandIn::start(), Person::with_key());
    let in_force = json!({ "text": "permit (a);\nforbid (b);\n", "version": 3 });
    let wide = "permit (a);\n// \u{1b}[2J\u{202e}\npermit (principal, action, resource);\n";
    for verb in [&["approval", "list"][..], &["approval", "show", "ap_1"]] {
        host.tell("GET /tenants/acme/approvals", Reply::json(200, json!({ "items": [waiting("policy", wide)] })));
        host.tell("GET /tenants/acme/policy", Reply::json(200, in_force.clone()));
        let out = good(&host, &person, verb, "").out;
        for line in [
            "  note: open the hook",
            "        ap_8  nothing to see",
            "  beside version 3, which is in force:",
            "      permit (a);",
            "    - forbid (b);",
            "    + // \\u{1b}[2J\\u{202e}",
            "    + permit (principal, action, resource);",
        ] {
            assert!(out.lines().any(|said| said == line), "{verb:?} lacks `{line}`: {out}");
        }
        assert_eq!(out.lines().any(|said| said == "ap_1:"), verb.contains(&"list"), "{out}");
        assert!(!out.lines().any(|said| said.starts_with("ap_9") || said.starts_with("ap_8")), "{out}");
        assert!(!out.contains('\u{1b}') && !out.contains('\u{202e}'), "{out}");
    }
    host.tell("GET /tenants/acme/approvals", Reply::json(200, json!({ "items": [] })));
    assert_eq!(run(&host, &person, &["approval", "show", "ap_1"], "").exit, ExitCode::from(5));
}

#[test]
fn labels_and_trust_that_wait_are_shown_too_and_a_long_change_says_where_the_rest_is() {
    let (host, person) = (StandIn::start(), Person::with_key());
    let labels = r#"{"principals":{"acme/dev":{"training":["gdpr"]}}}"#;
    host.tell("GET /tenants/acme/approvals", Reply::json(200, json!({ "items": [waiting("labels", labels)] })));
    host.tell("GET /tenants/acme/policy/labels", Reply::json(200, json!({ "labels": {}, "version": 2 })));
    let out = good(&host, &person, &["approval", "list"], "").out;
    assert!(out.contains("beside version 2") && out.contains("gdpr"), "{out}");

    let trust = r#"{"thresholds":{"floor":0,"invoke":0,"read":0,"change":0,"administer":0}}"#;
    host.tell("GET /tenants/acme/approvals", Reply::json(200, json!({ "items": [waiting("trust", trust)] })));
    let out = good(&host, &person, &["approval", "list"], "").out;
    assert!(out.contains("in whole:") && out.contains("\"administer\": 0"), "{out}");

    let long = "permit (a);\n".repeat(100);
    host.tell("GET /tenants/acme/approvals", Reply::json(200, json!({ "items": [waiting("policy", &long)] })));
    // Who may not read the policy in force sees his own request in whole.
    host.tell("GET /tenants/acme/policy", Reply::problem(403, "denied", "no", None));
    let out = good(&host, &person, &["approval", "list"], "").out;
    assert!(out.contains("more:  ringfence approval show ap_1"), "{out}");
    assert!(out.lines().count() < 60, "{out}");
}

#[test]
fn whoami_says_which_role_is_lent_and_until_when() {
    let (host, person) = (StandIn::start(), Person::with_key());
    let lent = json!({ "role": "tenant-admin", "until": "2026-11-23T21:14:00Z" });
    let who = json!({ "id": "acme/dev", "kind": "service", "role": "developer", "tenant": "acme", "lent": lent });
    host.tell("GET /whoami", Reply::json(200, who));
    let out = good(&host, &person, &["whoami"], "").out;
    assert!(out.starts_with("acme/dev (developer of tenant acme), tenant-admin until 2026-11-23T21:14:00Z\n"), "{out}");
}

#[test]
fn a_role_of_the_host_is_none_to_ask_for() {
    let (host, person) = (StandIn::start(), Person::with_key());
    let ask = ["elevation", "request", "operator", "--reason", "x"];
    assert_eq!(run(&host, &person, &ask, "").exit, ExitCode::from(2));
}

#[test]
fn a_suspended_caller_is_told_so_and_not_to_name_the_data_plane() {
    let (host, person) = (StandIn::start(), Person::with_key());
    host.tell("GET /host", Reply::problem(403, "principal-suspended", "you are suspended for now", None));
    let outcome = run(&host, &person, &["call", "hello"], "");
    assert_eq!(outcome.exit, ExitCode::from(4), "{outcome:?}");
    assert!(outcome.err.starts_with("error[principal-suspended]"), "{outcome:?}");
    host.tell("GET /host", Reply::problem(403, "denied", "no", None));
    assert!(run(&host, &person, &["call", "hello"], "").err.contains("no-plugins-host"));
}

#[test]
fn a_sign_in_that_is_refused_says_what_to_look_at_and_not_to_sign_in() {
    let refused = || Reply::problem(401, "sign-in-refused", "no", Some("ringfence login"));
    let person = Person::new();
    for (args, said) in [
        (&["login", "--as", "acme/ann", "--password-stdin"][..], "ringfence person reset NAME"),
        (&["login", "--token-stdin"], "ringfence token create NAME --role ROLE"),
    ] {
        let host = StandIn::start();
        host.tell("POST /zero-trust/authenticate", refused());
        let outcome = run(&host, &person, args, "rfk_wrong\n");
        assert_eq!(outcome.exit, ExitCode::from(3), "{outcome:?}");
        assert!(outcome.err.contains(said) && !outcome.err.contains("ringfence login"), "{outcome:?}");
    }
}

#[test]
fn an_invitation_names_who_it_is_for_whatever_is_named_beside_it() {
    let (host, person) = (StandIn::start(), Person::new());
    let file = person.home.path().join("ann.invitation");
    std::fs::write(&file, "rfi_once\n").unwrap();
    let login = |who: &str| {
        let path = file.to_str().unwrap();
        let args = ["login", "--as", who, "--invited", "--invitation-file", path, "--password-stdin"];
        good(&host, &person, &args, "correct horse battery\n")
    };
    // The stand-in signs in as `acme/ci`.
    assert!(login("acme/ann").err.contains("the invitation was for `acme/ci`"));
    assert!(!login("acme/ci").err.contains("the invitation was for"));
    let sent: Value = serde_json::from_slice(&host.sign_in_bodies()[0]).unwrap();
    assert_eq!((&sent["method"], &sent["token"]), (&json!("invitation"), &json!("rfi_once")));
}

#[test]
fn a_key_without_an_end_is_said_to_have_none() {
    let (host, person) = (StandIn::start(), Person::with_key());
    let mut created = json!({ "id": "k2", "name": "ci", "role": "developer", "principal": "acme/ci", "created_at": "t",
        "key": "rfk_k2_x" });
    host.tell("POST /tenants/acme/tokens", Reply::json(201, created.clone()));
    let outcome = good(&host, &person, &["token", "create", "ci", "--role", "developer"], "");
    assert!(outcome.err.contains("it does not expire"), "{outcome:?}");
    assert_eq!(outcome.out, "rfk_k2_x\n");
    created["expires_at"] = json!("2026-12-01T00:00:00Z");
    host.tell("POST /tenants/acme/tokens", Reply::json(201, created));
    let outcome = good(&host, &person, &["token", "create", "ci", "--role", "developer", "--expires", "1d"], "");
    assert!(outcome.err.contains("it expires at 2026-12-01") && !outcome.err.contains("does not"), "{outcome:?}");
}
