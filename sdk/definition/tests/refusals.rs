//! The reader: each supported construct is taken, each other one refused with its exact path, whatever its size.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test is a panic with a place"
)]

use ringfence_definition::Definition;
use serde_json::{Value, json};

fn parse(value: &Value) -> Result<Definition, (String, String)> {
    Definition::parse(&value.to_string()).map_err(|refusal| (refusal.path, refusal.why))
}

fn document() -> Value {
    json!({ "dsl": "1.0.0", "namespace": "shop", "name": "order", "version": "0.1.0" })
}

/// A definition with these tasks.
fn doing(tasks: Value) -> Value {
    json!({ "document": document(), "do": tasks })
}

fn one(task: Value) -> Value {
    doing(json!([{ "a": task }, { "b": { "set": {} } }]))
}

#[test]
fn every_supported_construct_is_taken() {
    let call = json!({ "method": "get", "endpoint": "https://x.example/{id}" });
    let inner = json!([{ "i": { "set": { "a": "${ .a }" } } }]);
    let retry = json!({ "delay": "PT1S", "backoff": { "linear": {} }, "limit": { "attempt": { "count": 3 } },
        "jitter": { "from": { "seconds": 0 }, "to": { "seconds": 1 } } });
    for task in [
        json!({ "set": { "a": 1, "b": "${ $context.b }" } }),
        json!({ "set": "${ . }" }),
        json!({ "do": inner, "if": "${ .go }", "then": "b", "metadata": { "x": [1] } }),
        json!({ "set": {}, "input": { "from": ".x" }, "output": { "as": { "y": "${ . }" } }, "export": { "as": "." } }),
        json!({ "call": "http", "with": call }),
        json!({ "call": "http", "with": { "method": "POST", "endpoint": { "uri": "${ .url }" }, "headers": { "a": "b" },
            "query": { "q": "${ .q }" }, "body": { "deep": [1, { "x": "${ .x }" }] }, "output": "response" } }),
        json!({ "switch": [{ "one": { "when": ".x == 1", "then": "b" } }, { "rest": { "then": "end" } }] }),
        json!({ "for": { "each": "one", "in": ".items", "at": "at" }, "while": "$one != 3", "do": inner }),
        json!({ "fork": { "branches": [{ "x": { "set": {} } }, { "y": { "do": inner } }], "compete": false } }),
        json!({ "wait": "PT5S" }),
        json!({ "wait": { "days": 365 }, "then": "exit" }),
        json!({ "listen": { "to": { "one": { "with": { "type": "paid" } } }, "read": "data" },
            "timeout": { "after": { "hours": 1 } } }),
        json!({ "emit": { "event": { "with": { "source": "https://x.example", "type": "mail", "data": "${ . }" } } } }),
        json!({ "raise": { "error": { "type": "https://x.example/e", "status": 400, "title": "${ .why }" } } }),
        json!({ "try": inner, "catch": {} }),
        json!({ "try": inner, "catch": { "errors": { "with": { "status": 503, "type": "t" } }, "as": "e",
            "when": "$e.status > 500", "exceptWhen": "$e.detail == null", "retry": retry, "do": inner } }),
        json!({ "run": { "workflow": { "namespace": "shop", "name": "ship", "version": "latest", "input": { "a": 1 } },
            "await": false } }),
    ] {
        if let Err(refused) = parse(&one(task.clone())) {
            panic!("{task}: {refused:?}");
        }
    }
    let mut whole = doing(json!([{ "a": { "wait": {} } }]));
    whole["input"] = json!({ "from": "${ .order }" });
    whole["output"] = json!({ "as": { "done": true } });
    whole["evaluate"] = json!({ "language": "jq", "mode": "strict" });
    whole["document"]["tags"] = json!({ "team": "shop" });
    assert_eq!(parse(&whole).unwrap().name, "order");
}

fn inner() -> Value {
    json!([{ "i": { "set": {} } }])
}

fn http(extra: Value) -> Value {
    let mut with = json!({ "method": "get", "endpoint": "https://x.example" });
    with.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    json!({ "call": "http", "with": with })
}

fn child(extra: Value) -> Value {
    let mut child = json!({ "namespace": "shop", "name": "ship", "version": "0.1.0" });
    child.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    json!({ "run": { "workflow": child } })
}

fn listen(to: Value) -> Value {
    json!({ "listen": { "to": to } })
}

fn catching(catch: Value) -> Value {
    json!({ "try": inner(), "catch": catch })
}

fn retrying(retry: Value) -> Value {
    catching(json!({ "retry": retry }))
}

/// Each task is refused at its place in the document.
fn refused_at<const COUNT: usize>(cases: [(Value, &str); COUNT]) {
    for (task, path) in cases {
        let refused = parse(&one(task.clone())).expect_err(&task.to_string());
        assert_eq!(refused.0, format!("/do/0/a{path}"), "{task}: {}", refused.1);
    }
}

#[test]
fn other_calls_and_runs_are_refused_with_their_path() {
    refused_at([
        (json!({ "run": { "container": { "image": "x" } } }), "/run/container"),
        (json!({ "run": { "script": { "language": "js" } } }), "/run/script"),
        (json!({ "run": { "shell": { "command": "ls" } } }), "/run/shell"),
        (json!({ "run": {} }), "/run/workflow"),
        (json!({ "run": { "workflow": {}, "return": "all" } }), "/run/return"),
        (child(json!({ "namespace": "other" })), "/run/workflow/namespace"),
        (child(json!({ "version": "9.9.9" })), "/run/workflow/version"),
        (json!({ "call": "grpc", "with": {} }), "/call"),
        (json!({ "call": "openapi", "with": {} }), "/call"),
        (json!({ "call": "asyncapi", "with": {} }), "/call"),
        (json!({ "call": "my-function" }), "/call"),
        (json!({ "call": "http" }), "/with"),
        (http(json!({ "redirect": true })), "/with/redirect"),
        (http(json!({ "output": "raw" })), "/with/output"),
        (http(json!({ "method": "BREW" })), "/with/method"),
        (http(json!({ "endpoint": { "uri": "https://x", "authentication": {} } })), "/with/endpoint/authentication"),
        (http(json!({ "endpoint": "ftp://x.example" })), "/with/endpoint"),
        (http(json!({ "endpoint": "https://x.example/{+path}" })), "/with/endpoint"),
        (http(json!({ "endpoint": "https://x.example/{path" })), "/with/endpoint"),
        (http(json!({ "headers": "x" })), "/with/headers"),
    ]);
}

#[test]
fn other_ways_to_listen_and_fork_are_refused_with_their_path() {
    refused_at([
        (listen(json!({ "all": [] })), "/listen/to/all"),
        (listen(json!({ "any": [] })), "/listen/to/any"),
        (listen(json!({ "one": { "with": { "type": "x", "source": "y" } } })), "/listen/to/one/with/source"),
        (listen(json!({ "one": { "with": { "type": "x" }, "correlate": {} } })), "/listen/to/one/correlate"),
        (json!({ "listen": { "to": {}, "foreach": {} } }), "/listen/foreach"),
        (json!({ "listen": { "to": {} }, "foreach": {} }), "/foreach"),
        (json!({ "listen": { "to": {}, "read": "raw" } }), "/listen/read"),
        (json!({ "fork": { "compete": true, "branches": inner() } }), "/fork/compete"),
        (json!({ "fork": { "branches": [] } }), "/fork/branches"),
        (json!({ "fork": { "branches": [{ "x": { "set": {}, "then": "end" } }] } }), "/fork/branches/0/x/then"),
        (json!({ "fork": { "branches": [{ "x": { "set": {}, "then": "exit" } }] } }), "/fork/branches/0/x/then"),
        (
            json!({ "fork": { "branches": [{ "x": { "set": {}, "export": { "as": "." } } }] } }),
            "/fork/branches/0/x/export",
        ),
    ]);
}

#[test]
fn other_members_of_any_task_and_unknown_tasks_are_refused_with_their_path() {
    refused_at([
        (json!({ "set": {}, "timeout": { "after": "PT1S" } }), "/timeout"),
        (json!({ "set": {}, "input": { "schema": {} } }), "/input/schema"),
        (json!({ "set": {}, "output": { "schema": {} } }), "/output/schema"),
        (json!({ "set": {}, "export": { "schema": {} } }), "/export/schema"),
        (json!({ "set": "plain" }), "/set"),
        (json!({ "set": {}, "wait": "PT1S" }), "/wait"),
        (json!({ "set": {}, "then": "nowhere" }), "/then"),
        (json!({ "set": {}, "if": 1 }), "/if"),
        (json!({ "dance": {} }), "/dance"),
        (json!({ "a/b~c": {} }), "/a~1b~0c"),
        (json!({}), ""),
        (json!(5), ""),
        (json!({ "wait": "1 s" }), "/wait"),
        (json!({ "wait": "${ .wait }" }), "/wait"),
        (json!({ "wait": { "years": 1 } }), "/wait/years"),
        (json!({ "wait": { "seconds": -1 } }), "/wait/seconds"),
    ]);
}

#[test]
fn other_loops_switches_events_and_errors_are_refused_with_their_path() {
    let event = json!({ "source": "s", "type": "mail" });
    refused_at([
        (json!({ "switch": [] }), "/switch"),
        (json!({ "switch": [{ "x": { "when": "." } }] }), "/switch/0/x/then"),
        (json!({ "switch": [{ "x": { "then": "nowhere" } }] }), "/switch/0/x/then"),
        (json!({ "for": { "in": "." }, "do": [] }), "/do"),
        (json!({ "for": { "each": "x" }, "do": inner() }), "/for/in"),
        (json!({ "for": { "in": ".", "each": "input" }, "do": inner() }), "/for/each"),
        (json!({ "for": { "in": ".", "at": "1a" }, "do": inner() }), "/for/at"),
        (json!({ "emit": { "event": { "with": { "source": "s", "type": "${ .t }" } } } }), "/emit/event/with/type"),
        (json!({ "emit": { "event": { "with": event, "cc": [] } } }), "/emit/event/cc"),
        (json!({ "raise": { "error": "named" } }), "/raise/error"),
        (json!({ "raise": { "error": { "type": "t", "status": 99 } } }), "/raise/error/status"),
        (json!({ "try": inner() }), "/catch"),
        (catching(json!({ "errors": { "filter": "." } })), "/catch/errors/filter"),
        (catching(json!({ "errors": { "with": { "detail": "${ .x }" } } })), "/catch/errors/with/detail"),
        (retrying(json!("default")), "/catch/retry"),
        (retrying(json!({})), "/catch/retry/limit"),
        (retrying(json!({ "limit": { "duration": "PT1S" } })), "/catch/retry/limit/duration"),
        (retrying(json!({ "limit": { "attempt": { "count": 101 } } })), "/catch/retry/limit/attempt/count"),
        (retrying(json!({ "when": ".", "limit": { "attempt": { "count": 1 } } })), "/catch/retry/when"),
        (
            retrying(json!({ "limit": { "attempt": { "count": 1 } }, "backoff": { "magic": {} } })),
            "/catch/retry/backoff/magic",
        ),
    ]);
}

#[test]
fn the_document_around_the_tasks_is_strict_too() {
    let with = |key: &str, value: Value| {
        let mut whole = doing(json!([{ "a": { "set": {} } }]));
        whole[key] = value;
        whole
    };
    for (key, value, path) in [
        ("schedule", json!({ "cron": "* * * * *" }), "/schedule"),
        ("use", json!({ "secrets": ["x"] }), "/use"),
        ("timeout", json!({ "after": "PT1S" }), "/timeout"),
        ("evaluate", json!({ "language": "js" }), "/evaluate/language"),
        ("evaluate", json!({ "mode": "loose" }), "/evaluate/mode"),
        ("input", json!({ "schema": { "format": "json" } }), "/input/schema"),
        ("do", json!([]), "/do"),
        ("do", json!({}), "/do"),
        ("do", json!([{ "a": { "set": {} }, "b": { "set": {} } }]), "/do/0"),
        ("do", json!([{ "a": { "set": {} } }, { "a": { "set": {} } }]), "/do/1/a"),
        ("do", json!([{ "end": { "set": {} } }]), "/do/0/end"),
        ("do", json!([{ "a b": { "set": {} } }]), "/do/0/a b"),
    ] {
        assert_eq!(parse(&with(key, value.clone())).unwrap_err().0, path, "{key}: {value}");
    }
    for (key, value) in [
        ("dsl", json!("0.8")),
        ("dsl", json!("1.1.0")),
        ("dsl", json!("1.0.")),
        ("dsl", json!("1.0.0-alpha1")),
        ("dsl", json!(1.0)),
        ("name", json!("")),
        ("name", json!("x".repeat(65))),
        ("namespace", json!("a b")),
        ("version", Value::Null),
    ] {
        let mut whole = doing(json!([{ "a": { "set": {} } }]));
        whole["document"][key] = value.clone();
        assert_eq!(parse(&whole).unwrap_err().0, format!("/document/{key}"), "{value}");
    }
    for whole in [json!([]), json!(null), json!("x")] {
        assert_eq!(parse(&whole).unwrap_err().0, "", "{whole}");
    }
    assert_eq!(parse(&json!({})).unwrap_err().0, "/document");
}

#[test]
fn hostile_sizes_are_refused_without_pain() {
    // Lists in lists.
    let mut task = json!({ "set": {} });
    for _ in 0..20 {
        task = json!({ "do": [{ "a": task }] });
    }
    let (path, why) = parse(&one(task)).unwrap_err();
    assert_eq!(path, format!("/do/0/a{}", "/do/0/a".repeat(7) + "/do"));
    assert!(why.contains("nested"), "{why}");
    // Forks in forks.
    let mut task = json!({ "set": {} });
    for _ in 0..9 {
        task = json!({ "fork": { "branches": [{ "a": task }] } });
    }
    assert!(parse(&one(task)).unwrap_err().1.contains("nested"));
    // Data in data; deeper than the parser goes, too.
    let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let deep: Value = serde_json::from_str(&nested(40)).unwrap();
    let (path, _) = parse(&one(json!({ "set": { "x": deep } }))).unwrap_err();
    assert_eq!(path, format!("/do/0/a/set/x{}", "/0".repeat(32)));
    let text = doing(json!([{ "a": { "set": { "x": "HERE" } } }])).to_string();
    let refused = Definition::parse(&text.replace("\"HERE\"", &nested(100_000))).unwrap_err();
    assert_eq!((refused.path.as_str(), refused.why.contains("no JSON")), ("", true));
    // Expressions and texts.
    let long = format!("${{ {} }}", "(".repeat(4_000));
    assert_eq!(parse(&one(json!({ "set": { "x": [long] } }))).unwrap_err().0, "/do/0/a/set/x/0");
    assert_eq!(parse(&one(json!({ "if": "x".repeat(3_000), "set": {} }))).unwrap_err().0, "/do/0/a/if");
    // Tasks, branches, bytes.
    let many = |count: usize| (0..count).map(|n| json!({ format!("t{n}"): { "set": {} } })).collect::<Vec<_>>();
    assert!(parse(&doing(json!(many(500)))).is_ok());
    assert_eq!(parse(&doing(json!(many(501)))).unwrap_err().0, "/do/500/t500");
    assert_eq!(parse(&doing(json!(many(10_000)))).unwrap_err().0, "/do/500/t500");
    let fork = json!({ "fork": { "branches": many(65) } });
    assert_eq!(parse(&one(fork)).unwrap_err().0, "/do/0/a/fork/branches");
    let large = parse(&one(json!({ "set": { "x": "y".repeat(300 << 10) } }))).unwrap_err();
    assert_eq!(large.0, "");
}

#[test]
fn what_a_definition_uses_is_known_from_it() {
    let plain = parse(&one(json!({ "set": {} }))).unwrap();
    assert_eq!((plain.has_calls, plain.has_events, plain.children.len()), (false, false, 0));
    let inner = json!([
        { "c": { "call": "http", "with": { "method": "get", "endpoint": "https://x.example" } } },
        { "e": { "emit": { "event": { "with": { "source": "s", "type": "mail" } } } } },
        { "r": { "run": { "workflow": { "namespace": "shop", "name": "ship" } } } }
    ]);
    let uses = parse(&one(json!({ "try": inner, "catch": {} }))).unwrap();
    assert!(uses.has_calls && uses.has_events);
    assert_eq!(uses.children, [("/do/0/a/try/2/r/run/workflow/name".to_owned(), "ship".to_owned())]);
}

#[cfg(feature = "run")]
#[test]
fn expressions_are_checked_with_the_variables_they_see() {
    use ringfence_definition::check_expressions;
    let check = |task: Value| check_expressions(&parse(&one(task)).unwrap()).map_err(|refusal| refusal.path);
    let inner = |text: &str| json!([{ "i": { "set": { "x": text } } }]);
    for text in ["${ $context, $input, $output, $task, $workflow, $runtime }", "${ map(.x) | add | tojson }"] {
        assert_eq!(check(json!({ "set": { "x": text } })), Ok(()), "{text}");
    }
    assert_eq!(check(json!({ "for": { "in": ".", "each": "n" }, "do": inner("${ $n + $index }") })), Ok(()));
    assert_eq!(check(json!({ "try": inner("${ 1 }"), "catch": { "do": inner("${ $error.status }") } })), Ok(()));
    let place = Err("/do/0/a/set/x".to_owned());
    for bad in [
        "$n",
        "$error",
        "$ENV",
        "$__prog_args",
        "1 +",
        "(",
        "no_such_function",
        "now",
        "env",
        "input",
        "inputs",
        "halt",
        "halt(1)",
        "halt_error",
        "debug",
        "stderr",
        "localtime",
        "input_filename",
        "import \"x\" as x; 1",
        "include \"x\"; 1",
        "ltrimstr",
    ] {
        assert_eq!(check(json!({ "set": { "x": format!("${{ {bad} }}") } })), place, "{bad}");
    }
    let outside = json!({ "for": { "in": "$index" }, "do": inner("${ 1 }") });
    assert_eq!(check(outside), Err("/do/0/a/for/in".to_owned()));
}
