//! The life of a log: years close, what is due is deleted and nothing else, holds keep it, and what is left can be proven.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test is a panic with a place"
)]

mod world;

use std::sync::atomic::Ordering;

use ringfence_audit::export::{Content, check};
use ringfence_audit::verify::{Claim, Fault as LogFault, Verified, verify_claim};
use ringfence_audit::{
    Agreed, Audit, AuditError, Beginning, Entry, Event, HoldSide, Log, Outcome, Selection, Swept, codes, repair,
};
use ringfence_core::PrincipalId;
use ringfence_store::{Fault, Faults, Key, Op};
use serde_json::json;
use world::{World, pushed};

const DAY_MS: i64 = 24 * 3_600 * 1_000;
/// 2026-06-01.
const JUNE_2026: i64 = 1_780_272_000_000;
/// 2034-06-01, when 2026 is due after 2,557 days.
const JUNE_2034: i64 = 2_032_732_800_000;

fn at(world: &World, ms: i64) {
    world.clock.0.store(ms, Ordering::Relaxed);
}

async fn fill(audit: &Audit, log: &Log, count: usize) {
    for _ in 0..count {
        audit.record(log, pushed()).await.unwrap();
    }
}

/// A log with `first` entries of 2026 and `second` of 2034, the year when the first are due.
async fn two_years(world: &World, audit: &Audit, first: usize, second: usize) -> Log {
    let log = Log::Tenant(world.tenant("acme").await);
    at(world, JUNE_2026);
    fill(audit, &log, first).await;
    at(world, JUNE_2034);
    fill(audit, &log, second).await;
    log
}

/// Announces, waits, and sweeps until the shard is deleted.
async fn sweep_through(world: &World, audit: &Audit, log: &Log) {
    assert_eq!(audit.sweep(log).await.unwrap(), Swept::Announced);
    at(world, JUNE_2034 + 8 * DAY_MS);
    while audit.sweep(log).await.unwrap() == Swept::Deleting {}
}

async fn from(audit: &Audit, log: &Log, first: u64) -> Vec<Entry> {
    let (mut entries, size) = (Vec::new(), audit.size(log).await.unwrap());
    while first + (entries.len() as u64) < size {
        entries.extend(audit.list(log, first + entries.len() as u64, 1_000).await.unwrap());
    }
    entries
}

/// Checks what is left from the outside.
async fn checked(
    audit: &Audit,
    log: &Log,
    beginning: Option<&Beginning>,
    previous: Option<&str>,
) -> Result<Verified, LogFault> {
    let (origin, vkey) = (audit.origin(log), audit.vkey(log));
    let entries = from(audit, log, audit.first(log).await.unwrap()).await;
    let head = audit.checkpoint(log).await.unwrap().text;
    verify_claim(&Claim { beginning, previous, ..Claim::new(&origin, &vkey, &head) }, entries)
}

fn one(name: &str) -> PrincipalId {
    name.parse().unwrap()
}

fn anyone(_: &PrincipalId, _: &PrincipalId) -> bool {
    true
}

#[tokio::test]
async fn a_year_that_turns_closes_a_shard_with_its_signed_final_head() {
    let world = World::new().await;
    let audit = world.open().await;
    let log = two_years(&world, &audit, 300, 5).await;
    let life = audit.life(&log).await.unwrap();
    let years: Vec<_> = life.shards.iter().map(|shard| (shard.year, shard.last_year, shard.from, shard.to)).collect();
    assert_eq!(years, [(2026, 2026, 0, Some(300)), (2034, 2034, 300, None)]);
    assert_eq!((life.days, life.first), (2_557, 0));
    let last = life.shards[0].checkpoint.clone().unwrap();
    assert_eq!(last.lines().nth(1), Some("300"));
    assert_eq!(checked(&audit, &log, None, Some(&last)).await.unwrap().entries, 305);
}

#[tokio::test]
async fn what_is_due_is_announced_and_deleted_and_the_rest_stays_provable() {
    let world = World::new().await;
    let audit = world.open().await;
    let log = two_years(&world, &audit, 600, 20).await;
    let kept = audit.checkpoint(&log).await.unwrap().text;
    assert_eq!(audit.sweep(&log).await.unwrap(), Swept::Announced);
    assert_eq!(audit.sweep(&log).await.unwrap(), Swept::Waiting);
    assert_eq!(audit.first(&log).await.unwrap(), 0, "nothing goes before its time");
    at(&world, JUNE_2034 + 8 * DAY_MS);
    assert_eq!(audit.sweep(&log).await.unwrap(), Swept::Deleted);
    assert_eq!(audit.sweep(&log).await.unwrap(), Swept::Nothing);

    let life = audit.life(&log).await.unwrap();
    assert_eq!((life.first, life.bodies_from), (512, 600));
    let gone = AuditError::Deleted { log: audit.origin(&log), before: 512 };
    assert_eq!(audit.list(&log, 0, 10).await.unwrap_err(), gone);
    assert_eq!(audit.proof(&log, 511).await.unwrap_err(), gone);
    assert_eq!(gone.code(), "audit-retention");
    for seq in [512, 600, 619] {
        assert!(audit.proof(&log, seq).await.unwrap().is_some(), "{seq}");
    }
    assert!(audit.list(&log, 512, 88).await.unwrap().iter().all(|entry| entry.body.is_none() && entry.salt.is_empty()));
    assert!(audit.list(&log, 600, 1).await.unwrap()[0].body.is_some());
    let codes: Vec<String> = from(&audit, &log, 612).await.iter().map(|entry| entry.envelope.clone()).collect();
    for code in [codes::SHARD_DUE, codes::SHARD_DELETING, codes::SHARD_DELETED] {
        assert!(codes.iter().any(|envelope| envelope.contains(code)), "{code}");
    }

    let beginning = life.beginning.unwrap();
    let verified = checked(&audit, &log, Some(&beginning), Some(&kept)).await.unwrap();
    assert_eq!((verified.from, verified.bodies_withheld, verified.unreached), (512, 88, None));
    let old = life.shards[0].checkpoint.clone().unwrap();
    assert!(checked(&audit, &log, Some(&beginning), Some(&old)).await.is_ok(), "the final head is on the way");

    // After a start the log is whole from its stump on, and goes on.
    let audit = world.open().await;
    fill(&audit, &log, 300).await;
    let verified = checked(&audit, &log, Some(&beginning), Some(&kept)).await.unwrap();
    assert_eq!(verified.from + verified.entries, audit.size(&log).await.unwrap());
}

#[tokio::test]
async fn a_missing_beginning_is_a_fault_unless_the_log_itself_says_that_it_was_deleted() {
    let world = World::new().await;
    let audit = world.open().await;
    let log = two_years(&world, &audit, 600, 20).await;
    let whole = from(&audit, &log, 0).await;
    let (origin, vkey) = (audit.origin(&log), audit.vkey(&log));
    let head = audit.checkpoint(&log).await.unwrap().text;
    sweep_through(&world, &audit, &log).await;
    let beginning = audit.beginning(&log).await.unwrap().unwrap();

    // The rest without its beginning.
    assert!(matches!(checked(&audit, &log, None, None).await, Err(LogFault::Missing { seq: 0 })));
    // Somebody who holds the whole log leaves its beginning away, with true peaks, before the log says so.
    let claim = Claim { beginning: Some(&beginning), ..Claim::new(&origin, &vkey, &head) };
    let shown = verify_claim(&claim, whole[512..].to_vec());
    assert_eq!(shown, Err(LogFault::Undeclared { seq: 512 }));
    // More is missing than was deleted.
    let entries = from(&audit, &log, 513).await;
    let head = audit.checkpoint(&log).await.unwrap().text;
    let claim = Claim { beginning: Some(&beginning), ..Claim::new(&origin, &vkey, &head) };
    assert_eq!(verify_claim(&claim, entries), Err(LogFault::Missing { seq: 512 }));
    // Other peaks are another tree.
    let mut forged = beginning.clone();
    forged.peaks[0] = "00".repeat(32);
    assert!(checked(&audit, &log, Some(&forged), None).await.is_err());
    let another = Beginning { final_checkpoint: head, ..beginning };
    assert!(checked(&audit, &log, Some(&another), None).await.is_err());
}

#[tokio::test]
async fn an_older_kept_head_that_lies_in_the_deleted_part_is_said_to_be_out_of_reach() {
    let world = World::new().await;
    let audit = world.open().await;
    let log = Log::Tenant(world.tenant("acme").await);
    at(&world, JUNE_2026);
    fill(&audit, &log, 100).await;
    let old = audit.checkpoint(&log).await.unwrap().text;
    fill(&audit, &log, 500).await;
    at(&world, JUNE_2034);
    fill(&audit, &log, 1).await;
    sweep_through(&world, &audit, &log).await;
    let beginning = audit.beginning(&log).await.unwrap();
    let verified = checked(&audit, &log, beginning.as_ref(), Some(&old)).await.unwrap();
    assert_eq!(verified.unreached, Some(100));
}

/// Whatever write of a sweep fails, and whether or not it was done nevertheless, and with a start after it: what is not due is
/// there and provable, and a later sweep comes to the same end.
#[tokio::test]
async fn a_sweep_that_is_cut_at_any_write_loses_nothing_that_is_not_due_and_goes_on() {
    let mut cut_points = 0;
    for fault in [Fault::Lost, Fault::InDoubt] {
        for writes in 0..9 {
            let faults = Faults::default();
            let world = World::with_faults(faults.clone()).await;
            let audit = world.open().await;
            let log = two_years(&world, &audit, 600, 3).await;
            assert_eq!(audit.sweep(&log).await.unwrap(), Swept::Announced);
            at(&world, JUNE_2034 + 8 * DAY_MS);
            faults.plan((0..writes).map(|_| None).chain([Some(fault)]));
            let cut = audit.sweep(&log).await;
            cut_points += usize::from(cut.is_err());
            faults.plan([]);

            let audit = world.open().await;
            let beginning = audit.beginning(&log).await.unwrap();
            let first = audit.first(&log).await.unwrap();
            assert!(first <= 512 && first.is_multiple_of(256), "{first}");
            let verified = checked(&audit, &log, beginning.as_ref(), None).await.unwrap();
            assert_eq!(verified.from, first);
            for entry in audit.list(&log, 600, 3).await.unwrap() {
                assert!(entry.body.is_some(), "what is not due keeps its body");
            }
            while audit.sweep(&log).await.unwrap() == Swept::Deleting {}
            let life = audit.life(&log).await.unwrap();
            assert_eq!((life.first, life.bodies_from), (512, 600));
            assert!(checked(&audit, &log, life.beginning.as_ref(), None).await.is_ok());
        }
    }
    assert!(cut_points >= 8, "{cut_points}");
}

#[tokio::test]
async fn a_hold_keeps_what_is_due_and_one_set_during_a_sweep_keeps_what_is_left() {
    let faults = Faults::default();
    let world = World::with_faults(faults.clone()).await;
    let audit = world.open().await;
    let log = two_years(&world, &audit, 600, 3).await;
    let (ann, bob) = (one("acme/ann"), one("acme/bob"));
    let hold = audit.hold(&log, "case 17", ann.clone(), HoldSide::Tenant).await.unwrap();
    assert_eq!(audit.sweep(&log).await.unwrap(), Swept::Held);

    let nobody: &ringfence_audit::SecondPerson<'_> = &|_, _| false;
    let side = HoldSide::Tenant;
    assert_eq!(audit.lift(&log, &hold.id, &ann, HoldSide::Operator, &anyone).await, Err(AuditError::OtherSide));
    assert_eq!(audit.lift(&log, &hold.id, &ann, side, &anyone).await.unwrap(), Agreed::Asked);
    assert_eq!(audit.lift(&log, &hold.id, &ann, side, &anyone).await.unwrap(), Agreed::Asked, "twice is one person");
    assert_eq!(audit.lift(&log, &hold.id, &bob, side, nobody).await, Err(AuditError::OnePerson));
    assert_eq!(audit.lift(&log, &hold.id, &bob, side, &anyone).await.unwrap(), Agreed::Done);
    assert_eq!(audit.sweep(&log).await.unwrap(), Swept::Announced);

    // The sweep is cut after its first tile; then somebody sets a hold.
    at(&world, JUNE_2034 + 8 * DAY_MS);
    faults.plan([None, None, None, Some(Fault::Lost)]);
    assert!(audit.sweep(&log).await.is_err());
    faults.plan([]);
    assert_eq!(audit.first(&log).await.unwrap(), 256);
    let hold = audit.hold(&log, "case 18", ann.clone(), HoldSide::Tenant).await.unwrap();
    assert_eq!(audit.sweep(&log).await.unwrap(), Swept::Held);
    assert!(audit.list(&log, 256, 300).await.unwrap().iter().all(|entry| entry.body.is_some()));
    let beginning = audit.beginning(&log).await.unwrap();
    assert!(checked(&audit, &log, beginning.as_ref(), None).await.is_ok(), "half a shard is provable too");
    for person in [&ann, &bob] {
        audit.lift(&log, &hold.id, person, side, &anyone).await.unwrap();
    }
    assert_eq!(audit.sweep(&log).await.unwrap(), Swept::Deleted);
}

#[tokio::test]
async fn a_word_for_lifting_a_hold_does_not_wait_for_ever() {
    let world = World::new().await;
    let audit = world.open().await;
    let log = Log::Tenant(world.tenant("acme").await);
    let hold = audit.hold(&log, "case", one("acme/ann"), HoldSide::Tenant).await.unwrap();
    let lift = async |who: &str| audit.lift(&log, &hold.id, &one(who), HoldSide::Tenant, &anyone).await.unwrap();
    assert_eq!(lift("acme/ann").await, Agreed::Asked);
    world.clock.0.fetch_add(2 * DAY_MS, Ordering::Relaxed);
    assert_eq!(lift("acme/bob").await, Agreed::Asked);
    assert_eq!(lift("acme/ann").await, Agreed::Done);
    assert!(audit.holds(&log).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_clock_that_runs_ahead_deletes_nothing_and_one_that_steps_back_opens_no_old_year() {
    let world = World::new().await;
    let audit = world.open().await;
    let log = Log::Tenant(world.tenant("acme").await);
    at(&world, JUNE_2026);
    fill(&audit, &log, 600).await;
    // The clock jumps twelve years ahead, for an hour of sweeps.
    at(&world, JUNE_2026 + 12 * 365 * DAY_MS);
    assert_eq!(audit.sweep(&log).await.unwrap(), Swept::Announced);
    assert_eq!(audit.sweep(&log).await.unwrap(), Swept::Waiting);
    // And back.
    at(&world, JUNE_2026 + DAY_MS);
    assert_eq!(audit.sweep(&log).await.unwrap(), Swept::Withdrawn);
    assert_eq!((audit.sweep(&log).await.unwrap(), audit.first(&log).await.unwrap()), (Swept::Nothing, 0));
    fill(&audit, &log, 5).await;
    // What came after the jump is in the later shard, and so is kept longer, never shorter.
    let life = audit.life(&log).await.unwrap();
    let years: Vec<_> = life.shards.iter().map(|shard| (shard.year, shard.from, shard.to)).collect();
    assert_eq!(years, [(2026, 0, Some(600)), (2038, 600, None)]);
    assert!(checked(&audit, &log, None, None).await.is_ok());
}

#[tokio::test]
async fn a_longer_retention_spares_what_was_announced_and_nobody_goes_below_the_minimum() {
    let world = World::new().await;
    let audit = world.open().await;
    let log = two_years(&world, &audit, 300, 1).await;
    assert_eq!(audit.sweep(&log).await.unwrap(), Swept::Announced);
    audit.set_retention_days(&log, 3_653).await.unwrap();
    at(&world, JUNE_2034 + 8 * DAY_MS);
    assert_eq!(audit.sweep(&log).await.unwrap(), Swept::Withdrawn);
    assert_eq!(audit.first(&log).await.unwrap(), 0);
    for days in [0, 364, 40_000] {
        assert_eq!(audit.set_retention_days(&log, days).await.unwrap_err().code(), "bad-retention", "{days}");
    }
}

#[tokio::test]
async fn entries_that_somebody_puts_back_after_their_deletion_are_not_shown_and_go_again() {
    let world = World::new().await;
    let audit = world.open().await;
    let store = world.tenant("globex").await;
    let log = Log::Tenant(store.clone());
    at(&world, JUNE_2026);
    fill(&audit, &log, 600).await;
    let mut older = Vec::new();
    for seq in 0..3 {
        let key = Key::new(["audit"]).number(seq);
        older.push(Op::put(key.clone(), store.get(&key).await.unwrap().unwrap().value.to_vec()));
    }
    at(&world, JUNE_2034);
    fill(&audit, &log, 1).await;
    sweep_through(&world, &audit, &log).await;
    store.batch(older, Vec::new()).await.unwrap();
    let audit = world.open().await;
    assert!(matches!(audit.list(&log, 0, 3).await, Err(AuditError::Deleted { .. })));
    assert_eq!(audit.sweep(&log).await.unwrap(), Swept::Nothing);
    assert!(store.get(&Key::new(["audit"]).number(0)).await.unwrap().is_none());
    let beginning = audit.beginning(&log).await.unwrap();
    assert!(checked(&audit, &log, beginning.as_ref(), None).await.is_ok());
}

#[tokio::test]
async fn a_damaged_log_is_mended_from_its_stump_on() {
    let world = World::new().await;
    let audit = world.open().await;
    let store = world.tenant("globex").await;
    let log = Log::Tenant(store.clone());
    at(&world, JUNE_2026);
    fill(&audit, &log, 600).await;
    at(&world, JUNE_2034);
    fill(&audit, &log, 300).await;
    sweep_through(&world, &audit, &log).await;
    drop(audit);
    let size = 890_u64;
    store.delete(&Key::new(["audit"]).number(size)).await.unwrap();
    let repaired =
        repair(world.tenants.clone(), world.clock.clone(), world.entropy.clone(), "host.example".to_owned()).await;
    assert_eq!(repaired.unwrap()[0].kept_count, size);
    let audit = world.open().await;
    fill(&audit, &log, 200).await;
    for seq in [512, 700, 889, 1_000] {
        assert!(audit.proof(&log, seq).await.unwrap().is_some(), "{seq}");
    }
    assert_eq!(audit.first(&log).await.unwrap(), 512);
}

#[tokio::test]
async fn erasing_an_applications_event_leaves_its_entry_and_every_proof() {
    let world = World::new().await;
    let audit = world.open().await;
    let log = Log::Tenant(world.tenant("acme").await);
    fill(&audit, &log, 3).await;
    let mut event = Event::new(codes::APPLICATION_EVENT, "record-event", one("acme/ann"), "tenant/acme");
    event.details = json!({ "message": "canary-name" });
    let seq = audit.record_outcome(&log, event, Outcome::Success).await.unwrap().seq;
    fill(&audit, &log, 3).await;
    let (proof, before) = (audit.proof(&log, seq).await.unwrap(), audit.list(&log, seq, 1).await.unwrap());
    assert_eq!(audit.erase(&log, 0, &one("acme/ann"), &anyone).await, Err(AuditError::NotErasable { seq: 0 }));
    assert_eq!(audit.erase(&log, 99, &one("acme/ann"), &anyone).await, Err(AuditError::NoSuch));
    assert_eq!(audit.erase(&log, seq, &one("acme/ann"), &anyone).await.unwrap(), Agreed::Asked);
    assert!(audit.list(&log, seq, 1).await.unwrap()[0].body.is_some(), "one person's word is not enough");
    audit.hold(&log, "case", one("acme/ann"), HoldSide::Tenant).await.unwrap();
    assert!(matches!(audit.erase(&log, seq, &one("acme/bob"), &anyone).await, Err(AuditError::Held { .. })));
    let hold = audit.holds(&log).await.unwrap().remove(0).id;
    for name in ["acme/ann", "acme/bob"] {
        audit.lift(&log, &hold, &one(name), HoldSide::Tenant, &anyone).await.unwrap();
    }
    assert_eq!(audit.erase(&log, seq, &one("acme/bob"), &anyone).await.unwrap(), Agreed::Done);
    let after = audit.list(&log, seq, 1).await.unwrap().remove(0);
    assert_eq!((after.body, after.salt.as_str(), &after.envelope), (None, "", &before[0].envelope));
    assert_eq!(audit.proof(&log, seq).await.unwrap(), proof);
    let audit = world.open().await;
    assert_eq!(checked(&audit, &log, None, None).await.unwrap().bodies_withheld, 1);
}

#[tokio::test]
async fn a_log_from_before_there_were_shards_gets_them_and_is_swept_like_any() {
    let world = World::new().await;
    let audit = world.open().await;
    let store = world.tenant("globex").await;
    let log = Log::Tenant(store.clone());
    at(&world, JUNE_2026);
    fill(&audit, &log, 600).await;
    store.delete(&Key::new(["audit-shard"]).number(0)).await.unwrap();
    at(&world, JUNE_2034);
    let audit = world.open().await;
    fill(&audit, &log, 1).await;
    let life = audit.life(&log).await.unwrap();
    assert_eq!((life.shards[0].year, life.shards[0].to), (2026, Some(600)));
    sweep_through(&world, &audit, &log).await;
    let life = audit.life(&log).await.unwrap();
    assert_eq!((life.first, life.bodies_from, life.shards[0].from), (512, 600, 0));
    assert!(checked(&audit, &log, life.beginning.as_ref(), None).await.is_ok());
}

#[tokio::test]
async fn an_archive_of_what_is_left_is_the_whole_log_and_says_where_it_begins() {
    let world = World::new().await;
    let audit = world.open().await;
    let log = two_years(&world, &audit, 600, 20).await;
    sweep_through(&world, &audit, &log).await;
    let nothing = |_: &mut Entry| Vec::new();
    let select =
        |from| Selection { from, to: None, keep: None, redact: &nothing, query: json!({}), csv: None, parquet: None };
    let (content, _) = audit.export(&log, select(0)).await.unwrap();
    let archive = audit.archive(&log, &content).unwrap();
    let checked = check(archive.as_slice(), Some(&audit.vkey(&log)), None).unwrap();
    assert!(checked.whole && checked.manifest.first_seq == Some(512) && checked.bodies_withheld == 88);
    let without = Content { beginning: None, ..content };
    let archive = audit.archive(&log, &without).unwrap();
    assert!(!check(archive.as_slice(), Some(&audit.vkey(&log)), None).unwrap().whole, "a part is not the whole");
    assert!(matches!(audit.export(&log, select(3)).await, Err(AuditError::Deleted { .. })));
}
