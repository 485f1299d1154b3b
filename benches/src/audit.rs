//! `audit`: durable entries of many writers against the store's own commits, what the request path pays, proofs of a long
//! log, verifying it, and what one tenant's flood does to another's commits.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use cap_std::ambient_authority;
use cap_std::fs::Dir;
use futures::future::try_join_all;
use ringfence_audit::entries::Entries;
use ringfence_audit::verify::{Fault, Verified, verify};
use ringfence_audit::{Audit, Event, InvocationSummary, Log, Shown, codes};
use ringfence_core::{Entropy, InvocationId, PrincipalId, Usage};
use ringfence_keys::{RootKey, RootKeyUri};
use ringfence_store::{Backend, DiskOptions, Key, Store, TenantStore, Tenants};
use serde_json::{Value, json};

use crate::ambient::{StoppedClock, SystemEntropy};
use crate::report::Report;
use crate::stats::{Arrivals, median, quantile};

/// Bytes of a value that is about as long as a stored entry.
const VALUE_BYTES: usize = 1_500;
const CACHE_BYTES: u64 = 64 << 20;
/// How long entries come at half the rate, a round.
const HALF_RATE_TIME: Duration = Duration::from_secs(5);
/// Invocations counted to find what one costs.
const COUNTED: u32 = 200_000;
/// Proofs made.
const PROOFS_COUNT: u64 = 200;
/// Commits of the victim, alone and beside the flood.
const VICTIM_COUNT: usize = 1_000;
/// Writers of the flood.
const FLOOD_COUNT: u64 = 512;
/// Longest wait for the flood to be one.
const FLOOD_WITHIN: Duration = Duration::from_secs(60);

/// How much to measure.
#[derive(clap::Args)]
pub struct Plan {
    /// Rounds; the median of them is the figure
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// The store's backend
    #[arg(long, default_value = "sled")]
    pub backend: String,
    /// Tenants that write at once
    #[arg(long, default_value_t = 4)]
    pub tenants: usize,
    /// Writers of each tenant
    #[arg(long, default_value_t = 128)]
    pub writers: usize,
    /// Entries of each writer in a round
    #[arg(long, default_value_t = 80)]
    pub entries: usize,
    /// Entries of the log that proofs are made of
    #[arg(long, default_value_t = 1_000_000)]
    pub long: u64,
    /// Entries verified
    #[arg(long, default_value_t = 100_000)]
    pub verified: u64,
    /// A directory that has every entry too, best on another disk
    #[arg(long)]
    pub second_place: Option<PathBuf>,
}

/// Runs the benchmark and gives its figures. The log's writers need threads of their own, as in the host.
pub async fn run(plan: Plan) -> Result<Value> {
    tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(measure(&plan))
    })
    .await?
}

async fn measure(plan: &Plan) -> Result<Value> {
    let backend = Backend::from_name(&plan.backend).with_context(|| format!("`{}` is no backend", plan.backend))?;
    let mut report = Report::start("audit")?;
    report.fact("rounds", plan.rounds)?;
    report.put("backend", backend.name())?;
    let place = tempfile::tempdir()?;
    let (store, tenants) = open(place.path(), backend).await?;
    let mut stores = Vec::new();
    for number in 0..plan.tenants {
        stores.push(tenant(&tenants, &format!("bench-{number}")).await?);
    }
    let second = plan.second_place.clone();
    let second =
        second.map(|path| Entries::new(move || Dir::open_ambient_dir(&path, ambient_authority()))).transpose()?;
    report.put("second_place", second.is_some())?;
    let (clock, entropy) = (Arc::new(StoppedClock), Arc::new(SystemEntropy));
    let audit = Audit::open_with(tenants.clone(), clock, entropy, "bench".to_owned(), second).await?;
    let logs: Vec<Log> = stores.iter().cloned().map(Log::Tenant).collect();
    let rate = commits(&mut report, plan, &audit, &logs, &stores).await?;
    half_rate(&mut report, plan, &audit, &logs, rate).await?;
    counted(&mut report, &audit, &logs)?;
    flood(&mut report, plan, &audit, &logs).await?;
    let long = Log::Tenant(tenant(&tenants, "long").await?);
    proofs(&mut report, plan, &audit, &long).await?;
    verified(&mut report, plan, &audit, &long).await?;
    audit.flush().await?;
    drop((audit, logs, stores, tenants, long));
    store.close().await?;
    report.finish()
}

async fn open(dir: &Path, backend: Backend) -> Result<(Store, Tenants)> {
    let root = RootKey::open_or_create(&RootKeyUri::File(dir.join("root.key")), &SystemEntropy)?;
    let options = DiskOptions { backend, cache_bytes: CACHE_BYTES, ..DiskOptions::RECOMMENDED };
    let store = Store::open(&dir.join("data"), options)?;
    let tenants = Tenants::open(store.clone(), Arc::new(root), Arc::new(SystemEntropy), Arc::new(StoppedClock)).await?;
    Ok((store, tenants))
}

async fn tenant(tenants: &Tenants, name: &str) -> Result<TenantStore> {
    let id = name.parse()?;
    tenants.create(&id, name).await?;
    tenants.open_tenant(&id).with_context(|| format!("tenant `{name}`"))
}

fn event() -> Result<Event> {
    let actor: PrincipalId = "bench/ada".parse()?;
    let mut event = Event::new(codes::VERSION_PUSHED, "push-version", actor, "tenant/bench/plugin/visits");
    event.details = json!({ "version": "0.1.0", "digest": "0".repeat(64), "bytes": 123_456 });
    Ok(event)
}

/// Durable entries a second, which is the answer; the same number of commits of the store alone in turn; and how long one
/// entry takes. Every writer writes its next entry as soon as it has the receipt of the one before, so that waits at this rate
/// are as long as there are writers: see [`half_rate`].
async fn commits(report: &mut Report, plan: &Plan, audit: &Audit, logs: &[Log], stores: &[TenantStore]) -> Result<f64> {
    let (mut rates, mut ratios, mut waits) = (Vec::new(), Vec::new(), Vec::new());
    let count = logs.len() * plan.writers * plan.entries;
    // The first round warms up.
    for round in 0..=plan.rounds {
        let started = Instant::now();
        let writing = logs.iter().flat_map(|log| (0..plan.writers).map(move |_| log)).map(|log| {
            let (audit, log, entries) = (audit.clone(), log.clone(), plan.entries);
            tokio::spawn(async move {
                let mut waits = Vec::with_capacity(entries);
                for _ in 0..entries {
                    let began = Instant::now();
                    audit.record(&log, event()?).await?;
                    waits.push(u64::try_from(began.elapsed().as_micros())?);
                }
                anyhow::Ok(waits)
            })
        });
        let mut waited = Vec::new();
        for written in try_join_all(writing.collect::<Vec<_>>()).await? {
            waited.extend(written?);
        }
        let ours = count as f64 / started.elapsed().as_secs_f64();
        let alone = store_commits(plan, stores, round).await?;
        if round == 0 {
            continue;
        }
        waits.append(&mut waited);
        rates.push(ours);
        ratios.push(ours / alone);
    }
    report.median("durable_events_per_s", &rates)?;
    report.median_with_interval("ratio_vs_store_commit", &ratios)?;
    for (key, share) in [("commit_p50_ms", 0.5), ("commit_p99_ms", 0.99)] {
        report.put(key, quantile(&waits, share).map(|us| us as f64 / 1_000.0))?;
    }
    median(&rates).context("no rounds")
}

/// How long an entry takes when they come at half of `rate`, to all logs in turn, whether or not earlier ones are durable yet:
/// counted from when each was due.
async fn half_rate(report: &mut Report, plan: &Plan, audit: &Audit, logs: &[Log], rate: f64) -> Result<()> {
    let mut waits = Vec::new();
    for round in 0..plan.rounds {
        let arrivals = Arrivals::new(rate / 2.0, HALF_RATE_TIME, round as u64 + 1);
        let started = tokio::time::Instant::now();
        let mut writing = Vec::new();
        for (due, log) in arrivals.zip(logs.iter().cycle()) {
            let due = started + due;
            tokio::time::sleep_until(due).await;
            let (audit, log) = (audit.clone(), log.clone());
            writing.push(tokio::spawn(async move {
                audit.record(&log, event()?).await?;
                anyhow::Ok(u64::try_from(due.elapsed().as_micros())?)
            }));
        }
        for written in try_join_all(writing).await? {
            waits.push(written?);
        }
    }
    report.put("half_rate_events_per_s", (rate / 2.0).round())?;
    for (key, share) in [("commit_p50_ms_half_rate", 0.5), ("commit_p99_ms_half_rate", 0.99)] {
        report.put(key, quantile(&waits, share).map(|us| us as f64 / 1_000.0))?;
    }
    Ok(())
}

/// Commits a second of the store alone: one value of an entry's length each, by as many writers.
async fn store_commits(plan: &Plan, stores: &[TenantStore], round: usize) -> Result<f64> {
    let mut value = vec![0; VALUE_BYTES];
    SystemEntropy.fill(&mut value);
    let started = Instant::now();
    let writers = stores.iter().flat_map(|store| (0..plan.writers).map(move |writer| (store, writer)));
    let writing = writers.map(|(store, writer)| {
        let (store, value, entries) = (store.clone(), value.clone(), plan.entries);
        tokio::spawn(async move {
            for entry in 0..entries {
                let number = ((round * plan_max(entries) + entry) * 1_000 + writer) as u64;
                store.put(&Key::new(["bench"]).number(number), value.clone()).await?;
            }
            anyhow::Ok(())
        })
    });
    for written in try_join_all(writing.collect::<Vec<_>>()).await? {
        written?;
    }
    Ok((stores.len() * plan.writers * plan.entries) as f64 / started.elapsed().as_secs_f64())
}

/// So that no round writes another's keys.
fn plan_max(entries: usize) -> usize {
    entries.next_power_of_two()
}

/// What the request path pays for an invocation that is counted.
fn counted(report: &mut Report, audit: &Audit, logs: &[Log]) -> Result<()> {
    let log = logs.first().ok_or_else(|| anyhow!("no log"))?;
    let summary = InvocationSummary {
        plugin: "visits".parse()?,
        version: "0.1.0".to_owned(),
        invocation: InvocationId::random(&SystemEntropy),
        status: 200,
        code: None,
        called_by: None,
        usage: Usage::default(),
    };
    let started = Instant::now();
    for _ in 0..COUNTED {
        audit.invocation(log, summary.clone());
    }
    report.put("added_us", started.elapsed().as_secs_f64() * 1e6 / f64::from(COUNTED))
}

/// What a victim's commits take alone, beside another tenant's flood, and alone again.
async fn flood(report: &mut Report, plan: &Plan, audit: &Audit, logs: &[Log]) -> Result<()> {
    let [victim, hostile, ..] = logs else { return report.missing("flood_delay_ratio", "it takes two tenants") };
    let (mut ratios, mut p99_ratios, mut controls) = (Vec::new(), Vec::new(), Vec::new());
    let (mut alone_all, mut beside_all) = (Vec::new(), Vec::new());
    let mut before = victims(audit, victim).await?;
    for _ in 0..plan.rounds {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let written_count = audit.size(hostile).await?;
        let flooding: Vec<_> = (0..FLOOD_COUNT)
            .map(|_| {
                let (audit, log, stop) = (audit.clone(), hostile.clone(), Arc::clone(&stop));
                tokio::spawn(async move {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        // A refusal for want of room in the queue is the flood's own matter.
                        let _ = audit.record(&log, event()?).await;
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        until_size(audit, hostile, written_count + 2 * FLOOD_COUNT).await?;
        let beside = victims(audit, victim).await?;
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for ended in try_join_all(flooding).await? {
            ended?;
        }
        let after = victims(audit, victim).await?;
        ratios.push(beside.p50_ms / f64::midpoint(before.p50_ms, after.p50_ms));
        p99_ratios.push(beside.p99_ms / f64::midpoint(before.p99_ms, after.p99_ms));
        controls.push(after.p50_ms / before.p50_ms);
        alone_all.push(before.p50_ms);
        beside_all.push(beside.p50_ms);
        before = after;
    }
    report.median_with_interval("flood_delay_ratio", &ratios)?;
    report.median_with_interval("flood_delay_p99_ratio", &p99_ratios)?;
    report.median("flood_control_ratio", &controls)?;
    report.median("victim_alone_ms", &alone_all)?;
    report.median("victim_beside_flood_ms", &beside_all)
}

/// Waits until a log has so many entries.
async fn until_size(audit: &Audit, log: &Log, size: u64) -> Result<()> {
    let started = Instant::now();
    while audit.size(log).await? < size {
        ensure!(started.elapsed() < FLOOD_WITHIN, "the flood does not begin");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// How long a victim's commits took, milliseconds.
struct Waited {
    p50_ms: f64,
    p99_ms: f64,
}

/// A victim's commits, one after the other.
async fn victims(audit: &Audit, log: &Log) -> Result<Waited> {
    let mut waits_us = Vec::with_capacity(VICTIM_COUNT);
    for _ in 0..VICTIM_COUNT {
        let began = Instant::now();
        audit.record(log, event()?).await?;
        waits_us.push(u64::try_from(began.elapsed().as_micros())?);
    }
    let ms = |share: f64| quantile(&waits_us, share).map(|us| us as f64 / 1_000.0).context("no commits");
    Ok(Waited { p50_ms: ms(0.5)?, p99_ms: ms(0.99)? })
}

/// Inclusion proofs of a long log.
async fn proofs(report: &mut Report, plan: &Plan, audit: &Audit, log: &Log) -> Result<()> {
    let writers = 256;
    let each = plan.long / writers + 1;
    let writing: Vec<_> = (0..writers)
        .map(|_| {
            let (audit, log) = (audit.clone(), log.clone());
            tokio::spawn(async move {
                for _ in 0..each {
                    audit.record(&log, event()?).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for written in try_join_all(writing).await? {
        written?;
    }
    let size = audit.size(log).await?;
    report.put("proof_entries", size)?;
    let mut waits = Vec::new();
    for number in 0..PROOFS_COUNT {
        let seq = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % size;
        let began = Instant::now();
        let proof = audit.proof(log, seq).await?;
        waits.push(began.elapsed().as_secs_f64() * 1_000.0);
        ensure!(proof.is_some(), "entry {seq} has no proof");
    }
    report.median("proof_ms", &waits)
}

/// Entries verified a second, bodies included, by as many threads as there are cores. Neither figure has reading and opening
/// what the store holds in it. `verify_entries_per_s`: from entries as a log lists them, whose bodies are read already and must
/// be written again to be hashed. `verify_export_entries_per_s`: all that `ringfence audit verify --file` does once the file is
/// in memory, from its text to the verdict, so with reading the lines.
async fn verified(report: &mut Report, plan: &Plan, audit: &Audit, log: &Log) -> Result<()> {
    let size = plan.verified.min(audit.size(log).await?);
    let (mut entries, mut export) = (Vec::new(), String::new());
    while (entries.len() as u64) < size {
        let page = audit.list(log, entries.len() as u64, 1_000).await?;
        ensure!(!page.is_empty(), "the log ends early");
        entries.extend(page);
    }
    for entry in &entries {
        let line = json!({ "envelope": entry.envelope, "body": entry.body, "salt": entry.salt });
        export.push_str(&line.to_string());
        export.push('\n');
    }
    let count = entries.len() as f64;
    let (head, vkey) = (audit.checkpoint(log).await?, audit.vkey(log));
    let (mut listed, mut exported) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let entries = entries.clone();
        let started = Instant::now();
        let result = verify(&head.origin, &vkey, entries, &head.text, None);
        listed.push(count / started.elapsed().as_secs_f64());
        expect(&result)?;
        let started = Instant::now();
        let result = verify(&head.origin, &vkey, export.lines().map(Shown::Line), &head.text, None);
        exported.push(count / started.elapsed().as_secs_f64());
        expect(&result)?;
    }
    report.median("verify_entries_per_s", &listed)?;
    report.median("verify_export_entries_per_s", &exported)
}

/// A check ends with "truncated" unless the whole log was taken; every entry before was checked all the same.
fn expect(result: &Result<Verified, Fault>) -> Result<()> {
    let expected = matches!(result, Ok(_) | Err(Fault::Truncated { .. }));
    ensure!(expected, "the log does not verify: {result:?}");
    Ok(())
}
