//! The log as rooms use it: durable before acknowledged, chained across restarts, intents bracketed, invocations counted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test is a panic with a place"
)]

mod world;

use std::sync::atomic::Ordering;
use std::time::Duration;

use ringfence_audit::verify::verify;
use ringfence_audit::{Audit, AuditError, Entry, FEED_COUNT_MAX, InvocationSummary, Log, Outcome, Told, codes};
use ringfence_core::{InvocationId, TenantId, Usage};
use ringfence_store::{Fault, Faults, Key, Op, Side};
use serde_json::{Value, json};
use world::{World, event, pushed};

async fn all(audit: &Audit, log: &Log) -> Vec<Entry> {
    audit.list(log, 0, 1_000).await.unwrap()
}

async fn check(audit: &Audit, log: &Log) -> u64 {
    let (entries, checkpoint) = (all(audit, log).await, audit.checkpoint(log).await.unwrap());
    verify(&audit.origin(log), &audit.vkey(log), entries, &checkpoint.text, None).unwrap().entries
}

fn envelope(entry: &Entry) -> Value {
    serde_json::from_str(&entry.envelope).unwrap()
}

#[tokio::test]
async fn what_is_recorded_is_listed_signed_and_verifies() {
    let world = World::new().await;
    let (acme, audit) = (world.tenant("acme").await, world.open().await);
    let log = Log::Tenant(acme);
    for expected in 0..20 {
        let receipt = audit.record(&log, pushed()).await.unwrap();
        assert_eq!((receipt.seq, receipt.log.as_str()), (expected, "host.example/audit/tenant/acme"));
    }
    assert_eq!(check(&audit, &log).await, 20);
    assert_eq!(audit.list(&log, 18, 1_000).await.unwrap().len(), 2);
    assert_eq!(audit.list(&log, 20, 1_000).await.unwrap().len(), 0);
    assert_eq!(audit.size(&Log::Host).await.unwrap(), 0);
    let first = &all(&audit, &log).await[0];
    assert_eq!(envelope(first)["status"], "Success");
    assert_eq!(first.body.as_ref().unwrap()["actor"]["user"]["uid"], "acme/canary-ada");
}

#[tokio::test]
async fn many_at_once_are_all_written_in_one_order() {
    let world = World::new().await;
    let (acme, audit) = (world.tenant("acme").await, world.open().await);
    let log = Log::Tenant(acme);
    let tasks: Vec<_> = (0..500)
        .map(|_| {
            let (audit, log) = (audit.clone(), log.clone());
            tokio::spawn(async move { audit.record(&log, pushed()).await.unwrap().seq })
        })
        .collect();
    let mut seqs = Vec::new();
    for task in tasks {
        seqs.push(task.await.unwrap());
    }
    seqs.sort_unstable();
    assert_eq!(seqs, (0..500).collect::<Vec<_>>());
    assert_eq!(check(&audit, &log).await, 500);
}

#[tokio::test]
async fn the_envelope_names_nobody() {
    let world = World::new().await;
    let (acme, audit) = (world.tenant("acme").await, world.open().await);
    let log = Log::Tenant(acme);
    let mut event = event(codes::ACTION_DENIED, json!({"note": "canary-note"}));
    event.source_ip = Some("192.0.2.77".parse().unwrap());
    audit.record(&log, event).await.unwrap();
    let entry = &all(&audit, &log).await[0];
    for canary in ["canary", "ada", "visits", "192.0.2"] {
        assert!(!entry.envelope.contains(canary), "{canary} in {}", entry.envelope);
    }
    assert_eq!((envelope(entry)["status"].as_str(), envelope(entry)["action_id"].as_u64()), (Some("Failure"), Some(2)));
    assert_eq!(entry.body.as_ref().unwrap()["src_endpoint"]["ip"], "192.0.2.77");
    assert!(entry.envelope.len() <= ringfence_audit::envelope::ENVELOPE_BYTES_MAX);
}

#[tokio::test]
async fn reopening_continues_the_chain_under_the_same_key() {
    let world = World::new().await;
    let log = Log::Tenant(world.tenant("acme").await);
    let audit = world.open().await;
    for _ in 0..40 {
        audit.record(&log, pushed()).await.unwrap();
    }
    let (vkey, older) = (audit.vkey(&log), audit.checkpoint(&log).await.unwrap());
    drop(audit);
    let audit = world.open().await;
    assert_eq!(audit.vkey(&log), vkey);
    assert_eq!(audit.record(&log, pushed()).await.unwrap().seq, 40);
    let newer = audit.checkpoint(&log).await.unwrap();
    let entries = all(&audit, &log).await;
    assert_eq!(verify(&audit.origin(&log), &vkey, entries, &newer.text, Some(&older.text)).unwrap().entries, 41);
}

#[tokio::test]
async fn an_intent_and_its_outcome_bracket_an_act() {
    let world = World::new().await;
    let (acme, audit) = (world.tenant("acme").await, world.open().await);
    let log = Log::Tenant(acme);
    let intent = audit.intent(&log, pushed()).await.unwrap();
    let seq = intent.receipt().seq;
    intent.outcome(Outcome::Failure("version-exists".to_owned()), json!({"digest": "x"})).await.unwrap();
    let entries = all(&audit, &log).await;
    assert_eq!(entries.len(), 2);
    assert_eq!(envelope(&entries[0])["status"], "Intended");
    assert_eq!(envelope(&entries[1])["status"], "Failure");
    let unmapped = &entries[1].body.as_ref().unwrap()["unmapped"];
    assert_eq!(
        unmapped,
        &json!({"code": codes::VERSION_PUSHED, "details": {"digest": "x"}, "failure": "version-exists", "intent": seq})
    );
}

#[tokio::test]
async fn how_an_act_ended_is_on_its_log_once_that_can_be_written_and_nothing_else_is_said_of_it() {
    let faults = Faults::default();
    let world = World::with_faults(faults.clone()).await;
    let (acme, audit) = (world.tenant("acme").await, world.open().await);
    let log = Log::Tenant(acme.clone());
    let id = acme.tenant().unwrap();
    let failed = |code: &str| Outcome::Failure(code.to_owned());
    // Its keys are closed in the middle of one act, and its disk fails in that of another.
    let intent = audit.intent(&log, pushed()).await.unwrap();
    world.tenants.disable_key(id, "operator/eve", Side::Operator).await.unwrap();
    assert_eq!(intent.outcome(failed("locked"), Value::Null).await, Err(AuditError::KeyDisabled));
    tokio::task::yield_now().await;
    world.tenants.enable_key(id, Side::Operator).await.unwrap();
    let intent = audit.intent(&log, pushed()).await.unwrap();
    faults.plan([Some(Fault::Lost)]);
    assert!(intent.outcome(failed("disk"), json!({ "digest": "x" })).await.is_err());
    tokio::task::yield_now().await;
    audit.record(&log, pushed()).await.unwrap();
    let entries = all(&audit, &log).await;
    let told = |entry: &Entry| {
        let unmapped = &entry.body.as_ref().unwrap()["unmapped"];
        (envelope(entry)["status"].clone(), unmapped["failure"].clone(), unmapped["intent"].clone())
    };
    let none = Value::Null;
    let expected = [
        (json!("Intended"), none.clone(), none.clone()),
        (json!("Failure"), json!("locked"), json!(0)),
        (json!("Intended"), none.clone(), none.clone()),
        (json!("Failure"), json!("disk"), json!(2)),
        (json!("Success"), none.clone(), none),
    ];
    assert_eq!(entries.iter().map(told).collect::<Vec<_>>(), expected);
    assert_eq!(entries[3].body.as_ref().unwrap()["unmapped"]["details"], json!({ "digest": "x" }));
    check(&audit, &log).await;
}

#[tokio::test]
async fn a_dropped_intent_leaves_an_unknown_outcome() {
    let world = World::new().await;
    let (acme, audit) = (world.tenant("acme").await, world.open().await);
    let log = Log::Tenant(acme);
    drop(audit.intent(&log, pushed()).await.unwrap());
    // The writer takes commands in order, and the drop's came first.
    tokio::task::yield_now().await;
    audit.record(&log, pushed()).await.unwrap();
    let entries = all(&audit, &log).await;
    assert_eq!(entries.len(), 3);
    let unknown = entries.iter().find(|entry| envelope(entry)["status"] == "Unknown").unwrap();
    assert_eq!(unknown.body.as_ref().unwrap()["unmapped"]["intent"], 0);
    check(&audit, &log).await;
}

#[tokio::test]
async fn an_intent_that_a_crash_cut_off_is_reported_at_the_next_start_once() {
    let world = World::new().await;
    let log = Log::Tenant(world.tenant("acme").await);
    let audit = world.open().await;
    // Neither an outcome nor a drop: as when the process is killed.
    std::mem::forget(audit.intent(&log, pushed()).await.unwrap());
    for _ in 0..2 {
        let audit = world.open().await;
        let entries = all(&audit, &log).await;
        assert_eq!(entries.len(), 2);
        assert_eq!(envelope(&entries[1])["status"], "Unknown");
        assert_eq!(entries[1].body.as_ref().unwrap()["unmapped"]["intent"], 0);
        check(&audit, &log).await;
    }
}

#[tokio::test]
async fn a_store_that_does_not_write_acknowledges_nothing() {
    let world = World::new().await;
    let (acme, audit) = (world.tenant("acme").await, world.open().await);
    let log = Log::Tenant(acme);
    audit.record(&log, pushed()).await.unwrap();
    assert!(audit.is_writable());
    world.store.clone().close().await.unwrap();
    assert_eq!(audit.record(&log, pushed()).await, Err(AuditError::Unavailable));
    assert_eq!(audit.intent(&log, pushed()).await.err(), Some(AuditError::Unavailable));
    assert_eq!(AuditError::Unavailable.code(), "audit-unavailable");
    assert!(!audit.is_writable());
}

#[tokio::test]
async fn invocations_are_counted_and_the_counts_add_up() {
    let world = World::new().await;
    let (acme, audit) = (world.tenant("acme").await, world.open().await);
    let log = Log::Tenant(acme);
    for n in 0..1_234_u64 {
        audit.invocation(&log, summary(&world, if n % 3 == 0 { 500 } else { 200 }, n));
    }
    audit.flush().await.unwrap();
    let (mut invocations, mut ok, mut failed, mut cpu, mut peak) = (0, 0, 0, 0, 0);
    for entry in all(&audit, &log).await {
        let details = entry.body.unwrap()["unmapped"]["details"].clone();
        invocations += details["invocations"].as_u64().unwrap();
        cpu += details["usage"]["cpu_us"].as_u64().unwrap();
        peak = peak.max(details["usage"]["memory_bytes_peak"].as_u64().unwrap());
        for row in details["counts"].as_array().unwrap() {
            let count = row["count"].as_u64().unwrap();
            if row["status"] == 200 { ok += count } else { failed += count }
        }
    }
    assert_eq!((invocations, ok, failed), (1_234, 822, 412));
    assert_eq!((cpu, peak), ((0..1_234).sum::<u64>(), 1_233));
    check(&audit, &log).await;
    let before = audit.size(&log).await.unwrap();
    audit.flush().await.unwrap();
    assert_eq!(audit.size(&log).await.unwrap(), before, "nothing new, no entry");
}

/// The invocations that a log says there were.
async fn counted(audit: &Audit, log: &Log) -> u64 {
    let bodies = all(audit, log).await.into_iter().map(|entry| entry.body.unwrap());
    bodies.filter_map(|body| body["unmapped"]["details"]["invocations"].as_u64()).sum()
}

#[tokio::test]
async fn invocations_are_counted_once_when_nobody_knows_whether_they_were_written() {
    for fault in [Fault::InDoubt, Fault::Lost] {
        for is_between in [false, true] {
            let faults = Faults::default();
            let world = World::with_faults(faults.clone()).await;
            let (acme, audit) = (world.tenant("acme").await, world.open().await);
            let log = Log::Tenant(acme);
            faults.plan([Some(fault)]);
            for n in 0..3 {
                audit.invocation(&log, summary(&world, 200, n));
            }
            // They may have been tried just before, and then they are tried again.
            drop(audit.flush().await);
            if is_between {
                audit.record(&log, pushed()).await.unwrap();
            }
            for n in 0..2 {
                audit.invocation(&log, summary(&world, 200, n));
            }
            // What is pending, and what came meanwhile.
            for _ in 0..2 {
                audit.flush().await.unwrap();
            }
            assert_eq!(counted(&audit, &log).await, 5, "{fault:?}, another entry between: {is_between}");
            check(&audit, &log).await;
        }
    }
}

/// Takes as long as a write may before it is given up.
#[tokio::test]
async fn what_lands_after_it_was_given_up_is_counted_once_and_no_act_stays_open() {
    let faults = Faults::default();
    let world = World::with_faults(faults.clone()).await;
    let (acme, globex, other) = (world.tenant("acme").await, world.tenant("globex").await, world.tenant("other").await);
    let (acts, counts, audit) = (Log::Tenant(acme), Log::Tenant(globex), world.open().await);
    for log in [&acts, &counts] {
        audit.record(log, pushed()).await.unwrap();
    }
    faults.hold_flushes();
    let first = tokio::spawn(async move { other.put(&Key::new(["k"]), *b"v").await });
    let is_held = async {
        while faults.held_count() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), is_held).await.expect("a flush that hangs");
    // In the store's line behind that one. So many invocations are recorded at once.
    for n in 0..500 {
        audit.invocation(&counts, summary(&world, 200, n));
    }
    assert_eq!(audit.intent(&acts, pushed()).await.err(), Some(AuditError::Unavailable));
    for log in [&counts, &acts] {
        assert_eq!(audit.size(log).await.unwrap(), 1, "who looks meanwhile finds neither");
    }
    faults.let_all_through();
    first.await.unwrap().unwrap();
    for log in [&acts, &counts] {
        audit.record(log, pushed()).await.unwrap();
    }
    let entries = all(&audit, &acts).await;
    let statuses: Vec<Value> = entries.iter().map(|entry| envelope(entry)["status"].clone()).collect();
    assert_eq!(statuses, ["Success", "Intended", "Unknown", "Success"]);
    assert_eq!(entries[2].body.as_ref().unwrap()["unmapped"]["intent"], 1);
    audit.flush().await.unwrap();
    assert_eq!(counted(&audit, &counts).await, 500);
    for log in [&acts, &counts] {
        check(&audit, log).await;
    }
}

#[tokio::test]
async fn a_flood_of_kinds_stays_one_entry_of_bounded_size() {
    let world = World::new().await;
    let (acme, audit) = (world.tenant("acme").await, world.open().await);
    let log = Log::Tenant(acme);
    for n in 0..400 {
        audit.invocation(&log, InvocationSummary { version: format!("0.0.{n}"), ..summary(&world, 200, 1) });
    }
    audit.flush().await.unwrap();
    let entries = all(&audit, &log).await;
    let details = &entries[0].body.as_ref().unwrap()["unmapped"]["details"];
    assert_eq!(details["invocations"], 400);
    let counts = details["counts"].as_array().unwrap();
    assert!(counts.len() <= 129);
    assert_eq!(counts.iter().map(|row| row["count"].as_u64().unwrap()).sum::<u64>(), 400);
}

fn summary(world: &World, status: u16, n: u64) -> InvocationSummary {
    InvocationSummary {
        plugin: "visits".parse().unwrap(),
        version: "0.1.0".to_owned(),
        invocation: InvocationId::random(&*world.entropy),
        status,
        code: None,
        called_by: None,
        usage: Usage { cpu_us: n, memory_bytes_peak: n, ..Usage::default() },
    }
}

#[tokio::test]
async fn a_call_that_went_well_between_two_plugins_is_counted_with_the_name_of_who_called() {
    let world = World::new().await;
    let (acme, audit) = (world.tenant("acme").await, world.open().await);
    let log = Log::Tenant(acme);
    let called =
        || InvocationSummary { called_by: Some("acme/plugin/shop".parse().unwrap()), ..summary(&world, 200, 1) };
    for summary in [summary(&world, 200, 1), called(), called()] {
        audit.invocation(&log, summary);
    }
    audit.flush().await.unwrap();
    let entries = all(&audit, &log).await;
    let details = &entries[0].body.as_ref().unwrap()["unmapped"]["details"];
    let rows: Vec<(Option<&str>, u64)> = details["counts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["called_by"].as_str(), row["count"].as_u64().unwrap()))
        .collect();
    assert_eq!(rows, [(None, 1), (Some("acme/plugin/shop"), 2)]);
}

#[tokio::test]
async fn counted_invocations_are_recorded_soon_without_a_flush() {
    let world = World::new().await;
    let (acme, audit) = (world.tenant("acme").await, world.open().await);
    let log = Log::Tenant(acme);
    audit.invocation(&log, summary(&world, 200, 1));
    assert_eq!(audit.size(&log).await.unwrap(), 0, "not one by one");
    let recorded = async {
        let mut often = tokio::time::interval(Duration::from_millis(20));
        while audit.size(&log).await.unwrap() == 0 {
            often.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), recorded).await.expect("recorded by itself");
    assert_eq!(check(&audit, &log).await, 1);
}

#[tokio::test]
async fn a_clock_that_steps_back_is_noted_and_order_is_kept() {
    let world = World::new().await;
    let (acme, audit) = (world.tenant("acme").await, world.open().await);
    let log = Log::Tenant(acme);
    audit.record(&log, pushed()).await.unwrap();
    world.clock.0.fetch_sub(3_600_000, Ordering::Relaxed);
    audit.record(&log, pushed()).await.unwrap();
    let entries = all(&audit, &log).await;
    let stepped = |entry: &Entry| entry.body.as_ref().unwrap()["unmapped"]["clock_stepped"].clone();
    assert_eq!((stepped(&entries[0]), stepped(&entries[1])), (Value::Null, json!(true)));
    assert!(envelope(&entries[1])["time"].as_i64() < envelope(&entries[0])["time"].as_i64());
    check(&audit, &log).await;
}

#[tokio::test]
async fn oversized_details_are_trimmed_with_a_flag() {
    let world = World::new().await;
    let (acme, audit) = (world.tenant("acme").await, world.open().await);
    let log = Log::Tenant(acme);
    audit
        .record(&log, event(codes::VERSION_PUSHED, json!({"note": "x".repeat(100_000), "n": u64::MAX})))
        .await
        .unwrap();
    let body = all(&audit, &log).await.remove(0).body.unwrap();
    assert_eq!(body["unmapped"]["trimmed"], true);
    assert_eq!(body["unmapped"]["details"]["note"].as_str().unwrap().len(), 256);
    check(&audit, &log).await;
}

#[tokio::test]
async fn a_broken_log_refuses_entries_and_a_broken_host_log_the_start() {
    let world = World::new().await;
    let (acme, evil) = (world.tenant("acme").await, world.tenant("evil").await);
    let (log, other) = (Log::Tenant(acme.clone()), Log::Tenant(evil));
    let audit = world.open().await;
    for log in [&log, &other, &Log::Host] {
        for _ in 0..5 {
            audit.record(log, pushed()).await.unwrap();
        }
    }
    drop(audit);
    // A gap, made with the tenant's own key, as a careless repair would.
    acme.batch(vec![Op::delete(Key::new(["audit"]).number(3))], Vec::new()).await.unwrap();
    let audit = world.open().await;
    let refused = audit.record(&log, pushed()).await;
    assert!(matches!(refused, Err(AuditError::Broken { seq: 3, .. })), "{refused:?}");
    assert!(audit.record(&other, pushed()).await.is_ok(), "other logs go on");
    drop(audit);
    world.tenants.platform().batch(vec![Op::delete(Key::new(["audit"]).number(4))], Vec::new()).await.unwrap();
    assert!(matches!(world.try_open().await.err(), Some(AuditError::Broken { seq: 4, .. })));
}

#[tokio::test]
async fn tenants_logs_are_apart_and_end_with_the_tenant() {
    let world = World::new().await;
    let (acme, evil) = (world.tenant("acme").await, world.tenant("evil").await);
    let audit = world.open().await;
    let (log, other) = (Log::Tenant(acme), Log::Tenant(evil));
    audit.record(&log, pushed()).await.unwrap();
    audit.record(&other, pushed()).await.unwrap();
    let hmac = |entry: &Entry| envelope(entry)["actor_hmac"].clone();
    assert_ne!(
        hmac(&all(&audit, &log).await[0]),
        hmac(&all(&audit, &other).await[0]),
        "pseudonyms do not join across tenants"
    );
    let id: TenantId = "acme".parse().unwrap();
    let store = world.tenants.open_tenant(&id).unwrap();
    world.tenants.delete(&id).await.unwrap();
    audit.forget(&store).await;
    assert_eq!(audit.record(&log, pushed()).await, Err(AuditError::Gone));
    assert_eq!(check(&audit, &other).await, 1);
}

#[tokio::test]
async fn who_reads_along_is_told_every_entry_in_the_order_of_its_log() {
    let world = World::new().await;
    let (acme, audit) = (world.tenant("acme").await, world.open().await);
    let log = Log::Tenant(acme);
    audit.record(&log, pushed()).await.unwrap();
    let mut feed = audit.feed();
    let intent = audit.intent(&log, pushed()).await.unwrap();
    intent.outcome(Outcome::Failure("disk-full".to_owned()), Value::Null).await.unwrap();
    for (seq, status) in [(1, "Intended"), (2, "Failure")] {
        let Some(Told::Committed(told)) = feed.next().await else { panic!("an entry") };
        assert_eq!((told.seq, told.code, told.class_uid), (seq, codes::VERSION_PUSHED, 6002));
        assert_eq!(told.event["status"], status);
        assert_eq!(Some(&told.event), all(&audit, &told.log).await[seq as usize].body.as_ref());
    }
    assert_eq!(feed.backlog_count(), 0);
}

#[tokio::test]
async fn who_reads_too_slowly_is_told_how_much_is_missing_and_nobody_waits_for_him() {
    let world = World::new().await;
    let (acme, audit) = (world.tenant("acme").await, world.open().await);
    let log = Log::Tenant(acme);
    let mut feed = audit.feed();
    let over = 100;
    let recording = (0..FEED_COUNT_MAX + over).map(|_| {
        let (audit, log) = (audit.clone(), log.clone());
        tokio::spawn(async move { audit.record(&log, pushed()).await })
    });
    for recorded in recording.collect::<Vec<_>>() {
        recorded.await.unwrap().unwrap();
    }
    let Some(Told::Missed { count }) = feed.next().await else { panic!("a gap") };
    assert_eq!(count, over as u64);
    let Some(Told::Committed(told)) = feed.next().await else { panic!("an entry") };
    assert_eq!(told.seq, over as u64);
}
