//! What is sent, with which key, and what is kept: sign-in, tokens, profiles, uploads, secrets, policies.

use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;

use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::harness::{Person, Reply, StandIn};

fn principal(id: &str, role: &str, tenant: Option<&str>) -> Value {
    json!({ "id": id, "kind": "person", "role": role, "tenant": tenant })
}

fn token(access: &str, principal: &Value) -> Reply {
    Reply::json(
        200,
        json!({ "access_token": access, "token_type": "Bearer", "expires_in": 300, "session_id": "s_1",
            "principal": principal, "trust": { "strength": "secret", "score": 30 } }),
    )
}

/// A person signed in as tenant acme's admin through a key file.
fn signed_in(host: &StandIn) -> Person {
    let person = Person::new();
    let file = person.home.path().join("acme.key");
    std::fs::write(&file, "rfk_acme_secret\n").unwrap();
    let outcome = person.run(&["login", "--host", &host.address, "--token-file", file.to_str().unwrap()]);
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    std::fs::remove_file(file).unwrap();
    person
}

#[test]
fn an_enrolment_token_becomes_an_operator_key_and_is_not_kept() {
    let host = StandIn::start();
    let operator = principal("operator/ada", "operator", None);
    host.tell("POST /zero-trust/authenticate", token("first", &operator))
        .tell(
            "POST /tokens",
            Reply::json(
                201,
                json!({ "id": "k1", "name": "ada", "role": "operator", "principal": "operator/ada",
                    "created_at": "2026-11-21T00:00:00Z", "key": "rfk_k1_operator" }),
            ),
        )
        .tell("POST /zero-trust/authenticate", token("second", &operator));
    let person = Person::new();
    let args = ["login", "--host", host.address.as_str(), "--token-stdin", "--name", "ada"];
    let outcome = person.run_with_input(&args, "enrolment-token\n");
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    let created = host.seen().remove(0);
    assert_eq!(created.line, "POST /api/v1/tokens");
    assert_eq!(created.authorization.as_deref(), Some("Bearer first"));
    let body: Value = serde_json::from_slice(&created.body).unwrap();
    assert_eq!(body, json!({ "name": "ada", "role": "operator" }));
    let kept = person.files();
    assert!(kept.contains("rfk_k1_operator") && !kept.contains("enrolment-token"), "{kept}");
    assert!(!format!("{}{}", outcome.out, outcome.err).contains("rfk_"), "a key was printed");
}

#[test]
fn a_token_file_that_is_gone_may_have_been_the_enrolment_token_that_was_used() {
    let (host, person) = (StandIn::start(), Person::new());
    let gone = person.home.path().join("operator.token");
    let outcome = person.run(&["login", "--host", &host.address, "--token-file", gone.to_str().unwrap()]);
    assert_eq!(outcome.exit, ExitCode::FAILURE, "{outcome:?}");
    assert!(outcome.err.contains("operator.token` does not exist"), "{}", outcome.err);
    assert!(outcome.err.contains("an enrolment token signs in once"), "{}", outcome.err);
    assert!(host.seen().is_empty(), "nothing was asked");
}

#[test]
fn a_token_is_kept_until_shortly_before_its_end() {
    let host = StandIn::start();
    let person = signed_in(&host);
    assert_eq!(host.sign_ins(), 1);
    let whoami = |person: &Person| {
        host.tell("GET /whoami", Reply::json(200, principal("acme/ci", "tenant-admin", Some("acme"))));
        let outcome = person.run(&["whoami"]);
        assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
        host.seen().pop().unwrap().authorization.unwrap()
    };
    assert_eq!(whoami(&person), "Bearer token-1");
    person.clock.advance(269);
    assert_eq!(whoami(&person), "Bearer token-1");
    assert_eq!(host.sign_ins(), 1);
    person.clock.advance(2);
    assert_eq!(whoami(&person), "Bearer token-2");
    assert_eq!(whoami(&person), "Bearer token-2");
    assert_eq!(host.sign_ins(), 2);
}

#[test]
fn a_kept_token_that_is_no_longer_taken_is_replaced_once() {
    let host = StandIn::start();
    let person = signed_in(&host);
    let refused = || Reply::problem(401, "unauthenticated", "the session has ended", None);
    host.tell("GET /whoami", refused())
        .tell("GET /whoami", Reply::json(200, principal("acme/ci", "tenant-admin", Some("acme"))));
    assert_eq!(person.run(&["whoami"]).exit, ExitCode::SUCCESS);
    host.tell("GET /whoami", refused()).tell("GET /whoami", refused());
    assert_eq!(person.run(&["whoami"]).exit, ExitCode::from(3));
    assert_eq!(host.sign_ins(), 3);
}

#[test]
fn a_key_goes_to_its_own_host_only() {
    let (host, other) = (StandIn::start(), StandIn::start());
    let person = signed_in(&host);
    let outcome = person.run(&["whoami", "--host", &other.address]);
    assert_eq!(outcome.exit, ExitCode::from(3), "{outcome:?}");
    assert_eq!((other.sign_ins(), other.seen().len()), (0, 0));
}

#[test]
fn a_key_of_another_tenant_is_not_taken_for_the_one_named() {
    let host = StandIn::start();
    let person = Person::new();
    let args = ["login", "--host", host.address.as_str(), "--tenant", "globex", "--token-stdin"];
    let outcome = person.run_with_input(&args, "rfk_acme_secret");
    assert_eq!(outcome.exit, ExitCode::from(2), "{outcome:?}");
    assert!(!person.files().contains("rfk_"));
}

#[test]
fn json_is_exactly_what_the_host_answered() {
    let host = StandIn::start();
    let body = "{\"items\":[{\"name\":\"a\",\"set_at\":\"2026-11-21T00:00:00Z\",\"later\":1}]}";
    host.tell("GET /tenants/acme/secrets", Reply::text(200, "application/json", body));
    let outcome = Person::with_key().run(&["--host", &host.address, "--json", "secret", "list"]);
    assert_eq!(outcome.out, format!("{body}\n"));
    assert_eq!(outcome.err, "");
}

#[test]
fn a_list_is_read_to_its_end() {
    let host = StandIn::start();
    let item = |name: &str| json!({ "name": name, "set_at": "t" });
    host.tell("GET /tenants/acme/secrets", Reply::json(200, json!({ "items": [item("a")], "cursor": "c1" })))
        .tell("GET /tenants/acme/secrets?cursor=c1", Reply::json(200, json!({ "items": [item("b")] })));
    let outcome = Person::with_key().run(&["--host", &host.address, "--json", "secret", "list"]);
    let all: Value = serde_json::from_str(&outcome.out).unwrap();
    assert_eq!(all, json!({ "items": [item("a"), item("b")] }));
}

#[test]
fn a_push_sends_the_manifest_and_the_bytes_and_shows_what_is_new() {
    let host = StandIn::start();
    let folder = tempfile::tempdir().unwrap();
    let manifest = "[plugin]\nname = \"visits\"\nversion = \"0.2.0\"\ncomponent = \"visits.wasm\"\n";
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    std::fs::write(folder.path().join("plugin.toml"), manifest).unwrap();
    std::fs::write(folder.path().join("visits.wasm"), &bytes).unwrap();
    host.tell(
        "PUT /tenants/acme/plugins/visits/versions/0.2.0",
        Reply::json(
            201,
            json!({ "plugin": "visits", "version": "0.2.0", "digest": "sha256:00", "bytes": bytes.len(), "created": true,
                "needs": [{ "capability": "http", "scope": "https://a.example", "granted": false, "new": true }],
                "previous": "0.1.0", "compile_ms": 5 }),
        ),
    );
    let outcome = Person::with_key().run(&["--host", &host.address, "push", folder.path().to_str().unwrap()]);
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    assert!(
        outcome.out.contains("new in 0.2.0") && outcome.out.contains("ringfence grant visits http https://a.example")
    );
    assert!(outcome.err.contains("uploaded"), "{}", outcome.err);
    let sent = host.seen().remove(0);
    assert_eq!(sent.body, bytes);
    let header = |name: &str| sent.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()).unwrap();
    assert_eq!(BASE64.decode(header("ringfence-manifest").as_bytes()).unwrap(), manifest.as_bytes());
    assert_eq!(header("content-type"), "application/wasm");
    assert_eq!(header("content-length"), bytes.len().to_string());
}

#[test]
fn a_secret_is_sent_as_its_bytes_and_never_shown() {
    let host = StandIn::start();
    let view = || Reply::json(200, json!({ "name": "webhook-key", "set_at": "t" }));
    let path = "PUT /tenants/acme/secrets/webhook-key";
    host.tell(path, view()).tell(path, view());
    let person = Person::with_key();
    let args = ["--host", host.address.as_str(), "secret", "set", "webhook-key", "--stdin", "--verbose"];
    let outcome = person.run_with_input(&args, "canary-value\n");
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    assert_eq!(host.seen().remove(0).body, b"canary-value");
    assert!(!format!("{}{}{}", outcome.out, outcome.err, person.files()).contains("canary"));
    let file = person.home.path().join("value");
    std::fs::write(&file, b"\xff\n").unwrap();
    let args = ["--host", host.address.as_str(), "secret", "set", "webhook-key", "--file", file.to_str().unwrap()];
    assert_eq!(person.run(&args).exit, ExitCode::SUCCESS);
    assert_eq!(host.seen().remove(1).body, b"\xff\n");
    let outcome = person.run(&["--host", &host.address, "secret", "set", "webhook-key"]);
    assert_eq!(outcome.exit, ExitCode::from(2));
    assert!(outcome.err.contains("--stdin"), "{}", outcome.err);
}

#[test]
fn a_new_key_goes_into_a_file_of_its_own() {
    let host = StandIn::start();
    let created = json!({ "id": "k2", "name": "ci", "role": "developer", "principal": "acme/ci", "created_at": "t",
        "key": "rfk_k2_canary" });
    host.tell("POST /tenants/acme/tokens", Reply::json(201, created));
    let person = Person::with_key();
    let file = person.home.path().join("ci.key");
    let name = file.to_str().unwrap();
    let args = [
        "--host",
        &host.address,
        "token",
        "create",
        "ci",
        "--role",
        "developer",
        "--expires",
        "1h",
        "--acts",
        "invoke,change",
        "--plugins",
        "visits",
        "--key-file",
        name,
    ];
    let outcome = person.run(&args);
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    assert!(!format!("{}{}", outcome.out, outcome.err).contains("canary"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "rfk_k2_canary\n");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let body: Value = serde_json::from_slice(&host.seen().remove(0).body).unwrap();
    let scope = json!({ "classes": ["invoke", "change"], "plugins": ["visits"] });
    assert_eq!(body, json!({ "name": "ci", "role": "developer", "expires_in": 3600, "scope": scope }));
    assert_eq!(person.run(&args).exit, ExitCode::from(1), "a file that exists is not overwritten");
    assert_eq!(host.seen().len(), 1, "and no key is made that could not be kept");
}

#[test]
fn who_came_with_a_scoped_key_is_told_what_it_is_good_for() {
    let host = StandIn::start();
    let mut door = principal("acme/door", "caller", Some("acme"));
    door["scope"] = json!({ "classes": ["invoke"], "plugins": ["hello"] });
    host.tell("GET /whoami", Reply::json(200, door));
    let outcome = Person::with_key().run(&["--host", &host.address, "whoami"]);
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    assert!(outcome.out.starts_with("acme/door (caller of tenant acme), good for invoke on hello\n"), "{outcome:?}");
}

#[test]
fn a_policy_is_replaced_only_as_it_was_read() {
    let host = StandIn::start();
    let path = "/tenants/acme/policy";
    host.tell(&format!("GET {path}"), Reply::json(200, json!({ "text": "", "version": 7 }))).tell(
        &format!("PUT {path}"),
        Reply::json(
            200,
            json!({ "state": "active", "version": 8, "review": { "policies_count": 1, "findings": [],
            "questions_count": 0, "left_out_count": 0, "only_narrows": false,
            "newly_allowed": { "questions_count": 0, "askings_count": 0, "examples": [] },
            "newly_denied": { "questions_count": 0, "askings_count": 0, "examples": [] } } }),
        ),
    );
    let outcome = Person::with_key().run_with_input(&["--host", &host.address, "policy", "apply", "-"], "permit(..);");
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    let put = host.seen().remove(1);
    assert!(put.headers.contains(&("if-match".to_owned(), "\"7\"".to_owned())), "{:?}", put.headers);
}

#[test]
fn a_policy_is_tried_before_it_is_in_force_and_an_earlier_one_comes_back() {
    let host = StandIn::start();
    let example = json!({ "principal": "anonymous", "action": "invoke", "resource": "tenant/acme/plugin/hello" });
    let answer = |state: &str, newly_allowed: Value| {
        let review = json!({ "policies_count": 1, "questions_count": 5, "left_out_count": 0, "only_narrows": false,
            "findings": [{ "kind": "opens-to-anonymous", "text": "`tenant/1` lets anybody in" }],
            "newly_allowed": newly_allowed,
            "newly_denied": { "questions_count": 0, "askings_count": 0, "examples": [] } });
        Reply::json(200, json!({ "state": state, "version": 8, "review": review }))
    };
    let none = json!({ "questions_count": 0, "askings_count": 0, "examples": [] });
    let one = json!({ "questions_count": 1, "askings_count": 3, "examples": [example] });
    let put = "PUT /tenants/acme/policy";
    host.tell(put, answer("draft", one.clone()))
        .tell(put, answer("draft", one))
        .tell(put, answer("draft", none.clone()))
        .tell("POST /tenants/acme/policy/rollback", answer("active", none));
    let run =
        |verb: &str| Person::with_key().run_with_input(&["--host", &host.address, "policy", verb, "-"], "permit(..);");
    let tested = run("test");
    assert_eq!(tested.exit, ExitCode::SUCCESS, "{tested:?}");
    assert!(tested.out.contains("lets anybody in"), "{tested:?}");
    let differs = run("diff");
    assert!(differs.out.contains("+ anonymous invoke tenant/acme/plugin/hello"), "{differs:?}");
    assert!(!differs.out.contains("lets anybody in"), "the differences alone: {differs:?}");
    assert!(run("diff").out.contains("no difference in 5 questions of late"));
    let back = Person::with_key().run(&["--host", &host.address, "policy", "rollback", "3"]);
    assert_eq!(back.exit, ExitCode::SUCCESS, "{back:?}");
    let seen = host.seen();
    let sent: Vec<Value> = seen.iter().map(|request| serde_json::from_slice(&request.body).unwrap()).collect();
    assert!(sent.iter().take(3).all(|body| body["mode"] == "draft"), "nothing is put in force: {sent:?}");
    assert_eq!(sent[3], json!({ "version": 3 }));
}

#[test]
fn a_policy_that_is_not_in_force_is_proved_and_a_disproof_is_a_failure() {
    let host = StandIn::start();
    let proof = |name: &str, verdict: &str| json!({ "name": name, "statement": name, "verdict": verdict, "kinds_count": 1, "took_us": 1 });
    let proofs = [proof("border", "proved"), proof("narrows", "disproved"), proof("permits-apply", "not-run")];
    host.tell("POST /tenants/acme/policy/proof", Reply::json(200, json!({ "version": 7, "proofs": proofs })));
    let outcome = Person::with_key().run_with_input(&["--host", &host.address, "policy", "prove", "-"], "permit(..);");
    assert_eq!(outcome.exit, ExitCode::FAILURE, "{outcome:?}");
    for line in ["border: proved", "narrows: disproved", "permits-apply: not run"] {
        assert!(outcome.out.contains(line), "{outcome:?}");
    }
}

#[test]
fn who_is_to_allow_a_policy_reads_what_was_found_of_it() {
    let host = StandIn::start();
    let example = json!({ "principal": "anonymous", "action": "invoke", "resource": "tenant/acme/plugin/hello" });
    let none = json!({ "questions_count": 0, "askings_count": 0, "examples": [] });
    let found = json!({
        "four_eyes": "it allows 1 of the questions of late that were denied",
        "newly_allowed": { "questions_count": 1, "askings_count": 3, "examples": [example] },
        "newly_denied": none,
        "findings": [{ "kind": "opens-to-anonymous", "text": "`tenant/1` lets anybody in" }],
        "proofs": [{ "name": "narrows", "statement": "it narrows", "verdict": "disproved", "kinds_count": 0, "took_us": 1 }],
    });
    let waiting = json!({ "id": "ap_1", "kind": "policy", "wants": "another policy", "asked_by": "acme/admin",
        "at": "2026-11-01T00:00:00Z", "expires_at": "2026-11-02T00:00:00Z", "found": found });
    host.tell("GET /tenants/acme/approvals", Reply::json(200, json!({ "items": [waiting] })));
    let outcome = Person::with_key().run(&["--host", &host.address, "approval", "list"]);
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    for line in [
        "ap_1: it allows 1 of the questions of late that were denied",
        "  opens-to-anonymous: `tenant/1` lets anybody in",
        "  it narrows: disproved",
        "    + anonymous invoke tenant/acme/plugin/hello",
    ] {
        assert!(outcome.out.lines().any(|said| said == line), "`{line}`: {outcome:?}");
    }
}

#[test]
fn a_call_goes_through_the_data_plane_and_answers_with_the_body() {
    let (host, plugins) = (StandIn::start(), StandIn::start());
    plugins.tell(
        "POST //acme/visits/ada?x=1",
        Reply::text(500, "text/plain", "oh\n").header("x-ringfence-invocation", "i_1"),
    );
    let args =
        ["--host", &host.address, "call", "visits", "/ada?x=1", "--data", "hi", "--plugins-host", &plugins.address];
    let person = Person::with_key();
    let outcome = person.run(&[&["--json"], args.as_slice()].concat());
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    let answer: Value = serde_json::from_str(&outcome.out).unwrap();
    assert_eq!((answer["status"].as_u64(), answer["body"].as_str()), (Some(500), Some("oh\n")));
    assert_eq!(answer["invocation"].as_str(), Some("i_1"));
    let seen = plugins.seen().remove(0);
    assert_eq!((seen.body.as_slice(), seen.authorization.as_deref()), (b"hi".as_slice(), Some("Bearer token-1")));
    let refused = Reply::problem(504, "budget-cpu", "the plugin used up its CPU time", None);
    plugins.tell("POST //acme/visits/ada?x=1", refused);
    let outcome = person.run(&args);
    assert_eq!((outcome.exit, outcome.out.as_str()), (ExitCode::from(1), ""));
    assert!(outcome.err.starts_with("error[budget-cpu]"), "{}", outcome.err);
}

#[test]
fn the_hosts_own_verbs_are_handed_to_the_host() {
    let person = Person::new();
    for args in [&["serve", "--dev"][..], &["doctor", "--json"], &["config", "show", "--origin"], &["compile-child"]] {
        assert_eq!(person.run(args).exit, ExitCode::SUCCESS, "{args:?}");
    }
    let called = person.called.lock().unwrap().clone();
    assert!(called[0].starts_with("serve") && called[0].contains("dev: true"), "{called:?}");
    assert_eq!(called[1..], ["doctor Json", "config show origin=true Text", "compile-child"]);
}

#[test]
fn verbose_shows_requests_and_no_key() {
    let host = StandIn::start();
    host.tell("GET /whoami", Reply::json(200, principal("acme/ci", "tenant-admin", Some("acme"))));
    let outcome = Person::with_key().run(&["--host", &host.address, "--verbose", "whoami"]);
    assert!(outcome.err.contains("> GET /api/v1/whoami"), "{}", outcome.err);
    assert!(!outcome.err.contains("rfk_") && !outcome.err.contains("token-1"), "{}", outcome.err);
}
