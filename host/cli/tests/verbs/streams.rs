//! Following logs: over reconnects without gap or repeat, with drops told. Findings for other tools, page after page.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::harness::{Person, Reply, StandIn};

fn line(seq: u64, message: &str) -> Value {
    json!({ "seq": seq, "at": "2026-11-21T00:00:00Z", "level": "info", "context": "", "message": message, "invocation": "i_1" })
}

fn events(lines: &[Value]) -> Reply {
    let text: String = lines.iter().map(|line| format!("data: {line}\n\n")).collect();
    Reply::text(200, "text/event-stream", &format!(": hello\n\n{text}"))
}

#[test]
fn a_tail_survives_a_restart_without_gap_or_repeat() {
    let host = StandIn::start();
    let path = "GET /tenants/acme/plugins/visits/logs";
    host.tell(path, events(&[line(4, "a"), line(5, "b")]))
        .tell(path, Reply::problem(503, "overloaded", "starting", None))
        .tell(path, events(&[line(5, "b"), line(6, "c")]))
        .tell(path, Reply::problem(403, "denied", "the key was revoked", None));
    let args = ["--host", &host.address, "logs", "visits", "--follow", "--since", "3"];
    let outcome = Person::with_key().run(&args);
    assert_eq!(outcome.exit, ExitCode::from(4), "{outcome:?}");
    let shown: Vec<&str> = outcome.out.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(shown, ["a", "b", "c"]);
    assert!(outcome.err.contains("connecting again after line 5"), "{}", outcome.err);
    let asked: Vec<String> =
        host.seen().iter().map(|seen| seen.line.split('?').nth(1).unwrap_or("").to_owned()).collect();
    assert_eq!(asked, ["follow=true&since=3", "follow=true&since=5", "follow=true&since=5", "follow=true&since=6"]);
}

#[test]
fn dropped_lines_are_told() {
    let host = StandIn::start();
    let path = "GET /tenants/acme/plugins/visits/logs";
    let text = format!("event: dropped\ndata: {{\"count\":12}}\n\ndata: {}\n\n", line(20, "late"));
    host.tell(path, Reply::text(200, "text/event-stream", &text))
        .tell(path, Reply::problem(404, "not-found", "gone", None));
    let outcome = Person::with_key().run(&["--host", &host.address, "--json", "logs", "visits", "--follow"]);
    let lines: Vec<Value> = outcome.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0], json!({ "dropped": 12 }));
    assert_eq!(lines[1], line(20, "late"));
}

#[test]
fn without_a_terminal_logs_print_and_stop() {
    let host = StandIn::start();
    let page = json!({ "items": [line(1, "only")] });
    host.tell("GET /tenants/acme/plugins/visits/logs?since=0&limit=5", Reply::json(200, page));
    let args = ["--host", &host.address, "logs", "visits", "--since", "0", "--limit", "5"];
    let outcome = Person::with_key().run(&args);
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    assert!(outcome.out.ends_with("only\n"), "{}", outcome.out);
}

#[test]
fn a_plugins_output_cannot_steer_the_terminal() {
    let host = StandIn::start();
    let page = json!({ "items": [line(1, "\u{1b}[2Jgone\u{7}")] });
    host.tell("GET /tenants/acme/plugins/visits/logs", Reply::json(200, page));
    let outcome = Person::with_key().run(&["--host", &host.address, "logs", "visits"]);
    assert!(outcome.out.contains("\\u{1b}[2Jgone\\u{7}"), "{}", outcome.out);
}

#[test]
fn findings_for_other_tools_are_a_bundle_a_page_byte_for_byte() {
    let host = StandIn::start();
    let (first, second) = ("{\"type\":\"bundle\",  \"id\":\"a\"}", "{\"type\":\"bundle\",\"id\":\"b\"}");
    let bundle = |text: &str| Reply::text(200, "application/stix+json;version=2.1", text);
    let path = "GET /security/findings";
    host.tell(path, bundle(first).header("next-cursor", "1000")).tell(path, bundle(second));
    let outcome = Person::with_key().run(&["--host", &host.address, "threat", "findings", "--format", "stix"]);
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    assert_eq!(outcome.out, format!("{first}\n{second}\n"));
    let asked: Vec<String> =
        host.seen().iter().filter_map(|seen| seen.line.split_once('?').map(|(_, query)| query.to_owned())).collect();
    assert_eq!(asked, ["format=stix&limit=1000", "format=stix&limit=1000&cursor=1000"]);
}
