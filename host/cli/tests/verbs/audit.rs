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
    let elsewhere = Person::new();
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (entries, checkpoint, vkey) = (file("entries.ndjson"), file("checkpoint"), file("vkey"));
    let args = ["--json", "audit", "verify", "--file", &entries, "--checkpoint", &checkpoint, "--vkey", &vkey];
    let outcome = elsewhere.run(&args);
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    assert!(outcome.out.contains("\"entries_count\":5"), "{}", outcome.out);
    let text = std::fs::read_to_string(&entries).unwrap();
    let without: Vec<&str> = text.lines().enumerate().filter(|(n, _)| *n != 3).map(|(_, line)| line).collect();
    std::fs::write(&entries, without.join("\n")).unwrap();
    assert_eq!(fault(&elsewhere.run(&args)), "audit-missing: entry 3 is missing");
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
