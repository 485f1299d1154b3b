//! The reader over real logs: every entry once, whatever was lost, slow or down; labels of drills believed only while they
//! are under way; responses ended in time, kept within bounds and in force after a start; incidents kept before their actions;
//! the past asked about what has just come.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test is a panic with a place"
)]

mod anew;
mod intelligence;
mod trust;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use ringfence_audit::{Audit, Event, FEED_COUNT_MAX, Log, codes};
use ringfence_core::{Clock, Entropy, Standing, TenantId};
use ringfence_keys::{RootKey, RootKeyUri};
use ringfence_store::{Fault, Faults, Key, Side, Store, TenantStore, Tenants};
use ringfence_threat::incident::{Saying, Transition};
use ringfence_threat::settings::SourceBlocks;
use ringfence_threat::{Asked, Kind, Reader, Response, Scope, Settings, Target, Threat};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

/// Time that a test moves on.
struct Moved(AtomicI64);
impl Clock for Moved {
    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.0.load(Ordering::Relaxed)).unwrap()
    }
    fn monotonic(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.load(Ordering::Relaxed)).unwrap())
    }
}

struct Counter(AtomicU64);
impl Entropy for Counter {
    fn fill(&self, into: &mut [u8]) {
        for chunk in into.chunks_mut(32) {
            let block = Sha256::digest(self.0.fetch_add(1, Ordering::Relaxed).to_be_bytes());
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
    }
}

struct World {
    tenants: Tenants,
    clock: Arc<Moved>,
    entropy: Arc<Counter>,
    acme: TenantStore,
    /// The keys; they are read again when they are enabled again.
    _directory: tempfile::TempDir,
}

/// A reader that is running.
struct Running {
    threat: Threat,
    audit: Audit,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn stop(self) {
        self.stop.send(true).unwrap();
        self.task.await.unwrap();
    }
}

impl World {
    async fn new() -> Self {
        Self::with_faults(Faults::default()).await
    }

    async fn with_faults(faults: Faults) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (clock, entropy) =
            (Arc::new(Moved(AtomicI64::new(1_790_000_000_000))), Arc::new(Counter(AtomicU64::new(1))));
        let root = RootKey::open_or_create(&RootKeyUri::File(directory.path().join("root.key")), &*entropy).unwrap();
        let tenants = Tenants::open(Store::memory_with_faults(faults), Arc::new(root), entropy.clone(), clock.clone())
            .await
            .unwrap();
        let id: TenantId = "acme".parse().unwrap();
        tenants.create(&id, "Acme").await.unwrap();
        let acme = tenants.open_tenant(&id).unwrap();
        Self { tenants, clock, entropy, acme, _directory: directory }
    }

    async fn audit(&self) -> Audit {
        Audit::open(self.tenants.clone(), self.clock.clone(), self.entropy.clone(), "host.example".to_owned())
            .await
            .unwrap()
    }

    async fn open(&self, audit: Audit) -> (Threat, Reader) {
        let standing = Arc::new(Standing::default());
        Threat::open(self.tenants.clone(), audit, self.clock.clone(), self.entropy.clone(), standing).await.unwrap()
    }

    async fn start(&self, audit: Audit) -> Running {
        let (threat, reader) = self.open(audit.clone()).await;
        let (stop, stopping) = watch::channel(false);
        let task = tokio::spawn(reader.run(stopping));
        Running { threat, audit, stop, task }
    }

    async fn record(&self, audit: &Audit, code: &'static str, details: serde_json::Value) {
        let mut event = Event::new(code, "invoke", "acme/ada".parse().unwrap(), "tenant/acme/plugin/visits");
        event.details = details;
        audit.record(&Log::Tenant(self.acme.clone()), event).await.unwrap();
    }

    fn scope(&self) -> Scope {
        Scope::Tenant("acme".parse().unwrap())
    }
}

async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what} never came");
}

async fn found(running: &Running, scope: &Scope, rule: &str) -> usize {
    running.threat.findings(scope).await.unwrap().iter().filter(|finding| finding.rule == rule).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_while_nobody_read_along_is_found_after_the_restart_and_once() {
    let world = World::new().await;
    let scope = world.scope();
    let running = world.start(world.audit().await).await;
    world.record(&running.audit, codes::EGRESS_REFUSED, json!({})).await;
    eventually("the first entry", async || running.threat.health().evaluated_count >= 1).await;
    let audit = running.audit.clone();
    running.stop().await;
    for _ in 0..3 {
        world.record(&audit, codes::EGRESS_REFUSED, json!({})).await;
    }
    let running = world.start(audit.clone()).await;
    eventually("the finding", async || found(&running, &scope, "egress-denied").await == 1).await;
    running.stop().await;
    let running = world.start(audit).await;
    world.record(&running.audit, codes::SECRET_WRITTEN, json!({})).await;
    eventually("another entry", async || running.threat.health().evaluated_count >= 1).await;
    assert_eq!(found(&running, &scope, "egress-denied").await, 1);
    running.stop().await;
}

/// An audit whose first entry of acme was read along, and what came after it was not.
async fn read_and_stopped(world: &World) -> Audit {
    let running = world.start(world.audit().await).await;
    world.record(&running.audit, codes::SECRET_WRITTEN, json!({})).await;
    eventually("the first entry", async || running.threat.health().evaluated_count >= 1).await;
    let audit = running.audit.clone();
    running.stop().await;
    audit
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_now_is_read_before_what_comes_after_it() {
    let faults = Faults::default();
    let world = World::with_faults(faults.clone()).await;
    let audit = read_and_stopped(&world).await;
    for _ in 0..3 {
        world.record(&audit, codes::EGRESS_REFUSED, json!({})).await;
    }
    let (threat, reader) = world.open(audit.clone()).await;
    // Told by the feed, behind a gap that the log does not fill at first.
    world.record(&audit, codes::CANARY_TOUCHED, json!({})).await;
    faults.plan_reads(2);
    let (stop, stopping) = watch::channel(false);
    let running = Running { threat, audit, stop, task: tokio::spawn(reader.run(stopping)) };
    for rule in ["egress-denied", "canary"] {
        eventually(rule, async || found(&running, &world.scope(), rule).await == 1).await;
    }
    assert_eq!(running.threat.health().skipped_count, 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_entry_is_passed_over_on_the_record_and_those_around_it_are_read() {
    let world = World::new().await;
    let audit = read_and_stopped(&world).await;
    for code in [codes::CANARY_TOUCHED, codes::SECRET_WRITTEN, codes::EGRESS_REFUSED] {
        for _ in 0..3 {
            world.record(&audit, code, json!({})).await;
        }
    }
    for seq in [4, 5] {
        world.acme.delete(&Key::new(["audit"]).number(seq)).await.unwrap();
    }
    let running = world.start(audit).await;
    for rule in ["canary", "egress-denied", "audit-gap"] {
        eventually(rule, async || found(&running, &world.scope(), rule).await == 1).await;
    }
    assert_eq!(running.threat.health().skipped_count, 2);
    let entries = running.audit.list(&Log::Tenant(world.acme.clone()), 6, 100).await.unwrap();
    let bodies: Vec<_> = entries.into_iter().filter_map(|entry| entry.body).collect();
    let said = bodies.iter().find(|body| body["unmapped"]["code"] == codes::ENTRIES_SKIPPED).unwrap();
    let details = &said["unmapped"]["details"];
    assert_eq!((&details["from"], &details["to"]), (&json!(4), &json!(6)), "{details}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_made_anew_under_an_old_name_is_looked_at_from_its_first_entry() {
    let mut world = World::new().await;
    let running = world.start(world.audit().await).await;
    for _ in 0..9 {
        world.record(&running.audit, codes::SECRET_WRITTEN, json!({})).await;
    }
    eventually("the entries", async || running.threat.health().evaluated_count >= 9).await;
    let acme: TenantId = "acme".parse().unwrap();
    world.tenants.delete(&acme).await.unwrap();
    world.tenants.create(&acme, "Acme").await.unwrap();
    world.acme = world.tenants.open_tenant(&acme).unwrap();
    world.record(&running.audit, codes::CANARY_TOUCHED, json!({})).await;
    eventually("the finding", async || found(&running, &world.scope(), "canary").await == 1).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_rule_of_a_text_hides_nothing_that_another_of_it_finds_in_the_same_principal() {
    let world = World::new().await;
    let running = world.start(world.audit().await).await;
    for at in 0..50 {
        world.record(&running.audit, codes::DATA_READ, json!({ "view": "run", "of": format!("run-{at}") })).await;
    }
    for _ in 0..5 {
        world.record(&running.audit, codes::AUDIT_EXPORTED, json!({})).await;
    }
    eventually("both findings", async || found(&running, &world.scope(), "mass-read").await == 2).await;
    let findings = running.threat.findings(&world.scope()).await.unwrap();
    assert_ne!(findings[0].title, findings[1].title);
    running.stop().await;
}

#[tokio::test]
async fn what_is_recorded_before_the_reader_runs_is_read() {
    let world = World::new().await;
    let audit = world.audit().await;
    let (threat, reader) = world.open(audit.clone()).await;
    world.record(&audit, codes::CANARY_TOUCHED, json!({})).await;
    let (stop, stopping) = watch::channel(false);
    let running = Running { threat, audit, stop, task: tokio::spawn(reader.run(stopping)) };
    eventually("the finding", async || found(&running, &world.scope(), "canary").await == 1).await;
    running.stop().await;
}

#[tokio::test]
async fn what_could_not_be_read_is_known_to_be_unread_until_it_is() {
    let world = World::new().await;
    let (acme, audit): (TenantId, _) = ("acme".parse().unwrap(), world.audit().await);
    world.tenants.disable_key(&acme, "operator/eve", Side::Operator).await.unwrap();
    let (threat, _reader) = world.open(audit).await;
    assert!(!threat.has_read(&acme));
    assert!(threat.reload(&acme).await.is_err() && !threat.has_read(&acme));
    world.tenants.enable_key(&acme, Side::Operator).await.unwrap();
    threat.reload(&acme).await.unwrap();
    assert!(threat.has_read(&acme));
    threat.forget(&acme).await;
    assert!(!threat.has_read(&acme));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_beyond_the_feed_loses_no_entry() {
    let world = World::new().await;
    let audit = world.audit().await;
    let running = world.start(audit.clone()).await;
    let count = FEED_COUNT_MAX + 500;
    for _ in 0..count.div_ceil(250) {
        futures::future::join_all((0..250).map(|_| world.record(&audit, codes::SECRET_WRITTEN, json!({})))).await;
    }
    world.record(&audit, codes::CANARY_TOUCHED, json!({})).await;
    eventually("the finding behind the flood", async || found(&running, &world.scope(), "canary").await == 1).await;
    assert!(running.threat.health().evaluated_count as usize >= count);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_label_of_a_drill_is_believed_only_while_that_drill_is_under_way() {
    let world = World::new().await;
    let running = world.start(world.audit().await).await;
    world.record(&running.audit, codes::CANARY_TOUCHED, json!({ "drill": "dr_made_up" })).await;
    eventually("the finding", async || found(&running, &world.scope(), "canary").await == 1).await;
    let finding = running.threat.findings(&world.scope()).await.unwrap().remove(0);
    assert_eq!((finding.drill, finding.response), (None, None), "it is real, and nothing acts by itself");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_misses_nothing_and_leaves_nothing_held() {
    let world = World::new().await;
    let running = world.start(world.audit().await).await;
    let report = running.threat.drill(&world.scope(), 2).await.unwrap();
    let missed: Vec<&str> =
        report.drilled.iter().filter(|one| one.detected_us.is_none()).map(|one| one.rule.as_str()).collect();
    assert!(missed.is_empty(), "{missed:?}");
    assert_eq!(report.not_played, ["clock-stepped"; 2], "no drill moves the host's clock");
    assert_eq!(report.drilled.len(), 2 * (ringfence_threat::shipped::rules().unwrap().len() - 1));
    for rule in ["account-guessed", "accounts-sprayed", "log-read", "log-exported", "proofs-replayed"] {
        assert_eq!(report.drilled.iter().filter(|one| one.rule == rule).count(), 2, "`{rule}`");
    }
    for one in &report.drilled {
        assert_eq!(one.responded_us.is_some(), one.response.is_some(), "`{}`: what it holds was not refused", one.rule);
    }
    assert!(report.drilled.iter().filter(|one| one.responded_us.is_some()).count() >= 10);
    assert!(running.threat.responses(&world.scope()).iter().all(|response| response.undone.is_some()));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_is_over_at_its_end_and_disabled_keys_come_back() {
    let world = World::new().await;
    let running = world.start(world.audit().await).await;
    let asked = stop_acme();
    let (by, other) = ("operator/ada".parse().unwrap(), "operator/bob".parse().unwrap());
    let (waiting, _) = running.threat.respond(&Scope::Host, &by, asked.clone()).await.unwrap();
    assert!(world.acme.check_keys().is_ok(), "one person stops no tenant");
    let one_person = running.threat.approve(&Scope::Host, &other, &waiting.id, &|_, _| false).await;
    assert!(matches!(one_person, Err(ringfence_threat::ThreatError::SecondPerson)));
    running.threat.approve(&Scope::Host, &other, &waiting.id, &|one, other| one != other).await.unwrap();
    assert!(world.acme.check_keys().is_err());
    assert!(running.threat.respond(&Scope::Host, &by, asked).await.is_err(), "they are disabled already");
    world.clock.0.fetch_add(6 * 60_000, Ordering::Relaxed);
    eventually("the keys", async || world.acme.check_keys().is_ok()).await;
    running.stop().await;
}

/// Settings under which one rule acts by itself.
fn acting(rule: &str) -> Settings {
    Settings { automatic: vec![rule.to_owned()], ..Settings::unset() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_on_beyond_the_end_of_its_response_is_answered_again_unless_a_person_took_it_back() {
    let world = World::new().await;
    let scope = world.scope();
    let running = world.start(world.audit().await).await;
    running.threat.put_settings(&scope, acting("egress-denied")).await.unwrap();
    let tried_three_times = async || {
        for _ in 0..3 {
            world.record(&running.audit, codes::EGRESS_REFUSED, json!({})).await;
        }
    };
    let made = || running.threat.responses(&scope);
    tried_three_times().await;
    eventually("the response", async || made().len() == 1).await;
    // The finding and its response are three entries more.
    eventually("all of it", async || running.threat.health().evaluated_count >= 6).await;
    world.clock.0.fetch_add(31 * 60_000, Ordering::Relaxed);
    tried_three_times().await;
    eventually("what is tried meanwhile", async || running.threat.health().evaluated_count >= 9).await;
    world.clock.0.fetch_add(31 * 60_000, Ordering::Relaxed);
    tried_three_times().await;
    eventually("the next response", async || made().len() == 2).await;
    let newest = made().remove(0);
    assert!(newest.is_in_force(world.clock.now()));
    eventually("the finding with its latest response", async || {
        let findings = running.threat.findings(&scope).await.unwrap();
        findings.len() == 1 && findings[0].response.as_ref() == Some(&newest.id)
    })
    .await;
    running.threat.undo(&scope, &"acme/admin".parse().unwrap(), &newest.id).await.unwrap();
    world.clock.0.fetch_add(2 * 60_000, Ordering::Relaxed);
    tried_three_times().await;
    world.record(&running.audit, codes::CANARY_TOUCHED, json!({})).await;
    eventually("what comes after", async || found(&running, &scope, "canary").await == 1).await;
    assert_eq!(made().len(), 2, "a person's word stands");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_that_could_not_be_made_is_made_once_it_can_be() {
    let world = World::new().await;
    let scope = world.scope();
    let running = world.start(world.audit().await).await;
    running.threat.put_settings(&scope, acting("brute-force")).await.unwrap();
    let guessed = async || {
        for _ in 0..5 {
            let mut event = Event::new(codes::SIGN_IN_REFUSED, "authenticate", "acme/ada".parse().unwrap(), "acme/ada");
            event.source_ip = Some("192.0.2.1".parse().unwrap());
            running.audit.record(&Log::Tenant(world.acme.clone()), event).await.unwrap();
        }
    };
    guessed().await;
    eventually("the finding", async || found(&running, &scope, "brute-force").await == 1).await;
    assert!(running.threat.responses(&scope).is_empty(), "this owner lets no address be blocked");
    let settings = Settings { block_source: SourceBlocks::Allowed, ..acting("brute-force") };
    running.threat.put_settings(&scope, settings).await.unwrap();
    world.clock.0.fetch_add(61_000, Ordering::Relaxed);
    guessed().await;
    eventually("the response", async || running.threat.responses(&scope).len() == 1).await;
    running.stop().await;
}

fn stop_acme() -> Asked {
    Asked {
        kind: Kind::DisableKey,
        target: Target { tenant: Some("acme".parse().unwrap()), ..Target::default() },
        minutes: 5,
        per_minute: None,
        reason: "a test".into(),
        finding: None,
        drill: None,
    }
}

/// A response of two people of a side that disables acme's keys; its id.
async fn disabled(running: &Running, scope: &Scope) -> String {
    let (by, other) = ("operator/ada".parse().unwrap(), "operator/bob".parse().unwrap());
    let (waiting, _) = running.threat.respond(scope, &by, stop_acme()).await.unwrap();
    running.threat.approve(scope, &other, &waiting.id, &|one, other| one != other).await.unwrap();
    waiting.id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_response_leaves_keys_disabled_that_people_disabled_meanwhile() {
    let world = World::new().await;
    let acme: TenantId = "acme".parse().unwrap();
    let running = world.start(world.audit().await).await;
    for (scope, side) in [(Scope::Host, Side::Operator), (Scope::Host, Side::Tenant), (world.scope(), Side::Operator)] {
        let id = disabled(&running, &scope).await;
        world.tenants.disable_key(&acme, "operator/eve", side).await.unwrap();
        world.clock.0.fetch_add(6 * 60_000, Ordering::Relaxed);
        eventually("the end", async || running.threat.response(&Scope::Host, &id).unwrap().ended).await;
        assert!(world.acme.check_keys().is_err(), "{side:?} wanted them disabled");
        world.tenants.enable_key(&acme, Side::Operator).await.unwrap();
    }
    // Who enables them before the end is not undone by it either, nor by a start.
    let id = disabled(&running, &Scope::Host).await;
    world.tenants.enable_key(&acme, Side::Operator).await.unwrap();
    let audit = running.audit.clone();
    running.stop().await;
    let running = world.start(audit).await;
    assert!(world.acme.check_keys().is_ok());
    let ada = "operator/ada".parse().unwrap();
    assert_eq!(running.threat.undo(&Scope::Host, &ada, &id).await.unwrap().id, id);
    let again = running.threat.undo(&Scope::Host, &ada, &id).await.unwrap_err().to_string();
    assert!(again.contains("`operator/ada` took it back at "), "{again}");
    assert!(world.acme.check_keys().is_ok());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_whose_second_person_was_heard_before_a_kill_is_in_force_after_it_and_ends() {
    let world = World::new().await;
    let acme: TenantId = "acme".parse().unwrap();
    let running = world.start(world.audit().await).await;
    let by = "operator/ada".parse().unwrap();
    let (waiting, _) = running.threat.respond(&Scope::Host, &by, stop_acme()).await.unwrap();
    let audit = running.audit.clone();
    running.stop().await;
    // What such a kill leaves: the keys are disabled in its name, and its record says that it waits.
    world.tenants.disable_key_for(&acme, &waiting.id, "operator/bob", Side::Operator).await.unwrap();
    let running = world.start(audit).await;
    let found = running.threat.response(&Scope::Host, &waiting.id).unwrap();
    assert_eq!((found.waits_minutes, found.approved_by), (None, Some("operator/bob".parse().unwrap())));
    assert!(world.acme.check_keys().is_err());
    world.clock.0.fetch_add(6 * 60_000, Ordering::Relaxed);
    eventually("the keys", async || world.acme.check_keys().is_ok()).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_disabled_keys_is_on_the_hosts_log_and_told_to_those_who_go_on() {
    let world = World::new().await;
    let running = world.start(world.audit().await).await;
    let id = disabled(&running, &world.scope()).await;
    world.clock.0.fetch_add(6 * 60_000, Ordering::Relaxed);
    let lifted = tokio::time::timeout(Duration::from_secs(60), running.threat.lifted()).await.unwrap();
    assert_eq!(lifted.iter().map(TenantId::as_str).collect::<Vec<_>>(), ["acme"]);
    assert!(world.acme.check_keys().is_ok());
    eventually("the end, where the beginning is", async || {
        let entries = running.audit.list(&Log::Host, 0, 100).await.unwrap();
        entries.iter().filter_map(|entry| entry.body.as_ref()).any(|body| {
            let about = &body["unmapped"];
            about["code"] == codes::RESPONSE_ENDED && about["details"]["response"] == id.as_str()
        })
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_undone_while_its_end_comes_stays_undone() {
    let faults = Faults::default();
    let world = World::with_faults(faults.clone()).await;
    let audit = world.audit().await;
    let (threat, reader) = world.open(audit.clone()).await;
    let by: ringfence_core::PrincipalId = "operator/ada".parse().unwrap();
    let (made, _) = threat.respond(&Scope::Host, &by, suspend("acme/dev")).await.unwrap();
    faults.hold_flushes();
    let undoing = tokio::spawn({
        let (threat, by, id) = (threat.clone(), by.clone(), made.id.clone());
        async move { threat.undo(&Scope::Host, &by, &id).await }
    });
    eventually("the undoing", async || faults.held_count() == 1).await;
    // Its end comes while it is being kept as undone, and the reader sees it due.
    world.clock.0.fetch_add(6 * 60_000, Ordering::Relaxed);
    let (stop, stopping) = watch::channel(false);
    let running = Running { threat, audit, stop, task: tokio::spawn(reader.run(stopping)) };
    eventually("a look at what is due", async || running.threat.health().backlog_age_ms == 0).await;
    faults.let_all_through();
    undoing.await.unwrap().unwrap();
    let threat = running.threat.clone();
    running.stop().await;
    let kept = threat.response(&Scope::Host, &made.id).unwrap();
    assert_eq!(kept.undone.map(|(_, who)| who), Some(by), "the end is not what ended it");
}

#[tokio::test]
async fn an_address_that_several_were_seen_behind_is_not_blocked() {
    let world = World::new().await;
    let running = world.start(world.audit().await).await;
    let scope = world.scope();
    let asked = Asked {
        kind: Kind::BlockSource,
        target: Target { source: Some("203.0.113.9".parse().unwrap()), ..Target::default() },
        minutes: 5,
        per_minute: None,
        reason: "a test".into(),
        finding: None,
        drill: None,
    };
    let by = "acme/admin".parse().unwrap();
    let refused = running.threat.preview(&scope, &by, asked.clone());
    assert!(matches!(refused, Err(ringfence_threat::ThreatError::BadResponse { .. })), "nobody allowed it");
    let mut settings = ringfence_threat::Settings::unset();
    settings.block_source = ringfence_threat::settings::SourceBlocks::Allowed;
    running.threat.put_settings(&scope, settings).await.unwrap();
    running.threat.preview(&scope, &by, asked.clone()).unwrap();
    for who in ["acme/ada", "acme/bob", "acme/cy"] {
        let mut event = Event::new(codes::SIGNED_IN, "authenticate", who.parse().unwrap(), "host");
        event.source_ip = Some("203.0.113.9".parse().unwrap());
        running.audit.record(&Log::Tenant(world.acme.clone()), event).await.unwrap();
    }
    eventually("three entries", async || running.threat.health().evaluated_count >= 3).await;
    let refused = running.threat.preview(&scope, &by, asked);
    assert!(matches!(refused, Err(ringfence_threat::ThreatError::TooWide { .. })), "{refused:?}");
    running.stop().await;
}

fn suspend(whom: &str) -> Asked {
    Asked {
        kind: Kind::SuspendPrincipal,
        target: Target { principal: Some(whom.parse().unwrap()), ..Target::default() },
        minutes: 5,
        per_minute: None,
        reason: "a test".into(),
        finding: None,
        drill: None,
    }
}

#[tokio::test]
async fn whoever_makes_and_undoes_responses_without_end_fills_nothing_and_drives_out_nobody_elses() {
    const ROUNDS: usize = ringfence_threat::response::OVER_COUNT_MAX + 20;
    let world = World::new().await;
    let audit = world.audit().await;
    let (threat, _reader) = world.open(audit.clone()).await;
    let (scope, by) = (world.scope(), "acme/admin".parse().unwrap());
    let (hosts, _) = threat.respond(&Scope::Host, &by, suspend("acme/eve")).await.unwrap();
    threat.undo(&Scope::Host, &by, &hosts.id).await.unwrap();
    let (held, _) = threat.respond(&scope, &by, suspend("acme/mallory")).await.unwrap();
    let mut last = String::new();
    for _ in 0..ROUNDS {
        let (made, _) = threat.respond(&scope, &by, suspend("acme/dev")).await.unwrap();
        threat.undo(&scope, &by, &made.id).await.unwrap();
        world.clock.0.fetch_add(1, Ordering::Relaxed);
        last = made.id;
    }
    let kept =
        |threat: &Threat| -> Vec<String> { threat.responses(&scope).into_iter().map(|response| response.id).collect() };
    let own = kept(&threat);
    assert_eq!(own.len(), ringfence_threat::response::OVER_COUNT_MAX + 1);
    assert!(own.contains(&held.id) && own.contains(&last), "what holds stays, and the newest of the rest");
    assert_eq!(threat.responses(&Scope::Host).len(), 1, "another owner's history is its own");
    let (again, _reader) = world.open(audit).await;
    assert_eq!(kept(&again).len(), own.len(), "the store has let go of them too");
}

#[tokio::test]
async fn whatever_holds_is_in_force_after_a_start_however_much_is_kept_beside_it() {
    let world = World::new().await;
    let by: ringfence_core::PrincipalId = "operator/ada".parse().unwrap();
    let response = |id: &str| {
        Response::new(id.to_owned(), Scope::Host, suspend("acme/dev"), by.clone(), world.clock.now()).unwrap()
    };
    let platform = world.tenants.platform();
    let put = |response: Response| async move {
        platform.put_json(&Key::new(["threat-response", response.id.as_str()]), &response).await.unwrap();
    };
    // More than a few pages, and what holds is read last.
    for page in 0..21 {
        let over = |at: u32| Response {
            ended: true,
            undone: Some((world.clock.now(), by.clone())),
            ..response(&format!("rs_a{page}_{at}"))
        };
        futures::future::join_all((0..200).map(|at| put(over(at)))).await;
    }
    put(response("rs_zzzz")).await;
    let (threat, _reader) = world.open(world.audit().await).await;
    let table_has = threat.responses(&Scope::Host).iter().any(|one| one.id == "rs_zzzz");
    assert!(table_has && threat.responses(&Scope::Host).len() == 4_201);
    let who = "acme/dev".parse().unwrap();
    let attempt = ringfence_core::standing::Attempt::InSession(&who, world.clock.now());
    assert!(
        threat.standing().refuses(attempt, world.clock.now(), world.clock.monotonic()),
        "it holds nothing any more"
    );
}

fn saying(transition: Transition) -> Saying {
    Saying {
        transition,
        reason: "because".into(),
        evidence: Vec::new(),
        title: Some("a key was lost".into()),
        level: None,
        personal_data: None,
        jurisdictions: None,
        aware_at: None,
        began_at: None,
        facts: std::collections::BTreeMap::new(),
    }
}

#[tokio::test]
async fn an_incident_names_its_actions_before_they_are_made_and_what_cannot_be_kept_makes_none() {
    let faults = Faults::default();
    let world = World::with_faults(faults.clone()).await;
    let (threat, _reader) = world.open(world.audit().await).await;
    let (scope, by) = (world.scope(), "acme/admin".parse().unwrap());
    let step = async |id: Option<&str>, saying: Saying, actions: Vec<Asked>| {
        let turn = threat.turn(&scope).await.unwrap();
        threat.step(turn, &by, id, &saying, actions, &|one, other| one != other).await
    };
    faults.plan([Some(Fault::Lost); 4]);
    let lost = step(None, saying(Transition::Report), vec![suspend("acme/dev")]).await;
    assert!(lost.is_err() && threat.responses(&scope).is_empty(), "an incident that is not kept has done nothing");
    faults.plan([]);

    let disable = Asked { kind: Kind::DisableKey, target: Target::default(), ..suspend("acme/dev") };
    let many = vec![suspend("acme/dev"); ringfence_threat::incident::ACTIONS_COUNT_MAX + 1];
    assert!(step(None, saying(Transition::Report), many).await.is_err(), "a step takes so many actions at most");
    let mut stepped = step(None, saying(Transition::Report), vec![suspend("acme/dev"), disable]).await.unwrap();
    let ids: Vec<String> = stepped.to_make.iter().map(|(id, _)| id.clone()).collect();
    let id = stepped.incident.id.clone();
    assert_eq!(threat.incident(&scope, &id).await.unwrap().responses, ids, "named before they are made");
    assert!(threat.responses(&scope).is_empty());
    // One is made, the other is not: only what there is stays named.
    let (made, asked) = stepped.to_make.pop().unwrap();
    threat.respond_as(made.clone(), &scope, &by, asked).await.unwrap();
    let unmade: Vec<String> = stepped.to_make.drain(..).map(|(id, _)| id).collect();
    threat.unmade(&scope, &mut stepped, &unmade).await;
    assert_eq!(threat.incident(&scope, &id).await.unwrap().responses, [made]);
    assert_eq!(threat.waiting_for(&scope, &stepped.incident).len(), 1, "the keys wait for the second person");
    drop(stepped);
    for transition in [Transition::Triage, Transition::Dismiss] {
        drop(step(Some(&id), saying(transition), Vec::new()).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notice_that_comes_due_is_told_of_a_day_before_and_at_its_end_once_each_and_over_a_stop() {
    let world = World::new().await;
    let (scope, audit) = (world.scope(), world.audit().await);
    let running = world.start(audit.clone()).await;
    let by = "acme/admin".parse().unwrap();
    let step = async |threat: &Threat, id: Option<&str>, saying: Saying| {
        let turn = threat.turn(&scope).await.unwrap();
        let stepped = threat.step(turn, &by, id, &saying, Vec::new(), &|one, other| one != other).await.unwrap();
        stepped.incident.id.clone()
    };
    let id = step(&running.threat, None, saying(Transition::Report)).await;
    step(&running.threat, Some(&id), saying(Transition::Triage)).await;
    let declare = Saying { jurisdictions: Some(vec!["uk".into()]), ..saying(Transition::Declare) };
    step(&running.threat, Some(&id), declare).await;
    let told = async || {
        let entries = audit.list(&Log::Tenant(world.acme.clone()), 0, 100).await.unwrap();
        let bodies = entries.into_iter().filter_map(|entry| entry.body);
        let clocks = bodies.filter(|body| body["unmapped"]["code"] == codes::BREACH_CLOCK);
        clocks.map(|body| body["unmapped"]["details"]["told"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let hours = |count: i64| world.clock.0.fetch_add(count * 3_600_000, Ordering::Relaxed);
    hours(47);
    world.record(&audit, codes::SECRET_WRITTEN, json!({})).await;
    eventually("an entry", async || running.threat.health().evaluated_count >= 1).await;
    assert!(told().await.is_empty());
    hours(2);
    eventually("the first word", async || found(&running, &scope, "breach-clock").await == 1).await;
    assert_eq!(told().await, ["near"]);
    running.stop().await;
    let running = world.start(audit.clone()).await;
    hours(24);
    eventually("the second", async || found(&running, &scope, "breach-clock").await == 2).await;
    assert_eq!(told().await, ["near", "over"]);
    let titles: Vec<String> = running.threat.findings(&scope).await.unwrap().into_iter().map(|one| one.title).collect();
    assert!(titles.iter().any(|title| title.contains("overdue: Information Commissioner")), "{titles:?}");
    let clocks = running.threat.incident(&scope, &id).await.unwrap().clocks;
    assert_eq!(clocks[1].told, Some(ringfence_threat::incident::Told::Over));
    running.stop().await;
}

#[tokio::test]
async fn a_step_that_does_not_end_keeps_no_other_owner_waiting_and_its_own_not_for_ever() {
    let world = World::new().await;
    let (threat, _reader) = world.open(world.audit().await).await;
    let held = threat.turn(&world.scope()).await.unwrap();
    threat.turn(&Scope::Host).await.unwrap();
    threat.turn(&Scope::Tenant("globex".parse().unwrap())).await.unwrap();
    assert!(matches!(threat.turn(&world.scope()).await, Err(ringfence_threat::ThreatError::Busy)));
    drop(held);
    threat.turn(&world.scope()).await.unwrap();
}
