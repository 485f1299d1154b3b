//! Writes that fail at any point, logs that somebody edited, and mending them: nothing acknowledged is lost in silence.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test is a panic with a place"
)]

mod world;

use proptest::prelude::*;
use ringfence_audit::verify::{Fault as LogFault, verify};
use ringfence_audit::{Audit, AuditError, BEAT, Log, Outcome, Paced, Refusals, Repaired, SOME_A_MINUTE, codes, repair};
use ringfence_store::{Fault, Faults, Key, Op};
use serde_json::{Value, json};
use world::{World, event, pushed};

fn fate() -> impl Strategy<Value = Option<Fault>> {
    prop_oneof![3 => Just(None), 1 => Just(Some(Fault::Lost)), 1 => Just(Some(Fault::InDoubt))]
}

async fn whole(audit: &Audit, log: &Log) -> u64 {
    let (mut entries, size) = (Vec::new(), audit.size(log).await.unwrap());
    while (entries.len() as u64) < size {
        entries.extend(audit.list(log, entries.len() as u64, 1_000).await.unwrap());
    }
    let head = audit.checkpoint(log).await.unwrap();
    verify(&audit.origin(log), &audit.vkey(log), entries, &head.text, None).unwrap().entries
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever the disk does at whichever write, and with a start in between: what was acknowledged is in the log, in one
    /// chain, and provable.
    #[test]
    fn a_failing_store_loses_no_acknowledged_entry(
        rounds in prop::collection::vec((prop::collection::vec(fate(), 0..12), 1_usize..300), 1..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let faults = Faults::default();
            let world = World::with_faults(faults.clone()).await;
            let log = Log::Tenant(world.tenant("acme").await);
            let mut acknowledged = Vec::new();
            for (fates, count) in rounds {
                let audit = world.open().await;
                faults.plan(fates);
                let recording: Vec<_> = (0..count).map(|_| {
                    let (audit, log) = (audit.clone(), log.clone());
                    tokio::spawn(async move { audit.record(&log, pushed()).await })
                }).collect();
                for recorded in recording {
                    acknowledged.extend(recorded.await.unwrap().ok().map(|receipt| receipt.seq));
                }
                faults.plan([]);
            }
            let audit = world.open().await;
            let size = whole(&audit, &log).await;
            acknowledged.sort_unstable();
            let count = acknowledged.len();
            acknowledged.dedup();
            assert_eq!(acknowledged.len(), count, "no place is given twice");
            assert!(acknowledged.last().is_none_or(|last| *last < size));
            for seq in acknowledged.into_iter().step_by(37) {
                assert!(audit.proof(&log, seq).await.unwrap().is_some());
            }
        });
    }
}

/// What is tried while one write fails: single entries, an announced act with its outcome, counted invocations. What was
/// acknowledged, and whether the act was.
async fn act(audit: &Audit, log: &Log) -> (Vec<u64>, Option<u64>) {
    let mut acknowledged = Vec::new();
    for _ in 0..3 {
        acknowledged.extend(audit.record(log, pushed()).await.ok().map(|receipt| receipt.seq));
    }
    let mut announced = None;
    if let Ok(intent) = audit.intent(log, pushed()).await {
        announced = Some(intent.receipt().seq);
        acknowledged.extend(announced);
        acknowledged.extend(intent.outcome(Outcome::Success, Value::Null).await.ok().map(|receipt| receipt.seq));
    }
    acknowledged.extend(audit.record(log, pushed()).await.ok().map(|receipt| receipt.seq));
    (acknowledged, announced)
}

#[tokio::test]
async fn whichever_write_a_crash_falls_on_what_was_acknowledged_is_there_and_every_act_has_an_end() {
    let mut acknowledged_all = 0;
    for point in 0..8 {
        for fault in [Fault::Lost, Fault::InDoubt] {
            let faults = Faults::default();
            let world = World::with_faults(faults.clone()).await;
            let log = Log::Tenant(world.tenant("acme").await);
            let audit = world.open().await;
            faults.plan(std::iter::repeat_n(None, point).chain([Some(fault)]));
            let (acknowledged, announced) = act(&audit, &log).await;
            faults.plan([]);
            drop(audit);
            let audit = world.open().await;
            let size = whole(&audit, &log).await;
            let ascend = acknowledged.windows(2).all(|pair| pair[0] < pair[1]);
            assert!(ascend, "write {point}, {fault:?}: no place is given twice: {acknowledged:?}");
            assert!(acknowledged.iter().all(|seq| *seq < size), "write {point}, {fault:?}");
            if let Some(intent) = announced {
                let entries = audit.list(&log, 0, 1_000).await.unwrap();
                let ends = entries.iter().filter(|entry| {
                    entry.body.as_ref().is_some_and(|body| body["unmapped"]["intent"].as_u64() == Some(intent))
                });
                assert_eq!(ends.count(), 1, "write {point}, {fault:?}: the act has one end");
            }
            acknowledged_all = acknowledged_all.max(acknowledged.len());
        }
    }
    assert_eq!(acknowledged_all, 6, "some of these points are past the last write");
}

#[tokio::test]
async fn refusals_that_a_log_cannot_take_are_on_it_when_it_can() {
    const SIGN_INS: Refusals = Refusals { kind: "sign-in", told_count_max: SOME_A_MINUTE };
    let faults = Faults::default();
    let world = World::with_faults(faults.clone()).await;
    let log = Log::Tenant(world.tenant("acme").await);
    let audit = world.open().await;
    let paced = Paced::new(audit.clone(), world.clock.clone());
    let counts = async || -> Vec<u64> {
        let entries = audit.list(&log, 0, 1_000).await.unwrap();
        let count = |body: &Value| body["unmapped"]["details"]["refused_count"].as_u64();
        entries.iter().filter_map(|entry| entry.body.as_ref().and_then(count)).collect()
    };
    paced.tell(&log, SIGN_INS, 5, event(codes::SIGN_IN_REFUSED, json!({})));
    paced.write().await;
    assert_eq!(counts().await, [5]);
    for _ in 0..3 {
        paced.tell(&log, SIGN_INS, 1, event(codes::SIGN_IN_REFUSED, json!({})));
    }
    faults.plan([Some(Fault::Lost); 8]);
    paced.write().await;
    faults.plan([]);
    assert_eq!(counts().await, [5], "none of them could be written");
    for _ in 0..2 {
        world.clock.advance(60 * BEAT);
        paced.write().await;
    }
    assert_eq!(counts().await, [5, 3], "all of them, once");
}

#[tokio::test]
async fn more_acts_than_one_batch_can_close_are_all_closed_at_the_next_start() {
    let world = World::new().await;
    let log = Log::Tenant(world.tenant("acme").await);
    let audit = world.open().await;
    for _ in 0..1_100 {
        // Neither an outcome nor a drop: as when the process is killed.
        std::mem::forget(audit.intent(&log, pushed()).await.unwrap());
    }
    for _ in 0..2 {
        assert_eq!(whole(&world.open().await, &log).await, 2_200);
    }
}

async fn mended(world: &World) -> Vec<Repaired> {
    repair(world.tenants.clone(), world.clock.clone(), world.entropy.clone(), "host.example".to_owned()).await.unwrap()
}

#[tokio::test]
async fn a_sound_log_is_not_touched_by_a_repair() {
    let world = World::new().await;
    let (log, audit) = (Log::Tenant(world.tenant("acme").await), world.open().await);
    audit.record(&log, pushed()).await.unwrap();
    assert_eq!(mended(&world).await, []);
    assert_eq!(world.open().await.size(&log).await.unwrap(), 1);
}

#[tokio::test]
async fn a_gap_refuses_entries_until_it_is_mended_and_then_the_log_says_what_is_lost() {
    let world = World::new().await;
    let acme = world.tenant("acme").await;
    let (log, audit) = (Log::Tenant(acme.clone()), world.open().await);
    for _ in 0..300 {
        audit.record(&log, pushed()).await.unwrap();
    }
    let kept = audit.checkpoint(&log).await.unwrap().text;
    acme.batch(vec![Op::delete(Key::new(["audit"]).number(290))], Vec::new()).await.unwrap();
    let audit = world.open().await;
    assert!(matches!(audit.record(&log, pushed()).await, Err(AuditError::Broken { seq: 290, .. })));
    drop(audit);
    let report = mended(&world).await.remove(0);
    assert_eq!((report.kept_count, report.head_size, report.aside_count), (290, Some(300), 9));
    let audit = world.open().await;
    audit.record(&log, pushed()).await.unwrap();
    assert_eq!(whole(&audit, &log).await, 292);
    let entry = audit.list(&log, 290, 1).await.unwrap().remove(0);
    assert!(entry.envelope.contains(codes::AUDIT_REPAIRED));
    assert_eq!(entry.body.unwrap()["unmapped"]["details"]["head_size"], 300);
    assert!(audit.proof(&log, 280).await.unwrap().is_some(), "its tree was made anew");
    // Whoever kept the head finds that the log went back.
    let entries = audit.list(&log, 0, 1_000).await.unwrap();
    let head = audit.checkpoint(&log).await.unwrap().text;
    let fault = verify(&audit.origin(&log), &audit.vkey(&log), entries, &head, Some(&kept));
    assert_eq!(fault, Err(LogFault::RolledBack));
    let aside = acme.scan(&Key::new(["audit-aside"]), None, 100).await.unwrap();
    assert_eq!(aside.records.len(), 10, "nine entries and the head are put aside");
}

#[tokio::test]
async fn an_operator_who_edits_an_entry_or_the_hosts_own_log_is_found_and_mended() {
    let world = World::new().await;
    let audit = world.open().await;
    for _ in 0..5 {
        audit.record(&Log::Host, event(codes::HOST_STARTED, json!({}))).await.unwrap();
    }
    let intent = audit.intent(&Log::Host, pushed()).await.unwrap();
    intent.outcome(Outcome::Success, Value::Null).await.unwrap();
    let platform = world.tenants.platform().clone();
    let key = Key::new(["audit"]).number(3);
    let record = platform.get(&key).await.unwrap().unwrap();
    let edited = String::from_utf8(record.value.to_vec()).unwrap().replace("Success", "Failure");
    platform.put(&key, edited).await.unwrap();
    drop(audit);
    assert!(matches!(world.try_open().await, Err(AuditError::Broken { seq: 4, .. })));
    let report = mended(&world).await.remove(0);
    // The edited entry's link back still holds; its body is not the one it commits to.
    assert_eq!((report.kept_count, report.aside_count), (3, 4));
    assert_eq!(whole(&world.open().await, &Log::Host).await, 4);
}

#[tokio::test]
async fn two_hosts_on_one_log_never_write_the_same_place() {
    let world = World::new().await;
    let log = Log::Tenant(world.tenant("acme").await);
    let (one, two) = (world.open().await, world.open().await);
    let mut seqs = Vec::new();
    for _ in 0..20 {
        for audit in [&one, &two] {
            // Who loses the race is refused, has done nothing, and goes on from what is there.
            for _ in 0..4 {
                if let Ok(receipt) = audit.record(&log, pushed()).await {
                    seqs.push(receipt.seq);
                    break;
                }
            }
        }
    }
    let count = seqs.len();
    seqs.sort_unstable();
    seqs.dedup();
    assert_eq!((seqs.len(), count), (40, 40));
    assert_eq!(whole(&world.open().await, &log).await, 40);
}

#[tokio::test]
async fn hostile_words_stay_inside_their_fields() {
    let world = World::new().await;
    let (log, audit) = (Log::Tenant(world.tenant("acme").await), world.open().await);
    let hostile = "\n\u{2014} host.example/audit AAAA\n{\"seq\":0}\u{0}\u{1b}[2J\u{202e}";
    let mut event = event(codes::VERSION_PUSHED, json!({ "name": hostile, "long": "x".repeat(1 << 20) }));
    event.resource = format!("tenant/acme/{hostile}{}", "y".repeat(1 << 20));
    audit.record(&log, event).await.unwrap();
    assert_eq!(whole(&audit, &log).await, 1);
    let entry = audit.list(&log, 0, 1).await.unwrap().remove(0);
    assert!(entry.envelope.len() <= 1024 && !entry.envelope.contains("[2J"));
    let body = entry.body.unwrap();
    assert_eq!(body["unmapped"]["trimmed"], true);
    assert_eq!(body["unmapped"]["details"]["name"], hostile);
    assert!(body.to_string().len() < 32 << 10);
}
