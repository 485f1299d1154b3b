//! `backup` and `restore`: a job that fails, and a host that goes away while it works on one, are told as what they are.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Outcome, Person, Reply, StandIn};

const BACKUP: &str = "b_aaaaaaaaaaaaaaaaaaaaaaaaaa";
const JOB: &str = "j_aaaaaaaaaaaaaaaaaaaaaaaaaa";

fn job(kind: &str, state: &str, error: Option<Value>) -> Value {
    json!({ "id": JOB, "kind": kind, "tenant": "acme", "state": state, "started_at": "2026-01-02T03:04:05Z",
        "error": error })
}

fn run(address: &str, args: &[&str]) -> Outcome {
    let mut all = vec!["--host", address, "--tenant", "acme"];
    all.extend_from_slice(args);
    Person::with_key().run(&all)
}

#[test]
fn a_drill_that_fails_is_an_error_that_says_why_and_stands_in_the_list() {
    let host = StandIn::start();
    let why = "what was restored differs from the archive: the contents of a blob";
    let failed = || job("backup-drill", "failed", Some(json!({ "code": "drill-failed", "detail": why })));
    let drill = format!("POST /tenants/acme/backups/{BACKUP}/drill");
    let look = format!("GET /jobs/{JOB}");
    for _ in 0..2 {
        host.tell(&drill, Reply::json(202, job("backup-drill", "running", None)))
            .tell(&look, Reply::json(200, job("backup-drill", "running", None)))
            .tell(&look, Reply::json(200, failed()));
    }
    let told = run(&host.address, &["backup", "drill", BACKUP]);
    assert_eq!((told.exit, told.out.as_str()), (ExitCode::from(1), ""), "{told:?}");
    assert!(told.err.contains("error[drill-failed]") && told.err.contains(why), "{told:?}");
    assert!(!told.err.contains("restores whole"), "{told:?}");
    // A script has the same as the API's own words.
    let told = run(&host.address, &["--json", "backup", "drill", BACKUP]);
    let problem: Value = serde_json::from_str(told.err.lines().last().unwrap()).unwrap();
    assert_eq!(
        (told.exit, &problem["code"], &problem["detail"]),
        (ExitCode::from(1), &json!("drill-failed"), &json!(why))
    );

    let at = "2026-01-02T03:04:05Z";
    let listed = json!({ "id": BACKUP, "tenant_uid": "00", "scheduled": false, "created_at": at, "revision": 1,
        "records_count": 5, "blobs_count": 1, "content_bytes": 9, "file_bytes": 9, "damaged_count": 0, "lost_count": 0,
        "verified_at": at, "drill": { "at": at, "records_count": 5, "blobs_count": 1, "content_bytes": 9, "took_ms": 1 },
        "drill_failed": { "at": "2026-01-03T00:00:00Z", "what": why } });
    host.tell("GET /tenants/acme/backups", Reply::json(200, json!({ "items": [listed], "cursor": null })));
    let list = run(&host.address, &["backup", "list"]);
    assert!(list.out.contains("failed 2026-01-03T00:00:00Z"), "the good drill before it is no comfort: {list:?}");
}

#[test]
fn a_restore_that_the_host_could_not_finish_is_an_error_and_never_said_to_be_done() {
    let host = StandIn::start();
    let restore = format!("POST /tenants/acme/backups/{BACKUP}/restore");
    let errors = [
        ("bad-policy", "its policy cannot be put into force", 1_u8),
        ("job-interrupted", "the host stopped before this was done", 1),
        ("restore-unfinished", "a restore of this tenant has begun and is not done", 6),
    ];
    for (code, detail, exit) in errors {
        let error = json!({ "code": code, "detail": detail, "help": "what helps" });
        host.tell(&restore, Reply::json(202, job("backup-restore", "running", None)))
            .tell(&format!("GET /jobs/{JOB}"), Reply::json(200, job("backup-restore", "failed", Some(error))));
        let told = run(&host.address, &["restore", BACKUP, "--replace", "--yes"]);
        assert_eq!((told.exit, told.out.as_str()), (ExitCode::from(exit), ""), "{told:?}");
        assert!(told.err.contains(&format!("error[{code}]")) && told.err.contains(detail), "{told:?}");
        assert!(told.err.contains("what helps"), "{told:?}");
    }
}

#[test]
fn a_host_that_goes_away_in_the_middle_is_told_with_the_job_and_where_its_end_will_be_said() {
    let host = StandIn::start();
    let address = host.address.clone();
    host.tell(
        &format!("POST /tenants/acme/backups/{BACKUP}/restore"),
        Reply::json(202, job("backup-restore", "running", None)),
    );
    for _ in 0..1_000 {
        host.tell(&format!("GET /jobs/{JOB}"), Reply::json(200, job("backup-restore", "running", None)));
    }
    let gone = std::thread::spawn(move || {
        while host.seen().len() < 2 {
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(host);
    });
    let told = run(&address, &["restore", BACKUP, "--replace", "--yes"]);
    gone.join().unwrap();
    assert_eq!((told.exit, told.out.as_str()), (ExitCode::from(8), ""), "{told:?}");
    assert!(told.err.contains(JOB) && told.err.contains("ringfence audit list"), "{told:?}");
}
