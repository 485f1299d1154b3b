//! Metering as rooms use it: sums that survive restarts and failing disks, storage over time, and receipts that verify,
//! chain, and are made once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test is a panic with a place"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use ringfence_audit::receipt::{ReceiptFault, UsageReceipt, verify, verify_chain};
use ringfence_audit::{Audit, Day, INVOCATIONS_KEPT_MAX, InvocationRecord, Log, Metering, TENANTS_TOLD_MAX, UsageSum};
use ringfence_core::{Blame, Clock, Entropy, InvocationId, PluginName, Usage};
use ringfence_keys::{RootKey, RootKeyUri};
use ringfence_store::{Fault, Faults, Key, Store, TenantStore, Tenants};
use sha2::{Digest, Sha256};

const DAY_MS: i64 = 86_400_000;

/// Both clocks, moved by hand; the wall clock may step.
struct TestClock {
    wall_ms: AtomicI64,
    steady_ms: AtomicU64,
}

impl TestClock {
    fn set(&self, at: &str) {
        self.wall_ms.store(at.parse::<Timestamp>().unwrap().as_millisecond(), Ordering::SeqCst);
    }
    fn advance(&self, ms: i64) {
        self.wall_ms.fetch_add(ms, Ordering::SeqCst);
        self.steady_ms.fetch_add(ms.unsigned_abs(), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.wall_ms.load(Ordering::SeqCst)).unwrap()
    }
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.steady_ms.load(Ordering::SeqCst))
    }
}

struct TestEntropy(AtomicU64);
impl Entropy for TestEntropy {
    fn fill(&self, into: &mut [u8]) {
        for chunk in into.chunks_mut(32) {
            let block = Sha256::digest(self.0.fetch_add(1, Ordering::Relaxed).to_be_bytes());
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
    }
}

struct World {
    tenants: Tenants,
    audit: Audit,
    faults: Faults,
    clock: Arc<TestClock>,
    entropy: Arc<TestEntropy>,
    acme: TenantStore,
    metering: Metering,
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(TestClock { wall_ms: AtomicI64::new(0), steady_ms: AtomicU64::new(1_000) });
        clock.set("2026-11-20T10:00:00Z");
        let entropy = Arc::new(TestEntropy(AtomicU64::new(1)));
        let root = RootKey::open_or_create(&RootKeyUri::File(directory.path().join("root.key")), &*entropy).unwrap();
        let faults = Faults::default();
        let store = Store::memory_with_faults(faults.clone());
        let tenants = Tenants::open(store, Arc::new(root), entropy.clone(), clock.clone()).await.unwrap();
        let audit =
            Audit::open(tenants.clone(), clock.clone(), entropy.clone(), "host.example".to_owned()).await.unwrap();
        let acme = "acme".parse().unwrap();
        tenants.create(&acme, "Acme").await.unwrap();
        let acme = tenants.open_tenant(&acme).unwrap();
        let metering = Metering::open(tenants.clone(), audit.clone(), clock.clone()).await.unwrap();
        Self { tenants, audit, faults, clock, entropy, acme, metering }
    }

    /// What a new process finds.
    async fn restart(&mut self) {
        self.metering = Metering::open(self.tenants.clone(), self.audit.clone(), self.clock.clone()).await.unwrap();
    }

    fn call(&self, plugin: &str, usage: Usage) {
        self.call_of(&self.acme, plugin, usage);
    }

    fn call_of(&self, tenant: &TenantStore, plugin: &str, usage: Usage) {
        let record = InvocationRecord {
            id: InvocationId::random(&*self.entropy),
            plugin: plugin.parse().unwrap(),
            version: "0.1.0".to_owned(),
            at: self.clock.now(),
            principal: "acme/ada".to_owned(),
            cause: None,
            caused_by: None,
            on_behalf_of: None,
            status: 200,
            code: None,
            blame: None,
            detail: None,
            usage,
        };
        self.metering.record(tenant, record);
    }

    async fn total(&self) -> UsageSum {
        let to = self.clock.now();
        let sums = self.metering.usage(&self.acme, Timestamp::UNIX_EPOCH, to.max(far())).await.unwrap();
        UsageSum::total(sums.values())
    }

    async fn note(&self, day: &str) -> Option<String> {
        self.metering.receipt(&self.acme, day.parse().unwrap()).await.unwrap()
    }

    async fn days(&self) -> Vec<String> {
        let (receipts, next) = self.metering.receipts(&self.acme, None, 100).await.unwrap();
        assert!(next.is_none());
        receipts.into_iter().map(|one| one.day.to_string()).collect()
    }

    fn vkey(&self) -> String {
        self.audit.vkey(&Log::Tenant(self.acme.clone()))
    }
}

fn far() -> Timestamp {
    "2030-01-01T00:00:00Z".parse().unwrap()
}

fn cpu(cpu_us: u64) -> Usage {
    Usage { cpu_us, ..Usage::default() }
}

#[tokio::test]
async fn sums_survive_a_restart_and_grow_on() {
    let mut world = World::new().await;
    world.call("visits", cpu(10));
    world.metering.flush().await;
    world.restart().await;
    world.call("visits", cpu(5));
    world.call("other", Usage { memory_byte_us: 1 << 80, memory_bytes_peak: 7, ..cpu(1) });
    let total = world.total().await;
    assert_eq!((total.invocations_count, total.cpu_us, total.memory_byte_us), (3, 16, 1 << 80));
}

#[tokio::test]
async fn failures_are_counted_by_whose_fault_they_were() {
    let world = World::new().await;
    for (blame, count) in [(Blame::Caller, 1), (Blame::Plugin, 2), (Blame::Host, 3)] {
        for _ in 0..count {
            let record = InvocationRecord {
                id: InvocationId::random(&*world.entropy),
                plugin: "visits".parse().unwrap(),
                version: "0.1.0".to_owned(),
                at: world.clock.now(),
                principal: "acme/ada".to_owned(),
                cause: None,
                caused_by: None,
                on_behalf_of: None,
                status: 500,
                code: Some("trap".to_owned()),
                blame: Some(blame),
                detail: None,
                usage: Usage::default(),
            };
            world.metering.record(&world.acme, record);
        }
    }
    let total = world.total().await;
    let by = (total.failures_by_caller_count, total.failures_by_plugin_count, total.failures_by_host_count);
    assert_eq!((total.failures_count, by), (6, (1, 2, 3)));
}

#[tokio::test]
async fn many_more_records_than_a_batch_takes_are_all_written() {
    let world = World::new().await;
    for n in 0..1_000 {
        world.call(&format!("plugin-{}", n % 250), cpu(1));
    }
    let total = world.total().await;
    assert_eq!((total.invocations_count, total.cpu_us), (1_000, 1_000));
    let plugin: PluginName = "plugin-7".parse().unwrap();
    let (records, next) = world.metering.invocations(&world.acme, &plugin, None, 100).await.unwrap();
    assert_eq!((records.len(), next), (4, None));
}

#[tokio::test]
async fn the_newest_records_are_kept_found_and_paged_and_older_ones_go() {
    let world = World::new().await;
    for n in 0..3_000_u64 {
        world.call("visits", cpu(n));
        if n % 7 == 0 {
            world.metering.flush().await;
        }
    }
    let visits: PluginName = "visits".parse().unwrap();
    let (mut records, mut cursor) = (Vec::new(), None);
    loop {
        let (page, next) = world.metering.invocations(&world.acme, &visits, cursor, 11).await.unwrap();
        records.extend(page);
        match next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    let kept = records.len() as u64;
    assert!((INVOCATIONS_KEPT_MAX..INVOCATIONS_KEPT_MAX + 64).contains(&kept), "{kept}");
    let cpu: Vec<u64> = records.iter().map(|record| record.usage.cpu_us).collect();
    assert_eq!(cpu, (3_000 - kept..3_000).rev().collect::<Vec<_>>());
    for record in [&records[0], &records[1_000], &records[records.len() - 1]] {
        let found = world.metering.invocation(&world.acme, &visits, &record.id).await.unwrap();
        assert_eq!(found.as_ref(), Some(record));
    }
    let other = world.metering.invocation(&world.acme, &"other".parse().unwrap(), &records[0].id).await.unwrap();
    assert_eq!(other, None);
}

fn fate() -> impl Strategy<Value = Option<Fault>> {
    prop_oneof![2 => Just(None), 1 => Just(Some(Fault::Lost)), 1 => Just(Some(Fault::InDoubt))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Whatever the disk does in the middle of a flush that takes several batches, and whatever is metered meanwhile.
    #[test]
    fn a_failing_store_loses_nothing_and_doubles_nothing(
        // Fewer calls in all than wait for a store that fails; beyond that records are dropped.
        rounds in prop::collection::vec((prop::collection::vec(fate(), 0..6), 1_usize..330), 1..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new().await;
            let mut count = 0_u64;
            for (fates, calls) in rounds {
                for n in 0..calls {
                    world.call(["visits", "other", "third"][n % 3], cpu(3));
                    count += 1;
                }
                world.faults.plan(fates);
                world.metering.flush().await;
                world.call("visits", cpu(3));
                count += 1;
            }
            world.faults.plan([]);
            let total = world.total().await;
            assert_eq!((total.invocations_count, total.cpu_us), (count, 3 * count));
            let mut records = 0;
            for plugin in ["visits", "other", "third"] {
                let (page, next) =
                    world.metering.invocations(&world.acme, &plugin.parse().unwrap(), None, 2_000).await.unwrap();
                assert_eq!(next, None);
                let mut ids: Vec<_> = page.iter().map(|record| record.id.to_string()).collect();
                ids.sort();
                ids.dedup();
                assert_eq!(ids.len(), page.len());
                records += page.len() as u64;
            }
            assert_eq!(records, count);
        });
    }
}

#[tokio::test]
async fn what_lies_in_storage_is_metered_by_plugin_and_time() {
    let world = World::new().await;
    let key = |name: &str| Key::new(["kv", "visits", "default", name]);
    world.acme.put(&key("a"), vec![0; 1_000]).await.unwrap();
    world.metering.sample().await;
    let weight = u128::from(world.acme.measure(&Key::new(["kv"])).await.unwrap()["visits"]);
    world.clock.advance(10_000);
    world.metering.sample().await;
    assert_eq!(world.total().await.storage_byte_us, weight * 10_000_000);
    // What is written later counts from the look after an invocation that wrote it.
    world.acme.put(&key("b"), vec![0; 1_000]).await.unwrap();
    world.call("visits", Usage { storage_ops_count: 1, ..Usage::default() });
    world.metering.sample().await;
    world.clock.advance(10_000);
    world.metering.sample().await;
    assert_eq!(world.total().await.storage_byte_us, weight * 10_000_000 + 2 * weight * 10_000_000);
}

#[tokio::test]
async fn storage_over_midnight_belongs_to_both_days() {
    let world = World::new().await;
    world.acme.put(&Key::new(["kv", "visits", "default", "a"]), vec![0; 1_000]).await.unwrap();
    world.clock.set("2026-11-20T23:59:58Z");
    world.metering.sample().await;
    world.clock.advance(5_000);
    world.metering.close().await;
    let days = world.metering.usage_by_day(&world.acme, Timestamp::UNIX_EPOCH, far()).await.unwrap();
    let held: Vec<u128> = days.values().map(|sums| UsageSum::total(sums.values()).storage_byte_us).collect();
    assert_eq!((held.len(), held[0] * 3), (2, held[1] * 2));
}

#[tokio::test]
async fn a_finished_day_has_a_receipt_that_adds_up_to_its_usage() {
    let world = World::new().await;
    world.call("visits", Usage { memory_byte_us: 1 << 70, memory_bytes_peak: 9, request_bytes: 4, ..cpu(10) });
    world.call("other", Usage { memory_bytes_peak: 5, ..cpu(7) });
    assert_eq!(world.days().await, Vec::<String>::new());
    world.clock.advance(DAY_MS);
    world.call("visits", cpu(100));
    assert_eq!(world.days().await, ["2026-11-20"]);
    let verified = verify(&world.note("2026-11-20").await.unwrap(), &world.vkey()).unwrap();
    let at: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
    let usage = world.metering.usage(&world.acme, at, at).await.unwrap();
    let receipt: &UsageReceipt = &verified.receipt;
    assert_eq!(receipt.plugins.len(), usage.len());
    for (plugin, sum) in &usage {
        for (name, figure) in sum.figures() {
            assert_eq!(receipt.plugins[plugin.as_str()][name], figure.to_string(), "{plugin} {name}");
        }
    }
    for (name, figure) in UsageSum::total(usage.values()).figures() {
        assert_eq!(receipt.total[name], figure.to_string(), "{name}");
    }
    assert_eq!((receipt.tenant.as_str(), receipt.tenant_uid.as_str()), ("acme", world.acme.uid().as_str()));
    assert_eq!((receipt.partial, &receipt.previous), (false, &None));
    assert_eq!(receipt.until, "2026-11-21T00:00:00Z".parse().unwrap());
}

#[tokio::test]
async fn one_changed_digit_is_seen() {
    let world = World::new().await;
    world.call("visits", cpu(10));
    world.clock.advance(DAY_MS);
    let note = world.note("2026-11-20").await.unwrap();
    assert!(verify(&note, &world.vkey()).is_ok());
    for (index, _) in note.match_indices(|c: char| c.is_ascii_digit()) {
        let mut changed = note.clone().into_bytes();
        changed[index] = if changed[index] == b'9' { b'8' } else { changed[index] + 1 };
        let changed = String::from_utf8(changed).unwrap();
        assert!(verify(&changed, &world.vkey()).is_err(), "digit {index}");
    }
    // A head of the audit log bears the same key's signature, and is no receipt.
    let head = world.audit.checkpoint(&Log::Tenant(world.acme.clone())).await.unwrap();
    assert_eq!(verify(&head.text, &world.vkey()), Err(ReceiptFault::Malformed));
    let host_key = world.audit.vkey(&Log::Host);
    assert_eq!(verify(&note, &host_key), Err(ReceiptFault::BadSignature));
    // What stands in front of a receipt that was copied from a terminal is told from a changed receipt.
    for front in ["$ ringfence usage receipt 2026-11-20\n", "\n", " "] {
        assert_eq!(verify(&format!("{front}{note}"), &world.vkey()), Err(ReceiptFault::Untitled));
    }
    assert_eq!(verify("", &world.vkey()), Err(ReceiptFault::Untitled));
}

#[tokio::test]
async fn receipts_chain_and_a_removed_one_is_missed() {
    let world = World::new().await;
    let mut notes = Vec::new();
    for _ in 0..4 {
        world.call("visits", cpu(1));
        let day = Day::of(world.clock.now()).to_string();
        world.clock.advance(DAY_MS);
        notes.push(world.note(&day).await.unwrap());
    }
    let check = |notes: &[&String]| verify_chain(notes.iter().map(|note| note.as_str()), &world.vkey());
    let all: Vec<&String> = notes.iter().collect();
    assert_eq!(check(&all).unwrap().len(), 4);
    assert_eq!(check(&all[1..3]).unwrap().len(), 2);
    let day = |text: &str| text.parse().unwrap();
    assert_eq!(check(&[all[0], all[2], all[3]]), Err(ReceiptFault::Unchained { day: day("2026-11-22") }));
    assert_eq!(check(&[all[0], all[0]]), Err(ReceiptFault::Unchained { day: day("2026-11-20") }));
    assert_eq!(check(&[all[1], all[0]]), Err(ReceiptFault::Unchained { day: day("2026-11-20") }));
}

#[tokio::test]
async fn a_host_that_was_down_makes_the_missing_receipts_at_its_start() {
    let mut world = World::new().await;
    world.metering.close().await;
    world.call("visits", cpu(1));
    world.metering.flush().await;
    world.clock.advance(DAY_MS);
    world.call("visits", cpu(2));
    world.metering.flush().await;
    // The day before yesterday has none yet: nobody looked at the calendar. Then the host was down for three days.
    world.clock.advance(3 * DAY_MS);
    world.restart().await;
    world.metering.close().await;
    assert_eq!(world.days().await, ["2026-11-20", "2026-11-21"]);
    let notes = [world.note("2026-11-20").await.unwrap(), world.note("2026-11-21").await.unwrap()];
    assert!(verify_chain(notes.iter().map(String::as_str), &world.vkey()).is_ok());
    assert_eq!(world.note("2026-11-22").await, None);
}

#[tokio::test]
async fn a_clock_that_steps_back_neither_makes_a_second_receipt_nor_changes_a_closed_day() {
    let mut world = World::new().await;
    world.call("visits", cpu(1));
    world.clock.advance(DAY_MS);
    let note = world.note("2026-11-20").await.unwrap();
    world.clock.set("2026-11-20T11:00:00Z");
    world.call("visits", cpu(50));
    world.metering.close().await;
    assert_eq!(world.note("2026-11-20").await.as_ref(), Some(&note));
    world.metering.flush().await;
    world.restart().await;
    world.call("visits", cpu(50));
    world.metering.close().await;
    world.clock.set("2026-11-22T00:00:01Z");
    assert_eq!(world.days().await, ["2026-11-20", "2026-11-21"]);
    assert_eq!(world.note("2026-11-20").await, Some(note));
    let late = verify(&world.note("2026-11-21").await.unwrap(), &world.vkey()).unwrap();
    assert_eq!(late.receipt.total["cpu_us"], "100");
}

#[tokio::test]
async fn today_has_a_partial_receipt_that_is_not_kept() {
    let world = World::new().await;
    assert_eq!(world.note("2026-11-20").await, None);
    world.call("visits", cpu(1));
    let partial = verify(&world.note("2026-11-20").await.unwrap(), &world.vkey()).unwrap().receipt;
    assert_eq!((partial.partial, partial.until), (true, world.clock.now()));
    assert_eq!(world.days().await, Vec::<String>::new());
    world.call("visits", cpu(1));
    world.clock.advance(DAY_MS);
    let full = verify(&world.note("2026-11-20").await.unwrap(), &world.vkey()).unwrap().receipt;
    assert_eq!((full.partial, full.total["cpu_us"].as_str()), (false, "2"));
}

#[tokio::test]
async fn a_receipt_waits_until_the_days_use_is_written() {
    let world = World::new().await;
    world.metering.close().await;
    world.call("visits", cpu(1));
    world.clock.advance(DAY_MS);
    world.faults.plan([Some(Fault::InDoubt)]);
    world.metering.close().await;
    assert_eq!(world.acme.get(&Key::new(["receipt-head"])).await.unwrap(), None);
    assert_eq!(world.days().await, ["2026-11-20"]);
    let receipt = verify(&world.note("2026-11-20").await.unwrap(), &world.vkey()).unwrap().receipt;
    assert_eq!(receipt.total["cpu_us"], "1");
}

#[tokio::test]
async fn totals_since_the_start_name_tenants_that_exist() {
    let world = World::new().await;
    world.call("visits", cpu(3));
    let totals = world.metering.totals();
    assert_eq!(totals.tenants.iter().map(|(id, sum)| (id.as_str(), sum.cpu_us)).collect::<Vec<_>>(), [("acme", 3)]);
    world.tenants.delete(&"acme".parse().unwrap()).await.unwrap();
    world.metering.sample().await;
    assert!(world.metering.totals().tenants.is_empty());
}

#[tokio::test]
async fn tenants_beyond_those_told_apart_are_summed_together() {
    let world = World::new().await;
    world.call("visits", cpu(1));
    for n in 0..TENANTS_TOLD_MAX {
        let id = format!("tenant-{n}").parse().unwrap();
        world.tenants.create(&id, "").await.unwrap();
        world.call_of(&world.tenants.open_tenant(&id).unwrap(), "visits", cpu(1));
    }
    let totals = world.metering.totals();
    assert_eq!((totals.tenants.len(), totals.other.invocations_count), (TENANTS_TOLD_MAX, 1));
    assert!(totals.tenants.iter().any(|(id, _)| id.as_str() == "acme"));
}
