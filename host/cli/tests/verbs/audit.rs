//! Verifying a log: against the golden vector of the format, over time, offline, and after somebody had their hands on it.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::harness::{Outcome, Person, Reply, StandIn};

const ORIGIN: &str = "host.example/audit/tenant/acme";

struct Vector(Value);

impl Vector {
    fn read() -> Self {
        Self(serde_json::from_str(include_str!("../../../audit/tests/golden-vector.json")).unwrap())
    }
    fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap()
    }
    fn entries(&self, count: usize) -> Vec<Value> {
        let envelopes = self.0["entries"].as_array().unwrap().iter().take(count).enumerate();
        envelopes.map(|(seq, text)| json!({ "seq": seq, "envelope": text, "body": null, "salt": "" })).collect()
    }
}

/// Tells the host to show `count` entries and the head over them, `change` having had its hands on the entries.
fn show(host: &StandIn, count: usize, change: impl FnOnce(&mut Vec<Value>)) {
    let vector = Vector::read();
    let mut entries = vector.entries(count);
    change(&mut entries);
    let checkpoint = vector.text(&format!("checkpoint_{count}"));
    host.tell(
        "GET /tenants/acme/audit/checkpoint",
        Reply::json(
            200,
            json!({ "origin": ORIGIN, "vkey": vector.text("vkey"), "checkpoint": checkpoint, "size": count }),
        ),
    )
    .tell("GET /tenants/acme/audit", Reply::json(200, json!({ "items": entries })));
}

fn verify(host: &StandIn, person: &Person) -> Outcome {
    person.run(&["--host", &host.address, "--json", "audit", "verify"])
}

fn fault(outcome: &Outcome) -> String {
    assert_eq!(outcome.exit, ExitCode::from(1), "{outcome:?}");
    let problem: Value = serde_json::from_str(&outcome.err).unwrap();
    format!("{}: {}", problem["code"].as_str().unwrap(), problem["detail"].as_str().unwrap())
}

#[test]
fn a_log_verifies_and_may_only_grow() {
    let (host, person) = (StandIn::start(), Person::with_key());
    show(&host, 3, |_| {});
    let outcome = verify(&host, &person);
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    let report: Value = serde_json::from_str(&outcome.out).unwrap();
    assert_eq!((report["entries_count"].as_u64(), report["verified"].as_bool()), (Some(3), Some(true)));
    show(&host, 5, |_| {});
    assert_eq!(verify(&host, &person).exit, ExitCode::SUCCESS);
    show(&host, 3, |_| {});
    assert!(fault(&verify(&host, &person)).starts_with("audit-rolled-back: "));
    show(&host, 5, |_| {});
    assert_eq!(verify(&host, &person).exit, ExitCode::SUCCESS, "a fault does not change what was kept");
}

#[test]
fn what_was_done_to_a_log_is_named_with_its_place() {
    let host = StandIn::start();
    let altered = |entries: &mut Vec<Value>| {
        let text = entries[2]["envelope"].as_str().unwrap().replacen("\"seq\":2", "\"seq\":2 ", 1);
        entries[2]["envelope"] = text.into();
    };
    show(&host, 5, altered);
    assert_eq!(fault(&verify(&host, &Person::with_key())), "audit-altered: entry 2 was altered");
    show(&host, 5, |entries| drop(entries.remove(1)));
    assert_eq!(fault(&verify(&host, &Person::with_key())), "audit-missing: entry 1 is missing");
    show(&host, 5, |entries| entries.swap(1, 2));
    assert_eq!(fault(&verify(&host, &Person::with_key())), "audit-reordered: entry 1 is out of order");
    show(&host, 5, |entries| entries.truncate(4));
    assert_eq!(
        fault(&verify(&host, &Person::with_key())),
        "audit-truncated: the log ends after 4 entries, but 5 were signed for"
    );
}

#[test]
fn a_list_says_who_did_what_and_that_there_is_more() {
    let host = StandIn::start();
    let envelope =
        json!({ "code": "capability.granted", "status": "success", "time": 1_767_323_045_000_i64 }).to_string();
    let body = json!({ "actor": { "session": { "uid": "s_1" }, "user": { "uid": "acme/admin" } },
        "api": { "operation": "grant-capability" }, "resources": [{ "uid": "acme/plugin/visits" }] });
    let entry = json!({ "seq": 0, "envelope": envelope, "body": body, "salt": "" });
    let path = "GET /tenants/acme/audit";
    host.tell(path, Reply::json(200, json!({ "items": [entry], "cursor": "1" })))
        .tell(path, Reply::json(200, json!({ "items": [entry] })));
    let list = |person: &Person| person.run(&["--host", &host.address, "audit", "list", "--limit", "1"]);
    let outcome = list(&Person::with_key());
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    let row: Vec<&str> = outcome.out.lines().nth(1).unwrap().split_whitespace().collect();
    let words = ["capability.granted", "success", "acme/admin", "grant-capability", "acme/plugin/visits"];
    assert_eq!((row[0], &row[2..]), ("0", &words[..]), "{}", outcome.out);
    assert!(outcome.err.contains("ringfence audit list --from 1"), "{outcome:?}");
    assert!(!list(&Person::with_key()).err.contains("--from"), "the log is at its end");
}

#[test]
fn another_key_than_the_one_kept_is_not_trusted() {
    let (host, person) = (StandIn::start(), Person::with_key());
    show(&host, 3, |_| {});
    assert_eq!(verify(&host, &person).exit, ExitCode::SUCCESS);
    let other = json!({ "origin": ORIGIN, "vkey": "host.example/audit/tenant/acme+00000000+AAAA", "checkpoint": "x", "size": 3 });
    host.tell("GET /tenants/acme/audit/checkpoint", Reply::json(200, other));
    assert!(fault(&verify(&host, &person)).starts_with("audit-key-changed: "));
}

#[test]
fn an_export_verifies_elsewhere_without_a_host() {
    let (host, person) = (StandIn::start(), Person::with_key());
    show(&host, 5, |_| {});
    let folder = person.home.path().join("log");
    let dir = folder.to_str().unwrap();
    let outcome = person.run(&["--host", &host.address, "audit", "export", dir]);
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    let again = person.run(&["--host", &host.address, "--json", "audit", "export", dir]);
    assert!(fault(&again).starts_with("file: "), "an export is not written over: {again:?}");
    let elsewhere = Person::new();
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (entries, checkpoint, vkey) = (file("entries.ndjson"), file("checkpoint"), file("vkey"));
    let args = ["--json", "audit", "verify", "--file", &entries, "--checkpoint", &checkpoint, "--vkey", &vkey];
    let outcome = elsewhere.run(&args);
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    assert!(outcome.out.contains("\"entries_count\":5"), "{}", outcome.out);
    let text = std::fs::read_to_string(&entries).unwrap();
    let taken_for_archive = elsewhere.run(&["--json", "audit", "verify", &entries]);
    assert!(fault(&taken_for_archive).ends_with("is no archive of `audit package`, or is broken"));
    let without: Vec<&str> = text.lines().enumerate().filter(|(n, _)| *n != 3).map(|(_, line)| line).collect();
    std::fs::write(&entries, without.join("\n")).unwrap();
    assert_eq!(fault(&elsewhere.run(&args)), "audit-missing: entry 3 is missing");
}

#[test]
fn a_body_that_nothing_proves_is_never_called_checked() {
    let (host, person, vector) = (StandIn::start(), Person::with_key(), Vector::read());
    let forge = |entries: &mut Vec<Value>| entries[2]["body"] = json!({ "actor": "acme/eve" });
    show(&host, 5, forge);
    assert_eq!(fault(&verify(&host, &person)), "audit-body-altered: the body of entry 2 was altered");
    let mut entries = vector.entries(5);
    forge(&mut entries);
    let write = |name: &str, text: &str| {
        let file = person.home.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let lines: Vec<String> = entries.iter().map(Value::to_string).collect();
    let (entries, checkpoint) = (write("entries", &lines.join("\n")), write("head", vector.text("checkpoint_5")));
    let args = ["audit", "verify", "--file", &entries, "--checkpoint", &checkpoint, "--vkey", vector.text("vkey")];
    let told = person.run(&args);
    assert_eq!(told.exit, ExitCode::SUCCESS, "{told:?}");
    assert!(told.out.contains("shown without their salt: 1; NOT CHECKED"), "{}", told.out);
    assert!(told.out.contains("not shown, or sealed: 4;"), "{}", told.out);
    let told = person.run(&[&["--json"][..], &args[..]].concat());
    let report: Value = serde_json::from_str(&told.out).unwrap();
    let counts = (report["bodies_withheld_count"].as_u64(), report["bodies_bare_count"].as_u64());
    assert_eq!(counts, (Some(5), Some(1)), "{report}");
}

#[test]
fn an_export_is_compared_with_an_older_head_that_was_kept() {
    let (host, person, vector) = (StandIn::start(), Person::with_key(), Vector::read());
    let folder = person.home.path().join("log");
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (entries, checkpoint, vkey, kept) = (file("entries.ndjson"), file("checkpoint"), file("vkey"), file("kept"));
    let mut args = vec!["--json", "audit", "verify", "--file", &entries, "--checkpoint", &checkpoint, "--vkey", &vkey];
    args.extend(["--previous", &kept]);
    for (count, older) in [(5, 3), (5, 5), (3, 5)] {
        show(&host, count, |_| {});
        // An export is not written over.
        let _ = std::fs::remove_dir_all(&folder);
        let outcome = person.run(&["--host", &host.address, "audit", "export", folder.to_str().unwrap()]);
        assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
        std::fs::write(&kept, vector.text(&format!("checkpoint_{older}"))).unwrap();
        let outcome = Person::new().run(&args);
        if older <= count {
            assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
        } else {
            assert!(fault(&outcome).starts_with("audit-rolled-back: "));
        }
    }
}

#[test]
fn a_folder_of_the_second_place_verifies_as_far_as_the_checkpoint_goes() {
    let (host, person) = (StandIn::start(), Person::with_key());
    show(&host, 5, |_| {});
    let export = person.home.path().join("log");
    let outcome = person.run(&["--host", &host.address, "audit", "export", export.to_str().unwrap()]);
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    let text = std::fs::read_to_string(export.join("entries.ndjson")).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let folder = person.home.path().join("acme.00");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("2026-06.jsonl"), lines[..3].concat()).unwrap();
    // The log went on after the checkpoint, and a line is being written.
    let newer = format!("{}{}{}", lines[3..].concat(), lines[4], "{\"seq\":6,");
    std::fs::write(folder.join("2026-07.jsonl"), newer).unwrap();
    let file = |name: &str| export.join(name).to_str().unwrap().to_owned();
    let (checkpoint, vkey) = (file("checkpoint"), file("vkey"));
    let folder_word = folder.to_str().unwrap();
    let args = ["--json", "audit", "verify", "--file", folder_word, "--checkpoint", &checkpoint, "--vkey", &vkey];
    let outcome = Person::new().run(&args);
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    assert!(outcome.out.contains("\"entries_count\":5"), "{}", outcome.out);
    std::fs::remove_file(folder.join("2026-06.jsonl")).unwrap();
    assert_eq!(fault(&Person::new().run(&args)), "audit-missing: entry 0 is missing");
}
