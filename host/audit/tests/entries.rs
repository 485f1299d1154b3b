//! The second place of entries: each is there before anybody is told that it is recorded, whatever fails, and what is there leads
//! to the signed head.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test is a panic with a place"
)]

mod world;

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use proptest::prelude::*;
use ringfence_audit::entries::{Entries, EntriesError, open_line};
use ringfence_audit::verify::{Claim, Verified, verify_claim};
use ringfence_audit::{Audit, AuditError, Beginning, Copied, InvocationSummary, Log, Shown, Swept, codes};
use ringfence_core::{InvocationId, Usage};
use ringfence_store::{Fault, Faults, TenantStore};
use serde_json::{Value, json};
use world::{World, event, pushed};

/// 2026-06-15, 2026-07-15 and 2034-06-01, when 2026 is due after 2,557 days.
const JUNE_2026: i64 = 1_781_481_600_000;
const JULY_2026: i64 = 1_784_073_600_000;
const JUNE_2034: i64 = 2_032_732_800_000;
const DAY_MS: i64 = 24 * 3_600 * 1_000;

/// What becomes of the next time that the directory is asked for.
#[derive(Debug)]
enum Fate {
    Well,
    Gone,
    /// Full in the middle of a line.
    Torn,
    /// Nothing is answered before the other end is dropped.
    Hangs(mpsc::Receiver<()>),
}

/// A second place that fails as planned.
struct Second {
    _dir: tempfile::TempDir,
    /// Below the temporary one, so that it can go and come back.
    path: PathBuf,
    fates: Arc<Mutex<VecDeque<Fate>>>,
    entries: Entries,
}

impl Second {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("entries");
        std::fs::create_dir(&path).unwrap();
        let fates: Arc<Mutex<VecDeque<Fate>>> = Arc::default();
        let (place, planned) = (path.clone(), Arc::clone(&fates));
        let entries = Entries::new(move || {
            let fate = planned.lock().unwrap().pop_front().unwrap_or(Fate::Well);
            match fate {
                Fate::Well => {}
                Fate::Gone => return Err(io::Error::from(ErrorKind::NotFound)),
                Fate::Torn => {
                    tear(&place);
                    return Err(io::Error::from(ErrorKind::StorageFull));
                }
                Fate::Hangs(end) => {
                    let _ = end.recv();
                }
            }
            Dir::open_ambient_dir(&place, ambient_authority())
        });
        Self { _dir: dir, path, fates, entries: entries.unwrap() }
    }

    fn plan(&self, fates: impl IntoIterator<Item = Fate>) {
        *self.fates.lock().unwrap() = fates.into_iter().collect();
    }

    fn away(&self) -> PathBuf {
        self.path.with_extension("away")
    }

    fn go(&self) {
        std::fs::rename(&self.path, self.away()).unwrap();
    }

    fn come_back(&self) {
        std::fs::rename(self.away(), &self.path).unwrap();
    }

    fn folder(&self, store: &TenantStore) -> PathBuf {
        self.path.join(format!("{}.{}", store.label(), store.uid()))
    }

    /// The whole lines of a log's files.
    fn lines(&self, store: &TenantStore) -> Vec<String> {
        let mut lines = Vec::new();
        for file in files(&self.folder(store)) {
            let text = std::fs::read_to_string(file).unwrap();
            lines.extend(
                text.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(|line| line.trim().to_owned()),
            );
        }
        lines
    }

    async fn open(&self, world: &World) -> Audit {
        let name = "host.example".to_owned();
        let entries = Some(self.entries.clone());
        Audit::open_with(world.tenants.clone(), world.clock.clone(), world.entropy.clone(), name, entries)
            .await
            .unwrap()
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Leaves half a line at the end of the newest file of every log.
fn tear(place: &Path) {
    for folder in files(place).into_iter().filter(|path| path.is_dir()) {
        if let Some(file) = files(&folder).pop() {
            add(&file, "{\"seq\":7,\"leaf_ha");
        }
    }
}

fn add(file: &Path, text: &str) {
    std::fs::OpenOptions::new().append(true).open(file).unwrap().write_all(text.as_bytes()).unwrap();
}

/// What anybody can check who has the files, the signed head and the key.
async fn checked(audit: &Audit, log: &Log, lines: &[String], beginning: Option<&Beginning>) -> Verified {
    let head = audit.checkpoint(log).await.unwrap();
    let (origin, vkey) = (audit.origin(log), audit.vkey(log));
    let claim = Claim { beginning, ..Claim::new(&origin, &vkey, &head.text) };
    verify_claim(&claim, lines.iter().map(|line| Shown::Line(line.as_str()))).unwrap()
}

/// The files have the log, and who has the keys can read every body in them.
async fn assert_equal(second: &Second, audit: &Audit, store: &TenantStore) {
    let log = Log::Tenant(store.clone());
    let (lines, size) = (second.lines(store), audit.size(&log).await.unwrap());
    assert_eq!(checked(audit, &log, &lines, None).await.entries, size);
    let mut listed = Vec::new();
    while (listed.len() as u64) < size {
        listed.extend(audit.list(&log, listed.len() as u64, 1_000).await.unwrap());
    }
    for (line, entry) in lines.iter().zip(listed) {
        assert_eq!(open_line(store.keys(), &audit.origin(&log), line).unwrap(), entry);
    }
}

/// Waits for what must come to be.
async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < Duration::from_secs(60), "it never came to be");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A directory where the log's file should be, which nothing can be written to.
fn put_in_the_way(second: &Second, store: &TenantStore) -> PathBuf {
    let in_the_way = second.folder(store).join("2026-09.jsonl");
    std::fs::create_dir_all(&in_the_way).unwrap();
    in_the_way
}

/// Counts invocations, and tries to record them at once.
async fn invoke(world: &World, audit: &Audit, log: &Log, count: usize) {
    for _ in 0..count {
        let summary = InvocationSummary {
            plugin: "visits".parse().unwrap(),
            version: "0.1.0".to_owned(),
            invocation: InvocationId::random(&*world.entropy),
            status: 200,
            code: None,
            called_by: None,
            usage: Usage::default(),
        };
        audit.invocation(log, summary);
    }
    // They may have been tried just before.
    drop(audit.flush().await);
}

/// The bodies of a log.
async fn bodies(audit: &Audit, log: &Log) -> Vec<Value> {
    audit.list(log, 0, 1_000).await.unwrap().into_iter().map(|entry| entry.body.unwrap()).collect()
}

async fn invocations(audit: &Audit, log: &Log) -> u64 {
    let bodies = bodies(audit, log).await;
    bodies.iter().filter_map(|body| body["unmapped"]["details"]["invocations"].as_u64()).sum()
}

/// The intents of which the log says that nobody knows how they ended, as often as it does.
async fn unknown(audit: &Audit, log: &Log) -> Vec<u64> {
    let bodies = bodies(audit, log).await;
    let unmapped = bodies.iter().map(|body| &body["unmapped"]);
    unmapped
        .filter(|unmapped| unmapped["code"] == codes::OUTCOME_UNKNOWN)
        .filter_map(|unmapped| unmapped["intent"].as_u64())
        .collect()
}

fn at(world: &World, ms: i64) {
    world.clock.0.store(ms, Ordering::Relaxed);
}

#[tokio::test]
async fn an_entry_is_there_before_its_receipt_and_no_body_is_there_in_clear() {
    let (world, second) = (World::new().await, Second::new());
    let acme = world.tenant("acme").await;
    let (log, audit) = (Log::Tenant(acme.clone()), second.open(&world).await);
    for _ in 0..3 {
        let seq = audit.record(&log, pushed()).await.unwrap().seq;
        assert_eq!(second.lines(&acme).len() as u64, seq + 1);
    }
    let writing: Vec<_> = (0..300)
        .map(|_| {
            let (audit, log) = (audit.clone(), log.clone());
            tokio::spawn(async move { audit.record(&log, pushed()).await.unwrap().seq })
        })
        .collect();
    for written in writing {
        let seq = written.await.unwrap();
        assert!(second.lines(&acme).len() as u64 > seq);
    }
    assert_equal(&second, &audit, &acme).await;
    assert_eq!(audit.copied(&log).await.unwrap(), Copied::Complete);
    let text = second.lines(&acme).concat();
    assert!(!text.contains("canary") && !text.contains("push-version"));
    // The host's own log is there too.
    audit.record(&Log::Host, pushed()).await.unwrap();
    assert_eq!(second.lines(world.tenants.platform()).len(), 1);
}

#[tokio::test]
async fn without_a_second_place_that_is_said() {
    let world = World::new().await;
    let (log, audit) = (Log::Tenant(world.tenant("acme").await), world.open().await);
    audit.record(&log, pushed()).await.unwrap();
    assert_eq!(audit.copied(&log).await.unwrap(), Copied::Nowhere);
}

#[tokio::test]
async fn a_place_that_is_gone_refuses_entries_and_gets_everything_when_it_is_back() {
    let (world, second) = (World::new().await, Second::new());
    let acme = world.tenant("acme").await;
    let (log, audit) = (Log::Tenant(acme.clone()), second.open(&world).await);
    audit.record(&log, pushed()).await.unwrap();
    second.go();
    for _ in 0..3 {
        assert_eq!(audit.record(&log, pushed()).await.unwrap_err(), AuditError::Unavailable);
    }
    assert!(!audit.can_record(&log));
    assert_eq!(audit.copied(&log).await.unwrap(), Copied::Behind);
    assert_eq!(audit.size(&log).await.unwrap(), 2, "once it is known to be behind, the store is not written either");
    assert_eq!(audit.list(&log, 0, 10).await.unwrap().len(), 2, "reading goes on");
    second.come_back();
    // Nobody has to ask for anything.
    until(async || audit.copied(&log).await.unwrap() == Copied::Complete && audit.can_record(&log)).await;
    assert_equal(&second, &audit, &acme).await;
    audit.record(&log, pushed()).await.unwrap();
    assert_equal(&second, &audit, &acme).await;
}

#[tokio::test]
async fn a_place_that_cannot_be_written_refuses_entries_until_it_can() {
    let (world, second) = (World::new().await, Second::new());
    let acme = world.tenant("acme").await;
    // Before anybody looks at what is there.
    let in_the_way = put_in_the_way(&second, &acme);
    let (log, audit) = (Log::Tenant(acme.clone()), second.open(&world).await);
    assert_eq!(audit.record(&log, pushed()).await.unwrap_err(), AuditError::Unavailable);
    assert_eq!(audit.size(&log).await.unwrap(), 0);
    std::fs::remove_dir(&in_the_way).unwrap();
    audit.record(&log, pushed()).await.unwrap();
    assert_equal(&second, &audit, &acme).await;
}

#[tokio::test]
async fn what_one_log_fails_with_stops_that_log_alone_and_the_hosts_own_stops_all() {
    let (world, second) = (World::new().await, Second::new());
    let (acme, globex) = (world.tenant("acme").await, world.tenant("globex").await);
    let (log, other, audit) = (Log::Tenant(acme.clone()), Log::Tenant(globex), second.open(&world).await);
    let in_the_way = put_in_the_way(&second, &acme);
    assert!(audit.record(&log, pushed()).await.is_err());
    audit.record(&other, pushed()).await.unwrap();
    assert!(audit.is_writable() && audit.can_record(&other));
    assert!(!audit.can_record(&log));
    std::fs::remove_dir(&in_the_way).unwrap();
    // Nobody has to ask for anything.
    until(async || audit.can_record(&log)).await;

    let in_the_way = put_in_the_way(&second, world.tenants.platform());
    assert!(audit.record(&Log::Host, pushed()).await.is_err());
    audit.record(&other, pushed()).await.unwrap();
    assert!(!audit.is_writable() && !audit.can_record(&other));
    std::fs::remove_dir(&in_the_way).unwrap();
    until(async || audit.is_writable()).await;
    assert!(audit.can_record(&log) && audit.can_record(&other));
}

#[tokio::test]
async fn invocations_are_recorded_once_when_the_second_place_fails() {
    let (world, second) = (World::new().await, Second::new());
    let acme = world.tenant("acme").await;
    let (log, audit) = (Log::Tenant(acme.clone()), second.open(&world).await);
    audit.record(&log, pushed()).await.unwrap();
    second.go();
    // These the store takes; the next it does not, because it is ahead.
    invoke(&world, &audit, &log, 3).await;
    assert_eq!(invocations(&audit, &log).await, 3);
    invoke(&world, &audit, &log, 2).await;
    assert_eq!(invocations(&audit, &log).await, 3);
    second.come_back();
    // Whoever asks all the time does not put off that they are tried again.
    until(async || invocations(&audit, &log).await >= 5).await;
    audit.flush().await.unwrap();
    assert_eq!(invocations(&audit, &log).await, 5);
    assert_equal(&second, &audit, &acme).await;
}

#[tokio::test]
async fn acts_that_were_refused_because_of_the_second_place_do_not_stay_open() {
    let (world, second) = (World::new().await, Second::new());
    let acme = world.tenant("acme").await;
    let (log, audit) = (Log::Tenant(acme.clone()), second.open(&world).await);
    let begun = audit.intent(&log, pushed()).await.unwrap();
    second.go();
    assert_eq!(audit.intent(&log, pushed()).await.err(), Some(AuditError::Unavailable));
    assert_eq!(audit.size(&log).await.unwrap(), 2, "the store had it when the second place failed");
    drop(begun);
    // What the drop says is refused as well.
    tokio::task::yield_now().await;
    assert!(audit.record(&log, pushed()).await.is_err());
    second.come_back();
    until(async || audit.record(&log, pushed()).await.is_ok()).await;
    let mut closed = unknown(&audit, &log).await;
    closed.sort_unstable();
    assert_eq!(closed, [0, 1]);
    // Once, and not again at the next start.
    audit.record(&log, pushed()).await.unwrap();
    drop(audit);
    let audit = second.open(&world).await;
    audit.record(&log, pushed()).await.unwrap();
    assert_eq!(unknown(&audit, &log).await.len(), 2);
    assert_equal(&second, &audit, &acme).await;
}

#[tokio::test]
async fn a_write_in_doubt_does_not_count_as_copied() {
    let faults = Faults::default();
    let (world, second) = (World::with_faults(faults.clone()).await, Second::new());
    let acme = world.tenant("acme").await;
    let (log, audit) = (Log::Tenant(acme.clone()), second.open(&world).await);
    audit.record(&log, pushed()).await.unwrap();
    faults.plan([Some(Fault::InDoubt)]);
    assert!(audit.record(&log, pushed()).await.is_err());
    until(async || audit.copied(&log).await.unwrap() == Copied::Complete).await;
    assert_eq!(second.lines(&acme).len(), 2);
    assert_equal(&second, &audit, &acme).await;
}

#[tokio::test]
async fn a_place_that_hangs_is_given_up_and_keeps_no_other_log_waiting() {
    let (world, second) = (World::new().await, Second::new());
    let (acme, globex) = (world.tenant("acme").await, world.tenant("globex").await);
    let (log, other) = (Log::Tenant(acme.clone()), Log::Tenant(globex.clone()));
    let audit = second.open(&world).await;
    for log in [&log, &other, &Log::Host] {
        audit.record(log, pushed()).await.unwrap();
    }
    let (end, hangs) = mpsc::channel();
    second.plan([Fate::Hangs(hangs)]);
    let refused = tokio::spawn({
        let (audit, log) = (audit.clone(), log.clone());
        async move { audit.record(&log, pushed()).await.unwrap_err() }
    });
    // The planned fate is taken by the first that comes.
    until(async || second.fates.lock().unwrap().is_empty()).await;
    for _ in 0..20 {
        audit.record(&other, pushed()).await.unwrap();
    }
    assert_eq!(refused.await.unwrap(), AuditError::Unavailable);
    assert_eq!(audit.record(&log, pushed()).await.unwrap_err(), AuditError::Unavailable, "it still hangs");
    drop(end);
    until(async || audit.copied(&log).await.unwrap() == Copied::Complete).await;
    audit.record(&log, pushed()).await.unwrap();
    for store in [&acme, &globex] {
        assert_equal(&second, &audit, store).await;
    }
}

#[tokio::test]
async fn a_kill_between_the_store_and_the_second_place_is_made_up_for_at_the_next_start() {
    let (world, second) = (World::new().await, Second::new());
    let acme = world.tenant("acme").await;
    let (log, audit) = (Log::Tenant(acme.clone()), second.open(&world).await);
    audit.record(&log, pushed()).await.unwrap();
    second.go();
    assert!(audit.record(&log, pushed()).await.is_err());
    drop(audit);
    second.come_back();
    assert_eq!(second.lines(&acme).len(), 1);
    let audit = second.open(&world).await;
    // Without an entry that somebody waits for, too.
    until(async || audit.copied(&log).await.unwrap() == Copied::Complete).await;
    assert_eq!(second.lines(&acme).len(), 2);
    assert_equal(&second, &audit, &acme).await;
}

#[tokio::test]
async fn a_place_that_is_configured_late_gets_the_log_from_its_beginning() {
    let (world, second) = (World::new().await, Second::new());
    let acme = world.tenant("acme").await;
    let (log, audit) = (Log::Tenant(acme.clone()), world.open().await);
    for _ in 0..300 {
        audit.record(&log, pushed()).await.unwrap();
    }
    // An act that was cut is closed at the start.
    std::mem::forget(audit.intent(&log, pushed()).await.unwrap());
    drop(audit);
    let audit = second.open(&world).await;
    until(async || audit.record(&log, pushed()).await.is_ok()).await;
    assert_eq!(second.lines(&acme).len(), 303);
    assert_equal(&second, &audit, &acme).await;
}

#[tokio::test]
async fn a_torn_line_is_cut_and_written_again() {
    let (world, second) = (World::new().await, Second::new());
    let acme = world.tenant("acme").await;
    let (log, audit) = (Log::Tenant(acme.clone()), second.open(&world).await);
    audit.record(&log, pushed()).await.unwrap();
    let file = files(&second.folder(&acme)).pop().unwrap();
    add(&file, "{\"seq\":1,");
    let audit_again = second.open(&world).await;
    audit_again.record(&log, pushed()).await.unwrap();
    assert_equal(&second, &audit_again, &acme).await;
    drop((audit, audit_again));
    // The very first line.
    std::fs::write(&file, "{\"seq\":0,").unwrap();
    let audit = second.open(&world).await;
    audit.record(&log, pushed()).await.unwrap();
    assert_equal(&second, &audit, &acme).await;
    // By somebody else, under a host that runs.
    add(&file, "{\"seq\":3,");
    assert_eq!(audit.record(&log, pushed()).await.unwrap_err(), AuditError::Unavailable);
    until(async || audit.record(&log, pushed()).await.is_ok()).await;
    assert_equal(&second, &audit, &acme).await;
}

#[tokio::test]
async fn another_history_stops_that_log_with_an_error_that_says_so() {
    let (world, second) = (World::new().await, Second::new());
    let (acme, globex) = (world.tenant("acme").await, world.tenant("globex").await);
    let (log, other) = (Log::Tenant(acme.clone()), Log::Tenant(globex));
    let audit = second.open(&world).await;
    for _ in 0..3 {
        audit.record(&log, pushed()).await.unwrap();
    }
    drop(audit);
    let file = files(&second.folder(&acme)).pop().unwrap();
    let right = std::fs::read_to_string(&file).unwrap();
    let last = right.lines().last().unwrap().to_owned();
    for wrong in [
        right.replace(&last, &last.replace("Success", "Failure")),
        format!("{right}{}\n", last.replacen("\"seq\":2", "\"seq\":3", 1)),
        format!("{right}no entry\n"),
        // Damage before the last line: what a disk may leave of a batch that it wrote in parts.
        right.lines().enumerate().filter(|(place, _)| *place != 1).map(|(_, line)| format!("{line}\n")).collect(),
        right.replacen("\"seq\":1", "\"seq\":\0", 1),
    ] {
        std::fs::write(&file, &wrong).unwrap();
        let audit = second.open(&world).await;
        for _ in 0..2 {
            let refused = audit.record(&log, pushed()).await.unwrap_err();
            assert!(matches!(refused, AuditError::Broken { .. }), "{refused}");
            assert_eq!(refused.code(), "audit-unavailable");
        }
        assert_eq!(audit.size(&log).await.unwrap(), 3);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), wrong, "what is whole is not touched");
        audit.record(&other, pushed()).await.unwrap();
        assert!(audit.is_writable() && audit.can_record(&other), "the other log has nothing to do with it");
        assert!(!audit.can_record(&log), "no log's entries make up for another's");
    }
    std::fs::write(&file, &right).unwrap();
    let audit = second.open(&world).await;
    audit.record(&log, pushed()).await.unwrap();
    assert_equal(&second, &audit, &acme).await;
}

#[tokio::test]
async fn a_place_that_lost_what_it_had_is_not_filled_again_without_a_word() {
    let (world, second) = (World::new().await, Second::new());
    let acme = world.tenant("acme").await;
    let (log, audit) = (Log::Tenant(acme.clone()), second.open(&world).await);
    audit.record(&log, pushed()).await.unwrap();
    second.go();
    // What is left when a disk is unmounted: an empty directory.
    std::fs::create_dir(&second.path).unwrap();
    assert!(audit.record(&log, pushed()).await.is_err());
    let refused = audit.record(&log, pushed()).await.unwrap_err();
    assert!(matches!(refused, AuditError::Broken { .. }), "{refused}");
    assert!(second.lines(&acme).is_empty());
    std::fs::remove_dir_all(&second.path).unwrap();
    second.come_back();
    audit.record(&log, pushed()).await.unwrap();
    assert_equal(&second, &audit, &acme).await;
}

#[tokio::test]
async fn what_an_unmounted_disk_leaves_is_not_the_place() {
    let (world, second) = (World::new().await, Second::new());
    let claim =
        async |entries: &Entries, path: &str| entries.claim(world.tenants.platform(), path, &*world.entropy).await;
    claim(&second.entries, "/one").await.unwrap();
    let (log, audit) = (Log::Tenant(world.tenant("acme").await), second.open(&world).await);
    // Under a host that runs: also for a log that has nothing there yet.
    second.go();
    std::fs::create_dir(&second.path).unwrap();
    assert_eq!(audit.record(&log, pushed()).await.unwrap_err(), AuditError::Unavailable);
    assert!(files(&second.path).into_iter().all(|path| path.is_file()), "no log is begun there");
    // Back again, it is known.
    std::fs::rename(&second.path, second.path.with_extension("empty")).unwrap();
    second.come_back();
    until(async || audit.record(&log, pushed()).await.is_ok()).await;
    claim(&second.entries, "/one").await.unwrap();
    // At a start: an empty directory is no place at the same path; at another it begins one, which is then the one.
    let other = Second::new();
    assert!(matches!(claim(&other.entries, "/one").await, Err(EntriesError::Strange)));
    for _ in 0..2 {
        claim(&other.entries, "/two").await.unwrap();
    }
    assert!(matches!(claim(&second.entries, "/two").await, Err(EntriesError::Strange)));
}

#[tokio::test]
async fn two_hosts_do_not_write_to_one_place() {
    let second = Second::new();
    let path = second.path.clone();
    let open = move || Dir::open_ambient_dir(&path, ambient_authority());
    assert!(matches!(Entries::new(open.clone()), Err(EntriesError::Taken)));
    drop(second.entries);
    assert!(Entries::new(open).is_ok());
}

#[tokio::test]
async fn what_can_be_erased_is_not_there_and_a_deleted_tenant_leaves_nothing_that_opens() {
    let (world, second) = (World::new().await, Second::new());
    let acme = world.tenant("acme").await;
    let (log, audit) = (Log::Tenant(acme.clone()), second.open(&world).await);
    audit.record(&log, event(codes::APPLICATION_EVENT, json!({"patient": "canary"}))).await.unwrap();
    audit.record(&log, pushed()).await.unwrap();
    let lines: Vec<Value> = second.lines(&acme).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines[0].get("sealed").is_none() && lines[1]["sealed"].is_string());
    let (origin, text) = (audit.origin(&log), second.lines(&acme));
    assert_eq!(checked(&audit, &log, &text, None).await.entries, 2, "its envelope is there all the same");
    assert!(open_line(acme.keys(), &origin, &text[0]).unwrap().body.is_none());
    assert!(open_line(acme.keys(), &origin, &text[1]).unwrap().body.is_some());
    // A body opens for its place in its log only.
    assert!(open_line(acme.keys(), &origin, &text[1].replacen("\"seq\":1", "\"seq\":0", 1)).is_err());
    assert!(open_line(acme.keys(), "host.example/audit/tenant/other", &text[1]).is_err());
    world.tenants.delete(&"acme".parse().unwrap()).await.unwrap();
    assert_eq!(second.lines(&acme), text, "nothing is deleted there");
    assert!(matches!(open_line(acme.keys(), &origin, &text[1]), Err(EntriesError::Keys(_))));
}

#[tokio::test]
async fn a_file_a_month_and_none_for_a_clock_that_steps_back() {
    let (world, second) = (World::new().await, Second::new());
    let acme = world.tenant("acme").await;
    let (log, audit) = (Log::Tenant(acme.clone()), second.open(&world).await);
    for ms in [JUNE_2026, JULY_2026, JUNE_2026, JULY_2026] {
        at(&world, ms);
        audit.record(&log, pushed()).await.unwrap();
    }
    let names: Vec<_> = files(&second.folder(&acme)).iter().map(|file| file.file_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["2026-06.jsonl", "2026-07.jsonl"]);
    drop(audit);
    assert_equal(&second, &second.open(&world).await, &acme).await;
}

#[tokio::test]
async fn what_is_deleted_after_its_retention_stays_there_and_a_later_place_begins_after_it() {
    let (world, second) = (World::new().await, Second::new());
    let acme = world.tenant("acme").await;
    let (log, audit) = (Log::Tenant(acme.clone()), second.open(&world).await);
    at(&world, JUNE_2026);
    for _ in 0..300 {
        audit.record(&log, pushed()).await.unwrap();
    }
    at(&world, JUNE_2034);
    audit.record(&log, pushed()).await.unwrap();
    assert_eq!(audit.sweep(&log).await.unwrap(), Swept::Announced);
    at(&world, JUNE_2034 + 8 * DAY_MS);
    // Nothing goes while the second place may not have it.
    second.go();
    assert!(audit.sweep(&log).await.is_err());
    assert_eq!(audit.first(&log).await.unwrap(), 0);
    second.come_back();
    until(async || audit.copied(&log).await.unwrap() == Copied::Complete).await;
    while audit.sweep(&log).await.unwrap() == Swept::Deleting {}
    assert_eq!(audit.first(&log).await.unwrap(), 256);
    let (lines, size) = (second.lines(&acme), audit.size(&log).await.unwrap());
    assert_eq!(checked(&audit, &log, &lines, None).await.entries, size);
    drop(audit);
    let audit = second.open(&world).await;
    audit.record(&log, pushed()).await.unwrap();
    drop(audit);
    let later = Second::new();
    let audit = later.open(&world).await;
    audit.record(&log, pushed()).await.unwrap();
    let (lines, beginning) = (later.lines(&acme), audit.beginning(&log).await.unwrap().unwrap());
    assert_eq!(checked(&audit, &log, &lines, Some(&beginning)).await.from, 256);
}

fn fate() -> impl Strategy<Value = u8> {
    prop_oneof![4 => Just(0_u8), 1 => Just(1_u8), 1 => Just(2_u8)]
}

fn fault() -> impl Strategy<Value = Option<Fault>> {
    prop_oneof![6 => Just(None), 1 => Just(Some(Fault::Lost)), 1 => Just(Some(Fault::InDoubt))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever both places do, and with starts in between: what was acknowledged is in the files at that moment, and once both
    /// do well again the files are the log.
    #[test]
    fn after_any_failures_the_files_are_the_log(
        rounds in prop::collection::vec(
            (prop::collection::vec(fate(), 0..16), prop::collection::vec(fault(), 0..8), 1_usize..40), 1..5),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let faults = Faults::default();
            let (world, second) = (World::with_faults(faults.clone()).await, Second::new());
            let acme = world.tenant("acme").await;
            let log = Log::Tenant(acme.clone());
            for (fates, writes, count) in rounds {
                let audit = second.open(&world).await;
                second.plan(fates.into_iter().map(|fate| match fate {
                    0 => Fate::Well,
                    1 => Fate::Gone,
                    _ => Fate::Torn,
                }));
                faults.plan(writes);
                for _ in 0..count {
                    let (one, two) = tokio::join!(audit.record(&log, pushed()), audit.record(&log, pushed()));
                    for receipt in [one, two].into_iter().flatten() {
                        assert!(second.lines(&acme).len() as u64 > receipt.seq, "{} is not there", receipt.seq);
                    }
                }
                second.plan([]);
                faults.plan([]);
            }
            let audit = second.open(&world).await;
            until(async || audit.record(&log, pushed()).await.is_ok()).await;
            assert_equal(&second, &audit, &acme).await;
        });
    }
}
